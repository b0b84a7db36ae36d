"""Contents of the chapters on paper A's applications (Gygli et al., Sec. 5), from the records of
``experiments.applications``: tables and explorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from compatkit.intervals import Interval, interval

from ..records.claims import Records, Seeds
from ..records.published import paper_numbers, paper_value
from ..records.table import ANY, Rows, Values, pick, rows, table
from ..show import tables
from ..show.dots import Panels
from ..show.explorer import Cell, Explorer, Level, Note, curves, explorer, matrix
from .sections import by_data, cells, gap_between, groups, mean_of

# --- domain adaptation (Sec. 5.1) -------------------------------------------------------------------------------------

TABLE_1 = {
    "source model": ("source model",),
    "source model with test BN": ("with test BN",),
    "adapted through RP": ("adapted",),
}
BEYOND = {
    "adapted, rotation head moves": ("adapted", "head moves"),
    "adapted, running statistics": ("adapted", "running statistics"),
}
"""Rows of Table 1, and rows beyond it: case and variant."""
ARROWS = {"a to b": "{a} → {b}", "b to a": "{b} → {a}"}
DIRECTIONS = {"a to b": "CIFAR-10 -> STL-10", "b to a": "STL-10 -> CIFAR-10", "mean": "mean"}
"""Ours, and the columns of Table 1."""


def by_adaptation(group: Records, direction: str) -> Rows:
    """Table 1 for one pair of sets: average class accuracy on the target by row and seed. direction: one of
    ``DIRECTIONS``."""
    values = table(group)
    there = [d for d in ("a to b", "b to a") if direction in (d, "mean")]
    back = ["b to a" if d == "a to b" else "a to b" for d in there]

    def mean(kind: str, case: str, variant: str = "", on: str = "target", directions: Sequence[str] = there) -> Seeds:
        found = pick(values, on, case=case, variant=variant, row=kind, direction=directions)
        return rows(found, "case", mean=True).get(case, {})

    return {row: mean("rotation", *case) for row, case in (TABLE_1 | BEYOND).items()} | {
        "adapted by larger steps": mean("rotation, larger steps", "adapted"),
        "with a jigsaw: with test BN": mean("jigsaw", "with test BN"),
        "with a jigsaw: adapted": mean("jigsaw", "adapted"),
        # that network is the source model of the other direction
        "trained on the target, with labels": mean("rotation", "source model", on="source", directions=back),
        "source model, on the source": mean("rotation", "source model", on="source"),
        "source model with test BN, on the source": mean("rotation", "with test BN", on="source"),
    }


KINDS = ("rotation", "rotation, larger steps", "jigsaw")


def adaptation_table(records: Records) -> Markdown:
    """Table 1, paper | ours, in both directions; without verdicts, which are on differences."""
    printed = {(r["row"], r["column"]): r["value"] for r in paper_numbers("gygli", "table1")}
    theirs, ours = list(DIRECTIONS.values())[:2], {}
    for group in by_data(records).values():
        for direction, arrow in ARROWS.items():
            ours[arrow.format(**group[0]["config"])] = by_adaptation(group, direction)
    places = dict.fromkeys([row for row, _ in printed] + [row for found in ours.values() for row in found])
    body = [
        [row]
        + [tables.number(printed.get((row, column))) for column in theirs]
        + [tables.span(mean_of(found.get(row, {}))) for found in ours.values()]
        for row in places
    ]
    return tables.table(["%", *(f"paper, {column.replace('->', '→')}" for column in theirs), *ours], body)


_PANEL = {
    "source model": "source model",
    "source model with test BN": "with test BN",
    "adapted through RP": "adapted",
    "adapted by larger steps": "by larger steps",
    "source model, on the source": "at home",
    "source model with test BN, on the source": "at home, test BN",
}
"""Rows of ``by_adaptation`` that are drawn, and their names there."""
_ASKED = {
    "test BN − running BN, source": ("source model with test BN, on the source", "source model, on the source"),
    "rotation head frozen − moving": ("adapted through RP", "adapted, rotation head moves"),
    "larger steps − usual steps": ("adapted by larger steps", "adapted through RP"),
    "jigsaw − not adapted": ("with a jigsaw: adapted", "with a jigsaw: with test BN"),
    "running BN − test BN": ("adapted, running statistics", "adapted through RP"),
}
"""Questions of ours: by how much one row of ``by_adaptation`` is above another."""


def adaptation_panels(records: Records) -> Panels:
    """Table 1: average class accuracy in %, mean over both directions, for each pair of sets."""
    return {
        name: {said: mean_of(found[row]) for row, said in _PANEL.items()}
        for name, group in by_data(records).items()
        if (found := by_adaptation(group, "mean"))
    }


def printed_adaptation() -> dict[str, float | None]:
    """The printed numbers of the rows of ``adaptation_panels``: the mean of both directions."""
    return {
        said: paper_value("gygli", "table1", row, "mean", "test accuracy") for row, said in list(_PANEL.items())[:3]
    }


def adaptation_questions(records: Records) -> Panels:
    """Differences between ways to adapt on the same networks, in points, seed by seed."""
    found = {name: by_adaptation(group, "mean") for name, group in by_data(records).items()}
    return {
        name: {said: gap_between(of[one], of[other], True) for said, (one, other) in _ASKED.items()}
        for name, of in found.items()
    }


def adaptation_explorer(records: Records) -> Explorer:
    """Pick direction, pretext and what moves: accuracy on target and source, and on the pretext, by adaptation step."""
    heads = {"": "stays as it is", "head moves": "moves"}
    asked = {"target": "target", "source": "source", "pretext": "question"}
    found, levels = [], []
    at = {"data": "arrow", "question": "row", "its head": "variant", "accuracy on the": "measure", "steps": "step"}
    words = {"row": {kind: kind for kind in KINDS}, "variant": heads, "measure": asked}
    for group in by_data(records).values():
        names = {d: arrow.format(**group[0]["config"]) for d, arrow in ARROWS.items()}
        values = table(group)
        values = values.assign(arrow=pd.Categorical(values["direction"].map(names), categories=list(names.values())))
        found += cells(pick(values, asked, variant=heads), at, words)
        levels += [
            Level("chance on target and source", [runs["value"].iloc[0]], {"data": data, "question": kind})
            for (data, kind), runs in groups(pick(values, "chance"), "arrow", "row")
        ]
    caption = "Accuracy on the target, on the source and of the answers to the question, over steps of adaptation"
    view = curves(found, "accuracy on the", "steps", "adaptation steps", levels=levels, caption=caption)
    return explorer(view, ordered={"steps": _in_order(found)})


def _in_order(found: Sequence[Cell]) -> list[str]:
    return sorted({cell.at["steps"] for cell in found}, key=int)


# --- classifier transfer (Sec. 5.2, App. D) ---------------------------------------------------------------------------

ARCHITECTURES = {"ResNet": "ResNet-56", "Wide ResNet": "Wide ResNet-56", "MobileNetV2": "MobileNetV2"}
"""Ours, in the order of ``experiments.classifier``, and the paper's."""
REFERENCE = "Wide ResNet"
CLASSES = {"accuracy": "all classes", "old classes": "classes there were", "new classes": "new classes"}


