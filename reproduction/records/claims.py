"""Claims of the papers: the rows of ``claims.csv``, and what records say of each."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .published import paper_numbers, table_file

PAPERS = {"gygli": "A", "ramanujan": "B"}
KINDS = ("finding", "check", "level", "question")
FROM = "; from "
"""Stands between the other side and the start of the gap."""
DIRECTIONS = ("above", "same", "not below")
OF_GAP = "% of the gap"
UNITS = {"points": (100, 1), "correlation": (1, 2), "million MACs": (1e-6, 1), OF_GAP: (100, 0)}
"""For each unit what takes a measured value to it, and the digits to show."""
NOT_TESTABLE = "not testable: "
"""How the note begins of what nothing here can test."""

Records = Sequence[Mapping]
Seeds = dict[int, float]
"""A value for each seed."""


@dataclass(frozen=True)
class Side:
    """A row of an experiment's plan and a key of its runs' metrics; ``where``: (setting, "=" or "!=", value) that hold
    for its runs."""

    experiment: str
    row: str
    metric: str
    where: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Claim:
    """A row of ``claims.csv``.

    Attributes:
        id, paper, item: its name, the paper, and the figure, table or section.
        kind: "finding"; "check", which nobody doubts; "level"; "question", which is ours, beyond the paper.
        text: the claim, in our words.
        direction: "above": one side is above the other; "same"; "not below": it loses less than the margin.
        margin: what is too small to matter, in ``unit``.
        unit: a key of ``UNITS``.
        one: what the claim is about; None where nothing of the kind is run.
        other: what it is compared with: another side, or a number in 0..1; None for a level.
        start: where the gap to ``other`` begins, of which the difference is a share; None but for the unit ``OF_GAP``.
        published: the paper's difference, or its level, in ``unit``; None where it prints none.
        note: how the margin reads the sentence, or why nothing is run.
    """

    id: str
    paper: str
    item: str
    kind: str
    text: str
    direction: str
    margin: float
    unit: str
    one: Side | None
    other: Side | float | None
    start: Side | None
    published: float | None
    note: str

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that are measured for it: one, other and start as far as they are rows of a plan."""
        return tuple(side for side in (self.one, self.other, self.start) if isinstance(side, Side))

    @property
    def experiments(self) -> tuple[str, ...]:
        """Whose records it is judged by."""
        return tuple(dict.fromkeys(side.experiment for side in self.sides))


def claims(paper: str | None = None, *items: str) -> list[Claim]:
    """The claims of both papers in their order, of one of them, or of some figures and tables of one."""
    printed = {(r["paper"], *(r[c] for c in ("item", "row", "column", "metric"))): r["value"] for r in paper_numbers()}
    with open(table_file("claims.csv"), newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if paper in (None, r["paper"]) and (not items or r["item"] in items)]
    return [_claim(row, printed) for row in rows]


def _claim(row: Mapping[str, str], printed: Mapping[tuple, float | None]) -> Claim:
    other, _, start = row["other"].partition(FROM)
    one, other, start = (_side(row, text) for text in (row["one"], other, start))
    names = ("id", "paper", "item", "kind", "direction", "unit", "note")
    return Claim(
        **{name: row[name] for name in names},
        text=row["claim"],
        margin=float(row["margin"]),
        one=one if isinstance(one, Side) else None,
        other=other,
        start=start if isinstance(start, Side) else None,
        published=_published(row, printed),
    )


def _published(row: Mapping[str, str], printed: Mapping[tuple, float | None]) -> float | None:
    """The number that ``paper.csv`` has for what a row names, in its unit."""
    keys = [key for name in ("paper_one", "paper_other") for key in row[name].split(FROM) if key]
    numbers = [printed[(row["paper"], *key.split(" | "))] for key in keys]
    wanted = 1 if row["kind"] == "level" else 3 if row["unit"] == OF_GAP else 2
    if len(numbers) != wanted or None in numbers:
        return None
    one, other, start = (*numbers, 0.0, 0.0)[:3]
    return 100 * (one - other) / (other - start) if row["unit"] == OF_GAP else one - other


def _side(row: Mapping[str, str], text: str) -> Side | float | None:
    """A side as it stands in the table: "ROW | METRIC", "EXPERIMENT / ROW | METRIC", a number, or nothing."""
    if not text:
        return None
    if match := re.fullmatch(r"(?:(\w+) / )?(.+) \| (.+)", text):
        where = tuple(re.fullmatch(r"(\w+)(!?=)(.*)", part).groups() for part in row["where"].split("; ") if part)
        return Side(match[1] or row["experiment"], match[2], match[3], where)
    return float(text)


# --- what records hold ------------------------------------------------------------------------------------------------


def images(config: Mapping) -> tuple:
    """The images of a run, the same for runs that a claim takes together: a pair of sets in either order, the source
    of several targets, one set with the classes of each version."""
    if "a" in config:
        return tuple(sorted((config["a"], config["b"])))
    if "classes" in config:
        return (config["data"], *config["classes"])
    return (config.get("source") or config["data"],)


def images_in_words(records: Records) -> str:
    """The name of the ``images`` that records have in common."""
    config = records[0]["config"]
    if "a" in config:
        return "{a} × {b}".format(**config)
    if "classes" in config:
        return f"{config['data']}, {' to '.join(map(str, config['classes']))}"
    if "source" in config:
        return f"{config['source']} → {', '.join(dict.fromkeys(r['config']['target'] for r in records))}"
    return config["data"]


def by_images(records: Iterable[Mapping]) -> dict[tuple, list[Mapping]]:
    """Records by their ``images``, in the order of the plan."""
    groups: dict[tuple, list[Mapping]] = {}
    for record in records:
        groups.setdefault(images(record["config"]), []).append(record)
    return groups


def chosen(side: Side, records: Records) -> list[Mapping]:
    """The runs of a side that hold what it measures."""
    return [
        r
        for r in records
        if r["row"] == side.row
        and all((str(r["config"][name]) == value) == (sign == "=") for name, sign, value in side.where)
        and number(r["metrics"], side.metric) is not None
    ]


def values(side: Side, records: Records) -> Seeds:
    """A side by seed: the mean over the runs of its row (both orders, both directions, all targets); a seed that lacks
    one of them is left out."""
    settings: dict[str, Seeds] = {}
    for record in chosen(side, records):
        setting = json.dumps({**record["config"], "seed": None}, sort_keys=True)
        settings.setdefault(setting, {})[record["seed"]] = number(record["metrics"], side.metric)
    common = set.intersection(*map(set, settings.values())) if settings else ()
    return {seed: statistics.fmean(seeds[seed] for seeds in settings.values()) for seed in sorted(common)}


def number(metrics: Mapping, name: str) -> float | None:
    """A metric as one number: of a list the mean, of "NAME/mean" the mean over both test sets, of "accuracy after N
    epochs" the point of the curve, of "ONE minus OTHER" the difference; None where a run does not hold it."""
    if " minus " in name:
        one, other = (number(metrics, part) for part in name.split(" minus "))
        return None if one is None or other is None else one - other
    if name in metrics:
        value = metrics[name]
        return statistics.fmean(value) if isinstance(value, Sequence) else float(value)
    if name.endswith("/mean"):
        both = [number(metrics, f"{name.removesuffix('mean')}{role}") for role in "ab"]
        return None if None in both else statistics.fmean(both)
    if match := re.fullmatch(r"accuracy after (\d+) epochs?", name):
        step = int(match[1]) * int(metrics["steps in an epoch"])
        return dict(zip(metrics["steps"], metrics["accuracy by step"], strict=True)).get(step)
    return None
