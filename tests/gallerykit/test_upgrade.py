"""Upgrading a gallery: what is written, and what is left alone when it fails."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gallerykit import mapped, maps, pairs, stores, stream
from gallerykit import upgrade as module
from gallerykit.__main__ import main
from gallerykit.backfill import Ranking
from gallerykit.embeddings import Embeddings
from gallerykit.map_files import load_map
from gallerykit.maps import Map
from gallerykit.pairs import read_pairs
from gallerykit.upgrade import upgrade

from ..cluster import soon

N, ROWS, CHUNK = 200, 333, 50
QUICK = {"tell": lambda text: None, "show_progress": False, "chunk": CHUNK, "width": 8, "steps": 6}
SUFFIXES = (".npy", ".npz", ".parquet")


def latent(n, seed):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


MATRIX = latent(8, 99)


def old_model(x):
    return (x[:, :5] @ MATRIX[:5, :6]).numpy()


def side_model(x):
    return x[:, 5:].numpy()


def new_model(x):
    return (x @ MATRIX[:, :7] + 3).numpy()


def save(path, vectors, *, ids=None, space="", **columns):
    """As the suffix says; a .npy has the vectors alone."""
    if path.suffix == ".npy":
        np.save(path, vectors)
    elif path.suffix == ".npz":
        Embeddings(torch.from_numpy(vectors), np.arange(len(vectors)) if ids is None else ids, space).save(path)
    else:
        table = {"note": [f"n{i}" for i in range(len(vectors))], "embedding": list(vectors)}
        table |= {} if ids is None else {"id": ids}
        table = pa.table(table | {name: list(values) for name, values in columns.items()})
        metadata = {"compatkit.space": space, "other": "kept"} if space else None
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=70)
    return path


@pytest.fixture
def files(tmp_path):
    """Paths of linear models' pairs and gallery, by name; ``out`` is not there."""
    paired, gallery = latent(N, 1), latent(ROWS, 2)
    arrays = {
        "old": old_model(paired),
        "new": new_model(paired),
        "side": side_model(paired),
        "gallery": old_model(gallery),
        "gallery_side": side_model(gallery),
    }
    paths = {name: save(tmp_path / f"{name}.npy", x) for name, x in arrays.items()}
    return paths | {"out": tmp_path / "out.npy"}


def inputs(files):
    return {path: path.read_bytes() for name, path in files.items() if name != "out"}


def read(path):
    """The vectors of a file or a table, whole."""
    source = stores.open_source(path)
    try:
        return pairs.whole(source.column("vector", "embedding"))
    finally:
        source.close()


def hidden(files):
    return [path for path in files["out"].parent.iterdir() if path.name.startswith(".")]


def truth():
    return new_model(latent(ROWS, 2))


# What is written


@pytest.mark.parametrize("side", [False, True])
def test_the_gallery_is_transformed(files, side):
    before = inputs(files)
    sides = {name: files[name] for name in ("side", "gallery_side")} if side else {}
    done = upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **sides, **QUICK)
    out = np.load(files["out"])
    assert (done.method, done.out) == ("ridge", files["out"]) and out.dtype == np.float32
    assert (np.abs(out - truth()).max() < 1e-2) == side
    assert list(done.comparison.candidates) == ["identity", "Procrustes", "low-rank", "ridge"]
    assert inputs(files) == before and not hidden(files)
    assert done.comparison.side_bytes == (12 if side else 0)


def test_auto_chooses_as_advised(files):
    options = {name: files[name] for name in ("old", "new", "gallery", "out", "side", "gallery_side")}
    told = []
    done = upgrade(**options, **QUICK | {"tell": told.append})
    assert done.method == "ridge" and done.advice.startswith("Use ridge") and done.out == files["out"]
    table, mixed = done.comparison.table(), done.comparison.mixed.table()
    assert told == [f"{table}\n{mixed}\n{done.advice}"] and list(done.comparison.candidates)[-1] == "h"


def test_nothing_is_written_where_spaces_fit(files):
    done = upgrade(files["old"], files["old"], files["gallery"], files["out"], **QUICK)
    assert done.method is None and done.out is None and done.advice.startswith("Do nothing")
    assert not files["out"].exists() and not hidden(files)
    done = upgrade(files["old"], files["old"], files["gallery"], files["out"], method="identity", **QUICK)
    assert done.out.read_bytes() == files["gallery"].read_bytes()


