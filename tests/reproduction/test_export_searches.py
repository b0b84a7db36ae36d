"""Searches as a file for the pages: what each query finds is what the embeddings say, and the pictures are theirs."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from reproduction import book
from reproduction.__main__ import main
from reproduction.experiments.evidence import index_of
from reproduction.runs.context import Context
from reproduction.runs.export import scripts, searches
from reproduction.runs.update import prepare
from reproduction.show import programs

RUN = replace(searches.run_of("smoke"), n_train=400, n_test=400)


@pytest.fixture(scope="module")
def update():
    return prepare(RUN, Context())


@pytest.fixture(scope="module")
def cases(update):
    """Random embeddings; of the new model on its own gallery, those of one class beside each other."""
    generator = torch.Generator().manual_seed(0)
    n = len(update.gallery)
    old, new = (torch.randn(n, 8, generator=generator) for _ in range(2))
    centres = torch.randn(100, 8, generator=generator)[update.gallery.labels]
    return {
        "old/old": (old, old),
        "new/identity(old)": (new, old),
        "new/h": (new, old.flip(1)),
        "new/new": (centres + 0.01 * new,) * 2,
    }


@pytest.fixture(scope="module")
def content(cases, update):
    return searches.searches(cases, update, {"CMC top-1: new/h": 0.5})


def test_each_query_finds_its_nearest_images_but_not_itself(cases, update, content):
    labels = update.gallery.labels
    for place, query in enumerate(content["queries"]):
        item = next(i for i in range(len(labels)) if labels[i] == place * 100 // 24)
        assert content["tiles"][query["tile"]] == labels[item] and query["known"] == (labels[item] < 50)
        for name, (asked, searched) in cases.items():
            distances = (searched - asked[item]).norm(dim=1)
            distances[item] = torch.inf
            nearest = distances.argsort()[:5]
            assert [content["tiles"][tile] for tile in query["found"][name]] == labels[nearest].tolist()


def test_pictures_are_those_of_the_images(update, content):
    picture = Image.open(io.BytesIO(base64.b64decode(content["sprite"].removeprefix("data:image/webp;base64,"))))
    pixels, labels = np.asarray(picture.convert("RGB"), dtype=float), update.gallery.labels
    assert pixels.shape[1] == 20 * 16 and pixels.shape[0] * pixels.shape[1] >= 256 * len(content["tiles"])
    for place, query in enumerate(content["queries"]):
        row, column = divmod(query["tile"], 20)
        shown = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        item = int((labels == place * 100 // 24).nonzero()[0])
        image = update.gallery.images[item].permute(1, 2, 0).numpy().astype(float)
        assert np.abs(shown - image).mean() < 12


def test_accuracy_is_of_all_images_as_queries(cases, update, content):
    labels = update.gallery.labels
    for case in content["cases"]:
        asked, searched = cases[case["name"]]
        distances = torch.cdist(asked, searched).fill_diagonal_(torch.inf)
        assert case["accuracy"] == pytest.approx(
            (labels[distances.argmin(1)] == labels).double().mean().item(), abs=0.005
        )
        assert case["recorded"] == (0.5 if case["name"] == "new/h" else None)
    assert content["cases"][-1]["accuracy"] > 0.9


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path / "results"))
    assert main(["export", "searches", "--preset", "smoke", "--output", str(tmp_path)]) == 0
    content = scripts.read(tmp_path / "shapes.js", "compatkitSearches", "data")
    assert [case["name"] for case in content["cases"]] == list(searches.CASES)
    out = capsys.readouterr().out.splitlines()
    assert f": {tmp_path / 'shapes.js'}, " in out[0] and len(out) == 5
    assert out[3].startswith("    new/h: ") and out[3].endswith(" %, on record none")


def test_classes_have_names_that_a_reader_says(content):
    names = content["classes"]
    assert (names[0], names[50], names[64], names[-2]) == (
        "red triangle",
        "cyan triangle",
        "blue four-pointed star",
        "pink five-petalled flower",
    )
    assert len(set(names)) == 100
    assert scripts.read(programs.EXPORTED / "shapes.js", "compatkitSearches", "data")["classes"] == names


def test_the_searches_of_the_pages_are_those_of_the_record():
    path = programs.EXPORTED / "shapes.js"
    assert path.stat().st_size <= 300_000
    content, run = scripts.read(path, "compatkitSearches", "data"), searches.run_of("laptop")
    metrics = index_of("laptop", book.ROOT / "results").record(run)["metrics"]
    for case in content["cases"]:
        assert case["recorded"] == metrics[f"CMC top-1: {case['name']}"]
        assert abs(case["accuracy"] - case["recorded"]) < 0.05
    assert [query["known"] for query in content["queries"]].count(True) == 12
