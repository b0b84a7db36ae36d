"""What the chapters on paper A show is what the records say."""

import re
from statistics import fmean

import pytest

from reproduction.pages import claims, gygli, sections
from reproduction.records.verdicts import Source

from .explored import levels, means, plain, shown
from .recorded import METHODS, pair_record


@pytest.fixture
def records():
    return [pair_record(m, s, *data) for data in (("x", "y"), ("cifar10", "stl10")) for m in METHODS for s in range(3)]


def test_the_upper_bound_is_not_recombined(records):
    found = gygli.scores(sections.by_data(records)["x × y"], "recombination")
    assert found["upper bound"] == pytest.approx({0: 0.9, 1: 0.901, 2: 0.902})
    assert found["RP"] == pytest.approx({0: 0.5, 1: 0.51, 2: 0.52})
    assert gygli.scores(records[:12], "own task")["upper bound"] == {0: 0.95, 1: 0.95, 2: 0.95}
    assert gygli.scores(records[:12], "recombination", "a")["RP"][0] == pytest.approx(0.52)


def test_a_share_of_the_gap_lies_between_networks_apart_and_never_taken_apart(records):
    found = gygli.shares(records)["x × y"]
    assert list(found) == ["RP", "DCC"] and found["RP"].mean == pytest.approx(100 * (0.51 - 0.11) / (0.901 - 0.11))
    assert gygli.printed_shares()["RP"] == pytest.approx(100 * (50.1 - 10.6) / (85.6 - 10.6))


def test_a_sentence_takes_the_number_that_gives_the_verdict(records):
    ours = claims.finder([Source("laptop", {"fig2": records}, {})])
    with pytest.raises(ValueError, match="must be one of x × y, cifar10 × stl10"):
        ours("a-dcc-rp")
    assert ours("a-dcc-rp", "x × y") == "+30.0 ± 2.3"
    ours = claims.finder([Source("laptop", {"fig2": records[:12]}, {})])
    assert (ours("a-dcc-rp"), ours("a-dcc-rp", sign="+"), ours("a-pre-iiw")) == ("+30.0 ± 2.3", "30.0 ± 2.3", "–")
    with pytest.raises(ValueError, match="a-dcc-rp is .30.0 ± 2.3, got '-'"):
        ours("a-dcc-rp", sign="-")


def test_provenance_names_each_pair(records):
    text = sections.provenance(records).data
    assert text.count("12 runs at preset laptop") == 2 and "x × y" in text and text.count("<details>") == 2


def test_a_table_of_claims_has_a_column_for_each_set_of_images(records):
    for record in records[12:]:
        record["preset"] = "cifar"
    one = next(r for r in records if r["row"] == "DCC")
    one["metrics"] = {name: 0.5 for name in one["metrics"]}
    text = plain(claims.table({"fig2": [*records[12:], *records[:12]]}, "gygli", "fig2"))
    assert "| claim | verdict | paper | cifar10 × stl10, n = 3 | x × y, n = 3 |" in text
    said = "The shared class head fits networks better than the shared rotation head"
    assert f"| {said} | ● shown | +15.7 | ● +30.0 ± 2.3 | ◌ +20.0" in text, "the best images give the verdict"
    assert re.search(r"Not run here<.*- The same initial weights alone", text, re.DOTALL)
    assert claims.table({"fig2": []}, "gygli", "fig2").data == "No runs are stored here."
    first, *folds = claims.table({"fig2": records}, "gygli", "fig2", measure="recombination").data.split("<details>")
    assert said in first and "of its own improves" not in first and "of its own improves" in folds[0]
    other = claims.table({"fig2_pretrained": records}, "gygli", "fig2_pretrained").data
    assert "than the same random ones" not in other, "that needs the records of another experiment as well"
    fewer = [r for r in records if (r["row"], r["seed"]) != ("RP", 2)]
    assert f"| {said} | ◐ mixed | +15.7 |" in plain(
        claims.table({"fig2": [r | {"preset": "laptop"} for r in fewer]}, "gygli", "fig2")
    )
    assert ", n = 2 |" in plain(claims.table({"fig2": fewer}, "gygli", "fig2")), "where it is not that of the others"


