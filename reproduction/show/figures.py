"""Plotly figures from records. Nothing here trains or needs torch; numbers come from records and paper.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import plotly.graph_objects as go

from compatkit.intervals import Interval, interval

OURS, PAPER, REFERENCE = "#1b6ca8", "#c8553d", "#7a7a7a"  # told apart in grey and with colour-blind eyes, on white
# Okabe and Ito's colours, which colour-blind eyes tell apart, less the yellow; later rounds are dashed.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#7a5c00", "#333333")
DASHES, SYMBOLS = ("solid", "dash", "dot"), ("circle", "diamond-open", "square-open")
MARKS = ("circle", "diamond", "square")
INK, SHADES = "#111820", [[0, "#ffffff"], [1, "#74aede"]]  # numbers stay readable on the darkest shade


def bars(
    scores: Mapping[str, Mapping[int, float]],
    *,
    published: Mapping[str, float | None] | None = None,
    chance: float | None = None,
    levels: Mapping[str, float] | None = None,
    x_title: str = "accuracy, %",
    title: str = "",
) -> go.Figure:
    """A horizontal bar for each row: mean accuracy (in %) over seeds, its 95 % interval, and each seed.

    scores: accuracy in 0..1 by row and seed. published: the paper's value (in %) by row, drawn as diamonds.
    chance: accuracy of guessing, in 0..1, drawn as a line; levels: others, by name. Bars stand in the order of
    ``scores``.
    """
    methods = list(scores)
    spans = {method: interval(scores[method].values()) for method in methods}
    figure = go.Figure(
        go.Bar(
            y=methods,
            x=[100 * spans[m].mean for m in methods],
            orientation="h",
            marker={"color": OURS, "opacity": 0.75},
            error_x=_error_bars([spans[m] for m in methods]),
            hovertext=[spans[m].format(percent=True) for m in methods],
            hoverinfo="text",
            name="ours, mean and 95 % interval" if any(span.n > 1 for span in spans.values()) else "ours, one run",
        )
    )
    points = [(100 * value, method, seed) for method in methods for seed, value in scores[method].items()]
    figure.add_scatter(
        x=[x for x, _, _ in points],
        y=[method for _, method, _ in points],
        mode="markers",
        marker={"color": "#0b2f4a", "size": 5, "symbol": "line-ns-open"},
        hovertext=[f"{method}, seed {seed}: {x:.1f} %" for x, method, seed in points],
        hoverinfo="text",
        name="each seed",
    )
    known = {m: v for m, v in (published or {}).items() if v is not None and m in scores}
    if known:
        figure.add_scatter(
            x=list(known.values()),
            y=list(known),
            mode="markers",
            marker={"color": PAPER, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
            hovertext=[f"paper: {v:.1f} %" for v in known.values()],
            hoverinfo="text",
            name="paper (CIFAR-10, STL-10)",
        )
    lines = {**({} if chance is None else {"chance": chance}), **(levels or {})}
    for name, level in lines.items():
        # away from each other, where two stand close
        side = "right" if level < max(lines.values()) else "left"
        style = {"color": REFERENCE, "dash": "dot"}
        figure.add_vline(x=100 * level, line=style, annotation={"text": name, "xanchor": side})
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis={"range": [0, 104], "title": {"text": x_title}, "gridcolor": "#e5e5e5"},
        yaxis={"autorange": "reversed", "automargin": True},
        height=430,
        bargap=0.35,
    )
    return figure


def recombination_matrix(records: Sequence[Mapping], measure: str = "recombination", title: str = "") -> go.Figure:
    """Extractor x head: mean accuracy (in %, with its 95 % interval) of one method's four networks, old and recombined.

    records: the seeds of one method on one pair of sets. Each row is evaluated on the test set of its extractor.
    """
    names = [records[0]["config"][key] for key in ("a", "b")]
    spans = [
        [
            interval([r["metrics"][f"{'not recombined' if i == j else measure}/{role}"] for r in records])
            for j in range(2)
        ]
        for i, role in enumerate("ab")
    ]
    return matrix(spans, *([f"{part} of<br>{name}" for name in names] for part in ("extractor", "head")), title=title)


def matrix(
    spans: Sequence[Sequence[Interval]], rows: Sequence[str], columns: Sequence[str], *, title: str = ""
) -> go.Figure:
    """Accuracies (in 0..1, written in % with their 95 % intervals and n) of every row with every column; first row on
    top."""
    figure = go.Figure(
        go.Heatmap(
            z=[[100 * s.mean for s in row] for row in spans],
            x=list(columns),
            y=list(rows),
            text=[[_lines(s) for s in row] for row in spans],
            texttemplate="%{text}",
            textfont={"size": 15, "color": INK},
            hoverinfo="skip",
            colorscale=SHADES,
            zmin=0,
            zmax=100,
            showscale=False,
            xgap=4,
            ygap=4,
        )
    )
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis={"side": "top"},
        yaxis={"autorange": "reversed", "automargin": True},
        margin={"t": 60, "b": 10},
        height=100 + 90 * len(rows),
    )
    return figure


def _lines(span: Interval) -> str:
    if span.n < 2:
        return f"{span.mean:.1%}<br>n = {span.n}"
    return f"{span.mean:.1%}<br>± {span.half_width:.1%}<br>n = {span.n}"


def loss_curves(history: Sequence[Mapping], names: Sequence[str]) -> go.Figure:
    """The loss terms of ``training.train``'s history against steps, a colour for each network, a dash for each term."""
    figure = go.Figure()
    rows_of = [[row for row in history if row.get("task") == task] for task in range(len(names))]
    terms = dict.fromkeys(
        term for rows in rows_of for term in (rows[0] if rows else {}) if term not in ("step", "task")
    )
    dashes = dict(zip(terms, cycle(("solid", "dash", "dot", "dashdot", "longdash")), strict=False))
    for task, (name, rows) in enumerate(zip(names, rows_of, strict=True)):
        colour = (OURS, PAPER, *PALETTE)[task % (2 + len(PALETTE))]
        for term, dash in dashes.items():
            if rows and term in rows[0]:
                figure.add_scatter(
                    x=[row["step"] for row in rows],
                    y=[row[term] for row in rows],
                    line={"color": colour, "dash": dash},
                    name=f"{name}: {term}",
                )
    figure.update_layout(
        xaxis={"title": {"text": "step"}},
        yaxis={"title": {"text": "loss"}, "type": "log"},
        height=340,
    )
    return figure


