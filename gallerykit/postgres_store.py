"""Embeddings in PostgreSQL with pgvector: ``postgresql://user@host/database#table``, or ``#table#column``.

Rows are read in the order of their ids and written by binary COPY through pgvector's client, each fragment in a
transaction of its own. The new table has the ids and the new vectors; it is filled under another name and renamed at
the end. Nothing else in the database is written, locked or kept waiting. Passwords come from where libpq finds them
(``PGPASSWORD``, ``PGSERVICE``, ``~/.pgpass``) and never from the URL.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from compatkit.extras import require

from .store import ROLES, Address, Fragment, Target, as_matrix, even_fragments, pa

psycopg, sql = require("psycopg", "postgres"), require("psycopg.sql", "postgres")
pgvector, register_vector = require("pgvector", "postgres"), require("pgvector.psycopg", "postgres").register_vector
VECTORS = {"vector": pa.float32(), "halfvec": pa.float16()}
INTEGERS = {"smallint": "int2", "integer": "int4", "bigint": "int8"}
TEXTS = ("text", "character varying", "character", "uuid")
METRICS = {"l2": ("l2", "<->"), "cosine": ("cosine", "<=>"), "ip": ("ip", "<#>")}
"""pgvector's names of operator classes, and its operators."""
INDEXED = {"vector": 2_000, "halfvec": 4_000}
"""Numbers that an index of pgvector takes at most."""


class _Database:
    """A connection that knows pgvector, and a table, perhaps after its schema."""

    def __init__(self, connection: Any, table: str):
        self.connection, self.table = connection, _names(table)
        self.has_vectors = bool(self.rows("SELECT 1 FROM pg_extension WHERE extname = 'vector'"))
        if self.has_vectors:
            register_vector(connection)

    def quoted(self, query: str, *values: Any, table: Sequence[str] | None = None, **names: str) -> Any:
        """The query with values in place of ``{}``, {table}, and columns by name, all as SQL quotes them."""
        columns = {key: sql.Identifier(name) for key, name in names.items()}
        return sql.SQL(query).format(*map(sql.Literal, values), table=sql.Identifier(*(table or self.table)), **columns)

    def rows(self, query: str, *values: Any, **names: Any) -> list[tuple]:
        cursor = self.connection.execute(self.quoted(query, *values, **names))
        return cursor.fetchall() if cursor.description else []

    def exists(self, table: Sequence[str] | None = None) -> bool:
        return self.rows("SELECT to_regclass({}) IS NOT NULL", quoted(*(table or self.table)))[0][0]


@contextmanager
def _open(address: Address) -> Iterator[_Database]:
    """A connection of its own for each thread and time, since hours may lie between two; its errors are one line of the
    system's kind."""
    try:
        with psycopg.connect(address.place, autocommit=True, application_name="gallerykit") as connection:
            yield _Database(connection, address.table)
    except psycopg.Error as error:
        raise ConnectionError(f"{address.whole}: {str(error).strip().splitlines()[0]}") from error


def _names(table: str) -> list[str]:
    return unquote(table).split(".", 1)


def quoted(*name: str) -> str:
    return sql.Identifier(*name).as_string(None)


