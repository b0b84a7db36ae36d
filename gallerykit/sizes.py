"""Agreement in a gallery of another size than the sample that it is measured in.

Among more items the nearest ones are nearer, and errors of the same size mix up more of them. What a sample says of a
larger gallery rests on this: the 10 nearest items of a gallery are, in a random tenth of it, the nearest one. So the
agreement of the one nearest among n items stands for that of the 10 nearest among 10 n, up to a difference between
few and many neighbours, which is measured in the sample itself, at several sizes. Beyond 10 n the curve goes on as
steeply as it fell last, and the interval reaches from no further fall to one twice as steep. A curve fitted to the
10 nearest at smaller sizes would not do: nothing in it says what becomes of clusters that the sample holds whole.
(Where all clusters have one size, and the sample just resolves them, the interval may still miss by several points.)

Only items that no map was fitted on take part: a map fits the others better, and so would they be found more often.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from compatkit.intervals import Interval, interval, quantile

NEIGHBOURS = 10
FEWEST_ITEMS = 100
LEVELS = 4  # halvings of the sample at which few and many neighbours are compared


@dataclass(frozen=True)
class _Cell:
    """Agreement of the k nearest among m random items: of the 10 nearest among 10 m / k, to all intents."""

    k: int
    m: int


@dataclass(frozen=True)
class _Design:
    """What is measured in a sample of n items for a gallery of ``size``."""

    target: _Cell
    levels: tuple[tuple[_Cell, _Cell], ...]
    """pairs of cells that would agree if few and many neighbours did; empty if the target has 10"""
    slope: tuple[_Cell, ...]
    """of sizes that double, the last of them n; empty if the target stands for the gallery"""
    beyond: float
    """log of the size by that which the target stands for"""

    @classmethod
    def of(cls, n: int, size: int) -> _Design:
        k = max(1, min(NEIGHBOURS, NEIGHBOURS * n // size))
        halves = [n >> i for i in range(LEVELS) if n >> i > 2 * NEIGHBOURS]
        levels = tuple((_Cell(NEIGHBOURS, half), _Cell(k, k * half // NEIGHBOURS)) for half in halves)
        beyond = max(0.0, math.log(size / (NEIGHBOURS * n)))
        slope = tuple(_Cell(1, n >> i) for i in (2, 1, 0)) if beyond else ()
        return cls(_Cell(k, min(n, k * size // NEIGHBOURS)), levels if k < NEIGHBOURS else (), slope, beyond)

    @property
    def cells(self) -> list[_Cell]:
        return list(dict.fromkeys([self.target, *(cell for level in self.levels for cell in level), *self.slope]))


class Sample:
    """Random items of a gallery, and queries whose nearest among them are known: what searching them otherwise would
    give in the whole gallery."""

    def __init__(self, size: int, truth: Tensor):
        """The truth.

        Args:
            size: of the gallery.
            truth: similarities (q, n) of queries to items, the larger the nearer; -inf for a query's own item.
        """
        n = truth.shape[1]
        self.known = n >= FEWEST_ITEMS or size <= n
        self._design = _Design.of(n, max(size, NEIGHBOURS + 1))
        self._order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self._nearest = self._search(truth) if self.known else {}

    def agreement(self, scores: Tensor) -> Interval | None:
        """The share of the 10 nearest by the truth that are among the 10 nearest found, in the whole gallery.

        Args:
            scores: similarities (q, n) of the same queries and items as they are searched.

        Returns:
            The share with a 95 % interval, which may reach farther down than up; None where the gallery is larger than
            a sample of fewer than 100 items.
        """
        if not self.known:
            return None
        found = self._search(scores)
        return _estimate({cell: _kept(self._nearest[cell], found[cell]) for cell in self._design.cells}, self._design)

    def _search(self, scores: Tensor) -> dict[_Cell, Tensor]:
        """For each cell the k nearest in each of the disjoint samples of m items, (q, samples, k)."""
        mixed = scores[:, self._order]
        return {cell: _nearest(mixed, cell) for cell in self._design.cells}


def _nearest(scores: Tensor, cell: _Cell) -> Tensor:
    samples = scores.shape[1] // cell.m
    scores = scores[:, : samples * cell.m].unflatten(1, (samples, cell.m))
    return scores.argmax(2, keepdim=True) if cell.k == 1 else scores.topk(cell.k, dim=2).indices


def _kept(nearest: Tensor, found: Tensor) -> Tensor:
    """Which share of the nearest is found by each query, (q,)."""
    return (nearest[..., None] == found[..., None, :]).any(3).double().mean((1, 2)).cpu()


def _estimate(kept: dict[_Cell, Tensor], design: _Design) -> Interval:
    """From what each query kept in each cell: its mean where that is of the gallery's size, and otherwise in logits.

    The half widths of these errors add up as squares: of the queries; of the difference between few and many
    neighbours, by how it varies over the levels, and half of it, for it is of smaller galleries; and of the slope.
    """
    if len(kept) == 1:
        return interval(kept[design.target].tolist())
    n = len(kept[design.target])
    means = {cell: (x.mean().item() * n + 0.5) / (n + 1) for cell, x in kept.items()}  # off 0 and 1, infinite in logits
    logit = {cell: math.log(p / (1 - p)) for cell, p in means.items()}
    differences = [logit[many] - logit[few] for many, few in design.levels]
    slopes = [(logit[b] - logit[a]) / math.log(2) for a, b in pairwise(design.slope)]
    weights = _weights(design)
    value = sum(weight * logit[cell] for cell, weight in weights.items())
    by_query = torch.stack(
        [weight / (means[cell] * (1 - means[cell])) * kept[cell] for cell, weight in weights.items()]
    )
    half = [1.96 * by_query.sum(0).std().item() / math.sqrt(n)]  # to first order
    if differences:
        spread = statistics.stdev(differences) * math.sqrt(1 + 1 / len(differences))
        half += [quantile(len(differences) - 1, 0.95) * spread, abs(statistics.fmean(differences)) / 2]
    down = up = 0.0
    if slopes:
        middle = statistics.fmean(slopes)
        down = design.beyond * (middle - 2 * min(0.0, *slopes))
        up = design.beyond * (max(0.0, *slopes) - middle)
    mean, low, high = (_share(x) for x in (value, value - math.hypot(*half, down), value + math.hypot(*half, up)))
    return Interval(mean, low, high, n)


def _share(logit: float) -> float:
    return (1 + math.tanh(logit / 2)) / 2


def _weights(design: _Design) -> dict[_Cell, float]:
    """The estimate as a sum of logits: the target, the mean difference between many and few, and the mean slope."""
    weights = dict.fromkeys(design.cells, 0.0)
    weights[design.target] += 1
    for many, few in design.levels:
        weights[many] += 1 / len(design.levels)
        weights[few] -= 1 / len(design.levels)
    if design.slope:
        weights[design.slope[-1]] += design.beyond / (2 * math.log(2))
        weights[design.slope[0]] -= design.beyond / (2 * math.log(2))
    return weights
