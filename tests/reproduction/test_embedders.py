"""Embedders of any width from a seed alone."""

import pytest
import torch
import torch.nn.functional as F

from compatkit import models
from reproduction.runs.embedders import embedder

from ..samples import unsettled


@pytest.mark.parametrize(
    ("name", "dim", "options", "shape"),
    [
        ("resnet8", 5, {}, (3, 16, 16)),
        ("resnet8", 200, {"width": 4, "in_channels": 1}, (1, 8, 8)),
        ("resnet20", 32, {"width": 8}, (3, 12, 12)),
        ("torchvision:resnet18", 7, {}, (3, 40, 40)),
        ("torchvision:resnet50", 9, {"in_channels": 1}, (1, 32, 32)),
        ("torchvision:mobilenet_v2", 6, {"width": 8}, (3, 32, 32)),
    ],
)
def test_the_last_block_gives_the_embedding_and_only_pooling_follows(name, dim, options, shape):
    net = unsettled(embedder(name, dim, seed=0, **options)).eval()
    images = torch.randn(2, *shape)
    maps = net[:-1](images)
    assert maps.shape[:2] == (2, dim) and net(images).shape == (2, dim)
    assert torch.allclose(net(images), maps.mean((2, 3)), atol=1e-6)
    assert maps.min() == 0, "no embedding is negative"
    assert models.split_points(net)[:1] in (["stem"], ["block0"])


@pytest.mark.parametrize(
    ("name", "dim", "options", "message"),
    [
        ("torchvision:resnet50", 4, {"width": 8}, "width.*resnet50.*8"),
        ("torchvision:vgg11", 4, {}, "name.*vgg11.*torchvision:resnet50.*resnetD"),
        ("mobilenetv2", 4, {}, "name.*'mobilenetv2'.*torchvision:mobilenet_v2"),
        ("resnet9", 4, {}, "depth"),
        ("resnet8", 4, {"width": 0}, "width"),
    ],
)
def test_what_cannot_be_built_is_an_error(name, dim, options, message):
    with pytest.raises(ValueError, match=message):
        embedder(name, dim, **options)


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


def test_the_last_block_of_a_small_resnet_layer_by_layer():
    net = unsettled(embedder("resnet14", 7, width=4, seed=0)).eval()
    block = net.stage3_block2
    x = torch.randn(3, 16, 5, 5)

    def bn(layer, y):
        shape = (1, -1, 1, 1)
        mean, var = layer.running_mean.view(shape), layer.running_var.view(shape)
        return (y - mean) / (var + 1e-5).sqrt() * layer.weight.view(shape) + layer.bias.view(shape)

    y = bn(block.bn1, F.conv2d(x, block.conv1.weight, padding=1)).relu()
    y = bn(block.bn2, F.conv2d(y, block.conv2.weight, padding=1))
    y = y + bn(block.projection[1], F.conv2d(x, block.projection[0].weight))
    assert torch.allclose(block(x), y.relu(), atol=1e-5)
