"""Explorers that work in the printed page and in a live notebook alike.

A reader of the rendered book has no kernel, and perhaps no network. So an explorer is a table of numbers and a script
(``explorer.js``) that draws what is picked: the script reads the numbers from the page, or, live, from the widget.

    from reproduction.show.explorer import Cell, View, explorer

    cells = [Cell({"data": "digits", "method": "RP"}, values=[0.61, 0.64]), ...]
    explorer(View("bars", cells, axis="method", x_title="accuracy on {data}, %"))

All intervals are computed here; the script computes none. Never imports torch: a page of results must open quickly.
"""

from __future__ import annotations

import ast
import html
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import Markdown
from plotly.offline import get_plotlyjs

from compatkit.intervals import interval

from .looks import in_order, look
from .programs import SITE

__all__ = ["Cell", "Explorer", "Level", "Note", "View", "curves", "explorer", "matrix", "source"]

# The book finds the pages that need the scripts, and the script and the style sheet their places, by this class.
EXPLORER_CLASS = "compatkit-explorer"

SCRIPT = "\n".join(
    path.read_text(encoding="utf-8") for path in (SITE / "elements.js", Path(__file__).with_name("explorer.js"))
)

KINDS = ("bars", "curves", "ranked", "matrix", "scatter", "costs")


# --- explorers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One number of a table: the mean of a few runs, where it stands, and what the paper has there.

    Args:
        at: The option of each dimension: ``{"data": "digits", "method": "RP"}``.
        values: One a run (``ranked``: one a channel), in 0..1 where the view is in percent; may be empty where only the
            paper has a number.
        paper: What the paper printed, in the unit that is shown.
        x: ``scatter``: the other number of each run; ``costs``: one number, the cost.
        names: ``scatter``: what each run is.
    """

    at: Mapping[str, str]
    values: Iterable[float]
    paper: float | None = None
    x: Sequence[float] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Level:
    """A line across the figure, where the choice is ``at``: chance, or what another model reaches. ``values`` as in a
    cell, their interval is a band; ``printed``: it is the paper's."""

    name: str
    values: Iterable[float]
    at: Mapping[str, str] = field(default_factory=dict)
    printed: bool = False


@dataclass(frozen=True)
class Note:
    """A line of text below the figure, where the choice is ``at``."""

    text: str
    at: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """A figure of one kind over a table of cells. Every dimension that is neither axis nor series gets a control.

    Args:
        kind: ``bars`` (axis: the rows), ``curves`` (a line for each option of the series over those of the axis),
            ``ranked`` (a line for each option of the series over the ranks of its values), ``matrix`` (rows: the
            series, columns: the axis), ``scatter`` (points of each option of the series) or ``costs`` (a mark for each
            option of the series, at its mean over its cost).
        cells: The numbers; all name the same dimensions.
        axis, series: Dimensions, see ``kind``. Rows of bars, lines, points and marks can be ticked.
        title, x_title: Of the vertical and the horizontal axis; ``{data}`` stands for what is picked.
        percent: Values in 0..1 are shown in %.
        levels, notes: What is drawn across, and said below.
        caption: What the figure shows, in a few words; else its titles say so. Data, n and intervals are added.
        counted: What n counts.
    """

    kind: str
    cells: Sequence[Cell]
    axis: str = ""
    series: str = ""
    title: str = ""
    x_title: str = ""
    percent: bool = True
    levels: Sequence[Level] = ()
    notes: Sequence[Note] = ()
    caption: str = ""
    counted: str = "runs"

    @property
    def dimensions(self) -> list[str]:
        """The names of the dimensions of the cells."""
        return list(self.cells[0].at)

    @property
    def fixed(self) -> list[str]:
        """The dimensions of which one option is shown."""
        return [name for name in self.dimensions if name not in (self.axis, self.series)]

    @property
    def ticked(self) -> str:
        """The dimension of which any options are shown."""
        return {"bars": self.axis, "matrix": ""}.get(self.kind, self.series)


def curves(
    cells: Sequence[Cell], series: str, axis: str, x_title: str, title: str = "accuracy, %", **more: Any
) -> View:
    """A view of lines: one for each option of the series, over the options of the axis."""
    return View("curves", cells, series=series, axis=axis, title=title, x_title=x_title, **more)


def matrix(cells: Sequence[Cell], rows: str, columns: str, **more: Any) -> View:
    """A view of fields, a row and a column for each option of two dimensions, which the axes are called after."""
    return View("matrix", cells, series=rows, axis=columns, title=rows, x_title=columns, **more)


