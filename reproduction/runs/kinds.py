"""Kinds of runs, and how each is checked and made.

A module's ``check(config, context)`` rehearses a run: within ``context.rehearsal`` each training is one step. It raises
ValueError for settings that cannot be run, and NotInstalled for a package that is missing. ``run`` returns the metrics.
"""

from types import ModuleType
from typing import Any

from ..experiments.settings import AdaptationRun, AdviceRun, ClassifierRun, ModelsRun, PairRun, TransferRun, UpdateRun
from . import adaptation, advice, classifier, models, pair, transfer, update

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
