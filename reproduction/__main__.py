"""python -m reproduction list | settings | run EXPERIMENT ... | measure NAME | export | status | golden | book"""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .experiments import EXPERIMENTS, PRESETS, configs

if TYPE_CHECKING:
    from concurrent.futures import Executor

INTERRUPTED = (
    "interrupted. Finished runs are recorded and unfinished ones have left checkpoints: the same command goes on from "
    "there."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says. Returns the exit status: 1 where something failed, 2 for bad input."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        with commands.make_context("python -m reproduction", given) as context:
            status = commands.invoke(context)
        sys.stdout.flush()
        return status or 0
    except click.exceptions.Exit as asked:  # for help
        return asked.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        say(error)
        return 2 if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError) else 1


def say(text: object) -> None:
    """A line on standard error."""
    print(f"reproduction: {text}", file=sys.stderr)


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for first, _, last in (part.partition("-") for part in text.split(",")):
        known = first.isdigit() and (last or first).isdigit()
        found = range(int(first), int(last or first) + 1) if known else ()
        if not found:
            raise ValueError(f"numbers or rising ranges are needed, such as 0,1,5-7, got {text!r}")
        seeds += found
    return seeds


def _rows(text: str) -> list[str]:
    return [row.strip() for row in text.split(";") if row.strip()]


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"NAME=VALUE is needed, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as the name of a data set


def _preset(default: str | None, text: str = "of what size") -> Callable:
    return click.option("--preset", type=click.Choice(PRESETS), default=default, show_default=True, help=text)


_experiments = click.argument("experiments", nargs=-1, metavar="[EXPERIMENT ...]")


@click.group()
def commands() -> None:
    """Run the experiments of the book, and the book."""


@commands.command("list")
def list_experiments() -> None:
    """List the experiments: what each one is, and what it takes."""
    from .experiments.evidence import index_of
    from .records.provenance import cpu_minutes

    indices = {preset: index_of(preset) for preset in PRESETS}
    for name, experiment in EXPERIMENTS.items():
        planned = {preset: configs(name, preset) for preset in PRESETS}
        counts = ", ".join(f"{len(runs)} at {preset}" for preset, runs in planned.items())
        found = {preset: list(filter(None, map(indices[preset].record, runs))) for preset, runs in planned.items()}
        costs = [f"{len(made)} runs at {p} took {cpu_minutes(made)} minutes" for p, made in found.items() if made]
        took = f"On record, of one core: {', '.join(costs)}." if costs else "Nothing is on record."
        text = inspect.getdoc(experiment) or ""
        print(f"{name}\n    " + "\n    ".join([*text.splitlines(), f"Runs: {counts}.", took]))


@commands.command()
@_experiments
@_preset("paper")
def settings(experiments: Sequence[str], preset: str) -> None:
    """Print the settings of experiments, as --set takes them."""
    from .experiments.presets import settings as settings_of

    for name in _known(experiments):
        values: dict[str, dict[str, None]] = {}
        for config in configs(name, preset):
            for setting, value in settings_of(config).items():
                values.setdefault(setting, {})[str(value) or "-"] = None
        print("\n    ".join([name, *(f"{setting:<28} {' | '.join(several)}" for setting, several in values.items())]))


