"""What the chapters on paper A show is what the records say."""

import pytest

from reproduction.pages import claims, reusable
from reproduction.records.provenance import provenance
from reproduction.records.verdicts import Source

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
    found |= {"run_id": f"{method} {seed} {a}", "differs": () if a == "cifar10" else ("a", "b")}
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
    text = reusable.comparison(records).data.replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("| independent |") == 2
    assert text.count("*Levels are not judged: other images.*") == 1, "one pair is not the paper's"
    assert "| RP | 50.1 | 51.0 ± 2.5 | 3 |" in text, "other data"
    assert "| RP | ◌ open (5 seeds) | 50.1 | 51.0 ± 2.5 | 3 |" in text, "the paper's data: the level"
    assert "| upper bound | ✕ contradicted | 85.6 | 90.1 ± 0.2 | 3 |" in text


def test_provenance_names_each_pair(records):
    text = reusable.provenance(records).data
    assert text.count("12 runs at preset laptop") == 2 and "x × y" in text and text.count("<details>") == 2


def test_differences_are_of_paired_seeds(records):
    text = reusable.differences(records[:12], {"RP helps": ("RP", "independent"), "RP wins": ("RP", "DCC")}).data
    assert "| RP helps | +40.0 ± 0.0 | 3 |" in text and "| RP wins | -30.0 ± 0.0 | 3 |" in text
    some = [r for r in records[:12] if (r["row"], r["seed"]) != ("RP", 1)]
    assert "| RP helps | +40.0 ± 0.0 | 2 |" in reusable.differences(some, {"RP helps": ("RP", "independent")}).data
    assert "| no | – | 0 |" in reusable.differences(some, {"no": ("RP", "IIW")}).data


def test_a_table_of_claims_has_the_verdict_second(records):
    text = claims.table({"fig2": records}, "gygli", "fig2").data.replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("**x × y**") == text.count("**cifar10 × stl10**") == 1
    head = "| claim | verdict | paper | ours | n |"
    assert text.count(head) == 2
    said = "The shared class head fits networks better than the shared rotation head"
    assert text.count(f"| {said} | ● shown | +15.7 | +30.0 ± 0.0 | 3 |") == 2, "by one rule on all images"
    assert "Not run here: The same initial weights alone" in text
    assert claims.table({"fig2": []}, "gygli", "fig2").data == "No runs are stored here."
    other = claims.table({"fig2_pretrained": records}, "gygli", "fig2_pretrained").data
    assert "than the same random ones" not in other, "that needs the records of another experiment as well"


def test_a_card_has_the_reports_verdicts_and_what_its_runs_took(records):
    sources = [Source("cifar", {"fig2": records[12:]}, {}), Source("laptop", {"fig2": records[:12]}, {})]
    text = claims.card("They <i>fit</i>.", sources, ["a-dcc-rp", "a-dcc-helps"], ["fig2", "fig7"]).data
    assert "They <i>fit</i>." in text and text.count("<li ") == 2
    assert "● shown" in text and "ours <b>+30.0 ± 0.0</b>" in text and "cifar10 × stl10 (cifar)" in text
    assert "12 at laptop (1.2 minutes of one core), 12 at cifar (1.2 minutes of one core)" in text
    assert 'href="../report.html#claim-a-dcc-rp"' in text and 'href="../live.html"' in text
    assert "No runs are on record" in claims.card("It holds.", [], [], ["fig2"]).data
    with pytest.raises(KeyError, match="a-none"):
        claims.card("It holds.", sources, ["a-none"], ["fig2"])


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
