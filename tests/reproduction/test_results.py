"""Records survive processes and kills, numbers agree with the papers, verdicts follow their rules."""

import csv
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compatkit import results

pytestmark = pytest.mark.filterwarnings("error")
CHECKOUT = Path(results.__file__).resolve().parent.parent


def record(seed=0, *, experiment="fig2", preset="smoke", metrics=None, **changes):
    config = {"method": "DCC", "seed": seed}
    made = results.provenance(
        module="compatkit.results", device="cpu", threads=1, started=0.0, wall_seconds=30.0, peak_memory_mb=100.0
    )
    return {
        "experiment": experiment,
        "preset": preset,
        "run_id": results.run_id(experiment, config),
        "seed": seed,
        "config": config,
        "metrics": metrics or {"accuracy": 0.5},
        "provenance": made,
    } | changes


@pytest.fixture(scope="module")
def template():
    return record()  # provenance asks git, which is slow to ask once a record


# ---- files and records


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=CHECKOUT)


APPENDER = """
import json, sys
from compatkit import results
record, root, worker, runs = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for i in range(runs):
    # long lines, so that a write without a lock would be torn
    results.append(record | {"run_id": f"{worker}-{i}", "curves": {"loss": [i] * 2000}}, root)
"""


def test_several_processes_append_at_once(template, tmp_path):
    workers = [start(APPENDER, json.dumps(template), tmp_path, w, 50) for w in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    loaded = results.load("fig2", "smoke", tmp_path)
    assert {r["run_id"] for r in loaded} == {f"{w}-{i}" for w in range(4) for i in range(50)}
    assert len((tmp_path / "smoke" / "fig2.jsonl").read_bytes().splitlines()) == 200


def test_killed_process_leaves_a_file_that_loads_and_takes_more(template, tmp_path):
    worker = start(APPENDER, json.dumps(template), tmp_path, 0, 10**6)
    path = tmp_path / "smoke" / "fig2.jsonl"
    deadline = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 100_000):
        assert time.monotonic() < deadline and worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.wait()
    before = results.load("fig2", "smoke", tmp_path)
    results.append(template, tmp_path)
    assert results.load("fig2", "smoke", tmp_path) == [*before, template]


@pytest.mark.parametrize("rest", [b"{", b'{"experiment": "fig2", ' + b" " * 200_000])
def test_unfinished_last_line_is_ignored_then_cut(template, tmp_path, rest):
    results.append(template, tmp_path)
    path = tmp_path / "smoke" / "fig2.jsonl"
    whole = path.read_bytes()
    for before, kept in ((whole, [template]), (b"", [])):
        path.write_bytes(before + rest)
        assert results.load("fig2", "smoke", tmp_path) == kept
        results.append(template, tmp_path)
        assert path.read_bytes() == before + whole


def test_full_disk_leaves_the_file_as_it_was(template, tmp_path, monkeypatch):
    results.append(template, tmp_path)
    write = results.os.write
    monkeypatch.setattr(results.os, "write", lambda descriptor, line: write(descriptor, line[:20]))
    with pytest.raises(OSError, match="could not be written whole"):
        results.append(template | {"run_id": "next"}, tmp_path)
    assert results.load("fig2", "smoke", tmp_path) == [template]


@pytest.mark.parametrize("line", [b"no json", b"", b"[1]", b'{"run_id": "x"}', b"\xff\xfe"])
def test_corrupt_middle_line_names_file_and_line(template, tmp_path, line):
    results.append(template, tmp_path)
    path = tmp_path / "smoke" / "fig2.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"fig2\.jsonl, line 2"):
        results.load("fig2", "smoke", tmp_path)


