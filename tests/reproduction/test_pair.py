"""A run of two networks: what its methods share, which settings change it, from what it starts; Sec. 4 of paper A."""

import functools
import itertools

import pytest
import torch
from torch import nn

from compatkit import normalization, recombination
from compatkit.image_files import write_npz
from reproduction.experiments.gygli import FIG2
from reproduction.experiments.presets import override
from reproduction.experiments.settings import NORMALIZATIONS
from reproduction.images import load
from reproduction.runs import measures, pair
from reproduction.runs.context import Context

from ..conftest import each_step, part
from ..samples import same, small_set, state
from .world import tiny_pair as tiny

GLYPHS = {"a": "glyphs_plain", "b": "glyphs_cluttered", "left_out": ()}
RECIPE = tiny().recipe


def built(method, shared=None, **changes):
    return pair.prepare(tiny(method=method, **changes), Context(shared=shared))


def equal(one, other):
    return same(state(one), state(other))


def same_parameters(one, other):
    return all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def permuted_sets(tmp_path, monkeypatch):
    """Two sets that share three of four classes, in another order and at other places."""
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    write_npz(tmp_path / "one.npz", small_set(n=80, classes=("ant", "bee", "cat", "dog"), size=16, seed=1))
    write_npz(tmp_path / "two.npz", small_set(n=40, classes=("dog", "eel", "ant", "cat"), size=16, seed=2))
    return {"a": "one", "b": "two", "left_out": (), "n_train": None, "n_test": None}


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FIG2)
def test_methods_share_what_their_names_say_and_otherwise_start_alike(method):
    p, plain = built(method), built("independent")
    a, b = p.tasks
    assert same_parameters(a.extractor, b.extractor) == ("IIW" in method)
    assert (part(a, "dcc") is not None and part(a, "dcc") is part(b, "dcc")) == ("DCC" in method)
    heads = [part(task, "rp") for task in p.tasks]
    assert (heads[0] is not None) == ("RP" in method or method == "upper bound")
    assert (heads[0] is heads[1]) == (method != "upper bound")
    assert part(a, "target") is not part(b, "target") and a.extractor is not b.extractor
    assert equal(part(a, "target"), part(plain.tasks[0], "target"))
    assert torch.equal(*(task.minibatches(RECIPE)(2).images for task in (a, plain.tasks[0])))


def test_networks_of_any_seeds_and_their_heads_and_batches_are_their_own():
    configs = [tiny(method="upper bound", a="digits", b="digits", seed=seed) for seed in range(3)]
    tasks = [task for config in configs for task in pair.prepare(config, Context()).tasks]
    drawn = [next(task.extractor.parameters()) for task in tasks], [next(part(t, "rp").parameters()) for t in tasks]
    for values in (*drawn, [task.minibatches(RECIPE)(0).images for task in tasks]):
        assert not any(torch.equal(x, y) for x, y in itertools.combinations(values, 2))


@pytest.mark.parametrize(
    ("dcc_classes", "one", "two"), [(None, [0, -1, 1, 2], [2, -1, 0, 1]), (2, [0, -1, 1, -1], [-1, -1, 0, 1])]
)
def test_dcc_learns_the_first_common_classes_by_name(permuted_sets, dcc_classes, one, two):
    p = built("IIW+RP+DCC", **permuted_sets, dcc_classes=dcc_classes)
    assert p.common == ("ant", "cat", "dog"), "on which networks are recombined, however few DCC learns"
    assert [part(task, "dcc", "index").tolist() for task in p.tasks] == [one, two]
    assert [task.data.name for task in p.tasks] == ["one", "two"]
    assert part(p.tasks[0], "dcc")[-1].out_features == max(one) + 1 and part(p.tasks[0], "rp")[-1].out_features == 4
    left_out = built("DCC")
    assert left_out.common == tuple("012345678")
    assert part(left_out.tasks[0], "dcc", "index").tolist() == [*range(9), -1]


