"""Verdicts follow their rule, and never say more than the evidence."""

import math
import random
from dataclasses import replace

import pytest

from compatkit.intervals import estimate
from reproduction.records import verdicts
from reproduction.records.claims import Claim, Side
from reproduction.records.pins import pinned
from reproduction.records.verdicts import Evidence, Judged, Source, Verdict, judge, judge_level

NOISE = [-0.4, 0.1, 0.3]  # mean 0; the half width of its 95 % interval is 0.9, that of the 90 % interval 0.6


def near(level, noise=1.0):
    return [level + noise * x for x in NOISE]


def of(differences, direction):
    return judge(estimate((1, differences)) if differences else None, direction, 1.0)


@pytest.mark.parametrize(
    ("expected", "differences", "direction"),
    [
        # with a margin of 1
        ("shown", near(2.0), "above"),
        ("open", near(1.8), "above"),  # the interval reaches the margin
        ("equal", near(0.3), "above"),
        ("equal", near(-0.3), "above"),
        ("open", near(0.5), "above"),
        ("open", near(0.0, 3), "above"),
        ("open", near(-1.8), "above"),
        ("contradicted", near(-2.0), "above"),
        ("shown", near(0.3), "same"),
        ("open", near(0.5), "same"),
        ("open", near(0.0, 3), "same"),  # noise never looks like agreement
        ("contradicted", near(2.0), "same"),
        ("contradicted", near(-2.0), "same"),
        ("shown", near(0.0), "not below"),
        ("shown", near(5.0), "not below"),
        ("open", near(-0.2), "not below"),
        ("open", near(-1.8), "not below"),
        ("contradicted", near(-2.0), "not below"),
        ("not run", [], "above"),
        ("open", [9.0], "above"),
        ("shown", [2.0, 2.0], "above"),
        ("equal", [0.0, 0.0], "above"),
    ],
)
def test_judge(expected, differences, direction):
    assert of(differences, direction).word == expected


def test_an_open_verdict_says_how_many_seeds_would_decide():
    from scipy import stats

    open_ = of(near(1.5), "above")
    spread = stats.tstd(NOISE)
    halves = {n: stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) for n in range(2, 51)}
    assert open_.word == "open" and open_.seeds == next(n for n, half in halves.items() if half < 0.5)
    inside = of(near(0.5), "above")
    halves = {n: stats.t.ppf(0.95, n - 1) * spread / math.sqrt(n) for n in range(2, 51)}
    assert inside.seeds == next(n for n, half in halves.items() if half < 0.5), "equality takes the 90 % interval"
    assert of(near(1.0, 9), "above").seeds is None, "at the margin no number decides"
    assert of(near(2.0), "above").seeds is None and of([9.0], "above").seeds is None
    assert of(near(-0.5), "not below").seeds == open_.seeds


@pytest.mark.parametrize(("direction", "truth"), [("above", 1.0), ("same", 1.0), ("not below", -1.0)])
def test_a_difference_at_the_margin_is_rarely_decided(direction, truth):
    generator = random.Random(2)
    calls = [of([generator.gauss(truth, 0.4) for _ in range(4)], direction).word for _ in range(4000)]
    # a one-sided test for each side of the margin, at 2.5 % for a difference and 5 % for equality
    assert calls.count("shown") < 4000 * 0.06 and calls.count("contradicted") < 4000 * 0.035
    wrong = sum(calls.count(word) for word in verdicts.DECIDED) / 4000
    assert wrong < verdicts.WRONG_AT_MOST + 3 * math.sqrt(0.075 * 0.925 / 4000)
    assert direction == "not below" or wrong > 0.06, "which is what the report states"


def test_levels_are_judged_where_everything_is_the_papers():
    def level(values, published, differs=()):
        return judge_level(estimate((1, values)) if values else None, published, 2.0, differs)

    assert level(near(86.0), 86.3).word == "shown"
    assert level(near(86.0, 20), 86.3).word == "open", "a wide interval agrees with nothing"
    assert level(near(71.2), 76.7).word == "contradicted"
    other = level(near(86.0), 86.3, ["recipe.steps", "a", "width"])
    assert other == Verdict("not judged", reason="level not judged: other images, network and schedule")
    assert level(near(86.0), None).word == "not judged" and level([], 86.3).word == "not run"
    assert verdicts.in_words(["side_recipe.lr", "epochs"]) == "schedule"
    assert verdicts.in_words(["n_train", "split_at", "new_dim"]) == "images and network"


# --- claims -----------------------------------------------------------------------------------------------------------

A = Side("figure", "A", "accuracy", ())
B = Side("other", "B", "accuracy", ())


