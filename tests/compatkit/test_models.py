"""Parameter counts of the literature, torchvision's MobileNet, and cuts that change nothing."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compatkit import inspection, models
from compatkit.normalization import recalibrated
from reproduction.images import torchvision_

from ..samples import same, state, unsettled

STAGES = [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2)]


def build(*args, **kwargs):
    return models.build(*args, seed=0, **kwargs)


def normalised(bn, y):
    """BN by its buffers, written out."""
    shape = (1, -1, 1, 1)
    mean, var = bn.running_mean.view(shape), bn.running_var.view(shape)
    return (y - mean) / (var + 1e-5).sqrt() * bn.weight.view(shape) + bn.bias.view(shape)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet20", {}, 269_722),  # He et al. 2016, Table 6: 0.27 million
        ("resnet56", {"shortcut": "A"}, 853_018),
        ("resnet56", {"shortcut": "B"}, 855_770),
        ("wrn16", {"width": 128}, 10_961_370),
        ("wrn40", {"width": 64}, 8_949_210),
        ("mobilenetv2", {}, 2_236_682),
    ],
)
def test_networks_have_the_published_parameters(name, options, parameters):
    assert models.count_parameters(build(name, 10, **options)) == parameters


@pytest.mark.parametrize("width", [16, 32, 45])
def test_mobilenet_with_the_weights_of_torchvision_gives_its_outputs(width):
    theirs = unsettled(torchvision_().models.mobilenet_v2(num_classes=10, width_mult=width / 32))
    theirs.features[0][0].stride = theirs.features[2].conv[1][0].stride = (1, 1)  # for images of 32 x 32
    x = torch.randn(4, 3, 32, 32)
    theirs = recalibrated(theirs, [x])  # by buffers of no meaning 17 blocks forget their input
    ours = build("mobilenetv2", 10, width=width).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert expected.std(0).min() > 1e-3, "the images are told apart"
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet14", {"shortcut": "A"}, ["stem", *STAGES, "pool"]),
        ("resnet14", {"shortcut": "B"}, ["stem", *STAGES, "pool"]),
        ("wrn16", {}, ["stem", *STAGES, "pool"]),
        ("mobilenetv2", {}, ["stem", *(f"block{i}" for i in range(1, 18)), "features", "pool"]),
    ],
)
def test_every_split_recombines_to_the_same_network(name, options, expected):
    net = build(name, 7, width=4, **options).eval()
    x = torch.randn(2, 3, 16, 16)
    points = models.split_points(net)
    assert points == expected
    for at in points:
        extractor, head = models.split(net, at)
        assert torch.equal(head(extractor(x)), net(x))
        assert {*extractor.parameters(), *head.parameters()} == {*net.parameters()}


def test_a_stage_means_its_last_block():
    extractor, head = models.split(build("resnet20", 10), "stage2")
    assert list(extractor._modules)[-1] == "stage2_block3" and next(iter(head._modules)) == "stage3_block1"
    assert extractor.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 32, 16, 16)


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(4, 4, 1), (4, 6, 1), (4, 8, 2), (4, 4, 2), (6, 3, 1)])
def test_a_pre_activation_block_layer_by_layer(c_in, c_out, stride):
    block = unsettled(models.PreActivationBlock(c_in, c_out, stride)).eval()
    x = torch.randn(3, c_in, 6, 6)
    active = normalised(block.bn1, x).clamp_min(0)
    y = normalised(block.bn2, F.conv2d(active, block.conv1.weight, stride=stride, padding=1)).clamp_min(0)
    shortcut = x if (c_in, stride) == (c_out, 1) else F.conv2d(active, block.projection.weight, stride=stride)
    expected = F.conv2d(y, block.conv2.weight, padding=1) + shortcut
    assert expected.shape == (3, c_out, 6 // stride, 6 // stride) and expected.min() < 0, "no ReLU at the end"
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_a_wide_resnet_normalises_after_its_last_block_and_not_after_its_stem():
    net = unsettled(build("wrn10", 5, width=4)).eval()
    x = torch.randn(2, 3, 8, 8)
    y = F.conv2d(x, net.stem[0].weight, padding=1)
    for block in (net.stage1_block1, net.stage2_block1, net.stage3_block1):
        y = block(y)
    y = normalised(net.pool[0], y).clamp_min(0).mean((2, 3))
    assert y.shape == (2, 16)
    assert torch.allclose(net(x), y @ net.classifier.weight.T + net.classifier.bias, atol=1e-5)


def test_option_a_shortcut_against_its_definition():
    block = models.BasicBlock(4, 8, stride=2)
    for bn in (block.bn1, block.bn2):
        torch.nn.init.zeros_(bn.weight)  # the residual branch is off
    x = torch.rand(2, 4, 6, 6)
    y = block.eval()(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, [0, 1, 6, 7]].abs().max() == 0


def test_an_auxiliary_head_has_the_shape_and_weights_of_its_own():
    _, head = models.split(build("resnet8", 10, width=4), "stage2")
    head.requires_grad_(False)
    new, again = (models.auxiliary_head(head, 4, seed=1) for _ in range(2))
    assert same(state(new), state(again)) and new(torch.randn(2, 8, 8, 8)).shape == (2, 4)
    assert models.count_parameters(new) == models.count_parameters(head) - 6 * (16 + 1)
    assert all(p.requires_grad and p.isfinite().all() for p in new.parameters())
    assert not torch.equal(new.stage3_block1.conv1.weight, head.stage3_block1.conv1.weight)
    with pytest.raises(ValueError, match="linear"):
        models.auxiliary_head(head[:-1], 4)


@pytest.mark.parametrize("name", ["resnet8", "wrn10", "mobilenetv2"])
def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone(name):
    before = torch.get_rng_state()
    one, two, other = (models.build(name, 3, width=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before) and same(state(one), state(two))
    assert not any(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True) if p.ndim > 1)


def test_seeded_weights_do_not_depend_on_other_threads():
    def weights(seed):
        return models.build("resnet8", 3, seed=seed, width=4).classifier.weight

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(weights, range(40)))
    assert all(map(torch.equal, map(weights, range(40)), found))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet21", {}, r"depth.*6n \+ 2.*21"),
        ("resnet2", {}, "depth"),
        ("resnet8", {"shortcut": "C"}, "shortcut"),
        ("wrn12", {}, r"depth.*6n \+ 4.*12"),
        ("wrn4", {}, r"depth.*6n \+ 4.*4"),
        ("mobilenetv2", {"width": 0}, "width.*0"),
        ("mobilenetv3", {}, "name.*mobilenetv3.*resnetD.*wrnD.*mobilenetv2"),
        ("wrn", {}, "name.*'wrn'"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, **options)


def test_a_misspelt_boundary_is_answered_with_the_boundaries():
    with pytest.raises(ValueError, match=r"stage9.*stage1_block1.*pool"):
        models.split(build("resnet8", 10), "stage9")


def test_a_longer_classifier_keeps_its_outputs_and_draws_the_new_ones_from_the_seed():
    _, head = models.split(build("resnet8", 3, width=4), "stage2")
    unsettled(head).eval().requires_grad_(False)
    before, features = state(head), torch.randn(5, 8, 4, 4)
    longer, again, other = (models.extend_classifier(head, 7, seed=seed) for seed in (1, 1, 2))
    outputs = longer(features)
    assert outputs.shape == (5, 7) and torch.allclose(outputs[:, :3], head(features), atol=1e-6)
    assert same(state(longer), state(again)) and not torch.equal(longer[-1].weight[3:], other[-1].weight[3:])
    assert 0 < longer[-1].weight[3:].abs().max() <= head[-1].in_features ** -0.5
    assert all(p.requires_grad for p in longer.parameters())
    with torch.no_grad():
        for parameter in longer.parameters():
            parameter.add_(1)
    assert same(before, state(head)) and not any(p.requires_grad for p in head.parameters())


def test_a_classifier_as_long_as_before_is_a_copy_and_none_gets_shorter():
    _, head = models.split(build("resnet8", 3, width=4), "stage2")
    found = models.extend_classifier(head, 3)
    assert same(state(found), state(head)) and found[-1].weight is not head[-1].weight
    assert models.extend_classifier(nn.Sequential(nn.Linear(4, 2, bias=False)), 5, seed=0)[-1].bias is None
    with pytest.raises(ValueError, match="num_outputs: the head has 3 outputs.*got 2"):
        models.extend_classifier(head, 2)
    with pytest.raises(ValueError, match="linear.*got Sequential"):
        models.extend_classifier(head[:-1], 4)


def test_an_adapter_is_appended_only_where_channels_differ():
    extractor, _ = models.split(build("resnet8", 3, width=4), "stage2")
    assert models.fit_channels(extractor, 8) is extractor
    unsettled(extractor).eval()
    fitted, again, other = (models.fit_channels(extractor, 12, seed=seed) for seed in (1, 1, 2))
    assert list(fitted._modules) == [*extractor._modules, f"adapter{len(extractor)}"]
    assert all(fitted.get_submodule(name) is block for name, block in extractor.named_children()), "shared, not copied"
    x = torch.randn(2, 3, 8, 8)
    expected = torch.einsum("oc, nchw -> nohw", fitted[-1].weight[:, :, 0, 0], extractor(x))
    assert expected.shape == (2, 12, 4, 4) and torch.allclose(fitted(x), expected, atol=1e-5)
    assert torch.equal(fitted[-1].weight, again[-1].weight)
    assert not torch.equal(fitted[-1].weight, other[-1].weight)
    assert models.fit_channels(fitted, 20, seed=0)(x).shape == (2, 20, 4, 4), "and another one after it"


def test_an_outline_has_shapes_and_shares_nothing():
    net = build("resnet8", 3, width=4)
    net.table = torch.ones(3)
    twin = inspection.outline(net)
    assert not twin.training and net.training and twin(torch.zeros(2, 3, 8, 8, device="meta")).shape == (2, 3)
    assert {x.device.type for x in [*twin.state_dict().values(), twin.table]} == {"meta"}
    assert [x.shape for x in twin.parameters()] == [x.shape for x in net.parameters()]
