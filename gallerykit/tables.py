"""Embeddings as columns of Arrow tables: Parquet files and folders of them, Arrow IPC files. Each is opened once.

Other columns are carried along. The name of the space is in the metadata of the schema. Needs pyarrow.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compatkit.extras import require
from compatkit.files import replacing
from compatkit.progress import progress

from .arrays import NewFile, file_state, opened, regrouped, skipped
from .ids import INTEGER, TEXT, ids_of
from .store import Carried, Column, Names, Source

pa = require("pyarrow", "gallery")
pc, pq = require("pyarrow.compute", "gallery"), require("pyarrow.parquet", "gallery")


@dataclass(frozen=True, eq=False)
class Table:
    """A table that is open. Attributes and methods as ``store.Source``."""

    name: str
    schema: Any
    rows: int
    read: Callable[[list[str], int, int], Iterable[Any]]
    """(columns, start, size) -> record batches of at most ``size`` rows, from row ``start`` on, with at least these"""
    state: Callable[[], list]
    close: Callable[[], None]
    parts: list[tuple[str, int]] = field(default_factory=list)
    """names and rows of the files of a folder"""
    codec: str = "SNAPPY"
    """that a Parquet file was written with"""

    @property
    def columns(self) -> list[str]:
        return self.schema.names

    def batches(self, columns: list[str], start: int, size: int) -> Iterator[Any]:
        """These columns of record batches, which must be of the types of the schema."""
        for batch in self.read(columns, start, size):
            batch = batch.select(columns)
            for name, found in zip(columns, batch.schema.types, strict=True):
                if found != (said := self.schema.field(name).type):
                    raise ValueError(f"{self.name}: column {name!r} cannot be read, it is {said} and comes as {found}")
            yield batch

    @property
    def space(self) -> str:
        return (self.schema.metadata or {}).get(b"compatkit.space", b"").decode()

    def column(self, role: str, name: str) -> TableColumn | None:
        return TableColumn(self, name) if name in self.columns else None

    def verify(self) -> None:
        """Raise ValueError if the first row of a column is not of its type."""
        next(self.batches(self.columns, 0, 1), None)


class TableColumn:
    """A column of numbers, of text, or of lists of numbers of one width. Attributes as ``store.Column``."""

    def __init__(self, table: Table, name: str):
        self._table, self._name, kind = table, name, table.schema.field(name).type
        self._is_list = _is_fixed(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
        self.rows, self.kind, self.width = table.rows, str(kind), 0
        self.dtype = _dtype(kind.value_type if self._is_list else kind)
        if self._is_list and (first := next(table.batches([name], 0, 1), None)) is not None:
            self.width = pc.list_value_length(self._present(first.column(0), 0))[0].as_py()

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        return regrouped(self._arrays(start, size), size)

    def _arrays(self, row: int, size: int) -> Iterator[np.ndarray]:
        for batch in self._table.batches([self._name], row, size):
            yield self._numpy(batch.column(0), row)
            row += len(batch)

    def _numpy(self, values: Any, row: int) -> np.ndarray:
        """Values whose first is of ``row``, as (n,) or (n, width)."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        values = self._present(values, row)
        if not self._is_list:
            return values.to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if (lengths != self.width).any():
            odd = int((lengths != self.width).argmax())
            raise ValueError(f"{self._here(row + odd)} has {lengths[odd]} numbers, the first has {self.width}")
        flat = values.flatten()
        if flat.null_count:
            raise ValueError(f"{self._here(row + _first(flat.is_null()) // self.width)} has an empty number")
        return flat.to_numpy(zero_copy_only=False).reshape(len(values), self.width)

    def _present(self, values: Any, row: int) -> Any:
        if values.null_count:
            raise ValueError(f"{self._here(row + _first(values.is_null()))} is empty")
        return values

    def _here(self, row: int) -> str:
        return f"{self._table.name}, column {self._name!r}: row {row} (the first is 0)"


def open_parquet(path: Path) -> Table:
    """A Parquet file, or a folder of such files of one schema in the order of their names."""
    paths = _parquet_paths(path) if path.is_dir() else [path]
    files: list[Any] = []

    def close() -> None:
        for file in files:
            file.close()

    try:
        for one in paths:
            files.append(_parquet_file(one))
            if not files[-1].schema_arrow.equals(files[0].schema_arrow):
                raise ValueError(f"{one}: must have the columns of {paths[0].name}, got {files[-1].schema_arrow.names}")
        _check_names(path, files[0].schema_arrow)
    except BaseException:
        close()
        raise
    first = files[0].metadata
    codec = first.row_group(0).column(0).compression if first.num_row_groups else "SNAPPY"
    rows = [file.metadata.num_rows for file in files]
    return Table(
        str(path), files[0].schema_arrow, sum(rows), partial(_parquet_batches, files), partial(_states, paths), close,
        list(zip((one.name for one in paths), rows, strict=True)) if path.is_dir() else [], codec,
    )  # fmt: skip


