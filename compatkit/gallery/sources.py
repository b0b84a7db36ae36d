"""Embeddings in files, by column and in blocks of rows, so that a file may be larger than memory.

- ``.npy``: one array: embeddings (n, d), side-information (n, d) or labels (n,).
- ``.npz``: what ``store.Embeddings.save`` wrote: embeddings, ids and the name of their space.
- ``.parquet``: columns ``embedding`` (lists of floats of one width), and perhaps ``id``, ``side`` and ``label``; others
  are carried along. The name of the space is in the metadata of the schema. Needs pyarrow.

Files are only ever opened for reading here, but for the one that ``finish`` makes.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ..extras import require
from ..files import replacing
from ..progress import progress
from .embeddings import BROKEN, describe, is_unit

SUFFIXES = (".npy", ".npz", ".parquet")
COLUMNS = {"embedding": "vectors", "id": "ids"}
"""Names of Parquet columns and, where there is one, of the array in an ``.npz``."""


class ArrayColumn:
    """The array of a ``.npy``, or one of the arrays of an ``.npz``; ``width`` is 0 where there is one value a row."""

    def __init__(self, path: Path, member: str | None = None):
        self.path = path
        with open(path, "rb") as file:
            if member is not None:
                file.seek(_place(path, member))
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                self.shape, fortran, self.dtype = read(file)
            except ValueError as error:
                raise ValueError(f"{path}: not a whole NumPy array ({error})") from error
            self._order, self._offset = "F" if fortran else "C", file.tell()
        if self.dtype.hasobject or len(self.shape) not in (1, 2):
            raise ValueError(f"{path}: an array (n, d) or (n,) of numbers or text is needed, got {self._described()}")
        if path.stat().st_size < self._offset + int(np.prod(self.shape)) * self.dtype.itemsize:
            raise ValueError(f"{path}: is cut short, for {self._described()}")
        self.rows, self.width = self.shape[0], self.shape[1] if len(self.shape) == 2 else 0

    def _described(self) -> str:
        return f"shape {self.shape} of {self.dtype}"

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        """The rows from ``start``, ``size`` at a time."""
        for row in range(start, self.rows, size):
            # mapped anew each time: pages that were read count as this process's memory until they are unmapped
            rows: np.ndarray = np.memmap(self.path, self.dtype, "r", self._offset, self.shape, self._order)  # type: ignore[call-overload]
            yield np.array(rows[row : row + size], order="C")

    def all(self) -> np.ndarray:
        """All rows in memory."""
        return np.concatenate([*self.blocks(0, 65_536)] or [np.empty(self.shape, self.dtype)])


class ParquetColumn:
    """One column of a Parquet file: numbers, text, or lists of numbers of one width. Attributes as ``ArrayColumn``."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self._file = _parquet(path)
        self.rows, self.width, self.dtype = self._file.metadata.num_rows, 0, None
        first = next(self._file.iter_batches(1, columns=[name]), None)
        if first is not None:
            values = self._numpy(first, 0, find_width=True)
            self.width, self.dtype = (values.shape[1] if values.ndim == 2 else 0), values.dtype

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        """The rows from ``start``, ``size`` at a time, whatever the row groups."""
        group, before, metadata = 0, 0, self._file.metadata
        while group < metadata.num_row_groups and before + metadata.row_group(group).num_rows <= start:
            before += metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, metadata.num_row_groups))
        return _regrouped(self._arrays(groups, before, size) if groups else (), start - before, size)

    def _arrays(self, groups: list[int], row: int, size: int) -> Iterator[np.ndarray]:
        for batch in self._file.iter_batches(size, row_groups=groups, columns=[self.name], use_threads=False):
            yield self._numpy(batch, row)
            row += len(batch)

    def _numpy(self, batch: Any, row: int, find_width: bool = False) -> np.ndarray:
        """The batch, whose first row is ``row`` of the file, as (n,) or (n, width)."""
        pa, pc = require("pyarrow", "gallery"), require("pyarrow.compute", "gallery")

        values = batch.column(0)
        if values.null_count:
            raise ValueError(f"{self._here(row + _first(values.is_null()))} is empty")
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or _is_fixed(values.type)):
            values = values.to_numpy(zero_copy_only=False)
            return values.astype(str) if values.dtype == object else values
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        width = int(lengths[0]) if find_width else self.width
        if (lengths != width).any():
            odd = int((lengths != width).argmax())
            raise ValueError(f"{self._here(row + odd)} has {lengths[odd]} numbers, the first has {width}")
        flat = values.flatten()
        if flat.null_count:
            raise ValueError(f"{self._here(row + _first(flat.is_null()) // width)} has an empty number")
        return flat.to_numpy(zero_copy_only=False).reshape(len(values), width)

    def _here(self, row: int) -> str:
        return f"{self.path}, column {self.name!r}: row {row} (the first is 0)"


