"""What the chapters on paper B show is what the records say."""

import math
import random

import pytest

from reproduction.pages import ramanujan
from reproduction.records.table import table

from .explored import dots, levels, means, options
from .recorded import SCORES, SEQUENCE, WITH_SIDE
from .recorded import update_record as record

PAPER = 'stroke="currentColor" stroke-width'  # of its marks


def update(data="shapes", seeds=range(3)):
    runs = []
    for seed in seeds:
        runs.append(record(seed, SCORES | WITH_SIDE, data))
        runs.append(record(seed, SCORES, data, -0.05, ramanujan.BARE, side="none"))
        for method, shift in (("BCT", 0.0), ("BCT, synthesised", -0.1)):
            cases = {"old/old": 0.4 - shift, "BCT/old": 0.41, "BCT/BCT": 0.7}
            runs.append(record(seed, cases, data, shift, method, method=method, side="none"))
    return runs


def test_cases_are_read_from_the_run_that_they_belong_to():
    found = ramanujan.by_case(update(), "CMC top-1")
    means = {row: sum(seeds.values()) / 3 for row, seeds in found.items()}
    expected = {
        "old/old": 0.41,
        "new/old": 0.02,
        "new/new": 0.81,
        "BCT new/old": 0.42,
        "BCT new/new": 0.71,
        "BCT, synthesised classes, new/old": 0.32,
        "new/h": 0.61,
        "new/h without side-information": 0.56,
        "new/ridge": 0.36,
        "new/ridge with side-information": 0.46,
    }
    assert {row: means[row] for row in expected} == pytest.approx(expected)
    assert all(list(seeds) == [0, 1, 2] for seeds in found.values())


def test_numbers_of_paper_and_ours_stand_side_by_side_and_levels_are_judged_where_all_is_the_papers():
    text = ramanujan.comparison(([*update(), *update("mnist5k")], "table1"), (update(), "sec43"), (update(), "")).data
    for data in ("shapes", "mnist5k"):
        assert f"| new/h | {data}, 50 to 100 | 65.0 | 61.0 ± 2.5 | 82.3 | 71.0 ± 2.5 | 43.6 | 60.5 ± 2.5 | 3 |" in text
    assert "| new/h | shapes, 50 to 100 | 20.3 | 61.0 ± 2.5 | – | 71.0 ± 2.5 | – | 60.5 ± 2.5 | 3 |" in text
    assert "| new/h | shapes, 50 to 100 | – | 61.0 ± 2.5 | – | 71.0 ± 2.5 | – | 60.5 ± 2.5 | 3 |" in text
    assert text.count("*Levels are not judged: other images.*") == 1
    own = ramanujan.comparison(([r | {"differs": ()} for r in update()], "table1")).data
    own = own.replace("\N{NO-BREAK SPACE}", " ")
    assert "| new/h | ◌ open (needs 4 seeds) | shapes, 50 to 100 | 65.0 |" in own
    assert "| new/ridge | – | shapes, 50 to 100 | – |" in own


def test_what_is_drawn_of_an_update_is_the_difference_seed_by_seed():
    runs = [*update(), *update("mnist5k")]
    means = {row: seeds[0] for row, seeds in ramanujan.by_case(update()).items()}
    figure = ramanujan.drawn(runs, "table1", "All <i>queries</i>.", ramanujan.GAP, above="old/old")
    gaps = {row: f"{100 * (means[row] - means['old/old']):+.1f} ± 0.0" for row in ramanujan.GAP if row in means}
    assert dots(figure) == {
        (f"{data}, 50 to 100", row): gap for data in ("shapes", "mnist5k") for row, gap in gaps.items()
    }
    assert figure.data.count(PAPER) == 2 * 5, "the paper has no synthesised classes and no closed forms"
    assert "All <i>queries</i>." in figure.data and "n = 3" in figure.data
    new = ramanujan.drawn(runs, "table1", "", ["new/h"], above="old/old", queries="queries of new classes")
    assert set(dots(new).values()) == {"+10.0 ± 0.0"} and PAPER not in new.data, "half of 20"
    levels = ramanujan.drawn(update(), "table1", "", ["new/h", "new/ridge", "not run"])
    assert list(dots(levels).values()) == ["61.0 ± 2.5", "36.0 ± 2.5"]
    assert "Open diamond" in levels.data and "Open diamond" not in new.data, "the paper has one of both"
    beside = ramanujan.side_by_side({"ours": (update(), ""), "theirs": (update(), "table1")}, "")
    assert dots(beside)["ours", "new/h"] == dots(beside)["theirs", "new/h"] == "+20.0 ± 0.0"
    assert beside.data.count(PAPER) == 5


def test_a_number_in_a_sentence_is_a_level_or_a_difference():
    assert ramanujan.said(update(), "table1", "new/h") == "61.0 ± 2.5 %"
    assert ramanujan.said(update(), "table1", "new/h", f"new/h {ramanujan.WITHOUT}") == "+5.0 ± 0.0 points"


