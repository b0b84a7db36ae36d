"""Shares of a gap, corrections for many tests, and rank correlations."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Sequence

from compatkit.intervals import Estimate, Interval, estimate


def share_of_gap(
    values: Sequence[float], start: Sequence[float], end: Sequence[float], paired: bool = False
) -> Estimate:
    """Estimate how far a mean comes on the way from ``start``, 0, to ``end``, 1; the error is that
    of the first order (the delta method).

    Args:
        values, start, end: one number a run.
        paired: whether the three belong together in the given order, as measures of the same networks do.

    Raises:
        ValueError: no values, NaN or infinity, or no gap.
    """
    mean, first, last = (estimate((1, group)).mean for group in (values, start, end))
    if first == last:
        raise ValueError(f"start, end: two means are needed, got {first} twice")
    share = (mean - first) / (last - first)
    # share = value at which value - share * end - (1 - share) * start has mean 0
    if paired:
        rows = zip(values, start, end, strict=True)
        left = estimate((1, [value - share * e - (1 - share) * s for value, s, e in rows]))
    else:
        left = estimate((1, values), (-share, end), (share - 1, start))
    return Estimate(share, left.error / abs(last - first), left.degrees, left.n)


def holm(p_values: Sequence[float]) -> list[bool]:
    """The tests that stand when the probability of a single wrong one among them is to be 5 % (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    stands = [False] * len(p_values)
    for place, test in enumerate(order):
        if p_values[test] > 0.05 / (len(p_values) - place):
            break
        stands[test] = True
    return stands


def benjamini_hochberg(p_values: Sequence[float]) -> list[bool]:
    """The tests that stand when the share of wrong ones among those that do is to be 5 % in expectation
    (Benjamini and Hochberg 1995)."""
    ordered = sorted(p_values)
    passing = [p for place, p in enumerate(ordered, start=1) if p <= 0.05 * place / len(ordered)]
    return [bool(passing) and p <= passing[-1] for p in p_values]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Spearman's rank correlation of independent pairs, with its 95 % interval (Bonett and Wright 2000); constant input
    correlates 0 with everything.

    Raises:
        ValueError: fewer than 4 pairs, unequal numbers, or values that are not finite.
    """
    if len(x) != len(y) or len(x) < 4 or not all(map(math.isfinite, (*x, *y))):
        raise ValueError(f"x, y: at least 4 pairs of finite values are needed, got {list(x)} and {list(y)}")
    n, ranks = len(x), [_ranks(x), _ranks(y)]
    constant = any(len(set(r)) == 1 for r in ranks)
    rho = 0.0 if constant else max(-1.0, min(1.0, statistics.correlation(*ranks)))
    if abs(rho) == 1:
        return Interval(rho, rho, rho, n)
    centre = math.atanh(rho)
    half = statistics.NormalDist().inv_cdf(0.975) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Interval(rho, math.tanh(centre - half), math.tanh(centre + half), n)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    # bisect on both sides: the mean of the places that equal values take
    return [(bisect.bisect_left(ordered, v) + bisect.bisect_right(ordered, v) + 1) / 2 for v in values]
