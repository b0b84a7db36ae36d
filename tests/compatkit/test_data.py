"""Sets, their files, class alignment, and batches that depend on seed and step alone."""

import os
import re
import shutil
import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from compatkit import data, stored
from compatkit.batches import Batches
from compatkit.data import ImageSet, Split


def small_set(n=40, classes=("cat", "dog", "eel"), size=8, channels=3, seed=0) -> ImageSet:
    g = torch.Generator().manual_seed(seed)
    splits = [
        Split(
            torch.randint(256, (n, channels, size, size), generator=g, dtype=torch.uint8),
            torch.arange(n) % len(classes),
        )
        for _ in range(2)
    ]
    return ImageSet("small", *splits, tuple(classes))


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "channels"),
    [
        ("digits", 1300, 497, 1),
        ("mnist5k", 4000, 1000, 1),
        ("glyphs_plain", 2000, 1000, 3),
        ("glyphs_cluttered", 2000, 1000, 3),
        ("glyphs_other", 2000, 1000, 3),
    ],
)
def test_embedded_sets_have_their_form(name, n_train, n_test, channels):
    s = data.load(name)
    assert s.train.images.shape == (n_train, channels, 16, 16)
    assert s.test.images.shape == (n_test, channels, 16, 16)
    assert s.train.images.dtype == torch.uint8 and s.train.labels.dtype == torch.int64
    for split in (s.train, s.test):
        assert split.labels.unique().tolist() == list(range(len(s.classes)))


def test_no_test_image_is_a_training_image():
    for name in ("digits", "mnist5k", "glyphs_plain", "glyphs_cluttered", "glyphs_other"):
        s = data.load(name)
        train = {bytes(image.numpy().tobytes()) for image in s.train.images}
        shared = sum(image.numpy().tobytes() in train for image in s.test.images)
        # a thin upright "1" fills its box with one stroke, so that a few handwritten ones coincide
        assert shared <= 0.01 * len(s.test), name


def test_glyph_sets_share_nine_of_ten_classes():
    sets = [data.load(f"glyphs_{style}") for style in ("plain", "cluttered")]
    assert len(data.common_classes(*sets)) == 9
    assert all(len(s.classes) == 10 for s in sets)


def test_the_third_glyph_set_shares_no_class_with_the_two_others():
    other = data.load("glyphs_other")
    assert len(other.classes) == len(set(other.classes)) == 10
    for style in ("plain", "cluttered"):
        assert not set(other.classes) & set(data.load(f"glyphs_{style}").classes)
    assert other.train.labels.bincount().tolist() == [200] * 10


def test_glyphs_tell_their_orientation_only_through_the_character():
    # were there a cue outside the glyph (a gradient, a border), the mean image of a class-free pixel statistic would
    # show it
    for style in ("plain", "cluttered", "other"):
        images = data.load(f"glyphs_{style}").train.images.float()
        border = torch.stack(
            [images[:, :, 0].mean(), images[:, :, -1].mean(), images[:, :, :, 0].mean(), images[:, :, :, -1].mean()]
        )
        assert border.max() - border.min() < 4, "the four sides should look alike"


@pytest.mark.parametrize(("colours", "shapes"), [(2, 1), (3, 4), (10, 10), (17, 13)])
def test_shapes_come_in_any_number(colours, shapes):
    s = data.load("shapes", colours=colours, shapes=shapes, n_train=2 * colours * shapes, n_test=colours * shapes)
    assert len(s.classes) == len(set(s.classes)) == colours * shapes
    assert s.train.labels.bincount().tolist() == [2] * (colours * shapes)


def test_shape_colour_can_be_read_off_the_pixels():
    s = data.load("shapes", colours=3, shapes=1, n_train=300, n_test=3)
    brightest_channel = s.train.images.float().mean((2, 3)).argmax(1)
    assert (brightest_channel == s.train.labels).float().mean() > 0.95


