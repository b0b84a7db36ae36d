"""A run of Fig. 4: what it returns against plain loops, what source and target have in common, what runs share."""

import functools
from dataclasses import replace

import pytest
import torch

from reproduction.experiments.settings import TRANSFER_METHODS
from reproduction.images import load
from reproduction.runs.context import log_steps

from ..conftest import each_step, part
from ..samples import same, state
from .naive import average_class_accuracy
from .world import TRANSFER, TUNE, reproducible

pytestmark = pytest.mark.usefixtures("small_sets")
each_method = pytest.mark.parametrize("method", TRANSFER_METHODS)


@functools.cache
def whole(method="RP"):
    """A run of each method, made once for all tests: its parts by name."""
    made = TRANSFER.watched(method=method)
    made.before = {task.data.name: task for training in made.trainings for task in training.before}
    made.tasks = {task.data.name: task for training in made.trainings for task in training.tasks}
    [tuned] = made.applied
    (made.extractor, made.head, _), made.network, made.recipe = tuned.parts, tuned.result[0], tuned.options["recipe"]
    return made


def on_target(extractor, head):
    """Average class accuracy on the target in the source's channels."""
    target = load("target")
    grey = target.train.images.float() / 255
    images = ((target.test.images.float() / 255 - grey.mean()) / grey.std()).repeat(1, 3, 1, 1)
    return average_class_accuracy(extractor, head, images, target.test.labels.tolist())


@each_method
def test_a_run_returns_the_curve_of_fine_tuning_and_leaves_what_was_trained(method):
    made, metrics = whole(method), whole(method).metrics
    names = {"own network", "direct", "steps", "accuracy by step", "steps in an epoch", "seconds per step"}
    assert set(metrics) == names and metrics["seconds per step"] > 0
    per_epoch = 90 // 16
    assert metrics["steps in an epoch"] == per_epoch and made.recipe == replace(TUNE, steps=2 * per_epoch)
    assert metrics["steps"] == [0, 1, 2, 4, 5, 8, 10], "powers of two, and after each epoch"
    curve = metrics["accuracy by step"]
    source, target = made.tasks["source"], made.tasks["target"]
    head = made.head if method == "re-initialised head" else part(target, "target")
    assert metrics["own network"] == pytest.approx(on_target(target.extractor, part(target, "target")))
    assert metrics["direct"] == curve[0] == pytest.approx(on_target(source.extractor, head))
    assert len(curve) == 7 and curve[-1] == pytest.approx(on_target(*made.network))
    assert made.extractor is source.extractor
    assert (made.head is part(target, "target")) == (method != "re-initialised head")
    for tuned, trained in zip(made.network, (made.extractor, made.head), strict=True):
        assert not same(state(tuned), state(trained)), "direct, above, is of the trained ones afterwards"


@each_method
def test_only_identical_weights_are_identical_whatever_the_number_of_classes(method):
    source, target = (whole(method).before[name] for name in ("source", "target"))
    heads = [part(task, "target") for task in (source, target)]
    assert [head[-1].out_features for head in heads] == [4, 3]
    for one, other in ((source.extractor, target.extractor), [head[:-1] for head in heads]):
        assert same(state(one), state(other)) == ("IIW" in method)
    assert source.seed != target.seed, "images never come in one order: that would be more than the same start"


@each_method
def test_the_rotation_head_is_that_of_the_third_set_or_each_network_has_its_own(method):
    made = whole(method)
    source, target = made.tasks["source"], made.tasks["target"]
    heads = {name: [state(part(tasks[name], "rp")) for tasks in (made.before, made.tasks)] for name in made.tasks}
    if method.startswith("RP"):
        assert list(made.tasks) == ["third", "source", "target"]
        third = made.tasks["third"]
        assert part(third, "rp") is part(source, "rp") is part(target, "rp")
        assert part(third, "target")[-1].out_features == 2 and not same(*heads["third"]), "it learns there"
        assert same(heads["third"][1], heads["source"][0]) and same(*heads["source"]) and same(*heads["target"])
    else:
        assert list(made.tasks) == ["source", "target"], "the third set is not needed"
        assert part(source, "rp") is not part(target, "rp") and not same(heads["source"][0], heads["target"][0])
        assert not same(*heads["source"]) and not same(*heads["target"])
    assert all(part(task, "rp")[-1].out_features == 4 for task in made.tasks.values())
    assert all(task.data.channels == 3 for task in made.tasks.values()), "those of the source"
    assert torch.equal(target.data.train.images, load("target").train.images.repeat(1, 3, 1, 1))


def test_methods_share_the_networks_that_they_have_in_common(tmp_path, monkeypatch):
    steps = each_step(monkeypatch, lambda tasks, recipe: tasks[0].data.name)

    def trained(method, **changes):
        steps.clear()
        metrics = reproducible(TRANSFER.run(tmp_path, method=method, **changes))
        tuned = 10 + 3  # and three times what is timed
        return metrics, steps.count("third"), steps.count("source"), steps.count("target") - tuned

    found = {method: reproducible(whole(method).metrics) for method in TRANSFER_METHODS}
    assert trained("independent") == (found["independent"], 0, 3, 3)
    assert trained("re-initialised head") == (found["re-initialised head"], 0, 0, 0)
    assert found["independent"]["own network"] == found["re-initialised head"]["own network"]
    assert trained("RP") == (found["RP"], 3, 3, 3)
    assert trained("RP+IIW") == (found["RP+IIW"], 0, 0, 3), "another target, from the weights of the source"
    assert trained("RP", seed=1)[1:] == (3, 3, 3)


@pytest.mark.parametrize("steps", [1, 2, 9, 1000])
@pytest.mark.parametrize("marks", [(), (5, 6, 100_000), [0, 1]])
def test_steps_to_look_at(steps, marks):
    always = {0, *marks, *(2**k for k in range(12)), steps}
    assert log_steps(steps, marks) == sorted(step for step in always if step <= steps)
