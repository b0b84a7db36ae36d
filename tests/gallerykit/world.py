"""Two models, a gallery, and every kind of store to put it into."""

import os
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from qdrant_client import models

from gallerykit import maps, qdrant_store, store
from gallerykit.store import Gallery, as_vectors
from gallerykit.stores import open_source

ROOT = Path(__file__).parents[2]
N, ROWS, FRAGMENT = 300, 260, 70
KINDS = ("npy", "parquet", "folder", "arrow", "lance", "postgresql", "qdrant")
MADE = tuple(kind for kind in KINDS if kind != "arrow")  # which is only read
TABLES = ("parquet", "folder", "lance")
IDS = np.random.default_rng(9).permutation(ROWS) * 3


def latent(n, seed):
    return np.random.default_rng(seed).standard_normal((n, 5))


def old_model(z):
    return (z @ np.random.default_rng(1).standard_normal((5, 6)) + 0.3).astype(np.float32)


def new_model(z):
    return np.tanh(z @ np.random.default_rng(2).standard_normal((5, 7)) / 4).astype(np.float32)


def side_model(z):
    return (z @ np.random.default_rng(3).standard_normal((5, 2))).astype(np.float32)


def pairs(n=N, seed=1, **more):
    z = latent(n, seed)
    return maps.Pairs(torch.from_numpy(old_model(z)), torch.from_numpy(new_model(z)), **more)


def noisy(n=600, noise=0.3, seed=1, labelled=True, width=12):
    """Pairs in six classes whose old embeddings know less."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(6, (n,), generator=generator)
    new = torch.randn(6, width, generator=generator)[labels] + 0.7 * torch.randn(n, width, generator=generator)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    old = (new + noise * torch.randn(n, width, generator=generator)) @ turn
    return maps.Pairs(old, new, labels=labels if labelled else None)


def small_fragments(patch):
    """Of 70 rows, so that the gallery has four."""
    patch.setattr(store, "FRAGMENT_ROWS", FRAGMENT)


def table(x=None, ids=IDS, **columns):
    """Ids, notes, vectors and other columns."""
    x = old_model(latent(ROWS, 4)) if x is None else x
    found = {"id": pa.array(ids), "note": pa.array([f"n{i}" for i in range(len(x))]), "embedding": as_vectors(x)}
    return pa.table(found | {name: as_vectors(np.asarray(value)) for name, value in columns.items()})


class World:
    """Stores of each kind in one folder, a database and a local Qdrant."""

    def __init__(self, folder, database):
        self.folder, self.database = folder, database

    def url(self, kind, name):
        of_files = {"npy": ".npy", "parquet": ".parquet", "folder": "", "arrow": ".arrow"}
        if kind in of_files:
            return str(self.folder / f"{name}{of_files[kind]}")
        if kind == "postgresql":
            return f"{self.database}#{name}"
        return f"{kind}:{self.folder / kind}#{name}"

    def put(self, kind, name, rows):
        """Write a table into a store and return its address."""
        url, path, x = self.url(kind, name), self.folder / name, vectors(rows["embedding"])
        if kind == "npy":
            np.save(url, x)
        elif kind == "parquet":
            pq.write_table(rows, url, row_group_size=FRAGMENT)
        elif kind == "folder":
            path.mkdir()
            for i, start in enumerate((0, 0, 110)):  # the first one is empty
                pq.write_table(rows[start : (0, 110, len(rows))[i]], path / f"{'abc'[i]}.parquet")
        elif kind == "arrow":
            with pa.ipc.new_file(url, rows.schema) as writer:
                writer.write_table(rows, max_chunksize=90)
        elif kind == "lance":
            db = lancedb.connect(self.folder / "lance")
            made = db.create_table(name, rows[:FRAGMENT])
            for start in range(FRAGMENT, len(rows), FRAGMENT):
                made.add(rows[start : start + FRAGMENT])
        elif kind == "postgresql":
            with psycopg.connect(self.database) as connection, connection.cursor() as cursor:
                key = "text" if rows["id"].type == pa.string() else "bigint"
                cursor.execute(f"CREATE TABLE {name} (note text, id {key} PRIMARY KEY, embedding vector({x.shape[1]}))")
                values = zip(rows["note"].to_pylist(), rows["id"].to_pylist(), map(str, x.tolist()), strict=True)
                cursor.executemany(f"INSERT INTO {name} VALUES (%s, %s, %s)", [*values])
        else:
            client = qdrant_store.client_at(str(self.folder / kind))
            size = models.VectorParams(size=x.shape[1], distance=models.Distance.EUCLID)
            client.create_collection(name, vectors_config={"embedding": size})
            notes = [{"note": note} for note in rows["note"].to_pylist()]
            points = models.Batch(ids=rows["id"].to_pylist(), vectors={"embedding": x.tolist()}, payloads=notes)
            client.upsert(name, points)
        return url


def vectors(column):
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(column.flatten()).reshape(len(column), -1)


def read(url, role="vector"):
    """The vectors of a store, in its own order."""
    return np.concatenate([*Gallery("a", open_source(url)).blocks(role, 100)])


def by_id(url):
    """{id: vector}; of arrays by the ids that their rows have."""
    gallery = Gallery("a", open_source(url))
    ids = IDS if gallery.ids is None else gallery.ids
    return dict(zip(ids.tolist(), read(url), strict=True))


def content(url):
    """All rows of a store."""
    source = open_source(url)
    return [row for f in source.fragments() for b in source.read(f, source.schema.names, 50) for row in b.to_pylist()]


def program(script, *arguments, cwd, **options):
    """Run Python in a process of its own, with fragments as small as here."""
    first = f"import signal, sys\nfrom gallerykit import store\nstore.FRAGMENT_ROWS = {FRAGMENT}\n"
    command = [sys.executable, "-c", first + script, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        text=True,
        stderr=subprocess.PIPE,
        **options,
    )
