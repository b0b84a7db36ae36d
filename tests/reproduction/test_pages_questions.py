"""What the chapters on questions of our own show is what the records say."""

import pytest

from reproduction.pages import questions

from .expected import said, welch
from .explored import dots, means
from .recorded import SCORES, WITH_SIDE, pair_record
from .recorded import update_record as update


def pair(row, seed, shift=0.0, **config):
    made = pair_record("DCC", seed)
    made |= {"row": row, "config": made["config"] | config, "run_id": f"{row} {seed} {config}"}
    for role, more in (("a", 0.02), ("b", -0.02), ("mean", 0.0)):
        made["metrics"][f"recombination/{role}"] = 0.8 + shift + 0.01 * seed + more
    return made


def test_the_same_index_is_set_against_another():
    numberings = {"as a": 0.0, "shifted": -0.1}
    records = [
        pair(how, s, shift * (1 + s) + 0.1 * (at == "stage2"), method="IIW", numbering=how, split_at=at)
        for how, shift in numberings.items()
        for at in ("stage2", "stage3_block1")
        for s in range(2)
    ]
    apart = welch([0.8, 0.81], [0.7, 0.61])
    assert said(questions.index_gain(records)) == {"x × y": {"IIW, stage 2": apart, "IIW, last block": apart}}


def test_noise_stands_beside_features():
    records = [pair("DCC", s, 0.0, method="DCC") for s in range(2)]
    for one in records:
        values = {"noise, as it is": 0.1, "noise, stitched by labels": 0.97, "recombination, stitched by labels": 0.9}
        one["metrics"] |= {f"{name}/mean": value + 0.02 * one["seed"] for name, value in values.items()}
    found = questions.fooled(records, "DCC")["x × y"]
    assert [one.mean for one in found.values()] == pytest.approx([11, 98, 80.5, 91])
    assert list(found) == ["noise, as it is", "noise, stitched", "features, as they are", "features, stitched"]


def learnt(share, seed):
    more = share / 1000
    return [
        update(seed, SCORES | WITH_SIDE, shift=more, classes=[share, 100]),
        update(seed, SCORES, shift=more - 0.05, classes=[share, 100], side="none"),
    ]


def test_cases_by_the_share_of_classes_and_what_is_recovered():
    records = [made for share in (90, 10) for s in range(2) for made in learnt(share, s)]
    lines = questions.by_share(records)
    assert list(lines) == ["old/old", "new/h without side-information", "new/h", questions.RIDGE, "new/new"]
    assert all(list(places) == ["10 %", "90 %"] for places in lines.values())
    assert lines["new/h"]["90 %"] == pytest.approx({0: 0.69, 1: 0.7})
    assert lines["new/h without side-information"]["10 %"][0] == pytest.approx(0.56)
    gaps = dots(questions.recovered(records, ""))
    assert {gaps[share, "new/h"] for share in ("10 %", "90 %")} == {"+20.0 ± 0.0"} and len(gaps) == 2 * 4
    assert questions.gain(lines, "10 %") == "+20.0 ± 0.0 points"
    shown = means(questions.share_explorer(records))
    assert shown["CMC top-1", "new/h", "90 %"] == pytest.approx(69.5) and len(shown) == 2 * 5 * 2
