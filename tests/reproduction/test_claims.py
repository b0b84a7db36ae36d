"""The table of claims names what there is, and every verdict on it is what naive code finds in the records."""

import csv
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from reproduction.experiments import EXPERIMENTS, evidence
from reproduction.pages.claims import numbers
from reproduction.pages.report import CHAPTERS
from reproduction.records import claims, pins, provenance, store
from reproduction.records.claims import Side
from reproduction.records.verdicts import judged, level_margin

CLAIMS = claims.claims()
SIDES = [(c, side) for c in CLAIMS for side in (c.one, c.other) if isinstance(side, Side)]


def raw():
    with open(Path(store.CHECKOUT) / "results" / "claims.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_claims_are_well_formed():
    rows = raw()
    assert len({row["id"] for row in rows}) == len(rows) and len({row["claim"] for row in rows}) == len(rows)
    for row in rows:
        assert row["claim"][-1] not in ".," and all(cell == cell.strip() for cell in row.values()), row["id"]
        assert (row["experiment"] == "") == (row["one"] == ""), row["id"]
        assert row["one"] or row["note"], f"{row['id']}: what is not run says why"
        level = row["kind"] == "level"
        assert level == (row["other"] == "" and row["one"] != ""), row["id"]
        assert not level or (row["direction"] == "same" and row["paper_one"] and not row["paper_other"]), row["id"]
        assert bool(row["paper_one"]) >= bool(row["paper_other"])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_margins_follow_their_rule(claim):
    point = {"points": 1.0, "correlation": 0.05, "million MACs": 0.0}[claim.unit]
    same = 2.0 if claim.unit == "points" else point
    if claim.kind == "level":
        expected = level_margin("cross-correlation" if claim.unit == "correlation" else "accuracy")
    elif claim.direction == "same":
        expected = same
    elif claim.direction == "above":
        expected = point if claim.published is None else min(point, abs(claim.published) / 2)
    else:
        assert claim.note and claim.margin > 0, "a reading of a word says so"
        return
    assert claim.margin == pytest.approx(expected)


@pytest.mark.parametrize(
    "claim", [c for c in CLAIMS if c.published is not None and c.kind != "level"], ids=lambda c: c.id
)
def test_the_papers_own_numbers_bear_the_claim_out(claim):
    least = {"above": 0.0, "not below": -claim.margin, "same": -claim.margin}[claim.direction]
    assert claim.published >= least
    assert claim.direction != "same" or claim.published <= claim.margin


@pytest.mark.parametrize(("claim", "side"), SIDES, ids=[f"{c.id}: {side.row}" for c, side in SIDES])
def test_a_claim_names_rows_and_metrics_that_exist(claim, side):
    planned = [config for row, config in EXPERIMENTS[side.experiment]("paper") if row == side.row]
    assert any(all(str(getattr(config, name)) == value for name, value in side.where) for config in planned)
    runs = pins.pinned().of(side.experiment).values()
    kept = {re.sub(r"on \d+ images", "on 10 images", name) for run in runs for name in run}  # pinned runs take fewer
    metric = re.sub(r"on \d+ images", "on 10 images", side.metric)
    wanted = {metric, metric.replace("/mean", "/a")}
    if side.metric.startswith("accuracy after"):
        wanted = {"accuracy by step"}
    assert wanted & kept


def test_unknown_words_and_numbers_are_errors(tmp_path, monkeypatch):
    row = raw()[1]
    monkeypatch.setenv("COMPATKIT_RESULTS", str(tmp_path))

    def read(**changes):
        with open(tmp_path / "claims.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row | changes)
        return claims.claims()

    assert [c.id for c in read()] == [row["id"]]
    for name in ("paper", "kind", "direction", "unit"):
        with pytest.raises(ValueError, match=f"{row['id']}: {name} must be one of"):
            read(**{name: "none"})
    with pytest.raises(KeyError):
        read(paper_one="fig2 | IWI | mean | recombination accuracy")


# --- what records hold ------------------------------------------------------------------------------------------------


def record(row, seed, metrics, **config):
    return {"row": row, "seed": seed, "config": {"a": "x", "b": "y", "seed": seed} | config, "metrics": metrics}


def test_a_side_is_the_mean_over_the_runs_that_its_row_has_for_a_seed():
    records = [record("R", s, {"m": 0.1 * (s + 1)}, direction="a to b") for s in range(3)]
    records += [record("R", s, {"m": 0.5}, direction="b to a") for s in (0, 2)]
    records += [record("Q", 0, {"m": 9.0}), record("R", 3, {"other": 1.0}, direction="a to b")]
    side = Side("e", "R", "m", ())
    assert claims.values(side, records) == pytest.approx({0: 0.3, 2: 0.4}), (
        "seed 1 lacks a direction, seed 3 the metric"
    )
    one = Side("e", "R", "m", (("direction", "a to b"),))
    assert claims.values(one, records) == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})
    assert claims.values(Side("e", "S", "m", ()), records) == {}


