"""One run of paper A's third application: the extractor of a source task under the head of a target task (Sec. 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from compatkit import costs
from compatkit.applications import TUNING, log_steps, transfer
from compatkit.data import ImageSet
from compatkit.models import auxiliary_head
from compatkit.objectives import Pretext, Target
from compatkit.recombination import class_accuracy
from compatkit.training import Recipe, Task, freeze

from .checks import check_choices, check_filled, check_numbers
from .context import Context
from .networks import cut_network

TIMED_STEPS = 10
METHODS = ("RP", "RP+IIW", "IIW", "re-initialised head", "independent")


@dataclass(frozen=True)
class TransferRun:
    """A network on ``source``, one on ``target``, and the extractor of the first with the head of the second. The
    defaults are paper A's (Sec. 5.3, App. E).

    Attributes:
        third: the set on which the rotation head is trained that source and target are then trained with.
        source, target: names of image sets, see ``data.load``.
        method: "RP"; "RP+IIW", both from the same weights; "independent": each with a rotation head of its own; "IIW":
            that from the same weights; "re-initialised head": a new head on the source's extractor.
        network, width: see ``models.build``.
        split_at: see ``models.split``.
        n_train, n_test: images of each set, drawn evenly from all classes; None takes them all.
        test_batch_size: images in a batch at most when BN uses the statistics of test batches.
        epochs: of fine-tuning on the target.
        recipe: of the networks.
        tune_recipe: of fine-tuning; its steps follow from ``epochs``.
        seed: of weights, order and augmentation.
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
        check_choices(self, {"method": METHODS})
        check_numbers(self, epochs=1, width=1, n_train=1, n_test=1, test_batch_size=1)

    def __str__(self) -> str:
        return f"{self.source} to {self.target}, {self.method}, seed {self.seed}"


def check(config: TransferRun, context: Context) -> None:
    """Build everything that a run needs, and train nothing.

    Raises:
        ValueError: settings that cannot be run.
    """
    source, target = _sets(config, context)
    for image_set in (source, target):
        check_filled(image_set, config.n_train, config.n_test)
        cut_network(config.network, image_set, width=config.width, split_at=config.split_at, seed=config.seed)
    if "RP" in config.method:
        _third(config, source, context)


def run(config: TransferRun, context: Context) -> dict[str, float | list]:
    """Train what is needed, recombine, fine-tune on the target.

    Average class accuracies on the target's test images in 0..1: "own network": of the target's own; "direct": right
    after recombination. "steps" and "accuracy by step": the curve. "steps in an epoch"; "seconds per step" of
    fine-tuning.
    """
    source, target = _sets(config, context)
    seed, parts = 16 * config.seed, config.method.split("+")
    rotation_head = None
    if "RP" in parts:
        _, _, rotation_head = _trained(config, _third(config, source, context), seed, context)
        freeze(rotation_head)
    source_extractor, _, _ = _trained(config, source, seed + 2, context, rotation_head)
    start = seed + 2 if "IIW" in parts else None
    target_extractor, target_head, _ = _trained(config, target, seed + 6, context, rotation_head, start)
    head = target_head
    if config.method == "re-initialised head":
        head = auxiliary_head(head, len(target.classes), seed=seed + 12)

    def probe(extractor: nn.Module, head: nn.Module) -> dict[str, float]:
        return {"accuracy": class_accuracy(extractor, head, target, batch_size=config.test_batch_size)}

    per_epoch = len(target.train) // min(config.tune_recipe.batch_size, len(target.train))
    recipe = replace(config.tune_recipe, steps=config.epochs * per_epoch)
    _, history = context.apply(
        transfer,
        source_extractor,
        head,
        target,
        stage="tuning",
        label=f"{config}: fine-tuning",
        recipe=recipe,
        seed=seed + 13,
        probe=probe,
        probe_at=log_steps(recipe.steps, marks=range(per_epoch, recipe.steps, per_epoch)),
    )
    curve = {row["step"]: row["accuracy"] for row in history if "accuracy" in row}
    few = replace(recipe, steps=TIMED_STEPS)
    timed = costs.seconds(lambda: transfer(source_extractor, head, target, recipe=few, show_progress=False))
    return {
        "own network": probe(target_extractor, target_head)["accuracy"],
        "direct": curve[0],
        "steps": list(curve),
        "accuracy by step": list(curve.values()),
        "steps in an epoch": float(per_epoch),
        "seconds per step": timed / TIMED_STEPS,
    }


def _sets(config: TransferRun, context: Context) -> tuple[ImageSet, ImageSet]:
    """Source and target, with the source's number of channels."""
    source = context.load(config.source)
    target = context.load(config.target).with_channels(source.train.images.shape[1])
    source, target = (s.limit(config.n_train, config.n_test).to(context.device) for s in (source, target))
    return source, target


def _third(config: TransferRun, source: ImageSet, context: Context) -> ImageSet:
    """The set of the rotation head, with the source's number of channels."""
    channels = source.train.images.shape[1]
    return context.load(config.third).with_channels(channels).limit(config.n_train).to(context.device)


def _trained(
    config: TransferRun,
    image_set: ImageSet,
    seed: int,
    context: Context,
    rotation_head: nn.Sequential | None = None,
    start: int | None = None,
) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """Extractor, head and rotation head, trained on the classes of a set and on rotation, with this rotation head or
    one of its own. start: the seed of another network, from whose initial weights this one starts; its images come in
    an order of its own all the same."""
    shape = {"width": config.width, "split_at": config.split_at}
    extractor, head = cut_network(config.network, image_set, seed=seed if start is None else start, **shape)
    if rotation_head is None:
        rotation_head = auxiliary_head(head, 4, seed=seed + 1)
    task = Task(image_set, extractor, [Target(head), Pretext(rotation_head)], seed + 2)
    context.train_once([task], config.recipe, f"{config.method}: {image_set.name}, seed {config.seed}")
    return extractor, head, rotation_head
