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
from typing import Any

import numpy as np

from compatkit.extras import require

from .store import ROLES, Address, Fragment, Target, as_matrix, as_vectors, even_fragments, pa, vector_field

models = require("qdrant_client.models", "qdrant")
PAYLOAD = "payload"
"""The column of payloads, as JSON."""
DISTANCES = {"l2": "EUCLID", "cosine": "COSINE", "ip": "DOT"}
UPSERT, SCROLL = 256, 1_024  # points at a time, what the server takes and gives in a message


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


def vectors_of(client: Any, collection: str) -> dict[str, Any]:
    """The parameters of vectors by name; that of one without a name is empty."""
    found = client.get_collection(collection).config.params.vectors
    return found if isinstance(found, dict) else {"": found}


class Table:
    """The points of a collection: ids, one vector or several named ones, payloads. As ``store.Source``."""

    def __init__(self, address: Address, columns: dict[str, str]):
        self.address, self.name, self.client = address, address.whole, client_at(address.place)
        if not self.client.collection_exists(address.table):
            raise ValueError(f"{self.name}: there is no such collection")
        vectors = vectors_of(self.client, address.table)
        self._named = "" not in vectors
        vectors = vectors if self._named else {ROLES["vector"]: vectors[""]}
        self.vector = address.vector or (ROLES["vector"] if ROLES["vector"] in vectors else next(iter(vectors)))
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
        return [one.id for records in self._scroll(None, with_payload=False, with_vectors=False) for one in records]

    def _scroll(self, after: Any, size: int = SCROLL, **options: Any) -> Iterator[list]:
        while True:
            records, after = self.client.scroll(self.address.table, limit=min(size, SCROLL), offset=after, **options)
            if records:
                yield records
            if after is None:
                return

    def fragments(self) -> Sequence[Fragment]:
        return [Fragment(one.start, one.rows, self._ids[one.start]) for one in even_fragments(self.rows)]

    def read(self, fragment: Fragment, columns: Sequence[str], size: int) -> Iterator[Any]:
        schema = pa.schema([self.schema.field(name) for name in columns])
        vectors = [name for name in columns if name not in ("id", PAYLOAD)]
        options = {"with_payload": PAYLOAD in columns, "with_vectors": vectors if self._named else bool(vectors)}
        left = fragment.rows
        for records in self._scroll(fragment.place, size, **options):
            chosen = records[:left]
            yield pa.record_batch([self._column(name, chosen) for name in columns], schema=schema)
            left -= len(chosen)
            if not left:
                return
        raise ValueError(f"{self.name}: has changed while it was read; run the same command again")

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
        return [self.name, hashlib.sha256(json.dumps(self._all_ids()).encode()).hexdigest()]


class _Points(Target):
    """What both targets have in common."""

    threads = 1
    needs_ids = True
    has_doubles = False

    @property
    def client(self) -> Any:
        return client_at(self.address.place)

    def params(self) -> dict[str, Any]:
        """Size and distance, that of the old vectors where they are in Qdrant, too."""
        source, column = self.gallery.source, self.schema.field(self.gallery.columns["vector"])
        is_here = isinstance(source, Table)
        distance = source.distance if is_here else models.Distance[DISTANCES[self.metric]]  # type: ignore[attr-defined]
        return {"size": column.type.list_size, "distance": distance}

    def rows_of(self, reader: Any) -> Iterator[tuple[list, list, list[dict]]]:
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
                yield part.column(key).to_pylist(), as_matrix(part.column(vector)).tolist(), payloads


class NewTable(_Points):
    """A new collection. As ``store.Target``."""

    @property
    def _hidden(self) -> str:
        return f"{self.address.table}.carry"

    def exists(self) -> bool:
        names = [one.alias_name for one in self.client.get_aliases().aliases]
        return self.address.table in names or self.client.collection_exists(self.address.table)

    def check_new(self) -> None:
        super().check_new()
        if self.is_prepared() and not self.folder.exists():
            where = "of a run elsewhere; go on there, or delete it first"
            raise ValueError(f"out: there is a collection {self._hidden!r} {where}")

    def check(self) -> None:
        if odd := [one for one in self.gallery.ids.tolist() if not _is_id(one)]:  # type: ignore[union-attr]
            raise ValueError(f"out: ids of Qdrant are integers from 0 on, or UUIDs, got {odd[0]!r:.60}")

    def is_prepared(self) -> bool:
        return self.client.collection_exists(self._hidden)

    def prepare(self) -> None:
        kind = self.schema.field(self.gallery.columns["vector"]).type.value_type
        dtype = "float16" if kind == pa.float16() else "float32"
        params = models.VectorParams(**self.params(), datatype=dtype)
        self.client.create_collection(self._hidden, params)

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        for ids, vectors, payloads in self.rows_of(reader):
            self.client.upsert(self._hidden, models.Batch(ids=ids, vectors=vectors, payloads=payloads), wait=True)

    def publish(self) -> None:
        alias = models.CreateAlias(collection_name=self._hidden, alias_name=self.address.table)
        self.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])

    def discard(self) -> None:
        self.client.delete_collection(self._hidden)
        super().discard()

    def switch(self) -> str:
        found = f"{self.address.table!r}, an alias of {self._hidden!r}"
        return f"To switch over: search {found}. The old points are untouched."


class NewColumn(_Points):
    """A new named vector of the points that are the gallery. As ``store.Target``."""

    kept: Sequence[str] | None = ("id", "vector")

    def exists(self) -> bool:
        return self.is_prepared() and not self.folder.exists()

    def check(self) -> None:
        source = self.gallery.source
        if not isinstance(source, Table) or source.address[:3] != self.address[:3]:
            raise ValueError(f"out: a new vector belongs to the gallery's own points, {source.name}; got {self.name}")
        if "" in vectors_of(self.client, self.address.table):
            raise ValueError(f"out: {source.name} has one vector without a name; name a new collection")

    def is_prepared(self) -> bool:
        return self.address.vector in vectors_of(self.client, self.address.table)

    def prepare(self) -> None:
        dense = models.DenseVectorNameConfig(dense=models.DenseVectorConfig(**self.params()))
        self.client.create_vector_name(self.address.table, self.address.vector, dense)

    def discard(self) -> None:
        if self.is_prepared():
            self.client.delete_vector_name(self.address.table, self.address.vector)
        super().discard()

    def write(self, index: int, fragment: Fragment, reader: Any) -> None:
        for ids, vectors, _ in self.rows_of(reader):
            found = zip(ids, vectors, strict=True)
            points = [models.PointVectors(id=one, vector={self.address.vector: vector}) for one, vector in found]
            self.client.update_vectors(self.address.table, points, wait=True)

    def publish(self) -> None: ...

    def switch(self) -> str:
        return f"To switch over: search with using={self.address.vector!r}. The old vectors are untouched."


def _is_id(value: int | str) -> bool:
    try:
        return value >= 0 if isinstance(value, int) else bool(uuid.UUID(value))
    except ValueError:
        return False