def test_metrics_that_are_lists_curves_and_means():
    metrics = {"list/a": [0.1, 0.3], "list/b": [0.4], "x": 0.5}
    metrics |= {"steps": [0, 1, 2, 5, 10], "accuracy by step": [0.1, 0.2, 0.3, 0.6, 0.9], "steps in an epoch": 5.0}
    assert claims.number(metrics, "list/a") == pytest.approx(0.2) and claims.number(metrics, "x") == 0.5
    assert claims.number(metrics, "list/mean") == pytest.approx(0.3)
    assert claims.number(metrics, "accuracy after 1 epoch") == 0.6
    assert claims.number(metrics, "accuracy after 2 epochs") == 0.9
    assert claims.number(metrics, "y") is None and claims.number(metrics, "y/mean") is None


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"a": "x", "b": "y"}, "x × y"),
        ({"data": "d", "classes": [5, 10]}, "d, 5 to 10"),
        ({"data": "d"}, "d"),
        ({"source": "s", "target": "t"}, "s → t"),
    ],
)
def test_images_are_named(config, name):
    assert claims.images_in_words([{"config": config}]) == name


def test_pairs_in_either_order_and_targets_of_a_source_belong_together():
    pairs = [{"config": {"a": a, "b": b}} for a, b in ("xy", "yx", "xz")]
    assert [len(group) for group in claims.by_images(pairs).values()] == [2, 1]
    targets = [{"config": {"source": "s", "target": t}} for t in "uvu"]
    [group] = claims.by_images(targets).values()
    assert claims.images_in_words(group) == "s → u, v"


# --- every verdict, by naive code -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    return evidence.sources()


def naive_number(metrics, key):
    if key.startswith("accuracy after 1 epoch"):
        return metrics["accuracy by step"][metrics["steps"].index(round(metrics["steps in an epoch"]))]
    if key in metrics:
        return metrics[key]
    both = [metrics.get(key.replace("/mean", f"/{role}")) for role in "ab"]
    return None if None in both else sum(sum(v) / len(v) for v in both) / 2


def naive_group(config):
    keys = ("a", "b") if "a" in config else ("data", "classes") if "classes" in config else ("source",)
    return json.dumps(sorted(map(str, (config.get(k, config.get("data")) for k in keys))))


def naive_side(text, row, source):
    """{images: {seed: (value, ages)}}: the mean over whatever runs a seed has, of seeds that have as many as any; and
    whether these are stale, are not, or both."""
    where, _, metric = text.partition(" | ")
    experiment, slash, name = where.partition(" / ")
    experiment, name = (experiment, name) if slash else (row["experiment"], where)
    found = {}
    for one in source.records.get(experiment, ()):
        wanted = dict([row["where"].split("=")] if row["where"] else [])
        value = naive_number(one["metrics"], metric) if one["row"] == name else None
        if value is not None and all(one["config"][k] == v for k, v in wanted.items()):
            runs = found.setdefault(naive_group(one["config"]), {}).setdefault(one["seed"], [])
            runs.append((value, provenance.is_stale(one)))
    for seeds in found.values():
        most = max(map(len, seeds.values()))
        for seed in [s for s, values in seeds.items() if len(values) < most]:
            del seeds[seed]
    return {
        group: {s: (sum(v for v, _ in runs) / len(runs), {old for _, old in runs}) for s, runs in seeds.items()}
        for group, seeds in found.items()
    }


def naive_differences(row, source):
    """The differences by seed, sorted, for each images with two seeds or more, and whether these are all planned."""
    planned = min(source.seeds[name] for name in (row["experiment"], *naive_other(row)))
    one, scale = (
        naive_side(row["one"], row, source),
        {"points": 100, "correlation": 1, "million MACs": 1e-6}[row["unit"]],
    )
    order = dict.fromkeys(naive_group(r["config"]) for r in source.records.get(row["experiment"], ()))
    for group in order:
        ours = one.get(group, {})
        if "|" in row["other"]:
            theirs = naive_side(row["other"], row, source).get(group, {})
        else:
            theirs = {seed: (float(row["other"] or 0), ages) for seed, (_, ages) in ours.items()}
        both = sorted(
            s for s in set(ours) & set(theirs) if "|" not in row["other"] or len(ours[s][1] | theirs[s][1]) == 1
        )
        if len(both) > 1:
            yield [scale * (ours[s][0] - theirs[s][0]) for s in both], len(both) >= planned


