"""Contents of the chapters on paper A (Gygli et al.), from the records of ``experiments.gygli``: tables and the
explorers of Fig. 2. The explorers of the other figures stand in ``analysis``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from compatkit.intervals import Interval

from ..records.claims import Records, Seeds, Side
from ..records.published import paper_numbers
from ..records.table import ANY, Rows, Values, in_network_order, pick, rows, table
from ..show.explorer import Cell, Explorer, Level, View, curves, explorer, matrix
from .sections import by_data, cells, groups, percent_of_gap

MEASURES = {
    "recombination": "recombination accuracy",
    "not recombined": "accuracy with the own head, common classes",
    "own task": "accuracy on the own task, all classes",
}
UNSHARED_OUTPUTS = {"": "left out of the choice", "unmasked": "may be chosen (and are wrong)"}
ROLES = {"mean": "mean of both sets", "a": "first set", "b": "second set"}
"""On whose test images two networks are compared, as the explorers call it."""

BOUND, OWN_RP = "upper bound", "own RP heads"
"""A method, and its name where its networks are recombined: they are no bound then."""


# --- rows of the figures ----------------------------------------------------------------------------------------------


def with_bound(values: Values) -> Values:
    """The values with the upper bound in its place: it is not a recombination, but each network with its own head on
    the same images, as Figs. 2, 7 and 10 show it."""
    bound, swapped = values["method"] == BOUND, values["measure"] == "recombination"
    own = values[bound & (values["measure"] == "not recombined")]
    measure = pd.Categorical(["recombination"] * len(own), dtype=values["measure"].dtype)
    return pd.concat([values[~(bound & swapped)], own.assign(measure=measure)])


def scores(records: Records, measure: str = "recombination", on: str = "mean", variant: str = "") -> Rows:
    """A measure in 0..1 by method and seed, on one test set or the mean of both."""
    values = table(records)
    if not variant:
        values = with_bound(values)
    return rows(pick(values, measure, on=on, variant=variant), "method")


def by_scheme(records: Records) -> Rows:
    """Joint and incremental training; incremental is the mean over both orders."""
    return rows(pick(table(records), "recombination"), mean=True)


RUNNING = "running train statistics"
STATISTICS = {
    "running statistics": RUNNING,
    "recalibrated statistics": "recomputed on test set",
    "": "per test batch",
}


def by_correlation(records: Records) -> Rows:
    """Fig. 6: mean correlation of channels where the networks are cut, over both test sets, in -1..1."""
    values = table(records)
    found = rows(pick(values, "channel correlations", on=ANY), mean=True)
    matched = rows(pick(values, "matched channel correlations", on=ANY, row="independent"), mean=True)
    return found | {f"{row} + permutation": seeds for row, seeds in matched.items()}


def by_count(records: Records, on: str = "mean") -> dict[int, Seeds]:
    """Recombination accuracy under IIW+DCC by the number of classes of the shared head."""
    values = pick(with_count(records), "recombination", on=on, method="IIW+DCC")
    return {int(count): seeds for count, seeds in sorted(rows(values, "count").items(), key=lambda one: int(one[0]))}


def with_count(records: Records) -> Values:
    """Their values with a column ``count``: how many classes the shared head learns."""
    values = table(records)
    return values.assign(count=values["dcc_classes"].astype(float).fillna(n_common(records)).astype(int))


def by_classes(records: Records) -> Rows:
    """Fig. 9: ``by_count``, and IIW+RP, which needs no class."""
    found = {f"{count} classes": seeds for count, seeds in by_count(records).items()}
    return found | rows(pick(table(records), "recombination", method="IIW+RP"), "method")


def chance(records: Records) -> float:
    """Accuracy of guessing among the common classes, in 0..1."""
    return float(pick(table(records[:1]), "chance")["value"].iloc[0])


def n_common(records: Records) -> int:
    """The number of classes that both sets have."""
    return round(1 / chance(records))


def chance_levels(records: Records, **at: str) -> list[Level]:
    """Chance accuracy on each pair of data sets, where an explorer's choice is ``at``."""
    return [Level("chance", [chance(group)], {"data": name} | at) for name, group in by_data(records).items()]


def network_layers(records: Records) -> list[str]:
    """Every boundary at which the networks of these records were cut and measured, from the images on."""
    return in_network_order(pick(table(records[:1]), "recombination", layer=ANY)["layer"])


def boundaries(records: Records) -> list[str]:
    """The places where networks can be cut into parts that both have weights: pooling has none."""
    return [layer for layer in network_layers(records) if layer != "pool"]


def block_of(split_at: str, layers: Sequence[str]) -> str:
    """The block after which a network was cut: a stage's name means its last block."""
    return [at for at in layers if at == split_at or at.startswith(f"{split_at}_block")][-1]


def with_block(values: Values, layers: Sequence[str]) -> Values:
    """The values with a column ``block``: after which the shared heads of their networks sit."""
    blocks = values["split_at"].map(lambda at: block_of(at, layers))
    return values.assign(block=pd.Categorical(blocks, categories=list(layers)))


