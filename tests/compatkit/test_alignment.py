"""Closed forms recover the maps they can express, and equal a naive solution where they cannot."""

import math

import pytest
import torch
from torch import nn

from compatkit import models, normalization
from compatkit.alignment import (
    CLOSED_FORMS,
    RIDGE_PENALTIES,
    Affine,
    lambda_orthogonal,
    low_rank,
    permutation,
    procrustes,
    ridge,
    stitch,
)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def error(fit, old, new):
    return (fit(old) - new).square().sum().item()


@pytest.mark.parametrize(("d_old", "d_new", "det"), [(5, 5, 1), (5, 5, -1), (3, 5, 1), (5, 3, 1)])
def test_procrustes_recovers_rotation_scale_and_shift(d_old, d_new, det):
    q = torch.linalg.qr(randn(5, 5, seed=1))[0]
    q[:, 0] *= torch.linalg.det(q).sign() * det
    x = randn(50, 5) + 3
    if d_old != d_new:  # the wide embeddings fill three directions only, so that nothing is lost by narrowing
        x[:, 3:] = 0
    old, new = (x[:, :d_old], 0.7 * x @ q) if d_old <= d_new else (x @ q, 0.7 * x[:, :d_new])
    fit = procrustes(old, new + randn(d_new, seed=2))
    assert fit.weight.shape == (d_old, d_new) and torch.allclose(fit(old), new + randn(d_new, seed=2), atol=1e-9)


def test_procrustes_is_the_nearest_of_all_rotations_scales_and_shifts():
    old = randn(60, 3) * torch.tensor([3.0, 1.0, 0.3])
    new = old @ randn(3, 3, seed=1) + 0.5 * randn(60, 3, seed=2) + 4
    fit = procrustes(old, new)
    gram = fit.weight.T @ fit.weight
    assert torch.allclose(gram, gram[0, 0] * torch.eye(3, dtype=gram.dtype), atol=1e-9), "turned and scaled, not bent"
    turns = [torch.linalg.matrix_exp(0.02 * (randn(3, 3, seed=i) - randn(3, 3, seed=i).T)) for i in range(30)]
    for weight in [fit.weight @ turn for turn in turns] + [0.99 * fit.weight, 1.01 * fit.weight]:
        assert error(Affine(weight, new.mean(0) - old.mean(0) @ weight), old, new) > error(fit, old, new)
    assert torch.allclose(fit(old).mean(0), new.mean(0))


@pytest.mark.parametrize("penalty", [1e-3, 5.0])
@pytest.mark.parametrize(("n", "d_old", "d_new"), [(30, 4, 2), (6, 9, 3)])
def test_ridge_against_the_normal_equations(penalty, n, d_old, d_new):
    old, new = 3 * randn(n, d_old) + 1, randn(n, d_new, seed=1)
    x, y = old - old.mean(0), new - new.mean(0)
    variance = sum((column @ column).item() / n for column in x.T) / d_old
    weight = torch.linalg.solve(x.T @ x + n * penalty * variance * torch.eye(d_old, dtype=x.dtype), x.T @ y)
    fit = ridge(old, new, penalties=(penalty,))
    assert torch.allclose(fit.weight, weight, atol=1e-9)
    assert torch.allclose(fit.bias, new.mean(0) - old.mean(0) @ weight, atol=1e-9)


def test_ridge_takes_the_penalty_that_is_best_on_every_fifth_row():
    chosen = set()
    for noise in (0.01, 1.0, 30.0):
        old = randn(25, 12)
        new = old @ randn(12, 2, seed=1) + noise * randn(25, 2, seed=2)
        out = torch.arange(25) % 5 == 0
        errors = {p: error(ridge(old[~out], new[~out], (p,)), old[out], new[out]) for p in RIDGE_PENALTIES}
        best = min(errors, key=errors.get)
        chosen.add(best)
        assert torch.equal(ridge(old, new).weight, ridge(old, new, (best,)).weight), "and is fitted on all rows"
    assert len(chosen) > 1


@pytest.mark.parametrize(("penalty", "rank"), [(1e-9, 3), (1e-3, 1), (0.5, 2)])
def test_low_rank_against_the_svd_of_the_fit(penalty, rank):
    """Ridge is least squares with sqrt(penalty) below x; the best fit of a rank is cut from the SVD of what it fits."""
    old, new = 3 * randn(30, 4) + 1, randn(30, 3, seed=1)
    x, y = old - old.mean(0), new - new.mean(0)
    more = (30 * penalty * x.square().mean()) ** 0.5 * torch.eye(4, dtype=x.dtype)
    x, y = torch.cat([x, more]), torch.cat([y, torch.zeros(4, 3)])
    weight = torch.linalg.lstsq(x, y).solution
    _, _, vt = torch.linalg.svd(x @ weight)
    weight = weight @ vt[:rank].T @ vt[:rank]
    fit = low_rank(old, new, (rank,), (penalty,))
    assert fit.down.shape == (4, rank) and fit.up.shape == (rank, 3)
    assert torch.allclose(fit.down @ fit.up, weight, atol=1e-9)
    assert torch.allclose(fit(old), new.mean(0) + (old - old.mean(0)) @ weight, atol=1e-9)


