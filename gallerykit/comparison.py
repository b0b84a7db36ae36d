"""Maps compared on pairs that they were not fitted on: how well each would serve, what would be lost by it, and what it
costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from compatkit import costs, retrieval
from compatkit.intervals import Interval, difference, interval
from compatkit.progress import progress

from .backfill import MixedPlan, mixed
from .embeddings import is_unit
from .maps import METHODS, Map, Pairs
from .metrics import METRICS, for_l2
from .printed import columns, count, percent, percent_between
from .sizes import NEIGHBOURS, Sample


@dataclass(frozen=True)
class Candidate:
    """What one map gave on the held-out pairs, with 95 % intervals over items, and what it costs."""

    name: str
    agreement: Interval
    """share of the 10 nearest items under new/new that are among the 10 nearest by the map (under new/map, for queries
    under map/old), own item left out: recall@10 against exact search"""
    in_gallery: Interval | None
    """agreement in a gallery of the size that it will have, see ``sizes``; None where that is not known"""
    recall: Interval
    """share of items whose nearest one under new/new is among the 10 nearest by the map"""
    error: Interval
    """squared distance to the embedding that the map should give, by that of these from their mean: 1 is no better"""
    top1: Interval | None
    """CMC top-1 by the map, None without labels"""
    reciprocal_rank: Interval | None
    """MRR by the map: of the nearest item with the label of the query"""
    mean_ap: Interval | None
    """mAP by the map"""
    gain: Interval | None
    """that less mAP of old/old, by query"""
    lost: Interval
    """share of queries that work by old/old and no longer would by the map: whose nearest item has their label or,
    without labels, whose nearest one under new/new is among the 10 nearest"""
    won: Interval
    """and of those that would by the map and do not by old/old"""
    macs: int
    parameters: int
    seconds: float
    """for 10 000 items, here"""


@dataclass(frozen=True)
class Comparison:
    """All candidates by name, what they are compared with, and the sizes of it all."""

    candidates: dict[str, Candidate]
    old: tuple[Interval, Interval, Interval] | None
    """CMC top-1, mAP and MRR of old/old, None without labels"""
    new: tuple[Interval, Interval, Interval] | None
    """and of new/new"""
    found_by_old: tuple[Interval, Interval]
    """agreement and recall of old/old, see ``Candidate``"""
    fitted_on: int
    held_out: int
    same_shape: bool
    """what is mapped is as wide as what it is mapped to and, for a gallery unless ``metric`` is cosine, of length 1
    where that is: it can serve as it is"""
    old_bytes: int
    side_bytes: int
    new_bytes: int
    metric: str = "l2"
    """that all searches were made with, one of ``metrics.METRICS``"""
    direction: str = "gallery"
    """one of ``maps.DIRECTIONS``"""
    gallery_size: int | None = None
    """how many items the gallery will have, None if that is not known"""
    mixed: MixedPlan | None = None
    """back-filling a part of the gallery, with the map that is used for the rest; None for queries"""

    @property
    def best(self) -> str:
        """The map with the highest score: mAP with labels, agreement without."""
        return max(self.candidates, key=lambda name: self.score(name).mean)

    @property
    def choice(self) -> str:
        """The simplest map that equals the best: whose 95 % interval overlaps with that one's."""
        best = self.score(self.best)
        found = {name: self.score(name) for name in self.candidates}
        return next(n for n in METHODS if n in found and found[n].low <= best.high and best.low <= found[n].high)

    def score(self, name: str) -> Interval:
        """mAP of a candidate, or its agreement where there are no labels."""
        return self.candidates[name].mean_ap or self.candidates[name].agreement

    def table(self) -> str:
        """The comparison for people to read; ± is half a 95 % interval."""
        size = "" if self.gallery_size is None else f"in {count(self.gallery_size)}, %"
        scores = ["agreement, %", size, "recall, %", "lost, %", "won, %", "top-1, %", "MRR, %", "mAP, %"]
        found = [["", *scores]]
        found_by_old = list(map(percent, self.found_by_old))
        for name, (agreement, recall), known in (("old/old", found_by_old, self.old), ("new/new", ["", ""], self.new)):
            if name == "old/old" or known is not None:
                top1, mean_ap, reciprocal_rank = map(percent, known or (None,) * 3)
                found.append([name, agreement, "", recall, "", "", top1, reciprocal_rank, mean_ap])
        found += [self._found(c) for c in self.candidates.values()]
        cost = [["", "error", "MACs", "parameters", "s / 10 000"], *map(self._cost, self.candidates.values())]
        side = f" and {self.side_bytes} of side-information" if self.side_bytes else ""
        works = "the nearest one among the 10 nearest" if self.old is None else "a nearest one with their label"
        return f"{columns(found)}\n{columns(cost)}\n" + (
            f"Fitted on {self.fitted_on} pairs, compared on {self.held_out} others by "
            f"{METRICS[self.metric]} (± half a 95 % interval; agreement: of the 10 nearest by new/new, recall: of "
            f"the nearest one, among the 10 nearest by the map; lost, won: queries that have {works} by old/old "
            f"and not by the map, and the reverse). An item "
            f"takes {self.old_bytes} bytes{side} now, {self.new_bytes} as a new embedding."
            + f" {size[:1].upper()}{size[1:]}: agreement in a gallery of that size, extrapolated, with its interval."
            * bool(size)
            + " Queries are mapped, and the gallery stays." * (self.direction == "queries")
        )

    def _found(self, c: Candidate) -> list[str]:
        kept = [percent(c.agreement), percent_between(c.in_gallery), *map(percent, (c.recall, c.lost, c.won))]
        return [self._search(c), *kept, *map(percent, (c.top1, c.reciprocal_rank, c.mean_ap))]

    def _cost(self, c: Candidate) -> list[str]:
        error = f"{c.error.mean:.3f} ± {c.error.half_width:.3f}"
        return [self._search(c), error, f"{c.macs:,}", f"{c.parameters:,}", f"{c.seconds:.2g}"]

    def _search(self, c: Candidate) -> str:
        return f"{c.name}/old" if self.direction == "queries" else f"new/{c.name}"


