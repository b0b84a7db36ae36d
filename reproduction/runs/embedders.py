"""Networks that map an image to an embedding (Ramanujan et al., Sec. 4): the last block gives the embedding itself, its
channels are the width, and pooling is all that follows. It ends in a ReLU, so that embeddings are not negative."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn

from compatkit.models import BasicBlock, build, initialise, seeded, split_points

from ..images import torchvision_


def embedder(name: str, dim: int, *, in_channels: int = 3, width: int = 16, seed: int | None = None) -> nn.Sequential:
    """A backbone as named blocks whose output is the embedding (n, dim).

    Args:
        name: ``resnetD`` with D = 6n + 2, for small images (``models.build``, of ``width``); or
            ``torchvision:resnet18``, ``torchvision:resnet50`` or ``torchvision:mobilenet_v2``, for images of about
            224 x 224 (``width`` 16 means the usual number of channels, and is the only one for the first two).
        dim: width of the embedding.
        in_channels: of the images.
        width: see ``name``.
        seed: as in ``models.build``.

    Raises:
        ValueError: for an unknown name, or a width that a network cannot have.

    Source: the authors' public code of paper B.
    """
    if name not in TORCHVISION and not name.startswith("resnet"):
        raise ValueError(f"name: no network {name!r}; there are {', '.join(TORCHVISION)} and resnetD")
    with seeded(seed):
        if name in TORCHVISION:
            return TORCHVISION[name](dim, in_channels, width)
        net = build(name, 2, in_channels=in_channels, width=width)
        last = split_points(net)[-2]
        usual = net.get_submodule(last)
        assert isinstance(usual, BasicBlock)
        blocks: OrderedDict[str, nn.Module] = OrderedDict(list(net.named_children())[:-1])
        blocks[last] = EmbeddingBlock(usual.conv1.in_channels, dim, usual.stride)
        return nn.Sequential(blocks)


class EmbeddingBlock(BasicBlock):
    """The last block of a small ResNet: any number of channels, a projection shortcut."""

    def __init__(self, c_in: int, dim: int, stride: int):
        super().__init__(c_in, dim, stride)
        self.projection = nn.Sequential(nn.Conv2d(c_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))
        initialise(self)


def _torchvision_resnet(name: str, dim: int, in_channels: int, width: int) -> nn.Sequential:
    if width != 16:
        raise ValueError(f"width: torchvision:{name} has 16, got {width}")
    net = torchvision_().models.get_model(name, weights=None)
    if in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
    last = net.layer4[-1]
    number = 3 if hasattr(last, "conv3") else 2
    inner, c_in = last.get_submodule(f"conv{number}"), last.conv1.in_channels
    size, padding = inner.kernel_size, inner.padding
    last.set_submodule(f"conv{number}", nn.Conv2d(inner.in_channels, dim, size, padding=padding, bias=False))
    last.set_submodule(f"bn{number}", nn.BatchNorm2d(dim))
    last.downsample = nn.Sequential(nn.Conv2d(c_in, dim, 1, bias=False), nn.BatchNorm2d(dim))
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = {f"stage{i}": net.get_submodule(f"layer{i}") for i in (1, 2, 3, 4)}
    return nn.Sequential(OrderedDict(stem=stem, **stages, pool=_pool()))


def _mobilenet(dim: int, in_channels: int, width: int) -> nn.Sequential:
    features = torchvision_().models.mobilenet_v2(weights=None, width_mult=width / 16).features
    if in_channels != 3:
        features[0][0] = nn.Conv2d(in_channels, features[0][0].out_channels, 3, 2, 1, bias=False)
    last = nn.Sequential(nn.Conv2d(features[-1][0].in_channels, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU())
    blocks = {f"block{i}": block for i, block in enumerate(features[:-1])}
    return nn.Sequential(OrderedDict(blocks, embedding=last, pool=_pool()))


def _pool() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


TORCHVISION: dict[str, Callable[..., nn.Sequential]] = {
    "torchvision:resnet18": partial(_torchvision_resnet, "resnet18"),
    "torchvision:resnet50": partial(_torchvision_resnet, "resnet50"),
    "torchvision:mobilenet_v2": _mobilenet,
}
