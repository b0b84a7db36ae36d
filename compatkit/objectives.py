"""What makes networks compatible: the loss terms of paper A (Gygli et al., Sec. 3), and IIW.

A term is what a task learns from beside others: a loss with the modules that it needs, as ``training.Task`` takes them,

    [Target(head), DCC(common_head, index), Pretext(rotation_head)]

Each loss is the mean over the minibatch, so that the sums of eqs. (1) and (2) over a data set become steps of
minibatches. A term of your own is a class with ``name``, ``modules``, ``draw`` and ``loss``; see ``Term``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import ARRANGEMENTS, Batches, rearrange, rotate, rotate_all
from .models import read_only

# --- losses -----------------------------------------------------------------------------------------------------------


def target_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The target task: cross-entropy, mean over the minibatch.

    Args:
        logits: (n, classes).
        labels: (n,).

    Source: paper A, first term of eqs. (1) and (2).
    """
    return F.cross_entropy(logits, labels)


def dcc_loss(logits: Tensor, common_labels: Tensor) -> Tensor:
    """Discriminating common classes: l_c(c(f(x)), y) * 1[y in C], mean over the minibatch.

    Args:
        logits: (n, common classes), from the head that both networks share.
        common_labels: (n,), the place of each image's class among the common ones, -1 where it is not one of them.
            These images count in the mean with loss 0, as in the equation, so that a batch without any common class has
            loss 0.

    Source: paper A, second term of eq. (1).
    """
    total = F.cross_entropy(logits, common_labels, ignore_index=-1, reduction="sum")
    return total / len(logits)


def rp_loss(extractor: nn.Module, rotation_head: nn.Module, images: Tensor) -> Tensor:
    """Rotation prediction: l_s(h_s(f(g(x, s))), s), mean over S = {0, 90, 180, 270 degrees} and the minibatch.

    Args:
        extractor: f.
        rotation_head: h_s, with 4 outputs.
        images: (n, c, s, s), square.

    Source: paper A, second term of eq. (2).
    """
    rotated, turns = rotate_all(images)
    return F.cross_entropy(rotation_head(extractor(rotated)), turns)


def pretext_loss(extractor: nn.Module, head: nn.Module, images: Tensor, variants: Tensor, task: PretextTask) -> Tensor:
    """A pretext task on one variant of each image: where variants are drawn evenly, an unbiased estimate of the mean
    over all of them (but for BN, which normalises by n images, not by those of all variants).

    Args:
        extractor: f.
        head: with an output for each variant.
        images: (n, c, s, s), square.
        variants: (n,), which variant of each image is shown.
        task: one of ``PRETEXTS``.

    Source: paper A, second term of eq. (2).
    """
    return F.cross_entropy(head(extractor(task.show(images, variants))), variants)


def unit_length_loss(features: Tensor) -> Tensor:
    """How far features are from unit length over the channels: mean squared difference.

    The paper names such a loss and does not print it; form and weight 1 are ours.

    Args:
        features: (n, c) or (n, c, h, w).

    Source: paper A, App. C.1.
    """
    # the gradient of a norm is not defined at 0, where ReLU puts many features
    length = (features.square().sum(1) + 1e-12).sqrt()
    return (length - 1).square().mean()


class PretextTask(NamedTuple):
    """A task that images set by themselves: each is shown in one of ``variants`` ways, and a head tells in which.

    ``show(images, variants)`` takes images (n, c, s, s) and a variant for each (n,), and gives images of that shape.
    """

    variants: int
    show: Callable[[Tensor, Tensor], Tensor]


PRETEXTS = {"rotation": PretextTask(4, rotate), "jigsaw": PretextTask(len(ARRANGEMENTS), rearrange)}
"""Rotation is the paper's; App. A leaves room for others. Jigsaw is that of Noroozi & Favaro (2016), with an image's
four quarters, in all 24 orders, for their nine pieces."""


def pretext_of(name: str) -> PretextTask:
    """One of ``PRETEXTS``.

    Raises:
        ValueError: for another name.
    """
    if name not in PRETEXTS:
        raise ValueError(f"pretext: must be one of {', '.join(PRETEXTS)}, got {name!r}")
    return PRETEXTS[name]


# --- terms ------------------------------------------------------------------------------------------------------------


class Minibatch(NamedTuple):
    """What the terms of a task see of a minibatch: the extractor, images (n, c, h, w), labels (n,), and the extractor's
    features of the images, computed once for all terms; nothing where no term reads them."""

    extractor: nn.Module
    images: Tensor
    labels: Tensor
    features: Tensor


