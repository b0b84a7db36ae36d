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
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from compatkit.progress import progress

from .maps import Ends, Map, load_map
from .scheduler import workers_of
from .store import UNIT_TOLERANCE, Fragment, Gallery, as_float, as_vectors, batch_rows, pa, vector_field
from .stores import address_of, open_gallery, open_source, open_target

LOOKED_AT = 4_096  # rows that must look like the old model's


def carry(
    map: Map | str | os.PathLike,
    gallery: str | os.PathLike,
    out: str | os.PathLike,
    *,
    columns: Mapping[str, str] | None = None,
    scheduler: str | None = None,
    show_progress: bool = True,
) -> str:
    """Put a gallery, or queries, through a map.

    What is done waits in a hidden place until all is: an interrupted call, made again, goes on with the fragments that
    are missing, and ends with the same bits on the same kind of machine. Another call for the same ``out`` waits.

    Args:
        map: of ``fit``, or its file.
        gallery: what is mapped, see ``stores``; with a column of side-information if the map takes some.
        out: what is made, which must not be there yet. All other columns are carried along; a ``.npy`` takes the
            vectors alone, PostgreSQL ids and vectors. Numbers have the type of the new model's.
        columns: as in ``pairs.read_pairs``.
        scheduler: address of a scheduler of Dask whose workers do it, see ``scheduler``.
        show_progress: a bar.

    Returns:
        How to search what was made in place of the old gallery.

    Raises:
        ValueError: bad input, such as another width, space or length than that of the pairs, NaN (with the number of
            the row), an ``out`` that exists. Nothing is left; but where ``out`` has appeared meanwhile, what is done is
            kept: move it, and the same call goes on.
        OSError: a full disk, a database that does not answer. What is done is kept, and the same call goes on.
    """
    mapped = map if isinstance(map, Map) else load_map(map)
    names = str(address_of(gallery)), str(address_of(out)), tuple(sorted((columns or {}).items()))
    with workers_of(scheduler) as executor, open_target(out).held():
        work = _Work(*names, mapped)
        source, target = work.gallery.source, work.target
        target.check_new()
        target.check()
        state, fragments = source.state(), source.fragments()
        job = json.dumps([mapped.digest(), state, [asdict(one) for one in fragments], names[2]], sort_keys=True)
        done = target.begin(job)
        todo = [(i, one) for i, one in enumerate(fragments) if i not in done]
        try:
            work.check(fragments)
            mapped.save(work.map_file)
            # where the command runs may be another folder than where workers do
            call = work.carry if executor is None else partial(carry_fragment, *names, str(target.folder.absolute()))
            _run(call, todo, work, executor, progress(len(done), len(fragments), "gallery", "fragment", show_progress))
            if open_source(gallery, columns).state() != state:
                raise ValueError(f"gallery: {source.name} has changed meanwhile; run the command again")
        except ValueError:
            target.discard()
            raise
        target.check_new()
        target.publish()
        shutil.rmtree(target.folder, ignore_errors=True)
    return target.switch() if mapped.ends.direction == "gallery" else ""


def _run(
    call: Any, todo: Sequence[tuple[int, Fragment]], work: _Work, executor: Executor | None, bar: Iterator[Any]
) -> None:
    with nullcontext(executor) if executor is not None else ThreadPoolExecutor(work.target.threads) as pool:
        calls = [pool.submit(call, index, fragment) for index, fragment in todo]
        try:
            for _, one in zip(bar, calls, strict=True):
                one.result()
        except BaseException:
            work.map_file.unlink(missing_ok=True)  # so that no other call begins
            # a scheduler says of a call that runs that it is cancelled, and goes on with it: all of its are waited for
            wait(calls if executor is not None else [one for one in calls if not one.cancel()])
            raise


