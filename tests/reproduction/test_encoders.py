"""What embedders learn from: each loss written out as loops, blends and views that depend on seed and step alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compatkit.batches import Batches
from compatkit.recipes import Recipe
from compatkit.training import Task
from reproduction.runs import encoders
from reproduction.runs.embedders import embedder
from reproduction.runs.encoders import (
    ArcFace,
    Contrastive,
    Influence,
    Mixup,
    Reconstruction,
    Softmax,
    arcface_logits,
    decoder,
    linear_classifier,
    nt_xent,
    projection_head,
    synthesised_classifier,
    views,
)

from ..samples import small_set

RECIPE = Recipe(steps=2, batch_size=16)
DIM = 5


def supervised(image_set=None, kind=Softmax, *, mixup=False, known=None, seed=0, **options) -> Task:
    """Flat pixels through one linear layer: what matters here comes after it."""
    image_set = image_set or small_set()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(image_set.train.images[0].numel(), DIM))
    classifier = linear_classifier(DIM, len(image_set.classes), seed=0)
    target = kind(classifier, **options)
    influence = [] if known is None else [Influence(*known, target)]
    return Task(image_set, model, [Mixup(target) if mixup else target, *influence], seed)


def weight_of(task):
    return task.terms[0].classifier.weight


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def log_softmax(row):
    peak = max(row)
    total = math.log(sum(math.exp(v - peak) for v in row)) + peak
    return [v - total for v in row]


def naive_arcface(embedding, weight, label, scale, margin):
    """Logits of one image."""
    logits = []
    for k, w in enumerate(weight):
        norms = math.hypot(*embedding) * math.hypot(*w)
        cosine = sum(a * b for a, b in zip(embedding, w, strict=True)) / norms
        if k == label:
            angle = math.acos(cosine)
            cosine = math.cos(angle + margin) if angle + margin <= math.pi else cosine - 1 + math.cos(margin)
        logits.append(scale * cosine)
    return logits


# --- labels -----------------------------------------------------------------------------------------------------------

KINDS = {Softmax: {}, ArcFace: {"scale": 4.0, "margin": 0.2}}
each_kind = pytest.mark.parametrize("kind", KINDS)


def naive_loss(kind, embedding, weight, label, smoothing=0.1):
    """The loss of one image."""
    if kind is ArcFace:
        return -log_softmax(naive_arcface(embedding, weight, label, 4.0, 0.2))[label]
    logs = log_softmax([sum(a * b for a, b in zip(embedding, w, strict=True)) for w in weight])
    return -(1 - smoothing) * logs[label] - smoothing * sum(logs) / len(logs)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Softmax, {}), (Softmax, {"smoothing": 0.0}), (Softmax, {"smoothing": 0.6}), (ArcFace, KINDS[ArcFace])],
)
def test_the_loss_of_labels_against_its_formula(kind, options):
    task = supervised(kind=kind, **options)
    batch = task.minibatches(RECIPE)(0)
    smoothing = {"smoothing": options["smoothing"]} if "smoothing" in options else {}
    rows = [
        naive_loss(kind, embedding, weight_of(task).tolist(), label, **smoothing)
        for embedding, label in zip(batch.features.tolist(), batch.labels.tolist(), strict=True)
    ]
    found = task.losses(batch)
    assert list(found) == ["target"] and found["target"].item() == pytest.approx(sum(rows) / 16, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_arcface_logits_against_the_formula(margin):
    g = generator()
    embeddings, weight = torch.randn(60, 3, generator=g), torch.randn(4, 3, generator=g)
    labels = torch.arange(60) % 4
    expected = [
        naive_arcface(e, weight.tolist(), y, 16.0, margin)
        for e, y in zip(embeddings.tolist(), labels.tolist(), strict=True)
    ]
    found = arcface_logits(embeddings, weight, labels, scale=16.0, margin=margin)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)
    cosine = F.cosine_similarity(embeddings, weight[labels])
    assert margin == 0 or (cosine.acos() + margin > math.pi).any(), "some are past half a turn"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_arcface_has_finite_gradients_where_the_cosine_is_extreme(sign, margin, precision):
    weight = torch.randn(4, 3, generator=generator(), requires_grad=True)
    embeddings = (sign * weight.detach() * 2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = arcface_logits(embeddings, weight, torch.arange(4), margin=margin)
        F.cross_entropy(logits, torch.arange(4)).backward()
    for tensor in (logits, embeddings.grad, weight.grad):
        assert tensor.isfinite().all()


# --- backward compatible training -------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("width", [3, DIM, 8])
def test_bct_adds_the_old_classifiers_mean_loss_of_known_classes(kind, width):
    weight, index = torch.randn(4, width, generator=generator()), torch.tensor([3, -1, 0])
    task = supervised(kind=kind, known=(weight, index), **KINDS[kind])
    batch = task.minibatches(RECIPE)(0)
    found = task.losses(batch)
    assert list(found) == ["target", "compatible"]
    assert torch.equal(found["target"], supervised(kind=kind, **KINDS[kind]).losses(batch)["target"])
    rows = [
        naive_loss(kind, [*embedding, *[0.0] * 8][:width], weight.tolist(), row)
        for embedding, row in zip(batch.features.tolist(), index[batch.labels].tolist(), strict=True)
        if row >= 0
    ]
    assert 0 < len(rows) < 16 and found["compatible"].item() == pytest.approx(sum(rows) / len(rows), rel=1e-4)


@each_kind
def test_bct_without_a_known_class_is_0_and_not_nan(kind):
    task = supervised(kind=kind, known=(torch.randn(4, DIM), torch.full((3,), -1)))
    found = task.losses(task.minibatches(RECIPE)(0))["compatible"]
    found.backward()
    assert found.item() == 0 and all(p.grad.abs().max() == 0 for p in task.extractor.parameters())


# --- blends -----------------------------------------------------------------------------------------------------------


def blended(step=1):
    """A minibatch with mixup, the plain one, and of each image the partner and the share found by trying all."""
    task = supervised(small_set(n=48), mixup=True)
    batch = task.minibatches(RECIPE)(step)
    plain, images = batch.images, task.terms[0].blended(batch)
    found = []
    for i in range(16):
        way = (plain[i] - plain).flatten(1)  # image = other + share * way
        share = ((images[i] - plain).flatten(1) * way).sum(1) / way.square().sum(1).clamp_min(1e-9)
        distance = (plain + share[:, None, None, None] * way.view_as(plain) - images[i]).abs().flatten(1).mean(1)
        other = int(distance.argmin())
        assert distance[other] < 1e-4
        found.append((other, 1.0 if other == i else share[other].item()))
    return found


def test_mixup_blends_each_image_with_another_in_even_shares_above_a_half():
    partners, shares = zip(*blended(), strict=True)
    assert sorted(partners) == list(range(16)) != list(partners) and min(shares) >= 0.5
    shares = [share for step in range(30) for _, share in blended(step) if share < 1]
    found = torch.tensor(shares).quantile(torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(found, torch.tensor([0.55, 0.75, 0.95]), atol=0.03)


@each_kind
def test_the_loss_of_a_blend_is_that_of_any_image_under_the_label_of_the_plain_one(kind):
    task = supervised(kind=kind, mixup=True)
    batch = task.minibatches(RECIPE)(0)
    blended = replace(batch, inputs=(task.terms[0].blended(batch),))
    assert torch.equal(task.losses(batch)["target"], supervised(kind=kind).losses(blended)["target"])


def embedded(term, image_set=None, seed=0) -> Task:
    return Task(image_set or small_set(), embedder("resnet8", 6, width=4, seed=0), [term], seed)


OLD = torch.randn(4, DIM, generator=generator())
TASKS = {
    "plain": supervised,
    "bct": lambda image_set=None, **o: supervised(image_set, known=(OLD, torch.tensor([0, 1, 2])), **o),
    "mixup": lambda image_set=None, **o: supervised(image_set, mixup=True, **o),
    "contrastive": lambda *sets, seed=0, **o: embedded(Contrastive(projection_head(6, seed=0), **o), *sets, seed=seed),
    "autoencoder": lambda *sets, seed=0: embedded(Reconstruction(decoder(6, 3, 8, seed=0)), *sets, seed=seed),
}


@pytest.mark.parametrize("kind", TASKS)
def test_losses_depend_on_seed_and_step_alone(kind):
    recipe, tasks = Recipe(steps=9, batch_size=16, crop=1, flip=True), {seed: TASKS[kind](seed=seed) for seed in (3, 4)}

    def loss(step, seed=3):
        batch = tasks[seed].minibatches(recipe)(step)
        return sum(tasks[seed].losses(batch).values()).item()

    torch.manual_seed(1)
    before, first = torch.get_rng_state(), loss(4)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert loss(5) != first == loss(4) != loss(4, seed=4)


def test_the_digest_tells_all_that_changes_what_is_learnt():
    old = torch.randn(4, DIM), torch.tensor([0, 1, 2])
    digests = [
        supervised(**options).digest
        for options in (
            {},
            {"image_set": small_set(seed=1)},
            {"seed": 1},
            {"smoothing": 0.2},
            {"mixup": True},
            {"kind": ArcFace},
            {"kind": ArcFace, "scale": 16.0},
            {"kind": ArcFace, "margin": 0.2},
            {"known": old},
            {"known": (old[0] + 1, old[1])},
            {"known": (old[0], old[1] - 1)},
        )
    ]
    digests += [TASKS[kind](seed=seed).digest for kind in ("contrastive", "autoencoder") for seed in (0, 1)]
    digests.append(TASKS["contrastive"](temperature=0.1).digest)
    assert len(set(digests)) == len(digests) == 16
    assert supervised().digest == digests[0]


# --- two views --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "temperature"), [(2, 0.5), (7, 0.5), (7, 0.1)])
def test_nt_xent_against_a_double_loop(n, temperature):
    z = torch.randn(2 * n, 4, generator=generator()) * 3
    rows, expected = z.tolist(), 0.0

    def similarity(i, j):
        dot = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
        return dot / math.hypot(*rows[i]) / math.hypot(*rows[j]) / temperature

    for i in range(2 * n):
        total = sum(math.exp(similarity(i, k)) for k in range(2 * n) if k != i)
        expected -= math.log(math.exp(similarity(i, (i + n) % (2 * n))) / total) / (2 * n)
    assert nt_xent(z, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_losses_on_the_sphere_are_as_precise_under_autocast():
    z, labels = torch.randn(16, 8, generator=generator()), torch.arange(16) % 4
    plain = nt_xent(z, 0.1), arcface_logits(z, z[:4], labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(z, 0.1), plain[0]) and torch.equal(arcface_logits(z, z[:4], labels), plain[1])


@pytest.mark.parametrize("flip", [False, True])
def test_the_two_views_of_each_image_come_in_the_same_order(monkeypatch, flip):
    image_set, calls = small_set(n=30), []

    def seen(images, generator, *, flip):
        calls.append((images, flip))
        return images.float() / 255

    monkeypatch.setattr(encoders, "views", seen)
    task = TASKS["contrastive"](image_set, seed=5)
    batch = task.minibatches(Recipe(batch_size=12, flip=flip, crop=1))(1)
    found = task.terms[0].views(batch)
    expected, _ = Batches(image_set, 12, seed=5)(1)
    assert torch.allclose(found, expected.repeat(2, 1, 1, 1), atol=1e-5)
    [(images, flipped)] = calls
    assert images.dtype == torch.uint8 and len(images) == 24 and flipped is flip


def test_the_contrastive_loss_is_nt_xent_of_what_is_projected():
    task = TASKS["contrastive"](temperature=0.2)
    batch = task.minibatches(RECIPE)(0)
    images = task.terms[0].views(batch)
    for module in task.modules():
        module.eval()
    assert len(images) == 32 and not torch.allclose(images[:16], images[16:], atol=0.1), "the views differ"
    expected = nt_xent(task.terms[0].projection(task.extractor(images)), 0.2)
    found = task.losses(batch)
    assert list(found) == ["contrast"] and torch.allclose(found["contrast"], expected)


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (5, 1, 16, 16), (1, 3, 32, 32)])
def test_views_have_the_images_shape_and_lie_in_0_to_1(shape):
    images = torch.randint(256, shape, generator=generator(), dtype=torch.uint8)
    before = images.clone()
    found = views(images, generator(1), flip=True, strength=1.0)
    assert found.shape == shape and found.dtype == torch.float32
    assert 0 <= found.min() < found.max() <= 1 and torch.equal(images, before)


@pytest.mark.parametrize("flip", [False, True])
def test_crops_lie_within_the_image_and_have_the_areas_and_sides_of_simclr(flip):
    n, size = 400, 32
    place = (torch.arange(size) + 0.5) / size
    ramps = torch.stack(torch.broadcast_tensors(place[None, :], place[:, None]))  # channels tell column and row
    found = encoders._cropped(ramps.expand(n, 2, size, size), generator(), flip)
    across, down = found[:, 0], found[:, 1]
    assert torch.allclose(across, across[:, :1].expand_as(across), atol=1e-5), "no shear"
    assert torch.allclose(down, down[:, :, :1].expand_as(down), atol=1e-5)
    sides = []
    for positions in (across[:, 0], down[:, :, 0]):
        inner = positions[:, 2:-2].diff()  # the outermost may lie beyond the centre of the last pixel
        assert torch.allclose(inner, inner[:, :1].expand_as(inner), atol=1e-4)
        side, centre = inner.mean(1) * size, positions[:, size // 2 - 1 : size // 2 + 1].mean(1)
        assert (centre - side.abs() / 2 > -1e-3).all() and (centre + side.abs() / 2 < 1 + 1e-3).all()
        assert (side.abs() < 0.8).any() and (centre - 0.5).abs().max() > 0.2
        sides.append(side)
    width, height = sides
    mirrored = (width < 0).float().mean().item()
    assert (height > 0).all() and (0.4 < mirrored < 0.6 if flip else mirrored == 0)
    area, ratio, free = width.abs() * height, width.abs() / height, (width.abs() < 0.999) & (height < 0.999)
    assert 0.19 < area.min() < 0.25 and 0.9 < area.max() < 1.001
    assert ratio[free].min() > 0.749 and ratio[free].max() < 1.334 and ratio.min() < 0.8 and ratio.max() > 1.25


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_brightness_and_contrast_of_80_percent_of_images_change(strength):
    images = torch.tensor([0.3, 0.4]).expand(3000, 1, 1, 2)
    found = encoders._recoloured(images, generator(), strength)
    brightness = found.mean((1, 2, 3)) / 0.35
    contrast = (found[:, 0, 0, 1] - found[:, 0, 0, 0]) / 0.1 / brightness
    assert 0.17 < (found == images).all(3).float().mean() < 0.23
    for factor in (brightness, contrast):
        assert factor.min().item() == pytest.approx(1 - 0.8 * strength, abs=0.015)
        assert factor.max().item() == pytest.approx(1 + 0.8 * strength, abs=0.015)


def test_a_fifth_of_the_views_is_grey():
    images = torch.tensor([0.5, 0.3, 0.4]).view(1, 3, 1, 1).expand(3000, 3, 2, 2)
    found = encoders._recoloured(images, generator(), 0.5)
    grey = (found.amax(1) - found.amin(1)).amax((1, 2)) == 0
    assert 0.17 < grey.float().mean() < 0.23
    luma = 0.299 * 0.5 + 0.587 * 0.3 + 0.114 * 0.4
    assert torch.isclose(found[grey], torch.tensor(luma)).any(), "of those that are not recoloured before"
    unchanged = (found == images).all(1).all(1).all(1)
    assert 0.13 < unchanged.float().mean() < 0.19, "a fifth is not recoloured, and four fifths of it are not grey"


def turned(images, turns):
    return encoders._hue_turned(images, torch.as_tensor(turns).expand(len(images)).view(-1, 1, 1, 1))


def test_turning_the_hue_moves_channels_on_and_keeps_grey_and_brightness():
    grey = torch.rand(5, 1, 4, 4, generator=generator()).expand(-1, 3, -1, -1)
    pale = 0.4 + 0.2 * torch.rand(5, 3, 4, 4, generator=generator())  # nothing is clamped
    for turns in (0.05, -0.6):
        found = turned(pale, turns)
        assert torch.allclose(turned(grey, turns), grey, atol=1e-5)
        assert torch.allclose(found.mean(1), pale.mean(1), atol=1e-5) and not torch.allclose(found, pale, atol=1e-2)
    assert torch.allclose(turned(pale, 1 / 3), pale.roll(1, 1), atol=1e-5), "red becomes green"


# --- the image itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 2, 15])
def test_a_decoder_needs_a_size_that_4_divides(size):
    with pytest.raises(ValueError, match=f"size: must be a multiple of 4, got {size}"):
        decoder(4, 3, size)


def test_reconstruction_is_the_squared_error_mean_over_pixels():
    task = TASKS["autoencoder"]()
    batch = task.minibatches(Recipe(batch_size=6))(0)
    for module in task.modules():
        module.eval()
    made = task.terms[0].decoder(batch.features)
    pixels = zip(made.flatten().tolist(), batch.images.flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pixels) / (6 * 3 * 8 * 8)
    found = task.losses(batch)
    assert list(found) == ["reconstruction"] and found["reconstruction"].item() == pytest.approx(expected, rel=1e-4)
    plain, _ = Batches(task.data, 6)(0)
    assert torch.equal(batch.images, plain)


def test_every_class_gets_its_mean_old_embedding_at_the_mean_length_of_trained_weights():
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [9.0, 0.0]])  # lengths 5, 1 and 9
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 2.0], [50.0, 0.0], [2.0, 7.0], [0.0, 3.0]])
    found = synthesised_classifier(weight, embeddings, torch.tensor([1, 1, 0, 2, 1]), 3)
    lengths = math.hypot(2 / 3, 5 / 3), math.hypot(2, 7)
    expected = [[5, 0], [5 * 2 / 3 / lengths[0], 5 * 5 / 3 / lengths[0]], [5 * 2 / lengths[1], 5 * 7 / lengths[1]]]
    assert torch.allclose(found, torch.tensor(expected))
