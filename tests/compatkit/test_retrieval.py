"""Retrieval against its definitions, with ties, own items and queries without a match, in whatever order and chunks."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compatkit import models, retrieval
from compatkit.retrieval import RetrievalScores, encode, evaluate, nearest, negative_flips

from ..samples import same, small_set, state, unsettled

seeds = st.integers(0, 10**6)
few = settings(max_examples=25, deadline=None, derandomize=True)


def embeddings(n, d, seed=0, *, labels=None, dtype=torch.float64):
    """Random embeddings (n, d), around a centre for each label where there are ``labels``."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    if labels is not None:
        x = x + torch.randn(int(labels.max()) + 1, d, generator=g, dtype=torch.float64)[labels]
    return x.to(dtype)


def integers(n, high, seed=0):
    return torch.randint(high, (n,), generator=torch.Generator().manual_seed(seed))


def lattice(n, seed=0):
    """Embeddings on a few points of a plane: many ties, also between unequal rows."""
    return torch.stack([integers(n, 3, seed), integers(n, 4, seed + 1)], 1).float()


def problem(seed, n=23, m=31, classes=4, *, ties=False):
    labels = integers(n, classes, seed), integers(m, classes, seed + 1)
    if ties:
        return lattice(n, seed + 2), labels[0], lattice(m, seed + 4), labels[1]
    x = embeddings(n + m, 5, seed, labels=torch.cat(labels))
    return x[:n], labels[0], x[n:], labels[1]