class Term(Protocol):
    """A loss with the modules that it needs; ``TermBase`` has what most terms share."""

    @property
    def name(self) -> str:
        """Of its curve, and unique among the terms of a task."""

    @property
    def reads_features(self) -> bool:
        """Whether the features of upright images are needed."""

    def modules(self) -> tuple[nn.Module, ...]:
        """What learns with the extractor. Two tasks whose terms hold the same module share it."""

    def draw(self, batches: Batches, step: int, rotations: str) -> Tensor | None:
        """What is random in the term at a step, on the device; None where nothing is."""

    def loss(self, batch: Minibatch, drawn: Tensor | None) -> Tensor:
        """The loss of a minibatch, with what was drawn for it."""

    def to(self, device: torch.device) -> Term:
        """The same term with its tensors on a device; its modules are moved by training."""


class TermBase:
    """Reads features; no modules, nothing random, nothing to move."""

    reads_features: ClassVar[bool] = True

    def modules(self) -> tuple[nn.Module, ...]:
        return ()

    def draw(self, batches: Batches, step: int, rotations: str) -> Tensor | None:
        return None

    def to(self, device: torch.device):
        return self


@dataclass(frozen=True)
class Target(TermBase):
    """The network's own task, see ``target_loss``."""

    head: nn.Module
    name: ClassVar[str] = "target"

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.head,)

    def loss(self, batch: Minibatch, drawn: Tensor | None = None) -> Tensor:
        return target_loss(read_only(self.head, batch.features), batch.labels)


@dataclass(frozen=True)
class DCC(TermBase):
    """A head that tells common classes apart, see ``dcc_loss``.

    Attributes:
        head: with an output for each common class.
        index: (classes,), the place of each class of the task among the common ones, or -1 (``images.class_index``).
    """

    head: nn.Module
    index: Tensor
    name: ClassVar[str] = "dcc"

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.head,)

    def loss(self, batch: Minibatch, drawn: Tensor | None = None) -> Tensor:
        return dcc_loss(read_only(self.head, batch.features), self.index[batch.labels])

    def to(self, device: torch.device) -> DCC:
        return replace(self, index=self.index.to(device))


@dataclass(frozen=True)
class Pretext(TermBase):
    """A head that tells in which variant an image is shown; "rotation" is RP, see ``rp_loss`` and ``pretext_loss``.

    Attributes:
        head: with an output for each variant.
        pretext: a key of ``PRETEXTS``.
    """

    head: nn.Module
    pretext: str = "rotation"
    reads_features: ClassVar[bool] = False

    def __post_init__(self):
        pretext_of(self.pretext)  # for its check

    @property
    def name(self) -> str:
        return "rp" if self.pretext == "rotation" else self.pretext

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.head,)

    def draw(self, batches: Batches, step: int, rotations: str) -> Tensor | None:
        """A variant for each image; None where all four rotations are shown."""
        if self.pretext == "rotation" and rotations == "all":
            return None
        return batches.variants(step, pretext_of(self.pretext).variants)

    def loss(self, batch: Minibatch, drawn: Tensor | None) -> Tensor:
        # a forward pass of its own: upright images are normalised among themselves, as they will be when tested
        if drawn is None:
            return rp_loss(batch.extractor, self.head, batch.images)
        return pretext_loss(batch.extractor, self.head, batch.images, drawn, pretext_of(self.pretext))


@dataclass(frozen=True)
class UnitLength(TermBase):
    """Features drawn to unit length, see ``unit_length_loss``."""

    name: ClassVar[str] = "length"

    def loss(self, batch: Minibatch, drawn: Tensor | None = None) -> Tensor:
        return unit_length_loss(batch.features)


# --- the same start ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def identical_initial_weights(source: nn.Module, *others: nn.Module) -> None:
    """IIW: start every other network from the weights and buffers of ``source``, by position, in place.

    A classifier's outputs are copied by index, as the paper's text implies; they are not aligned by class name.

    Raises:
        ValueError: the architectures differ; the method needs identical ones.

    Source: paper A, Sec. 3.3.
    """
    _check_identical(source, *others)
    for other in others:
        other.load_state_dict(source.state_dict())


def _check_identical(source: nn.Module, *others: nn.Module) -> None:
    state = {name: value.shape for name, value in source.state_dict().items()}
    for other in others:
        shapes = {name: value.shape for name, value in other.state_dict().items()}
        different = [name for name in shapes.keys() | state.keys() if shapes.get(name) != state.get(name)]
        if different:
            raise ValueError(f"others: identical weights need identical architectures; {sorted(different)[:4]} differ")
