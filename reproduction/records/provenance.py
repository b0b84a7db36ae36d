"""Provenance of records, and whether the code would still make them."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from .pins import pinned
from .store import CHECKOUT


@functools.cache
def code_state() -> dict:
    """``commit`` of the checkout, None outside one, and whether tracked files other than results/ and book/ differ from
    it, None if that is unknown: as they are at the first call in this process, since what runs is what was imported."""
    top = _git("rev-parse", "--show-toplevel")
    inside = top is not None and Path(top).resolve() == CHECKOUT
    commit = _git("rev-parse", "HEAD") if inside else None
    unchanged = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results", ":(exclude)book")
    changed = _git(*unchanged) if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    """Output of git in the checkout; None if git is missing or fails."""
    import subprocess  # here, as below: listing what is recorded asks for neither

    # A hook's GIT_DIR would answer for the repository that runs the hook.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def processor() -> str:
    """The model of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def provenance(
    *,
    experiment: str,
    device: str,
    threads: int,
    started: float,
    wall_seconds: float,
    peak_memory_mb: float,
    resumed: bool = False,
) -> dict:
    """The origin of a record, without names of hosts, users or folders.

    Args:
        experiment: whose version of golden numbers the record carries, see ``pins``.
        device: what computed: "cpu", or the model of the GPU.
        started: seconds since the epoch.
        resumed: the run went on from a checkpoint, so that ``wall_seconds`` counts its last part only.
    """
    versions = {"python": platform.python_version()}
    versions.update((name, _version(name)) for name in ("torch", "numpy", "compatkit"))
    return {
        **code_state(),
        "golden": pinned().versions.get(experiment),
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": device,
        "threads": threads,
        "wall_seconds": wall_seconds,
        "resumed": resumed,
        "peak_memory_mb": peak_memory_mb,
        "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
    }


def is_stale(record: Mapping) -> bool:
    """Tell whether the golden numbers of a record's experiment have since changed, or the images of a built-in set that
    the run used. A record that carries no version is stale."""
    pins = pinned()
    version = pins.versions.get(record["experiment"])
    images = all(digest in pins.images.get(name, [digest]) for name, digest in record["data"].items())
    return version is None or record["provenance"]["golden"] != version or not images


def drawn(record: Mapping) -> dict[str, str]:
    """The digests of the images that a run used, by set; one for those that differ by rounding alone, see ``Pins``."""
    known = pinned().images
    return {
        name: known[name][0] if digest in known.get(name, ()) else digest for name, digest in record["data"].items()
    }


def core_minutes(made: Mapping) -> float:
    """The cost of a run, from its provenance: minutes of one core, or of a GPU."""
    return made["wall_seconds"] / 60 * (made["threads"] if made["device"].startswith("cpu") else 1)


def cpu_minutes(records: Sequence[Mapping]) -> str:
    """The cost of runs: minutes of one core, and of GPUs where there were any; "at least" so much with a run that went
    on from a checkpoint."""
    minutes = {"": 0.0, " GPU": 0.0}
    for made in (record["provenance"] for record in records):
        minutes["" if made["device"].startswith("cpu") else " GPU"] += core_minutes(made)
    more = "≥ " if any(record["provenance"].get("resumed") for record in records) else ""
    return " + ".join(f"{more}{value:.1f}{device}" for device, value in minutes.items() if value) or "0.0"


def summary(records: Sequence[Mapping]) -> str:
    """One short sentence: how many runs, how long, and how many of them are stale."""
    if not records:
        return "No runs."
    minutes = sum(record["provenance"]["wall_seconds"] for record in records) / 60
    took = f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes"
    took = "under 2 minutes" if minutes < 2 else took
    stale = sum(map(is_stale, records))
    note = f"; {stale} of them stale: the code, or the images that it draws, has changed since" if stale else ""
    count = f"{len(records)} run{'s' * (len(records) > 1)}"
    return f"{count} at preset {_listed(r['preset'] for r in records)}, {took} in all{note}."


def details(records: Sequence[Mapping]) -> str:
    """What else records say of their origin: hardware, threads, commits, torch, days, uncommitted changes."""
    made = [record["provenance"] for record in records]
    threads = _listed(p["threads"] for p in made)
    days = sorted(p["started"][:10] for p in made)
    dirty = sum(bool(p["dirty"]) for p in made)
    parts = [
        f"On {_listed(map(hardware, made))}",
        f"{threads} thread{'s' * (threads != '1')} a run",
        f"commit {_listed(p['commit'][:7] if p['commit'] else 'none (outside a checkout)' for p in made)}",
        f"torch {_listed(p['versions'].get('torch') for p in made)}",
        days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        *([f"{dirty} from a tree with uncommitted changes"] if dirty else []),
    ]
    return ", ".join(parts) + "."


def hardware(made: Mapping) -> str:
    """The hardware of a run, from its provenance: the model of the CPU or GPU, and bf16 if it was taken."""
    device, *precision = made["device"].split(", ")
    return ", ".join([made.get("processor") or "a CPU" if device == "cpu" else device, *precision])


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values)) or "unknown"
