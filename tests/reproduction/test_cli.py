"""python -m reproduction: what it prints, and how it answers mistakes."""

import os
import signal
import subprocess
import sys

import pytest

from reproduction import experiments
from reproduction.__main__ import main
from reproduction.experiments import EXPERIMENTS, PRESETS
from reproduction.records import pins, provenance
from reproduction.records import store as records
from reproduction.runs import pair, runner

from .recorded import stored


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    return tmp_path


def table(capsys):
    """What ``status`` prints: recorded, planned, seeds, other, stale, minutes by experiment and preset."""
    assert main(["status"]) == 0
    where, header, *lines = capsys.readouterr().out.splitlines()
    assert where == f"records in {records.results_root()}"
    assert header.split() == ["experiment", "preset", "recorded", "planned", "seeds", "other", "stale", "minutes"]
    assert {len(line) for line in (header, *lines)} == {17 + 9 + 9 + 9 + 7 + 7 + 7 + 9}, (
        "columns stand below each other"
    )
    rows = {}
    for line in lines:
        name, preset, *counts, minutes = line.split()
        assert line.index(preset) == header.index("preset") and line.startswith(name)
        rows[name, preset] = (*map(int, counts), float(minutes))
    return rows


def test_list_says_what_each_experiment_is_and_how_many_runs_it_takes(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "recombination accuracy" in out and "76.7" in out
    names = [line for line in out.splitlines() if line and not line.startswith(" ")]
    runs = [line.removeprefix("    Runs: ") for line in out.splitlines() if line.startswith("    Runs: ")]
    assert names == list(EXPERIMENTS)
    for name, listed in zip(names, runs, strict=True):
        counts = [f"{len(experiments.configs(name, preset))} at {preset}" for preset in PRESETS]
        assert listed == ", ".join(counts) + "."


def test_settings_are_printed_with_every_value_that_the_runs_have(capsys):
    assert main(["settings", "fig8"]) == 0
    name, *lines = capsys.readouterr().out.splitlines()
    found = dict(line.split(maxsplit=1) for line in lines)
    assert name == "fig8" and found["network"] == "resnet56" and found["recipe.decay_every"] == "5000"
    assert found["method"] == "IIW+RP | IIW+DCC" and found["split_at"].count(" | ") == 27, "28 boundaries"
    assert main(["settings", "--preset", "laptop"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == list(EXPERIMENTS)


def test_list_says_what_the_records_cost(capsys, trained, monkeypatch):
    original = provenance.provenance
    monkeypatch.setattr(runner, "provenance", lambda **made: original(**made | {"wall_seconds": 90.0, "threads": 2}))
    assert main(["run", "fig2", "--preset", "smoke"]) == 0
    capsys.readouterr()
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert out.count("On record, of one core: 18 runs at smoke took 54.0 minutes.") == 2, "of fig2, and so of fig10"
    assert "Nothing is on record." in out


def test_listing_and_status_need_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for command in ("list", "status"):
        arguments = [sys.executable, "-m", "reproduction", command]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "table6" in done.stdout, done.stderr


def test_run_then_status(capsys):
    tiny = ["--set", "recipe.steps=2", "--set", "n_train=60", "--set", "n_test=60", "--set", "method=IIW"]
    assert main(["run", "fig2", "--preset", "smoke", "--seeds", "3-4", *tiny]) == 0
    assert "fig2: 4 runs at preset smoke, " in capsys.readouterr().out
    assert {r["seed"] for r in stored("fig2")} == {3, 4}
    assert table(capsys)["fig2", "smoke"][:5] == (0, 18, 0, 4, 0), "recorded, planned, seeds, other, stale"


def test_all_is_every_experiment_with_the_options_given(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(runner, "records", lambda *names, **options: calls.append((names, options)) or [])
    chosen = {"--preset": "smoke", "--seeds": "0,2", "--set": "seed=7", "--jobs": "2", "--threads": "3"}
    arguments = [word for option in (chosen | {"--device": "cpu"}).items() for word in option]
    assert main(["run", "all", "--refresh", *arguments]) == 0
    assert [names for names, _ in calls] == [(name, "smoke") for name in EXPERIMENTS]
    expected = {"seeds": [0, 2], "settings": {"seed": 7}, "rows": [], "executor": None}
    expected |= {"jobs": 2, "threads": 3, "device": "cpu", "refresh": True}
    assert all(options == expected for _, options in calls)
    assert capsys.readouterr().out.splitlines() == [f"{name}: No runs." for name in EXPERIMENTS]


def test_rows_are_named_with_semicolons_between(trained):
    assert main(["run", "fig2", "--preset", "smoke", "--rows", "IIW; RP+DCC"]) == 0
    assert {config.method for config in trained} == {"IIW", "RP+DCC"} and len(trained) == 4


def test_shared_runs_are_recorded_for_every_experiment_that_plans_them(capsys, trained, monkeypatch):
    assert main(["run", "fig2", "--preset", "smoke"]) == main(["run", "fig5", "--preset", "smoke", "--seeds", "1"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(provenance, "is_stale", lambda r: r["config"]["method"] == "IIW+DCC")
    shown = table(capsys)
    assert list(shown) == [(name, preset) for name in EXPERIMENTS for preset in PRESETS]
    fig2 = set(experiments.configs("fig2", "smoke"))
    for (name, preset), (recorded, planned, seeds, other, stale, _) in shown.items():
        configs = experiments.configs(name, preset)
        made = [config for config in configs if config in fig2]
        assert (recorded, planned) == (len(made), len(configs)), (name, preset)
        assert seeds == min(1, len(made)), (name, preset)
        assert other == (10 if (name, preset) == ("fig5", "smoke") else 0), (name, preset)
        assert stale == sum(config.method == "IIW+DCC" for config in made) + other, (name, preset)
    assert shown["fig10", "smoke"][:5] == (18, 18, 1, 0, 2)
    assert shown["incremental", "smoke"][:5] == (2, 6, 1, 0, 0)
    assert shown["fig5", "smoke"][:5] == (2, 10, 1, 10, 12)
    assert shown["fig2_pretrained", "smoke"][:5] == (0, 9, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fig2 fig99", "fig99"),
        ("fig2 all", "all"),
        ("fig2 incremental fig-5", "fig-5"),
        ("fig2 --set speed=3", "speed"),
        ("fig9 --set dcc_classes=1", "dcc_classes"),
        ("fig2 --rows RP;ABC", "ABC"),
        ("all --set normalization=group", "normalization"),
        ("fig2 fig5 --set a=nowhere", "no image set 'nowhere'"),
        ("fig2 fig5 --set n_train=1", "n_train"),
        ("fig2 stitching --set n_train=20", "stitches: digits has 20"),  # the second one alone
    ],
)
def test_mistakes_get_one_line_before_any_run(arguments, message, capsys, folder, trained):
    assert main(["run", *arguments.split(), "--preset", "smoke"]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("reproduction: ") and message in error and len(error.splitlines()) == 1
    assert out == "" and not trained and not list(folder.iterdir())


def test_what_is_not_pinned_is_said_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr(pins, "pinned", pins.Pins)
    assert main(["run", "fig2", "--preset", "smoke", "--set", "a=nowhere"]) == 2
    first, error = capsys.readouterr().err.splitlines()
    assert "its records will be stale; golden fig2 --accept comes first" in first and "nowhere" in error


def test_an_experiment_that_fails_does_not_stop_the_others(capsys, monkeypatch):
    def run(config, context):
        if config.scheme == "incremental":
            raise FloatingPointError("infinite")
        return {"recombination/mean": 0.5}

    monkeypatch.setattr(pair, "run", run)
    assert main(["run", "incremental", "fig2", "--preset", "smoke"]) == 1
    out, error = capsys.readouterr()
    assert out.startswith("fig2: 18 runs at preset smoke") and len(out.splitlines()) == 1
    assert error.startswith("reproduction: incremental: 4 of 6 runs failed") and "infinite" in error


def test_interrupting_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr(pair, "run", lambda config, context: signal.raise_signal(signal.SIGINT))
    assert main(["run", "fig2", "--preset", "smoke"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "status"])
def test_a_reader_who_has_seen_enough_gets_no_traceback(command):
    script = f"set -o pipefail; {sys.executable} -m reproduction {command} | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "fig2", "--set", "speed"], "'--set': NAME=VALUE is needed, got 'speed'"),
        (
            ["run", "fig2", "--seeds", "one"],
            "'--seeds': numbers or rising ranges are needed, such as 0,1,5-7, got 'one'",
        ),
        (["run", "fig2", "--seeds", "3-1"], "such as 0,1,5-7, got '3-1'"),
        (["run", "fig2", "--preset", "huge"], "'huge' is not one of 'smoke'"),
        (["run"], "EXPERIMENT"),
        ([], "Commands:"),
    ],
)
def test_malformed_arguments(arguments, message, capsys, trained):
    assert main(arguments) == 2 and not trained
    assert message in capsys.readouterr().err
