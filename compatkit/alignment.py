"""Closed-form maps from old embeddings to new ones: what a learned transformation has to beat. Not in paper B.

Each is fitted on paired embeddings of the same items and is then a function of old embeddings, with side-information
appended where there is any.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .encoders import fit_width

RIDGE_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Affine:
    """x -> x @ weight + bias: weight (d_in, d_out), bias (d_out,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def identity(old: Tensor, new: Tensor) -> Affine:
    """Old embeddings as they are, cut or filled up with zeros to the new width: doing nothing."""
    weight = fit_width(torch.eye(old.shape[1], device=old.device, dtype=old.dtype), new.shape[1])
    return Affine(weight, torch.zeros(new.shape[1], device=old.device, dtype=old.dtype))


def procrustes(old: Tensor, new: Tensor) -> Affine:
    """The rotation or reflection, scale and shift that bring old embeddings nearest to new ones in squared distance.

    Args:
        old, new: (n, d_old) and (n, d_new); where widths differ the narrower one is filled up with zeros.

    Source: Schönemann 1966.
    """
    _check(old, new)
    width = max(old.shape[1], new.shape[1])
    x, y = fit_width(old, width).double(), fit_width(new, width).double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    u, s, vt = torch.linalg.svd(x.T @ y)
    rotation = (u @ vt) * (s.sum() / x.square().sum().clamp_min(1e-30))
    weight = rotation[: old.shape[1], : new.shape[1]]
    bias = mean_y[: new.shape[1]] - mean_x[: old.shape[1]] @ weight
    return Affine(weight.to(old.dtype), bias.to(old.dtype))


def ridge(old: Tensor, new: Tensor, penalties: tuple[float, ...] = RIDGE_PENALTIES) -> Affine:
    """Linear regression of new embeddings on old ones, with an intercept and an L2 penalty.

    Args:
        old, new: (n, d_old) and (n, d_new).
        penalties: in units of the mean variance of ``old``; the one with the least error on every fifth row, fitted on
            the others, is taken and fitted on all.
    """
    _check(old, new)
    held_out = torch.arange(len(old), device=old.device) % 5 == 0
    if len(penalties) > 1:
        fits = _ridge(old[~held_out], new[~held_out], penalties)
        errors = [(fit(old[held_out]) - new[held_out]).square().mean() for fit in fits]
        penalties = (penalties[int(torch.stack(errors).argmin())],)
    return _ridge(old, new, penalties)[0]


def _ridge(old: Tensor, new: Tensor, penalties: tuple[float, ...]) -> list[Affine]:
    x, y = old.double(), new.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    values, projected = values.clamp_min(0), vectors.T @ (x.T @ y) / len(x)
    scale = values.mean().clamp_min(1e-30)
    weights = [vectors @ (projected / (values + p * scale)[:, None]) for p in penalties]
    return [Affine(w.to(old.dtype), (mean_y - mean_x @ w).to(old.dtype)) for w in weights]


def _check(old: Tensor, new: Tensor) -> None:
    if old.ndim != 2 or new.ndim != 2 or len(old) != len(new) or len(old) < 2:
        raise ValueError(
            f"old, new: embeddings (n, d_old) and (n, d_new) of the same n >= 2 items are needed, got "
            f"{tuple(old.shape)} and {tuple(new.shape)}"
        )
    for name, x in (("old", old), ("new", new)):
        if not x.isfinite().all():
            raise ValueError(f"{name}: embeddings must be finite, got NaN or infinity")


CLOSED_FORMS = {"identity": identity, "Procrustes": procrustes, "ridge": ridge}
"""What can be fitted without training, by name."""
