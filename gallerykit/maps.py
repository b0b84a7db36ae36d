"""Maps from an old model's embeddings to a new model's, or back, fitted on pairs; a map is a file, and a few lines of
numpy for who applies it.

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
the old gallery, whose index stays as it is.

    to_fit, held_out = split(pairs)
    maps = fit(to_fit)
    maps["new/ridge"].save("ridge.safetensors")
    new = load_map("ridge.safetensors")(old)
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
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
FORMAT = "2"
BN_EPSILON, SHORTEST = 1e-5, 1e-12  # of torch.nn.BatchNorm1d and torch.nn.functional.normalize


@dataclass(frozen=True, eq=False)
class Pairs:
    """Embeddings of the same n items by both models, float32, and what is known of them."""

    old: Tensor
    """(n, d_old)"""
    new: Tensor
    """(n, d_new)"""
    side: Tensor | None = None
    """(n, d_side): stored beside the old embeddings"""
    labels: Tensor | None = None
    """(n,) int64"""
    old_space: str = ""
    new_space: str = ""
    new_dtype: str = "float32"
    """of the numbers in the store, in which a new gallery is written"""

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
    d_side: int
    """0 for none"""
    d_out: int
    unit_in: bool = False
    """whether all embeddings it was fitted on have length 1"""
    unit: bool = False
    """and its results"""
    direction: str = "gallery"
    metric: str = "l2"
    """of the search; by cosine rows of zeros, which have no direction, stay so"""
    from_space: str = ""
    """the name of the space; empty if it is not known"""
    to_space: str = ""
    dtype: str = "float32"
    """of the numbers in which results are stored"""


@dataclass(frozen=True, eq=False)
class Map:
    """One way from embeddings (n, d_in), with side-information (n, d_side) or None, to others (n, d_out)."""

    name: str
    """one of ``METHODS``"""
    ends: Ends
    tensors: dict[str, np.ndarray]
    """in whose type it is computed, float32 or float64"""
    sides: Sides | None = None
    """what tells embeddings of the one end from those of the other; None where their width does"""
    about: dict[str, str] = field(default_factory=dict)
    """pairs it was fitted on, scores, and the like"""

    def __post_init__(self):
        others = {"low-rank": _low_rank, "residual": _residual, "h": _transformation}
        object.__setattr__(self, "_function", others.get(self.name, _affine)(self.tensors))

    @property
    def label(self) -> str:
        """The name of a way to search: ``new/ridge + side`` searches a mapped gallery by new queries, ``ridge/old`` the
        old gallery by mapped ones."""
        name = self.name + " + side" * bool(self.ends.d_side)
        return f"new/{name}" if self.ends.direction == "gallery" else f"{name}/old"

    def __call__(self, x: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
        """The embeddings in the other space.

        A closed form is one matrix product and an offset, for a query as for a gallery.

        Args:
            x: embeddings (n, d_in), or one (d_in,).
            side: side-information (n, d_side) or (d_side,); None where the map has none.

        Returns:
            (n, d_out) or (d_out,).

        Raises:
            ValueError: another width, or embeddings that look like those of the other end.
        """
        ends = self.ends
        x = self._checked("x", x, ends.d_in)
        if (side is None) != (ends.d_side == 0):
            wanted = f"of width {ends.d_side}" if ends.d_side else "None"
            raise ValueError(f"side: must be {wanted} for this map, got {None if side is None else np.shape(side)}")
        if side is not None:
            side = self._checked("side", side, ends.d_side)
        if x.ndim == 1 and self.sides is not None:
            self.sides.check(x, "x")
        step = max(1, STEP_NUMBERS // max(ends.d_in, ends.d_out))
        if x.ndim == 1 or len(x) <= step:
            return self._mapped(x, side)
        mapped = np.empty((len(x), ends.d_out), x.dtype)
        for rows in (slice(start, start + step) for start in range(0, len(x), step)):
            mapped[rows] = self._mapped(x[rows], None if side is None else side[rows])
        return mapped

    def _mapped(self, x: np.ndarray, side: np.ndarray | None) -> np.ndarray:
        mapped = self._function(x, side)  # type: ignore[attr-defined]
        mapped = _unit(mapped) if self.ends.unit else mapped
        return mapped * x.any(-1, keepdims=True) if self.ends.metric == "cosine" else mapped

    def _checked(self, name: str, x: np.ndarray, width: int) -> np.ndarray:
        x = np.asarray(x, next(iter(self.tensors.values())).dtype)
        if x.ndim not in (1, 2) or x.shape[-1] != width:
            raise ValueError(f"{name}: must be (n, {width}) or ({width},), got {x.shape}")
        return x

    def digest(self) -> str:
        """12 hex digits that tell it from any other."""
        return _checksum(self._metadata(), self._arrays())[:12]

    def _metadata(self) -> dict[str, str]:
        ends = {key: str(value) for key, value in asdict(self.ends).items()}
        return {"gallerykit.map": FORMAT, "name": self.name} | ends | {f"about.{k}": v for k, v in self.about.items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        of_sides = {} if self.sides is None else {f"sides.{k}": x for k, x in self.sides.arrays().items()}
        return {name: np.ascontiguousarray(x) for name, x in (self.tensors | of_sides).items()}

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, so that a reader sees the old one or the whole new one.

        Raises:
            ImportError: safetensors is not installed.
        """
        metadata, arrays = self._metadata(), self._arrays()
        metadata["sha256"] = _checksum(metadata, arrays)
        write_atomically(path, require("safetensors.numpy", "gallery").save(arrays, metadata))

    def faiss(self, index: Any) -> Any:
        """A FAISS index that maps queries before it searches: the index, untouched, behind the map as a linear
        transform.

        Args:
            index: of the old embeddings, such as ``faiss.IndexHNSWFlat``.

        Raises:
            ValueError: not a closed form of queries, or one whose results are made of length 1.
        """
        faiss = require("faiss", "faiss")
        if self.ends.direction != "queries" or self.name in NETWORKS:
            raise ValueError(f"map: a closed form for queries is needed, got {self.label}")
        if self.ends.unit:
            raise ValueError("map: its results are made of length 1, which no linear transform does; fit by l2 or ip")
        t = self.tensors
        weight = t["down"] @ t["up"] if self.name == "low-rank" else t["weight"]
        linear = faiss.LinearTransform(self.ends.d_in, self.ends.d_out, True)
        faiss.copy_array_to_vector(np.ascontiguousarray(weight.T).ravel(), linear.A)
        faiss.copy_array_to_vector(t["bias"], linear.b)
        linear.is_trained = True
        return faiss.IndexPreTransform(linear, index)