class Table:
    """A table, in the order of its ids. As ``store.Source``.

    Args:
        address: of the table.
        columns: see ``store.Gallery``; ids must be the primary key, or NOT NULL and UNIQUE.
    """

    def __init__(self, address: Address, columns: dict[str, str]):
        self._address, self.name, self.vector = address, address.whole, unquote(address.vector)
        wanted = ROLES | columns | ({"vector": self.vector} if self.vector else {})
        self._key = wanted["id"]
        with _open(address) as database:
            if not database.exists():
                raise ValueError(f"{self.name}: there is no such table")
            found = database.rows(
                "SELECT attname, format_type(atttypid, NULL), attnotnull AND EXISTS (SELECT FROM pg_index WHERE "
                "indrelid = attrelid AND indkey[0] = attnum AND indnkeyatts = 1 AND indisunique AND indisvalid AND "
                "indpred IS NULL) FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped "
                "ORDER BY attnum",
                quoted(*database.table),
            )
            self.rows: int = database.rows("SELECT count(*) FROM {table}")[0][0]
        kinds = {name: kind for name, kind, _ in found if name in wanted.values()}
        key = kinds.get(self._key, f"only {', '.join(name for name, *_ in found)}")
        if key not in (*INTEGERS, *TEXTS):
            need = "of integers, text or uuid is needed for ids"
            raise ValueError(f"{self.name}: a column {self._key!r} {need}, got {key}")
        if self._key not in [name for name, _, is_unique in found if is_unique]:
            raise ValueError(f"{self.name}: column {self._key!r} must be the primary key, or NOT NULL and UNIQUE")
        for name in (wanted["vector"], wanted["side"]):
            if (kind := kinds.get(name, "vector")) not in VECTORS:
                raise ValueError(f"{self.name}: column {name!r} must be of type {' or '.join(VECTORS)}, got {kind}")
        self.schema = pa.schema([_field(*one) for one in kinds.items()])

    def fragments(self) -> Sequence[Fragment]:
        """Fragments between keys, so that each is read in the same time."""
        even = even_fragments(self.rows)
        with _open(self._address) as database:
            keys = database.rows(
                "SELECT {key}::text FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) AS n FROM {table}) t "
                "WHERE n % {} = 0 ORDER BY n",
                even[0].rows if even else 1,
                key=self._key,
            )
        bounds = [None, *(key for (key,) in keys[: len(even) - 1]), None]
        return [Fragment(one.start, one.rows, bounds[i : i + 2]) for i, one in enumerate(even)]

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        names = {f"c{i}": name for i, name in enumerate(columns)}
        chosen = [f"{{{c}}}" + "::text" * (schema.field(name).type == pa.string()) for c, name in names.items()]
        limits = {sign: key for sign, key in zip((">", "<="), fragment.place, strict=True) if key is not None}
        where = " AND ".join(["TRUE", *(f"{{key}} {sign} {{}}" for sign in limits)])
        query = f"SELECT {', '.join(chosen)} FROM {{table}} WHERE {where} ORDER BY {{key}}"
        row = fragment.start
        with (  # the cursor is named: the server sends as many rows at a time as are asked for
            _open(self._address) as database,
            database.connection.transaction(),
            database.connection.cursor("rows", binary=True) as cursor,
        ):
            cursor.execute(database.quoted(query, *limits.values(), key=self._key, **names))
            while rows := cursor.fetchmany(size):
                values = zip(schema, zip(*rows, strict=True), strict=True)
                yield pa.record_batch([_array(field, column) for field, column in values], schema=schema)
                row += len(rows)
        if row != fragment.start + fragment.rows:
            raise ValueError(f"{self.name}: has changed while it was read; run the same command again")

    def state(self) -> Any:
        """A count and a checksum of all ids and of the transactions that wrote their rows last: no vector is read."""
        checksum = "sum(hashtextextended({key}::text || '/' || xmin::text, 0))::text"
        with _open(self._address) as database:
            return [self.name, *database.rows(f"SELECT count(*), {checksum} FROM {{table}}", key=self._key)[0]]


def _field(name: str, kind: str) -> Any:
    if kind in VECTORS:
        return pa.field(name, pa.list_(VECTORS[kind]))
    return pa.field(name, pa.int64() if kind in INTEGERS else pa.string(), metadata={"postgres": kind})


def _array(field: Any, values: Sequence[Any]) -> Any:
    if pa.types.is_list(field.type):
        values = [None if value is None else value.to_numpy() for value in values]
    return pa.array(values, field.type)


