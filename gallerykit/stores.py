"""Where embeddings lie, and where new ones go: the store that a file name or an address stands for.

====================================  ===========================================================
``items.npy``                         one array: embeddings (n, d), side-information (n, d) or labels (n,)
``items.npz``                         what ``Embeddings.save`` wrote: embeddings, ids and the name of their space
``items.parquet``, ``items/``         a Parquet file, or a folder of such files in the order of their names
``items.arrow``                       an Arrow IPC file
``lance:db#items``                    the table ``items`` of the LanceDB in the folder ``db``
``postgresql://user@host/db#items``   a PostgreSQL table with a column of pgvector; ``#schema.items`` works, too
====================================  ===========================================================

Tables have a column ``embedding`` (all of one width), and perhaps ``id``, ``side`` and ``label``, or other ``Names``.
"""

from __future__ import annotations

import os
from pathlib import Path

from .store import DEFAULTS, Sink, Source, without_password

FORMS = "NAME.npy, NAME.npz, NAME.parquet, a folder of Parquet files, NAME.arrow, lance:FOLDER#TABLE, "
FORMS += "postgresql://[USER@]HOST[:PORT]/DATABASE#TABLE"


def open_source(url: str | os.PathLike, key: str = DEFAULTS["id"]) -> Source:
    """Open a file or table for reading; the caller closes it.

    Args:
        url: see above.
        key: the column of ids, by which a database is read.

    Raises:
        ValueError: another form, a password in it, or a file that is not what its suffix says.
        FileNotFoundError: there is no such file.
        ImportError: an optional package is missing.
        ConnectionError: the database does not answer.
    """
    text = os.fspath(url)
    if text.startswith(("postgresql:", "postgres:")):
        from . import postgres

        return postgres.Table(text, key)
    if text.startswith("lance:"):
        from . import lance

        return lance.open_table(text)
    path, kind = Path(text), _kind(text)
    if kind in (".npy", ".npz"):
        from . import arrays

        return arrays.ArrayFile(path)
    from . import tables

    return tables.open_arrow(path) if kind == ".arrow" else tables.open_parquet(path)


def open_sink(url: str | os.PathLike) -> Sink:
    """What is to be made at ``url``; nothing is written yet. A symbolic link to a file stands for its target.

    Raises:
        ValueError, ImportError, ConnectionError: as ``open_source``.
    """
    text = os.fspath(url)
    if text.startswith(("postgresql:", "postgres:")):
        from . import postgres

        return postgres.NewTable(text)
    if text.startswith("lance:"):
        from . import lance

        return lance.NewTable(text)
    path, kind = Path(os.path.realpath(text)), _kind(text)
    if kind in (".npy", ".npz"):
        from . import arrays

        return arrays.NewArrayFile(path)
    from . import tables

    if kind == ".parquet":
        return tables.NewParquet(path)
    return tables.NewArrow(path) if kind == ".arrow" else tables.NewFolder(path)


def absolute(url: str) -> str:
    """The same source, by a name that holds in any working directory."""
    if "://" in url:
        return url
    if url.startswith("lance:"):
        folder, _, table = url.removeprefix("lance:").partition("#")
        return f"lance:{os.path.abspath(folder)}#{table}"
    return os.path.abspath(url)


def _kind(text: str) -> str:
    """The suffix of a file, "" for a folder."""
    path = Path(text)
    if path.is_dir() or (not path.suffix and "://" not in text and not path.exists()):
        return ""
    if path.suffix not in (".npy", ".npz", ".parquet", ".arrow") or "://" in text:
        raise ValueError(f"{without_password(text)}: must be one of {FORMS}")
    return path.suffix
