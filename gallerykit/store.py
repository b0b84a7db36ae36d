"""Stores of embeddings: a gallery is a sequence of fragments.

A fragment is some rows in the order of the store, read as Arrow record batches. A new gallery is written in the same
fragments, each to a file, a version or a transaction of its own where nobody sees it, and all become visible at the
end. A fragment that is written is not written again: that is all there is to resuming, on one machine or on many.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compatkit.extras import require
from compatkit.files import lock_file, write_atomically

pa = require("pyarrow", "gallery")

FRAGMENT_BYTES = 64 << 20  # of vectors, where a store has no fragments of its own
BATCH_BYTES = 8 << 20
UNIT_TOLERANCE = 1e-3  # by which a length may differ from 1: float16 does not come nearer
ROLES = {"id": "id", "side": "side", "label": "label", "vector": "embedding"}
"""What columns are called unless the caller says otherwise."""


@dataclass(frozen=True)
class Fragment:
    """Some rows of a gallery."""

    start: int
    """its first row"""
    rows: int
    place: Any = None
    """where the store finds it, as JSON"""


class Source(Protocol):
    """A gallery that is only read."""

    name: str
    """for messages"""
    schema: Any
    """of what is carried along, as Arrow says it"""
    vector: str | None
    """the column of embeddings that its address names"""
    rows: int

    def fragments(self) -> Sequence[Fragment]: ...

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        """Record batches of at most ``size`` rows, in order; safe in several threads where ``Target.threads`` is, and a
        target may go on with it in another one."""

    def state(self) -> Any:
        """JSON that is another when the content is: between two calls with the same state nothing changed."""


class Target(ABC):
    """A gallery that is made: hidden until it is whole. A base for those of each store.

    Args:
        name: for messages.
        beside: what the hidden folder lies beside, which has a note for each fragment that is written.
    """

    threads = 3
    """how many fragments one process writes at once: one is read and mapped while others wait for the disk"""
    kept: Sequence[str] | None = None
    """the roles that it takes; None for all columns"""
    has_doubles = True
    """whether it takes float64; what does not gets float32"""

    def __init__(self, name: str, beside: Path):
        self.name, self.folder = name, beside.with_name(f".{beside.name}.carry")

    def held(self) -> AbstractContextManager[None]:
        """Keep other runs from writing the same."""
        return lock_file(self.folder.with_suffix(".lock"))

    def bind(self, gallery: Gallery, schema: Any, metric: str) -> None:
        """Tell what it is made of, the columns that it will have, and what it will be searched by."""
        self.gallery, self.schema, self.metric = gallery, schema, metric

    @abstractmethod
    def exists(self) -> bool:
        """Tell whether it is there already, whole."""

    def check_new(self) -> None:
        """Raise ValueError if this is there already."""
        if self.exists():
            raise ValueError(f"out: {self.name} exists already; name another")

    def check(self) -> None:
        """Raise ValueError, before the work, if this cannot be made."""
        return

    def begin(self, job: str) -> set[int]:
        """Make the hidden place ready. Returns the fragments of the same job that are written already; what is there of
        another one goes."""
        kept = self.folder / "job.json"
        if not kept.exists() or kept.read_text("utf-8") != job:
            self.discard()
            self.prepare()
            write_atomically(kept, job)
        return set(self.notes())

    def prepare(self) -> None:
        """Make the place where fragments are written, for a new job."""
        self.folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        """Write one fragment, from a reader of record batches, so that it outlives a crash; where it is there in part,
        anew."""

    def note(self, index: int, value: Any = None) -> None:
        """That a fragment is written, and what is needed to publish it."""
        write_atomically(self.folder / "done" / f"{index}.json", json.dumps(value))

    def notes(self) -> dict[int, Any]:
        """The notes, in order."""
        found = sorted((int(path.stem), path) for path in self.folder.glob("done/[0-9]*.json"))
        return {index: json.loads(path.read_bytes()) for index, path in found}

    @abstractmethod
    def publish(self) -> None:
        """Make all visible, at once."""

    def discard(self) -> None:
        """Leave nothing of what is hidden."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def switch(self) -> str:
        """Instructions for searching what was made in place of the old gallery."""


class NewFile(Target):
    """A file or a folder that is made and then moved to its place."""

    def __init__(self, path: Path):
        super().__init__(str(path), path)
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def move(self, made: Path) -> None:
        os.rename(made, self.path)
        sync(self.path.parent)

    def switch(self) -> str:
        return f"To switch over: build the index ({self.metric}) from {self.path}. The old gallery is untouched."


