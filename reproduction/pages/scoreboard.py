"""The page that says where both papers stand: every published item, and the verdicts on it so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from IPython.display import Markdown

from ..records.published import paper_numbers
from ..show.tables import table

PAPERS = {"gygli": "A", "ramanujan": "B"}


def scoreboard(
    verdicts: Mapping[tuple[str, str], Mapping[str, Counter]], chapters: Mapping[tuple[str, str], str]
) -> Markdown:
    """A row for each figure and table of both papers.

    verdicts: by (paper, item), then by data set, how often each was given to a published number. chapters: where an
    item is treated, as a link; its claims without a number have their verdicts there.
    """
    body = []
    for paper, item in dict.fromkeys((row["paper"], row["item"]) for row in paper_numbers()):
        published = sum(row["value"] is not None for row in paper_numbers(paper, item))
        found = [
            f"{data}: " + ", ".join(f"{count} {verdict}" for verdict, count in counter.items())
            for data, counter in verdicts.get((paper, item), {}).items()
        ]
        where = chapters.get((paper, item), "")
        nothing = "no number published" if not published else "see its chapter" if where else "not run"
        body.append([f"{PAPERS[paper]}, {item}", str(published), "; ".join(found) or nothing, where])
    return table(["paper, item", "numbers", "verdicts", "chapter"], body)
