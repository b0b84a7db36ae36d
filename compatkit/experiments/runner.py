"""From run configs to records: what is stored is not run again, what was interrupted goes on, the rest is trained."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import results
from ..devices import check_device, default_device
from ..files import locked
from ..progress import progress
from ..training import uses_bf16
from . import EXPERIMENTS, adaptation, classifier, pair, transfer, update
from .presets import override

# now, while the files are what was imported
for module in (adaptation, classifier, pair, transfer, update):
    results.code_state(module.__name__)


class RunsFailed(RuntimeError):
    """Some runs of an experiment failed; the others are recorded."""


@dataclass(frozen=True)
class Job:
    """One run to make: everything that a worker process needs to know."""

    experiment: str
    preset: str
    config: Any
    root: Path
    device: str
    threads: int

    @property
    def run_id(self) -> str:
        return run_id(self.config)

    @property
    def module(self) -> str:
        return type(self.config).__module__

    @property
    def checkpoints(self) -> Path:
        # of this code only: a run that goes on after an edit would be neither the old nor the new one
        return self.root / ".checkpoints" / f"{self.run_id}-{results.code_state(self.module)['fingerprint']}"

    @property
    def shared(self) -> Path:
        """Where runs of this code keep what they all start from."""
        return self.root / ".checkpoints" / f"shared-{results.code_state(self.module)['fingerprint']}"

    def stored(self) -> dict | None:
        """The record of this run, whichever experiment it was made for, if there is one."""
        return results.load_all(self.preset, self.root).get(self.run_id)


def configs(
    experiment: str, preset: str, seeds: Sequence[int] | None = None, settings: Mapping[str, Any] | None = None
) -> list:
    """The run configs of an experiment at a preset, with ``settings`` (overrides by name) applied to each.

    Raises ValueError for an unknown experiment, preset or setting.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment: must be one of {', '.join(EXPERIMENTS)}, got {experiment!r}")
    # settings can make runs equal that were different
    return list(dict.fromkeys(override(config, settings or {}) for config in EXPERIMENTS[experiment](preset, seeds)))


