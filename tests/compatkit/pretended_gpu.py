"""A GPU that is only pretended: its tensors say that they are elsewhere, and have the values of tensors on the CPU.

Whatever is done with them is computed on the CPU, gradients included, so that results are real. What a GPU would refuse
is refused: operands, or a generator, of another device. What would make the host wait for a GPU is noted: a value, or
the shape of a result, that the host has to know, and a copy from one to the other.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

COPIES = ("_to_copy", "copy_")
INDEXED = ("index", "index_put", "index_put_")
TAKES_NUMBERS = ("fill_", "masked_fill", "masked_fill_", "index_put", "index_put_")
"""Take a number from the host, as do all operations that work element by element."""
KNOWN_TO_THE_HOST = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Marks of operations with a result, or the shape of one, that the host has to know."""


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


# as soon as this is imported: torch asks once, at the first gradient of a process, which devices there are
_setup_privateuseone_for_python_backend("pretended", _Backend())
GPU = torch.device("pretended:0")


class GPUTensor(torch.Tensor):
    """A tensor on the pretended GPU; ``there`` has its values."""

    there: Tensor

    @staticmethod
    def __new__(cls, real: Tensor):
        layout = {"strides": real.stride(), "storage_offset": real.storage_offset(), "dtype": real.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, real.shape, device=GPU, **layout)
        tensor.there = real
        return tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise RuntimeError(f"{operation}: a tensor of a pretended GPU is used where none is pretended")


class Generator(torch.Generator):
    """A generator that says where it is, and draws what one on the CPU would."""

    place_of: ClassVar[dict[int, torch.device]] = {}  # an operation is given another object for the same generator

    def __new__(cls, device: torch.device | str = "cpu"):
        generator = super().__new__(cls)
        cls.place_of[generator._cdata] = torch.device(device)
        return generator

    @property
    def device(self) -> torch.device:
        return self.place_of[self._cdata]


class PretendedGPU(TorchDispatchMode):
    """In its block there is a GPU.

    Attributes:
        device: its name.
        waits: what has made the host wait for it: the operation, and the line outside torch that asked for it.
        launches: how many operations it has been given; views cost nothing.
    """

    def __init__(self):
        super().__init__()
        self.device, self.waits, self.launches = GPU, [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        call = _Call(operation, args, kwargs or {})
        call.check()
        if call.waits:
            self.waits.append(f"{operation} at {_line()}")
        self.launches += call.on_gpu and not (operation.is_view or call.name.startswith("empty"))
        return call.result()

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """A list that has, after the block, the waits in it."""
        seen, before = [], len(self.waits)
        yield seen
        seen += self.waits[before:]


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """In its block there is a GPU, for ``torch.Generator`` as well."""
    with pytest.MonkeyPatch.context() as patch, PretendedGPU() as gpu:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
        torch._C._set_only_lift_cpu_tensors(True)  # what is made of numbers is made on the CPU and copied, as by CUDA
        try:
            yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


class _Call:
    """One operation of torch, with its arguments."""

    def __init__(self, operation: Any, args: tuple, kwargs: dict):
        self.operation, self.args, self.kwargs = operation, args, kwargs
        self.name = operation.__name__.split(".")[0]
        self.tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        asked = kwargs.get("device")
        self.on_gpu = asked == GPU if asked else any(map(_is_here, self.tensors[:1]))
        of_gpu = self.name in INDEXED and self.on_gpu
        self.indices = [index for index in args[1] if index is not None] if of_gpu else []

    @property
    def waits(self) -> bool:
        if self.name in COPIES:
            return self.on_gpu != _is_here(self.tensors[-1])
        if self.name in INDEXED:  # what a mask shows has to be counted, but to put one number in its place
            masks = any(index.dtype in (torch.bool, torch.uint8) for index in self.indices)
            number = len(self.args) > 2 and not self.args[2].ndim
            return (masks and not number) or not all(map(_is_here, self.indices))
        return any(map(_is_here, self.tensors)) and not KNOWN_TO_THE_HOST.isdisjoint(self.operation.tags)

    def check(self) -> None:
        """Raises RuntimeError for what no GPU does."""
        generator = self.kwargs.get("generator")
        place = Generator.place_of.get(generator._cdata, torch.device("cpu")) if generator else None
        if place and (place == GPU) != self.on_gpu:
            raise RuntimeError(f"{self.operation}: draws from a generator on {place}")
        beside = [t for t in self.tensors if not _is_here(t) and not any(t is i for i in self.indices)]
        if torch.Tag.pointwise in self.operation.tags or self.name in TAKES_NUMBERS:
            beside = [tensor for tensor in beside if tensor.ndim]
        if beside and any(map(_is_here, self.tensors)) and self.name not in COPIES:
            raise RuntimeError(f"{self.operation}: operands on {[str(tensor.device) for tensor in self.tensors]}")

    def result(self) -> Any:
        """What the operation gives for the real values."""
        kwargs = self.kwargs
        if kwargs.get("device") == GPU:
            kwargs = kwargs | {"device": torch.device("cpu")}
        args, kwargs = tree_map(lambda leaf: leaf.there if _is_here(leaf) else leaf, (self.args, kwargs))
        found = self.operation(*args, **kwargs)
        if torch.Tag.inplace_view in self.operation.tags:
            with no_dispatch():  # the shape that torch sees changes with it
                self.operation(*self.args, **self.kwargs)
        if not self.on_gpu:
            return found
        changed = {id(tensor.there): tensor for tensor in self.tensors if _is_here(tensor)}  # in place
        return tree_map(lambda leaf: changed.get(id(leaf), _moved(leaf)), found)


def _is_here(leaf: Any) -> bool:
    return isinstance(leaf, GPUTensor)


def _moved(leaf: Any) -> Any:
    return GPUTensor(leaf) if isinstance(leaf, Tensor) else leaf


def _line() -> str:
    """The line outside torch that is being run."""
    ours = [f for f in traceback.extract_stack() if "site-packages" not in f.filename and f.filename != __file__]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
