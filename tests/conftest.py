"""What every test shares: one thread (small tensors are slower on two), one start of the random numbers, and ways to
look into a training."""

from __future__ import annotations

import importlib
from contextlib import contextmanager

import pytest

try:  # the tests of records and figures also run where torch is not installed
    import torch
except ImportError:
    torch = None

TRAINERS = (
    "compatkit.training",
    "compatkit.applications",
    "reproduction.runs.context",
)
"""Modules that call ``train``."""


TRAINING = (
    *(f"compatkit/test_{name}.py" for name in ("training", "gpu_path", "applications", "fct", "torchvision_networks")),
    *(f"gallerykit/test_{name}.py" for name in ("carry", "compare", "maps", "pairs", "scheduler", "commands")),
    *(
        f"reproduction/test_{name}.py"
        for name in ("pair", "runner", "runs", "update", "transfer", "classifier", "adaptation")
    ),
    *(f"reproduction/test_{name}.py" for name in ("measures", "cli", "scheduler")),
    *(
        f"reproduction/test_{name}.py"
        for name in (
            "access",
            "book",
            "browser",
            "drawing",
            "export_networks",
            "export_searches",
            "own_images",
            "picture",
        )
    ),
    "benchmarks/test_quick.py",
)
"""Files of tests that train networks, or open a browser: ``make check`` leaves them out."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.as_posix().endswith(TRAINING):
            item.add_marker(pytest.mark.training)


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # a test draws the same whatever ran before it
    yield
    torch.set_num_threads(before)


@contextmanager
def data_folder(folder, sets):
    """``images.load`` finds these sets, by name, in ``folder``."""
    from compatkit.image_files import write_npz

    for name, image_set in sets.items():
        write_npz(folder / f"{name}.npz", image_set)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATKIT_DATA", str(folder))
        yield


def on_each_step(monkeypatch, look, **options):
    """Every training, wherever it is started, has these options and calls ``look(tasks, recipe, step)`` after each of
    its steps."""
    original = importlib.import_module("compatkit.training").train

    def train(tasks, recipe, **given):
        def on_step(step):
            given_look(step)
            look(tasks, recipe, step)

        given_look = given.pop("on_step", None) or (lambda step: None)
        return original(tasks, recipe, **{**given, **options}, on_step=on_step)

    for module in TRAINERS:
        monkeypatch.setattr(f"{module}.train", train)


def each_step(monkeypatch, noted):
    """A list to which each step of any training adds ``noted(tasks, recipe)``."""
    taken = []
    on_each_step(monkeypatch, lambda tasks, recipe, step: taken.append(noted(tasks, recipe)))
    return taken


def part(task, name, what="head"):
    """The head of a term of a task, or what else is asked of it; None where the task has no such term."""
    return next((getattr(term, what) for term in task.terms if term.name == name), None)


@pytest.fixture
def trained(monkeypatch):
    """The configs of the runs that are made; nothing is trained."""
    from reproduction.runs.kinds import KINDS

    configs = []

    def run(config, context):
        configs.append(config)
        return {"recombination/mean": 0.5}

    for module in KINDS.values():
        monkeypatch.setattr(module, "run", run)
    return configs


@pytest.fixture
def data_parallel_on_the_cpu(monkeypatch):
    """``nn.DataParallel`` sees no device, also where another test of the process pretends a GPU."""
    module = importlib.import_module(torch.nn.DataParallel.__module__)
    monkeypatch.setattr(module, "_get_available_device_type", lambda: None)
