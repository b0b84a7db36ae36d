"""Every figure and table of both papers as a function from a preset to run configs; ``runner`` turns configs into
records."""

from . import reusable

EXPERIMENTS = {
    "fig2": reusable.fig2,
    "fig2_pretrained": reusable.fig2_pretrained,
    "incremental": reusable.incremental,
    "fig5": reusable.fig5,
    "fig6": reusable.fig6,
    "fig7": reusable.fig7,
    "fig8": reusable.fig8,
    "fig9": reusable.fig9,
    "fig10": reusable.fig10,
    "choices": reusable.choices,
}
PRESETS = ("smoke", "laptop", "cifar", "paper")
