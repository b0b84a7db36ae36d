"""Explorers of paper A's analysis (App. C): normalisation, the split, the number of classes, similarity. Every figure
is drawn from records alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import pandas as pd
from IPython.display import Markdown

from compatkit.intervals import Interval

from ..records.claims import Records
from ..records.published import paper_value
from ..records.statistics import rank_correlation
from ..records.table import ANY, Values, in_network_order, pick, rows, table
from ..show import tables
from ..show.dots import Panels
from ..show.explorer import Cell, Explorer, Level, Note, View, curves, explorer, matrix
from ..show.looks import in_order
from .gygli import (
    BOUND,
    OWN_RP,
    ROLES,
    RUNNING,
    STATISTICS,
    block_of,
    boundaries,
    by_count,
    chance_levels,
    cut_curves,
    n_common,
    network_layers,
    published,
    scores,
    with_block,
)
from .sections import by_data, cells, choose, gap_between, groups, mean_of, row_cells

# every experiment whose networks have the same blocks, so that they can be compared block by block
WITH_SIMILARITY = ("fig2", "fig2_pretrained", "incremental", "fig5", "fig7", "fig8", "fig9", "choices")
TEST_BATCHES = {f"test batches of {n}": f"test batches of {n}" for n in (8, 32, 128)}
SIMILARITIES = {
    "cross-correlation": "correlation",
    "matched cross-correlation": "matched",
    "CKA": "CKA",
    "neighbours": "neighbours",
}
"""Measures of similarity, and what figures call them."""


# --- another start ----------------------------------------------------------------------------------------------------


def against(records: Records, others: Records) -> Panels:
    """The difference between two experiments for each method, in points; their networks were trained apart."""
    found, of_others = by_data(records), by_data(others)
    parts = {name: (scores(group), scores(of_others[name])) for name, group in found.items()}
    return {
        name: {method: gap_between(ours[method], theirs[method], False) for method in ours if method != BOUND}
        for name, (ours, theirs) in parts.items()
    }


# --- what the paper leaves open ---------------------------------------------------------------------------------------


OPEN_CHOICES = {"unmasked": "outputs that are not shared may win"} | TEST_BATCHES

OUR_CHOICE = "our choice"  # the row of runs that decide as we did


CHOOSING = ("IIW", "RP", "DCC", "IIW+RP", "IIW+RP+DCC")


def choices(records: Records) -> dict[str, dict[str, dict[str, Interval | None]]]:
    """The change in recombination accuracy by each open choice on each pair of data sets, in points, by method: choices
    of testing on the same networks, choices of training on others."""
    found = {}
    for name, group in by_data(records).items():
        values = pick(table(group), "recombination", variant=ANY)
        by_row = {row: runs for (row,), runs in groups(values, "row")}
        tested = {variant: rows(runs, "method") for (variant,), runs in groups(by_row.pop(OUR_CHOICE), "variant")}
        changed = [(text, tested[variant], True) for variant, text in OPEN_CHOICES.items()]
        changed += [(row, rows(runs[runs["variant"] == ""], "method"), False) for row, runs in by_row.items()]
        found[name] = {
            text: {m: gap_between(of.get(m, {}), tested[""][m], same) for m in CHOOSING} for text, of, same in changed
        }
    return found


def choices_table(records: Records) -> Markdown:
    """``choices`` as a table."""
    body = [
        [text, name, *(tables.span(effects[m], signed=True) for m in CHOOSING)]
        for name, changed in choices(records).items()
        for text, effects in changed.items()
    ]
    return tables.table(["instead of our choice", "images", *CHOOSING], body)


# --- normalisation ----------------------------------------------------------------------------------------------------


def normalisation_explorer(records: Records) -> Explorer:
    """Pick data and method, see what each way to normalise does to recombination. Every method has the choices that
    are made when testing; IIW+DCC has networks with other layers as well."""
    printed = published("fig5")
    values = pick(table(records), "recombination", on=ROLES, variant=STATISTICS | TEST_BATCHES)
    plain, tested = values["normalization"] == "batch", values["variant"].map(STATISTICS | TEST_BATCHES).astype(object)
    others = [row for row in published("fig5") if row not in STATISTICS.values()]
    choices = [*STATISTICS.values(), *others, *TEST_BATCHES.values()]
    choice = pd.Categorical(tested.where(plain, values["row"].astype(object)), categories=choices)
    shown = (values["method"] != BOUND) & (plain | (values["variant"] == ""))

    def paper(at: Mapping[str, str]) -> float | None:  # the paper's figure: IIW+DCC, mean of both sets
        its_figure = (at["method"], at["test images"]) == ("IIW+DCC", ROLES["mean"])
        return printed.get(at["normalisation"]) if its_figure else None

    at = {"data": "data", "test images": "on", "method": "method", "normalisation": "choice"}
    found = cells(values.assign(choice=choice)[shown], at, {"on": ROLES}, paper)
    view = View("bars", found, axis="normalisation", x_title="recombination accuracy, %", levels=chance_levels(records))
    return explorer(view, start={"method": "IIW+DCC"})


def statistics_gain(records: Records) -> Panels:
    """The gain by the statistics of test batches for every method over running ones, in points, seed by seed."""
    running = next(variant for variant, row in STATISTICS.items() if row == RUNNING)
    found = {}
    for name, group in by_data(choose(records, normalization="batch")).items():
        batch, averages = scores(group), scores(group, variant=running)
        found[name] = {m: gap_between(batch[m], averages[m], True) for m in in_order(list(batch)) if m != BOUND}
    return found


HOME = {
    "running statistics": "averages from training",
    "statistics of training images": "recomputed on training images",
    "recalibrated statistics": "recomputed on test images",
}


def at_home(records: Records) -> Panels:
    """What other statistics than those of test batches gain where nothing is swapped, in points of accuracy on the own
    task, by method and length of training, on the first pair of sets."""
    values = table(next(iter(by_data(records).values())))
    batch = rows(pick(values, "own task"))
    found = {said: rows(pick(values, "own task", variant=variant)) for variant, said in HOME.items()}
    return {s: {row: gap_between(seeds, batch[row], True) for row, seeds in own.items()} for s, own in found.items()}


# --- where to split ---------------------------------------------------------------------------------------------------


HEADS = ("at the split", "after stage 2")
"""Where the shared heads of networks sit that are cut: there, or where it is usual."""
HEADLESS = ("independent", "IIW")


def split_values(records: Records) -> Values:
    """Recombination accuracy by the boundary where networks are cut, ``layer``, and where their shared heads sit,
    ``heads``, one of ``HEADS``; ``block`` is where they were made to fit. Methods without a shared head are the same
    wherever others have theirs."""
    layers = boundaries(records)
    values = with_block(pick(table(records), "recombination", on=ANY, layer=ANY), layers)
    values = values[(values["method"] != BOUND) & (values["layer"] != "pool")]
    usual = values[(values["split_at"] == "stage2") & (values["layer"] != "")]
    parts = [usual.assign(heads=HEADS[1])]
    elsewhere = set(values["method"][values["split_at"] != "stage2"])
    if elsewhere:
        headless = usual["method"].isin(HEADLESS)
        there = values[(values["layer"] == "") & values["method"].isin(elsewhere)]
        parts = [usual[headless].assign(heads=HEADS[0]), there.assign(heads=HEADS[0], layer=there["block"]), *parts]
    found = pd.concat([part.assign(layer=part["layer"].astype(str)) for part in parts])
    order = {"heads": HEADS, "layer": layers}
    return found.assign(**{n: pd.Categorical(found[n], categories=list(known)) for n, known in order.items()})


def split_curves(records: Records) -> Explorer:
    """Pick data and where the shared heads sit, see recombination accuracy against the place of the split, a line for
    each method."""
    at = {"data": "data", "test images": "on", "shared heads": "heads", "method": "method", "split layer": "layer"}
    found = [cell for group in by_data(records).values() for cell in cells(split_values(group), at, {"on": ROLES})]
    places = in_network_order(cell.at["split layer"] for cell in found)
    return explorer(cut_curves(found, records), ordered={"split layer": places})


def after_the_last_block(records: Records) -> Panels:
    """Recombination accuracy, in %, of methods with the same start, cut after the last block: their shared heads after
    stage 2, and a class head at the cut."""
    found = {}
    for name, group in by_data(records).items():
        values, last = split_values(group), boundaries(group)[-1]
        values = values[(values["on"] == "mean") & (values["layer"] == last)]
        usual = rows(values[values["heads"] == HEADS[1]], "method")
        at_split = rows(values[(values["heads"] == HEADS[0]) & (values["method"] == "IIW+DCC")], "method")
        shown = {m: mean_of(usual[m]) for m in ("IIW", "IIW+RP", "IIW+DCC")}
        found[name] = shown | {f"{method} there": mean_of(seeds) for method, seeds in at_split.items()}
    return found


# --- how many classes -------------------------------------------------------------------------------------------------


def classes_curve(records: Records) -> Explorer:
    """Pick data, see recombination accuracy against the number of classes that the shared head learns."""
    found, levels = [], chance_levels(records)
    at_most, rp = (
        paper_value("gygli", "fig9", row, column, "recombination accuracy")
        for row, column in (("6 classes or fewer", "largest"), ("IIW+RP", "mean"))
    )
    for name, group in by_data(records).items():
        for role, images in ROLES.items():
            at = {"data": name, "test images": images}
            counted = {str(count): seeds for count, seeds in by_count(group, role).items()}
            without = pick(table(group), "recombination", on=role, method="IIW+RP")
            levels.append(Level("IIW+RP, no class shared", without["value"].tolist(), at))
            found += row_cells(at | {"method": "IIW+DCC"}, "classes", counted)
    note = Note(
        f"The paper, on its images: at most {at_most} % with six classes or fewer, {rp} % under IIW+RP.",
        {"test images": ROLES["mean"]},
    )
    title, x_title = "recombination accuracy, %", "classes of the shared head"
    caption = "Recombination accuracy by the number of classes that the shared head learns"
    view = curves(found, "method", "classes", x_title, title, levels=levels, notes=[note], caption=caption)
    return explorer(view, ordered={"classes": _counts(records)})


def _counts(records: Records) -> list[str]:
    """Numbers of classes that can be shared."""
    return [str(n) for n in range(2, max(map(n_common, by_data(records).values())) + 1)]


def lost_by_fewer(group: Records) -> dict[str, Interval | None]:
    """The difference between a shared head for so many classes and one for all common classes, in points."""
    *fewer, (_, whole) = by_count(group).items()
    return {f"{count} classes": gap_between(seeds, whole, False) for count, seeds in fewer}


# --- similarity -------------------------------------------------------------------------------------------------------


def cka_explorer(records: Records) -> Explorer:
    """Pick method and test images, see CKA of every block of one network with every block of the other, mean over
    seeds."""
    own, other = "network of these images", "the other network"
    values = pick(table(records), "CKA map", on=ANY, layer=ANY, case=ANY)
    blocks = [*in_network_order(set(values["layer"]) - {"classifier"}), "classifier"]
    at = {"data": "data", "test images": "on", "method": "method", own: "layer", other: "case"}
    words = {"on": {role: ROLES[role] for role in "ab"}} | {c: {b: b for b in blocks} for c in ("layer", "case")}
    caption = "CKA of each block of one network with each block of the other"
    view = matrix(cells(values, at, words), own, other, percent=False, caption=caption)
    return explorer(view, start={"method": "IIW+DCC"})


def channels_explorer(records: Records) -> Explorer:
    """Fig. 6. Pick method and test images, see the correlation of every channel with its counterpart, by position and
    under the optimal permutation, of one pair of networks: the first seed."""
    numbers, levels = published("fig6", "cross-correlation"), []
    kinds = {"channel correlations": "by position", "matched channel correlations": "optimally permuted"}
    start = {False: "random", True: "pre-trained"}
    values = pick(table(records), kinds, on=("a", "b"))
    first = (
        values["run"].groupby([values[c] for c in ("data", "method", "pretrained_on")], observed=True).transform("min")
    )
    values = values[values["run"] == first].assign(start=(values["pretrained_on"] != "").map(start).astype("category"))
    at = {"data": "data", "test images": "on", "method": "method", "start": "start"}
    words = {"on": {role: ROLES[role] for role in "ab"}, "measure": kinds, "start": {s: s for s in start.values()}}
    found = cells(values, at | {"channels": "measure"}, words)
    for cell in (cell for cell in found if cell.at["channels"] == "by position"):
        place = {name: cell.at[name] for name in at}
        pretrained = " pre-trained" if place["start"] == "pre-trained" else ""
        printed = {"paper": place["method"] + pretrained}
        printed["paper, permuted"] = f"{printed['paper']} + permutation"
        levels += [
            Level(name, [numbers[row]], place, printed=True)
            for name, row in printed.items()
            if numbers.get(row) is not None
        ]
    title = {"title": "correlation", "x_title": "channel, by correlation"}
    title["caption"] = "Correlation of each channel with its counterpart, largest first, in one pair of networks"
    return explorer(View("ranked", found, series="channels", percent=False, levels=levels, **title))


def similarities(values: Values) -> list[str]:
    """The measures that all runs hold: what is matched is missing where it was measured without scipy."""
    found = pick(values, SIMILARITIES, layer="stem").groupby("measure", observed=True)["run"].nunique()
    return [m for m in SIMILARITIES if found.get(m) == values["run"].nunique()]


def alike_and_fit(values: Values, measure: str, layer: str) -> Values:
    """For each pair of networks cut after ``layer``, the similarity of their features there, ``alike``, and
    recombination accuracy, ``fit``, each the mean of both test sets."""
    alike, fit = (pick(values, name, layer=layer).set_index("run") for name in (measure, "recombination"))
    return alike[list(PAIR)].assign(alike=alike["value"], fit=fit["value"])


def similarity_cells(values: Values, at: Mapping[str, str], measure: str, layer: str) -> list[Cell]:
    """A point for each method and pair of networks, of ``alike_and_fit``."""
    return [
        Cell(
            {**at, "similarity": measure, "split layer": layer, "method": OWN_RP if method == BOUND else method},
            group["fit"].tolist(),
            x=group["alike"].tolist(),
            names=[f"{_setting(run)}, seed {run['seed']}" for run in group.to_dict("records")],
        )
        for (method,), group in groups(alike_and_fit(values, measure, layer), "method")
    ]


PAIR = (
    *("method", "seed", "setting", "pretrained_on", "scheme", "a", "normalization", "split_at", "dcc_classes"),
    *("recipe.rotations", "recipe.steps"),
)
"""Columns that say of a pair of networks what it is."""


def _setting(run: Mapping[str, Any]) -> str:
    """In words what two runs of one method can differ in, beside the seed."""
    shared = run["dcc_classes"]
    special = {
        "pre-trained": run["pretrained_on"],
        f"{run['scheme']}, {run['a']} first": run["scheme"] != "joint",
        f"normalisation: {run['normalization']}": run["normalization"] != "batch",
        f"heads after {run['split_at']}": run["split_at"] != "stage2",
        f"{shared} classes shared": shared == shared and shared,  # NaN where none is set
        "all rotations": run["recipe.rotations"] == "all",
        f"{run['recipe.steps']} steps": True,
    }
    return ", ".join(words for words, there in special.items() if there)


def similarity_explorer(records: Records) -> Explorer:
    """Pick data, measure of similarity and split layer, see it against recombination accuracy for every pair of
    networks on record."""
    values, layers, found, notes = table(records), network_layers(records), [], []
    for (name,), group in groups(values, "data"):
        for measure in similarities(values):
            for layer in layers:
                points = similarity_cells(group, {"data": name}, measure, layer)
                overall = _correlation(group, measure, layer)
                text = f"Rank correlation over all methods: {_in_words(overall)}, {overall.n} pairs of networks."
                notes.append(Note(text, {"data": name, "similarity": measure, "split layer": layer}))
                found += points
    view = View(
        "scatter",
        found,
        series="method",
        title="recombination accuracy, %",
        x_title="{similarity} after {split layer}",
        notes=notes,
    )
    return explorer(view, ordered={"split layer": layers}, start={"split layer": block_of("stage2", layers)})


def ranks(records: Records) -> Panels:
    """Spearman's correlation between similarity and recombination accuracy over all pairs of networks, by measure."""
    return _by_measure(records, _correlation)


