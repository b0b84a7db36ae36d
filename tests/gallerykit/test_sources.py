"""Tables and databases as galleries: the same numbers as from arrays, whole or not there, whatever is killed."""

import ctypes
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gallerykit import mapped, pairs, stores, stream
from gallerykit.__main__ import main
from gallerykit.pairs import read_pairs
from gallerykit.postgres import NewTable
from gallerykit.store import Carried, Names
from gallerykit.upgrade import upgrade

from .test_upgrade import CHUNK, QUICK, ROWS, N, files, hidden, read, save  # noqa: F401

IDS = np.arange(ROWS) * 3 + 5
KINDS = ("parquet", "folder", "arrow", "lance", "postgresql")


@pytest.fixture
def store(tmp_path, request, monkeypatch):
    """A function (kind, name, table) that stores an Arrow table, and one (kind, name) for its URL."""
    monkeypatch.chdir(tmp_path)

    def url(kind, name):
        if kind == "postgresql":
            return f"{request.getfixturevalue('database')}#{name}"
        return f"lance:{tmp_path / 'db'}#{name}" if kind == "lance" else str(tmp_path / f"{name}{SUFFIX[kind]}")

    def put(kind, name, table):
        where = url(kind, name)
        if kind == "parquet":
            pq.write_table(table, where, row_group_size=70)
        elif kind == "folder":
            os.mkdir(where)
            for i, start in enumerate(range(0, len(table), 120)):
                pq.write_table(table[start : start + 120], f"{where}/part-{i}.parquet", row_group_size=70)
        elif kind == "arrow":
            with pa.ipc.new_file(where, table.schema) as writer:
                writer.write_table(table, max_chunksize=70)
        elif kind == "lance":
            lancedb.connect(tmp_path / "db").create_table(name, table)
        else:
            put_in_postgres(where.rpartition("#")[0], name, table)
        return where

    return put, url


SUFFIX = {"parquet": ".parquet", "folder": "", "arrow": ".arrow"}


def put_in_postgres(url, name, table):
    kinds = {pa.int64(): "bigint", pa.string(): "text"}
    width = table["embedding"].type.list_size
    columns = [f"{f.name} {kinds.get(f.type, f'vector({width})')}" for f in table.schema]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY (id))")
        rows = [[str(x) if isinstance(x, list) else x for x in row.values()] for row in table.to_pylist()]
        cursor.executemany(f"INSERT INTO {name} VALUES ({', '.join(['%s'] * len(columns))})", reversed(rows))


def table(vectors, ids=None, **columns):
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    ids = np.arange(len(vectors)) if ids is None else ids
    return pa.table({"note": [f"n{i}" for i in ids], "id": ids, "embedding": flat, **columns})


@pytest.fixture
def expected(files):  # noqa: F811
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)
    return np.load(files["out"])


@pytest.mark.parametrize("kind", KINDS)
def test_any_store_gives_the_bits_of_arrays(files, store, expected, kind):  # noqa: F811
    put, url = store
    x = {name: np.load(files[name]) for name in ("old", "new", "gallery")}
    old, new = put(kind, "old_pairs", table(x["old"])), put(kind, "new_pairs", table(x["new"]))
    gallery = put(kind, "gallery_old", table(x["gallery"], IDS))
    before = content(gallery)
    done = upgrade(old, new, gallery, url(kind, "carried"), method="ridge", **QUICK)
    assert done.out == url(kind, "carried") and (read(done.out) == expected).all() and content(gallery) == before
    source = stores.open_source(done.out)
    assert (pairs.whole(source.column("id", "id")) == IDS).all()
    assert source.columns == (["id", "embedding"] if kind == "postgresql" else ["note", "id", "embedding"])
    source.close()
    assert not hidden(files) and "To switch over" in done.switch and "untouched" in done.switch
    with pytest.raises(ValueError, match="out: .* exists already"):
        upgrade(old, new, gallery, done.out, method="ridge", overwrite=kind not in ("parquet", "arrow"), **QUICK)


