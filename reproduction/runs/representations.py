"""Features that networks share by other means than paper A's: a fixed simplex, cosines to anchor images, a partner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatkit.objectives import Minibatch, Term


def pooled(features: Tensor) -> Tensor:
    """Features (n, c) as they are; maps (n, c, h, w) averaged over positions."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


def simplex(corners: int, dim: int, *, seed: int = 0) -> Tensor:
    """The corners of a regular simplex about the origin, (corners, dim), each of length 1, turned at random (Pernici et
    al. 2022).

    Raises:
        ValueError: fewer dimensions than ``corners`` - 1.
    """
    edges = corners - 1
    if dim < edges or edges < 1:
        raise ValueError(f"dim: {corners} corners need 2 or more of them and {edges} dimensions, got {dim}")
    last = torch.full((1, edges), (1 - corners**0.5) / edges, dtype=torch.float64)
    points = torch.cat([torch.eye(edges, dtype=torch.float64), last])
    draws = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, edges, generator=draws, dtype=torch.float64))[0]
    return (F.normalize(points - points.mean(0), dim=1) @ turn.T).to(torch.get_default_dtype())


class SimplexHead(nn.Module):
    """A head that nobody trains: each output is the product of the pooled features with a corner of a regular simplex.
    Networks that learn to classify under it need not have seen each other.

    Args:
        channels: of the features.
        num_outputs: at most ``channels`` + 1.
        seed: of the simplex; networks that are to fit have one in common.

    Source: Biondi et al. 2024 (stationary representations); at an inner layer, on pooled features, it is ours.
    """

    corners: Tensor

    def __init__(self, channels: int, num_outputs: int, *, seed: int = 0):
        super().__init__()
        self.register_buffer("corners", simplex(num_outputs, channels, seed=seed))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(pooled(features), self.corners)


class Relative(nn.Module):
    """Features as cosines to those of anchor images, which this block sends through the blocks before it each time.

    At each position channel k is the cosine, over the channels, of the features there and the pooled features of anchor
    k. Two networks with the same anchors then have the same channels, whatever basis each has found.

    Args:
        extractor: the blocks before this one, whose parameters it shares.
        anchors: images (k, c, h, w), normalised as those of ``extractor``.

    Source: Moschella et al. 2023; the cosine at each position of a map is ours.
    """

    anchors: Tensor

    def __init__(self, extractor: nn.Sequential, anchors: Tensor):
        super().__init__()
        self.blocks = nn.Sequential(*extractor)
        self.register_buffer("anchors", anchors)

    def forward(self, features: Tensor) -> Tensor:
        anchors = self.anchors
        for block in self.blocks:
            anchors = block.forward(anchors)  # not called, so that hooks see images alone
        directions, each = F.normalize(pooled(anchors), dim=1), F.normalize(features, dim=1)
        return torch.einsum("nc...,kc->nk...", each, directions)


@dataclass(frozen=True)
class Alignment(Term):
    """The angle between the features of two networks for the same images: 1 - cosine over the channels, mean over
    images and positions; nothing is gained by shrinking features.

    Attributes:
        partner: the other extractor, whose features have the same shape; it is drawn as well unless it is frozen.

    Source: hints between networks, Romero et al. 2015; the cosine, in place of the squared distance, is ours.
    """

    partner: nn.Module
    name = "alignment"

    def loss(self, batch: Minibatch) -> Tensor:
        return 1 - F.cosine_similarity(batch.features, batch.features_of(self.partner), dim=1, eps=1e-6).mean()
