"""Intervals of means over networks or seeds, of differences between them, and of rank correlations; tests that a mean
lies beyond a bound, or within a margin of 0.

Imports the standard library alone, and scipy when an interval is asked for, so that pages of results open quickly.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .extras import require


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` networks or seeds with its confidence interval, in the values' unit; NaN bounds when n is 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def format(self, percent: bool = False, digits: int | None = None) -> str:
        """``65.8 ± 1.2 (n = 10)``.

        Args:
            percent: show fractions times 100.
            digits: after the point; None chooses by size.
        """
        scale, unit = (100, " %") if percent else (1, "")
        if digits is None:
            digits = 1 if abs(self.mean * scale) >= 1.5 or percent else 3
        mean = f"{self.mean * scale:.{digits}f}"
        if self.n < 2:
            return f"{mean}{unit} (n = {self.n}, no interval)"
        return f"{mean} ± {self.half_width * scale:.{digits}f}{unit} (n = {self.n})"

    def __str__(self) -> str:
        return self.format()


def _finite(values: Iterable[float], name: str) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError(f"{name}: at least one value is needed, got none")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: finite values are needed, got {numbers}")
    return numbers


def quantile(degrees: float, level: float) -> float:
    """Half the width of Student's t interval in standard errors.

    Args:
        degrees: of freedom.
        level: of the interval, in 0..1; the quantile is that at (1 + level) / 2.

    Raises:
        ValueError: a level outside 0..1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: between 0 and 1, got {level}")
    special = require("scipy.special", "similarity")  # not scipy.stats, which takes a second to import
    return float(special.stdtrit(degrees, (1 + level) / 2))


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean over networks or seeds.

    Args:
        values: one a network or seed.
        level: of the interval.

    Raises:
        ValueError: no values, NaN or infinity.
    """
    numbers = _finite(values, "values")
    n, mean = len(numbers), statistics.fmean(numbers)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = quantile(n - 1, level) * statistics.stdev(numbers) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def difference(
    values: Sequence[float], reference: Sequence[float], level: float = 0.95, paired: bool | None = None
) -> Interval:
    """Interval of mean(values) - mean(reference).

    Args:
        values, reference: one number a run.
        level: of the interval.
        paired: True pairs them in the given order, False is Welch's, None pairs equal lengths.

    Returns:
        The interval; ``n`` is the number of pairs, or the smaller of the two numbers.

    Raises:
        ValueError: empty or non-finite input, or pairs of unequal number.
    """
    ours, theirs = _finite(values, "values"), _finite(reference, "reference")
    if paired is None:
        paired = len(ours) == len(theirs)
    if paired:
        if len(ours) != len(theirs):
            raise ValueError(f"reference: pairs need {len(ours)} values as in `values`, got {len(theirs)}")
        return interval([a - b for a, b in zip(ours, theirs, strict=True)], level)
    mean, n = statistics.fmean(ours) - statistics.fmean(theirs), min(len(ours), len(theirs))
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    parts = [(statistics.variance(x) / len(x), len(x) - 1) for x in (ours, theirs)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Interval(mean, mean, mean, n)
    degrees = variance**2 / sum(part**2 / df for part, df in parts)
    half = quantile(degrees, level) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, n)


def above(values: Sequence[float], bound: float = 0.0) -> float:
    """p-value of Student's one-sided test that a mean over networks or seeds lies above a bound.

    Args:
        values: one a network or seed, or the differences of pairs.
        bound: in the values' unit.

    Returns:
        The probability, were the mean at the bound, of values that speak for more at least as clearly. It is half a
        per cent where the 99 % interval ends at the bound.

    Raises:
        ValueError: fewer than 2 values, NaN or infinity.
    """
    numbers = _finite(values, "values")
    if len(numbers) < 2:
        raise ValueError(f"values: at least two are needed for a test, got {numbers}")
    distance = statistics.fmean(numbers) - bound
    error = statistics.stdev(numbers) / math.sqrt(len(numbers))
    if error == 0:
        return float(distance <= 0)
    special = require("scipy.special", "similarity")
    return float(special.stdtr(len(numbers) - 1, -distance / error))


def equivalence(values: Sequence[float], margin: float) -> float:
    """p-value of two one-sided tests that a mean lies within ``margin`` of 0, on either side.

    It is at most 0.05 where the 90 % interval lies within. A wide interval never shows equivalence.

    Args:
        values: as in ``above``.
        margin: what is too small to matter, in the values' unit.

    Raises:
        ValueError: as in ``above``.

    Source: Schuirmann 1987.
    """
    return max(above(values, -margin), above([-value for value in values], -margin))


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several tests stand when the probability of a single wrong one among them all is to be ``level``.

    Args:
        p_values: one a test.
        level: in 0..1.

    Source: Holm 1979.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    stands = [False] * len(p_values)
    for place, test in enumerate(order):
        if p_values[test] > level / (len(p_values) - place):
            break
        stands[test] = True
    return stands


def values_needed(spread: float, distance: float, level: float = 0.95, most: int = 50) -> int | None:
    """How many networks or seeds make half the width of an interval smaller than a distance.

    Args:
        spread: standard deviation over networks or seeds.
        distance: between the mean and what the interval must not reach, in the same unit.
        level: of the interval.
        most: where to stop.

    Returns:
        The number, 2 or more; None where ``most`` are too few.
    """
    numbers = range(2, most + 1)
    return next((n for n in numbers if quantile(n - 1, level) * spread / math.sqrt(n) < distance), None)


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Interval:
    """Spearman's rank correlation, ties at their mean rank, with an interval.

    The interval takes the pairs as independent. Constant input correlates 0 with everything.

    Args:
        x, y: the pairs, (n,) each.
        level: of the interval.

    Raises:
        ValueError: fewer than 4 pairs, unequal numbers, or values that are not finite.

    Source: Bonett and Wright 2000.
    """
    first, second = _finite(x, "x"), _finite(y, "y")
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"x, y: at least 4 pairs are needed, got {len(first)} and {len(second)} values")
    n, ranks = len(first), [_ranks(first), _ranks(second)]
    constant = any(len(set(r)) == 1 for r in ranks)
    rho = 0.0 if constant else max(-1.0, min(1.0, statistics.correlation(*ranks)))
    if abs(rho) == 1:
        return Interval(rho, rho, rho, n)
    centre = math.atanh(rho)
    half = statistics.NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Interval(rho, math.tanh(centre - half), math.tanh(centre + half), n)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    # bisect on both sides: the mean of the places that equal values take
    return [(bisect.bisect_left(ordered, v) + bisect.bisect_right(ordered, v) + 1) / 2 for v in values]
