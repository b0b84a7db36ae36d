"""The experiments of paper A (Gygli et al.): one function for each figure or table, from a preset to the runs it needs,
each with the row that it belongs to. Runs are named by what they are, so that figures share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from .presets import Plan, override, preset_runs
from .settings import PairRun

MANY = 8
"""Seeds at laptop of Figs. 2, 5, 6 and 10."""

FIG2 = ("independent", "IIW", "RP", "DCC", "IIW+RP", "IIW+DCC", "RP+DCC", "IIW+RP+DCC", "upper bound")
"""The settings of Fig. 2; in the upper bound each network has a rotation head of its own."""

EMBEDDED_PAIRS = (
    {"a": "digits", "b": "mnist5k", "left_out": ("9",)},
    {"a": "glyphs_plain", "b": "glyphs_cluttered"},
)
PHOTOGRAPHS = ({"a": "cifar10", "b": "stl10"},)
LAPTOP_RECIPE = {
    "recipe.steps": 300,
    "recipe.batch_size": 64,
    "recipe.schedule": "one-cycle",
    "recipe.rotations": "sampled",
    "recipe.precision": "fp32",
    "recipe.crop": 1,
}

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
        "seeds": tuple(range(5)),
        "network": "resnet8",
        **LAPTOP_RECIPE,
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
    "paper": {
        "pairs": PHOTOGRAPHS,
        "seeds": tuple(range(10)),
        "recipe.crop": 4,
        "recipe.flip": True,
        "similarity_images": None,
    },
}
CPU_SIZED = {
    "b": "tin10",
    "network": "resnet14",
    "width": 8,
    "recipe.steps": 1_500,
    "recipe.batch_size": 64,
    "recipe.rotations": "sampled",
    "recipe.crop": 2,
    "recipe.precision": "fp32",
    "recipe.channels_last": True,
}
"""What ``cifar-cpu`` changes in the cifar preset, for two CPU cores: a small network, and in place of STL-10 tin10, ten
classes of Tiny-ImageNet, 8 of them CIFAR-10's. Chosen on a tenth of CIFAR-10's training images, for 60 % on the own
task."""
PRESETS["cifar-cpu"] = PRESETS["cifar"] | CPU_SIZED | {"pairs": ({},)}


def _n_common(run: PairRun) -> int:
    """The number of classes that the sets of a run share: nine as in the paper, eight with tin10. Said here so that
    listing runs loads no images."""
    return 8 if "tin10" in (run.a, run.b) else 9


def fig2(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 2 (and Fig. 10, per data set): recombination accuracy of every method, both networks trained jointly.

    Published, mean over CIFAR-10 and STL-10, n = 10: independent 10.6, IIW 25.1, RP 50.1, DCC 65.8, all three 76.7,
    upper bound 85.6; own tasks under all three 86.3.
    """
    return _grid(preset, _seeds(preset, seeds, laptop=MANY))


