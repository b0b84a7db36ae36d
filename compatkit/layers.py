"""Layers of networks: what they put out for images, and CKA of every layer of one network with every one of another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import check_tensor, described
from .inspection import as_precise
from .moments import SHAPES, Kernels, Samples, as_maps, grid
from .normalization import evaluation


def layer_names(net: nn.Module) -> list[str]:
    """The direct children of ``net``: the blocks of an ``nn.Sequential``."""
    return [name for name, _ in net.named_children()]


@torch.no_grad()
def layer_features(
    net: nn.Module, names: Sequence[str], images: Tensor, *, statistics: str = "batch"
) -> dict[str, Tensor]:
    """The outputs of layers of a network for a batch of images, by name; what it does in place changes neither them nor
    ``images``.

    Args:
        net: runs once; twice where a layer's output is changed in place though no module says so (``inplace``).
        names: as in ``net.named_modules()``.
        images: normalised, (n, c, h, w), of any floating-point type.
        statistics: how BN normalises, "batch" or "running", see ``normalization``.

    Raises:
        ValueError: there is no such layer (the message lists them), or it does not put out exactly one tensor in a run.
    """
    modules = {name: module for name, module in _check_layers(net, names, "names").items() if name in names}
    inplace = torch.is_inference_mode_enabled() or any(getattr(part, "inplace", False) for part in net.modules())
    with evaluation(net, statistics):
        outputs, changed = _outputs(net, modules, images, copies=inplace)
        if changed:
            outputs, _ = _outputs(net, modules, images, copies=True)
    return {name: outputs[name] for name in names}


def _outputs(
    net: nn.Module, modules: Mapping[str, nn.Module], images: Tensor, *, copies: bool
) -> tuple[dict[str, Tensor], bool]:
    """What the modules put out in a run of ``net``, or copies of it; and whether any of it was changed later."""
    seen: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def keep(name: str, output: Tensor) -> None:
        if name in seen or not isinstance(output, Tensor):
            what = "more than once" if name in seen else f"and puts out a {described(output)}"
            raise ValueError(f"names: a layer must put out one tensor in a run, but {name!r} runs {what}")
        seen[name] = output.clone() if copies else output
        versions[name] = 0 if copies else output._version

    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, output))
            stack.callback(hook.remove)
        net(as_precise(images, net).clone())
    if idle := [name for name in modules if name not in seen]:
        raise ValueError(f"names: a layer must put out one tensor in a run, but {idle} did not run")
    return seen, not copies and any(seen[name]._version != version for name, version in versions.items())


@torch.no_grad()
def cka_map(
    net_a: nn.Module,
    net_b: nn.Module,
    images: Tensor | Iterable[Tensor],
    layers_a: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    *,
    unbiased: bool = False,
    pooled: bool = False,
    flatten: bool = False,
    statistics: str = "batch",
    batch_size: int = 512,
) -> tuple[list[str], list[str], Tensor]:
    """Linear CKA of every layer of one network with every layer of another (Kornblith et al. 2019; paper B, Sec. 5.7).

    Args:
        net_a, net_b: each runs once on every batch.
        images: normalised images (n, c, h, w), or batches of such; with batch statistics, mix the classes before.
        layers_a, layers_b: names as in ``net.named_modules()``; None means ``layer_names``. Outputs are (n, c),
            (n, c, h, w), or tokens (n, t, c), which count as positions do.
        unbiased: see ``linear_cka``.
        pooled: average every map over its positions first. Otherwise positions count as samples; of two maps of unequal
            size the finer one is averaged to the height and width of the coarser.
        flatten: an image is one sample of c x h x w features; copies of all features are held then.
        statistics: how BN normalises, "batch" or "running", see ``normalization``.
        batch_size: images in a batch at most; batches have equal sizes.

    Returns:
        Both lists of names, and (la, lb) in float64.

    Raises:
        ValueError: unknown layers (the message lists them), outputs of other shapes or not finite, too few images.
    """
    names_a, names_b = _chosen(net_a, layers_a, "layers_a"), _chosen(net_b, layers_b, "layers_b")
    cka = CKAMap(unbiased=unbiased, pooled=pooled, flatten=flatten)
    for batch in _batches(images, batch_size):
        asked = list(dict.fromkeys([*names_a, *names_b])) if net_b is net_a else names_a
        run_a = layer_features(net_a, asked, batch, statistics=statistics)
        run_b = run_a if net_b is net_a else layer_features(net_b, names_b, batch, statistics=statistics)
        cka._add({name: run_a[name] for name in names_a}, {name: run_b[name] for name in names_b}, copy=False)
    return names_a, names_b, cka.compute()


class CKAMap:
    """``cka_map`` over batches of features that are there already, in memory for the moments of each pair of layers, or
    for copies of samples that are fewer than the channels of two layers."""

    def __init__(self, *, unbiased: bool = False, pooled: bool = False, flatten: bool = False):
        self.unbiased, self.pooled, self.flatten = unbiased, pooled, flatten
        self._shapes: list[dict[str, tuple[int, ...]]] = []
        self._kernels: dict[tuple[int, int], Kernels] = {}

    def update(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> CKAMap:
        """Add a batch: what ``layer_features`` gives of either network for the same images. Raises ValueError for no
        layer, other layers or shapes than before, and unequal n; whether all is finite is seen by ``compute``."""
        return self._add(a, b, copy=True)

    def _add(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, copy: bool) -> CKAMap:
        sides = [{f"{net}: layer {name!r}": x for name, x in side.items()} for net, side in (("a", a), ("b", b))]
        if not (a and b):
            raise ValueError(f"a, b: at least one layer of each is needed, got {[*a]} and {[*b]}")
        maps = as_maps(sides[0] | sides[1])
        if self.flatten:
            maps = {key: x.flatten(1) for key, x in maps.items()}
        shapes = [{key: tuple(maps[key].shape[1:]) for key in side} for side in sides]
        if shapes != (self._shapes or shapes):
            raise ValueError(f"a, b: every batch needs the same layers and shapes, got {shapes}, before {self._shapes}")
        self._shapes = shapes
        for size, pairs in self._pairs(maps).items():
            kernels = self._kernels.setdefault(size, Kernels(pairs, self.unbiased))
            kernels.add({key: _averaged(maps[key], size) for key in kernels.names}, copy=copy)
        return self

    def _pairs(self, maps: Mapping[str, Tensor]) -> dict[tuple[int, int], list[tuple[str, str]]]:
        """The pairs of layers that are compared, by height and width on which they are."""
        found: dict[tuple[int, int], list[tuple[str, str]]] = {}
        for x, y in product(*self._shapes):
            (height, width), (other_height, other_width) = grid(maps[x]), grid(maps[y])
            # tokens have no rows and columns: beside a map both are averaged
            averaged = self.pooled or (width == 1) != (other_width == 1)
            size = (1, 1) if averaged else (min(height, other_height), min(width, other_width))
            found.setdefault(size, []).append((x, y))
        return found

    def compute(self) -> Tensor:
        """CKA (la, lb) in float64 of all layers, in the order given. Raises ValueError for fewer than 2 samples so far
        (4 if unbiased), and for NaN or infinity."""
        if not self._kernels:
            Samples().check(4 if self.unbiased else 2)
        found = {pair: value for kernels in self._kernels.values() for pair, value in kernels.alignments().items()}
        rows, columns = self._shapes
        return torch.stack([torch.stack([found[x, y] for y in columns]) for x in rows]).cpu()


def _averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if grid(x) == size else F.adaptive_avg_pool2d(x.double(), size)


def _batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if isinstance(images, Tensor):
        images = images.chunk(math.ceil(len(images) / batch_size)) if len(images) else ()
    batch = None
    for batch in images:
        check_tensor("images", batch, SHAPES)
        yield batch
    if batch is None:
        raise ValueError("images: at least one batch is needed, got none")


def _chosen(net: nn.Module, names: Sequence[str] | None, argument: str) -> list[str]:
    names = layer_names(net) if names is None else names
    if not names:
        raise ValueError(f"{argument}: at least one layer is needed, got none of a {type(net).__name__}")
    _check_layers(net, names, argument)
    return list(dict.fromkeys(names))


def _check_layers(net: nn.Module, names: Sequence[str], argument: str) -> dict[str, nn.Module]:
    if isinstance(names, str):
        raise ValueError(f"{argument}: a list of names is needed, got the text {names!r}; did you mean [{names!r}]?")
    modules = dict(net.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(f"{argument}: no layer {unknown}; there are {', '.join(filter(None, modules))}")
    return modules
