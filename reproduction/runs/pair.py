"""One run of paper A's analysis: train two networks so that they may be compatible, recombine them, measure (Sec.
4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from compatkit import objectives
from compatkit.batches import rotate
from compatkit.devices import seeded_generator
from compatkit.image_files import shrink
from compatkit.images import ImageSet, Split, class_index, common_classes, with_equal_channels
from compatkit.inspection import sized_layers
from compatkit.models import auxiliary_head, build, split
from compatkit.normalization import REPLACEMENTS, UnitLength, replace_batch_norm
from compatkit.objectives import DCC, Pretext, Target, Term, identical_initial_weights
from compatkit.training import Task, freeze

from ..experiments.settings import PairRun
from .context import Context, check_enough, check_filled
from .measures import Probe, measure, probes
from .representations import Alignment, Relative, SimplexHead


@dataclass
class Networks:
    """Two networks, cut, to which the parts of a method are added.

    Attributes:
        sets, extractors, heads: of each network.
        learnt: the common classes that a shared head is to learn.
        first_seed: the first of the run's 16; 0 to 3 are of networks and streams.
    """

    sets: list[ImageSet]
    extractors: list[nn.Sequential]
    heads: list[nn.Sequential]
    learnt: Sequence[str]
    first_seed: int

    def auxiliary(self, outputs: int, seed: int) -> nn.Sequential:
        """A head of the shape of the first target head, with weights from one of the run's seeds."""
        device = self.sets[0].device
        return auxiliary_head(self.heads[0], outputs, seed=self.first_seed + seed).to(device)

    @property
    def channels(self) -> int:
        """The channels of the features where the networks are cut."""
        return sized_layers(self.heads[0])[0][1]

    def dcc(self, head: nn.Module) -> list[Term]:
        """DCC of both networks under one head."""
        return [DCC(head, class_index(s.classes, self.learnt)) for s in self.sets]

    def simplex(self) -> list[Term]:
        """DCC of both networks under a head that nobody trains."""
        return self.dcc(SimplexHead(self.channels, len(self.learnt), seed=self.first_seed + 4))

    def aligned(self) -> list[Term]:
        """Each network drawn to the other one's features on its own images."""
        a, b = self.extractors
        return [Alignment(b), Alignment(a)]

    def relative(self) -> list[Term]:
        """The features of both as cosines to those of anchors, as many as there are channels, so that the heads stay as
        they are: half of them training images of either set, evenly from the common classes, in each network's size."""
        halves = self.channels - self.channels // 2, self.channels // 2
        drawn = [s.subset(self.learnt).limit(n).train.images for s, n in zip(self.sets, halves, strict=True)]
        for image_set, extractor in zip(self.sets, self.extractors, strict=True):
            size = image_set.train.images.shape[2:]
            anchors = torch.cat([images if images.shape[2:] == size else shrink(images, size) for images in drawn])
            extractor.add_module("relative", Relative(extractor, image_set.normalise(anchors)))
        return []


PARTS: dict[str, Callable[[Networks], Sequence[Term]]] = {
    "DCC": lambda networks: networks.dcc(networks.auxiliary(len(networks.learnt), seed=4)),
    "RP": lambda networks: [Pretext(networks.auxiliary(4, seed=5))] * 2,
    "own RP": lambda networks: [Pretext(networks.auxiliary(4, seed=5 + i)) for i in range(2)],
    "simplex": Networks.simplex,
    "alignment": Networks.aligned,
    "relative": Networks.relative,
}
"""What a method can be made of, beside IIW: a function that gives the term of each network."""


def parts_of(method: str) -> tuple[str, ...]:
    """The parts of a method: "independent" of nothing, the "upper bound" of a rotation head for each network, another
    of the parts that its name joins by "+".

    Raises:
        ValueError: for an unknown part.
    """
    parts = {"independent": (), "upper bound": ("own RP",)}.get(method, tuple(method.split("+")))
    known = ("IIW", *PARTS)
    if unknown := [part for part in parts if part not in known]:
        raise ValueError(
            f"method: must be independent, upper bound, or made of {', '.join(known)} joined by +, got {unknown} in "
            f"{method!r}"
        )
    return parts