def cut_when_tested(records: Records, on: str = "mean") -> Rows:
    """Recombination accuracy by boundary of networks that were made to fit after stage 2, cut there or elsewhere."""
    values = pick(table(records), "recombination", on=on, layer=ANY, split_at="stage2")
    found = rows(values[~values["layer"].isin(["", "pool"])], "layer")
    return {at: found[at] for at in in_network_order(found)}


# --- numbers of the paper, and shares of the gap ----------------------------------------------------------------------


def shares(records: Records) -> dict[str, dict[str, Interval | None]]:
    """The share of the gap, in %, that each method closes on each pair of data sets: 0 are networks trained apart and
    recombined, 100 those that were never taken apart."""

    def side(row: str, metric: str = "recombination/mean") -> Side:
        return Side("", row, metric, ())

    ends, found = (side(BOUND, "not recombined/mean"), side("independent")), {}
    for name, group in by_data(records).items():
        methods = dict.fromkeys(r["row"] for r in group if r["row"] not in ("independent", BOUND))
        found[name] = {method: percent_of_gap((side(method), *ends), {"": group}) for method in methods}
    return found


def printed_shares(item: str = "fig2") -> dict[str, float]:
    """The shares of the gap, in %, that the paper's own numbers give."""
    printed = {row: value for row, value in published(item).items() if value is not None}
    start, end = printed.pop("independent"), printed.pop(BOUND)
    return {row: 100 * (value - start) / (end - start) for row, value in printed.items()}


def published(item: str, metric: str = "recombination accuracy") -> dict[str, float | None]:
    """The paper's numbers of an item by row, mean over both data sets, None where it printed none."""
    printed = paper_numbers("gygli", item)
    return {r["row"]: r["value"] for r in printed if (r["column"], r["metric"]) == ("mean", metric)}


# --- explorers of Fig. 2 ----------------------------------------------------------------------------------------------


def methods_explorer(records: Records, item: str = "fig2") -> Explorer:
    """Pick data and measure, see every method: bars with intervals, seeds, chance, and the numbers published for
    ``item``."""
    numbers = {"recombination accuracy": published(item)}
    if item == "fig2":
        numbers[MEASURES["own task"]] = published("fig2", "own-task accuracy")

    def paper(at: Mapping[str, str]) -> float | None:
        return numbers.get(at["measure"], {}).get(at["method"]) if at["test images"] == ROLES["mean"] else None

    values = pick(with_bound(table(records)), MEASURES, on=ROLES)
    at = {"data": "data", "test images": "on", "measure": "measure", "method": "method"}
    bars = cells(values, at, {"on": ROLES, "measure": MEASURES}, paper)
    levels = chance_levels(records, measure="recombination accuracy")
    return explorer(View("bars", bars, axis="method", x_title="{measure}, %", levels=levels))


def recombination_explorer(records: Records) -> Explorer:
    """Pick a method, data and where to cut, see extractor x head: the two networks as trained, and the two recombined
    ones; below, the accuracy of the latter over all cuts, for any methods."""
    fields: list[Cell] = []
    for name, group in by_data(records).items():
        layers = boundaries(group)
        values = table(group)
        for (trained,), runs in groups(values, "method"):
            for variant, outputs in UNSHARED_OUTPUTS.items():
                shown = OWN_RP if trained == BOUND else trained
                at = {"data": name, "classes that are not shared": outputs, "method": shown}
                for layer in [block_of("stage2", layers)] if variant else layers:
                    where = {"variant": variant, "layer": "" if variant else layer}
                    fields += matrix_cells(at | {"split layer": layer}, runs, **where)
    values = pick(table(records), "recombination", on=ROLES, layer=ANY, split_at="stage2")
    values = values[~values["layer"].isin(["", "pool"]) & (values["method"] != BOUND)]
    lines = cells(
        values, {"data": "data", "test images": "on", "method": "method", "split layer": "layer"}, {"on": ROLES}
    )
    caption = "Accuracy on the extractor's images, cut after {split layer}"
    return explorer(
        matrix(fields, "extractor of", "head of", caption=caption),
        cut_curves(lines, records),
        ordered={"split layer": in_network_order(cell.at["split layer"] for cell in lines)},
        start={"method": "IIW+DCC", "split layer": block_of("stage2", boundaries(records))},
    )


def cut_curves(found: Sequence[Cell], records: Records) -> View:
    """Recombination accuracy over the places where networks are cut, a line for each method."""
    title, caption = "recombination accuracy, %", "Recombination accuracy by the place of the cut"
    return curves(found, "method", "split layer", "cut after", title, levels=chance_levels(records), caption=caption)


def matrix_cells(at: Mapping[str, str], values: Values, **where: str) -> list[Cell]:
    """Extractor x head of one method's networks, seeds as runs: the own heads, and the swapped ones measured as
    ``where`` says. Each extractor is evaluated on its own test set."""
    found = {
        (role, own): pick(values, "not recombined" if own else "recombination", on=role, **({} if own else where))
        for role in "ab"
        for own in (True, False)
    }
    first = values.iloc[0]
    sets = {role: first[role] if first["a"] != first["b"] else f"{first[role]} ({role})" for role in "ab"}
    return [
        Cell({**at, "extractor of": of_extractor, "head of": of_head}, found[own, own == other]["value"].tolist())
        for own, of_extractor in sets.items()
        for other, of_head in sets.items()
    ]