def claim(one=A, other=B, kind="finding", direction="above", margin=1.0, published=None, unit="points", start=None):
    return Claim("id", "gygli", "fig2", kind, "A is above B", direction, margin, unit, one, other, start, published, "")


def record(experiment, row, seed, value, images="x", differs=("a",)):
    config = {"a": images, "b": "y", "seed": seed}
    made = {"golden": "old"}
    run_id = f"{experiment} {row} {seed} {images}"
    found = {"run_id": run_id, "experiment": experiment, "row": row, "seed": seed, "config": config, "data": {}}
    found |= {"metrics": {"accuracy": value}, "provenance": made, "differs": differs}
    return found | {"networks": frozenset([("network of", run_id)])}


def source(name="here", seeds=range(3), images=("x",), gap=0.1, differs=("a",)):
    ones = [record("figure", "A", s, 0.5 + gap + 0.01 * s, i, differs) for i in images for s in seeds]
    others = [record("other", "B", s, 0.5 + 0.011 * s, i, differs) for i in images for s in seeds]
    return Source(name, {"figure": ones, "other": others}, {"figure": len(ones), "other": len(others)})


def test_a_claim_is_judged_by_seeds_on_the_same_images():
    found = verdicts.evidence(claim(), source(images=("x", "z")))
    assert [(one.images, one.verdict.word, one.ours.n) for one in found] == [
        ("x × y", "shown", 3),
        ("z × y", "shown", 3),
    ]
    assert found[0].ours.mean == pytest.approx(9.9) and found[0].stale == 6


def test_seeds_that_one_side_lacks_are_left_out():
    made = source()
    made.records["other"].pop()
    [found] = verdicts.evidence(claim(), made)
    assert found.ours.n == 2 and found.stale == 5
    assert verdicts.evidence(claim(), Source("", {"figure": made.records["figure"]}, {})) == []
    assert verdicts.evidence(claim(one=None, other=None), made) == []


def test_runs_on_images_that_were_drawn_anew_make_no_pair():
    """Those that differ by rounding alone do; the name of a set that one side alone uses says nothing."""
    alike = pinned().images["glyphs_plain"][:2]
    assert len(alike) == 2
    for (mine, theirs), n in {("1", "1"): 3, ("1", "2"): 2, tuple(alike): 3}.items():
        made = source()
        made.records["figure"][1]["data"] = {"glyphs_plain": mine, "third": "3"}
        made.records["other"][1]["data"] = {"glyphs_plain": theirs}
        [found] = verdicts.evidence(claim(), made)
        assert found.ours.n == n, (mine, theirs)


def test_a_run_of_code_that_has_changed_makes_no_pair_with_one_of_todays():
    today = pinned().versions["fig2"]
    for stale, n in {("one",): 2, ("other",): 2, ("one", "other"): 3}.items():
        made = source()
        for run in [*made.records["figure"], *made.records["other"]]:
            run |= {"experiment": "fig2", "provenance": {"golden": today}}
        for side, name in (("one", "figure"), ("other", "other")):
            if side in stale:
                made.records[name][1]["provenance"] = {"golden": "old"}
        [found] = verdicts.evidence(claim(), made)
        assert (found.ours.n, found.stale) == (n, len(stale)), stale


def test_the_best_evidence_is_the_first_with_two_runs_and_is_never_blended():
    sources = [source("paper", seeds=[0], gap=-0.3), source("cifar", gap=-0.2), source("laptop")]
    [one] = verdicts.judged([claim()], sources)
    assert [e.source for e in one.evidence] == ["paper", "cifar", "laptop"]
    assert one.speaking[0].source == "cifar" and one.word == "contradicted" and one.speaking[0].ours.n == 3
    [alone] = verdicts.judged([claim()], sources[:1])
    assert alone.speaking[0].source == "paper" and alone.word == "open"
    [nothing] = verdicts.judged([claim()], [])
    assert nothing.word == "not run" and nothing.speaking == () and nothing.reason == "no runs"
    why = replace(claim(one=None), note="not testable: it is quoted")
    [untestable] = verdicts.judged([why], sources)
    assert untestable.word == "not testable" and untestable.reason == "it is quoted"


def test_image_sets_of_the_best_source_must_agree():
    agree, differ = source(images=("x", "z")), source(images=("x", "z"), gap=0.0)
    [one] = verdicts.judged([claim()], [agree])
    assert one.word == "shown" and [e.images for e in one.speaking] == ["x × y", "z × y"]
    assert one.p_value == max(e.verdict.p_value for e in one.evidence), "both must hold"
    for name in agree.records:
        agree.records[name][3:] = differ.records[name][3:]
    [one] = verdicts.judged([claim()], [agree, source("laptop")])
    assert {e.verdict.word for e in one.speaking} == {"shown", "open"} and (one.word, one.p_value) == ("mixed", 1.0)


