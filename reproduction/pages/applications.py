"""What the chapters on paper A's applications (Gygli et al., Sec. 5) show, from the records of
``experiments.applications``: tables and explorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import Markdown

from compatkit.intervals import estimate, interval

from ..records.claims import number
from ..records.published import paper_numbers, paper_value
from ..records.verdicts import compare, judge_level, level_margin
from ..show import tables
from ..show.explorer import Cell, Explorer, Level, Note, View, explorer
from .gygli import Records, Rows, by_data, choose, difference_table, differs, for_each_group, row_cells

# --- domain adaptation (Sec. 5.1) -------------------------------------------------------------------------------------

TABLE_1 = {
    "source model": "source model",
    "source model with test BN": "with test BN",
    "adapted through RP": "adapted",
}
BEYOND = {
    "adapted, rotation head moves": "adapted, head moves",
    "adapted, running statistics": "adapted, running statistics",
}
DIRECTIONS = {"a to b": "CIFAR-10 -> STL-10", "b to a": "STL-10 -> CIFAR-10", "mean": "mean"}
"""Ours, and the columns of Table 1."""


def by_adaptation(group: Records, direction: str) -> Rows:
    """Table 1 for one pair of sets: average class accuracy on the target by row and seed. direction: one of
    ``DIRECTIONS``."""
    there = [d for d in ("a to b", "b to a") if direction in (d, "mean")]
    back = ["b to a" if d == "a to b" else "a to b" for d in there]
    of_kind = kinds(group)

    def mean(kind: str, key: str, directions: Sequence[str] = there) -> dict[int, float]:
        values = [{r["seed"]: r["metrics"][key] for r in choose(of_kind[kind], direction=d)} for d in directions]
        return {
            seed: sum(v[seed] for v in values) / len(values) for seed in sorted(set.intersection(*map(set, values)))
        }

    return {row: mean("rotation", f"target: {key}") for row, key in (TABLE_1 | BEYOND).items()} | {
        "adapted by larger steps": mean("rotation, larger steps", "target: adapted"),
        "with a jigsaw: with test BN": mean("jigsaw", "target: with test BN"),
        "with a jigsaw: adapted": mean("jigsaw", "target: adapted"),
        # that network is the source model of the other direction
        "trained on the target, with labels": mean("rotation", "source: source model", back),
        "source model, on the source": mean("rotation", "source: source model"),
        "source model with test BN, on the source": mean("rotation", "source: with test BN"),
    }


KINDS = ("rotation", "rotation, larger steps", "jigsaw")


def kinds(records: Records) -> dict[str, list[Mapping]]:
    """The records of each of ``KINDS`` of adaptation."""
    return {kind: [r for r in records if r["row"] == kind] for kind in KINDS}


def adaptation_table(records: Records) -> Markdown:
    """Table 1, paper | ours, in both directions and their mean. A verdict is on the level of the mean, and only where
    everything is the paper's."""

    def show(group: Records) -> Markdown:
        columns, config = [_compared_adaptation(group, direction) for direction in DIRECTIONS], group[0]["config"]
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

    return for_each_group(by_data(records), show)


def _compared_adaptation(group: Records, direction: str) -> list[dict]:
    return compare(
        by_adaptation(group, direction),
        paper="gygli",
        item="table1",
        column=DIRECTIONS[direction],
        metric="test accuracy",
        differs=differs(group),
        scale=100,
    )


def adaptation_differences(records: Records, statements: Mapping[str, tuple[str, str]]) -> Markdown:
    """Questions of ours, "text: (one, other)": by how much one row of ``by_adaptation`` is above another, seed by seed,
    mean over both directions.

    Beside its rows there are "gain by rotation" and "gain by a jigsaw", each over its own source model with test BN.
    """

    def show(group: Records) -> Markdown:
        rows = by_adaptation(group, "mean")
        for name, after, before in (
            ("gain by rotation", "adapted through RP", "source model with test BN"),
            ("gain by a jigsaw", "with a jigsaw: adapted", "with a jigsaw: with test BN"),
        ):
            rows[name] = {seed: rows[after][seed] - rows[before][seed] for seed in rows[after]}
        pairs = {text: (rows[one], rows[other]) for text, (one, other) in statements.items()}
        return difference_table("question", pairs)

    return for_each_group(by_data(records), show)