@dataclass
class Pair:
    """Two networks in parts, ready to be trained and recombined: tasks[i] trains extractors[i] and heads[i] on
    sets[i]."""

    sets: tuple[ImageSet, ImageSet]
    common: tuple[str, ...]
    tasks: tuple[Task, Task]
    heads: tuple[nn.Module, nn.Module]

    @property
    def extractors(self) -> list[nn.Module]:
        return [task.extractor for task in self.tasks]

    @property
    def shared(self) -> list[nn.Module]:
        """The heads that both learn under."""
        return [module for module in self.tasks[0].modules() if module in self.tasks[1].modules()]


def check(config: PairRun, context: Context) -> None:
    """Rehearse a run, see ``kinds``."""
    train_pair(prepare(config, context), config, context)


def prepare(config: PairRun, context: Context) -> Pair:
    """Load the two sets and build the two networks with the auxiliary heads that ``config.method`` asks for. All
    methods of one seed start from the same weights and see the same batches. Pre-trained weights are made once for all
    runs.

    Raises:
        ValueError: settings that cannot be run.
    """
    sets = _sets(config, context)
    common = common_classes(*sets, leave_out=config.left_out)
    if len(common) < (config.dcc_classes or 0):
        raise ValueError(f"dcc_classes: {config.a} and {config.b} share {len(common)}, got {config.dcc_classes}")
    parts, first_seed = parts_of(config.method), 16 * config.seed
    if unused := [part for part, _ in config.weights if part not in parts]:
        raise ValueError(f"weights: {config.method} has no part {', '.join(unused)}")
    built = [_network(config, s, first_seed + i).to(context.device) for i, s in enumerate(sets)]
    if config.pretrained_on:
        # with identical weights the second network takes those of the first
        for i, network in enumerate(built[: 1 if "IIW" in parts else 2]):
            _pretrain(network, config, first_seed + i, context)
    if "alignment" in parts and config.scheme != "joint":
        raise ValueError(f"scheme: alignment is of two networks that learn at once, got {config.scheme}")
    if "IIW" in parts:
        if len(sets[0].classes) != len(sets[1].classes):
            counts = " and ".join(f"{len(s.classes)} of {s.name}" for s in sets)
            raise ValueError(f"method: IIW needs as many classes in both sets, got {counts}")
        identical_initial_weights(*built)
    cut = [split(network, config.split_at) for network in built]
    if config.normalization == "unit length":
        for extractor, _ in cut:
            extractor.add_module("unit_length", UnitLength())

    networks = Networks(list(sets), *map(list, zip(*cut, strict=True)), common[: config.dcc_classes], first_seed)
    terms: list[list[Term]] = [[Target(head)] for head in networks.heads]
    for part in (part for part in PARTS if part in parts):
        for own, term in zip(terms, PARTS[part](networks), strict=False):  # some have none
            own.append(replace(term, weight=dict(config.weights).get(part, 1.0)))
    if config.normalization == "unit-length loss":
        for own in terms:
            own.append(objectives.UnitLength())
    first, second = (
        Task(image_set, extractor, own, seed=first_seed + 2 + i)
        for i, (image_set, extractor, own) in enumerate(zip(sets, networks.extractors, terms, strict=True))
    )
    return Pair((sets[0], sets[1]), common, (first, second), tuple(networks.heads))


def _sets(config: PairRun, context: Context) -> tuple[ImageSet, ImageSet]:
    sets = with_equal_channels(*(context.load(name) for name in (config.a, config.b)))
    a, b = (s.limit(config.n_train, config.n_test).to(context.device) for s in sets)
    for image_set in (a, b):
        check_filled(image_set, config.n_train, config.n_test)
        check_enough("stitches", image_set, max(config.stitches, default=0))
    if config.numbering != "stored":
        b = b.subset(numbered_as(a.classes, b.classes, shift=int(config.numbering == "shifted")))
    if config.turned:
        a, b = (turned(image_set, config.turned, config.seed) for image_set in (a, b))
    return a, b


