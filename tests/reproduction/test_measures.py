"""What is measured of a pair of networks, against networks that are cut and joined one by one."""

import pytest
import torch
from torch import nn

from compatkit import alignment, models, normalization, recombination, similarity
from reproduction.runs import measures

from ..samples import small_set

A, B = ("ant", "bee", "cat", "dog"), ("dog", "eel", "ant", "cat")
COMMON = ("ant", "cat", "dog")


@pytest.fixture(scope="module")
def two():
    """Two untrained networks on two sets that share three of four classes."""
    sets = [small_set(n=48, classes=A, size=16, seed=1), small_set(n=40, classes=B, size=16, seed=2)]
    networks = [models.build("resnet8", 4, seed=seed, width=4) for seed in (3, 4)]
    for bn in [bn for network in networks for bn in normalization.batch_norms(network)]:
        nn.init.uniform_(bn.running_mean), nn.init.uniform_(bn.running_var, 0.5, 2)
    return networks, sets


@pytest.fixture(scope="module")
def found(two):
    networks, sets = two
    extractors, heads = zip(*(models.split(n, "stage2") for n in networks), strict=True)
    return measures.measure(measures.probes(extractors, heads, sets, COMMON))


def images(image_set, classes=None):
    """Normalised test images in one batch, and the names of their classes."""
    names = [image_set.classes[label] for label in image_set.test.labels]
    keep = [i for i, name in enumerate(names) if classes is None or name in classes]
    return image_set.normalise(image_set.test.images[keep]), [names[i] for i in keep]


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("at", ["stem", "stage1_block1", "stage2_block1", "stage3_block1", "pool"])
def test_recombination_at_a_boundary_is_that_of_networks_cut_there(two, found, role, at):
    networks, sets = two
    x, names = images(sets[role], COMMON)
    net = recombination.recombine(models.split(networks[role], at)[0], models.split(networks[1 - role], at)[1])
    with normalization.evaluation(net), torch.no_grad():
        logits = net(x).tolist()
    other = sets[1 - role].classes
    hits = [max((v, c) for v, c in zip(row, other, strict=True) if c in COMMON)[1] for row in logits]
    share = sum(hit == name for hit, name in zip(hits, names, strict=True)) / len(names)
    assert found[f"recombination at {at}/{'ab'[role]}"] == pytest.approx(share)
    if at == "stage2_block1":
        assert found[f"recombination/{'ab'[role]}"] == pytest.approx(share), "where it was cut"


@pytest.mark.parametrize("role", [0, 1])
def test_similarities_are_those_of_the_features_after_each_block(two, found, role):
    networks, sets = two
    x, _ = images(sets[role])
    for at in models.split_points(networks[0]):
        sides = []
        for network in (networks[role], networks[1 - role]):
            extractor, _ = models.split(network, at)
            with normalization.evaluation(extractor), torch.no_grad():
                sides.append(extractor(x))
        name, (f, g) = f"{at}/{'ab'[role]}", sides
        channels = similarity.cross_correlation(f, g)
        pooled = [s.flatten(2).mean(2) if s.ndim == 4 else s for s in sides]
        assert found[f"cross-correlation at {name}"] == pytest.approx(channels.diagonal().mean().item(), abs=1e-5)
        assert found[f"matched cross-correlation at {name}"] == pytest.approx(
            similarity.match_channels(channels)[1], abs=1e-5
        )
        assert found[f"CKA at {name}"] == pytest.approx(similarity.linear_cka(f, g), abs=1e-5)
        assert found[f"neighbours at {name}"] == pytest.approx(similarity.mutual_knn(*pooled), abs=0.02)
        if at == "stage2_block1":
            ordered = sorted(channels.diagonal().tolist(), reverse=True)
            assert found[f"channel correlations/{'ab'[role]}"] == pytest.approx(ordered, abs=1e-4)
            matched = found[f"matched channel correlations/{'ab'[role]}"]
            assert sum(matched) / len(matched) == pytest.approx(similarity.match_channels(channels)[1], abs=1e-4)
    matrix = found[f"CKA map/{'ab'[role]}"]
    assert [len(row) for row in matrix] == [6] * 6, "stem, three stages, pooling, classifier"
    assert matrix[2][2] == pytest.approx(found[f"CKA at stage2_block1/{'ab'[role]}"], abs=1e-4)


def test_means_are_of_both_test_sets_and_lists_have_none(found):
    for key in [k for k in found if k.endswith("/a")]:
        name = key.removesuffix("/a")
        if isinstance(found[key], float):
            assert found[f"{name}/mean"] == pytest.approx((found[f"{name}/a"] + found[f"{name}/b"]) / 2)
        else:
            assert f"{name}/mean" not in found
    assert found["chance/mean"] == pytest.approx(1 / 3)
    assert all(0 <= v <= 1 for k, v in found.items() if k.startswith(("recombination", "own", "not")))


