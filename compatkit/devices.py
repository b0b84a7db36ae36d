"""Where the arithmetic is done."""

from __future__ import annotations

import torch


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: torch.device | str) -> None:
    """Raises ValueError for a device that is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {str(device)!r} cannot be used here ({str(error).splitlines()[0]})") from error