def fig2_pretrained(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 2, right: the same from pre-trained weights, the same ones under IIW and different ones otherwise.

    Pre-training is rotation prediction alone, by Fig. 2's recipe, since the paper states none, on a third set: ILSVRC
    at 32x32, an image folder that the user names ``imagenet``; at cifar Tiny-ImageNet, which holds most
    test images of tin10, seen without labels then. At laptop scale on the glyphs alone, from glyphs of other
    characters: no set of handwriting is left to pre-train on.
    Published: RP 19.7, DCC 52.3, IIW 74.3, IIW+DCC 82.7.
    """
    third = {"smoke": "glyphs_other", "laptop": "glyphs_other", "paper": "imagefolder:imagenet"}
    found = [(row, replace(run, pretrained_on=third.get(preset, "tiny_imagenet"))) for row, run in _grid(preset, seeds)]
    return [(row, run) for row, run in found if run.a in ("glyphs_plain", "cifar10")]


def incremental(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Sec. 4, joint or incremental training: all three methods, the second network against frozen heads, both orders.

    Published: joint 76.7, incremental 72.7.
    """
    joint = _of(preset, seeds, "IIW+RP+DCC")
    first = [replace(run, scheme="incremental") for run in joint]
    both = [order for run in first for order in (run, replace(run, a=run.b, b=run.a))]
    return [*(("joint", run) for run in joint), *(("incremental", run) for run in both)]


NORMALIZATION_ROWS = {
    "batch": "BN",
    "layer": "LayerNorm",
    "instance": "InstanceNorm",
    "unit length": "L2-normalised features",
    "unit-length loss": "unit-norm loss",
}


def fig5(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 5: normalisation under IIW+DCC. Three ways to use BN, measured on the same networks; LayerNorm,
    InstanceNorm, features of unit length, a loss for unit length.

    Published: running statistics 32.4; recomputed and per-batch statistics best (bars only).
    """
    runs = _of(preset, _seeds(preset, seeds, laptop=MANY), "IIW+DCC")
    return [(row, replace(run, normalization=kind)) for run in runs for kind, row in NORMALIZATION_ROWS.items()]


def fig6(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 6: cross-correlation of the channels of both extractors, on both test sets.

    Published: independent under the optimal permutation 0.34, RP 0.38, DCC 0.19, IIW and IIW+DCC pre-trained 0.69.
    """
    seeds = _seeds(preset, seeds, laptop=MANY)
    random = [(run.method, run) for run in _of(preset, seeds, "independent", "IIW", "RP", "DCC", "IIW+DCC")]
    pretrained = [(f"{row} pre-trained", run) for row, run in fig2_pretrained(preset, seeds)]
    return random + [(row, run) for row, run in pretrained if run.method in ("IIW", "IIW+DCC")]


def fig7(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 7: every method with both networks trained on one and the same set, so that nothing but the draw of weights
    and batches keeps them apart.

    Published: any two or three methods together within 1.1 points of the upper bound, on CIFAR-10, n = 3.
    At laptop scale on the cluttered glyphs.
    """
    image_set = "glyphs_cluttered" if preset in ("smoke", "laptop") else "cifar10"
    usual = [(row, run) for row, run in _grid(preset, _seeds(preset, seeds, paper=3)) if image_set in (run.a, run.b)]
    return [(row, replace(run, a=image_set, b=image_set)) for row, run in usual]


def fig8(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 8: where to split, at every block boundary, IIW+RP and (beyond the paper) IIW+DCC.

    Published, n = 5, as a curve only: a slow fall up to the first block of stage 3, then a steep one.
    """
    runs = _of(preset, _seeds(preset, seeds, paper=5), "IIW+RP", "IIW+DCC")
    return [(block, replace(run, split_at=at)) for run in runs for block, at in _boundaries(run).items()]


def fig9(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 9: how many of the common classes the shared head of DCC learns, 2 .. all; IIW+DCC, against IIW+RP. Rows are
    named by how many it leaves out, since tin10 shares eight classes with CIFAR-10 where STL-10 shares nine.

    Published, n = 3: 8 about as good as 9, 6 or fewer at most 59.4, IIW+RP 61.8.
    """
    plan = []
    for run in _of(preset, _seeds(preset, seeds, paper=3), "IIW+RP", "IIW+DCC"):
        if run.method == "IIW+RP":
            plan.append(("IIW+RP", run))
            continue
        n = _n_common(run)
        plan += [("all classes", run)]
        plan += [(f"all but {LEFT_OUT[n - k - 1]}", replace(run, dcc_classes=k)) for k in range(2, n)]
    return plan


LEFT_OUT = ("one", "two", "three", "four", "five", "six", "seven")
"""How many of the common classes the shared head of DCC does not learn."""


def fig10(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Fig. 10: Fig. 2 for each of the two data sets, from the same runs. Published as bars only."""
    return fig2(preset, seeds)


# --- open choices -----------------------------------------------------------------------------------------------------

OUR_CHOICE = "our choice"


def choices(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """The paper's open choices: all four rotations or a sampled one; steps for each network or for both together.

    The other open choices (outputs that are not shared, size of test batches) are measured in every run.
    """
    found = [(OUR_CHOICE, run) for run in _of(preset, seeds, "IIW", "RP", "DCC", "IIW+RP", "IIW+RP+DCC")]
    for _, run in list(found):
        if run.method == "IIW+RP":
            other = "all" if run.recipe.rotations == "sampled" else "sampled"
            instead = {"all": "all four rotations, not a sampled one", "sampled": "a sampled rotation, not all four"}
            found.append((instead[other], override(run, {"recipe.rotations": other})))
        if run.method in ("IIW", "DCC", "IIW+RP+DCC"):
            half = override(run, {"recipe.steps": run.recipe.steps // 2})
            found.append(("half the steps: counted for both networks together", half))
    return found


# --- questions of our own ---------------------------------------------------------------------------------------------


def boundaries(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper, Fig. 8 for all methods that have heads to place: each at every block boundary, its auxiliary
    heads where it is split. Independent networks and IIW are measured at all boundaries in Fig. 2's runs.
    """
    runs = [run for _, run in _grid(preset, seeds) if {"RP", "DCC"} & set(run.method.split("+"))]
    return [
        (f"{run.method} at {block}", replace(run, split_at=at))
        for run in runs
        for block, at in _boundaries(run).items()
    ]


def numbering(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper: is a late split lost because late features differ, or because IIW copies rows of the classifier
    by number? Both networks number their classes alike, or with no class at the same number; split after stage 2 and
    after the last block.
    """
    runs = _of(preset, seeds, "IIW", "IIW+DCC")
    return [
        (f"{run.method}, {words}, {place}", replace(run, numbering=how, split_at=at))
        for run in runs
        for place, at in (("after stage 2", run.split_at), ("after the last block", list(_boundaries(run))[-1]))
        for how, words in (("as a", "same numbers"), ("shifted", "other numbers"))
    ]


def orientation(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper: does RP help as far as telling a rotation needs the class? A growing share of all images is
    turned at random, until upright is no more frequent than the rest and rotation cannot be told. On one pair of sets:
    at laptop scale the glyphs.
    """
    pair = "glyphs_plain" if preset in ("smoke", "laptop") else "cifar10"
    runs = [run for run in _of(preset, seeds, "independent", "RP", "DCC") if run.a == pair]
    return [
        (f"{run.method}, {share:.0%} turned", replace(run, turned=share))
        for run in runs
        for share in (0.0, 0.25, 0.5, 1.0)
    ]


def stitching(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper, which gives a correlation only: do independent networks recombine under the optimal permutation
    of channels, or after a 1 x 1 convolution fitted on a few images, and how many make up for DCC?
    """
    counts = (10, 30, 100, 300, 1000) if preset != "smoke" else (10, 30)
    runs = _of(preset, seeds, "independent", "IIW", "RP", "DCC")
    return [(run.method, replace(run, stitches=counts)) for run in runs]


def chance(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper: how much of a similarity is owed to width and number of samples alone, and can a stitch be
    fooled? Networks as in Fig. 2, trained again since its runs kept no weights, from seeds that no other run has. Each
    score is held against images that are paired at random; clustered noise is put before the heads.
    """
    again = range(20, 25) if seeds is None and preset == "laptop" else seeds
    return [(run.method, run) for run in _of(preset, again, "independent", "IIW", "RP", "DCC")]


OTHERS = ("alignment", "simplex", "relative")
"""What others would do, see ``runs.pair.PARTS``."""


def others(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper, what others would do: features aligned on the same images, which the paper sets itself apart
    from; DCC under a fixed simplex, which nobody trains; features as cosines to anchor images. Beside Fig. 2's runs of
    the same seeds.
    """
    known = _of(preset, seeds, "independent", "IIW", "RP", "DCC", "upper bound")
    new = [replace(run, method=method) for run in known if run.method == "independent" for method in OTHERS]
    return [(run.method, run) for run in [*known, *new]]


def weights(preset: str, seeds: Sequence[int] | None = None) -> Plan[PairRun]:
    """Beyond the paper, which weighs all losses alike: DCC and RP with a third and with three times the weight. On one
    pair of sets: at laptop scale the glyphs.
    """
    pair = "glyphs_plain" if preset in ("smoke", "laptop") else "cifar10"
    runs = [run for run in _of(preset, _seeds(preset, seeds, laptop=3), "RP", "DCC") if run.a == pair]
    return [
        (f"{run.method}, weight {weight:g}", run if weight == 1 else replace(run, weights=((run.method, weight),)))
        for run in runs
        for weight in (0.3, 1.0, 3.0)
    ]


def _bases(preset: str, seeds: Sequence[int] | None) -> list[PairRun]:
    """The settings of a preset for each pair of sets and each seed."""
    return preset_runs(PairRun(), PRESETS, preset, seeds)


def _seeds(preset: str, seeds: Sequence[int] | None, **counts: int) -> Sequence[int] | None:
    """``seeds`` if given, else as many as ``counts`` has for the preset, else None: the preset's own. The counts were
    published, or fixed before the runs."""
    return range(counts[preset]) if seeds is None and preset in counts else seeds


def _grid(preset: str, seeds: Sequence[int] | None) -> Plan[PairRun]:
    """Every method of Fig. 2 under the settings of a preset."""
    return list(_methods(preset, None if seeds is None else tuple(seeds)))


@cache  # half of all experiments begin with these runs
def _methods(preset: str, seeds: tuple[int, ...] | None) -> tuple[tuple[str, PairRun], ...]:
    return tuple((method, replace(base, method=method)) for base in _bases(preset, seeds) for method in FIG2)


def _of(preset: str, seeds: Sequence[int] | None, *methods: str) -> list[PairRun]:
    """The runs of the grid by these methods."""
    return [run for _, run in _grid(preset, seeds) if run.method in methods]


def _boundaries(run: PairRun) -> dict[str, str]:
    """The blocks after which a network can be split, and the setting for each. A stage's name where it ends, so that
    Fig. 2's runs are among them; not after pooling, which has no weights, so that it would be the split before it once
    more."""
    blocks = (int(run.network.removeprefix("resnet")) - 2) // 6  # of each of the three stages
    points = ["stem", *(f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in range(1, blocks + 1))]
    last = f"{run.split_at}_block{blocks}"
    return {name: run.split_at if name == last else name for name in points}
