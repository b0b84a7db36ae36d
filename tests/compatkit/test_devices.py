"""What comes in place of a tensor is named, wherever one is expected; digests are of values."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from compatkit.devices import digest
from compatkit.layers import cka_map
from compatkit.retrieval import encode, evaluate, nearest
from compatkit.similarity import linear_cka
from gallerykit.embeddings import Embeddings

from ..samples import small_set

ONES = torch.ones(2, 2)


class Giving(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (OrderedDict(last=ONES, pooled=ONES), "OrderedDict of last, pooled: pass one of these"),
        ((ONES,), "tuple"),
    ],
)
def test_what_came_in_place_of_a_tensor_is_named(output, named):
    labels, images = torch.ones(2).long(), small_set()
    calls = {
        "query": lambda: nearest(output, ONES),
        "gallery": lambda: evaluate(ONES, labels, output, labels),
        "query_labels": lambda: evaluate(ONES, output, ONES, labels),
        "x": lambda: linear_cka(output, ONES),
        "vectors": lambda: Embeddings(output, [1, 2], "s"),
        "module": lambda: encode(Giving(output), images, images.test),
        "names": lambda: cka_map(nn.Sequential(Giving(output)), nn.Sequential(nn.ReLU()), ONES, ["0"], ["0"]),
    }
    for argument, call in calls.items():
        with pytest.raises(ValueError, match=f"^{argument}: .* tensor.* {named}(, from Giving)?$"):
            call()


def test_a_digest_is_of_values():
    x = torch.randn(3, 4)
    assert digest(x, x) == digest(x.clone(), x.clone().requires_grad_()) != digest(x, x + 1)
    assert len(digest(x)) == 12 and digest(x) != digest(x.view(4, 3)) != digest(x[:2], x[2:])
    assert digest(x.T) == digest(x.T.contiguous()) and digest(x.bfloat16()) != digest(x.half())
