"""Multiplications against a count by hand, seconds against a clock that is ours."""

import time

import pytest
import torch
from torch import nn

from compatkit import costs
from compatkit.costs import macs
from compatkit.fct import Transformation

from ..samples import same, state


def test_the_published_number_of_multiplications():
    h = Transformation(128, 128, 128)
    modes = [m.training for m in h.modules()]
    assert macs(h, torch.zeros(1, 128), torch.zeros(1, 128)) == 5_701_632
    assert all(modes) and modes == [m.training for m in h.modules()]


def test_multiplications_of_convolutions_and_linear_layers_are_counted():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(5 * 4 * 4, 7))
    before = state(net)
    assert macs(net, torch.randn(1, 3, 8, 8)) == 4 * 4 * 5 * 3 * 9 + 80 * 7
    assert same(before, state(net))


def test_groups_divide_the_multiplications():
    assert macs(nn.Conv2d(6, 6, 3, padding=1, groups=6), torch.zeros(1, 6, 5, 5)) == 5 * 5 * 6 * 9


@pytest.mark.parametrize("repeats", [1, 3, 5])
def test_work_is_done_as_often_as_asked_and_takes_time(repeats):
    calls = []
    found = costs.seconds(lambda: calls.append(sum(range(1000))), repeats)
    assert len(calls) == repeats and found > 0


def test_the_shortest_time_counts():
    pauses = iter([0.2, 0.01, 0.2])
    assert 0.01 <= costs.seconds(lambda: time.sleep(next(pauses))) < 0.2


def test_counting_runs_nothing_of_the_module():
    seen = []
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    net.register_forward_hook(lambda *run: seen.append(run))
    assert macs(net, torch.zeros(1, 3, 5, 5)) == 12 * 25 and seen == []
