"""The applications of paper A: what each figure plans, what the presets change and what they leave as published."""

import functools
from dataclasses import asdict, replace

import pytest
import torch

from compatkit import models, training
from reproduction import experiments, images
from reproduction.experiments import EXPERIMENTS, PRESETS, applications
from reproduction.experiments.settings import (
    TRANSFER_METHODS,
    VARIANTS,
    AdaptationRun,
    ClassifierRun,
    TransferRun,
)
from reproduction.runs import context
from reproduction.runs.networks import cut_network

from ..compatkit.test_images import small_set
from .test_embedders import same, state

KINDS = {"adaptation": AdaptationRun, "classifier": ClassifierRun, "transfer": TransferRun}
PUBLISHED = {name: kind() for name, kind in KINDS.items()}
ON_A_CPU = ("smoke", "laptop")
EMBEDDED = ("digits", "mnist5k", "glyphs_plain", "glyphs_cluttered", "glyphs_other")


@functools.cache
def plan(name, preset="laptop"):
    return [config for _, config in EXPERIMENTS[name](preset)]


def sets(run):
    """The names of the sets that a run needs."""
    return {getattr(run, role) for role in ("a", "b", "data", "third", "source", "target") if hasattr(run, role)}


def flat(config):
    """The settings of a run by name, those of recipes with a dot."""
    found = {}
    for name, value in asdict(config).items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


