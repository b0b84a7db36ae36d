"""A map from one model's embeddings to another's as a file, and as a few lines of numpy for a server of queries.

    gallerykit upgrade --old old.npy --new new.npy --direction queries --save-map queries.safetensors

    to_old = load_map("queries.safetensors")
    query = to_old(new_model(text))

The file is a safetensors file; its metadata are text: the map's name and widths, the spaces it goes between, and how
it was judged. Neither writing nor loading needs torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from compatkit.extras import require
from compatkit.files import write_atomically

FORMAT = "1"
BN_EPSILON = 1e-5  # of torch.nn.BatchNorm1d
SHORTEST = 1e-12  # of torch.nn.functional.normalize


@dataclass(frozen=True)
class Ends:
    """What a map goes from, and to."""

    d_in: int
    d_side: int
    """0 for none"""
    d_out: int
    unit_in: bool
    """whether all embeddings it was fitted on have length 1"""
    unit: bool
    """and its results"""
    from_space: str
    """the name of the space; empty if it is not known"""
    to_space: str
    side_space: str
    dtype: str
    """of the numbers in which results are stored"""


@dataclass(frozen=True, eq=False)
class SavedMap:
    """A map that needs no torch."""

    name: str
    """one of ``maps.METHODS``"""
    ends: Ends
    width: int
    """of the hidden layers of a network, 0 for a closed form"""
    about: dict[str, str]
    """direction, metric, fitted_on and held_out (pairs), scores on these with 95 % intervals, version of compatkit"""
    tensors: dict[str, np.ndarray]
    """float32, by the names of ``maps.Map.state``"""

    def __post_init__(self):
        others = {"low-rank": _low_rank, "residual": _residual, "h": _transformation}
        object.__setattr__(self, "_function", others.get(self.name, _affine)(self.tensors))

    def __call__(self, x: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
        """The embeddings in the other space, float32.

        A closed form is one matrix product and an offset. On one core a query at 768 -> 768, made of length 1, was
        measured to take 51 to 56 microseconds, of which the product takes 41 to 48: its 2.25 MiB are more than a
        second-level cache of 2 MiB, and reading them is what bounds it. On two idle cores it takes 20. Low-rank takes
        21 on one core, residual 117 and h 850 (width 512). Where other programs keep the cores busy, one thread
        (OPENBLAS_NUM_THREADS=1) is safer: two wait for each other.

        Args:
            x: embeddings (n, d_in), or one (d_in,).
            side: side-information (n, d_side) or (d_side,); None where the map has none.

        Returns:
            (n, d_out) or (d_out,).

        Raises:
            ValueError: another width.
        """
        ends = self.ends
        x = self._checked("x", x, ends.d_in)
        if (side is None) != (ends.d_side == 0):
            wanted = f"of width {ends.d_side}" if ends.d_side else "None"
            raise ValueError(f"side: must be {wanted} for this map, got {None if side is None else np.shape(side)}")
        if side is not None:
            side = self._checked("side", side, ends.d_side)
        mapped = self._function(x, side)  # type: ignore[attr-defined]
        mapped = _unit(mapped) if ends.unit else mapped
        return mapped * x.any(-1, keepdims=True) if self.about["metric"] == "cosine" else mapped

    @staticmethod
    def _checked(name: str, x: np.ndarray, width: int) -> np.ndarray:
        x = np.asarray(x, np.float32)
        if x.ndim not in (1, 2) or x.shape[-1] != width:
            raise ValueError(f"{name}: must be (n, {width}) or ({width},), got {x.shape}")
        return x

    def save(self, path: str | os.PathLike) -> None:
        """Write the file, so that a reader sees the old one or the whole new one.

        Raises:
            ImportError: safetensors is not installed.
        """
        ends = {key: str(value) for key, value in asdict(self.ends).items()}
        metadata = {"compatkit.map": FORMAT, "name": self.name, "width": str(self.width)} | ends | self.about
        metadata["sha256"] = _checksum(metadata, self.tensors)
        write_atomically(path, require("safetensors.numpy", "gallery").save(self.tensors, metadata))


def load_map(path: str | os.PathLike) -> SavedMap:
    """What ``upgrade(save_map=...)`` wrote.

    Args:
        path: NAME.safetensors.

    Raises:
        ValueError: not the file of a map, or a damaged one.
        FileNotFoundError: there is none.
        ImportError: safetensors is not installed.
    """
    safetensors = require("safetensors", "gallery")
    with open(path, "rb"):  # or safetensors would say in its own words that there is none
        pass
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"map: {path} is not a whole safetensors file ({error})") from error
    if metadata.get("compatkit.map") != FORMAT:
        raise ValueError(f"map: {path} is not a map that this version of compatkit saved (upgrade --save-map)")
    if metadata.pop("sha256", "") != _checksum(metadata, tensors):
        raise ValueError(f"map: {path} was altered after it was written: its checksum does not hold")
    del metadata["compatkit.map"]
    name, width = metadata.pop("name"), int(metadata.pop("width"))
    ends = {field.name: _READ[str(field.type)](metadata.pop(field.name)) for field in fields(Ends)}
    return SavedMap(name, Ends(**ends), width, metadata, tensors)


_READ: dict[str, Callable[[str], Any]] = {"int": int, "str": str, "bool": lambda text: text == "True"}


def version() -> str:
    """Of compatkit, as it was installed; empty where it runs from its sources alone."""
    try:
        return importlib.metadata.version("compatkit")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, x in sorted(tensors.items()):
        found.update(f"{name} {x.dtype} {x.shape}\n".encode())
        found.update(x.tobytes())
    return found.hexdigest()


# The maps in numpy: each a function of (n, d) or (d,), and of side-information or None

_Function = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def _affine(t: Mapping[str, np.ndarray]) -> _Function:
    # by columns, as torch's layers are anyway: BLAS takes the products with one query faster
    weight, bias, d = np.asfortranarray(t["weight"]), t["bias"], len(t["weight"])

    def function(x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        mapped = np.dot(_appended(x, side, d), weight)
        mapped += bias  # in place, as few calls as there can be: the product has swept their code out of the cache
        return mapped

    return function


def _low_rank(t: Mapping[str, np.ndarray]) -> _Function:
    down, up, bias, d = np.asfortranarray(t["down"]), np.asfortranarray(t["up"]), t["bias"], len(t["down"])
    return lambda x, side: _appended(x, side, d) @ down @ up + bias


def _residual(t: Mapping[str, np.ndarray]) -> _Function:
    hidden, last, scale = (t["hidden.weight"].T, t["hidden.bias"]), (t["last.weight"].T, t["last.bias"]), t["scale"]

    def function(x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        mapped = _relu(_appended(x, side, len(hidden[0])), hidden) @ last[0] + last[1]
        shared = min(x.shape[-1], len(scale))
        mapped[..., :shared] += scale[:shared] * x[..., :shared]
        return mapped

    return function


def _transformation(t: Mapping[str, np.ndarray]) -> _Function:
    *branches, mixer = (
        [_folded(t, f"{part}.{i}", f"{part}.{i + 1}") for i in (0, 3)]
        for part in ("old_branch", "side_branch", "mixer")
    )
    weight, bias = t["mixer.6.weight"].T, t["mixer.6.bias"]

    def function(x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        side = np.zeros((*x.shape[:-1], 1), np.float32) if side is None else side
        x = np.concatenate([_relu(z, *layers) for z, layers in zip((x, side), branches, strict=True)], -1)
        return _relu(x, *mixer) @ weight + bias

    return function


def _folded(t: Mapping[str, np.ndarray], linear: str, bn: str) -> tuple[np.ndarray, np.ndarray]:
    """A linear layer and the BN after it, with running statistics, as one: weight (d_in, d_out) and bias."""
    factor = t[f"{bn}.weight"] / np.sqrt(t[f"{bn}.running_var"].astype(np.float64) + BN_EPSILON)
    bias = t[f"{bn}.bias"] - factor * t[f"{bn}.running_mean"]
    return (t[f"{linear}.weight"].T * factor).astype(np.float32), bias.astype(np.float32)


def _relu(x: np.ndarray, *layers: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    for weight, bias in layers:
        x = np.maximum(x @ weight + bias, 0)
    return x


def _appended(x: np.ndarray, side: np.ndarray | None, width: int) -> np.ndarray:
    """Side-information after x, cut or filled up with zeros to what the first layer takes: identity takes none, and
    residual a zero in place of none."""
    if side is not None:
        x = np.concatenate([x, side], -1)
    if x.shape[-1] == width:
        return x
    return np.concatenate([x, np.zeros((*x.shape[:-1], 1), np.float32)], -1) if x.shape[-1] < width else x[..., :width]


def _unit(x: np.ndarray) -> np.ndarray:
    """Of length 1, perhaps in place."""
    if x.ndim == 1:
        x /= max(math.sqrt(np.dot(x, x)), SHORTEST)
        return x
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), SHORTEST)
