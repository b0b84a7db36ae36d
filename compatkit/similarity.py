"""Similarity of two representations of the same images, beside that which chance alone would give.

Correlation and CKA are also classes with ``update(x, y)`` and ``compute()``, whose value over batches is that of the
whole set. In feature maps (n, c, h, w) each position counts as a sample, in tokens (n, t, c) each token. A constant
representation is similar to nothing: 0, never NaN. Of the arithmetic see ``moments``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .devices import check_finite, check_tensor
from .extras import require
from .moments import ROWS, Kernels, Samples, add_product, as_maps, check_lengths, grid, near_mean, ratio


def cross_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of every channel of ``x`` with every channel of ``y`` (paper A, App. C.2): (p, q) in float64.

    Args:
        x, y: (n, p) and (n, q), or feature maps (n, p, h, w) and (n, q, h, w), of the same images in the same order.

    Raises:
        ValueError: fewer than 2 samples, or input that is no finite floating-point tensor of equal n (and equal h, w).
    """
    return CrossCorrelation().update(x, y).compute()


class CrossCorrelation:
    """``cross_correlation`` over batches, in memory for p x q numbers and a batch."""

    def __init__(self) -> None:
        self._samples = Samples()
        self._sums: list[Tensor] = []

    def update(self, x: Tensor, y: Tensor) -> CrossCorrelation:
        """Add a batch of any number of samples; whether they are finite is seen by ``compute``."""
        sides = _paired(x, y)
        self._samples.add(sides)
        for chunk in self._samples.centred(sides):
            x, y = chunk["x"], chunk["y"]
            sums = [x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0)]
            if not self._sums:
                self._sums = [torch.zeros_like(part, dtype=torch.float64) for part in sums]
                self._sums.append(x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64))
            for total, part in zip(self._sums, sums, strict=False):
                total += part
            add_product(self._sums[-1], x, y)
        return self

    def compute(self) -> Tensor:
        """``cross_correlation`` of all samples so far."""
        xy, xx, yy = self._about_means()
        x, y = (torch.where(squares > 0, squares.rsqrt(), 0.0) for squares in (xx, yy))
        return (xy * x[:, None]).mul_(y).clamp_(-1, 1)

    def _about_means(self) -> tuple[Tensor, Tensor, Tensor]:
        """X^T Y (p, q) of centred samples, and the sums of squares (p,) and (q,)."""
        self._samples.check(2)
        (x, y, xx, yy, xy), n = self._sums, self._samples.n
        return xy - x.outer(y) / n, xx - x.square() / n, yy - y.square() / n


def _paired(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    sides = as_maps({"x": x, "y": y})
    if grid(sides["x"]) != grid(sides["y"]):
        found = f"{grid(sides['x'])} and {grid(sides['y'])}"
        raise ValueError(f"x, y: positions count as samples, so height and width must be equal, got {found}")
    return sides


def match_channels(corr: Tensor) -> tuple[Tensor, float]:
    """The one-to-one matching of channels with the highest mean correlation (Li et al. 2016; paper A, App. C.2).

    Args:
        corr: (p, q), row i a channel of one network, column j a channel of the other.

    Returns:
        The permutation (p,), row i being matched to column ``permutation[i]``, or to none (-1) where p > q; and the
        mean over the matched pairs.

    Raises:
        ValueError: ``corr`` is not a finite floating-point matrix.
    """
    optimize = require("scipy.optimize", "similarity")
    check_tensor("corr", corr, {2: "(p, q)"})
    check_finite("corr", corr)
    table = corr.detach().double().cpu()
    rows, columns = map(torch.from_numpy, optimize.linear_sum_assignment(table.numpy(), maximize=True))
    permutation = torch.full((len(corr),), -1)
    permutation[rows] = columns
    return permutation.to(corr.device), table[rows, columns].mean().item()


def procrustes_similarity(x: Tensor, y: Tensor) -> float:
    """The fit of ``x`` to ``y`` after the best rotation, in 0..1: ||X^T Y||_* / (||X||_F ||Y||_F), columns centred.

    Takes and refuses what ``cross_correlation`` does. Source: Schönemann 1966; Williams et al. 2021.
    """
    xy, xx, yy = CrossCorrelation().update(x, y)._about_means()
    return ratio(torch.linalg.svdvals(xy).sum(), xx.sum(), yy.sum()).item()


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = False, flatten: bool = False) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019): ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), centred.

    Args:
        x, y: as in ``cross_correlation``.
        unbiased: HSIC_1 in place of each norm (Song et al. 2012, Nguyen et al. 2021): near 0 for unrelated features
            even where p and q exceed n, if samples are independent, which positions of a map are not.
        flatten: an image is one sample of c x h x w features, in place of h x w samples.

    Raises:
        ValueError: fewer than 2 samples (4 if unbiased), or input that is no finite floating-point tensor of equal n
            (and equal h, w unless ``flatten``).

    Warns:
        Of the biased form where p or q exceeds n / 4: it is far from 0 for unrelated features then.
    """
    return CKA(unbiased=unbiased, flatten=flatten)._add(x, y, copy=False).compute()


class CKA:
    """``linear_cka`` over batches, in memory for p^2 + pq + q^2 numbers, or for a copy of the samples while they are
    fewer than p + q."""

    def __init__(self, *, unbiased: bool = False, flatten: bool = False):
        self.unbiased, self.flatten = unbiased, flatten
        self._kernels = Kernels([("x", "y")], unbiased)

    def update(self, x: Tensor, y: Tensor) -> CKA:
        """Add a batch of any number of samples; whether they are finite is seen by ``compute``."""
        return self._add(x, y, copy=True)

    def _add(self, x: Tensor, y: Tensor, *, copy: bool) -> CKA:
        sides = as_maps({"x": x, "y": y}) if self.flatten else _paired(x, y)
        flat = {name: side.flatten(1) if self.flatten else side for name, side in sides.items()}
        self._kernels.add(flat, copy=copy)
        return self

    def compute(self) -> float:
        """``linear_cka`` of all samples so far."""
        found, n = self._kernels.alignments()["x", "y"], self._kernels.samples.n
        widest = max(self._kernels.samples.channels.values())
        if not self.unbiased and widest > n / 4:
            warnings.warn(
                f"biased CKA of {widest} channels and {n} samples is far from 0 for unrelated features; compare it "
                "with its permutation_test, or take unbiased=True",
                stacklevel=3,
            )
        return found.item()


def rsa(x: Tensor, y: Tensor) -> float:
    """Representational similarity (Kriegeskorte et al. 2008): Spearman's correlation, over all pairs of samples, of how
    unlike the two are in ``x`` and in ``y``. Unlike is 1 less Pearson's correlation over the channels.

    Args:
        x, y: (n, p) and (n, q), row i of both the same sample.

    Raises:
        ValueError: fewer than 3 samples, or input that is no finite floating-point matrix of equal n.
    """
    x, y = (_ranks(_dissimilarities(side)) for side in _in_double(x, y, least=3))
    return ratio(x @ y, x @ x, y @ y).item()


def _in_double(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    sides, samples = as_maps({"x": x, "y": y}, {2: "(n, channels)"}), Samples()
    samples.add(sides)
    samples.check(least)
    return sides["x"].double(), sides["y"].double()


def _dissimilarities(x: Tensor) -> Tensor:
    """1 - r of each pair of samples, (n (n - 1) / 2,), rounded so that what is equal ties."""
    centred = x - x.mean(1, keepdim=True)
    unit = torch.nn.functional.normalize(centred, dim=1)
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return (1 - unit @ unit.T)[i, j].mul_(2**40).round_()


def _ranks(values: Tensor) -> Tensor:
    """The rank of each value about the mean rank; equal values share one."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2 - (len(values) + 1) / 2)[place].double()


