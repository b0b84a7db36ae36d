"""What every experiment plans, and what can be changed of it; what is published: ``test_paper_recipes``."""

from dataclasses import asdict, replace

import pytest

from compatkit import models, training
from compatkit.images import common_classes
from reproduction import experiments, images
from reproduction.experiments import EXPERIMENTS, PRESETS, gygli, ramanujan
from reproduction.experiments.presets import override, settings
from reproduction.experiments.settings import PairRun
from reproduction.images import load
from reproduction.runs import context

from . import plans


def test_plans_are_as_they_are_stored(monkeypatch):
    """A plan that is changed on purpose is accepted by ``python -m tests.reproduction.plans``."""
    for module in (images, context):
        monkeypatch.setattr(module, "load", lambda *a, **k: pytest.fail("no image is needed to list runs"))
    assert plans.everything() == plans.STORED.read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_at_every_preset_is_a_list_of_distinct_runs(name, preset):
    configs = experiments.configs(name, preset)
    assert len(set(configs)) == len(configs) > 0 and all(row for row, _ in experiments.plan(name, preset))
    assert EXPERIMENTS[name].__doc__
    assert name != "fig10" or configs == experiments.configs("fig2", preset)
    told = [config for _, config in EXPERIMENTS[name](preset, seeds=(5,))]
    assert {replace(config, seed=5) for config in configs} == set(told), "the same of any seed"


@pytest.mark.parametrize("preset", experiments.PRESETS)
def test_fig8_cuts_a_network_once_at_every_boundary_up_to_pooling(preset):
    fig2 = [c for c in experiments.configs("fig2", preset, [0, 1]) if c.method in ("IIW+RP", "IIW+DCC")]
    cuts = {}
    for config in experiments.configs("fig8", preset, [0, 1]):
        cuts.setdefault(replace(config, split_at=fig2[0].split_at), []).append(config.split_at)
    assert set(cuts) == set(fig2), "but for the cut they are runs of Fig. 2, and these are among them"
    network = models.build(fig2[0].network, 10, width=1)
    for found in cuts.values():
        assert "stage2" in found and found == next(iter(cuts.values()))
    assert [len(models.split(network, at)[0]) for at in found] == list(range(1, len(network) - 1))
    assert not list(network[-2].parameters()), "the boundary after it is the one before it once more"


@pytest.mark.parametrize("sets", gygli.EMBEDDED_PAIRS)
def test_embedded_pairs_have_as_many_common_classes_as_fig9_counts_to(sets):
    common = common_classes(load(sets["a"]), load(sets["b"]), leave_out=sets.get("left_out", ()))
    numbers = {c.dcc_classes or len(common) for c in experiments.configs("fig9", "laptop") if c.a == sets["a"]}
    assert numbers == set(range(2, 10)) and len(common) == 9


def test_some_rows_of_an_experiment():
    whole = experiments.plan("fig2", "laptop")
    assert experiments.plan("fig2", "laptop", rows=["DCC", "IIW+RP"]) == [p for p in whole if p[0] in ("DCC", "IIW+RP")]
    with pytest.raises(ValueError, match=r"rows: fig2 has independent; IIW; .*, got RP\+IIW"):
        experiments.plan("fig2", "laptop", rows=["DCC", "RP+IIW"])


CLASSES = {"shapes": 100, "mnist5k": 10, "cifar100": 100, "imagefolder:imagenet": 1000}
CLASSES |= {"imagefolder:places365": 365, "imagefolder:vggface2": 8631, "imagefolder:cifar100": 100}
UPDATES = [name for name, experiment in EXPERIMENTS.items() if experiment.__module__ == ramanujan.__name__]