def test_generated_sets_depend_on_the_seed_alone():
    first = data.load("glyphs_plain", seed=3, n_train=20, n_test=10)
    data.BUILT_IN["glyphs_plain"].cache_clear()
    again = data.load("glyphs_plain", seed=3, n_train=20, n_test=10)
    other = data.load("glyphs_plain", seed=4, n_train=20, n_test=10)
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)


def test_image_i_of_one_set_has_nothing_in_common_with_image_i_of_another():
    sets = [data.load(name) for name in ("glyphs_plain", "glyphs_cluttered", "glyphs_other")]
    corners = [s.train.images[:, :, 0, 0].float().flatten() for s in sets]
    corners.append(sets[0].test.images[:, :, 0, 0].repeat(2, 1).float().flatten())
    apart = torch.corrcoef(torch.stack(corners)) - torch.eye(4)
    assert apart.abs().max() < 0.1, "colours of the ground"


def test_built_in_images_do_not_depend_on_the_default_precision():
    digests = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            digests.append({name: load.__wrapped__().digest for name, load in data.BUILT_IN.items()})
        finally:
            torch.set_default_dtype(torch.float32)
    assert digests[0] == digests[1]


def test_built_in_images_do_not_depend_on_the_kind_of_cpu():
    code = "from compatkit import data; print([data.load(name).digest for name in ('glyphs_cluttered', 'shapes')])"

    def digests(**instructions):
        there = {**os.environ, **instructions}
        return subprocess.run(
            [sys.executable, "-c", code], env=there, capture_output=True, text=True, check=True
        ).stdout

    # in single precision these two differed on a CPU with AVX-512
    assert digests(ATEN_CPU_CAPABILITY="avx2") == digests() != ""


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


def test_options_that_a_set_does_not_have_are_named():
    with pytest.raises(ValueError, match="options: digits does not take these.*seed"):
        data.load("digits", seed=1)


def test_classes_are_named_once():
    small = small_set()
    with pytest.raises(ValueError, match=r"classes: names must differ, got \['cat'\]"):
        ImageSet("double", small.train, small.test, ("cat", "dog", "cat"))


@pytest.mark.parametrize("options", [{"seed": -1}, {"n_train": 0}, {"n_test": 0}, {"size": 0}])
def test_generated_sets_check_their_options(options):
    for name in ("glyphs_plain", "shapes"):
        with pytest.raises(ValueError, match=next(iter(options))):
            data.load(name, **options)


