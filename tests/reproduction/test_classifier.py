"""A run of Fig. 3 or 11: what it returns against plain loops, which parts move, and what it refuses."""

import copy
import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compatkit import costs
from compatkit.models import auxiliary_head, count_parameters
from compatkit.normalization import evaluation
from compatkit.recipes import Recipe
from reproduction.experiments.settings import ARCHITECTURES, VARIANTS, ClassifierRun
from reproduction.images import load
from reproduction.runs import classifier, runner
from reproduction.runs.context import Context

from ..conftest import data_folder, each_step, on_each_step, part
from ..samples import same, state, uneven_set
from .naive import normalised

RECIPE = Recipe(steps=3, batch_size=16, lr=0.02, rotations="sampled", precision="fp32")
TUNE = replace(RECIPE, steps=4)
UPDATED, BOUNDS = VARIANTS[:3], VARIANTS[3:]
SIX = tuple("abcdef")


@pytest.fixture(autouse=True, scope="module")
def sets(tmp_path_factory):
    with data_folder(tmp_path_factory.mktemp("data"), {"six": uneven_set(SIX, n=90, seed=1)}):
        yield


def tiny(**changes) -> ClassifierRun:
    settings = {"data": "six", "first_classes": 4, "networks": ("resnet8",) * 3, "widths": (5, 8, 4)}
    settings |= {"splits": ("stage2", "stage2", "stage1"), "recipe": RECIPE, "tune_recipe": TUNE}
    return ClassifierRun(**settings | changes)


def run(shared=None, checkpoints=None, **changes) -> dict:
    return classifier.run(tiny(**changes), Context(shared=shared, checkpoints=checkpoints))


def watched(**changes):
    """The metrics of a run, the tasks of each training as they were and as they became, and of each update of a head
    its arguments and what it returned."""
    seen = SimpleNamespace(before=[], trainings=[], updates=[])
    train_once, update_head = Context.train_once, classifier.update_head

    def spy_train(context, tasks, recipe, label):
        seen.before.append(copy.deepcopy(tasks))
        seen.trainings.append(tasks)
        return train_once(context, tasks, recipe, label)

    def spy_update(head, extractor, image_set, *, rotation_head, **options):
        given = [None if module is None else state(module) for module in (head, extractor, rotation_head)]
        result = update_head(head, extractor, image_set, rotation_head=rotation_head, **options)
        parts = dict(zip(("head", "extractor", "rotation_head"), given, strict=True))
        after = SimpleNamespace(extractor=result[0], head=result[1])
        seen.updates.append(SimpleNamespace(head=head, extractor=extractor, rotation_head=rotation_head))
        seen.updates[-1].before, seen.updates[-1].after = parts, after
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "train_once", spy_train)
        patch.setattr(classifier, "update_head", spy_update)
        seen.metrics = run(**changes)
    return seen


@pytest.fixture(scope="module")
def whole():
    """A run for each variant, made once for all tests."""
    return functools.cache(lambda variant: watched(variant=variant))


def reproducible(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}


def hits(extractor, head, classes=SIX):
    """For each test image of ``classes``, its label and whether the network is right."""
    images, labels = normalised("six", classes)
    net = nn.Sequential(extractor, head)
    with evaluation(net, "batch"), torch.no_grad():
        answers = net(images).argmax(1).tolist()
    return [(label, label == answer) for label, answer in zip(labels, answers, strict=True)]


def share(right):
    right = list(right)
    return sum(right) / len(right)


COSTS = {f"{cost}: {name}" for cost in ("parameters", "MACs", "seconds per image") for name in ARCHITECTURES}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_returns_every_head_on_every_extractor_or_the_upper_bounds(whole, variant):
    metrics = whole(variant).metrics
    pairs = [f"{one} -> {other}" for one in ARCHITECTURES for other in ARCHITECTURES]
    expected = {f"{which}: {pair}" for which in ("accuracy", "old classes", "new classes") for pair in pairs}
    expected |= {f"first classes: {name}" for name in ARCHITECTURES}
    if variant in BOUNDS:
        expected = {f"accuracy: {name}" for name in ARCHITECTURES}
    assert set(metrics) == expected | COSTS
    assert all(type(value) is float for value in metrics.values())
    assert all(0 <= metrics[name] <= 1 for name in expected) and all(metrics[name] > 0 for name in COSTS)


