"""Settings of runs: a frozen dataclass for each kind of run, whose defaults are the papers'. Nothing here needs torch.

Everywhere ``a``, ``b``, ``data`` and the like name image sets (see ``images.load``); ``network`` and ``width`` are
those of ``models.build``, ``split_at`` of ``models.split``; ``n_train`` and ``n_test`` are images of each set, drawn
evenly from all classes, None for all; ``test_batch_size`` is the most images in a batch when BN uses the statistics of
test batches; ``seed`` is of weights, order and augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compatkit.recipes import ADAPTATION, TRANSFORMATION, TUNING, Recipe


def check_choices(config: Any, allowed: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for a setting that is none of the words ``allowed``."""
    for name, words in allowed.items():
        if getattr(config, name) not in words:
            raise ValueError(f"{name}: must be one of {tuple(words)}, got {getattr(config, name)!r}")


def check_numbers(config: Any, **least: int) -> None:
    """Raise ValueError for a number below its ``least``, or a negative seed; None is not judged."""
    for name, lowest in {"seed": 0, **least}.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise ValueError(f"{name}: must be at least {lowest}, got {value}")


# --- paper A: analysis ------------------------------------------------------------------------------------------------

SCHEMES = ("joint", "incremental")
NUMBERINGS = ("stored", "as a", "shifted")
NORMALIZATIONS = ("batch", "layer", "instance", "unit length", "unit-length loss")


CHANGES = (
    "weights",
    "scheme",
    "split_at",
    "dcc_classes",
    "normalization",
    "numbering",
    "turned",
    "stitches",
    "pretrained_on",
)
"""Settings that name a run where they are not at their defaults."""


@dataclass(frozen=True)
class PairRun:
    """Two networks, on the sets ``a`` and ``b``, made compatible by ``method``. The defaults are paper A's (Sec. 4,
    App. E).

    Attributes:
        left_out: common classes that are treated as if they were not shared.
        dcc_classes: how many of the common classes the shared head of DCC learns, the first of them; None means all.
        method: see ``runs.pair.parts_of``.
        weights: of losses that do not count once: parts of the method and numbers, such as (("DCC", 3.0),).
        scheme: "joint", or "incremental" (``a`` first, then ``b`` with the heads frozen).
        normalization: "batch"; "layer" or "instance" in its place; or BN and features made "unit length" or drawn to it
            by a "unit-length loss" (App. C.1).
        numbering: how ``b`` numbers its classes: as "stored"; "as a", where a class that both sets have has one number;
            or "shifted" against that, so that none has. Under IIW a number is a row of the classifier.
        turned: share of the images of both sets, training and test, that are turned by a random number of quarter
            turns, none included: at 1 upright is no more frequent than the rest.
        stitches: numbers of training images without labels on which, after training, a 1 x 1 convolution is fitted
            between the extractors, see ``alignment.stitch``; if there are any, the optimal permutation is measured as
            well.
        pretrained_on: a set on which the networks first learn rotation alone, by the same recipe; "" for random
            weights.
        test_batch_size: of images of the common classes alone where accuracy is measured: whether the unshared class
            was in the batches the paper does not say.
        similarity_images: test images at most on which features are compared; None takes them all, as in App. C.2.
    """

    a: str = "cifar10"
    b: str = "stl10"
    left_out: tuple[str, ...] = ()
    dcc_classes: int | None = None
    method: str = "independent"
    weights: tuple[tuple[str, float], ...] = ()
    scheme: str = "joint"
    network: str = "resnet56"
    width: int = 16
    split_at: str = "stage2"
    normalization: str = "batch"
    numbering: str = "stored"
    turned: float = 0.0
    stitches: tuple[int, ...] = ()
    pretrained_on: str = ""
    n_train: int | None = None
    n_test: int | None = None
    test_batch_size: int = 512
    similarity_images: int | None = 500
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    def __post_init__(self):
        check_choices(self, {"scheme": SCHEMES, "normalization": NORMALIZATIONS, "numbering": NUMBERINGS})
        if not 0 <= self.turned <= 1 or any(n < 5 for n in self.stitches):
            raise ValueError(f"turned, stitches: 0..1 and at least 5 images, got {self.turned} and {self.stitches}")
        if not all(isinstance(pair, tuple) and len(pair) == 2 and pair[1] > 0 for pair in self.weights):
            raise ValueError(f"weights: pairs of a part and a positive number, got {self.weights}")
        check_numbers(self, width=1, n_train=1, n_test=1, test_batch_size=1, similarity_images=1, dcc_classes=2)

    def __str__(self) -> str:
        changed = [f"{name} {value}" for name in CHANGES if (value := getattr(self, name)) != getattr(PairRun, name)]
        return ", ".join([f"{self.a} x {self.b}", self.method, *changed, f"seed {self.seed}"])


