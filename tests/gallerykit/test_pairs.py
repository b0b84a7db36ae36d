"""Pairs from files and tables: joined by id or by order, or refused in a sentence."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gallerykit.pairs import read_pairs
from gallerykit.stores import address_of, open_source

from .world import IDS, KINDS, ROWS, latent, new_model, old_model, side_model, table

Z = latent(ROWS, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_joined_by_id(world, kind):
    order = np.random.default_rng(0).permutation(ROWS)[:200]
    old = world.put(kind, "old", table(old_model(Z)))
    new = world.put("parquet", "new", table(new_model(Z[order]), IDS[order]))
    if kind == "npy":
        with pytest.raises(
            ValueError, match="new: must have as many rows as old, 260, where not both have ids, got 200"
        ):
            read_pairs(old, new)
        return
    told = []
    found = read_pairs(old, new, tell=told.append)
    assert told == ["200 items are paired by their ids, of 260 of old, 200 of new."]
    wanted = {tuple(row) for row in np.hstack([old_model(Z[order]), new_model(Z[order])]).round(4).tolist()}
    assert {tuple(row) for row in np.hstack([found.old, found.new]).round(4).tolist()} == wanted


@pytest.mark.parametrize("labelled", ["old", "new"])
def test_side_information_and_labels_are_columns(world, labelled):
    rows = {"old": table(old_model(Z), side=side_model(Z)), "new": table(new_model(Z))[::-1]}
    labels = pa.array([f"c{id % 7}" for id in rows[labelled]["id"].to_pylist()])
    rows[labelled] = rows[labelled].append_column("label", labels)
    urls = [world.put("parquet", name, one) for name, one in rows.items()]
    found = read_pairs(*urls)
    assert np.allclose(found.side, side_model(Z)) and (found.labels.numpy() == IDS % 7).all()
    for role, message in (("label", "labels: neither"), ("side", "old: .* has no column 'no'"), ("id", "column 'no'")):
        with pytest.raises(ValueError, match=message):
            read_pairs(*urls, columns={role: "no"})
    with pytest.raises(ValueError, match="columns: must be of id, side, label, vector, got spam"):
        read_pairs(*urls, columns={"spam": "x"})


def test_pairs_without_a_direction_are_left_out_by_cosine(world):
    old, told = old_model(Z), []
    old[[3, 9]] = 0
    urls = [world.put("npy", "old", table(old)), world.put("npy", "new", table(new_model(Z)))]
    assert len(read_pairs(*urls)) == ROWS
    assert len(read_pairs(*urls, metric="cosine", tell=told.append)) == ROWS - 2 and "2 pairs are left out" in told[0]


# Ids


@pytest.mark.parametrize(
    "kind", [pa.int16(), pa.uint64(), pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_integers_and_text_of_any_type_are_joined(world, kind):
    ids = pa.array(IDS.tolist()) if pa.types.is_integer(kind) else pa.array(map(str, IDS))
    rows = table(old_model(Z)).set_column(
        0, "id", ids.cast(kind) if not pa.types.is_dictionary(kind) else ids.dictionary_encode()
    )
    pq.write_table(rows, "old.parquet")
    pq.write_table(table(new_model(Z)).set_column(0, "id", ids)[::-1], "new.parquet")
    assert np.allclose(read_pairs("old.parquet", "new.parquet").new, new_model(Z))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array(np.arange(ROWS) + 0.5), "must have integers or text for ids, got double; store them as text"),
        (pa.array(np.arange(ROWS), pa.timestamp("us")), "must have integers or text for ids, got timestamp"),
        (pa.array(np.arange(ROWS, dtype=np.uint64) + np.uint64(2**63)), "ids that fit 64 bits with a sign"),
        (pa.array([1] * ROWS), "old: ids must be unique, got 1 260 times"),
        (pa.array([None, *range(1, ROWS)]), "row 0 .the first is 0. is empty"),
        (pa.array(map(str, IDS)), "new: ids must be of the kind of old's, text, got integers"),
    ],
)
def test_other_ids_are_refused(world, ids, message):
    pq.write_table(table(old_model(Z)).set_column(0, "id", ids), "old.parquet")
    pq.write_table(table(new_model(Z)), "new.parquet")
    with pytest.raises(ValueError, match=message):
        read_pairs("old.parquet", "new.parquet")


def test_memory_follows_the_bytes_of_ids_and_not_the_longest(world):
    ids = pa.array(["x" * 20_000_000, *map(str, range(1, ROWS))])
    for name, x in (("old", old_model(Z)), ("new", new_model(Z))):
        pq.write_table(table(x).set_column(0, "id", ids), f"{name}.parquet")
    assert len(read_pairs("old.parquet", "new.parquet")) == ROWS


# What tables are made of


def write_ipc(path, rows, new=pa.ipc.new_file):
    with new(path, rows.schema) as writer:
        writer.write_table(rows)


LISTS = {
    "struct<list": lambda x: pa.array([{"list": [{"element": v} for v in row]} for row in x.tolist()]),
    "list_view": lambda x: pa.array(x.tolist(), pa.list_view(pa.float32())),
    "list<item: int64": lambda x: pa.array(x.astype(int).tolist()),
    "string": lambda x: pa.array(map(str, x)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_other_vectors_are_refused_by_type(world, kind):
    write_ipc("old.arrow", pa.table({"embedding": LISTS[kind](old_model(Z))}))
    with pytest.raises(ValueError, match=f"old: .*floating-point vectors of items, got {ROWS} rows of .*{kind}"):
        read_pairs("old.arrow", "old.arrow")


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), "tensor"])
def test_lists_and_tensors_are_vectors(world, kind):
    x = old_model(Z)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(x) if kind == "tensor" else pa.array(x.tolist(), kind)
    pq.write_table(pa.table({"embedding": column}), "old.parquet")
    assert np.allclose(read_pairs("old.parquet", "old.parquet").old, x)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]] * 105 + [[1.0]], "row 105 .the first is 0. must have 2 numbers, got .1.0."),
        ([[1.0, 2.0]] * 105 + [None], "row 105 .the first is 0. must have 2 numbers, got None"),
        ([[1.0, 2.0]] * 105 + [[1.0, None]], "row 105 .the first is 0. must have 2 numbers, got .1.0, None."),
        ([[1.0, 2.0]] * 105 + [[1.0, float("nan")]], "row 105 .the first is 0. has nan, which is no finite float32"),
        ([[1.0, 2.0]] * 105 + [[1.0, 1e300]], "row 105 .the first is 0. has 1e.300, which is no finite float32"),
        ([[1.0, 2.0]] * 99, "at least 100 pairs are needed, got 99"),
    ],
)
def test_odd_rows_are_named(world, rows, message):
    pq.write_table(pa.table({"embedding": pa.array(rows, pa.list_(pa.float64()))}), "old.parquet")
    with pytest.raises(ValueError, match=message):
        read_pairs("old.parquet", "old.parquet")


@pytest.mark.parametrize(
    ("other", "refusal"),
    [
        ("archive/part-1.parquet", "archive"),
        ("lang=de/part-0.parquet", "lang=de"),
        ("b.parq", "b.parq"),
        ("c.PARQUET", "c.PARQUET"),
        ("d.parquet/part-0.parquet", "d.parquet"),
        ("_SUCCESS", None),
        (".part-0.parquet.crc", None),
    ],
)
def test_a_folder_is_read_whole_or_refused_by_what_is_left(world, other, refusal):
    for name in ("part-0.parquet", other):
        (world.folder / "items" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(), world.folder / "items" / name)
    if refusal is None:
        assert open_source("items").rows == ROWS
    else:
        with pytest.raises(ValueError, match=f"items: must hold files NAME.parquet and nothing else, got {refusal}$"):
            open_source("items")


def test_files_that_are_not_whole(world):
    write_ipc("stream.arrow", table(), pa.ipc.new_stream)
    np.save("old.npy", old_model(Z))
    (world.folder / "cut.npy").write_bytes((world.folder / "old.npy").read_bytes()[:-4])
    (world.folder / "text.parquet").write_text("no")
    twice = pa.table([table()["embedding"]] * 2, names=["embedding"] * 2)
    write_ipc("twice.arrow", twice)
    for name, message in (
        ("stream.arrow", "not a whole Arrow IPC file, which a stream is not"),
        ("cut.npy", "not a whole NumPy array"),
        ("text.parquet", "not a whole Parquet file"),
        ("twice.arrow", "columns must have a name each"),
        ("items.csv", "must be one of NAME.npy"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(name)
    np.save("other.npy", np.asfortranarray(old_model(Z).astype(">f8")))
    assert np.allclose(read_pairs("other.npy", "old.npy").old, old_model(Z))


def test_addresses_hold_in_any_working_directory(world):
    here = str(world.folder)
    for url, wanted in (
        ("a.npy", f"{here}/a.npy"),
        ("a.parquet#v", f"{here}/a.parquet#v"),
        ("lance:b:c#t#v", f"lance:{here}/b:c#t#v"),
        ("qdrant:http://h:1#c", "qdrant:http://h:1#c"),
        ("postgresql:///shop#t", "postgresql:///shop#t"),
    ):
        assert str(address_of(url)) == wanted


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://me:s3cret@localhost/db#t",
        "postgresql://me:s3#cret@localhost/db#t",
        "postgresql://me@localhost/db?password=s3cret#t",
        "postgresql://:s3cret@/#",
        "lance:s3://a:s3cret@b/?x=s3cret#t",
        "mysql://me:s3cret@h/d#t",
        "qdrant:http://me:s3cret@h#t",
    ],
)
def test_a_password_is_neither_taken_nor_repeated(secret):
    with pytest.raises(ValueError) as error:
        open_source(secret)
    assert "s3" not in str(error.value).replace("lance:s3", "") and "cret" not in str(error.value)
