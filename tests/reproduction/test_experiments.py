"""Configs, runs and records: nothing is trained twice, what is interrupted goes on, bad settings are answered."""

import copy
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch
from torch import nn

from compatkit import normalization, recombination
from compatkit.image_files import write_npz
from reproduction import experiments
from reproduction.experiments.gygli import FIG2
from reproduction.experiments.presets import override
from reproduction.experiments.settings import NORMALIZATIONS, NUMBERINGS, PairRun
from reproduction.images import load
from reproduction.records import provenance, store
from reproduction.records.pins import Pins, pinned
from reproduction.records.provenance import is_stale
from reproduction.runs import measures, pair, runner
from reproduction.runs.context import Context

from ..conftest import each_step, on_each_step, part
from ..samples import small_set

TINY = {"n_train": 60, "n_test": 60, "recipe.steps": 3, "recipe.batch_size": 20}


def tiny(**changes) -> PairRun:
    _, smoke = experiments.EXPERIMENTS["fig2"]("smoke")[0]
    return override(replace(smoke, **changes), TINY)


def records(tmp_path, name="fig2", **options):
    options = {"settings": TINY, "show_progress": False, "root": tmp_path} | options
    return runner.records(name, "smoke", **options)


def job_of(config, root, name="fig2"):
    return runner.Job(name, "smoke", config, root, "cpu", 1)


def evaluated(p):
    return measures.measure(measures.probes(p.extractors, p.heads, p.sets, p.common))


@pytest.fixture
def steps(monkeypatch):
    """One entry for each step of any training."""
    return each_step(monkeypatch, lambda tasks, recipe: recipe)


# --- one run ----------------------------------------------------------------------------------------------------------


def built(method, **changes):
    return pair.prepare(tiny(method=method, **changes), Context())


def test_methods_are_what_their_names_say():
    for method in FIG2:
        p = built(method)
        a, b = p.tasks
        same = all(torch.equal(x, y) for x, y in zip(a.extractor.parameters(), b.extractor.parameters(), strict=True))
        assert same == ("IIW" in method), method
        assert (part(a, "dcc") is not None and part(a, "dcc") is part(b, "dcc")) == ("DCC" in method), method
        assert (part(a, "rp") is not None and part(a, "rp") is part(b, "rp")) == ("RP" in method), method
        own = part(a, "rp") is not None and part(b, "rp") is not None and part(a, "rp") is not part(b, "rp")
        assert own == (method == "upper bound"), method
        assert part(a, "target") is not part(b, "target") and a.extractor is not b.extractor


def test_what_others_would_do(permuted_sets):
    p = built("alignment")
    assert [part(task, "alignment", "partner") for task in p.tasks] == p.extractors[::-1] and p.shared == p.extractors
    with pytest.raises(ValueError, match="scheme: alignment is of two networks that learn at once, got incremental"):
        built("alignment", scheme="incremental")

    p = built("simplex", **permuted_sets)
    a, b = (part(task, "dcc") for task in p.tasks)
    assert a is b and not list(a.parameters()) and a.corners.shape == (3, 8)
    assert [part(task, "dcc", "index").tolist() for task in p.tasks] == [[0, -1, 1, 2], [2, -1, 0, 1]]

    p = built("relative", **permuted_sets)
    images = [s.subset(p.common).limit(4).train.images for s in p.sets]
    for task, image_set in zip(p.tasks, p.sets, strict=True):
        assert torch.equal(task.extractor.relative.anchors, image_set.normalise(torch.cat(images)))
        assert [term.name for term in task.terms] == ["target"] and not p.shared
    matrix = recombination.accuracy_matrix(
        p.extractors, p.heads, p.sets[0], head_classes=[s.classes for s in p.sets], common=p.common
    )
    assert evaluated(p)["recombination/a"] == pytest.approx(matrix[0, 1].item())


def test_losses_have_weights():
    p = built("IIW+RP+DCC", weights=(("DCC", 3.0), ("RP", 0.3)))
    assert [{term.name: term.weight for term in task.terms} for task in p.tasks] == [
        {"target": 1, "dcc": 3, "rp": 0.3}
    ] * 2
    with pytest.raises(ValueError, match="weights: DCC has no part RP"):
        built("DCC", weights=(("RP", 3.0),))
    with pytest.raises(ValueError, match="weights: pairs of a part and a positive number"):
        tiny(weights=(("DCC", 0.0),))
    assert "weights (('DCC', 3.0),)" in str(tiny(weights=(("DCC", 3.0),)))


def test_methods_of_a_seed_share_weights_and_batches():
    first, config = built("independent").tasks[0], tiny()
    for method in FIG2:
        task = built(method).tasks[0]
        assert same(part(first, "target"), part(task, "target"))
        assert torch.equal(*(t.minibatches(config.recipe)(2).images for t in (first, task)))


def test_left_out_classes_are_not_common():
    assert built("DCC").common == tuple("012345678")
    assert part(built("DCC").tasks[0], "dcc", "index").tolist() == [*range(9), -1]


