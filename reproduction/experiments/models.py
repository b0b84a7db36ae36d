"""Experiments with models that others trained: what paper B's idea is worth where an embedding model is changed today.
Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .presets import Plan, preset_runs
from .settings import ModelsRun

LARGE, SMALL = "a large step", "a small step"
STEPS = {
    LARGE: (
        {"data": "cifar100", "old": "lite0@64", "new": "lite2@112"},
        {"data": "glosses", "old": "wordllama", "new": "minilm", "maps": "all"},
    ),
    SMALL: ({"data": "cifar100", "old": "lite0@112", "new": "lite2@112"},),
}
"""Changes of a model by row. The large step of images is one of pixels and of network, the small one of network
alone."""
STORED = {
    "cifar100": ("inner layer", "mirrored view", "thumbnail", "lite2@64"),
    "glosses": ("sketch", "glove"),
    "planted": ("rest",),
}
"""What can be stored beside an embedding before the new model is known, by data; last, a second, small model."""
BYTES = (16, 64, 256, 1024)
PRESETS = {
    "smoke": {
        "pairs": ({"data": "planted", "old": "half", "new": "whole", "maps": "all"},),
        "seeds": (0,),
        "fitted": 120,
        "gallery": 120,
        "pool": 240,
        "h_width": 16,
        "recipe.steps": 12,
        "recipe.batch_size": 40,
    },
    "laptop": {"seeds": (0, 1, 2)},
}
WHOLE = {"seeds": tuple(range(5)), "pool": 50_000, "fitted": 20_000, "gallery": 20_000, "maps": "all"}
"""Of the other presets: all training images of CIFAR-100, as many texts, and h on both."""


def real_models(preset: str, seeds: Sequence[int] | None = None) -> Plan:
    """Beyond the paper: a gallery of 3 000 images or texts is carried from a public model to a better one, without
    side-information and with 256 bytes of a second, small model beside. Smoke: seconds; laptop: about 25 minutes, of
    which 10 embed all items; others: some hours.
    """
    return [
        (row + words, replace(run, side=side))
        for row in STEPS
        for run in _runs(preset, row, seeds)
        for side, words in (("none", ""), (STORED[run.data][-1], ", side-information"))
    ]


def stored_beside(preset: str, seeds: Sequence[int] | None = None) -> Plan:
    """Beyond the paper: what should be stored beside an embedding today? Kinds of side-information that need no new
    model, by bytes an item. Smoke: seconds; laptop: about 20 minutes; others:
    some hours.
    """
    return [
        (f"{side}, {size} bytes", replace(run, side=side, side_bytes=size, maps="ridge"))
        for run in _runs(preset, LARGE, seeds)
        for side in STORED[run.data]
        for size in BYTES
    ]


def _runs(preset: str, row: str, seeds: Sequence[int] | None) -> list[ModelsRun]:
    """The settings of a step at a preset; a small step is not rehearsed at smoke."""
    own = PRESETS.get(preset, WHOLE)
    steps = STEPS[row] if preset != "smoke" else own["pairs"]
    return preset_runs(ModelsRun(), {preset: own | {"pairs": steps}}, preset, seeds)