def test_what_others_would_do(permuted_sets):
    p = built("alignment")
    assert [part(task, "alignment", "partner") for task in p.tasks] == p.extractors[::-1] and p.shared == p.extractors

    p = built("simplex", **permuted_sets)
    a, b = (part(task, "dcc") for task in p.tasks)
    assert a is b and not list(a.parameters()) and a.corners.shape == (3, 8)
    assert [part(task, "dcc", "index").tolist() for task in p.tasks] == [[0, -1, 1, 2], [2, -1, 0, 1]]

    p = built("relative", **permuted_sets)
    images = [s.subset(p.common).limit(4).train.images for s in p.sets]
    for task, image_set in zip(p.tasks, p.sets, strict=True):
        assert torch.equal(task.extractor.relative.anchors, image_set.normalise(torch.cat(images)))
        assert [term.name for term in task.terms] == ["target"] and not p.shared
    options = {"head_classes": [s.classes for s in p.sets], "common": p.common}
    matrix = recombination.accuracy_matrix(p.extractors, p.heads, p.sets[0], **options)
    found = measures.measure(pair.probed(p, tiny()), ["boundaries"])
    assert found["recombination/a"] == pytest.approx(matrix[0, 1].item())


@pytest.mark.parametrize("method", ["IIW+RP+DCC", "upper bound"])
def test_incremental_training_freezes_the_shared_heads_after_the_first_network(method):
    config, moved = tiny(method=method, scheme="incremental"), []
    p = pair.prepare(config, Context())

    class Watched(Context):
        def train(self, tasks, *arguments):
            heads = [head for name in ("dcc", "rp") if (head := part(tasks[0], name)) is not None]
            before = list(map(state, heads))
            history = super().train(tasks, *arguments)
            moved.append({not same(was, state(head)) for was, head in zip(before, heads, strict=True)})
            return history

    history = pair.train_pair(p, config, Watched())
    assert moved == [{True}, {method == "upper bound"}], "a head of one's own is not frozen"
    assert {row["task"] for row in history} == {0, 1}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalisations_are_what_they_are_called(kind):
    p, plain = built("RP+DCC", normalization=kind), built("RP+DCC")
    layers = {"layer": nn.GroupNorm, "instance": nn.InstanceNorm2d}
    for task, before in zip(p.tasks, plain.tasks, strict=True):
        assert len(task.modules()) == 4
        for module, other in zip(task.modules(), before.modules(), strict=True):
            kinds = {type(inner) for inner in module.modules()} & {nn.BatchNorm2d, *layers.values()}
            assert kinds == {layers.get(kind, nn.BatchNorm2d)} and same_parameters(module, other)
            fixed = [inner for inner in module.modules() if isinstance(inner, normalization.UnitLength)]
            assert fixed == ([module[-1]] if kind == "unit length" and module is task.extractor else [])
        assert ("length" in [term.name for term in task.terms]) is (kind == "unit-length loss")


# --- settings ---------------------------------------------------------------------------------------------------------

CHANGES = {  # others have values of their own in golden runs
    "left_out": ("8",),
    "network": "resnet14",
    "width": 5,
    "split_at": "stage1",
    "n_train": 70,
    "n_test": 50,
    "test_batch_size": 7,
    "seed": 1,
    "recipe.lr": 0.02,
}


@functools.cache
def outcome(config):
    """The weights that a run ends with, and the sizes of the batches that it measures."""
    p = pair.prepare(config, Context())
    pair.train_pair(p, config, Context())
    weights = torch.cat([t.detach().flatten() for task in p.tasks for m in task.modules() for t in m.parameters()])
    sizes = []
    p.extractors[0].register_forward_hook(lambda m, x, y: sizes.append(tuple(y.shape)))
    measures.measure(pair.probed(p, config))
    return weights, sizes


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_the_run(name):
    config = tiny(method="RP+DCC")
    (weights, sizes), (other_weights, other_sizes) = outcome(config), outcome(override(config, {name: CHANGES[name]}))
    assert sizes != other_sizes or not torch.equal(weights, other_weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dcc_classes": 10}, "dcc_classes: digits and mnist5k share 9, got 10"),
        ({"dcc_classes": 10, "method": "independent"}, "dcc_classes: digits and mnist5k share 9, got 10"),
        ({"weights": (("RP", 3.0),)}, "weights: DCC has no part RP"),
        ({"weights": (("DCC", 0.0),)}, "weights: pairs of a part and a positive number"),
        ({"method": "alignment", "scheme": "incremental"}, "scheme: alignment is of two networks that learn at once"),
        ({"pretrained_on": "nowhere"}, "no image set 'nowhere'"),
    ],
)
def test_what_cannot_be_prepared_is_answered(changes, message):
    with pytest.raises(ValueError, match=message):
        built(**{"method": "DCC"} | changes)