def test_untrained_identical_networks_recombine_to_themselves():
    p = built("IIW")
    scores = evaluated(p)
    blocks = ("stem", "stage1_block1", "stage2_block1", "stage3_block1", "pool")
    for name in ("a", "b", "mean"):
        assert scores[f"recombination/{name}"] == scores[f"not recombined/{name}"]
        for block in blocks:
            assert scores[f"recombination at {block}/{name}"] == scores[f"not recombined/{name}"]
    assert scores.pop("chance/mean") == 1 / 9
    numbers = {"recombination", "recombination, unmasked", "not recombined", "own task"}
    numbers |= {f"recombination, {statistics} statistics" for statistics in ("running", "recalibrated")}
    numbers |= {f"recombination, test batches of {n}" for n in (8, 32, 128)}
    measures = ("recombination", "cross-correlation", "matched cross-correlation", "CKA", "neighbours")
    numbers |= {f"{measure} at {block}" for measure in measures for block in blocks}
    lists = {"CKA map", "channel correlations", "matched channel correlations"}
    assert {key for key, value in scores.items() if isinstance(value, float)} == {
        f"{name}/{of}" for name in numbers for of in ("a", "b", "mean")
    }
    assert {key for key, value in scores.items() if isinstance(value, list)} == {
        f"{name}/{of}" for name in lists for of in "ab"
    }
    assert all(isinstance(value, float | list) for value in scores.values())


@pytest.fixture
def permuted_sets(tmp_path, monkeypatch):
    """Two sets that share three of four classes, in another order and at other places."""
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    write_npz(tmp_path / "one.npz", small_set(n=80, classes=("ant", "bee", "cat", "dog"), size=16, seed=1))
    write_npz(tmp_path / "two.npz", small_set(n=40, classes=("dog", "eel", "ant", "cat"), size=16, seed=2))
    return {"a": "one", "b": "two", "left_out": (), "n_train": None, "n_test": None}


def test_evaluate_against_a_loop_over_recombined_networks(permuted_sets):
    p = built("independent", **permuted_sets)
    pair.train_pair(p, tiny(**permuted_sets, method="independent"), Context())
    common = ("ant", "cat", "dog")
    assert p.common == common
    scores, swapped = evaluated(p), {}
    for i, role in enumerate("ab"):
        image_set, other = p.sets[i], p.sets[1 - i]
        names = [image_set.classes[label] for label in image_set.test.labels]
        for measure, head, allowed in (
            ("recombination", 1 - i, set(common)),
            ("recombination, unmasked", 1 - i, set(other.classes)),
            ("not recombined", i, set(common)),
            ("own task", i, None),
        ):
            keep = [k for k, name in enumerate(names) if allowed is None or name in common]
            net = recombination.recombine(p.extractors[i], p.heads[head])
            with normalization.evaluation(net, "batch"), torch.no_grad():
                logits = net(image_set.normalise(image_set.test.images[keep]))
            outputs = p.sets[head].classes
            hits = 0
            for row, k in zip(logits.tolist(), keep, strict=True):
                answers = [(v, name) for v, name in zip(row, outputs, strict=True) if not allowed or name in allowed]
                hits += max(answers)[1] == names[k]
            assert scores[f"{measure}/{role}"] == pytest.approx(hits / len(keep), abs=1e-6), (measure, role)
            swapped[measure, role] = hits / len(keep)
    for measure in ("recombination", "own task"):
        assert scores[f"{measure}/mean"] == pytest.approx((swapped[measure, "a"] + swapped[measure, "b"]) / 2)
    assert scores["chance/mean"] == pytest.approx(1 / 3)


def test_networks_of_any_seeds_and_their_heads_and_batches_are_their_own():
    """No two networks of three seeds start alike; nor do the rotation heads of the upper bound, nor the batches of two
    networks that learn one set."""
    configs = [tiny(method="upper bound", a="digits", b="digits", seed=seed) for seed in range(3)]
    pairs = [pair.prepare(config, Context()) for config in configs]
    for parts in (
        [extractor for p in pairs for extractor in p.extractors],
        [part(task, "rp") for p in pairs for task in p.tasks],
    ):
        weights = [next(part.parameters()) for part in parts]
        assert not any(torch.equal(x, y) for x, y in itertools.combinations(weights, 2))
    draws = [task.minibatches(tiny().recipe)(0).images for p in pairs for task in p.tasks]
    assert not any(torch.equal(x, y) for x, y in itertools.combinations(draws, 2))


def test_each_network_learns_its_own_set_and_the_classes_that_are_common(permuted_sets):
    p = built("IIW+RP+DCC", **permuted_sets)
    assert [task.data.name for task in p.tasks] == ["one", "two"]
    assert part(p.tasks[0], "dcc", "index").tolist() == [0, -1, 1, 2]
    assert part(p.tasks[1], "dcc", "index").tolist() == [2, -1, 0, 1]
    assert part(p.tasks[0], "dcc")[-1].out_features == 3 and part(p.tasks[0], "rp")[-1].out_features == 4


