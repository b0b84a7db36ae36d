"""Networks of runs: drawn from a seed, for the images of a set."""

import pytest
import torch

from compatkit import models
from reproduction.runs.networks import cut_network

from ..samples import same, small_set, state


@pytest.mark.parametrize(
    ("name", "width", "split_at"), [("resnet8", 4, "stage2"), ("wrn10", 2, "stage1"), ("mobilenetv2", 2, "block10")]
)
def test_weights_do_not_depend_on_the_number_of_classes_but_for_the_last_layer(name, width, split_at):
    before = torch.get_rng_state()
    cuts = [
        cut_network(name, small_set(classes=classes), width=width, split_at=split_at, seed=seed)
        for classes, seed in (("abc", 7), ("abcdefg", 7), ("abc", 8))
    ]
    (extractor, head), (other_extractor, other_head), (another, another_head) = cuts
    assert same(state(extractor), state(other_extractor)) and same(state(head[:-1]), state(other_head[:-1]))
    assert (head[-1].out_features, other_head[-1].out_features) == (3, 7)
    assert not same(state(extractor), state(another)) and not same(state(head[:-1]), state(another_head[:-1]))
    assert torch.equal(torch.get_rng_state(), before), "from the seed alone"
    parts = models.split(models.build(name, 3, width=width), split_at)
    for found, expected in zip((extractor, head), parts, strict=True):
        assert [p.shape for p in found.parameters()] == [p.shape for p in expected.parameters()]
