"""Embeddings in PostgreSQL with pgvector: ``postgresql://user@host/database#table``. Needs psycopg.

Rows are read and written by binary COPY, packed and unpacked by numpy, while the server makes or takes others: its own
speed is what bounds both.

Rows are read in the order of their ids, block by block and each in a statement of its own, so that no transaction stays
open for long. The new table has the ids and the new vectors, and is made in one transaction. Nothing else in the
database is written, locked or kept waiting. Passwords come from where libpq finds them (``PGPASSWORD``, ``PGSERVICE``,
``~/.pgpass``) and never from the URL.
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from compatkit.extras import require
from compatkit.progress import progress

from .arrays import ahead, opened
from .ids import INTEGER, TEXT, Ids, ids_of, unique
from .store import Carried, Column, Names, Source

VECTORS: dict[str, np.dtype] = {"vector": np.dtype(">f4"), "halfvec": np.dtype(">f2")}
INTEGERS: dict[str, np.dtype] = {"smallint": np.dtype(">i2"), "integer": np.dtype(">i4"), "bigint": np.dtype(">i8")}
TEXTS = ("text", "character varying", "character", "uuid")
METRICS = {"l2": ("l2", "<->"), "cosine": ("cosine", "<=>"), "ip": ("ip", "<#>")}
"""pgvector's names of operator classes, and its operators."""
LONGEST_KEY = 2_600  # bytes: an index of PostgreSQL takes a third of a page
INDEXED = {"vector": 2_000, "halfvec": 4_000}
"""Numbers that an index of pgvector takes at most."""
COPY_HEADER, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


def _parts(url: str) -> tuple[str, list[str]]:
    """What libpq connects to, and the table, perhaps after its schema. No message repeats what may be a password."""
    connection, _, table = url.rpartition("#")
    authority = re.sub(r"^postgres(ql)?://", "", connection)
    password = authority.rpartition("@")[0].partition(":")[2]
    query = dict(parse_qsl(urlsplit(connection).query)) if "?" in connection else {}
    if password or query.get("password") or query.get("sslpassword") or ("@" in table):
        raise ValueError(
            "a password does not belong into a URL, where others can read it; set PGPASSWORD or PGSERVICE, or write it "
            "into ~/.pgpass"
        )
    if not table or not connection.startswith(("postgresql://", "postgres://")):
        raise ValueError("a database must be given as postgresql://[USER@]HOST[:PORT]/DATABASE#TABLE")
    return connection, unquote(table).split(".", 1)


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Errors of the database as one line of the system's kind."""
    psycopg = require("psycopg", "postgres")
    try:
        yield
    except psycopg.Error as error:
        raise ConnectionError(f"{name}: {str(error).strip().splitlines()[0]}") from error


class _Database:
    """A connection, and a table in it that may be there or not."""

    def __init__(self, url: str):
        connection, self.parts = _parts(url)
        psycopg, self.sql = require("psycopg", "postgres"), require("psycopg.sql", "postgres")
        self.name, self.table = url, self.sql.Identifier(*self.parts)
        with _said(url):
            self.connection = psycopg.connect(connection, autocommit=True, application_name="compatkit")

    def rows_of(self, query: str, *values: Any, **names: str) -> list[tuple]:
        """The rows of a query, see ``composed``."""
        with _said(self.name):
            return self.connection.execute(self.composed(query, *values, **names)).fetchall()

    def composed(self, query: str, *values: Any, **names: str) -> Any:
        """The query with values in place of ``{}``, {table}, and columns by name, all as SQL quotes them."""
        columns = {key: self.sql.Identifier(name) for key, name in names.items()}
        return self.sql.SQL(query).format(*map(self.sql.Literal, values), table=self.table, **columns)

    def exists(self) -> bool:
        return self.rows_of("SELECT to_regclass({}) IS NOT NULL", _quoted(*self.parts))[0][0]

    @cached_property
    def pgvector(self) -> str | None:
        """What its names need before them, its schema and a dot where that is not on the search path; None where this
        database does not have it."""
        found = self.rows_of(
            "SELECT CASE WHEN nspname = ANY (current_schemas(true)) THEN '' ELSE quote_ident(nspname) || '.' END "
            "FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
        )
        return found[0][0] if found else None

    def close(self) -> None:
        self.connection.close()


