"""Progress of long work: a bar where a person is watching (a terminal or a live notebook), silence elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator


def progress(start: int, stop: int, label: str, unit: str = "step", shown: bool = True) -> Iterator[int]:
    """Count from ``start`` to ``stop`` with rate and time left. A notebook shows the bar only while it runs."""
    if not shown or start >= stop:
        return iter(range(start, stop))
    return _in_notebook(start, stop, label, unit) if _is_notebook() else _in_terminal(start, stop, label, unit)


def _in_terminal(start: int, stop: int, label: str, unit: str) -> Iterator[int]:
    try:
        from tqdm import tqdm
    except ImportError:  # the training path promises to run with torch and numpy alone
        yield from _in_plain_lines(start, stop, label, unit)
        return
    # disable=None: no bar where standard error is not a terminal
    yield from tqdm(range(start, stop), label, stop, initial=start, unit=unit, disable=None, leave=False)


def _in_plain_lines(start: int, stop: int, label: str, unit: str) -> Iterator[int]:
    clock, text = _Clock(start, stop, label, unit), None
    for i in range(start, stop):
        yield i
        if sys.stderr.isatty() and (text := clock.text(i) or text):
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
    if text:
        print(file=sys.stderr)


def _in_notebook(start: int, stop: int, label: str, unit: str) -> Iterator[int]:
    from IPython.display import Markdown, display

    clock = _Clock(start, stop, label, unit)
    line = display(Markdown(f"{label} ..."), display_id=True)
    for i in range(start, stop):
        yield i
        if text := clock.text(i):
            line.update(Markdown(text))
    # nothing stays: the bar was for those who watched, and a chapter's stored output must not depend on it
    line.update({"text/plain": ""}, raw=True)


def _is_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Clock:
    """What to say of the progress, at most twice a second."""

    def __init__(self, start: int, stop: int, label: str, unit: str):
        self.start, self.stop, self.label, self.unit = start, stop, label, unit
        self.began = self.said = time.monotonic()

    def text(self, i: int) -> str | None:
        now = time.monotonic()
        if now - self.said < 0.5:
            return None
        self.said, rate = now, (i + 1 - self.start) / (now - self.began)
        left = (self.stop - i - 1) / rate
        return f"{self.label}: {i + 1} of {self.stop} {self.unit}s, {rate:.3g} a second, {left:.0f} s left"
