"""The named sets."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from compatkit.image_files import write_npz
from reproduction import images
from reproduction.images import BUILT_IN, DOWNLOADS, TIN10, load, package_file, scale_bounding_box

from ..samples import small_set


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
def test_embedded_sets_have_their_form_and_no_test_image_is_a_training_image(name, n_train, n_test, channels):
    s = load(name)
    assert s.train.images.shape == (n_train, channels, 16, 16) and s.test.images.shape == (n_test, channels, 16, 16)
    assert s.train.images.dtype == torch.uint8 and s.train.labels.dtype == torch.int64
    assert all(split.labels.unique().tolist() == list(range(10)) for split in (s.train, s.test))
    assert len(set(s.classes)) == 10
    train = {image.numpy().tobytes() for image in s.train.images}
    # a thin upright "1" fills its box with one stroke, so that a few handwritten ones coincide
    assert sum(image.numpy().tobytes() in train for image in s.test.images) <= 0.01 * len(s.test)


@pytest.mark.parametrize(("colours", "shapes"), [(2, 1), (3, 4), (17, 13)])
def test_shapes_come_in_any_number(colours, shapes):
    s = load("shapes", colours=colours, shapes=shapes, n_train=2 * colours * shapes, n_test=colours * shapes)
    assert len(s.classes) == len(set(s.classes)) == colours * shapes
    assert s.train.labels.bincount().tolist() == [2] * (colours * shapes)


def test_built_in_images_do_not_depend_on_the_default_precision():
    digests = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            digests.append({name: load.__wrapped__().digest for name, load in BUILT_IN.items()})
        finally:
            torch.set_default_dtype(torch.float32)
    assert digests[0] == digests[1]


def test_built_in_images_do_not_depend_on_the_kind_of_cpu():
    code = "from reproduction.images import load; print([load(name).digest for name in ('glyphs_cluttered', 'shapes')])"

    def digests(**instructions):
        there = {"env": os.environ | instructions, "capture_output": True, "text": True, "check": True}
        return subprocess.run([sys.executable, "-c", code], **there).stdout

    # in single precision these two differed on a CPU with AVX-512
    assert digests(ATEN_CPU_CAPABILITY="avx2") == digests() != ""


@pytest.mark.parametrize("options", [{"seed": -1}, {"n_train": 0}, {"n_test": 0}, {"size": 0}])
def test_options_of_generated_sets_are_checked(options):
    for name in ("glyphs_plain", "shapes"):
        with pytest.raises(ValueError, match=next(iter(options))):
            load(name, **options)
    with pytest.raises(ValueError, match=f"options: digits does not take these.*{next(iter(options))}"):
        load("digits", **options)


def test_a_stored_set_is_read_once_and_anew_when_it_is_replaced(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(images, "read_npz", lambda path, inner=images.read_npz: read.append(path) or inner(path))
    write_npz(tmp_path / "mine.npz", small_set(seed=1))
    first = load("mine", tmp_path)
    assert load("mine", tmp_path) is first and first.limit() is first and first.to("cpu") is first
    write_npz(tmp_path / "mine.npz", small_set(seed=2))
    second = load("mine", tmp_path)
    assert not torch.equal(first.train.images, second.train.images) and len(read) == 2


def test_bounding_box_fills_the_image():
    image = torch.zeros(1, 12, 12)
    image[0, 3:7, 5:9] = 200.0
    assert torch.allclose(scale_bounding_box(image, 16), torch.full((1, 16, 16), 200.0))


def test_unknown_names_are_answered_with_what_there_is(tmp_path):
    write_npz(tmp_path / "mine.npz", small_set())
    with pytest.raises(ValueError, match=r"'imagenet'.*digits.*cifar10.*mine"):
        load("imagenet", root=tmp_path)


def test_no_network_and_nothing_stored_says_how_to_get_it(tmp_path, monkeypatch):
    def offline(folder):
        raise OSError("no route to host")

    monkeypatch.setitem(DOWNLOADS, "cifar10", offline)
    with pytest.raises(FileNotFoundError, match=r"cifar10.*no route to host.*COMPATKIT_DATA"):
        load("cifar10", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_downloads_are_stored_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(DOWNLOADS, "cifar10", lambda folder: calls.append(folder) or small_set())
    for _ in range(2):
        assert len(load("cifar10", root=tmp_path).classes) == 3
    assert len(calls) == 1


@pytest.fixture
def tiny_imagenet(tmp_path):
    """A folder in the form of Tiny-ImageNet: 6 training and 2 validation images of each class. The red of an image is
    the place of its class, its green the number of the image."""
    folder = tmp_path / "tiny-imagenet-200"
    ids = [wnid for group in TIN10.values() for wnid in group] + ["n00000001"]
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
    found = load("tiny_imagenet", root=tmp_path)
    assert found.classes == tuple(ids[::-1]) and found.train.images.shape == (6 * len(ids), 3, 32, 32)
    assert len(found.test) == 2 * len(ids)
    for split, numbers in ((found.train, range(6)), (found.test, (6, 7))):
        pixels = split.images[:, :2, 9, 9].tolist()
        assert all(found.classes[y] == ids[red] for y, (red, _) in zip(split.labels, pixels, strict=True))
        assert sorted(pixels) == [[place, i] for place in range(len(ids)) for i in numbers]
    shutil.rmtree(folder)
    assert load("tiny_imagenet", root=tmp_path).digest == found.digest
    with pytest.raises(FileNotFoundError, match="tin10: .*tiny-imagenet-200.zip"):
        load("tin10", root=tmp_path)


def test_the_groups_of_tin10_take_turns(tiny_imagenet):
    folder, ids = tiny_imagenet
    found = images._tin10(folder, n_train=5, n_test=3)
    assert found.classes == tuple(TIN10) and len(TIN10) == 10
    for label, group in enumerate(TIN10.values()):
        turns = [[ids.index(wnid), i] for i in range(8) for wnid in group]
        for split, expected in ((found.train, turns[:5]), (found.test, turns[5:8])):
            shown = split.images[split.labels == label][:, :2, 9, 9].tolist()
            assert sorted(shown) == sorted(expected)


def test_a_file_of_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "heavy_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "data" / "numbers.txt").write_text("1")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_file("heavy_package", "data/numbers.txt").read_text() == "1"
    with pytest.raises(FileNotFoundError, match="heavy_package: this version has no data/other.txt"):
        package_file("heavy_package", "data/other.txt")
    with pytest.raises(ImportError, match=r"no_package is needed here: pip install 'compatkit\[data\]'"):
        package_file("no_package", "numbers.txt")


def test_samples_and_maps_are_tiles():
    s = small_set()
    first = images.samples(s)
    assert len(first) == len(s.classes) and torch.equal(first[1], s.test.images[s.test.labels == 1][0])
    maps = torch.tensor([[[0.0, 2.0]], [[-1.0, -1.0]]])
    assert images.grey(maps).tolist() == [[[[0, 255]]], [[[0, 0]]]], "each on its own scale, also where nothing differs"
