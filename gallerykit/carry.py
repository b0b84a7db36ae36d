"""A gallery on its way through a map: fragment by fragment, here or by the workers of a scheduler.

Workers get nothing but names and numbers. They open the gallery themselves, find the map in the hidden folder of the
new gallery, and write there what they make; so this folder, and a gallery that is not in a database, must be on a disk
that all of them share under the same path.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from compatkit.progress import progress

from .maps import Ends, Map, load_map
from .scheduler import workers_of
from .store import Fragment, Gallery, Target, as_float, as_vectors, batch_rows, pa, places_of, vector_field
from .stores import absolute, open_source, open_target

UNIT_TOLERANCE = 1e-3  # by which a length may differ from 1: float16 does not come nearer
LOOKED_AT = 4_096  # rows that must look like the old model's


def carry(
    map: Map | str | os.PathLike,
    gallery: str | os.PathLike,
    out: str | os.PathLike,
    *,
    side: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> str:
    """Put a gallery, or queries, through a map.

    What is done waits in a hidden place until all is: an interrupted call, made again, goes on with the fragments that
    are missing, and ends with the same bits on the same kind of machine. Another call for the same ``out`` waits.

    Args:
        map: of ``fit``, or its file.
        gallery: what is mapped, see ``stores``.
        out: what is made. All other columns are carried along; a ``.npy`` takes the vectors alone, PostgreSQL
            ids and vectors. Numbers have the type of the new model's.
        side: side-information in place of the gallery's column ``side``; by id where both have ids.
        columns: as in ``pairs.read_pairs``.
        scheduler: address of a scheduler of Dask whose workers do it, see ``scheduler``.
        overwrite: replace the file ``out``; folders and tables are never replaced.
        show_progress: a bar.

    Returns:
        How to search what was made in place of the old gallery.

    Raises:
        ValueError: bad input, such as another width, space or length than that of the pairs, NaN (with the number of
            the row), an ``out`` that exists. ``out`` is as it was before, and nothing else is left.
        OSError: a full disk, a database that does not answer, an ``out`` that has appeared meanwhile. What is done is
            kept, and the same call goes on.
    """
    mapped = map if isinstance(map, Map) else load_map(map)
    names = tuple(sorted((columns or {}).items()))
    work = Work(absolute(gallery), absolute(out), None if side is None else absolute(side), names)
    target = work.target
    with workers_of(scheduler) as executor, target.held():
        work.take(mapped)
        target.check_new(overwrite)
        target.check()
        source, fragments = work.gallery.source, work.gallery.source.fragments()
        state = [source.state(), None if work.beside is None else work.beside.source.state()]
        job = json.dumps([mapped.digest(), state, [asdict(one) for one in fragments], names], sort_keys=True)
        done = target.begin(job)
        try:
            work.check(fragments)
            work.align_side()
            mapped.save(work.map_file)
            todo = [(i, one) for i, one in enumerate(fragments) if i not in done]
            _run(todo, len(fragments), work, executor, show_progress)
            if open_source(work.of, columns).state() != state[0]:
                raise ValueError(f"gallery: {source.name} has changed meanwhile; run the command again")
        except ValueError:
            target.discard()
            raise
        try:
            target.check_new(overwrite)
        except ValueError as error:
            raise FileExistsError(
                f"{error}. It has appeared meanwhile: move it, and the same command goes on"
            ) from error
        target.publish()
        shutil.rmtree(target.folder, ignore_errors=True)
    return target.switch() if mapped.ends.direction == "gallery" else ""


@dataclass(frozen=True)
class Work:
    """A gallery on its way through a map: four names, which is all that a worker is told, and what they stand for."""

    of: str
    out: str
    side: str | None
    columns: tuple[tuple[str, str], ...]
    folder: str = ""
    """the hidden one of the client, whose working directory may be another; empty for the target's own"""

    @cached_property
    def gallery(self) -> Gallery:
        return Gallery("gallery", open_source(self.of, dict(self.columns)), dict(self.columns))

    @cached_property
    def beside(self) -> Gallery | None:
        """Side-information with a source of its own."""
        if self.side is None:
            return None
        return Gallery("side", open_source(self.side, dict(self.columns)), dict(self.columns))

    @cached_property
    def target(self) -> Target:
        target = open_target(self.out)
        target.folder = Path(self.folder or target.folder).absolute()
        return target

    @property
    def map_file(self) -> Path:
        return self.target.folder / "map.safetensors"

    @property
    def aligned(self) -> Path:
        """Side-information in the order of the gallery."""
        return self.target.folder / "side.npy"

    def take(self, map: Map) -> None:
        """Have this map, and the schema of what is made by it."""
        self.__dict__["map"] = map
        self.target.bind(self.gallery, self.schema, map.ends.metric)

    def for_worker(self) -> Work:
        return replace(self, folder=str(self.target.folder))

    @cached_property
    def map(self) -> Map:
        return load_map(self.map_file)

    @cached_property
    def names(self) -> list[str]:
        """The columns that are carried, the vectors among them."""
        gallery, kept = self.gallery, self.target.kept
        if kept is None:
            return list(gallery.source.schema.names)
        return [gallery.columns[role] for role in kept if role == "vector" or gallery.has(role)]

    @cached_property
    def schema(self) -> Any:
        """The schema of what is made: fixed lists in place of the old vectors, and the spaces."""
        ends, vector, old = self.map.ends, self.gallery.columns["vector"], self.gallery.source.schema
        self._check_ends(ends)
        dtype = np.dtype(ends.dtype)
        if self.out.startswith(("postgres", "qdrant:")) and dtype == np.float64:
            dtype = np.dtype(np.float32)  # they have nothing wider
        fields = [vector_field(vector, ends.d_out, dtype) if name == vector else old.field(name) for name in self.names]
        about = {
            k: v for k, v in (old.metadata or {}).items() if not k.startswith((b"compatkit.", b"ARROW:", b"pandas"))
        }
        made_from = self.gallery.space or ends.from_space
        spaces = {b"compatkit.space": ends.to_space.encode(), b"compatkit.made_from": made_from.encode()}
        return pa.schema(fields, about | {k: v for k, v in spaces.items() if v})

    def _check_ends(self, ends: Ends) -> None:
        gallery, beside = self.gallery, self.beside
        width = gallery.width("vector")
        if width != ends.d_in:
            raise ValueError(f"gallery: must have the width of the map, {ends.d_in}, got {width}")
        if gallery.space and ends.from_space and gallery.space != ends.from_space:
            raise ValueError(f"gallery: must be of the space of the map, {ends.from_space!r}, got {gallery.space!r}")
        if beside is not None and not ends.d_side:
            raise ValueError("side: must be left out, for the map takes none")
        if ends.d_side:
            if beside is None and not gallery.has("side"):
                raise ValueError(f"side: is needed, for the map takes some and {gallery.source.name} has none")
            width = gallery.width("side") if beside is None else beside.width(_role(beside))
            if width != ends.d_side:
                raise ValueError(f"side: must have the width of the map, {ends.d_side}, got {width}")

    def check(self, fragments: Sequence[Fragment]) -> None:
        """That the gallery looks like what the map was fitted on, by rows here and there; and that the first row is of
        the types of the schema."""
        source = self.gallery.source
        for one in fragments[:1]:
            next(iter(source.read(one, list(source.schema.names), batch_rows(self.map.ends.d_in))), None)
        if self.map.sides is not None:
            self.map.sides.check(self.gallery.sample(LOOKED_AT), "gallery")

    def align_side(self) -> None:
        """Write side-information that has a source of its own in the order of the gallery."""
        if (beside := self.beside) is None:
            return
        places = places_of("side", beside, self.gallery, "the gallery")
        if (places < 0).any():
            raise ValueError(f"side: must have all items of the gallery, {int((places < 0).sum())} miss")
        target, width, row = np.full(beside.source.rows, -1), self.map.ends.d_side, 0
        target[places] = np.arange(len(places))
        hidden = self.aligned.with_suffix(".part.npy")
        aligned = np.lib.format.open_memmap(hidden, "w+", np.float32, (len(places), width))
        for block in beside.blocks(_role(beside), batch_rows(width)):
            to = target[row : row + len(block)]
            aligned[to[to >= 0]] = block[to >= 0]
            row += len(block)
        aligned.flush()
        hidden.replace(self.aligned)

    def batches(self, fragment: Fragment) -> Iterator[Any]:
        """The batches that are written of a fragment."""
        ends, columns, row = self.map.ends, self.gallery.columns, fragment.start
        column = columns["side"] if ends.d_side and self.side is None else None
        read = list(dict.fromkeys([*self.names, columns["vector"], *filter(None, [column])]))
        aligned = np.load(self.aligned, mmap_mode="r") if self.side is not None else None
        for batch in self.gallery.source.read(fragment, read, batch_rows(max(ends.d_in, ends.d_out))):
            old = as_float("gallery", self.gallery.vectors("vector", batch, row, ends.d_in), row)
            if ends.unit_in:
                _check_unit(old, row, ends.metric)
            side = None
            if column is not None:
                side = as_float("side", self.gallery.vectors("side", batch, row, ends.d_side), row)
            elif aligned is not None:
                side = as_float("side", aligned[row : row + len(old)], row)
            new = self.map(old, side)
            kind = self.schema.field(columns["vector"]).type
            new = as_float("gallery, transformed", new, row, kind.value_type.to_pandas_dtype())
            arrays = [as_vectors(new) if name == columns["vector"] else batch.column(name) for name in self.names]
            yield pa.record_batch(arrays, schema=self.schema)
            row += len(old)

    def carry(self, index: int, fragment: Fragment) -> None:
        """Write a fragment."""
        errors: list[Exception] = []

        def kept() -> Iterator[Any]:
            try:
                yield from self.batches(fragment)
            except Exception as error:  # on its way through Arrow it would become another one
                errors.append(error)
                raise

        try:
            self.target.write(index, fragment, pa.RecordBatchReader.from_batches(self.schema, kept()))
        except Exception:
            if errors:
                raise errors[0] from None
            raise


