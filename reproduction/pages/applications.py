"""What the chapters on paper A's applications (Gygli et al., Sec. 5) show, from the records of
``experiments.applications``: tables and explorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import Markdown

from compatkit.intervals import estimate, interval

from ..records.claims import Records, Seeds
from ..records.published import paper_numbers, paper_value
from ..records.table import ANY, Rows, Values, pick, rows, table
from ..records.verdicts import judge_level, level_margin
from ..show import tables
from ..show.explorer import Cell, Explorer, Level, Note, curves, explorer, matrix
from .sections import by_data, cells, compared, difference_table, differs, for_each, groups, mean_of, questions

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
    """Table 1, paper | ours, in both directions and their mean. A verdict is on the level of the mean, and only where
    everything is the paper's."""

    def show(group: Records) -> Markdown:
        columns, config = [], group[0]["config"]
        for direction, printed in DIRECTIONS.items():
            found = by_adaptation(group, direction)
            columns.append(compared(found, group, "gygli", "table1", printed, "test accuracy"))
        names = ("{a} → {b}".format(**config), "{b} → {a}".format(**config), "mean")
        header = ["", "paper: CIFAR-10 → STL-10, back, mean, %", *(f"{name}, %" for name in names), "n"]
        body = [
            [
                cells[0]["row"],
                " · ".join(tables.number(c["paper"]) for c in cells) if cells[0]["paper"] else "–",
                *(tables.span(c["ours"]) for c in cells),
                str(cells[-1]["n"]),
            ]
            for cells in zip(*columns, strict=True)
        ]
        return tables.judged(header, body, [cell["verdict"] for cell in columns[-1]])

    return for_each(by_data(records), show)


def adaptation_differences(records: Records, statements: Mapping[str, tuple[str, str]]) -> Markdown:
    """Questions of ours, "text: (one, other)": by how much one row of ``by_adaptation`` is above another, seed by seed,
    mean over both directions.

    Beside its rows there are "gain by rotation" and "gain by a jigsaw", each over its own source model with test BN.
    """

    def show(group: Records) -> Markdown:
        found = by_adaptation(group, "mean")
        for name, after, before in (
            ("gain by rotation", "adapted through RP", "source model with test BN"),
            ("gain by a jigsaw", "with a jigsaw: adapted", "with a jigsaw: with test BN"),
        ):
            found[name] = {seed: found[after][seed] - found[before][seed] for seed in found[after]}
        return questions(found, statements)

    return for_each(by_data(records), show)


def adaptation_explorer(records: Records) -> Explorer:
    """Pick direction, pretext and what moves: accuracy on target and source, and on the pretext, by adaptation step."""
    arrows = {"a to b": "{a} → {b}", "b to a": "{b} → {a}"}
    heads = {"": "stays as it is", "head moves": "moves"}
    asked = {"target": "target", "source": "source", "pretext": "question"}
    found, levels = [], []
    at = {"data": "arrow", "question": "row", "its head": "variant", "accuracy on the": "measure", "steps": "step"}
    words = {"row": {kind: kind for kind in KINDS}, "variant": heads, "measure": asked}
    for group in by_data(records).values():
        names = {d: arrow.format(**group[0]["config"]) for d, arrow in arrows.items()}
        values = table(group)
        values = values.assign(arrow=pd.Categorical(values["direction"].map(names), categories=list(names.values())))
        found += cells(pick(values, asked, variant=heads), at, words)
        levels += [
            Level("chance on target and source", [runs["value"].iloc[0]], {"data": data, "question": kind})
            for (data, kind), runs in groups(pick(values, "chance"), "arrow", "row")
        ]
    view = curves(found, "accuracy on the", "steps", "adaptation steps", levels=levels)
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


def classifier_table(records: Records) -> Markdown:
    """Figs. 3 and 11, paper | ours: accuracy on all classes with the head that was updated on the Wide ResNet. Levels
    are judged only where everything is the paper's."""
    printed = _printed_deployments()

    def show(group: Records) -> Markdown:
        body, verdicts = [], []
        for column in (
            "extractor frozen",
            "RP frozen",
            "upper bound",
            "upper bound, changed architecture",
            "independent",
        ):
            for row, seeds in by_deployment(group, column).items():
                ours = estimate((100, list(seeds.values()))) if seeds else None
                paper = printed.get((row, column))
                span = tables.span(ours and ours.interval())
                body.append([row, column, tables.number(paper), span, str(len(seeds))])
                verdicts.append(judge_level(ours, paper, level_margin("accuracy"), differs(group)))
        return tables.judged(["deployed", "how", "paper, %", "ours, %", "n"], body, verdicts)

    return for_each(by_data(records), show)


def classifier_differences(records: Records) -> Markdown:
    """The worth of a common head, beyond the paper: against extractors that were trained under heads of their own."""

    def show(group: Records) -> Markdown:
        frozen, independent = (by_deployment(group, variant) for variant in ("extractor frozen", "independent"))
        # on the reference the head serves the extractor that it was updated on
        others = [theirs for ours, theirs in ARCHITECTURES.items() if ours != REFERENCE]
        text = "{}: a common head above heads of their own"
        pairs = {text.format(name): (frozen[name], independent[name]) for name in others}
        return difference_table("question", pairs, same_networks=False)

    return for_each(by_data(records), show)


