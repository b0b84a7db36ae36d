"""A gallery that workers of a real cluster map, over TCP: the same bits, also where workers and clients are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gallerykit import stream
from gallerykit.__main__ import main
from gallerykit.upgrade import apply_map, upgrade

from ..cluster import cluster, soon  # noqa: F401
from .test_sources import IDS, content, store, table  # noqa: F401
from .test_upgrade import CHUNK, QUICK, ROWS, changed, files, hidden, read, with_nan  # noqa: F401

PARTS = -(-ROWS // CHUNK)
NOTED = """
import os, time
from gallerykit.maps import Map
call = getattr(Map.__call__, "call", Map.__call__)  # Dask runs this twice
def noted(self, old, side=None):
    time.sleep({seconds})
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{len(old)}}\\n")
    return call(self, old, side)
noted.call, Map.__call__ = call, noted
"""


CLIENT = """
import signal, sys
import torch
from gallerykit.__main__ import main
from gallerykit import stream
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that run in the background ignore
torch.set_num_threads(1)
stream.PART_CHUNKS = 1
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(stream, "PART_CHUNKS", 1)


@pytest.fixture
def noting(cluster, tmp_path):  # noqa: F811
    """A cluster whose workers take so many seconds for a chunk, and a function that tells who mapped how many rows."""

    def make(seconds=0.0):
        log = tmp_path / "log.txt"

        def noted():
            return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []

        return cluster(NOTED.format(seconds=seconds, log=str(log))), noted

    return make


@pytest.mark.parametrize("kind", ["npy", "parquet", "folder", "lance", "postgresql"])
def test_workers_write_the_same_bits(files, store, noting, kind):  # noqa: F811
    put, url = store
    vectors = np.load(files["gallery"])
    gallery = str(files["gallery"]) if kind == "npy" else put(kind, "gallery_old", table(vectors, IDS))
    outs = [str(files["out"].with_name(f"{x}.npy")) if kind == "npy" else url(kind, x) for x in ("one", "many")]
    before = None if kind == "npy" else content(gallery)
    upgrade(files["old"], files["new"], gallery, outs[0], method="ridge", **QUICK)
    workers, noted = noting()
    upgrade(files["old"], files["new"], gallery, outs[1], method="ridge", scheduler=workers.address, **QUICK)
    assert (read(outs[0]) == read(outs[1])).all() and len(read(outs[1])) == ROWS
    assert sum(rows for _, rows in noted()) == ROWS and len({worker for worker, _ in noted()}) <= 2
    if kind == "folder":
        assert {p.name: p.read_bytes() for p in Path(outs[0]).iterdir()} == {
            p.name: p.read_bytes() for p in Path(outs[1]).iterdir()
        }
    elif kind != "npy":
        one, many = (content(out) for out in outs)
        assert [r[:2] for r in one] == [r[:2] for r in many] if kind == "postgresql" else one == many
    assert (before is None or content(gallery) == before) and not hidden(files)


def test_side_information_in_another_order(files, store, noting):  # noqa: F811
    put, url = store
    order = np.random.default_rng(0).permutation(ROWS)
    gallery = put("folder", "items", table(np.load(files["gallery"]), IDS))
    beside = put("parquet", "beside", table(np.load(files["gallery_side"])[order], IDS[order]))
    paths = [files["old"], files["new"], gallery]
    options = {"side": files["side"], "gallery_side": beside, "method": "h"} | QUICK
    upgrade(*paths, url("folder", "one"), **options)
    upgrade(*paths, url("folder", "many"), scheduler=noting()[0].address, **options)
    assert content(url("folder", "one")) == content(url("folder", "many"))


def killed_half_way(process, noted, rows=ROWS // 3):
    """Kill a process when so many rows are mapped, in a thread; returns it."""

    def kill():
        soon(lambda: sum(count for _, count in noted()) >= rows)
        os.kill(process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_a_worker_is_killed(files, store, noting, kind):  # noqa: F811
    put, url = store
    paths = [files["old"], files["new"], put(kind, "items", table(np.load(files["gallery"]), IDS))]
    upgrade(*paths, url(kind, "one"), method="ridge", **QUICK)
    workers, noted = noting(0.3)
    killer = killed_half_way(workers.workers[0], noted)
    upgrade(*paths, url(kind, "many"), method="ridge", scheduler=workers.address, **QUICK)
    killer.join()
    assert workers.workers[0].wait() == -signal.SIGKILL and workers.workers[1].poll() is None
    assert content(url(kind, "one")) == content(url(kind, "many")) and not hidden(files)
    assert {worker for worker, _ in noted()} == {process.pid for process in workers.workers}, "both had their share"
    assert ROWS <= sum(rows for _, rows in noted()) <= ROWS + CHUNK, "at most one part was made twice"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_is_interrupted_goes_on_with_the_parts_that_are_made(files, store, noting, how):  # noqa: F811
    put, url = store
    gallery = put("folder", "items", table(np.load(files["gallery"]), IDS))
    upgrade(files["old"], files["new"], gallery, url("folder", "one"), method="ridge", **QUICK)
    workers, noted = noting(0.3)
    paths = {"old": files["old"], "new": files["new"], "gallery": gallery, "out": url("folder", "many")}
    options = {"method": "ridge", "scheduler": workers.address, "chunk": CHUNK, "width": 8, "steps": 6}
    command = ["upgrade", *(f"--{name}={x}" for name, x in (paths | options).items())]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *command], stderr=subprocess.PIPE, text=True)
    soon(lambda: sum(rows for _, rows in noted()) >= ROWS // 3)
    client.send_signal(how)
    _, said = client.communicate()
    assert client.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), said
    assert not Path(paths["out"]).exists() and hidden(files)
    time.sleep(1.5)  # for workers to end what they had begun, which is no loss
    (made,) = Path(paths["out"]).with_name(".many.upgrade").glob("parts-*")
    before = {path: path.stat().st_mtime_ns for path in made.glob("*.npy")}
    assert before and len(before) < PARTS
    assert main(command) == 0
    assert content(url("folder", "one")) == content(url("folder", "many")) and not hidden(files)
    assert sum(rows for _, rows in noted()) == ROWS, "no part was made twice"


