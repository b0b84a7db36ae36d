"""The vectors of a gallery after a map."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .arrays import ahead, regrouped, skipped
from .embeddings import is_unit
from .maps import Map
from .pairs import as_float
from .store import Column

STEP_NUMBERS = 1 << 18  # 1 MiB of float32


@dataclass(frozen=True, eq=False)
class Mapped:
    """The vectors of a gallery after a map, made as they are asked for. Attributes as ``store.Column``.

    A closed form is bound by memory and disk: a chunk is read by one thread, mapped and checked by another, and written
    by a third, while a fourth waits for the disk.
    """

    map: Map
    embedding: Column
    side: Column | None
    unit_in: bool
    """all rows of ``embedding`` must have length 1"""
    dtype: np.dtype
    chunk: int
    """rows at a time through the map"""
    device: torch.device
    rows: int
    """where to stop"""

    @property
    def width(self) -> int:
        return self.map.d_out

    def blocks(self, start: int, size: int) -> Generator[np.ndarray, None, None]:
        # chunks are the same wherever one starts, for their size may change last bits
        first = start - start % self.chunk
        with closing(self._chunks(first)) as made, closing(ahead(made)) as chunks:
            yield from regrouped(skipped(chunks, start - first), size)

    def _chunks(self, first: int) -> Generator[np.ndarray, None, None]:
        columns = [self.embedding] if self.side is None else [self.embedding, self.side]
        blocks = (column.blocks(first, self.chunk) for column in columns)
        # one thread for both columns, which may be of one connection, and none when that is closed
        with closing(ahead(zip(range(first, self.rows, self.chunk), *blocks, strict=False))) as read:
            for row, *chunk in read:
                new = np.empty((len(chunk[0]), self.width), self.dtype)
                for start in range(0, len(new), self._step):
                    step = slice(start, start + self._step)
                    new[step] = self._mapped(row + start, *(block[step] for block in chunk))
                yield new

    @cached_property
    def _step(self) -> int:
        """Rows at a time through the map: on a CPU as many as stay in its cache until they are checked."""
        widest = max(self.embedding.width, self.width)
        return self.chunk if self.device.type != "cpu" else max(1, STEP_NUMBERS // widest)

    def _mapped(self, row: int, block: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
        old = self._checked("gallery", block, row, self.unit_in)
        mapped = self.map(old, None if side is None else self._checked("gallery_side", side, row)).cpu()
        self._check_unit("gallery, transformed", mapped, row, self.map.unit)
        return as_float("gallery, transformed", mapped.numpy(), row, self.dtype)

    def _checked(self, name: str, block: np.ndarray, row: int, unit: bool = False) -> Tensor:
        """As float32 on the device, if all are finite and, for ``unit``, of length 1."""
        values = torch.from_numpy(as_float(name, block, row))
        self._check_unit(name, values, row, unit)
        return values.to(self.device)

    def _check_unit(self, name: str, values: Tensor, row: int, unit: bool) -> None:
        """For ``unit``: all rows have length 1, by cosine but for those of zeros."""
        if not unit or is_unit(values) or (self.map.metric == "cosine" and is_unit(values[values.any(1)])):
            return
        lengths = values.norm(dim=1)
        odd = int((lengths - 1).abs().argmax())
        raise ValueError(f"{name}: all rows must have length 1 as in the pairs, row {row + odd} has {lengths[odd]:.3g}")
