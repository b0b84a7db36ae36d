"""Objectives that an embedder can learn from: labels, two views of one image (SimCLR), or the image itself (Ramanujan
et al., Secs. 3.4 and 5.1). The head on top of it (classifier, projection, decoder) is dropped after training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatkit.alignment import fit_width
from compatkit.devices import at_least_float32
from compatkit.models import seeded
from compatkit.objectives import Minibatch, Term


@dataclass(frozen=True)
class Softmax(Term):
    """Labels, through a linear classifier without bias: cross-entropy with label smoothing.

    Attributes:
        classifier: with an output for each class.
        smoothing: share of the target that is spread over all classes.
    """

    classifier: nn.Linear
    smoothing: float = 0.1
    name = "target"

    def of_each(self, embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image (n,) under a classifier's weight, 0 where its label is -1."""
        logits = F.linear(embeddings, weight)
        return F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=self.smoothing, reduction="none")

    def loss(self, batch: Minibatch) -> Tensor:
        return self.of_each(batch.features, self.classifier.weight, batch.labels).mean()


@dataclass(frozen=True)
class ArcFace(Term):
    """Labels, through the angles to the rows of a linear classifier, see ``arcface_logits``.

    Attributes:
        classifier: with an output for each class.
        scale, margin: of the logits.
    """

    classifier: nn.Linear
    scale: float = 64.0
    margin: float = 0.5
    name = "target"

    def of_each(self, embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Do what ``Softmax.of_each`` does."""
        logits = arcface_logits(embeddings, weight, labels.clamp_min(0), scale=self.scale, margin=self.margin)
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")

    def loss(self, batch: Minibatch) -> Tensor:
        return self.of_each(batch.features, self.classifier.weight, batch.labels).mean()


@dataclass(frozen=True)
class Influence(Term):
    """Backward compatible training: the loss of a frozen old classifier on the new embeddings, cut or filled with zeros
    to its width, mean over the images of the classes it knows.

    Attributes:
        old: weight (k, d) of the old classifier.
        index: (classes,), the row of each class there, or -1.
        like: the new classifier's term, whose loss is taken.

    Source: Shen et al. 2020, eq. 6; the mean is that of openBCT, its first author's re-implementation.
    """

    old: Tensor
    index: Tensor
    like: Softmax | ArcFace
    name = "compatible"

    def loss(self, batch: Minibatch) -> Tensor:
        rows = self.index[batch.labels]
        share = (rows >= 0).to(self.old.dtype).mean().clamp_min(1 / len(rows))
        embeddings = fit_width(batch.features, self.old.shape[1])
        return (self.like.of_each(embeddings, self.old, rows) / share).mean()


@torch.no_grad()
def synthesised_classifier(old_classifier: Tensor, embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """An old classifier for all classes of the new task (num_classes, d): the weight of each is the direction of its
    mean old embedding, at the mean length of the trained weights.

    Trained weights are not kept for the classes that have them: means of embeddings that are not negative have a large
    product with any such embedding, so that in a mixture of the two every image would look like a new class.

    Args:
        old_classifier: (old classes, d).
        embeddings, labels: (n, d) and (n,), old embeddings and new labels of images of every new class.
        num_classes: of the new task.

    Source: Shen et al. 2020, Sec. 3.3; for all classes as in openBCT; one length for all is ours.
    """
    sums = embeddings.new_zeros(num_classes, embeddings.shape[1]).index_add_(0, labels, embeddings)
    return F.normalize(sums, dim=1) * old_classifier.norm(dim=1).mean()


@dataclass(frozen=True)
class Mixup(Term):
    """Another term on blends of two images (Zhang et al. 2018) with the label of the one that has the larger share,
    which is drawn evenly from 1/2..1. Paper B (Sec. 5.1) says neither whose label nor how shares are drawn.
    """

    term: Term

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.term.name

    def loss(self, batch: Minibatch) -> Tensor:
        return self.term.loss(replace(batch, inputs=(self.blended(batch),)))

    def blended(self, batch: Minibatch) -> Tensor:
        """The images of the minibatch, each with another one."""
        n, images, generator = len(batch.labels), batch.images, batch.generator(3)
        other = torch.randperm(n, generator=generator, device=images.device)
        share = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, generator=generator, device=images.device)
        return torch.lerp(images[other], images, share.to(images.dtype))


def linear_classifier(dim: int, num_classes: int, *, seed: int | None = None) -> nn.Linear:
    """The classifier under which an embedder is trained: linear, without bias (the authors' public code of paper B)."""
    with seeded(seed):
        return nn.Linear(dim, num_classes, bias=False)


def arcface_logits(
    embeddings: Tensor, weight: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.5
) -> Tensor:
    """Logits (n, classes): ``scale * cos(angle)``, and ``scale * cos(angle + margin)`` for the true class (Deng et al.
    2019, eq. 3). Past half a turn, where the cosine would rise again, the logit falls on along a straight line.

    Args:
        embeddings, weight, labels: (n, dim), (classes, dim) and (n,).
        scale, margin: s and m of the equation.
    """
    # not in bf16, in which a cosine of 0.998 is 1, where the angle has no gradient
    with torch.autocast(embeddings.device.type, enabled=False):
        cosine = F.linear(*(F.normalize(at_least_float32(x), dim=1) for x in (embeddings, weight)))
    own = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    turn = math.cos(margin)
    moved = torch.where(own > -turn, (own.acos() + margin).cos(), own - 1 + turn)
    return scale * cosine.scatter(1, labels[:, None], moved)


@dataclass(frozen=True)
class Contrastive(Term):
    """Two views of each image, which are to be nearer to each other than to others: SimCLR (Chen et al. 2020, App.
    B.9). The recipe's ``flip`` allows mirrored views; its ``crop`` is not used, since views are crops.

    Attributes:
        projection: the head whose output is compared.
        temperature: of the loss, see ``nt_xent``.
    """

    projection: nn.Module
    temperature: float = 0.5
    name = "contrast"

    def loss(self, batch: Minibatch) -> Tensor:
        return nt_xent(self.projection(batch.network(self.views(batch))), self.temperature)

    def views(self, batch: Minibatch) -> Tensor:
        """The first views of all images of the minibatch, then the second views in the same order, normalised."""
        image_set = batch.source.image_set
        images = image_set.train.gather(batch.source.order(batch.step)).repeat(2, 1, 1, 1)
        seen = views(images, batch.generator(4), flip=batch.recipe.flip)
        return image_set.normalise(seen.mul(255)).to(batch.images)


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
    """A random view of each image, as SimCLR has them for small images (Chen et al. 2020, App. B.9): a crop of 20 to
    100 % of its area, mirrored or not, in other colours.

    Brightness, contrast and saturation change by up to 80 % of ``strength``, hue by up to 20 % of it in turns, all for
    80 % of the images; 20 % turn grey. Images of one channel change in brightness and contrast only.

    Args:
        images: uint8 (n, c, s, s).
        generator: all draws come from it.
        flip: mirror half of them.
        strength: of the changes of colour.

    Returns:
        (n, c, s, s) floats in 0..1.
    """
    with torch.autocast(images.device.type, enabled=False):
        cropped = _cropped(images.to(torch.get_default_dtype()).div(255), generator, flip)
        return _recoloured(cropped, generator, strength)


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


@dataclass(frozen=True)
class Reconstruction(Term):
    """The image itself: an autoencoder with the squared error, mean over pixels (paper B, Sec. 5.1).

    Attributes:
        decoder: from embeddings (n, dim) to normalised images (n, c, s, s), see ``decoder``.
    """

    decoder: nn.Module
    name = "reconstruction"

    def loss(self, batch: Minibatch) -> Tensor:
        return F.mse_loss(self.decoder(batch.features), batch.images)


def decoder(dim: int, channels: int, size: int, *, width: int = 16, seed: int | None = None) -> nn.Sequential:
    """A decoder from embeddings (n, dim) to images: a linear map to a quarter of the side, then two steps of
    upsampling. Paper B's (Sec. 5.1) follows MobileNetV2; ours is smaller.

    Args:
        dim: of the embeddings.
        channels, size: of the images (n, channels, size, size).
        width: channels at full size.
        seed: of the weights; None draws from torch's global generator.

    Raises:
        ValueError: a size that 4 does not divide.
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
