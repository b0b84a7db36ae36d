"""A run of Fig. 4: what it returns against plain loops, what source and target have in common, what runs share."""

import copy
import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from compatkit.recipes import Recipe
from reproduction.experiments.settings import TRANSFER_METHODS, TransferRun
from reproduction.images import load
from reproduction.runs import runner, transfer
from reproduction.runs.context import Context

from ..conftest import data_folder, each_step, on_each_step, part
from ..samples import same, state, uneven_set
from .naive import average_class_accuracy

RECIPE = Recipe(steps=3, batch_size=16, lr=0.02, rotations="sampled", precision="fp32")
TUNE = Recipe(batch_size=16, lr=0.02, schedule="constant", precision="fp32")


@pytest.fixture(autouse=True, scope="module")
def sets(tmp_path_factory):
    """Sets with 2, 4 and 3 classes; the source in colour, the others grey."""
    made = {
        "third": uneven_set(tuple("xy"), n=90, channels=1, seed=0),
        "source": uneven_set(tuple("abcd"), n=90, channels=3, seed=1),
        "target": uneven_set(tuple("klm"), n=90, channels=1, seed=2),
    }
    with data_folder(tmp_path_factory.mktemp("data"), made), pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "TIMED_STEPS", 1)
        yield


def tiny(**changes) -> TransferRun:
    settings = {"third": "third", "source": "source", "target": "target", "network": "resnet8", "width": 4, "epochs": 2}
    return TransferRun(**settings | {"recipe": RECIPE, "tune_recipe": TUNE} | changes)


def run(shared=None, checkpoints=None, **changes) -> dict:
    return transfer.run(tiny(**changes), Context(shared=shared, checkpoints=checkpoints))


def watched(**changes):
    """The metrics of a run, the tasks of each training by the name of their set, as they were and as they became, and
    the parts that were fine-tuned and what they became."""
    seen = SimpleNamespace(before={}, tasks={})
    train_once, tune = Context.train_once, transfer.transfer

    def spy_train(context, tasks, recipe, label):
        [task] = tasks
        seen.before[task.data.name], seen.tasks[task.data.name] = copy.deepcopy(task), task
        return train_once(context, tasks, recipe, label)

    def spy_tune(extractor, head, image_set, **options):
        result = tune(extractor, head, image_set, **options)
        if "probe" in options:  # else it is timed
            seen.extractor, seen.head, seen.network, seen.recipe = extractor, head, result[0], options["recipe"]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "train_once", spy_train)
        patch.setattr(transfer, "transfer", spy_tune)
        seen.metrics = run(**changes)
    return seen


@pytest.fixture(scope="module")
def whole():
    """A run for each method, made once for all tests."""
    return functools.cache(lambda method="RP": watched(method=method))


@pytest.fixture
def steps(monkeypatch):
    """The classes of the network in each step of any training."""
    return each_step(monkeypatch, lambda tasks, recipe: tasks[0].data.name)


def reproducible(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}


def on_target(extractor, head):
    """Average class accuracy on the target in the source's channels."""
    target = load("target")
    grey = target.train.images.float() / 255
    images = ((target.test.images.float() / 255 - grey.mean()) / grey.std()).repeat(1, 3, 1, 1)
    return average_class_accuracy(extractor, head, images, target.test.labels.tolist())


@pytest.mark.parametrize("method", TRANSFER_METHODS)
def test_a_run_returns_the_curve_of_fine_tuning(whole, method):
    metrics = whole(method).metrics
    names = {"own network", "direct", "steps", "accuracy by step", "steps in an epoch", "seconds per step"}
    assert set(metrics) == names and metrics["seconds per step"] > 0
    per_epoch = 90 // 16
    assert metrics["steps in an epoch"] == per_epoch and metrics["steps"] == [0, 1, 2, 4, 5, 8, 10]
    assert {0, per_epoch, 2 * per_epoch} <= set(metrics["steps"]), "after each epoch"
    curve = metrics["accuracy by step"]
    assert len(curve) == 7 and curve[0] == metrics["direct"]
    assert all(0 <= value <= 1 for value in (*curve, metrics["own network"]))
    assert whole(method).recipe == replace(TUNE, steps=2 * per_epoch)


@pytest.mark.parametrize("method", TRANSFER_METHODS)
def test_accuracies_against_a_loop_over_images(whole, method):
    made = whole(method)
    source, target = made.tasks["source"], made.tasks["target"]
    head = made.head if method == "re-initialised head" else part(target, "target")
    assert made.metrics["own network"] == pytest.approx(on_target(target.extractor, part(target, "target")))
    assert made.metrics["direct"] == pytest.approx(on_target(source.extractor, head))
    assert made.metrics["accuracy by step"][-1] == pytest.approx(on_target(*made.network))
    assert made.extractor is source.extractor
    assert (made.head is part(target, "target")) == (method != "re-initialised head")


def test_a_re_initialised_head_has_learnt_nothing(whole):
    made = whole("re-initialised head")
    drawn = part(made.before["target"], "target")
    assert [p.shape for p in made.head.parameters()] == [p.shape for p in drawn.parameters()]
    assert not same(state(made.head), state(drawn)) and not same(
        state(made.head), state(part(made.tasks["target"], "target"))
    )
    buffers = {name: value for name, value in state(made.head).items() if "running_mean" in name}
    assert buffers and not any(value.any() for value in buffers.values())


