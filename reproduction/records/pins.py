"""Golden numbers as they are pinned in ``golden.json``, and the version that they give each experiment.

A record carries the version of its experiment. It changes when a number of the experiment does, and with it every
record of the experiment is stale. A run that is added, or a number that is measured beside the others, changes nothing
of what is recorded, and so not the version. How the numbers are made: ``golden``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compatkit.files import write_atomically

from .store import CHECKOUT

TOLERANCE = 1e-6  # relative, and absolute for numbers below 1
PINNED = CHECKOUT / "results" / "golden.json"

Numbers = Mapping[str, float]
"""What a golden run computes, by name."""


@dataclass(frozen=True)
class Pins:
    """Versions and names of runs by experiment, numbers by run, digests of images by set.

    Of a set's digests the first is what the code draws; the others are of images that differ from these by rounding
    alone, from before they were drawn in double precision.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    experiments: Mapping[str, list[str]] = field(default_factory=dict)
    runs: Mapping[str, Numbers] = field(default_factory=dict)
    images: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version of everything together."""
        return hashlib.sha256(json.dumps(dict(self.versions)).encode()).hexdigest()[:12]

    def of(self, experiment: str) -> dict[str, Numbers]:
        """The numbers of each golden run of an experiment; none for one that is not pinned yet."""
        return {name: self.runs[name] for name in self.experiments.get(experiment, ())}


@functools.lru_cache(maxsize=4)
def _read(path: Path, modified: int) -> Pins:
    return Pins(**json.loads(path.read_text(encoding="utf-8")))


def pinned() -> Pins:
    """Read what is pinned; nothing where there is no file."""
    try:
        return _read(PINNED, os.stat(PINNED).st_mtime_ns)
    except FileNotFoundError:
        return Pins()


def differences(pinned: Numbers, found: Numbers) -> list[str]:
    """The numbers of a run that moved against what is pinned, or are gone; a new number is no difference."""
    gone = [f"{name} is gone" for name in pinned if name not in found]
    return gone + [
        f"{name} is {found[name]:.12g}, pinned is {value:.12g}"
        for name, value in pinned.items()
        if name in found and not math.isclose(found[name], value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ]


def changed(before: Mapping[str, Numbers], now: Mapping[str, Numbers]) -> dict[str, list[str]]:
    """The ``differences`` of each golden run of an experiment that has any. A run that is gone is none while another
    vouches for the experiment."""
    common = [name for name in before if name in now]
    if before and not common:
        return {name: ["the run is gone"] for name in before}
    found = {name: differences(before[name], now[name]) for name in common}
    return {name: what for name, what in found.items() if what}


def added(before: Mapping[str, Numbers], now: Mapping[str, Numbers]) -> list[str]:
    """The golden runs of an experiment that are new, or have new numbers."""
    return [name for name, numbers in now.items() if numbers.keys() - before.get(name, {}).keys()]


def accepted(before: Pins, now: Mapping[str, Mapping[str, Numbers]], images: Mapping[str, str]) -> Pins:
    """Pins that hold what the code computes ``now``, by experiment and run. What has not moved keeps its numbers as
    they were pinned, and its version."""
    versions, runs = dict(before.versions), dict(before.runs)
    for experiment, found in now.items():
        moved = changed(before.of(experiment), found)
        for name, numbers in found.items():
            kept = {} if name in moved else before.runs.get(name, {})
            runs[name] = {key: kept.get(key, value) for key, value in numbers.items()}
        if moved or experiment not in versions:
            content = json.dumps([[name, runs[name]] for name in sorted(found)])
            versions[experiment] = hashlib.sha256(content.encode()).hexdigest()[:12]
    experiments = {**before.experiments, **{experiment: list(found) for experiment, found in now.items()}}
    used = {name for names in experiments.values() for name in names}
    same = {name: digests for name, digests in before.images.items() if digests[0] == images.get(name)}
    drawn = {name: same.get(name, [digest]) for name, digest in images.items()}
    return Pins(versions, experiments, {name: runs[name] for name in runs if name in used}, drawn)


def write(pins: Pins) -> None:
    """Write pins, one run on a line, so that a change is a small difference."""
    parts = (f'"{name}": {_lines(getattr(pins, name))}' for name in ("versions", "experiments", "images", "runs"))
    write_atomically(PINNED, "{\n" + ",\n".join(parts) + "\n}\n")


def _lines(entries: Mapping[str, object]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items()) + "\n}"
