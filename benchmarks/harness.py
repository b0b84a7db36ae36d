"""What the benchmarks share: sides timed in turns, memory in a process of its own, and a table of rows.

A benchmark is a module with ``measure(quick=False) -> list[Row]``. Every value is of this run; a ratio is over 1 where
ours is better. Memory is read from /proc, so on Linux alone.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float | None = None
    """the other's time by ours, or with a unit what was measured; None where it could not be"""
    spread: tuple[float, float] | None = None
    """quartiles of the rounds"""
    promise: str = ""
    met: bool | None = None
    """None without a promise, or without a value"""
    note: str = ""
    """seconds and memory, what bounds the value, or why there is none"""
    unit: str = ""
    """of value and spread; empty for a ratio"""


def compared(
    what: str, ours: Callable, other: Callable, least: float | None = None, *, rounds: int = 5, note: str = ""
) -> Row:
    """Time of ``other`` by that of ``ours``, which take turns: the median of the rounds and its quartiles.

    least: what is promised; None for information. Call both once before, so that imports and caches are not timed.
    """
    return ratio(what, [(seconds(ours), seconds(other)) for _ in range(rounds)], least, note=note)


def ratio(what: str, turns: Sequence[tuple[float, float]], least: float | None = None, *, note: str = "") -> Row:
    """``compared`` for what was timed already: seconds of ours and of the other in each round."""
    own, theirs = (statistics.median(side) for side in zip(*turns, strict=True))
    note = f"{own:.3g} s against {theirs:.3g} s" + (f"; {note}" if note else "")
    return measured(what, [theirs / own for own, theirs in turns], least=least, note=note)


def measured(
    what: str,
    values: Sequence[float],
    unit: str = "",
    most: float | None = None,
    *,
    least: float | None = None,
    note: str = "",
) -> Row:
    """What is measured, in ``unit``: the median of the rounds and its quartiles. most, least: what is promised."""
    value, spread = statistics.median(values), None
    if len(values) > 1:
        spread = tuple(statistics.quantiles(values, n=4, method="inclusive")[::2])
    if least is not None:
        return Row(what, value, spread, f">= {least:g} {unit}".rstrip(), value >= least, note, unit)
    promise, met = ("", None) if most is None else (f"<= {most:g} {unit}".rstrip(), value <= most)
    return Row(what, value, spread, promise, met, note, unit)


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


def apart(function: Callable, *arguments) -> Any:
    """``function(*arguments)`` in a new process. The function is named in a module."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_mib(prepare: Callable, function: Callable, *arguments) -> float:
    """MiB that ``function(*prepare(*arguments))`` takes above what was held before, in a process of its own.

    Both are found by name in a module. What imports take belongs into ``prepare``, and temporary tensors do not: the C
    library keeps their memory and hides what is measured.
    """
    return apart(_peak_here, prepare, function, arguments)


def _peak_here(prepare: Callable, function: Callable, arguments: tuple) -> float:
    inputs = prepare(*arguments)
    forget_peak()
    before = resident_mib("VmRSS")
    function(*inputs)
    return resident_mib("VmHWM") - before


def forget_peak() -> None:
    """``VmHWM`` begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_mib(name: str) -> float:
    """Resident memory of this process, now (``VmRSS``) or at its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


HEAD = ("what", "measured", "quartiles", "promise", "", "note")


def table(rows: Iterable[Row]) -> str:
    """The rows as text."""
    lines = [HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table of the book, which has a class of its own: its notes are long."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (HEAD, *map(_cells, rows))]
    lines.insert(1, ["---", "--:", "--:", "--:", "---", "---"])
    return "\n".join(
        [":::{table}", ":class: compatkit-benchmarks", *(f"| {' | '.join(line)} |" for line in lines), ":::"]
    )


def _cells(row: Row) -> tuple[str, ...]:
    value = "-" if row.value is None else f"{_number(row.value, row.unit)} {row.unit}".rstrip()
    spread = "" if row.spread is None else " .. ".join(_number(end, row.unit) for end in row.spread)
    met = {True: "met", False: "NOT MET", None: ""}[row.met]
    return row.what, value, spread, row.promise, met, row.note


def _number(value: float, unit: str) -> str:
    if not unit:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