def test_bad_input_is_refused_by_row_and_leaves_nothing(files, noting):  # noqa: F811
    changed("gallery", with_nan)(files)
    workers, _ = noting(0.1)
    paths = [files[name] for name in ("old", "new", "gallery", "out")]
    with pytest.raises(ValueError, match="gallery: row 71 .* has NaN"):
        upgrade(*paths, method="ridge", scheduler=workers.address, **QUICK)
    assert not hidden(files) and not files["out"].exists()


def test_parts_are_kept_where_the_new_gallery_cannot_be_written(files, store, noting, monkeypatch):  # noqa: F811
    def fail(*_):
        raise ValueError("no")

    put, url = store
    paths = [files["old"], files["new"], put("folder", "items", table(np.load(files["gallery"]), IDS))]
    options, noted = {"method": "ridge"} | QUICK, noting()
    with monkeypatch.context() as patch:
        patch.setattr(stream, "files_by_workers", fail)
        with pytest.raises(OSError, match="out: .*out cannot be written .no.. What is done is kept"):
            upgrade(*paths, url("folder", "out"), scheduler=noted[0].address, **options)
    upgrade(*paths, url("folder", "out"), scheduler=noted[0].address, **options)
    assert sum(rows for _, rows in noted[1]()) == ROWS and not hidden(files)


def test_a_saved_map_is_applied(files, noting):  # noqa: F811
    saved = files["out"].with_name("map.safetensors")
    upgrade(files["old"], files["new"], save_map=saved, method="ridge", **QUICK)
    outs = [files["out"].with_name(name) for name in ("one.npy", "many.npy")]
    apply_map(saved, files["gallery"], outs[0], chunk=CHUNK)
    apply_map(saved, files["gallery"], outs[1], chunk=CHUNK, scheduler=noting()[0].address)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_table_that_grows_meanwhile_is_refused(files, store, noting, monkeypatch):  # noqa: F811
    put, url = store
    items = table(np.load(files["gallery"]), IDS)
    gallery, write = put("lance", "items", items), stream.Stream._write

    def growing(*args):
        write(*args)
        import lancedb

        lancedb.connect(gallery.removeprefix("lance:").partition("#")[0]).open_table("items").add(items)

    monkeypatch.setattr(stream.Stream, "_write", growing)
    with pytest.raises(ValueError, match="has changed meanwhile"):
        upgrade(files["old"], files["new"], gallery, url("lance", "out"), method="ridge",
                scheduler=noting()[0].address, **QUICK)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("nowhere", 2, "scheduler: must be an address such as tcp://host:8786, got 'nowhere'"),
        ("tcp://127.0.0.1:1", 1, "scheduler: tcp://127.0.0.1:1 does not answer"),
    ],
)
def test_a_scheduler_that_is_not_there(files, capsys, address, status, message):  # noqa: F811
    paths = [f"--{name}={files[name]}" for name in ("old", "new", "gallery", "out")]
    assert main(["upgrade", *paths, "--method=ridge", f"--scheduler={address}"]) == status
    assert message in capsys.readouterr().err and not hidden(files)


def test_a_scheduler_without_a_gallery_is_refused(files):  # noqa: F811
    with pytest.raises(ValueError, match="scheduler: must be left out where no gallery is written"):
        upgrade(files["old"], files["new"], dry_run=True, scheduler="tcp://host:8786", **QUICK)


def test_parquet_files_keep_their_rows(files, store, noting):  # noqa: F811
    put, url = store
    gallery = put("folder", "items", table(np.load(files["gallery"]), IDS))
    upgrade(files["old"], files["new"], gallery, url("folder", "out"), method="ridge",
            scheduler=noting()[0].address, **QUICK)  # fmt: skip
    found, was = (sorted(Path(folder).iterdir()) for folder in (url("folder", "out"), gallery))
    assert [p.name for p in found] == [p.name for p in was]
    assert [pq.read_table(p)["id"] for p in found] == [pq.read_table(p)["id"] for p in was]
