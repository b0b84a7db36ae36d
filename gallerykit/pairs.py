"""Paired embeddings of the same items, joined from files and tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import ROWS, whole
from .ids import ids_of, rows_of, unique
from .maps import Pairs
from .store import Column, Names, Source
from .stores import open_source

FEWEST_PAIRS = 100


class Sources:
    """Sources by URL, each of which is opened once and closed at the end of the ``with``."""

    def __init__(self, names: Names, new_vector: str | None = None):
        self._names, self._new_vector, self._stack = names, new_vector, ExitStack()
        self._open: dict[str, Source] = {}

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, argument: str, url: str | os.PathLike) -> Input:
        key = os.fspath(url)
        if key not in self._open:
            self._open[key] = open_source(url, self._names.of("id"))
            self._stack.callback(self._open[key].close)
        names = self._names
        if argument == "new" and self._new_vector is not None:
            names = replace(names, vector=self._new_vector)
        return Input(argument, self._open[key], names)


@dataclass(frozen=True, eq=False)
class Input:
    """A source, and what it is needed for."""

    argument: str
    """the name in messages"""
    source: Source
    names: Names

    def column(self, role: str) -> Column | None:
        return self.source.column(role, self.names.of(role))

    def has(self, role: str) -> bool:
        """Whether a table has a column of that name."""
        return self.source.columns is not None and self.names.of(role) in self.source.columns

    def ids(self) -> np.ndarray | None:
        """All of them in memory, see ``ids.unique``; None where there are none."""
        found = ids_of(self.argument, self.source, self.names)
        if found is None and self.names.id is not None and self.source.columns is not None:
            raise self.without("id")
        return None if found is None else unique(self.argument, found)

    def vectors(self, role: str = "vector") -> Column:
        found = self.column(role)
        if found is None:
            raise self.without(role)
        if not found.rows or not found.width or found.dtype is None or found.dtype.kind != "f":
            got = f"{found.rows} rows of {found.kind}"
            raise ValueError(
                f"{self.argument}: {self.source.name} must hold floating-point vectors of items, got {got}"
            )
        return found

    def without(self, role: str) -> ValueError:
        """That a column is missing."""
        columns = ", ".join(self.source.columns or ())
        return ValueError(
            f"{self.argument}: {self.source.name} has no column {self.names.of(role)!r}"
            + f", only {columns}" * bool(columns)
        )


def side_of(embeddings: Input, side: Input | None) -> tuple[Input, str] | None:
    """Which input has the side-information, in which role."""
    found = embeddings if side is None else side
    if found.has("side"):
        return found, "side"
    if found.names.side is not None and found.source.columns is not None:
        raise found.without("side")
    return None if side is None else (side, "vector")


def read_pairs(
    old: str | os.PathLike,
    new: str | os.PathLike,
    *,
    side: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    names: Names | None = None,
    new_vector: str | None = None,
    require_all: bool = False,
    tell: Callable[[str], object] = print,
) -> Pairs:
    """Paired embeddings from files and tables (see ``stores``), by id where both have ids and by order otherwise.

    Args:
        old, new: of the same items, or of some of the same: those that only one of them has are left out.
        side: side-information of the same items, in place of the column ``side`` of ``old``; without ids, in the order
            of ``old``.
        labels: integers or text, in place of a column ``label`` of ``old`` or ``new``; likewise.
        names: of the columns of tables.
        new_vector: of the column of vectors of ``new``, if it has another name than that of ``old``.
        require_all: refuse ids that are not everywhere.
        tell: gets a sentence with the numbers where items are left out.

    Raises:
        ValueError: unequal numbers of rows without ids, ids that are not unique or not all the same (``require_all``),
            NaN or numbers beyond float32, or too few pairs.
    """
    with Sources(names or Names(), new_vector) as sources:
        inputs = {"old": old, "new": new, "side": side, "labels": labels}
        opened = {name: sources(name, url) for name, url in inputs.items() if url is not None}
        return join_pairs(**opened, require_all=require_all, tell=tell)


def join_pairs(
    old: Input,
    new: Input,
    side: Input | None = None,
    labels: Input | None = None,
    *,
    require_all: bool,
    tell: Callable[[str], object],
) -> Pairs:
    """As ``read_pairs``, of inputs that are open."""
    columns = {"old": (old, old.vectors()), "new": (new, new.vectors())}
    beside = side_of(old, side)
    if beside is not None:
        columns["side"] = beside[0], replace(beside[0], argument="side").vectors(beside[1])
    labelled = labels or next((x for x in (old, new) if x.has("label")), None)
    if labelled is not None:
        columns["labels"] = labelled, _label_column(labelled)
    elif old.names.label is not None:
        raise ValueError(f"labels: neither old nor new has a column {old.names.label!r}")
    rows = _joined(columns, require_all, tell)
    old_column, new_column = columns["old"][1], columns["new"][1]
    assert old_column.dtype is not None and new_column.dtype is not None
    found: dict[str, Any] = {
        "old_space": old.source.space,
        "new_space": new.source.space,
        "new_dtype": str(new_column.dtype.newbyteorder("=")),
        "old_bytes": old_column.width * old_column.dtype.itemsize,
    }
    if beside is not None:
        column = columns["side"][1]
        assert column.dtype is not None
        found |= {"side": _matrix("side", column, rows["side"]), "side_bytes": column.width * column.dtype.itemsize}
        found |= {"side_space": side.source.space if side is not None else ""}
    if labelled is not None:
        values = whole(columns["labels"][1])[rows["labels"]]
        found["labels"] = torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1))
    return Pairs(_matrix("old", old_column, rows["old"]), _matrix("new", new_column, rows["new"]), **found)


def with_direction(pairs: Pairs, tell: Callable[[str], object]) -> Pairs:
    """The pairs that have a cosine: of which neither embedding is all zeros, as it is of an item that failed.

    Args:
        pairs: of the same items.
        tell: gets a sentence with the number where some are left out.

    Raises:
        ValueError: too few are left.
    """
    kept = pairs.old.any(1) & pairs.new.any(1)
    if kept.all():
        return pairs
    tell(f"{len(kept) - int(kept.sum())} pairs are left out: embeddings that are all zeros have no cosine.")
    _check_enough(int(kept.sum()))
    return pairs.rows(kept)


def _label_column(labelled: Input) -> Column:
    found = labelled.column("label")
    if found is None or not found.rows or found.width or found.dtype is None or found.dtype.kind not in "iuUO":
        got = "none" if found is None else f"{found.rows} rows of {found.kind}"
        name = labelled.source.name
        raise ValueError(f"labels: {name} must hold one integer or text for each item, got {got}")
    return found


def _joined(
    columns: dict[str, tuple[Input, Column]], require_all: bool, tell: Callable[[str], object]
) -> dict[str, np.ndarray]:
    """The rows of the items that all have, in the order of ``old``."""
    counts = {name: column.rows for name, (_, column) in columns.items()}
    _check_enough(counts["old"])
    by_source: dict[int, np.ndarray | None] = {}
    for one, _ in columns.values():
        if id(one.source) not in by_source:
            by_source[id(one.source)] = one.ids()
    ids = {name: by_source[id(one.source)] for name, (one, _) in columns.items()}
    places = {name: _places(name, ids[name], counts[name], ids["old"], counts["old"]) for name in columns}
    everywhere = np.all([place >= 0 for place in places.values()], axis=0)
    found = int(everywhere.sum())
    if any(count != found for count in counts.values()):
        said = ", ".join(f"{count} of {name}" for name, count in counts.items())
        if require_all:
            raise ValueError(f"ids must all match (--require-all): {found} items are everywhere, of {said}{_odd(ids)}")
        tell(f"{found} items are paired by their ids, of {said}.")
    _check_enough(found)
    return {name: place[everywhere] for name, place in places.items()}


def _check_enough(found: int) -> None:
    if found < FEWEST_PAIRS:
        raise ValueError(f"old: at least {FEWEST_PAIRS} pairs are needed, got {found}")


def _odd(ids: dict[str, np.ndarray | None]) -> str:
    """An id that is not everywhere, for a message."""
    known = {name: x for name, x in ids.items() if x is not None}
    for name, x in known.items():
        for other, y in known.items():
            if len(missing := x[rows_of(other, y, x, name) < 0]):
                return f"; {other} lacks {missing.min()!s:.80} of {name}"
    return ""


def _places(name: str, ids: np.ndarray | None, count: int, wanted: np.ndarray | None, n: int) -> np.ndarray:
    """The row of each of n items of ``old``, with ids ``wanted``, among ``count`` rows with ``ids``; -1 for none."""
    if ids is None or wanted is None:
        if count != n:
            raise ValueError(f"{name}: must have as many rows as old, {n}, where not both have ids, got {count}")
        return np.arange(n)
    return rows_of(name, ids, wanted, "old")


def _matrix(name: str, column: Column, rows: np.ndarray) -> Tensor:
    """These rows as float32; no more than a block of the others is in memory."""
    values = np.empty((len(rows), column.width), np.float32)
    order = rows.argsort()
    row = 0
    for block in column.blocks(0, ROWS):
        wanted = order[slice(*np.searchsorted(rows, (row, row + len(block)), sorter=order))]
        values[wanted] = as_float(name, block[rows[wanted] - row], rows[wanted])
        row += len(block)
    return torch.from_numpy(values)


def as_float(name: str, block: np.ndarray, rows: np.ndarray | int, dtype: np.dtype | type = np.float32) -> np.ndarray:
    """Numbers (n, d) as another type.

    Args:
        name: for the message.
        block: the numbers.
        rows: the number of each row, or of the first one.
        dtype: of the result.

    Raises:
        ValueError: a row has NaN or infinity, or a number that is too large for the type.
    """
    with np.errstate(over="ignore"):
        values = np.require(block, dtype, ["C", "W"])  # torch takes no array that it may not write
    as_tensor = torch.from_numpy(values)
    # NaN and infinity would be in the sum, which takes a tenth of the time of looking at each number
    if as_tensor.sum(dtype=torch.promote_types(as_tensor.dtype, torch.float32)).isfinite():
        return values
    finite = np.isfinite(values)
    if not finite.all():
        i = int((~finite.all(1)).argmax())
        row = rows + i if isinstance(rows, int) else rows[i]
        here, number = f"{name}: row {row} (the first is 0)", block[i][~finite[i]][0]
        if np.isfinite(number):
            raise ValueError(f"{here} has {number:.6g}, which is too large for {np.dtype(dtype)}")
        raise ValueError(f"{here} has NaN or infinity")
    return values