def test_newest_record_of_a_run_in_order_of_first_appearance(template, tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        results.append(template | {"run_id": name, "metrics": {"accuracy": value}}, tmp_path)
    loaded = results.load("fig2", "smoke", tmp_path)
    assert [(r["run_id"], r["metrics"]["accuracy"]) for r in loaded] == [("a", 3.0), ("b", 2.0)]


def test_missing_file_has_no_records(tmp_path):
    assert results.load("fig2", "smoke", tmp_path) == []


def made_at(template, second, **changes):
    started = f"2026-01-31T23:59:{second:02}+00:00"
    return template | {"provenance": template["provenance"] | {"started": started}} | changes


@pytest.mark.parametrize("newest", ["choices", "fig10", "fig2"])
def test_the_newest_record_of_a_run_counts_in_whichever_file_it_is(template, tmp_path, newest):
    files = ("choices", "fig10", "fig2")
    expected = {}
    for second, name in enumerate(files):
        shared = made_at(template, 30 if name == newest else second, experiment=name, run_id="shared")
        own = made_at(template, second, experiment=name, run_id=f"of {name}")
        for record in (shared, own):
            results.append(record, tmp_path)
        expected |= {own["run_id"]: own} | ({"shared": shared} if name == newest else {})
    results.append(made_at(template, 59, preset="laptop", run_id="shared"), tmp_path)
    assert results.load_all("smoke", tmp_path) == expected
    assert list(results.load_all("laptop", tmp_path)) == ["shared"]


def test_records_of_all_experiments_are_those_of_each(template, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    for second, name, run in ((1, "fig2", "a"), (2, "fig2", "b"), (3, "fig2", "a"), (0, "fig8", "c")):
        results.append(made_at(template, second, experiment=name, run_id=run), tmp_path)
    (tmp_path / "smoke" / "notes.txt").write_text("no record")
    (tmp_path / "smoke" / "folder").mkdir()
    with open(tmp_path / "smoke" / "fig8.jsonl", "a") as file:
        file.write('{"experiment": "fig8", ')  # of a killed process
    each = [*results.load("fig2", "smoke"), *results.load("fig8", "smoke")]
    assert results.load_all("smoke") == {r["run_id"]: r for r in each}
    assert results.load_all("smoke")["a"]["provenance"]["started"].endswith("03+00:00")


def test_no_folder_and_an_empty_one_have_no_records(tmp_path):
    assert results.load_all("smoke", tmp_path) == {}
    assert not list(tmp_path.iterdir())
    (tmp_path / "smoke").mkdir()
    assert results.load_all("smoke", tmp_path) == {}


def test_a_corrupt_line_of_any_experiment_is_named(template, tmp_path):
    for name in ("fig2", "fig8"):
        results.append(template | {"experiment": name}, tmp_path)
    with open(tmp_path / "smoke" / "fig8.jsonl", "a") as file:
        file.write("no json\n")
    with pytest.raises(ValueError, match=r"fig8\.jsonl, line 2: not JSON"):
        results.load_all("smoke", tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, [0.1, -math.inf], {"deep": [math.nan]}])
def test_numbers_that_are_not_finite_are_refused(template, tmp_path, value):
    with pytest.raises(ValueError, match="finite"):
        results.append(template | {"metrics": {"accuracy": value}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_incomplete_record_and_wrong_names_are_refused(template, tmp_path):
    with pytest.raises(ValueError, match="lacks seed"):
        results.append({key: value for key, value in template.items() if key != "seed"}, tmp_path)
    for name in ("../escape", "", "a/b", ".hidden", None):
        with pytest.raises(ValueError, match="experiment"):
            results.append(template | {"experiment": name}, tmp_path)
        with pytest.raises(ValueError, match="preset"):
            results.load("fig2", name, tmp_path)


def test_run_id_is_stable():
    first = results.run_id("fig2", {"seed": 1, "method": "DCC", "net": {"depth": 8, "width": 16}})
    assert first == results.run_id("fig2", {"net": {"width": 16, "depth": 8}, "method": "DCC", "seed": 1})
    assert first == "f0220bc04d34"  # a change here orphans every committed record
    assert first != results.run_id("fig5", {"seed": 1, "method": "DCC", "net": {"depth": 8, "width": 16}})
    assert first != results.run_id("fig2", {"seed": 2, "method": "DCC", "net": {"depth": 8, "width": 16}})
    assert results.run_id("x", {"seed": 0, "ks": (1, 5)}) == results.run_id("x", {"seed": 0, "ks": [1, 5]})
    with pytest.raises(ValueError, match="seed"):
        results.run_id("fig2", {"method": "DCC"})


def test_by_row_groups_by_seed_and_refuses_two_of_one_seed(template):
    runs = [template | {"seed": s, "metrics": {"accuracy": s / 10}} for s in (0, 1)]
    assert results.by_row(runs, "method", "accuracy") == {"DCC": {0: 0.0, 1: 0.1}}
    assert results.by_row(runs, lambda r: r["preset"], "accuracy") == {"smoke": {0: 0.0, 1: 0.1}}
    with pytest.raises(ValueError, match="twice"):
        results.by_row([*runs, runs[0]], "method", "accuracy")


def test_results_root(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPATKIT_RESULTS", raising=False)
    assert results.results_root() == CHECKOUT / "results"
    monkeypatch.setattr(results, "PACKAGE", tmp_path / "site-packages" / "compatkit")
    assert results.results_root() == Path("results")
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    assert results.results_root() == tmp_path
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"paper\.csv"):
        results.paper_numbers()


def test_papers_numbers_are_found_when_records_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))
    assert results.paper_numbers("gygli", "fig2")


# ---- provenance


SOURCE = '''"""A module."""
import os
from . import data
from .models import split

def f(a, b=1):
    """Add."""
    return f"{a!r:>{b}} and {a + b}" + 'x'  # a comment
'''
SAME = """
import os
from . import (
    data,
)

# another comment
from .models import split
def f(
    a,
    b=1,
):

    return (
        f'{a!r:>{b}} and {a + b}'
        + "x"
    )
"""


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "compatkit"
    (folder / "experiments").mkdir(parents=True)
    for name, text in {
        "__init__": '"""Doc."""',
        "experiments/__init__": "from . import fig2\nfrom ..results import append\nPRESETS = {}",
        "experiments/fig2": "def run():\n    import compatkit.training\n    return compatkit.training.train()",
        "training": SOURCE + "\nfrom .experiments import PRESETS\nfrom .training import f as again",
        "data": "x = 1",
        "models": "def split(): ...",
        "results": "def append(): ...",
        "unused": "y = 1",
    }.items():
        (folder / f"{name}.py").write_text(text + "\n")
    return folder


def test_fingerprint_ignores_comments_docstrings_and_formatting(package):
    (package / "m.py").write_text(SOURCE)
    first = results.code_fingerprint("compatkit.m", package=package)
    (package / "m.py").write_text(SAME)
    assert results.code_fingerprint("compatkit.m", package=package) == first
    assert len(first) == 12 and int(first, 16) >= 0


@pytest.mark.parametrize(
    ("old", "new"), [("b=1", "b=2"), ("a + b", "a - b"), ("!r", "!s"), ("'x'", "'y'"), ("import os", "import sys")]
)
def test_fingerprint_sees_code(package, old, new):
    (package / "m.py").write_text(SOURCE)
    first = results.code_fingerprint("compatkit.m", package=package)
    assert old in SOURCE
    (package / "m.py").write_text(SOURCE.replace(old, new))
    assert results.code_fingerprint("compatkit.m", package=package) != first


def test_fingerprint_tells_apart_what_looks_alike(package):
    seen = set()
    for text in ("x = 1", "x = 1.0", "x = True", "x = '1'", "x = b'1'", "x = None", "x = (1,)", "{**x}", "{x: x}"):
        (package / "m.py").write_text(text)
        seen.add(results.code_fingerprint("compatkit.m", package=package))
    assert len(seen) == 9


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("data", True),
        ("models", True),
        ("training", True),
        ("experiments/__init__", True),
        ("experiments/fig2", True),
        ("unused", False),
        ("results", False),
        ("__init__", False),
    ],
)
def test_fingerprint_follows_imports(package, module, counts):
    first = results.code_fingerprint("compatkit.experiments.fig2", package=package)
    with open(package / f"{module}.py", "a") as file:
        file.write("z = 3\n")
    assert (results.code_fingerprint("compatkit.experiments.fig2", package=package) != first) == counts