def _printed_deployments() -> dict[tuple[str, str], float | None]:
    """Fig. 11, which has the numbers of Fig. 3 as well, by deployed architecture and variant."""
    return {(r["row"], r["column"]): r["value"] for r in paper_numbers("gygli", "fig11")}


def classifier_explorer(records: Records) -> Explorer:
    """Pick data, variant and classes: the head's accuracy, by the extractor it was updated on and the one it serves."""
    one, other, values = "updated on", "deployed on", table(records)
    at = {"data": "data", "while the head learns": "row", "accuracy on": "measure", one: "other", other: "case"}
    names = {name: name for name in ARCHITECTURES}
    learning = {row: row for row in ("extractor frozen", "RP frozen", "independent")}
    words = {"row": learning, "measure": CLASSES, "other": names, "case": names}
    found = cells(pick(values, CLASSES, case=ANY, other=names), at, words)
    notes = [
        Note("; ".join(f"{name}: {cost}" for name, cost in architecture_costs(part).items()) + ".", {"data": data})
        for (data,), part in groups(values, "data")
    ]
    return explorer(matrix(found, one, other, notes=notes))


def architecture_costs(values: Values) -> dict[str, str]:
    """The cost of each network under the common head: parameters, multiplications, the shortest measured latency."""
    measures = ("parameters", "MACs", "seconds per image")
    least = (
        pick(values, measures, case=ANY, row="extractor frozen")
        .groupby(["case", "measure"], observed=True)["value"]
        .min()
    )
    return {
        name: "{:.0f} k parameters, {:.1f} M mult., {:.1f} ms".format(
            *(scale * least[name, measure] for scale, measure in zip((1e-3, 1e-6, 1e3), measures, strict=True))
        )
        for name in ARCHITECTURES
    }


# --- faster transfer (Sec. 5.3) ---------------------------------------------------------------------------------------

TRANSFERS = ("RP", "RP+IIW", "IIW", "re-initialised head", "independent")
BASELINE = "re-initialised head"
PUBLISHED_DIRECT = {"IIW": "–", "re-initialised head": "chance", "independent": "chance"}
"""In words, where Sec. 5.3 has no number for direct recombination."""


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


def transfer_table(records: Records) -> Markdown:
    """Fig. 4: accuracy directly, after one epoch and after all; the paper prints the range of the first alone."""
    lowest, highest = (
        paper_value("gygli", "fig4", "direct recombination", column, "accuracy") for column in ("lowest", "highest")
    )

    def show(group: Records) -> Markdown:
        epochs = sorted({0, 1, group[0]["config"]["epochs"]})
        columns = [by_epoch(group, count) for count in epochs]
        body = [
            [method, PUBLISHED_DIRECT.get(method, f"{lowest} to {highest}")]
            + [tables.span(mean_of(found[method])) for found in columns]
            + [str(len(columns[0][method]))]
            for method in TRANSFERS
        ]
        after = ["direct, %", *(f"{_epochs(count)}, %" for count in epochs[1:])]
        return tables.table(["", "paper, direct, %", *after, "n"], body)

    return for_each(by_target(records), show)


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count > 1 else ''}"


def transfer_differences(records: Records, statements: Mapping[str, tuple[str, str, int]]) -> Markdown:
    """Questions of ours, "text: (one, other, epochs)": by how much one method is above another after so many epochs;
    their networks were trained apart."""

    def show(group: Records) -> Markdown:
        found = {epochs: by_epoch(group, epochs) for *_, epochs in statements.values()}
        pairs = {text: (found[epochs][one], found[epochs][other]) for text, (one, other, epochs) in statements.items()}
        return difference_table("question", pairs, same_networks=False)

    return for_each(by_target(records), show)


def savings(records: Records) -> Markdown:
    """Steps and seconds until each method is as good as the baseline, a re-initialised head, after 1 epoch and at the
    end: mean over the seeds that get there, each against the baseline of its seed."""

    def show(group: Records) -> Markdown:
        body, values = [], table(group)
        curves = pick(values, "accuracy")
        seconds = pick(values, "seconds per step")["value"].min()
        for epochs in sorted({1, group[0]["config"]["epochs"]}):
            goals = by_epoch(group, epochs)[BASELINE]
            good = curves[curves["value"] >= curves["seed"].map(goals).astype(float)]
            reached = good.groupby(["method", "seed"], observed=True)["step"].min()
            for method in TRANSFERS:
                steps = reached[method].tolist() if method in reached.index else []
                mean = interval(steps) if steps else None
                took = "–" if mean is None else f"{mean.mean * seconds:.1f}"
                there = f"{len(steps)} of {curves[curves['method'] == method]['run'].nunique()}"
                body.append([_epochs(epochs), method, tables.span(mean), took, there])
        return tables.table(["as good as the baseline after", "", "steps", "seconds", "seeds that get there"], body)

    return for_each(by_target(records), show)
