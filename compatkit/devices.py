"""Devices and precisions of the arithmetic, checks and digests of tensors, and random streams."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def content(x: Tensor) -> bytes:
    """The bytes of a tensor's values in reading order, whatever its type, its order in memory and its device."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def digest(*tensors: Tensor) -> str:
    """12 hex digits that tell these tensors from any others."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(content(tensor))
    return found.hexdigest()[:12]


def described(x: object) -> str:
    """What came in place of a tensor, for a message: the type of its numbers, or the class and the names inside."""
    if isinstance(x, Tensor):
        return str(x.dtype)
    return type(x).__name__ + (f" of {', '.join(map(str, x))}: pass one of these" if isinstance(x, Mapping) else "")


def check_tensor(name: str, x: object, shapes: Mapping[int, str]) -> None:
    """Raise ValueError unless ``x`` is a floating-point tensor of one of these shapes, by dimensions, and not empty."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"{name}: must be a floating-point tensor, got {described(x)}")
    if x.ndim not in shapes or not x.numel():
        raise ValueError(f"{name}: must be {' or '.join(shapes.values())} and not empty, got shape {tuple(x.shape)}")


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError unless all values are finite."""
    if not torch.stack(x.aminmax()).isfinite().all():  # NaN wins both; no copy of x, as x.isfinite() takes
        broken = x.numel() - x.isfinite().sum().item()
        raise ValueError(f"{name}: must be finite, got {broken} NaN or infinite values among {x.numel()}")


def seed_for(*purpose: object) -> int:
    """A seed that belongs to what it is for, such as ("SimCLR", 0), and to nothing else: 56 bits."""
    # hashed, because a CPU generator looks at 32 bits of its seed only
    key = hashlib.blake2b(" ".join(map(str, purpose)).encode(), digest_size=7).digest()
    return int.from_bytes(key, "little")


def seeded_generator(*purpose: object) -> torch.Generator:
    """A generator on the CPU, seeded by ``seed_for``."""
    return torch.Generator().manual_seed(seed_for(*purpose))