def test_both_networks_may_learn_the_same_set():
    scores = pair.run(tiny(b="digits", method="IIW"), Context())
    assert scores["recombination/mean"] == (scores["recombination/a"] + scores["recombination/b"]) / 2


CHANGES = {
    "b": "glyphs_plain",
    "left_out": ("8",),
    "dcc_classes": 5,
    "method": "IIW",
    "scheme": "incremental",
    "network": "resnet14",
    "width": 5,
    "split_at": "stage1",
    "normalization": "unit-length loss",
    "numbering": "shifted",
    "turned": 0.5,
    "stitches": (20,),
    "pretrained_on": "glyphs_other",
    "n_train": 70,
    "n_test": 50,
    "test_batch_size": 7,
    "seed": 1,
    "recipe.steps": 4,
    "recipe.batch_size": 10,
    "recipe.lr": 0.02,
    "recipe.crop": 2,
    "recipe.flip": True,
    "recipe.optimizer": "sgd",
    "recipe.rotations": "all",
    "recipe.schedule": "constant",
}


def outcome(config):
    p = pair.prepare(config, Context())
    pair.train_pair(p, config, Context())
    weights = torch.cat([t.detach().flatten() for task in p.tasks for m in task.modules() for t in m.parameters()])
    sizes = []
    p.extractors[0].register_forward_hook(lambda m, x, y: sizes.append(tuple(y.shape)))
    measures.measure(pair.probed(p, config))
    return weights, sizes


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_the_run(name):
    if name == "b":
        config = tiny(a="glyphs_cluttered", b="glyphs_cluttered", left_out=(), method="RP+DCC")
    else:
        config = tiny(method="RP+DCC")
    weights, sizes = outcome(config)
    other_weights, other_sizes = outcome(override(config, {name: CHANGES[name]}))
    assert sizes != other_sizes or not torch.equal(weights, other_weights)


@pytest.mark.parametrize(
    ("wanted", "classes", "expected"),
    [("abcd", "dxab", "abxd"), ("abcd", "abcd", "abcd"), ("abc", "xbya", "abxy"), ("abcde", "xb", "xb")],
)
def test_a_class_that_two_sets_have_gets_one_number_or_none_does(wanted, classes, expected):
    found = pair.numbered_as(tuple(wanted), tuple(classes))
    assert "".join(found) == expected
    shifted = pair.numbered_as(tuple(wanted), tuple(classes), shift=1)
    assert sorted(shifted) == sorted(classes)
    assert not [1 for one, other in zip(wanted, shifted, strict=False) if one == other]


def test_numbering_changes_labels_and_nothing_else():
    pairs = {"a": "glyphs_plain", "b": "glyphs_cluttered", "left_out": ()}
    stored, same, other = (built("IIW", **pairs, numbering=how) for how in NUMBERINGS)

    def alike(p):
        return {x for x, y in zip(p.sets[0].classes, p.sets[1].classes, strict=True) if x == y}

    assert alike(stored) < alike(same) == set(same.common) and alike(other) == set()
    for p in (same, other):
        assert torch.equal(p.sets[0].train.labels, stored.sets[0].train.labels)
        names = [[s.classes[label] for label in s.test.labels] for s in (p.sets[1], stored.sets[1])]
        images = [s.test.images.flatten(1).double().sum(1).tolist() for s in (p.sets[1], stored.sets[1])]
        assert sorted(zip(images[0], names[0], strict=True)) == sorted(zip(images[1], names[1], strict=True))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_many_images_are_turned_and_upright_is_one_of_four(share):
    image_set = load("glyphs_plain")
    found = pair.turned(image_set, share, seed=3)
    for before, after in ((image_set.train, found.train), (image_set.test, found.test)):
        same = torch.stack([(before.images.rot90(k, (2, 3)) == after.images).flatten(1).all(1) for k in range(4)])
        assert same.any(0).all() and torch.equal(before.labels, after.labels)
        upright = same[0].double().mean().item()
        assert upright == pytest.approx(1 - 0.75 * share, abs=0.05)
    assert not share or not torch.equal(found.train.images, pair.turned(image_set, share, seed=4).train.images)


def test_masking_can_only_help():
    scores = pair.run(tiny(method="DCC"), Context())
    assert scores["recombination/mean"] >= scores["recombination, unmasked/mean"]


@pytest.mark.parametrize("method", ["IIW+RP+DCC", "upper bound"])
def test_incremental_training_freezes_the_shared_heads_after_the_first_network(method):
    p = built(method, scheme="incremental")
    recorded, config = [], tiny(method=method, scheme="incremental")

    class Spy(Context):
        def train(self, tasks, *arguments):
            heads = [part(tasks[0], name) for name in ("dcc", "rp") if part(tasks[0], name) is not None]
            before = [{k: v.clone() for k, v in head.state_dict().items()} for head in heads]
            history = super().train(tasks, *arguments)
            after = [head.state_dict() for head in heads]
            recorded.append(
                [all(torch.equal(b[k], v) for k, v in a.items()) for b, a in zip(before, after, strict=True)]
            )
            return history

    history = pair.train_pair(p, config, Spy())
    shared = method != "upper bound"
    assert recorded[0] == [False] * len(recorded[0]), "the first network trains its heads"
    assert recorded[1] == [shared] * len(recorded[1]), "a shared head is frozen for the second, one of its own is not"
    assert {row["task"] for row in history} == {0, 1}


