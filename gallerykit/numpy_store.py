"""Embeddings as a NumPy array, ``NAME.npy``, read and written in place, at the offset of each fragment; it may be
larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .store import ROLES, Address, Fragment, NewFile, as_matrix, as_vectors, even_fragments, pa, state_of, vector_field


class Table:
    """A ``.npy`` (n, width) of vectors. As ``store.Source``."""

    vector = ""

    def __init__(self, address: Address, columns: dict[str, str]):
        self.name, self._path = address.place, Path(address.place)
        try:
            array = self._mapped()
        except ValueError as error:
            raise ValueError(f"{self.name}: not a whole NumPy array ({error})") from error
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise ValueError(f"{self.name}: an array (n, d) of numbers is needed, got {array.shape} of {array.dtype}")
        (self.rows, width), self._dtype = array.shape, array.dtype.newbyteorder("=")
        self.schema = pa.schema([vector_field(ROLES["vector"], width, self._dtype)])

    def _mapped(self) -> np.memmap:
        return np.lib.format.open_memmap(self._path, "r")

    def fragments(self) -> Sequence[Fragment]:
        return even_fragments(self.rows)

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        stop = fragment.start + fragment.rows
        for row in range(fragment.start, stop, size):
            # mapped anew each time: pages that were read count as this process's memory until they are unmapped
            block = np.array(self._mapped()[row : min(row + size, stop)], self._dtype, order="C")
            yield pa.record_batch([as_vectors(block)], schema=self.schema)

    def state(self) -> Any:
        return state_of(self._path)


class NewTable(NewFile):
    """A ``.npy`` of the vectors alone. As ``store.Target``."""

    kept: Sequence[str] | None = ("vector",)

    @property
    def _hidden(self) -> Path:
        return self.folder / "vectors.npy"

    def prepare(self) -> None:
        kind = self.schema.field(0).type
        dtype, shape = kind.value_type.to_pandas_dtype(), (self.gallery.source.rows, kind.list_size)
        np.lib.format.open_memmap(self._hidden, "w+", dtype, shape)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        kind = self.schema.field(0).type
        behind = (self.gallery.source.rows - fragment.start) * kind.list_size * kind.value_type.bit_width // 8
        with open(self._hidden, "r+b") as file:
            file.seek(-behind, os.SEEK_END)
            for batch in reader:
                file.write(as_matrix(batch.column(0)).data)
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        self.move(self._hidden)
