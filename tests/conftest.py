"""What every test shares: one thread (small tensors are slower on two) and a record store and data folder of its
own."""

from __future__ import annotations

from contextlib import contextmanager

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


@contextmanager
def data_folder(folder, sets):
    """``data.load`` finds these sets, by name, in ``folder``."""
    from compatkit.data import write_npz

    for name, image_set in sets.items():
        write_npz(folder / f"{name}.npz", image_set)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATKIT_DATA", str(folder))
        yield


def each_step(monkeypatch, noted):
    """A list to which each step of any training adds ``noted`` of its run."""
    from compatkit import training

    taken, advance = [], training._Run.advance

    def count(run, log):
        taken.append(noted(run))
        advance(run, log)

    monkeypatch.setattr(training._Run, "advance", count)
    return taken


@pytest.fixture
def trained(monkeypatch):
    """The configs of the runs that are made; nothing is trained."""
    from reproduction.experiments import EXPERIMENTS

    configs = []

    def run(config, **options):
        configs.append(config)
        return {"recombination/mean": 0.5}

    planned = [config for experiment in EXPERIMENTS.values() for config in experiment("smoke")]
    for module in {type(config).__module__ for config in planned}:
        monkeypatch.setattr(f"{module}.run", run)
    return configs
