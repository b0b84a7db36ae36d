"""What an embedder can learn from: labels, two views of one image (SimCLR), or the image itself (Ramanujan et al.,
Secs. 3.4 and 5.1). Each class here is a ``training.Trainable``.

The embedding is what the network gives; the head on top of it (classifier, projection, decoder) is dropped after
training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatkit.alignment import fit_width
from compatkit.batches import Batches
from compatkit.devices import at_least_float32, digest
from compatkit.images import ImageSet
from compatkit.models import seeded
from compatkit.recipes import Recipe

LOSSES = ("softmax", "arcface")


class Supervised:
    """Labels, through a linear classifier without bias: cross-entropy with label smoothing, or ArcFace.

    Args:
        compatible: weights (k, d) of a frozen old classifier, and for each class (classes,) its row there, or -1. Its
            loss on the new embeddings, cut or filled with zeros to its width, is added as a mean over the images of the
            classes it knows, with weight 1: backward compatible training (Shen et al. 2020, eq. 6; mean and weight are
            those of openBCT, its first author's re-implementation).
        mixup: train on blends of two images (Zhang et al. 2018) with the label of the one that has the larger share,
            which is drawn evenly from 1/2..1: "applied only on images (for labels we use one-hot vectors)" (paper B,
            Sec. 5.1), which says neither whose label nor how shares are drawn.
        scale, margin: of ArcFace.
    """

    def __init__(
        self,
        image_set: ImageSet,
        model: nn.Module,
        classifier: nn.Linear,
        *,
        loss: str = "softmax",
        smoothing: float = 0.1,
        scale: float = 64.0,
        margin: float = 0.5,
        mixup: bool = False,
        compatible: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
    ):
        if loss not in LOSSES:
            raise ValueError(f"loss: must be one of {LOSSES}, got {loss!r}")
        self.image_set, self.model, self.classifier = image_set, model, classifier
        self.loss, self.smoothing, self.scale, self.margin = loss, smoothing, scale, margin
        self.mixup, self.compatible, self.seed = mixup, compatible, seed
        self.device = image_set.device
        influence = "" if compatible is None else digest(*compatible)
        self.digest = f"{image_set.train_digest} {loss} {smoothing} {scale} {margin} {mixup} {influence} {seed}"

    def modules(self) -> list[nn.Module]:
        return [self.model, self.classifier]

    def batches(self, recipe: Recipe) -> Callable[[int], tuple]:
        """``draw(step)``: images and labels."""
        batches = Batches(self.image_set, recipe.batch_size, seed=self.seed, crop=recipe.crop, flip=recipe.flip)

        def draw(step: int) -> tuple[Tensor, Tensor]:
            images, labels = batches(step)
            generator = batches.order.reseeded(3, step)
            other = torch.randperm(len(labels), generator=generator, device=self.device)
            share = 0.5 + 0.5 * torch.rand(len(labels), 1, 1, 1, generator=generator, device=self.device)
            return torch.lerp(images[other], images, share), labels

        return draw if self.mixup else batches

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        embeddings = self.model(images)
        terms = {"target": self._loss(embeddings, self.classifier.weight, labels)}
        if self.compatible is not None:
            weight, index = self.compatible
            rows = index[labels]
            share = (rows >= 0).to(weight.dtype).mean().clamp_min(1 / len(rows))
            terms["compatible"] = self._loss(fit_width(embeddings, weight.shape[1]), weight, rows) / share
        return {name: term.mean() for name, term in terms.items()}

    def _loss(self, embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image (n,), 0 where its label is -1."""
        if self.loss == "arcface":
            logits = arcface_logits(embeddings, weight, labels.clamp_min(0), scale=self.scale, margin=self.margin)
            return F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
        logits = F.linear(embeddings, weight)
        return F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=self.smoothing, reduction="none")


def linear_classifier(dim: int, num_classes: int, *, seed: int | None = None) -> nn.Linear:
    """The classifier under which an embedder is trained: linear, without bias (the authors' public code of paper B)."""
    with seeded(seed):
        return nn.Linear(dim, num_classes, bias=False)


