"""The workers of a scheduler of Dask that is running, perhaps on other machines: ``--scheduler tcp://host:8786``.

Dask sends functions, arguments and results as pickles over connections of its own, so whoever reaches a scheduler can
run code on its workers, and it on its clients: use one that only those reach whom you trust, or TLS (``tls://...``, set
up in Dask's own configuration, ``distributed.comm.tls``). compatkit must be installed on the workers, in this version.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager

from compatkit.extras import require

CONNECT_SECONDS, WORKER_SECONDS = 10, 60


@contextmanager
def workers_of(address: str | None) -> Iterator[Executor | None]:
    """The workers of a scheduler, as an executor: a call whose worker is killed is made again by another one.

    Args:
        address: of a scheduler, such as ``tcp://host:8786``; None gives None.

    Raises:
        ValueError: not an address.
        ConnectionError: the scheduler does not answer or has no worker, is gone when its results are asked for, or has
            lost several workers with the same call.
        ImportError: distributed is not installed.
    """
    if address is None:
        yield None
        return
    distributed = require("distributed", "dask")
    try:
        distributed.comm.get_address_host_port(address)  # before a client starts its threads
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except ValueError as error:
        raise ValueError(f"scheduler: must be an address such as tcp://host:8786, got {address!r} ({error})") from error
    except OSError as error:
        raise ConnectionError(f"scheduler: {address} does not answer ({error})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError as error:
            raise ConnectionError(f"scheduler: {address} has no worker (dask worker {address} starts one)") from error
        try:
            yield client.get_executor(pure=False)
        except CancelledError as error:
            raise ConnectionError(f"scheduler: {address} is gone; the same command goes on with another one") from error
        except distributed.scheduler.KilledWorker as error:
            raise ConnectionError(f"scheduler: {address} lost a worker again and again ({error})") from error
