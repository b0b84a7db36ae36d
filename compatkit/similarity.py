"""How alike two representations of the same images are: correlation of channels, centred kernel alignment, shared
neighbours.

Paper A compares feature extractors by the correlation of their channels (App. C.2), paper B by CKA (Tab. 6). Both
follow from moments of centred features, which merge over batches without error. Feature maps (n, c, h, w) count each
position as a sample, tokens (n, t, c) each token, so two of them need the same height and width, or number. A
representation that is constant is similar to nothing: 0, never NaN.

Arithmetic: where an input is float64 everything is. Others are centred about their mean in double precision, so an
offset costs no accuracy, then multiplied in single precision, which is 2 times as fast on a CPU and up to 64 times on a
GPU, in blocks that are added up in double. Correlations and CKA are then within 1e-6 of the value in exact arithmetic
of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import described
from .extras import require
from .models import as_precise
from .normalization import evaluation

CHUNK = 2**20  # values worked on at a time, which a cache holds: 4 MiB of float32
STEP, BLOCK = 64, 1024  # samples multiplied at once, so that their sum is rounded once, and before it goes on in double
PANEL = 128  # columns at a time: of a symmetric product only the panels from the diagonal on are computed
NARROW = 32  # channels below which double costs nothing, while BLAS may add up one product after another
SHAPES = {2: "(n, channels)", 3: "(n, tokens, channels)", 4: "(n, channels, height, width)"}
LARGEST = 1e70  # the fourth power of a larger number, or of the inverse of one, leaves float64
LARGEST_SINGLE = 1e30  # a sum of a chunk of larger numbers leaves float32
CANCELLED = 1e-12  # a difference this small beside its terms is rounding
SHAKY = 0.1  # a difference this small beside its terms is left to double precision
SIDES = ((0, 1), (0, 0), (1, 1))  # what CKA compares: x with y, and each with itself


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
        self._extent = _Extent()

    def update(self, x: Tensor, y: Tensor) -> CrossCorrelation:
        """Add a batch, with shapes and errors as in ``cross_correlation``; any number of samples. On a GPU
        ``compute`` says whether they are finite, so that no batch waits."""
        x, y = _paired(x, y)
        self._extent.add("x", x).add("y", y)
        (new,) = _moments(x, y, SIDES[:1], _arithmetic(x, y), unbiased=False)
        self._xy = _merged(self._xy, new)
        return self

    def compute(self) -> Tensor:
        """Correlations (p, q) of all samples so far.

        Raises:
            ValueError: they are fewer than 2, or not all finite.
        """
        self._extent.check()
        m = self._xy
        if m is None or m.n < 2:
            raise _too_few(m.n if m else 0, 2)
        x, y = (torch.where(squares > 0, squares.rsqrt(), 0.0) for squares in (m.xx, m.yy))
        return (m.xy * x[:, None]).mul_(y).clamp_(-1, 1)


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

    Takes memory for p^2 + pq + q^2 numbers and a chunk; for 2 n^2 where samples are fewer than p + q, which is less
    work then. In single precision the error is below 1e-6 for the unbiased form too: where its terms cancel, all is
    computed again in double.

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
    x, y = _paired(x, y, flatten)
    _Extent().add("x", x).add("y", y).check()
    return _linear_cka(x, y, unbiased)


class CKA:
    """``linear_cka`` over batches: the value of the whole set, not a mean over batches.

    Takes memory for copies of the samples while they are fewer than p + q, and from then on for p^2 + pq + q^2 moments
    in double precision and less than p + q samples. Moments of three kinds suffice even for the unbiased form: see
    ``_hsic``. Its terms may cancel, and the moments cannot be computed again, so they are then summed in double.
    """

    def __init__(self, *, unbiased: bool = False, flatten: bool = False):
        self.unbiased, self.flatten = unbiased, flatten
        self._channels: tuple[int, int] | None = None
        self._kept: list[tuple[Tensor, Tensor]] = []  # not yet among the moments
        self._moments: list[_Moments] = []
        self._extent = _Extent()

    def update(self, x: Tensor, y: Tensor) -> CKA:
        """Add a batch, with shapes and errors as in ``linear_cka``; any number of samples. On a GPU
        ``compute`` says whether they are finite, so that no batch waits."""
        x, y = _paired(x, y, self.flatten)
        channels = x.shape[1], y.shape[1]
        _check_channels(self._channels or channels, channels)
        self._channels = channels
        self._extent.add("x", x).add("y", y)
        if sum(a[:, 0].numel() for a, _ in [*self._kept, (x, y)]) < sum(channels):
            self._kept.append((_rows(x).clone(), _rows(y).clone()))
        else:
            self._moments, self._kept = self._including(*self._kept, (x, y)), []
        return self

    def compute(self) -> float:
        """CKA of all samples so far.

        Raises:
            ValueError: they are fewer than 2 (4 if unbiased), or not all finite.
        """
        self._extent.check()
        if self._kept and not self._moments:
            return _linear_cka(*_joined(self._kept), self.unbiased)
        moments = self._including(*self._kept)
        if not moments:
            raise _too_few(0, 4 if self.unbiased else 2)
        return _alignment(*_hsics(moments, self.unbiased))

    def _including(self, *batches: tuple[Tensor, Tensor]) -> list[_Moments]:
        """The moments with those of more batches."""
        if not batches:
            return self._moments
        x, y = _joined(batches)
        new = _moments(x, y, SIDES, torch.float64 if self.unbiased else _arithmetic(x, y), self.unbiased)
        return [old + more for old, more in zip(self._moments, new, strict=True)] if self._moments else new


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
    sides = [_moved(side, *_Frame.of(side, torch.float64).of_one_scale()) for side in (x, y)]
    if not all(side.any() for side in sides):
        return 0.0
    shared = torch.zeros((), dtype=torch.int64, device=x.device)
    for start in range(0, len(x), chunk):
        near_x, near_y = (_neighbours(side, start, chunk, k) for side in sides)
        among = torch.zeros(len(near_x), len(x), dtype=torch.bool, device=x.device).scatter_(1, near_x, True)
        shared += among.gather(1, near_y).sum()
    return shared.item() / (k * len(x))


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
    cka, extent = CKAMap(unbiased=unbiased, pooled=pooled), _Extent()
    for batch in _batches(images, batch_size):
        extent.add("images", batch)
        asked = [*names_a, *names_b] if net_b is net_a else names_a
        run_a = layer_features(net_a, asked, batch, statistics=statistics)
        run_b = run_a if net_b is net_a else layer_features(net_b, names_b, batch, statistics=statistics)
        cka.update({name: run_a[name] for name in names_a}, {name: run_b[name] for name in names_b})
    extent.check()
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
        self._extent = _Extent()

    def update(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> CKAMap:
        """Add a batch. On a GPU ``compute`` says whether it is finite, so that no batch waits.

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
        layers = [*a.items(), *b.items()]
        for name, x in layers:
            _check_shape(f"layer {name!r}", x, SHAPES)
            _check_lengths(layers[0][1], x)
        for name, x in layers:
            self._extent.add(f"layer {name!r}", x)
        maps_a, maps_b = ([_as_map(x) for x in side.values()] for side in (a, b))
        _add_pairs(self._moments, maps_a, maps_b, self.pooled, self.unbiased)
        return self

    def compute(self) -> Tensor:
        """CKA (la, lb) in float64 of every layer of one network with every layer of the other, in the order given.

        Raises:
            ValueError: fewer than 2 samples so far (4 if unbiased), or not all finite.
        """
        self._extent.check()
        rows, columns = self._names or ([], [])
        _check_enough(min((m.n for m in self._moments.values()), default=0), 4 if self.unbiased else 2)
        hsics = dict(zip(self._moments, _hsics(list(self._moments.values()), self.unbiased), strict=True))
        result = torch.zeros(len(rows), len(columns), dtype=torch.float64)
        for (x, y), value in hsics.items():
            if x != y:
                result[x[1], y[1]] = _alignment(value, hsics[x, x], hsics[y, y])
        return result


