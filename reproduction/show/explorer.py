"""Figures and pickers that work in the printed page and in a live notebook alike.

A reader of the rendered book has no kernel, and perhaps no network. So a picker is not a callback: every picture is
drawn once, when the cell runs, and put into nested ``Stack`` widgets; ``jslink`` ties a control to the stack it turns.
The widget state in the page is then all that is needed, and the same widgets work live.

    from reproduction.show.explorer import picker, show

    show(figure, alt="Accuracy falls from 86 % to 10 % as the split moves up.")
    picker({"method": methods, "split layer": layers}, draw=figure_of, alt=sentence_of, ordered={"split layer"})

Never imports torch: a page of results must open quickly on a small machine.
"""

from __future__ import annotations

import ast
import html
import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.display import Markdown, display
from plotly.offline import get_plotlyjs_version

__all__ = ["Figure", "picker", "show", "source"]

PLOTLY_MIME = "application/vnd.plotly.v1+json"

# The book finds the pages that need plotly.js by this class, and the style sheet finds the figures.
FIGURE_CLASS = "compatkit-figure"

# Hashes of the content collide when one figure is shown twice, random ids change at every run: count.
_div_ids = (f"plotly-{number}" for number in itertools.count(1))

_DEFAULT_HEIGHT = 400
_FULL_WIDTH = {"width": "100%", "overflow": "hidden"}
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

# The default dragmode captures touches, so that a finger on a figure cannot scroll the page: it is switched off below,
# and the buttons that make no sense without it go.
_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
}

# Drawing waits until the div is in the page (a widget runs the script before it is attached, when the figure has no
# width yet) and until plotly.js, which the book defers, is loaded. Outside the book (a front end that has no plotly
# renderer) nobody brings plotly.js, and it is fetched. The observer sees what a window's resize event does not: a
# sidebar that closes, a tab that opens.
_HTML = """\
<div id="{div_id}" class="{css_class}" role="img" aria-label="{alt}" style="height:{height}px"></div>
<script>
(() => {{
  const plot = () => {{
    const div = document.getElementById("{div_id}");
    if (!div) return;
    Plotly.newPlot(div, {data}, {layout}, {config});
    new ResizeObserver(() => div.isConnected && div.clientWidth && Plotly.Plots.resize(div)).observe(div);
  }};
  const start = () => {{
    if (window.Plotly) return plot();
    const script = document.createElement("script");
    script.src = "https://cdn.plot.ly/plotly-{version}.min.js";
    script.onload = plot;
    document.head.append(script);
  }};
  if (document.readyState === "complete") requestAnimationFrame(start);
  else addEventListener("load", start);
}})();
</script>"""


class Figure:
    """A plotly figure together with the sentence that stands for it where it cannot be seen.

    Ends a cell, goes through ``display`` and through ``glue`` (which a bare plotly figure does not). As wide as its
    column, whatever ``width`` says; ``height`` is kept.

    Args:
        figure: The plotly figure. It is copied: the caller's stays as it is.
        alt: What the figure shows, in a sentence; read out by screen readers, and the figure's plain-text form.
    """

    def __init__(self, figure: go.Figure, alt: str) -> None:
        if not isinstance(alt, str) or not alt.strip():
            raise ValueError(f"alt must be a sentence that says what the figure shows, got {alt!r}")
        self.figure = _calm(figure)
        self.alt = " ".join(alt.split())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        spec = json.loads(self.figure.to_json())
        return {
            PLOTLY_MIME: {"data": spec["data"], "layout": spec["layout"], "config": _CONFIG},
            "text/html": _as_html(spec, self.alt),
            "text/plain": self.alt,
        }


def show(figure: go.Figure, alt: str) -> None:
    """Display a plotly figure, at any place of a cell. ``alt`` says in a sentence what it shows."""
    display(Figure(figure, alt))


def source(function: Callable[..., Any]) -> Markdown:
    """The code of a function as it stands in the library, without its docstring: the chapter says what it does."""
    code = textwrap.dedent(inspect.getsource(function))
    [definition] = ast.parse(code).body
    lines = code.splitlines()
    if ast.get_docstring(definition) is not None:
        documented = definition.body[0]
        del lines[documented.lineno - 1 : documented.end_lineno]
    return Markdown("```python\n" + "\n".join(lines) + "\n```")


class _Picker(widgets.VBox):
    """An ordinary box of widgets whose plain-text form is a sentence."""

    def __init__(self, children: Sequence[widgets.Widget], alt: str) -> None:
        super().__init__(children)
        self._alt = alt
        self.add_class("compatkit-picker")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs)
        return {**bundle, "text/plain": self._alt}