# --- DCC on fewer classes ---------------------------------------------------------------------------------------------


def test_dcc_learns_the_first_common_classes_only(permuted_sets):
    p = built("DCC", **permuted_sets, dcc_classes=2)
    assert p.common == ("ant", "cat", "dog"), "on which networks are recombined"
    assert part(p.tasks[0], "dcc")[-1].out_features == 2
    for task, classes in zip(p.tasks, (("ant", "bee", "cat", "dog"), ("dog", "eel", "ant", "cat")), strict=True):
        assert part(task, "dcc", "index").tolist() == [{"ant": 0, "cat": 1}.get(name, -1) for name in classes]
        train = task.data.train
        dogs = train.labels == classes.index("dog")
        batch = task.minibatches(tiny().recipe)(0)
        images = task.data.normalise(train.images[dogs])
        losses = task.losses(replace(batch, inputs=(images,), labels=train.labels[dogs]))
        assert losses["dcc"] == 0 < losses["target"]


@pytest.mark.parametrize("n", [2, 8])
def test_networks_are_recombined_on_all_common_classes_however_few_dcc_learns(n):
    scores = evaluated(built("DCC", dcc_classes=n))
    assert scores == evaluated(built("DCC")) and scores["chance/mean"] == 1 / 9


def test_as_many_dcc_classes_as_there_are_is_all_of_them():
    config = tiny(method="IIW+DCC")
    assert torch.equal(outcome(config)[0], outcome(replace(config, dcc_classes=9))[0])


@pytest.mark.parametrize("n", [-1, 0, 1])
def test_dcc_needs_two_classes_to_tell_apart(n):
    with pytest.raises(ValueError, match=f"dcc_classes: must be at least 2, got {n}"):
        PairRun(dcc_classes=n)


@pytest.mark.parametrize("method", ["DCC", "independent"])
def test_no_more_dcc_classes_than_are_common(method):
    with pytest.raises(ValueError, match="dcc_classes: digits and mnist5k share 9, got 10"):
        built(method, dcc_classes=10)


# --- normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalisations_are_what_they_are_called(kind):
    p, plain = built("RP+DCC", normalization=kind), built("RP+DCC")
    layers = {"layer": nn.GroupNorm, "instance": nn.InstanceNorm2d}
    for task, before in zip(p.tasks, plain.tasks, strict=True):
        assert len(task.modules()) == 4
        for module, other in zip(task.modules(), before.modules(), strict=True):
            kinds = {type(part) for part in module.modules()} & {nn.BatchNorm2d, *layers.values()}
            assert kinds == {layers.get(kind, nn.BatchNorm2d)}
            assert all(torch.equal(x, y) for x, y in zip(module.parameters(), other.parameters(), strict=True))
            fixed = [part for part in module.modules() if isinstance(part, normalization.UnitLength)]
            assert fixed == ([module[-1]] if kind == "unit length" and module is task.extractor else [])
        assert ("length" in [term.name for term in task.terms]) is (kind == "unit-length loss")


def test_features_of_unit_length_are_those_of_the_plain_extractor_scaled():
    p, plain = built("IIW", normalization="unit length"), built("IIW")
    for i in (0, 1):
        x = p.sets[i].normalise(p.sets[i].test.images)
        features, expected = p.extractors[i](x), plain.extractors[i](x)
        length = expected.square().sum(1, keepdim=True).sqrt()
        assert (length > 0.1).float().mean() > 0.5 and torch.allclose(features * length, expected, atol=1e-5)
        lengths = features.square().sum(1).sqrt()[length[:, 0] > 0.1]
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_unit_length_is_a_loss_of_both_networks_when_it_is_called_a_loss(kind):
    config = tiny(method="DCC", normalization=kind)
    history = pair.train_pair(pair.prepare(config, Context()), config, Context())
    assert {row["task"] for row in history} == {0, 1}
    assert {("length" in row) for row in history} == {kind == "unit-length loss"}


def test_every_normalisation_trains_another_network():
    weights = [outcome(tiny(method="IIW+DCC", normalization=kind))[0] for kind in NORMALIZATIONS]
    assert all(w.isfinite().all() for w in weights)
    for one, other in itertools.combinations(weights, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["layer", "instance"])
def test_without_batch_norm_statistics_and_test_batches_do_not_matter(kind):
    scores = pair.run(tiny(method="DCC", normalization=kind, n_test=100), Context())
    for name in ("running statistics", "recalibrated statistics", "test batches of 8", "test batches of 32"):
        for role in "ab":
            assert scores[f"recombination, {name}/{role}"] == scores[f"recombination/{role}"], name


