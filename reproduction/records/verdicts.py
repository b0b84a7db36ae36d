"""One rule for what our runs say of a claim, of a printed number, and of all claims together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compatkit.intervals import Estimate, Interval, estimate, estimate_difference

from .claims import NOT_TESTABLE, UNITS, Claim, Records, Seeds, Side, by_images, chosen, images_in_words, values
from .provenance import drawn, is_stale
from .published import paper_numbers
from .statistics import benjamini_hochberg, holm, share_of_gap

DECIDED = ("shown", "contradicted", "equal")
VERDICTS = (*DECIDED, "mixed", "open", "not judged", "not run", "not testable")
WRONG_AT_MOST = 0.075
"""How often a test decides wrongly at worst, which is where the truth lies on the margin: "shown" at 2.5 % on its one
side, "equal" at 5 % on the other."""

MOST_SEEDS = 50
"""Beyond so many seeds it is not said how many would decide."""


def level_margin(metric: str) -> float:
    """The distance that a level may have from a printed one: 0.05 of a correlation, else 2 points."""
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


def judge(found: Estimate | None, direction: str, margin: float) -> Verdict:
    """Judge a claim by a difference between runs.

    With its 95 % interval (Student's t):

    - ``shown``: it lies beyond the margin on the paper's side. For "above" that is above ``+margin``, for "not below"
      above ``-margin``; "same" is shown by two one-sided tests at 5 %: the 90 % interval lies within the margin on
      either side.
    - ``contradicted``: it lies beyond the margin on the other side; for "same" on either side.
    - ``equal``, for "above" alone: two one-sided tests show that there is no difference as large as the margin.
    - ``open``: none of these, so always with one run.
    - ``not run``: no runs.

    Args:
        found: the difference, None where there are no runs.
        direction: of ``claims.DIRECTIONS``.
        margin: in the difference's unit.
    """
    if found is None:
        return Verdict("not run", reason="no runs")
    if found.n < 2:
        return Verdict("open", reason="one run has no interval")
    inside, beyond, below = (
        found.within(margin),
        2 * found.above(-margin if direction == "not below" else margin),
        2 * found.below(-margin),
    )
    tests = {
        "above": {"shown": beyond, "contradicted": below, "equal": inside},
        "same": {"shown": inside, "contradicted": min(beyond, below)},
        "not below": {"shown": beyond, "contradicted": below},
    }[direction]
    word = min(tests, key=tests.__getitem__)
    p_value = min(1.0, tests[word])
    if p_value > 0.05:
        return Verdict("open", p_value, _seeds_needed(found, direction, margin))
    return Verdict(word, p_value)


def _seeds_needed(found: Estimate, direction: str, margin: float) -> int | None:
    """The number of seeds that would decide, were mean and spread to stay what they are."""
    inside = abs(found.mean) < margin and direction != "not below"
    distance = abs(found.mean + margin) if direction == "not below" else abs(abs(found.mean) - margin)
    return found.needed(distance, level=0.9 if inside else 0.95, most=MOST_SEEDS)


def judge_level(found: Estimate | None, published: float | None, margin: float, differs: Iterable[str]) -> Verdict:
    """Judge a printed level by our runs: "same" in the sense of ``judge``, and only where everything is the paper's.

    Args:
        found: ours, in the paper's unit; None where there are no runs.
        published: None where the paper has no number.
        margin: in the same unit.
        differs: the settings in which the runs are not the paper's; with any, the level is not judged.
    """
    if found is None:
        return Verdict("not run", reason="no runs")
    if published is None:
        return Verdict("not judged", reason="no number is printed")
    if differs:
        return Verdict("not judged", reason=f"level not judged: other {in_words(differs)}")
    return judge(found.scaled(1, -published), "same", margin)


def in_words(differs: Iterable[str]) -> str:
    """The kinds of settings that differ, in words: "images, network and schedule"."""
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
    """The evidence on a claim by the runs of one source on the same images.

    Attributes:
        source, images: in words.
        ours: the difference, or the level, in the claim's unit; None where there are no runs.
        stale: how many of the records are stale.
        whole: whether every seed has run that is planned for both sides.
        half_90: half the width of the 90 % interval, by which "same" is judged.
    """

    source: str
    images: str
    ours: Interval | None
    verdict: Verdict
    stale: int = 0
    whole: bool = True
    half_90: float = math.nan

    @property
    def photographs(self) -> bool:
        """Whether these are photographs, not the digits and drawn images of the preset laptop."""
        return self.source != "laptop"


@dataclass(frozen=True)
class Judged:
    """A claim with all ``evidence`` on record, the best source first."""

    claim: Claim
    evidence: tuple[Evidence, ...]

    @property
    def speaking(self) -> tuple[Evidence, ...]:
        """The evidence that gives the verdict: all image sets of the first source of which every planned seed has run,
        else of the first with two runs or more, else of the first."""
        best = max(self.evidence, key=_weight, default=None)  # of equals the first
        return tuple(
            one for one in self.evidence if best and one.source == best.source and _weight(one) == _weight(best)
        )

    @property
    def word(self) -> str:
        """The claim's verdict: what all image sets that speak say, and "mixed" where they do not say the same."""
        words = {one.verdict.word for one in self.speaking}
        nothing = "not testable" if self.claim.note.startswith(NOT_TESTABLE) else "not run"
        return "mixed" if len(words) > 1 else words.pop() if words else nothing

    @property
    def reason(self) -> str:
        """The reason why nothing is judged; empty where it is."""
        if self.speaking:
            return self.speaking[0].verdict.reason
        return self.claim.note.removeprefix(NOT_TESTABLE) if self.claim.one is None else "no runs"

    @property
    def p_value(self) -> float | None:
        """The p-value of the verdict: the largest of the image sets', since all must agree; 1 where they do not; None
        where nothing is judged."""
        tested = [one.verdict.p_value for one in self.speaking if one.verdict.p_value is not None]
        return None if not tested else 1.0 if self.word == "mixed" else max(tested)


def _weight(found: Evidence) -> int:
    several = found.ours is not None and found.ours.n > 1
    return several + (several and found.whole)


def contrast(claim: Claim, records: Mapping[str, Records]) -> Estimate | None:
    """A claim's difference, or its level, in its unit; None where no seed has all that it takes."""
    if claim.one is None:
        return None
    scale, _ = UNITS[claim.unit]
    found = share(claim.sides, records) if claim.start else _difference(claim.sides, records)
    if found is None:
        return None
    less = 1.0 if claim.start else claim.other if isinstance(claim.other, float) else 0.0
    return found.scaled(scale, -scale * less)


def share(sides: Sequence[Side], records: Mapping[str, Records]) -> Estimate | None:
    """The share that ``sides[0]`` comes of the way from ``sides[2]`` to ``sides[1]``."""
    found = _by_seed(sides, records)
    return found and share_of_gap(found[0][0], found[0][2], found[0][1], paired=found[1])


def _difference(sides: Sequence[Side], records: Mapping[str, Records]) -> Estimate | None:
    """The first side, less the second if there is one."""
    found = _by_seed(sides, records)
    if found is None:
        return None
    (one, *others), same = found
    return estimate_difference(one, others[0], same) if others else estimate((1, one))


def _by_seed(sides: Sequence[Side], records: Mapping[str, Records]) -> tuple[list[list[float]], bool] | None:
    """The values of sides, seed by seed, and whether they measure the same networks. Seeds that one side lacks are left
    out, and those of which one side was made before images or code changed.

    Measures of the same networks are pairs. Of networks that were trained apart, a seed of the one says nothing of the
    same seed of the other (over seeds the correlation is nil), so that their means are compared by Welch.
    """
    runs = [chosen(side, records.get(side.experiment, ())) for side in sides]
    by_seed = [values(side, records.get(side.experiment, ())) for side in sides]
    apart = _made_apart(_once(runs)) if len(runs) > 1 else set()
    seeds = sorted(set.intersection(*map(set, by_seed)) - apart)
    if not seeds:
        return None
    networks = [frozenset().union(*(run["networks"] for run in several)) for several in runs]
    return [[side[seed] for seed in seeds] for side in by_seed], bool(frozenset.intersection(*networks))


def _once(several: Iterable[Iterable[Mapping]]) -> list[Mapping]:
    """The records of several sides, each once."""
    return list({record["run_id"]: record for records in several for record in records}.values())


def _made_apart(records: Iterable[Mapping]) -> set[int]:
    """The seeds whose records saw different images of one name, or of which some are stale and some are not."""
    seen: dict[tuple, set] = {}
    for record in records:
        for what, made in [*drawn(record).items(), (None, is_stale(record))]:
            seen.setdefault((record["seed"], what), set()).add(made)
    return {seed for (seed, _), several in seen.items() if len(several) > 1}


def evidence(claim: Claim, source: Source) -> list[Evidence]:
    """The evidence on a claim by the records of a source, for each set of images that its plan names, in that order."""
    groups = {name: by_images(source.records.get(name, ())) for name in claim.experiments}
    found = []
    for images in groups[claim.experiments[0]] if groups else ():
        records = {name: group.get(images, []) for name, group in groups.items()}
        ours = contrast(claim, records)
        if ours is None:
            continue
        used = _once(chosen(side, records[side.experiment]) for side in claim.sides)
        found.append(
            Evidence(
                source.name,
                images_in_words(records[claim.experiments[0]]),
                ours.interval(),
                _verdict(claim, ours, used),
                sum(map(is_stale, used)),
                ours.n >= min(source.seeds.get(name, 0) for name in claim.experiments),
                ours.interval(0.9).half_width,
            )
        )
    return found


def _verdict(claim: Claim, ours: Estimate, used: Iterable[Mapping]) -> Verdict:
    if claim.kind == "level":
        return judge_level(ours, claim.published, claim.margin, {name for r in used for name in r["differs"]})
    return judge(ours, claim.direction, claim.margin)


def judged(claims: Iterable[Claim], sources: Sequence[Source]) -> list[Judged]:
    """Each claim with the evidence of all sources, which stand in order, the best first; they are never blended."""
    return [Judged(claim, tuple(found for s in sources for found in evidence(claim, s))) for claim in claims]


@dataclass(frozen=True)
class Totals:
    """The totals of claims of one kind.

    Attributes:
        words: how often each verdict was given.
        tested: how many are decided, mixed or open.
        after_holm: decisions that stand when a single wrong one among all claims is to have 5 %.
        after_benjamini_hochberg: those that stand when 5 % of what stands may be wrong.
        differences: how many are tested, since two claims can state one.
    """

    words: Counter
    tested: int
    after_holm: int
    after_benjamini_hochberg: int
    differences: int


def totals(found: Sequence[Judged], *kinds: str) -> Totals:
    """Count verdicts on claims of these kinds; corrections are over all claims that are ``found``."""
    chosen = [one for one in found if one.claim.kind in kinds]
    by_holm, by_rate = standing(found), standing(found, benjamini_hochberg)
    return Totals(
        Counter(one.word for one in chosen),
        sum(one.p_value is not None for one in chosen),
        sum(one.claim.id in by_holm for one in chosen),
        sum(one.claim.id in by_rate for one in chosen),
        len({frozenset(one.claim.sides) for one in chosen if one.p_value is not None}),
    )


def standing(found: Sequence[Judged], correction: Callable[[Sequence[float]], list[bool]] = holm) -> set[str]:
    """The claims, by id, whose decision stands with a correction for all that are ``found``."""
    tested = [one for one in found if one.p_value is not None]
    stands = correction([one.p_value for one in tested])
    return {one.claim.id for one, stays in zip(tested, stands, strict=True) if stays and one.word in DECIDED}


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
    """
    published = {r["row"]: r for r in paper_numbers(paper, item) if r["column"] == column and r["metric"] == metric}
    table = []
    for name in [*published, *(name for name in rows if name not in published)]:
        theirs = published.get(name, {})
        bound = theirs.get("note", "").startswith("bound:")
        ours = [scale * value for value in rows.get(name, {}).values()]
        found = estimate((1, ours)) if ours else None
        table.append(
            {
                "row": name,
                "paper": theirs.get("value"),
                "ours": found and found.interval(),
                "n": len(ours),
                "verdict": judge_level(found, None if bound else theirs.get("value"), level_margin(metric), differs),
            }
        )
    return table
