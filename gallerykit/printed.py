"""Intervals and tables as text for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from compatkit.intervals import Interval


def percent(x: Interval | None) -> str:
    """Format a share as ``38.4 ± 0.6``, ± half an interval; empty for None."""
    return "" if x is None else f"{100 * x.mean:.1f} ± {100 * x.half_width:.1f}"


def percent_between(x: Interval | None) -> str:
    """Format a share with the ends of its interval as ``33.6 (29.1 .. 37.0)``; empty for None."""
    return "" if x is None else f"{100 * x.mean:.1f} ({100 * x.low:.1f} .. {100 * x.high:.1f})"


def count(x: int) -> str:
    """Format a count as ``40 087``."""
    return f"{x:,}".replace(",", " ")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length in columns, the first to the left and the others to the right; a column that is empty below
    the first row is left out."""
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = (
        [row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]
        for row in zip(*kept, strict=True)
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)
