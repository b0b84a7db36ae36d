"""python -m compatkit list | run EXPERIMENT ... | verify EXPERIMENT ... | status | book | upgrade"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do as it says. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status = options.command(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\ncompatkit: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        print(f"compatkit: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m compatkit", description="Run the experiments of the book, and the book."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the experiments: which figure or table each one is, and what it takes")
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="make the runs of an experiment that have no record yet")
    run.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="one or several, or all")
    run.add_argument("--preset", default="laptop", help="smoke, laptop (default), cifar or paper")
    run.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="instead of those of the preset; 0-4 is a range")
    run.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
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
    run.set_defaults(command=_run)

    verify = commands.add_parser(
        "verify", help="make a sample of stale runs anew: if all give the same bits, none is stale any more"
    )
    verify.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="one or several, or all")
    verify.add_argument("--preset", default="laptop")
    verify.add_argument("--jobs", type=int, default=1, help="processes at once (default 1)")
    verify.set_defaults(command=_verify)

    status = commands.add_parser("status", help="what is recorded: runs, seeds, minutes, stale records")
    status.set_defaults(command=_status)

    book = commands.add_parser("book", help="execute the chapters, write them back, build _build/html")
    book.add_argument("--preset", help="instead of each chapter's own")
    book.add_argument("--no-build", action="store_true", help="execute only")
    book.set_defaults(command=_book)

    upgrade = commands.add_parser(
        "upgrade",
        help="carry a gallery of embeddings into the space of a new model",
        description="Fit maps from old embeddings to new ones on pairs of both, compare them on held-out pairs, say "
        "which to use or that none is worth it, and put the gallery through it. Files are .npy, .npz (compatkit.store) "
        "or .parquet (columns embedding, and perhaps id, side and label). Interrupted, the same command goes on. "
        "Exit status: 0 done, 1 failed, 2 bad input, 3 advised against and nothing written.",
    )
    upgrade.add_argument("--old", required=True, metavar="FILE", help="embeddings of some items by the old model")
    upgrade.add_argument("--new", required=True, metavar="FILE", help="of the same items by the new one")
    upgrade.add_argument("--side", metavar="FILE", help="side-information of these items")
    upgrade.add_argument("--labels", metavar="FILE", help="of these items: compare as retrieval by class, too")
    upgrade.add_argument("--gallery", metavar="FILE", help="embeddings by the old model that are to become new ones")
    upgrade.add_argument("--gallery-side", metavar="FILE", help="side-information of the gallery")
    upgrade.add_argument("--out", metavar="FILE", help="the new gallery, of the same suffix as the gallery")
    upgrade.add_argument("--method", default="auto", help="auto (default), identity, procrustes, ridge or h")
    upgrade.add_argument(
        "--enough", type=float, default=0.5, help="share of neighbours that a map must keep, without labels (0.5)"
    )
    upgrade.add_argument(
        "--backfill-seconds", type=float, metavar="S", help="what the new model takes for 10 000 items"
    )
    upgrade.add_argument("--width", type=int, default=512, help="of h (default 512; the paper: 2048)")
    upgrade.add_argument("--steps", type=int, default=2_000, help="of the training of h (default 2000)")
    upgrade.add_argument("--seed", type=int, default=0)
    upgrade.add_argument("--chunk", type=int, default=16_384, help="rows in memory at a time (default 16384)")
    upgrade.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    upgrade.add_argument("--dry-run", action="store_true", help="compare only; the gallery may be left out")
    upgrade.add_argument("--overwrite", action="store_true", help="replace the file at --out")
    upgrade.set_defaults(command=_upgrade)
    return parser


def _list(options: argparse.Namespace) -> None:
    from .experiments import EXPERIMENTS, PRESETS, runner

    for name, experiment in EXPERIMENTS.items():
        counts = ", ".join(f"{len(runner.configs(name, preset))} at {preset}" for preset in PRESETS)
        print(f"{name}\n    " + "\n    ".join([*_docstring(experiment), f"Runs: {counts}."]))


def _run(options: argparse.Namespace) -> int:
    from .experiments import runner
    from .results import provenance_line

    names, failed = _experiments(options), False
    for name in names:  # before the first run, not after an hour
        runner.configs(name, options.preset, options.seeds, dict(options.settings))
    try:
        for name in names:
            try:
                records = runner.records(
                    name,
                    options.preset,
                    seeds=options.seeds,
                    settings=dict(options.settings),
                    jobs=options.jobs,
                    threads=options.threads,
                    device=options.device,
                    refresh=options.refresh,
                )
                print(f"{name}: {provenance_line(records)}", flush=True)
            except runner.RunsFailed as error:
                failed = True
                print(f"compatkit: {name}: {error}", file=sys.stderr)
                if not isinstance(error.__cause__, ValueError | OSError | ImportError | FloatingPointError):
                    traceback.print_exception(error.__cause__)  # not a mistake of the user's: show where it happened
    except KeyboardInterrupt:
        print(
            "\ncompatkit: interrupted. Finished runs are recorded and unfinished ones have left checkpoints: "
            "the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    return int(failed)


def _verify(options: argparse.Namespace) -> int:
    from .experiments import verification

    try:
        noted = verification.verify(_experiments(options), options.preset, jobs=options.jobs)
    except verification.RunsDiffer as error:
        print(f"compatkit: the records stay stale: {error}", file=sys.stderr)
        return 1
    for note in noted:
        print(f"{note['before']} -> {note['after']}: {len(note['runs'])} runs made anew, the same bits")
    if not noted:
        print(f"Nothing to verify: no run that {options.preset} plans has a stale record.")
    return 0


def _experiments(options: argparse.Namespace) -> list[str]:
    from .experiments import EXPERIMENTS

    return list(EXPERIMENTS) if options.experiments == ["all"] else options.experiments


def _status(options: argparse.Namespace) -> None:
    from .experiments import EXPERIMENTS, PRESETS, runner
    from .results import is_stale, load, load_all, results_root

    print(f"records in {results_root()}")
    print(f"{'experiment':<17}{'preset':<9}{'recorded':>9}{'planned':>9}{'other':>7}{'stale':>7}{'minutes':>9}")
    stored = {preset: load_all(preset).values() for preset in PRESETS}
    for name in EXPERIMENTS:
        for preset in PRESETS:
            planned = {runner.run_id(config) for config in runner.configs(name, preset)}
            records = [r for r in stored[preset] if r["run_id"] in planned]
            others = [r for r in load(name, preset) if r["run_id"] not in planned]
            recorded, other = len(records), len(others)
            stale = sum(map(is_stale, records + others))
            minutes = sum(r["provenance"]["wall_seconds"] for r in records + others) / 60
            print(f"{name:<17}{preset:<9}{recorded:>9}{len(planned):>9}{other:>7}{stale:>7}{minutes:>9.1f}")


def _book(options: argparse.Namespace) -> None:
    from . import book

    book.execute(preset=options.preset, progress=True)
    if not options.no_build:
        print(f"open {book.build() / 'index.html'}")


def _upgrade(options: argparse.Namespace) -> int:
    from .upgrade import upgrade

    try:
        done = upgrade(**{name: value for name, value in vars(options).items() if name != "command"})
    except FileNotFoundError:
        raise
    except (OSError, ImportError, FloatingPointError) as error:
        print(f"compatkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncompatkit: interrupted: the same command goes on from here.", file=sys.stderr)
        return 130
    if done.out is not None:
        print(f"Written with {done.method}: {done.out}")
    elif not options.dry_run:
        print("Nothing was written; name a map with --method to do so all the same.")
        return 3
    return 0


def _docstring(function: Any) -> list[str]:
    import inspect

    return inspect.getdoc(function).splitlines()


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