def _role(beside: Gallery) -> str:
    return "side" if beside.has("side") else "vector"


def _run(todo: Sequence[tuple[int, Fragment]], total: int, work: Work, executor: Executor | None, shown: bool) -> None:
    call: Any = work.carry if executor is None else partial(carry_fragment, work.for_worker())
    with nullcontext(executor) if executor is not None else ThreadPoolExecutor(work.target.threads) as pool:
        calls = [pool.submit(call, index, fragment) for index, fragment in todo]
        try:
            for _, one in zip(progress(total - len(todo), total, "gallery", "fragment", shown), calls, strict=True):
                one.result()
        except BaseException:
            work.map_file.unlink(missing_ok=True)  # so that no other call begins
            # a scheduler says of a call that runs that it is cancelled, and goes on with it: all of its are waited for
            wait(calls if executor is not None else [one for one in calls if not one.cancel()])
            raise


def carry_fragment(work: Work, index: int, fragment: Fragment) -> None:
    """Carry one fragment, unless it is there. Dask calls again for what a worker had returned before it
    died."""
    file = Path(work.folder, "map.safetensors")
    if not file.exists():
        raise FileNotFoundError(
            f"scheduler: a worker on {socket.gethostname()} does not find {file}; the folder of --out, or the "
            "working directory for a database, must be on a disk that all workers share"
        )
    _opened_by_worker(work, file.stat().st_mtime_ns).carry(index, fragment)


@lru_cache(2)
def _opened_by_worker(work: Work, when: int) -> Work:
    work.take(work.map)
    return work


def _check_unit(x: np.ndarray, row: int, metric: str) -> None:
    """That all rows have length 1, by cosine but for those of zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x))
    odd = (np.abs(lengths - 1) > UNIT_TOLERANCE) & ((lengths > 0) | (metric != "cosine"))
    if odd.any():
        i = int(odd.argmax())
        raise ValueError(f"gallery: all rows must have length 1 as in the pairs, row {row + i} has {lengths[i]:.3g}")
