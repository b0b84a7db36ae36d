"""Correlation, CKA and neighbours against their definitions, over any batches, with hooks that leave nothing behind."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compatkit import models, similarity
from compatkit.normalization import evaluation
from compatkit.similarity import (
    CKA,
    CrossCorrelation,
    cka_map,
    cross_correlation,
    layer_features,
    linear_cka,
    match_channels,
    mutual_knn,
)

seeds = st.integers(0, 10**6)
few = settings(max_examples=25, deadline=None)

BOUND = 1e-6  # of the error in single precision, stated by the module


def features(n, p, seed=0, *, like=None, noise=1.0, dtype=torch.float64):
    """Random features (n, p) with unequal channels, or such mixed from the channels of ``like``."""
    g = torch.Generator().manual_seed(seed)
    x = noise * torch.randn(n, p, generator=g, dtype=torch.float64) * torch.linspace(0.2, 2, p, dtype=torch.float64)
    if like is not None:
        x = x + like.double() @ torch.randn(like.shape[1], p, generator=g, dtype=torch.float64)
    return (x + torch.randn(p, generator=g, dtype=torch.float64)).to(dtype)


def pair(n, p, q, seed=0):
    x = features(n, p, seed)
    return x, features(n, q, seed + 1, like=x)


def splits(n, seed):
    """Random sizes of batches, single samples among them, that add up to n."""
    g = torch.Generator().manual_seed(seed)
    cuts = torch.randint(0, n + 1, (5,), generator=g).tolist()
    edges = sorted({0, 1, n, *cuts})
    return [b - a for a, b in itertools.pairwise(edges)]


def orthogonal(p, seed):
    return torch.linalg.qr(features(p, p, seed))[0]


# Definitions, term by term


def naive_hsic(k, l):  # noqa: E741
    n = len(k)
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    return (k @ h @ l @ h).trace().item() / (n - 1) ** 2


def naive_hsic1(k, l):  # noqa: E741
    """Song et al. 2012, Eq. 5."""
    n = len(k)
    k, l = (m.clone().fill_diagonal_(0) for m in (k, l))  # noqa: E741
    one = torch.ones(n, dtype=torch.float64)
    value = (k @ l).trace() + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return ((value - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))).item()


def naive_cka(x, y, unbiased=False):
    hsic = naive_hsic1 if unbiased else naive_hsic
    k, l = x.double() @ x.double().T, y.double() @ y.double().T  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def naive_correlation(x, y):
    table = []
    for a in x.T:
        a = a - a.mean()
        table.append([((a @ (b - b.mean())) / (a.norm() * (b - b.mean()).norm())).item() for b in y.T])
    return torch.tensor(table, dtype=torch.float64)


def naive_knn(x, y, k):
    total = 0
    for i in range(len(x)):
        near = []
        for z in (x, y):
            others = sorted((j for j in range(len(z)) if j != i), key=lambda j, z=z: (z[i] - z[j]).norm().item())
            near.append(set(others[:k]))
        total += len(near[0] & near[1]) / k
    return total / len(x)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("n", "p", "q"), [(40, 5, 7), (12, 30, 3), (9, 20, 40), (4, 2, 3), (30, 1, 1), (5, 6, 300)])
def test_cka_against_the_definition(n, p, q, unbiased):
    x, y = pair(n, p, q)
    expected = naive_cka(x, y, unbiased)
    assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(expected, abs=1e-10)
    assert CKA(unbiased=unbiased).update(x, y).compute() == pytest.approx(expected, abs=1e-10)


def moments(x, y):
    return similarity._moments(x, y, [(0, 1)], torch.float64, unbiased=True)[0]


def test_hsic_itself_against_the_definition():
    x, y = pair(17, 4, 6)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    assert similarity._hsics([moments(x, y)], True)[0] / (17 * 14) == pytest.approx(naive_hsic1(k, l), rel=1e-10)
    assert similarity._hsics([moments(x, y)], False)[0] / 16**2 == pytest.approx(naive_hsic(k, l), rel=1e-10)


def test_unbiased_hsic_does_not_depend_on_the_origin():
    x, y = pair(12, 3, 5)
    moved = x + torch.tensor([3.0, -50.0, 0.2])
    assert naive_hsic1(moved @ moved.T, y @ y.T) == pytest.approx(naive_hsic1(x @ x.T, y @ y.T), rel=1e-9)


@given(seeds)
@few
def test_moments_of_two_sets_add_up_to_those_of_both(seed):
    x, y = pair(15, 3, 4, seed)
    got, expected = moments(x[:6], y[:6]) + moments(x[6:], y[6:]), moments(x, y)
    for name in ("n", "mean_x", "mean_y", "xx", "yy", "xy", "ab", "bx", "ay"):
        a, b = (torch.as_tensor(getattr(m, name)).double() for m in (got, expected))
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-8), name


def test_correlation_against_the_definition():
    x, y = pair(50, 4, 6)
    assert torch.allclose(cross_correlation(x, y), naive_correlation(x, y), atol=1e-12)
    expected = torch.corrcoef(torch.cat([x, y], 1).T)[:4, 4:]
    assert torch.allclose(cross_correlation(x, y), expected, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_neighbours_against_the_definition(chunk):
    x, y = pair(30, 4, 6)
    assert mutual_knn(x, y, k=5, chunk=chunk) == pytest.approx(naive_knn(x, y, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_set_is_worked_on_in_chunks_blocks_and_panels(monkeypatch, dtype):
    x, y = (side.to(dtype) for side in pair(200, 15, 16))
    wide = features(18, 300, 2, dtype=dtype), features(18, 200, 3, dtype=dtype)
    sizes = {"CHUNK": 256, "BLOCK": 16, "STEP": 5, "PANEL": 4, "NARROW": 2}
    whole = [linear_cka(x, y), linear_cka(*wide, unbiased=True)], cross_correlation(x, y)
    for name, size in sizes.items():
        monkeypatch.setattr(similarity, name, size)
    bound = 1e-12 if dtype == torch.float64 else BOUND
    assert [linear_cka(x, y), linear_cka(*wide, unbiased=True)] == pytest.approx(whole[0], abs=bound)
    assert torch.allclose(cross_correlation(x, y), whole[1], rtol=0, atol=bound)


def test_the_cheaper_side_is_taken_and_it_alone(monkeypatch):
    sides = []
    gram, moments = similarity._gram, similarity._moments
    monkeypatch.setattr(similarity, "_gram", lambda *a: (sides.append("samples"), gram(*a))[1])
    monkeypatch.setattr(similarity, "_moments", lambda *a: (sides.append("features"), moments(*a))[1])
    for n, expected in ((17, ["samples"] * 2), (18, ["features"])):
        linear_cka(features(n, 10), features(n, 8))
        assert sides == expected
        sides.clear()


# Closed forms


def test_closed_forms():
    x = features(64, 6)
    assert linear_cka(x, x) == pytest.approx(1) and linear_cka(x, x, unbiased=True) == pytest.approx(1)
    assert torch.allclose(cross_correlation(x, -x).diagonal(), -torch.ones(6, dtype=torch.float64))
    assert mutual_knn(x, x) == 1
    centred = x - x.mean(0)
    u = torch.linalg.qr(torch.cat([torch.ones(64, 1, dtype=torch.float64), centred], 1))[0][:, 1:]
    assert linear_cka(u[:, :3], u[:, 3:]) == pytest.approx(0, abs=1e-12), "orthogonal subspaces"
    assert linear_cka(u[:, :2], u[:, :6]) == pytest.approx(math.sqrt(2 / 6)), "2 of 6 orthonormal directions"
    assert linear_cka(x[:, :1], x[:, 1:2]) == pytest.approx(cross_correlation(x[:, :1], x[:, 1:2]).item() ** 2)


def test_unbiased_form_of_unrelated_wide_features_is_near_zero_and_the_biased_is_not():
    biased, unbiased = zip(
        *([linear_cka(features(30, 400, 2 * i), features(30, 400, 2 * i + 1), unbiased=u) for u in (False, True)]
          for i in range(20)),
        strict=True,
    )  # fmt: skip
    assert sum(biased) / 20 > 0.8
    assert abs(sum(unbiased) / 20) < 0.02 and min(unbiased) < 0, "HSIC_1 is not cut off at 0"


def test_neighbours_of_unrelated_features_are_shared_by_chance():
    assert mutual_knn(features(300, 20, 1), features(300, 20, 2), k=10) == pytest.approx(10 / 299, abs=0.02)


def test_matching_finds_a_hidden_permutation():
    x, order = features(200, 8), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    y = x[:, order] + 0.1 * features(200, 8, 5)
    permutation, mean = match_channels(cross_correlation(x, y))
    assert permutation.dtype == torch.long and torch.equal(order[permutation], torch.arange(8))
    assert mean == pytest.approx(cross_correlation(x, y)[torch.arange(8), permutation].mean().item())


def test_matching_is_optimal_signed_and_rectangular():
    corr = torch.tensor([[0.9, 0.8, -1.0], [0.8, 0.1, -0.9]])
    permutation, mean = match_channels(corr)
    assert permutation.tolist() == [1, 0] and mean == pytest.approx(0.8), "greedy would take 0.9 and 0.1"
    permutation, mean = match_channels(corr.T)
    assert permutation.tolist() == [1, 0, -1] and mean == pytest.approx(0.8)


# Invariances


@given(seeds, st.booleans(), st.floats(1e-3, 1e3), st.sampled_from([(24, 5, 4), (10, 12, 15)]))
@few
def test_cka_ignores_rotation_scale_offset_and_order(seed, unbiased, scale, shape):
    x, y = pair(*shape, seed)
    expected = linear_cka(x, y, unbiased=unbiased)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    turned = scale * x @ orthogonal(shape[1], seed) + 7
    for a, b in ((turned, y), (y, turned), (x[order], y[order]), (x.flip(1), y)):
        assert linear_cka(a, b, unbiased=unbiased) == pytest.approx(expected, abs=1e-9)


@given(seeds, st.floats(1e-3, 1e3))
@few
def test_correlation_and_neighbours_ignore_what_they_should(seed, scale):
    x, y = pair(25, 4, 3, seed)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    corr = cross_correlation(x, y)
    assert torch.allclose(cross_correlation(scale * x + 7, y), corr, atol=1e-9)
    assert torch.allclose(cross_correlation(x[order], y[order]), corr, atol=1e-9)
    assert torch.allclose(cross_correlation(x.flip(1), y), corr.flip(0), atol=1e-9)
    assert torch.allclose(cross_correlation(y, x), corr.T, atol=1e-9)
    shared = mutual_knn(x, y, k=3)
    for a, b in ((scale * x @ orthogonal(4, seed) + 7, y), (x[order], y[order]), (y, x)):
        assert mutual_knn(a, b, k=3) == pytest.approx(shared)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_an_offset_in_single_precision_breaks_nothing(unbiased, offset):
    x, y = (part.float() + offset for part in pair(500, 6, 8))
    expected = naive_cka(*(part.double() - part.double().mean(0) for part in (x, y)), unbiased)
    stream = CKA(unbiased=unbiased)
    for a, b in zip(x.split(37), y.split(37), strict=True):
        stream.update(a, b)
    assert stream.compute() == pytest.approx(expected, abs=BOUND)
    assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(expected, abs=BOUND)
    assert linear_cka(x[:7], y[:7], unbiased=unbiased) == pytest.approx(
        naive_cka(*(part[:7].double() - part[:7].double().mean(0) for part in (x, y)), unbiased), abs=BOUND
    )
    assert torch.allclose(cross_correlation(x, y), naive_correlation(x.double(), y.double()), rtol=0, atol=BOUND)
    assert mutual_knn(x[:60], y[:60], k=5) == pytest.approx(naive_knn(x[:60].double(), y[:60].double(), 5))


# Single precision against double of the same numbers


def two_valued(n, p, share, seed=0):
    """0.1 and 0.77: all products of a channel are among three numbers, and sums of equal numbers round all one way."""
    g = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(n, p, generator=g, dtype=torch.float64) < share, 0.77, 0.1)


def far_out(x, i, times):
    """Sample i moved away, so that the rest vanishes beside it."""
    return x.index_fill(0, torch.tensor(i), 0) + times * x * (torch.arange(len(x)) == i)[:, None]


def adversaries():
    n, wide = 2500, (features(90, 700, 1), features(90, 500, 2, like=features(90, 700, 1)[:, :9]))
    x = features(n, 60, 3)
    y = features(n, 40, 4, like=x)
    classes = torch.arange(n) // 250
    scales = 10.0 ** torch.linspace(-18, 15, 60, dtype=torch.float64)
    yield "plain", x, y
    yield "offset", x + 1e6, y - 1e6
    yield "rank-deficient", features(n, 2, 5) @ features(2, 60, 6), x
    yield "one direction of two values", two_valued(n, 1, 0.3).expand(-1, 50), x
    yield "one channel and its copies", two_valued(4 * n, 1, 0.5).expand(-1, 40), 1.37 * two_valued(4 * n, 1, 0.5)
    yield "codes", two_valued(n, 60, 0.5), 1.3 * two_valued(n, 60, 0.5).roll(1, 1) + 0.1 * two_valued(n, 60, 0.5)
    yield "fewer samples than features", *wide
    yield "fewer samples, offset", wide[0] + 1e6, wide[1]
    yield "fewer samples, codes", two_valued(90, 300, 0.3), two_valued(90, 300, 0.3) + two_valued(90, 300, 0.5, 1)
    yield "classes in order", torch.eye(10, dtype=torch.float64)[classes] / 0.9, torch.eye(10)[classes // 2] * 1.7
    yield "wide classes", torch.eye(40, dtype=torch.float64)[classes] / 0.9, torch.eye(40)[classes % 7] * 1.7
    yield "unequal scales", x * scales, y + (x * scales)[:, :40] * scales[:40].reciprocal()
    yield "tiny", 1e-41 * x, 1e-36 * y
    yield "huge", 1e28 * x, y
    yield "one sample far out", far_out(x, 7, 1e4), far_out(y, 7, 1e3)
    yield "few samples, one far out", far_out(x, 5, 1e3)[:50], y[:50]
    nearly = torch.full((n, 10), 0.1, dtype=torch.float32)
    nearly[5] = torch.nextafter(nearly[5], torch.tensor(1.0))
    nearly[7, 3] = 0.2
    yield "nearly constant", nearly, 1e3 * (nearly - 0.1)[:, :4] + y[:, :4]


ADVERSARIES = [
    pytest.param(x.to(dtype).contiguous(), y.to(dtype).contiguous(), id=f"{name}, {dtype}")
    for name, x, y in adversaries()
    for dtype in (torch.float32, torch.float16)
    if all(side.to(dtype).isfinite().all() and side.to(dtype).any() for side in (x, y))
]


@pytest.mark.parametrize(("x", "y"), ADVERSARIES)
def test_single_precision_keeps_its_bound(x, y):
    for unbiased in (False, True):
        expected = linear_cka(x.double(), y.double(), unbiased=unbiased)
        stream = CKA(unbiased=unbiased)
        for a, b in zip(x.split(700), y.split(700), strict=True):
            stream.update(a, b)
        assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(expected, abs=BOUND, rel=0)
        assert stream.compute() == pytest.approx(expected, abs=BOUND, rel=0)
    found, expected = cross_correlation(x, y), cross_correlation(x.double(), y.double())
    assert torch.allclose(found, expected, rtol=0, atol=BOUND)


def test_equal_terms_do_not_all_round_the_same_way():
    """Two values, in order: without a turn of the samples the errors of a block all have one sign, and add up."""
    g = torch.Generator().manual_seed(1)
    for _ in range(30):
        low_x, high_x, low_y, high_y = (torch.rand(4, generator=g) + torch.tensor([0, 1, 0, 1])).tolist()
        first = torch.arange(4096)[:, None] < 512
        x = torch.where(first, low_x, high_x).expand(-1, 40)
        y = torch.where(first, low_y, high_y) * torch.linspace(0.5, 2, 40)
        assert torch.allclose(cross_correlation(x, y).abs(), torch.ones(40, 40).double(), rtol=0, atol=BOUND / 2)


def test_blocks_are_added_up_in_double(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 8)
    x, total = torch.full((40_000, 40), 0.77), torch.zeros(40, 40, dtype=torch.float64)
    similarity._add_product(total, x, x)
    assert torch.allclose(total / (40_000 * x[0, 0].double() ** 2), torch.ones_like(total), rtol=0, atol=BOUND)


def test_narrow_products_lose_nothing_beside_a_large_term():
    """BLAS may add up few channels term by term, and each time lose half a unit in the last place of the first."""
    x = torch.full((1024, 10), (0.45 * 2**-24) ** 0.5)
    x[0] = 0.75
    total = torch.zeros(10, 10, dtype=torch.float64)
    similarity._add_product(total, x, x)
    assert torch.allclose(total, x.double().T @ x.double(), rtol=BOUND, atol=0)


def test_single_precision_is_used_and_double_stays_double(monkeypatch):
    x, y = pair(300, 40, 50)
    seen = []
    add = similarity._add_single
    monkeypatch.setattr(similarity, "_add_single", lambda total, x, y: (seen.append(x.dtype), add(total, x, y)))
    for measure in (linear_cka, cross_correlation, lambda x, y: linear_cka(x[:60], y[:60], unbiased=True)):
        measure(x, y), measure(x.float(), y), measure(x, y.float())
        assert not seen
        measure(x.float(), y.half())
        assert set(seen) == {torch.float32}
        seen.clear()


def test_products_are_neither_tf32_nor_bfloat16(monkeypatch):
    """Whatever is allowed outside, which stays allowed."""
    x, y = (side.float() for side in pair(300, 40, 50))
    seen, add = [], torch.Tensor.addmm_

    def spy(total, a, b, **options):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return add(total, a, b, **options)

    monkeypatch.setattr(torch.Tensor, "addmm_", spy)
    expected = linear_cka(x, y), linear_cka(x[:60], y[:60])
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert (linear_cka(x, y), linear_cka(x[:60], y[:60])) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen and set(seen) == {("highest", False)}


# Streaming


@given(seeds, st.booleans(), st.integers(6, 60), st.floats(0, 1e4))
@few
def test_any_batches_give_the_value_of_the_whole_set(seed, unbiased, n, offset):
    x, y = pair(n, 5, 3, seed)
    x, y = x + offset, y.sort(0).values - offset  # sorted: batches with means of their own
    stream, correlation = CKA(unbiased=unbiased), CrossCorrelation()
    for a, b in zip(x.split(splits(n, seed)), y.split(splits(n, seed)), strict=True):
        stream.update(a, b)
        correlation.update(a, b)
    assert stream.compute() == pytest.approx(naive_cka(x - x.mean(0), y - y.mean(0), unbiased), abs=1e-8)
    assert torch.allclose(correlation.compute(), naive_correlation(x, y), atol=1e-8)


def test_one_can_look_before_the_end_and_a_bad_batch_changes_nothing():
    x, y = pair(30, 4, 5)
    stream, correlation = CKA().update(x[:20], y[:20]), CrossCorrelation().update(x[:20], y[:20])
    assert stream.compute() == pytest.approx(linear_cka(x[:20], y[:20]))
    for bad in (y[20:, :3], y[20:25], y[20:] * math.nan):
        with pytest.raises(ValueError, match="y"):
            stream.update(x[20:], bad)
        with pytest.raises(ValueError, match="y"):
            correlation.update(x[20:], bad)
    assert stream.update(x[20:], y[20:]).compute() == pytest.approx(linear_cka(x, y))
    assert torch.allclose(correlation.update(x[20:], y[20:]).compute(), cross_correlation(x, y))


def test_a_stream_of_few_wide_samples_holds_no_moments():
    x, y = (features(30, 400, i, dtype=torch.float32) for i in range(2))
    stream = CKA(unbiased=True)
    for a, b in zip(x.split(splits(30, 0)), y.split(splits(30, 0)), strict=True):
        stream.update(a, b)
        a.zero_()  # copies were kept
    assert not stream._moments
    again = features(30, 400, 0, dtype=torch.float32)
    assert stream.compute() == linear_cka(again, y, unbiased=True)


def test_a_stream_keeps_fewer_samples_than_channels():
    x, y = pair(100, 6, 9)
    stream = CKA()
    for a, b in zip(x.split(4), y.split(4), strict=True):
        stream.update(a, b)
        assert sum(len(kept) for kept, _ in stream._kept) < 15
    assert stream._moments[0].n == 96 and stream.compute() == pytest.approx(linear_cka(x, y), abs=1e-12)


# Feature maps


def test_positions_are_samples_unless_flattened():
    x, y = features(6, 4 * 6, 1).reshape(6, 4, 2, 3), features(6, 5 * 6, 2).reshape(6, 5, 2, 3)
    rows = [torch.stack([m[i, :, r, c] for i in range(6) for r in range(2) for c in range(3)]) for m in (x, y)]
    assert torch.allclose(cross_correlation(x, y), naive_correlation(*rows), atol=1e-12)
    assert linear_cka(x, y) == pytest.approx(naive_cka(*rows))
    assert CKA().update(x, y).compute() == pytest.approx(naive_cka(*rows))
    flat = x.flatten(1), y.flatten(1)
    assert linear_cka(x, y, flatten=True) == pytest.approx(naive_cka(*flat))
    assert CKA(flatten=True, unbiased=True).update(x, y).compute() == pytest.approx(naive_cka(*flat, True))
    assert linear_cka(x[:, :, :, :2], y, flatten=True) == pytest.approx(naive_cka(x[..., :2].flatten(1), flat[1]))


# Degenerate and bad input


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1, 1e-30])
@pytest.mark.parametrize("shape", [(40, 3), (5, 30)])
def test_a_constant_representation_is_similar_to_nothing(value, shape, unbiased):
    constant, x = torch.full(shape, value, dtype=torch.float64), features(*shape)
    for a, b in ((constant, x), (x, constant), (constant, constant)):
        assert linear_cka(a, b, unbiased=unbiased) == 0.0
        stream = CKA(unbiased=unbiased)
        for parts in zip(a.split(3), b.split(3), strict=True):
            stream.update(*parts)
        assert stream.compute() == 0.0
        assert not cross_correlation(a, b).any()
        assert mutual_knn(a, b, k=2) == 0.0


def test_a_single_odd_sample_has_no_unbiased_self_similarity():
    for i in range(10):
        x = torch.zeros(10, 2)
        x[i] = torch.tensor([1.3, 0.7]) * (i + 1)
        assert linear_cka(x, features(10, 4, i, dtype=torch.float32), unbiased=True) == 0.0
        assert linear_cka(x, x) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-30, 1e50])
def test_very_small_and_very_large_features(scale):
    x, y = pair(30, 3, 4)
    for unbiased in (False, True):
        assert linear_cka(scale * x, scale * y, unbiased=unbiased) == pytest.approx(linear_cka(x, y, unbiased=unbiased))
    assert torch.allclose(cross_correlation(scale * x, scale * y), cross_correlation(x, y))


def test_one_constant_channel_leaves_the_others_alone():
    x, y = pair(40, 3, 3)
    x, y = x.float(), y.float()
    with_constant = torch.cat([x, torch.full((40, 1), 0.1)], 1)
    corr = cross_correlation(with_constant, y)
    assert torch.equal(corr[3], torch.zeros(3, dtype=torch.float64)) and torch.allclose(
        corr[:3], cross_correlation(x, y)
    )
    assert linear_cka(with_constant, y) == pytest.approx(linear_cka(x, y))


BAD = [
    ("x, y.*5 and 4", lambda x: (x, x[:4])),
    ("y: .*int64", lambda x: (x, x.long())),
    ("x: .*ndarray", lambda x: (x.numpy(), x)),
    (
        "y: must be finite",
        lambda x: (x, x.clone().index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(math.nan))),
    ),
    ("x: must be finite", lambda x: (x * math.inf, x)),
    (r"y: .*\(5,\)", lambda x: (x, x[:, 0])),
    ("x: must not be empty", lambda x: (x[:0], x[:0])),
]


@pytest.mark.parametrize("function", [linear_cka, cross_correlation, mutual_knn, CKA().update])
@pytest.mark.parametrize(("message", "change"), BAD)
def test_bad_pairs(function, message, change):
    with pytest.raises(ValueError, match=message):
        function(*change(features(5, 3, dtype=torch.float32).abs() + 0.1))


def test_too_few_samples_and_other_bad_arguments():
    x = features(3, 4)
    with pytest.raises(ValueError, match="at least 2 samples .*got 1"):
        linear_cka(x[:1], x[:1])
    with pytest.raises(ValueError, match="at least 4 samples .*unbiased, got 3"):
        linear_cka(x, x, unbiased=True)
    with pytest.raises(ValueError, match="at least 4 samples .*unbiased, got 3"):
        CKA(unbiased=True).update(x, x).compute()
    for empty in (CKA(), CrossCorrelation()):
        with pytest.raises(ValueError, match="at least 2 samples .*got 0"):
            empty.compute()
    with pytest.raises(ValueError, match="at least 2 samples"):
        cross_correlation(x[:1], x[:1])
    maps = torch.randn(4, 2, 3, 3)
    for other in (torch.randn(4, 2, 3, 2), torch.randn(4, 2)):
        with pytest.raises(ValueError, match="height and width"):
            linear_cka(maps, other)
    for k in (0, 3):
        with pytest.raises(ValueError, match="k: .*1 and n - 1 = 2"):
            mutual_knn(x, x, k=k)
    with pytest.raises(ValueError, match="chunk"):
        mutual_knn(x, x, k=1, chunk=0)
    for corr in (torch.rand(3), torch.full((2, 2), math.nan), torch.eye(2, dtype=torch.long), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="corr"):
            match_channels(corr)


# Layers of networks


def images(n=24, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def networks():
    return models.build("resnet8", 5, seed=0, width=4), models.build("resnet8", 7, seed=1, width=6)


def hooks(net):
    return sum(len(m._forward_hooks) for m in net.modules())


def test_layer_features_are_those_of_the_blocks_run_one_by_one():
    net, x = networks()[0], images()
    names = similarity.layer_names(net)
    assert names == ["stem", "stage1_block1", "stage2_block1", "stage3_block1", "pool", "classifier"]
    for statistics in ("batch", "running"):
        got, value = layer_features(net, names, x, statistics=statistics), x
        with evaluation(net, statistics), torch.no_grad():
            for name, block in net.named_children():
                value = block(value)
                assert torch.equal(got[name], value)
    assert list(layer_features(net, ["stage2_block1.conv1", "stem.0"], x)) == ["stage2_block1.conv1", "stem.0"]


def test_operations_in_place_change_neither_features_nor_images():
    def net(inplace):
        torch.manual_seed(0)
        relu = lambda: nn.ReLU(inplace=inplace)  # noqa: E731
        return nn.Sequential(relu(), nn.Conv2d(3, 4, 3), relu(), nn.Flatten(), nn.Linear(144, 3), nn.Identity(), relu())

    x = images()
    before, names = x.clone(), ["1", "4", "5", "6"]
    got, expected = (layer_features(net(inplace), names, x) for inplace in (True, False))
    assert all(torch.equal(got[name], expected[name]) for name in names)
    assert torch.equal(x, before)
    assert torch.equal(cka_map(net(True), net(True), x)[2], cka_map(net(False), net(False), x)[2])


def test_nothing_is_left_behind_also_after_an_error():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("on purpose")

    a, b = networks()
    broken = nn.Sequential(*models.build("resnet8", 5, seed=0, width=4), Breaks()).train()
    broken[1].eval()
    state = [{k: v.clone() for k, v in net.state_dict().items()} for net in (a, b, broken)]
    modes = [[m.training for m in net.modules()] for net in (a, b, broken)]
    cka_map(a, b, images())
    with pytest.raises(RuntimeError, match="on purpose"):
        cka_map(a, broken, images())
    with pytest.raises(ValueError, match="statistics"):
        cka_map(a, b, images(), statistics="recalibrated")
    for net, was, mode in zip((a, b, broken), state, modes, strict=True):
        assert hooks(net) == 0 and [m.training for m in net.modules()] == mode
        assert all(torch.equal(was[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_map_against_pair_by_pair(unbiased, pooled):
    a, b = networks()
    batches = [images(10, 1), images(7, 2), images(9, 3)]
    names_a, names_b, got = cka_map(a, b, iter(batches), unbiased=unbiased, pooled=pooled)
    assert (names_a, names_b) == (similarity.layer_names(a), similarity.layer_names(b))
    runs = [[layer_features(net, similarity.layer_names(net), x) for x in batches] for net in (a, b)]
    for i, first in enumerate(names_a):
        for j, second in enumerate(names_b):
            x, y = (torch.cat([out[name] for out in run]) for run, name in zip(runs, (first, second), strict=True))
            size = 1 if pooled else min([*x.shape[2:], *y.shape[2:]] if x.ndim == y.ndim == 4 else [1])
            x, y = (m if m.ndim == 2 else nn.functional.adaptive_avg_pool2d(m.double(), size) for m in (x, y))
            assert got[i, j].item() == pytest.approx(linear_cka(x, y, unbiased=unbiased), abs=BOUND)


def test_map_does_not_depend_on_the_batches_when_the_network_does_not(monkeypatch):
    a, b = networks()
    whole = cka_map(a, b, images(), statistics="running", unbiased=True)[2]
    parts = cka_map(a, b, images(), statistics="running", unbiased=True, batch_size=5)[2]
    monkeypatch.setattr(similarity, "CHUNK", 100)
    chunks = cka_map(a, b, images(), statistics="running", unbiased=True)[2]
    assert torch.allclose(whole, parts, atol=1e-5) and torch.allclose(whole, chunks, atol=1e-9)


def test_each_network_runs_once_a_batch():
    a, b = networks()
    sizes = {"a": [], "b": []}
    a.register_forward_hook(lambda m, x, y: sizes["a"].append(len(y)))
    b.register_forward_hook(lambda m, x, y: sizes["b"].append(len(y)))
    cka_map(a, b, images(), batch_size=10)
    assert sizes == {"a": [8, 8, 8], "b": [8, 8, 8]}
    _, _, own = cka_map(a, a, images(), batch_size=10)
    assert sizes["a"] == [8] * 6
    assert torch.allclose(own.diagonal(), torch.ones(6, dtype=torch.float64)) and torch.allclose(own, own.T)


def test_a_map_of_features_is_that_of_their_networks():
    a, b = networks()
    batches = [images(10, 1), images(7, 2)]
    cka = similarity.CKAMap(unbiased=True)
    for x in batches:
        cka.update(*(layer_features(net, similarity.layer_names(net), x) for net in (a, b)))
    assert torch.equal(cka.compute(), cka_map(a, b, batches, unbiased=True)[2])


def test_bad_features_of_a_map():
    x = torch.randn(3, 4)
    cka = similarity.CKAMap(unbiased=True)
    with pytest.raises(ValueError, match="at least 4 samples are needed if unbiased, got 0"):
        cka.compute()
    with pytest.raises(ValueError, match="a, b: the same layers"):
        cka.update({"one": x}, {})
    cka.update({"one": x, "two": x}, {"one": x})
    with pytest.raises(ValueError, match="a, b: the same layers are needed in every batch"):
        cka.update({"one": x}, {"one": x})
    with pytest.raises(ValueError, match="at least 4 samples are needed if unbiased, got 3"):
        cka.compute()
    with pytest.raises(ValueError, match="must hold the same samples, got 3 and 2"):
        cka.update({"one": x, "two": x}, {"one": x[:2]})
    with pytest.raises(ValueError, match="layer 'two': must be finite"):
        cka.update({"one": x, "two": x / 0}, {"one": x})


def test_map_of_chosen_layers_of_any_module():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dead = nn.Conv2d(3, 4, 3), nn.Linear(144, 2)
            nn.init.zeros_(self.dead.weight)

        def forward(self, x):
            return self.dead(self.conv(x).flatten(1))

    a, b = Plain(), networks()[1]
    names_a, names_b, table = cka_map(a, b, images(), layers_b=["stage2_block1.conv1", "pool"], unbiased=True)
    assert names_a == ["conv", "dead"] and names_b == ["stage2_block1.conv1", "pool"] and table.shape == (2, 2)
    assert not table[1].any() and table[0].all(), "a constant layer is similar to nothing"


def test_bad_layers_and_images():
    class Idle(nn.Identity):
        def __init__(self):
            super().__init__()
            self.unused = nn.ReLU()

    a, b = networks()
    with pytest.raises(ValueError, match=r"layers_b: no layer \['stage9'\]; there are stem.*stage3_block1.*classifier"):
        cka_map(a, b, images(), layers_b=["stage9"])
    with pytest.raises(ValueError, match="names: no layer .*there are stem"):
        layer_features(a, ["nothing"], images())
    with pytest.raises(ValueError, match="layers_a: at least one"):
        cka_map(a, b, images(), layers_a=[])
    with pytest.raises(ValueError, match="layers_a: at least one layer.*Linear"):
        cka_map(nn.Linear(3, 3), b, images())
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="'0' runs more than once"):
        layer_features(nn.Sequential(relu, nn.Sequential(relu)), ["0"], images())
    with pytest.raises(ValueError, match="did not run"):
        layer_features(Idle(), ["unused"], images())
    with pytest.raises(ValueError, match="'0' runs and puts out a tuple"):
        layer_features(nn.Sequential(nn.LSTM(8, 4)), ["0"], images()[:, 0])
    with pytest.raises(ValueError, match="layer '0'.*shape"):
        cka_map(nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten()), b, images())
    with pytest.raises(ValueError, match="images: .*got none"):
        cka_map(a, b, [])
    with pytest.raises(ValueError, match="images: .*got none"):
        cka_map(a, b, images()[:0])
    with pytest.raises(ValueError, match="images: .*uint8"):
        cka_map(a, b, images().byte())
    with pytest.raises(ValueError, match="images: all must be"):
        cka_map(a, b, [images(), images()[..., :6]])
    with pytest.raises(ValueError, match="at least 4 samples"):
        cka_map(a, b, images(3), layers_a=["pool"], unbiased=True)
    with pytest.raises(ValueError, match="batch_size"):
        cka_map(a, b, images(), batch_size=0)


def test_importing_needs_no_scipy():
    code = "import sys, compatkit.similarity; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("scale", [1e-90, 1e100])
@pytest.mark.parametrize("measure", [similarity.linear_cka, similarity.cross_correlation])
def test_numbers_whose_powers_are_no_numbers_are_refused(measure, scale):
    x = torch.randn(20, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="y: the largest magnitude must lie within 1e-70 .. 1e.70.*scale it first"):
        measure(x, scale * x)
    assert similarity.linear_cka(x, 1e60 * x) == pytest.approx(similarity.linear_cka(x, 1e-60 * x)) == pytest.approx(1)
    with pytest.raises(ValueError, match="x: the largest magnitude must lie within 1e-70 .. 1e.30"):
        measure(torch.tensor([[2e30], [-2e30]]), x[:2])


def test_tokens_count_as_samples():
    x, y = torch.randn(6, 5, 3), torch.randn(6, 5, 4)
    for measure in (similarity.linear_cka, similarity.cross_correlation):
        found, expected = (torch.as_tensor(measure(*pair)) for pair in ((x, y), (x.flatten(0, 1), y.flatten(0, 1))))
        assert torch.allclose(found, expected)


class TokensOf(nn.Module):
    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_map_of_cka_takes_tokens(pooled):
    images = torch.randn(12, 3, 4, 4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), TokensOf(), nn.Linear(4, 5))
    _, _, matrix = similarity.cka_map(net, net, images, ["0", "1", "2"], ["1"], pooled=pooled)
    features = [net[0](images), net[:2](images), net(images)]
    tokens = features[1].mean(1) if pooled else features[1].flatten(0, 1)
    other = features[2].mean(1) if pooled else features[2].flatten(0, 1)
    assert matrix[1, 0] == pytest.approx(1) and matrix[2, 0] == pytest.approx(similarity.linear_cka(other, tokens))
    averaged = similarity.linear_cka(features[0].mean((2, 3)), features[1].mean(1))
    assert matrix[0, 0] == pytest.approx(averaged), "a map and tokens are both averaged"


@pytest.mark.parametrize("name", ["layers_a", "layers_b"])
def test_layers_given_as_one_text_are_refused(name):
    net = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=f"{name}: a list of names is needed, got the text '0'"):
        similarity.cka_map(net, net, torch.randn(5, 3), **{name: "0"})
    with pytest.raises(ValueError, match="names: a list of names is needed, got the text '0'"):
        similarity.layer_features(net, "0", torch.randn(5, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_map_of_networks_of_half_precision(dtype):
    a, b = networks()
    expected = cka_map(a, b, images())[2]
    assert torch.allclose(cka_map(a.to(dtype), b, images())[2], expected, atol=0.02)
    assert torch.allclose(cka_map(a, b.to(dtype), images().half())[2], expected, atol=0.02)
