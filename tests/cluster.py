"""A cluster of Dask as people have one: a scheduler and two workers, processes of their own that talk over TCP."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


class Cluster:
    """The ``address``, and the processes of the ``scheduler`` and of two ``workers``."""

    def __init__(self, folder: Path, preload: str):
        (folder / "preload.py").write_text(preload)
        where = folder / "scheduler.json"
        self._said = open(folder / "said.txt", "w")  # noqa: SIM115
        self.scheduler = self._started("scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={where}")
        self.address = soon(
            lambda: where.exists() and where.stat().st_size and json.loads(where.read_text())["address"]
        )
        options = ["--nthreads=1", "--no-nanny", "--preload", folder / "preload.py", f"--local-directory={folder}"]
        self.workers = [self._started("worker", self.address, *options) for _ in range(2)]

    def _started(self, what: str, *options) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", what, *map(str, options), "--no-dashboard"]
        return subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=self._said, stderr=self._said
        )

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self._said.close()


def soon(found):
    """What ``found`` gives as soon as it gives something."""
    deadline = time.monotonic() + 60
    while not (x := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return x


@pytest.fixture
def cluster(tmp_path_factory):
    """Makes a cluster; each of its workers runs ``preload`` first."""
    pytest.importorskip("distributed")
    made = []

    def make(preload=""):
        made.append(Cluster(tmp_path_factory.mktemp("cluster"), preload))
        return made[-1]

    yield make
    for one in made:
        one.close()
