"""Every plan as text, for ``test_plans``; ``python -m tests.reproduction.plans`` accepts what is planned now."""

import hashlib
import json
from collections import Counter
from pathlib import Path

from reproduction.experiments import EXPERIMENTS, PRESETS, plan
from reproduction.experiments.presets import settings

STORED = Path(__file__).with_suffix(".txt")


def written(experiment, preset):
    """A plan in a few lines: its rows, every value of the settings that are not at their defaults, and a digest of its
    runs in their order."""
    runs = plan(experiment, preset)
    usual = settings(type(runs[0][1])())
    values, changes = {}, []
    for row, config in runs:
        found = settings(config)
        changes.append([row, {name: value for name, value in found.items() if value != usual[name]}])
        for name, value in found.items():
            values.setdefault(name, {})[str(value)] = None
    digest = hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:12]
    rows = "; ".join(f"{row} x {count}" for row, count in Counter(row for row, _ in runs).items())
    changed = {name: found for name, found in values.items() if list(found) != [str(usual[name])]}
    lines = [f"rows: {rows}", *(f"{name}: {' | '.join(found)}" for name, found in changed.items())]
    return "\n    ".join([f"{experiment} at {preset}: {len(runs)} runs, {digest}", *lines])


def everything():
    return "\n".join(written(experiment, preset) for experiment in EXPERIMENTS for preset in PRESETS) + "\n"


if __name__ == "__main__":
    STORED.write_text(everything(), encoding="utf-8")