def test_fingerprint_of_a_shown_module_is_its_own(package):
    first = results.code_fingerprint("compatkit.results", package=package)
    (package / "results.py").write_text("def append(): pass\n")
    assert results.code_fingerprint("compatkit.results", package=package) != first


def test_fingerprint_of_unknown_module():
    for name in ("compatkit.nothing", "json", "compatkit.results.append"):
        with pytest.raises(ValueError, match="has no module"):
            results.code_fingerprint(name)


def test_provenance_names_versions_and_no_place(template):
    made = template["provenance"]
    assert made["started"] == "1970-01-01T00:00:00+00:00"
    assert {"python", "torch", "numpy", "compatkit"} <= set(made["versions"])
    assert str(CHECKOUT) not in json.dumps(made) and results.platform.node() not in made["machine"].split()
    assert made["commit"] is None or len(made["commit"]) == 40
    assert made["dirty"] in (True, False, None)
    assert json.loads(json.dumps(made)) == made


def run_git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


def test_provenance_in_and_outside_a_checkout(package, monkeypatch):
    def made():
        results.code_state.cache_clear()
        found = results.provenance(
            module="compatkit.data",
            device="cpu",
            threads=1,
            started=0.0,
            wall_seconds=0.0,
            peak_memory_mb=0.0,
        )
        return found["commit"] is not None, found["dirty"]

    monkeypatch.setattr(results, "PACKAGE", package.resolve())
    monkeypatch.setenv("GIT_DIR", str(package / "hook"))  # as a hook would set it
    top = package.parent
    assert made() == (False, None)
    monkeypatch.delenv("GIT_DIR")
    for folder in ("results", "book"):
        (top / folder).mkdir()
        (top / folder / "page").write_text("old")
    run_git(top, "init", "-q")
    assert made() == (False, None)  # no commit yet
    run_git(top, "add", ".")
    run_git(top, "commit", "-q", "-m", "all")
    monkeypatch.setenv("GIT_DIR", str(package / "hook"))
    assert made() == (True, False)
    (top / "results" / "page").write_text("new")
    (top / "book" / "page").write_text("new")
    (package / "untracked.py").write_text("")
    assert made() == (True, False)
    (package / "data.py").write_text("x = 2")
    assert made() == (True, True)
    monkeypatch.setenv("PATH", "")
    assert made() == (False, None)


