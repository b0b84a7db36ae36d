"""Places where embeddings lie, and where new ones go: the store that a file name or an address of ``FORMS`` stands for.

A second ``#`` names the column of vectors: ``items.parquet#embedding_v1``, ``lance:db#items#embedding_v1``. As what is
to be made, ``lance:db#items#v2`` is a new column of the gallery's own table, and ``qdrant:...#items#v2`` a new named
vector of its own points.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from .store import Source, Target, without_password

FORMS = "NAME.npy, NAME.parquet, a folder of Parquet files, NAME.arrow, lance:FOLDER#TABLE, "
FORMS += "postgresql://[USER@]HOST[:PORT]/DATABASE#TABLE, qdrant:URL#COLLECTION"
SCHEMES = {
    "postgresql": "postgres_store",
    "postgres": "postgres_store",
    "lance": "lance_store",
    "qdrant": "qdrant_store",
}


def open_source(url: str | os.PathLike, columns: Mapping[str, str] | None = None) -> Source:
    """Open a file or table for reading.

    Args:
        url: see above.
        columns: what the columns of ``store.ROLES`` are called, where they are called otherwise.

    Raises:
        ValueError: another form, a password in it, or a file that is not what its suffix says.
        FileNotFoundError: there is no such file.
        ImportError: an optional package is missing.
        ConnectionError: the database does not answer.
    """
    text = os.fspath(url)
    if module := SCHEMES.get(text.partition(":")[0]):
        return import_module(f".{module}", __package__).open_source(text, dict(columns or {}))
    path, kind, vector = _file(text)
    if kind == ".npy":
        from . import numpy_store

        return numpy_store.Array(path)
    from . import arrow_store

    return arrow_store.Table(path, vector)


def open_target(url: str | os.PathLike) -> Target:
    """Open what is to be made at ``url``; nothing is written yet. A symbolic link to a file stands for its target.

    Raises:
        ValueError, ImportError, ConnectionError: as ``open_source``.
    """
    text = os.fspath(url)
    if module := SCHEMES.get(text.partition(":")[0]):
        return import_module(f".{module}", __package__).open_target(text)
    path, kind, _ = _file(text)
    path = Path(os.path.realpath(path))
    if kind == ".npy":
        from . import numpy_store

        return numpy_store.NewArray(path)
    from . import arrow_store

    return arrow_store.NewTable(path)


def absolute(url: str | os.PathLike) -> str:
    """The same place, by a name that holds in any working directory."""
    text = os.fspath(url)
    scheme, colon, rest = text.partition(":") if text.startswith(("lance:", "qdrant:")) else ("", "", text)
    if "://" in rest:
        return text
    place, mark, name = rest.partition("#") if colon else (rest, "", "")
    return scheme + colon + os.path.abspath(place) + mark + name


def _file(text: str) -> tuple[Path, str, str | None]:
    """A path, its suffix ("" for a folder), and the column that stands behind it."""
    name, _, vector = text.partition("#")
    path = Path(name)
    if path.is_dir() or (not path.suffix and "://" not in text and not path.exists()):
        return path, "", vector or None
    if path.suffix not in (".npy", ".parquet", ".arrow") or "://" in text:
        raise ValueError(f"{without_password(text)}: must be one of {FORMS}")
    return path, path.suffix, vector or None
