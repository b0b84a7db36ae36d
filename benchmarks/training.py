"""What a training step costs beyond its arithmetic, and what the usual data loader costs. Prints ratios of this run.

    python benchmarks/training.py [--device cuda]

1. Our step (fetch, augment, normalise, forward, backward, update) against forward, backward and update on a fixed
   batch. Promise: at most 1.10.
2. Images a second of our loop against Dataset + DataLoader + per-image torchvision transforms: same network, CPU, same
   number of threads, no worker processes. Promise: at least 1.5 with our default precision, which is bf16 where the
   CPU has arithmetic for it. In fp32 on both sides the network's own cost hides most of the difference.
3. Extractor passes when m extractors meet k heads. Promise: m.

Timings alternate between the two sides and each is the median of several rounds, so that a busy machine disturbs both
alike.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from compatkit import data, models, recombination
from compatkit.batches import Batches
from compatkit.data import ImageSet, Split
from compatkit.objectives import Target, target_loss
from compatkit.training import Recipe, Task, train, uses_bf16

ROUNDS, STEPS, BATCH = 9, 12, 128


def photographs(n: int, device: str) -> ImageSet:
    """Random images of CIFAR's shape; what they show does not matter here."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 32, 32), generator=g, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (n,), generator=g))
    return ImageSet("random", split, split, tuple("0123456789")).to(device)


def seconds(function, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def network_of(width: int, network: str) -> tuple[nn.Sequential, nn.Sequential]:
    return models.split(models.build(network, 10, seed=0, width=width), "stage2")


def against_our_step(other, image_set: ImageSet, network: str, width: int, precision: str, device: str) -> float:
    """Median seconds of ``other``, which takes STEPS steps, by those of as many steps of ``train``; rounds take
    turns."""
    extractor, head = network_of(width, network)
    task = Task(image_set, extractor, [Target(head)])
    recipe = Recipe(steps=STEPS * (ROUNDS + 1), batch_size=BATCH, crop=4, flip=True, precision=precision)
    ours, theirs, clock = [], [], [time.perf_counter()]

    def on_step(step: int) -> None:
        if step % STEPS == 0:
            if device == "cuda":
                torch.cuda.synchronize()
            ours.append(time.perf_counter() - clock[0])
            theirs.append(seconds(other, device))
            clock[0] = time.perf_counter()

    train([task], recipe, on_step=on_step, show_progress=False)
    return statistics.median(theirs[1:]) / statistics.median(ours[1:])  # the first round warms up


def step_overhead(image_set: ImageSet, network: str, width: int, device: str) -> float:
    extractor, head = (part.to(device).train() for part in network_of(width, network))
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    net = nn.Sequential(extractor, head).to(memory_format=layout)
    recipe = Recipe(batch_size=BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    images, labels = Batches(image_set, BATCH, crop=4, flip=True)(0)
    images = images.contiguous(memory_format=layout)

    def bare():
        for _ in range(STEPS):
            with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(recipe, device)):
                loss = target_loss(net(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return 1 / against_our_step(bare, image_set, network, width, "auto", device)


def against_data_loader(image_set: ImageSet, network: str, width: int, precision: str) -> float:
    data.torchvision_()
    from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToPILImage, ToTensor

    mean, std = (m.flatten().tolist() for m in image_set.pixel_statistics)
    transform = Compose(
        [ToPILImage(), RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor(), Normalize(mean, std)]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return STEPS * BATCH

        def __getitem__(self, i: int):
            return transform(image_set.train.images[i]), image_set.train.labels[i]

    loader = torch.utils.data.DataLoader(Images(), BATCH, shuffle=True)
    net = models.build(network, 10, seed=0, width=width)
    optimizer = torch.optim.Adam(net.parameters())

    def usual():
        for images, labels in loader:
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return against_our_step(usual, image_set, network, width, precision, "cpu")


def extractor_passes(m: int, k: int) -> float:
    image_set = photographs(256, "cpu")
    parts = [models.split(models.build("resnet8", 10, seed=i), "stage2") for i in range(max(m, k))]
    passes = []
    for extractor, _ in parts:
        extractor.register_forward_hook(lambda *_: passes.append(1))
    heads = [head for _, head in parts[:k]]
    recombination.accuracy_matrix(
        [e for e, _ in parts[:m]], heads, image_set, head_classes=[image_set.classes] * k, batch_size=256
    )
    return len(passes) / m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="of the first comparison")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = options.device
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(f"torch {torch.__version__}, {name}, {options.threads} thread(s), batch {BATCH}, median of {ROUNDS} rounds")
    for network, width in (("resnet8", 16), ("resnet20", 16)):
        overhead = step_overhead(photographs(STEPS * BATCH, device), network, width, device)
        print(f"{network}: our step / bare step               {overhead:5.2f}   (promise <= 1.10)")
    for network, precision in (("resnet8", "auto"), ("resnet20", "auto"), ("resnet8", "fp32"), ("resnet20", "fp32")):
        ratio = against_data_loader(photographs(STEPS * BATCH, "cpu"), network, 16, precision)
        promise = "(promise >= 1.5)" if precision == "auto" else ""
        print(f"{network}, {precision}: images/s, ours / DataLoader, CPU {ratio:5.2f}   {promise}")
    print(f"4 extractors x 5 heads: passes per extractor    {extractor_passes(4, 5):5.2f}   (promise 1)")


if __name__ == "__main__":
    main()
