"""Measures against their definitions, over any batches; invariances, bounds of single precision, chance, bad input."""

import itertools
import math
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compatkit import similarity
from compatkit.similarity import (
    CKA,
    CrossCorrelation,
    cross_correlation,
    linear_cka,
    match_channels,
    mutual_knn,
    permutation_test,
    procrustes_similarity,
    rsa,
)

seeds = st.integers(0, 10**6)
few = settings(max_examples=20, deadline=None)

BOUND, FEW_VALUES = 1e-6, 3e-6  # of the error in single precision, stated by ``moments``
EACH = [cross_correlation, procrustes_similarity, linear_cka, rsa, mutual_knn]
MEASURES = {
    "correlation": cross_correlation,
    "Procrustes": procrustes_similarity,
    "CKA": linear_cka,
    "unbiased CKA": lambda x, y: linear_cka(x, y, unbiased=True),
    "RSA": rsa,
    "neighbours": lambda x, y: mutual_knn(x, y, 3),
}
STREAMS = {"correlation": CrossCorrelation, "CKA": CKA, "unbiased CKA": lambda: CKA(unbiased=True)}


def features(n, p, seed=0, *, like=None, dtype=torch.float64):
    """Random features (n, p) with unequal channels, or such mixed from the channels of ``like``."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=g, dtype=torch.float64) * torch.linspace(0.2, 2, p, dtype=torch.float64)
    if like is not None:
        x = x + like.double() @ torch.randn(like.shape[1], p, generator=g, dtype=torch.float64)
    return (x + torch.randn(p, generator=g, dtype=torch.float64)).to(dtype)


def pair(n, p, q, seed=0):
    x = features(n, p, seed)
    return x, features(n, q, seed + 1, like=x)


def batches(x, y, seed):
    """Batches of random sizes, single samples among them."""
    g = torch.Generator().manual_seed(seed)
    edges = sorted({0, 1, len(x), *torch.randint(0, len(x) + 1, (5,), generator=g).tolist()})
    return [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]


def streamed(name, parts):
    measure = STREAMS[name]()
    for x, y in parts:
        assert measure.update(x, y) is measure
    return measure.compute()


def orthogonal(p, seed):
    return torch.linalg.qr(features(p, p, seed))[0]


def naive_cka(x, y, unbiased=False):
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)
    h = torch.eye(n, dtype=torch.float64) - 1 / n

    def hsic(k, l):  # noqa: E741
        return (k @ h @ l @ h).trace()

    def hsic1(k, l):  # noqa: E741
        """Song et al. 2012, Eq. 5, times n (n - 3)."""
        k, l = (m.clone().fill_diagonal_(0) for m in (k, l))  # noqa: E741
        value = (k @ l).trace() + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return value - 2 / (n - 2) * (one @ k @ l @ one)

    hsic, k, l = hsic1 if unbiased else hsic, x @ x.T, y @ y.T  # noqa: E741
    return (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item()


def naive_correlation(x, y):
    return torch.corrcoef(torch.cat([x, y], 1).T)[: x.shape[1], x.shape[1] :]


def naive_procrustes(x, y):
    """By the best rotation itself."""
    x, y = ((side - side.mean(0)) / (side - side.mean(0)).norm() for side in (x, y))
    p = max(x.shape[1], y.shape[1])
    x, y = (torch.nn.functional.pad(side, (0, p - side.shape[1])) for side in (x, y))
    u, _, v = torch.linalg.svd(x.T @ y)
    return 1 - (x @ u @ v - y).square().sum().item() / 2


def naive_rsa(x, y):
    from scipy.stats import spearmanr

    upper = torch.triu_indices(len(x), len(x), 1).unbind()
    return spearmanr(*((1 - torch.corrcoef(side))[upper].numpy() for side in (x, y))).statistic


def naive_knn(x, y, k=3):
    total = 0
    for i in range(len(x)):
        near = [set((z - z[i]).norm(dim=1).argsort()[1 : k + 1].tolist()) for z in (x, y)]
        total += len(near[0] & near[1]) / k
    return total / len(x)


DEFINED = naive_correlation, naive_procrustes, naive_cka, lambda x, y: naive_cka(x, y, True), naive_rsa, naive_knn
NAIVE = dict(zip(MEASURES, DEFINED, strict=True))


def close(found, expected, bound=1e-10):
    return torch.allclose(*(torch.as_tensor(v, dtype=torch.float64) for v in (found, expected)), rtol=0, atol=bound)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize(("n", "p", "q"), [(40, 5, 7), (12, 30, 3), (9, 20, 40), (300, 70, 140), (5, 6, 300)])
def test_measures_against_their_definitions(name, n, p, q):
    x, y = pair(n, p, q)
    assert close(MEASURES[name](x, y), NAIVE[name](x, y))


@pytest.mark.parametrize("name", STREAMS)
@given(seed=seeds, n=st.integers(6, 60), offset=st.floats(0, 1e4))
@few
def test_any_batches_give_the_value_of_the_whole_set(name, seed, n, offset):
    x, y = pair(n, *((5, 3) if seed % 2 else (40, 30)), seed)
    y = y.sort(0).values  # batches with means of their own
    assert close(streamed(name, batches(x + offset, y - offset, seed)), NAIVE[name](x, y), 1e-8)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("p", [4, 60])
def test_one_can_look_before_the_end_and_batches_may_be_overwritten(name, p):
    x, y = pair(30, p, 5)
    measure, expected = STREAMS[name](), [MEASURES[name](x[:end], y[:end]) for end in (20, 30)]
    for start, stop, value in zip((0, 20), (20, 30), expected, strict=True):
        measure.update(x[start:stop], y[start:stop])
        x[start:stop], y[start:stop] = 0, 0
        assert close(measure.compute(), value)
        with pytest.raises(ValueError, match="y: earlier batches had 5 channels"):
            measure.update(x[:3], y[:3, :4])


@given(seeds, st.floats(1e-3, 1e3), st.sampled_from([(24, 5, 4), (10, 12, 15)]))
@few
def test_what_measures_ignore(seed, scale, shape):
    x, y = pair(*shape, seed)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    turned = scale * x @ orthogonal(shape[1], seed) + 7
    for measure in (MEASURES[name] for name in ("CKA", "unbiased CKA", "Procrustes", "neighbours")):
        for a, b in ((turned, y), (y, turned), (x[order], y[order]), (x.flip(1), y)):
            assert close(measure(a, b), measure(x, y), 1e-9)
    corr = cross_correlation(x, y)
    assert close(cross_correlation(scale * x + 7, y), corr, 1e-9) and close(cross_correlation(y, x), corr.T, 1e-9)
    assert close(cross_correlation(x[order], y[order]), corr, 1e-9)
    by_sample = torch.linspace(0.5, scale, shape[0], dtype=torch.float64)[:, None]
    assert close(rsa(by_sample * x + 7 * by_sample, y.flip(1)), rsa(x, y), 1e-9), "scale and offset of a sample"
    assert close(rsa(y[order], x[order]), rsa(x, y), 1e-9)


def test_matching_is_optimal_signed_and_rectangular():
    corr = torch.tensor([[0.9, 0.8, -1.0], [0.8, 0.1, -0.9]])
    permutation, mean = match_channels(corr)
    assert permutation.tolist() == [1, 0] and mean == pytest.approx(0.8), "greedy would take 0.9 and 0.1"
    permutation, mean = match_channels(corr.T)
    assert permutation.tolist() == [1, 0, -1] and mean == pytest.approx(0.8) and permutation.dtype == torch.long


def test_positions_and_tokens_are_samples_unless_flattened():
    x, y = features(6, 4 * 6, 1).reshape(6, 4, 2, 3), features(6, 5 * 6, 2).reshape(6, 5, 2, 3)
    rows = [torch.stack([m[i, :, r, c] for i in range(6) for r in range(2) for c in range(3)]) for m in (x, y)]
    tokens = [m.flatten(2).mT for m in (x, y)]
    for name in ("correlation", "Procrustes", "CKA", "unbiased CKA"):
        for maps in ((x, y), tokens):
            assert close(MEASURES[name](*maps), NAIVE[name](*rows))
    flat = x.flatten(1), y.flatten(1)
    assert linear_cka(x, y, flatten=True) == pytest.approx(naive_cka(*flat))
    assert CKA(flatten=True, unbiased=True).update(x, y).compute() == pytest.approx(naive_cka(*flat, True))


def two_valued(n, p, share, seed=0):
    """0.1 and 0.77: all products of a channel are among three numbers, and sums of equal numbers round all one way."""
    g = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(n, p, generator=g, dtype=torch.float64) < share, 0.77, 0.1)


def far_out(x, i, times):
    """Sample i moved away, so that the rest vanishes beside it."""
    return x.index_fill(0, torch.tensor(i), 0) + times * x * (torch.arange(len(x)) == i)[:, None]


def adversaries():
    n, wide = 2500, (features(90, 700, 1), features(90, 500, 2, like=features(90, 700, 1)[:, :9]))
    x = features(n, 100, 3)
    y = features(n, 40, 4, like=x)
    classes = torch.arange(n) // 250
    yield "plain", x, y
    yield "offset", x + 1e6, y - 1e6
    yield "one direction of two values", two_valued(n, 1, 0.3).expand(-1, 70), x
    yield "codes", two_valued(n, 70, 0.5), 1.3 * two_valued(n, 70, 0.5).roll(1, 1) + 0.1 * two_valued(n, 70, 0.5)
    yield "fewer samples than features", *wide
    yield "fewer samples, offset", wide[0] + 1e6, wide[1]
    yield "fewer samples, codes", two_valued(90, 300, 0.3), two_valued(90, 300, 0.3) + two_valued(90, 300, 0.5, 1)
    yield "classes in order", torch.eye(10, dtype=torch.float64)[classes] / 0.9, torch.eye(10)[classes // 2] * 1.7
    yield "few samples, one far out", far_out(x, 5, 1e3)[:50], y[:50]
    nearly = torch.full((n, 10), 0.1, dtype=torch.float32)
    nearly[5] = torch.nextafter(nearly[5], torch.tensor(1.0))
    nearly[7, 3] = 0.2
    yield "nearly constant", nearly, 1e3 * (nearly - 0.1)[:, :4] + y[:, :4]


ADVERSARIES = [
    pytest.param(x.to(dtype).contiguous(), y.to(dtype).contiguous(), bound, id=f"{name}, {dtype}")
    for name, x, y in adversaries()
    for bound in [FEW_VALUES if "values" in name or "codes" in name or "classes" in name else BOUND]
    for dtype in (torch.float32, torch.float16)
    if all(side.to(dtype).isfinite().all() for side in (x, y))
]


@pytest.mark.parametrize(("x", "y", "bound"), ADVERSARIES)
def test_single_precision_keeps_its_bound(x, y, bound):
    for name in (*STREAMS, "Procrustes"):
        assert close(MEASURES[name](x, y), MEASURES[name](x.double(), y.double()), bound), name
    for name in STREAMS:
        parts = zip(x.split(700), y.split(700), strict=True)
        assert close(streamed(name, parts), MEASURES[name](x.double(), y.double()), bound), name


def test_products_are_of_single_precision_and_neither_tf32_nor_bfloat16(monkeypatch):
    """Whatever is allowed outside, which stays allowed."""
    x, y = (side.float() for side in pair(300, 80, 90))
    expected, seen, product = linear_cka(x, y), [], torch.Tensor.__matmul__

    def spy(a, b):
        if a.dtype == torch.float32:
            seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return product(a, b)

    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__matmul__", spy)
            assert linear_cka(x, y) == expected
        assert set(seen) == {("highest", False)} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_sums_of_many_blocks_go_on_in_double():
    x = torch.full((200_000, 1), 0.77).repeat(1, 70)
    x[::2] = 0.1
    assert linear_cka(x, x[:, :65]) == pytest.approx(1, abs=BOUND)
    assert close(cross_correlation(x, x), torch.ones(70, 70), FEW_VALUES)


@pytest.mark.filterwarnings("default:biased CKA of")
def test_a_width_beyond_a_quarter_of_the_samples_is_warned_of():
    with pytest.warns(UserWarning, match="biased CKA of 11 channels and 40 samples .*permutation_test"):
        linear_cka(*pair(40, 11, 3))
    with pytest.warns(UserWarning, match="biased CKA") as told:
        permutation_test(linear_cka, *pair(40, 11, 3), permutations=5)
    assert len(told) == 1, "once, not for each order"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_cka(*pair(40, 10, 3)), linear_cka(*pair(40, 30, 3), unbiased=True)


@pytest.mark.parametrize("measure", [*EACH[1:], lambda x, y: match_channels(cross_correlation(x, y))[1]])
def test_permutations_tell_relation_from_width(measure):
    wide, other = features(40, 100, 1), features(40, 100, 2)
    unrelated, related = (permutation_test(measure, wide, y, permutations=39) for y in (other, wide + other))
    assert related.p_value == pytest.approx(1 / 40) and unrelated.p_value > 0.1
    assert related.value == measure(wide, wide + other) and related.null.shape == (39,)
    assert related.above_chance > 0.2 > abs(unrelated.above_chance) and related.above_chance < 1


def test_permutations_by_hand():
    x, y = features(5, 3), features(5, 3, 1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(7))
    test = permutation_test(linear_cka, x, y, permutations=1, seed=7)
    assert test.null.tolist() == [linear_cka(x, y[order])]
    assert test.p_value == (1.0 if test.null[0] >= test.value else 0.5)
    chance = test.null.item()
    assert test.above_chance == pytest.approx((test.value - chance) / (1 - chance))
    with pytest.raises(ValueError, match="permutations: .*got 0"):
        permutation_test(linear_cka, x, y, permutations=0)
    with pytest.raises(ValueError, match="same samples, got 5 and 4"):
        permutation_test(linear_cka, x, y[:4])


@pytest.mark.parametrize("value", [0.0, 1000.1])
@pytest.mark.parametrize("shape", [(40, 3), (5, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MEASURES)
def test_a_constant_representation_is_similar_to_nothing(name, value, shape, dtype):
    constant, x = torch.full(shape, value, dtype=dtype), features(*shape, dtype=dtype)
    for a, b in ((constant, x), (x, constant), (constant, constant)):
        assert not torch.as_tensor(MEASURES[name](a, b)).any()
        if name in STREAMS:
            assert not torch.as_tensor(streamed(name, batches(a, b, 0))).any()


def test_a_single_odd_sample_has_no_unbiased_self_similarity():
    for i, n in itertools.product(range(10), (10, 4)):
        x = torch.zeros(n, 2)
        x[i % n] = torch.tensor([1.3, 0.7]) * (i + 1)
        assert linear_cka(x, features(n, 4, i, dtype=torch.float32), unbiased=True) == 0.0
        assert linear_cka(x, x) == pytest.approx(1)


BAD = [
    ("x, y.*5 and 4", lambda x: (x, x[:4])),
    ("y: .*int64", lambda x: (x, x.long())),
    ("y: must be finite", lambda x: (x, x.clone().fill_diagonal_(math.nan))),
    ("x: must be finite", lambda x: (x * math.inf, x)),
    (r"y: .*\(5,\)", lambda x: (x, x[:, 0])),
    ("x: .*not empty", lambda x: (x[:0], x[:0])),
    ("y: magnitudes must lie within 1e-15 .. 1e.15.* got .*scale it first", lambda x: (x, x * 1e20)),
    ("y: magnitudes must lie within .* got .*scale it first", lambda x: (x, x.double() * 1e-20)),
]


@pytest.mark.parametrize("function", [*EACH, lambda x, y: CKA(flatten=True).update(x, y).compute()])
@pytest.mark.parametrize(("message", "change"), BAD)
def test_bad_pairs(function, message, change):
    with pytest.raises(ValueError, match=message):
        function(*change(features(5, 3, dtype=torch.float32).abs() + 0.1))


def test_too_few_samples_and_other_bad_arguments():
    x = features(3, 4)
    for measure, least in ((linear_cka, 2), (cross_correlation, 2), (rsa, 3)):
        with pytest.raises(ValueError, match=f"at least {least} samples are needed, got {least - 1}"):
            measure(x[: least - 1], x[: least - 1])
    for measure, least in ((CKA(unbiased=True), "4 samples are needed if unbiased"), (CrossCorrelation(), "2 samples")):
        with pytest.raises(ValueError, match=f"at least {least}.*, got 0"):
            measure.compute()
    maps = torch.randn(4, 2, 3, 3)
    for other in (torch.randn(4, 2, 3, 2), torch.randn(4, 2)):
        with pytest.raises(ValueError, match="height and width must be equal, got .3, 3. and"):
            linear_cka(maps, other)
    for measure in (rsa, mutual_knn):
        with pytest.raises(ValueError, match=r"x: must be \(n, channels\) .*got shape"):
            measure(maps, maps)
    for k in (0, 3):
        with pytest.raises(ValueError, match="k: .*1 and n - 1 = 2"):
            mutual_knn(x, x, k=k)
    for corr in (torch.rand(3), torch.full((2, 2), math.nan), torch.eye(2, dtype=torch.long), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="corr"):
            match_channels(corr)


def test_neighbours_of_many_samples_are_looked_for_in_parts(monkeypatch):
    x, y = pair(30, 4, 6)
    monkeypatch.setattr(similarity, "ROWS", 7)
    assert mutual_knn(x, y, k=3) == pytest.approx(naive_knn(x, y))


def test_samples_are_kept_only_while_they_are_fewer_than_channels():
    cka, sizes = CKA(), []
    for x, y in zip(*(side.split(4) for side in pair(100, 6, 9)), strict=True):
        sizes.append(len(pickle.dumps(cka.update(x, y))))
    assert sizes[0] < sizes[1] < sizes[2] and max(sizes[3:]) - min(sizes[3:]) < 50, "from 15 samples on, sums alone"
