"""Embeddings in PostgreSQL with pgvector: ``postgresql://user@host/database#table``, or ``#table#column``.

Rows are read in the order of their ids and written by binary COPY through pgvector's client, each fragment in a
transaction of its own. The new table has the ids and the new vectors; it is filled under another name and renamed at
the end. Nothing else in the database is written, locked or kept waiting. Passwords come from where libpq finds them
(``PGPASSWORD``, ``PGSERVICE``, ``~/.pgpass``) and never from the URL.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from compatkit.extras import require

from .store import ROLES, Fragment, Hidden, as_vectors, even_fragments, pa, vector_field

VECTORS = {"vector": "float32", "halfvec": "float16"}
INTEGERS = {"smallint": "int2", "integer": "int4", "bigint": "int8"}
TEXTS = ("text", "character varying", "character", "uuid")
METRICS = {"l2": ("l2", "<->"), "cosine": ("cosine", "<=>"), "ip": ("ip", "<#>")}
"""pgvector's names of operator classes, and its operators."""
INDEXED = {"vector": 2_000, "halfvec": 4_000}
"""Numbers that an index of pgvector takes at most."""


def parts(url: str) -> tuple[str, list[str], str | None]:
    """Split an address into what libpq connects to; the table, perhaps after its schema; a column or None. No message
    repeats what may be a password."""
    connection, _, rest = url.partition("#")
    table, _, vector = rest.partition("#")
    authority = re.sub(r"^postgres(ql)?://", "", connection)
    password = authority.rpartition("@")[0].partition(":")[2]
    query = dict(parse_qsl(urlsplit(connection).query)) if "?" in connection else {}
    if password or query.get("password") or query.get("sslpassword") or "@" in table:
        raise ValueError(
            "a password does not belong into a URL, where others can read it; set PGPASSWORD or PGSERVICE, or write it "
            "into ~/.pgpass"
        )
    if not table or not connection.startswith(("postgresql://", "postgres://")):
        raise ValueError("a database must be given as postgresql://[USER@]HOST[:PORT]/DATABASE#TABLE")
    return connection, unquote(table).split(".", 1), unquote(vector) or None


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Errors of the database as one line of the system's kind."""
    psycopg = require("psycopg", "postgres")
    try:
        yield
    except psycopg.Error as error:
        raise ConnectionError(f"{name}: {str(error).strip().splitlines()[0]}") from error


class _Database:
    """A connection that knows pgvector, and a table."""

    def __init__(self, url: str):
        connection, self.table, _ = parts(url)
        psycopg, self.sql, self.name = require("psycopg", "postgres"), require("psycopg.sql", "postgres"), url
        with _said(url):
            self.connection = psycopg.connect(connection, autocommit=True, application_name="gallerykit")
        self.has_vectors = bool(self.rows("SELECT 1 FROM pg_extension WHERE extname = 'vector'"))
        if self.has_vectors:
            require("pgvector.psycopg", "postgres").register_vector(self.connection)

    def __call__(self, query: str, *values: Any, table: Sequence[str] | None = None, **names: str) -> Any:
        """The query with values in place of ``{}``, {table}, and columns by name, all as SQL quotes them."""
        quoted = {key: self.sql.Identifier(name) for key, name in names.items()}
        place = self.sql.Identifier(*(table or self.table))
        return self.sql.SQL(query).format(*map(self.sql.Literal, values), table=place, **quoted)

    def rows(self, query: str, *values: Any, **names: Any) -> list[tuple]:
        with _said(self.name):
            cursor = self.connection.execute(self(query, *values, **names))
            return cursor.fetchall() if cursor.description else []

    def exists(self, table: Sequence[str] | None = None) -> bool:
        return self.rows("SELECT to_regclass({}) IS NOT NULL", quoted(*(table or self.table)))[0][0]

    def close(self) -> None:
        self.connection.close()


