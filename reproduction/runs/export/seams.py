"""Seams between extractor a and head b of exported networks, as a file that a page loads: nothing, the optimal
permutation of channels, or an affine map of them that was fitted on a few images.

A file is a script (see ``export.scripts``) that puts into ``compatkitSeams``, under "seam-METHOD":

- ``method``; ``networks`` is the file of :mod:`reproduction.runs.export.networks` of it.
- ``order``: for each channel of a its counterpart in b under the optimal permutation.
- ``correlations``: where those of each channel of a with each of b begin.
- ``stages``: for each ``images``, on how many training images of a's set it was fitted (0: nothing is put between,
  null: the permutation); ``weight`` and ``bias``, where those of the map begin, null for nothing; ``statistics``: for
  each batch normalisation of head b where its means begin, its variances after them; ``accuracy`` of what the file
  holds on the test images of a's set; ``recorded``, the mean of the records of ``stitching`` over seeds and both
  networks, null where there is none.
- ``count`` of the numbers, and ``numbers``: as those of networks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compatkit.alignment import permutation, ridge, stitch
from compatkit.images import ImageSet
from compatkit.models import split
from compatkit.normalization import recalibrated
from compatkit.recombination import accuracy, shuffled
from compatkit.similarity import cross_correlation

from ... import images
from ..measures import mixed_batches
from . import networks, scripts

METHODS = ("independent", "IIW", "DCC")
"""Those that the experiment ``stitching`` records, and the page shows."""
IMAGES = (1, 3, 10, 30, 100)
"""On how many images maps are fitted. The permutation is found on the largest of the records' numbers, 1 000."""
SORTED_ON = 1000

_REGISTRY = "compatkitSeams"


def export(method: str, preset: str, folder: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """Fit what is put between the networks of a method that lie in ``folder``, and write it beside them."""
    found = networks.read(scripts.path_of(folder, method))
    sets = [images.load(found.header["networks"][role]["set"]) for role in "ab"]
    content = seam(found, sets, preset)
    return scripts.write(folder, _REGISTRY, content["name"], content), content


def seam(found: networks.Networks, sets: Sequence[ImageSet], preset: str) -> dict[str, Any]:
    """The content of a file, see above, of networks as they lie in one, and the sets that they learnt."""
    header = found.header
    whole = [next(c for c in header["combinations"] if c["extractor"] == c["head"] == role) for role in "ab"]
    parts = [split(networks.rebuilt(found, c), header["trained_split"]) for c in whole]
    (a, _), (b, head) = parts
    outputs = next(c["outputs"] for c in header["combinations"] if (c["extractor"], c["head"]) == ("a", "b"))
    own = sets[0]
    common = [sets[1].classes[output] for output in outputs]
    batches, labels = mixed_batches(own.subset(common), own, 512)
    with torch.no_grad():
        a, b = (recalibrated(part, batches) for part in (a, b))
        features, others = (torch.cat([part(batch) for batch in batches]) for part in (a, b))
    correlations = cross_correlation(features, others)
    maps = {"none": None, "sorted": _fitted(a, b, own, SORTED_ON, permutation)}
    maps |= {str(n): _fitted(a, b, own, n, ridge) for n in IMAGES}
    numbers = networks.Numbers()
    stages = []
    for name, layer in maps.items():
        with torch.no_grad():
            given = [part if layer is None else layer(part) for part in features.split(512)]
            changed = recalibrated(head, given)
            logits = torch.cat([changed(part) for part in given])
        moments = {n: torch.cat([bn.running_mean, bn.running_var]) for n, bn in networks.batch_norms(changed)}
        stages.append(
            {
                "images": 0 if name == "none" else None if name == "sorted" else int(name),
                "weight": None if layer is None else numbers.place(name, layer.weight),
                "bias": None if layer is None else numbers.place(name, layer.bias),
                "statistics": {n: numbers.place(n, values) for n, values in moments.items()},
                "accuracy": accuracy(logits, labels, torch.tensor(outputs)),
                "recorded": _recorded(header["method"], name, preset),
            }
        )
    order = maps["sorted"].weight.flatten(1).argmax(0).tolist()
    return {
        "name": f"seam-{header['method']}",
        "method": header["method"],
        "order": order,
        "correlations": numbers.place("correlations", correlations),
        "stages": stages,
        "count": numbers.count,
        "numbers": numbers.encoded(),
    }


def _fitted(a: nn.Module, b: nn.Module, own: ImageSet, n: int, fit: Any) -> nn.Conv2d:
    """``alignment.stitch`` on training images, rounded as the page has it."""
    return stitch(a, b, own.normalise(shuffled(own.limit(train=n).train).images), fit).half().float()


def _recorded(method: str, name: str, preset: str) -> float | None:
    measure = {"none": "recombination", "sorted": "recombination, permuted"}
    key = measure.get(name, f"recombination, stitched on {name} images")
    return scripts.recorded("stitching", method, preset, key)
