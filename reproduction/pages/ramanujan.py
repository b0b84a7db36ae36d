"""Contents of the chapters on paper B (Ramanujan et al.), from the records of ``experiments.ramanujan``: tables and
explorers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from IPython.display import Markdown

from ..records.claims import Records, Seeds
from ..records.published import paper_numbers
from ..records.table import ANY, Rows, Values, by_seed, pick, rows, table
from ..show import tables
from ..show.explorer import Cell, Explorer, Level, View, curves, explorer
from .sections import (
    by_data,
    cells,
    compared,
    difference_table,
    for_each,
    groups,
    mean_of,
    measured,
    questions,
    row_cells,
)

MEASURES = ("CMC top-1", "CMC top-5", "mAP@1.0")
QUERIES = {"all queries": "", "queries of old classes": "old", "queries of new classes": "new"}
WITHOUT = "without side-information"
BARE = f"FCT {WITHOUT}"


# --- rows -------------------------------------------------------------------------------------------------------------


def case(values: Values, name: str, measure: str = "CMC top-1", **where: str) -> Seeds:
    """A measure in 0..1 of one case by seed, from those runs that hold it."""
    return by_seed(pick(values, measure, case=name, **where))


def _cases(values: Values, row: str, names: Mapping[str, str], measure: str, queries: str = "") -> Rows:
    """``case`` of each name of the runs of a row, by what it is called; what nobody has measured is left out."""
    found = rows(pick(values, measure, case=tuple(names.values()), queries=queries, row=row), "case")
    return {shown: found[name] for shown, name in names.items() if name in found}


INDEPENDENT = {"old/old": "old/old", "new/old": "new/identity(old)", "new/new": "new/new"}
CLOSED = {
    "new/Procrustes": "new/Procrustes(old)",
    "new/ridge": "new/ridge(old)",
    "new/Procrustes with side-information": "new/Procrustes(old, side)",
    "new/ridge with side-information": "new/ridge(old, side)",
}
BACKWARD = {"BCT": "BCT", "BCT, synthesised": "BCT, synthesised classes,"}
"""Rows of both ways to train with BCT, and how their cases are called."""


def by_case(records: Records, measure: str = "CMC top-1", queries: str = "") -> Rows:
    """Tables 1 to 3 and Sec. 4.3: independent models, BCT, FCT; and the closed forms, which the paper leaves out."""
    values = table(records)

    def of(row: str, names: Mapping[str, str]) -> Rows:
        return _cases(values, row, names, measure, queries)

    alone = "FCT" if (values["row"] == "FCT").any() else BARE
    found = of(alone, INDEPENDENT)
    for row, name in BACKWARD.items():
        found |= of(row, {f"{name} new/old": "BCT/old", f"{name} new/new": "BCT/BCT"})
    found |= of("FCT", {"h/h": "h/h", "new/h": "new/h"}) | of(BARE, {f"new/h {WITHOUT}": "new/h"})
    return found | of(alone, CLOSED)


def by_hop(records: Records, measure: str) -> Rows:
    """Table 5: every version by itself, after one hop, and the first gallery after all hops or directly."""
    values = table(records)
    carried = {"two hops": "v3/hops", "direct": "v3/direct"}
    names = {f"phi{i}/phi{i}": f"v{i}/v{i}" for i in (1, 2, 3)} | {f"phi{i}/h{i}": f"v{i}/one hop" for i in (2, 3)}
    return _cases(values, "FCT", names | carried, measure) | _cases(
        values, BARE, {f"{shown} {WITHOUT}": name for shown, name in carried.items()}, measure
    )


def by_side(records: Records, measure: str, name: str = "new/h") -> Rows:
    """Table 6: one case, by what is stored beside the old embedding."""
    return rows(pick(table(records), measure, case=name))


def by_bytes(records: Records, measure: str) -> Rows:
    """Sec. 5.2: a wider old embedding in place of side-information, side-information in place of the old embedding, and
    what both models reach by themselves. For the runs of Table 6 as well."""
    values = table(records)
    parts = {
        "ResNet50-256 old, no side-information": ("wider old embedding", "new/h"),
        "SimCLR-500 alone": ("without the old embedding", "side/side"),
        "h(psi) without the old model": ("without the old embedding", "new/h"),
        "old model with Mixup, old/old": ("old model with Mixup", "side/side"),
        "new/h, SimCLR-500": ("FCT", "new/h"),
    }
    return {
        shown: case(values, name, measure, row=row)
        for shown, (row, name) in parts.items()
        if (values["row"] == row).any()
    }


@dataclass(frozen=True)
class Item:
    """The way in which a table of the paper is read from records; ``column``: of paper.csv."""

    rows: Callable[[Records, str], Rows]
    column: str = "ImageNet-1k"
    measures: tuple[str, ...] = MEASURES


ITEMS = {
    "table1": Item(by_case),
    "table2": Item(by_case, "Places-365"),
    "table3": Item(by_case, "VGGFace2"),
    "cifar100_readme_later": Item(by_case, "CIFAR-100"),
    "sec43": Item(by_case, "Places-365", measures=("CMC top-1",)),
    "table5": Item(by_hop),
    "table6": Item(by_side),
    "sec52": Item(by_bytes, measures=("CMC top-1",)),
}


# --- tables -----------------------------------------------------------------------------------------------------------


def comparison(records: Records, item: str) -> Markdown:
    """Paper | ours for each update: CMC top-1, and folded away top-5 and mAP. A verdict is on the level of CMC top-1,
    and only where everything is the paper's."""
    first, *others = ITEMS[item].measures

    def show(group: Records) -> Markdown:
        levels = _compared(group, item, first)
        body = [[row, *_numbers(level), str(level["n"])] for row, level in levels.items()]
        header = ["", *_columns(first), "n"]
        shown = tables.judged(header, body, [level["verdict"] for level in levels.values()])
        if not others:
            return shown
        columns = [_compared(group, item, measure) for measure in others]
        body = [[row, *(text for column in columns for text in _numbers(column.get(row)))] for row in levels]
        more = tables.table(["", *(text for measure in others for text in _columns(measure))], body)
        return Markdown(f"{shown.data}\n\n{tables.folded(' and '.join(others), more).data}")

    return for_each(by_data(records), show)


