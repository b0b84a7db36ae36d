"""Minibatches: each image once an epoch, by seed and step alone; crops, turns and quarters against loops."""

import itertools

import pytest
import torch

from compatkit import batches
from compatkit.batches import Batches

from ..samples import small_set


def test_an_epoch_shows_each_image_once():
    s = small_set(n=12)
    drawn = Batches(s, 4, seed=1)
    seen = torch.cat([drawn.order(step) for step in range(3)])
    assert seen.sort().values.tolist() == list(range(12))
    assert not torch.equal(seen, torch.cat([drawn.order(step) for step in range(3, 6)]))
    with pytest.raises(ValueError, match="batch_size: small has 1 .. 12 images, got 0"):
        Batches(s, 0)
    with pytest.raises(ValueError, match="n, batch_size: must be at least 1, got 5 and 0"):
        batches.Order(5, 0, 0, "cpu")


def test_a_batch_depends_on_seed_and_step_alone():
    s = small_set()
    one, other = (Batches(s, 8, seed=5, crop=2, flip=True) for _ in range(2))
    for step in range(12):
        expected = one(step)
    other.order.reseeded(2, 3)  # other draws in between change nothing
    for got, want in zip(other(11), expected, strict=True):
        assert torch.equal(got, want)
    assert not torch.equal(Batches(s, 8, seed=6, crop=2, flip=True)(11)[0], expected[0])


def test_crop_and_flip_against_a_loop_over_images():
    n, c, h, pad = 6, 3, 8, 2
    images = torch.randint(256, (n, c, h, h), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    got = batches.crop_and_flip(padded, torch.Generator().manual_seed(0), crop=pad, flip=True)
    for image, result in zip(padded, got, strict=True):
        windows = [image[:, i : i + h, j : j + h] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
        assert any(torch.equal(result, w) or torch.equal(result, w.flip(2)) for w in windows)
    many = batches.crop_and_flip(padded[:1].expand(2000, -1, -1, -1), torch.Generator(), crop=pad, flip=True)
    assert len({image.numpy().tobytes() for image in many}) == 2 * (2 * pad + 1) ** 2


def test_rotations():
    images = torch.randint(256, (5, 3, 8, 8)).float()
    rotated, turns = batches.rotate_all(images)
    assert rotated.shape == (20, 3, 8, 8)
    for i, (image, turn) in enumerate(zip(rotated, turns, strict=True)):
        assert torch.equal(image, images[i % 5].rot90(int(turn), (1, 2)))
    turns = torch.tensor([3, 0, 1, 2, 1])
    for image, turn, result in zip(images, turns, batches.rotate(images, turns), strict=True):
        assert torch.equal(result, image.rot90(int(turn), (1, 2)))
    with pytest.raises(ValueError, match="square"):
        batches.rotate_all(torch.zeros(1, 3, 4, 5))


def quarter(image, place):
    half, (row, column) = image.shape[1] // 2, divmod(place, 2)
    return image[:, row * half : (row + 1) * half, column * half : (column + 1) * half]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "size", "dtype"), [(3, 6, torch.uint8), (1, 2, torch.float32)])
def test_arrangements_quarter_by_quarter(memory_format, channels, size, dtype):
    images = torch.randint(256, (24, channels, size, size)).to(dtype).contiguous(memory_format=memory_format)
    numbers, orders = torch.randperm(24), list(itertools.permutations(range(4)))
    found = batches.rearrange(images, numbers)
    assert found.dtype == dtype and found.shape == images.shape
    for image, number, result in zip(images, numbers.tolist(), found, strict=True):
        for place, shown in enumerate(orders[number]):
            assert torch.equal(quarter(result, place), quarter(image, shown))


@pytest.mark.parametrize(("shape", "message"), [((2, 3, 5, 5), "even side, got 5"), ((2, 3, 4, 6), "square")])
def test_images_without_quarters_are_refused(shape, message):
    with pytest.raises(ValueError, match=f"images.*{message}"):
        batches.rearrange(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


def test_rows_of_several_tensors_stay_together_in_an_order_of_their_own():
    numbers = torch.arange(12)
    one, other = (batches.Rows((numbers, numbers[:, None] + 100), 5, seed=seed) for seed in (3, 4))
    first, second = one(1)
    assert torch.equal(first + 100, second[:, 0]) and len(first) == 5 and not torch.equal(other(1)[0], first)
