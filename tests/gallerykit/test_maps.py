"""Maps from old to new embeddings: what is fitted."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from compatkit import alignment
from gallerykit import embeddings as store
from gallerykit.maps import Map, Pairs, fit, split

from .test_comparison import held_out_pairs
from .test_upgrade import N, latent, new_model, old_model, side_model


def test_side_information_is_used_by_all_but_identity():
    x = latent(N, 1)
    pairs = Pairs(*(torch.from_numpy(f(x)) for f in (old_model, new_model, side_model)))
    maps = fit(pairs, ["identity", "ridge"])
    assert (maps["ridge"](pairs.old, pairs.side) - pairs.new).abs().max() < 1e-2
    assert torch.equal(maps["identity"](pairs.old, pairs.side), F.pad(pairs.old, (0, 1)))
    closed = alignment.ridge(torch.cat([pairs.old, pairs.side], 1), pairs.new)
    assert torch.equal(maps["ridge"](pairs.old, pairs.side), closed(torch.cat([pairs.old, pairs.side], 1)))


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("name", ["h", "residual"])
def test_networks_learn_at_any_scale(name, side):
    x = latent(400, 1)
    old, new = torch.from_numpy(old_model(x)), torch.from_numpy(new_model(x))
    beside = torch.from_numpy(side_model(x)) if side else None
    errors = []
    for scale in (1, 1e-4, 1e4):
        pairs = Pairs(old * scale, new / scale, None if beside is None else beside / scale)
        mapped = fit(pairs, [name], width=32, steps=80, show_progress=False)[name](pairs.old, pairs.side)
        errors.append(((mapped - pairs.new).square().sum() / (pairs.new - pairs.new.mean(0)).square().sum()).item())
    assert max(errors) < (0.65 if side else 0.75) and max(errors) - min(errors) < 0.02, errors


def test_results_have_length_1_where_new_embeddings_have():
    pairs = held_out_pairs()
    unit = replace(pairs, new=F.normalize(pairs.new, dim=1))
    for name, function in fit(unit, width=8, steps=4, show_progress=False).items():
        assert store.is_unit(function(pairs.old)), name
    assert not store.is_unit(fit(pairs, ["ridge"])["ridge"](pairs.old))


def test_networks_are_as_if_fitted_alone():
    pairs = held_out_pairs()
    both = fit(pairs, ["residual", "h"], width=8, steps=5, show_progress=False)
    for name, function in both.items():
        alone = fit(pairs, [name], width=8, steps=5, show_progress=False)[name]
        assert torch.equal(function(pairs.old), alone(pairs.old)), name


def test_a_map_survives_its_state():
    pairs = replace(held_out_pairs(), side=torch.from_numpy(side_model(latent(40, 3))))
    for name, function in fit(pairs, width=8, steps=2, show_progress=False).items():
        again = Map.from_state(function.state())
        assert again.name == name and torch.equal(again(pairs.old, pairs.side), function(pairs.old, pairs.side))


def test_held_out_pairs_are_a_fifth_and_never_fitted_on():
    x = torch.arange(N)[:, None] + 0.5
    to_fit, held_out = split(Pairs(x, x, labels=torch.arange(N)))
    assert len(held_out) == N / 5 and set(to_fit.old[:, 0].tolist()) | set(held_out.old[:, 0].tolist()) == set(
        x[:, 0].tolist()
    )
    assert (held_out.labels + 0.5 == held_out.new[:, 0]).all()
    big = torch.zeros(60_000, 1)
    assert len(split(Pairs(big, big))[1]) == 10_000
