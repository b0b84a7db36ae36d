"""The papers' numbers, against what their texts print."""

import csv
import math
from pathlib import Path

import pytest

from reproduction.records import published, store
from reproduction.show import tables

CHECKOUT = Path(store.__file__).resolve().parents[2]


def test_papers_numbers_are_found_when_records_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    assert published.paper_numbers("gygli", "fig2")


def test_every_figure_and_table_is_listed():
    items = {(row["paper"], row["item"]) for row in published.paper_numbers()}
    gygli = [f"fig{i}" for i in range(1, 12)] + ["table1", "table2", "fig2_pretrained", "sec4_incremental"]
    ramanujan = [f"fig{i}" for i in range(1, 6)] + [f"table{i}" for i in range(1, 7)]
    ramanujan += ["sec43", "sec52", "appendix", "cifar100_readme", "cifar100_readme_later", "abstract"]
    assert items == {("gygli", item) for item in gygli} | {("ramanujan", item) for item in ramanujan}


def test_paper_csv_is_well_formed():
    with open(CHECKOUT / "results" / "paper.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == (*published.KEY, "value", "spread", "note")
    assert all(len(row) == 8 and all(row[:5]) for row in rows)
    keys = [tuple(row[:5]) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert all(cell == cell.strip() for cell in row)
        assert all(math.isfinite(float(cell)) for cell in row[5:7] if cell)
        assert row[5] or row[7], f"{row[:5]}: without a number, a note says what was published"
        if (
            row[4] in ("CMC top-1", "CMC top-5", "mAP@1.0", "recombination accuracy", "accuracy", "test accuracy")
            and row[5]
        ):
            assert 0 < float(row[5]) < 100


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gygli | fig2 | independent | mean | recombination accuracy", 10.6),
        ("gygli | fig2 | IIW+DCC | mean | recombination accuracy", None),
        ("gygli | fig2_pretrained | RP | mean | recombination accuracy", 19.7),
        ("gygli | fig5 | running train statistics | mean | recombination accuracy", 32.4),
        ("gygli | fig6 | RP | mean | cross-correlation", 0.38),
        ("gygli | table1 | adapted through RP | STL-10 -> CIFAR-10 | test accuracy", 73.1),
        ("gygli | fig11 | MobileNetV2 | RP frozen | accuracy", 91.2),
        ("ramanujan | table1 | new/old | ImageNet-1k | mAP@1.0", 0.003),
        ("ramanujan | table3 | BCT new/new | VGGFace2 | mAP@1.0", 74.3),
        ("ramanujan | table5 | direct | ImageNet-1k | CMC top-5", 79.3),
        ("ramanujan | sec43 | new/h | Places-365 | CMC top-1", 20.3),
    ],
)
def test_spot_checks(key, value):
    assert published.paper_value(*key.split(" | ")) == value


def test_a_number_reads_as_the_paper_printed_it():
    with open(CHECKOUT / "results" / "paper.csv", newline="", encoding="utf-8") as file:
        printed = [row["value"] for row in csv.DictReader(file)]
    numbers = [row["value"] for row in published.paper_numbers()]
    assert {"0.003", "0.12", "35.41", "0.70", "50", "45.0"} <= set(printed)
    for text, number in zip(printed, numbers, strict=True):
        assert tables.number(number) == tables.number(number, digits=2) == (text or "–")
        assert number is None or (f"{number} %" == f"{text} %" and number == float(text))
    value = published.paper_value("ramanujan", "table1", "new/old", "ImageNet-1k", "mAP@1.0")
    assert f"{value}" == "0.003" and tables.number(value + 1) == "1.0", "what is worked out from it is any number"


def test_gains_of_the_abstract_follow_from_the_tables():
    for item, column in (("table1", "ImageNet-1k"), ("table2", "Places-365"), ("table3", "VGGFace2")):
        new, bct = (
            published.paper_value("ramanujan", item, row, column, "CMC top-1") for row in ("new/h", "BCT new/old")
        )
        gain = published.paper_value("ramanujan", "abstract", "new/h over BCT new/old", column, "gain in CMC top-1")
        assert new - bct == pytest.approx(gain)


def test_means_of_domain_adaptation_follow_from_their_directions():
    rows = {}
    for r in published.paper_numbers("gygli", "table1"):
        rows.setdefault(r["row"], {})[r["column"]] = r["value"]
    assert len(rows) == 8
    for name, by in rows.items():
        mean = (by["CIFAR-10 -> STL-10"] + by["STL-10 -> CIFAR-10"]) / 2
        assert abs(mean - by["mean"]) < 0.051, name


def test_unknown_numbers_name_near_misses():
    with pytest.raises(KeyError, match=r"near: .*gygli \| fig2 \| IIW\+DCC"):
        published.paper_value("gygli", "fig2", "IWI+DCC", "mean", "recombination accuracy")