def records(
    experiment: str,
    preset: str,
    *,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    device: str | None = None,
    threads: int = 1,
    refresh: bool = False,
    root: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> list[dict]:
    """The records of an experiment, in the order of its configs; runs that have none in any experiment are made first.

    seeds, settings: instead of and on top of those of the preset. jobs: processes at once, 1 runs in this process.
    executor: any ``concurrent.futures.Executor`` of processes that see the same file system, in place of ``jobs``.
    device: "cpu", "cuda", ...; None takes a GPU if there is one. threads: of each process.
    refresh: also make runs again whose code has changed since. root: the record store, see ``results.results_root``.
    Interrupted (Ctrl-C), it leaves checkpoints from which the next call goes on. Raises RunsFailed, when all others are
    made, if a run failed; ValueError for a device that is not there.
    """
    root, device = Path(root or results.results_root()), device or default_device()
    check_device(device)
    if threads < 1 or jobs < 1:
        raise ValueError(f"threads, jobs: must be at least 1, got {threads} and {jobs}")
    wanted = [
        Job(experiment, preset, config, root, device, threads)
        for config in configs(experiment, preset, seeds, settings)
    ]
    stored = results.load_all(preset, root)
    missing = [j for j in wanted if j.run_id not in stored or (refresh and results.is_stale(stored[j.run_id], root))]
    failures: dict[Job, Exception] = {}
    label = f"{experiment} {preset}"
    for job, outcome in make_all(missing, jobs, executor, refresh, show_progress, label):
        if isinstance(outcome, Exception):
            failures[job] = outcome
        else:
            stored[job.run_id] = outcome
    if failures:
        causes = {str(error): job.config for job, error in reversed(failures.items())}  # one run for each
        listing = "; ".join(f"{config}: {error}" for error, config in list(causes.items())[-3:])
        others = ", the others are recorded" * (len(failures) < len(missing))
        first = next(iter(failures.values()))
        raise RunsFailed(f"{len(failures)} of {len(missing)} runs failed{others}. {listing}") from first
    return [stored[job.run_id] for job in wanted]


def recorded(
    experiment: str,
    preset: str,
    *,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    root: str | os.PathLike | None = None,
) -> list[dict]:
    """Those of ``records`` that are there already; nothing is made."""
    stored = results.load_all(preset, root)
    wanted = [run_id(config) for config in configs(experiment, preset, seeds, settings)]
    return [stored[name] for name in wanted if name in stored]


def run_id(config: Any) -> str:
    """The name of a run, see ``results.run_id``."""
    return results.run_id(type(config).__name__, asdict(config))


def make(job: Job, refresh: bool = False, show_progress: bool = False) -> dict:
    """Make one run, in this process: train or go on, evaluate, append the record, remove the checkpoints.

    One process at a time makes a run: another that wants it waits, and takes the record that it then finds (unless
    ``refresh`` asks for a new one).
    """
    checkpoints = job.checkpoints
    lock = checkpoints.with_name(f"{job.run_id}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "ab") as file, locked(file.fileno()), _threads(job.threads):
        found = job.stored()
        if found and not (refresh and results.is_stale(found, job.root)):
            return found
        resumed = checkpoints.exists()
        started, clock = time.time(), time.monotonic()
        _reset_peak_memory(job.device)
        run = importlib.import_module(job.module).run
        metrics = run(
            job.config, device=job.device, checkpoints=checkpoints, shared=job.shared, show_progress=show_progress
        )
        record = {
            "experiment": job.experiment,
            "preset": job.preset,
            "run_id": job.run_id,
            "seed": job.config.seed,
            "config": json.loads(json.dumps(asdict(job.config))),  # as it will be read back: tuples become lists
            "metrics": metrics,
            "provenance": results.provenance(
                module=job.module,
                device=_device_name(job),
                threads=torch.get_num_threads(),
                started=started,
                wall_seconds=time.monotonic() - clock,
                peak_memory_mb=_peak_memory_mb(job.device),
                resumed=resumed,
            ),
        }
        results.append(record, job.root)
        for leftover in checkpoints.parent.glob(f"{job.run_id}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        lock.unlink(missing_ok=True)
    return record


def make_all(
    missing: Sequence[Job],
    jobs: int = 1,
    executor: Executor | None = None,
    refresh: bool = False,
    show_progress: bool = True,
    label: str = "runs",
) -> Iterator[tuple[Job, dict | Exception]]:
    """Make runs and show how many are done; each as it is finished: its record, or the error that ended it."""
    finished = _make_all(missing, jobs, executor, refresh, show_progress)
    count = progress(0, len(missing), label, "run", show_progress)
    for _, outcome in zip(count, finished, strict=True):
        yield outcome


def _make_all(
    missing: Sequence[Job], jobs: int, executor: Executor | None, refresh: bool, show_progress: bool
) -> Iterator[tuple[Job, dict | Exception]]:
    if executor is not None:
        yield from _submit(executor, missing, refresh)
    elif jobs == 1:
        for job in missing:
            try:
                yield job, make(job, refresh, show_progress)
            except Exception as error:
                yield job, error
    else:
        # spawned, because a forked copy of a process that has used torch's threads can hang
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        with ProcessPoolExecutor(jobs, context, initializer=_live_and_die_with_the_parent) as own:
            try:
                yield from _submit(own, missing, refresh)
            except BaseException:
                # workers save a checkpoint every 30 s, so ending them now loses little and waits for nothing
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()
                raise


def _submit(executor: Executor, missing: Sequence[Job], refresh: bool) -> Iterator[tuple[Job, dict | Exception]]:
    futures: dict[Future, Job] = {}
    try:
        for job in missing:
            futures[executor.submit(make, job, refresh)] = job
        for future in as_completed(futures):
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield futures[future], error or future.result()
    finally:
        for future in futures:
            future.cancel()


def _live_and_die_with_the_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end when the parent has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device_name(job: Job) -> str:
    name = torch.cuda.get_device_name(job.device) if job.device.startswith("cuda") else job.device
    return f"{name}, bf16" if uses_bf16(job.config.recipe, job.device) else name


def _reset_peak_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb(device: str) -> float:
    """The most that this run took: of the GPU, or of the process; off Linux, the most that the process ever took."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kilobytes elsewhere