class Explorer(anywidget.AnyWidget):
    """The views of a few tables and the controls that they need; all explorers of a page share what is picked.

    Live it is a widget, in the page the HTML that the page's script fills, and in plain text a sentence.
    """

    _esm = SCRIPT
    _css = Path(__file__).with_name("explorer.css")
    spec = traitlets.Unicode().tag(sync=True)

    def __init__(self, spec: Mapping[str, Any], alt: str) -> None:
        super().__init__(spec=_as_json(spec))
        self.alt = alt
        # a front end without plotly.js asks for it, and needs no network then
        self.on_msg(lambda *_: self.send({"plotly": get_plotlyjs()}))

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**options)
        script = f'<script type="application/json">{self.spec}</script>'  # the page's script turns it into figures
        return {
            **data,
            "text/html": f'<div class="{EXPLORER_CLASS}">{script}<p>{html.escape(self.alt)}</p></div>',
            "text/plain": self.alt,
        }, metadata


def explorer(
    *views: View,
    ordered: Mapping[str, Sequence[str]] | None = None,
    start: Mapping[str, str] | None = None,
) -> Explorer:
    """Views that change together, with the controls for all their dimensions.

    Options stand in the order in which cells name them, methods in the one that they have everywhere. An option that is
    on record for some choices only can be picked only there, one whose numbers are those of another is left out, and
    where there is nothing to choose there is no control.

    Args:
        views: At least one, from top to bottom.
        ordered: The options, in order, of the dimensions that get a slider.
        start: What is picked at first, by dimension, if it is on record; else the first option.

    Raises:
        ValueError: A view of an unknown kind, cells of different dimensions, an option that ``ordered`` lacks, an
            unknown dimension in a title.
    """
    ordered, start = ordered or {}, start or {}
    _check_views(views)
    tables = _without_repetitions(views)
    options = _options(tables, ordered)
    names, lists = list(options), _Lists()
    ticked = {view.ticked for view in views}
    spec = {
        "dimensions": [
            {
                "name": name,
                "options": known,
                "ordered": name in ordered,
                "start": known.index(start[name]) if start.get(name) in known else 0,
                "looks": [look(option, place) for place, option in enumerate(known)] if name in ticked else None,
            }
            for name, known in options.items()
        ],
        "views": [_view_spec(view, cells, options, names, lists) for view, cells in zip(views, tables, strict=True)],
        "lists": lists.found,
    }
    return Explorer(spec, _in_words(views[0], tables[0], options, start))


class _Lists:
    """Lists by their place, each held once: the accuracies of a scatter are the same for every kind of similarity."""

    def __init__(self) -> None:
        self.found: list[Sequence[Any]] = []
        self._places: dict[tuple, int] = {}

    def place(self, items: Sequence[Any]) -> int | None:
        if not items:
            return None
        key = tuple(items)
        if key not in self._places:
            self._places[key] = len(self.found)
            self.found.append(list(items))
        return self._places[key]


def _view_spec(
    view: View, cells: Sequence[Cell], options: Mapping[str, Sequence[str]], names: Sequence[str], lists: _Lists
) -> dict[str, Any]:
    scale, digits = (100, 2) if view.percent else (1, 3)

    def at(part: Level | Note) -> list[list[int]]:
        return [[names.index(name), options[name].index(option)] for name, option in part.at.items()]

    def rounded(value: float) -> float:
        return round(scale * value, digits)

    def row(cell: Cell) -> list[Any]:
        values, span = [rounded(v) for v in cell.values], _span(cell.values)
        mean, half = (None, None) if span is None else (rounded(span[0]), None if span[1] is None else rounded(span[1]))
        if view.kind == "ranked":
            half = None  # channels are not runs
        drawn = values if view.kind in ("bars", "ranked", "scatter") else []
        x = [float(f"{value:.3g}") for value in cell.x]
        parts = [[options[name].index(cell.at[name]) for name in view.dimensions], mean, half, len(values), cell.paper]
        parts += [lists.place(drawn), lists.place(x), lists.place(cell.names)]
        while parts[-1] is None:
            parts.pop()
        return parts

    def level(part: Level) -> dict[str, Any]:
        mean, half = _span(part.values)
        return {
            "name": part.name,
            "mean": rounded(mean),
            "half": rounded(half or 0),
            "at": at(part),
            "printed": part.printed,
        }

    return {
        "kind": view.kind,
        "dimensions": [names.index(name) for name in view.dimensions],
        "axis": names.index(view.axis) if view.axis else -1,
        "series": names.index(view.series) if view.series else -1,
        "title": view.title,
        "x_title": view.x_title,
        **({"caption": view.caption} if view.caption else {}),
        **({"counted": view.counted} if view.counted != "runs" else {}),
        "percent": view.percent,
        "cells": [row(cell) for cell in cells],
        "levels": [level(part) for part in view.levels if _known(part, options)],
        "notes": [{"text": part.text, "at": at(part)} for part in view.notes if _known(part, options)],
    }


def _span(values: Iterable[float]) -> tuple[float, float | None] | None:
    """Mean and half width of the 95 % interval; one run has none, and no runs have neither."""
    values = list(values)
    if not values:
        return None
    found = interval(values)
    return found.mean, found.half_width if found.n > 1 else None


