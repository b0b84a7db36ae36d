"""Closed-form maps between the features of two networks, fitted on features (n, d_old) and (n, d_new) of the same
items: what a learned transformation, or training for compatibility, has to beat. Not in the papers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import at_least_float32, check_finite, check_tensor
from .inspection import as_precise, read_only
from .normalization import evaluation
from .similarity import cross_correlation, match_channels

RIDGE_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Affine:
    """x -> x @ weight + bias: weight (d_in, d_out), bias (d_out,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True)
class LowRank:
    """x -> x @ down @ up + bias: down (d_in, rank), up (rank, d_out), bias (d_out,)."""

    down: Tensor
    up: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x @ self.down, self.up)


def fit_width(embeddings: Tensor, dim: int) -> Tensor:
    """Embeddings (n, d) cut, or filled up with zeros, to (n, dim)."""
    return F.pad(embeddings, (0, dim - embeddings.shape[1]))


def identity(old: Tensor, new: Tensor) -> Affine:
    """Old embeddings as they are, cut or filled up with zeros to the new width: doing nothing."""
    weight = fit_width(torch.eye(old.shape[1], device=old.device, dtype=old.dtype), new.shape[1])
    return Affine(weight, torch.zeros(new.shape[1], device=old.device, dtype=old.dtype))


def mean_shift(old: Tensor, new: Tensor) -> Affine:
    """Old embeddings plus the difference of the means, cut or filled up with zeros to the new width."""
    _check(old, new)
    same = identity(old, new)
    return Affine(same.weight, new.mean(0) - same(old).mean(0))


def procrustes(old: Tensor, new: Tensor) -> Affine:
    """The rotation or reflection, scale and shift that bring old embeddings nearest to new ones (Schönemann 1966);
    where widths differ the narrower one is filled up with zeros."""
    _check(old, new)
    x, y = _centred(old), _centred(new)
    width = max(old.shape[1], new.shape[1])
    u, s, vt = torch.linalg.svd(fit_width(x, width).T @ fit_width(y, width))
    rotation = (u @ vt) * (s.sum() / x.square().sum().clamp_min(1e-30))
    return _affine(old, new, rotation[: old.shape[1], : new.shape[1]])


def ridge(old: Tensor, new: Tensor, penalties: tuple[float, ...] = RIDGE_PENALTIES) -> Affine:
    """Linear regression of new embeddings on old ones, with an intercept and an L2 penalty, in units of the mean
    variance of ``old``: the one with the least error on every fifth row, fitted on the others, is taken and fitted on
    all."""
    _check(old, new)
    if len(penalties) > 1:
        penalties = (penalties[_least_error(old, new, lambda x, y: _ridge(x, y, penalties))],)
    return _ridge(old, new, penalties)[0]


def lambda_orthogonal(old: Tensor, new: Tensor, penalties: tuple[float, ...] = (0.03, 0.3), steps: int = 40) -> Affine:
    """An affine map that is drawn to a rotation by a penalty on ``|W'W - I|^2``, chosen as by ``ridge``, while both
    sides are scaled to variance 1 (Ricci et al., NeurIPS 2025, whose penalty is switched on above a threshold). It is
    the best of so many steps of gradient descent from the rotation of Procrustes, by Barzilai and Borwein."""
    _check(old, new)
    chosen = _least_error(old, new, lambda x, y: [_lambda_orthogonal(x, y, p, steps) for p in penalties])
    return _lambda_orthogonal(old, new, penalties[chosen], steps)


