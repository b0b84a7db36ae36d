"""Maps from an old model's embeddings to a new model's, or back: fitted on pairs, compared and priced on others, and
advice on which to use.

================  ==================================================================================================
``identity``      nothing
``Procrustes``    rotation, scale and shift
``low-rank``      linear, through fewer dimensions: ridge of reduced rank
``ridge``         linear
``residual``      scale * x + MLP(x), trained (Vejendla 2025, Drift-Adapter)
``h``             the learned transformation of paper B (Ramanujan et al., Sec. 3.3), trained
================  ==================================================================================================

A map serves in one of two ``DIRECTIONS``: it carries the "gallery" to the new model, or "queries" of the new model to
the old gallery, whose index stays as it is.

    to_fit, held_out = split(Pairs(old, new, side, labels))
    comparison = compare(fit(to_fit), held_out, fitted_on=len(to_fit))
    method, advice = recommend(comparison)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import costs, retrieval
from ..alignment import Affine, LowRank, identity, low_rank, procrustes, ridge
from ..encoders import fit_width
from ..fct import FitTransformation, Residual, Transformation, transform
from ..intervals import Interval, difference, interval
from ..models import count_parameters
from ..progress import progress
from ..recipes import TRANSFORMATION
from ..training import train
from .embeddings import is_unit

CLOSED_FORMS: dict[str, Callable[[Tensor, Tensor], Affine | LowRank]] = {
    "identity": identity,
    "Procrustes": procrustes,
    "low-rank": low_rank,
    "ridge": ridge,
}
"""What ``alignment`` fits without training, by what it costs."""
NETWORKS: dict[str, type[Residual | Transformation]] = {"residual": Residual, "h": Transformation}
"""What is trained, which takes minutes."""
METHODS = (*CLOSED_FORMS, *NETWORKS)
"""The maps, the simplest first: the order in which ``recommend`` prefers them."""
METRICS = {"l2": "L2 distance", "cosine": "cosine", "ip": "inner product"}
"""What a gallery can be searched with."""
DIRECTIONS = ("gallery", "queries")
"""What is mapped: the old gallery into the new space, or new queries into the old one (Vejendla 2025)."""
NEIGHBOURS = 10
HELD_OUT_SHARE, HELD_OUT_MOST = 0.2, 10_000
H_ROWS = 4_096  # at a time through h, whose layers may be far wider than its input


@dataclass(frozen=True, eq=False)
class Pairs:
    """Embeddings of the same n items by both models, float32, and what is known of them."""

    old: Tensor
    """(n, d_old)"""
    new: Tensor
    """(n, d_new)"""
    side: Tensor | None = None
    """(n, d_side): stored beside the old embeddings"""
    labels: Tensor | None = None
    """(n,) int64"""
    old_space: str = ""
    new_space: str = ""
    side_space: str = ""
    new_dtype: str = "float32"
    """of the numbers in the file, in which the new gallery is written"""
    old_bytes: int = 0
    """that one item takes in its file, and so on"""
    side_bytes: int = 0

    def __len__(self) -> int:
        return len(self.old)

    def rows(self, index: Tensor) -> Pairs:
        """The pairs of these rows."""
        return self._each(lambda x: x[index])

    def reversed(self) -> Pairs:
        """From new to old, for queries: these have no side-information, which is stored beside the gallery."""
        return Pairs(self.new, self.old, labels=self.labels, old_space=self.new_space, new_space=self.old_space)

    def to(self, device: torch.device | str) -> Pairs:
        return self._each(lambda x: x.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Pairs:
        side, labels = (None if x is None else function(x) for x in (self.side, self.labels))
        return replace(self, old=function(self.old), new=function(self.new), side=side, labels=labels)


@dataclass(frozen=True, eq=False)
class Map:
    """One way from embeddings (n, d_in), with side-information (n, d_side) or None, to others (n, d_out).

    ``unit`` makes the results of length 1, as the embeddings are that it was fitted to.
    """

    name: str
    function: Affine | LowRank | Residual | Transformation
    d_in: int
    d_side: int
    d_out: int
    unit: bool

    @torch.no_grad()
    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        if self.name == "identity":
            mapped = fit_width(x, self.d_out)
        elif isinstance(self.function, nn.Module):
            mapped = transform(self.function, x, _side_of_h(x, side), chunk=H_ROWS)
        else:
            mapped = self.function(_appended(x, side))
        return F.normalize(mapped, dim=1) if self.unit else mapped

    @property
    def macs(self) -> int:
        """Multiplications of an item."""
        if isinstance(self.function, nn.Module):
            like = next(self.function.parameters())
            return costs.macs(self.function, like.new_zeros(1, self.d_in), like.new_zeros(1, max(1, self.d_side)))
        return 0 if self.name == "identity" else self.parameters - self.d_out

    @property
    def parameters(self) -> int:
        if isinstance(self.function, nn.Module):
            return count_parameters(self.function)
        return 0 if self.name == "identity" else sum(x.numel() for x in vars(self.function).values())

    def state(self) -> dict:
        """All of it as tensors, numbers and text, for ``torch.save``."""
        about = {"name": self.name, "d_in": self.d_in, "d_side": self.d_side, "d_out": self.d_out, "unit": self.unit}
        if isinstance(self.function, nn.Module):
            return about | {"tensors": self.function.state_dict(), "width": self.function.width}
        return about | {"tensors": dict(vars(self.function)), "width": 0}

    @classmethod
    def from_state(cls, state: Mapping) -> Map:
        about = {name: state[name] for name in ("name", "d_in", "d_side", "d_out", "unit")}
        name, tensors = state["name"], state["tensors"]
        if name in CLOSED_FORMS:
            return cls(function=(LowRank if name == "low-rank" else Affine)(**tensors), **about)
        h = NETWORKS[name](about["d_in"], max(1, about["d_side"]), about["d_out"], state["width"], seed=0)
        h.load_state_dict(tensors)
        return cls(function=h.to(next(iter(tensors.values())).device), **about)


@dataclass(frozen=True)
class Candidate:
    """What one map gave on the held-out pairs, with 95 % intervals over items, and what it costs."""

    name: str
    agreement: Interval
    """share of the 10 nearest items under new/new that are among the 10 nearest by the map (under new/map, for queries
    under map/old), own item left out: recall@10 against exact search"""
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
    """that all searches were made with, one of ``METRICS``"""
    direction: str = "gallery"
    """one of ``DIRECTIONS``"""

    def table(self) -> str:
        """The comparison for people to read; ± is half a 95 % interval."""
        labelled = ["top-1, %", "MRR, %", "mAP, %"]
        rows = [["", "agreement, %", "recall, %", "error", *labelled, "MACs", "parameters", "s / 10 000"]]
        agreement, recall = map(_percent, self.found_by_old)
        for name, found, known in (("old/old", [agreement, recall], self.old), ("new/new", ["", ""], self.new)):
            if name == "old/old" or known is not None:
                top1, mean_ap, reciprocal_rank = map(_percent, known or (None,) * 3)
                rows.append([name, *found, "", top1, reciprocal_rank, mean_ap, "", "", ""])
        for name, c in self.candidates.items():
            costs = [f"{c.macs:,}", f"{c.parameters:,}", f"{c.seconds:.2g}"]
            error = f"{c.error.mean:.3f} ± {c.error.half_width:.3f}"
            scores = [_percent(c.agreement), _percent(c.recall), error]
            by = f"{name}/old" if self.direction == "queries" else f"new/{name}"
            rows.append([by, *scores, *map(_percent, (c.top1, c.reciprocal_rank, c.mean_ap)), *costs])
        if self.old is None:
            rows = [row[:4] + row[7:] for row in rows]
        side = f" and {self.side_bytes} of side-information" if self.side_bytes else ""
        return _columns(rows) + (
            f"\nFitted on {self.fitted_on} pairs, compared on {self.held_out} others by "
            f"{METRICS[self.metric]} (± half a 95 % interval; agreement: of the 10 nearest by new/new, recall: of "
            f"the nearest one, among the 10 nearest by the map). An item "
            f"takes {self.old_bytes} bytes{side} now, {self.new_bytes} as a new embedding."
            + " Queries are mapped, and the gallery stays."
            * (self.direction == "queries")
        )


def split(pairs: Pairs, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Pairs to fit on and pairs held out: a fifth, at most 10 000, drawn at random."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    held_out = min(int(HELD_OUT_SHARE * len(pairs)), HELD_OUT_MOST)
    return pairs.rows(order[held_out:]), pairs.rows(order[:held_out])


def fit(
    pairs: Pairs,
    methods: Sequence[str] = METHODS,
    *,
    direction: str = "gallery",
    width: int = 512,
    steps: int = 2_000,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> dict[str, Map]:
    """The maps from old to new, by name. All but identity see the side-information, where there is any.

    If all new embeddings have length 1, so have the results of every map.

    Args:
        pairs: embeddings of the same items by both models.
        methods: which maps, of ``METHODS``.
        direction: "queries" fits from new to old instead, without side-information.
        width: of the hidden layers of residual and h, see ``fct``.
        steps, seed, checkpoint: of the training of both, see ``training.train``.
        show_progress: of that training.
    """
    if direction == "queries":
        pairs = pairs.reversed()
    d_side = 0 if pairs.side is None else pairs.side.shape[1]
    d_old, d_new, unit = pairs.old.shape[1], pairs.new.shape[1], is_unit(pairs.new)
    trained = [name for name in methods if name in NETWORKS]
    networks = _fit_networks(trained, pairs, width, steps, seed, checkpoint, show_progress) if trained else {}
    maps = {}
    for name in methods:
        function: Affine | LowRank | Residual | Transformation
        if name in networks:
            function = networks[name]
        else:
            appended = _appended(pairs.old, None if name == "identity" else pairs.side)
            function = CLOSED_FORMS[name](appended, pairs.new)
        maps[name] = Map(name, function, d_old, d_side, d_new, unit)
    return maps


def _fit_networks(
    names: Sequence[str], pairs: Pairs, width: int, steps: int, seed: int, checkpoint, shown: bool
) -> dict[str, Residual | Transformation]:
    """Trained at spread 1: Adam's steps and BN's epsilon do not follow the scale of the embeddings. They share nothing
    but the minibatches, so that each is as if trained alone."""
    old, side, mean = pairs.old, _side_of_h(pairs.old, pairs.side), pairs.new.mean(0)
    scales = _spread(old), _spread(side), _spread(pairs.new)
    data = old / scales[0], side / scales[1], (pairs.new - mean) / scales[2]
    networks = {name: NETWORKS[name](old.shape[1], side.shape[1], len(mean), width, seed=seed) for name in names}
    tasks = [FitTransformation(h, *data, seed=seed) for h in networks.values()]
    recipe = replace(TRANSFORMATION, steps=steps)
    train(tasks, recipe, checkpoint=checkpoint, label=f"fitting {' and '.join(names)}", show_progress=shown)
    for h in networks.values():
        h.rescale(*scales, mean)
    return networks


def _spread(x: Tensor) -> Tensor:
    spread = (x - x.mean(0)).square().mean().sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _side_of_h(old: Tensor, side: Tensor | None) -> Tensor:
    return old.new_zeros(len(old), 1) if side is None else side


def _appended(old: Tensor, side: Tensor | None) -> Tensor:
    return old if side is None else torch.cat([old, side], 1)


def _intervals(scores: tuple[list[float], list[float], list[float]]) -> tuple[Interval, Interval, Interval]:
    return interval(scores[0]), interval(scores[1]), interval(scores[2])


def compare(
    maps: Mapping[str, Map],
    held_out: Pairs,
    fitted_on: int,
    *,
    direction: str = "gallery",
    metric: str = "l2",
    show_progress: bool = False,
) -> Comparison:
    """Measure each map on pairs that it was not fitted on; with labels also as retrieval by class.

    By the map, new embeddings search among mapped old ones, or, for queries, mapped new ones among the old.

    Args:
        maps: see ``fit``.
        held_out: the pairs.
        fitted_on: how many pairs the maps saw; it is only passed on.
        direction: as in ``fit``.
        metric: that the gallery will be searched with, one of ``METRICS``.
        show_progress: one line a map.
    """
    old, new, labels, queries = held_out.old, held_out.new, held_out.labels, direction == "queries"
    source, target, side = (new, old, None) if queries else (old, new, held_out.side)
    spread = (target - target.mean(0)).square().sum(1).mean()
    if not spread > 0:
        raise ValueError(f"{'old' if queries else 'new'}: embeddings must not all be the same")
    neighbours = _neighbours(new, new, metric)
    kept_by_old = _kept(neighbours, _neighbours(old, old, metric))
    before = None if labels is None else _retrieval(old, old, labels, metric)
    candidates = {}
    steps = progress(0, len(maps), "comparing", "map", show_progress)
    for _, (name, function) in zip(steps, maps.items(), strict=True):
        mapped = function(source, side)
        searched = (mapped, old) if queries else (new, mapped)
        found = None if labels is None else _retrieval(*searched, labels, metric)
        agreement, recall = _kept(neighbours, _neighbours(*searched, metric))
        candidates[name] = Candidate(
            name=name,
            agreement=agreement,
            recall=recall,
            error=interval(((mapped - target).square().sum(1) / spread).tolist()),
            top1=None if found is None else interval(found[0]),
            reciprocal_rank=None if found is None else interval(found[2]),
            mean_ap=None if found is None else interval(found[1]),
            gain=None if found is None or before is None else difference(found[1], before[1]),
            macs=function.macs,
            parameters=function.parameters,
            seconds=costs.seconds(partial(function, source, side)) * 10_000 / len(old),
        )
    return Comparison(
        candidates=candidates,
        old=None if before is None else _intervals(before),
        new=None if labels is None else _intervals(_retrieval(new, new, labels, metric)),
        found_by_old=kept_by_old,
        fitted_on=fitted_on,
        held_out=len(held_out),
        # the length of a query changes no order among items of length 1
        same_shape=old.shape[1] == new.shape[1] and (queries or metric == "cosine" or is_unit(old) or not is_unit(new)),
        old_bytes=held_out.old_bytes,
        side_bytes=held_out.side_bytes,
        new_bytes=new.shape[1] * np.dtype(held_out.new_dtype).itemsize,
        metric=metric,
        direction=direction,
    )


def _kept(neighbours: Tensor, found: Tensor) -> tuple[Interval, Interval]:
    """Which share of the neighbours (n, k) is among those found (n, k): of all, and of the nearest."""
    kept = (neighbours[:, :, None] == found[:, None]).any(2).double()
    return interval(kept.mean(1).tolist()), interval(kept[:, 0].tolist())


def _neighbours(query: Tensor, gallery: Tensor, metric: str) -> Tensor:
    return retrieval.nearest(*for_l2(query, gallery, metric), NEIGHBOURS, same_items=True)[1]


def _retrieval(
    query: Tensor, gallery: Tensor, labels: Tensor, metric: str
) -> tuple[list[float], list[float], list[float]]:
    """For each query with a match whether the nearest item is one, average precision, and reciprocal rank."""
    query, gallery = for_l2(query, gallery, metric)
    scores = retrieval.evaluate(query, labels, gallery, labels, ks=(1,), same_items=True)
    ranks = scores.hit_rank[scores.hit_rank > 0].double()
    return (ranks == 1).double().tolist(), scores.average_precision[scores.hit_rank > 0].tolist(), (1 / ranks).tolist()


def for_l2(query: Tensor, gallery: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Queries and items whose order by L2 distance is that of the given ones by another metric.

    Cosine: at length 1. Inner product: the items get one more number, so that all have the length of the longest, and
    the queries a zero there; then the squared distance is a constant of the query less twice the inner product.

    Args:
        query, gallery: embeddings (n, d) and (m, d).
        metric: one of ``METRICS``.

    Source: Bachrach et al. 2014, for the inner product.
    """
    if metric == "cosine":
        return F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    if metric == "ip":
        wide, squares = gallery.double(), gallery.double().square().sum(1, keepdim=True)
        return F.pad(query.double(), (0, 1)), torch.cat([wide, (squares.max() - squares).sqrt()], 1)
    return query, gallery


