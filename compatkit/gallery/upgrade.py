"""From an old model's gallery to a new model's, without the images: what ``python -m compatkit upgrade`` does.

Of some items both embeddings are known. On most of these *pairs* the maps of ``maps`` are fitted, on the rest they are
compared and priced, and one is advised, or none. The gallery then goes through it in a stream, and an interrupted
upgrade goes on where it stopped.

    upgrade("old.npy", "new.npy", "gallery.npy", "upgraded.npy")

Files are as in ``sources``. Nothing is ever written to any of them but to the new gallery, which appears whole.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..devices import check_device, default_device
from ..encoders import digest
from ..files import locked, replacing, write_atomically
from ..intervals import Interval
from ..progress import progress
from . import sources
from .embeddings import is_unit
from .maps import METHODS, Candidate, Comparison, Map, Pairs, compare, fit, recommend, split

FEWEST_PAIRS = 100
SAVE_SECONDS = 5.0  # of work that an interruption may cost
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Upgrade:
    """What ``upgrade`` found and did.

    ``method`` is what ``recommend`` or the caller chose, None for none; ``out`` the new gallery, None if none was
    written.
    """

    comparison: Comparison
    method: str | None
    advice: str
    out: Path | None


def upgrade(
    old: str | os.PathLike,
    new: str | os.PathLike,
    gallery: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    *,
    side: str | os.PathLike | None = None,
    gallery_side: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    method: str = "auto",
    enough: float = 0.5,
    backfill_seconds: float | None = None,
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

    What is done is kept in a hidden folder beside ``out`` until ``out`` is whole: an interrupted call, made again with
    the same files and settings, goes on where it stopped and ends with the same bits, on the same device, threads and
    torch version. A file counts as the same by name, size and time of change.

    Args:
        old, new: files of the pairs, see ``read_pairs``.
        gallery: file of what is to be transformed; None only compares.
        out: of the same suffix as ``gallery``; all columns but the embeddings are as they were, and the numbers have
            the type of those in ``new``.
        side, labels: files of the pairs, see ``read_pairs``.
        gallery_side: stands in place of the gallery's column ``side``.
        method: "auto" does as ``recommend`` says, which may be to write nothing; one of ``METHODS`` is used whatever
            the comparison says. All are compared, but h only if it may be chosen, since fitting it takes minutes.
        enough, backfill_seconds: see ``recommend``.
        width, steps: see ``fit``.
        seed: see ``fit``; it also draws the held-out pairs.
        chunk: rows at a time: memory is bounded by it and the pairs, whatever the gallery's size.
        device: of the arithmetic; None takes a GPU if there is one.
        dry_run: only compare.
        overwrite: replace ``out``.
        tell: gets the table and the advice before the gallery is read.
        show_progress: of the fit and of the transformation.

    Raises:
        ValueError: bad input, such as rows, ids or widths that do not match, another space or length than that of the
            pairs, NaN (with the number of the row), an ``out`` that is an input, or exists. ``out`` is as it was
            before.
        OSError: a full disk; likewise.
    """
    method = _check_options(method, enough, backfill_seconds, width=width, steps=steps, chunk=chunk)
    target = None if dry_run or gallery is None or out is None else (Path(gallery), Path(out))
    if target is None and not dry_run:
        raise ValueError("gallery, out: both are needed unless dry_run, got None")
    methods = [name for name in METHODS if name != "h" or method in ("auto", "h")]
    check_device(device := device or default_device())
    device = torch.device(device)
    pairs = read_pairs(old, new, side=side, labels=labels)
    source = None if gallery is None else _Gallery.open(pairs, Path(gallery), gallery_side)
    if target is not None:
        _check_out(target[1], target[0], (gallery_side, old, new, side, labels), overwrite)
    settings = {"methods": methods, "width": width, "steps": steps, "seed": seed}
    with _journal(None if target is None else target[1]) as folder:
        maps, comparison = _fitted(pairs, settings, device, folder, show_progress)
        advised, advice = recommend(comparison, enough=enough, backfill_seconds=backfill_seconds)
        chosen = advised if method == "auto" else method
        tell(f"{comparison.table()}\n{advice}")
        if target is None or source is None or folder is None or chosen is None:
            written = None
        else:
            old_unit, dtype, new_space = is_unit(pairs.old), pairs.new_dtype, pairs.new_space
            del pairs  # frees their memory for the gallery
            stream = _Stream(maps[chosen], source, target[1], folder, np.dtype(dtype), old_unit, chunk, device)
            written = stream.run(new_space, overwrite, show_progress)
        if folder is not None:
            shutil.rmtree(folder)
    return Upgrade(comparison, chosen, advice, written)


