"""Means with their intervals, drawn once and readable on a phone: where a table of numbers would hide which is more."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from IPython.display import HTML

from compatkit.intervals import Interval

from .looks import LOOKS, look
from .tables import span

_WIDTH, _LINE, _TOP = 340, 22, 26  # px of a panel, of a row, and above the first
_LONG = 20  # letters of a name; where one is longer, names stand above their lines
_PATHS = {
    "circle": "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1-5 0Z",
    "square": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0-6L6 0L0 6L-6 0Z",
    "cross": "M-2-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
    "triangle-up": "M0-6L5.5 4.5H-5.5Z",
    "triangle-down": "M0 6L5.5-4.5H-5.5Z",
    "below": "M-6 0L4-5.5V5.5Z",
    "above": "M6 0L-4-5.5V5.5Z",
}

Panels = Mapping[str, Mapping[str, Interval | None]]
"""What stands above a panel, and its rows."""


def dots(
    panels: Panels,
    caption: str,
    *,
    unit: str = "points",
    ends: tuple[float, float] | None = None,
    digits: int = 1,
    paper: Mapping[str | tuple[str, str], float | None] | None = None,
) -> HTML:
    """A figure of means with their 95 % intervals: a panel for each set of images, all on one scale, side by side where
    there is room. A row has the look of the method that its name begins with, and the number stands beside it.

    Args:
        panels: rows of each panel; those without a value are left out.
        caption: HTML.
        unit: of the values; "points" are differences, and have a sign.
        ends: of the axis; by default what the values take, with zero.
        digits: after the point.
        paper: what the paper printed, by row, or by panel and row where panels differ.
    """
    panels = {title: {n: one for n, one in rows.items() if one is not None} for title, rows in panels.items()}
    printed = {
        title: {name: (paper or {}).get((title, name), (paper or {}).get(name)) for name in rows}
        for title, rows in panels.items()
    }
    taken = [0.0] + [end for rows in panels.values() for one in rows.values() for end in _ends(one)]
    taken += [value for values in printed.values() for value in values.values() if value is not None]
    numbers = {
        title: {name: span(one, signed=unit == "points", digits=digits) for name, one in rows.items()}
        for title, rows in panels.items()
    }
    longest = max((len(name) for rows in panels.values() for name in rows), default=0)
    widest = max((len(number) for rows in numbers.values() for number in rows.values()), default=0)
    above = 18 if longest > _LONG else 0
    left = 16 if above else 16 + 7.1 * longest
    frame = _Frame(unit, above, left, _WIDTH - 16 - 7.2 * widest, *(ends or (min(taken), max(taken))))
    drawn = [_panel(title, rows, numbers[title], printed[title], frame) for title, rows in panels.items() if rows]
    style = "display:flex;flex-wrap:wrap;align-items:start;gap:0.5rem 1.5rem;margin:0"
    under = f'<figcaption style="flex:0 0 100%">{caption}</figcaption>'
    return HTML(f'<figure class="compatkit-picture" style="{style}">{"".join(drawn)}{under}</figure>')


@dataclass(frozen=True)
class _Frame:
    """What panels of a figure share: the unit, the px that a name takes ``above`` its line, and their axis, from
    ``low`` at ``left`` to ``high`` at ``right``."""

    unit: str
    above: int
    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1)
        return self.left + (self.right - self.left) * share


def _panel(
    title: str,
    rows: Mapping[str, Interval],
    numbers: Mapping[str, str],
    printed: Mapping[str, float | None],
    frame: _Frame,
) -> str:
    x, above, ticks = frame.x, frame.above, _ticks(frame.low, frame.high)
    bottom = _TOP + (_LINE + above) * len(rows)
    parts = [_text(0, 13, title, weight=600)]
    for tick in ticks:  # beside the rows, not through the names above them
        how = f'stroke-dasharray="{_LINE} {above}" opacity="{0.15 if tick else 0.7}"'
        parts.append(_line(x(tick), _TOP + above - 1, x(tick), bottom, how))
    for place, (name, one) in enumerate(rows.items()):
        y, begun = _TOP + 10 + above + (_LINE + above) * place, re.split(",? ", name)[0]
        colour, mark, _ = look(begun if begun in LOOKS and name not in LOOKS else name, 0)
        if one.n > 1:
            parts.append(_line(x(one.low), y, x(one.high), y, f'stroke-width="2" stroke="{colour}"'))
        mark = "below" if one.mean < frame.low else "above" if one.mean > frame.high else mark
        parts.append(_mark(x(one.mean), y, mark, colour))
        if (value := printed[name]) is not None:
            parts.append(_mark(x(value), y, "diamond-open", "currentColor"))
        parts += [_text(0, y + 4 - above, name), _text(_WIDTH, y + 4, numbers[name], "end")]
    parts.append(_line(frame.left, bottom, frame.right, bottom, 'opacity=".5"'))
    parts += [_text(x(tick), bottom + 15, f"{tick:g}", "middle", 11) for tick in ticks]
    parts.append(_text(_WIDTH, 13, frame.unit, "end", 11))
    said = ", ".join(f"{name} {number}" for name, number in numbers.items())
    alt, box = html.escape(f"{title}, {frame.unit}: {said}."), f"0 0 {_WIDTH} {bottom + 20}"
    style = f"flex:1 1 {_WIDTH - 20}px;max-width:{_WIDTH + 10}px;min-width:0;height:auto"
    return f'<svg role="img" aria-label="{alt}" viewBox="{box}" style="{style}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """At most four round numbers of an axis."""
    unit = 10 ** math.floor(math.log10((high - low) or 1))
    step = next(step for step in (unit / 5, unit / 2, unit, 2 * unit, 5 * unit) if (high - low) / step <= 3.5)
    return [round(k * step, 6) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _ends(one: Interval) -> tuple[float, ...]:
    return (one.low, one.high) if one.n > 1 else (one.mean,)


def _mark(x: float, y: float, mark: str, colour: str) -> str:
    """A mark by plotly's name for it, filled or open."""
    fill = "none" if mark.endswith("-open") else colour
    drawn = f'd="{_PATHS[mark.removesuffix("-open")]}" fill="{fill}" stroke="{colour}" stroke-width="2"'
    return f'<path transform="translate({x:.1f} {y:g})" {drawn}/>'


def _line(x0: float, y0: float, x1: float, y1: float, more: str) -> str:
    ink = "" if "stroke=" in more else 'stroke="currentColor" '
    return f'<path d="M{x0:.1f} {y0:g}L{x1:.1f} {y1:g}" {ink}{more}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13, weight: int = 400) -> str:
    how = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" {how}>{html.escape(text)}</text>'
