"""Every store against the real thing: carried, killed, resumed, refused."""

import re
import signal
import time
from pathlib import Path

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from gallerykit import carry as module
from gallerykit import maps, qdrant_store
from gallerykit.carry import carry
from gallerykit.embeddings import Embeddings
from gallerykit.numpy_store import NewTable
from gallerykit.stores import open_source

from .world import (
    IDS,
    MADE,
    ROWS,
    TABLES,
    by_id,
    content,
    latent,
    old_model,
    pairs,
    program,
    read,
    side_model,
    table,
    vectors,
)  # fmt: skip

OLD = old_model(latent(ROWS, 4))


@pytest.fixture(scope="module")
def ridge():
    return maps.fit(pairs(old_space="old", new_space="new"), ["ridge"], directions=["gallery"])["new/ridge"]


def left(world):
    return [p for p in world.folder.rglob(".*") if "carry" in p.name] + [*world.folder.rglob("*.tmp")]


@pytest.mark.parametrize("out", MADE)
@pytest.mark.parametrize("kind", ["npy", "parquet", "lance", "postgresql", "qdrant"])
def test_any_store_goes_into_any_other(world, ridge, kind, out):
    gallery = world.put(kind, "items", table())
    before, made = content(gallery), world.url(out, "made")
    if kind == "npy" and out in ("postgresql", "qdrant"):
        with pytest.raises(ValueError, match="out: .* ids"):
            carry(ridge, gallery, made)
    else:
        assert "old" in carry(ridge, gallery, made)
        if out == "npy":  # whose rows are in the order of the gallery
            assert np.abs(read(made) - ridge(read(gallery))).max() < 1e-5
        else:
            found, truth = by_id(made) if kind != "npy" else dict(zip(IDS, read(made), strict=True)), ridge(OLD)
            assert len(found) == ROWS
            assert max(np.abs(found[i] - x).max() for i, x in zip(IDS.tolist(), truth, strict=True)) < 1e-5
        if kind in TABLES and out in TABLES:
            assert [row["note"] for row in content(made)] == [f"n{i}" for i in range(ROWS)]
        with pytest.raises(ValueError, match="exists already"):
            carry(ridge, gallery, made)
    assert content(gallery) == before and not left(world)


@pytest.mark.parametrize(("kind", "new"), [("lance", "#by_new"), ("qdrant", "#by_new")])
def test_a_new_column_or_vector_beside_the_old_one(world, ridge, kind, new):
    gallery = world.put(kind, "items", table())
    before = {row["id"]: row for row in content(gallery)}
    carry(ridge, gallery, gallery + new)
    found = by_id(gallery + new)
    assert max(np.abs(found[i] - x).max() for i, x in zip(IDS.tolist(), ridge(OLD), strict=True)) < 1e-5
    after = {row["id"]: {k: v for k, v in row.items() if k != "by_new"} for row in content(gallery)}
    assert after == before
    with pytest.raises(ValueError, match="already"):
        carry(ridge, gallery, gallery + new)
    with pytest.raises(ValueError, match="belongs to the gallery's own"):
        carry(ridge, world.put("parquet", "others", table()), gallery + "#third")
    if kind == "lance":
        lancedb.connect(world.folder / "lance").open_table("items").delete("id < 9")
        with pytest.raises(ValueError, match="deleted rows"):
            carry(ridge, gallery, gallery + "#third")


KILLED = """
import os
from gallerykit import carry, maps, stores
when, gallery, out, saved, at = sys.argv[1:]
count = 0
def dies(function, at):
    def dying(*args, **options):
        global count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return dying
if when == "mapping":
    maps.Map.__call__ = dies(maps.Map.__call__, int(at))
elif when == "written":
    from gallerykit import postgres_store
    store.Target.note = dies(store.Target.note, int(at))
    postgres_store.NewTable.write = dies(postgres_store.NewTable.write, int(at))
else:
    target = type(stores.open_target(out))
    target.publish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
carry.carry(saved, gallery, out)
"""


@pytest.mark.parametrize("when", ["mapping", "written", "before the end"])
@pytest.mark.parametrize("kind", [*MADE, "lance#by_new", "qdrant#by_new"])
def test_killed_and_called_again_it_is_as_if_it_had_not_been(world, ridge, kind, when, monkeypatch):
    kind, mark, _ = kind.partition("#")
    ridge.save(world.folder / "map.safetensors")
    gallery = world.put(kind, "items", table())
    urls = [f"{gallery}#{name}" if mark else world.url(kind, name) for name in ("straight", "killed")]
    before = by_id(gallery)
    qdrant_store.client_at.cache_clear()  # local mode is for one process at a time
    child = program(KILLED, when, gallery, urls[1], world.folder / "map.safetensors", 2, cwd=world.folder)
    assert child.wait(120) == -signal.SIGKILL, child.stderr.read()
    child.stderr.close()
    if not mark:
        with pytest.raises((FileNotFoundError, ValueError)):
            open_source(urls[1])
    mapped = []
    inner = module._Work.batches
    monkeypatch.setattr(module._Work, "batches", lambda self, one: mapped.append(one) or inner(self, one))
    for url in urls[::-1]:
        carry(ridge, gallery, url)
    fragments = len(open_source(gallery).fragments())
    again = len(mapped) - fragments
    assert again == 0 if when == "before the end" else again <= fragments
    straight, killed, after = map(by_id, (*urls, gallery))
    assert before.keys() == after.keys() == straight.keys() == killed.keys() == {*IDS.tolist()}
    assert all((straight[i] == killed[i]).all() and (before[i] == after[i]).all() for i in before)
    assert not left(world)


