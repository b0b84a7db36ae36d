"""What CMC@k and mAP of 10 000 queries in a gallery of 10 000 take, ours against the usual loop. Prints the ratios of
this run.

    pip install scikit-learn
    python benchmarks/retrieval.py [--n 10000] [--large 50000] [--device cuda]

The usual loop: the whole matrix of distances, sorted whole for CMC, and scikit-learn's ``average_precision_score`` for
one query after another. Embeddings have width 128 and 100 classes; queries and gallery are the same items, and a query
does not find itself.

1. Time and peak memory of each, above what the process held before. Promise: at least 4 times as fast, with less memory
   and the same scores.
2. Time and peak memory of ours for ``--large`` queries in as large a gallery (0: not run). Promise: under 4 GB.

Each side runs in a process of its own, ours three times in 1 (median), the usual loop once, as is 2.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compatkit.retrieval import evaluate

WIDTH, CLASSES, KS = 128, 100, (1, 5)


def items(n: int, device: str) -> tuple[Tensor, Tensor]:
    """Embeddings (n, 128) of classes that overlap, and labels (n,)."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (n,), generator=g)
    centres = 0.5 * torch.randn(CLASSES, WIDTH, generator=g)
    return (centres[labels] + torch.randn(n, WIDTH, generator=g)).to(device), labels.to(device)


def ours(x: Tensor, labels: Tensor) -> list[float]:
    scores = evaluate(x, labels, x, labels, ks=KS, same_items=True)
    return [*scores.cmc.values(), scores.mean_ap]


def usual(x: Tensor, labels: Tensor) -> list[float]:
    from sklearn.metrics import average_precision_score

    distances = torch.cdist(x, x).fill_diagonal_(float("inf"))
    hits = labels[distances.argsort(1)] == labels[:, None]
    cmc = [hits[:, :k].any(1).double().mean().item() for k in KS]
    relevant, scores = (labels == labels[:, None]).cpu().numpy(), -distances.cpu().numpy()
    precisions = [
        average_precision_score(np.delete(relevant[i], i), np.delete(scores[i], i)) for i in range(len(labels))
    ]
    return [*cmc, statistics.fmean(precisions)]


def peak_mib() -> float:
    """Highest resident memory of this process, on Linux; ``ru_maxrss`` would begin with that of its parent."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def measure(side: str, n: int, device: str, rounds: int) -> dict[str, float | list[float]]:
    """Seconds, MiB above those before, MiB on the GPU, and the scores, in the process that calls it."""
    import sklearn.metrics  # noqa: F401  what its import takes is not counted

    function = {"ours": ours, "usual": usual}[side]
    x, labels = items(n, device)
    function(x[:200], labels[:200] % 5)
    before, seconds = peak_mib(), []
    for _ in range(rounds):
        start = time.perf_counter()
        scores = function(x, labels)  # numbers: the GPU has finished
        seconds.append(time.perf_counter() - start)
    on_gpu = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    return {"seconds": statistics.median(seconds), "mib": peak_mib() - before, "gpu_mib": on_gpu, "scores": scores}


def in_process(side: str, n: int, options: argparse.Namespace, rounds: int) -> dict:
    arguments = [f"--side={side}", f"--n={n}", f"--rounds={rounds}"]
    arguments += [f"--device={options.device}", f"--threads={options.threads}"]
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory(result: dict) -> str:
    on_gpu = f" and {result['gpu_mib']:.0f} on the GPU" if result["gpu_mib"] else ""
    return f"{result['mib']:.0f} MiB{on_gpu}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=50_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "usual"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, large = options.n, options.large
    if options.side:
        print(json.dumps(measure(options.side, n, options.device, options.rounds)))
        return
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), {n} x {n} x {WIDTH}")
    own, other = in_process("ours", n, options, 3), in_process("usual", n, options, 1)
    print(f"usual loop / ours: time {other['seconds'] / own['seconds']:.2f}   (promise >= 4)", end="")
    print(f"; {other['seconds']:.1f} / {own['seconds']:.1f} s; memory {memory(other)} / {memory(own)}")
    difference = max(abs(a - b) for a, b in zip(own["scores"], other["scores"], strict=True))
    cmc1, cmc5, mean_ap = own["scores"]
    print(f"CMC@1 {cmc1:.4f}, CMC@5 {cmc5:.4f}, mAP {mean_ap:.6f}; the two differ by at most {difference:.1e}")
    if difference > 2 / n:
        raise SystemExit("the scores differ")
    if large:
        own = in_process("ours", large, options, 1)
        print(f"ours, {large} x {large} x {WIDTH}: {own['seconds']:.1f} s, {memory(own)}   (promise < 4000)")


if __name__ == "__main__":
    main()
