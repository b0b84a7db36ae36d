"""The papers' numbers: the rows of ``paper.csv``."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path

from .store import CHECKOUT, results_root

PAPER_COLUMNS = ("paper", "item", "row", "column", "metric", "value", "spread", "note")


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
    """The path of a table that comes with the code.

    Raises:
        FileNotFoundError: nowhere.
    """
    places = (results_root() / name, CHECKOUT / "results" / name)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{name}: neither in the results folder nor in the checkout")


def paper_numbers(paper: str | None = None, item: str | None = None) -> list[dict]:
    """Rows of paper.csv in its order, with ``value`` and ``spread`` as numbers in the unit the paper prints.

    Args:
        paper: 'gygli' or 'ramanujan'; None means both.
        item: a figure, table or section such as 'fig2'; None means all.

    Returns:
        One dict a row; a number that the paper did not print is None.

    Raises:
        KeyError: an unknown paper or item; the message has near misses.
    """
    with open(table_file("paper.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("value", "spread"):
            row[name] = Printed(row[name]) if row[name] else None
    for name, wanted in (("paper", paper), ("item", item)):
        if wanted is not None:
            known = list(dict.fromkeys(row[name] for row in rows))
            rows = [row for row in rows if row[name] == wanted]
            if not rows:
                raise KeyError(f"paper.csv has no {name} {wanted!r}; it has {', '.join(known)}")
    return rows


def near_misses(wanted: Sequence[str]) -> str:
    keys = [" | ".join(row[name] for name in PAPER_COLUMNS[:5]) for row in paper_numbers()]
    return "; ".join(difflib.get_close_matches(" | ".join(wanted), keys, n=5, cutoff=0.3)) or "nothing near"


def paper_value(paper: str, item: str, row: str, column: str, metric: str) -> Printed | None:
    """The published number, in the unit the paper prints; None where it printed none.

    Raises:
        KeyError: an unknown one; the message has near misses.
    """
    wanted = (paper, item, row, column, metric)
    for found in paper_numbers():
        if tuple(found[name] for name in PAPER_COLUMNS[:5]) == wanted:
            return found["value"]
    raise KeyError(f"paper.csv has no {' | '.join(wanted)}; near: {near_misses(wanted)}")
