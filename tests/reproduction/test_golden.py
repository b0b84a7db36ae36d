"""The code still computes what is pinned in results/golden.json."""

import pytest

from reproduction.experiments import EXPERIMENTS
from reproduction.records import pins
from reproduction.runs import golden


@pytest.fixture(scope="module")
def made():
    with golden.golden_world():
        yield {}


@pytest.mark.training
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_computes_what_is_pinned(experiment, made):
    [found] = golden.measured([experiment], made).values()
    pinned = pins.pinned().of(experiment)
    assert set(found) == set(pinned)
    assert pins.changed(pinned, found) == {}


def test_images_that_are_drawn_as_before_keep_the_digests_that_stand_for_them():
    before = pins.Pins(images={"digits": ["a", "b"], "shapes": ["c", "d"]})
    found = pins.accepted(before, {}, {"digits": "a", "shapes": "e", "mine": "f"})
    assert found.images == {"digits": ["a", "b"], "shapes": ["e"], "mine": ["f"]}


def test_runs_and_numbers_that_are_new_are_named_and_are_no_change():
    before, now = {"run": {"x": 1.0}, "same": {"x": 1.0}}, {"run": {"x": 1.0, "y": 2.0}, "same": {"x": 1.0}, "new": {}}
    assert pins.added(before, now | {"new": {"x": 3.0}}) == ["run", "new"] and pins.changed(before, now) == {}
