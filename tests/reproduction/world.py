"""Runs small enough for tests, of every kind, on image sets of random pixels; and a context that notes what they do."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from compatkit.images import ImageSet, Split
from compatkit.recipes import Recipe
from reproduction import experiments
from reproduction.experiments.presets import override
from reproduction.experiments.settings import AdaptationRun, ClassifierRun, PairRun, TransferRun, UpdateRun
from reproduction.images import load
from reproduction.runs import adaptation, classifier, transfer, update
from reproduction.runs.context import Context

from ..samples import state, uneven_set

SIX = tuple("abcdef")


def small_sets() -> dict[str, ImageSet]:
    """What the runs below load, by name."""
    two = ("dog", "eel", "ant", "cat")
    number = torch.arange(200) % 100
    images = number.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    shapes = load("shapes", colours=4, shapes=4, n_train=96, n_test=64)
    return {
        # three classes in common, each in another order and at other places
        "one": uneven_set(("ant", "bee", "cat", "dog"), seed=1),
        "two": uneven_set(two, n=50, seed=2),
        "two with other labels": uneven_set(two, n=50, seed=2, relabel={0: 2, 1: 1, 2: 3, 3: 0}.get),
        "more": uneven_set(("fox", "cat", "dog", "ant"), seed=3),
        "third": uneven_set(("x", "y"), n=90, channels=1, seed=0),
        "six": uneven_set(SIX, n=90, seed=1),
        "source": uneven_set(tuple("abcd"), n=90, channels=3, seed=1),
        "target": uneven_set(tuple("klm"), n=90, channels=1, seed=2),
        "tiny": shapes,  # 4 colours x 4 shapes
        "grey": shapes.with_channels(1),
        "other": load("glyphs_plain", n_train=40, n_test=30),
        # images that tell the number of their class
        "hundred": ImageSet(
            "hundred", Split(images, number), Split(images, number), tuple(f"class {i}" for i in range(100))
        ),
    }


# --- runs of Fig. 2 ---------------------------------------------------------------------------------------------------

TINY = {"n_train": 60, "n_test": 60, "recipe.steps": 3, "recipe.batch_size": 20}


def tiny_pair(**changes) -> PairRun:
    """The first run of Fig. 2 at smoke, on fewer images and for three steps."""
    _, smoke = experiments.EXPERIMENTS["fig2"]("smoke")[0]
    return override(replace(smoke, **changes), TINY)


# --- other runs -------------------------------------------------------------------------------------------------------


@dataclass
class Watched(Context):
    """A context that notes what is trained once and what is applied.

    Attributes:
        trainings: tasks before and after each training, and its recipe.
        applied: of each application its parts, their state before, its options, what it returned and what its probe
            was called with last.
    """

    trainings: list[SimpleNamespace] = field(default_factory=list)
    applied: list[SimpleNamespace] = field(default_factory=list)

    def train_once(self, tasks, recipe, label):
        before = copy.deepcopy(list(tasks))
        history = super().train_once(tasks, recipe, label)
        self.trainings.append(SimpleNamespace(before=before, tasks=list(tasks), recipe=recipe))
        return history

    def apply(self, application, *parts, probe=None, **options):
        before = [state(part) if isinstance(part, torch.nn.Module) else part for part in parts]
        made = SimpleNamespace(parts=parts, before=before, options=options, probed=None)

        def noting(*probed):
            made.probed = probed
            return probe(*probed)

        given = {} if probe is None else {"probe": noting}
        made.result = super().apply(application, *parts, **given, **options)
        self.applied.append(made)
        return made.result


@dataclass(frozen=True)
class Kind:
    """A kind of run: the module that makes it, and one that is small."""

    module: ModuleType
    small: Any

    def config(self, **changes):
        return replace(self.small, **changes)

    def run(self, shared=None, checkpoints=None, **changes) -> dict:
        return self.module.run(self.config(**changes), Context(shared=shared, checkpoints=checkpoints))

    def watched(self, **changes) -> Watched:
        """What a run did, and its ``metrics``."""
        context = Watched()
        context.metrics = self.module.run(self.config(**changes), context)
        return context


def reproducible(metrics: Mapping) -> dict:
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}


RECIPE = Recipe(steps=3, batch_size=16, lr=0.02, rotations="sampled", precision="fp32")
ADAPT = Recipe(steps=4, batch_size=16, optimizer="sgd", lr=0.05, schedule="constant", precision="fp32")
TUNE = Recipe(batch_size=16, lr=0.02, schedule="constant", precision="fp32")
UPDATE = Recipe(steps=8, batch_size=16, lr=0.01, precision="fp32")  # for 16 classes: 2 steps for 4 of them, 6 for 12
SMALL: dict[str, Any] = {"network": "resnet8", "width": 4, "third": "third", "recipe": RECIPE}

ADAPTATION = Kind(adaptation, AdaptationRun(a="one", b="two", adapt_recipe=ADAPT, **SMALL))
TRANSFER = Kind(transfer, TransferRun(source="source", target="target", epochs=2, tune_recipe=TUNE, **SMALL))
CLASSIFIER = Kind(
    classifier,
    ClassifierRun(
        data="six",
        first_classes=4,
        networks=("resnet8",) * 3,
        widths=(5, 8, 4),
        splits=("stage2", "stage2", "stage1"),
        recipe=RECIPE,
        tune_recipe=replace(RECIPE, steps=4),
    ),
)
VERSIONS = Kind(
    update,
    UpdateRun(
        data="tiny",
        classes=(4, 12),
        old_network="resnet8",
        old_width=4,
        old_dim=4,
        new_network="resnet8",
        new_width=4,
        new_dim=6,
        side_dim=5,
        h_width=8,
        recipe=UPDATE,
        side_recipe=UPDATE,
        h_recipe=UPDATE,
    ),
)
