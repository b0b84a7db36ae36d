"""Statistics that batch normalisation uses when a network is evaluated, and what can take its place (paper A, Sec. 4
and App. C.1).

A recombined network meets features whose statistics its head has never aggregated. Three choices:

- ``running``: the averages that training left behind, as usual;
- ``batch``: the statistics of each evaluation batch, the paper's choice;
- ``recalibrated``: new averages over the whole evaluation set, without labels.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .inspection import outline, run_on_meta

STATISTICS = ("batch", "running", "recalibrated")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TORCH_FORWARD = {kind.forward for kind in BATCH_NORMS}
REPLACEMENTS: dict[str, dict[type[nn.Module], Callable[..., nn.Module]]] = {
    "layer": dict.fromkeys(BATCH_NORMS, partial(nn.GroupNorm, 1)),  # over channels and positions of an image
    "instance": {nn.BatchNorm2d: nn.InstanceNorm2d, nn.BatchNorm3d: nn.InstanceNorm3d},
}


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Every batch normalisation layer inside ``module``."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def check_settable(module: nn.Module) -> None:
    """Raise ValueError, naming the layers, unless it can be chosen by which statistics ``module`` normalises: it is by
    torch's BN, and subclasses that run without statistics of their own, not by scripted or other packages' layers."""
    kinds = {type(bn): bn for bn in batch_norms(module)}
    settable = [kind for kind, bn in kinds.items() if kind.forward in TORCH_FORWARD or _runs_without_statistics(bn)]
    wanted = "module: statistics other than 'running' need torch's batch normalisation, not what has its own built in"
    _refuse(module, lambda part: _keeps_statistics(part) and type(part) not in settable, wanted)


def _refuse(module: nn.Module, unfit: Callable[[nn.Module], bool], wanted: str) -> None:
    found = [f"{type(part).__name__} at {name!r}" for name, part in module.named_modules() if unfit(part)]
    if found:
        raise ValueError(f"{wanted}, got {', '.join(found[:4])}{', ...' * (len(found) > 4)}")


def _keeps_statistics(part: nn.Module) -> bool:
    frozen = isinstance(part, torch.jit.ScriptModule) and not part._c.hasattr("training")  # all are constants then
    names = [name for name, _ in part.named_buffers(recurse=False)]
    return isinstance(part, _BatchNorm) or "running_mean" in names or frozen


def _runs_without_statistics(bn: _BatchNorm) -> bool:
    bn = _by_batch(outline(bn))
    extents = ((), (4,), (4, 4), (4, 4, 4))
    return any(run_on_meta(bn, torch.empty(2, bn.num_features, *e, device="meta")) is not None for e in extents)


def _by_batch(bn: _BatchNorm) -> _BatchNorm:
    """The layer without running statistics: in evaluation mode nothing is left to normalise by but the batch."""
    bn.running_mean = bn.running_var = None
    return bn


@contextmanager
def evaluation(module: nn.Module, statistics: str = "batch") -> Iterator[nn.Module]:
    """``module`` in evaluation mode for a while, with BN by "running" or "batch" statistics; afterwards all buffers and
    modes are as they were.

    Raises:
        ValueError: for another word, for "running" where a layer has kept none, and for "batch" as ``check_settable``.
    """
    if statistics == "batch":
        check_settable(module)
    elif statistics == "running":
        wanted = "statistics: 'running' needs layers that have kept some"
        _refuse(module, lambda part: isinstance(part, _BatchNorm) and part.running_mean is None, wanted)
    else:
        raise ValueError(f"statistics: must be 'batch' or 'running' here, got {statistics!r}")
    modes = [(m, getattr(m, "training", False)) for m in module.modules()]
    kept = [(bn, bn.running_mean, bn.running_var) for bn in batch_norms(module)]
    try:
        module.eval()
        if statistics == "batch":
            for bn, _, _ in kept:
                _by_batch(bn)
        yield module
    finally:
        for bn, mean, variance in kept:
            bn.running_mean, bn.running_var = mean, variance
        for m, mode in modes:
            m.training = mode


@torch.no_grad()
def recalibrated(module: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of ``module`` whose BN buffers are the plain average of the statistics of ``batches``, its inputs (paper
    A, App. C.1). Raises ValueError if there is no batch, or as ``check_settable``."""
    check_settable(module)
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
    """Put "layer" or "instance" normalisation, with its scale and shift, in the place of every batch normalisation in
    ``module``; returns it, or its replacement where it is such a layer itself (paper A, App. C.1). Raises ValueError
    for another kind, and for layers that are not in ``REPLACEMENTS``, as they may do more."""
    if kind not in REPLACEMENTS:
        raise ValueError(f"kind: must be one of {list(REPLACEMENTS)}, got {kind!r}")
    known = REPLACEMENTS[kind]
    wanted = f"module: {kind!r} can take the place of {', '.join(part.__name__ for part in known)} alone"
    _refuse(module, lambda part: _keeps_statistics(part) and type(part) not in known, wanted)
    fresh: dict[nn.Module, nn.Module] = {}  # a layer that is used twice is replaced by one
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if isinstance(part, _BatchNorm):
            if part not in fresh:
                fresh[part] = _replacement(part, known[type(part)])
            if part is module:
                return fresh[part]
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, fresh[part])
    return module


def _replacement(bn: _BatchNorm, make: Callable[..., nn.Module]) -> nn.Module:
    fresh = make(bn.num_features, eps=bn.eps, affine=bn.affine)
    if bn.affine:
        fresh.to(bn.weight.device, bn.weight.dtype)
        fresh.load_state_dict({"weight": bn.weight, "bias": bn.bias})
    return fresh


class UnitLength(nn.Module):
    """Features (n, c) or (n, c, h, w) divided by their Euclidean length over the channels, at each position. Paper A,
    App. C.1, does not say over what."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1)
