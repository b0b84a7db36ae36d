"""Presets are overrides by name: ``{"network": "resnet20", "recipe.steps": 4000}`` changes a run config and nothing
else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
"""The class of a run's settings."""

Plan = list[tuple[str, Config]]
"""The runs of an experiment, each under the name of the row that it belongs to; several runs of a row differ in seed,
images, or what the row's chapter says."""


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """A config with some fields changed, by name; a dot reaches into a field that is a config itself.

    Raises:
        ValueError: a name that the config does not have, or a value of another type than the field's.
    """
    if not changes:
        return config
    hints, found = _types(type(config)), {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        outer, _, rest = name.partition(".")
        if outer not in hints or (rest and not is_dataclass(getattr(config, outer))):
            raise ValueError(f"{name}: no such setting; there are {', '.join(settings(config))}")
        kind = hints[outer]
        if rest:
            inner.setdefault(outer, {})[rest] = value
        elif kind is float and _fits(value, int):
            found[outer] = float(value)  # 1 and 1.0 are one run
        elif _fits(value, kind):
            found[outer] = value
        else:
            raise ValueError(f"{name}: must be {getattr(kind, '__name__', kind)}, got {value!r}")
    for outer, some in inner.items():
        found[outer] = override(found.get(outer, getattr(config, outer)), some)
    return replace(config, **found)


_types = cache(get_type_hints)  # of the few classes of settings, for thousands of runs


def settings(config: Any) -> dict[str, Any]:
    """The settings of a config on one level, by the names that ``override`` accepts."""
    found: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            found |= {f"{f.name}.{name}": inner for name, inner in settings(value).items()}
        else:
            found[f.name] = value
    return found


def inside(*names: str, **changes: Any) -> dict[str, Any]:
    """Overrides of the same settings within several fields of a config, such as two recipes."""
    return {f"{name}.{setting}": value for name in names for setting, value in changes.items()}


def _fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of an annotated type, such as ``int | None`` or ``tuple[str, ...]``."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    plain = get_origin(kind) or kind
    return isinstance(value, plain) and (plain is bool or not isinstance(value, bool))


def preset_runs(base: Any, presets: Mapping[str, Mapping], preset: str, seeds: Sequence[int] | None) -> list:
    """Configs: ``base`` with the settings of a preset, for each of its sets of images (overrides as well) and each
    seed, ``seeds`` if given.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in presets:
        raise ValueError(f"preset: must be one of {', '.join(presets)}, got {preset!r}")
    settings = dict(presets[preset])
    pairs, own_seeds = settings.pop("pairs"), settings.pop("seeds")
    found = [override(base, {**settings, **pair}) for pair in pairs]
    return [replace(run, seed=seed) for run in found for seed in (own_seeds if seeds is None else seeds)]
