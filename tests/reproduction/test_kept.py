"""Networks of runs are kept, and one more measure of them trains nothing."""

import os

import pytest
from torch import nn

from reproduction.__main__ import main
from reproduction.runs import kept, measures, runner

ROWS = ["independent"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    return tmp_path


@pytest.mark.training
def test_a_measure_is_added_to_records_without_training(root, monkeypatch, capsys):
    made = runner.records("chance", "smoke", rows=ROWS, show_progress=False)
    assert all("noise, as it is/mean" in record["metrics"] for record in made), "what the experiment names"
    assert all(kept.path(root, record).exists() for record in made)
    monkeypatch.setattr("reproduction.runs.pair.train_pair", None)
    monkeypatch.setitem(measures.MEASURES, "again", measures.accuracies)
    monkeypatch.setitem(measures.MEASURES, "widths", lambda probe: {"widths": [x.shape[1] for x in probe.pooled]})
    for name in ("again", "widths"):
        assert main(["measure", name, "chance", "--preset", "smoke"]) == 0
    assert capsys.readouterr().out.count("chance: 2 runs measured, 6 without networks that are kept") == 2
    for before, after in zip(made, runner.records("chance", "smoke", rows=ROWS), strict=True):
        assert before["metrics"].items() <= after["metrics"].items(), "what was measured is measured again to the bit"
        assert after["run_id"] == before["run_id"] and after["provenance"]["measured"].keys() >= {"again", "widths"}
        assert len(after["metrics"]["widths/a"]) == 2
    assert main(["measure", "chances", "chance", "--preset", "smoke"]) == 2
    assert "measure: must be one of accuracies" in capsys.readouterr().err


def test_those_used_longest_ago_go_first(root, monkeypatch):
    names = ("first", "second", "third")
    records = {name: {"run_id": name, "provenance": {"golden": None}} for name in names}
    network = {"head": nn.Linear(500, 500)}  # a megabyte
    monkeypatch.setenv("COMPATKIT_NETWORKS_MB", "2.5")
    for name in names:
        kept.keep(root, records[name], network)
        if name == "second":
            os.utime(kept.path(root, records["first"]), (2e9, 2e9))
    assert [name for name in names if kept.path(root, records[name]).exists()] == ["first", "third"]
