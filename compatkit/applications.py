"""Applications of compatible networks (Gygli et al., Sec. 5). Each takes trained parts, leaves them as they are, and
returns new ones with the history of their training.

``recipe``, ``seed`` and ``options`` are as in ``Task`` and ``train``; ``probe`` gets the extractor and the head.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .images import ImageSet, Split
from .inspection import Module, sized_layers
from .models import extend_classifier
from .objectives import Pretext, Target, Term, pretext_of
from .recipes import ADAPTATION, TUNING, Recipe
from .recombination import check_fit
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
    """Fit an extractor to images without labels, so that the classifier trained with it fits them better (paper A, Sec.
    5.1).

    It learns to tell the rotation of the images through the rotation head, which stays as it is, so that features keep
    the form that this head, and the classifier beside it, can read. Evaluate it by batch statistics.

    Args:
        extractor: of the source.
        rotation_head: trained on the source together with ``extractor`` and the classifier, 4 outputs.
        images: of the target (n, c, s, s), square, uint8; they are normalised by their own mean and deviation.
        pretext: what the head tells of an image, a key of ``objectives.PRETEXTS``.
        head_moves: let the head learn as well, for comparison.

    Raises:
        ValueError: for images that are not square uint8, and a head that does not fit.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images: uint8 (n, c, s, s) with n > 0 is needed, got {images.dtype} {tuple(images.shape)}")
    outputs, wanted = sized_layers(rotation_head)[-1][2], pretext_of(pretext).variants
    if outputs != wanted:
        raise ValueError(f"rotation_head: {pretext} needs {wanted} outputs, got {outputs}")
    extractor, rotation_head = _learning_copies(extractor, rotation_head)
    if not head_moves:
        freeze(rotation_head)
    nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    target = ImageSet("images without labels", Split(images, nothing), Split(images[:0], nothing[:0]), ("unknown",))
    task = Task(target, extractor, [Pretext(rotation_head, pretext)], seed)
    return extractor, train([task], recipe, probe=probe and partial(probe, extractor, rotation_head), **options)


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
    """Teach a head that many extractors share more classes, with one of the extractors, which is frozen. What it learns
    holds for every extractor whose features have the same form (paper A, Sec. 5.2).

    Args:
        head: its outputs are the first of ``image_set.classes``.
        extractor: one of those that share the head.
        image_set: of old and new classes together.
        rotation_head: if given, the extractor is not frozen; instead this head, which the extractors shared when they
            were trained, is, and its loss is added (App. D).

    Returns:
        The extractor, which has changed only with a ``rotation_head``, the new head, and the history.

    Raises:
        ValueError: for a head that cannot be extended, or does not fit.
    """
    used, longer = _learning_copies(extractor, extend_classifier(head, len(image_set.classes), seed=seed))
    terms: list[Term] = [Target(longer)]
    if rotation_head is None:
        freeze(used)
    else:
        terms.append(Pretext(freeze(copy.deepcopy(rotation_head))))
    task = Task(image_set, used, terms, seed)
    history = train([task], recipe, probe=probe and partial(probe, used, longer), **options)
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
    """Put the extractor of a source task under the head of a target task and fine-tune both on the target (paper A,
    Sec. 5.3).

    Where the two were trained with one rotation head the network works before any step.

    Args:
        extractor: of the source.
        head: for the classes of ``image_set``.
        image_set: the target.

    Raises:
        ValueError: the head does not fit.
    """
    network = nn.Sequential(*_learning_copies(extractor, head))
    task = Task(image_set, network[0], [Target(network[1])], seed)
    return network, train([task], recipe, probe=probe and partial(probe, *network), **options)


def _learning_copies(extractor: nn.Module, head: Module) -> tuple[nn.Module, Module]:
    """Copies that learn, of parts that fit each other."""
    check_fit(extractor, head)
    return unfreeze(copy.deepcopy(extractor)), unfreeze(copy.deepcopy(head))
