"""How alike two representations of the same images are: correlation of channels, centred kernel alignment, shared
neighbours.

Paper A compares feature extractors by the correlation of their channels (App. C.2), paper B by CKA (Tab. 6). Both
follow from moments of centred features, which merge over batches without error. They are summed in float64, so an
offset of the features costs no accuracy. Feature maps (n, c, h, w) count each position as a sample, tokens (n, t, c)
each token, so two of them need the same height and width, or number. A representation that is constant is similar to
nothing: 0, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .extras import require
from .normalization import evaluation

CHUNK = 2**21  # float64 values worked on at a time: 16 MiB
SHAPES = {2: "(n, channels)", 3: "(n, tokens, channels)", 4: "(n, channels, height, width)"}
LARGEST = 1e70  # the fourth power of a larger number, or of the inverse of one, leaves float64
CANCELLED = 1e-12  # a difference this small beside its terms is rounding


def cross_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of every channel of ``x`` with every channel of ``y``.

    Args:
        x, y: (n, p) and (n, q), or feature maps (n, p, h, w) and (n, q, h, w), of the same images in the same order.

    Returns:
        (p, q), float64. A constant channel correlates 0 with all others.

    Raises:
        ValueError: fewer than 2 samples, or input that is no finite floating-point tensor of equal n (and equal h, w).

    Source: paper A, App. C.2.
    """
    return CrossCorrelation().update(x, y).compute()


class CrossCorrelation:
    """``cross_correlation`` over batches: the value of the whole set, in memory for p x q numbers and a batch."""

    def __init__(self):
        self._xy: _Moments | None = None

    def update(self, x: Tensor, y: Tensor) -> CrossCorrelation:
        """Add a batch, with shapes and errors as in ``cross_correlation``; any number of samples."""
        for a, b in _chunks(*_checked_pair(x, y)):
            self._xy = _merged(self._xy, _Moments.of(a, b))
        return self

    def compute(self) -> Tensor:
        """Correlations (p, q) of all samples so far.

        Raises:
            ValueError: they are fewer than 2.
        """
        m = _enough(self._xy, 2)
        scale = m.xx.sqrt().outer(m.yy.sqrt())
        return torch.where(scale > 0, m.xy / scale, 0.0).clamp(-1, 1)


def match_channels(corr: Tensor) -> tuple[Tensor, float]:
    """The one-to-one matching of channels with the highest mean correlation.

    Args:
        corr: (p, q), row i a channel of one network, column j a channel of the other.

    Returns:
        The permutation (p,), row i being matched to column ``permutation[i]``, and the mean over the matched pairs.
        With unequal p and q min(p, q) pairs are matched: if p > q the other rows get -1, if q > p the other columns do
        not appear.

    Raises:
        ValueError: ``corr`` is not a finite floating-point matrix.

    Source: Li et al. 2016; paper A, App. C.2.
    """
    optimize = require("scipy.optimize", "similarity")
    _check("corr", corr, {2: "(p, q)"})
    rows, columns = map(
        torch.from_numpy, optimize.linear_sum_assignment(corr.detach().double().cpu().numpy(), maximize=True)
    )
    permutation = torch.full((len(corr),), -1)
    permutation[rows] = columns
    return permutation.to(corr.device), corr.detach().double().cpu()[rows, columns].mean().item()


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = False, flatten: bool = False) -> float:
    """Linear centred kernel alignment: ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centred.

    Takes memory for p^2 + pq + q^2 numbers and a chunk; for n^2 where n samples are fewer than the features of a side.

    Args:
        x, y: (n, p) and (n, q), or feature maps (n, p, h, w) and (n, q, h, w), of the same images in the same order.
        unbiased: HSIC_1 in place of each norm (Song et al. 2012, Nguyen et al. 2021): near 0 for unrelated features
            even where p and q exceed n, and sometimes below it. Meant for independent samples, which positions of a map
            are not.
        flatten: an image is one sample of c x h x w features, in place of h x w samples.

    Raises:
        ValueError: fewer than 2 samples (4 if unbiased), or input that is no finite floating-point tensor of equal n
            (and equal h, w unless ``flatten``).

    Source: Kornblith et al. 2019.
    """
    x, y = _checked_pair(x, y, flatten)
    if x[:, 0].numel() < max(x.shape[1], y.shape[1]):
        return _gram_cka(_rows(x), _rows(y), unbiased)
    return CKA(unbiased=unbiased).update(x, y).compute()