def by_deployment(group: Records, row: str) -> Rows:
    """Fig. 3 and Fig. 11 for one set: accuracy on all classes by deployed architecture and seed.

    row: "extractor frozen", "RP frozen", "independent": with the head that was updated on the Wide ResNet; "upper
    bound", "upper bound, changed architecture".
    """
    bounds = ("upper bound", "upper bound, changed architecture")
    found = rows(pick(table(group), "accuracy", case=ANY, other="" if row in bounds else REFERENCE, row=row), "case")
    return {theirs: found.get(ours, {}) for ours, theirs in ARCHITECTURES.items()}


DEPLOYED = {
    "extractor frozen": "extractor frozen",
    "RP, extractor frozen": "RP, extractor frozen",
    "RP frozen": "RP frozen",
    "upper bound": "upper bound",
    "upper bound, changed architecture": "changed architecture",
    "independent": "independent",
}
"""How a network can be deployed, and what figures call it."""


def deployment_panels(records: Records) -> Panels:
    """Figs. 3 and 11: accuracy on all classes in %, of each deployed network, with the head that was updated on the
    Wide ResNet."""
    panels: dict[str, dict[str, Interval | None]] = {}
    for variant, said in DEPLOYED.items():
        for network, seeds in by_deployment(records, variant).items():
            panels.setdefault(network, {})[said] = mean_of(seeds)
    return panels


def printed_deployments() -> dict[tuple[str, str], float | None]:
    """Fig. 11, which has the numbers of Fig. 3 as well, by deployed network and what figures call it."""
    printed = paper_numbers("gygli", "fig11")
    return {(r["row"], DEPLOYED[r["column"]]): r["value"] for r in printed if r["column"] in DEPLOYED}


