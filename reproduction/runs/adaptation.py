"""One run of paper A's first application: a classifier of the source, adapted to a target without labels (Sec. 5.1)."""

from __future__ import annotations

import torch
from torch import nn

from compatkit.applications import adapt
from compatkit.images import ImageSet, Split, common_classes, with_equal_channels
from compatkit.models import auxiliary_head
from compatkit.objectives import Pretext, PretextTask, Target, pretext_of
from compatkit.recombination import class_accuracy
from compatkit.training import Task

from ..experiments.settings import AdaptationRun
from .context import Context, check_filled, log_steps
from .networks import cut_network


def check(config: AdaptationRun, context: Context) -> None:
    """Rehearse a run, see ``kinds``."""
    source, target = _sets(config, context)
    _puzzles(target, pretext_of(config.pretext))
    _source_model(config, source, context)


def run(config: AdaptationRun, context: Context) -> dict[str, float | list]:
    """Train on the source, adapt to the target, measure.

    "target: R" and "source: R" are average class accuracies in 0..1, on the classes that both sets have, for the rows
    of Table 1: "source model" (BN as training left it), "with test BN", "adapted" (with test BN); beyond it "adapted,
    running statistics" and "adapted, head moves". "pretext on target: ..." is how often the pretext is solved there;
    "NAME by step" a curve at "steps".
    """
    source, target = _sets(config, context)
    puzzles = _puzzles(target, pretext_of(config.pretext))
    (extractor, head, rotation_head), seed = _source_model(config, source, context)
    batches = {"batch_size": config.test_batch_size}

    def accuracies(extractor: nn.Module, statistics: str = "batch") -> dict[str, float]:
        return {
            role: class_accuracy(extractor, head, image_set, statistics=statistics, **batches)
            for role, image_set in (("target", target), ("source", source))
        }

    def probe(extractor: nn.Module, rotation_head: nn.Module) -> dict[str, float]:
        return accuracies(extractor) | {"pretext": class_accuracy(extractor, rotation_head, puzzles, **batches)}

    found = {f"{role}: source model": value for role, value in accuracies(extractor, "running").items()}
    for kind, head_moves in {"": False, ", head moves": True}.items():
        adapted, history = context.apply(
            adapt,
            extractor,
            rotation_head,
            target.train.images,
            stage=f"adaptation{kind}",
            label=f"{config}: adaptation{kind}",
            recipe=config.adapt_recipe,
            pretext=config.pretext,
            head_moves=head_moves,
            seed=seed,
            probe=probe,
            probe_at=log_steps(config.adapt_recipe.steps),
        )
        curve = [row for row in history if "target" in row and "task" not in row]
        found |= {f"{name} by step{kind}": [row[name] for row in curve] for name in ("target", "source", "pretext")}
        for name in ("target", "source"):
            found |= {f"{name}: with test BN": curve[0][name], f"{name}: adapted{kind}": curve[-1][name]}
        if not head_moves:
            running = accuracies(adapted, "running")
            found |= {f"{role}: adapted, running statistics": value for role, value in running.items()}
            found |= {"pretext on target: with test BN": curve[0]["pretext"]}
            found |= {"pretext on target: adapted": curve[-1]["pretext"]}
    return found | {"steps": log_steps(config.adapt_recipe.steps), "chance": 1 / len(source.classes)}


def _sets(config: AdaptationRun, context: Context) -> tuple[ImageSet, ImageSet]:
    """Source and target with the classes that both have, in one order."""
    sets = with_equal_channels(*(context.load(name) for name in (config.source, config.target)))
    # in an order of names, so that either set is the same in both directions
    common = sorted(common_classes(*sets, leave_out=config.left_out))
    source, target = (s.subset(common).limit(config.n_train, config.n_test).to(context.device) for s in sets)
    for image_set in (source, target):
        check_filled(image_set, config.n_train, config.n_test)
    return source, target


def _puzzles(image_set: ImageSet, pretext: PretextTask) -> ImageSet:
    """The test images, each in one variant, which is its label."""
    images = image_set.test.images
    drawn = torch.randint(pretext.variants, (len(images),), generator=torch.Generator().manual_seed(0))
    variants = drawn.to(images.device)
    shown = Split(pretext.show(images, variants), variants)
    return ImageSet(image_set.name, image_set.train, shown, tuple(map(str, range(pretext.variants))))


def _source_model(
    config: AdaptationRun, source: ImageSet, context: Context
) -> tuple[tuple[nn.Sequential, nn.Sequential, nn.Sequential], int]:
    """Extractor, head and pretext head, trained together on the source, the last one first on the third set; and the
    seed."""
    seed = 16 * config.seed
    shape = {"width": config.width, "split_at": config.split_at}
    extractor, head = cut_network(config.network, source, seed=seed, **shape)
    rotation_head = auxiliary_head(head, pretext_of(config.pretext).variants, seed=seed + 1)
    pretext = Pretext(rotation_head, config.pretext)
    if config.third:
        third = context.load(config.third).with_channels(source.channels).limit(config.n_train).to(context.device)
        teacher, _ = cut_network(config.network, third, seed=seed + 2, **shape)
        lesson = Task(third, teacher, [pretext], seed + 3)
        context.train_once([lesson], config.recipe, f"{config.pretext} on {config.third}, seed {config.seed}")
    task = Task(source, extractor, [Target(head), pretext], seed + 4)
    context.train_once([task], config.recipe, f"{config.source} with {config.pretext}, seed {config.seed}")
    return (extractor, head, rotation_head), seed + 4
