"""Sets and class alignment."""

import pytest
import torch

from compatkit import images
from compatkit.batches import Batches
from compatkit.images import ImageSet, Split, class_index, common_classes, with_equal_channels

from ..samples import small_set


def test_pixels_are_normalised_in_the_default_precision_of_the_moment():
    image_set = small_set()
    single = image_set.normalise(image_set.train.images)
    torch.set_default_dtype(torch.float64)
    try:
        double = image_set.normalise(image_set.train.images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(single.double(), double, atol=1e-6) and not torch.equal(single.double(), double)


def test_classes_align_by_name_not_by_index():
    a, b = small_set(classes=("cat", "dog", "eel")), small_set(classes=("eel", "cat", "fox"))
    common = common_classes(a, b)
    assert common == ("cat", "eel")
    assert class_index(a.classes, common).tolist() == [0, -1, 1]
    assert class_index(b.classes, common).tolist() == [1, 0, -1]
    subset = b.subset(common)
    assert subset.classes == common
    assert torch.equal(subset.test.images[subset.test.labels == 1], b.test.images[b.test.labels == 0])


def test_too_few_common_classes_are_refused():
    a, b = small_set(classes=("cat", "dog")), small_set(classes=("dog", "fox"))
    with pytest.raises(ValueError, match="at least 2 common classes.*got 1"):
        common_classes(a, b)
    with pytest.raises(ValueError, match="leave_out.*fox"):
        common_classes(a, b, leave_out=["fox"])
    with pytest.raises(ValueError, match="wolf"):
        a.subset(["wolf"])
    with pytest.raises(ValueError, match=r"classes: names must differ, got \['cat'\]"):
        ImageSet("double", a.train, a.test, ("cat", "dog", "cat"))


def test_limit_draws_evenly_from_all_classes():
    whole = small_set(n=40)
    whole.train.labels[:] = whole.train.labels.sort().values  # classes do not take turns
    s, of_class = whole.limit(9, 6), [(whole.train.labels == label).nonzero()[:3, 0] for label in range(3)]
    assert torch.equal(s.train.images, whole.train.images[torch.cat(of_class).sort().values]), "as they are stored"
    assert s.test.labels.bincount().tolist() == [2, 2, 2]
    assert small_set().limit(None, 1000).test.labels.shape == (40,)
    with pytest.raises(ValueError, match="at least 1"):
        small_set().limit(0)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 4)])
def test_other_channels_are_copies_of_the_rounded_mean(before, after):
    s = small_set(n=6, channels=before)
    converted = s.with_channels(after)
    for old, new in ((s.train, converted.train), (s.test, converted.test)):
        assert new.images.shape == (6, after, 8, 8) and torch.equal(new.labels, old.labels)
        grey = torch.tensor([round(sum(p) / before) for p in old.images.movedim(1, -1).reshape(-1, before).tolist()])
        assert all(torch.equal(channel.flatten(), grey) for channel in new.images.unbind(1))
    assert (converted.name, converted.classes) == (s.name, s.classes)
    assert s.with_channels(before) is s and s.channels == before, "the set itself is as it was"


def test_grey_images_go_with_any_others():
    grey, colour, other = small_set(channels=1), small_set(channels=3), small_set(channels=4)
    assert [s.channels for s in with_equal_channels(grey, colour)] == [3, 3]
    assert [s.channels for s in with_equal_channels(other, grey)] == [4, 4]
    assert with_equal_channels(colour, colour)[1] is colour
    with pytest.raises(ValueError, match=r"sets: images must be grey .*, got small 1, small 3, small 4"):
        with_equal_channels(grey, colour, other)


def test_many_images_are_learnt_from_as_few_are(monkeypatch):
    usual = small_set(n=40)
    usual.train.images[:, 0] = 7  # without a deviation
    expected = [Batches(usual, 8, seed=1, crop=crop, flip=True)(2) for crop in (0, 2)]
    monkeypatch.setattr(images, "LARGE", 0)
    many = ImageSet("many", usual.train, usual.test, usual.classes)
    for crop, (pixels, labels) in zip((0, 2), expected, strict=True):
        found = Batches(many, 8, seed=1, crop=crop, flip=True)(2)
        assert torch.allclose(found[0], pixels, atol=0.05) and torch.equal(found[1], labels)
    for found, of in zip(many.pixel_statistics, usual.pixel_statistics, strict=True):
        assert found.shape == of.shape and found.dtype == of.dtype and torch.allclose(found, of, rtol=1e-3)
    meta = many.to("meta")
    assert meta.device.type == "meta" and meta.train.images is many.train.images, "they stay where they are"


def test_classes_that_stand_together_are_taken_without_a_copy():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).clone()
    split = Split(images, torch.tensor([0, 0, 1, 1, 2, 2]))
    whole = ImageSet("sorted", split, split, ("ant", "bee", "cat"))
    for classes, rows in (
        (("ant", "bee"), [0, 1, 2, 3]),
        (("cat", "bee"), [2, 3, 4, 5]),
        (("cat", "ant"), [0, 1, 4, 5]),
    ):
        found = whole.subset(classes).train
        assert found.images.flatten().tolist() == rows
        assert [classes[y] for y in found.labels] == [whole.classes[split.labels[r]] for r in rows]
        shares = found.images.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
        assert shares == (rows != [0, 1, 4, 5])
