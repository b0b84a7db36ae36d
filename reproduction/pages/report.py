"""The report: one verdict on each claim of both papers, what they cost, and what they do not settle."""

from __future__ import annotations

import csv
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from IPython.display import HTML, Markdown

from compatkit.intervals import estimate

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
    judge,
    judged,
    standing,
    totals,
)
from ..show import forest, tables
from . import analysis, gap
from .claims import item_in_words, items, look, marks, numbers, row
from .templates import SITE, fill

FILTERS = {
    "verdict": ("all", *VERDICTS),
    "paper": ("all", *PAPERS.values()),
    "kind": ("all", *KINDS),
    "size": ("all", "the paper's or more", "half or more", "less than half"),
}
FIRST = {"paper": "all", "kind": "finding", "verdict": "all", "size": "all"}
ONLY = {"photographs": "photographs", "holm": "Holm", "many": "n ≥ 5", "disagree": "image sets disagree"}
"""What a row can be, by the token of its data-is."""


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


def on_photographs(found: Sequence[Judged]) -> Markdown:
    """What stands on photographs, in a sentence."""
    tested = [one for one in found if _is_on_photographs(one) and one.p_value is not None]
    tested = [one for one in tested if one.claim.kind == "finding"]
    words, stands = Counter(one.word for one in tested), standing(found)
    kept = [
        f"*{one.claim.text}* ({numbers(one.claim, one.speaking[0])[1]})" for one in tested if one.claim.id in stands
    ]
    return Markdown(fill("report/photographs.md", tested=len(tested), words=words, kept=kept))


def _is_on_photographs(one: Judged) -> bool:
    return any(own.photographs for own in one.speaking if own.ours)


_PLAIN = {
    "cifar10 × tin10": "photographs",
    "cifar100": "photographs",
    "digits × mnist5k": "digits",
    "glyphs_plain × glyphs_cluttered": "glyphs",
    "glosses": "texts",
}
"""Sets of images in a word, for who has not met their names."""


def best(found: Sequence[Judged], sources: Sequence[Source]) -> Markdown:
    """What the book itself has to say, with its numbers: three sentences, as far as there are runs."""
    known = {one.claim.id: one for one in found}

    def said(name: str) -> str:
        one = known[name]
        ours = [(numbers(one.claim, own)[1], _PLAIN.get(own.images, own.images)) for own in one.speaking if own.ours]
        return " and ".join(f"{number} points ({images})" for number, images in ours)

    closed = [(_PLAIN.get(images, images), found.get("DCC")) for images, found in gap.shares(sources)]
    shares = {images: tables.span(ours, digits=0) for images, ours in closed if ours}
    return Markdown(fill("report/best.md", said=said, shares=shares))


def small(found: Sequence[Judged]) -> HTML:
    """All findings with an interval as one picture: a thread for each, the papers side by side."""
    stands, papers = standing(found), []
    for paper, letter in PAPERS.items():
        own = [
            one for one in found if (one.claim.paper, one.claim.kind) == (paper, "finding") and one.p_value is not None
        ]
        words = Counter(one.word for one in own)
        counts = {word: f"{words[word]} {word}" for word in VERDICTS if words[word]}
        every = [marks(one, one.claim.id in stands)[0] for one in own]
        papers.append((letter, counts, forest.threads(every, f"Paper {letter}: {', '.join(counts.values())}.")))
    return HTML(fill("report/small.html", look=look(), papers=papers, axis=forest.axis(forest.signed)))


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
        chosen = [one for one in found if (one.claim.kind, one.word) == ("finding", word)]
        parts.append(f"{sum(map(_is_on_photographs, chosen))} of the {len(chosen)} that are {word}")
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
    """The forest: a strip for each claim, by figure and table, with tiles that filter; it needs no script."""
    stands = standing(found)
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in found:
        groups.setdefault((one.claim.paper, one.claim.item), []).append(one)
    lines = [
        (item_in_words(*item), items()[item].section, "".join(_row(one, one.claim.id in stands) for one in several))
        for item, several in groups.items()
    ]
    findings = [one for one in found if one.claim.kind == "finding"]
    tiles = {word: [one for one in findings if word in ("all", one.word)] for word in FILTERS["verdict"]}
    by_paper = {
        word: ", ".join(
            f"{letter} {sum(one.claim.paper == paper for one in several)}" for paper, letter in PAPERS.items()
        )
        for word, several in tiles.items()
    }
    filled = {"counts": {word: len(several) for word, several in tiles.items()}, "by_paper": by_paper}
    filled |= {"filters": FILTERS, "first": FIRST, "only": ONLY, "groups": lines, "axis": forest.axis(forest.signed)}
    on_record = [one for one in findings if any(own.ours for own in one.speaking)]
    caption = fill("report/caption.html", only_small=sum(not _is_on_photographs(one) for one in on_record))
    return HTML(fill("report/listing.html", look=look(), rules=_rules(), caption=caption, **filled))