Column = ArrayColumn | ParquetColumn


def column(path: str | os.PathLike, name: str) -> Column | None:
    """A column of a file by its Parquet name.

    A ``.npy`` has no names: its array is whatever is asked for, only never ids.

    Returns:
        None if the file has no column of that name.

    Raises:
        ValueError: an unknown suffix, or a file that is not what its suffix says.
        ImportError: pyarrow is needed and missing.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: must end in one of {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'!r}")
    if path.suffix == ".npy":
        return None if name == "id" else ArrayColumn(path)
    if path.suffix == ".npz":
        return ArrayColumn(path, COLUMNS[name]) if name in COLUMNS else None
    return ParquetColumn(path, name) if name in _parquet(path).schema_arrow.names else None


def read(path: str | os.PathLike, name: str) -> np.ndarray | None:
    """A whole column in memory: (n,) or (n, width)."""
    found = column(path, name)
    if found is None:
        return None
    return np.concatenate([*found.blocks(0, 65_536)] or [np.empty((0, found.width), found.dtype)])


def space(path: str | os.PathLike) -> str:
    """The name of the space of a file's embeddings; empty if it does not say."""
    path = Path(path)
    if path.suffix == ".npz":
        return _about(path)["space"]
    if path.suffix == ".parquet":
        return (_parquet(path).schema_arrow.metadata or {}).get(b"compatkit.space", b"").decode()
    return ""


def verify(path: str | os.PathLike) -> None:
    """Read an ``.npz`` through and compare its checksum: ValueError if it was altered. Others have none."""
    path = Path(path)
    if path.suffix != ".npz":
        return
    about, vectors, ids = _about(path), ArrayColumn(path, "vectors"), ArrayColumn(path, "ids")
    found = _describe(about["space"], about["made_from"], about["unit"], ids, vectors)
    if json.loads(str(found)) != about:
        raise ValueError(f"{path}: was altered after it was written: its checksum does not hold")


def create(path: Path, rows: int, width: int, dtype: np.dtype) -> None:
    """A ``.npy`` that is to get so many rows: its header alone."""
    with open(path, "wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (rows, width),
        }
        np.lib.format.write_array_header_1_0(file, header)


def header_size(path: Path) -> int:
    """Bytes of a ``.npy`` before its first row."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def finish(
    vectors: Path, gallery: Path, out: Path, *, space: str, made_from: str, chunk: int, shown: bool = True
) -> None:
    """Make the new gallery, at once or not at all, of all new vectors and of what else the old one has.

    Args:
        vectors: the whole ``.npy``, in a folder of its own on the file system of ``out``; it becomes ``out`` itself
            where that is a ``.npy``.
        gallery: all its columns but the embeddings are kept. The ids of an ``.npz`` are in memory all together.
        out: the file to make.
        space, made_from: of the new vectors.
        chunk: rows in memory at a time, and in a row group.
        shown: show progress.
    """
    whole = vectors
    if out.suffix != ".npy":
        whole = vectors.with_name(f"whole{out.suffix}")  # not beside out, where a kill would leave half of it
        with replacing(whole) as file:
            if out.suffix == ".npz":
                _write_npz(file, vectors, gallery, space, made_from)
            else:
                _write_parquet(file, vectors, gallery, {"space": space, "made_from": made_from}, chunk, shown)
    os.replace(whole, out)


# .npz


def _write_npz(file: BinaryIO, vectors: Path, gallery: Path, space: str, made_from: str) -> None:
    ids, new = ArrayColumn(gallery, "ids"), ArrayColumn(vectors)
    unit = all(is_unit(torch.from_numpy(block)) for block in new.blocks(0, 65_536))
    about = _describe(space, made_from, unit, ids, new)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as member, open(vectors, "rb") as rows:
            shutil.copyfileobj(rows, member)  # not archive.write, which would note the time
        for name, array in (("ids", ids.all()), ("about", about)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _describe(space: str, made_from: str, unit: bool, ids: ArrayColumn, vectors: ArrayColumn) -> np.ndarray:
    return describe(space, made_from, unit, ids.all(), vectors.blocks(0, 65_536), vectors.shape, vectors.dtype)


def _about(path: Path) -> dict:
    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
        return {name: about[name] for name in ("space", "made_from", "unit", "width", "sha256")}
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except BROKEN as error:
        raise ValueError(f"{path}: not a whole file of Embeddings.save ({error})") from error


def _place(path: Path, member: str) -> int:
    """Where in an ``.npz`` the bytes of an array begin."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{member}.npy")
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole file of Embeddings.save ({error})") from error
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path}: arrays must be stored uncompressed, as by Embeddings.save")
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # of the local header: the lengths of the name and of what follows it
        return info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


