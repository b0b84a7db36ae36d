"""Accuracy of all pairs against a naive evaluation, each extractor run once; parts that fit and parts that do not."""

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from compatkit import models, normalization, recombination
from compatkit.images import ImageSet
from compatkit.recombination import output_index

from ..samples import same, small_set, state, unsettled

CLASSES = ("cat", "dog", "eel")
OTHER = ("eel", "fox", "cat")


COMMON = ("cat", "eel")


def part(name="resnet8", at="stage2", width=4, seed=0):
    return models.split(models.build(name, 3, seed=seed, width=width), at)


@pytest.fixture
def setup():
    pairs = [tuple(map(unsettled, part(seed=seed))) for seed in range(3)]
    return [e for e, _ in pairs], [h for _, h in pairs], [CLASSES, OTHER, CLASSES], small_set(n=60, classes=CLASSES)


def matrix(setup, **options):
    extractors, heads, head_classes, image_set = setup
    options = {"head_classes": head_classes, "common": COMMON} | options
    return recombination.accuracy_matrix(extractors, heads, image_set, **options)


def batches_of(module):
    """The batches that a module is to get from now on."""
    seen = []
    module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


def evaluated(net, x, statistics):
    if statistics == "recalibrated":
        net, statistics = normalization.recalibrated(net, [x]), "running"
    with normalization.evaluation(net, statistics), torch.no_grad():
        return net(x)


@pytest.mark.parametrize("statistics", normalization.STATISTICS)
def test_against_one_image_at_a_time(setup, statistics):
    extractors, heads, head_classes, image_set = setup
    got = matrix(setup, statistics=statistics)
    keep = [i for i, label in enumerate(image_set.test.labels.tolist()) if CLASSES[label] in COMMON]
    names = [CLASSES[image_set.test.labels[i]] for i in keep]
    x = image_set.normalise(image_set.test.images[keep])
    labels = torch.tensor([COMMON.index(name) for name in names])
    for (i, extractor), (j, head) in product(enumerate(extractors), enumerate(heads)):
        logits = evaluated(recombination.recombine(extractor, head), x, statistics)
        answers = [sorted(zip(row, head_classes[j], strict=True), reverse=True) for row in logits.tolist()]
        hits = [next(c for _, c in row if c in COMMON) == name for row, name in zip(answers, names, strict=True)]
        assert got[i, j].item() == pytest.approx(sum(hits) / len(keep), abs=1e-6)
        found = recombination.accuracy(logits, labels, output_index(head_classes[j], COMMON), masked=False)
        assert found == sum(row[0][1] == name for row, name in zip(answers, names, strict=True)) / len(keep)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 10), (58, 1), (58, 10), (58, 57), (58, 512)])
def test_each_extractor_runs_once_and_no_batch_is_much_smaller_than_the_others(setup, n, batch_size):
    extractors, heads, head_classes, image_set = setup
    seen = list(map(batches_of, extractors))
    limited = image_set.limit(test=n)
    matrix((extractors, heads[::2], head_classes[::2], limited), common=None, batch_size=batch_size)
    for sizes in ([len(batch) for batch in batches] for batches in seen):
        assert sum(sizes) == n and max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1


def test_test_batches_are_mixed_and_normalised_as_in_training(setup):
    extractors, heads, _, image_set = setup
    by_class = replace(image_set, test=image_set.test[image_set.test.labels.argsort()])
    seen = batches_of(extractors[0])
    _, labels = recombination.all_logits(extractors[0], heads[:1], by_class, batch_size=20)
    assert [len(batch) for batch in seen] == [20] * 3
    for batch in labels.split(20):
        assert set(batch.tolist()) == {0, 1, 2}, "BN's statistics are those of all classes"
    assert torch.equal(recombination.shuffled(by_class.test).labels, labels)
    recombination.all_logits(extractors[0], [], image_set, classes=("dog",))
    dogs = image_set.normalise(image_set.test.images[image_set.test.labels == 1])
    assert torch.allclose(seen[-1].sum((1, 2, 3)).sort().values, dogs.sum((1, 2, 3)).sort().values, atol=1e-3)


