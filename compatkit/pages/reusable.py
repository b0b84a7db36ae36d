"""What the chapters on paper A (Gygli et al.) show, from the records of ``experiments.reusable``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import ipywidgets
import plotly.graph_objects as go
from IPython.display import Markdown

from .. import figures, tables
from ..explorer import picker
from ..results import by_row, compare, difference, interval, paper_numbers, provenance_line, verdict

PAPERS_DATA = "cifar10 × stl10"  # elsewhere only trends can be compared with the paper, not levels
MEASURES = {
    "recombination accuracy": "recombination",
    "accuracy with the own head, common classes": "not recombined",
    "accuracy on the own task, all classes": "own task",
}
UNSHARED_OUTPUTS = {
    "left out of the choice": "recombination",
    "may be chosen (and are wrong)": "recombination, unmasked",
}


def by_data(records: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """The records of each pair of data sets, by the pair's name "a × b"."""
    groups: dict[str, list[Mapping]] = {}
    for record in records:
        groups.setdefault("{a} × {b}".format(**record["config"]), []).append(record)
    return groups


def scores(records: Sequence[Mapping], measure: str, test_set: str = "mean") -> dict[str, dict[int, float]]:
    """A measure in 0..1 by method and seed, on one test set or the mean of both, as Figs. 2 and 10 show it.

    The upper bound is not a recombination: its bar is each network with its own head on the same images.
    """
    found = by_row(records, "method", f"{measure}/{test_set}")
    if measure.startswith("recombination") and "upper bound" in found:
        bound = [r for r in records if r["config"]["method"] == "upper bound"]
        found |= by_row(bound, "method", f"not recombined/{test_set}")
    return found


def methods_explorer(records: Sequence[Mapping], item: str = "fig2") -> ipywidgets.Widget:
    """Pick data and measure, see every method: bars with intervals, seeds, chance, and the numbers published for
    ``item``."""
    groups = by_data(records)
    test_sets = {f"{name}: mean of both": (name, "mean") for name in groups}
    for name, group in groups.items():
        test_sets |= {f"{name}: {group[0]['config'][role]} ({role})": (name, role) for role in "ab"}
    published = _published(item)

    def draw(test_set: str, measure: str) -> go.Figure:
        name, column = test_sets[test_set]
        group, recombined = groups[name], MEASURES[measure] == "recombination"
        return figures.bars(
            scores(group, MEASURES[measure], column),
            published=published if recombined and column == "mean" else None,
            chance=group[0]["metrics"]["chance/mean"] if recombined else None,
        )

    def say(test_set: str, measure: str) -> str:
        name, column = test_sets[test_set]
        means = {m: interval(v.values()).mean for m, v in scores(groups[name], MEASURES[measure], column).items()}
        return f"{measure} on {test_set}: " + ", ".join(f"{m} {v:.0%}" for m, v in means.items()) + "."

    return picker({"data": list(test_sets), "measure": list(MEASURES)}, draw, say)


def recombination_explorer(records: Sequence[Mapping], method: str = "IIW+DCC") -> ipywidgets.Widget:
    """Pick a method and data, see extractor x head: the two networks as trained, and the two recombined ones."""
    groups = by_data(records)
    methods = list(by_row(next(iter(groups.values())), "method", "chance/mean"))

    def runs(method: str, name: str) -> list[Mapping]:
        return [r for r in groups[name] if r["config"]["method"] == method]

    def draw(method: str, name: str, outputs: str) -> go.Figure:
        return figures.recombination_matrix(runs(method, name), UNSHARED_OUTPUTS[outputs])

    def say(method: str, name: str, outputs: str) -> str:
        own, swapped = (
            interval([r["metrics"][f"{measure}/mean"] for r in runs(method, name)]).mean
            for measure in ("not recombined", UNSHARED_OUTPUTS[outputs])
        )
        return f"{method} on {name}: {own:.0%} with own heads, {swapped:.0%} with heads swapped."

    controls = {"method": methods, "data": list(groups), "classes that are not shared": list(UNSHARED_OUTPUTS)}
    return picker(controls, draw, say, start={"method": method})


def comparison(records: Sequence[Mapping], item: str = "fig2") -> Markdown:
    """Paper | ours for each pair of data sets; levels are judged only on the paper's own data."""
    parts = []
    for name, group in by_data(records).items():
        on = "" if name == PAPERS_DATA else " (not the paper's images: only the trend can be judged, not the level)"
        parts.append(f"**{name}**{on}\n\n{tables.comparison(_compared(group, name, item)).data}")
    return Markdown("\n\n".join(parts))


def provenance(records: Sequence[Mapping]) -> Markdown:
    """Where the runs of each pair of data sets come from."""
    lines = [f"*{name}. {provenance_line(group)}*" for name, group in by_data(records).items()]
    return Markdown("\n\n".join(lines))


def claims(records: Sequence[Mapping], statements: Mapping[str, tuple[str, str]], item: str = "fig2") -> Markdown:
    """For each statement "text: (one, other)" the difference between two methods in points, in the paper and in our
    runs.

    The intervals are of differences taken seed by seed: all methods of a seed share initial weights and batches. A
    difference that the paper does not print has no verdict.
    """
    published = _published(item)
    parts = []
    for name, group in by_data(records).items():
        found = scores(group, "recombination")
        body = []
        for text, (one, other) in statements.items():
            ours, reference = ([100 * v for _, v in sorted(found[m].items())] for m in (one, other))
            gap = difference(ours, reference, paired=True)
            theirs, judged = None, "–"
            if published[one] is not None and published[other] is not None:
                theirs = published[one] - published[other]
                judged = tables.verdict_cell(
                    verdict(
                        ours,
                        published[one],
                        reference=reference,
                        published_reference=published[other],
                        same_data=name == PAPERS_DATA,
                        paired=True,
                    )
                )
            cells = [tables.number(theirs, signed=True), tables.span(gap, signed=True), str(gap.n), judged]
            body.append([text, *cells])
        header = ["claim", "paper", "ours", "n", "verdict"]
        parts.append(f"**{name}**\n\n{tables.table(header, body).data}")
    return Markdown("\n\n".join(parts))


def verdicts(records: Sequence[Mapping], item: str = "fig2") -> dict[str, Counter]:
    """How often each verdict was given to a published number of ``item``, by pair of data sets."""
    return {
        name: Counter(row["verdict"] for row in _compared(group, name, item) if row["paper"] is not None)
        for name, group in by_data(records).items()
    }


def _compared(group: Sequence[Mapping], name: str, item: str) -> list[dict]:
    return compare(
        scores(group, "recombination"),
        paper="gygli",
        item=item,
        column="mean",
        metric="recombination accuracy",
        reference="independent",
        same_data=name == PAPERS_DATA,
        scale=100,
    )


def _published(item: str) -> dict[str, float | None]:
    rows = paper_numbers("gygli", item)
    return {r["row"]: r["value"] for r in rows if (r["column"], r["metric"]) == ("mean", "recombination accuracy")}