def content(url):
    """All of a table, as text."""
    if url.startswith("postgresql"):
        connection, _, name = url.rpartition("#")
        with psycopg.connect(connection) as opened:
            return opened.execute(f"SELECT *, xmin, ctid FROM {name}").fetchall()
    source = stores.open_source(url)
    found = pa.Table.from_batches(list(source.batches(source.columns, 0, 1000)))
    source.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_begin_anywhere(store, kind):
    put, _ = store
    x = np.random.default_rng(0).standard_normal((ROWS, 4), dtype=np.float32)
    source = stores.open_source(put(kind, "items", table(x, IDS)))
    for role, name, whole in (("vector", "embedding", x), ("id", "id", IDS), ("label", "note", [f"n{i}" for i in IDS])):
        column = source.column(role, name)
        assert (column.rows, column.width) == (ROWS, 4 * (name == "embedding"))
        for start in (0, 50, 69, 70, 71, 240, ROWS - 1, ROWS):
            blocks = list(column.blocks(start, CHUNK))
            assert [len(block) for block in blocks[:-1]] == [CHUNK] * (len(blocks) - 1)
            assert not blocks if start == ROWS else (np.concatenate(blocks) == whole[start:]).all()
    assert source.column("side", "side") is None and source.rows == ROWS
    source.close()


@pytest.mark.parametrize("out", KINDS)
@pytest.mark.parametrize("ids", [IDS, np.array([f"é{i:03}" for i in range(ROWS)])], ids=["integers", "text"])
def test_one_kind_of_store_goes_into_another(files, store, expected, out, ids):  # noqa: F811
    put, url = store
    gallery = put("lance" if out != "lance" else "arrow", "gallery_old", table(np.load(files["gallery"]), ids))
    done = upgrade(files["old"], files["new"], gallery, url(out, "carried"), method="ridge", **QUICK)
    assert (read(done.out) == expected).all()
    again = upgrade(files["old"], files["new"], gallery, url("arrow", "again"), method="ridge", **QUICK)
    found = stores.open_source(done.out)
    assert (pairs.whole(found.column("id", "id")) == ids).all() and (read(again.out) == expected).all()
    found.close()


def test_out_of_postgres_through_parquet(files, store, expected):  # noqa: F811
    put, url = store
    gallery = put("postgresql", "items", table(np.load(files["gallery"]), IDS))
    upgrade(files["old"], files["new"], gallery, url("parquet", "out"), method="ridge", **QUICK)
    found = pq.read_table(url("parquet", "out"))
    assert found.column_names == ["id", "embedding"] and found["id"].to_pylist() == IDS.tolist()
    assert (read(url("parquet", "out")) == expected).all()


# Killed


KILLED = """
import os, signal, sys
from gallerykit import arrays, mapped, stream, upgrade as module
import torch
torch.set_num_threads(1)
stream.SAVE_SECONDS = -1.0
where, *paths = sys.argv[1:]
def die(function, after):
    def dying(*args):
        for i, x in enumerate(function(*args)):
            if i == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield x
    return dying
if where == "rows":
    mapped.Mapped.blocks = die(mapped.Mapped.blocks, 4)
else:  # while the new table is put together from the rows, which are all there
    opened = arrays.ArrayColumn.blocks
    dying = die(opened, 3)
    arrays.ArrayColumn.blocks = lambda column, *a: (dying if "vectors.npy" in column._name else opened)(column, *a)
module.upgrade(*paths, method="ridge", chunk=50, width=8, steps=6)
"""


