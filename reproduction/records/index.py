"""Index of records: those of a preset by what was run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..stored import stored_digest
from .pins import pinned
from .store import files, results_root

Entries = list[tuple[str, dict]]
"""The records of a file, each with the key of its run."""


class Index:
    """The records of a preset by the config of their run.

    A setting that was added to a kind of run after a record was made is taken to have been at its default. A record
    whose images have since been replaced, by other files of the same name, is not found.
    """

    def __init__(self, files: Iterable[Entries]):
        self._records: dict[str, list[dict]] = {}  # of each run, the newest last
        for key, record in (entry for entries in files for entry in entries):
            self._records.setdefault(key, []).append(record)
        for same in self._records.values():
            same.sort(key=lambda record: record["provenance"]["started"])

    def record(self, config: Any) -> dict | None:
        """The newest record of the run with this config, all settings of which stand in it."""
        same = self._records.get(_key(type(config).__name__, vars(config)), ()) if self._records else ()
        return next((record for record in reversed(same) if _same_images(record["data"])), None)


_made: dict[tuple, tuple[list[tuple[list[dict], Entries]], Index]] = {}  # with what it was made from, file by file


def index(preset: str, root: str | os.PathLike | None, kinds: Iterable[type]) -> Index:
    """The index of a preset, made again when a file has changed.

    Args:
        preset, root: as in ``store.load``.
        kinds: the class of settings of each kind of run.
    """
    wanted, there = (preset, Path(root or results_root()).absolute(), tuple(kinds)), files(preset, root)
    parts, found = _made.get(wanted, ([], None))
    known = {id(records): entries for records, entries in parts}
    if found is None or [*known] != [*map(id, there)]:
        defaults = {kind.__name__: asdict(kind()) for kind in wanted[-1]}
        parts = [
            (records, known[id(records)] if id(records) in known else _entries(records, defaults)) for records in there
        ]
        found = Index(entries for _, entries in parts)
        _made[wanted] = parts, found
    return found


def _entries(records: Iterable[dict], defaults: Mapping[str, Mapping]) -> Entries:
    """defaults: for each kind of run its settings at their defaults; records of other kinds are passed over."""
    whole = ({**r, "config": _filled(r["config"], defaults[r["kind"]])} for r in records if r["kind"] in defaults)
    return [(_key(record["kind"], record["config"]), record) for record in whole]


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
    """Tell whether the files that a run read are what they were; a file that is not here cannot tell, and what becomes
    of a generated set is a matter of ``is_stale``."""
    generated = pinned().images
    return all(name in generated or stored_digest(name) in (None, digest) for name, digest in data.items())
