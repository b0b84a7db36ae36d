"""Advice on a change of model, given how all ways compare and what each path to the new model gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .backfill import Paths
from .compare import OLD, Comparison
from .maps import Map
from .printed import count, percent, percent_between


@dataclass(frozen=True)
class Advice:
    """The advice of ``recommend``."""

    action: str  #: "nothing" (the old gallery serves as it is), "keep" the old model, "map", or "back-fill" all
    map: str | None  #: the label of the map to use
    path: str | None  #: the name of the path to take where the gallery is embedded anew, see ``backfill.Paths``
    text: str  #: that and why, for people to read


def recommend(comparison: Comparison, paths: Paths, maps: Mapping[str, Map], *, enough: float = 0.5) -> Advice:
    """Recommend what to do, and say why.

    The score is mAP where there are labels, and agreement with the new model's neighbours otherwise. Two maps are taken
    as equal if their 95 % intervals overlap. The best has the highest score, the choice is the simplest map that equals
    it. In this order:

    1. Do nothing if the choice is identity and the old embeddings can be searched as they are.
    2. Keep the old model if no map finds more, by the interval of the difference query by query, while queries can
       still be embedded by it.
    3. Back-fill if there are no labels and the best map's agreement is below ``enough``, in the gallery where its size
       is known.
    4. Otherwise use the choice.

    Args:
        comparison: what ``compare`` measured.
        paths: of the same maps and pairs.
        maps: by label.
        enough: the least agreement, in 0..1, of a map that may be used.
    """
    choice, best = comparison.ways[comparison.choice], comparison.ways[comparison.best]
    path = paths.best.name
    if "identity" in choice.name and _serves_as_it_is(maps[choice.name]):
        text = f"Do nothing: the old gallery serves the new model as it is, {_scored(comparison, choice.name)}."
        return Advice("nothing", None, None, text)
    if comparison.old_model and best.gain.low <= 0:
        text = (
            f"Keep the old model: no map finds more. The best, {best.name}, has {_scored(comparison, best.name)}, and "
            f"old/old has {percent(comparison.ways[OLD].score)} % without any. {_anew(comparison)}"
            f"If queries can no longer be embedded by the old model (--no-old-model), use {choice.name}. "
        )
        return Advice("keep", None, path, text + _on_the_way(paths))
    score = best.in_gallery or best.agreement
    if not comparison.labelled and score.mean < enough:
        decided = ", which lies within the interval: more pairs would decide" if score.high >= enough else ""
        text = (
            f"Back-fill: even the best map, {best.name}, has {_scored(comparison, best.name)}; {100 * enough:g} % "
            f"would be enough{decided}. No map from these embeddings would agree by more than about "
            f"{100 * comparison.ceiling.mean:.0f} %. "
        )
        return Advice("back-fill", None, path, text + _on_the_way(paths))
    why = "no other map has more" if choice is best else f"the best, {best.name}, is within the interval"
    text = (
        f"Use {choice.name}: it has {_scored(comparison, choice.name)}, and {why}. {percent(choice.lost)} % of the "
        f"held-out queries work today and no longer would, {percent(choice.won)} % the other way round. "
    )
    return Advice("map", choice.name, path, text + _on_the_way(paths))


def _serves_as_it_is(identity: Map) -> bool:
    """Whether the old embeddings are as wide as the new ones and, unless lengths do not count, of length 1 where those
    are."""
    ends = identity.ends
    lengths = ends.direction == "queries" or ends.metric == "cosine" or ends.unit_in or not ends.unit
    return ends.d_in == ends.d_out and lengths


def _scored(comparison: Comparison, name: str) -> str:
    """The score of a way, and of how many items."""
    way, among = comparison.ways[name], f"among the {count(comparison.held_out)} held-out items"
    if comparison.labelled:
        return f"a mAP of {percent(way.score)} % {among}"
    here, what = f"{percent(way.agreement)} % {among}", "an agreement with the new model's nearest neighbours of"
    if comparison.gallery_size is None:
        return f"{what} {here} (fewer in a larger gallery: say --gallery-size)"
    if way.in_gallery is None:
        return f"{what} {here} (too few to say it of {count(comparison.gallery_size)})"
    size = f"in the gallery of {count(comparison.gallery_size)}, extrapolated from {here}"
    return f"{what} {percent_between(way.in_gallery)} % {size}"


def _anew(comparison: Comparison) -> str:
    """What a cascade gives, for its price."""
    score = next((x.in_gallery or x.score for name, x in comparison.ways.items() if name == f"{OLD}, 200 anew"), None)
    return f"To embed the first 200 results of each query anew would give {percent_between(score)} %. " * bool(score)


def _on_the_way(paths: Paths) -> str:
    """How to go to the new model little by little."""
    text = f"To back-fill little by little, what searches find most often first (--backfill-list): {paths.best.name}"
    text += "." if paths.best.sinks else ", which is never worse than where it starts and ends."
    sinking = [(path.name, stage) for path in paths.paths if path.sinks_surely for stage in path.stages]
    if sinking:
        name, stage = min(sinking, key=lambda one: one[1].score.mean)
        done = f"with {100 * stage.share:g} % done it would have {percent(stage.score)} %"
        text += f" Not {name}: {done}, less than at either end."
    return text