def _columns(measure: str) -> list[str]:
    return [f"{who} {measure}, %" for who in ("paper", "ours")]


def _numbers(row: Mapping | None) -> list[str]:
    return [tables.number(row["paper"]), tables.span(row["ours"])] if row else ["–", "–"]


def _compared(records: Records, item: str, measure: str) -> dict[str, dict]:
    how = ITEMS[item]
    found = compared(how.rows(records, measure), records, "ramanujan", item, how.column, measure)
    return {row["row"]: row for row in found}


def differences(
    records: Records, statements: Mapping[str, tuple[str, str]], item: str, measure: str = "CMC top-1"
) -> Markdown:
    """``sections.questions`` of the rows of an item, in points of ``measure``, seed by seed."""
    return for_each(by_data(records), lambda group: questions(ITEMS[item].rows(group, measure), statements))


def recovered(records: Records, queries: str = "all queries", measure: str = "CMC top-1") -> Markdown:
    """The gap from the old model to the new one, and how much of it each way to search the old gallery recovers, in
    points above old/old.

    Args:
        records: of Tables 1 to 3, or of Sec. 4.3.
        queries: a key of ``QUERIES``.
        measure: of ``MEASURES``.
    """
    backward, closed = ("BCT new/old", "BCT, synthesised classes, new/old"), "new/ridge with side-information"

    def show(group: Records) -> Markdown:
        found = by_case(group, measure, QUERIES[queries])
        shown = [row for row in ("new/new", "new/h", f"new/h {WITHOUT}", *backward, closed) if row in found]
        return difference_table(f"above old/old, {queries}", {row: (found[row], found["old/old"]) for row in shown})

    return for_each(by_data(records), show)


def architectures(records: Records, measure: str = "CMC top-1") -> Markdown:
    """Table 4: paper | ours for each old architecture, under the name of the paper's that it stands for."""
    values, parts = table(records), []
    for column in dict.fromkeys(r["row"] for r in records):
        group = [r for r in records if r["row"] == column]
        config = group[0]["config"]
        ours = "{old_network}, width {old_width}, {old_dim} numbers".format(**config).replace("torchvision:", "")
        found = _cases(values, column, {c: c for c in ("old/old", "h/h", "new/h", "new/new")}, measure)
        if same := column == "none":
            shown = measured(found)
        else:
            shown = tables.comparison(compared(found, group, "ramanujan", "table4", column, measure))
        parts.append(f"**{ours}**{', as the new one' if same else f' (in the paper {column})'}\n\n{shown.data}")
    return Markdown("\n\n".join(parts))


def alignments(records: Records) -> Markdown:
    """Table 6, CKA: paper | ours for each update. A printed value is of one pair of networks, so none is judged."""
    printed = {r["row"]: r["value"] for r in paper_numbers("ramanujan", "table6") if r["metric"] == "linear CKA"}

    def show(group: Records) -> Markdown:
        body = [
            [row, tables.number(printed[row], digits=2), tables.span(mean_of(found, 1), digits=2), str(len(found))]
            for row, found in rows(pick(table(group), "CKA of old and side")).items()
        ]
        return tables.table(["", "paper", "ours", "n"], body)

    return for_each(by_data(records), show)


