"""Explorers of paper A's analysis (App. C): normalisation, the split, the number of classes, similarity. Every figure
is drawn from records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations

from IPython.display import Markdown

from compatkit.intervals import Interval, interval, rank_correlation

from ..records.published import paper_value
from ..records.store import by_row
from ..show import tables
from ..show.explorer import Cell, Explorer, Level, Note, View, explorer
from .gygli import (
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
    chance,
    chance_levels,
    choose,
    cut_curves,
    cut_when_tested,
    difference_table,
    for_each_group,
    gap_between,
    matrix_cells,
    methods,
    network_layers,
    published,
    row_cells,
    scores,
    shown_method,
    test_sets,
)

# every experiment whose networks have the same blocks, so that they can be compared block by block
WITH_SIMILARITY = ("fig2", "fig2_pretrained", "incremental", "fig5", "fig7", "fig8", "fig9", "choices")
TEST_BATCHES = {f"test batches of {n}": f"recombination, test batches of {n}" for n in (8, 32, 128)}
SIMILARITIES = ("cross-correlation", "matched cross-correlation", "CKA", "neighbours")


# --- another start ----------------------------------------------------------------------------------------------------


def against(records: Records, others: Records) -> Markdown:
    """For each method the difference between two experiments, in points; their networks were trained apart."""
    other_groups = by_data(others)
    parts = {}
    for name, group in by_data(records).items():
        ours, theirs = scores(group), scores(other_groups[name])
        parts[name] = {method: (ours[method], theirs[method]) for method in ours}
    return for_each_group(parts, lambda pairs: difference_table("method", pairs, same_networks=False))


# --- what the paper leaves open ---------------------------------------------------------------------------------------


OPEN_CHOICES = {"outputs that are not shared may win": "recombination, unmasked"} | TEST_BATCHES

OUR_CHOICE = "our choice"  # the row of runs that decide as we did


def choices_table(records: Records) -> Markdown:
    """What each open choice changes in recombination accuracy, in points, by method: choices of testing on the same
    networks, choices of training on others."""
    shown = ("IIW", "RP", "DCC", "IIW+RP", "IIW+RP+DCC")

    def show(group: Records) -> Markdown:
        ours = [r for r in group if r["row"] == OUR_CHOICE]
        rows = {text: by_row(ours, "method", f"{key}/mean") for text, key in OPEN_CHOICES.items()}
        for row in dict.fromkeys(r["row"] for r in group if r["row"] != OUR_CHOICE):
            rows[row] = by_row([r for r in group if r["row"] == row], "method", "recombination/mean")
        usual = by_row(ours, "method", "recombination/mean")
        body = [
            [text, *(_effect(row.get(m), usual[m], text in OPEN_CHOICES) for m in shown)] for text, row in rows.items()
        ]
        return tables.table(["instead of our choice", *shown], body)

    return for_each_group(by_data(records), show)


def _effect(changed: Mapping[int, float] | None, usual: Mapping[int, float], same_networks: bool) -> str:
    return tables.span(gap_between(changed or {}, usual, same_networks), signed=True)


# --- normalisation ----------------------------------------------------------------------------------------------------


def normalisation_explorer(records: Records) -> Explorer:
    """Pick data and method, see what each way to normalise does to recombination. Every method has the choices that
    are made when testing; IIW+DCC has networks with other layers as well."""
    cells = []
    for at, group, role in test_sets(records):
        for method in (m for m in methods(group) if m != "upper bound"):
            chosen = choose(group, method=method)
            # the paper's figure: IIW+DCC, mean of both sets
            printed = published("fig5") if (method, role) == ("IIW+DCC", "mean") else None
            plain = choose(chosen, normalization="batch")
            tested = {n: by_row(plain, lambda _, n=n: n, f"{key}/{role}")[n] for n, key in TEST_BATCHES.items()}
            rows = by_normalization(chosen, role) | tested
            cells += row_cells(at | {"method": method}, "normalisation", rows, printed)
    view = View("bars", cells, axis="normalisation", x_title="recombination accuracy, %", levels=chance_levels(records))
    return explorer(view, start={"method": "IIW+DCC"})


def statistics_gain(records: Records) -> Markdown:
    """For every method what the statistics of test batches gain over running ones, in points, seed by seed."""

    def show(group: Records) -> Markdown:
        batch, running = (by_row(group, "method", f"{STATISTICS[row]}/mean") for row in ("per test batch", RUNNING))
        return difference_table("method", {m: (batch[m], running[m]) for m in batch if m != "upper bound"})

    return for_each_group(by_data(choose(records, normalization="batch")), show)


# --- where to split ---------------------------------------------------------------------------------------------------


HEADS = ("at the split", "after stage 2")
"""Where the shared heads of networks sit that are cut: there, or where it is usual."""


def split_rows(records: Records, method: str, heads: str, column: str) -> Rows:
    """Recombination accuracy of one method by the boundary where its networks are cut; methods without a shared head
    are the same wherever others have theirs. No rows where none was trained."""
    chosen = choose(records, method=method)
    if heads == "after stage 2" or method in ("independent", "IIW"):
        return cut_when_tested(chosen, column)
    return by_split(chosen, column) if _trained_elsewhere(chosen) else {}


def _trained_elsewhere(records: Records) -> bool:
    return any(r["config"]["split_at"] != "stage2" for r in records)


def _heads(records: Records) -> list[str]:
    return [heads for heads in HEADS if heads == "after stage 2" or _trained_elsewhere(records)]


def split_curves(records: Records) -> Explorer:
    """Pick data and where the shared heads sit, see recombination accuracy against the place of the split, a line for
    each method."""
    cells = []
    for heads in _heads(records):
        for at, group, role in test_sets(records):
            for method in (m for m in methods(group) if m != "upper bound"):
                rows = split_rows(group, method, heads, role)
                cells += row_cells(at | {"shared heads": heads, "method": method}, "split layer", rows)
    return explorer(cut_curves(cells, records), ordered={"split layer": boundaries(records)})


def split_explorer(records: Records) -> Explorer:
    """Pick method, split layer and data, see extractor x head for networks cut there."""
    layers = boundaries(records)
    usual = block_of("stage2", layers)
    cells = []
    for heads in _heads(records):
        for name, group in by_data(records).items():
            for method in (m for m in methods(group) if m != "upper bound"):
                for layer in split_rows(group, method, heads, "mean"):
                    fixed = heads == "after stage 2" or method in ("independent", "IIW")
                    trained_at = usual if fixed else layer
                    runs = choose(group, method=method)
                    runs = [r for r in runs if block_of(r["config"]["split_at"], layers) == trained_at]
                    at = {"data": name, "shared heads": heads, "method": method, "split layer": layer}
                    cells += matrix_cells(at, runs, f"recombination at {layer}")
    view = View("matrix", cells, series="extractor of", axis="head of", title="extractor of", x_title="head of")
    return explorer(view, ordered={"split layer": layers}, start={"split layer": usual, "method": "IIW+RP"})


# --- how many classes -------------------------------------------------------------------------------------------------


def classes_curve(records: Records) -> Explorer:
    """Pick data, see recombination accuracy against the number of classes that the shared head learns."""
    cells, levels = [], chance_levels(records)
    level, bound = "IIW+RP, no class shared", "paper, IIW+DCC: at most"
    for at, group, role in test_sets(records):
        found = by_classes(group, role)
        counted = {row.removesuffix(" classes"): v for row, v in found.items() if row.endswith("classes")}
        cells += row_cells(at | {"method": "IIW+DCC"}, "classes", counted)
        levels.append(Level(level, list(found["IIW+RP"].values()), at))
        if role == "mean":
            few = [count for count in counted if int(count) <= 6]
            cells += [Cell(at | {"method": bound, "classes": count}, [], _published_by_classes()[0]) for count in few]
            levels.append(Level("paper, IIW+RP", [_published_by_classes()[1] / 100], at, printed=True))
    view = View(
        "curves",
        cells,
        series="method",
        axis="classes",
        title="recombination accuracy, %",
        x_title="classes of the shared head",
        levels=levels,
    )
    return explorer(view, ordered={"classes": _counts(records)})


def _published_by_classes() -> tuple[float, float]:
    """What App. C.5 prints of Fig. 9, in %: a bound for 6 classes or fewer, and the level of IIW+RP."""
    return (
        paper_value("gygli", "fig9", "6 classes or fewer", "largest", "recombination accuracy"),
        paper_value("gygli", "fig9", "IIW+RP", "mean", "recombination accuracy"),
    )


def _counts(records: Records) -> list[str]:
    """Numbers of classes that can be shared."""
    return [str(n) for n in range(2, round(1 / min(chance(group) for group in by_data(records).values())) + 1)]


def classes_explorer(records: Records) -> Explorer:
    """Pick the number of classes and data, see extractor x head."""
    cells = []
    for name, group in by_data(choose(records, method="IIW+DCC")).items():
        most = round(1 / chance(group))
        for count in _counts(group):
            runs = [r for r in group if (r["config"]["dcc_classes"] or most) == int(count)]
            cells += matrix_cells({"data": name, "classes": count}, runs) if runs else []
    counts = _counts(records)
    view = View("matrix", cells, series="extractor of", axis="head of", title="extractor of", x_title="head of")
    return explorer(view, ordered={"classes": counts}, start={"classes": cells[-1].at["classes"]})


# --- similarity -------------------------------------------------------------------------------------------------------


def cka_explorer(records: Records) -> Explorer:
    """Pick method and test images, see CKA of every block of one network with every block of the other, mean over
    seeds."""
    blocks = [*network_layers(records), "classifier"]
    cells = []
    for at, group, role in test_sets(records, "ab"):
        for method in methods(group):
            maps = [r["metrics"][f"CKA map/{role}"] for r in choose(group, method=method)]
            for i, own in enumerate(blocks):
                for j, other in enumerate(blocks):
                    place = {"method": method, "network of these images": own, "the other network": other}
                    cells.append(Cell(at | place, [one[i][j] for one in maps]))
    own, other = "network of these images", "the other network"
    return explorer(
        View("matrix", cells, series=own, axis=other, title=own, x_title=other, percent=False),
        start={"method": "IIW+DCC"},
    )


def channels_explorer(records: Records) -> Explorer:
    """Fig. 6. Pick method and test images, see the correlation of every channel with its counterpart, by position and
    under the optimal permutation, of one pair of networks: the first seed."""
    numbers = published("fig6")
    kinds = {"by position": "channel correlations", "optimally permuted": "matched channel correlations"}
    cells, levels = [], []
    for at, group, role in test_sets(records, "ab"):
        for method in methods(group):
            for start in ("", " pre-trained"):
                runs = [r for r in choose(group, method=method) if bool(r["config"]["pretrained_on"]) == bool(start)]
                place = at | {"method": method, "start": start.strip() or "random"}
                for run in runs[:1]:
                    for kind, key in kinds.items():
                        if f"{key}/{role}" in run["metrics"]:
                            cells.append(Cell(place | {"channels": kind}, run["metrics"][f"{key}/{role}"]))
                    rows = {"paper": method + start, "paper, optimally permuted": f"{method}{start} + permutation"}
                    levels += [
                        Level(f"{name}: mean {numbers[row]:.2f}", [numbers[row]], place, printed=True)
                        for name, row in rows.items()
                        if numbers.get(row) is not None
                    ]
    title = {"title": "correlation", "x_title": "channel, by correlation"}
    return explorer(View("ranked", cells, series="channels", percent=False, levels=levels, **title))


def similarities(records: Records) -> list[str]:
    """The measures that all of these records hold: what is matched is missing where it was measured without scipy."""
    return [m for m in SIMILARITIES if all(f"{m} at stem/mean" in r["metrics"] for r in records)]


def similarity_cells(records: Records, at: Mapping[str, str], measure: str, layer: str) -> list[Cell]:
    """For each method a point per pair of networks: similarity of the features after ``layer``, and recombination
    accuracy when both networks are cut there, each the mean of both test sets."""
    groups: dict[str, list[Mapping]] = {}
    for record in records:
        groups.setdefault(shown_method(record["config"]["method"]), []).append(record)
    return [
        Cell(
            {**at, "similarity": measure, "split layer": layer, "method": method},
            [r["metrics"][f"recombination at {layer}/mean"] for r in group],
            x=[r["metrics"][f"{measure} at {layer}/mean"] for r in group],
            names=[f"{_setting(r)}, seed {r['seed']}" for r in group],
        )
        for method, group in groups.items()
    ]


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
    return ", ".join(words for words, there in special.items() if there)


def similarity_explorer(records: Records) -> Explorer:
    """Pick data, measure of similarity and split layer, see it against recombination accuracy for every pair of
    networks on record."""
    layers = network_layers(records)
    cells, notes = [], []
    for name, group in by_data(records).items():
        for measure in similarities(records):
            for layer in layers:
                points = similarity_cells(group, {"data": name}, measure, layer)
                found = rank_correlation(*_pooled(points))
                text = f"Rank correlation over all methods: {_in_words(found)}, {found.n} pairs of networks."
                notes.append(Note(text, {"data": name, "similarity": measure, "split layer": layer}))
                cells += points
    view = View(
        "scatter",
        cells,
        series="method",
        title="recombination accuracy, %",
        x_title="{similarity} after {split layer}",
        notes=notes,
    )
    return explorer(view, ordered={"split layer": layers}, start={"split layer": block_of("stage2", layers)})


def rank_correlations(records: Records, layer: str = "stage2") -> Markdown:
    """Whether similarity orders pairs of networks as recombination accuracy does: Spearman's correlation over all
    pairs; and, of two pairs that differ in nothing but the seed, how often the more similar one fits better (guessing:
    half of the time), mean over settings. That mean has no interval: all settings share a few seeds."""

    def show(group: Records) -> Markdown:
        body, at = [], block_of(layer, network_layers(group))
        for measure in similarities(group):
            overall = rank_correlation(*_pooled(similarity_cells(group, {}, measure, at)))
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


def _pooled(points: Sequence[Cell]) -> tuple[list[float], list[float]]:
    return [x for cell in points for x in cell.x], [y for cell in points for y in cell.values]


def _in_words(found: Interval) -> str:
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
