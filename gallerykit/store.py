"""What a store of embeddings is. A source is only read, by column and in blocks of rows, so that it may be larger than
memory. A sink makes a new file or table, which appears when it is whole, and never touches an old one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

DEFAULTS = {"id": "id", "vector": "embedding", "side": "side", "label": "label"}


@dataclass(frozen=True)
class Names:
    """What the columns of tables are called; None takes the name of ``DEFAULTS``, if the table has it."""

    id: str | None = None
    vector: str | None = None
    side: str | None = None
    label: str | None = None

    def of(self, role: str) -> str:
        return getattr(self, role) or DEFAULTS[role]


class Column(Protocol):
    """One value a row, or a vector of one width."""

    @property
    def rows(self) -> int: ...

    @property
    def width(self) -> int:
        """0 where there is one value a row."""

    @property
    def dtype(self) -> np.dtype | None:
        """Of the numbers; ``object`` or ``str`` for text; None for anything else."""

    @property
    def kind(self) -> str:
        """What the store calls its type, for messages."""

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        """The rows from ``start`` on, ``size`` at a time: (size,) or (size, width), the last may be shorter."""


class Source(Protocol):
    """A file or a table that is open; rows have an order, which is that of the ids in a database."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> list[str] | None:
        """None for arrays, which know only roles."""

    @property
    def space(self) -> str:
        """The name of the space of the embeddings; empty if it does not say."""

    @property
    def state(self) -> Callable[[], list]:
        """Gives JSON that is another when the content is: between two reads with the same state nothing changed."""

    @property
    def close(self) -> Callable[[], None]: ...

    def column(self, role: str, name: str) -> Column | None:
        """The column of that name (for arrays: in that role, a key of ``DEFAULTS``), None if there is none."""

    def verify(self) -> None:
        """Raise ValueError if the content was altered, where there is a checksum, or is not as the schema says."""


@dataclass(frozen=True)
class Carried:
    """What goes into a new gallery beside the vectors."""

    gallery: Source
    names: Names
    space: str
    """of the new vectors"""
    made_from: str
    """the space that they were made from"""
    dtype: np.dtype
    """of their numbers"""
    chunk: int
    """rows in memory at a time, and in a row group"""
    shown: bool
    """show progress"""

    def about(self) -> dict[str, str]:
        """The spaces, for the metadata of a table."""
        return {k: v for k, v in (("compatkit.space", self.space), ("compatkit.made_from", self.made_from)) if v}


class Sink(Protocol):
    """A new file or table that is not there yet."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path:
        """A hidden folder for what is done so far, on the disk of the new file."""

    @property
    def twice(self) -> bool:
        """Whether the vectors are on that disk twice while they are put together."""

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        """ValueError if this cannot be made of the gallery, or is there already."""

    def exists(self) -> bool: ...

    def dtype(self, wanted: np.dtype) -> np.dtype:
        """In which numbers of that type are stored here."""

    def write(self, vectors: Path, carried: Carried) -> None:
        """Make it, at once or not at all. vectors: the whole ``.npy``, in ``folder``."""

    def switch(self, carried: Carried, metric: str) -> str:
        """How to search what was made in place of the old gallery."""


def without_password(url: str) -> str:
    """A URL for a message: without what may be a secret before the host or in the query."""
    return re.sub(r"(?<=://).*@|\?.*", "...", url)
