"""One run of paper A's third application: the extractor of a source task under the head of a target task (Sec. 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .. import costs
from ..applications import TUNING, log_steps, transfer
from ..data import ImageSet, load
from ..models import auxiliary_head
from ..recombination import class_accuracy
from ..training import Recipe, Task, freeze, train_once
from .networks import cut_network

TIMED_STEPS = 10
METHODS = ("RP", "RP+IIW", "IIW", "re-initialised head", "independent")


@dataclass(frozen=True)
class TransferRun:
    """A network on ``source``, one on ``target``, and the extractor of the first with the head of the second. The
    defaults are paper A's (Sec. 5.3, App. E).

    third: the set on which the rotation head is trained that source and target are then trained with.
    method: "RP"; "RP+IIW", both from the same weights; "independent": each with a rotation head of its own; "IIW": that
    from the same weights; "re-initialised head": a new head on the source's extractor. network, width: see
    ``models.build``. split_at: see ``models.split``. n_train, n_test: images of each set, drawn evenly from all
    classes; None takes them all. test_batch_size: images in a batch at most when BN uses the statistics of test
    batches. epochs: of fine-tuning on the target. recipe: of the networks. tune_recipe: of fine-tuning; its steps
    follow from ``epochs``.
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
        if self.method not in METHODS:
            raise ValueError(f"method: must be one of {METHODS}, got {self.method!r}")
        if self.epochs < 1:
            raise ValueError(f"epochs: must be at least 1, got {self.epochs}")

    def __str__(self) -> str:
        return f"{self.source} to {self.target}, {self.method}, seed {self.seed}"


def run(
    config: TransferRun,
    *,
    device: torch.device | str = "cpu",
    checkpoints: Path | None = None,
    shared: Path | None = None,
    show_progress: bool = True,
) -> dict[str, float | list]:
    """Train what is needed, recombine, fine-tune on the target.

    Average class accuracies on the target's test images in 0..1: "own network": of the target's own; "direct": right
    after recombination. "steps" and "accuracy by step": the curve. "steps in an epoch"; "seconds per
    step" of fine-tuning.

    checkpoints: the folder of this run, from which it goes on if an earlier attempt left any. shared: folder of weights
    that several runs need.
    """
    source, target = _sets(config, device)
    seed, parts = 16 * config.seed, config.method.split("+")
    learn = partial(_train, config, shared=shared, show_progress=show_progress)
    rotation_head = None
    if "RP" in parts:
        third = load(config.third).with_channels(source.train.images.shape[1]).limit(config.n_train).to(device)
        rotation_head = freeze(learn(third, seed).rotation_head)
    source_task = learn(source, seed + 2, rotation_head)
    target_task = learn(target, seed + 6, rotation_head, start=seed + 2 if "IIW" in parts else None)
    head = target_task.head
    if config.method == "re-initialised head":
        head = auxiliary_head(head, len(target.classes), seed=seed + 12)

    def probe(extractor: nn.Module, head: nn.Module) -> dict[str, float]:
        return {"accuracy": class_accuracy(extractor, head, target, batch_size=config.test_batch_size)}

    per_epoch = len(target.train) // min(config.tune_recipe.batch_size, len(target.train))
    recipe = replace(config.tune_recipe, steps=config.epochs * per_epoch)
    _, history = transfer(
        source_task.extractor,
        head,
        target,
        recipe=recipe,
        seed=seed + 13,
        probe=probe,
        probe_at=log_steps(recipe.steps, marks=range(per_epoch, recipe.steps, per_epoch)),
        checkpoint=None if checkpoints is None else checkpoints / "tuning.pt",
        label=f"{config}: fine-tuning",
        show_progress=show_progress,
    )
    curve = {row["step"]: row["accuracy"] for row in history if "accuracy" in row}
    few = replace(recipe, steps=TIMED_STEPS)
    timed = costs.seconds(lambda: transfer(source_task.extractor, head, target, recipe=few, show_progress=False))
    return {
        "own network": probe(target_task.extractor, target_task.head)["accuracy"],
        "direct": curve[0],
        "steps": list(curve),
        "accuracy by step": list(curve.values()),
        "steps in an epoch": float(per_epoch),
        "seconds per step": timed / TIMED_STEPS,
    }


def _sets(config: TransferRun, device: torch.device | str) -> tuple[ImageSet, ImageSet]:
    """Source and target, with the source's number of channels."""
    source = load(config.source)
    channels = source.train.images.shape[1]
    both = (source, load(config.target).with_channels(channels))
    return tuple(s.limit(config.n_train, config.n_test).to(device) for s in both)


def _train(
    config: TransferRun,
    image_set: ImageSet,
    seed: int,
    rotation_head: nn.Module | None = None,
    *,
    start: int | None = None,
    shared: Path | None,
    show_progress: bool,
) -> Task:
    """A network on its classes and on rotation, with this rotation head or one of its own. start: the seed of another
    network, from whose initial weights this one starts; its images come in an order of its own all the same."""
    shape = {"width": config.width, "split_at": config.split_at}
    extractor, head = cut_network(config.network, image_set, seed=seed if start is None else start, **shape)
    if rotation_head is None:
        rotation_head = auxiliary_head(head, 4, seed=seed + 1)
    task = Task(image_set, extractor, head, rotation_head=rotation_head, seed=seed + 2)
    label = f"{config.method}: {image_set.name}, seed {config.seed}"
    train_once([task], config.recipe, shared, label=label, show_progress=show_progress)
    return task