def recommend(
    comparison: Comparison, *, enough: float = 0.5, backfill_seconds: float | None = None
) -> tuple[str | None, str]:
    """Which map to use, and why.

    The score is mAP by the map where there are labels, and agreement with the new model's neighbours otherwise. Two
    maps are taken as equal if their 95 % intervals overlap. The best has the highest score. In this order:

    1. Back-fill if even the best is not good enough. With labels: its mAP is below that of old/old, by the interval of
       the difference between the two, query by query. Without: its agreement is below ``enough``.
    2. Choose the simplest map that equals the best: the order of ``METHODS``.
    3. Back-fill if that is not slower: ``backfill_seconds`` is what the new model takes for 10 000 items.
    4. Do nothing if the choice is identity and the old embeddings can be searched as they are, being as wide as the new
       ones and of length 1 where those are.
    5. Otherwise use the choice.

    Args:
        comparison: what ``compare`` measured.
        enough: the least agreement, in 0..1, of a map that may be used.
        backfill_seconds: None if not known.

    Returns:
        The name of the map, None for none, and a sentence that says why.
    """
    before = comparison.old
    labelled = before is not None
    scores = {name: c.mean_ap or c.agreement for name, c in comparison.candidates.items()}
    best = max(scores, key=lambda name: scores[name].mean)
    name = next(n for n in METHODS if n in scores and _overlap(scores[n], scores[best]))
    what = "mAP" if labelled else "agreement with the new model's nearest neighbours"
    shown = {n: f"{_percent(score)} %" for n, score in scores.items()}
    seconds = comparison.candidates[name].seconds
    gain = comparison.candidates[best].gain
    if before is not None and gain is not None and gain.high < 0:
        old = _percent(before[1])
        reason = f"even the best map, {best}, has a {what} of {shown[best]}, and old/old has {old} % without any"
        return None, f"Back-fill, or keep the old model: {reason}."
    if not labelled and scores[best].mean < enough:
        reason = f"even the best map, {best}, has an {what} of only {shown[best]}; {100 * enough:g} % would be enough"
        return None, f"Back-fill: {reason}."
    if backfill_seconds is not None and backfill_seconds <= seconds:
        return (
            None,
            f"Back-fill: it is exact and takes {backfill_seconds:.3g} s for 10 000 items, {name} {seconds:.3g} s.",
        )
    reason = f"its {what} is {shown[name]}, and "
    if name == best:
        others = [n for n in scores if METHODS.index(n) < METHODS.index(name)]
        reason += "no simpler map comes within its interval" if others else "no other map has more"
    else:
        reason += f"the best, {best} with {shown[best]}, is within the interval"
    if name == "identity" and comparison.same_shape:
        return None, f"Do nothing: the old gallery serves the new model as it is; {reason}."
    cost = (
        "" if backfill_seconds is None else f" Back-filling would take {backfill_seconds / seconds:,.0f} times as long."
    )
    return name, f"Use {name}: {reason}.{cost}"


def _overlap(a: Interval, b: Interval) -> bool:
    return a.low <= b.high and b.low <= a.high


def _percent(x: Interval | None) -> str:
    return "" if x is None else f"{100 * x.mean:.1f} ± {100 * x.half_width:.1f}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)