def test_a_stored_set_is_read_once_and_anew_when_it_is_replaced(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(data, "read_npz", lambda path, inner=data.read_npz: read.append(path) or inner(path))
    data.write_npz(tmp_path / "mine.npz", small_set(seed=1))
    first = data.load("mine", tmp_path)
    assert data.load("mine", tmp_path) is first and first.limit() is first and first.to("cpu") is first
    data.write_npz(tmp_path / "mine.npz", small_set(seed=2))
    second = data.load("mine", tmp_path)
    assert not torch.equal(first.train.images, second.train.images) and len(read) == 2


def test_the_digest_of_a_set_is_that_of_its_file_and_changes_with_every_part(tmp_path):
    one = small_set()
    data.write_npz(tmp_path / "one.npz", one)
    assert stored.stored_digest("one", tmp_path) == one.digest == data.load("one", tmp_path).digest
    with np.load(tmp_path / "one.npz") as file:
        np.savez(tmp_path / "plain.npz", **{key: file[key] for key in stored.ARRAYS})
    assert stored.stored_digest("plain", tmp_path) == one.digest, "without a checksum inside"
    narrow = ImageSet(one.name, *(Split(p.images, p.labels.int()) for p in (one.train, one.test)), one.classes)
    assert narrow.digest == one.digest, "whatever integers the labels are"
    other = small_set()
    other.test.images[0, 0, 0, 0] += 1
    renamed = ImageSet(one.name, one.train, one.test, ("cat", "dog", "elk"))
    assert len({one.digest, other.digest, renamed.digest}) == 3 and other.train_digest == one.train_digest
    arrays = stored.read_arrays(tmp_path / "one.npz")
    np.savez(tmp_path / "wide.npz", **arrays | {"class_names": arrays["class_names"].astype("U20")})
    assert stored.stored_digest("wide", tmp_path) == data.load("wide", tmp_path).digest == one.digest
    np.savez(tmp_path / "bytes.npz", **arrays | {key: arrays[key].astype(np.uint8) for key in ("y_train", "y_test")})
    assert stored.stored_digest("bytes", tmp_path) == data.load("bytes", tmp_path).digest == one.digest
    assert stored.stored_digest("two", tmp_path) is None
    (tmp_path / "two.npz").write_bytes(b"no set")
    np.save(tmp_path / "three.npy", np.zeros(3))
    (tmp_path / "three.npy").rename(tmp_path / "three.npz")
    for name in ("two", "three"):
        assert stored.stored_digest(name, tmp_path) is None
        with pytest.raises(ValueError, match=rf"{name}\.npz"):
            data.load(name, tmp_path)


def test_bounding_box_fills_the_image():
    image = torch.zeros(1, 12, 12)
    image[0, 3:7, 5:9] = 200.0
    assert torch.allclose(data.scale_bounding_box(image, 16), torch.full((1, 16, 16), 200.0))
    with pytest.raises(ValueError, match="images"):
        data.scale_bounding_box(torch.zeros(1, 4, 4), 16)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_classes_align_by_name_not_by_index():
    a, b = small_set(classes=("cat", "dog", "eel")), small_set(classes=("eel", "cat", "fox"))
    common = data.common_classes(a, b)
    assert common == ("cat", "eel")
    assert data.class_index(a.classes, common).tolist() == [0, -1, 1]
    assert data.class_index(b.classes, common).tolist() == [1, 0, -1]
    subset = b.subset(common)
    assert subset.classes == common
    assert torch.equal(subset.test.images[subset.test.labels == 1], b.test.images[b.test.labels == 0])


def test_too_few_common_classes_are_refused():
    a, b = small_set(classes=("cat", "dog")), small_set(classes=("dog", "fox"))
    with pytest.raises(ValueError, match="at least 2 common classes.*got 1"):
        data.common_classes(a, b)
    with pytest.raises(ValueError, match="leave_out.*fox"):
        data.common_classes(a, b, leave_out=["fox"])
    with pytest.raises(ValueError, match="wolf"):
        a.subset(["wolf"])


def test_limit_draws_evenly_from_all_classes():
    s = small_set(n=40).limit(9, 6)
    assert s.train.labels.bincount().tolist() == [3, 3, 3]
    assert s.test.labels.bincount().tolist() == [2, 2, 2]
    assert small_set().limit(None, 1000).test.labels.shape == (40,)
    with pytest.raises(ValueError, match="at least 1"):
        small_set().limit(0)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (1, 2), (3, 4)])
def test_other_channels_are_copies_of_the_rounded_mean(before, after):
    s = small_set(n=6, channels=before)
    converted = s.with_channels(after)
    for old, new in ((s.train, converted.train), (s.test, converted.test)):
        assert new.images.shape == (6, after, 8, 8) and new.images.dtype == torch.uint8
        for image, result in zip(old.images.tolist(), new.images.tolist(), strict=True):
            grey = [
                [round(sum(pixel) / before) for pixel in zip(*rows, strict=True)] for rows in zip(*image, strict=True)
            ]
            assert result == [grey] * after
        assert torch.equal(new.labels, old.labels)
    assert (converted.name, converted.classes) == (s.name, s.classes)
    assert s.train.images.shape[1] == before, "the set itself is as it was"
    assert converted.normalise(converted.test.images).shape[1] == after


