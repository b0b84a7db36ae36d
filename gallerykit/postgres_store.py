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
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from compatkit.extras import require

from .store import ROLES, Fragment, Gallery, Target, as_matrix, even_fragments, pa

psycopg, sql = require("psycopg", "postgres"), require("psycopg.sql", "postgres")
pgvector, register_vector = require("pgvector", "postgres"), require("pgvector.psycopg", "postgres").register_vector
VECTORS = {"vector": pa.float32(), "halfvec": pa.float16()}
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
    try:
        yield
    except psycopg.Error as error:
        raise ConnectionError(f"{name}: {str(error).strip().splitlines()[0]}") from error


class _Database:
    """A connection that knows pgvector, and a table."""

    def __init__(self, url: str):
        address, self.table, _ = parts(url)
        self.name = url
        with _said(url):
            self.connection = psycopg.connect(address, autocommit=True, application_name="gallerykit")
        self.has_vectors = bool(self.rows("SELECT 1 FROM pg_extension WHERE extname = 'vector'"))
        if self.has_vectors:
            register_vector(self.connection)

    def quoted(self, query: str, *values: Any, table: Sequence[str] | None = None, **names: str) -> Any:
        """The query with values in place of ``{}``, {table}, and columns by name, all as SQL quotes them."""
        columns = {key: sql.Identifier(name) for key, name in names.items()}
        return sql.SQL(query).format(*map(sql.Literal, values), table=sql.Identifier(*(table or self.table)), **columns)

    def rows(self, query: str, *values: Any, **names: Any) -> list[tuple]:
        with _said(self.name):
            cursor = self.connection.execute(self.quoted(query, *values, **names))
            return cursor.fetchall() if cursor.description else []

    def exists(self, table: Sequence[str] | None = None) -> bool:
        return self.rows("SELECT to_regclass({}) IS NOT NULL", quoted(*(table or self.table)))[0][0]

    def cursor(self) -> Any:
        """Of the server, whose rows come in their binary form, as many at a time as are asked for."""
        return self.connection.cursor("rows", binary=True)

    @contextmanager
    def transaction(self, **options: Any) -> Iterator[None]:
        with _said(self.name), self.connection.transaction(**options):
            yield

    def close(self) -> None:
        self.connection.close()


class Table:
    """A table, in the order of its ids. As ``store.Source``.

    Args:
        url: of the table.
        columns: see ``store.Gallery``; ids must be the primary key, or NOT NULL and UNIQUE.
    """

    def __init__(self, url: str, columns: dict[str, str]):
        _, table, self.vector = parts(url)
        self.url, self.name = url, url.rpartition("#")[0] if self.vector else url
        wanted = ROLES | columns | ({"vector": self.vector} if self.vector else {})
        self._key, vectors = wanted["id"], (wanted["vector"], wanted["side"])
        with self._open() as database:
            if not database.exists():
                raise ValueError(f"{self.name}: there is no such table")
            kinds = database.rows(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = {}::regclass "
                "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                quoted(*table),
            )
            self.kinds = {name: kind for name, kind in kinds if name in wanted.values()}
            self._check_key(database, [name for name, _ in kinds], quoted(*table))
            self.rows: int = database.rows("SELECT count(*) FROM {table}")[0][0]
        if odd := [name for name in vectors if self.kinds.get(name, "vector") not in VECTORS]:
            wanted_kinds = f"of type {' or '.join(VECTORS)}, got {self.kinds[odd[0]]}"
            raise ValueError(f"{self.name}: column {odd[0]!r} must be {wanted_kinds}")
        self.schema = pa.schema([self._field(*one) for one in self.kinds.items()])

    def _open(self) -> closing[_Database]:
        """A connection of its own for each thread."""
        return closing(_Database(self.url))

    def _check_key(self, database: _Database, names: Sequence[str], table: str) -> None:
        kind = self.kinds.get(self._key, f"only {', '.join(names)}")
        if kind not in (*INTEGERS, *TEXTS):
            wanted = "of integers, text or uuid is needed for ids"
            raise ValueError(f"{self.name}: a column {self._key!r} {wanted}, got {kind}")
        unique = database.rows(
            "SELECT attname FROM pg_index JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0] WHERE "
            "indrelid = {}::regclass AND indisunique AND indisvalid AND indnkeyatts = 1 AND indpred IS NULL "
            "AND attnotnull",
            table,
        )
        if (self._key,) not in unique:
            raise ValueError(f"{self.name}: column {self._key!r} must be the primary key, or NOT NULL and UNIQUE")

    def _field(self, name: str, kind: str) -> Any:
        if kind in VECTORS:
            return pa.field(name, pa.list_(VECTORS[kind]))
        return pa.field(name, pa.int64() if kind in INTEGERS else pa.string(), metadata={"postgres": kind})

    def fragments(self) -> Sequence[Fragment]:
        """Fragments between keys, so that each is read in the same time."""
        with self._open() as database:
            widths = "SELECT max(vector_dims({name})) FROM (SELECT {name} FROM {table} LIMIT 1) t"
            vectors = [name for name, kind in self.kinds.items() if kind in VECTORS]
            found = [database.rows(widths, name=name)[0][0] or 1 for name in vectors]
            even = even_fragments(self.rows, max(found, default=1))
            keys = database.rows(
                "SELECT {key} FROM (SELECT {key}, row_number() OVER (ORDER BY {key}) AS n FROM {table}) t "
                "WHERE n % {} = 0 ORDER BY {key}",
                even[0].rows if even else 1,
                key=self._key,
            )
        bounds = [None, *(str(key) if isinstance(key, uuid.UUID) else key for (key,) in keys[: len(even) - 1]), None]
        return [Fragment(one.start, one.rows, bounds[i : i + 2]) for i, one in enumerate(even)]

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        names = {f"c{i}": name for i, name in enumerate(columns)}
        chosen = [f"{{{c}}}" + "::text" * (schema.field(name).type == pa.string()) for c, name in names.items()]
        limits = {sign: key for sign, key in zip((">", "<="), fragment.place, strict=True) if key is not None}
        where = " AND ".join(["TRUE", *(f"{{key}} {sign} {{}}" for sign in limits)])
        query = f"SELECT {', '.join(chosen)} FROM {{table}} WHERE {where} ORDER BY {{key}}"
        row = fragment.start
        with self._open() as database, database.transaction(), database.cursor() as cursor:
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
        with self._open() as database:
            return [self.name, *database.rows(f"SELECT count(*), {checksum} FROM {{table}}", key=self._key)[0]]


