"""What the chapters on paper A (Gygli et al.) show, from the records of ``experiments.gygli``: tables and the
explorers of Fig. 2. The explorers of the other figures stand in ``analysis``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from IPython.display import Markdown

from compatkit.intervals import Interval, difference, interval

from ..records.claims import Records, by_images, images_in_words
from ..records.published import paper_numbers
from ..records.store import by_row
from ..records.verdicts import compare
from ..show import tables
from ..show.explorer import Cell, Explorer, Level, View, explorer

Rows = dict[str, dict[int, float]]  # {row: {seed: value}}
Group = TypeVar("Group")
"""Records, or what was made of them."""

MEASURES = {
    "recombination accuracy": "recombination",
    "accuracy with the own head, common classes": "not recombined",
    "accuracy on the own task, all classes": "own task",
}
UNSHARED_OUTPUTS = {
    "left out of the choice": "recombination",
    "may be chosen (and are wrong)": "recombination, unmasked",
}


# --- rows of the figures ----------------------------------------------------------------------------------------------


def by_data(records: Records) -> dict[str, list[Mapping]]:
    """The records of each pair of data sets (in either order), update or set, by its name: "a × b", "data, classes to
    classes", "data"."""
    return {images_in_words(group): group for group in by_images(records).values()}


def choose(records: Records, **config) -> list[Mapping]:
    """The records whose config has these values."""
    return [r for r in records if all(r["config"][key] == value for key, value in config.items())]


ROLES = {"mean": "mean of both sets", "a": "first set", "b": "second set"}
"""On whose test images two networks are compared, as the explorers call it."""


def test_sets(records: Records, roles: Sequence[str] = tuple(ROLES)) -> Iterator[tuple[dict[str, str], list, str]]:
    """Each pair of data sets on their test sets' mean and on each test set: place in a table, records, role."""
    for name, group in by_data(records).items():
        for role in roles:
            yield {"data": name, "test images": ROLES[role]}, group, role


def row_cells(
    at: Mapping[str, str], dimension: str, rows: Rows, printed: Mapping[str, float | None] | None = None
) -> list[Cell]:
    """A cell for each row that was run, at ``at`` and at the row's name in ``dimension``; printed: the paper's, by
    row."""
    known = printed or {}
    return [Cell({**at, dimension: row}, list(seeds.values()), known.get(row)) for row, seeds in rows.items() if seeds]


def chance_levels(records: Records, **at: str) -> list[Level]:
    """Chance accuracy on each pair of data sets, where an explorer's choice is ``at``."""
    groups = by_data(records)
    return [Level("chance", [chance(group)], {"data": name} | at) for name, group in groups.items()]


def chance(records: Records) -> float:
    """Accuracy of guessing among the common classes, in 0..1."""
    return records[0]["metrics"]["chance/mean"]


def shown_method(method: str) -> str:
    """A method's name where its networks are recombined: those of the upper bound are not one then."""
    return "own RP heads" if method == "upper bound" else method


def union(*parts: Records) -> list[Mapping]:
    """The records of several experiments, each run once, under its row in the first of them."""
    found: dict[str, Mapping] = {}
    for record in (record for part in parts for record in part):
        found.setdefault(record["run_id"], record)
    return list(found.values())


def scores(records: Records, measure: str = "recombination", test_set: str = "mean") -> Rows:
    """A measure in 0..1 by method and seed, on one test set or the mean of both, as Figs. 2, 7 and 10 show it.

    The upper bound is not a recombination: its bar is each network with its own head on the same images.
    """
    found = by_row(records, "method", f"{measure}/{test_set}")
    if measure.startswith("recombination") and "upper bound" in found:
        bound = [r for r in records if r["config"]["method"] == "upper bound"]
        found |= by_row(bound, "method", f"not recombined/{test_set}")
    return found


def by_scheme(records: Records) -> Rows:
    """Joint and incremental training; incremental is the mean over both orders."""
    joint, first, second = {}, {}, {}
    for record in records:
        config = record["config"]
        forward = (config["a"], config["b"]) == (records[0]["config"]["a"], records[0]["config"]["b"])
        place = joint if record["row"] == "joint" else first if forward else second
        place[record["seed"]] = record["metrics"]["recombination/mean"]
    both = {seed: (first[seed] + second[seed]) / 2 for seed in first.keys() & second.keys()}
    return {"joint": joint, "incremental": dict(sorted(both.items()))}


