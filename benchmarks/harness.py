"""What the benchmarks share: two callables timed in turns, memory in a process of its own, and a table of rows.

A benchmark is a module with ``measure(quick=False) -> list[Row]``. Every ratio is of this run, over 1 where ours is
better. Memory is read from /proc, so on Linux alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ratio: float | None = None
    """the other's time by ours, or what else is promised; None where it could not be measured"""
    spread: tuple[float, float] | None = None
    """quartiles of the rounds"""
    promise: str = ""
    met: bool | None = None
    """None without a promise, or without a ratio"""
    note: str = ""
    """seconds and memory, or why there is no ratio"""


def compared(
    what: str, ours: Callable, other: Callable, least: float | None = None, *, rounds: int = 5, note: str = ""
) -> Row:
    """Time of ``other`` by that of ``ours``, which take turns: the median of the rounds and its quartiles.

    least: what is promised; None for information. Call both once before, so that imports and caches are not timed.
    """
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    ratios = [theirs / own for own, theirs in pairs]
    ratio, (low, _, high) = statistics.median(ratios), statistics.quantiles(ratios, n=4, method="inclusive")
    own, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    note = f"{own:.3g} s against {theirs:.3g} s" + (f"; {note}" if note else "")
    return Row(what, ratio, (low, high), *promised(ratio, least), note)


def promised(ratio: float, least: float | None) -> tuple[str, bool | None]:
    """What is promised in words, and whether it is met."""
    return ("", None) if least is None else (f">= {least:g}", ratio >= least)


def seconds(function: Callable) -> float:
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def missing(*modules: str) -> str:
    """The modules of ``modules`` that are not installed, with commas; empty where all are there."""
    return ", ".join(name for name in modules if importlib.util.find_spec(name) is None)


def peak_mib(prepare: Callable, function: Callable, *arguments) -> float:
    """MiB that ``function(*prepare(*arguments))`` takes above what was held before, in a process of its own.

    Both are found by name in a module. What imports take belongs into ``prepare``, and temporary tensors do not: the C
    library keeps their memory and hides what is measured.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (prepare, function, arguments))


def _peak_here(prepare: Callable, function: Callable, arguments: tuple) -> float:
    torch.set_num_threads(1)
    inputs = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    function(*inputs)
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def table(rows: Iterable[Row]) -> str:
    head = ("what", "ratio", "quartiles", "promise", "", "note")
    lines = [head, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    spread = "" if row.spread is None else f"{row.spread[0]:.2f} .. {row.spread[1]:.2f}"
    met = {True: "met", False: "NOT MET", None: ""}[row.met]
    return row.what, ratio, spread, row.promise, met, row.note


def main(description: str | None, measure: Callable[[bool], list[Row]]) -> None:
    """Command line of one benchmark: ``python benchmarks/NAME.py [--quick]``. Fails where a promise is not met."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds: whether all of it runs")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {time.strftime('%Y-%m-%d')}", flush=True)
    rows = measure(quick)
    print(table(rows))
    sys.exit(not quick and any(row.met is False for row in rows))
