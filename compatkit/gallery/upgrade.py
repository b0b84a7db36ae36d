"""From an old model's gallery to a new model's, without the images: what ``python -m compatkit upgrade`` does.

Of some items both embeddings are known. On most of these *pairs* the maps of ``maps`` are fitted, on the rest they are
compared and priced, and one is advised, or none. The gallery then goes through it in a stream, and an interrupted
upgrade goes on where it stopped.

    upgrade("old.npy", "new.npy", "gallery.npy", "upgraded.npy")

The other way round the gallery stays as it is, and queries of the new model are mapped to the old one, by a map that is
saved; ``apply_map`` puts a source through a map that is saved.

    upgrade("old.npy", "new.npy", direction="queries", save_map="queries.safetensors")

Files and tables are as in ``sources``. Nothing is ever written to any of them but to the new gallery, which appears
whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..devices import check_device, default_device
from ..encoders import digest
from ..extras import require
from ..files import locked, replacing, write_atomically
from ..intervals import Interval
from ..progress import progress
from . import arrays
from .advice import recommend
from .arrays import ArrayFile
from .backfill import MixedPlan, Ranking, Share, write_list
from .comparison import Candidate, Comparison, compare
from .embeddings import is_unit
from .map_files import Ends, SavedMap, load_map, version
from .maps import DIRECTIONS, METHODS, NETWORKS, Map, Pairs, fit, split
from .metrics import METRICS
from .pairs import Input, Sources, as_float, join_pairs, rows_of, side_of
from .sources import Carried, Column, Names, Sink, Source, open_sink

SAVE_SECONDS = 5.0  # of work that an interruption may cost
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    dry_run: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], object] = print,
    show_progress: bool = True,
) -> Upgrade:
    """Compare the maps from old to new embeddings, choose one, and put the gallery through it.

    What is done is kept in a hidden folder beside ``out`` (for PostgreSQL: in the working directory) until ``out`` is
    whole: an interrupted call, made again with the same sources and settings, goes on where it stopped and ends with
    the same bits, on the same device, threads and torch version. A file counts as the same by name, size and time of
    change, a table of LanceDB by its version, one of PostgreSQL by its ids and the transactions that wrote them.

    Args:
        old, new: files or tables of the pairs, see ``pairs.read_pairs``.
        gallery: what is to be transformed, see ``sources``; None only compares.
        out: what is to be made. Of a table into a table all columns but the embeddings are as they were, except that
            PostgreSQL gets ids and embeddings; an array goes into a file of the same suffix or, with its ids, into a
            table. The numbers have the type of those in ``new``.
        direction: "gallery" maps old embeddings to new ones; "queries" new ones to old ones: the gallery and its index
            stay as they are, and only a map is saved. Queries have no side-information.
        save_map: a file NAME.safetensors for the map that is used, see ``map_files``. It is written last; with it
            gallery and out may be left out.
        side, labels: of the pairs, see ``pairs.read_pairs``.
        gallery_side: stands in place of the gallery's column ``side``; by id where both have ids.
        id_column, vector_column, side_column, label_column: names of the columns of all tables, see ``sources.Names``.
        new_vector_column: of ``new``, where it has another name there.
        require_all: refuse pairs whose ids are not everywhere, and side-information of more than the gallery.
        method: "auto" does as ``advice.recommend`` says, which may be to write nothing; one of ``METHODS`` is used
            whatever the comparison says. All are compared, but residual and h only if they may be chosen, since fitting
            them takes minutes.
        metric: that the gallery is searched with, one of ``metrics.METRICS``.
        enough, backfill_seconds: see ``advice.recommend``.
        gallery_size: of a gallery that is not given; agreement is extrapolated to it.
        backfill_list: a file NAME.csv for the ids of the gallery (its rows, from 0, without ids), the item near which
            the map fits worst first: the order to back-fill in. Without it "auto" maps no gallery of which a part is
            to be back-filled. It is written after ``out``.
        width, steps: see ``fit``.
        seed: see ``fit``; it also draws the held-out pairs.
        chunk: rows at a time: memory is bounded by it, the pairs and the ids, whatever the gallery's size.
        device: of the arithmetic; None takes a GPU if there is one.
        dry_run: only compare.
        overwrite: replace the files ``out``, ``save_map`` and ``backfill_list``; folders and tables are never
            replaced.
        tell: gets the table and the advice before the gallery is read.
        show_progress: of the fit and of the transformation.

    Raises:
        ValueError: bad input, such as rows, ids or widths that do not match, another space or length than that of the
            pairs, NaN (with the number of the row), an ``out`` that is an input, or exists. ``out`` is as it was
            before, and nothing else is left.
        OSError: a full disk, a database that does not answer, an ``out`` that has appeared meanwhile. What is done is
            kept, and the same call goes on.
    """
    method = _check_options(method, metric, enough, backfill_seconds, width=width, steps=steps, chunk=chunk)
    _check_files(direction, gallery, out, save_map, dry_run, overwrite)
    _check_backfill(gallery, gallery_size, backfill_list, dry_run, overwrite)
    if direction == "queries" and not (side is gallery_side is side_column is backfill_seconds is None):
        raise ValueError(
            "side, gallery_side, side_column, backfill_seconds: are of a gallery, which queries leave alone"
        )
    methods = [name for name in METHODS if name not in NETWORKS or method in ("auto", name)]
    check_device(device := device or default_device())
    device = torch.device(device)
    with Sources(Names(id_column, vector_column, side_column, label_column), new_vector_column) as sources:
        urls = {
            "old": old,
            "new": new,
            "side": side,
            "labels": labels,
            "gallery": gallery,
            "gallery_side": gallery_side,
        }
        inputs = {name: sources(name, url) for name, url in urls.items() if url is not None}
        of_gallery, beside = inputs.pop("gallery", None), inputs.pop("gallery_side", None)
        pairs = join_pairs(**inputs, require_all=require_all, tell=tell)
        ends = _ends(pairs.reversed() if direction == "queries" else pairs)
        source = None if of_gallery is None else _Gallery.open(ends, "the pairs", of_gallery, beside, require_all)
        sink = None if dry_run or out is None or source is None else open_sink(out)
        if sink is not None and source is not None:
            _check_out(sink, source.input, [url for url in urls.values() if url is not None], overwrite)
        size = gallery_size if source is None else source.embedding.rows
        settings = dict(methods=methods, direction=direction, metric=metric, width=width, steps=steps, seed=seed)
        settings |= {"gallery_size": size}
        with _journal(sink or (None if save_map is None else arrays.NewFile(Path(save_map)))) as folder:
            maps, comparison = _fitted(pairs, settings, device, folder, show_progress)
            advice = recommend(comparison, enough=enough, backfill_seconds=backfill_seconds)
            wanted = advice.method if not advice.share or backfill_list is not None else None
            chosen = wanted if method == "auto" else method
            mixed = "" if comparison.mixed is None else comparison.mixed.table(backfill_seconds)
            tell("\n".join(filter(None, [comparison.table(), mixed, advice.text])))
            done = Upgrade(comparison, chosen, advice.text, None, share=advice.share)
            held_out = None if backfill_list is None else split(pairs, seed)[1].to(device)
            if sink is not None and source is not None and folder is not None and chosen is not None:
                del pairs  # frees their memory for the gallery
                carried = source.carried(ends, sink, chunk, show_progress)
                _Stream(maps[chosen], source, sink, folder, ends.unit_in, carried, device).run(overwrite)
                done = replace(done, out=out, switch=sink.switch(carried, metric))
            if backfill_list is not None and source is not None and held_out is not None:
                ranking = Ranking.of(maps[chosen or comparison.choice], held_out, metric)
                source.list_worst(backfill_list, ranking, chunk, device)
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
    overwrite: bool = False,
    show_progress: bool = True,
) -> str:
    """Put a gallery, or queries, through a map that ``upgrade`` saved, in a stream that goes on where it was
    interrupted.

    Args:
        map: the file.
        gallery: what is to be transformed, of the space that the map is for.
        out, gallery_side, id_column, vector_column, side_column, require_all, chunk, device, overwrite, show_progress:
            as in ``upgrade``.

    Returns:
        How to search what was written in place of the gallery; empty for a map of queries.

    Raises:
        ValueError, OSError: as ``upgrade``; a file that is not a map, or damaged.
    """
    _check_counts(chunk=chunk)
    check_device(device := device or default_device())
    device = torch.device(device)
    saved = load_map(map)
    with Sources(Names(id_column, vector_column, side_column)) as sources:
        beside = None if gallery_side is None else sources("gallery_side", gallery_side)
        source = _Gallery.open(saved.ends, "the map", sources("gallery", gallery), beside, require_all)
        sink = open_sink(out)
        _check_out(sink, source.input, [map, gallery, gallery_side], overwrite)
        with _journal(sink) as folder:
            assert folder is not None
            carried = source.carried(saved.ends, sink, chunk, show_progress)
            _Stream(_loaded(saved, device), source, sink, folder, saved.ends.unit_in, carried, device).run(overwrite)
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
    return Map.from_state({"name": saved.name, "tensors": tensors} | sizes)


# The gallery, in a stream


@dataclass(frozen=True, eq=False)
class _Gallery:
    """What is to be transformed, and where its side-information is."""

    input: Input
    embedding: Column
    side: Column | None
    side_source: Source | None
    places: np.ndarray | None
    """the row of each item in ``side``; None where these are the same"""
    made_from: str

    @classmethod
    def open(cls, ends: Ends, of: str, gallery: Input, beside: Input | None, require_all: bool) -> _Gallery:
        """The columns, after everything was checked that can be without reading all vectors.

        ``of`` says for messages where ``ends`` come from.
        """
        embedding = gallery.vectors()
        _check_width("gallery", embedding.width, ends.d_in, of)
        gallery.source.verify()
        space = gallery.source.space
        _check_space("gallery", space, ends.from_space, of)
        if isinstance(gallery.source, ArrayFile) and space and not ends.to_space:
            raise ValueError(
                f"gallery: names its space, and what is made of it could not, for {of} came without a name of the new "
                "one; save new with Embeddings.save"
            )
        made_from = space or ends.from_space
        found = side_of(gallery, beside)
        if not ends.d_side:
            if beside is not None:
                raise ValueError(f"gallery_side: must be None, for {of} came without side-information")
            return cls(gallery, embedding, None, None, None, made_from)
        if found is None:
            name = gallery.source.name
            raise ValueError(f"gallery_side: is needed, for {of} came with side-information and {name} has none")
        side = replace(found[0], argument="gallery_side").vectors(found[1])
        _check_width("gallery_side", side.width, ends.d_side, of)
        _check_space("gallery_side", beside.source.space if beside is not None else "", ends.side_space, of)
        places = _places_of_side(gallery, found[0], embedding.rows, side.rows, require_all)
        return cls(gallery, embedding, side, found[0].source, places, made_from)

    def carried(self, ends: Ends, sink: Sink, chunk: int, shown: bool) -> Carried:
        dtype = sink.dtype(np.dtype(ends.dtype))
        return Carried(self.input.source, self.input.names, ends.to_space, self.made_from, dtype, chunk, shown)

    def state(self) -> list:
        return [one.state() for one in (self.input.source, self.side_source) if one is not None]

    @contextmanager
    def aligned_side(self, folder: Path) -> Iterator[Column | None]:
        """Side-information in the order of the gallery: where it has another one, in a file in the folder."""
        if self.side is None or self.places is None:
            yield self.side
            return
        assert self.side.dtype is not None
        target = np.full(self.side.rows, -1)
        target[self.places] = np.arange(len(self.places))
        path, row = folder / "side.npy", 0
        arrays.create(path, self.embedding.rows, self.side.width, self.side.dtype)
        os.truncate(path, path.stat().st_size + self.embedding.rows * self.side.width * self.side.dtype.itemsize)
        for block in self.side.blocks(0, arrays.ROWS):
            places = target[row : row + len(block)]
            np.lib.format.open_memmap(path, "r+")[places[places >= 0]] = block[places >= 0]
            row += len(block)
        with arrays.opened(path) as side:
            yield side

    def list_worst(self, path: str | os.PathLike, ranking: Ranking, chunk: int, device: torch.device) -> None:
        """Write the order in which its items are to be back-filled."""
        errors, row = np.empty(self.embedding.rows, np.float32), 0
        for block in self.embedding.blocks(0, chunk):
            old = torch.from_numpy(as_float("gallery", block, row)).to(device)
            errors[row : row + len(block)] = ranking(old).cpu().numpy()
            row += len(block)
        ids = self.input.ids()
        write_list(path, np.arange(row) if ids is None else ids, errors)


def _places_of_side(gallery: Input, side: Input, rows: int, side_rows: int, require_all: bool) -> np.ndarray | None:
    """The row of each item of the gallery in the side-information; None where these are the same."""
    if gallery.source is side.source:
        return None
    ids, others = gallery.ids(), replace(side, argument="gallery_side").ids()
    if ids is None or others is None:
        if side_rows != rows:
            raise ValueError(
                f"gallery_side: must have as many rows as the gallery, {rows}, where not both have ids, got {side_rows}"
            )
        return None
    places = rows_of("gallery_side", others, ids, "the gallery")
    if (places < 0).any():
        missing = ids[places < 0]
        raise ValueError(f"gallery_side: must have all items of the gallery, {len(missing)} miss, such as {missing[0]}")
    if require_all and side_rows != rows:
        raise ValueError(f"gallery_side: ids must all match (--require-all), got {side_rows} for {rows} of the gallery")
    return None if side_rows == rows and (places == np.arange(rows)).all() else places


def _check_width(name: str, width: int, wanted: int, of: str) -> None:
    if width != wanted:
        raise ValueError(f"{name}: must have the width of {of}, {wanted}, got {width}")


def _check_space(name: str, space: str, wanted: str, of: str) -> None:
    if space and wanted and space != wanted:
        raise ValueError(f"{name}: must be of the space of {of}, {wanted!r}, got {space!r}")


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
    overwrite: bool,
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
    if path.exists() and not overwrite:
        raise ValueError(f"save_map: {path} exists already; name another, or allow overwrite (--overwrite)")
    require("safetensors", "gallery")


def _check_backfill(
    gallery: str | os.PathLike | None,
    gallery_size: int | None,
    backfill_list: str | os.PathLike | None,
    dry_run: bool,
    overwrite: bool,
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
    if path.exists() and not overwrite:
        raise ValueError(f"backfill_list: {path} exists already; name another, or allow overwrite (--overwrite)")


def _check_out(sink: Sink, gallery: Input, inputs: Sequence[str | os.PathLike | None], overwrite: bool) -> None:
    path = sink.path if isinstance(sink, arrays.NewFile) else None
    if (
        path is not None
        and path.exists()
        and any(x is not None and Path(x).exists() and path.samefile(x) for x in inputs)
    ):
        raise ValueError(f"out: must not be a file that is read, got {path}")
    sink.check(gallery.source, gallery.names, overwrite)


@contextmanager
def _journal(sink: Sink | arrays.NewFile | None) -> Iterator[Path | None]:
    """The hidden folder for what is done so far, for this process alone; None for None. It goes where the input is
    refused, and stays where the same command may go on."""
    if sink is None:
        yield None
        return
    folder = sink.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "ab") as lock, locked(lock.fileno()):
            for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
                left.unlink()
            yield folder
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except (OSError, RuntimeError) as error:
        full = _full_disk(error)
        if full is None:
            raise
        raise OSError(
            full.errno,
            f"the disk of {folder.parent} is full ({full.strerror}). The old gallery is untouched and there is nothing "
            f"new at {sink.name}. With space made, the same command goes on; to give up, remove {folder}",
        ) from error


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error itself, or the one that it came from: ``torch.save`` raises RuntimeError."""
    while error is not None and not (isinstance(error, OSError) and error.errno in FULL):
        error = error.__cause__ or error.__context__
    return error


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
    options = {name: settings[name] for name in ("direction", "width", "steps", "seed")}
    to_fit, held_out = split(pairs, settings["seed"])
    maps = fit(to_fit.to(device), settings["methods"], checkpoint=checkpoint, show_progress=shown, **options)
    search = {name: settings[name] for name in ("direction", "metric", "gallery_size")}
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


