"""Records of finished runs, their provenance, the papers' numbers, intervals and verdicts.

A finished run is one JSON line in ``<root>/<preset>/<experiment>.jsonl``; the published numbers are the rows of
``paper.csv``. Every table of the book is the join of the two, and every verdict in it is derived here. Nothing in this
module imports torch, so that pages of results build in seconds; at import time only the standard library is needed,
scipy when an interval is asked for.
"""

from __future__ import annotations

import ast
import bisect
import csv
import difflib
import functools
import hashlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from .files import locked, write_atomically

PACKAGE = Path(__file__).resolve().parent
RECORD_KEYS = ("experiment", "preset", "run_id", "seed", "config", "metrics", "provenance")
PAPER_COLUMNS = ("paper", "item", "row", "column", "metric", "value", "spread", "note")
VERDICTS = ("reproduced", "trend only", "not reproduced", "undecided", "not run")

# These modules show or store numbers and cannot change one: editing a table must not make a day of training look
# stale.
PRESENTATION = frozenset({"results", "figures", "tables", "explorer", "pages", "book", "progress", "files", "__main__"})

# One point is 1 for percentages. These metrics are printed as fractions, so there it is 0.01.
POINT = {"linear CKA": 0.01, "cross-correlation": 0.01}

# ---------------------------------------------------------------------------------------------------------------- files


def results_root() -> Path:
    """Where records live: ``$COMPATKIT_RESULTS``, else ``results/`` of the checkout, else ``./results``."""
    if chosen := os.environ.get("COMPATKIT_RESULTS"):
        return Path(chosen)
    checkout = PACKAGE.parent / "results"
    return checkout if (checkout / "paper.csv").is_file() else Path("results")


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(experiment_kind: str, config: Mapping) -> str:
    """Name of a run: 12 hex digits of the SHA-256 of ``[experiment_kind, config]`` as JSON with sorted keys and no
    white space.

    ``config`` holds the seed, or runs that differ in nothing else would share a name: ValueError without it.
    """
    if "seed" not in config:
        raise ValueError(f"config: a run's config holds its 'seed', got the keys {sorted(config)}")
    return hashlib.sha256(_canonical([experiment_kind, dict(config)]).encode()).hexdigest()[:12]


def _record_path(experiment: str, preset: str, root: str | os.PathLike | None) -> Path:
    for name, value in (("experiment", experiment), ("preset", preset)):
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value, re.ASCII):
            raise ValueError(f"{name}: letters, digits, '_', '-' and '.' make a file name, got {value!r}")
    return Path(root if root is not None else results_root()) / preset / f"{experiment}.jsonl"


def _not_finite(value: object, where: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} = {value}"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, f"{where}[{index}]")


def append(record: Mapping, root: str | os.PathLike | None = None) -> None:
    """Add a finished run as one JSON line to ``<root>/<preset>/<experiment>.jsonl``, safe beside other processes and
    under SIGKILL.

    ``record`` has the keys of ``RECORD_KEYS``. ValueError for a missing key, and for NaN or infinity, which JSON does
    not know and which would pass as a result.
    """
    if missing := [key for key in RECORD_KEYS if key not in record]:
        raise ValueError(f"record: lacks {', '.join(missing)}; it needs {', '.join(RECORD_KEYS)}")
    path = _record_path(record["experiment"], record["preset"], root)
    if bad := next(_not_finite(dict(record), "record"), None):
        raise ValueError(f"{bad}: a record holds finite numbers only")
    line = json.dumps(dict(record), allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with locked(descriptor):
            end = _cut_unfinished_line(descriptor)
            os.lseek(descriptor, end, os.SEEK_SET)
            if os.write(descriptor, line) != len(line):  # a full disk: leave the file as it was
                os.ftruncate(descriptor, end)
                raise OSError(f"{path}: the record could not be written whole")
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_unfinished_line(descriptor: int) -> int:
    """Cut what a killed process left of its line; returns the size of the file afterwards, in bytes."""
    size = end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return end


def load(experiment: str, preset: str, root: str | os.PathLike | None = None) -> list[dict]:
    """Records of an experiment: the newest of each ``run_id``, in the order in which the runs first appeared; ``[]``
    without a file.

    An unfinished last line (a process killed while it wrote) is passed over. Any other line that is no record raises
    ValueError with file and line.
    """
    path = _record_path(experiment, preset, root)
    try:
        *lines, _unfinished = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    newest: dict[str, dict] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict) or any(key not in record for key in RECORD_KEYS):
            missing = [key for key in RECORD_KEYS if not isinstance(record, dict) or key not in record]
            raise ValueError(f"{path}, line {number}: not a record, lacks {', '.join(missing)}")
        newest[record["run_id"]] = record
    return list(newest.values())


