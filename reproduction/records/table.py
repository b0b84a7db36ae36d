"""Records as a table: one row a value. Pages filter, group and draw it.

What runs measure is recorded under names such as "recombination at stem, running statistics/a" or "CMC top-1 of new
classes: new/h". They are taken apart here, and nowhere else.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .claims import Records, Seeds, by_images, images_in_words

Rows = dict[str, Seeds]  # {row: {seed: value}}
Values = pd.DataFrame
"""Rows of ``table``."""

ANY = object()
"""In ``pick``: whatever stands there."""
PLAIN: dict[str, Any] = {"layer": "", "queries": "", "other": "", "case": "", "variant": "", "on": ("", "mean")}
"""What the name of a value can say beside its measure, and what it says where it says nothing."""

_NAME = re.compile(
    r"(?P<measure>.+?)(?P<curve> by step)?(?: at (?P<layer>\w+))?(?: of (?P<queries>old|new) classes)?"
    r"(?:: (?:(?P<other>[\w ]+) -> )?(?P<case>[^,(]+(?:\(.+\)(?:/old)?)?))?"
    r"(?:, (?P<variant>.+?))?(?:/(?P<on>a|b|mean))?"
)


@functools.cache
def _parts(name: str) -> dict[str, str]:
    """The parts of a metric's name: the measure, and the columns of ``PLAIN``."""
    return {part: text or "" for part, text in _NAME.fullmatch(name).groupdict().items()}


def table(records: Records) -> Values:
    """One row a value, in the order of the records.

    Columns of the run: ``run`` (its place among the records), ``experiment``, ``row``, ``source`` (its preset),
    ``data`` (in words), ``seed``, ``setting`` (what runs that differ in the seed alone have in common), and its
    settings by their names. Columns of the value: ``measure``, ``layer`` after which the networks were cut or compared,
    ``queries`` ("old" or "new" classes), ``case`` (of a search, of a network), ``other`` (what the case was combined or
    compared with), ``variant``, ``on`` (test set "a", "b"; "mean" of both), ``step`` or place in a list, ``value``.
    """
    runs, parts, steps, values = [], [], [], []
    for run, record in enumerate(records):
        metrics = record["metrics"]
        for name, value in metrics.items():
            said = _parts(name)
            points = [(said, 0, value)] if isinstance(value, (int, float)) else _points(said, value, metrics)
            for part, step, one in points:
                runs.append(run)
                parts.append(part)
                steps.append(step)
                values.append(one)
    place = np.array(runs, dtype=int)
    columns = {name: _column(column)[place] for name, column in _of_runs(records).items()}
    columns |= {name: _column([part[name] for part in parts]) for name in ("measure", *PLAIN)}
    return pd.DataFrame({"run": place, **columns, "step": steps, "value": np.array(values, dtype=float)})


def _points(said: dict[str, str], value: Sequence, metrics: Mapping) -> Iterator[tuple[dict[str, str], int, float]]:
    """The values of a list: those of a curve by step, of a map by two layers, of others by their place."""
    if value and isinstance(value[0], Sequence):
        layers = [*in_network_order(_parts(name)["layer"] for name in metrics), "classifier"]
        for own, line in zip(layers, value, strict=True):
            yield from ((said | {"layer": own, "case": other}, 0, v) for other, v in zip(layers, line, strict=True))
    else:
        steps = metrics["steps"] if said["curve"] else range(len(value))
        yield from ((said, step, v) for step, v in zip(steps, value, strict=True))


def _of_runs(records: Records) -> dict[str, list]:
    """The columns that hold the same for every value of a run, by column."""
    names = {id(r): images_in_words(group) for group in by_images(records).values() for r in group}
    settings = [_flat(record["config"]) for record in records]
    columns = {name: [one.get(name) for one in settings] for name in dict.fromkeys(n for one in settings for n in one)}
    for name, key in {"experiment": "experiment", "row": "row", "source": "preset", "seed": "seed"}.items():
        columns[name] = [record.get(key) for record in records]
    setting = [json.dumps({**record["config"], "seed": None}, sort_keys=True) for record in records]
    return columns | {"setting": setting, "data": [names[id(record)] for record in records]}


def _flat(config: Mapping, before: str = "") -> dict[str, Any]:
    """Settings on one level, lists as tuples."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = _as_tuple(value)
    return found


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _column(values: Sequence[Any]) -> pd.Categorical:
    """Values as codes, which is a hundredth of the work for a column; in order of appearance, None for nothing."""
    codes = {value: code for code, value in enumerate(v for v in dict.fromkeys(values) if v is not None)}
    known = np.empty(len(codes), dtype=object)
    known[:] = list(codes)
    return pd.Categorical.from_codes([codes.get(value, -1) for value in values], pd.Index(known, dtype=object))


def pick(values: Values, measure: str | Sequence[str], **where: Any) -> Values:
    """The values of one measure or several, with no more said of them than is asked for.

    Args:
        values: of ``table``.
        measure: its name, or several.
        where: by column what stands there, several of which one does (keys, of a mapping), or ``ANY``. Columns of
            ``PLAIN`` that are not named are as they are there.
    """
    fits = np.ones(len(values), dtype=bool)
    for column, wanted in {"measure": measure, **PLAIN, **where}.items():
        if wanted is not ANY:
            several = isinstance(wanted, (tuple, list, dict))
            fits &= (values[column].isin(list(wanted)) if several else values[column] == wanted).to_numpy()
    return values[fits]


def rows(values: Values, by: str = "row", *, mean: bool = False) -> Rows:
    """Values as ``{place: {seed: value}}``, places in order of appearance, seeds in rising order.

    Args:
        values: one for each place and seed.
        by: the column of the places.
        mean: there may be several, of several runs (both orders, both directions) or test sets; their mean is taken
            where none is missing.

    Raises:
        ValueError: two values of a place and seed, for averaging them silently would hide what tells them apart.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for place, seed, value in zip(values[by], values["seed"], values["value"], strict=True):
        found.setdefault(str(place), {}).setdefault(seed, []).append(value)
    if mean:
        most = {place: max(map(len, seeds.values())) for place, seeds in found.items()}
        found = {p: {s: v for s, v in seeds.items() if len(v) == most[p]} for p, seeds in found.items()}
    if not mean and (twice := [(p, s) for p, seeds in found.items() for s, v in seeds.items() if len(v) > 1]):
        raise ValueError(f"values: row {twice[0][0]!r} has seed {twice[0][1]} twice; choose what tells the runs apart")
    return {p: {s: sum(v) / len(v) for s, v in sorted(seeds.items())} for p, seeds in found.items()}


def by_seed(values: Values) -> Seeds:
    """The value of each seed; no values, no seeds."""
    return rows(values, "measure").popitem()[1] if len(values) else {}


def in_network_order(layers: Iterable[str]) -> list[str]:
    """Layers of one or several networks, from the images on, each once."""
    return sorted(set(filter(None, layers)), key=lambda layer: (layer != "stem", layer == "pool", natural(layer)))


def natural(name: str) -> list:
    """Sorts "block2" before "block10"."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part]