class Table:
    """A table, in the order of its ids. As ``store.Source``.

    Args:
        url: of the table.
        columns: see ``store.Gallery``; ids must be the primary key, or NOT NULL and UNIQUE.
    """

    def __init__(self, url: str, columns: dict[str, str]):
        _, self.table, self.vector = parts(url)
        self.url, self.name = url, url.rpartition("#")[0] if self.vector else url
        self.key, wanted = columns.get("id", ROLES["id"]), ROLES | columns
        if self.vector is not None:
            wanted["vector"] = self.vector
        with closing(_Database(url)) as database:
            if not database.exists():
                raise ValueError(f"{self.name}: there is no such table")
            self.kinds = self._kinds(database)
            self._check_key(database)
            self.rows: int = database.rows("SELECT count(*) FROM {table}")[0][0]
            names = [name for name in self.kinds if name in wanted.values()]
            self.schema = pa.schema([self._field(database, name, wanted) for name in names])

    def _kinds(self, database: _Database) -> dict[str, str]:
        """Types by column."""
        kinds = database.rows(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = {}::regclass "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            quoted(*self.table),
        )
        return dict(kinds)

    def _check_key(self, database: _Database) -> None:
        if self.kinds.get(self.key) not in (*INTEGERS, *TEXTS):
            got = self.kinds[self.key] if self.key in self.kinds else f"only {', '.join(self.kinds)}"
            raise ValueError(
                f"{self.name}: a column {self.key!r} of integers, text or uuid is needed for ids, got {got}"
            )
        unique = database.rows(
            "SELECT attname FROM pg_index JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0] WHERE "
            "indrelid = {}::regclass AND indisunique AND indisvalid AND indnkeyatts = 1 AND indpred IS NULL "
            "AND attnotnull",
            quoted(*self.table),
        )
        if (self.key,) not in unique:
            raise ValueError(f"{self.name}: column {self.key!r} must be the primary key, or NOT NULL and UNIQUE")

    def _field(self, database: _Database, name: str, wanted: dict[str, str]) -> Any:
        kind, about = self.kinds[name], {"postgres": self.kinds[name]}
        if name in (wanted["vector"], wanted["side"]) and kind not in VECTORS:
            raise ValueError(f"{self.name}: column {name!r} must be of type {' or '.join(VECTORS)}, got {kind}")
        if kind in VECTORS:
            query = "SELECT vector_dims({name}) FROM {table} WHERE {name} IS NOT NULL ORDER BY {key} LIMIT 1"
            first = database.rows(query, name=name, key=self.key)
            return vector_field(name, first[0][0] if first else 0, VECTORS[kind])
        return pa.field(name, pa.int64() if kind in INTEGERS else pa.string(), metadata=about)

    def fragments(self) -> Sequence[Fragment]:
        """Fragments between keys, so that each is read in the same time."""
        widest = max([field.type.list_size for field in self.schema if pa.types.is_fixed_size_list(field.type)] or [1])
        even = even_fragments(self.rows, max(1, widest))
        query = (
            "SELECT {key} FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) AS n FROM {table}) t WHERE n % {} = 0"
        )
        with closing(_Database(self.url)) as database:
            keys = (
                [key for (key,) in database.rows(query + " ORDER BY {key}", even[0].rows, key=self.key)] if even else []
            )
        keys = [str(key) if isinstance(key, uuid.UUID) else key for key in keys]
        bounds = [None, *keys[: len(even) - 1], None]
        return [Fragment(one.start, one.rows, bounds[i : i + 2]) for i, one in enumerate(even)]

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        low, high = fragment.place
        kinds = [
            "int8" if self.kinds[c] in INTEGERS else self.kinds[c] if self.kinds[c] in VECTORS else "text"
            for c in columns
        ]
        schema = pa.schema([self.schema.field(name) for name in columns])
        with closing(_Database(self.url)) as database, _said(self.name):
            chosen = database.sql.SQL(", ").join(
                database(f"{{c}}{'' if kind in VECTORS else '::' + kind}", c=name)
                for name, kind in zip(columns, kinds, strict=True)
            )
            limits = [
                database(f"{{key}} {sign} {{}}", value, key=self.key)
                for sign, value in ((">", low), ("<=", high))
                if value is not None
            ]
            where = database.sql.SQL(" AND ").join([database("TRUE"), *limits])
            query = database.sql.SQL("COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT (FORMAT BINARY)").format(
                chosen, database.sql.Identifier(*self.table), where, database.sql.Identifier(self.key)
            )
            row = fragment.start
            with database.connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.set_types(kinds)
                for rows in _grouped(copy.rows(), size):
                    arrays = [
                        self._array(name, values, row)
                        for name, values in zip(columns, zip(*rows, strict=True), strict=True)
                    ]
                    yield pa.record_batch(arrays, schema=schema)
                    row += len(rows)
            if row != fragment.start + fragment.rows:
                raise ValueError(f"{self.name}: has changed while it was read; run the same command again")

    def _array(self, name: str, values: Sequence[Any], row: int) -> Any:
        field = self.schema.field(name)
        if None in values if field.type == pa.string() else any(value is None for value in values):
            empty = row + next(i for i, value in enumerate(values) if value is None)
            raise ValueError(f"{self.name}, column {name!r}: row {empty} (the first is 0) is empty")
        if not pa.types.is_fixed_size_list(field.type):
            return pa.array(values, field.type)
        width = field.type.list_size
        arrays = [value.to_numpy() for value in values]
        if odd := next((i for i, value in enumerate(arrays) if len(value) != width), None):
            here = f"{self.name}, column {name!r}: row {row + odd} (the first is 0)"
            raise ValueError(f"{here} has {len(arrays[odd])} numbers, the first has {width}")
        return as_vectors(np.stack(arrays))

    def state(self) -> Any:
        """A count and a checksum of all ids and of the transactions that wrote their rows last: no vector is read."""
        checksum = "sum(hashtextextended({key}::text || '/' || xmin::text, 0))::text"
        with closing(_Database(self.url)) as database:
            return [self.name, *database.rows(f"SELECT count(*), {checksum} FROM {{table}}", key=self.key)[0]]


