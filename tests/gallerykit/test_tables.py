"""What tables are made of: read whole and as it is, or refused by name before the work."""

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gallerykit import stores
from gallerykit import upgrade as module
from gallerykit.upgrade import upgrade

from .test_upgrade import QUICK, ROWS, files, hidden, read  # noqa: F401

JSON = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array([f'{{"n":{i}}}' for i in range(ROWS)]))


@pytest.fixture
def lance(files, tmp_path):  # noqa: F811
    """A function that makes a table ``items`` of the gallery with a column more, and gives its URL."""

    def make(column, **about):
        fields = [pa.field("id", pa.int64()), pa.field("embedding", pa.list_(pa.float32(), 6))]
        schema = pa.schema([*fields, pa.field("extra", column.type, **about)])
        rows = pa.table([pa.array(range(ROWS)), fixed(np.load(files["gallery"])), column], schema=schema)
        lancedb.connect(tmp_path / "db").create_table("items", rows)
        return f"lance:{tmp_path / 'db'}#items"

    return make


def fixed(x):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])


def refused(files, gallery, out, message):  # noqa: F811
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=message):
        patch.setattr(module, "fit", None)  # nothing is fitted before
        upgrade(files["old"], files["new"], gallery, out, method="ridge", **QUICK)
    assert not hidden(files)


# Types


@pytest.mark.parametrize("out", ["lance", "out.parquet", "out.arrow"])
def test_json_of_lance_stays_json(files, lance, tmp_path, out):  # noqa: F811
    gallery = lance(JSON)
    out = f"lance:{tmp_path / 'db'}#out" if out == "lance" else str(tmp_path / out)
    upgrade(files["old"], files["new"], gallery, out, method="ridge", **QUICK)
    source = stores.open_source(out)
    found = pa.Table.from_batches(source.batches(source.columns, 0, ROWS))["extra"]
    source.close()
    assert found.type == JSON.type and found.to_pylist() == JSON.to_pylist()


def test_rows_that_are_not_as_the_schema_says_are_refused(files, lance, tmp_path):  # noqa: F811
    inner = pa.StructArray.from_arrays([JSON], ["json"])
    refused(files, lance(inner), tmp_path / "out.parquet", "items: column 'extra' cannot be read, it is struct<")


def test_blobs_of_lance_are_refused(files, lance, tmp_path):  # noqa: F811
    blobs = pa.array([b"x" * 9] * ROWS, pa.large_binary())
    gallery = lance(blobs, metadata={"lance-encoding:blob": "true"})  # whose rows say where the bytes are
    refused(files, gallery, tmp_path / "out.parquet", "items: column 'extra' cannot be read, it is struct<data")


LISTS = {
    "fixed_shape_tensor": lambda x: pa.FixedShapeTensorArray.from_numpy_ndarray(x),
    "struct<list": lambda x: pa.array([{"list": [{"element": v} for v in row]} for row in x.tolist()]),
    "list_view": lambda x: pa.array(x.tolist(), pa.list_view(pa.float32())),
    "list<item: int64": lambda x: pa.array(x.astype(int).tolist()),
    "string": lambda x: pa.array(map(str, x)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_other_vectors_are_refused_by_type(files, kind):  # noqa: F811
    gallery = files["out"].with_name("gallery.arrow")
    write_ipc(pa.ipc.new_file, gallery, pa.table({"embedding": LISTS[kind](np.load(files["gallery"]))}))
    refused(files, gallery, files["out"], f"gallery: .*floating-point vectors of items, got {ROWS} rows of .*{kind}")


def write_ipc(new, path, table):
    with new(path, table.schema) as writer:
        writer.write_table(table)


RUNS = pa.RunEndEncodedArray.from_arrays(pa.array([ROWS], pa.int32()), pa.array(["x"]))


@pytest.mark.parametrize(
    ("column", "out", "message"),
    [
        (RUNS, "out.parquet", "out: Parquet cannot hold .*run_end_encoded"),
        (RUNS, "folder", "out: Parquet cannot hold .*run_end_encoded"),
        (RUNS, "lance", "out: LanceDB cannot hold .*RunEndEncoded"),
    ],
)
def test_columns_that_the_new_table_cannot_hold(files, tmp_path, column, out, message):  # noqa: F811
    gallery = tmp_path / "gallery.arrow"
    out = f"lance:{tmp_path / 'db'}#out" if out == "lance" else tmp_path / out
    write_ipc(pa.ipc.new_file, gallery, pa.table({"embedding": fixed(np.load(files["gallery"])), "extra": column}))
    refused(files, gallery, out, message)


def test_an_arrow_file_has_one_dictionary_for_a_column(files, tmp_path):  # noqa: F811
    column = pa.array([f"{i // 50}" for i in range(ROWS)]).dictionary_encode()
    rows = pa.table({"embedding": fixed(np.load(files["gallery"])), "extra": column})
    pq.write_table(rows, tmp_path / "gallery.parquet", row_group_size=70)  # each with a dictionary of its own
    write_ipc(pa.ipc.new_file, tmp_path / "gallery.arrow", rows)
    refused(files, tmp_path / "gallery.parquet", tmp_path / "out.arrow", "out: .* may have several for extra; name a")
    for gallery, out in (("gallery.parquet", "out.parquet"), ("gallery.arrow", "out.arrow")):
        upgrade(files["old"], files["new"], tmp_path / gallery, tmp_path / out, method="ridge", **QUICK)
        source = stores.open_source(tmp_path / out)
        found = pa.Table.from_batches(source.batches(["extra"], 0, ROWS))["extra"]
        source.close()
        assert found.to_pylist() == column.to_pylist()


# Names


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_two_columns_of_one_name_are_refused(files, tmp_path, suffix):  # noqa: F811
    x, gallery = np.load(files["gallery"]), tmp_path / f"gallery{suffix}"
    twice = pa.table([fixed(x), fixed(0 * x)], names=["embedding", "embedding"])
    pq.write_table(twice, gallery) if suffix == ".parquet" else write_ipc(pa.ipc.new_file, gallery, twice)
    refused(files, gallery, files["out"], f"gallery{suffix}: columns must have a name each, got embedding more than")


def test_a_dot_in_a_name_is_no_path(files, tmp_path):  # noqa: F811
    x, inner = np.load(files["gallery"]), pa.array([{"b": 1}] * ROWS)
    pq.write_table(pa.table({"a": inner, "a.b": fixed(x)}), tmp_path / "gallery.parquet")
    source = stores.open_source(tmp_path / "gallery.parquet")
    assert (next(source.column("vector", "a.b").blocks(0, ROWS)) == x).all()
    source.close()


# Files


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
def test_a_folder_is_read_whole_or_refused_by_what_is_left(files, tmp_path, other, refusal):  # noqa: F811
    folder, x = tmp_path / "items", np.load(files["gallery"])
    for name in ("part-0.parquet", other):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"embedding": fixed(x)}), folder / name)
    if refusal is None:
        assert (read(folder) == x).all()
    else:
        refused(
            files, folder, tmp_path / "out", f"items: must hold files NAME.parquet and nothing else, got {refusal}$"
        )


def test_a_stream_of_arrow_is_refused(files, tmp_path):  # noqa: F811
    write_ipc(pa.ipc.new_stream, tmp_path / "gallery.arrow", pa.table({"embedding": fixed(np.load(files["gallery"]))}))
    refused(files, tmp_path / "gallery.arrow", files["out"], "not a whole Arrow IPC file, which a stream is not")
