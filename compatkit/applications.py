"""Applications of compatible networks, as functions for networks of your own (Gygli et al., Sec. 5). Each takes
trained parts, leaves them as they are, and returns new ones with the history of their training.

    extractor, _ = adapt(extractor, rotation_head, images)            # to a domain without labels
    _, head, _ = update_head(head, reference, image_set)              # one head for many extractors, more classes
    network, _ = transfer(source_extractor, target_head, image_set)   # another start for a target task

``options`` of each are those of ``training.train``, but that ``probe`` gets the parts in training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .images import ImageSet, Split
from .inspection import Module, sized_layers
from .models import extend_classifier
from .objectives import Pretext, Target, pretext_of
from .recipes import ADAPTATION, TUNING, Recipe
from .recombination import recombine
from .training import Task, freeze, train, unfreeze


def adapt(
    extractor: nn.Module,
    rotation_head: nn.Module,
    images: Tensor,
    *,
    recipe: Recipe = ADAPTATION,
    pretext: str = "rotation",
    head_moves: bool = False,
    seed: int = 0,
    probe: Callable[[nn.Module, nn.Module], dict[str, float]] | None = None,
    **options,
) -> tuple[nn.Module, list[dict]]:
    """Fit an extractor to images without labels, so that the classifier trained with it fits them better.

    The extractor learns to tell the rotation of the images through the rotation head, which stays as it is: features
    have to keep the form that this head, and so the classifier beside it, has learnt to read. Evaluate the result with
    the statistics of target batches (``recombination.all_logits``).

    Args:
        extractor: of the source.
        rotation_head: trained on the source together with ``extractor`` and the classifier, 4 outputs.
        images: of the target (n, c, s, s), square, uint8; they are normalised by their own mean and deviation.
        recipe: how.
        pretext: what the head tells of an image, a key of ``objectives.PRETEXTS``.
        head_moves: let the head learn as well, for comparison.
        seed: of the order of the images.
        probe: is called with extractor and head.
        options: as in ``training.train``.

    Returns:
        The adapted extractor, and the history.

    Raises:
        ValueError: for images that are not square uint8, and a head that does not fit.

    Source: paper A, Sec. 5.1.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images: uint8 (n, c, s, s) with n > 0 is needed, got {images.dtype} {tuple(images.shape)}")
    outputs, wanted = sized_layers(rotation_head)[-1][2], pretext_of(pretext).variants
    if outputs != wanted:
        raise ValueError(f"rotation_head: {pretext} needs {wanted} outputs, got {outputs}")
    recombine(extractor, rotation_head)  # for its check
    extractor, rotation_head = _copy(extractor), _copy(rotation_head)
    if not head_moves:
        freeze(rotation_head)
    nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    target = ImageSet("images without labels", Split(images, nothing), Split(images[:0], nothing[:0]), ("unknown",))
    task = Task(target, extractor, [Pretext(rotation_head, pretext)], seed)
    return extractor, train([task], recipe, probe=_bound(probe, extractor, rotation_head), **options)


def update_head(
    head: nn.Sequential,
    extractor: nn.Module,
    image_set: ImageSet,
    *,
    rotation_head: nn.Module | None = None,
    recipe: Recipe = TUNING,
    seed: int = 0,
    probe: Callable[[nn.Module, nn.Module], dict[str, float]] | None = None,
    **options,
) -> tuple[nn.Module, nn.Sequential, list[dict]]:
    """Teach a head that many extractors share more classes, with one of the extractors.

    The head keeps its outputs, gets one for each new class, and is trained on the frozen extractor. What it has learnt
    then holds for every extractor whose features have the same form.

    Args:
        head: its outputs are the first of ``image_set.classes``.
        extractor: one of those that share the head.
        image_set: of old and new classes together.
        rotation_head: if given, the extractor is not frozen; instead this head, which the extractors shared when they
            were trained, is, and its loss is added (App. D).
        recipe: how.
        seed: of the new outputs, and of the order of the images.
        probe: is called with extractor and head.
        options: as in ``training.train``.

    Returns:
        The extractor, which has changed only with a ``rotation_head``, the new head, and the history.

    Raises:
        ValueError: for a head that cannot be extended, or does not fit.

    Source: paper A, Sec. 5.2.
    """
    longer = unfreeze(extend_classifier(head, len(image_set.classes), seed=seed))
    recombine(extractor, longer)
    used = _copy(extractor)
    if rotation_head is None:
        freeze(used)
    else:
        rotation_head = freeze(_copy(rotation_head))
    pretexts = [] if rotation_head is None else [Pretext(rotation_head)]
    task = Task(image_set, used, [Target(longer), *pretexts], seed)
    history = train([task], recipe, probe=_bound(probe, used, longer), **options)
    return unfreeze(used), longer, history


def transfer(
    extractor: nn.Module,
    head: nn.Module,
    image_set: ImageSet,
    *,
    recipe: Recipe = TUNING,
    seed: int = 0,
    probe: Callable[[nn.Module, nn.Module], dict[str, float]] | None = None,
    **options,
) -> tuple[nn.Sequential, list[dict]]:
    """Put the extractor of a source task under the head of a target task and fine-tune both on the target.

    Where the two were trained with one rotation head the network works at once, before any step.

    Args:
        extractor: of the source.
        head: for the classes of ``image_set``.
        image_set: the target.
        recipe: how.
        seed: of the order of the images.
        probe: is called with extractor and head.
        options: as in ``training.train``.

    Returns:
        The network, whose two children are the extractor and the head, and the history.

    Raises:
        ValueError: the head does not fit.

    Source: paper A, Sec. 5.3.
    """
    network = recombine(_copy(extractor), _copy(head))
    task = Task(image_set, network[0], [Target(network[1])], seed)
    return network, train([task], recipe, probe=_bound(probe, *network), **options)


def _copy(module: Module) -> Module:
    return unfreeze(copy.deepcopy(module))


def _bound(probe: Callable[..., dict[str, float]] | None, *parts: nn.Module) -> Callable[[], dict] | None:
    return None if probe is None else partial(probe, *parts)
