"""Progress: every number once, shown only to somebody."""

import builtins
import sys

import pytest

from compatkit import progress


@pytest.mark.parametrize("shown", [True, False])
def test_it_counts(shown, capsys):
    assert list(progress.progress(2, 6, "work", shown=shown)) == [2, 3, 4, 5]
    assert list(progress.progress(6, 6, "work", shown=shown)) == []
    captured = capsys.readouterr()
    assert captured.out == captured.err == "", "no terminal, no bar"


def test_without_tqdm_a_terminal_sees_rate_and_time_left(monkeypatch, capsys):
    original = builtins.__import__

    def no_tqdm(name, *args, **kwargs):
        if name == "tqdm":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    clock = iter(range(100))
    monkeypatch.setattr(builtins, "__import__", no_tqdm)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.progress(0, 4, "work")) == [0, 1, 2, 3]
    assert "work: 1 of 4 steps, 1 a second, 3 s left" in capsys.readouterr().err


def test_in_a_notebook_nothing_stays(monkeypatch):
    shown = []

    class Line:
        def update(self, content, raw=False):
            shown.append(content)

    import IPython.display

    clock = iter(range(100))
    monkeypatch.setattr(progress, "_is_notebook", lambda: True)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(IPython.display, "display", lambda content, display_id: Line())
    assert list(progress.progress(0, 3, "work", "run")) == [0, 1, 2]
    assert shown[0].data == "work: 1 of 3 runs, 1 a second, 2 s left"
    assert shown[-1] == {"text/plain": ""}