class Table(_Database):
    """A table for reading, in the order of its column ``key``. Attributes and methods as ``store.Source``."""

    space = ""

    def __init__(self, url: str, key: str):
        super().__init__(url)
        try:
            if not self.exists():
                raise ValueError(f"{url}: there is no such table")
            kinds = self.rows_of(
                "WITH RECURSIVE types (oid, base) AS (SELECT oid, oid FROM pg_type UNION ALL SELECT types.oid, "
                "typbasetype FROM types JOIN pg_type t ON t.oid = base WHERE typtype = 'd') "
                "SELECT attname, format_type(base, NULL) FROM pg_attribute JOIN types ON types.oid = atttypid "
                "JOIN pg_type t ON t.oid = base WHERE typtype <> 'd' AND attrelid = {}::regclass AND attnum > 0 "
                "AND NOT attisdropped ORDER BY attnum",
                _quoted(*self.parts),
            )
            self.kinds = {name: kind.removeprefix(self.pgvector or "") for name, kind in kinds}
            """of the columns, by name: of a domain what it is made of, of pgvector without its schema"""
            self.columns, self.key = list(self.kinds), key
            self._check_key()
            self.rows: int = self.rows_of("SELECT count(*) FROM {table}")[0][0]
        except BaseException:
            self.close()
            raise

    def _check_key(self) -> None:
        if self.kinds.get(self.key) not in (*INTEGERS, *TEXTS):
            got = f"{self.kinds[self.key]}" if self.key in self.kinds else f"only {', '.join(self.columns)}"
            raise ValueError(
                f"{self.name}: a column {self.key!r} of integers, text or uuid is needed for ids, got {got}"
            )
        unique = self.rows_of(
            "SELECT attname FROM pg_index JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0] WHERE "
            "indrelid = {}::regclass AND indisunique AND indisvalid AND indnkeyatts = 1 AND indpred IS NULL "
            "AND attnotnull",
            _quoted(*self.parts),
        )
        if (self.key,) not in unique:
            raise ValueError(f"{self.name}: column {self.key!r} must be the primary key, or NOT NULL and UNIQUE")

    def column(self, role: str, name: str) -> Column | None:
        if name not in self.kinds:
            return None
        kind = self.kinds[name]
        if role in ("vector", "side") and kind not in VECTORS:
            raise ValueError(f"{self.name}: column {name!r} must be of type {' or '.join(VECTORS)}, got {kind}")
        return VectorColumn(self, name) if kind in VECTORS else ScalarColumn(self, name)

    def state(self) -> list:
        """A count and a checksum of all ids and of the transactions that wrote their rows last: no vector is read."""
        checksum = "sum(hashtextextended({key}::text || '/' || xmin::text, 0))::text"
        found = self.rows_of(f"SELECT count(*), {checksum} FROM {{table}}", key=self.key)
        return [self.name, *found[0]]

    def verify(self) -> None: ...

    def ranges(self, start: int, size: int) -> Iterator[tuple[int, Any]]:
        """(row, condition) for blocks of ``size`` rows from ``start`` on: by key, so that each costs the same."""
        low = self._key_at(start - 1, None) if start else None
        for row in range(start, self.rows, size):
            high = self._key_at(size - 1, low)
            bounds = [
                self.composed(f"{{key}} {sign} {{}}", key_value, key=self.key)
                for sign, key_value in ((">", low), ("<=", high))
                if key_value is not None
            ]
            yield row, self.sql.SQL(" AND ").join(bounds or [self.sql.SQL("TRUE")])
            low = high

    def _key_at(self, offset: int, low: Any) -> Any:
        """The key so many rows after ``low`` (or the first one); None beyond the last."""
        where = "" if low is None else "WHERE {key} > {}"
        values = (offset,) if low is None else (low, offset)
        query = f"SELECT {{key}} FROM {{table}} {where} ORDER BY {{key}} OFFSET {{}} LIMIT 1"
        found = self.rows_of(query, *values, key=self.key)
        return found[0][0] if found else None

    def changed(self) -> ValueError:
        return ValueError(f"{self.name}: has changed while it was read; run the same command again")

    def select(self, name: str, where: Any, cast: str = "") -> Any:
        """The query of one column of a block."""
        start = self.composed(f"SELECT {{name}}{cast} FROM {{table}} WHERE ", name=name)
        return start + where + self.composed(" ORDER BY {key}", key=self.key)


