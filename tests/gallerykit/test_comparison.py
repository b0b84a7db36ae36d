"""Maps compared on held-out pairs: the measures, by their definitions, and prices."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from compatkit import alignment, retrieval
from compatkit.intervals import difference, interval
from gallerykit.backfill import SHARES
from gallerykit.comparison import compare
from gallerykit.maps import Pairs, fit
from gallerykit.metrics import for_l2
from gallerykit.sizes import Sample

from .test_upgrade import latent, new_model, old_model, side_model


def held_out_pairs(n=40):
    x = latent(n, 3)
    labels = torch.arange(n) % 4
    return Pairs(torch.from_numpy(old_model(x)), torch.from_numpy(new_model(x)), labels=labels, old_bytes=24)


def test_measures_are_their_definitions():
    pairs = held_out_pairs()
    maps = fit(pairs, ["identity", "ridge"])
    found = compare(maps, pairs, 160)
    for name, function in maps.items():
        mapped = function(pairs.old)
        near = [
            (pairs.new[:, None] - x).norm(dim=2).fill_diagonal_(torch.inf).topk(10, largest=False).indices.tolist()
            for x in (pairs.new, mapped)
        ]
        agreement = [len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)]
        candidate = found.candidates[name]
        assert candidate.agreement == interval(agreement)
        spread = (pairs.new - pairs.new.mean(0)).square().sum() / len(pairs)
        errors = ((mapped - pairs.new).square().sum(1) / spread).tolist()
        assert candidate.error.mean == pytest.approx(sum(errors) / len(errors))
        scores = {
            key: retrieval.evaluate(q, pairs.labels, g, pairs.labels, ks=(1,), same_items=True)
            for key, (q, g) in {"old": (pairs.old, pairs.old), "map": (pairs.new, mapped)}.items()
        }
        assert candidate.top1.mean == pytest.approx(scores["map"].cmc[1])
        assert candidate.mean_ap.mean == pytest.approx(scores["map"].mean_ap)
        assert found.old[1].mean == pytest.approx(scores["old"].mean_ap)
        precision = [scores[key].average_precision.tolist() for key in ("map", "old")]
        assert candidate.gain == difference(*precision)
    assert (found.fitted_on, found.held_out, found.old_bytes, found.new_bytes) == (160, 40, 24, 28)


def test_measures_of_queries_are_their_definitions():
    """Mapped new embeddings search among the old ones, as they are."""
    pairs = replace(held_out_pairs(), side=torch.from_numpy(side_model(latent(40, 3))))
    maps = fit(pairs, ["identity", "ridge"], direction="queries")
    found = compare(maps, pairs, 160, direction="queries")
    closed = alignment.ridge(pairs.new, pairs.old)
    for name, mapped in {"identity": pairs.new[:, :6], "ridge": closed(pairs.new)}.items():
        near = {
            key: (query[:, None] - items).norm(dim=2).fill_diagonal_(torch.inf).topk(10, largest=False).indices.tolist()
            for key, query, items in (
                ("new", pairs.new, pairs.new),
                ("map", mapped, pairs.old),
                ("old", pairs.old, pairs.old),
            )
        }
        agreement = {
            key: [len(set(a) & set(b)) / 10 for a, b in zip(near["new"], near[key], strict=True)]
            for key in ("map", "old")
        }
        candidate = found.candidates[name]
        assert candidate.agreement == interval(agreement["map"])
        assert candidate.recall == interval([float(a[0] in b) for a, b in zip(near["new"], near["map"], strict=True)])
        recall = interval([float(a[0] in b) for a, b in zip(near["new"], near["old"], strict=True)])
        assert found.found_by_old == (interval(agreement["old"]), recall)
        spread = (pairs.old - pairs.old.mean(0)).square().sum() / len(pairs)
        assert candidate.error.mean == pytest.approx(((mapped - pairs.old).square().sum() / spread / 40).item())
        scores = {
            key: retrieval.evaluate(q, pairs.labels, pairs.old, pairs.labels, ks=(1,), same_items=True)
            for key, q in {"old": pairs.old, "map": mapped}.items()
        }
        assert candidate.mean_ap.mean == pytest.approx(scores["map"].mean_ap)
        assert candidate.gain == difference(*(scores[key].average_precision.tolist() for key in ("map", "old")))
    assert "ridge/old" in found.table() and "new/ridge" not in found.table()
    assert maps["ridge"].d_side == 0


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_measures_are_by_the_metric(metric):
    pairs = held_out_pairs()
    lengths = torch.linspace(0.1, 3, len(pairs))[:, None]
    pairs = replace(pairs, old=pairs.old * lengths, new=pairs.new * lengths)
    maps = fit(pairs, ["ridge"])
    found, mapped = compare(maps, pairs, 160, metric=metric), maps["ridge"](pairs.old)
    near = [
        retrieval.nearest(*for_l2(pairs.new, x, metric), 10, same_items=True)[1].tolist() for x in (pairs.new, mapped)
    ]
    candidate = found.candidates["ridge"]
    assert candidate.agreement == interval([len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)])
    assert candidate.recall == interval([float(a[0] in b) for a, b in zip(*near, strict=True)])
    query, items = for_l2(pairs.new, mapped, metric)
    scores = retrieval.evaluate(query, pairs.labels, items, pairs.labels, ks=(1,), same_items=True)
    assert candidate.reciprocal_rank == interval((1 / scores.hit_rank.double()).tolist())
    assert candidate.mean_ap.mean == pytest.approx(scores.mean_ap) and found.metric == metric
    assert {"l2": "L2 distance", "cosine": "cosine", "ip": "inner product"}[metric] in found.table()


def test_cosine_needs_no_unit_length_to_leave_things_alone():
    x = torch.from_numpy(old_model(latent(40, 3)))
    pairs = Pairs(x, F.normalize(x, dim=1))
    same = {
        metric: compare(fit(pairs, ["identity"]), pairs, 160, metric=metric).same_shape for metric in ("l2", "cosine")
    }
    assert same == {"l2": False, "cosine": True}


def test_prices():
    pairs = replace(held_out_pairs(), side=torch.from_numpy(side_model(latent(40, 3))))
    found = compare(fit(pairs, width=8, steps=2, show_progress=False), pairs, 1).candidates
    # paper B's architecture, by hand: branches to twice the width and on to 2 d_new, mixer of width 8
    h = 6 * 12 + 12 * 14 + 3 * 6 + 6 * 14 + 28 * 8 + 8 * 8 + 8 * 7
    low_rank, residual = 1 * (9 + 7), 9 * 8 + 8 * 7  # 2 * (9 + 7) would be more than half of 9 * 7
    macs = {"identity": 0, "Procrustes": 63, "low-rank": low_rank, "ridge": 63, "residual": residual, "h": h}
    assert {name: c.macs for name, c in found.items()} == macs
    assert found["ridge"].parameters == 63 + 7 and found["identity"].parameters == 0
    assert found["low-rank"].parameters == low_rank + 7 and found["residual"].parameters == residual + 8 + 2 * 7
    assert found["h"].parameters == h + 7 + 2 * (12 + 14 + 6 + 14 + 8 + 8)
    assert all(c.seconds > 0 for c in found.values())


@pytest.mark.parametrize("labelled", [True, False])
def test_what_would_be_lost_and_won(labelled):
    pairs = held_out_pairs() if labelled else replace(held_out_pairs(), labels=None)
    maps = fit(pairs, ["identity", "ridge"])
    found = compare(maps, pairs, 160)
    for name, function in maps.items():
        works = []
        for query, items in ((pairs.old, pairs.old), (pairs.new, function(pairs.old))):
            near = torch.cdist(query, items).fill_diagonal_(torch.inf).topk(10, largest=False).indices
            truth = torch.cdist(pairs.new, pairs.new).fill_diagonal_(torch.inf).argmin(1)
            right = pairs.labels is not None and pairs.labels[near[:, 0]] == pairs.labels
            works.append(right if labelled else (near == truth[:, None]).any(1))
        candidate = found.candidates[name]
        assert candidate.lost == interval((works[0] & ~works[1]).double().tolist()), name
        assert candidate.won == interval((works[1] & ~works[0]).double().tolist()), name
    table = found.table()
    assert ("a nearest one with their label by old/old" in table) == labelled and "lost, %" in table


@pytest.mark.parametrize("direction", ["gallery", "queries"])
def test_agreement_in_the_gallery_is_beside_that_of_the_pairs(direction):
    x = latent(300, 3)
    pairs = Pairs(torch.from_numpy(old_model(x)), torch.from_numpy(new_model(x)))
    maps = fit(pairs, ["ridge"], direction=direction)
    found = compare(maps, pairs, 1200, direction=direction, gallery_size=1500)
    candidate = found.candidates["ridge"]
    mapped = maps["ridge"](pairs.new if direction == "queries" else pairs.old)
    searched = (mapped, pairs.old) if direction == "queries" else (pairs.new, mapped)
    assert candidate.in_gallery == Sample(1500, pairs.new, pairs.new, torch.arange(300), "l2").agreement(*searched)
    assert candidate.in_gallery.high < candidate.agreement.mean
    assert "in 1 500, %" in found.table() and "1 500" not in compare(maps, pairs, 1200, direction=direction).table()
    assert (found.mixed is None) == (direction == "queries")
    if found.mixed is not None:
        assert (found.mixed.map, [one.share for one in found.mixed.shares]) == ("ridge", list(SHARES))
