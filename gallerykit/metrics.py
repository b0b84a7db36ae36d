"""Metrics that a gallery can be searched with: L2 distance, cosine or inner product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = {"l2": "L2 distance", "cosine": "cosine", "ip": "inner product"}
"""By name, in words."""


def similarity(query: Tensor, gallery: Tensor, metric: str) -> Tensor:
    """Numbers (n, m), the larger the nearer: the cosine, the inner product, or half of ``|q|^2 - |q - x|^2``.

    Args:
        query, gallery: embeddings (n, d) and (m, d).
        metric: one of ``METRICS``.
    """
    if metric == "l2":
        return torch.addmm(gallery.square().sum(1), query, gallery.T, beta=-0.5)
    if metric == "cosine":
        query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    return query @ gallery.T
