"""Shares of the gap that are closed: the one scale on which both papers, and images of every kind, stand side by
side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import HTML

from compatkit.intervals import Interval

from ..records.claims import Records, Side, by_images, images_in_words
from ..records.published import paper_value
from ..records.verdicts import Source, share
from ..show.dots import dots
from .ramanujan import BARE, WITHOUT

FIG2 = ("gygli", "fig2", "mean", "recombination accuracy", "independent", "upper bound")
TABLE1 = ("ramanujan", "table1", "ImageNet-1k", "CMC top-1", "old/old", "new/new")
"""Where the papers print what is set against ours, and between which rows the gap is."""


_ENDS = "The share of the gap that is closed, with 95 % intervals. Open diamond: the paper; arrow: beyond the axis."
APART = f"{_ENDS} 0 % are networks trained apart, 100 % networks never taken apart."
UPDATED = (
    f"{_ENDS} 0 % is the old model in its own gallery, 100 % the new model in one that is embedded anew, by CMC top-1. "
    "new/h searches the carried gallery with the new model, h/h with carried queries, bare without side-information. "
    "BCT searches the old gallery as it is, also with classes that were synthesised."
)

Rows = Mapping[str, tuple[Side, float | None]]
"""What is measured, and what the paper has."""


def of_recombination(sources: Sequence[Source]) -> HTML:
    """Paper A: 0 % are networks trained apart and recombined, 100 % those that were never taken apart."""
    rows = {method: (_accuracy(method), _printed(*FIG2, method)) for method in ("IIW", "RP", "DCC")}
    rows |= {method: (_accuracy(method), None) for method in ("IIW+RP", "IIW+DCC", "RP+DCC")}
    rows["IIW+RP+DCC"] = _accuracy("IIW+RP+DCC"), _printed(*FIG2, "IIW+RP+DCC")
    start, end = _accuracy("independent"), _accuracy("upper bound", "not recombined/mean")
    return _figure(rows, start, end, _groups("fig2", sources), APART)


SEARCHES = {
    "new/h": ("FCT", "new/h", "new/h"),
    "new/h bare": (BARE, "new/h", f"new/h {WITHOUT}"),
    "h/h": ("FCT", "h/h", "h/h"),
    "BCT new/old": ("BCT", "BCT/old", "BCT new/old"),
    "BCT synth./old": ("BCT, synthesised", "BCT/old", ""),
    "BCT new/new": ("BCT", "BCT/BCT", "BCT new/new"),
}
"""Row and case of our runs, and the paper's row."""


def of_update(sources: Sequence[Source]) -> HTML:
    """Paper B: 0 % is the old model in its own gallery, 100 % the new model in a gallery that is embedded anew."""
    rows = {
        name: (_found(row, case), _printed(*TABLE1, printed) if printed else None)
        for name, (row, case, printed) in SEARCHES.items()
    }
    start, end = _found("FCT", "old/old"), _found("FCT", "new/new")
    return _figure(rows, start, end, _groups("table1", sources), UPDATED)


def _groups(experiment: str, sources: Sequence[Source]) -> list[Records]:
    return [group for source in sources for group in by_images(source.records.get(experiment, ())).values()]


def _figure(rows: Rows, start: Side, end: Side, groups: Sequence[Records], caption: str) -> HTML:
    """A panel for each set of images, with the share of each row, and the paper's."""
    panels = {
        images_in_words(group): {name: of_gap(side, end, start, group) for name, (side, _) in rows.items()}
        for group in groups
    }
    printed = {name: published for name, (_, published) in rows.items()}
    return dots(panels, caption, unit="% of the gap", ends=(0, 100), digits=0, paper=printed)


def shares(sources: Sequence[Source], method: str) -> list[tuple[str, Interval | None]]:
    """The share that a method of paper A closes on each set of images, by its name."""
    start, end = _accuracy("independent"), _accuracy("upper bound", "not recombined/mean")
    groups = _groups("fig2", sources)
    return [(images_in_words(group), of_gap(_accuracy(method), end, start, group)) for group in groups]


def of_gap(side: Side, end: Side, start: Side, group: Records) -> Interval | None:
    """The share of the gap in %, of records on one set of images; None where there are none."""
    found = share((side, end, start), {start.experiment: group})
    return found and found.scaled(100).interval()


def _accuracy(method: str, metric: str = "recombination/mean") -> Side:
    return Side("fig2", method, metric, ())


def _found(row: str, case: str) -> Side:
    return Side("table1", row, f"CMC top-1: {case}", ())


def _printed(paper: str, item: str, column: str, metric: str, start: str, end: str, one: str) -> float:
    """The share, in %, that the paper's own numbers for three rows give."""
    value, first, last = (paper_value(paper, item, row, column, metric) for row in (one, start, end))
    return 100 * (value - first) / (last - first)
