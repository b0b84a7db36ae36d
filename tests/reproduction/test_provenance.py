"""Where records come from, which of them are stale, and that pages of results need no torch."""

import json
import os
import subprocess
import sys

import pytest

from reproduction.records import provenance
from reproduction.records.pins import Pins
from reproduction.records.provenance import CHECKOUT

from .recorded import record

PINS = Pins({"fig2": "version"}, images={"digits": ["0123", "4567"]})


@pytest.fixture(scope="module")
def template():
    return record()


@pytest.fixture
def pins(monkeypatch):
    monkeypatch.setattr(provenance, "pinned", lambda: PINS)


def test_provenance_names_versions_and_no_place(template):
    made = template["provenance"]
    assert made["started"] == "1970-01-01T00:00:00+00:00"
    assert made["processor"] == provenance.processor()
    assert {"python", "torch", "numpy", "compatkit"} <= set(made["versions"])
    assert str(CHECKOUT) not in json.dumps(made) and provenance.platform.node() not in made["machine"].split()
    assert made["commit"] is None or len(made["commit"]) == 40
    assert made["dirty"] in (True, False, None)
    assert json.loads(json.dumps(made)) == made


def run_git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


def test_provenance_in_and_outside_a_checkout(tmp_path, monkeypatch):
    def made():
        provenance.code_state.cache_clear()
        found = provenance.code_state()
        return found["commit"] is not None, found["dirty"]

    top = tmp_path.resolve()
    package = top / "package"
    package.mkdir()
    (package / "data.py").write_text("x = 1")
    monkeypatch.setattr(provenance, "CHECKOUT", top)
    monkeypatch.setenv("GIT_DIR", str(package / "hook"))  # as a hook would set it
    assert made() == (False, None)
    monkeypatch.delenv("GIT_DIR")
    for folder in ("results", "book"):
        (top / folder).mkdir()
        (top / folder / "page").write_text("old")
    run_git(top, "init", "-q")
    assert made() == (False, None)  # no commit yet
    run_git(top, "add", ".")
    run_git(top, "commit", "-q", "-m", "all")
    monkeypatch.setenv("GIT_DIR", str(package / "hook"))
    assert made() == (True, False)
    (top / "results" / "page").write_text("new")
    (top / "book" / "page").write_text("new")
    (package / "untracked.py").write_text("")
    assert made() == (True, False)
    (package / "data.py").write_text("x = 2")
    assert made() == (True, True)
    monkeypatch.setenv("PATH", "")
    assert made() == (False, None)
    provenance.code_state.cache_clear()


def test_a_record_is_stale_when_the_numbers_of_its_experiment_or_its_images_have_changed(template, pins):
    made = template["provenance"] | {"golden": "version"}
    fresh = template | {"provenance": made, "data": {"digits": "0123", "mine": "4567"}}
    assert not provenance.is_stale(fresh)
    assert not provenance.is_stale(fresh | {"data": {"digits": "4567"}}), "the same images but for rounding"
    for change in (
        {"provenance": made | {"golden": "an older version"}},
        {"provenance": made | {"golden": None}},
        {"data": {"digits": "drawn otherwise"}},
        {"experiment": "not pinned"},
    ):
        assert provenance.is_stale(fresh | change), change


def test_a_caption_is_a_short_sentence_and_the_rest_stands_apart(template, pins):
    made = template["provenance"] | {"golden": "version", "commit": "0123456789" * 4, "dirty": False}
    made |= {"versions": {"torch": "2.8.0"}, "processor": "a chip"}
    fresh = template | {"provenance": made}
    older = {"golden": None, "dirty": True, "started": "1970-01-03T00:00:00+00:00", "wall_seconds": 5400.0}
    old = template | {"provenance": made | older}
    gpu = template | {"provenance": made | {"device": "a GPU"}}
    assert provenance.summary([fresh]) == "1 run at preset smoke, under 2 minutes in all."
    assert provenance.summary([fresh, old]) == (
        "2 runs at preset smoke, 1.5 hours in all; "
        "1 of them stale: the code, or the images that it draws, has changed since."
    )
    assert provenance.details([fresh, gpu]).startswith("On a chip, a GPU, 1 thread a run")
    narrow = template | {"provenance": made | {"device": "cpu, bf16"}}
    assert provenance.details([narrow]).startswith("On a chip, bf16, ")
    assert provenance.details([fresh]) == "On a chip, 1 thread a run, commit 0123456, torch 2.8.0, 1970-01-01."
    line = provenance.details([fresh, old])
    assert "1970-01-01 to 1970-01-03" in line and line.endswith("1 from a tree with uncommitted changes.")
    assert "outside a checkout" in provenance.details([template | {"provenance": made | {"commit": None}}])
    assert provenance.summary([]) == "No runs."


def test_records_and_their_numbers_need_the_standard_library_only():
    code = (
        "import sys; from reproduction.records import provenance, published, verdicts; published.paper_numbers();"
        "print([m for m in ('torch', 'numpy', 'scipy', 'plotly', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_minutes_are_of_one_core_and_of_gpus_apart():
    def made(device, seconds, threads=1, resumed=False):
        return {"provenance": {"device": device, "wall_seconds": seconds, "threads": threads, "resumed": resumed}}

    assert provenance.cpu_minutes([]) == "0.0"
    assert provenance.cpu_minutes([made("cpu", 90), made("cpu", 30, threads=3)]) == "3.0"
    assert provenance.cpu_minutes([made("cpu", 60), made("NVIDIA A100, bf16", 600, threads=8)]) == "1.0 + 10.0 GPU"
    assert provenance.cpu_minutes([made("cpu", 60, resumed=True)]) == "≥ 1.0", "its first part was not counted"
