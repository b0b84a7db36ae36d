"""Exact retrieval: which items of a gallery are nearest to a query, and whether they have its label (Ramanujan et al.,
Sec. 4.1). Query and gallery may come from different models: phi_new/phi_old takes a gallery of the old one.

L2 distances are computed in float64 about the median of the gallery, so that an offset of the embeddings costs no
accuracy, and compared in float32 (float64 if an embedding is), so that those which differ by rounding alone are ties.
Equal rows are computed once, for a matrix product may give them distances that differ in the last bits.

For a search by cosine give rows of length 1, and leave out rows of zeros, which have no cosine.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import at_least_float32, check_finite, check_tensor, described
from .images import ImageSet, Split
from .inspection import as_precise, one_tensor
from .normalization import evaluation

WORKING_SET = 2**28  # bytes that a chunk of queries may take, so that memory does not grow with their number


@dataclass(frozen=True, eq=False)
class RetrievalScores:
    """The result of ``evaluate``. All scores are in 0..1 and are means over the queries that have a relevant item."""

    cmc: dict[int, float]
    """k -> share of queries with a relevant item among the k nearest"""
    mean_ap: float
    """mAP@1.0: mean of ``average_precision``"""
    n_queries: int
    n_without_match: int
    """queries without a relevant item, which are left out of the means"""
    hit_rank: Tensor
    """(n_queries,) int64: rank, from 1, of the nearest relevant item; 0 where there is none"""
    average_precision: Tensor
    """(n_queries,) float64: over all recall levels; NaN where there is no relevant item"""


@torch.no_grad()
def encode(model: nn.Module, image_set: ImageSet, split: Split, *, batch_size: int = 512, unit: bool = False) -> Tensor:
    """Embeddings (n, dim), float32 at least, of all images of a split, in order; BN uses what training left behind.

    Args:
        model: the embedder.
        image_set: that of the model's training, by whose pixel statistics the images are normalised.
        split: the images.
        batch_size: images at a time.
        unit: scale embeddings to length 1.

    Raises:
        ValueError: the model gives something else than a tensor, or has BN without running statistics.
    """
    with evaluation(model, "running"):
        parts = (part.to(split.labels.device) for part in split.images.split(batch_size))
        results = (one_tensor(model, model(as_precise(image_set.normalise(part), model))) for part in parts)
        found = torch.cat([at_least_float32(result) for result in results])
    return F.normalize(found, dim=1) if unit else found


@torch.no_grad()
def evaluate(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    ks: Collection[int] = (1, 5),
    same_items: bool = False,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
) -> RetrievalScores:
    """CMC@k and mAP@1.0 of queries in a gallery, exact. Relevant are items with the query's label (paper B, Sec. 4.1).

    Among items at the same distance, CMC counts the irrelevant first, so that a model which maps all images to one
    point gets no credit; for average precision they enter together, as in scikit-learn's ``average_precision_score``.

    Args:
        query, gallery: embeddings (n, d) and (m, d).
        query_labels, gallery_labels: integers (n,) and (m,).
        ks: the k of CMC@k, each in 1 .. m.
        same_items: row i of the gallery is the item of query i, perhaps embedded by another model: it is left out for
            that query, as in Sec. 4.2.
        query_ids, gallery_ids: integers (n,) and (m,), in place of ``same_items``: gallery items with the id of the
            query are left out for it, be they one, several or none.

    Raises:
        ValueError: no query has a relevant item; embeddings that are not finite floating-point matrices of equal width;
            labels or ids that are not as many integers; empty sets; tensors on different devices; ks out of range;
            ``same_items`` with unequal n and m or with ids.
    """
    ids = _checked(query, gallery, same_items, query_ids, gallery_ids)
    query_labels = _integers("query_labels", query_labels, query, query)
    gallery_labels = _integers("gallery_labels", gallery_labels, query, gallery)
    for k in ks:
        _in_range("ks", k, len(gallery))
    distances, relevant = _Distances(query, gallery, ids), _Lookup(query_labels, gallery_labels)
    hit_rank = torch.empty_like(query_labels)
    average_precision = torch.empty_like(hit_rank, dtype=torch.float64)
    for part in distances.parts(relevant.most):
        hit_rank[part], average_precision[part] = _ranked(distances[part], *relevant[part])
    ranks = hit_rank[hit_rank > 0]
    if not len(ranks):
        raise ValueError(f"gallery_labels: at least one query needs a relevant item, got none for all {len(query)}")
    cmc = {k: (ranks <= k).double().mean().item() for k in ks}
    mean_ap = average_precision[hit_rank > 0].mean().item()
    return RetrievalScores(cmc, mean_ap, len(query), len(query) - len(ranks), hit_rank, average_precision)


@torch.no_grad()
def nearest(query: Tensor, gallery: Tensor, k: int = 5, *, same_items: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest items of the gallery by L2 distance, nearest first; of equally far ones the lower index.

    Args:
        query, gallery: embeddings (n, d) and (m, d).
        k: in 1 .. m (m - 1 with ``same_items``).
        same_items: as in ``evaluate``.

    Returns:
        Distances (n, k), float32 or float64 if an embedding is, and indices (n, k) of rows.

    Raises:
        ValueError: k is out of range, or embeddings as in ``evaluate``.
    """
    ids = _checked(query, gallery, same_items)
    _in_range("k", k, len(gallery) - same_items)
    distances = _Distances(query, gallery, ids)
    lowest = torch.empty(len(query), k, dtype=distances.dtype, device=query.device)
    indices = torch.empty_like(lowest, dtype=torch.int64)
    tied = torch.empty(len(query), dtype=torch.bool, device=query.device)
    parts = list(distances.parts(k))
    for part in parts:
        lowest[part], indices[part], tied[part] = _lowest(distances[part], k)
    again = tied.nonzero().squeeze(1)  # the host learns how many, once a call
    for few in again.split(parts[0].stop):
        values, columns = distances[few].sort(dim=1, stable=True)
        lowest[few], indices[few] = values[:, :k], columns[:, :k]
    return lowest, indices


