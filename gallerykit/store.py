"""Stores of embeddings: a gallery is a sequence of fragments.

A fragment is some rows in the order of the store, read as Arrow record batches. A new gallery is written in the same
fragments, each to a file, a version or a transaction of its own where nobody sees it, and all become visible at the
end. A fragment that is written is not written again: that is all there is to resuming, on one machine or on many.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from compatkit.extras import require
from compatkit.files import lock_file, write_atomically

pa = require("pyarrow", "gallery")

FRAGMENT_ROWS = 1 << 16  # where a store has no fragments of its own
BATCH_BYTES = 8 << 20
UNIT_TOLERANCE = 1e-3  # by which a length may differ from 1: float16 does not come nearer
ROLES = {"id": "id", "side": "side", "label": "label", "vector": "embedding"}
"""What columns are called unless the caller says otherwise."""


class Address(NamedTuple):
    """The parts of a file name or URL; as text, a name that holds in any working directory."""

    store: str  #: its module is ``STORE_store``
    place: str  #: an absolute path, or a server
    table: str = ""
    vector: str = ""  #: the column of embeddings; empty where it is not named

    def __str__(self) -> str:
        scheme = f"{self.store}:" if self.store in ("lance", "qdrant") else ""
        return "#".join(filter(None, [scheme + self.place, self.table, self.vector]))

    @property
    def whole(self) -> str:
        """The name of the file or table, without its column."""
        return str(self._replace(vector=""))


@dataclass(frozen=True)
class Fragment:
    """Some rows of a gallery."""

    start: int  #: its first row
    rows: int
    place: Any = None  #: where the store finds it, as JSON


class Source(Protocol):
    """A gallery that is only read."""

    name: str  #: for messages
    schema: Any  #: of what is carried along, as Arrow says it
    vector: str  #: the column of embeddings that its address names, or an empty text
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
        address: of what is made.
        beside: what the hidden folder lies beside; None for a database, whose lies where the command runs.
    """

    threads = 3  #: fragments that one process writes at once: one is read and mapped while others wait for the disk
    kept: Sequence[str] | None = None  #: the roles that it takes; None for all columns
    needs_ids = False
    has_doubles = True  #: whether it takes float64; what does not gets float32

    def __init__(self, address: Address, beside: Path | None = None):
        self.address, self.name = address, str(address)
        of_name = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        beside = beside or Path.cwd() / f"{address.table.replace('/', '_')}.{of_name}"
        self.folder = beside.with_name(f".{beside.name}.carry")

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
        if not (kept.exists() and kept.read_text("utf-8") == job and self.is_prepared()):
            self.discard()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.prepare()
            write_atomically(kept, job)
        return set(self.notes())

    def is_prepared(self) -> bool:
        """Tell whether what ``prepare`` has made is there."""
        return True

    def prepare(self) -> None:
        """Make the place where fragments are written, for a new job."""
        return

    @abstractmethod
    def write(self, index: int, fragment: Fragment, reader: Any) -> Any:
        """Write one fragment, from a reader of record batches, so that it outlives a crash; where it is there in part,
        anew. Returns what is needed to publish it, as JSON."""

    def note(self, index: int, written: Any) -> None:
        """Note that a fragment is written."""
        write_atomically(self.folder / "done" / f"{index}.json", json.dumps(written))

    def notes(self) -> dict[int, Any]:
        """What ``write`` returned, in order."""
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

    def __init__(self, address: Address, path: Path | None = None):
        self.path = path or Path(address.place)
        super().__init__(address, self.path)

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
        self.argument, self.source = argument, source
        self._named = dict(columns or {}) | ({"vector": source.vector} if source.vector else {})
        self.columns = ROLES | self._named
        self._here = f"{argument}: {source.name}"

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
            if column.null_count:
                empty = row + int(np.asarray(column.is_null()).argmax())
                raise ValueError(f"{self._here}, column {name!r}: row {empty} (the first is 0) is empty")
            try:
                parts.append(column.cast(pa.large_string() if is_text else pa.int64()))
            except pa.ArrowInvalid as error:
                wanted = f"{what} that fit 64 bits with a sign; store them as text"
                raise ValueError(f"{self._here} must have {wanted}") from error
        return pa.chunked_array(parts).combine_chunks().to_numpy(zero_copy_only=False)

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

    def vectors(self, role: str, batch: Any, row: int, width: int = 0) -> np.ndarray:
        """The vectors (n, width) of a batch whose first row is ``row``; width: 0 for that of the first one.

        Raises:
            ValueError: a row is empty, or as wide as no other.
        """
        name = self.columns[role]
        values = _storage(batch.column(name))
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        width, numbers = width or int(lengths[0]), values.flatten()
        if values.null_count or numbers.null_count or (lengths != width).any():
            rows = values.to_pylist()
            odd = next(i for i, one in enumerate(rows) if one is None or None in one or len(one) != width)
            got = f"row {row + odd} (the first is 0) must have {width} numbers, got {rows[odd]!s:.80}"
            raise ValueError(f"{self._here}, column {name!r}: {got}")
        return numbers.to_numpy(zero_copy_only=False).reshape(-1, width)


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
        total = values.sum(dtype=np.promote_types(values.dtype, np.float32))
    if np.isfinite(total) or (finite := np.isfinite(values)).all():
        return values
    i = int((~finite.all(1)).argmax())
    row, number = rows + i if isinstance(rows, int) else rows[i], block[i][~finite[i]][0]
    raise ValueError(f"{name}: row {row} (the first is 0) has {number:.6g}, which is no finite {np.dtype(dtype)}")


def _storage(x: Any) -> Any:
    """Of an extension type or array, such as a tensor's, what it is made of."""
    if isinstance(x, pa.DataType):
        return x.storage_type if isinstance(x, pa.BaseExtensionType) else x
    return x.storage if isinstance(x, pa.ExtensionArray) else x


def vector_field(name: str, width: int, dtype: np.dtype | str) -> Any:
    """A column of vectors of one width."""
    return pa.field(name, pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), width))


def as_vectors(x: np.ndarray) -> Any:
    """A matrix (n, width) as an Arrow array of its rows."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), x.shape[1])


def as_matrix(vectors: Any) -> np.ndarray:
    """What ``as_vectors`` was given."""
    return np.asarray(vectors.flatten()).reshape(len(vectors), -1)


def even_fragments(rows: int) -> list[Fragment]:
    """Fragments of one size, for a store that has none of its own."""
    return [Fragment(start, min(FRAGMENT_ROWS, rows - start)) for start in range(0, rows, FRAGMENT_ROWS)]


def batch_rows(width: int) -> int:
    """Rows in memory at a time."""
    return max(1, BATCH_BYTES // (4 * width))


def state_of(path: Path) -> list:
    """Name, size and time of change of a file."""
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
