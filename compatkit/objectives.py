"""Objectives that make networks compatible: the loss terms of paper A (Gygli et al., Sec. 3), and IIW.

A ``training.Task`` learns from terms, such as ``[Target(head), DCC(common_head, index), Pretext(rotation_head)]``.
Each loss is the mean over the minibatch, in place of the sums of eqs. (1) and (2) over a data set.
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


def dcc_loss(logits: Tensor, common_labels: Tensor) -> Tensor:
    """Discriminating common classes, paper A, eq. (1): l_c(c(f(x)), y) * 1[y in C], mean over the minibatch.

    Args:
        logits: (n, common classes), from the head that both networks share.
        common_labels: (n,), the place of each image's class among the common ones, -1 where it is not one of them;
            these images count in the mean with loss 0, as in the equation.
    """
    total = F.cross_entropy(logits, common_labels, ignore_index=-1, reduction="sum")
    return total / len(logits)


def rp_loss(extractor: nn.Module, rotation_head: nn.Module, images: Tensor) -> Tensor:
    """Rotation prediction, paper A, eq. (2): l_s(h_s(f(g(x, s))), s), with extractor f and rotation head h_s, mean over
    S = {0, 90, 180, 270 degrees} and the square images of a minibatch."""
    rotated, turns = rotate_all(images)
    return F.cross_entropy(rotation_head(extractor(rotated)), turns)


class PretextTask(NamedTuple):
    """A task that images set by themselves: ``show(images, variants)`` shows each of n square images in one of
    ``variants`` ways, by its number (n,), and a head tells in which."""

    variants: int
    show: Callable[[Tensor, Tensor], Tensor]


PRETEXTS = {"rotation": PretextTask(4, rotate), "jigsaw": PretextTask(len(ARRANGEMENTS), rearrange)}
"""Rotation is the paper's. Jigsaw is that of Noroozi & Favaro (2016), with four quarters for their nine pieces."""


def pretext_of(name: str) -> PretextTask:
    """One of ``PRETEXTS``; ValueError for another name."""
    if name not in PRETEXTS:
        raise ValueError(f"pretext: must be one of {', '.join(PRETEXTS)}, got {name!r}")
    return PRETEXTS[name]


@dataclass(frozen=True, eq=False)
class Minibatch:
    """A minibatch as the terms of a task see it, with the features of any network, computed once for all terms.

    Attributes:
        network: the task's own.
        inputs: what it takes: images (n, c, h, w), normalised, or rows of several tensors.
        labels: (n,), or what else belongs to each row.
        step, recipe: of the training; steps are counted from 0.
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
        """The output of the task's own network."""
        return self.features_of(self.network)

    def features_of(self, network: nn.Module) -> Tensor:
        """The output of any network, learning or frozen, for these inputs."""
        if network not in self._features:
            self._features[network] = one_tensor(network, network(*self.inputs))
        return self._features[network]

    def generator(self, purpose: int) -> torch.Generator:
        """A random stream that depends on the task's seed, ``purpose`` (not 0 or 1) and the step alone."""
        return self.source.order.reseeded(purpose, self.step)

    def variants(self, count: int) -> Tensor:
        """A variant for each row, numbers (n,) below ``count``, drawn evenly."""
        return torch.randint(count, (len(self.labels),), generator=self.generator(2), device=self.labels.device)


@dataclass(frozen=True)
class Term(ABC):
    """A loss that a task learns from beside others; one of your own is a frozen dataclass with a ``name`` and a
    ``loss``. Fields that are modules learn with the task, unless they are frozen, and tasks whose terms hold the same
    module share it; fields that are tensors are moved to the images' device.

    Attributes:
        name: unique among the terms of a task.
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
    """The network's own task, by cross-entropy: paper A, first term of eqs. (1) and (2)."""

    head: nn.Module
    name = "target"

    def loss(self, batch: Minibatch) -> Tensor:
        return F.cross_entropy(read_only(self.head, batch.features), batch.labels)


@dataclass(frozen=True)
class DCC(Term):
    """A head that discriminates common classes, see ``dcc_loss``.

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
    """A head that tells in which variant an image is shown; "rotation" is RP, see ``rp_loss``.

    Where one variant of each image is drawn, the loss is an unbiased estimate of the mean over all, but for BN.

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
        variants = batch.variants(task.variants)
        return F.cross_entropy(self.head(batch.network(task.show(batch.images, variants))), variants)


@dataclass(frozen=True)
class UnitLength(Term):
    """Features (n, c) or (n, c, h, w) drawn to unit length over the channels: mean squared difference. Paper A, App.
    C.1, names such a loss and does not print it; form and weight 1 are ours."""

    name = "length"

    def loss(self, batch: Minibatch) -> Tensor:
        # the gradient of a norm is not defined at 0, where ReLU puts many features
        length = (batch.features.square().sum(1) + 1e-12).sqrt()
        return (length - 1).square().mean()


@torch.no_grad()
def identical_initial_weights(source: nn.Module, *others: nn.Module) -> None:
    """IIW: start every other network from the weights and buffers of ``source``, in place. A classifier's outputs are
    copied by index, as the paper's text implies, not by class name (paper A, Sec. 3.3). Raises ValueError if the
    architectures differ."""
    _check_identical(source, *others)
    for other in others:
        other.load_state_dict(source.state_dict())


def _check_identical(*networks: nn.Module) -> None:
    first, *others = ({name: value.shape for name, value in net.state_dict().items()} for net in networks)
    for other in others:
        if different := [name for name in first | other if first.get(name) != other.get(name)]:
            raise ValueError(f"others: identical weights need identical architectures; {different[:4]} differ")
