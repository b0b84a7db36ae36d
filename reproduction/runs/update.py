"""One run of paper B: train the versions of an embedding model, carry a gallery over, retrieve (Sec. 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatkit import costs
from compatkit.alignment import CLOSED_FORMS, fit_width, procrustes, ridge
from compatkit.devices import seed_for
from compatkit.fct import FitTransformation, Transformation, transform
from compatkit.images import ImageSet, Split
from compatkit.models import count_parameters
from compatkit.objectives import Term
from compatkit.recipes import Recipe
from compatkit.retrieval import RetrievalScores, encode, evaluate, negative_flips
from compatkit.similarity import linear_cka
from compatkit.training import Task

from ..experiments.settings import ATTRIBUTES, UpdateRun
from .context import Context, check_enough, check_filled, check_split
from .embedders import embedder
from .encoders import (
    ArcFace,
    Contrastive,
    Influence,
    Mixup,
    Reconstruction,
    Softmax,
    decoder,
    linear_classifier,
    projection_head,
    synthesised_classifier,
)

# --- data -------------------------------------------------------------------------------------------------------------


@dataclass
class Update:
    """The data of a run: ``sets[i]`` trains version i, ``gallery`` is what is searched and searched with."""

    sets: list[ImageSet]
    n_whole: int  # training images of all classes
    gallery: Split
    known: Tensor | None  # of each gallery item: whether the first version learnt its class; None where all or none are


def check(config: UpdateRun, context: Context) -> None:
    """Rehearse a run, see ``kinds``."""
    update = prepare(config, context)
    for image_set in update.sets:
        check_filled(image_set, config.n_train, None)
    check_split("pairs", update.sets[-1], update.sets[-1].limit(config.pairs).train, config.pairs)
    check_enough("pairs", update.sets[-1], config.pairs or 0)
    if not (update.gallery.labels.bincount() > 1).any():
        raise ValueError(f"n_test: some class of the gallery must have two images, got {len(update.gallery)} in all")
    trainer = Trainer(config, update, context)
    for version in range(len(update.sets)):
        trainer.embed(version, update.gallery[:2])
        trainer.store(version, update.gallery[:2])


def prepare(config: UpdateRun, context: Context) -> Update:
    """Load the images and deal them out to the versions.

    Raises:
        ValueError: ``config`` asks for more classes than there are, or for attributes that they do not have.
    """
    whole = _load(config, config.data, context).limit(config.n_train, config.n_test).to(context.device)
    order = [whole.classes[i] for i in sorted(range(len(whole.classes)), key=_place(config.class_order, whole.classes))]
    if max(config.classes) + config.held_out > len(order):
        raise ValueError(
            f"classes, held_out: {config.data} has {len(order)} classes, got {config.classes} and {config.held_out}"
        )
    learnt = [order[:n] for n in config.classes]
    if config.side in ATTRIBUTES:
        attribute_index(whole.classes, config.side)  # before anything is trained
    if config.disjoint:
        learnt[-1] = [name for name in learnt[-1] if name not in learnt[-2]]
    sets, n_whole = [whole.subset(names) for names in learnt], len(whole.train)
    if config.old_task != "class":
        sets[0] = by_attribute(sets[0], config.old_task)
    if config.evaluated_on:
        other = _load(config, config.evaluated_on, context).with_channels(whole.channels).limit(test=config.n_test)
        return Update(sets, n_whole, other.test.to(context.device), None)
    if config.held_out:
        return Update(sets, n_whole, whole.subset(order[-config.held_out :]).test, None)
    gallery = whole.subset(order[: max(config.classes)]).test
    known = gallery.labels < config.classes[0]
    return Update(sets, n_whole, gallery, None if known.all() else known)


def _place(order: str, classes: Sequence[str]) -> Callable[[int], Any]:
    """The key by which the numbers of classes are sorted, see ``UpdateRun.class_order``."""
    return {"stored": int, "text": str, "shuffled": lambda i: hashlib.sha256(classes[i].encode()).digest()}[order]


def _load(config: UpdateRun, name: str, context: Context) -> ImageSet:
    scaled = config.image_size is not None and name.startswith("imagefolder:")
    return context.load(name, size=config.image_size) if scaled else context.load(name)


def by_attribute(image_set: ImageSet, attribute: str) -> ImageSet:
    """Images labelled by the "colour" or the "shape" of coloured shapes alone."""
    index = attribute_index(image_set.classes, attribute)
    names = tuple(dict.fromkeys(name.split()[ATTRIBUTES[attribute]] for name in image_set.classes))
    train, test = (Split(s.images, index.to(s.labels.device)[s.labels]) for s in (image_set.train, image_set.test))
    return ImageSet(f"{image_set.name} by {attribute}", train, test, names)


def attribute_index(classes: tuple[str, ...], attribute: str) -> Tensor:
    """The number of each class's colour or shape, counted in order of appearance: int64 (classes,).

    Raises:
        ValueError: classes of other images.
    """
    words = [name.split() for name in classes]
    if any(len(w) != len(ATTRIBUTES) for w in words):
        raise ValueError(f"old_task, side: {attribute} is known of coloured shapes only, got classes {classes[:3]}")
    values = [w[ATTRIBUTES[attribute]] for w in words]
    return torch.tensor([list(dict.fromkeys(values)).index(value) for value in values])


# --- training ---------------------------------------------------------------------------------------------------------


class Trainer:
    """Trains what a run needs, each model once; those that other runs need as well are kept in ``shared``."""

    def __init__(self, config: UpdateRun, update: Update, context: Context):
        self.config, self.update, self.context = config, update, context
        self._models: dict[str, tuple] = {}

    def embed(self, version: int, split: Split) -> Tensor:
        """Embeddings (n, d) of a split by a version of the model, trained on its own."""
        return self._encode(self.version(version)[0], self.update.sets[version], split)

    def embed_compatibly(self, split: Split) -> Tensor:
        """Embeddings of a split by the last version, trained to be backward compatible with the first."""
        return self._encode(self._compatible(), self.update.sets[-1], split)

    def store(self, version: int, split: Split) -> Tensor:
        """Side-information (n, d_side) of a split, which is stored beside a version's embeddings."""
        side = self.config.side
        if side == "none":
            return torch.zeros(len(split), self.config.side_dim, device=split.labels.device)
        if side in ATTRIBUTES:
            index = attribute_index(self.update.sets[-1].classes, side).to(split.labels.device)
            return F.one_hot(index[split.labels], int(index.max()) + 1).to(torch.get_default_dtype())
        return self._encode(*self._side_model(version), split)

    def transformation(self, name: str, old: Tensor, side: Tensor, new: Tensor) -> Transformation:
        """h: (old, side) -> new, fitted on these embeddings."""
        seed = self._seed("transformation")
        h = Transformation(old.shape[1], side.shape[1], new.shape[1], self.config.h_width, seed=seed).to(old.device)
        task, recipe = FitTransformation(h, old, side, new, seed=seed), self.config.h_recipe
        recipe = self._epochs(recipe, len(old)) if self.config.pairs is None else recipe
        self.context.train([task], recipe, name, f"{self.config}: {name}")
        return h

    def version(self, version: int) -> tuple[nn.Module, nn.Linear]:
        """Version i of the model, trained on its own, and its classifier."""
        # the same weights and batches in every run in which a version learns as many classes
        task = self.config.old_task if version == 0 else "class"
        return self._supervised(version, self._seed(task, self.config.classes[version]), f"version {version + 1}")

    def _compatible(self) -> nn.Module:
        (old_set, new_set), (_, old_classifier) = self.update.sets, self.version(0)
        names = list(old_set.classes)
        known = torch.tensor([names.index(c) if c in names else -1 for c in new_set.classes])
        weight, known = old_classifier.weight.detach(), known.to(new_set.device)
        if self.config.method == "BCT, synthesised":
            embedded, count = self.embed(0, new_set.train), len(new_set.classes)
            weight = synthesised_classifier(weight, embedded, new_set.train.labels, count)
            known = torch.arange(count, device=new_set.device)
        # from the weights and on the batches of the independent one
        seed = self._seed("class", self.config.classes[-1])
        return self._supervised(1, seed, "compatible new version", known=(weight, known))[0]

    def _side_model(self, version: int) -> tuple[nn.Module, ImageSet]:
        """The model of side-information, and the set by whose pixel statistics it sees images."""
        config, image_set = self.config, self.update.sets[version]
        label = f"{config.side}, version {version + 1}"
        if config.side in ("other old model", "old model with Mixup"):
            seed, mixup = self._seed(config.side, config.classes[version]), "Mixup" in config.side
            return self._supervised(version, seed, label, config.side_dim, mixup=mixup)[0], image_set
        image_set = self.side_set(version)
        seed = self._seed("side-information", len(image_set.classes))
        model = self._embedder(image_set, config.old_network, config.old_width, config.side_dim, seed)
        term: Term
        if config.side == "autoencoder":
            _, channels, size, width = image_set.train.images.shape
            if size != width:
                raise ValueError(
                    f"side: an autoencoder needs square images, those of {image_set.name} are {size} x {width}"
                )
            head = decoder(config.side_dim, channels, size, seed=seed).to(image_set.device)
            term = Reconstruction(head)
        else:
            term = Contrastive(projection_head(config.side_dim, seed=seed).to(image_set.device))
        return self._trained(Task(image_set, model, [term], seed), config.side_recipe, label, (model,))[0], image_set

    def side_set(self, version: int) -> ImageSet:
        """The set on which an autoencoder or SimCLR learns what is stored beside a version's embeddings."""
        config, own = self.config, self.update.sets[version]
        if config.side_data:
            other = _load(config, config.side_data, self.context).with_channels(own.channels)
            return other.limit(config.n_train).to(own.device)
        return self.update.sets[-1] if config.side == "SimCLR on the new set" else own

    def untrained(self, version: int, seed: int, dim: int | None = None) -> tuple[nn.Module, nn.Linear]:
        """The network of a version, with embeddings of another width if ``dim`` is given, and its classifier."""
        config, image_set = self.config, self.update.sets[version]
        which = "new" if version == len(config.classes) - 1 else "old"
        network, width, usual_dim = (getattr(config, f"{which}_{part}") for part in ("network", "width", "dim"))
        model = self._embedder(image_set, network, width, dim or usual_dim, seed)
        return model, linear_classifier(dim or usual_dim, len(image_set.classes), seed=seed).to(image_set.device)

    def _supervised(
        self,
        version: int,
        seed: int,
        label: str,
        dim: int | None = None,
        *,
        mixup: bool = False,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[nn.Module, nn.Linear]:
        """A version and its classifier; ``known``: weight and index of an old classifier that it is to fit."""
        config = self.config
        model, head = self.untrained(version, seed, dim)
        target = Softmax(head) if config.loss == "softmax" else ArcFace(head, scale=config.scale, margin=config.margin)
        terms: list[Term] = [Mixup(target) if mixup else target]
        if known is not None:
            terms.append(Influence(*known, target))
        return self._trained(Task(self.update.sets[version], model, terms, seed), config.recipe, label, (model, head))

    def _embedder(self, image_set: ImageSet, network: str, width: int, dim: int, seed: int) -> nn.Module:
        return embedder(network, dim, in_channels=image_set.channels, width=width, seed=seed).to(image_set.device)

    def _trained(self, task: Task, recipe: Recipe, label: str, result: tuple) -> tuple:
        """``result``, parts of ``task``, after training; what was trained before is taken from memory."""
        if label not in self._models:
            own = self._epochs(recipe, len(task.data.train))
            self.context.train_once([task], own, f"{self.config}: {label}")
            self._models[label] = result
        return self._models[label]

    def _epochs(self, recipe: Recipe, n: int) -> Recipe:
        """The recipe for ``n`` images: as many epochs as its steps are on the training images of all classes."""
        return replace(recipe, steps=max(1, round(recipe.steps * n / self.update.n_whole)))

    def _encode(self, model: nn.Module, image_set: ImageSet, split: Split) -> Tensor:
        return encode(model, image_set, split, unit=self.config.loss == "arcface")

    def _seed(self, *purpose: str | int) -> int:
        """A seed for this purpose alone, so that no two models of any runs are drawn alike by accident."""
        return seed_for(self.config.seed, *purpose)


# --- measuring --------------------------------------------------------------------------------------------------------


Cases = dict[str, tuple[Tensor, Tensor]]
"""What is searched with what, by name "query/gallery": embeddings of the queries and of the gallery."""


def run(config: UpdateRun, context: Context) -> dict[str, float | list]:
    """Train, carry the gallery over, retrieve; see ``measure`` for what is returned."""
    update = prepare(config, context)
    trainer = Trainer(config, update, context)
    if config.method != "FCT":
        return measure(_backward(trainer), update)
    if len(config.classes) > 2:
        return measure(_sequence(trainer), update)
    cases, others = forward(trainer)
    return measure(cases, update) | others


def _backward(trainer: Trainer) -> Cases:
    """Table 1, BCT: the new model is trained to fit the old gallery."""
    gallery = trainer.update.gallery
    old, new = trainer.embed(0, gallery), trainer.embed_compatibly(gallery)
    return {"old/old": (old, old), "BCT/old": (fit_width(new, old.shape[1]), old), "BCT/BCT": (new, new)}


def forward(trainer: Trainer) -> tuple[Cases, dict[str, float]]:
    """Table 1, FCT, and the closed forms: the gallery is carried into the space of the new model."""
    config, gallery = trainer.config, trainer.update.gallery
    fitted = trainer.update.sets[-1].limit(config.pairs).train
    old_t, side_t, new_t = (f(i, fitted) for f, i in ((trainer.embed, 0), (trainer.store, 0), (trainer.embed, 1)))
    old, side, new = (f(i, gallery) for f, i in ((trainer.embed, 0), (trainer.store, 0), (trainer.embed, 1)))
    seen_t, seen = (torch.zeros_like(x) if config.without_old else x for x in (old_t, old))
    h = trainer.transformation("h", seen_t, side_t, new_t)
    carried = transform(h, seen, side)
    cases = {"old/old": (old, old), "new/new": (new, new), "new/h": (new, carried), "h/h": (carried, carried)}
    cases |= {f"new/{name}(old)": (new, fit(old_t, new_t)(old)) for name, fit in CLOSED_FORMS.items()}
    if config.side != "none":
        both_t, both = torch.cat([old_t, side_t], 1), torch.cat([old, side], 1)
        cases |= {"side/side": (side, side), "new/ridge(old, side)": (new, ridge(both_t, new_t)(both))}
        cases |= {"new/Procrustes(old, side)": (new, procrustes(both_t, new_t)(both))}
    found = {"CKA of old and side": linear_cka(old, side)}
    return cases, found | _costs(trainer, h, seen, side)


def _sequence(trainer: Trainer) -> Cases:
    """Table 5: after each update, the gallery of the first version carried hop by hop, or directly; and one hop from
    the version before, made from the images. Case "v3/hops" is searched with version 3."""
    gallery = trainer.update.gallery
    first, first_side = trainer.embed(0, gallery), trainer.store(0, gallery)
    cases, (hopped, hopped_side) = {"v1/v1": (first, first)}, (first, first_side)
    for i in range(1, len(trainer.config.classes)):
        fitted, new = trainer.update.sets[i].train, trainer.embed(i, gallery)
        old_t, side_t, new_t = trainer.embed(i - 1, fitted), trainer.store(i - 1, fitted), trainer.embed(i, fitted)
        h = trainer.transformation(f"h{i}", old_t, side_t, new_t)
        before = trainer.embed(i - 1, gallery), trainer.store(i - 1, gallery)
        direct = h
        if i > 1:
            start = trainer.embed(0, fitted), trainer.store(0, fitted)
            direct = trainer.transformation(f"direct{i}", *start, new_t)
        g = trainer.transformation(f"g{i}", old_t, side_t, trainer.store(i, fitted))
        hopped, hopped_side = transform(h, hopped, hopped_side), transform(g, hopped, hopped_side)
        v = f"v{i + 1}"
        cases |= {f"{v}/{v}": (new, new), f"{v}/one hop": (new, transform(h, *before)), f"{v}/hops": (new, hopped)}
        cases |= {f"{v}/direct": (new, transform(direct, first, first_side))}
    return cases


def measure(cases: Cases, update: Update) -> dict[str, float]:
    """Retrieval in every case, each query without its own item, in 0..1: "CMC top-1: CASE", "CMC top-5: CASE",
    "mAP@1.0: CASE"; CMC top-1 and mAP for queries of "old classes" and "new classes" as well, where the first version
    has not learnt all. "negative flips: CASE": queries with a hit at rank 1 in the first case, and none in this one."""
    labels, found = update.gallery.labels, {}
    before: RetrievalScores | None = None
    for name, (query, gallery) in cases.items():
        scores = evaluate(query, labels, gallery, labels, same_items=True)
        before = before or scores
        found |= {f"CMC top-{k}: {name}": value for k, value in scores.cmc.items()}
        found |= {f"mAP@1.0: {name}": scores.mean_ap, f"negative flips: {name}": negative_flips(before, scores)}
        if update.known is not None:
            for which, chosen in (("old", update.known), ("new", ~update.known)):
                hits, precision = scores.hit_rank[chosen], scores.average_precision[chosen]
                found[f"CMC top-1 of {which} classes: {name}"] = (hits[hits > 0] == 1).double().mean().item()
                found[f"mAP@1.0 of {which} classes: {name}"] = precision.nanmean().item()
    return found


def _costs(trainer: Trainer, h: Transformation, old: Tensor, side: Tensor) -> dict[str, float]:
    """Fig. 3: what an item costs to carry over, and to embed anew."""
    gallery, (model, _) = trainer.update.gallery, trainer.version(1)
    image = trainer.update.sets[-1].normalise(gallery.images[:1])
    back_fill = {"images": lambda: trainer.embed(1, gallery), "h": lambda: transform(h, old, side)}
    seconds = {f"seconds per 10 000 items: {k}": 1e4 / len(old) * costs.seconds(f) for k, f in back_fill.items()}
    return seconds | {
        "MACs: images": float(costs.macs(model, image)),
        "MACs: h": float(costs.macs(h, old[:1], side[:1])),
        "parameters: h": float(count_parameters(h)),
        "KB: images": gallery.images[0].numel() / 1024,
        "KB: old": 4 * old.shape[1] / 1024,
        "KB: side": 4 * side.shape[1] / 1024,
    }