# Moments and the two values that follow from them


class _Frame(NamedTuple):
    """Where the channels of a batch are and how large: samples are multiplied as (x - mean) / scale.

    Taking the first sample off before the mean makes constant channels exactly 0. Without a scale products of small
    and of large numbers would leave single precision.
    """

    mean: Tensor  # (p,) float64
    scale: Tensor  # (p,) float64, powers of 2, so that nothing is rounded
    dtype: torch.dtype  # in which is multiplied

    @classmethod
    def of(cls, x: Tensor, dtype: torch.dtype) -> _Frame:
        """Of samples (n, p) or maps (n, p, h, w)."""
        wide = torch.promote_types(x.dtype, dtype)
        first = _rows(x[:1])[0].to(wide)
        others = [0, *range(2, x.ndim)]
        total, largest = torch.zeros_like(first, dtype=torch.float64), torch.zeros_like(first)
        for part in x.split(max(1, CHUNK // x[0].numel())):
            moved = part.to(wide) - first.view(-1, *[1] * (x.ndim - 2))
            total += moved.sum(others)
            largest = largest.maximum(moved.abs_().amax(others))
        mean = first.double() + total / x[:, 0].numel()
        exponent = torch.frexp(largest).exponent.clamp(-126, 126)  # so that float32 holds the inverse as well
        return cls(mean, torch.ldexp(torch.ones_like(mean), exponent), dtype)

    def of_one_scale(self) -> _Frame:
        return self._replace(scale=self.scale.max())

    def centred(self, x: Tensor, unbiased: bool) -> _Centred:
        rows, largest = _moved(x, *self), self.scale.max()
        weights = (self.scale / largest).square()[:, None].to(self.dtype)
        norms = _turned(rows.square() @ weights[:, : int(unbiased)])
        rows = _turned(rows)
        return _Centred(self, rows, rows.square().sum(0).double(), norms)


class _Centred(NamedTuple):
    """Samples in their frame, each with its squared length in units of the largest scale."""

    frame: _Frame
    rows: Tensor  # (n, p)
    squares: Tensor  # (p,) sums over samples
    norms: Tensor  # (n, k), k = 1 for the unbiased form, which alone takes them, or else 0


def _moved(x: Tensor, mean: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Samples (n, p) centred in double precision, be it in two steps of single, and by ``scale``."""
    wide = torch.promote_types(x.dtype, dtype)
    high = mean.to(wide)
    return (x - high).mul_((1 / scale).to(wide)).sub_(((mean - high) / scale).to(wide)).to(dtype)


def _turned(x: Tensor) -> Tensor:
    """Single precision with each row of the first half turned with one of the second, by an angle of its own. X^T Y
    stays as it is, but terms that were equal, as of classes or codes, are not, and no longer all round the same way."""
    if x.dtype != torch.float32:
        return x
    half, turned = len(x) // 2, torch.empty_like(x)
    angle = torch.arange(half, dtype=torch.float64, device=x.device)[:, None] * 2.4  # incommensurable with a turn
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[:half], x[half : 2 * half]
    torch.mul(first, cos, out=turned[:half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=turned[half : 2 * half]).addcmul_(first, sin)
    turned[2 * half :] = x[2 * half :]
    return turned


class _Sums:
    """What becomes moments, of chunks in the same frames."""

    def __init__(self, x: _Frame, y: _Frame, unbiased: bool):
        self.frames, self.n, zeros, k = (x, y), 0, x.mean.new_zeros, int(unbiased)
        p, q = len(x.mean), len(y.mean)
        self.xx, self.yy, self.xy = zeros(p), zeros(q), zeros(p, q)
        self.ab, self.bx, self.ay = zeros(k, k), zeros(k, p), zeros(k, q)

    def add(self, x: _Centred, y: _Centred) -> _Sums:
        self.n += len(x.rows)
        self.xx += x.squares
        self.yy += y.squares
        _add_product(self.xy, x.rows, y.rows)
        self.ab += x.norms.T @ y.norms
        self.bx += y.norms.T @ x.rows
        self.ay += x.norms.T @ y.rows
        return self

    def moments(self) -> _Moments:
        """In the units of the features."""
        (mean_x, x, _), (mean_y, y, _) = self.frames
        a, b = x.max().square(), y.max().square()
        xy = _whole(self.xy) if self.frames[0] is self.frames[1] else self.xy
        xy.mul_(x[:, None]).mul_(y)
        fourth = self.ab * a * b, self.bx * b * x, self.ay * a * y
        return _Moments(self.n, mean_x, mean_y, self.xx * x.square(), self.yy * y.square(), xy, *fourth)


@dataclass(frozen=True)
class _Moments:
    """Sums over n pairs of centred samples x (p,) and y (q,), with a = |x|^2 and b = |y|^2, each k numbers, 1 or 0."""

    n: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor  # (p,) sum of x^2
    yy: Tensor  # (q,) sum of y^2
    xy: Tensor  # (p, q) sum of x y^T
    ab: Tensor  # (k, k) sum of a b
    bx: Tensor  # (k, p) sum of b x
    ay: Tensor  # (k, q) sum of a y

    def __add__(self, other: _Moments) -> _Moments:
        """Moments of both sets together (Chan et al. 1979): taken about the common mean, the sums add up."""
        _check_channels(tuple(self.xy.shape), tuple(other.xy.shape))
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
            self.ab - 2 * (self.bx @ d + self.ay @ e) + dd * b + ee * a + 4 * (d @ xe) + n * dd * ee,
            self.bx - 2 * xe - (b + n * ee) * d,
            self.ay - 2 * dy - (a + n * dd) * e,
        )

    def terms(self) -> Tensor:
        """What HSIC takes beside n, (4,): ||Y^T X||_F^2, and the sums of a b, of a and of b."""
        return torch.stack([self.xy.square().sum(), self.ab.sum(), self.xx.sum(), self.yy.sum()])


def _moments(
    x: Tensor, y: Tensor, sides: Sequence[tuple[int, int]], dtype: torch.dtype, unbiased: bool
) -> list[_Moments]:
    """Moments of samples (n, p) and (n, q), or of maps, for each pair of sides: 0 is x, 1 is y."""
    frames = _Frame.of(x, dtype), _Frame.of(y, dtype)
    sums = [_Sums(frames[i], frames[j], unbiased) for i, j in sides]
    images = max(1, CHUNK // (x[0].numel() + y[0].numel()), BLOCK * len(x) // x[:, 0].numel())
    for parts in zip(x.split(images), y.split(images), strict=True):
        centred = [frame.centred(_rows(part), unbiased) for frame, part in zip(frames, parts, strict=True)]
        for (i, j), total in zip(sides, sums, strict=True):
            total.add(centred[i], centred[j])
    return [total.moments() for total in sums]


def _hsics(moments: Sequence[_Moments], unbiased: bool) -> list[float]:
    """HSIC of each, with one transfer from the device."""
    terms = torch.stack([m.terms() for m in moments]).tolist()
    return [_hsic(m.n, unbiased, *row) for m, row in zip(moments, terms, strict=True)]


def _merged(old: _Moments | None, new: _Moments) -> _Moments:
    return new if old is None else old + new


def _hsic(n: int, unbiased: bool, cross: float, ab: float, a: float, b: float) -> float:
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


def _linear_cka(x: Tensor, y: Tensor, unbiased: bool) -> float:
    """CKA of samples (n, p) and (n, q), or of maps, on the side that takes fewer products: n^2 (p + q) / 2 on that of
    K = X X^T and L = Y Y^T, as ||Y^T X||_F^2 = sum K * L, or n (p + q)^2 / 2 on that of X^T X, Y^T X and Y^T Y."""
    n = x[:, 0].numel()
    _check_enough(n, 4 if unbiased else 2)
    if n < x.shape[1] + y.shape[1]:
        grams = [_gram(_rows(side), _arithmetic(x, y)) for side in (x, y)]
        terms = torch.stack([_gram_terms(grams[i], grams[j]) for i, j in SIDES])
    else:
        terms = torch.stack([m.terms() for m in _moments(x, y, SIDES, _arithmetic(x, y), unbiased)])
    table = terms.tolist()
    hsics = [_hsic(n, unbiased, *row) for row in table]
    if _arithmetic(x, y) == torch.float32 and any(
        value < SHAKY * (cross - ab) for value, (cross, ab, _, _) in zip(hsics[1:], table[1:], strict=True)
    ):
        return _linear_cka(x.double(), y.double(), unbiased)
    return _alignment(*hsics)


def _gram(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Inner products (n, n) of centred samples, in units of the largest channel."""
    mean, scale, _ = _Frame.of(x, dtype).of_one_scale()
    total = mean.new_zeros(len(x), len(x))
    width = max(BLOCK, CHUNK // len(x))
    for part, of_part in zip(x.split(width, 1), mean.split(width), strict=True):
        columns = _turned(_moved(part, of_part, scale, dtype).T)
        _add_product(total, columns, columns)
    return _whole(total)


def _gram_terms(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    a, b = k.diagonal(), l.diagonal()
    return torch.stack([k.flatten() @ l.flatten(), a @ b, a.sum(), b.sum()])


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add X^T Y of (n, p) and (n, q) to a float64 matrix, of one tensor with itself from the diagonal on."""
    for i in range(0, x.shape[1], PANEL):
        left, right, panel = x[:, i : i + PANEL], y, total[i : i + PANEL]
        if x is y:
            right, panel = y[:, i:], panel[:, i:]
        if x.dtype == torch.float64 or min(left.shape[1], right.shape[1]) < NARROW:
            panel.addmm_(left.T.double(), right.double())
        else:
            _add_single(panel, left, right)


def _add_single(total: Tensor, x: Tensor, y: Tensor) -> None:
    part = torch.empty_like(total, dtype=x.dtype)
    with _full_precision(x.device.type):
        for x_block, y_block in zip(x.split(BLOCK), y.split(BLOCK), strict=True):
            for i, (a, b) in enumerate(zip(x_block.split(STEP), y_block.split(STEP), strict=True)):
                part.addmm_(a.T, b, beta=min(i, 1))
            total += part


def _whole(upper: Tensor) -> Tensor:
    """The symmetric matrix of which ``_add_product`` has made the panels from the diagonal on, in place."""
    for i in range(PANEL, len(upper), PANEL):
        upper[i:, i - PANEL : i] = upper[i - PANEL : i, i:].T
    return upper


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Products of float32 are such: neither TF32 nor bfloat16, whatever is allowed outside."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(allowed)


def _arithmetic(*sides: Tensor) -> torch.dtype:
    """float64 if one of them is, or else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in sides) else torch.float32


def _joined(batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One batch as it is, several as samples (n, p) and (n, q)."""
    if len(batches) == 1:
        return batches[0]
    x, y = (torch.cat([_rows(side) for side in sides]) for sides in zip(*batches, strict=True))
    return x, y


def _add_pairs(moments: dict[tuple, _Moments], a: list[Tensor], b: list[Tensor], pooled: bool, unbiased: bool) -> None:
    """Add a batch of layer outputs to the moments of each layer with itself and with each layer of the other network.

    Keys are pairs of (network, layer, grid): a layer counts anew on each grid on which it is compared.
    """
    dtype = torch.float64 if unbiased else _arithmetic(*a, *b)
    images = max(1, 32 * CHUNK // sum(x[0].numel() for x in [*a, *b]))  # of all layers: many small products
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
                    averaged = _averaged(side, grid)
                    centred[key] = _Frame.of(averaged, dtype).centred(_rows(averaged), unbiased)
                    _extend(moments, (key, key), centred, unbiased)
            _extend(moments, keys, centred, unbiased)


def _extend(moments: dict[tuple, _Moments], keys: tuple, centred: dict[tuple, _Centred], unbiased: bool) -> None:
    x, y = (centred[key] for key in keys)
    moments[keys] = _merged(moments.get(keys), _Sums(x.frame, y.frame, unbiased).add(x, y).moments())


def _neighbours(x: Tensor, start: int, chunk: int, k: int) -> Tensor:
    """Indices (chunk, k) of the samples nearest to those from ``start`` on."""
    distances = torch.addmm(x.square().sum(1), x[start : start + chunk], x.T, alpha=-2)  # less |x|^2, equal in a row
    distances.diagonal(start).fill_(math.inf)
    return distances.topk(k, largest=False).indices


# Shapes and what is checked of them


def _grid(x: Tensor) -> tuple[int, int]:
    return (x.shape[2], x.shape[3]) if x.ndim == 4 else (1, 1)


def _rows(x: Tensor) -> Tensor:
    """(n, c) or (n, c, h, w) as samples (n, c) or (n * h * w, c)."""
    return x.flatten(2).movedim(1, 2).flatten(0, 1) if x.ndim == 4 else x


def _averaged(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps averaged in float64 to a coarser height and width."""
    return x if _grid(x) == grid else F.adaptive_avg_pool2d(x.double(), grid)


def _batches(images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if isinstance(images, Tensor):
        images = images.chunk(math.ceil(len(images) / batch_size)) if len(images) else ()
    shape = None
    for batch in images:
        _check_shape("images", batch, SHAPES)
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


def _as_map(x: Tensor) -> Tensor:
    """Tokens (n, t, c) as a map (n, c, t, 1): each is a position; all else as it is."""
    return x.movedim(1, 2).unsqueeze(3) if x.ndim == 3 else x


def _paired(x: Tensor, y: Tensor, flatten: bool = False) -> tuple[Tensor, Tensor]:
    """Samples (n, p) and (n, q), or maps of one grid, of either side; their values are not looked at."""
    _check_shape("x", x, SHAPES)
    _check_shape("y", y, SHAPES)
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


def _check(name: str, x: Tensor, shapes: dict[int, str]) -> None:
    _check_shape(name, x, shapes)
    _Extent().add(name, x).check()


def _check_shape(name: str, x: Tensor, shapes: dict[int, str]) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"{name}: must be a floating-point tensor, got {described(x)}")
    if x.ndim not in shapes:
        raise ValueError(f"{name}: must be {' or '.join(shapes.values())}, got shape {tuple(x.shape)}")
    if not x.numel():
        raise ValueError(f"{name}: must not be empty, got shape {tuple(x.shape)}")


class _Extent:
    """How far values lie from 0, by name, which says whether they can be worked with. On a CPU that is asked of each
    batch, elsewhere once of all: the answer stays on the device until then, and no batch waits for it."""

    def __init__(self):
        self._seen: dict[str, tuple[Tensor, float]] = {}

    def add(self, name: str, x: Tensor) -> _Extent:
        low, high = x.detach().aminmax()  # NaN wins both, and each maximum below; no copy of x, as x.isfinite() takes
        seen, most = torch.maximum(-low, high).double(), LARGEST if x.dtype == torch.float64 else LARGEST_SINGLE
        if x.device.type == "cpu":
            _check_extent(name, seen.item(), most)
        before, least = self._seen.get(name, (seen, most))
        self._seen[name] = before.maximum(seen), min(least, most)
        return self

    def check(self) -> None:
        if self._seen:
            extents = torch.stack([seen for seen, _ in self._seen.values()]).tolist()
            for (name, (_, most)), extent in zip(self._seen.items(), extents, strict=True):
                _check_extent(name, extent, most)


def _check_extent(name: str, extent: float, most: float) -> None:
    if not math.isfinite(extent):
        raise ValueError(f"{name}: must be finite, got NaN or infinite values")
    if extent > most or 0 < extent < 1 / LARGEST:
        raise ValueError(
            f"{name}: the largest magnitude must lie within {1 / LARGEST:g} .. {most:g}, so that its fourth power and "
            f"sums are numbers, got {extent:g}; scale it first"
        )


def _check_channels(before: tuple[int, ...], now: tuple[int, ...]) -> None:
    if before != now:
        raise ValueError(f"x, y: earlier batches had {before} channels, all must have them, got {now}")


def _check_enough(n: int, least: int) -> None:
    if n < least:
        raise _too_few(n, least)


def _too_few(n: int, least: int) -> ValueError:
    return ValueError(f"x, y: at least {least} samples are needed{' if unbiased' * (least == 4)}, got {n}")