def _parquet_paths(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.parquet"))
    # what Spark and others put beside them begins with a dot or "_"
    others = {path.name for path in folder.iterdir() if path not in found and not path.name.startswith((".", "_"))}
    others |= {path.name for path in found if path.is_dir()}
    if others or not found:
        got = ", ".join(sorted(others)) or "none"
        raise ValueError(f"{folder}: must hold files NAME.parquet and nothing else, got {got}")
    return found


def _parquet_file(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a whole Parquet file ({error})") from error


def _parquet_batches(files: list[Any], columns: list[str], start: int, size: int) -> Iterator[Any]:
    for file in files:
        metadata, group = file.metadata, 0
        while group < metadata.num_row_groups and metadata.row_group(group).num_rows <= start:
            start -= metadata.row_group(group).num_rows
            group += 1
        if group == metadata.num_row_groups:
            continue
        groups = list(range(group, metadata.num_row_groups))
        yield from skipped(file.iter_batches(size, row_groups=groups, columns=columns, use_threads=False), start)
        start = 0


def open_arrow(path: Path) -> Table:
    """An Arrow IPC file."""
    file = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(file)
        counts = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        _check_names(path, reader.schema)
    except ValueError as error:
        file.close()
        if isinstance(error, pa.ArrowInvalid):
            raise ValueError(f"{path}: not a whole Arrow IPC file, which a stream is not ({error})") from error
        raise
    state, read = partial(_states, [path]), partial(_arrow_batches, reader, counts)
    return Table(str(path), reader.schema, sum(counts), read, state, file.close)


def _arrow_batches(reader: Any, counts: list[int], columns: list[str], start: int, size: int) -> Iterator[Any]:
    for i, count in enumerate(counts):
        if count > start:
            batch = reader.get_batch(i)
            yield from (batch[row : row + size] for row in range(start, count, size))
        start = max(0, start - count)


def _check_names(path: Path, schema: Any) -> None:
    doubled = [name for name, times in Counter(schema.names).items() if times > 1]
    if doubled:
        raise ValueError(f"{path}: columns must have a name each, got {', '.join(doubled)} more than once")


def _states(paths: list[Path]) -> list:
    return [file_state(path) for path in paths]


# New tables


def check_columns(gallery: Source, kind: str, create: Callable[[Any], object]) -> None:
    """Raise ValueError if what is to be made cannot hold all columns of the gallery: ``create`` makes an empty one."""
    if isinstance(gallery, Table):
        try:
            create(gallery.schema)
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"out: {kind} cannot hold all columns of {gallery.name} ({said:.200})") from error


def _create_parquet(schema: Any) -> None:
    pq.ParquetWriter(pa.BufferOutputStream(), schema).close()


class NewParquet(NewFile):
    """A Parquet file of any gallery."""

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        super().check(gallery, names, overwrite)
        check_columns(gallery, "Parquet", _create_parquet)

    def write(self, vectors: Path, carried: Carried) -> None:
        whole = vectors.with_name("whole")
        with opened(vectors) as new:
            write_parquet(whole, assembled(carried, new), carried, new.rows)
        os.replace(whole, self.path)


class NewArrow(NewFile):
    """An Arrow IPC file of any gallery."""

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        super().check(gallery, names, overwrite)
        if isinstance(gallery, Table) and Path(gallery.name).suffix != ".arrow":
            several = [field.name for field in gallery.schema if pa.types.is_dictionary(field.type)]
            if several:
                raise ValueError(
                    f"out: an Arrow IPC file has one dictionary for a column, {gallery.name} may have several for "
                    f"{', '.join(several)}; name a file of Parquet"
                )

    def write(self, vectors: Path, carried: Carried) -> None:
        whole = vectors.with_name("whole")
        with opened(vectors) as new, replacing(whole) as file:
            schema, tables = assembled(carried, new)
            bar = progress(0, -(-new.rows // carried.chunk), "writing", "chunk", carried.shown)
            with pa.ipc.new_file(file, schema) as writer:
                for table in tables:
                    writer.write_table(table)
                    next(bar, None)
        os.replace(whole, self.path)


class NewFolder(NewFile):
    """A folder of Parquet files, of the names and rows of those of the gallery."""

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        if self.exists():  # a folder cannot be replaced at once
            raise ValueError(f"out: the folder {self.path} exists already and is never replaced; name another")
        check_columns(gallery, "Parquet", _create_parquet)

    def write(self, vectors: Path, carried: Carried) -> None:
        whole = vectors.with_name("whole")
        if whole.exists():
            shutil.rmtree(whole)  # of a run that was killed while it put all together
        with opened(vectors) as new:
            for name, start, rows in self.files(carried.gallery, new.rows):
                write_parquet(whole / name, assembled(carried, new, start, rows), carried, rows)
        os.rename(whole, self.path)

    @staticmethod
    def files(gallery: Source, rows: int) -> list[tuple[str, int, int]]:
        """Name, first row and number of rows of each."""
        parts = getattr(gallery, "parts", None) or [("part-0.parquet", rows)]
        ends = itertools.accumulate(rows for _, rows in parts)
        return [(name, end - rows, rows) for (name, rows), end in zip(parts, ends, strict=True)]


def write_parquet(path: Path, assembled: tuple[Any, Iterator[Any]], carried: Carried, rows: int) -> None:
    """A file of what ``assembled`` gives."""
    schema, tables = assembled
    bar = progress(0, -(-rows // carried.chunk), "writing", "chunk", carried.shown)
    codec = getattr(carried.gallery, "codec", "SNAPPY")
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression=codec) as writer:
        for table in tables:
            writer.write_table(table)
            next(bar, None)


def assembled(
    carried: Carried, new: Column, start: int = 0, rows: int | None = None, *, fixed: bool = False
) -> tuple[Any, Iterator[Any]]:
    """The schema and the rows of the new table: all columns of the gallery with the new vectors in place of the old.

    Of a gallery that is no Arrow table: its ids, if it has any, and the vectors.

    Args:
        carried: the gallery and more.
        new: all vectors.
        start, rows: which of them; None takes all.
        fixed: make them lists of fixed size, whatever the gallery has.

    Returns:
        The schema, and tables of ``carried.chunk`` rows and a rest.
    """
    gallery, names = carried.gallery, carried.names
    count = new.rows if rows is None else rows
    numbers = pa.from_numpy_dtype(new.dtype)
    kind, vector = pa.list_(numbers, new.width), names.of("vector")
    if isinstance(gallery, Table):
        old = gallery.schema
        place = old.get_field_index(vector)
        if not fixed:
            kind = _like(old.field(place).type, kind)
        schema = old.set(place, old.field(place).with_type(kind))
        others = [name for name in old.names if name != vector]
        batches = gallery.batches(others, start, carried.chunk) if others else iter(())
    else:
        ids = ids_of("gallery", gallery, names)
        batches = iter(()) if ids is None else _as_batches(ids, names.of("id"), start, carried.chunk)
        fields = [] if ids is None else [pa.field(names.of("id"), pa.int64() if ids.dtype == INTEGER else pa.string())]
        schema, others = pa.schema([*fields, pa.field(vector, kind)]), [one.name for one in fields]
    kept = {k: v for k, v in (schema.metadata or {}).items() if not k.startswith((b"compatkit.", b"ARROW:"))}
    schema = schema.with_metadata(kept | carried.about())
    return schema, _rows(
        schema, vector, _tables(batches, carried.chunk) if others else None, new, start, count, carried
    )


def _rows(
    schema: Any, vector: str, tables: Iterator[Any] | None, new: Column, start: int, count: int, carried: Carried
) -> Iterator[Any]:
    for block in new.blocks(start, carried.chunk):
        block = block[:count]
        if not len(block):
            return
        count -= len(block)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])
        arrays = {vector: flat.cast(schema.field(vector).type)}
        if tables is not None:
            arrays |= dict(zip((t := next(tables)).column_names, t[: len(block)].columns, strict=True))
        yield pa.table([arrays[name] for name in schema.names], schema=schema)


def _as_batches(column: Column, name: str, start: int, size: int) -> Iterator[Any]:
    for block in column.blocks(start, size):
        yield pa.record_batch({name: pa.array(block)})


def _tables(batches: Iterable[Any], chunk: int) -> Iterator[Any]:
    """The batches as tables of exactly ``chunk`` rows and a rest: batches may be shorter."""
    held = None
    for batch in batches:
        part = pa.Table.from_batches([batch])
        held = part if held is None else pa.concat_tables([held, part])
        while len(held) >= chunk:
            yield held[:chunk]
            held = held[chunk:]
    if held is not None and len(held):
        yield held


def _like(old: Any, fixed: Any) -> Any:
    """The kind of list that the old vectors were, of the new numbers."""
    if _is_fixed(old):
        return fixed
    return pa.large_list(fixed.value_type) if pa.types.is_large_list(old) else pa.list_(fixed.value_type)


def _dtype(kind: Any) -> np.dtype | None:
    """Of numbers, or ``TEXT``; None for anything else."""
    if pa.types.is_dictionary(kind):
        return _dtype(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype())
    return TEXT if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else None


def _is_fixed(kind: Any) -> bool:
    return pa.types.is_fixed_size_list(kind)


def _first(truth: Any) -> int:
    return int(truth.to_numpy(zero_copy_only=False).argmax())
