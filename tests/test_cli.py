"""python -m compatkit: what it prints, and how it answers mistakes."""

import pytest

from compatkit import results
from compatkit.__main__ import main


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    return tmp_path


def test_list_says_what_each_experiment_is(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "fig2" in out and "recombination accuracy" in out and "76.7" in out


def test_run_then_status(capsys, store):
    tiny = ["--set", "recipe.steps=2", "--set", "n_train=60", "--set", "n_test=60"]
    assert main(["run", "fig2", "--preset", "smoke", "--seeds", "3-4", *tiny]) == 0
    assert "36 runs on cpu (1 thread)" in capsys.readouterr().out
    assert {r["seed"] for r in results.load("fig2", "smoke")} == {3, 4}
    assert main(["status"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("fig2        smoke"))
    assert line.split()[2:6] == ["0", "18", "36", "0"], "recorded, planned, other, stale"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "fig99"], "fig99"),
        (["run", "fig2", "--preset", "huge"], "huge"),
        (["run", "fig2", "--preset", "smoke", "--set", "speed=3"], "speed"),
    ],
)
def test_mistakes_get_a_sentence_and_no_traceback(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("compatkit: ") and message in error


def test_failed_runs_are_named(capsys):
    assert main(["run", "fig2", "--preset", "smoke", "--set", "a=nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("compatkit: 18 of 18 runs failed") and "no image set 'nowhere'" in error
    assert "Traceback" not in error


def test_malformed_arguments(capsys):
    for arguments in (["run", "fig2", "--set", "speed"], ["run", "fig2", "--seeds", "one"], []):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
