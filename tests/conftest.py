"""What every test shares: one thread (small tensors are slower on two) and a record store and data folder of its
own."""

from __future__ import annotations

import pytest

try:  # the tests of records and figures also run where torch is not installed
    import torch
except ImportError:
    torch = None


@pytest.fixture(autouse=True)
def _one_thread():
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(monkeypatch):
    """The configs of the runs that are made; nothing is trained."""
    from compatkit.experiments import EXPERIMENTS

    configs = []

    def run(config, **options):
        configs.append(config)
        return {"recombination/mean": 0.5}

    planned = [config for experiment in EXPERIMENTS.values() for config in experiment("smoke")]
    for module in {type(config).__module__ for config in planned}:
        monkeypatch.setattr(f"{module}.run", run)
    return configs
