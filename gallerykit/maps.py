"""Maps from an old model's embeddings to a new model's, or back, fitted on pairs; a map is a file, and for who applies
it a few lines of numpy, or a network of torch where it was trained.

=====================  ==============================================================================================
``identity``           nothing
``mean shift``         the difference of the means
``Procrustes``         rotation, scale and shift
``lambda-orthogonal``  linear, drawn to a rotation
``low-rank``           linear, through fewer dimensions: ridge of reduced rank
``ridge``              linear
``residual``           scale * x + MLP(x), trained (Vejendla 2025, Drift-Adapter)
``h``                  the learned transformation of paper B (Ramanujan et al., Sec. 3.3), trained
=====================  ==============================================================================================

A map serves in one of two ``DIRECTIONS``: it carries the "gallery" to the new model, or "queries" of the new model to
the old gallery, whose index stays as it is. ``load_map("ridge.safetensors")(old)`` applies one that was saved.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compatkit.extras import require
from compatkit.files import write_atomically

from .sides import Sides

if TYPE_CHECKING:
    from torch import Tensor

CLOSED_FORMS = ("identity", "mean shift", "Procrustes", "lambda-orthogonal", "low-rank", "ridge")
"""What is fitted without training, the simplest first: the order in which maps that are equally good are preferred."""
NETWORKS = ("residual", "h")
"""What is trained, which takes minutes."""
METHODS = (*CLOSED_FORMS, *NETWORKS)
BLIND = ("identity", "mean shift")
"""Methods that do not see side-information."""
DIRECTIONS = ("gallery", "queries")
HELD_OUT_SHARE, HELD_OUT_MOST = 0.2, 10_000
HIDDEN = 512  # of the networks' layers
STEP_NUMBERS = 1 << 18  # at a time: 1 MiB of float32 stays in the cache
FORMAT = "gallerykit.map 3"
SHORTEST = 1e-12  # of torch.nn.functional.normalize


@dataclass(frozen=True, eq=False)
class Pairs:
    """Embeddings of the same n items by both models, float32, and what is known of them."""

    old: Tensor  #: (n, d_old)
    new: Tensor  #: (n, d_new)
    side: Tensor | None = None  #: (n, d_side): stored beside the old embeddings
    labels: Tensor | None = None  #: (n,) int64
    old_space: str = ""
    new_space: str = ""
    new_dtype: str = "float32"  #: of the numbers in the store, in which a new gallery is written

    def __len__(self) -> int:
        return len(self.old)

    def rows(self, index: Tensor) -> Pairs:
        """The pairs of these rows."""
        side, labels = (None if x is None else x[index] for x in (self.side, self.labels))
        return replace(self, old=self.old[index], new=self.new[index], side=side, labels=labels)


@dataclass(frozen=True)
class Ends:
    """The two ends of a map: what it goes from, and to."""

    d_in: int
    d_side: int  #: 0 for none
    d_out: int
    unit_in: bool = False  #: whether all embeddings it was fitted on have length 1
    unit: bool = False  #: and its results
    direction: str = "gallery"
    metric: str = "l2"  #: of the search; by cosine rows of zeros, which have no direction, stay so
    from_space: str = ""  #: the name of the space; empty if it is not known
    to_space: str = ""
    dtype: str = "float32"  #: of the numbers in which results are stored


@dataclass(frozen=True, eq=False)
class Map:
    """One way from embeddings (n, d_in), with side-information (n, d_side) or None, to others (n, d_out)."""

    name: str  #: one of ``METHODS``
    ends: Ends
    tensors: dict[str, np.ndarray]  #: in whose type it is computed, float32 or float64
    sides: Sides | None = None  #: what tells embeddings of both ends apart; None where their width does

    def __post_init__(self):
        function = _network(self) if self.name in NETWORKS else _linear(self.tensors)
        object.__setattr__(self, "_function", function)

    @property
    def label(self) -> str:
        """The name of a way to search: ``new/ridge + side`` searches a mapped gallery by new queries, ``ridge/old`` the
        old gallery by mapped ones."""
        name = self.name + " + side" * bool(self.ends.d_side)
        return f"new/{name}" if self.ends.direction == "gallery" else f"{name}/old"

    def __call__(self, x: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
        """Map embeddings to the other space.

        Args:
            x: embeddings (n, d_in), or one (d_in,).
            side: side-information (n, d_side) or (d_side,); None where the map has none.

        Returns:
            (n, d_out) or (d_out,).

        Raises:
            ValueError: another width, or one embedding that looks like those of the other end.
        """
        x = self._checked("x", x, self.ends.d_in)
        side = self._checked("side", side, self.ends.d_side) if self.ends.d_side or side is not None else None
        if x.ndim == 1 and self.sides is not None:
            self.sides.check(x, "x")
        step = max(1, STEP_NUMBERS // max(self.ends.d_in, self.ends.d_out))
        if x.ndim == 1 or len(x) <= step:
            return self._mapped(x, side)
        rows = [slice(start, start + step) for start in range(0, len(x), step)]
        return np.concatenate([self._mapped(x[one], None if side is None else side[one]) for one in rows])

    def of_pairs(self, pairs: Pairs) -> Tensor:
        """What it makes of the pairs' embeddings by the model that it starts from."""
        import torch

        if self.ends.direction == "queries":
            return torch.from_numpy(self(pairs.new.numpy()))
        side = None if not self.ends.d_side or pairs.side is None else pairs.side.numpy()
        return torch.from_numpy(self(pairs.old.numpy(), side))

    def _mapped(self, x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        mapped = self._function(x, side)  # type: ignore[attr-defined]
        if self.ends.unit:
            mapped /= np.maximum(np.linalg.norm(mapped, axis=-1, keepdims=True), SHORTEST)
        return mapped * x.any(-1, keepdims=True) if self.ends.metric == "cosine" else mapped

    def _checked(self, name: str, x: np.ndarray | None, width: int) -> np.ndarray:
        found = np.asarray(x, next(iter(self.tensors.values())).dtype)
        if not width or found.ndim not in (1, 2) or found.shape[-1] != width:
            wanted = f"(n, {width}) or ({width},)" if width else "None for this map"
            raise ValueError(f"{name}: must be {wanted}, got {None if x is None else found.shape}")
        return found

    def digest(self) -> str:
        """The SHA-256 of all that it is, in hex digits."""
        found = hashlib.sha256(f"{self.name} {self.ends}\n".encode())
        for name, x in sorted(self._arrays().items()):
            found.update(f"{name} {x.dtype} {x.shape}\n".encode() + x.tobytes())
        return found.hexdigest()

    def _arrays(self) -> dict[str, np.ndarray]:
        of_sides = {} if self.sides is None else {f"sides.{k}": x for k, x in vars(self.sides).items()}
        return {name: np.ascontiguousarray(x) for name, x in (self.tensors | of_sides).items()}

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, so that a reader sees the old one or the whole new one."""
        metadata = {FORMAT: self.digest(), "name": self.name, "ends": json.dumps(asdict(self.ends))}
        write_atomically(path, require("safetensors.numpy", "gallery").save(self._arrays(), metadata))

    def faiss(self, index: Any) -> Any:
        """A FAISS index that maps queries before it searches: the index, untouched, behind the map as a linear
        transform.

        Args:
            index: of the old embeddings, such as ``faiss.IndexHNSWFlat``.

        Raises:
            ValueError: not a closed form of queries, or one whose results are made of length 1.
        """
        faiss, t = require("faiss", "faiss"), self.tensors
        if self.ends.direction != "queries" or self.name in NETWORKS or self.ends.unit:
            wanted = "a closed form for queries is needed, whose results are not made of length 1 (fit by l2 or ip)"
            raise ValueError(f"map: {wanted}, got {self.label}")
        weight = t["down"] @ t["up"] if self.name == "low-rank" else t["weight"]
        linear = faiss.LinearTransform(self.ends.d_in, self.ends.d_out, True)
        faiss.copy_array_to_vector(np.ascontiguousarray(weight.T).ravel(), linear.A)
        faiss.copy_array_to_vector(t["bias"], linear.b)
        linear.is_trained = True
        return faiss.IndexPreTransform(linear, index)


def load_map(path: str | os.PathLike) -> Map:
    """Read what ``Map.save`` wrote; for closed forms neither torch nor pyarrow is needed.

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
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"map: {path} is not a whole safetensors file ({error})") from error
    if FORMAT not in metadata:
        raise ValueError(f"map: {path} is not a map that this version of gallerykit saved (upgrade --save-map)")
    of_sides = {name.removeprefix("sides."): arrays.pop(name) for name in [*arrays] if name.startswith("sides.")}
    ends = Ends(**json.loads(metadata["ends"]))
    one = Map(metadata["name"], ends, arrays, Sides(**of_sides) if of_sides else None)
    if metadata[FORMAT] != one.digest():
        raise ValueError(f"map: {path} was altered after it was written: its checksum does not hold")
    return one


