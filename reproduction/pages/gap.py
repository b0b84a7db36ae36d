"""Shares of the gap that are closed: the one scale on which both papers, and images of every kind, stand side by
side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import HTML

from compatkit.intervals import Interval

from ..records.claims import Side, by_images, images_in_words
from ..records.verdicts import Source
from ..show.dots import Panels, dots
from . import gygli
from .ramanujan import BARE, WITHOUT, published
from .sections import percent_of_gap

METHODS = ("IIW", "RP", "DCC", "IIW+RP", "IIW+DCC", "RP+DCC", "IIW+RP+DCC")

_ENDS = "The share of the gap that is closed, with 95 % intervals. Open diamond: the paper; arrow: beyond the axis."
APART = f"{_ENDS} 0 % are networks trained apart, 100 % networks never taken apart."
UPDATED = (
    f"{_ENDS} 0 % is the old model in its own gallery, 100 % the new model in one that is embedded anew, by CMC top-1. "
    "new/h searches the carried gallery with the new model, h/h with carried queries, bare without side-information. "
    "BCT searches the old gallery as it is, also with classes that were synthesised."
)


def shares(sources: Sequence[Source]) -> list[tuple[str, Mapping[str, Interval | None]]]:
    """The share that each method of paper A closes, by sets of images."""
    return [one for source in sources for one in gygli.shares(source.records.get("fig2", ())).items()]


def of_recombination(sources: Sequence[Source]) -> HTML:
    """Paper A: 0 % are networks trained apart and recombined, 100 % those that were never taken apart."""
    panels = {images: {method: found.get(method) for method in METHODS} for images, found in shares(sources)}
    return _figure(panels, gygli.printed_shares(), APART)


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
    start, end = _found("FCT", "old/old"), _found("FCT", "new/new")
    groups = [group for s in sources for group in by_images(s.records.get("table1", ())).values()]
    panels = {
        images_in_words(group): {
            name: percent_of_gap((_found(row, case), end, start), {"table1": group})
            for name, (row, case, _) in SEARCHES.items()
        }
        for group in groups
    }
    printed = published("table1")
    first, last = printed["old/old"], printed["new/new"]
    paper = {name: 100 * (printed[row] - first) / (last - first) for name, (_, _, row) in SEARCHES.items() if row}
    return _figure(panels, paper, UPDATED)


def _found(row: str, case: str) -> Side:
    return Side("table1", row, f"CMC top-1: {case}", ())


def _figure(panels: Panels, paper: Mapping[str, float], caption: str) -> HTML:
    return dots(panels, caption, unit="% of the gap", ends=(0, 100), digits=0, paper=paper)
