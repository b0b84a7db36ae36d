"""Data as classic scripts, since a page opened from disk can load nothing else, and what records say beside them.

A file is one statement, whose right side is JSON:

    (globalThis.REGISTRY ??= {})["NAME"] = {"format": 1, ...};
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from statistics import fmean
from typing import Any

from compatkit.files import write_atomically

from ...experiments import configs
from ...experiments.evidence import index_of

FORMAT = 1


def path_of(folder: str | os.PathLike, name: str) -> Path:
    """The file of a name; without a plus sign, which some web servers take for a space."""
    return Path(folder) / f"{name.replace('+', '-')}.js"


def write(folder: str | os.PathLike, registry: str, name: str, content: dict[str, Any]) -> Path:
    """Write a file, whole or not at all; returns it."""
    text = json.dumps({"format": FORMAT} | content, separators=(",", ":"), allow_nan=False)
    path = path_of(folder, name)
    write_atomically(path, _statement(registry, name, text))
    return path


def in_base_85(content: bytes) -> str:
    """Bytes as text (RFC 1924), filled up to a multiple of four."""
    return base64.b85encode(content, pad=True).decode()


def recorded(experiment: str, method: str, preset: str, measure: str) -> float | None:
    """What the runs of a method on handwriting measured: mean over seeds and both networks; None without records."""
    runs = [run for run in configs(experiment, preset) if run.method == method and run.a == "digits"]
    metrics = [record["metrics"] for record in map(index_of(preset).record, runs) if record]
    values = [found[key] for found in metrics for role in "ab" if (key := f"{measure}/{role}") in found]
    return fmean(values) if values else None


def read(path: str | os.PathLike, registry: str, name: str) -> dict[str, Any]:
    """The content of a file that ``write`` wrote; ``name`` is the key in it that names it in the registry.

    Raises:
        ValueError: the file, which is named, is of another form, another format, or not whole.
    """
    text = Path(path).read_text(encoding="utf-8")
    _, _, content = text.removesuffix(";\n").partition("] = ")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise not_whole(path, error) from error
    if not isinstance(found, dict) or text != _statement(registry, found.get(name, ""), content):
        raise not_whole(path, f"it is not one statement that adds to {registry}")
    if found.pop("format", None) != FORMAT:
        raise not_whole(path, f"it is not of format {FORMAT}")
    return found


def not_whole(path: str | os.PathLike, reason: object) -> ValueError:
    """The error to raise where a file cannot be used."""
    return ValueError(f"{path}: not what python -m reproduction export writes ({reason}); it writes it anew")


def _statement(registry: str, name: str, content: str) -> str:
    return f"(globalThis.{registry} ??= {{}})[{json.dumps(name)}] = {content};\n"
