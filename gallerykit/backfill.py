"""Back-filling a part of a gallery: which items first, and what it gives.

A map does not fit equally well everywhere, and some items stand in many more lists of results than others. Those on
which it loses most are embedded anew by the new model, and the others mapped: between a map alone and back-filling
all, for a share of its price. What it loses near an item is told from pairs, without the new embedding of the item.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compatkit import retrieval
from compatkit.files import replacing
from compatkit.intervals import Interval, difference, interval

from .maps import Map, Pairs
from .metrics import as_compared, for_l2, similarity
from .printed import columns, count, percent, percent_between
from .sizes import WORKING_SET, Sample

NEAR = 30
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a map loses near an item: the mean over the 30 pairs whose old embeddings are nearest, of pairs that it was
    not fitted on. What it loses on a pair is its squared error there, times how often searches find the pair: one more
    than the number of other pairs that have it among their 30 nearest by new/new."""

    old: Tensor
    """(n, d_old) of the pairs, as the metric compares them"""
    losses: Tensor
    """(n,) of the map"""
    metric: str

    @classmethod
    @torch.no_grad()
    def of(cls, function: Map, held_out: Pairs, metric: str = "l2") -> Ranking:
        """Measure the map on pairs that it was not fitted on; by cosine at length 1."""
        mapped, new = (as_compared(x, metric) for x in (function(held_out.old, held_out.side), held_out.new))
        errors = (mapped - new).square().sum(1)
        return cls(as_compared(held_out.old, metric), errors * (1 + _times_found(new, metric)), metric)

    @torch.no_grad()
    def __call__(self, old: Tensor, own: Tensor | None = None) -> Tensor:
        """The loss to expect (m,): what is largest is to be back-filled first.

        Args:
            old: embeddings (m, d_old).
            own: (m,) int64, the row among the pairs of those that are one of them, which is left out; -1 for others.
        """
        found = []
        for rows in _blocks(len(old), self.old):
            scores = similarity(as_compared(old[rows], self.metric), self.old, "l2")
            if own is not None:
                mine = own[rows]
                scores[mine >= 0, mine[mine >= 0]] = -torch.inf
            found.append(self.losses[scores.topk(_near(self.old)).indices].mean(1))
        return torch.cat(found)


def _times_found(new: Tensor, metric: str) -> Tensor:
    """How many of the other pairs have each (n,) among their nearest."""
    times = torch.zeros(len(new), device=new.device)
    for rows in _blocks(len(new), new):
        scores = similarity(new[rows], new, metric)
        scores[torch.arange(len(rows), device=new.device), rows] = -torch.inf
        times += torch.bincount(scores.topk(_near(new)).indices.flatten(), minlength=len(new))
    return times