def test_low_rank_takes_the_rank_that_is_best_on_every_fifth_row():
    weight = randn(24, 1, seed=1) @ randn(1, 24, seed=2)
    old = randn(100, 24)
    for noise, ranks in ((0.0, {1}), (0.3 * randn(24, 24, seed=3), {3, 6})):
        new = old @ (weight + noise) + 0.5 * randn(100, 24, seed=4)
        found, out = low_rank(old, new), torch.arange(100) % 5 == 0
        errors = {
            (rank, p): error(low_rank(old[~out], new[~out], (rank,), (p,)), old[out], new[out])
            for rank in (6, 3, 1)  # with 6, half the multiplications of 24 x 24
            for p in RIDGE_PENALTIES
        }
        best = min(errors, key=errors.get)
        assert best[0] in ranks and torch.equal(found.down, low_rank(old, new, best[:1], best[1:]).down)
    with pytest.raises(ValueError, match=r"ranks: must be 1 .. 24, got \(25,\)"):
        low_rank(old, new, (25,))


def test_lambda_orthogonal_is_never_worse_than_the_rotation_it_starts_from():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(20, 8, generator=generator).double() + 0.1 * torch.randn(300, 8, generator=generator)
    x, y = ((z - z.mean(0)) / (z - z.mean(0)).square().mean().sqrt() for z in (x, y))

    def loss(weight, penalty):
        turned = weight.T @ weight - torch.eye(8, dtype=torch.float64)
        return ((x @ weight - y).square().sum() / 300 + penalty * turned.square().sum()).item()

    u, _, vt = torch.linalg.svd(x.T @ y, full_matrices=False)
    for penalty in (3.0, 30.0):
        found = [loss(lambda_orthogonal(x, y, (penalty,), steps).weight, penalty) for steps in range(1, 41)]
        start = loss(u @ vt, penalty)
        assert max(found) < start + 1e-9 and min(found) < 0.9 * start


@pytest.mark.parametrize("d_new", [2, 3, 5])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_maps_are_in_the_precision_of_the_embeddings_and_identity_cuts_or_pads(name, d_new):
    old, new = randn(20, 3, dtype=torch.float32), randn(20, d_new, seed=1, dtype=torch.float32)
    fit = CLOSED_FORMS[name](old, new)
    assert fit.weight.dtype == fit.bias.dtype == torch.float32 and fit(old).shape == (20, d_new)
    assert torch.allclose(fit(old).double(), CLOSED_FORMS[name](old.double(), new.double())(old.double()), atol=1e-4)
    if name == "identity":
        assert fit(old).tolist() == [[*row, 0.0, 0.0][:d_new] for row in old.tolist()]


@pytest.mark.parametrize("fit", [procrustes, ridge, low_rank, lambda_orthogonal])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(4, 2), r"old, new.*\(5, 2\) and \(4, 2\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "n >= 2"),
        (torch.zeros(5, 2), torch.zeros(5, 2, 1), r"\(5, 2, 1\)"),
        (torch.full((5, 2), math.nan), torch.zeros(5, 2), "old: .*finite"),
    ],
)
def test_embeddings_that_cannot_be_fitted_are_refused(fit, old, new, message):
    with pytest.raises(ValueError, match=message):
        fit(old, new)


def test_a_permutation_is_found_again_whatever_the_scale_of_channels():
    old, order = randn(80, 5), torch.tensor([3, 0, 4, 1, 2])
    new = old[:, order] * torch.tensor([1.0, 5.0, 0.2, 3.0, 1.0]) + 7
    fit = permutation(old, new)
    assert torch.equal(fit(old), old[:, order]), "scale and shift are left alone"
    with pytest.raises(ValueError, match="permutation needs equal widths, got 5 and 4"):
        permutation(old, new[:, :4])


def test_a_network_with_shuffled_and_scaled_channels_is_stitched_to_the_original():
    """Under a permutation alone it does not do what the original does, because of the scale."""
    net = models.build("resnet8", 4, seed=0, width=4).double()
    extractor, head = models.split(net, "stage1")
    order, scale = torch.randperm(4, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, 2.0, 1.0, 3.0])

    class Changed(nn.Module):
        def __init__(self, scale, shift=0.0):
            super().__init__()
            self.inner, self.scale, self.shift = extractor, scale.double().view(-1, 1, 1), shift

        def forward(self, x):
            return self.inner(x)[:, order] * self.scale + self.shift

    images = randn(20, 3, 8, 8)
    with pytest.raises(ValueError, match=r"maps of one size are needed, got \(20, 4, 8, 8\) and \(20, 8, 4, 4\)"):
        stitch(extractor, models.split(net, "stage2")[0], images)

    def answers(*parts):
        whole = nn.Sequential(*parts)
        with torch.no_grad(), normalization.evaluation(whole):
            return whole(images)

    expected = answers(extractor, head)
    changed = Changed(scale, shift=0.5)
    assert torch.allclose(answers(changed, stitch(changed, extractor, images), head), expected, atol=1e-3)
    assert not torch.allclose(answers(changed, head), expected, atol=0.1)
    shuffled = Changed(torch.ones(4))
    assert torch.allclose(answers(shuffled, stitch(shuffled, extractor, images, permutation), head), expected)
    permuted = answers(changed, stitch(changed, extractor, images, permutation), head)
    assert not torch.allclose(permuted, expected, atol=0.1)
