"""Figures of dots say in words what they draw, and draw it in its place."""

import re

import pytest

from compatkit.intervals import interval
from reproduction.show.dots import dots

PANELS = {"one": {"RP": interval([10, 20]), "DCC": None}, "two & three": {"IIW": interval([100])}}


def test_every_number_is_read_out_and_stands_beside_its_mark():
    html = dots(PANELS, "A <b>caption</b>.", unit="%", ends=(0, 100)).data
    assert re.findall(r'aria-label="([^"]*)"', html) == ["one, %: RP 15.0 ± 63.5.", "two &amp; three, %: IIW 100.0."]
    assert html.count("<svg ") == 2 and "DCC" not in html and "A <b>caption</b>." in html
    assert dots({"one": PANELS["one"]}, "").data.count("+15.0 ± 63.5") == 2, "points have a sign"


def places(html):
    return [float(x) for x in re.findall(r"translate\(([\d.]+) ", html)]


def test_marks_stand_on_one_scale_and_the_papers_beside_ours():
    rows = {name: interval([value]) for name, value in (("RP", 0), ("IIW", 50), ("DCC", 100))}
    low, middle, high = places(dots({"": rows}, "", ends=(0, 100)).data)
    assert middle - low == pytest.approx(high - middle, abs=0.2) and middle > low
    apart = places(dots({"": rows, "x": {"DCC": interval([300])}}, "").data)
    assert apart[2] < apart[3], "the panels share the axis"
    with_paper = places(dots({"x": rows}, "", ends=(0, 100), paper={"RP": 50, ("x", "DCC"): 0, "none": 9}).data)
    assert with_paper == [low, middle, middle, high, low]


def test_a_long_name_stands_above_its_line():
    """So that the line keeps its length on a phone."""

    def heights(name):
        html = dots({"": {name: interval([1.0])}}, "").data
        mark, text = re.search(r"translate\([\d.]+ ([\d.]+)\)", html), re.search(rf'y="([\d.]+)"[^>]*>{name}<', html)
        return float(mark[1]) - float(text[1])

    assert heights("x" * 20) < 0 < heights("x" * 21)
