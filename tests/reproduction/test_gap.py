"""Shares of the gap are what naive code finds, and the paper's those of its printed numbers."""

import statistics

import pytest

from reproduction.experiments import evidence
from reproduction.pages import gap
from reproduction.records.verdicts import Source

from .recorded import METHODS
from .recorded import pair_record as record


def cells(table):
    lines = [line.strip("| ").split(" | ") for line in table.data.splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_the_gap_of_recombination_is_from_independent_networks_to_the_bound():
    runs = [record(method, seed) for method in METHODS for seed in range(3)]
    found = cells(gap.of_recombination([Source("laptop", {"fig2": runs}, {})]))
    # independent 11, bound 90.1, DCC 81, RP 51
    assert found["DCC"]["x × y"].startswith(f"{100 * (0.81 - 0.11) / (0.901 - 0.11):.0f} ± ")
    assert found["RP"]["x × y"].startswith("51 ± ") and found["IIW"]["x × y"] == "–"
    assert [found[method]["paper, %"] for method in ("IIW", "RP", "DCC", "IIW+RP+DCC", "IIW+RP")] == [
        "19",
        "53",
        "74",
        "88",
        "–",
    ]


def test_what_others_would_do_is_on_the_same_scale():
    runs = [record(method, seed) | {"experiment": "others"} for method in METHODS for seed in range(3)]
    found = cells(gap.of_others(runs))
    assert found["DCC"]["x × y"].startswith(f"{100 * (0.81 - 0.11) / (0.901 - 0.11):.0f} ± ")
    assert found["RP"]["x × y"].startswith("51 ± ") and found["relative"]["x × y"] == "–"


def test_the_gap_of_an_update_is_from_the_old_model_to_the_new_one():
    sources = evidence.sources("laptop")
    found = cells(gap.of_update(sources))
    runs = [r for r in sources[0].records["table1"] if r["row"] == "FCT" and r["config"]["data"] == "shapes"]
    mean = {
        case: statistics.mean(r["metrics"][f"CMC top-1: {case}"] for r in runs)
        for case in ("old/old", "new/new", "new/h")
    }
    share = (mean["new/h"] - mean["old/old"]) / (mean["new/new"] - mean["old/old"])
    row = found["FCT: new model, carried gallery"]
    assert float(row["shapes, 50 to 100"].split(" ± ")[0]) == pytest.approx(100 * share, abs=0.5)
    assert float(row["paper, %"]) == pytest.approx(100 * (65.0 - 46.5) / (68.1 - 46.5), abs=0.5)
    assert found["BCT, synthesised: new model, old gallery"]["paper, %"] == "–"
