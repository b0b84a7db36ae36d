"""Drawings say what they are given, to scale, and to who does not see them."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from reproduction.show import drawings

PICTURES = np.zeros((4, 3, 8, 8), np.uint8)
PICTURES[:, 0] = 200


def opened(figure):
    """The pictures of a figure."""
    found = re.findall(r"data:image/webp;base64,([^)]+)", figure.data)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_a_strip_marks_what_is_right_by_a_sign_and_in_words():
    figure = drawings.strips(
        {"old/old": drawings.found(PICTURES[0], PICTURES[1:], [True, False, True])}, "A <b>strip</b>."
    )
    assert re.findall(r"</i>([^<]*)</span>", figure.data) == ["query", "✓", "✕", "✓"]
    assert 'aria-label="old/old: query, right, wrong, right"' in figure.data
    assert "<figcaption>A <b>strip</b>.</figcaption>" in figure.data
    pictures = opened(figure)
    assert len(pictures) == 4 and all(picture.size == (8, 8) for picture in pictures)
    assert drawings.strips({"x": [drawings.Tile(PICTURES[0, :1], "right", "2/3")]}, "").data.count("2/3") == 1, (
        "of one channel"
    )


def test_a_sheet_has_its_pictures_in_rows():
    figure = drawings.sheets({"four": PICTURES.reshape(1, 4, 3, 8, 8)}, "", "red")
    assert [picture.size for picture in opened(figure)] == [(32, 8)] and 'aria-label="four: red"' in figure.data


def test_bars_are_to_scale():
    figure = drawings.bars({"MACs": {"back-filling": (4.0, "4"), "h": (0.01, "0.01")}}, "")
    assert re.findall(r"width:([\d.]+)%", figure.data.split("</style>")[1]) == ["100.000", "0.250"]


@pytest.mark.parametrize("name", ["carry", "searches", "three_ways", "transformation", "updates"])
def test_a_diagram_is_told_to_who_does_not_see_it(name):
    assert re.search(r'role="img" aria-label="[^"]{40,}"', drawings.diagram(name, "").data)


def test_a_diagram_takes_values():
    assert "Two hops: 42 %" in drawings.diagram("hops", "", hops="42 %", direct="76 %").data
