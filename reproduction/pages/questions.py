"""What the chapters on questions of our own show: a late split, rotations that cannot be told, permuted and stitched
networks; how much the old model has learnt, and when h beats ridge regression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from IPython.display import Markdown

from ..records.store import by_row
from ..show.explorer import Cell, Explorer, Level, View, explorer
from .gygli import Records, Rows, by_data, chance_levels, difference_table, for_each_group, row_cells, test_sets
from .ramanujan import BARE, case

Lines = dict[str, Rows]  # {line: {place: {seed: value}}}

# --- paper A ----------------------------------------------------------------------------------------------------------


def index_table(records: Records) -> Markdown:
    """For each method and each split what it gains, in points, that classes have the same index in both tasks."""

    def show(group: Records) -> Markdown:
        found = by_row(group, lambda r: r["row"], "recombination/mean")
        same = {row: row.replace("same numbers, ", "") for row in found if "same numbers" in row}
        pairs = {name: (found[r], found[r.replace("same", "other")]) for r, name in same.items()}
        return difference_table("method and split", pairs, same_networks=False)

    return for_each_group(by_data(records), show)


def turned(records: Records, test_set: str = "mean") -> Lines:
    """Recombination accuracy by the share of images that are turned at random, a line for each method."""
    found = by_row(records, lambda r: r["row"], f"recombination/{test_set}")
    return _in_order(found, r"(.*), (\d+)% turned", lambda share: f"{share} %")


def stitched(records: Records, test_set: str = "mean") -> Lines:
    """Recombination accuracy of networks as they are, with channels optimally permuted, and stitched by a 1 x 1
    convolution fitted on so many images; a line for each method."""
    keys = {"as they are": "recombination", "permuted": "recombination, permuted"}
    keys |= {str(n): f"recombination, stitched on {n} images" for n in records[0]["config"]["stitches"]}
    places = {place: by_row(records, "method", f"{key}/{test_set}") for place, key in keys.items()}
    methods = dict.fromkeys(r["config"]["method"] for r in records)
    return {method: {place: rows[method] for place, rows in places.items()} for method in methods}


def turned_explorer(records: Records) -> Explorer:
    """Pick test images, see recombination accuracy against the share of images that are turned."""
    return _pair_explorer(records, turned, "images turned at random")


def stitched_explorer(records: Records) -> Explorer:
    """Pick data, see recombination accuracy against what was done to the channels."""
    return _pair_explorer(records, stitched, "channels as they are, permuted, or stitched on so many images")


def _pair_explorer(records: Records, lines: Callable[..., Lines], x_title: str) -> Explorer:
    cells = [cell for at, group, role in test_sets(records) for cell in _cells(at, "method", lines(group, role))]
    return _curves(cells, "method", "recombination accuracy, %", x_title, chance_levels(records))


# --- paper B ----------------------------------------------------------------------------------------------------------

RIDGE = "ridge on old and side"


def by_share(records: Records, measure: str = "CMC top-1") -> Lines:
    """Each case by the share of classes that the old model has learnt."""
    cases = {"old/old": ("FCT", "old/old"), f"new/h {BARE.removeprefix('FCT ')}": (BARE, "new/h")}
    cases |= {"new/h": ("FCT", "new/h"), RIDGE: ("FCT", "new/ridge(old, side)"), "new/new": ("FCT", "new/new")}
    found = {
        f"{line}, {row.partition(', ')[0]}": case(group, name, measure)
        for line, (kind, name) in cases.items()
        for row, group in _by_row(records).items()
        if row.endswith(f", {kind}")
    }
    return _in_order(found, r"(.*), (\d+)%", lambda share: f"{share} %")


def recovered(records: Records, measure: str = "CMC top-1") -> Markdown:
    """For each share of classes the gap from the old model to the new one, and what each transformation recovers of it,
    in points."""
    lines = by_share(records, measure)
    old = lines.pop("old/old")
    return for_each_group(
        {share: {line: (rows[share], seeds) for line, rows in lines.items()} for share, seeds in old.items()},
        lambda pairs: difference_table("above old/old", pairs),
    )


def fitted(records: Records, measure: str = "CMC top-1") -> Lines:
    """h and ridge regression on the same inputs by the images of a class that both are fitted on."""
    names = {"h": "new/h", RIDGE: "new/ridge(old, side)"}
    groups = {row.partition(" images")[0]: group for row, group in _by_row(records).items() if " images" in row}
    return {
        line: {count: case(group, name, measure) for count, group in groups.items()} for line, name in names.items()
    }


def against_ridge(records: Records, measure: str = "CMC top-1") -> Markdown:
    """By how much h beats ridge regression on the same inputs, in points, by images to fit on and width of h."""

    def show(group: Records) -> Markdown:
        names = ("new/h", "new/ridge(old, side)")
        pairs = {row: [case(rows, name, measure) for name in names] for row, rows in _by_row(group).items()}
        return difference_table("fitted on, or width", pairs)

    return for_each_group(by_data(records), show)


def share_explorer(records: Records) -> Explorer:
    """Pick a measure, see each case against the share of classes that the old model has learnt."""
    cells = [c for m in ("CMC top-1", "mAP@1.0") for c in _cells({"measure": m}, "case", by_share(records, m))]
    return _curves(cells, "case", "{measure}, %", "classes that the old model has learnt")


def fitted_explorer(records: Records) -> Explorer:
    """Pick an update, see h and ridge regression against the images that they are fitted on."""
    groups = by_data(records).items()
    cells = [cell for name, group in groups for cell in _cells({"data": name}, "map", fitted(group))]
    return _curves(cells, "map", "CMC top-1, %", "images of a class to fit on")


# --- both -------------------------------------------------------------------------------------------------------------


def _by_row(records: Records) -> dict[str, list[Mapping]]:
    return {row: [r for r in records if r["row"] == row] for row in dict.fromkeys(r["row"] for r in records)}


def _in_order(found: Rows, pattern: str, place: Callable[[str], str]) -> Lines:
    """Rows named "LINE, NUMBER ..." as lines over the numbers, the least first."""
    parts = {row: re.fullmatch(pattern, row) for row in found}
    lines: Lines = {}
    for row in sorted(parts, key=lambda row: int(parts[row][2])):
        lines.setdefault(parts[row][1], {})[place(parts[row][2])] = found[row]
    return lines


def _cells(at: Mapping[str, str], dimension: str, lines: Lines) -> list[Cell]:
    return [cell for line, rows in lines.items() for cell in row_cells({**at, dimension: line}, "at", rows)]


def _curves(cells: list[Cell], series: str, title: str, x_title: str, levels: Sequence[Level] = ()) -> Explorer:
    return explorer(View("curves", cells, series=series, axis="at", title=title, x_title=x_title, levels=levels))
