"""What training costs beyond the network's own arithmetic: the loop, the usual data loader, checkpoints, a whole run.

The *bare step* is forward, backward and update on one minibatch that stays the same: no loop can be faster. Ours also
draws, crops, mirrors and normalises. The usual loop is Dataset, DataLoader without worker processes, and torchvision's
transforms of single images, with the bare step on what they give. All three have one network, precision and thread.
The run of Fig. 2 is one pair of networks under IIW+RP+DCC at the laptop preset, in a new process and CPU seconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatkit import models, recombination
from compatkit.batches import Batches
from compatkit.images import ImageSet, Split
from compatkit.objectives import Target
from compatkit.recipes import Recipe
from compatkit.training import Task, train, uses_bf16
from reproduction.experiments import configs
from reproduction.experiments.presets import override
from reproduction.images import torchvision_
from reproduction.runs import measures, pair
from reproduction.runs.context import Context

from .harness import Row, apart, measured, missing, ratio, resident_mib, seconds, synchronise

BATCH = 128


def measure(quick: bool = False) -> list[Row]:
    rounds, steps = (1, 1) if quick else (7, 8)
    return [
        *of_steps("ResNet-8", "resnet8", 16, "cpu", rounds, steps),
        *of_steps("ResNet-20", "resnet20", 16, "cpu", rounds, steps),
        extractor_passes(4, 5),
        of_checkpoints(3 if quick else 20),
        *of_laptop_run(2 if quick else None),
    ]


def of_steps(
    name: str, network: str, width: int, device: str, rounds: int, steps: int, least: float = 0.9
) -> list[Row]:
    """Our step beside the bare one and, on a CPU, beside the usual loop. ``least`` is promised of the first."""
    usual = device == "cpu" and not missing("torchvision")
    taken = turns(network, width, device, rounds, steps, usual)
    ours, bare = taken["ours"], taken["bare"]
    speed = f"{steps * BATCH / statistics.median(ours):,.0f} images/s"
    rows = [ratio(f"{name}, share of the bare step", list(zip(ours, bare, strict=True)), least, note=speed)]
    what = f"{name} against Dataset and DataLoader"
    if usual:
        bound = statistics.median(other / free for other, free in zip(taken["usual"], bare, strict=True))
        note = f"the network bounds it: a loop that costs nothing has {bound:.2f}"
        rows.append(ratio(what, list(zip(ours, taken["usual"], strict=True)), note=note))
    elif device == "cpu":
        rows.append(Row(what, note="torchvision is not installed"))
    return rows


def turns(network: str, width: int, device: str, rounds: int, steps: int, usual: bool) -> dict[str, list[float]]:
    """Seconds that ``steps`` steps take in each round, of ours, of the bare step and of the usual loop if asked for."""
    image_set = photographs(steps * BATCH).to(device)
    recipe = Recipe(steps=steps * (rounds + 1), batch_size=BATCH, crop=4, flip=True)
    fixed = [Batches(image_set, BATCH, crop=4, flip=True)(0)] * steps
    batches: dict[str, Iterable] = {"bare": fixed} | ({"usual": data_loader(image_set)} if usual else {})
    steps_of = {name: plain_steps(network, width, device, recipe, source) for name, source in batches.items()}
    taken: dict[str, list[float]] = {name: [] for name in ("ours", *steps_of)}
    began = time.perf_counter()

    def on_step(step: int) -> None:
        nonlocal began
        if step % steps == 0:
            synchronise()
            taken["ours"].append(time.perf_counter() - began)
            for name, function in steps_of.items():
                taken[name].append(seconds(function))
            began = time.perf_counter()

    train([task_of(image_set, network, width)], recipe, on_step=on_step, show_progress=False)
    return {name: values[1:] for name, values in taken.items()}  # the first round warms up


def task_of(image_set: ImageSet, network: str, width: int) -> Task:
    extractor, head = models.split(models.build(network, 10, seed=0, width=width), "stage2")
    return Task(image_set, extractor, [Target(head)])


def photographs(n: int) -> ImageSet:
    """Random images of CIFAR's shape; what they show does not matter here."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 32, 32), generator=g, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (n,), generator=g))
    return ImageSet("random", split, split, tuple("0123456789"))


