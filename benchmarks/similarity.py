"""What CKA and cross-correlation take, ours against torch_cka, pytorch-cka and plain code. Every ratio is of this run.

    pip install torch-cka pytorch-cka  # not requirements of ours; they need matplotlib, tqdm and torchvision too
    python -m benchmarks similarity [--quick]

torch_cka (0.21) puts hooks on two networks and averages HSIC_1 of n x n Gram matrices over the batches of a data
loader. Here both networks are an identity and the loader hands on the features as they are, so that no network and no
collation is timed. One batch of all samples is the only one for which it computes what we compute, the unbiased CKA of
the whole set; in batches of 256, its usual way, it is an estimate with bias that multiplies a fifth of the pairs of
samples, so nothing is promised there.

pytorch-cka (1.1.3) does the same for every pair of layers of two networks, here two ResNet-20 that run on the images.
It does not centre features before it multiplies them in single precision, so its error is stated beside its time. What
it computes in one batch ours computes in batches of any size.

Plain code is the formula in the fewest lines of torch, in float32 and in float64.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from compatkit import models
from compatkit.layers import cka_map, layer_names
from compatkit.similarity import CKA, cross_correlation, linear_cka

from .harness import Row, compared, measured, missing, peak_mib

BATCH = 256
BOUND = 1e-6  # of the error of single precision
PEERS = "torch_cka", "cka", "matplotlib", "tqdm", "torchvision"


def feature_pair(n: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Two related sets of features (n, *shape) with means far from 0, as after a ReLU."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, *shape, generator=g), torch.randn(n, *shape, generator=g)
    y += x.roll(1, 1)
    return x.relu_(), y.relu_()


def torch_cka(x: Tensor, y: Tensor, batch: int) -> float:
    """The library's value, of whole batches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_cka import CKA as Theirs

        def loader(features: Tensor) -> DataLoader:
            whole = features[: len(features) // batch * batch]
            return DataLoader(TensorDataset(whole.unflatten(0, (-1, batch))), batch_size=None)

        names = {"model1_name": "x", "model2_name": "y", "model1_layers": ["0"], "model2_layers": ["0"]}
        cka = Theirs(nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity()), **names)
        with redirect_stderr(io.StringIO()), torch.no_grad():  # its progress bar
            cka.compare(loader(x), loader(y))
    return cka.export()["CKA"].item()


