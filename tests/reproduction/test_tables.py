"""Tables in Markdown: numbers with their intervals, nothing where there is nothing."""

from compatkit.intervals import Interval, interval
from reproduction.records.verdicts import VERDICTS, Verdict
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
