"""What the chapters on paper B (Ramanujan et al.) show, from the records of ``experiments.ramanujan``: tables and
explorers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from IPython.display import Markdown

from compatkit.intervals import interval

from ..records.published import paper_numbers
from ..records.verdicts import compare
from ..show import tables
from ..show.explorer import Cell, Explorer, Level, View, explorer
from .gygli import Records, Rows, by_data, choose, difference_table, differs, for_each_group, row_cells

MEASURES = ("CMC top-1", "CMC top-5", "mAP@1.0")
QUERIES = {"all queries": "", "queries of old classes": " of old classes", "queries of new classes": " of new classes"}
WITHOUT = "without side-information"
BARE = f"FCT {WITHOUT}"


# --- rows -------------------------------------------------------------------------------------------------------------


def case(records: Records, name: str, measure: str) -> dict[int, float]:
    """A measure in 0..1 of one case by seed, from those records that hold it."""
    key = f"{measure}: {name}"
    return {r["seed"]: r["metrics"][key] for r in records if key in r["metrics"]}


def _cases(records: Records, names: Mapping[str, str], measure: str) -> Rows:
    """``case`` of each name, by the row that it stands for; rows that nobody has measured are left out."""
    found = {row: case(records, name, measure) for row, name in names.items()}
    return {row: seeds for row, seeds in found.items() if seeds}


INDEPENDENT = {"old/old": "old/old", "new/old": "new/identity(old)", "new/new": "new/new"}
CLOSED = {
    "new/Procrustes": "new/Procrustes(old)",
    "new/ridge": "new/ridge(old)",
    "new/Procrustes with side-information": "new/Procrustes(old, side)",
    "new/ridge with side-information": "new/ridge(old, side)",
}


def by_case(records: Records, measure: str) -> Rows:
    """Tables 1 to 3 and Sec. 4.3: independent models, BCT, FCT; and the closed forms, which the paper leaves out."""
    bare, forward = _of_row(records, BARE), _of_row(records, "FCT")
    found = _cases(forward or bare, INDEPENDENT, measure)
    for row, name in (("BCT", "BCT"), ("BCT, synthesised", "BCT, synthesised classes,")):
        backward = _of_row(records, row)
        found |= _cases(backward, {f"{name} new/old": "BCT/old", f"{name} new/new": "BCT/BCT"}, measure)
    found |= _cases(forward, {"h/h": "h/h", "new/h": "new/h"}, measure)
    return found | _cases(bare, {f"new/h {WITHOUT}": "new/h"}, measure) | _cases(forward or bare, CLOSED, measure)


def _of_row(records: Records, row: str) -> list[Mapping]:
    return [record for record in records if record["row"] == row]


def by_hop(records: Records, measure: str) -> Rows:
    """Table 5: every version by itself, after one hop, and the first gallery after all hops or directly."""
    with_side, bare = _of_row(records, "FCT"), _of_row(records, BARE)
    rows = {"phi1/phi1": "v1/v1", "phi2/phi2": "v2/v2", "phi3/phi3": "v3/v3"}
    rows |= {"phi2/h2": "v2/one hop", "phi3/h3": "v3/one hop"}
    carried = {"two hops": "v3/hops", "direct": "v3/direct"}
    return _cases(with_side, rows | carried, measure) | _cases(
        bare, {f"{row} {WITHOUT}": name for row, name in carried.items()}, measure
    )


def by_side(records: Records, measure: str, name: str = "new/h") -> Rows:
    """Table 6: one case, by what is stored beside the old embedding."""
    found = {row: case(_of_row(records, row), name, measure) for row in dict.fromkeys(r["row"] for r in records)}
    return {row: seeds for row, seeds in found.items() if seeds}


def by_alignment(records: Records) -> Rows:
    """Table 6, last column: CKA of side-information and old embeddings, in 0..1."""
    rows = dict.fromkeys(r["row"] for r in records)
    return {row: {r["seed"]: r["metrics"]["CKA of old and side"] for r in _of_row(records, row)} for row in rows}


def by_bytes(records: Records, measure: str) -> Rows:
    """Sec. 5.2: a wider old embedding in place of side-information, side-information in place of the old embedding, and
    what both models reach by themselves. For the runs of Table 6 as well."""
    alone = _of_row(records, "without the old embedding")
    parts = {
        "ResNet50-256 old, no side-information": (_of_row(records, "wider old embedding"), "new/h"),
        "SimCLR-500 alone": (alone, "side/side"),
        "h(psi) without the old model": (alone, "new/h"),
        "old model with Mixup, old/old": (_of_row(records, "old model with Mixup"), "side/side"),
        "new/h, SimCLR-500": (_of_row(records, "FCT"), "new/h"),
    }
    return {row: case(group, name, measure) for row, (group, name) in parts.items() if group}


@dataclass(frozen=True)
class Item:
    """How a table of the paper is read from records; ``column``: of paper.csv."""

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

    return for_each_update(records, show)


def _columns(measure: str) -> list[str]:
    return [f"{who} {measure}, %" for who in ("paper", "ours")]


def _numbers(row: Mapping | None) -> list[str]:
    return [tables.number(row["paper"]), tables.span(row["ours"])] if row else ["–", "–"]


def for_each_update(records: Records, show: Callable[[Records], Markdown]) -> Markdown:
    """A table for each update under its name."""
    return for_each_group(by_data(records), show)


def _compared(records: Records, item: str, measure: str) -> dict[str, dict]:
    how = ITEMS[item]
    rows = compare(
        how.rows(records, measure),
        paper="ramanujan",
        item=item,
        column=how.column,
        metric=measure,
        differs=differs(records),
        scale=100,
    )
    return {row["row"]: row for row in rows}


def differences(
    records: Records, statements: Mapping[str, tuple[str, str]], item: str, measure: str = "CMC top-1"
) -> Markdown:
    """Questions of ours, "text: (one, other)": by how much row one is above the other, in points of ``measure``, seed
    by seed. What the paper claims is judged in ``pages.claims``."""

    def show(group: Records) -> Markdown:
        found = ITEMS[item].rows(group, measure)
        return difference_table(
            "question", {text: [found.get(row, {}) for row in pair] for text, pair in statements.items()}
        )

    return for_each_update(records, show)


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
        found = by_case(group, f"{measure}{QUERIES[queries]}")
        rows = [row for row in ("new/new", "new/h", f"new/h {WITHOUT}", *backward, closed) if row in found]
        return difference_table(f"above old/old, {queries}", {row: (found[row], found["old/old"]) for row in rows})

    return for_each_update(records, show)


def measured(rows: Rows, unit: str = "%", scale: float = 100, digits: int = 1) -> Markdown:
    """A table of what only we have measured: mean ± half width of the 95 % interval, n."""
    body = [
        [row, tables.span(interval([scale * v for v in seeds.values()]), digits=digits), str(len(seeds))]
        for row, seeds in rows.items()
    ]
    return tables.table(["", f"ours, {unit}", "n"], body)


def architectures(records: Records, measure: str = "CMC top-1") -> Markdown:
    """Table 4: paper | ours for each old architecture, under the name of the paper's that it stands for."""
    parts = []
    for column in dict.fromkeys(r["row"] for r in records):
        group = _of_row(records, column)
        config = group[0]["config"]
        ours = "{old_network}, width {old_width}, {old_dim} numbers".format(**config).replace("torchvision:", "")
        rows = _cases(group, {c: c for c in ("old/old", "h/h", "new/h", "new/new")}, measure)
        if column == "none":
            shown = measured(rows)
        else:
            how = {"paper": "ramanujan", "item": "table4", "metric": measure, "scale": 100}
            shown = tables.comparison(compare(rows, column=column, differs=differs(group), **how))
        parts.append(
            f"**{ours}**{f' (in the paper {column})' if column != 'none' else ', as the new one'}\n\n{shown.data}"
        )
    return Markdown("\n\n".join(parts))


