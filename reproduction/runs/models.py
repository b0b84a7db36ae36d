"""One run with models that others trained: a gallery is carried from one to the other, with side-information or none,
and by what needs no map.

All embeddings are of length 1, searched by L2. Items are drawn anew for each seed, from a pool that both models embed
once for all runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from compatkit.alignment import identity, lambda_orthogonal, low_rank, mean_shift, procrustes, ridge
from compatkit.devices import seed_for
from compatkit.fct import FitTransformation, Transformation, transform
from compatkit.files import lock_file, write_atomically
from compatkit.retrieval import evaluate, nearest
from gallerykit.backfill import stands_out

from .. import real_models, word_vectors
from ..experiments.settings import AdviceRun, ModelsRun
from .context import Context

NEIGHBOURS = 10
CASCADE = 100
"""Items that are embedded anew for each query where nothing is mapped."""


def check(config: ModelsRun, context: Context) -> None:
    """Rehearse a run: embed a few items, see ``kinds``."""
    pool = rehearsed(config, context)
    if config.side != "none":
        pool.stored(config.side, config.old, config.side_bytes)


def rehearsed(config: ModelsRun | AdviceRun, context: Context) -> Any:
    """A pool of a few items, once both models have embedded them."""
    pool = POOLS[config.data](20, context)
    for model in (config.old, config.new):
        pool.embed(model)
    return pool


def run(config: ModelsRun, context: Context) -> dict[str, float]:
    """Fit the maps on the pairs, carry the gallery, search it; see ``measure`` for what is returned."""
    pool, pairs, gallery, old, new = drawn(config, context)
    if config.maps == "further":
        return further(old, new, pairs, gallery, pool.labels[gallery])
    cases = {"old/old": (old[gallery], old[gallery]), "new/new": (new[gallery], new[gallery])}

    def carry(name: str, carried: Tensor) -> None:
        cases[f"new/{name}"] = new[gallery], F.normalize(carried, dim=1)

    carry("ridge(old)", ridge(old[pairs], new[pairs])(old[gallery]))
    side = old.new_zeros(len(old), 1)
    if config.side != "none":
        stored = F.normalize(pool.stored(config.side, config.old, config.side_bytes), dim=1)
        side = quantised(stored, config.side_bytes, pairs)
        both = torch.cat([old, side], 1)
        carry("ridge(old, side)", ridge(both[pairs], new[pairs])(both[gallery]))
        cases["side/side"] = side[gallery], side[gallery]
    if config.maps == "ridge":
        return measure(cases, pool.labels[gallery])
    for name, fit in OTHERS.items():
        carry(f"{name}(old)", fit(old[pairs], new[pairs])(old[gallery]))
    carry("ridge of the gallery(old)", ridge(old[gallery], new[gallery])(old[gallery]))
    if config.maps == "all":
        carry("h", _by_h(config, context, old, side, new, pairs)[gallery])
    back = ridge(new[pairs], old[pairs])
    cases["ridge(new)/old"] = F.normalize(back(new[gallery]), dim=1), old[gallery]
    return measure(cases, pool.labels[gallery]) | cascade(old[gallery], new[gallery], pool.labels[gallery])


def drawn(config: ModelsRun | AdviceRun, context: Context) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    """The pool, the rows of the pairs and of the gallery, and both embeddings of all."""
    pool = POOLS[config.data](config.pool, context)
    items = torch.randperm(config.pool, generator=torch.Generator().manual_seed(seed_for(config.seed, "items")))
    pairs, gallery = items[: config.fitted], items[config.fitted : config.fitted + config.gallery]
    old, new = (F.normalize(pool.embed(model), dim=1) for model in (config.old, config.new))
    return pool, pairs, gallery, old, new


def _by_h(config: ModelsRun, context: Context, old: Tensor, side: Tensor, new: Tensor, pairs: Tensor) -> Tensor:
    """All items, carried by a transformation trained on the pairs; numbers of unit spread go in and come out."""
    seed = seed_for(config.seed, "transformation")
    h = Transformation(old.shape[1], side.shape[1], new.shape[1], config.h_width, seed=seed)
    old, side = (x / x[pairs].std().clamp_min(1e-12) for x in (old, side))
    mean, spread = new[pairs].mean(0), new[pairs].std()
    task = FitTransformation(h, old[pairs], side[pairs], (new[pairs] - mean) / spread, seed=seed)
    context.train([task], config.recipe, "h", f"{config}: h")
    return transform(h, old, side) * spread + mean


OTHERS = {"identity": identity, "mean shift": mean_shift, "Procrustes": procrustes, "low rank": low_rank}
"""What else is fitted on pairs, without side-information."""


def measure(cases: dict[str, tuple[Tensor, Tensor]], labels: Tensor) -> dict[str, float]:
    """Retrieval in every case "query/gallery", each query without its own item, in 0..1: "CMC top-1: CASE", "mAP@1.0:
    CASE", and "neighbours kept: CASE", the share of the 10 nearest items under new/new that are among the 10 nearest.

    "ridge of the gallery" is fitted on what it carries: no other linear map comes nearer to the new embeddings.
    """
    new, _ = cases["new/new"]
    wanted = nearest(new, new, NEIGHBOURS, same_items=True)[1]
    found: dict[str, float] = {}
    for name, (query, gallery) in cases.items():
        scores = evaluate(query, labels, gallery, labels, same_items=True)
        found |= {f"CMC top-1: {name}": scores.cmc[1], f"mAP@1.0: {name}": scores.mean_ap}
        found[f"neighbours kept: {name}"] = _kept(wanted, nearest(query, gallery, NEIGHBOURS, same_items=True)[1])
    return found


def cascade(old: Tensor, new: Tensor, labels: Tensor) -> dict[str, float]:
    """The same of a search of old/old for 100 items, which are embedded anew and ranked by new/new; without mAP."""
    candidates = nearest(old, old, min(CASCADE, len(old) - 1), same_items=True)[1]
    distances = torch.stack([(new[few] - one).square().sum(1) for one, few in zip(new, candidates, strict=True)])
    return _of_lists("cascade", candidates.gather(1, distances.argsort(dim=1, stable=True)), new, labels)


def further(old: Tensor, new: Tensor, pairs: Tensor, gallery: Tensor, labels: Tensor) -> dict[str, float]:
    """The same of a map that is drawn to a rotation, and of ``rank_merge``."""
    carried = F.normalize(lambda_orthogonal(old[pairs], new[pairs])(old[gallery]), dim=1)
    whole = {"new/new": (new[gallery], new[gallery])}
    found = measure(whole | {"new/lambda-orthogonal(old)": (new[gallery], carried)}, labels)
    found |= rank_merge(*((x[gallery], x[pairs]) for x in (old, new)), labels)
    return {name: value for name, value in found.items() if not name.endswith("new/new")}


def rank_merge(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], labels: Tensor) -> dict[str, float]:
    """The same, without mAP, of a gallery whose first half is embedded anew: each half is searched by its own model,
    and the two lists are merged by rank.

    Args:
        old, new: the gallery, and items whose embeddings are known by both models, all of length 1.
        labels: of the gallery.
    """
    apart = [stands_out(items @ items.T, items @ known.T) for items, known in (old, new)]
    anew = torch.arange(len(labels)) < len(labels) // 2
    scores = torch.where(anew, apart[1], apart[0]).fill_diagonal_(-torch.inf)
    return _of_lists("rank merge", scores.argsort(dim=1, descending=True, stable=True), new[0], labels)


def _of_lists(case: str, ranked: Tensor, new: Tensor, labels: Tensor) -> dict[str, float]:
    """CMC top-1 and neighbours kept of lists of items (n, k), the best first."""
    wanted = nearest(new, new, NEIGHBOURS, same_items=True)[1]
    return {
        f"CMC top-1: {case}": (labels[ranked[:, 0]] == labels).double().mean().item(),
        f"neighbours kept: {case}": _kept(wanted, ranked[:, :NEIGHBOURS]),
    }


def _kept(wanted: Tensor, found: Tensor) -> float:
    """Share of the items wanted (n, k) that are among those found (n, k)."""
    return (wanted[:, :, None] == found[:, None, :]).any(2).double().mean().item()


def quantised(side: Tensor, size: int, fitted: Tensor) -> Tensor:
    """Side-information (n, d) as it comes back from so many bytes an item, (n, min(d, size)): the first principal
    components if there are more numbers, each in one byte.

    Args:
        side: of all items.
        size: bytes an item.
        fitted: the items that components and ranges are taken from, those of the pairs.
    """
    sample = side[fitted].double()
    if side.shape[1] > size:
        mean = sample.mean(0)
        axes = torch.linalg.eigh((sample - mean).T @ (sample - mean))[1].flip(1)[:, :size]
        side = ((side.double() - mean) @ axes).to(side.dtype)
        sample = side[fitted].double()
    step = (sample.abs().amax(0) / 127).clamp_min(1e-12).to(side.dtype)
    return (side / step).round().clamp(-127, 127) * step


# --- items and models -------------------------------------------------------------------------------------------------


class Images:
    """Training images of CIFAR-100, drawn evenly from its classes."""

    def __init__(self, n: int, context: Context):
        split = context.load("cifar100").limit(n, None).train
        self.images, self.labels, self.folder = split.images.cpu(), split.labels.cpu(), context.shared

    def embed(self, model: str) -> Tensor:
        return self._made(model)["embedding"]

    def stored(self, side: str, old: str, size: int) -> Tensor:
        """Side-information of all images, which needs no new model."""
        if side == "inner layer":
            return self._made(old)["inner"]
        if side == "mirrored view":
            return self._made(old, mirrored=True)["embedding"]
        if side == "thumbnail":
            return F.interpolate(self.images.float(), (8, 8), mode="area").flatten(1) - 127.5
        return self.embed(side)

    def _made(self, model: str, mirrored: bool = False) -> dict[str, Tensor]:
        name = f"cifar100, {len(self.images)}, {model}{', mirrored' * mirrored}"
        images = self.images.flip(3) if mirrored else self.images
        return _once(self.folder, name, lambda: real_models.embed_images(images, model))


class Glosses:
    """Definitions of WordNet."""

    def __init__(self, n: int, context: Context):
        (self.texts, self.labels), self.folder = real_models.glosses(n), context.shared
        context.data["glosses"] = hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:12]

    def embed(self, model: str) -> Tensor:
        name = f"glosses, {len(self.texts)}, {model}"
        return _once(self.folder, name, lambda: {"embedding": real_models.embed_texts(self.texts, model)})["embedding"]

    def stored(self, side: str, old: str, size: int) -> Tensor:
        """Side-information of all texts, which needs no new model."""
        return real_models.sketches(self.texts, size) if side == "sketch" else self.embed(side)


class Words:
    """The most frequent English words, without labels."""

    labels = None

    def __init__(self, n: int, context: Context):
        self.data = word_vectors.load(n)
        context.data["words"] = hashlib.sha256("\n".join(self.data.words).encode()).hexdigest()[:12]

    def embed(self, model: str) -> Tensor:
        return torch.from_numpy({"glove50": self.data.old, "glove100": self.data.new}[model])


class Planted:
    """Items of five classes with twelve hidden numbers, made from integers: the model "half" sees eight of them,
    "whole" all; "rest" are the others."""

    def __init__(self, n: int, context: Context):
        self.labels = torch.arange(n) % 5
        hidden = 2 * _noise(n, 12, start=1) + _noise(5, 12, start=2)[self.labels]
        self.hidden = hidden.to(torch.get_default_dtype())

    def embed(self, model: str) -> Tensor:
        seen = {"half": self.hidden[:, :8], "whole": self.hidden, "rest": self.hidden[:, 8:]}[model]
        return (seen @ _noise(seen.shape[1], 24, start=3 + len(model)).to(seen.dtype)).tanh()

    def stored(self, side: str, old: str, size: int) -> Tensor:
        return self.embed(side)


POOLS = {"cifar100": Images, "glosses": Glosses, "words": Words, "planted": Planted}


def _noise(n: int, d: int, start: int) -> Tensor:
    """Numbers (n, d) in -1..1, the same on every machine."""
    found = torch.arange(1, n * d + 1) * 48271 + start * 69621
    for _ in range(3):
        found = (found * 48271 + 11) % 2147483647
    return (found.double() / 1073741823.5 - 1).view(n, d)


def _once(folder: Path | None, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` gives, made by the first run that needs it and kept for the others; None keeps nothing."""
    if folder is None:
        return make()
    file = folder / f"{name}.safetensors"
    with lock_file(file.with_suffix(".lock")):
        if not file.is_file():
            write_atomically(file, save({part: tensor.contiguous() for part, tensor in make().items()}))
        return load_file(file)