@dataclass(frozen=True, eq=False)
class _Stream:
    """The gallery on its way through a map, into a partial file whose first ``rows`` are safe."""

    map: Map
    gallery: _Gallery
    sink: Sink
    folder: Path
    old_unit: bool
    carried: Carried
    device: torch.device

    def run(self, overwrite: bool) -> None:
        vectors = self.folder / "vectors.npy"
        self._check_space_left(vectors)
        state = self.gallery.state()
        with self.gallery.aligned_side(self.folder) as side:
            self._write(vectors, side, state)
        if self.gallery.state() != state:
            raise ValueError(f"gallery: {self.gallery.input.source.name} has changed meanwhile; run the command again")
        if self.sink.exists() and not overwrite:
            raise FileExistsError(
                f"out: {self.sink.name} has appeared meanwhile; move it and run the same command again"
            )
        self.sink.write(vectors, self.carried)

    def _write(self, vectors: Path, side: Column | None, state: list) -> None:
        rows, dtype, chunk = self.gallery.embedding.rows, self.carried.dtype, self.carried.chunk
        journal = _Journal(self.folder / "rows.json", self._key(state))
        done = journal.rows if vectors.exists() else 0
        if not done:
            journal.forget()  # first: it may be of a file that is gone
            arrays.create(vectors, rows, self.map.d_out, dtype)
        with open(vectors, "r+b") as file:
            file.truncate(arrays.header_size(file) + done * self.map.d_out * dtype.itemsize)
            file.seek(0, os.SEEK_END)
            chunks = progress(math.ceil(done / chunk), math.ceil(rows / chunk), "gallery", "chunk", self.carried.shown)
            for _, block in zip(chunks, self._blocks(done, side), strict=True):
                file.write(block.data)
                done += len(block)
                journal.note(file, done)
            journal.note(file, done, now=True)

    def _blocks(self, row: int, side: Column | None) -> Iterator[np.ndarray]:
        """New rows from ``row`` on. Chunks are the same wherever one starts, for their size may change last bits."""
        sides = iter(()) if side is None else side.blocks(row, self.carried.chunk)
        for block in self.gallery.embedding.blocks(row, self.carried.chunk):
            old = self._checked("gallery", block, row, self.old_unit)
            beside = None if side is None else self._checked("gallery_side", next(sides), row)
            mapped = self.map(old, beside).cpu()
            _check_unit("gallery, transformed", mapped, row, self.map.unit)
            yield as_float("gallery, transformed", mapped.numpy(), row, self.carried.dtype)
            row += len(block)

    def _checked(self, name: str, block: np.ndarray, row: int, unit: bool = False) -> Tensor:
        """As float32 on the device, if all are finite and, for ``unit``, of length 1."""
        values = torch.from_numpy(as_float(name, block, row))
        _check_unit(name, values, row, unit)
        return values.to(self.device)

    def _key(self, state: list) -> list:
        function = self.map.state()
        fitted, dtype = digest(*function.pop("tensors").values()), str(self.carried.dtype)
        return [function, fitted, state, self.carried.chunk, dtype, torch.get_num_threads(), str(self.device)]

    def _check_space_left(self, vectors: Path) -> None:
        size = self.gallery.embedding.rows * self.map.d_out * self.carried.dtype.itemsize
        needed = size * (1 + self.sink.twice) - (vectors.stat().st_size if vectors.exists() else 0)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} are free")


def _check_unit(name: str, values: Tensor, row: int, unit: bool) -> None:
    """For ``unit``: all rows have length 1."""
    if unit and not is_unit(values):
        lengths = values.norm(dim=1)
        odd = int((lengths - 1).abs().argmax())
        raise ValueError(f"{name}: all rows must have length 1 as in the pairs, row {row + odd} has {lengths[odd]:.3g}")


class _Journal:
    """How many rows of a partial file are safe, for the work that ``key`` (JSON) describes."""

    def __init__(self, path: Path, key: list):
        self.path, self.key, self.rows, self.noted = path, key, 0, time.monotonic()
        if path.exists():
            state = json.loads(path.read_bytes())
            self.rows = state["rows"] if state["key"] == key else 0

    def note(self, file: BinaryIO, rows: int, now: bool = False) -> None:
        """Make ``rows`` of the open file safe and say so, now or if it is time to."""
        if now or time.monotonic() - self.noted > SAVE_SECONDS:
            file.flush()
            os.fsync(file.fileno())  # before it is said, or a power cut would leave rows that are not there
            write_atomically(self.path, json.dumps({"key": self.key, "rows": rows}))
            self.rows, self.noted = rows, time.monotonic()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.rows = 0