def test_stale_and_the_line_that_says_so(template):
    made = template["provenance"] | {"commit": "0123456789" * 4, "dirty": False, "versions": {"torch": "2.8.0"}}
    fresh = template | {"provenance": made}
    old = template | {
        "provenance": made | {"fingerprint": "0" * 12, "dirty": True, "started": "1970-01-03T00:00:00+00:00"}
    }
    gone = template | {"provenance": made | {"module": "compatkit.gone"}}
    unknown = template | {"provenance": {}}
    assert [results.is_stale(r) for r in (fresh, old, gone, unknown)] == [False, True, True, True]
    assert results.provenance_line([fresh]) == (
        "Preset smoke: 1 run on cpu (1 thread), commit 0123456, torch 2.8.0, 0.5 minutes in total, 1970-01-01."
    )
    line = results.provenance_line([fresh, old])
    assert "2 runs" in line and "1970-01-01 to 1970-01-03" in line and "1.0 minutes" in line
    assert line.endswith("1 stale (the code has changed since), 1 from a tree with uncommitted changes.")
    assert "outside a checkout" in results.provenance_line([template | {"provenance": made | {"commit": None}}])
    assert results.provenance_line([]) == "No runs."


# ---- intervals


def test_interval_against_scipy():
    from scipy import stats

    generator = random.Random(0)
    for n in (2, 3, 10, 50):
        values = [generator.gauss(60, 5) for _ in range(n)]
        got = results.interval(values, level=0.9)
        low, high = stats.t.interval(0.9, n - 1, loc=sum(values) / n, scale=stats.sem(values))
        assert (got.low, got.high, got.n) == (pytest.approx(low), pytest.approx(high), n)
        assert got.half_width == pytest.approx((high - low) / 2)


