"""Networks as ``nn.Sequential`` of named blocks, cut at any block boundary into a feature extractor and a head."""

import copy
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inspection import Module, features_of, sized_layers
from .torchvision_networks import in_blocks

_GLOBAL_GENERATOR = threading.Lock()  # layers draw their weights from it, and threads share it


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, Fig. 2): (n, c, h, w) -> (n, c', h / stride, w / stride).

    Where the shape changes the shortcut is subsampled and padded with zero channels (option A of the paper), or a 1x1
    convolution with BN (option B).
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, shortcut: str = "A"):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.padding = stride, c_out - c_in
        self.projection = None
        if shortcut == "B" and (stride > 1 or c_in != c_out):
            self.projection = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            return self.projection(x)
        if self.stride == 1 and self.padding == 0:
            return x
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.padding // 2
        return F.pad(x, (0, 0, 0, 0, before, self.padding - before))


def _resnet(
    depth: int, num_classes: int, *, in_channels: int = 3, width: int = 16, shortcut: str = "A"
) -> nn.Sequential:
    """He et al. 2016, Sec. 4.2."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth: must be 6n + 2 (8, 14, 20, ... 56, ...), got {depth}")
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut: must be 'A' or 'B', got {shortcut!r}")
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=_convolution(in_channels, width, 3, activation=nn.ReLU))
    blocks |= _three_stages((depth - 2) // 6, width, width, partial(BasicBlock, shortcut=shortcut))
    return _classifier(blocks, 4 * width, num_classes)


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after BN and ReLU, and a shortcut (Zagoruyko & Komodakis 2016, Fig. 1a). Where the
    shape changes, both branches start from the activated input."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        changes = stride > 1 or c_in != c_out
        self.projection = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.projection is None else self.projection(active))


def _wide_resnet(depth: int, num_classes: int, *, in_channels: int = 3, width: int = 16) -> nn.Sequential:
    """Zagoruyko & Komodakis 2016, Table 1, without dropout; ``width`` is 16 times its factor k."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth: must be 6n + 4 (10, 16, 22, 28, 40, ...), got {depth}")
    blocks: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False))
    )
    blocks |= _three_stages((depth - 4) // 6, 16, width, PreActivationBlock)
    return _classifier(blocks, 4 * width, num_classes, nn.BatchNorm2d(4 * width), nn.ReLU())


def _three_stages(blocks: int, c_in: int, width: int, make: Callable[..., nn.Module]) -> OrderedDict[str, nn.Module]:
    """Stages of ``width``, 2 and 4 times ``width`` channels; the second and the third halve height and width."""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in (1, 2, 3):
        c_out = width * 2 ** (stage - 1)
        for block in range(1, blocks + 1):
            found[f"stage{stage}_block{block}"] = make(c_in, c_out, 2 if stage > 1 and block == 1 else 1)
            c_in = c_out
    return found


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3 convolution, linear projection, and a shortcut where the shape stays (Sandler et al.
    2018, Sec. 3.3)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, expansion: int = 6):
        super().__init__()
        inner = c_in * expansion
        expand = [_convolution(c_in, inner, 1, activation=nn.ReLU6)] if expansion > 1 else []
        depthwise = _convolution(inner, inner, 3, stride, groups=inner, activation=nn.ReLU6)
        self.layers = nn.Sequential(*expand, depthwise, _convolution(inner, c_out, 1))
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Sandler et al. 2018, Table 2: expansion, channels, blocks, stride of the first. For images of 32 x 32 the stem and
the second row do not halve them."""


def _mobilenet_v2(num_classes: int, *, in_channels: int = 3, width: int = 32) -> nn.Sequential:
    """Sandler et al. 2018, Table 2, without dropout; ``width`` is 32 times its multiplier. All channels follow from it,
    in multiples of 8, but the last convolution never has fewer than 1280."""

    def channels(usual: int) -> int:
        rounded = max(8, int(usual * width / 32 + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * usual * width / 32 else rounded

    c_in = channels(32)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=_convolution(in_channels, c_in, 3, activation=nn.ReLU6))
    for expansion, usual, repeats, stride in MOBILENET_V2:
        for repeat in range(repeats):
            block = InvertedResidual(c_in, channels(usual), stride if repeat == 0 else 1, expansion)
            blocks[f"block{len(blocks)}"], c_in = block, channels(usual)
    last = max(1280, channels(1280))
    blocks["features"] = _convolution(c_in, last, 1, activation=nn.ReLU6)
    return _classifier(blocks, last, num_classes)


def _classifier(
    blocks: OrderedDict[str, nn.Module], channels: int, num_classes: int, *before: nn.Module
) -> nn.Sequential:
    """The network: these blocks, pooling and a linear layer, with its initial weights."""
    blocks["pool"] = nn.Sequential(*before, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    blocks["classifier"] = nn.Linear(channels, num_classes)
    return initialise(nn.Sequential(blocks))


def _convolution(
    c_in: int, c_out: int, size: int, stride: int = 1, *, groups: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out), *([activation()] if activation else []))


def build(name: str, num_classes: int, *, seed: int | None = None, **options) -> nn.Sequential:
    """A network for small images, by name (He et al. 2016; Zagoruyko & Komodakis 2016; Sandler et al. 2018).

    Args:
        name: ``resnetD`` with D = 6n + 2 or ``wrnD`` with D = 6n + 4, both of blocks ``stem``, ``stage1_block1`` ..
            ``stage3_blockN``, ``pool``, ``classifier``; or ``mobilenetv2``, of ``stem``, ``block1`` .. ``block17``,
            ``features``, ``pool``, ``classifier``.
        num_classes: outputs.
        seed: initial weights that depend on it alone; None draws from torch's global generator.
        options: ``in_channels`` of the images (3); ``width``, the channels of the first stage (16; WRN-28-10 has 160),
            of ``mobilenetv2`` those of the stem (32); for ``resnetD`` a ``shortcut``, "A" or "B", see ``BasicBlock``.

    Raises:
        ValueError: for another name, depth or shortcut, and numbers below 1.
    """
    for option, value in {"num_classes": num_classes, **options}.items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{option}: must be positive, got {value}")
    match = re.fullmatch(r"(resnet|wrn)(\d+)|(mobilenetv2)", name)
    if not match:
        raise ValueError(
            f"name: no network {name!r}; there are resnetD with D = 6n + 2, such as resnet20 or resnet56, wrnD with "
            "D = 6n + 4, such as wrn28, and mobilenetv2"
        )
    with seeded(seed):
        if match[3]:
            return _mobilenet_v2(num_classes, **options)
        return {"resnet": _resnet, "wrn": _wide_resnet}[match[1]](int(match[2]), num_classes, **options)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from ``seed`` in this block and leave torch's global generator as it was; None draws from it as usual."""
    if seed is None:
        yield
        return
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def initialise(module: Module) -> Module:
    """Draw new weights in place: He-normal convolutions (fan out), PyTorch's default elsewhere. Returns ``module``."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif callable(reset := getattr(part, "reset_parameters", None)):
            reset()
    return module


def split_points(net: nn.Module) -> list[str]:
    """Names of the blocks after which ``net``, an ``nn.Sequential`` or a network of torchvision, can be split: all but
    the last. ValueError for a network of another kind."""
    return list(_blocks(net)._modules)[:-1]


def split(net: nn.Module, at: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut ``net`` after block ``at`` into (extractor, head), which share their parameters with ``net`` (paper A, Sec.
    4).

    Args:
        net: an ``nn.Sequential`` of named blocks, or a network of ``torchvision_networks.FAMILIES``.
        at: a name from ``split_points(net)``, or a stage ("stage2"), which means after its last block.

    Raises:
        ValueError: for another block (the message lists them), and another kind of network.
    """
    net = _blocks(net)
    points = split_points(net)
    matching = [i for i, name in enumerate(points) if name == at or name.startswith(f"{at}_block")]
    if not matching:
        raise ValueError(f"at: no boundary after {at!r}; there are {', '.join(points)}, and stages of several blocks")
    cut = matching[-1] + 1
    blocks = [(name, net.get_submodule(name)) for name in net._modules]
    return nn.Sequential(OrderedDict(blocks[:cut])), nn.Sequential(OrderedDict(blocks[cut:]))