class ScalarColumn:
    """A column of integers or text. Attributes as ``store.Column``."""

    width = 0

    def __init__(self, table: Table, name: str):
        self._table, self._name, self.rows, self.kind = table, name, table.rows, table.kinds[name]
        self._cast = "" if self.kind in INTEGERS else "::text"
        self.dtype = TEXT if self._cast else INTEGER

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        for row, where in self._table.ranges(start, size):
            with _said(self._table.name):
                found = self._table.connection.execute(self._table.select(self._name, where, self._cast)).fetchall()
            values = [value for (value,) in found]
            if None in values:
                raise ValueError(_empty(self._table, self._name, row + values.index(None)))
            if len(values) != min(size, self.rows - row):
                raise self._table.changed()
            yield np.array(values, self.dtype)


class VectorColumn:
    """A column of vectors, read in binary. Attributes as ``store.Column``."""

    def __init__(self, table: Table, name: str):
        self._table, self._name, self.rows, self.kind = table, name, table.rows, table.kinds[name]
        self._stored = VECTORS[self.kind]
        self.dtype = self._stored.newbyteorder("=")
        query = "vector_dims({name}) FROM {table} WHERE {name} IS NOT NULL ORDER BY {key} LIMIT 1"
        first = table.rows_of(f"SELECT {table.pgvector}{query}", name=name, key=table.key)
        self.width = first[0][0] if first else 0

    def blocks(self, start: int, size: int) -> Iterator[np.ndarray]:
        return (self._block(row, where, size) for row, where in self._table.ranges(start, size))

    def _block(self, row: int, where: Any, size: int) -> np.ndarray:
        query = self._table.sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(self._table.select(self._name, where))
        with _said(self._table.name), self._table.connection.cursor() as cursor, cursor.copy(query) as copy:
            messages = list(copy)  # one a row; the header comes with the first of them
        content = b"".join(messages)
        layout = np.dtype([("fields", ">i2"), ("value", _vector(self._stored, self.width))])
        count = min(size, self.rows - row)
        if len(content) == len(COPY_HEADER) + count * layout.itemsize + len(COPY_END):
            found = np.frombuffer(content, layout, count, len(COPY_HEADER))["value"]
            if (found["width"] == self.width).all():
                return found["vector"].astype(self.dtype)
        rows = (bytes(message).removeprefix(COPY_HEADER) for message in messages)
        self._refuse(row, [message for message in rows if message not in (b"", COPY_END)])
        raise self._table.changed()

    def _refuse(self, row: int, messages: list[bytes]) -> None:
        """Name the first row that is empty or of another width."""
        for i, message in enumerate(messages):
            if message[2:6] == b"\xff" * 4:
                raise ValueError(_empty(self._table, self._name, row + i))
            width = int.from_bytes(message[6:8], "big")
            if width != self.width:
                here = f"{self._table.name}, column {self._name!r}: row {row + i} (the first is 0)"
                raise ValueError(f"{here} has {width} numbers, the first has {self.width}")


