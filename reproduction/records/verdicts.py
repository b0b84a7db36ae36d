"""One rule for what our runs say of a claim, of a printed number, and of all claims together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compatkit.intervals import Interval, above, equivalence, holm, interval, values_needed

from .claims import UNITS, Claim, Records, Seeds, Side, by_images, chosen, images_in_words, values
from .provenance import drawn, is_stale
from .published import near_misses, paper_numbers

DECIDED = ("shown", "contradicted", "equal")
VERDICTS = (*DECIDED, "open", "not judged", "not run")

MOST_SEEDS = 50
"""Beyond so many seeds it is not said how many would decide."""


def level_margin(metric: str) -> float:
    """How far a level may lie from a printed one, in the paper's unit: 0.05 of a correlation, else 2 points."""
    return 0.05 if metric in ("linear CKA", "cross-correlation") else 2.0


@dataclass(frozen=True)
class Verdict:
    """One of ``VERDICTS``.

    Attributes:
        word: the verdict.
        p_value: of the test that comes nearest to a decision; None where nothing is judged.
        seeds: how many would decide what is open, at the spread seen; None where ``MOST_SEEDS`` would not, or nothing
            is open.
        reason: why nothing is judged.
    """

    word: str
    p_value: float | None = None
    seeds: int | None = None
    reason: str = ""


def judge(differences: Sequence[float], direction: str, margin: float) -> Verdict:
    """What the differences of pairs of runs say of a claim about their mean.

    With the 95 % interval of the mean (Student's t):

    - ``shown``: it lies beyond the margin on the paper's side. For "above" that is above ``+margin``, for "not below"
      above ``-margin``; "same" is shown by two one-sided tests at 5 %: the 90 % interval lies within the margin on
      either side.
    - ``contradicted``: it lies beyond the margin on the other side; for "same" on either side.
    - ``equal``, for "above" alone: two one-sided tests show that there is no difference as large as the margin.
    - ``open``: none of these, so always with one run. A wide interval decides nothing.
    - ``not run``: no runs.

    Args:
        differences: one a seed.
        direction: of ``claims.DIRECTIONS``.
        margin: in the differences' unit.
    """
    if not differences:
        return Verdict("not run", reason="no runs")
    if len(differences) < 2:
        return Verdict("open", reason="one run has no interval")
    inside, beyond, below = (
        equivalence(differences, margin),
        2 * above(differences, -margin if direction == "not below" else margin),
        2 * above([-d for d in differences], margin),
    )
    tests = {
        "above": {"shown": beyond, "contradicted": below, "equal": inside},
        "same": {"shown": inside, "contradicted": min(beyond, below)},
        "not below": {"shown": beyond, "contradicted": below},
    }[direction]
    word = min(tests, key=tests.__getitem__)
    p_value = min(1.0, tests[word])
    if p_value > 0.05:
        return Verdict("open", p_value, _seeds_needed(differences, direction, margin))
    return Verdict(word, p_value)


def _seeds_needed(differences: Sequence[float], direction: str, margin: float) -> int | None:
    """How many seeds would decide, were mean and spread to stay what they are."""
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    inside = abs(mean) < margin and direction != "not below"
    distance = abs(mean + margin) if direction == "not below" else abs(abs(mean) - margin)
    return values_needed(spread, distance, level=0.9 if inside else 0.95, most=MOST_SEEDS)


def judge_level(ours: Sequence[float], published: float | None, margin: float, differs: Iterable[str]) -> Verdict:
    """What our runs say of a printed level: "same" in the sense of ``judge``, and only where everything is the paper's.

    Args:
        ours: one value a seed, in the paper's unit.
        published: None where the paper has no number.
        margin: in the same unit.
        differs: the settings in which the runs are not the paper's; with any, the level is not judged.
    """
    if not ours:
        return Verdict("not run", reason="no runs")
    if published is None:
        return Verdict("not judged", reason="no number is printed")
    if differs:
        return Verdict("not judged", reason=f"level not judged: other {in_words(differs)}")
    return judge([value - published for value in ours], "same", margin)