class NewTable(Hidden):
    """A new table of ids and vectors. As ``store.Target``."""

    kept: Sequence[str] | None = ("id", "vector")

    def __init__(self, url: str):
        self._url, self._table = url, parts(url)[1]
        of_url = hashlib.sha256(url.encode()).hexdigest()[:12]
        super().__init__(url, Path.cwd() / f"{self._table[-1].replace('/', '_')}.{of_url}")
        self._hidden = [*self._table[:-1], f"{self._table[-1]}.carry"]
        self._done = [*self._table[:-1], f"{self._table[-1]}.carry.done"]

    def _open(self) -> closing[_Database]:
        """A connection of its own each time: hours may lie between two of them."""
        return closing(_Database(self._url))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else on any machine: by a lock in the database that goes with the connection."""
        with self._open() as database, super().held():
            if not database.rows("SELECT pg_try_advisory_lock(hashtextextended({}, 0))", ".".join(self._table))[0][0]:
                raise ConnectionError(f"out: another run is writing {self.name}")
            yield

    def check_new(self, overwrite: bool) -> None:
        with self._open() as database:
            if database.exists():
                raise ValueError(f"out: {self.name} exists already; name another table, since none is ever overwritten")
            if not database.has_vectors:
                raise ValueError(f"out: {self.name} has no pgvector (CREATE EXTENSION vector)")

    def check(self) -> None:
        if len(self.schema) < 2 or self.gallery.ids is None:  # which also looks whether they are unique
            source = self.gallery.source.name
            raise ValueError(f"out: a gallery with ids is needed for a table of PostgreSQL, {source} has none")
        # made and given up again, or a right that is missing would be found out after all the work
        with self._open() as database, _said(self.name), database.connection.transaction(force_rollback=True):
            database.rows(self._creation, **self._names)

    @cached_property
    def _names(self) -> dict[str, str]:
        return dict(zip(("key", "vector"), self.schema.names, strict=True))

    @cached_property
    def _key(self) -> str:
        """The type of the ids."""
        field = self.schema.field(0)
        stored = (field.metadata or {}).get(b"postgres", b"").decode()
        return stored if stored in (*INTEGERS, "uuid") else "bigint" if pa.types.is_integer(field.type) else "text"

    @cached_property
    def _kind(self) -> str:
        return "halfvec" if self.schema.field(1).type.value_type == pa.float16() else "vector"

    @property
    def _creation(self) -> str:
        width = self.schema.field(1).type.list_size
        return f"CREATE TABLE {{table}} ({{key}} {self._key} NOT NULL, {{vector}} {self._kind}({width}) NOT NULL)"

    def begin(self, job: str) -> set[int]:
        self.folder.mkdir(parents=True, exist_ok=True)
        of_job = hashlib.sha256(job.encode()).hexdigest()
        with self._open() as database:
            if database.exists(self._done):
                done = database.rows("SELECT job, fragment FROM {table}", table=self._done)
                if (of_job, -1) in done:
                    return {fragment for _, fragment in done} - {-1}
            with _said(self.name), database.connection.transaction():
                for table in (self._hidden, self._done):
                    database.rows("DROP TABLE IF EXISTS {table}", table=table)
                database.rows(self._creation, table=self._hidden, **self._names)
                database.rows("CREATE TABLE {table} (job text, fragment int PRIMARY KEY)", table=self._done)
                database.rows("INSERT INTO {table} VALUES ({}, -1)", of_job, table=self._done)
        return set()

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        ids_of = {"uuid": uuid.UUID}.get(self._key, lambda value: value)
        wrap = (
            require("pgvector", "postgres").HalfVector
            if self._kind == "halfvec"
            else require("pgvector", "postgres").Vector
        )
        with self._open() as database, _said(self.name), database.connection.transaction():
            query = database("COPY {table} FROM STDIN (FORMAT BINARY)", table=self._hidden)
            with database.connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.set_types([INTEGERS.get(self._key, self._key), self._kind])
                for batch in reader:
                    block = np.asarray(batch.column(1).flatten()).reshape(len(batch), -1)
                    for key, vector in zip(batch.column(0).to_pylist(), block, strict=True):
                        copy.write_row((ids_of(key), wrap(vector)))
            database.rows("INSERT INTO {table} VALUES (NULL, {})", index, table=self._done)

    def publish(self) -> None:
        with self._open() as database, _said(self.name), database.connection.transaction():
            database.rows("ALTER TABLE {table} ADD PRIMARY KEY ({key})", table=self._hidden, key=self._names["key"])
            database.rows("ALTER TABLE {table} RENAME TO {new}", table=self._hidden, new=self._table[-1])
            database.rows("DROP TABLE {table}", table=self._done)

    def discard(self) -> None:
        super().discard()
        with self._open() as database:
            for table in (self._hidden, self._done):
                database.rows("DROP TABLE IF EXISTS {table}", table=table)

    def switch(self) -> str:
        key, vector, new = (*map(quoted, self.schema.names), quoted(*self._table))
        operators, sign = METRICS[self.metric]
        kind, by, width = self._kind, vector, self.schema.field(1).type.list_size
        if width > INDEXED["halfvec"]:
            index = f"no index of pgvector takes {width} numbers, so that a search reads all rows;"
        else:
            if width > INDEXED[kind]:  # an index of half precision
                kind, by = "halfvec", f"({vector}::halfvec({width}))"
            index = f"CREATE INDEX ON {new} USING hnsw ({by} {kind}_{operators}_ops);"
        search = f"SELECT {key} FROM {new} ORDER BY {by} {sign} $1 LIMIT 10;"
        return f"To switch over: {index}\nthen search with {search}\nThe old table is untouched."


def open_source(url: str, columns: dict[str, str]) -> Table:
    return Table(url, columns)


def open_target(url: str) -> NewTable:
    return NewTable(url)


def quoted(*name: str) -> str:
    return require("psycopg.sql", "postgres").Identifier(*name).as_string(None)


def _grouped(rows: Iterator[tuple], size: int) -> Iterator[list[tuple]]:
    return iter(partial(lambda: [row for _, row in zip(range(size), rows, strict=False)]), [])
