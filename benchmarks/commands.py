"""What is paid before anything is trained: CPU seconds of commands and imports, and of finding the record of a run.

A command or an import is a process of its own, whose start is included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from compatkit.files import write_atomically
from reproduction import pages
from reproduction.experiments import configs
from reproduction.experiments.settings import KINDS
from reproduction.records import store
from reproduction.records.index import index
from reproduction.records.provenance import is_stale
from reproduction.runs.runner import named

from .harness import Row, measured, seconds

COMMANDS = {
    "python alone": (["-c", ""], None),
    "python -m reproduction list": (["-m", "reproduction", "list"], 0.5),
    "python -m reproduction status": (["-m", "reproduction", "status"], 1.5),
    "gallerykit --help": (["-m", "gallerykit", "--help"], 0.5),
}
"""What each is called as, and the CPU seconds that are promised."""
PAGES = [f"reproduction.pages.{file.stem}" for file in sorted(Path(pages.__file__).parent.glob("[!_]*.py"))]
IMPORTS = dict.fromkeys(PAGES, 1.0) | {"compatkit.similarity": None}
"""Modules, and the CPU seconds that are promised; torch alone takes longer."""


def measure(quick: bool = False) -> list[Row]:
    rounds = 1 if quick else 5
    called = COMMANDS | {f"import {name}": (["-c", f"import {name}"], most) for name, most in IMPORTS.items()}
    taken = {what: [] for what in called}
    for _ in range(rounds):
        for what, (arguments, _) in called.items():
            taken[what].append(cpu_seconds(arguments))
    rows = [measured(what, taken[what], "s", most) for what, (_, most) in called.items()]
    return [*rows, *of_records(200 if quick else 5_000, 5 if quick else 100)]


def cpu_seconds(arguments: list[str]) -> float:
    """That Python takes in a process of its own with these arguments."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=store.CHECKOUT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def of_records(count: int, more: int) -> list[Row]:
    """Milliseconds of finding one run in a store of ``count`` records, of which ``more`` are added one by one."""
    records = list(generated(count + more))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lines = (json.dumps(record) for _, record in records[:count])
        write_atomically(root / "laptop" / "fig2.jsonl", "".join(f"{line}\n" for line in lines))
        first = seconds(lambda: index("laptop", root, KINDS))
        found = []
        for config, record in records[count:]:
            store.append(record, root)
            look_up = partial(find, config, root)
            found.append(1e3 * seconds(look_up))
            assert look_up() == record
    stale = [1e3 * seconds(partial(is_stale, record)) for _, record in records]
    return [
        measured(
            f"a run's record among {count:,}", found, "ms", 1, note=f"all of them are read once, in {first:.2g} s"
        ),
        measured("whether a record is stale", stale, "ms"),
    ]


def find(config: object, root: Path) -> dict | None:
    return index("laptop", root, KINDS).record(config)


def generated(count: int) -> Iterator[tuple[object, dict]]:
    """Runs and their records: those that are stored of Fig. 2, under seeds of their own."""
    config = configs("fig2", "laptop", [0])[0]
    like = next(iter(store.load_all("laptop", store.CHECKOUT / "results").values()))
    for seed in range(count):
        one = replace(config, seed=seed)
        kind, settings = named(one)
        run_id = store.run_id(kind, settings, like["data"])
        yield one, like | {"kind": kind, "config": settings, "seed": seed, "run_id": run_id}
