"""Ids of items, from whatever source: 64-bit integers or text, or refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from .arrays import whole
from .store import Column, Names, Source

INTEGER, TEXT = np.dtype(np.int64), np.dtype(object)  # str, so that memory follows the ids and not the longest of them


class Ids:
    """The column of ids of a source, as ``INTEGER`` or ``TEXT``. Attributes as ``store.Column``.

    Args:
        argument: for messages.
        source: where the column is, for messages.
        column: the ids as they are stored.

    Raises:
        ValueError: they are neither integers nor text.
    """

    width = 0

    def __init__(self, argument: str, source: Source, column: Column):
        self._here, self._column = f"{argument}: {source.name}", column
        self.rows, self.kind = column.rows, column.kind
        if column.width or column.dtype is None or column.dtype.kind not in "iuUO":
            raise ValueError(f"{self._here} must have integers or text for ids, got {column.kind}; store them as text")
        self.dtype = INTEGER if column.dtype.kind in "iu" else TEXT

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        for block in self._column.blocks(start, size):
            if block.dtype == np.uint64 and (most := block.max()) > np.iinfo(np.int64).max:
                raise ValueError(
                    f"{self._here} must have ids that fit 64 bits with a sign, got {most}; store them as text"
                )
            yield block.astype(self.dtype, copy=False)


def ids_of(argument: str, source: Source, names: Names) -> Ids | None:
    """The ids of a source, None where it has none.

    Args:
        argument: for messages.
        source: the file or table.
        names: of its columns.

    Raises:
        ValueError: as ``Ids``.
    """
    found = source.column("id", names.of("id"))
    return None if found is None else Ids(argument, source, found)


def unique(argument: str, ids: Ids) -> np.ndarray:
    """All ids in memory.

    Args:
        argument: for the message.
        ids: the column.

    Raises:
        ValueError: an id stands more than once.
    """
    found = whole(ids)
    # a set, since text is hashed in a tenth of the time that it is sorted in
    if len(np.unique(found) if ids.dtype == INTEGER else set(found.tolist())) < len(found):
        ((value, times),) = Counter(found.tolist()).most_common(1)
        raise ValueError(f"{argument}: ids must be unique, got {value!s:.80} {times} times")
    return found


def rows_of(argument: str, ids: np.ndarray, wanted: np.ndarray, of: str) -> np.ndarray:
    """The row of each item among others.

    Args:
        argument: whose ids they are, for the message.
        ids: (n,) of the rows.
        wanted: (m,) of the items.
        of: whose ids those are.

    Returns:
        (m,) rows, -1 where there is none.

    Raises:
        ValueError: integers on one side, text on the other.
    """
    if ids.dtype != wanted.dtype:
        kinds = ["text" if x.dtype == TEXT else "integers" for x in (wanted, ids)]
        raise ValueError(f"{argument}: ids must be of the kind of {of}'s, {kinds[0]}, got {kinds[1]}")
    if ids.dtype == TEXT:
        row = {value: i for i, value in enumerate(ids.tolist())}
        return np.fromiter((row.get(value, -1) for value in wanted.tolist()), np.int64, len(wanted))
    order = ids.argsort()
    place = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[place] == wanted, place, -1)