# --- the toy ----------------------------------------------------------------------------------------------------------


def blind_scores(relevant: int, items: int) -> dict[str, float]:
    """The scores that retrieval expects of a model that cannot tell ``items`` apart, ``relevant`` of which have the
    query's label: their order is random.

    The k-th item is relevant with probability p = R/N, so CMC@k = 1 - C(N - R, k) / C(N, k). If it is, (k - 1)(R - 1) /
    (N - 1) of those before it are expected to be, so that precision there is (1 + (k - 1)(R - 1)/(N - 1)) / k; the mean
    over k is the average precision, (R - 1)/(N - 1) + (1 - (R - 1)/(N - 1)) H_N / N, with H_N = 1 + 1/2 + ... + 1/N.
    """
    if not 1 <= relevant <= items:
        raise ValueError(f"relevant: 1 .. {items} of {items} items, got {relevant}")
    share = (relevant - 1) / (items - 1) if items > 1 else 1.0
    harmonic = sum(1 / k for k in range(1, items + 1))

    def cmc(k: int) -> float:
        seen = min(k, items)
        return 1 - math.comb(items - relevant, seen) / math.comb(items, seen)

    return {"CMC top-1": cmc(1), "CMC top-5": cmc(5), "mAP@1.0": share + (1 - share) * harmonic / items}


def toy_ceilings(records: Records) -> dict[str, float]:
    """The scores that a model which knows one attribute of coloured shapes exactly, and nothing else, reaches on the
    gallery."""
    config = records[0]["config"]
    classes, each = max(config["classes"]), config["n_test"] // max(config["classes"])
    values = round(math.sqrt(classes))  # as many colours as shapes
    return blind_scores(each - 1, values * each - 1)


TOY_CASES = ("old/old", "h/h", "new/h", "new/new")


def _toy(records: Records, measure: str | tuple[str, ...] = MEASURES) -> Values:
    """The four cases of the toy; categories of ``case`` in their order."""
    values = pick(table(records), measure, case=TOY_CASES)
    return values.assign(case=values["case"].cat.set_categories(TOY_CASES))


def toy_explorer(records: Records) -> Explorer:
    """Pick what the old model learns and what is stored beside its embeddings, see what a search finds."""
    values, ceilings, task = _toy(records), toy_ceilings(records), "the old model learns the"
    learns, sides = (list(values[name].cat.categories) for name in ("old_task", "side"))
    stored = {s: "nothing" if s == "none" else s if s not in learns else f"the true {s}" for s in sides}
    at = {task: "old_task", "measure": "measure", "stored beside it": "side", "case": "case"}
    found = cells(values, at, {"measure": {m: m for m in MEASURES}, "side": stored})
    levels = [
        Level(f"the {old} alone", [ceilings[measure]], {task: old, "measure": measure})
        for old in learns
        for measure in MEASURES
    ]
    return explorer(View("bars", found, axis="case", x_title="{measure}, %", levels=levels))


def toy_table(records: Records) -> Markdown:
    """new/h for each old task and each kind of side-information."""
    found = pick(table(records), "CMC top-1", case="new/h")
    learns = {old: rows(values, "side") for (old,), values in groups(found, "old_task")}
    body = [
        [side, *(tables.span(mean_of(by_task.get(side, {}))) for by_task in learns.values()), str(len(first))]
        for side, first in next(iter(learns.values())).items()
    ]
    return tables.table(["stored", *(f"old model knows the {old}, %" for old in learns), "n"], body)


# --- explorers --------------------------------------------------------------------------------------------------------


def cases_explorer(records: Records) -> Explorer:
    """Pick an update, a measure and which queries, see every case."""
    found = []
    for update, group in by_data(records).items():
        for measure in ("CMC top-1", "mAP@1.0"):
            for words, queries in QUERIES.items():
                at = {"update": update, "measure": measure, "queries": words}
                found += row_cells(at, "case", by_case(group, measure, queries))
    return explorer(View("bars", found, axis="case", x_title="{measure} of {queries}, %"))


def side_explorer(records: Records) -> Explorer:
    """Pick an update, a case and a measure, see what each kind of side-information is worth."""
    measures, values = {m: m for m in ("CMC top-1", "mAP@1.0")}, table(records)
    shown = {c: c for c in ("new/h", "h/h", "side/side", "new/ridge(old, side)")}
    at = {"update": "data", "measure": "measure", "case": "case", "side-information": "row"}
    found = cells(pick(values, measures, case=shown), at, {"measure": measures, "case": shown})
    levels = [
        Level(name, [mean_of(group, 1).mean], {"update": update, "measure": measure})
        for (update, measure), part in groups(pick(values, measures, case=("old/old", "new/new")), "data", "measure")
        for name, group in rows(part.drop_duplicates(["case", "seed"], keep="last"), "case").items()
    ]
    return explorer(View("bars", found, axis="side-information", x_title="{measure} of {case}, %", levels=levels))


