"""What a gallery can be searched with: L2 distance, cosine or inner product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = {"l2": "L2 distance", "cosine": "cosine", "ip": "inner product"}
"""By name, in words."""


def for_l2(query: Tensor, gallery: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Queries and items whose order by L2 distance is that of the given ones by another metric.

    Cosine: at length 1. Inner product: the items get one more number, so that all have the length of the longest, and
    the queries a zero there; then the squared distance is a constant of the query less twice the inner product.

    Args:
        query, gallery: embeddings (n, d) and (m, d).
        metric: one of ``METRICS``.

    Source: Bachrach et al. 2014, for the inner product.
    """
    if metric == "ip":
        wide, squares = gallery.double(), gallery.double().square().sum(1, keepdim=True)
        return F.pad(query.double(), (0, 1)), torch.cat([wide, (squares.max() - squares).sqrt()], 1)
    return as_compared(query, metric), as_compared(gallery, metric)


def as_compared(x: Tensor, metric: str) -> Tensor:
    """Embeddings (n, d) of which the metric tells apart all that differ: by cosine at length 1, zeros as they are."""
    return F.normalize(x, dim=1) if metric == "cosine" else x


def similarity(query: Tensor, gallery: Tensor, metric: str) -> Tensor:
    """Numbers (n, m), the larger the nearer: the cosine, the inner product, or half of ``|q|^2 - |q - x|^2``.

    Args:
        query, gallery: embeddings (n, d) and (m, d).
        metric: one of ``METRICS``.
    """
    query, gallery = as_compared(query, metric), as_compared(gallery, metric)
    if metric == "l2":
        return torch.addmm(gallery.square().sum(1), query, gallery.T, beta=-0.5)
    return query @ gallery.T
