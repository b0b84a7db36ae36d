"""Tables in Markdown: numbers with their intervals, nothing where there is nothing."""

from compatkit.intervals import Interval, interval
from reproduction.records.verdicts import VERDICTS, Verdict, compare
from reproduction.show import tables


def test_a_table_is_aligned_and_escapes_bars():
    assert tables.table(["a", "b", "c"], [["x|y", "1", "z"]]).data.splitlines() == [
        "| a | b | c |",
        "| :-- | --: | :-- |",
        "| x\\|y | 1 | z |",
    ]


def test_numbers():
    assert tables.number(None) == "–" and tables.number(65.84) == "65.8" and tables.number(3.0, signed=True) == "+3.0"
    assert tables.span(None) == "–"
    assert tables.span(Interval(50.0, 45.0, 55.0, 3)) == "50.0 ± 5.0"
    assert tables.span(interval([50.0])) == "50.0", "one value has no interval"


def lines(markdown):
    return markdown.data.replace("\N{NO-BREAK SPACE}", " ").splitlines()


def test_comparison_shows_a_verdict_where_levels_are_judged():
    options = {"paper": "gygli", "item": "fig2", "column": "mean", "metric": "recombination accuracy"}
    ours = {"independent": {0: 10.0, 1: 11.0, 2: 12.0}, "DCC": {0: 65.6, 1: 65.8, 2: 66.0}, "nobody's": {}}
    here = lines(tables.comparison(compare(ours, **options, differs=())))
    assert "| DCC | ● shown | 65.8 | 65.8 ± 0.5 | 3 |" in here and "| RP | – not run | 50.1 | – | 0 |" in here
    assert "|  | verdict | paper, % | ours, % | n |" in here
    there = lines(tables.comparison(compare(ours, **options, differs=["width", "recipe.lr"])))
    assert "| DCC | 65.8 | 65.8 ± 0.5 | 3 |" in there and "|  | paper, % | ours, % | n |" in there
    assert there[-1] == "*Levels are not judged: other network and schedule.*"
    assert not any("nobody's" in line for line in [*here, *there]), "neither the paper nor we have it"


def test_an_open_verdict_says_how_many_seeds_would_decide():
    cells = {
        Verdict("shown", 0.01): "● shown",
        Verdict("open", 0.2, 12): "◌ open (needs 12 seeds)",
        Verdict("open", 0.2): "◌ open (needs > 50 seeds)",
        Verdict("open"): "◌ open",
        Verdict("not run"): "– not run",
    }
    for verdict, cell in cells.items():
        assert tables.verdict_cell(verdict).replace("\N{NO-BREAK SPACE}", " ") == cell
    assert set(tables.SIGNS) == set(VERDICTS) and len(set(tables.SIGNS.values())) == len(VERDICTS)
