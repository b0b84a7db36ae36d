"""Paired embeddings of the same items, joined from files and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .maps import Pairs
from .store import Gallery, as_float, batch_rows, places_of
from .stores import open_source

FEWEST_PAIRS = 100


def read_pairs(
    old: str | os.PathLike,
    new: str | os.PathLike,
    *,
    side: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    metric: str = "l2",
    tell: Callable[[str], object] = print,
) -> Pairs:
    """Paired embeddings from files and tables (see ``stores``), by id where both have ids and by order otherwise.

    Args:
        old, new: of the same items, or of some of the same: those that only one of them has are left out.
        side: side-information of the same items, in place of the column ``side`` of ``old``; without ids, in the order
            of ``old``.
        labels: integers or text, in place of a column ``label`` of ``old`` or ``new``; likewise.
        columns: what the columns of ``store.ROLES`` are called, where they are called otherwise.
        metric: of the search; pairs with embeddings of zeros, as of items that failed, have no cosine and are left out.
        tell: gets a sentence with the numbers where items are left out.

    Raises:
        ValueError: unequal numbers of rows without ids, ids that are not unique, NaN or numbers beyond float32, or too
            few pairs.
    """
    urls = {"old": old, "new": new, "side": side, "labels": labels}
    found = {name: Gallery(name, open_source(url, columns), columns) for name, url in urls.items() if url is not None}
    roles = {"old": "vector", "new": "vector", "side": "vector", "labels": "label"}
    if side is None and found["old"].has("side"):
        found["side"], roles["side"] = found["old"], "side"
    labelled = [one for one in (found["old"], found["new"]) if one.columns["label"] in one.source.schema.names]
    if labels is None and labelled:
        found["labels"] = labelled[0]
    elif labels is None and "label" in (columns or {}):
        raise ValueError(f"labels: neither old nor new has a column {columns['label']!r}")  # type: ignore[index]
    elif labels is not None and not found["labels"].has("label"):
        roles["labels"] = "vector"
    for name, gallery in found.items():
        if name != "labels":
            gallery.width(roles[name])
    rows = _joined(found, tell)
    matrices = {
        name: _matrix(name, found[name], roles[name], rows[name]) for name in ("old", "new", "side") if name in found
    }
    read: dict[str, Any] = {"old_space": found["old"].space, "new_space": found["new"].space}
    kind = found["new"].source.schema.field(found["new"].columns["vector"]).type
    read["new_dtype"] = str(np.dtype(getattr(kind, "storage_type", kind).value_type.to_pandas_dtype()))
    if "labels" in found:
        values = found["labels"].named(roles["labels"], "labels")[rows["labels"]]
        read["labels"] = torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1))
    pairs = Pairs(matrices["old"], matrices["new"], matrices.get("side"), **read)
    kept = pairs.old.any(1) & pairs.new.any(1)
    if metric == "cosine" and not kept.all():
        tell(f"{int((~kept).sum())} pairs are left out: embeddings that are all zeros have no cosine.")
        _check_enough(int(kept.sum()))
        pairs = pairs.rows(kept)
    return pairs


def _joined(found: dict[str, Gallery], tell: Callable[[str], object]) -> dict[str, np.ndarray]:
    """The rows of the items that all have, in the order of ``old``."""
    counts = {name: gallery.source.rows for name, gallery in found.items()}
    _check_enough(counts["old"])
    places = {name: places_of(name, gallery, found["old"], "old") for name, gallery in found.items()}
    everywhere = np.all([place >= 0 for place in places.values()], axis=0)
    number = int(everywhere.sum())
    if any(count != number for count in counts.values()):
        said = ", ".join(f"{count} of {name}" for name, count in counts.items())
        tell(f"{number} items are paired by their ids, of {said}.")
    _check_enough(number)
    return {name: place[everywhere] for name, place in places.items()}


def _check_enough(found: int) -> None:
    if found < FEWEST_PAIRS:
        raise ValueError(f"old: at least {FEWEST_PAIRS} pairs are needed, got {found}")


def _matrix(name: str, gallery: Gallery, role: str, rows: np.ndarray) -> Tensor:
    """These rows as float32; no more than a block of the others is in memory."""
    width = gallery.width(role)
    values = np.empty((len(rows), width), np.float32)
    order = rows.argsort()
    row = 0
    for block in gallery.blocks(role, batch_rows(width)):
        wanted = order[slice(*np.searchsorted(rows, (row, row + len(block)), sorter=order))]
        values[wanted] = as_float(name, block[rows[wanted] - row], rows[wanted])
        row += len(block)
    return torch.from_numpy(values)
