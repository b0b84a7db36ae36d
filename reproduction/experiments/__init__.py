"""Every figure and table of both papers as a function from a preset to its runs, each under the row that it belongs to;
``runs`` makes them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from . import applications, forward, reusable
from .presets import Plan, override

EXPERIMENTS = {
    # paper A
    "fig2": reusable.fig2,
    "fig2_pretrained": reusable.fig2_pretrained,
    "incremental": reusable.incremental,
    "fig5": reusable.fig5,
    "fig6": reusable.fig6,
    "fig7": reusable.fig7,
    "fig8": reusable.fig8,
    "fig9": reusable.fig9,
    "fig10": reusable.fig10,
    "choices": reusable.choices,
    "boundaries": reusable.boundaries,
    "numbering": reusable.numbering,
    "orientation": reusable.orientation,
    "stitching": reusable.stitching,
    "adaptation": applications.adaptation,
    "classifier": applications.classifier,
    "transfer": applications.transfer,
    # paper B
    "fig1_toy": forward.fig1_toy,
    "table1": forward.table1,
    "table2": forward.table2,
    "table3": forward.table3,
    "table4": forward.table4,
    "sec43": forward.sec43,
    "table5": forward.table5,
    "sequence": forward.sequence,
    "table6": forward.table6,
    "sec52": forward.sec52,
    "fig3": forward.fig3,
    "disjoint": forward.disjoint,
    "embedding_width": forward.embedding_width,
    "shares": forward.shares,
    "fitting": forward.fitting,
    "arrival": forward.arrival,
}
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