def arcface_logits(
    embeddings: Tensor, weight: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.5
) -> Tensor:
    """Logits ``scale * cos(angle)``, and ``scale * cos(angle + margin)`` for the true class.

    Past half a turn, where the cosine would rise again, the logit falls on along a straight line.

    Args:
        embeddings: (n, dim).
        weight: (classes, dim).
        labels: (n,).
        scale, margin: s and m of the equation.

    Returns:
        (n, classes).

    Source: Deng et al. 2019, eq. 3.
    """
    # not in bf16, in which a cosine of 0.998 is 1, where the angle has no gradient
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = F.linear(*(F.normalize(at_least_float32(x), dim=1) for x in (embeddings, weight)))
    own = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    turn = math.cos(margin)
    moved = torch.where(own > -turn, (own.acos() + margin).cos(), own - 1 + turn)
    return scale * cosine.scatter(1, labels[:, None], moved)


class Contrastive:
    """Two views of each image, which are to be nearer to each other than to other images: SimCLR.

    The embedding before the projection is what is kept. The recipe's ``flip`` allows mirrored views; its ``crop`` is
    not used, since views are crops.

    Args:
        projection: the head whose output is compared.
        temperature: of the loss, see ``nt_xent``.

    Source: Chen et al. 2020, App. B.9.
    """

    def __init__(
        self, image_set: ImageSet, model: nn.Module, projection: nn.Module, *, temperature: float = 0.5, seed: int = 0
    ):
        self.image_set, self.model, self.projection = image_set, model, projection
        self.temperature = temperature
        self.device = image_set.device
        self.digest = f"{image_set.train_digest} simclr {temperature} {seed}"
        self.seed = seed

    def modules(self) -> list[nn.Module]:
        return [self.model, self.projection]

    def batches(self, recipe: Recipe) -> Callable[[int], tuple[Tensor]]:
        """``draw(step)``: the first views of all images of the minibatch, then the second views in the same order."""
        batches = Batches(self.image_set, recipe.batch_size, seed=self.seed)

        def draw(step: int) -> tuple[Tensor]:
            images = self.image_set.train.gather(batches.order(step)).repeat(2, 1, 1, 1)
            seen = views(images, batches.order.reseeded(4, step), flip=recipe.flip)
            return (self.image_set.normalise(seen.mul(255)),)

        return draw

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        return {"contrast": nt_xent(self.projection(self.model(images)), self.temperature)}