def test_networks_with_features_of_unit_length_are_measured_where_they_are_cut():
    scores = pair.run(tiny(method="DCC", normalization="unit length"), Context())
    for role in "ab":
        assert scores[f"recombination at unit_length/{role}"] == scores[f"recombination/{role}"]
        assert scores[f"recombination at stage2_block1/{role}"] == scores[f"recombination/{role}"], (
            "the other has it too"
        )
        diagonal = sum(scores[f"channel correlations/{role}"]) / 8
        assert scores[f"cross-correlation at unit_length/{role}"] == pytest.approx(diagonal, abs=1e-4)


# --- pre-training -----------------------------------------------------------------------------------------------------

GLYPHS = {"a": "glyphs_plain", "b": "glyphs_cluttered", "left_out": ()}


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def same_start(one, other):
    """Whether two pairs start from the same bits, in all parts."""
    modules = ([m for task in p.tasks for m in task.modules()] for p in (one, other))
    return all(same(m, n) for m, n in zip(*modules, strict=True))


def pretrained(method="IIW", shared=None, **changes):
    return pair.prepare(tiny(method=method, **{"pretrained_on": "glyphs_other"} | changes), Context(shared=shared))


@pytest.fixture
def lessons(monkeypatch):
    """Of each training: the task before and after it, and the recipe."""
    seen, original = [], Context.train_once

    def spy(context, tasks, recipe, label):
        (task,) = tasks
        before = copy.deepcopy(task)
        history = original(context, tasks, recipe, label)
        seen.append((before, task, recipe))
        return history

    monkeypatch.setattr(Context, "train_once", spy)
    return seen


@pytest.mark.parametrize("sets", [{}, GLYPHS], ids=["one channel", "three channels"])
@pytest.mark.parametrize("method", ["IIW", "RP+DCC", "upper bound"])
def test_networks_start_from_what_rotations_of_the_third_set_have_taught_them(lessons, method, sets):
    p, plain = pretrained(method, **sets), built(method, **sets)
    identical = "IIW" in method
    assert len(lessons) == (1 if identical else 2)
    a, b = p.tasks
    assert same(a.extractor, b.extractor) == same(part(a, "target"), part(b, "target")) == identical, "buffers too"
    channels = p.sets[0].train.images.shape[1]
    for i, task in enumerate(p.tasks):
        drawn = plain.tasks[i]
        before, taught, recipe = lessons[0 if identical else i]
        assert recipe == tiny().recipe
        assert [term.name for term in before.terms] == ["rp"], "rotation alone"
        images = load("glyphs_other").limit(60).train.images
        assert before.data.train.images.shape == (60, channels, 16, 16)
        if channels == 3:
            assert torch.equal(before.data.train.images, images)
        else:
            assert torch.equal(before.data.train.images[:, 0], images.float().mean(1).round().byte())
        assert same(before.extractor, drawn.extractor), "from the weights of the seed"
        assert same(task.extractor, taught.extractor)
        assert same(part(task, "target")[:-1], part(taught, "rp")[:-1])
        assert same(part(task, "target")[-1], part(drawn, "target")[-1]), "the classifier stays as it was drawn"
        heads = (part(each, "target")[:-1] for each in (task, drawn))
        for module, other in ((task.extractor, drawn.extractor), heads):
            changed = [not torch.equal(x, y) for x, y in zip(module.parameters(), other.parameters(), strict=True)]
            assert all(changed) and module.state_dict().keys() == other.state_dict().keys()
        for module in task.modules():
            assert all(parameter.requires_grad for parameter in module.parameters())


def test_pretraining_leaves_the_auxiliary_heads_and_the_batches_as_they_are_drawn():
    p, plain = pretrained("RP+DCC"), built("RP+DCC")
    assert p.common == plain.common and part(p.tasks[0], "rp") is part(p.tasks[1], "rp")
    for task, drawn in zip(p.tasks, plain.tasks, strict=True):
        assert same(part(task, "dcc"), part(drawn, "dcc")) and same(part(task, "rp"), part(drawn, "rp"))
        recipe = tiny().recipe
        x, y = (t.minibatches(recipe)(2) for t in (task, drawn))
        assert torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels)


def test_shared_weights_are_of_one_number_of_classes_and_of_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    write_npz(tmp_path / "four.npz", small_set(n=40, classes=tuple("abcd"), size=16, channels=1))
    four = {"a": "four", "b": "four", "left_out": ()}
    shared = tmp_path / "shared"
    pretrained(shared=shared)
    assert same_start(pretrained(shared=shared, **four), pretrained(**four))
    torch.set_num_threads(2)
    pretrained(shared=shared)
    assert len(list(shared.glob("*.pt"))) == 3