def test_grey_images_go_with_any_others():
    grey, colour, other = small_set(channels=1), small_set(channels=3), small_set(channels=4)
    assert [s.channels for s in data.with_equal_channels(grey, colour)] == [3, 3]
    assert [s.channels for s in data.with_equal_channels(other, grey)] == [4, 4]
    assert data.with_equal_channels(colour, colour)[1] is colour
    with pytest.raises(ValueError, match=r"sets: images must be grey .*, got small 1, small 3, small 4"):
        data.with_equal_channels(grey, colour, other)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_that_has_the_channels_already_stays_the_same_object(channels):
    s = small_set(channels=channels)
    assert s.with_channels(channels) is s


# --- batches ----------------------------------------------------------------------------------------------------------


def test_normalised_training_pixels_have_mean_0_and_deviation_1():
    s = small_set(n=400)
    x = s.normalise(s.train.images)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(3), atol=1e-3)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_set_survives_its_file(tmp_path, monkeypatch):
    s = small_set()
    data.write_npz(tmp_path / "small.npz", s)
    monkeypatch.setenv("COMPATKIT_DATA", str(tmp_path))
    for again in (data.load("small"), data.load("small", root=tmp_path)):
        assert again.classes == s.classes and again.name == "small"
        assert torch.equal(again.train.images, s.train.images) and torch.equal(again.test.labels, s.test.labels)
    assert [p.name for p in tmp_path.iterdir()] == ["small.npz"], "no temporary file is left"


def test_a_stored_file_is_preferred_to_a_download(tmp_path):
    data.write_npz(tmp_path / "stl10.npz", small_set())
    assert data.load("stl10", root=tmp_path).classes == ("cat", "dog", "eel")


def test_unknown_names_are_answered_with_what_there_is(tmp_path):
    data.write_npz(tmp_path / "mine.npz", small_set())
    with pytest.raises(ValueError, match=r"'imagenet'.*digits.*cifar10.*mine"):
        data.load("imagenet", root=tmp_path)


def test_no_network_and_nothing_stored_says_how_to_get_it(tmp_path, monkeypatch):
    def offline(folder):
        raise OSError("no route to host")

    monkeypatch.setitem(data.DOWNLOADS, "cifar10", offline)
    with pytest.raises(FileNotFoundError, match=r"cifar10.*no route to host.*COMPATKIT_DATA"):
        data.load("cifar10", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_downloads_are_stored_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(data.DOWNLOADS, "cifar10", lambda folder: calls.append(folder) or small_set())
    for _ in range(2):
        assert len(data.load("cifar10", root=tmp_path).classes) == 3
    assert len(calls) == 1


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_truncated_files_are_refused(tmp_path, keep):
    path = tmp_path / "small.npz"
    data.write_npz(path, small_set())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"small\.npz"):
        data.load("small", root=tmp_path)


