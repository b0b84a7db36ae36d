"""A run of Table 1: what it returns against plain loops, what it trains, and what runs have in common."""

import copy
import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from compatkit.batches import ARRANGEMENTS
from compatkit.recipes import Recipe
from reproduction.experiments.settings import AdaptationRun
from reproduction.images import load
from reproduction.runs import adaptation, runner
from reproduction.runs.context import Context

from ..conftest import data_folder, each_step, on_each_step, part
from ..samples import same, state, uneven_set
from .naive import average_class_accuracy, normalised

RECIPE = Recipe(steps=3, batch_size=16, lr=0.02, rotations="sampled", precision="fp32")
ADAPT = Recipe(steps=4, batch_size=16, optimizer="sgd", lr=0.05, schedule="constant", precision="fp32")
COMMON = ("ant", "cat", "dog")
ROLES = ("target", "source")


@pytest.fixture(autouse=True, scope="module")
def sets(tmp_path_factory):
    """Sets that have three classes in common, each in another order and at other places; one that is grey."""
    two = ("dog", "eel", "ant", "cat")
    others = {0: 2, 1: 1, 2: 3, 3: 0}
    made = {
        "one": uneven_set(("ant", "bee", "cat", "dog"), seed=1),
        "two": uneven_set(two, n=50, seed=2),
        "two with other labels": uneven_set(two, n=50, seed=2, relabel=others.get),
        "more": uneven_set(("fox", "cat", "dog", "ant"), seed=3),
        "third": uneven_set(("x", "y"), channels=1, seed=4),
    }
    with data_folder(tmp_path_factory.mktemp("data"), made):
        yield


def tiny(**changes) -> AdaptationRun:
    settings = {"a": "one", "b": "two", "third": "third", "network": "resnet8", "width": 4}
    return AdaptationRun(**settings | {"recipe": RECIPE, "adapt_recipe": ADAPT} | changes)


def run(shared=None, checkpoints=None, **changes) -> dict:
    return adaptation.run(tiny(**changes), Context(shared=shared, checkpoints=checkpoints))


def watched(**changes):
    """The metrics of a run, and of each training and each adaptation in it the parts before and after."""
    seen = SimpleNamespace(trainings=[], adaptations=[])
    train_once, adapt = Context.train_once, adaptation.adapt

    def spy_train(context, tasks, recipe, label):
        [task] = tasks
        before = copy.deepcopy(task)
        seen.trainings.append((before, task, recipe))
        return train_once(context, tasks, recipe, label)

    def spy_adapt(extractor, rotation_head, images, *, probe, **options):
        made = SimpleNamespace(start=extractor, head=rotation_head, images=images)

        def spy_probe(extractor, head):
            made.end, made.head_end = extractor, head
            return probe(extractor, head)

        result = adapt(extractor, rotation_head, images, probe=spy_probe, **options)
        assert result[0] is made.end
        seen.adaptations.append(made)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "train_once", spy_train)
        patch.setattr(adaptation, "adapt", spy_adapt)
        seen.metrics = run(**changes)
    return seen


@pytest.fixture(scope="module")
def whole():
    """A run for each pretext, made once for all tests."""
    return functools.cache(lambda pretext="rotation": watched(pretext=pretext))


@pytest.fixture
def steps(monkeypatch):
    """The recipe of each step of any training."""
    return each_step(monkeypatch, lambda tasks, recipe: recipe)


def puzzle(image, variant, pretext):
    """One image (c, s, s) as the pretext shows it."""
    if pretext == "rotation":
        return image.rot90(variant, (1, 2))
    top, bottom = ([row[..., :4], row[..., 4:]] for row in (image[:, :4], image[:, 4:]))
    placed = [(top + bottom)[quarter] for quarter in ARRANGEMENTS[variant]]
    return torch.cat([torch.cat(placed[:2], 2), torch.cat(placed[2:], 2)], 1)


