"""Embeddings in Qdrant: ``qdrant:http://host:6333#collection``, ``qdrant:FOLDER#collection`` for its client's local
mode, and ``#collection#vector`` for one of several named vectors.

Points are read by scroll in the order of their ids and written by upsert. A new collection is filled under the name
``COLLECTION.carry`` and becomes visible as an alias; a new named vector is added to the points of the gallery's own
collection. Payloads are carried along. An API key comes from ``QDRANT_API_KEY``.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from compatkit.extras import require

from .store import ROLES, Fragment, Hidden, as_vectors, even_fragments, pa, vector_field, without_password

PAYLOAD = "payload"
"""The column of payloads, as JSON."""
DISTANCES = {"l2": "EUCLID", "cosine": "COSINE", "ip": "DOT"}
UPSERT = 256  # points at a time, what the server takes in a message
SCROLL = 1_024


def parts(url: str) -> tuple[str, str, str | None]:
    """Split an address into place, collection, and vector or None."""
    place, _, rest = url.removeprefix("qdrant:").partition("#")
    collection, _, vector = rest.partition("#")
    if not place or not collection or "@" in place:
        raise ValueError(f"{without_password(url)}: must be qdrant:URL#COLLECTION or qdrant:FOLDER#COLLECTION")
    return place if "://" in place else os.path.realpath(place), collection, vector or None


@cache
def client_at(place: str) -> Any:
    """One a process, since its local mode holds the folder."""
    client = require("qdrant_client", "qdrant").QdrantClient
    try:
        if "://" not in place:
            return client(path=place)
        return client(url=place, api_key=os.environ.get("QDRANT_API_KEY"))
    except Exception as error:
        raise ConnectionError(f"qdrant:{place}: {str(error).splitlines()[0]}") from error


def close() -> None:
    """Let go of the folders of local mode."""
    client_at.cache_clear()


class Collection:
    """The points of a collection. As ``store.Source``."""

    def __init__(self, url: str):
        place, self.collection, self.vector = parts(url)
        self.place, self.name = place, url.rpartition("#")[0] if self.vector else url
        self.client = client_at(place)
        if not self.client.collection_exists(self.collection):
            raise ValueError(f"{self.name}: there is no such collection")
        config = self.client.get_collection(self.collection).config.params.vectors
        named = config if isinstance(config, dict) else {"": config}
        key = parts(url)[2] or (ROLES["vector"] if ROLES["vector"] in named else next(iter(named)))
        if key not in named:
            raise ValueError(f"{self.name}: has no vector {key!r}, only {', '.join(named)}")
        self._key, self._column, self.distance = key, key or ROLES["vector"], named[key].distance
        self.vector = self._column
        self._ids = self._all_ids()
        self.rows, kind = len(self._ids), pa.int64() if all(isinstance(x, int) for x in self._ids) else pa.string()
        if len({type(x) for x in self._ids}) > 1:
            raise ValueError(f"{self.name}: ids must all be integers or all UUIDs, got both")
        vector = vector_field(self.vector, named[key].size, "float32")
        self.schema = pa.schema([pa.field("id", kind), vector, pa.field(PAYLOAD, pa.string())])

    def _all_ids(self) -> list:
        found: list = []
        after = None
        while True:
            records, after = self.client.scroll(
                self.collection, limit=SCROLL, offset=after, with_payload=False, with_vectors=False
            )
            found += [one.id for one in records]
            if after is None:
                return found

    def fragments(self) -> Sequence[Fragment]:
        even = even_fragments(self.rows, self.schema.field(1).type.list_size)
        return [Fragment(one.start, one.rows, self._ids[one.start]) for one in even]

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        after, left, payload = fragment.place, fragment.rows, PAYLOAD in columns
        vectors = ([self._key] if self._key else True) if self.vector in columns else False
        while left:
            records, after = self.client.scroll(
                self.collection, limit=min(left, size, SCROLL), offset=after, with_payload=payload, with_vectors=vectors
            )
            left -= len(records)
            found: dict[str, Any] = {"id": [one.id for one in records]}
            if payload:
                found[PAYLOAD] = [json.dumps(one.payload or {}, ensure_ascii=False) for one in records]
            if vectors:
                of_points = [one.vector.get(self._key) if self._key else one.vector for one in records]
                if None in (missing := [None if x is None else 1 for x in of_points]):
                    odd = records[missing.index(None)].id
                    raise ValueError(f"{self.name}: point {odd} has no vector {self.vector!r}")
                found[self._column] = as_vectors(np.array(of_points, np.float32))
            yield pa.record_batch(
                [found[name] for name in columns], schema=pa.schema([self.schema.field(name) for name in columns])
            )
            if not records or (left and after is None):
                raise ValueError(f"{self.name}: has changed while it was read; run the same command again")

    def state(self) -> Any:
        ids = hashlib.sha256(json.dumps(self._all_ids()).encode()).hexdigest()
        return [self.name, ids]


def open_source(url: str, columns: dict[str, str]) -> Collection:
    return Collection(url)


def open_target(url: str) -> NewVector | NewCollection:
    return NewVector(url) if parts(url)[2] else NewCollection(url)


class _Points(Hidden):
    """What both targets have in common: threads, and a hidden folder where the command runs."""

    threads = 1

    def __init__(self, url: str):
        self.place, self.collection, self.vector = parts(url)
        of_url = hashlib.sha256(url.encode()).hexdigest()[:12]
        super().__init__(url, Path.cwd() / f"{self.collection.replace('/', '_')}.{of_url}")

    @property
    def client(self) -> Any:
        return client_at(self.place)

    @property
    def models(self) -> Any:
        return require("qdrant_client.models", "qdrant")

    def distance(self) -> Any:
        """That of the old vectors where they are in Qdrant, too."""
        source = self.gallery.source
        return source.distance if isinstance(source, Collection) else self.models.Distance[DISTANCES[self.metric]]

    def rows_of(self, reader: Any) -> Iterator[tuple[list, np.ndarray, list[dict]]]:
        """Ids, vectors and other columns, some points at a time."""
        vector, key = self.gallery.columns["vector"], self.gallery.columns["id"]
        for batch in reader:
            for start in range(0, len(batch), UPSERT):
                part = batch.slice(start, UPSERT)
                block = np.asarray(part.column(vector).flatten()).reshape(len(part), -1)
                others = [name for name in part.schema.names if name not in (vector, key)]
                payloads = part.select(others).to_pylist() if others else [{} for _ in range(len(part))]
                if others == [PAYLOAD]:
                    payloads = [json.loads(one[PAYLOAD]) for one in payloads]
                yield part.column(key).to_pylist(), block, payloads


class NewCollection(_Points):
    """A new collection. As ``store.Target``."""

    @property
    def _hidden(self) -> str:
        return f"{self.collection}.carry"

    def check_new(self, overwrite: bool) -> None:
        names = [one.alias_name for one in self.client.get_aliases().aliases]
        if self.collection in names or self.client.collection_exists(self.collection):
            raise ValueError(f"out: {self.name} exists already; name another, since none is ever overwritten")
        if self.client.collection_exists(self._hidden) and not self.folder.exists():
            raise ValueError(
                f"out: there is a collection {self._hidden!r} of a run elsewhere; go on there, or delete it first"
            )

    def check(self) -> None:
        ids = self.gallery.ids
        if ids is None:
            raise ValueError(f"out: a gallery with ids is needed for Qdrant, {self.gallery.source.name} has none")
        odd = next((one for one in ids.tolist() if not _is_id(one)), None)
        if odd is not None:
            raise ValueError(f"out: ids of Qdrant are integers from 0 on, or UUIDs, got {odd!r:.60}")

    def prepare(self) -> None:
        (kind,) = [self.schema.field(self.gallery.columns["vector"]).type]
        dtype = {"float16": "float16"}.get(str(kind.value_type), "float32")
        params = self.models.VectorParams(size=kind.list_size, distance=self.distance(), datatype=dtype)
        named = {self.vector: params} if self.vector else params
        self.client.delete_collection(self._hidden)
        self.client.create_collection(self._hidden, vectors_config=named)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        for ids, block, payloads in self.rows_of(reader):
            vectors = {self.vector: block.tolist()} if self.vector else block.tolist()
            self.client.upsert(self._hidden, self.models.Batch(ids=ids, vectors=vectors, payloads=payloads), wait=True)
        self.note(index)

    def publish(self) -> None:
        alias = self.models.CreateAlias(collection_name=self._hidden, alias_name=self.collection)
        self.client.update_collection_aliases([self.models.CreateAliasOperation(create_alias=alias)])

    def discard(self) -> None:
        if self.folder.exists():
            self.client.delete_collection(self._hidden)
        super().discard()

    def switch(self) -> str:
        return (
            f"To switch over: search {self.collection!r}, an alias of {self._hidden!r}. The old points are untouched."
        )


class NewVector(_Points):
    """A new named vector of the points that are the gallery. As ``store.Target``."""

    kept: Sequence[str] | None = ("id", "vector")

    def check(self) -> None:
        source = self.gallery.source
        if not isinstance(source, Collection) or (source.place, source.collection) != (self.place, self.collection):
            raise ValueError(f"out: a new vector belongs to the gallery's own points, {source.name}; got {self.name}")
        vectors = self.client.get_collection(self.collection).config.params.vectors
        if not isinstance(vectors, dict):
            raise ValueError(f"out: {source.name} has one vector without a name; name a new collection")
        if self.vector in vectors and not self.folder.exists():
            raise ValueError(f"out: {source.name} has a vector {self.vector!r} already; name another")

    def prepare(self) -> None:
        if self.vector in self.client.get_collection(self.collection).config.params.vectors:
            self.client.delete_vector_name(self.collection, self.vector)
        dense = self.models.DenseVectorConfig(size=self.schema.field(1).type.list_size, distance=self.distance())
        self.client.create_vector_name(self.collection, self.vector, self.models.DenseVectorNameConfig(dense=dense))

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        for ids, block, _ in self.rows_of(reader):
            points = [
                self.models.PointVectors(id=one, vector={self.vector: vector.tolist()})
                for one, vector in zip(ids, block, strict=True)
            ]
            self.client.update_vectors(self.collection, points, wait=True)
        self.note(index)

    def publish(self) -> None: ...

    def switch(self) -> str:
        return f"To switch over: search with using={self.vector!r}. The old vectors are untouched."


def _is_id(value: int | str) -> bool:
    if isinstance(value, int):
        return value >= 0
    try:
        return bool(uuid.UUID(value))
    except ValueError:
        return False
