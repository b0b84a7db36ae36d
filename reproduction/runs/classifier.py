"""One run of paper A's second application: a classifier that learns more classes (Sec. 5.2, App. D)."""

from __future__ import annotations

import torch
from torch import nn

from compatkit import costs
from compatkit.applications import update_head
from compatkit.images import ImageSet
from compatkit.inspection import sized_layers
from compatkit.models import auxiliary_head, count_parameters, fit_channels
from compatkit.normalization import evaluation
from compatkit.objectives import Pretext, Target
from compatkit.recombination import all_logits, recombine
from compatkit.training import Task

from ..experiments.settings import ARCHITECTURES, LEARNT_ROTATION, ClassifierRun
from .context import Context, check_filled
from .networks import cut_network


def check(config: ClassifierRun, context: Context) -> None:
    """Rehearse a run, see ``kinds``."""
    trained = _upper_bounds if config.variant.startswith("upper bound") else _first_networks
    trained(config, _whole(config, context), context)


def _whole(config: ClassifierRun, context: Context) -> ImageSet:
    """The set with old and new classes."""
    whole = context.load(config.data).limit(config.n_train, config.n_test).to(context.device)
    if not config.first_classes < len(whole.classes):
        raise ValueError(f"first_classes: {config.data} has {len(whole.classes)} classes, got {config.first_classes}")
    check_filled(whole, config.n_train, config.n_test)
    return whole


def run(config: ClassifierRun, context: Context) -> dict[str, float | list]:
    """Train the extractors, update the head on each of them, put it on all; or train the upper bounds.

    "accuracy: R -> D", and the same of "old classes" and "new classes": with the head that was updated on extractor R,
    on extractor D, in 0..1. "first classes: D": before the update, on the classes there were. "accuracy: D": of an
    upper bound. "parameters: D", "MACs: D", "seconds per image: D": of the network as it is deployed.
    """
    found: dict[str, float | list] = {}
    whole = _whole(config, context)
    if config.variant.startswith("upper bound"):
        for name, (extractor, head) in zip(ARCHITECTURES, _upper_bounds(config, whole, context), strict=True):
            found[f"accuracy: {name}"] = _accuracies(extractor, head, whole, config)["accuracy"]
            found |= _costs(name, recombine(extractor, head), whole)
        return found

    first = whole.subset(whole.classes[: config.first_classes])
    trained, heads, rotation_head = _first_networks(config, first, context)
    extractors = dict(zip(ARCHITECTURES, trained, strict=True))
    for (name, extractor), head in zip(extractors.items(), heads, strict=True):
        found[f"first classes: {name}"] = _accuracies(extractor, head, first, config)["accuracy"]
    for (reference, extractor), head in zip(extractors.items(), heads, strict=True):
        moved, longer, _ = context.apply(
            update_head,
            head,
            extractor,
            whole,
            stage=reference,
            label=f"{config}: head on {reference}",
            rotation_head=rotation_head if config.variant == "RP frozen" else None,
            recipe=config.tune_recipe,
            seed=16 * config.seed + 12,
        )
        for deployed, other in extractors.items():
            used = moved if deployed == reference else other
            for which, value in _accuracies(used, longer, whole, config).items():
                found[f"{which}: {reference} -> {deployed}"] = value
        found |= _costs(reference, recombine(moved, longer), whole)
    return found


def _first_networks(
    config: ClassifierRun, image_set: ImageSet, context: Context
) -> tuple[list[nn.Module], list[nn.Sequential], nn.Sequential | None]:
    """Three extractors, trained; the head of each, one for all or one of its own; and the shared rotation head."""
    seed = 16 * config.seed
    cut = _cut_networks(config, image_set)
    head = cut[-1][1]
    heads = [head] * len(cut)
    if config.variant == "independent":
        outputs = len(image_set.classes)
        heads = [auxiliary_head(head, outputs, seed=seed + 6 + i) for i in range(len(cut))]
    rotation_head = auxiliary_head(head, 4, seed=seed + 9) if config.variant in LEARNT_ROTATION else None
    pretexts = [] if rotation_head is None else [Pretext(rotation_head)]
    tasks = [
        Task(image_set, _fitted(extractor, head, seed + 3 + i), [Target(own), *pretexts], seed + i)
        for i, ((extractor, _), own) in enumerate(zip(cut, heads, strict=True))
    ]
    for group in [[task] for task in tasks] if config.variant == "independent" else [tasks]:
        context.train_once(group, config.recipe, f"{config}: first classes")
    return [task.extractor for task in tasks], heads, rotation_head


def _upper_bounds(
    config: ClassifierRun, image_set: ImageSet, context: Context
) -> list[tuple[nn.Sequential, nn.Sequential]]:
    """Each network on its own, trained on all classes at once, with a rotation head (Sec. 5.2)."""
    seed = 16 * config.seed
    found, cut = [], _cut_networks(config, image_set)
    common = cut[-1][1]
    for i, (name, (extractor, head)) in enumerate(zip(ARCHITECTURES, cut, strict=True)):
        if config.variant != "upper bound":
            head = auxiliary_head(common, len(image_set.classes), seed=seed + 6 + i)
            extractor = _fitted(extractor, head, seed + 3 + i)
        task = Task(image_set, extractor, [Target(head), Pretext(auxiliary_head(head, 4, seed=seed + 9))], seed + i)
        context.train_once([task], config.recipe, f"{config}: {name}")
        found.append((extractor, head))
    return found


def _cut_networks(config: ClassifierRun, image_set: ImageSet) -> list[tuple[nn.Sequential, nn.Sequential]]:
    """Extractor and head of each architecture."""
    shapes = zip(config.networks, config.widths, config.splits, strict=True)
    return [
        cut_network(name, image_set, width=width, split_at=at, seed=16 * config.seed + i)
        for i, (name, width, at) in enumerate(shapes)
    ]


def _fitted(extractor: nn.Sequential, head: nn.Sequential, seed: int) -> nn.Sequential:
    """The extractor with as many channels as the head takes."""
    _, taken, _ = sized_layers(head)[0]
    return fit_channels(extractor, taken, seed=seed)


def _accuracies(extractor: nn.Module, head: nn.Module, image_set: ImageSet, config: ClassifierRun) -> dict[str, float]:
    """On all classes, any of which may be the answer, and on the images of "old classes" and "new classes" of them."""
    (logits,), labels = all_logits(extractor, [head], image_set, batch_size=config.test_batch_size)
    hits, old = (logits.argmax(1) == labels).double(), labels < config.first_classes
    parts = {"accuracy": hits, "old classes": hits[old], "new classes": hits[~old]}
    return {name: part.mean().item() for name, part in parts.items()}


def _costs(name: str, network: nn.Module, image_set: ImageSet) -> dict[str, float]:
    image = image_set.normalise(image_set.test.images[:1])
    with torch.no_grad(), evaluation(network, "running"):
        latency = costs.seconds(lambda: network(image), repeats=20)
    return {
        f"parameters: {name}": float(count_parameters(network)),
        f"MACs: {name}": float(costs.macs(network, image)),
        f"seconds per image: {name}": latency,
    }