class Gallery:
    """A source and what its columns are, with one sentence for what does not fit.

    Args:
        argument: its name in messages.
        source: the open store.
        columns: what the columns of ``ROLES`` are called, where they are called otherwise.
    """

    def __init__(self, argument: str, source: Source, columns: Mapping[str, str] | None = None):
        if unknown := set(columns or ()) - set(ROLES):
            raise ValueError(f"columns: must be of {', '.join(ROLES)}, got {', '.join(sorted(unknown))}")
        self.argument, self.source, self._named = argument, source, dict(columns or {})
        if source.vector is not None:
            self._named["vector"] = source.vector
        self.columns = ROLES | self._named

    @property
    def space(self) -> str:
        """The name of the space of the vectors; empty if the store does not say."""
        return (self.source.schema.metadata or {}).get(b"compatkit.space", b"").decode()

    def has(self, role: str) -> bool:
        """Tell whether there is such a column. One that the caller has named must be there."""
        found = self.columns[role] in self.source.schema.names
        if not found and (role in self._named or role == "vector"):
            names = ", ".join(self.source.schema.names)
            raise ValueError(f"{self._here} has no column {self.columns[role]!r}, only {names}")
        return found

    def number_type(self, role: str) -> np.dtype:
        """The type of the numbers of vectors.

        Raises:
            ValueError: no such column, or none of floating-point vectors of items.
        """
        self.has(role)
        kind = _storage(self.source.schema.field(self.columns[role]).type)
        is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not self.source.rows or not is_list or not pa.types.is_floating(kind.value_type):
            got = f"{self.source.rows} rows of {kind}"
            raise ValueError(f"{self._here} must hold floating-point vectors of items, got {got}")
        return np.dtype(kind.value_type.to_pandas_dtype())

    def width(self, role: str) -> int:
        """Numbers of a vector; ValueError as ``number_type``."""
        self.number_type(role)
        kind = _storage(self.source.schema.field(self.columns[role]).type)
        return kind.list_size if pa.types.is_fixed_size_list(kind) else next(self.blocks(role, 1_024)).shape[1]

    @cached_property
    def ids(self) -> np.ndarray | None:
        """All ids in memory, integers or text; None where there are none.

        Raises:
            ValueError: another type, an id that is empty or stands more than once.
        """
        if not self.has("id"):
            return None
        values = self.named("id", "ids")
        unique = len(np.unique(values)) if values.dtype != object else len(set(values))
        if unique < len(values):
            ((twice, times),) = Counter(values.tolist()).most_common(1)
            raise ValueError(f"{self.argument}: ids must be unique, got {twice!s:.80} {times} times")
        return values

    def named(self, role: str, what: str) -> np.ndarray:
        """A column of integers or text, whole; what: of which the message speaks."""
        name = self.columns[role]
        kind = self.source.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not self.source.rows or not (pa.types.is_integer(kind) or is_text):
            got = f"{kind}; store them as text" if self.source.rows else "no rows"
            raise ValueError(f"{self._here} must have integers or text for {what}, got {got}")
        parts = []
        for row, batch in self._batches(role, 1 << 16):
            column = batch.column(0)
            column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            parts.append(_present(column, f"{self.source.name}, column {name!r}", row))
        found = pa.chunked_array(parts).combine_chunks()
        try:
            return found.to_numpy(False) if is_text else np.asarray(found.cast(pa.int64()))
        except pa.ArrowInvalid as error:
            wanted = f"{what} that fit 64 bits with a sign; store them as text"
            raise ValueError(f"{self._here} must have {wanted}") from error

    def blocks(self, role: str, size: int) -> Iterator[np.ndarray]:
        """The vectors of all rows, ``size`` rows at a time or fewer."""
        for row, batch in self._batches(role, size):
            yield self.vectors(role, batch, row)

    def _batches(self, role: str, size: int) -> Iterator[tuple[int, Any]]:
        for fragment in self.source.fragments():
            row = fragment.start
            for batch in self.source.read(fragment, [self.columns[role]], size):
                yield row, batch
                row += len(batch)

    def sample(self, most: int) -> np.ndarray:
        """The first vectors (n, width) of each fragment, of as many fragments as make ``most`` rows with 64 of each."""
        fragments, name = [one for one in self.source.fragments() if one.rows], [self.columns["vector"]]
        chosen = fragments[:: max(1, len(fragments) * 64 // most)]
        found = []
        for one in chosen:
            # in batches of the usual size: a scanner that has begun decodes more than it is asked for
            batch = next(iter(self.source.read(one, name, batch_rows(self.width("vector")))))[: most // len(chosen)]
            found.append(as_float("gallery", self.vectors("vector", batch, one.start), one.start))
        return np.concatenate(found)

    def vectors(self, role: str, batch: Any, row: int, width: int | None = None) -> np.ndarray:
        """The vectors (n, width) of a batch whose first row is ``row``.

        Raises:
            ValueError: a row is empty, or as wide as no other.
        """
        name = self.columns[role]
        here = f"{self.source.name}, column {name!r}"
        values = _present(_storage(batch.column(name)), here, row)
        lengths = values.value_lengths().to_numpy(zero_copy_only=False)
        width = width or int(lengths[0])
        if (lengths != width).any():
            odd = int((lengths != width).argmax())
            raise ValueError(
                f"{here}: row {row + odd} (the first is 0) has {lengths[odd]} numbers, the first has {width}"
            )
        flat = values.flatten()
        if flat.null_count:
            empty = int(np.asarray(flat.is_null()).argmax()) // width
            raise ValueError(f"{here}: row {row + empty} (the first is 0) has an empty number")
        return flat.to_numpy(zero_copy_only=False).reshape(-1, width)

    @property
    def _here(self) -> str:
        return f"{self.argument}: {self.source.name}"


def as_float(name: str, block: np.ndarray, rows: np.ndarray | int, dtype: np.dtype | type = np.float32) -> np.ndarray:
    """Numbers (n, d) as another type.

    Args:
        name: for the message.
        block: the numbers.
        rows: the number of each row, or of the first one.
        dtype: of the result.

    Raises:
        ValueError: a row has NaN or infinity, or a number that is too large for the type.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(block, dtype)
        # NaN and infinity would be in the sum, which takes a tenth of the time of looking at each number
        if np.isfinite(values.sum(dtype=np.promote_types(values.dtype, np.float32))):
            return values
    finite = np.isfinite(values)
    if not finite.all():
        i = int((~finite.all(1)).argmax())
        row = rows + i if isinstance(rows, int) else rows[i]
        here, number = f"{name}: row {row} (the first is 0)", block[i][~finite[i]][0]
        if np.isfinite(number):
            raise ValueError(f"{here} has {number:.6g}, which is too large for {np.dtype(dtype)}")
        raise ValueError(f"{here} has NaN or infinity")
    return values


def _storage(x: Any) -> Any:
    """Of an extension type or array, such as a tensor's, what it is made of."""
    if isinstance(x, pa.DataType):
        return x.storage_type if isinstance(x, pa.BaseExtensionType) else x
    return x.storage if isinstance(x, pa.ExtensionArray) else x


def _present(values: Any, here: str, row: int) -> Any:
    if values.null_count:
        raise ValueError(f"{here}: row {row + int(np.asarray(values.is_null()).argmax())} (the first is 0) is empty")
    return values


def vector_field(name: str, width: int, dtype: np.dtype | str) -> Any:
    """A column of vectors of one width."""
    return pa.field(name, pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), width))


def as_vectors(x: np.ndarray) -> Any:
    """A matrix (n, width) as an Arrow array of its rows."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), x.shape[1])


def as_matrix(vectors: Any) -> np.ndarray:
    """What ``as_vectors`` was given."""
    return np.asarray(vectors.flatten()).reshape(len(vectors), -1)


def even_fragments(rows: int, width: int, itemsize: int = 4) -> list[Fragment]:
    """Fragments of one size, for a store that has none of its own."""
    size = max(1, FRAGMENT_BYTES // max(1, width * itemsize))
    return [Fragment(start, min(size, rows - start)) for start in range(0, rows, size)]


def batch_rows(width: int) -> int:
    """Rows in memory at a time."""
    return max(1, BATCH_BYTES // (4 * width))


def file_state(path: Path) -> list:
    """A file is the same by name, size and time of change."""
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def without_password(url: str) -> str:
    """A URL for a message: without what may be a secret before the host or in the query."""
    return re.sub(r"(?<=://).*@|\?.*", "...", url)