# Pairs


def read_pairs(
    old: str | os.PathLike,
    new: str | os.PathLike,
    *,
    side: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
) -> Pairs:
    """Paired embeddings from files (see ``sources``), by id where both have ids and by order otherwise.

    Args:
        old, new: of the same items.
        side: side-information of the same items, in place of the column ``side`` of ``old``; without ids, in the order
            of ``old``.
        labels: integers or text, in place of a column ``label`` of ``old`` or ``new``; likewise.

    Raises:
        ValueError: unequal numbers of rows, ids that are not the same or not unique, NaN, or too few pairs.
    """
    ids = sources.read(old, "id")
    old_vectors, old_dtype = _matrix("old", old, "embedding")
    new_vectors, new_dtype = _matrix("new", new, "embedding")
    if len(old_vectors) < FEWEST_PAIRS:
        raise ValueError(f"old: at least {FEWEST_PAIRS} pairs are needed, got {len(old_vectors)}")
    _check_unique("old", ids)
    count = len(old_vectors)
    new_vectors = new_vectors[_places("new", sources.read(new, "id"), len(new_vectors), ids, count)]
    found: dict[str, Any] = {
        "old_space": sources.space(old),
        "new_space": sources.space(new),
        "new_dtype": str(new_dtype),
        "old_bytes": old_vectors.shape[1] * old_dtype.itemsize,
    }
    side_file, side_column = _side_of(old, side)
    if side_file is not None:
        values, dtype = _matrix("side", side_file, side_column)
        values = values[_places("side", sources.read(side_file, "id"), len(values), ids, count)]
        found |= {"side": values, "side_bytes": values.shape[1] * dtype.itemsize}
        found |= {"side_space": sources.space(side_file) if side is not None else ""}
    return Pairs(old_vectors, new_vectors, labels=_labels(labels, old, new, ids, count), **found)


def _side_of(embeddings: str | os.PathLike, side: str | os.PathLike | None) -> tuple[str | os.PathLike | None, str]:
    """The file and the column of side-information."""
    if side is not None:
        return side, "side" if Path(side).suffix == ".parquet" and sources.column(side, "side") else "embedding"
    own = Path(embeddings).suffix == ".parquet" and sources.column(embeddings, "side") is not None
    return (embeddings if own else None), "side"


def _labels(labels, old, new, ids: np.ndarray | None, count: int) -> Tensor | None:
    columns = [p for p in (old, new) if Path(p).suffix == ".parquet" and sources.column(p, "label") is not None]
    source = labels if labels is not None else next(iter(columns), None)
    if source is None:
        return None
    values = sources.read(source, "label")
    if values is None or values.ndim != 1 or values.dtype.kind not in "iuU":
        got = "none" if values is None else f"shape {values.shape} of {values.dtype}"
        raise ValueError(f"labels: {source} must hold one integer or text for each item, got {got}")
    values = values[_places("labels", sources.read(source, "id"), len(values), ids, count)]
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].reshape(-1))


