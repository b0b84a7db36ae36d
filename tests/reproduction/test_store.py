"""Records survive processes and kills."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproduction.records import store

from .recorded import record

CHECKOUT = Path(store.__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def template():
    return record()  # provenance asks git, which is slow to ask once a record


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=CHECKOUT)


APPENDER = """
import json, sys
from reproduction.records import store
record, root, worker, runs = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for i in range(runs):
    # long lines, so that a write without a lock would be torn
    store.append(record | {"run_id": f"{worker}-{i}", "curves": {"loss": [i] * 2000}}, root)
"""


def test_several_processes_append_at_once(template, tmp_path):
    workers = [start(APPENDER, json.dumps(template), tmp_path, w, 50) for w in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    loaded = store.load("fig2", "smoke", tmp_path)
    assert {r["run_id"] for r in loaded} == {f"{w}-{i}" for w in range(4) for i in range(50)}
    assert len((tmp_path / "smoke" / "fig2.jsonl").read_bytes().splitlines()) == 200


def test_killed_process_leaves_a_file_that_loads_and_takes_more(template, tmp_path):
    worker = start(APPENDER, json.dumps(template), tmp_path, 0, 10**6)
    path = tmp_path / "smoke" / "fig2.jsonl"
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 100_000):
        assert time.monotonic() < deadline and worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    before = store.load("fig2", "smoke", tmp_path)
    store.append(template, tmp_path)
    assert store.load("fig2", "smoke", tmp_path) == [*before, template]


@pytest.mark.parametrize("rest", [b"{", b'{"experiment": "fig2", ' + b" " * 200_000])
def test_unfinished_last_line_is_ignored_then_cut(template, tmp_path, rest):
    store.append(template, tmp_path)
    path = tmp_path / "smoke" / "fig2.jsonl"
    whole = path.read_bytes()
    for before, kept in ((whole, [template]), (b"", [])):
        path.write_bytes(before + rest)
        assert store.load("fig2", "smoke", tmp_path) == kept
        store.append(template, tmp_path)
        assert path.read_bytes() == before + whole


def test_full_disk_leaves_the_file_as_it_was(template, tmp_path, monkeypatch):
    store.append(template, tmp_path)
    write = store.os.write
    monkeypatch.setattr(store.os, "write", lambda descriptor, line: write(descriptor, line[:20]))
    with pytest.raises(OSError, match="could not be written whole"):
        store.append(template | {"run_id": "next"}, tmp_path)
    assert store.load("fig2", "smoke", tmp_path) == [template]


@pytest.mark.parametrize("line", [b"no json", b"", b"[1]", b'{"run_id": "x"}', b"\xff\xfe"])
def test_corrupt_middle_line_names_file_and_line(template, tmp_path, line):
    store.append(template, tmp_path)
    path = tmp_path / "smoke" / "fig2.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    for load in (lambda: store.load("fig2", "smoke", tmp_path), lambda: store.load_all("smoke", tmp_path)):
        with pytest.raises(ValueError, match=r"fig2\.jsonl, line 2: not"):
            load()


def test_newest_record_of_a_run_in_order_of_first_appearance(template, tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        store.append(template | {"run_id": name, "metrics": {"accuracy": value}}, tmp_path)
    loaded = store.load("fig2", "smoke", tmp_path)
    assert [(r["run_id"], r["metrics"]["accuracy"]) for r in loaded] == [("a", 3.0), ("b", 2.0)]


def test_no_file_no_folder_and_an_empty_one_have_no_records(tmp_path):
    assert store.load("fig2", "smoke", tmp_path) == [] and store.load_all("smoke", tmp_path) == {}
    assert not list(tmp_path.iterdir())
    (tmp_path / "smoke").mkdir()
    assert store.load_all("smoke", tmp_path) == {}


def made_at(template, second, **changes):
    started = f"2026-01-31T23:59:{second:02}+00:00"
    return template | {"provenance": template["provenance"] | {"started": started}} | changes


@pytest.mark.parametrize("newest", ["choices", "fig10", "fig2"])
def test_the_newest_record_of_a_run_counts_in_whichever_file_it_is(template, tmp_path, newest):
    files = ("choices", "fig10", "fig2")
    expected = {}
    for second, name in enumerate(files):
        shared = made_at(template, 30 if name == newest else second, experiment=name, run_id="shared")
        own = made_at(template, second, experiment=name, run_id=f"of {name}")
        for made in (shared, own):
            store.append(made, tmp_path)
        expected |= {own["run_id"]: own} | ({"shared": shared} if name == newest else {})
    store.append(made_at(template, 59, preset="laptop", run_id="shared"), tmp_path)
    assert store.load_all("smoke", tmp_path) == expected
    assert list(store.load_all("laptop", tmp_path)) == ["shared"]


def test_records_of_all_experiments_are_those_of_each(template, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    for second, name, run in ((1, "fig2", "a"), (2, "fig2", "b"), (3, "fig2", "a"), (0, "fig8", "c")):
        store.append(made_at(template, second, experiment=name, run_id=run), tmp_path)
    (tmp_path / "smoke" / "notes.txt").write_text("no record")
    (tmp_path / "smoke" / "folder").mkdir()
    with open(tmp_path / "smoke" / "fig8.jsonl", "a") as file:
        file.write('{"experiment": "fig8", ')  # of a killed process
    each = [*store.load("fig2", "smoke"), *store.load("fig8", "smoke")]
    assert store.load_all("smoke") == {r["run_id"]: r for r in each}
    assert store.load_all("smoke")["a"]["provenance"]["started"].endswith("03+00:00")


@pytest.mark.parametrize("value", [math.nan, math.inf, [0.1, -math.inf], {"deep": [math.nan]}])
def test_numbers_that_are_not_finite_are_refused(template, tmp_path, value):
    with pytest.raises(ValueError, match="finite"):
        store.append(template | {"metrics": {"accuracy": value}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_incomplete_record_and_wrong_names_are_refused(template, tmp_path):
    with pytest.raises(ValueError, match="lacks seed"):
        store.append({key: value for key, value in template.items() if key != "seed"}, tmp_path)
    for name in ("../escape", "", "a/b", ".hidden", None):
        with pytest.raises(ValueError, match="experiment"):
            store.append(template | {"experiment": name}, tmp_path)
        with pytest.raises(ValueError, match="preset"):
            store.load("fig2", name, tmp_path)


def test_run_id_is_of_kind_config_and_images():
    config, data = {"seed": 1, "method": "DCC", "net": {"depth": 8, "width": 16}}, {"digits": "0123"}
    first = store.run_id("PairRun", config, data)
    assert first == store.run_id("PairRun", dict(reversed(config.items())), data) and len(first) == 12
    kinds = [
        ("UpdateRun", config, data),
        ("PairRun", config | {"seed": 2}, data),
        ("PairRun", config, {"digits": "4567"}),
    ]
    assert len({first, *(store.run_id(*kind) for kind in kinds)}) == 4
    assert store.run_id("x", {"seed": 0, "ks": (1, 5)}, {}) == store.run_id("x", {"seed": 0, "ks": [1, 5]}, {})
    with pytest.raises(ValueError, match="seed"):
        store.run_id("PairRun", {"method": "DCC"}, {})


def test_results_root(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPATKIT_RESULTS", raising=False)
    assert store.results_root() == CHECKOUT / "results"
    monkeypatch.setattr(store, "CHECKOUT", tmp_path / "site-packages")
    assert store.results_root() == Path("results")
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    assert store.results_root() == tmp_path