@pytest.mark.parametrize(
    ("extractor", "head", "given", "taken"),
    [
        (("resnet8", "stage2", 4), ("resnet8", "stage2", 6), 8, 12),  # the head begins with a convolution,
        (("resnet8", "stage2", 6), ("wrn10", "stage2", 4), 12, 8),  # with BN,
        (("resnet8", "stage3", 4), ("resnet8", "stage3", 6), 16, 24),  # with pooling and a linear layer,
        (("resnet8", "pool", 4), ("resnet8", "pool", 6), 16, 24),  # with that layer
        (("mobilenetv2", "block10", 32), ("resnet8", "stage2", 16), 64, 32),
    ],
)
def test_parts_whose_channels_differ_are_refused_with_both_numbers(extractor, head, given, taken):
    extractor, head = part(*extractor)[0].eval(), part(*head)[1].eval()
    with pytest.raises(ValueError, match=f"head: takes features of {taken} channels.*gives {given};.*fit_channels"):
        recombination.recombine(extractor, head)


def taking(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


class Choosy(nn.Module):
    def forward(self, x):
        assert x.shape[2] == 40, "no other side"
        return x


@pytest.mark.parametrize(
    ("extractor", "head"),
    [
        (part("resnet14")[0], part()[1]),
        (part("resnet8", "stage1", 8)[0], part()[1]),  # a map of 16 x 16 where 8 x 8 is usual
        (part("mobilenetv2", "block10")[0], part()[1]),
        (part("wrn10", "pool")[0], part("resnet8", "pool")[1]),
        (part()[0], taking(nn.Linear(8 * 4 * 4, 3))),  # every position of an image of 8 x 8
        (part()[0], nn.ReLU()),  # without a size of their own
        (normalization.UnitLength(), part()[1]),
        (nn.Sequential(Choosy(), nn.Conv2d(3, 4, 1)), nn.Conv2d(5, 2, 1)),  # which no usual side tells of
    ],
)
def test_parts_of_any_architectures_are_joined_where_channels_fit(extractor, head):
    network = recombination.recombine(extractor, head)
    assert network[0] is extractor and network[1] is head and len(network) == 2


@pytest.mark.parametrize("taken", [8 * 4 * 4 + 1, 4])
def test_a_linear_head_that_takes_every_position_has_to_fit_them(taken):
    with pytest.raises(ValueError, match=f"{taken} channels.*gives 8"):
        recombination.recombine(part()[0], taking(nn.Linear(taken, 3)))


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_class_accuracy_against_a_loop_over_classes(statistics):
    classes = ("cat", "dog", "eel", "fox")
    drawn = small_set(n=60, classes=classes)
    test = drawn.test[(drawn.test.labels != 2) & ((drawn.test.labels == 1) | (torch.arange(60) % 5 == 0))]
    image_set = ImageSet("unbalanced", drawn.train, test, classes)
    assert test.labels.bincount(minlength=4).tolist() == [3, 15, 0, 3], "unbalanced, and no eel"
    net = unsettled(models.build("resnet8", 4, seed=0, width=4))
    with torch.no_grad(), normalization.evaluation(net, statistics):
        net.classifier.bias -= net(image_set.normalise(test.images)).mean(0)  # so that not all answers are the same
        answers = net(image_set.normalise(test.images)).argmax(1).tolist()
    pairs = list(zip(answers, test.labels.tolist(), strict=True))
    shares = [pairs.count((c, c)) / sum(label == c for _, label in pairs) for c in (0, 1, 3)]
    found = recombination.class_accuracy(*models.split(net, "stage2"), image_set, statistics=statistics)
    assert found == pytest.approx(sum(shares) / 3, abs=1e-9)
    assert abs(found - sum(a == b for a, b in pairs) / len(pairs)) > 0.02, "it is not the share of all images"


def test_a_head_that_works_in_place_changes_nothing_for_the_heads_after_it():
    image_set, extractor = small_set(n=60), nn.Identity()
    heads = [nn.Sequential(nn.Hardswish(inplace=True), nn.Flatten(), nn.Linear(3 * 64, 3)) for _ in range(2)]
    both, _ = recombination.all_logits(extractor, heads, image_set)
    for found, head in zip(both, heads, strict=True):
        [alone], _ = recombination.all_logits(extractor, [head], image_set)
        assert torch.equal(found, alone)


def test_what_a_head_takes_does_not_depend_on_the_order_in_which_layers_were_defined():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(4, 6, 1)
            self.first = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.second(self.first(x))

    recombination.recombine(Backwards(), nn.Conv2d(6, 2, 1))
    with pytest.raises(ValueError, match="head: takes features of 4 channels, and the extractor gives 6"):
        recombination.recombine(Backwards(), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("statistics", normalization.STATISTICS)
@pytest.mark.parametrize("types", [(torch.bfloat16, torch.float32), (torch.float32, torch.half), (torch.half,) * 2])
def test_parts_of_any_precision_are_recombined(setup, types, statistics):
    (extractor, *_), (head, *_), _, image_set = setup
    (expected,), _ = recombination.all_logits(extractor, [head], image_set, statistics=statistics)
    extractor, head = (part.to(dtype) for part, dtype in zip((extractor, head), types, strict=True))
    (found,), _ = recombination.all_logits(extractor, [head], image_set, statistics=statistics)
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=0.1 * expected.abs().max().item())


class Remembering(nn.Module):
    """Keeps what it has computed."""

    last = None

    def forward(self, x):
        self.last = x
        return x


def test_parts_are_not_run_to_see_whether_they_fit():
    seen, compiled = [], []
    extractor = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Remembering())
    extractor[0].register_forward_hook(lambda *run: seen.append(run))
    extractor[1] = torch.compile(extractor[1], backend=lambda graph, inputs: compiled.append(graph) or graph)
    before, modes = copy.deepcopy(state(extractor)), [m.training for m in extractor.modules()]
    recombination.recombine(extractor, nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match="takes features of 5 channels, and the extractor gives 4"):
        recombination.recombine(extractor, nn.Conv2d(5, 2, 1))
    models.fit_channels(extractor, 5)
    assert (extractor[2].last, seen, compiled) == (None, [], [])
    assert same(before, state(extractor)) and modes == [m.training for m in extractor.modules()]