@pytest.mark.parametrize("name", UPDATES)
def test_updates_take_classes_that_there_are_and_the_epochs_of_the_paper(name):
    for preset in PRESETS:
        for run in experiments.configs(name, preset):
            assert max(run.classes) + run.held_out <= CLASSES[run.data]
            if preset == "laptop" and name != "longer":
                images = {"shapes": 10_000, "mnist5k": 4_000}[run.data]
                for recipe, epochs in ((run.recipe, 10), (run.side_recipe, 10), (run.h_recipe, 80)):
                    assert recipe.steps == round(epochs * images / recipe.batch_size)


@pytest.mark.parametrize("preset", ["cifar", "paper"])
def test_adaptation_goes_on_at_the_last_rate_of_the_source(preset):
    run = experiments.configs("adaptation", preset)[0]
    last = training.learning_rate(run.recipe, run.recipe.steps - 1)
    assert run.adapt_recipe.lr == pytest.approx(last) == 1e-5
    assert training.learning_rate(run.recipe, 0) == 0.01


# --- settings ---------------------------------------------------------------------------------------------------------


def test_one_rate_for_all_leaves_no_larger_steps():
    runs = experiments.configs("adaptation", "smoke", settings={"adapt_recipe.lr": 0.1})
    assert len(runs) == len(experiments.configs("adaptation", "smoke")) * 2 // 3


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("adaptation", {"source": "digits"}, "source: no such setting; .*direction.*adapt_recipe.lr"),
        ("classifier", {"networks": "resnet8"}, "networks: must be"),
        ("classifier", {"widths": (1, 2)}, r"networks, widths, splits: .*\(3, 2, 3\)"),
        ("transfer", {"epochs": 0}, "epochs: must be at least 1"),
        ("transfer", {"adapt_recipe.lr": 0.1}, "adapt_recipe.lr: no such setting"),
    ],
)
def test_impossible_settings_are_answered(name, changes, message):
    with pytest.raises(ValueError, match=message):
        experiments.configs(name, "smoke", settings=changes)


def test_override_reaches_into_the_recipe_and_changes_nothing_else():
    config = override(PairRun(), {"width": 32, "recipe.lr": 1})
    assert config.width == 32 and repr(config.recipe.lr) == "1.0", "1 and 1.0 are one run"
    before, after = asdict(PairRun()), asdict(config)
    assert {k for k in before if before[k] != after[k]} == {"width", "recipe"}
    assert "recipe.steps" in settings(config) and "method" in settings(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widht": 3}, "widht.*width"),
        ({"recipe.step": 3}, "step.*steps"),
        ({"seed.x": 3}, "seed.x"),
        ({"width": "wide"}, "width.*'wide'"),
        ({"recipe.flip": 1}, "flip"),
        ({"scheme": "together"}, "scheme"),
        ({"width": None}, "width"),
        ({"width": True}, "width"),
        ({"n_train": "all"}, "n_train"),
        ({"recipe.crop": -1}, "crop"),
        ({"dcc_classes": 1}, "dcc_classes.*at least 2"),
        ({"dcc_classes": 2.0}, "dcc_classes"),
        ({"normalization": "group"}, "normalization.*instance.*'group'"),
        ({"numbering": "reversed"}, "numbering.*shifted.*'reversed'"),
        ({"turned": 1.5}, "turned, stitches: .*1.5"),
        ({"stitches": (100, 4)}, r"turned, stitches: .*\(100, 4\)"),
        ({"pretrained_on": None}, "pretrained_on"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"width": 0}, "width: must be at least 1"),
        ({"n_test": 0}, "n_test: must be at least 1"),
        ({"test_batch_size": 0}, "test_batch_size: must be at least 1"),
        ({"recipe.batch_size": 0}, "batch_size: must be positive"),
    ],
)
def test_bad_settings_are_answered(changes, message):
    with pytest.raises(ValueError, match=message):
        override(PairRun(), changes)


def test_unknown_experiments_and_presets_are_answered():
    with pytest.raises(ValueError, match="experiment.*fig2"):
        experiments.configs("fig99", "smoke")
    with pytest.raises(ValueError, match="preset.*laptop"):
        experiments.configs("fig2", "huge")