def compare(
    maps: Mapping[str, Map],
    held_out: Pairs,
    fitted_on: int,
    *,
    direction: str = "gallery",
    metric: str = "l2",
    gallery_size: int | None = None,
    method: str | None = None,
    show_progress: bool = False,
) -> Comparison:
    """Measure each map on pairs that it was not fitted on; with labels also as retrieval by class.

    By the map, new embeddings search among mapped old ones, or, for queries, mapped new ones among the old. For a
    gallery one of the maps is also measured with a part back-filled.

    Args:
        maps: see ``maps.fit``.
        held_out: the pairs.
        fitted_on: how many pairs the maps saw; it is only passed on.
        direction: as in ``maps.fit``.
        metric: that the gallery will be searched with, one of ``metrics.METRICS``.
        gallery_size: how many items it will have; None if that is not known.
        method: the map for the rest of a gallery that is back-filled in part; None takes the choice.
        show_progress: one line a map.
    """
    old, new, labels, queries = held_out.old, held_out.new, held_out.labels, direction == "queries"
    source, target, side = (new, old, None) if queries else (old, new, held_out.side)
    spread = (target - target.mean(0)).square().sum(1).mean()
    if not spread > 0:
        raise ValueError(f"{'old' if queries else 'new'}: embeddings must not all be the same")
    if labels is not None and not (labels.unique(return_counts=True)[1] > 1).any():
        raise ValueError(f"labels: some of the {len(labels)} held-out items must share one, got another one for each")
    neighbours = _neighbours(new, new, metric)
    kept_by_old = _kept(neighbours, _neighbours(old, old, metric))
    before = None if labels is None else _retrieval(old, old, labels, metric)
    own = torch.arange(len(new), device=new.device)
    in_gallery = None if gallery_size is None else Sample(gallery_size, new, new, own, metric)
    candidates = {}
    steps = progress(0, len(maps), "comparing", "map", show_progress)
    for _, (name, function) in zip(steps, maps.items(), strict=True):
        mapped = function(source, side)
        searched = (mapped, old) if queries else (new, mapped)
        found = None if labels is None else _retrieval(*searched, labels, metric)
        kept = _kept(neighbours, _neighbours(*searched, metric))
        works, worked = (kept[:, 0], kept_by_old[:, 0]) if not (found and before) else (found.top1, before.top1)
        candidates[name] = Candidate(
            name=name,
            agreement=_mean(kept.mean(1)),
            in_gallery=None if in_gallery is None else in_gallery.agreement(*searched),
            recall=_mean(kept[:, 0]),
            error=_mean((mapped - target).square().sum(1) / spread),
            top1=None if found is None else _mean(found.top1),
            reciprocal_rank=None if found is None else _mean(found.reciprocal_rank),
            mean_ap=None if found is None else _mean(found.precision),
            gain=None if not (found and before) else difference(found.precision.tolist(), before.precision.tolist()),
            lost=_mean(worked * (1 - works)),
            won=_mean(works * (1 - worked)),
            macs=function.macs,
            parameters=function.parameters,
            seconds=costs.seconds(partial(function, source, side)) * 10_000 / len(old),
        )
    comparison = Comparison(
        candidates=candidates,
        old=None if before is None else before.means(),
        new=None if labels is None else _retrieval(new, new, labels, metric).means(),
        found_by_old=(_mean(kept_by_old.mean(1)), _mean(kept_by_old[:, 0])),
        fitted_on=fitted_on,
        held_out=len(held_out),
        # the length of a query changes no order among items of length 1
        same_shape=old.shape[1] == new.shape[1] and (queries or metric == "cosine" or is_unit(old) or not is_unit(new)),
        old_bytes=held_out.old_bytes,
        side_bytes=held_out.side_bytes,
        new_bytes=new.shape[1] * np.dtype(held_out.new_dtype).itemsize,
        metric=metric,
        direction=direction,
        gallery_size=gallery_size,
    )
    if queries:
        return comparison
    used = method or comparison.choice
    seconds = candidates[used].seconds
    plan = mixed(maps[used], held_out, metric=metric, gallery_size=gallery_size, map_seconds=seconds)
    return replace(comparison, mixed=plan)


