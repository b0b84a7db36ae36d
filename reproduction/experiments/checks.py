"""Checks that every config makes of its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
