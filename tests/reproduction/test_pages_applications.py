"""What the chapters on the applications of paper A show is what the records say."""

import statistics

import pytest

from compatkit.intervals import interval
from reproduction.pages import applications

from . import recorded
from .expected import lines, said, welch

SEEDS = range(3)
DIRECTIONS = ("a to b", "b to a")
LEVELS = {
    "source model": 0.5,
    "with test BN": 0.6,
    "adapted": 0.62,
    "adapted, head moves": 0.58,
    "adapted, running statistics": 0.4,
}


def finished(row, config, metrics):
    papers = "cifar10" in (config.get("a"), config.get("data"))
    return recorded.finished(row, config["seed"], config, metrics, differs=() if papers else ("a",))


def span(values, signed=False):
    """Mean ± half width of the interval as tables print it, times 100."""
    found = interval([100 * value for value in values])
    return f"{found.mean:{'+' if signed else ''}.1f} ± {found.half_width:.1f}"


# --- domain adaptation ------------------------------------------------------------------------------------------------


def on_target(direction, row, seed, kind="rotation"):
    """Not a sum of effects of direction and seed: a mean over the wrong runs is another number."""
    more = {"rotation": 0.0, "rotation, larger steps": 0.1, "jigsaw": -0.07}[kind] * (row != "source model")
    return LEVELS[row] + more + 0.01 * seed * (1 + len(row) % 3) + (0.13 + 0.02 * seed) * (direction == "b to a")


def on_source(direction, seed, row="source model"):
    return {"a to b": 0.9, "b to a": 0.7}[direction] + 0.011 * seed - 0.003 * len(row)


def adaptation(direction, kind, seed, a="x", b="y"):
    config = {"a": a, "b": b, "direction": direction, "pretext": kind.partition(",")[0], "seed": seed}
    config["adapt_recipe"] = {"lr": 0.02 if kind.endswith("larger steps") else 0.001}
    metrics = {f"target: {row}": on_target(direction, row, seed, kind) for row in LEVELS}
    metrics |= {f"source: {row}": on_source(direction, seed, row) for row in LEVELS}
    return finished(kind, config, metrics)


def adaptations(a="x", b="y", seeds=SEEDS):
    return [adaptation(d, kind, s, a, b) for d in DIRECTIONS for kind in applications.KINDS for s in seeds]


@pytest.mark.parametrize("direction", [*DIRECTIONS, "mean"])
def test_rows_of_table_1_are_on_the_target_and_the_mean_is_over_both_directions(direction):
    found = applications.by_adaptation(adaptations(), direction)
    expected = {
        "source model": ("source model", "rotation"),
        "source model with test BN": ("with test BN", "rotation"),
        "adapted through RP": ("adapted", "rotation"),
        "adapted, rotation head moves": ("adapted, head moves", "rotation"),
        "adapted, running statistics": ("adapted, running statistics", "rotation"),
        "adapted by larger steps": ("adapted", "rotation, larger steps"),
        "with a jigsaw: with test BN": ("with test BN", "jigsaw"),
        "with a jigsaw: adapted": ("adapted", "jigsaw"),
    }
    averaged = DIRECTIONS if direction == "mean" else [direction]
    at_home = {
        "source model, on the source": "source model",
        "source model with test BN, on the source": "with test BN",
    }
    assert list(found) == [*expected, "trained on the target, with labels", *at_home]
    for name, row in at_home.items():
        assert found[name] == pytest.approx(
            {s: statistics.fmean(on_source(d, s, row) for d in averaged) for s in SEEDS}
        )
    for name, (row, kind) in expected.items():
        values = {s: statistics.fmean(on_target(d, row, s, kind) for d in averaged) for s in SEEDS}
        assert found[name] == pytest.approx(values), name


