"""What is read from files, and what is refused."""

import itertools
import shutil
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from compatkit import image_files, images, stored
from compatkit.image_files import read_folder, read_npz, shrink, write_npz
from compatkit.images import ImageSet, common_classes
from reproduction.stored import stored_digest

from ..samples import small_set


def test_the_digest_of_a_set_is_that_of_its_file_and_changes_with_every_part(tmp_path):
    one = small_set()
    write_npz(tmp_path / "one.npz", one)
    arrays = stored.read_arrays(tmp_path / "one.npz")
    narrow = {key: arrays[key].astype(np.uint8) for key in ("y_train", "y_test")}
    wide = {"class_names": arrays["class_names"].astype("U20")}
    for name, changes in {"one": None, "plain": {}, "wide": wide, "bytes": narrow}.items():
        if changes is not None:  # without a checksum inside
            np.savez(tmp_path / f"{name}.npz", **{key: arrays[key] for key in stored.ARRAYS} | changes)
        assert stored_digest(name, tmp_path) == read_npz(str(tmp_path / f"{name}.npz")).digest == one.digest, name
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".npz"] * 4, "no temporary file is left"
    other = small_set()
    other.test.images[0, 0, 0, 0] += 1
    renamed = ImageSet(one.name, one.train, one.test, ("cat", "dog", "elk"))
    assert len({one.digest, other.digest, renamed.digest}) == 3 and other.train_digest == one.train_digest
    (tmp_path / "two.npz").write_bytes(b"no set")
    assert stored_digest("two", tmp_path) is stored_digest("three", tmp_path) is None
    with pytest.raises(ValueError, match=r"two\.npz"):
        read_npz(tmp_path / "two.npz")


@pytest.mark.parametrize("keep", [0, 500, -1])
def test_truncated_and_altered_files_are_refused(tmp_path, keep):
    path = tmp_path / "small.npz"
    write_npz(path, small_set())
    with np.load(path) as file:
        arrays = dict(file)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"small\.npz"):
        read_npz(path)
    np.savez(path, **arrays | {"y_train": arrays["y_train"][::-1]})
    with pytest.raises(ValueError, match="checksum"):
        read_npz(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("x_train", np.zeros((4, 3, 8, 8), np.float32), "x_train must be uint8"),
        ("x_test", np.zeros((0, 3, 8, 8), np.uint8), "not empty"),
        ("y_test", np.zeros(3, np.int64), "y_test must be 4 integers"),
        ("y_train", np.full(4, 2), r"y_train must lie in 0\.\.1"),
        ("class_names", np.array([["a", "b"]]), "class_names"),
        ("class_names", np.array(["a", {}], dtype=object), r"odd\.npz: .*class_names, .*not of objects \(.*pickle"),
        ("y_train", np.array([0.0, 1, 0, 1]), "y_train must be 4 integers, got float64"),
        ("x_train", None, "x_train"),
        ("x_train", np.zeros((4, 8, 8, 3), np.uint8), r"x_train must be \(n, c, h, w\).*channels last: transpose"),
        ("x_test", np.zeros((4, 3, 9, 9), np.uint8), r"one size, got \(3, 8, 8\) and \(3, 9, 9\)"),
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
        read_npz(tmp_path / "odd.npz")


def test_image_folder(tmp_path):
    for part, name, shade in itertools.product(("train", "val"), ("ant", "bee"), (0, 9)):
        (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (255 * (name == "bee"), shade, 0)).save(tmp_path / part / name / f"{shade}.png")
    s = read_folder(tmp_path, size=16)
    assert s.classes == ("ant", "bee") and s.train.images.shape == s.test.images.shape == (4, 3, 16, 16)
    assert s.train.images[:, 0].float().mean((1, 2)).tolist() == [0, 0, 255, 255]
    with pytest.raises(ValueError, match="size: must be at least 1, got 0"):
        read_folder(tmp_path, size=0)
    shutil.rmtree(tmp_path / "val" / "bee")
    with pytest.raises(ValueError, match=r"differ.*bee"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="train/CLASS"):
        read_folder(tmp_path / "nothing")


def folder_with(root, files, classes=("ant", "bee")):
    """An image folder: one small image in each class, and these ``files``, by their path below train, as well."""
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            Image.new("L", (2, 2)).save(root / part / name / "z.png")
    for path, content in files.items():
        (root / "train" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / path).write_bytes(content)
    return root


def shown(image, file, **options):
    """The pixels of an image (h, w, 3), saved and read again."""
    image.save(file, **options)
    return image_files.read_image(file)[0].permute(1, 2, 0).tolist()


def grey(*values):
    return [[[value] * 3 for value in values]]


RED, GREEN, WHITE = [255, 0, 0], [0, 255, 0], [255, 255, 255]
PALETTE = Image.new("P", (2, 1))
PALETTE.putpalette(RED + GREEN)
PALETTE.putpixel((1, 0), 1)
BIG_END_FIRST = Image.frombytes("I;16B", (2, 1), bytes([200, 0, 255, 255]))
PIXEL_TYPES = {
    "1 bit": (Image.fromarray(np.array([[True, False]])), "a.png", {}, grey(255, 0)),
    "16 bits": (Image.fromarray(np.array([[255, 200 << 8, 65535]], np.uint16)), "a.png", {}, grey(0, 200, 255)),
    "16 bits, big end first": (BIG_END_FIRST, "a.tif", {}, grey(200, 255)),
    "32 bits": (Image.fromarray(np.array([[0, 200 << 8]], np.int32)), "a.tif", {}, grey(0, 200)),
    "floats": (Image.fromarray(np.array([[0, 100 / 255, 1]], np.float32)), "a.tif", {}, grey(0, 100, 255)),
    "palette with a transparent colour": (PALETTE, "a.png", {"transparency": 0}, [[WHITE, GREEN]]),
    "grey and alpha": (Image.new("LA", (1, 1), (0, 128)), "a.png", {}, grey(127)),
    "colour and alpha": (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "a.png", {}, [[WHITE]]),
    "CMYK": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "a.tif", {}, [[RED]]),
    "LAB": (Image.new("LAB", (1, 1), (128, 128, 128)), "a.tif", {}, grey(119)),
}


