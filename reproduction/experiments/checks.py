"""What every config checks of its settings, so that a bad one fails before the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compatkit.data import ImageSet


def check_choices(config: Any, allowed: Mapping[str, Sequence[str]]) -> None:
    """Settings that are words.

    Raises:
        ValueError: one is none of those ``allowed``.
    """
    for name, words in allowed.items():
        if getattr(config, name) not in words:
            raise ValueError(f"{name}: must be one of {tuple(words)}, got {getattr(config, name)!r}")


def check_numbers(config: Any, **least: int) -> None:
    """Settings that are numbers; None, where it is allowed, is not judged, and seeds are never negative.

    Raises:
        ValueError: one is below its ``least``.
    """
    for name, lowest in {"seed": 0, **least}.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise ValueError(f"{name}: must be at least {lowest}, got {value}")


def check_filled(image_set: ImageSet, n_train: int | None, n_test: int | None) -> None:
    """A set with as many images as were asked for.

    Raises:
        ValueError: they are fewer than its classes, so that some class has none to learn from, or to test on.
    """
    for name, limit, split in (("n_train", n_train, image_set.train), ("n_test", n_test, image_set.test)):
        if len(split) < max(2, len(image_set.classes)):
            wanted = f"at least {len(image_set.classes)}, one for each class of {image_set.name}"
            raise ValueError(f"{name}: must be {wanted}, got {len(split) if limit is None else limit}")
