"""Adaptation, update and transfer against the same steps done by hand; what they are given stays as it was."""

import copy

import pytest
import torch
from torch import nn

from compatkit import models, training
from compatkit.applications import adapt, transfer, update_head
from compatkit.normalization import batch_norms
from compatkit.objectives import Pretext, Target
from compatkit.recipes import Recipe
from compatkit.training import Task, freeze, unfreeze

from ..samples import same, small_set, state, unsettled

RECIPE = Recipe(steps=3, batch_size=8, lr=0.01, rotations="sampled", precision="fp32")
FOUR = ("cat", "dog", "eel", "fox")


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


class Probe:
    """The parts in training, each time that a training calls it, and their weights then."""

    def __init__(self):
        self.seen, self.states = [], []

    def __call__(self, *modules):
        self.seen.append(modules)
        self.states.append(list(map(state, modules)))
        return {"modules": len(modules)}


def frozen_parts():
    """As incremental training leaves them: heads frozen, the extractor evaluated."""
    extractor, head, rotation_head = parts()
    return extractor.eval(), freeze(head), freeze(rotation_head)


@pytest.mark.parametrize("given", [parts, frozen_parts])
@pytest.mark.parametrize(("pretext", "outputs", "head_moves"), [("rotation", 4, False), ("jigsaw", 24, True)])
def test_adaptation_is_training_by_the_pretext_alone_whatever_the_labels(given, pretext, outputs, head_moves):
    (extractor, head, _), target, probe = given(), small_set(n=30, size=16), Probe()
    rotation_head = freeze(models.auxiliary_head(head, outputs, seed=2))
    before = everything(extractor, rotation_head)
    options = {"pretext": pretext, "head_moves": head_moves, "probe": probe, "probe_at": (0,)}
    found, history = adapt(extractor, rotation_head, target.train.images, recipe=RECIPE, seed=5, **options)
    assert unchanged(before, extractor, rotation_head) and probe.seen[0][0] is found
    assert all(map(same, probe.states[0], before[0])), "it is probed before the first step"
    by_hand, moving = unfreeze(copy.deepcopy(extractor)), copy.deepcopy(rotation_head)
    task = Task(target, by_hand, [Pretext((unfreeze if head_moves else freeze)(moving), pretext)], seed=5)
    assert training.train([task], RECIPE) == history[1:]
    assert same(state(by_hand), state(found)) and same(state(moving), state(probe.seen[0][1]))


@pytest.mark.parametrize("given", [parts, frozen_parts])
@pytest.mark.parametrize("with_rotations", [False, True])
def test_an_update_is_training_of_a_longer_head_that_starts_from_what_it_knew(given, with_rotations):
    (extractor, head, rotation_head), probe = given(), Probe()
    image_set, options = small_set(classes=FOUR), {"rotation_head": rotation_head} if with_rotations else {}
    before = everything(extractor, head, rotation_head)
    watched = {"recipe": RECIPE, "probe": probe, "probe_at": (0,)}
    found, longer, history = update_head(head, extractor, image_set, seed=4, **options, **watched)
    assert unchanged(before, extractor, head, rotation_head) and probe.seen == [(found, longer)]
    assert all(p.requires_grad for p in found.parameters()), "nothing that is given back is frozen"
    by_hand, mine = models.extend_classifier(head, 4, seed=4), unfreeze(copy.deepcopy(extractor))
    assert same(probe.states[0][1], state(by_hand)) and same(probe.states[0][0], before[0][0])
    unfreeze(by_hand), freeze(rotation_head if with_rotations else mine)
    terms = [Target(by_hand), *([Pretext(rotation_head)] if with_rotations else [])]
    assert training.train([Task(image_set, mine, terms, seed=4)], RECIPE) == history[1:]
    assert same(state(by_hand), state(longer)) and same(state(mine), state(found))


@pytest.mark.parametrize("given", [parts, frozen_parts])
def test_a_transferred_network_begins_with_the_given_parts_and_is_training_of_both(given):
    (extractor, _, _), (_, head, _), probe = given(), parts(seed=3), Probe()
    before, image_set = everything(extractor, head), small_set(size=16)
    network, history = transfer(extractor, head, image_set, recipe=RECIPE, seed=2, probe=probe, probe_at=[0])
    assert unchanged(before, extractor, head)
    assert isinstance(network, nn.Sequential) and probe.seen == [tuple(network)]
    assert all(map(same, probe.states[0], before[0])) and history[0] == {"step": 0, "modules": 2}
    by_hand = unfreeze(extractor.train())
    assert training.train([Task(image_set, by_hand, [Target(head)], seed=2)], RECIPE) == history[1:]
    assert same(state(network[0]), state(by_hand)) and same(state(network[1]), state(head))


def adapting(images=None, outputs=4, width=4, pretext="rotation"):
    images = small_set().train.images if images is None else images
    rotation_head = models.auxiliary_head(parts(width=width)[1], outputs)
    return adapt(parts()[0], rotation_head, images, recipe=RECIPE, pretext=pretext)


def updating(head, classes=("cat", "dog", "eel")):
    return update_head(head, parts()[0], small_set(classes=classes), recipe=RECIPE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapting(torch.zeros(8, 3, 8, 8)), r"images: uint8.*float32 \(8, 3, 8, 8\)"),
        (lambda: adapting(torch.zeros(8, 3, 8, 6, dtype=torch.uint8)), r"images.*square.*\(8, 3, 8, 6\)"),
        (lambda: adapting(outputs=24), "rotation_head: rotation needs 4 outputs, got 24"),
        (lambda: adapting(width=6), "head: takes features of 12 channels.*gives 8"),
        (lambda: adapting(pretext="colour"), "pretext.*rotation, jigsaw.*'colour'"),
        (lambda: updating(parts()[1], ("cat", "dog")), "num_outputs: the head has 3 outputs.*got 2"),
        (lambda: updating(parts(width=6)[1]), "head: takes features of 12 channels.*gives 8"),
        (lambda: transfer(parts(width=6)[0], parts()[1], small_set()), "takes features of 8 channels.*gives 12"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