def load_all(preset: str, root: str | os.PathLike | None = None) -> dict[str, dict]:
    """The newest record of every run of a preset by ``run_id``, whichever experiment it was made for.

    Errors as in ``load``.
    """
    folder = _record_path("all", preset, root).parent
    found: dict[str, dict] = {}
    for path in sorted(folder.glob("[!.]*.jsonl")):
        for record in load(path.stem, preset, root):
            other = found.get(record["run_id"])
            if other is None or other["provenance"]["started"] < record["provenance"]["started"]:
                found[record["run_id"]] = record
    return found


def by_row(records: Iterable[Mapping], row: str | Callable[[Mapping], str], metric: str) -> dict[str, dict[int, float]]:
    """``{row: {seed: value}}`` for ``compare``: ``row`` is a key of the config or a function of the record,
    ``metric`` a key of the metrics.

    KeyError for a record without them. ValueError if two records would be the same row and seed, for then a config
    tells them apart and averaging them silently would hide it.
    """
    rows: dict[str, dict[int, float]] = {}
    for record in records:
        name = str(row(record) if callable(row) else record["config"][row])
        seeds = rows.setdefault(name, {})
        if record["seed"] in seeds:
            raise ValueError(
                f"records: row {name!r} has seed {record['seed']} twice; choose `row` so that it tells the runs apart"
            )
        seeds[record["seed"]] = float(record["metrics"][metric])
    return rows


# ----------------------------------------------------------------------------------------------------------- provenance


def code_fingerprint(module: str, *, package: Path = PACKAGE) -> str:
    """12 hex digits over the code of ``module`` (dotted, within the package) and of all modules of the package it
    imports, directly or not.

    Imports are read off the source, nothing is executed, so an import by computed name goes unseen. Comments,
    docstrings and formatting do not count, and Python 3.10 to 3.13 agree: the syntax tree is hashed, less the fields
    that are empty, which is all in which versions differ. ``PRESENTATION`` modules count only when named as
    ``module``, and a package's ``__init__`` only when a name is taken from it. ``package`` is the folder of the
    package. ValueError if it has no such module.
    """
    if _source(module, package) is None:
        raise ValueError(f"module: {package.name} has no module {module!r}")
    trees, waiting = {}, [module]
    shown = {f"{package.name}.{name}" for name in PRESENTATION}
    while waiting:
        name = waiting.pop()
        path = _source(name, package)
        if name in trees or path is None or (name in shown and name != module):
            continue
        trees[name], imported = _read_code(path.read_bytes(), name, path.name == "__init__.py", package)
        waiting.extend(imported)
    return hashlib.sha256("\n".join(f"{name} {trees[name]}" for name in sorted(trees)).encode()).hexdigest()[:12]


def _source(module: str, package: Path) -> Path | None:
    first, *rest = module.split(".")
    if first != package.name:
        return None
    path = package.joinpath(*rest)
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    return path.with_suffix(".py") if rest and path.with_suffix(".py").is_file() else None