RUNNING = "running train statistics"
STATISTICS = {
    RUNNING: "recombination, running statistics",
    "recomputed on test set": "recombination, recalibrated statistics",
    "per test batch": "recombination",
}


def by_normalization(records: Records, test_set: str = "mean") -> Rows:
    """Fig. 5's seven choices: three ways to use one and the same BN network, and four networks without or beyond BN."""
    plain = [r for r in records if r["config"]["normalization"] == "batch"]
    others = [r for r in records if r["config"]["normalization"] != "batch"]
    found = {row: by_row(plain, lambda _, row=row: row, f"{key}/{test_set}")[row] for row, key in STATISTICS.items()}
    return found | by_row(others, lambda r: r["row"], f"recombination/{test_set}")


def by_correlation(records: Records) -> Rows:
    """Fig. 6: mean correlation of channels where the networks are cut, over both test sets, in -1..1."""

    def mean(record: Mapping, measure: str) -> float:
        values = [v for role in "ab" for v in record["metrics"][f"{measure}/{role}"]]
        return sum(values) / len(values)

    found: Rows = {}
    for record in records:
        found.setdefault(record["row"], {})[record["seed"]] = mean(record, "channel correlations")
        if record["row"] == "independent" and "matched channel correlations/a" in record["metrics"]:
            matched = found.setdefault("independent + permutation", {})
            matched[record["seed"]] = mean(record, "matched channel correlations")
    return found


def by_classes(records: Records, test_set: str = "mean") -> Rows:
    """Fig. 9: IIW+DCC by the number of classes of the shared head, and IIW+RP, which needs none."""

    def named(record: Mapping) -> str:
        learnt = record["config"]["dcc_classes"] or round(1 / chance([record]))
        return "IIW+RP" if record["config"]["method"] == "IIW+RP" else f"{learnt} classes"

    rows = by_row(records, named, f"recombination/{test_set}")
    return dict(sorted(rows.items(), key=lambda named: _natural(named[0])))


def network_layers(records: Records) -> list[str]:
    """Every boundary at which the networks of these records were cut and measured, from the images on."""
    key = "recombination at "
    found = {k.removeprefix(key) for k in records[0]["metrics"] if k.startswith(key) and k.endswith("/mean")}
    return in_network_order(layer.removesuffix("/mean") for layer in found)


def in_network_order(layers: Iterable[str]) -> list[str]:
    """Layers of one or several networks, from the images on, each once."""
    return sorted(set(layers), key=lambda layer: (layer != "stem", layer == "pool", _natural(layer)))


def _natural(name: str) -> list:
    """Sorts "block2" before "block10"."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part]


def boundaries(records: Records) -> list[str]:
    """Where networks can be cut into parts that both have weights: pooling has none."""
    return [layer for layer in network_layers(records) if layer != "pool"]


def block_of(split_at: str, layers: Sequence[str]) -> str:
    """The block after which a network was cut: a stage's name means its last block."""
    return [at for at in layers if at == split_at or at.startswith(f"{split_at}_block")][-1]


def by_split(records: Records, test_set: str = "mean") -> Rows:
    """Fig. 8: one method by the boundary at which its networks were made to fit and cut, from the images on."""
    layers = boundaries(records)
    found = by_row(records, lambda r: block_of(r["config"]["split_at"], layers), f"recombination/{test_set}")
    return {at: found[at] for at in layers if at in found}


@dataclass(frozen=True)
class Item:
    """How a figure or table of the paper is read from records. ``scale``: from our unit to the paper's. ``printed``:
    the item's name in paper.csv where it is another."""

    rows: Callable[[Records], Rows]
    metric: str = "recombination accuracy"
    scale: float = 100
    printed: str = ""