def test_difference_against_scipy():
    from scipy import stats

    a, b = [1.0, 2.0, 4.0, 3.5], [0.5, 2.5, 1.0, 0.0]
    paired, welch = stats.ttest_rel(a, b).confidence_interval(), stats.ttest_ind(a, b[:3], equal_var=False)
    got = results.difference(a, b)
    assert (got.low, got.high, got.n) == (pytest.approx(paired.low), pytest.approx(paired.high), 4)
    got = results.difference(a, b[:3])
    bounds = welch.confidence_interval()
    assert (got.low, got.high, got.n) == (pytest.approx(bounds.low), pytest.approx(bounds.high), 3)
    assert results.difference([1.0, 1.0], [0.0, 0.0, 0.0]) == results.Interval(1.0, 1.0, 1.0, 2)
    assert math.isnan(results.difference([1.0, 1.0], [0.0]).low)
    with pytest.raises(ValueError, match="pairs"):
        results.difference(a, b[:3], paired=True)


def test_interval_covers_as_often_as_it_says():
    generator = random.Random(1)
    trials = 2000
    hits = 0
    for _ in range(trials):
        got = results.interval([generator.gauss(0, 1) for _ in range(4)])
        hits += got.low <= 0 <= got.high
    # four standard errors of a share of 0.95
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_interval_of_one_value_and_of_none():
    one = results.interval([65.8])
    assert math.isnan(one.low) and math.isnan(one.high) and str(one) == "65.8 (n = 1, no interval)"
    for bad, words in (([], "at least one"), ([1.0, math.nan], "finite"), ([math.inf], "finite")):
        with pytest.raises(ValueError, match=words):
            results.interval(bad)
    with pytest.raises(ValueError, match="level"):
        results.interval([1, 2], level=95)


def test_interval_reads_well():
    got = results.Interval(0.65812, 0.64, 0.67624, 10)
    assert str(got) == "0.658 ± 0.018 (n = 10)"
    assert got.format(percent=True) == "65.8 ± 1.8 % (n = 10)"
    assert got.format(percent=True, digits=2) == "65.81 ± 1.81 % (n = 10)"
    assert str(results.Interval(65.8, 64, 67.6, 3)) == "65.8 ± 1.8 (n = 3)"


# ---- the papers' numbers


def test_every_figure_and_table_is_listed():
    items = {(row["paper"], row["item"]) for row in results.paper_numbers()}
    gygli = [f"fig{i}" for i in range(1, 12)] + ["table1", "table2", "fig2_pretrained", "sec4_incremental"]
    ramanujan = [f"fig{i}" for i in range(1, 6)] + [f"table{i}" for i in range(1, 7)]
    ramanujan += ["sec43", "sec52", "appendix", "cifar100_readme", "cifar100_readme_later", "abstract"]
    assert items == {("gygli", item) for item in gygli} | {("ramanujan", item) for item in ramanujan}


