"""Embeddings as a column of Arrow tables: ``NAME.parquet``, a folder of such files, ``NAME.arrow``.

A fragment is some row groups of a Parquet file, or an Arrow IPC file. Other columns are carried along; the name of the
space is in the metadata of the schema. A fragment of the new table is a file of the new folder, ``part-000000.parquet``
and so on, or one file is joined from them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compatkit.extras import require
from compatkit.files import replacing

from .store import Fragment, NewFile, file_state, pa, sync

FRAGMENT_ROWS = 1 << 16


def _dataset() -> Any:
    return require("pyarrow.dataset", "gallery")


class Table:
    """Files of one schema, in the order of their names. As ``store.Source``."""

    def __init__(self, path: Path, vector: str | None):
        self.name, self.vector, self._path = str(path), vector, path
        self._paths = _parquet_files(path) if path.is_dir() else [path]
        self._format = "ipc" if path.suffix == ".arrow" else "parquet"
        try:
            found = [self._dataset_of(one) for one in self._paths]
            self.schema = found[0].schema
            for one, path_of_one in zip(found, self._paths, strict=True):
                if not one.schema.equals(self.schema):
                    raise ValueError(
                        f"{path_of_one}: must have the columns of {self._paths[0].name}, got {one.schema.names}"
                    )
            self._fragments = self._split(found)
        except pa.ArrowInvalid as error:
            if "duplicate" in str(error):
                raise ValueError(f"{path}: columns must have a name each, got one more than once") from error
            kind = "Parquet file" if self._format == "parquet" else "Arrow IPC file, which a stream is not"
            raise ValueError(f"{path}: not a whole {kind} ({str(error).splitlines()[0]})") from error
        self.rows = sum(one.rows for one in self._fragments)

    def _dataset_of(self, path: Path) -> Any:
        return _dataset().dataset(path, format=self._format)

    def _split(self, datasets: Sequence[Any]) -> list[Fragment]:
        """Whole files or, of a large one, row groups that make a fragment together."""
        found: list[Fragment] = []
        start = 0
        for i, one in enumerate(datasets):
            (part,) = one.get_fragments()
            is_ipc = self._format == "ipc"
            counts = [part.count_rows()] if is_ipc else [group.num_rows for group in part.row_groups] or [0]
            groups, rows = [], 0
            for j, count in enumerate(counts):
                groups.append(j)
                rows += count
                if j == len(counts) - 1 or rows + counts[j + 1] > FRAGMENT_ROWS:
                    found.append(Fragment(start, rows, [i, groups if len(groups) < len(counts) else None]))
                    start, groups, rows = start + rows, [], 0
        return found

    def fragments(self) -> Sequence[Fragment]:
        return self._fragments

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        i, groups = fragment.place
        (part,) = self._dataset_of(self._paths[i]).get_fragments()
        if groups is not None:
            part = part.subset(row_group_ids=groups)
        options = {"batch_size": size, "batch_readahead": 1, "use_threads": False}
        for batch in part.to_batches(columns=list(columns), **options):
            if len(batch):
                yield batch

    def state(self) -> Any:
        return [file_state(path) for path in self._paths]


def _parquet_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.parquet"))
    # what Spark and others put beside them begins with a dot or "_"
    others = {path.name for path in folder.iterdir() if path not in found and not path.name.startswith((".", "_"))}
    others |= {path.name for path in found if path.is_dir()}
    if others or not found:
        got = ", ".join(sorted(others)) or "none"
        raise ValueError(f"{folder}: must hold files NAME.parquet and nothing else, got {got}")
    return found


class NewTable(NewFile):
    """A Parquet file, a folder of them, or an Arrow IPC file. As ``store.Target``."""

    def check(self) -> None:
        super().check()
        name, suffix = self.gallery.source.name, self.path.suffix
        try:
            self._writer(pa.BufferOutputStream()).close()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"out: {self.path.name} cannot hold all columns of {name} ({said:.200})") from error
        several = [field.name for field in self.schema if pa.types.is_dictionary(field.type)]
        if suffix == ".arrow" and Path(name).suffix != ".arrow" and several:
            raise ValueError(
                f"out: an Arrow IPC file has one dictionary for a column, {name} may have several for "
                f"{', '.join(several)}; name a file of Parquet"
            )

    @property
    def _is_folder(self) -> bool:
        return not self.path.suffix

    @property
    def _hidden(self) -> Path:
        return self.folder / "parts"

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        name = f"part-{index:06d}.parquet"
        with replacing(self._hidden / name) as file, self._writer(file) as writer:
            for batch in reader:
                writer.write_batch(batch)
        self.note(index, name)

    def _writer(self, file: Any) -> Any:
        if self.path.suffix == ".arrow":
            return pa.ipc.new_file(file, self.schema)
        return require("pyarrow.parquet", "gallery").ParquetWriter(file, self.schema)

    def publish(self) -> None:
        names = list(self.notes().values())
        for left in set(os.listdir(self._hidden)) - set(names):  # by a process that was killed while it wrote
            (self._hidden / left).unlink()
        if self._is_folder:
            os.rename(self._hidden, self.path)
        else:
            whole = self._hidden / names[0]
            if len(names) > 1:
                whole = self.folder / "whole"
                with replacing(whole) as file, self._writer(file) as writer:
                    for batch in itertools.chain.from_iterable(map(self._batches, names)):
                        writer.write_batch(batch)
            os.replace(whole, self.path)
        sync(self.path.parent)

    def _batches(self, name: str) -> Iterator[Any]:
        kind = "ipc" if self.path.suffix == ".arrow" else "parquet"
        return _dataset().dataset(self._hidden / name, format=kind).to_batches(batch_readahead=1, use_threads=False)
