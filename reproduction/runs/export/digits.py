"""The two sets of handwritten digits at half their size, as a file that a page loads to train networks on them.

A file is a script (see ``export.scripts``) that puts into ``compatkitDigits``, under "digits":

- ``side``: of an image. ``outputs``: classes of each set. ``common``: how many of them, the first ones, are shared.
- ``sets``: ``name``, the numbers of ``train`` and ``test`` images, ``mean`` and ``std`` of the training pixels in 0..1.
- ``count`` of bytes, and ``bytes`` in base 85 (RFC 1924): for each set the training images, their labels, the test
  images, theirs; four bits a pixel, the first of two in the high ones, and a byte a label.
- ``recorded``: for each method the recombination accuracy of Fig. 2's runs on these sets, mean over seeds and both
  networks, null where there is none. ``looks``: for each, in the book's order, its colour and mark.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from compatkit.images import ImageSet, Split

from ... import images
from ...experiments.gygli import FIG2
from ...show.looks import in_order, look
from . import scripts

SETS = ("digits", "mnist5k")
TRAIN, TEST = 1000, 480
"""Images of each set; ``digits`` has 497 to test on."""
COMMON = 9
"""As in the runs of Fig. 2 on handwriting: the 9 is left out of the common classes."""
METHODS = [method for method in FIG2 if method != "upper bound"]

_REGISTRY, NAME = "compatkitDigits", "digits"


def export(preset: str, folder: str | os.PathLike) -> Path:
    """Write the sets into ``folder``; returns the file."""
    return scripts.write(folder, _REGISTRY, NAME, content(preset))


def content(preset: str) -> dict[str, Any]:
    """The content of a file, see above."""
    sets, packed = [], []
    for name in SETS:
        whole = images.load(name).limit(TRAIN, TEST)
        train, test = (_halved(part) for part in (whole.train, whole.test))
        moments = {"mean": float((train / 15).mean()), "std": float((train / 15).std())}
        sets.append({"name": name, "train": len(train), "test": len(test)} | moments)
        for part, pixels in ((whole.train, train), (whole.test, test)):
            packed += [pixels[:, ::2] << 4 | pixels[:, 1::2], part.labels.numpy().astype(np.uint8)]
    whole_bytes = b"".join(array.tobytes() for array in packed)
    return {
        "name": NAME,
        "side": images.EMBEDDED_SIZE // 2,
        "outputs": 10,
        "common": COMMON,
        "sets": sets,
        "recorded": {method: scripts.recorded("fig2", method, preset, "recombination") for method in METHODS},
        "looks": {method: look(method, 0)[:2] for method in in_order(METHODS)},
        "count": len(whole_bytes),
        "bytes": scripts.in_base_85(whole_bytes),
    }


def _halved(split: Split) -> np.ndarray:
    """Images (n, s * s) of half the side, in 0..15."""
    return (F.avg_pool2d(split.images.float(), 2) * (15 / 255)).round().flatten(1).numpy().astype(np.uint8)


def networks(trained: Mapping[str, Any]) -> list[tuple[nn.Sequential, nn.Sequential]]:
    """The two networks that were trained in the page, as extractor and head each; batch normalisation takes the
    statistics of the batch. ``trained`` is what ``Program.trained`` of :mod:`reproduction.show.programs` holds once a
    run has ended.

    Raises:
        ValueError: nothing was trained yet.
    """
    found = []
    for weights in _weights(trained):
        width = trained["setting"]["width"]
        blocks = (_block(1, 8, 1), _block(8, 16, 2), _block(16, width, 2))
        head = {"conv": _block(width, 24, 2), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        parts = {
            "extractor": nn.Sequential(*blocks),
            "head": nn.Sequential(OrderedDict(head | {"linear": nn.Linear(24, 10)})),
        }
        for name, part in parts.items():
            part.load_state_dict(
                {
                    one["name"].removeprefix(f"{name}."): torch.tensor(one["value"]).view(one["shape"])
                    for one in weights
                    if one["name"].startswith(f"{name}.")
                }
            )
        found.append((parts["extractor"].eval(), parts["head"].eval()))
    return found


def replaced(trained: Mapping[str, Any], networks: Sequence[tuple[nn.Module, nn.Module]]) -> dict[str, Any]:
    """The state that ``Program.trained`` holds, with the weights of other networks, as ``networks`` returns them: given
    to it, the program goes on with them. Heads that both share stay.

    Raises:
        ValueError: nothing was trained yet, or weights differ in name or shape.
    """
    found = []
    for (extractor, head), weights in zip(networks, _weights(trained), strict=True):
        parts = {"extractor": extractor, "head": head}
        own = {f"{part}.{name}": x for part in parts for name, x in parts[part].state_dict().items()}
        wanted = {one["name"]: one["shape"] for one in weights if one["name"].split(".")[0] in parts}
        shapes = {name: list(x.shape) for name, x in own.items()}
        if shapes != wanted:
            raise ValueError(f"networks: weights must be of the shapes {wanted}, got {shapes}")
        found.append(
            [one | {"value": own[one["name"]].flatten().tolist()} if one["name"] in own else one for one in weights]
        )
    return {"setting": trained["setting"], "weights": found}


def _weights(trained: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    if not trained:
        raise ValueError("trained: nothing yet, press Train in the program and wait for its end")
    return trained["weights"]


def image_sets() -> list[ImageSet]:
    """The sets as the page has them, at half their size."""
    found = []
    for name in SETS:
        whole = images.load(name).limit(TRAIN, TEST)
        side = images.EMBEDDED_SIZE // 2
        train, test = (
            Split(torch.from_numpy(_halved(part)).view(-1, 1, side, side) * 17, part.labels)
            for part in (whole.train, whole.test)
        )
        found.append(ImageSet(f"{name}, halved", train, test, whole.classes))
    return found


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs, track_running_stats=False),
        nn.ReLU(),
    )
