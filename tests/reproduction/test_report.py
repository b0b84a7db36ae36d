"""The report says of each claim what the records say, and its filters hide what they name."""

import re
from collections import Counter

import pytest

from compatkit.intervals import interval
from reproduction.pages import claims as chapter
from reproduction.pages import gap, report
from reproduction.pages.claims import items
from reproduction.records.claims import KINDS, PAPERS, claims
from reproduction.records.published import paper_value
from reproduction.records.verdicts import VERDICTS, Evidence, Judged, Source, Verdict
from reproduction.show import tables

from .explored import plain
from .recorded import METHODS
from .recorded import pair_record as record


@pytest.fixture
def sources():
    runs = [record(method, seed) for method in METHODS for seed in range(3)]
    for run in runs:
        run["provenance"]["golden"] = run["provenance"]["golden"] if run["seed"] else "of old code"
    return [Source("paper", {"fig2": []}, {"fig2": 90}), Source("laptop", {"fig2": runs}, {"fig2": 18})]


@pytest.fixture
def found(sources):
    return report.report(sources)


def rows(found):
    return {row[0]: row[1] for row in re.findall(r'<li id="claim-([^"]+)" (.*?)</li>', plain(report.listing(found)))}


def attributes(row):
    return dict(re.findall(r'data-([a-z]+)="([^"]*)"', row.partition(">")[0]))


def test_every_claim_has_a_row_with_its_verdict_and_numbers(found):
    shown = rows(found)
    assert sorted(shown) == sorted(claim.id for claim in claims())
    row = shown["a-dcc-rp"]
    expected = {"is": "holm", "size": "the paper's or more, half or more", "direction": "above"}
    assert attributes(row) == expected | {"paper": "A", "kind": "finding", "verdict": "shown"}
    assert ">● shown</span>" in row
    for text in (
        "ours <b>+30.0 ± 2.3</b>, 191 % of the paper's (x × y, laptop, n = 3)",
        "paper +15.7",
        "records: 2",
    ):
        assert text in row, text
    assert '<a href="gygli/method.html#paper-and-ours">A, Fig. 2</a>' in report.listing(found).data
    level = shown["a-level-rp"]
    assert 'data-verdict="not judged"' in level and "ours <b>51.0 ± 2.5</b>" in level and "paper 50.1" in level
    assert "level not judged: other images" in level
    assert "– not run" in shown["b-side"] and "no runs" in shown["b-side"] and "ours <b>" not in shown["b-side"]
    assert "quoted by the paper" in shown["a-adapt-second"] and "⊘ not testable" in shown["a-adapt-second"]


def test_what_other_records_say_is_folded_away(found):
    [one] = [one for one in found if one.claim.id == "a-dcc-rp"]
    other = Evidence("smoke", "u × v", interval([-6.0, -6.2]), Verdict("contradicted", 0.01))
    row = rows([Judged(one.claim, (*one.evidence, other))])["a-dcc-rp"]
    assert "<details>" in row and "on u × v (smoke) contradicted: -6.1 ± 1.3, n = 2." in row
    assert "<span>on other images: contradicted</span>" in row, "that they disagree is not"
    open_ = Evidence("laptop", "x × y", interval([1.0, 2.0]), Verdict("open", 0.3, 7))
    assert "7 seeds in all would decide" in rows([Judged(one.claim, (open_,))])["a-dcc-rp"]
    longer = Evidence("laptop", "u × v", interval([1.0, 2.0]), Verdict("open", 0.3, None))
    assert "> 50 seeds in all would decide" in rows([Judged(one.claim, (open_, longer))])["a-dcc-rp"]


def test_what_image_sets_say_that_do_not_agree_stands_side_by_side(found):
    [one] = [one for one in found if one.claim.id == "a-dcc-rp"]
    sets = [("x × y", "shown", [6.0, 6.2]), ("u × v", "contradicted", [-6.0, -6.2])]
    several = tuple(Evidence("laptop", name, interval(v), Verdict(word, 0.01)) for name, word, v in sets)
    row = rows([Judged(one.claim, several)])["a-dcc-rp"]
    assert ">◐ mixed</span>" in row and 'data-verdict="mixed"' in row
    assert "shown: ours <b>+6.1 ± 1.3</b>, 39 % of the paper's (x × y, laptop, n = 2)" in row
    assert "contradicted: ours <b>-6.1 ± 1.3</b>, the other way round than in the paper (u × v, laptop, n = 2)" in row


