"""What the chapters on paper A show is what the records say."""

import pytest

from reproduction.pages import reusable
from reproduction.pages.scoreboard import scoreboard
from reproduction.records.provenance import provenance
from reproduction.records.published import paper_numbers

METHODS = ("independent", "RP", "DCC", "upper bound")


def record(method, seed, a="x", b="y"):
    """Recombination .1/.5/.8 by method, a little more for each seed; own heads at .9."""
    base = {"independent": 0.1, "RP": 0.5, "DCC": 0.8, "upper bound": 0.05}[method] + 0.01 * seed
    metrics = {"chance/mean": 0.1}
    for role, shift in (("a", 0.02), ("b", -0.02), ("mean", 0)):
        metrics |= {
            f"recombination/{role}": base + shift,
            f"recombination, unmasked/{role}": base / 2,
            f"not recombined/{role}": 0.9 + 0.001 * seed,
            f"own task/{role}": 0.95,
        }
    made = provenance(experiment="fig2", device="cpu", threads=1, started=0.0, wall_seconds=6.0, peak_memory_mb=1.0)
    config = {"a": a, "b": b, "method": method, "seed": seed}
    found = {"experiment": "fig2", "preset": "laptop", "row": method, "seed": seed, "config": config, "data": {}}
    return found | {"metrics": metrics, "provenance": made}


@pytest.fixture
def records():
    return [record(m, s, *data) for data in (("x", "y"), ("cifar10", "stl10")) for m in METHODS for s in range(3)]


def test_the_upper_bound_is_not_recombined(records):
    found = reusable.scores(reusable.by_data(records)["x × y"], "recombination")
    assert found["upper bound"] == pytest.approx({0: 0.9, 1: 0.901, 2: 0.902})
    assert found["RP"] == pytest.approx({0: 0.5, 1: 0.51, 2: 0.52})
    assert reusable.scores(records[:12], "own task")["upper bound"] == {0: 0.95, 1: 0.95, 2: 0.95}
    assert reusable.scores(records[:12], "recombination", "a")["RP"][0] == pytest.approx(0.52)


def test_comparison_has_a_table_for_each_pair(records):
    text = reusable.comparison(records).data
    assert text.count("| independent |") == 2
    assert text.count("what is judged is the trend") == 1, "one pair is not the paper's"
    assert "| RP | 50.1 | 51.0 ± 2.5 | 3 | ◐\N{NO-BREAK SPACE}trend\N{NO-BREAK SPACE}only |" in text, (
        "other data: the trend"
    )
    assert "| RP | 50.1 | 51.0 ± 2.5 | 3 | ●\N{NO-BREAK SPACE}reproduced |" in text, "the paper's data: the level"


def test_provenance_names_each_pair(records):
    text = reusable.provenance(records).data
    assert text.count("12 runs at preset laptop") == 2 and "x × y" in text and text.count("<details>") == 2


def test_claims_are_differences_of_paired_seeds(records):
    text = reusable.claims(records[:12], {"RP helps": ("RP", "independent"), "RP wins": ("RP", "DCC")}).data
    assert "| RP helps | +39.5 | +40.0 ± 0.0 | 3 | ◐\N{NO-BREAK SPACE}trend\N{NO-BREAK SPACE}only |" in text
    assert "| RP wins | -15.7 | -30.0 ± 0.0 | 3 | ◐\N{NO-BREAK SPACE}trend\N{NO-BREAK SPACE}only |" in text
    [unpublished] = reusable.claims(
        [r | {"config": r["config"] | {"method": "IIW+RP"}} for r in records[3:6]] + records[:3],
        {"both help": ("IIW+RP", "independent")},
    ).data.splitlines()[-1:]
    assert unpublished.startswith("| both help | – | +40.0 ± 0.0 | 3 | ◐"), "the stated direction is judged"
    reverse = [r | {"config": r["config"] | {"method": "RP"}} for r in records[:3]]
    others = [r | {"config": r["config"] | {"method": "independent"}} for r in records[3:6]]
    assert (
        "not\N{NO-BREAK SPACE}reproduced" in reusable.claims(reverse + others, {"RP helps": ("RP", "independent")}).data
    )


def test_verdicts_are_counted(records):
    counts = reusable.verdicts(records)["x × y"]
    assert counts["trend only"] == 3 and counts["not run"] == 3 and counts["undecided"] == 1


def test_the_scoreboard_lists_every_item_of_both_papers(records):
    text = scoreboard({("gygli", "fig2"): reusable.verdicts(records)}, {("gygli", "fig8"): "[split](x)"}).data
    items = {(row["paper"], row["item"]) for row in paper_numbers()}
    assert len(text.splitlines()) == 2 + len(items)
    assert "| A, fig2 | 7 | x × y: " in text and "| A, fig9 | 2 | not run |  |" in text
    assert "| A, fig8 | 0 | no number published | [split](x) |" in text


def leaves(widget):
    children = [leaf for child in getattr(widget, "children", ()) for leaf in leaves(child)]
    return [widget] if hasattr(widget, "outputs") else children


def test_explorers_draw_every_choice(records):
    explorer = reusable.methods_explorer(records)
    assert len(leaves(explorer)) == 6 * 3
    texts = [leaf.outputs[0]["data"]["text/plain"] for leaf in leaves(explorer)]
    assert len(set(texts)) == len(texts)
    assert texts[0].startswith("recombination accuracy on x × y: mean of both: independent 11%, RP 51%")
    matrix = reusable.recombination_explorer(records, method="RP")
    assert len(leaves(matrix)) == 4 * 2 * 2
    assert (
        "At first: RP on x × y: 90% with own heads, 51% with heads swapped." in matrix._repr_mimebundle_()["text/plain"]
    )