def _error_bars(spans: Sequence[Interval]) -> dict:
    # one seed has no interval, and no bar
    widths = [100 * span.half_width if span.n > 1 else 0 for span in spans]
    return {"type": "data", "array": widths, "color": "#0b2f4a", "thickness": 1.5, "width": 4}


def curves(
    lines: Mapping[str, Mapping[str, Mapping[int, float]]],
    x_title: str,
    *,
    published: Mapping[str, Mapping[str, float]] | None = None,
    chance: float | None = None,
    level: tuple[str, Interval] | None = None,
    y_title: str = "recombination accuracy, %",
) -> go.Figure:
    """A line for each name: mean accuracy (in %) at each place of an ordered axis, with its 95 % interval over seeds.

    lines: accuracy in 0..1 by line, place and seed. published: what the paper prints (in %) by name and place.
    chance: see ``bars``. level: a name and an accuracy that does not depend on the place, drawn across with its
    interval as a band.
    """
    figure = go.Figure()
    if level is not None:
        name, span = level
        if span.n > 1:
            figure.add_hrect(
                y0=100 * span.low, y1=100 * span.high, fillcolor=REFERENCE, opacity=0.15, line={"width": 0}
            )
        figure.add_hline(
            y=100 * span.mean, line={"color": REFERENCE, "dash": "dash"}, annotation={"text": name, "xanchor": "right"}
        )
    for number, (name, places) in enumerate(lines.items()):
        spans = [interval(seeds.values()) for seeds in places.values()]
        colour = PALETTE[number % len(PALETTE)]
        figure.add_scatter(
            x=list(places),
            y=[100 * span.mean for span in spans],
            error_y=_error_bars(spans) | {"color": colour, "thickness": 1},
            mode="lines+markers",
            line={"color": colour, "dash": DASHES[number // len(PALETTE) % len(DASHES)]},
            hovertext=[
                f"{name}, {place}: {span.format(percent=True)}" for place, span in zip(places, spans, strict=True)
            ],
            hoverinfo="text",
            name=name,
        )
    for number, (name, places) in enumerate((published or {}).items()):
        figure.add_scatter(
            x=list(places),
            y=list(places.values()),
            mode="lines+markers",
            line={"color": PAPER, "width": 1, "dash": "dot"},
            marker={"symbol": SYMBOLS[1 + number % 2], "size": 9},
            hovertext=[f"{name}: {value:.1f} %" for value in places.values()],
            hoverinfo="text",
            name=name,
        )
    if chance is not None:
        figure.add_hline(y=100 * chance, line={"color": REFERENCE, "dash": "dot"}, annotation={"text": "chance"})
    figure.update_layout(
        xaxis={"title": {"text": x_title}, "type": "category"},
        yaxis={"title": {"text": y_title}, "range": [0, 104]},
        height=460,
    )
    return figure


def heat_map(
    values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], titles: tuple[str, str]
) -> go.Figure:
    """A matrix of similarities in 0..1, written into its fields; first row at the bottom, as layers are counted.

    titles: what the rows are, and the columns.
    """
    figure = go.Figure(
        go.Heatmap(
            z=[[round(v, 3) for v in row] for row in values],
            x=list(columns),
            y=list(rows),
            texttemplate="%{z:.2f}",
            textfont={"color": INK},
            hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
            colorscale=SHADES,
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    rows_title, columns_title = ({"text": text, "standoff": 12} for text in titles)  # clear of the labels
    figure.update_layout(yaxis={"title": rows_title}, xaxis={"title": columns_title}, height=450)
    return figure


def ranked(lines: Mapping[str, Sequence[float]], published: Mapping[str, float] | None = None) -> go.Figure:
    """Correlations of channels, largest first, a line for each name; the mean of each stands in the legend.

    published: means that the paper prints, by name, drawn across.
    """
    figure = go.Figure()
    if not lines:
        figure.add_annotation(text="not run", showarrow=False, font={"size": 18}, xref="paper", yref="paper")
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    for number, (name, values) in enumerate(lines.items()):
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=[round(v, 3) for v in values],
            mode="lines",
            fill="tozeroy",
            line={"color": PALETTE[number % len(PALETTE)], "shape": "hvh"},
            name=f"{name}: mean {_plain(sum(values) / len(values))}",
        )
    for name, mean in (published or {}).items():
        figure.add_hline(
            y=mean,
            line={"color": PAPER, "dash": "dot"},
            annotation={"text": f"{name}: mean {mean:.2f}", "font": {"color": PAPER}},
        )
    figure.update_layout(
        xaxis={"title": {"text": "channel, by correlation"}},
        yaxis={"title": {"text": "correlation"}, "range": [-1, 1.05]},
        height=380,
    )
    return figure


def _plain(value: float) -> str:
    """Two digits after the point, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


class Point(NamedTuple):
    """What ``scatter`` shows: x and y in 0..1, what the point is, and whether its mark is hollow."""

    x: float
    y: float
    text: str
    hollow: bool = False


def scatter(points: Mapping[str, Sequence[Point]], x_title: str, y_title: str, title: str = "") -> go.Figure:
    """Points by group; y is shown in %."""
    figure = go.Figure()
    for number, (name, group) in enumerate(points.items()):
        figure.add_scatter(
            x=[round(point.x, 3) for point in group],
            y=[round(100 * point.y, 1) for point in group],
            mode="markers",
            marker={
                "color": PALETTE[number % len(PALETTE)],
                "symbol": [MARKS[number // len(PALETTE)] + "-open" * point.hollow for point in group],
                "size": 7,
                "opacity": 0.75,
            },
            hovertext=[f"{point.text}: {point.x:.2f}, {point.y:.1%}" for point in group],
            hoverinfo="text",
            name=name,
        )
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis={"title": {"text": x_title}},
        yaxis={"title": {"text": y_title}, "range": [0, 104]},
        height=480,
    )
    return figure


def costs(points: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str) -> go.Figure:
    """Accuracy (in 0..1, shown in %, with its 95 % interval) against a cost on a logarithmic axis, a mark for each
    strategy; what costs nothing stands at the left edge, a tenth of the least cost."""
    least = min(x for pairs in points.values() for x, _ in pairs if x > 0)
    figure = go.Figure()
    for number, (name, pairs) in enumerate(points.items()):
        cost, span = interval([x for x, _ in pairs]).mean, interval([y for _, y in pairs])
        figure.add_scatter(
            x=[cost or least / 10],
            y=[100 * span.mean],
            error_y=_error_bars([span]),
            mode="markers",
            marker={"color": PALETTE[number % len(PALETTE)], "size": 11, "symbol": SYMBOLS[number // len(PALETTE)]},
            hovertext=[f"{name}: {cost:.3g}, {span.format(percent=True)}"],
            hoverinfo="text",
            name=f"{name}: {cost:.3g}",
        )
    figure.update_layout(
        xaxis={"title": {"text": f"{x_title} (left edge: 0)"}, "type": "log"},
        yaxis={"title": {"text": y_title}, "range": [0, 104]},
        height=440,
    )
    return figure


def montage(pictures) -> go.Figure:
    """A grid of pictures: uint8 (rows, columns, h, w, 3), as one image four times its size."""
    import base64
    import io

    from PIL import Image

    rows, columns, height, width, channels = pictures.shape
    pixels = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    figure = go.Figure(go.Image(source=source, hoverinfo="skip"))
    figure.update_layout(height=4 * height * rows // 2, margin={"t": 10, "b": 10, "l": 10, "r": 10})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
