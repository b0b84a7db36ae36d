"""Which models made the vectors of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from .maps import load_map
from .store import Gallery, as_float, batch_rows
from .stores import open_source


def sample(gallery: Gallery, most: int = 20_000) -> np.ndarray:
    """Rows (n, d) of a gallery, some of each of its fragments."""
    width, fragments = gallery.width("vector"), gallery.source.fragments()
    each, found = max(1, most // max(1, len(fragments))), []
    for one in fragments:
        rows = min(each, one.rows)
        if rows:
            batch = next(iter(gallery.source.read(one, [gallery.columns["vector"]], min(rows, batch_rows(width)))))
            found.append(as_float("gallery", gallery.vectors("vector", batch, one.start, width), one.start))
    return np.concatenate(found)


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
    x = sample(Gallery("store", open_source(store, columns), columns))
    if map is None:
        return "Without a map between the two models that may have made them, it cannot be told (--map FILE)."
    one = load_map(map)
    if one.sides is None:
        return f"The two models of the map differ in width, {one.ends.d_in} and {one.ends.d_out}: all rows are of one."
    return one.sides.told(x)