@dataclass(frozen=True, eq=False)
class _Retrieval:
    """Of each query with a match, (n,)."""

    top1: Tensor
    """1 where the nearest item is one"""
    precision: Tensor
    reciprocal_rank: Tensor

    def means(self) -> tuple[Interval, Interval, Interval]:
        return _mean(self.top1), _mean(self.precision), _mean(self.reciprocal_rank)


def _retrieval(query: Tensor, gallery: Tensor, labels: Tensor, metric: str) -> _Retrieval:
    query, gallery = for_l2(query, gallery, metric)
    scores = retrieval.evaluate(query, labels, gallery, labels, ks=(1,), same_items=True)
    matched = scores.hit_rank > 0
    ranks = scores.hit_rank[matched].double()
    return _Retrieval((ranks == 1).double(), scores.average_precision[matched], 1 / ranks)


def _kept(neighbours: Tensor, found: Tensor) -> Tensor:
    """Of each neighbour (n, k) whether it is among those found (n, k), as 0 and 1."""
    return (neighbours[:, :, None] == found[:, None]).any(2).double()


def _neighbours(query: Tensor, gallery: Tensor, metric: str) -> Tensor:
    return retrieval.nearest(*for_l2(query, gallery, metric), NEIGHBOURS, same_items=True)[1]


def _mean(x: Tensor) -> Interval:
    return interval(x.tolist())
