"""What training takes on a GPU: our step beside the bare one, and eight processes at once beside one."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

import torch

from compatkit.recipes import Recipe
from compatkit.training import train

from .harness import Row, measured, synchronise
from .training import BATCH, of_steps, photographs, task_of

NETWORKS = {"ResNet-20": ("resnet20", 16), "ResNet-56": ("resnet56", 16), "WRN-28-10": ("wrn28", 160)}
WARM_UP = 5


def measure(quick: bool = False) -> list[Row]:
    if not torch.cuda.is_available():
        return [Row("training on a GPU", note="there is no GPU here")]
    rounds, steps = (2, 5) if quick else (7, 50)
    rows = [row for name, of in NETWORKS.items() for row in of_steps(name, *of, "cuda", rounds, steps, least=0.8)]
    return [*rows, at_once(8, "cuda", 20 if quick else 500, least=3)]


def at_once(processes: int, device: str, steps: int, least: float | None = None) -> Row:
    """Images a second of so many processes that train a ResNet-20 each, by those of one."""
    alone, together = (images_per_second(count, device, steps) for count in (1, processes))
    what = f"ResNet-20, {processes} processes at once against one"
    note = f"{together:,.0f} images/s against {alone:,.0f}"
    return measured(what, [together / alone], least=least, note=note)


def images_per_second(processes: int, device: str, steps: int) -> float:
    """Of all of them, from the moment that the last one is warm until the last one is done."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(barrier,)) as pool:
        taken = list(pool.map(_seconds, [device] * processes, [steps] * processes))
    return processes * steps * BATCH / max(taken)


def _start(barrier: Barrier) -> None:
    global _all_warm
    _all_warm = barrier


def _seconds(device: str, steps: int) -> float:
    """Of ``steps`` steps in this process, which begin when all are warm."""
    began = 0.0

    def on_step(step: int) -> None:
        nonlocal began
        if step == WARM_UP:
            synchronise()
            _all_warm.wait()
            began = time.perf_counter()

    task = task_of(photographs(BATCH * 8).to(device), "resnet20", 16)
    recipe = Recipe(steps=WARM_UP + steps, batch_size=BATCH, crop=4, flip=True)
    train([task], recipe, on_step=on_step, show_progress=False)
    synchronise()
    return time.perf_counter() - began
