"""Intervals against scipy, and how often they hold the truth."""

import math
import random

import pytest

from compatkit import intervals


def test_interval_against_scipy():
    from scipy import stats

    generator = random.Random(0)
    for n in (2, 3, 10, 50):
        values = [generator.gauss(60, 5) for _ in range(n)]
        got = intervals.interval(values, level=0.9)
        low, high = stats.t.interval(0.9, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        assert (got.low, got.high, got.n) == (pytest.approx(low), pytest.approx(high), n)
        assert got.half_width == pytest.approx((high - low) / 2)


def test_difference_against_scipy():
    from scipy import stats

    a, b = [1.0, 2.0, 4.0, 3.5], [0.5, 2.5, 1.0, 0.0]
    paired, welch = stats.ttest_rel(a, b).confidence_interval(), stats.ttest_ind(a, b[:3], equal_var=False)
    got = intervals.difference(a, b)
    assert (got.low, got.high, got.n) == (pytest.approx(paired.low), pytest.approx(paired.high), 4)
    got = intervals.difference(a, b[:3])
    bounds = welch.confidence_interval()
    assert (got.low, got.high, got.n) == (pytest.approx(bounds.low), pytest.approx(bounds.high), 3)
    assert intervals.difference([1.0, 1.0], [0.0, 0.0, 0.0]) == intervals.Interval(1.0, 1.0, 1.0, 2)
    assert math.isnan(intervals.difference([1.0, 1.0], [0.0]).low)
    with pytest.raises(ValueError, match="pairs"):
        intervals.difference(a, b[:3], paired=True)


def test_interval_covers_as_often_as_it_says():
    generator = random.Random(1)
    drawn = (intervals.interval([generator.gauss(0, 1) for _ in range(4)]) for _ in range(2000))
    hits = sum(found.low <= 0 <= found.high for found in drawn)
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000), "four standard errors of a share of 0.95"


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


def test_rank_correlation_against_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    x, y = [1.0, 2.0, 2.0, 5.0, 3.0, 0.5, 4.0], [10.0, 10.0, 30.0, 25.0, 28.0, 5.0, 28.0]
    found = intervals.rank_correlation(x, y)
    assert found.mean == pytest.approx(stats.spearmanr(x, y).statistic) and found.n == 7
    assert intervals.rank_correlation(x, [v**3 for v in y]) == found, "only ranks count"


def test_the_interval_of_a_rank_correlation_is_bonett_and_wrights():
    order = [1, 3, 2, 5, 4, 7, 6, 8]
    found = intervals.rank_correlation(range(8), order)
    rho = 1 - 6 * sum((i + 1 - o) ** 2 for i, o in enumerate(order)) / (8 * 63)
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 5)
    bounds = [math.tanh(math.atanh(rho) + sign * half) for sign in (-1, 1)]
    assert found.mean == pytest.approx(rho) and [found.low, found.high] == pytest.approx(bounds)


def test_rank_correlation_of_constants_is_0_and_few_pairs_are_refused():
    assert intervals.rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).mean == 0
    for x, y in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3]), ([1, 2, 3, math.nan], [1, 2, 3, 4])):
        with pytest.raises(ValueError, match=r"x|y"):
            intervals.rank_correlation(x, y)


def one(values):
    return intervals.estimate((1, values))


def test_a_mean_above_a_bound_against_scipy():
    from scipy import stats

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


def test_two_groups_are_tested_by_welch_against_scipy():
    from scipy import stats

    a, b = [1.0, 2.0, 4.0, 3.5], [0.5, 2.5, 1.0]
    found = intervals.estimate((1, a), (-1, b))
    assert found.above() == pytest.approx(stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue)
    shifted = stats.ttest_ind(a, [v + 1.5 for v in b], equal_var=False, alternative="greater").pvalue
    assert found.above(1.5) == pytest.approx(shifted) and found.scaled(2, -3).above() == pytest.approx(shifted)
    assert math.isnan(intervals.estimate((1, a), (-1, [1.0])).error)


def test_equivalence_is_two_one_sided_tests():
    from scipy import stats

    values = [0.3, -0.2, 0.5, 0.1, 0.0]
    upper = stats.ttest_1samp(values, 1.0, alternative="less").pvalue
    lower = stats.ttest_1samp(values, -1.0, alternative="greater").pvalue
    assert one(values).within(1.0) == pytest.approx(max(upper, lower))
    assert one(values).scaled(-1).within(1.0) == pytest.approx(max(upper, lower))
    edge = max(map(abs, (intervals.interval(values, 0.9).low, intervals.interval(values, 0.9).high)))
    assert one(values).within(edge) == pytest.approx(0.05)
    assert one([5.0, -5.0, 4.0]).within(1.0) > 0.3, "noise never looks like agreement"
    assert one([3.0, 3.1, 2.9]).within(1.0) > 0.99


def test_equivalence_is_rarely_found_where_there_is_none():
    generator = random.Random(5)
    found = [one([generator.gauss(1, 0.3) for _ in range(5)]).within(1.0) <= 0.05 for _ in range(2000)]
    assert abs(sum(found) / 2000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_a_share_of_a_gap_and_how_often_its_interval_holds_the_truth():
    start, end, values = [0.0, 2.0, 1.0], [10.0, 12.0, 11.0], [6.0, 7.0, 8.0]
    assert intervals.share_of_gap(values, start, end).mean == pytest.approx(0.6)
    at_the_end = intervals.share_of_gap(end, start, end, paired=True)
    assert (at_the_end.mean, at_the_end.error) == (pytest.approx(1), pytest.approx(0)), "of itself, whatever the gap"
    with pytest.raises(ValueError, match="two means"):
        intervals.share_of_gap(values, start, start)
    generator, hits = random.Random(6), {True: 0, False: 0}
    for paired in hits:
        for _ in range(1000):
            shared = [generator.gauss(0, 3 * paired) for _ in range(4)]
            groups = [[mean + common + generator.gauss(0, 1) for common in shared] for mean in (14, 0, 20)]
            bounds = intervals.share_of_gap(*groups, paired=paired).interval()
            hits[paired] += bounds.low <= 0.7 <= bounds.high
    assert all(abs(count / 1000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000) for count in hits.values()), hits


def test_holm_by_hand():
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert intervals.holm([0.02, 0.02, 0.03]) == [False] * 3, "the first must pass a third of the level"
    assert intervals.holm([0.01, 0.02, 0.04]) == [True] * 3, "the second half of it, the last all of it"
    assert intervals.holm([0.04]) == [True] and intervals.holm([]) == []
    assert intervals.holm([0.9, 0.0]) == [False, True]


def test_benjamini_hochberg_against_scipy():
    from scipy import stats

    generator = random.Random(7)
    for _ in range(50):
        p_values = [generator.random() ** 3 for _ in range(12)]
        expected = [bool(p <= 0.05) for p in stats.false_discovery_control(p_values)]
        assert intervals.benjamini_hochberg(p_values) == expected
    assert intervals.benjamini_hochberg([]) == []


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