@pytest.mark.parametrize("method", TRANSFER_METHODS)
def test_fine_tuning_leaves_the_trained_networks_as_they_are(whole, method):
    made = whole(method)
    assert not same(state(made.network[0]), state(made.extractor))
    assert not same(state(made.network[1]), state(made.head))
    assert made.metrics["direct"] == pytest.approx(on_target(made.extractor, made.head))


# --- what source and target have in common ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", TRANSFER_METHODS)
def test_only_identical_weights_are_identical_whatever_the_number_of_classes(whole, method):
    source, target = (whole(method).before[name] for name in ("source", "target"))
    assert (part(source, "target")[-1].out_features, part(target, "target")[-1].out_features) == (4, 3)
    for one, other in (
        (source.extractor, target.extractor),
        (part(source, "target")[:-1], part(target, "target")[:-1]),
    ):
        assert same(state(one), state(other)) == ("IIW" in method)
    assert source.seed != target.seed, "images never come in one order: that would be more than the same start"


@pytest.mark.parametrize("method", TRANSFER_METHODS)
def test_the_rotation_head_is_that_of_the_third_set_or_each_network_has_its_own(whole, method):
    made = whole(method)
    source, target = made.tasks["source"], made.tasks["target"]
    heads = {name: [state(part(tasks[name], "rp")) for tasks in (made.before, made.tasks)] for name in made.tasks}
    if method.startswith("RP"):
        assert list(made.tasks) == ["third", "source", "target"]
        third = made.tasks["third"]
        assert (
            part(third, "rp") is part(source, "rp") is part(target, "rp")
            and part(third, "target")[-1].out_features == 2
        )
        assert not same(*heads["third"]), "it learns there"
        assert same(heads["third"][1], heads["source"][0]) and same(*heads["source"]) and same(*heads["target"])
    else:
        assert list(made.tasks) == ["source", "target"], "the third set is not needed"
        assert part(source, "rp") is not part(target, "rp")
        assert not same(heads["source"][0], heads["target"][0])
        assert not same(*heads["source"]) and not same(*heads["target"])
    assert all(part(task, "rp")[-1].out_features == 4 for task in made.tasks.values())


def test_sets_have_the_channels_of_the_source(whole):
    images = {name: task.data.train.images for name, task in whole().tasks.items()}
    assert {name: shown.shape[1] for name, shown in images.items()} == {"third": 3, "source": 3, "target": 3}
    assert torch.equal(images["target"], load("target").train.images.repeat(1, 3, 1, 1))


# --- what runs share --------------------------------------------------------------------------------------------------


def test_methods_share_the_networks_that_they_have_in_common(whole, steps, tmp_path):
    def trained(method, **changes):
        steps.clear()
        metrics = reproducible(run(tmp_path, method=method, **changes))
        tuned = 10 + 3  # and three times what is timed
        return metrics, steps.count("third"), steps.count("source"), steps.count("target") - tuned

    found = {method: reproducible(whole(method).metrics) for method in TRANSFER_METHODS}
    assert trained("independent") == (found["independent"], 0, 3, 3)
    assert trained("re-initialised head") == (found["re-initialised head"], 0, 0, 0)
    assert found["independent"]["own network"] == found["re-initialised head"]["own network"]
    assert trained("RP") == (found["RP"], 3, 3, 3)
    assert trained("RP+IIW") == (found["RP+IIW"], 0, 0, 3), "another target, from the weights of the source"
    assert trained("RP", seed=1)[1:] == (3, 3, 3)


def test_an_interrupted_run_goes_on_to_the_same_numbers(whole, steps, tmp_path, monkeypatch):
    def interrupted(tasks, recipe, step):
        if recipe.steps == 10 and step == 7:
            raise KeyboardInterrupt

    folders = tmp_path / "shared", tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted, checkpoint_seconds=0)
        run(*folders)
    steps.clear()
    assert reproducible(run(*folders)) == reproducible(whole().metrics)
    assert steps == ["target"] * (10 - 6 + 3), "what was missing, and what is timed"


def test_a_run_becomes_a_record(whole, tmp_path):
    job = runner.Job("transfer", "smoke", tiny(), tmp_path, "cpu", 1)
    record = runner.make(job)
    assert reproducible(record["metrics"]) == reproducible(whole().metrics) and runner.make(job) == record
    assert list(job.shared.glob("*.pt")) and not job.checkpoints.exists(), "what other runs need stays"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"n_train": 60}, {"n_test": 60}, {"test_batch_size": 20}, {"split_at": "stage1"}]
)
def test_every_setting_changes_the_run(whole, change):
    assert reproducible(run(**change)) != reproducible(whole().metrics)


def test_an_epoch_of_few_images_is_one_batch(whole):
    metrics = run(n_train=9, epochs=3)
    assert metrics["steps in an epoch"] == 1 and metrics["steps"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"), [({"method": "DCC"}, "method: .*RP.*'DCC'"), ({"epochs": 0}, "epochs: .*got 0")]
)
def test_configs_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(**change)