def load_map(path: str | os.PathLike) -> Map:
    """Read what ``Map.save`` wrote; neither torch nor pyarrow is needed.

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
    if metadata.get("gallerykit.map") != FORMAT:
        raise ValueError(f"map: {path} is not a map that this version of gallerykit saved (upgrade --save-map)")
    if metadata.pop("sha256", "") != _checksum(metadata, arrays):
        raise ValueError(f"map: {path} was altered after it was written: its checksum does not hold")
    read: dict[str, Callable[[str], Any]] = {"int": int, "str": str, "bool": lambda text: text == "True"}
    ends = Ends(**{one.name: read[str(one.type)](metadata[one.name]) for one in fields(Ends)})
    of_sides = {name.removeprefix("sides."): arrays.pop(name) for name in [*arrays] if name.startswith("sides.")}
    about = {name.removeprefix("about."): text for name, text in metadata.items() if name.startswith("about.")}
    return Map(metadata["name"], ends, arrays, Sides(**of_sides) if of_sides else None, about)


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
        steps, seed: of the training of residual and h, see ``compatkit.training.train``.
        show_progress: of that training.
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
            seen = [name for name in methods if side is None or name not in BLIND]
            for name, tensors in _fitted(seen, old, side, new, steps, seed, show_progress).items():
                one = Map(name, ends, tensors, sides, {"fitted_on": str(len(pairs))})
                found[one.label] = one
    return found


def _fitted(
    names: Sequence[str], old: Tensor, side: Tensor | None, new: Tensor, steps: int, seed: int, shown: bool
) -> dict[str, dict[str, np.ndarray]]:
    """The tensors of each map."""
    import torch

    from compatkit import alignment

    functions: dict[str, Callable] = {
        "identity": alignment.identity,
        "mean shift": alignment.mean_shift,
        "Procrustes": alignment.procrustes,
        "lambda-orthogonal": alignment.lambda_orthogonal,
        "low-rank": alignment.low_rank,
        "ridge": alignment.ridge,
    }
    trained = [name for name in names if name in NETWORKS]
    states = _trained(trained, old, side, new, steps, seed, shown) if trained else {}
    seen = old if side is None else torch.cat([old, side], 1)
    for name in names:
        if name not in NETWORKS:
            states[name] = dict(vars(functions[name](seen, new)))
    return {name: {key: x.cpu().contiguous().numpy() for key, x in states[name].items()} for name in names}


def _trained(
    names: Sequence[str], old: Tensor, side: Tensor | None, new: Tensor, steps: int, seed: int, shown: bool
) -> dict[str, dict[str, Tensor]]:
    """Networks, trained at spread 1: Adam's steps and BN's epsilon do not follow the scale of the embeddings. They
    share nothing but the minibatches, so that each is as if trained alone."""
    import torch

    from compatkit.devices import default_device
    from compatkit.fct import FitTransformation, Residual, Transformation
    from compatkit.recipes import TRANSFORMATION
    from compatkit.training import train

    def spread(x: Tensor) -> Tensor:
        found = (x - x.mean(0)).square().mean().sqrt()
        return torch.where(found > 0, found, torch.ones_like(found))

    old, new = (x.to(default_device()) for x in (old, new))
    side, mean = old.new_zeros(len(old), 1) if side is None else side.to(old.device), new.mean(0)
    scales = spread(old), spread(side), spread(new)
    data = old / scales[0], side / scales[1], (new - mean) / scales[2]
    kinds: dict[str, Any] = {"residual": Residual, "h": Transformation}
    networks = {name: kinds[name](old.shape[1], side.shape[1], len(mean), HIDDEN, seed=seed) for name in names}
    tasks = [FitTransformation(network, *data, seed=seed) for network in networks.values()]
    label = f"fitting {' and '.join(names)}"
    train(tasks, replace(TRANSFORMATION, steps=steps), label=label, show_progress=shown)
    for network in networks.values():
        network.rescale(*scales, mean)
    return {name: dict(network.state_dict()) for name, network in networks.items()}


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, x in sorted(tensors.items()):
        found.update(f"{name} {x.dtype} {x.shape}\n".encode())
        found.update(x.tobytes())
    return found.hexdigest()


# The maps in numpy: each a function of (n, d) or (d,), and of side-information or None

_Function = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


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
        side = np.zeros((*x.shape[:-1], 1), x.dtype) if side is None else side
        x = np.concatenate([_relu(z, *layers) for z, layers in zip((x, side), branches, strict=True)], -1)
        return _relu(x, *mixer) @ weight + bias

    return function


def _folded(t: Mapping[str, np.ndarray], linear: str, bn: str) -> tuple[np.ndarray, np.ndarray]:
    """A linear layer and the BN after it, with running statistics, as one: weight (d_in, d_out) and bias."""
    factor = t[f"{bn}.weight"] / np.sqrt(t[f"{bn}.running_var"].astype(np.float64) + BN_EPSILON)
    bias = t[f"{bn}.bias"] - factor * t[f"{bn}.running_mean"]
    weight = t[f"{linear}.weight"]
    return (weight.T * factor).astype(weight.dtype), bias.astype(weight.dtype)


def _relu(x: np.ndarray, *layers: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    for weight, bias in layers:
        x = np.maximum(x @ weight + bias, 0)
    return x


def _appended(x: np.ndarray, side: np.ndarray | None, width: int) -> np.ndarray:
    """Side-information after x, filled up with a zero where residual takes it in place of none."""
    x = x if side is None else np.concatenate([x, side], -1)
    return x if x.shape[-1] == width else np.concatenate([x, np.zeros((*x.shape[:-1], 1), x.dtype)], -1)


def _unit(x: np.ndarray) -> np.ndarray:
    """Of length 1, perhaps in place."""
    if x.ndim == 1:
        x /= max(math.sqrt(np.dot(x, x)), SHORTEST)
        return x
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), SHORTEST)
