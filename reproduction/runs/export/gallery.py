"""A small gallery of the toy (paper B, Fig. 1) as a file that a page loads, to carry it into the space of a new model.

A file is a script (see ``export.scripts``) that puts into ``compatkitGallery``, under "gallery":

- ``classes``: names, as a reader says them, ten hues of ten forms each. ``labels`` of the items of the gallery, and
  ``pair_labels`` of images that both models have seen, to fit a map on.
- ``sprite``, ``columns``, ``side``: the pictures of the gallery.
- ``tables``: for each embedding ``scale`` and ``offset`` of its dimensions, and whether the pairs have it as ``pairs``.
  "new"; "colour" and "shape", of an old model that learnt one of them; "autoencoder" and "SimCLR", stored beside (the
  true colour and shape follow from the class); and for each "OLD / SIDE" what the run's h makes of the gallery.
- ``recorded``: for each "OLD / SIDE" CMC top-1 of each of ``CASES`` in the run's record, which searches 2 000 items;
  null where there is none.
- ``count`` of bytes, and ``bytes`` in base 85 (RFC 1924): table by table the gallery and, where they have them, the
  pairs, a byte a number.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from compatkit.fct import transform
from compatkit.images import Split

from ...experiments import configs
from ...experiments.evidence import metrics_of
from ...experiments.settings import UpdateRun
from ..context import Context
from ..runner import torch_threads
from ..update import Trainer, prepare
from . import scripts
from .searches import COLUMNS, in_words, sprite

NAME, _REGISTRY = "gallery", "compatkitGallery"
HUES, FORMS, EACH = (0, 2, 4, 5, 6, 8), (0, 1, 2, 4, 7), 10
"""Six colours and five shapes that a reader tells apart, ten pictures of each: 300."""
PAIRS = 640
CASES = ("old/old", "new/identity(old)", "new/h", "new/ridge(old)", "new/ridge(old, side)", "new/new")


def runs_of(preset: str) -> dict[tuple[str, str], UpdateRun]:
    """The runs of the toy, seed 0, by what the old model learnt and what was stored beside."""
    return {(run.old_task, run.side): run for run in configs("fig1_toy", preset, [0])}


def export(preset: str, folder: str | os.PathLike) -> Path:
    """Train the models of the toy and write a gallery into ``folder``; returns the file."""
    with torch_threads(1), TemporaryDirectory() as shared:
        content = gallery(runs_of(preset), preset, Path(shared))
    return scripts.write(folder, _REGISTRY, NAME, content)


def gallery(runs: Mapping[tuple[str, str], UpdateRun], preset: str, shared: Path) -> dict[str, Any]:
    """The content of a file, see above; the weights that runs have in common are kept in ``shared``."""
    context = Context(show_progress=True, shared=shared)
    tables: dict[str, list[Tensor]] = {}
    beside = {}
    for (old, side), run in runs.items():
        update = prepare(run, context)
        trainer, whole = Trainer(run, update, context), update.sets[-1]
        shown, pairs = _shown(update.gallery), whole.limit(PAIRS).train
        tables.setdefault("new", [trainer.embed(1, split) for split in (shown, pairs)])
        tables.setdefault(old, [trainer.embed(0, split) for split in (shown, pairs)])
        if side in ("autoencoder", "SimCLR"):
            tables.setdefault(side, [trainer.store(0, split) for split in (shown, pairs)])
        seen = [trainer.embed(0, whole.train), trainer.store(0, whole.train), trainer.embed(1, whole.train)]
        h = trainer.transformation("h", *seen)
        tables[f"{old} / {side}"] = [transform(h, trainer.embed(0, shown), trainer.store(0, shown))]
        beside[f"{old} / {side}"] = recorded(run, preset)
    packed = [_packed(name, torch.cat(parts), len(parts) > 1) for name, parts in tables.items()]
    whole_bytes = b"".join(numbers for _, numbers in packed)
    return {
        "name": NAME,
        "classes": [in_words(name) for name in whole.classes],
        "labels": shown.labels.tolist(),
        "pair_labels": pairs.labels.tolist(),
        "columns": COLUMNS,
        "side": shown.images.shape[-1],
        "sprite": sprite(shown.images),
        "tables": [description for description, _ in packed],
        "recorded": beside,
        "count": len(whole_bytes),
        "bytes": scripts.in_base_85(whole_bytes),
    }


def _shown(split: Split) -> Split:
    """The first ``EACH`` pictures of each class that is shown."""
    classes = [10 * hue + form for hue in HUES for form in FORMS]
    return split[torch.cat([(split.labels == label).nonzero()[:EACH, 0] for label in classes])]


def _packed(name: str, values: Tensor, with_pairs: bool) -> tuple[dict[str, Any], bytes]:
    """A table in bytes, each dimension from its least to its largest value."""
    low, high = values.amin(0), values.amax(0)
    scale = ((high - low) / 255).clamp_min(1e-9)
    description = {"name": name, "pairs": with_pairs, "scale": _short(scale), "offset": _short(low)}
    return description, ((values - low) / scale).round().to(torch.uint8).numpy().tobytes()


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def recorded(run: UpdateRun, preset: str) -> dict[str, float | None]:
    metrics = metrics_of(run, preset)
    return {case: metrics.get(f"CMC top-1: {case}") for case in CASES}