def _blocks(net: nn.Module) -> nn.Sequential:
    return net if isinstance(net, nn.Sequential) else in_blocks(net)


def auxiliary_head(head: nn.Sequential, num_outputs: int, *, seed: int | None = None) -> nn.Sequential:
    """A new head of the shape of ``head`` with so many outputs, and weights drawn from ``seed``, or torch's global
    generator (paper A, Fig. 1a). Raises ValueError unless ``head`` ends in a linear layer."""
    fresh = _with_outputs(head, num_outputs)
    with seeded(seed):
        return initialise(fresh).requires_grad_(True)


def extend_classifier(head: nn.Sequential, num_outputs: int, *, seed: int | None = None) -> nn.Sequential:
    """A copy of a head with so many outputs: those it has, as they are, and new ones, with weights drawn from ``seed``,
    or torch's global generator (paper A, Sec. 5.2). Raises ValueError unless ``head`` ends in a linear layer, and for
    fewer outputs than it has."""
    longer = _with_outputs(head, num_outputs)
    old: Any = head[-1]
    new: Any = longer[-1]
    if num_outputs < old.out_features:
        raise ValueError(f"num_outputs: the head has {old.out_features} outputs to keep, got {num_outputs}")
    with seeded(seed), torch.no_grad():
        new.reset_parameters()
        for name, kept in old.named_parameters():
            getattr(new, name)[: len(kept)] = kept
    return longer.requires_grad_(True)


def _with_outputs(head: nn.Sequential, num_outputs: int) -> nn.Sequential:
    """A copy of ``head`` whose last layer has so many outputs, and weights that are not set yet."""
    last, fresh = head[-1], copy.deepcopy(head)
    if not isinstance(last, nn.Linear):
        raise ValueError(f"head: must end in a linear layer to change its outputs, got {type(last).__name__}")
    # not initialised here: that would draw from the global generator, which threads share
    like: dict[str, Any] = {"bias": last.bias is not None, "device": last.weight.device, "dtype": last.weight.dtype}
    fresh[-1] = nn.utils.skip_init(nn.Linear, last.in_features, num_outputs, **like)
    return fresh


def fit_channels(extractor: nn.Sequential, channels: int, *, seed: int | None = None) -> nn.Sequential:
    """An extractor whose features fit a head of another architecture, by a 1x1 convolution "adapterN" at its end (paper
    A, Sec. 5.2).

    Args:
        extractor: its blocks are shared, not copied; returned as it is where its features fit already.
        channels: that its features are to have.
        seed: of the convolution; None draws from torch's global generator.
    """
    features = features_of(extractor)
    found = sized_layers(extractor)[-1][2] if features is None else features.shape[1]
    if found == channels:
        return extractor
    with seeded(seed):
        adapter = initialise(nn.Conv2d(found, channels, 1, bias=False))
    adapter.to(next(extractor.parameters()).device)
    return nn.Sequential(OrderedDict(extractor.named_children()) | {f"adapter{len(extractor)}": adapter})


def count_parameters(module: nn.Module) -> int:
    """The number of scalars in the parameters of ``module``."""
    return sum(p.numel() for p in module.parameters())
