"""What the chapters on the analysis of paper A show is what the records say."""

import pytest

from reproduction.experiments.reusable import NORMALIZATION_ROWS
from reproduction.pages import analysis, reusable
from reproduction.records.provenance import provenance
from reproduction.records.published import paper_numbers
from reproduction.records.store import run_id

from .test_pages import leaves

LAYERS = ("stem", "stage1_block1", "stage2_block1", "stage3_block1", "pool")
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
            f"recombination, running statistics/{role}": level + more - 0.3,
            f"recombination, recalibrated statistics/{role}": level + more + 0.01,
            f"not recombined/{role}": 0.9,
            f"own task/{role}": 0.95,
            **{f"recombination, test batches of {n}/{role}": level + more - 1 / n for n in (8, 32, 128)},
        }
        for depth, layer in enumerate(LAYERS):
            metrics[f"recombination at {layer}/{role}"] = level + more - 0.01 * depth
            metrics |= {f"{measure} at {layer}/{role}": level / 2 for measure in analysis.SIMILARITIES}
        if role != "mean":
            metrics[f"channel correlations/{role}"] = [level, level / 2, 0.0]
            metrics[f"matched channel correlations/{role}"] = [0.9, 0.6, 0.3]
            metrics[f"CKA map/{role}"] = [[level / (1 + abs(i - j)) for j in range(6)] for i in range(6)]
    origin = provenance(experiment="fig2", device="cpu", threads=1, started=0.0, wall_seconds=6.0, peak_memory_mb=1.0)
    row = row or usual_row(method, **config)
    found = {"run_id": run_id("PairRun", made, {}), "experiment": "fig2", "row": row, "data": {}}
    return (
        found
        | {"preset": "laptop", "seed": seed, "differs": ("a",)}
        | {
            "config": made,
            "metrics": metrics,
            "provenance": origin,
        }
    )


def grid(**options):
    return [record(method, seed, **options) for method in BASE for seed in range(3)]


def alternatives(widget):
    return [leaf.outputs[0]["data"]["text/plain"] for leaf in leaves(widget)]


def figures_of(widget):
    """Every figure of a picker by its text."""
    shown = [leaf.outputs[0]["data"] for leaf in leaves(widget)]
    return {data["text/plain"]: data["application/vnd.plotly.v1+json"] for data in shown}


def lines(markdown):
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in markdown.data.splitlines()]


def test_union_holds_each_run_once_in_order():
    first, second = grid(), [record("RP"), record("RP", split_at="stem")]
    assert reusable.union(first, second) == [*first, second[1]]


def test_pairs_are_one_group_in_either_order():
    groups = reusable.by_data([record("RP"), record("RP", a="y", b="x"), record("RP", a="x", b="x")])
    assert {name: len(group) for name, group in groups.items()} == {"x × y": 2, "x × x": 1}


def test_incremental_is_the_mean_of_both_orders():
    records = [record("IIW+RP+DCC", s, row="joint") for s in range(2)]
    for order, shift in ((("x", "y"), -0.1), (("y", "x"), -0.2)):
        a, b = order
        how = {"row": "incremental", "scheme": "incremental", "shift": shift}
        records += [record("IIW+RP+DCC", s, a, b, **how) for s in range(2)]
    found = reusable.by_scheme(records)
    assert found["joint"] == pytest.approx({0: 0.85, 1: 0.86})
    assert found["incremental"] == pytest.approx({0: 0.70, 1: 0.71})
    text = lines(reusable.comparison(records, "sec4_incremental"))
    assert "| incremental | 72.7 | 70.5 ± 6.4 | 2 |" in text


def test_normalisation_has_the_papers_seven_rows():
    records = [record("IIW+DCC", s) for s in range(2)]
    for i, (kind, row) in enumerate(list(NORMALIZATION_ROWS.items())[1:], 1):
        records += [record("IIW+DCC", s, row=row, normalization=kind, shift=-0.1 * i) for s in range(2)]
    found = {row: seeds[1] for row, seeds in reusable.by_normalization(records).items()}
    assert list(found) == [r["row"] for r in paper_numbers("gygli", "fig5")]
    assert list(found.values()) == pytest.approx([0.51, 0.82, 0.81, 0.71, 0.61, 0.51, 0.41])


