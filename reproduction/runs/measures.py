"""What is measured of two networks that may fit each other: accuracy after the swap, and how alike their features are.

Every measure is a number for each of the two test sets, "measure/a" and "measure/b"; where both are scalars, their mean
is "measure/mean". Accuracies are in 0..1.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compatkit.alignment import permutation, ridge, stitch
from compatkit.images import ImageSet
from compatkit.layers import CKAMap, layer_features, layer_names
from compatkit.models import split_points
from compatkit.normalization import evaluation
from compatkit.recombination import accuracy, all_logits, output_index, shuffled
from compatkit.similarity import CrossCorrelation, match_channels, mutual_knn

TEST_BATCHES = (8, 32, 128)  # sizes of test batches that are tried beside the one in the config


def measure(
    extractors: Sequence[nn.Module],
    heads: Sequence[nn.Module],
    sets: Sequence[ImageSet],
    common: Sequence[str],
    batch_size: int = 512,
    similarity_images: int | None = 500,
    stitches: Sequence[int] = (),
) -> dict[str, float | list]:
    """All measures of two networks, each an extractor and a head trained on one of the two ``sets``.

    stitches: see ``stitched``.
    common: the classes on which networks are recombined; "chance/mean" is the accuracy of guessing one of them.
    batch_size: images in a test batch at most. Where accuracy is on the common classes, so are the test batches:
    images of a class that is not shared have no part in BN's statistics.
    similarity_images: test images at most on which features are compared; None takes them all.
    """
    networks = [in_one_piece(*parts) for parts in zip(extractors, heads, strict=True)]
    cut = layer_names(extractors[0])[-1]
    found: dict[str, float | list] = {}
    for i, (role, image_set) in enumerate(zip("ab", sets, strict=True)):
        # the network of this set first
        order = (i, 1 - i)
        own, swapped = ([x[j] for j in order] for x in (extractors, heads))
        classes = [sets[j].classes for j in order]
        measures = (
            accuracies(own[0], swapped, image_set, classes, common, batch_size)
            | by_boundary([networks[j] for j in order], image_set, classes, common, cut, batch_size)
            | similarities([networks[j] for j in order], image_set, cut, batch_size, similarity_images)
            | stitched([extractors[j] for j in order], swapped[1], image_set, classes[1], common, batch_size, stitches)
        )
        found |= {f"{name}/{role}": value for name, value in measures.items()}
    for name in [key.removesuffix("/a") for key in found if key.endswith("/a")]:
        if isinstance(found[f"{name}/a"], float):
            found[f"{name}/mean"] = (found[f"{name}/a"] + found[f"{name}/b"]) / 2
    return dict(sorted(found.items())) | {"chance/mean": 1 / len(common)}


def accuracies(
    extractor: nn.Module,
    heads: Sequence[nn.Module],
    image_set: ImageSet,
    head_classes: Sequence[Sequence[str]],
    common: Sequence[str],
    batch_size: int,
) -> dict[str, float]:
    """Accuracy of an extractor with its own head and with the other one's, ``heads``, on the test images of its set,
    beyond what ``by_boundary`` finds.

    "own task": with its own head, on all its classes. "recombination, S statistics" and "recombination, test batches of
    N": with the other head, on the common classes (its unshared outputs masked) and BN so, see ``normalization``.
    """
    own, outputs = heads[0], output_index(head_classes[1], common)

    def swapped(**how) -> float:
        options = {"classes": common, "batch_size": batch_size} | how
        (other,), labels = all_logits(extractor, heads[1:], image_set, **options)
        return accuracy(other, labels, outputs)

    (whole,), labels = all_logits(extractor, [own], image_set, batch_size=batch_size)
    return {
        "own task": accuracy(whole, labels, torch.arange(len(image_set.classes))),
        **{f"recombination, {s} statistics": swapped(statistics=s) for s in ("running", "recalibrated")},
        **{f"recombination, test batches of {n}": swapped(batch_size=n) for n in TEST_BATCHES},
    }


def by_boundary(
    networks: Sequence[nn.Sequential],
    image_set: ImageSet,
    head_classes: Sequence[Sequence[str]],
    common: Sequence[str],
    cut: str,
    batch_size: int,
) -> dict[str, float]:
    """Accuracy on the common classes of the first network, "not recombined", and of the first up to a block and the
    other from there on, wherever training cut them. Outputs that are not shared are masked.

    "recombination at B": up to block B. "recombination": up to the block ``cut``, as in training; "recombination,
    unmasked": there, where any output may win.
    """
    points = split_points(networks[0])
    logits: dict[str, list[Tensor]] = {at: [] for at in [*points, "own"]}
    batches, labels = mixed_batches(image_set.subset(common), image_set, batch_size)
    with torch.no_grad(), evaluation(networks[0]), evaluation(networks[1]):
        for features in batches:
            for place, at in enumerate(points):
                features = networks[0][place](features)
                logits[at].append(networks[1][place + 1 :](features))
            logits["own"].append(networks[0][len(points) :](features))
    whole = {at: torch.cat(parts) for at, parts in logits.items()}
    own, other = (output_index(classes, common) for classes in head_classes)
    return {
        "not recombined": accuracy(whole["own"], labels, own),
        "recombination": accuracy(whole[cut], labels, other),
        "recombination, unmasked": accuracy(whole[cut], labels, other, masked=False),
        **{f"recombination at {at}": accuracy(whole[at], labels, other) for at in points},
    }


def stitched(
    extractors: Sequence[nn.Module],
    head: nn.Module,
    image_set: ImageSet,
    head_classes: Sequence[str],
    common: Sequence[str],
    batch_size: int,
    counts: Sequence[int],
) -> dict[str, float]:
    """Accuracy of the first extractor with the head of the second, on the common classes, after a 1 x 1 convolution
    that was fitted between the extractors on training images of the first one's set.

    "recombination, stitched on N images": an affine map, for each of ``counts``. "recombination, permuted": the optimal
    permutation of channels, on as many images as the largest of them. Nothing where there are none.
    """
    fits = [(f"stitched on {n} images", n, ridge) for n in counts]
    fits += [("permuted", n, permutation) for n in [max(counts, default=0)] if n]
    outputs, found = output_index(head_classes, common), {}
    for name, n, fit in fits:
        images = image_set.normalise(shuffled(image_set.limit(train=n).train).images)
        between = nn.Sequential(extractors[0], stitch(*extractors, images, fit))
        (logits,), labels = all_logits(between, [head], image_set, classes=common, batch_size=batch_size)
        found[f"recombination, {name}"] = accuracy(logits, labels, outputs)
    return found


def similarities(
    networks: Sequence[nn.Sequential], image_set: ImageSet, cut: str, batch_size: int, n_images: int | None
) -> dict[str, float | list]:
    """How alike two networks respond to the same test images, at most ``n_images``, after each block B.

    "cross-correlation at B": mean Pearson correlation of channel i of one with channel i of the other (App. C.2);
    "matched cross-correlation at B": under the permutation that makes it largest; "CKA at B": linear, positions count
    as samples; "neighbours at B": mutual 10 nearest neighbours of features averaged over positions. "CKA map": every
    block of the first (rows) with every block of the second. "channel correlations": of each channel at the block
    ``cut`` with its counterpart, largest first (Fig. 6); "matched channel correlations": under the permutation. What is
    matched needs scipy and is left out where there is none, so that a bare GPU machine can make every run.
    """
    batches, _ = mixed_batches(image_set.limit(test=n_images), image_set, batch_size)
    layers, blocks = split_points(networks[0]), layer_names(networks[0])
    cka = CKAMap()
    correlations = {at: CrossCorrelation() for at in layers}
    pooled = {at: ([], []) for at in layers}
    for batch in batches:
        sides = [layer_features(network, blocks, batch) for network in networks]
        cka.update(*sides)
        for at in layers:
            correlations[at].update(*(side[at] for side in sides))
            for kept, side in zip(pooled[at], sides, strict=True):
                kept.append(side[at].flatten(2).mean(2) if side[at].ndim == 4 else side[at])
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
        if at == cut:
            found["channel correlations"] = _largest_first(by_position)
            if matched is not None:
                found["matched channel correlations"] = _largest_first(matched)
    return found


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