def evidence_on(source, values, word, images="x × y"):
    ours = interval(values)
    return Evidence(
        source, images, ours, Verdict(word, 1e-9 if word == "shown" else 0.01), half_90=0.8 * ours.half_width
    )


def test_a_strip_is_drawn_over_its_margin(found):
    [one] = [one for one in found if one.claim.id == "a-dcc-rp"]
    sets = (evidence_on("cifar", [6.0, 6.2], "shown"), evidence_on("cifar", [-6.0, -6.4], "contradicted", "u × v"))
    row = rows([Judged(one.claim, sets)])["a-dcc-rp"]
    places = [float(x) for x in re.findall(r'<rect x="([-\d.]+)" y="[-\d.]+" width="8"', row)]
    assert len(places) == 2 and places[1] < 150 - 4 < places[0], "photographs are squares, for the claim on the right"
    [(margin, x, width)] = re.findall(r'data-margin="([\d.]+)" x="([\d.]+)" width="([\d.]+)"', row)
    assert float(margin) == one.claim.margin and float(x) + float(width) / 2 == pytest.approx(150, abs=0.1)
    assert re.findall(r'<g data-verdict="(\w+)" data-ours="([-\d. ]+)"', row)[0] == ("shown", "6.1 1.27062 1.0165")
    assert 'class="stands"' not in row and 'class="paper"' in row
    assert attributes(row)["is"] == "photographs disagree" and attributes(row)["size"] == "less than half"
    alone = rows([Judged(one.claim, (evidence_on("laptop", [6.0, 6.2, 6.1, 6.1, 6.1], "shown"),))])["a-dcc-rp"]
    assert "<circle" in alone and 'class="stands"' in alone and attributes(alone)["is"] == "holm many"
    assert "<svg" not in rows(found)["a-level-rp"], "a level is no difference"


def test_totals_are_those_of_the_rows(found):
    counted = Counter(
        attributes(row)["verdict"] for row in rows(found).values() if attributes(row)["kind"] == "finding"
    )
    tiles = re.findall(
        r'name="compatkit-verdict" value="([^"]+)".*?<b>(\d+)</b><small>A (\d+), B (\d+)<', report.listing(found).data
    )
    assert {word: int(n) for word, n, *_ in tiles if n != "0"} == {"all": sum(counted.values())} | counted
    assert all(int(n) == int(a) + int(b) for _, n, a, b in tiles)
    text = report.summary(found).data
    tested = sum(one.p_value is not None for one in found)
    checks, levels = (sum(claim.kind == kind for claim in claims()) for kind in ("check", "level"))
    assert f"{tested} claims are tested" in text
    assert f"0 of {checks} are shown" in text and f"none of {levels} is judged" in text
    assert f"At most {tested * 0.075:.0f} of those" in text
    assert re.search(r"among them all, leaves \d+, of them \d+ findings", text)
    assert re.search(r"Hochberg's, .*, leaves \d+, of them \d+ findings", text)
    assert report.small(found).data.count("<circle") == sum(
        one.p_value is not None and one.claim.kind == "finding" for one in found
    )


def test_the_totals_in_a_sentence(found):
    findings = [one for one in found if one.claim.kind == "finding"]
    text = report.in_short(found).data
    assert (
        f"Of {len(findings)} claims" in text and "3 to 3 seeds each" in text and "None of the 32 printed levels" in text
    )
    assert f"{report.totals(found, 'finding').after_holm} stand with Holm" in text
    assert "no runs" in report.in_short([one for one in found if one.word == "not run"]).data


def test_what_stands_on_photographs_is_said_with_its_number(found):
    assert "no runs are on record" in report.on_photographs(found).data
    known = {one.claim.id: one.claim for one in found}
    two = [
        Judged(known["a-dcc-rp"], (evidence_on("cifar", [6.0, 6.2], "shown"),)),
        Judged(known["a-dcc-helps"], (evidence_on("cifar", [-6.0, -6.2], "contradicted"),)),
    ]
    text = report.on_photographs(two).data
    assert "of 2 findings tested on photographs 1 are shown and 1 contradicted" in text
    assert f"*{known['a-dcc-rp'].text}* (+6.1 ± 1.3)" in text


def test_the_books_own_results_are_those_of_its_runs(found, sources):
    text = report.best(found, sources).data
    assert f"closes {tables.span(gap.shares(sources)[0][1]['DCC'], digits=0)} % (x × y)." in text
    assert text.count("what no run tells yet") == 3
    assert "a part that no run tells yet" in report.best(report.report([]), []).data


