"""Places where embeddings lie, and where new ones go: the store that a file name or an address of ``FORMS`` stands for.

A second ``#`` names the column of vectors: ``items.parquet#embedding_v1``, ``lance:db#items#embedding_v1``. As what is
to be made, ``lance:db#items#v2`` is a new column of the gallery's own table, and ``qdrant:...#items#v2`` a new named
vector of its own points.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .store import Address, Gallery, Source, Target

FORMS = "NAME.npy, NAME.parquet, a folder of Parquet files, NAME.arrow, lance:FOLDER#TABLE, "
FORMS += "postgresql://[USER@]HOST[:PORT]/DATABASE#TABLE, qdrant:URL#COLLECTION"
SCHEMES = {"postgresql": "postgres", "postgres": "postgres", "lance": "lance", "qdrant": "qdrant"}
SUFFIXES = {".npy": "numpy", ".parquet": "arrow", ".arrow": "arrow", "": "arrow"}
PASSWORD = r"://[^/@]*:.*@|[?&](ssl)?password="


def address_of(url: str | os.PathLike) -> Address:
    """Split a file name or URL into its parts; a symbolic link to a file stands for what it leads to.

    Raises:
        ValueError: another form, or a password in it, which no message repeats.
    """
    text = os.fspath(url)
    if re.search(PASSWORD, text):
        raise ValueError(
            "a password does not belong into a URL, where others can read it; set PGPASSWORD or PGSERVICE, or write it "
            "into ~/.pgpass; a key of Qdrant belongs into QDRANT_API_KEY"
        )
    scheme, colon, rest = text.partition(":")
    store = SCHEMES.get(scheme) if colon else None
    if store is None:  # a file
        (place, _, vector), table = text.partition("#"), ""
        store = "arrow" if os.path.isdir(place) else SUFFIXES.get(Path(place).suffix)
        is_whole = "://" not in place
    else:
        place, _, name = (text if store == "postgres" else rest).partition("#")
        table, _, vector = name.partition("#")
        is_whole = bool(table) and (store != "lance" or "://" not in place)
    if not store or not place or not is_whole:
        raise ValueError(f"{text}: must be one of {FORMS}")
    return Address(store, place if "://" in place else os.path.realpath(place), table, vector)


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
    address = address_of(url)
    return _module(address).Table(address, dict(columns or {}))


def open_gallery(argument: str, url: str | os.PathLike, columns: Mapping[str, str] | None = None) -> Gallery:
    """What ``open_source`` gives, with the roles of its columns; argument: its name in messages."""
    return Gallery(argument, open_source(url, columns), columns)


def open_target(url: str | os.PathLike) -> Target:
    """Open what is to be made at ``url``; nothing is written yet.

    Raises:
        ValueError, ImportError, ConnectionError: as ``open_source``.
    """
    address = address_of(url)
    store = _module(address)
    return store.NewColumn(address) if address.vector and hasattr(store, "NewColumn") else store.NewTable(address)


def _module(address: Address) -> ModuleType:
    return import_module(f".{address.store}_store", __package__)
