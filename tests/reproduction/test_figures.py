"""Figures show the records' numbers and no others."""

import pytest

from compatkit.intervals import interval
from reproduction.show import figures
from reproduction.show.figures import Point

SCORES = {"independent": {0: 0.1, 1: 0.2, 2: 0.12}, "DCC": {0: 0.7, 1: 0.8, 2: 0.9}}


def named(figure, name):
    return next(trace for trace in figure.data if (trace.name or "").startswith(name))


def test_bars_show_means_intervals_and_seeds():
    figure = figures.bars(SCORES, published={"DCC": 65.8, "independent": None, "RP": 50.1}, chance=1 / 9)
    ours = named(figure, "ours")
    for method, x, width in zip(ours.y, ours.x, ours.error_x.array, strict=True):
        span = interval(SCORES[method].values())
        assert x == pytest.approx(100 * span.mean) and width == pytest.approx(100 * span.half_width)
    assert sorted(named(figure, "each seed").x) == pytest.approx(
        sorted(100 * v for seeds in SCORES.values() for v in seeds.values())
    )
    paper = named(figure, "paper")
    assert (list(paper.x), list(paper.y)) == ([65.8], ["DCC"]), "published rows that we have, with a number"
    assert figure.layout.shapes[0].x0 == pytest.approx(100 / 9)


def test_one_seed_has_no_error_bar():
    assert list(named(figures.bars({"DCC": {0: 0.7}}), "ours").error_x.array) == [0]


def test_recombination_matrix_has_own_heads_on_the_diagonal():
    metrics = {"not recombined/a": 0.9, "not recombined/b": 0.8, "recombination/a": 0.5, "recombination/b": 0.4}
    figure = figures.recombination_matrix([{"config": {"a": "x", "b": "y"}, "metrics": metrics}])
    assert figure.data[0].z == ((90, 50), (40, 80)) or [list(row) for row in figure.data[0].z] == [[90, 50], [40, 80]]
    assert list(figure.data[0].y) == ["extractor of<br>x", "extractor of<br>y"]


def test_loss_curves_have_a_line_for_each_network_and_term():
    history = [
        {"step": step, "task": task, "target": 1.0, **({"rp": 2.0} if task else {})}
        for step in (0, 5)
        for task in (0, 1)
    ]
    figure = figures.loss_curves(history, ["x", "y"])
    assert [trace.name for trace in figure.data] == ["x: target", "y: target", "y: rp"]
    assert list(figure.data[2].x) == [0, 5] and list(figure.data[2].y) == [2.0, 2.0]
    probed = [*history, {"step": 5, "accuracy": 0.5}]
    assert [trace.name for trace in figures.loss_curves(probed, ["x"]).data] == ["x: target"]


def test_curves_have_a_point_with_its_interval_at_each_place():
    lines = {"DCC": {"stem": {0: 0.8, 1: 0.9}, "pool": {0: 0.2, 1: 0.4}}, "RP": {"stem": {0: 0.5}}}
    figure = figures.curves(lines, "split after", chance=0.1, level=("usual", interval([0.6, 0.7])))
    dcc = named(figure, "DCC")
    assert list(dcc.x) == ["stem", "pool"] and list(dcc.y) == pytest.approx([85, 30])
    assert list(dcc.error_y.array) == pytest.approx(
        [100 * interval(v.values()).half_width for v in lines["DCC"].values()]
    )
    assert list(named(figure, "RP").error_y.array) == [0]
    band, level, chance = figure.layout.shapes
    assert (level.y0, chance.y0) == pytest.approx((65, 10)) and band.y0 < 65 < band.y1
    printed = {"paper": {"stem": 61.8, "pool": 40.0}, "paper, at most": {"pool": 59.4}}
    published = figures.curves(lines, "split after", published=printed)
    assert {t.name: dict(zip(t.x, t.y, strict=True)) for t in published.data[2:]} == printed


def test_more_lines_than_colours_differ_in_their_dashes():
    lines = {str(n): {"stem": {0: 0.5}} for n in range(18)}
    looks = [(t.line.color, t.line.dash) for t in figures.curves(lines, "x").data]
    assert len(set(looks)) == 18
    points = {str(n): [Point(0.1, 0.2, "")] for n in range(18)}
    assert len({(t.marker.color, t.marker.symbol[0]) for t in figures.scatter(points, "x", "y").data}) == 18


def test_heat_map_scatter_and_ranks_show_their_numbers():
    heat = figures.heat_map([[0.1, 0.2], [0.3, 0.4]], ["a", "b"], ["c", "d"], ("rows", "columns")).data[0]
    assert [list(row) for row in heat.z] == [[0.1, 0.2], [0.3, 0.4]] and list(heat.y) == ["a", "b"]
    [dots] = figures.scatter({"DCC": [Point(0.25, 0.5, "one"), Point(0.5, 1.0, "two", hollow=True)]}, "x", "y").data
    assert list(dots.hovertext) == ["one: 0.25, 50.0%", "two: 0.50, 100.0%"]
    assert list(dots.marker.symbol) == ["circle", "circle-open"]
    assert list(dots.x) == [0.25, 0.5] and list(dots.y) == [50, 100]
    [line] = figures.ranked({"matched": [0.9, 0.5, 0.1]}).data
    assert line.name == "matched: mean 0.50" and list(line.x) == [1, 2, 3]
    with_paper = figures.ranked({"matched": [0.9]}, {"paper": 0.38})
    assert with_paper.layout.shapes[0].y0 == 0.38 and with_paper.layout.annotations[0].text == "paper: mean 0.38"
