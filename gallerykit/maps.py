"""Maps from an old model's embeddings to a new model's, or back, fitted on pairs.

================  ==================================================================================================
``identity``      nothing
``Procrustes``    rotation, scale and shift
``low-rank``      linear, through fewer dimensions: ridge of reduced rank
``ridge``         linear
``residual``      scale * x + MLP(x), trained (Vejendla 2025, Drift-Adapter)
``h``             the learned transformation of paper B (Ramanujan et al., Sec. 3.3), trained
================  ==================================================================================================

A map serves in one of two ``DIRECTIONS``: it carries the "gallery" to the new model, or "queries" of the new model to
the old gallery, whose index stays as it is.

    to_fit, held_out = split(Pairs(old, new, side, labels))
    comparison = compare(fit(to_fit), held_out, fitted_on=len(to_fit))
    print(comparison.table(), recommend(comparison).text)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatkit import costs
from compatkit.alignment import Affine, LowRank, fit_width, identity, low_rank, procrustes, ridge
from compatkit.fct import FitTransformation, Residual, Transformation, transform
from compatkit.models import count_parameters
from compatkit.recipes import TRANSFORMATION
from compatkit.training import train

from .embeddings import is_unit

CLOSED_FORMS: dict[str, Callable[[Tensor, Tensor], Affine | LowRank]] = {
    "identity": identity,
    "Procrustes": procrustes,
    "low-rank": low_rank,
    "ridge": ridge,
}
"""What ``alignment`` fits without training, by what it costs."""
NETWORKS: dict[str, type[Residual | Transformation]] = {"residual": Residual, "h": Transformation}
"""What is trained, which takes minutes."""
METHODS = (*CLOSED_FORMS, *NETWORKS)
"""The maps, the simplest first: the order in which ``advice.recommend`` prefers them."""
DIRECTIONS = ("gallery", "queries")
"""What is mapped: the old gallery into the new space, or new queries into the old one (Vejendla 2025)."""
ABOUT = ("name", "d_in", "d_side", "d_out", "unit", "metric")
HELD_OUT_SHARE, HELD_OUT_MOST = 0.2, 10_000
H_ROWS = 4_096  # at a time through h, whose layers may be far wider than its input


@dataclass(frozen=True, eq=False)
class Pairs:
    """Embeddings of the same n items by both models, float32, and what is known of them."""

    old: Tensor
    """(n, d_old)"""
    new: Tensor
    """(n, d_new)"""
    side: Tensor | None = None
    """(n, d_side): stored beside the old embeddings"""
    labels: Tensor | None = None
    """(n,) int64"""
    old_space: str = ""
    new_space: str = ""
    side_space: str = ""
    new_dtype: str = "float32"
    """of the numbers in the file, in which the new gallery is written"""
    old_bytes: int = 0
    """that one item takes in its file, and so on"""
    side_bytes: int = 0

    def __len__(self) -> int:
        return len(self.old)

    def rows(self, index: Tensor) -> Pairs:
        """The pairs of these rows."""
        return self._each(lambda x: x[index])

    def reversed(self) -> Pairs:
        """From new to old, for queries: these have no side-information, which is stored beside the gallery."""
        return Pairs(self.new, self.old, labels=self.labels, old_space=self.new_space, new_space=self.old_space)

    def to(self, device: torch.device | str) -> Pairs:
        return self._each(lambda x: x.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Pairs:
        side, labels = (None if x is None else function(x) for x in (self.side, self.labels))
        return replace(self, old=function(self.old), new=function(self.new), side=side, labels=labels)


@dataclass(frozen=True, eq=False)
class Map:
    """One way from embeddings (n, d_in), with side-information (n, d_side) or None, to others (n, d_out).

    ``unit`` makes the results of length 1, as the embeddings are that it was fitted to. For a search by cosine
    (``metric``) rows of zeros stay so: an item that failed has no direction, and shall not get one.
    """

    name: str
    function: Affine | LowRank | Residual | Transformation
    d_in: int
    d_side: int
    d_out: int
    unit: bool
    metric: str = "l2"

    @torch.no_grad()
    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        if self.name == "identity":
            mapped = fit_width(x, self.d_out)
        elif isinstance(self.function, nn.Module):
            mapped = transform(self.function, x, _side_of_h(x, side), chunk=H_ROWS)
        else:
            mapped = self.function(_appended(x, side))
        mapped = F.normalize(mapped, dim=1) if self.unit else mapped
        return mapped * x.any(1, keepdim=True) if self.metric == "cosine" else mapped

    @property
    def macs(self) -> int:
        """Multiplications of an item."""
        if isinstance(self.function, nn.Module):
            like = next(self.function.parameters())
            return costs.macs(self.function, like.new_zeros(1, self.d_in), like.new_zeros(1, max(1, self.d_side)))
        return 0 if self.name == "identity" else self.parameters - self.d_out

    @property
    def parameters(self) -> int:
        if isinstance(self.function, nn.Module):
            return count_parameters(self.function)
        return 0 if self.name == "identity" else sum(x.numel() for x in vars(self.function).values())

    def state(self) -> dict:
        """All of it as tensors, numbers and text, for ``torch.save``."""
        about = {name: getattr(self, name) for name in ABOUT}
        if isinstance(self.function, nn.Module):
            return about | {"tensors": self.function.state_dict(), "width": self.function.width}
        return about | {"tensors": dict(vars(self.function)), "width": 0}

    @classmethod
    def from_state(cls, state: Mapping) -> Map:
        about = {name: state[name] for name in ABOUT}
        name, tensors = state["name"], state["tensors"]
        if name in CLOSED_FORMS:
            return cls(function=(LowRank if name == "low-rank" else Affine)(**tensors), **about)
        h = NETWORKS[name](about["d_in"], max(1, about["d_side"]), about["d_out"], state["width"], seed=0)
        h.load_state_dict(tensors)
        return cls(function=h.to(next(iter(tensors.values())).device), **about)


def split(pairs: Pairs, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Pairs to fit on and pairs held out: a fifth, at most 10 000, drawn at random."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    held_out = min(int(HELD_OUT_SHARE * len(pairs)), HELD_OUT_MOST)
    return pairs.rows(order[held_out:]), pairs.rows(order[:held_out])


def fit(
    pairs: Pairs,
    methods: Sequence[str] = METHODS,
    *,
    direction: str = "gallery",
    metric: str = "l2",
    width: int = 512,
    steps: int = 2_000,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> dict[str, Map]:
    """The maps from old to new, by name. All but identity see the side-information, where there is any.

    If all new embeddings have length 1, so have the results of every map.

    Args:
        pairs: embeddings of the same items by both models.
        methods: which maps, of ``METHODS``.
        direction: "queries" fits from new to old instead, without side-information.
        metric: of the search, see ``Map``; it does not change what is fitted.
        width: of the hidden layers of residual and h, see ``fct``.
        steps, seed, checkpoint: of the training of both, see ``training.train``.
        show_progress: of that training.
    """
    if direction == "queries":
        pairs = pairs.reversed()
    d_side = 0 if pairs.side is None else pairs.side.shape[1]
    d_old, d_new, unit = pairs.old.shape[1], pairs.new.shape[1], is_unit(pairs.new)
    trained = [name for name in methods if name in NETWORKS]
    networks = _fit_networks(trained, pairs, width, steps, seed, checkpoint, show_progress) if trained else {}
    maps = {}
    for name in methods:
        function: Affine | LowRank | Residual | Transformation
        if name in networks:
            function = networks[name]
        else:
            appended = _appended(pairs.old, None if name == "identity" else pairs.side)
            function = CLOSED_FORMS[name](appended, pairs.new)
        maps[name] = Map(name, function, d_old, d_side, d_new, unit, metric)
    return maps


def _fit_networks(
    names: Sequence[str], pairs: Pairs, width: int, steps: int, seed: int, checkpoint, shown: bool
) -> dict[str, Residual | Transformation]:
    """Trained at spread 1: Adam's steps and BN's epsilon do not follow the scale of the embeddings. They share nothing
    but the minibatches, so that each is as if trained alone."""
    old, side, mean = pairs.old, _side_of_h(pairs.old, pairs.side), pairs.new.mean(0)
    scales = _spread(old), _spread(side), _spread(pairs.new)
    data = old / scales[0], side / scales[1], (pairs.new - mean) / scales[2]
    networks = {name: NETWORKS[name](old.shape[1], side.shape[1], len(mean), width, seed=seed) for name in names}
    tasks = [FitTransformation(h, *data, seed=seed) for h in networks.values()]
    recipe = replace(TRANSFORMATION, steps=steps)
    train(tasks, recipe, checkpoint=checkpoint, label=f"fitting {' and '.join(names)}", show_progress=shown)
    for h in networks.values():
        h.rescale(*scales, mean)
    return networks


def _spread(x: Tensor) -> Tensor:
    spread = (x - x.mean(0)).square().mean().sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _side_of_h(old: Tensor, side: Tensor | None) -> Tensor:
    return old.new_zeros(len(old), 1) if side is None else side


def _appended(old: Tensor, side: Tensor | None) -> Tensor:
    return old if side is None else torch.cat([old, side], 1)