@pytest.fixture
def no_images(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("no image is needed to list runs")

    for module in (images, context):
        monkeypatch.setattr(module, "load", refuse)


@functools.cache
def boundary(network, split_at):
    return len(models.split(models.build(network, 2, width=1), split_at)[0])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", KINDS)
def test_every_preset_plans_possible_runs_without_loading_images(no_images, name, preset):
    runs, other_seed = plan(name, preset), [config for _, config in EXPERIMENTS[name](preset, seeds=(5,))]
    assert runs and len(set(runs)) == len(runs) and all(type(run) is KINDS[name] for run in runs)
    assert {run.seed for run in other_seed} == {5} and {replace(run, seed=5) for run in runs} == set(other_seed)
    seeds = {"smoke": 1, "laptop": 5, "paper": 10 if name == "adaptation" else 3}
    assert len({run.seed for run in runs}) == seeds.get(preset, 3)
    for run in runs:
        networks = run.networks if name == "classifier" else [run.network]
        splits = run.splits if name == "classifier" else [run.split_at]
        assert all(boundary(*cut) > 1 for cut in zip(networks, splits, strict=True))
        assert (sets(run) <= set(EMBEDDED)) == (preset in ON_A_CPU)
        assert run.recipe.steps <= 10 or preset != "smoke"


def test_table_1_is_both_directions_of_every_pair_with_a_jigsaw_and_larger_steps_besides():
    usual = min(run.adapt_recipe.lr for run in plan("adaptation"))
    kinds = (("rotation", usual), ("jigsaw", usual), ("rotation", applications.FURTHER * usual))
    expected = {
        (*pair, direction, *kind, seed)
        for pair in (("digits", "mnist5k", ("9",)), ("glyphs_plain", "glyphs_cluttered", ()))
        for direction in ("a to b", "b to a")
        for kind in kinds
        for seed in range(5)
    }
    found = [(r.a, r.b, r.left_out, r.direction, r.pretext, r.adapt_recipe.lr, r.seed) for r in plan("adaptation")]
    assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_direction_has_its_reverse_and_a_jigsaw_the_usual_rate(preset):
    runs = set(plan("adaptation", preset))
    for run in runs:
        other = {"a to b": "b to a", "b to a": "a to b"}[run.direction]
        back = replace(run, direction=other)
        assert back in runs and (back.source, back.target) == (run.target, run.source)
        assert run.third not in (run.a, run.b), "the pretext is learnt elsewhere first"
    rates = {(run.pretext, run.adapt_recipe.lr) for run in runs}
    lowest = min(lr for _, lr in rates)
    assert rates == {("rotation", lowest), ("jigsaw", lowest), ("rotation", 20 * lowest)}


@pytest.mark.parametrize(
    ("name", "role", "kinds"),
    [
        ("classifier", "variant", VARIANTS),
        ("transfer", "method", TRANSFER_METHODS),
    ],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_figs_3_and_4_are_every_variant_on_every_set_and_seed(name, role, kinds, preset):
    found = {}
    for run in plan(name, preset):
        found.setdefault(replace(run, **{role: kinds[0]}), []).append(getattr(run, role))
    assert all(tuple(variants) == kinds for variants in found.values())
    given = {"data"} if name == "classifier" else {"third", "source", "target"}
    pairs = {tuple(getattr(run, key) for key in sorted(given)) for run in found}
    assert len(found) == len(pairs) * len({run.seed for run in found})
    assert len({replace(run, seed=0, **dict.fromkeys(given, "x")) for run in found}) == 1, "otherwise all alike"


def test_the_sets_of_figs_3_and_4():
    for preset in ("cifar", "paper"):
        assert {run.data for run in plan("classifier", preset)} == {"cifar10"}
    assert all(run.source not in (run.third, run.target) for preset in PRESETS for run in plan("transfer", preset))
    for preset, third, source, targets in (
        ("cifar", "cifar100", "tiny_imagenet", {"cifar10", "stl10", "cifar100"}),
        ("paper", "cifar100", "imagefolder:imagenet", {"cifar10", "stl10", "cifar100"}),
    ):
        assert {(r.third, r.source) for r in plan("transfer", preset)} == {(third, source)}
        assert {r.target for r in plan("transfer", preset)} == targets


# --- what is published ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_paper_preset_is_the_defaults(name):
    assert plan(name, "paper")[0] == PUBLISHED[name]


def test_the_published_recipes():
    adapted, head, transferred = PUBLISHED.values()
    assert (adapted.network, adapted.width, adapted.source, adapted.target) == ("wrn28", 16 * 16, "cifar10", "stl10")
    recipe = adapted.recipe
    assert (recipe.steps, recipe.batch_size, recipe.optimizer, recipe.weight_decay) == (70_000, 64, "sgd", 5e-4)
    recipe = adapted.adapt_recipe
    assert (recipe.steps, recipe.batch_size, recipe.optimizer) == (1_000, 64, "sgd")
    assert (recipe.lr, recipe.weight_decay, recipe.schedule) == (1e-5, 0, "constant")
    assert head.networks == ("resnet56", "resnet56", "mobilenetv2") and head.first_classes == 5
    assert head.widths[0] == 16 < head.widths[1] and head.splits == ("stage2", "stage2", "block10")
    assert (transferred.third, transferred.source) == ("cifar100", "imagefolder:imagenet")
    assert (transferred.network, transferred.split_at, transferred.epochs) == ("resnet56", "stage2", 5)
    for recipe in (head.recipe, transferred.recipe):
        assert (recipe.steps, recipe.batch_size, recipe.optimizer, recipe.lr) == (20_000, 512, "adam", 0.01)
    for recipe in (head.tune_recipe, transferred.tune_recipe):
        assert recipe.weight_decay == 0
    assert all((r.recipe.crop, r.recipe.flip) == (4, True) for r in PUBLISHED.values())


@pytest.mark.parametrize("preset", ["cifar", "paper"])
def test_adaptation_goes_on_at_the_last_rate_of_the_source(preset):
    run = plan("adaptation", preset)[0]
    last = training.learning_rate(run.recipe, run.recipe.steps - 1)
    assert run.adapt_recipe.lr == pytest.approx(last) == 1e-5
    assert training.learning_rate(run.recipe, 0) == 0.01


SIZE = {"n_train", "n_test", "network", "width", "networks", "widths", "epochs", "seed"}
IMAGES = {"a", "b", "left_out", "direction", "data", "third", "source", "target"}
KIND = {"pretext", "variant", "method"}
RECIPE = {
    "steps",
    "batch_size",
    "lr",
    "schedule",
    "decay_every",
    "rotations",
    "precision",
    "crop",
    "flip",
    "channels_last",
}
TUNING = {"steps", "batch_size", "lr", "rotations", "precision", "crop", "flip", "channels_last"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", KINDS)
def test_presets_change_size_and_images_and_not_how_it_works(name, preset):
    published, changed = flat(PUBLISHED[name]), set()
    for run in plan(name, preset):
        changed |= {key for key, value in flat(run).items() if value != published[key]}
    allowed = SIZE | IMAGES | KIND | {f"recipe.{key}" for key in RECIPE}
    allowed |= {f"{recipe}.{key}" for recipe in ("adapt_recipe", "tune_recipe") for key in TUNING}
    assert changed <= allowed
    if preset == "paper":
        planned = {"adaptation": {"direction", "pretext", "adapt_recipe.lr"}, "classifier": {"variant"}}
        assert changed == {"seed"} | planned.get(name, {"method", "target"})
    if preset in ON_A_CPU:
        precisions = {value for run in plan(name, preset) for key, value in flat(run).items() if "precision" in key}
        assert precisions == {"fp32"}, "the same numbers on any processor"


@pytest.mark.parametrize("name", KINDS)
def test_presets_grow(name):
    def cost(preset):
        run = plan(name, preset)[0]
        return run.recipe.steps * run.recipe.batch_size

    costs = [cost(preset) for preset in PRESETS]
    assert costs == sorted(set(costs))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adaptation", {"recipe.steps": 2, "adapt_recipe.steps": 1, "third": "", "width": 5}),
        ("classifier", {"tune_recipe.steps": 1, "widths": (1, 2, 3), "first_classes": 3}),
        ("transfer", {"tune_recipe.lr": 0.5, "epochs": 3, "n_test": 7}),
    ],
)
def test_settings_change_every_run_and_nothing_else(name, settings):
    runs = experiments.configs(name, "smoke", settings=settings)
    assert len(runs) == len(plan(name, "smoke"))
    for run, before in zip(runs, plan(name, "smoke"), strict=True):
        assert flat(run) == flat(before) | settings


def test_one_rate_for_all_leaves_no_larger_steps():
    runs = experiments.configs("adaptation", "smoke", settings={"adapt_recipe.lr": 0.1})
    assert len(runs) == len(plan("adaptation", "smoke")) * 2 // 3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adaptation", {"source": "digits"}, "source: no such setting; .*direction.*adapt_recipe.lr"),
        ("classifier", {"networks": "resnet8"}, "networks: must be"),
        ("classifier", {"widths": (1, 2)}, r"networks, widths, splits: .*\(3, 2, 3\)"),
        ("transfer", {"epochs": 0}, "epochs: must be at least 1"),
        ("transfer", {"adapt_recipe.lr": 0.1}, "adapt_recipe.lr: no such setting"),
    ],
)
def test_impossible_settings_are_answered(name, settings, message):
    with pytest.raises(ValueError, match=message):
        experiments.configs(name, "smoke", settings=settings)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "split_at"), [("resnet8", 4, "stage2"), ("wrn10", 2, "stage1"), ("mobilenetv2", 2, "block10")]
)
def test_weights_do_not_depend_on_the_number_of_classes_but_for_the_last_layer(name, width, split_at):
    before = torch.get_rng_state()
    cuts = [
        cut_network(name, small_set(classes=classes), width=width, split_at=split_at, seed=seed)
        for classes, seed in (("abc", 7), ("abcdefg", 7), ("abc", 8))
    ]
    (extractor, head), (other_extractor, other_head), (another, another_head) = cuts
    assert same(state(extractor), state(other_extractor)) and same(state(head[:-1]), state(other_head[:-1]))
    assert (head[-1].out_features, other_head[-1].out_features) == (3, 7)
    assert not same(state(extractor), state(another)) and not same(state(head[:-1]), state(another_head[:-1]))
    assert torch.equal(torch.get_rng_state(), before), "from the seed alone"
    parts = models.split(models.build(name, 3, width=width), split_at)
    for found, expected in zip((extractor, head), parts, strict=True):
        assert [p.shape for p in found.parameters()] == [p.shape for p in expected.parameters()]


@pytest.mark.parametrize("channels", [1, 3])
def test_networks_take_the_images_of_the_set(channels):
    image_set = small_set(channels=channels)
    extractor, head = cut_network("resnet8", image_set, width=2, split_at="stage2", seed=0)
    assert head(extractor(image_set.normalise(image_set.test.images))).shape == (len(image_set.test), 3)
