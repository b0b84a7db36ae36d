"""One run of paper A's first application: a classifier of the source, adapted to a target without labels (Sec. 5.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..applications import ADAPTATION, adapt, log_steps
from ..data import ImageSet, Split, common_classes, load
from ..models import auxiliary_head
from ..objectives import Pretext, pretext_of
from ..recombination import class_accuracy
from ..training import Recipe, Task, train_once
from .networks import cut_network

SOURCE = Recipe(
    steps=70_000, batch_size=64, optimizer="sgd", lr=0.01, weight_decay=5e-4, decay_every=20_000, crop=4, flip=True
)
"""App. E. Its last rate is 1e-5, that of adaptation, so that its first one is 0.01; mirroring and crops are ours."""


DIRECTIONS = ("a to b", "b to a")


@dataclass(frozen=True)
class AdaptationRun:
    """A network that learns the classes of one set and a pretext, adapted to another set through the pretext alone. The
    defaults are paper A's (Sec. 5.1, App. E); where it is split the paper does not say.

    direction: "a to b" or "b to a". left_out: common classes that are left out, training included. third: a set on
    which the pretext's head is trained first; "" for none. pretext: a key of ``objectives.PRETEXTS``. network, width:
    see ``models.build``. split_at: see ``models.split``. n_train, n_test: images of each set, drawn evenly from all
    classes; None takes them all. test_batch_size: images in a batch at most when BN uses the statistics of test
    batches. recipe: of the third set and of the source. adapt_recipe: of adaptation.
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
        pretext_of(self.pretext)  # for its check
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction: must be one of {DIRECTIONS}, got {self.direction!r}")

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


def run(
    config: AdaptationRun,
    *,
    device: torch.device | str = "cpu",
    checkpoints: Path | None = None,
    shared: Path | None = None,
    show_progress: bool = True,
) -> dict[str, float | list]:
    """Train on the source, adapt to the target, measure.

    "target: R" and "source: R" are average class accuracies in 0..1, on the classes that both sets have, for the rows
    of Table 1: "source model" (BN as training left it), "with test BN", "adapted" (with test BN); beyond it "adapted,
    running statistics" and "adapted, head moves". "pretext on target: ..." is how often the pretext is solved there.
    "steps" and, at each of them, "target by step", "source by step", "pretext by step", and the same "head moves".

    checkpoints: the folder of this run, from which it goes on if an earlier attempt left any. shared: folder of weights
    that several runs need.
    """
    source, target = _sets(config, device)
    puzzles = _puzzles(target, pretext_of(config.pretext))
    task = _source_model(config, source, shared, show_progress)
    batches = {"batch_size": config.test_batch_size}

    def accuracies(extractor: nn.Module, statistics: str = "batch") -> dict[str, float]:
        return {
            role: class_accuracy(extractor, task.head, image_set, statistics=statistics, **batches)
            for role, image_set in (("target", target), ("source", source))
        }

    def probe(extractor: nn.Module, rotation_head: nn.Module) -> dict[str, float]:
        return accuracies(extractor) | {"pretext": class_accuracy(extractor, rotation_head, puzzles, **batches)}

    found = {f"{role}: source model": value for role, value in accuracies(task.extractor, "running").items()}
    for kind, head_moves in {"": False, ", head moves": True}.items():
        extractor, history = adapt(
            task.extractor,
            task.rotation_head,
            target.train.images,
            recipe=config.adapt_recipe,
            pretext=config.pretext,
            head_moves=head_moves,
            seed=task.seed,
            probe=probe,
            probe_at=log_steps(config.adapt_recipe.steps),
            checkpoint=None if checkpoints is None else checkpoints / f"adaptation{kind}.pt",
            label=f"{config}: adaptation{kind}",
            show_progress=show_progress,
        )
        curve = [row for row in history if "target" in row and "task" not in row]
        found |= {f"{name} by step{kind}": [row[name] for row in curve] for name in ("target", "source", "pretext")}
        for name in ("target", "source"):
            found |= {f"{name}: with test BN": curve[0][name], f"{name}: adapted{kind}": curve[-1][name]}
        if not head_moves:
            running = accuracies(extractor, "running")
            found |= {f"{role}: adapted, running statistics": value for role, value in running.items()}
            found |= {"pretext on target: with test BN": curve[0]["pretext"]}
            found |= {"pretext on target: adapted": curve[-1]["pretext"]}
    return found | {"steps": log_steps(config.adapt_recipe.steps), "chance": 1 / len(source.classes)}


def _sets(config: AdaptationRun, device: torch.device | str) -> tuple[ImageSet, ImageSet]:
    """Source and target with the classes that both have, in one order."""
    sets = [load(name) for name in (config.source, config.target)]
    # in an order of names, so that either set is the same in both directions
    common = sorted(common_classes(*sets, leave_out=config.left_out))
    return tuple(s.subset(common).limit(config.n_train, config.n_test).to(device) for s in sets)


def _puzzles(image_set: ImageSet, pretext: Pretext) -> ImageSet:
    """The test images, each in one variant, which is its label."""
    images = image_set.test.images
    drawn = torch.randint(pretext.variants, (len(images),), generator=torch.Generator().manual_seed(0))
    variants = drawn.to(images.device)
    shown = Split(pretext.show(images, variants), variants)
    return ImageSet(image_set.name, image_set.train, shown, tuple(map(str, range(pretext.variants))))


def _source_model(config: AdaptationRun, source: ImageSet, shared: Path | None, show_progress: bool) -> Task:
    """Extractor, head and pretext head, trained together on the source; the last one first on the third set."""
    seed = 16 * config.seed
    shape = {"width": config.width, "split_at": config.split_at}
    extractor, head = cut_network(config.network, source, seed=seed, **shape)
    rotation_head = auxiliary_head(head, pretext_of(config.pretext).variants, seed=seed + 1)
    if config.third:
        channels = source.train.images.shape[1]
        third = load(config.third).with_channels(channels).limit(config.n_train).to(source.device)
        teacher, _ = cut_network(config.network, third, seed=seed + 2, **shape)
        lesson = Task(third, teacher, rotation_head=rotation_head, pretext=config.pretext, seed=seed + 3)
        label = f"{config.pretext} on {config.third}, seed {config.seed}"
        train_once([lesson], config.recipe, shared, label=label, show_progress=show_progress)
    task = Task(source, extractor, head, rotation_head=rotation_head, pretext=config.pretext, seed=seed + 4)
    label = f"{config.source} with {config.pretext}, seed {config.seed}"
    train_once([task], config.recipe, shared, label=label, show_progress=show_progress)
    return task
