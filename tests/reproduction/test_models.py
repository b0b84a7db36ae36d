"""Runs with models that others trained, on planted numbers."""

import pytest
import torch
import torch.nn.functional as F

from reproduction.experiments import plan
from reproduction.runs import models
from reproduction.runs.context import Context

GENERATOR = torch.Generator().manual_seed(0)


def smoke(row, experiment="real_models"):
    return next(run for name, run in plan(experiment, "smoke") if name == row)


def test_side_information_that_completes_the_old_model_lifts_what_is_kept():
    found = models.run(smoke("a large step, side-information"), Context())
    without = models.run(smoke("a large step"), Context())
    kept = "neighbours kept: new/"
    assert without.keys() < found.keys()
    assert all(found[name] == value for name, value in without.items() if "new/h" not in name)
    assert found[f"{kept}ridge(old, side)"] > found[f"{kept}ridge(old)"] + 0.05 > found[f"{kept}identity(old)"]
    assert found["neighbours kept: new/new"] == 1


def test_what_is_measured_is_what_a_loop_finds():
    old, new = (F.normalize(torch.randn(30, 4, generator=GENERATOR), dim=1) for _ in range(2))
    labels = torch.arange(30) % 3
    found = models.measure({"old/old": (old, old), "new/new": (new, new)}, labels) | models.cascade(old, new, labels)

    def nearest(query, items, k):
        order = (query[:, None] - items[None]).square().sum(2).fill_diagonal_(torch.inf).argsort(1)
        return order[:, :k].tolist()

    wanted, by_old = nearest(new, new, 10), nearest(old, old, 10)
    assert found["neighbours kept: old/old"] == pytest.approx(
        sum(len(set(a) & set(b)) for a, b in zip(wanted, by_old, strict=True)) / 300
    )
    assert found["neighbours kept: cascade"] == 1  # 100 candidates are all items here
    assert found["CMC top-1: cascade"] == found["CMC top-1: new/new"]


def test_half_a_gallery_is_merged_by_rank():
    found = models.run(smoke("a large step, further ways"), Context())
    assert found.keys() == {
        *(f"{m}: new/lambda-orthogonal(old)" for m in ("CMC top-1", "mAP@1.0", "neighbours kept")),
        *(f"{m}: rank merge" for m in ("CMC top-1", "neighbours kept")),
    }
    x = F.normalize(torch.randn(60, 5, generator=GENERATOR), dim=1)
    labels, space = torch.arange(60) % 3, (x[:40], x[40:])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=GENERATOR))[0]
    same = models.rank_merge((space[0] @ turn, space[1] @ turn), space, labels[:40])  # two spaces that agree
    alone = models.measure({"new/new": (space[0], space[0])}, labels[:40])
    assert same["neighbours kept: rank merge"] == 1 and same["CMC top-1: rank merge"] == alone["CMC top-1: new/new"]


def test_one_byte_a_number():
    side = torch.randn(200, 6, generator=GENERATOR)
    fitted = torch.arange(150)
    whole = models.quantised(side, 6, fitted)
    step = side[fitted].abs().amax(0) / 127
    assert (whole - side)[:150].abs().max() <= step.max() / 2 + 1e-6
    assert all(len(column.unique()) <= 255 for column in whole.T)
    assert models.quantised(side, 2, fitted).shape == (200, 2)


def test_few_bytes_hold_the_directions_of_most_spread():
    hidden = torch.randn(300, 2, generator=GENERATOR)
    side = hidden @ torch.randn(2, 20, generator=GENERATOR) + 0.01 * torch.randn(300, 20, generator=GENERATOR)
    few = models.quantised(side, 2, torch.arange(300))
    design = torch.cat([few, torch.ones(300, 1)], 1)
    left = side - design @ torch.linalg.lstsq(design, side).solution
    assert left.var() < 0.01 * side.var()


def test_embeddings_are_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"embedding": torch.ones(2)}

    first, second = (models._once(tmp_path, "name", make) for _ in range(2))
    assert torch.equal(first["embedding"], second["embedding"]) and len(made) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 5}, "pool: must be at least 240, fitted and gallery, got 5"),
        ({"data": "words"}, "data: must be one of"),
        ({"side_bytes": 0}, "side_bytes: must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        plan("real_models", "smoke", settings=settings)
