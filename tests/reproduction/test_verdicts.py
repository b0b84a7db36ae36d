"""Verdicts follow their rule, and never say more than the evidence."""

import math
import random

import pytest

from reproduction.records import verdicts

NOISE = [-0.4, 0.1, 0.3]


def near(level, noise=1.0):
    return [level + noise * x for x in NOISE]


CHANCE = near(10.6, 0.5)
TREND = {"published_reference": 10.6, "reference": CHANCE}


@pytest.mark.parametrize(
    ("expected", "ours", "published", "options"),
    [
        ("not run", [], 65.8, TREND | {"same_data": True}),
        ("not run", [], None, {"same_data": True}),
        ("reproduced", near(66.0), 65.8, TREND | {"same_data": True}),
        ("reproduced", near(86.0), 86.3, {"same_data": True}),  # only a level is claimed
        ("reproduced", near(85.0), 86.3, {"same_data": True}),  # within half width + 1 point
        ("trend only", near(66.0), 65.8, TREND | {"same_data": False}),
        ("trend only", near(40.0), 65.8, TREND | {"same_data": True}),
        ("trend only", near(66.0, 20), 65.8, TREND | {"same_data": True}),  # too wide to agree with one number
        ("trend only", near(66.0)[:2], 65.8, TREND | {"same_data": False}),  # Welch, unequal numbers
        ("trend only", near(5.0), 2.0, TREND | {"same_data": False}),  # the published side may be below
        ("not reproduced", near(5.0), 65.8, TREND | {"same_data": False}),
        ("not reproduced", near(5.0), 65.8, TREND | {"same_data": True}),
        ("not reproduced", near(10.7, 0.7), 65.8, TREND | {"same_data": True}),  # neither the level nor the effect
        ("not reproduced", near(70.0), 86.3, {"same_data": True}),
        ("not reproduced", [65.8, 65.8], 65.8, {"reference": [70, 70.2], "published_reference": 10, "same_data": True}),
        ("undecided", near(10.7, 0.7), 65.8, TREND | {"same_data": False}),  # other data: an effect may be smaller
        ("undecided", [5.0, 60.0, 10.0], 65.8, TREND | {"same_data": True}),  # the interval holds 0 and 55
        ("undecided", [65.8], 65.8, TREND | {"same_data": True}),
        ("undecided", [65.8], 65.8, {"same_data": True}),
        ("undecided", near(66.0), 65.8, TREND | {"reference": [10.6], "same_data": True}),
        ("undecided", near(66.0), 65.8, TREND | {"reference": [], "same_data": True}),
        ("undecided", near(66.0), None, TREND | {"same_data": True}),  # nothing was published
        ("undecided", near(86.0), 86.3, {"same_data": False}),
        ("undecided", near(86.0, 20), 86.3, {"same_data": True}),
        ("undecided", near(11.0, 3), 10.7, TREND | {"same_data": True}),  # the level agrees, the trend is open
    ],
)
def test_verdict(expected, ours, published, options):
    assert verdicts.verdict(ours, published, **options) == expected


def test_every_verdict_is_tested():
    marks = [mark for mark in test_verdict.pytestmark if mark.name == "parametrize"]
    assert {case[0] for case in marks[0].args[1]} == set(verdicts.VERDICTS)


def test_published_spread_widens_the_level():
    ours = near(82.0)
    assert verdicts.verdict(ours, 86.3, same_data=True) == "not reproduced"
    assert verdicts.verdict(ours, 86.3, spread=5.0, n_published=10, same_data=True) == "reproduced"
    assert verdicts.verdict(ours, 86.3, spread=5.0, same_data=True) == "not reproduced"  # no n, no interval


def test_fractions_have_smaller_points():
    assert verdicts.verdict(near(0.60, 0.001), 0.69, same_data=True, point=0.01) == "not reproduced"
    assert verdicts.verdict(near(0.69, 0.001), 0.69, same_data=True, point=0.01) == "reproduced"


def test_verdict_of_values_that_are_not_numbers():
    with pytest.raises(ValueError, match="finite"):
        verdicts.verdict([1.0, math.nan], 65.8, same_data=True)