def naive_other(row):
    return [side.split(" / ")[0] for side in (row["one"], row["other"]) if " / " in side.split("|")[0]]


def naive_verdict(values, row):
    import numpy
    from scipy import stats

    mean, error, margin, free = numpy.mean(values), stats.sem(values), float(row["margin"]), len(values) - 1
    wide, narrow = (
        (mean, mean) if error == 0 else stats.t.interval(level, free, loc=mean, scale=error) for level in (0.95, 0.90)
    )
    inside = -margin < narrow[0] and narrow[1] < margin
    if row["direction"] == "same":
        return "shown" if inside else "contradicted" if wide[0] > margin or wide[1] < -margin else "open"
    least = margin if row["direction"] == "above" else -margin
    if wide[0] > least:
        return "shown"
    if wide[1] < -margin:
        return "contradicted"
    return "equal" if inside and row["direction"] == "above" else "open"


def test_every_verdict_is_what_naive_code_finds_in_the_records(sources):
    from scipy import stats

    decided = 0
    for row, one in zip(raw(), judged(CLAIMS, sources), strict=True):
        found = [(*v, source) for source in sources for v in naive_differences(row, source)] if row["one"] else []
        values, _, where = next((v for v in found if v[1]), found[0] if found else (None, None, None))
        if values is None:
            assert one.word == "not run" or one.best.ours.n == 1, row["id"]
            continue
        assert one.best.ours.n == len(values), row["id"]
        assert one.best.ours.mean == pytest.approx(statistics.mean(values)), row["id"]
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        assert one.best.ours.half_width == pytest.approx(half, abs=1e-9), row["id"]
        if row["kind"] == "level":
            used = [r for r in where.records[row["experiment"]] if r["row"] == row["one"].split(" | ")[0]]
            row |= {"direction": "same"}
            away = [value - one.claim.published for value in values]
            assert one.word == ("not judged" if any(r["differs"] for r in used) else naive_verdict(away, row)), row[
                "id"
            ]
        else:
            assert one.word == naive_verdict(values, row), row["id"]
            decided += one.word in ("shown", "contradicted", "equal")
    assert decided > 30


def test_the_runs_of_an_experiment_that_share_a_seed_saw_the_same_images(sources):
    # tables of the chapters pair them; where images are drawn anew, all of a seed's runs have to be made anew
    for source in sources:
        for name, runs in source.records.items():
            seen = {}
            for run in runs:
                for images, digest in provenance.drawn(run).items():
                    assert seen.setdefault((run["seed"], images), digest) == digest, (source.name, name, run["seed"])


def test_only_the_papers_own_runs_differ_in_nothing(sources):
    # the toy is drawn in the paper and run here, at every preset alike
    smaller = (runs for s in sources[1:] for name, runs in s.records.items() if name != "fig1_toy")
    assert all(r["differs"] for runs in smaller for r in runs)
    for name in ("fig2", "table1", "fig8", "transfer"):
        for row, config in EXPERIMENTS[name]("paper", [3]):
            assert evidence.differs(name, row, replace(config, seed=0)) == ()
            slower = replace(config, recipe=replace(config.recipe, steps=config.recipe.steps // 2, precision="fp32"))
            assert evidence.differs(name, row, replace(slower, seed=0)) == ("recipe.steps",)


def test_every_verdict_stands_in_a_table_of_its_chapter(sources):
    """The report and the chapters cannot disagree: what the one says on the best images, a table of the other has."""
    lines = {}
    for one in judged(CLAIMS, sources):
        if one.claim.kind == "level" or one.word == "not run":
            continue
        page = CHAPTERS[one.claim.paper, one.claim.item].partition(".")[0]
        lines[page] = lines.get(page) or printed_lines(Path(store.CHECKOUT) / "book" / f"{page}.ipynb")
        _, ours = numbers(one.claim, one.best)
        end = f" {ours} | {one.best.ours.n} |"
        found = [line for line in lines[page] if line.startswith(f"| {one.claim.text} |") and line.endswith(end)]
        assert any(one.word in line for line in found), (page, one.claim.id, one.word, ours, one.best.images)


def printed_lines(path):
    outputs = [o for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for o in cell.get("outputs", ())]
    return "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs).splitlines()