def test_pretrained_weights_are_made_once_for_all_methods(tmp_path, steps):
    shared = {method: pretrained(method, tmp_path / "shared") for method in FIG2}
    assert len(steps) == 2 * tiny().recipe.steps, "one network for those with identical weights, two for the others"
    assert len(list((tmp_path / "shared").glob("*.pt"))) == 2
    for method in ("upper bound", "IIW+RP+DCC"):
        steps.clear()
        alone = pretrained(method)
        assert steps and same_start(alone, shared[method])
        steps.clear()
        assert same_start(alone, pretrained(method, tmp_path / "shared"))
        assert not steps


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"width": 5},
        {"network": "resnet14"},
        {"split_at": "stage1"},
        {"normalization": "layer"},
        {"n_train": 70},
        {"recipe.lr": 0.02},
        {"recipe.steps": 4},
        {"pretrained_on": "shapes"},
        GLYPHS,
        {"b": "digits", "n_test": 50, "left_out": ()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_do_not_take_the_weights_of_these(tmp_path, changes):
    config = tiny(method="IIW", pretrained_on="glyphs_other")
    pair.prepare(config, Context(shared=tmp_path))
    other = override(config, changes)
    assert same_start(pair.prepare(other, Context()), pair.prepare(other, Context(shared=tmp_path)))


def test_several_that_need_the_same_weights_at_once_make_them_once(tmp_path, steps):
    with ThreadPoolExecutor(3) as threads:
        one, *others = threads.map(lambda method: pretrained(method, tmp_path), ["IIW"] * 3)
    assert len(steps) == tiny().recipe.steps
    assert all(same(one.extractors[0], other.extractors[0]) for other in others)


def test_pretraining_that_was_interrupted_leaves_no_weights_that_pass_for_whole(tmp_path, monkeypatch):
    def interrupted(tasks, recipe, step):
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted, checkpoint_seconds=0)
        pretrained(shared=tmp_path)
    assert same_start(pretrained(shared=tmp_path), pretrained())


def test_runs_share_their_pretraining_and_give_the_numbers_they_give_alone(tmp_path, steps):
    configs = [tiny(method=method, pretrained_on="glyphs_other") for method in ("IIW", "IIW+DCC")]
    jobs = [job_of(config, tmp_path, "fig2_pretrained") for config in configs]
    made = [runner.make(job) for job in jobs]
    assert len(steps) == 3 * tiny().recipe.steps, "one pre-training, two trainings"
    (folder,) = (tmp_path / ".checkpoints").iterdir()
    assert folder == jobs[0].shared == jobs[1].shared and len(list(folder.glob("*.pt"))) == 1
    assert made[1]["metrics"] == pair.run(configs[1], Context())


def test_code_that_computes_otherwise_does_not_take_the_weights_of_this_one(tmp_path, monkeypatch):
    job = job_of(tiny(), tmp_path)
    shared, checkpoints = job.shared, job.checkpoints
    monkeypatch.setattr(runner, "pinned", lambda: Pins({"fig2": "of other code"}))
    assert job.shared != shared and job.shared.parent == shared.parent and job.checkpoints != checkpoints


def test_a_set_to_pretrain_on_that_is_nowhere_is_answered():
    with pytest.raises(ValueError, match="no image set 'nowhere'"):
        pretrained(pretrained_on="nowhere")


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first = records(tmp_path)
    assert [(r["config"]["a"], r["config"]["method"]) for r in first[:2]] == [
        ("digits", "independent"),
        ("digits", "IIW"),
    ]
    assert len(first) == 18 and not list((tmp_path / ".checkpoints").glob("*"))
    monkeypatch.setattr(runner, "make", lambda *a: pytest.fail("a recorded run was made again"))
    assert records(tmp_path) == first
    assert records(tmp_path, "fig10") == first, "for whichever experiment it was made"


def test_a_run_that_several_experiments_plan_is_made_once(tmp_path, trained, monkeypatch):
    found = {name: records(tmp_path, name, settings={}) for name in experiments.EXPERIMENTS}
    plans = {name: experiments.configs(name, "smoke") for name in experiments.EXPERIMENTS}
    assert trained == list(dict.fromkeys(config for plan in plans.values() for config in plan))
    for name in plans:
        assert [(r["row"], r["config"]) for r in found[name]] == [
            (row, runner.named(config)[1]) for row, config in experiments.plan(name, "smoke")
        ]
    files = {path.stem for path in (tmp_path / "smoke").iterdir()}
    assert files == set(plans) - {"fig6", "fig10", "chance"}, "these need nothing of their own"
    monkeypatch.setattr(runner, "make", lambda *a: pytest.fail("a recorded run was made again"))
    for name in reversed(plans):
        assert records(tmp_path, name, settings={}) == found[name]


def test_an_experiment_makes_only_what_no_other_has_made(tmp_path, trained):
    first = records(tmp_path, "fig10", settings={})
    trained.clear()
    found = records(tmp_path, "fig6", settings={})
    plan = experiments.configs("fig6", "smoke")
    assert trained == [config for config in plan if config.pretrained_on]
    assert [r for r, config in zip(found, plan, strict=True) if not config.pretrained_on] == [
        r for r in first if r["config"]["method"] in ("independent", "IIW", "RP", "DCC", "IIW+DCC")
    ]
    job = job_of(plan[0], tmp_path, "fig9")
    stored = runner.make(job)
    assert stored == job.stored() and stored.items() <= found[0].items() and found[0]["row"] == "independent"
    assert not (tmp_path / "smoke" / "fig9.jsonl").exists()


