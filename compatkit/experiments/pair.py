"""One run of paper A's analysis: train two networks so that they may be compatible, recombine them, measure (Sec.
4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..data import ImageSet, class_index, common_classes, load
from ..models import auxiliary_head, build, split
from ..normalization import REPLACEMENTS, UnitLength, replace_batch_norm
from ..objectives import identical_initial_weights
from ..training import Recipe, Task, freeze, train, train_once
from .measures import measure

METHODS: dict[str, tuple[str, ...]] = {
    "independent": (),
    "IIW": ("IIW",),
    "RP": ("RP",),
    "DCC": ("DCC",),
    "IIW+RP": ("IIW", "RP"),
    "IIW+DCC": ("IIW", "DCC"),
    "RP+DCC": ("RP", "DCC"),
    "IIW+RP+DCC": ("IIW", "RP", "DCC"),
    "upper bound": ("own RP",),
}
"""Fig. 2's settings and what each is made of; in the upper bound each network has a rotation head of its own."""

SCHEMES = ("joint", "incremental")
NORMALIZATIONS = ("batch", *REPLACEMENTS, "unit length", "unit-length loss")


@dataclass(frozen=True)
class PairRun:
    """Two networks, on the sets ``a`` and ``b``, made compatible by ``method``. The defaults are paper A's (Sec. 4,
    App. E).

    left_out: common classes that are treated as if they were not shared.
    dcc_classes: how many of the common classes the shared head of DCC learns, the first of them; None means all.
    method: a key of ``METHODS``. scheme: "joint", or "incremental" (``a`` first, then ``b`` with the heads frozen).
    network, width: see ``models.build``. split_at: see ``models.split``.
    normalization: "batch"; "layer" or "instance" in its place; or BN and features made "unit length" or drawn to it by
    a "unit-length loss" (App. C.1).
    pretrained_on: a set on which the networks first learn rotation alone, by the same recipe; "" for random weights.
    n_train, n_test: images of each set, drawn evenly from all classes; None takes them all.
    test_batch_size: images in a batch at most when BN uses the statistics of test batches.
    """

    a: str = "cifar10"
    b: str = "stl10"
    left_out: tuple[str, ...] = ()
    dcc_classes: int | None = None
    method: str = "independent"
    scheme: str = "joint"
    network: str = "resnet56"
    width: int = 16
    split_at: str = "stage2"
    normalization: str = "batch"
    pretrained_on: str = ""
    n_train: int | None = None
    n_test: int | None = None
    test_batch_size: int = 512
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    def __post_init__(self):
        choices = {"method": tuple(METHODS), "scheme": SCHEMES, "normalization": NORMALIZATIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: must be one of {allowed}, got {getattr(self, name)!r}")
        if self.dcc_classes is not None and self.dcc_classes < 2:
            raise ValueError(f"dcc_classes: at least 2 are needed to tell apart, got {self.dcc_classes}")

    def __str__(self) -> str:
        changed = [
            f"{name} {value}"
            for name in ("scheme", "split_at", "dcc_classes", "normalization", "pretrained_on")
            if (value := getattr(self, name)) != getattr(PairRun, name)
        ]
        return ", ".join([f"{self.a} x {self.b}", self.method, *changed, f"seed {self.seed}"])


@dataclass
class Pair:
    """Two networks in parts, ready to be trained and recombined: tasks[i] trains extractors[i] and heads[i] on
    sets[i]."""

    sets: tuple[ImageSet, ImageSet]
    common: tuple[str, ...]
    tasks: tuple[Task, Task]

    @property
    def extractors(self) -> list[nn.Module]:
        return [task.extractor for task in self.tasks]

    @property
    def heads(self) -> list[nn.Module]:
        return [task.head for task in self.tasks]


def prepare(
    config: PairRun, device: torch.device | str = "cpu", shared: Path | None = None, show_progress: bool = False
) -> Pair:
    """Load the two sets and build the two networks with the auxiliary heads that ``config.method`` asks for.

    All methods of one seed start from the same weights and see the same batches, so that they can be compared in pairs.
    shared: folder of pre-trained weights, which are made only once for all runs that start from them.
    """
    sets = tuple(load(name).limit(config.n_train, config.n_test).to(device) for name in (config.a, config.b))
    common = common_classes(*sets, leave_out=config.left_out)
    dcc_classes = common[: config.dcc_classes]
    if len(dcc_classes) < (config.dcc_classes or 0):
        raise ValueError(f"dcc_classes: {config.a} and {config.b} share {len(common)}, got {config.dcc_classes}")
    parts = METHODS[config.method]
    seeds = iter(range(16 * config.seed, 16 * config.seed + 16))

    network_seeds = [next(seeds) for _ in sets]
    networks = [_network(config, s, seed).to(device) for s, seed in zip(sets, network_seeds, strict=True)]
    stream_seeds = [next(seeds) for _ in sets]
    if config.pretrained_on:
        # with identical weights the second network takes those of the first
        for network, seed in list(zip(networks, network_seeds, strict=True))[: 1 if "IIW" in parts else 2]:
            _pretrain(network, config, seed, device, shared, show_progress)
    if "IIW" in parts:
        identical_initial_weights(*networks)
    cut = [split(network, config.split_at) for network in networks]
    if config.normalization == "unit length":
        for extractor, _ in cut:
            extractor.add_module("unit_length", UnitLength())
    template = cut[0][1]
    dcc_head = auxiliary_head(template, len(dcc_classes), seed=next(seeds)).to(device)
    rotation_heads = [auxiliary_head(template, 4, seed=next(seeds)).to(device) for _ in sets]
    if "RP" in parts:
        rotation_heads[1] = rotation_heads[0]
    tasks = tuple(
        Task(
            image_set,
            extractor,
            head,
            dcc_head=dcc_head if "DCC" in parts else None,
            common_index=class_index(image_set.classes, dcc_classes),
            rotation_head=rotation_head if {"RP", "own RP"} & set(parts) else None,
            unit_length=config.normalization == "unit-length loss",
            seed=seed,
        )
        for image_set, (extractor, head), rotation_head, seed in zip(
            sets, cut, rotation_heads, stream_seeds, strict=True
        )
    )
    return Pair(sets, common, tasks)


def _network(config: PairRun, image_set: ImageSet, seed: int) -> nn.Sequential:
    channels = image_set.train.images.shape[1]
    network = build(config.network, len(image_set.classes), seed=seed, in_channels=channels, width=config.width)
    return replace_batch_norm(network, config.normalization) if config.normalization in REPLACEMENTS else network


def _pretrain(
    network: nn.Sequential, config: PairRun, seed: int, device: torch.device | str, shared: Path | None, progress: bool
) -> None:
    """Train ``network`` in place by rotation prediction alone (Sec. 4); its classifier stays as it was drawn.

    The rotation head has the shape of the target head, which then starts from all of it but the last layer.
    """
    channels = next(network.parameters()).shape[1]
    image_set = load(config.pretrained_on).with_channels(channels).limit(config.n_train).to(device)
    extractor, head = split(network, config.split_at)
    rotation_head = auxiliary_head(head, 4, seed=seed).to(device)
    task = Task(image_set, extractor, rotation_head=rotation_head, seed=seed)
    label = f"pre-training on {config.pretrained_on}, seed {seed}"
    train_once([task], config.recipe, shared, label=label, show_progress=progress)
    head[:-1].load_state_dict(rotation_head[:-1].state_dict())


def train_pair(pair: Pair, config: PairRun, checkpoints: Path | None = None, show_progress: bool = True) -> list[dict]:
    """Train both networks in place, jointly or one after the other; returns the history of the losses."""

    def run(tasks, stage: str) -> list[dict]:
        file = None if checkpoints is None else checkpoints / f"{stage}.pt"
        return train(tasks, config.recipe, checkpoint=file, label=f"{config}: {stage}", show_progress=show_progress)

    if config.scheme == "joint":
        return run(pair.tasks, "joint training")
    first, second = pair.tasks
    history = run([first], "first network")
    for head in (second.dcc_head, second.rotation_head):
        if head is not None and head in (first.dcc_head, first.rotation_head):
            freeze(head)
    return history + [row | {"task": 1} for row in run([second], "second network")]


def run(
    config: PairRun,
    *,
    device: torch.device | str = "cpu",
    checkpoints: Path | None = None,
    shared: Path | None = None,
    show_progress: bool = True,
) -> dict[str, float | list]:
    """Prepare, train, evaluate.

    checkpoints: the folder of this run, from which it goes on if an earlier attempt left any. shared: see ``prepare``.
    """
    pair = prepare(config, device, shared, show_progress)
    train_pair(pair, config, checkpoints, show_progress)
    return evaluate(pair, config.test_batch_size)


def evaluate(pair: Pair, test_batch_size: int = 512) -> dict[str, float | list]:
    """All measures of a pair of networks, see ``measures``."""
    return measure(pair.extractors, pair.heads, pair.sets, pair.common, test_batch_size)
