"""Which statistics batch normalisation uses when a network is evaluated, and what can take its place (paper A, Sec. 4
and App. C.1).

A recombined network meets features whose statistics its head has never aggregated. Three choices:

- ``running``: the averages that training left behind, as usual;
- ``batch``: the statistics of each evaluation batch, the paper's choice;
- ``recalibrated``: new averages over the whole evaluation set, without labels.

Layer and instance normalisation have no statistics to be wrong: ``replace_batch_norm`` puts them in. ``UnitLength``
instead fixes the length of the features that cross from one network to the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("batch", "running", "recalibrated")
REPLACEMENTS = {
    "layer": lambda bn: nn.GroupNorm(1, bn.num_features, affine=bn.affine),  # over channels and positions of an image
    "instance": lambda bn: nn.InstanceNorm2d(bn.num_features, affine=bn.affine),
}


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Every batch normalisation layer inside ``module``."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def evaluation(module: nn.Module, statistics: str = "batch") -> Iterator[nn.Module]:
    """``module`` in evaluation mode for a while, with BN by "running" or "batch" statistics; afterwards no buffer has
    changed, and all modes are as they were.

    "recalibrated" is ``recalibrated(module, batches)`` with "running".

    Raises:
        ValueError: for any other word.
    """
    if statistics not in ("batch", "running"):
        raise ValueError(f"statistics: must be 'batch' or 'running' here, got {statistics!r}")
    training = [(m, m.training) for m in module.modules()]
    tracking = [(bn, bn.track_running_stats) for bn in batch_norms(module)]
    try:
        module.eval()
        if statistics == "batch":
            for bn, _ in tracking:
                use_batch_statistics(bn)
        yield module
    finally:
        for bn, tracks in tracking:
            bn.track_running_stats = tracks
        for m, mode in training:
            m.training = mode


def use_batch_statistics(bn: _BatchNorm) -> None:
    """Make one layer normalise by the batch at hand and leave its buffers alone, until it is told otherwise."""
    bn.training, bn.track_running_stats = True, False


@torch.no_grad()
def recalibrated(module: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of ``module`` whose BN buffers are the plain average of the statistics of ``batches``.

    Args:
        module: the original is not touched.
        batches: inputs of ``module``; no labels are needed.

    Raises:
        ValueError: there is no batch.

    Source: paper A, App. C.1.
    """
    module = copy.deepcopy(module).eval()
    layers = batch_norms(module)
    momenta = [bn.momentum for bn in layers]
    for bn in layers:
        if bn.running_mean is None:  # it has never kept any
            like = next(module.parameters())
            bn.running_mean, bn.running_var = like.new_zeros(bn.num_features), like.new_ones(bn.num_features)
        # counted on the host, which reads it at each batch; reading it from a GPU would wait for all that went before
        bn.num_batches_tracked = torch.zeros((), dtype=torch.int64)
        bn.track_running_stats = True  # also where a frozen layer has stopped to
        bn.reset_running_stats()
        bn.training, bn.momentum = True, None  # momentum None: cumulative average
    seen = 0
    for seen, batch in enumerate(batches, 1):  # noqa: B007
        module(batch)
    if not seen:
        raise ValueError("batches: at least one batch is needed to recalibrate, got none")
    for bn, momentum in zip(layers, momenta, strict=True):
        bn.momentum = momentum
        assert bn.num_batches_tracked is not None and bn.running_mean is not None
        bn.num_batches_tracked = bn.num_batches_tracked.to(bn.running_mean.device)
    return module.eval()


def replace_batch_norm(module: nn.Module, kind: str) -> nn.Module:
    """Put "layer" or "instance" normalisation in the place of every ``BatchNorm2d`` inside ``module``; returns it, or
    its replacement where it is such a layer itself.

    Scale and shift of each channel are kept.

    Raises:
        ValueError: for another kind.

    Source: paper A, App. C.1.
    """
    if kind not in REPLACEMENTS:
        raise ValueError(f"kind: must be one of {list(REPLACEMENTS)}, got {kind!r}")
    fresh: dict[nn.Module, nn.Module] = {}  # a layer that is used twice is replaced by one
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if isinstance(part, nn.BatchNorm2d):
            if part not in fresh:
                fresh[part] = _replacement(part, kind)
            if part is module:
                return fresh[part]
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, fresh[part])
    return module


def _replacement(bn: nn.BatchNorm2d, kind: str) -> nn.Module:
    fresh = REPLACEMENTS[kind](bn)
    if bn.affine:
        fresh.to(bn.weight.device, bn.weight.dtype)
        fresh.load_state_dict({"weight": bn.weight, "bias": bn.bias})
    return fresh


class UnitLength(nn.Module):
    """Features (n, c) or (n, c, h, w) divided by their Euclidean length over the channels, at each position.

    The paper does not say over what; over the channels is what the usual layer does.

    Source: paper A, App. C.1.
    """

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1)
