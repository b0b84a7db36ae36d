"""torchvision's networks as ``nn.Sequential`` of their own modules, with which they can be split. What their forward
methods do between modules (flattening, pooling, a class token) becomes a small module of its own.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Blocks = Iterator[tuple[str, nn.Module]]


class Tokens(nn.Module):
    """Images (n, 3, s, s) -> tokens (n, 1 + patches, c) of a vision transformer, the class token first."""

    def __init__(self, vit: Any):
        super().__init__()
        self.conv_proj, self.dropout = vit.conv_proj, vit.encoder.dropout
        self.class_token, self.pos_embedding = vit.class_token, vit.encoder.pos_embedding

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1)
        return self.dropout(tokens + self.pos_embedding)


class ClassToken(nn.Module):
    """The first token: (n, tokens, c) -> (n, c)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def _children(net: Any, *names: str) -> Blocks:
    return ((name, net.get_submodule(name)) for name in names)


def _features(net: Any) -> Blocks:
    return ((name if name[0].isalpha() else f"features{name}", part) for name, part in net.features.named_children())


def _resnet(net: Any) -> Blocks:
    yield from _children(net, "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")
    yield from (("flatten", nn.Flatten()), ("fc", net.fc))


def _with_pooling(net: Any) -> Blocks:
    pool = net.avgpool if hasattr(net, "avgpool") else nn.AdaptiveAvgPool2d(1)
    yield from _features(net)
    yield from (("avgpool", pool), ("flatten", nn.Flatten()), ("classifier", net.classifier))


def _densenet(net: Any) -> Blocks:
    yield from _features(net)
    yield from (("relu", nn.ReLU()), ("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()))
    yield "classifier", net.classifier


def _squeezenet(net: Any) -> Blocks:
    yield from _features(net)
    yield "classifier", nn.Sequential(net.classifier, nn.Flatten())


def _shufflenet(net: Any) -> Blocks:
    yield from _children(net, "conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")
    yield from (("mean", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())), ("fc", net.fc))


def _googlenet(net: Any) -> Blocks:
    if net.aux_logits or net.transform_input:
        raise ValueError("net: to split GoogLeNet, build it with aux_logits=False, transform_input=False")
    inner = [name for name, _ in net.named_children() if name.startswith(("conv", "maxpool", "inception"))]
    yield from _children(net, *inner, "avgpool")
    yield from (("flatten", nn.Flatten()), ("dropout", net.dropout), ("fc", net.fc))


def _vit(net: Any) -> Blocks:
    yield "tokens", Tokens(net)
    yield from net.encoder.layers.named_children()
    yield from (("ln", net.encoder.ln), ("class_token", ClassToken()), ("heads", net.heads))


FAMILIES: dict[str, Callable[[Any], Blocks]] = {
    **dict.fromkeys(("VGG", "AlexNet", "MobileNetV2", "MobileNetV3", "EfficientNet"), _with_pooling),
    "ResNet": _resnet,
    "DenseNet": _densenet,
    "SqueezeNet": _squeezenet,
    "ShuffleNetV2": _shufflenet,
    "GoogLeNet": _googlenet,
    "VisionTransformer": _vit,
}
"""By class name in ``torchvision.models``."""


def in_blocks(net: nn.Module) -> nn.Sequential:
    """A network of torchvision as blocks that share its parameters; ValueError for another kind of network."""
    name = type(net).__name__
    if not type(net).__module__.startswith("torchvision.models") or name not in FAMILIES:
        raise ValueError(
            f"net: a {name} cannot be split, only an nn.Sequential of named blocks, and torchvision's "
            f"{', '.join(FAMILIES)}. Put the blocks of another network into an nn.Sequential(OrderedDict(...)) first"
        )
    return nn.Sequential(OrderedDict(FAMILIES[name](net)))
