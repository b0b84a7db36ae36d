"""Workers of a real cluster as an executor, and what is said where they or the scheduler are gone."""

import operator
import os
import time

import pytest

from gallerykit.scheduler import workers_of

from ..cluster import cluster  # noqa: F401


def test_workers_are_an_executor(cluster):  # noqa: F811
    with workers_of(cluster().address) as executor:
        assert executor.submit(operator.add, 1, 2).result() == 3
        assert executor.submit(os.getpid).result() != os.getpid()
        with pytest.raises(ZeroDivisionError):
            executor.submit(operator.truediv, 1, 0).result()
    with workers_of(None) as executor:
        assert executor is None


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
