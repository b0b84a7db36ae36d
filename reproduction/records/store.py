"""The record store: a finished run is one JSON line in ``<root>/<preset>/<experiment>.jsonl``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from compatkit.files import locked

CHECKOUT = Path(__file__).resolve().parents[2]
RECORD_KEYS = ("experiment", "preset", "run_id", "kind", "seed", "config", "data", "metrics", "provenance")
"""``kind``: the class of the config. ``data``: the digest of each image set that the run loaded, by name."""


def results_root() -> Path:
    """The folder of the records: ``$COMPATKIT_RESULTS``, else ``results/`` of the checkout, else ``./results``."""
    if chosen := os.environ.get("COMPATKIT_RESULTS"):
        return Path(chosen)
    checkout = CHECKOUT / "results"
    return checkout if (checkout / "paper.csv").is_file() else Path("results")


def run_id(kind: str, config: Mapping, data: Mapping[str, str]) -> str:
    """Name of a run: 12 hex digits of the SHA-256 of what kind of run it is, its config (seed included) and the digests
    of its images."""
    content = json.dumps([kind, config, data], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def append(record: Mapping, root: str | os.PathLike | None = None) -> None:
    """Add a finished run to its file. Safe beside other processes and under SIGKILL.

    Args:
        record: has the keys of ``RECORD_KEYS``.
        root: None means ``results_root()``.

    Raises:
        ValueError: NaN or infinity, which are not JSON and would pass as a result.
        OSError: the line could not be written whole; the file is as it was.
    """
    try:
        line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
    except ValueError as error:
        raise ValueError(f"record: finite numbers only, got {record['metrics']}") from error
    path = Path(root or results_root()) / record["preset"] / f"{record['experiment']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file, locked(file.fileno()):
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):  # a process was killed while it wrote
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
        if file.write(line) != len(line):  # a full disk
            file.truncate(end)
            raise OSError(f"{path}: the record could not be written whole")
        os.fsync(file.fileno())


_known: dict[Path, tuple[tuple[int, ...], list[dict]]] = {}  # what a file was when it was read, and its records


def _records_of(path: Path) -> list[dict]:
    """All records of a file, in order, read again when it has changed, without an unfinished last line."""
    at = os.stat(path)
    version = at.st_ino, at.st_size, at.st_mtime_ns
    if path not in _known or _known[path][0] != version:
        *lines, _unfinished = path.read_bytes().split(b"\n")
        _known[path] = version, [_parsed(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]
    return _known[path][1]


def _parsed(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(record, dict) or not record.keys() >= set(RECORD_KEYS):
        raise ValueError(f"{where}: not a record, which has {', '.join(RECORD_KEYS)}")
    return record


def files(preset: str, root: str | os.PathLike | None = None) -> dict[Path, list[dict]]:
    """The records of each file of a preset; the same lists as long as the files are the same: leave them as they are.

    Raises:
        ValueError: a line is no record; the message has file and line.
    """
    folder = Path(root or results_root()).absolute() / preset
    return {path: _records_of(path) for path in sorted(folder.glob("[!.]*.jsonl"))}


def load_all(preset: str, root: str | os.PathLike | None = None) -> dict[str, dict]:
    """The newest record of every run of a preset by ``run_id``, whichever experiment it was made for.

    Raises:
        ValueError: as in ``files``.
    """
    every = [record for records in files(preset, root).values() for record in records]
    return {r["run_id"]: r for r in sorted(every, key=lambda r: r["provenance"]["started"])}
