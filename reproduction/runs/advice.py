"""One run of the tool: what ``gallerykit`` says of a change of model from pairs alone, and what comes true."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compatkit.devices import seed_for
from gallerykit import backfill
from gallerykit.advice import recommend
from gallerykit.compare import NEW, OLD, Judge, compare
from gallerykit.maps import Pairs, fit, split

from ..experiments.settings import AdviceRun
from .context import Context
from .models import drawn, rehearsed

ACTIONS = ("nothing", "keep", "map", "back-fill")
SHARES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of a store, that are by the new model."""
STORES, ROWS = 50, 2_000
"""Mixtures of each share, and their rows."""
FIRST = 10


def check(config: AdviceRun, context: Context) -> None:
    """Rehearse a run: embed a few items, see ``kinds``."""
    rehearsed(config, context)


def run(config: AdviceRun, context: Context) -> dict[str, float | list[float]]:
    """See ``advice`` and ``mixtures`` for what is returned."""
    return ASKED[config.asked](config, context)


def advice(config: AdviceRun, context: Context) -> dict[str, float | list[float]]:
    """The advice, what is foreseen from held-out pairs, and what the same measure says of the gallery.

    "advised: ACTION" is 1 for one; "map advised: MAP" and "path advised: PATH" are 1 where they stand. "neighbours
    foreseen: WAY" (", low", ", high": the interval) and "neighbours kept: WAY" are the share of the 10 nearest by
    new/new that are found, "neighbours on the way: PATH" the same by the share of the gallery that is embedded anew,
    "ceiling" what is foreseen that no map exceeds. With labels, as Vejendla (2025) measures maps of queries:
    "recall@10: WAY", of the items of a query's class or of 10 of them, and "reciprocal rank: WAY", of the first.
    """
    pool, pairs, gallery, old, new = drawn(config, context)
    to_fit, held_out = split(Pairs(old[pairs], new[pairs]), config.seed)
    unseen = Pairs(old[gallery], new[gallery])
    maps = fit(to_fit)
    foreseen = compare(maps, to_fit, held_out, gallery_size=config.gallery)
    plan = backfill.paths(foreseen, maps, to_fit, held_out)
    advised = recommend(foreseen, plan, maps)
    options = {"directions": ["queries"], "steps": config.steps, "seed": config.seed, "show_progress": False}
    residual = fit(to_fit, ["residual"], **options)
    true = compare(maps | residual, to_fit, unseen)
    found: dict[str, float | list[float]] = {f"advised: {one}": float(one == advised.action) for one in ACTIONS}
    found |= {f"map advised: {advised.map}": 1.0} if advised.map else {}
    found |= {f"path advised: {advised.path}": 1.0} if advised.path else {}
    found["ceiling"] = foreseen.ceiling.mean
    for name, way in foreseen.ways.items():
        if (share := way.in_gallery or way.agreement) and "," not in name:
            found |= {f"neighbours foreseen: {name}": share.mean}
            found |= {f"neighbours foreseen: {name}, {end}": getattr(share, end) for end in ("low", "high")}
    found |= {f"neighbours kept: {name}": way.agreement.mean for name, way in true.ways.items()}
    for path in backfill.paths(true, maps, to_fit, unseen).paths:
        found[f"neighbours on the way: {path.name}"] = [stage.score.mean for stage in path.stages]
    if pool.labels is None:
        return found
    judge = Judge(unseen, true.metric)
    searches: dict[str, Callable[[], Tensor]] = {
        OLD: lambda: judge.similarity(judge.queries.old, unseen.old),
        NEW: lambda: judge.truth,
    }
    for name, one in (maps | residual).items():
        if one.ends.direction == "queries":
            searches[name] = lambda one=one: judge.by(one)
    for name, search in searches.items():
        recall, rank = by_class(search(), pool.labels[gallery])
        found |= {f"recall@{FIRST}: {name}": recall, f"reciprocal rank: {name}": rank}
    return found


def by_class(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Recall at 10 and mean reciprocal rank of queries, the first of the items, each without its own.

    Args:
        scores: similarities (q, n), -inf for a query's own item.
        labels: (n,) of the items.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :-1]
    hits = labels[order] == labels[: len(scores), None]
    hits = hits[hits.any(1)].double()
    recall = hits[:, :FIRST].sum(1) / hits.sum(1).clamp(max=FIRST)
    return recall.mean().item(), (1 / (1 + hits.argmax(1).double())).mean().item()


def mixtures(config: AdviceRun, context: Context) -> dict[str, float | list[float]]:
    """The share of cases in which ``gallerykit inspect`` says that two models lie in a store, "two models seen: SHARE",
    by the share of rows that are by the new model, and "not told: SHARE", that it cannot be told."""
    _, pairs, unseen, old, new = drawn(config, context)
    sides = fit(Pairs(old[pairs], new[pairs]), ["identity"], directions=["gallery"])["new/identity"].sides
    generator = torch.Generator().manual_seed(seed_for(config.seed, "mixtures"))
    scores = [torch.from_numpy(sides.score(x[unseen].numpy())) for x in (old, new)]
    found: dict[str, float | list[float]] = {}
    for share in SHARES:
        said = []
        for _ in range(STORES):
            rows = torch.randperm(len(unseen), generator=generator)[:ROWS]
            by_new = round(share * len(rows))
            mixed = torch.cat([scores[1][rows[:by_new]], scores[0][rows[by_new:]]])
            said.append(sides.told(mixed.numpy()))
        for name, start in (("two models seen", "Two models"), ("not told", "It cannot")):
            found[f"{name}: {100 * share:g} %"] = sum(text.startswith(start) for text in said) / STORES
    return found


ASKED = {"advice": advice, "mixtures": mixtures}
