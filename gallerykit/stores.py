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
from types import ModuleType

from .store import Gallery, Source, Target, without_password

FORMS = "NAME.npy, NAME.parquet, a folder of Parquet files, NAME.arrow, lance:FOLDER#TABLE, "
FORMS += "postgresql://[USER@]HOST[:PORT]/DATABASE#TABLE, qdrant:URL#COLLECTION"
SCHEMES = {"postgresql": "postgres", "postgres": "postgres", "lance": "lance", "qdrant": "qdrant"}
SUFFIXES = {".npy": "numpy", ".parquet": "arrow", ".arrow": "arrow", "": "arrow"}


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
    return _store_of(url).open_source(os.fspath(url), dict(columns or {}))


def open_gallery(argument: str, url: str | os.PathLike, columns: Mapping[str, str] | None = None) -> Gallery:
    """What ``open_source`` gives, with the roles of its columns; argument: its name in messages."""
    return Gallery(argument, open_source(url, columns), columns)


def open_target(url: str | os.PathLike) -> Target:
    """Open what is to be made at ``url``; nothing is written yet. A symbolic link to a file stands for its target.

    Raises:
        ValueError, ImportError, ConnectionError: as ``open_source``.
    """
    return _store_of(url).open_target(os.fspath(url))


def absolute(url: str | os.PathLike) -> str:
    """The same place, by a name that holds in any working directory."""
    text = os.fspath(url)
    if "://" in text:
        return text
    scheme, colon, rest = text.partition(":") if _scheme(url) in SCHEMES else ("", "", text)
    place, mark, name = rest.partition("#")
    return scheme + colon + os.path.abspath(place) + mark + name


def _scheme(url: str | os.PathLike) -> str:
    return os.fspath(url).partition(":")[0]


def _store_of(url: str | os.PathLike) -> ModuleType:
    text = os.fspath(url)
    kind = SCHEMES.get(_scheme(url))
    if kind is None and "://" not in text:
        path = Path(text.partition("#")[0])
        kind = SUFFIXES.get("" if path.is_dir() else path.suffix)
        kind = kind if path.suffix or path.is_dir() or not path.exists() else None
    if kind is None:
        raise ValueError(f"{without_password(text)}: must be one of {FORMS}")
    return import_module(f".{kind}_store", __package__)
