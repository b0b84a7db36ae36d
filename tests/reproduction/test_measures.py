"""What is measured of a pair of networks, against networks that are cut and joined one by one."""

import copy

import pytest
import torch
from torch import nn

from compatkit import alignment, models, normalization, recombination, similarity
from reproduction.runs import measures

from ..samples import same, small_set, state

A, B = ("ant", "bee", "cat", "dog"), ("dog", "eel", "ant", "cat")
COMMON = ("ant", "cat", "dog")
AT = "stage2_block1"


@pytest.fixture(scope="module")
def two():
    """Two untrained networks on two sets that share three of four classes."""
    sets = [small_set(n=48, classes=A, size=16, seed=1), small_set(n=40, classes=B, size=16, seed=2)]
    networks = [models.build("resnet8", 4, seed=seed, width=4) for seed in (3, 4)]
    for bn in [bn for network in networks for bn in normalization.batch_norms(network)]:
        nn.init.uniform_(bn.running_mean), nn.init.uniform_(bn.running_var, 0.5, 2)
    for network, other, shown in zip(networks, networks[::-1], sets[::-1], strict=True):
        net = recombination.recombine(models.split(other, AT)[0], models.split(network, AT)[1])
        with torch.no_grad(), normalization.evaluation(net):
            network.classifier.bias -= net(images(shown)[0]).mean(0)  # so that each class wins at times
    return networks, sets


@pytest.fixture(scope="module")
def probes(two):
    """What makes probes of both with any options."""
    networks, sets = two
    extractors, heads = zip(*(models.split(n, "stage2") for n in networks), strict=True)
    return lambda **options: measures.probes(extractors, heads, sets, COMMON, **options)


@pytest.fixture(scope="module")
def found(probes):
    return measures.measure(probes())


def images(image_set, classes=None):
    """Normalised test images in one batch, and the names of their classes."""
    names = [image_set.classes[label] for label in image_set.test.labels]
    keep = [i for i, name in enumerate(names) if classes is None or name in classes]
    return image_set.normalise(image_set.test.images[keep]), [names[i] for i in keep]


def right(extractor, head, image_set, outputs, *, shown=COMMON, answers=COMMON, statistics="batch"):
    """The share of images of the classes ``shown`` whose largest output among ``answers`` is right."""
    x, names = images(image_set, shown)
    net = recombination.recombine(extractor, head)
    with normalization.evaluation(net, statistics), torch.no_grad():
        logits = net(x).tolist()
    said = [max((v, c) for v, c in zip(row, outputs, strict=True) if c in answers)[1] for row in logits]
    return sum(map(str.__eq__, said, names)) / len(names)


