"""The report: one verdict on each claim of both papers, what they cost, and what they do not settle."""

from __future__ import annotations

import csv
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

from IPython.display import HTML, Markdown

from ..records.claims import KINDS, PAPERS, claims
from ..records.provenance import core_minutes, cpu_minutes, hardware, is_stale
from ..records.published import paper_numbers, paper_value
from ..records.verdicts import (
    DECIDED,
    MOST_SEEDS,
    VERDICTS,
    WRONG_AT_MOST,
    Evidence,
    Judged,
    Source,
    judged,
    standing,
    totals,
)
from ..show import tables
from . import analysis
from .claims import item_in_words, items, look, numbers, row
from .templates import SITE, fill

FILTERS = {"paper": tuple(PAPERS.values()), "kind": KINDS, "verdict": VERDICTS}
FIRST = {"paper": "all", "kind": "finding", "verdict": "all"}


def report(sources: Sequence[Source]) -> list[Judged]:
    """Every claim of both papers, judged on the best records there are."""
    return judged(claims(), sources)


# --- the claims -------------------------------------------------------------------------------------------------------


WHY = {
    "paper": "needs ImageNet, Places and faces, and a GPU for days",
    "cifar": "needs a GPU for hours",
    "cifar-cpu": "up to three quarters of an hour a run; what decides most claims went first",
}
"""What kept the runs of a preset from being made."""


def headline(found: Sequence[Judged]) -> HTML:
    """The number of findings with each verdict; and the look of this and of ``listing``."""
    counts = totals(found, "finding").words
    tiles = [("", "findings", sum(counts.values()))]
    tiles += [(word, f"{tables.SIGNS[word]} {word}", counts[word]) for word in VERDICTS if counts[word]]
    return HTML(fill("report/headline.html", look=look(), tiles=tiles))


def in_short(found: Sequence[Judged]) -> Markdown:
    """The totals in a sentence, for a page that is not the report."""
    findings, levels = totals(found, "finding"), totals(found, "level")
    counts = [own.ours.n for one in found if one.claim.kind == "finding" for own in one.speaking if own.ours]
    seeds = f"{min(counts)} to {max(counts)} seeds each" if counts else "no runs"
    numbers = {"findings": findings, "levels": levels, "most_seeds": MOST_SEEDS}
    return Markdown(fill("report/in_short.md", seeds=seeds, grounds=_grounds(found), **numbers))


def _grounds(found: Sequence[Judged]) -> str:
    """On which images the decided findings rest."""
    parts = []
    for word in ("shown", "contradicted"):
        chosen = [one.speaking[0].source for one in found if (one.claim.kind, one.word) == ("finding", word)]
        parts.append(f"{len(chosen) - chosen.count('laptop')} of the {len(chosen)} that are {word}")
    return f"{' and '.join(parts)} rest on photographs, the others on digits and drawn images."


def summary(found: Sequence[Judged]) -> Markdown:
    """The totals in words: checks, levels, questions, how many tests there are, and how many errors to expect of
    them."""
    every, questions = totals(found, *KINDS), totals(found, "question")
    return Markdown(
        fill(
            "report/summary.md",
            every=every,
            **{f"{kind}s": totals(found, kind) for kind in ("finding", "check", "level")},
            answers=", ".join(f"{questions.words[word]} {word}" for word in VERDICTS if questions.words[word]),
            decided=sum(every.words[word] for word in DECIDED),
            stale=sum(any(own.stale for own in one.speaking) for one in found if one.word in DECIDED),
            grounds=_grounds(found),
            wrong_at_most=WRONG_AT_MOST,
        )
    )


def listing(found: Sequence[Judged]) -> HTML:
    """A row for each claim, with filters that need no script."""
    stands = standing(found)
    rows = "".join(_row(one, one.claim.id in stands) for one in found)
    return HTML(fill("report/listing.html", rules=_rules(found), filters=FILTERS, first=FIRST, rows=rows))


def _picked(**values: str) -> str:
    return "".join(f':has([name="compatkit-{name}"][value="{value}"]:checked)' for name, value in values.items())


def _rules(found: Sequence[Judged]) -> str:
    """The rules by which each filter hides rows; and where two filters leave nothing, the line that says so."""
    hidden = [
        f'.compatkit-claims{_picked(**{name: value})} li:not([data-{name}="{value}"])'
        for name, values in FILTERS.items()
        for value in values
    ]
    there = {(PAPERS[one.claim.paper], one.claim.kind, one.word) for one in found}
    there = {mixed for key in there for mixed in product(*((part, "all") for part in key))}
    choices = product(*(("all", *values) for values in FILTERS.values()))
    empty = [
        f".compatkit-claims{_picked(**dict(zip(FILTERS, choice, strict=True)))} .none"
        for choice in choices
        if choice not in there
    ]
    return f"{','.join(hidden)}{{display:none}}{','.join(empty)}{{display:block}}"


def _row(one: Judged, stands: bool) -> str:
    claim = one.claim
    where = f'<a href="{place(one)}">{item_in_words(claim.paper, claim.item)}</a>'
    return row(one, where, _more(one), stands, id=f"claim-{claim.id}", paper=PAPERS[claim.paper], kind=claim.kind)


