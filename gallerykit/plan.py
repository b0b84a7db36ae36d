"""A plan for a change of model: of some items both embeddings are known; on most of these pairs maps are fitted, on the
rest all ways to serve the new model are compared, and one is advised.

    found = plan(read_pairs("old.npy", "new.npy"))
    print(found)
    carry(found.maps["new/ridge"], "gallery.npy", "carried.npy")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from . import backfill
from .advice import Advice, recommend
from .backfill import Paths
from .compare import Comparison, compare
from .maps import CLOSED_FORMS, DIRECTIONS, Map, Pairs, fit, split


@dataclass(frozen=True)
class Plan:
    """The findings about a change of model; as text the tables and the advice."""

    maps: dict[str, Map] = field(repr=False)
    comparison: Comparison
    paths: Paths
    advice: Advice

    def __str__(self) -> str:
        return "\n\n".join([self.comparison.table(), self.paths.table(), self.advice.text])

    def json(self) -> str:
        """All figures, for a program."""
        comparison = asdict(self.comparison) | {"best": self.comparison.best, "choice": self.comparison.choice}
        paths = {path.name: asdict(path) | {"sinks": path.sinks_surely} for path in self.paths.paths}
        found = {"advice": asdict(self.advice), "comparison": comparison, "paths": paths}
        return json.dumps(found | {"best_path": self.paths.best.name})


def plan(
    pairs: Pairs,
    methods: Sequence[str] = CLOSED_FORMS,
    *,
    directions: Sequence[str] = DIRECTIONS,
    metric: str = "l2",
    gallery_size: int | None = None,
    old_model: bool = True,
    enough: float = 0.5,
) -> Plan:
    """Fit maps on four fifths of the pairs, compare all ways on the rest, and advise.

    Args:
        pairs: see ``pairs.read_pairs``.
        methods, directions: see ``maps.fit``.
        metric, gallery_size, old_model: see ``compare.compare``.
        enough: see ``advice.recommend``.

    Raises:
        ValueError: pairs that cannot be compared.
    """
    to_fit, held_out = split(pairs)
    maps = fit(to_fit, methods, directions=directions, metric=metric)
    comparison = compare(maps, to_fit, held_out, metric=metric, gallery_size=gallery_size, old_model=old_model)
    paths = backfill.paths(comparison, maps, to_fit, held_out)
    return Plan(maps, comparison, paths, recommend(comparison, paths, maps, enough=enough))