@pytest.mark.parametrize(("direction", "other"), [DIRECTIONS, DIRECTIONS[::-1]])
def test_the_network_trained_on_the_target_is_the_source_model_of_the_other_direction(direction, other):
    found = applications.by_adaptation(adaptations(), direction)["trained on the target, with labels"]
    assert found == pytest.approx({s: on_source(other, s) for s in SEEDS})
    mean = applications.by_adaptation(adaptations(), "mean")["trained on the target, with labels"]
    assert mean == pytest.approx({s: statistics.fmean(on_source(d, s) for d in DIRECTIONS) for s in SEEDS})


def test_the_mean_is_of_seeds_that_both_directions_have():
    records = [r for r in adaptations() if (r["config"]["direction"], r["seed"]) != ("b to a", 1)]
    assert all(list(seeds) == [0, 2] for seeds in applications.by_adaptation(records, "mean").values())
    assert list(applications.by_adaptation(records, "a to b")["adapted through RP"]) == [0, 1, 2]


def test_table_1_has_both_directions_beside_the_papers():
    text = lines(applications.adaptation_table(adaptations()))
    assert "| % | paper, CIFAR-10 → STL-10 | paper, STL-10 → CIFAR-10 | x → y | y → x |" in text
    ours = [span([on_target(d, "adapted", s) for s in SEEDS]) for d in DIRECTIONS]
    assert f"| adapted through RP | 82.6 | 73.1 | {' | '.join(ours)} |" in text
    assert "| VADA | 78.3 | 71.4 | – | – |" in text
    assert any(one.startswith("| with a jigsaw: adapted | – | – | ") for one in text), "not the paper's"
    drawn = applications.adaptation_panels(adaptations())["x × y"]["adapted"]
    both = [statistics.fmean(on_target(d, "adapted", s) for d in DIRECTIONS) for s in SEEDS]
    assert drawn.mean == pytest.approx(100 * statistics.fmean(both))
    assert applications.printed_adaptation()["adapted"] == 77.9


def test_questions_about_adaptation_are_differences_of_means_seed_by_seed():
    records = adaptations()
    found = said(applications.adaptation_questions(records))["x × y"]

    def gap(one, other):
        gaps = [statistics.fmean(on_target(d, *one(s)) - on_target(d, *other(s)) for d in DIRECTIONS) for s in SEEDS]
        return span(gaps, signed=True)

    larger = gap(lambda s: ("adapted", s, "rotation, larger steps"), lambda s: ("adapted", s))
    jigsaw = gap(lambda s: ("adapted", s, "jigsaw"), lambda s: ("with test BN", s, "jigsaw"))
    moves = gap(lambda s: ("adapted", s), lambda s: ("adapted, head moves", s))
    assert (found["larger steps − usual steps"], found["jigsaw − not adapted"]) == (larger, jigsaw)
    assert found["rotation head frozen − moving"] == moves


# --- classifier transfer ----------------------------------------------------------------------------------------------

NETWORKS = ("ResNet", "Wide ResNet", "MobileNetV2")
PAPERS = ("ResNet-56", "Wide ResNet-56", "MobileNetV2")
VARIANTS = {"extractor frozen": 1.0, "RP frozen": 0.9, "independent": 0.3}
BOUNDS = {"upper bound": 0.8, "upper bound, changed architecture": 0.7}
WHICH = {"accuracy": 0.0, "old classes": 0.1, "new classes": -0.1}


def cell(variant, which, one, other, seed):
    i, j = NETWORKS.index(one), NETWORKS.index(other)
    return (VARIANTS[variant] + WHICH[which]) * (0.9 if i == j else 0.5 + 0.02 * (3 * i + j)) + 0.01 * seed * (1 + j)


def bound(variant, name, seed):
    return BOUNDS[variant] + 0.03 * NETWORKS.index(name) + 0.02 * seed


