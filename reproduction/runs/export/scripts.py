"""Data as classic scripts, since a page opened from disk can load nothing else.

A file is one statement, whose right side is JSON:

    (globalThis.REGISTRY ??= {})["NAME"] = {"format": 1, ...};
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from compatkit.files import write_atomically

FORMAT = 1


def write(path: Path, registry: str, name: str, content: dict[str, Any]) -> None:
    """Write a file, whole or not at all."""
    text = json.dumps({"format": FORMAT} | content, separators=(",", ":"), allow_nan=False)
    write_atomically(path, _statement(registry, name, text))


def read(path: str | os.PathLike, registry: str, name: str) -> dict[str, Any]:
    """The content of a file that ``write`` wrote.

    Args:
        path: of the file.
        registry: where it puts its content.
        name: of the key in its content that names it there.

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
