"""What linear CKA of 10 000 x 512 features takes, ours against torch_cka. Prints the ratios of this run.

    pip install torch_cka        # not a requirement of ours; its imports need matplotlib, tqdm and torchvision too
    python benchmarks/similarity.py [--n 10000] [--features 512]

torch_cka (0.21) puts hooks on two networks and averages HSIC_1 of n x n Gram matrices over the batches of a data
loader. Here both networks are an identity and the loader hands on the features as they are, so that no network and no
collation is timed: ``CKA(identity, identity, model1_layers=["0"], ...).compare(loader, loader)``.

1. One batch of all samples, the only one for which it computes what we compute: the unbiased CKA of the whole set.
   Promise: at least 5 times as fast.
2. Batches of 256, its usual way: an estimate, which differs from the value of the whole set. For information.
3. Peak memory of each above what the process held before, which includes the features; and ours for 4 times as many
   samples. Promise: ours is bounded by the chunk, so that both are alike.

Each side runs in a process of its own, ours three times (median), torch_cka once (twice for 2, the second counts).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from compatkit.similarity import linear_cka

USUAL_BATCH = 256
MISSING = "torch_cka is missing: pip install torch_cka matplotlib tqdm torchvision"


def feature_pair(n: int, p: int) -> tuple[Tensor, Tensor]:
    """Two related sets of features (n, p) with means far from 0, as after a ReLU."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, p, generator=g)
    y = x @ torch.randn(p, p, generator=g) / p**0.5 + torch.randn(n, p, generator=g)
    return x.relu_(), y.relu_()


def torch_cka(x: Tensor, y: Tensor, batch: int) -> float:
    from torch_cka import CKA

    def loader(features: Tensor) -> DataLoader:
        whole = features[: len(features) // batch * batch]
        return DataLoader(TensorDataset(whole.view(-1, batch, features.shape[1])), batch_size=None)

    names = {"model1_name": "x", "model2_name": "y", "model1_layers": ["0"], "model2_layers": ["0"]}
    cka = CKA(nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity()), **names)
    with redirect_stderr(io.StringIO()):  # its progress bar
        cka.compare(loader(x), loader(y))
    return cka.export()["CKA"].item()


def peak_mib() -> float:
    """Highest resident memory of this process, on Linux; ``ru_maxrss`` would begin with that of its parent."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def measure(side: str, file: str, p: int) -> dict[str, float]:
    """Seconds, MiB above those before, and the value, in the process that calls it.

    Features (2, n, p) come from a file: making them would leave a peak that hides the one to be measured.
    """
    x, y = torch.from_numpy(np.fromfile(file, np.float32)).view(2, -1, p)
    n = len(x)
    sides = {
        "ours": (lambda: linear_cka(x, y, unbiased=True), 3),
        "torch_cka": (lambda: torch_cka(x, y, n), 1),
        "batches": (lambda: torch_cka(x, y, USUAL_BATCH), 2),
    }
    function, rounds = sides[side]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if side != "ours":
            import torch_cka as _  # what its imports take is not counted
        before, seconds = peak_mib(), []
        for _ in range(rounds):
            start = time.perf_counter()
            value = torch.no_grad()(function)()
            seconds.append(time.perf_counter() - start)
    taken = statistics.median(seconds) if side == "ours" else seconds[-1]
    return {"seconds": taken, "mib": peak_mib() - before, "value": value}


def in_process(side: str, n: int, p: int, threads: int) -> dict[str, float]:
    with tempfile.NamedTemporaryFile() as file:
        torch.stack(feature_pair(n, p)).numpy().tofile(file.name)
        options = [f"--side={side}", f"--file={file.name}", f"--features={p}", f"--threads={threads}"]
        done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "torch_cka", "batches"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, p = options.n, options.features
    if options.side:
        print(json.dumps(measure(options.side, options.file, p)))
        return
    try:
        import torch_cka as _  # noqa: F401
    except ImportError as error:
        raise SystemExit(MISSING) from error
    print(f"torch {torch.__version__}, cpu, {options.threads} thread(s), unbiased linear CKA of {n} x {p} features")
    ours, more = (in_process("ours", size, p, options.threads) for size in (n, 4 * n))
    for side, what in (("torch_cka", "one batch of all"), ("batches", f"batches of {USUAL_BATCH}")):
        other = in_process(side, n, p, options.threads)
        promise = "promise >= 5" if side == "torch_cka" else "an estimate"
        print(f"torch_cka, {what:16s} / ours: time {other['seconds'] / ours['seconds']:7.2f}   ({promise})", end="")
        print(f"; memory {other['mib']:6.0f} / {ours['mib']:.0f} MiB; {other['value']:.6f} / {ours['value']:.6f}")
    print(f"ours, {4 * n} samples / {n}: memory {more['mib']:.0f} / {ours['mib']:.0f} MiB   (promise: alike)")
    print(f"ours: {ours['seconds']:.2f} s for {n} samples, {more['seconds']:.2f} s for {4 * n}")


if __name__ == "__main__":
    main()
