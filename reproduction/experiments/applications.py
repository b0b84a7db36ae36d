"""The applications of paper A (Gygli et al., Sec. 5, App. D), as in ``gygli``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .gygli import EMBEDDED_PAIRS, LAPTOP_RECIPE, fig2
from .presets import Plan, inside, override, preset_runs
from .settings import DIRECTIONS, TRANSFER_METHODS, VARIANTS, AdaptationRun, ClassifierRun, PairRun, TransferRun

TINY = {"batch_size": 20, "rotations": "sampled", "precision": "fp32"}
SMOKE = {"n_train": 100, "n_test": 100, **inside("recipe", steps=6, **TINY)}
LAPTOP = {**LAPTOP_RECIPE, "recipe.flip": False}
SMALL = {"rotations": "sampled", "precision": "fp32"}
TUNING = {"batch_size": 64, "precision": "fp32", "crop": 1, "flip": False}
CIFAR = {"recipe.steps": 4_000, "recipe.schedule": "one-cycle"}
PHOTOGRAPHS = ({"a": "cifar10", "b": "stl10"},)

ADAPTATION_PRESETS = {
    "smoke": {
        "pairs": EMBEDDED_PAIRS,
        "seeds": (0,),
        "third": "glyphs_other",
        "network": "wrn10",
        "width": 4,
        **inside("adapt_recipe", steps=4, **TINY),
        **SMOKE,
    },
    "laptop": {
        "pairs": EMBEDDED_PAIRS,
        "seeds": tuple(range(5)),
        "third": "glyphs_other",
        "network": "wrn10",
        "width": 16,
        **LAPTOP,
        **inside("recipe", steps=400, lr=0.05),
        **inside("adapt_recipe", steps=256, lr=2e-4, **SMALL),
    },
    "cifar": {
        "pairs": PHOTOGRAPHS,
        "seeds": (0, 1, 2),
        "third": "tiny_imagenet",
        "width": 64,
        **inside("recipe", steps=10_000, decay_every=3_000),
    },
    "paper": {"pairs": PHOTOGRAPHS, "seeds": tuple(range(10))},
}
CPU_SIZED = {
    "b": "tin10",
    "network": "wrn16",
    "width": 16,
    **inside("recipe", steps=7_000, lr=0.05, schedule="one-cycle"),
    **inside("recipe", "adapt_recipe", rotations="sampled", channels_last=True),
}
"""What ``cifar-cpu`` changes in adaptation's cifar preset, for two CPU cores: a tenth of the paper's steps, a small
network, and tin10 in place of STL-10, with which CIFAR-10 shares 8 classes. A step of the source takes 0.24 s on one
core in fp32, and 0.13 s where the processor multiplies bf16 itself, which is then used."""
ADAPTATION_PRESETS["cifar-cpu"] = ADAPTATION_PRESETS["cifar"] | CPU_SIZED | {"pairs": ({},)}

CLASSIFIER_PRESETS = {
    "smoke": {
        "pairs": ({"data": "glyphs_cluttered"},),
        "seeds": (0,),
        "networks": ("resnet8", "resnet8", "mobilenetv2"),
        "widths": (4, 8, 4),
        **inside("tune_recipe", steps=4, **TINY),
        **SMOKE,
    },
    "laptop": {
        "pairs": ({"data": "glyphs_cluttered"},),
        "seeds": tuple(range(5)),
        "networks": ("resnet8", "resnet8", "mobilenetv2"),
        "widths": (16, 32, 8),
        **LAPTOP,
        **inside("recipe", steps=200, channels_last=True),
        **inside("tune_recipe", steps=100, channels_last=True, rotations="sampled", **TUNING),
    },
    "cifar": {
        "pairs": ({"data": "cifar10"},),
        "seeds": (0, 1, 2),
        "networks": ("resnet20", "resnet20", "mobilenetv2"),
        **CIFAR,
        "tune_recipe.steps": 1_000,
    },
    "paper": {"pairs": ({"data": "cifar10"},), "seeds": tuple(range(3))},
}


def _transfers(third: str, source: str, *targets: str) -> tuple[dict[str, str], ...]:
    return tuple({"third": third, "source": source, "target": target} for target in targets)


TRANSFER_PRESETS = {
    "smoke": {
        "pairs": _transfers("glyphs_other", "glyphs_cluttered", "digits"),
        "seeds": (0,),
        "network": "resnet8",
        "width": 4,
        "epochs": 1,
        **inside("tune_recipe", batch_size=20, precision="fp32"),
        **SMOKE,
    },
    "laptop": {
        "pairs": _transfers("glyphs_other", "glyphs_cluttered", "glyphs_plain", "digits", "glyphs_other"),
        "seeds": tuple(range(5)),
        "network": "resnet8",
        **LAPTOP,
        **inside("tune_recipe", **TUNING),
    },
    "cifar": {
        "pairs": _transfers("cifar100", "tiny_imagenet", "cifar10", "stl10", "cifar100"),
        "seeds": (0, 1, 2),
        "network": "resnet20",
        **CIFAR,
    },
    "paper": {
        "pairs": tuple({"target": target} for target in ("cifar10", "stl10", "cifar100")),
        "seeds": tuple(range(3)),
    },
}
UNTRIED = {
    **inside("recipe", "tune_recipe", batch_size=64, crop=2, channels_last=True, **SMALL),
    "recipe.steps": 1_500,
}
"""What ``cifar-cpu`` changes in the recipes of classifier and transfer. No run has tried it."""
CLASSIFIER_PRESETS["cifar-cpu"] = CLASSIFIER_PRESETS["cifar"] | {
    "networks": ("resnet14", "resnet14", "mobilenetv2"),
    "widths": (8, 16, 8),
    **UNTRIED,
}
TRANSFER_PRESETS["cifar-cpu"] = TRANSFER_PRESETS["cifar"] | {
    "pairs": _transfers("cifar100", "tiny_imagenet", "cifar10", "cifar100"),
    "network": "resnet14",
    "width": 8,
    **UNTRIED,
}


FURTHER = 20
"""How many times larger the steps are in runs that ask what lies beyond the usual ones."""


def adaptation(preset: str, seeds: Sequence[int] | None = None) -> Plan[AdaptationRun]:
    """Table 1: a classifier of one set, adapted to another one without labels, in both directions; beyond the paper,
    with a jigsaw in the place of rotation (App. A), and with far larger steps.

    Published, CIFAR-10 to STL-10, STL-10 to CIFAR-10, mean: source model 77.2, 52.9, 65.1; with test BN 82.0, 71.3,
    76.7; adapted 82.6, 73.1, 77.9.
    """
    found = []
    for run in preset_runs(AdaptationRun(), ADAPTATION_PRESETS, preset, seeds):
        further = {"adapt_recipe.lr": FURTHER * run.adapt_recipe.lr}
        for direction in DIRECTIONS:
            usual = replace(run, direction=direction)
            found += [("rotation", usual), ("jigsaw", replace(usual, pretext="jigsaw"))]
            found += [("rotation, larger steps", override(usual, further))]
    return found


TRAINED = {"": 1, ", twice the steps": 2, ", five times the steps": 5}
"""Steps of ``home``, as multiples of the preset's, by what the row's name adds to the method's."""


