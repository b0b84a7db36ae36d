"""Every figure and table of both papers as a function from a preset to its runs, each under the row that it belongs to;
``runs`` makes them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import isfunction
from typing import Any

from . import applications, gygli, models, ramanujan
from .presets import Plan, override

EXPERIMENTS: dict[str, Callable[..., Plan]] = {
    name: experiment
    for module in (gygli, applications, ramanujan, models)
    for name, experiment in vars(module).items()
    if isfunction(experiment) and experiment.__module__ == module.__name__ and not name.startswith("_")
}
"""Every public function of these modules is an experiment, paper A before paper B."""

MEASURED = {"chance": ("chance", "noise"), "home": ("home",)}
"""What is measured of the networks of an experiment beside what every run measures, see ``runs.measures``."""

PRESETS = ("smoke", "laptop", "cifar-cpu", "cifar", "paper")
""""cifar-cpu" is "cifar" with networks and schedules for two CPU cores."""


def plan(
    experiment: str,
    preset: str,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: Collection[str] = (),
) -> Plan:
    """The runs of an experiment at a preset, each under its row, with ``settings`` (overrides by name) applied to each;
    those of some ``rows`` alone, if any are named.

    Raises:
        ValueError: for an unknown experiment, preset, setting or row.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment: must be one of {', '.join(EXPERIMENTS)}, got {experiment!r}")
    whole, found = EXPERIMENTS[experiment](preset, seeds), {}
    known = dict.fromkeys(row for row, _ in whole)
    if unknown := [row for row in rows if row not in known]:
        raise ValueError(f"rows: {experiment} has {'; '.join(known)}, got {'; '.join(unknown)}")
    for row, config in whole:
        if not rows or row in rows:
            found.setdefault(override(config, settings or {}), row)  # settings can make runs equal that were different
    return [(row, config) for config, row in found.items()]


def configs(
    experiment: str,
    preset: str,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: Collection[str] = (),
) -> list:
    """The run configs of ``plan``."""
    return [config for _, config in plan(experiment, preset, seeds, settings, rows)]