EXAMPLES = {
    "beyond the margin on the claim's side": [(5, 6, 7)],
    "beyond it on the other side": [(-7, -6, -5)],
    "within it: there is no difference as large as the margin": [(0.2, 0.3, 0.4)],
    "too wide to tell": [(0, 2.5, 5)],
    "sets of images from one source do not give one verdict": [(5, 6, 7), (0, 2.5, 5)],
}
"""What a verdict means, and differences in points, three seeds each, that give it."""


def rule(margin: float = 2.0) -> HTML:
    """The verdicts on a claim that one side is above the other, drawn and judged from ``EXAMPLES``."""
    rows = []
    for text, sets in EXAMPLES.items():
        found = [estimate((1, values)) for values in sets]
        words = [judge(one, "above", margin).word for one in found]
        marks = [forest.Mark(one.interval(), verdict=word) for one, word in zip(found, words, strict=True)]
        word = words[0] if len(set(words)) == 1 else "mixed"
        strip = forest.strip(marks, forest.signed, margin)
        rows.append(fill("claim.html", id="", data={}, word=word, text=text, strip=strip, parts=[], folded=""))
    return HTML(fill("report/rule.html", look=look(), rows=rows, margin=margin))


def _rules() -> str:
    """The rules by which each filter hides rows."""
    rows = '.compatkit-forest:has([name="compatkit-{}"]{}:checked) li:not({})'
    picked = [
        rows.format(name, f'[value="{value}"]', f'[data-{name}{"*" if name == "size" else ""}="{value}"]')
        for name, values in FILTERS.items()
        for value in values[1:]
    ]
    picked += [rows.format(name, "", f'[data-is~="{name}"]') for name in ONLY]
    return f"{','.join(picked)}{{display:none}}"


def _row(one: Judged, stands: bool) -> str:
    claim = one.claim
    ours = [own for own in one.speaking if own.ours]
    tokens = {
        "photographs": _is_on_photographs(one),
        "holm": stands,
        "many": any(own.ours.n >= 5 for own in ours),
        "disagree": len({own.verdict.word for own in one.evidence if own.verdict.word in DECIDED}) > 1,
    }
    data = {"is": " ".join(name for name, holds in tokens.items() if holds), "size": _size(one)}
    data |= {"direction": claim.direction, "paper": PAPERS[claim.paper], "kind": claim.kind}
    return row(one, "", _more(one), stands, id=f"claim-{claim.id}", **data)


def _size(one: Judged) -> str:
    """The options of the filter on size that ours falls under, beside a difference that the paper prints."""
    claim, ours = one.claim, [own.ours.mean for own in one.speaking if own.ours]
    if claim.direction != "above" or claim.kind == "level" or not claim.published or not ours:
        return ""
    part = min(ours) / claim.published
    _, whole, half, less = FILTERS["size"]
    return f"{whole}, {half}" if part >= 1 else half if part >= 0.5 else less


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
            table=tables.folded(
                "runs recorded and planned, by preset",
                tables.table(["preset", "runs recorded", "planned", "nothing yet of", "why"], presets),
            ).data,
            untold=[(one.claim, one.word, one.reason) for one in nothing if one.claim.one is None],
            place=lambda claim: item_in_words(claim.paper, claim.item),
            waiting=waiting,
            appendix=[r["row"] for r in paper_numbers("ramanujan", "appendix")],
        )
    )


def choices(sources: Sequence[Source]) -> Markdown:
    """The effect of paper A's open choices, on all images on which they were measured."""
    measured = [analysis.choices_table(s.records["choices"]).data for s in sources if s.records.get("choices")]
    return tables.folded("the numbers", *map(Markdown, measured)) if measured else Markdown("")


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
    return tables.folded("hours of one core", tables.table(["preset", "processor", "runs", "hours of one core"], body))


def costs(sources: Sequence[Source]) -> Markdown:
    """The cost of the records of each experiment, in minutes of one core (of a GPU where it says so). A run that
    several experiments need is counted for each, and once in the total of its preset."""
    names = dict.fromkeys(name for source in sources for name in source.records)
    body = [_cost(name, s.name, s.records[name]) for name in names for s in sources if s.records.get(name)]
    for source in sources:
        every = {r["run_id"]: r for records in source.records.values() for r in records}
        body += [_cost("**all, each run once**", source.name, list(every.values()))] if every else []
    return tables.folded(
        "minutes of one core, by experiment", tables.table(["experiment", "preset", "runs", "minutes", "stale"], body)
    )


def _cost(name: str, preset: str, records: Sequence[Mapping]) -> list[str]:
    return [name, preset, str(len(records)), cpu_minutes(records), str(sum(map(is_stale, records)))]


def inconsistencies() -> Markdown:
    """A list of places where a paper disagrees with itself, or with what its data are; noted here, and not copied."""

    papers = {"a": partial(paper_value, "gygli"), "b": partial(paper_value, "ramanujan")}
    return Markdown(fill("report/inconsistencies.md", **papers))
