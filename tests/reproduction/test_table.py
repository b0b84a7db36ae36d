"""Every recorded value stands in the table once, under what its name says."""

import math

import pytest

from reproduction.experiments import EXPERIMENTS, evidence
from reproduction.records.table import ANY, PLAIN, pick, rows, table

from .recorded import pair_record


def flat(value):
    return [one for part in value for one in flat(part)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("preset", ["laptop", "cifar-cpu"])
def test_no_recorded_value_is_lost(preset):
    for experiment in EXPERIMENTS:
        records = evidence.recorded(experiment, preset)
        found = table(records) if records else None
        for run, record in enumerate(records):
            recorded = [one for value in record["metrics"].values() for one in flat(value)]
            assert found["value"][found["run"] == run].tolist() == recorded, (experiment, run)


def test_names_are_taken_apart():
    names = {
        "recombination at stem/a": {"measure": "recombination", "layer": "stem", "on": "a"},
        "recombination, test batches of 8/mean": {
            "measure": "recombination",
            "variant": "test batches of 8",
            "on": "mean",
        },
        "CMC top-1 of new classes: new/ridge(old, side)": {
            "measure": "CMC top-1",
            "queries": "new",
            "case": "new/ridge(old, side)",
        },
        "old classes: Wide ResNet -> MobileNetV2": {
            "measure": "old classes",
            "other": "Wide ResNet",
            "case": "MobileNetV2",
        },
        "target: adapted, head moves": {"measure": "target", "case": "adapted", "variant": "head moves"},
        "CKA of old and side": {"measure": "CKA of old and side"},
        "seconds per 10 000 items: h": {"measure": "seconds per 10 000 items", "case": "h"},
    }
    record = pair_record("RP", 0) | {"metrics": dict.fromkeys(names, 0.5)}
    found = table([record])[["measure", *PLAIN]].to_dict("records")
    assert found == [dict.fromkeys(PLAIN, "") | said for said in names.values()]


def test_settings_within_settings_are_tuples():
    made = pair_record("DCC", 0)
    made["config"] = made["config"] | {"weights": [["DCC", 3.0]]}
    assert table([made, pair_record("DCC", 1)])["weights"].iloc[0] == (("DCC", 3.0),)


def test_lists_are_curves_by_step_maps_by_layers_or_places():
    metrics = {"recombination at stem/mean": 0.5, "steps": [0, 4], "target by step, head moves": [0.1, 0.2]}
    metrics |= {"CKA map/a": [[1.0, 0.3], [0.2, 0.9]], "channel correlations/a": [0.7, 0.6]}
    values = table([pair_record("RP", 0) | {"metrics": metrics}])
    curve = pick(values, "target", variant="head moves")
    assert dict(zip(curve["step"], curve["value"], strict=True)) == {0: 0.1, 4: 0.2}
    [found] = pick(values, "CKA map", on="a", layer="stem", case="classifier")["value"]
    assert found == 0.3
    assert pick(values, "channel correlations", on=ANY)["step"].tolist() == [0, 1]


def test_rows_refuse_two_values_of_a_seed_and_can_average_them():
    records = [pair_record("RP", seed) for seed in (1, 0)] + [pair_record("RP", 0, "y", "x")]
    values = pick(table(records), "recombination")
    with pytest.raises(ValueError, match="'RP' has seed 0 twice"):
        rows(values)
    assert rows(values, mean=True) == {"RP": {0: 0.5}}, "seed 1 lacks one of them"
    assert rows(values[:2], "method") == {"RP": {0: 0.5, 1: 0.51}}
    assert math.isclose(rows(pick(table(records), "own task", on="a", a="y"))["RP"][0], 0.95)
