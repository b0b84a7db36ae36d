"""python -m benchmarks [--quick] [NAME ...]: measure, print the tables, and write the page of the book.

The page shows one whole run: none is written where names are given, or ``--quick``.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from compatkit.files import write_atomically
from reproduction.records.provenance import processor

from .harness import Row, markdown, table

BENCHMARKS = {
    "similarity": "Similarity",
    "retrieval": "Retrieval",
    "training": "Training",
    "gpu": "Training on a GPU",
    "gallery": "A gallery that is carried over",
    "commands": "Commands, pages and records",
}
"""Modules of this package, and the headings of their sections."""
PAGE = Path(__file__).parents[1] / "book" / "benchmarks.md"
OTHERS = ("numpy", "scipy", "scikit-learn", "torchvision", "torch-cka", "pytorch-cka", "pytorch-metric-learning")
"""Distributions that ours is measured against, or that do the work on both sides."""

INTRODUCTION = """\
# Benchmarks

How fast the two packages are beside plain code and beside the libraries that people use for the same, and how much
memory they take. **{kept} of {promised} promises are met.** `make bench` measures all of it in less than ten minutes
and writes this page. The numbers are of one machine, and others give others:

{machine}

A number without a unit is a *ratio*: the time of the other side divided by ours, so that over 1 ours is faster. One
with a unit is what was measured. Everything runs on one thread. The two sides of a ratio take turns, so that a machine
that has other work disturbs both alike; the value is the median of the rounds, and beside it stand their quartiles.
Some rows carry a promise, and whether it was met. The others are for information: where the network's own arithmetic
bounds a ratio, the note says so.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says. Returns 1 where a promise is not met, but for ``--quick``."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure, and write the page of the book.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: only whether all of it runs")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"NAME: must be one of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    found = {name: measured(name, options.quick) for name in options.names or BENCHMARKS}
    if not options.names and not options.quick:
        write_atomically(PAGE, page(found))
        print(f"written: {PAGE}")
    broken = [row.what for rows in found.values() for row in rows if row.met is False and not options.quick]
    print("\n".join(f"not met: {what}" for what in broken), end="\n" * bool(broken))
    return int(bool(broken))


def measured(name: str, quick: bool) -> list[Row]:
    """The rows of one benchmark, which are printed as well."""
    print(f"{name} ...", flush=True)
    start = time.monotonic()
    rows = importlib.import_module(f".{name}", __package__).measure(quick)
    print(f"{table(rows)}\n({time.monotonic() - start:.0f} s)\n", flush=True)
    return rows


def page(found: Mapping[str, Sequence[Row]]) -> str:
    """The page of the book: a section for each benchmark, with what its module says and its table."""
    sections = (f"## {BENCHMARKS[name]}\n\n{_about(name)}\n\n{markdown(rows)}\n" for name, rows in found.items())
    kept = [row.met for rows in found.values() for row in rows if row.met is not None]
    introduction = INTRODUCTION.format(machine=_machine(), promised=len(kept), kept=sum(kept))
    return "\n".join((introduction, *sections))


def _about(name: str) -> str:
    return inspect.getdoc(importlib.import_module(f".{name}", __package__)).replace("``", "`")


def _machine() -> str:
    """A list of what the numbers depend on."""
    versions = {found.name.lower().replace("_", "-"): found.version for found in metadata.distributions()}
    lines = {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "beside it": ", ".join(f"{name} {versions[name]}" for name in OTHERS if name in versions),
        "day": time.strftime("%Y-%m-%d"),
    }
    return "\n".join(f"- {what}: {value}" for what, value in lines.items())


if __name__ == "__main__":
    sys.exit(main())
