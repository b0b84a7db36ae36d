"""A run of Table 1: what it returns against plain loops, what it trains, and what runs have in common."""

import functools
from dataclasses import replace

import pytest
import torch

from compatkit.batches import ARRANGEMENTS
from reproduction.images import load

from ..conftest import each_step, part
from ..samples import same, state
from .naive import average_class_accuracy, normalised
from .world import ADAPT, ADAPTATION, RECIPE

pytestmark = pytest.mark.usefixtures("small_sets")
COMMON = ("ant", "cat", "dog")
ROLES = {"target": "two", "source": "one"}
KINDS = ("", ", head moves")
CURVES = [f"{name} by step{kind}" for kind in KINDS for name in (*ROLES, "pretext")]
each_pretext = pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])


@functools.cache
def whole(pretext="rotation"):
    """A run for each pretext, made once for all tests."""
    return ADAPTATION.watched(pretext=pretext)


def puzzle(image, variant, pretext):
    """One image (c, s, s) as the pretext shows it."""
    if pretext == "rotation":
        return image.rot90(variant, (1, 2))
    top, bottom = ([row[..., :4], row[..., 4:]] for row in (image[:, :4], image[:, 4:]))
    placed = [(top + bottom)[quarter] for quarter in ARRANGEMENTS[variant]]
    return torch.cat([torch.cat(placed[:2], 2), torch.cat(placed[2:], 2)], 1)


@each_pretext
def test_every_row_against_a_loop_over_the_common_classes(pretext):
    made, metrics, expected = whole(pretext), whole(pretext).metrics, {}
    start, head, _ = made.applied[0].parts
    (end, head_end), (moved, moved_head) = (applied.probed for applied in made.applied)
    [task] = made.trainings[-1].tasks
    for role, name in ROLES.items():
        for row, extractor, statistics in (
            ("source model", start, "running"),
            ("with test BN", start, "batch"),
            ("adapted", end, "batch"),
            ("adapted, running statistics", end, "running"),
            ("adapted, head moves", moved, "batch"),
        ):
            shown = normalised(name, COMMON)
            expected[f"{role}: {row}"] = average_class_accuracy(extractor, part(task, "target"), *shown, statistics)
    images, _ = normalised("two", COMMON)
    count = {"rotation": 4, "jigsaw": 24}[pretext]
    variants = torch.randint(count, (len(images),), generator=torch.Generator().manual_seed(0)).tolist()
    puzzles = torch.stack([puzzle(image, k, pretext) for image, k in zip(images, variants, strict=True)])
    for row, extractor in (("with test BN", start), ("adapted", end)):
        expected[f"pretext on target: {row}"] = average_class_accuracy(extractor, head, puzzles, variants)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert set(metrics) == {*expected, *CURVES, "steps", "chance"}
    assert metrics["steps"] == [0, 1, 2, 4] and metrics["chance"] == 1 / 3
    for role, kind in ((role, kind) for role in ROLES for kind in KINDS):
        curve = metrics[f"{role} by step{kind}"]
        assert [metrics[f"{role}: with test BN"], metrics[f"{role}: adapted{kind}"]] == [curve[0], curve[-1]]
    solved = metrics["pretext by step"]
    assert [metrics[f"pretext on target: {row}"] for row in ("with test BN", "adapted")] == [solved[0], solved[-1]]
    by_the_head_that_moved = average_class_accuracy(moved, moved_head, puzzles, variants)
    assert metrics["pretext by step, head moves"][-1] == pytest.approx(by_the_head_that_moved, abs=1e-6)
    assert not same(state(moved_head), state(head)) and same(state(head_end), state(head))
    assert start is made.applied[1].parts[0] is task.extractor and head is task.terms[-1].head
    assert len({metrics[f"target: {row}"] for row in ("source model", "with test BN", "adapted")}) > 1


def test_no_label_of_the_target_is_learnt_from():
    assert ADAPTATION.run(b="two with other labels") == whole().metrics


def test_the_curve_is_what_a_shorter_adaptation_ends_at():
    short = ADAPTATION.run(adapt_recipe=replace(ADAPT, steps=2))
    assert {name: short[name] for name in CURVES} == {name: whole().metrics[name][:3] for name in CURVES}


# --- sets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", [(), ("dog",)])
def test_the_source_has_the_common_classes_in_one_order_whatever_the_direction(left_out):
    expected = tuple(name for name in COMMON if name not in left_out)
    for direction, name in (("a to b", "one"), ("b to a", "two")):
        made = ADAPTATION.watched(direction=direction, left_out=left_out)
        found, stored = made.trainings[-1].tasks[0].data, load(name)
        assert found.name == name and found.classes == expected
        for mine, theirs in ((found.train, stored.train), (found.test, stored.test)):
            names = [stored.classes[label] for label in theirs.labels]
            assert [expected[label] for label in mine.labels] == [name for name in names if name in expected]
            assert torch.equal(mine.images, theirs.images[[name in expected for name in names]])


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pretext", "outputs"), [("rotation", 4), ("jigsaw", 24)])
def test_the_head_of_the_pretext_learns_on_the_third_set_first(pretext, outputs):
    first, second = whole(pretext).trainings
    ([before], [lesson]), ([drawn], [task]) = ((t.before, t.tasks) for t in (first, second))
    assert first.recipe == RECIPE and lesson.terms[0].pretext == task.terms[1].pretext == pretext
    assert before.data.train.images.shape == (90, 3, 8, 8), "grey images get the channels of the source"
    head = task.terms[-1].head
    assert len(lesson.terms) == 1 and lesson.terms[0].head is head and head[-1].out_features == outputs
    assert not same(state(before.terms[0].head), state(drawn.terms[-1].head)), "it has learnt before"
    assert not same(state(before.extractor), state(drawn.extractor)), "on an extractor of its own"
    assert part(drawn, "target")[-1].out_features == 3 and task.data.classes == COMMON
    [alone] = ADAPTATION.watched(pretext=pretext, third="").trainings
    assert same(state(alone.before[0].terms[-1].head), state(before.terms[0].head)), (
        "without a third set as it is drawn"
    )


def test_runs_share_a_source_model(tmp_path, monkeypatch):
    steps = each_step(monkeypatch, lambda tasks, recipe: recipe)

    def trained(**changes):
        steps.clear()
        metrics = ADAPTATION.run(tmp_path, **changes)
        return metrics, [steps.count(recipe) for recipe in (RECIPE, ADAPTATION.config(**changes).adapt_recipe)]

    assert trained() == (whole().metrics, [2 * 3, 2 * 4]), "the third set and the source; the head stays or moves"
    assert trained() == (whole().metrics, [0, 8])
    larger, count = trained(adapt_recipe=replace(ADAPT, lr=1.0))
    assert count == [0, 8] and larger["target by step"] != whole().metrics["target by step"]
    for name in (f"{role}: {row}" for row in ("source model", "with test BN") for role in ROLES):
        assert larger[name] == whole().metrics[name]
    other, count = trained(b="more")
    assert count == [0, 8] and other["source: with test BN"] == larger["source: with test BN"]
    assert trained(direction="b to a")[1] == [3, 8] and trained(pretext="jigsaw")[1] == [6, 8]
    assert trained(seed=1)[1] == [6, 8]
