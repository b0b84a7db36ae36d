"""Experiments with models that others trained: what paper B's idea is worth where a model is changed today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .presets import Plan, preset_runs
from .settings import AdviceRun, ModelsRun

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
    "cifar100": ("inner layer", "mirrored view", "thumbnail", "lite1@64"),
    "glosses": ("sketch", "glove"),
    "planted": ("rest",),
}
"""What can be stored beside an embedding before the new model is known, by data; last, a second, small model that
is neither the old one nor the new."""
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
    side-information and with 256 bytes of a second, small model beside; further ways are runs of their own. Smoke:
    seconds; laptop: about 35 minutes, of which 10 embed all items; others: some hours.
    """
    return [
        (row + words, replace(run, **changes))
        for row in STEPS
        for run in _runs(preset, row, seeds)
        for words, changes in (
            ("", {}),
            (", side-information", {"side": STORED[run.data][-1]}),
            (", further ways", {"maps": "further"}),
        )
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


ADVISED = {
    "images": {"data": "cifar100", "old": "lite0@64", "new": "lite2@112"},
    "images, hardly another model": {"data": "cifar100", "old": "lite0@112", "new": "lite2@112"},
    "texts": {"data": "glosses", "old": "wordllama", "new": "minilm"},
    "words": {"data": "words", "old": "glove50", "new": "glove100"},
    "a toy that sees more": {"data": "planted", "old": "half", "new": "whole"},
    "a toy that sees other things": {"data": "planted", "old": "rest", "new": "half"},
}
"""Changes of a model that the tool is asked about."""
MIXED = {
    "one network, two sizes of image": {"data": "cifar100", "old": "lite0@64", "new": "lite0@112"},
    "two networks of a family": {"data": "cifar100", "old": "lite0@112", "new": "lite2@112"},
    "two families": {"data": "glosses", "old": "wordllama@50", "new": "glove"},
}
"""Two models of one width, whose vectors a store could take for one's."""


def advice(preset: str, seeds: Sequence[int] | None = None) -> Plan:
    """Beyond the paper: what ``gallerykit`` advises from 5 000 pairs for six changes of a model, and what comes true
    among 3 000 other items. Smoke: seconds; laptop: about an hour once all items are embedded, and two draws of
    photographs, whose maps take longest; others: hours.
    """
    found = _asked(preset, seeds, ADVISED, AdviceRun(), AdviceRun(pool=50_000, fitted=20_000, gallery=20_000))
    few = preset == "laptop" and not seeds
    return [(row, run) for row, run in found if not few or run.data != "cifar100" or run.seed < 2]


def mixtures(preset: str, seeds: Sequence[int] | None = None) -> Plan:
    """Beyond the paper: how often ``gallerykit inspect`` sees two models in a store of 2 000 rows, by the share of the
    second one. Smoke: seconds; laptop: minutes; others: an hour.
    """
    run = AdviceRun(asked="mixtures", gallery=15_000)
    return _asked(preset, seeds, MIXED, run, replace(run, pool=50_000, fitted=20_000))


def _asked(
    preset: str, seeds: Sequence[int] | None, rows: Mapping[str, Mapping], run: AdviceRun, whole: AdviceRun
) -> Plan:
    """The settings of each row; at smoke those of one toy alone."""
    if preset == "smoke":
        run, rows = replace(run, pool=420, fitted=200, gallery=200, steps=4), dict([[*ADVISED.items()][4]])
    own = PRESETS.get(preset, WHOLE)["seeds"] if preset != "smoke" else (0,)
    run = run if preset in PRESETS else whole
    return [(row, replace(run, **one, seed=seed)) for seed in seeds or own for row, one in rows.items()]


def _runs(preset: str, row: str, seeds: Sequence[int] | None) -> list[ModelsRun]:
    """The settings of a step at a preset; a small step is not rehearsed at smoke."""
    own = PRESETS.get(preset, WHOLE)
    steps = STEPS[row] if preset != "smoke" else own["pairs"]
    return preset_runs(ModelsRun(), {preset: own | {"pairs": steps}}, preset, seeds)
