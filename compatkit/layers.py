"""Layers of networks: what they put out for images, and CKA of every layer of one network with every one of another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import described
from .inspection import as_precise
from .moments import SHAPES, Kernels, Seen, arithmetic, as_map, check_enough, check_lengths, check_shape, grid
from .normalization import evaluation


def layer_names(net: nn.Module) -> list[str]:
    """The direct children of ``net`` in order: the blocks of an ``nn.Sequential``."""
    return [name for name, _ in net.named_children()]


@torch.no_grad()
def layer_features(
    net: nn.Module, names: Sequence[str], images: Tensor, *, statistics: str = "batch"
) -> dict[str, Tensor]:
    """The outputs of layers of a network for a batch of images.

    Hooks and modes are as before afterwards, also after an error. Operations in place change neither the copies nor
    ``images``.

    Args:
        net: run once.
        names: as in ``net.named_modules()``.
        images: normalised, (n, c, h, w); the network gets them in the precision of its parameters.
        statistics: how BN normalises, "batch" or "running", see ``normalization``.

    Returns:
        Copies of the outputs, by name.

    Raises:
        ValueError: there is no such layer (the message lists them), or it does not put out exactly one tensor in a run.
    """
    modules = _check_layers(net, names, "names")
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        if name in seen or not isinstance(output, Tensor):
            what = "more than once" if name in seen else f"and puts out a {described(output)}"
            raise ValueError(f"names: a layer must put out one tensor in a run, but {name!r} runs {what}")
        seen[name] = output.detach().clone()

    with ExitStack() as stack:
        stack.enter_context(evaluation(net, statistics))
        for name in dict.fromkeys(names):
            hook = modules[name].register_forward_hook(lambda _, inputs, output, name=name: keep(name, output))
            stack.callback(hook.remove)
        net(as_precise(images, net).clone())
    idle = [name for name in names if name not in seen]
    if idle:
        raise ValueError(f"names: a layer must put out one tensor in a run, but {idle} did not run")
    return {name: seen[name] for name in names}


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
    """Linear CKA of every layer of one network with every layer of another.

    Holds the features of one batch, and the moments of each layer and of each pair of layers.

    Args:
        net_a, net_b: each runs once on every batch.
        images: normalised images (n, c, h, w), or batches of such. A tensor is cut into batches of equal size, at most
            ``batch_size``. With batch statistics, mix the classes before.
        layers_a, layers_b: names as in ``net.named_modules()``; None means ``layer_names``, the blocks of our networks.
            Their outputs are (n, c), (n, c, h, w), or tokens (n, t, c), which count as positions do.
        unbiased: see ``linear_cka``.
        pooled: average every map over its positions first, so that all entries compare n samples. Otherwise positions
            count as samples, all of them; of two maps of unequal size the finer one is averaged to the height and width
            of the coarser.
        flatten: an image is one sample of c x h x w features; copies of all features are held then.
        statistics: how BN normalises, "batch" or "running", see ``normalization``.
        batch_size: images in a batch at most.

    Returns:
        Both lists of names, and (la, lb) in float64.

    Raises:
        ValueError: unknown layers (the message lists those there are), outputs of other shapes or not finite, or no
            images or too few.

    Source: Kornblith et al. 2019; paper B, Sec. 5.7.
    """
    names_a, names_b = _default_layers(net_a, layers_a, "layers_a"), _default_layers(net_b, layers_b, "layers_b")
    cka, seen = CKAMap(unbiased=unbiased, pooled=pooled, flatten=flatten), Seen()
    for batch in _batches(images, batch_size):
        seen.add({"images": batch}, torch.float64)
        asked = [*names_a, *names_b] if net_b is net_a else names_a
        run_a = layer_features(net_a, asked, batch, statistics=statistics)
        run_b = run_a if net_b is net_a else layer_features(net_b, names_b, batch, statistics=statistics)
        cka._add({name: run_a[name] for name in names_a}, {name: run_b[name] for name in names_b})
    seen.check()
    return names_a, names_b, cka.compute()


class CKAMap:
    """``cka_map`` of features that are there already, over batches: the values of the whole set.

    Takes memory for a batch, and for the moments of each layer and of each pair of layers; while samples are fewer than
    the channels of two layers, as where they are flattened, for a copy of them.

    Args:
        unbiased, pooled, flatten: as in ``cka_map``.
    """

    def __init__(self, *, unbiased: bool = False, pooled: bool = False, flatten: bool = False):
        self.unbiased, self.pooled, self.flatten = unbiased, pooled, flatten
        self._names: tuple[list[str], list[str]] | None = None
        self._kernels: dict[tuple[int, int], Kernels] = {}
        self._seen = Seen()

    def update(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> CKAMap:
        """Add a batch. On a GPU ``compute`` says whether it is finite, so that no batch waits.

        Args:
            a, b: what the layers of either network put out for the same images, by name, as ``layer_features`` returns
                it: (n, c), (n, c, h, w) or tokens (n, t, c).

        Raises:
            ValueError: no layer, other layers than in the batches before, unequal n, or outputs of other shapes or not
                finite.
        """
        return self._add(*({name: x.clone() for name, x in side.items()} for side in (a, b)))

    def _add(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> CKAMap:
        names = list(a), list(b)
        if not all(names) or names != (self._names or names):
            raise ValueError(f"a, b: the same layers are needed in every batch, got {names}, before {self._names}")
        layers = {(net, name): x for net, side in (("a", a), ("b", b)) for name, x in side.items()}
        for (net, name), x in layers.items():
            check_shape(f"{net}: layer {name!r}", x, SHAPES)
            check_lengths(next(iter(layers.values())), x)
        self._seen.add({f"{net}: layer {name!r}": x for (net, name), x in layers.items()}, arithmetic(*layers.values()))
        self._names = names
        maps = {key: x.detach().flatten(1) if self.flatten else as_map(x.detach()) for key, x in layers.items()}
        for size, pairs in self._pairs(maps).items():
            sides = {key: _averaged(maps[key], size) for key in dict.fromkeys(key for pair in pairs for key in pair)}
            self._kernels.setdefault(size, Kernels(pairs, self.unbiased)).add(sides)
        return self

    def _pairs(self, maps: Mapping[tuple[str, str], Tensor]) -> dict[tuple[int, int], list[tuple]]:
        """The pairs, by height and width, of layers that are compared on it."""
        found: dict[tuple[int, int], list[tuple]] = {}
        for x, y in product(*([key for key in maps if key[0] == net] for net in "ab")):
            (height, width), (other_height, other_width) = grid(maps[x]), grid(maps[y])
            # tokens have no rows and columns: beside a map both are averaged
            averaged = self.pooled or (width == 1) != (other_width == 1)
            size = (1, 1) if averaged else (min(height, other_height), min(width, other_width))
            found.setdefault(size, []).append((x, y))
        return found

    def compute(self) -> Tensor:
        """CKA (la, lb) in float64 of every layer of one network with every layer of the other, in the order given.

        Raises:
            ValueError: fewer than 2 samples so far (4 if unbiased), or not all finite.
        """
        self._seen.check()
        rows, columns = self._names or ([], [])
        check_enough(min((kernels.n for kernels in self._kernels.values()), default=0), 4 if self.unbiased else 2)
        found = {pair: value for kernels in self._kernels.values() for pair, value in kernels.alignments().items()}
        return torch.stack([torch.stack([found[("a", x), ("b", y)] for y in columns]) for x in rows]).cpu()


def _averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps averaged in float64 to a coarser height and width."""
    return x if grid(x) == size else F.adaptive_avg_pool2d(x.double(), size)


