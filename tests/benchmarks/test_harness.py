"""A faster side has a ratio over 1, a promise is met or not, memory is what a function takes, and tables say so."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.harness import Row, apart, compared, markdown, measured, missing, peak_mib, ratio, table


def short():
    time.sleep(0.01)


def long():
    time.sleep(0.15)


@pytest.mark.parametrize(("ours", "other", "faster"), [(short, long, True), (long, short, False)])
def test_a_side_that_takes_longer_has_the_ratio_on_its_other_side_of_1(ours, other, faster):
    row = compared("sleep", ours, other, least=1, rounds=3, note="of a kind")
    assert (row.value > 2) is faster and (row.value < 0.5) is not faster
    assert row.spread[0] <= row.value <= row.spread[1]
    assert row.met is faster and row.promise == ">= 1" and row.note.endswith("; of a kind")


def test_sides_take_turns():
    calls = []
    compared("turns", lambda: calls.append("ours"), lambda: calls.append("other"), rounds=2)
    assert calls == ["ours", "other"] * 2


def test_values_are_medians_with_quartiles_by_hand():
    row = ratio("by hand", [(1, 2), (1, 4), (2, 2)], least=2)
    assert (row.value, row.spread, row.met) == (2, (1.5, 3), True)
    row = measured("by hand", [4, 1, 2], "s", most=1.9)
    assert (row.value, row.spread, row.met, row.unit) == (2, (1.5, 3), False, "s")
    assert measured("once", [4], "s").spread is None


@pytest.mark.parametrize(
    ("value", "arguments", "words", "met"),
    [
        (1, {}, "", None),
        (2, {"least": 1.5}, ">= 1.5", True),
        (1.4, {"least": 1.5}, ">= 1.5", False),
        (0.5, {"most": 0.5, "unit": "s"}, "<= 0.5 s", True),
        (0.6, {"most": 0.5, "unit": "s"}, "<= 0.5 s", False),
    ],
)
def test_a_promise_is_met_or_not(value, arguments, words, met):
    row = measured("by hand", [value], **arguments)
    assert (row.promise, row.met) == (words, met)


def test_apart_is_another_process_whose_errors_arrive():
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        apart(divmod, 1, 0)


def test_everything_has_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = "import benchmarks.harness, torch; print(torch.get_num_threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


def mebibytes(count):
    np.ones((5 * count, 2**20), np.uint8)  # a peak of its own, which does not count
    return (np.ones((count, 2**20), np.uint8),)


def doubled(values):
    return np.concatenate([values, values])


def test_peak_memory_is_what_a_function_takes_beyond_its_input():
    assert 95 < peak_mib(mebibytes, doubled, 50) < 145  # 50 given, 100 made
    assert peak_mib(mebibytes, len, 50) < 10


def test_missing_modules_are_named():
    assert missing("torch", "no_such_module", "json", "nor_this") == "no_such_module, nor_this"
    assert missing("torch") == ""


ROWS = [
    Row("fast", 2, (1.5, 2.5), ">= 1", True, "a|b"),
    Row("slow", 0.5, None, ">= 1", False),
    Row("big", 12345.6, unit="MiB"),
    Row("absent", note="torchvision is not installed"),
]


def test_a_table_shows_every_cell():
    head, *lines = table(ROWS).splitlines()
    assert head.split() == ["what", "measured", "quartiles", "promise", "note"]
    assert lines[0].split() == ["fast", "2.00", "1.50", "..", "2.50", ">=", "1", "met", "a|b"]
    assert lines[1].split() == ["slow", "0.50", ">=", "1", "NOT", "MET"]
    assert lines[2].split() == ["big", "12,346", "MiB"]
    assert lines[3].split() == ["absent", "-", "torchvision", "is", "not", "installed"]


def test_a_table_of_markdown_has_as_many_cells_in_each_line():
    lines = markdown(ROWS).replace(r"\|", "").splitlines()[2:-1]
    assert len(lines) == len(ROWS) + 2
    assert {line.count("|") for line in lines} == {7}
    assert lines[2] == "| fast | 2.00 | 1.50 .. 2.50 | >= 1 | met | ab |"
