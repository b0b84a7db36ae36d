"""Samples that are checked and centred, sums of their products, and HSIC: the ground of every similarity.

Where an input is float64 everything is. Others are centred and multiplied in blocks in single precision, and the blocks
are added up in double. So an offset costs no accuracy, and results are within 1e-6 of exact arithmetic, or 3e-6 (1e-5
above 700 channels) where samples take so few values that products round the same way.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .devices import check_tensor

CHUNK = 2**20  # values worked on at a time, which a cache holds: 4 MiB of float32
ROWS = 1024  # samples that are worked on at a time at least, or terms of an inner product
BLOCK = 512  # terms summed in single precision, before the sum goes on in double; twice as many above 700 channels
NARROW = 64  # of fewer channels BLAS may add up one product after another, so as many terms are summed
PANEL = 64  # columns at a time: of a symmetric product only the panels from the diagonal on are computed
CANCELLED = 1e-12  # what is this small beside the terms that it is the difference of is rounding
LARGEST = 1e15  # the magnitude up to which sums of squares are numbers in single precision
SHAPES = {2: "(n, channels)", 3: "(n, tokens, channels)", 4: "(n, channels, height, width)"}


class Samples:
    """Batches of representations of the same images, checked and cut into chunks of centred samples.

    Magnitudes stay on the device until ``check`` asks for them, so that no batch makes a GPU wait. ``n`` counts the
    samples so far, ``channels`` those of each side.
    """

    def __init__(self) -> None:
        self.n = 0
        self.channels: dict[str, int] = {}
        self._extents: dict[str, Tensor] = {}
        self._origins: dict[str, Tensor] = {}

    def add(self, sides: Mapping[str, Tensor]) -> None:
        """Add a batch, by name: (n, p), or maps (n, p, h, w) of one size; ValueError for other channels than before."""
        for name, x in sides.items():
            if (before := self.channels.setdefault(name, x.shape[1])) != x.shape[1]:
                raise ValueError(f"{name}: earlier batches had {before} channels, all must have them, got {x.shape[1]}")
            low, high = x.aminmax()  # NaN wins both, and each maximum below; no copy of x, as isfinite takes
            extent = torch.maximum(-low, high).double()
            self._extents[name] = extent.maximum(self._extents.get(name, extent))
        self.n += x[:, 0].numel()

    def centred(self, sides: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """A batch in chunks of samples (rows, p), each side about its mean in the first chunk of all."""
        dtype = _arithmetic(sides.values())
        widest, positions = max(x[0].numel() for x in sides.values()), max(x[0, 0].numel() for x in sides.values())
        images = max(1, CHUNK // widest, ROWS // positions)
        for parts in zip(*(x.split(images) for x in sides.values()), strict=True):
            chunk = {name: _rows(part).to(dtype) for name, part in zip(sides, parts, strict=True)}
            self._origins = self._origins or {name: near_mean(x) for name, x in chunk.items()}
            yield {name: x - self._origins[name] for name, x in chunk.items()}

    def check(self, least: int) -> None:
        """Raise ValueError unless the samples are enough, all finite, and of magnitudes that can be squared."""
        if self.n < least:
            raise ValueError(f"at least {least} samples are needed{' if unbiased' * (least == 4)}, got {self.n}")
        for name, extent in zip(self._extents, torch.stack([*self._extents.values()]).tolist(), strict=True):
            if not math.isfinite(extent):
                raise ValueError(f"{name}: must be finite, got NaN or infinite values")
            if extent > LARGEST or 0 < extent < 1 / LARGEST:
                limits = f"{1 / LARGEST:g} .. {LARGEST:g}"
                raise ValueError(f"{name}: magnitudes must lie within {limits}, got {extent:g}; scale it first")


class Kernels:
    """HSIC of two linear kernels, for ``pairs`` of sides that hold the same samples; unbiased: HSIC_1 of Song et al.
    2012.

    It follows from the inner products K, L (n, n) of samples, which is less work while they are fewer than the channels
    of two sides, and copies are kept meanwhile; from then on from the products of channels.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], unbiased: bool):
        self.samples, self.pairs, self.unbiased = Samples(), pairs, unbiased
        self.names = list(dict.fromkeys(name for pair in pairs for name in pair))
        self._products = [*pairs, *((name, name) for name in self.names)]
        self._kept: list[Mapping[str, Tensor]] = []
        self._sums: dict[str | tuple[str, str], Tensor] = {}  # of a side by its name, of products by a pair of names

    def add(self, sides: Mapping[str, Tensor], *, copy: bool) -> None:
        """Add a batch, as to ``Samples``. Without ``copy`` it must not change later."""
        self.samples.add(sides)
        self._kept.append(sides)
        if self.samples.n >= max(sum(map(self.samples.channels.__getitem__, pair)) for pair in self.pairs):
            self._fold()
        elif copy:
            self._kept[-1] = {name: x.clone() for name, x in sides.items()}

    def alignments(self) -> dict[tuple[str, str], Tensor]:
        """HSIC of each pair by the root of those of both with themselves; 0 where one of these is."""
        self.samples.check(4 if self.unbiased else 2)
        hsic = self._by_channels() if self._sums else self._by_samples()
        return {(i, j): ratio(hsic[i, j], hsic[i, i], hsic[j, j]) for i, j in self.pairs}

    def _fold(self) -> None:
        """Put what was kept among the sums."""
        for chunk in (chunk for sides in self._kept for chunk in self.samples.centred(sides)):
            if self.unbiased:  # sums that may cancel are in double, and have squared lengths beside the channels
                double = {name: x.double() for name, x in chunk.items()}
                chunk = {name: torch.cat([x, x.square().sum(1, True)], 1) for name, x in double.items()}
            if not self._sums:
                self._sums.update((name, torch.zeros_like(x[0], dtype=torch.float64)) for name, x in chunk.items())
                self._sums.update(((i, j), self._sums[i].outer(self._sums[j])) for i, j in self._products)
            for name, x in chunk.items():
                self._sums[name] += x.sum(0)
            for i, j in self._products:
                add_product(self._sums[i, j], chunk[i], chunk[j])
        self._kept = []

    def _by_channels(self) -> dict[tuple[str, str], Tensor]:
        n, found = self.samples.n, {}
        for i, j in self._products:
            x, y, xy = self._sums[i], self._sums[j], self._sums[i, j]
            xy = _whole(xy) if i == j else xy
            if not self.unbiased:
                found[i, j] = (xy - x.outer(y) / n).square().sum()
                continue
            # row i of K less its diagonal has the sum x_i . sum x - a_i, with a_i = |x_i|^2
            x, a, y, b = x[:-1], x[-1], y[:-1], y[-1]
            xy, bx, ay, ab = xy[:-1, :-1], xy[:-1, -1], xy[-1, :-1], xy[-1, -1]
            rows = x @ xy @ y - x @ bx - ay @ y + ab
            found[i, j] = _hsic_1(n, xy.square().sum(), ab, rows, (x @ x - a) * (y @ y - b))
        return found

    def _by_samples(self) -> dict[tuple[str, str], Tensor]:
        n, kept = self.samples.n, [{name: _rows(x) for name, x in sides.items()} for sides in self._kept]
        dtype = _arithmetic(x for sides in kept for x in sides.values())
        grams = kept[0][self.names[0]].new_zeros(len(self.names), n, n, dtype=torch.float64)
        for gram, name in zip(grams, self.names, strict=True):
            for columns in zip(*(sides[name].split(ROWS, 1) for sides in kept), strict=True):
                terms = (torch.cat(columns) if len(columns) > 1 else columns[0]).to(dtype)
                terms = (terms - near_mean(terms)).T
                add_product(gram, terms, terms)
            gram.copy_(_whole(gram))
        flat, diagonals, rows = grams.flatten(1), grams.diagonal(dim1=1, dim2=2), grams.sum(2)
        if self.unbiased:
            rows = rows - diagonals
        whole, both, totals = flat @ flat.T, rows @ rows.T, rows.sum(1)
        if self.unbiased:
            table = _hsic_1(n, whole, diagonals @ diagonals.T, both, totals.outer(totals))
        else:
            table = whole - 2 / n * both + totals.outer(totals) / n**2  # less what rounding has left of the means
        return {(i, j): table[self.names.index(i), self.names.index(j)] for i, j in self._products}