class CKA:
    """``linear_cka`` over batches: the value of the whole set, not a mean over batches.

    Takes memory for p^2 + pq + q^2 numbers and a batch. Moments of three kinds suffice even for the unbiased form: see
    ``_hsic``.
    """

    def __init__(self, *, unbiased: bool = False, flatten: bool = False):
        self.unbiased, self.flatten = unbiased, flatten
        self._xx: _Moments | None = None
        self._yy: _Moments | None = None
        self._xy: _Moments | None = None

    def update(self, x: Tensor, y: Tensor) -> CKA:
        """Add a batch, with shapes and errors as in ``linear_cka``; any number of samples."""
        for a, b in _chunks(*_checked_pair(x, y, self.flatten)):
            self._xy = _merged(self._xy, _Moments.of(a, b))
            self._xx = _merged(self._xx, _Moments.of(a, a))
            self._yy = _merged(self._yy, _Moments.of(b, b))
        return self

    def compute(self) -> float:
        """CKA of all samples so far.

        Raises:
            ValueError: they are fewer than 2 (4 if unbiased).
        """
        least = 4 if self.unbiased else 2
        return _alignment(*(_enough(m, least).hsic(self.unbiased) for m in (self._xy, self._xx, self._yy)))


@torch.no_grad()
def mutual_knn(x: Tensor, y: Tensor, k: int = 10, *, chunk: int = 1024) -> float:
    """Mean share, in 0..1, of the k nearest neighbours of a sample that are the same in ``x`` and in ``y``.

    Nearness is Euclidean, so that the score has the invariances of CKA; for the cosine of Huh et al., normalise the
    rows first. A sample is no neighbour of its own. Ties are broken arbitrarily. Takes memory for a float64 copy of
    both and for chunk x n distances.

    Args:
        x, y: (n, p) and (n, q), row i of both the same sample.
        k: in 1 .. n - 1.
        chunk: samples compared with all others at a time.

    Raises:
        ValueError: k is out of range, or input that is no finite floating-point matrix of equal n.

    Source: Huh et al. 2024.
    """
    for name, value in (("x", x), ("y", y)):
        _check(name, value, {2: "(n, channels)"})
    _check_lengths(x, y)
    if not 1 <= k < len(x):
        raise ValueError(f"k: must be between 1 and n - 1 = {len(x) - 1}, got {k}")
    if chunk < 1:
        raise ValueError(f"chunk: must be at least 1, got {chunk}")
    sides = [_Centred.of(x.double()), _Centred.of(y.double())]
    if not all(side.squares.any() for side in sides):
        return 0.0
    shared = 0.0
    for start in range(0, len(x), chunk):
        near_x, near_y = (_neighbours(side, start, chunk, k) for side in sides)
        among = torch.zeros(len(near_x), len(x), dtype=torch.bool, device=x.device).scatter_(1, near_x, True)
        shared += among.gather(1, near_y).sum().item()
    return shared / (k * len(x))


def layer_names(net: nn.Module) -> list[str]:
    """The direct children of ``net`` in order: the blocks of an ``nn.Sequential``."""
    return [name for name, _ in net.named_children()]


@torch.no_grad()
def layer_features(
    net: nn.Module, names: Sequence[str], images: Tensor, *, statistics: str = "batch"
) -> dict[str, Tensor]:
    """What layers of a network put out for a batch of images.

    Hooks and modes are as before afterwards, also after an error. Operations in place change neither the copies nor
    ``images``.

    Args:
        net: run once.
        names: as in ``net.named_modules()``.
        images: normalised, (n, c, h, w).
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
            what = "more than once" if name in seen else f"and puts out a {type(output).__name__}"
            raise ValueError(f"names: a layer must put out one tensor in a run, but {name!r} runs {what}")
        seen[name] = output.detach().clone()

    with ExitStack() as stack:
        stack.enter_context(evaluation(net, statistics))
        for name in dict.fromkeys(names):
            hook = modules[name].register_forward_hook(lambda _, inputs, output, name=name: keep(name, output))
            stack.callback(hook.remove)
        net(images.clone())
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
    statistics: str = "batch",
    batch_size: int = 512,
) -> tuple[list[str], list[str], Tensor]:
    """Linear CKA of every layer of one network with every layer of another.

    Holds the features of one batch, and the moments of each layer and of each pair.

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
    cka = CKAMap(unbiased=unbiased, pooled=pooled)
    for batch in _batches(images, batch_size):
        asked = [*names_a, *names_b] if net_b is net_a else names_a
        run_a = layer_features(net_a, asked, batch, statistics=statistics)
        run_b = run_a if net_b is net_a else layer_features(net_b, names_b, batch, statistics=statistics)
        cka.update({name: run_a[name] for name in names_a}, {name: run_b[name] for name in names_b})
    return names_a, names_b, cka.compute()


