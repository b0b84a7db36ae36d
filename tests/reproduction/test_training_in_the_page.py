"""The networks that learn in the page: gradients are those of torch, accuracies those that are pinned."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from compatkit.recombination import accuracy, all_logits
from reproduction import images
from reproduction.runs.export import digits, scripts
from reproduction.show import programs

from .in_node import DATA, a_run, in_node, needs_node

SIDE, OUTPUTS, COMMON, WIDTH = 8, 10, 9, 6


SETS = """
    const part = ({ images, labels }) =>
        ({ images: images.map((image) => Float64Array.from(image)), labels: Uint8Array.from(labels) });
    const sets = given.sets.map((images) => ({ name: "", mean: 0, std: 1, train: part(images), test: part(images) }));
    const data = { side: 8, outputs: 10, common: 9, sets };
"""


def random_sets(n: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "images": torch.randn(n, SIDE * SIDE, generator=generator, dtype=torch.float64).tolist(),
            "labels": torch.randint(OUTPUTS, (n,), generator=generator).tolist(),
        }
        for _ in range(2)
    ]


def convolved(x, weights, name, stride):
    y = F.conv2d(x, weights[f"{name}.0.weight"], stride=stride, padding=1)
    return F.relu(F.batch_norm(y, None, None, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"], True))


def extracted(x, weights):
    return convolved(
        convolved(convolved(x, weights, "extractor.0", 1), weights, "extractor.1", 2), weights, "extractor.2", 2
    )


def answered(features, weights, head):
    pooled = convolved(features, weights, f"{head}.conv", 2).mean((2, 3))
    return F.linear(pooled, weights[f"{head}.linear.weight"], weights[f"{head}.linear.bias"])


@needs_node
def test_half_precision_is_read_as_numpy_writes_it():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    given = {"text": base64.b85encode(halves.tobytes()).decode(), "count": len(halves)}
    assert in_node("return [...compatkitNet.decoded(given.text, given.count)];", **given) == halves.tolist()


@needs_node
@pytest.mark.parametrize("n", [2, 7, 12])
def test_gradients_are_those_of_torch_in_double_precision(n):
    sets, turns = random_sets(n), [i % 4 for i in range(n)]
    found = in_node(
        SETS
        + """
        const setting = { start: false, classes: true, rotation: true, shared: 4, width: 6, seed: 3, steps: 10 };
        const pair = training.create(data, setting);
        return pair.networks.map((_, which) => {
            const { images, labels } = data.sets[which].train;
            const losses = training.gradients(pair, which, images, labels, given.turns);
            return { losses, parameters: training.parameters(pair, which).map(
                ({ name, shape, value, grad }) => ({ name, shape, value: [...value], grad: [...grad] })) };
        });
        """,
        sets=sets,
        turns=turns,
    )
    for one, given in zip(found, sets, strict=True):
        weights = {
            p["name"]: torch.tensor(p["value"], dtype=torch.float64).view(p["shape"]).requires_grad_()
            for p in one["parameters"]
        }
        images = torch.tensor(given["images"], dtype=torch.float64).view(n, 1, SIDE, SIDE)
        labels = torch.tensor(given["labels"])
        features = extracted(images, weights)
        known = labels.where(labels < 4, -1)
        rotated = torch.stack([torch.rot90(image, turn, (1, 2)) for image, turn in zip(images, turns, strict=True)])
        losses = {
            "target": F.cross_entropy(answered(features, weights, "head"), labels),
            "classes": F.cross_entropy(
                answered(features, weights, "class head"), known, ignore_index=-1, reduction="sum"
            )
            / n,
            "rotation": F.cross_entropy(
                answered(extracted(rotated, weights), weights, "rotation head"), torch.tensor(turns)
            ),
        }
        sum(losses.values()).backward()
        assert one["losses"] == pytest.approx({name: loss.item() for name, loss in losses.items()}, rel=1e-9)
        for p in one["parameters"]:
            wanted = weights[p["name"]].grad.flatten().numpy()
            np.testing.assert_allclose(p["grad"], wanted, rtol=1e-6, atol=1e-9, err_msg=p["name"])


@needs_node
def test_a_step_is_one_of_adam_on_each_network_at_the_rate_of_the_cycle():
    found = in_node(
        SETS
        + """
        const setting = { start: true, classes: true, rotation: false, shared: 9, width: 6, seed: 1, steps: 8 };
        const pair = training.create(data, setting);
        const all = () => pair.networks.map((_, which) => Object.fromEntries(training.parameters(pair, which).map(
            ({ name, value }) => [name, [...value]])));
        const [before, own] = [all(), pair.networks.map(({ head }) => head)];
        const places = pair.networks.map(({ order }) => order.slice(0, 64));
        training.step(pair);
        return { before, after: all(), grads: own.map(({ bias }) => [...bias.grad]), steps: [
            own[0].bias.steps, pair.classHead.bias.steps], places };
        """,
        sets=random_sets(70),
    )
    first, second = found["before"]
    assert first == second, "the same start"
    assert found["steps"] == [1, 2], "the shared head hears both"
    assert found["places"][0] != found["places"][1]
    rate = 0.06 * (1 / 8) / 0.25
    for before, after, grad in zip(found["before"], found["after"], found["grads"], strict=True):
        moved = np.array(after["head.linear.bias"]) - before["head.linear.bias"]
        np.testing.assert_allclose(moved, -rate * np.sign(grad), rtol=1e-4)  # the first step of Adam


@pytest.fixture(scope="module")
def header():
    return scripts.read(programs.EXPORTED / f"{digits.NAME}.js", "compatkitDigits", "name")


@needs_node
def test_the_page_has_the_digits_that_are_exported(header):
    assert header == json.loads(json.dumps(digits.content("laptop"))), "python -m reproduction export digits"
    found = in_node(
        DATA
        + """
        return data.sets.map(({ train, test }) => ({ counts: [train.images.length, test.images.length],
            image: [...test.images.at(-1)], labels: [...test.labels], sum: train.images.flatMap((image) => [...image])
                .reduce((sum, value) => sum + value, 0) }));
        """,
        header=header,
    )
    for one, name, own in zip(found, digits.SETS, header["sets"], strict=True):
        test = images.load(name).limit(digits.TRAIN, digits.TEST).test
        assert one["counts"] == [digits.TRAIN, digits.TEST] and one["labels"] == test.labels.tolist()
        wanted = (F.avg_pool2d(test.images[-1].double(), 2) * 15 / 255).round().flatten() / 15
        np.testing.assert_allclose(np.array(one["image"]) * own["std"] + own["mean"], wanted, atol=1e-12)
        assert abs(one["sum"]) < 1e-6, "normalised"


IN_PAGE = json.loads((programs.SITE / "in_page.json").read_text(encoding="utf-8"))
"""Of each method the accuracies [aa, ab, ba, bb] of seeds 0 to 9."""


def test_the_order_of_the_methods_is_that_of_the_records(header):
    recombined = {method: np.mean(runs, axis=0)[1:3].mean() for method, runs in IN_PAGE.items()}
    assert recombined.keys() == header["recorded"].keys() and {len(runs) for runs in IN_PAGE.values()} == {10}
    for low, high in (("RP", "IIW"), ("independent", "IIW"), ("IIW", "DCC"), ("IIW+RP", "RP+DCC"), ("DCC", "IIW+DCC")):
        assert recombined[low] < recombined[high] and header["recorded"][low] < header["recorded"][high]
    # where they are further apart than noise
    wanted, found = (np.array([table[method] for method in recombined]) for table in (header["recorded"], recombined))
    far = np.abs(wanted[:, None] - wanted) > 0.1
    assert (np.sign(wanted[:, None] - wanted) == np.sign(found[:, None] - found))[far].all()


@needs_node
@pytest.mark.training
@pytest.mark.parametrize("method", IN_PAGE)
def test_accuracies_by_seed_are_pinned(method, header):
    found = in_node(
        DATA
        + """
        const has = (part) => given.method.split("+").includes(part);
        const pair = training.create(data, { start: has("IIW"), classes: has("DCC"), rotation: has("RP"), shared: 9,
            width: 16, seed: 0, steps: 200 });
        while (pair.step < 200) training.step(pair);
        return training.evaluate(pair);
        """,
        header=header,
        method=method,
    )
    assert found == pytest.approx(IN_PAGE[method][0], abs=0.02)


@needs_node
def test_what_was_trained_goes_on_in_python():
    trained = a_run()
    parts, sets = digits.networks(trained), digits.image_sets()
    common = sets[0].classes[: digits.COMMON]
    extractors, heads = zip(*parts, strict=True)
    for extractor, own, accuracies in zip(
        extractors, sets, (trained["accuracies"][:2], trained["accuracies"][2:]), strict=True
    ):
        options = {"classes": common, "statistics": "batch", "batch_size": 1000}
        logits, labels = all_logits(extractor, list(heads), own, **options)
        for each, wanted in zip(logits, accuracies, strict=True):
            assert accuracy(each, labels, torch.arange(digits.COMMON)) == pytest.approx(wanted, abs=0.005)
    with pytest.raises(ValueError, match="trained: nothing yet"):
        digits.networks({})


@needs_node
def test_what_was_changed_in_python_goes_on_in_the_page(header):
    trained = a_run()
    (f_a, h_a), (f_b, h_b) = digits.networks(trained)
    given = digits.replaced(trained, [(f_a, h_b), (f_b, h_a)])
    found = in_node(
        DATA
        + """
        const pair = training.create(data, { ...given.trained.setting, seed: 7 }, given.trained.weights);
        return { accuracies: training.evaluate(pair), weights: training.weights(pair) };
        """,
        header=header,
        trained=given,
    )
    aa, ab, ba, bb = trained["accuracies"]
    assert found["accuracies"] == pytest.approx([ab, aa, bb, ba]), "heads were swapped"
    shared = [[w for w in weights if w["name"].startswith("class head")] for weights in trained["weights"]]
    assert shared == [[w for w in weights if w["name"].startswith("class head")] for weights in found["weights"]]
    with pytest.raises(ValueError, match="networks: weights must be of the shapes"):
        digits.replaced(trained, [(f_a, f_a), (f_b, h_b)])
