"""Records made by hand, whose every value is known."""

from reproduction.records.provenance import provenance
from reproduction.records.store import load_all, run_id

METHODS = ("independent", "RP", "DCC", "upper bound")
LAYERS = ("stem", "stage1_block1", "stage2_block1", "stage3_block1", "pool")


def finished(row, seed, config, metrics, **more):
    """A run at preset laptop that is not the paper's."""
    origin = provenance(experiment="fig2", device="cpu", threads=1, started=0.0, wall_seconds=6.0, peak_memory_mb=1.0)
    found = {"experiment": "fig2", "preset": "laptop", "row": row, "seed": seed, "config": config, "data": {}}
    found |= {"run_id": run_id("PairRun", config | {"seed": seed}, {}), "differs": ("a",)}
    return found | {"metrics": metrics, "provenance": origin} | more


def pair_record(method, seed, a="x", b="y"):
    """Recombination .1/.5/.8 by method, a little more for each seed; own heads at .9."""
    base = {"independent": 0.1, "RP": 0.5, "DCC": 0.8, "upper bound": 0.05}[method] + 0.01 * seed
    metrics = {"chance/mean": 0.1}
    for role, shift in (("a", 0.02), ("b", -0.02), ("mean", 0)):
        metrics |= {
            f"recombination/{role}": base + shift,
            f"recombination, unmasked/{role}": base / 2,
            f"not recombined/{role}": 0.9 + 0.001 * seed,
            f"own task/{role}": 0.95 - 0.01 * (a == "cifar10"),
            **{f"recombination at {at}/{role}": base - 0.01 * i for i, at in enumerate(LAYERS)},
        }
    config = {"a": a, "b": b, "method": method, "seed": seed, "split_at": "stage2"}
    name, differs = f"{method} {seed} {a}", () if a == "cifar10" else ("a", "b")
    return finished(method, seed, config, metrics, run_id=name, differs=differs, networks=frozenset([name]))


SCORES = {"old/old": 0.4, "new/new": 0.8, "new/h": 0.6, "h/h": 0.5, "new/identity(old)": 0.01}
SCORES |= {"new/Procrustes(old)": 0.3, "new/ridge(old)": 0.35}
WITH_SIDE = {"side/side": 0.2, "new/ridge(old, side)": 0.45, "new/Procrustes(old, side)": 0.4}
SEQUENCE = {"v1/v1": 0.3, "v2/v2": 0.5, "v3/v3": 0.8, "v2/one hop": 0.45, "v3/one hop": 0.7}
SEQUENCE |= {"v2/hops": 0.45, "v3/hops": 0.55, "v2/direct": 0.45, "v3/direct": 0.6}
COSTS = {"MACs: images": 1e6, "MACs: h": 1e4, "KB: images": 0.75, "KB: old": 0.125, "KB: side": 0.25}
COSTS |= {"seconds per 10 000 items: images": 2.0, "seconds per 10 000 items: h": 0.1}


def update_record(seed, cases, data="shapes", shift=0.0, row="FCT", **config):
    """Each measure of a case at its score, plus a little for each seed; mAP lower, new classes lower still."""
    metrics = {"CKA of old and side": 0.25}
    for name, score in cases.items():
        value = score + shift + 0.01 * seed
        metrics |= {f"CMC top-1: {name}": value, f"CMC top-5: {name}": value + 0.1, f"mAP@1.0: {name}": value - 0.005}
        metrics |= {f"CMC top-1 of new classes: {name}": value / 2, f"negative flips: {name}": 0.05}
    models = {f"{version}_{k}": v for version in ("old", "new") for k, v in (("network", "resnet8"), ("width", 16))}
    models |= {"h_width": 256, "old_dim": 32, "new_dim": 32, "n_test": 2000, "without_old": False}
    models |= {"data": data, "classes": [50, 100], "method": "FCT", "side": "SimCLR", "old_task": "class"}
    return finished(row, seed, models | config, metrics | COSTS, experiment="table1", differs=("data",))


def record(seed=0, *, experiment="fig2", preset="smoke", metrics=None, **changes):
    config = {"method": "DCC", "seed": seed}
    made = provenance(
        experiment=experiment, device="cpu", threads=1, started=0.0, wall_seconds=30.0, peak_memory_mb=100.0
    )
    return {
        "experiment": experiment,
        "preset": preset,
        "run_id": run_id("PairRun", config, {}),
        "kind": "PairRun",
        "seed": seed,
        "config": config,
        "data": {},
        "metrics": metrics or {"accuracy": 0.5},
        "provenance": made,
    } | changes


def stored(experiment, root=None):
    """The records of an experiment at preset smoke."""
    return [record for record in load_all("smoke", root).values() if record["experiment"] == experiment]
