"""Measures of two networks that may fit each other: accuracy after the swap, and how alike their features are.

Every measure is a number for each of the two test sets, "measure/a" and "measure/b"; where both are scalars, their mean
is "measure/mean". Accuracies are in 0..1.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from compatkit.alignment import permutation, ridge, stitch
from compatkit.devices import seeded_generator
from compatkit.images import ImageSet
from compatkit.layers import CKAMap, layer_features, layer_names
from compatkit.models import seeded, split_points
from compatkit.normalization import evaluation, recalibrated
from compatkit.recombination import accuracy, all_logits, output_index, shuffled
from compatkit.similarity import (
    CrossCorrelation,
    cross_correlation,
    linear_cka,
    match_channels,
    mutual_knn,
    permutation_test,
    procrustes_similarity,
    rsa,
)

PERMUTATIONS = 99
STITCH_STEPS, STITCH_IMAGES = 300, 1000
TEST_BATCHES = (8, 32, 128)  # sizes of test batches that are tried beside the one in the config


@dataclass(frozen=True)
class Probe:
    """Two networks before the test images of one of their sets, that of the first: what every measure is a function of.

    Attributes:
        extractors, heads, classes: of the network of this set first; the names of the heads' outputs.
        common: the classes on which networks are recombined. So are the test batches there: images of a class that is
            not shared have no part in BN's statistics.
        batch_size: images in a test batch at most.
        similarity_images: test images at most on which features are compared; None takes them all.
        stitches: see ``stitched``.
    """

    extractors: Sequence[nn.Module]
    heads: Sequence[nn.Module]
    classes: Sequence[Sequence[str]]
    image_set: ImageSet
    common: Sequence[str]
    batch_size: int = 512
    similarity_images: int | None = 500
    stitches: Sequence[int] = ()

    @cached_property
    def networks(self) -> list[nn.Sequential]:
        """Both in one piece again, to be cut anywhere."""
        return [in_one_piece(*parts) for parts in zip(self.extractors, self.heads, strict=True)]

    @property
    def cut(self) -> str:
        """The block after which training has cut them."""
        return layer_names(self.extractors[0])[-1]

    @cached_property
    def outputs(self) -> list[Tensor]:
        """The output of each head that stands for each of the common classes."""
        return [output_index(classes, self.common) for classes in self.classes]

    def accuracy(
        self, extractor: nn.Module, head: nn.Module, *, own: bool = False, masked: bool = True, **how: Any
    ) -> float:
        """Accuracy of an extractor with a head on the test images of the common classes.

        Args:
            own: the outputs are those of the network of this set, else of the other one.
            masked: see ``recombination.accuracy``.
            how: batch size or statistics of ``recombination.all_logits``.
        """
        options = {"classes": self.common, "batch_size": self.batch_size} | how
        (logits,), labels = all_logits(extractor, [head], self.image_set, **options)
        return accuracy(logits, labels, self.outputs[not own], masked=masked)

    def own_task(self, network: nn.Sequential, **how: Any) -> float:
        """Accuracy of a network in one piece on the test images of all classes of the set; ``how`` as in
        ``accuracy``."""
        cut, options = len(self.extractors[0]), {"batch_size": self.batch_size} | how
        (logits,), labels = all_logits(network[:cut], [network[cut:]], self.image_set, **options)
        return accuracy(logits, labels, torch.arange(len(self.image_set.classes)))

    def features(self) -> Iterator[list[dict[str, Tensor]]]:
        """The outputs of each network's blocks for the images on which features are compared, batch by batch."""
        batches, _ = mixed_batches(self.image_set.limit(test=self.similarity_images), self.image_set, self.batch_size)
        for batch in batches:
            yield [layer_features(network, layer_names(network), batch) for network in self.networks]

    @cached_property
    def pooled(self) -> list[Tensor]:
        """The features (n, channels) of each network where training has cut it, averaged over positions."""
        sides = zip(*([averaged(side[self.cut]) for side in sides] for sides in self.features()), strict=True)
        return [torch.cat(side) for side in sides]


