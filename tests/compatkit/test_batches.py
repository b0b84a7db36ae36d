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


def naive_arrangement(image, arrangement):
    """Quarter by quarter: the one that is named in each of the four places."""
    half, result = image.shape[1] // 2, image.clone()
    for place, quarter in enumerate(arrangement):
        (row, column), (from_row, from_column) = divmod(place, 2), divmod(quarter, 2)
        for i in range(half):
            for j in range(half):
                shown = image[:, from_row * half + i, from_column * half + j]
                result[:, row * half + i, column * half + j] = shown
    return result


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "size"), [(3, 6), (1, 2)])
def test_arrangements_against_a_loop_over_pixels(dtype, memory_format, channels, size):
    images = torch.randint(256, (24, channels, size, size)).to(dtype).contiguous(memory_format=memory_format)
    numbers = torch.randperm(24)
    found = batches.rearrange(images, numbers)
    assert found.dtype == dtype and found.shape == images.shape
    orders = list(itertools.permutations(range(4)))
    for image, number, result in zip(images, numbers.tolist(), found, strict=True):
        assert torch.equal(result, naive_arrangement(image, orders[number]))


def test_all_arrangements_differ_and_the_first_changes_nothing():
    image = torch.arange(3 * 16, dtype=torch.uint8).view(1, 3, 4, 4)
    found = batches.rearrange(image.expand(24, -1, -1, -1), torch.arange(24))
    assert torch.equal(found[:1], image)
    assert len(batches.ARRANGEMENTS) == len({arranged.numpy().tobytes() for arranged in found}) == 24
    assert (found.flatten(1).sort().values == image.flatten()).all(), "no pixel is lost"


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 3, 5, 5), "even side, got 5"), ((2, 3, 4, 6), "square"), ((3, 4, 4), "square")]
)
def test_images_without_quarters_are_refused(shape, message):
    with pytest.raises(ValueError, match=f"images.*{message}"):
        batches.rearrange(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


def test_rows_of_several_tensors_stay_together_and_come_once_an_epoch():
    numbers = torch.arange(12)
    draw = batches.Rows((numbers, numbers[:, None] + 100), 5, seed=3)
    first, second = draw(0), draw(1)
    assert all(torch.equal(a + 100, b[:, 0]) for a, b in (first, second))
    assert len({*first[0].tolist(), *second[0].tolist()}) == 10
    assert torch.equal(batches.Rows((numbers,), 5, seed=3)(1)[0], second[0])
    assert not torch.equal(batches.Rows((numbers,), 5, seed=4)(1)[0], second[0])


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="batch_size"):
        Batches(small_set(), 0)
    with pytest.raises(ValueError, match="n, batch_size: must be at least 1, got 5 and 0"):
        batches.Order(5, 0, 0, "cpu")