def _known(part: Level | Note, options: Mapping[str, Sequence[str]]) -> bool:
    return all(option in options[name] for name, option in part.at.items())


def _check_views(views: Sequence[View]) -> None:
    for view in views:
        if view.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {view.kind!r}")
        for cell in view.cells:
            if list(cell.at) != view.dimensions:
                raise ValueError(f"cells must all name the dimensions {view.dimensions}, got {list(cell.at)}")
        for name in re.findall(r"\{(.+?)\}", view.title + view.x_title + view.caption):
            if name not in view.fixed:
                raise ValueError(f"a title can name the dimensions {view.fixed}, got {name!r}")


def _without_repetitions(views: Sequence[View]) -> list[list[Cell]]:
    """The cells of each view less those that nobody could tell from another choice: where, with all choices before it
    made, an option of a control has the numbers of an option before it in every view."""
    tables = [list(view.cells) for view in views]
    drawn = {name for view in views for name in (view.axis, view.series)}
    for name in dict.fromkeys(name for view in views for name in view.fixed if name not in drawn):
        seen: dict[tuple, dict[str, list]] = {}

        def context(view: View, cell: Cell, name: str = name) -> tuple:
            return tuple(cell.at[earlier] for earlier in view.fixed[: view.fixed.index(name)])

        with_it = [(number, view) for number, view in enumerate(views) if name in view.fixed]
        for number, view in with_it:
            for cell in tables[number]:
                rest = tuple(option for each, option in cell.at.items() if each != name)
                content = (number, rest, tuple(cell.values), cell.paper, tuple(cell.x), tuple(cell.names))
                seen.setdefault(context(view, cell), {}).setdefault(cell.at[name], []).append(content)
        repeated = set()
        for place, contents in seen.items():
            first: list[list] = []
            for option, content in contents.items():
                if content in first:
                    repeated.add((place, option))
                first.append(content)
        for number, view in with_it:
            tables[number] = [c for c in tables[number] if (context(view, c), c.at[name]) not in repeated]
    return tables


def _options(tables: Sequence[Sequence[Cell]], ordered: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The options of each dimension: in the order given, that of the methods, or that in which cells name them."""
    found: dict[str, list[str]] = {}
    for cell in (cell for cells in tables for cell in cells):
        for name, option in cell.at.items():
            known = found.setdefault(name, [])
            if option not in known:
                known.append(option)
            if option not in ordered.get(name, known):
                raise ValueError(f"ordered[{name!r}] lacks {option!r}, got {list(ordered[name])}")
    return {
        name: [option for option in ordered[name] if option in known] if name in ordered else in_order(known)
        for name, known in found.items()
    }


def _in_words(view: View, cells: Sequence[Cell], options: Mapping[str, Sequence[str]], start: Mapping[str, str]) -> str:
    """A sentence on what can be picked, and on what the first view shows at first."""
    picked: dict[str, str] = {}
    for name in view.fixed:
        there = [option for option in options[name] if any(cell.at[name] == option for cell in cells)]
        picked[name] = start.get(name, there[0]) if start.get(name, there[0]) in there else there[0]
        cells = [cell for cell in cells if cell.at[name] == picked[name]]
    unit = "{:.0%}" if view.percent else "{:.2f}"
    found = []
    for cell in cells:
        if (span := _span(cell.values)) is not None:
            where = ", ".join(cell.at[name] for name in dict.fromkeys((view.series, view.axis)) if name)
            found.append(f"{where} {unit.format(span[0])}")
    more = f" and {len(found) - 12} more" if len(found) > 12 else ""
    choices = "; ".join(f"{name}: {', '.join(known)}" for name, known in options.items() if len(known) > 1)
    title = (view.x_title if view.kind == "bars" else view.title) or view.kind
    for name, option in picked.items():
        title = title.replace("{" + name + "}", option)
    more_picked = [option for name, option in picked.items() if len(options[name]) > 1 and option not in title]
    at_first = ", ".join([title, *more_picked])
    shown = f"{at_first}: {', '.join(found[:12])}{more}."
    return f"Pick {choices}. At first: {shown}" if choices else shown


# --- code -------------------------------------------------------------------------------------------------------------


def source(function: Callable[..., Any]) -> Markdown:
    """The code of a function as it stands in the library, without its docstring: the chapter says what it does."""
    code = textwrap.dedent(inspect.getsource(function))
    [definition] = ast.parse(code).body
    lines = code.splitlines()
    if ast.get_docstring(definition) is not None:
        documented = definition.body[0]
        del lines[documented.lineno - 1 : documented.end_lineno]
    return Markdown("```python\n" + "\n".join(lines) + "\n```")


def _as_json(value: Any) -> str:
    """JSON that cannot close the script element it stands in, the same for the same value."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).replace("</", "<\\/")
