"""Embeddings as a column of Arrow tables: ``NAME.parquet``, a folder of such files, ``NAME.arrow``.

A fragment is some row groups of a Parquet file, or an Arrow IPC file. Other columns are carried along; the name of the
space is in the metadata of the schema. A fragment of the new table is a file of the new folder, ``part-000000.parquet``
and so on, or one file is joined from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compatkit.extras import require
from compatkit.files import replacing

from . import store
from .store import Address, Fragment, NewFile, pa, state_of

dataset = require("pyarrow.dataset", "gallery").dataset
ParquetWriter = require("pyarrow.parquet", "gallery").ParquetWriter


def _batches(part: Any, **options: Any) -> Iterator[Any]:
    """Batches in order, of which few are read ahead."""
    return part.to_batches(batch_readahead=1, use_threads=False, **options)


class Table:
    """Files of one schema, in the order of their names. As ``store.Source``."""

    def __init__(self, address: Address, columns: dict[str, str]):
        self.name, self.vector, path = address.place, address.vector, Path(address.place)
        self._paths = _parquet_files(path) if path.is_dir() else [path]
        self._format = "ipc" if path.suffix == ".arrow" else "parquet"
        self._fragments: list[Fragment] = []
        self.rows = 0
        try:
            self.schema = dataset(self._paths[0], format=self._format).schema
            for i in range(len(self._paths)):
                self._add(i)
        except pa.ArrowInvalid as error:
            if "duplicate" in str(error):
                raise ValueError(f"{path}: columns must have a name each, got one more than once") from error
            kind = "Parquet file" if self._format == "parquet" else "Arrow IPC file, which a stream is not"
            raise ValueError(f"{path}: not a whole {kind} ({str(error).splitlines()[0]})") from error

    def _whole(self, i: int) -> Any:
        """One file."""
        (found,) = dataset(self._paths[i], format=self._format).get_fragments()
        return found

    def _add(self, i: int) -> None:
        """The fragments of a file: some row groups each, or the whole."""
        whole = self._whole(i)
        if not whole.physical_schema.equals(self.schema):
            names = f"{self._paths[0].name}, got {whole.physical_schema.names}"
            raise ValueError(f"{self._paths[i]}: must have the columns of {names}")
        counts = [whole.count_rows()] if self._format == "ipc" else [group.num_rows for group in whole.row_groups]
        first, rows = 0, 0
        for j, count in enumerate(counts, 1):
            rows += count
            if j == len(counts) or rows + counts[j] > store.FRAGMENT_ROWS:
                self._fragments.append(Fragment(self.rows, rows, [i, [*range(first, j)]]))
                self.rows, first, rows = self.rows + rows, j, 0

    def fragments(self) -> Sequence[Fragment]:
        return self._fragments

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        i, groups = fragment.place
        part = self._whole(i) if self._format == "ipc" else self._whole(i).subset(row_group_ids=groups)
        return (batch for batch in _batches(part, columns=list(columns), batch_size=size) if len(batch))

    def state(self) -> Any:
        return [state_of(path) for path in self._paths]


def _parquet_files(folder: Path) -> list[Path]:
    # what Spark and others put beside them begins with a dot or "_"
    found = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    others = [path.name for path in found if path.suffix != ".parquet" or path.is_dir()]
    if others or not found:
        got = ", ".join(others) or "none"
        raise ValueError(f"{folder}: must hold files NAME.parquet and nothing else, got {got}")
    return found


class NewTable(NewFile):
    """A Parquet file, or a folder of them. As ``store.Target``."""

    def __init__(self, address: Address):
        super().__init__(address)
        if self.path.suffix == ".arrow":
            got = f"{self.path.name}: an Arrow IPC file is only read"
            raise ValueError(f"out: must be NAME.parquet or a folder, got {got}")

    def check(self) -> None:
        try:
            ParquetWriter(pa.BufferOutputStream(), self.schema).close()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            source, said = self.gallery.source.name, str(error).splitlines()[0]
            raise ValueError(f"out: {self.path.name} cannot hold all columns of {source} ({said:.200})") from error

    @property
    def _hidden(self) -> Path:
        return self.folder / "parts"

    def write(self, index: int, fragment: Fragment, reader: Any) -> str:
        name = f"part-{index:06d}.parquet"
        self._write(self._hidden / name, reader)
        return name

    def _write(self, path: Path, batches: Any) -> None:
        with replacing(path) as file, ParquetWriter(file, self.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def publish(self) -> None:
        names = list(self.notes().values())
        for left in set(os.listdir(self._hidden)) - set(names):  # by a process that was killed while it wrote
            (self._hidden / left).unlink()
        if not self.path.suffix:
            self.move(self._hidden)
        elif len(names) == 1:
            self.move(self._hidden / names[0])
        else:
            parts = [self._hidden / name for name in names]
            self._write(self.folder / "whole", _batches(dataset(parts, schema=self.schema, format="parquet")))
            self.move(self.folder / "whole")
