"""What similarity is computed from: samples that were checked, sums of products of centred ones, and HSIC.

Where an input is float64 everything is. Others are centred about a mean that is summed in double precision, multiplied
in blocks in single precision, which is 2 times as fast on a CPU and up to 64 times on a GPU, and the blocks are added
up in double. So an offset costs no accuracy, and what follows from the sums is within 1e-6 of its value in exact
arithmetic, or 3e-6 (1e-5 above a thousand channels) where these take so few values that products round the same way.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .devices import described

CHUNK = 2**20  # values worked on at a time, which a cache holds: 4 MiB of float32
BLOCK = 256  # samples whose products are summed in single precision, before the sum goes on in double
NARROW, STEP = 64, 64  # of fewer channels BLAS may add up one product after another, so fewer are summed
WIDE = 1024  # terms summed where a sum in double costs more: of many channels, and of inner products of samples
PANEL = 64  # columns at a time: of a symmetric product only the panels from the diagonal on are computed
CANCELLED = 1e-6  # what is this small beside the terms that it is the difference of is rounding
SHAPES = {2: "(n, channels)", 3: "(n, tokens, channels)", 4: "(n, channels, height, width)"}
LARGEST = {torch.float32: 1e15, torch.float64: 1e70}  # sums of squares, and in float64 fourth powers, are numbers

Sides = Mapping[Any, Tensor]
"""Samples (n, p), or maps (n, p, h, w) of one height and width, of the same images, by key; p may differ."""


def arithmetic(*sides: Tensor) -> torch.dtype:
    """float64 if one of them is, or else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in sides) else torch.float32


def rows(x: Tensor) -> Tensor:
    """(n, c) or (n, c, h, w) as samples (n, c) or (n * h * w, c)."""
    return x.flatten(2).movedim(1, 2).flatten(0, 1) if x.ndim == 4 else x