def test_a_dry_run_writes_nothing(files):
    before = sorted(files["out"].parent.iterdir())
    done = upgrade(files["old"], files["new"], dry_run=True, method="ridge", **QUICK)
    assert done.out is None and done.method == "ridge" and sorted(files["out"].parent.iterdir()) == before
    with pytest.raises(ValueError, match="gallery: must have the width of the pairs, 6, got 3"):
        upgrade(files["old"], files["new"], files["side"], dry_run=True, method="ridge", **QUICK)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_formats_give_the_same_bits(files, tmp_path, suffix):
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)
    ids = [f"g{i}" for i in range(ROWS)]
    paired = [save(tmp_path / f"{k}{suffix}", np.load(files[k]), space=f"model {k}") for k in ("old", "new")]
    gallery = save(tmp_path / f"gallery{suffix}", np.load(files["gallery"]), ids=ids, space="model old")
    out = tmp_path / f"written{suffix}"
    upgrade(*paired, gallery, out, method="ridge", **QUICK)
    assert (read(out) == np.load(files["out"])).all()
    if suffix == ".npz":
        loaded = Embeddings.load(out)
        assert (loaded.space, loaded.made_from, loaded.ids.tolist()) == ("model new", "model old", ids)
    if suffix == ".parquet":
        table, was = pq.read_table(out), pq.read_table(gallery)
        assert table.column_names == was.column_names
        assert all(table[name] == was[name] for name in ("note", "id"))
        metadata = table.schema.metadata
        assert metadata[b"compatkit.space"] == b"model new" and metadata[b"compatkit.made_from"] == b"model old"
        assert metadata[b"other"] == b"kept" and pq.ParquetFile(out).metadata.num_row_groups == 7


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 6)])
def test_the_kind_of_list_stays(files, tmp_path, kind):
    paths = {}
    for name in ("old", "gallery"):
        column = pa.array(list(np.load(files[name]).astype(float)), kind)
        pq.write_table(pa.table({"embedding": column}), paths.setdefault(name, tmp_path / f"{name}.parquet"))
    upgrade(paths["old"], files["new"], paths["gallery"], tmp_path / "out.parquet", method="ridge", **QUICK)
    found = pq.read_schema(tmp_path / "out.parquet").field("embedding").type
    assert found.value_type == pa.float32() and type(found) is type(kind)


def test_side_information_and_labels_as_columns(files, tmp_path):
    x = {name: np.load(files[name]) for name in ("old", "side", "gallery", "gallery_side")}
    labels = [f"class {i % 5}" for i in range(N)]
    old = save(tmp_path / "old.parquet", x["old"], side=x["side"], label=labels)
    gallery = save(tmp_path / "gallery.parquet", x["gallery"], side=x["gallery_side"])
    done = upgrade(old, files["new"], gallery, tmp_path / "out.parquet", method="ridge", **QUICK)
    same = upgrade(**files, labels=labels_of(files, np.arange(N) % 5), method="ridge", **QUICK)
    assert (read(tmp_path / "out.parquet") == np.load(files["out"])).all()
    assert done.comparison.old == same.comparison.old is not None


def test_pairs_are_found_by_id(files, tmp_path):
    ids, order = np.arange(N) * 3, np.random.default_rng(0).permutation(N)
    x = {name: np.load(files[name]) for name in ("old", "new", "side")}
    old = save(tmp_path / "old.npz", x["old"], ids=ids, space="a")
    new = save(tmp_path / "new.parquet", x["new"][order], ids=ids[order], space="b")
    side = save(tmp_path / "side.parquet", x["side"][order[::-1]], ids=ids[order[::-1]])
    found = read_pairs(old, new, side=side)
    assert (found.old_space, found.new_space) == ("a", "b") and len(found) == N
    for name in x:
        assert (getattr(found, name).numpy() == x[name]).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 0.05), (np.float64, 1e-2)])
def test_numbers_are_of_the_new_type(files, dtype, tolerance):
    np.save(files["new"], np.load(files["new"]).astype(dtype))
    sides = {name: files[name] for name in ("side", "gallery_side")}
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **sides, **QUICK)
    out = np.load(files["out"])
    assert out.dtype == dtype and np.abs(out - truth()).max() < tolerance


def test_a_gallery_in_another_order_of_bytes_and_axes(files):
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)
    expected = files["out"].read_bytes()
    np.save(files["gallery"], np.asfortranarray(np.load(files["gallery"]).astype(">f4")))
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", overwrite=True, **QUICK)
    assert files["out"].read_bytes() == expected


def test_no_more_than_a_chunk_is_in_memory(files, monkeypatch):
    seen = []
    call = Map.__call__
    monkeypatch.setattr(Map, "__call__", lambda m, old, side=None: seen.append(len(old)) or call(m, old, side))
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)
    assert seen[-7:] == [CHUNK] * 6 + [ROWS % CHUNK]


# What is refused


def changed(name, function):
    def change(files):
        np.save(files[name], function(np.load(files[name])))

    return change


def with_nan(x):
    x[71, 2] = np.nan
    return x


def with_ids(ids_old, ids_new):
    def change(files):
        for name, ids in (("old", ids_old), ("new", ids_new)):
            vectors = np.load(files[name])
            files[name] = save(files[name].with_suffix(".parquet"), vectors, ids=ids)

    return change


