"""Embeddings in LanceDB, embedded: ``lance:FOLDER#TABLE``; ``lance:FOLDER#TABLE#COLUMN`` for a (new) column of it.

A table is read at one version: rows that are added meanwhile are not seen. Fragments are Lance's own. Those of a new
table are committed as one version and then moved to their place; those of a new column are committed as one version of
the old table, in which no other column is touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compatkit.extras import require

from .store import Address, Fragment, NewFile, Target, pa, sync

lance = require("lance", "lance")
METRICS = {"l2": "l2", "cosine": "cosine", "ip": "dot"}


def _path(address: Address) -> Path:
    return Path(address.place) / f"{address.table}.lance"


class Table:
    """A table at the version that it has now. As ``store.Source``."""

    def __init__(self, address: Address, columns: dict[str, str]):
        self.name, self.vector, self.path = address.whole, address.vector, _path(address)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.name}: there is no table {address.table!r} in {address.place}")
        self._data = lance.dataset(str(self.path))
        self.version, self.schema, self.rows = self._data.version, self._data.schema, self._data.count_rows()

    def fragments(self) -> Sequence[Fragment]:
        found, start = [], 0
        for one in self._data.get_fragments():
            rows = one.count_rows()
            found.append(Fragment(start, rows, [self.version, one.fragment_id, one.num_deletions]))
            start += rows
        return found

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        return fragment_of(self.path, fragment).to_batches(columns=list(columns), batch_size=size, batch_readahead=1)

    def state(self) -> Any:
        return [str(self.path), self.version]


def fragment_of(path: Path, fragment: Fragment) -> Any:
    """Lance's own, opened in this thread and at the version that was found."""
    version, number, _ = fragment.place
    return lance.dataset(str(path), version=version).get_fragment(number)


class NewTable(NewFile):
    """A new table of any gallery. As ``store.Target``."""

    threads = 1  # Lance has its own

    def __init__(self, address: Address):
        super().__init__(address, _path(address))

    def check(self) -> None:
        try:
            lance.write_dataset(self.schema.empty_table(), "memory://empty")
        except (RuntimeError, OSError, pa.ArrowInvalid) as error:
            source, said = self.gallery.source.name, str(error).splitlines()[0]
            raise ValueError(f"out: LanceDB cannot hold all columns of {source} ({said:.200})") from error

    def write(self, index: int, fragment: Fragment, reader: Any) -> list:
        write = require("lance.fragment", "lance").write_fragments
        made = write(reader, str(self.folder / "table.lance"), schema=reader.schema, mode="create")
        return [one.to_json() for one in made]

    def publish(self) -> None:
        whole, made = self.folder / "table.lance", [one for note in self.notes().values() for one in note]
        shutil.rmtree(whole / "_versions", ignore_errors=True)  # of a run that was killed here
        fragments = [lance.FragmentMetadata.from_json(json.dumps(one)) for one in made]
        lance.LanceDataset.commit(str(whole), lance.LanceOperation.Overwrite(self.schema, fragments))
        kept = {file["path"] for one in made for file in one["files"]}
        for file in (whole / "data").iterdir():
            if file.name not in kept:  # by a run that was killed while it wrote
                file.unlink()
        for file in whole.rglob("*"):
            sync(file)
        self.move(whole)

    def switch(self) -> str:
        vector, index = self.gallery.columns["vector"], f"lancedb.index.IvfPq(distance_type={METRICS[self.metric]!r})"
        table = repr(self.address.table)
        return (
            f"To switch over: db.open_table({table}).create_index({vector!r}, config={index}); then open {table} where "
            "the old table is opened now. The old table is untouched."
        )


class NewColumn(Target):
    """A new column of vectors in the table that is the gallery. As ``store.Target``."""

    threads = 1
    kept: Sequence[str] | None = ("vector",)

    def __init__(self, address: Address):
        super().__init__(address, Path(address.place) / f"{address.table}.{address.vector}")
        self._path = _path(address)

    def exists(self) -> bool:
        return self._path.is_dir() and self.address.vector in lance.dataset(str(self._path)).schema.names

    def check(self) -> None:
        source = self.gallery.source
        if not isinstance(source, Table) or source.path != self._path:
            raise ValueError(f"out: a new column belongs to the gallery's own table, {source.name}; got {self.name}")
        if any(one.place[2] for one in source.fragments()):
            raise ValueError(f"out: {source.name} has deleted rows in it; compact_files() first, or name a new table")

    @property
    def _field(self) -> Any:
        return self.schema.field(0).with_name(self.address.vector)

    def write(self, index: int, fragment: Fragment, reader: Any) -> Any:
        schema = pa.schema([self._field])
        renamed = (pa.record_batch(batch.columns, schema=schema) for batch in reader)
        batches = pa.RecordBatchReader.from_batches(schema, renamed)
        return fragment_of(self._path, fragment).merge_columns(batches)[0].to_json()

    def publish(self) -> None:
        made = [lance.FragmentMetadata.from_json(json.dumps(one)) for one in self.notes().values()]
        source: Any = self.gallery.source
        schema = lance.schema.LanceSchema.from_pyarrow(source.schema.append(self._field))
        merge = lance.LanceOperation.Merge(made, schema)
        lance.LanceDataset.commit(str(self._path), merge, read_version=source.version)

    def switch(self) -> str:
        return f"To switch over: search the column {self.address.vector!r}. The old column is untouched."
