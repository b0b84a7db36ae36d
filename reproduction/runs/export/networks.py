"""Networks as files that a page loads: trained again as for their record, in half precision, with batch normalisation
statistics for every recombination, since a page that sees one image has no batch to take them from.

A file is a script (see ``export.scripts``) that puts into ``compatkitNetworks``, under the name of the method:

- ``method``, ``seed``, ``trained_split``: of the run. ``network``, ``width``: see ``models.build``.
- ``size``: channels, height and width of an image. ``eps``: of batch normalisation.
- ``blocks``: of both networks, in order: ``name``, ``kind`` (convolution, residual, pool or linear) and ``stride``.
- ``networks``: for "a" and "b" the ``set`` it learnt, its ``classes``, ``mean`` and ``std`` of the pixels (in 0..1, for
  each channel), and ``arrays``: for each parameter, by torch's name, ``at`` and ``shape``.
- ``combinations``: ``extractor`` and ``head`` ("a" or "b"); ``split``, the block after which the one hands over to the
  other, null where they are one network; ``outputs`` of the head that compete; ``statistics``: for each batch
  normalisation, by its name, where its means begin, its variances after them; ``accuracy`` of what the file holds, on
  ``images`` test images of the extractor's set; ``recorded``, the same of the record, null where there is none.
- ``count``: of the numbers, and ``numbers``: IEEE half precision, little endian, in base 85 (RFC 1924).

Statistics are ``normalization.recalibrated``, first of the extractor on test images of its set, then of the head on
what the extractor makes of them. A recombined network knows and is tested on the shared classes alone, as in
``measures.by_boundary``; one that is whole on all classes, as in ``measures.accuracies``.
"""

from __future__ import annotations

import base64
import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compatkit.images import ImageSet
from compatkit.models import BasicBlock, build, split, split_points
from compatkit.normalization import recalibrated
from compatkit.recombination import accuracy, output_index

from ...experiments import configs
from ...experiments.evidence import metrics_of
from ...experiments.settings import PairRun
from ..context import Context
from ..measures import in_one_piece, mixed_batches
from ..pair import Pair, prepare, train_pair
from ..runner import torch_threads
from . import scripts

METHODS = ("independent", "IIW", "RP", "DCC", "IIW+DCC", "IIW+RP+DCC")
"""What the pages let one choose from."""

_REGISTRY = "compatkitNetworks"


@dataclass(frozen=True)
class Networks:
    """The content of a file: its ``header``, which is all but the numbers, and ``numbers`` (count,), float16."""

    header: dict[str, Any]
    numbers: np.ndarray


def run_of(method: str, preset: str) -> PairRun:
    """The run of Fig. 2 on handwriting whose networks are exported, seed 0.

    Raises:
        ValueError: Fig. 2 has no such method.
    """
    found = {run.method: run for run in configs("fig2", preset, [0]) if run.a == "digits"}
    if method not in found:
        raise ValueError(f"method: must be one of {', '.join(found)}, got {method!r}")
    return found[method]


def export(run: PairRun, preset: str, folder: str | os.PathLike) -> tuple[Path, Networks]:
    """Train the networks of a run, on one thread as for a record, and write them into ``folder``; returns the file and
    what it holds. Another kind of processor arrives at slightly other weights."""
    with torch_threads(1):
        context = Context(show_progress=True)
        pair = prepare(run, context)
        train_pair(pair, run, context)
        found = packed(pair, run, metrics_of(run, preset))
    return write(folder, found), found


# --- from networks to numbers -----------------------------------------------------------------------------------------


