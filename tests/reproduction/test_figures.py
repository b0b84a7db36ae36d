"""Figures that are drawn once show their numbers and no others."""

from reproduction.show import figures


def test_loss_curves_have_a_line_for_each_network_and_term():
    history = [
        {"step": step, "task": task, "target": 1.0, **({"rp": 2.0} if task else {})}
        for step in (0, 5)
        for task in (0, 1)
    ]
    figure = figures.loss_curves(history, ["x", "y"])
    assert [trace.name for trace in figure.data] == ["x: target", "y: target", "y: rp"]
    assert list(figure.data[2].x) == [0, 5] and list(figure.data[2].y) == [2.0, 2.0]
    target, other, rp = (trace.line for trace in figure.data)
    assert target.color != other.color == rp.color and target.dash == other.dash != rp.dash
    probed = [*history, {"step": 5, "accuracy": 0.5}]
    assert [trace.name for trace in figures.loss_curves(probed, ["x"]).data] == ["x: target"]


def test_a_heat_map_has_its_first_row_at_the_bottom():
    figure = figures.heat_map([[0.1, 0.2], [0.3, 0.4]], ["a", "b"], ["c", "d"], ("rows", "columns"))
    [heat] = figure.data
    assert [list(row) for row in heat.z] == [[0.1, 0.2], [0.3, 0.4]] and list(heat.y) == ["a", "b"]
    assert figure.layout.yaxis.autorange is None, "plotly draws the first row at the bottom"