@pytest.mark.parametrize(
    ("wanted", "classes", "expected"),
    [("abcd", "dxab", "abxd"), ("abcd", "abcd", "abcd"), ("abc", "xbya", "abxy"), ("abcde", "xb", "xb")],
)
def test_a_class_that_two_sets_have_gets_one_number_or_none_does(wanted, classes, expected):
    assert "".join(pair.numbered_as(tuple(wanted), tuple(classes))) == expected
    shifted = pair.numbered_as(tuple(wanted), tuple(classes), shift=1)
    assert sorted(shifted) == sorted(classes) and not any(map(str.__eq__, wanted, shifted))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_many_images_are_turned_and_upright_is_one_of_four(share):
    image_set = load("glyphs_plain")
    found = pair.turned(image_set, share, seed=3)
    for before, after in ((image_set.train, found.train), (image_set.test, found.test)):
        turns = torch.stack([(before.images.rot90(k, (2, 3)) == after.images).flatten(1).all(1) for k in range(4)])
        assert turns.any(0).all() and torch.equal(before.labels, after.labels)
        assert turns[0].double().mean().item() == pytest.approx(1 - 0.75 * share, abs=0.05)
    assert not share or not torch.equal(found.train.images, pair.turned(image_set, share, seed=4).train.images)


# --- pre-training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sets", [{}, GLYPHS], ids=["one channel", "three channels"])
@pytest.mark.parametrize("method", ["IIW", "RP+DCC", "upper bound"])
def test_networks_start_from_what_rotations_of_the_third_set_have_taught_them(monkeypatch, method, sets):
    taught, train_once = [], Context.train_once

    def watched(context, tasks, recipe, label):
        [task] = tasks
        drawn = state(task.extractor)
        history = train_once(context, tasks, recipe, label)
        taught.append((drawn, task, recipe))
        return history

    monkeypatch.setattr(Context, "train_once", watched)
    plain, p = built(method, **sets), built(method, pretrained_on="glyphs_other", **sets)
    identical = "IIW" in method
    assert len(taught) == (1 if identical else 2)
    a, b = p.tasks
    assert equal(a.extractor, b.extractor) == equal(part(a, "target"), part(b, "target")) == identical, "buffers too"
    images = load("glyphs_other").limit(60).train.images
    if not sets:
        images = images.float().mean(1, keepdim=True).round().byte()
    for i, (task, drawn) in enumerate(zip(p.tasks, plain.tasks, strict=True)):
        start, lesson, recipe = taught[0 if identical else i]
        assert recipe == RECIPE and [term.name for term in lesson.terms] == ["rp"], "rotation alone"
        assert torch.equal(lesson.data.train.images, images)
        assert same(start, state(drawn.extractor)), "from the weights of the seed"
        assert equal(task.extractor, lesson.extractor) and equal(part(task, "target")[:-1], part(lesson, "rp")[:-1])
        for name in ("dcc", "rp"):
            assert part(task, name) is None or equal(part(task, name), part(drawn, name)), "as they were drawn"
        assert equal(part(task, "target")[-1], part(drawn, "target")[-1])
        for module, other in ((task.extractor, drawn.extractor), [part(t, "target")[:-1] for t in (task, drawn)]):
            assert not any(torch.equal(x, y) for x, y in zip(module.parameters(), other.parameters(), strict=True))
        assert all(parameter.requires_grad for module in task.modules() for parameter in module.parameters())
        assert torch.equal(*(t.minibatches(RECIPE)(2).images for t in (task, drawn)))


def test_pretrained_weights_are_made_once_for_all_methods_and_for_no_other_settings(tmp_path, monkeypatch):
    steps = each_step(monkeypatch, lambda tasks, recipe: recipe)
    shared = {method: built(method, tmp_path, pretrained_on="glyphs_other") for method in FIG2}
    assert len(steps) == 2 * RECIPE.steps, "one network for those with identical weights, two for the others"
    assert len(list(tmp_path.glob("*.pt"))) == 2
    config = tiny(method="IIW+RP+DCC", pretrained_on="glyphs_other")
    for changes in ({}, {"seed": 1}, {"normalization": "layer"}, {"n_train": 70}, {"recipe.lr": 0.02}, GLYPHS):
        other = override(config, changes)
        alone, found = pair.prepare(other, Context()), pair.prepare(other, Context(shared=tmp_path))
        modules = zip(*([m for task in p.tasks for m in task.modules()] for p in (alone, found)), strict=True)
        assert all(itertools.starmap(equal, modules)), "the weights they have alone"
    assert equal(shared["IIW"].extractors[0], shared["IIW+RP+DCC"].extractors[1])