def plain_steps(network: str, width: int, device: str, recipe: Recipe, batches: Iterable) -> Callable[[], None]:
    """A function that takes a step on each of ``batches``, as one writes it without a library."""
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    net = models.build(network, 10, seed=0, width=width).to(device, memory_format=layout).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)

    def function() -> None:
        for images, labels in batches:
            with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(recipe, device)):
                loss = F.cross_entropy(net(images.contiguous(memory_format=layout)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return function


def data_loader(image_set: ImageSet) -> torch.utils.data.DataLoader:
    """The training images, shuffled, each through torchvision's crop, mirroring and normalisation."""
    torchvision_()
    from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToPILImage, ToTensor

    mean, std = (m.flatten().tolist() for m in image_set.pixel_statistics)
    transform = Compose(
        [ToPILImage(), RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(mean, std)]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(image_set.train)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return transform(image_set.train.images[i]), image_set.train.labels[i]

    return torch.utils.data.DataLoader(Images(), BATCH, shuffle=True)


def extractor_passes(m: int, k: int) -> Row:
    """How often a batch goes through an extractor when m extractors meet k heads."""
    image_set = photographs(256)
    parts = [models.split(models.build("resnet8", 10, seed=i), "stage2") for i in range(max(m, k))]
    extractors, heads = [extractor for extractor, _ in parts[:m]], [head for _, head in parts[:k]]
    passes: list[nn.Module] = []
    for extractor in extractors:
        extractor.register_forward_hook(lambda module, *_: passes.append(module))
    recombination.accuracy_matrix(
        extractors, heads, image_set, head_classes=[image_set.classes] * k, batch_size=len(image_set.test)
    )
    note = f"one for each pair would be {m * k}"
    return Row(f"{m} extractors with {k} heads", len(passes), None, f"= {m}", len(passes) == m, note, "passes")


def of_checkpoints(count: int) -> Row:
    """Seconds that one takes, from the end of a step to the beginning of the next."""
    tasks = [task_of(photographs(4), "resnet56", 16) for _ in range(2)]
    taken, ended = [], None

    def on_step(_: int) -> None:
        nonlocal ended
        ended = time.perf_counter()

    def before_step(*_) -> None:
        if ended is not None:
            taken.append(time.perf_counter() - ended)

    tasks[0].extractor.register_forward_pre_hook(before_step)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "checkpoint.pt"
        recipe = Recipe(steps=count + 2, batch_size=4)
        train(tasks, recipe, checkpoint=file, checkpoint_seconds=0.0, on_step=on_step, show_progress=False)
        size = file.stat().st_size / 2**20
    share = statistics.median(taken[1:]) / 30
    note = f"{size:.0f} MiB; {share:.2%} of a run, which writes one each 30 s"
    return measured("a checkpoint of two ResNet-56 and of Adam", taken[1:], "s", 0.3, note=note)


def of_laptop_run(steps: int | None = None) -> list[Row]:
    """CPU seconds and peak memory of one run of Fig. 2 in a process of its own; ``steps`` instead of its own."""
    stages, peak = apart(laptop_run, steps)
    most = {"prepare": 1, "train": 50, "evaluate": 4}
    rows = [measured(f"Fig. 2 on a laptop, {stage}", [s], "s", most.get(stage)) for stage, s in stages.items()]
    return [*rows, measured("Fig. 2 on a laptop, peak memory", [peak], "MiB", note="with Python and torch")]


def laptop_run(steps: int | None) -> tuple[dict[str, float], float]:
    """CPU seconds by stage, and MiB at the peak."""
    config = next(c for c in configs("fig2", "laptop", [0]) if c.a == "digits" and c.method == "IIW+RP+DCC")
    config = override(config, {"recipe.steps": steps} if steps else {})
    context = Context()
    stages = {}

    def timed(stage: str, function: Callable, *arguments):
        start = time.process_time()
        result = function(*arguments)
        stages[stage] = time.process_time() - start
        return result

    prepared = timed("prepare", pair.prepare, config, context)
    timed("prepare again", pair.prepare, config, context)
    timed("train", pair.train_pair, prepared, config, context)
    timed("evaluate", lambda: measures.measure(pair.probed(prepared, config)))
    return stages, resident_mib("VmHWM")