class Sneaky(nn.Module):
    def forward(self, x):
        return x.mul_(2).flatten(1)


class Keyed(nn.Module):
    def forward(self, x):
        return {"logits": x.mean((2, 3)), "loss": None}


def pooled(*layers):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers)


FIXED = nn.Sequential(nn.InstanceNorm2d(8, track_running_stats=True), part()[1])


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (None, {"common": None, "head_classes": [OTHER]}, "head_classes.*dog"),
        (None, {"head_classes": []}, "one list for each of 1 heads is needed, got 0"),
        (None, {"statistics": "layer"}, "statistics: must be one of"),
        (None, {"common": ("wolf", "cat"), "head_classes": [("wolf", "cat", "eel")]}, "of: no class"),
        (None, {"head_classes": [("cat", "cat", "eel")]}, r"names must differ, got \['cat'\] more than once"),
        (None, {"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        (pooled(nn.Flatten(), nn.Linear(8, 4)), {}, r"heads: number 0 must give \(n, 3\), .* got \(27, 4\)"),
        (pooled(nn.Conv2d(8, 3, 1)), {}, r"heads: number 0 must give \(n, 3\), .* got \(27, 3, 1, 1\)"),
        (Keyed(), {}, "module: .* got dict of logits, loss: pass one of these, from Keyed"),
        (Sneaky(), {}, "module: Sneaky changes its input in place"),
        (FIXED, {}, "statistics other than 'running' .* got InstanceNorm2d at '0'"),
        (FIXED, {"statistics": "recalibrated"}, "statistics other than 'running' .* got InstanceNorm2d at '0'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(head, options, message):
    extractor, usual = part()
    seen = batches_of(extractor)
    options = {"head_classes": [CLASSES], "common": COMMON} | options
    with pytest.raises((ValueError, RuntimeError), match=message):
        recombination.accuracy_matrix([extractor], [head or usual], small_set(), **options)
    assert not seen or head not in (None, FIXED), "before the work"


def test_outputs_without_names_images_and_shapes_are_refused():
    extractor, head = part()
    with pytest.raises(ValueError, match=r"head: must give \(n, 3\), .* got \(40, 4\)"):
        recombination.class_accuracy(extractor, pooled(nn.Flatten(), nn.Linear(8, 4)), small_set())
    with pytest.raises(ValueError, match=r"logits: must be \(5, outputs\).*got \(5, 3, 1\)"):
        recombination.accuracy(torch.zeros(5, 3, 1), torch.zeros(5, dtype=torch.int64), torch.arange(3))
    image_set = small_set()
    cats = replace(image_set, test=image_set.test[image_set.test.labels == 0])
    with pytest.raises(ValueError, match="image_set: .* no test images of .'dog', 'eel'"):
        recombination.accuracy_matrix([extractor], [head], cats, head_classes=[CLASSES], common=("dog", "eel"))