# --- paper A: applications --------------------------------------------------------------------------------------------

SOURCE = Recipe(
    steps=70_000, batch_size=64, optimizer="sgd", lr=0.01, weight_decay=5e-4, decay_every=20_000, crop=4, flip=True
)
"""App. E. Its last rate is 1e-5, that of adaptation, so that its first one is 0.01; mirroring and crops are ours."""


DIRECTIONS = ("a to b", "b to a")


@dataclass(frozen=True)
class AdaptationRun:
    """A network that learns the classes of one set and a pretext, adapted to another set through the pretext alone. The
    defaults are paper A's (Sec. 5.1, App. E); where it is split the paper does not say.

    Attributes:
        direction: "a to b" or "b to a".
        left_out: common classes that are left out, training included.
        third: a set on which the pretext's head is trained first; "" for none.
        pretext: a key of ``objectives.PRETEXTS``.
        recipe: of the third set and of the source.
        adapt_recipe: of adaptation.
    """

    a: str = "cifar10"
    b: str = "stl10"
    direction: str = "a to b"
    left_out: tuple[str, ...] = ()
    third: str = "imagefolder:imagenet"
    pretext: str = "rotation"
    network: str = "wrn28"
    width: int = 256
    split_at: str = "stage2"
    n_train: int | None = None
    n_test: int | None = None
    test_batch_size: int = 512
    recipe: Recipe = field(default_factory=lambda: SOURCE)
    adapt_recipe: Recipe = field(default_factory=lambda: ADAPTATION)
    seed: int = 0

    def __post_init__(self):
        check_choices(self, {"direction": DIRECTIONS})
        check_numbers(self, width=1, n_train=1, n_test=1, test_batch_size=1)

    @property
    def source(self) -> str:
        """The set with labels."""
        return self.a if self.direction == "a to b" else self.b

    @property
    def target(self) -> str:
        """The set without."""
        return self.b if self.direction == "a to b" else self.a

    def __str__(self) -> str:
        return f"{self.source} to {self.target}, {self.pretext}, rate {self.adapt_recipe.lr:g}, seed {self.seed}"


ARCHITECTURES = ("ResNet", "Wide ResNet", "MobileNetV2")
LEARNT_ROTATION = ("RP frozen", "RP, extractor frozen")
VARIANTS = (
    *("extractor frozen", *LEARNT_ROTATION, "independent"),
    *("upper bound", "upper bound, changed architecture"),
)
"""How the head is updated, and what that is compared with."""


@dataclass(frozen=True)
class ClassifierRun:
    """Three extractors under one head, which then learns more classes. The defaults are paper A's (Sec. 5.2, App. E);
    the width of the Wide ResNet, where ResNets are split and how long the head is tuned it does not say.

    Attributes:
        first_classes: how many classes there are at first.
        variant: "extractor frozen" (Sec. 5.2) or "RP frozen" (App. D) while the head is updated; between the two "RP,
            extractor frozen", whose extractors have learnt under a rotation head as well; "independent":
            extractors that were trained under heads of their own; "upper bound": each network trained on all classes,
            as it is or under the common head ("changed architecture").
        networks, widths, splits: of each of ``ARCHITECTURES``; the last one gives the head. MobileNetV2 is cut where it
            has the 64 channels of the paper, which is its 10th block and not, as printed, the 11th.
        recipe: of the first classes and the upper bounds.
        tune_recipe: of the updated head.
    """

    data: str = "cifar10"
    first_classes: int = 5
    variant: str = "extractor frozen"
    networks: tuple[str, ...] = ("resnet56", "resnet56", "mobilenetv2")
    widths: tuple[int, ...] = (16, 64, 32)
    splits: tuple[str, ...] = ("stage2", "stage2", "block10")
    n_train: int | None = None
    n_test: int | None = None
    test_batch_size: int = 512
    recipe: Recipe = field(default_factory=lambda: Recipe(crop=4, flip=True))
    tune_recipe: Recipe = field(default_factory=lambda: replace(TUNING, crop=4, flip=True))
    seed: int = 0

    def __post_init__(self):
        check_choices(self, {"variant": VARIANTS})
        check_numbers(self, first_classes=2, n_train=1, n_test=1, test_batch_size=1)
        sizes = (len(self.networks), len(self.widths), len(self.splits))
        if sizes != (len(ARCHITECTURES),) * 3:
            raise ValueError(f"networks, widths, splits: one for each of {ARCHITECTURES} is needed, got {sizes}")

    def __str__(self) -> str:
        return f"{self.data}, {self.variant}, seed {self.seed}"