def labels_of(files, labels):
    np.save(files["old"].with_name("labels.npy"), labels)
    return files["old"].with_name("labels.npy")


IDS = np.arange(N)
BAD = [
    (changed("new", lambda x: x[1:]), "new: must have as many rows as old, 200.*got 199"),
    (changed("side", lambda x: x[1:]), "side: must have as many rows as old, 200.*got 199"),
    (changed("gallery_side", lambda x: x[1:]), "gallery_side: must have as many rows as the gallery, 333.*got 332"),
    (with_ids(IDS, IDS + 101), "old: at least 100 pairs are needed, got 99"),
    (with_ids(IDS, IDS // 2), "new: ids must be unique, got 0 2 times"),
    (with_ids(IDS // 2, IDS), "old: ids must be unique"),
    (with_ids(IDS, IDS.astype(str)), "new: ids must be of the kind of old's, integers, got text"),
    (changed("old", with_nan), "old: row 71 .* has NaN"),
    (changed("new", with_nan), "new: row 71 .* has NaN"),
    (changed("side", with_nan), "side: row 71 .* has NaN"),
    (changed("gallery", with_nan), "gallery: row 71 .* has NaN"),
    (changed("gallery_side", with_nan), "gallery_side: row 71 .* has NaN"),
    (changed("gallery", lambda x: x[:, 1:]), "gallery: must have the width of the pairs, 6, got 5"),
    (changed("gallery_side", lambda x: x[:, 1:]), "gallery_side: must have the width of the pairs, 3, got 2"),
    (changed("gallery", lambda x: x[:0]), "gallery: .*floating-point vectors of items, got 0 rows"),
    (changed("gallery", lambda x: x.astype(int)), "gallery: .*floating-point .*int64"),
    (changed("gallery", lambda x: x[0]), "gallery: .*floating-point .*got 6 rows of float32$"),
    (changed("old", lambda x: x[:99]), "old: at least 100 pairs are needed, got 99"),
    (changed("new", lambda x: 0 * x), "new: embeddings must not all be the same"),
    (lambda files: files.update(labels=labels_of(files, np.arange(N))), "labels: some of the 40 held-out items must"),
    (lambda files: files["gallery"].write_bytes(files["gallery"].read_bytes()[:-1]), "gallery.npy: is cut short"),
    (lambda files: files["gallery"].write_bytes(b"hello"), "gallery.npy: not a whole NumPy array"),
    (lambda files: files.update(gallery_side=None), "gallery_side: is needed"),
    (lambda files: files.update(side=None), "gallery_side: must be None, for the pairs came without side"),
    (lambda files: files.update(out=files["out"].with_suffix(".npz")), "out: must end .* in .npy, got out.npz"),
    (lambda files: files.update(out=None), "gallery, out: both are needed"),
    (lambda files: files.update(out=files["gallery"]), "out: must not be a file that is read"),
    (lambda files: files.update(out=files["new"]), "out: must not be a file that is read"),
    (lambda files: os.link(files["gallery"], files["out"]), "out: must not be a file that is read"),
    (lambda files: files["out"].symlink_to(files["gallery"]), "out: must not be a file that is read"),
    (lambda files: files.update(old=files["old"].with_suffix(".csv")), "old.csv: must be one of NAME.npy, NAME.npz"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_refused(files, change, message):
    change(files)
    folder = (files["out"] or files["old"]).parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=message):
        upgrade(**files, method="ridge", overwrite=True, **QUICK)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before, "no file was changed and nothing was added"


def test_out_is_not_replaced_unasked(files):
    files["out"].write_bytes(b"precious")
    with pytest.raises(ValueError, match="out: .*exists already.*--overwrite"):
        upgrade(**files, method="ridge", **QUICK)
    assert files["out"].read_bytes() == b"precious"
    upgrade(**files, method="ridge", overwrite=True, **QUICK)
    assert np.load(files["out"]).shape == (ROWS, 7)


def test_out_is_not_replaced_when_it_appears_meanwhile(files):
    appear = {"tell": lambda text: files["out"].write_bytes(b"precious")}
    with pytest.raises(FileExistsError, match="out: .*has appeared meanwhile"):
        upgrade(**files, method="ridge", **QUICK | appear)
    assert files["out"].read_bytes() == b"precious" and hidden(files), "what was done is kept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "magic"},
            "method: must be one of auto, identity, procrustes, low-rank, ridge, residual, h, got 'magic'",
        ),
        ({"metric": "hamming"}, "metric: must be one of l2, cosine, ip, got 'hamming'"),
        ({"enough": 50}, "enough: .*got 50"),
        ({"gallery_size": 50}, "gallery_size: must be left out for a gallery that is given, got 50"),
        ({"backfill_list": "list.txt"}, "backfill_list: must be NAME.csv, with a gallery .* got list.txt"),
        ({"backfill_list": "list.csv", "dry_run": True}, "backfill_list: must be .* without dry_run"),
        ({"chunk": 0}, "chunk: must be at least 1, got 0"),
        ({"steps": 0}, "steps: must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(files, options, message):
    with pytest.raises(ValueError, match=message):
        upgrade(**files, **QUICK | options)


def test_the_spaces_of_pairs_and_gallery_must_be_the_same(files, tmp_path):
    x = {name: np.load(path) for name, path in files.items() if name != "out"}
    old = save(tmp_path / "old.npz", x["old"], space="old model")
    for suffix in (".npz", ".parquet"):
        gallery = save(tmp_path / f"gallery{suffix}", x["gallery"], space="another")
        with pytest.raises(ValueError, match="gallery: must be of the space of the pairs, 'old model', got 'another'"):
            upgrade(old, files["new"], gallery, tmp_path / f"out{suffix}", method="ridge", **QUICK)
    gallery = save(tmp_path / "gallery.npz", x["gallery"], space="old model")
    with pytest.raises(ValueError, match="gallery: names its space, .* the pairs came without a name"):
        upgrade(old, files["new"], gallery, tmp_path / "out.npz", method="ridge", **QUICK)
    side = save(tmp_path / "side.npz", x["side"], space="side model")
    beside = save(tmp_path / "gallery_side.npz", x["gallery_side"], space="another")
    with pytest.raises(ValueError, match="gallery_side: must be of the space of the pairs, 'side model'"):
        upgrade(**files | {"side": side, "gallery_side": beside}, method="ridge", **QUICK)


def test_an_altered_gallery_is_refused(files, tmp_path):
    old, new = (save(tmp_path / f"{k}.npz", np.load(files[k]), space=k) for k in ("old", "new"))
    gallery = save(tmp_path / "gallery.npz", np.load(files["gallery"]), space="old")
    content = bytearray(gallery.read_bytes())
    content[1000] ^= 1
    gallery.write_bytes(content)
    with pytest.raises(ValueError, match="altered"):
        upgrade(old, new, gallery, tmp_path / "out.npz", method="ridge", **QUICK)


def test_ids_of_the_gallery_and_its_side_information_must_match(files, tmp_path):
    gallery = save(tmp_path / "gallery.parquet", np.load(files["gallery"]), ids=np.arange(ROWS))
    ids = np.arange(ROWS)
    ids[7] = ROWS
    beside = save(tmp_path / "beside.npz", np.load(files["gallery_side"]), ids=ids, space="side")
    sides = {"side": files["side"], "gallery_side": beside}
    with pytest.raises(ValueError, match="gallery_side: must have all items of the gallery, 1 miss, such as 7"):
        upgrade(files["old"], files["new"], gallery, tmp_path / "out.parquet", method="ridge", **sides, **QUICK)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda rows: [*rows[:80], None, *rows[81:]], "row 80 .the first is 0. is empty"),
        (lambda rows: [*rows[:80], rows[0][:3], *rows[81:]], "row 80 .* has 3 numbers, the first has 6"),
        (lambda rows: [*rows[:80], [None] * 6, *rows[81:]], "row 80 .* has an empty number"),
    ],
)
def test_uneven_lists_are_refused_by_row(files, tmp_path, broken, message):
    rows = broken(np.load(files["gallery"]).tolist())
    pq.write_table(pa.table({"embedding": rows}), tmp_path / "gallery.parquet", row_group_size=70)
    with pytest.raises(ValueError, match=message):
        upgrade(files["old"], files["new"], tmp_path / "gallery.parquet", tmp_path / "out.parquet", method="ridge",
                **QUICK)  # fmt: skip
    assert not (tmp_path / "out.parquet").exists()


def test_lengths_that_the_pairs_did_not_have_are_refused(files):
    x = np.load(files["old"])
    np.save(files["old"], x / np.linalg.norm(x, axis=1, keepdims=True))
    with pytest.raises(ValueError, match="gallery: all rows must have length 1 as in the pairs, row .* has"):
        upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)


@pytest.mark.parametrize("unit", [(), ("new",), ("old", "new", "gallery")])
@pytest.mark.parametrize("method", ["procrustes", "residual"])
def test_rows_of_zeros_stay_so_by_cosine(files, tmp_path, method, unit):
    failed, told = np.array([5, 71, 170]), []
    x = {name: np.load(files[name]) for name in ("old", "new", "gallery")}
    for name in unit:
        x[name] /= np.linalg.norm(x[name], axis=1, keepdims=True)
    kept = np.setdiff1d(np.arange(N), failed[:2])
    for name, rows in x.items():
        np.save(tmp_path / f"{name}_kept.npy", rows[kept] if name != "gallery" else rows)
    x["old"][failed[0]] = x["new"][failed[1]] = x["gallery"][failed] = 0
    for name, rows in x.items():
        np.save(files[name], rows)
    options = {"method": method, "metric": "cosine", **QUICK, "tell": told.append}
    upgrade(**{name: files[name] for name in (*x, "out")}, save_map=tmp_path / "map.safetensors", **options)
    without = tmp_path / "without.npy"
    upgrade(*(tmp_path / f"{name}_kept.npy" for name in x), without, **options)
    out, others = np.load(files["out"]), np.setdiff1d(np.arange(ROWS), failed)
    assert told[0] == "2 pairs are left out: embeddings that are all zeros have no cosine." and len(told) == 3
    assert (out[failed] == 0).all() and np.abs(out[others] - np.load(without)[others]).max() < 1e-6
    module.apply_map(tmp_path / "map.safetensors", files["gallery"], tmp_path / "again.npy", chunk=CHUNK)
    assert (np.load(tmp_path / "again.npy") == out).all()
    saved = load_map(tmp_path / "map.safetensors")
    assert (saved(x["gallery"])[failed] == 0).all() and not saved(x["gallery"][5]).any()


def test_rows_of_zeros_are_mapped_by_distance(files):
    x = np.load(files["gallery"])
    x[5] = 0
    np.save(files["gallery"], x)
    upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)
    assert np.load(files["out"])[5].any()


