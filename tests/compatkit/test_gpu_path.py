"""What runs on a GPU never waits for it inside a loop and mixes no devices, on a GPU that is pretended; and its results
are those of the CPU, to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from compatkit import applications, fct, layers, models, recombination, retrieval, similarity
from compatkit.objectives import Term
from compatkit.recipes import Recipe
from compatkit.training import Task, _Run
from reproduction.runs.embedders import embedder
from reproduction.runs.encoders import (
    ArcFace,
    Contrastive,
    Influence,
    Mixup,
    Reconstruction,
    Softmax,
    decoder,
    linear_classifier,
    projection_head,
)

from ..samples import small_set
from .pretended_gpu import PretendedGPU, pretended_gpu
from .test_training import aux, joint_pair, make_task

CPU = torch.device("cpu")
RECIPE = Recipe(steps=8, batch_size=16, precision="fp32", rotations="sampled")
IMAGES = small_set(size=16)


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with pretended_gpu() as pretended:
        yield pretended


WRONG = [
    lambda x, host: x + host,
    lambda x, host: torch.cat([x, host]),
    lambda x, host: torch.rand(3, generator=torch.Generator(), device=x.device),
]
ASKED = [
    lambda x: x.sum().item(),
    lambda x: x.cpu(),
    lambda x: x[x > 1],
    lambda x: torch.tensor([1.0, 2.0], device=x.device),
    lambda x: x[[0, 1]],
]


def test_devices_do_not_mix_and_the_host_waits_for_what_it_has_to_know(gpu):
    host = torch.tensor([1.0, 3.0, 2.0])
    for wrong in WRONG:
        with pytest.raises(RuntimeError, match="operands on|generator on"):
            wrong(host.to(gpu.device), host)
    x = host.to(gpu.device)
    for asked in ASKED:
        with gpu.watched() as waits:
            asked(x)
        assert len(waits) == 1 and "test_gpu_path.py" in waits[0]


def pair(device):
    return [replace(task, data=task.data.to(device)) for task in joint_pair()]


def one(device, **options):
    task = make_task(**options)
    return [replace(task, data=task.data.to(device))]


def embedded(device, *terms):
    """A task of a small embedder that learns from these terms."""
    return [Task(IMAGES.to(device), embedder("resnet8", 8, width=4, seed=0), terms)]


def supervised(device, kind=Softmax, wrapped=lambda term: term, known=False):
    term = kind(linear_classifier(8, 3, seed=1))
    old = (torch.rand(3, 6).to(device), torch.tensor([0, 1, -1])) if known else ()
    return embedded(device, wrapped(term), *([Influence(*old, term)] if known else []))


def fitted(device):
    h = fct.Transformation(6, 5, 4, 32, seed=0)
    draws = torch.Generator().manual_seed(0)
    return [fct.FitTransformation(h, *(torch.rand(40, width, generator=draws).to(device) for width in (6, 5, 4)))]


TASKS = {
    "two with RP and DCC": (pair, {}),
    "all rotations": (pair, {"rotations": "all", "optimizer": "sgd"}),
    "crops, mirrored": (pair, {"crop": 1, "flip": True, "channels_last": True}),
    "double precision": (pair, {"precision": "fp64"}),
    "jigsaw, unit length": (lambda device: one(device, rp=aux(24), pretext="jigsaw", length=True), {}),
    "mixup": (lambda device: supervised(device, wrapped=Mixup), {}),
    "compatible": (lambda device: supervised(device, ArcFace, known=True), {}),
    "SimCLR": (lambda device: embedded(device, Contrastive(projection_head(8, seed=1))), {"flip": True}),
    "autoencoder": (lambda device: embedded(device, Reconstruction(decoder(8, 3, 16, seed=1))), {}),
    "transformation": (fitted, {}),
}


@pytest.mark.parametrize("name", TASKS)
def test_no_step_waits(gpu, name):
    make, changes = TASKS[name]
    torch.manual_seed(0)
    run = _Run(make(gpu.device), replace(RECIPE, **changes), None)
    run.advance(log=False)  # the statistics of the pixels are copied, once
    with gpu.watched() as waits:
        for _ in range(5):  # into the third epoch
            run.advance(log=False)
    assert waits == []
    torch.manual_seed(0)
    plain = _Run(make(CPU), replace(RECIPE, **changes), None)
    for _ in range(6):
        plain.advance(log=False)
    expected = plain.modules.state_dict()
    for name, found in run.modules.state_dict().items():
        assert found.device == gpu.device and torch.equal(found.cpu(), expected[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_update_takes_no_more_operations_for_more_layers(gpu, optimizer):
    launches = []
    for depth in (8, 14):
        head = linear_classifier(8, 3, seed=1)
        task = Task(IMAGES.to(gpu.device), embedder(f"resnet{depth}", 8, width=4, seed=0), [Softmax(head)])
        run = _Run([task], replace(RECIPE, optimizer=optimizer), None)
        run.advance(log=False)
        before = gpu.launches
        run.optimizer.step()
        launches.append(gpu.launches - before)
    assert launches[0] == launches[1] < 10


def networks():
    """Extractors and heads of two networks."""
    return zip(
        *(models.split(models.build("resnet8", 3, width=4, seed=seed), "stage2") for seed in (0, 1)), strict=True
    )


def adapted(device, recipe):
    (extractor, _), _ = networks()
    images = IMAGES.to(device).train.images
    return applications.adapt(extractor.to(device), aux(4).to(device), images, recipe=recipe)


def updated(device, recipe):
    (extractor, _), (head, _) = networks()
    more = small_set(classes=("cat", "dog", "eel", "fox"), size=16).to(device)
    parts = head.to(device), extractor.to(device), more
    return applications.update_head(*parts, rotation_head=aux(4).to(device), recipe=recipe, seed=1)[1:]


@pytest.mark.parametrize("application", [adapted, updated])
def test_applications_run_on_a_gpu(gpu, application):
    recipe = replace(RECIPE, steps=2)
    (found, history), (expected, logged) = application(gpu.device, recipe), application(CPU, recipe)
    assert history == logged and len(history) == 2
    state = expected.state_dict()
    for name, tensor in found.state_dict().items():
        assert tensor.device == gpu.device and torch.equal(tensor.cpu(), state[name]), name


@dataclass(frozen=True)
class Planted(Term):
    """A term with a fault."""

    name = "planted"

    def loss(self, batch):
        mean = batch.features.mean()
        return mean * mean.item()


def test_a_step_with_a_fault_waits(gpu):
    (task,) = one(gpu.device)
    run = _Run([replace(task, terms=[*task.terms, Planted()])], RECIPE, None)
    run.advance(log=False)
    with gpu.watched() as waits:
        run.advance(log=False)
    assert len(waits) == 1 and "test_gpu_path.py" in waits[0]


def accuracies(device, parts, statistics="batch", heads=2):
    extractors, own = ([part.to(device) for part in parts] for parts in networks())
    options = {"head_classes": [IMAGES.classes] * heads, "statistics": statistics, "batch_size": 40 // parts}
    return recombination.accuracy_matrix(extractors, (own * heads)[:heads], IMAGES.to(device), **options)


def encoded(device, parts):
    model, images = embedder("resnet8", 8, width=4, seed=0).to(device), IMAGES.to(device)
    return retrieval.encode(model, images, images.test, batch_size=40 // parts, unit=True)


def transformed(device, parts):
    (task,) = fitted(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fct, "ROWS", 40 // parts)
        return fct.transform(task.extractor.to(device), *task.data[:2])


def embeddings(device):
    draws = torch.Generator().manual_seed(0)
    return [torch.rand(40, width, generator=draws).to(device) for width in (6, 5)]


def measured(measure, device, parts):
    streamed = measure()
    for x, y in zip(*(side.chunk(parts) for side in embeddings(device)), strict=True):
        streamed.update(x, y)
    return streamed.compute()


def cka_map(device, parts):
    nets = [models.build("resnet8", 3, width=4, seed=seed).to(device) for seed in (0, 1)]
    return layers.cka_map(*nets, IMAGES.to(device).normalise(IMAGES.test.images.to(device)), batch_size=40 // parts)[2]


def retrieved(search, device, parts):
    x, _ = embeddings(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "WORKING_SET", 40 * 1500 // parts)
        return search(x, torch.arange(40).to(device) % 4)


def ranked(x, labels):
    return retrieval.evaluate(x, labels, x, labels, same_items=True).average_precision


def nearest(x, labels):
    return retrieval.nearest(x, x, 3, same_items=True)[0]


STREAMS = [similarity.CKA, similarity.CrossCorrelation]
MEASURED = {
    "accuracy": accuracies,
    "accuracy, recalibrated": partial(accuracies, statistics="recalibrated"),
    "accuracy of heads": lambda device, parts: accuracies(device, 1, heads=parts),
    "embeddings": encoded,
    "transformed": transformed,
    **{kind.__name__: partial(measured, kind) for kind in STREAMS},
    "CKA of batches": cka_map,
    "retrieval": partial(retrieved, ranked),
    "nearest": partial(retrieved, nearest),
}


@pytest.mark.parametrize("name", MEASURED)
def test_no_batch_waits(gpu, name):
    waits = {}
    for parts in (2, 4):
        with gpu.watched() as waits[parts]:
            found = MEASURED[name](gpu.device, parts)
        expected = MEASURED[name](CPU, parts)
        assert torch.equal(found.cpu(), expected) if isinstance(found, torch.Tensor) else found == expected
    assert len(waits[2]) == len(waits[4]), waits[4]


@pytest.mark.parametrize("make", STREAMS)
def test_a_broken_batch_is_told_of_in_the_end(gpu, make):
    good, measure = torch.rand(20, 3), make()
    for batch in (good, good / 0, good):
        measure.update(good.to(gpu.device), batch.to(gpu.device))
    with pytest.raises(ValueError, match="y: must be finite"):
        measure.compute()
