"""After a change of code: do stored runs still come out the same, to the bit? If so they need not be made again.

A record is stale when the code that made it has changed. Many changes change no number: a new option, a clearer loop.
``verify`` makes a sample of the stale runs anew, one for each value of each setting that occurs among them, and
compares. If all metrics are equal, that is noted beside the records, and ``results.is_stale`` believes it of every
record whose settings all occurred in the sample.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from .. import results
from ..devices import default_device
from .runner import Job, configs, make_all, run_id


class RunsDiffer(RuntimeError):
    """A run that was made anew gave other numbers than its record: the records are stale indeed."""


def verify(
    experiments: Sequence[str],
    preset: str,
    *,
    jobs: int = 1,
    root: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> list[dict]:
    """Make a sample of the stale runs of these experiments anew; returns what was noted, see ``results.note_verified``.

    Each run has the device and the number of threads of its record. Use the machine and the torch of the records as
    well: elsewhere bits differ anyway. Options as in ``runner.records``. Raises RunsDiffer, naming runs and metrics,
    when any run comes out otherwise, or fails.
    """
    root = Path(root or results.results_root())
    stored = results.load_all(preset, root)
    planned = {run_id(config): (name, config) for name in experiments for config in configs(name, preset)}
    stale: dict[tuple[str, str], list[dict]] = {}
    for record in (stored[name] for name in planned if name in stored):
        made = record["provenance"]
        if results.is_stale(record, root):
            stale.setdefault((made["module"], made["fingerprint"]), []).append(record)
    noted = []
    for (module, before), records in sorted(stale.items()):
        known = results.verified(root).get(frozenset((before, results.code_state(module)["fingerprint"])), set())
        sample = covering(records, known)
        _compare([(*planned[record["run_id"]], record) for record in sample], jobs, show_progress)
        noted.append(results.note_verified(module, before, sample, root))
    return noted


def covering(records: Sequence[dict], known: Set[str] = frozenset()) -> list[dict]:
    """A few of the records in which every value of every setting occurs that occurs in all of them and is not ``known``
    (greedy)."""
    facts = {record["run_id"]: results.made_with(record) for record in records}
    missing = set().union(*facts.values()) - known
    chosen = []
    while missing:
        chosen.append(max(records, key=lambda record: len(facts[record["run_id"]] & missing)))
        missing -= facts[chosen[-1]["run_id"]]
    return chosen


def _compare(sample: Sequence[tuple[str, Any, dict]], jobs: int, show_progress: bool) -> None:
    """Make runs (experiment, config, record) anew, apart from all records."""
    with tempfile.TemporaryDirectory() as folder:
        again, problems = {}, []
        for experiment, config, record in sample:
            device = "cpu" if record["provenance"]["device"].startswith("cpu") else default_device()
            threads = record["provenance"]["threads"]
            again[Job(experiment, record["preset"], config, Path(folder), device, threads)] = record
        for job, outcome in make_all(list(again), jobs, show_progress=show_progress, label="verifying"):
            if isinstance(outcome, Exception):
                problems.append(f"{job.config}: {outcome}")
                continue
            old, new = _reproducible(again[job]["metrics"]), _reproducible(outcome["metrics"])
            if old != new:
                names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
                problems.append(f"{job.config}: {len(names)} metrics differ, such as {sorted(names)[0]}")
    if problems:
        raise RunsDiffer("; ".join(problems[:3]))


def _reproducible(metrics: dict) -> dict:
    """All but measured times."""
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}
