"""Runs small enough for tests, and what is asked of any kind of run."""

from __future__ import annotations

from dataclasses import replace

from reproduction import experiments
from reproduction.experiments.presets import override
from reproduction.experiments.settings import PairRun

TINY = {"n_train": 60, "n_test": 60, "recipe.steps": 3, "recipe.batch_size": 20}


def tiny_pair(**changes) -> PairRun:
    """The first run of Fig. 2 at smoke, on fewer images and for three steps."""
    _, smoke = experiments.EXPERIMENTS["fig2"]("smoke")[0]
    return override(replace(smoke, **changes), TINY)