def test_a_table_without_printed_numbers_has_no_column_for_the_paper(records):
    apart = [r for r in records[:12] if r["row"] == "independent"]
    for made in apart:
        made["metrics"]["recombination, permuted/mean"] = 0.5
    text = plain(claims.table({"stitching": apart}, "gygli", "stitching"))
    assert "| claim | verdict | x × y, n = 3 |" in text
    assert "permuted optimally | ● shown | ● +39.0 ± 2.5 |" in text


def test_a_card_opens_with_what_we_find_and_has_the_reports_verdicts(records):
    sources = [Source("cifar", {"fig2": records[12:]}, {}), Source("laptop", {"fig2": records[:12]}, {})]
    card = claims.card("that *all* fit.", "They <i>fit</i>.", sources, ["a-dcc-rp", "a-dcc-helps"], ["fig2", "fig7"])
    text = plain(card)
    assert "<b>We find</b> that <em>all</em> fit.</p>" in text
    assert "They <i>fit</i>." in text and text.count("<li ") == 2
    assert "● shown" in text and "ours <b>+30.0 ± 2.3</b>" in text and "(cifar10 × stl10, cifar, n = 3)" in text
    assert "24 runs, 2.4 minutes of one core." in text
    assert 'href="../report.html#claim-a-dcc-rp"' in text and 'href="../live.html"' in text
    empty = claims.card("nothing.", "", [], [], ["fig2"]).data
    assert "No runs are on record" in empty and "The paper." not in empty
    checks = [record for record in records[:12] if record["row"] == "independent"]
    alone = claims.card("it.", "It holds.", [Source("laptop", {"fig2": checks}, {})], [], ["fig2"]).data
    assert re.search(r"Of \d+ claims on these runs: 1 open, \d+ not run\.", alone), "the check is counted as well"
    with pytest.raises(KeyError, match="a-none"):
        claims.card("it.", "It holds.", sources, ["a-none"], ["fig2"])
    with pytest.raises(ValueError, match="find: a sentence"):
        claims.card(" ", "It holds.", sources, [], ["fig2"])


def test_every_method_has_its_bar_on_every_test_set_in_every_measure(records):
    found = shown(gygli.methods_explorer(records))
    roles = {"mean of both sets": "mean", "first set": "a", "second set": "b"}
    for (data, role, measure, method), (mean, _, n, paper, values, *_) in found.items():
        group = [r for r in records if f"{r['config']['a']} × {r['config']['b']}" == data and r["row"] == method]
        key = {words: key for key, words in gygli.MEASURES.items()}[measure]
        key = "not recombined" if (measure, method) == ("recombination accuracy", "upper bound") else key
        expected = [100 * r["metrics"][f"{key}/{roles[role]}"] for r in group]
        assert values == pytest.approx(expected) and mean == pytest.approx(fmean(expected), abs=0.006) and n == 3
        printed = {"recombination accuracy": measure, "accuracy on the own task, all classes": "own-task accuracy"}
        known = gygli.published("fig2", printed[measure]) if measure in printed and role == "mean of both sets" else {}
        assert paper == known.get(method)
    chosen = {where[:3] for where in found}
    assert len(chosen) == 2 * 3 * 3 and len(found) == 4 * len(chosen)
    assert levels(gygli.methods_explorer(records)) == {
        ("chance", data, "recombination accuracy"): 10 for data in ("x × y", "cifar10 × stl10")
    }


def test_two_networks_of_one_set_are_told_apart():
    same = [pair_record("RP", seed, "x", "x") for seed in range(2)]
    assert {where[-2:] for where in means(gygli.recombination_explorer(same))} == {
        (f"x ({own})", f"x ({other})") for own in "ab" for other in "ab"
    }
