"""Contents of the chapter on a real move, from searches that it has made: the words found, and the neighbours kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import Markdown

from ..show import tables
from ..show.explorer import Cell, Explorer, Level, curves, explorer

ANEW = "new/new"


def words_found(found: Mapping[str, Mapping[str, Sequence[str]]]) -> Markdown:
    """The words found for each query in each gallery, {query: {case: words}}; bold those that new/new finds as well."""
    body = [
        [f"*{query}*" if place == 0 else "", case, ", ".join(f"**{w}**" if w in cases[ANEW] else w for w in words)]
        for query, cases in found.items()
        for place, (case, words) in enumerate(cases.items())
    ]
    return tables.table(["query", "gallery", "nearest words"], body)


def kept_explorer(
    lines: Mapping[str, Mapping[str, Sequence[float]]], series: str, axis: str, old: Sequence[float]
) -> Explorer:
    """The share of neighbours kept as curves, with 95 % intervals over the queries.

    Args:
        lines: {line: {place on the axis: one share in 0..1 a query}}.
        series, axis: what lines and places are.
        old: the shares of old/old, drawn across.
    """
    cells = [
        Cell({series: line, axis: place}, shares) for line, places in lines.items() for place, shares in places.items()
    ]
    levels = [Level("old/old", old)]
    return explorer(curves(cells, series, axis, axis, "neighbours kept, %", levels=levels, counted="queries"))
