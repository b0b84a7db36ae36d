"""Forward compatible training (Ramanujan et al., Sec. 3): a transformation carries stored embeddings, with
side-information stored beside them, into the space of a new model.

    h = Transformation(old.shape[1], side.shape[1], new.shape[1])
    train([FitTransformation(h, old, side, new)], recipes.TRANSFORMATION)
    gallery = transform(h, old, side)
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .alignment import fit_width
from .models import seeded
from .normalization import evaluation
from .objectives import Minibatch, Term
from .training import Task

ROWS = 65_536  # that are transformed at a time


class Transformation(nn.Module):
    """h(old, side) -> new: a branch for each input, concatenated, and a mixer (paper B, Fig. 4; sizes from the authors'
    public code).

    Args:
        d_old, d_side, d_new: widths of the embeddings.
        width: of the mixer's two hidden layers.
        seed: as in ``models.build``.

    Raises:
        ValueError: for a width below 1.
    """

    def __init__(self, d_old: int, d_side: int, d_new: int, width: int = 2048, *, seed: int | None = None):
        _check_widths(d_old=d_old, d_side=d_side, d_new=d_new, width=width)
        super().__init__()
        self.d_old, self.d_side, self.d_new, self.width = d_old, d_side, d_new, width
        with seeded(seed):
            self.old_branch = _layers(d_old, 2 * d_old, 2 * d_new)
            self.side_branch = _layers(d_side, 2 * d_side, 2 * d_new)
            self.mixer = nn.Sequential(*_layers(4 * d_new, width, width), nn.Linear(width, d_new))

    def forward(self, old: Tensor, side: Tensor) -> Tensor:
        """Map old (n, d_old) and side (n, d_side), zeros where none was stored (Sec. 5.1), to (n, d_new)."""
        return self.mixer(torch.cat([self.old_branch(old), self.side_branch(side)], 1))

    @torch.no_grad()
    def rescale(self, old: Tensor, side: Tensor, new: Tensor, mean: Tensor) -> None:
        """Turn h of old / ``old``, side / ``side`` and (new - ``mean``) / ``new`` into one of old, side and new."""
        self.get_parameter("old_branch.0.weight").div_(old)
        self.get_parameter("side_branch.0.weight").div_(side)
        self.get_parameter("mixer.6.weight").mul_(new)
        self.get_parameter("mixer.6.bias").mul_(new).add_(mean)


class Residual(nn.Module):
    """old -> scale * old + MLP(old, side), with a factor for each number and one hidden layer; it starts as old, cut or
    filled up with zeros to ``d_new`` (Drift-Adapter, Vejendla 2025; ReLU and side-information are ours). Arguments are
    as of ``Transformation``."""

    def __init__(self, d_old: int, d_side: int, d_new: int, width: int = 512, *, seed: int | None = None):
        _check_widths(d_old=d_old, d_side=d_side, d_new=d_new, width=width)
        super().__init__()
        self.d_old, self.d_side, self.d_new, self.width = d_old, d_side, d_new, width
        self.scale = nn.Parameter(torch.ones(d_new))
        with seeded(seed):
            self.hidden, self.last = nn.Linear(d_old + d_side, width), nn.Linear(width, d_new)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, old: Tensor, side: Tensor) -> Tensor:
        hidden = self.hidden(torch.cat([old, side], 1)).relu()
        return self.scale * fit_width(old, self.d_new) + self.last(hidden)

    @torch.no_grad()
    def rescale(self, old: Tensor, side: Tensor, new: Tensor, mean: Tensor) -> None:
        """Do what ``Transformation.rescale`` does."""
        self.hidden.weight[:, : self.d_old].div_(old)
        self.hidden.weight[:, self.d_old :].div_(side)
        self.scale.mul_(new / old)
        self.last.weight.mul_(new)
        self.last.bias.mul_(new).add_(mean)


def _check_widths(**widths: int) -> None:
    for name, value in widths.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")


def _layers(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        parts += [nn.Linear(c_in, c_out, bias=False), nn.BatchNorm1d(c_out), nn.ReLU()]
    return nn.Sequential(*parts)


@dataclass(frozen=True)
class SquaredDistance(Term):
    """Squared distance to the new embedding, mean over items (paper B, Sec. 3.3). In the second half of the steps BN is
    in evaluation mode, as in the authors' public code."""

    name = "distance"

    def loss(self, batch: Minibatch) -> Tensor:
        batch.network.train(batch.step < batch.recipe.steps // 2)
        return (batch.features - batch.labels).square().sum(1).mean()


class FitTransformation(Task):
    """A transformation, or a residual MLP, in training, see ``SquaredDistance``.

    Args:
        h: is trained in place.
        old, side, new: cached embeddings (n, d) of the same n items of the new training set, on one device.
        seed: of the order of the items.

    Raises:
        ValueError: for unequal numbers of rows, and widths that are not those of ``h``.
    """

    def __init__(self, h: Transformation | Residual, old: Tensor, side: Tensor, new: Tensor, *, seed: int = 0):
        widths = (h.d_old, h.d_side, h.d_new)
        if {len(old), len(side), len(new)} != {len(old)} or (old.shape[1], side.shape[1], new.shape[1]) != widths:
            shapes = [tuple(x.shape) for x in (old, side, new)]
            raise ValueError(f"old, side, new: equally many rows of widths {widths} are needed, got {shapes}")
        super().__init__((old, side, new), h, [SquaredDistance()], seed)


@torch.no_grad()
def transform(h: nn.Module, old: Tensor, side: Tensor) -> Tensor:
    """h of all rows of old (n, d_old) and side (n, d_side), in evaluation mode: (n, d_new)."""
    with evaluation(h, "running"):
        return torch.cat([h(*part) for part in zip(old.split(ROWS), side.split(ROWS), strict=True)])