def test_paper_csv_is_well_formed():
    with open(CHECKOUT / "results" / "paper.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == results.PAPER_COLUMNS
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
        (("gygli", "fig2", "independent", "mean", "recombination accuracy"), 10.6),
        (("gygli", "fig2", "DCC", "mean", "recombination accuracy"), 65.8),
        (("gygli", "fig2", "IIW+DCC", "mean", "recombination accuracy"), None),
        (("gygli", "fig2", "IIW+RP+DCC", "mean", "own-task accuracy"), 86.3),
        (("gygli", "fig2_pretrained", "RP", "mean", "recombination accuracy"), 19.7),
        (("gygli", "sec4_incremental", "incremental", "mean", "recombination accuracy"), 72.7),
        (("gygli", "fig5", "running train statistics", "mean", "recombination accuracy"), 32.4),
        (("gygli", "fig6", "RP", "mean", "cross-correlation"), 0.38),
        (("gygli", "fig9", "IIW+RP", "mean", "recombination accuracy"), 61.8),
        (("gygli", "table1", "adapted through RP", "STL-10 -> CIFAR-10", "test accuracy"), 73.1),
        (("gygli", "fig11", "MobileNetV2", "RP frozen", "accuracy"), 91.2),
        (("gygli", "fig4", "direct recombination", "highest", "accuracy"), 66.4),
        (("ramanujan", "table1", "new/h", "ImageNet-1k", "CMC top-1"), 65.0),
        (("ramanujan", "table1", "new/old", "ImageNet-1k", "mAP@1.0"), 0.003),
        (("ramanujan", "table2", "h/h", "Places-365", "CMC top-5"), 62.3),
        (("ramanujan", "table3", "BCT new/new", "VGGFace2", "mAP@1.0"), 74.3),
        (("ramanujan", "table4", "new/h", "MobileNet-128", "CMC top-1"), 64.3),
        (("ramanujan", "table5", "direct", "ImageNet-1k", "CMC top-5"), 79.3),
        (("ramanujan", "table6", "other old model", "ImageNet-1k", "linear CKA"), 0.70),
        (("ramanujan", "sec43", "new/h", "Places-365", "CMC top-1"), 20.3),
        (("ramanujan", "cifar100_readme_later", "new/h", "CIFAR-100", "mAP@1.0"), 32.2),
    ],
)
def test_spot_checks(key, value):
    assert results.paper_value(*key) == value


def test_gains_of_the_abstract_follow_from_the_tables():
    for item, column in (("table1", "ImageNet-1k"), ("table2", "Places-365"), ("table3", "VGGFace2")):
        new, bct = (
            results.paper_value("ramanujan", item, row, column, "CMC top-1") for row in ("new/h", "BCT new/old")
        )
        gain = results.paper_value("ramanujan", "abstract", "new/h over BCT new/old", column, "gain in CMC top-1")
        assert new - bct == pytest.approx(gain)


def test_means_of_domain_adaptation_follow_from_their_directions():
    rows = {}
    for r in results.paper_numbers("gygli", "table1"):
        rows.setdefault(r["row"], {})[r["column"]] = r["value"]
    assert len(rows) == 8
    for name, by in rows.items():
        mean = (by["CIFAR-10 -> STL-10"] + by["STL-10 -> CIFAR-10"]) / 2
        assert abs(mean - by["mean"]) < 0.051, name


def test_unknown_numbers_name_near_misses():
    with pytest.raises(KeyError, match=r"near: .*gygli \| fig2 \| IIW\+DCC"):
        results.paper_value("gygli", "fig2", "IWI+DCC", "mean", "recombination accuracy")
    with pytest.raises(KeyError, match="ramanujan"):
        results.paper_numbers("gigly")
    with pytest.raises(KeyError, match="fig2_pretrained"):
        results.paper_numbers("gygli", "fig22")


# ---- verdicts

NOISE = [-0.4, 0.1, 0.3]


def near(level, noise=1.0):
    return [level + noise * x for x in NOISE]


CHANCE = near(10.6, 0.5)
TREND = {"published_reference": 10.6, "reference": CHANCE}


