"""A discriminant that tells the embeddings on the two sides of a map apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SAFE = 6.0  # standard deviations of one query from its own side's mean before it is refused
SHRINK = 0.05  # towards numbers that are independent of each other


@dataclass(frozen=True, eq=False)
class Sides:
    """A linear discriminant of numbers and squares that tells embeddings of the two sides of a map apart."""

    weights: np.ndarray  #: (2, d): of the numbers and of their squares
    scores: np.ndarray
    """(2, 4): of rows of what the map takes, and of what it gives: mean and standard deviation of the score, the share
    that is nearer to the other mean, and how many they are; measured on a fifth of the pairs"""
    other: np.ndarray  #: (2, d): mean and spread of what it gives

    @classmethod
    def of(cls, own: np.ndarray, other: np.ndarray) -> Sides:
        """Fit it to embeddings (n, d) and (m, d) of both models.

        Source: Fisher 1936.
        """
        both = [np.concatenate([x, np.square(x)], 1).astype(np.float64) for x in (own, other)]
        fitted = [x[np.arange(len(x)) % 5 > 0] for x in both]
        means = [x.mean(0) for x in fitted]
        within = np.concatenate([x - mean for x, mean in zip(fitted, means, strict=True)])
        spread = np.maximum(within.std(0), 1e-30)
        within /= spread
        covariance = within.T @ within / len(within) + SHRINK * np.eye(len(spread))
        weights = np.linalg.solve(covariance, (means[0] - means[1]) / spread) / spread
        sides = cls(
            weights.reshape(2, -1).astype(np.float32), np.zeros((2, 4), np.float32), np.zeros((2, 1), np.float32)
        )
        found = [sides.score(x[::5]) for x in (own, other)]
        middle = np.mean([x.mean() for x in found])
        wrong = (found[0] < middle).mean(), (found[1] >= middle).mean()
        rows = [[x.mean(), x.std(), share, len(x)] for x, share in zip(found, wrong, strict=True)]
        scores = np.array(rows, np.float32)
        of_other = np.stack([other.mean(0), np.maximum(other.std(0), 1e-30)]).astype(np.float32)
        return cls(sides.weights, scores, of_other)

    def score(self, x: np.ndarray) -> np.ndarray:
        """Scores (n,) of rows (n, d), a number for one row: the larger, the more like the map's own side."""
        x = np.asarray(x, np.float32)
        return np.dot(x, self.weights[0]) + np.dot(x * x, self.weights[1])

    @property
    def told_apart(self) -> bool:
        """Tell whether the two sides differ by more than their rows do among themselves."""
        (own, spread), (other, spread_of_other) = self.scores[:, :2].tolist()
        return own - other > spread + spread_of_other

    def check(self, x: np.ndarray, name: str) -> None:
        """Refuse rows (n, d), or one row, that look like what the map gives.

        One row must be farther than six standard deviations from its own side, and nearer to the other than half of
        its rows; many are judged by their mean.

        Raises:
            ValueError: they do.
        """
        (own, spread), (other, _) = self.scores[:, :2].tolist()
        score = float(np.mean(self.score(x[x.any(-1)] if x.ndim == 2 else x))) if x.any() else own
        limit = own - SAFE * spread if x.ndim == 1 else other + (own - other) / 4
        wrong = score < limit and (score < other + 2 * self.scores[1, 1] if x.ndim == 1 else self.told_apart)
        if wrong and self._plausible(x):
            raise ValueError(
                f"{name}: looks like embeddings of the model that the map leads to, not of the one that it starts "
                "from; is it mapped already, or the map of the other direction?"
            )

    def told(self, scores: np.ndarray) -> str:
        """Say of which model rows with these scores (n,) are.

        Rows nearer to the other mean are counted, and corrected by how many are on the pairs of either side. What is
        within three standard errors of none is not told.
        """
        found = float((scores < self.scores[:, 0].mean()).mean())
        (own, pairs), (other, _) = self.scores[:, 2:].tolist()
        if (apart := 1 - own - other) < 0.5:
            return f"It cannot be told: of the pairs {own:.1%} and {other:.1%} are taken for the other side's."
        rates = max(own, 1 / pairs), max(found, 1 / len(scores))
        error = 3 * math.sqrt(rates[0] * (1 - rates[0]) / pairs + rates[1] * (1 - rates[1]) / len(scores)) / apart
        share = (found - own) / apart
        if share < error:
            return f"One model, as far as can be told: less than {error:.1%} of the other would not be seen."
        if share > 1 - error:
            return "One model, but the one that the map leads to."
        return (
            f"Two models: about {share:.1%} (± {error:.1%}) of {len(scores)} rows are of the one that the map leads to."
        )

    def _plausible(self, x: np.ndarray) -> bool:
        """Whether rows lie where the other side does: what is of neither is not refused for it."""
        far = np.abs(x - self.other[0]) / self.other[1]
        return bool(np.mean(np.minimum(far, 10.0)) < 2.0)
