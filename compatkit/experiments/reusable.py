"""The experiments of paper A (Gygli et al.): one function for each figure or table, from a preset to the runs it
needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .pair import METHODS, PairRun
from .presets import override, preset_settings

EMBEDDED_PAIRS = (
    {"a": "digits", "b": "mnist5k", "left_out": ("9",)},
    {"a": "glyphs_plain", "b": "glyphs_cluttered"},
)
PHOTOGRAPHS = ({"a": "cifar10", "b": "stl10"},)

PRESETS = {
    "smoke": {
        "pairs": EMBEDDED_PAIRS,
        "seeds": (0,),
        "network": "resnet8",
        "width": 4,
        "n_train": 200,
        "n_test": 200,
        "recipe.steps": 12,
        "recipe.batch_size": 50,
        "recipe.schedule": "one-cycle",
        "recipe.rotations": "sampled",
        "recipe.precision": "fp32",
    },
    "laptop": {
        "pairs": EMBEDDED_PAIRS,
        "seeds": (0, 1, 2),
        "network": "resnet8",
        "recipe.steps": 600,
        "recipe.batch_size": 128,
        "recipe.schedule": "one-cycle",
        "recipe.rotations": "sampled",
        "recipe.precision": "fp32",
        "recipe.crop": 1,
    },
    "cifar": {
        "pairs": PHOTOGRAPHS,
        "seeds": (0, 1, 2),
        "network": "resnet20",
        "recipe.steps": 4_000,
        "recipe.schedule": "one-cycle",
        "recipe.crop": 4,
        "recipe.flip": True,
    },
    "paper": {"pairs": PHOTOGRAPHS, "seeds": tuple(range(10)), "recipe.crop": 4, "recipe.flip": True},
}


def fig2(preset: str, seeds: Sequence[int] | None = None) -> list[PairRun]:
    """Fig. 2 (and Fig. 10, per data set): recombination accuracy of every method, both networks trained jointly.

    Published, mean over CIFAR-10 and STL-10, n = 10: independent 10.6, IIW 25.1, RP 50.1, DCC 65.8, all three 76.7,
    upper bound 85.6; own tasks under all three 86.3.
    Takes: smoke 10 s and laptop 20 minutes on 2 cores. Not measured yet: cifar (estimated an hour on one GPU), paper
    (days).
    """
    pairs, seeds, settings = preset_settings(PRESETS, preset, seeds)
    base = override(PairRun(), settings)
    return [replace(base, **pair, method=method, seed=seed) for pair in pairs for seed in seeds for method in METHODS]
