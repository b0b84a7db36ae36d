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

from .store import ROLES, Fragment, Target, as_matrix, as_vectors, even_fragments, pa, vector_field, without_password

models = require("qdrant_client.models", "qdrant")
PAYLOAD = "payload"
"""The column of payloads, as JSON."""
DISTANCES = {"l2": "EUCLID", "cosine": "COSINE", "ip": "DOT"}
UPSERT, SCROLL = 256, 1_024  # points at a time, what the server takes and gives in a message


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
    """The points of a collection: ids, one vector or several named ones, payloads. As ``store.Source``."""

    def __init__(self, url: str):
        self.place, self.collection, wanted = parts(url)
        self.name, self.client = url.rpartition("#")[0] if wanted else url, client_at(self.place)
        if not self.client.collection_exists(self.collection):
            raise ValueError(f"{self.name}: there is no such collection")
        config = self.client.get_collection(self.collection).config.params.vectors
        self._named = isinstance(config, dict)
        vectors = config if isinstance(config, dict) else {ROLES["vector"]: config}
        self.vector: str | None = wanted or (ROLES["vector"] if ROLES["vector"] in vectors else next(iter(vectors)))
        if self.vector not in vectors:
            raise ValueError(f"{self.name}: has no vector {self.vector!r}, only {', '.join(vectors)}")
        self.distance = vectors[self.vector].distance
        self._ids = self._all_ids()
        self.rows = len(self._ids)
        if len({type(one) for one in self._ids}) > 1:
            raise ValueError(f"{self.name}: ids must all be integers or all UUIDs, got both")
        kind = pa.int64() if self.rows and isinstance(self._ids[0], int) else pa.string()
        fields = [vector_field(name, one.size, "float32") for name, one in vectors.items()]
        self.schema = pa.schema([pa.field("id", kind), *fields, pa.field(PAYLOAD, pa.string())])

    def _all_ids(self) -> list:
        found: list = []
        after = None
        while True:
            options = {"limit": SCROLL, "offset": after, "with_payload": False, "with_vectors": False}
            records, after = self.client.scroll(self.collection, **options)
            found += [one.id for one in records]
            if after is None:
                return found

    def fragments(self) -> Sequence[Fragment]:
        even = even_fragments(self.rows, self.schema.field(self.vector).type.list_size)
        return [Fragment(one.start, one.rows, self._ids[one.start]) for one in even]

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        vectors = [name for name in columns if name not in ("id", PAYLOAD)]
        after, left = fragment.place, fragment.rows
        while left:
            options = {"with_payload": PAYLOAD in columns, "with_vectors": vectors if self._named else bool(vectors)}
            records, after = self.client.scroll(self.collection, limit=min(left, size, SCROLL), offset=after, **options)
            left -= len(records)
            if not records or (left and after is None):
                raise ValueError(f"{self.name}: has changed while it was read; run the same command again")
            yield pa.record_batch([self._column(name, records) for name in columns], schema=schema)

    def _column(self, name: str, records: Sequence[Any]) -> Any:
        if name == "id":
            return [one.id for one in records]
        if name == PAYLOAD:
            return [json.dumps(one.payload or {}, ensure_ascii=False) for one in records]
        found = {one.id: one.vector.get(name) if self._named else one.vector for one in records}
        if without := [one for one, vector in found.items() if vector is None]:
            raise ValueError(f"{self.name}: point {without[0]} has no vector {name!r}")
        return as_vectors(np.array(list(found.values()), np.float32))

    def state(self) -> Any:
        ids = hashlib.sha256(json.dumps(self._all_ids()).encode()).hexdigest()
        return [self.name, ids]


