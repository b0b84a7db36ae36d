"""Markdown tables from records and the papers' numbers; they look alike in the book and in a live notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from IPython.display import Markdown

from compatkit.intervals import Interval

from ..records.provenance import details, summary
from ..records.published import Printed
from ..records.verdicts import MOST_SEEDS, Verdict

SIGNS = {
    "shown": "●",
    "contradicted": "✕",
    "equal": "=",
    "mixed": "◐",
    "open": "◌",
    "not judged": "·",
    "not run": "–",
    "not testable": "⊘",
}


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> Markdown:
    """A Markdown table; a column of numbers is aligned to the right."""
    if any(len(line) != len(header) for line in body):
        raise ValueError(f"body: every line needs {len(header)} cells, one for each of {list(header)}")
    rule = ["--:" if _is_numeric(column) else ":--" for column in zip(*body, strict=True)] or [":--"] * len(header)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *body)]
    return Markdown("\n".join(lines))


def folded(summary: str, *contents: Markdown) -> Markdown:
    """Contents that a reader can do without, such as the tables of levels of a section, behind one line that opens
    it."""
    # blank lines: what stands between them is Markdown again
    inside = "\n\n".join(content.data for content in contents)
    return Markdown(f"<details><summary>{summary}</summary>\n\n{inside}\n\n</details>")


def _is_numeric(cells: Sequence[str]) -> bool:
    """Tell whether cells hold numbers and dashes alone, with intervals or without."""
    return all(re.fullmatch(r"–|(\W\s)?[-+]?[\d.]+(\s\d{3})*%?(\s±\s[\d.]+)?(, n\s=\s\d+)?", cell) for cell in cells)


def judged(header: Sequence[str], body: Sequence[Sequence[str]], verdicts: Sequence[Verdict]) -> Markdown:
    """A table of levels with a verdict for each printed one in its second column; where no level is judged, a sentence
    under it says why."""
    if any(verdict.p_value is not None for verdict in verdicts):
        cells = ["–" if verdict.word == "not judged" else verdict_cell(verdict) for verdict in verdicts]
        lines = [[first, cell, *rest] for (first, *rest), cell in zip(body, cells, strict=True)]
        return table([header[0], "verdict", *header[1:]], lines)
    reasons = [verdict.reason for verdict in verdicts if verdict.reason.startswith("level")]
    why = "\n\n*" + reasons[0].replace("level not", "Levels are not", 1) + ".*" if reasons else ""
    return Markdown(table(header, body).data + why)


def verdict_cell(verdict: Verdict) -> str:
    """A verdict with its sign, on one line however narrow the page; of an open one, how many seeds would decide it."""
    cell = f"{SIGNS[verdict.word]} {verdict.word}".replace(" ", "\N{NO-BREAK SPACE}")
    return cell if verdict.word != "open" or verdict.p_value is None else f"{cell} (needs {seeds_needed(verdict)})"


def seeds_needed(verdict: Verdict) -> str:
    """The number of seeds that would decide what is open, were mean and spread to stay what they are."""
    return f"{verdict.seeds} seeds" if verdict.seeds else f"> {MOST_SEEDS} seeds"


def number(value: float | None, signed: bool = False, digits: int = 1) -> str:
    """A number with so many digits after the point, one of a paper with those that it printed, or a dash where there is
    none."""
    if isinstance(value, Printed):
        return str(value)
    # + 0.0: no minus before a zero
    return "–" if value is None else f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def span(ours: Interval | None, signed: bool = False, digits: int = 1) -> str:
    """Mean ± half width of the interval; the mean alone where one value gives no interval."""
    if ours is None:
        return "–"
    mean = number(ours.mean, signed, digits)
    return mean if ours.n < 2 else f"{mean} ± {ours.half_width:.{digits}f}"


def origins(groups: Mapping[str, Sequence[Mapping]]) -> Markdown:
    """The origin of the records of each group: a sentence, and the rest folded away."""
    parts = []
    for name, records in groups.items():
        text = f"{name}: {summary(records)}" if name else summary(records)
        folded = f"<details><summary>{text}</summary>{details(records)}</details>" if records else text
        parts.append(f'<div class="compatkit-origin">{folded}</div>')
    return Markdown("\n\n".join(parts))
