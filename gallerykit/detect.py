"""Detection of which models made the vectors of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from .maps import load_map
from .store import batch_rows
from .stores import open_gallery


def inspect(
    store: str | os.PathLike, map: str | os.PathLike | None = None, columns: Mapping[str, str] | None = None
) -> str:
    """Say whether vectors of two models lie in one store.

    Args:
        store: see ``stores``.
        map: the file of a map between the two, by which each row is told apart.
        columns: as in ``pairs.read_pairs``.

    Raises:
        ValueError: bad input.
    """
    gallery = open_gallery("store", store, columns)
    width = gallery.width("vector")
    if map is None:
        return "Without a map between the two models that may have made them, it cannot be told (--map FILE)."
    one = load_map(map)
    if one.sides is None:
        return f"The two models of the map differ in width, {one.ends.d_in} and {one.ends.d_out}: one store has one."
    if width != one.ends.d_in:
        raise ValueError(f"store: must have the width of the map, {one.ends.d_in}, got {width}")
    blocks = gallery.blocks("vector", batch_rows(width))
    return one.sides.told(np.concatenate([one.sides.score(block) for block in blocks]))