def probes(
    extractors: Sequence[nn.Module],
    heads: Sequence[nn.Module],
    sets: Sequence[ImageSet],
    common: Sequence[str],
    **options: Any,
) -> list[Probe]:
    """Two networks, each an extractor and a head trained on one of the two ``sets``, before the test images of both."""
    found = []
    for order in ((0, 1), (1, 0)):
        own, swapped, images = ([x[i] for i in order] for x in (extractors, heads, sets))
        found.append(Probe(own, swapped, [s.classes for s in images], images[0], common, **options))
    return found


def measure(of: Sequence[Probe], names: Iterable[str] = ()) -> dict[str, float | list]:
    """The measures before the test images of each set, "measure/a" and "measure/b", and their mean where they are
    scalars.

    Args:
        of: as ``probes`` makes them.
        names: of ``MEASURES``; none named means those of every run, with "chance/mean", the accuracy of guessing one
            of the common classes.
    """
    found: dict[str, float | list] = {}
    for role, probe in zip("ab", of, strict=True):
        for name in names or EVERY_RUN:
            found |= {f"{value_of}/{role}": value for value_of, value in MEASURES[name](probe).items()}
    for name in [key.removesuffix("/a") for key in found if key.endswith("/a")]:
        if isinstance(found[f"{name}/a"], float):
            found[f"{name}/mean"] = (found[f"{name}/a"] + found[f"{name}/b"]) / 2
    return dict(sorted(found.items())) | ({} if names else {"chance/mean": 1 / len(of[0].common)})


def accuracies(probe: Probe) -> dict[str, float]:
    """Accuracy on the test images of the set, beyond what ``by_boundary`` finds.

    "own task": of an extractor with its own head, on all classes. "recombination, S statistics" and "recombination,
    test batches of N": with the other head, on the common classes and BN so, see ``normalization``.
    """
    swapped = partial(probe.accuracy, probe.extractors[0], probe.heads[1])
    return {
        "own task": probe.own_task(probe.networks[0]),
        **{f"recombination, {s} statistics": swapped(statistics=s) for s in ("running", "recalibrated")},
        **{f"recombination, test batches of {n}": swapped(batch_size=n) for n in TEST_BATCHES},
    }


def at_home(probe: Probe) -> dict[str, float]:
    """Accuracy of the first network on all its classes, nothing swapped, under other statistics than those of test
    batches, which "own task" has.

    "own task, S statistics": BN so, see ``normalization``. "own task, statistics of training images": recomputed on the
    training images as they are, neither cropped nor turned, in batches as large as the test batches.
    """
    images, whole = shuffled(probe.image_set.train).images, probe.networks[0]
    of_training = recalibrated(whole, map(probe.image_set.normalise, images.split(probe.batch_size)))
    return {
        "own task, statistics of training images": probe.own_task(of_training, statistics="running"),
        **{f"own task, {s} statistics": probe.own_task(whole, statistics=s) for s in ("running", "recalibrated")},
    }


def by_boundary(probe: Probe) -> dict[str, float]:
    """Accuracy on the common classes of the first network, "not recombined", and of the first up to a block and the
    other from there on, wherever training cut them. Outputs that are not shared are masked.

    "recombination at B": up to block B. "recombination": up to the block ``cut``, as in training; "recombination,
    unmasked": there, where any output may win.
    """
    first, other = probe.networks
    places = {at: place for place, at in enumerate(split_points(first), 1)}
    swapped = {at: probe.accuracy(first[:place], other[place:]) for at, place in places.items()}
    cut = places[probe.cut]
    return {
        "not recombined": probe.accuracy(first[:cut], first[cut:], own=True),
        "recombination": swapped[probe.cut],
        "recombination, unmasked": probe.accuracy(first[:cut], other[cut:], masked=False),
        **{f"recombination at {at}": value for at, value in swapped.items()},
    }


def stitched(probe: Probe) -> dict[str, float]:
    """Accuracy on the common classes of the first extractor with the head of the second, after a 1 x 1 convolution
    between the extractors that was fitted on training images of the first one's set.

    "recombination, stitched on N images": an affine map, for each of ``stitches``. "recombination, permuted": the
    optimal permutation of channels, on as many images as the largest of them. Nothing where there are none.
    """
    fits = [(f"stitched on {n} images", n, ridge) for n in probe.stitches]
    fits += [("permuted", n, permutation) for n in [max(probe.stitches, default=0)] if n]
    image_set, found = probe.image_set, {}
    for name, n, fit in fits:
        images = image_set.normalise(shuffled(image_set.limit(train=n).train).images)
        between = nn.Sequential(probe.extractors[0], stitch(*probe.extractors, images, fit))
        found[f"recombination, {name}"] = probe.accuracy(between, probe.heads[1])
    return found