def test_correlation_is_the_mean_over_channels_and_test_sets():
    records = [record("independent"), record("IIW", row="IIW pre-trained", pretrained_on="z")]
    found = reusable.by_correlation(records)
    assert found["independent"][0] == pytest.approx(0.1 * 1.5 / 3)
    assert found["independent + permutation"][0] == pytest.approx(0.6)
    assert found["IIW pre-trained"][0] == pytest.approx(0.3 * 1.5 / 3)
    assert "IIW" not in found and "IIW pre-trained + permutation" not in found


def test_classes_stand_in_the_order_of_their_number():
    records = [record("IIW+DCC", row=f"{n} classes", shift=-0.01 * n) for n in (9, 10, 2)] + [record("IIW+RP")]
    assert list(reusable.by_classes(records)) == ["2 classes", "9 classes", "10 classes", "IIW+RP"]


def test_splits_stand_in_the_order_of_the_network():
    cuts = {"stage2_block1": "stage2"} | {at: at for at in ("stem", "stage1_block1", "stage3_block1")}
    records = [record("IIW+RP", row=block, split_at=at) for block, at in cuts.items()]
    assert list(reusable.by_split(records)) == reusable.boundaries(records) == list(LAYERS[:-1])
    others = [record("DCC", row=f"DCC at {block}", split_at=at) for block, at in cuts.items()]
    assert list(reusable.by_split(others)) == list(LAYERS[:-1]), "whatever the experiment calls its rows"
    assert reusable.network_layers(records) == list(LAYERS)
    metrics = {f"recombination at {at}/mean": 0.5 for at in ("pool", "block10", "stem", "block2")}
    assert reusable.network_layers([{"metrics": metrics}]) == ["stem", "block2", "block10", "pool"]
    assert reusable.block_of("stage2", ["stem", "stage2_block1", "stage2_block2"]) == "stage2_block2"


def test_pre_training_is_compared_method_by_method():
    pretrained = [r for m, shift in (("IIW", 0.3), ("RP", -0.2), ("IIW+RP", 0.1)) for r in grid_of(m, shift)]
    text = lines(analysis.against(pretrained, grid()))
    assert "| IIW | +30.0 ± 0.0 | 3 |" in text and "| RP | -20.0 ± 0.0 | 3 |" in text
    assert "| IIW+RP | +10.0 ± 0.0 | 3 |" in text


def grid_of(method, shift):
    return [record(method, seed, pretrained_on="z", shift=shift) for seed in range(3)]


def test_choices_are_differences_to_the_same_seeds():
    rotations, half = "all four rotations, not a sampled one", "half the steps"
    records = [record(method, seed, row=analysis.OUR_CHOICE) for method in BASE for seed in range(3)]
    records += [record("RP", s, row=rotations, recipe=RECIPE | {"rotations": "all"}, shift=0.03) for s in range(3)]
    records += [record("DCC", s, row=half, recipe=RECIPE | {"steps": 150}, shift=-0.02) for s in range(3)]
    text = lines(analysis.choices_table(records))
    assert (
        "| outputs that are not shared may win | -5.0 ± 0.0 | -5.0 ± 0.0 | -5.0 ± 0.0 | -5.0 ± 0.0 | -5.0 ± 0.0 |"
        in text
    )
    assert "| test batches of 8 | -12.5 ± 0.0 | -12.5 ± 0.0 | -12.5 ± 0.0 | -12.5 ± 0.0 | -12.5 ± 0.0 |" in text
    assert f"| {rotations} | – | +3.0 ± 0.0 | – | – | – |" in text
    assert f"| {half} | – | – | -2.0 ± 0.0 | – | – |" in text


def test_test_batches_are_compared_with_running_statistics_for_every_method():
    text = lines(analysis.statistics_gain(grid()))
    assert "| DCC | +30.0 ± 0.0 | 3 |" in text and len(text) == 4 + len(BASE)