def plain_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return ((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def plain_correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(0), y - y.mean(0)
    return x.T @ y / x.norm(dim=0).outer(y.norm(dim=0))


def streamed(x: Tensor, y: Tensor) -> float:
    cka = CKA(unbiased=True, flatten=True)
    for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True):
        cka.update(a, b)
    return cka.compute()


def against_torch_cka(quick: bool) -> list[Row]:
    x, y = feature_pair(1000, *((4, 8, 8) if quick else (64, 16, 16)))
    rounds, shape = 2 if quick else 5, " x ".join(map(str, x.shape))
    whole = partial(linear_cka, x, y, unbiased=True, flatten=True)
    in_batches = partial(torch_cka, x, y, BATCH)
    value, estimate = whole(), in_batches()
    estimated = f"an estimate: {estimate:.4f} for {value:.4f}"
    equal = f"ours is that of the whole set, equal to {abs(streamed(x, y) - value):.0e}"
    features = feature_pair(500 if quick else 3000, 512)
    wide, theirs = partial(linear_cka, *features, unbiased=True), partial(torch_cka, *features, len(features[0]))
    both = partial(streamed, x, y)
    return [
        compared(f"{shape}, one batch", whole, partial(torch_cka, x, y, len(x)), 1.25, rounds=rounds),
        compared(f"{shape}, batches of {BATCH}", whole, in_batches, rounds=rounds, note=estimated),
        compared(f"{shape}, both in batches of {BATCH}", both, in_batches, rounds=rounds, note=equal),
        compared(f"{_by(features[0])}, one batch", wide, theirs, 5, rounds=2 if quick else 3),
    ]


def map_of_layers(quick: bool) -> list[Row]:
    from cka import CKA as Theirs

    a, b = (models.build("resnet8" if quick else "resnet20", 10, seed=seed).eval() for seed in (0, 1))
    images = torch.randn(64 if quick else 512, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = {"unbiased": True, "flatten": True, "statistics": "running"}

    def ours(batch: int = len(images)) -> Tensor:
        return cka_map(a, b, images, batch_size=batch, **options)[2]

    def theirs(batch: int = len(images)) -> Tensor:
        with Theirs(a, b, layer_names(a), device="cpu") as cka:
            return cka._compare(images.split(batch), progress=False)

    exact = cka_map(a.double(), b.double(), images, **options)[2]
    a.float(), b.float()
    own, other = ((found() - exact).abs().max().item() for found in (ours, theirs))
    what, rounds = f"{len(images)} images, all layers of two {'ResNet-8' if quick else 'ResNet-20'}", 2 if quick else 5
    errors, quarter = f"error {own:.0e}, of pytorch-cka {other:.0e}", len(images) // 4
    estimate = "theirs is a mean over batches, of a quarter of the pairs of images; ours that of the whole set"
    parts = partial(ours, quarter)
    return [
        compared(what, parts, theirs, rounds=rounds, note=f"ours in batches of {quarter}; {errors}"),
        compared(f"{what}, one batch", ours, theirs, 1, rounds=rounds, note="of both"),
        compared(f"{what}, batches of {quarter}", parts, partial(theirs, quarter), rounds=rounds, note=estimate),
    ]


def against_plain(quick: bool) -> list[Row]:
    rounds = 2 if quick else 9
    x, y = feature_pair(1000 if quick else 10_000, 512)
    u, v = feature_pair(500 if quick else 4000, 256 if quick else 2048)
    cka, in_doubles = partial(linear_cka, x, y), partial(plain_cka, x.double(), y.double())
    correlation, plain = partial(cross_correlation, u, v), partial(plain_correlation, u, v)
    return [
        compared(f"CKA {_by(x)}, plain float32", cka, partial(plain_cka, x, y), 0.9, rounds=rounds),
        compared(f"CKA {_by(x)}, plain float64", cka, in_doubles, 2, rounds=rounds),
        _within("CKA", linear_cka, plain_cka, x, y),
        compared(f"correlation {_by(u)}, plain float32", correlation, plain, 0.8, rounds=rounds),
        _within("correlation", cross_correlation, plain_correlation, u, v),
    ]


def _within(what: str, ours: Callable, plain: Callable, x: Tensor, y: Tensor) -> Row:
    exact, found, theirs = (
        torch.as_tensor(value, dtype=torch.float64)
        for value in (plain(x.double(), y.double()), ours(x, y), plain(x, y))
    )
    error, other = ((value - exact).abs().max().item() for value in (found, theirs))
    note = f"error {error:.0e}, of plain float32 {other:.0e}"
    return measured(f"{what}: {BOUND:g} / error", [BOUND / error], least=1, note=note)


def memory(quick: bool) -> list[Row]:
    n = 2000 if quick else 10_000
    once, more = (peak_mib(feature_pair, linear_cka, size, 512) for size in (n, 4 * n))
    note = f"{once:.0f} MiB for {n} x 512, {more:.0f} MiB for {4 * n}: bounded by the chunk"
    return [measured("memory of ours, of a quarter / of all", [once / more], least=0.5, note=note)]


def measure(quick: bool = False) -> list[Row]:
    if absent := missing(*PEERS):
        against_others = [Row("others / ours", note=f"{absent} missing: pip install torch-cka pytorch-cka")]
    else:
        against_others = [*against_torch_cka(quick), *map_of_layers(quick)]
    return [*against_others, *against_plain(quick), *memory(quick)]


def _by(x: Tensor) -> str:
    return f"{x.shape[0]} x {x.shape[1]}"