@pytest.mark.parametrize("variant", UPDATED)
def test_the_matrix_against_a_loop_over_images(whole, variant):
    made, expected = whole(variant), {}
    for one, updated in zip(ARCHITECTURES, made.updates, strict=True):
        first = hits(updated.extractor, updated.head, SIX[:4])
        expected[f"first classes: {one}"] = share(right for _, right in first)
        for other, deployed in zip(ARCHITECTURES, made.updates, strict=True):
            extractor = updated.after.extractor if one == other else deployed.extractor
            found = hits(extractor, updated.after.head)
            expected[f"accuracy: {one} -> {other}"] = share(right for _, right in found)
            expected[f"old classes: {one} -> {other}"] = share(right for label, right in found if label < 4)
            expected[f"new classes: {one} -> {other}"] = share(right for label, right in found if label >= 4)
    assert {name: made.metrics[name] for name in expected} == pytest.approx(expected)
    assert len(set(expected.values())) > 10


@pytest.mark.parametrize("variant", BOUNDS)
def test_upper_bounds_against_a_loop_over_images(whole, variant):
    made = whole(variant)
    tasks = [task for [task] in made.trainings]
    expected = {
        f"accuracy: {name}": share(right for _, right in hits(task.extractor, part(task, "target")))
        for name, task in zip(ARCHITECTURES, tasks, strict=True)
    }
    assert {name: made.metrics[name] for name in expected} == pytest.approx(expected)


# --- which parts move -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", UPDATED)
def test_the_head_is_updated_on_each_extractor_and_what_is_frozen_stays(whole, variant):
    made = whole(variant)
    for updated in made.updates:
        assert same(state(updated.head), updated.before["head"]), "the head of the first classes stays for the others"
        assert same(state(updated.extractor), updated.before["extractor"])
        frozen = same(state(updated.after.extractor), updated.before["extractor"])
        assert frozen == (variant != "RP frozen")
        assert (updated.rotation_head is not None) == (variant == "RP frozen")
        if updated.rotation_head is not None:
            assert same(state(updated.rotation_head), updated.before["rotation_head"])
        assert updated.after.head[-1].out_features == 6 and updated.head[-1].out_features == 4
        parameters = updated.after.head.parameters(), updated.head.parameters()
        body = [not torch.equal(x, y) for x, y in zip(*parameters, strict=True)]
        assert all(body[:-2]), "all of the head learns"


@pytest.mark.parametrize("variant", UPDATED)
def test_extractors_learn_under_one_head_unless_they_are_independent(whole, variant):
    made = whole(variant)
    tasks = [task for group in made.trainings for task in group]
    apart = variant == "independent"
    assert [len(group) for group in made.trainings] == ([1, 1, 1] if apart else [3])
    assert len({id(part(task, "target")) for task in tasks}) == (3 if apart else 1)
    assert len({id(task.extractor) for task in tasks}) == 3
    assert [updated.head for updated in made.updates] == [part(task, "target") for task in tasks]
    drawn = [state(part(task, "target")) for group in made.before for task in group]
    assert same(drawn[0], drawn[1]) != apart and all(part(task, "target")[-1].out_features == 4 for task in tasks)
    rotation_head = part(tasks[0], "rp")
    assert (rotation_head is not None) == (variant == "RP frozen")
    assert all(part(task, "rp") is rotation_head for task in tasks)
    assert all(updated.rotation_head is rotation_head for updated in made.updates)
    assert all(task.data.classes == SIX[:4] for task in tasks)


def test_variants_of_a_seed_start_from_the_same_extractors_and_see_the_same_batches(whole):
    starts = {v: [task for group in whole(v).before for task in group] for v in VARIANTS}
    for variant in (*UPDATED[1:], BOUNDS[1]):
        for one, other in zip(starts[UPDATED[0]], starts[variant], strict=True):
            assert same(state(one.extractor), state(other.extractor)) and one.seed == other.seed


def adapted(task):
    return list(dict(task.extractor.named_children()))[-1].startswith("adapter")


def test_extractors_of_another_width_get_an_adapter_for_the_common_head(whole):
    for variant in (*UPDATED, BOUNDS[1]):
        tasks = [task for group in whole(variant).trainings for task in group]
        # the common head takes the 4 channels of the narrowest network's first stage
        assert [adapted(task) for task in tasks] == [True, True, False]
        assert {part(task, "target")[0].conv1.in_channels for task in tasks} == {4}
    tasks = [task for [task] in whole("upper bound").trainings]
    assert not any(adapted(task) for task in tasks)
    assert [part(task, "target")[0].conv1.in_channels for task in tasks] == [10, 16, 4]