def picker(
    controls: Mapping[str, Sequence[str]],
    draw: Callable[..., go.Figure],
    alt: Callable[..., str],
    *,
    ordered: Collection[str] = (),
    start: Mapping[str, str] | None = None,
) -> widgets.VBox:
    """One control per choice, and the figure that belongs to what is picked.

    Every combination is drawn now, so keep the figures small: 6 methods x 8 layers of a few hundred points are 0.2 MB.

    Args:
        controls: Label of each control and what can be picked, in order.
        draw: ``draw(*picked)`` gives the figure, one argument per control in the order of ``controls``.
        alt: ``alt(*picked)`` says in a sentence what that figure shows.
        ordered: Labels of the controls whose options have an order (layers, widths, steps): these become sliders.
        start: What is picked at first, by label; else the first option.

    Raises:
        ValueError: No controls, a control without options or with one twice, or an unknown label or option.
    """
    first = _check_controls(controls, ordered, start or {})
    selectors = [_selector(label, options, label in ordered, first[label]) for label, options in controls.items()]
    figures = _stack(selectors, lambda *picked: Figure(draw(*picked), alt(*picked)))
    bar = widgets.Box(selectors, layout={"flex_flow": "row wrap", "grid_gap": "0.4rem 1.5rem"})
    bar.add_class("compatkit-picker-controls")
    summary = "; ".join(f"{label}: {', '.join(options)}" for label, options in controls.items())
    return _Picker([bar, figures], alt=f"Pick {summary}. At first: {alt(*first.values())}")


def _check_controls(
    controls: Mapping[str, Sequence[str]], ordered: Collection[str], start: Mapping[str, str]
) -> dict[str, str]:
    """What is picked at first, by label, once all the arguments are known to be sound."""
    if not controls:
        raise ValueError("controls must name at least one control, got none")
    for label, options in controls.items():
        if isinstance(options, str) or not options or len(set(options)) != len(options):
            raise ValueError(f"controls[{label!r}] must be a sequence of different options, got {options!r}")
    for name, labels in (("ordered", set(ordered)), ("start", set(start))):
        if unknown := sorted(labels - set(controls)):
            raise ValueError(f"{name} names {unknown}, allowed are the controls {list(controls)}")
    for label, option in start.items():
        if option not in controls[label]:
            raise ValueError(f"start[{label!r}] is {option!r}, allowed are {list(controls[label])}")
    return {label: start.get(label, options[0]) for label, options in controls.items()}


def _selector(label: str, options: Sequence[str], ordered: bool, value: str) -> widgets.Widget:
    kind = widgets.SelectionSlider if ordered else widgets.Dropdown
    return kind(
        options=list(options),
        value=value,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "auto", "flex": "1 1 16rem" if ordered else "0 1 auto", "max_width": "100%"},
    )


def _stack(selectors: Sequence[widgets.Widget], figure_of: Callable[..., Figure], picked: tuple = ()) -> widgets.Widget:
    """Stacks within stacks, one level per control; the leaves are finished outputs."""
    if not selectors:
        return _leaf(figure_of(*picked))
    selector, *inner = selectors
    stack = widgets.Stack(
        [_stack(inner, figure_of, (*picked, option)) for option in selector.options],
        selected_index=selector.index,
        layout=_FULL_WIDTH,
    )
    widgets.jslink((selector, "index"), (stack, "selected_index"))
    return stack


def _leaf(figure: Figure) -> widgets.Output:
    # Filled directly: printing into the Output would also count as output of the cell.
    output = {"output_type": "display_data", "data": figure._repr_mimebundle_(), "metadata": {}}
    return widgets.Output(outputs=(output,), layout=_FULL_WIDTH)


def _calm(figure: go.Figure) -> go.Figure:
    """A copy in the book's look: fluid width, no heavy template, and only what the author left open is filled in."""
    figure = go.Figure(figure)
    # The default template alone is 7 KB a figure, which a picker would repeat at every leaf.
    figure.update_layout(template="none", width=None, autosize=True)
    layout = figure.layout
    titled = bool(layout.title.text)
    _fill(
        layout,
        height=_DEFAULT_HEIGHT,
        dragmode=False,
        font={"family": _FONT, "size": 13, "color": "#1f2933"},
        margin={"l": 56, "r": 16, "t": 52 if titled else 20, "b": 48},
        title={"x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"},
        hoverlabel={"font": {"family": _FONT}},
    )
    _fill(layout.title, pad={"t": 16}, font={"size": 16})
    if not layout.legend.to_plotly_json():
        # Measured from the top of the figure, the legend makes room for itself however many lines a phone breaks it
        # into; beside the plot it would leave none there, and below it would run into the axis title.
        layout.legend = {"orientation": "h", "x": 0, "yref": "container", "yanchor": "top"}
        layout.legend.y = 1 - (44 if titled else 8) / layout.height
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        _fill(axis, automargin=True, gridcolor="#e4e9ee", zerolinecolor="#b8c2cc", linecolor="#b8c2cc")
    return figure


def _fill(part: Any, **defaults: Any) -> None:
    """Set what is not set yet; within a group of settings (``font``), each on its own."""
    for name, value in defaults.items():
        if isinstance(value, dict):
            _fill(part[name], **value)
        elif part[name] is None:
            part[name] = value


def _as_html(spec: Mapping[str, Any], alt: str) -> str:
    return _HTML.format(
        div_id=next(_div_ids),
        css_class=FIGURE_CLASS,
        alt=html.escape(alt),
        height=spec["layout"]["height"],
        data=_in_script(spec["data"]),
        layout=_in_script(spec["layout"]),
        config=_in_script(_CONFIG),
        version=get_plotlyjs_version(),
    )


def _in_script(value: Any) -> str:
    """JSON that cannot close the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).replace("</", "<\\/")
