"""What the chapters on the analysis of paper A show is what the records say."""

import json

import pytest

from reproduction.experiments.gygli import NORMALIZATION_ROWS
from reproduction.pages import analysis, gygli, sections
from reproduction.records.table import in_network_order, table

from .expected import lines, said, welch
from .explored import options, shown, starts
from .recorded import LAYERS, finished

BASE = {"independent": 0.1, "IIW": 0.3, "RP": 0.4, "DCC": 0.6, "IIW+RP": 0.7, "IIW+DCC": 0.8, "IIW+RP+DCC": 0.85}
RECIPE = {"rotations": "sampled", "steps": 300}


def usual_row(method, *, normalization="batch", split_at="", dcc_classes=None, pretrained_on="", **config):
    """What plans call a run that differs from those of Fig. 2 in this."""
    if normalization != "batch":
        return NORMALIZATION_ROWS[normalization]
    if split_at:
        return split_at if "_" in split_at or split_at == "stem" else f"{split_at}_block1"
    return f"{dcc_classes} classes" if dcc_classes else method + " pre-trained" * bool(pretrained_on)


def record(method, seed=0, a="x", b="y", *, row=None, shift=0.0, recipe=RECIPE, **config):
    """Recombination by method, a little more for each seed and with ``shift``; lower where cut later."""
    level = BASE[method] + 0.01 * seed + shift
    made = {"a": a, "b": b, "method": method, "scheme": "joint", "split_at": "stage2", "dcc_classes": None}
    made |= {"normalization": "batch", "pretrained_on": "", "recipe": dict(recipe), "seed": seed} | config
    metrics = {"chance/mean": 1 / 9}
    for role, more in (("a", 0.02), ("b", -0.02), ("mean", 0.0)):
        metrics |= {
            f"recombination/{role}": level + more,
            f"recombination, unmasked/{role}": level + more - 0.05,
            f"not recombined/{role}": 0.9,
            **{f"recombination, test batches of {n}/{role}": level + more - 1 / n for n in (8, 32, 128)},
        }
        for depth, layer in enumerate(LAYERS):
            metrics[f"recombination at {layer}/{role}"] = level + more - 0.01 * depth
            metrics |= {f"{measure} at {layer}/{role}": level / 2 for measure in analysis.SIMILARITIES}
        if role != "mean":
            metrics[f"channel correlations/{role}"] = [level, level / 2, 0.0]
            metrics[f"matched channel correlations/{role}"] = [0.9, 0.6, 0.3]
    return finished(row or usual_row(method, **config), seed, made, metrics)


def grid(**options):
    return [record(method, seed, **options) for method in BASE for seed in range(3)]


def test_pairs_are_one_group_in_either_order():
    groups = sections.by_data([record("RP"), record("RP", a="y", b="x"), record("RP", a="x", b="x")])
    assert {name: len(group) for name, group in groups.items()} == {"x × y": 2, "x × x": 1}


def test_incremental_is_the_mean_of_both_orders():
    records = [record("IIW+RP+DCC", s, row="joint") for s in range(2)]
    for order, shift in ((("x", "y"), -0.1), (("y", "x"), -0.2)):
        a, b = order
        how = {"row": "incremental", "scheme": "incremental", "shift": shift}
        records += [record("IIW+RP+DCC", s, a, b, **how) for s in range(2)]
    found = gygli.by_scheme(records)
    assert found["joint"] == pytest.approx({0: 0.85, 1: 0.86})
    assert found["incremental"] == pytest.approx({0: 0.70, 1: 0.71})


def test_correlation_is_the_mean_over_channels_and_test_sets():
    records = [record("independent"), record("IIW", row="IIW pre-trained", pretrained_on="z")]
    found = gygli.by_correlation(records)
    assert found["independent"][0] == pytest.approx(0.1 * 1.5 / 3)
    assert found["independent + permutation"][0] == pytest.approx(0.6)
    assert found["IIW pre-trained"][0] == pytest.approx(0.3 * 1.5 / 3)
    assert "IIW" not in found and "IIW pre-trained + permutation" not in found


def test_classes_stand_in_the_order_of_their_number():
    records = [record("IIW+DCC", dcc_classes=n) for n in (7, None, 2)] + [record("IIW+RP")]
    for one in records:
        one["metrics"]["chance/mean"] = 1 / 10
    assert list(gygli.by_classes(records)) == ["2 classes", "7 classes", "10 classes", "IIW+RP"]


def test_blocks_stand_in_the_order_of_the_network():
    assert gygli.network_layers(grid()) == list(LAYERS) and gygli.boundaries(grid()) == list(LAYERS[:-1])
    assert in_network_order(["pool", "block10", "stem", "block2"]) == ["stem", "block2", "block10", "pool"]
    assert gygli.block_of("stage2", ["stem", "stage2_block1", "stage2_block2"]) == "stage2_block2"


def test_pre_training_is_compared_method_by_method():
    pretrained = [r for m, shift in (("IIW", 0.3), ("RP", -0.2), ("IIW+RP", 0.1)) for r in grid_of(m, shift)]
    apart = welch([0, 0.01, 0.02], [0, 0.01, 0.02]).partition("± ")[2]
    gaps = {"IIW": "+30.0", "RP": "-20.0", "IIW+RP": "+10.0"}
    found = said(analysis.against(pretrained, grid()))
    assert found == {"x × y": {method: f"{gap} ± {apart}" for method, gap in gaps.items()}}


def grid_of(method, shift):
    return [record(method, seed, pretrained_on="z", shift=shift) for seed in range(3)]


