"""A gallery that goes through a map by many workers at once: each reads rows of its own and writes them to a file.

Nothing but names and numbers is sent to the workers. They open the gallery themselves, find the map in the hidden
folder of the new gallery, and write there what they make; so this folder, and a gallery that is not in a database, must
be on a disk that all of them share under the same path. A file that is there is whole: what was made before an
interruption is not made again.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compatkit.files import replacing

from . import arrays
from .arrays import regrouped
from .mapped import Mapped
from .maps import Map
from .pairs import Input, Sources
from .store import Carried, Names

PART_CHUNKS = 16  # what the death of a worker may cost
File = tuple[str, int, int]
"""Its name, its first row and its number of rows."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs to know."""

    folder: str
    """of the parts"""
    gallery: str
    side: tuple[str, str] | None
    """where side-information is, and in which role"""
    names: Names
    rows: int
    width: int
    """of the new vectors"""
    unit_in: bool
    dtype: str
    chunk: int
    length: int
    """rows of a part, but for the last one"""
    space: str
    made_from: str
    threads: int
    device: str

    @property
    def map(self) -> Path:
        return Path(self.folder, "map.pt")

    @property
    def whole(self) -> Path:
        """The folder of finished Parquet files."""
        return Path(self.folder, "whole")

    def part(self, start: int) -> Path:
        return Path(self.folder, f"{start}-{self.stop(start)}.npy")

    def stop(self, start: int) -> int:
        return min(start + self.length, self.rows)


class Parts:
    """The new vectors as workers have written them, or will have. Attributes as ``store.Column``."""

    def __init__(self, work: Work, made: Callable[[int], None] = lambda start: None):
        """made: waits until the part that starts there is made."""
        self._work, self._made = work, made
        self.rows, self.width, self.dtype, self.kind = work.rows, work.width, np.dtype(work.dtype), work.dtype

    def blocks(self, start: int, size: int) -> Generator[np.ndarray, None, None]:
        yield from regrouped(self._blocks(start, size), size)

    def wait(self) -> None:
        """Until all are made."""
        for start in range(0, self.rows, self._work.length):
            self._made(start)

    def _blocks(self, row: int, size: int) -> Iterator[np.ndarray]:
        length = self._work.length
        for start in range(row - row % length, self.rows, length):
            self._made(start)
            with arrays.opened(self._work.part(start)) as part:
                yield from part.blocks(max(0, row - start), size)


# In the client


@contextmanager
def by_workers(executor: Executor, work: Work, map: Map, done: int = 0) -> Iterator[Parts]:
    """The new vectors, of which workers begin to make those from row ``done`` on."""
    folder = Path(work.folder)
    for other in folder.parent.glob("parts-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)  # of other work, at which a worker may still be
    with replacing(work.map) as file:
        torch.save(map.state(), file)
    starts = (start for start in range(0, work.rows, work.length) if work.stop(start) > done)
    with _calls(executor, work, map_rows, (start for start in starts if not work.part(start).exists())) as calls:

        def made(start: int) -> None:
            if start in calls:
                calls[start].result()

        yield Parts(work, made)


def files_by_workers(executor: Executor, work: Work, files: Sequence[File]) -> Path:
    """A folder of Parquet files, which workers write when all vectors are there."""
    work.whole.mkdir(exist_ok=True)
    groups: list[list[File]] = [[]]
    for file in files:
        if sum(rows for _, _, rows in groups[-1]) >= work.length:
            groups.append([])
        groups[-1].append(file)
    with _calls(executor, work, write_files, map(tuple, groups)) as calls:
        for call in calls.values():
            call.result()
    for left in work.whole.glob(".*.tmp"):  # by a worker that was killed while it wrote
        left.unlink()
    return work.whole


@contextmanager
def _calls(executor: Executor, work: Work, function: Callable, arguments: Iterable) -> Iterator[dict[Any, Future]]:
    """Calls by workers, by their arguments; those that have not begun at the end are given up."""
    calls = {argument: executor.submit(function, work, argument) for argument in arguments}
    try:
        yield calls
    except ValueError:
        # nothing is to be left of bad input: without a map no call begins, and those that have begun are waited for
        work.map.unlink(missing_ok=True)
        wait(calls.values())
        raise
    finally:
        for call in calls.values():
            call.cancel()


# In a worker


def map_rows(work: Work, start: int) -> None:
    """Make the part that starts there, unless it is: Dask calls again for what a worker had returned before it died."""
    if work.part(start).exists():
        return
    with _opened(work) as (sources, gallery):
        if (found := gallery.vectors().rows) != work.rows:
            raise ValueError(f"gallery: {work.gallery} has changed meanwhile, from {work.rows} to {found} rows")
        map = Map.from_state(torch.load(work.map, map_location=work.device, weights_only=True))
        side = None if work.side is None else sources("gallery_side", work.side[0]).vectors(work.side[1])
        stop, dtype = work.stop(start), np.dtype(work.dtype)
        new = Mapped(
            map, gallery.vectors(), side, work.unit_in, dtype, work.chunk, torch.device(work.device), rows=stop
        )
        with replacing(work.part(start)) as file:
            arrays.write_header(file, stop - start, new.width, dtype)
            for block in new.blocks(start, work.chunk):
                file.write(block.data)


def write_files(work: Work, files: Sequence[File]) -> None:
    """Write Parquet files of the new gallery, of rows that are all made."""
    from .tables import assembled, write_parquet

    with _opened(work) as (_, gallery):
        dtype = np.dtype(work.dtype)
        carried = Carried(gallery.source, gallery.names, work.space, work.made_from, dtype, work.chunk, shown=False)
        for name, start, rows in files:
            if not (work.whole / name).exists():
                write_parquet(work.whole / name, assembled(carried, Parts(work), start, rows), carried, rows)


@contextmanager
def _opened(work: Work) -> Iterator[tuple[Sources, Input]]:
    if not work.map.exists():
        raise FileNotFoundError(
            f"scheduler: a worker on {socket.gethostname()} does not find {work.map}; the folder of --out, or the "
            "working directory for PostgreSQL, must be on a disk that all workers share"
        )
    torch.set_num_threads(work.threads)  # and so it stays: other parts may be made in this process at the same time
    with Sources(work.names) as sources:
        yield sources, sources("gallery", work.gallery)
