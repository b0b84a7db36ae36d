"""What our runs say about a published number, by a stated rule; the table paper | ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from compatkit.intervals import Interval, difference, interval, quantile

from .published import near_misses, paper_numbers

VERDICTS = ("reproduced", "trend only", "not reproduced", "undecided", "not run")

# One point is 1 for percentages. These metrics are printed as fractions, so there it is 0.01.
POINT = {"linear CKA": 0.01, "cross-correlation": 0.01}


def verdict(
    ours: Sequence[float],
    published: float | None,
    *,
    reference: Sequence[float] | None = None,
    published_reference: float | None = None,
    spread: float | None = None,
    n_published: int | None = None,
    same_data: bool,
    point: float = 1.0,
    paired: bool | None = None,
) -> str:
    """What our runs say about a published number, never more than the evidence.

    Two things can be claimed of a row. Its *trend*: on which side of a reference row (say, ``independent``) it lies.
    Its *level*: the number itself.

    Trend, from the 95 % interval of our difference to ``reference`` (paired by seed if the lengths agree, Welch's
    otherwise, see ``difference``):

    - shown: the interval lies wholly on the side of 0 on which the paper's difference lies;
    - contradicted: it lies wholly on the other side;
    - open: it holds 0, or there is none since a side has fewer than 2 values;
    - none claimed: ``reference`` or ``published_reference`` is None, or the paper's difference is 0.

    Level, only on the paper's own data (``same_data``) and with 2 values or more. Published value and ours agree if
    they are no farther apart than our half width plus that of the published value, which is t * spread /
    sqrt(n_published) or one ``point``, whichever is larger:

    - agrees: so, and our half width is at most 5 points; a wider interval agrees with nearly anything and leaves the
      level open;
    - differs: farther apart;
    - open: otherwise.

    Verdict:

    - ``not run``: no values.
    - ``reproduced``: the level agrees, and the trend is shown or none was claimed.
    - ``trend only``: the trend is shown, the level differs or is open (always open on other data).
    - ``not reproduced``: the trend is contradicted; or the level differs and either no trend was claimed, or our
      interval of the difference holds 0 and lies farther than one point from the published difference, so that the
      effect is missing and not merely unseen.
    - ``undecided``: everything else, so always with one value, when nothing was published, when the interval is too
      wide to tell, and for a reference row on other data. Absence of evidence is not evidence of absence: more seeds
      can change it.

    Args:
        ours: one value a run, in the paper's unit, as are all others.
        published: None where the paper has no number.
        reference, published_reference: of the row that trends refer to.
        spread: standard deviation of the published value over ``n_published`` runs, where the paper tells.
        same_data: our runs are on the paper's own data.
        point: one point of the metric.
        paired: see ``difference``.

    Returns:
        One of ``VERDICTS``.
    """
    if len(ours) == 0:
        return "not run"
    mine = interval(ours)
    if published is None or mine.n < 2:
        return "undecided"
    trend, gap = _trend(ours, published, reference, published_reference, paired)
    level = _level(mine, published, spread, n_published, point) if same_data else "open"
    if trend == "contradicted":
        return "not reproduced"
    if level == "agrees" and trend in ("shown", "none claimed"):
        return "reproduced"
    if trend == "shown":
        return "trend only"
    if level == "differs":
        if trend == "none claimed":
            return "not reproduced"
        if gap is not None and not gap.low - point <= published - published_reference <= gap.high + point:
            return "not reproduced"
    return "undecided"


def _trend(ours, published, reference, published_reference, paired) -> tuple[str, Interval | None]:
    if reference is None or published_reference is None or published == published_reference:
        return "none claimed", None
    if len(reference) == 0:
        return "open", None
    gap = difference(ours, reference, paired=paired)
    if gap.n < 2:
        return "open", None
    if gap.low <= 0 <= gap.high:
        return "open", gap
    return ("shown" if (gap.mean > 0) == (published > published_reference) else "contradicted"), gap


def _level(mine: Interval, published: float, spread: float | None, n_published: int | None, point: float) -> str:
    tolerance = point
    if spread is not None and n_published is not None and n_published > 1:
        tolerance = max(point, quantile(n_published - 1, 0.95) * spread / math.sqrt(n_published))
    if abs(mine.mean - published) > mine.half_width + tolerance:
        return "differs"
    return "agrees" if mine.half_width <= 5 * point else "open"


def compare(
    rows: Mapping[str, Sequence[float] | Mapping[int, float]],
    *,
    paper: str,
    item: str,
    column: str,
    metric: str,
    reference: str | None = None,
    same_data: bool,
    n_published: int | None = None,
    scale: float = 1.0,
) -> list[dict]:
    """The table paper | ours.

    A published bound is shown but not judged as if it were a level.

    Args:
        rows: for each name its values, one a seed, or ``{seed: value}`` as ``by_row`` gives, which pairs by seed where
            the seeds agree and uses Welch's interval otherwise.
        paper, item, column, metric: as in paper.csv.
        reference: the row that trends refer to.
        same_data, n_published: see ``verdict``.
        scale: takes ours to the paper's unit (100 for fractions).

    Returns:
        A dict ``{row, paper, ours, n, verdict, note}`` for each published row, in paper.csv's order, then for each row
        of ours that the paper does not have. ``ours`` is an ``Interval`` or None.

    Raises:
        KeyError: an unknown item, column, metric or reference.
    """
    published = {r["row"]: r for r in paper_numbers(paper, item) if r["column"] == column and r["metric"] == metric}
    if not published:
        wanted = (paper, item, "", column, metric)
        raise KeyError(f"paper.csv has no {column} | {metric} in {paper} {item}; near: {near_misses(wanted)}")
    names = [*published, *(name for name in rows if name not in published)]
    if reference is not None and reference not in names:
        raise KeyError(f"reference: no row {reference!r}; rows are {', '.join(names)}")
    table = []
    for name in names:
        theirs = published.get(name, {})
        ours, other, paired = _aligned(rows.get(name, ()), rows.get(reference, ()), scale)
        judged = name != reference and reference is not None
        bound = theirs.get("note", "").startswith("bound:")
        notes = [theirs["note"] if theirs else "not in the paper"]
        if name == reference:
            notes.append("the row to which trends refer")
        table.append(
            {
                "row": name,
                "paper": theirs.get("value"),
                "ours": interval(ours) if ours else None,
                "n": len(ours),
                "verdict": verdict(
                    ours,
                    None if bound else theirs.get("value"),
                    reference=other if judged else None,
                    published_reference=published.get(reference, {}).get("value") if judged else None,
                    spread=theirs.get("spread"),
                    n_published=n_published,
                    same_data=same_data,
                    point=POINT.get(metric, 1.0),
                    paired=paired,
                ),
                "note": "; ".join(filter(None, notes)),
            }
        )
    return table


def _aligned(ours, reference, scale: float) -> tuple[list[float], list[float], bool | None]:
    """Values of both, by seed where the seeds are known, and whether they are pairs (None: by length)."""
    paired = None
    if isinstance(ours, Mapping) and isinstance(reference, Mapping):
        paired = set(ours) == set(reference)
    first, second = ([x[k] for k in sorted(x)] if isinstance(x, Mapping) else list(x) for x in (ours, reference))
    return [float(v) * scale for v in first], [float(v) * scale for v in second], paired
