"""Index of records: those of a preset by what was run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..stored import stored_digest
from .pins import pinned
from .store import files

Runs = dict[str, list[dict]]
"""The records of each run of a file, by its key."""


class Index:
    """The records of a preset by the config of their run.

    A setting that was added to a kind of run after a record was made is taken to have been at its default. A record
    whose images have since been replaced, by other files of the same name, is not found.
    """

    def __init__(self, files: Iterable[Runs]):
        self._files = list(files)

    def record(self, config: Any) -> dict | None:
        """The newest record of the run with this config, all settings of which stand in it."""
        key = _key(type(config).__name__, vars(config)) if self._files else ""
        same = [record for runs in self._files for record in runs.get(key, ())]
        same.sort(key=lambda record: record["provenance"]["started"])
        return next((record for record in reversed(same) if _same_images(record["data"])), None)


def index(preset: str, root: str | os.PathLike | None, kinds: tuple[type, ...]) -> Index:
    """The index of a preset; what has changed since is read again.

    Args:
        preset, root: as in ``store.files``.
        kinds: the class of settings of each kind of run.
    """
    return Index(_runs(path, records, kinds) for path, records in files(preset, root).items())


_made: dict[tuple, tuple[list[dict], Runs]] = {}  # of each file, with what it was made from


def _runs(path: Path, records: list[dict], kinds: tuple[type, ...]) -> Runs:
    """The records of a file by run; those of other kinds are passed over."""
    known, found = _made.get((path, kinds), ([], {}))
    if known is not records:
        found, defaults = {}, _defaults(kinds)
        for record in records:
            if record["kind"] in defaults:
                whole = {**record, "config": _filled(record["config"], defaults[record["kind"]])}
                found.setdefault(_key(whole["kind"], whole["config"]), []).append(whole)
        _made[path, kinds] = records, found
    return found


@lru_cache
def _defaults(kinds: tuple[type, ...]) -> dict[str, dict]:
    return {kind.__name__: asdict(kind()) for kind in kinds}


def _filled(config: Mapping, defaults: Mapping) -> dict:
    """A config with the defaults of the settings that it lacks."""
    return {
        name: _filled(config.get(name, {}), default) if isinstance(default, dict) else config.get(name, default)
        for name, default in defaults.items()
    }


def _key(kind: str, config: Mapping) -> str:
    # default: recipes; asdict copies, which takes ten times as long
    return json.dumps([kind, config], sort_keys=True, default=vars)


def _same_images(data: Mapping[str, str]) -> bool:
    """Tell whether the files that a run read are what they were; a file that is not here cannot tell, and what becomes
    of a generated set is a matter of ``is_stale``."""
    generated = pinned().images
    return all(name in generated or stored_digest(name) in (None, digest) for name, digest in data.items())
