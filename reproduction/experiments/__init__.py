"""Every figure and table of both papers as a function from a preset to its runs, each under the row that it belongs to;
``runs`` makes them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from . import applications, gygli, ramanujan
from .presets import Plan, override

EXPERIMENTS = {
    # paper A
    "fig2": gygli.fig2,
    "fig2_pretrained": gygli.fig2_pretrained,
    "incremental": gygli.incremental,
    "fig5": gygli.fig5,
    "fig6": gygli.fig6,
    "fig7": gygli.fig7,
    "fig8": gygli.fig8,
    "fig9": gygli.fig9,
    "fig10": gygli.fig10,
    "choices": gygli.choices,
    "boundaries": gygli.boundaries,
    "numbering": gygli.numbering,
    "orientation": gygli.orientation,
    "stitching": gygli.stitching,
    "others": gygli.others,
    "weights": gygli.weights,
    "adaptation": applications.adaptation,
    "classifier": applications.classifier,
    "transfer": applications.transfer,
    # paper B
    "fig1_toy": ramanujan.fig1_toy,
    "table1": ramanujan.table1,
    "table2": ramanujan.table2,
    "table3": ramanujan.table3,
    "table4": ramanujan.table4,
    "sec43": ramanujan.sec43,
    "table5": ramanujan.table5,
    "sequence": ramanujan.sequence,
    "table6": ramanujan.table6,
    "sec52": ramanujan.sec52,
    "fig3": ramanujan.fig3,
    "disjoint": ramanujan.disjoint,
    "embedding_width": ramanujan.embedding_width,
    "shares": ramanujan.shares,
    "fitting": ramanujan.fitting,
    "arrival": ramanujan.arrival,
    "longer": ramanujan.longer,
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