SLOW = """
import time
from gallerykit import carry, maps
inner = maps.Map.__call__
maps.Map.__call__ = lambda *a: (time.sleep(0.3), inner(*a))[1]
print("ready", flush=True)
try:
    carry.carry(*sys.argv[1:])
except (ValueError, OSError) as error:
    print(str(error))
"""


@pytest.mark.parametrize("kind", ["npy", "parquet", "lance", "postgresql"])
def test_two_runs_never_write_one_target(world, ridge, kind):
    ridge.save(world.folder / "map.safetensors")
    gallery, out = world.put(kind, "items", table()), world.url(kind, "made")
    runs = [
        program(SLOW, world.folder / "map.safetensors", gallery, out, cwd=world.folder, stdout=-1) for _ in range(3)
    ]
    said = [run.communicate(timeout=120)[0].removeprefix("ready\n") for run in runs]
    assert sorted(bool(text) for text in said) == [False, True, True], said
    assert all(re.search("exists already|another run is writing", text) for text in said if text)
    assert np.abs(read(out) - ridge(read(gallery))).max() < 1e-5 and not left(world)


def test_what_is_of_another_job_is_not_believed(world, ridge, monkeypatch):
    other = maps.fit(pairs(seed=7), ["Procrustes"], directions=["gallery"])["new/Procrustes"]
    gallery = world.put("npy", "items", table())
    for one in (ridge, other):
        with monkeypatch.context() as patch:
            patch.setattr("gallerykit.numpy_store.NewTable.publish", lambda self: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                carry(one, gallery, world.url("npy", "made"))
    assert [p.name for p in left(world)] == [".made.npy.carry"]
    carry(ridge, gallery, world.url("npy", "made"))
    assert (read(world.url("npy", "made")) == ridge(OLD)).all()


# Side-information, columns, types


def test_side_information_is_a_column(world):
    side = side_model(latent(ROWS, 4))
    to_fit = pairs(side=torch.from_numpy(side_model(latent(300, 1))))
    one = maps.fit(to_fit, ["ridge"], directions=["gallery"])["new/ridge + side"]
    carry(one, world.put("parquet", "items", table(side=side)), "made.npy")
    assert np.abs(read("made.npy") - one(OLD, side)).max() < 1e-5
    for columns, message in (
        ({}, "side: is needed"),
        ({"side": side[:, :1]}, "side: must have the width of the map, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            carry(one, world.put("parquet", "others", table(**columns)), "no.npy")
    assert not left(world)


@pytest.mark.parametrize("method", maps.NETWORKS)
def test_networks_carry_as_well(world, method):
    one = maps.fit(pairs(), [method], directions=["gallery"], steps=2, show_progress=False)[f"new/{method}"]
    carry(one, world.put("parquet", "items", table()), "made.npy")
    assert np.abs(read("made.npy") - one(OLD)).max() < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("kind", ["npy", "parquet", "postgresql", "lance"])
def test_numbers_are_of_the_new_models_type(world, kind, dtype):
    one = maps.fit(pairs(new_dtype=dtype), ["ridge"], directions=["gallery"])["new/ridge"]
    gallery = world.put(kind, "items", table())
    carry(one, gallery, world.url(kind, "made"))
    stored = "float32" if kind == "postgresql" and dtype == "float64" else dtype
    found = read(world.url(kind, "made"))
    assert found.dtype == stored and np.abs(found - one(read(gallery))).max() < 4e-3


def test_columns_of_other_names(world, ridge):
    renamed = table().rename_columns({"id": "Item ID", "embedding": 'Vec"tor %s'})
    world.put("parquet", "items", table())
    pq.write_table(renamed, world.folder / "items.parquet")
    columns = {"id": "Item ID", "vector": 'Vec"tor %s'}
    carry(ridge, "items.parquet", world.url("postgresql", "made"), columns=columns)
    with psycopg.connect(world.database) as connection:
        found = dict(connection.execute('SELECT "Item ID", "Vec""tor %s"::text FROM made').fetchall())
    assert np.abs(np.array(eval(found[IDS[3]])) - ridge(OLD)[3]).max() < 1e-5
    carry(ridge, 'items.parquet#Vec"tor %s', "made.npy")
    assert np.abs(np.load("made.npy") - ridge(OLD)).max() < 1e-5


# What is refused, before anything is written


def broken(rows, row, value):
    x = vectors(rows["embedding"]).copy()
    x[row] = value
    return rows.set_column(2, "embedding", pa.chunked_array([pa.FixedSizeListArray.from_arrays(x.ravel(), 6)]))


@pytest.mark.parametrize("kind", ["npy", "parquet", "arrow"])  # databases take no NaN
def test_bad_rows_are_named_and_leave_nothing(world, ridge, kind):
    rows = broken(table(), 205, np.nan)
    with pytest.raises(ValueError, match="row 205 .the first is 0. has nan"):
        carry(ridge, world.put(kind, "items", rows), "made.parquet")
    assert not Path("made.parquet").exists()
    assert not left(world)


def test_other_ends_are_refused(world, ridge):
    gallery, made = world.put("npy", "items", table()), world.url("npy", "made")
    wide, other = world.put("npy", "wide", table(np.ones((9, 8), "f4"), IDS[:9])), world.url("parquet", "space")
    Embeddings(torch.from_numpy(OLD), IDS, "other").save(other)
    unit = maps.fit(unit_pairs(), ["ridge"], directions=["gallery"])["new/ridge"]
    for one, of, out, message in (
        (ridge, wide, made, "must have the width of the map, 6, got 8"),
        (ridge, gallery + "x", made, "must be one of NAME.npy"),
        (ridge, other, made, "must be of the space of the map, 'old', got 'other'"),
        (ridge, gallery, gallery, "exists already"),
        (unit, gallery, made, "all rows must have length 1 as in the pairs, row 0 has"),
    ):
        with pytest.raises(ValueError, match=message):
            carry(one, of, out)
    assert not left(world) and not Path(made).exists()


def unit_pairs(**more):
    found = pairs(**more)
    return maps.Pairs(F.normalize(found.old, dim=1), F.normalize(found.new, dim=1))


@pytest.mark.parametrize("method", ["Procrustes", "ridge"])
def test_rows_of_zeros_stay_so_by_cosine(world, method):
    one = maps.fit(unit_pairs(), [method], directions=["gallery"], metric="cosine")[f"new/{method}"]
    x = OLD / np.linalg.norm(OLD, axis=1, keepdims=True)
    x[[5, 100]] = 0
    carry(one, world.put("npy", "items", table(x)), world.url("npy", "made"))
    lengths = np.linalg.norm(read(world.url("npy", "made")), axis=1)
    assert (lengths == 0).nonzero()[0].tolist() == [5, 100] and np.allclose(np.delete(lengths, [5, 100]), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["npy", "parquet", "lance", "postgresql"])
def test_a_gallery_that_changes_meanwhile(world, ridge, kind, monkeypatch):
    gallery = world.put(kind, "items", table())
    inner = module._run

    def changed(*args):
        inner(*args)
        if kind == "postgresql":
            with psycopg.connect(world.database) as connection:
                connection.execute(f"UPDATE items SET embedding = embedding WHERE id = {IDS[3]}")
        elif kind == "lance":
            lancedb.connect(world.folder / "lance").open_table("items").add(table()[:1])
        else:
            time.sleep(0.01)
            world.put(kind, "items", table(OLD + 1))

    monkeypatch.setattr(module, "_run", changed)
    with pytest.raises(ValueError, match="has changed meanwhile; run the command again"):
        carry(ridge, gallery, world.url(kind, "made"))
    assert not left(world)


def test_a_full_disk_costs_what_was_not_written(world, ridge, monkeypatch):
    gallery, calls = world.put("npy", "items", table()), []

    def full(self, index, *rest):
        calls.append(index)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return inner(self, index, *rest)

    inner = NewTable.write
    monkeypatch.setattr(NewTable, "threads", 1)
    monkeypatch.setattr(NewTable, "write", full)
    with pytest.raises(OSError, match="No space left"):
        carry(ridge, gallery, world.url("npy", "made"))
    carry(ridge, gallery, world.url("npy", "made"))
    assert sorted(calls) == [0, 1, 2, 2, 3] and (read(world.url("npy", "made")) == ridge(OLD)).all()


def test_no_more_than_some_batches_are_in_memory(world, ridge, monkeypatch):
    sizes = []
    inner = maps.Map.__call__
    monkeypatch.setattr("gallerykit.store.BATCH_BYTES", 20 * 7 * 4)
    monkeypatch.setattr(maps.Map, "__call__", lambda self, x, side=None: sizes.append(len(x)) or inner(self, x, side))
    for kind in ("npy", "parquet", "arrow", "lance", "postgresql"):
        carry(ridge, world.put(kind, "items", table()), world.url(kind.replace("arrow", "folder"), "made"))
    assert max(sizes) == 20 and sum(sizes) == 5 * ROWS