def test_normalisation_explorer_has_the_trained_networks_where_there_are_any():
    records = [*grid(), *(record("IIW+DCC", s, normalization="layer", shift=-0.5) for s in range(3))]
    texts = alternatives(analysis.normalisation_explorer(records))
    assert len(texts) == len(set(texts)) == 3 * 7
    [plain] = [t for t in texts if t.startswith("Recombination accuracy of RP on x × y: mean of both:")]
    assert "running train statistics 11%" in plain and "per test batch 41%" in plain and "LayerNorm" not in plain
    assert "test batches of 8 29%" in plain
    [trained] = [t for t in texts if t.startswith("Recombination accuracy of IIW+DCC on x × y: y (b):")]
    assert "LayerNorm 29%" in trained and "per test batch 79%" in trained
    drawn = figures_of(analysis.normalisation_explorer(records))
    paper = {text: [t for t in figure["data"] if t["name"].startswith("paper")] for text, figure in drawn.items()}
    assert [(t["x"], t["y"]) for found in paper.values() for t in found] == [([32.4], [reusable.RUNNING])]
    assert next(t for t, found in paper.items() if found).startswith("Recombination accuracy of IIW+DCC on x × y: mean")


def test_split_explorers_tell_networks_made_for_a_split_from_those_cut_there():
    records = [r | {"row": "stage2_block1"} if r["row"] == "IIW+RP" else r for r in grid()]
    records += [
        record("IIW+RP", s, split_at=at, shift=0.1)
        for at in ("stem", "stage1_block1", "stage3_block1")
        for s in range(3)
    ]
    at_the_split, after_stage_2, *_ = alternatives(analysis.split_curves(records))
    assert "shared heads at the split, by split." in at_the_split and "; RP:" not in at_the_split
    assert "IIW+RP: stem 81%, stage1_block1 81%, stage2_block1 71%" in at_the_split
    assert "IIW+RP: stem 71%, stage1_block1 70%, stage2_block1 69%" in after_stage_2 and "; RP:" in after_stage_2
    assert all("IIW: stem 31%" in text for text in (at_the_split, after_stage_2)), "which has no shared head"
    assert {text.partition(",")[2][:27] for text in alternatives(analysis.split_curves(grid()))} == {
        " shared heads after stage 2"
    }
    texts = alternatives(analysis.split_explorer(records))
    assert len(texts) == len(set(texts)) == 8 * 4
    assert "IIW+RP, heads at the split, cut after stem, on x × y: 90% with own heads, 81% with heads swapped." in texts
    assert (
        "RP, heads after stage 2, cut after stage3_block1, on x × y: 90% with own heads, 38% with heads swapped."
        in texts
    )


def test_classes_explorers_count_to_all():
    records = [record("IIW+RP", s) for s in range(3)]
    records += [
        record("IIW+DCC", s, row=f"{n} classes", dcc_classes=n if n < 9 else None, shift=-0.1 * (9 - n))
        for n in range(2, 10)
        for s in range(3)
    ]
    [text, *_] = alternatives(analysis.classes_curve(records))
    assert "2 11%, 3 21%" in text and "9 81%; IIW+RP 71%." in text
    texts = alternatives(analysis.classes_explorer(records))
    assert len(texts) == 8 and "9 classes shared on x × y: 90% with own heads, 81% with heads swapped." in texts
    mean, *single = figures_of(analysis.classes_curve(records)).values()
    printed = {t["name"]: dict(zip(t["x"], t["y"], strict=True)) for t in mean["data"] if "paper" in t["name"]}
    assert printed["paper, IIW+DCC: at most"] == {str(n): 59.4 for n in range(2, 7)}
    assert printed["paper, IIW+RP"] == {str(n): 61.8 for n in range(2, 10)}
    assert not any("paper" in t["name"] for figure in single for t in figure["data"])


def test_cka_explorer_shows_the_mean_over_seeds():
    explorer = analysis.cka_explorer(grid())
    figure = leaves(explorer)[0].outputs[0]["data"]["application/vnd.plotly.v1+json"]["data"][0]
    assert figure["z"][0][:2] == pytest.approx([0.11, 0.055]) and figure["y"][-1] == "classifier"
    assert len(alternatives(explorer)) == 7 * 2


