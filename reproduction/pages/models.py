"""Contents of the chapter on models of other makers: what each way to change a model keeps, what is worth storing."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd
from IPython.display import HTML, Markdown

from compatkit.intervals import Interval, interval

from ..records.claims import Records
from ..records.table import ANY, Values, pick, rows, table
from ..show import tables
from ..show.dots import dots
from ..show.explorer import Explorer, Level, View, curves, explorer
from .sections import cells

MEASURES = {
    "neighbours kept": "neighbours kept",
    "CMC top-1": "CMC top-1",
    "mAP@1.0": "mAP",
}
WAYS = {
    "new/identity(old)": "nothing: old embeddings as they are",
    "new/mean shift(old)": "mean shift",
    "new/Procrustes(old)": "Procrustes",
    "new/lambda-orthogonal(old)": "lambda-orthogonal",
    "new/low rank(old)": "low rank",
    "new/ridge(old)": "ridge",
    "ridge(new)/old": "ridge, queries mapped to the old space",
    "new/ridge of the gallery(old)": "ridge fitted on the gallery itself",
    "new/ridge(old, side)": "ridge with side-information",
    "new/h": "h",
    "rank merge": "rank merge: half embedded anew, half old",
    "cascade": "cascade: 100 of old/old embedded anew",
}
"""Ways to serve new queries, in the order of the figure."""
MODELS = {
    "lite0@64": "Lite0, 64 px",
    "lite0@112": "Lite0, 112 px",
    "lite1@64": "Lite1, 64 px",
    "lite2@112": "Lite2, 112 px",
    "wordllama": "WordLlama",
    "minilm": "MiniLM",
    "half": "half",
    "whole": "whole",
}
KINDS = {
    "lite1@64": "a second model (Lite1, 64 px)",
    "mirrored view": "the old model's view of the mirrored image",
    "inner layer": "an inner layer of the old model",
    "thumbnail": "a thumbnail",
    "glove": "a second model (GloVe)",
    "sketch": "hashed words",
    "rest": "the rest",
}


def named(values: Values) -> Values:
    """The table with the two models of each run in words, as column "models"."""
    models = [f"{MODELS[old]} → {MODELS[new]}" for old, new in zip(values["old"], values["new"], strict=True)]
    return values.assign(models=pd.Categorical(models, list(dict.fromkeys(models))))


def kept_explorer(records: Records) -> Explorer:
    """Pick two models and what is stored beside, see what each way keeps; lines: the old model kept, and all embedded
    anew."""
    values = named(table(records))
    stored = {side: "nothing" if side == "none" else f"256 bytes of {KINDS[side]}" for side in values["side"].unique()}
    at = {"models": "models", "stored beside": "side", "measure": "measure", "way": "case"}
    words = {"side": stored, "measure": MEASURES, "case": WAYS}
    found = cells(pick(values, MEASURES, case=WAYS), at, words)
    levels = [
        Level(name, part["value"].tolist(), {"models": models, "measure": MEASURES[measure]})
        for name in ("old/old", "new/new")
        for (models, measure), part in pick(values, MEASURES, case=name, side="none").groupby(
            ["models", "measure"], observed=True
        )
    ]
    return explorer(View("bars", found, axis="way", x_title="{measure}, %", levels=levels))


def stored_explorer(records: Records) -> Explorer:
    """Pick two models, see what ridge keeps by the bytes that each kind of side-information takes."""
    values = named(table(records))
    places = {str(size): str(size) for size in sorted(values["side_bytes"].unique())}
    values = values.assign(bytes=values["side_bytes"].astype(str).astype("category"))
    at = {"models": "models", "measure": "measure", "stored beside": "side", "bytes": "bytes"}
    words = {"measure": MEASURES, "side": KINDS, "bytes": places}
    found = cells(pick(values, MEASURES, case="new/ridge(old, side)"), at, words)
    levels = [
        Level(
            line, list(rows(part, "data", mean=True).popitem()[1].values()), {"models": models, "measure": MEASURES[m]}
        )
        for case, line in (("new/ridge(old)", "nothing beside"), ("old/old", "old/old"))
        for (models, m), part in pick(values, MEASURES, case=case).groupby(["models", "measure"], observed=True)
    ]
    x_title = "bytes stored beside each embedding"
    view = View(
        "curves", found, series="stored beside", axis="bytes", title="{measure}, %", x_title=x_title, levels=levels
    )
    return explorer(view)


# --- the tool, asked before and after -------------------------------------------------------------------------------

SAYS = {"keep": "keep the old model", "map": "map", "back-fill": "back-fill", "nothing": "do nothing"}
SHARES = ("0 %", "10 %", "20 %", "40 %", "60 %", "80 %", "100 %")
"""Of the gallery, that are embedded anew."""
NO_RUNS = "nothing: no runs are stored here."
ADAPTERS = ("Procrustes/old", "low-rank/old", "residual/old")
"""The maps of queries that Vejendla (2025) compares."""


def advice_table(records: Records) -> Markdown:
    """What is advised for each change of a model; the neighbours kept by what the advice speaks of, foreseen and come
    true, by the old model, and by the best map in hindsight. Means over the seeds."""
    body = []
    for change in dict.fromkeys(record["row"] for record in records):
        runs = [record["metrics"] for record in records if record["row"] == change]
        said = [_advised(run) for run in runs]
        words = (SAYS[action] + f" ({way})" * (action == "map") for action, way in said)
        shares = (
            _mean(run[f"neighbours foreseen: {way}"] for run, (_, way) in zip(runs, said, strict=True)),
            _mean(run[f"neighbours kept: {way}"] for run, (_, way) in zip(runs, said, strict=True)),
            _mean(run["neighbours kept: old/old"] for run in runs),
            _mean(run[f"neighbours kept: {_best(run, 'kept')}"] for run in runs),
        )
        right = sum(action == _in_hindsight(run) for run, (action, _) in zip(runs, said, strict=True))
        body.append([change, _most(words), *shares, f"{right}\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}{len(runs)}"])
    head = ["change of model", "advice", "foreseen, %", "came true, %", "old model, %", "best map, %", "right"]
    return tables.table(head, body)


def right(records: Records) -> str:
    """A sentence: how often the advice was the right one, and how far what was foreseen lay from what came true."""
    runs = [record["metrics"] for record in records]
    if not runs:
        return NO_RUNS
    good = sum(_advised(run)[0] == _in_hindsight(run) for run in runs)
    known = [(run, way) for run in runs for way in ("old/old", *_maps(run))]
    inside, off = 0, []
    for run, way in known:
        foreseen, kept = f"neighbours foreseen: {way}", run[f"neighbours kept: {way}"]
        inside += run[f"{foreseen}, low"] <= kept <= run[f"{foreseen}, high"]
        off.append(abs(run[foreseen] - kept))
    changes = len({record["row"] for record in records})
    return (
        f"that **the tool's advice was right in {good} of {len(runs)} runs** on {changes} changes of a model. What it "
        f"foresees of a gallery is off by {100 * statistics.median(off):.1f} points, by the median of {len(known)} "
        f"ways; {100 * inside / len(known):.0f} % of them come true within the interval."
    )


def _advised(run: Mapping[str, float]) -> tuple[str, str]:
    """What is advised, and the way that it speaks of."""
    action = next(one for one in SAYS if run[f"advised: {one}"])
    named = [name.removeprefix("map advised: ") for name in run if name.startswith("map advised: ")]
    return action, "old/old" if action == "keep" else named[0] if named else _best(run, "foreseen")


def _in_hindsight(run: Mapping[str, float]) -> str:
    """What the rule of the tool says of what came true: keep the old model where no map finds more; a map, if it keeps
    half."""
    best = run[f"neighbours kept: {_best(run, 'kept')}"]
    return "keep" if best <= run["neighbours kept: old/old"] else "map" if best >= 0.5 else "back-fill"


def _best(run: Mapping[str, float], when: str) -> str:
    return max(_maps(run), key=lambda way: run[f"neighbours {when}: {way}"])


def kept_by(records: Records, change: str) -> str:
    """A sentence: what the old model and the best map keep after one change of a model."""
    runs = [record["metrics"] for record in records if record["row"] == change]
    if not runs:
        return NO_RUNS
    old = _mean(run["neighbours kept: old/old"] for run in runs)
    best = _mean(run[f"neighbours kept: {_best(run, 'kept')}"] for run in runs)
    anew = _mean(run["neighbours kept: old/old, 200 anew"] for run in runs)
    return (
        f"that **the old model finds {old} % of the new model's neighbours, and the best map {best} %**. To embed the "
        f"first 200 results of each query anew finds {anew} %. ({len(runs)} draws of 5 000 pairs, judged among 3 000 "
        "other words.)"
    )


def _maps(run: Mapping[str, float]) -> list[str]:
    """The closed forms that were compared, of the gallery and of queries."""
    ways = (name.removeprefix("neighbours foreseen: ") for name in run if name.startswith("neighbours foreseen: "))
    return [way for way in ways if "," not in way and way not in ("old/old", "new/new")]


def _mean(values: Iterable[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f}"


def _most(words: Iterable[str]) -> str:
    """The most frequent, and how often where not always."""
    counted = Counter(words)
    ((word, times), *others) = counted.most_common()
    return word + f" ({times} of {counted.total()})" * bool(others)


def way_explorer(records: Records) -> Explorer:
    """Pick a change of a model, see how searches fare while a growing share of the gallery is embedded anew."""
    values = table(records)
    values = pick(values, "neighbours on the way", case=ANY, variant=ANY)
    values = values.assign(share=pd.Categorical([SHARES[i] for i in values["step"]], SHARES))
    at = {"change of model": "row", "searched": "variant", "map": "case", "embedded anew": "share"}
    view = curves(cells(values, at), "map", "embedded anew", "embedded anew", "neighbours kept, %")
    return explorer(view, start={"searched": "together"})


def adapters_drawn(records: Records) -> HTML:
    """The recall of maps of queries as a share of that of embedding everything anew, beside the old model kept."""
    ways = {way: way.removesuffix("/old") for way in ADAPTERS} | {"old/old": "old model kept"}
    panels: dict[str, dict[str, Interval | None]] = {}
    for change, runs in _labelled(records).items():
        shares = {way: [100 * run[f"recall@10: {way}"] / run["recall@10: new/new"] for run in runs] for way in ways}
        panels[change] = {words: interval(shares[way]) for way, words in ways.items()}
    caption = "Recall at 10 where queries are mapped, in % of embedding everything anew. Lines: 95 % intervals."
    return dots(panels, caption, unit="% of new/new", ends=(0, 100))


def _labelled(records: Records) -> dict[str, list[Mapping[str, float]]]:
    """The metrics of the runs on items with labels, by the change of the model."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        if record["config"]["data"] in ("cifar100", "glosses"):
            found.setdefault(record["row"], []).append(record["metrics"])
    return found


def adapters_table(records: Records) -> Markdown:
    """Maps of queries by the measure of Vejendla (2025), in % of what embedding everything anew gives, beside the old
    model kept, and beside the share of its neighbours."""
    body = []
    for change, runs in _labelled(records).items():
        for measure in ("recall@10", "reciprocal rank", "neighbours kept"):
            shares = [
                _mean(run[f"{measure}: {way}"] / run[f"{measure}: new/new"] for run in runs)
                for way in (*ADAPTERS, "old/old")
            ]
            limit = _mean(run["ceiling"] for run in runs) if measure == "neighbours kept" else "–"
            body.append([change if measure == "recall@10" else "", measure, *shares, limit])
    return tables.table(
        ["change of model", "% of new/new", "Procrustes", "low-rank", "residual", "old model", "ceiling"], body
    )


def mixtures_explorer(records: Records) -> Explorer:
    """In how many stores two models are seen, by the share of the second; at 0 % there is one."""
    found = cells(
        pick(table(records), "two models seen", case=ANY), {"the two models": "row", "share of the second": "case"}
    )
    return explorer(
        curves(found, "the two models", "share of the second", "rows by the second model", "stores told, %")
    )