class NewTable(Target):
    """A new table of ids and vectors. As ``store.Target``."""

    kept: Sequence[str] | None = ("id", "vector")
    needs_ids = True
    has_doubles = False

    def __init__(self, address: Address):
        super().__init__(address)
        *schema, self._table = _names(address.table)
        self._hidden, self._done = [*schema, f"{self._table}.carry"], [*schema, f"{self._table}.carry.done"]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else on any machine: by a lock in the database that goes with the connection."""
        with _open(self.address) as database, super().held():
            if not database.rows("SELECT pg_try_advisory_lock(hashtextextended({}, 0))", ".".join(database.table))[0][
                0
            ]:
                raise ConnectionError(f"out: another run is writing {self.name}")
            yield

    @property
    def _types(self) -> tuple[str, str, int]:
        """Of ids and of vectors, and the width of these."""
        ids, vectors = self.schema
        stored = (ids.metadata or {}).get(b"postgres", b"").decode()
        key = stored if stored in (*INTEGERS, "uuid") else "bigint" if pa.types.is_integer(ids.type) else "text"
        return key, "halfvec" if vectors.type.value_type == pa.float16() else "vector", vectors.type.list_size

    def exists(self) -> bool:
        with _open(self.address) as database:
            return database.exists()

    def check(self) -> None:
        # made and given up again, or a right that is missing would be found out after all the work
        with _open(self.address) as database, database.connection.transaction(force_rollback=True):
            if not database.has_vectors:
                raise ValueError(f"out: {self.name} has no pgvector (CREATE EXTENSION vector)")
            self._create(database, database.table)

    def _create(self, database: _Database, table: Sequence[str]) -> None:
        kind, vectors, width = self._types
        columns = f"{{key}} {kind} NOT NULL, {{vector}} {vectors}({width}) NOT NULL"
        names = dict(zip(("key", "vector"), self.schema.names, strict=True))
        database.rows(f"CREATE TABLE {{table}} ({columns})", table=table, **names)

    def is_prepared(self) -> bool:
        with _open(self.address) as database:
            return database.exists(self._done)

    def prepare(self) -> None:
        with _open(self.address) as database, database.connection.transaction():
            self._create(database, self._hidden)
            database.rows("CREATE TABLE {table} (fragment int PRIMARY KEY)", table=self._done)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        key, kind, _ = self._types
        as_id = uuid.UUID if key == "uuid" else lambda value: value
        wrap = pgvector.HalfVector if kind == "halfvec" else pgvector.Vector
        with _open(self.address) as database, database.connection.transaction():
            query = database.quoted("COPY {table} FROM STDIN (FORMAT BINARY)", table=self._hidden)
            with database.connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.set_types([INTEGERS.get(key, key), kind])
                for batch in reader:
                    for one, vector in zip(batch.column(0).to_pylist(), as_matrix(batch.column(1)), strict=True):
                        copy.write_row((as_id(one), wrap(vector)))
            database.rows("INSERT INTO {table} VALUES ({})", index, table=self._done)

    def notes(self) -> dict[int, Any]:
        """In the database, since a fragment and its note belong to one transaction."""
        with _open(self.address) as database:
            return {index: None for (index,) in database.rows("SELECT fragment FROM {table}", table=self._done)}

    def publish(self) -> None:
        with _open(self.address) as database, database.connection.transaction():
            database.rows("ALTER TABLE {table} ADD PRIMARY KEY ({key})", table=self._hidden, key=self.schema.names[0])
            database.rows("ALTER TABLE {table} RENAME TO {new}", table=self._hidden, new=self._table)
            database.rows("DROP TABLE {table}", table=self._done)

    def discard(self) -> None:
        super().discard()
        with _open(self.address) as database:
            for table in (self._hidden, self._done):
                database.rows("DROP TABLE IF EXISTS {table}", table=table)

    def switch(self) -> str:
        key, vector, new = (*map(quoted, self.schema.names), quoted(*_names(self.address.table)))
        operators, sign = METRICS[self.metric]
        _, kind, width = self._types
        by = vector
        if width > INDEXED["halfvec"]:
            index = f"no index of pgvector takes {width} numbers, so that a search reads all rows;"
        else:
            if width > INDEXED[kind]:  # an index of half precision
                kind, by = "halfvec", f"({vector}::halfvec({width}))"
            index = f"CREATE INDEX ON {new} USING hnsw ({by} {kind}_{operators}_ops);"
        search = f"SELECT {key} FROM {new} ORDER BY {by} {sign} $1 LIMIT 10;"
        return f"To switch over: {index}\nthen search with {search}\nThe old table is untouched."