def mutual_knn(x: Tensor, y: Tensor, k: int = 10) -> float:
    """Mean share, in 0..1, of the k nearest neighbours of a sample that are the same in ``x`` and in ``y``.

    Nearness is Euclidean; for the cosine of Huh et al. 2024, normalise the rows first. Ties are broken arbitrarily.

    Args:
        x, y: (n, p) and (n, q), row i of both the same sample.
        k: in 1 .. n - 1.

    Raises:
        ValueError: k is out of range, or input that is no finite floating-point matrix of equal n.
    """
    x, y = (side - near_mean(side) for side in _in_double(x, y, least=2))
    if not 1 <= k < len(x):
        raise ValueError(f"k: must be between 1 and n - 1 = {len(x) - 1}, got {k}")
    if not (x.any() and y.any()):
        return 0.0
    shared = torch.zeros((), dtype=torch.int64, device=x.device)
    for start in range(0, len(x), ROWS):
        near_x, near_y = (_neighbours(side, start, k) for side in (x, y))
        among = torch.zeros(len(near_x), len(x), dtype=torch.bool, device=x.device).scatter_(1, near_x, True)
        shared += among.gather(1, near_y).sum()
    return shared.item() / (k * len(x))


def _neighbours(x: Tensor, start: int, k: int) -> Tensor:
    """Indices (rows, k) of the samples nearest to those from ``start`` on."""
    distances = torch.addmm(x.square().sum(1), x[start : start + ROWS], x.T, alpha=-2)  # less |x|^2, equal in a row
    distances.diagonal(start).fill_(math.inf)
    return distances.topk(k, largest=False).indices


class Calibrated(NamedTuple):
    """A score beside the ``null``, (permutations,) in float64: what it is for images that are paired at random."""

    value: float
    null: Tensor

    @property
    def p_value(self) -> float:
        """The chance of such a score, or a higher one, for unrelated representations of these widths."""
        return (1 + (self.null >= self.value).sum().item()) / (1 + len(self.null))

    @property
    def above_chance(self) -> float:
        """0 at the mean of the null, 1 for a score of 1."""
        chance = self.null.mean().item()
        return (self.value - chance) / (1 - chance) if chance < 1 else 0.0


def permutation_test(
    measure: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, *, permutations: int = 199, seed: int = 0
) -> Calibrated:
    """A score beside those with the images of ``y`` in a random order (Good 2005; Phipson and Smyth 2010).

    Args:
        measure: a function of this module, or any other of two tensors; higher is more alike.
        x, y: of the same images, which are the first dimension; the positions of a map stay together.
        permutations: orders that are drawn; the least p-value is 1 / (1 + permutations).
        seed: of the orders.

    Raises:
        ValueError: fewer than 1 permutation, unequal numbers of images, and as ``measure``.
    """
    if permutations < 1:
        raise ValueError(f"permutations: must be at least 1, got {permutations}")
    check_lengths({"x": x, "y": y})
    generator = torch.Generator().manual_seed(seed)
    value = measure(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # once is enough
        orders = (torch.randperm(len(y), generator=generator).to(y.device) for _ in range(permutations))
        null = torch.tensor([measure(x, y[order]) for order in orders], dtype=torch.float64)
    return Calibrated(value, null)
