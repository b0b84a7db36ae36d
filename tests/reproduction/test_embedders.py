"""Embedders of any width from a seed alone; encoding depends on the image and on nothing beside it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compatkit import models
from compatkit.normalization import batch_norms
from compatkit.retrieval import encode
from reproduction.runs.embedders import embedder

from ..samples import same, small_set, state, unsettled


@pytest.mark.parametrize(
    ("name", "dim", "options", "shape"),
    [
        ("resnet8", 5, {}, (3, 16, 16)),
        ("resnet8", 200, {"width": 4, "in_channels": 1}, (1, 8, 8)),
        ("resnet20", 32, {"width": 8}, (3, 12, 12)),
        ("resnet14", 1, {"width": 4, "final_relu": False}, (3, 8, 8)),
        ("torchvision:resnet18", 7, {}, (3, 40, 40)),
        ("torchvision:resnet50", 9, {"in_channels": 1}, (1, 32, 32)),
        ("torchvision:mobilenet_v2", 6, {"width": 8}, (3, 32, 32)),
        ("torchvision:mobilenet_v2", 11, {"in_channels": 1, "final_relu": False}, (1, 40, 40)),
    ],
)
def test_the_last_block_gives_the_embedding_and_only_pooling_follows(name, dim, options, shape):
    net = unsettled(embedder(name, dim, seed=0, **options)).eval()
    images = torch.randn(2, *shape)
    maps = net[:-1](images)
    assert maps.shape[:2] == (2, dim) and net(images).shape == (2, dim)
    assert torch.allclose(net(images), maps.mean((2, 3)), atol=1e-6)
    assert (maps.min() == 0) == options.get("final_relu", True), "no embedding is negative"
    assert models.split_points(net)[:1] in (["stem"], ["block0"])


@pytest.mark.parametrize(("name", "size"), [("resnet8", 4), ("torchvision:mobilenet_v2", 32)])
def test_the_final_relu_may_be_left_out(name, size):
    images = torch.randn(30, 3, size, size)
    kept, left_out = (unsettled(embedder(name, 6, final_relu=relu, seed=0)).eval() for relu in (True, False))
    assert left_out[:-1](images).shape[2:] == (1, 1), "one position, so that the mean does not hide the ReLU"
    raw = left_out(images)
    assert raw.min() < 0 < raw.max()
    assert torch.equal(kept(images), raw.relu())


@pytest.mark.parametrize(
    ("name", "dim", "options", "message"),
    [
        ("torchvision:resnet18", 4, {"final_relu": False}, "final_relu.*resnet18.*False"),
        ("torchvision:resnet50", 4, {"width": 8}, "width.*resnet50.*8"),
        ("torchvision:vgg11", 4, {}, "name.*vgg11.*torchvision:resnet50.*resnetD"),
        ("lenet", 4, {}, "name.*lenet"),
        ("mobilenetv2", 4, {}, "name.*'mobilenetv2'.*torchvision:mobilenet_v2"),
        ("wrn10", 4, {}, "name.*'wrn10'.*resnetD"),
        ("resnet9", 4, {}, "depth"),
        ("resnet8", 4, {"width": 0}, "width"),
        ("resnet8", 0, {}, "dim.*0"),
        ("torchvision:resnet18", -1, {}, "dim.*-1"),
    ],
)
def test_what_cannot_be_built_is_an_error(name, dim, options, message):
    with pytest.raises(ValueError, match=message):
        embedder(name, dim, **options)


@pytest.mark.parametrize("name", ["resnet8", "torchvision:resnet18", "torchvision:mobilenet_v2"])
def test_weights_follow_from_the_seed_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = state(embedder(name, 4, seed=7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, state(embedder(name, 4, seed=7))) and not same(first, state(embedder(name, 4, seed=8)))
    torch.manual_seed(7)
    assert same(first, state(embedder(name, 4))), "without a seed torch's own"


def small(width, dim, channels):
    """Parameters of a ResNet-8 whose last block ends in ``dim`` channels."""
    stem = 9 * channels * width + 2 * width
    first = 2 * 9 * width**2 + 4 * width
    second = 9 * 2 * width**2 + 9 * 4 * width**2 + 8 * width
    last = 9 * 2 * width * dim + 9 * dim**2 + 4 * dim + 2 * width * dim + 2 * dim
    return stem + first + second + last


@pytest.mark.parametrize(
    ("name", "dim", "options", "count"),
    [
        ("resnet8", 32, {}, small(16, 32, 3)),
        ("resnet8", 5, {"width": 8, "in_channels": 1}, small(8, 5, 1)),
        # torchvision's number, less its classifier and the layers that end in its width, and those that end in 128
        ("torchvision:resnet18", 128, {}, 11_689_512 - 513_000 - 9 * 512**2 - 1024 + 9 * 512 * 128 + 512 * 128 + 512),
        ("torchvision:resnet50", 128, {}, 25_557_032 - 2_049_000 - 512 * 2048 - 4096 + (512 + 2048) * 128 + 512),
        ("torchvision:mobilenet_v2", 128, {}, 3_504_872 - 1_281_000 - 320 * 1280 - 2560 + 320 * 128 + 256),
    ],
)
def test_the_number_of_parameters(name, dim, options, count):
    assert models.count_parameters(embedder(name, dim, seed=0, **options)) == count


@pytest.mark.parametrize("relu", [True, False])
def test_the_last_block_of_a_small_resnet_layer_by_layer(relu):
    net = unsettled(embedder("resnet14", 7, width=4, final_relu=relu, seed=0)).eval()
    block = net.stage3_block2
    x = torch.randn(3, 16, 5, 5)

    def bn(layer, y):
        shape = (1, -1, 1, 1)
        mean, var = layer.running_mean.view(shape), layer.running_var.view(shape)
        return (y - mean) / (var + 1e-5).sqrt() * layer.weight.view(shape) + layer.bias.view(shape)

    y = bn(block.bn1, F.conv2d(x, block.conv1.weight, padding=1)).relu()
    y = bn(block.bn2, F.conv2d(y, block.conv2.weight, padding=1))
    y = y + bn(block.projection[1], F.conv2d(x, block.projection[0].weight))
    assert torch.allclose(block(x), y.relu() if relu else y, atol=1e-5)


def test_all_but_the_last_block_is_the_usual_network():
    ours, usual = (
        {k: v.shape for k, v in net.state_dict().items() if not k.startswith(("stage3_block1", "classifier"))}
        for net in (embedder("resnet8", 5, width=4), models.build("resnet8", 2, width=4))
    )
    assert ours == usual
    assert embedder("resnet8", 5, width=4).stage3_block1.conv1.stride == (2, 2)


@pytest.fixture
def coded():
    image_set = small_set(n=23)
    return unsettled(embedder("resnet8", 6, width=4, seed=0)), image_set


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_each_image_is_encoded_on_its_own_and_in_order(coded, batch_size):
    model, image_set = coded
    found = encode(model, image_set, image_set.test, batch_size=batch_size)
    assert found.shape == (23, 6) and found.dtype == torch.float32 and not found.requires_grad
    model.eval()
    mean, std = image_set.pixel_statistics
    for i in (0, 1, 11, 22):
        alone = model((image_set.test.images[i : i + 1].float() / 255 - mean) / std)
        assert torch.allclose(found[i], alone[0], atol=1e-5)


def test_images_are_normalised_by_the_given_set(coded):
    model, image_set = coded
    other = small_set(n=9, seed=4)
    other.train.images.div_(4, rounding_mode="floor")
    by_own, by_other = (encode(model, by, other.test) for by in (other, image_set))
    assert not torch.allclose(by_own, by_other, atol=1e-2)
    model.eval()
    assert torch.allclose(by_other, model(image_set.normalise(other.test.images)), atol=1e-5)


def test_encoding_leaves_the_model_as_it_was(coded):
    model, image_set = coded
    model.train()
    model.stage1_block1.eval()
    before, modes = state(model), [m.training for m in model.modules()]
    encode(model, image_set, image_set.test, batch_size=5)
    assert same(before, state(model)) and modes == [m.training for m in model.modules()]
    assert all(bn.track_running_stats for bn in batch_norms(model))


def test_embeddings_may_be_scaled_to_unit_length(coded):
    model, image_set = coded
    plain, unit = (encode(model, image_set, image_set.test, unit=unit) for unit in (False, True))
    assert torch.allclose(unit.norm(dim=1), torch.ones(23))
    assert torch.allclose(unit * plain.norm(dim=1, keepdim=True), plain, atol=1e-6)
    assert not torch.allclose(plain.norm(dim=1), torch.ones(23), atol=0.05)


def test_embeddings_are_float32_whatever_the_model_gives(coded):
    model, image_set = coded

    class Half(nn.Module):
        def forward(self, x):
            return x.half()

    assert encode(nn.Sequential(model, Half()), image_set, image_set.test).dtype == torch.float32


def test_a_model_in_double_precision_embeds_in_double_precision():
    image_set = small_set()
    model = embedder("resnet8", 4, width=4, seed=0)
    single = encode(model, image_set, image_set.test)
    double = encode(model.double(), image_set, image_set.test)
    assert double.dtype == torch.float64 and torch.allclose(single.double(), double, atol=1e-5)


def test_a_model_that_gives_no_tensor_or_has_no_statistics_is_refused():
    class Keyed(nn.Module):
        def forward(self, x):
            return {"embedding": x}

    image_set = small_set()
    with pytest.raises(ValueError, match="module: must give one tensor, got dict of embedding: pass one"):
        encode(Keyed(), image_set, image_set.test)
    with pytest.raises(ValueError, match="'running' needs .* got BatchNorm2d at ''"):
        encode(nn.BatchNorm2d(3, track_running_stats=False), image_set, image_set.test)
