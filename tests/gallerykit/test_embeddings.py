"""Embeddings on disk and in searches: whole or refused, never mixed unseen."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.two_tensor import TwoTensor

from gallerykit import embeddings as store
from gallerykit.embeddings import Embeddings, check_together, fingerprint


def vectors(n=20, d=4, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def embeddings(n=20, space="new", first=0, seed=0, **options):
    return Embeddings(vectors(n, seed=seed), np.arange(first, first + n), space, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("ids", [np.arange(20, dtype=np.int32), [f"é{i}" for i in range(20)], torch.arange(20) - 5])
def test_what_is_saved_is_loaded(tmp_path, dtype, ids):
    saved = Embeddings(F.normalize(vectors(dtype=dtype), dim=1), ids, "new é", made_from="old")
    saved.save(tmp_path / "folder" / "x.parquet")
    loaded = Embeddings.load(tmp_path / "folder" / "x.parquet")
    assert torch.equal(loaded.vectors, saved.vectors) and loaded.vectors.dtype == dtype
    assert (loaded.ids == saved.ids).all() and loaded.ids.dtype == saved.ids.dtype
    assert (loaded.space, loaded.made_from, len(loaded)) == ("new é", "old", 20)


def test_a_file_that_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    embeddings().save(path)
    content, row = path.read_bytes(), vectors()[7].numpy().tobytes()
    assert row in content
    for broken in (b"", content[:10], content[: len(content) // 2], content[:-1], content.replace(row, row[::-1])):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="path: .*x.parquet is not a whole file"):
            Embeddings.load(path)
    pq.write_table(pa.table({"id": [1], "embedding": [[1.0]]}), path)
    with pytest.raises(ValueError, match="not a whole file of Embeddings.save .'compatkit.space'"):
        Embeddings.load(path)
    with pytest.raises(FileNotFoundError):
        Embeddings.load(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": vectors().double().numpy()}, "vectors: .*got ndarray"),
        ({"vectors": vectors().long()}, "vectors: .*got torch.int64"),
        ({"vectors": vectors().bfloat16()}, "vectors: .*got torch.bfloat16"),
        ({"vectors": vectors()[0]}, "vectors: .*shape"),
        ({"vectors": torch.empty(0, 4)}, "vectors: .*not empty"),
        ({"vectors": vectors().index_fill(0, torch.tensor([3]), torch.nan)}, "vectors: .*got 4 NaN .* among 80"),
        ({"ids": np.arange(19)}, "ids: .*20 items, got int64 .19"),
        ({"ids": np.arange(20.0)}, "ids: .*float64"),
        ({"ids": np.arange(20) // 2}, "ids: must be unique, got 0 2 times"),
        ({"ids": np.full(20, 2**63, dtype=np.uint64)}, "ids: .*64 bits"),
        ({"space": ""}, "space: .*got ''"),
        ({"space": None}, "space: .*got None"),
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
    new, old = embeddings(), embeddings(space="old")
    with pytest.raises(ValueError, match="query, gallery: .*'new' and 'old'.*upgrade.*compatible=True"):
        check_together(new, old)
    check_together(new, old, compatible=True)
    check_together(new, embeddings(made_from="old"))
    with pytest.raises(ValueError, match="'old' and 'new' .made from 'old'"):
        check_together(old, embeddings(made_from="old"))
    unit = Embeddings(F.normalize(vectors(), dim=1), np.arange(20), "new")
    for pair in ((unit, new), (new, unit)):
        with pytest.raises(ValueError, match="query, gallery: rows must both have length 1"):
            check_together(*pair, compatible=True)


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


def test_models_whose_weights_cannot_be_read_are_refused():
    class Odd(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[prefix + "odd"] = self.odd

    for odd in (object(), TwoTensor(torch.ones(2), torch.ones(2))):
        net = Odd(2, 2)
        net.odd = odd
        with pytest.raises(ValueError, match="module: odd of its state must be a plain tensor, got (object|TwoTensor)"):
            fingerprint(net)
