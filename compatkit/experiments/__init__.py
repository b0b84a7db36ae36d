"""Every figure and table of both papers as a function from a preset to run configs; ``runner`` turns configs into
records."""

from . import reusable

EXPERIMENTS = {
    "fig2": reusable.fig2,
}
PRESETS = ("smoke", "laptop", "cifar", "paper")