def similarities(probe: Probe) -> dict[str, float | list]:
    """The similarity of two networks' responses to the same test images, after each block B.

    "cross-correlation at B": mean Pearson correlation of channel i of one with channel i of the other (App. C.2);
    "matched cross-correlation at B": under the permutation that makes it largest; "CKA at B": linear, positions count
    as samples; "neighbours at B": mutual 10 nearest neighbours of features averaged over positions. "CKA map": every
    block of the first (rows) with every block of the second. "channel correlations": of each channel at the block
    ``cut`` with its counterpart, largest first (Fig. 6); "matched channel correlations": under the permutation. What is
    matched needs scipy and is left out where there is none, so that a bare GPU machine can make every run.
    """
    layers, blocks = split_points(probe.networks[0]), layer_names(probe.networks[0])
    cka = CKAMap()
    correlations = {at: CrossCorrelation() for at in layers}
    pooled: dict[str, tuple[list[Tensor], list[Tensor]]] = {at: ([], []) for at in layers}
    for sides in probe.features():
        cka.update(*sides)
        for at in layers:
            correlations[at].update(*(side[at] for side in sides))
            for kept, side in zip(pooled[at], sides, strict=True):
                kept.append(averaged(side[at]))
    matrix = cka.compute()
    found: dict[str, float | list] = {"CKA map": _rounded(matrix)}
    for at in layers:
        channels = correlations[at].compute()
        by_position, matched = channels.diagonal(), _matched(channels)
        x, y = map(torch.cat, pooled[at])
        found |= {
            f"cross-correlation at {at}": by_position.mean().item(),
            f"CKA at {at}": matrix[blocks.index(at), blocks.index(at)].item(),
            f"neighbours at {at}": mutual_knn(x, y, min(10, len(x) - 1)),
        }
        if matched is not None:
            found[f"matched cross-correlation at {at}"] = matched.mean().item()
        if at == probe.cut:
            found["channel correlations"] = _largest_first(by_position)
            if matched is not None:
                found["matched channel correlations"] = _largest_first(matched)
    return found


def against_chance(probe: Probe) -> dict[str, float]:
    """The similarity of features where training has cut the networks, averaged over positions, beside images that are
    paired at random.

    For "pooled correlation" (channels by place) and the other ``SCORES``: "M at B", the score after this block; "M at
    B, chance", its mean over ``PERMUTATIONS`` orders of the images; "M at B, above chance", 0 at that mean and 1 for a
    score of 1; and "M at B, p", the share of orders that score as high.
    """
    found = {}
    for name, score in SCORES.items():
        test = permutation_test(score, *probe.pooled, permutations=PERMUTATIONS)
        said = f"pooled {name} at {probe.cut}"
        found |= {said: test.value, f"{said}, chance": test.null.mean().item(), f"{said}, p": test.p_value}
        found[f"{said}, above chance"] = test.above_chance
    return found


def fooled(probe: Probe) -> dict[str, float]:
    """Accuracy of the other network's head on features that no network has made: a cluster of noise for each common
    class, in the shape of the features that the head takes.

    "noise, as it is": recombined without training. "noise, stitched by labels": after a 1 x 1 convolution that was
    trained on labels for ``STITCH_STEPS`` steps, the head frozen. "recombination, stitched by labels": the same
    convolution on the features of the first network, from training images of the common classes.
    """
    extractor, (_, head), image_set = probe.extractors[0], probe.heads, probe.image_set.subset(probe.common)
    train, test = (shuffled(split) for split in (image_set.limit(train=STITCH_IMAGES).train, image_set.test))
    with torch.no_grad(), evaluation(extractor):
        features = [extractor(probe.image_set.normalise(split.images)) for split in (train, test)]
    with torch.no_grad(), evaluation(probe.extractors[1]):
        wanted = probe.extractors[1](probe.image_set.normalise(test.images[:2]))
    draws = seeded_generator("noise", probe.image_set.name)
    centres = torch.randn(len(probe.common), wanted.shape[1], 1, 1, generator=draws)
    noise = [
        (centres[split.labels.cpu()] + torch.randn(len(split), *wanted.shape[1:], generator=draws)).to(wanted)
        for split in (train, test)
    ]
    outputs, found = probe.outputs[1].to(wanted.device), {}
    for name, (seen, unseen) in {"noise": noise, "recombination": features}.items():
        between = trained_stitch(seen, train.labels, head, outputs)
        with torch.no_grad(), evaluation(head):
            if name == "noise":
                found["noise, as it is"] = accuracy(head(unseen), test.labels, outputs)
            found[f"{name}, stitched by labels"] = accuracy(head(between(unseen)), test.labels, outputs)
    return found