def test_altered_files_are_refused(tmp_path):
    path = tmp_path / "small.npz"
    data.write_npz(path, small_set())
    with np.load(path) as file:
        arrays = dict(file)
    arrays["y_train"] = arrays["y_train"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="checksum"):
        data.load("small", root=tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("x_train", np.zeros((4, 3, 8, 8), np.float32), "x_train must be uint8"),
        ("x_test", np.zeros((0, 3, 8, 8), np.uint8), "n > 0"),
        ("y_test", np.zeros(3, np.int64), "y_test must be 4 integers"),
        ("y_train", np.full(4, 7), r"0\.\.1"),
        ("class_names", np.array([["a", "b"]]), "class_names"),
        ("class_names", np.array(["a", {}], dtype=object), r"odd\.npz: .*class_names, .*not of objects \(.*pickle"),
        ("class_names", np.array([b"a", b"b"]), r"class_names must be a list of text \(astype\(str\)\), got \|S1"),
        ("y_train", np.array([0.0, 1, 0, 1]), "y_train must be 4 integers, got float64"),
        ("x_train", None, "x_train"),
        ("x_train", np.zeros((4, 8, 8, 3), np.uint8), r"x_train must be \(n, c, h, w\).*channels last: transpose"),
        ("x_train", np.zeros((4, 3, 8, 0), np.uint8), "x_train must have a size"),
        ("x_train", np.zeros((4, 16, 16, 2), np.uint8), "channels last"),
        ("x_test", np.zeros((4, 3, 9, 9), np.uint8), r"one size, got \(3, 8, 8\) and \(3, 9, 9\)"),
        ("x_test", np.zeros((4, 1, 8, 8), np.uint8), r"one size, got \(3, 8, 8\) and \(1, 8, 8\)"),
        ("class_names", np.array(["a", "a"]), r"class_names must differ, got \['a'\]"),
        ("y_train", np.array([0, 1, -1, 0]), "y_train must lie in"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, key, value, message):
    x, y = np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "class_names": np.array(["a", "b"])}
    arrays[key] = value
    np.savez(tmp_path / "odd.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=message):
        data.load("odd", root=tmp_path)


def test_image_folder(tmp_path):
    for part in ("train", "val"):
        for i, name in enumerate(("ant", "bee")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (40, 30), (255 * i, 10 * k, 0)).save(folder / f"{k}.png")
    s = data.load(f"imagefolder:{tmp_path}", size=16)
    assert s.classes == ("ant", "bee")
    assert s.train.images.shape == (4, 3, 16, 16)
    assert s.train.images[:, 0].float().mean((1, 2)).tolist() == [0, 0, 255, 255]
    deep = np.full((30, 40), 200 << 8, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "train" / "ant" / "0.png")
    assert data.load(f"imagefolder:{tmp_path}", size=16).train.images[0].unique().tolist() == [200], "16 bits"
    with pytest.raises(ValueError, match="size: must be at least 1, got 0"):
        data.load(f"imagefolder:{tmp_path}", size=0)
    damaged = tmp_path / "train" / "bee" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"imagefolder: {damaged} is damaged"):
        data.load(f"imagefolder:{tmp_path}")
    shutil.rmtree(tmp_path / "val" / "bee")
    with pytest.raises(ValueError, match=r"differ.*bee"):
        data.load(f"imagefolder:{tmp_path}")
    with pytest.raises(ValueError, match="train/CLASS"):
        data.load(f"imagefolder:{tmp_path / 'nothing'}")


def folder_with(root, files, classes=("ant", "bee")):
    """An image folder: one small image in each class, and these ``files``, by their path below train, as well."""
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            Image.new("L", (2, 2)).save(root / part / name / "z.png")
    for path, content in files.items():
        (root / "train" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / path).write_bytes(content)
    return f"imagefolder:{root}"


def shown(image, file, **options):
    """The pixels of an image (h, w, 3), saved and read again."""
    image.save(file, **options)
    return data._read_image(file)[0].permute(1, 2, 0).tolist()


def grey(*values):
    return [[[value] * 3 for value in values]]


RED, GREEN, WHITE = [255, 0, 0], [0, 255, 0], [255, 255, 255]
PALETTE = Image.new("P", (2, 1))
PALETTE.putpalette(RED + GREEN)
PALETTE.putpixel((1, 0), 1)
PIXEL_TYPES = {
    "1 bit": (Image.fromarray(np.array([[True, False]])), "a.png", {}, grey(255, 0)),
    "grey": (Image.fromarray(np.array([[7, 200]], np.uint8)), "a.png", {}, grey(7, 200)),
    "16 bits": (Image.fromarray(np.array([[255, 200 << 8, 65535]], np.uint16)), "a.png", {}, grey(0, 200, 255)),
    "16 bits, big end first": (
        Image.frombytes("I;16B", (2, 1), bytes([200, 0, 255, 255])),
        "a.tif",
        {},
        grey(200, 255),
    ),
    "32 bits": (Image.fromarray(np.array([[0, 200 << 8]], np.int32)), "a.tif", {}, grey(0, 200)),
    "floats": (Image.fromarray(np.array([[0, 100 / 255, 1]], np.float32)), "a.tif", {}, grey(0, 100, 255)),
    "palette": (PALETTE, "a.gif", {}, [[RED, GREEN]]),
    "palette with a transparent colour": (PALETTE, "a.png", {"transparency": 0}, [[WHITE, GREEN]]),
    "grey with a transparent value": (Image.new("L", (1, 1), 9), "a.png", {"transparency": 9}, grey(255)),
    "grey and alpha": (Image.new("LA", (1, 1), (0, 128)), "a.png", {}, grey(127)),
    "colour and alpha": (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "a.png", {}, [[WHITE]]),
    "CMYK": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "a.tif", {}, [[RED]]),
    "LAB": (Image.new("LAB", (1, 1), (128, 128, 128)), "a.tif", {}, grey(119)),
}


