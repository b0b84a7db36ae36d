"""Every figure and table of both papers as a function from a preset to its runs, each under the row that it belongs to;
and how each kind of run is checked and made. ``runs`` turns configs into records."""

from types import ModuleType
from typing import Any

from . import adaptation, applications, classifier, forward, pair, reusable, transfer, update

EXPERIMENTS = {
    # paper A
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
    "adaptation": applications.adaptation,
    "classifier": applications.classifier,
    "transfer": applications.transfer,
    # paper B
    "fig1_toy": forward.fig1_toy,
    "table1": forward.table1,
    "table2": forward.table2,
    "table3": forward.table3,
    "table4": forward.table4,
    "sec43": forward.sec43,
    "table5": forward.table5,
    "sequence": forward.sequence,
    "table6": forward.table6,
    "sec52": forward.sec52,
    "fig3": forward.fig3,
    "disjoint": forward.disjoint,
    "embedding_width": forward.embedding_width,
}
PRESETS = ("smoke", "laptop", "cifar", "paper")

# For each class of config the module with its check(config, context) and run(config, context).
KINDS: dict[type, ModuleType] = {
    pair.PairRun: pair,
    adaptation.AdaptationRun: adaptation,
    classifier.ClassifierRun: classifier,
    transfer.TransferRun: transfer,
    update.UpdateRun: update,
}


def stored_under(preset: str) -> str:
    """The preset in whose folder records are kept: ``cifar-cpu`` is ``cifar`` with networks and schedules for two CPU
    cores, for the experiments that can be made there (``CPU_SIZED`` in their modules)."""
    return "cifar" if preset == "cifar-cpu" else preset


def kind_of(config: Any) -> ModuleType:
    """The module that checks and makes runs of this config."""
    return KINDS[type(config)]
