"""Embeddings as a NumPy array, ``NAME.npy``, read and written in place, at the offset of each fragment; it may be
larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .store import (
    ROLES,
    Fragment,
    NewFile,
    as_vectors,
    even_fragments,
    file_state,
    pa,
    sync,
    vector_field,
)  # fmt: skip


class Array:
    """A ``.npy`` (n, width) of vectors, or (n,) of values. As ``store.Source``."""

    vector: str | None = None

    def __init__(self, path: Path):
        self.name, self._path = str(path), path
        with open(path, "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                self._shape, self._fortran, self._dtype = read(file)
            except ValueError as error:
                raise ValueError(f"{path}: not a whole NumPy array ({error})") from error
            self._offset = file.tell()
        shape, dtype = self._shape, self._dtype
        if dtype.hasobject or len(shape) not in (1, 2):
            raise ValueError(f"{path}: an array (n, d) or (n,) of numbers or text is needed, got {shape} of {dtype}")
        if path.stat().st_size < self._offset + int(np.prod(shape)) * dtype.itemsize:
            raise self._cut()
        self.rows = shape[0]
        name, native = ROLES["vector"], dtype.newbyteorder("=")
        if len(shape) == 2:
            field = vector_field(name, shape[1], native)
        else:
            field = pa.field(name, pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(native))
        self.schema = pa.schema([field])

    def _cut(self) -> ValueError:
        return ValueError(f"{self.name}: is cut short, for shape {self._shape} of {self._dtype}")

    def fragments(self) -> Sequence[Fragment]:
        return even_fragments(self.rows, int(np.prod(self._shape[1:])), self._dtype.itemsize)

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        stop = fragment.start + fragment.rows
        with open(self._path, "rb", buffering=0) as file:
            for row in range(fragment.start, stop, size):
                block = self._block(file, row, min(size, stop - row))
                values = as_vectors(block) if block.ndim == 2 else pa.array(block)
                yield pa.record_batch([values], schema=self.schema)

    def _block(self, file: Any, row: int, count: int) -> np.ndarray:
        if self._fortran:
            # mapped anew each time: pages that were read count as this process's memory until they are unmapped
            rows: np.ndarray = np.memmap(self._path, self._dtype, "r", self._offset, self._shape, "F")
            return np.array(rows[row : row + count], self._dtype.newbyteorder("="), order="C")
        block = np.empty((count, *self._shape[1:]), self._dtype)
        content = block.reshape(-1).view(np.uint8)
        file.seek(self._offset + row * (len(content) // count))
        if file.readinto(content) < len(content):
            raise self._cut()
        return block.astype(self._dtype.newbyteorder("="), copy=False)

    def state(self) -> Any:
        return file_state(self._path)


class NewArray(NewFile):
    """A ``.npy`` of the vectors alone. As ``store.Target``."""

    kept: Sequence[str] | None = ("vector",)

    @property
    def _hidden(self) -> Path:
        return self.folder / "vectors.npy"

    def prepare(self) -> None:
        kind = self.schema.field(0).type
        shape, dtype = (self.gallery.source.rows, kind.list_size), np.dtype(kind.value_type.to_pandas_dtype())
        with open(self._hidden, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        kind = reader.schema.field(0).type
        behind = (self.gallery.source.rows - fragment.start) * kind.list_size * kind.value_type.bit_width // 8
        with open(self._hidden, "r+b", buffering=0) as file:
            file.seek(-behind, os.SEEK_END)
            for batch in reader:
                content = np.asarray(batch.column(0).flatten()).data.cast("B")
                while len(content):
                    content = content[file.write(content) :]
            os.fsync(file.fileno())
        self.note(index)

    def publish(self) -> None:
        os.replace(self._hidden, self.path)
        sync(self.path.parent)
