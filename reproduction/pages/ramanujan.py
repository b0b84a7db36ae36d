"""Contents of the chapters on paper B (Ramanujan et al.), from the records of ``experiments.ramanujan``: tables and
explorers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from IPython.display import HTML, Markdown

from ..records.claims import Records, Seeds
from ..records.published import paper_numbers
from ..records.table import ANY, Rows, Values, by_seed, pick, rows, table
from ..records.verdicts import Verdict, compare
from ..show import tables
from ..show.dots import Panels, dots
from ..show.explorer import Cell, Explorer, Level, View, curves, explorer
from .sections import by_data, cells, gap_between, groups, mean_of, row_cells

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


def by_side(records: Records, measure: str) -> Rows:
    """Table 6: new/h, by what is stored beside the old embedding."""
    return rows(pick(table(records), measure, case="new/h"))


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


# --- drawn and in tables ----------------------------------------------------------------------------------------------


def published(item: str, column: str = "ImageNet-1k", metric: str = "CMC top-1") -> dict[str, float | None]:
    """The paper's numbers of an item by row."""
    printed = paper_numbers("ramanujan", item)
    return {r["row"]: r["value"] for r in printed if (r["column"], r["metric"]) == (column, metric)}


GAP = ("new/new", "h/h", "new/h", f"new/h {WITHOUT}", "BCT new/old", "BCT, synthesised classes, new/old")
GAP += ("new/ridge with side-information",)
"""What is drawn of an update, in points above old/old."""


def plot(
    panels: Panels,
    caption: str,
    unit: str = "points",
    printed: Mapping[str, Mapping[str, float | None]] | None = None,
    digits: int = 1,
) -> HTML:
    """Draw rows with their intervals, and the paper's that ``printed`` has; the caption says how to read them."""
    if not any(panels.values()):
        return HTML("No runs are stored here.")
    counts = {title: {one.n for one in rows.values() if one} for title, rows in panels.items()}
    titles = {title: f"{title}, n = {min(n)}" if len(n) == 1 else title for title, n in counts.items()}
    paper = {(titles[title], row): value for title, rows in (printed or {}).items() for row, value in rows.items()}
    key = "A mark and its line: the mean of n runs and its 95 % interval."
    if any(value is not None for value in paper.values()):
        key += " Open diamond: the paper, on other images."
    named = {titles[title]: rows for title, rows in panels.items()}
    return dots(named, f"{caption} <small>{key}</small>", unit=unit, digits=digits, paper=paper)


def drawn(
    records: Records,
    item: str,
    caption: str,
    rows: Sequence[str] = (),
    above: str = "",
    queries: str = "all queries",
) -> HTML:
    """Draw CMC top-1 of rows of an item, and what the paper has for them, a frame for each set of images.

    Args:
        records: of the item's experiment.
        item: a key of ``ITEMS``.
        caption: HTML.
        rows: which, in order; all that the item has by default.
        above: the row that the others are drawn in points above, seed by seed; else they are drawn as they are, in %.
        queries: a key of ``QUERIES``, for items of ``by_case``; the paper has numbers for all of them alone.
    """
    panels, printed = {}, {}
    for name, group in by_data(records).items():
        found = by_case(group, queries=QUERIES[queries]) if QUERIES[queries] else ITEMS[item].rows(group, "CMC top-1")
        paper = {} if QUERIES[queries] else {row: r["paper"] for row, r in _compared(group, item, "CMC top-1").items()}
        panels[name], printed[name] = _frame(found, paper, rows, above)
    return plot(panels, caption, "points" if above else "%", printed)


def side_by_side(updates: Mapping[str, tuple[Records, str]], caption: str) -> HTML:
    """Draw what is recovered of several updates, in points above old/old; of each the records, and the item where the
    paper has numbers, "" for none."""
    panels, printed = {}, {}
    for name, (records, item) in updates.items():
        paper = {row: r["paper"] for row, r in _compared(records, item, "CMC top-1").items()}
        panels[name], printed[name] = _frame(by_case(records), paper, GAP, "old/old")
    return plot(panels, caption, printed=printed)


def _frame(found: Rows, paper: Mapping[str, float | None], rows: Sequence[str], above: str) -> tuple[dict, dict]:
    """What is drawn in a frame, see ``drawn``: ours and the paper's."""
    shown = [row for row in rows or found if found.get(row) and row != above]
    if not above:
        return {row: mean_of(found[row]) for row in shown}, {row: paper.get(row) for row in shown}
    ours = {row: gap_between(found[row], found[above], same_networks=True) for row in shown}
    start = paper.get(above)
    return ours, {row: paper[row] - start for row in shown if paper.get(row) is not None and start is not None}


def said(records: Records, item: str, row: str, above: str = "") -> str:
    """A number in a sentence, CMC top-1 of records on one set of images: the level of a row in %, or how many points it
    is above another, with the 95 % interval; a dash where nothing is on record."""
    found = ITEMS[item].rows(records, "CMC top-1") if records else {}
    if not above:
        return f"{tables.span(mean_of(found.get(row, {})))} %"
    gap = gap_between(found.get(row, {}), found.get(above, {}), same_networks=True)
    return f"{tables.span(gap, signed=True)} points"