@pytest.mark.parametrize(("image", "name", "options", "expected"), PIXEL_TYPES.values(), ids=PIXEL_TYPES)
def test_every_type_of_pixel_is_read_as_a_viewer_shows_it(tmp_path, image, name, options, expected):
    assert shown(image, tmp_path / name, **options) == expected


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
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
        (np.array([[0, np.nan]], np.float32), r"got nan\.\.nan"),
    ],
)
def test_numbers_of_which_none_is_known_to_be_white_are_refused(tmp_path, pixels, message):
    with pytest.raises(ValueError, match=rf"imagefolder: .*a\.tif .*{message}"):
        shown(Image.fromarray(pixels), tmp_path / "a.tif")


def test_every_suffix_that_pillow_opens_is_read_and_the_others_are_counted_and_named(tmp_path):
    kinds = ("jfif", "JPG", "gif", "jp2", "tga", "webp", "ico")
    (tmp_path / "green").mkdir()
    for kind in kinds:
        Image.new("RGB", (16, 16), (0, 99, 0)).save(tmp_path / "green" / f"{kind}.{kind}")
    others = ["ant/._z.png", "ant/a.heic", "ant/notes", "bee/.hidden/b.png", "loose.png", ".cache/c.png"]
    name = folder_with(tmp_path / "own", dict.fromkeys(others, b"no image"))
    (name / "train" / "ant" / "x").symlink_to(tmp_path / "green")
    (name / "val" / "cat").mkdir(parents=True)  # not read beside a folder test
    with pytest.warns(
        UserWarning, match=r"train 6 are left out .*: \.cache/c\.png, ant/\._z\.png, .*, \.\.\.$"
    ) as told:
        found = read_folder(name, size=4)
    assert [w.filename for w in told] == [__file__], "it is said of who loads"
    assert found.classes == ("ant", "bee") and found.train.labels.tolist() == [0] * 8 + [1]
    assert all((image[1].float() - 99).abs().max() < 5 for image in found.train.images[:7])