def agreements(records: Records) -> Panels:
    """The share of cases, in %, in which the more similar one of two pairs that differ in nothing but the seed fits
    better, by measure: the mean over settings. It has no interval, for all settings share a few seeds."""

    def mean(values: Values, measure: str, at: str) -> Interval | None:
        shares = agreement(values, measure, at)
        return Interval(100 * sum(shares) / len(shares), math.nan, math.nan, 1) if shares else None

    return _by_measure(records, mean)


def _by_measure(records: Records, found: Callable[[Values, str, str], Interval | None]) -> Panels:
    panels = {}
    for name, group in by_data(records).items():
        at, values = block_of("stage2", network_layers(group)), table(group)
        panels[name] = {SIMILARITIES[measure]: found(values, measure, at) for measure in similarities(values)}
    return panels


def above_chance(records: Records) -> Panels:
    """The difference between DCC and independent networks in recombination accuracy, 0..1, and in each similarity of
    features averaged over positions, held against images that are paired at random: 0 is their score, 1 that of the
    same features."""
    found = {}
    for name, group in by_data(records).items():
        values = table(group)
        scores = {"recombination": rows(pick(values, "recombination"))}
        for measure in _held(values):
            scores[measure.removeprefix("pooled ")] = rows(pick(values, measure, layer=ANY, variant="above chance"))
        found[name] = {measure: gap_between(of["DCC"], of["independent"], False, 1) for measure, of in scores.items()}
    return found


