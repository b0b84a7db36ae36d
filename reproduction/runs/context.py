"""The context of a run, where it is made and what it leaves behind: given to every run beside its config."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compatkit.images import ImageSet, Split
from compatkit.recipes import Recipe
from compatkit.training import Task, train, train_once

from ..images import load


@dataclass
class Context:
    """Device and folders of one run, and notes of what it loaded and trained.

    Attributes:
        device: where networks and images are.
        checkpoints: the folder of this run, from which it goes on if an earlier attempt left any; None keeps none.
        shared: the folder of weights that several runs need, which the first of them trains; None keeps none.
        show_progress: whether a bar is shown where a person is watching.
        rehearsal: each training is one step on two images, to see that it can be taken.
        data: the digest of each image set that was loaded, by name.
        histories: of each training, in order.
        networks: what the run leaves to be measured again, by name; see ``kept``.
    """

    device: torch.device | str = "cpu"
    checkpoints: Path | None = None
    shared: Path | None = None
    show_progress: bool = False
    rehearsal: bool = False
    data: dict[str, str] = field(default_factory=dict)
    histories: list[list[dict]] = field(default_factory=list)
    networks: dict[str, nn.Module] = field(default_factory=dict)

    def load(self, name: str, **options) -> ImageSet:
        """Load a set by ``images.load``, and note it."""
        image_set = load(name, **options)
        self.data[name] = image_set.digest
        return image_set

    def train(self, tasks: Sequence[Task], recipe: Recipe, stage: str, label: str) -> list[dict]:
        """Train by ``training.train`` with a checkpoint for this ``stage`` of the run; ``label`` names the bar."""
        return self._noted(train(tasks, self._shortened(recipe), **self._options(stage, label)))

    def train_once(self, tasks: Sequence[Task], recipe: Recipe, label: str) -> list[dict]:
        """Train by ``training.train_once`` in the shared folder."""
        options = {"label": label, "show_progress": self.show_progress}
        return self._noted(train_once(tasks, self._shortened(recipe), self.shared, **options))

    def apply(
        self, application: Callable[..., tuple], *parts, recipe: Recipe, stage: str, label: str, **options
    ) -> tuple:
        """The result of one of ``compatkit.applications`` for these parts, the history of its training last."""
        result = application(*parts, recipe=self._shortened(recipe), **self._options(stage, label), **options)
        self._noted(result[-1])
        return result

    def _shortened(self, recipe: Recipe) -> Recipe:
        return replace(recipe, steps=1, batch_size=2, crop=0) if self.rehearsal else recipe

    def _options(self, stage: str, label: str) -> dict[str, Any]:
        file = None if self.checkpoints is None else self.checkpoints / f"{stage}.pt"
        return {"checkpoint": file, "label": label, "show_progress": self.show_progress}

    def _noted(self, history: list[dict]) -> list[dict]:
        self.histories.append(history)
        return history


def check_filled(image_set: ImageSet, n_train: int | None, n_test: int | None) -> None:
    """Check that a set has as many images as were asked for.

    Raises:
        ValueError: some class has none to learn from, or to test on.
    """
    for name, limit, split in (("n_train", n_train, image_set.train), ("n_test", n_test, image_set.test)):
        check_split(name, image_set, split, limit)


def check_split(name: str, image_set: ImageSet, split: Split, limit: int | None) -> None:
    """Check that a split has an image for each class of its set; ``name`` is that of the setting that is its ``limit``.

    Raises:
        ValueError: some class has none.
    """
    if len(split) < max(2, len(image_set.classes)):
        wanted = f"at least {len(image_set.classes)}, one for each class of {image_set.name}"
        raise ValueError(f"{name}: must be {wanted}, got {len(split) if limit is None else limit}")
    counts = split.labels.bincount(minlength=len(image_set.classes)).tolist()
    if empty := [label for label, count in zip(image_set.classes, counts, strict=True) if not count]:
        listing = ", ".join(empty[:5]) + ", ..." * (len(empty) > 5)
        raise ValueError(f"{name}: each class needs an image, and {image_set.name} has none of {listing}")


def check_enough(name: str, image_set: ImageSet, wanted: int) -> None:
    """Check that there are as many training images as the setting ``name`` takes.

    Raises:
        ValueError: there are fewer.
    """
    if wanted > len(image_set.train):
        raise ValueError(f"{name}: {image_set.name} has {len(image_set.train)} training images, got {wanted}")


def log_steps(steps: int, marks: Collection[int] = ()) -> list[int]:
    """The steps at which a training is looked at: 0, 1, 2, 4, 8, ... steps, at ``marks``, and at the end."""
    powers = [2**k for k in range(steps.bit_length()) if 2**k < steps]
    return sorted({0, *powers, *(mark for mark in marks if 0 <= mark <= steps), steps})
