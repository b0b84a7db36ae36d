"""BN by batch, running or recalibrated statistics, and nothing left behind."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from compatkit import normalization
from compatkit.training import freeze
from reproduction.images import torchvision_

from ..samples import same, state, unsettled


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    return unsettled(nn.Sequential(*layers))


OVER = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}


def naive(net, x, statistics):
    """The network with its BN written out, whatever has taken its place."""
    for layer in net:
        if not isinstance(layer, nn.BatchNorm2d):
            x = layer(x)
            continue
        mean, var = layer.running_mean.view(1, -1, 1, 1), layer.running_var.view(1, -1, 1, 1)
        if statistics != "running":
            over = OVER[statistics]
            mean, var = x.mean(over, keepdim=True), x.var(over, unbiased=False, keepdim=True)
        x = (x - mean) / (var + layer.eps).sqrt()
        x = x * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    return x


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_evaluation_against_the_formula_leaves_nothing_behind(net, statistics):
    net.train()[1].eval()
    before, modes, x = state(net), [m.training for m in net.modules()], torch.randn(6, 3, 8, 8)
    expected = naive(net, x, statistics)
    with pytest.raises(RuntimeError, match="on purpose"), normalization.evaluation(net, statistics):
        assert torch.allclose(net(x), expected, atol=1e-5)
        raise RuntimeError("on purpose")
    assert same(before, state(net)) and [m.training for m in net.modules()] == modes


@pytest.mark.parametrize("frozen", [False, True])
def test_recalibrated_is_the_average_over_batches_whatever_was_counted_before(net, frozen):
    for bn in normalization.batch_norms(net):
        bn.num_batches_tracked.fill_(300)
        bn.track_running_stats = not frozen
    before, batches = state(net), list(5 + torch.randn(3, 6, 3, 8, 8))
    result, features = normalization.recalibrated(net, batches), [net[0](batch) for batch in batches]
    means, variances = (torch.stack([getattr(x, f)((0, 2, 3)) for x in features]).mean(0) for f in ("mean", "var"))
    assert torch.allclose(result[1].running_mean, means, atol=1e-5)
    assert torch.allclose(result[1].running_var, variances, atol=1e-5)
    assert same(before, state(net)) and net[1].track_running_stats != frozen, "the original is not touched"
    assert not any(part.training for part in result.modules()) and result[1].momentum == net[1].momentum


@pytest.mark.parametrize("kind", ["layer", "instance"])
def test_replacements_against_the_formula(net, kind):
    x = torch.randn(6, 3, 8, 8)
    expected = naive(net, x, kind)
    assert normalization.replace_batch_norm(net, kind) is net and normalization.batch_norms(net) == []
    assert torch.allclose(net.eval()(x), expected, atol=1e-5)


def test_unit_length_is_over_channels():
    x = torch.randn(2, 5, 3, 3)
    y = normalization.UnitLength()(x)
    assert torch.allclose(y, x / x.pow(2).sum(1, keepdim=True).sqrt(), atol=1e-6)
    assert torch.equal(normalization.UnitLength()(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_a_layer_that_is_used_twice_is_replaced_everywhere_by_one():
    bn = nn.BatchNorm2d(3)
    net = normalization.replace_batch_norm(nn.Sequential(bn, nn.ModuleDict({"x": bn})), "layer")
    assert isinstance(net[0], nn.GroupNorm) and net[0] is net[1]["x"]
    with pytest.raises(ValueError, match="kind.*layer.*'group'"):
        normalization.replace_batch_norm(net, "group")


def test_layers_without_buffers_are_recalibrated():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False, affine=False))
    batches = [torch.randn(8, 3, 4, 4) + 5, torch.randn(8, 3, 4, 4)]
    found = normalization.recalibrated(net, batches)
    features = [net[0](batch) for batch in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    assert torch.allclose(found[1].running_mean, mean, atol=1e-5) and net[1].running_mean is None
    assert not torch.allclose(found(batches[0]), net(batches[0]), atol=0.1), "not by the batch at hand"


class Active(nn.BatchNorm2d):
    """Does more than BN, by torch's rules for statistics, as timm's layers do."""

    def forward(self, x):
        return super().forward(x).relu()


class Always(nn.BatchNorm2d):
    """Normalises by its running statistics, come what may."""

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


BUILT_IN = {
    "scripted": (torch.jit.script, "RecursiveScriptModule at '1'"),
    "frozen by jit": (lambda net: torch.jit.freeze(torch.jit.script(net.eval())), "RecursiveScriptModule at ''"),
    "exported": (lambda net: torch.export.export(net.eval(), (torch.randn(6, 3, 8, 8),)).module(), "Module at '1'"),
    "torchvision's": (lambda net: torchvision_().ops.FrozenBatchNorm2d(4), "FrozenBatchNorm2d at ''"),
    "quantised": (lambda net: nn.Sequential(torch.ao.nn.quantized.BatchNorm2d(4)), "BatchNorm2d at '0'"),
    "a subclass": (lambda net: nn.Sequential(Always(4)), "Always at '0'"),
    "instance": (lambda net: nn.InstanceNorm2d(4, track_running_stats=True), "InstanceNorm2d at ''"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", BUILT_IN)
def test_statistics_that_are_built_in_are_refused_by_name(net, kind):
    make, where = BUILT_IN[kind]
    module = make(net)
    before = state(module)
    with pytest.raises(ValueError, match=f"module: statistics other than 'running' need .*, got {where}"):
        normalization.recalibrated(module, [torch.randn(6, 3, 8, 8)])
    with pytest.raises(ValueError, match=f"got {where}"), normalization.evaluation(module, "batch"):
        pass
    with pytest.raises(ValueError, match=f"got {where}"):
        freeze(module)
    with pytest.raises(ValueError, match=f"module: 'layer' can take the place of .*, got {where}"):
        normalization.replace_batch_norm(module, "layer")
    assert same(before, state(module))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["scripted", "frozen by jit"])
def test_running_statistics_that_are_built_in_are_used(net, kind):
    x = torch.randn(6, 3, 8, 8)
    with normalization.evaluation(net, "running"), normalization.evaluation(BUILT_IN[kind][0](net), "running") as same:
        assert torch.allclose(same(x), net(x), atol=1e-5)


WRAPS = [torch.fx.symbolic_trace, nn.DataParallel, partial(torch.compile, backend="eager")]


@pytest.mark.parametrize("statistics", normalization.STATISTICS)
@pytest.mark.parametrize("wrap", [*WRAPS, nn.SyncBatchNorm.convert_sync_batchnorm])
@pytest.mark.usefixtures("data_parallel_on_the_cpu")
def test_what_wraps_a_network_changes_no_statistics(net, statistics, wrap):
    x = torch.randn(6, 3, 8, 8)

    def output(module):
        if statistics == "recalibrated":
            return normalization.recalibrated(module, [x])(x)
        with normalization.evaluation(module, statistics):
            return module(x)

    expected = output(net)
    assert torch.allclose(output(wrap(copy.deepcopy(net))), expected, atol=1e-5)


def test_subclasses_that_can_do_without_statistics_are_set():
    bn, active, x = nn.BatchNorm2d(3), Active(3), torch.randn(6, 3, 8, 8) + 1
    with normalization.evaluation(bn), normalization.evaluation(active):
        assert torch.allclose(bn(x).relu(), active(x), atol=1e-6)
    alone, found = (normalization.recalibrated(module, [x])(x) for module in (bn, active))
    assert torch.allclose(alone.relu(), found, atol=1e-6)


def test_layers_that_have_kept_no_statistics_are_not_evaluated_by_them(net):
    net[4] = nn.BatchNorm2d(5, track_running_stats=False)
    message = "statistics: 'running' needs .* kept some, got BatchNorm2d at '4'"
    with pytest.raises(ValueError, match=message), normalization.evaluation(net, "running"):
        pass
    with pytest.raises(ValueError, match="statistics.*got 'layer'"), normalization.evaluation(net, "layer"):
        pass
    with pytest.raises(ValueError, match="batches"):
        normalization.recalibrated(net, [])


def test_layers_that_do_more_are_not_replaced(net):
    net.append(Active(5))
    with pytest.raises(ValueError, match="'layer' can take the place of BatchNorm1d, .*, got Active at '5'"):
        normalization.replace_batch_norm(net, "layer")
    assert isinstance(net[1], nn.BatchNorm2d), "all or none"


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_layer_of_any_dimension_is_replaced_on_its_own(number, affine):
    bn = getattr(nn, f"BatchNorm{number}d")(3, eps=1e-3, affine=affine)
    assert normalization.replace_batch_norm(bn, "layer").eps == 1e-3
    if number == 1:
        with pytest.raises(ValueError, match="'instance' can take the place of BatchNorm2d, BatchNorm3d alone"):
            normalization.replace_batch_norm(bn, "instance")
    else:
        found = normalization.replace_batch_norm(bn, "instance")
        assert type(found) is getattr(nn, f"InstanceNorm{number}d") and (found.eps, found.affine) == (1e-3, affine)