def test_noise_is_rarely_called_a_trend():
    generator = random.Random(2)
    calls = [
        verdicts.verdict(
            [generator.gauss(10, 1) for _ in range(3)],
            65.8,
            reference=[generator.gauss(10, 1) for _ in range(3)],
            published_reference=10.6,
            same_data=False,
        )
        for _ in range(1000)
    ]
    assert calls.count("trend only") < 50 and calls.count("not reproduced") < 50 and "reproduced" not in calls


WHERE = {"paper": "gygli", "item": "fig2", "column": "mean", "metric": "recombination accuracy"}


def test_compare_joins_ours_with_the_paper():
    ours = {"independent": {0: 0.10, 1: 0.11, 2: 0.105}, "DCC": {2: 0.655, 0: 0.66, 1: 0.661}, "RP": [0.3], "LN": [0.1]}
    table = verdicts.compare(ours, **WHERE, reference="independent", same_data=False, scale=100)
    by_name = {line["row"]: line for line in table}
    grid = ["independent", "IIW", "RP", "DCC", "IIW+RP", "IIW+DCC", "RP+DCC", "IIW+RP+DCC", "upper bound"]
    assert [line["row"] for line in table] == [*grid, "LN"]
    assert all(list(line) == ["row", "paper", "ours", "n", "verdict", "note"] for line in table)
    assert by_name["DCC"]["verdict"] == "trend only" and by_name["DCC"]["paper"] == 65.8
    assert by_name["DCC"]["ours"].mean == pytest.approx(65.87, abs=0.01) and by_name["DCC"]["n"] == 3
    assert by_name["RP"]["verdict"] == "undecided"
    assert by_name["IIW"] | {"note": ""} == {
        "row": "IIW", "paper": 25.1, "ours": None, "n": 0, "verdict": "not run", "note": ""
    }  # fmt: skip
    assert by_name["independent"]["verdict"] == "undecided" and "trends refer" in by_name["independent"]["note"]
    assert by_name["LN"]["paper"] is None and by_name["LN"]["note"] == "not in the paper"
    same = verdicts.compare(ours, **WHERE, reference="independent", same_data=True, scale=100)
    assert [line["verdict"] for line in same if line["row"] in ("independent", "DCC")] == ["reproduced"] * 2


def test_compare_pairs_by_seed_only_if_the_seeds_agree():
    # Seeds move both networks together: pairs show what Welch's interval cannot.
    reference, ours = {0: 1.0, 1: 20.0, 2: 40.0}, {2: 41.2, 1: 21.1, 0: 2.0}
    options = WHERE | {"reference": "independent", "same_data": False}
    paired = verdicts.compare({"independent": reference, "DCC": ours}, **options)
    other = verdicts.compare({"independent": {k + 5: v for k, v in reference.items()}, "DCC": ours}, **options)
    assert [next(r["verdict"] for r in t if r["row"] == "DCC") for t in (paired, other)] == ["trend only", "undecided"]


def test_compare_does_not_judge_bounds_and_knows_its_names():
    bound = verdicts.compare(
        {"6 classes or fewer": [59, 59.2]}, **WHERE | {"item": "fig9", "column": "largest"}, same_data=True
    )
    assert [(line["paper"], line["verdict"]) for line in bound] == [(59.4, "undecided")]
    for change in ({"item": "fig22"}, {"column": "median"}, {"metric": "accuracy"}, {"reference": "dependent"}):
        with pytest.raises(KeyError):
            verdicts.compare({"DCC": [1.0]}, **WHERE | {"same_data": True} | change)


def test_compare_judges_correlations_by_hundredths():
    [row] = [
        row
        for row in verdicts.compare(
            {"RP": [0.90, 0.91, 0.92]},
            paper="gygli",
            item="fig6",
            column="mean",
            metric="cross-correlation",
            same_data=True,
        )
        if row["row"] == "RP"
    ]
    assert row["verdict"] == "not reproduced", "0.91 is not 0.38, though less than one point away"
