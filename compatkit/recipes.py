"""Recipes: the settings of one call of ``training.train``, and those that the papers name."""

from dataclasses import dataclass

ROTATIONS = ("all", "sampled")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "step", "one-cycle", "cosine")
PRECISIONS = ("auto", "fp32", "bf16", "fp64")


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. The defaults are those of paper A, App. E.

    Attributes:
        steps: minibatches that *each* network sees (of its 20 000 the paper does not say so).
        batch_size: images in a minibatch.
        optimizer: "adam" or "sgd" (with ``momentum``, Nesterov off).
        lr: the highest learning rate.
        weight_decay: L2 penalty in the gradient.
        momentum: of "sgd".
        schedule: "step" divides lr by 10 every ``decay_every`` steps; "cosine" climbs linearly to lr over a share
            ``warm_up`` of the steps, "one-cycle" over a quarter, then falls to 0 along a cosine; "constant".
        decay_every, warm_up: see ``schedule``.
        rotations: "all" four for RP, or one "sampled" for each image; of arrangements there is always one.
        crop: random crops of images padded by so many pixels, see ``Batches``.
        flip: mirrored at random.
        precision: "bf16" autocast, "fp32", or "auto": bf16 where the device has arithmetic for it (see ``uses_bf16``);
            "fp64" makes weights and minibatches double: slow, and the same on every machine to many digits.
        channels_last: memory order of images and weights; None: on GPUs.
        deterministic: choose only algorithms that give the same bits each time.

    Raises:
        ValueError: for an unknown word, and a number out of range.
    """

    steps: int = 20_000
    batch_size: int = 512
    optimizer: str = "adam"
    lr: float = 0.01
    weight_decay: float = 1e-7
    momentum: float = 0.9
    schedule: str = "step"
    decay_every: int = 5_000
    warm_up: float = 0.05
    rotations: str = "all"
    crop: int = 0
    flip: bool = False
    precision: str = "auto"
    channels_last: bool | None = None
    deterministic: bool = True

    def __post_init__(self):
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "rotations": ROTATIONS, "precision": PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size", "lr", "decay_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be positive, got {getattr(self, name)}")
        if not 0 < self.warm_up < 1:
            raise ValueError(f"warm_up: must be between 0 and 1, got {self.warm_up}")
        for name in ("crop", "weight_decay", "momentum"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")


ADAPTATION = Recipe(steps=1_000, batch_size=64, optimizer="sgd", lr=1e-5, weight_decay=0.0, schedule="constant")
"""Of an extractor to a new domain: paper A, App. E; whether rotations were mirrored or cropped as well is not said."""

TUNING = Recipe(steps=2_000, lr=1e-3, weight_decay=0.0, schedule="cosine")
"""Fine-tuning: paper A, App. E, sets the weight decay to 0; rate, length and schedule are ours."""

TRANSFORMATION = Recipe(
    optimizer="adam", lr=5e-4, weight_decay=2**-15, batch_size=1024, schedule="cosine", precision="fp32"
)
"""Of paper B, recovered from the authors' public code, but for the steps: 80 epochs of the new model's training set."""
