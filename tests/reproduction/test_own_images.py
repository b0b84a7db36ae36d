"""Images of a reader's own, as the README says to set them: what runs, and what is said of what cannot."""

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from compatkit.recipes import Recipe
from reproduction.__main__ import main
from reproduction.experiments import EXPERIMENTS, plan
from reproduction.experiments.settings import AdaptationRun, PairRun
from reproduction.images import load
from reproduction.runs import runner
from reproduction.runs.context import Context
from reproduction.runs.golden import covering
from reproduction.runs.kinds import kind_of

from .recorded import stored

OF_TWO_SETS = [name for name in EXPERIMENTS if isinstance(plan(name, "smoke")[0][1], PairRun | AdaptationRun)]
COMMAND = ["run", "fig2", "--preset", "smoke", "--rows", "DCC", "--set", "b=mine", "--set", "left_out=()"]
CLASSES = tuple("2457013689")  # those of the digits, and four of the glyphs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path / "results"))
    return tmp_path


def write(folder, shape, classes=CLASSES, n=60, **changes):
    """mine.npz of noise, written as the README says."""
    r, labels = np.random.default_rng(0), np.arange(n) % len(classes)
    images = [r.integers(0, 256, (n, *shape), dtype=np.uint8) for _ in range(2)]
    arrays = {"x_train": images[0], "y_train": labels, "x_test": images[1], "y_test": labels}
    np.savez(folder / "mine.npz", **arrays | {"class_names": np.array(classes)} | changes)


def tiny(config):
    """The same run of small networks with few steps on few images."""
    recipes = {f.name: getattr(config, f.name) for f in fields(config) if isinstance(getattr(config, f.name), Recipe)}
    short = {name: replace(recipe, steps=2, batch_size=16) for name, recipe in recipes.items()}
    few = {"stitches": (10, 30)} if getattr(config, "stitches", ()) else {}
    return replace(config, width=5, n_train=60, n_test=60, **short | few)


@pytest.mark.parametrize(
    ("place", "other", "shape"), [("a", "glyphs_plain", (1, 16, 16)), ("b", "digits", (3, 20, 20))]
)
def test_grey_images_beside_colour_in_every_experiment_of_two_sets(folder, place, other, shape):
    write(folder, shape, load(other).classes)
    sets = {"a": other, "b": other, "left_out": ()} | {place: "mine"}
    planned = [c for name in OF_TWO_SETS for preset in ("smoke", "laptop") for _, c in plan(name, preset, [0], sets)]
    runs = list(dict.fromkeys(map(tiny, planned)))
    kinds = ([config for config in runs if isinstance(config, kind)] for kind in (PairRun, AdaptationRun))
    for config in [config for several in kinds for config in covering(several)]:
        runner.check([config])
        assert json.dumps(kind_of(config).run(config, Context()), allow_nan=False), config


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16)], ids=["grey", "colour"])
def test_the_command_of_the_readme_runs(folder, shape, capsys):
    write(folder, shape)
    assert main(COMMAND) == 0
    assert [set(r["data"]) for r in stored("fig2")] == [{"digits", "mine"}, {"glyphs_plain", "mine"}]
    assert main(COMMAND) == 0
    assert len((folder / "results/smoke/fig2.jsonl").read_text().splitlines()) == 2, "finished runs are not made again"


WIDE, SMALL, NONE = (3, 16, 24), (1, 4, 4), np.zeros(60, int)
REFUSED = [
    ("fig2", "b=mine", WIDE, {}, r"images: turns .* need square images .*16, 24"),
    ("fig2_pretrained", "pretrained_on=mine", WIDE, {}, "need square images"),
    ("adaptation", "b=mine", WIDE, {}, "need square images"),
    ("adaptation", "third=mine", WIDE, {}, "need square images"),
    ("classifier", "data=mine", WIDE, {}, "need square images"),
    ("transfer", "target=mine", WIDE, {}, "need square images"),
    ("adaptation", "b=mine", (1, 15, 15), {}, "quarters need an even side, got 15"),
    ("fig5", "b=mine", SMALL, {}, "more than 1 spatial element"),
    ("table6", "data=mine", (1, 18, 18), {}, "size: must be a multiple of 4, got 18"),
    ("table6", "data=mine", WIDE, {}, "square images, those of mine are 16 x 24"),
    ("fig2", "b=mine", (4, 16, 16), {}, "glyphs_plain 3, mine 4"),
    ("fig2", "b=mine", SMALL, {"classes": tuple("abcdefghij")}, "at least 2 common classes"),
    ("fig2", "b=mine", SMALL, {"classes": CLASSES[:5]}, "IIW needs as many .* 5 of mine"),
    ("fig2", "b=mine", SMALL, {"y_train": NONE}, "n_train: each class .* none of 4"),
    ("fig2", "b=mine", SMALL, {"y_test": NONE}, "n_test: .*mine has none of 4, 5"),
    ("fig2", "left_out=('x',)", SMALL, {}, r"leave_out: \['x'\]"),
    ("stitching", "b=mine", SMALL, {"n": 20}, "stitches: mine has 20 training images, got 30"),
    ("fig2", "b=mine", SMALL, {"class_names": np.array(CLASSES, "S")}, "class_names must be .* text"),
    ("fig2", "b=mine", SMALL, {"y_train": np.zeros(60)}, "y_train must be 60 integers, got float64"),
    ("fig2", "b=mine", SMALL, {"x_train": np.zeros((60, 1, 4, 4))}, "x_train must be uint8"),
]


@pytest.mark.parametrize(("experiment", "setting", "shape", "changes", "message"), REFUSED)
def test_what_cannot_be_run_is_refused_before_the_first_run(
    folder, capsys, trained, experiment, setting, shape, changes, message
):
    write(folder, shape, **changes)
    of_pairs = [] if experiment in ("classifier", "transfer", "table6") else ["--set", "left_out=()"]
    of_versions = ["--set", "classes=(5,10)"] if experiment == "table6" else []
    assert main(["run", experiment, "--preset", "smoke", *of_pairs, *of_versions, "--set", setting]) == 2
    said = capsys.readouterr().err
    assert not trained and len(said.splitlines()) == 1
    assert re.search(message, said), said
