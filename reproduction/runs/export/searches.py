"""Searches of a gallery before and after an update, as a file that a page loads: what each of a few queries finds, and
the pictures.

A file is a script (see ``export.scripts``) that puts into ``compatkitSearches``, under the name of the image set:

- ``data``, ``seed``: of the run. ``images``: in the gallery.
- ``cases``: for each, ``name`` ("query/gallery"), ``accuracy``, the share of all images that, as a query, find one of
  their class first, and ``recorded``, the same of the record, null where there is none.
- ``classes``: names, as a reader says them. ``tiles``: of each picture the number of its class.
- ``sprite``: the pictures in rows of ``columns``, each of ``side`` x ``side`` pixels, as a data URL.
- ``queries``: for each, its ``tile``, whether its class is ``known`` to the old model, and in ``found``, for each case,
  the tiles of the nearest images, nearest first; the query itself is not among them.

Queries are not picked by hand: the first image of each of ``QUERIES`` classes that are evenly spaced.
"""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compatkit.extras import require
from compatkit.retrieval import evaluate, nearest

from ...experiments import plan
from ...experiments.evidence import metrics_of
from ...experiments.settings import UpdateRun
from ..context import Context
from ..runner import torch_threads
from ..update import Cases, Trainer, Update, forward, prepare
from . import scripts

CASES = ("old/old", "new/identity(old)", "new/h", "new/new")
"""Before the update; the new model on the old gallery, as it is and carried over; on a gallery embedded anew."""

QUERIES, FOUND, COLUMNS = 24, 5, 20

COLOURS = ("red", "orange", "lime", "green", "mint", "cyan", "blue", "indigo", "purple", "pink")
"""Of the ten hues of shapes, 36 degrees apart."""
CORNERS = {"3": ("three", "triangle"), "4": ("four", "square"), "5": ("five", "pentagon"), "6": ("six", "hexagon")}


def run_of(preset: str) -> UpdateRun:
    """The run of Table 1, forward compatible training on shapes, whose searches are exported, seed 0."""
    return next(run for row, run in plan("table1", preset, [0]) if row == "FCT" and run.data == "shapes")


def export(run: UpdateRun, preset: str, folder: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """Train the models of a run and write what they find into ``folder``; returns the file and what it holds."""
    with torch_threads(1):
        context = Context(show_progress=True)
        update = prepare(run, context)
        cases, _ = forward(Trainer(run, update, context))
        content = {"data": run.data, "seed": run.seed} | searches(cases, update, metrics_of(run, preset))
    return scripts.write(folder, "compatkitSearches", run.data, content), content


def searches(cases: Cases, update: Update, recorded: dict[str, Any]) -> dict[str, Any]:
    """The content of a file beside its name, see above.

    Args:
        cases: embeddings of the whole gallery, as a query and as it is searched, with those of ``CASES`` among them.
        update: whose gallery it is.
        recorded: metrics of the run's record; empty without one.
    """
    labels, classes = update.gallery.labels, update.sets[-1].classes
    chosen = [int((labels == i * len(classes) // QUERIES).nonzero()[0]) for i in range(QUERIES)]
    found = {name: nearest(*cases[name], FOUND, same_items=True)[1][chosen].tolist() for name in CASES}
    tiles: dict[int, int] = {}  # of each item that is shown
    for items in zip([[item] for item in chosen], *found.values(), strict=True):
        for item in (item for row in items for item in row):
            tiles.setdefault(item, len(tiles))
    return {
        "images": len(labels),
        "cases": [
            {
                "name": name,
                "accuracy": evaluate(cases[name][0], labels, cases[name][1], labels, same_items=True).cmc[1],
                "recorded": recorded.get(f"CMC top-1: {name}"),
            }
            for name in CASES
        ],
        "classes": [in_words(name) for name in classes],
        "tiles": labels[list(tiles)].tolist(),
        "columns": COLUMNS,
        "side": update.gallery.images.shape[-1],
        "sprite": sprite(update.gallery.images[list(tiles)]),
        "queries": [
            {
                "tile": tiles[item],
                "known": update.known is None or bool(update.known[item]),
                "found": {name: [tiles[one] for one in rows[place]] for name, rows in found.items()},
            }
            for place, item in enumerate(chosen)
        ],
    }


def in_words(name: str) -> str:
    """The name of a class of shapes as a reader says it: "cyan triangle" for "hue180 polygon3"."""
    hue, form = name.split()
    number, polygon = CORNERS[form[-1]]
    spoken = {"polygon": polygon, "star": f"{number}-pointed star", "flower": f"{number}-petalled flower"}
    return f"{COLOURS[int(hue.removeprefix('hue')) // 36]} {spoken[form[:-1]]}"


def sprite(images: Tensor) -> str:
    """Images (n, 3, s, s) in one picture, ``COLUMNS`` in a row, as a data URL."""
    n, channels, side, _ = images.shape
    blank = images.new_zeros(-n % COLUMNS, channels, side, side)
    rows = torch.cat([images, blank]).view(-1, COLUMNS, channels, side, side)
    pixels = rows.permute(0, 3, 1, 4, 2).reshape(-1, COLUMNS * side, channels).numpy()
    file = io.BytesIO()
    require("PIL.Image", "data").fromarray(pixels).save(file, "WEBP", quality=90)  # an eighth of what PNG takes
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
