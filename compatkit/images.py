"""Image sets as uint8 tensors that move to the device once, and classes aligned by name."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .stored import digest

LARGE = 2**33  # bytes; more images than that stay on the host, mapped from a file, and minibatches of them are moved


@dataclass(frozen=True)
class Split:
    """Images (n, c, h, w) as uint8 and their labels (n,) as int64, on one device; of more than ``LARGE`` bytes only the
    labels leave the host."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> Split:
        return Split(self.images[index], self.labels[index])

    def to(self, device) -> Split:
        return Split(self.images if self.images.nbytes > LARGE else self.images.to(device), self.labels.to(device))

    def gather(self, rows: Tensor) -> Tensor:
        """The images of these rows (b,), where the labels are."""
        return self.images[rows.to(self.images.device)].to(self.labels.device)


@dataclass(frozen=True)
class ImageSet:
    """A train and a test split; label i means ``classes[i]``, a name in Unicode's composed form (NFC) on any system."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(unicodedata.normalize("NFC", name) for name in self.classes))
        if double := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise ValueError(f"classes: names must differ, got {double} more than once")

    @property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the training images, (1, c, 1, 1) each, for pixels in 0..1."""
        dtype = torch.get_default_dtype()
        if dtype not in self._statistics:
            channels, large = self.train.images.transpose(0, 1), self.train.images.nbytes > LARGE
            # one channel at a time, so that only one is ever held as floats
            moments = [_counted_moments(c) if large else (c.to(dtype).mean(), c.to(dtype).std()) for c in channels]
            mean, std = (torch.stack(m).to(self.device, dtype) / 255 for m in zip(*moments, strict=True))
            self._statistics[dtype] = mean.view(1, -1, 1, 1), std.clamp_min(1e-3).view(1, -1, 1, 1)
        return self._statistics[dtype]

    @cached_property
    def _statistics(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        return {}

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (n, c, h, w) to floats of the default type, centred and scaled by ``pixel_statistics``."""
        mean, std = self.pixel_statistics
        return images.to(mean.dtype).div_(255).sub_(mean).div_(std)

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def device(self) -> torch.device:
        return self.train.labels.device

    @cached_property
    def digest(self) -> str:
        """12 hex digits that tell the pixels, labels and class names of this set from any other's."""
        return digest(self.arrays())[:12]

    def arrays(self) -> dict[str, np.ndarray]:
        """The set as ``image_files`` stores it."""
        arrays = {"class_names": np.array(self.classes)}
        for part, split in (("train", self.train), ("test", self.test)):
            arrays |= {f"x_{part}": split.images.cpu().numpy(), f"y_{part}": split.labels.cpu().numpy()}
        return arrays

    @cached_property
    def train_digest(self) -> str:
        """12 hex digits that tell the training split from any other."""
        found = hashlib.sha256(self.train.images.cpu().contiguous().numpy().data)
        found.update(self.train.labels.cpu().numpy().data)
        return found.hexdigest()[:12]

    def to(self, device) -> ImageSet:
        if self.device == torch.device(device):
            return self
        return ImageSet(self.name, self.train.to(device), self.test.to(device), self.classes)

    def with_channels(self, channels: int) -> ImageSet:
        """These images, or their mean over channels in so many copies where they have another number of channels."""
        if self.channels == channels:
            return self

        def converted(split: Split) -> Split:
            grey = split.images.float().mean(1, keepdim=True).round().to(torch.uint8)
            return Split(grey.expand(-1, channels, -1, -1).contiguous(), split.labels)

        return ImageSet(self.name, converted(self.train), converted(self.test), self.classes)

    def subset(self, classes: Sequence[str]) -> ImageSet:
        """The images of ``classes`` alone; label i of the result means ``classes[i]``."""
        index = class_index(self.classes, classes)
        return ImageSet(self.name, _relabel(self.train, index), _relabel(self.test, index), tuple(classes))

    def limit(self, train: int | None = None, test: int | None = None) -> ImageSet:
        """The first ``train`` and ``test`` images of an even draw from all classes; None keeps the split whole."""
        if train is test is None:
            return self  # with what it has computed of itself
        return ImageSet(self.name, _even_draw(self.train, train), _even_draw(self.test, test), self.classes)


def class_index(classes: Sequence[str], of: Sequence[str]) -> Tensor:
    """The place of each of ``classes`` in ``of``, or -1: a map from one set's labels to another's, int64 (classes,).
    Raises ValueError if ``of`` names a class that ``classes`` does not have, or names one twice."""
    if missing := [name for name in of if name not in classes]:
        raise ValueError(f"of: no class {missing} among {list(classes)}")
    if len(set(of)) != len(of):
        raise ValueError(f"of: a class is named twice in {list(of)}")
    place = {name: i for i, name in enumerate(of)}
    return torch.tensor([place.get(name, -1) for name in classes])


def common_classes(*sets: ImageSet, leave_out: Sequence[str] = ()) -> tuple[str, ...]:
    """The class names that all sets have, but those to ``leave_out``, in the order of the first. Raises ValueError if
    fewer than two remain, or one to leave out is not common."""
    if unknown := [name for name in leave_out if not all(name in s.classes for s in sets)]:
        raise ValueError(f"leave_out: {unknown} are not common classes of {[s.name for s in sets]}")
    common = tuple(c for c in sets[0].classes if all(c in s.classes for s in sets) and c not in leave_out)
    if len(common) < 2:
        listing = "; ".join(f"{s.name}: {', '.join(s.classes[:12])}" for s in sets)
        raise ValueError(f"sets: at least 2 common classes are needed, got {len(common)} ({listing})")
    return common


def with_equal_channels(*sets: ImageSet) -> list[ImageSet]:
    """The sets with as many channels each, grey images being copied to the number of the others. Raises ValueError if
    these differ among themselves."""
    counts = {s.channels for s in sets}
    if len(counts - {1}) > 1:
        listing = ", ".join(f"{s.name} {s.channels}" for s in sets)
        raise ValueError(f"sets: images must be grey (1 channel) or have as many channels, got {listing}")
    return [s.with_channels(max(counts)) for s in sets]


def _counted_moments(channel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a channel (n, h, w), from how often each of the 256 values occurs."""
    counts = torch.stack([part.flatten().bincount(minlength=256) for part in channel.split(1024)]).sum(0)
    share, value = counts.double() / counts.sum(), torch.arange(256).double()
    mean = share @ value
    return mean, (share @ (value - mean).square()).sqrt()


def _relabel(split: Split, index: Tensor) -> Split:
    labels = index.to(split.labels.device)[split.labels]
    rows = (labels >= 0).nonzero().flatten()
    if len(rows) and int(rows[-1] - rows[0]) + 1 == len(rows):  # they stand together: nothing is copied
        together = slice(int(rows[0]), int(rows[-1]) + 1)
        return Split(split.images[together], labels[together])
    return Split(split.images[rows.to(split.images.device)], labels[rows])


def _even_draw(split: Split, n: int | None) -> Split:
    """The first ``n`` images when the classes take turns, each in stored order."""
    if n is None or n >= len(split):
        return split
    if n < 1:
        raise ValueError(f"limit: a split needs at least 1 image, got {n}")
    return split[in_turns(split.labels)[:n].sort().values]


def in_turns(labels: Tensor) -> Tensor:
    """The order of images in which the classes take turns, each in stored order."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    turn = torch.arange(len(labels), device=order.device) - starts[labels[order]]
    return order[turn.argsort(stable=True)]
