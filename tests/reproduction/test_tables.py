"""Tables in Markdown: numbers with their intervals, nothing where there is nothing."""

from compatkit.intervals import Interval, interval
from reproduction.records.verdicts import compare
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


def test_comparison_shows_paper_ours_n_and_verdict():
    options = {"paper": "gygli", "item": "fig2", "column": "mean", "metric": "recombination accuracy"}
    ours = {"independent": [10.0, 11.0, 12.0], "DCC": [60.0, 61.0, 62.0]}
    text = tables.comparison(compare(ours, **options, reference="independent", same_data=False)).data
    [dcc] = [line for line in text.splitlines() if line.startswith("| DCC")]
    assert dcc == "| DCC | 65.8 | 61.0 ± 2.5 | 3 | ◐\N{NO-BREAK SPACE}trend\N{NO-BREAK SPACE}only |"
    [missing] = [line for line in text.splitlines() if line.startswith("| RP |")]
    assert missing == "| RP | 50.1 | – | 0 | –\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}run |"
