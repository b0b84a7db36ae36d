"""The runner, from configs to records: what is stored is not run again, what was interrupted goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compatkit.devices import default_device
from compatkit.files import lock_file, remove_unheld
from compatkit.progress import progress
from compatkit.training import uses_bf16

from ..experiments import MEASURED, plan
from ..experiments.evidence import index_of, under_rows
from ..experiments.evidence import recorded as recorded
from ..records.pins import pinned
from ..records.provenance import code_state, is_stale, provenance
from ..records.store import append, results_root, run_id
from .context import Context
from .kept import extended, keep
from .kinds import kind_of

code_state()  # now, while the files are what was imported


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
    def checkpoints(self) -> Path:
        # of this code only: a run that goes on after its numbers have changed would be neither the old nor the new one
        version = pinned().versions.get(self.experiment, "new")
        return self.root / ".checkpoints" / f"{run_id(*named(self.config), {})}-{version}"

    @property
    def lock(self) -> Path:
        return self.checkpoints.with_suffix(".lock")

    @property
    def shared(self) -> Path:
        """The folder in which runs of this code keep what they all start from."""
        return self.root / ".checkpoints" / f"shared-{pinned().version}"

    def stored(self) -> dict | None:
        """The record of this run, whichever experiment it was made for, if there is one."""
        return index_of(self.preset, self.root).record(self.config)


def named(config: Any) -> tuple[str, dict]:
    """Kind and settings of a run, as a record holds them."""
    return type(config).__name__, json.loads(json.dumps(asdict(config)))  # as it will be read back: tuples become lists


def missing(wanted: Sequence[Any], preset: str, root: str | os.PathLike | None = None) -> list:
    """The configs whose runs have no record."""
    found = index_of(preset, root)
    return [config for config in wanted if found.record(config) is None]


def check(wanted: Iterable[Any], device: str = "cpu") -> None:
    """Rehearse all these runs, so that what cannot be run fails before the first one.

    Raises:
        ValueError: in one line, for all runs that cannot be made.
    """
    problems: dict[str, str] = {}
    for config in dict.fromkeys(replace(config, seed=0) for config in wanted):
        try:
            kind_of(config).check(config, Context(device, rehearsal=True))
        except (ValueError, FileNotFoundError, ImportError) as error:
            problems.setdefault(str(error), str(config))
    if problems:
        raise ValueError("; ".join(f"{error} ({config})" for error, config in problems.items()))


def records(
    experiment: str,
    preset: str,
    *,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: Collection[str] = (),
    jobs: int = 1,
    executor: Executor | None = None,
    device: str | None = None,
    threads: int = 1,
    refresh: bool = False,
    root: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> list[dict]:
    """The records of an experiment in the order of its plan, see ``evidence.under_rows``; runs that have none are made
    first. Interrupted (Ctrl-C), it leaves checkpoints from which the next call goes on.

    Args:
        experiment, preset: see ``plan``.
        seeds, settings: instead of and on top of those of the preset.
        rows: of the experiment to make; none named means all.
        jobs: processes at once; 1 makes the runs in this process.
        executor: any ``concurrent.futures.Executor`` of processes that see the same file system, in place of ``jobs``;
            each makes one run at a time and appends its record itself.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        threads: of each process.
        refresh: also make stale runs again, see ``records.provenance.is_stale``.
        root: the record store, see ``records.store.results_root``.
        show_progress: a bar where a person is watching.

    Raises:
        RunsFailed: when all others are made, if a run failed.
        ValueError: before the first run, for settings that cannot be run and a device that is not there.
    """
    root, device = Path(root or results_root()).absolute(), device or default_device()
    check_device(device)
    if threads < 1 or jobs < 1:
        raise ValueError(f"threads, jobs: must be at least 1, got {threads} and {jobs}")
    wanted = plan(experiment, preset, seeds, settings, rows)
    found = index_of(preset, root)
    made = {config: found.record(config) for _, config in wanted}
    absent = [
        Job(experiment, preset, config, root, device, threads)
        for config, record in made.items()
        if record is None or (refresh and is_stale(record))
    ]
    check([job.config for job in absent], device)
    failures: dict[Job, Exception] = {}
    for job, outcome in make_all(absent, jobs, executor, refresh, show_progress, f"{experiment} {preset}"):
        if isinstance(outcome, Exception):
            failures[job] = outcome
        else:
            made[job.config] = outcome
    if failures:
        raise _failed(failures, len(absent))
    for config, record in made.items():
        lacking = set(MEASURED.get(experiment, ())) - set(record["provenance"].get("measured", ()))
        made[config] = extended(record, sorted(lacking), config, root)
    return under_rows(experiment, wanted, made)


def _failed(failures: Mapping[Job, Exception], count: int) -> RunsFailed:
    """The error for runs that failed, each cause once."""
    causes = {str(error): job.config for job, error in reversed(failures.items())}
    listing = "; ".join(f"{config}: {error}" for error, config in list(causes.items())[-3:])
    others = ", the others are recorded" * (len(failures) < count)
    failed = RunsFailed(f"{len(failures)} of {count} runs failed{others}. {listing}")
    failed.__cause__ = next(iter(failures.values()))
    return failed


def make(job: Job, refresh: bool = False, show_progress: bool = False) -> dict:
    """Make one run, in this process: train or go on, evaluate, append the record, remove the checkpoints. Another
    process that wants it waits, and takes the record that it then finds, unless ``refresh`` asks for a new one."""
    checkpoints = job.checkpoints
    with lock_file(job.lock), torch_threads(job.threads):
        found = job.stored()
        if found and not (refresh and is_stale(found)):
            return found
        resumed = checkpoints.exists()
        started, clock = time.time(), time.monotonic()
        _reset_peak_memory(job.device)
        context = Context(job.device, checkpoints, job.shared, show_progress)
        metrics = kind_of(job.config).run(job.config, context)
        kind, config = named(job.config)
        record = {
            "experiment": job.experiment,
            "preset": job.preset,
            "run_id": run_id(kind, config, context.data),
            "kind": kind,
            "seed": job.config.seed,
            "config": config,
            "data": context.data,
            "metrics": metrics,
            "provenance": provenance(
                experiment=job.experiment,
                device=_device_name(job),
                threads=torch.get_num_threads(),
                started=started,
                wall_seconds=time.monotonic() - clock,
                peak_memory_mb=_peak_memory_mb(job.device),
                resumed=resumed,
            ),
        }
        append(record, job.root)
        if context.networks:
            keep(job.root, record, context.networks)
        shutil.rmtree(checkpoints, ignore_errors=True)
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
    try:
        for _, outcome in zip(count, finished, strict=True):
            yield outcome
    finally:
        for job in missing:
            remove_unheld(job.lock)  # of a worker that was killed


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
            if future.cancelled():
                raise RunsFailed(
                    "the scheduler is gone. Finished runs are recorded and unfinished ones have left checkpoints: the "
                    "same command goes on from there, with another one"
                )
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                raise RunsFailed(
                    "a worker process was killed, perhaps for lack of memory (fewer --jobs need less). Finished runs "
                    "are recorded and unfinished ones have left checkpoints: the same command goes on from there"
                ) from None
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
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device_name(job: Job) -> str:
    name = torch.cuda.get_device_name(job.device) if job.device.startswith("cuda") else job.device
    recipe = getattr(job.config, "recipe", None)  # none where the tool alone trains
    return f"{name}, bf16" if recipe and uses_bf16(recipe, job.device) else name


def _reset_peak_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.init()  # which naming a device by its number does not do
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


def check_device(device: torch.device | str) -> None:
    """Raise ValueError unless the device can be used here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {str(device)!r} cannot be used here ({str(error).splitlines()[0]})") from error