@pytest.mark.parametrize(("image", "name", "options", "expected"), PIXEL_TYPES.values(), ids=PIXEL_TYPES)
def test_every_type_of_pixel_is_read_as_a_viewer_shows_it(tmp_path, image, name, options, expected):
    assert shown(image, tmp_path / name, **options) == expected


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_photographs_stand_upright(tmp_path, name):
    pixels = np.zeros((32, 16, 3), np.uint8)
    pixels[:16, 8:] = 255  # white in the upper right quarter
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    # how a camera that was held so stores it, by the number that undoes it
    for orientation, turn in enumerate((None, 0, 3, 1, 5, 2, 6, 4), 1):
        exif[0x0112] = orientation
        stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
        found = np.array(shown(stored, tmp_path / name, exif=exif))
        assert found.shape == pixels.shape and abs(found - pixels.astype(int)).mean() < 8, orientation


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0, 70_000]], np.int32), r"integers of 0\.\.65535 are read, got 0\.\.70000"),
        (np.array([[-1, 5]], np.int32), r"got -1\.\.5"),
        (np.array([[0, 255]], np.float32), r"floats of 0\.\.1 are read, got 0\.0\.\.255\.0"),
        (np.array([[0, np.nan]], np.float32), r"got nan\.\.nan"),
    ],
)
def test_numbers_of_which_none_is_known_to_be_white_are_refused(tmp_path, pixels, message):
    with pytest.raises(ValueError, match=rf"imagefolder: .*a\.tif .*{message}"):
        shown(Image.fromarray(pixels), tmp_path / "a.tif")


def test_every_suffix_that_pillow_opens_is_read_and_the_others_are_counted_and_named(tmp_path):
    kinds = ("jfif", "JPG", "gif", "jp2", "tga", "webp", "ico")
    for kind in kinds:
        Image.new("RGB", (16, 16), (0, 99, 0)).save(tmp_path / f"green.{kind}")
    files = {f"ant/x/{kind}.{kind}": (tmp_path / f"green.{kind}").read_bytes() for kind in kinds}
    others = ["ant/._z.png", "ant/a.heic", "ant/notes", "bee/.hidden/b.png", "loose.png", ".cache/c.png"]
    name = folder_with(tmp_path / "own", files | dict.fromkeys(others, b"no image"))
    with pytest.warns(
        UserWarning, match=r"train 6 are left out .*: \.cache/c\.png, ant/\._z\.png, .*, \.\.\.$"
    ) as told:
        found = data.load(name, size=4)
    assert [w.filename for w in told] == [__file__], "it is said of who loads"
    assert found.classes == ("ant", "bee") and found.train.labels.tolist() == [0] * 8 + [1]
    assert all((image[1].float() - 99).abs().max() < 5 for image in found.train.images[:7])