def test_a_stale_run_made_again_for_one_experiment_is_new_for_all(tmp_path, trained, monkeypatch):
    day, original = [1], provenance.provenance

    def on_that_day(**made):
        return original(**made | {"started": 86400.0 * day[0]})

    monkeypatch.setattr(runner, "provenance", on_that_day)
    monkeypatch.setattr(runner, "is_stale", lambda record: record["provenance"]["started"] < "1970-01-05")
    for name, today, refresh, made in (
        ("fig2", 1, False, 18),
        ("fig2", 2, False, 0),
        ("fig10", 7, True, 18),
        ("fig2", 8, True, 0),
        ("incremental", 9, True, 4),
    ):
        trained.clear()
        day[0] = today
        found = records(tmp_path, name, settings={}, refresh=refresh)
        assert len(trained) == made, (name, today)
    joint = [r for r in found if r["config"]["scheme"] == "joint"]
    assert {r["provenance"]["started"][:10] for r in joint} == {"1970-01-08"} and len(joint) == 2
    assert {r["experiment"] for r in joint} == {"fig10"}


def test_stale_records_are_made_again_on_request(tmp_path, monkeypatch):
    first = records(tmp_path)
    monkeypatch.setattr(runner, "is_stale", lambda record: record["run_id"] == first[3]["run_id"])
    again = records(tmp_path, refresh=True)
    changed = [i for i, (a, b) in enumerate(zip(first, again, strict=True)) if a["provenance"] != b["provenance"]]
    assert changed == [3]
    assert [r["metrics"] for r in first] == [r["metrics"] for r in again], "the same code gives the same numbers"


def test_processes_and_executors_give_the_same_numbers(tmp_path):
    options = {"settings": TINY | {"method": "IIW+RP+DCC", "n_train": 20, "n_test": 20}, "seeds": [0, 1]}
    one = records(tmp_path / "one", **options)
    two = records(tmp_path / "two", **options, jobs=2)
    with ThreadPoolExecutor(1) as executor:
        three = records(tmp_path / "three", **options, executor=executor)
    assert len(one) == 4, "two pairs, two seeds"
    for r, s, t in zip(one, two, three, strict=True):
        assert r["run_id"] == s["run_id"] == t["run_id"]
        assert r["metrics"] == s["metrics"] == t["metrics"]


def test_records_say_where_they_come_from(tmp_path):
    record = records(tmp_path, seeds=[7], settings=TINY | {"method": "IIW"})[0]
    made = record["provenance"]
    assert record["seed"] == record["config"]["seed"] == 7
    assert made["device"] == "cpu" and made["threads"] == 1 and made["wall_seconds"] > 0 and made["peak_memory_mb"] > 0
    assert (
        made["versions"]["torch"] == torch.__version__.split("+")[0] or made["versions"]["torch"] == torch.__version__
    )
    assert not is_stale(record)


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_that_fail_are_named_when_all_have_been_tried(tmp_path, jobs):
    settings = TINY | {"recipe.lr": 1e30, "recipe.steps": 200, "n_train": 20, "width": 2}
    with pytest.raises(runner.RunsFailed, match="18 of 18 runs failed") as failed:
        records(tmp_path, settings=settings, jobs=jobs)
    assert isinstance(failed.value.__cause__, FloatingPointError)


def test_a_killed_worker_ends_in_a_sentence_that_says_how_to_go_on(tmp_path):
    class Killed(Executor):
        def submit(self, *work):
            future = Future()
            future.set_exception(BrokenProcessPool("a process in the pool was terminated abruptly"))
            return future

    with pytest.raises(runner.RunsFailed, match="a worker process was killed.*the same command goes on") as failed:
        records(tmp_path, executor=Killed())
    assert failed.value.__cause__ is None


def test_an_interrupted_run_goes_on_from_its_checkpoint_unless_it_computes_otherwise(tmp_path, monkeypatch):
    config = tiny(method="IIW+RP+DCC", scheme="incremental")
    job, trained = job_of(config, tmp_path), []

    def interrupted(tasks, recipe, step):
        trained.append(step)
        if len(trained) == config.recipe.steps + 1:
            raise KeyboardInterrupt  # in the training of the second network

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted)
        runner.make(job)
    taken = each_step(monkeypatch, lambda tasks, recipe: 1)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "pinned", lambda: Pins({"fig2": "of other code"}))
        runner.make(replace(job, root=tmp_path / "changed"))
    assert len(taken) == 2 * config.recipe.steps, "other code starts anew"
    taken.clear()
    record = runner.make(job)
    assert len(taken) == config.recipe.steps, "the first network was finished, the second not begun"
    assert record["provenance"]["resumed"]
    assert record["metrics"] == pair.run(config, Context()), "the same bits as without a break"
    assert not list((tmp_path / ".checkpoints").iterdir())