@pytest.mark.parametrize(
    ("expected", "ours", "published", "options"),
    [
        ("not run", [], 65.8, TREND | {"same_data": True}),
        ("not run", [], None, {"same_data": True}),
        ("reproduced", near(66.0), 65.8, TREND | {"same_data": True}),
        ("reproduced", near(86.0), 86.3, {"same_data": True}),  # only a level is claimed
        ("reproduced", near(85.0), 86.3, {"same_data": True}),  # within half width + 1 point
        ("trend only", near(66.0), 65.8, TREND | {"same_data": False}),
        ("trend only", near(40.0), 65.8, TREND | {"same_data": True}),
        ("trend only", near(66.0, 20), 65.8, TREND | {"same_data": True}),  # too wide to agree with one number
        ("trend only", near(66.0)[:2], 65.8, TREND | {"same_data": False}),  # Welch, unequal numbers
        ("trend only", near(5.0), 2.0, TREND | {"same_data": False}),  # the published side may be below
        ("not reproduced", near(5.0), 65.8, TREND | {"same_data": False}),
        ("not reproduced", near(5.0), 65.8, TREND | {"same_data": True}),
        ("not reproduced", near(10.7, 0.7), 65.8, TREND | {"same_data": True}),  # neither the level nor the effect
        ("not reproduced", near(70.0), 86.3, {"same_data": True}),
        ("not reproduced", [65.8, 65.8], 65.8, {"reference": [70, 70.2], "published_reference": 10, "same_data": True}),
        ("undecided", near(10.7, 0.7), 65.8, TREND | {"same_data": False}),  # other data: an effect may be smaller
        ("undecided", [5.0, 60.0, 10.0], 65.8, TREND | {"same_data": True}),  # the interval holds 0 and 55
        ("undecided", [65.8], 65.8, TREND | {"same_data": True}),
        ("undecided", [65.8], 65.8, {"same_data": True}),
        ("undecided", near(66.0), 65.8, TREND | {"reference": [10.6], "same_data": True}),
        ("undecided", near(66.0), 65.8, TREND | {"reference": [], "same_data": True}),
        ("undecided", near(66.0), None, TREND | {"same_data": True}),  # nothing was published
        ("undecided", near(86.0), 86.3, {"same_data": False}),
        ("undecided", near(86.0, 20), 86.3, {"same_data": True}),
        ("undecided", near(11.0, 3), 10.7, TREND | {"same_data": True}),  # the level agrees, the trend is open
    ],
)
def test_verdict(expected, ours, published, options):
    assert results.verdict(ours, published, **options) == expected


def test_every_verdict_is_tested():
    marks = [mark for mark in test_verdict.pytestmark if mark.name == "parametrize"]
    assert {case[0] for case in marks[0].args[1]} == set(results.VERDICTS)


def test_published_spread_widens_the_level():
    ours = near(82.0)
    assert results.verdict(ours, 86.3, same_data=True) == "not reproduced"
    assert results.verdict(ours, 86.3, spread=5.0, n_published=10, same_data=True) == "reproduced"
    assert results.verdict(ours, 86.3, spread=5.0, same_data=True) == "not reproduced"  # no n, no interval


def test_fractions_have_smaller_points():
    assert results.verdict(near(0.60, 0.001), 0.69, same_data=True, point=0.01) == "not reproduced"
    assert results.verdict(near(0.69, 0.001), 0.69, same_data=True, point=0.01) == "reproduced"


def test_verdict_of_values_that_are_not_numbers():
    with pytest.raises(ValueError, match="finite"):
        results.verdict([1.0, math.nan], 65.8, same_data=True)


def test_noise_is_rarely_called_a_trend():
    generator = random.Random(2)
    calls = [
        results.verdict(
            [generator.gauss(10, 1) for _ in range(3)],
            65.8,
            reference=[generator.gauss(10, 1) for _ in range(3)],
            published_reference=10.6,
            same_data=False,
        )
        for _ in range(1000)
    ]
    assert calls.count("trend only") < 50 and calls.count("not reproduced") < 50 and "reproduced" not in calls


WHERE = {"paper": "gygli", "item": "fig2", "column": "mean", "metric": "recombination accuracy"}


def test_compare_joins_ours_with_the_paper():
    ours = {"independent": {0: 0.10, 1: 0.11, 2: 0.105}, "DCC": {2: 0.655, 0: 0.66, 1: 0.661}, "RP": [0.3], "LN": [0.1]}
    table = results.compare(ours, **WHERE, reference="independent", same_data=False, scale=100)
    by_name = {line["row"]: line for line in table}
    grid = ["independent", "IIW", "RP", "DCC", "IIW+RP", "IIW+DCC", "RP+DCC", "IIW+RP+DCC", "upper bound"]
    assert [line["row"] for line in table] == [*grid, "LN"]
    assert all(list(line) == ["row", "paper", "ours", "n", "verdict", "note"] for line in table)
    assert by_name["DCC"]["verdict"] == "trend only" and by_name["DCC"]["paper"] == 65.8
    assert by_name["DCC"]["ours"].mean == pytest.approx(65.87, abs=0.01) and by_name["DCC"]["n"] == 3
    assert by_name["RP"]["verdict"] == "undecided"
    assert by_name["IIW"] | {"note": ""} == {
        "row": "IIW", "paper": 25.1, "ours": None, "n": 0, "verdict": "not run", "note": ""
    }  # fmt: skip
    assert by_name["independent"]["verdict"] == "undecided" and "trends refer" in by_name["independent"]["note"]
    assert by_name["LN"]["paper"] is None and by_name["LN"]["note"] == "not in the paper"
    same = results.compare(ours, **WHERE, reference="independent", same_data=True, scale=100)
    assert [line["verdict"] for line in same if line["row"] in ("independent", "DCC")] == ["reproduced"] * 2