class _Points(Target):
    """What both targets have in common: a client, and a hidden folder where the command runs."""

    threads = 1
    has_doubles = False

    def __init__(self, url: str):
        self.place, self.collection, self.vector = parts(url)
        of_url = hashlib.sha256(url.encode()).hexdigest()[:12]
        super().__init__(url, Path.cwd() / f"{self.collection.replace('/', '_')}.{of_url}")

    @property
    def client(self) -> Any:
        return client_at(self.place)

    def params(self) -> dict[str, Any]:
        """Size and distance, that of the old vectors where they are in Qdrant, too."""
        source, column = self.gallery.source, self.schema.field(self.gallery.columns["vector"])
        is_here = isinstance(source, Collection)
        distance = source.distance if is_here else models.Distance[DISTANCES[self.metric]]  # type: ignore[attr-defined]
        return {"size": column.type.list_size, "distance": distance}

    def rows_of(self, reader: Any) -> Iterator[tuple[list, np.ndarray, list[dict]]]:
        """Ids, vectors and payloads, some points at a time."""
        vector, key = self.gallery.columns["vector"], self.gallery.columns["id"]
        for batch in reader:
            others = [field.name for field in batch.schema if not pa.types.is_fixed_size_list(field.type)]
            others = [name for name in others if name != key]
            for start in range(0, len(batch), UPSERT):
                part = batch.slice(start, UPSERT)
                payloads = part.select(others).to_pylist() if others else [{} for _ in range(len(part))]
                if others == [PAYLOAD]:
                    payloads = [json.loads(one[PAYLOAD]) for one in payloads]
                yield part.column(key).to_pylist(), as_matrix(part.column(vector)), payloads


class NewCollection(_Points):
    """A new collection. As ``store.Target``."""

    @property
    def _hidden(self) -> str:
        return f"{self.collection}.carry"

    def exists(self) -> bool:
        names = [one.alias_name for one in self.client.get_aliases().aliases]
        return self.collection in names or self.client.collection_exists(self.collection)

    def check_new(self) -> None:
        super().check_new()
        if self.client.collection_exists(self._hidden) and not self.folder.exists():
            raise ValueError(
                f"out: there is a collection {self._hidden!r} of a run elsewhere; go on there, or delete it first"
            )

    def check(self) -> None:
        ids = self.gallery.ids
        if ids is None:
            raise ValueError(f"out: a gallery with ids is needed for Qdrant, {self.gallery.source.name} has none")
        if odd := [one for one in ids.tolist() if not _is_id(one)]:
            raise ValueError(f"out: ids of Qdrant are integers from 0 on, or UUIDs, got {odd[0]!r:.60}")

    def prepare(self) -> None:
        super().prepare()
        kind = self.schema.field(self.gallery.columns["vector"]).type.value_type
        dtype = "float16" if kind == pa.float16() else "float32"
        params = models.VectorParams(**self.params(), datatype=dtype)
        self.client.delete_collection(self._hidden)
        self.client.create_collection(self._hidden, {self.vector: params} if self.vector else params)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        for ids, block, payloads in self.rows_of(reader):
            vectors = {self.vector: block.tolist()} if self.vector else block.tolist()
            self.client.upsert(self._hidden, models.Batch(ids=ids, vectors=vectors, payloads=payloads), wait=True)
        self.note(index)

    def publish(self) -> None:
        alias = models.CreateAlias(collection_name=self._hidden, alias_name=self.collection)
        self.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])

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

    def _named(self) -> dict[str, Any]:
        """The vectors that have names, of the collection."""
        found = self.client.get_collection(self.collection).config.params.vectors
        return found if isinstance(found, dict) else {}

    def exists(self) -> bool:
        return self.vector in self._named() and not self.folder.exists()

    def check(self) -> None:
        source = self.gallery.source
        if not isinstance(source, Collection) or (source.place, source.collection) != (self.place, self.collection):
            raise ValueError(f"out: a new vector belongs to the gallery's own points, {source.name}; got {self.name}")
        if not self._named():
            raise ValueError(f"out: {source.name} has one vector without a name; name a new collection")

    def prepare(self) -> None:
        super().prepare()
        if self.vector in self._named():
            self.client.delete_vector_name(self.collection, self.vector)
        dense = models.DenseVectorConfig(**self.params())
        self.client.create_vector_name(self.collection, self.vector, models.DenseVectorNameConfig(dense=dense))

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        for ids, block, _ in self.rows_of(reader):
            found = zip(ids, block.tolist(), strict=True)
            points = [models.PointVectors(id=one, vector={self.vector: vector}) for one, vector in found]
            self.client.update_vectors(self.collection, points, wait=True)
        self.note(index)

    def publish(self) -> None: ...

    def switch(self) -> str:
        return f"To switch over: search with using={self.vector!r}. The old vectors are untouched."


def open_source(url: str, columns: dict[str, str]) -> Collection:
    return Collection(url)


def open_target(url: str) -> NewVector | NewCollection:
    return NewVector(url) if parts(url)[2] else NewCollection(url)


def _is_id(value: int | str) -> bool:
    try:
        return value >= 0 if isinstance(value, int) else bool(uuid.UUID(value))
    except ValueError:
        return False