def split(pairs: Pairs, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Pairs to fit on and pairs held out: a fifth, at most 10 000, drawn at random."""
    import torch

    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    held_out = min(int(HELD_OUT_SHARE * len(pairs)), HELD_OUT_MOST)
    return pairs.rows(order[held_out:]), pairs.rows(order[:held_out])


def fit(
    pairs: Pairs,
    methods: Sequence[str] = CLOSED_FORMS,
    *,
    directions: Sequence[str] = DIRECTIONS,
    metric: str = "l2",
    steps: int = 2_000,
    seed: int = 0,
    show_progress: bool = True,
) -> dict[str, Map]:
    """The maps by their labels, in both directions; where there is side-information, without it and with it.

    If all embeddings that a map goes to have length 1, so have its results.

    Args:
        pairs: embeddings of the same items by both models.
        methods: which maps, of ``METHODS``.
        directions: of ``DIRECTIONS``; queries have no side-information, which is stored beside the gallery.
        metric: of the search, see ``Ends``; it does not change what is fitted.
        steps, seed, show_progress: of the training of residual and h, see ``compatkit.training.train``.
    """
    from .embeddings import is_unit

    found = {}
    for direction in directions:
        old, new, spaces = pairs.old, pairs.new, (pairs.old_space, pairs.new_space)
        if direction == "queries":
            old, new, spaces = new, old, spaces[::-1]
        sides = Sides.of(old.numpy(), new.numpy()) if old.shape[1] == new.shape[1] else None
        for side in (None,) if pairs.side is None or direction == "queries" else (None, pairs.side):
            ends = Ends(
                old.shape[1], 0 if side is None else side.shape[1], new.shape[1], is_unit(old), is_unit(new),
                direction, metric, *spaces, pairs.new_dtype,
            )  # fmt: skip
            for name in methods:
                if side is not None and name in BLIND:
                    continue
                if name in NETWORKS:
                    tensors = _trained(name, old, side, new, steps, seed, show_progress)
                else:
                    tensors = _closed_form(name, old, side, new)
                one = Map(name, ends, {key: x.cpu().contiguous().numpy() for key, x in tensors.items()}, sides)
                found[one.label] = one
    return found


def _closed_form(name: str, old: Tensor, side: Tensor | None, new: Tensor) -> dict[str, Tensor]:
    import torch

    from compatkit import alignment

    function = getattr(alignment, name.lower().replace(" ", "_").replace("-", "_"))
    return vars(function(old if side is None else torch.cat([old, side], 1), new))


def _trained(name: str, old: Tensor, side: Tensor | None, new: Tensor, steps: int, seed: int, shown: bool) -> dict:
    """The state of a network that is trained at spread 1: Adam's steps and BN's epsilon do not follow the scale of the
    embeddings."""
    import torch

    from compatkit.devices import default_device
    from compatkit.fct import FitTransformation
    from compatkit.recipes import TRANSFORMATION
    from compatkit.training import train

    def spread(x: Tensor) -> Tensor:
        found = (x - x.mean(0)).square().mean().sqrt()
        return torch.where(found > 0, found, torch.ones_like(found))

    side = old.new_zeros(len(old), 1) if side is None else side
    old, side, new = (x.to(default_device()) for x in (old, side, new))
    mean, scales = new.mean(0), [spread(x) for x in (old, side, new)]
    network = _untrained(name, old.shape[1], side.shape[1], len(mean), seed)
    task = FitTransformation(network, old / scales[0], side / scales[1], (new - mean) / scales[2], seed=seed)
    train([task], replace(TRANSFORMATION, steps=steps), label=f"fitting {name}", show_progress=shown)
    network.rescale(*scales, mean)
    return network.state_dict()


def _untrained(name: str, d_in: int, d_side: int, d_out: int, seed: int = 0) -> Any:
    from compatkit.fct import Residual, Transformation

    return {"residual": Residual, "h": Transformation}[name](d_in, d_side, d_out, HIDDEN, seed=seed)


# The maps: each a function of (n, d) or (d,), and of side-information or None

_Function = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


def _linear(t: Mapping[str, np.ndarray]) -> _Function:
    # by columns, as torch's layers are anyway: BLAS takes the products with one query faster
    weights = [np.asfortranarray(t[key]) for key in ("weight", "down", "up") if key in t]

    def function(x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        mapped = x if side is None else np.concatenate([x, side], -1)
        for weight in weights:
            mapped = np.dot(mapped, weight)
        mapped += t["bias"]  # in place, as few calls as there can be: the product has swept their code out of the cache
        return mapped

    return function


def _network(one: Map) -> _Function:
    """A map that was trained: it needs torch."""
    import torch

    network = _untrained(one.name, one.ends.d_in, one.ends.d_side or 1, one.ends.d_out)
    network.load_state_dict({key: torch.from_numpy(x) for key, x in one.tensors.items()})
    network.eval()

    @torch.no_grad()
    def function(x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        side = np.zeros((*x.shape[:-1], 1), x.dtype) if side is None else side
        mapped = network(*(torch.tensor(np.atleast_2d(one)) for one in (x, side)))  # copies: x may be read-only
        return mapped.numpy().reshape(*x.shape[:-1], -1)

    return function
