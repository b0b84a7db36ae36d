"""Claims of the papers, and the verdict on each: in the card and the tables of a chapter, and in the report."""

from __future__ import annotations

import csv
import functools
import html
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from IPython.display import HTML, Markdown
from markdown_it import MarkdownIt

from compatkit.intervals import Interval

from ..records.claims import PAPERS, UNITS, Claim, Records, claims
from ..records.provenance import cpu_minutes
from ..records.published import table_file
from ..records.verdicts import DECIDED, VERDICTS, Evidence, Judged, Source, Verdict, judged, standing
from ..show import forest, tables
from .templates import fill


@dataclass(frozen=True)
class Item:
    """A line of ``items.csv``: a figure, table or section of a paper, or a question of ours (``words``: what it is
    called), and the ``section`` of the book that treats it."""

    words: str
    section: str


@functools.cache
def items() -> dict[tuple[str, str], Item]:
    """The items that claims are about, by paper and item."""
    with open(table_file("items.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(r["paper"], r["item"]): Item(r["words"], r["section"]) for r in rows}


def item_in_words(paper: str, item: str) -> str:
    """The place of a claim in a paper: "A, Fig. 2"."""
    return f"{PAPERS[paper]}, {items()[paper, item].words}"


def table(records: Mapping[str, Records], paper: str, *items: str, measure: str = "") -> Markdown:
    """The claims of some figures and tables of a paper: a line for each, with its verdict, and ours on each set of
    images.

    Args:
        records: by the name of their experiment, those of the best preset first; it gives the verdict, by the rule of
            the report, and the sign before a number is what that set of images says. Claims that need another
            experiment are left out.
        paper, items: as in ``claims.csv``.
        measure: claims on others fold away; "": none do.
    """
    presets = dict.fromkeys(r["preset"] for runs in records.values() for r in runs)
    if not presets:
        return Markdown("No runs are stored here.")
    sources = [
        Source(preset, {name: [r for r in runs if r["preset"] == preset] for name, runs in records.items()}, {})
        for preset in presets
    ]
    chosen = [c for c in claims(paper, *items) if c.kind != "level" and records.keys() >= set(c.experiments)]
    found = judged(chosen, sources)
    columns: dict[tuple[str, str], dict[str, Evidence]] = {}
    for one in found:
        for own in one.evidence:
            columns.setdefault((own.source, own.images), {})[one.claim.id] = own
    counts = {place: {own.ours.n for own in column.values()} for place, column in columns.items()}
    heads = [f"{place[1]}{_of(*n) if len(n) == 1 else ''}" for place, n in counts.items()]
    printed = any(claim.published is not None for claim in chosen)  # else a column of dashes
    shown: list[list[str]] = []
    folded: list[list[str]] = []
    for one in (one for one in found if one.evidence):
        paper_has = tables.number(one.claim.published, signed=True, digits=UNITS[one.claim.unit][1])
        ours = [_cell(one.claim, column, len(counts[place]) > 1) for place, column in columns.items()]
        line = [one.claim.text, tables.verdict_cell(_verdict(one)), *[paper_has] * printed, *ours]
        (shown if all(side.metric.startswith(measure) for side in one.claim.sides) else folded).append(line)
    header = ["claim", "verdict", *["paper"] * printed, *heads]
    parts = [_lines(header, shown)] if shown else []
    parts += [tables.folded("The same by other measures", _lines(header, folded))] if folded else []
    missing: dict[str, list[str]] = {}
    for claim in (one.claim for one in found if not one.evidence):
        missing.setdefault(claim.note, []).append(claim.text)
    words = [f"- {'; '.join(texts)}{f' ({note})' if note else ''}." for note, texts in missing.items()]
    parts += [tables.folded("Not run here", Markdown("\n".join(words)))] if missing else []
    return Markdown("\n\n".join(part.data for part in parts))


def _lines(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Markdown:
    return Markdown(f'<div class="compatkit-claims-table">\n\n{tables.table(header, lines).data}\n\n</div>')


def _cell(claim: Claim, column: Mapping[str, Evidence], with_n: bool) -> str:
    """What one set of images says of a claim: the sign of the verdict, our number and n."""
    found = column.get(claim.id)
    if found is None:
        return "–"
    n = _of(found.ours.n) if with_n else ""
    return f"{tables.SIGNS[found.verdict.word]} {numbers(claim, found)[1]}".replace(" ", "\N{NO-BREAK SPACE}") + n


def _of(n: int) -> str:
    return f", n = {n}".replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def _verdict(one: Judged) -> Verdict:
    """The verdict on a claim; an open one on the images that need most seeds."""
    if one.word == "mixed":
        return Verdict("mixed")
    return max((found.verdict for found in one.speaking), key=lambda verdict: verdict.seeds or math.inf)


def numbers(claim: Claim, found: Evidence) -> tuple[str, str]:
    """The paper's difference or level and ours, as they are printed."""
    _, digits = UNITS[claim.unit]
    how = {"signed": claim.kind != "level", "digits": digits}
    return tables.number(claim.published, **how), tables.span(found.ours, **how)


def finder(sources: Sequence[Source]) -> Callable[..., str]:
    """Our numbers on claims, for sentences.

    What it gives is a function of the claim's id. It returns the difference that gives the verdict, "+12.8 ± 5.8", and
    a dash where nothing is on record. ``images``: the set of images, where several give the verdict. ``sign``: the one
    that the words of the sentence give, "+" or "-", which is left out; ValueError where the number has the other.
    """
    known = {claim.id: claim for claim in claims()}

    def number(id_: str, images: str = "", sign: str = "") -> str:
        (one,) = judged([known[id_]], sources)
        found = [own for own in one.evidence if own.images == images] if images else one.speaking
        if not one.evidence:
            return "–"
        if len(found) != 1:
            there = ", ".join(own.images for own in one.evidence)
            raise ValueError(f"images: must be one of {there} for {id_}, got {images!r}")
        text = numbers(one.claim, found[0])[1]
        if not text.startswith(sign):
            raise ValueError(f"sign: {id_} is {text}, got {sign!r}")
        return text.removeprefix(sign)

    return number


# --- rows of the report and of cards ----------------------------------------------------------------------------------


def card(find: str, sentence: str, sources: Sequence[Source], ids: Sequence[str], experiments: Sequence[str]) -> HTML:
    """The card that a chapter opens with: what we find, what is claimed, what came of it, and what its runs took.

    Args:
        find: one or two sentences with our number; Markdown.
        sentence: what the paper says; HTML. Empty where no paper speaks of it.
        sources: all records there are, the best first.
        ids: claims of ``claims.csv``, whose verdicts are those of the report.
        experiments: whose runs the chapter shows.

    Raises:
        KeyError: an id that is none.
        ValueError: nothing is found.
    """
    if not find.strip():
        raise ValueError("find: a sentence with our number is needed, got none")
    found = {one.claim.id: one for one in judged(claims(), sources)}
    stands = standing(list(found.values()))
    rows = [
        row(found[name], f'<a href="../report.html#claim-{name}">in the report</a>', stands=name in stands)
        for name in ids
    ]
    here = [one for one in found.values() if one.claim.experiments[:1] and one.claim.experiments[0] in experiments]
    said = {"find": _unbroken(MarkdownIt().renderInline(find)), "sentence": _unbroken(sentence), "rows": "".join(rows)}
    said |= {"axis": forest.axis(forest.signed)}
    took = {"tally": _tally(here), "took": _took(sources, experiments)}
    return HTML(fill("card.html", look=look(), **said, **took))


def _unbroken(text: str) -> str:
    """A number in a sentence, with its thousands, interval and unit, on one line."""
    return re.sub(r"(?<=\d) (?=[%±]|\d{3}\b)|(?<=±) ", "\N{NO-BREAK SPACE}", text)


def _tally(found: Sequence[Judged]) -> str:
    """All verdicts on what the runs of a chapter were made for, those that the card leaves out among them; levels are
    hardly ever judged."""
    words = Counter(one.word for one in found if one.claim.kind != "level")
    counts = ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word])
    claims = "claim" if sum(words.values()) == 1 else "claims"
    return f"Of {sum(words.values())} {claims} on these runs: {counts}." if counts else ""


def _took(sources: Sequence[Source], experiments: Sequence[str]) -> str:
    """The runs behind a chapter and what they took."""
    runs = {r["run_id"]: r for source in sources for name in experiments for r in source.records.get(name, ())}
    if not experiments:
        return ""
    return (
        f"{len(runs)} runs, {cpu_minutes(list(runs.values()))} minutes of one core."
        if runs
        else "No runs are on record."
    )


def row(one: Judged, link: str, folded: str = "", stands: bool = False, **data: str) -> str:
    """A list item for a claim: its verdict, what is said, ours and the paper's number, n, images, and a ``link``.

    Args:
        one: the claim, judged.
        link, folded: HTML that stands beside the numbers, and under them.
        stands: whether the verdict stands with Holm's correction for all claims, which is then said.
        data: ``id`` of the item; others are its data attributes.
    """
    claim, word, ours = one.claim, one.word, [found for found in one.speaking if found.ours]
    shown = [_ours(claim, found, word == "mixed") for found in ours] or [html.escape(one.reason)]
    shown += [f"paper {numbers(claim, ours[0])[0]}"] if ours and claim.published is not None else []
    shown += [_seeds(one)] if word == "open" else []
    shown += ["stands with Holm's correction"] if stands else []
    shown += [f"stale records: {stale}"] if (stale := sum(found.stale for found in ours)) else []
    said = {other.verdict.word for other in one.evidence if other not in ours} & set(DECIDED) - {word}
    shown += [f"on other images: {', '.join(sorted(said))}"] if said else []
    parts = [text for text in (*shown, link) if text]
    id_ = data.pop("id", "")
    strip = _strip(one, stands)
    return fill("claim.html", id=id_, data=data, word=word, text=claim.text, strip=strip, parts=parts, folded=folded)


def _strip(one: Judged, stands: bool) -> str:
    """Our differences on each set of images over the margin, and the paper's."""
    claim, unit = one.claim, _unit(one.claim)
    paper = None if claim.published is None else unit * claim.published
    drawn = marks(one, stands)
    return forest.strip(drawn, forest.signed, unit * claim.margin, paper) if drawn else ""


def marks(one: Judged, stands: bool) -> list[forest.Mark]:
    """Our differences on each set of images that speaks, in points or hundredths of a correlation."""
    ours = [found for found in one.speaking if found.ours and one.claim.kind != "level"]
    unit = _unit(one.claim)
    return [
        forest.Mark(_scaled(own.ours, unit), own.photographs, stands, own.verdict.word, unit * own.half_90)
        for own in ours
    ]


def _unit(claim: Claim) -> float:
    return 100 if claim.unit == "correlation" else 1


def _scaled(ours: Interval, unit: float) -> Interval:
    return Interval(unit * ours.mean, unit * ours.low, unit * ours.high, ours.n)


def _ours(claim: Claim, found: Evidence, with_verdict: bool) -> str:
    """Our result on one set of images: the number, its share of the paper's, n, and where."""
    _, ours = numbers(claim, found)
    unit = "" if claim.unit == "points" else f" {claim.unit}"
    of_paper = f", {share}" if (share := share_of_printed(claim, found)) else ""
    verdict = f"{found.verdict.word}: " if with_verdict else ""
    where = html.escape(f"{found.images}, {found.source}{_of(found.ours.n)}")
    return f"{verdict}ours <b>{ours}</b>{unit}{of_paper} ({where})"


def share_of_printed(claim: Claim, found: Evidence) -> str:
    """A difference as a share of the one that the paper prints, where it claims that there is one."""
    if claim.direction != "above" or claim.kind == "level" or not claim.published or found.verdict.word not in DECIDED:
        return ""
    share = found.ours.mean / claim.published
    if share < 0:
        return "the other way round than in the paper"
    return f"{share:.1f} times the paper's" if share >= 2 else f"{100 * share:.0f} % of the paper's"


def _seeds(one: Judged) -> str:
    """The number of seeds that would decide what is open, on all images that speak."""
    verdict = _verdict(one)
    return f"{tables.seeds_needed(verdict)} in all would decide" if verdict.p_value is not None else ""


def look() -> str:
    """The style sheet of claims. It stands in the page, so that a live notebook has it as well."""
    return Path(__file__).parents[1].joinpath("show", "claims.css").read_text(encoding="utf-8")