class Moments:
    """Sums over the samples of two sides, about an origin near their means, and moments about the means from them."""

    def __init__(self):
        self.n, self._seen = 0, Seen()
        self._origins: dict[Any, Tensor] = {}
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch of samples, maps or tokens."""
        x, y = paired(x, y)
        sides, dtype = {"x": x, "y": y}, arithmetic(x, y)
        self._seen.add(sides, dtype)
        for chunk in _centred(sides, self._origins, dtype):
            x, y = chunk["x"], chunk["y"]
            if not self._sums:
                self._sums = [x.new_zeros(p, dtype=torch.float64) for p in (x.shape[1], y.shape[1]) * 2]
                self._sums.append(x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64))
            self.n += len(x)
            for total, part in zip(
                self._sums, (x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0)), strict=False
            ):
                total += part
            _add_product(self._sums[-1], x, y)

    def about_means(self) -> tuple[Tensor, Tensor, Tensor]:
        """X^T Y (p, q), and the sums of squares (p,) and (q,), all float64.

        Raises:
            ValueError: fewer than 2 samples, or not all finite.
        """
        self._seen.check()
        check_enough(self.n, 2)
        x, y, xx, yy, xy = self._sums
        return xy - x.outer(y) / self.n, xx - x.square() / self.n, yy - y.square() / self.n


class Kernels:
    """HSIC of two linear kernels, for pairs of sides that hold the same samples.

    HSIC is <K, L> of the inner products K, L (n, n) of samples, which is less work while they are fewer than the
    channels of two sides, and they are kept meanwhile; from then on it follows from products of channels.

    Args:
        pairs: of keys.
        unbiased: HSIC_1 of Song et al. 2012 in place of the biased form.
    """

    def __init__(self, pairs: Sequence[tuple[Any, Any]], unbiased: bool):
        self.n = 0
        self._unbiased, self._pairs = unbiased, pairs
        self._selves = [(key, key) for key in dict.fromkeys(key for pair in pairs for key in pair)]
        self._channels: dict[Any, int] = {}
        self._kept: list[Sides] = []
        self._origins: dict[Any, Tensor] = {}
        self._sums: dict[Any, Tensor] = {}  # of a side by its key, of products by a pair of keys

    def add(self, sides: Sides) -> None:
        """Add a batch, which is kept and must not change."""
        self._channels = {key: x.shape[1] for key, x in sides.items()}
        self._kept.append(sides)
        self.n += next(iter(sides.values()))[:, 0].numel()
        if self.n >= max(self._channels[i] + self._channels[j] for i, j in self._pairs):
            self._fold()

    def alignments(self) -> dict[tuple[Any, Any], Tensor]:
        """HSIC of each pair by the root of those of both with themselves; 0 where one of these is."""
        if self._sums:
            self._fold()
        hsic = self._by_channels() if self._sums else self._by_samples()
        return {(i, j): ratio(hsic[i, j], hsic[i, i], hsic[j, j]) for i, j in self._pairs}

    def warn_of_width(self) -> None:
        """Warn where unrelated features would score far above 0 for their width alone."""
        widest = max(self._channels.values())
        if not self._unbiased and widest > self.n / 4:
            warnings.warn(
                f"biased CKA of {widest} channels and {self.n} samples is far from 0 for unrelated features; compare "
                "it with its permutation_test, or take unbiased=True",
                stacklevel=4,
            )

    def _fold(self) -> None:
        """Put what was kept among the sums. Those of HSIC_1 may cancel, and are in double precision."""
        for sides in self._kept:
            dtype = torch.float64 if self._unbiased else arithmetic(*sides.values())
            for chunk in _centred(sides, self._origins, dtype):
                if self._unbiased:
                    chunk = {key: torch.cat([x, x.square().sum(1, keepdim=True)], 1) for key, x in chunk.items()}
                for key, x in chunk.items():
                    self._sum(key, len(x.T)).add_(x.sum(0))
                for i, j in [*self._pairs, *self._selves]:
                    _add_product(self._sum((i, j), len(chunk[i].T), len(chunk[j].T)), chunk[i], chunk[j])
        self._kept = []

    def _sum(self, key: Any, *size: int) -> Tensor:
        if key not in self._sums:
            self._sums[key] = next(iter(self._origins.values())).new_zeros(size, dtype=torch.float64)
        return self._sums[key]

    def _by_channels(self) -> dict[tuple[Any, Any], Tensor]:
        hsic, sums = _hsic_1 if self._unbiased else _hsic, self._sums
        found = {(i, j): hsic(self.n, sums[i, j], sums[i], sums[j]) for i, j in self._pairs}
        return found | {(i, i): hsic(self.n, _whole(sums[i, i]), sums[i], sums[i]) for i, _ in self._selves}

    def _by_samples(self) -> dict[tuple[Any, Any], Tensor]:
        keys, dtype = list(self._kept[0]), arithmetic(*(x for sides in self._kept for x in sides.values()))
        grams = torch.empty(len(keys), self.n**2, dtype=torch.float64, device=self._kept[0][keys[0]].device)
        for row, key in zip(grams, keys, strict=True):
            samples = [rows(sides[key]) for sides in self._kept]
            row.copy_(_gram(samples[0] if len(samples) == 1 else torch.cat(samples), dtype, self._unbiased).flatten())
        table = grams @ grams.T
        return {(i, j): table[keys.index(i), keys.index(j)] for i, j in [*self._pairs, *self._selves]}


def _gram(x: Tensor, dtype: torch.dtype, unbiased: bool) -> Tensor:
    """Inner products (n, n) of samples (n, p) about their mean, so that <K, L> is HSIC; float64.

    unbiased: without those of a sample with itself, and centred so that the mean of <K, L> over unrelated samples is 0:
    HSIC_1 times n (n - 3) (Song et al. 2012; Székely and Rizzo 2014).
    """
    n, total = len(x), x.new_zeros(len(x), len(x), dtype=torch.float64)
    mean = x.new_full((n,), 1 / n, dtype=dtype)  # near enough: what it leaves is taken out below
    with _full_precision(x.device.type):
        for part in x.to(dtype).split(WIDE, 1):
            columns = (part - mean @ part).T
            _add_product(total, columns, columns, WIDE)
    k = _whole(total)
    before = k.norm()
    less = 2 if unbiased else 0
    if unbiased:
        k.fill_diagonal_(0)
    sums = k.sum(0) / (n - less)
    sums -= sums.sum() / (2 * (n - less // 2))
    k.sub_(sums).sub_(sums[:, None])
    if unbiased:
        k.fill_diagonal_(0)
    return k.mul_(k.norm() > CANCELLED * before)


def _hsic(n: int, xy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """||Y^T X||_F^2 of centred samples, from sums of x y^T, of x and of y about any origin."""
    return (xy - x.outer(y) / n).square().sum()


def _hsic_1(n: int, xy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """HSIC_1 times n (n - 3), from sums of the same, where each sample has its squared length appended.

    With K~ = X X^T and L~ = Y Y^T, diagonals set to 0, it is (Song et al. 2012, Eq. 5)

        tr(K~ L~) + 1^T K~ 1 1^T L~ 1 / ((n - 1) (n - 2)) - 2 1^T K~ L~ 1 / (n - 2),

    which no origin changes. Row i of K~ has the sum x_i . sum x - a_i, a_i = |x_i|^2; with b_i = |y_i|^2 of y likewise.
    """
    xy, bx, ay, ab = xy[:-1, :-1], xy[:-1, -1], xy[-1, :-1], xy[-1, -1]
    x, a, y, b = x[:-1], x[-1], y[:-1], y[-1]
    trace = xy.square().sum() - ab
    rows_of_both = x @ xy @ y - x @ bx - ay @ y + ab
    value = trace + (x @ x - a) * (y @ y - b) / ((n - 1) * (n - 2)) - 2 * rows_of_both / (n - 2)
    return value * (value.abs() > CANCELLED**2 * (trace + ab))


def ratio(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """xy by the root of xx yy, within -1..1; 0 where that is nothing."""
    return torch.where((xx > 0) & (yy > 0), xy / (xx.sqrt() * yy.sqrt()), 0.0).clamp(-1, 1)


def _centred(sides: Sides, origins: dict[Any, Tensor], dtype: torch.dtype) -> Iterator[dict[Any, Tensor]]:
    """The samples (n, p) of a batch in chunks, each side about its origin: the mean of the first batch."""
    for key, x in sides.items():
        if key not in origins:
            # of a sample first, which makes constant channels exactly 0
            first = {key: rows(x[:1])[0].to(dtype)}
            total = sum(part[key].sum(0).double() for part in _chunks({key: x}, first, dtype))
            origins[key] = (first[key] + total / x[:, 0].numel()).to(dtype)
    yield from _chunks(sides, origins, dtype)


def _chunks(sides: Sides, origins: Mapping[Any, Tensor], dtype: torch.dtype) -> Iterator[dict[Any, Tensor]]:
    first = next(iter(sides.values()))
    widest = max(x[0].numel() for x in sides.values())
    images = max(1, CHUNK // widest, WIDE * len(first) // first[:, 0].numel())
    for parts in zip(*(x.split(images) for x in sides.values()), strict=True):
        yield {key: rows(part).to(dtype) - origins[key].to(dtype) for key, part in zip(sides, parts, strict=True)}


def _add_product(total: Tensor, x: Tensor, y: Tensor, least: int = BLOCK) -> None:
    """Add X^T Y of (n, p) and (n, q) to a float64 matrix, of one tensor with itself from the diagonal on."""
    block = max(least, min(WIDE, total.numel() // WIDE**2 * BLOCK))
    with _full_precision(x.device.type):
        if min(x.shape[1], y.shape[1]) < NARROW and len(x) >= STEP:
            whole = len(x) // STEP * STEP
            a, b = (side[:whole].unflatten(0, (-1, STEP)) for side in (x, y))
            total += (a.mT @ b).sum(0, dtype=torch.float64)
            x, y = x[whole:], y[whole:]
        for a, b in zip(x.split(block), y.split(block), strict=True):
            if x is not y:
                total += a.T @ b
                continue
            for i in range(0, x.shape[1], PANEL):
                total[i : i + PANEL, i:] += a[:, i : i + PANEL].T @ a[:, i:]


def _whole(upper: Tensor) -> Tensor:
    """The symmetric matrix of which ``_add_product`` has made the panels from the diagonal on."""
    return upper.triu() + upper.triu(1).T


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


# What is checked


def paired(x: Tensor, y: Tensor, flatten: bool = False, shapes: Mapping[int, str] = SHAPES) -> tuple[Tensor, Tensor]:
    """Samples (n, p) and (n, q), or maps of one height and width, of either side; their values are not looked at.

    Raises:
        ValueError: other shapes, or unequal n, or unequal height and width unless ``flatten``.
    """
    check_shape("x", x, shapes)
    check_shape("y", y, shapes)
    check_lengths(x, y)
    if flatten:
        return x.detach().flatten(1), y.detach().flatten(1)
    x, y = as_map(x.detach()), as_map(y.detach())
    if grid(x) != grid(y):
        raise ValueError(
            f"x, y: positions count as samples, so height and width must be equal, got {grid(x)} and {grid(y)}"
        )
    return x, y


def as_map(x: Tensor) -> Tensor:
    """Tokens (n, t, c) as a map (n, c, t, 1): each is a position; all else as it is."""
    return x.movedim(1, 2).unsqueeze(3) if x.ndim == 3 else x


def grid(x: Tensor) -> tuple[int, int]:
    """Height and width of maps (n, c, h, w); of samples (n, c) 1 and 1."""
    return (x.shape[2], x.shape[3]) if x.ndim == 4 else (1, 1)


def check_lengths(x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless both hold as many samples."""
    if len(x) != len(y):
        raise ValueError(f"x, y: must hold the same samples, got {len(x)} and {len(y)} of them")