def trained_stitch(features: Tensor, labels: Tensor, head: nn.Module, outputs: Tensor) -> nn.Conv2d:
    """A 1 x 1 convolution by which a frozen head tells the labels of features, trained by cross-entropy.

    Source: Lenc and Vedaldi 2015; Bansal et al. 2021.
    """
    channels = features.shape[1]
    with seeded(0):
        between = nn.Conv2d(channels, channels, 1)
    between.to(features)
    optimizer = torch.optim.Adam(between.parameters(), lr=0.01)
    order = torch.Generator().manual_seed(0)
    with evaluation(head):
        for _ in range(STITCH_STEPS):
            batch = torch.randint(len(features), (64,), generator=order).to(features.device)
            logits = head(between(features[batch]))[:, outputs]
            loss = nn.functional.cross_entropy(logits, labels[batch])
            (between.weight.grad, between.bias.grad) = torch.autograd.grad(loss, (between.weight, between.bias))
            optimizer.step()
    return between


def averaged(x: Tensor) -> Tensor:
    """Maps (n, c, h, w) averaged over their positions; what has none as it is."""
    return x.flatten(2).mean(2) if x.ndim == 4 else x


def _matched(channels: Tensor) -> Tensor | None:
    """The correlations (p,) of channels with their counterparts under the optimal permutation, if scipy is there."""
    try:
        permutation, _ = match_channels(channels)
    except ImportError:
        return None
    return channels.gather(1, permutation[:, None])[:, 0]


def _largest_first(correlations: Tensor) -> list[float]:
    return _rounded(correlations.sort(descending=True).values)


def in_one_piece(extractor: nn.Module, head: nn.Module) -> nn.Sequential:
    """A network in one piece again, to be cut anywhere."""
    return nn.Sequential(OrderedDict([*extractor.named_children(), *head.named_children()]))


def mixed_batches(part: ImageSet, whole: ImageSet, batch_size: int) -> tuple[list[Tensor], Tensor]:
    """The test images of a part of a set, normalised as the whole, in mixed batches of nearly equal size; labels."""
    test = shuffled(part.test)
    return [whole.normalise(x) for x in test.images.tensor_split(math.ceil(len(test) / batch_size))], test.labels


def _rounded(values: Tensor) -> list:
    return [_rounded(v) for v in values] if values.ndim > 1 else [round(v, 4) for v in values.tolist()]


SCORES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "correlation": lambda x, y: cross_correlation(x, y).diagonal().mean().item(),
    "matched correlation": lambda x, y: match_channels(cross_correlation(x, y))[1],
    "CKA": linear_cka,
    "unbiased CKA": lambda x, y: linear_cka(x, y, unbiased=True),
    "neighbours": lambda x, y: mutual_knn(x, y, min(10, len(x) - 1)),
    "Procrustes": procrustes_similarity,
    "RSA": rsa,
}
"""What is held against images that are paired at random."""

MEASURES: dict[str, Callable[[Probe], dict]] = {
    "accuracies": accuracies,
    "boundaries": by_boundary,
    "similarities": similarities,
    "stitches": stitched,
    "home": at_home,
    "chance": against_chance,
    "noise": fooled,
}
"""What can be measured of networks that are kept, by name."""

EVERY_RUN = ("accuracies", "boundaries", "similarities", "stitches")
