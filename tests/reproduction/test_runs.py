"""What holds for runs of every kind: they go on, become records, follow their settings, and refuse bad ones."""

import functools

import pytest

from reproduction.experiments.settings import VARIANTS
from reproduction.runs import runner
from reproduction.runs.context import Context

from ..conftest import each_step, on_each_step
from .world import ADAPTATION, CLASSIFIER, TRANSFER, VERSIONS, reproducible

pytestmark = pytest.mark.usefixtures("small_sets")


@functools.cache
def whole(kind, *changes):
    return reproducible(kind.run(**dict(changes)))


@pytest.mark.parametrize(
    ("kind", "left", "changes"),
    [
        (ADAPTATION, 4 + 2, {}),
        (ADAPTATION, 2, {}),
        (CLASSIFIER, 6, {"variant": "RP frozen"}),
        (TRANSFER, 4 + 3, {}),  # and what is timed
        (VERSIONS, 4, {}),
    ],
    ids=["adaptation", "adaptation, head moves", "classifier", "transfer", "update"],
)
def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, kind, left, changes):
    with monkeypatch.context() as patch:
        steps = each_step(patch, lambda tasks, recipe: 1)
        expected, folders, taken = reproducible(kind.run(**changes)), (tmp_path / "shared", tmp_path / "run"), []

    def interrupted(tasks, recipe, step):
        taken.append(1)
        if len(taken) > len(steps) - left:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        on_each_step(patch, interrupted, checkpoint_seconds=0)
        kind.run(*folders, **changes)
    resumed = each_step(monkeypatch, lambda tasks, recipe: 1)
    assert reproducible(kind.run(*folders, **changes)) == expected
    assert len(resumed) == left, "only what was missing"


@pytest.mark.parametrize("kind", [ADAPTATION, CLASSIFIER, TRANSFER, VERSIONS])
def test_a_run_becomes_a_record(tmp_path, kind):
    job = runner.Job("table1", "smoke", kind.small, tmp_path, "cpu", 1)
    record = runner.make(job)
    assert reproducible(record["metrics"]) == whole(kind) and runner.make(job) == record
    assert record["config"] == runner.named(kind.small)[1] and record["kind"] == type(kind.small).__name__
    assert list(job.shared.glob("*.pt")) and not job.checkpoints.exists(), "what other runs need stays"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (ADAPTATION, {"pretext": "colour"}, "pretext: .*rotation.*jigsaw.*colour"),
        (ADAPTATION, {"direction": "a"}, "direction: .*b to a.*'a'"),
        (TRANSFER, {"method": "DCC"}, "method: .*RP.*'DCC'"),
        (TRANSFER, {"epochs": 0}, "epochs: .*got 0"),
        (CLASSIFIER, {"variant": "frozen"}, "variant: .*extractor frozen.*'frozen'"),
        (CLASSIFIER, {"networks": ("resnet8",) * 2}, r"networks, widths, splits: .*\(2, 3, 3\)"),
        (CLASSIFIER, {"widths": (4,) * 4}, r"networks, widths, splits: .*\(3, 4, 3\)"),
        (CLASSIFIER, {"splits": ()}, r"networks, widths, splits: .*\(3, 3, 0\)"),
        (CLASSIFIER, {"first_classes": 1}, "first_classes: must be at least 2, got 1"),
        *(
            (CLASSIFIER, {"variant": variant, "first_classes": 6}, "first_classes: six has 6 classes, got 6")
            for variant in VARIANTS
        ),
    ],
)
def test_what_cannot_be_run_is_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind.module.check(kind.config(**change), Context(rehearsal=True))
