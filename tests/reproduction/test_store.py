"""Records survive processes and kills, and runs find theirs."""

import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from compatkit.image_files import write_npz
from reproduction.experiments.presets import override
from reproduction.experiments.settings import PairRun, UpdateRun
from reproduction.records import store
from reproduction.records.index import index

from ..samples import small_set
from .recorded import record

CHECKOUT = Path(store.__file__).resolve().parents[2]
KINDS = (PairRun, UpdateRun)


@pytest.fixture(scope="module")
def template():
    return record()  # provenance asks git, which is slow to ask once a record


def loaded(root):
    return list(store.load_all("smoke", root).values())


APPENDER = """
import json, sys
from reproduction.records import store
record, root, worker, runs = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for i in range(runs):
    # long lines, so that a write without a lock would be torn
    store.append(record | {"run_id": f"{worker}-{i}", "curves": {"loss": [i] * 2000}}, root)
"""


def appending(template, root, worker, runs):
    arguments = [json.dumps(template), str(root), str(worker), str(runs)]
    return subprocess.Popen([sys.executable, "-c", APPENDER, *arguments], cwd=CHECKOUT)


def test_several_processes_append_at_once(template, tmp_path):
    workers = [appending(template, tmp_path, w, 50) for w in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert {r["run_id"] for r in loaded(tmp_path)} == {f"{w}-{i}" for w in range(4) for i in range(50)}
    assert len((tmp_path / "smoke" / "fig2.jsonl").read_bytes().splitlines()) == 200


def test_killed_process_leaves_a_file_that_loads_and_takes_more(template, tmp_path):
    worker = appending(template, tmp_path, 0, 10**6)
    path = tmp_path / "smoke" / "fig2.jsonl"
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 100_000):
        assert time.monotonic() < deadline and worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    before = loaded(tmp_path)
    store.append(template, tmp_path)
    assert loaded(tmp_path) == [*before, template]


@pytest.mark.parametrize("rest", [b"{", b'{"experiment": "fig2", ' + b" " * 200_000])
def test_unfinished_last_line_is_ignored_then_cut(template, tmp_path, rest):
    store.append(template, tmp_path)
    path = tmp_path / "smoke" / "fig2.jsonl"
    whole = path.read_bytes()
    for before, kept in ((whole, [template]), (b"", [])):
        path.write_bytes(before + rest)
        assert loaded(tmp_path) == kept
        store.append(template, tmp_path)
        assert path.read_bytes() == before + whole


def test_full_disk_leaves_the_file_as_it_was(template, tmp_path):
    store.append(template, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "smoke" / "fig2.jsonl").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        with pytest.raises(OSError, match="could not be written whole"):
            store.append(template | {"run_id": "next"}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert loaded(tmp_path) == [template] and (tmp_path / "smoke" / "fig2.jsonl").stat().st_size == size


@pytest.mark.parametrize("line", [b"no json", b"", b"[1]", b'{"run_id": "x"}', b"\xff\xfe"])
def test_corrupt_middle_line_names_file_and_line(template, tmp_path, line):
    store.append(template, tmp_path)
    path = tmp_path / "smoke" / "fig2.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"fig2\.jsonl, line 2: not"):
        loaded(tmp_path)


def made_at(template, second, **changes):
    started = f"2026-01-31T23:59:{second:02}+00:00"
    return template | {"provenance": template["provenance"] | {"started": started}} | changes


@pytest.mark.parametrize("newest", ["choices", "fig10", "fig2"])
def test_the_newest_record_of_a_run_counts_in_whichever_file_it_is(template, tmp_path, newest, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    assert store.load_all("smoke") == {} and not list(tmp_path.iterdir())
    files = ("choices", "fig10", "fig2")
    expected = {}
    for second, name in enumerate(files):
        shared = made_at(template, 30 if name == newest else second, experiment=name, run_id="shared")
        own = made_at(template, second, experiment=name, run_id=f"of {name}")
        for made in (shared, own):
            store.append(made)
        expected |= {own["run_id"]: own} | ({"shared": shared} if name == newest else {})
    store.append(made_at(template, 59, preset="laptop", run_id="shared"))
    (tmp_path / "smoke" / "notes.txt").write_text("no record")
    assert store.load_all("smoke") == expected
    assert list(store.load_all("laptop")) == ["shared"]


@pytest.mark.parametrize("value", [math.nan, [0.1, -math.inf]])
def test_numbers_that_are_not_finite_are_refused(template, tmp_path, value):
    with pytest.raises(ValueError, match="finite"):
        store.append(template | {"metrics": {"accuracy": value}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_run_id_is_of_kind_config_and_images():
    config, data = {"seed": 1, "method": "DCC", "net": {"depth": 8, "width": 16}}, {"digits": "0123"}
    first = store.run_id("PairRun", config, data)
    assert first == store.run_id("PairRun", dict(reversed(config.items())), data) and len(first) == 12
    kinds = [("UpdateRun", config, data), ("PairRun", config | {"seed": 2}, data), ("PairRun", config, {"digits": "4"})]
    assert len({first, *(store.run_id(*kind) for kind in kinds)}) == 4
    assert store.run_id("x", {"seed": 0, "ks": (1, 5)}, {}) == store.run_id("x", {"seed": 0, "ks": [1, 5]}, {})


def test_results_root(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPATKIT_RESULTS", raising=False)
    assert store.results_root() == CHECKOUT / "results"
    monkeypatch.setattr(store, "CHECKOUT", tmp_path / "site-packages")
    assert store.results_root() == Path("results")


# --- the index --------------------------------------------------------------------------------------------------------


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
    for made in (newest, record_of(one, 20), record_of(other, 10), record_of(one, 5, kind="UpdateRun")):
        store.append(made, tmp_path)
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
    assert index("smoke", tmp_path, KINDS).record(config) and len(loaded(tmp_path)) == 5


@pytest.mark.parametrize("change", ["gone", "replaced", "in place"])
def test_a_file_that_was_changed_or_removed_is_read_anew(tmp_path, change):
    first, second = PairRun(seed=0), PairRun(seed=1)
    store.append(record_of(first), tmp_path)
    assert index("smoke", tmp_path, KINDS).record(first)
    (file,) = (tmp_path / "smoke").iterdir()
    if change == "in place":
        file.write_text(json.dumps(record_of(second)) + "\n")
    else:
        file.unlink()
    if change == "replaced":
        store.append(record_of(second), tmp_path)
    found = index("smoke", tmp_path, KINDS)
    assert found.record(first) is None and bool(found.record(second)) is (change != "gone")


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
