"""Objectives that make networks compatible: the loss terms of paper A (Gygli et al., Sec. 3), and IIW.

A term is what a task learns from beside others: a loss with the modules that it needs, as ``training.Task`` takes them,

    [Target(head), DCC(common_head, index), Pretext(rotation_head)]

Each loss is the mean over the minibatch, so that the sums of eqs. (1) and (2) over a data set become steps of
minibatches. A term of your own is a frozen dataclass on ``Term`` with a ``name`` and a ``loss``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import ARRANGEMENTS, Batches, Rows, rearrange, rotate, rotate_all
from .devices import digest
from .inspection import one_tensor, read_only
from .recipes import Recipe

# --- losses -----------------------------------------------------------------------------------------------------------


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
    """The distance of features from unit length over the channels: mean squared difference.

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
    """Find one of ``PRETEXTS`` by its name.

    Raises:
        ValueError: for another name.
    """
    if name not in PRETEXTS:
        raise ValueError(f"pretext: must be one of {', '.join(PRETEXTS)}, got {name!r}")
    return PRETEXTS[name]


# --- terms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Minibatch:
    """A minibatch as the terms of a task see it: the features of any network are computed when a term first asks
    for them, once for all terms.

    Attributes:
        network: the task's own.
        inputs: what it takes: images (n, c, h, w), normalised, or rows of several tensors.
        labels: (n,), or what else belongs to each row.
        step: of the training, counted from 0.
        recipe: of the training.
        source: where the minibatch was drawn.
    """

    network: nn.Module
    inputs: tuple[Tensor, ...]
    labels: Tensor
    step: int
    recipe: Recipe
    source: Batches | Rows
    _features: dict[nn.Module, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def images(self) -> Tensor:
        """The first of the inputs."""
        return self.inputs[0]

    @property
    def features(self) -> Tensor:
        """The features of the task's own network."""
        return self.features_of(self.network)

    def features_of(self, network: nn.Module) -> Tensor:
        """The output of any network, learning or frozen, for these inputs."""
        if network not in self._features:
            self._features[network] = one_tensor(network, network(*self.inputs))
        return self._features[network]

    def generator(self, purpose: int) -> torch.Generator:
        """A random stream that depends on the task's seed, ``purpose`` and the step alone; 0 and 1 are of the order and
        the crops of images."""
        return self.source.order.reseeded(purpose, self.step)

    def variants(self, count: int) -> Tensor:
        """A variant for each row, numbers (n,) below ``count``, drawn evenly."""
        return torch.randint(count, (len(self.labels),), generator=self.generator(2), device=self.labels.device)


@dataclass(frozen=True)
class Term(ABC):
    """A loss that a task learns from beside others. One of your own is a frozen dataclass on this one with a ``name``
    and a ``loss``. Fields that are modules learn with the task, unless they are frozen, and two tasks whose terms hold
    the same module share it; fields that are tensors are moved to the images' device.

    Attributes:
        name: of the curve, and unique among the terms of a task.
        weight: the loss counts so many times.
    """

    name: ClassVar[str]
    weight: float = field(default=1.0, kw_only=True)

    @abstractmethod
    def loss(self, batch: Minibatch) -> Tensor:
        """The loss of a minibatch, a scalar, without the weight."""

    def weighted(self, loss: Tensor) -> Tensor:
        """The loss with its weight; at 1 to the bit what it is."""
        return loss if self.weight == 1 else self.weight * loss

    def modules(self) -> tuple[nn.Module, ...]:
        """The modules among the fields, and those of fields that are terms themselves."""
        values = [getattr(self, f.name) for f in fields(self)]
        inner = [module for value in values if isinstance(value, Term) for module in value.modules()]
        return (*(value for value in values if isinstance(value, nn.Module)), *inner)

    def to(self, device: torch.device) -> Term:
        """The same term with its tensors on a device; its modules are moved by training."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor | Term)}
        return replace(self, **moved)

    def settings(self) -> list:
        """Type and fields, all but the modules, as text: what tells this term from another in a checkpoint."""
        found: list[Any] = [type(self).__qualname__]
        for f in fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, nn.Module):
                plain = digest(value) if isinstance(value, Tensor) else str(value)
                found.append([f.name, value.settings() if isinstance(value, Term) else plain])
        return found


@dataclass(frozen=True)
class Target(Term):
    """The network's own task: cross-entropy, mean over the minibatch.

    Source: paper A, first term of eqs. (1) and (2).
    """

    head: nn.Module
    name = "target"

    def loss(self, batch: Minibatch) -> Tensor:
        return F.cross_entropy(read_only(self.head, batch.features), batch.labels)


@dataclass(frozen=True)
class DCC(Term):
    """A head that tells common classes apart, see ``dcc_loss``.

    Attributes:
        head: with an output for each common class.
        index: (classes,), the place of each class of the task among the common ones, or -1 (``images.class_index``).
    """

    head: nn.Module
    index: Tensor
    name = "dcc"

    def loss(self, batch: Minibatch) -> Tensor:
        return dcc_loss(read_only(self.head, batch.features), self.index[batch.labels])


@dataclass(frozen=True)
class Pretext(Term):
    """A head that tells in which variant an image is shown; "rotation" is RP, see ``rp_loss`` and ``pretext_loss``.

    Attributes:
        head: with an output for each variant.
        pretext: a key of ``PRETEXTS``.
    """

    head: nn.Module
    pretext: str = "rotation"

    def __post_init__(self):
        pretext_of(self.pretext)  # for its check

    @property
    def name(self) -> str:  # type: ignore[override]
        return "rp" if self.pretext == "rotation" else self.pretext

    def loss(self, batch: Minibatch) -> Tensor:
        # a forward pass of its own: upright images are normalised among themselves, as they will be when tested
        if self.pretext == "rotation" and batch.recipe.rotations == "all":
            return rp_loss(batch.network, self.head, batch.images)
        task = pretext_of(self.pretext)
        return pretext_loss(batch.network, self.head, batch.images, batch.variants(task.variants), task)


@dataclass(frozen=True)
class UnitLength(Term):
    """Features drawn to unit length, see ``unit_length_loss``."""

    name = "length"

    def loss(self, batch: Minibatch) -> Tensor:
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
