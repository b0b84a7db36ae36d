"""Back-filling a part: which items first, and what it gives, on data of which all is known."""

import csv

import numpy as np
import pytest
import torch

from compatkit import retrieval
from compatkit.intervals import interval
from gallerykit.backfill import NEAR, SHARES, Ranking, mixed, write_list
from gallerykit.maps import Pairs, fit
from gallerykit.metrics import METRICS, for_l2

from .test_sizes import agreement

N = 800


def uneven(n, seed=0):
    """Old embeddings that say little of the new ones in a fifth of the space, and much elsewhere; with labels."""
    generator = torch.Generator().manual_seed(seed)
    new = torch.randn(n, 6, generator=generator)
    bad = new[:, 0] > 0.84
    error = torch.where(bad, 1.0, 0.05)[:, None] * torch.randn(n, 6, generator=generator)
    error[:, 0] = 0
    return Pairs(new + error, new, labels=(new[:, 1:3] > 0).long() @ torch.tensor([1, 2])), bad


def fitted(n=N):
    pairs, bad = uneven(n + 2_000)
    first, rest = torch.arange(n), torch.arange(n, len(pairs))
    return fit(pairs.rows(rest), ["ridge"])["ridge"], pairs.rows(first), bad[:n]


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_worst_come_first(metric):
    function, held_out, _ = fitted()
    others, bad = uneven(1_000, seed=1)
    found = Ranking.of(function, held_out, metric)(others.old)
    assert bad[found.argsort(descending=True)[: int(bad.sum())]].double().mean() > 0.7 > 3 * bad.double().mean()
    assert found[bad].mean() > 3.5 * found[~bad].mean()


@pytest.mark.parametrize("metric", METRICS)
def test_the_loss_to_expect_is_that_of_the_nearest_pairs(metric):
    function, held_out, _ = fitted(100)
    others, _ = uneven(20, seed=1)
    lengths = [x.norm(dim=1, keepdim=True) if metric == "cosine" else 1 for x in (others.old, held_out.old)]
    near = torch.cdist(others.old / lengths[0], held_out.old / lengths[1]).topk(NEAR, largest=False).indices
    wanted = losses(function, held_out, metric)[near].mean(1)
    assert torch.allclose(Ranking.of(function, held_out, metric)(others.old), wanted, rtol=1e-4)


def losses(function, held_out, metric):
    """Of each pair: its squared error, times one more than how many of the others find it."""
    mapped, new = function(held_out.old), held_out.new
    if metric == "cosine":
        mapped, new = (x / x.norm(dim=1, keepdim=True) for x in (mapped, new))
    scores = -torch.cdist(new, new) if metric == "l2" else new @ new.T
    times = [0] * len(new)
    for query in range(len(new)):
        order = [item for item in scores[query].argsort(descending=True).tolist() if item != query]
        for item in order[:NEAR]:
            times[item] += 1
    assert sum(times) == NEAR * len(new) and len(set(times)) > 10
    return (mapped - new).square().sum(1) * (1 + torch.tensor(times))


def test_an_items_own_loss_is_not_used():
    function, held_out, _ = fitted(100)
    new = held_out.new.clone()
    new[7] += 1_000
    ranking = Ranking.of(function, Pairs(held_out.old, new))
    own = torch.arange(100)
    found = ranking(held_out.old, own)
    assert ranking(held_out.old)[7] > 1_000 and found[7] < found.median() * 1_000
    nearest = torch.cdist(held_out.old, held_out.old).fill_diagonal_(torch.inf).topk(NEAR, largest=False).indices
    assert torch.allclose(found[7], ranking.losses[nearest[7]].mean(), rtol=1e-4)


def test_of_items_fitted_equally_well_those_found_often_come_first():
    """Half of the items are one dense cloud within a thin one: each is in the lists of its neighbours and of those."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.arange(1_000) % 2 == 0
    new = torch.randn(1_000, 8, generator=generator) * torch.where(dense, 0.5, 1.0)[:, None]
    pairs = Pairs(new + 0.1 * torch.randn(1_000, 8, generator=generator), new)
    order = Ranking.of(fit(pairs, ["identity"])["identity"], pairs)(pairs.old).argsort(descending=True)
    assert dense[order[:200]].double().mean() > 0.9


def test_the_worst_first_gives_more_than_any_order():
    function, held_out, _ = fitted()
    plan = mixed(function, held_out, map_seconds=2.0)
    assert [one.share for one in plan.shares] == list(SHARES) and plan.map == "ridge"
    nothing, *_, everything = plan.shares
    assert nothing.agreement == nothing.at_random and everything.agreement.mean > 0.99
    part = plan.shares[SHARES.index(0.2)]
    assert part.agreement.low > part.at_random.high + 0.02 and part.in_gallery is None
    assert part.mean_ap.mean > nothing.mean_ap.mean and everything.gain.low > nothing.gain.low
    assert plan.seconds(0.25, 100) == 0.25 * 100 + 0.75 * 2


def test_a_mixed_gallery_of_ten_times_the_size():
    function, held_out, _ = fitted()
    rest, _ = uneven(9 * N, seed=2)
    old, new = torch.cat([held_out.old, rest.old]), torch.cat([held_out.new, rest.new])
    plan = mixed(function, held_out, gallery_size=10 * N, map_seconds=1.0)
    order = Ranking.of(function, held_out)(old, torch.arange(len(old)).where(torch.arange(len(old)) < N, -1))
    for part in plan.shares[:-1:2]:
        worst = order.argsort(descending=True)[: int(part.share * len(old))]
        gallery = function(old).index_copy(0, worst, new[worst])
        truth = agreement(new, gallery, N).mean().item()
        assert part.in_gallery.low < truth < part.in_gallery.high, (part.share, part.in_gallery, truth)
        assert part.in_gallery.mean < part.agreement.mean


def test_map_of_the_mixed_gallery_by_definition():
    function, held_out, _ = fitted(200)
    plan = mixed(function, held_out, metric="cosine", map_seconds=1.0)
    queries = torch.randperm(200, generator=torch.Generator().manual_seed(0))[100:]
    for share, items in ((0, function(held_out.old)), (1, held_out.new)):
        scores = retrieval.evaluate(*_labelled(held_out, *for_l2(held_out.new, items, "cosine")), same_items=True)
        found = next(one for one in plan.shares if one.share == share)
        assert found.mean_ap == interval(scores.average_precision[queries].tolist())


def _labelled(pairs, query, items):
    return query, pairs.labels, items, pairs.labels


def test_labels_of_one_item_each_are_left_alone():
    function, held_out, _ = fitted(100)
    single = Pairs(held_out.old, held_out.new, labels=torch.arange(100))
    assert mixed(function, single, map_seconds=1.0).shares[0].mean_ap is None


def test_the_list(tmp_path):
    write_list(tmp_path / "list.csv", np.array(["a", "b,c", 'd"', "e"]), np.array([0.5, 2.0, 2.0, 1.0], np.float32))
    with open(tmp_path / "list.csv", newline="") as file:
        assert list(csv.reader(file)) == [["id", "expected_loss"], ["b,c", "2"], ['d"', "2"], ["e", "1"], ["a", "0.5"]]