@functools.lru_cache(maxsize=256)
def _read_code(source: bytes, module: str, is_package: bool, package: Path) -> tuple[str, tuple[str, ...]]:
    """Hash of one file's code and the modules it imports; cached, since a table asks once a record."""
    tree = ast.parse(source, filename=module)
    code = hashlib.sha256("".join(_written(tree)).encode()).hexdigest()
    return code, tuple(sorted(_imports(tree, module, is_package, package)))


def _imports(tree: ast.AST, module: str, is_package: bool, package: Path) -> Iterator[str]:
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if _source(inner, package) else base


def _written(node: object) -> Iterator[str]:
    """The syntax tree as text: names of nodes and their non-empty fields, without positions and docstrings."""
    if isinstance(node, ast.Constant):
        yield f"{type(node.value).__name__}:{node.value!a};"
    elif isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if name in ("ctx", "kind", "type_comment", "type_ignores") or value is None or value == []:
                continue
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
            if isinstance(node, ast.JoinedStr):
                value = _merged(value)
            yield f"{name}="
            yield from _written(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for inner in node:
            yield from _written(inner)
        yield "]"
    else:
        yield f"{node!a};"


def _merged(parts: list[ast.expr]) -> list[ast.expr]:
    """Neighbouring literal parts of an f-string as one: where they are cut differs between versions."""
    merged: list[ast.expr] = []
    for part in parts:
        if merged and isinstance(part, ast.Constant) and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(merged[-1].value + part.value)
        elif not (isinstance(part, ast.Constant) and part.value == ""):
            merged.append(part)
    return merged


def _git(*arguments: str) -> str | None:
    """Output of git in the folder above the package; None if git is missing or fails."""
    # A hook's GIT_DIR would answer for the repository that runs the hook.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PACKAGE.parent, env=environment, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def code_state(module: str) -> dict:
    """Commit, cleanliness and fingerprint of the code of ``module`` as they are at the first call in this process.

    Ask when the module is imported: later the files may have changed, and what runs is what was imported. ``commit`` is
    None outside a checkout; ``dirty`` tells whether tracked files other than results/ and book/ differ from it, None if
    that is unknown.
    """
    top = _git("rev-parse", "--show-toplevel")
    inside = top is not None and Path(top).resolve() == PACKAGE.parent
    commit = _git("rev-parse", "HEAD") if inside else None
    unchanged = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results", ":(exclude)book")
    changed = _git(*unchanged) if commit else None
    return {
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "module": module,
        "fingerprint": code_fingerprint(module),
    }


def provenance(
    *,
    module: str,
    device: str,
    threads: int,
    started: float,
    wall_seconds: float,
    peak_memory_mb: float,
    resumed: bool = False,
) -> dict:
    """Where a record comes from, without names of hosts, users or folders.

    ``module`` is the module whose code made it (see ``code_state``), ``started`` seconds since the epoch. ``resumed``:
    the run went on from a checkpoint, so that ``wall_seconds`` counts its last part only.
    """
    versions = {"python": platform.python_version()}
    versions.update((name, _version(name)) for name in ("torch", "numpy", "compatkit"))
    return {
        **code_state(module),
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": threads,
        "wall_seconds": wall_seconds,
        "resumed": resumed,
        "peak_memory_mb": peak_memory_mb,
        "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
    }


def is_stale(record: Mapping, root: str | os.PathLike | None = None) -> bool:
    """Whether the code that made the record has changed since, and the change was not verified to change no number of
    runs like it (``experiments.verification``). A record that cannot tell, or whose module is gone, is stale.
    """
    try:
        return _now(record) not in _equivalent(record, root)
    except (KeyError, ValueError):
        return True


def _now(record: Mapping) -> str:
    return code_fingerprint(record["provenance"]["module"])


def made_with(record: Mapping) -> set[str]:
    """What a record was made with, as "name=value": preset, device, and every setting of its config."""
    return {f"preset={record['preset']}", f"device={record['provenance']['device']}", *_settings(record["config"])}


def _settings(config: Mapping, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value)}"


