"""Ids: the same reader for all stores, and one sentence before the work where it cannot."""

import datetime
import decimal
import tracemalloc

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gallerykit import ids, store, stores
from gallerykit import upgrade as module
from gallerykit.pairs import read_pairs
from gallerykit.upgrade import upgrade

from .test_upgrade import QUICK, N, files, hidden  # noqa: F401

NUMBERS = np.arange(N)
BEYOND = np.arange(N, dtype=np.uint64) + np.uint64(2**63 - 100)
REFUSED = {
    "uint64 beyond int64": (BEYOND, f"ids that fit 64 bits with a sign, got {BEYOND.max()}; store them as text"),
    "float": (NUMBERS.astype(float), "integers or text for ids, got double; store them as text"),
    "timestamp": (pa.array(NUMBERS, pa.timestamp("us")), "got timestamp"),
    "date": (pa.array([datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in range(N)]), "got date32"),
    "16 bytes": (pa.array([i.to_bytes(16, "big") for i in range(N)], pa.binary(16)), "got fixed_size_binary"),
    "bytes": (pa.array([str(i).encode() for i in range(N)]), "got binary"),
    "decimal": (pa.array([decimal.Decimal(i) for i in range(N)]), "got decimal128"),
    "lists": (pa.array([[i] for i in range(N)]), "got list<"),
    "bool": (pa.array(NUMBERS > 5), "got bool"),
}
TAKEN = {
    "int8": pa.array(NUMBERS - 100, pa.int8()),
    "uint64": pa.array(NUMBERS, pa.uint64()),
    "large_string": pa.array(map(str, NUMBERS), pa.large_string()),
    "string_view": pa.array(map(str, NUMBERS), pa.string_view()),
    "dictionary": pa.array(map(str, NUMBERS)).dictionary_encode(),
}


def stored(path, ids, vectors):
    pq.write_table(pa.table({"id": ids, "embedding": list(vectors)}), path)
    return path


@pytest.fixture
def numbered(files, tmp_path):  # noqa: F811
    """A function that stores old and new pairs with these ids, the new ones in another order."""

    def store(of_old, of_new):
        order = np.random.default_rng(0).permutation(N)
        old = stored(tmp_path / "old.parquet", of_old, np.load(files["old"]))
        of_new = pa.array(of_new)
        of_new = pa.array([of_new[i].as_py() for i in order], of_new.type)
        return old, stored(tmp_path / "new.parquet", of_new, np.load(files["new"])[order])

    return store


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("argument", ["old", "new"])
def test_other_types_are_refused_by_name(numbered, kind, argument):
    found, message = REFUSED[kind]
    pair = numbered(*((found, NUMBERS) if argument == "old" else (NUMBERS, found)))
    with pytest.raises(ValueError, match=f"^{argument}: .*{argument}.parquet must have .*{message}"):
        read_pairs(*pair)


@pytest.mark.parametrize("kind", REFUSED)
def test_ids_that_postgres_would_not_get_as_they_are(files, tmp_path, database, monkeypatch, kind):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    refuse(files, stored(tmp_path / "g.parquet", REFUSED[kind][0], np.load(files["old"])), database, "gallery: .*ids")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([f"{i // 2}" for i in range(N)], "gallery: ids must be unique, got 0 2 times"),
        ([f"{i}\0" for i in range(N)], "gallery: ids for PostgreSQL must have at most 2600 bytes and no NUL, got '0"),
        ([f"{i}" + "é" * 1301 for i in range(N)], "gallery: ids for PostgreSQL must have at most 2600 bytes"),
    ],
)
def test_texts_that_postgres_takes_for_no_key(files, tmp_path, database, monkeypatch, texts, message):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    refuse(files, stored(tmp_path / "gallery.parquet", texts, np.load(files["old"])), database, message)


def refuse(files, gallery, database, message):  # noqa: F811
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=message) as caught:
        patch.setattr(module, "fit", None)  # nothing is fitted before
        upgrade(files["old"], files["new"], gallery, f"{database}#out", method="ridge", **QUICK)
    assert len(str(caught.value)) < 400 and not hidden(files)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regclass('out') IS NULL").fetchone() == (True,)


@pytest.mark.parametrize("kind", TAKEN)
def test_integers_and_text_of_any_type_are_joined(files, numbered, kind):  # noqa: F811
    plain = TAKEN[kind].to_pylist()
    for old, new in ((TAKEN[kind], plain), (plain, TAKEN[kind])):
        found = read_pairs(*numbered(old, new), require_all=True)
        assert (found.old.numpy() == np.load(files["old"])).all() and (found.new.numpy() == np.load(files["new"])).all()


@pytest.mark.parametrize("kind", TAKEN)
def test_they_arrive_in_postgres_as_they_are(files, tmp_path, database, monkeypatch, kind):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    gallery = stored(tmp_path / "gallery.parquet", TAKEN[kind], np.load(files["old"]))
    upgrade(files["old"], files["new"], gallery, f"{database}#out", method="ridge", **QUICK)
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT id FROM out ORDER BY id").fetchall()
    assert [value for (value,) in found] == sorted(TAKEN[kind].to_pylist())


def test_integers_and_text_are_not_joined(files, numbered, tmp_path):  # noqa: F811
    texts = list(map(str, NUMBERS))
    with pytest.raises(ValueError, match="^new: ids must be of the kind of old's, integers, got text"):
        read_pairs(*numbered(NUMBERS, texts))
    pair = numbered(texts, texts)
    side = stored(tmp_path / "side.parquet", NUMBERS, np.load(files["side"]))
    with pytest.raises(ValueError, match="^side: ids must be of the kind of old's, text, got integers"):
        read_pairs(*pair, side=side)
    with pytest.raises(ValueError, match="^gallery_side: ids must be of the kind of the gallery's, text, got integers"):
        upgrade(*pair, pair[0], files["out"], side=files["side"], gallery_side=side, method="ridge", **QUICK)


def test_memory_follows_the_bytes_of_ids_and_not_the_longest(files, numbered):  # noqa: F811
    texts = [f"{i}" if i != 7 else "A" * 5_000_000 for i in range(N)]
    pair = numbered(texts, texts)  # as arrays of one width they would take 4 GB each
    tracemalloc.start()
    read_pairs(*pair, require_all=True)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50_000_000
    with pytest.raises(ValueError, match="new lacks A{80} of old$"):
        read_pairs(*numbered(texts, [*texts[:7], "another", *texts[8:]]), require_all=True)


def test_the_npz_of_embeddings_has_the_same_ids(tmp_path):
    from gallerykit.embeddings import Embeddings

    torch = pytest.importorskip("torch")
    for values in (NUMBERS.astype(">i2"), [f"é{i}" for i in range(N)]):
        Embeddings(torch.ones(N, 2), values, "s").save(tmp_path / "x.npz")
        source = stores.open_source(tmp_path / "x.npz")
        found = ids.unique("old", ids.ids_of("old", source, store.Names()))
        source.close()
        assert found.tolist() == list(values) and found.dtype in (ids.INTEGER, ids.TEXT)