@commands.command()
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT ...")
@_preset("laptop")
@click.option("--seeds", type=_seeds, metavar="0,1,5-7", help="instead of those of the preset; 0-4 is a range")
@click.option("--rows", type=_rows, metavar="ROW;ROW", default="", help="only these rows of the experiment")
@click.option("--jobs", default=1, show_default=True, help="processes at once")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="of a scheduler of Dask, such as tcp://host:8786, whose workers (dask worker ADDRESS --nthreads 1) make the "
    "runs in place of --jobs; results and images must be on a disk that all share; needs compatkit[dask]",
)
@click.option("--threads", default=1, show_default=True, help="of each process; 1 is best for small networks")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
@click.option(
    "--set",
    "changes",
    type=_setting,
    metavar="NAME=VALUE",
    multiple=True,
    help="change a setting of all runs, such as b=tin10 or recipe.steps=2000; may be repeated",
)
@click.option("--refresh", is_flag=True, help="make runs again whose code has changed since")
def run(experiments: Sequence[str], preset: str, scheduler: str | None, changes: Sequence, **options: Any) -> int:
    """Make the runs of experiments, or of all, without a record."""
    from gallerykit.scheduler import workers_of

    from .records.pins import pinned
    from .runs import runner

    names, options = _known(experiments), {"settings": dict(changes), **options}
    chosen = {name: options[name] for name in ("seeds", "settings", "rows")}
    planned = [config for name in names for config in configs(name, preset, **chosen)]
    for name in names:
        if name not in pinned().versions:
            say(f"{name} has no golden numbers, so that its records will be stale; golden {name} --accept comes first")
    runner.check(runner.missing(planned, preset))  # not after an hour
    with workers_of(scheduler) as executor:
        return int(not all([_made(name, preset, executor, options) for name in names]))


def _made(name: str, preset: str, executor: Executor | None, options: Mapping[str, Any]) -> bool:
    """Make the runs of an experiment, and say so. Returns whether none failed."""
    import traceback

    from .records.provenance import summary
    from .runs import runner

    try:
        records = runner.records(name, preset, executor=executor, **options)
    except runner.RunsFailed as error:
        say(f"{name}: {error}")
        if not isinstance(error.__cause__, ValueError | OSError | ImportError | FloatingPointError | None):
            traceback.print_exception(error.__cause__)  # not a mistake of the user's: show where it happened
        return False
    print(f"{name}: {summary(records)}", flush=True)
    return True


def _known(experiments: Sequence[str]) -> list[str]:
    names = list(EXPERIMENTS) if list(experiments) in (["all"], []) else list(experiments)
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise ValueError(f"experiment: must be one of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}")
    return names


@commands.command()
@click.argument("name")
@_experiments
@_preset("laptop")
def measure(name: str, experiments: Sequence[str], preset: str) -> None:
    """Add a measure to the records of runs, without training.

    NAME is chance, noise or another measure; the runs are those of the experiments (default: all) whose networks are
    kept.
    """
    from .runs import kept

    for experiment in _known(experiments):
        extended, absent = kept.measure_again(name, experiment, preset)
        if extended or experiments:
            print(f"{experiment}: {len(extended)} runs measured, {absent} without networks that are kept", flush=True)


@commands.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@_preset("laptop")
@click.option("--output", type=click.Path(path_type=Path), help="a folder; default: book/_static/exported")
def export(names: Sequence[str], preset: str, output: Path | None) -> None:
    """Train and write what readers try in the pages.

    Methods of Fig. 2, seams, searches, digits or gallery (default: all), half a minute to three for each.
    """
    from .runs.export import digits, gallery, networks, seams, searches
    from .show.programs import EXPORTED

    others = ("seams", "searches", digits.NAME, gallery.NAME)
    folder, wanted = output or EXPORTED, names or (*networks.METHODS, *others)
    runs = [networks.run_of(name, preset) for name in wanted if name not in others]
    for config in runs:
        path, made = networks.export(config, preset, folder)
        parts = [c for c in made.header["combinations"] if c["split"] in (None, made.header["trained_split"])]
        _report(config, path, {f"extractor {c['extractor']}, head {c['head']}": c for c in parts})
    for method in seams.METHODS if "seams" in wanted else ():
        path, seam = seams.export(method, preset, folder)
        _report(f"seam, {method}", path, {f"fitted on {s['images']} images": s for s in seam["stages"]})
    for module in (digits, gallery):
        if module.NAME in wanted:
            _report(module.NAME, module.export(preset, folder), {})
    if "searches" in wanted:
        search = searches.run_of(preset)
        path, content = searches.export(search, preset, folder)
        _report(search, path, {case["name"]: case for case in content["cases"]})