def note_verified(
    module: str, before: str, runs: Sequence[Mapping], root: str | os.PathLike | None = None
) -> dict[str, str | list[str]]:
    """Note in ``<root>/verified.jsonl`` that code of fingerprint ``before`` and the present one gave the same bits.

    runs: the records of the runs that were made by both; the note speaks for records that were made with nothing else
    than they, see ``made_with``. Returns what was noted.
    """
    note = {"module": module, "before": before, "after": code_state(module)["fingerprint"]}
    note |= {"runs": [run["run_id"] for run in runs], "covers": sorted(set().union(*map(made_with, runs)))}
    path = Path(root if root is not None else results_root()) / "verified.jsonl"
    lines = path.read_text(encoding="utf-8") if path.exists() else ""
    write_atomically(path, lines + json.dumps(note) + "\n")
    return note


def _equivalent(record: Mapping, root: str | os.PathLike | None) -> set[str]:
    """The fingerprints of all code that was verified, step by step, to give what the record's own code gave."""
    covered = verified(root)
    needed, found, before = made_with(record), {record["provenance"]["fingerprint"]}, set()
    while found != before:
        before = set(found)
        found |= {code for pair, covers in covered.items() if pair & before and needed <= covers for code in pair}
    return found


def verified(root: str | os.PathLike | None = None) -> dict[frozenset[str], set[str]]:
    """By the fingerprints of two codes: what runs were made with that came out the same, see ``made_with``."""
    path = Path(root if root is not None else results_root()) / "verified.jsonl"
    found: dict[frozenset[str], set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        note = json.loads(line)
        found.setdefault(frozenset((note["before"], note["after"])), set()).update(note["covers"])
    return found


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values)) or "unknown"


def provenance_line(records: Sequence[Mapping]) -> str:
    """One sentence under a table: presets, runs, devices, threads, commits, torch, minutes, dates, and what is stale or
    was dirty.
    """
    if not records:
        return "No runs."
    made = [record["provenance"] for record in records]
    threads = _listed(p["threads"] for p in made)
    minutes = sum(p["wall_seconds"] for p in made) / 60
    days = sorted(p["started"][:10] for p in made)
    parts = [
        f"Preset {_listed(r['preset'] for r in records)}: {len(records)} run{'s' * (len(records) > 1)}"
        f" on {_listed(p['device'] for p in made)} ({threads} thread{'s' * (threads != '1')})",
        f"commit {_listed(p['commit'][:7] if p['commit'] else 'none (outside a checkout)' for p in made)}",
        f"torch {_listed(p['versions'].get('torch') for p in made)}",
        f"{minutes:.1f} minutes in total",
        days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
    ]
    current = [r for r in records if not is_stale(r)]
    if stale := len(records) - len(current):
        parts.append(f"{stale} stale (the code has changed since)")
    if verified := sum(r["provenance"]["fingerprint"] != _now(r) for r in current):
        parts.append(f"{verified} by earlier code that was verified to give the same bits")
    if dirty := sum(bool(p["dirty"]) for p in made):
        parts.append(f"{dirty} from a tree with uncommitted changes")
    return ", ".join(parts) + "."


