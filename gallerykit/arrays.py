"""Embeddings as NumPy arrays: ``.npy``, and the ``.npz`` of ``Embeddings.save``. Each file is opened once."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from compatkit.files import replacing

from .embeddings import BROKEN, describe, is_unit
from .store import Carried, Column, Names, Source

MEMBERS = {"vector": "vectors", "side": "vectors", "id": "ids"}
"""Arrays of an ``.npz`` by role."""
ROWS = 65_536  # at a time, where nobody says how many


class ArrayColumn:
    """An array (n, d) or (n,) in an open file, from ``offset`` on. Attributes as ``store.Column``."""

    def __init__(self, file: BinaryIO, name: str, offset: int = 0):
        self._file, self._name = file, name
        file.seek(offset)
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._fortran, self.dtype = read(file)
        except ValueError as error:
            raise ValueError(f"{name}: not a whole NumPy array ({error})") from error
        self.offset = file.tell()  # of the first row
        if self.dtype.hasobject or len(self.shape) not in (1, 2):
            raise ValueError(f"{name}: an array (n, d) or (n,) of numbers or text is needed, got {self._described()}")
        if os.fstat(file.fileno()).st_size < self.offset + int(np.prod(self.shape)) * self.dtype.itemsize:
            raise self._cut()
        self.rows, self.width = self.shape[0], self.shape[1] if len(self.shape) == 2 else 0
        self.kind = f"{self.dtype}[{self.width}]" if self.width else str(self.dtype)

    def _described(self) -> str:
        return f"shape {self.shape} of {self.dtype}"

    def _cut(self) -> ValueError:
        return ValueError(f"{self._name}: is cut short, for {self._described()}")

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        for row in range(start, self.rows, size):
            yield self._block(row, min(size, self.rows - row))

    def _block(self, row: int, count: int) -> np.ndarray:
        if self._fortran:
            # mapped anew each time: pages that were read count as this process's memory until they are unmapped
            rows: np.ndarray = np.memmap(self._file, self.dtype, "r", self.offset, self.shape, "F")
            return np.array(rows[row : row + count], order="C")
        block = np.empty((count, *self.shape[1:]), self.dtype)
        content = block.reshape(-1).view(np.uint8)
        self._file.seek(self.offset + row * (len(content) // count))
        if self._file.readinto(content) < len(content):  # type: ignore[attr-defined]
            raise self._cut()
        return block

    def all(self) -> np.ndarray:
        """All rows in memory."""
        return self._block(0, self.rows) if self.rows else np.empty(self.shape, self.dtype)


@contextmanager
def opened(path: Path) -> Iterator[ArrayColumn]:
    """The array of a ``.npy``."""
    with open(path, "rb") as file:
        yield ArrayColumn(file, str(path))


class ArrayFile:
    """A ``.npy`` or ``.npz``. Attributes and methods as ``store.Source``."""

    columns = None

    def __init__(self, path: Path):
        self.name, self._path = str(path), path
        self._file = open(path, "rb")  # noqa: SIM115
        self._offsets, self._about = {}, {}
        try:
            if path.suffix == ".npz":
                self._about = _about(self._file, self.name)
                self._offsets = {name: _place(self._file, self.name, name) for name in ("vectors", "ids")}
            self.rows = self.array("vectors").rows
        except BaseException:
            self.close()
            raise
        self.space: str = self._about.get("space", "")

    def array(self, member: str) -> ArrayColumn:
        """One of the arrays of an ``.npz``, or that of a ``.npy`` by any name."""
        return ArrayColumn(self._file, self.name, self._offsets.get(member, 0))

    def column(self, role: str, name: str) -> ArrayColumn | None:
        if self._path.suffix == ".npy":
            return None if role == "id" else self.array("vectors")
        return self.array(MEMBERS[role]) if role in MEMBERS else None

    def state(self) -> list:
        return file_state(self._path)

    def verify(self) -> None:
        if self._path.suffix == ".npz":
            about = self._about
            found = _describe(
                about["space"], about["made_from"], about["unit"], self.array("ids"), self.array("vectors")
            )
            if json.loads(str(found)) != about:
                raise ValueError(f"{self.name}: was altered after it was written: its checksum does not hold")

    def close(self) -> None:
        self._file.close()


def ahead(items: Iterator[Any]) -> Generator[Any, None, None]:
    """Each item, while a thread makes the next one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def skipped(batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """The batches without so many rows at the beginning."""
    for batch in batches:
        if rows < len(batch):
            yield batch[rows:] if rows else batch
        rows = max(0, rows - len(batch))


def regrouped(parts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The rows of all parts, ``size`` at a time."""
    waiting: list[np.ndarray] = []
    held = 0
    for part in parts:
        waiting.append(part)
        held += len(part)
        while held >= size:
            rows = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield rows[:size]
            held -= size
            waiting = [rows[size:]] if held else []
    if held:
        yield np.concatenate(waiting)


def whole(column: Column) -> np.ndarray:
    """All rows in memory: (n,) or (n, width)."""
    return np.concatenate(
        [*column.blocks(0, ROWS)] or [np.empty((0, column.width) if column.width else 0, column.dtype)]
    )


def file_state(path: Path) -> list:
    """A file is the same by name, size and time of change."""
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def create(path: Path, rows: int, width: int, dtype: np.dtype) -> None:
    """A ``.npy`` that is to get so many rows: its header alone."""
    with open(path, "wb") as file:
        write_header(file, rows, width, dtype)


def write_header(file: BinaryIO, rows: int, width: int, dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


def header_size(file: BinaryIO) -> int:
    """Bytes of a ``.npy`` before its first row."""
    file.seek(0)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()


class NewFile:
    """What sinks that are one file, or one folder, have in common: all of ``store.Sink`` but ``write``."""

    twice = True

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        self.folder = path.with_name(f".{path.name}.upgrade")

    def exists(self) -> bool:
        return self.path.exists()

    def dtype(self, wanted: np.dtype) -> np.dtype:
        return wanted

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        self.check_new("out", overwrite)

    def check_new(self, argument: str, overwrite: bool) -> None:
        if self.exists() and not overwrite:
            raise ValueError(f"{argument}: {self.path} exists already; name another, or allow overwrite (--overwrite)")

    def switch(self, carried: Carried, metric: str) -> str:
        return (
            f"To switch over: build the index of the search ({metric}) from {self.path}. The old gallery is untouched."
        )


class NewArrayFile(NewFile):
    """A ``.npy`` of a ``.npy``, or an ``.npz`` of an ``.npz``."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.twice = path.suffix == ".npz"

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        suffix = Path(gallery.name).suffix
        if not isinstance(gallery, ArrayFile) or suffix != self.path.suffix:
            other = suffix if isinstance(gallery, ArrayFile) else "a table"
            raise ValueError(
                f"out: must end as the gallery does where one of both is an array, in {other}, got {self.path.name}"
            )
        super().check(gallery, names, overwrite)

    def write(self, vectors: Path, carried: Carried) -> None:
        whole = vectors
        if self.path.suffix == ".npz":
            whole = vectors.with_name("whole.npz")  # not beside out, where a kill would leave half of it
            assert isinstance(carried.gallery, ArrayFile)  # or ``check`` would have refused it
            with replacing(whole) as file:
                _write_npz(file, vectors, carried.gallery.array("ids"), carried.space, carried.made_from)
        os.replace(whole, self.path)


def _write_npz(file: BinaryIO, vectors: Path, ids: ArrayColumn, space: str, made_from: str) -> None:
    with opened(vectors) as new:
        unit = all(is_unit(torch.from_numpy(block)) for block in new.blocks(0, ROWS))
        about = _describe(space, made_from, unit, ids, new)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as member, open(vectors, "rb") as rows:
            shutil.copyfileobj(rows, member)  # not archive.write, which would note the time
        for name, array in (("ids", ids.all()), ("about", about)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _describe(space: str, made_from: str, unit: bool, ids: ArrayColumn, vectors: ArrayColumn) -> np.ndarray:
    return describe(space, made_from, unit, ids.all(), vectors.blocks(0, ROWS), vectors.shape, vectors.dtype)


def _about(file: BinaryIO, name: str) -> dict:
    try:
        with np.load(file, allow_pickle=False) as content:
            about = json.loads(str(content["about"]))
        return {key: about[key] for key in ("space", "made_from", "unit", "width", "sha256")}
    except BROKEN as error:
        raise ValueError(f"{name}: not a whole file of Embeddings.save ({error})") from error


def _place(file: BinaryIO, name: str, member: str) -> int:
    """Where in an ``.npz`` the bytes of an array begin."""
    try:
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(f"{member}.npy")
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name}: not a whole file of Embeddings.save ({error})") from error
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name}: arrays must be stored uncompressed, as by Embeddings.save")
    file.seek(info.header_offset + 26)  # of the local header: the lengths of the name and of what follows it
    return info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
