"""The commands: plan, upgrade, carry and inspect, as they are typed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
import pytest

from gallerykit import load_map
from gallerykit.__main__ import main
from gallerykit.carry import carry
from gallerykit.maps import Ends, Map, fit
from gallerykit.pairs import read_pairs
from gallerykit.stores import open_source

from .world import IDS, ROWS, latent, new_model, old_model, pairs, read, table

Z = latent(ROWS, 4)


@pytest.fixture
def files(world):
    """The gallery itself is the old side of the pairs, and 200 of its items have new embeddings."""
    gallery = world.put("parquet", "items", table())
    world.put("parquet", "new", table(new_model(Z[:200]), IDS[:200]))
    return {"--old": gallery, "--new": str(world.folder / "new.parquet"), "--gallery": gallery}


def command(name, files, *more):
    return main([name, *(part for pair in files.items() for part in pair), *more])


def test_a_gallery_is_carried(files, capsys):
    assert command("upgrade", files, "--out", "made.parquet", "--method", "RIDGE", "--save-map", "m.safetensors") == 0
    said = capsys.readouterr()
    assert said.err == "" and "new/ridge" in said.out and "Written with new/ridge: made.parquet" in said.out
    assert "200 items are paired by their ids, of 260 of old, 200 of new." in said.out
    assert np.abs(read("made.parquet") - load_map("m.safetensors")(old_model(Z))).max() < 1e-5
    assert main(["carry", "--map", "m.safetensors", "--gallery", files["--gallery"], "--out", "again.parquet"]) == 0
    assert Path("again.parquet").read_bytes() == Path("made.parquet").read_bytes()
    assert main(["inspect", "--store", "made.parquet", "--map", "m.safetensors"]) == 0
    assert "differ in width, 6 and 7" in capsys.readouterr().out


def test_a_plan_as_json(files, capsys):
    assert command("plan", files, "--json", "--backfill-list", "list.csv") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["advice"]["action"] in ("keep", "map", "back-fill", "nothing")
    assert {"old/old", "new/new", "new/ridge", "ridge/old", "old/old, 200 anew"} < found["comparison"]["ways"].keys()
    assert found["best_path"] in found["paths"] and "ceiling" in found["comparison"]
    assert {int(line.split(",")[0]) for line in Path("list.csv").read_text().splitlines()[1:]} == set(IDS.tolist())


def test_nothing_is_written_where_it_is_advised_against(files, world, capsys):
    rng = np.random.default_rng(0)  # a new model that has nothing to do with the old one
    world.put("parquet", "new", table(rng.standard_normal((200, 7)).astype("f4"), IDS[:200]))
    assert command("upgrade", files, "--out", "made.parquet") == 3
    assert "No gallery was written" in capsys.readouterr().out and not Path("made.parquet").exists()
    assert command("upgrade", files, "--out", "made.parquet", "--method", "ridge") == 0


def test_a_map_of_queries(files, capsys):
    del files["--gallery"]
    options = ("--direction", "queries", "--method", "ridge", "--save-map", "q.safetensors", "--metric", "cosine")
    assert command("plan", files, *options) == 0
    to_old = load_map("q.safetensors")
    assert to_old.label == "ridge/old"
    items = old_model(Z) / np.linalg.norm(old_model(Z), axis=1, keepdims=True)
    found = [int((items @ to_old(x)).argmax()) for x in new_model(Z[200:])]
    assert np.mean(np.array(found) == np.arange(200, ROWS)) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--gallery": "none.npy"}, "No such file"),
        ({"--gallery": "new.parquet"}, "gallery: must have the width of old, 6, got 7"),
        ({"--out": "new.parquet"}, "out: .*new.parquet exists already; name another"),
        ({"--out": "made.csv"}, "made.csv: must be one of NAME.npy"),
        ({"--out": "made.arrow"}, "out: must be NAME.parquet or a folder, got made.arrow"),
        ({"--scheduler": "nowhere", "--method": "ridge"}, "scheduler: must be an address such as tcp://host:8786"),
    ],
)
def test_mistakes_are_answered_with_a_sentence_and_nothing_is_left(files, capsys, change, message):
    before = sorted(Path().rglob("*"))
    assert command("upgrade", files | {"--out": "made.parquet"} | change) == 2
    said = capsys.readouterr().err
    assert re.match(f"gallerykit: .*{message}", said) and said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("flag", [("--method", "magic"), ("--enough", "7"), ("--metric", "l3"), ("--spam", "1")])
def test_what_is_no_option_is_refused_by_name(files, capsys, flag):
    assert command("upgrade", files | {"--out": "made.parquet"}, *flag) == 2 and flag[0] in capsys.readouterr().err


def test_help_is_quick():
    script = "import sys; from gallerykit.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in ("plan", "upgrade", "carry", "inspect"))


def test_interrupted_and_where_the_reader_knows_no_plus_minus(files, monkeypatch, capsys):
    typed = ["plan", *(part for pair in files.items() for part in pair)]
    done = subprocess.run(
        [sys.executable, "-m", "gallerykit", *typed],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and rb"\xb1" in done.stdout, done.stderr

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gallerykit.plan.split", interrupt)
    assert main(typed) == 130 and "the same command goes on" in capsys.readouterr().err


# PostgreSQL says how to search, and what it says works


def printed(connection, switch, query):
    first, second = switch.partition("switch over: ")[2].splitlines()[:2]
    if first.startswith("CREATE INDEX"):
        connection.execute(first)
    return connection.execute(second.partition("search with ")[2].replace("$1", f"'{query.tolist()}'")).fetchall()


@pytest.mark.parametrize("kind", ["bigint", "smallint", "uuid", "varchar(50)"])
def test_types_and_schemas_of_postgres(world, files, kind):
    ids = [f"00000000-0000-0000-0000-{i:012}" if kind == "uuid" else i for i in IDS.tolist()]
    with psycopg.connect(world.database) as connection:
        connection.execute(
            f'CREATE SCHEMA "My shop"; CREATE TABLE "My shop".items (id {kind} PRIMARY KEY, embedding vector(6))'
        )
        rows = [(i, str(x)) for i, x in zip(ids, old_model(Z).tolist(), strict=True)]
        connection.cursor().executemany(f'INSERT INTO "My shop".items VALUES (%s::{kind}, %s)', rows)
    np.save("pairs_old.npy", old_model(Z))
    np.save("pairs_new.npy", new_model(Z))
    ridge = fit(read_pairs("pairs_old.npy", "pairs_new.npy"), ["ridge"])["new/ridge"]
    switch = carry(ridge, f"{world.database}#My shop.items", f"{world.database}#My shop.new")
    with psycopg.connect(world.database) as connection:
        query = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attnum > 0 AND attrelid = "
        query += "'\"My shop\".new'::regclass"
        types = [t for (t,) in connection.execute(query)]
        assert types[0] == ("text" if "char" in kind else kind) and types[1].endswith("vector(7)")
        assert str(printed(connection, switch, ridge(old_model(Z)[7]))[0][0]) == str(ids[7])


@pytest.mark.parametrize(
    ("width", "index"),
    [(2_000, "vector_l2_ops"), (2_001, "halfvec.2001.*halfvec_l2_ops"), (4_001, "no index of pgvector")],
)
def test_an_index_is_named_if_one_can_be(world, files, width, index):
    tensors = {"weight": np.ones((6, width), np.float32), "bias": np.arange(width, dtype=np.float32)}
    switch = carry(Map("ridge", Ends(6, 0, width), tensors), files["--gallery"], f"{world.database}#made")
    assert re.search(index, switch)
    with psycopg.connect(world.database) as connection:
        assert len(printed(connection, switch, np.ones(width))) == 10


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER TABLE items DROP CONSTRAINT items_pkey", "'id' must be the primary key"),
        ("ALTER TABLE items ALTER id TYPE real", "'id' of integers, text or uuid is needed for ids, got real"),
        (f"UPDATE items SET embedding = NULL WHERE id = {sorted(IDS)[100]}", "row 100 .* have 6 numbers, got None"),
        ("ALTER TABLE items ALTER embedding TYPE vector; UPDATE items SET embedding = '[1, 2]' WHERE id = "
         f"{sorted(IDS)[100]}", "row 100 .* have 6 numbers, got .1.0, 2.0."),
        ("ALTER TABLE items ALTER embedding TYPE real[]", "'embedding' must be of type vector or halfvec, got real.."),
        ("ALTER TABLE items ALTER embedding TYPE sparsevec USING embedding::sparsevec", "or halfvec, got sparsevec"),
        ("ALTER TABLE items DROP embedding", "has no column 'embedding'"),
        ("DROP TABLE items", "there is no such table"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(world, files, statement, message, capsys):
    gallery = world.put("postgresql", "items", table())
    with psycopg.connect(world.database) as connection:
        connection.execute(statement)
    assert (
        command("upgrade", files | {"--gallery": gallery, "--out": world.url("npy", "made"), "--method": "ridge"}) == 2
    )
    assert re.search(message, capsys.readouterr().err) and not Path("made.npy").exists()


def test_ids_that_qdrant_would_not_take_are_refused_before_the_work(world, files, capsys):
    world.put("parquet", "items", table(ids=np.array([f"x{i}" for i in range(ROWS)])))
    np.save("old.npy", old_model(Z))
    np.save("by_new.npy", new_model(Z))
    made = {"--old": "old.npy", "--new": "by_new.npy", "--gallery": "items.parquet", "--method": "ridge"}
    assert command("upgrade", made | {"--out": world.url("qdrant", "made")}) == 2
    assert "ids of Qdrant are integers from 0 on, or UUIDs" in capsys.readouterr().err


# LanceDB


def test_json_of_lance_stays_json(world, files):
    column = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array([f'{{"n":{i}}}' for i in range(ROWS)]))
    lancedb.connect("lance").create_table("items", table().append_column("extra", column))
    for out in ("made.parquet", "lance:lance#made"):
        carry(fit(pairs(), ["ridge"])["new/ridge"], "lance:lance#items", out)
        source = open_source(out)
        found = [x for f in source.fragments() for b in source.read(f, ["extra"], 99) for x in b.column(0).to_pylist()]
        assert found == column.to_pylist()
    found = lancedb.connect("lance").open_table("made").search(read("lance:lance#made")[5]).limit(1).to_list()
    assert found[0]["note"] == "n5"


def test_columns_that_the_new_table_cannot_hold_are_refused(world, files, capsys):
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([ROWS], pa.int32()), pa.array(["x"]))
    rows = table().append_column("extra", runs)
    with pa.ipc.new_file("items.arrow", rows.schema) as writer:
        writer.write_table(rows)
    for out in ("made.parquet", "lance:lance#made"):
        assert command("upgrade", files | {"--gallery": "items.arrow", "--out": out, "--method": "ridge"}) == 2
        assert re.search("out: .* cannot hold all columns of", capsys.readouterr().err)
