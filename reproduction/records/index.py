"""Which runs have a record: the records of a preset by what was run, kept in memory while others append to them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..stored import stored_digest
from .pins import pinned
from .store import files, results_root


class Index:
    """The records of a preset by the config of their run. What has been added since is read at ``refresh``, once.

    A setting that was added to a kind of run after a record was made is taken to have been at its default. A record
    whose images have since been replaced, by other files of the same name, is not found.

    Args:
        preset, root: as in ``store.load``.
        defaults: for each kind of run its settings at their defaults.
    """

    def __init__(self, preset: str, root: Path, defaults: Mapping[str, Mapping]):
        self._preset, self._root, self._defaults = preset, root, defaults
        self._forget()

    def _forget(self) -> None:
        self._read: dict[Path, tuple[int, int]] = {}  # how often a file was replaced, and how many lines are here
        self._records: dict[str, list[dict]] = {}  # of each run, the newest last

    def refresh(self) -> Index:
        """Take in what has been added. Returns this index."""
        there = {file.path: (file, file.refresh()) for file in files(self._preset, self._root)}
        if any(path not in there or there[path][0].replaced != replaced for path, (replaced, _) in self._read.items()):
            self._forget()
        for path, (file, records) in there.items():
            _, known = self._read.get(path, (0, 0))
            for record in records[known:]:
                self._add(record)
            self._read[path] = file.replaced, len(records)
        return self

    def _add(self, record: dict) -> None:
        kind = record["kind"]
        if kind in self._defaults:
            config = _filled(record["config"], self._defaults[kind])
            same = self._records.setdefault(_key(kind, config), [])
            same.append({**record, "config": config})
            same.sort(key=lambda record: record["provenance"]["started"])

    def record(self, config: Any) -> dict | None:
        """The newest record of the run with this config, all settings of which stand in it."""
        same = self._records.get(_key(type(config).__name__, vars(config)), ()) if self._records else ()
        return next((record for record in reversed(same) if _same_images(record["data"])), None)


@functools.cache
def _kept(preset: str, root: Path, kinds: tuple[type, ...]) -> Index:
    return Index(preset, root, {kind.__name__: asdict(kind()) for kind in kinds})


def index(preset: str, root: str | os.PathLike | None, kinds: Iterable[type]) -> Index:
    """The index of a preset, up to date; made once a process.

    Args:
        preset, root: as in ``store.load``.
        kinds: the class of settings of each kind of run.
    """
    return _kept(preset, Path(root or results_root()).absolute(), tuple(kinds)).refresh()


def _filled(config: Mapping, defaults: Mapping) -> dict:
    """A config with the defaults of the settings that it lacks."""
    return {
        name: _filled(config.get(name, {}), default) if isinstance(default, dict) else config.get(name, default)
        for name, default in defaults.items()
    }


def _key(kind: str, config: Mapping) -> str:
    return json.dumps(
        [kind, config], sort_keys=True, default=vars
    )  # recipes; asdict copies, which takes ten times as long


def _same_images(data: Mapping[str, str]) -> bool:
    """Whether the files that a run read are what they were; a file that is not here cannot tell, and what becomes of a
    generated set is a matter of ``is_stale``."""
    generated = pinned().images
    return all(name in generated or stored_digest(name) in (None, digest) for name, digest in data.items())