@pytest.mark.parametrize("where", ["rows", "end"])
@pytest.mark.parametrize("kind", KINDS)
def test_sigkill(files, store, kind, where):  # noqa: F811
    put, url = store
    gallery = put(kind, "gallery_old", table(np.load(files["gallery"]), IDS))
    paths = [str(files["old"]), str(files["new"]), gallery]
    before = content(gallery)
    child = subprocess.run(
        [sys.executable, "-c", KILLED, where, *paths, url(kind, "carried")], capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    with pytest.raises((FileNotFoundError, ValueError)):
        content(url(kind, "carried")) if kind != "postgresql" else stores.open_source(url(kind, "carried"))
    upgrade(*paths, url(kind, "carried"), method="ridge", **QUICK)
    upgrade(*paths, url(kind, "straight"), method="ridge", **QUICK)
    carried, straight = (content(url(kind, name)) for name in ("carried", "straight"))
    if kind == "postgresql":
        carried, straight = ([row[:2] for row in rows] for rows in (carried, straight))
    assert carried == straight and len(carried) == ROWS and content(gallery) == before
    assert (read(url(kind, "carried")) == read(url(kind, "straight"))).all()
    left = [path for path in files["out"].parent.rglob(".*") if path.name != ".DS_Store"]
    assert not left and not [p for p in files["out"].parent.rglob("*.tmp")]


@pytest.mark.parametrize(
    "change", ["UPDATE items SET embedding = embedding WHERE id = 5", "DELETE FROM items WHERE id = 5"]
)
@pytest.mark.parametrize("when", ["before the first row", "after the last row"])
def test_a_table_that_changes_meanwhile_is_refused(files, store, monkeypatch, change, when):  # noqa: F811
    put, url = store
    gallery = put("postgresql", "items", table(np.load(files["gallery"]), IDS))
    write = stream.Stream._write

    def changing(*args):
        if when == "after the last row":
            write(*args)
        with psycopg.connect(gallery.partition("#")[0]) as connection:
            connection.execute(change)
        if when == "before the first row":
            write(*args)

    monkeypatch.setattr(stream.Stream, "_write", changing)
    with pytest.raises(ValueError, match="has changed"):
        upgrade(files["old"], files["new"], gallery, url("postgresql", "out"), method="ridge", **QUICK)
    with pytest.raises(ValueError, match="no such table"):
        stores.open_source(url("postgresql", "out"))
    assert not hidden(files)


def test_a_lance_table_that_grows_meanwhile_is_read_as_it_was(files, store, expected, monkeypatch):  # noqa: F811
    put, url = store
    items = table(np.load(files["gallery"]), IDS)
    gallery, write = put("lance", "items", items), stream.Stream._write
    path = gallery.removeprefix("lance:").partition("#")[0]

    def growing(*args):
        lancedb.connect(path).open_table("items").add(items)
        write(*args)

    monkeypatch.setattr(stream.Stream, "_write", growing)
    done = upgrade(files["old"], files["new"], gallery, url("lance", "out"), method="ridge", **QUICK)
    assert (read(done.out) == expected).all() and stores.open_source(gallery).rows == 2 * ROWS


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_sentence_of_lance_makes_an_index(files, store, metric):  # noqa: F811
    put, url = store
    gallery = put("lance", "items", table(np.load(files["gallery"]), IDS))
    done = upgrade(files["old"], files["new"], gallery, url("lance", "out"), method="ridge", metric=metric, **QUICK)
    db = lancedb.connect(gallery.removeprefix("lance:").partition("#")[0])
    exec(done.switch.removeprefix("To switch over: ").partition(";")[0], {"db": db, "lancedb": lancedb})
    (index,) = db.open_table("out").list_indices()
    assert index.columns == ["embedding"]


# What is joined


def test_ids_that_match_in_part_are_joined(files, store):  # noqa: F811
    put, _ = store
    x = {name: np.load(files[name]) for name in ("old", "new", "side")}
    order = np.random.default_rng(0).permutation(N)
    old = put("lance", "old_pairs", table(x["old"]))
    new = put("parquet", "new_pairs", table(x["new"][order][1:], order[1:]))
    side = put("arrow", "side_pairs", table(x["side"][order][:-1], order[:-1]))
    told = []
    found = read_pairs(old, new, side=side, tell=told.append)
    assert told == ["198 items are paired by their ids, of 200 of old, 199 of new, 199 of side."]
    kept = np.setdiff1d(np.arange(N), order[[0, -1]])
    for name in x:
        assert (getattr(found, name).numpy() == x[name][kept]).all()
    with pytest.raises(ValueError, match=f"--require-all.: 198 items .*; new lacks {order[0]} of old"):
        read_pairs(old, new, side=side, require_all=True, tell=told.append)
    assert len(told) == 1
    read_pairs(old, put("arrow", "all_new", table(x["new"])), require_all=True, tell=told.append)
    assert len(told) == 1, "nothing is said where all ids match"


def test_the_gallery_may_be_the_old_side_of_the_pairs(files, store):  # noqa: F811
    put, url = store
    gallery = put("postgresql", "items", table(np.load(files["gallery"]), IDS))
    some = np.arange(1, ROWS, 3)
    new = put(
        "parquet", "new_pairs", table(np.load(files["gallery"])[some] @ np.eye(6, 7, dtype=np.float32), IDS[some])
    )
    done = upgrade(gallery, new, gallery, url("postgresql", "out"), method="ridge", **QUICK)
    assert done.comparison.fitted_on + done.comparison.held_out == len(some)
    assert np.abs(read(done.out) - np.load(files["gallery"]) @ np.eye(6, 7)).max() < 1e-3


def test_side_information_of_the_gallery_comes_from_anywhere_by_id(files, store):  # noqa: F811
    put, url = store
    x = {name: np.load(path) for name, path in files.items() if name != "out"}
    upgrade(**files, method="ridge", **QUICK)
    order = np.random.default_rng(0).permutation(ROWS)
    gallery = put("lance", "items", table(x["gallery"], IDS))
    more = np.concatenate([x["gallery_side"][order], np.full((2, 3), 9, np.float32)])
    beside = put("parquet", "beside", table(more, np.concatenate([IDS[order], [0, 1]])))
    options = {"side": files["side"], "gallery_side": beside, "method": "ridge"}
    done = upgrade(files["old"], files["new"], gallery, url("lance", "out"), **options, **QUICK)
    assert (read(done.out) == np.load(files["out"])).all()
    with pytest.raises(ValueError, match="gallery_side: .*--require-all.*got 335 for 333"):
        upgrade(files["old"], files["new"], gallery, url("lance", "no"), require_all=True, **options, **QUICK)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_by_name(files, store, expected, kind):  # noqa: F811
    put, url = store
    names = {"note": "note", "id": "id", "embedding": "embedding"} | ({} if kind == "postgresql" else {"id": "key"})
    pairs_table = table(np.load(files["old"])).append_column("label", pa.array([f"c{i % 5}" for i in range(N)]))
    new = table(np.load(files["new"]))["embedding"]
    both = put(
        "arrow",
        "both",
        pairs_table.rename_columns(["note", names["id"], "embedding", "label"]).append_column("by_new", new),
    )
    gallery = table(np.load(files["gallery"]), IDS).rename_columns(list(names.values()))
    where = put(kind, "gallery_old", gallery)
    options = {"id_column": names["id"], "new_vector_column": "by_new"}
    done = upgrade(both, both, where, url(kind, "out"), method="ridge", **options, **QUICK)
    assert (read(done.out) == expected).all() and done.comparison.old is not None
    for wrong in ("id", "vector", "side", "label"):
        with pytest.raises(ValueError, match="nowhere"):
            upgrade(
                both, both, where, url(kind, "no"), method="ridge", **options | {f"{wrong}_column": "nowhere"}, **QUICK
            )
    assert not hidden(files)


# What is refused


SECRETS = (
    "postgresql://me:s3cret@localhost/db#t",
    "postgresql://me:s3#cret@localhost/db#t",
    "postgresql://me@localhost/db?password=s3cret#t",
    "postgres://me:s3cret@[::1]:99999999/#t",
    "postgresql://:s3cret@/#",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("option", ["old", "gallery", "out"])
def test_a_password_is_neither_taken_nor_repeated(files, tmp_path, capsys, secret, option, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    paths = {name: str(files[name]) for name in ("old", "new", "gallery", "out")} | {option: secret}
    assert main(["upgrade", *(f"--{name}={path}" for name, path in paths.items()), "--method=ridge"]) == 2
    said = "".join(capsys.readouterr())
    assert "PGPASSWORD" in said and "s3" not in said and "cret" not in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "url", ["mysql://me:s3cret@h/d#t", "POSTGRESQL://me:s3@cret@h/d#t", "lance:s3://a:s3cret@b/?x=s3cret#t"]
)
def test_other_urls_are_refused_without_their_secrets(files, capsys, url):  # noqa: F811
    assert main(["upgrade", f"--old={url}", f"--new={files['new']}", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "lance:FOLDER#TABLE" in said and "s3cret" not in said and "cret" not in said


def test_the_password_of_the_environment_is_nowhere(files, store, capsys, monkeypatch, tmp_path):  # noqa: F811
    put, url = store
    gallery = put("postgresql", "items", table(np.load(files["gallery"]), IDS))
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    monkeypatch.setattr(mapped.Mapped, "blocks", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    paths = {"old": files["old"], "new": files["new"], "gallery": gallery, "out": url("postgresql", "out")}
    assert main(["upgrade", *(f"--{name}={path}" for name, path in paths.items()), "--method=ridge"]) == 130
    assert "s3cret" not in "".join(capsys.readouterr())
    (folder,) = hidden(files)
    assert all(b"s3cret" not in path.read_bytes() and "s3cret" not in path.name for path in folder.iterdir())
    broken = paths | {"gallery": "postgresql://me@localhost:1/db#items"}
    assert main(["upgrade", *(f"--{name}={path}" for name, path in broken.items()), "--method=ridge"]) == 1
    said = capsys.readouterr().err
    assert (
        "s3cret" not in said
        and said.startswith("gallerykit: postgresql://me@localhost:1/db#items: ")
        and said.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER TABLE items DROP CONSTRAINT items_pkey", "'id' must be the primary key"),
        ("ALTER TABLE items ALTER id TYPE real", "'id' of integers, text or uuid is needed for ids, got real"),
        ("UPDATE items SET embedding = NULL WHERE id = 305", "'embedding': row 100 .* is empty"),
        ("ALTER TABLE items ALTER embedding TYPE vector; UPDATE items SET embedding = '[1, 2]' WHERE id = 305",
         "'embedding': row 100 .* has 2 numbers, the first has 6"),
        ("ALTER TABLE items ALTER embedding TYPE real[]", "'embedding' must be of type vector or halfvec, got real.."),
        ("ALTER TABLE items ALTER embedding TYPE sparsevec USING embedding::sparsevec", "or halfvec, got sparsevec"),
        ("ALTER TABLE items DROP embedding", "has no column 'embedding', only note, id"),
        ("DROP TABLE items", "there is no such table"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(files, store, statement, message):  # noqa: F811
    put, url = store
    gallery = put("postgresql", "items", table(np.load(files["gallery"]), IDS))
    with psycopg.connect(gallery.partition("#")[0]) as connection:
        connection.execute(statement)
    with pytest.raises(ValueError, match=message):
        upgrade(files["old"], files["new"], gallery, url("postgresql", "out"), method="ridge", **QUICK)
    assert not hidden(files)


@pytest.mark.parametrize("kind", ["smallint", "integer", "uuid", "varchar(50)"])
@pytest.mark.parametrize("numbers", ["vector", "halfvec"])
def test_types_of_postgres(files, database, tmp_path, monkeypatch, kind, numbers):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    if numbers == "halfvec":
        np.save(files["new"], np.load(files["new"]).astype(np.float16))
    ids = [f"00000000-0000-0000-0000-{i:012}" if kind == "uuid" else i for i in IDS.tolist()]
    gallery = np.load(files["gallery"]).astype(np.float16 if numbers == "halfvec" else np.float32)
    with psycopg.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            f'CREATE SCHEMA "My shop"; CREATE TABLE "My shop".items (id {kind} PRIMARY KEY, embedding {numbers})'
        )
        rows = [(id, str(x)) for id, x in zip(ids, gallery.tolist(), strict=True)]
        cursor.executemany(f'INSERT INTO "My shop".items VALUES (%s::{kind}, %s)', rows)
    url = f"{database}#My shop.items"
    done = upgrade(files["old"], files["new"], url, f"{database}#My shop.new", method="ridge", **QUICK)
    with psycopg.connect(database) as connection:
        found = connection.execute('SELECT id::text, embedding::text FROM "My shop".new').fetchall()
        types = connection.execute("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attnum > 0 "
                                   "AND attrelid = '\"My shop\".new'::regclass").fetchall()  # fmt: skip
        before = dict(connection.execute('SELECT id::text, embedding::text FROM "My shop".items').fetchall())
        statements = done.switch.partition("switch over: ")[2].splitlines()
        connection.execute(statements[0])
        connection.execute(statements[1].partition("search with ")[2].replace("$1", f"'{found[0][1]}'"))
        connection.execute(statements[-2].partition(": ")[2].replace("BEGIN; ", "").replace("COMMIT;", ""))
        swapped = dict(connection.execute('SELECT id::text, embedding::text FROM "My shop".items').fetchall())
    np.save(files["gallery"], gallery)
    expected = np.load(upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK).out)
    assert [t for (t,) in types] == [kind if "char" not in kind else "text", f"{numbers}(7)"]
    assert swapped == dict(found) != before and set(swapped) == set(before) == {str(id) for id in ids}
    own = {str(id): row for id, row in zip(ids, expected, strict=True)}
    assert all(
        np.abs(np.array(eval(text)) - own[id].astype(float)).max() < 2e-3 * (1 + np.abs(own[id]).max())
        for id, text in found
    )


DOMAIN = "CREATE DOMAIN unit AS {vector}(6); CREATE DOMAIN embeddings AS unit"


@pytest.mark.parametrize(
    ("schema", "kind"), [("extensions", "{vector}"), ('"A ""b"""', "embeddings"), ("public", "unit")]
)
def test_pgvector_in_another_schema_and_domains_over_it(files, store, expected, schema, kind):  # noqa: F811
    put, url = store
    items = put("postgresql", "items", table(np.load(files["gallery"]), IDS))
    vector = f"{schema}.vector"
    with psycopg.connect(items.partition("#")[0]) as connection:
        if schema != "public":
            connection.execute(f"CREATE SCHEMA {schema}; ALTER EXTENSION vector SET SCHEMA {schema}")
        connection.execute(DOMAIN.format(vector=vector))
        connection.execute(f"ALTER TABLE items DROP note, ALTER embedding TYPE {kind.format(vector=vector)}")
    done = upgrade(files["old"], files["new"], items, url("postgresql", "out"), method="ridge", **QUICK)
    assert (read(done.out) == expected).all()
    with psycopg.connect(items.partition("#")[0]) as connection:
        found = printed(connection, done.switch, str(expected[7].tolist()))
        assert found[0][0] == IDS[7] and len(found) == 10
        joined = re.search("FROM .* n JOIN .*(?=[.]$)", done.switch, re.M)[0].replace("$1", f"'{expected[7].tolist()}'")
        assert connection.execute(f"SELECT n.id {joined}").fetchone() == (IDS[7],)


def printed(connection, switch, query, explain=""):
    """Make the index that is printed, if one is, and search as is printed."""
    first, second = switch.partition("switch over: ")[2].splitlines()[:2]
    if first.startswith("CREATE INDEX"):
        connection.execute(first)
    return connection.execute(explain + second.partition("search with ")[2].replace("$1", f"'{query}'")).fetchall()


@pytest.mark.parametrize(
    ("numbers", "width", "metric", "scan"),
    [
        ("vector", 2_000, "l2", "Index Scan"),
        ("vector", 2_001, "cosine", "Index Scan"),
        ("vector", 4_000, "ip", "Index Scan"),
        ("vector", 4_001, "l2", "Seq Scan"),
        ("halfvec", 4_000, "cosine", "Index Scan"),
        ("halfvec", 4_001, "ip", "Seq Scan"),
    ],
)
def test_the_sentence_of_postgres_makes_an_index_if_one_can_be(database, numbers, width, metric, scan):
    query, dtype = str([1] * width), np.dtype(np.float16 if numbers == "halfvec" else np.float32)
    with psycopg.connect(database) as connection:
        connection.execute(f"CREATE TABLE wide (id bigint PRIMARY KEY, embedding {numbers}({width}))")
        connection.execute("INSERT INTO wide VALUES (7, %s)", [query])
    switch = NewTable(f"{database}#wide").switch(Carried(None, Names(), "", "", dtype, CHUNK, False), metric)
    with psycopg.connect(database) as connection:
        connection.execute("SET enable_seqscan = off")
        assert printed(connection, switch, query) == [(7,)]
        assert scan in str(printed(connection, switch, query, "EXPLAIN "))


@pytest.mark.parametrize(
    ("statement", "name", "message"),
    [
        ("SELECT 1", "nowhere.out", 'schema "nowhere" does not exist'),
        ("ALTER DATABASE gallery SET default_transaction_read_only = on", "out", "in a read-only transaction"),
        ("DROP EXTENSION vector CASCADE", "out", "has no pgvector .CREATE EXTENSION vector"),
    ],
)
def test_what_a_database_will_not_take_is_said_before_the_work(files, store, monkeypatch, statement, name, message):  # noqa: F811
    put, url = store
    gallery = put("arrow", "items", table(np.load(files["gallery"]), IDS))
    with psycopg.connect(url("postgresql", name).partition("#")[0]) as connection:
        connection.execute(statement)
    monkeypatch.setattr("gallerykit.upgrade.fit", None)
    with pytest.raises((ConnectionError, ValueError), match=message):
        upgrade(files["old"], files["new"], gallery, url("postgresql", name), method="ridge", **QUICK)
    assert not hidden(files)


@pytest.mark.parametrize(
    ("package", "url", "extra"), [("psycopg", "postgresql://h/d#t", "postgres"), ("lancedb", "lance:db#t", "lance")]
)
def test_what_to_install_is_said(files, tmp_path, monkeypatch, capsys, package, url, extra):  # noqa: F811
    (tmp_path / "db" / "t.lance").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["upgrade", "--old", url, "--new", str(files["new"]), "--dry-run"]) == 1
    assert f"pip install 'compatkit[{extra}]'" in capsys.readouterr().err


def test_nothing_heavy_is_imported_for_arrays():
    code = "import sys, gallerykit.upgrade; print(*({'lancedb', 'psycopg', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"


def test_the_examples_of_the_reference_run(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = dict(parse_qsl(urlsplit(database).query))["host"]
    with psycopg.connect(database.replace("gallery", "postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop")
        connection.execute("CREATE DATABASE shop")
    monkeypatch.setenv("PGHOST", folder)
    monkeypatch.setenv("PGUSER", "postgres")
    page = (Path(__file__).parents[2] / "book" / "reference" / "gallerykit.md").read_text(encoding="utf-8")
    names, ran = {}, []
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", page, re.DOTALL):
        if language == "python":
            exec(block, names)
        else:
            assert main(shlex.split(block)[1:]) == 0
        ran.append(language)
    assert ran == [*["python", "sh", "python"] * 2, "sh", "sh", "python", "python"]


# Files


def test_out_may_be_a_link(files, tmp_path):  # noqa: F811
    target = tmp_path / "elsewhere" / "target.npy"
    target.parent.mkdir()
    target.write_bytes(b"old")
    files["out"].symlink_to(target)
    seen = []
    look = {"tell": lambda text: seen.extend(p.name for p in target.parent.iterdir())}
    done = upgrade(
        files["old"], files["new"], files["gallery"], files["out"], method="ridge", overwrite=True, **QUICK | look
    )
    assert files["out"].is_symlink() and np.load(target).shape == (ROWS, 7) and done.out == files["out"]
    assert ".target.npy.upgrade" in seen and not list(target.parent.glob(".*")) and not hidden(files)


@pytest.mark.parametrize("name", ["old", "new", "side", "gallery", "gallery_side"])
def test_too_large_a_number_is_not_called_nan(files, name):  # noqa: F811
    x = np.load(files[name]).astype(np.float64)
    x[71, 1] = 1e300
    np.save(files[name], x)
    with pytest.raises(ValueError, match=rf"{name}: row 71 .* has 1e\+300, which is too large for float32"):
        upgrade(**files, method="ridge", **QUICK)
    assert not hidden(files)


def opens(path, function):
    """How often a file is opened while the function runs, as the system counts."""
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init()
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), 0x20) > 0  # IN_OPEN
    sizes, over = [], threading.Event()

    def count():  # at once, since the system joins equal events that nobody has read yet
        while not over.is_set():
            sizes.append(len(os.read(descriptor, 4096)))

    counting = threading.Thread(target=count)
    counting.start()
    try:
        function()
        time.sleep(0.05)
    finally:
        over.set()
        open(path, "rb").close()  # wakes it a last time
        counting.join()
        os.close(descriptor)
    return sum(sizes) // struct.calcsize("iIII") - 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system is asked by inotify")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".arrow"])
def test_each_file_is_opened_once(files, store, suffix):  # noqa: F811
    put, _ = store
    x, ids = np.load(files["gallery"]), [f"g{i}" for i in range(ROWS)]
    paths = [files["out"].with_name(f"{name}{suffix}") for name in ("old_one", "new_one")]
    for path in paths:
        labels = {"label": [f"c{i % 5}" for i in range(ROWS)]}
        put("arrow", path.stem, table(x, ids, **labels)) if suffix == ".arrow" else save(path, x, ids=ids, space="s",
                                                                                        **labels)  # fmt: skip
    old, new = paths
    out = files["out"].with_name(f"out{suffix}")
    assert opens(old, lambda: (open(old).close(), time.sleep(0.01), open(old).close())) == 2, "they are counted"
    assert opens(old, lambda: upgrade(old, new, old, out, method="ridge", **QUICK)) == 1
    assert read(out).shape == (ROWS, 6)