@pytest.mark.parametrize("role", [0, 1])
def test_accuracies_are_those_of_networks_cut_and_joined(two, found, role):
    networks, sets = two
    own, other, image_set = networks[role], networks[1 - role], sets[role]
    outputs = [s.classes for s in (image_set, sets[1 - role])]
    parts = {at: (models.split(own, at)[0], models.split(other, at)[1]) for at in models.split_points(own)}
    expected = {f"recombination at {at}": right(*pair, image_set, outputs[1]) for at, pair in parts.items()}
    expected |= {
        "recombination": expected[f"recombination at {AT}"],
        "recombination, unmasked": right(*parts[AT], image_set, outputs[1], answers=outputs[1]),
        "recombination, running statistics": right(*parts[AT], image_set, outputs[1], statistics="running"),
        "not recombined": right(*models.split(own, AT), image_set, outputs[0]),
        "own task": right(*models.split(own, AT), image_set, outputs[0], shown=None, answers=outputs[0]),
    }
    assert {name: found[f"{name}/{'ab'[role]}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert expected["recombination, unmasked"] < expected["recombination"] and len(set(expected.values())) > 4


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
        matching = similarity.match_channels(channels)[1]
        assert found[f"cross-correlation at {name}"] == pytest.approx(channels.diagonal().mean().item(), abs=1e-5)
        assert found[f"matched cross-correlation at {name}"] == pytest.approx(matching, abs=1e-5)
        assert found[f"CKA at {name}"] == pytest.approx(similarity.linear_cka(f, g), abs=1e-5)
        assert found[f"neighbours at {name}"] == pytest.approx(similarity.mutual_knn(*pooled), abs=0.02)
        if at == AT:
            ordered = sorted(channels.diagonal().tolist(), reverse=True)
            assert found[f"channel correlations/{'ab'[role]}"] == pytest.approx(ordered, abs=1e-4)
            matched = found[f"matched channel correlations/{'ab'[role]}"]
            assert sum(matched) / len(matched) == pytest.approx(matching, abs=1e-4)
    matrix = found[f"CKA map/{'ab'[role]}"]
    assert [len(row) for row in matrix] == [6] * 6, "stem, three stages, pooling, classifier"
    assert matrix[2][2] == pytest.approx(found[f"CKA at {AT}/{'ab'[role]}"], abs=1e-4)


def test_means_are_of_both_test_sets_and_lists_have_none(found):
    for name, value in [(k.removesuffix("/a"), v) for k, v in found.items() if k.endswith("/a")]:
        mean = (value + found[f"{name}/b"]) / 2 if isinstance(value, float) else None
        assert found.get(f"{name}/mean") == (mean if mean is None else pytest.approx(mean))
    assert found["chance/mean"] == pytest.approx(1 / 3)


def test_the_own_task_under_other_statistics(two, probes, found):
    (network, _), (image_set, _) = two
    at_home = measures.at_home(probes()[0])
    by_hand = {
        s: right(*models.split(network, AT), image_set, A, shown=A, answers=A, statistics=s)
        for s in ("batch", "running")
    }
    assert found["own task/a"] == pytest.approx(by_hand["batch"])
    assert at_home["own task, running statistics"] == pytest.approx(by_hand["running"])
    assert at_home["own task, recalibrated statistics"] == pytest.approx(by_hand["batch"]), "one batch holds all images"
    own = copy.deepcopy(network).train()  # in training BN takes the statistics of the batch, and keeps them
    for bn in normalization.batch_norms(own):
        bn.momentum = 1.0
        nn.init.zeros_(bn.running_mean)
    with torch.no_grad():
        own(image_set.normalise(image_set.train.images))
    expected = right(*models.split(own.eval(), AT), image_set, A, shown=A, answers=A, statistics="running")
    assert at_home["own task, statistics of training images"] == pytest.approx(expected)
    assert len({*by_hand.values(), expected}) == 3, "each case could be told from the others"


def test_the_size_of_test_batches_changes_what_it_names_alone(probes, found):
    smaller = measures.measure(probes(batch_size=8))
    for role in "ab":
        assert found[f"recombination, test batches of 8/{role}"] == smaller[f"recombination/{role}"]
        for key in (f"recombination, test batches of 32/{role}", f"recombination, running statistics/{role}"):
            assert found[key] == smaller[key]


@pytest.mark.parametrize("images", [12, None])
def test_features_are_compared_once_on_a_bounded_number_of_images_or_on_all(two, probes, images):
    networks, sets = two
    seen = []
    hook = networks[0].stem.register_forward_hook(lambda m, x, y: seen.append(len(y)))
    measures.similarities(probes(batch_size=5, similarity_images=images)[0])
    hook.remove()
    assert sum(seen) == (images or len(sets[0].test)) and max(seen) - min(seen) <= 1 and max(seen) <= 5, "once"


def test_scores_are_held_against_chance(probes, found, monkeypatch):
    monkeypatch.setattr(measures, "PERMUTATIONS", 9)
    probe, _ = probes()
    scores = measures.against_chance(probe)
    assert scores[f"pooled neighbours at {AT}"] == pytest.approx(found[f"neighbours at {AT}/a"])
    test = similarity.permutation_test(similarity.rsa, *probe.pooled, permutations=9)
    expected = {"": test.value, ", chance": test.null.mean().item(), ", p": test.p_value}
    expected[", above chance"] = test.above_chance
    assert {variant: scores[f"pooled RSA at {AT}{variant}"] for variant in expected} == pytest.approx(expected)
    assert len(scores) == 4 * len(measures.SCORES)


def test_a_trained_stitch_is_fooled_by_noise_and_leaves_the_head_as_it_was(probes):
    probe, _ = probes()
    before, fooled = state(probe.heads[1]), measures.fooled(probe)
    assert fooled["noise, stitched by labels"] > 0.9 > fooled["noise, as it is"], "a head that has learnt nothing"
    assert set(fooled) == {"noise, as it is", "noise, stitched by labels", "recombination, stitched by labels"}
    assert same(before, state(probe.heads[1])) and all(p.grad is None for p in probe.heads[1].parameters())
    assert measures.fooled(probe) == fooled


def test_stitches_are_fitted_on_training_images_and_put_between(two, probes, found):
    networks, sets = two
    fitted = measures.measure(probes(stitches=(10, 20)))
    kinds = ["permuted", "stitched on 10 images", "stitched on 20 images"]
    added = {f"recombination, {kind}/{role}" for kind in kinds for role in ("a", "b", "mean")}
    assert fitted.keys() - found.keys() == added and found.items() <= fitted.items()
    (one, head), (two, _) = (models.split(n, "stage2") for n in networks)
    train = sets[1].limit(train=10).train
    layer = alignment.stitch(two, one, sets[1].normalise(train.images))
    share = right(nn.Sequential(two, layer), head, sets[1], A)
    assert fitted["recombination, stitched on 10 images/b"] == pytest.approx(share, abs=0.03)