def test_compare_pairs_by_seed_only_if_the_seeds_agree():
    # Seeds move both networks together: pairs show what Welch's interval cannot.
    reference, ours = {0: 1.0, 1: 20.0, 2: 40.0}, {2: 41.2, 1: 21.1, 0: 2.0}
    options = WHERE | {"reference": "independent", "same_data": False}
    paired = results.compare({"independent": reference, "DCC": ours}, **options)
    other = results.compare({"independent": {k + 5: v for k, v in reference.items()}, "DCC": ours}, **options)
    assert [next(r["verdict"] for r in t if r["row"] == "DCC") for t in (paired, other)] == ["trend only", "undecided"]


def test_compare_does_not_judge_bounds_and_knows_its_names():
    bound = results.compare(
        {"6 classes or fewer": [59, 59.2]}, **WHERE | {"item": "fig9", "column": "largest"}, same_data=True
    )
    assert [(line["paper"], line["verdict"]) for line in bound] == [(59.4, "undecided")]
    for change in ({"item": "fig22"}, {"column": "median"}, {"metric": "accuracy"}, {"reference": "dependent"}):
        with pytest.raises(KeyError):
            results.compare({"DCC": [1.0]}, **WHERE | {"same_data": True} | change)


def test_import_needs_the_standard_library_only():
    code = (
        "import sys, compatkit.results as r; r.paper_numbers();"
        "print([m for m in ('torch', 'numpy', 'scipy', 'plotly', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- rank correlation -------------------------------------------------------------------------------------------------


def test_rank_correlation_against_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    x, y = [1.0, 2.0, 2.0, 5.0, 3.0, 0.5, 4.0], [10.0, 10.0, 30.0, 25.0, 28.0, 5.0, 28.0]
    found = results.rank_correlation(x, y)
    assert found.mean == pytest.approx(stats.spearmanr(x, y).statistic) and found.n == 7
    assert results.rank_correlation(x, [v**3 for v in y]) == found, "only ranks count"


def test_the_interval_of_a_rank_correlation_is_bonett_and_wrights():
    order = [1, 3, 2, 5, 4, 7, 6, 8]
    found = results.rank_correlation(range(8), order)
    rho = 1 - 6 * sum((i + 1 - o) ** 2 for i, o in enumerate(order)) / (8 * 63)
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 5)
    bounds = [math.tanh(math.atanh(rho) + sign * half) for sign in (-1, 1)]
    assert found.mean == pytest.approx(rho) and [found.low, found.high] == pytest.approx(bounds)


def test_rank_correlation_of_constants_is_0_and_few_pairs_are_refused():
    assert results.rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).mean == 0
    for x, y in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3]), ([1, 2, 3, math.nan], [1, 2, 3, 4])):
        with pytest.raises(ValueError, match=r"x|y"):
            results.rank_correlation(x, y)


def test_compare_judges_correlations_by_hundredths():
    [row] = [
        row
        for row in results.compare(
            {"RP": [0.90, 0.91, 0.92]},
            paper="gygli",
            item="fig6",
            column="mean",
            metric="cross-correlation",
            same_data=True,
        )
        if row["row"] == "RP"
    ]
    assert row["verdict"] == "not reproduced", "0.91 is not 0.38, though less than one point away"
