"""The table of claims names what there is, and every verdict on it is what naive code finds in the records."""

import csv
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from reproduction.experiments import EXPERIMENTS, evidence
from reproduction.pages.claims import items, numbers
from reproduction.records import claims, pins, provenance, store
from reproduction.records.verdicts import judged, level_margin
from reproduction.show import tables

CLAIMS = claims.claims()
SIDES = [(c, side) for c in CLAIMS for side in c.sides]


def raw():
    with open(Path(store.CHECKOUT) / "results" / "claims.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_claims_are_well_formed():
    rows = raw()
    assert len({row["id"] for row in rows}) == len(rows) and len({row["claim"] for row in rows}) == len(rows)
    words = {"paper": claims.PAPERS, "kind": claims.KINDS, "direction": claims.DIRECTIONS, "unit": claims.UNITS}
    for row in rows:
        assert all(row[name] in allowed for name, allowed in words.items()), row["id"]
        assert row["claim"][-1] not in ".," and all(cell == cell.strip() for cell in row.values()), row["id"]
        assert (row["experiment"] == "") == (row["one"] == ""), row["id"]
        assert row["one"] or row["note"], f"{row['id']}: what is not run says why"
        level = row["kind"] == "level"
        assert level == (row["other"] == "" and row["one"] != ""), row["id"]
        assert not level or (row["direction"] == "same" and row["paper_one"] and not row["paper_other"]), row["id"]
        assert bool(row["paper_one"]) >= bool(row["paper_other"])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_margins_follow_their_rule(claim):
    point = {"points": 1.0, "correlation": 0.05, "million MACs": 0.0, "% of the gap": None}[claim.unit]
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
    assert any(
        all((str(getattr(config, name)) == value) == (sign == "=") for name, sign, value in side.where)
        for config in planned
    )
    runs = pins.pinned().of(side.experiment).values()
    kept = {re.sub(r"on \d+ images", "on 10 images", name) for run in runs for name in run}  # pinned runs take fewer
    metric = re.sub(r"on \d+ images", "on 10 images", side.metric)
    wanted = {metric.partition(" minus ")[0], metric.replace("/mean", "/a")}
    if side.metric.startswith("accuracy after"):
        wanted = {"accuracy by step"}
    assert wanted & kept


# --- what records hold ------------------------------------------------------------------------------------------------


def test_metrics_that_are_lists_curves_and_means():
    metrics = {"list/a": [0.1, 0.3], "list/b": [0.4], "x": 0.5}
    metrics |= {"steps": [0, 1, 2, 5, 10], "accuracy by step": [0.1, 0.2, 0.3, 0.6, 0.9], "steps in an epoch": 5.0}
    assert claims.number(metrics, "list/a") == pytest.approx(0.2) and claims.number(metrics, "x") == 0.5
    assert claims.number(metrics, "list/mean") == pytest.approx(0.3)
    assert claims.number(metrics, "accuracy after 1 epoch") == 0.6
    assert claims.number(metrics, "accuracy after 2 epochs") == 0.9
    assert claims.number(metrics, "accuracy after 3 epochs") is None  # a run that is not that long
    assert (
        claims.number(metrics, "x minus list/b") == pytest.approx(0.1) and claims.number(metrics, "x minus y") is None
    )
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


# --- every verdict, by naive code -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    return evidence.sources()


def naive_number(metrics, key):
    one, minus, other = key.partition(" minus ")
    if minus:
        return metrics[one] - metrics[other] if one in metrics else None
    if key.startswith("accuracy after"):
        epochs = int(key.split()[2])
        return metrics["accuracy by step"][metrics["steps"].index(epochs * round(metrics["steps in an epoch"]))]
    if key in metrics:
        return metrics[key]
    both = [metrics.get(key.replace("/mean", f"/{role}")) for role in "ab"]
    return None if None in both else sum(sum(v) / len(v) for v in both) / 2


def naive_group(config):
    keys = ("a", "b") if "a" in config else ("data", "classes") if "classes" in config else ("source",)
    return json.dumps(sorted(map(str, (config.get(k, config.get("data")) for k in keys))))


def naive_runs(text, row, source):
    """{images: {seed: [run]}} of a side: of seeds that have as many runs as any."""
    where, _, metric = text.partition(" | ")
    experiment, slash, name = where.partition(" / ")
    experiment, name = (experiment, name) if slash else (row["experiment"], where)
    found = {}
    for one in source.records.get(experiment, ()):
        if one["row"] == name and naive_number(one["metrics"], metric) is not None and naive_where(one, row):
            found.setdefault(naive_group(one["config"]), {}).setdefault(one["seed"], []).append(one)
    return {
        group: {seed: runs for seed, runs in seeds.items() if len(runs) == max(map(len, seeds.values()))}
        for group, seeds in found.items()
    }


def naive_where(run, row):
    for condition in filter(None, row["where"].split("; ")):
        name, value = condition.split("=")
        if (str(run["config"][name.rstrip("!")]) == value) == name.endswith("!"):
            return False
    return True


def naive_same_networks(one, other):
    """Whether two runs measure a network in common, from their settings."""
    a, b = one["config"], other["config"]
    if a == b:
        return True
    if one["kind"] == other["kind"] == "TransferRun":
        return {a["method"], b["method"]} == {"independent", "re-initialised head"} and a["seed"] == b["seed"]
    if one["kind"] == other["kind"] == "ModelsRun":
        return {**a, "maps": ""} == {**b, "maps": ""}
    if not one["kind"] == other["kind"] == "UpdateRun":
        return False
    always = ("data", "image_size", "n_train", "class_order", "loss", "scale", "margin", "recipe", "seed")
    old = ("old_network", "old_width", "old_dim", "old_task")
    new = ("new_network", "new_width", "new_dim", "disjoint")

    def alike(names):
        return all(a[name] == b[name] for name in names)

    old_shared = alike((*always, *old)) and a["classes"][0] == b["classes"][0]
    new_shared = alike((*always, *new)) and a["classes"][-1] == b["classes"][-1]
    return old_shared or (new_shared and a["method"] == b["method"] == "FCT")


def naive_differences(row, source):
    """(images, values of each side, whether they are paired, whether these are all planned), for images with two seeds
    or more in the order of the plan."""
    other, _, start = row["other"].partition("; from ")
    texts = [text for text in (row["one"], other, start) if "|" in text]
    experiments = [text.partition(" / ")[0] if " / " in text.split("|")[0] else row["experiment"] for text in texts]
    planned = min(source.seeds[name] for name in experiments)
    sides = [naive_runs(text, row, source) for text in texts]
    for group in dict.fromkeys(naive_group(r["config"]) for r in source.records.get(experiments[0], ())):
        here = [side.get(group, {}) for side in sides]
        seeds = sorted(set.intersection(*map(set, here)))
        if len(sides) > 1:
            seeds = [s for s in seeds if len({provenance.is_stale(r) for side in here for r in side[s]}) == 1]
        if len(seeds) < 2:
            continue
        values = []
        for text, side in zip(texts, here, strict=True):
            metric = text.partition(" | ")[2]
            values.append([statistics.mean(naive_number(r["metrics"], metric) for r in side[s]) for s in seeds])
        first = [[r for runs in side.values() for r in runs] for side in here]
        paired = len(sides) > 1 and all(
            any(naive_same_networks(r, q) for r in first[0] for q in others) for others in first[1:]
        )
        yield group, values, paired, len(seeds) >= planned


def naive_estimate(row, values, paired):
    """Mean, standard error and degrees of freedom of a difference in the claim's unit, by numpy."""
    import numpy

    scale = {"points": 100, "correlation": 1, "million MACs": 1e-6, "% of the gap": 100}[row["unit"]]
    arrays = [numpy.array(v) for v in values]
    n, weights = len(arrays[0]), [1, -1]
    if row["unit"] == "% of the gap":
        one, other, start = (a.mean() for a in arrays)
        share = (one - start) / (other - start)
        arrays, weights = [a / (other - start) for a in arrays], [1, -share, share - 1]
        mean = share - 1
    elif len(arrays) == 1:
        arrays, weights = [arrays[0] - float(row["other"] or 0)], [1]
        mean = arrays[0].mean()
    else:
        mean = arrays[0].mean() - arrays[1].mean()
    if paired:
        arrays, weights = [sum(w * a for w, a in zip(weights, arrays, strict=True))], [1]
    parts = [w * w * a.var(ddof=1) / n for w, a in zip(weights, arrays, strict=True)]
    free = sum(parts) ** 2 / sum(p**2 / (n - 1) for p in parts) if sum(parts) else n - 1
    return scale * mean, scale * sum(parts) ** 0.5, free


def naive_verdict(mean, error, free, row):
    from scipy import stats

    margin = float(row["margin"])
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

    seen, paired_and_not = set(), set()
    for row, one in zip(raw(), judged(CLAIMS, sources), strict=True):
        if not row["one"]:
            assert one.word == ("not testable" if row["note"].startswith("not testable") else "not run"), row["id"]
            continue
        found = [(source, list(naive_differences(row, source))) for source in sources]
        whole = [(source, [d for d in ds if d[3]]) for source, ds in found]
        where, best = next(((s, ds) for s, ds in [*whole, *found] if ds), (None, []))
        if not best:
            assert one.word == "not run" or all(own.ours.n == 1 for own in one.speaking), row["id"]
            continue
        words = set()
        for (_, values, paired, _), own in zip(best, one.speaking, strict=True):
            mean, error, free = naive_estimate(row, values, paired)
            paired_and_not.add(paired)
            half = error * stats.t.ppf(0.975, free)
            assert own.ours.n == len(values[0]), row["id"]
            assert (own.ours.mean, own.ours.half_width) == pytest.approx((mean, half), abs=1e-9), row["id"]
            words.add(naive_verdict(mean, error, free, row))
        if row["kind"] == "level":
            used = [r for r in where.records[row["experiment"]] if r["row"] == row["one"].split(" | ")[0]]
            assert any(r["differs"] for r in used) and one.word == "not judged", "photographs and digits are not theirs"
            continue
        assert one.word == ("mixed" if len(words) > 1 else words.pop()), row["id"]
        seen.add(one.word)
    assert seen >= {"shown", "contradicted", "equal", "mixed", "open"} and paired_and_not == {True, False}


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
            slower = replace(
                config,
                recipe=replace(config.recipe, steps=config.recipe.steps // 2, precision="fp32", channels_last=True),
            )
            assert evidence.differs(name, row, replace(slower, seed=0)) == ("recipe.steps",)


def test_every_verdict_stands_in_a_table_of_its_chapter(sources):
    """The report and the chapters cannot disagree: what the one says on the best images, a table of the other has."""
    lines = {}
    for one in judged(CLAIMS, sources):
        if one.claim.kind == "level" or not one.speaking:
            continue
        page = items()[one.claim.paper, one.claim.item].section.partition(".")[0]
        lines[page] = lines.get(page) or printed_lines(Path(store.CHECKOUT) / "book" / f"{page}.ipynb")
        said = [f"{tables.SIGNS[own.verdict.word]} {numbers(one.claim, own)[1]}" for own in one.speaking]
        found = [line for line in lines[page] if line.startswith(f"| {one.claim.text} | {tables.SIGNS[one.word]} ")]
        assert any(all(part in line for part in said) for line in found), (page, one.claim.id, said)


def printed_lines(path):
    outputs = [o for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for o in cell.get("outputs", ())]
    text = "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
    return text.replace("\N{NO-BREAK SPACE}", " ").splitlines()
