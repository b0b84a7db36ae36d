"""A run of Fig. 3 or 11: what it returns against plain loops, which parts move, what networks cost."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from compatkit.normalization import evaluation
from reproduction.experiments.settings import ARCHITECTURES, VARIANTS, ClassifierRun
from reproduction.runs import classifier
from reproduction.runs.context import Context

from ..conftest import part
from ..samples import same, state
from .naive import normalised
from .world import CLASSIFIER, SIX

pytestmark = pytest.mark.usefixtures("small_sets")
BOUNDS = tuple(variant for variant in VARIANTS if variant.startswith("upper bound"))
UPDATED = tuple(variant for variant in VARIANTS if variant not in BOUNDS)
COSTS = {f"{cost}: {name}" for cost in ("parameters", "MACs", "seconds per image") for name in ARCHITECTURES}


@functools.cache
def whole(variant):
    """A run of each variant, made once for all tests."""
    made = CLASSIFIER.watched(variant=variant)
    made.before = [task for training in made.trainings for task in training.before]
    made.tasks = [task for training in made.trainings for task in training.tasks]
    return made


def right(extractor, head, classes=SIX, shown=range(6)):
    """The share of the test images of ``classes`` and of the labels ``shown`` that a network is right of."""
    images, labels = normalised("six", classes)
    net = nn.Sequential(extractor, head)
    with evaluation(net, "batch"), torch.no_grad():
        answers = net(images).argmax(1).tolist()
    hits = [label == answer for label, answer in zip(labels, answers, strict=True) if label in shown]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("variant", UPDATED)
def test_every_head_on_every_extractor_against_a_loop_over_images(variant):
    made, expected = whole(variant), {}
    for one, update in zip(ARCHITECTURES, made.applied, strict=True):
        head, extractor, _ = update.parts
        moved, longer, _ = update.result
        expected[f"first classes: {one}"] = right(extractor, head, SIX[:4])
        for other, deployed in zip(ARCHITECTURES, made.applied, strict=True):
            used = moved if one == other else deployed.parts[1]
            for which, shown in {"accuracy": range(6), "old classes": range(4), "new classes": (4, 5)}.items():
                expected[f"{which}: {one} -> {other}"] = right(used, longer, shown=shown)
    assert {name: value for name, value in made.metrics.items() if name not in COSTS} == pytest.approx(expected)
    assert len(set(expected.values())) > 10 and made.metrics.keys() >= COSTS


@pytest.mark.parametrize("variant", BOUNDS)
def test_upper_bounds_are_trained_alone_on_all_classes_and_on_rotation(variant):
    made = whole(variant)
    expected = {
        f"accuracy: {name}": right(task.extractor, part(task, "target"))
        for name, task in zip(ARCHITECTURES, made.tasks, strict=True)
    }
    assert {name: value for name, value in made.metrics.items() if name not in COSTS} == pytest.approx(expected)
    assert [len(training.tasks) for training in made.trainings] == [1] * 3 and not made.applied
    assert len({id(module) for task in made.tasks for module in task.modules()}) == 9
    for task in made.tasks:
        assert task.data.classes == SIX
        assert (part(task, "target")[-1].out_features, part(task, "rp")[-1].out_features) == (6, 4)


# --- which parts move -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", UPDATED)
def test_the_head_is_updated_on_each_extractor_and_what_is_frozen_stays(variant):
    for update in whole(variant).applied:
        (head, extractor, _), (moved, longer, _) = update.parts, update.result
        assert same(state(head), update.before[0]), "the head of the first classes stays for the others"
        assert same(state(extractor), update.before[1])
        assert same(state(moved), update.before[1]) == (variant != "RP frozen")
        assert longer[-1].out_features == 6 and head[-1].out_features == 4
        body = [torch.equal(x, y) for x, y in zip(longer[:-1].parameters(), head[:-1].parameters(), strict=True)]
        assert not any(body), "all of the head learns"


@pytest.mark.parametrize("variant", UPDATED)
def test_extractors_learn_under_one_head_unless_they_are_independent(variant):
    made, apart = whole(variant), variant == "independent"
    assert [len(training.tasks) for training in made.trainings] == ([1, 1, 1] if apart else [3])
    heads, rotation_head = [part(task, "target") for task in made.tasks], part(made.tasks[0], "rp")
    assert len(set(map(id, heads))) == (3 if apart else 1)
    assert len({id(task.extractor) for task in made.tasks}) == 3
    drawn = [state(part(task, "target")) for task in made.before]
    assert same(drawn[0], drawn[1]) != apart and all(head[-1].out_features == 4 for head in heads)
    assert (rotation_head is not None) == variant.startswith("RP")
    assert all(part(task, "rp") is rotation_head and task.data.classes == SIX[:4] for task in made.tasks)
    assert [update.parts[0] for update in made.applied] == heads
    given = rotation_head if variant == "RP frozen" else None
    assert all(update.options["rotation_head"] is given for update in made.applied)


def test_the_published_architectures_fit_one_head():
    config = replace(ClassifierRun(), data="six", widths=(2, 4, 2), first_classes=4)
    context = Context(rehearsal=True)
    classifier.check(config, context)
    assert len(context.histories[0]) == 3, "a step of each under the head of MobileNetV2"


# --- costs ------------------------------------------------------------------------------------------------------------


def test_costs_of_a_small_network_by_hand():
    stages = [8 * 8 * 2 * 4 * 4 * 9, 4 * 4 * (4 * 8 + 8 * 8) * 9, 2 * 2 * (8 * 16 + 16 * 16) * 9]
    layers = 8 * 8 * 3 * 4 * 9 + sum(stages) + 16 * 6
    assert whole("upper bound").metrics["MACs: MobileNetV2"] == layers, "the third network is a ResNet-8 here"