def _matrix(name: str, path: str | os.PathLike, column: str) -> tuple[Tensor, np.dtype]:
    found = _vectors(name, path, column)
    stored = sources.read(path, column)
    assert stored is not None and found.dtype is not None  # or ``_vectors`` would have refused it
    values = torch.from_numpy(_cast(stored, np.float32))
    broken = (~values.isfinite().all(1)).nonzero()
    if len(broken):
        raise ValueError(f"{name}: row {int(broken[0])} (the first is 0) of {path} has NaN or infinity")
    return values, found.dtype


def _vectors(name: str, path: str | os.PathLike, column: str) -> sources.Column:
    found = sources.column(path, column)
    if found is None:
        raise ValueError(f"{name}: {path} has no column {column!r}")
    if not found.rows or not found.width or found.dtype is None or found.dtype.kind != "f":
        shape = f"{found.rows} rows of {found.width or 'no'} width, {found.dtype}"
        raise ValueError(f"{name}: {path} must hold floating-point vectors of items, got {shape}")
    return found


def _places(name: str, ids: np.ndarray | None, count: int, wanted: np.ndarray | None, n: int) -> np.ndarray:
    """The row of each item of ``old``, which has n and the ids ``wanted``, in a file of ``count`` rows with ``ids``."""
    if ids is None or wanted is None:
        if count != n:
            raise ValueError(f"{name}: must have as many rows as old, {n}, where not both have ids, got {count}")
        return np.arange(n)
    _check_unique(name, ids)
    if ids.dtype.kind != wanted.dtype.kind and "U" in (ids.dtype.kind, wanted.dtype.kind):
        raise ValueError(f"{name}: ids must be of the kind of old's, {wanted.dtype}, got {ids.dtype}")
    missing, others = np.setdiff1d(wanted, ids), np.setdiff1d(ids, wanted)
    if len(missing) or len(others):
        said = [f"{len(x)} {what}, such as {x[0]}" for x, what in ((missing, "missing"), (others, "others")) if len(x)]
        raise ValueError(f"{name}: ids must be those of old, got {' and '.join(said)}")
    order = ids.argsort()
    return order[np.searchsorted(ids, wanted, sorter=order)]


def _check_unique(name: str, ids: np.ndarray | None) -> None:
    values, counts = np.unique([] if ids is None else ids, return_counts=True)
    if len(counts) and counts.max() > 1:
        raise ValueError(f"{name}: ids must be unique, got {values[counts.argmax()]} {counts.max()} times")


# The gallery, in a stream


