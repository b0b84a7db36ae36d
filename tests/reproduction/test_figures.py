"""Figures that are drawn once show their numbers and no others."""

import base64
import io
import re

import numpy as np
from PIL import Image

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


def test_tiles_are_the_images_side_by_side():
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 5), np.uint8)
    text = figures.tiles({"digits <i>a</i>": images, "same": images.repeat(3, 1)}, caption="Some.").data
    assert text.count("<figure") == 1 and "<figcaption>Some.</figcaption>" in text and 'alt="same"' in text
    for source in re.findall('base64,([^"]+)', text):
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
        assert strip.shape == (4, 17, 4)
        for place in range(3):
            assert (strip[:, 6 * place : 6 * place + 5, :3] == images[place, 0, :, :, None]).all()
        assert not strip[:, 5, 3].any(), "between them nothing is drawn"