ITEMS = {
    "fig2": Item(scores),
    "own tasks": Item(partial(scores, measure="own task"), metric="own-task accuracy", printed="fig2"),
    "fig2_pretrained": Item(scores),
    "sec4_incremental": Item(by_scheme),
    "fig5": Item(by_normalization),
    "fig6": Item(by_correlation, metric="cross-correlation", scale=1),
    "fig7": Item(scores),
    "fig8": Item(by_split),
    "fig9": Item(by_classes),
}
"""What ``comparison`` and ``differences`` know."""


# --- tables -----------------------------------------------------------------------------------------------------------


def comparison(records: Records, item: str = "fig2") -> Markdown:
    """Paper | ours for each pair of data sets; levels are judged only where everything is the paper's."""
    how = ITEMS[item]
    unit, digits = ("%", 1) if how.scale == 100 else ("correlation", 2)

    def show(group: Records) -> Markdown:
        rows = compare(
            how.rows(group),
            paper="gygli",
            item=how.printed or item,
            column="mean",
            metric=how.metric,
            differs=differs(group),
            scale=how.scale,
        )
        return tables.comparison(rows, unit, digits)

    return for_each_group(by_data(records), show)


def differs(records: Records) -> set[str]:
    """The settings in which any of these runs differs from the paper's."""
    return {name for record in records for name in record["differs"]}


def beside(*experiments: Records, item: str = "fig2") -> Markdown:
    """For each row of the paper its number and ours on each pair of data sets of each experiment: mean ± half width."""
    groups = {name: group for records in experiments for name, group in by_data(records).items()}
    found = {name: ITEMS[item].rows(group) for name, group in groups.items()}
    body = []
    for row, printed in published(item).items():
        ours = [[ITEMS[item].scale * v for v in rows.get(row, {}).values()] for rows in found.values()]
        body.append([row, tables.number(printed), *(tables.span(interval(v)) if v else "–" for v in ours)])
    counts = {name: sorted({len(seeds) for seeds in rows.values()}) for name, rows in found.items()}
    ours = [f"{name}, %, n = {' to '.join(map(str, dict.fromkeys((n[0], n[-1]))))}" for name, n in counts.items()]
    return tables.table(["", "paper, %", *ours], body)


def for_each_group(groups: Mapping[str, Group], show: Callable[[Group], Markdown]) -> Markdown:
    """A table for each group of records, or of what was made of them, under its name."""
    return Markdown("\n\n".join(f"**{name}**\n\n{show(group).data}" for name, group in groups.items()))


def provenance(records: Records) -> Markdown:
    """Where the runs of each pair of data sets come from."""
    return tables.origins(by_data(records))


def differences(records: Records, statements: Mapping[str, tuple[str, str]], item: str = "fig2") -> Markdown:
    """Questions of ours, "text: (one, other)": by how much one row is above the other, in the paper's unit. The
    networks were trained apart. The paper's claims are judged in ``pages.claims``."""
    how = ITEMS[item]

    def show(group: Records) -> Markdown:
        found = how.rows(group)
        pairs = {text: [found.get(row, {}) for row in pair] for text, pair in statements.items()}
        return difference_table("question", pairs, how.scale, same_networks=False)

    return for_each_group(by_data(records), show)


def difference_table(
    first: str,
    pairs: Mapping[str, Sequence[Mapping[int, float]]],
    scale: float = 100,
    *,
    same_networks: bool = True,
) -> Markdown:
    """A line for each pair of rows: what is said, the difference between them on common seeds, n.

    Args:
        first: the head of the column of what is said.
        pairs: the values of both by seed.
        scale: takes values to the unit that is shown.
        same_networks: whether both are of the same networks, and paired, or of networks that were trained apart, whose
            means are compared; as in ``verdicts.contrast``.
    """
    body = []
    for text, (one, other) in pairs.items():
        gap = gap_between(one, other, same_networks, scale)
        digits = 1 if scale == 100 else 2
        body.append([text, tables.span(gap, signed=True, digits=digits), str(gap.n if gap else 0)])
    return tables.table([first, "ours", "n"], body)


def gap_between(
    one: Mapping[int, float], other: Mapping[int, float], same_networks: bool, scale: float = 100
) -> Interval | None:
    """The difference between two rows on the seeds that both have; None where there are none."""
    seeds = sorted(one.keys() & other.keys())
    values = ([scale * row[seed] for seed in seeds] for row in (one, other))
    return difference(*values, paired=same_networks) if seeds else None