class Numbers:
    """Half-precision numbers, one array after the other; an array that is there already is not stored again."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._places: dict[bytes, int] = {}
        self.count = 0

    def place(self, name: str, values: Tensor) -> int:
        """Add values, and tell where they begin."""
        halves = values.detach().half().cpu().numpy().ravel()
        if not np.isfinite(halves).all():
            raise ValueError(f"{name}: has values that half precision cannot hold, got up to {values.abs().max():g}")
        key = halves.tobytes()
        if key not in self._places:
            self._places[key] = self.count
            self.arrays.append(halves)
            self.count += len(halves)
        return self._places[key]

    def encoded(self) -> str:
        """All of them, little endian, in base 85 (RFC 1924)."""
        return scripts.in_base_85(np.concatenate(self.arrays).astype("<f2").tobytes())


def packed(pair: Pair, run: PairRun, recorded: dict[str, Any]) -> Networks:
    """A trained pair as it stands in a file, with accuracies of its record's metrics beside those of the file.

    Raises:
        ValueError: a network of another kind than the page can run.
    """
    parts = zip(pair.extractors, pair.heads, strict=True)
    # rounded first: statistics are to be those of what the page has
    networks = {
        role: copy.deepcopy(in_one_piece(*part)).half().float().eval() for role, part in zip("ab", parts, strict=True)
    }
    sets = dict(zip("ab", pair.sets, strict=True))
    numbers = Numbers()
    header = {
        "method": run.method,
        "seed": run.seed,
        "network": run.network,
        "width": run.width,
        "trained_split": list(dict(pair.extractors[0].named_children()))[-1],
        "size": list(pair.sets[0].train.images.shape[1:]),
        "eps": nn.BatchNorm2d(1).eps,
        "blocks": [_block(name, block) for name, block in networks["a"].named_children()],
        "networks": {role: _network(network, sets[role], numbers) for role, network in networks.items()},
        "combinations": list(_combinations(networks, sets, pair.common, run.test_batch_size, numbers)),
    }
    found = Networks(header, np.concatenate(numbers.arrays))
    for combination in header["combinations"]:
        image_set = sets[combination["extractor"]]
        combination |= _measured(found, combination, image_set, pair.common, run.test_batch_size)
        recorded_as = f"recombination at {combination['split']}" if combination["split"] else "own task"
        combination["recorded"] = recorded.get(f"{recorded_as}/{combination['extractor']}")
    return found


def _block(name: str, block: nn.Module) -> dict[str, Any]:
    if isinstance(block, BasicBlock) and block.projection is None:
        return {"name": name, "kind": "residual", "stride": block.stride}
    kinds = {
        (nn.Conv2d, nn.BatchNorm2d, nn.ReLU): "convolution",
        (nn.AdaptiveAvgPool2d, nn.Flatten): "pool",
        (nn.Linear,): "linear",
    }
    layers = tuple(map(type, block)) if isinstance(block, nn.Sequential) else (type(block),)
    if layers not in kinds:
        raise ValueError(f"network: a page runs resnetD with shortcut A and BN, got {name} of {block}")
    return {"name": name, "kind": kinds[layers], "stride": 1}


def _network(network: nn.Module, image_set: ImageSet, numbers: Numbers) -> dict[str, Any]:
    mean, std = (moment.flatten().tolist() for moment in image_set.pixel_statistics)
    arrays = {
        name: {"at": numbers.place(name, values), "shape": list(values.shape)}
        for name, values in network.named_parameters()
    }
    return {"set": image_set.name, "classes": list(image_set.classes), "mean": mean, "std": std, "arrays": arrays}


def _combinations(
    networks: dict[str, nn.Sequential],
    sets: dict[str, ImageSet],
    common: Sequence[str],
    batch_size: int,
    numbers: Numbers,
) -> Iterator[dict[str, Any]]:
    for role, other in (("a", "b"), ("b", "a")):
        image_set = sets[role]
        batches, _ = mixed_batches(image_set, image_set, batch_size)
        yield _combination(
            role, role, None, range(len(image_set.classes)), recalibrated(networks[role], batches), numbers
        )
        outputs = output_index(sets[other].classes, common).tolist()
        batches, _ = mixed_batches(image_set.subset(common), image_set, batch_size)
        for at in split_points(networks[role]):
            swapped = _recalibrated_parts(split(networks[role], at)[0], split(networks[other], at)[1], batches)
            yield _combination(role, other, at, outputs, swapped, numbers)


@torch.no_grad()
def _recalibrated_parts(extractor: nn.Module, head: nn.Module, batches: Sequence[Tensor]) -> nn.Sequential:
    """A recombined network with statistics of its own, as ``recombination.all_logits`` has them."""
    extractor = recalibrated(extractor, batches)
    return in_one_piece(extractor, recalibrated(head, [extractor(batch) for batch in batches]))


def _combination(
    extractor: str, head: str, at: str | None, outputs: Sequence[int], network: nn.Module, numbers: Numbers
) -> dict[str, Any]:
    moments = {name: torch.cat([bn.running_mean, bn.running_var]) for name, bn in batch_norms(network)}
    statistics = {name: numbers.place(name, values) for name, values in moments.items()}
    return {"extractor": extractor, "head": head, "split": at, "outputs": list(outputs), "statistics": statistics}


def batch_norms(network: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    return [(name, part) for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)]


@torch.no_grad()
def _measured(
    networks: Networks, combination: dict[str, Any], image_set: ImageSet, common: Sequence[str], batch_size: int
) -> dict[str, Any]:
    part = image_set.subset(common) if combination["split"] else image_set
    batches, labels = mixed_batches(part, image_set, batch_size)
    network = rebuilt(networks, combination)
    logits = torch.cat([network(batch) for batch in batches])
    return {"accuracy": accuracy(logits, labels, torch.tensor(combination["outputs"])), "images": len(labels)}


# --- from numbers to networks -----------------------------------------------------------------------------------------


def rebuilt(networks: Networks, combination: dict[str, Any]) -> nn.Sequential:
    """One of the ``combinations`` of a file as a network of torch, which computes what the page computes."""
    network, head = (_loaded(networks, combination[part]) for part in ("extractor", "head"))
    if at := combination["split"]:
        network = in_one_piece(split(network, at)[0], split(head, at)[1])
    for name, bn in batch_norms(network):
        assert bn.running_mean is not None and bn.running_var is not None
        place, n = combination["statistics"][name], bn.num_features
        bn.running_mean.copy_(_floats(networks.numbers[place : place + n]))
        bn.running_var.copy_(_floats(networks.numbers[place + n : place + 2 * n]))
    return network.eval()


def _loaded(networks: Networks, role: str) -> nn.Sequential:
    header, own = networks.header, networks.header["networks"][role]
    options = {"in_channels": header["size"][0], "width": header["width"]}
    network = build(header["network"], len(own["classes"]), seed=0, **options)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            at, shape = own["arrays"][name]["at"], own["arrays"][name]["shape"]
            parameter.copy_(_floats(networks.numbers[at : at + parameter.numel()]).view(shape))
    return network.requires_grad_(False)


def _floats(halves: np.ndarray) -> Tensor:
    return torch.from_numpy(halves.astype(np.float32))


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: str | os.PathLike, networks: Networks) -> Path:
    """Write a file, whole or not at all; returns it."""
    numbers = scripts.in_base_85(networks.numbers.astype("<f2").tobytes())
    content = networks.header | {"count": len(networks.numbers), "numbers": numbers}
    return scripts.write(folder, _REGISTRY, networks.header["method"], content)


def read(path: str | os.PathLike) -> Networks:
    """Read what ``write`` wrote.

    Raises:
        ValueError: the file, which is named, is of another form, another format, or not whole.
    """
    header = scripts.read(path, _REGISTRY, "method")
    try:
        numbers, count = base64.b85decode(header.pop("numbers")), header.pop("count")
    except (ValueError, KeyError) as error:
        raise scripts.not_whole(path, error) from error
    if not 0 <= len(numbers) - 2 * count < 4:
        raise scripts.not_whole(path, f"it says that it holds {count} numbers, and holds {len(numbers) // 2}")
    return Networks(header, np.frombuffer(numbers, "<f2")[:count])
