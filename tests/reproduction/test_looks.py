"""Every method keeps one look, and all looks can be told apart: on paper and in the dark, with any eyes."""

from itertools import combinations

import pytest

from reproduction.experiments.gygli import FIG2
from reproduction.experiments.ramanujan import TABLE_6
from reproduction.pages.ramanujan import CLOSED
from reproduction.show.looks import LOOKS, PALETTE, in_order, look

GROUNDS = {"light": "#ffffff", "dark": "#121212"}
CASES = (
    "old/old",
    "new/old",
    "new/new",
    "BCT new/old",
    "BCT new/new",
    "h/h",
    "new/h",
    "new/h without side-information",
)


def luminance(colour):
    """WCAG 2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_colour_stands_out_from_the_page(ground):
    for colour in {each.colour for each in LOOKS.values()} | set(PALETTE):
        low, high = sorted((luminance(colour), luminance(GROUNDS[ground])))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


@pytest.mark.parametrize("drawn_together", [FIG2, (*CASES, *CLOSED), tuple(TABLE_6)], ids=["fig2", "cases", "table6"])
def test_what_is_drawn_together_differs_in_colour_and_mark(drawn_together):
    assert set(drawn_together) <= set(LOOKS), "none of them goes by its place"
    pairs = combinations([LOOKS[name] for name in drawn_together], 2)
    assert all((one.colour, one.mark) != (other.colour, other.mark) for one, other in pairs)


@pytest.mark.parametrize("usual", [32, 256, 512, 2048])
def test_what_buys_accuracy_at_a_cost_can_be_told_apart(usual):
    others = ["BCT", "old/old, nothing done", "back-filling"]
    widths = [f"h of width {int(usual * factor)}" for factor in (0.25, 0.5, 1, 2)]
    bare = f"h of width {usual} without side-information"
    looks = {name: look(name, 0) for name in (*others, *widths, bare)}
    assert len({(each.colour, each.mark) for each in looks.values()}) == len(looks)
    [hue] = {looks[name].colour for name in (*widths, bare)}
    assert hue == look("new/h", 0).colour and hue not in {looks[name].colour for name in others}
    assert looks[bare].mark == f"{looks[f'h of width {usual}'].mark}-open"
    assert in_order([bare, *reversed(widths)])[0] == widths[0], "by their width"


def test_other_colours_of_methods_have_other_marks():
    """Hues alone do not carry a method: colour-blind eyes confuse some of them."""
    shapes = [
        {name.mark.removesuffix("-open") for name in LOOKS.values() if name.colour == colour} for colour in PALETTE
    ]
    assert all(shapes)
    methods = [LOOKS[name] for name in FIG2]
    assert len({(each.mark.removesuffix("-open"), each.colour) for each in methods}) == 5, "a hue, a shape"


def test_a_method_looks_the_same_wherever_it_stands():
    assert look("DCC", 0) == look("DCC", 5) and look("RP+IIW", 1) == look("IIW+RP", 0)
    assert look("own RP heads", 0) == look("upper bound", 3)


def test_others_go_by_their_place_and_a_second_round_differs():
    looks = [look(str(n), n) for n in range(3 * len(PALETTE))]
    assert len(set(looks)) == len(looks) and looks[0].colour == looks[len(PALETTE)].colour == PALETTE[0]


def test_methods_stand_in_one_order():
    assert in_order(["upper bound", "RP+IIW", "IIW"]) == ["IIW", "RP+IIW", "upper bound"]
    assert in_order(["upper bound", "mine", "IIW"]) == ["upper bound", "mine", "IIW"]
