"""What the papers claim, and the verdict on each claim: in the card and the tables of a chapter, and in the report."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from IPython.display import HTML, Markdown

from ..records.claims import PAPERS, UNITS, Claim, Records, claims
from ..records.provenance import cpu_minutes
from ..records.verdicts import DECIDED, VERDICTS, Evidence, Judged, Source, evidence, judged
from ..show import tables

ITEMS = {
    "fig2_pretrained": "Fig. 2, pre-trained",
    "sec4_incremental": "Sec. 4, incremental",
    "sec43": "Sec. 4.3",
    "sec52": "Sec. 5.2",
    "appendix": "appendix",
    "sequence": "appendix",
}
QUESTIONS = ("boundaries", "numbering", "orientation", "stitching", "shares", "fitting")
"""Experiments of our own, on which no paper has a figure or table."""


_LIVE = '<a href="../live.html">Run it live</a>'


def item_in_words(paper: str, item: str) -> str:
    """Where in a paper a claim stands: "A, Fig. 2"."""
    if item in QUESTIONS:
        return f"{PAPERS[paper]}, beyond the paper"
    named = ITEMS.get(item) or item.replace("fig", "Fig. ").replace("table", "Table ")
    return f"{PAPERS[paper]}, {named}"


def table(records: Mapping[str, Records], paper: str, *items: str) -> Markdown:
    """The claims of some figures and tables of a paper and the verdict on each, for each set of images, from records by
    the name of their experiment; claims that need another experiment are left out. The report takes its verdicts from
    the same rule, on the best images there are."""
    if not any(records.values()):
        return Markdown("No runs are stored here.")
    chosen = [c for c in claims(paper, *items) if c.kind != "level" and records.keys() >= set(c.experiments)]
    found = {c: evidence(c, Source("", records, {})) for c in chosen}
    parts = []
    for name in dict.fromkeys(one.images for several in found.values() for one in several):
        body = [_line(c, one) for c, several in found.items() for one in several if one.images == name]
        lines = [["claim", "verdict", "paper", "ours", "n"], *body]
        if all(claim.kind == "question" for claim in found):
            lines = [[*line[:2], *line[3:]] for line in lines]  # no paper has a number
        parts.append(f"**{name}**\n\n{tables.table(lines[0], lines[1:]).data}")
    missing = [f"{c.text}{f' ({c.note})' if c.note else ''}" for c, several in found.items() if not several]
    parts += [f"Not run here: {'; '.join(missing)}."] if missing else []
    return Markdown("\n\n".join(parts))


def _line(claim: Claim, found: Evidence) -> list[str]:
    paper, ours = numbers(claim, found)
    n = str(found.ours.n) if found.ours else "0"
    return [claim.text, tables.verdict_cell(found.verdict), paper, ours, n]


def numbers(claim: Claim, found: Evidence) -> tuple[str, str]:
    """The paper's difference or level and ours, as they are printed."""
    _, digits = UNITS[claim.unit]
    how = {"signed": claim.kind != "level", "digits": digits}
    return tables.number(claim.published, **how), tables.span(found.ours, **how)


# --- rows of the report and of cards ----------------------------------------------------------------------------------


def card(
    sentence: str, sources: Sequence[Source], ids: Sequence[str], experiments: Sequence[str], label: str = "The claim"
) -> HTML:
    """What a chapter opens with: what is claimed, what came of it, on which images, and what its runs took.

    Args:
        sentence: the claim; HTML.
        sources: all records there are, the best first.
        ids: claims of ``claims.csv``, whose verdicts are those of the report.
        experiments: whose runs the chapter shows.
        label: what the sentence is.

    Raises:
        KeyError: an id that is none.
    """
    known = {claim.id: claim for claim in claims()}
    rows = [
        row(one, f'<a href="../report.html#claim-{one.claim.id}">in the report</a>')
        for one in judged([known[name] for name in ids], sources)
    ]
    list_ = f"<ul>{''.join(rows)}</ul>" if rows else ""
    here = [claim for claim in known.values() if claim.experiments[:1] and claim.experiments[0] in experiments]
    foot = f'<p class="took">{_tally(judged(here, sources))} {_took(sources, experiments)} {_LIVE}</p>'
    return block(
        f"<style>{look()}</style>",
        f'<p class="claim"><b>{label}.</b> {sentence}</p>{list_}{foot}',
        kind="compatkit-card",
    )


def _tally(found: Sequence[Judged]) -> str:
    """All verdicts on what the runs of a chapter were made for, those that the card leaves out among them."""
    words = Counter(one.word for one in found if one.claim.kind in ("finding", "question"))
    counts = ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word])
    return f"Of {sum(words.values())} claims on these runs: {counts}." if counts else ""


def _took(sources: Sequence[Source], experiments: Sequence[str]) -> str:
    """The runs behind a chapter and what they took, by preset."""
    parts = []
    for source in reversed(sources):
        runs = {r["run_id"]: r for name in experiments for r in source.records.get(name, ())}
        if runs:
            parts.append(f"{len(runs)} at {source.name} ({cpu_minutes(list(runs.values()))} minutes of one core)")
    return f"Runs on record: {', '.join(parts)}." if parts else "No runs are on record."


def row(one: Judged, link: str, folded: str = "", stands: bool = False, **data: str) -> str:
    """A list item for a claim: its verdict, what is said, ours and the paper's number, n, images, and a ``link``.

    Args:
        one: the claim, judged.
        link, folded: HTML that stands beside the numbers, and under them.
        stands: whether the verdict stands with Holm's correction for all claims, which is then said.
        data: ``id`` of the item; others are its data attributes.
    """
    claim, best, word = one.claim, one.best, one.best.verdict.word
    paper, ours = numbers(claim, best)
    unit = "" if claim.unit == "points" else f" {claim.unit}"
    shown = [f"ours <b>{ours}</b>{unit}"] if best.ours else [html.escape(best.verdict.reason)]
    shown += [f"paper {paper}"] if claim.published is not None else []
    shown += [f"n = {best.ours.n}", html.escape(f"{best.images} ({best.source})")] if best.ours else []
    undecided = word == "open" and best.verdict.p_value
    shown += [f"{tables.seeds_needed(best.verdict)} in all would decide"] if undecided else []
    shown += ["stands with Holm's correction"] if stands else []
    shown += [f"stale records: {best.stale}"] if best.stale else []
    elsewhere = {other.verdict.word for other in one.evidence if other is not best} & set(DECIDED) - {word}
    shown += [f"on other images: {', '.join(sorted(elsewhere))}"] if elsewhere else []
    spans = " ".join(f"<span>{text}</span>" for text in (*shown, link))
    named = f'id="{data.pop("id")}" ' if "id" in data else ""
    listed = " ".join(f'data-{name}="{value}"' for name, value in {**data, "verdict": word}.items())
    return (
        f'<li {named}{listed}><span class="verdict">{tables.SIGNS[word]} {word}</span>'
        f"<div><p>{html.escape(claim.text)}</p>"
        f'<p class="numbers">{spans}</p>{folded}</div></li>'
    )


def block(*parts: str, kind: str = "") -> HTML:
    """HTML in the look of claims; ``kind``: "compatkit-card" for the card of a chapter."""
    return HTML(f'<div class="{f"compatkit-claims {kind}".strip()}">{"".join(parts)}</div>')


def look() -> str:
    """The style sheet of claims. It stands in the page, so that a live notebook has it as well."""
    return Path(__file__).parents[1].joinpath("show", "claims.css").read_text(encoding="utf-8")
