"""The runs of an experiment by workers of a real cluster, over TCP, one of which is killed."""

import os
import signal
import threading
import time

import pytest

from reproduction.__main__ import main
from reproduction.experiments import configs
from reproduction.runs import runner

from ..cluster import cluster, soon  # noqa: F401
from .recorded import stored

TINY = {"recipe.steps": 8, "recipe.batch_size": 10, "n_train": 20, "n_test": 20, "width": 2}
SET = [f"--set={name}={value}" for name, value in TINY.items()]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    return tmp_path


# a run of the worker that is to be killed never ends: so it is killed in one, and its lock is held
STUCK = """
import os, time
from pathlib import Path
from reproduction.runs import kinds, runner
def stuck(config):
    if Path({told!r}).exists() and Path({told!r}).read_text() == str(os.getpid()):
        time.sleep(1000)
    return kinds.kind_of(config)
runner.kind_of = stuck
"""


def test_a_worker_that_is_killed_costs_nothing(cluster, folder, tmp_path_factory, capsys):  # noqa: F811
    told = tmp_path_factory.mktemp("told") / "pid"
    workers = cluster(STUCK.format(told=str(told)))
    victim, other = workers.workers

    def kill():
        soon(lambda: len(stored("fig2", folder)) >= 6)
        told.write_text(str(victim.pid))
        time.sleep(2)  # until it is stuck
        locks.extend(folder.glob(".checkpoints/*.lock"))
        os.kill(victim.pid, signal.SIGKILL)

    locks = []
    killer = threading.Thread(target=kill)
    killer.start()
    assert main(["run", "fig2", "--preset=smoke", f"--scheduler={workers.address}", *SET]) == 0
    killer.join()
    assert victim.wait() == -signal.SIGKILL and other.poll() is None and locks
    assert "fig2: 18 runs at preset smoke" in capsys.readouterr().out
    lines = (folder / "smoke" / "fig2.jsonl").read_text().splitlines()
    found = stored("fig2", folder)
    assert len(lines) == len(found) == len(configs("fig2", "smoke")) == 18, "none is lost and none is double"
    assert not list((folder / ".checkpoints").iterdir())


def test_the_records_are_those_of_one_process(cluster, folder):  # noqa: F811
    options = ["run", "fig2", "--preset=smoke", "--rows=IIW;RP", *SET]
    assert main([*options, f"--scheduler={cluster().address}"]) == 0
    by_workers = stored("fig2", folder)
    here = runner.records("fig2", "smoke", settings=TINY, rows=("IIW", "RP"), root=folder / "here", device="cpu")
    assert {r["run_id"]: r["metrics"] for r in by_workers} == {r["run_id"]: r["metrics"] for r in here}


def test_what_killed_processes_left_is_removed_where_no_run_is_made_again(folder, trained):
    configs_of = runner.plan("fig2", "smoke", None, {}, ("IIW",))
    jobs = [runner.Job("fig2", "smoke", config, folder, "cpu", 1) for _, config in configs_of]
    for job in jobs:
        job.lock.parent.mkdir(exist_ok=True)
        job.lock.touch()
    with pytest.raises(runner.RunsFailed):
        list(runner.make_all(jobs, executor=Gone()))
    assert not list((folder / ".checkpoints").iterdir()) and not trained


class Gone(runner.Executor):
    """A scheduler that is gone, so that all is cancelled."""

    def submit(self, *work):
        future = runner.Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


@pytest.mark.parametrize(("address", "status"), [("nowhere", 2), ("tcp://127.0.0.1:1", 1)])
def test_a_scheduler_that_is_not_there(capsys, trained, address, status):
    assert main(["run", "fig2", "--preset=smoke", f"--scheduler={address}"]) == status
    assert capsys.readouterr().err.startswith("reproduction: scheduler: ") and not trained
