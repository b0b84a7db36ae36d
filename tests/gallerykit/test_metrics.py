"""Searching by L2 distance, cosine and inner product."""

import pytest
import torch
import torch.nn.functional as F

from gallerykit.metrics import METRICS, similarity


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_orders_as_the_metric_does(metric):
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(n, 6, generator=generator) * torch.linspace(0.1, 3, n)[:, None] for n in (30, 40))
    by = {"l2": lambda q, g: -torch.cdist(q, g), "cosine": lambda q, g: F.cosine_similarity(q[:, None], g, dim=2)}
    scores = by.get(metric, lambda q, g: q @ g.T)(query.double(), gallery.double())
    assert torch.equal(similarity(query, gallery, metric).topk(7).indices, scores.topk(7).indices)