def published(item: str) -> dict[str, float | None]:
    """The paper's numbers of an item by row, mean over both data sets, None where it printed none."""
    rows = paper_numbers("gygli", ITEMS[item].printed or item)
    return {r["row"]: r["value"] for r in rows if (r["column"], r["metric"]) == ("mean", ITEMS[item].metric)}


# --- explorers of Fig. 2 ----------------------------------------------------------------------------------------------


def methods_explorer(records: Records, item: str = "fig2") -> Explorer:
    """Pick data and measure, see every method: bars with intervals, seeds, chance, and the numbers published for
    ``item``."""
    numbers = {"recombination": published(item)}
    if item == "fig2":
        numbers["own task"] = published("own tasks")
    cells = []
    for at, group, role in test_sets(records):
        for measure, key in MEASURES.items():
            printed = numbers.get(key) if role == "mean" else None
            cells += row_cells(at | {"measure": measure}, "method", scores(group, key, role), printed)
    levels = chance_levels(records, measure="recombination accuracy")
    return explorer(View("bars", cells, axis="method", x_title="{measure}, %", levels=levels))


def recombination_explorer(records: Records, method: str = "IIW+DCC") -> Explorer:
    """Pick a method, data and where to cut, see extractor x head: the two networks as trained, and the two recombined
    ones; below, the accuracy of the latter over all cuts, for any methods."""
    matrix, curves = [], []
    for name, group in by_data(records).items():
        layers = boundaries(group)
        for outputs, measure in UNSHARED_OUTPUTS.items():
            cuts = layers if measure == "recombination" else []
            there = {at: f"{measure} at {at}" for at in cuts} or {block_of("stage2", layers): measure}
            for of_method in methods(group):
                runs = choose(group, method=of_method)
                for layer, key in there.items():
                    at = {"data": name, "classes that are not shared": outputs, "method": shown_method(of_method)}
                    matrix += matrix_cells(at | {"split layer": layer}, runs, key)
    for at, group, role in test_sets(records):
        for of_method in (m for m in methods(group) if m != "upper bound"):
            rows = cut_when_tested(choose(group, method=of_method), role)
            curves += row_cells(at | {"method": of_method}, "split layer", rows)
    swapped = View("matrix", matrix, series="extractor of", axis="head of", title="extractor of", x_title="head of")
    return explorer(
        swapped,
        cut_curves(curves, records),
        ordered={"split layer": in_network_order(cell.at["split layer"] for cell in curves)},
        start={"method": method, "split layer": block_of("stage2", boundaries(records))},
    )


def cut_curves(cells: Sequence[Cell], records: Records) -> View:
    """Recombination accuracy over the places where networks are cut, a line for each method."""
    return View(
        "curves",
        cells,
        series="method",
        axis="split layer",
        title="recombination accuracy, %",
        x_title="cut after",
        levels=chance_levels(records),
    )


def matrix_cells(at: Mapping[str, str], records: Records, measure: str = "recombination") -> list[Cell]:
    """Extractor x head of one method's networks, seeds as runs: the own heads, and by ``measure`` the swapped ones.
    Each extractor is evaluated on its own test set."""
    config = records[0]["config"]
    sets = {role: config[role] if config["a"] != config["b"] else f"{config[role]} ({role})" for role in "ab"}
    return [
        Cell(
            {**at, "extractor of": of_extractor, "head of": of_head},
            [r["metrics"][f"{'not recombined' if own == other else measure}/{own}"] for r in records],
        )
        for own, of_extractor in sets.items()
        for other, of_head in sets.items()
    ]


def methods(records: Records) -> list[str]:
    """The methods that occur, in order of appearance."""
    return list(dict.fromkeys(r["config"]["method"] for r in records))


def cut_when_tested(records: Records, column: str) -> Rows:
    """Recombination accuracy by boundary of networks that were made to fit after stage 2, cut there or elsewhere."""
    chosen = choose(records, split_at="stage2")
    keys = {at: f"recombination at {at}/{column}" for at in boundaries(chosen)} if chosen else {}
    return {at: by_row(chosen, lambda _, at=at: at, key)[at] for at, key in keys.items()}