TRANSFER_METHODS = ("RP", "RP+IIW", "IIW", "re-initialised head", "independent")


@dataclass(frozen=True)
class TransferRun:
    """A network on ``source``, one on ``target``, and the extractor of the first with the head of the second. The
    defaults are paper A's (Sec. 5.3, App. E).

    Attributes:
        third: the set on which the rotation head is trained that source and target are then trained with.
        method: "RP"; "RP+IIW", both from the same weights; "independent": each with a rotation head of its own; "IIW":
            that from the same weights; "re-initialised head": a new head on the source's extractor.
        epochs: of fine-tuning on the target, from which the steps of ``tune_recipe`` follow.
        recipe: of the networks.
    """

    third: str = "cifar100"
    source: str = "imagefolder:imagenet"
    target: str = "cifar10"
    method: str = "RP"
    network: str = "resnet56"
    width: int = 16
    split_at: str = "stage2"
    n_train: int | None = None
    n_test: int | None = None
    test_batch_size: int = 512
    epochs: int = 5
    recipe: Recipe = field(default_factory=lambda: Recipe(crop=4, flip=True))
    tune_recipe: Recipe = field(default_factory=lambda: replace(TUNING, schedule="constant", crop=4, flip=True))
    seed: int = 0

    def __post_init__(self):
        check_choices(self, {"method": TRANSFER_METHODS})
        check_numbers(self, epochs=1, width=1, n_train=1, n_test=1, test_batch_size=1)

    def __str__(self) -> str:
        return f"{self.source} to {self.target}, {self.method}, seed {self.seed}"


# --- paper B ----------------------------------------------------------------------------------------------------------

ATTRIBUTES = {"colour": 0, "shape": 1}  # words of the class names of ``shapes``
TASKS = ("class", *ATTRIBUTES)
UPDATE_METHODS = ("FCT", "BCT", "BCT, synthesised")
SIDES = (
    "none",
    "autoencoder",
    "other old model",
    "old model with Mixup",
    "SimCLR",
    "SimCLR on the new set",
    *ATTRIBUTES,
)
"""What can be stored beside an embedding (Sec. 5.1); a true attribute is known for ``shapes`` only."""
ORDERS = ("stored", "text", "shuffled")
LOSSES = ("softmax", "arcface")

IMAGENET = 1_281_167  # training images

SGD = Recipe(
    steps=round(100 * IMAGENET / 1024),
    batch_size=1024,
    optimizer="sgd",
    lr=1.024,
    momentum=0.875,
    weight_decay=2**-15,
    schedule="cosine",
    flip=True,
)
"""Of embedding models, recovered from the authors' public code: 100 epochs of ImageNet-1k, 5 of them warm-up. Images
are mirrored; that code takes crops of random size as well."""

H = replace(TRANSFORMATION, steps=round(80 * IMAGENET / 1024))
"""Of transformations, recovered from the same code: 80 epochs of ImageNet-1k."""


