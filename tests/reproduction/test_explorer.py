"""Figures carry what each reader needs; pickers hold one finished figure for every choice, tied to the controls."""

from __future__ import annotations

import json
import subprocess
import sys

import ipywidgets as widgets
import plotly.graph_objects as go
import pytest

from reproduction.show import explorer
from reproduction.show.explorer import PLOTLY_MIME, Figure, picker, show

METHODS = ("independent", "RP", "DCC")
LAYERS = ("block 1", "block 2")


def line(*picked: str) -> go.Figure:
    return go.Figure(go.Scatter(x=[0, 1], y=[len("".join(picked)), 0]), layout={"title": " at ".join(picked)})


def sentence(*picked: str) -> str:
    return f"A line for {' at '.join(picked)}."


@pytest.fixture
def two_controls() -> widgets.Widget:
    return picker({"method": METHODS, "split layer": LAYERS}, line, sentence, ordered={"split layer"})


def leaves(widget: widgets.Widget) -> list[widgets.Output]:
    if isinstance(widget, widgets.Output):
        return [widget]
    return [leaf for child in getattr(widget, "children", ()) for leaf in leaves(child)]


def titles(widget: widgets.Widget) -> list[str]:
    return [leaf.outputs[0]["data"][PLOTLY_MIME]["layout"]["title"]["text"] for leaf in leaves(widget)]


def controls(widget: widgets.Widget) -> tuple[widgets.Widget, ...]:
    return widget.children[0].children


def test_figure_speaks_to_live_jupyter_to_the_page_and_to_a_screen_reader():
    bundle = Figure(line("RP"), alt='Falls from "2"\n   to < 0.')._repr_mimebundle_()
    assert set(bundle) == {PLOTLY_MIME, "text/html", "text/plain"}
    assert bundle["text/plain"] == 'Falls from "2" to < 0.'
    assert 'role="img" aria-label="Falls from &quot;2&quot; to &lt; 0."' in bundle["text/html"]
    assert bundle[PLOTLY_MIME]["layout"]["title"]["text"] == "RP"
    json.dumps(bundle)


def test_figure_is_fluid_light_and_leaves_the_authors_figure_alone():
    mine = go.Figure(go.Scatter(y=[1, 2]), layout={"width": 900, "height": 321, "font": {"size": 20}})
    before = mine.to_json()
    layout = Figure(mine, alt="Two points.").figure.layout
    assert layout.width is None
    assert layout.autosize
    assert (layout.height, layout.font.size) == (321, 20)
    assert mine.to_json() == before
    assert len(Figure(mine, alt="Two points.")._repr_mimebundle_()["text/html"]) < 4000


def test_default_legend_gives_way_to_the_authors():
    assert Figure(line("RP"), alt="A line.").figure.layout.legend.yref == "container"
    own = line("RP").update_layout(legend={"x": 0.9, "y": 0.9})
    assert Figure(own, alt="A line.").figure.layout.legend.to_plotly_json() == {"x": 0.9, "y": 0.9}


def test_every_display_has_its_own_div_and_ids_count_up(monkeypatch):
    monkeypatch.setattr(explorer, "_div_ids", iter(["plotly-1", "plotly-2"]))
    figure = Figure(line("RP"), alt="A line.")
    for expected in ("plotly-1", "plotly-2"):
        assert f'id="{expected}"' in figure._repr_mimebundle_()["text/html"]


def test_text_cannot_break_out_of_the_script():
    bundle = Figure(line("</script><b>"), alt="A line.")._repr_mimebundle_()
    assert bundle["text/html"].count("</script>") == 1


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_figure_without_words_is_an_error(alt):
    with pytest.raises(ValueError, match="alt must be a sentence"):
        Figure(line("RP"), alt=alt)


def test_show_displays_a_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(explorer, "display", shown.append)
    show(line("RP"), alt="A line.")
    assert [figure.alt for figure in shown] == ["A line."]


def test_picker_holds_a_figure_for_every_choice(two_controls):
    assert titles(two_controls) == [f"{method} at {layer}" for method in METHODS for layer in LAYERS]
    alts = [leaf.outputs[0]["data"]["text/plain"] for leaf in leaves(two_controls)]
    assert alts[0] == "A line for independent at block 1."


def test_controls_are_labelled_and_ordered_ones_are_sliders(two_controls):
    method, layer = controls(two_controls)
    assert isinstance(method, widgets.Dropdown)
    assert isinstance(layer, widgets.SelectionSlider)
    assert [method.description, layer.description] == ["method", "split layer"]


def test_links_tie_each_control_to_the_stacks_it_turns(two_controls):
    manager_state = widgets.Widget.get_manager_state()["state"]
    links = [model["state"] for model in manager_state.values() if model["model_name"] == "LinkModel"]
    method, layer = controls(two_controls)
    turned = {
        control.description: [
            link["target"] for link in links if link["source"] == [f"IPY_MODEL_{control.model_id}", "index"]
        ]
        for control in (method, layer)
    }
    outer = two_controls.children[1]
    assert turned["method"] == [[f"IPY_MODEL_{outer.model_id}", "selected_index"]]
    assert turned["split layer"] == [[f"IPY_MODEL_{s.model_id}", "selected_index"] for s in outer.children]


def test_start_is_what_is_picked_at_first():
    widget = picker({"method": METHODS, "layer": LAYERS}, line, sentence, start={"layer": "block 2"})
    assert [control.value for control in controls(widget)] == ["independent", "block 2"]
    assert [stack.selected_index for stack in (widget.children[1], *widget.children[1].children)] == [0, 1, 1, 1]
    assert "At first: A line for independent at block 2." in widget._repr_mimebundle_()["text/plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"controls": {}}, "controls must name at least one"),
        ({"controls": {"method": []}}, r"controls\['method'\]"),
        ({"controls": {"method": "RP"}}, r"controls\['method'\]"),
        ({"controls": {"method": ["RP", "RP"]}}, r"controls\['method'\]"),
        ({"controls": {"method": METHODS}, "ordered": ["layer"]}, r"ordered names \['layer'\]"),
        ({"controls": {"method": METHODS}, "start": {"layer": "x"}}, r"start names \['layer'\]"),
        ({"controls": {"method": METHODS}, "start": {"method": "x"}}, r"start\['method'\] is 'x'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        picker(**{"draw": line, "alt": sentence, **arguments})


def test_pages_of_results_never_load_torch():
    code = "import sys, reproduction.show.explorer, reproduction.book; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_source_is_the_code_without_its_docstring():
    def twice(x):
        """Not this.

        Nor this.
        """
        return 2 * x  # but this

    assert explorer.source(twice).data == "```python\ndef twice(x):\n    return 2 * x  # but this\n```"
