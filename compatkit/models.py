"""Networks as ``nn.Sequential`` of named blocks, cut at any block boundary into a feature extractor and a head."""

from __future__ import annotations

import copy
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GLOBAL_GENERATOR = threading.Lock()  # layers draw their weights from it, and threads share it


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, Fig. 2), in (n, c, h, w), out (n, c', h / stride, w /
    stride).

    Where the shape changes the shortcut is subsampled and padded with zero channels (option A of the paper, no
    parameters), or a 1x1 convolution with BN (option B).
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


def resnet(
    depth: int, num_classes: int, *, in_channels: int = 3, width: int = 16, shortcut: str = "A"
) -> nn.Sequential:
    """ResNet for small images (He et al. 2016, Sec. 4.2): a stem, 3 stages of (depth - 2) / 6 blocks, pooling, a
    classifier.

    The stages have ``width``, 2 and 4 times ``width`` channels. Blocks are named ``stem``, ``stage1_block1`` ..
    ``pool``, ``classifier``. ResNet-56 for 10 classes has 853 018 parameters with shortcut "A", 855 770 with "B".
    Raises ValueError for a depth that is not 6n + 2, a width below 1, or another shortcut.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth: must be 6n + 2 (8, 14, 20, ... 56, ...), got {depth}")
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut: must be 'A' or 'B', got {shortcut!r}")
    if width < 1 or num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"width, num_classes, in_channels: must be positive, got {width}, {num_classes}, {in_channels}"
        )
    stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=stem)
    c_in = width
    for stage in (1, 2, 3):
        c_out = width * 2 ** (stage - 1)
        for block in range(1, (depth - 2) // 6 + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            blocks[f"stage{stage}_block{block}"] = BasicBlock(c_in, c_out, stride, shortcut)
            c_in = c_out
    blocks["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    blocks["classifier"] = nn.Linear(c_in, num_classes)
    return initialise(nn.Sequential(blocks))


def build(name: str, num_classes: int, *, seed: int | None = None, **options) -> nn.Sequential:
    """A network by name: ``resnet8``, ``resnet20``, ``resnet56``, ... any depth 6n + 2; options as in ``resnet``.

    seed: initial weights that depend on it alone; None draws from torch's global generator.
    Raises ValueError for an unknown name.
    """
    match = re.fullmatch(r"resnet(\d+)", name)
    if not match:
        raise ValueError(f"name: no network {name!r}; there are resnetD with D = 6n + 2, such as resnet20 or resnet56")
    with seeded(seed):
        return resnet(int(match[1]), num_classes, **options)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from ``seed`` in this block and leave torch's global generator as it was; None draws from it as usual."""
    if seed is None:
        yield
        return
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def initialise(module: nn.Module) -> nn.Module:
    """New random weights in place: He-normal convolutions (fan out), PyTorch's default elsewhere. Returns
    ``module``."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return module


def split_points(net: nn.Sequential) -> list[str]:
    """Names of the blocks after which ``net`` can be split: all but the last."""
    return list(net._modules)[:-1]


def split(net: nn.Sequential, at: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut ``net`` after block ``at`` into (extractor, head), which share their parameters with ``net``.

    at: a name from ``split_points(net)``, or a stage ("stage2"), which means after its last block (paper A, Sec. 4).
    Raises ValueError, listing the boundaries, if there is no such block.
    """
    points = split_points(net)
    matching = [i for i, name in enumerate(points) if name == at or name.startswith(f"{at}_block")]
    if not matching:
        raise ValueError(f"at: no boundary after {at!r}; there are {', '.join(points)}, and stage1 .. stage3")
    cut = matching[-1] + 1
    return net[:cut], net[cut:]


def auxiliary_head(head: nn.Sequential, num_outputs: int, *, seed: int | None = None) -> nn.Sequential:
    """A new head of the same shape as ``head`` with ``num_outputs`` outputs and weights of its own (paper A, Fig. 1a).

    Raises ValueError if ``head`` does not end in a linear layer.
    """
    last = head[-1]
    if not isinstance(last, nn.Linear):
        raise ValueError(f"head: must end in a linear layer to change its outputs, got {type(last).__name__}")
    fresh = copy.deepcopy(head)
    # not initialised yet: that would draw from the global generator, which threads share
    fresh[-1] = nn.utils.skip_init(nn.Linear, last.in_features, num_outputs, bias=last.bias is not None)
    with seeded(seed):
        return initialise(fresh).requires_grad_(True)


def count_parameters(module: nn.Module) -> int:
    """The number of scalars in the parameters of ``module``."""
    return sum(p.numel() for p in module.parameters())