def test_a_class_without_images_is_refused(tmp_path):
    name = folder_with(tmp_path, {"cat/a.heic": b""})
    with (
        pytest.warns(UserWarning, match=r"1 are left out .*: cat/a\.heic$"),
        pytest.raises(ValueError, match="train/cat"),
    ):
        read_folder(name)
    (tmp_path / "none" / "train").mkdir(parents=True)
    (tmp_path / "none" / "test").mkdir()
    with pytest.raises(ValueError, match="imagefolder: no images in .*train/CLASS"):
        read_folder(tmp_path / "none")


def test_a_class_is_one_in_whatever_form_its_name_is_written(tmp_path):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    image = (tmp_path / "a.png", Image.new("L", (2, 2), 9))
    image[1].save(image[0])
    name = folder_with(tmp_path / "own", {f"{apart}/a.png": image[0].read_bytes()}, classes=("ant", composed))
    (tmp_path / "own" / "test" / composed).rename(tmp_path / "own" / "test" / apart)
    found = read_folder(name, size=2)
    assert found.classes == ("ant", composed) and found.train.labels.tolist() == [0, 1, 1]
    for form, written in (("one", composed), ("two", apart)):
        np.savez(tmp_path / f"{form}.npz", **found.arrays() | {"class_names": np.array(["ant", written])})
    one, two = (read_npz(tmp_path / f"{form}.npz") for form in ("one", "two"))
    assert common_classes(one, two, found) == ("ant", composed) and one.digest == two.digest
    assert stored_digest("two", tmp_path) == two.digest, "so that its records are found"
    with pytest.raises(ValueError, match="classes: names must differ"):
        ImageSet("double", one.train, one.test, (composed, apart))


@pytest.mark.parametrize("kind", ["png", "tif", "webp", "jp2", "ico"])
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
                    image_files.read_image(file)
                except ValueError as error:
                    assert str(file) in str(error)


def test_many_images_of_a_folder_are_mapped_from_a_file_that_is_made_once(tmp_path, monkeypatch):
    name = folder_with(tmp_path, {})
    for shade in range(1, 5):
        Image.new("RGB", (8, 8), (shade, 0, 50 * shade)).save(name / "train" / "ant" / f"{shade}.png")
    usual = read_folder(name, size=8)
    for module in (images, image_files):  # the 6 training images are more, the 2 for testing are not
        monkeypatch.setattr(module, "LARGE", 2 * 3 * 8 * 8)
    image_files._split.cache_clear()
    mapped = read_folder(name, size=8)
    assert mapped.digest == usual.digest and mapped.train_digest == usual.train_digest
    [file] = name.glob("*.npy")
    assert file.name.startswith("train-8-") and file.stat().st_size < 6 * 3 * 8 * 8 + 200
    read, original = [], image_files.read_image
    monkeypatch.setattr(image_files, "read_image", lambda file: read.append(file) or original(file))
    image_files._split.cache_clear()
    assert read_folder(name, size=8).digest == usual.digest and len(read) == 2, "training images come from the file"
    assert read_folder(name, size=8).digest == usual.digest and len(read) == 2, "and a process reads images once"
    Image.new("RGB", (8, 8)).save(name / "train" / "ant" / "1.png")
    assert (read_folder(name, size=8).train.images[0] == 0).all(), "another file for other images"


def test_shrinking_averages():
    images = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    images[:, :, ::2] = 200
    assert (shrink(images, 32)[:, :, 1:-1].float() - 100).abs().max() <= 35
    flat = torch.full((3, 3, 96, 96), 77, dtype=torch.uint8)
    assert torch.equal(shrink(flat, 32), torch.full((3, 3, 32, 32), 77, dtype=torch.uint8))
