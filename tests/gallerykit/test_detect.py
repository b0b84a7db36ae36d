"""Which model embeddings are of: wrong spaces are refused, and what lies in a store is said."""

import re

import numpy as np
import pytest
import torch

from gallerykit.carry import carry
from gallerykit.detect import inspect
from gallerykit.maps import Pairs, fit, load_map
from gallerykit.sides import Sides

WIDTH = 48


def both(n, seed=0, apart=1.0):
    """Embeddings of the same items by two models of one width."""
    rng = np.random.default_rng(5)
    turns = [rng.standard_normal((10, WIDTH)) / 4 for _ in range(2)]
    means = [apart * rng.standard_normal(WIDTH) / 2 for _ in range(2)]
    z = np.random.default_rng(seed).standard_normal((n, 10))
    return [
        (z @ turn + mean + 0.1 * np.random.default_rng(seed + 7).standard_normal((n, WIDTH))).astype("f4")
        for turn, mean in zip(turns, means, strict=True)
    ]


@pytest.fixture
def maps(tmp_path):
    made = fit(Pairs(*(torch.from_numpy(x) for x in both(500))), ["ridge"])
    for label, one in made.items():
        one.save(tmp_path / f"{label.partition('/')[2]}.safetensors")
    return made


@pytest.mark.parametrize("label", ["new/ridge", "ridge/old"])
def test_the_other_side_is_refused_and_ones_own_is_not(tmp_path, maps, label):
    old, new = both(400, seed=1)
    own, other = (old, new) if label == "new/ridge" else (new, old)
    one = load_map(tmp_path / f"{label.partition('/')[2]}.safetensors")
    np.save(tmp_path / "own.npy", own)
    np.save(tmp_path / "other.npy", other)
    carry(one, tmp_path / "own.npy", tmp_path / "out.npy")
    with pytest.raises(ValueError, match="gallery: looks like embeddings of the model that the map leads to"):
        carry(one, tmp_path / "other.npy", tmp_path / "no.npy")
    with pytest.raises(ValueError, match="gallery: looks like"):
        carry(one, tmp_path / "out.npy", tmp_path / "no.npy")  # mapped already
    assert sorted(p.name for p in tmp_path.glob("*.npy")) == ["other.npy", "out.npy", "own.npy"]
    for x in own:
        one(x)
    refused = 0
    for x in other:
        try:
            one(x)
        except ValueError as error:
            refused += "x: looks like" in str(error)
    assert refused > 0.9 * len(other)
    assert one(100 * own[0]).shape == (WIDTH,), "what is of neither is not refused for it"


def test_models_that_cannot_be_told_apart_are_not_refused(tmp_path):
    old = torch.from_numpy(both(600)[0])
    sides = Sides.of(old[:300].numpy(), old[300:].numpy())
    assert not sides.told_apart
    sides.check(old[300:].numpy(), "gallery")
    for row in old[300:].numpy():
        sides.check(row, "x")


def test_widths_tell_for_themselves():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    assert fit(Pairs(x, x[:, :4]), ["ridge"])["new/ridge"].sides is None


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_two_models_in_one_store_are_told_by_a_map_between_them(tmp_path, maps, share):
    old, new = both(4_000, seed=2)
    old[: int(share * 4_000)] = new[: int(share * 4_000)]
    np.save(tmp_path / "items.npy", old)
    said = inspect(tmp_path / "items.npy", tmp_path / "ridge.safetensors")
    assert said.startswith("Two models" if 0 < share < 1 else "One model"), said
    if 0 < share < 1:
        about, error = (float(x) / 100 for x in re.findall(r"([\d.]+)%", said))
        assert abs(about - share) < error < 0.1
    assert ("but the one that the map leads to" in said) == (share == 1)


def test_what_cannot_be_told_is_said(tmp_path, maps):
    np.save(tmp_path / "items.npy", both(400)[0])
    assert "cannot be told" in inspect(tmp_path / "items.npy")
    near = fit(Pairs(*(torch.from_numpy(x) for x in (both(500)[0], both(500, seed=3)[0]))), ["ridge"])["new/ridge"]
    near.save(tmp_path / "near.safetensors")
    assert "cannot be told" in inspect(tmp_path / "items.npy", tmp_path / "near.safetensors")
