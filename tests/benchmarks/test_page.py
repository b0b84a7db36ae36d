"""``python -m benchmarks`` measures what is asked for; a whole run, and nothing else, writes the page of the book."""

import re
import sys
import time
import types

import pytest
import torch

from benchmarks import __main__ as runner
from benchmarks.harness import Row


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Two benchmarks in place of the real ones, the calls of both, and where the page goes."""
    calls = []
    for name, met in (("first", True), ("second", False)):
        module = types.ModuleType(f"benchmarks.{name}", f"What {name} is.\n\nMore of ``{name}``.")
        rows = [Row(f"a row of {name}", 2, None, ">= 1", met)]
        module.measure = lambda quick, name=name, rows=rows: calls.append((name, quick)) or rows
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    monkeypatch.setattr(runner, "BENCHMARKS", {"first": "The first", "second": "The second"})
    monkeypatch.setattr(runner, "PAGE", tmp_path / "benchmarks.md")
    return types.SimpleNamespace(calls=calls, page=tmp_path / "benchmarks.md")


def test_a_whole_run_writes_the_page_and_fails_where_a_promise_is_broken(made, capsys):
    assert runner.main([]) == 1
    assert made.calls == [("first", False), ("second", False)]
    text = made.page.read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["The first", "The second"]
    assert "More of `first`." in text and "| a row of second | 2.00 |" in text
    assert "**1 of 2 promises are met.**" in text
    assert torch.__version__ in text and time.strftime("%Y-%m") in text
    shown = capsys.readouterr().out
    assert "not met: a row of second" in shown and "not met: a row of first" not in shown


@pytest.mark.parametrize(("arguments", "status"), [(["first"], 0), (["second"], 1), (["--quick"], 0)])
def test_a_part_and_a_quick_run_write_no_page(made, arguments, status):
    assert runner.main(arguments) == status
    assert not made.page.exists()
    assert {quick for _, quick in made.calls} == {"--quick" in arguments}


def test_an_unknown_name_is_told_before_anything_is_measured(made, capsys):
    with pytest.raises(SystemExit) as exit:
        runner.main(["first", "third"])
    assert exit.value.code == 2 and made.calls == []
    assert "NAME: must be one of first, second, got third" in capsys.readouterr().err


def test_the_book_shows_a_run_of_the_benchmarks_that_there_are():
    text = runner.PAGE.read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == list(runner.BENCHMARKS.values())
    met, broken = text.count("| met |"), text.count("| NOT MET |")
    assert f"**{met} of {met + broken} promises are met.**" in text
