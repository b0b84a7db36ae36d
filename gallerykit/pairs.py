"""Paired embeddings of the same items, joined from files and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .maps import Pairs
from .store import Gallery, as_float, batch_rows
from .stores import open_gallery

FEWEST_PAIRS = 100


def read_pairs(
    old: str | os.PathLike,
    new: str | os.PathLike,
    *,
    columns: Mapping[str, str] | None = None,
    metric: str = "l2",
    tell: Callable[[str], object] = print,
) -> Pairs:
    """Paired embeddings from files and tables (see ``stores``), by id where both have ids and by order otherwise.

    Args:
        old, new: of the same items, or of some of the same: those that only one of them has are left out. ``old`` may
            have a column of side-information, either one a column of labels.
        columns: what the columns of ``store.ROLES`` are called, where they are called otherwise.
        metric: of the search; pairs with embeddings of zeros, as of items that failed, have no cosine and are left out.
        tell: gets a sentence with the numbers where items are left out.

    Raises:
        ValueError: unequal numbers of rows without ids, ids that are not unique, NaN or numbers beyond float32, or too
            few pairs.
    """
    by_old, by_new = (open_gallery(name, url, columns) for name, url in (("old", old), ("new", new)))
    wanted = {"old": (by_old, "vector"), "new": (by_new, "vector")}
    wanted |= {"side": (by_old, "side")} if by_old.has("side") else {}
    for one, role in wanted.values():
        one.number_type(role)
    labelled = [one for one in (by_old, by_new) if one.columns["label"] in one.source.schema.names]
    if not labelled and "label" in (columns or {}):
        raise ValueError(f"labels: neither old nor new has a column {by_old.columns['label']!r}")
    rows = _joined(by_old, by_new, tell)
    about: dict[str, Any] = {"old_space": by_old.space, "new_space": by_new.space}
    if labelled:
        values = labelled[0].named("label", "labels")[rows[labelled[0].argument]]
        about["labels"] = torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1))
    about["new_dtype"] = by_new.number_type("vector").name
    about |= {name: _matrix(one, role, rows[one.argument]) for name, (one, role) in wanted.items()}
    pairs = Pairs(**about)
    kept = pairs.old.any(1) & pairs.new.any(1)
    if metric == "cosine" and not kept.all():
        tell(f"{int((~kept).sum())} pairs are left out: embeddings that are all zeros have no cosine.")
        _check_enough(int(kept.sum()))
        pairs = pairs.rows(kept)
    return pairs


def _joined(old: Gallery, new: Gallery, tell: Callable[[str], object]) -> dict[str, np.ndarray]:
    """The rows of the items that both have, in the order of ``old``."""
    counts = {one.argument: one.source.rows for one in (old, new)}
    _check_enough(counts["old"])
    if old.ids is None or new.ids is None:
        if counts["old"] != counts["new"]:
            wanted = f"as many rows as old, {counts['old']}, where not both have ids"
            raise ValueError(f"new: must have {wanted}, got {counts['new']}")
        return dict.fromkeys(counts, np.arange(counts["old"]))
    if old.ids.dtype != new.ids.dtype:
        kinds = ["text" if x.dtype == object else "integers" for x in (old.ids, new.ids)]
        raise ValueError(f"new: ids must be of the kind of old's, {kinds[0]}, got {kinds[1]}")
    _, in_old, in_new = np.intersect1d(old.ids, new.ids, assume_unique=True, return_indices=True)
    if any(count != len(in_old) for count in counts.values()):
        said = ", ".join(f"{count} of {name}" for name, count in counts.items())
        tell(f"{len(in_old)} items are paired by their ids, of {said}.")
    _check_enough(len(in_old))
    order = in_old.argsort()
    return {"old": in_old[order], "new": in_new[order]}


def _check_enough(found: int) -> None:
    if found < FEWEST_PAIRS:
        raise ValueError(f"old: at least {FEWEST_PAIRS} pairs are needed, got {found}")


def _matrix(gallery: Gallery, role: str, rows: np.ndarray) -> Tensor:
    """These rows as float32; no more than a block of the others is in memory."""
    width = gallery.width(role)
    values = np.empty((len(rows), width), np.float32)
    order = rows.argsort()
    row = 0
    for block in gallery.blocks(role, batch_rows(width)):
        wanted = order[slice(*np.searchsorted(rows, (row, row + len(block)), sorter=order))]
        values[wanted] = as_float(gallery.argument, block[rows[wanted] - row], rows[wanted])
        row += len(block)
    return torch.from_numpy(values)
