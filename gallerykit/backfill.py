"""The way from the old gallery to a new one: how searches fare while a growing share of it is embedded anew.

Items that searches find most often come first. Until all are done the gallery has two kinds of embeddings, which are
searched in one of two ways: together, mapped old ones beside new ones in one index; or apart, each kind by its own
queries, and the two lists merged by rank. A map that shrinks embeddings puts items nearer to every query than the new
model would, so that together the middle may be worse than either end; apart it is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pyarrow.csv import write_csv
from torch import Tensor

from compatkit.files import replacing
from compatkit.intervals import Interval, difference, interval

from .compare import Comparison, Judge
from .maps import Map, Pairs
from .metrics import similarity
from .printed import columns, percent
from .store import Gallery, pa

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
TAIL = 50
OFTEN = 50  # results of a search that count an item as found
COUNTED = 5_000  # searches
BLOCK = 2_000  # items at a time, each of which has a number for every search
PLANNED = ("Procrustes", "lambda-orthogonal", "ridge")
"""Maps of which plans are made, beside the one that is chosen."""


@dataclass(frozen=True)
class Stage:
    """The scores of a gallery of which this share is embedded anew."""

    share: float
    score: Interval  #: as ``compare.Way``
    above: Interval  #: score less that of the worse end of the way, by query


@dataclass(frozen=True)
class Path:
    """One way from the old gallery to the new one."""

    name: str  #: such as "new/ridge, together" or "old/old, apart"
    map: str | None  #: the label of the map of what is not yet embedded anew; None for the old gallery as it is
    stages: tuple[Stage, ...]

    @property
    def sinks(self) -> bool:
        """Tell whether the path is worse somewhere on the way than at both ends."""
        return any(one.above.mean < 0 for one in self.stages)

    @property
    def sinks_surely(self) -> bool:
        """Tell whether it is so by a whole interval."""
        return any(one.above.high < 0 for one in self.stages)

    @property
    def mean(self) -> float:
        """Its score, on average over the way."""
        shares = [one.share for one in self.stages]
        return float(np.trapezoid([one.score.mean for one in self.stages], shares))


@dataclass(frozen=True)
class Paths:
    """All paths, and the best of those that are nowhere worse than at both ends."""

    paths: tuple[Path, ...]

    @property
    def best(self) -> Path:
        even = [path for path in self.paths if not path.sinks]
        return max(even or self.paths, key=lambda path: (not path.sinks_surely, path.mean))

    def table(self) -> str:
        """The plan for people to read."""
        rows = [["embedded anew:", *(f"{100 * share:g} %" for share in SHARES), ""]]
        for path in sorted(self.paths, key=lambda path: -path.mean):
            note = "sinks" if path.sinks_surely else "may sink" if path.sinks else ""
            note = "the best" if path is self.best else note
            rows.append([path.name, *(percent(one.score) for one in path.stages), note])
        return f"{columns(rows)}\n" + (
            "The items that searches find most often come first. Together: mapped and new embeddings in one index; "
            "apart: in two, each searched by its own queries, and the results merged by rank."
        )


def paths(comparison: Comparison, maps: Mapping[str, Map], fitted: Pairs, held_out: Pairs) -> Paths:
    """The scores of each path by the share that is embedded anew, measured on pairs that no map was fitted on.

    Args:
        comparison: of the same maps and pairs, see ``compare.compare``.
        maps: see ``maps.fit``.
        fitted: the pairs that the maps were fitted on. Their old embeddings are the searches that tell which items are
            found most often, and both are what ranks are taken among.
        held_out: the others.
    """
    judge, metric = Judge(held_out, comparison.metric), comparison.metric
    queries, order = judge.queries, times_found(fitted.old[:COUNTED], held_out.old, metric)
    order = order.argsort(descending=True, stable=True)

    def ranked(scores: Tensor, query: Tensor, known: Tensor) -> Tensor:
        return stands_out(scores, similarity(query, known, metric))

    of_new = ranked(judge.truth, queries.new, fitted.new)
    found = []
    if comparison.old_model:
        old = judge.similarity(queries.old, held_out.old)
        found.append(_path("old/old, apart", None, ranked(old, queries.old, fitted.old), of_new, order, judge))
    for label, one in maps.items():
        if one.ends.direction == "gallery" and (label == comparison.choice or one.name in PLANNED):
            mapped = judge.by(one)
            apart = ranked(mapped, queries.new, one.of_pairs(fitted))
            found.append(_path(f"{label}, together", label, mapped, judge.truth, order, judge))
            found.append(_path(f"{label}, apart", label, apart, of_new, order, judge))
    return Paths(tuple(found))


def _path(name: str, map: str | None, before: Tensor, after: Tensor, order: Tensor, judge: Judge) -> Path:
    """Similarities of items that are not yet embedded anew, and of those that are."""
    found = []
    for share in SHARES:
        anew = torch.zeros(len(order), dtype=torch.bool)
        anew[order[: round(share * len(order))]] = True
        found.append(judge(torch.where(anew, after, before)).values)
    worse = min(found[0], found[-1], key=sum)
    stages = ((interval(values), difference(values, worse, paired=True)) for values in found)
    return Path(name, map, tuple(Stage(share, *stage) for share, stage in zip(SHARES, stages, strict=True)))


def stands_out(scores: Tensor, reference: Tensor) -> Tensor:
    """Similarities of each query in one space, made comparable with those in another: how far an item stands out among
    items that are known in both.

    The similarities of the 50 nearest of these exceed that of the 50th by some mean. In this unit, beyond the 50th,
    what an item has is the logarithm of its rank among any number of items, where the tail is exponential. (By mean and
    standard deviation of all of them the tails would not fit each other.)

    Args:
        scores: (q, n) of items.
        reference: (q, m) of the known ones.

    Source: Seo et al., WACV 2025, who merge by distances that are trained to be comparable; here nothing is trained.
    """
    nearest = reference.topk(min(TAIL, reference.shape[1])).values
    last = nearest[:, -1:]
    return (scores - last) / (nearest - last).mean(1, keepdim=True).clamp_min(1e-12)


def times_found(queries: Tensor, items: Tensor, metric: str) -> Tensor:
    """Count the searches that have each item (n,) among their first results: as many as are a fiftieth of the items,
    and at most 50."""
    return often_found(queries, items.split(BLOCK), metric, max(1, min(OFTEN, len(items) // 50)))


def often_found(queries: Tensor, blocks: Iterable[Tensor], metric: str, most: int = OFTEN) -> Tensor:
    """Count the searches that have each item (n,) among their first ``most``, items in blocks."""
    best, found, row = queries.new_zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64), 0
    for block in blocks:
        scores = torch.cat([best, similarity(queries, block, metric)], 1)
        rows = torch.cat([found, torch.arange(row, row + len(block)).expand(len(queries), -1)], 1)
        best, chosen = scores.topk(min(most, scores.shape[1]))
        found, row = rows.gather(1, chosen), row + len(block)
    return torch.bincount(found.flatten(), minlength=row)


def write_list(path: str | os.PathLike, gallery: Gallery, queries: Tensor, metric: str) -> None:
    """Write a CSV of the ids of a gallery (or its rows) and how often searches found each, most often found first.

    Args:
        path: of the file, which is replaced.
        gallery: read in blocks.
        queries: the searches, of which the first 5 000 count.
        metric: of the search.
    """
    blocks = (torch.from_numpy(np.array(block, np.float32)) for block in gallery.blocks("vector", BLOCK))
    times = often_found(queries[:COUNTED], blocks, metric)
    order = times.argsort(descending=True, stable=True).numpy()
    ids = np.arange(len(times)) if gallery.ids is None else gallery.ids
    with replacing(path) as file:
        write_csv(pa.table({"id": ids[order], "times_found": times.numpy()[order]}), file)