def classifier_explorer(records: Records) -> Explorer:
    """Pick data, variant and classes: the head's accuracy, by the extractor it was updated on and the one it serves."""
    one, other, values = "updated on", "deployed on", table(records)
    at = {"data": "data", "while the head learns": "row", "accuracy on": "measure", one: "other", other: "case"}
    names = {name: name for name in ARCHITECTURES}
    learning = {row: row for row in ("extractor frozen", "RP, extractor frozen", "RP frozen", "independent")}
    words = {"row": learning, "measure": CLASSES, "other": names, "case": names}
    found = cells(pick(values, CLASSES, case=ANY, other=names), at, words)
    notes = [
        Note("; ".join(f"{name}: {cost}" for name, cost in architecture_costs(part).items()) + ".", {"data": data})
        for (data,), part in groups(values, "data")
    ]
    caption = "Accuracy by the extractor that the head was updated on and the one that it serves"
    return explorer(matrix(found, one, other, notes=notes, caption=caption))


def architecture_costs(values: Values) -> dict[str, str]:
    """The cost of each network under the common head: parameters, multiplications, the shortest measured latency."""
    measures = ("parameters", "MACs", "seconds per image")
    least = (
        pick(values, measures, case=ANY, row="extractor frozen")
        .groupby(["case", "measure"], observed=True)["value"]
        .min()
    )
    return {
        name: "{:.0f} k parameters, {:.1f} M multiplications, {:.1f} ms an image".format(
            *(scale * least[name, measure] for scale, measure in zip((1e-3, 1e-6, 1e3), measures, strict=True))
        )
        for name in ARCHITECTURES
    }


# --- faster transfer (Sec. 5.3) ---------------------------------------------------------------------------------------

TRANSFERS = ("RP", "RP+IIW", "IIW", "re-initialised head", "independent")
BASELINE = "re-initialised head"


def by_target(records: Records) -> dict[str, list[Mapping]]:
    """The records of each target."""
    found: dict[str, list[Mapping]] = {}
    for record in records:
        found.setdefault("{source} → {target}".format(**record["config"]), []).append(record)
    return found


def transfer_explorer(records: Records) -> Explorer:
    """Pick a target: accuracy of every method by fine-tuning step, and that of the target's own network."""
    found, levels, notes = [], [], []
    for data, group in by_target(records).items():
        values = table(group)
        at = {"method": "method", "steps": "step"}
        found += cells(pick(values, "accuracy"), at, {"method": {m: m for m in TRANSFERS}}, data=data)
        own = pick(values, "own network", method="RP")["value"].tolist()
        levels.append(Level("own network", own, {"data": data}))
        notes.append(Note(f"An epoch is {_steps_in_an_epoch(values)} steps.", {"data": data}))
    view = curves(found, "method", "steps", "fine-tuning steps", levels=levels, notes=notes)
    return explorer(view, ordered={"steps": _in_order(found)})


def _steps_in_an_epoch(values: Values) -> int:
    return int(pick(values, "steps in an epoch")["value"].iloc[0])


def by_epoch(group: Records, epochs: int) -> Rows:
    """Accuracy after so many epochs of fine-tuning, by method and seed."""
    values = table(group)
    found = pick(values, "accuracy")
    found = rows(found[found["step"] == epochs * _steps_in_an_epoch(values)], "method")
    return {method: found[method] for method in TRANSFERS}


def direct_panels(records: Records) -> Panels:
    """Fig. 4 before fine-tuning: accuracy on each target in %."""
    return {
        name: {method: mean_of(seeds) for method, seeds in by_epoch(group, 0).items()}
        for name, group in by_target(records).items()
    }


def direct_gains(records: Records) -> Panels:
    """Gains of the same start and of the common rotation head before fine-tuning, in points; networks are trained
    apart."""
    pairs = {
        "RP+IIW − RP": ("RP+IIW", "RP"),
        "RP+IIW − IIW": ("RP+IIW", "IIW"),
        "IIW − independent": ("IIW", "independent"),
    }
    found = {name: by_epoch(group, 0) for name, group in by_target(records).items()}
    return {
        name: {said: gap_between(of[one], of[other], False) for said, (one, other) in pairs.items()}
        for name, of in found.items()
    }


def savings(records: Records) -> Panels:
    """Steps until each method is as good as the baseline, a re-initialised head, after one epoch: mean over the seeds
    that get there, each against the baseline of its seed."""
    panels = {}
    for name, group in by_target(records).items():
        curves, goals = pick(table(group), "accuracy"), by_epoch(group, 1)[BASELINE]
        good = curves[curves["value"] >= curves["seed"].map(goals).astype(float)]
        reached = good.groupby(["method", "seed"], observed=True)["step"].min()
        there = [method for method in TRANSFERS if method in reached.index]
        panels[name] = {method: interval(reached[method].tolist()) for method in there}
    return panels
