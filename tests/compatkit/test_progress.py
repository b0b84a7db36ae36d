"""Progress: every number once, shown only to somebody."""

import sys

import pytest

from compatkit import progress


@pytest.mark.parametrize("shown", [True, False])
def test_it_counts(shown, capsys):
    assert list(progress.progress(2, 6, "work", shown=shown)) == [2, 3, 4, 5]
    assert list(progress.progress(6, 6, "work", shown=shown)) == []
    assert capsys.readouterr() == ("", ""), "no terminal, no line"


def test_a_terminal_sees_rate_and_time_left_and_nothing_stays(monkeypatch, capsys):
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.progress(0, 4, "work")) == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert "work: 1 of 4 steps, 1 a second, 3 s left" in said and said.endswith("\r\x1b[K")


def test_in_a_notebook_nothing_stays(monkeypatch):
    shown = []

    class Line:
        def update(self, content, raw):
            shown.append(content["text/plain"])

    import IPython
    import IPython.display

    clock, shell = iter(range(100)), type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(IPython.display, "display", lambda content, raw, display_id: Line())
    assert list(progress.progress(0, 3, "work", "run")) == [0, 1, 2]
    assert shown[0] == "work: 1 of 3 runs, 1 a second, 2 s left" and shown[-1] == ""
