"""Every benchmark runs, in its quick form, and says what it could not measure."""

import importlib
import math
import sys

import pytest

from benchmarks import commands, gpu, training
from benchmarks.__main__ import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_quick_run_measures_or_says_why_not(name):
    rows = importlib.import_module(f"benchmarks.{name}").measure(quick=True)
    assert rows and len({row.what for row in rows}) == len(rows)
    for row in rows:
        assert row.note if row.value is None else math.isfinite(row.value), row
        assert (row.met is None) is (not row.promise or row.value is None), row


def test_a_peer_that_is_missing_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    rows = training.of_steps("ResNet-8", "resnet8", 4, "cpu", rounds=1, steps=1)
    assert [(row.value is None, row.note) for row in rows[1:]] == [(True, "torchvision is not installed")]
    assert rows[0].value > 0


def test_two_processes_train_at_once():
    row = gpu.at_once(2, "cpu", steps=2, least=100)
    assert 0 < row.value < 100 and row.met is False


def test_commands_are_timed_by_their_own_cpu_seconds():
    assert commands.cpu_seconds(["-c", "import time; time.sleep(1)"]) < 0.5
    assert commands.cpu_seconds(["-c", "import time\nwhile time.process_time() < 0.6: pass"]) >= 0.6