def permutation(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def equal(a, b):
    """To the bit, in all that is kept."""
    numbers = [(x.cmc, x.mean_ap, x.n_queries, x.n_without_match, x.hit_rank.tolist()) for x in (a, b)]
    precisions = [x.average_precision.nan_to_num(2) for x in (a, b)]
    return numbers[0] == numbers[1] and torch.equal(*precisions)


def ranking(query, gallery, left_out=()):
    """Squared distance and index of every item, nearest first, the lower index first among equals."""
    distances = (query - gallery).double().square().sum(1).tolist()
    return sorted((d, j) for j, d in enumerate(distances) if j not in left_out)


def naive(query, query_labels, gallery, gallery_labels, left_out=lambda i: ()):
    """Rank of the nearest relevant item, worst case among ties, and average precision; (0, NaN) without a match."""
    found, labels = [], gallery_labels.tolist()
    for i, label in enumerate(query_labels.tolist()):
        items = [(d, labels[j] == label) for d, j in ranking(query[i].double(), gallery, left_out(i))]
        hits = [d for d, relevant in items if relevant]
        if not hits:
            found.append((0, math.nan))
            continue
        rank = 1 + sum(d <= hits[0] for d, relevant in items if not relevant)
        precisions = {hit: sum(h <= hit for h in hits) / sum(d <= hit for d, _ in items) for hit in set(hits)}
        found.append((rank, sum(precisions[hit] for hit in hits) / len(hits)))
    return found


def check(scores, expected, ks=(1, 5)):
    matched = [(rank, precision) for rank, precision in expected if rank]
    assert scores.hit_rank.tolist() == [rank for rank, _ in expected]
    assert scores.average_precision.tolist() == pytest.approx([p for _, p in expected], abs=1e-12, nan_ok=True)
    assert scores.hit_rank.dtype == torch.int64 and scores.average_precision.dtype == torch.float64
    assert (scores.n_queries, scores.n_without_match) == (len(expected), len(expected) - len(matched))
    assert scores.cmc == pytest.approx({k: sum(rank <= k for rank, _ in matched) / len(matched) for k in ks})
    assert scores.mean_ap == pytest.approx(sum(p for _, p in matched) / len(matched), abs=1e-12)


@given(seeds, st.booleans(), st.sampled_from(["all", "same items", "ids", "repeated ids"]), st.sampled_from([2, 4, 40]))
@few
def test_scores_against_the_definition(seed, ties, mode, classes):
    n, m = (27, 27) if mode == "same items" else (23, 31)
    x = problem(seed, n, m, classes, ties=ties)
    x[3][0] = x[1][-1]  # at least one match
    options, left_out = {}, lambda i: ()
    if mode == "same items":
        options, left_out = {"same_items": True}, lambda i: (i,)
    elif mode != "all":
        high = 60 if mode == "ids" else 12
        ids = permutation(60, seed)[:n] if mode == "ids" else integers(n, high, seed), integers(m, high, seed + 9)
        options = {"query_ids": ids[0], "gallery_ids": ids[1]}
        left_out = lambda i: [j for j in range(m) if ids[1][j] == ids[0][i]]  # noqa: E731
    expected = naive(*x, left_out)
    if not any(rank for rank, _ in expected):
        with pytest.raises(ValueError, match="at least one query"):
            evaluate(*x, **options)
        return
    check(evaluate(*x, ks=(1, 3, m), **options), expected, (1, 3, m))


@given(seeds, st.booleans(), st.booleans())
@few
def test_neighbours_against_the_definition(seed, ties, same_items):
    query, _, gallery, _ = problem(seed, 29, 29, ties=ties)
    distances, indices = nearest(query, gallery, 7, same_items=same_items)
    expected = [ranking(row, gallery, [i] if same_items else [])[:7] for i, row in enumerate(query)]
    assert indices.tolist() == [[j for _, j in row] for row in expected]
    assert distances.dtype == query.dtype
    assert torch.allclose(distances, torch.tensor([[d**0.5 for d, _ in row] for row in expected], dtype=query.dtype))


@pytest.mark.parametrize("value", [0.0, -1000.1])
def test_a_model_that_maps_all_images_to_one_point_gets_no_credit(value):
    labels = torch.arange(5).repeat(40)
    x = torch.full((200, 130), value)
    scores = evaluate(x, labels, x, labels)
    assert scores.cmc == {1: 0.0, 5: 0.0} and scores.mean_ap == pytest.approx(0.2), "the prevalence"
    assert (scores.hit_rank == 161).all()
    assert nearest(x, x, 3, same_items=True)[1][:4].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@given(seeds, st.booleans())
@few
def test_the_order_of_the_gallery_and_of_the_queries_plays_no_part(seed, ties):
    query, query_labels, gallery, labels = problem(seed, ties=ties)
    scores = evaluate(query, query_labels, gallery, labels)
    order = permutation(len(gallery), seed)
    assert equal(evaluate(query, query_labels, gallery[order], labels[order]), scores)
    order = permutation(len(query), seed)
    moved = evaluate(query[order], query_labels[order], gallery, labels)
    assert torch.equal(moved.hit_rank, scores.hit_rank[order]) and moved.mean_ap == pytest.approx(scores.mean_ap)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_rows_are_equally_far_wherever_they_stand(dtype):
    points, which = embeddings(7, 130, 1), integers(2001, 7, 2)
    query, labels = embeddings(20, 130, 3).to(dtype), integers(2001, 3, 4)
    gallery = (points[which] + 10).to(dtype)
    scores = evaluate(query, labels[:20], gallery, labels)
    check(scores, naive(query, labels[:20], gallery, labels))
    for seed in range(5):
        order = permutation(2001, seed)
        assert equal(evaluate(query, labels[:20], gallery[order], labels[order]), scores)
    distances, _ = nearest(query, gallery, 2001)
    assert all(len(row.unique()) == 7 for row in distances)


@given(seeds, st.booleans())
@few
def test_rotation_translation_and_scale_change_nothing(seed, same_items):
    query, query_labels, gallery, labels = problem(seed, 31, 31)
    turn = torch.linalg.qr(embeddings(5, 5, seed))[0]
    scores = evaluate(query, query_labels, gallery, labels, same_items=same_items)
    for move in (lambda x: x @ turn, lambda x: x + 1000, lambda x: 4 * x, lambda x: 1e-30 * x, lambda x: 1e40 * x):
        assert equal(evaluate(move(query), query_labels, move(gallery), labels, same_items=same_items), scores)


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 1e5), (torch.float64, 1e9)])
def test_an_offset_costs_no_accuracy(dtype, offset):
    query, query_labels, gallery, labels = problem(3, 40, 300)
    query, gallery = query.to(dtype) + offset, gallery.to(dtype) + offset
    check(evaluate(query, query_labels, gallery, labels), naive(query, query_labels, gallery, labels))
    distances, indices = nearest(query, gallery, 3)
    assert torch.allclose(distances, (query[:, None] - gallery[indices]).norm(dim=2), rtol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("queries", [1, 2, 7, 64])
def test_chunks_change_nothing(ties, queries, monkeypatch):
    x = problem(8, 101, 200, ties=ties)
    whole, near = evaluate(*x), nearest(x[0], x[2])
    taken, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda some, *args, **kw: taken.append(len(some)) or cdist(some, *args, **kw))
    monkeypatch.setattr(retrieval, "WORKING_SET", queries * 24 * 300)
    assert equal(evaluate(*x), whole)
    got = nearest(x[0], x[2])
    assert torch.equal(got[1], near[1]) and torch.allclose(got[0], near[0])
    assert max(taken) <= 1.5 * queries, "so that memory is bounded"


