"""Adaptation, update and transfer against the same steps done by hand; what they are given stays as it was."""

import copy
import math

import pytest
import torch
from torch import nn

from compatkit import applications, models, training
from compatkit.applications import adapt, log_steps, transfer, update_head
from compatkit.normalization import batch_norms
from compatkit.objectives import Pretext, Target
from compatkit.recipes import Recipe
from compatkit.training import Task, freeze

from ..conftest import part
from ..reproduction.test_embedders import same, state, unsettled
from ..samples import small_set

RECIPE = Recipe(steps=3, batch_size=8, lr=0.01, rotations="sampled", precision="fp32")
ROTATION_ALONE = {"step", "task", "rp"}


def parts(classes=3, *, width=4, seed=0):
    """Extractor, classifier and rotation head, with buffers and weights as training might leave them."""
    extractor, head = models.split(models.build("resnet8", classes, seed=seed, width=width), "stage2")
    rotation_head = models.auxiliary_head(head, 4, seed=seed + 1)
    for module in (extractor, head, rotation_head):
        unsettled(module)
    return extractor, head, rotation_head


def everything(*modules):
    """All that must not change of what is given: weights and buffers, what is trained, modes and BN flags."""
    flags = [[p.requires_grad for p in m.parameters()] + [part.training for part in m.modules()] for m in modules]
    return [state(m) for m in modules], flags, [bn.track_running_stats for m in modules for bn in batch_norms(m)]


def unchanged(before, *modules):
    after = everything(*modules)
    return all(map(same, before[0], after[0])) and before[1:] == after[1:]


def moved(one, two):
    """Whether every weight of convolutions and linear layers differs."""
    return not any(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True) if p.ndim > 1)


@pytest.fixture
def tasks(monkeypatch):
    """The tasks that are trained, with the parts inside."""
    found = []

    def train(given, *arguments, **options):
        found.extend(given)
        return training.train(given, *arguments, **options)

    monkeypatch.setattr(applications, "train", train)
    return found


def frozen_parts():
    """As incremental training leaves them: heads frozen, the extractor evaluated."""
    extractor, head, rotation_head = parts()
    return extractor.eval(), freeze(head), freeze(rotation_head)


# --- adaptation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [parts, frozen_parts])
@pytest.mark.parametrize("head_moves", [False, True])
def test_adaptation_moves_the_extractor_and_the_head_inside_only_if_it_may(tasks, given, head_moves):
    extractor, _, rotation_head = given()
    before = everything(extractor, rotation_head)
    adapted, history = adapt(extractor, rotation_head, small_set().train.images, recipe=RECIPE, head_moves=head_moves)
    assert unchanged(before, extractor, rotation_head)
    assert moved(adapted, extractor) and adapted is tasks[0].extractor
    assert not torch.equal(adapted.stem[1].running_mean, extractor.stem[1].running_mean)
    inside = part(tasks[0], "rp")
    assert moved(inside, rotation_head) if head_moves else same(state(inside), before[0][1])
    assert [set(row) for row in history] == [ROTATION_ALONE] * 3


@pytest.mark.parametrize("pretext", ["rotation", "jigsaw"])
def test_adaptation_is_training_by_the_pretext_alone_whatever_the_labels(pretext):
    extractor, head, rotation_head = parts()
    if pretext == "jigsaw":
        rotation_head = models.auxiliary_head(head, 24, seed=2)
    target = small_set(n=30, size=16)
    found, history = adapt(
        extractor, rotation_head, target.train.images, recipe=RECIPE, pretext=pretext, seed=5, show_progress=False
    )
    by_hand = copy.deepcopy(extractor)
    task = Task(target, by_hand, [Pretext(freeze(rotation_head), pretext)], seed=5)
    assert training.train([task], RECIPE) == history
    assert same(state(by_hand), state(found))
    other, _ = adapt(extractor, rotation_head, target.train.images, recipe=RECIPE, pretext=pretext, seed=6)
    assert not same(state(other), state(found))


