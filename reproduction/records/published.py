"""The papers' numbers: the rows of ``paper.csv``."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path

from .store import CHECKOUT, results_root

KEY = ("paper", "item", "row", "column", "metric")
"""The columns that name a number; the others are ``value``, ``spread`` and ``note``."""


class Printed(float):
    """A number of a paper; as text it has the digits that the paper printed."""

    def __new__(cls, text: str) -> Printed:
        """Read the number, and keep its text."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def table_file(name: str) -> Path:
    """The path of a table that comes with the code: in the results folder, else in the checkout."""
    own = results_root() / name
    return own if own.is_file() else CHECKOUT / "results" / name


def paper_numbers(paper: str | None = None, item: str | None = None) -> list[dict]:
    """Rows of paper.csv in its order, with ``value`` and ``spread`` as numbers in the unit the paper prints, None where
    it printed none.

    Args:
        paper: 'gygli' or 'ramanujan'; None means both.
        item: a figure, table or section such as 'fig2'; None means all.
    """
    with open(table_file("paper.csv"), newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if paper in (None, r["paper"]) and item in (None, r["item"])]
    for row in rows:
        row |= {name: Printed(row[name]) if row[name] else None for name in ("value", "spread")}
    return rows


def paper_value(paper: str, item: str, row: str, column: str, metric: str) -> Printed | None:
    """The published number, in the unit the paper prints; None where it printed none.

    Raises:
        KeyError: an unknown one; the message has near misses.
    """
    values = {" | ".join(found[name] for name in KEY): found["value"] for found in paper_numbers()}
    wanted = " | ".join((paper, item, row, column, metric))
    if wanted not in values:
        near = difflib.get_close_matches(wanted, values, n=5, cutoff=0.3)
        raise KeyError(f"paper.csv has no {wanted}; near: {'; '.join(near)}")
    return values[wanted]
