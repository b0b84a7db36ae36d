"""Parameter counts of the literature, and cuts that change nothing."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from compatkit import models


def build(*args, **kwargs):
    return models.build(*args, seed=0, **kwargs)


@pytest.mark.parametrize(("shortcut", "parameters"), [("A", 853_018), ("B", 855_770)])
def test_resnet56_has_the_published_parameters(shortcut, parameters):
    assert models.count_parameters(build("resnet56", 10, shortcut=shortcut)) == parameters


def test_resnet20_has_the_published_parameters():
    assert models.count_parameters(build("resnet20", 10)) == 269_722  # He et al. 2016, Table 6: 0.27 million


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_every_split_recombines_to_the_same_network(shortcut):
    net = build("resnet14", 7, width=4, shortcut=shortcut).eval()
    x = torch.randn(2, 3, 16, 16)
    points = models.split_points(net)
    assert points == ["stem", *(f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2)), "pool"]
    for at in points:
        extractor, head = models.split(net, at)
        assert torch.equal(head(extractor(x)), net(x))
        assert {*extractor.parameters(), *head.parameters()} == {*net.parameters()}


def test_a_stage_means_its_last_block():
    net = build("resnet56", 10)
    extractor, head = models.split(net, "stage2")
    assert list(extractor._modules)[-1] == "stage2_block9"
    assert next(iter(head._modules)) == "stage3_block1"
    assert extractor.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 32, 16, 16)


def test_option_a_shortcut_against_its_definition():
    block = models.BasicBlock(4, 8, stride=2)
    for bn in (block.bn1, block.bn2):
        torch.nn.init.zeros_(bn.weight)  # the residual branch is off
    x = torch.rand(2, 4, 6, 6)
    y = block.eval()(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, [0, 1, 6, 7]].abs().max() == 0


def test_auxiliary_head_has_the_shape_and_weights_of_its_own():
    _, head = models.split(build("resnet8", 10, width=4), "stage2")
    head.requires_grad_(False)
    new = models.auxiliary_head(head, 4, seed=1)
    assert new(torch.randn(2, 8, 8, 8)).shape == (2, 4)
    assert models.count_parameters(new) == models.count_parameters(head) - 6 * (16 + 1)
    assert all(p.requires_grad for p in new.parameters())
    assert not torch.equal(new.stage3_block1.conv1.weight, head.stage3_block1.conv1.weight)
    assert torch.equal(models.auxiliary_head(head, 4, seed=1)[-1].weight, new[-1].weight)
    with pytest.raises(ValueError, match="linear"):
        models.auxiliary_head(head[:-1], 4)


def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, two = build("resnet8", 3), build("resnet8", 3)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_seeded_weights_do_not_depend_on_other_threads():
    expected = [build_seed(i) for i in range(40)]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(build_seed, range(40)))
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def build_seed(seed):
    return torch.cat([p.detach().flatten() for p in models.build("resnet8", 3, seed=seed, width=4).parameters()])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet21", {}, r"depth.*6n \+ 2.*21"),
        ("resnet2", {}, "depth"),
        ("vgg16", {}, "vgg16"),
        ("resnet8", {"shortcut": "C"}, "shortcut"),
        ("resnet8", {"width": 0}, "width"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, **options)


def test_a_misspelt_boundary_is_answered_with_the_boundaries():
    with pytest.raises(ValueError, match=r"stage9.*stage1_block1.*pool"):
        models.split(build("resnet8", 10), "stage9")


def test_an_auxiliary_head_leaves_the_global_generator_alone():
    _, head = models.split(models.build("resnet8", 5, seed=0, width=4), "stage2")
    before = torch.get_rng_state()
    first, second = (models.auxiliary_head(head, 3, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert all(p.isfinite().all() and p.abs().sum() > 0 for p in first.classifier.parameters())
