"""python -m reproduction list | settings | run EXPERIMENT ... | export | status | golden | book"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from gallerykit import command_line
from gallerykit.scheduler import workers_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says. Returns the exit status."""
    return command_line.run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m reproduction", description="Run the experiments of the book, and the book."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the experiments: which figure or table each one is, and what it takes")
    listing.set_defaults(command=_list)

    shown = commands.add_parser("settings", help="every setting of an experiment, by the names that --set takes")
    shown.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all")
    shown.add_argument("--preset", default="paper", help="smoke, laptop, cifar, cifar-cpu or paper (default)")
    shown.set_defaults(command=_settings)

    run = commands.add_parser("run", help="make the runs of an experiment that have no record yet")
    run.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="one or several, or all")
    run.add_argument("--preset", default="laptop", help="smoke, laptop (default), cifar, cifar-cpu or paper")
    run.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="instead of those of the preset; 0-4 is a range")
    run.add_argument("--rows", type=_rows, default=(), metavar="ROW;ROW", help="only these rows of the experiment")
    run.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    run.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a scheduler of Dask, such as tcp://host:8786, whose workers (dask worker ADDRESS --nthreads 1) make "
        "the runs in place of --jobs; results and images must be on a disk that all share; needs compatkit[dask]",
    )
    run.add_argument(
        "--threads", type=int, default=1, help="threads of each process (default 1: best for small networks)"
    )
    run.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        dest="settings",
        help="change a setting of all runs, such as b=tin10 or recipe.steps=2000; may be repeated",
    )
    run.add_argument("--refresh", action="store_true", help="make runs again whose code has changed since")
    interrupted = (
        "interrupted. Finished runs are recorded and unfinished ones have left checkpoints: the same command goes on "
        "from there."
    )
    run.set_defaults(command=_run, interrupted=interrupted)

    golden = commands.add_parser(
        "golden", help="make the golden runs and compare them with the numbers pinned in results/golden.json"
    )
    golden.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all")
    golden.add_argument(
        "--accept", action="store_true", help="pin what the code computes now; records of what changed become stale"
    )
    golden.set_defaults(command=_golden)

    export = commands.add_parser(
        "export", help="train what readers try in the pages, half a minute to three for each, and write it"
    )
    export.add_argument(
        "names", nargs="*", metavar="NAME", help="methods of Fig. 2, or searches; default: all that the pages offer"
    )
    export.add_argument("--preset", default="laptop", help="smoke, laptop (default), cifar, cifar-cpu or paper")
    export.add_argument("--output", metavar="FOLDER", help="default: book/_static/exported of this checkout")
    export.set_defaults(command=_export)

    status = commands.add_parser("status", help="what is recorded: runs, seeds, minutes, stale records")
    status.set_defaults(command=_status)

    book = commands.add_parser("book", help="execute the chapters and build _build/html")
    book.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="execute these alone, such as book/index; default: all"
    )
    book.add_argument("--preset", help="instead of each chapter's own")
    book.add_argument(
        "--store",
        action="store_true",
        help="write the executed chapters, and the README's picture of the landing page, into the sources as well",
    )
    book.set_defaults(command=_book)
    return parser


def _list(options: argparse.Namespace) -> None:
    from .experiments import EXPERIMENTS, PRESETS, configs
    from .experiments.settings import KINDS
    from .records.index import index
    from .records.provenance import cpu_minutes

    indices = {preset: index(preset, None, KINDS) for preset in PRESETS}
    for name, experiment in EXPERIMENTS.items():
        planned = {preset: configs(name, preset) for preset in PRESETS}
        counts = ", ".join(f"{len(runs)} at {preset}" for preset, runs in planned.items())
        found = {preset: list(filter(None, map(indices[preset].record, runs))) for preset, runs in planned.items()}
        made = {preset: records for preset, records in found.items() if records}
        costs = [f"{len(records)} runs at {p} took {cpu_minutes(records)} minutes" for p, records in made.items()]
        took = f"On record, of one core: {', '.join(costs)}." if costs else "Nothing is on record."
        text = inspect.getdoc(experiment) or ""
        print(f"{name}\n    " + "\n    ".join([*text.splitlines(), f"Runs: {counts}.", took]))


def _settings(options: argparse.Namespace) -> None:
    from .experiments import configs
    from .experiments.presets import settings

    for name in _experiments(options):
        values: dict[str, dict[str, None]] = {}
        for config in configs(name, options.preset):
            for setting, value in settings(config).items():
                values.setdefault(setting, {})[str(value) or "-"] = None
        print("\n    ".join([name, *(f"{setting:<28} {' | '.join(several)}" for setting, several in values.items())]))


def _run(options: argparse.Namespace) -> int:
    from .experiments import configs
    from .runs import runner

    names, settings = _experiments(options), dict(options.settings)
    planned = [configs(name, options.preset, options.seeds, settings, options.rows) for name in names]
    runner.check(runner.missing([c for configs in planned for c in configs], options.preset))  # not after an hour
    with workers_of(options.scheduler) as executor:
        return int(not all([_made(name, options, executor) for name in names]))