def comparison(*parts: tuple[Records, str]) -> Markdown:
    """Paper | ours in one table: a line for each row of each part on each set of images. A verdict is on the level of
    CMC top-1, and only where everything is the paper's.

    Args:
        parts: records, and the item in which the paper has numbers: a key of ``ITEMS``, "" for none.
    """
    body, verdicts = [], []
    for records, item in parts:
        for images, group in by_data(records).items():
            columns = [_compared(group, item, measure) for measure in MEASURES]
            for row, level in columns[0].items():
                numbers = [text for column in columns for text in _numbers(column.get(row))]
                body.append([row, images, *numbers, str(level["n"])])
                verdicts.append(level["verdict"])
    header = ["", "images", *(f"{who} {measure}, %" for measure in MEASURES for who in ("paper", "ours")), "n"]
    return tables.judged(header, body, verdicts)


def _numbers(row: Mapping | None) -> list[str]:
    return [tables.number(row["paper"]), tables.span(row["ours"])] if row else ["–", "–"]


def _compared(group: Records, item: str, measure: str) -> dict[str, dict]:
    """Rows of the paper and ours, see ``verdicts.compare``; ours alone where there is no item."""
    how = ITEMS.get(item, Item(by_case, measures=()))
    found = how.rows(group, measure)
    if measure in how.measures:
        printed = {"paper": "ramanujan", "item": item, "column": how.column, "metric": measure}
        differs = {name for record in group for name in record["differs"]}
        return {r["row"]: r for r in compare(found, **printed, differs=differs, scale=100)}
    none = Verdict("not judged", reason="no number is printed")
    return {row: {"paper": None, "ours": mean_of(v), "n": len(v), "verdict": none} for row, v in found.items()}


def architectures(records: Records, caption: str) -> HTML:
    """Table 4, points above old/old, for each old network under the name of the paper's that it stands for."""
    values, panels, printed = table(records), {}, {}
    for name in dict.fromkeys(r["row"] for r in records):
        found = _cases(values, name, {c: c for c in ("old/old", "new/new", "h/h", "new/h")}, "CMC top-1")
        title = "the same network" if name == "none" else name
        panels[title], printed[title] = _frame(found, published("table4", name), (), "old/old")
    return plot(panels, caption, printed=printed)


def alignments(records: Records, caption: str) -> HTML:
    """Table 6, CKA of old embeddings and side-information, for each update. A printed value is of one pair of
    networks."""
    paper = published("table6", metric="linear CKA")
    panels = {
        name: {
            row: mean_of(v, 1) for row, v in rows(pick(table(group), "CKA of old and side")).items() if row != "none"
        }
        for name, group in by_data(records).items()
    }
    return plot(panels, caption, "linear CKA", dict.fromkeys(panels, paper), digits=2)


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
    values, ceilings, task = _toy(records), toy_ceilings(records), "the old model learns"
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


def toy_drawn(records: Records, caption: str) -> HTML:
    """New/h by what is stored, for each task of the old model; and what bounds it below and above."""
    values, panels = _toy(records, "CMC top-1"), {}
    for (old,), part in groups(values, "old_task"):
        found = rows(pick(part, "CMC top-1", case="new/h"), "side")
        other = next(side for side in ("colour", "shape") if side != old)
        stored = {"nothing": "none", "what it learns": old, "what it lacks": other}
        stored |= {side: side for side in ("autoencoder", "SimCLR")}
        lines = {name: found[side] for name, side in stored.items() if side in found}
        bound = rows(pick(part, "CMC top-1", case="new/new", side="none"), "case")
        panels[f"old model of {old}s"] = {name: mean_of(v) for name, v in (lines | bound).items()}
    return plot(panels, caption, "%")


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


def savings(records: Records) -> dict[str, float]:
    """How many times fewer MACs h takes than embedding an image anew, for each width of h."""
    if not records:
        return {}
    values = pick(table(records), "MACs", case=("images", "h"))
    return {
        f"h of width {width}": mean["images"] / mean["h"]
        for (width,), part in groups(values.astype({"h_width": int}), "h_width")
        if "h" in (mean := part.groupby("case", observed=True)["value"].mean())
    }


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


def flips(records: Records, caption: str) -> HTML:
    """The share of queries, for each update, that found their class at rank 1 by old/old and no longer do, by case."""
    values = pick(table(records), "negative flips", case=tuple(FLIPS.values()))
    if len(values):
        values = values[(values["side"] != "none") | (values["method"] == "BCT")]
    by_update = {data: rows(part, "case") for (data,), part in groups(values, "data")}
    panels = {
        d: {shown: mean_of(found[c]) for shown, c in FLIPS.items() if c in found} for d, found in by_update.items()
    }
    return plot(panels, caption, "%")
