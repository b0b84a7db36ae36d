"""The loss terms against the equations, written out as loops."""

import itertools
import math

import pytest
import torch
from torch import nn

from compatkit import models, objectives
from compatkit.recipes import Recipe
from compatkit.training import Task

from ..samples import same, small_set, state


def log_softmax(row):
    peak = max(row)
    total = math.log(sum(math.exp(v - peak) for v in row)) + peak
    return [v - total for v in row]


@pytest.mark.parametrize("labels", [[0, -1, 2, 1, -1, 0, 2], [-1] * 7])
def test_dcc_loss_is_the_indicator_sum_of_equation_1(labels):
    logits = torch.randn(7, 3)
    expected = sum(-log_softmax(row)[y] for row, y in zip(logits.tolist(), labels, strict=True) if y >= 0) / 7
    assert objectives.dcc_loss(logits, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-5)


def test_rp_loss_is_the_mean_over_rotations_of_equation_2():
    extractor, head = nn.Conv2d(3, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, 4))
    images = torch.randn(5, 3, 8, 8)
    total = 0.0
    for image in images:
        for turn in range(4):
            logits = head(extractor(torch.rot90(image, turn, (1, 2))[None]))[0]
            total -= log_softmax(logits.tolist())[turn] / 4
    term = objectives.Pretext(head)
    found = term.loss(minibatch(extractor, images, term, rotations="all")(0)).item()
    assert found == pytest.approx(total / 5, rel=1e-5) == objectives.rp_loss(extractor, head, images).item()


def minibatch(network, images, term, **options):
    """All of these images as the terms of a task see them."""
    data = images, torch.zeros(len(images), dtype=torch.int64)
    return Task(data, network, [term]).minibatches(Recipe(batch_size=len(images), **options))


def arranged(image, number):
    """One image (c, 8, 8) with its quarters in another order."""
    places = [image[:, i : i + 4, j : j + 4] for i, j in ((0, 0), (0, 4), (4, 0), (4, 4))]
    quarters = [places[i] for i in list(itertools.permutations(range(4)))[number]]
    return torch.cat([torch.cat(quarters[:2], 2), torch.cat(quarters[2:], 2)], 1)


@pytest.mark.parametrize(
    ("pretext", "shown"), [("rotation", lambda image, turn: image.rot90(turn, (1, 2))), ("jigsaw", arranged)]
)
def test_the_loss_of_a_pretext_is_the_mean_over_images_of_the_cross_entropy(pretext, shown):
    variants = objectives.PRETEXTS[pretext].variants
    extractor, head = nn.Conv2d(3, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(2 * 36, variants))
    term, total = objectives.Pretext(head, pretext), 0.0
    rotations = "sampled" if pretext == "rotation" else "all"  # of arrangements there is always one
    batch = minibatch(extractor, torch.randn(30, 3, 8, 8), term, rotations=rotations)(3)
    for image, number in zip(batch.images, batch.variants(variants).tolist(), strict=True):
        total -= log_softmax(head(extractor(shown(image, number)[None]))[0].tolist())[number]
    assert term.loss(batch).item() == pytest.approx(total / 30, rel=1e-5)


@pytest.mark.parametrize("count", [4, 24])
def test_sampled_variants_are_even_and_depend_on_the_step(count):
    def drawn(step, seed=0):
        task = Task(small_set(), nn.Identity(), [objectives.UnitLength()], seed)
        return task.minibatches(Recipe(batch_size=40))(step).variants(count)

    variants = torch.stack([drawn(step) for step in range(200)])
    shares = variants.flatten().bincount() / 8000
    assert len(shares) == count and (shares * count - 1).abs().max() < 0.2
    assert torch.equal(drawn(7), variants[7]) and not torch.equal(variants[7], variants[8])
    assert not torch.equal(drawn(7, seed=1), variants[7])


def unit_length_loss(features):
    term = objectives.UnitLength()
    return term.loss(minibatch(nn.Identity(), features, term)(0))


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 2, 4)])
def test_unit_length_loss_is_the_mean_over_images_and_positions(shape):
    features = torch.randn(shape)
    vectors = [image[(slice(None), *at)] for image in features for at in itertools.product(*map(range, shape[2:]))]
    assert {len(v) for v in vectors} == {5}
    expected = sum((math.hypot(*v.tolist()) - 1) ** 2 for v in vectors) / len(vectors)
    assert unit_length_loss(features).item() == pytest.approx(expected, rel=1e-5)


def test_unit_length_loss_has_a_finite_gradient_where_relu_left_nothing():
    features = torch.tensor([[2.0, 2, 2], [0, 0, 0]], requires_grad=True)
    unit_length_loss(features).backward()
    assert (features.grad[0] > 0).all() and not features.grad[1].any()


def test_identical_initial_weights_are_copies_between_identical_architectures():
    nets = [models.build("resnet8", 5, seed=i, width=4) for i in range(3)]
    objectives.identical_initial_weights(*nets)
    for net in nets[1:]:
        assert same(state(net), state(nets[0])) and {*net.parameters()}.isdisjoint(nets[0].parameters())
    with pytest.raises(ValueError, match="identical architectures.*classifier"):
        objectives.identical_initial_weights(models.build("resnet8", 5), models.build("resnet8", 6))
    with pytest.raises(ValueError, match="stage1_block2"):
        objectives.identical_initial_weights(models.build("resnet8", 5), models.build("resnet14", 5))