def test_numbers_too_large_for_the_new_type_are_refused(files):
    np.save(files["new"], (np.load(files["new"]) * 1000).astype(np.float16))
    gallery = np.load(files["gallery"])
    gallery[100] *= 1000
    np.save(files["gallery"], gallery)
    with pytest.raises(ValueError, match=r"gallery, transformed: row 100 .* has .*\d, which is too large for float16"):
        upgrade(files["old"], files["new"], files["gallery"], files["out"], method="ridge", **QUICK)


def test_without_pyarrow_it_is_named(files, tmp_path, monkeypatch, capsys):
    gallery = save(tmp_path / "gallery.parquet", np.load(files["gallery"]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "gallerykit.tables")
    monkeypatch.delattr("gallerykit.tables")
    with pytest.raises(ImportError, match=r"pyarrow is needed here: pip install 'compatkit\[gallery\]'"):
        stores.open_source(gallery)
    arguments = ["--old", files["old"], "--new", files["new"], "--gallery", gallery, "--out", tmp_path / "o.parquet"]
    assert main(["upgrade", *map(str, arguments)]) == 1
    assert capsys.readouterr().err.startswith("gallerykit: ") and gallery.exists()


# Interrupted


def stopping(monkeypatch, after, error=KeyboardInterrupt):
    """Let the stream stop with ``error`` after so many chunks, each of which is saved."""
    monkeypatch.setattr(stream, "SAVE_SECONDS", -1.0)
    checked = mapped.Mapped.blocks

    def blocks(self, start, size):
        for i, block in enumerate(checked(self, start, size)):
            if i == after:
                raise error
            yield block

    monkeypatch.setattr(mapped.Mapped, "blocks", blocks)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_upgrade_goes_on_to_the_same_bits(files, tmp_path, monkeypatch, suffix):
    gallery = save(tmp_path / f"gallery{suffix}", np.load(files["gallery"]), ids=np.arange(ROWS), space="old")
    paired = [save(tmp_path / f"{k}{suffix}", np.load(files[k]), space=k) for k in ("old", "new")]
    sides = {name: files[name] for name in ("side", "gallery_side")}
    straight, out = tmp_path / f"straight{suffix}", tmp_path / f"out{suffix}"
    upgrade(*paired, gallery, straight, method="h", **sides, **QUICK)
    with monkeypatch.context() as patch:
        stopping(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            upgrade(*paired, gallery, out, method="h", **sides, **QUICK)
    assert not out.exists()
    monkeypatch.setattr(module, "fit", None)  # not fitted again
    started, blocks = [], mapped.Mapped.blocks
    monkeypatch.setattr(
        mapped.Mapped, "blocks", lambda self, start, size: started.append(start) or blocks(self, start, size)
    )
    upgrade(*paired, gallery, out, method="h", **sides, **QUICK)
    assert started == [3 * CHUNK], "rows that were written are not made again"
    assert out.read_bytes() == straight.read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("what", ["gallery", "method", "chunk", "steps"])
def test_another_upgrade_starts_anew(files, monkeypatch, what):
    files = {name: path for name, path in files.items() if "side" not in name}
    options = QUICK | {"method": "h"}
    with monkeypatch.context() as patch:
        stopping(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            upgrade(**files, **options)
    if what == "gallery":
        np.save(files["gallery"], -np.load(files["gallery"]))
    else:
        options |= {"method": "ridge"} if what == "method" else {what: options[what] + 1}
    straight = files["out"].with_name("straight.npy")
    upgrade(**files | {"out": straight}, **options)
    upgrade(**files, **options)
    assert files["out"].read_bytes() == straight.read_bytes()


def test_rows_beyond_the_journal_are_not_believed(files, monkeypatch):
    straight = files["out"].with_name("straight.npy")
    upgrade(**files | {"out": straight}, method="ridge", **QUICK)
    with monkeypatch.context() as patch:
        stopping(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            upgrade(**files, method="ridge", **QUICK)
    (folder,) = hidden(files)
    with open(folder / "vectors.npy", "ab") as file:
        file.write(b"half a chunk that a power cut left")
    upgrade(**files, method="ridge", **QUICK)
    assert files["out"].read_bytes() == straight.read_bytes()


def test_a_journal_is_not_believed_without_its_file(files, monkeypatch):
    straight = files["out"].with_name("straight.npy")
    upgrade(**files | {"out": straight}, method="ridge", **QUICK)
    for after in (3, 0):  # the second time nothing of the new file is safe yet
        with monkeypatch.context() as patch:
            stopping(patch, after=after)
            with pytest.raises(KeyboardInterrupt):
                upgrade(**files, method="ridge", **QUICK)
        (folder,) = hidden(files)
        if after:
            assert json.loads((folder / "rows.json").read_text())["rows"] == 3 * CHUNK
            (folder / "vectors.npy").unlink()
    upgrade(**files, method="ridge", **QUICK)
    assert files["out"].read_bytes() == straight.read_bytes()


def test_training_is_not_repeated_when_what_follows_it_failed(files, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "compare", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            upgrade(**files, method="h", **QUICK)
    monkeypatch.setattr(maps.FitTransformation, "losses", None)
    assert upgrade(**files, method="h", **QUICK).out.exists()


KILLED = """
import os, signal, sys
from gallerykit import mapped, stream, upgrade as module
stream.SAVE_SECONDS = -1.0
blocks = mapped.Mapped.blocks
def killing(self, start, size):
    for i, block in enumerate(blocks(self, start, size)):
        if i == 5:  # 4 chunks are safe, for the fifth waited for that
            os.kill(os.getpid(), signal.SIGKILL)
        yield block
mapped.Mapped.blocks = killing
import torch
torch.set_num_threads(1)
module.upgrade(*sys.argv[1:5], method="ridge", chunk=50, width=8, steps=6)
"""


def test_sigkill(files):
    paths = [files[name] for name in ("old", "new", "gallery", "out")]
    child = subprocess.run([sys.executable, "-c", KILLED, *map(str, paths)], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not files["out"].exists()
    folder = files["out"].with_name(".out.npy.upgrade")
    assert json.loads((folder / "rows.json").read_text())["rows"] in (4 * CHUNK, 5 * CHUNK)
    (folder / ".whole.npz.1.0.tmp").touch()  # what is left of a process that is killed while it puts all together
    upgrade(*paths, method="ridge", **QUICK)
    straight = files["out"].with_name("straight.npy")
    upgrade(*paths[:3], straight, method="ridge", **QUICK)
    assert files["out"].read_bytes() == straight.read_bytes() and not hidden(files)


# Several runs

SLOW = 0.3  # seconds in which a run would go on that does not wait


@pytest.fixture
def started(files):
    """A function that starts a run in a thread, and the names of those that compare, where each waits to be let go."""
    comparing, free = [], {}
    with ThreadPoolExecutor(3) as threads:

        def start(name, **changes):
            free[name] = threading.Event()

            def tell(_):
                comparing.append(name)
                free[name].wait(60)

            options = files | QUICK | {"tell": tell, "method": "ridge"} | changes
            return threads.submit(upgrade, **options), free[name]

        yield start, comparing
        for event in free.values():
            event.set()


def test_one_run_at_a_time_writes_a_gallery(files, started):
    """The first is refused late, while the second waits for it; the third comes while the second is at work."""
    start, comparing = started
    upgrade(**files | {"out": files["out"].with_name("straight.npy")}, method="ridge", **QUICK)
    bad = save(files["out"].with_name("bad.npy"), with_nan(np.load(files["gallery"])))
    first, let_first_go = start("first", gallery=bad)
    soon(lambda: comparing == ["first"])
    second, let_second_go = start("second")
    time.sleep(SLOW)
    let_first_go.set()
    with pytest.raises(ValueError, match="gallery: row 71 .* has NaN"):
        first.result()
    soon(lambda: comparing == ["first", "second"])
    third, _ = start("third")
    time.sleep(SLOW)
    assert comparing == ["first", "second"] and not files["out"].exists()
    let_second_go.set()
    assert second.result().out == files["out"]
    with pytest.raises(ValueError, match="out: .*exists already"):
        third.result()
    assert files["out"].read_bytes() == files["out"].with_name("straight.npy").read_bytes() and not hidden(files)


@pytest.mark.parametrize(("name", "file"), [("save_map", "map.safetensors"), ("backfill_list", "list.csv")])
def test_one_run_at_a_time_writes_a_file(files, started, name, file):
    start, comparing = started
    path = files["out"].with_name(file)
    first, let_go = start("first", **{name: path})
    soon(lambda: comparing)
    second, _ = start("second", out=files["out"].with_name("other.npy"), **{name: path})
    time.sleep(SLOW)
    assert comparing == ["first"]
    let_go.set()
    assert first.result() and path.exists()
    with pytest.raises(ValueError, match=f"{name}: .*exists already"):
        second.result()
    assert not hidden(files)


# A sink that fails, and a full disk


@pytest.mark.parametrize("error", [ValueError("no"), pa.ArrowInvalid("no"), RuntimeError("no"), OSError("no")])
def test_what_is_done_is_kept_where_the_new_gallery_cannot_be_written(files, monkeypatch, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("gallerykit.arrays.NewArrayFile.write", fail)
        with pytest.raises(OSError, match="no"):
            upgrade(**files, method="ridge", **QUICK)
    stopping(monkeypatch, 0, AssertionError("rows are made again"))
    assert upgrade(**files, method="ridge", **QUICK).out.exists() and not hidden(files)


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOSPC, "no")])
def test_who_is_told_may_fail(files, error):
    """It is neither bad input nor a full disk."""

    def fail(_):
        raise error

    with pytest.raises(type(error)) as caught:
        upgrade(**files, method="ridge", **QUICK | {"tell": fail})
    assert caught.value is error and list(files["out"].with_name(".out.npy.upgrade").glob("maps-*"))


def fail_when_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


WRITERS = {".npy": "arrays.NewArrayFile.write", ".npz": "arrays._write_npz", ".parquet": "tables.write_parquet"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("where", ["rows", "end"])
def test_a_full_disk_is_said_and_the_upgrade_goes_on_later(files, tmp_path, monkeypatch, suffix, where):
    gallery, old, new = (
        save(tmp_path / f"{k}{suffix}", np.load(files[k]), space=k.replace("gallery", "old"))
        for k in ("gallery", "old", "new")
    )
    before, out = gallery.read_bytes(), tmp_path / f"out{suffix}"
    with monkeypatch.context() as patch:
        if where == "rows":
            stopping(patch, 3, OSError(errno.ENOSPC, "No space left on device"))
        else:
            patch.setattr(f"gallerykit.{WRITERS[suffix]}", fail_when_full)
        with pytest.raises(OSError, match=r"the disk of .* is full .*untouched .*nothing new .*the same command"):
            upgrade(old, new, gallery, out, method="ridge", **QUICK)
    assert not out.exists() and gallery.read_bytes() == before
    assert upgrade(old, new, gallery, out, method="ridge", **QUICK).out.exists()


def test_a_disk_that_is_full_for_a_checkpoint(files, monkeypatch):
    def save(state, file):
        try:
            fail_when_full()
        except OSError:
            raise RuntimeError("unexpected pos") from None  # as torch.save does

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="is full .No space left"):
            upgrade(**files, method="h", **QUICK)
    assert upgrade(**files, method="h", **QUICK).out.exists()


def test_too_little_space_is_seen_before_anything_is_written(files, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(stream.Stream, "_write", None)
    with pytest.raises(OSError, match="is full .* MiB are needed and 0 are free") as caught:
        upgrade(**files, method="ridge", **QUICK)
    assert caught.value.errno == errno.ENOSPC


def test_other_errors_of_the_system_stay_what_they_are(files, monkeypatch):
    stopping(monkeypatch, 1, PermissionError(errno.EACCES, "denied"))
    with pytest.raises(PermissionError, match="denied"):
        upgrade(**files, method="ridge", **QUICK)


# The command


def command(files, *options):
    names = ("old", "new", "side", "gallery", "gallery_side", "out")
    paths = [x for name in names for x in (f"--{name.replace('_', '-')}", str(files[name]))]
    return main(["upgrade", *paths, "--width", "8", "--steps", "6", *options])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--device", "abacus", "gallerykit: --device: 'abacus' cannot be used here"),
        ("--backfill-seconds", "-5", "gallerykit: --backfill-seconds: must be a time"),
        ("--save-map", "dry_run.txt", "gallerykit: --save-map: must be NAME.safetensors, and not for --dry-run, which"),
        ("--save-map", "dry_run.txt", "got dry_run.txt\n"),
    ],
)
def test_the_command_refuses(files, capsys, option, value, message):
    assert command(files, option, value) == 2
    assert message in capsys.readouterr().err and not files["out"].exists()


def test_the_command(files, capsys):
    assert command(files, "--chunk", "50", "--backfill-seconds", "600") == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:8]] == ["old/old", *(f"new/{name}" for name in maps.METHODS)]
    assert out[-3].startswith("Use ridge: ") and "Back-filling would take" in out[-3]
    assert out[-2] == f"Written with ridge: {files['out']}" and out[-1].startswith("To switch over: ")
    assert np.abs(np.load(files["out"]) - truth()).max() < 1e-2


def test_what_to_back_fill_is_listed(files, tmp_path):
    """Of the whole gallery, by id where there are ids, as ``Ranking`` says of the held-out pairs."""
    paths = {name: files[name] for name in ("old", "new", "gallery", "out")}
    done = upgrade(**paths, method="ridge", backfill_list=tmp_path / "rows.csv", **QUICK)
    held_out = maps.split(read_pairs(files["old"], files["new"]))[1]
    to_fit = maps.split(read_pairs(files["old"], files["new"]))[0]
    ranking = Ranking.of(maps.fit(to_fit, ["ridge"])["ridge"], held_out)
    losses = ranking(torch.from_numpy(np.load(files["gallery"]))).numpy()
    lines = [line.split(",") for line in (tmp_path / "rows.csv").read_text().splitlines()]
    assert done.listed == tmp_path / "rows.csv" and lines[0] == ["id", "expected_loss"]
    rows = np.array([int(row) for row, _ in lines[1:]])
    assert sorted(rows) == list(range(ROWS)) and np.allclose(losses[rows], np.sort(losses)[::-1])

    with_ids = save(tmp_path / "gallery.parquet", np.load(files["gallery"]), ids=[f"i{i}" for i in range(ROWS)])
    paths |= {"gallery": with_ids, "out": tmp_path / "out.parquet"}
    upgrade(**paths, method="ridge", backfill_list=tmp_path / "ids.csv", **QUICK)
    assert (tmp_path / "ids.csv").read_text().splitlines()[1:] == [f"i{row},{loss}" for row, loss in lines[1:]]


def test_a_gallery_of_which_a_part_is_to_be_back_filled(files, tmp_path, capsys):
    """It is mapped by "auto" only if the part is asked for."""
    paths = {name: files[name] for name in ("old", "new", "gallery", "out")} | {"enough": 0.75}
    done = upgrade(**paths, **QUICK)
    assert 0 < done.share < 1 and done.method is done.out is None and not files["out"].exists()
    assert done.advice.startswith(f"Back-fill the worst {100 * done.share:g} % (--backfill-list)")
    options = [x for name in ("old", "new", "gallery", "out") for x in (f"--{name}", str(files[name]))]
    assert main(["upgrade", *options, "--enough", "0.75", "--width", "8", "--steps", "6"]) == 3
    assert "--backfill-list FILE.csv writes both" in capsys.readouterr().out
    done = upgrade(**paths, backfill_list=tmp_path / "list.csv", **QUICK)
    assert done.method == done.comparison.choice and files["out"].exists() and (tmp_path / "list.csv").exists()


def test_a_part_is_back_filled_beside_the_map_that_is_named(files):
    """Not beside the one that would be advised."""
    paths = {name: files[name] for name in ("old", "new", "gallery", "out")}
    done = upgrade(**paths, method="low-rank", **QUICK)
    assert done.comparison.mixed.map == "low-rank" != done.comparison.choice
    assert "the rest by low-rank" in done.comparison.mixed.table()


def test_the_size_of_the_gallery_is_that_of_the_gallery_or_said(files):
    pairs = {"old": files["old"], "new": files["new"]}
    assert upgrade(**pairs, gallery=files["gallery"], dry_run=True, **QUICK).comparison.gallery_size == ROWS
    assert upgrade(**pairs, dry_run=True, gallery_size=9, direction="queries", **QUICK).comparison.gallery_size == 9
    assert "say --gallery-size" in upgrade(**pairs, dry_run=True, **QUICK).advice


def test_the_command_says_when_nothing_is_written(files, capsys):
    assert command(files | {"new": files["old"]}) == 3
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("Neither a gallery nor a map was written. With --method NAME")
    )
    assert command(files, "--dry-run", "--method", "procrustes") == 0
    assert "Neither a gallery" not in capsys.readouterr().out and not files["out"].exists()


def test_the_command_answers_mistakes_with_a_sentence(files, capsys, monkeypatch):
    assert command(files | {"old": "nowhere.npy"}) == 2
    assert "nowhere.npy" in capsys.readouterr().err
    assert command(files, "--enough", "7") == 2
    assert capsys.readouterr().err == "gallerykit: --enough: must be a share, 0 .. 1, got 7.0\n"
    monkeypatch.setattr(stream.Stream, "_write", fail_when_full)
    assert command(files, "--method", "ridge") == 1
    assert "is full" in capsys.readouterr().err
    monkeypatch.undo()
    stopping(monkeypatch, 0)
    assert command(files, "--method", "ridge") == 130
    assert "the same command goes on" in capsys.readouterr().err