def _report(config: object, path: Path, measured: Mapping[str, Mapping[str, float]]) -> None:
    print(f"{config}: {path}, {path.stat().st_size / 1000:.0f} KB")
    for name, found in measured.items():
        recorded = "none" if found["recorded"] is None else f"{100 * found['recorded']:.1f} %"
        print(f"    {name}: {100 * found['accuracy']:.1f} %, on record {recorded}", flush=True)


@commands.command()
def status() -> None:
    """List what is recorded: runs, seeds, minutes, stale records."""
    from .experiments.evidence import index_of
    from .records.provenance import is_stale
    from .records.store import load_all, results_root

    print(f"records in {results_root()}")
    columns = ("experiment", "preset", "recorded", "planned", "seeds", "other", "stale", "minutes")
    layout = "{:<17}{:<9}{:>9}{:>9}{:>7}{:>7}{:>7}{:>9}"
    print(layout.format(*columns))
    stored = {preset: load_all(preset) for preset in PRESETS}
    found = {preset: index_of(preset) for preset in PRESETS}
    for name in EXPERIMENTS:
        for preset in PRESETS:
            planned = configs(name, preset)
            records = {r["run_id"]: r for r in map(found[preset].record, planned) if r is not None}
            others = [r for r in stored[preset].values() if r["experiment"] == name and r["run_id"] not in records]
            every = [*records.values(), *others]
            minutes = sum(r["provenance"]["wall_seconds"] for r in every) / 60
            seeds = len({r["seed"] for r in records.values()})
            counts = len(records), len(planned), seeds, len(others), sum(map(is_stale, every))
            print(layout.format(name, preset, *counts, f"{minutes:.1f}"))


@commands.command()
@_experiments
@click.option("--accept", is_flag=True, help="pin what the code computes now; records of what changed become stale")
def golden(experiments: Sequence[str], accept: bool) -> int:
    """Hold golden runs against the numbers that are pinned.

    They are made for the experiments named (default: all), and compared with results/golden.json.
    """
    from .records import pins
    from .runs import golden

    pinned, moved, known, now = pins.pinned(), 0, {}, {}
    images = golden.images()
    with golden.golden_world():
        for name in _known(experiments):
            now |= golden.measured([name], known)
            changes = pins.changed(pinned.of(name), now[name])
            state = f"{len(changes)} runs differ" if changes else "as pinned"
            if new := len(pins.added(pinned.of(name), now[name])):
                state += f", {new} runs have numbers that are not pinned yet"
            print(f"{name}: {state if name in pinned.versions else 'not pinned yet'}", flush=True)
            for config, differences in changes.items():
                print(f"    {config}: {'; '.join(differences[:3])}{' ...' * (len(differences) > 3)}")
            moved += bool(changes)
    drawn = [name for name, digest in images.items() if digest not in pinned.images.get(name, [])[:1]]
    if drawn:
        print(f"images: {', '.join(drawn)} are drawn otherwise")
    if accept:
        pins.write(pins.accepted(pinned, {name: now[name] for name in EXPERIMENTS if name in now}, images))
        print(f"Pinned: {pins.PINNED.name}." + " Records of what differs are stale." * bool(moved or drawn))
        return 0
    return int(bool(moved or drawn))


@commands.command()
@click.argument("chapters", nargs=-1, metavar="[CHAPTER ...]")
@_preset(None, "instead of each chapter's own")
@click.option(
    "--store",
    is_flag=True,
    help="write the executed chapters into the sources as well, with the landing page its picture and the programs'",
)
def book(chapters: Sequence[str], preset: str | None, store: bool) -> None:
    """Execute chapters, such as book/index, and build _build/html."""
    from .book import make

    print(f"open {make(chapters, preset=preset, store=store) / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
