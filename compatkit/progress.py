"""Progress of long work: a line where a person is watching (a terminal or a live notebook), silence elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator


def progress(start: int, stop: int, label: str, unit: str = "step", shown: bool = True) -> Iterator[int]:
    """Count from ``start`` to ``stop`` with rate and time left, said at most twice a second while it runs."""
    say = _line() if shown and start < stop else None
    began = said = time.monotonic()
    for i in range(start, stop):
        yield i
        now = time.monotonic()
        if say and now - said >= 0.5:
            said, rate = now, (i + 1 - start) / (now - began)
            say(f"{label}: {i + 1} of {stop} {unit}s, {rate:.3g} a second, {(stop - i - 1) / rate:.0f} s left")
    if say:
        say("")  # nothing stays: the line was for those who watched, and a chapter's output must not depend on it


def _line() -> Callable[[str], object] | None:
    """A function that replaces the text of a line, or None where nobody is watching."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if type(shell).__name__ == "ZMQInteractiveShell":  # of a notebook
        from IPython.display import display

        line = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text: line.update({"text/plain": text}, raw=True)
    if sys.stderr.isatty():
        return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    return None
