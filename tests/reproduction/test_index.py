"""Runs find their records, and nothing is read twice for it."""

import json
from dataclasses import asdict, replace

import pytest

from compatkit.image_files import write_npz
from reproduction.experiments.presets import override
from reproduction.experiments.settings import PairRun, UpdateRun
from reproduction.records import store
from reproduction.records.index import index

from ..samples import small_set

KINDS = (PairRun, UpdateRun)


def record_of(config, second=0, data=None, **changes):
    return {
        "experiment": "fig2",
        "preset": "smoke",
        "run_id": f"{hash(config)}-{data}",
        "kind": type(config).__name__,
        "seed": config.seed,
        "config": json.loads(json.dumps(asdict(config))),
        "data": data or {},
        "metrics": {},
        "provenance": {"started": f"2026-01-31T23:59:{second:02}+00:00"},
    } | changes


def test_a_run_has_the_newest_record_of_its_config_and_kind(tmp_path):
    one, other = PairRun(), PairRun(seed=1)
    newest = record_of(one, 30, experiment="fig8")
    for record in (newest, record_of(one, 20), record_of(other, 10), record_of(one, 5, kind="UpdateRun")):
        store.append(record, tmp_path)
    found = index("smoke", tmp_path, KINDS)
    assert found.record(one) == newest and found.record(other)["seed"] == 1
    assert found.record(PairRun(seed=2)) is found.record(UpdateRun()) is None
    assert index("laptop", tmp_path, KINDS).record(one) is None


def test_what_others_append_is_found_and_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    for number, config in enumerate(PairRun(seed=seed) for seed in range(5)):
        assert index("smoke", tmp_path, KINDS).record(config) is None
        store.append(record_of(config), tmp_path)
        assert index("smoke", tmp_path, KINDS).record(config) is not None
        assert len(store.load_all("smoke", tmp_path)) == number + 1
    monkeypatch.setattr(store.json, "loads", lambda line: pytest.fail("it was read before"))
    assert index("smoke", tmp_path, KINDS).record(config) and len(store.load("fig2", "smoke", tmp_path)) == 5


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_was_replaced_or_removed_is_forgotten(tmp_path, gone):
    first, second = PairRun(seed=0), PairRun(seed=1)
    store.append(record_of(first), tmp_path)
    assert index("smoke", tmp_path, KINDS).record(first)
    (file,) = (tmp_path / "smoke").iterdir()
    file.unlink()
    if not gone:
        store.append(record_of(second), tmp_path)
    found = index("smoke", tmp_path, KINDS)
    assert found.record(first) is None and bool(found.record(second)) is not gone


def test_a_line_that_was_changed_in_place_is_noticed(tmp_path):
    store.append(record_of(PairRun(seed=0)), tmp_path)
    (file,) = (tmp_path / "smoke").iterdir()
    assert index("smoke", tmp_path, KINDS).record(PairRun(seed=0))
    file.write_text(json.dumps(record_of(PairRun(seed=1))) + "\n")
    found = index("smoke", tmp_path, KINDS)
    assert found.record(PairRun(seed=0)) is None and found.record(PairRun(seed=1))


def test_a_setting_that_is_added_later_is_taken_to_have_been_at_its_default(tmp_path):
    older = record_of(PairRun())
    del older["config"]["normalization"], older["config"]["recipe"]["flip"]
    store.append(older, tmp_path)
    found = index("smoke", tmp_path, KINDS)
    assert found.record(PairRun()) == older | {"config": record_of(PairRun())["config"]}
    assert found.record(replace(PairRun(), normalization="layer")) is None
    assert found.record(override(PairRun(), {"recipe.flip": True})) is None


def test_records_of_images_that_were_replaced_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    store.append(record_of(PairRun(), 1, data={"mine": "another"}), tmp_path)
    assert index("smoke", tmp_path, KINDS).record(PairRun()), "no file to compare with"
    write_npz(tmp_path / "mine.npz", small_set())
    assert index("smoke", tmp_path, KINDS).record(PairRun()) is None
    own = record_of(PairRun(), 0, data={"mine": small_set().digest})
    store.append(own, tmp_path)
    assert index("smoke", tmp_path, KINDS).record(PairRun()) == own, "though the other one is newer"