def in_words(differs: Iterable[str]) -> str:
    """Of what kind settings are that differ: "images, network and schedule"."""
    kinds = {_kind(name) for name in differs}
    *first, last = [kind for kind in ("images", "network", "schedule") if kind in kinds]
    return f"{', '.join(first)} and {last}" if first else last


def _kind(setting: str) -> str:
    if "recipe" in setting or setting == "epochs":
        return "schedule"
    return "network" if any(part in setting for part in ("network", "width", "dim", "split")) else "images"


# --- claims -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Records that belong together: those of one preset, or of one with other settings, by experiment. ``planned``: how
    many runs each experiment has there, recorded or not; ``seeds``: for how many seeds."""

    name: str
    records: Mapping[str, Records]
    planned: Mapping[str, int]
    seeds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What the runs of one source on the same images say of a claim.

    Attributes:
        source, images: in words.
        ours: the difference, or the level, in the claim's unit; None where there are no runs.
        verdict: on the claim.
        stale: how many of the records are stale.
        whole: whether every seed has run that is planned for both sides.
    """

    source: str
    images: str
    ours: Interval | None
    verdict: Verdict
    stale: int = 0
    whole: bool = True


@dataclass(frozen=True)
class Judged:
    """A claim with all ``evidence`` on record, the best first."""

    claim: Claim
    evidence: tuple[Evidence, ...]

    @property
    def best(self) -> Evidence:
        """The evidence that gives the claim its one verdict: the first of which every planned seed has run, else the
        first with two runs or more, else the first."""
        if not self.evidence:
            return Evidence(
                "", "", None, Verdict("not run", reason=self.claim.note if self.claim.one is None else "no runs")
            )
        return max(self.evidence, key=_weight)  # of equals the first

    @property
    def word(self) -> str:
        """The claim's verdict."""
        return self.best.verdict.word


def _weight(found: Evidence) -> int:
    several = found.ours is not None and found.ours.n > 1
    return several + (several and found.whole)


def differences(claim: Claim, records: Mapping[str, Records], used: Iterable[Mapping]) -> Seeds:
    """A claim's difference, or its level, by seed, in its unit; seeds that one side lacks are left out, and those of
    which one side was made before images or code changed. ``used``: the records that the claim takes of these."""
    if claim.one is None:
        return {}
    scale, _ = UNITS[claim.unit]
    ours = values(claim.one, records.get(claim.one.experiment, ()))
    if isinstance(claim.other, Side):
        reference = values(claim.other, records.get(claim.other.experiment, ()))
        seeds = (ours.keys() & reference.keys()) - _made_apart(used)
        return {seed: scale * (ours[seed] - reference[seed]) for seed in seeds}
    return {seed: scale * (value - (claim.other or 0.0)) for seed, value in ours.items()}


def _used(claim: Claim, records: Mapping[str, Records]) -> list[Mapping]:
    """The records of a claim; those that both sides use, once."""
    sides = [side for side in (claim.one, claim.other) if isinstance(side, Side)]
    return list({r["run_id"]: r for side in sides for r in chosen(side, records.get(side.experiment, ()))}.values())


def _made_apart(records: Iterable[Mapping]) -> set[int]:
    """The seeds whose records saw different images of one name, or of which some are stale and some are not."""
    seen: dict[tuple, set] = {}
    for record in records:
        for what, made in [*drawn(record).items(), (None, is_stale(record))]:
            seen.setdefault((record["seed"], what), set()).add(made)
    return {seed for (seed, _), several in seen.items() if len(several) > 1}


