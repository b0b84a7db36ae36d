"""Ways to serve a new model, compared on pairs that no map was fitted on: what each finds, what would be lost by it,
and what it costs.

Every way is a matrix of similarities of queries to items, and all are judged alike: a map of the gallery or of queries,
the old model as it is, and a cascade, which searches the old gallery and embeds the first results anew. ``ceiling``
says how much the old embeddings could give at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from compatkit import costs
from compatkit.intervals import Interval, difference, interval

from .maps import METHODS, Map, Pairs
from .metrics import METRICS, similarity
from .printed import columns, count, percent, percent_between
from .sizes import NEIGHBOURS, Sample

QUERIES_MOST = 2_000
ANEW = (50, 200)
"""How many results a cascade embeds anew."""
FEWEST_ANEW = 3  # among the held-out items, or nothing is said of a cascade in a larger gallery
KERNEL_PAIRS = 4_000
OLD, NEW = "old/old", "new/new"


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of queries, one number a query."""

    kept: Tensor
    """(q, 10): whether each of the 10 nearest by new/new is among the 10 nearest found, the nearest first"""
    top1: Tensor | None = None
    """(q,): whether the nearest item has the query's label, None without labels; of queries that have a match"""
    precision: Tensor | None = None
    """average precision of the same"""

    @property
    def values(self) -> list[float]:
        """The scores that are judged: average precision, or the share of neighbours kept where there are no labels."""
        return (self.kept.mean(1) if self.precision is None else self.precision).tolist()

    @property
    def works(self) -> Tensor:
        """Queries that find what they should: an item of their label first or, without labels, the item nearest by
        new/new among the 10 nearest."""
        return self.kept[:, 0] if self.top1 is None else self.top1


class Judge:
    """Queries, items and what is right: judges any way to search.

    Args:
        held_out: pairs that no map was fitted on; their own items are left out.
        metric: of the search.
    """

    def __init__(self, held_out: Pairs, metric: str):
        self.pairs, self.metric = held_out, metric
        self.queries = held_out.rows(torch.arange(min(len(held_out), QUERIES_MOST)))
        self.truth = self.similarity(self.queries.new, held_out.new)
        self._nearest = self.truth.topk(NEIGHBOURS).indices
        self._relevant = None
        if held_out.labels is not None:
            same = held_out.labels[: len(self.queries), None] == held_out.labels
            self._matched = same.sum(1) > 1
            self._relevant = same[self._matched]
            if not self._matched.any():
                raise ValueError(f"labels: some of the {len(held_out)} held-out items must share one")

    def similarity(self, query: Tensor, items: Tensor) -> Tensor:
        """Similarities (q, n), without a query's own item."""
        return similarity(query, items, self.metric).fill_diagonal_(-torch.inf)

    def by(self, one: Map) -> Tensor:
        """Similarities by a map."""
        mapped = one.of_pairs(self.pairs)
        if one.ends.direction == "queries":
            return self.similarity(mapped[: len(self.queries)], self.pairs.old)
        return self.similarity(self.queries.new, mapped)

    def __call__(self, scores: Tensor) -> Scores:
        found = scores.topk(NEIGHBOURS).indices
        kept = (self._nearest[:, :, None] == found[:, None]).any(2).double()
        if self._relevant is None:
            return Scores(kept)
        order = scores[self._matched].argsort(dim=1, descending=True, stable=True)
        hits = self._relevant.gather(1, order[:, :-1]).double()  # the last one is its own item
        precise = hits * hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
        return Scores(kept, hits[:, 0], precise.sum(1) / hits.sum(1))


@dataclass(frozen=True)
class Way:
    """The scores of one way on the held-out pairs, with 95 % intervals over queries, and its price."""

    name: str  #: "new/ridge + side": mapped items; "ridge/old": mapped queries; "old/old, 200 anew": a cascade
    score: Interval  #: what is judged: mAP with labels, agreement without
    agreement: Interval  #: share of the 10 nearest items under new/new that are among the 10 nearest found
    in_gallery: Interval | None  #: agreement in a gallery of its size, see ``sizes``; None where that is not known
    top1: Interval | None  #: CMC top-1, None without labels
    gain: Interval  #: score less that of old/old, by query
    lost: Interval  #: share of queries that work by old/old and no longer would, see ``Scores.works``
    won: Interval  #: and of those that would and do not by old/old
    seconds: float  #: of a map, for 10 000 items or queries, here
    bytes: int  #: that an item takes in the store
    anew: float  #: images that the new model embeds again: for each query in a cascade, and for each item by new/new