# Parquet


def _parquet(path: Path) -> Any:
    pyarrow = require("pyarrow", "gallery")
    require("pyarrow.parquet", "gallery")
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a whole Parquet file ({error})") from error


def _write_parquet(file: BinaryIO, vectors: Path, gallery: Path, spaces: dict, chunk: int, shown: bool) -> None:
    pa, pq = require("pyarrow", "gallery"), require("pyarrow.parquet", "gallery")

    source, new = _parquet(gallery), ArrayColumn(vectors)
    old = source.schema_arrow
    place = old.get_field_index("embedding")
    schema = old.set(place, old.field(place).with_type(_list_type(old.field(place).type, new)))
    kept = {k: v for k, v in (old.metadata or {}).items() if not k.startswith((b"compatkit.", b"ARROW:"))}
    schema = schema.with_metadata(kept | {f"compatkit.{k}": v for k, v in spaces.items() if v})
    codec = source.metadata.row_group(0).column(0).compression
    bar = progress(0, -(-new.rows // chunk), "writing", "chunk", shown)
    with pq.ParquetWriter(file, schema, compression=codec) as writer:
        rows = source.iter_batches(chunk, use_threads=False)
        blocks = new.blocks(0, chunk)
        for group in _tables(rows, chunk, pa):
            block = next(blocks)
            embedding = _lists(block, schema.field(place).type, pa)
            columns = [*group.columns[:place], embedding, *group.columns[place + 1 :]]
            writer.write_table(pa.table(columns, schema=schema))
            next(bar, None)


def _tables(batches: Iterable, chunk: int, pa: Any) -> Iterator:
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


def _list_type(like: Any, new: ArrayColumn) -> Any:
    """The kind of list that the old embeddings were, of the new numbers."""
    pa = require("pyarrow", "gallery")

    numbers = pa.from_numpy_dtype(new.dtype)
    if _is_fixed(like):
        return pa.list_(numbers, new.width)
    return pa.large_list(numbers) if pa.types.is_large_list(like) else pa.list_(numbers)


def _lists(block: np.ndarray, kind: Any, pa: Any) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1]).cast(kind)


def _is_fixed(kind: Any) -> bool:
    pa = require("pyarrow", "gallery")

    return pa.types.is_fixed_size_list(kind)


def _first(truth: Any) -> int:
    return int(truth.to_numpy(zero_copy_only=False).argmax())


def _regrouped(parts: Iterable[np.ndarray], skip: int, size: int) -> Iterator[np.ndarray]:
    """The rows of all parts, without the first ``skip``, ``size`` at a time."""
    waiting, held = [], 0
    for part in parts:
        waiting.append(part[skip:])
        held += len(waiting[-1])
        skip = max(0, skip - len(part))
        while held >= size:
            rows = np.concatenate(waiting)
            yield rows[:size]
            waiting, held = [rows[size:]], held - size
    if held:
        yield np.concatenate(waiting)