def _hsic_1(n: int, whole: Tensor, diagonal: Tensor, rows: Tensor, totals: Tensor) -> Tensor:
    """n (n - 3) HSIC_1 = tr(K~ L~) + 1^T K~ 1 1^T L~ 1 / ((n - 1) (n - 2)) - 2 1^T K~ L~ 1 / (n - 2), where K~ and L~
    are K and L with diagonals set to 0 (Song et al. 2012, Eq. 5; no origin changes it).

    whole: tr(K L). diagonal: of it what K and L have on their diagonals. rows: 1^T K~ L~ 1. totals: 1^T K~ 1 1^T L~ 1.
    """
    value = whole - diagonal + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
    return value * (value.abs() > CANCELLED * whole)


def ratio(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """xy by the root of xx yy, within -1..1; 0 where that is nothing."""
    return torch.where((xx > 0) & (yy > 0), xy / (xx.sqrt() * yy.sqrt()), 0.0).clamp(-1, 1)


def add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add X^T Y of (n, p) and (n, q) to a float64 matrix, of one tensor with itself from the diagonal on."""
    with _full_precision(x.device.type):
        if min(x.shape[1], y.shape[1]) < NARROW:
            steps = len(x) // NARROW * NARROW
            a, b = (side[:steps].unflatten(0, (-1, NARROW)) for side in (x, y))
            total += (a.mT @ b).sum(0, dtype=torch.float64)
            x, y = x[steps:], y[steps:]
        block = BLOCK if total.numel() < 700**2 else 2 * BLOCK
        for a, b in zip(x.split(block), y.split(block), strict=True):
            if x is not y:
                total += a.T @ b
                continue
            for i in range(0, x.shape[1], PANEL):
                total[i : i + PANEL, i:] += a[:, i : i + PANEL].T @ a[:, i:]


def _whole(upper: Tensor) -> Tensor:
    """The symmetric matrix of which ``add_product`` has made the panels from the diagonal on."""
    return upper.triu() + upper.triu(1).T


def near_mean(x: Tensor) -> Tensor:
    """The mean, about the first sample, by which constant channels become exactly 0."""
    return x[0] + (x - x[0]).mean(0)


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


def as_maps(sides: Mapping[str, Tensor], shapes: Mapping[int, str] = SHAPES) -> dict[str, Tensor]:
    """Representations of the same images, by name, as samples (n, p) or maps (n, p, h, w); tokens (n, t, c) as a map
    (n, c, t, 1). Raises ValueError for anything else, and for unequal n."""
    for name, x in sides.items():
        check_tensor(name, x, shapes)
    check_lengths(sides)
    return {name: x.detach().movedim(1, 2).unsqueeze(3) if x.ndim == 3 else x.detach() for name, x in sides.items()}


def check_lengths(sides: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless all hold as many samples."""
    (first, length), *others = ((name, len(x)) for name, x in sides.items())
    for name, other in others:
        if other != length:
            raise ValueError(f"{first}, {name}: must hold the same samples, got {length} and {other} of them")


def grid(x: Tensor) -> tuple[int, int]:
    """Height and width of maps (n, c, h, w); of samples (n, c) 1 and 1."""
    return (x.shape[2], x.shape[3]) if x.ndim == 4 else (1, 1)


def _arithmetic(sides: Iterable[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in sides) else torch.float32


def _rows(x: Tensor) -> Tensor:
    """(n, c) or (n, c, h, w) as samples (n, c) or (n * h * w, c)."""
    return x.flatten(2).movedim(1, 2).flatten(0, 1) if x.ndim == 4 else x