def alignments(records: Records) -> Markdown:
    """Table 6, CKA: paper | ours for each update. A printed value is of one pair of networks, so none is judged."""
    printed = {r["row"]: r["value"] for r in paper_numbers("ramanujan", "table6") if r["metric"] == "linear CKA"}

    def show(group: Records) -> Markdown:
        body = [
            [
                row,
                tables.number(printed[row], digits=2),
                tables.span(interval(seeds.values()), digits=2),
                str(len(seeds)),
            ]
            for row, seeds in by_alignment(group).items()
        ]
        return tables.table(["", "paper", "ours", "n"], body)

    return for_each_update(records, show)


def provenance(records: Records) -> Markdown:
    """Where the runs of each update come from."""
    return tables.origins(by_data(records))


# --- the toy ----------------------------------------------------------------------------------------------------------


def blind_scores(relevant: int, items: int) -> dict[str, float]:
    """What retrieval expects of a model that cannot tell ``items`` apart, ``relevant`` of which have the query's label:
    their order is random.

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
    """What a model that knows one attribute of coloured shapes exactly, and nothing else, reaches on the gallery."""
    config = records[0]["config"]
    classes, each = max(config["classes"]), config["n_test"] // max(config["classes"])
    values = round(math.sqrt(classes))  # as many colours as shapes
    return blind_scores(each - 1, values * each - 1)


TOY_CASES = {"old/old": "old/old", "h/h": "h/h", "new/h": "new/h", "new/new": "new/new"}


def toy_rows(records: Records, learns: str, stored: str, measure: str) -> Rows:
    """The four cases of the toy for one old task and one kind of side-information."""
    return _cases(choose(records, old_task=learns, side=stored), TOY_CASES, measure)


def toy_explorer(records: Records) -> Explorer:
    """Pick what the old model learns and what is stored beside its embeddings, see what a search finds."""
    ceilings = toy_ceilings(records)
    learns = list(dict.fromkeys(r["config"]["old_task"] for r in records))
    stored = {"nothing" if s == "none" else s if s not in learns else f"the true {s}": s for s in _sides(records)}
    cells, levels = [], []
    for old in learns:
        for measure in MEASURES:
            at = {"the old model learns the": old, "measure": measure}
            levels.append(Level(f"the {old} alone", [ceilings[measure]], at))
            for name, side in stored.items():
                rows = toy_rows(records, old, side, measure)
                cells += row_cells(at | {"stored beside it": name}, "case", rows)
    return explorer(View("bars", cells, axis="case", x_title="{measure}, %", levels=levels))


def toy_table(records: Records) -> Markdown:
    """new/h for each old task and each kind of side-information."""
    learns = list(dict.fromkeys(r["config"]["old_task"] for r in records))
    body = []
    for side in _sides(records):
        found = [toy_rows(records, old, side, "CMC top-1").get("new/h", {}) for old in learns]
        cells = [tables.span(interval([100 * v for v in f.values()]) if f else None) for f in found]
        body.append([side, *cells, str(len(found[0]))])
    return tables.table(["stored", *(f"old model knows the {old}, %" for old in learns), "n"], body)


def _sides(records: Records) -> list[str]:
    return list(dict.fromkeys(r["config"]["side"] for r in records))


# --- explorers --------------------------------------------------------------------------------------------------------


def cases_explorer(records: Records) -> Explorer:
    """Pick an update, a measure and which queries, see every case."""
    cells = []
    for update, group in by_data(records).items():
        for measure in ("CMC top-1", "mAP@1.0"):
            for queries, key in QUERIES.items():
                at = {"update": update, "measure": measure, "queries": queries}
                cells += row_cells(at, "case", by_case(group, measure + key))
    return explorer(View("bars", cells, axis="case", x_title="{measure} of {queries}, %"))


def side_explorer(records: Records) -> Explorer:
    """Pick an update, a case and a measure, see what each kind of side-information is worth."""
    cells, levels = [], []
    for update, group in by_data(records).items():
        for measure in ("CMC top-1", "mAP@1.0"):
            at = {"update": update, "measure": measure}
            for name in ("old/old", "new/new"):
                levels.append(Level(name, [interval(case(group, name, measure).values()).mean], at))
            for name in ("new/h", "h/h", "side/side", "new/ridge(old, side)"):
                cells += row_cells(at | {"case": name}, "side-information", by_side(group, measure, name))
    return explorer(View("bars", cells, axis="side-information", x_title="{measure} of {case}, %", levels=levels))


HOPS = {
    "searched by itself": "v{0}/v{0}",
    "one hop from the version before": "v{0}/one hop",
    "first gallery, all hops": "v{0}/hops",
    "first gallery, directly": "v{0}/direct",
}


def hops(records: Records, side: str, measure: str) -> dict[str, Rows]:
    """For each way to carry a gallery its score at each version, by number of classes learnt."""
    chosen = choose(records, side=side)
    versions = list(enumerate(chosen[0]["config"]["classes"], 1))
    found = {}
    for way, pattern in HOPS.items():
        places = {str(n): case(chosen, pattern.format(i), measure) for i, n in versions}
        found[way] = {place: seeds for place, seeds in places.items() if seeds}
    return found


def hops_explorer(records: Records) -> Explorer:
    """Pick side-information and measure, see the gallery of the first version carried on, update after update."""
    cells = []
    for words, side in {"SimCLR": "SimCLR", "no side-information": "none"}.items():
        for measure in MEASURES:
            for way, rows in hops(records, side, measure).items():
                cells += row_cells({"side-information": words, "measure": measure, "gallery": way}, "classes", rows)
    return explorer(
        View(
            "curves",
            cells,
            series="gallery",
            axis="classes",
            title="{measure}, %",
            x_title="classes that the version has learnt",
        )
    )


COSTS = {"multiplications per item": "MACs", "kilobytes per item": "KB", "seconds per 10 000 items": "seconds"}


def cost_points(records: Records, cost: str, measure: str) -> dict[str, list[tuple[float, float]]]:
    """Fig. 3: what carrying over an item costs, and the accuracy that it buys, a point for each seed.

    BCT and doing nothing cost nothing; back-filling reads the image, a transformation the embedding and what is stored
    beside it.
    """
    points: dict[str, list[tuple[float, float]]] = {}

    def add(name: str, x: float, record: Mapping, case_name: str) -> None:
        points.setdefault(name, []).append((x, record["metrics"][f"{measure}: {case_name}"]))

    for record in records:
        config, metrics = record["config"], record["metrics"]
        if record["row"] == "BCT":
            add("BCT", 0.0, record, "BCT/old")
        elif record["row"].startswith("FCT"):
            side = record["row"] != BARE
            image, h = {
                "MACs": lambda m=metrics: (m["MACs: images"], m["MACs: h"]),
                "KB": lambda m=metrics, s=side: (m["KB: images"], m["KB: old"] + s * m["KB: side"]),
                "seconds": lambda m=metrics: (
                    m["seconds per 10 000 items: images"],
                    m["seconds per 10 000 items: h"],
                ),
            }[cost]()
            if side:
                add(f"h of width {config['h_width']}", h, record, "new/h")
            else:
                add("old/old, nothing done", 0.0, record, "old/old")
                add("back-filling", image, record, "new/new")
                add(f"h of width {config['h_width']} {WITHOUT}", h, record, "new/h")
    return points


def cost_explorer(records: Records) -> Explorer:
    """Pick a cost and a measure, see what each strategy buys."""
    cells = [
        Cell(
            {"cost": words, "measure": measure, "strategy": strategy},
            [y for _, y in points],
            x=[interval([x for x, _ in points]).mean],
        )
        for words, cost in COSTS.items()
        for measure in MEASURES
        for strategy, points in cost_points(records, cost, measure).items()
    ]
    return explorer(
        View("costs", cells, series="strategy", title="{measure}, %", x_title="{cost} (left edge: nothing)")
    )


def width_explorer(records: Records) -> Explorer:
    """Pick a measure, see every case by the width of the embeddings."""
    widths, cells = sorted({r["config"]["new_dim"] for r in records}), []
    for measure in MEASURES:
        for name in ("old/old", "h/h", "new/h", "new/new"):
            rows = {str(w): case(choose(records, new_dim=w), name, measure) for w in widths}
            cells += row_cells({"measure": measure, "case": name}, "width", rows)
    return explorer(
        View("curves", cells, series="case", axis="width", title="{measure}, %", x_title="width of the embeddings")
    )


def flips(records: Records) -> dict[str, Rows]:
    """For each update, the share of queries that found their class at rank 1 by old/old and no longer do, by case."""
    names = {c: c for c in ("new/new", "new/h", "h/h")} | {"BCT new/old": "BCT/old", "BCT new/new": "BCT/BCT"}
    names |= {"new/ridge": "new/ridge(old)"}
    found = {}
    for data, group in by_data(records).items():
        usual = [r for r in group if r["config"]["side"] != "none" or r["config"]["method"] == "BCT"]
        found[data] = _cases(usual, names, "negative flips")
    return found
