"""Contents of the chapters on questions of our own: a late split, rotations that cannot be told, permuted and stitched
networks; how much the old model has learnt, and when h beats ridge regression."""

from __future__ import annotations

from collections.abc import Mapping

from IPython.display import HTML

from ..records.claims import Records
from ..records.table import Rows, Values, natural, pick, rows, table
from ..show import tables
from ..show.dots import Panels
from ..show.explorer import Explorer, curves, explorer
from .gygli import ROLES, chance_levels
from .ramanujan import BARE, plot
from .sections import by_data, cells, choose, gap_between, groups, mean_of, row_cells

Lines = dict[str, Rows]  # {line: {place: {seed: value}}}

# --- paper A ----------------------------------------------------------------------------------------------------------


def index_gain(records: Records) -> Panels:
    """The gain in points, for each method and split, when classes have the same index in both tasks."""
    places, found = {"stage2": "stage 2"}, {}
    for name, group in by_data(records).items():
        values, gains = pick(table(group), "recombination"), {}
        for (method, at), part in groups(values, "method", "split_at"):
            same, other = (rows(part, "numbering")[kind] for kind in ("as a", "shifted"))
            gains[f"{method}, {places.get(at, 'last block')}"] = gap_between(same, other, False)
        found[name] = gains
    return found


def turned_explorer(records: Records) -> Explorer:
    """Pick test images, see recombination accuracy against the share of images that are turned."""
    values = pick(table(records), "recombination", on=ROLES)
    shares = {share: f"{share:.0%}".replace("%", " %") for share in sorted(values["turned"].unique())}
    caption = "Recombination accuracy by the share of images that are turned at random"
    return _pair_explorer(records, values, "turned", shares, "images turned at random", caption)


FOOLED = {
    "noise, as it is": ("noise", "as it is"),
    "noise, stitched": ("noise", "stitched by labels"),
    "features, as they are": ("recombination", ""),
    "features, stitched": ("recombination", "stitched by labels"),
}


def fooled(records: Records, method: str = "independent") -> Panels:
    """Accuracy, in %, of the heads of one method's networks on clustered noise and on features of the other network, as
    they are and through a stitch that was trained on labels."""
    found = {}
    for name, group in by_data(choose(records, method=method)).items():
        values = table(group)
        cases = {words: rows(pick(values, what, variant=how))[method] for words, (what, how) in FOOLED.items()}
        found[name] = {words: mean_of(seeds) for words, seeds in cases.items()}
    return found


def stitched_explorer(records: Records) -> Explorer:
    """Pick data, see recombination accuracy of networks as they are, with channels optimally permuted, and stitched by
    a 1 x 1 convolution fitted on so many images; a line for each method."""
    counts = {f"stitched on {n} images": str(n) for n in records[0]["config"]["stitches"]}
    places = {"": "as they are", "permuted": "permuted"} | counts
    values = pick(table(records), "recombination", on=ROLES, variant=places)
    caption = "Recombination accuracy of channels as they are, permuted, and stitched"
    return _pair_explorer(records, values, "variant", places, "stitched on so many images", caption)


def _pair_explorer(
    records: Records, values: Values, column: str, places: Mapping, x_title: str, caption: str
) -> Explorer:
    at = {"data": "data", "test images": "on", "method": "method", "at": column}
    found, levels = cells(values, at, {"on": ROLES, column: places}), chance_levels(records)
    title = "recombination accuracy, %"
    return explorer(curves(found, "method", "at", x_title, title, levels=levels, caption=caption))


def by_weight(records: Records) -> Panels:
    """Recombination accuracy, in %, by method and weight of its loss."""
    found = {name: rows(pick(table(group), "recombination")) for name, group in by_data(records).items()}
    return {name: {row: mean_of(seeds) for row, seeds in weights.items()} for name, weights in found.items()}


# --- paper B ----------------------------------------------------------------------------------------------------------

RIDGE = "ridge on old and side"


def by_share(records: Records, measure: str = "CMC top-1") -> Lines:
    """Each case by the share of classes that the old model has learnt."""
    if not records:
        return {}
    values = table(records)
    share = values["classes"].map(lambda classes: f"{classes[0] / classes[-1]:.0%}".replace("%", " %"))
    values, bare = values.assign(share=share), BARE.removeprefix("FCT ")
    cases = {"old/old": ("SimCLR", "old/old"), f"new/h {bare}": ("none", "new/h"), "new/h": ("SimCLR", "new/h")}
    cases |= {RIDGE: ("SimCLR", "new/ridge(old, side)"), "new/new": ("SimCLR", "new/new")}
    found = {line: rows(pick(values, measure, case=name, side=side), "share") for line, (side, name) in cases.items()}
    return {
        line: {place: by_place[place] for place in sorted(by_place, key=natural)} for line, by_place in found.items()
    }


def gain(lines: Lines, share: str) -> str:
    """How far new/h is above old/old at a share of classes, for a sentence; a dash where nothing is on record."""
    carried, old = (lines.get(line, {}).get(share, {}) for line in ("new/h", "old/old"))
    gap = gap_between(carried, old, same_networks=True)
    return f"{tables.span(gap, signed=True)} points"


def recovered(records: Records, caption: str) -> HTML:
    """Draw, for each share of classes, the gap from the old model to the new one, and what each transformation recovers
    of it, in points."""
    lines = by_share(records)
    panels = {
        share: {
            line: gap_between(found[share], seeds, same_networks=True)
            for line, found in lines.items()
            if line != "old/old"
        }
        for share, seeds in lines["old/old"].items()
    }
    return plot(panels, caption)


def against_ridge(records: Records, caption: str) -> HTML:
    """Draw the lead of h over ridge regression on the same inputs, in points, by images to fit on and width of h."""
    panels = {}
    for name, group in by_data(records).items():
        of_h, of_ridge = (rows(pick(table(group), "CMC top-1", case=c)) for c in ("new/h", "new/ridge(old, side)"))
        panels[name] = {row: gap_between(of_h[row], of_ridge[row], same_networks=True) for row in of_h}
    return plot(panels, caption)


def share_explorer(records: Records) -> Explorer:
    """Pick a measure, see each case against the share of classes that the old model has learnt."""
    found = [
        cell
        for measure in ("CMC top-1", "mAP@1.0")
        for line, places in by_share(records, measure).items()
        for cell in row_cells({"measure": measure, "case": line}, "at", places)
    ]
    return explorer(curves(found, "case", "at", "classes that the old model has learnt", "{measure}, %"))


def fitted_explorer(records: Records) -> Explorer:
    """Pick an update, see h and ridge regression against the images of a class that they are fitted on."""
    lines = {"new/h": "h", "new/ridge(old, side)": RIDGE}
    values = pick(table(records), "CMC top-1", case=lines)
    usual = records[0]["config"]["h_width"]
    values = values[values["h_width"] == usual]
    pairs = values["pairs"].astype(float) / values["classes"].map(max).astype(float)
    places = {f"{n:.0f}": f"{n:.0f}" for n in sorted(pairs.dropna().unique())} | {"all": "all"}
    at = pairs.map(lambda n: "all" if n != n else f"{n:.0f}").astype("category")
    found = cells(values.assign(at=at), {"data": "data", "map": "case", "at": "at"}, {"case": lines, "at": places})
    return explorer(curves(found, "map", "at", "images of a class to fit on", "CMC top-1, %"))