def test_types_and_layout_of_the_input():
    query, query_labels, gallery, labels = problem(11, 40, 60)
    half = query.bfloat16(), query_labels.int(), gallery.half(), labels.byte()
    wide = evaluate(half[0].float(), query_labels, half[2].float(), labels)
    assert equal(evaluate(*half), wide) and nearest(half[0], half[2])[0].dtype == torch.float32
    assert nearest(half[0], gallery)[0].dtype == torch.float64
    strided = [torch.stack([x, x], 1)[:, 0] for x in (query, query_labels * 10**15, gallery, labels * 10**15)]
    strided[0].requires_grad_()
    assert equal(evaluate(*strided), evaluate(query, query_labels, gallery, labels))
    assert not nearest(strided[0], strided[2])[0].requires_grad


def test_negative_flips():
    def scores(*ranks):
        ranks = torch.tensor(ranks)
        return RetrievalScores({}, 0.0, len(ranks), int((ranks == 0).sum()), ranks, ranks / 10)

    before, after = scores(1, 1, 1, 2, 0, 7), scores(1, 2, 3, 1, 0, 9)
    assert negative_flips(before, after) == 2 / 5 and negative_flips(after, before) == 1 / 5
    assert negative_flips(before, before) == 0
    with pytest.raises(ValueError, match="before, after: .*6 and 4"):
        negative_flips(before, scores(1, 1, 1, 0))
    with pytest.raises(ValueError, match="before, after: .*2 have a match in only one"):
        negative_flips(before, scores(1, 1, 1, 0, 3, 1))


def broken(x, value):
    x = x.clone()
    x[0, 0] = value
    return x


