"""Figures carry what each reader needs; explorers hold the numbers of every choice, and intervals that Python made."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from compatkit.intervals import interval
from reproduction.show.explorer import Cell, Level, Note, View, explorer, source
from reproduction.show.looks import look

from .explored import by_name, table

METHODS, DATA, LAYERS = ("independent", "RP", "DCC"), ("x", "y"), ("stem", "block 1", "block 2")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def runs(data: str, method: str) -> list[float]:
    return [0.1 * (1 + METHODS.index(method)) + 0.3 * DATA.index(data) + 0.013 * seed for seed in range(3)]


def cells(*data: str) -> list[Cell]:
    printed = {"RP": 50.1}
    return [Cell({"data": d, "method": m}, runs(d, m), printed.get(m)) for d in data or DATA for m in METHODS]


def bars(*some: Cell, **options) -> View:
    return View("bars", some or cells(), axis="method", x_title="accuracy on {data}, %", **options)


def spec(*views: View, **options) -> dict:
    return json.loads(explorer(*views, **options).spec)


# --- explorers --------------------------------------------------------------------------------------------------------


def test_a_table_holds_means_intervals_runs_and_the_papers_numbers():
    found = table(spec(bars()))
    assert list(found) == [(d, m) for d in DATA for m in METHODS]
    for (data, method), (mean, half, n, paper, values, x, names) in found.items():
        span = interval([100 * value for value in runs(data, method)])
        assert (mean, half, n) == (pytest.approx(span.mean, abs=0.006), pytest.approx(span.half_width, abs=0.006), 3)
        assert values == pytest.approx([100 * value for value in runs(data, method)], abs=0.006)
        assert paper == (50.1 if method == "RP" else None) and x is names is None


def test_one_run_has_no_interval_and_a_number_of_the_paper_alone_no_mean():
    found = table(
        spec(bars(Cell({"method": "RP", "data": "x"}, [0.5]), Cell({"method": "DCC", "data": "x"}, [], 40.0)))
    )
    assert found["RP", "x"][:4] == [50.0, None, 1, None] and found["DCC", "x"][:4] == [None, None, 0, 40.0]


def test_correlations_are_not_percentages_and_channels_are_not_runs():
    view = View("ranked", [Cell({"kind": "matched"}, [0.9, 0.1234, -0.2])], series="kind", percent=False)
    [[mean, half, n, _, values, *_]] = table(spec(view)).values()
    assert (mean, half, n, values) == (0.274, None, 3, [0.9, 0.123, -0.2])


def test_equal_lists_are_held_once():
    names = ["one", "two"]
    at = [{"kind": kind, "method": "RP"} for kind in ("CKA", "neighbours")]
    same = [Cell(place, [0.5, 0.7], x=[0.1, 0.2 * i], names=names) for i, place in enumerate(at, 1)]
    found = spec(View("scatter", same, series="method"))
    assert sorted(found["lists"], key=str) == [names, [0.1, 0.2], [0.1, 0.4], [50.0, 70.0]]
    assert table(found)["neighbours", "RP"][4:] == [[50.0, 70.0], [0.1, 0.4], names]


def test_methods_have_one_look_and_one_order_everywhere():
    mixed = [Cell({"data": "x", "method": m}, [0.1 + 0.1 * i]) for i, m in enumerate(("DCC", "independent", "RP"))]
    for view in (bars(), bars(*mixed)):
        method = by_name(spec(view))["method"]
        assert method["options"] == list(METHODS)
        assert [tuple(each) for each in method["looks"]] == [look(name, 0) for name in METHODS]
    assert by_name(spec(bars()))["data"]["looks"] is None, "it cannot be ticked"


def test_ordered_dimensions_have_their_order_and_start_where_they_are_told_to():
    steps = [Cell({"split layer": at, "method": "RP"}, [0.1 * i]) for i, at in enumerate(LAYERS[::-1])]
    how = {"ordered": {"split layer": [*LAYERS, "never run"]}, "start": {"split layer": "block 1"}}
    layer = by_name(spec(View("bars", steps, axis="method"), **how))["split layer"]
    assert (layer["options"], layer["ordered"], layer["start"]) == (list(LAYERS), True, 1)


def test_options_whose_numbers_are_those_of_another_are_left_out_where_they_are():
    """On x both measures are the same, on y they are not; two ways to count are the same everywhere."""
    some = [
        Cell({"data": d, "measure": m, "counted": c, "method": "RP"}, [0.5 + 0.1 * (d == "y" and m == "own")])
        for d in DATA
        for m in ("common", "own")
        for c in ("so", "or so")
    ]
    assert [where[:3] for where in table(spec(View("bars", some, axis="method")))] == [
        ("x", "common", "so"),
        ("y", "common", "so"),
        ("y", "own", "so"),
    ]


def test_the_same_numbers_at_two_places_of_an_axis_stay():
    flat = [Cell({"method": "RP", "split layer": at}, [0.5]) for at in LAYERS]
    fields = [Cell({"split layer": at, "rows": r, "columns": c}, [0.5]) for at in LAYERS for r in "ab" for c in "ab"]
    found = spec(
        View("matrix", fields, series="rows", axis="columns"), View("curves", flat, series="method", axis="split layer")
    )
    assert len(found["views"][1]["cells"]) == 3


def test_levels_and_notes_stand_where_they_belong():
    levels = [Level("chance", [0.1], {"data": "y"}), Level("own", [0.7, 0.8], printed=True)]
    [view] = spec(bars(levels=levels, notes=[Note("An epoch is 5 steps.", {"data": "x"})]))["views"]
    chance, own = view["levels"]
    assert (chance["mean"], chance["half"], chance["at"], chance["printed"]) == (10.0, 0, [[0, 1]], False)
    span = interval([70, 80])
    assert (own["mean"], own["half"], own["at"], own["printed"]) == (75.0, round(span.half_width, 2), [], True)
    assert view["notes"] == [{"text": "An epoch is 5 steps.", "at": [[0, 0]]}]


def test_an_explorer_speaks_to_live_jupyter_to_the_page_and_to_whoever_reads_text():
    made = explorer(bars())
    data, _ = made._repr_mimebundle_()
    assert set(data) == {WIDGET_VIEW, "text/html", "text/plain"}
    assert data["text/plain"] == (
        "Pick data: x, y; method: independent, RP, DCC. At first: accuracy on x, %: independent 11%, RP 21%, DCC 31%."
    )
    assert data["text/html"].startswith('<div class="compatkit-explorer"><script type="application/json">{"dim')
    assert f"<p>{data['text/plain']}</p>" in data["text/html"]
    assert explorer(bars()).spec == made.spec, "the same numbers are the same bytes"


def test_the_widget_is_the_script_of_the_page_and_brings_plotly_when_asked(monkeypatch):
    made, sent = explorer(bars()), []
    assert "export default { render, drawPage }" in made._esm and ".compatkit-explorer" in made._css
    monkeypatch.setattr(made, "send", sent.append)
    made._handle_custom_msg("plotly", [])
    [message] = sent
    assert "plotly.js v" in message["plotly"][:200] and len(message["plotly"]) > 1e6


def test_text_cannot_break_out_of_the_script():
    named = Cell({"data": "</script><b>", "method": "RP"}, [0.5])
    assert explorer(bars(named))._repr_mimebundle_()[0]["text/html"].count("</script>") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: explorer(View("pie", cells(), axis="method")), "kind must be one of bars, .* got 'pie'"),
        (lambda: explorer(bars(*cells(), Cell({"method": "RP"}, [1]))), "cells must all name the dimensions"),
        (lambda: explorer(View("bars", cells(), axis="method", x_title="{method}")), "a title can name .*'data'"),
        (lambda: explorer(bars(), ordered={"data": ["x"]}), r"ordered\['data'\] lacks 'y'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pages_of_results_never_load_torch():
    code = "import sys, reproduction.show.explorer, reproduction.book; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_source_is_the_code_without_its_docstring():
    def twice(x):
        """Not this.

        Nor this.
        """
        return 2 * x  # but this

    assert source(twice).data == "```python\ndef twice(x):\n    return 2 * x  # but this\n```"
