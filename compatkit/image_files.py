"""Your own images as a set: a folder with one of each class, or an ``npz`` file."""

import hashlib
import json
import math
import os
import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .extras import require
from .files import replacing
from .images import LARGE, ImageSet, Split
from .stored import read_arrays, write_arrays


def write_npz(path: str | os.PathLike, image_set: ImageSet) -> None:
    """Store a set as ``path``, atomically and with a checksum inside."""
    write_arrays(Path(path), image_set.arrays())


def read_npz(path: str | os.PathLike) -> ImageSet:
    """Read what ``write_npz`` wrote, or a file of the same form without a checksum. Nothing is unpickled.

    One of your own: ``numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=..., class_names=...)``, images
    uint8 (n, c, h, w) and of one size, labels integers, one name (text) for each label.

    Raises:
        ValueError: the file, which is named, is truncated, altered since it was written, or not of that form.
    """
    path = Path(path)
    arrays = read_arrays(path)
    train, test = (
        Split(torch.from_numpy(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"].astype(np.int64)))
        for part in ("train", "test")
    )
    return ImageSet(path.stem, train, test, tuple(map(str, arrays["class_names"])))


def read_folder(root: str | os.PathLike, size: int = 32) -> ImageSet:
    """A set from the folders ``root``/train/CLASS and ``root``/test/CLASS (or val), in colour, as a viewer shows it.

    A warning names the files that Pillow does not open. More than ``images.LARGE`` bytes are converted once to a file
    beside the folder, and mapped from it.

    Args:
        root: the folder, whose name is the set's.
        size: side of the squares to which images are scaled.

    Raises:
        ValueError: a folder without images, classes that are not in both parts, or a damaged file.
        ImportError: Pillow is not installed.
    """
    root = Path(root)
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
    """The files CLASS/** that Pillow opens, by class, whatever Unicode form its folders' names have, in order."""
    pillow = require("PIL.Image", "data")
    suffixes = {suffix for suffix, kind in pillow.registered_extensions().items() if kind in pillow.OPEN}
    folders = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    found: dict[str, list[tuple[str, int, int]]] = {unicodedata.normalize("NFC", name): [] for name in folders}
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
        told = f"imagefolder: of the files in {folder} {len(others)} are left out ({why}): {listing}"
        warnings.warn(told, stacklevel=3)
    if empty := [name for name, files in found.items() if not files] or ["CLASS"] * (not found):
        raise ValueError(f"imagefolder: no images in {', '.join(str(folder / name) for name in empty)}")
    return {name: tuple(found[name]) for name in sorted(found)}


@lru_cache(8)
def _split(folder: Path, by_class: tuple[Files, ...], size: int) -> Split:
    """The images (n, 3, size, size) of a folder, mapped from a file if they are ``LARGE``."""
    labels = torch.tensor([label for label, files in enumerate(by_class) for _ in files])
    images = (shrink(read_image(folder / path), size)[0] for files in by_class for path, *_ in files)
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


def read_image(file: Path) -> Tensor:
    """One image as a viewer shows it: uint8 (1, 3, h, w), turned as its EXIF says, on white where it is transparent.
    Raises ValueError, naming the file, if it is damaged, or it is unknown which of its numbers is white."""
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
    """Grey values as uint8: integers of 16 bits, or floats from 0 to 1; ValueError for values beyond."""
    whole = pixels.dtype.kind in "iu"
    least, most = pixels.min(), pixels.max()
    if not 0 <= least <= most <= (65535 if whole else 1):
        known = "integers of 0..65535" if whole else "floats of 0..1"
        raise ValueError(f"{known} are read, got {least}..{most}")
    return (pixels >> 8 if whole else (255 * pixels).round()).astype(np.uint8)


def shrink(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """uint8 images (n, c, h, w) scaled to a side, or to height and width, bilinearly with antialiasing."""
    parts = images.split(1000)  # held as floats at a time
    scaled = (F.interpolate(part.float(), size, mode="bilinear", antialias=True) for part in parts)
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in scaled])
