"""Embeddings with what a search needs beside them: which model made them, of which items, and at what length.

Two models put the same image at different places, and nothing in an array of numbers says which model it is of.
Here it is said, and ``check_together`` refuses what does not belong together.

    new = Embeddings(vectors, ids, space=fingerprint(model))
    new.save("new.parquet")
    check_together(new, Embeddings.load("gallery.parquet"))  # ValueError, if the gallery is another model's
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compatkit.devices import content, described
from compatkit.extras import require
from compatkit.files import replacing

from .store import ROLES, UNIT_TOLERANCE, as_vectors, pa

pq = require("pyarrow.parquet", "gallery")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of n items in one space.

    Raises:
        ValueError: vectors that are not a finite floating-point matrix with rows and columns; ids that are not as many,
            not unique, or neither integers nor text; an empty space.
    """

    vectors: Tensor  #: (n, width) float16, float32 or float64, on any device
    ids: np.ndarray  #: (n,) int64 or text; a tensor or a list is made one
    space: str  #: names the space, such as the ``fingerprint`` of the model whose embeddings they are or stand for
    made_from: str = ""  #: the space that they were transformed from; empty if the model of ``space`` made them itself

    def __post_init__(self):
        x = self.vectors
        if not isinstance(x, Tensor) or x.dtype not in (torch.float16, torch.float32, torch.float64):
            raise ValueError(f"vectors: must be a tensor of float16, float32 or float64, got {described(x)}")
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"vectors: must be (items, width) and not empty, got shape {tuple(x.shape)}")
        if broken := x.numel() - int(x.isfinite().sum()):
            raise ValueError(f"vectors: must be finite, got {broken} NaN or infinite values among {x.numel()}")
        object.__setattr__(self, "ids", _ids(self.ids, len(x)))
        if not isinstance(self.space, str) or not self.space:
            raise ValueError(f"space: a text that names the space is needed, got {self.space!r}")

    def __len__(self) -> int:
        return len(self.vectors)

    def save(self, path: str | os.PathLike) -> None:
        """Write a Parquet file, which the command takes, too; a reader sees the old one or the whole new one."""
        about = {"compatkit.space": self.space, "compatkit.made_from": self.made_from}
        columns = {ROLES["id"]: self.ids, ROLES["vector"]: as_vectors(self.vectors.detach().cpu().numpy())}
        with replacing(path) as file:
            pq.write_table(pa.table(columns).replace_schema_metadata(about), file, write_page_checksum=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Embeddings:
        """Read what ``save`` or the command wrote, on the CPU.

        Raises:
            ValueError: the file is cut, altered or of another kind.
            FileNotFoundError: there is none.
        """
        with open(path, "rb") as file:
            try:
                table = pq.read_table(file, page_checksum_verification=True)
                about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
                space, ids = about["compatkit.space"], table[ROLES["id"]].to_numpy()
                vectors = np.stack(table[ROLES["vector"]].to_numpy(zero_copy_only=False))
            except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
                raise ValueError(f"path: {path} is not a whole file of Embeddings.save ({error})") from error
        ids = ids.astype(str) if ids.dtype == object else ids
        return cls(torch.from_numpy(vectors), ids, space, about.get("compatkit.made_from", ""))


WRAPPER = r"(?<![^.])(_orig_mod|module)\."
"""What torch.compile, DataParallel and AveragedModel put into names."""
NOT_WEIGHTS = ("_extra_state", "n_averaged")


def fingerprint(module: nn.Module) -> str:
    """Names the space of a model: 12 hex digits of the SHA-256 of names, types, shapes and bytes of its state dict.

    The same weights give the same name on any device, compiled or wrapped; how the module computes does not count.

    Raises:
        ValueError: a module without parameters and buffers, for nothing would tell it from others; or one whose state
            is not made of plain tensors, as that of a quantised one: name its space yourself.
    """
    found = hashlib.sha256()
    state = {name: value for name, value in module.state_dict().items() if not name.endswith(NOT_WEIGHTS)}
    if not state:
        raise ValueError(f"module: one with parameters or buffers is needed, got {type(module).__name__} without any")
    for name, value in state.items():
        if type(value) not in (Tensor, nn.Parameter) or value.is_quantized:
            raise ValueError(f"module: {name} of its state must be a plain tensor, got {type(value).__name__}")
        found.update(f"{re.sub(WRAPPER, '', name)} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(content(value))
    return found.hexdigest()[:12]


def check_together(query: Embeddings, gallery: Embeddings, *, compatible: bool = False) -> None:
    """Raise ValueError unless queries may be compared with a gallery: of one space, and of length 1 both or neither.

    Args:
        query, gallery: what ``compatkit.retrieval`` is to search.
        compatible: allow two spaces, because the models were trained to fit.
    """
    if query.space != gallery.space and not compatible:
        made = f" (made from {gallery.made_from!r})" if gallery.made_from else ""
        raise ValueError(
            f"query, gallery: are of different spaces, {query.space!r} and {gallery.space!r}{made}. Transform the old "
            "one (gallerykit upgrade), or pass compatible=True if the two models were trained to fit"
        )
    of_unit = [is_unit(x.vectors) for x in (query, gallery)]
    if of_unit[0] != of_unit[1]:
        lengths = ["of length 1" if unit else "of any length" for unit in of_unit]
        raise ValueError(f"query, gallery: rows must both have length 1 or both not, got {lengths[0]} and {lengths[1]}")


def is_unit(vectors: Tensor) -> bool:
    """Tell whether all rows (n, d) have length 1, as far as float16 can."""
    wide = torch.promote_types(vectors.dtype, torch.float32)
    return bool(((torch.linalg.vector_norm(vectors, dim=1, dtype=wide) - 1).abs() <= UNIT_TOLERANCE).all())


def _ids(ids: object, n: int) -> np.ndarray:
    ids = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if ids.dtype.kind not in "iuU" or ids.shape != (n,):
        raise ValueError(f"ids: must be integers or text, one for each of {n} items, got {ids.dtype} {ids.shape}")
    if ids.dtype == np.uint64 and ids.max() > np.iinfo(np.int64).max:
        raise ValueError(f"ids: integers must fit 64 bits with a sign, got {ids.max()}")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < n:
        raise ValueError(f"ids: must be unique, got {values[counts.argmax()]!s} {counts.max()} times")
    return ids if ids.dtype.kind == "U" else ids.astype(np.int64)
