"""Explorers of paper A's analysis (App. C): normalisation, the split, the number of classes, similarity. Every figure
is drawn from records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations

import ipywidgets
import plotly.graph_objects as go
from IPython.display import Markdown

from compatkit.intervals import Interval, difference, interval, rank_correlation

from ..records.published import paper_value
from ..records.store import by_row
from ..show import figures, tables
from ..show.explorer import picker
from .reusable import (
    RUNNING,
    STATISTICS,
    Records,
    Rows,
    block_of,
    boundaries,
    by_classes,
    by_data,
    by_normalization,
    by_split,
    choose,
    columns,
    difference_table,
    for_each_group,
    means_in_words,
    network_layers,
    own_and_swapped,
    published,
    scores,
    shown_method,
)

# every experiment whose networks have the same blocks, so that they can be compared block by block
WITH_SIMILARITY = ("fig2", "fig2_pretrained", "incremental", "fig5", "fig7", "fig8", "fig9", "choices")
TEST_BATCHES = {f"test batches of {n}": f"recombination, test batches of {n}" for n in (8, 32, 128)}
SIMILARITIES = ("cross-correlation", "matched cross-correlation", "CKA", "neighbours")


def methods(records: Records) -> list[str]:
    """The methods that occur, in order of appearance."""
    return list(dict.fromkeys(r["config"]["method"] for r in records))


def _chance(records: Records) -> float:
    return records[0]["metrics"]["chance/mean"]


# --- another start ----------------------------------------------------------------------------------------------------


def against(records: Records, others: Records) -> Markdown:
    """For each method the difference between two experiments, in points, seed by seed."""
    other_groups = by_data(others)
    parts = {}
    for name, group in by_data(records).items():
        ours, theirs = scores(group), scores(other_groups[name])
        parts[name] = {method: (ours[method], theirs[method]) for method in ours}
    return for_each_group(parts, lambda pairs: difference_table("method", pairs))


# --- what the paper leaves open ---------------------------------------------------------------------------------------


OPEN_CHOICES = {"outputs that are not shared may win": "recombination, unmasked"} | TEST_BATCHES

OUR_CHOICE = "our choice"  # the row of runs that decide as we did


def choices_table(records: Records) -> Markdown:
    """What each open choice changes in recombination accuracy, in points, by method; taken seed by seed."""
    shown = ("IIW", "RP", "DCC", "IIW+RP", "IIW+RP+DCC")

    def show(group: Records) -> Markdown:
        ours = [r for r in group if r["row"] == OUR_CHOICE]
        rows = {text: by_row(ours, "method", f"{key}/mean") for text, key in OPEN_CHOICES.items()}
        for row in dict.fromkeys(r["row"] for r in group if r["row"] != OUR_CHOICE):
            rows[row] = by_row([r for r in group if r["row"] == row], "method", "recombination/mean")
        usual = by_row(ours, "method", "recombination/mean")
        body = [[text, *(_effect(row.get(m), usual[m]) for m in shown)] for text, row in rows.items()]
        return tables.table(["instead of our choice", *shown], body)

    return for_each_group(by_data(records), show)


def _effect(changed: Mapping[int, float] | None, usual: Mapping[int, float]) -> str:
    if changed is None:
        return "–"
    seeds = sorted(changed.keys() & usual.keys())
    found = difference([100 * changed[s] for s in seeds], [100 * usual[s] for s in seeds], paired=True)
    return tables.span(found, signed=True)


# --- normalisation ----------------------------------------------------------------------------------------------------


def normalisation_explorer(records: Records) -> ipywidgets.Widget:
    """Pick data and method, see what each way to normalise does to recombination. Every method has the choices that
    are made when testing; IIW+DCC has networks with other layers as well."""
    sets = columns(records)

    def rows(data: str, method: str) -> Rows:
        group, column = sets[data]
        chosen = choose(group, method=method)
        found = by_normalization(chosen, column)
        plain = choose(chosen, normalization="batch")
        tested = {name: by_row(plain, lambda _, n=name: n, f"{key}/{column}") for name, key in TEST_BATCHES.items()}
        return found | {name: row[name] for name, row in tested.items()}

    def draw(data: str, method: str) -> go.Figure:
        group, column = sets[data]
        # the paper's figure: IIW+DCC, mean of both sets
        numbers = published("fig5") if (method, column) == ("IIW+DCC", "mean") else None
        return figures.bars(rows(data, method), published=numbers, chance=_chance(group))

    def say(data: str, method: str) -> str:
        return f"Recombination accuracy of {method} on {data}: {means_in_words(rows(data, method))}."

    controls = {"data": list(sets), "method": [m for m in methods(records) if m != "upper bound"]}
    return picker(controls, draw, say, start={"method": "IIW+DCC"})


def statistics_gain(records: Records) -> Markdown:
    """For every method what the statistics of test batches gain over running ones, in points, seed by seed."""

    def show(group: Records) -> Markdown:
        batch, running = (by_row(group, "method", f"{STATISTICS[row]}/mean") for row in ("per test batch", RUNNING))
        return difference_table("method", {m: (batch[m], running[m]) for m in batch if m != "upper bound"})

    return for_each_group(by_data(choose(records, normalization="batch")), show)


# --- where to split ---------------------------------------------------------------------------------------------------


def cut_when_tested(records: Records, column: str) -> Rows:
    """Recombination accuracy by boundary of networks that were made to fit after stage 2, cut there or elsewhere."""
    chosen = choose(records, split_at="stage2")
    keys = {at: f"recombination at {at}/{column}" for at in boundaries(chosen)}
    return {at: by_row(chosen, lambda _, at=at: at, key)[at] for at, key in keys.items()}


def split_lines(records: Records) -> dict[str, tuple[str, bool]]:
    """What can be drawn: every method, cut where it was not trained to be cut; and those trained at each split."""
    there = {r["config"]["method"] for r in records if r["config"]["split_at"] != "stage2"}
    trained = {f"{method}, heads at the split": (method, True) for method in methods(records) if method in there}
    shown = [method for method in methods(records) if method != "upper bound"]
    return trained | {f"{method}, heads after stage 2": (method, False) for method in shown}


def split_curves(records: Records) -> ipywidgets.Widget:
    """Pick data and where the shared heads sit, see recombination accuracy against the place of the split, a line for
    each method. Methods without a shared head have the same line wherever others have theirs."""
    sets, lines = columns(records), split_lines(records)
    places = {"at the split": True, "after stage 2": False}
    offered = [place for place, there in places.items() if there in {there for _, there in lines.values()}]

    def rows(data: str, heads: str) -> dict[str, Rows]:
        group, column = sets[data]
        return {
            method: (by_split if there else cut_when_tested)(choose(group, method=method), column)
            for method, there in lines.values()
            if there == places[heads] or method in ("independent", "IIW")
        }

    def draw(data: str, heads: str) -> go.Figure:
        return figures.curves(rows(data, heads), "split after", chance=_chance(sets[data][0]))

    def say(data: str, heads: str) -> str:
        return f"Recombination accuracy on {data}, shared heads {heads}, by split. " + "; ".join(
            f"{n}: {means_in_words(r)}" for n, r in rows(data, heads).items()
        )

    return picker({"data": list(sets), "shared heads": offered}, draw, say)


def split_explorer(records: Records) -> ipywidgets.Widget:
    """Pick method, split layer and data, see extractor x head for networks cut there."""
    groups, lines, layers = by_data(records), split_lines(records), boundaries(records)
    usual = block_of("stage2", layers)

    def runs(name: str, at: str, data: str) -> tuple[list[Mapping], str]:
        method, there = lines[name]
        trained_at = at if there else usual
        chosen = choose(groups[data], method=method)
        return [r for r in chosen if block_of(r["config"]["split_at"], layers) == trained_at], f"recombination at {at}"

    def draw(name: str, at: str, data: str) -> go.Figure:
        return figures.recombination_matrix(*runs(name, at, data))

    def say(name: str, at: str, data: str) -> str:
        return f"{name}, cut after {at}, on {data}: {own_and_swapped(*runs(name, at, data))}."

    controls = {"method": list(lines), "split layer": layers, "data": list(groups)}
    return picker(controls, draw, say, ordered={"split layer"}, start={"split layer": usual})


# --- how many classes -------------------------------------------------------------------------------------------------


def classes_curve(records: Records) -> ipywidgets.Widget:
    """Pick data, see recombination accuracy against the number of classes that the shared head learns."""
    sets = columns(records)

    def rows(data: str) -> tuple[Rows, Rows]:
        found = by_classes(*sets[data])
        counted = {row.removesuffix(" classes"): v for row, v in found.items() if row.endswith("classes")}
        return counted, {"IIW+RP": found["IIW+RP"]}

    def draw(data: str) -> go.Figure:
        counted, without = rows(data)
        group, column = sets[data]
        return figures.curves(
            {"IIW+DCC": counted},
            "classes of the shared head",
            published=_published_by_classes(list(counted)) if column == "mean" else None,
            chance=_chance(group),
            level=("IIW+RP, no class shared", interval(without["IIW+RP"].values())),
        )

    def say(data: str) -> str:
        counted, without = rows(data)
        shown = f"{means_in_words(counted)}; {means_in_words(without)}"
        return f"Recombination accuracy on {data} by number of shared classes: {shown}."

    return picker({"data": list(sets)}, draw, say)


def _published_by_classes(counts: Sequence[str]) -> dict[str, dict[str, float]]:
    """What App. C.5 prints of Fig. 9: a bound for few classes, and a level that needs none."""
    bound = paper_value("gygli", "fig9", "6 classes or fewer", "largest", "recombination accuracy")
    level = paper_value("gygli", "fig9", "IIW+RP", "mean", "recombination accuracy")
    return {
        "paper, IIW+RP": dict.fromkeys(counts, level),
        "paper, IIW+DCC: at most": {count: bound for count in counts if int(count) <= 6},
    }


def classes_explorer(records: Records) -> ipywidgets.Widget:
    """Pick the number of classes and data, see extractor x head."""
    groups = by_data(choose(records, method="IIW+DCC"))
    most = round(1 / _chance(records))

    def runs(count: str, data: str) -> list[Mapping]:
        return [r for r in groups[data] if (r["config"]["dcc_classes"] or most) == int(count)]

    def draw(count: str, data: str) -> go.Figure:
        return figures.recombination_matrix(runs(count, data))

    def say(count: str, data: str) -> str:
        return f"{count} classes shared on {data}: {own_and_swapped(runs(count, data))}."

    counts = [str(n) for n in range(2, most + 1)]
    return picker(
        {"classes": counts, "data": list(groups)}, draw, say, ordered={"classes"}, start={"classes": str(most)}
    )


# --- similarity -------------------------------------------------------------------------------------------------------


def cka_explorer(records: Records) -> ipywidgets.Widget:
    """Pick method and test images, see CKA of every block of one network with every block of the other, mean over
    seeds."""
    sets = columns(records, mean=False)
    blocks = [*network_layers(records), "classifier"]

    def matrix(method: str, data: str) -> list[list[float]]:
        group, role = sets[data]
        maps = [r["metrics"][f"CKA map/{role}"] for r in choose(group, method=method)]
        return [[sum(values) / len(maps) for values in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)]

    def draw(method: str, data: str) -> go.Figure:
        group, role = sets[data]
        own, other = (group[0]["config"][r] for r in (role, "ba"["ab".index(role)]))
        return figures.heat_map(matrix(method, data), blocks, blocks, (f"network of {own}", f"network of {other}"))

    def say(method: str, data: str) -> str:
        same = [row[i] for i, row in enumerate(matrix(method, data))]
        listing = ", ".join(f"{block} {value:.2f}" for block, value in zip(blocks, same, strict=True))
        return f"CKA of the same block in both networks, {method}, on images of {data}: {listing}."

    return picker({"method": methods(records), "images": list(sets)}, draw, say, start={"method": "IIW+DCC"})


def channels_explorer(records: Records) -> ipywidgets.Widget:
    """Fig. 6. Pick method and test images, see the correlation of every channel with its counterpart, by position and
    under the optimal permutation, of one pair of networks: the first seed."""
    sets, numbers = columns(records, mean=False), published("fig6")
    configs = [r["config"] for r in records]
    starts = {f"{c['method']}, {'pre-trained' if c['pretrained_on'] else 'random'}": c for c in configs}

    def lines(name: str, data: str) -> dict[str, list[float]]:
        group, role = sets[data]
        runs = choose(group, **{key: starts[name][key] for key in ("method", "pretrained_on")})
        kinds = {"by position": "channel correlations", "optimally permuted": "matched channel correlations"}
        keys = {kind: f"{key}/{role}" for kind, key in kinds.items()}
        return {kind: run["metrics"][key] for run in runs[:1] for kind, key in keys.items() if key in run["metrics"]}

    def printed(name: str) -> dict[str, float]:
        row = name.removesuffix(", random").replace(", pre-trained", " pre-trained")
        rows = {"paper": row, "paper, optimally permuted": f"{row} + permutation"}
        return {kind: numbers[row] for kind, row in rows.items() if numbers.get(row) is not None}

    def draw(name: str, data: str) -> go.Figure:
        return figures.ranked(lines(name, data), printed(name))

    def say(name: str, data: str) -> str:
        means = [f"{kind} {sum(v) / len(v):.2f}" for kind, v in lines(name, data).items()]
        shown = ", ".join(means) or "not run"
        return f"Mean correlation of channels of the first seed, {name} weights, on images of {data}: {shown}."

    return picker({"method and start": list(starts), "images": list(sets)}, draw, say)


def similarities(records: Records) -> list[str]:
    """The measures that all of these records hold: what is matched is missing where it was measured without scipy."""
    return [m for m in SIMILARITIES if all(f"{m} at stem/mean" in r["metrics"] for r in records)]


def similarity_points(records: Records, measure: str, layer: str) -> dict[str, list[figures.Point]]:
    """For each method a point per pair of networks, hollow if pre-trained: similarity of the features after ``layer``,
    and recombination accuracy when both networks are cut there, each the mean of both test sets."""
    points: dict[str, list[figures.Point]] = {}
    for record in records:
        pair = (record["metrics"][f"{what} at {layer}/mean"] for what in (measure, "recombination"))
        pretrained = bool(record["config"]["pretrained_on"])
        point = figures.Point(*pair, f"{_setting(record)}, seed {record['seed']}", pretrained)
        points.setdefault(shown_method(record["config"]["method"]), []).append(point)
    return points


def _setting(record: Mapping) -> str:
    """In words what two runs of one method can differ in, beside the seed."""
    config = record["config"]
    rotations, steps = (config["recipe"][key] for key in ("rotations", "steps"))
    special = {
        "pre-trained": config["pretrained_on"],
        f"{config['scheme']}, {config['a']} first": config["scheme"] != "joint",
        f"normalisation: {config['normalization']}": config["normalization"] != "batch",
        f"heads after {config['split_at']}": config["split_at"] != "stage2",
        f"{config['dcc_classes']} classes shared": config["dcc_classes"],
        "all rotations": rotations == "all",
        f"{steps} steps": True,
    }
    return ", ".join([shown_method(config["method"]), *(words for words, there in special.items() if there)])


def similarity_explorer(records: Records) -> ipywidgets.Widget:
    """Pick data, measure of similarity and split layer, see it against recombination accuracy for every pair of
    networks on record."""
    groups, layers = by_data(records), network_layers(records)

    def draw(data: str, measure: str, layer: str) -> go.Figure:
        points = similarity_points(groups[data], measure, layer)
        found = rank_correlation(*_pooled(points))
        title = f"rank correlation {found.mean:+.2f}, {found.n} pairs of networks"
        return figures.scatter(points, measure, "recombination accuracy, %", title)

    def say(data: str, measure: str, layer: str) -> str:
        found = rank_correlation(*_pooled(similarity_points(groups[data], measure, layer)))
        return f"{measure} after {layer} against recombination accuracy on {data}: rank correlation {_in_words(found)}."

    controls = {"data": list(groups), "similarity": similarities(records), "split layer": layers}
    return picker(controls, draw, say, ordered={"split layer"}, start={"split layer": block_of("stage2", layers)})


def rank_correlations(records: Records, layer: str = "stage2") -> Markdown:
    """Whether similarity orders pairs of networks as recombination accuracy does: Spearman's correlation over all
    pairs; and, of two pairs that differ in nothing but the seed, how often the more similar one fits better (guessing:
    half of the time), mean over settings. That mean has no interval: all settings share a few seeds."""

    def show(group: Records) -> Markdown:
        body, at = [], block_of(layer, network_layers(group))
        for measure in similarities(group):
            overall = rank_correlation(*_pooled(similarity_points(group, measure, at)))
            alike = agreement(group, measure, at)
            within = [f"{interval(alike).mean:.0%}" if alike else "–", str(len(alike))]
            body.append([measure, _in_words(overall), str(overall.n), *within])
        header = ["similarity", "rank correlation", "n", "the more similar seed fits better", "settings"]
        return tables.table(header, body)

    return for_each_group(by_data(records), show)


def agreement(records: Records, measure: str, layer: str) -> list[float]:
    """For each setting with several seeds: in which share of its pairs of seeds the more similar networks fit better;
    a tie counts half."""
    settings: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        setting = json.dumps(record["config"] | {"seed": None}, sort_keys=True)
        similarity, accuracy = (record["metrics"][f"{what} at {layer}/mean"] for what in (measure, "recombination"))
        settings.setdefault(setting, []).append((similarity, accuracy))
    shares = []
    for group in settings.values():
        signs = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in combinations(group, 2)]
        if signs:
            shares.append(sum((sign > 0) + (sign == 0) / 2 for sign in signs) / len(signs))
    return shares


def _pooled(points: Mapping[str, list[figures.Point]]) -> tuple[list[float], list[float]]:
    pairs = [point for group in points.values() for point in group]
    return [point.x for point in pairs], [point.y for point in pairs]


def _in_words(found: Interval) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
