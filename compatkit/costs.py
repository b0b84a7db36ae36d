"""Costs of running a network: multiplications, counted, and seconds, measured."""

import timeit
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .inspection import outline


def macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiplications of one item, inputs (1, ...), in linear and convolution layers; nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        outline(module)(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() // 2


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The seconds that ``work`` takes, the shortest of ``repeats`` times."""

    def finished() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return min(timeit.repeat(finished, number=1, repeat=repeats))
