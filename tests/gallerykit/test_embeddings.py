"""Embeddings on disk and in searches: whole or refused, never mixed unseen."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao import quantization
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.two_tensor import TwoTensor

from compatkit import retrieval
from gallerykit import embeddings as store
from gallerykit.embeddings import Embeddings, evaluate, fingerprint, nearest


def vectors(n=20, d=4, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def embeddings(n=20, space="new", first=0, seed=0, **options):
    return Embeddings(vectors(n, seed=seed), np.arange(first, first + n), space, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("ids", [np.arange(20, dtype=np.int32), [f"é{i}" for i in range(20)], torch.arange(20) - 5])
def test_what_is_saved_is_loaded(tmp_path, dtype, ids):
    saved = Embeddings(F.normalize(vectors(dtype=dtype), dim=1), ids, "new é", made_from="old")
    saved.save(tmp_path / "folder" / "x.npz")
    loaded = Embeddings.load(tmp_path / "folder" / "x.npz")
    assert torch.equal(loaded.vectors, saved.vectors) and loaded.vectors.dtype == dtype
    assert (loaded.ids == saved.ids).all() and loaded.ids.dtype == saved.ids.dtype
    assert (loaded.space, loaded.made_from, loaded.unit) == ("new é", "old", True)
    assert (len(loaded), loaded.width) == (20, 4)


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    embeddings(space="first").save(path)

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        embeddings(space="second").save(path)
    assert Embeddings.load(path).space == "first" and list(tmp_path.iterdir()) == [path]


def test_a_cut_file_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    embeddings().save(path)
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="path: .*x.npz is not a whole file"):
            Embeddings.load(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, vectors=np.ones((2, 2)))
    with pytest.raises(ValueError, match="not a whole file"):
        Embeddings.load(path)
    np.savez(path, vectors=np.ones((2, 2)), ids=np.array([{}, {}]), about=np.array("{}"))
    with pytest.raises(ValueError, match="not a whole file"):
        Embeddings.load(path)
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match="not a whole file"):
        Embeddings.load(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError):
        Embeddings.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("changed", ["vectors", "ids", "space", "made_from"])
def test_an_altered_file_is_refused(tmp_path, changed):
    path = tmp_path / "x.npz"
    embeddings(made_from="old").save(path)
    with np.load(path) as file:
        arrays = dict(file)
    if changed in arrays:
        arrays[changed] = arrays[changed] + 1
    else:
        arrays["about"] = np.array(json.dumps(json.loads(str(arrays["about"])) | {changed: "other"}))
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="altered"):
        Embeddings.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": vectors().double().numpy()}, "vectors: .*got ndarray"),
        ({"vectors": vectors().long()}, "vectors: .*got torch.int64"),
        ({"vectors": vectors().bfloat16()}, "vectors: .*got torch.bfloat16"),
        ({"vectors": vectors()[0]}, "vectors: .*shape"),
        ({"vectors": torch.empty(0, 4)}, "vectors: .*not empty"),
        ({"vectors": vectors().index_fill(0, torch.tensor([3]), torch.nan)}, "vectors: .*got 4 NaN .* among 80"),
        ({"ids": np.arange(19)}, "ids: .*20 items, got shape"),
        ({"ids": np.arange(20.0)}, "ids: .*float64"),
        ({"ids": np.arange(20) // 2}, "ids: must be unique, got 0 2 times"),
        ({"ids": np.full(20, 2**63, dtype=np.uint64)}, "ids: .*64 bits"),
        ({"space": ""}, "space: .*got ''"),
        ({"space": None}, "space: .*got None"),
        ({"unit": True}, "unit: .*False here, got True"),
        ({"vectors": F.normalize(vectors(), dim=1), "unit": False}, "unit: .*True here, got False"),
    ],
)
def test_bad_embeddings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Embeddings(**{"vectors": vectors(), "ids": np.arange(20), "space": "new"} | changes)


def test_fingerprint_is_of_the_weights():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    name = fingerprint(net)
    assert len(name) == 12 and int(name, 16) >= 0 and fingerprint(net.eval()) == name
    twin = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    twin.load_state_dict(net.state_dict())
    assert fingerprint(twin) == name
    twin[1].num_batches_tracked += 1
    assert fingerprint(twin) != name
    assert fingerprint(nn.ModuleDict({"a": net[0], "1": net[1]})) != name
    wide, tall = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    tall.load_state_dict({"weight": wide.weight.detach().reshape(2, 3)})
    assert fingerprint(wide) != fingerprint(tall)
    assert fingerprint(net.bfloat16()) != name
    with pytest.raises(ValueError, match="module: .*ReLU"):
        fingerprint(nn.ReLU())


def test_different_spaces_are_refused_by_name():
    new, old, labels = embeddings(), embeddings(space="old"), torch.arange(20) % 3
    searches = (
        lambda gallery, **options: nearest(new, gallery, **options),
        lambda gallery, **options: evaluate(new, labels, gallery, labels, **options),
    )
    for search in searches:
        with pytest.raises(ValueError, match="query, gallery: .*'new' and 'old'.*upgrade.*compatible=True"):
            search(old)
        search(old, compatible=True)
        search(new)


def test_a_transformed_gallery_is_searched_with_the_new_model_and_not_with_the_old():
    transformed = embeddings(space="new", made_from="old")
    nearest(embeddings(space="new"), transformed)
    with pytest.raises(ValueError, match="'old' and 'new' .made from 'old'"):
        nearest(embeddings(space="old"), transformed)


def test_lengths_are_not_mixed():
    unit = Embeddings(F.normalize(vectors(), dim=1), np.arange(20), "new")
    for pair in ((unit, embeddings()), (embeddings(), unit)):
        for compatible in (False, True):
            with pytest.raises(ValueError, match="query, gallery: rows must both have length 1"):
                nearest(*pair, compatible=compatible)


def test_evaluate_leaves_out_own_items_by_id():
    query, gallery = embeddings(20, seed=1), embeddings(30, first=10, seed=2)
    labels = torch.arange(20) % 3, torch.arange(30) % 3
    plain = evaluate(query, labels[0], gallery, labels[1], ks=(1, 7))
    assert plain.cmc == retrieval.evaluate(query.vectors, labels[0], gallery.vectors, labels[1], ks=(1, 7)).cmc
    texts = [Embeddings(x.vectors, x.ids.astype(str), "new") for x in (query, gallery)]
    expected = retrieval.evaluate(
        query.vectors,
        labels[0],
        gallery.vectors,
        labels[1],
        query_ids=torch.arange(20),
        gallery_ids=torch.arange(10, 40),
    )
    for q, g in ((query, gallery), texts):
        found = evaluate(q, labels[0], g, labels[1], leave_out_own=True)
        assert torch.equal(found.hit_rank, expected.hit_rank)
        assert torch.equal(found.average_precision, expected.average_precision)


def test_nearest_leaves_out_own_items_by_id():
    query, gallery = embeddings(20, seed=1), embeddings(30, first=10, seed=2)
    distances, ids = nearest(query, gallery, 6, leave_out_own=True)
    all_distances = (query.vectors[:, None] - gallery.vectors).norm(dim=2)
    for i, row in enumerate(all_distances.tolist()):
        order = sorted((d, j) for j, d in zip(gallery.ids, row, strict=True) if j != query.ids[i])
        assert ids[i].tolist() == [j for _, j in order[:6]]
        assert distances[i].tolist() == pytest.approx([d for d, _ in order[:6]], abs=1e-5)
    same, found = nearest(gallery, gallery, 1)
    assert (found[:, 0] == gallery.ids).all() and same.max() < 1e-5
    assert (nearest(gallery, gallery, 1, leave_out_own=True)[1][:, 0] != gallery.ids).all()


def test_ids_of_different_kinds_are_refused():
    texts = Embeddings(vectors(), np.arange(20).astype(str), "new")
    with pytest.raises(ValueError, match="query, gallery: ids must both be integers or both text"):
        nearest(embeddings(), texts, leave_out_own=True)


def test_the_tolerance_of_unit_length_is_that_of_float16():
    x = F.normalize(vectors(1000, 128), dim=1)
    assert store.is_unit(x.half()) and not store.is_unit(x * 1.01)
    assert not store.is_unit(torch.cat([x, 2 * x[:1]]))


def filled(*layers, offset=0):
    """Layers whose numbers are 0, 1, 2, ..., the same on every machine."""
    net = nn.Sequential(*layers)
    for x in net.state_dict().values():
        x.copy_(offset + torch.arange(x.numel()).view(x.shape))
    return net.eval()


def test_names_of_models_that_stored_galleries_carry_stay():
    net = filled(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert fingerprint(net) == "df532714993d"
    assert fingerprint(net.bfloat16()) == "7bc6ffc9cb4e"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        torch.jit.script,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: nn.DataParallel(AveragedModel(torch.compile(net, backend="eager"))),
        lambda net: nn.Sequential(nn.DataParallel(net[0]), torch.compile(net[1], backend="eager")),
    ],
)
@pytest.mark.usefixtures("data_parallel_on_the_cpu")
def test_a_wrapped_model_has_the_name_of_its_weights(wrap):
    net = filled(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    name = fingerprint(net)
    assert fingerprint(wrap(net)) == name
    assert fingerprint(nn.Sequential(net)) != name, "an ordinary module around it is part of the names"


def dynamic(net):
    return quantization.quantize_dynamic(net, {nn.Linear, nn.LSTM}, dtype=torch.qint8)


def static(net):
    net = nn.Sequential(quantization.QuantStub(), net)
    net.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(net.eval())
    prepared(torch.linspace(-1, 1, 30).view(10, 3))
    return quantization.convert(prepared)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("layer", "quantised"),
    [
        (lambda: nn.Linear(3, 4), dynamic),
        (lambda: nn.LSTM(3, 4), dynamic),
        (lambda: nn.Linear(3, 4), lambda net: torch.jit.script(dynamic(net))),
        (lambda: nn.Linear(3, 4), static),
    ],
)
def test_quantised_models_are_told_apart(layer, quantised):
    names = [fingerprint(quantised(filled(layer(), offset=offset))) for offset in (0, 0, 3)]
    assert names[0] == names[1] != names[2] != fingerprint(filled(layer()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_scale_of_quantised_weights_counts():
    names = []
    for scale in (0.1, 0.2):
        layer = torch.ao.nn.quantized.Linear(3, 4)
        layer.set_weight_bias(torch.quantize_per_tensor(scale * torch.ones(4, 3), scale, 0, torch.qint8), None)
        names.append(fingerprint(layer))
    assert names[0] != names[1], "the integers are the same"


def test_tensors_made_of_tensors_are_told_apart_by_all_of_them():
    one, two, three = (nn.ParameterList([TwoTensor(torch.ones(2), torch.full((2,), x))]) for x in (1.0, 1.0, 2.0))
    assert fingerprint(one) == fingerprint(two) != fingerprint(three)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models_whose_weights_cannot_be_read_are_refused():
    frozen = torch.jit.freeze(torch.jit.script(filled(nn.Linear(3, 4))))
    for module in (frozen, nn.Sequential(nn.Linear(3, 4), frozen)):
        with pytest.raises(ValueError, match="module: torch.jit.freeze leaves no weights"):
            fingerprint(module)

    class Odd(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[prefix + "odd"] = object()

    with pytest.raises(ValueError, match="module: odd of its state must be made of .* got object"):
        fingerprint(Odd(2, 2))
