"""All records that can speak for a claim, the best first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..experiments import EXPERIMENTS
from ..experiments.reusable import CPU_SIZED
from ..records.verdicts import Source
from . import runner

PHOTOGRAPHS = dict.fromkeys(("fig2", "fig5", "fig6", "fig10"), CPU_SIZED)
"""Experiments whose runs at preset "cifar" were made in a size for two CPU cores as well, with the settings for it."""


def sources(root: str | os.PathLike | None = None) -> list[Source]:
    """What is on record: the papers' recipe, then photographs on a GPU, photographs on a CPU, small images."""
    everything: dict[str, Mapping[str, Any]] = {name: {} for name in EXPERIMENTS}
    return [
        _source("paper", "paper", everything, root),
        _source("cifar", "cifar", everything, root),
        _source("cifar, in a size for CPUs", "cifar", PHOTOGRAPHS, root),
        _source("laptop", "laptop", everything, root),
    ]


def _source(
    name: str, preset: str, experiments: Mapping[str, Mapping[str, Any]], root: str | os.PathLike | None
) -> Source:
    planned = {e: len(runner.plan(e, preset, settings=settings)) for e, settings in experiments.items()}
    recorded = {e: runner.recorded(e, preset, settings=settings, root=root) for e, settings in experiments.items()}
    return Source(name, recorded, planned)