def adaptation_explorer(records: Records) -> Explorer:
    """Pick direction, pretext and what moves: accuracy on target and source, and on the pretext, by adaptation step."""
    arrows = {"a to b": "{a} → {b}", "b to a": "{b} → {a}"}
    heads = {"stays as it is": "", "moves": ", head moves"}
    curves = {"target": "target", "source": "source", "question": "pretext"}
    cells, levels = [], []
    for group in by_data(records).values():
        for direction, arrow in arrows.items():
            data = arrow.format(**group[0]["config"])
            for kind, runs in kinds(choose(group, direction=direction)).items():
                for head, suffix in heads.items():
                    at = {"data": data, "question": kind, "its head": head}
                    for name, key in curves.items():
                        rows = _by_step(runs, f"{key} by step{suffix}")
                        cells += row_cells(at | {"accuracy on the": name}, "steps", rows)
                if runs:
                    at = {"data": data, "question": kind}
                    levels.append(Level("chance on target and source", [runs[0]["metrics"]["chance"]], at))
    view = View(
        "curves",
        cells,
        series="accuracy on the",
        axis="steps",
        title="accuracy, %",
        x_title="adaptation steps",
        levels=levels,
    )
    return explorer(view, ordered={"steps": _in_order(cells)})


def _in_order(cells: Sequence[Cell]) -> list[str]:
    return sorted({cell.at["steps"] for cell in cells}, key=int)


def _by_step(records: Records, key: str) -> Rows:
    """A curve by step and seed."""
    found: Rows = {}
    for record in records:
        for step, value in zip(record["metrics"]["steps"], record["metrics"][key], strict=True):
            found.setdefault(str(step), {})[record["seed"]] = value
    return found


# --- classifier transfer (Sec. 5.2, App. D) ---------------------------------------------------------------------------

ARCHITECTURES = {"ResNet": "ResNet-56", "Wide ResNet": "Wide ResNet-56", "MobileNetV2": "MobileNetV2"}
"""Ours, in the order of ``experiments.classifier``, and the paper's."""
REFERENCE = "Wide ResNet"
CLASSES = {"all classes": "accuracy", "classes there were": "old classes", "new classes": "new classes"}


def by_deployment(group: Records, variant: str) -> Rows:
    """Fig. 3 and Fig. 11 for one set: accuracy on all classes by deployed architecture and seed.

    variant: "extractor frozen", "RP frozen", "independent": with the head that was updated on the Wide ResNet; "upper
    bound", "upper bound, changed architecture".
    """
    bound = variant.startswith("upper bound")
    return {
        theirs: {
            r["seed"]: r["metrics"][f"accuracy: {ours}" if bound else f"accuracy: {REFERENCE} -> {ours}"]
            for r in choose(group, variant=variant)
        }
        for ours, theirs in ARCHITECTURES.items()
    }


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

    return for_each_group(by_data(records), show)


def classifier_differences(records: Records) -> Markdown:
    """What a common head is worth beyond the paper: against extractors that were trained under heads of their own."""

    def show(group: Records) -> Markdown:
        frozen, independent = (by_deployment(group, variant) for variant in ("extractor frozen", "independent"))
        # on the reference the head serves the extractor that it was updated on
        others = [theirs for ours, theirs in ARCHITECTURES.items() if ours != REFERENCE]
        text = "{}: a common head above heads of their own"
        pairs = {text.format(name): (frozen[name], independent[name]) for name in others}
        return difference_table("question", pairs, same_networks=False)

    return for_each_group(by_data(records), show)


def _printed_deployments() -> dict[tuple[str, str], float | None]:
    """Fig. 11, which has the numbers of Fig. 3 as well, by deployed architecture and variant."""
    return {(r["row"], r["column"]): r["value"] for r in paper_numbers("gygli", "fig11")}


def classifier_explorer(records: Records) -> Explorer:
    """Pick data, variant and classes: the head's accuracy, by the extractor it was updated on and the one it serves."""
    cells, notes = [], []
    for data, group in by_data(records).items():
        costs = architecture_costs(group)
        notes.append(Note("; ".join(f"{name}: {cost}" for name, cost in costs.items()) + ".", {"data": data}))
        for variant in ("extractor frozen", "RP frozen", "independent"):
            runs = choose(group, variant=variant)
            for classes, key in CLASSES.items():
                at = {"data": data, "while the head learns": variant, "accuracy on": classes}
                cells += [
                    Cell(
                        at | {"updated on": one, "deployed on": other},
                        [r["metrics"][f"{key}: {one} -> {other}"] for r in runs],
                    )
                    for one in ARCHITECTURES
                    for other in ARCHITECTURES
                ]
    one, other = "updated on", "deployed on"
    return explorer(View("matrix", cells, series=one, axis=other, title=one, x_title=other, notes=notes))


