"""Maps: what is fitted, what comes back from a file, and what is refused."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F

from compatkit import alignment
from gallerykit import load_map
from gallerykit.maps import BLIND, CLOSED_FORMS, METHODS, Pairs, fit, split

from .world import N, latent, new_model, old_model, pairs, side_model

SIDE = torch.from_numpy(side_model(latent(N, 1)))
QUICK = {"steps": 6, "show_progress": False}


def test_each_method_in_both_directions_without_side_information_and_with_it():
    maps = fit(pairs(side=SIDE), METHODS, **QUICK)
    wanted = {f"new/{m}" for m in METHODS} | {f"{m}/old" for m in METHODS}
    assert set(maps) == wanted | {f"new/{m} + side" for m in METHODS if m not in BLIND}
    assert all(one.label == label for label, one in maps.items())
    closed = alignment.ridge(torch.cat([pairs().old, SIDE], 1), pairs().new)
    found = maps["new/ridge + side"](pairs().old.numpy(), SIDE.numpy())
    assert np.allclose(found, closed(torch.cat([pairs().old, SIDE], 1)), atol=1e-5)
    assert np.allclose(maps["new/identity"](pairs().old.numpy()), F.pad(pairs().old, (0, 1)))
    back = alignment.procrustes(pairs().new, pairs().old)(pairs().new)
    assert np.allclose(maps["Procrustes/old"](pairs().new.numpy()), back, atol=1e-5)


def test_mean_shift_and_lambda_orthogonal_are_their_definitions():
    old, new = pairs().old, pairs().new
    shifted = alignment.mean_shift(old, new)(old)
    assert torch.allclose(shifted.mean(0), new.mean(0), atol=1e-6) and torch.allclose(
        shifted - shifted.mean(0), F.pad(old - old.mean(0), (0, 1)), atol=1e-6
    )
    loose = alignment.lambda_orthogonal(old, new, (1e-9,), 500)
    least = torch.linalg.lstsq(torch.cat([old, torch.ones(N, 1)], 1), new).solution
    assert torch.allclose(loose(old), torch.cat([old, torch.ones(N, 1)], 1) @ least, atol=2e-2)
    square = [z - z.mean(0) for z in (old, new[:, :6])]
    tight = alignment.lambda_orthogonal(*square, (1e3,), 500).weight * square[0].std() / square[1].std()
    assert torch.allclose(tight.T @ tight, torch.eye(6), atol=0.02)


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("name", ["h", "residual"])
def test_networks_learn_at_any_scale(name, side):
    old, new = pairs().old, pairs().new
    errors = []
    for scale in (1, 1e-4, 1e4):
        one = Pairs(old * scale, new / scale, SIDE / scale if side else None)
        mapped = fit(one, [name], directions=["gallery"], steps=60, show_progress=False)
        made = mapped[f"new/{name}" + " + side" * side](one.old.numpy(), one.side.numpy() if side else None)
        errors.append(float(np.square(made - one.new.numpy()).sum() / (one.new - one.new.mean(0)).square().sum()))
    assert max(errors) < 0.75 and max(errors) - min(errors) < 0.02, errors


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_file_gives_the_same_rows_one_by_one_and_together(tmp_path, method, unit):
    to_fit = pairs(side=SIDE)
    to_fit = replace(to_fit, new=F.normalize(to_fit.new, dim=1)) if unit else to_fit
    for label, one in fit(to_fit, [method], **QUICK).items():
        one.save(tmp_path / "one.safetensors")
        again = load_map(tmp_path / "one.safetensors")
        x, side = (to_fit.old if label.startswith("new") else to_fit.new).numpy(), SIDE.numpy()
        beside = side if one.ends.d_side else None
        mapped = one(x, beside)
        assert (again(x, beside) == mapped).all() and again.ends == one.ends and again.digest() == one.digest()
        assert np.allclose([one(x[i], None if beside is None else side[i]) for i in range(9)], mapped[:9], atol=1e-5)
        if unit and label.startswith("new"):
            assert np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)


def test_loading_needs_neither_torch_nor_pyarrow(tmp_path):
    fit(pairs(), ["ridge"])["ridge/old"].save(tmp_path / "q.safetensors")
    script = "import sys, numpy; from gallerykit import load_map; load_map(sys.argv[1])(numpy.zeros(7)); "
    script += "sys.exit({'torch', 'pyarrow'} & sys.modules.keys() or None)"
    subprocess.run([sys.executable, "-c", script, tmp_path / "q.safetensors"], check=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b, t, m: b[:-9], "not a whole safetensors file"),
        (lambda b, t, m: b"{}", "not a whole safetensors file"),
        (lambda b, t, m: safetensors.numpy.save(t, {"format": "pt"}), "not a map that this version"),
        (
            lambda b, t, m: safetensors.numpy.save(t, m | {"ends": m["ends"].replace("l2", "ip")}),
            "was altered after it was written",
        ),
        (lambda b, t, m: safetensors.numpy.save({k: x + 1 for k, x in t.items()}, m), "was altered after it"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "one.safetensors"
    fit(pairs(), ["ridge"])["new/ridge"].save(path)
    with safetensors.safe_open(path, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    path.write_bytes(damage(path.read_bytes(), tensors, metadata))
    with pytest.raises(ValueError, match=f"map: .*{message}"):
        load_map(path)
    with pytest.raises(FileNotFoundError):
        load_map(tmp_path / "none.safetensors")


def test_other_widths_are_refused():
    maps = fit(pairs(side=SIDE), ["ridge"])
    with pytest.raises(ValueError, match="x: must be .n, 6. or .6,., got .9, 5."):
        maps["new/ridge"](np.zeros((9, 5)))
    with pytest.raises(ValueError, match="side: must be .n, 2. or .2,., got None"):
        maps["new/ridge + side"](np.zeros(6))
    with pytest.raises(ValueError, match="side: must be None for this map"):
        maps["ridge/old"](np.zeros(7), np.zeros(2))


def test_held_out_pairs_are_a_fifth_and_never_fitted_on():
    x = torch.arange(N)[:, None] + 0.5
    to_fit, held_out = split(Pairs(x, x, labels=torch.arange(N)))
    assert len(held_out) == N / 5 and {*to_fit.old[:, 0].tolist()} | {*held_out.old[:, 0].tolist()} == {
        *x[:, 0].tolist()
    }
    assert (held_out.labels + 0.5 == held_out.new[:, 0]).all()
    assert len(split(Pairs(torch.zeros(60_000, 1), torch.zeros(60_000, 1)))[1]) == 10_000


@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_faiss_searches_the_untouched_index_behind_the_map(method):
    faiss = pytest.importorskip("faiss")
    one = fit(pairs(), [method])[f"{method}/old"]
    items, queries = old_model(latent(90, 5)), new_model(latent(20, 6))
    index = faiss.IndexFlatL2(6)
    index.add(items)
    found = one.faiss(index).search(queries, 5)[1]
    assert (found == index.search(one(queries), 5)[1]).all()
    with pytest.raises(ValueError, match="a closed form for queries is needed, .* got new/"):
        fit(pairs(), [method])[f"new/{method}"].faiss(index)