@dataclass(frozen=True)
class UpdateRun:
    """A model that is updated, and its gallery. The defaults are paper B's (Secs. 3.3 and 4.3), and where its text
    refers to an appendix, which was not at hand, those of the authors' public code.

    Attributes:
        data: the set whose test images are gallery and queries at once.
        image_size: side in pixels of the square to which an ``imagefolder:`` is scaled, whatever its images' shape.
        classes: how many classes each version of the model learns, the first of them; two or more versions.
        class_order: "stored"; "text": numbers of classes sorted as text, as in the authors' code for CIFAR-100; or
            "shuffled": by a hash of their names, the same for every seed.
        disjoint: the last version learns only classes that the one before it does not.
        held_out: the last so many classes are learnt by no version, and they alone are the gallery.
        evaluated_on: another set as the gallery.
        old_task: what the first version learns to tell apart, "class", or the "colour" or "shape" of ``shapes``.
        method: "FCT"; or "BCT" on the classes that the old classifier knows, or on all of them by a classifier that is
            "synthesised". BCT's new model starts from the random weights of the independent one and takes its recipe,
            and the old classifier's loss weighs 1. Paper B's text does not say how it trained BCT; this is how openBCT
            does, the first author's re-implementation of Shen et al. 2020, to which paper B refers.
        side: one of ``SIDES``.
        side_data: another set to train the side-information's model on.
        without_old: the transformation sees side-information alone.
        loss, scale, margin: see ``runs.encoders.ArcFace``; with "arcface" embeddings are scaled to length 1.
        old_network, old_width, old_dim: the embedder of all versions but the last, see ``runs.embedders.embedder``.
        new_network, new_width, new_dim: of the last.
        side_dim: width of the side-information.
        h_width: of the transformation's mixer.
        pairs: images of the last version that the transformation and the closed forms are fitted on, drawn evenly from
            its classes; None takes all. Fewer of them take as many steps.
        recipe, side_recipe, h_recipe: how embedders, side-information models and transformations are trained. Their
            steps are those for the training images of all classes of ``data``: what learns from fewer images, or from
            others, takes as many epochs of its own.
    """

    data: str = "imagefolder:imagenet"
    image_size: int | None = None
    n_train: int | None = None
    n_test: int | None = None
    classes: tuple[int, ...] = (500, 1000)
    class_order: str = "stored"
    disjoint: bool = False
    held_out: int = 0
    evaluated_on: str = ""
    old_task: str = "class"
    method: str = "FCT"
    side: str = "SimCLR"
    side_data: str = ""
    without_old: bool = False
    loss: str = "softmax"
    scale: float = 64.0
    margin: float = 0.5
    old_network: str = "torchvision:resnet50"
    old_width: int = 16
    old_dim: int = 128
    new_network: str = "torchvision:resnet50"
    new_width: int = 16
    new_dim: int = 128
    side_dim: int = 128
    h_width: int = 2048
    pairs: int | None = None
    recipe: Recipe = SGD
    side_recipe: Recipe = SGD
    h_recipe: Recipe = H
    seed: int = 0

    def __post_init__(self):
        words = {"class_order": ORDERS, "old_task": TASKS, "method": UPDATE_METHODS, "side": SIDES, "loss": LOSSES}
        check_choices(self, words)
        sizes = dict.fromkeys(("old_width", "old_dim", "new_width", "new_dim", "side_dim", "h_width"), 1)
        check_numbers(self, image_size=1, n_train=1, n_test=1, held_out=0, pairs=2, **sizes)
        if len(self.classes) < 2 or min(self.classes) < 2:
            raise ValueError(f"classes: two versions or more of two classes or more are needed, got {self.classes}")
        if self.disjoint and self.classes[-1] - self.classes[-2] < 2:
            raise ValueError(
                f"disjoint: the last version must learn two classes or more of its own, got {self.classes}"
            )
        if self.side in ATTRIBUTES and (self.disjoint or self.held_out or self.evaluated_on):
            raise ValueError(
                f"side: {self.side} is known of classes that the last version learns, and the gallery has others where "
                "disjoint, held_out or evaluated_on is set"
            )
        if self.method != "FCT" and len(self.classes) > 2:
            raise ValueError(f"classes: BCT is run for two versions, got {self.classes}")

    def __str__(self) -> str:
        names = (
            "class_order",
            "old_task",
            "disjoint",
            "held_out",
            "evaluated_on",
            "side_data",
            "without_old",
            "loss",
            "pairs",
        )
        changed = [f"{name} {value}" for name in names if (value := getattr(self, name)) != getattr(UpdateRun, name)]
        sizes = f"{self.old_network}-{self.old_width}-{self.old_dim} h {self.h_width}"
        update = " to ".join(map(str, self.classes))
        return ", ".join([f"{self.data} {update}", self.method, self.side, *changed, sizes, f"seed {self.seed}"])


SMALL_H = replace(TRANSFORMATION, steps=1_600, batch_size=256, lr=1e-3)
"""80 epochs of 5 000 pairs."""