class CKAMap:
    """``cka_map`` of features that are there already, over batches: the values of the whole set.

    Takes memory for a batch, and for the moments of each layer and of each pair of layers.

    Args:
        unbiased, pooled: as in ``cka_map``.
    """

    def __init__(self, *, unbiased: bool = False, pooled: bool = False):
        self.unbiased, self.pooled = unbiased, pooled
        self._names: tuple[list[str], list[str]] | None = None
        self._moments: dict[tuple, _Moments] = {}

    def update(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> CKAMap:
        """Add a batch.

        Args:
            a, b: what the layers of either network put out for the same images, by name, as ``layer_features`` returns
                it: (n, c), (n, c, h, w) or tokens (n, t, c).

        Raises:
            ValueError: no layer, other layers than in the batches before, unequal n, or outputs of other shapes or not
                finite.
        """
        names = list(a), list(b)
        if not all(names) or names != (self._names or names):
            raise ValueError(f"a, b: the same layers are needed in every batch, got {names}, before {self._names}")
        self._names = names
        maps_a, maps_b = ([_checked_map(name, x) for name, x in side.items()] for side in (a, b))
        for x in (*maps_a, *maps_b):
            _check_lengths(maps_a[0], x)
        _add_pairs(self._moments, maps_a, maps_b, self.pooled)
        return self

    def compute(self) -> Tensor:
        """CKA (la, lb) in float64 of every layer of one network with every layer of the other, in the order given.

        Raises:
            ValueError: fewer than 2 samples so far (4 if unbiased).
        """
        rows, columns = self._names or ([], [])
        _enough_samples(min((m.n for m in self._moments.values()), default=0), 4 if self.unbiased else 2)
        alone = {x: m.hsic(self.unbiased) for (x, y), m in self._moments.items() if x == y}
        result = torch.zeros(len(rows), len(columns), dtype=torch.float64)
        for (x, y), m in self._moments.items():
            if x != y:
                result[x[1], y[1]] = _alignment(m.hsic(self.unbiased), alone[x], alone[y])
        return result


# Moments and the two values that follow from them


class _Centred(NamedTuple):
    """Samples less their mean. Taking the first sample off before the mean makes constant channels exactly 0."""

    mean: Tensor  # (p,)
    rows: Tensor  # (n, p)
    squares: Tensor  # (p,) sums over samples
    norms: Tensor  # (n,) sums over channels

    @classmethod
    def of(cls, rows: Tensor) -> _Centred:
        first = rows[0]
        rows = rows - first
        mean = rows.mean(0)
        rows -= mean
        squared = rows.square()
        return cls(first + mean, rows, squared.sum(0), squared.sum(1))


@dataclass(frozen=True)
class _Moments:
    """Sums over n pairs of centred samples x (p,) and y (q,), with a = |x|^2 and b = |y|^2."""

    n: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor  # (p,) sum of x^2
    yy: Tensor  # (q,) sum of y^2
    xy: Tensor  # (p, q) sum of x y^T
    ab: Tensor  # () sum of a b
    bx: Tensor  # (p,) sum of b x
    ay: Tensor  # (q,) sum of a y

    @classmethod
    def of(cls, x: _Centred, y: _Centred) -> _Moments:
        ab, bx, ay = x.norms @ y.norms, y.norms @ x.rows, x.norms @ y.rows
        return cls(len(x.rows), x.mean, y.mean, x.squares, y.squares, x.rows.T @ y.rows, ab, bx, ay)

    def __add__(self, other: _Moments) -> _Moments:
        """Moments of both sets together (Chan et al. 1979): taken about the common mean, the sums add up."""
        if self.xy.shape != other.xy.shape:
            before, now = tuple(self.xy.shape), tuple(other.xy.shape)
            raise ValueError(f"x, y: earlier batches had {before} channels, all must have them, got {now}")
        n = self.n + other.n
        mean_x = self.mean_x + (other.mean_x - self.mean_x) * (other.n / n)
        mean_y = self.mean_y + (other.mean_y - self.mean_y) * (other.n / n)
        sums = [s + o for s, o in zip(self._about(mean_x, mean_y), other._about(mean_x, mean_y), strict=True)]
        return _Moments(n, mean_x, mean_y, *sums)

    def _about(self, mean_x: Tensor, mean_y: Tensor) -> tuple[Tensor, ...]:
        """The sums with x - d and y - e in place of x and y, multiplied out; those of x and of y alone vanish."""
        d, e = mean_x - self.mean_x, mean_y - self.mean_y
        n, a, b, dd, ee = self.n, self.xx.sum(), self.yy.sum(), d @ d, e @ e
        xe, dy = self.xy @ e, d @ self.xy
        return (
            self.xx + n * d.square(),
            self.yy + n * e.square(),
            torch.addr(self.xy, d, e, alpha=n),
            self.ab - 2 * (d @ self.bx + e @ self.ay) + dd * b + ee * a + 4 * (d @ xe) + n * dd * ee,
            self.bx - 2 * xe - (b + n * ee) * d,
            self.ay - 2 * dy - (a + n * dd) * e,
        )

    def hsic(self, unbiased: bool) -> float:
        cross, a, b = self.xy.square().sum(), self.xx.sum(), self.yy.sum()
        return _hsic(self.n, cross.item(), self.ab.item(), a.item(), b.item(), unbiased)


def _hsic(n: int, cross: float, ab: float, a: float, b: float, unbiased: bool) -> float:
    """HSIC of two linear kernels up to a factor of n alone: ``cross`` = ||Y^T X||_F^2, or its unbiased form HSIC_1.

    With K~ = X X^T and L~ = Y Y^T, diagonals set to 0, HSIC_1 (Song et al. 2012, Eq. 5) is, times n (n - 3),

        tr(K~ L~) + 1^T K~ 1 1^T L~ 1 / ((n - 1) (n - 2)) - 2 1^T K~ L~ 1 / (n - 2).

    It does not change when a vector is added to all x: off the diagonal K~ changes by u_i + u_j, which the last two
    terms take out. So X and Y may be centred; then K~ 1 = -a with a_i = |x_i|^2, likewise b, and it is

        ||Y^T X||_F^2 - n / (n - 2) sum a_i b_i + sum a_i sum b_i / ((n - 1) (n - 2)).

    ab, a, b: these three sums.
    """
    if not unbiased:
        return cross
    value = cross - n / (n - 2) * ab + a * b / ((n - 1) * (n - 2))
    return value if abs(value) > CANCELLED * cross else 0.0


def _alignment(xy: float, xx: float, yy: float) -> float:
    if min(xx, yy) <= 0:
        return 0.0
    return max(-1.0, min(1.0, xy / (math.sqrt(xx) * math.sqrt(yy))))


def _gram_cka(x: Tensor, y: Tensor, unbiased: bool) -> float:
    """CKA of (n, p) and (n, q) by way of K = X X^T and L = Y Y^T: ||Y^T X||_F^2 = sum K * L."""
    _enough_samples(len(x), 4 if unbiased else 2)
    grams = [_gram(x), _gram(y)]
    (a, b) = (gram.diagonal() for gram in grams)

    def hsic(k: Tensor, a: Tensor, l: Tensor, b: Tensor) -> float:  # noqa: E741
        return _hsic(len(k), (k * l).sum().item(), (a @ b).item(), a.sum().item(), b.sum().item(), unbiased)

    return _alignment(hsic(grams[0], a, grams[1], b), hsic(grams[0], a, grams[0], a), hsic(grams[1], b, grams[1], b))


def _gram(x: Tensor) -> Tensor:
    """Inner products (n, n) of centred samples, summed over chunks of channels."""
    total = x.new_zeros(len(x), len(x), dtype=torch.float64)
    for part in x.split(max(1, CHUNK // len(x)), 1):
        rows = _Centred.of(part.double()).rows
        total += rows @ rows.T
    return total


def _merged(old: _Moments | None, new: _Moments) -> _Moments:
    return new if old is None else old + new


def _add_pairs(moments: dict[tuple, _Moments], a: list[Tensor], b: list[Tensor], pooled: bool) -> None:
    """Add a batch of layer outputs to the moments of each layer with itself and with each layer of the other network.

    Keys are pairs of (network, layer, grid): a layer counts anew on each grid on which it is compared.
    """
    images = max(1, 16 * CHUNK // sum(x[0].numel() for x in [*a, *b]))  # of all layers: many small products
    for parts in zip(*(x.split(images) for x in [*a, *b]), strict=True):
        centred: dict[tuple, _Centred] = {}
        for (i, x), (j, y) in product(enumerate(parts[: len(a)]), enumerate(parts[len(a) :])):
            # tokens have no rows and columns: beside a map both are averaged
            apart = (_grid(x)[1] == 1) != (_grid(y)[1] == 1)
            (height, width), (other_height, other_width) = _grid(x), _grid(y)
            grid = (1, 1) if pooled or apart else (min(height, other_height), min(width, other_width))
            keys = ("a", i, grid), ("b", j, grid)
            for key, side in zip(keys, (x, y), strict=True):
                if key not in centred:
                    centred[key] = own = _Centred.of(_rows(_averaged(side, grid)))
                    moments[key, key] = _merged(moments.get((key, key)), _Moments.of(own, own))
            moments[keys] = _merged(moments.get(keys), _Moments.of(centred[keys[0]], centred[keys[1]]))


def _neighbours(side: _Centred, start: int, chunk: int, k: int) -> Tensor:
    """Indices (chunk, k) of the samples nearest to those from ``start`` on."""
    distances = side.norms - 2 * side.rows[start : start + chunk] @ side.rows.T  # less |x|^2, the same in a row
    distances.diagonal(start).fill_(math.inf)
    return distances.topk(k, largest=False).indices


# Shapes and what is checked of them


def _grid(x: Tensor) -> tuple[int, int]:
    return (x.shape[2], x.shape[3]) if x.ndim == 4 else (1, 1)


def _rows(x: Tensor) -> Tensor:
    """(n, c) or (n, c, h, w) as samples (n, c) or (n * h * w, c)."""
    return x.flatten(2).movedim(1, 2).flatten(0, 1) if x.ndim == 4 else x


def _averaged(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps averaged to a coarser height and width, in float64."""
    return x.double() if _grid(x) == grid else F.adaptive_avg_pool2d(x.double(), grid)


def _chunks(x: Tensor, y: Tensor) -> Iterator[tuple[_Centred, _Centred]]:
    images = max(1, CHUNK // (x[0].numel() + y[0].numel()))
    for a, b in zip(x.split(images), y.split(images), strict=True):
        yield _Centred.of(_rows(a.double())), _Centred.of(_rows(b.double()))


def _batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if isinstance(images, Tensor):
        images = images.chunk(math.ceil(len(images) / batch_size)) if len(images) else ()
    shape = None
    for batch in images:
        _check("images", batch, SHAPES)
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


def _checked_map(layer: str, x: Tensor) -> Tensor:
    return _as_map(_check(f"layer {layer!r}", x, SHAPES))


def _as_map(x: Tensor) -> Tensor:
    """Tokens (n, t, c) as a map (n, c, t, 1): each is a position; all else as it is."""
    return x.movedim(1, 2).unsqueeze(3) if x.ndim == 3 else x


def _checked_pair(x: Tensor, y: Tensor, flatten: bool = False) -> tuple[Tensor, Tensor]:
    for name, value in (("x", x), ("y", y)):
        _check(name, value, SHAPES)
    _check_lengths(x, y)
    if flatten:
        return x.detach().flatten(1), y.detach().flatten(1)
    x, y = _as_map(x), _as_map(y)
    if _grid(x) != _grid(y):
        raise ValueError(
            f"x, y: positions count as samples, so height and width must be equal, got {_grid(x)} and {_grid(y)}"
        )
    return x.detach(), y.detach()


def _check_lengths(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise ValueError(f"x, y: must hold the same samples, got {len(x)} and {len(y)} of them")


def _check(name: str, x: Tensor, shapes: dict[int, str]) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: must be a floating-point tensor, got {got}")
    if x.ndim not in shapes:
        raise ValueError(f"{name}: must be {' or '.join(shapes.values())}, got shape {tuple(x.shape)}")
    if not x.numel():
        raise ValueError(f"{name}: must not be empty, got shape {tuple(x.shape)}")
    if not torch.stack(x.detach().aminmax()).isfinite().all():  # NaN wins both; no copy of x, as x.isfinite() takes
        broken = x.numel() - x.isfinite().sum().item()
        raise ValueError(f"{name}: must be finite, got {broken} NaN or infinite values among {x.numel()}")
    largest = max(abs(value.item()) for value in x.detach().aminmax())
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"{name}: the largest magnitude must lie within {1 / LARGEST:g} .. {LARGEST:g}, beyond which its fourth "
            f"power is no number, got {largest:g}; scale it first"
        )
    return x


def _enough(moments: _Moments | None, least: int) -> _Moments:
    _enough_samples(moments.n if moments else 0, least)
    assert moments is not None  # or there would be no samples
    return moments


def _enough_samples(n: int, least: int) -> None:
    if n < least:
        raise ValueError(f"x, y: at least {least} samples are needed{' if unbiased' * (least == 4)}, got {n}")
