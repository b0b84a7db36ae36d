"""Statistics of verdicts and figures against scipy and by hand, and how often they hold the truth."""

import math
import random

import pytest
from scipy import stats

from reproduction.records.statistics import benjamini_hochberg, holm, rank_correlation, share_of_gap


def test_rank_correlation_against_scipy_with_ties():
    x, y = [1.0, 2.0, 2.0, 5.0, 3.0, 0.5, 4.0], [10.0, 10.0, 30.0, 25.0, 28.0, 5.0, 28.0]
    found = rank_correlation(x, y)
    assert found.mean == pytest.approx(stats.spearmanr(x, y).statistic) and found.n == 7
    assert rank_correlation(x, [v**3 for v in y]) == found, "only ranks count"


def test_the_interval_of_a_rank_correlation_is_bonett_and_wrights():
    order = [1, 3, 2, 5, 4, 7, 6, 8]
    found = rank_correlation(range(8), order)
    rho = 1 - 6 * sum((i + 1 - o) ** 2 for i, o in enumerate(order)) / (8 * 63)
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 5)
    bounds = [math.tanh(math.atanh(rho) + sign * half) for sign in (-1, 1)]
    assert found.mean == pytest.approx(rho) and [found.low, found.high] == pytest.approx(bounds)


def test_rank_correlation_of_constants_is_0_and_few_pairs_are_refused():
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).mean == 0
    for x, y in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3]), ([1, 2, 3, math.nan], [1, 2, 3, 4])):
        with pytest.raises(ValueError, match=r"x|y"):
            rank_correlation(x, y)


def test_a_share_of_a_gap_and_how_often_its_interval_holds_the_truth():
    start, end, values = [0.0, 2.0, 1.0], [10.0, 12.0, 11.0], [6.0, 7.0, 8.0]
    assert share_of_gap(values, start, end).mean == pytest.approx(0.6)
    at_the_end = share_of_gap(end, start, end, paired=True)
    assert (at_the_end.mean, at_the_end.error) == (pytest.approx(1), pytest.approx(0)), "of itself, whatever the gap"
    with pytest.raises(ValueError, match="two means"):
        share_of_gap(values, start, start)
    generator, hits = random.Random(6), {True: 0, False: 0}
    for paired in hits:
        for _ in range(1000):
            shared = [generator.gauss(0, 3 * paired) for _ in range(4)]
            groups = [[mean + common + generator.gauss(0, 1) for common in shared] for mean in (14, 0, 20)]
            bounds = share_of_gap(*groups, paired=paired).interval()
            hits[paired] += bounds.low <= 0.7 <= bounds.high
    assert all(abs(count / 1000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000) for count in hits.values()), hits


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.02, 0.02, 0.03]) == [False] * 3, "the first must pass a third of the level"
    assert holm([0.01, 0.02, 0.04]) == [True] * 3, "the second half of it, the last all of it"
    assert holm([0.04]) == [True] and holm([]) == []
    assert holm([0.9, 0.0]) == [False, True]


def test_benjamini_hochberg_against_scipy():
    generator = random.Random(7)
    for _ in range(50):
        p_values = [generator.random() ** 3 for _ in range(12)]
        expected = [bool(p <= 0.05) for p in stats.false_discovery_control(p_values)]
        assert benjamini_hochberg(p_values) == expected
    assert benjamini_hochberg([]) == []