def negative_flips(before: RetrievalScores, after: RetrievalScores) -> float:
    """Share, in 0..1, of the queries with a relevant item whose nearest item was relevant before an update, and is not
    after it. With the arguments swapped: the positive flips (Yan et al. 2021).

    Args:
        before, after: scores of the same queries.

    Raises:
        ValueError: the two are not of the same queries: unequal in number, or in which have a relevant item.
    """
    ranks = before.hit_rank.cpu(), after.hit_rank.cpu()
    if before.n_queries != after.n_queries:
        raise ValueError(f"before, after: must be of the same queries, got {before.n_queries} and {after.n_queries}")
    differ = ((ranks[0] > 0) != (ranks[1] > 0)).sum().item()
    if differ:
        raise ValueError(f"before, after: must be of the same queries, but {differ} have a match in only one of them")
    lost = (ranks[0] == 1) & (ranks[1] > 1)
    return lost.sum().item() / (ranks[0] > 0).sum().item()


# Queries and the items they ask for, a chunk at a time


class _Lookup:
    """Items by a key that queries ask for, a label or an id: ``items[start[i] : stop[i]]`` are those with query i's."""

    def __init__(self, wanted: Tensor, keys: Tensor):
        self.items = keys.argsort()
        self.start, self.stop = (torch.searchsorted(keys[self.items], wanted, right=right) for right in (False, True))
        self.most = max(1, int((self.stop - self.start).max()))  # that any query finds

    def __getitem__(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Indices (c, most) of items for some of the queries, and whether there is one; otherwise it is any."""
        place = self.start[part, None] + torch.arange(self.most, device=self.start.device)
        exists = place < self.stop[part, None]
        return self.items[place.clamp_(max=len(self.items) - 1)], exists


class _Distances:
    """Distances (c, m) of some of the queries to all items, infinite to their own, by the ids of both."""

    def __init__(self, query: Tensor, gallery: Tensor, ids: tuple[Tensor, Tensor] | None):
        # the host learns how many rows differ, once a call: all that follows is as wide as they are many
        rows, self.row_of_item = gallery.double().unique(dim=0, return_inverse=True)
        self.centre = rows.median(0).values  # of a column one of its own values: where those are whole, all stays exact
        self.query, self.rows, self.own = query, rows - self.centre, ids and _Lookup(*ids)
        self.dtype = torch.promote_types(torch.promote_types(query.dtype, gallery.dtype), torch.float32)

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        query = self.query[part].double() - self.centre
        by_row = torch.cdist(query, self.rows, compute_mode="use_mm_for_euclid_dist").to(self.dtype)
        distances = by_row.index_select(1, self.row_of_item)
        if self.own is not None:
            items, exists = self.own[part]
            distances.scatter_add_(1, items, torch.zeros_like(items, dtype=self.dtype).masked_fill_(exists, math.inf))
        return distances

    def parts(self, wanted: int) -> Iterator[slice]:
        """Slices of the queries; wanted: how many items are looked at more closely for each."""
        wanted += self.own.most if self.own else 0
        chunk = max(1, WORKING_SET // (24 * len(self.row_of_item) + 48 * wanted))  # bytes that an item takes
        return (slice(start, start + chunk) for start in range(0, len(self.query), chunk))


# What follows from the distances of a chunk


def _ranked(distances: Tensor, items: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of the nearest relevant item and average precision, (c,) each, where ``items`` (c, w) exist."""
    relevant = _sorted(distances.gather(1, items).masked_fill_(~exists, math.inf))
    found = relevant < math.inf
    among_all = torch.searchsorted(_sorted(distances), relevant, right=True)  # at most as far, ties included
    among_relevant = torch.searchsorted(relevant, relevant, right=True)
    precision = (among_relevant.double() / among_all).masked_fill_(~found, 0)
    irrelevant_first = among_all[:, 0] - among_relevant[:, 0] + 1
    return irrelevant_first.where(found[:, 0], 0), precision.sum(1) / found.sum(1)


def _sorted(x: Tensor) -> Tensor:
    """Rows in ascending order. On a CPU by NumPy, whose sort works on whole vectors: 20 times as fast as torch's."""
    return torch.from_numpy(np.sort(x.numpy(), axis=1)) if x.device.type == "cpu" else x.sort(1).values


def _lowest(distances: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k lowest of each row, their columns, and whether the last equals one left out: ``topk`` takes any."""
    values, columns = distances.topk(min(k + 1, distances.shape[1]), largest=False)
    tied = (values[:, k:] == values[:, k - 1 : k]).any(1)
    columns = columns[:, :k].sort(1).values
    values, order = distances.gather(1, columns).sort(dim=1, stable=True)
    return values, columns.gather(1, order), tied


# What is checked


def _checked(
    query: Tensor,
    gallery: Tensor,
    same_items: bool,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Ids of the queries and of the items, or None if no item is left out."""
    for name, x in (("query", query), ("gallery", gallery)):
        check_tensor(name, x, {2: "(items, width)"})
        check_finite(name, x)
        _check_device(name, x, query)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query, gallery: must have equal widths, got {query.shape[1]} and {gallery.shape[1]}")
    if same_items and (query_ids is not None or gallery_ids is not None):
        raise ValueError("same_items: must be False where ids say which items are the same, got True")
    if same_items:
        if len(query) != len(gallery):
            raise ValueError(f"same_items: needs as many queries as items, got {len(query)} and {len(gallery)}")
        return (torch.arange(len(query), device=query.device),) * 2
    if query_ids is None or gallery_ids is None:
        if query_ids is not gallery_ids:
            raise ValueError("query_ids, gallery_ids: must be given both or neither, got one")
        return None
    return _integers("query_ids", query_ids, query, query), _integers("gallery_ids", gallery_ids, query, gallery)


def _integers(name: str, x: Tensor, query: Tensor, items: Tensor) -> Tensor:
    """Labels or ids as int64, one for each of the items, on the device of the queries."""
    if not isinstance(x, Tensor) or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name}: must be a tensor of integers, got {described(x)}")
    if x.shape != items.shape[:1]:
        raise ValueError(f"{name}: must be one for each of {len(items)} items, got shape {tuple(x.shape)}")
    _check_device(name, x, query)
    return x.long().contiguous()


def _check_device(name: str, x: Tensor, query: Tensor) -> None:
    if x.device != query.device:
        raise ValueError(f"{name}: must be on the device of query, {query.device}, got {x.device}")


def _in_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name}: must be at least 1 and at most {most}, got {value}")
