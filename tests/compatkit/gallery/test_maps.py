"""Maps from old to new embeddings: what is fitted, what is compared, what is advised."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from compatkit import alignment, retrieval
from compatkit.gallery import embeddings as store
from compatkit.gallery import maps as module
from compatkit.gallery.maps import Candidate, Comparison, Map, Pairs, compare, fit, recommend, split
from compatkit.intervals import Interval, difference, interval

from .test_upgrade import N, latent, new_model, old_model, side_model

# What is compared


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
def test_searches_are_by_the_metric(metric):
    query, gallery = vectors_of_many_lengths(30, 1), vectors_of_many_lengths(40, 2)
    by = {"l2": lambda q, g: -torch.cdist(q, g), "cosine": lambda q, g: F.cosine_similarity(q[:, None], g, dim=2)}
    scores = by.get(metric, lambda q, g: q @ g.T)(query.double(), gallery.double())
    found = retrieval.nearest(*module.for_l2(query, gallery, metric), 7)[1]
    assert torch.equal(found, scores.topk(7).indices)


def vectors_of_many_lengths(n, seed):
    return latent(n, seed) * torch.linspace(0.1, 3, n)[:, None]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_measures_are_by_the_metric(metric):
    pairs = held_out_pairs()
    lengths = torch.linspace(0.1, 3, len(pairs))[:, None]
    pairs = replace(pairs, old=pairs.old * lengths, new=pairs.new * lengths)
    maps = fit(pairs, ["ridge"])
    found, mapped = compare(maps, pairs, 160, metric=metric), maps["ridge"](pairs.old)
    near = [
        retrieval.nearest(*module.for_l2(pairs.new, x, metric), 10, same_items=True)[1].tolist()
        for x in (pairs.new, mapped)
    ]
    candidate = found.candidates["ridge"]
    assert candidate.agreement == interval([len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)])
    assert candidate.recall == interval([float(a[0] in b) for a, b in zip(*near, strict=True)])
    query, items = module.for_l2(pairs.new, mapped, metric)
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


def test_side_information_is_used_by_all_but_identity():
    x = latent(N, 1)
    pairs = Pairs(*(torch.from_numpy(f(x)) for f in (old_model, new_model, side_model)))
    maps = fit(pairs, ["identity", "ridge"])
    assert (maps["ridge"](pairs.old, pairs.side) - pairs.new).abs().max() < 1e-2
    assert torch.equal(maps["identity"](pairs.old, pairs.side), F.pad(pairs.old, (0, 1)))
    closed = alignment.ridge(torch.cat([pairs.old, pairs.side], 1), pairs.new)
    assert torch.equal(maps["ridge"](pairs.old, pairs.side), closed(torch.cat([pairs.old, pairs.side], 1)))


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("name", ["h", "residual"])
def test_networks_learn_at_any_scale(name, side):
    x = latent(400, 1)
    old, new = torch.from_numpy(old_model(x)), torch.from_numpy(new_model(x))
    beside = torch.from_numpy(side_model(x)) if side else None
    errors = []
    for scale in (1, 1e-4, 1e4):
        pairs = Pairs(old * scale, new / scale, None if beside is None else beside / scale)
        mapped = fit(pairs, [name], width=32, steps=80, show_progress=False)[name](pairs.old, pairs.side)
        errors.append(((mapped - pairs.new).square().sum() / (pairs.new - pairs.new.mean(0)).square().sum()).item())
    assert max(errors) < (0.65 if side else 0.75) and max(errors) - min(errors) < 0.02, errors


def test_results_have_length_1_where_new_embeddings_have():
    pairs = held_out_pairs()
    unit = replace(pairs, new=F.normalize(pairs.new, dim=1))
    for name, function in fit(unit, width=8, steps=4, show_progress=False).items():
        assert store.is_unit(function(pairs.old)), name
    assert not store.is_unit(fit(pairs, ["ridge"])["ridge"](pairs.old))


def test_networks_are_as_if_fitted_alone():
    pairs = held_out_pairs()
    both = fit(pairs, ["residual", "h"], width=8, steps=5, show_progress=False)
    for name, function in both.items():
        alone = fit(pairs, [name], width=8, steps=5, show_progress=False)[name]
        assert torch.equal(function(pairs.old), alone(pairs.old)), name


def test_a_map_survives_its_state():
    pairs = replace(held_out_pairs(), side=torch.from_numpy(side_model(latent(40, 3))))
    for name, function in fit(pairs, width=8, steps=2, show_progress=False).items():
        again = Map.from_state(function.state())
        assert again.name == name and torch.equal(again(pairs.old, pairs.side), function(pairs.old, pairs.side))


def test_held_out_pairs_are_a_fifth_and_never_fitted_on():
    x = torch.arange(N)[:, None] + 0.5
    to_fit, held_out = split(Pairs(x, x, labels=torch.arange(N)))
    assert len(held_out) == N / 5 and set(to_fit.old[:, 0].tolist()) | set(held_out.old[:, 0].tolist()) == set(
        x[:, 0].tolist()
    )
    assert (held_out.labels + 0.5 == held_out.new[:, 0]).all()
    big = torch.zeros(60_000, 1)
    assert len(split(Pairs(big, big))[1]) == 10_000


# What is advised


def around(mean, half=0.02):
    return Interval(mean, mean - half, mean + half, 100)


def comparison(agreement, mean_ap=None, old=None, same_shape=True):
    """Of four maps with these scores, in the order of METHODS; seconds are 1, 2, 3 and 4."""
    candidates = {}
    for i, name in enumerate(("identity", "Procrustes", "ridge", "h")):
        ap = None if mean_ap is None else around(mean_ap[i])
        gain = None if mean_ap is None else around(mean_ap[i] - old)
        candidates[name] = Candidate(name, *[around(agreement[i])] * 2, around(0.5), ap, ap, ap, gain, 1, 1, i + 1)
    before = None if old is None else (around(old),) * 3
    return Comparison(candidates, before, before, (around(0.3),) * 2, 80, 20, same_shape, 4, 0, 4)


@pytest.mark.parametrize(
    ("given", "options", "method", "said"),
    [
        (comparison([0.1, 0.6, 0.7, 0.9]), {}, "h", "Use h: .*90.0 ± 2.0 %, and no simpler map"),
        (comparison([0.1, 0.6, 0.87, 0.9]), {}, "ridge", "Use ridge: .*the best, h with 90.0.* is within"),
        (comparison([0.1, 0.87, 0.8, 0.9]), {}, "Procrustes", "Use Procrustes"),
        (comparison([0.95, 0.9, 0.9, 0.9]), {}, None, "Do nothing: .*no other map has more"),
        (comparison([0.9, 0.9, 0.9, 0.93]), {}, None, "Do nothing: .*the best, h"),
        (comparison([0.9, 0.9, 0.9, 0.93], same_shape=False), {}, "identity", "Use identity"),
        (comparison([0.1, 0.2, 0.3, 0.4]), {}, None, "Back-fill: even the best map, h, .*40.0 ± 2.0 %; 50 %"),
        (comparison([0.1, 0.2, 0.3, 0.4]), {"enough": 0.3}, "h", "Use h"),
        (comparison([0.1, 0.6, 0.7, 0.9]), {"backfill_seconds": 400}, "h", "100 times as long"),
        (comparison([0.1, 0.6, 0.7, 0.9]), {"backfill_seconds": 3}, None, "Back-fill: it is exact and takes 3 s"),
        (comparison([0.1] * 4, [0.1, 0.2, 0.6, 0.6], old=0.5), {}, "ridge", "Use ridge: its mAP"),
        (comparison([0.9] * 4, [0.1, 0.2, 0.6, 0.7], old=0.8), {}, None, "Back-fill, or keep the old model"),
        (comparison([0.1] * 4, [0.1, 0.2, 0.6, 0.79], old=0.8), {}, "h", "Use h"),
    ],
)
def test_advice_follows_the_rule(given, options, method, said):
    found, sentence = recommend(given, **options)
    assert found == method
    assert re.search(said, sentence), sentence


def test_the_table_is_aligned():
    for given in (comparison([0.1, 0.6, 0.7, 0.9]), comparison([0.1] * 4, [0.1, 0.2, 0.6, 0.6], old=0.5)):
        header, *lines, last = given.table().splitlines()
        assert ("mAP" in header) == (given.old is not None) == any(line.startswith("new/new") for line in lines)
        assert lines[0].startswith("old/old") and lines[0].count("30.0 ± 2.0") == 2
        assert len({len(line) for line in lines if line.startswith("new/") and "new/new" not in line}) == 1
        assert last.startswith("Fitted on 80 pairs, compared on 20 others")
