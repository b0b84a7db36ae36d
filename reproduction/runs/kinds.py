"""Kinds of runs, and how each is checked and made."""

from types import ModuleType
from typing import Any

from ..experiments.settings import AdaptationRun, AdviceRun, ClassifierRun, ModelsRun, PairRun, TransferRun, UpdateRun
from . import adaptation, advice, classifier, models, pair, transfer, update

# For each class of settings the module with its check(config, context) and run(config, context).
KINDS: dict[type, ModuleType] = {
    PairRun: pair,
    AdaptationRun: adaptation,
    ClassifierRun: classifier,
    TransferRun: transfer,
    UpdateRun: update,
    ModelsRun: models,
    AdviceRun: advice,
}


def kind_of(config: Any) -> ModuleType:
    """The module that checks and makes runs of this config."""
    return KINDS[type(config)]
