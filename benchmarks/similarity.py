"""What CKA and cross-correlation take, ours against torch_cka and against plain code. Every ratio is of this run.

    pip install torch_cka        # not a requirement of ours; its imports need matplotlib, tqdm and torchvision too
    python -m benchmarks similarity [--quick]

torch_cka (0.21) puts hooks on two networks and averages HSIC_1 of n x n Gram matrices over the batches of a data
loader. Here both networks are an identity and the loader hands on the features as they are, so that no network and no
collation is timed. One batch of all samples is the only one for which it computes what we compute, the unbiased CKA of
the whole set; in batches of 256, its usual way, it is an estimate with bias that multiplies a fifth of the pairs of
samples, so nothing is promised there.

Plain code is the formula in the fewest lines of torch, in float32 and in float64.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from compatkit.similarity import CKA, cross_correlation, linear_cka

from .harness import Row, compared, missing, peak_mib, promised

BATCH = 256
BOUND = 1e-6  # of the error of single precision
PEERS = "torch_cka", "matplotlib", "tqdm", "torchvision"


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
    absent = missing(*PEERS)
    if absent:
        return [Row("unbiased CKA, torch_cka / ours", note=f"{absent} missing: pip install {' '.join(PEERS)}")]
    x, y = feature_pair(1000, *((4, 8, 8) if quick else (64, 16, 16)))
    rounds, shape = 2 if quick else 5, " x ".join(map(str, x.shape))

    def whole() -> float:
        return linear_cka(x, y, unbiased=True, flatten=True)

    def in_batches() -> float:
        return torch_cka(x, y, BATCH)

    value, estimate = whole(), in_batches()
    estimated, equal = f"an estimate: {estimate:.4f} for {value:.4f}", f"equal to {abs(streamed(x, y) - value):.0e}"
    rows, features = 500 if quick else 3000, feature_pair(500 if quick else 3000, 512)
    return [
        compared(f"{shape}, one batch", whole, lambda: torch_cka(x, y, len(x)), 1.25, rounds=rounds),
        compared(f"{shape}, batches of {BATCH}", whole, in_batches, rounds=rounds, note=estimated),
        compared(
            f"{shape}, both in batches of {BATCH}",
            lambda: streamed(x, y),
            in_batches,
            rounds=rounds,
            note=f"ours is that of the whole set, {equal}",
        ),
        compared(
            f"{rows} x 512, one batch",
            lambda: linear_cka(*features, unbiased=True),
            lambda: torch_cka(*features, rows),
            5,
            rounds=2 if quick else 3,
        ),
    ]


def against_plain(quick: bool) -> list[Row]:
    rounds = 2 if quick else 9
    x, y = feature_pair(1000 if quick else 10_000, 512)
    u, v = feature_pair(500 if quick else 4000, 256 if quick else 2048)
    return [
        compared(f"CKA {_by(x)}, plain float32", lambda: linear_cka(x, y), lambda: plain_cka(x, y), 0.8, rounds=rounds),
        compared(
            f"CKA {_by(x)}, plain float64",
            lambda: linear_cka(x, y),
            lambda: plain_cka(x.double(), y.double()),
            2,
            rounds=rounds,
        ),
        _within("CKA", linear_cka, plain_cka, x, y),
        compared(
            f"correlation {_by(u)}, plain float32",
            lambda: cross_correlation(u, v),
            lambda: plain_correlation(u, v),
            0.8,
            rounds=rounds,
        ),
        _within("correlation", cross_correlation, plain_correlation, u, v),
    ]


def _within(what: str, ours: Callable, plain: Callable, x: Tensor, y: Tensor) -> Row:
    exact, found, theirs = (
        torch.as_tensor(value, dtype=torch.float64)
        for value in (plain(x.double(), y.double()), ours(x, y), plain(x, y))
    )
    error, other = ((value - exact).abs().max().item() for value in (found, theirs))
    return Row(
        f"{what}: {BOUND:g} / error",
        BOUND / error,
        None,
        *promised(BOUND / error, 1),
        f"error {error:.0e}, of plain float32 {other:.0e}",
    )


def memory(quick: bool) -> list[Row]:
    n = 2000 if quick else 10_000
    once, more = (peak_mib(feature_pair, linear_cka, size, 512) for size in (n, 4 * n))
    ratio = once / more
    note = f"{once:.0f} MiB for {n} x 512, {more:.0f} MiB for {4 * n}: bounded by the chunk"
    return [Row("memory of ours, of a quarter / of all", ratio, None, *promised(ratio, 0.5), note)]


def measure(quick: bool = False) -> list[Row]:
    return [*against_torch_cka(quick), *against_plain(quick), *memory(quick)]


def _by(x: Tensor) -> str:
    return f"{x.shape[0]} x {x.shape[1]}"
