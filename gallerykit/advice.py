"""What to do with a gallery, given how the maps compare: use one, back-fill the worst part and map the rest, back-fill
all, or do nothing."""

from __future__ import annotations

from dataclasses import dataclass

from compatkit.intervals import Interval

from .backfill import Share
from .comparison import Comparison
from .maps import METHODS
from .printed import count, percent, percent_between

PART = 0.2  # of the gallery, of which the advice says what back-filling it would give


@dataclass(frozen=True)
class Advice:
    """What ``recommend`` says."""

    method: str | None
    """the map to use, None for none"""
    share: float
    """of the gallery that is to be back-filled, those items first near which the map loses most: 0 none, 1 all"""
    text: str
    """that and why, for people to read"""


def recommend(comparison: Comparison, *, enough: float = 0.5, backfill_seconds: float | None = None) -> Advice:
    """Which map to use, or what else to do, and why.

    The score is mAP by the map where there are labels, and agreement with the new model's neighbours otherwise. Two
    maps are taken as equal if their 95 % intervals overlap. The best has the highest score, the choice is the simplest
    map that equals it: the order of ``METHODS``. In this order:

    1. Back-fill all if that is not slower: ``backfill_seconds`` is what the new model takes for 10 000 items.
    2. Back-fill if even the best is not good enough. With labels: its mAP is below that of old/old, by the interval of
       the difference between the two, query by query. Without: its agreement is below ``enough``, in the gallery where
       its size is known (see ``sizes``), and among the held-out pairs otherwise. If back-filling a part is good enough
       by its whole interval (of mAP less that of old/old, or of agreement), then the least such part.
    3. Do nothing if the choice is identity and the old embeddings can be searched as they are, being as wide as the new
       ones and of length 1 where those are.
    4. Otherwise use the choice.

    Args:
        comparison: what ``compare`` measured.
        enough: the least agreement, in 0..1, of a map that may be used.
        backfill_seconds: None if not known.
    """
    name, seconds = comparison.choice, comparison.candidates[comparison.choice].seconds
    short = _shortfall(comparison, enough)
    if backfill_seconds is not None and backfill_seconds <= seconds:
        price = f"takes {backfill_seconds:.3g} s for 10 000 items, {name} {seconds:.3g} s"
        return Advice(None, 1.0, f"Back-fill: it is exact and {price}.")
    if short:
        return _back_fill(comparison, enough, short, backfill_seconds)
    because = f"{_why(comparison)}. {_lost(comparison, name)}"
    if name == "identity" and comparison.same_shape:
        return Advice(None, 0.0, f"Do nothing: the old gallery serves the new model as it is; {because}")
    if backfill_seconds is not None:
        because += f" Back-filling would take {backfill_seconds / seconds:,.0f} times as long."
    return Advice(name, 0.0, f"Use {name}: {because}{_part(comparison)}")


def _shortfall(comparison: Comparison, enough: float) -> str:
    """Why not even the best map is good enough; empty if it is."""
    best = comparison.candidates[comparison.best]
    if comparison.old is None:
        score = best.in_gallery or best.agreement
        if score.mean >= enough:
            return ""
        reason = f"even the best map, {best.name}, has an {_scored(comparison, best.name)}"
        return f"{reason}; {100 * enough:g} % would be enough{_decided(score, enough)}"
    if best.gain is None or best.gain.high >= 0:
        return ""
    old = percent(comparison.old[1])
    return (
        f"even the best map, {best.name}, has a {_scored(comparison, best.name)}, and old/old has {old} % without any"
    )


def _decided(score: Interval, enough: float) -> str:
    return ", which lies within the interval: more pairs would decide" if score.low <= enough <= score.high else ""


def _scored(comparison: Comparison, name: str) -> str:
    """The score by which a map is judged, and of how many items."""
    candidate, held_out = comparison.candidates[name], count(comparison.held_out)
    if candidate.mean_ap is not None:
        return f"mAP of {percent(candidate.mean_ap)} % among the {held_out} held-out items"
    what = "agreement with the new model's nearest neighbours of"
    here = f"{percent(candidate.agreement)} % among the {held_out} held-out items"
    if comparison.gallery_size is None:
        return f"{what} {here} (fewer in a larger gallery: say --gallery-size)"
    if candidate.in_gallery is None:
        return f"{what} {here} (too few to say it of {count(comparison.gallery_size)})"
    size = f"in the gallery of {count(comparison.gallery_size)}, extrapolated from {here}"
    return f"{what} {percent_between(candidate.in_gallery)} % {size}"


def _why(comparison: Comparison) -> str:
    """Why the choice was chosen."""
    name, best = comparison.choice, comparison.best
    article = "an" if comparison.old is None else "a"
    reason = f"it has {article} {_scored(comparison, name)}, and "
    if name != best:
        return f"{reason}the best, {best} with {percent(comparison.score(best))} %, is within the interval"
    simpler = [other for other in comparison.candidates if METHODS.index(other) < METHODS.index(name)]
    return reason + ("no simpler map comes within its interval" if simpler else "no other map has more")


def _lost(comparison: Comparison, name: str) -> str:
    """What would be lost, and won."""
    candidate = comparison.candidates[name]
    works = "find an item of their class" if comparison.old is not None else "find the item nearest by the new model"
    lost, won = percent(candidate.lost), percent(candidate.won)
    return f"{lost} % of the held-out queries {works} today and no longer would, {won} % the other way round."


def _back_fill(comparison: Comparison, enough: float, short: str, backfill_seconds: float | None) -> Advice:
    """All of the gallery, or the least part that is good enough."""
    plan, labelled = comparison.mixed, comparison.old is not None
    parts = [] if plan is None else [one for one in plan.shares if 0 < one.share < 1 and _is_enough(one, enough)]
    if plan is None or not parts:
        return Advice(None, 1.0, f"Back-fill{', or keep the old model' if labelled else ''}: {short}.")
    share = parts[0].share
    price = ""
    if backfill_seconds is not None:
        price = (
            f", for {plan.seconds(share, backfill_seconds):.3g} s in place of {backfill_seconds:.3g} s for 10 000 items"
        )
    text = f"Back-fill the worst {100 * share:g} % (--backfill-list) and map the rest by {plan.map}: {short}; so mixed,"
    return Advice(plan.map, share, f"{text} it is {_of_share(parts[0])} %{_of_order(parts[0])}{price}.")


def _is_enough(one: Share, enough: float) -> bool:
    """Beyond doubt: by the whole interval."""
    return one.gain.low >= 0 if one.gain is not None else (one.in_gallery or one.agreement).low >= enough


def _of_share(one: Share) -> str:
    """The score of a share, of as many items as that of the map alone."""
    return percent(one.mean_ap) or percent_between(one.in_gallery) or percent(one.agreement)


def _of_order(one: Share) -> str:
    return "" if one.agreement.low > one.at_random.mean else " (a random order may do as well)"


def _part(comparison: Comparison) -> str:
    """What back-filling the worst part first would give, if that is more."""
    if comparison.mixed is None:
        return ""
    alone, found = (next(one for one in comparison.mixed.shares if one.share == share) for share in (0, PART))
    if (found.mean_ap or found.agreement).low <= (alone.mean_ap or alone.agreement).high:
        return ""
    mixed = f"the worst {100 * PART:g} % back-filled (--backfill-list) and the rest by {comparison.mixed.map}"
    return f" With {mixed} it would be {_of_share(found)} %{_of_order(found)}."
