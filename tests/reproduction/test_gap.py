"""Shares of the gap are what naive code finds, and the paper's those of its printed numbers."""

import re
import statistics

import pytest

from reproduction.experiments import evidence
from reproduction.pages import gap
from reproduction.records.verdicts import Source

from .recorded import METHODS
from .recorded import pair_record as record


def panels(found):
    """Ours by set of images and row, as the figure says it."""
    said = re.findall(r'aria-label="(.*?), % of the gap: (.*?)\."', found.data)
    return {images: dict(re.findall(r"(?:^|, )(.+?) (-?\d+ ± \d+)", text)) for images, text in said}


def test_the_gap_of_recombination_is_from_independent_networks_to_the_bound():
    runs = [record(method, seed) for method in METHODS for seed in range(3)]
    figure = gap.of_recombination([Source("laptop", {"fig2": runs}, {})])
    found = panels(figure)["x × y"]
    # independent 11, bound 90.1, DCC 81, RP 51
    assert found["DCC"].startswith(f"{100 * (0.81 - 0.11) / (0.901 - 0.11):.0f} ± ")
    assert found["RP"].startswith("51 ± ") and found.keys() == {"RP", "DCC"}
    assert figure.data.count('stroke="currentColor" stroke-width') == 2, "the paper's beside them"
    [(images, shares)] = gap.shares([Source("laptop", {"fig2": runs}, {})])
    assert images == "x × y" and shares["DCC"].mean == pytest.approx(100 * (0.81 - 0.11) / (0.901 - 0.11))


def test_the_gap_of_an_update_is_from_the_old_model_to_the_new_one():
    sources = evidence.sources("laptop")
    found = panels(gap.of_update(sources))["shapes, 50 to 100"]
    runs = [r for r in sources[0].records["table1"] if r["row"] == "FCT" and r["config"]["data"] == "shapes"]
    mean = {
        case: statistics.mean(r["metrics"][f"CMC top-1: {case}"] for r in runs)
        for case in ("old/old", "new/new", "new/h")
    }
    share = (mean["new/h"] - mean["old/old"]) / (mean["new/new"] - mean["old/old"])
    assert float(found["new/h"].split(" ± ")[0]) == pytest.approx(100 * share, abs=0.5)