def _blocks(n: int, pairs: Tensor) -> tuple[Tensor, ...]:
    """The rows of n items, so many at a time that their similarities to the pairs fit."""
    return torch.arange(n, device=pairs.device).split(max(1, WORKING_SET // len(pairs)))


def _near(pairs: Tensor) -> int:
    return min(NEAR, len(pairs) - 1)


@dataclass(frozen=True)
class Share:
    """What a gallery gave of which this share was back-filled, with 95 % intervals over queries."""

    share: float
    agreement: Interval
    """the worst first, see ``comparison.Candidate``"""
    at_random: Interval
    """and in random order"""
    in_gallery: Interval | None
    """the first in a gallery of the size that it will have, see ``sizes``"""
    mean_ap: Interval | None
    """mAP, None without labels"""
    gain: Interval | None
    """that less mAP of old/old, by query"""


@dataclass(frozen=True)
class MixedPlan:
    """A map, and its gallery back-filled from the worst end, by share."""

    map: str
    shares: tuple[Share, ...]
    map_seconds: float
    """for 10 000 items"""
    gallery_size: int | None

    def seconds(self, share: float, backfill_seconds: float) -> float:
        """What 10 000 items take when this share is back-filled and the rest mapped.

        Args:
            share: in 0..1.
            backfill_seconds: what the new model takes for 10 000 items.
        """
        return share * backfill_seconds + (1 - share) * self.map_seconds

    def table(self, backfill_seconds: float | None = None) -> str:
        """The plan for people to read.

        Args:
            backfill_seconds: as in ``seconds``; None leaves its column out.
        """
        size = "" if self.gallery_size is None else count(self.gallery_size)
        rows = [["back-filled, %", "agreement, %", "at random, %", f"in {size}, %", "mAP, %", "s / 10 000"]]
        for one in self.shares:
            price = "" if backfill_seconds is None else f"{self.seconds(one.share, backfill_seconds):.3g}"
            scores = [percent(one.agreement), percent(one.at_random), percent_between(one.in_gallery)]
            rows.append([f"{100 * one.share:g}", *scores, percent(one.mean_ap), price])
        return (
            f"The worst part back-filled, the rest by {self.map}:\n{columns(rows)}\n"
            "Half of the held-out pairs tell which part is the worst, the other half are the queries: so what nothing "
            "back-filled gives is not quite what the table above has of all of them. At random: the same share in "
            "random order."
        )


@torch.no_grad()
def mixed(
    function: Map,
    held_out: Pairs,
    *,
    metric: str = "l2",
    gallery_size: int | None = None,
    map_seconds: float,
) -> MixedPlan:
    """What back-filling gives by its share, measured on pairs that the map was not fitted on.

    Half of them, drawn at random, rank all of them (see ``Ranking``), the others are the queries: what they find says
    nothing of the ranking. Back-filled items and mapped ones are searched together, as they are.

    Args:
        function: the map.
        held_out: the pairs.
        metric: that the gallery will be searched with, one of ``metrics.METRICS``.
        gallery_size: how many items it will have; None if that is not known.
        map_seconds: what the map takes for 10 000 items.
    """
    old, new, mapped = held_out.old, held_out.new, function(held_out.old, held_out.side)
    n = len(held_out)
    generator = torch.Generator().manual_seed(0)
    halves, anyhow = (torch.randperm(n, generator=generator).to(new.device) for _ in range(2))
    ranking, queries = halves[: n // 2], halves[n // 2 :]
    own = torch.full_like(halves, -1)
    own[ranking] = torch.arange(len(ranking), device=new.device)
    worst = Ranking.of(function, held_out.rows(ranking), metric)(old, own).argsort(descending=True)
    here = Sample(n, new[queries], new, queries, metric)
    there = None if gallery_size is None else Sample(gallery_size, new[queries], new, queries, metric)
    labels = _labels_with_match(held_out.labels, queries)
    before = None if labels is None else _precision(old, old, labels, queries, metric)
    shares = []
    for share in SHARES:
        by_loss, at_random = (_back_filled(order[: round(share * n)], mapped, new) for order in (worst, anyhow))
        after = None if labels is None else _precision(new, by_loss, labels, queries, metric)
        found, otherwise = (here.agreement(new[queries], gallery) for gallery in (by_loss, at_random))
        assert found is not None and otherwise is not None  # of the sample's own size
        shares.append(
            Share(
                share=share,
                agreement=found,
                at_random=otherwise,
                in_gallery=None if there is None else found if share == 1 else there.agreement(new[queries], by_loss),
                mean_ap=None if after is None else interval(after),
                gain=None if after is None or before is None else difference(after, before),
            )
        )
    return MixedPlan(function.name, tuple(shares), map_seconds, gallery_size)


def _back_filled(rows: Tensor, mapped: Tensor, new: Tensor) -> Tensor:
    return mapped.index_copy(0, rows, new[rows])


def _labels_with_match(labels: Tensor | None, queries: Tensor) -> Tensor | None:
    """None where no query shares its label with another item."""
    if labels is None:
        return None
    _, label, items = labels.unique(return_inverse=True, return_counts=True)
    return labels if (items[label[queries]] > 1).any() else None


def _precision(query: Tensor, gallery: Tensor, labels: Tensor, queries: Tensor, metric: str) -> list[float]:
    """Average precision of each of these queries that has a match."""
    query, gallery = for_l2(query[queries], gallery, metric)
    items = torch.arange(len(gallery), device=gallery.device)
    scores = retrieval.evaluate(query, labels[queries], gallery, labels, ks=(1,), query_ids=queries, gallery_ids=items)
    return scores.average_precision[scores.hit_rank > 0].tolist()


def write_list(path: str | os.PathLike, ids: Sequence | np.ndarray, losses: np.ndarray) -> None:
    """Write a CSV of items and the losses to expect of them, the worst first.

    Args:
        path: of the file, which is replaced.
        ids: of the items, or their rows.
        losses: (n,), see ``Ranking``.
    """
    order = np.argsort(-losses, kind="stable")
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "expected_loss"])
        writer.writerows((ids[i], f"{losses[i]:.6g}") for i in order)
        text.detach()  # written out, and the file left open
