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


def sources(preset: str | None = None, root: str | os.PathLike | None = None) -> list[Source]:
    """What is on record: the papers' recipe, then photographs on a GPU, photographs on a CPU, small images.

    Args:
        preset: only what belongs to this one; None takes all.
        root: the record store, see ``records.store.results_root``.
    """
    everything: dict[str, Mapping[str, Any]] = {name: {} for name in EXPERIMENTS}
    places = {
        "paper": ("paper", everything),
        "cifar": ("cifar", everything),
        "cifar, in a size for CPUs": ("cifar", PHOTOGRAPHS),
        "laptop": ("laptop", everything),
    }
    return [_source(name, *place, root) for name, place in places.items() if preset in (None, place[0])]


def _source(
    name: str, preset: str, experiments: Mapping[str, Mapping[str, Any]], root: str | os.PathLike | None
) -> Source:
    planned = {e: len(runner.plan(e, preset, settings=settings)) for e, settings in experiments.items()}
    recorded = {e: runner.recorded(e, preset, settings=settings, root=root) for e, settings in experiments.items()}
    return Source(name, recorded, planned)