def low_rank(
    old: Tensor, new: Tensor, ranks: tuple[int, ...] | None = None, penalties: tuple[float, ...] = RIDGE_PENALTIES
) -> LowRank:
    """``ridge`` through fewer dimensions, by reduced-rank regression (Mukherjee and Zhu 2011; as a map between
    embeddings Vejendla 2025, there by gradients). Rank and penalty are chosen as by ``ridge``.

    Args:
        old, new: (n, d_old) and (n, d_new).
        ranks: None tries the largest with at most half the multiplications of ``ridge``, half of it, and so on to 1.
        penalties: as in ``ridge``.

    Raises:
        ValueError: a rank below 1 or above both widths, or input as in ``ridge``.
    """
    _check(old, new)
    d_old, d_new = old.shape[1], new.shape[1]
    ranks = ranks or _halves(max(1, d_old * d_new // (2 * (d_old + d_new))))
    if not all(1 <= rank <= min(d_old, d_new) for rank in ranks):
        raise ValueError(f"ranks: must be 1 .. {min(d_old, d_new)}, got {ranks}")
    choices = [(penalty, rank) for penalty in penalties for rank in ranks]
    chosen = choices[_least_error(old, new, lambda x, y: _low_rank(x, y, penalties, ranks))]
    return _low_rank(old, new, (chosen[0],), (chosen[1],))[0]


def permutation(old: Tensor, new: Tensor) -> Affine:
    """The channels of old features (n, d) in the order in which they correlate most with those of the new (n, d): Li et
    al. 2016; paper A, App. C.2. Raises ValueError if widths differ, and as ``similarity.cross_correlation``."""
    if old.shape[1] != new.shape[1]:
        raise ValueError(f"old, new: a permutation needs equal widths, got {old.shape[1]} and {new.shape[1]}")
    columns, _ = match_channels(cross_correlation(old, new))
    return Affine(F.one_hot(columns, new.shape[1]).to(old.dtype), old.new_zeros(new.shape[1]))


@torch.no_grad()
def stitch(
    source: nn.Module, target: nn.Module, images: Tensor, fit: Callable[[Tensor, Tensor], Affine] = ridge
) -> nn.Conv2d:
    """A 1 x 1 convolution that brings the feature maps of one extractor nearest to those of another, without labels:
    ``nn.Sequential(source, stitch(source, target, images), head_of_target)`` (Lenc and Vedaldi 2015; Bansal et al.
    2021).

    Args:
        source, target: extractors whose maps have one height and width; BN normalises by these images.
        images: normalised (n, c, h, w); all go through at once.
        fit: a closed form of this module.

    Raises:
        ValueError: the extractors do not give maps of one size.
    """
    with evaluation(source), evaluation(target):
        old, new = (at_least_float32(read_only(part, as_precise(images, part))) for part in (source, target))
    if old.ndim != 4 or old.shape[2:] != new.shape[2:]:
        raise ValueError(f"source, target: maps of one size are needed, got {tuple(old.shape)} and {tuple(new.shape)}")
    # position by position, so that what ``ridge`` holds out are whole images where their number is a multiple of 5
    rows = [maps.permute(2, 3, 0, 1).flatten(0, 2) for maps in (old, new)]
    affine = fit(*rows)
    layer = nn.Conv2d(old.shape[1], new.shape[1], 1, device=old.device, dtype=old.dtype)
    layer.weight.copy_(affine.weight.T[:, :, None, None])
    layer.bias.copy_(affine.bias)  # type: ignore[union-attr]
    return layer


def _halves(largest: int) -> tuple[int, ...]:
    return (largest, *_halves(largest // 2)) if largest else ()


def _least_error(old: Tensor, new: Tensor, fit: Callable[[Tensor, Tensor], Sequence[Affine | LowRank]]) -> int:
    """The index of the map that ``fit`` gives with the least error on every fifth row, fitted on the others."""
    held_out = torch.arange(len(old), device=old.device) % 5 == 0
    maps = fit(old[~held_out], new[~held_out])
    return int(torch.stack([(one(old[held_out]) - new[held_out]).square().mean() for one in maps]).argmin())


def _lambda_orthogonal(old: Tensor, new: Tensor, penalty: float, steps: int) -> Affine:
    x, y = _centred(old), _centred(new)
    scale_x, scale_y = (z.square().mean().sqrt().clamp_min(1e-30) for z in (x, y))
    gram, product = x.T @ x / (len(x) * scale_x**2), x.T @ y / (len(x) * scale_x * scale_y)
    u, _, vt = torch.linalg.svd(product, full_matrices=False)
    gram, product, weight = (z.to(old.dtype) for z in (gram, product, u @ vt))  # it is a search: half the time
    step = 0.5 / (gram.norm() + 4 * penalty)
    slope, least = _slope(weight, gram, product, penalty)
    best = weight  # such steps also go up
    for _ in range(steps):
        moved = weight - step * slope
        steepness, value = _slope(moved, gram, product, penalty)
        curvature = ((moved - weight) * (steepness - slope)).sum()
        if curvature <= 0 or not curvature.isfinite():
            break
        step = (moved - weight).square().sum() / curvature
        weight, slope = moved, steepness
        if value < least:
            best, least = weight, value
    return _affine(old, new, best.double() * (scale_y / scale_x))


def _slope(weight: Tensor, gram: Tensor, product: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The gradient of half of ``|XW - Y|^2 / n + penalty |W'W - I|^2`` (WW' for a wide W), and its value, less what
    is constant."""
    tall = weight.shape[0] >= weight.shape[1]
    turned = weight @ (weight.T @ weight) if tall else (weight @ weight.T) @ weight
    fitted = gram @ weight
    value = (weight * (fitted / 2 - product + penalty * (turned / 2 - weight))).sum()
    return fitted - product + 2 * penalty * (turned - weight), value


def _low_rank(old: Tensor, new: Tensor, penalties: tuple[float, ...], ranks: tuple[int, ...]) -> list[LowRank]:
    """Ridge's weight W on the first right singular vectors of [x; sqrt(penalty)] W, whose Gram matrix is W' x'y."""
    product, found = _centred(old).T @ _centred(new), []
    for full in _ridge(old.double(), new.double(), penalties):
        gram = full.weight.T @ product
        vectors = torch.linalg.eigh((gram + gram.T) / 2)[1].flip(1)
        for rank in ranks:
            up = vectors[:, :rank]
            down = full.weight @ up
            bias = _affine(old, new, down @ up.T).bias
            found.append(LowRank(*(x.to(old.dtype).contiguous() for x in (down, up.T, bias))))
    return found


def _ridge(old: Tensor, new: Tensor, penalties: tuple[float, ...]) -> list[Affine]:
    x, y = _centred(old), _centred(new)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    values, projected = values.clamp_min(0), vectors.T @ (x.T @ y) / len(x)
    scale = values.mean().clamp_min(1e-30)
    weights = [vectors @ (projected / (values + p * scale)[:, None]) for p in penalties]
    return [_affine(old, new, weight) for weight in weights]


def _centred(x: Tensor) -> Tensor:
    x = x.double()
    return x - x.mean(0)


def _affine(old: Tensor, new: Tensor, weight: Tensor) -> Affine:
    """The map by a weight, float64, that brings the mean of ``old`` to that of ``new``."""
    bias = new.double().mean(0) - old.double().mean(0) @ weight
    return Affine(weight.to(old.dtype), bias.to(old.dtype))


def _check(old: Tensor, new: Tensor) -> None:
    for name, x in (("old", old), ("new", new)):
        check_tensor(name, x, {2: f"embeddings (n, d_{name})"})
        check_finite(name, x)
    if len(old) != len(new) or len(old) < 2:
        raise ValueError(f"old, new: the same n >= 2 items are needed, got {tuple(old.shape)} and {tuple(new.shape)}")


CLOSED_FORMS = {"identity": identity, "Procrustes": procrustes, "ridge": ridge}
"""What can be fitted without training, by name."""