def test_filters_hide_all_but_what_is_picked(found):
    style = re.search(r"<style>(.*?)</style>", report.listing(found).data, re.S)[1]
    for name, values in {"paper": PAPERS.values(), "kind": KINDS, "verdict": VERDICTS}.items():
        for value in values:
            picked = f'.compatkit-forest:has([name="compatkit-{name}"][value="{value}"]:checked)'
            assert f'{picked} li:not([data-{name}="{value}"])' in style
    assert '.compatkit-forest:has([name="compatkit-holm"]:checked) li:not([data-is~="holm"])' in style


def test_what_is_contradicted_stands_together_with_what_we_make_of_it(found):
    known = {one.claim.id: one for one in found}
    contrary = Evidence("laptop", "x × y", interval([-6.0, -6.2]), Verdict("contradicted", 0.01))
    ids = ("b-places-bound", "b-fct-bct-bound", "a-all-best", "a-bound-all")  # the last is a check
    text = report.contradictions([Judged(known[name].claim, (contrary,)) for name in ids]).data
    together, alone = text.splitlines()
    assert together.startswith("- B, Table 1, B, Table 2: *") and together.endswith("is hardly trained here.")
    assert known["b-places-bound"].claim.text in together and known["b-fct-bct-bound"].claim.text in together
    assert alone == f"- A, Fig. 2: *{known['a-all-best'].claim.text}.* Not explained."
    assert {name for several in report.explanations() for name in several} <= known.keys()


def test_every_item_with_a_claim_has_a_chapter():
    assert {(claim.paper, claim.item) for claim in claims()} == set(items())
    assert chapter.item_in_words("gygli", "fig11") == "A, Fig. 11"
    assert chapter.item_in_words("ramanujan", "sec52") == "B, Sec. 5.2"


def test_what_was_not_run_says_why(found, sources):
    text = report.not_run(found, sources).data
    assert "| paper | 0 | 90 | everything |" in text and "| laptop | 12 | 18 |  |" in text
    assert "- A, Table 1: Over both directions" in text and "*Not testable: the other methods are quoted" in text
    waiting = sum((c.paper, c.item) == ("ramanujan", "table1") and c.one is not None for c in claims())
    assert f"B, Table 1 ({waiting})" in text and "decentralised design" in text


def lines(folded):
    return [line for line in folded.data.splitlines() if line.startswith("| ")][2:]


def test_hours_are_counted_by_what_computed_them(sources):
    for run in sources[1].records["fig2"][:2]:
        run["provenance"] |= {"processor": "A", "threads": 2, "wall_seconds": 3600.0}
    for run in sources[1].records["fig2"][2:]:
        run["provenance"] |= {"device": "G", "threads": 2, "wall_seconds": 360.0}
    twice = Source("laptop", {name: sources[1].records["fig2"] for name in ("fig2", "fig10")}, {})
    assert lines(report.hours([sources[0], twice])) == [
        "| laptop | A | 2 | 4.0 |",
        "| laptop | G | 10 | 1.0 |",
    ]


def test_costs_count_each_run_once_in_the_total(sources):
    twice = Source("laptop", {"fig2": sources[1].records["fig2"], "fig10": sources[1].records["fig2"]}, {})
    # 12 runs of 6 seconds on one thread
    assert lines(report.costs([sources[0], twice])) == [
        "| fig2 | laptop | 12 | 1.2 | 4 |",
        "| fig10 | laptop | 12 | 1.2 | 4 |",
        "| **all, each run once** | laptop | 12 | 1.2 | 4 |",
    ]


def test_inconsistencies_quote_the_printed_numbers():
    text = report.inconsistencies().data
    assert "differ by 2.5" in text and "differ by 8.4" in text
    assert f"mAP {paper_value('ramanujan', 'table1', 'old/old', 'ImageNet-1k', 'mAP@1.0')} and 28.7" in text


def test_with_no_records_nothing_is_claimed():
    nothing = report.report([])
    assert {one.word for one in nothing} == {"not run", "not testable"}
    assert "0 claims are tested" in report.summary(nothing).data and report.choices([]).data == ""
    assert lines(report.costs([])) == []


def test_the_rule_is_drawn_with_a_verdict_of_each_word():
    words = re.findall(r'data-verdict="([a-z]+)"><span', report.rule().data)
    assert words == ["shown", "contradicted", "equal", "open", "mixed"]
