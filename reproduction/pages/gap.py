"""How much of the gap is closed: the one scale on which both papers, and images of every kind, stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import Markdown

from ..records.claims import Records, Side, by_images, images_in_words
from ..records.published import paper_value
from ..records.verdicts import Source, share
from ..show import tables


def of_recombination(sources: Sequence[Source]) -> Markdown:
    """Paper A: 0 % are networks trained apart and recombined, 100 % those that were never taken apart."""
    start, end = _accuracy("independent"), _accuracy("upper bound", "not recombined/mean")
    rows = {method: (_accuracy(method), _published_accuracy(method)) for method in ("IIW", "RP", "DCC", "IIW+RP+DCC")}
    rows |= {method: (_accuracy(method), None) for method in ("IIW+RP", "IIW+DCC", "RP+DCC")}
    return _table("method", rows, start, end, sources)


def of_update(sources: Sequence[Source]) -> Markdown:
    """Paper B: 0 % is the old model in its own gallery, 100 % the new model in a gallery that is embedded anew."""
    start, end = _found("FCT", "old/old"), _found("FCT", "new/new")
    rows = {
        "FCT: new model, carried gallery": (_found("FCT", "new/h"), _published_found("new/h")),
        "FCT without side-information": (
            _found("FCT without side-information", "new/h"),
            _published_found("new/h without side-information"),
        ),
        "FCT: carried gallery in itself": (_found("FCT", "h/h"), _published_found("h/h")),
        "BCT: new model, old gallery": (_found("BCT", "BCT/old"), _published_found("BCT new/old")),
        "BCT, synthesised: new model, old gallery": (_found("BCT, synthesised", "BCT/old"), None),
        "BCT: new model, new gallery": (_found("BCT", "BCT/BCT"), _published_found("BCT new/new")),
    }
    return _table("search", rows, start, end, sources)


def _table(
    first: str, rows: Mapping[str, tuple[Side, float | None]], start: Side, end: Side, sources: Sequence[Source]
) -> Markdown:
    groups = [group for source in sources for group in by_images(source.records.get(start.experiment, ())).values()]
    body = []
    for name, (side, published) in rows.items():
        shares = [_share(side, end, start, group) for group in groups]
        body.append([name, tables.number(published, digits=0), *shares])
    return tables.table([first, "paper, %", *map(images_in_words, groups)], body)


def _share(side: Side, end: Side, start: Side, group: Records) -> str:
    found = share((side, end, start), {start.experiment: group})
    return tables.span(found and found.scaled(100).interval(), digits=0)


def _accuracy(method: str, metric: str = "recombination/mean") -> Side:
    return Side("fig2", method, metric, ())


def _published_accuracy(method: str) -> float:
    one, start, end = (
        paper_value("gygli", "fig2", row, "mean", "recombination accuracy")
        for row in (method, "independent", "upper bound")
    )
    return 100 * (one - start) / (end - start)


def _found(row: str, case: str) -> Side:
    return Side("table1", row, f"CMC top-1: {case}", ())


def _published_found(row: str) -> float:
    one, start, end = (
        paper_value("ramanujan", "table1", name, "ImageNet-1k", "CMC top-1") for name in (row, "old/old", "new/new")
    )
    return 100 * (one - start) / (end - start)
