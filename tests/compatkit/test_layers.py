"""Layers of networks, with hooks that leave nothing behind, and CKA between all of them."""

import pytest
import torch
from torch import nn

from compatkit import models
from compatkit.layers import CKAMap, cka_map, layer_features, layer_names
from compatkit.normalization import evaluation
from compatkit.similarity import linear_cka

from ..samples import same, state

BOUND = 1e-6  # of the error in single precision


def images(n=24, seed=0):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def networks():
    return models.build("resnet8", 5, seed=0, width=4), models.build("resnet8", 7, seed=1, width=6)


def hooks(net):
    return sum(len(m._forward_hooks) for m in net.modules())


def test_layer_features_are_those_of_the_blocks_run_one_by_one():
    net, x = networks()[0], images()
    names = layer_names(net)
    assert names == ["stem", "stage1_block1", "stage2_block1", "stage3_block1", "pool", "classifier"]
    for statistics in ("batch", "running"):
        got, value = layer_features(net, names, x, statistics=statistics), x
        with evaluation(net, statistics), torch.no_grad():
            for name, block in net.named_children():
                value = block(value)
                assert torch.equal(got[name], value)
    assert list(layer_features(net, ["stage2_block1.conv1", "stem.0"], x)) == ["stage2_block1.conv1", "stem.0"]


def test_operations_in_place_change_neither_features_nor_images():
    def net(inplace):
        torch.manual_seed(0)
        relu = lambda: nn.ReLU(inplace=inplace)  # noqa: E731
        return nn.Sequential(relu(), nn.Conv2d(3, 4, 3), relu(), nn.Flatten(), nn.Linear(144, 3), nn.Identity(), relu())

    x = images()
    before, names = x.clone(), ["1", "4", "5", "6"]
    got, expected = (layer_features(net(inplace), names, x) for inplace in (True, False))
    assert all(torch.equal(got[name], expected[name]) for name in names) and torch.equal(x, before)

    class Adds(nn.Module):  # as torchvision's ResNet adds its shortcuts: no module says so
        def forward(self, x):
            x += 1
            return x

    unsaid = nn.Sequential(Adds(), nn.Conv2d(3, 4, 3), Adds())
    got, modes = layer_features(unsaid, ["1", "2"], x), [part.training for part in unsaid.modules()]
    assert torch.equal(got["1"] + 1, got["2"]) and torch.equal(got["1"], unsaid[1](x + 1)) and torch.equal(x, before)
    assert modes == [True] * 4 and hooks(unsaid) == 0


def test_nothing_is_left_behind_also_after_an_error():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("on purpose")

    whole = nn.Sequential(*networks()[0]).train()
    broken = nn.Sequential(*networks()[0], Breaks()).train()
    broken[1].eval()
    before = [(state(net), [m.training for m in net.modules()]) for net in (whole, broken)]
    with pytest.raises(RuntimeError, match="on purpose"):
        cka_map(whole, broken, images())
    with pytest.raises(ValueError, match="statistics"):
        cka_map(whole, whole, images(), statistics="recalibrated")
    for net, (was, modes) in zip((whole, broken), before, strict=True):
        assert hooks(net) == 0 and [m.training for m in net.modules()] == modes and same(was, state(net))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kind", ["positions", "pooled", "flatten"])
def test_map_against_pair_by_pair(unbiased, kind):
    a, b = networks()
    batches = [images(10, 1), images(7, 2), images(9, 3)]
    names_a, names_b, got = cka_map(
        a, b, iter(batches), unbiased=unbiased, **({kind: True} if kind != "positions" else {})
    )
    assert (names_a, names_b) == (layer_names(a), layer_names(b))
    runs = [[layer_features(net, layer_names(net), x) for x in batches] for net in (a, b)]
    for i, first in enumerate(names_a):
        for j, second in enumerate(names_b):
            x, y = (torch.cat([out[name] for out in run]) for run, name in zip(runs, (first, second), strict=True))
            size = 1 if kind == "pooled" else min([*x.shape[2:], *y.shape[2:]] if x.ndim == y.ndim == 4 else [1])
            if kind == "flatten":
                x, y = x.flatten(1), y.flatten(1)
            x, y = (m if m.ndim == 2 else nn.functional.adaptive_avg_pool2d(m.double(), size) for m in (x, y))
            assert got[i, j].item() == pytest.approx(linear_cka(x, y, unbiased=unbiased), abs=BOUND)