def _batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if isinstance(images, Tensor):
        images = images.chunk(math.ceil(len(images) / batch_size)) if len(images) else ()
    shape = None
    for batch in images:
        check_shape("images", batch, SHAPES)
        if batch.shape[1:] != (shape or batch.shape[1:]):
            raise ValueError(f"images: all must be {tuple(shape or ())} like the first, got {tuple(batch.shape[1:])}")
        shape = batch.shape[1:]
        yield batch
    if shape is None:
        raise ValueError("images: at least one batch is needed, got none")


def _default_layers(net: nn.Module, names: Sequence[str] | None, argument: str) -> list[str]:
    if isinstance(names, str):
        _check_layers(net, names, argument)
    names = layer_names(net) if names is None else list(dict.fromkeys(names))
    if not names:
        raise ValueError(f"{argument}: at least one layer is needed, got none of a {type(net).__name__}")
    _check_layers(net, names, argument)
    return names


def _check_layers(net: nn.Module, names: Sequence[str], argument: str) -> dict[str, nn.Module]:
    if isinstance(names, str):
        raise ValueError(f"{argument}: a list of names is needed, got the text {names!r}; did you mean [{names!r}]?")
    modules = dict(net.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(f"{argument}: no layer {unknown}; there are {', '.join(filter(None, modules))}")
    return modules
