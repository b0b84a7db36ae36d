"""What networks share without training together: the simplex by its definition, cosines to anchors against loops."""

import itertools
import math

import pytest
import torch
from torch import nn

from compatkit import models
from compatkit.layers import layer_features
from compatkit.normalization import evaluation
from compatkit.objectives import DCC, Target
from compatkit.recipes import Recipe
from compatkit.training import Task, freeze, train
from reproduction.runs.representations import Alignment, Relative, SimplexHead, simplex

from ..samples import small_set

RECIPE = Recipe(steps=4, batch_size=16, lr=0.02)


@pytest.mark.parametrize(("corners", "dim"), [(2, 1), (3, 2), (9, 8), (9, 32), (10, 9)])
def test_any_two_corners_of_a_simplex_are_as_far_apart(corners, dim):
    points = simplex(corners, dim, seed=3)
    assert points.shape == (corners, dim) and torch.allclose(points.sum(0), torch.zeros(dim), atol=1e-5)
    for a, b in itertools.product(range(corners), repeat=2):
        cosine = sum(x * y for x, y in zip(points[a].tolist(), points[b].tolist(), strict=True))
        assert cosine == pytest.approx(1 if a == b else -1 / (corners - 1), abs=1e-5)
    assert torch.equal(points, simplex(corners, dim, seed=3))
    assert dim == 1 or not torch.allclose(points, simplex(corners, dim, seed=4), atol=1e-3)


def test_a_simplex_needs_room():
    with pytest.raises(ValueError, match="dim: 9 corners need .* 8 dimensions, got 7"):
        simplex(9, 7)


def cut(seed, split_at="stage2"):
    return models.split(models.build("resnet8", 3, width=4, seed=seed), split_at)


def test_networks_that_never_meet_learn_under_one_simplex():
    images = small_set(n=60)
    for split in (images.train, images.test):  # brightness tells the class
        split.images[:] = (split.labels.view(-1, 1, 1, 1) * 100 + 20).to(torch.uint8)
    head, index = SimplexHead(8, 3, seed=1), torch.arange(3)
    before, extractors = head.corners.clone(), [cut(seed)[0] for seed in (0, 1)]
    for seed, extractor in enumerate(extractors):
        train([Task(images, extractor, [DCC(head, index)], seed)], Recipe(steps=60, batch_size=16, lr=0.02))
    assert torch.equal(head.corners, before), "it stays as it is"
    shown = images.normalise(images.test.images)
    for extractor in extractors:
        with torch.no_grad(), evaluation(extractor):
            assert (head(extractor(shown)).argmax(1) == images.test.labels).double().mean() > 0.9
    maps, flat = torch.rand(5, 8, 3, 3), torch.rand(5, 8)
    assert torch.allclose(head(maps), maps.mean((2, 3)) @ before.T) and torch.allclose(head(flat), flat @ before.T)


@pytest.mark.parametrize("split_at", ["stage2", "pool"])
def test_relative_features_are_cosines_to_the_anchors(split_at):
    extractor, _ = cut(0, split_at)
    plain = nn.Sequential(*extractor)
    anchors, images = torch.randn(5, 3, 8, 8), torch.randn(4, 3, 8, 8)
    extractor.add_module("relative", Relative(extractor, anchors))
    assert set(map(id, extractor.parameters())) == set(map(id, plain.parameters())), "nothing more to learn"
    with torch.no_grad(), evaluation(plain):
        features, of_anchors = plain(images), plain(anchors)
    with torch.no_grad(), evaluation(extractor):
        found = extractor(images)
    pooled = of_anchors.flatten(2).mean(2) if of_anchors.ndim == 4 else of_anchors
    assert found.shape == (4, 5, *features.shape[2:])
    for image, anchor in itertools.product(range(4), range(5)):
        for at in itertools.product(*(range(n) for n in features.shape[2:])):
            x, y = features[(image, slice(None), *at)].tolist(), pooled[anchor].tolist()
            cosine = sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
            assert found[(image, anchor, *at)].item() == pytest.approx(cosine, abs=1e-4)


def test_anchors_go_unseen_by_who_watches_the_blocks_and_learn_with_them():
    extractor, head = cut(0)
    images = small_set()
    anchors = images.normalise(images.train.images[:8])
    extractor.add_module("relative", Relative(extractor, anchors))
    seen = layer_features(extractor, ["stem", "relative"], images.normalise(images.test.images[:3]))
    assert len(seen["stem"]) == len(seen["relative"]) == 3
    before = extractor.relative.anchors.clone()
    history = train([Task(images, extractor, [Target(head)])], RECIPE)
    assert torch.equal(extractor.relative.anchors, before) and len(history) == 4
    assert all(parameter.grad is not None for parameter in extractor.parameters())


def test_the_alignment_loss_is_one_minus_the_cosine_at_each_position():
    a, b = torch.randn(3, 5, 2, 2), torch.randn(3, 5, 2, 2)
    total = 0.0
    for image, i, j in itertools.product(range(3), range(2), range(2)):
        x, y = a[image, :, i, j].tolist(), b[image, :, i, j].tolist()
        total += 1 - sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

    def loss(x, y):
        own, partner = (nn.Module() for _ in range(2))
        own.forward, partner.forward = lambda _: x, lambda _: y
        task = Task((torch.zeros(3, 1), torch.zeros(3)), own, [Alignment(partner)])
        return task.losses(task.minibatches(Recipe(batch_size=3))(0))["alignment"].item()

    assert loss(a, b) == pytest.approx(total / 12, rel=1e-5)
    assert loss(a, 3 * a) == pytest.approx(0, abs=1e-6), "lengths do not count"


@pytest.mark.parametrize("frozen", [False, True])
def test_alignment_draws_to_a_partner_that_moves_unless_it_is_frozen(frozen):
    images, (extractor, head), (partner, _) = small_set(), cut(0), cut(1)
    if frozen:
        freeze(partner)
    before = {k: v.clone() for k, v in partner.state_dict().items()}
    task = Task(images, extractor, [Target(head), Alignment(partner)])
    history = train([task], Recipe(steps=30, batch_size=16, lr=0.01, schedule="constant"))
    assert history[-1]["alignment"] < 0.8 * history[0]["alignment"]
    assert all(torch.equal(before[k], v) for k, v in partner.state_dict().items()) == frozen