def projection_head(dim: int, *, seed: int | None = None) -> nn.Sequential:
    """SimCLR's head on an embedding: linear, ReLU, linear, all of the embedding's width."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))


def nt_xent(projected: Tensor, temperature: float = 0.5) -> Tensor:
    """The loss of SimCLR, mean over all views.

    Args:
        projected: (2n, d); row i and row n + i are views of one image, all other rows count as other images.
        temperature: divides the cosines.

    Source: Chen et al. 2020, eq. 1.
    """
    with torch.autocast(projected.device.type, enabled=False):
        z = F.normalize(at_least_float32(projected), dim=1)
        similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(similarity, partner)


def views(images: Tensor, generator: torch.Generator, *, flip: bool, strength: float = 0.5) -> Tensor:
    """A random view of each image: a crop of 20 to 100 % of its area, mirrored or not, in other colours.

    Brightness, contrast and saturation change by up to 80 % of ``strength``, hue by up to 20 % of it in turns, all for
    80 % of the images; 20 % turn grey. Images of one channel change in brightness and contrast only.

    Args:
        images: uint8 (n, c, s, s).
        generator: all draws come from it.
        flip: mirror half of them.
        strength: of the changes of colour.

    Returns:
        (n, c, s, s) floats in 0..1.

    Source: Chen et al. 2020, App. B.9: SimCLR for small images.
    """
    return _recoloured(_cropped(images.to(torch.get_default_dtype()).div(255), generator, flip), generator, strength)


def _cropped(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    n, device = len(images), images.device

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, device=device)

    area, ratio = draw(0.2, 1.0), draw(-0.2877, 0.2877).exp()  # sides from 3:4 to 4:3
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    mirrored = (draw(0, 1) < 0.5) & flip
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 2] = torch.where(mirrored, -width, width), left
    theta[:, 1, 1], theta[:, 1, 2] = height, top
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _recoloured(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    n, colour, device = len(images), images.shape[1] == 3, images.device

    def factor(share: float) -> Tensor:
        return 1 + share * strength * (2 * torch.rand(n, 1, 1, 1, generator=generator, device=device) - 1)

    def happens(share: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator, device=device) < share

    changed = (images * factor(0.8)).clamp(0, 1)
    mean = _grey(changed).mean((1, 2, 3), keepdim=True)
    changed = torch.lerp(mean, changed, factor(0.8)).clamp(0, 1)
    if colour:
        changed = torch.lerp(_grey(changed), changed, factor(0.8)).clamp(0, 1)
        changed = _hue_turned(changed, factor(0.2) - 1)
    images = torch.where(happens(0.8), changed, images)
    return torch.where(happens(0.2), _grey(images).expand_as(images), images) if colour else images


def _grey(images: Tensor) -> Tensor:
    """Luma (n, 1, h, w) of colour images; images of one channel as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _hue_turned(images: Tensor, turns: Tensor) -> Tensor:
    """Colours turned around the grey axis by ``turns`` (n, 1, 1, 1) of a full turn: hue moves, brightness stays."""
    angle = 2 * torch.pi * turns.view(-1)
    cos, sin = angle.cos(), angle.sin() / 3**0.5
    third = (1 - cos) / 3
    row = torch.stack([cos + third, third - sin, third + sin], 1)
    rotation = torch.stack([row, row.roll(1, 1), row.roll(2, 1)], 1)  # Rodrigues' formula, axis (1, 1, 1)
    return torch.einsum("nij,njhw->nihw", rotation, images).clamp(0, 1)


class Reconstruction:
    """The image itself: an autoencoder with the squared error, mean over pixels.

    Args:
        decoder: from embeddings (n, dim) to normalised images (n, c, s, s), see ``decoder``.

    Source: paper B, Sec. 5.1.
    """

    def __init__(self, image_set: ImageSet, model: nn.Module, decoder: nn.Module, *, seed: int = 0):
        self.image_set, self.model, self.decoder, self.seed = image_set, model, decoder, seed
        self.device = image_set.device
        self.digest = f"{image_set.train_digest} autoencoder {seed}"

    def modules(self) -> list[nn.Module]:
        return [self.model, self.decoder]

    def batches(self, recipe: Recipe) -> Callable[[int], tuple]:
        return Batches(self.image_set, recipe.batch_size, seed=self.seed, crop=recipe.crop, flip=recipe.flip)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": F.mse_loss(self.decoder(self.model(images)), images)}


def decoder(dim: int, channels: int, size: int, *, width: int = 16, seed: int | None = None) -> nn.Sequential:
    """From embeddings (n, dim) to images: a linear map to a quarter of the side, then two steps of upsampling.

    Paper B's decoder follows MobileNetV2; ours is smaller.

    Args:
        dim: of the embeddings.
        channels, size: of the images (n, channels, size, size).
        width: channels at full size.
        seed: of the weights; None draws from torch's global generator.

    Raises:
        ValueError: a size that 4 does not divide.

    Source: paper B, Sec. 5.1.
    """
    if size % 4:
        raise ValueError(f"size: must be a multiple of 4, got {size}")
    start, layers = 4 * width, []
    with seeded(seed):
        for c_in, c_out in ((start, 2 * width), (2 * width, width)):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(c_in, c_out, 3, padding=1),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        first = [nn.Linear(dim, start * (size // 4) ** 2), nn.Unflatten(1, (start, size // 4, size // 4)), nn.ReLU()]
        return nn.Sequential(*first, *layers, nn.Conv2d(width, channels, 3, padding=1))
