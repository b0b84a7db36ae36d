"""From an old model's gallery to a new model's, without the images: what ``python -m gallerykit upgrade`` does.

Of some items both embeddings are known. On most of these *pairs* the maps of ``maps`` are fitted, on the rest they are
compared and priced, and one is advised, or none. The gallery then goes through it in a stream, and an interrupted
upgrade goes on where it stopped.

    upgrade("old.npy", "new.npy", "gallery.npy", "upgraded.npy")

The other way round the gallery stays as it is, and queries of the new model are mapped to the old one, by a map that is
saved; ``apply_map`` puts a source through a map that is saved.

    upgrade("old.npy", "new.npy", direction="queries", save_map="queries.safetensors")

Files and tables are as in ``stores``. Nothing is ever written to any of them but to the new gallery, which appears
whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compatkit.devices import check_device, default_device, digest
from compatkit.extras import require
from compatkit.files import replacing
from compatkit.intervals import Interval

from . import arrays
from .advice import recommend
from .backfill import MixedPlan, Ranking, Share, write_list
from .comparison import Candidate, Comparison, compare
from .embeddings import is_unit
from .map_files import Ends, SavedMap, load_map, version
from .maps import DIRECTIONS, METHODS, NETWORKS, Map, Pairs, fit, split
from .metrics import METRICS
from .pairs import Input, Sources, join_pairs, with_direction
from .scheduler import workers_of
from .store import Names, Sink
from .stores import open_sink
from .stream import Gallery, Stream, held, hidden_folder


@dataclass(frozen=True)
class Upgrade:
    """What ``upgrade`` found and did.

    ``method`` is what ``advice.recommend`` or the caller chose, None for none; ``out`` the new gallery, None if none
    was written; ``switch`` says how to search it in place of the old one; ``saved`` is the file of the map, if one was;
    ``share`` of the gallery is advised to be back-filled, and ``listed`` is the file of what first, if it was written.
    """

    comparison: Comparison
    method: str | None
    advice: str
    out: str | os.PathLike | None
    switch: str | None = None
    saved: str | os.PathLike | None = None
    share: float = 0.0
    listed: str | os.PathLike | None = None


def upgrade(
    old: str | os.PathLike,
    new: str | os.PathLike,
    gallery: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    *,
    direction: str = "gallery",
    save_map: str | os.PathLike | None = None,
    side: str | os.PathLike | None = None,
    gallery_side: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    new_vector_column: str | None = None,
    side_column: str | None = None,
    label_column: str | None = None,
    require_all: bool = False,
    method: str = "auto",
    metric: str = "l2",
    enough: float = 0.5,
    gallery_size: int | None = None,
    backfill_seconds: float | None = None,
    backfill_list: str | os.PathLike | None = None,
    width: int = 512,
    steps: int = 2_000,
    seed: int = 0,
    chunk: int = 16_384,
    device: torch.device | str | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], object] = print,
    show_progress: bool = True,
) -> Upgrade:
    """Compare the maps from old to new embeddings, choose one, and put the gallery through it.

    What is done is kept in a hidden folder beside ``out`` (for PostgreSQL: in the working directory) until ``out`` is
    whole: an interrupted call, made again with the same sources and settings, goes on where it stopped and ends with
    the same bits, on the same device, threads and torch version. A file counts as the same by name, size and time of
    change, a table of LanceDB by its version, one of PostgreSQL by its ids and the transactions that wrote them. A call
    waits for others that write one of its files.

    Args:
        old, new: files or tables of the pairs, see ``pairs.read_pairs``.
        gallery: what is to be transformed, see ``stores``; None only compares.
        out: what is to be made. Of a table into a table all columns but the embeddings are as they were, except that
            PostgreSQL gets ids and embeddings; an array goes into a file of the same suffix or, with its ids, into a
            table. The numbers have the type of those in ``new``.
        direction: "gallery" maps old embeddings to new ones; "queries" new ones to old ones: the gallery and its index
            stay as they are, and only a map is saved. Queries have no side-information.
        save_map: a file NAME.safetensors for the map that is used, see ``map_files``. It is written last; with it
            gallery and out may be left out.
        side, labels: of the pairs, see ``pairs.read_pairs``.
        gallery_side: stands in place of the gallery's column ``side``; by id where both have ids.
        id_column, vector_column, side_column, label_column: names of the columns of all tables, see ``store.Names``.
        new_vector_column: of ``new``, where it has another name there.
        require_all: refuse pairs whose ids are not everywhere, and side-information of more than the gallery.
        method: "auto" does as ``advice.recommend`` says, which may be to write nothing; one of ``METHODS`` is used
            whatever the comparison says. All are compared, but residual and h only if they may be chosen, since fitting
            them takes minutes.
        metric: that the gallery is searched with, one of ``metrics.METRICS``. By cosine, rows of zeros (items that
            failed) stay rows of zeros in the new gallery, and pairs with one are left out.
        enough, backfill_seconds: see ``advice.recommend``.
        gallery_size: of a gallery that is not given; agreement is extrapolated to it.
        backfill_list: a file NAME.csv for the ids of the gallery (its rows, from 0, without ids), the item near which
            the map loses most first: the order to back-fill in. Without it "auto" maps no gallery of which a part is
            to be back-filled. It is written after ``out``.
        width, steps: see ``fit``.
        seed: see ``fit``; it also draws the held-out pairs.
        chunk: rows at a time: memory is bounded by it, the pairs and the ids, whatever the gallery's size.
        device: of the arithmetic; None takes a GPU if there is one.
        scheduler: address of a scheduler of Dask whose workers map the gallery, see ``scheduler`` and ``parts``: the
            hidden folder, and files that are read, must be on a disk that all of them share. The bits are those of one
            machine where the workers have its kind of processor, torch version and device.
        dry_run: only compare.
        overwrite: replace the files ``out``, ``save_map`` and ``backfill_list``; folders and tables are never
            replaced.
        tell: gets the table and the advice before the gallery is read.
        show_progress: of the fit and of the transformation.

    Raises:
        ValueError: bad input, such as rows, ids or widths that do not match, another space or length than that of the
            pairs, NaN (with the number of the row), an ``out`` that is an input, or exists. ``out`` is as it was
            before, and nothing else is left.
        OSError: a full disk, a database that does not answer, an ``out`` that cannot be written or has appeared
            meanwhile. What is done is kept, and the same call goes on.
    """
    method = _check_options(method, metric, enough, backfill_seconds, width=width, steps=steps, chunk=chunk)
    _check_files(direction, gallery, out, save_map, dry_run)
    _check_backfill(gallery, gallery_size, backfill_list, dry_run)
    if direction == "queries" and not (side is gallery_side is side_column is backfill_seconds is None):
        raise ValueError(
            "side, gallery_side, side_column, backfill_seconds: are of a gallery, which queries leave alone"
        )
    if scheduler is not None and (out is None or dry_run):
        raise ValueError("scheduler: must be left out where no gallery is written, got one")
    methods = [name for name in METHODS if name not in NETWORKS or method in ("auto", name)]
    check_device(device := device or default_device())
    device = torch.device(device)
    names = Names(id_column, vector_column, side_column, label_column)
    sink = None if dry_run or out is None else open_sink(out)
    files = {"save_map": save_map, "backfill_list": backfill_list}
    beside = {name: arrays.NewFile(Path(path)) for name, path in files.items() if path is not None}
    first, opened = sink or beside.get("save_map"), Sources(names, new_vector_column)
    with held(sink, *beside.values()), opened as sources, workers_of(scheduler) as executor:
        for name, file in beside.items():
            file.check_new(name, overwrite)
        urls = {
            "old": old,
            "new": new,
            "side": side,
            "labels": labels,
            "gallery": gallery,
            "gallery_side": gallery_side,
        }
        inputs = {name: sources(name, url) for name, url in urls.items() if url is not None}
        of_gallery, its_side = inputs.pop("gallery", None), inputs.pop("gallery_side", None)
        pairs = join_pairs(**inputs, require_all=require_all, tell=tell)
        if metric == "cosine":
            pairs = with_direction(pairs, tell)
        ends = _ends(pairs.reversed() if direction == "queries" else pairs)
        source = None if of_gallery is None else Gallery.open(ends, "the pairs", of_gallery, its_side, require_all)
        if sink is not None and source is not None:
            _check_out(sink, source.input, [url for url in urls.values() if url is not None], overwrite)
        size = gallery_size if source is None else source.embedding.rows
        settings = dict(methods=methods, direction=direction, metric=metric, width=width, steps=steps, seed=seed)
        settings |= {"gallery_size": size, "method": None if method == "auto" else method}
        with hidden_folder(first) as folder:
            maps, comparison = _fitted(pairs, settings, device, folder, show_progress)
        advice = recommend(comparison, enough=enough, backfill_seconds=backfill_seconds)
        wanted = advice.method if not advice.share or backfill_list is not None else None
        chosen = wanted if method == "auto" else method
        mixed = "" if comparison.mixed is None else comparison.mixed.table(backfill_seconds)
        tell("\n".join(filter(None, [comparison.table(), mixed, advice.text])))
        done = Upgrade(comparison, chosen, advice.text, None, share=advice.share)
        held_out, listed = None if backfill_list is None else split(pairs, seed)[1].to(device), None
        with hidden_folder(first) as folder:  # anew, for what ``tell`` raises is neither bad input nor a full disk
            if sink is not None and source is not None and folder is not None and chosen is not None:
                del pairs  # frees their memory for the gallery
                carried = source.carried(ends, sink, chunk, show_progress)
                Stream(maps[chosen], source, sink, folder, ends.unit_in, carried, device, executor).run(overwrite)
                done = replace(done, out=out, switch=sink.switch(carried, metric))
            if backfill_list is not None and source is not None and held_out is not None:
                ranking = Ranking.of(maps[chosen or comparison.choice], held_out, metric)
                listed = source.ranked(ranking, chunk, device)
        if backfill_list is not None and listed is not None:
            write_list(backfill_list, *listed)
            done = replace(done, listed=backfill_list)
        if save_map is not None and chosen is not None:
            _saved(maps[chosen], ends, comparison).save(save_map)
            done = replace(done, saved=save_map)
        if folder is not None:
            shutil.rmtree(folder)
    return done


def apply_map(
    map: str | os.PathLike,
    gallery: str | os.PathLike,
    out: str | os.PathLike,
    *,
    gallery_side: str | os.PathLike | None = None,
    id_column: str | None = None,
    vector_column: str | None = None,
    side_column: str | None = None,
    require_all: bool = False,
    chunk: int = 16_384,
    device: torch.device | str | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> str:
    """Put a gallery, or queries, through a map that ``upgrade`` saved, in a stream that goes on where it was
    interrupted.

    Args:
        map: the file.
        gallery: what is to be transformed, of the space that the map is for.
        out, gallery_side, id_column, vector_column, side_column, require_all: as in ``upgrade``.
        chunk, device, scheduler, overwrite, show_progress: as in ``upgrade``.

    Returns:
        How to search what was written in place of the gallery; empty for a map of queries.

    Raises:
        ValueError, OSError: as ``upgrade``; a file that is not a map, or damaged.
    """
    _check_counts(chunk=chunk)
    check_device(device := device or default_device())
    device = torch.device(device)
    saved = load_map(map)
    names, sink = Names(id_column, vector_column, side_column), open_sink(out)
    with held(sink), Sources(names) as sources, workers_of(scheduler) as executor:
        beside = None if gallery_side is None else sources("gallery_side", gallery_side)
        source = Gallery.open(saved.ends, "the map", sources("gallery", gallery), beside, require_all)
        _check_out(sink, source.input, [map, gallery, gallery_side], overwrite)
        with hidden_folder(sink) as folder:
            assert folder is not None
            carried = source.carried(saved.ends, sink, chunk, show_progress)
            new = _loaded(saved, device)
            Stream(new, source, sink, folder, saved.ends.unit_in, carried, device, executor).run(overwrite)
            shutil.rmtree(folder)
    return sink.switch(carried, saved.about["metric"]) if saved.about["direction"] == "gallery" else ""


# Maps as files


def _ends(pairs: Pairs) -> Ends:
    return Ends(
        d_in=pairs.old.shape[1],
        d_side=0 if pairs.side is None else pairs.side.shape[1],
        d_out=pairs.new.shape[1],
        unit_in=is_unit(pairs.old),
        unit=is_unit(pairs.new),
        from_space=pairs.old_space,
        to_space=pairs.new_space,
        side_space=pairs.side_space,
        dtype=pairs.new_dtype,
    )


def _saved(function: Map, ends: Ends, comparison: Comparison) -> SavedMap:
    state, found = function.state(), comparison.candidates[function.name]
    scores = {
        name: f"{x.mean:.6g} ({x.low:.6g} .. {x.high:.6g})"
        for name in ("agreement", "in_gallery", "recall", "error", "top1", "reciprocal_rank", "mean_ap")
        if (x := getattr(found, name)) is not None
    }
    about = {name: str(getattr(comparison, name)) for name in ("direction", "metric", "fitted_on", "held_out")}
    tensors = {name: x.detach().cpu().contiguous().numpy() for name, x in state["tensors"].items()}
    return SavedMap(function.name, ends, state["width"], about | scores | {"version": version()}, tensors)


def _loaded(saved: SavedMap, device: torch.device) -> Map:
    ends, tensors = saved.ends, {name: torch.from_numpy(x).to(device) for name, x in saved.tensors.items()}
    sizes = {"d_in": ends.d_in, "d_side": ends.d_side, "d_out": ends.d_out, "unit": ends.unit, "width": saved.width}
    return Map.from_state({"name": saved.name, "tensors": tensors, "metric": saved.about["metric"]} | sizes)


def _check_options(method: str, metric: str, enough: float, backfill_seconds: float | None, **counts: int) -> str:
    """The method as it is called here."""
    allowed = {"auto": "auto"} | {name.lower(): name for name in METHODS}
    if method.lower() not in allowed:
        raise ValueError(f"method: must be one of {', '.join(allowed)}, got {method!r}")
    if metric not in METRICS:
        raise ValueError(f"metric: must be one of {', '.join(METRICS)}, got {metric!r}")
    if not 0 <= enough <= 1:
        raise ValueError(f"enough: must be a share, 0 .. 1, got {enough}")
    if backfill_seconds is not None and not 0 <= backfill_seconds < math.inf:
        raise ValueError(f"backfill_seconds: must be a time, got {backfill_seconds}")
    _check_counts(**counts)
    return allowed[method.lower()]


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")


def _check_files(
    direction: str,
    gallery: str | os.PathLike | None,
    out: str | os.PathLike | None,
    save_map: str | os.PathLike | None,
    dry_run: bool,
) -> None:
    """That what is asked for can be written, as far as arguments tell."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if direction == "queries" and not (gallery is out is None):
        raise ValueError("gallery, out: must be left out for queries, which leave the gallery alone")
    if direction == "queries" and save_map is None and not dry_run:
        raise ValueError("save_map: is needed for queries unless dry_run, got None")
    if (gallery is None or out is None) and not (dry_run or (save_map is not None and gallery is out is None)):
        raise ValueError("gallery, out: both are needed unless dry_run or save_map alone, got None")
    if save_map is None:
        return
    path = Path(save_map)
    if dry_run or path.suffix != ".safetensors":
        raise ValueError(f"save_map: must be NAME.safetensors, and not for dry_run, which writes nothing, got {path}")
    require("safetensors", "gallery")