def architecture_costs(group: Records) -> dict[str, str]:
    """What each network costs under the common head: parameters, multiplications, the shortest measured latency."""
    runs, found = choose(group, variant="extractor frozen"), {}
    for name in ARCHITECTURES:
        parameters, macs = (runs[0]["metrics"][f"{cost}: {name}"] for cost in ("parameters", "MACs"))
        latency = min(r["metrics"][f"seconds per image: {name}"] for r in runs)
        found[name] = f"{parameters / 1e3:.0f} k parameters, {macs / 1e6:.1f} M mult., {1e3 * latency:.1f} ms"
    return found


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
    cells, levels, notes = [], [], []
    for data, group in by_target(records).items():
        for method in TRANSFERS:
            rows = _by_step(choose(group, method=method), "accuracy by step")
            cells += row_cells({"data": data, "method": method}, "steps", rows)
        own = [r["metrics"]["own network"] for r in choose(group, method="RP")]
        levels.append(Level("own network", own, {"data": data}))
        notes.append(Note(f"An epoch is {group[0]['metrics']['steps in an epoch']:.0f} steps.", {"data": data}))
    view = View(
        "curves",
        cells,
        series="method",
        axis="steps",
        title="accuracy, %",
        x_title="fine-tuning steps",
        levels=levels,
        notes=notes,
    )
    return explorer(view, ordered={"steps": _in_order(cells)})


def by_epoch(group: Records, epochs: int) -> Rows:
    """Accuracy after so many epochs of fine-tuning, by method and seed."""
    after = f"accuracy after {epochs} epochs"
    return {m: {r["seed"]: number(r["metrics"], after) for r in choose(group, method=m)} for m in TRANSFERS}


def transfer_table(records: Records) -> Markdown:
    """Fig. 4: accuracy directly, after one epoch and after all; the paper prints the range of the first alone."""
    lowest, highest = (
        paper_value("gygli", "fig4", "direct recombination", column, "accuracy") for column in ("lowest", "highest")
    )

    def show(group: Records) -> Markdown:
        last = group[0]["config"]["epochs"]
        epochs = sorted({0, 1, last})
        columns = [by_epoch(group, count) for count in epochs]
        body = [
            [method, PUBLISHED_DIRECT.get(method, f"{lowest} to {highest}")]
            + [tables.span(interval([100 * v for v in rows[method].values()])) for rows in columns]
            + [str(len(columns[0][method]))]
            for method in TRANSFERS
        ]
        after = ["direct, %", *(f"{count} epoch{'s' if count > 1 else ''}, %" for count in epochs[1:])]
        return tables.table(["", "paper, direct, %", *after, "n"], body)

    return for_each_group(by_target(records), show)


def transfer_differences(records: Records, statements: Mapping[str, tuple[str, str, int]]) -> Markdown:
    """Questions of ours, "text: (one, other, epochs)": by how much one method is above another after so many epochs;
    their networks were trained apart."""

    def show(group: Records) -> Markdown:
        rows = {epochs: by_epoch(group, epochs) for *_, epochs in statements.values()}
        pairs = {text: (rows[epochs][one], rows[epochs][other]) for text, (one, other, epochs) in statements.items()}
        return difference_table("question", pairs, same_networks=False)

    return for_each_group(by_target(records), show)


def savings(records: Records) -> Markdown:
    """Steps and seconds until each method is as good as the baseline, a re-initialised head, after 1 epoch and at the
    end: mean over the seeds that get there, each against the baseline of its seed."""

    def show(group: Records) -> Markdown:
        last = group[0]["config"]["epochs"]
        body = []
        for epochs in sorted({1, last}):
            goals = by_epoch(group, epochs)[BASELINE]
            for method in TRANSFERS:
                steps = [_steps_to(r["metrics"], goals[r["seed"]]) for r in choose(group, method=method)]
                missing = sum(s is None for s in steps)
                seconds = min(r["metrics"]["seconds per step"] for r in group)
                mean = interval([s for s in steps if s is not None]) if missing < len(steps) else None
                body.append(
                    [
                        f"{epochs} epoch{'s' if epochs > 1 else ''}",
                        method,
                        tables.span(mean),
                        "–" if mean is None else f"{mean.mean * seconds:.1f}",
                        f"{len(steps) - missing} of {len(steps)}",
                    ]
                )
        return tables.table(["as good as the baseline after", "", "steps", "seconds", "seeds that get there"], body)

    return for_each_group(by_target(records), show)


def _steps_to(metrics: Mapping, goal: float) -> int | None:
    return next((s for s, a in zip(metrics["steps"], metrics["accuracy by step"], strict=True) if a >= goal), None)


# --- all three --------------------------------------------------------------------------------------------------------


def provenance(records: Records) -> Markdown:
    """Where the runs come from."""
    return tables.origins({"": records})