def check_shape(name: str, x: Tensor, shapes: Mapping[int, str]) -> None:
    """Raise ValueError unless ``x`` is a floating-point tensor of one of these shapes, by dimensions, and not empty."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"{name}: must be a floating-point tensor, got {described(x)}")
    if x.ndim not in shapes:
        raise ValueError(f"{name}: must be {' or '.join(shapes.values())}, got shape {tuple(x.shape)}")
    if not x.numel():
        raise ValueError(f"{name}: must not be empty, got shape {tuple(x.shape)}")


def check_enough(n: int, least: int) -> None:
    """Raise ValueError if samples are too few."""
    if n < least:
        raise ValueError(f"x, y: at least {least} samples are needed{' if unbiased' * (least == 4)}, got {n}")


class Seen:
    """What was seen of each side so far: channels, and the largest magnitude. On a CPU a batch is refused for it at
    once, elsewhere ``check`` asks in the end: the answer stays on the device until then, and no batch waits for it."""

    def __init__(self):
        self._channels: dict[str, int] = {}
        self._extents: dict[str, tuple[Tensor, float]] = {}

    def add(self, sides: Mapping[str, Tensor], dtype: torch.dtype) -> Seen:
        """Add a batch, by name, that will be multiplied in this precision.

        Raises:
            ValueError: other numbers of channels than before, or values that cannot be worked with.
        """
        for name, x in sides.items():
            if (before := self._channels.get(name, x.shape[1])) != x.shape[1]:
                raise ValueError(f"{name}: earlier batches had {before} channels, all must have them, got {x.shape[1]}")
        extents = {}
        for name, x in sides.items():
            low, high = x.detach().aminmax()  # NaN wins both, and each maximum below; no copy of x, as isfinite takes
            extent, most = torch.maximum(-low, high).double(), LARGEST[dtype]
            if x.device.type == "cpu":
                _check_extent(name, extent.item(), most)
            largest, least = self._extents.get(name, (extent, most))
            extents[name] = largest.maximum(extent), min(least, most)
        self._channels |= {name: x.shape[1] for name, x in sides.items()}
        self._extents |= extents
        return self

    def check(self) -> None:
        """Raise ValueError unless all can be worked with."""
        if self._extents:
            extents = torch.stack([extent for extent, _ in self._extents.values()]).tolist()
            for (name, (_, most)), extent in zip(self._extents.items(), extents, strict=True):
                _check_extent(name, extent, most)


def _check_extent(name: str, extent: float, most: float) -> None:
    if not math.isfinite(extent):
        raise ValueError(f"{name}: must be finite, got NaN or infinite values")
    if extent > most or 0 < extent < 1 / most:
        raise ValueError(
            f"{name}: the largest magnitude must lie within {1 / most:g} .. {most:g}, so that sums of products are "
            f"numbers, got {extent:g}; scale it first"
        )
