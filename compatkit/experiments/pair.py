"""One run of paper A's analysis: train two networks so that they may be compatible, recombine them, measure (Sec.
4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..data import ImageSet, class_index, common_classes, load
from ..models import auxiliary_head, build, split
from ..objectives import identical_initial_weights
from ..recombination import accuracy, all_logits, output_index
from ..training import Recipe, Task, freeze, train

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


@dataclass(frozen=True)
class PairRun:
    """Two networks, on the sets ``a`` and ``b``, made compatible by ``method``. The defaults are paper A's (Sec. 4,
    App. E).

    left_out: common classes that are treated as if they were not shared.
    method: a key of ``METHODS``. scheme: "joint", or "incremental" (``a`` first, then ``b`` with the heads frozen).
    network, width: see ``models.build``. split_at: see ``models.split``.
    n_train, n_test: images of each set, drawn evenly from all classes; None takes them all.
    test_batch_size: images in a batch at most when BN uses the statistics of test batches.
    """

    a: str = "cifar10"
    b: str = "stl10"
    left_out: tuple[str, ...] = ()
    method: str = "independent"
    scheme: str = "joint"
    network: str = "resnet56"
    width: int = 16
    split_at: str = "stage2"
    n_train: int | None = None
    n_test: int | None = None
    test_batch_size: int = 512
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method: must be one of {list(METHODS)}, got {self.method!r}")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme: must be one of {SCHEMES}, got {self.scheme!r}")

    def __str__(self) -> str:
        return f"{self.a} x {self.b}, {self.method}, seed {self.seed}"


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


def prepare(config: PairRun, device: torch.device | str = "cpu") -> Pair:
    """Load the two sets and build the two networks with the auxiliary heads that ``config.method`` asks for.

    All methods of one seed start from the same weights and see the same batches, so that they can be compared in pairs.
    """
    sets = tuple(load(name).limit(config.n_train, config.n_test).to(device) for name in (config.a, config.b))
    common = common_classes(*sets, leave_out=config.left_out)
    parts = METHODS[config.method]
    seeds = iter(range(16 * config.seed, 16 * config.seed + 16))

    networks = [
        build(
            config.network,
            len(s.classes),
            seed=next(seeds),
            in_channels=s.train.images.shape[1],
            width=config.width,
        ).to(device)
        for s in sets
    ]
    stream_seeds = [next(seeds) for _ in sets]
    if "IIW" in parts:
        identical_initial_weights(*networks)
    cut = [split(network, config.split_at) for network in networks]
    template = cut[0][1]
    dcc_head = auxiliary_head(template, len(common), seed=next(seeds)).to(device)
    rotation_heads = [auxiliary_head(template, 4, seed=next(seeds)).to(device) for _ in sets]
    if "RP" in parts:
        rotation_heads[1] = rotation_heads[0]
    tasks = tuple(
        Task(
            image_set,
            extractor,
            head,
            dcc_head=dcc_head if "DCC" in parts else None,
            common_index=class_index(image_set.classes, common),
            rotation_head=rotation_head if {"RP", "own RP"} & set(parts) else None,
            seed=seed,
        )
        for image_set, (extractor, head), rotation_head, seed in zip(
            sets, cut, rotation_heads, stream_seeds, strict=True
        )
    )
    return Pair(sets, common, tasks)


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


def evaluate(pair: Pair, test_batch_size: int = 512) -> dict[str, float]:
    """All accuracies of a pair, in 0..1, as "measure/a" and "measure/b" for the two test sets and "measure/mean".

    "recombination": the extractor of the set with the other network's head, on the common classes (the other head's
    unshared outputs masked; "recombination, unmasked": any output may win). "not recombined": the extractor with its
    own head, on the common classes. "own task": likewise on all classes of the set. "chance/mean": guessing a common
    class.
    """
    scores = {}
    for i, (role, image_set) in enumerate(zip("ab", pair.sets, strict=True)):
        extractor, heads = pair.extractors[i], [pair.heads[i], pair.heads[1 - i]]
        own_outputs, other_outputs = (output_index(pair.sets[j].classes, pair.common) for j in (i, 1 - i))
        (own, other), labels = all_logits(extractor, heads, image_set, classes=pair.common, batch_size=test_batch_size)
        scores[f"recombination/{role}"] = accuracy(other, labels, other_outputs)
        scores[f"recombination, unmasked/{role}"] = accuracy(other, labels, other_outputs, masked=False)
        scores[f"not recombined/{role}"] = accuracy(own, labels, own_outputs)
        (whole,), labels = all_logits(extractor, heads[:1], image_set, batch_size=test_batch_size)
        scores[f"own task/{role}"] = accuracy(whole, labels, torch.arange(len(image_set.classes)))
    for measure in [key.removesuffix("/a") for key in scores if key.endswith("/a")]:
        scores[f"{measure}/mean"] = (scores[f"{measure}/a"] + scores[f"{measure}/b"]) / 2
    return dict(sorted(scores.items())) | {"chance/mean": 1 / len(pair.common)}


def run(
    config: PairRun,
    *,
    device: torch.device | str = "cpu",
    checkpoints: Path | None = None,
    show_progress: bool = True,
) -> dict[str, float]:
    """Prepare, train, evaluate. Resumes from ``checkpoints`` (a folder) if an earlier attempt left any."""
    pair = prepare(config, device)
    train_pair(pair, config, checkpoints, show_progress)
    return evaluate(pair, config.test_batch_size)