@dataclass(frozen=True, eq=False)
class _Gallery:
    """What is to be transformed, and where its side-information is."""

    path: Path
    embedding: sources.Column
    side: sources.Column | None
    made_from: str

    @classmethod
    def open(cls, pairs: Pairs, path: Path, side_path: str | os.PathLike | None) -> _Gallery:
        """The columns, after everything was checked that can be without reading all rows."""
        embedding = _vectors("gallery", path, "embedding")
        _check_width("gallery", embedding.width, pairs.old.shape[1])
        sources.verify(path)
        found = sources.space(path)
        _check_space("gallery", found, pairs.old_space)
        if path.suffix == ".npz" and not pairs.new_space:
            raise ValueError(
                "new: must name its space where the gallery does, so that the new one can; save it with Embeddings.save"
            )
        file, column = _side_of(path, side_path)
        if pairs.side is None:
            if side_path is not None:
                raise ValueError("gallery_side: must be None where the pairs have no side-information")
            return cls(path, embedding, None, found or pairs.old_space)
        if file is None:
            raise ValueError(f"gallery_side: is needed, for the pairs have side-information and {path} has none")
        side = _vectors("gallery_side", file, column)
        _check_width("gallery_side", side.width, pairs.side.shape[1])
        _check_space("gallery_side", sources.space(file) if side_path is not None else "", pairs.side_space)
        if side.rows != embedding.rows:
            raise ValueError(f"gallery_side: must have as many rows as the gallery, {embedding.rows}, got {side.rows}")
        _check_same_ids(path, Path(file))
        return cls(path, embedding, side, found or pairs.old_space)

    def key(self) -> list:
        files = {self.path, self.path if self.side is None else self.side.path}
        return sorted([str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files)


def _check_width(name: str, width: int, wanted: int) -> None:
    if width != wanted:
        raise ValueError(f"{name}: must have the width of the pairs, {wanted}, got {width}")


def _check_space(name: str, space: str, wanted: str) -> None:
    if space and wanted and space != wanted:
        raise ValueError(f"{name}: must be of the space of the pairs, {wanted!r}, got {space!r}")


def _check_same_ids(gallery: Path, side: Path) -> None:
    own, other = (sources.column(path, "id") for path in (gallery, side))
    if gallery == side or own is None or other is None:
        return
    row = 0
    for ids, others in zip(own.blocks(0, 65_536), other.blocks(0, 65_536), strict=True):
        if len(differ := np.flatnonzero(ids != others)):
            i = int(differ[0])
            raise ValueError(f"gallery_side: ids must be the gallery's, got {others[i]} for {ids[i]} in row {row + i}")
        row += len(ids)


def _check_options(method: str, enough: float, backfill_seconds: float | None, **counts: int) -> str:
    """The method as it is called here."""
    allowed = {"auto": "auto"} | {name.lower(): name for name in METHODS}
    if method.lower() not in allowed:
        raise ValueError(f"method: must be one of {', '.join(allowed)}, got {method!r}")
    if not 0 <= enough <= 1:
        raise ValueError(f"enough: must be a share, 0 .. 1, got {enough}")
    if backfill_seconds is not None and not 0 <= backfill_seconds < math.inf:
        raise ValueError(f"backfill_seconds: must be a time, got {backfill_seconds}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    return allowed[method.lower()]


def _check_out(out: Path, gallery: Path, others: Sequence[str | os.PathLike | None], overwrite: bool) -> None:
    if out.suffix != gallery.suffix:
        raise ValueError(f"out: must end as the gallery does, in {gallery.suffix}, got {out.name}")
    for path in (gallery, *others):
        if path is not None and out.exists() and out.samefile(path):
            raise ValueError(f"out: must not be a file that is read, got {out}")
    if out.exists() and not overwrite:
        raise ValueError(f"out: {out} exists already; name another, or allow overwrite (--overwrite)")


@contextmanager
def _journal(out: Path | None) -> Iterator[Path | None]:
    """A hidden folder beside ``out`` for what is done so far, for this process alone; None for None."""
    if out is None:
        yield None
        return
    folder = out.with_name(f".{out.name}.upgrade")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "ab") as lock, locked(lock.fileno()):
            for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
                left.unlink()
            yield folder
    except ValueError:
        if folder.exists() and {path.name for path in folder.iterdir()} == {"lock"}:
            shutil.rmtree(folder)
        raise
    except (OSError, RuntimeError) as error:
        full = _full_disk(error)
        if full is None:
            raise
        raise OSError(
            full.errno,
            f"the disk of {out} is full ({full.strerror}). The old gallery is untouched and there is nothing new at "
            f"{out}. With space made, the same command goes on; to give up, remove {folder}",
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
    options = {name: settings[name] for name in ("width", "steps", "seed")}
    to_fit, held_out = split(pairs, settings["seed"])
    maps = fit(to_fit.to(device), settings["methods"], checkpoint=checkpoint, show_progress=shown, **options)
    comparison = compare(maps, held_out.to(device), len(to_fit), show_progress=shown)
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
            kinds: tuple[Any, ...] = (Interval, Candidate)
            return next((kind(**x) for kind in kinds if set(x) == set(kind.__dataclass_fields__)), x)
        return tuple(map(read, x)) if isinstance(x, list) else x

    return Comparison(**read(state))


@dataclass(frozen=True, eq=False)
class _Stream:
    """The gallery on its way through a map, into a partial file whose first ``rows`` are safe."""

    map: Map
    gallery: _Gallery
    out: Path
    folder: Path
    dtype: np.dtype
    old_unit: bool
    chunk: int
    device: torch.device

    def run(self, space: str, overwrite: bool, shown: bool) -> Path:
        vectors = self.folder / "vectors.npy"
        self._check_space_left(vectors)
        try:
            self._write(vectors, shown)
        except ValueError:
            vectors.unlink(missing_ok=True)  # the rows written so far are of the gallery as it was
            raise
        if self.out.exists() and not overwrite:
            raise ValueError(f"out: {self.out} has appeared meanwhile; move it and run the same command again")
        made_from = self.gallery.made_from
        sources.finish(
            vectors, self.gallery.path, self.out, space=space, made_from=made_from, chunk=self.chunk, shown=shown
        )
        return self.out

    def _write(self, vectors: Path, shown: bool) -> None:
        rows, bytes_a_row = self.gallery.embedding.rows, self.map.d_new * self.dtype.itemsize
        journal = _Journal(self.folder / "rows.json", self._key())
        done = journal.rows if vectors.exists() else 0
        if not done:
            journal.forget()  # first: it may be of a file that is gone
            sources.create(vectors, rows, self.map.d_new, self.dtype)
        with open(vectors, "r+b") as file:
            file.truncate(sources.header_size(vectors) + done * bytes_a_row)
            file.seek(0, os.SEEK_END)
            first, last = math.ceil(done / self.chunk), math.ceil(rows / self.chunk)
            chunks = progress(first, last, "gallery", "chunk", shown)
            for _, block in zip(chunks, self._blocks(done), strict=True):
                file.write(block.data)
                done += len(block)
                journal.note(file, done)
            journal.note(file, done, now=True)

    def _blocks(self, row: int) -> Iterator[np.ndarray]:
        """New rows from ``row`` on. Chunks are the same wherever one starts, for their size may change last bits."""
        sides = iter(()) if self.gallery.side is None else self.gallery.side.blocks(row, self.chunk)
        for block in self.gallery.embedding.blocks(row, self.chunk):
            old = self._checked("gallery", block, row, self.old_unit)
            side = None if self.gallery.side is None else self._checked("gallery_side", next(sides), row)
            new = _cast(self.map(old, side).cpu().numpy(), self.dtype)
            self._checked("gallery, transformed", new, row, self.map.unit)
            yield new
            row += len(block)

    def _checked(self, name: str, block: np.ndarray, row: int, unit: bool = False) -> Tensor:
        """As float32 on the device, if all are finite and, for ``unit``, of length 1."""
        values = torch.from_numpy(_cast(block, np.float32)).to(self.device)
        broken = ~values.isfinite().all(1)
        if broken.any():
            raise ValueError(f"{name}: row {row + int(broken.int().argmax())} (the first is 0) has NaN or infinity")
        if unit and not is_unit(values):
            lengths = values.norm(dim=1)
            odd = int((lengths - 1).abs().argmax())
            raise ValueError(
                f"{name}: all rows must have length 1 as in the pairs, row {row + odd} has {lengths[odd]:.3g}"
            )
        return values

    def _key(self) -> list:
        state = self.map.state()
        fitted = digest(*state.pop("tensors").values())
        return [
            state,
            fitted,
            self.gallery.key(),
            self.chunk,
            str(self.dtype),
            torch.get_num_threads(),
            str(self.device),
        ]

    def _check_space_left(self, vectors: Path) -> None:
        size = self.gallery.embedding.rows * self.map.d_new * self.dtype.itemsize
        needed = size * (1 if self.out.suffix == ".npy" else 2) - (vectors.stat().st_size if vectors.exists() else 0)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} are free")


def _cast(x: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Too large numbers become infinite, which is found afterwards and told by row."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, dtype)


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
