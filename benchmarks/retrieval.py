"""What CMC@k and mAP of 10 000 queries in a gallery of 10 000 take, ours against plain code and against libraries.

    pip install pytorch-metric-learning scikit-learn        # neither is a requirement of ours
    python -m benchmarks retrieval [--quick]

Embeddings have width 128 and 100 classes; queries and gallery are the same items, and a query does not find itself. All
compute CMC@1 and mAP@1.0, and ours the same values as each of them.

Plain code: chunks of queries, ``torch.cdist`` in float32, ``argsort``, precision at each hit; no care of ties.
pytorch-metric-learning: ``AccuracyCalculator`` with k=None and its kNN in torch, faiss being no part of the comparison.
scikit-learn: the whole matrix of distances, and ``average_precision_score`` for one query after another.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from compatkit.retrieval import evaluate

from .harness import Row, compared, measured, missing, peak_mib

WIDTH, CLASSES, CHUNK = 128, 100, 500
LARGE_MIB = 600  # that the largest set may take


def items(n: int) -> tuple[Tensor, Tensor]:
    """Embeddings (n, 128) of classes that overlap, and labels (n,)."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (n,), generator=g)
    centres = 0.5 * torch.randn(CLASSES, WIDTH, generator=g)
    return torch.randn(n, WIDTH, generator=g).add_(centres[labels]), labels


def ours(x: Tensor, labels: Tensor) -> tuple[float, float]:
    """CMC@1 and mAP@1.0, here and below."""
    scores = evaluate(x, labels, x, labels, ks=[1], same_items=True)
    return scores.cmc[1], scores.mean_ap


def plain(x: Tensor, labels: Tensor) -> tuple[float, float]:
    first, precisions, ranks = [], [], torch.arange(1, len(x))
    for i in range(0, len(x), CHUNK):
        distances = torch.cdist(x[i : i + CHUNK], x)
        distances.diagonal(i).fill_(float("inf"))
        hits = labels[distances.argsort(1)[:, :-1]] == labels[i : i + CHUNK, None]
        first.append(hits[:, 0])
        precisions.append((hits.cumsum(1) / ranks).mul_(hits).sum(1) / hits.sum(1))
    return torch.cat(first).double().mean().item(), torch.cat(precisions).mean().item()


def metric_learning(x: Tensor, labels: Tensor) -> tuple[float, float]:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    knn = CustomKNN(LpDistance(normalize_embeddings=False), batch_size=CHUNK)
    metrics = "precision_at_1", "mean_average_precision"
    calculator = AccuracyCalculator(include=metrics, k=None, device=torch.device("cpu"), knn_func=knn)
    found = calculator.get_accuracy(x, labels)
    return found["precision_at_1"], found["mean_average_precision"]


def scikit_learn(x: Tensor, labels: Tensor) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score

    scores = -torch.cdist(x, x).fill_diagonal_(float("inf")).numpy()
    relevant, first = (labels == labels[:, None]).numpy(), labels[scores.argmax(1)] == labels
    others = (np.arange(len(x)) != i for i in range(len(x)))
    precisions = [average_precision_score(relevant[i, kept], scores[i, kept]) for i, kept in enumerate(others)]
    return first.double().mean().item(), sum(precisions) / len(x)


def against(peer: Callable, n: int, least: float, rounds: int, needs: str | None = None, package: str = "") -> Row:
    what = f"CMC and mAP {n} x {n} x {WIDTH}, {peer.__name__.replace('_', ' ')}"
    if needs and missing(needs):
        return Row(what, note=f"{needs} missing: pip install {package}")
    x, labels = items(n)
    few = x[:2000], labels[:2000] % 20
    pairs = list(zip(ours(*few), peer(*few), strict=True))
    own, other = (peak_mib(items, side, n) for side in (ours, peer))
    apart = max(abs(a - b) for a, b in pairs)
    note = f"{own:.0f} against {other:.0f} MiB; of {len(few[0])} the values differ by {apart:.0e}"
    return compared(what, lambda: ours(x, labels), lambda: peer(x, labels), least, rounds=rounds, note=note)


def large(n: int) -> Row:
    used = peak_mib(items, ours, n)
    what = f"memory for {n} x {n}, {LARGE_MIB} MiB / ours"
    return measured(what, [LARGE_MIB / used], least=1, note=f"{used:.0f} MiB")


def measure(quick: bool = False) -> list[Row]:
    n, rounds = (1000, 2) if quick else (10_000, 3)
    return [
        against(plain, n, 2, 2),
        against(metric_learning, n, 6, 2, "pytorch_metric_learning", "pytorch-metric-learning"),
        against(scikit_learn, max(1000, n // 4), 4, rounds, "sklearn", "scikit-learn"),
        large(3 * n),
    ]
