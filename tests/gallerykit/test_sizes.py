"""Agreement in a gallery larger than the sample: against galleries that are there."""

import math

import pytest
import torch

from compatkit.intervals import interval
from gallerykit.metrics import METRICS, similarity
from gallerykit.sizes import Sample


def smooth(n, seed=0):
    """New embeddings and what a map makes of the old ones: an error of one size everywhere."""
    generator = torch.Generator().manual_seed(seed)
    new = torch.randn(n, 8, generator=generator)
    return new, new + 0.3 * torch.randn(n, 8, generator=generator)


def clustered(n, seed=0):
    """In clusters of a 300th of all, which the map keeps apart and shuffles within."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(300, 32, generator=generator)
    spread = torch.rand(n, 1, generator=generator)
    new = centres[torch.randint(300, (n,), generator=generator)] + spread * torch.randn(n, 32, generator=generator)
    return new, new + 0.3 * torch.randn(n, 32, generator=generator)


def agreement(new, mapped, queries, metric="l2"):
    """Of the first ``queries`` items among all: the share of the 10 nearest that are kept."""
    near = []
    for items in (new, mapped):
        scores = similarity(new[:queries], items, metric)
        near.append(scores.fill_diagonal_(-math.inf).topk(10).indices)
    return (near[0][:, :, None] == near[1][:, None]).any(2).double().mean(1)


def estimated(size, new, mapped, metric="l2"):
    truth, found = (similarity(new, x, metric).fill_diagonal_(-math.inf) for x in (new, mapped))
    return Sample(size, truth).agreement(found)


@pytest.mark.parametrize(
    ("drawn", "times"), [(smooth, 2), (smooth, 5), (smooth, 10), (smooth, 20), (clustered, 10), (clustered, 20)]
)
def test_a_gallery_of_many_times_the_size(drawn, times):
    n = 1_500
    new, mapped = drawn(times * n)
    truth = agreement(new, mapped, n).mean().item()
    found = estimated(times * n, new[:n], mapped[:n])
    assert found.low < truth < found.high, (found, truth)
    assert found.high - found.low < (0.45 if drawn is clustered or times > 10 else 0.15), found
    if drawn is smooth:
        assert found.high < agreement(new[:n], mapped[:n], n).mean()


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_cover_what_is_measured(metric):
    covered = 0
    for seed in range(30):
        lengths = torch.linspace(0.5, 2, 2_000)[torch.randperm(2_000, generator=torch.Generator().manual_seed(seed))][
            :, None
        ]
        new, mapped = (x * lengths for x in smooth(2_000, seed))
        found = estimated(2_000, new[:400], mapped[:400], metric)
        covered += found.low < agreement(new, mapped, 400, metric).mean() < found.high
    assert covered >= 27


def test_a_gallery_no_larger_than_the_sample_is_measured():
    new, mapped = smooth(400)
    kept = agreement(new, mapped, 400)
    found = estimated(400, new, mapped)
    assert found == interval(kept.tolist())
    halves = [agreement(new[part], mapped[part], 200).mean().item() for part in (slice(200), slice(200, 400))]
    assert estimated(200, new, mapped).mean == pytest.approx(sum(halves) / 2, abs=0.03)


def test_few_items_say_nothing_of_a_larger_gallery():
    new, mapped = smooth(99)
    assert estimated(100, new, mapped) is None
    assert estimated(99, new, mapped) is not None and estimated(50, new, mapped) is not None
    assert estimated(10**9, *smooth(100)) is not None


def test_agreement_that_is_whole_stays_so():
    new, _ = smooth(1_000)
    found = estimated(10_000, new, new)
    assert found.low > 0.99 and found.high <= 1
