"""Ways to serve a new model: measures by their definitions, plans, advice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compatkit import retrieval
from compatkit.intervals import Interval
from gallerykit import backfill
from gallerykit.advice import recommend
from gallerykit.backfill import Path, Paths, Stage, paths, stands_out, times_found
from gallerykit.compare import NEW, OLD, Comparison, Judge, Way, cascade, ceiling, compare
from gallerykit.maps import fit, split
from gallerykit.metrics import METRICS, similarity
from gallerykit.store import Gallery
from gallerykit.stores import open_source

from .world import IDS, noisy, table

METHODS = ("identity", "Procrustes", "ridge")


def measured(pairs, metric="l2", methods=METHODS, **options):
    to_fit, held_out = split(pairs)
    maps = fit(to_fit, methods, metric=metric)
    return compare(maps, to_fit, held_out, metric=metric, **options), maps, to_fit, held_out


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_orders_as_the_metric_does(metric):
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(n, 6, generator=generator) * torch.linspace(0.1, 3, n)[:, None] for n in (30, 40))
    by = {"l2": lambda q, g: -torch.cdist(q, g), "cosine": lambda q, g: F.cosine_similarity(q[:, None], g, dim=2)}
    scores = by.get(metric, lambda q, g: q @ g.T)(query.double(), gallery.double())
    assert torch.equal(similarity(query, gallery, metric).topk(7).indices, scores.topk(7).indices)


@pytest.mark.parametrize("metric", METRICS)
def test_measures_are_their_definitions(metric):
    comparison, maps, _, held_out = measured(noisy(), metric)
    mapped = torch.from_numpy(maps["new/ridge"](held_out.old.numpy()))
    back = torch.from_numpy(maps["ridge/old"](held_out.new.numpy()))
    wanted = {
        "new/ridge": (held_out.new, mapped), "ridge/old": (back, held_out.old), OLD: (held_out.old, held_out.old),
        NEW: (held_out.new, held_out.new),
    }  # fmt: skip
    of_new = similarity(held_out.new, held_out.new, metric).fill_diagonal_(-torch.inf).topk(10).indices
    for name, (query, items) in wanted.items():
        way, scores = comparison.ways[name], similarity(query, items, metric).fill_diagonal_(-torch.inf)
        found = scores.topk(10).indices
        kept = [len({*a} & {*b}) / 10 for a, b in zip(of_new.tolist(), found.tolist(), strict=True)]
        assert way.agreement.mean == pytest.approx(np.mean(kept))
        if metric != "ip":
            x, y = (F.normalize(z, dim=1) if metric == "cosine" else z for z in (query, items))
            own = retrieval.evaluate(x, held_out.labels, y, held_out.labels, ks=(1,), same_items=True)
            assert way.score.mean == pytest.approx(own.mean_ap, abs=1e-6)
            assert way.top1.mean == pytest.approx(own.cmc[1], abs=1e-6)
    ridge, old = comparison.ways["new/ridge"], comparison.ways[OLD]
    assert ridge.gain.mean == pytest.approx(ridge.score.mean - old.score.mean)
    assert ridge.won.mean - ridge.lost.mean == pytest.approx(ridge.top1.mean - old.top1.mean)
    assert comparison.ways[NEW].anew == 1 and ridge.bytes == 48 and ridge.seconds > 0
    assert comparison.best in maps and "new/ridge" in comparison.table()


def test_without_labels_agreement_is_judged_and_a_gallerys_size_counts():
    comparison = measured(noisy(labelled=False), gallery_size=5_000)[0]
    for way in comparison.ways.values():
        assert way.score == way.agreement and way.top1 is None
        if way.name not in (NEW, f"{OLD}, 50 anew", f"{OLD}, 200 anew"):
            assert way.in_gallery.mean < way.agreement.mean + 0.02
    assert comparison.ways[f"{OLD}, 50 anew"].in_gallery is None  # too few of the held-out items
    table = comparison.table()
    assert "in 5 000, %" in table and "mAP" not in table
    gone = measured(noisy(labelled=False), old_model=False)[0]
    assert not any(name.startswith(f"{OLD}, ") for name in gone.ways)
    assert any("/old, 200 anew" in name for name in gone.ways)


def test_a_cascade_ranks_the_first_results_anew_and_no_others():
    generator = torch.Generator().manual_seed(0)
    first, again = (torch.randn(9, 50, generator=generator) for _ in range(2))
    order = cascade(first, again, 20).argsort(1, descending=True)
    for q in range(9):
        best = first[q].topk(20).indices
        assert order[q, :20].tolist() == best[again[q][best].argsort(descending=True)].tolist()
        assert order[q, 20:].tolist() == first[q].argsort(descending=True)[20:].tolist()


def test_the_ceiling_is_above_what_maps_reach_and_below_what_the_old_space_lacks():
    reached = {}
    for noise in (0.1, 0.6, 1.5):
        comparison, maps, to_fit, held_out = measured(noisy(1_500, noise, labelled=False))
        reached[noise] = comparison.ceiling.mean
        assert comparison.ceiling.mean >= max(
            comparison.ways[name].score.mean for name in maps if name.startswith("new")
        )
        more = split(noisy(6_000, noise, labelled=False))[0]
        best = fit(more, ["ridge"])["new/ridge"]
        judge = Judge(held_out, "l2")
        assert judge(judge.by(best)).kept.mean() < comparison.ceiling.mean + 0.03
        assert ceiling(to_fit, judge, comparison.ways) == comparison.ceiling
    assert 1 > reached[0.1] > reached[0.6] > reached[1.5]


# Plans


def test_a_plan_begins_and_ends_where_it_should_and_the_trap_is_seen():
    """A map that shrinks: by L2 distance, together, the middle is worse than both ends; apart it is not."""
    comparison, maps, to_fit, held_out = measured(noisy(1_500, noise=1.5, labelled=False, width=64))
    found = paths(comparison, maps, to_fit, held_out)
    by_name = {path.name: path for path in found.paths}
    for path in found.paths:
        start = comparison.ways[path.map or OLD].score.mean
        assert path.stages[0].score.mean == pytest.approx(start, abs=1e-9)
        assert path.stages[-1].score.mean == pytest.approx(comparison.ways[NEW].score.mean, abs=1e-9)
    assert by_name["new/ridge, together"].sinks_surely and not by_name["new/ridge, apart"].sinks_surely
    assert not found.best.sinks and "sinks" in found.table()
    worse = min(by_name["new/ridge, together"].stages, key=lambda stage: stage.score.mean)
    assert worse.score.mean < comparison.ways["new/ridge"].score.mean


def test_ranks_are_comparable_in_galleries_of_any_size():
    """Of two spaces that differ in scale and shape, the same items stand out by the same."""
    generator = torch.Generator().manual_seed(0)
    depth = torch.randn(40, 20_000, generator=generator).abs()
    spaces = 3 * depth + 7, (0.2 * depth).square()
    merged = [stands_out(x[:, 4_000:], x[:, :4_000]) for x in spaces]
    place = [x.argsort(1, descending=True).argsort(1)[:, :8_000].double() for x in merged]
    assert (place[0] - place[1]).abs().max() < 50  # but for ties
    halves = torch.cat([merged[0][:, :8_000], merged[1][:, 8_000:]], 1).topk(100).indices
    assert 0.35 < (halves < 8_000).double().mean() < 0.65


def test_those_found_most_often_come_first(world):
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(n, 6, generator=generator) for n in (80, 260))
    near = similarity(queries, items, "l2")
    wanted = [torch.bincount(near.topk(k).indices.flatten(), minlength=260) for k in (5, 50)]
    assert (times_found(queries, items, "l2") == wanted[0]).all()
    for kind in ("parquet", "lance"):
        gallery = Gallery("gallery", open_source(world.put(kind, "items", table(items.numpy()))))
        backfill.write_list("list.csv", gallery, queries, "l2")
        first, *rows = (world.folder / "list.csv").read_text().splitlines()
        listed = [tuple(map(int, row.split(","))) for row in rows]
        assert first == '"id","times_found"' and dict(listed) == dict(
            zip(IDS.tolist(), wanted[1].tolist(), strict=True)
        )
        assert [times for _, times in listed] == sorted(wanted[1].tolist(), reverse=True)


# Advice, on comparisons that are made up


def interval(mean, half=0.01):
    return Interval(mean, mean - half, mean + half, 100)


def made_up(scores, old=0.3, labelled=True, **options):
    """A comparison with these scores of maps."""
    ways = {}
    for name, score in {OLD: old, **scores, f"{OLD}, 200 anew": 0.6, NEW: 0.7}.items():
        same = {"agreement": interval(score), "in_gallery": None, "top1": interval(score) if labelled else None}
        changed = {"gain": interval(score - old), "lost": interval(0.1), "won": interval(0.2)}
        ways[name] = Way(name, interval(score), **same, **changed, seconds=1.0, bytes=4, anew=0)
    about = {"fitted_on": 400, "held_out": 100, "labelled": labelled, "metric": "l2", "gallery_size": None}
    return Comparison(ways, interval(0.6), **about | {"old_model": True} | options, maps=list(scores))


EVEN = Path("old/old, apart", None, tuple(Stage(s, interval(0.3 + s), interval(s)) for s in (0.0, 0.5, 1.0)))
DEEP = Path(
    "new/ridge, together",
    "new/ridge",
    tuple(Stage(s, interval(x), interval(x - 0.3)) for s, x in ((0.0, 0.3), (0.5, 0.1), (1.0, 0.7))),
)


@pytest.mark.parametrize(
    ("scores", "options", "action", "label", "said"),
    [
        ({"new/ridge": 0.5, "new/Procrustes": 0.495}, {}, "map", "new/Procrustes", "Use new/Procrustes"),
        ({"new/ridge": 0.5, "new/Procrustes": 0.4}, {}, "map", "new/ridge", "no other map has more"),
        ({"new/ridge": 0.305}, {}, "keep", None, "Keep the old model: no map finds more"),
        ({"new/ridge": 0.2}, {"old_model": False}, "map", "new/ridge", "Use new/ridge"),
        ({"new/ridge": 0.4}, {"labelled": False}, "back-fill", None, "50 % would be enough"),
        ({"new/ridge": 0.25}, {"labelled": False}, "keep", None, "Keep the old model"),
        ({"new/ridge": 0.6, "new/identity": 0.6}, {}, "nothing", None, "Do nothing"),
    ],
)
def test_advice_follows_the_rule(scores, options, action, label, said):
    maps = fit(noisy(200, labelled=False), ["identity"])
    found = recommend(made_up(scores, **options), Paths((EVEN, DEEP)), maps)
    assert (found.action, found.map) == (action, label) and said in found.text
    if action in ("keep", "map"):
        assert (
            found.path == "old/old, apart"
            and "Not new/ridge, together: with 50 % done it would have 10.0" in found.text
        )


def test_identity_serves_where_lengths_allow():
    pairs = noisy(200, labelled=False)
    unit = replace(pairs, new=F.normalize(pairs.new, dim=1))
    scores = {"new/identity": 0.6}
    for of, metric, action in ((pairs, "l2", "nothing"), (unit, "l2", "map"), (unit, "cosine", "nothing")):
        maps = fit(of, ["identity"], metric=metric)
        assert recommend(made_up(scores), Paths((EVEN,)), maps).action == action


def test_what_cannot_be_compared_is_refused():
    pairs = noisy(200)
    with pytest.raises(ValueError, match="old: embeddings must not all be the same"):
        measured(replace(pairs, old=torch.ones_like(pairs.old)), methods=("identity",))
    with pytest.raises(ValueError, match="labels: some of the 40 held-out items must share one"):
        measured(replace(pairs, labels=torch.arange(200)))