@dataclass(frozen=True)
class Comparison:
    """All ways by name, and what they were compared on."""

    ways: dict[str, Way]
    ceiling: Interval  #: agreement that no map, with side-information where there is some, would exceed
    fitted_on: int
    held_out: int
    labelled: bool
    metric: str
    gallery_size: int | None
    old_model: bool  #: whether queries can still be embedded by the old model
    maps: list[str] = field(default_factory=list)

    @property
    def best(self) -> str:
        """The map with the highest score."""
        return max(self.maps, key=lambda name: self.ways[name].score.mean)

    @property
    def choice(self) -> str:
        """The simplest map that equals the best: whose 95 % interval overlaps with that one's."""
        best = self.ways[self.best].score
        same = [n for n in self.maps if self.ways[n].score.low <= best.high and best.low <= self.ways[n].score.high]
        return min(same, key=lambda name: (METHODS.index(method_of(name)), "side" in name, "/old" in name))

    def table(self) -> str:
        """The comparison for people to read; ± is half a 95 % interval."""
        size = "" if self.gallery_size is None else f"in {count(self.gallery_size)}, %"
        heads = ["agreement, %", size, "top-1, %", "mAP, %", "lost, %", "won, %", "s / 10 000", "bytes", "anew"]
        rows = [["", *heads]]
        for way in self.ways.values():
            mean_ap = percent(way.score) if self.labelled else ""
            found = [percent(way.agreement), percent_between(way.in_gallery), percent(way.top1), mean_ap]
            changed = ["", ""] if way.name in (OLD, NEW) else [percent(way.lost), percent(way.won)]
            price = f"{way.seconds:.2g}" if way.seconds else ""
            rows.append([way.name, *found, *changed, price, count(way.bytes), f"{way.anew:g}" if way.anew else ""])
        works = "a nearest one with their label" if self.labelled else "the nearest one among the 10 nearest"
        return f"{columns(rows)}\n" + (
            f"Fitted on {count(self.fitted_on)} pairs, compared on {count(self.held_out)} others by "
            f"{METRICS[self.metric]} (± half a 95 % interval; agreement: of the 10 nearest by new/new; lost, won: "
            f"queries that have {works} by old/old and not so, and the reverse; bytes of an item; images embedded anew "
            f"for a query or an item). No map from these embeddings would agree by more than about "
            f"{100 * self.ceiling.mean:.0f} %."
            + f" {size[:1].upper()}{size[1:]}: agreement in a gallery of that size, extrapolated."
            * bool(size)
        )


def method_of(name: str) -> str:
    """The method of a map's label."""
    return name.removeprefix("new/").removesuffix("/old").removesuffix(" + side")


def compare(
    maps: Mapping[str, Map],
    fitted: Pairs,
    held_out: Pairs,
    *,
    metric: str = "l2",
    gallery_size: int | None = None,
    old_model: bool = True,
) -> Comparison:
    """Measure every way on pairs that no map was fitted on; with labels also as retrieval by class.

    Args:
        maps: see ``maps.fit``.
        fitted: the pairs that they were fitted on.
        held_out: others.
        metric: that the gallery will be searched with, one of ``metrics.METRICS``.
        gallery_size: how many items it will have; None if that is not known.
        old_model: whether queries can still be embedded by the old model; False leaves ways out that need it.

    Raises:
        ValueError: embeddings that are all the same, or no two items with one label.
    """
    for name, x in (("old", held_out.old), ("new", held_out.new)):
        if not (x - x.mean(0)).any():
            raise ValueError(f"{name}: embeddings must not all be the same")
    judge, n = Judge(held_out, metric), len(held_out)
    size = Sample(gallery_size, judge.truth) if gallery_size is not None else None
    bytes_old = 4 * sum(x.shape[1] for x in (held_out.old, held_out.side) if x is not None)
    bytes_new = held_out.new.shape[1] * np.dtype(held_out.new_dtype).itemsize
    ways: dict[str, Way] = {}
    old = judge.similarity(judge.queries.old, held_out.old)
    before = judge(old)

    def add(name: str, by: Tensor, at_scale: Tensor | None, stored: int, seconds: float = 0, anew: float = 0):
        found = judge(by)
        ways[name] = Way(
            name=name,
            score=interval(found.values),
            agreement=interval(found.kept.mean(1).tolist()),
            in_gallery=None if size is None or at_scale is None else size.agreement(at_scale),
            top1=None if found.top1 is None else interval(found.top1.tolist()),
            gain=difference(found.values, before.values, paired=True),
            lost=interval((before.works * (1 - found.works)).tolist()),
            won=interval((found.works * (1 - before.works)).tolist()),
            seconds=seconds,
            bytes=stored,
            anew=anew,
        )

    add(OLD, old, old, bytes_old)
    for label, one in maps.items():
        seconds = costs.seconds(partial(one.of_pairs, held_out)) * 10_000 / n
        scores, stored = judge.by(one), bytes_new if one.ends.direction == "gallery" else bytes_old
        add(label, scores, scores, stored, seconds)
    of_queries = [name for name, one in maps.items() if one.ends.direction == "queries" and one.name != "identity"]
    first = OLD if old_model else max(of_queries, key=lambda name: ways[name].score.mean, default=None)
    if first is not None:
        scores = old if first == OLD else judge.by(maps[first])
        for most in ANEW:
            few = most * n / max(n, gallery_size or n)  # of as many results here
            at_scale = cascade(scores, judge.truth, round(few)) if few >= FEWEST_ANEW else None
            add(f"{first}, {most} anew", cascade(scores, judge.truth, most), at_scale, bytes_old, anew=most)
    add(NEW, judge.truth, judge.truth, bytes_new, anew=1)
    return Comparison(
        ways=ways,
        ceiling=ceiling(fitted, judge, ways),
        fitted_on=len(fitted),
        held_out=n,
        labelled=held_out.labels is not None,
        metric=metric,
        gallery_size=gallery_size,
        old_model=old_model,
        maps=list(maps),
    )


