"""Runs of paper B: who learns what, which models are one and the same, and what a run returns."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from compatkit import fct
from compatkit.images import Split
from reproduction.experiments.settings import ATTRIBUTES
from reproduction.images import load
from reproduction.runs import update
from reproduction.runs.context import Context
from reproduction.runs.encoders import ArcFace, Softmax

from ..conftest import each_step, part
from ..samples import same, state
from .world import UPDATE, VERSIONS

pytestmark = pytest.mark.usefixtures("small_sets")


def prepared(**changes) -> update.Update:
    return update.prepare(VERSIONS.config(**changes), Context())


def trainer(folder=None, **changes) -> update.Trainer:
    config, here = VERSIONS.config(**changes), Context(checkpoints=folder, shared=folder)
    return update.Trainer(config, update.prepare(config, here), here)


@pytest.fixture
def tasks(monkeypatch):
    """What would be trained, (label, task, weights at the start, recipe); nothing is."""
    found = []

    def train_once(context, tasks, recipe, label):
        [task] = tasks
        found.append((label.rpartition(": ")[2], task, [state(m) for m in task.modules()], recipe))

    monkeypatch.setattr(Context, "train_once", train_once)
    return found


@pytest.fixture
def steps(monkeypatch):
    """The first term of each step of any training."""
    return each_step(monkeypatch, lambda tasks, recipe: tasks[0].terms[0].name)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_order": "random"}, "class_order: must be one of .*stored.*random"),
        ({"old_task": "size"}, "old_task: .*colour.*size"),
        ({"method": "bct"}, "method: .*BCT.*bct"),
        ({"side": "simclr"}, "side: .*SimCLR.*simclr"),
        ({"loss": "triplet"}, "loss: .*arcface.*triplet"),
        ({"classes": (4,)}, r"classes: two versions.*\(4,\)"),
        ({"classes": (1, 4)}, r"classes: .*two classes.*\(1, 4\)"),
        ({"method": "BCT", "classes": (2, 4, 8)}, r"classes: BCT.*two versions.*\(2, 4, 8\)"),
        ({"method": "BCT, synthesised", "classes": (2, 4, 8)}, "classes: BCT"),
        ({"held_out": -1}, "held_out: must be at least 0, got -1"),
        ({"disjoint": True, "classes": (6, 7)}, r"disjoint: .*two classes.*\(6, 7\)"),
        ({"disjoint": True, "classes": (6, 12, 4)}, r"disjoint: .*\(6, 12, 4\)"),
        ({"side": "colour", "disjoint": True}, "side: colour"),
        ({"side": "colour", "held_out": 2}, "side: colour"),
        ({"side": "colour", "evaluated_on": "x"}, "side: colour"),
        ({"classes": (4, 17)}, r"classes, held_out: tiny has 16 classes, got \(4, 17\) and 0"),
        ({"classes": (12, 4), "held_out": 5}, r"16 classes, got \(12, 4\) and 5"),
        ({"data": "other", "classes": (2, 4), "old_task": "shape"}, "old_task, side: shape .*coloured shapes"),
        ({"data": "other", "classes": (2, 4), "side": "colour"}, "old_task, side: colour .*coloured shapes"),
        ({"pairs": 5}, "pairs: must be at least 12, one for each class of .*, got 5"),
        ({"pairs": 73}, "pairs: tiny has 72 training images, got 73"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(tasks, change, message):
    with pytest.raises(ValueError, match=message):
        update.check(VERSIONS.config(**change), Context(rehearsal=True))
    assert not tasks


# --- data -------------------------------------------------------------------------------------------------------------


def hundred(**changes) -> update.Update:
    return prepared(**{"data": "hundred", "classes": (50, 100)} | changes)


def numbers(names):
    return [int(name.split()[1]) for name in names]


def agree(split, numbers):
    """Whether the labels of ``hundred`` mean classes of these numbers."""
    return [numbers[y] for y in split.labels] == split.images[:, 0, 0, 0].tolist()


AS_TEXT = sorted(range(100), key=str)


@pytest.mark.parametrize(
    ("changes", "learnt", "searched", "known"),
    [
        ({"classes": (20, 50, 60)}, [range(20), range(50), range(60)], range(60), 20),
        ({"classes": (30, 30)}, [range(30)] * 2, range(30), None),
        ({"class_order": "text"}, [AS_TEXT[:50], AS_TEXT], AS_TEXT, 50),
        ({"classes": (10, 30, 45), "disjoint": True}, [range(10), range(30), range(30, 45)], range(45), 10),
        (
            {"classes": (10, 80), "held_out": 20, "class_order": "text"},
            [AS_TEXT[:10], AS_TEXT[:80]],
            AS_TEXT[80:],
            None,
        ),
    ],
    ids=["first classes", "all known", "the authors' order", "disjoint", "held out"],
)
def test_which_classes_versions_learn_and_which_are_searched(changes, learnt, searched, known):
    found = hundred(**changes)
    assert [numbers(s.classes) for s in found.sets] == list(map(list, learnt))
    assert all(
        agree(s.train, order) and len(s.train) == 2 * len(order) for s, order in zip(found.sets, learnt, strict=True)
    )
    assert agree(found.gallery, searched) and len(found.gallery) == 2 * len(searched)
    assert (found.known is None) == (known is None)
    assert known is None or torch.equal(found.known, found.gallery.labels < known)


def test_a_shuffled_order_is_one_order_of_all_classes():
    (first, last), again = ([numbers(s.classes) for s in hundred(class_order="shuffled", seed=s).sets] for s in (0, 7))
    assert first == last[:50] and sorted(last) == list(range(100)) and last != sorted(last) and again == [first, last]


def test_another_set_may_be_the_gallery_and_images_may_be_fewer():
    found = hundred(evaluated_on="other", n_train=150, n_test=20)
    expected = load("other").with_channels(1).limit(test=20).test
    assert torch.equal(found.gallery.images, expected.images) and torch.equal(found.gallery.labels, expected.labels)
    assert found.known is None and len(found.sets[0].classes) == 50 and len(found.sets[-1].train) == 150
    assert hundred(n_test=100).gallery.labels.bincount().tolist() == [1] * 100


def test_images_of_a_folder_are_scaled(tmp_path, tasks):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(tmp_path / split / name / "a.png")
    name = f"imagefolder:{tmp_path}"
    for image_size, expected in ((12, 12), (None, 32)):
        for evaluated_on in ("", name):
            folder = {"data": name, "side_data": name, "evaluated_on": evaluated_on}
            made = trainer(classes=(2, 2), image_size=image_size, **folder)
            made.store(0, made.update.gallery)
            for shown in (made.update.gallery.images, tasks[-1][1].data.train.images):
                assert shown.shape == (2, 3, expected, expected)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_old_task_may_be_an_attribute(attribute):
    whole, found = load("tiny"), prepared(classes=(16, 16), old_task=attribute)
    old, place = found.sets[0], {"colour": 0, "shape": 1}[attribute]
    assert len(old.classes) == 4 and set(old.classes) == {name.split()[place] for name in whole.classes}
    for split, before in ((old.train, whole.train), (old.test, whole.test)):
        assert torch.equal(split.images, before.images)
        named = [old.classes[y] for y in split.labels]
        assert named == [whole.classes[y].split()[place] for y in before.labels]
    assert found.sets[1].classes == whole.classes and found.known is None


# --- which models -----------------------------------------------------------------------------------------------------


def test_versions_that_learn_as_many_classes_are_one_model(tasks):
    same_size = {"new_dim": 4, "old_dim": 4}
    runs = [
        trainer(classes=(4, 8), **same_size).version(1),
        trainer(classes=(8, 12), side="none", **same_size).version(0),
        trainer(classes=(4, 8, 12), h_width=3, **same_size).version(1),
    ]
    (_, first, weights, _), *others = tasks
    assert len(runs) == 3 and all(isinstance(classifier, torch.nn.Linear) for _, classifier in runs)
    for _, task, w, _ in others:
        assert (task.digest, task.seed) == (first.digest, first.seed)
        assert all(same(a, b) for a, b in zip(w, weights, strict=True))
    trainer(classes=(8, 12), seed=1, **same_size).version(0)
    trainer(classes=(8, 12), seed=0, **same_size).version(1)
    for _, task, w, _ in tasks[3:]:
        assert task.seed != first.seed and not same(w[0], weights[0])


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"classes": (4, 8, 12)}, [24, 48, 72]),
        ({"classes": (4, 8, 16)}, [24, 48, 96]),
        ({"classes": (4, 12), "held_out": 4}, [24, 72]),
        ({"classes": (4, 12), "disjoint": True}, [24, 48]),
        ({"classes": (4, 12), "n_train": 48}, [12, 36]),
    ],
)
def test_all_that_is_trained_takes_as_many_epochs_of_its_own_images(tasks, changes, images):
    whole = changes.get("n_train", 96)
    made = trainer(**changes, recipe=replace(UPDATE, steps=whole))  # a step for each image, so that none is rounded
    for version in range(len(images)):
        made.version(version)
    assert [len(task.data.train) for _, task, *_ in tasks] == images
    assert [recipe for *_, recipe in tasks] == [replace(UPDATE, steps=n) for n in images]


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_bct_starts_from_the_weights_of_the_independent_model(tasks, loss):
    made = trainer(method="BCT", loss=loss, scale=16.0, margin=0.2)
    made.version(0), made.version(1), made.embed_compatibly(made.update.gallery)
    (_, old, *_), (label, independent, weights, _), (bct_label, compatible, bct_weights, _) = tasks
    assert (label, bct_label) == ("version 2", "compatible new version")
    assert all(same(a, b) for a, b in zip(weights, bct_weights, strict=True))
    assert compatible.seed == independent.seed and compatible.data is independent.data
    influence = compatible.terms[1]
    assert torch.equal(influence.old, old.terms[0].classifier.weight) and not influence.old.requires_grad
    assert influence.index.tolist() == [0, 1, 2, 3, *[-1] * 8] and len(independent.terms) == 1
    terms = [old.terms[0], independent.terms[0], compatible.terms[0], influence.like]
    assert {type(term) for term in terms} == {Softmax if loss == "softmax" else ArcFace}
    assert loss == "softmax" or {(term.scale, term.margin) for term in terms} == {(16.0, 0.2)}


def test_bct_may_know_all_classes_by_their_mean_old_embeddings(tasks):
    made = trainer(method="BCT, synthesised")
    made.embed_compatibly(made.update.gallery)
    weight, index = (part(tasks[-1][1], "compatible", what) for what in ("old", "index"))
    old, fitted = part(tasks[0][1], "target", "classifier").weight, made.update.sets[1].train
    assert index.tolist() == list(range(12))
    for label in (2, 7):
        mean = made.embed(0, fitted)[fitted.labels == label].mean(0)
        assert torch.allclose(weight[label], mean / mean.norm() * old.norm(dim=1).mean(), atol=1e-5)


def test_bct_finds_known_classes_by_name_in_any_order(tasks):
    made = trainer(method="BCT")
    names = made.update.sets[1].classes
    made.update.sets[1] = made.update.sets[1].subset(names[::-1])
    made.embed_compatibly(made.update.gallery)
    assert part(tasks[-1][1], "compatible", "index").tolist() == [-1] * 8 + [3, 2, 1, 0]


SIDE_TASKS = {
    "autoencoder": "Reconstruction",
    "other old model": "Softmax",
    "old model with Mixup": "Mixup",
    "SimCLR": "Contrastive",
    "SimCLR on the new set": "Contrastive",
}


@pytest.mark.parametrize("side", SIDE_TASKS)
def test_side_information_is_of_a_model_of_its_own(tasks, side):
    made = trainer(side=side, side_recipe=replace(UPDATE, lr=0.02))
    made.version(0)
    found = made.store(0, made.update.gallery)
    (_, old, weights, _), (label, task, side_weights, recipe) = tasks
    assert found.shape == (len(made.update.gallery), 5) and label == f"{side}, version 1"
    assert [type(term).__name__ for term in task.terms] == [SIDE_TASKS[side]]
    assert task.seed != old.seed and not same(weights[0], side_weights[0])
    assert task.data is made.update.sets["new set" in side]
    assert recipe.lr == (0.01 if "old model" in side else 0.02)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_true_attribute_is_stored_as_one_of_its_values(tasks, attribute):
    made = trainer(side=attribute, classes=(8, 16))
    found, gallery = made.store(0, made.update.gallery), made.update.gallery
    assert found.shape == (64, 4) and found.dtype == torch.float32 and found.sum(1).tolist() == [1.0] * 64
    words = [load("tiny").classes[y].split()[attribute == "shape"] for y in gallery.labels]
    pairs = set(zip(words, found.argmax(1).tolist(), strict=True))
    assert len(pairs) == 4 and not tasks


# --- measures ---------------------------------------------------------------------------------------------------------


def test_measures_by_hand():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    gallery = Split(torch.zeros(6, 1, 1, 1, dtype=torch.uint8), labels)
    before = torch.tensor([0.0, 0.1, 1.0, 1.1, 2.0, 5.0])[:, None]
    after = torch.tensor([0.0, 0.1, 1.0, 3.0, 3.1, 0.25])[:, None]
    found = update.measure({"a/a": (before, before), "b/b": (after, after)}, update.Update([], 0, gallery, labels == 0))
    names = [f"{m}: a/a" for m in ("CMC top-1", "CMC top-1 of old classes", "CMC top-1 of new classes", "CMC top-5")]
    # neighbours of a/a: 1, 0, 3, 2, 3, 4
    assert [found[n] for n in names] == pytest.approx([5 / 6, 1, 3 / 4, 1]) and found["negative flips: a/a"] == 0
    # of b/b: 1, 0 (for 0.1: 0.1 away, 0.15 from the sixth), 5, 4, 3, 1
    names = [n.replace("a/a", "b/b") for n in names]
    assert [found[n] for n in names] == pytest.approx([2 / 6, 1, 0, 1])
    assert found["negative flips: b/b"] == pytest.approx(3 / 6), "the third, the fourth and the sixth"
    # ranks of the one relevant item: 1, 1, 4 (behind 0.25, 0.1 and 0), 2, 3, 5
    assert found["mAP@1.0: b/b"] == pytest.approx((1 + 1 + 1 / 4 + 1 / 2 + 1 / 3 + 1 / 5) / 6, rel=1e-5)
    assert found["mAP@1.0 of old classes: b/b"] == pytest.approx(1)
    assert found["mAP@1.0 of new classes: b/b"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 3 + 1 / 5) / 4, rel=1e-5)


# --- whole runs -------------------------------------------------------------------------------------------------------


BACKWARD = ["old/old", "BCT/old", "BCT/BCT"]
CLOSED = ["new/identity(old)", "new/Procrustes(old)", "new/ridge(old)"]
PLAIN = ["old/old", "new/new", "new/h", "h/h", *CLOSED]
SIDE = [*PLAIN, "side/side", "new/ridge(old, side)", "new/Procrustes(old, side)"]
SEQUENCE = ["v1/v1", *(f"v{i}/{case}" for i in (2, 3) for case in (f"v{i}", "one hop", "hops", "direct"))]
COSTS = {f"{cost}: {of}" for cost in ("seconds per 10 000 items", "MACs") for of in ("images", "h")}
COSTS |= {"parameters: h", "KB: images", "KB: old", "KB: side", "CKA of old and side"}
WHOLE = {
    "BCT": ({"method": "BCT", "side": "none"}, BACKWARD),
    "BCT, synthesised": ({"method": "BCT, synthesised", "side": "none"}, BACKWARD),
    "without side-information": ({"side": "none"}, PLAIN),
    "SimCLR": ({}, SIDE),
    "autoencoder": ({"side": "autoencoder"}, SIDE),
    "colour": ({"side": "colour"}, SIDE),
    "without the old embedding": ({"without_old": True}, SIDE),
    "ArcFace on unseen classes": (
        {"loss": "arcface", "held_out": 4, "side": "other old model"},
        SIDE,
    ),
    "sequence": ({"classes": (4, 8, 12)}, SEQUENCE),
    "sequence without side-information": ({"classes": (4, 8, 12), "side": "none"}, SEQUENCE),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Metrics of each run of ``WHOLE``, made once for all tests; they share the models that they have in common."""
    folder = tmp_path_factory.mktemp("shared")
    return functools.cache(lambda name: VERSIONS.run(folder, **WHOLE[name][0]))