def home(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper: why are the statistics of test batches worse than the averages from training where nothing was
    swapped? Networks that see turned images in training or none, trained up to five times as long, and the network and
    recipe of adaptation; the averages are recomputed on test images and on training images. On one pair of sets, at
    laptop scale the glyphs, from seeds that no other run has.
    """
    pair = "glyphs_plain" if preset in ("smoke", "laptop") else "cifar10"
    own = range(30, 33) if seeds is None and preset != "smoke" else seeds
    found = [
        (f"{row}{words}", override(run, {"recipe.steps": run.recipe.steps * times}))
        for words, times in TRAINED.items()
        for row, run in fig2(preset, own)
        if row in ("independent", "RP") and run.a == pair
    ]
    usual, *_ = preset_runs(AdaptationRun(), ADAPTATION_PRESETS, preset, (0,))
    wide = {"network": usual.network, "width": usual.width, "recipe": usual.recipe}
    return found + [
        (f"{row}, network of adaptation", replace(run, **wide)) for row, run in found if row == "independent"
    ]


def classifier(preset: str, seeds: Sequence[int] | None = None) -> Plan[ClassifierRun]:
    """Figs. 3 and 11: one head for three extractors learns five more classes on one of them.

    Published, CIFAR-10, head updated on the frozen Wide ResNet-56: ResNet-56 91.7, MobileNetV2 91.6, Wide ResNet-56
    91.9; with the rotation head frozen in place of the extractor 91.5, 91.2, 92.3; upper bounds 94.6, 93.3, 94.9; lower
    bound 50. Beyond the paper, where two things change at once: extractors that learnt rotation as well, frozen.
    """
    return [
        (variant, replace(run, variant=variant))
        for run in preset_runs(ClassifierRun(), CLASSIFIER_PRESETS, preset, seeds)
        for variant in VARIANTS
    ]


def transfer(preset: str, seeds: Sequence[int] | None = None) -> Plan[TransferRun]:
    """Fig. 4: the extractor of a source task under the head of a target task, before and during fine-tuning.

    Published, ILSVRC to CIFAR-10, STL-10 and CIFAR-100: 40.0 to 66.4 directly after recombination, baselines at chance;
    the curves are drawn only.
    """
    return [
        (method, replace(run, method=method))
        for run in preset_runs(TransferRun(), TRANSFER_PRESETS, preset, seeds)
        for method in TRANSFER_METHODS
    ]
