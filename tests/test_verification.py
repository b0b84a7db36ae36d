"""Stale records are believed again when a sample of their runs comes out the same, and only then."""

import json
from dataclasses import asdict

import pytest

from compatkit import results
from compatkit.__main__ import main
from compatkit.experiments import pair, runner
from compatkit.experiments.verification import RunsDiffer, covering, verify

NOW = results.code_state("compatkit.experiments.pair")["fingerprint"]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Records of fig2 at smoke by the code "old"; a run's metrics follow from its config, nothing is trained."""
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    made = []

    def run(config, **options):
        made.append(config)
        return {"recombination/mean": 0.01 * len(config.method), "list/a": [0.1, 0.2]}

    monkeypatch.setattr(pair, "run", run)
    runner.records("fig2", "smoke", show_progress=False)
    file = tmp_path / "smoke" / "fig2.jsonl"
    file.write_text(file.read_text().replace(NOW, "old"))
    made.clear()
    return tmp_path, made


def stale(root):
    return sum(results.is_stale(r) for r in results.load("fig2", "smoke", root))


def test_the_same_numbers_make_records_current(store):
    root, made = store
    assert stale(root) == 18
    [note] = verify(["fig2"], "smoke", show_progress=False)
    assert stale(root) == 0
    assert note | {"runs": [], "covers": []} == {
        "module": "compatkit.experiments.pair",
        "before": "old",
        "after": NOW,
        "runs": [],
        "covers": [],
    }
    assert {"preset=smoke", "device=cpu", 'method="DCC"', 'recipe.optimizer="adam"'} <= set(note["covers"])
    assert [json.loads(line) for line in (root / "verified.jsonl").read_text().splitlines()] == [note]
    assert len(made) == len(note["runs"]) == 9, "each method once, both pairs among them"
    assert {(c.a, c.method) for c in made} >= {("digits", made[0].method)} and len({c.method for c in made}) == 9
    assert verify(["fig2"], "smoke", show_progress=False) == [], "nothing is stale any more"
    assert len(results.load("fig2", "smoke", root)) == 18, "the runs of the sample were not recorded again"
    assert "18 by earlier code" in results.provenance_line(results.load("fig2", "smoke", root))


def test_another_number_leaves_them_stale(store, monkeypatch):
    root, _ = store
    monkeypatch.setattr(pair, "run", lambda config, **o: {"recombination/mean": 0.5, "list/a": [0.1, 0.2]})
    with pytest.raises(RunsDiffer, match="1 metrics differ, such as recombination/mean"):
        verify(["fig2"], "smoke", show_progress=False)
    assert stale(root) == 18 and not (root / "verified.jsonl").exists()


@pytest.mark.parametrize("name", ["seconds", "seconds per 10 000 items: h"])
def test_measured_times_do_not_count(store, monkeypatch, name):
    root, _ = store
    run = pair.run
    file = root / "smoke" / "fig2.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["metrics"][name] = 1.5
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(pair, "run", lambda config, **o: run(config, **o) | {f"of {name}": 1.0})
    with pytest.raises(RunsDiffer, match=f"1 metrics differ, such as of {name}"):
        verify(["fig2"], "smoke", show_progress=False)
    monkeypatch.setattr(pair, "run", lambda config, **o: run(config, **o) | {name: 2.5})
    verify(["fig2"], "smoke", show_progress=False)
    assert stale(root) == 0


def test_a_run_that_fails_leaves_them_stale(store, monkeypatch):
    def run(config, **options):
        raise FloatingPointError("infinite")

    monkeypatch.setattr(pair, "run", run)
    with pytest.raises(RunsDiffer, match="infinite"):
        verify(["fig2"], "smoke", show_progress=False)
    assert stale(store[0]) == 18


def test_a_note_speaks_for_no_other_settings(store):
    root, made = store
    runner.records("incremental", "smoke", show_progress=False)
    runner.records("fig2", "smoke", seeds=[7], show_progress=False)
    for file in (root / "smoke").iterdir():
        file.write_text(file.read_text().replace(NOW, "old"))
    made.clear()
    verify(["incremental"], "smoke", show_progress=False)
    assert {(c.method, c.scheme) for c in made} == {("IIW+RP+DCC", "joint"), ("IIW+RP+DCC", "incremental")}
    current = [r["config"] for r in results.load_all("smoke", root).values() if not results.is_stale(r, root)]
    assert {(c["method"], c["scheme"], c["seed"]) for c in current} == {
        ("IIW+RP+DCC", "joint", 0),
        ("IIW+RP+DCC", "incremental", 0),
    }
    made.clear()
    verify(["fig2"], "smoke", show_progress=False)
    assert "IIW+RP+DCC" not in {c.method for c in made}, "known already"
    assert [r["seed"] for r in results.load("fig2", "smoke", root) if results.is_stale(r, root)] == [7] * 18


def test_notes_form_a_chain(store):
    root, _ = store
    covers = sorted(set().union(*map(results.made_with, results.load("fig2", "smoke", root))))
    links = [("newer", "old"), ("newer", NOW), ("x", "y")]  # the same bits either way round
    notes = [{"before": before, "after": after, "covers": covers} for before, after in links]
    (root / "verified.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes[:1]))
    assert stale(root) == 18
    (root / "verified.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    assert stale(root) == 0


def test_a_sample_has_every_value_of_every_setting():
    records = [
        {"run_id": runner.run_id(config), "preset": "laptop", "provenance": {"device": "cpu"}, "config": asdict(config)}
        for name in ("fig2", "fig5", "fig8", "fig9", "incremental", "fig2_pretrained", "choices")
        for config in runner.configs(name, "laptop")
    ]
    sample = covering(records)
    assert len(sample) < len(records) / 10
    for setting in ("a", "b", "left_out", "method", "scheme", "split_at", "dcc_classes", "normalization", "seed"):
        assert {r["config"][setting] for r in sample} == {r["config"][setting] for r in records}, setting
    recipes = [r["config"]["recipe"] for r in sample]
    assert all(r["config"]["recipe"] in recipes for r in records if r["config"]["recipe"]["rotations"] == "all")
    known = results.made_with(sample[0])
    assert len(covering(records, known)) < len(sample) and covering(records[:1], results.made_with(records[0])) == []


def test_the_command_says_what_it_found(store, monkeypatch, capsys):
    root, _ = store
    assert main(["verify", "fig2", "--preset", "smoke"]) == 0
    assert f"old -> {NOW}: 9 runs made anew, the same bits" in capsys.readouterr().out
    assert main(["verify", "all", "--preset", "smoke"]) == 0
    assert "Nothing to verify: no run that smoke plans has a stale record." in capsys.readouterr().out
    (root / "verified.jsonl").unlink()
    monkeypatch.setattr(pair, "run", lambda config, **o: {"recombination/mean": 0.5})
    assert main(["verify", "fig2", "--preset", "smoke"]) == 1
    assert "the records stay stale" in capsys.readouterr().err
