"""Accuracy of all pairs against a naive evaluation, each extractor run once."""

import pytest
import torch
from torch import nn

from compatkit import models, normalization, recombination

from .test_data import small_set

CLASSES = ("cat", "dog", "eel")
OTHER = ("eel", "fox", "cat")


def parts(seed, classes):
    return models.split(models.build("resnet8", len(classes), seed=seed, width=4), "stage2")


@pytest.fixture
def setup():
    torch.manual_seed(0)
    pairs = [parts(0, CLASSES), parts(1, OTHER), parts(2, CLASSES)]
    for extractor, head in pairs:
        for bn in normalization.batch_norms(nn.Sequential(extractor, head)):
            bn.running_mean.normal_(), bn.running_var.uniform_(0.5, 2)
    return [e for e, _ in pairs], [h for _, h in pairs], [CLASSES, OTHER, CLASSES], small_set(n=60, classes=CLASSES)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_against_one_image_at_a_time(setup, masked, statistics):
    extractors, heads, head_classes, image_set = setup
    common = ("cat", "eel")
    got = recombination.accuracy_matrix(
        extractors, heads, image_set, head_classes=head_classes, common=common, masked=masked, statistics=statistics
    )
    keep = [i for i, label in enumerate(image_set.test.labels.tolist()) if CLASSES[label] in common]
    x = image_set.normalise(image_set.test.images[keep])
    names = [CLASSES[image_set.test.labels[i]] for i in keep]
    for i, extractor in enumerate(extractors):
        for j, head in enumerate(heads):
            net = recombination.recombine(extractor, head)
            with normalization.evaluation(net, statistics), torch.no_grad():
                logits = net(x)
            hits = 0
            for row, name in zip(logits.tolist(), names, strict=True):
                answers = [(v, c) for v, c in zip(row, head_classes[j], strict=True) if c in common or not masked]
                hits += max(answers)[1] == name
            assert got[i, j].item() == pytest.approx(hits / len(keep), abs=1e-6)


def test_each_extractor_runs_once_however_many_heads(setup):
    extractors, heads, head_classes, image_set = setup
    seen = [0] * len(extractors)
    for i, extractor in enumerate(extractors):
        extractor.register_forward_hook(lambda m, x, y, i=i: seen.__setitem__(i, seen[i] + len(y)))
    options = {"head_classes": head_classes, "common": ("cat", "eel"), "batch_size": 7}
    recombination.accuracy_matrix(extractors, heads, image_set, **options)
    assert seen == [40] * 3


def test_nothing_is_left_behind(setup):
    extractors, heads, head_classes, image_set = setup
    modules = nn.ModuleList([*extractors, *heads]).train()
    before = {k: v.clone() for k, v in modules.state_dict().items()}
    for statistics in normalization.STATISTICS:
        options = {"head_classes": head_classes, "common": ("cat", "eel"), "statistics": statistics}
        recombination.accuracy_matrix(extractors, heads, image_set, **options)
    assert all(torch.equal(before[k], v) for k, v in modules.state_dict().items())
    assert all(m.training for m in modules.modules())


def test_recalibrated_statistics_are_those_of_the_evaluation_set(setup):
    extractors, heads, head_classes, image_set = setup
    options = {"head_classes": head_classes, "common": ("cat", "eel")}
    one_batch = recombination.accuracy_matrix(extractors, heads, image_set, **options)
    again = recombination.accuracy_matrix(extractors, heads, image_set, statistics="recalibrated", **options)
    assert (one_batch - again).abs().max() < 0.08, "with a single batch they differ by Bessel's correction only"


@pytest.mark.parametrize("n", [1, 17, 58, 60])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 59, 512])
def test_no_batch_is_much_smaller_than_the_others(setup, n, batch_size):
    extractors, _, _, image_set = setup
    sizes = []
    extractors[0].register_forward_hook(lambda m, x, y: sizes.append(len(y)))
    recombination.all_logits(extractors[0], [], image_set.limit(test=n), batch_size=batch_size)
    assert sum(sizes) == n and max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1


def test_images_of_some_classes_are_normalised_as_in_training(setup):
    extractors, _, _, image_set = setup
    seen = []
    extractors[0].register_forward_hook(lambda m, x, y: seen.append(x[0]))
    recombination.all_logits(extractors[0], [], image_set, classes=("dog",))
    dogs = image_set.normalise(image_set.test.images[image_set.test.labels == 1])
    assert torch.allclose(seen[0].sum((1, 2, 3)).sort().values, dogs.sum((1, 2, 3)).sort().values, atol=1e-3)


def test_own_task_on_all_classes(setup):
    extractors, heads, head_classes, image_set = setup
    got = recombination.accuracy_matrix(extractors[:1], heads[:1], image_set, head_classes=head_classes[:1])
    common = recombination.accuracy_matrix(extractors[:1], heads[:1], image_set, head_classes=[CLASSES], common=CLASSES)
    assert torch.equal(got, common)


def test_bad_input(setup):
    extractors, heads, head_classes, image_set = setup
    with pytest.raises(ValueError, match=r"head_classes.*dog"):
        recombination.accuracy_matrix(extractors, heads, image_set, head_classes=head_classes)
    with pytest.raises(ValueError, match="one list for each of the 3 heads"):
        recombination.accuracy_matrix(extractors, heads, image_set, head_classes=head_classes[:2])
    with pytest.raises(ValueError, match="statistics"):
        recombination.accuracy_matrix(
            extractors, heads, image_set, head_classes=head_classes, common=("cat", "eel"), statistics="layer"
        )
    with pytest.raises(ValueError, match="of: no class"):
        recombination.accuracy_matrix(
            extractors, heads, image_set, head_classes=[("wolf", "cat")] * 3, common=("wolf", "cat")
        )