def test_a_run_that_another_process_has_made_meanwhile_is_not_made_again(tmp_path):
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(runner.make, [job_of(tiny(), tmp_path, name) for name in ("fig2", "fig2", "fig10")]))
    assert made[0] == made[1] == made[2]
    (file,) = (tmp_path / "smoke").iterdir()
    assert store.load(file.stem, "smoke", tmp_path) == made[:1]
    assert len(file.read_text().splitlines()) == 1


def test_a_record_carries_the_version_of_its_experiment_and_the_digests_of_its_images(tmp_path, monkeypatch):
    record = runner.make(job_of(tiny(method="RP"), tmp_path))
    assert record["data"] == {name: load(name).digest for name in ("digits", "mnist5k")}
    assert record["provenance"]["golden"] == pinned().versions["fig2"] and record["kind"] == "PairRun"
    assert record["provenance"]["processor"] == provenance.processor() != ""
    assert not is_stale(record)
    for pins in (Pins({"fig2": "other numbers"}), Pins(pinned().versions, images={"digits": "other images"}), Pins()):
        monkeypatch.setattr(provenance, "pinned", lambda pins=pins: pins)
        assert is_stale(record)


def test_replaced_images_do_not_have_the_records_of_those_they_replaced(tmp_path, permuted_sets):
    sets = {name: permuted_sets[name] for name in ("a", "b", "left_out")}
    folder, options = tmp_path / "results", {"settings": TINY | sets | {"method": "IIW"}}
    first = records(folder, **options)
    assert records(folder, **options) == first and len(first) == 1
    write_npz(tmp_path / "one.npz", small_set(n=80, classes=("ant", "bee", "cat", "dog"), size=16, seed=5))
    second = records(folder, **options)
    assert len(second) == 1 and first[0]["run_id"] != second[0]["run_id"]
    (tmp_path / "one.npz").unlink()
    assert runner.recorded("fig2", "smoke", settings=options["settings"], root=folder) == second, "none to compare with"


BAD = [
    ({"method": "magic"}, "method.*IIW"),
    ({"left_out": ("x",)}, "leave_out: .*'x'"),
    ({"n_train": 1}, "n_train: must be at least 10, one for each class of digits, got 1"),
    ({"split_at": "stage9"}, "at: no boundary after 'stage9'"),
    ({"network": "resnet9"}, "depth: must be 6n"),
    ({"b": "nothing"}, "name: no image set 'nothing'"),
    ({"pretrained_on": "nothing"}, "name: no image set 'nothing'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_what_cannot_be_run_fails_before_the_first_run(tmp_path, trained, changes, message):
    with pytest.raises(ValueError, match=message) as failed:
        records(tmp_path, settings=TINY | changes)
    assert not trained and "\n" not in str(failed.value)
    assert len(str(failed.value)) < 1000, "each cause once, however many runs"


@pytest.mark.parametrize(("option", "value"), [("device", "tpu"), ("device", "cuda:99"), ("threads", 0), ("jobs", 0)])
def test_bad_options_are_answered(tmp_path, option, value):
    with pytest.raises(ValueError, match=option):
        records(tmp_path, **{option: value})


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupting_leaves_a_resumable_state_and_says_so(tmp_path, jobs):
    command = [sys.executable, "-m", "reproduction", "run", "fig2", "--preset", "smoke", "--jobs", str(jobs)]
    for setting in ("recipe.steps=8", "recipe.batch_size=10", "n_train=20", "n_test=20", "width=2"):
        command += ["--set", setting]
    environment = os.environ | {"COMPATKIT_RESULTS": str(tmp_path)}
    # a shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, preexec_fn=heed, **pipes)
    file = tmp_path / "smoke" / "fig2.jsonl"
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    done = len(store.load("fig2", "smoke", tmp_path))
    assert 0 < done < 18
    went_on = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert went_on.returncode == 0, went_on.stderr
    assert len(store.load("fig2", "smoke", tmp_path)) == 18
    assert len(file.read_text().splitlines()) == 18, "finished runs were not made again"


def test_the_training_path_needs_only_torch_and_numpy(tmp_path):
    for seed, name in enumerate(("one", "two")):
        image_set = small_set(n=60, size=16, seed=seed)
        write_npz(tmp_path / f"{name}.npz", image_set)
    script = """
import sys
import torch, torch._dynamo  # which look for other packages themselves

class Absent:
    names = "scipy sklearn mlxtend matplotlib PIL plotly ipywidgets IPython tqdm torchvision yaml".split()
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is absent on this machine")

sys.meta_path.insert(0, Absent())
from reproduction.__main__ import main
settings = "a=one b=two left_out=() recipe.steps=3 recipe.batch_size=20 recipe.crop=1 recipe.flip=True".split()
command = ["run", "fig2", "--preset", "smoke", *(word for s in settings for word in ("--set", s))]
sys.exit(main(command) or main(["status"]) or main(["list"]))
"""
    environment = os.environ | {"COMPATKIT_RESULTS": str(tmp_path / "results"), "COMPATKIT_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(store.load("fig2", "smoke", tmp_path / "results")) == 9, "two pairs became one"