def _made(name: str, options: argparse.Namespace, executor: Executor | None) -> bool:
    """Make the runs of an experiment, and say so. Returns whether none failed."""
    from .records.provenance import summary
    from .runs import runner

    chosen = {option: getattr(options, option) for option in ("seeds", "rows", "jobs", "threads", "device", "refresh")}
    try:
        records = runner.records(name, options.preset, settings=dict(options.settings), executor=executor, **chosen)
    except runner.RunsFailed as error:
        command_line.say(f"{name}: {error}", _parser())
        if not isinstance(error.__cause__, ValueError | OSError | ImportError | FloatingPointError | None):
            traceback.print_exception(error.__cause__)  # not a mistake of the user's: show where it happened
        return False
    print(f"{name}: {summary(records)}", flush=True)
    return True


def _experiments(options: argparse.Namespace) -> list[str]:
    from .experiments import EXPERIMENTS

    names = list(EXPERIMENTS) if options.experiments in (["all"], []) else options.experiments
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise ValueError(f"experiment: must be one of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}")
    return names


def _export(options: argparse.Namespace) -> None:
    from .book import EXPORTED
    from .runs.export import networks, searches

    folder, names = options.output or EXPORTED, options.names or [*networks.METHODS, "searches"]
    runs = [networks.run_of(name, options.preset) for name in names if name != "searches"]
    for run in runs:
        path, made = networks.export(run, options.preset, folder)
        parts = [c for c in made.header["combinations"] if c["split"] in (None, made.header["trained_split"])]
        _report(run, path, {f"extractor {c['extractor']}, head {c['head']}": c for c in parts})
    if "searches" in names:
        search = searches.run_of(options.preset)
        path, content = searches.export(search, options.preset, folder)
        _report(search, path, {case["name"]: case for case in content["cases"]})


def _report(run: object, path: Path, measured: Mapping[str, Mapping[str, float]]) -> None:
    print(f"{run}: {path}, {path.stat().st_size / 1000:.0f} KB")
    for name, found in measured.items():
        recorded = "none" if found["recorded"] is None else f"{100 * found['recorded']:.1f} %"
        print(f"    {name}: {100 * found['accuracy']:.1f} %, on record {recorded}", flush=True)


def _status(options: argparse.Namespace) -> None:
    from .experiments import EXPERIMENTS, PRESETS, configs
    from .experiments.settings import KINDS
    from .records.index import index
    from .records.provenance import is_stale
    from .records.store import load_all, results_root

    print(f"records in {results_root()}")
    header = f"{'experiment':<17}{'preset':<9}{'recorded':>9}{'planned':>9}{'seeds':>7}{'other':>7}{'stale':>7}"
    print(f"{header}{'minutes':>9}")
    stored = {preset: load_all(preset) for preset in PRESETS}
    found = {preset: index(preset, None, KINDS) for preset in PRESETS}
    for name in EXPERIMENTS:
        for preset in PRESETS:
            planned = configs(name, preset)
            records = {r["run_id"]: r for r in map(found[preset].record, planned) if r is not None}
            others = [r for r in stored[preset].values() if r["experiment"] == name and r["run_id"] not in records]
            every = [*records.values(), *others]
            minutes = sum(r["provenance"]["wall_seconds"] for r in every) / 60
            seeds = len({r["seed"] for r in records.values()})
            counts = seeds, len(others), sum(map(is_stale, every))
            line = f"{name:<17}{preset:<9}{len(records):>9}{len(planned):>9}" + "".join(f"{n:>7}" for n in counts)
            print(f"{line}{minutes:>9.1f}")


def _golden(options: argparse.Namespace) -> int:
    from .experiments import EXPERIMENTS
    from .records import pins
    from .runs import golden

    names = _experiments(options)
    known: dict = {}
    pinned, moved = pins.pinned(), 0
    now = {}
    images = golden.images()
    with golden.golden_world():
        for name in names:
            now |= golden.measured([name], known)
            changes = pins.changed(pinned.of(name), now[name])
            state = f"{len(changes)} runs differ" if changes else "as pinned"
            state = state if name in pinned.versions else "not pinned yet"
            print(f"{name}: {state}", flush=True)
            for run, differences in changes.items():
                print(f"    {run}: {'; '.join(differences[:3])}{' ...' * (len(differences) > 3)}")
            moved += bool(changes)
    drawn = [name for name, digest in images.items() if digest not in pinned.images.get(name, [])[:1]]
    if drawn:
        print(f"images: {', '.join(drawn)} are drawn otherwise")
    if options.accept:
        pins.write(pins.accepted(pinned, {name: now[name] for name in EXPERIMENTS if name in now}, images))
        print(f"Pinned: {pins.PINNED.name}. Records of the experiments and image sets named above are stale.")
        return 0
    return int(bool(moved or drawn))


def _book(options: argparse.Namespace) -> None:
    from . import book

    print(f"open {book.make(options.chapters, preset=options.preset, store=options.store) / 'index.html'}")


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found = range(int(first), int(last or first) + 1)
        except ValueError:
            found = ()
        if not found:
            raise argparse.ArgumentTypeError(f"seeds are numbers or rising ranges, such as 0,1,5-7, got {text!r}")
        seeds += found
    return seeds


def _rows(text: str) -> list[str]:
    return [row.strip() for row in text.split(";")]


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as the name of a data set


if __name__ == "__main__":
    sys.exit(main())
