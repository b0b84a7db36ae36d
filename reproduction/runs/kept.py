"""Networks that runs have trained, kept outside git, so that one more measure of them trains nothing.

A file is named by the run's id and the version of its experiment's golden numbers. Beyond ``$COMPATKIT_NETWORKS_MB``
(2000) those go that were used longest ago.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compatkit.files import replacing

from ..experiments import configs
from ..experiments.evidence import index_of
from ..records.provenance import code_state
from ..records.store import append, results_root
from . import pair
from .context import Context
from .measures import MEASURES, measure

MEGABYTES = 2000


def path(root: Path, record: Mapping) -> Path:
    """The file of the networks of a run, if they are kept."""
    version = record["provenance"]["golden"] or "new"
    return root / ".networks" / f"{record['run_id']}-{version}.pt"


def keep(root: Path, record: Mapping, networks: Mapping[str, nn.Module]) -> None:
    """Keep the weights of a run, and let go of the ones used longest ago while all take too much room."""
    file = path(root, record)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as new:
        torch.save({name: module.state_dict() for name, module in networks.items()}, new)
    room = float(os.environ.get("COMPATKIT_NETWORKS_MB", MEGABYTES)) * 1e6
    for old in sorted(file.parent.glob("*.pt"), key=lambda old: old.stat().st_mtime, reverse=True):
        room -= old.stat().st_size
        if room < 0:
            old.unlink(missing_ok=True)


def measure_again(
    name: str, experiment: str, preset: str, root: str | os.PathLike | None = None
) -> tuple[list[dict], int]:
    """Add a measure of ``MEASURES`` to the records of the runs of an experiment whose networks are kept.

    Returns:
        The records that were extended, and how many runs of the plan could not be: they have no record, or no networks.

    Raises:
        ValueError: there is no such measure.
    """
    if name not in MEASURES:
        raise ValueError(f"measure: must be one of {', '.join(MEASURES)}, got {name!r}")
    root = Path(root or results_root()).absolute()
    planned = list(dict.fromkeys(configs(experiment, preset)))
    known = {config: index_of(preset, root).record(config) for config in planned}
    there = {config: record for config, record in known.items() if record and path(root, record).exists()}
    return [extended(record, [name], config, root) for config, record in there.items()], len(planned) - len(there)


def extended(record: dict, names: Collection[str], config: Any, root: Path) -> dict:
    """A record with more measures of its networks, appended under the id of its run; the record itself where there are
    none to add, or no networks."""
    file = path(root, record)
    if not names or not file.exists():
        return record
    os.utime(file)
    found = measured(config, torch.load(file, map_location="cpu", weights_only=True), names)
    made, code = record["provenance"], code_state()
    since = made.get("measured", {}) | dict.fromkeys(names, None if code["dirty"] else code["commit"])
    record = record | {"metrics": record["metrics"] | found, "provenance": made | {"measured": since}}
    append(record, root)
    return record


def measured(config: Any, weights: Mapping[str, Mapping], names: Collection[str]) -> dict:
    """Measures of the networks of a run, from their weights by name."""
    return measure(pair.restored(config, Context(), weights), names) if names else {}