def test_hops_follow_the_versions():
    runs = [record(s, SEQUENCE, classes=[25, 50, 100], side="SimCLR") for s in range(3)]
    bare = {"shift": -0.1, "row": ramanujan.BARE, "side": "none"}
    runs += [record(s, SEQUENCE, classes=[25, 50, 100], **bare) for s in range(3)]
    rows = ramanujan.by_hop(runs, "CMC top-1")
    assert rows["two hops"][0] == pytest.approx(0.55) and rows["phi2/h2"][2] == pytest.approx(0.47)
    assert rows["two hops without side-information"][0] == pytest.approx(0.45)
    lines = ramanujan.hops(table(runs), "SimCLR", "CMC top-1")
    assert list(lines["first gallery, all hops"]) == ["50", "100"]
    assert list(lines["searched by itself"]) == ["25", "50", "100"]
    explorer = ramanujan.hops_explorer(runs)
    curve = means(explorer)
    assert curve["SimCLR", "CMC top-1", "first gallery, all hops", "100"] == pytest.approx(56)
    assert curve["no side-information", "mAP@1.0", "first gallery, all hops", "100"] == pytest.approx(45.5)
    assert options(explorer, "classes") == ["25", "50", "100"]
    assert {where[1] for where in curve} == {"CMC top-1", "CMC top-5", "mAP@1.0"}


def test_bytes_are_compared_with_a_wider_embedding_alone():
    runs = [record(0, SCORES, row="none", side="none"), record(0, SCORES, shift=0.1, row="wider old embedding")]
    runs.append(record(0, SCORES | WITH_SIDE, shift=0.2, row="without the old embedding", without_old=True))
    found = {row: seeds[0] for row, seeds in ramanujan.by_bytes(runs, "CMC top-1").items()}
    expected = {"ResNet50-256 old, no side-information": 0.7, "SimCLR-500 alone": 0.4}
    assert found == pytest.approx(expected | {"h(psi) without the old model": 0.8})


def test_costs_read_the_image_or_what_is_stored():
    points = ramanujan.cost_points(update(seeds=[0]), "KB", "CMC top-1")
    assert points["back-filling"][0] == pytest.approx((0.75, 0.75))  # new/new of the run without side-information
    assert points["h of width 256"] == [(0.375, pytest.approx(0.6))]
    assert points["h of width 256 without side-information"][0][0] == 0.125
    assert points["BCT"] == [(0.0, pytest.approx(0.41))] and "BCT, synthesised" not in points
    assert ramanujan.savings(update()) == {"h of width 256": 100}


@pytest.mark.parametrize(("relevant", "items"), [(1, 1), (1, 5), (3, 7), (7, 7), (4, 20)])
def test_blind_scores_are_the_mean_over_random_orders(relevant, items):
    draw, sums, n = random.Random(0), dict.fromkeys(("CMC top-1", "CMC top-5", "mAP@1.0"), 0.0), 4000
    for _ in range(n):
        order = draw.sample([1] * relevant + [0] * (items - relevant), items)
        hits = [k for k, hit in enumerate(order, 1) if hit]
        sums["CMC top-1"] += hits[0] == 1
        sums["CMC top-5"] += hits[0] <= 5
        sums["mAP@1.0"] += sum(i / k for i, k in enumerate(hits, 1)) / relevant
    for name, value in ramanujan.blind_scores(relevant, items).items():
        assert value == pytest.approx(sums[name] / n, abs=3 * 0.5 / math.sqrt(n)), name


def test_blind_scores_need_a_relevant_item():
    with pytest.raises(ValueError, match="relevant"):
        ramanujan.blind_scores(0, 5)


def test_the_toy_shows_what_is_stored_and_its_ceiling():
    runs = [record(s, SCORES, side=side, old_task=task, classes=[100, 100])
            for s in range(2) for task in ("colour", "shape") for side in ("none", "shape")]  # fmt: skip
    # 20 images a class: 19 others of the class among 199 of the same colour
    assert ramanujan.toy_ceilings(runs)["CMC top-1"] == pytest.approx(19 / 199)
    drawn = dots(ramanujan.toy_drawn(runs, ""))
    assert drawn["old model of colours", "what it lacks"] == "60.5 ± 6.4"
    assert drawn["old model of shapes", "what it learns"] == "60.5 ± 6.4"
    assert drawn["old model of shapes", "new/new"] == "80.5 ± 6.4"
    explorer = ramanujan.toy_explorer(runs)
    assert options(explorer, "stored beside it") == ["nothing"], "here what is stored makes no difference"
    shifts = {("colour", "none"): 0, ("colour", "shape"): 0.05, ("shape", "none"): 0.1, ("shape", "shape"): 0.15}
    runs = [record(s, SCORES, side=side, old_task=task, classes=[100, 100], shift=shift)
            for s in range(2) for (task, side), shift in shifts.items()]  # fmt: skip
    explorer = ramanujan.toy_explorer(runs)
    found = means(explorer)
    assert found["shape", "CMC top-1", "the true shape", "new/h"] == pytest.approx(75.5)
    assert found["colour", "mAP@1.0", "nothing", "old/old"] == pytest.approx(40)
    assert levels(explorer)["the colour alone", "colour", "CMC top-1"] == pytest.approx(100 * 19 / 199, abs=0.006)