BAD = [
    ("query: .*ndarray", lambda q, ql, g, gl: (q.numpy(), ql, g, gl), {}),
    ("gallery: .*int64", lambda q, ql, g, gl: (q, ql, g.long(), gl), {}),
    (r"query: .*\(5,\)", lambda q, ql, g, gl: (q[:, 0], ql, g, gl), {}),
    (r"gallery: .*not empty.*\(0, 3\)", lambda q, ql, g, gl: (q, ql, g[:0], gl[:0]), {}),
    ("query: .*1 NaN", lambda q, ql, g, gl: (broken(q, math.nan), ql, g, gl), {}),
    ("query, gallery: .*2 and 3", lambda q, ql, g, gl: (q[:, :2], ql, g, gl), {}),
    ("gallery: .*device of query, cpu, got meta", lambda q, ql, g, gl: (q, ql, OnMeta(g), gl), {}),
    ("query_labels: .*float32", lambda q, ql, g, gl: (q, ql.float(), g, gl), {}),
    (r"gallery_labels: .*6 items.*\(6, 1\)", lambda q, ql, g, gl: (q, ql, g, gl[:, None]), {}),
    ("gallery_labels: .*device of query, cpu, got meta", lambda q, ql, g, gl: (q, ql, g, gl.to("meta")), {}),
    ("gallery_labels: at least one query .*all 5", lambda q, ql, g, gl: (q, ql + 100, g, gl), {}),
    ("ks: .*at most 6, got 0", None, {"ks": (1, 0)}),
    ("ks: .*at most 6, got 7", None, {"ks": (1, 7)}),
    ("same_items: .*5 and 6", None, {"same_items": True}),
    ("same_items: must be False", None, {"same_items": True, "query_ids": torch.arange(5)}),
    ("query_ids, gallery_ids: .*both or neither", None, {"gallery_ids": torch.arange(6)}),
    (r"gallery_ids: .*6 items.*\(5,\)", None, {"query_ids": torch.arange(5), "gallery_ids": torch.arange(5)}),
]


class OnMeta(torch.Tensor):
    """A tensor that says it is elsewhere."""

    device = torch.device("meta")


@pytest.mark.parametrize(("message", "change", "options"), BAD)
def test_bad_input(message, change, options):
    x = embeddings(11, 3, dtype=torch.float32)
    arguments = x[:5], integers(5, 2), x[5:], integers(6, 2, 1)
    with pytest.raises(ValueError, match=message):
        evaluate(*(change(*arguments) if change else arguments), **options)


def test_bad_neighbours():
    x = embeddings(5, 3)
    for k, options in ((0, {}), (6, {}), (5, {"same_items": True})):
        with pytest.raises(ValueError, match=f"k: must be at least 1 and at most {5 - len(options)}, got {k}"):
            nearest(x, x, k, **options)
    with pytest.raises(ValueError, match="gallery: .*NaN"):
        nearest(x, broken(x, math.nan))


@pytest.fixture
def model():
    return unsettled(models.split(models.build("resnet8", 3, seed=0, width=4), "pool")[0])


@pytest.mark.parametrize("batch_size", [7, 512])
def test_each_image_is_encoded_on_its_own_in_order_and_leaves_the_model_as_it_was(model, batch_size):
    image_set, other = small_set(n=23), small_set(n=9, seed=4)
    image_set.train.images.div_(4, rounding_mode="floor")
    model.train()
    model.stage1_block1.eval()
    before, modes = state(model), [m.training for m in model.modules()]
    for split in (image_set.test, other.test):
        found = encode(model, image_set, split, batch_size=batch_size)
        assert found.shape == (len(split), 16) and found.dtype == torch.float32 and not found.requires_grad
        assert same(before, state(model)) and modes == [m.training for m in model.modules()]
        alone, (mean, std) = copy.deepcopy(model).eval(), image_set.pixel_statistics
        for image, embedding in zip(split.images, found, strict=True):
            assert torch.allclose(embedding, alone((image[None].float() / 255 - mean) / std)[0], atol=1e-4)


def test_embeddings_are_at_least_single_precision_and_may_have_unit_length(model):
    image_set = small_set(n=23)
    plain, unit = (encode(model, image_set, image_set.test, unit=unit) for unit in (False, True))
    assert torch.allclose(unit.norm(dim=1), torch.ones(23)) and not torch.allclose(plain, unit, atol=0.05)
    assert torch.allclose(unit * plain.norm(dim=1, keepdim=True), plain, atol=1e-6)
    half, double = (encode(copy.deepcopy(model).to(t), image_set, image_set.test) for t in (torch.half, torch.double))
    assert half.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.allclose(plain.double(), double, atol=1e-5)