@dataclass(frozen=True)
class ModelsRun:
    """A gallery carried between models that others trained.

    Attributes:
        data: what is embedded: "cifar100", "glosses" of WordNet, or "planted" numbers.
        old, new: models, see ``real_models``.
        side: what is stored beside old embeddings: "none"; another model of the same data; or, of images, an "inner
            layer" of the old model, a "mirrored view" by it, a "thumbnail"; of texts a "sketch" of hashed words.
        side_bytes: at most, an item.
        pool: items that are embedded, of which each seed draws its own.
        fitted: pairs of embeddings that maps are fitted on.
        gallery: items that are carried, and searched with.
        maps: "ridge" alone; "closed forms", and a cascade; "all", with a transformation whose mixer has ``h_width``
            and which learns by ``recipe``; or "further": lambda-orthogonal, and a gallery that is half embedded anew.
        seed: of the items and of h.
    """

    data: str = "cifar100"
    old: str = "lite0@64"
    new: str = "lite2@112"
    side: str = "none"
    side_bytes: int = 256
    pool: int = 20_000
    fitted: int = 5_000
    gallery: int = 3_000
    maps: str = "closed forms"
    h_width: int = 512
    recipe: Recipe = SMALL_H
    seed: int = 0

    def __post_init__(self):
        check_choices(
            self, {"data": ("cifar100", "glosses", "planted"), "maps": ("ridge", "closed forms", "all", "further")}
        )
        check_numbers(self, side_bytes=1, fitted=10, gallery=20, h_width=1)
        if self.pool < self.fitted + self.gallery:
            raise ValueError(
                f"pool: must be at least {self.fitted + self.gallery}, fitted and gallery, got {self.pool}"
            )

    def __str__(self) -> str:
        beside = "" if self.side == "none" else f", {self.side_bytes} bytes of {self.side}"
        h = f", h {self.h_width}" if self.maps == "all" else ""
        items = f"{self.fitted} pairs and {self.gallery} of {self.data}"
        return f"{items}, {self.old} to {self.new}{beside}{h}, seed {self.seed}"


@dataclass(frozen=True)
class AdviceRun:
    """The advice of gallerykit on a change of model, held against items that it has not seen.

    Attributes:
        asked: for "advice"; or whether two models lie in one store, of planted "mixtures".
        data: as for ``ModelsRun``, or "words".
        old, new, pool, fitted, gallery: as for ``ModelsRun``; a fifth of the pairs is held out, as the tool does.
        steps: of the training of residual.
        seed: of the items, of what is held out, and of residual.
    """

    asked: str = "advice"
    data: str = "cifar100"
    old: str = "lite0@64"
    new: str = "lite2@112"
    pool: int = 20_000
    fitted: int = 5_000
    gallery: int = 3_000
    steps: int = 300
    seed: int = 0

    def __post_init__(self):
        check_choices(self, {"asked": ("advice", "mixtures")})
        check_numbers(self, fitted=100, gallery=20, steps=1)

    def __str__(self) -> str:
        return f"{self.asked}, {self.fitted} pairs of {self.data}, {self.old} to {self.new}, seed {self.seed}"


KINDS = (PairRun, AdaptationRun, ClassifierRun, TransferRun, UpdateRun, ModelsRun, AdviceRun)


def networks(config: object) -> frozenset:
    """The networks that a run trains and measures, each by the settings that it follows from. Two runs that have one in
    common measure the same network."""
    if isinstance(config, UpdateRun):
        return frozenset(_versions(config))
    if isinstance(config, TransferRun) and config.method == "re-initialised head":
        return frozenset([replace(config, method="independent")])  # whose extractor it is
    if isinstance(config, ModelsRun):
        return frozenset([replace(config, maps="ridge")])  # the same models on the same items
    return frozenset([config])


def _versions(run: UpdateRun) -> list[tuple]:
    """The embedding models of an update; under BCT the last one is its own."""
    learnt = (run.data, run.image_size, run.n_train, run.class_order, run.loss, run.scale, run.margin, run.recipe)
    old, new = (run.old_network, run.old_width, run.old_dim), (run.new_network, run.new_width, run.new_dim)
    last = len(run.classes) - 1
    found = []
    for version, count in enumerate(run.classes):
        shape = new if version == last else old
        task = run.old_task if version == 0 else run.disjoint and version == last
        own = run if version == last and run.method != "FCT" else None
        found.append((learnt, shape, count, task, own, run.seed))
    return found
