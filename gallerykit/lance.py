"""Embeddings in LanceDB, embedded: ``lance:FOLDER#TABLE``. Needs lancedb.

A table is read at one version: rows that are added meanwhile are not seen. The new one is made in the hidden folder and
moved into place, since a ``create_table`` that is killed or fails leaves a table with a part of the rows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from compatkit.extras import require

from .arrays import NewFile, opened
from .store import Carried, Names, Source, without_password
from .tables import Table, assembled, check_columns, pa

METRICS = {"l2": "l2", "cosine": "cosine", "ip": "dot"}


def _parts(url: str) -> tuple[Path, str]:
    folder, _, table = url.removeprefix("lance:").partition("#")
    if not folder or not table or "://" in folder:
        raise ValueError(
            f"{without_password(url)}: must be lance:FOLDER#TABLE, a folder on this machine and a table in it"
        )
    return Path(os.path.realpath(folder)), table


def open_table(url: str) -> Table:
    """The latest version of a table, at which it stays as long as it is open."""
    folder, name = _parts(url)
    if not (folder / f"{name}.lance").is_dir():
        raise FileNotFoundError(f"{url}: there is no table {name!r} in {folder}")
    opened = require("lancedb", "lance").connect(folder).open_table(name)
    (made,) = (one["timestamp"] for one in opened.list_versions() if one["version"] == opened.version)
    state = [str(folder), name, opened.version, made.isoformat()]
    rows = opened.count_rows()
    return Table(url, _schema(opened), rows, partial(_batches, opened), lambda: state, lambda: None)


def _schema(table: Any) -> Any:
    """That of its rows: what is stored as ``lance.json`` is read as ``arrow.json``."""
    read = table.search().limit(0).to_arrow().schema
    json = {b"ARROW:extension:name": b"lance.json"}.items()
    fields = [read.field(f.name) if json <= (f.metadata or {}).items() else f for f in table.schema]
    return pa.schema(fields, table.schema.metadata)


def _batches(table: Any, columns: list[str], start: int, size: int) -> Iterator[Any]:
    query = table.search().select(columns)
    if start:
        query = query.offset(start)
    return iter((query.limit(size) if size == 1 else query).to_batches(size))


class NewTable(NewFile):
    """A new table of any gallery. Attributes and methods as ``store.Sink``."""

    def __init__(self, url: str):
        database, self._table = _parts(url)
        super().__init__(database / f"{self._table}.lance")
        self.name, self.folder = url, database / f".{self._table}.upgrade"

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        if self.exists():
            raise ValueError(f"out: {self.name} exists already; name another table, since none is ever overwritten")
        memory = require("lancedb", "lance").connect("memory://")
        check_columns(gallery, "LanceDB", lambda schema: memory.create_table("empty", schema=schema))

    def write(self, vectors: Path, carried: Carried) -> None:
        whole = vectors.with_name("whole")
        if whole.exists():
            shutil.rmtree(whole)  # of a run that was killed while it put all together
        with opened(vectors) as new:
            schema, tables = assembled(carried, new, fixed=True)
            batches = (batch for table in tables for batch in table.to_batches())
            database = require("lancedb", "lance").connect(whole)
            database.create_table(self._table, pa.RecordBatchReader.from_batches(schema, batches))
        made = whole / self.path.name
        for file in made.rglob("*"):
            _sync(file)
        os.rename(made, self.path)
        _sync(self.path.parent)

    def switch(self, carried: Carried, metric: str) -> str:
        vector, index = carried.names.of("vector"), f"lancedb.index.IvfPq(distance_type={METRICS[metric]!r})"
        return (
            f"To switch over: db.open_table({self._table!r}).create_index({vector!r}, config={index}); then open "
            f"{self._table!r} where the old table is opened now. The old table is untouched."
        )


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
