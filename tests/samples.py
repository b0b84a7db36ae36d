"""Small image sets, and how the state of networks is told apart."""

import torch
from torch import nn

from compatkit.images import ImageSet, Split
from compatkit.normalization import batch_norms


def small_set(n=40, classes=("cat", "dog", "eel"), size=8, channels=3, seed=0) -> ImageSet:
    g = torch.Generator().manual_seed(seed)
    splits = [
        Split(
            torch.randint(256, (n, channels, size, size), generator=g, dtype=torch.uint8),
            torch.arange(n) % len(classes),
        )
        for _ in range(2)
    ]
    return ImageSet("small", *splits, tuple(classes))


def uneven_set(classes, n=60, channels=3, seed=0, relabel=lambda label: label) -> ImageSet:
    """Random images of 8 x 8, a different number of each class; ``relabel`` changes the labels for training."""
    g = torch.Generator().manual_seed(seed)
    shape = (n, channels, 8, 8)
    images = [torch.randint(256, shape, generator=g, dtype=torch.uint8) for _ in range(2)]
    train, test = (Split(part, torch.randint(len(classes), (n,), generator=g)) for part in images)
    labels = torch.tensor([relabel(label) for label in train.labels.tolist()])
    return ImageSet("uneven", Split(train.images, labels), test, tuple(classes))


def unsettled(net):
    """``net`` with BN buffers and weights as training might leave them."""
    torch.manual_seed(5)
    for bn in batch_norms(net):
        bn.running_mean.uniform_(-0.3, 0.3), bn.running_var.uniform_(0.5, 2)
        nn.init.uniform_(bn.weight, 0.5, 1.5), nn.init.uniform_(bn.bias, -0.5, 0.5)
    return net


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