CURVES = [f"{name} by step{kind}" for kind in ("", ", head moves") for name in ("target", "source", "pretext")]


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])
def test_a_run_returns_the_rows_of_table_1_and_their_curves(whole, pretext):
    metrics = whole(pretext).metrics
    rows = ("source model", "with test BN", "adapted", "adapted, running statistics", "adapted, head moves")
    names = {f"{role}: {row}" for role in ROLES for row in rows}
    names |= {f"pretext on target: {row}" for row in ("with test BN", "adapted")}
    assert set(metrics) == names | {*CURVES, "steps", "chance"}
    assert metrics["steps"] == [0, 1, 2, 4] and metrics["chance"] == 1 / 3
    assert all(len(metrics[name]) == 4 for name in CURVES)
    assert all(0 <= value <= 1 for name in names for value in [metrics[name]])
    assert all(0 <= value <= 1 for name in CURVES for value in metrics[name])
    for role, kind in ((role, kind) for role in ROLES for kind in ("", ", head moves")):
        curve = metrics[f"{role} by step{kind}"]
        assert [metrics[f"{role}: with test BN"], metrics[f"{role}: adapted{kind}"]] == [curve[0], curve[-1]]
    ends = [metrics[f"pretext on target: {row}"] for row in ("with test BN", "adapted")]
    assert ends == [metrics["pretext by step"][i] for i in (0, -1)]


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])
def test_every_row_against_a_loop_over_the_common_classes(whole, pretext):
    made = whole(pretext)
    usual, moving = made.adaptations
    _, task, _ = made.trainings[-1]
    expected = {}
    for role, name in (("target", "two"), ("source", "one")):
        for row, extractor, statistics in (
            ("source model", usual.start, "running"),
            ("with test BN", usual.start, "batch"),
            ("adapted", usual.end, "batch"),
            ("adapted, running statistics", usual.end, "running"),
            ("adapted, head moves", moving.end, "batch"),
        ):
            shown = normalised(name, COMMON)
            expected[f"{role}: {row}"] = average_class_accuracy(extractor, part(task, "target"), *shown, statistics)
    images, _ = normalised("two", COMMON)
    count = {"rotation": 4, "jigsaw": 24}[pretext]
    variants = torch.randint(count, (len(images),), generator=torch.Generator().manual_seed(0)).tolist()
    puzzles = torch.stack([puzzle(image, k, pretext) for image, k in zip(images, variants, strict=True)])
    for row, extractor in (("with test BN", usual.start), ("adapted", usual.end)):
        found = average_class_accuracy(extractor, usual.head, puzzles, variants)
        expected[f"pretext on target: {row}"] = found
    moved = average_class_accuracy(moving.end, moving.head_end, puzzles, variants)
    assert made.metrics["pretext by step, head moves"][-1] == pytest.approx(moved, abs=1e-6), "by the head that moved"
    assert not same(state(moving.head_end), state(moving.head)) and same(state(usual.head_end), state(usual.head))
    assert {name: made.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert usual.start is moving.start is task.extractor and usual.head is task.terms[-1].head
    assert len({made.metrics[f"target: {row}"] for row in ("source model", "with test BN", "adapted")}) > 1


def test_no_label_of_the_target_is_learnt_from(whole):
    assert run(b="two with other labels") == whole().metrics


def test_the_curve_is_what_a_shorter_adaptation_ends_at(whole):
    short = run(adapt_recipe=replace(ADAPT, steps=2))
    for name in CURVES:
        assert short[name] == whole().metrics[name][:3]


# --- sets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", [(), ("dog",)])
def test_both_directions_have_the_common_classes_in_one_order(left_out):
    there, back = (adaptation._sets(tiny(direction=d, left_out=left_out), Context()) for d in ("a to b", "b to a"))
    assert [s.name for s in there] == ["one", "two"] == [s.name for s in reversed(back)]
    expected = tuple(name for name in COMMON if name not in left_out)
    for one, other in zip(there, reversed(back), strict=True):
        assert one.classes == other.classes == expected
        for split in ("train", "test"):
            mine, theirs, stored = (getattr(s, split) for s in (one, other, load(one.name)))
            assert torch.equal(mine.images, theirs.images) and torch.equal(mine.labels, theirs.labels)
            names = [load(one.name).classes[label] for label in stored.labels]
            assert [expected[label] for label in mine.labels] == [name for name in names if name in expected]


def test_a_direction_is_what_the_roles_of_the_sets_say(whole):
    config = tiny(direction="b to a")
    assert (config.source, config.target) == ("two", "one") and str(config).startswith("two to one, rotation")
    assert run(a="two", b="one", direction="b to a") == whole().metrics


def test_images_may_be_fewer():
    made = watched(n_train=20, n_test=9)
    (lesson, _, _), (task, _, _) = made.trainings
    assert len(lesson.data.train) == len(task.data.train) == len(made.adaptations[0].images) == 20
    right = [9 * made.metrics[f"{role}: {row}"] for role in ROLES for row in ("source model", "adapted")]
    assert right == pytest.approx([round(count) for count in right]), "three images of each class"


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pretext", "outputs"), [("rotation", 4), ("jigsaw", 24)])
def test_the_head_of_the_pretext_learns_on_the_third_set_first(whole, pretext, outputs):
    (before, lesson, recipe), (drawn, task, _) = whole(pretext).trainings
    assert recipe == RECIPE and lesson.terms[0].pretext == task.terms[1].pretext == pretext
    assert len(before.terms) == 1 and before.extractor is not drawn.extractor
    assert before.data.train.images.shape == (60, 3, 8, 8), "grey images get the channels of the source"
    head = task.terms[-1].head
    assert lesson.terms[0].head is head and head[-1].out_features == outputs
    assert not same(state(before.terms[0].head), state(drawn.terms[-1].head)), "it has learnt before"
    assert not same(state(before.extractor), state(drawn.extractor)), "on an extractor of its own"
    assert part(drawn, "target")[-1].out_features == 3 and task.data.classes == COMMON


def test_without_a_third_set_the_head_of_the_pretext_is_not_trained_before(whole):
    [(before, _, _)] = watched(third="").trainings
    lesson, _, _ = whole().trainings[0]
    assert same(state(part(before, "rp")), state(part(lesson, "rp"))), "as it is drawn"


def test_runs_share_a_source_model(whole, steps, tmp_path):
    def trained(**changes):
        steps.clear()
        metrics = run(tmp_path, **changes)
        return metrics, [steps.count(recipe) for recipe in (RECIPE, tiny(**changes).adapt_recipe)]

    assert trained() == (whole().metrics, [2 * 3, 2 * 4]), "the third set and the source; the head stays or moves"
    assert trained() == (whole().metrics, [0, 8])
    larger, count = trained(adapt_recipe=replace(ADAPT, lr=1.0))
    assert count == [0, 8]
    for row in ("source model", "with test BN"):
        for role in ROLES:
            assert larger[f"{role}: {row}"] == whole().metrics[f"{role}: {row}"]
    assert larger["target by step"] != whole().metrics["target by step"]
    other, count = trained(b="more")
    assert count == [0, 8] and other["source: with test BN"] == larger["source: with test BN"]
    assert trained(direction="b to a")[1] == [3, 8] and trained(pretext="jigsaw")[1] == [6, 8]
    assert trained(seed=1)[1] == [6, 8]


@pytest.mark.parametrize("head_moves", [False, True])
def test_an_interrupted_adaptation_goes_on_to_the_same_numbers(whole, steps, tmp_path, monkeypatch, head_moves):
    left = [2 + 4 * head_moves]

    def interrupted(tasks, recipe, step):
        if recipe == ADAPT:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

    folders = tmp_path / "shared", tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted, checkpoint_seconds=0)
        run(*folders)
    steps.clear()
    assert run(*folders) == whole().metrics
    assert steps == [ADAPT] * (8 - 2 - 4 * head_moves), "only what was missing"


def test_a_run_becomes_a_record(whole, tmp_path):
    job = runner.Job("adaptation", "smoke", tiny(), tmp_path, "cpu", 1)
    record = runner.make(job)
    assert record["metrics"] == whole().metrics and runner.make(job) == record
    assert (record["config"]["direction"], record["config"]["left_out"]) == ("a to b", [])
    assert list(job.shared.glob("*.pt")) and not job.checkpoints.exists(), "what other runs need stays"


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [({"pretext": "colour"}, "pretext: .*rotation.*jigsaw.*colour"), ({"direction": "a"}, "direction: .*b to a.*'a'")],
)
def test_configs_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        adaptation.check(tiny(**change), Context(rehearsal=True))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"test_batch_size": 7}, {"split_at": "stage1"}, {"network": "wrn10"}, {"left_out": ("cat",)}],
)
def test_every_setting_changes_the_run(whole, change):
    assert run(**change) != whole().metrics
