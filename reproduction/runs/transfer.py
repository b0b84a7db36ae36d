"""One run of paper A's third application: the extractor of a source task under the head of a target task (Sec. 5.3)."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from compatkit import costs
from compatkit.applications import transfer
from compatkit.images import ImageSet, with_equal_channels
from compatkit.models import auxiliary_head
from compatkit.objectives import Pretext, Target
from compatkit.recombination import class_accuracy
from compatkit.training import Task, freeze

from ..experiments.settings import TransferRun
from .context import Context, check_filled, log_steps
from .networks import cut_network

TIMED_STEPS = 10


def check(config: TransferRun, context: Context) -> None:
    """Rehearse a run, see ``kinds``."""
    _networks(config, *_sets(config, context), context)


def run(config: TransferRun, context: Context) -> dict[str, float | list]:
    """Train what is needed, recombine, fine-tune on the target.

    Average class accuracies on the target's test images in 0..1: "own network": of the target's own; "direct": right
    after recombination; "accuracy by step": the curve at "steps". "steps in an epoch"; "seconds per step" of
    fine-tuning.
    """
    source, target = _sets(config, context)
    source_extractor, target_extractor, target_head = _networks(config, source, target, context)
    seed, head = 16 * config.seed, target_head
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
    """Source and target, with one number of channels."""
    sets = with_equal_channels(*(context.load(name) for name in (config.source, config.target)))
    source, target = (s.limit(config.n_train, config.n_test).to(context.device) for s in sets)
    for image_set in (source, target):
        check_filled(image_set, config.n_train, config.n_test)
    return source, target


def _networks(
    config: TransferRun, source: ImageSet, target: ImageSet, context: Context
) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The source's extractor and the target's extractor and head, trained."""
    seed, parts = 16 * config.seed, config.method.split("+")
    rotation_head = None
    if "RP" in parts:
        third = context.load(config.third).with_channels(source.channels).limit(config.n_train).to(context.device)
        _, _, rotation_head = _trained(config, third, seed, context)
        freeze(rotation_head)
    source_extractor, _, _ = _trained(config, source, seed + 2, context, rotation_head)
    start = seed + 2 if "IIW" in parts else None
    target_extractor, target_head, _ = _trained(config, target, seed + 6, context, rotation_head, start)
    return source_extractor, target_extractor, target_head


def _trained(
    config: TransferRun,
    image_set: ImageSet,
    seed: int,
    context: Context,
    rotation_head: nn.Sequential | None = None,
    start: int | None = None,
) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """Extractor, head and rotation head, trained on the classes of a set and on rotation, with this rotation head or
    one of its own. start: the seed of another network, from whose initial weights this one starts."""
    shape = {"width": config.width, "split_at": config.split_at}
    extractor, head = cut_network(config.network, image_set, seed=seed if start is None else start, **shape)
    if rotation_head is None:
        rotation_head = auxiliary_head(head, 4, seed=seed + 1)
    task = Task(image_set, extractor, [Target(head), Pretext(rotation_head)], seed + 2)
    context.train_once([task], config.recipe, f"{config.method}: {image_set.name}, seed {config.seed}")
    return extractor, head, rotation_head
