"""Shapes that a module takes and gives, found without running it, and inputs that stay as they are when it runs."""

import copy
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .devices import described

Module = TypeVar("Module", bound=nn.Module)
"""Any module; what comes back is of the type that went in."""

SIZES = (32, 16, 224, 8, 28, 64, 96, 128, 299)
"""Sides of images on which shapes are tried."""


def features_of(extractor: nn.Module, size: int | None = None) -> Tensor | None:
    """Features (2, c, ...) of two images on the ``meta`` device, which have a shape and no content; None where the
    extractor cannot be run so. ``size`` is the images' side; None takes the first of ``SIZES`` that works."""
    channels = dict.fromkeys(part.in_channels for part in extractor.modules() if isinstance(part, nn.Conv2d))
    for side, count in product(SIZES if size is None else (size,), [*list(channels)[:1], 3, 1] if channels else ()):
        features = run_on_meta(extractor, torch.empty(2, count, side, side, device="meta"))
        if features is not None:
            return features
    return None


def run_on_meta(module: nn.Module, x: Tensor) -> Tensor | None:
    """What the ``outline`` of ``module`` gives for ``x``; None where it does not run so, or gives no tensor."""
    try:
        with torch.no_grad():
            result = outline(module)(as_precise(x, module))
    except Exception:  # whatever a module of other people raises
        return None
    return result if isinstance(result, Tensor) else None


def outline(module: Module) -> Module:
    """A copy in evaluation mode of shapes without content, on the ``meta`` device, neither hooked nor compiled: nothing
    is computed, and nothing of ``module`` changes, when it runs."""
    memo: dict[int, Any] = {}  # what ``deepcopy`` takes for copies that it has made
    for part in module.modules():
        for name, value in [*vars(part).items(), *part._parameters.items(), *part._buffers.items()]:
            if isinstance(value, Tensor):
                memo[id(value)] = torch.empty_like(value, device="meta")
            elif "_hooks" in name and isinstance(value, dict):
                memo[id(value)] = type(value)()
    for part in reversed(list(module.modules())):
        if "_orig_mod" in part._modules:  # what torch.compile has wrapped
            memo[id(part)] = copy.deepcopy(part._modules["_orig_mod"], memo)
    return copy.deepcopy(module, memo).eval()


def as_precise(x: Tensor, module: nn.Module) -> Tensor:
    """``x`` in the precision of the module's parameters."""
    return x.to(next((p.dtype for p in module.parameters()), x.dtype))


def read_only(module: nn.Module, x: Tensor) -> Tensor:
    """Run ``module(x)`` and leave ``x`` as it was: a module with operations in place gets a copy.

    Raises:
        RuntimeError: the module changes its input although no part of it says so (``inplace``).
        ValueError: it gives something else than a tensor.
    """
    if any(getattr(part, "inplace", False) for part in module.modules()):
        return one_tensor(module, module(x.clone()))
    if torch.compiler.is_compiling() or x.is_inference():
        return one_tensor(module, module(x))
    version = x._version
    result = module(x)
    if x._version != version:
        name = type(module).__name__
        raise RuntimeError(f"module: {name} changes its input in place, which others read; copy it first")
    return one_tensor(module, result)


def one_tensor(module: nn.Module, result: object) -> Tensor:
    """The output of ``module``; ValueError, with the keys of a dict, unless it is one tensor."""
    if isinstance(result, Tensor):
        return result
    raise ValueError(f"module: must give one tensor, got {described(result)}, from {type(module).__name__}")


def sized_layers(module: nn.Module) -> list[tuple[nn.Module, int, int]]:
    """Each layer inside ``module`` of fixed channels, with those in and out, in order of definition: the first tells
    what a head takes, the last what an extractor gives."""
    found: list[tuple[nn.Module, int, int]] = []
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            found.append((layer, layer.in_channels, layer.out_channels))
        elif isinstance(layer, nn.Linear):
            found.append((layer, layer.in_features, layer.out_features))
        elif isinstance(layer, nn.modules.batchnorm._NormBase):
            found.append((layer, layer.num_features, layer.num_features))
    return found