@pytest.mark.parametrize("name", WHOLE)
def test_a_run_returns_retrieval_in_each_case(whole, name):
    (changes, expected), metrics = WHOLE[name], whole(name)
    assert [name.partition(": ")[2] for name in metrics if name.startswith("CMC top-1: ")] == expected
    kinds = ["CMC top-1", "CMC top-5", "mAP@1.0", "negative flips"]
    if "held_out" not in changes:
        kinds += [f"{m} of {which} classes" for m in ("CMC top-1", "mAP@1.0") for which in ("old", "new")]
    extra = set() if expected in (BACKWARD, SEQUENCE) else COSTS
    assert set(metrics) == {f"{kind}: {case}" for kind in kinds for case in expected} | extra
    assert all(type(value) is float for value in metrics.values()) and json.dumps(metrics, allow_nan=False)
    assert all(0 <= metrics[f"{kind}: {case}"] <= 1 for kind in kinds for case in expected)


def test_fct_leaves_the_old_and_the_new_model_as_they_are_without_it(whole):
    plain = whole("without side-information")
    for name in ("SimCLR", "autoencoder", "colour", "without the old embedding"):
        for case in ("old/old", "new/new", *CLOSED):
            assert {k: v for k, v in whole(name).items() if k.endswith(f": {case}")} == {
                k: v for k, v in plain.items() if k.endswith(f": {case}")
            }
        assert whole(name)["mAP@1.0: new/h"] != plain["mAP@1.0: new/h"]
    assert whole("BCT")["mAP@1.0: old/old"] == plain["mAP@1.0: old/old"], "and BCT has the same old model"
    assert whole("BCT")["mAP@1.0: BCT/BCT"] != plain["mAP@1.0: new/new"]
    assert whole("BCT")["mAP@1.0: BCT/BCT"] != whole("BCT, synthesised")["mAP@1.0: BCT/BCT"]


