"""A gallery on its way through a map; what is done waits in a hidden folder until the new gallery is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from compatkit.devices import digest
from compatkit.files import lock_file, write_atomically
from compatkit.progress import progress

from . import arrays
from .arrays import ArrayFile
from .backfill import Ranking
from .ids import rows_of
from .map_files import Ends
from .mapped import Mapped
from .maps import Map
from .pairs import Input, Sources, as_float, side_of
from .parts import PART_CHUNKS, Parts, Work, by_workers, files_by_workers
from .store import Carried, Column, Sink
from .stores import absolute

SAVE_SECONDS = 5.0  # of work that an interruption may cost
SAVE_BYTES = 64 << 20
SIDE = "side.npy"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, eq=False)
class Gallery:
    """What is to be transformed, and where its side-information is."""

    input: Input
    embedding: Column
    side: Column | None
    beside: tuple[Input, str] | None
    """which input has ``side``, in which role"""
    places: np.ndarray | None
    """the row of each item in ``side``; None where these are the same"""
    made_from: str

    @classmethod
    def open(cls, ends: Ends, of: str, gallery: Input, beside: Input | None, require_all: bool) -> Gallery:
        """The columns, after everything was checked that can be without reading all vectors.

        ``of`` says for messages where ``ends`` come from.
        """
        embedding = gallery.vectors()
        _check_width("gallery", embedding.width, ends.d_in, of)
        gallery.source.verify()
        space = gallery.source.space
        _check_space("gallery", space, ends.from_space, of)
        if isinstance(gallery.source, ArrayFile) and space and not ends.to_space:
            raise ValueError(
                f"gallery: names its space, and what is made of it could not, for {of} came without a name of the new "
                "one; save new with Embeddings.save"
            )
        made_from = space or ends.from_space
        found = side_of(gallery, beside)
        if not ends.d_side:
            if beside is not None:
                raise ValueError(f"gallery_side: must be None, for {of} came without side-information")
            return cls(gallery, embedding, None, None, None, made_from)
        if found is None:
            name = gallery.source.name
            raise ValueError(f"gallery_side: is needed, for {of} came with side-information and {name} has none")
        side = replace(found[0], argument="gallery_side").vectors(found[1])
        _check_width("gallery_side", side.width, ends.d_side, of)
        _check_space("gallery_side", beside.source.space if beside is not None else "", ends.side_space, of)
        places = _places_of_side(gallery, found[0], embedding.rows, side.rows, require_all)
        return cls(gallery, embedding, side, found, places, made_from)

    def carried(self, ends: Ends, sink: Sink, chunk: int, shown: bool) -> Carried:
        dtype = sink.dtype(np.dtype(ends.dtype))
        return Carried(self.input.source, self.input.names, ends.to_space, self.made_from, dtype, chunk, shown)

    def state(self) -> list:
        return [one.source.state() for one in (self.input, *(self.beside or ())[:1])]

    def state_anew(self) -> list:
        """The state of what is there now, where ``state`` may be that of a version at which a table is held."""
        with Sources(self.input.names) as sources:
            inputs = (self.input, *(self.beside or ())[:1])
            return [sources(one.argument, one.source.name).source.state() for one in inputs]

    @contextmanager
    def aligned_side(self, folder: Path) -> Iterator[Column | None]:
        """Side-information in the order of the gallery: where it has another one, in a file in the folder."""
        if self.side is None or self.places is None:
            yield self.side
            return
        assert self.side.dtype is not None
        target = np.full(self.side.rows, -1)
        target[self.places] = np.arange(len(self.places))
        path, row = folder / f".{SIDE}.tmp", 0
        arrays.create(path, self.embedding.rows, self.side.width, self.side.dtype)
        os.truncate(path, path.stat().st_size + self.embedding.rows * self.side.width * self.side.dtype.itemsize)
        for block in self.side.blocks(0, arrays.ROWS):
            places = target[row : row + len(block)]
            np.lib.format.open_memmap(path, "r+")[places[places >= 0]] = block[places >= 0]
            row += len(block)
        # whole or not there, for workers of a client that was interrupted may still read it
        path = path.replace(folder / SIDE)
        with arrays.opened(path) as side:
            yield side

    def ranked(self, ranking: Ranking, chunk: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
        """Its ids (its rows where there are none), and the loss to expect of each item."""
        losses, row = np.empty(self.embedding.rows, np.float32), 0
        for block in self.embedding.blocks(0, chunk):
            old = torch.from_numpy(as_float("gallery", block, row)).to(device)
            losses[row : row + len(block)] = ranking(old).cpu().numpy()
            row += len(block)
        ids = self.input.ids()
        return np.arange(row) if ids is None else ids, losses


def _places_of_side(gallery: Input, side: Input, rows: int, side_rows: int, require_all: bool) -> np.ndarray | None:
    """The row of each item of the gallery in the side-information; None where these are the same."""
    if gallery.source is side.source:
        return None
    ids, others = gallery.ids(), replace(side, argument="gallery_side").ids()
    if ids is None or others is None:
        if side_rows != rows:
            raise ValueError(
                f"gallery_side: must have as many rows as the gallery, {rows}, where not both have ids, got {side_rows}"
            )
        return None
    places = rows_of("gallery_side", others, ids, "the gallery")
    if (places < 0).any():
        missing = ids[places < 0]
        raise ValueError(f"gallery_side: must have all items of the gallery, {len(missing)} miss, such as {missing[0]}")
    if require_all and side_rows != rows:
        raise ValueError(f"gallery_side: ids must all match (--require-all), got {side_rows} for {rows} of the gallery")
    return None if side_rows == rows and (places == np.arange(rows)).all() else places


def _check_width(name: str, width: int, wanted: int, of: str) -> None:
    if width != wanted:
        raise ValueError(f"{name}: must have the width of {of}, {wanted}, got {width}")


def _check_space(name: str, space: str, wanted: str, of: str) -> None:
    if space and wanted and space != wanted:
        raise ValueError(f"{name}: must be of the space of {of}, {wanted!r}, got {space!r}")


@contextmanager
def held(*sinks: Sink | arrays.NewFile | None) -> Iterator[None]:
    """What is to be written, for this process alone, which waits for others: whether it is there is to be asked only
    then. The locks are beside the hidden folders, which come and go."""
    locks = {sink.folder.with_suffix(".lock").resolve() for sink in sinks if sink is not None}
    with ExitStack() as stack:
        for path in sorted(locks):  # all processes in one order, or two could wait for each other
            stack.enter_context(lock_file(path))
        yield


@contextmanager
def hidden_folder(sink: Sink | arrays.NewFile | None) -> Iterator[Path | None]:
    """The hidden folder for what is done so far, of a sink that is ``held``; None for None. It goes where the input is
    refused, and stays where the same command may go on."""
    if sink is None:
        yield None
        return
    folder = sink.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
            left.unlink()
        yield folder
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except (OSError, RuntimeError) as error:
        full = _full_disk(error)
        if full is None:
            raise
        raise OSError(
            full.errno,
            f"the disk of {folder.parent} is full ({full.strerror}). The old gallery is untouched and there is nothing "
            f"new at {sink.name}. With space made, the same command goes on; to give up, remove {folder}",
        ) from error


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error itself, or the one that it came from: ``torch.save`` raises RuntimeError."""
    while error is not None and not (isinstance(error, OSError) and error.errno in FULL):
        error = error.__cause__ or error.__context__
    return error