def test_identical_networks_are_alike_and_recombine_to_themselves(two):
    (network, _), (image_set, _) = two
    extractor, head = models.split(network, "stage2")
    found = measures.measure(measures.probes([extractor] * 2, [head] * 2, [image_set] * 2, A))
    for at in models.split_points(network):
        assert found[f"recombination at {at}/a"] == found["own task/a"] == found["not recombined/b"]
        assert found[f"CKA at {at}/a"] == pytest.approx(1)
        assert found[f"neighbours at {at}/a"] == pytest.approx(1)
    assert max(found["channel correlations/a"]) == pytest.approx(1)


def test_bn_statistics_and_test_batches_change_what_they_name_alone(two, found):
    networks, sets = two
    extractors, heads = zip(*(models.split(n, "stage2") for n in networks), strict=True)
    smaller = measures.measure(measures.probes(extractors, heads, sets, COMMON, batch_size=8))
    for role in "ab":
        assert found[f"recombination, test batches of 8/{role}"] == smaller[f"recombination/{role}"]
        for key in (f"recombination, test batches of 32/{role}", f"recombination, running statistics/{role}"):
            assert found[key] == smaller[key]
    x, names = images(sets[0], COMMON)
    net = recombination.recombine(extractors[0], heads[1]).eval()
    with torch.no_grad():
        logits = net(x)[:, [B.index(c) for c in COMMON]]
    share = sum(COMMON[i] == name for i, name in zip(logits.argmax(1).tolist(), names, strict=True)) / len(names)
    assert found["recombination, running statistics/a"] == pytest.approx(share)


@pytest.mark.parametrize("images", [12, None])
def test_features_are_compared_once_on_a_bounded_number_of_images_or_on_all(two, images):
    networks, sets = two
    extractors, heads = zip(*(models.split(n, "stage2") for n in networks), strict=True)
    probe, _ = measures.probes(extractors, heads, sets, COMMON, batch_size=5, similarity_images=images)
    seen = []
    hook = networks[0].stem.register_forward_hook(lambda m, x, y: seen.append(len(y)))
    measures.similarities(probe)
    hook.remove()
    assert sum(seen) == (images or len(sets[0].test)) and max(seen) - min(seen) <= 1 and max(seen) <= 5, "once"


@pytest.fixture(scope="module")
def probe(two):
    networks, sets = two
    extractors, heads = zip(*(models.split(n, "stage2") for n in networks), strict=True)
    return measures.probes(extractors, heads, sets, COMMON)[0]


def test_scores_are_held_against_chance(probe, found, monkeypatch):
    monkeypatch.setattr(measures, "PERMUTATIONS", 9)
    scores = measures.against_chance(probe)
    at = "stage2_block1"
    assert scores[f"pooled neighbours at {at}"] == pytest.approx(found[f"neighbours at {at}/a"])
    test = similarity.permutation_test(similarity.rsa, *probe.pooled, permutations=9)
    expected = {"": test.value, ", chance": test.null.mean().item(), ", p": test.p_value}
    expected[", above chance"] = test.above_chance
    assert {variant: scores[f"pooled RSA at {at}{variant}"] for variant in expected} == pytest.approx(expected)
    assert len(scores) == 4 * len(measures.SCORES)


def test_a_trained_stitch_is_fooled_by_noise_and_leaves_the_head_as_it_was(probe):
    before = {name: value.clone() for name, value in probe.heads[1].state_dict().items()}
    fooled = measures.fooled(probe)
    assert fooled["noise, stitched by labels"] > 0.9 > fooled["noise, as it is"], "a head that has learnt nothing"
    assert set(fooled) == {"noise, as it is", "noise, stitched by labels", "recombination, stitched by labels"}
    assert all(torch.equal(before[name], value) for name, value in probe.heads[1].state_dict().items())
    assert all(p.grad is None for p in probe.heads[1].parameters()) and measures.fooled(probe) == fooled


def test_stitches_are_fitted_on_training_images_and_put_between(two):
    networks, sets = two
    extractors, heads = zip(*(models.split(n, "stage2") for n in networks), strict=True)
    found = measures.measure(measures.probes(extractors, heads, sets, COMMON, stitches=(10, 20)))
    plain = measures.measure(measures.probes(extractors, heads, sets, COMMON))
    kinds = ["permuted", "stitched on 10 images", "stitched on 20 images"]
    assert {k for k in found if k not in plain} == {
        f"recombination, {k}/{r}" for k in kinds for r in ("a", "b", "mean")
    }
    assert plain.items() <= found.items()
    x, names = images(sets[1], COMMON)
    train = sets[1].limit(train=10).train
    layer = alignment.stitch(extractors[1], extractors[0], sets[1].normalise(train.images))
    net = nn.Sequential(extractors[1], layer, heads[0])
    with normalization.evaluation(net), torch.no_grad():
        logits = net(x)[:, [A.index(c) for c in COMMON]]
    share = sum(COMMON[i] == name for i, name in zip(logits.argmax(1).tolist(), names, strict=True)) / len(names)
    assert found["recombination, stitched on 10 images/b"] == pytest.approx(share, abs=0.03)
