"""Forests: a strip for each line of a list, drawn as SVG, which needs no script; its colours are those of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from compatkit.intervals import Interval

WIDTH, STEP = 300, 13  # px: of a strip, and of each set of images in it
TICKS = (-50, -10, 0, 10, 50)

Scale = Callable[[float], float]
"""The place of a value between 0, the left end of a strip, and 1."""


@dataclass(frozen=True)
class Mark:
    """Our result on one set of images.

    Attributes:
        ours: mean and 95 % interval.
        photographs: a square, else a circle.
        stands: filled.
        verdict: gives the colour.
        half_90: half the width of the 90 % interval, by which a script judges anew at another margin.
    """

    ours: Interval
    photographs: bool = False
    stands: bool = False
    verdict: str = ""
    half_90: float = math.nan


def signed(value: float) -> float:
    """A scale for differences in points: linear up to about two, so that a margin is seen, and logarithmic beyond."""
    return 0.5 + math.asinh(value / 2) / (2 * math.asinh(60))


def strip(marks: Sequence[Mark], scale: Scale, margin: float = 0.0, paper: float | None = None) -> str:
    """Draw intervals one below the other, over the zone within a margin of 0, with the paper's number as a diamond."""
    height = STEP * max(len(marks), 1) + 4
    zone = f'<rect class="zone" data-margin="{margin:g}" {_span(scale, -margin, margin)} y="0" height="{height}"/>'
    zero = f'<path class="zero" d="M{_x(scale, 0)} 0V{height}"/>'
    drawn = "".join(_mark(mark, scale, 2 + STEP * (place + 0.5)) for place, mark in enumerate(marks))
    diamond = "" if paper is None else f'<path class="paper" d="M{_x(scale, paper)} {height / 2 - 5:g}l5 5-5 5-5-5z"/>'
    return _svg(height, zone * bool(margin) + zero + drawn + diamond)


def threads(marks: Sequence[Mark], words: str) -> str:
    """Draw the intervals of many claims as one picture, a thread for each."""
    lines = ""
    for y, mark in zip(range(4, 4 * len(marks) + 4, 4), marks, strict=True):
        low, mean, high = (_x(signed, value) for value in (mark.ours.low, mark.ours.mean, mark.ours.high))
        dot = f'<circle cx="{mean}" cy="{y}" r="1.6"/>'
        lines += f'<g data-verdict="{mark.verdict}"><path d="M{low} {y}H{high}"/>{dot}</g>'
    height = 4 * len(marks) + 6
    zero = f'<path class="zero" d="M{_x(signed, 0)} 0V{height}"/>'
    return f'<svg class="threads" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{words}">{zero}{lines}</svg>'


def axis(scale: Scale, ticks: Iterable[float] = TICKS) -> str:
    """The numbers of a scale, to stand above its strips."""
    said = (
        f'<text x="{_x(scale, tick)}" y="11">{f"{tick:+g}" if min(ticks) < 0 < abs(tick) else tick}</text>'
        for tick in ticks
    )
    return _svg(14, "".join(said))


def _svg(height: float, inside: str) -> str:
    return f'<svg class="strip" viewBox="0 0 {WIDTH} {height:g}" aria-hidden="true">{inside}</svg>'


def _x(scale: Scale, value: float) -> str:
    return f"{WIDTH * min(max(scale(value), 0.02), 0.98):.1f}"


def _span(scale: Scale, low: float, high: float) -> str:
    return f'x="{_x(scale, low)}" width="{float(_x(scale, high)) - float(_x(scale, low)):.1f}"'


def _mark(mark: Mark, scale: Scale, y: float) -> str:
    ours, x = mark.ours, float(_x(scale, mark.ours.mean))
    known = ours.n > 1
    line = f'<path d="M{_x(scale, ours.low)} {y:g}H{_x(scale, ours.high)}"/>' if known else ""
    if mark.photographs:
        shape = f'<rect x="{x - 4:.1f}" y="{y - 4:g}" width="8" height="8"/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:g}" r="4"/>'
    numbers = f"{ours.mean:.6g} {ours.half_width:.6g} {mark.half_90:.6g}" if known else ""
    stands = ' class="stands"' if mark.stands else ""
    return f'<g data-verdict="{mark.verdict}" data-ours="{numbers}"{stands}>{line}{shape}</g>'
