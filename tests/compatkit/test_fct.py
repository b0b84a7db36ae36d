"""The transformation layer by layer, how it is fitted, and the classifier that BCT synthesises."""

import pytest
import torch
from torch import nn

from compatkit import fct, models, training
from compatkit.fct import FitTransformation, Residual, Transformation, transform
from compatkit.recipes import Recipe

from ..samples import same, state, unsettled


def inputs(n=12, d_old=3, d_side=2, d_new=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g) for d in (d_old, d_side, d_new)]


def small_h(seed=0):
    return unsettled(Transformation(3, 2, 4, 10, seed=seed))


@pytest.mark.parametrize(("width", "parameters"), [(512, 790_656), (2048, 5_712_000)])
def test_the_published_number_of_parameters(width, parameters):
    assert models.count_parameters(Transformation(128, 128, 128, width)) == parameters


def test_the_transformation_layer_by_layer():
    h = small_h().eval()
    old, side, _ = inputs()

    def stack(x, layers, widths):
        assert [type(layer) for layer in layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * len(widths)
        for linear, bn, width in zip(layers[::3], layers[1::3], widths, strict=True):
            y = (x @ linear.weight.T - bn.running_mean) / (bn.running_var + 1e-5).sqrt()
            x = (y * bn.weight + bn.bias).clamp_min(0)
            assert linear.bias is None and x.shape[1] == width
        return x

    branches = stack(old, h.old_branch, (6, 8)), stack(side, h.side_branch, (4, 8))
    mixed = stack(torch.cat(branches, 1), h.mixer[:-1], (10, 10))
    expected = mixed @ h.mixer[-1].weight.T + h.mixer[-1].bias
    assert expected.shape == (12, 4) and torch.allclose(h(old, side), expected, atol=1e-6)


def drawn(h):
    """All parameters anew, so that none is 0 or 1."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in h.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return h


@pytest.mark.parametrize("d_new", [2, 3, 5])
def test_the_residual_mlp_by_hand_starts_as_the_old_embedding(d_new):
    h = Residual(3, 2, d_new, 6, seed=0)
    old, side, _ = inputs()
    kept = torch.cat([old, torch.zeros(12, 2)], 1)[:, :d_new]
    assert torch.equal(h(old, side), kept)
    drawn(h)
    hidden = (torch.cat([old, side], 1) @ h.hidden.weight.T + h.hidden.bias).clamp_min(0)
    expected = h.scale * kept + hidden @ h.last.weight.T + h.last.bias
    assert not torch.allclose(expected, kept, atol=0.1) and torch.allclose(h(old, side), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [Transformation, Residual])
def test_rescaling_undoes_the_scales_of_the_training(kind):
    h, data = drawn(unsettled(kind(3, 2, 4, 10, seed=0))).eval().double(), map(torch.Tensor.double, inputs())
    old, side, new = data
    mean, (a, b, c) = new.mean(0), torch.tensor([3.0, 0.2, 7.0]).double()
    wanted = h(old / a, side / b) * c + mean
    h.rescale(a, b, c, mean)
    assert torch.allclose(h(old, side), wanted, atol=1e-9)
    with pytest.raises(ValueError, match="d_side: must be at least 1, got 0"):
        kind(2, 0, 2)


def test_the_loss_is_the_squared_distance_mean_over_items():
    h, data = small_h(), inputs()
    task = FitTransformation(h, *data)
    batch = task.minibatches(Recipe(batch_size=12, steps=2))(1)
    found = task.losses(batch)
    assert not h.training, "the second half of the steps"
    rows = zip(h(*data[:2]).tolist(), data[2].tolist(), strict=True)
    expected = sum(sum((a - b) ** 2 for a, b in zip(*row, strict=True)) for row in rows) / 12
    assert list(found) == ["distance"] and found["distance"].item() == pytest.approx(expected, rel=1e-5)
    first, again, other = (FitTransformation(h, *data, seed=s).minibatches(Recipe(batch_size=6))(0) for s in (3, 3, 4))
    assert torch.equal(first.labels, again.labels) and not torch.equal(first.labels, other.labels)


@pytest.mark.parametrize(("steps", "training_steps"), [(6, 3), (5, 2), (1, 0)])
def test_bn_is_in_evaluation_mode_in_the_second_half(steps, training_steps):
    h, modes = small_h(), []
    h.register_forward_pre_hook(lambda module, _: modes.append({part.training for part in module.modules()}))
    training.train([FitTransformation(h, *inputs())], Recipe(steps=steps, batch_size=6), show_progress=False)
    assert modes == [{True}] * training_steps + [{False}] * (steps - training_steps)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("shape", [(11, None), (12, 7)])
def test_embeddings_that_do_not_fit_are_refused(place, shape):
    data = inputs()
    data[place] = torch.zeros(shape[0], shape[1] or data[place].shape[1])
    with pytest.raises(ValueError, match=rf"old, side, new.*widths \(3, 2, 4\).*\({shape[0]}, "):
        FitTransformation(small_h(), *data)


@pytest.mark.parametrize("rows", [5, 12])
def test_transforming_is_independent_of_chunks_and_leaves_the_module_alone(rows, monkeypatch):
    h, (old, side, _) = small_h(), inputs()
    h.mixer.eval()
    before, modes = state(h), [m.training for m in h.modules()]
    monkeypatch.setattr(fct, "ROWS", rows)
    found = transform(h, old, side)
    assert same(before, state(h)) and modes == [m.training for m in h.modules()]
    assert not found.requires_grad and torch.allclose(found, h.eval()(old, side), atol=1e-6)
