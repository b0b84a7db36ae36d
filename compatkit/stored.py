"""Image sets as files: NAME.npz with a checksum inside, read and written without torch."""

import hashlib
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .files import replacing

ARRAYS = ("x_train", "y_train", "x_test", "y_test", "class_names")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the ``ARRAYS`` of a set as ``path`` with a checksum inside, atomically."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, sha256=np.array(digest(arrays)), **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The ``ARRAYS`` of a file that ``write_arrays`` wrote, or of one of that form without a checksum, never unpickled.
    Raises ValueError, naming the file, if it is truncated, altered since it was written, or not of that form."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ARRAYS}
            expected = str(file["sha256"]) if "sha256" in file else None
    except PermissionError:
        raise
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, EOFError, OSError, RuntimeError) as error:
        form = f"{', '.join(ARRAYS[:-1])} and {ARRAYS[-1]}, arrays of numbers or text and not of objects"
        raise ValueError(f"{path}: truncated, damaged, or it does not hold {form} ({error})") from error
    if problem := _form_problem(arrays):
        raise ValueError(f"{path}: {problem}")
    if expected is not None and expected != digest(arrays):
        raise ValueError(f"{path}: its content does not match its checksum; delete it and load it again")
    return arrays


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """64 hex digits that tell a set from any other, whatever integers its labels, and whatever width and Unicode form
    its names are stored in."""
    found = hashlib.sha256()
    for key in ARRAYS:
        array = np.ascontiguousarray(arrays[key], np.int64 if key.startswith("y_") else None)
        if key == "class_names":
            array = np.array([unicodedata.normalize("NFC", name) for name in array.tolist()])
        found.update(f"{key} {array.dtype.str} {array.shape}".encode())
        found.update(array.data if array.dtype.kind != "U" else array.tobytes())
    return found.hexdigest()


def _form_problem(arrays: dict[str, np.ndarray]) -> str | None:
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U":
        return f"class_names must be a list of text (astype(str)), got {names.dtype} {names.shape}"
    if double := [name for name, count in Counter(names.tolist()).items() if count > 1]:
        return f"class_names must differ, got {double} more than once"
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim != 4 or not x.size:
            return f"x_{part} must be uint8 (n, c, h, w) and not empty, got {x.dtype} {x.shape}"
        if x.shape[3] <= 4 < min(x.shape[1:3]):
            return f"x_{part} must be (n, c, h, w), got {x.shape} with the channels last: transpose(0, 3, 1, 2)"
        if y.shape != (len(x),) or y.dtype.kind not in "iu":
            return f"y_{part} must be {len(x)} integers, got {y.dtype} {y.shape}"
        if y.min() < 0 or y.max() >= len(names):
            return f"y_{part} must lie in 0..{len(names) - 1}, got {y.min()}..{y.max()}"
    shapes = [arrays[f"x_{part}"].shape[1:] for part in ("train", "test")]
    if shapes[0] != shapes[1]:
        return f"x_train and x_test must be images of one size, got {shapes[0]} and {shapes[1]}"
    return None
