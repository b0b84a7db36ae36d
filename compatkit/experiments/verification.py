"""After a change of code: do stored runs still come out the same, to the bit? If so they need not be made again.

A record is stale when the code that made it has changed. Many changes change no number: a new option, a clearer loop.
``verify`` makes a sample of the stale runs anew, one for each value of each setting that occurs among them, and
compares. If all metrics are equal, that is noted beside the records, and ``results.is_stale`` believes it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from .. import results
from .runner import Job, configs, default_device, make_all


class RunsDiffer(RuntimeError):
    """A run that was made anew gave other numbers than its record: the records are stale indeed."""


def verify(
    experiments: Sequence[str],
    preset: str,
    *,
    jobs: int = 1,
    device: str | None = None,
    threads: int = 1,
    root: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> list[dict]:
    """Make a sample of the stale runs of these experiments anew; returns what was noted, see ``results.note_verified``.

    Use the machine, the device, the number of threads and the torch of the records: elsewhere bits differ anyway.
    Options as in ``runner.records``. Raises RunsDiffer, naming runs and metrics, when any run comes out otherwise, or
    fails.
    """
    root = Path(root or results.results_root())
    stored = results.load_all(preset, root)
    planned = {
        job.run_id: job
        for name in experiments
        for config in configs(name, preset)
        for job in [Job(name, preset, config, root, device or default_device(), threads)]
    }
    stale: dict[tuple[str, str], list[Job]] = {}
    for run_id, job in planned.items():
        if run_id in stored and results.is_stale(stored[run_id], root):
            before = stored[run_id]["provenance"]["fingerprint"]
            stale.setdefault((job.module, before), []).append(job)
    noted = []
    for (module, before), jobs_of_code in stale.items():
        sample = covering(jobs_of_code)
        _compare(sample, stored, jobs, show_progress)
        noted.append(results.note_verified(module, before, [job.run_id for job in sample], root))
    return noted


def covering(jobs: Sequence[Job]) -> list[Job]:
    """A few of the jobs in which every value of every setting occurs that occurs in all of them (greedy)."""
    facts = {job: set(_settings(asdict(job.config))) for job in jobs}
    missing = set().union(*facts.values())
    chosen = []
    while missing:
        chosen.append(max(jobs, key=lambda job: len(facts[job] & missing)))
        missing -= facts[chosen[-1]]
    return chosen


def _settings(config: dict, prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in config.items():
        found += _settings(value, f"{name}.") if isinstance(value, dict) else [(prefix + name, repr(value))]
    return found


def _compare(sample: Sequence[Job], stored: dict[str, dict], jobs: int, show_progress: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again = [replace(job, root=Path(folder)) for job in sample]
        problems = []
        for job, outcome in make_all(again, jobs, show_progress=show_progress, label="verifying"):
            if isinstance(outcome, Exception):
                problems.append(f"{job.config}: {outcome}")
                continue
            old, new = _reproducible(stored[job.run_id]["metrics"]), _reproducible(outcome["metrics"])
            if old != new:
                names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
                problems.append(f"{job.config}: {len(names)} metrics differ, such as {sorted(names)[0]}")
    if problems:
        raise RunsDiffer("; ".join(problems[:3]))


def _reproducible(metrics: dict) -> dict:
    """All but measured times."""
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}
