"""The preset ``paper`` against the recipes as they are printed, number by number."""

from dataclasses import asdict

import pytest

from reproduction.experiments import EXPERIMENTS, configs, plan

REUSABLE = ["fig2", "fig2_pretrained", "incremental", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "choices"]
FORWARD = ["table1", "table2", "table3", "table4", "sec43", "table5", "sequence", "table6", "sec52", "fig3", "disjoint"]


def values(name):
    """Every value that each setting has in the runs of an experiment."""
    found = {}
    for _, config in EXPERIMENTS[name]("paper"):
        for key, value in asdict(config).items():
            inner = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
            for setting, one in inner.items():
                found.setdefault(setting, set()).add(tuple(one) if isinstance(one, list) else one)
    return found


def agree(name, printed):
    found = values(name)
    assert {key: found[key] for key in printed} == {
        key: value if isinstance(value, set) else {value} for key, value in printed.items()
    }


# --- paper A ----------------------------------------------------------------------------------------------------------

ADAM = {  # App. E
    "recipe.optimizer": "adam",
    "recipe.lr": 0.01,
    "recipe.weight_decay": 1e-7,
    "recipe.batch_size": 512,
    "recipe.schedule": "step",
    "recipe.decay_every": 5_000,
}


@pytest.mark.parametrize("name", REUSABLE)
def test_the_analysis_of_compatibility(name):
    steps = {20_000, 10_000} if name == "choices" else 20_000
    rotations = {"all", "sampled"} if name == "choices" else "all"
    printed = {"network": "resnet56", "width": 16, "left_out": (), "n_train": None, "n_test": None}
    printed |= {"recipe.steps": steps, "recipe.rotations": rotations, "similarity_images": None}
    agree(name, ADAM | printed)
    found = values(name)
    assert found["a"] | found["b"] == ({"cifar10"} if name == "fig7" else {"cifar10", "stl10"})
    if name != "fig8":
        assert found["split_at"] == {"stage2"}


def test_pre_training_is_on_ilsvrc_at_32():
    assert values("fig2_pretrained")["pretrained_on"] == {"imagefolder:imagenet"}, "of 32 pixels if nothing is said"
    assert values("fig6")["pretrained_on"] == {"", "imagefolder:imagenet"}


@pytest.mark.parametrize(
    ("name", "runs"),
    [("fig2", 10), ("fig2_pretrained", 10), ("fig7", 3), ("fig8", 5), ("fig9", 3), ("fig10", 10)],
)
def test_as_many_runs_as_were_published(name, runs):
    assert values(name)["seed"] == set(range(runs))
    assert {config.seed for config in configs(name, "paper", [7])} == {7}


def test_domain_adaptation():
    printed = {"network": "wrn28", "width": 256, "third": "imagefolder:imagenet", "a": "cifar10", "b": "stl10"}
    source = {"optimizer": "sgd", "batch_size": 64, "steps": 70_000, "decay_every": 20_000, "weight_decay": 0.0005}
    adaptation = {"steps": 1_000, "weight_decay": 0.0, "schedule": "constant"}
    printed |= {f"recipe.{k}": v for k, v in source.items()}
    agree("adaptation", printed | {f"adapt_recipe.{k}": v for k, v in adaptation.items()})
    assert {c.adapt_recipe.lr for row, c in plan("adaptation", "paper") if row == "rotation"} == {1e-5}


def test_one_head_for_three_extractors():
    networks = {"networks": ("resnet56", "resnet56", "mobilenetv2"), "first_classes": 5, "data": "cifar10"}
    agree("classifier", ADAM | networks | {"recipe.steps": 20_000, "tune_recipe.weight_decay": 0.0})


def test_transfer():
    sets = {"third": "cifar100", "source": "imagefolder:imagenet", "target": {"cifar10", "stl10", "cifar100"}}
    agree("transfer", ADAM | sets | {"network": "resnet56", "epochs": 5, "tune_recipe.weight_decay": 0.0})


# --- paper B ----------------------------------------------------------------------------------------------------------

IMAGES = {
    "imagefolder:imagenet": 1_281_167,
    "imagefolder:places365": 1_803_460,
    "imagefolder:vggface2": 3_141_890,
    "imagefolder:cifar100": 50_000,
}
SGD = {"optimizer": "sgd", "lr": 1.024, "momentum": 0.875, "weight_decay": 2**-15, "batch_size": 1024}  # App. C
H = {"optimizer": "adam", "lr": 5e-4, "weight_decay": 2**-15, "batch_size": 1024}  # App. D


@pytest.mark.parametrize("name", FORWARD)
def test_models_and_transformations_of_an_update(name):
    schedules = {"recipe.schedule": "cosine", "recipe.warm_up": 0.05, "h_recipe.schedule": "cosine"}
    printed = {f"recipe.{k}": v for k, v in SGD.items()} | {f"h_recipe.{k}": v for k, v in H.items()}
    widths = {512, 1024, 2048, 4096} if name == "fig3" else 2048
    printed |= {"h_recipe.warm_up": 5 / 80, "h_width": widths, "new_network": "torchvision:resnet50"}
    agree(name, schedules | printed | {"image_size": 224, "n_train": None, "class_order": "stored"})
    for config in configs(name, "paper"):
        for recipe, epochs in ((config.recipe, 100), (config.h_recipe, 80)):
            assert recipe.steps * 1024 / IMAGES[config.data] == pytest.approx(epochs, rel=1e-3), "of the whole set"


@pytest.mark.parametrize("name", ["table1", "table6", "fig3", "sec43"])
def test_imagenet(name):
    sets = {"data": "imagefolder:imagenet", "classes": (500, 1000), "side_data": "", "loss": "softmax"}
    agree(name, sets | {"old_network": "torchvision:resnet50", "old_dim": 128, "new_dim": 128, "side_dim": 128})
    assert values(name)["evaluated_on"] == {"imagefolder:places365" if name == "sec43" else ""}


def test_places():
    agree("table2", {"data": "imagefolder:places365", "classes": (182, 365), "old_dim": 512, "new_dim": 512})
    agree("table2", {"old_network": "torchvision:resnet50", "side_data": {"", "imagefolder:imagenet"}})
    assert {c.side for c in configs("table2", "paper") if c.side_data} == {"SimCLR"}


def test_faces():
    networks = {"old_network": "torchvision:resnet18", "old_dim": 128, "old_width": 16, "new_dim": 128}
    agree("table3", networks | {"data": "imagefolder:vggface2", "classes": (863, 8631), "loss": "arcface"})
    gallery = {"evaluated_on": "imagefolder:vggface2-unseen", "n_test": 50 * 500, "held_out": 0}
    agree("table3", gallery | {"scale": 64.0, "margin": 0.5, "side": {"none", "other old model"}})


def test_old_architectures():
    found = {row: (c.old_network, c.old_dim) for row, c in plan("table4", "paper")}
    assert found == {
        "ResNet18-128": ("torchvision:resnet18", 128),
        "MobileNet-128": ("torchvision:mobilenet_v2", 128),
        "ResNet50-64": ("torchvision:resnet50", 64),
        "none": ("torchvision:resnet50", 128),
    }


def test_sequences():
    assert values("table5")["classes"] == {(250, 500, 1000)}
    agree("sequence", {"data": "imagefolder:cifar100", "classes": (20, 40, 60, 80, 100)})