def test_the_extractor_in_training_is_probed(tmp_path):
    extractor, _, rotation_head = parts()
    seen = []

    def probe(module, head):
        assert head is not rotation_head and type(head) is type(rotation_head)
        seen.append(module)
        return {"weight": module.stem[0].weight[0, 0, 0, 0].item()}

    options = {"recipe": RECIPE, "probe": probe, "probe_at": (0, 3), "checkpoint": tmp_path / "run.pt"}
    adapted, history = adapt(extractor, rotation_head, small_set().train.images, **options)
    rows = [row for row in history if "task" not in row]
    weights = [net.stem[0].weight[0, 0, 0, 0].item() for net in (extractor, adapted)]
    assert rows == [{"step": step, "weight": weight} for step, weight in zip((0, 3), weights, strict=True)]
    assert len(seen) == 2 and all(module is adapted for module in seen) and weights[0] != weights[1]
    assert adapt(extractor, rotation_head, small_set().train.images, **options)[1] == history and len(seen) == 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(8, 3, 8, 8), r"images: uint8.*float32 \(8, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"images: uint8.*\(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), r"images.*n > 0.*\(0, 3, 8, 8\)"),
        (torch.zeros(8, 3, 8, 6, dtype=torch.uint8), r"images.*square.*\(8, 3, 8, 6\)"),
    ],
)
def test_images_that_cannot_be_turned_are_refused(images, message):
    extractor, _, rotation_head = parts()
    with pytest.raises(ValueError, match=message):
        adapt(extractor, rotation_head, images, recipe=RECIPE)


@pytest.mark.parametrize(
    ("outputs", "width", "pretext", "message"),
    [
        (3, 4, "rotation", "rotation_head: rotation needs 4 outputs, got 3"),
        (24, 4, "rotation", "rotation_head: rotation needs 4 outputs, got 24"),
        (4, 4, "jigsaw", "rotation_head: jigsaw needs 24 outputs, got 4"),
        (4, 6, "rotation", "head: takes features of 12 channels.*gives 8"),
        pytest.param(
            4,
            4,
            "colour",
            "pretext.*rotation, jigsaw.*'colour'",
        ),
    ],
)
def test_rotation_heads_that_do_not_fit_are_refused(outputs, width, pretext, message):
    rotation_head = models.auxiliary_head(parts(width=width)[1], outputs)
    with pytest.raises(ValueError, match=message):
        adapt(parts()[0], rotation_head, small_set().train.images, recipe=RECIPE, pretext=pretext)


# --- update of a head -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [parts, frozen_parts])
def test_an_updated_head_has_more_outputs_and_the_extractor_stays(given):
    extractor, head, _ = given()
    before, image_set = everything(extractor, head), small_set(classes=("cat", "dog", "eel", "fox", "gnu"))
    same_extractor, longer, history = update_head(head, extractor, image_set, recipe=RECIPE)
    assert unchanged(before, extractor, head)
    assert same_extractor is not extractor and same(state(same_extractor), before[0][0])
    assert longer[-1].out_features == 5 and head[-1].out_features == 3 and moved(longer[:-1], head[:-1])
    assert not torch.equal(longer[-1].weight[:3], head[-1].weight)
    assert [set(row) for row in history] == [{"step", "task", "target"}] * 3


def test_an_updated_head_starts_from_what_it_knew():
    extractor, head, _ = parts()
    image_set = small_set(classes=("cat", "dog", "eel", "fox"))
    features = torch.randn(2, 8, 4, 4)
    outputs, seen = copy.deepcopy(head).eval()(features), []

    def probe(*modules):
        seen.append(modules)
        found = copy.deepcopy(modules[1]).eval()(features)
        return {"distance": (found[:, :3] - outputs).abs().max().item()}

    found = update_head(head, extractor, image_set, recipe=RECIPE, probe=probe, probe_at=(0, 2))
    at_0, after_2 = (row["distance"] for row in found[2] if "task" not in row)
    assert at_0 < 1e-5 < 1e-3 < after_2
    assert all(modules == found[:2] for modules in seen) and len(seen) == 2


@pytest.mark.parametrize("with_rotations", [False, True])
def test_an_update_is_training_of_the_longer_head(with_rotations):
    extractor, head, rotation_head = parts()
    image_set = small_set(classes=("cat", "dog", "eel", "fox"))
    options = {"rotation_head": rotation_head} if with_rotations else {}
    found = update_head(head, extractor, image_set, recipe=RECIPE, seed=4, **options)
    longer, mine = models.extend_classifier(head, 4, seed=4), copy.deepcopy(extractor)
    freeze(rotation_head if with_rotations else mine)
    terms = [Target(longer), *([Pretext(rotation_head)] if with_rotations else [])]
    history = training.train([Task(image_set, mine, terms, seed=4)], RECIPE)
    assert history == found[2] and all(("rp" in row) == with_rotations for row in history)
    assert same(state(longer), state(found[1])) and same(state(mine), state(found[0]))


