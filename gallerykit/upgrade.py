"""The way from an old model's gallery to a new model's: the commands ``gallerykit plan`` and ``gallerykit upgrade``.

Of some items both embeddings are known. On most of these pairs maps are fitted, on the rest all ways to serve the new
model are compared, and one is advised. ``upgrade`` then puts the gallery through the map that is advised or named.

    Upgrade(old="old.npy", new="new.npy", gallery="gallery.npy", out="carried.npy").run()
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .maps import CLOSED_FORMS, DIRECTIONS, METHODS, NETWORKS, Map, fit, split

if TYPE_CHECKING:  # who only asks for help can do without torch and pyarrow
    from .advice import Advice
    from .backfill import Paths
    from .compare import Comparison


def option(text: str, **default: Any) -> Any:
    """A field of a command, and what its help says."""
    return field(metadata={"help": text}, **default)


@dataclass(frozen=True)
class Done:
    """The findings of a command, and what it did."""

    comparison: Comparison
    plan: Paths
    advice: Advice
    map: Map | None
    """the one that is advised or was named; None for none"""
    out: str | None = None
    """the new gallery, None if none was written"""
    switch: str = ""
    """how to search it in place of the old one"""
    maps: dict[str, Map] = field(default_factory=dict, repr=False)

    def json(self) -> str:
        """All figures, for a program."""
        about = {"advice": asdict(self.advice), "map": None if self.map is None else self.map.label, "out": self.out}
        paths = {path.name: asdict(path) | {"sinks": path.sinks_surely} for path in self.plan.paths}
        comparison = asdict(self.comparison) | {"best": self.comparison.best, "choice": self.comparison.choice}
        return json.dumps(about | {"comparison": comparison, "paths": paths, "best_path": self.plan.best.name})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Compare all ways to serve a new model, and say which to take."""

    old: str = option("embeddings of some items by the old model")
    new: str = option(
        "embeddings of the same items by the new model; joined by id where both have ids, so that --old may be the "
        "gallery itself"
    )
    side: str | None = option("side-information of the items of --old, in place of its column", default=None)
    labels: str | None = option("integers or text, one for each item of --old: judge by mAP", default=None)
    gallery: str | None = option("embeddings by the old model that are to become new ones", default=None)
    columns: dict[str, str] = option(
        'what columns are called, such as: id "Item ID"; roles: id, vector ("embedding"), side, label',
        default_factory=dict,
    )
    metric: Literal["l2", "cosine", "ip"] = option("of the search: L2 distance, cosine or inner product", default="l2")
    method: str = option(
        "auto takes what is advised, of the closed forms; all trains residual and h as well, which takes minutes; a "
        "name, such as ridge, is used whatever the comparison says",
        default="auto",
    )
    direction: Literal["both", "gallery", "queries"] = option(
        "what may be mapped: the gallery, or queries of the new model, which leaves the gallery and its index alone",
        default="both",
    )
    old_model: bool = option("queries can still be embedded by the old model", default=True)
    gallery_size: int | None = option(
        "how many items a gallery has that is not given: agreement is extrapolated to that many", default=None
    )
    enough: float = option("share of neighbours that a map must keep, without labels", default=0.5)
    save_map: str | None = option("keep the map that is advised or named, as NAME.safetensors", default=None)
    backfill_list: str | None = option(
        "write the ids of the gallery as NAME.csv, in the order to embed them anew in", default=None
    )
    show_progress: bool = option("bars, where a terminal is watching", default=True)

    def run(self, tell: Callable[[str], object] = print) -> Done:
        """Do it.

        Args:
            tell: gets the tables and the advice.

        Raises:
            ValueError: bad input, before anything is written.
        """
        from . import backfill
        from .advice import recommend
        from .compare import compare
        from .pairs import read_pairs
        from .store import Gallery
        from .stores import open_source

        methods, directions = self._checked()
        pairs = read_pairs(
            self.old, self.new, side=self.side, labels=self.labels, columns=self.columns, metric=self.metric, tell=tell
        )  # fmt: skip
        size = self.gallery_size
        gallery = None
        if self.gallery is not None:
            gallery = Gallery("gallery", open_source(self.gallery, self.columns), self.columns)
            if (width := gallery.width("vector")) != pairs.old.shape[1]:
                raise ValueError(f"gallery: must have the width of old, {pairs.old.shape[1]}, got {width}")
            size = gallery.source.rows
        to_fit, held_out = split(pairs)
        maps = fit(
            to_fit, methods, directions=directions, metric=self.metric, show_progress=self.show_progress
        )  # fmt: skip
        comparison = compare(
            maps, to_fit, held_out, metric=self.metric, gallery_size=size, old_model=self.old_model
        )  # fmt: skip
        plan = backfill.plan(comparison, maps, to_fit, held_out)
        advice = recommend(comparison, plan, maps, enough=self.enough)
        tell("\n\n".join([comparison.table(), plan.table(), advice.text]))
        label = advice.map if self.method in ("auto", "all") else self._named(maps)
        chosen = None if label is None else _scored(maps[label], comparison)
        if self.backfill_list is not None and gallery is not None:
            backfill.write_list(self.backfill_list, gallery, pairs.old[: backfill.COUNTED], self.metric)
        if self.save_map is not None and chosen is not None:
            chosen.save(self.save_map)
        return Done(comparison, plan, advice, chosen, maps=maps)

    def _checked(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The methods and the directions, after what arguments tell alone was checked."""
        named = {name.lower(): name for name in METHODS}
        if self.method.lower() not in ("auto", "all", *named):
            raise ValueError(f"method: must be one of auto, all, {', '.join(METHODS)}, got {self.method!r}")
        if not 0 <= self.enough <= 1:
            raise ValueError(f"enough: must be a share, 0 .. 1, got {self.enough}")
        if self.gallery_size is not None and self.gallery_size < 1:
            raise ValueError(f"gallery_size: must be at least 1, got {self.gallery_size}")
        for name, suffix in (("save_map", ".safetensors"), ("backfill_list", ".csv")):
            path = getattr(self, name)
            if path is not None and Path(path).suffix != suffix:
                raise ValueError(f"{name}: must be NAME{suffix}, got {path}")
        if self.backfill_list is not None and self.gallery is None:
            raise ValueError("backfill_list: is of a gallery, and none is given")
        networks = NETWORKS if self.method == "all" else (named.get(self.method.lower()),)
        directions = DIRECTIONS if self.direction == "both" else (self.direction,)
        return (*CLOSED_FORMS, *(name for name in NETWORKS if name in networks)), directions

    def _named(self, maps: dict[str, Map]) -> str:
        """The label of the map by the method that was named: with side-information where there is some."""
        found = [label for label, one in maps.items() if one.name.lower() == self.method.lower()]
        gallery = [label for label in found if maps[label].ends.direction == "gallery"]
        return (gallery or found)[-1]


@dataclass(frozen=True, kw_only=True)
class Upgrade(Plan):
    """Plan, and put the gallery through the map that is advised or named."""

    out: str = option("the new gallery, which must not be there yet")
    gallery_side: str | None = option(
        "side-information of the gallery in place of its column, by id if both have ids", default=None
    )
    scheduler: str | None = option(
        "address of a scheduler of Dask, such as tcp://host:8786, whose workers map the gallery; files, and the folder "
        "of --out, must be on a disk that all of them share",
        default=None,
    )
    overwrite: bool = option("replace the file --out", default=False)

    def run(self, tell: Callable[[str], object] = print) -> Done:
        """Do what ``Plan.run`` does, and then ``carry.carry``."""
        from .carry import carry
        from .stores import open_target

        if self.gallery is None:
            raise ValueError("gallery: is needed, got none")
        if self.direction == "queries":
            raise ValueError(
                "direction: maps of queries leave the gallery alone; gallerykit plan --save-map writes one"
            )
        open_target(self.out).check_new(self.overwrite)
        done = super().run(tell)
        if done.map is None or done.map.ends.direction == "queries":
            return done
        side = self.gallery_side if done.map.ends.d_side else None
        switch = carry(
            done.map, self.gallery, self.out, side=side, columns=self.columns, scheduler=self.scheduler,
            overwrite=self.overwrite, show_progress=self.show_progress,
        )  # fmt: skip
        return replace(done, out=self.out, switch=switch)


def _scored(one: Map, comparison: Comparison) -> Map:
    """The map, with what was measured of it."""
    way = comparison.ways[one.label]
    found = {name: getattr(way, name) for name in ("agreement", "in_gallery", "top1", "score")}
    scores = {name: f"{x.mean:.6g} ({x.low:.6g} .. {x.high:.6g})" for name, x in found.items() if x is not None}
    return replace(one, about=one.about | {"held_out": str(comparison.held_out)} | scores)