def classifier(variant, seed, data="x"):
    metrics = {}
    for name in NETWORKS:
        if variant in BOUNDS:
            metrics[f"accuracy: {name}"] = bound(variant, name, seed)
        else:
            pairs = [(which, other) for which in WHICH for other in NETWORKS]
            metrics |= {
                f"{which}: {name} -> {other}": cell(variant, which, name, other, seed) for which, other in pairs
            }
    return finished(variant, {"data": data, "variant": variant, "first_classes": 5, "seed": seed}, metrics)


def classifiers(data="x", seeds=SEEDS):
    return [classifier(variant, seed, data) for variant in VARIANTS | BOUNDS for seed in seeds]


@pytest.mark.parametrize("variant", VARIANTS | BOUNDS)
def test_deployment_is_with_the_head_of_the_wide_resnet_and_bounds_are_networks_of_their_own(variant):
    found = applications.by_deployment(classifiers(), variant)
    assert list(found) == list(PAPERS)
    for theirs, ours in zip(PAPERS, NETWORKS, strict=True):
        values = {s: cell(variant, "accuracy", "Wide ResNet", ours, s) for s in SEEDS} if variant in VARIANTS else {}
        assert found[theirs] == pytest.approx(values or {s: bound(variant, ours, s) for s in SEEDS})
    printed = applications.printed_deployments()
    assert printed["ResNet-56", "extractor frozen"] == 91.7 and ("ResNet-56", "independent") not in printed


# --- faster transfer --------------------------------------------------------------------------------------------------

METHODS = ("RP", "RP+IIW", "IIW", "re-initialised head", "independent")
TUNED = [0, 1, 2, 4, 5, 8, 10]
CURVES = {
    # an epoch is 5 steps; the baseline is at .5 after one and at .8 after two
    "RP": ([0.4, 0.45, 0.5, 0.6, 0.6, 0.8, 0.9], [0.3, 0.5, 0.7, 0.9, 0.9, 0.9, 0.9]),
    "RP+IIW": ([0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.79], [0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]),
    "IIW": ([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]),
    "re-initialised head": ([0.1, 0.2, 0.3, 0.45, 0.5, 0.7, 0.8], [0.1, 0.2, 0.3, 0.45, 0.5, 0.7, 0.8]),
    "independent": ([0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.45], [0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.49]),
}


def transferred(method, seed, target="y"):
    config = {"source": "x", "target": target, "method": method, "epochs": 2, "seed": seed}
    metrics = {"steps": TUNED, "accuracy by step": CURVES[method][seed], "steps in an epoch": 5.0}
    return finished(config["method"], config, metrics)


def transfers(target="y"):
    return [transferred(method, seed, target) for method in METHODS for seed in range(2)]


@pytest.mark.parametrize(("epochs", "step"), [(0, 0), (1, 5), (2, 10)])
def test_accuracy_by_epoch_is_that_of_its_last_step(epochs, step):
    found = applications.by_epoch(transfers(), epochs)
    assert list(found) == list(METHODS)
    for method, seeds in found.items():
        assert seeds == {seed: CURVES[method][seed][TUNED.index(step)] for seed in range(2)}


def test_fig_4_begins_before_fine_tuning():
    found = applications.direct_panels([*transfers(), *transfers("z")])
    assert list(found) == ["x → y", "x → z"] and list(found["x → y"]) == list(METHODS)
    assert found["x → z"]["RP"].mean == pytest.approx(35)
    gains = said(applications.direct_gains(transfers()))["x → y"]
    assert gains["RP+IIW − RP"] == welch([0.6, 0.4], [0.4, 0.3]) and gains["RP+IIW − IIW"] == welch(
        [0.6, 0.4], [0.2, 0.2]
    )


def test_savings_are_steps_until_the_baseline_of_the_seed_is_reached():
    found = applications.savings(transfers())["x → y"]  # the baseline is at .5 after an epoch, in both seeds
    assert {method: (one.mean, one.n) for method, one in found.items()} == {
        "RP": (1.5, 2),
        "RP+IIW": (0, 1),
        "re-initialised head": (5, 2),
    }, "only seeds that get there"
