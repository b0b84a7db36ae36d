"""From configs to records: nothing is trained twice, what is interrupted goes on, bad settings are answered."""

import functools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch

from compatkit.image_files import write_npz
from reproduction import experiments
from reproduction.images import load
from reproduction.records import provenance
from reproduction.records.pins import Pins, pinned
from reproduction.records.provenance import is_stale
from reproduction.runs import pair, runner
from reproduction.runs.context import Context

from ..conftest import each_step, on_each_step
from ..samples import small_set
from .recorded import stored
from .world import TINY
from .world import tiny_pair as tiny


def records(root, name="fig2", **options):
    return runner.records(name, "smoke", **{"settings": TINY, "show_progress": False, "root": root} | options)


def job_of(config, root, name="fig2"):
    return runner.Job(name, "smoke", config, root, "cpu", 1)


def other_code(monkeypatch):
    monkeypatch.setattr(runner, "pinned", lambda: Pins({"fig2": "of other code"}))


# --- what is made -----------------------------------------------------------------------------------------------------


def test_a_run_that_several_experiments_plan_is_made_once(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(runner, "check", lambda *runs: None)  # which the chapters do at this preset
    found = {name: records(tmp_path, name, settings={}) for name in experiments.EXPERIMENTS}
    plans = {name: experiments.configs(name, "smoke") for name in experiments.EXPERIMENTS}
    assert trained == list(dict.fromkeys(config for plan in plans.values() for config in plan))
    for name in plans:
        assert [(r["row"], r["config"]) for r in found[name]] == [
            (row, runner.named(config)[1]) for row, config in experiments.plan(name, "smoke")
        ]
    files = {path.stem for path in (tmp_path / "smoke").iterdir()}
    assert files == set(plans) - {"fig6", "fig10", "chance"}, "these need nothing of their own"
    monkeypatch.setattr(runner, "make", lambda *a: pytest.fail("a recorded run was made again"))
    for name in reversed(plans):
        assert records(tmp_path, name, settings={}) == found[name]


def test_a_stale_run_made_again_for_one_experiment_is_new_for_all(tmp_path, trained, monkeypatch):
    day, original = [1], provenance.provenance
    monkeypatch.setattr(runner, "provenance", lambda **made: original(**made | {"started": 86400.0 * day[0]}))
    monkeypatch.setattr(runner, "is_stale", lambda record: record["provenance"]["started"] < "1970-01-05")
    for name, today, refresh, made in (
        ("fig2", 1, False, 18),
        ("fig2", 2, False, 0),
        ("fig10", 7, True, 18),
        ("fig2", 8, True, 0),
        ("incremental", 9, True, 4),
    ):
        trained.clear()
        day[0] = today
        found = records(tmp_path, name, settings={}, refresh=refresh)
        assert len(trained) == made, (name, today)
    joint = [r for r in found if r["config"]["scheme"] == "joint"]
    assert {r["provenance"]["started"][:10] for r in joint} == {"1970-01-08"} and len(joint) == 2
    assert {r["experiment"] for r in joint} == {"fig10"}


def test_a_run_that_another_process_has_made_meanwhile_is_not_made_again(tmp_path):
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(runner.make, [job_of(tiny(), tmp_path, name) for name in ("fig2", "fig2", "fig10")]))
    assert made[0] == made[1] == made[2]
    (file,) = (tmp_path / "smoke").iterdir()
    assert stored(file.stem, tmp_path) == made[:1] and len(file.read_text().splitlines()) == 1


def test_a_record_says_where_it_comes_from(tmp_path, monkeypatch):
    record = records(tmp_path, seeds=[7], settings=TINY | {"method": "RP"})[0]
    assert record["data"] == {name: load(name).digest for name in ("digits", "mnist5k")}
    assert record["kind"] == "PairRun" and record["seed"] == record["config"]["seed"] == 7
    made = record["provenance"]
    assert made["golden"] == pinned().versions["fig2"] and made["processor"] == provenance.processor() != ""
    assert made["device"] == "cpu" and made["threads"] == 1 and made["wall_seconds"] > 0 and made["peak_memory_mb"] > 0
    assert made["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert not is_stale(record)
    for pins in (Pins({"fig2": "other numbers"}), Pins(pinned().versions, images={"digits": "other images"}), Pins()):
        monkeypatch.setattr(provenance, "pinned", lambda pins=pins: pins)
        assert is_stale(record)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 1])