HOPS = {
    "searched by itself": "v{0}/v{0}",
    "one hop from the version before": "v{0}/one hop",
    "first gallery, all hops": "v{0}/hops",
    "first gallery, directly": "v{0}/direct",
}


def hops(values: Values, side: str, measure: str) -> dict[str, Rows]:
    """The score of each way to carry a gallery at each version, by number of classes learnt."""
    found = rows(pick(values, measure, case=ANY, side=side), "case")
    versions = list(enumerate(values["classes"].iloc[0], 1))
    return {
        way: {str(n): found[at] for i, n in versions if (at := pattern.format(i)) in found}
        for way, pattern in HOPS.items()
    }


def hops_explorer(records: Records) -> Explorer:
    """Pick side-information and measure, see the gallery of the first version carried on, update after update."""
    found, values = [], table(records)
    for words, side in {"SimCLR": "SimCLR", "no side-information": "none"}.items():
        for measure in MEASURES:
            for way, places in hops(values, side, measure).items():
                found += row_cells({"side-information": words, "measure": measure, "gallery": way}, "classes", places)
    return explorer(curves(found, "gallery", "classes", "classes that the version has learnt", "{measure}, %"))


COSTS = {
    "multiplications per item": "MACs",
    "kilobytes per item": "KB",
    "seconds per 10 000 items": "seconds per 10 000 items",
}
NOTHING = "old/old, nothing done"


def cost_points(records: Records, cost: str, measure: str) -> dict[str, list[tuple[float, float]]]:
    """Fig. 3: what carrying over an item costs, and the accuracy that it buys, a point for each seed.

    BCT and doing nothing cost nothing; back-filling reads the image, a transformation the embedding and what is stored
    beside it.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    values = pick(table(records), (cost, measure), case=ANY, method=("FCT", "BCT"))
    for (row, width, _), run in groups(values, "row", "h_width", "run"):
        of = {(m, c): v for m, c, v in run[["measure", "case", "value"]].itertuples(index=False)}
        costs = {name: value for (m, name), value in of.items() if m == cost}
        if row == "BCT":
            found = {"BCT": (0.0, "BCT/old")}
        else:
            stored = costs.get("old", 0.0) + (row != BARE) * costs.get("side", 0.0)
            found = {f"h of width {width}": (costs.get("h", stored), "new/h")}
        if row == BARE:
            carried = {f"{name} {WITHOUT}": point for name, point in found.items()}
            found = {NOTHING: (0.0, "old/old"), "back-filling": (costs["images"], "new/new")} | carried
        for name, (x, searched) in found.items():
            points.setdefault(name, []).append((x, of[measure, searched]))
    return points


def cost_explorer(records: Records) -> Explorer:
    """Pick a cost and a measure, see what each strategy buys."""
    found = [
        Cell(
            {"cost": words, "measure": measure, "strategy": strategy},
            [y for _, y in points],
            x=[sum(x for x, _ in points) / len(points)],
        )
        for words, cost in COSTS.items()
        for measure in MEASURES
        for strategy, points in cost_points(records, cost, measure).items()
    ]
    return explorer(
        View("costs", found, series="strategy", title="{measure}, %", x_title="{cost} (left edge: nothing)")
    )


def width_explorer(records: Records) -> Explorer:
    """Pick a measure, see every case by the width of the embeddings."""
    shown = {c: c for c in ("old/old", "h/h", "new/h", "new/new")}
    values = pick(table(records), MEASURES, case=shown)
    widths = {width: str(width) for width in sorted(values["new_dim"].unique())}
    at = {"measure": "measure", "case": "case", "width": "new_dim"}
    found = cells(values, at, {"measure": {m: m for m in MEASURES}, "case": shown, "new_dim": widths})
    return explorer(curves(found, "case", "width", "width of the embeddings", "{measure}, %"))


FLIPS = {c: c for c in ("new/new", "new/h", "h/h")} | {
    "BCT new/old": "BCT/old",
    "BCT new/new": "BCT/BCT",
    "new/ridge": "new/ridge(old)",
}


def flips(records: Records) -> dict[str, Rows]:
    """The share of queries, for each update, that found their class at rank 1 by old/old and no longer do, by case."""
    values = pick(table(records), "negative flips", case=tuple(FLIPS.values()))
    if len(values):
        values = values[(values["side"] != "none") | (values["method"] == "BCT")]
    by_update = {data: rows(part, "case") for (data,), part in groups(values, "data")}
    return {data: {shown: found[c] for shown, c in FLIPS.items() if c in found} for data, found in by_update.items()}
