"""What the papers claim, and the verdict on each claim: for a chapter on its records, for the report on all of them."""

from __future__ import annotations

from collections.abc import Mapping

from IPython.display import Markdown

from ..records.claims import PAPERS, UNITS, Claim, Records, claims
from ..records.verdicts import Evidence, Source, evidence
from ..show import tables

ITEMS = {
    "fig2_pretrained": "Fig. 2, pre-trained",
    "sec4_incremental": "Sec. 4, incremental",
    "sec43": "Sec. 4.3",
    "sec52": "Sec. 5.2",
    "appendix": "appendix",
}
QUESTIONS = ("boundaries", "numbering", "orientation", "stitching", "shares", "fitting")
"""Experiments of our own, on which no paper has a figure or table."""


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
        parts.append(f"**{name}**\n\n{tables.table(['claim', 'verdict', 'paper', 'ours', 'n'], body).data}")
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