def test_costs(whole):
    metrics = whole("SimCLR")
    stem, stages = 16 * 16 * 3 * 4 * 9, 16 * 16 * 2 * 4 * 4 * 9 + 8 * 8 * (4 * 8 + 8 * 8) * 9
    last = 4 * 4 * (8 * 6 * 9 + 6 * 6 * 9 + 8 * 6)
    assert metrics["MACs: images"] == stem + stages + last
    layers = [4 * 8, 8 * 12, 5 * 10, 10 * 12, 24 * 8, 8 * 8, 8 * 6]
    assert metrics["MACs: h"] == sum(layers)
    assert metrics["parameters: h"] == sum(layers) + 2 * (8 + 12 + 10 + 12 + 8 + 8) + 6
    assert [metrics[f"KB: {k}"] for k in ("images", "old", "side")] == [3 * 256 / 1024, 4 * 4 / 1024, 4 * 5 / 1024]
    assert metrics["CKA of old and side"] > 0 == whole("without side-information")["CKA of old and side"]
    assert metrics["seconds per 10 000 items: images"] > metrics["seconds per 10 000 items: h"] > 0


@pytest.mark.parametrize("side", ["none", "SimCLR"])
def test_the_first_hop_of_a_sequence_is_an_update_of_two_versions(tmp_path, side):
    sequence = VERSIONS.run(tmp_path, classes=(4, 8, 12), held_out=4, side=side, new_dim=4)
    pair = VERSIONS.run(tmp_path, classes=(4, 8), held_out=4, side=side, new_dim=4)
    for kind in ("CMC top-1", "CMC top-5", "mAP@1.0", "negative flips"):
        names = {"v1/v1": "old/old", "v2/v2": "new/new"}
        names |= {f"v2/{case}": "new/h" for case in ("hops", "one hop", "direct")}
        assert {k: sequence[f"{kind}: {k}"] for k in names} == {k: pair[f"{kind}: {v}"] for k, v in names.items()}