class NewTable:
    """A new table, with the ids and the vectors of any gallery that has ids. As ``store.Sink``."""

    twice = False  # the second time they are in the database, perhaps on another machine

    def __init__(self, url: str):
        self.name, self._parts = url, _parts(url)[1]
        of_url = hashlib.sha256(url.encode()).hexdigest()[:12]
        self.folder = Path.cwd() / f".{self._parts[-1].replace('/', '_')}.{of_url}.upgrade"

    def _connected(self) -> closing[_Database]:
        """A connection of its own each time: hours may lie between two of them."""
        return closing(_Database(self.name))

    def exists(self) -> bool:
        with self._connected() as database:
            return database.exists()

    def check(self, gallery: Source, names: Names, overwrite: bool) -> None:
        ids = ids_of("gallery", gallery, names)
        if ids is None:
            raise ValueError(f"out: a gallery with ids is needed for a table of PostgreSQL, {gallery.name} has none")
        with self._connected() as database:
            if database.exists():
                raise ValueError(f"out: {self.name} exists already; name another table, since none is ever overwritten")
            if database.pgvector is None:
                raise ValueError(f"out: {self.name} has no pgvector (CREATE EXTENSION vector)")
            key = _stored_key(gallery, ids, names.of("id"))
            # made and given up again, or a right that is missing would be found out after all the work
            with _said(self.name), database.connection.transaction(force_rollback=True):
                database.connection.execute(self._creation(database, names, key, "vector"))
        if isinstance(gallery, Table):
            return
        found = unique("gallery", ids)
        for text in found if ids.dtype == TEXT else ():
            if "\0" in text or len(text.encode()) > LONGEST_KEY:
                raise ValueError(
                    f"gallery: ids for PostgreSQL must have at most {LONGEST_KEY} bytes and no NUL, got {text!r:.60}"
                )

    @staticmethod
    def _creation(database: _Database, names: Names, key: str, vectors: str) -> Any:
        """The statement that makes the table of ids and vectors of these types."""
        made = f"CREATE TABLE {{table}} ({{key}} {key} NOT NULL, {{vector}} {database.pgvector}{vectors} NOT NULL)"
        return database.composed(made, key=names.of("id"), vector=names.of("vector"))

    def dtype(self, wanted: np.dtype) -> np.dtype:
        return np.dtype(np.float16 if wanted == np.float16 else np.float32)  # pgvector has nothing wider

    def write(self, vectors: Path, carried: Carried) -> None:
        columns = {"key": carried.names.of("id"), "vector": carried.names.of("vector")}
        ids = ids_of("gallery", carried.gallery, carried.names)
        assert ids is not None  # or ``check`` would have refused it
        kind = _stored_key(carried.gallery, ids, columns["key"])
        with opened(vectors) as new, self._connected() as database, _said(self.name):
            stored = _kind(new.dtype)
            filled = database.composed("COPY {table} ({key}, {vector}) FROM STDIN (FORMAT BINARY)", **columns)
            bar = progress(0, -(-new.rows // carried.chunk), "writing", "chunk", carried.shown)
            with database.connection.transaction(), database.connection.cursor() as cursor:
                cursor.execute(self._creation(database, carried.names, kind, f"{stored}({new.width})"))
                blocks = zip(ids.blocks(0, carried.chunk), new.blocks(0, carried.chunk), strict=True)
                packed = (_packed(of_items, kind, block, VECTORS[stored]) for of_items, block in blocks)
                with cursor.copy(filled) as copy, closing(ahead(packed)) as rows:
                    copy.write(COPY_HEADER)
                    for block in rows:
                        copy.write(block)
                        next(bar, None)
                    copy.write(COPY_END)
                cursor.execute(database.composed("ALTER TABLE {table} ADD PRIMARY KEY ({key})", **columns))

    def switch(self, carried: Carried, metric: str) -> str:
        key, vector, new = _quoted(carried.names.of("id")), _quoted(carried.names.of("vector")), _quoted(*self._parts)
        (operators, sign), kind, by = METRICS[metric], _kind(carried.dtype), vector
        with self._connected() as database:
            within = database.pgvector or ""
            query = "SELECT atttypmod FROM pg_attribute WHERE attrelid = {}::regclass AND attname = {}"
            (width,) = database.rows_of(query, new, carried.names.of("vector"))[0]
        if INDEXED[kind] < width <= INDEXED["halfvec"]:
            kind, by = "halfvec", f"{vector}::{within}halfvec({width})"
        index = (
            f"CREATE INDEX ON {new} USING hnsw ({by if by == vector else f'({by})'} {within}{kind}_{operators}_ops);"
        )
        if width > INDEXED[kind]:
            index = f"no index of pgvector takes {width} numbers, so that a search reads all rows;"
        sign = f"OPERATOR({within}{sign})" if within else sign
        lines = [
            f"To switch over: {index}",
            f"then search with SELECT {key} FROM {new} ORDER BY {by} {sign} $1 LIMIT 10;",
        ]
        if by != vector:
            lines += [f"The index is of half precision, since none takes {width} numbers of single precision."]
        if isinstance(carried.gallery, Table):
            old, name = _quoted(*carried.gallery.parts), carried.gallery.parts[-1]
            lines += [f"with the other columns: FROM {new} n JOIN {old} o USING ({key}) ORDER BY n.{by} {sign} $1."]
            if set(carried.gallery.columns) == {carried.names.of("id"), carried.names.of("vector")}:
                names = ((old, name + "_old"), (new, name))
                renamed = " ".join(f"ALTER TABLE {table} RENAME TO {_quoted(to)};" for table, to in names)
                lines += [f"Or put it in the place of the old one: BEGIN; {renamed} COMMIT;"]
        return "\n".join([*lines, "The old table is untouched."])


def _quoted(*name: str) -> str:
    return require("psycopg.sql", "postgres").Identifier(*name).as_string(None)


def _kind(dtype: np.dtype) -> str:
    return "halfvec" if dtype == np.float16 else "vector"


def _packed(ids: np.ndarray, kind: str, block: np.ndarray, numbers: np.dtype) -> bytes:
    """Rows of binary COPY: an id and a vector each."""
    tails = np.zeros(len(block), _vector(numbers, block.shape[1]))
    tails["bytes"], tails["width"], tails["vector"] = 4 + block.shape[1] * numbers.itemsize, block.shape[1], block
    if kind in INTEGERS:
        heads = np.zeros(len(ids), [("fields", ">i2"), ("bytes", ">i4"), ("id", INTEGERS[kind])])
        heads["fields"], heads["bytes"], heads["id"] = 2, INTEGERS[kind].itemsize, ids
        return np.hstack([part.view(np.uint8).reshape(len(ids), -1) for part in (heads, tails)]).tobytes()
    texts = (uuid.UUID(text).bytes if kind == "uuid" else text.encode() for text in ids.tolist())
    rows = (struct.pack(">hi", 2, len(text)) + text + tail.tobytes() for text, tail in zip(texts, tails, strict=True))
    return b"".join(rows)


def _vector(numbers: np.dtype, width: int) -> np.dtype:
    """A vector in binary COPY: its bytes, pgvector's own header, the numbers."""
    return np.dtype([("bytes", ">i4"), ("width", ">i2"), ("unused", ">i2"), ("vector", numbers, (width,))])


def _stored_key(gallery: Source, ids: Ids, key: str) -> str:
    """The type of the ids in the new table."""
    if isinstance(gallery, Table):
        return gallery.kinds[key] if gallery.kinds[key] in (*INTEGERS, "uuid") else "text"
    return "bigint" if ids.dtype == INTEGER else "text"


def _empty(table: Table, name: str, row: int) -> str:
    return f"{table.name}, column {name!r}: row {row} (the first is 0) is empty"