def test_with_a_rotation_head_the_extractor_moves_too(tasks):
    extractor, head, rotation_head = parts()
    before = everything(extractor, head, rotation_head)
    image_set = small_set(classes=("cat", "dog", "eel", "fox"))
    found, longer, _ = update_head(head, extractor, image_set, rotation_head=rotation_head, recipe=RECIPE)
    assert unchanged(before, extractor, head, rotation_head)
    assert moved(found, extractor) and longer[-1].out_features == 4
    inside = part(tasks[0], "rp")
    assert inside is not rotation_head and same(state(inside), before[0][2])


def test_a_head_that_cannot_be_updated_is_refused():
    extractor, head, _ = parts()
    with pytest.raises(ValueError, match="num_outputs: the head has 3 outputs.*got 2"):
        update_head(head, extractor, small_set(classes=("cat", "dog")), recipe=RECIPE)
    with pytest.raises(ValueError, match="head: takes features of 12 channels.*gives 8"):
        update_head(parts(width=6)[1], extractor, small_set(), recipe=RECIPE)
    with pytest.raises(ValueError, match="linear"):
        update_head(head[:-1], extractor, small_set(), recipe=RECIPE)


# --- transfer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [parts, frozen_parts])
def test_a_transferred_network_is_one_of_both_and_learns_in_both(given):
    (extractor, _, _), (_, head, _) = given(), parts(seed=3)
    before, seen = everything(extractor, head), []
    image_set = small_set(size=16)

    def probe(*modules):
        seen.append(modules)
        return {"modules": len(modules)}

    network, history = transfer(extractor, head, image_set, recipe=RECIPE, probe=probe, probe_at=(0, 3))
    assert unchanged(before, extractor, head)
    assert isinstance(network, nn.Sequential) and len(network) == 2
    assert moved(network[0], extractor) and moved(network[1], head)
    assert seen == [tuple(network)] * 2
    terms = [set(row) - {"step"} for row in history]
    assert terms == [{"modules"}, *[{"task", "target"}] * 3, {"modules"}]


def test_a_transfer_begins_with_the_given_parts_and_is_training_of_both():
    (extractor, _, _), (_, head, _) = parts(), parts(seed=3)
    image_set, starts = small_set(), []

    def probe(*modules):
        starts.append(list(map(state, modules)))
        return {}

    network, history = transfer(extractor, head, image_set, recipe=RECIPE, seed=2, probe=probe, probe_at=[0])
    assert all(map(same, starts[0], (state(extractor), state(head)))) and len(starts) == 1
    assert training.train([Task(image_set, extractor, [Target(head)], seed=2)], RECIPE) == history[1:]
    assert same(state(network[0]), state(extractor)) and same(state(network[1]), state(head))


def test_the_buffers_of_parts_that_were_frozen_follow_their_weights():
    extractor, head, _ = parts()
    network, _ = transfer(freeze(extractor), head, small_set(), recipe=RECIPE)
    assert not torch.equal(network[0].stem[1].running_mean, extractor.stem[1].running_mean)


def test_a_transfer_of_parts_that_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="head: takes features of 8 channels.*gives 12"):
        transfer(parts(width=6)[0], parts()[1], small_set(), recipe=RECIPE)
    adapted = models.fit_channels(parts(width=6)[0], 8, seed=0)
    network, _ = transfer(adapted, parts()[1], small_set(), recipe=RECIPE)
    assert not torch.equal(network[0][-1].weight, adapted[-1].weight), "the adapter is trained as well"


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 1000])
@pytest.mark.parametrize("marks", [(), (5, 6, 100_000), [0, 1]])
def test_steps_to_look_at(steps, marks):
    wanted = [
        step
        for step in range(steps + 1)
        if step in (0, steps) or step in marks or math.log2(step) == round(math.log2(step))
    ]
    assert log_steps(steps, marks) == wanted


def test_the_modules_docstring_runs():
    extractor, head, rotation_head = parts()
    image_set = small_set()
    adapted, _ = adapt(extractor, rotation_head, image_set.train.images, recipe=RECIPE)
    _, longer, _ = update_head(head, adapted, small_set(classes=("cat", "dog", "eel", "fox")), recipe=RECIPE)
    assert longer[-1].out_features == 4
    network, _ = transfer(adapted, head, image_set, recipe=RECIPE)
    assert network(image_set.normalise(image_set.test.images)).shape == (40, 3)