def test_runs_that_fail_are_named_when_all_have_been_tried(tmp_path, threads):
    settings = TINY | {"recipe.lr": 1e30, "recipe.steps": 200, "n_train": 20, "width": 2}
    executor = ThreadPoolExecutor(threads) if threads else None
    with pytest.raises(runner.RunsFailed, match="18 of 18 runs failed") as failed:
        records(tmp_path, settings=settings, executor=executor)
    assert isinstance(failed.value.__cause__, FloatingPointError)


def test_a_killed_worker_ends_in_a_sentence_that_says_how_to_go_on(tmp_path):
    class Killed(Executor):
        def submit(self, *work):
            future = Future()
            future.set_exception(BrokenProcessPool("a process in the pool was terminated abruptly"))
            return future

    with pytest.raises(runner.RunsFailed, match="a worker process was killed.*the same command goes on") as failed:
        records(tmp_path, executor=Killed())
    assert failed.value.__cause__ is None


def test_an_interrupted_run_goes_on_from_its_checkpoint_unless_it_computes_otherwise(tmp_path, monkeypatch):
    config = tiny(method="IIW+RP+DCC", scheme="incremental")
    job, trained = job_of(config, tmp_path), []

    def interrupted(tasks, recipe, step):
        trained.append(step)
        if len(trained) == config.recipe.steps + 1:
            raise KeyboardInterrupt  # in the training of the second network

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted)
        runner.make(job)
    taken = each_step(monkeypatch, lambda tasks, recipe: 1)
    with monkeypatch.context() as patch:
        other_code(patch)
        runner.make(replace(job, root=tmp_path / "changed"))
        assert job.checkpoints.parent.exists() and not job.checkpoints.exists(), "other code starts anew"
    taken.clear()
    record = runner.make(job)
    assert len(taken) == config.recipe.steps, "the first network was finished, the second not begun"
    assert record["provenance"]["resumed"]
    assert record["metrics"] == pair.run(config, Context()), "the same bits as without a break"
    assert not list((tmp_path / ".checkpoints").iterdir())


@pytest.mark.parametrize(("option", "value"), [("device", "tpu"), ("device", "cuda:99"), ("threads", 0), ("jobs", 0)])
def test_bad_options_are_answered(tmp_path, option, value):
    with pytest.raises(ValueError, match=option):
        records(tmp_path, **{option: value})


def test_processes_that_are_interrupted_leave_what_goes_on_to_the_same_numbers(tmp_path):
    settings = {"recipe.steps": 8, "recipe.batch_size": 10, "n_train": 20, "n_test": 20, "width": 2}
    command = [sys.executable, "-m", "reproduction", "run", "fig2", "--preset", "smoke", "--jobs", "2"]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    environment = os.environ | {"COMPATKIT_RESULTS": str(tmp_path)}
    # a shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, preexec_fn=heed, **pipes)
    file = tmp_path / "smoke" / "fig2.jsonl"
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    assert 0 < len(stored("fig2", tmp_path)) < 18
    with ThreadPoolExecutor(1) as executor:
        found = records(tmp_path, settings=settings, executor=executor)
    assert len(file.read_text().splitlines()) == len(found) == 18, "finished runs were not made again"
    alone = records(tmp_path / "alone", settings=settings)
    assert [(r["run_id"], r["metrics"]) for r in found] == [(r["run_id"], r["metrics"]) for r in alone]


def test_the_training_path_needs_only_torch_and_numpy(tmp_path):
    for seed, name in enumerate(("one", "two")):
        write_npz(tmp_path / f"{name}.npz", small_set(n=60, size=16, seed=seed))
    script = """
import sys
import torch, torch._dynamo  # which look for other packages themselves

class Absent:
    names = "scipy sklearn mlxtend matplotlib PIL plotly ipywidgets IPython tqdm torchvision yaml".split()
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is absent on this machine")

sys.meta_path.insert(0, Absent())
from reproduction.__main__ import main
settings = "a=one b=two left_out=() recipe.steps=3 recipe.batch_size=20 recipe.crop=1 recipe.flip=True".split()
command = ["run", "fig2", "--preset", "smoke", *(word for s in settings for word in ("--set", s))]
sys.exit(main(command) or main(["status"]) or main(["list"]))
"""
    environment = os.environ | {"COMPATKIT_RESULTS": str(tmp_path / "results"), "COMPATKIT_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(stored("fig2", tmp_path / "results")) == 9, "two pairs became one"