def _array(field: Any, values: Sequence[Any]) -> Any:
    if pa.types.is_list(field.type):
        values = [None if value is None else value.to_numpy() for value in values]
    return pa.array(values, field.type)


class NewTable(Target):
    """A new table of ids and vectors. As ``store.Target``."""

    kept: Sequence[str] | None = ("id", "vector")
    has_doubles = False

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

    def bind(self, gallery: Gallery, schema: Any, metric: str) -> None:
        super().bind(gallery, schema, metric)
        if len(schema) < 2:
            raise ValueError(
                f"out: a gallery with ids is needed for a table of PostgreSQL, {gallery.source.name} has none"
            )
        ids, vectors = schema
        stored = (ids.metadata or {}).get(b"postgres", b"").decode()
        self._key = stored if stored in (*INTEGERS, "uuid") else "bigint" if pa.types.is_integer(ids.type) else "text"
        self._kind, self._width = (
            "halfvec" if vectors.type.value_type == pa.float16() else "vector",
            vectors.type.list_size,
        )

    def exists(self) -> bool:
        with self._open() as database:
            return database.exists()

    def check(self) -> None:
        assert self.gallery.ids is not None  # or ``bind`` would have refused; it looks whether they are unique
        # made and given up again, or a right that is missing would be found out after all the work
        with self._open() as database, database.transaction(force_rollback=True):
            if not database.has_vectors:
                raise ValueError(f"out: {self.name} has no pgvector (CREATE EXTENSION vector)")
            self._create(database, self._table)

    def _create(self, database: _Database, table: Sequence[str]) -> None:
        columns = f"{{key}} {self._key} NOT NULL, {{vector}} {self._kind}({self._width}) NOT NULL"
        names = dict(zip(("key", "vector"), self.schema.names, strict=True))
        database.rows(f"CREATE TABLE {{table}} ({columns})", table=table, **names)

    def begin(self, job: str) -> set[int]:
        self.folder.mkdir(parents=True, exist_ok=True)
        of_job = hashlib.sha256(job.encode()).hexdigest()
        with self._open() as database:
            if database.exists(self._done):
                done = database.rows("SELECT job, fragment FROM {table}", table=self._done)
                if (of_job, -1) in done:
                    return {fragment for _, fragment in done} - {-1}
            with database.transaction():
                self._drop(database)
                self._create(database, self._hidden)
                database.rows("CREATE TABLE {table} (job text, fragment int PRIMARY KEY)", table=self._done)
                database.rows("INSERT INTO {table} VALUES ({}, -1)", of_job, table=self._done)
        return set()

    def _drop(self, database: _Database) -> None:
        for table in (self._hidden, self._done):
            database.rows("DROP TABLE IF EXISTS {table}", table=table)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        as_id = uuid.UUID if self._key == "uuid" else lambda value: value
        wrap = pgvector.HalfVector if self._kind == "halfvec" else pgvector.Vector
        with self._open() as database, database.transaction():
            query = database.quoted("COPY {table} FROM STDIN (FORMAT BINARY)", table=self._hidden)
            with database.connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.set_types([INTEGERS.get(self._key, self._key), self._kind])
                for batch in reader:
                    for key, vector in zip(batch.column(0).to_pylist(), as_matrix(batch.column(1)), strict=True):
                        copy.write_row((as_id(key), wrap(vector)))
            database.rows("INSERT INTO {table} VALUES (NULL, {})", index, table=self._done)

    def publish(self) -> None:
        with self._open() as database, database.transaction():
            database.rows("ALTER TABLE {table} ADD PRIMARY KEY ({key})", table=self._hidden, key=self.schema.names[0])
            database.rows("ALTER TABLE {table} RENAME TO {new}", table=self._hidden, new=self._table[-1])
            self._drop(database)

    def discard(self) -> None:
        super().discard()
        with self._open() as database:
            self._drop(database)

    def switch(self) -> str:
        key, vector, new = (*map(quoted, self.schema.names), quoted(*self._table))
        operators, sign = METRICS[self.metric]
        kind, by, width = self._kind, vector, self._width
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
    return sql.Identifier(*name).as_string(None)
