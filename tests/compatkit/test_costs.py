"""Multiplications against a count by hand, and the shortest of several times."""

import time

import torch
from torch import nn

from compatkit import costs
from compatkit.costs import macs
from compatkit.fct import Transformation

from ..samples import same, state


def test_the_published_number_of_multiplications():
    h = Transformation(128, 128, 128)
    assert macs(h, torch.zeros(1, 128), torch.zeros(1, 128)) == 5_701_632
    assert all(m.training for m in h.modules())


def test_multiplications_of_convolutions_and_linear_layers_are_counted_and_nothing_runs():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(5 * 4 * 4, 7))
    net.append(nn.Linear(7, 2)).register_forward_hook(lambda *run: seen.append(run))
    before, seen = state(net), []
    assert macs(net, torch.randn(1, 3, 8, 8)) == 4 * 4 * 5 * 3 * 9 + 80 * 7 + 7 * 2
    assert same(before, state(net)) and seen == []
    assert macs(nn.Conv2d(6, 6, 3, padding=1, groups=6), torch.zeros(1, 6, 5, 5)) == 5 * 5 * 6 * 9


def test_the_shortest_time_counts():
    pauses = iter([0.2, 0.01, 0.2])
    assert 0.01 <= costs.seconds(lambda: time.sleep(next(pauses))) < 0.2
    assert next(pauses, None) is None, "three times, unless something else is asked for"