class _Work:
    """A gallery, a map, and a target that is told what will be made of them; folder: the hidden one, where it is not
    the target's own."""

    def __init__(self, of: str, out: str, columns: tuple[tuple[str, str], ...], map: Map, folder: str | None = None):
        self.map, self.gallery, self.target = map, open_gallery("gallery", of, dict(columns)), open_target(out)
        gallery, target, source = self.gallery, self.target, self.gallery.source
        target.folder = Path(folder) if folder else target.folder
        _check_ends(gallery, map.ends)
        if target.needs_ids and gallery.ids is None:
            raise ValueError(f"out: a gallery with ids is needed for {out}, {source.name} has none")
        self._vector, kept = gallery.columns["vector"], target.kept
        of_roles = [gallery.columns[role] for role in kept or () if role == "vector" or gallery.has(role)]
        self._names = list(source.schema.names) if kept is None else of_roles
        self.schema = self._schema_of_new()
        target.bind(gallery, self.schema, map.ends.metric)

    def _schema_of_new(self) -> Any:
        """Fixed lists in place of the old vectors, and the names of the spaces."""
        ends, old = self.map.ends, self.gallery.source.schema
        dtype = "float32" if ends.dtype == "float64" and not self.target.has_doubles else ends.dtype
        made = vector_field(self._vector, ends.d_out, dtype)
        fields = [made if name == self._vector else old.field(name) for name in self._names]
        about = (old.metadata or {}).items()
        about = {k: v for k, v in about if not k.startswith((b"compatkit.", b"ARROW:", b"pandas"))}
        made_from = self.gallery.space or ends.from_space
        spaces = {b"compatkit.space": ends.to_space.encode(), b"compatkit.made_from": made_from.encode()}
        return pa.schema(fields, about | {k: v for k, v in spaces.items() if v})

    @property
    def map_file(self) -> Path:
        return self.target.folder / "map.safetensors"

    def check(self, fragments: Sequence[Fragment]) -> None:
        """That the gallery looks like what the map was fitted on, by rows here and there; and that the first rows are
        of the types of the schema."""
        source, rows = self.gallery.source, batch_rows(self.map.ends.d_in)
        for batch in (batch for one in fragments[:1] for batch in islice(source.read(one, self._names, rows), 1)):
            for name, kind in zip(self._names, batch.schema.types, strict=True):
                if kind != (said := source.schema.field(name).type):
                    raise ValueError(f"gallery: column {name!r} cannot be read, it is {said} and comes as {kind}")
        if self.map.sides is not None:
            self.map.sides.check(self.gallery.sample(LOOKED_AT), "gallery")

    def carry(self, index: int, fragment: Fragment) -> None:
        """Write a fragment."""
        errors: list[Exception] = []

        def batches() -> Iterator[Any]:
            try:
                yield from self.batches(fragment)
            except Exception as error:  # on its way through Arrow it would become another one
                errors.append(error)
                raise

        try:
            written = self.target.write(index, fragment, pa.RecordBatchReader.from_batches(self.schema, batches()))
        except Exception as error:
            raise (errors or [error])[0] from None
        self.target.note(index, written)

    def batches(self, fragment: Fragment) -> Iterator[Any]:
        """The batches that are written of a fragment."""
        ends, gallery, row = self.map.ends, self.gallery, fragment.start
        beside = [gallery.columns["side"]] * bool(ends.d_side)
        read = list(dict.fromkeys([*self._names, self._vector, *beside]))
        dtype = self.schema.field(self._vector).type.value_type.to_pandas_dtype()
        for batch in gallery.source.read(fragment, read, batch_rows(max(ends.d_in, ends.d_out))):
            old = as_float("gallery", gallery.vectors("vector", batch, row, ends.d_in), row)
            if ends.unit_in:
                _check_unit(old, row, ends.metric)
            side = as_float("side", gallery.vectors("side", batch, row, ends.d_side), row) if ends.d_side else None
            new = as_vectors(as_float("gallery, transformed", self.map(old, side), row, dtype))
            arrays = [new if name == self._vector else batch.column(name) for name in self._names]
            yield pa.record_batch(arrays, schema=self.schema)
            row += len(old)


def carry_fragment(
    of: str, out: str, columns: tuple[tuple[str, str], ...], folder: str, index: int, fragment: Fragment
) -> None:
    """Carry one fragment, in a worker. Dask calls again for what a worker had returned before it died."""
    file = Path(folder, "map.safetensors")
    if not file.exists():
        raise FileNotFoundError(
            f"scheduler: a worker on {socket.gethostname()} does not find {file}; the folder of --out, or the "
            "working directory for a database, must be on a disk that all workers share"
        )
    _opened_by_worker(of, out, columns, folder, file.stat().st_mtime_ns).carry(index, fragment)


@lru_cache(2)
def _opened_by_worker(of: str, out: str, columns: tuple[tuple[str, str], ...], folder: str, when: int) -> _Work:
    return _Work(of, out, columns, load_map(Path(folder, "map.safetensors")), folder)


def _check_ends(gallery: Gallery, ends: Ends) -> None:
    if gallery.space and ends.from_space and gallery.space != ends.from_space:
        raise ValueError(f"gallery: must be of the space of the map, {ends.from_space!r}, got {gallery.space!r}")
    if ends.d_side and not gallery.has("side"):
        raise ValueError(f"side: is needed, for the map takes some and {gallery.source.name} has none")
    for name, role, wanted in (("gallery", "vector", ends.d_in), ("side", "side", ends.d_side)):
        if wanted and (width := gallery.width(role)) != wanted:
            raise ValueError(f"{name}: must have the width of the map, {wanted}, got {width}")


def _check_unit(x: np.ndarray, row: int, metric: str) -> None:
    """That all rows have length 1, by cosine but for those of zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", x, x))
    odd = (np.abs(lengths - 1) > UNIT_TOLERANCE) & ((lengths > 0) | (metric != "cosine"))
    if odd.any():
        i = int(odd.argmax())
        raise ValueError(f"gallery: all rows must have length 1 as in the pairs, row {row + i} has {lengths[i]:.3g}")