def test_choices_are_differences_to_the_same_seeds():
    rotations, half = "all four rotations, not a sampled one", "half the steps"
    records = [record(method, seed, row=analysis.OUR_CHOICE) for method in BASE for seed in range(3)]
    records += [record("RP", s, row=rotations, recipe=RECIPE | {"rotations": "all"}, shift=0.03) for s in range(3)]
    records += [record("DCC", s, row=half, recipe=RECIPE | {"steps": 150}, shift=-0.02) for s in range(3)]
    text = lines(analysis.choices_table(records))
    assert f"| outputs that are not shared may win | x × y {5 * '| -5.0 ± 0.0 '}|" in text
    assert "| test batches of 8 | x × y | -12.5 ± 0.0 | -12.5 ± 0.0 | -12.5 ± 0.0 | -12.5 ± 0.0 | -12.5 ± 0.0 |" in text
    apart = welch([0, 0.01, 0.02], [0, 0.01, 0.02]).partition("± ")[2]
    assert f"| {rotations} | x × y | – | +3.0 ± {apart} | – | – | – |" in text, (
        "other networks than those of our choice"
    )
    assert f"| {half} | x × y | – | – | -2.0 ± {apart} | – | – |" in text


def test_what_was_measured_without_scipy_has_no_matched_values():
    records = grid()
    for one in records:
        one["metrics"] = {k: v for k, v in one["metrics"].items() if not k.startswith("matched")}
    assert "independent + permutation" not in gygli.by_correlation(records)
    assert analysis.similarities(table(records)) == ["cross-correlation", "CKA", "neighbours"]
    assert options(analysis.similarity_explorer(records), "similarity") == ["cross-correlation"], "all are equal here"
    assert options(analysis.channels_explorer(records), "channels") == ["by position"]


def test_scores_above_chance_are_set_against_each_other():
    records = [record(method, seed, row=method) for method in ("independent", "DCC") for seed in range(2)]
    for one in records:
        score = 0.1 * (1 + one["seed"]) * (2 if one["row"] == "DCC" else 1)
        values = {"": 0.5, ", chance": 0.1, ", above chance": score, ", p": 0.01 * (1 + one["seed"])}
        one["metrics"] |= {f"pooled RSA at stem{v}/{on}": x for v, x in values.items() for on in ("a", "b", "mean")}
    found = analysis.above_chance(records)["x × y"]
    assert list(found) == ["recombination", "RSA"]
    gap = found["RSA"]
    assert gap.mean == pytest.approx(0.15) and gap.low < 0 < gap.high, "networks trained apart are no pairs"
    assert analysis.by_chance(records) == {("independent", "RSA"): 0.02, ("DCC", "RSA"): 0.02}


def test_similarity_is_a_point_for_each_pair_of_networks():
    points = {cell.at["method"]: cell for cell in analysis.similarity_cells(table(grid()), {}, "CKA", "stem")}
    assert {m: len(p.values) for m, p in points.items()} == dict.fromkeys(BASE, 3)
    dcc = points["DCC"]
    assert (dcc.x[2], dcc.values[2]) == pytest.approx((0.31, 0.62)) and dcc.names[2] == "300 steps, seed 2"
    [pretrained] = analysis.similarity_cells(table([record("IIW", pretrained_on="z")]), {}, "CKA", "stem")
    assert pretrained.names == ["pre-trained, 300 steps, seed 0"]
    bound = record("independent")
    bound["config"]["method"] = "upper bound"
    [cell] = analysis.similarity_cells(table([bound]), {}, "CKA", "stem")
    assert cell.at["method"] == "own RP heads"
    records = grid()
    for one in records:
        one["metrics"] |= {f"CKA at {layer}/mean": one["metrics"][f"CKA at {layer}/mean"] ** 2 for layer in LAYERS}
    explorer = analysis.similarity_explorer(records)
    found = shown(explorer)
    assert {where[1] for where in found} == {"cross-correlation", "CKA"}, (
        "the others have the numbers of the first here"
    )
    *_, values, x, names = found["x × y", "CKA", "pool", "RP"]
    assert values == pytest.approx([36, 37, 38]) and x == pytest.approx([0.04, 0.042, 0.0441], abs=0.001)
    assert names == [f"300 steps, seed {seed}" for seed in range(3)]
    [note, *_] = json.loads(explorer.spec)["views"][0]["notes"]
    assert note["text"] == "Rank correlation over all methods: +1.00 (+1.00 to +1.00), 21 pairs of networks."
    assert starts(explorer)["split layer"] == "stage2_block1"
    assert analysis.ranks([]) == {}, "no photographs, no panel"
    assert analysis.ranks(records)["x × y"]["CKA"].mean == pytest.approx(1)
    assert analysis.agreements(records)["x × y"]["CKA"].mean == pytest.approx(100), "a later seed is better in both"


def test_agreement_compares_seeds_of_one_setting_only():
    """Three settings: in order, reversed with a tie, and one seed alone."""
    made = {"in order": ((0.1, 0.2), (0.3, 0.5)), "not": ((0.1, 0.9), (0.2, 0.8), (0.2, 0.7)), "alone": ((0.5, 0.5),)}
    records = []
    for place, pairs in enumerate(made.values()):
        for seed, (x, y) in enumerate(pairs):
            one = record("RP", seed, width=place)
            one["metrics"] |= {"CKA at stem/mean": x, "recombination at stem/mean": y}
            records.append(one)
    assert analysis.agreement(table(records), "CKA", "stem") == pytest.approx([1.0, 0.5 / 3])
