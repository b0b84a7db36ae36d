"""Golden numbers: what every experiment computes, pinned, so that a change of code that changes a number is noticed.

For each experiment and each value of its settings a tiny run is made in double precision, in which machines agree to
many digits. Images are made by integer arithmetic, so that neither fonts nor the rounding of floats have a say. A run
is pinned by all numbers that it would record and by the last losses of each training.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compatkit.image_files import write_npz
from compatkit.images import ImageSet, Split
from compatkit.recipes import Recipe

from ..experiments import EXPERIMENTS, MEASURED
from ..experiments.presets import settings
from ..images import BUILT_IN
from . import kept
from .context import Context
from .kinds import kind_of

DIGITS = 12  # significant ones that are pinned


@cache
def plans() -> dict[str, dict[str, Any]]:
    """The golden runs of each experiment by name: a few of its ``smoke`` runs in which every value of every setting
    occurs, made tiny. A run has one name in all experiments that share it, and no other run has that name."""
    found: dict[str, dict[str, Any]] = {}
    known: dict[str, Any] = {}
    for experiment, runs in EXPERIMENTS.items():
        found[experiment] = {}
        for config in map(tiny, covering([config for _, config in runs("smoke", [0])])):
            name = str(config)
            while known.setdefault(name, config) != config:  # runs that differ in what a name leaves out
                name += "'"
            found[experiment][name] = config
    return found


def covering(configs: Sequence[Any]) -> list:
    """A few of the configs in which every value of every setting occurs that occurs in any (greedy)."""
    facts = {config: set(settings(config).items()) for config in configs}
    missing, chosen = set().union(*facts.values()), []
    while missing:
        chosen.append(max(configs, key=lambda config: len(facts[config] & missing)))
        missing -= facts[chosen[-1]]
    return chosen


def tiny(config: Any) -> Any:
    """A run of the same kind on few golden images, in double precision."""
    changes: dict[str, Any] = {}
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        if isinstance(value, Recipe):
            shorter = {"steps": value.steps // 2, "batch_size": min(value.batch_size, 20)}
            changes[name] = replace(value, precision="fp64", **shorter)
        elif isinstance(value, str) and value in BUILT_IN:
            changes[name] = f"golden_{value}"
        elif name in ("n_train", "n_test"):
            changes[name] = 200 if "shapes" in getattr(config, "data", "") else 60
    return replace(config, **changes)


def golden_set(name: str) -> ImageSet:
    """Images of 8 x 8 pixels with the classes and channels of a built-in set, from integers alone: a pattern for each
    class, and noise."""
    like = BUILT_IN[name]()
    channels, count = like.channels, len(like.classes)
    start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=3).digest(), "big")

    def split(part: int) -> Split:
        n = max(60, 2 * count)
        image, c, y, x = np.ogrid[:n, :channels, :8, :8]
        label = np.arange(n) % count
        k = label[:, None, None, None]
        pattern = (x * (3 * k + 2) + y * (5 * k + 1) + 7 * c + start % 11) * 29 % 256
        noise = image * 48271 + c * 40692 + y * 69621 + x * 16807 + start + 12345 * part
        for _ in range(3):  # neighbours must have nothing in common
            noise = (noise * 48271 + 11) % 2147483647
        pixels = (3 * pattern + noise % 256) // 4
        return Split(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(label))

    return ImageSet(f"golden_{name}", split(0), split(1), like.classes)


@contextmanager
def golden_world() -> Iterator[None]:
    """Golden sets where ``images.load`` looks for files, double precision for all that is drawn, one thread."""
    before = torch.get_default_dtype(), torch.get_num_threads(), os.environ.get("COMPATKIT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        for name in BUILT_IN:
            write_npz(Path(folder) / f"golden_{name}.npz", golden_set(name))
        try:
            os.environ["COMPATKIT_DATA"] = folder
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_default_dtype(before[0])
            torch.set_num_threads(before[1])
            os.environ.pop("COMPATKIT_DATA")
            os.environ.update({} if before[2] is None else {"COMPATKIT_DATA": before[2]})


def numbers(config: Any) -> dict[str, float]:
    """The numbers of a golden run, by name; within ``golden_world``. Measured times are left out."""
    context = Context()
    found = _scalars(kind_of(config).run(config, context))
    for number, history in enumerate(context.histories, 1):
        rows = [row for row in history if "task" in row]
        for row in (row for row in rows if row["step"] == rows[-1]["step"]):
            terms = {name: value for name, value in row.items() if name not in ("step", "task")}
            found |= {f"training {number}, task {row['task']}, last loss: {n}": v for n, v in terms.items()}
    return _rounded(found)


def measured_beside(config: Any, measures: Sequence[str]) -> dict[str, float]:
    """The measures of the networks of a golden run beside what every run measures, see ``MEASURED``."""
    context = Context()
    kind_of(config).run(config, context)
    weights = {name: network.state_dict() for name, network in context.networks.items()}
    return _rounded(_scalars(kept.measured(config, weights, measures)))


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: _condensed(value) for name, value in metrics.items() if not name.startswith("seconds")}


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in sorted(found.items())}


def _condensed(value: float | list) -> float:
    """A list as one number that depends on each of its values and on their order."""
    if not isinstance(value, list):
        return value
    return math.fsum(math.cos(place) * _condensed(part) for place, part in enumerate(value))


def measured(experiments: Sequence[str], known: dict[str, dict[str, float]] | None = None) -> dict[str, dict]:
    """The numbers of every golden run, by experiment and run; within ``golden_world``. ``known`` holds those that are
    made already, since experiments share runs, and gets what is made here."""
    known = {} if known is None else known
    found: dict[str, dict] = {}
    for experiment in experiments:
        found[experiment] = {}
        for name, config in plans()[experiment].items():
            if name not in known:
                known[name] = numbers(config)
            found[experiment][name] = known[name]
            if measures := MEASURED.get(experiment):
                found[experiment][f"{name}, {', '.join(measures)}"] = measured_beside(config, measures)
    return found


def images() -> dict[str, str]:
    """The digest of every built-in set."""
    return {name: load().digest for name, load in BUILT_IN.items()}
