"""Any extractor with any head: recombined networks and the accuracy of all pairs (paper A, Sec. 4)."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .devices import at_least_float32
from .images import ImageSet, Split
from .inspection import SIZES, as_precise, features_of, read_only, run_on_meta, sized_layers
from .normalization import STATISTICS, check_settable, evaluation, recalibrated


def recombine(extractor: nn.Module, head: nn.Module) -> nn.Sequential:
    """n_ab(x) = h(f(x; Phi_a); Theta_b): the extractor of one network with the head of another, sharing their
    parameters (paper A, Sec. 3.1). Raises ValueError if the head does not take what the extractor gives, such as
    another number of channels."""
    check_fit(extractor, head)
    return nn.Sequential(extractor, head)


def check_fit(extractor: nn.Module, head: nn.Module) -> None:
    """Raise ValueError unless the head can run on the extractor's features of images of any usual size; outlines are
    run, and parts that cannot be run so are not judged."""
    sized, refused = sized_layers(head), None
    for side in SIZES if sized else ():
        features = features_of(extractor, side)
        if features is not None and run_on_meta(head, features) is not None:
            return
        refused = features if refused is None else refused
    if refused is not None:
        raise ValueError(
            f"head: takes features of {sized[0][1]} channels, and the extractor gives {refused.shape[1]}; "
            "models.fit_channels adds a convolution between them, to be trained"
        )


def accuracy_matrix(
    extractors: Sequence[nn.Module],
    heads: Sequence[nn.Module],
    image_set: ImageSet,
    *,
    head_classes: Sequence[Sequence[str]],
    common: Sequence[str] | None = None,
    statistics: str = "batch",
    batch_size: int = 512,
) -> Tensor:
    """Accuracy, (extractors, heads) in 0..1, of every recombination on the test images of a set, where the outputs for
    the evaluated classes compete (paper A, Sec. 4).

    Args:
        extractors, heads: every extractor runs with every head.
        image_set: its test images are used, its training images normalise them.
        head_classes: for each head the class names of its outputs.
        common: evaluate on the images of these classes alone, which every head must know; None means all of the set.
        statistics, batch_size: see ``all_logits``.

    Raises:
        ValueError: a head lacks a class, or has not as many outputs as names; and as ``all_logits``.
    """
    if len(heads) != len(head_classes):
        raise ValueError(f"head_classes: one list for each of {len(heads)} heads is needed, got {len(head_classes)}")
    outputs = torch.stack([output_index(classes, common or image_set.classes) for classes in head_classes])
    outputs = outputs.to(image_set.device)  # once, not for each pair: a GPU waits for a copy
    matrix = torch.empty(len(extractors), len(heads), dtype=torch.float64, device=image_set.device)
    for row, extractor in zip(matrix, extractors, strict=True):
        per_head, labels = all_logits(
            extractor, heads, image_set, classes=common, statistics=statistics, batch_size=batch_size
        )
        for place, (logits, index) in enumerate(zip(per_head, outputs, strict=True)):
            _check_outputs(logits, head_classes[place], f"heads: number {place}")
            row[place] = (logits[:, index].argmax(1) == labels).double().mean()
    return matrix.to("cpu", torch.get_default_dtype())


@torch.no_grad()
def all_logits(
    extractor: nn.Module,
    heads: Sequence[nn.Module],
    image_set: ImageSet,
    *,
    classes: Sequence[str] | None = None,
    statistics: str = "batch",
    batch_size: int = 512,
) -> tuple[list[Tensor], Tensor]:
    """The logits (n, outputs) of each head on the features of one extractor on the test images, and the labels (n,).

    Each image goes through the extractor once (twice with "recalibrated"), and the features of all are held meanwhile.

    Args:
        extractor, heads: the parts.
        image_set: its test images are used, in a fixed random order; its training images normalise them.
        classes: only the test images of these, label i meaning ``classes[i]``; None means all.
        statistics: how BN normalises, see ``normalization``.
        batch_size: images in a batch at most; sizes differ by one at most, so that no small batch has odd statistics.

    Raises:
        ValueError: for unknown statistics or such as cannot be set (``normalization.check_settable``), a batch size
            below 1, no test images, and parts that give something else than a tensor.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics: must be one of {STATISTICS}, got {statistics!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    for part in (extractor, *heads) if statistics != "running" else ():
        check_settable(part)  # before the work
    test = shuffled((image_set if classes is None else image_set.subset(classes)).test)
    if not len(test):
        raise ValueError(f"image_set: {image_set.name} has no test images of {list(classes or image_set.classes)}")
    batches = [image_set.normalise(part) for part in test.images.tensor_split(math.ceil(len(test) / batch_size))]
    features = _run(extractor, batches, statistics)
    return [torch.cat(_run(head, features, statistics)) for head in heads], test.labels


def accuracy(logits: Tensor, labels: Tensor, outputs: Tensor, *, masked: bool = True) -> float:
    """Share of the images, in 0..1, whose class gets the highest logit.

    Args:
        logits: (n, outputs of the head).
        labels: (n,).
        outputs: which output stands for each label, see ``output_index``.
        masked: only these outputs compete.

    Raises:
        ValueError: logits of another shape.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits: must be ({len(labels)}, outputs), as there are labels, got {tuple(logits.shape)}")
    outputs = outputs.to(logits.device)
    hits = logits[:, outputs].argmax(1) == labels if masked else logits.argmax(1) == outputs[labels]
    return hits.double().mean().item()


def _check_outputs(logits: Tensor, classes: Sequence[str], head: str) -> None:
    if logits.shape[1:] != (len(classes),):
        wanted = f"(n, {len(classes)}), one output for each name of a class"
        raise ValueError(f"{head} must give {wanted}, got {tuple(logits.shape)}")


def class_accuracy(
    extractor: nn.Module, head: nn.Module, image_set: ImageSet, *, statistics: str = "batch", batch_size: int = 512
) -> float:
    """Average class accuracy, in 0..1: the mean over classes with test images of the share of right answers.

    Args:
        extractor, head: the parts; the head has an output for each class.
        image_set, statistics, batch_size: see ``all_logits``.

    Raises:
        ValueError: the head has not an output for each class; and as ``all_logits``.
    """
    (logits,), labels = all_logits(extractor, [head], image_set, statistics=statistics, batch_size=batch_size)
    _check_outputs(logits, image_set.classes, "head:")
    hits = (logits.argmax(1) == labels).double()
    images = labels.bincount(minlength=len(image_set.classes))
    right = hits.new_zeros(len(image_set.classes)).index_add_(0, labels, hits)
    return (right / images)[images > 0].mean().item()


def output_index(head_classes: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The output of a head that stands for each of ``classes``: int64 (classes,). Raises ValueError if the head lacks
    one, or two of its outputs have one name."""
    if double := [name for name, count in Counter(head_classes).items() if count > 1]:
        raise ValueError(f"head_classes: names must differ, got {double} more than once")
    if missing := [name for name in classes if name not in head_classes]:
        raise ValueError(f"head_classes: a head for {list(head_classes)} cannot be evaluated on {missing}")
    return torch.tensor([list(head_classes).index(name) for name in classes])


def shuffled(split: Split) -> Split:
    """The split in a random order, the same in every run: batch statistics need all classes in a batch."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return split[order.to(split.labels.device)]


def _run(module: nn.Module, batches: Sequence[Tensor], statistics: str) -> list[Tensor]:
    batches = [as_precise(batch, module) for batch in batches]
    if statistics == "recalibrated":
        module, statistics = recalibrated(module, batches), "running"
    with evaluation(module, statistics):
        return [at_least_float32(read_only(module, batch)) for batch in batches]