def test_a_source_speaks_when_all_its_seeds_have_run():
    """Of three seeds that are planned on better images, two decide nothing yet; more of one side make no pairs."""
    partly = replace(source("cifar", seeds=range(2), gap=-0.2), seeds={"figure": 3, "other": 8})
    [one] = verdicts.judged([claim()], [source("paper", seeds=[0]), partly, source("laptop")])
    assert one.speaking[0].source == "laptop" and [e.whole for e in one.evidence] == [True, False, True]
    [whole] = verdicts.judged([claim()], [replace(partly, seeds={"figure": 2, "other": 2}), source("laptop")])
    assert whole.speaking[0].source == "cifar"
    [rest] = verdicts.judged([claim()], [source("paper", seeds=[0]), partly])
    assert rest.speaking[0].source == "cifar", "where nothing is whole, two runs say more than one"


def test_a_level_has_one_side_and_a_side_may_be_a_number():
    level = claim(other=None, kind="level", direction="same", margin=2.0, published=61.0)
    [here], [there] = (verdicts.evidence(level, source(differs=d)) for d in (("a",), ()))
    assert here.verdict.word == "not judged" and here.ours.mean == pytest.approx(61.0)
    assert there.verdict.word == "shown"
    [fixed] = verdicts.evidence(claim(other=0.5), source())
    assert fixed.ours.mean == pytest.approx(11.0), "against one half"


def test_totals_count_by_kind_and_correct_over_all():
    def found(word, p_value, kind="finding"):
        one = replace(claim(kind=kind), id=f"{kind} {word} {p_value}")
        return Judged(one, (Evidence("", "", None, Verdict(word, p_value)),))

    every = [found("shown", 0.01), found("shown", 0.04), found("open", 0.3), found("not run", None)]
    every += [found("shown", 0.0, "check"), found("not judged", None, "level")]
    totals = verdicts.totals(every, "finding")
    assert totals.words == {"shown": 2, "open": 1, "not run": 1} and totals.tested == 3
    assert totals.after_holm == 1, "0.01 passes a third of 5 %, 0.04 does not pass a half"
    assert verdicts.standing(every) == {"finding shown 0.01", "check shown 0.0"}
    assert totals.after_benjamini_hochberg == 1 and totals.differences == 1, "all are of A and B"
    assert verdicts.totals(every, "check").after_holm == 1 and verdicts.totals(every, "level").tested == 0


# --- printed numbers --------------------------------------------------------------------------------------------------

WHERE = {"paper": "gygli", "item": "fig2", "column": "mean", "metric": "recombination accuracy"}


def test_compare_joins_ours_with_the_paper():
    ours = {"independent": {0: 0.10, 1: 0.11, 2: 0.105}, "DCC": {2: 0.655, 0: 0.66, 1: 0.661}, "LN": {0: 0.1}}
    table = verdicts.compare(ours, **WHERE, differs=(), scale=100)
    by_name = {line["row"]: line for line in table}
    grid = ["independent", "IIW", "RP", "DCC", "IIW+RP", "IIW+DCC", "RP+DCC", "IIW+RP+DCC", "upper bound"]
    assert [line["row"] for line in table] == [*grid, "LN"]
    assert by_name["DCC"]["verdict"].word == "shown" and by_name["DCC"]["paper"] == 65.8
    assert by_name["DCC"]["ours"].mean == pytest.approx(65.87, abs=0.01) and by_name["DCC"]["n"] == 3
    assert (by_name["IIW"]["ours"], by_name["IIW"]["n"], by_name["IIW"]["verdict"].word) == (None, 0, "not run")
    assert by_name["LN"]["paper"] is None and by_name["LN"]["verdict"].word == "not judged"
    elsewhere = verdicts.compare(ours, **WHERE, differs=["a"], scale=100)
    assert {line["verdict"].word for line in elsewhere} == {"not judged", "not run"}


def test_compare_does_not_judge_bounds_and_judges_correlations_by_hundredths():
    bound = verdicts.compare(
        {"6 classes or fewer": {0: 59, 1: 59.2}}, **WHERE | {"item": "fig9", "column": "largest"}, differs=()
    )
    assert [(line["paper"], line["verdict"].word) for line in bound] == [(59.4, "not judged")]
    where = WHERE | {"item": "fig6", "metric": "cross-correlation"}
    rows = verdicts.compare({"RP": {0: 0.90, 1: 0.91, 2: 0.92}}, **where, differs=())
    assert [row["verdict"].word for row in rows if row["row"] == "RP"] == ["contradicted"], "0.91 is not 0.38"