def test_a_class_without_images_is_refused(tmp_path):
    name = folder_with(tmp_path, {"cat/a.heic": b""})
    with (
        pytest.warns(UserWarning, match=r"1 are left out .*: cat/a\.heic$"),
        pytest.raises(ValueError, match="train/cat"),
    ):
        data.load(name)
    (tmp_path / "none" / "train").mkdir(parents=True)
    (tmp_path / "none" / "test").mkdir()
    with pytest.raises(ValueError, match="imagefolder: no images in .*train/CLASS"):
        data.load(f"imagefolder:{tmp_path / 'none'}")


def test_a_class_is_one_in_whatever_form_its_name_is_written(tmp_path):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    image = (tmp_path / "a.png", Image.new("L", (2, 2), 9))
    image[1].save(image[0])
    name = folder_with(tmp_path / "own", {f"{apart}/a.png": image[0].read_bytes()}, classes=("ant", composed))
    (tmp_path / "own" / "test" / composed).rename(tmp_path / "own" / "test" / apart)
    found = data.load(name, size=2)
    assert found.classes == ("ant", composed) and found.train.labels.tolist() == [0, 1, 1]
    arrays = {
        f"{x}_{part}": v
        for part in ("train", "test")
        for x, v in (("x", np.zeros((2, 1, 2, 2), np.uint8)), ("y", np.arange(2)))
    }
    for form, written in (("one", composed), ("two", apart)):
        np.savez(tmp_path / f"{form}.npz", **arrays, class_names=np.array(["ant", written]))
    one, two = (data.load(form, tmp_path) for form in ("one", "two"))
    assert data.common_classes(one, two, found) == ("ant", composed) and one.digest == two.digest
    assert stored.stored_digest("two", tmp_path) == two.digest, "so that its records are found"
    with pytest.raises(ValueError, match="classes: names must differ"):
        ImageSet("double", one.train, one.test, (composed, apart))


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "webp", "bmp", "ppm", "jp2", "tga", "ico"])
def test_a_damaged_file_is_named_whatever_its_kind(tmp_path, kind):
    """Each format's reader has errors of its own."""
    file = tmp_path / f"a.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    whole = file.read_bytes()
    for cut in range(0, len(whole) // 2, max(1, len(whole) // 40)):
        for content in (whole[:cut], whole[:cut] + b"\xff" * 7 + whole[cut + 7 :]):
            file.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    data._read_image(file)
                except ValueError as error:
                    assert str(file) in str(error)


@pytest.fixture
def folder_of_three_classes(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in ("ant", "bee", "cat"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{k}.png")
    return tmp_path


def test_many_images_of_a_folder_are_mapped_from_a_file_that_is_made_once(folder_of_three_classes, monkeypatch):
    name = f"imagefolder:{folder_of_three_classes}"
    usual = data.load(name, size=8)
    monkeypatch.setattr(data, "LARGE", 6 * 3 * 8 * 8)  # the 12 training images are more, the 6 for testing are not
    data._split.cache_clear()
    mapped = data.load(name, size=8)
    assert mapped.digest == usual.digest and mapped.train_digest == usual.train_digest
    [file] = folder_of_three_classes.glob("*.npy")
    assert file.name.startswith("train-8-") and file.stat().st_size < 12 * 3 * 8 * 8 + 200
    read = []
    original = data._read_image
    monkeypatch.setattr(data, "_read_image", lambda file: read.append(file) or original(file))
    data._split.cache_clear()
    assert data.load(name, size=8).digest == usual.digest and len(read) == 6, "training images come from the file"
    assert data.load(name, size=8).digest == usual.digest and len(read) == 6, "and a process reads images once"
    extra = folder_of_three_classes / "train" / "ant" / "0.png"
    Image.new("RGB", (8, 8)).save(extra)
    assert (data.load(name, size=8).train.images[0] == 0).all(), "another file for other images"


def test_many_images_are_learnt_from_as_few_are(monkeypatch):
    usual = small_set(n=40)
    expected = [Batches(usual, 8, seed=1, crop=crop, flip=True)(2) for crop in (0, 2)]
    monkeypatch.setattr(data, "LARGE", 0)
    many = ImageSet("many", usual.train, usual.test, usual.classes)
    for crop, (images, labels) in zip((0, 2), expected, strict=True):
        found = Batches(many, 8, seed=1, crop=crop, flip=True)(2)
        assert torch.allclose(found[0], images, atol=0.05) and torch.equal(found[1], labels)
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


@pytest.fixture
def tiny_imagenet(tmp_path):
    """A folder in the form of Tiny-ImageNet: 6 training and 2 validation images of each class. The red of an image is
    the place of its class, its green the number of the image."""
    folder = tmp_path / "tiny-imagenet-200"
    ids = [wnid for group in data.TIN10.values() for wnid in group] + ["n00000001"]
    lines = []

    def write(file, red, green):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (red, green, 0)).save(file)

    for place, wnid in enumerate(ids):
        for i in range(6):
            write(folder / "train" / wnid / "images" / f"{wnid}_{i}.png", place, i)
        for i in (6, 7):
            write(folder / "val" / "images" / f"val_{place}_{i}.png", place, i)
            lines.append(f"val_{place}_{i}.png\t{wnid}\t0\t0\t63\t63")
    (folder / "wnids.txt").write_text("\n".join(ids[::-1]) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines[::-1]) + "\n")
    return folder, ids


def test_tiny_imagenet_is_made_from_its_folder_once(tiny_imagenet, tmp_path):
    folder, ids = tiny_imagenet
    found = data.load("tiny_imagenet", root=tmp_path)
    assert found.classes == tuple(ids[::-1]) and found.train.images.shape == (6 * len(ids), 3, 32, 32)
    assert len(found.test) == 2 * len(ids)
    for split, numbers in ((found.train, range(6)), (found.test, (6, 7))):
        pixels = split.images[:, :2, 9, 9].tolist()
        assert all(found.classes[y] == ids[red] for y, (red, _) in zip(split.labels, pixels, strict=True))
        assert sorted(pixels) == [[place, i] for place in range(len(ids)) for i in numbers]
    shutil.rmtree(folder)
    assert data.load("tiny_imagenet", root=tmp_path).digest == found.digest
    with pytest.raises(FileNotFoundError, match="tin10: .*tiny-imagenet-200.zip"):
        data.load("tin10", root=tmp_path)


def test_the_groups_of_tin10_take_turns(tiny_imagenet):
    folder, ids = tiny_imagenet
    found = data._tin10(folder, n_train=5, n_test=3)
    assert found.classes == tuple(data.TIN10) and len(data.TIN10) == 10
    for label, group in enumerate(data.TIN10.values()):
        turns = [[ids.index(wnid), i] for i in range(8) for wnid in group]
        for split, expected in ((found.train, turns[:5]), (found.test, turns[5:8])):
            shown = split.images[split.labels == label][:, :2, 9, 9].tolist()
            assert sorted(shown) == sorted(expected)


def test_tin10_shares_eight_classes_with_cifar10():
    cifar10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert [c for c in data.TIN10 if c not in cifar10] == ["monkey", "elephant"]
    ids = [wnid for group in data.TIN10.values() for wnid in group]
    assert len(set(ids)) == len(ids) == 25 and all(re.fullmatch(r"n\d{8}", wnid) for wnid in ids)


def test_shrinking_averages():
    images = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    images[:, :, ::2] = 200
    assert (data.shrink(images, 32)[:, :, 1:-1].float() - 100).abs().max() <= 35
    flat = torch.full((3, 3, 96, 96), 77, dtype=torch.uint8)
    assert torch.equal(data.shrink(flat, 32, chunk=2), torch.full((3, 3, 32, 32), 77, dtype=torch.uint8))


def test_torchvision_imports_beside_any_torch_build():
    vision = data.torchvision_()
    assert vision.datasets.CIFAR10 and vision.models.resnet18
