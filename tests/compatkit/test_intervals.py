"""Intervals and tests against scipy."""

import math
import random

import pytest
from scipy import stats

from compatkit import intervals


def test_interval_against_scipy():
    generator = random.Random(0)
    for n in (2, 3, 10, 50):
        values = [generator.gauss(60, 5) for _ in range(n)]
        got = intervals.interval(values, level=0.9)
        low, high = stats.t.interval(0.9, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        assert (got.low, got.high, got.n) == (pytest.approx(low), pytest.approx(high), n)
        assert got.half_width == pytest.approx((high - low) / 2)


def test_difference_against_scipy():
    a, b = [1.0, 2.0, 4.0, 3.5], [0.5, 2.5, 1.0, 0.0]
    for n, test in ((4, stats.ttest_rel(a, b)), (3, stats.ttest_ind(a, b[:3], equal_var=False))):
        got, bounds = intervals.difference(a, b[:n]), test.confidence_interval()
        assert (got.low, got.high, got.n) == (pytest.approx(bounds.low), pytest.approx(bounds.high), n)
    shifted = intervals.estimate((2, a), (-2, b[:3])).scaled(0.5, -1)
    one_sided = stats.ttest_ind(a, [v + 1 for v in b[:3]], equal_var=False, alternative="greater").pvalue
    assert shifted.above() == pytest.approx(one_sided)
    assert intervals.difference([1.0, 1.0], [0.0, 0.0, 0.0]) == intervals.Interval(1.0, 1.0, 1.0, 2)
    assert math.isnan(intervals.difference([1.0, 1.0], [0.0]).low)
    with pytest.raises(ValueError, match="pairs"):
        intervals.difference(a, b[:3], paired=True)


def test_interval_of_one_value_and_of_none():
    one = intervals.interval([65.8])
    assert math.isnan(one.low) and math.isnan(one.high) and str(one) == "65.8 (n = 1, no interval)"
    for bad, words in (([], "at least one"), ([1.0, math.nan], "finite"), ([math.inf], "finite")):
        with pytest.raises(ValueError, match=words):
            intervals.interval(bad)
    with pytest.raises(ValueError, match="level"):
        intervals.interval([1, 2], level=95)


def test_interval_reads_well():
    got = intervals.Interval(0.65812, 0.64, 0.67624, 10)
    assert str(got) == "0.658 ± 0.018 (n = 10)"
    assert got.format(percent=True) == "65.8 ± 1.8 % (n = 10)"
    assert got.format(percent=True, digits=2) == "65.81 ± 1.81 % (n = 10)"
    assert str(intervals.Interval(65.8, 64, 67.6, 3)) == "65.8 ± 1.8 (n = 3)"


def one(values):
    return intervals.estimate((1, values))


def test_a_mean_above_a_bound_against_scipy():
    generator = random.Random(4)
    for n in (2, 3, 8):
        values = [generator.gauss(1, 2) for _ in range(n)]
        expected = stats.ttest_1samp(values, 0.5, alternative="greater").pvalue
        assert one(values).above(0.5) == pytest.approx(expected)
        assert one(values).below(0.5) == pytest.approx(1 - expected)
        found = intervals.interval(values)
        assert one(values).above(found.low) == pytest.approx(0.025), "the test and the interval are one"
    assert one([2.0, 2.0]).above(1.0) == 0 and one([2.0, 2.0]).above(2.0) == 1
    for bad, words in (([1.0], "two"), ([], "at least one"), ([1.0, math.nan], "finite")):
        with pytest.raises(ValueError, match=words):
            one(bad).above()


def test_equivalence_is_two_one_sided_tests():
    values = [0.3, -0.2, 0.5, 0.1, 0.0]
    upper = stats.ttest_1samp(values, 1.0, alternative="less").pvalue
    lower = stats.ttest_1samp(values, -1.0, alternative="greater").pvalue
    assert one(values).within(1.0) == pytest.approx(max(upper, lower))
    assert one(values).scaled(-1).within(1.0) == pytest.approx(max(upper, lower))
    edge = max(map(abs, (intervals.interval(values, 0.9).low, intervals.interval(values, 0.9).high)))
    assert one(values).within(edge) == pytest.approx(0.05)
    assert one([5.0, -5.0, 4.0]).within(1.0) > 0.3, "noise never looks like agreement"


def test_the_number_needed_is_the_first_whose_interval_is_narrow_enough():
    values = [1.0, 2.0, 4.0, 3.5]
    spread = one(values).error * 2
    for distance in (3.0, 1.2, 0.9):
        n = one(values).needed(distance)
        halves = {m: intervals.quantile(m - 1, 0.95) * spread / math.sqrt(m) for m in (n - 1, n) if m > 1}
        assert halves[n] < distance and halves.get(n - 1, math.inf) >= distance
    assert one(values).needed(0.1) is None and one([1.0, 1.0]).needed(0.1) == 2
    assert one(values).needed(0.0) is None
    assert one(values).needed(0.6, level=0.9) < one(values).needed(0.6)
    assert intervals.estimate((1, values), (-1, values)).needed(1.5) < intervals.estimate((2**0.5, values)).needed(1.5)