def evidence(claim: Claim, source: Source) -> list[Evidence]:
    """What the records of a source say of a claim, for each set of images that its plan names, in that order."""
    groups = {name: by_images(source.records.get(name, ())) for name in claim.experiments}
    found = []
    for images in groups[claim.experiments[0]] if groups else ():
        records = {name: group.get(images, []) for name, group in groups.items()}
        used = _used(claim, records)
        by_seed = differences(claim, records, used)
        if not by_seed:
            continue
        found.append(
            Evidence(
                source.name,
                images_in_words(records[claim.experiments[0]]),
                interval(by_seed.values()),
                _verdict(claim, list(by_seed.values()), used),
                sum(map(is_stale, used)),
                len(by_seed) >= min(source.seeds.get(name, 0) for name in claim.experiments),
            )
        )
    return found


def _verdict(claim: Claim, by_seed: Sequence[float], used: Iterable[Mapping]) -> Verdict:
    if claim.kind == "level":
        return judge_level(by_seed, claim.published, claim.margin, {name for r in used for name in r["differs"]})
    return judge(by_seed, claim.direction, claim.margin)


def judged(claims: Iterable[Claim], sources: Sequence[Source]) -> list[Judged]:
    """Each claim with the evidence of all sources, which stand in order, the best first; they are never blended."""
    return [Judged(claim, tuple(found for s in sources for found in evidence(claim, s))) for claim in claims]


@dataclass(frozen=True)
class Totals:
    """Of claims of one kind: how often each verdict was given; how many were ``tested``, which counts what is decided
    or open; how many decisions stand (``after_holm``) when one wrong one among all claims is to have 5 %."""

    words: Counter
    tested: int
    after_holm: int


def totals(found: Sequence[Judged], *kinds: str) -> Totals:
    """Count verdicts on claims of these kinds; Holm's correction is over all claims that are ``found``."""
    chosen = [one for one in found if one.claim.kind in kinds]
    stands = standing(found)
    return Totals(
        Counter(one.word for one in chosen),
        sum(one.best.verdict.p_value is not None for one in chosen),
        sum(one.claim.id in stands for one in chosen),
    )


def standing(found: Sequence[Judged]) -> set[str]:
    """The claims, by id, whose decision stands with Holm's correction for all that are ``found``."""
    tested = [one for one in found if one.best.verdict.p_value is not None]
    stands = holm([one.best.verdict.p_value for one in tested])
    return {one.claim.id for one, stays in zip(tested, stands, strict=True) if stays}


# --- printed numbers --------------------------------------------------------------------------------------------------


def compare(
    rows: Mapping[str, Seeds],
    *,
    paper: str,
    item: str,
    column: str,
    metric: str,
    differs: Iterable[str],
    scale: float = 1.0,
) -> list[dict]:
    """The table paper | ours.

    Args:
        rows: for each name its values by seed.
        paper, item, column, metric: as in paper.csv.
        differs: see ``judge_level``. A published bound is shown but not judged as if it were a level.
        scale: takes ours to the paper's unit (100 for fractions).

    Returns:
        A dict ``{row, paper, ours, n, verdict}`` for each published row, in paper.csv's order, then for each row of
        ours that the paper does not have. ``ours`` is an ``Interval`` or None.

    Raises:
        KeyError: an unknown item, column or metric.
    """
    published = {r["row"]: r for r in paper_numbers(paper, item) if r["column"] == column and r["metric"] == metric}
    if not published:
        wanted = (paper, item, "", column, metric)
        raise KeyError(f"paper.csv has no {column} | {metric} in {paper} {item}; near: {near_misses(wanted)}")
    table = []
    for name in [*published, *(name for name in rows if name not in published)]:
        theirs = published.get(name, {})
        bound = theirs.get("note", "").startswith("bound:")
        ours = [scale * value for value in rows.get(name, {}).values()]
        table.append(
            {
                "row": name,
                "paper": theirs.get("value"),
                "ours": interval(ours) if ours else None,
                "n": len(ours),
                "verdict": judge_level(ours, None if bound else theirs.get("value"), level_margin(metric), differs),
            }
        )
    return table