def test_each_network_runs_once_a_batch():
    a, b = networks()
    sizes = {"a": [], "b": []}
    a.register_forward_hook(lambda m, x, y: sizes["a"].append(len(y)))
    b.register_forward_hook(lambda m, x, y: sizes["b"].append(len(y)))
    cka_map(a, b, images(), batch_size=10)
    assert sizes == {"a": [8, 8, 8], "b": [8, 8, 8]}
    _, _, own = cka_map(a, a, images(), batch_size=10)
    assert sizes["a"] == [8] * 6
    assert torch.allclose(own.diagonal(), torch.ones(6, dtype=torch.float64)) and torch.allclose(own, own.T)


@pytest.mark.parametrize("flatten", [False, True])
def test_a_map_of_features_is_that_of_their_networks(flatten):
    a, b = networks()
    batches = [images(10, 1), images(7, 2)]
    cka = CKAMap(unbiased=True, flatten=flatten)
    for x in batches:
        sides = [layer_features(net, layer_names(net), x) for net in (a, b)]
        cka.update(*sides)
        for feature in [feature for side in sides for feature in side.values()]:
            feature.zero_()  # copies were kept
    assert torch.equal(cka.compute(), cka_map(a, b, batches, unbiased=True, flatten=flatten)[2])


def test_bad_features_of_a_map():
    x = torch.randn(3, 4)
    cka = CKAMap(unbiased=True)
    with pytest.raises(ValueError, match="at least 4 samples are needed if unbiased, got 0"):
        cka.compute()
    with pytest.raises(ValueError, match="a, b: at least one layer of each"):
        cka.update({"one": x}, {})
    cka.update({"one": x, "two": x}, {"one": x})
    with pytest.raises(ValueError, match="a, b: every batch needs the same layers and shapes"):
        cka.update({"one": x, "two": x[:, :3]}, {"one": x})
    with pytest.raises(ValueError, match="must hold the same samples, got 3 and 2"):
        cka.update({"one": x, "two": x}, {"one": x[:2]})
    with pytest.raises(ValueError, match="b: layer 'one': must be finite"):
        CKAMap().update({"one": x}, {"one": x / 0}).compute()


def test_bad_layers_and_images():
    class Idle(nn.Identity):
        def __init__(self):
            super().__init__()
            self.unused = nn.ReLU()

    a, b = networks()
    with pytest.raises(ValueError, match=r"layers_b: no layer \['stage9'\]; there are stem.*stage3_block1.*classifier"):
        cka_map(a, b, images(), layers_b=["stage9"])
    with pytest.raises(ValueError, match="names: a list of names is needed, got the text 'stem'"):
        layer_features(a, "stem", images())
    with pytest.raises(ValueError, match="layers_a: at least one layer.*Linear"):
        cka_map(nn.Linear(3, 3), b, images())
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="'0' runs more than once"):
        layer_features(nn.Sequential(relu, nn.Sequential(relu)), ["0"], images())
    with pytest.raises(ValueError, match="did not run"):
        layer_features(Idle(), ["unused"], images())
    with pytest.raises(ValueError, match="'0' runs and puts out a tuple"):
        layer_features(nn.Sequential(nn.LSTM(8, 4)), ["0"], images()[:, 0])
    with pytest.raises(ValueError, match="layer '0'.*shape"):
        cka_map(nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Flatten()), b, images())
    with pytest.raises(ValueError, match="images: .*got none"):
        cka_map(a, b, images()[:0])
    with pytest.raises(ValueError, match="images: .*uint8"):
        cka_map(a, b, images().byte())
    with pytest.raises(ValueError, match="batch_size"):
        cka_map(a, b, images(), batch_size=0)


class TokensOf(nn.Module):
    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_map_of_cka_takes_tokens(pooled):
    images = torch.randn(12, 3, 4, 4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), TokensOf(), nn.Linear(4, 5))
    _, _, matrix = cka_map(net, net, images, ["0", "1", "2"], ["2"], pooled=pooled)
    features = [net[0](images), net[:2](images), net(images)]
    tokens, other = (x.mean(1) if pooled else x.flatten(0, 1) for x in features[1:])
    assert matrix[1, 0] == pytest.approx(linear_cka(tokens, other)) and matrix[2, 0] == pytest.approx(1)
    averaged = linear_cka(features[0].mean((2, 3)), features[2].mean(1))
    assert matrix[0, 0] == pytest.approx(averaged), "a map and tokens are both averaged"


def test_a_map_of_networks_of_half_precision():
    a, b = networks()
    expected = cka_map(a, b, images())[2]
    assert torch.allclose(cka_map(a.bfloat16(), b.half(), images())[2], expected, atol=0.02)
