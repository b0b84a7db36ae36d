"""The experiments of paper B (Ramanujan et al.), as in ``gygli``; runs share the models that they have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .presets import Plan, inside, override, preset_runs
from .settings import UpdateRun

EMBEDDED = (
    {"data": "shapes", "classes": (50, 100)},
    {"data": "mnist5k", "classes": (5, 10)},
)


def _steps(images: int, epochs: Mapping[str, float], batch_sizes: Mapping[str, int]) -> dict[str, int]:
    """The steps of each recipe that are so many epochs of a set of so many training images."""
    return {f"{name}.steps": round(count * images / batch_sizes[name]) for name, count in epochs.items()}


LAPTOP_BATCHES = {"recipe": 64, "side_recipe": 128, "h_recipe": 256}
LAPTOP_EPOCHS = {"recipe": 10, "side_recipe": 10, "h_recipe": 80}
"""Chosen on the first seed with a fifth of the training images as the gallery, so that the gap between the old model
and the new one is wide: on shapes 65 to 92 % CMC top-1, and on MNIST-5k, which is easier, 89 to 98 %. 6 epochs leave
the new model of shapes at 80 %. The transformation's 80 epochs are the paper's; 20 lose 2 points on shapes, a smaller
rate or four times the width change less than one."""
PHOTOGRAPHS = ({"data": "cifar100", "classes": (50, 100)},)
SMALL = {
    "old_network": "resnet8",
    "new_network": "resnet8",
    **inside("recipe", "side_recipe", optimizer="adam", lr=0.005, weight_decay=1e-5, schedule="one-cycle"),
    **inside("recipe", "side_recipe", flip=False, precision="fp32", channels_last=True),
}


def _widths(**all_of: int) -> dict[str, int]:
    """The same "width" or "dim" for the old and the new model, that of side-information after the latter."""
    found = {f"{model}_{part}": size for part, size in all_of.items() for model in ("old", "new")}
    return found | ({"side_dim": all_of["dim"]} if "dim" in all_of else {})


PRESETS = {
    "smoke": {
        **SMALL,
        "pairs": EMBEDDED,
        "seeds": (0,),
        "n_train": 400,
        "n_test": 400,
        **_widths(width=8, dim=8),
        "h_width": 32,
        **inside("recipe", "side_recipe", steps=8, batch_size=50),
        **inside("h_recipe", steps=12, batch_size=50),
    },
    "laptop": {
        **SMALL,
        **{f"{name}.batch_size": size for name, size in LAPTOP_BATCHES.items()},
        "pairs": tuple(
            pair | _steps(images, LAPTOP_EPOCHS, LAPTOP_BATCHES)
            for pair, images in zip(EMBEDDED, (10_000, 4_000), strict=True)
        ),
        "seeds": tuple(range(5)),
        "n_test": 2000,
        **_widths(dim=32),
        "h_width": 256,
        "h_recipe.lr": 2e-3,
    },
    "cifar": {
        "pairs": PHOTOGRAPHS,
        "seeds": (0, 1, 2),
        "old_network": "resnet20",
        "new_network": "resnet20",
        **_widths(width=32),
        **inside("recipe", steps=10_000, batch_size=256, lr=0.256, crop=4),
        **inside("side_recipe", steps=10_000, batch_size=512, lr=0.3),
        "h_recipe.steps": 4_000,
    },
    "paper": {"pairs": ({},), "seeds": (0,), "image_size": 224, "h_recipe.warm_up": 5 / 80},
}

CPU_BATCHES = {"recipe": 128, "side_recipe": 128, "h_recipe": 1024}
CPU_SIZED = {
    "old_network": "resnet14",
    "new_network": "resnet14",
    **_widths(width=16, dim=64),
    "h_width": 512,
    **{f"{name}.batch_size": size for name, size in CPU_BATCHES.items()},
    **_steps(50_000, {"recipe": 10, "side_recipe": 10, "h_recipe": 80}, CPU_BATCHES),
    **inside("recipe", "side_recipe", lr=0.128, precision="fp32", channels_last=True),
}
"""What ``cifar-cpu`` changes in the cifar preset, for two CPU cores: 10 epochs, those of the transformation 80 as in
the paper, and the paper's rate for the size of the batch. A step takes 0.20 s on one core, of SimCLR 0.40 s, of the
transformation 0.04 s."""
PRESETS["cifar-cpu"] = PRESETS["cifar"] | CPU_SIZED

Changes = dict[str, dict[str, Any]]
"""What each row changes in a run."""

BCT: Changes = {"BCT": {"method": "BCT", "side": "none"}}
SYNTHESISED: Changes = {"BCT, synthesised": {"method": "BCT, synthesised", "side": "none"}}
WITHOUT: Changes = {"FCT without side-information": {"side": "none"}}
WITH: Changes = {"FCT": {"side": "SimCLR"}}
TABLE_6 = {
    "none": "none",
    "autoencoder": "autoencoder",
    "other old model": "other old model",
    "old model with Mixup": "old model with Mixup",
    "SimCLR-500": "SimCLR",
    "SimCLR-1k": "SimCLR on the new set",
}
"""What Table 6 calls each kind of side-information."""

# paper: what ImageNet is not enough for
PAPER_BATCHES = dict.fromkeys(("recipe", "side_recipe", "h_recipe"), 1024)
PAPER_EPOCHS = {"recipe": 100, "side_recipe": 100, "h_recipe": 80}
"""From the authors' public code; how long SimCLR was trained stands in an appendix that was not at hand, so that it is
trained as the models."""
PLACES = {
    "data": "imagefolder:places365",
    "classes": (182, 365),
    **_steps(1_803_460, PAPER_EPOCHS, PAPER_BATCHES),
}
FACES = {
    "data": "imagefolder:vggface2",
    "classes": (863, 8631),
    "old_network": "torchvision:resnet18",
    "loss": "arcface",
    "evaluated_on": "imagefolder:vggface2-unseen",
    "n_test": 500 * 50,
    **_steps(3_141_890, PAPER_EPOCHS, PAPER_BATCHES),
}

CIFAR_100 = {
    "data": "imagefolder:cifar100",
    "classes": (20, 40, 60, 80, 100),
    **_steps(50_000, PAPER_EPOCHS, PAPER_BATCHES),
}

OTHER_SET = {
    **dict.fromkeys(("smoke", "laptop"), "glyphs_cluttered"),
    **dict.fromkeys(("cifar", "cifar-cpu"), "tiny_imagenet"),
    "paper": "imagefolder:places365",
}
"""Images of another domain than the first set of a preset."""


def fig1_toy(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Fig. 1, drawn in the paper and run here: the old model learns the colour of shapes, or their shape, the new one
    both; beside the old embedding nothing is stored, or what a model learnt, or the true colour or shape.

    Published: a picture. What a model that knows colour alone can reach is derived in the chapter. At every preset on
    generated shapes.
    """
    stored = ("none", "colour", "shape", "autoencoder", "SimCLR")
    bases = [run for run in _bases("smoke" if preset == "smoke" else "laptop", seeds) if run.data == "shapes"]
    return [
        (f"{task} learnt, {side} stored", replace(run, classes=run.classes[-1:] * 2, old_task=task, side=side))
        for run in bases
        for task in ("colour", "shape")
        for side in stored
    ]