@pytest.mark.parametrize("variant", BOUNDS)
def test_upper_bounds_are_trained_alone_on_all_classes_and_on_rotation(whole, variant):
    made = whole(variant)
    tasks = [task for [task] in made.trainings]
    assert not made.updates and len({id(module) for task in tasks for module in task.modules()}) == 9
    for task in tasks:
        assert task.data.classes == SIX
        assert (part(task, "target")[-1].out_features, part(task, "rp")[-1].out_features) == (6, 4)


# --- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_costs_are_those_of_each_extractor_under_a_head_for_all_classes(whole, variant):
    made = whole(variant)
    tasks = [task for group in made.trainings for task in group]
    for name, task in zip(ARCHITECTURES, tasks, strict=True):
        network = nn.Sequential(task.extractor, auxiliary_head(part(task, "target"), len(SIX)))
        assert made.metrics[f"parameters: {name}"] == sum(p.numel() for p in network.parameters())
        assert made.metrics[f"parameters: {name}"] == count_parameters(network)
        assert made.metrics[f"MACs: {name}"] == costs.macs(network, torch.zeros(1, 3, 8, 8))


def test_costs_of_a_small_network_by_hand(whole):
    stages = [8 * 8 * 2 * 4 * 4 * 9, 4 * 4 * (4 * 8 + 8 * 8) * 9, 2 * 2 * (8 * 16 + 16 * 16) * 9]
    layers = 8 * 8 * 3 * 4 * 9 + sum(stages) + 16 * 6
    assert whole("upper bound").metrics["MACs: MobileNetV2"] == layers, "the third network is a ResNet-8 here"


# --- going on ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_to_the_same_numbers(whole, tmp_path, monkeypatch):
    tuned = []

    def interrupted(tasks, recipe, step):
        tuned.extend([1] if recipe == TUNE else [])
        if len(tuned) == 7:
            raise KeyboardInterrupt

    folders = {"shared": tmp_path / "shared", "checkpoints": tmp_path / "run", "variant": "RP frozen"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted, checkpoint_seconds=0)
        run(**folders)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"ResNet.pt", "Wide ResNet.pt"}
    taken = each_step(monkeypatch, lambda tasks, recipe: recipe)
    assert reproducible(run(**folders)) == reproducible(whole("RP frozen").metrics)
    assert taken == [TUNE] * (3 * 4 - 6), "only what was missing"


def test_a_run_becomes_a_record(whole, tmp_path):
    job = runner.Job("classifier", "smoke", tiny(variant="upper bound"), tmp_path, "cpu", 1)
    record = runner.make(job)
    assert reproducible(record["metrics"]) == reproducible(whole("upper bound").metrics)
    assert runner.make(job) == record and record["config"]["widths"] == [5, 8, 4]


@pytest.mark.parametrize("change", [{"seed": 1}, {"n_train": 60}, {"n_test": 60}, {"test_batch_size": 20}])
def test_every_setting_changes_the_run(whole, change):
    other = reproducible(run(**change))
    assert other != reproducible(whole("extractor frozen").metrics)
    assert {k: v for k, v in other.items() if k in COSTS}.items() <= whole("extractor frozen").metrics.items()


def test_the_published_architectures_fit_one_head():
    config = replace(ClassifierRun(), widths=(2, 4, 2))
    image_set = load("six")
    extractors, heads, _ = classifier._first_networks(config, image_set, Context(rehearsal=True))
    for extractor, head in zip(extractors, heads, strict=True):
        logits = nn.Sequential(extractor, head)(image_set.normalise(image_set.test.images[:2]))
        assert logits.shape == (2, 6) and len(dict(head.named_children())) == 7 + 3, "blocks 11 to 17 and on"


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "frozen"}, "variant: .*extractor frozen.*'frozen'"),
        ({"networks": ("resnet8",) * 2}, r"networks, widths, splits: .*\(2, 3, 3\)"),
        ({"widths": (4,) * 4}, r"networks, widths, splits: .*\(3, 4, 3\)"),
        ({"splits": ()}, r"networks, widths, splits: .*\(3, 3, 0\)"),
        ({"first_classes": 1}, "first_classes: must be at least 2, got 1"),
    ],
)
def test_configs_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(**change)


@pytest.mark.parametrize("variant", VARIANTS)
def test_classes_have_to_remain_that_are_new(variant):
    with pytest.raises(ValueError, match="first_classes: six has 6 classes, got 6"):
        run(variant=variant, first_classes=6)
