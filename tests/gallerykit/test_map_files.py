"""Maps as files: what comes back, in numpy and as the command, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
import torch.nn.functional as F

from gallerykit import load_map, mapped
from gallerykit import upgrade as module
from gallerykit.__main__ import main
from gallerykit.comparison import compare
from gallerykit.maps import METHODS, Pairs, fit, split
from gallerykit.upgrade import apply_map, upgrade

from .test_upgrade import (
    CHUNK,
    QUICK,
    N,
    command,
    files,  # noqa: F401
    hidden,
    inputs,
    latent,
    new_model,
    old_model,
    read,
    save,
    side_model,
    stopping,
    truth,
)

HIDDEN = {name: QUICK[name] for name in ("width", "steps", "show_progress")}


@pytest.fixture
def saved(files):  # noqa: F811
    """A function that saves the map of a method and returns its path."""

    def make(method, **options):
        path = files["out"].with_name(f"{method}.safetensors")
        upgrade(files["old"], files["new"], save_map=path, method=method, **options, **QUICK)
        return path

    return make


# What comes back


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_saved_map_gives_the_same_rows_without_torch(files, saved, method, side, unit):  # noqa: F811
    if unit:
        np.save(files["new"], F.normalize(torch.from_numpy(np.load(files["new"]))).numpy())
    loaded = load_map(saved(method, **({"side": files["side"]} if side else {})))
    x = latent(N, 1)
    beside = torch.from_numpy(side_model(x)) if side else None
    pairs = Pairs(torch.from_numpy(old_model(x)), torch.from_numpy(np.load(files["new"])), beside)
    function = fit(split(pairs)[0], [method], **HIDDEN)[method]
    rows, rows_side = torch.from_numpy(np.load(files["gallery"])), torch.from_numpy(np.load(files["gallery_side"]))
    wanted = function(rows, rows_side if side else None).numpy()
    found = loaded(rows.numpy(), rows_side.numpy() if side else None)
    assert found.dtype == np.float32 and np.abs(found - wanted).max() < 1e-6 * max(1, np.abs(wanted).max())
    one = loaded(rows[3].numpy().astype(np.float64), rows_side[3].numpy() if side else None)
    assert one.shape == (7,) and np.abs(one - wanted[3]).max() < 1e-6 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("name", ["residual", "h"])
def test_a_trained_network_comes_back_as_well(name):
    """Whose numbers are far from where they start."""
    x = latent(400, 1)
    pairs = Pairs(*(torch.from_numpy(f(x)) for f in (old_model, new_model, side_model)))
    function = fit(pairs, [name], width=16, steps=60, show_progress=False)[name]
    comparison = compare({name: function}, pairs, 400)
    loaded = module._saved(function, module._ends(pairs), comparison)
    wanted = function(pairs.old, pairs.side).numpy()
    assert np.abs(loaded(pairs.old.numpy(), pairs.side.numpy()) - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_the_header_says_what_it_is(files, tmp_path):  # noqa: F811
    old, new = (save(tmp_path / f"{k}.npz", np.load(files[k]), space=f"model {k}") for k in ("old", "new"))
    done = upgrade(old, new, save_map=tmp_path / "map.safetensors", method="ridge", metric="cosine", **QUICK)
    with safetensors.safe_open(done.saved, "numpy") as file:
        found = file.metadata()
    agreement = done.comparison.candidates["ridge"].agreement
    assert (
        found.items()
        >= {
            "name": "ridge",
            "direction": "gallery",
            "from_space": "model old",
            "to_space": "model new",
            "d_in": "6",
            "d_out": "7",
            "metric": "cosine",
            "fitted_on": "160",
            "held_out": "40",
            "agreement": f"{agreement.mean:.6g} ({agreement.low:.6g} .. {agreement.high:.6g})",
            "version": "0.1.0",
        }.items()
    )
    assert not hidden(files)


def test_the_advised_map_is_saved_beside_the_gallery(files, capsys):  # noqa: F811
    path = files["out"].with_name("map.safetensors")
    assert command(files, "--save-map", str(path)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Saved ridge: {path}"
    side = np.load(files["gallery_side"])
    assert np.abs(load_map(path)(np.load(files["gallery"]), side) - np.load(files["out"])).max() < 1e-5
    assert command(files, "--save-map", str(path)) == 2, "it is not replaced unasked"


@pytest.mark.parametrize("direction", ["gallery", "queries"])
def test_no_map_is_saved_where_none_is_advised(files, capsys, direction):  # noqa: F811
    path = files["out"].with_name("map.safetensors")
    paths = ["--old", str(files["old"]), "--new", str(files["old"]), "--save-map", str(path), "--direction", direction]
    assert main(["upgrade", *paths, "--width", "8", "--steps", "6"]) == 3
    assert "Do nothing: the old gallery serves the new model as it is" in capsys.readouterr().out
    assert not path.exists() and not hidden(files)


@pytest.mark.parametrize("method", METHODS)
def test_loading_needs_no_torch(saved, method):
    code = "import sys, numpy; from gallerykit import load_map; print(load_map(sys.argv[1])(numpy.ones(6)).shape"
    code += ", 'torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code, str(saved(method))], capture_output=True, text=True)
    assert child.stdout == "(7,) False\n", child.stderr


# The command


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
@pytest.mark.parametrize("method", ["ridge", "h"])
def test_the_command_gives_the_bits_of_the_upgrade(files, tmp_path, capsys, suffix, method):  # noqa: F811
    paired = [save(tmp_path / f"{k}{suffix}", np.load(files[k]), space=k) for k in ("old", "new")]
    gallery = save(tmp_path / f"gallery{suffix}", np.load(files["gallery"]), space="old")
    straight, out, path = tmp_path / f"straight{suffix}", tmp_path / f"out{suffix}", tmp_path / "map.safetensors"
    sides = {name: files[name] for name in ("side", "gallery_side")}
    upgrade(*paired, gallery, straight, method=method, save_map=path, **sides, **QUICK)
    mapped = ["map", "--map", path, "--in", gallery, "--out", out, "--side", files["gallery_side"], "--chunk", CHUNK]
    assert main([*map(str, mapped)]) == 0
    assert out.read_bytes() == straight.read_bytes() and not hidden(files)
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f"Written: {out}" and said[-1].startswith("To switch over: build the index of the search (l2)")


def test_an_interrupted_map_goes_on(files, saved, monkeypatch, capsys):  # noqa: F811
    path, straight = saved("ridge"), files["out"].with_name("straight.npy")
    apply_map(path, files["gallery"], straight, chunk=CHUNK)
    arguments = ["map", "--map", path, "--in", files["gallery"], "--out", files["out"], "--chunk", CHUNK]
    with monkeypatch.context() as patch:
        stopping(patch, after=3)
        assert main([*map(str, arguments)]) == 130
    assert "the same command goes on" in capsys.readouterr().err and not files["out"].exists()
    started, blocks = [], mapped.Mapped.blocks
    monkeypatch.setattr(
        mapped.Mapped, "blocks", lambda self, start, size: started.append(start) or blocks(self, start, size)
    )
    assert main([*map(str, arguments)]) == 0
    assert started == [3 * CHUNK] and files["out"].read_bytes() == straight.read_bytes() and not hidden(files)


# Queries


def rotation(width):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(5)))[0].numpy()


@pytest.mark.parametrize("method", ["procrustes", "low-rank", "ridge"])
def test_the_map_of_queries_is_the_way_back(files, tmp_path, method):  # noqa: F811
    old = latent(N, 1).numpy() @ np.diag([1, 1, 0, 0, 0, 0, 0, 0]).astype(np.float32)
    np.save(files["old"], old @ rotation(8))  # of rank 2, which the low-rank map can take
    np.save(files["new"], old @ rotation(8) @ rotation(8) + 1)
    before, path = inputs(files), tmp_path / "queries.safetensors"
    done = upgrade(files["old"], files["new"], direction="queries", save_map=path, method=method, **QUICK)
    assert (done.out, done.saved, done.method.lower()) == (None, path, method)
    back = load_map(path)
    x = latent(5, 7).numpy() @ np.diag([1, 1, 0, 0, 0, 0, 0, 0]).astype(np.float32) @ rotation(8)
    assert np.abs(back(x @ rotation(8) + 1) - x).max() < 1e-4
    if method == "procrustes":
        assert np.abs(x @ (rotation(8) @ back.tensors["weight"]) - x).max() < 1e-5, "R times R.T"
    assert done.comparison.candidates[done.method].agreement.mean == 1
    del before[files["old"]], before[files["new"]]
    assert inputs(files).items() >= before.items()


def test_the_command_for_queries(files, tmp_path, capsys):  # noqa: F811
    x = {"old": new_model(latent(N, 1)), "new": new_model(latent(N, 1)) @ rotation(7)}
    paths = [save(tmp_path / f"{k}.npz", v, space=k) for k, v in x.items()]
    path, out = tmp_path / "queries.safetensors", tmp_path / "mapped.npz"
    arguments = ["--old", paths[0], "--new", paths[1], "--direction", "queries", "--save-map", path]
    assert main(["upgrade", *map(str, arguments), "--width", "8", "--steps", "6"]) == 0
    said = capsys.readouterr().out
    assert "\nProcrustes/old " in said and "the gallery stays" in said and f"Saved Procrustes: {path}" in said
    assert main(["map", "--map", str(path), "--in", str(paths[1]), "--out", str(out)]) == 0
    assert "switch" not in capsys.readouterr().out
    assert np.abs(read(out) - x["old"]).max() < 1e-4
    found = load_map(path)
    assert (found.ends.from_space, found.ends.to_space, found.about["direction"]) == ("new", "old", "queries")
    assert main(["map", "--map", str(path), "--in", str(paths[0]), "--out", str(tmp_path / "no.npz")]) == 2
    assert "gallerykit: --in: must be of the space of the map, 'new', got 'old'" in capsys.readouterr().err


def test_a_column_of_side_information_is_of_the_gallery_not_of_queries(files, tmp_path):  # noqa: F811
    old = save(tmp_path / "old.parquet", np.load(files["old"]), side=np.load(files["side"]))
    path = tmp_path / "queries.safetensors"
    upgrade(old, files["new"], direction="queries", save_map=path, method="ridge", **QUICK)
    assert load_map(path).ends.d_side == 0 and load_map(path).ends.d_in == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "both"}, "direction: must be one of gallery, queries, got 'both'"),
        ({"direction": "queries"}, "save_map: is needed for queries unless dry_run"),
        ({"direction": "queries", "gallery": "g.npy"}, "gallery, out: must be left out for queries"),
        ({"direction": "queries", "save_map": "m.safetensors", "side": "s.npy"}, "are of a gallery, which queries"),
        ({"direction": "queries", "save_map": "m.safetensors", "backfill_seconds": 3}, "are of a gallery, which"),
        ({"save_map": "m.safetensors", "gallery": "g.npy"}, "gallery, out: both are needed"),
        ({"save_map": "m.npz"}, "save_map: must be NAME.safetensors"),
        ({"save_map": "m.safetensors", "dry_run": True}, "save_map: .* not for dry_run"),
    ],
)
def test_what_cannot_be_written_is_refused(files, options, message):  # noqa: F811
    before = sorted(files["out"].parent.iterdir())
    with pytest.raises(ValueError, match=message):
        upgrade(files["old"], files["new"], **options, **QUICK)
    assert sorted(files["out"].parent.iterdir()) == before


# Bad files


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def told_otherwise(path):
    """The same tensors, whose header says that they are of another space."""
    with safetensors.safe_open(path, "numpy") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.numpy.save_file(tensors, path, about | {"to_space": "mine"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"hello"), "is not a whole safetensors file"),
        (lambda path: path.write_bytes(b""), "is not a whole safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not a whole safetensors file"),
        (lambda path: safetensors.numpy.save_file({"weight": np.ones(3)}, path), "is not a map that this version of"),
        (flipped, "was altered after it was written"),
        (told_otherwise, "was altered after it was written"),
    ],
)
def test_damaged_files_are_refused(files, saved, capsys, damage, message):  # noqa: F811
    path = saved("ridge")
    damage(path)
    with pytest.raises(ValueError, match=message):
        load_map(path)
    assert main(["map", "--map", str(path), "--in", str(files["gallery"]), "--out", str(files["out"])]) == 2
    assert message in capsys.readouterr().err and not files["out"].exists() and not hidden(files)


def test_other_widths_are_refused(files, saved):  # noqa: F811
    path = saved("ridge", side=files["side"])
    found = load_map(path)
    for x, side, message in (
        (np.ones(5), np.ones(3), r"x: must be \(n, 6\) or \(6,\), got \(5,\)"),
        (np.ones((2, 6)), np.ones((2, 2)), r"side: must be \(n, 3\)"),
        (np.ones((2, 6)), None, "side: must be of width 3 for this map, got None"),
        (np.ones((2, 2, 6)), np.ones(3), "x: must be"),
    ):
        with pytest.raises(ValueError, match=message):
            found(x, side)
    with pytest.raises(ValueError, match="gallery: must have the width of the map, 6, got 3"):
        apply_map(path, files["side"], files["out"])
    with pytest.raises(ValueError, match="gallery_side: is needed, for the map"):
        apply_map(path, files["gallery"], files["out"])
    with pytest.raises(ValueError, match="side: must be None"):
        replace(found, ends=replace(found.ends, d_side=0))(np.ones(6), np.ones(3))


def test_a_missing_file_is_said(files, tmp_path):  # noqa: F811
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_map(tmp_path / "nowhere.safetensors")


def test_without_safetensors_it_is_named_before_anything_is_fitted(files, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setattr(module, "fit", None)
    with pytest.raises(ImportError, match=r"safetensors is needed here: pip install 'compatkit\[gallery\]'"):
        upgrade(files["old"], files["new"], save_map=files["out"].with_name("m.safetensors"), **QUICK)


def test_the_gallery_is_mapped_as_truly_as_the_model_is_linear(files, saved):  # noqa: F811
    found = load_map(saved("ridge", side=files["side"]))
    assert np.abs(found(np.load(files["gallery"]), np.load(files["gallery_side"])) - truth()).max() < 1e-2
