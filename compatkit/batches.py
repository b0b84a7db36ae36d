"""Minibatches, shuffled and augmented where the images are.

There are no loader workers: a batch is one gather from a tensor that is already where the network is, so that fetching
and augmenting it costs a few per cent of a training step.
"""

from functools import cache
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import seed_for
from .images import ImageSet, Split


class Order:
    """The rows of ``n`` that each minibatch takes, by seed and step alone, so that a resumed run sees what another saw.

    Each epoch is a new permutation; the last rows of an epoch that do not fill a batch are left out.
    """

    def __init__(self, n: int, batch_size: int, seed: int, device: torch.device | str):
        if min(n, batch_size) < 1:
            raise ValueError(f"n, batch_size: must be at least 1, got {n} and {batch_size}")
        self.n, self.batch_size, self.seed = n, min(batch_size, n), seed
        self.generator = torch.Generator(device)
        self._epoch, self._rows = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """The rows (b,) of training step ``step``."""
        epoch, place = divmod(step, self.n // self.batch_size)
        if epoch != self._epoch:
            self._rows = torch.randperm(self.n, generator=self.reseeded(0, epoch), device=self.generator.device)
            self._epoch = epoch
        return self._rows[place * self.batch_size : (place + 1) * self.batch_size]

    def reseeded(self, purpose: int, step: int) -> torch.Generator:
        """The generator of this order, set to the start of what ``purpose`` draws at ``step``; 0 is the order's own."""
        return self.generator.manual_seed(seed_for(self.seed, purpose, step))


class Batches:
    """Shuffled, augmented minibatches of training images.

    Args:
        image_set: its training split is used, on the device it is on.
        batch_size: images in a minibatch.
        seed: of order and augmentation.
        crop: random crop of the original size from images padded by so many black pixels on each side.
        flip: mirrored at random.

    Raises:
        ValueError: for a batch size below 1, and a set without training images.
    """

    def __init__(self, image_set: ImageSet, batch_size: int, *, seed: int = 0, crop: int = 0, flip: bool = False):
        split = image_set.train
        if len(split) == 0 or batch_size < 1:
            raise ValueError(f"batch_size: {image_set.name} has 1 .. {len(split)} images, got {batch_size}")
        self.image_set, self.labels = image_set, split.labels
        self.order = Order(len(split), batch_size, seed, split.labels.device)
        self.crop, self.flip = crop, flip
        self.padded = Split(F.pad(split.images, (crop,) * 4), split.labels) if crop else split

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Normalised float images (b, c, h, w) and labels (b,) of training step ``step``."""
        chosen = self.order(step)
        images = self.padded.gather(chosen)
        if self.crop or self.flip:
            images = crop_and_flip(images, self.order.reseeded(1, step), crop=self.crop, flip=self.flip)
        return self.image_set.normalise(images), self.labels[chosen]


class Rows:
    """Shuffled minibatches of what is not images: the same rows of several tensors (n, ...) on one device."""

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, *, seed: int = 0):
        self.tensors = tensors
        self.order = Order(len(tensors[0]), batch_size, seed, tensors[0].device)

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """The rows (b, ...) of training step ``step`` of each tensor."""
        rows = self.order(step)
        return tuple(tensor[rows] for tensor in self.tensors)


def crop_and_flip(padded: Tensor, generator: torch.Generator, *, crop: int, flip: bool) -> Tensor:
    """Cut a window out of each padded image (n, c, h + 2 crop, w + 2 crop) and mirror half of them, in one gather."""
    n, c, height, width = padded.shape
    h, w, device = height - 2 * crop, width - 2 * crop, padded.device
    top, left = torch.randint(2 * crop + 1, (2, n, 1), generator=generator, device=device)
    rows = torch.arange(h, device=device) + top
    columns = (torch.arange(w, device=device) + left).expand(n, w)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    position = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, h * w)
    return padded.flatten(2).gather(2, position.expand(n, c, h * w)).view(n, c, h, w)


def rotate_all(images: Tensor) -> tuple[Tensor, Tensor]:
    """All four rotations of square images (n, c, s, s): images (4n, c, s, s) and quarter turns (4n,) in 0..3."""
    _check_square(images)
    turns = torch.arange(4, device=images.device).repeat_interleave(len(images))
    return torch.cat([images.rot90(k, (2, 3)) for k in range(4)]), turns


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Each square image (n, c, s, s) turned by its own number of quarter turns (n,) in 0..3."""
    _check_square(images)
    # choosing among the four with an index costs a copy, but keeps a GPU from waiting for the size of each group
    four = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])
    return four[turns, torch.arange(len(images), device=images.device)]


ARRANGEMENTS = tuple(permutations(range(4)))


def rearrange(images: Tensor, arrangement: Tensor) -> Tensor:
    """Each image (n, c, s, s) with its quarters in another order: place i shows quarter ``ARRANGEMENTS[number][i]`` in
    reading order, by a number (n,) in 0..23 for each. ValueError for a side that is odd."""
    _check_square(images)
    n, c, side, _ = images.shape
    if side % 2:
        raise ValueError(f"images: quarters need an even side, got {side}")
    half = side // 2
    quarters = images.view(n, c, 2, half, 2, half).permute(0, 2, 4, 1, 3, 5).reshape(n, 4, c, half, half)
    rows, places = torch.arange(n, device=images.device)[:, None], _arrangements(images.device)[arrangement]
    return quarters[rows, places].view(n, 2, 2, c, half, half).permute(0, 3, 1, 4, 2, 5).reshape(n, c, side, side)


@cache
def _arrangements(device: torch.device) -> Tensor:
    """``ARRANGEMENTS`` (24, 4) on a device, copied once: a copy at each step would make a GPU wait."""
    return torch.tensor(ARRANGEMENTS, device=device)


def _check_square(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images: turns and quarters need square images (n, c, s, s), got {tuple(images.shape)}")