def test_channels_explorer_offers_both_starts():
    texts = alternatives(analysis.channels_explorer([*grid(), record("IIW", pretrained_on="z", shift=0.1)]))
    assert len(texts) == (7 + 1) * 2
    assert any(t.startswith("Mean correlation of channels of the first seed, IIW, pre-trained weights") for t in texts)
    assert any("independent, random weights" in t and "by position 0.05, optimally permuted 0.60" in t for t in texts)
    notes = {
        text.split(" weights")[0].split("seed, ")[1]: [n["text"] for n in figure["layout"].get("annotations", [])]
        for text, figure in figures_of(
            analysis.channels_explorer([*grid(), record("IIW", pretrained_on="z", shift=0.1)])
        ).items()
    }
    assert notes["RP, random"] == ["paper: mean 0.38"] and notes["IIW, pre-trained"] == ["paper: mean 0.69"]
    assert notes["independent, random"] == ["paper, optimally permuted: mean 0.34"] and notes["IIW, random"] == []


def test_what_was_measured_without_scipy_has_no_matched_values():
    records = grid()
    for one in records:
        one["metrics"] = {k: v for k, v in one["metrics"].items() if not k.startswith("matched")}
    assert "independent + permutation" not in reusable.by_correlation(records)
    assert analysis.similarities(records) == ["cross-correlation", "CKA", "neighbours"]
    assert len(alternatives(analysis.similarity_explorer(records))) == 3 * 5
    assert all("permuted" not in text for text in alternatives(analysis.channels_explorer(records)))


def test_what_was_not_run_on_a_pair_says_so():
    records = [*grid(), *grid(a="u", b="v"), record("IIW", pretrained_on="z")]
    texts = alternatives(analysis.channels_explorer(records))
    assert sum(t.endswith("not run.") for t in texts) == 2, "both test sets of the other pair"
    text = lines(reusable.differences(records, {"pre-trained": ("IIW pre-trained", "IIW")}, "fig6"))
    assert "| pre-trained | – | 0 |" in text and "| pre-trained | +0.00 | 1 |" in text


def test_similarity_is_a_point_for_each_pair_of_networks():
    points = analysis.similarity_points(grid(), "CKA", "stem")
    assert {m: len(p) for m, p in points.items()} == dict.fromkeys(BASE, 3)
    assert points["DCC"][2][:2] == pytest.approx((0.31, 0.62)) and points["DCC"][2].text == "DCC, 300 steps, seed 2"
    [hollow] = analysis.similarity_points([record("IIW", pretrained_on="z")], "CKA", "stem")["IIW"]
    assert hollow.hollow and "pre-trained" in hollow.text and not points["DCC"][2].hollow
    bound = record("independent")
    bound["config"]["method"] = "upper bound"
    assert list(analysis.similarity_points([bound], "CKA", "stem")) == ["own RP heads"]
    texts = alternatives(analysis.similarity_explorer(grid()))
    assert len(texts) == len(set(texts)) == 4 * 5
    assert texts[0].endswith("rank correlation +1.00 (+1.00 to +1.00).")
    figure = figures_of(analysis.similarity_explorer(grid()))[texts[0]]
    assert figure["layout"]["title"]["text"] == "rank correlation +1.00, 21 pairs of networks"
    assert analysis.rank_correlations([]).data == "", "no photographs, no table"
    rows = lines(analysis.rank_correlations(grid()))
    assert "| CKA | +1.00 (+1.00 to +1.00) | 21 | 100% | 7 |" in rows, "here a later seed is better in both"


def test_agreement_compares_seeds_of_one_setting_only():
    """Three settings: in order, reversed with a tie, and one seed alone."""
    made = {"in order": ((0.1, 0.2), (0.3, 0.5)), "not": ((0.1, 0.9), (0.2, 0.8), (0.2, 0.7)), "alone": ((0.5, 0.5),)}
    records = [
        {"config": {"setting": name, "seed": seed}, "metrics": {"CKA at x/mean": x, "recombination at x/mean": y}}
        for name, pairs in made.items()
        for seed, (x, y) in enumerate(pairs)
    ]
    assert analysis.agreement(records, "CKA", "x") == pytest.approx([1.0, 0.5 / 3])