@dataclass(frozen=True, eq=False)
class Stream:
    """The gallery on its way through a map, into a partial file whose first rows are safe."""

    map: Map
    gallery: Gallery
    sink: Sink
    folder: Path
    unit_in: bool
    carried: Carried
    device: torch.device
    executor: Executor | None = None
    """of workers that make the new vectors, see ``parts``; None makes them here"""

    def run(self, overwrite: bool) -> None:
        vectors = self.folder / "vectors.npy"
        self._check_space_left(vectors)
        state = self.gallery.state()
        journal = Journal(self.folder / "rows.json", self._key(state))
        if not vectors.exists():
            journal.forget()
        finish: Callable[[], None]
        with self.gallery.aligned_side(self.folder) as side:
            if self.executor is None:
                self._write(vectors, self._mapped(side), journal)
                finish = partial(self.sink.write, vectors, self.carried)
            else:
                finish = self._by_workers(self.executor, vectors, journal)
        if (self.gallery.state() if self.executor is None else self.gallery.state_anew()) != state:
            raise ValueError(f"gallery: {self.gallery.input.source.name} has changed meanwhile; run the command again")
        if self.sink.exists() and not overwrite:
            raise FileExistsError(
                f"out: {self.sink.name} has appeared meanwhile; move it and run the same command again"
            )
        with self._keeping():
            finish()

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Errors of the sink are none of the input, for which all that is done would go."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise OSError(
                f"out: {self.sink.name} cannot be written ({error}). What is done is kept, and the same command goes "
                f"on; to give up, remove {self.folder}"
            ) from error

    def _mapped(self, side: Column | None) -> Mapped:
        embedding, carried = self.gallery.embedding, self.carried
        return Mapped(
            self.map, embedding, side, self.unit_in, carried.dtype, carried.chunk, self.device, embedding.rows
        )

    def _by_workers(self, executor: Executor, vectors: Path, journal: Journal) -> Callable[[], None]:
        """Have the new vectors made. Returns what is left to do."""
        from .tables import NewFolder

        work, source = self._work(journal.key), self.gallery.input.source
        with by_workers(executor, work, self.map, journal.rows) as parts:
            if not isinstance(self.sink, NewFolder):
                self._write(vectors, parts, journal)
                return partial(self.sink.write, vectors, self.carried)
            parts.wait()
        with self._keeping():
            whole = files_by_workers(executor, work, self.sink.files(source, parts.rows))
        return partial(os.rename, whole, self.sink.path)

    def _write(self, vectors: Path, new: Mapped | Parts, journal: Journal) -> None:
        chunk, done = self.carried.chunk, journal.rows
        if not done:
            journal.forget()  # first: it may be of other work
            arrays.create(vectors, new.rows, new.width, new.dtype)
        with open(vectors, "r+b") as file, journal:
            file.truncate(arrays.header_size(file) + done * new.width * new.dtype.itemsize)
            file.seek(0, os.SEEK_END)
            chunks = progress(-(-done // chunk), -(-new.rows // chunk), "gallery", "chunk", self.carried.shown)
            with closing(new.blocks(done, chunk)) as blocks:
                for _, block in zip(chunks, blocks, strict=True):
                    file.write(block.data)
                    done += len(block)
                    journal.note(file, done)
            journal.note(file, done, now=True)

    def _work(self, key: list) -> Work:
        source, carried = self.gallery.input.source, self.carried
        side = None
        if self.gallery.places is not None:
            side = str(self.folder / SIDE), "vector"
        elif self.gallery.beside is not None:
            side = absolute(self.gallery.beside[0].source.name), self.gallery.beside[1]
        return Work(
            folder=str(self.folder / f"parts-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}"),
            gallery=absolute(source.name),
            side=side,
            names=self.gallery.input.names,
            rows=self.gallery.embedding.rows,
            width=self.map.d_out,
            unit_in=self.unit_in,
            dtype=str(carried.dtype),
            chunk=carried.chunk,
            length=PART_CHUNKS * carried.chunk,
            space=carried.space,
            made_from=carried.made_from,
            threads=torch.get_num_threads(),
            device=str(self.device),
        )

    def _key(self, state: list) -> list:
        function = self.map.state()
        fitted, dtype = digest(*function.pop("tensors").values()), str(self.carried.dtype)
        return [function, fitted, state, self.carried.chunk, dtype, torch.get_num_threads(), str(self.device)]

    def _check_space_left(self, vectors: Path) -> None:
        size = self.gallery.embedding.rows * self.map.d_out * self.carried.dtype.itemsize
        needed = size * (1 + self.sink.twice + (self.executor is not None)) - (
            vectors.stat().st_size if vectors.exists() else 0
        )
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} are free")


class Journal:
    """How many rows of a partial file are safe, for the work that ``key`` (JSON) describes.

    Inside a ``with`` a thread makes rows safe, so that the disk works while more are made.
    """

    def __init__(self, path: Path, key: list):
        self.path, self.key, self.rows = path, key, 0
        if path.exists():
            state = json.loads(path.read_bytes())
            self.rows = state["rows"] if state["key"] == key else 0

    def __enter__(self) -> Journal:
        self._thread, self._saved, self._end = ThreadPoolExecutor(1), time.monotonic(), 0
        self._saving: Future = Future()
        self._saving.set_result(None)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def note(self, file: BinaryIO, rows: int, now: bool = False) -> None:
        """Make ``rows`` of the open file safe and say so, if it is time to; ``now`` waits until it is done.

        It is time to after so many seconds, and before if there is much for the disk to do and it does nothing.
        """
        much = file.tell() - self._end > SAVE_BYTES and self._saving.done()
        if now or much or time.monotonic() - self._saved > SAVE_SECONDS:
            self._saving.result()
            file.flush()
            self._saved, self._end = time.monotonic(), file.tell()
            self._saving = self._thread.submit(self._save, file, rows)
            if now:
                self._saving.result()

    def _save(self, file: BinaryIO, rows: int) -> None:
        os.fsync(file.fileno())  # before it is said, or a power cut would leave rows that are not there
        write_atomically(self.path, json.dumps({"key": self.key, "rows": rows}))
        self.rows = rows

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.rows = 0