def cascade(first: Tensor, again: Tensor, most: int) -> Tensor:
    """Similarities of a search whose first results are embedded and ranked anew.

    Args:
        first: (q, n) of the search of the old gallery.
        again: (q, n) by the new model.
        most: how many results.
    """
    chosen = first >= first.topk(min(most, first.shape[1])).values[:, -1:]
    beyond = torch.stack([x[x.isfinite()].abs().max() for x in (first, again)]).sum()
    return torch.where(chosen, again, first - 2 * beyond - 1)


def ceiling(fitted: Pairs, judge: Judge, ways: Mapping[str, Way]) -> Interval:
    """Agreement that no map from the old embeddings would exceed, as far as pairs can tell.

    The best guess of a new embedding is its mean given the old one. A kernel regression comes as near to it as pairs
    allow, and its error falls with their number: what it gives with a quarter, a half and all of them is extrapolated.
    Where old/old or a map agrees by more, that counts.

    Args:
        fitted: the pairs, of which the first 4 000 are taken.
        judge: of the held-out ones.
        ways: what was measured.
    """
    known = [way.agreement for name, way in ways.items() if name == OLD or (name.startswith("new/") and name != NEW)]
    found = []
    n = min(len(fitted), KERNEL_PAIRS)
    for part in (n // 4, n // 2, n):
        guess = kernel_regression(fitted.rows(torch.arange(part)), judge.pairs)
        found.append(interval(judge(judge.similarity(judge.queries.new, guess)).kept.mean(1).tolist()))
    steps = found[1].mean - found[0].mean, found[2].mean - found[1].mean
    more = max(0.0, steps[1]) * (1 if steps[0] <= 0 else min(3.0, 1 / max(1 - steps[1] / steps[0], 0.25) - 1))
    last = found[2]
    limit = Interval(min(1.0, last.mean + more), min(1.0, last.low + more), min(1.0, last.high + more), last.n)
    return max([*known, limit], key=lambda one: one.mean)


def kernel_regression(fitted: Pairs, at: Pairs) -> Tensor:
    """New embeddings of items, guessed from their old ones by ridge regression and, on what that leaves, kernel ridge
    regression with a Gaussian kernel as wide as half of the pairs are apart."""
    from compatkit.alignment import ridge

    old = [x.old if x.side is None else torch.cat([x.old, x.side], 1) for x in (fitted, at)]
    mean, spread = old[0].mean(0), old[0].std(0).clamp_min(1e-12)
    x, y = ((one - mean) / spread for one in old)
    linear = ridge(x, fitted.new)
    apart = torch.cdist(x, x).square()
    width = apart.flatten()[:: max(1, apart.numel() // 10_000)].median().clamp_min(1e-12)
    kernel = torch.exp(-apart / width).double() + 0.3 * torch.eye(len(x), dtype=torch.float64)
    weights = torch.linalg.solve(kernel, (fitted.new - linear(x)).double())
    return linear(y) + (torch.exp(-torch.cdist(y, x).square() / width).double() @ weights).to(y.dtype)
