"""Intervals of means over networks or seeds and of their differences, and tests of them; without torch."""

from __future__ import annotations

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
        """Format as ``65.8 ± 1.2 (n = 10)``; percent: times 100; digits: after the point, None chooses by size."""
        scale, unit = (100, " %") if percent else (1, "")
        if digits is None:
            digits = 1 if abs(self.mean * scale) >= 1.5 or percent else 3
        mean = f"{self.mean * scale:.{digits}f}"
        if self.n < 2:
            return f"{mean}{unit} (n = {self.n}, no interval)"
        return f"{mean} ± {self.half_width * scale:.{digits}f}{unit} (n = {self.n})"

    def __str__(self) -> str:
        return self.format()


def _finite(values: Iterable[float]) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("values: at least one is needed, got none")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"values: must be finite, got {numbers}")
    return numbers


def quantile(degrees: float, level: float) -> float:
    """Half the width of Student's t interval in standard errors. Raises ValueError for a level outside 0..1."""
    if not 0 < level < 1:
        raise ValueError(f"level: between 0 and 1, got {level}")
    special = require("scipy.special", "similarity")  # not scipy.stats, which takes a second to import
    return float(special.stdtrit(degrees, (1 + level) / 2))


@dataclass(frozen=True)
class Estimate:
    """An estimate of a mean over networks or seeds, or of a combination of such means.

    Attributes:
        mean, error: the estimate and its standard error, in the values' unit; NaN error where n is 1.
        degrees: of freedom of Student's t.
        n: the number of values; of the smallest group where there are several.
    """

    mean: float
    error: float
    degrees: float
    n: int

    def interval(self, level: float = 0.95) -> Interval:
        """Student's t interval."""
        if self.n == 1:
            return Interval(self.mean, math.nan, math.nan, 1)
        half = quantile(self.degrees, level) * self.error if self.error else 0.0
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)

    def above(self, bound: float = 0.0) -> float:
        """p-value of Student's one-sided test that the mean lies above a bound. Raises ValueError if n is 1."""
        if self.n < 2:
            raise ValueError(f"a test needs at least two values, got {self.n}")
        if self.error == 0:
            return float(self.mean <= bound)
        special = require("scipy.special", "similarity")
        return float(special.stdtr(self.degrees, (bound - self.mean) / self.error))

    def below(self, bound: float = 0.0) -> float:
        """p-value that the mean lies below a bound; see ``above``."""
        return self.scaled(-1).above(-bound)

    def within(self, margin: float) -> float:
        """p-value of two one-sided tests that the mean lies within ``margin`` of 0 (Schuirmann 1987)."""
        return max(self.above(-margin), self.below(margin))

    def scaled(self, factor: float, shift: float = 0.0) -> Estimate:
        """The estimate of ``factor`` times the mean, plus ``shift``."""
        return Estimate(factor * self.mean + shift, abs(factor) * self.error, self.degrees, self.n)

    def needed(self, distance: float, level: float = 0.95, most: int = 50) -> int | None:
        """The number of values of each group, at least 2, that would make half the interval smaller than a distance;
        None where ``most`` are too few."""
        for n in range(2, most + 1):
            degrees = self.degrees * (n - 1) / (self.n - 1)
            if quantile(degrees, level) * self.error * math.sqrt(self.n / n) < distance:
                return n
        return None


def estimate(*groups: tuple[float, Sequence[float]]) -> Estimate:
    """Estimate a weighted sum of the means of independent groups of runs (Welch 1947, Satterthwaite 1946).

    Args:
        groups: (weight, values) each. ``(1, x)`` is the mean of x, ``(1, x), (-1, y)`` the difference of means.

    Raises:
        ValueError: no values, NaN or infinity.
    """
    chosen = [(weight, _finite(values)) for weight, values in groups]
    mean = sum(weight * statistics.fmean(values) for weight, values in chosen)
    n = min(len(values) for _, values in chosen)
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    parts = [(weight**2 * statistics.variance(values) / len(values), len(values) - 1) for weight, values in chosen]
    variance = sum(part for part, _ in parts)
    least = min(free for _, free in parts)
    degrees = variance**2 / sum(part**2 / free for part, free in parts) if variance else float(least)
    return Estimate(mean, math.sqrt(variance), degrees, n)


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of values, one a network or seed. Raises ValueError for no values, NaN or
    infinity."""
    return estimate((1, list(values))).interval(level)


def difference(values: Sequence[float], reference: Sequence[float], *, paired: bool | None = None) -> Interval:
    """The 95 % interval of ``estimate_difference``; where ``paired`` is None equal numbers are paired."""
    if paired is None:
        paired = len(values) == len(reference)
    return estimate_difference(values, reference, paired).interval()


def estimate_difference(values: Sequence[float], reference: Sequence[float], paired: bool) -> Estimate:
    """Estimate mean(values) - mean(reference), from pairs in the given order or by Welch. Raises ValueError for no
    values, NaN or infinity, and pairs of unequal number."""
    if not paired:
        return estimate((1, values), (-1, reference))
    if len(values) != len(reference):
        raise ValueError(f"reference: pairs need {len(values)} values as in `values`, got {len(reference)}")
    return estimate((1, [a - b for a, b in zip(values, reference, strict=True)]))