def _check_backfill(
    gallery: str | os.PathLike | None,
    gallery_size: int | None,
    backfill_list: str | os.PathLike | None,
    dry_run: bool,
) -> None:
    """That the size and the list are wanted where they can be had."""
    if gallery_size is not None:
        _check_counts(gallery_size=gallery_size)
        if gallery is not None:
            raise ValueError(f"gallery_size: must be left out for a gallery that is given, got {gallery_size}")
    if backfill_list is None:
        return
    path = Path(backfill_list)
    if path.suffix != ".csv" or gallery is None or dry_run:
        raise ValueError(f"backfill_list: must be NAME.csv, with a gallery and without dry_run, got {path}")


def _check_out(sink: Sink, gallery: Input, inputs: Sequence[str | os.PathLike | None], overwrite: bool) -> None:
    path = sink.path if isinstance(sink, arrays.NewFile) else None
    if (
        path is not None
        and path.exists()
        and any(x is not None and Path(x).exists() and path.samefile(x) for x in inputs)
    ):
        raise ValueError(f"out: must not be a file that is read, got {path}")
    sink.check(gallery.source, gallery.names, overwrite)


def _fitted(
    pairs: Pairs, settings: dict, device: torch.device, folder: Path | None, shown: bool
) -> tuple[dict[str, Map], Comparison]:
    """Maps and their comparison, from the folder if the same pairs and settings were fitted there."""
    tensors = [x for x in (pairs.old, pairs.new, pairs.side, pairs.labels) if x is not None]
    machine = [torch.__version__, torch.get_num_threads(), device.type]
    about = [settings, machine, [list(x.shape) for x in tensors], digest(*tensors), pairs.new_dtype]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    kept = None if folder is None else folder / f"maps-{key}.pt"
    if kept is not None and kept.exists():
        state = torch.load(kept, map_location=device, weights_only=True)
        return {m["name"]: Map.from_state(m) for m in state["maps"]}, _comparison(json.loads(state["comparison"]))
    checkpoint = None if folder is None else folder / f"h-{key}.pt"
    options = {name: settings[name] for name in ("direction", "metric", "width", "steps", "seed")}
    to_fit, held_out = split(pairs, settings["seed"])
    maps = fit(to_fit.to(device), settings["methods"], checkpoint=checkpoint, show_progress=shown, **options)
    search = {name: settings[name] for name in ("direction", "metric", "gallery_size", "method")}
    comparison = compare(maps, held_out.to(device), len(to_fit), **search, show_progress=shown)
    if kept is not None:
        with replacing(kept) as file:
            comparison_text = json.dumps(asdict(comparison))
            torch.save({"maps": [m.state() for m in maps.values()], "comparison": comparison_text}, file)
    return maps, comparison


def _comparison(state: dict) -> Comparison:
    """What ``asdict`` and JSON made of one."""

    def read(x: Any) -> Any:
        if isinstance(x, dict):
            x = {name: read(value) for name, value in x.items()}
            kinds: tuple[Any, ...] = (Interval, Candidate, Share, MixedPlan)
            return next((kind(**x) for kind in kinds if set(x) == set(kind.__dataclass_fields__)), x)
        return tuple(map(read, x)) if isinstance(x, list) else x

    return Comparison(**read(state))
