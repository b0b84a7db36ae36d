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
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from compatkit.intervals import Interval, interval, quantile

NEIGHBOURS = 10
FEWEST_ITEMS = 100
LEVELS = 4  # halvings of the sample at which few and many neighbours are compared


class Cell(NamedTuple):
    """Agreement of the k nearest among m random items: of the 10 nearest among 10 m / k, to all intents."""

    k: int
    m: int


class Sample:
    """Random items of a gallery, and queries whose nearest among them are known: what searching them otherwise would
    give in the whole gallery.

    Args:
        size: of the gallery.
        truth: similarities (q, n) of queries to items, the larger the nearer; -inf for a query's own item.
    """

    def __init__(self, size: int, truth: Tensor):
        n = truth.shape[1]
        self.known = n >= FEWEST_ITEMS or size <= n
        size = max(size, NEIGHBOURS + 1)
        k = max(1, min(NEIGHBOURS, NEIGHBOURS * n // size))
        self._target = Cell(k, min(n, k * size // NEIGHBOURS))
        halves = [n >> i for i in range(LEVELS) if n >> i > 2 * NEIGHBOURS and k < NEIGHBOURS]
        # pairs of cells that would agree if few and many neighbours did
        self._levels = [(Cell(NEIGHBOURS, half), Cell(k, k * half // NEIGHBOURS)) for half in halves]
        self._beyond = max(0.0, math.log(size / (NEIGHBOURS * n)))  # how much larger than what the target stands for
        self._slope = [Cell(1, n >> i) for i in (2, 1, 0) if self._beyond]
        cells = [self._target, *(cell for level in self._levels for cell in level), *self._slope]
        self._cells = list(dict.fromkeys(cells))
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
        same = {cell: self._nearest[cell][..., None] == found[cell][..., None, :] for cell in self._cells}
        return self._estimate({cell: x.any(3).double().mean((1, 2)).cpu() for cell, x in same.items()})

    def _search(self, scores: Tensor) -> dict[Cell, Tensor]:
        """For each cell the k nearest in each of the disjoint samples of m items, (q, samples, k)."""
        mixed, found = scores[:, self._order], {}
        for cell in self._cells:
            samples = mixed.shape[1] // cell.m
            parts = mixed[:, : samples * cell.m].unflatten(1, (samples, cell.m))
            found[cell] = parts.argmax(2, keepdim=True) if cell.k == 1 else parts.topk(cell.k, dim=2).indices
        return found

    def _estimate(self, kept: dict[Cell, Tensor]) -> Interval:
        """From what each query kept in each cell: where that is of the gallery's size its mean, otherwise in logits.

        The half widths of these errors add up as squares: of the queries; of the difference between few and many
        neighbours, by how it varies over the levels, and half of it, for it is of smaller galleries; and of the slope.
        """
        if len(kept) == 1:
            return interval(kept[self._target].tolist())
        n = len(kept[self._target])
        means = {cell: (x.mean().item() * n + 0.5) / (n + 1) for cell, x in kept.items()}  # off 0 and 1
        logit = {cell: math.log(p / (1 - p)) for cell, p in means.items()}
        differences = [logit[many] - logit[few] for many, few in self._levels]
        slopes = [(logit[b] - logit[a]) / math.log(2) for a, b in pairwise(self._slope)]
        weights = self._weights()
        value = sum(weight * logit[cell] for cell, weight in weights.items())
        by_query = sum(weight / (means[cell] * (1 - means[cell])) * kept[cell] for cell, weight in weights.items())
        half = [1.96 * torch.as_tensor(by_query).std().item() / math.sqrt(n)]  # to first order
        if differences:
            spread = statistics.stdev(differences) * math.sqrt(1 + 1 / len(differences))
            half += [quantile(len(differences) - 1, 0.95) * spread, abs(statistics.fmean(differences)) / 2]
        down = up = 0.0
        if slopes:
            middle = statistics.fmean(slopes)
            down, up = middle - 2 * min(0.0, *slopes), max(0.0, *slopes) - middle
        ends = value - math.hypot(*half, self._beyond * down), value + math.hypot(*half, self._beyond * up)
        mean, low, high = ((1 + math.tanh(x / 2)) / 2 for x in (value, *ends))
        return Interval(mean, low, high, n)

    def _weights(self) -> dict[Cell, float]:
        """The estimate as a sum of logits: the target, the mean difference between many and few, and the mean slope."""
        weights = dict.fromkeys(self._cells, 0.0)
        weights[self._target] += 1
        for many, few in self._levels:
            weights[many] += 1 / len(self._levels)
            weights[few] -= 1 / len(self._levels)
        if self._slope:
            weights[self._slope[-1]] += self._beyond / (2 * math.log(2))
            weights[self._slope[0]] -= self._beyond / (2 * math.log(2))
        return weights
