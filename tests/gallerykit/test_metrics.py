"""Searching by L2 distance, cosine and inner product."""

import pytest
import torch
import torch.nn.functional as F

from compatkit import retrieval
from gallerykit.metrics import METRICS, for_l2, similarity

from .test_upgrade import latent


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_searches_are_by_the_metric(metric):
    query, gallery = vectors_of_many_lengths(30, 1), vectors_of_many_lengths(40, 2)
    by = {"l2": lambda q, g: -torch.cdist(q, g), "cosine": lambda q, g: F.cosine_similarity(q[:, None], g, dim=2)}
    scores = by.get(metric, lambda q, g: q @ g.T)(query.double(), gallery.double())
    found = retrieval.nearest(*for_l2(query, gallery, metric), 7)[1]
    assert torch.equal(found, scores.topk(7).indices)


def vectors_of_many_lengths(n, seed):
    return latent(n, seed) * torch.linspace(0.1, 3, n)[:, None]


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_orders_as_the_search_does(metric):
    query, gallery = vectors_of_many_lengths(30, 1), vectors_of_many_lengths(40, 2)
    found = retrieval.nearest(*for_l2(query, gallery, metric), 7)[1]
    assert torch.equal(similarity(query, gallery, metric).topk(7).indices, found)