def table1(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Table 1: old model of half of the classes, new model of all; independent, BCT, FCT with and without
    side-information.

    Published, ImageNet-500 to 1k, CMC top-1: old/old 46.5, new/new 68.1, BCT new/old 46.9 and new/new 62.4, FCT new/h
    65.0, h/h 59.3, without side-information 61.8.
    """
    return _changed(_bases(preset, seeds), BCT | SYNTHESISED | WITHOUT | WITH)


def table2(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Table 2: wider embeddings, and side-information from a model of another set.

    Published, Places-182 to 365 with SimCLR from ImageNet, CMC top-1: old/old 29.6, new/new 37.0, BCT 30.4 and 34.9,
    new/h 35.8. At laptop on shapes, SimCLR from glyphs; at cifar on CIFAR-100, SimCLR from Tiny-ImageNet.
    """
    runs, other, wider = _first(preset, seeds), OTHER_SET[preset], 2
    if preset == "paper":
        runs, other, wider = [override(run, PLACES) for run in runs], runs[0].data, 4
    runs = [replace(run, old_dim=wider * run.old_dim, new_dim=wider * run.new_dim) for run in runs]
    return _changed(runs, BCT | {"FCT": {"side": "SimCLR", "side_data": other}})


def table3(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Table 3: ArcFace, a smaller old model of a tenth of the classes, side-information from another old model, a
    gallery of classes that no model has seen.

    Published, VGGFace2-863 to 8631, CMC top-1: old/old 84.0, new/new 96.6, BCT 84.2 and 95.1, new/h 92.5.
    At paper the gallery is an image folder of VGGFace2's other 500 people, named ``vggface2-unseen``: 50 images of
    each, the first in place of a random draw. Scale and margin are ArcFace's own, 64 and 0.5, and the recipe
    is ImageNet's: the paper's stand in an appendix that was not at hand. Elsewhere the last fifth of the classes is not
    learnt and is the gallery; of shapes the old model then knows those of one hue.
    """
    runs = []
    for run in _first(preset, seeds):
        if preset == "paper":
            runs.append(override(run, FACES))
            continue
        unseen = run.classes[-1] // 5
        learnt = run.classes[-1] - unseen
        base = replace(run, loss="arcface", scale=16.0, margin=0.2, old_width=run.old_width // 2)
        runs.append(replace(base, classes=(max(2, learnt // 10), learnt), held_out=unseen))
    return _changed(runs, BCT | WITHOUT | {"FCT": {"side": "other old model"}})


def table4(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Table 4: old models of other architectures, with SimCLR side-information.

    Published, new/h, CMC top-1: ResNet18-128 64.2, MobileNet-128 64.3, ResNet50-64 63.6, the new model's own 65.0.
    Except at paper the smaller old models are half as wide, MobileNet of half the width, and half the embedding. The
    paper cites the first MobileNet, of which torchvision has no network: MobileNetV2 stands in for it.
    """
    small = preset != "paper"
    runs = [replace(run, side="SimCLR") for run in _first(preset, seeds)]
    changes = {
        "ResNet18-128": {"old_width": 8} if small else {"old_network": "torchvision:resnet18"},
        "MobileNet-128": {"old_network": "torchvision:mobilenet_v2", "old_width": 8 if small else 16},
        "ResNet50-64": {"old_dim": runs[0].old_dim // 2},
        "none": {},
    }
    return _changed(runs, changes)


def sec43(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Sec. 4.3, end: the models of Table 1 on images of another domain.

    Published, ImageNet models on Places-365, CMC top-1: old 14.5, new 21.9, new/h 20.3. At cifar on Tiny-ImageNet, at
    laptop on glyphs.
    """
    runs = [replace(run, evaluated_on=OTHER_SET[preset]) for run in _first(preset, seeds)]
    return _changed(runs, BCT | SYNTHESISED | WITHOUT | WITH)


def table5(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Table 5: three versions, the gallery carried in two hops or one, with and without side-information.

    Published, ImageNet-250, 500, 1k, CMC top-1: two hops 57.4, direct 59.9; without side-information 44.9 and 53.9.
    """
    return _of_classes(preset, seeds, lambda most: (most // 4, most // 2, most))


def sequence(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Appendix (named in Sec. 4.4): many small updates, a fifth of the classes at a time.

    Published for CIFAR-100, in an appendix that was not at hand. At paper from an image folder of it, scaled to 224 as
    in the authors' public code.
    """
    plan = _of_classes(preset, seeds, lambda most: tuple(most * i // 5 for i in range(1, 6)))
    return [(row, override(run, CIFAR_100)) for row, run in plan] if preset == "paper" else plan


def table6(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Table 6: what is stored beside the old embedding, and its CKA with it.

    Published, new/h, CMC top-1: none 61.8, autoencoder 62.0, other old model 63.5, with Mixup 63.8, SimCLR 65.0, SimCLR
    on the new set 66.5.
    """
    return _changed(_bases(preset, seeds), {row: {"side": side} for row, side in TABLE_6.items()})


def sec52(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Sec. 5.2: as many bytes in one wider old embedding without side-information; side-information without the old
    embedding; SimCLR alone (a case of every run with side-information).

    Published, new/h, CMC top-1: old embedding of twice the width 62.0, SimCLR without the old embedding 63.2; SimCLR
    alone 35.41.
    """
    found = []
    for run in _first(preset, seeds):
        wide = {"side": "none", "old_dim": run.old_dim + run.side_dim}
        alone = {"side": "SimCLR", "without_old": True}
        found += _changed([run], {"wider old embedding": wide, "without the old embedding": alone} | WITH)
    return found


def fig3(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Fig. 3: accuracy against what an item costs, in multiplications, kilobytes and seconds: back-filling, BCT, and
    transformations of four widths.

    Published as a plot; 4.05 G multiplications and 147 KB for back-filling, 5.7 M and 1 KB for FCT.
    """
    runs = _first(preset, seeds)
    widths = [(f, replace(run, side="SimCLR", h_width=int(run.h_width * f))) for run in runs for f in (0.25, 0.5, 2)]
    return _changed(runs, BCT | WITHOUT | WITH) + [(f"FCT, h of {f:g} times the width", run) for f, run in widths]


def disjoint(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Appendix (named in Sec. 4.3): the new model learns only classes that the old one has not seen.

    Published in an appendix that was not at hand.
    """
    runs = [replace(run, disjoint=True) for run in _first(preset, seeds)]
    return _changed(runs, SYNTHESISED | WITHOUT | WITH)


def embedding_width(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Appendix (named in Sec. 4.3): embeddings and side-information of half, one and two times the width."""
    names = ("old_dim", "new_dim", "side_dim")
    return [
        (f"{f:g} times the width", replace(run, side="SimCLR", **{n: int(getattr(run, n) * f) for n in names}))
        for run in _first(preset, seeds)
        for f in (0.5, 1, 2)
    ]


# --- questions of our own ---------------------------------------------------------------------------------------------


def shares(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Beyond the paper: how much of the gap from the old model to the new one does forward compatibility recover, as
    the old model has learnt from 10 to 90 % of the classes? The paper has 50 % (Table 1) and, in sequences, others.
    """
    return [
        (f"{share:.0%}, {row}", run)
        for share in (0.1, 0.3, 0.5, 0.7, 0.9)
        for row, run in _of_classes(preset, seeds, lambda most, share=share: (round(most * share), most))
    ]


def fitting(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Beyond the paper: when does h beat ridge regression on the same inputs? By the images that both are fitted on,
    and by the width of h; by the share of classes that the old model has not learnt: ``shares``.
    """
    runs = [replace(run, side="SimCLR") for run in _bases(preset, seeds)]
    few = [
        (f"{count} images of a class", replace(run, pairs=count * run.classes[-1]))
        for count in ((2, 8, 32) if preset != "smoke" else (2,))
        for run in runs
    ]
    widths = [
        (f"h of {f:g} times the width", replace(run, h_width=int(run.h_width * f))) for f in (0.25, 4) for run in runs
    ]
    return [*few, *(("all images", run) for run in runs), *widths]


def arrival(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Beyond the paper: are two hops, unseen identities and disjoint classes hard because coloured shapes arrive hue by
    hue? The runs of Tables 3 and 5 and with disjoint classes once more, all classes in one shuffled order.
    """
    plans = {"two hops": table5, "disjoint": disjoint, "unseen": table3}
    orders = {"as stored": "stored", "shuffled": "shuffled"}
    return [
        (f"{name}, {row}, {words}", replace(run, class_order=order))
        for name, plan in plans.items()
        for row, run in plan(preset, seeds)
        if row.startswith("FCT")
        for words, order in orders.items()
    ]


def longer(preset: str, seeds: Sequence[int] | None = None) -> Plan[UpdateRun]:
    """Beyond the paper: is it our short training that lets BCT's new model be ahead, and SimCLR alone be carried over
    badly? Models of one, three and ten times the epochs of the preset (the paper has ten times those at laptop);
    SimCLR of one and ten times.
    """
    found = []
    for run in _first(preset, seeds):
        for factor in (1, 3, 10):
            trained = override(run, {"recipe.steps": factor * run.recipe.steps})
            found += [(f"{row}, x {factor}", made) for row, made in _changed([trained], BCT | WITH)]
        for factor in (1, 10):
            alone = replace(run, side="SimCLR", without_old=True)
            found.append(
                (f"SimCLR alone, x {factor}", override(alone, {"side_recipe.steps": factor * run.side_recipe.steps}))
            )
    return found


def _bases(preset: str, seeds: Sequence[int] | None = None) -> list[UpdateRun]:
    """The settings of a preset for each set of images and each seed."""
    return preset_runs(UpdateRun(), PRESETS, preset, seeds)


def _first(preset: str, seeds: Sequence[int] | None = None) -> list[UpdateRun]:
    """The same for the first set of images alone, where a table would take too long on all."""
    return _of_first_set(_bases(preset, seeds))


def _of_first_set(runs: list[UpdateRun]) -> list[UpdateRun]:
    return [run for run in runs if run.data == runs[0].data]


def _of_classes(preset: str, seeds: Sequence[int] | None, classes: Callable[[int], tuple]) -> Plan[UpdateRun]:
    """FCT with and without side-information where the versions learn so many of all classes."""
    runs = [replace(run, classes=classes(run.classes[-1])) for run in _first(preset, seeds)]
    return _changed(runs, WITHOUT | WITH)


def _changed(runs: Sequence[UpdateRun], changes: Mapping[str, Mapping[str, Any]]) -> Plan[UpdateRun]:
    """Each run with the changes that each row makes to it."""
    return [(row, replace(run, **change)) for run in runs for row, change in changes.items()]