def place(one: Judged) -> str:
    """The section whose table holds the verdict, as an address: that of the figure or table, or that on photographs."""
    item = items()[one.claim.paper, one.claim.item]
    apart = item.photographs and any(own.source != "laptop" for own in one.speaking)
    return f"{item.section.partition('#')[0]}#on-photographs" if apart else item.section


def _more(one: Judged) -> str:
    """The part that a row folds away: how it is judged, and what other records say."""
    claim = one.claim
    if claim.one is None:
        return ""
    said = [f"Margin {claim.margin:g}{f' ({claim.note})' if claim.note else ''}"]
    said += [one.reason] if one.speaking and one.reason else []
    others = [other for other in one.evidence if other not in one.speaking]
    said += [f"on {other.images} ({other.source}) {_in_short(one, other)}" for other in others]
    return f"<details><summary>more</summary>{html.escape('; '.join(said))}.</details>"


def _in_short(one: Judged, found: Evidence) -> str:
    _, ours = numbers(one.claim, found)
    return f"{found.verdict.word}: {ours}, n = {found.ours.n}"


# --- around them ------------------------------------------------------------------------------------------------------


def not_run(found: Sequence[Judged], sources: Sequence[Source]) -> Markdown:
    """A list of what has no records, and why: presets by how much of them is recorded; claims without an experiment or
    a run."""
    presets = []
    for source in sources:
        recorded, planned = sum(map(len, source.records.values())), sum(source.planned.values())
        empty = [name for name, runs in source.records.items() if not runs]
        nothing_of = ", ".join(empty) if recorded else "everything"
        presets.append([source.name, str(recorded), str(planned), nothing_of, WHY.get(source.name, "")])
    nothing = [one for one in found if one.word in ("not run", "not testable")]
    waiting = Counter(item_in_words(one.claim.paper, one.claim.item) for one in nothing if one.claim.one is not None)
    return Markdown(
        fill(
            "report/not_run.md",
            table=tables.table(["preset", "runs recorded", "planned", "nothing yet of", "why"], presets).data,
            untold=[(one.claim, one.word, one.reason) for one in nothing if one.claim.one is None],
            place=lambda claim: item_in_words(claim.paper, claim.item),
            waiting=waiting,
            appendix=[r["row"] for r in paper_numbers("ramanujan", "appendix")],
        )
    )


def choices(sources: Sequence[Source]) -> Markdown:
    """The effect of paper A's open choices, on all images on which they were measured."""
    measured = [analysis.choices_table(s.records["choices"]).data for s in sources if s.records.get("choices")]
    return Markdown("\n\n".join(measured))


def contradictions(found: Sequence[Judged]) -> Markdown:
    """A list of what the papers claim and our runs contradict, and what we make of it."""
    known = {one.claim.id: one.claim for one in found if (one.claim.kind, one.word) == ("finding", "contradicted")}
    told = {ids: text for ids, text in explanations().items() if known.keys() & set(ids)}
    untold = known.keys() - {id_ for ids in told for id_ in ids}
    lines = []
    for ids, text in (told | {(id_,): "Not explained." for id_ in sorted(untold)}).items():
        several = [known[id_] for id_ in ids if id_ in known]
        lines.append((dict.fromkeys(item_in_words(claim.paper, claim.item) for claim in several), several, text))
    return Markdown(fill("report/contradictions.md", told=lines))


def explanations() -> dict[tuple[str, ...], str]:
    """Our explanations of the claims that our runs contradict, by their ids."""
    with open(SITE / "report" / "contradicted.csv", newline="", encoding="utf-8") as file:
        return {tuple(row["claims"].split("; ")): row["what we make of it"] for row in csv.DictReader(file)}


def hours(sources: Sequence[Source]) -> Markdown:
    """The hours of one core that the records took, by preset and processor."""
    body = []
    for source in sources:
        every = {r["run_id"]: r["provenance"] for records in source.records.values() for r in records}
        spent: dict[str, list[float]] = {}
        for made in every.values():
            spent.setdefault(hardware(made), []).append(core_minutes(made) / 60)
        body += [[source.name, by, str(len(runs)), f"{sum(runs):.1f}"] for by, runs in sorted(spent.items())]
    return tables.table(["preset", "processor", "runs", "hours of one core"], body)


def costs(sources: Sequence[Source]) -> Markdown:
    """The cost of the records of each experiment, in minutes of one core (of a GPU where it says so). A run that
    several experiments need is counted for each, and once in the total of its preset."""
    names = dict.fromkeys(name for source in sources for name in source.records)
    body = [_cost(name, s.name, s.records[name]) for name in names for s in sources if s.records.get(name)]
    for source in sources:
        every = {r["run_id"]: r for records in source.records.values() for r in records}
        body += [_cost("**all, each run once**", source.name, list(every.values()))] if every else []
    return tables.table(["experiment", "preset", "runs", "minutes", "stale"], body)


def _cost(name: str, preset: str, records: Sequence[Mapping]) -> list[str]:
    return [name, preset, str(len(records)), cpu_minutes(records), str(sum(map(is_stale, records)))]


def inconsistencies() -> Markdown:
    """A list of places where a paper disagrees with itself, or with what its data are; noted here, and not copied."""

    papers = {"a": partial(paper_value, "gygli"), "b": partial(paper_value, "ramanujan")}
    return Markdown(fill("report/inconsistencies.md", **papers))