# ------------------------------------------------------------------------------------------------------------ intervals


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` networks or seeds with its confidence interval, in the values' unit; NaN bounds when n is 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def format(self, percent: bool = False, digits: int | None = None) -> str:
        """``65.8 ± 1.2 (n = 10)``; ``percent`` shows fractions times 100, ``digits`` (by size if None) follow the
        point."""
        scale, unit = (100, " %") if percent else (1, "")
        if digits is None:
            digits = 1 if abs(self.mean * scale) >= 1.5 or percent else 3
        mean = f"{self.mean * scale:.{digits}f}"
        if self.n < 2:
            return f"{mean}{unit} (n = {self.n}, no interval)"
        return f"{mean} ± {self.half_width * scale:.{digits}f}{unit} (n = {self.n})"

    def __str__(self) -> str:
        return self.format()


def _finite(values: Iterable[float], name: str) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError(f"{name}: at least one value is needed, got none")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: finite values are needed, got {numbers}")
    return numbers


def _quantile(degrees: float, level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level: between 0 and 1, got {level}")
    from scipy.special import stdtrit  # not scipy.stats, which takes a second to import

    return float(stdtrit(degrees, (1 + level) / 2))


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean over networks or seeds. ValueError for no values, NaN and infinity."""
    numbers = _finite(values, "values")
    n, mean = len(numbers), statistics.fmean(numbers)
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = _quantile(n - 1, level) * statistics.stdev(numbers) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def difference(
    values: Sequence[float], reference: Sequence[float], level: float = 0.95, paired: bool | None = None
) -> Interval:
    """Interval of mean(values) - mean(reference): paired in the given order, or Welch's; paired=None pairs equal
    lengths.

    ``n`` is the number of pairs, or the smaller of the two numbers. ValueError for empty or non-finite input and for
    pairs of unequal number.
    """
    ours, theirs = _finite(values, "values"), _finite(reference, "reference")
    if paired is None:
        paired = len(ours) == len(theirs)
    if paired:
        if len(ours) != len(theirs):
            raise ValueError(f"reference: pairs need {len(ours)} values as in `values`, got {len(theirs)}")
        return interval([a - b for a, b in zip(ours, theirs, strict=True)], level)
    mean, n = statistics.fmean(ours) - statistics.fmean(theirs), min(len(ours), len(theirs))
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    parts = [(statistics.variance(x) / len(x), len(x) - 1) for x in (ours, theirs)]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Interval(mean, mean, mean, n)
    degrees = variance**2 / sum(part**2 / df for part, df in parts)
    half = _quantile(degrees, level) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, n)


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Interval:
    """Spearman's rank correlation, ties at their mean rank, with Bonett and Wright's interval (2000).

    The interval takes the pairs as independent. Constant input correlates 0 with everything. ValueError for fewer than
    4 pairs, unequal numbers and values that are not finite.
    """
    first, second = _finite(x, "x"), _finite(y, "y")
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"x, y: at least 4 pairs are needed, got {len(first)} and {len(second)} values")
    n, ranks = len(first), [_ranks(first), _ranks(second)]
    constant = any(len(set(r)) == 1 for r in ranks)
    rho = 0.0 if constant else max(-1.0, min(1.0, statistics.correlation(*ranks)))
    if abs(rho) == 1:
        return Interval(rho, rho, rho, n)
    centre = math.atanh(rho)
    half = statistics.NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Interval(rho, math.tanh(centre - half), math.tanh(centre + half), n)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    # bisect on both sides: the mean of the places that equal values take
    return [(bisect.bisect_left(ordered, v) + bisect.bisect_right(ordered, v) + 1) / 2 for v in values]


# ---------------------------------------------------------------------------------------------------- published numbers


def _paper_csv() -> Path:
    places = (results_root() / "paper.csv", PACKAGE.parent / "results" / "paper.csv", PACKAGE / "paper.csv")
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError("paper.csv: neither in the results folder nor beside or in the package")


def paper_numbers(paper: str | None = None, item: str | None = None) -> list[dict]:
    """Rows of paper.csv in its order, with ``value`` and ``spread`` as floats in the unit the paper prints, None
    where it printed none.

    ``paper`` is 'gygli' or 'ramanujan', ``item`` a figure, table or section such as 'fig2'. KeyError with near misses
    for an unknown one.
    """
    with open(_paper_csv(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ("value", "spread"):
            row[name] = float(row[name]) if row[name] else None
    for name, wanted in (("paper", paper), ("item", item)):
        if wanted is not None:
            known = list(dict.fromkeys(row[name] for row in rows))
            rows = [row for row in rows if row[name] == wanted]
            if not rows:
                raise KeyError(f"paper.csv has no {name} {wanted!r}; it has {', '.join(known)}")
    return rows


def _near_misses(wanted: Sequence[str]) -> str:
    keys = [" | ".join(row[name] for name in PAPER_COLUMNS[:5]) for row in paper_numbers()]
    return "; ".join(difflib.get_close_matches(" | ".join(wanted), keys, n=5, cutoff=0.3)) or "nothing near"


def paper_value(paper: str, item: str, row: str, column: str, metric: str) -> float | None:
    """The published number, in the unit the paper prints; None where it printed none. KeyError with near misses for an
    unknown one.
    """
    wanted = (paper, item, row, column, metric)
    for found in paper_numbers():
        if tuple(found[name] for name in PAPER_COLUMNS[:5]) == wanted:
            return found["value"]
    raise KeyError(f"paper.csv has no {' | '.join(wanted)}; near: {_near_misses(wanted)}")


# ------------------------------------------------------------------------------------------------------------- verdicts


def verdict(
    ours: Sequence[float],
    published: float | None,
    *,
    reference: Sequence[float] | None = None,
    published_reference: float | None = None,
    spread: float | None = None,
    n_published: int | None = None,
    same_data: bool,
    point: float = 1.0,
    paired: bool | None = None,
) -> str:
    """What our runs say about a published number: one of ``VERDICTS``, never more than the evidence. All values in the
    paper's unit.

    Two things can be claimed of a row. Its *trend*: on which side of a reference row (say, ``independent``) it lies.
    Its *level*: the number itself.

    Trend, from the 95 % interval of our difference to ``reference`` (paired by seed if the lengths agree, Welch's
    otherwise, see ``difference``):

    - shown: the interval lies wholly on the side of 0 on which the paper's difference lies;
    - contradicted: it lies wholly on the other side;
    - open: it holds 0, or there is none since a side has fewer than 2 values;
    - none claimed: ``reference`` or ``published_reference`` is None, or the paper's difference is 0.

    Level, only on the paper's own data (``same_data``) and with 2 values or more. Published value and ours agree if
    they are no farther apart than our half width plus that of the published value, which is t * spread /
    sqrt(n_published) or one ``point``, whichever is larger:

    - agrees: so, and our half width is at most 5 points; a wider interval agrees with nearly anything and leaves the
      level open;
    - differs: farther apart;
    - open: otherwise.

    Verdict:

    - ``not run``: no values.
    - ``reproduced``: the level agrees, and the trend is shown or none was claimed.
    - ``trend only``: the trend is shown, the level differs or is open (always open on other data).
    - ``not reproduced``: the trend is contradicted; or the level differs and either no trend was claimed, or our
      interval of the difference holds 0 and lies farther than one point from the published difference, so that the
      effect is missing and not merely unseen.
    - ``undecided``: everything else, so always with one value, when nothing was published, when the interval is too
      wide to tell, and for a reference row on other data. Absence of evidence is not evidence of absence: more seeds
      can change it.
    """
    if len(ours) == 0:
        return "not run"
    mine = interval(ours)
    if published is None or mine.n < 2:
        return "undecided"
    trend, gap = _trend(ours, published, reference, published_reference, paired)
    level = _level(mine, published, spread, n_published, point) if same_data else "open"
    if trend == "contradicted":
        return "not reproduced"
    if level == "agrees" and trend in ("shown", "none claimed"):
        return "reproduced"
    if trend == "shown":
        return "trend only"
    if level == "differs":
        if trend == "none claimed":
            return "not reproduced"
        if gap is not None and not gap.low - point <= published - published_reference <= gap.high + point:
            return "not reproduced"
    return "undecided"


def _trend(ours, published, reference, published_reference, paired) -> tuple[str, Interval | None]:
    if reference is None or published_reference is None or published == published_reference:
        return "none claimed", None
    if len(reference) == 0:
        return "open", None
    gap = difference(ours, reference, paired=paired)
    if gap.n < 2:
        return "open", None
    if gap.low <= 0 <= gap.high:
        return "open", gap
    return ("shown" if (gap.mean > 0) == (published > published_reference) else "contradicted"), gap


def _level(mine: Interval, published: float, spread: float | None, n_published: int | None, point: float) -> str:
    tolerance = point
    if spread is not None and n_published is not None and n_published > 1:
        tolerance = max(point, _quantile(n_published - 1, 0.95) * spread / math.sqrt(n_published))
    if abs(mine.mean - published) > mine.half_width + tolerance:
        return "differs"
    return "agrees" if mine.half_width <= 5 * point else "open"


def compare(
    rows: Mapping[str, Sequence[float] | Mapping[int, float]],
    *,
    paper: str,
    item: str,
    column: str,
    metric: str,
    reference: str | None = None,
    same_data: bool,
    n_published: int | None = None,
    scale: float = 1.0,
) -> list[dict]:
    """The table paper | ours: a dict ``{row, paper, ours, n, verdict, note}`` for each published row of ``item``,
    ``column`` and ``metric``, in paper.csv's order, then for each row of ours that the paper does not have.

    ``rows`` maps a row's name to its values, one a seed, or to ``{seed: value}`` as ``by_row`` gives, which pairs by
    seed where the seeds agree and uses Welch's interval otherwise. ``reference`` names the row to which trends refer.
    ``scale`` takes ours to the paper's unit (100 for fractions). ``ours`` is an ``Interval`` or None. A published
    bound is shown but not judged as if it were a level. KeyError for an unknown item, column, metric or reference.
    """
    published = {r["row"]: r for r in paper_numbers(paper, item) if r["column"] == column and r["metric"] == metric}
    if not published:
        wanted = (paper, item, "", column, metric)
        raise KeyError(f"paper.csv has no {column} | {metric} in {paper} {item}; near: {_near_misses(wanted)}")
    names = [*published, *(name for name in rows if name not in published)]
    if reference is not None and reference not in names:
        raise KeyError(f"reference: no row {reference!r}; rows are {', '.join(names)}")
    table = []
    for name in names:
        theirs = published.get(name, {})
        ours, other, paired = _aligned(rows.get(name, ()), rows.get(reference, ()), scale)
        judged = name != reference and reference is not None
        bound = theirs.get("note", "").startswith("bound:")
        notes = [theirs["note"] if theirs else "not in the paper"]
        if name == reference:
            notes.append("the row to which trends refer")
        table.append(
            {
                "row": name,
                "paper": theirs.get("value"),
                "ours": interval(ours) if ours else None,
                "n": len(ours),
                "verdict": verdict(
                    ours,
                    None if bound else theirs.get("value"),
                    reference=other if judged else None,
                    published_reference=published.get(reference, {}).get("value") if judged else None,
                    spread=theirs.get("spread"),
                    n_published=n_published,
                    same_data=same_data,
                    point=POINT.get(metric, 1.0),
                    paired=paired,
                ),
                "note": "; ".join(filter(None, notes)),
            }
        )
    return table


def _aligned(ours, reference, scale: float) -> tuple[list[float], list[float], bool | None]:
    """Values of both, by seed where the seeds are known, and whether they are pairs (None: by length)."""
    paired = None
    if isinstance(ours, Mapping) and isinstance(reference, Mapping):
        paired = set(ours) == set(reference)
    first, second = ([x[k] for k in sorted(x)] if isinstance(x, Mapping) else list(x) for x in (ours, reference))
    return [float(v) * scale for v in first], [float(v) * scale for v in second], paired
