"""The record store: a finished run is one JSON line in ``<root>/<preset>/<experiment>.jsonl``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
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
    """Name of a run: 12 hex digits of the SHA-256 of what kind of run it is, its config and the digests of its images.

    Raises:
        ValueError: the config has no seed, or runs that differ in nothing else would share a name.
    """
    if "seed" not in config:
        raise ValueError(f"config: a run's config holds its 'seed', got the keys {sorted(config)}")
    content = json.dumps([kind, config, data], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _record_path(experiment: str, preset: str, root: str | os.PathLike | None) -> Path:
    for name, value in (("experiment", experiment), ("preset", preset)):
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value, re.ASCII):
            raise ValueError(f"{name}: letters, digits, '_', '-' and '.' make a file name, got {value!r}")
    return Path(root if root is not None else results_root()) / preset / f"{experiment}.jsonl"


def _not_finite(value: object, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} = {value}"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, f"{where}[{index}]")


def append(record: Mapping, root: str | os.PathLike | None = None) -> None:
    """Add a finished run as one JSON line to ``<root>/<preset>/<experiment>.jsonl``.

    Safe beside other processes and under SIGKILL.

    Args:
        record: has the keys of ``RECORD_KEYS``.
        root: None means ``results_root()``.

    Raises:
        ValueError: a missing key, or NaN or infinity, which are not JSON and would pass as a result.
    """
    if missing := [key for key in RECORD_KEYS if key not in record]:
        raise ValueError(f"record: lacks {', '.join(missing)}; it needs {', '.join(RECORD_KEYS)}")
    path = _record_path(record["experiment"], record["preset"], root)
    if bad := next(_not_finite(dict(record), "record"), None):
        raise ValueError(f"{bad}: a record holds finite numbers only")
    line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with locked(descriptor):
            end = _cut_unfinished_line(descriptor)
            os.lseek(descriptor, end, os.SEEK_SET)
            if os.write(descriptor, line) != len(line):  # a full disk: leave the file as it was
                os.ftruncate(descriptor, end)
                raise OSError(f"{path}: the record could not be written whole")
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_unfinished_line(descriptor: int) -> int:
    """Cut what a killed process left of its line; returns the size of the file afterwards, in bytes."""
    size = end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return end


_known: dict[Path, tuple[tuple[int, ...], list[dict]]] = {}  # what a file was when it was read, and its records


def _records_of(path: Path) -> list[dict]:
    """All records of a file, in order, read again when it has changed. An unfinished last line (a process killed while
    it wrote) is passed over.

    Raises:
        ValueError: any other line is no record; the message has file and line.
    """
    try:
        at = os.stat(path)
    except FileNotFoundError:
        _known.pop(path, None)
        return []
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
    if not isinstance(record, dict) or any(key not in record for key in RECORD_KEYS):
        missing = [key for key in RECORD_KEYS if not isinstance(record, dict) or key not in record]
        raise ValueError(f"{where}: not a record, lacks {', '.join(missing)}")
    return record


def files(preset: str, root: str | os.PathLike | None = None) -> list[list[dict]]:
    """The records of each file of a preset, by name; the same lists as long as the files are the same."""
    folder = _record_path("all", preset, root).parent
    return [_records_of(path.absolute()) for path in sorted(folder.glob("[!.]*.jsonl"))]


def load(experiment: str, preset: str, root: str | os.PathLike | None = None) -> list[dict]:
    """Records of an experiment: the newest of each ``run_id``, in the order in which the runs first appeared.

    They are kept in memory and handed out again, so leave them as they are. An unfinished last line (a process killed
    while it wrote) is passed over.

    Returns:
        ``[]`` without a file.

    Raises:
        ValueError: any other line is no record; the message has file and line.
    """
    records = _records_of(_record_path(experiment, preset, root).absolute())
    return list({record["run_id"]: record for record in records}.values())


def load_all(preset: str, root: str | os.PathLike | None = None) -> dict[str, dict]:
    """The newest record of every run of a preset by ``run_id``, whichever experiment it was made for.

    Raises:
        ValueError: as in ``load``.
    """
    found: dict[str, dict] = {}
    for record in (record for records in files(preset, root) for record in records):
        other = found.get(record["run_id"])
        if other is None or other["provenance"]["started"] <= record["provenance"]["started"]:
            found[record["run_id"]] = record
    return found
