"""Contents of the chapter on models of other makers: what each way to change a model keeps, what is worth storing."""

from __future__ import annotations

import pandas as pd

from ..records.claims import Records
from ..records.table import Values, pick, rows, table
from ..show.explorer import Explorer, Level, View, explorer
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
    "new/low rank(old)": "low rank",
    "new/ridge(old)": "ridge",
    "ridge(new)/old": "ridge, queries mapped to the old space",
    "new/ridge of the gallery(old)": "ridge fitted on the gallery itself",
    "new/ridge(old, side)": "ridge with side-information",
    "new/h": "h",
    "cascade": "cascade: 100 of old/old embedded anew",
}
"""Ways to serve new queries, in the order of the figure."""
MODELS = {
    "lite0@64": "Lite0, 64 px",
    "lite0@112": "Lite0, 112 px",
    "lite2@64": "Lite2, 64 px",
    "lite2@112": "Lite2, 112 px",
    "wordllama": "WordLlama",
    "minilm": "MiniLM",
    "half": "half",
    "whole": "whole",
}
KINDS = {
    "lite2@64": "a second model (Lite2, 64 px)",
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
