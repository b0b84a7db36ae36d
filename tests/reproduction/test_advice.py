"""Runs that ask gallerykit what to do, and see what comes true."""

import pytest
import torch

from reproduction.experiments import evidence, plan
from reproduction.pages import models
from reproduction.runs import advice, runner
from reproduction.runs.context import Context
from reproduction.runs.models import POOLS


def test_what_is_advised_stands_beside_what_comes_true(tmp_path):
    found = runner.records("advice", "smoke", root=tmp_path, show_progress=False)[0]["metrics"]
    assert sum(found[f"advised: {one}"] for one in advice.ACTIONS) == 1
    assert found["neighbours kept: new/new"] == 1 and found["neighbours foreseen: new/new"] == 1
    assert found["neighbours foreseen: old/old, low"] < found["neighbours foreseen: old/old"]
    for name, stages in found.items():
        if name.startswith("neighbours on the way: "):
            first = name.removeprefix("neighbours on the way: ").partition(",")[0]
            assert stages[0] == pytest.approx(found[f"neighbours kept: {first}"], abs=0.02) and stages[-1] == 1
    assert {"recall@10: residual/old", "reciprocal rank: old/old", "ceiling"} < found.keys()


def test_recall_and_rank_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(12, 40, generator=generator), torch.arange(40) % 7
    labels[11] = 99  # an item without a match
    scores.fill_diagonal_(-torch.inf)
    recalls, ranks = [], []
    for q in range(11):
        order = [i for i in scores[q].argsort(descending=True).tolist() if i != q]
        hits = [bool(labels[i] == labels[q]) for i in order]
        recalls.append(sum(hits[:10]) / min(10, sum(hits)))
        ranks.append(1 / (1 + hits.index(True)))
    assert advice.by_class(scores, labels) == pytest.approx((sum(recalls) / 11, sum(ranks) / 11))


def test_two_models_far_apart_are_seen_and_one_is_not(monkeypatch):
    class Apart:
        labels = None

        def __init__(self, n, context):
            self.x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))

        def embed(self, model):
            return self.x + (20 if model == "whole" else 0)

    monkeypatch.setitem(POOLS, "planted", Apart)
    monkeypatch.setattr(advice, "STORES", 3)
    ((_, config),) = plan("mixtures", "smoke")
    found = advice.run(config, Context())
    assert [found[f"two models seen: {share} %"] for share in ("0", "50")] == [0, 1]
    assert not any(found[name] for name in found if name.startswith("not told"))


# What the chapters say, of the records


def recorded(row):
    return [r["metrics"] for r in evidence.recorded("advice", "laptop") if r["row"] == row]


def test_the_trap_is_on_record_and_so_is_the_way_round_it():
    for run in recorded("images"):
        way = {name: run[f"neighbours on the way: new/{name}"] for name in ("ridge, together", "ridge, apart")}
        assert min(way["ridge, together"]) < way["ridge, together"][0] - 0.01
        assert way["ridge, apart"] == sorted(way["ridge, apart"])


@pytest.mark.parametrize(("row", "advised"), [("words", "keep"), ("images", "back-fill"), ("texts", "back-fill")])
def test_what_the_chapters_say_of_the_advice_is_on_record(row, advised):
    runs = recorded(row)
    assert runs and all(run[f"advised: {advised}"] for run in runs)
    for way in ("old/old", "new/ridge", "new/Procrustes"):
        assert all(abs(run[f"neighbours kept: {way}"] - run[f"neighbours foreseen: {way}"]) < 0.04 for run in runs)


def test_no_map_of_queries_has_what_a_paper_reports():
    for row in ("images", "texts"):
        for run in recorded(row):
            shares = [run[f"recall@10: {way}"] / run["recall@10: new/new"] for way in models.ADAPTERS]
            assert max(shares) < 0.95 and run["recall@10: old/old"] / run["recall@10: new/new"] > 0.5


def test_tables_of_the_advice():
    records = evidence.recorded("advice", "laptop")
    lines = models.advice_table(records).data.splitlines()
    assert len(lines) == 2 + len({record["row"] for record in records})
    assert any("keep the old model" in line and line.startswith("| words") for line in lines)
    inside = [
        run[f"{name}, low"] <= run[name.replace("foreseen", "kept")] <= run[f"{name}, high"]
        for run in (record["metrics"] for record in records)
        for name in run
        if name.startswith("neighbours foreseen") and "," not in name and not name.endswith("new/new")
    ]
    assert f"; {100 * sum(inside) / len(inside):.0f} % of them come true" in models.right(records)
    assert "draws" in models.kept_by(records, "words")
    assert "residual" in models.adapters_table(records).data and "old model kept" in models.adapters_drawn(records).data
