"""What makes networks compatible: the loss terms of paper A (Gygli et al., Sec. 3), one function each, and IIW.

Each term is the mean over the minibatch, so that the sums of eqs. (1) and (2) over a data set become steps of
minibatches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import ARRANGEMENTS, rearrange, rotate, rotate_all


def target_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The target task: cross-entropy of logits (n, classes) and labels (n,). First term of eqs. (1) and (2)."""
    return F.cross_entropy(logits, labels)


def dcc_loss(logits: Tensor, common_labels: Tensor) -> Tensor:
    """Discriminating common classes: second term of eq. (1), l_c(c(f(x)), y) * 1[y in C], mean over the minibatch.

    logits: (n, common classes), from the head that both networks share.
    common_labels: (n,), the place of each image's class among the common ones, -1 where it is not one of them. These
    images count in the mean with loss 0, as in the equation, so that a batch without any common class has loss 0.
    """
    total = F.cross_entropy(logits, common_labels, ignore_index=-1, reduction="sum")
    return total / len(logits)


class Pretext(NamedTuple):
    """A task that images set by themselves: each is shown in one of ``variants`` ways, and a head tells in which.

    show: (images (n, c, s, s), one variant for each (n,)) -> images of the same shape.
    """

    variants: int
    show: Callable[[Tensor, Tensor], Tensor]


PRETEXTS = {"rotation": Pretext(4, rotate), "jigsaw": Pretext(len(ARRANGEMENTS), rearrange)}
"""Rotation is the paper's; App. A leaves room for others. Jigsaw is that of Noroozi & Favaro (2016), with an image's
four quarters, in all 24 orders, for their nine pieces."""


def pretext_of(name: str) -> Pretext:
    """One of ``PRETEXTS``. Raises ValueError for another name."""
    if name not in PRETEXTS:
        raise ValueError(f"pretext: must be one of {', '.join(PRETEXTS)}, got {name!r}")
    return PRETEXTS[name]


def pretext_loss(extractor: nn.Module, head: nn.Module, images: Tensor, variants: Tensor, pretext: Pretext) -> Tensor:
    """Second term of eq. (2) with one variant (n,) of each image (n, c, s, s), drawn evenly: an unbiased estimate of
    the mean over all of them (but for BN, which normalises by n images, not by those of all variants)."""
    return F.cross_entropy(head(extractor(pretext.show(images, variants))), variants)


def rp_loss(extractor: nn.Module, rotation_head: nn.Module, images: Tensor, turns: Tensor | None = None) -> Tensor:
    """Rotation prediction: second term of eq. (2), the mean over S = {0, 90, 180, 270 degrees} of l_s(h_s(f(g(x,
    s))), s).

    images: (n, c, s, s), square. turns: one number of quarter turns (n,) for each image instead of all four, at a
    quarter of the cost, see ``pretext_loss``.
    """
    if turns is not None:
        return pretext_loss(extractor, rotation_head, images, turns, PRETEXTS["rotation"])
    rotated, turns = rotate_all(images)
    return F.cross_entropy(rotation_head(extractor(rotated)), turns)


def unit_length_loss(features: Tensor) -> Tensor:
    """How far features (n, c) or (n, c, h, w) are from unit length over the channels: mean squared difference (App.
    C.1).

    The paper names such a loss and does not print it; form and weight 1 are ours.
    """
    # the gradient of a norm is not defined at 0, where ReLU puts many features
    length = (features.square().sum(1) + 1e-12).sqrt()
    return (length - 1).square().mean()


@torch.no_grad()
def identical_initial_weights(source: nn.Module, *others: nn.Module) -> None:
    """IIW (Sec. 3.3): start every other network from the weights and buffers of ``source``, by position, in place.

    A classifier's outputs are copied by index, as the paper's text implies; they are not aligned by class name.
    Raises ValueError if the architectures differ: the method needs identical ones.
    """
    state = source.state_dict()
    for other in others:
        shapes = {k: v.shape for k, v in other.state_dict().items()}
        different = [k for k in shapes.keys() | state.keys() if k not in state or shapes.get(k) != state[k].shape]
        if different:
            raise ValueError(f"others: identical weights need identical architectures; {sorted(different)[:4]} differ")
        other.load_state_dict(state)