def numbered_as(wanted: Sequence[str], classes: Sequence[str], shift: int = 0) -> list[str]:
    """Order ``classes`` so that those that ``wanted`` has as well stand ``shift`` places after their place
    there, around the end; the others fill the gaps."""
    places = [name if name in classes else None for name in wanted[: len(classes)]]
    others = iter([name for name in classes if name not in places])
    filled = [next(others) if name is None else name for name in places] + list(others)
    return filled[-shift:] + filled[:-shift] if shift else filled


def turned(image_set: ImageSet, share: float, seed: int) -> ImageSet:
    """A set a ``share`` of whose images is turned by a random number of quarter turns, 0 to 3."""

    def noisy(split: Split, part: str) -> Split:
        generator = seeded_generator("turned", image_set.name, part, seed)
        turns = torch.randint(4, (len(split),), generator=generator)
        turns[torch.rand(len(split), generator=generator) >= share] = 0
        return Split(rotate(split.images, turns.to(split.labels.device)), split.labels)

    return replace(image_set, train=noisy(image_set.train, "train"), test=noisy(image_set.test, "test"))


def _network(config: PairRun, image_set: ImageSet, seed: int) -> nn.Sequential:
    shape = {"in_channels": image_set.channels, "width": config.width}
    network = build(config.network, len(image_set.classes), seed=seed, **shape)
    return replace_batch_norm(network, config.normalization) if config.normalization in REPLACEMENTS else network


def _pretrain(network: nn.Sequential, config: PairRun, seed: int, context: Context) -> None:
    """Train ``network`` in place by rotation prediction alone (Sec. 4), under a head of the shape of the target head,
    which then starts from all of it but the last layer; its classifier stays as it was drawn."""
    channels = next(network.parameters()).shape[1]
    image_set = context.load(config.pretrained_on).with_channels(channels).limit(config.n_train).to(context.device)
    extractor, head = split(network, config.split_at)
    rotation_head = auxiliary_head(head, 4, seed=seed).to(context.device)
    task = Task(image_set, extractor, [Pretext(rotation_head)], seed)
    context.train_once([task], config.recipe, f"pre-training on {config.pretrained_on}, seed {seed}")
    head[:-1].load_state_dict(rotation_head[:-1].state_dict())


def train_pair(pair: Pair, config: PairRun, context: Context) -> list[dict]:
    """Train both networks in place, jointly or one after the other; returns the history of the losses."""

    def learn(tasks: Sequence[Task], stage: str) -> list[dict]:
        return context.train(tasks, config.recipe, stage, f"{config}: {stage}")

    if config.scheme == "joint":
        return learn(pair.tasks, "joint training")
    first, second = pair.tasks
    history = learn([first], "first network")
    for head in pair.shared:
        freeze(head)
    return history + [row | {"task": 1} for row in learn([second], "second network")]


def run(config: PairRun, context: Context) -> dict[str, float | list]:
    """Prepare, train, measure; the networks are kept."""
    pair = prepare(config, context)
    train_pair(pair, config, context)
    context.networks = networks(pair)
    return measure(probed(pair, config))


def networks(pair: Pair) -> dict[str, nn.Module]:
    """The parts of both networks, by name."""
    return {
        f"{part} {role}": module
        for part, both in (("extractor", pair.extractors), ("head", pair.heads))
        for role, module in zip("ab", both, strict=True)
    }


def probed(pair: Pair, config: PairRun) -> list[Probe]:
    """Both networks before the test images of either set."""
    return probes(
        pair.extractors,
        pair.heads,
        pair.sets,
        pair.common,
        batch_size=config.test_batch_size,
        similarity_images=config.similarity_images,
        stitches=config.stitches,
    )


def restored(config: PairRun, context: Context, weights: Mapping[str, Mapping]) -> list[Probe]:
    """The networks of a run as they were kept, without training."""
    pair = prepare(replace(config, pretrained_on=""), context)
    for name, module in networks(pair).items():
        module.load_state_dict(weights[name])
    return probed(pair, config)
