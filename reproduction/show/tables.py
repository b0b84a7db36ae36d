"""Markdown tables from records and the papers' numbers; they look alike in the book and in a live notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from IPython.display import Markdown

from compatkit.intervals import Interval

from ..records.provenance import details, summary

SIGNS = {"reproduced": "●", "trend only": "◐", "not reproduced": "○", "undecided": "◌", "not run": "–"}


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> Markdown:
    """A Markdown table; a column of numbers is aligned to the right."""
    if any(len(line) != len(header) for line in body):
        raise ValueError(f"body: every line needs {len(header)} cells, one for each of {list(header)}")
    rule = ["--:" if _is_numeric(column) else ":--" for column in zip(*body, strict=True)] or [":--"] * len(header)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *body)]
    return Markdown("\n".join(lines))


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether cells hold numbers and dashes alone, with intervals or without."""
    return all(re.fullmatch(r"–|(≥ )?[-+]?[\d.]+%?( ± [\d.]+)?", cell) for cell in cells)


def comparison(rows: Sequence[Mapping], unit: str = "%", digits: int = 1) -> Markdown:
    """The table paper | ours from the rows of ``results.compare``: mean ± half width of the 95 % interval, n, and the
    verdict where the paper prints a number."""
    header = ["", f"paper, {unit}", f"ours, {unit}", "n", "verdict"]
    body = [
        [
            row["row"],
            number(row["paper"], digits=digits),
            span(row["ours"], digits=digits),
            str(row["n"]),
            "–" if row["paper"] is None and row["n"] else verdict_cell(row["verdict"]),
        ]
        for row in rows
    ]
    return table(header, body)


def verdict_cell(verdict: str) -> str:
    """A verdict with its sign, on one line however narrow the page."""
    return f"{SIGNS[verdict]} {verdict}".replace(" ", "\N{NO-BREAK SPACE}")


def number(value: float | None, signed: bool = False, digits: int = 1) -> str:
    """A number with so many digits after the point, or a dash where there is none."""
    # + 0.0: no minus before a zero
    return "–" if value is None else f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def span(ours: Interval | None, signed: bool = False, digits: int = 1) -> str:
    """Mean ± half width of the interval; the mean alone where one value gives no interval."""
    if ours is None:
        return "–"
    mean = number(ours.mean, signed, digits)
    return mean if ours.n < 2 else f"{mean} ± {ours.half_width:.{digits}f}"


def origins(groups: Mapping[str, Sequence[Mapping]]) -> Markdown:
    """Where the records of each group come from: a sentence, and the rest folded away."""
    parts = []
    for name, records in groups.items():
        text = f"{name}: {summary(records)}" if name else summary(records)
        folded = f"<details><summary>{text}</summary>{details(records)}</details>" if records else text
        parts.append(f'<div class="compatkit-origin">{folded}</div>')
    return Markdown("\n\n".join(parts))
