"""Evidence: which runs of a plan have a record, and all records that can speak for a claim. Needs no torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..records.index import Index, index
from ..records.verdicts import Source
from . import EXPERIMENTS, plan
from .presets import Plan
from .presets import settings as settings_of
from .settings import KINDS, networks

BEST_FIRST = ("paper", "cifar", "cifar-cpu", "laptop")
"""The presets in the order in which their runs speak for a claim."""


def index_of(preset: str, root: str | os.PathLike | None = None) -> Index:
    """The records of a preset by the config of their run."""
    return index(preset, root, KINDS)


def metrics_of(config: Any, preset: str) -> dict[str, Any]:
    """What the record of a run holds; empty without one."""
    record = index_of(preset).record(config)
    return record["metrics"] if record else {}


def sources(preset: str | None = None) -> list[Source]:
    """The sources of records, the best first; that of one preset, if it is named."""
    return [_source(name) for name in BEST_FIRST if preset in (None, name)]


def _source(preset: str) -> Source:
    plans = {experiment: plan(experiment, preset) for experiment in EXPERIMENTS}
    return Source(
        preset,
        {experiment: _recorded(experiment, runs, preset, None) for experiment, runs in plans.items()},
        planned={experiment: len(runs) for experiment, runs in plans.items()},
        seeds={experiment: len({config.seed for _, config in runs}) for experiment, runs in plans.items()},
    )


def recorded(
    experiment: str,
    preset: str,
    *,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    root: str | os.PathLike | None = None,
) -> list[dict]:
    """The records of ``runner.records`` that are there already; nothing is made."""
    return _recorded(experiment, plan(experiment, preset, seeds, settings), preset, root)


def _recorded(experiment: str, wanted: Plan, preset: str, root: str | os.PathLike | None) -> list[dict]:
    found = index_of(preset, root)
    return under_rows(experiment, wanted, {config: found.record(config) for _, config in wanted})


def under_rows(experiment: str, wanted: Plan, made: Mapping[Any, dict | None]) -> list[dict]:
    """The records of a plan in its order, each with its "row", the settings in which it "differs" from the paper's run,
    and the "networks" that it measures; runs without one are left out."""
    return [
        {
            **record,
            "row": row,
            "differs": differs(experiment, row, replace(config, seed=0)),
            "networks": networks(config),
        }
        for row, config in wanted
        if (record := made[config]) is not None
    ]


@functools.cache
def differs(experiment: str, row: str, config: Any) -> tuple[str, ...]:
    """The settings in which a run is not the paper's: none where the experiment plans it at preset "paper", else those
    that differ from the most similar run under the same row there. How numbers are stored changes no result.

    Args:
        experiment, row: where the run stands.
        config: of the run, with seed 0.
    """
    ours = _settings(config)
    planned = [(name, _settings(other)) for name, other in plan(experiment, "paper", [0])]
    same_row = [other for name, other in planned if name == row] or [other for _, other in planned]
    changed = ([name for name, value in ours.items() if other[name] != value] for other in same_row)
    return tuple(min(changed, key=len, default=()))


def _settings(config: Any) -> dict[str, Any]:
    """A config as one level of names and values, without what changes no result."""
    same = ("recipe.precision", "recipe.channels_last")
    return {name: value for name, value in settings_of(config).items() if not name.endswith(same)}