def _held(values: Values) -> list[str]:
    """The measures that were held against chance."""
    return [m for m in values["measure"].cat.categories if m.startswith("pooled ")]


def by_chance(records: Records) -> dict[tuple[str, str], float]:
    """The largest p-value, by method and similarity, of any pair of networks on either test set: how often images that
    are paired at random score as high."""
    values = table(records)
    values = pick(values, _held(values), layer=ANY, variant="p", on=("a", "b"))
    return {
        (method, measure.removeprefix("pooled ")): float(part["value"].max())
        for (method, measure), part in groups(values, "method", "measure")
    }


def agreement(values: Values, measure: str, layer: str) -> list[float]:
    """For each setting with several seeds: in which share of its pairs of seeds the more similar networks fit better;
    a tie counts half."""
    shares = []
    for _, runs in groups(alike_and_fit(values, measure, layer), "setting"):
        pairs = combinations(zip(runs["alike"], runs["fit"], strict=True), 2)
        signs = [(one[0] - other[0]) * (one[1] - other[1]) for one, other in pairs]
        if signs:
            shares.append(sum((sign > 0) + (sign == 0) / 2 for sign in signs) / len(signs))
    return shares


def _correlation(values: Values, measure: str, layer: str) -> Interval:
    found = alike_and_fit(values, measure, layer)
    return rank_correlation(found["alike"].tolist(), found["fit"].tolist())


def _in_words(found: Interval) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
