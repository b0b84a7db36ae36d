"""Workers of a real cluster as an executor, and what is said where they or the scheduler are gone."""

import operator
import os
import time

import pytest

from gallerykit import maps
from gallerykit.carry import carry
from gallerykit.scheduler import workers_of

from ..cluster import cluster  # noqa: F401
from .world import content, pairs, read, table


def test_workers_are_an_executor(cluster):  # noqa: F811
    with workers_of(cluster().address) as executor:
        assert executor.submit(operator.add, 1, 2).result() == 3
        with pytest.raises(ZeroDivisionError):
            executor.submit(operator.truediv, 1, 0).result()


def test_a_call_that_kills_workers_is_given_up(cluster, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    address = cluster().address
    with pytest.raises(ConnectionError, match="lost a worker again and again"), workers_of(address) as executor:
        executor.submit(os._exit, 1).result()


def test_a_scheduler_that_is_gone_is_told_of(cluster):  # noqa: F811
    one = cluster()
    with pytest.raises(ConnectionError, match="is gone; the same command goes on"), workers_of(one.address) as executor:
        call = executor.submit(time.sleep, 1_000)
        one.scheduler.kill()
        call.result(timeout=60)


@pytest.mark.parametrize("address", ["nowhere", "", "http://host:8786", "tcp://host"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="scheduler: must be an address such as"), workers_of(address):
        ...


KINDS = ("npy", "parquet", "folder", "lance", "postgresql")


@pytest.fixture
def ridge():
    return maps.fit(pairs(), ["ridge"], directions=["gallery"])["new/ridge"]


@pytest.mark.parametrize("kind", KINDS)
def test_workers_make_what_one_process_makes(world, ridge, cluster, kind):  # noqa: F811
    gallery, address = world.put(kind, "items", table()), cluster().address
    carry(ridge, gallery, world.url(kind, "by_workers"), scheduler=address)
    carry(ridge, gallery, world.url(kind, "here"))
    assert content(world.url(kind, "by_workers")) == content(world.url(kind, "here"))
    assert not [p for p in world.folder.rglob(".*") if "carry" in p.name]


def test_a_worker_that_is_killed_costs_its_fragment_and_bad_rows_leave_nothing(world, ridge, cluster):  # noqa: F811
    dies = f"""
import os, pathlib, signal
from gallerykit import numpy_store
write = getattr(numpy_store.NewTable.write, "inner", numpy_store.NewTable.write)  # Dask runs this twice
flag = pathlib.Path({str(world.folder / "died")!r})
def dying(self, index, *rest):
    if index == 2 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, index, *rest)
dying.inner, numpy_store.NewTable.write = write, dying
"""
    one, gallery = cluster(dies), world.put("npy", "items", table())
    carry(ridge, gallery, "made.npy", scheduler=one.address)
    assert (world.folder / "died").exists()
    carry(ridge, gallery, "here.npy")
    assert (read("made.npy") == read("here.npy")).all()
    x = read(gallery)
    x[200] = float("nan")
    with pytest.raises(ValueError, match="gallery: row 200 .the first is 0. has nan"):
        carry(ridge, world.put("npy", "items", table(x)), "no.npy", scheduler=one.address)
    assert not [p for p in world.folder.rglob("*") if "no.npy" in p.name]
