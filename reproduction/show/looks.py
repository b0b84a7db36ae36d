"""One colour and one mark for each method, on every page and in both themes.

A method keeps its look wherever it is drawn: by hue the part that methods share (no shared head, RP, DCC, both; BCT, h,
closed forms), by a filled or an open mark the variant. All hues are told apart by colour-blind eyes together with their
marks, and have a contrast of 3 or more on the white page and on the dark one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["PALETTE", "Look", "in_order", "look"]

BLUE, ORANGE, GREEN, PINK, GREY, BROWN = "#2f86d1", "#d9650b", "#00a273", "#ad4a90", "#8b949d", "#8f6b00"
PALETTE = (BLUE, ORANGE, GREEN, PINK, BROWN, GREY)
MARKS, DASHES = ("circle", "square-open", "diamond", "triangle-up-open"), ("solid", "dash", "dot", "dashdot")


class Look(NamedTuple):
    """The look of a method: a colour, plotly's name of the mark, and the dash of its line."""

    colour: str
    mark: str
    dash: str = "solid"


# Filled: with identical initial weights (paper A), with what is stored beside the old embedding (paper B).
_METHODS = {
    "independent": Look(GREY, "circle-open", "dash"),
    "IIW": Look(GREY, "circle"),
    "RP": Look(BLUE, "square-open", "dash"),
    "IIW+RP": Look(BLUE, "square"),
    "DCC": Look(ORANGE, "diamond-open", "dash"),
    "IIW+DCC": Look(ORANGE, "diamond"),
    "RP+DCC": Look(GREEN, "triangle-up-open", "dash"),
    "IIW+RP+DCC": Look(GREEN, "triangle-up"),
    "alignment": Look(BROWN, "square-open", "dot"),
    "simplex": Look(ORANGE, "diamond-open", "dot"),
    "relative": Look(BLUE, "triangle-up-open", "dot"),
    "upper bound": Look(PINK, "triangle-down"),
    "re-initialised head": Look(BROWN, "triangle-down-open", "dash"),
}
_CASES = {
    "old/old": Look(GREY, "circle"),
    "new/old": Look(GREY, "circle-open", "dash"),
    "new/new": Look(PINK, "triangle-down"),
    "BCT new/old": Look(ORANGE, "cross-open", "dash"),
    "BCT new/new": Look(ORANGE, "cross"),
    "BCT, synthesised classes, new/old": Look(BROWN, "cross-open", "dash"),
    "BCT, synthesised classes, new/new": Look(BROWN, "cross"),
    "h/h": Look(BLUE, "circle"),
    "new/h": Look(BLUE, "square"),
    "new/h without side-information": Look(BLUE, "square-open", "dash"),
    "side/side": Look(BROWN, "triangle-up-open", "dash"),
    "new/Procrustes": Look(GREEN, "triangle-down-open", "dash"),
    "new/Procrustes with side-information": Look(GREEN, "triangle-down"),
    "new/ridge": Look(GREEN, "triangle-up-open", "dash"),
    "new/ridge with side-information": Look(GREEN, "triangle-up"),
}
_SIDE_INFORMATION = {
    "none": Look(GREY, "circle-open", "dash"),
    "autoencoder": Look(BROWN, "diamond-open"),
    "other old model": Look(GREEN, "triangle-up"),
    "old model with Mixup": Look(ORANGE, "diamond"),
    "SimCLR-500": Look(BLUE, "square"),
    "SimCLR-1k": Look(BLUE, "square-open"),
}
# A hue, since it is one method, and a shape for each width.
_WIDTHS = {
    f"h of width {2**n}{without}": Look(BLUE, ("circle", "square", "diamond", "triangle-up")[(n + 1) % 4] + mark)
    for n in range(3, 13)
    for without, mark in (("", ""), (" without side-information", "-open"))
}
_SAME = {
    "RP+IIW": "IIW+RP",
    "own RP heads": "upper bound",
    "old/old, nothing done": "old/old",
    "back-filling": "new/new",
    "SimCLR": "SimCLR-500",
    "BCT": "BCT new/old",
    "h": "new/h",
    "nothing": "none",
    "ridge on old and side": "new/ridge with side-information",
}
LOOKS = _METHODS | _CASES | _SIDE_INFORMATION | _WIDTHS


def look(name: str, place: int) -> Look:
    """The look of a method.

    Args:
        name: The method, case or kind of side-information.
        place: Its place among what is drawn beside it, from 0: chooses the look of names that have none of their own.
    """
    known = LOOKS.get(_SAME.get(name, name))
    turn, colour = divmod(place, len(PALETTE))
    return known or Look(PALETTE[colour], MARKS[turn % len(MARKS)], DASHES[turn % len(DASHES)])


def in_order(names: Sequence[str]) -> list[str]:
    """Methods in the order that they have everywhere; names of which one is unknown stay in their own."""
    if not all(_SAME.get(name, name) in LOOKS for name in names):
        return list(names)
    places = list(LOOKS)
    return sorted(names, key=lambda name: places.index(_SAME.get(name, name)))
