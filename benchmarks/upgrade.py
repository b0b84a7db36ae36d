"""What upgrading a large gallery takes: memory, rows a second, and whether kill -9 does harm. Figures are of this run.

    python benchmarks/upgrade.py [--rows 1000000] [--methods identity,procrustes,ridge,h]

A synthetic gallery of 128 numbers an item is put through each map, in a process of its own.

1. Peak resident memory from the moment that the maps are fitted, beside that of a gallery of a tenth. Promise: at most
   a fifth more, for only chunks are in memory; the rest is the heap of the C library.
2. Rows a second, read, transformed and written.
3. A run that is killed (SIGKILL) in the middle and made again. Promise: the same file as without, and no row that was
   safe is made twice.

h is trained for a few steps only: that changes none of these figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, PAIRS, BLOCK = 128, 5_000, 50_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--methods", default="identity,procrustes,ridge,h")
    parser.add_argument("--killed", default="h", help="the map of the run that is killed")
    parser.add_argument("--folder", type=Path, help="for about three times the size of the gallery; default: temporary")
    parser.add_argument("--child", nargs=3, metavar=("METHOD", "GALLERY", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.folder, *options.child)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(Path(folder), options.rows, options.methods.split(","), options.killed)


def measure(folder: Path, rows: int, methods: list[str], killed: str) -> None:
    make(folder, rows)
    print(f"{rows:,} x {WIDTH} float32: {rows * WIDTH * 4 / 2**20:,.0f} MiB\n")
    print(f"{'map':<12}{'rows / s':>12}{'MiB at start':>14}{'peak MiB':>10}{'of a tenth of the rows':>24}")
    digests = {}
    for method in dict.fromkeys([*methods, killed]):
        small, large = (finished(start(folder, method, name)) for name in ("tenth", "gallery"))
        digests[method] = digest(folder / "out-gallery.npy")
        (folder / "out-gallery.npy").unlink()
        (folder / "out-tenth.npy").unlink()
        speed = f"{rows / large['seconds']:,.0f}"
        print(
            f"{method:<12}{speed:>12}{large['before']:>14.0f}{large['peak']:>10.0f}{small['peak']:>24.0f}", flush=True
        )
    safe, again = kill_and_resume(folder, killed, rows)
    same = digest(folder / "out-gallery.npy") == digests[killed]
    print(f"\n{killed}: killed with {safe:,} rows safe, which stayed; {again:,} rows were made by the second run.")
    print(f"The file is {'the same as' if same else 'NOT THE SAME AS'} that of an uninterrupted run.")


def make(folder: Path, rows: int) -> None:
    """Pairs, a gallery, and a gallery of a tenth; made in blocks."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5

    def new(old: np.ndarray) -> np.ndarray:
        return np.tanh(old @ mixing)

    old = rng.standard_normal((PAIRS, WIDTH), dtype=np.float32)
    np.save(folder / "old.npy", old)
    np.save(folder / "new.npy", new(old))
    for name, count in (("gallery", rows), ("tenth", rows // 10)):
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, WIDTH))
        for row in range(0, count, BLOCK):
            array[row : row + BLOCK] = rng.standard_normal((min(BLOCK, count - row), WIDTH), dtype=np.float32)


def start(folder: Path, method: str, gallery: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--folder", folder, "--child", method, gallery, f"out-{gallery}.npy"]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> dict:
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(text.splitlines()[-1])


def kill_and_resume(folder: Path, method: str, rows: int) -> tuple[int, int]:
    """Rows that were safe when the first run was killed, and rows that the second one made."""
    process, journal = start(folder, method, "gallery"), folder / ".out-gallery.npy.upgrade" / "rows.json"
    while not journal.exists() or json.loads(journal.read_text())["rows"] < rows // 3:
        if process.poll() is not None:
            raise SystemExit("the run was over before it could be killed: try a slower map or more rows")
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "out-gallery.npy").exists()
    safe = json.loads(journal.read_text())["rows"]
    return safe, finished(start(folder, method, "gallery"))["rows"]


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while block := file.read(2**22):
            found.update(block)
    return found.hexdigest()


def child(folder: Path, method: str, gallery: str, out: str) -> None:
    from compatkit.gallery import upgrade

    upgrade.SAVE_SECONDS = 0.5
    seen = {"rows": 0}
    transform = upgrade.Map.__call__

    def began(_: str) -> None:
        reset_peak()
        upgrade.Map.__call__ = counting
        seen.update(before=resident("VmRSS"), began=time.perf_counter())

    def counting(self, old, side=None):
        seen["rows"] += len(old)
        return transform(self, old, side)

    pairs = [folder / "old.npy", folder / "new.npy"]
    upgrade.upgrade(*pairs, folder / f"{gallery}.npy", folder / out, method=method, steps=20, tell=began)
    seconds = time.perf_counter() - seen.pop("began")
    print(json.dumps(seen | {"seconds": seconds, "peak": resident("VmHWM")}))


def reset_peak() -> None:
    """Forget the peak so far, which is of fitting and comparing."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> float:
    """MiB that Linux counts as this process's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    main()
