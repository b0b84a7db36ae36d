"""Networks for the images of a set, in parts, on its device."""

from __future__ import annotations

from torch import nn

from compatkit.images import ImageSet
from compatkit.models import auxiliary_head, build, split


def cut_network(
    name: str, image_set: ImageSet, *, width: int, split_at: str, seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Extractor and head for the classes of a set. Their weights depend on the seed alone: networks for other numbers
    of classes start from the same ones in all layers but the last."""
    extractor, template = split(build(name, 2, seed=seed, in_channels=image_set.channels, width=width), split_at)
    head = auxiliary_head(template, len(image_set.classes), seed=seed)
    return extractor.to(image_set.device), head.to(image_set.device)
