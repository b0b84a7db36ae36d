"""Shares of the gap that are closed: the one scale on which both papers, and images of every kind, stand side by
side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import Markdown

from ..records.claims import Records, Side, by_images, images_in_words
from ..records.published import paper_value
from ..records.verdicts import Source, share
from ..show import tables
from .ramanujan import BARE, WITHOUT

FIG2 = ("gygli", "fig2", "mean", "recombination accuracy", "independent", "upper bound")
TABLE1 = ("ramanujan", "table1", "ImageNet-1k", "CMC top-1", "old/old", "new/new")
"""Where the papers print what is set against ours, and between which rows the gap is."""


Rows = Mapping[str, tuple[Side, float | None]]
"""What is measured, and what the paper has."""


def of_recombination(sources: Sequence[Source]) -> Markdown:
    """Paper A: 0 % are networks trained apart and recombined, 100 % those that were never taken apart."""
    rows = {method: (_accuracy(method), _printed(*FIG2, method)) for method in ("IIW", "RP", "DCC", "IIW+RP+DCC")}
    rows |= {method: (_accuracy(method), None) for method in ("IIW+RP", "IIW+DCC", "RP+DCC")}
    start, end = _accuracy("independent"), _accuracy("upper bound", "not recombined/mean")
    return _table("method", rows, start, end, _groups("fig2", sources))


def of_others(records: Records) -> Markdown:
    """Methods that others would use, on the scale of paper A's methods."""
    methods = ("IIW", "RP", "DCC", "alignment", "simplex", "relative")
    start, end = _accuracy("independent", of="others"), _accuracy("upper bound", "not recombined/mean", "others")
    rows = {method: (_accuracy(method, of="others"), None) for method in methods}
    return _table("method", rows, start, end, list(by_images(records).values()))


SEARCHES = {
    "FCT: new model, carried gallery": ("FCT", "new/h", "new/h"),
    "FCT without side-information": (BARE, "new/h", f"new/h {WITHOUT}"),
    "FCT: carried gallery in itself": ("FCT", "h/h", "h/h"),
    "BCT: new model, old gallery": ("BCT", "BCT/old", "BCT new/old"),
    "BCT, synthesised: new model, old gallery": ("BCT, synthesised", "BCT/old", ""),
    "BCT: new model, new gallery": ("BCT", "BCT/BCT", "BCT new/new"),
}
"""Row and case of our runs, and the paper's row."""


def of_update(sources: Sequence[Source]) -> Markdown:
    """Paper B: 0 % is the old model in its own gallery, 100 % the new model in a gallery that is embedded anew."""
    rows = {
        name: (_found(row, case), _printed(*TABLE1, printed) if printed else None)
        for name, (row, case, printed) in SEARCHES.items()
    }
    start, end = _found("FCT", "old/old"), _found("FCT", "new/new")
    return _table("search", rows, start, end, _groups("table1", sources))


def _groups(experiment: str, sources: Sequence[Source]) -> list[Records]:
    return [group for source in sources for group in by_images(source.records.get(experiment, ())).values()]


def _table(first: str, rows: Rows, start: Side, end: Side, groups: Sequence[Records]) -> Markdown:
    """A line for each row; without a column for the paper where it has nothing."""
    printed = any(published is not None for _, published in rows.values())
    body = [
        [
            name,
            *([tables.number(published, digits=0)] * printed),
            *(_share(side, end, start, group) for group in groups),
        ]
        for name, (side, published) in rows.items()
    ]
    return tables.table([first, *(["paper, %"] * printed), *map(images_in_words, groups)], body)


def _share(side: Side, end: Side, start: Side, group: Records) -> str:
    found = share((side, end, start), {start.experiment: group})
    return tables.span(found and found.scaled(100).interval(), digits=0)


def _accuracy(method: str, metric: str = "recombination/mean", of: str = "fig2") -> Side:
    return Side(of, method, metric, ())


def _found(row: str, case: str) -> Side:
    return Side("table1", row, f"CMC top-1: {case}", ())


def _printed(paper: str, item: str, column: str, metric: str, start: str, end: str, one: str) -> float:
    """The share, in %, that the paper's own numbers for three rows give."""
    value, first, last = (paper_value(paper, item, row, column, metric) for row in (one, start, end))
    return 100 * (value - first) / (last - first)