def test_the_gallery_is_carried_hop_by_hop(tmp_path):
    made = trainer(classes=(4, 8, 12), folder=tmp_path)
    sets, gallery = made.update.sets, made.update.gallery
    carried, side = made.embed(0, gallery), made.store(0, gallery)
    for i in (1, 2):
        fitted = sets[i].train
        pairs, new = (made.embed(i - 1, fitted), made.store(i - 1, fitted)), made.embed(i, fitted)
        h, g = made.transformation(f"h {i}", *pairs, new), made.transformation(f"g {i}", *pairs, made.store(i, fitted))
        carried, side = fct.transform(h, carried, side), fct.transform(g, carried, side)
    direct = made.transformation("d", made.embed(0, fitted), made.store(0, fitted), new)
    searched = {
        "v3/v3": made.embed(2, gallery),
        "v3/hops": carried,
        "v3/direct": fct.transform(direct, made.embed(0, gallery), made.store(0, gallery)),
        "v3/one hop": fct.transform(h, made.embed(1, gallery), made.store(1, gallery)),
    }
    first = {"v1/v1": (made.embed(0, gallery),) * 2}
    wanted = update.measure(first | {case: (searched["v3/v3"], x) for case, x in searched.items()}, made.update)
    assert wanted.items() <= VERSIONS.run(tmp_path, classes=(4, 8, 12)).items()
    assert len({wanted[f"mAP@1.0: {case}"] for case in searched}) == 4


def test_runs_train_what_no_other_run_has_trained(tmp_path, steps):
    VERSIONS.run(tmp_path, side="none")
    assert steps == ["target"] * (2 + 6) + ["distance"] * 6
    steps.clear()
    VERSIONS.run(tmp_path)
    assert steps == ["contrast"] * 2 + ["distance"] * 6
    steps.clear()
    VERSIONS.run(tmp_path, method="BCT")
    assert steps == ["target"] * 6, "the compatible model"
