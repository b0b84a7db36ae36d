"""Formulas of the papers' applications, written down once more."""

import torch
from torch import nn

from compatkit.normalization import evaluation
from reproduction.images import load


def average_class_accuracy(extractor, head, images, labels, statistics="batch"):
    net = nn.Sequential(extractor, head)
    with evaluation(net, statistics), torch.no_grad():
        answers = net(images).argmax(1).tolist()
    right = {}
    for answer, label in zip(answers, labels, strict=True):
        right.setdefault(label, []).append(answer == label)
    return sum(sum(hits) / len(hits) for hits in right.values()) / len(right)


def normalised(name, classes):
    """Test images of these classes, normalised by the training images of these classes, and their labels."""
    found = load(name)
    train, test = (
        [k for k, label in enumerate(part.labels) if found.classes[label] in classes]
        for part in (found.train, found.test)
    )
    pixels = found.train.images[train].float() / 255
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.transpose(0, 1).flatten(1).std(1).view(1, -1, 1, 1)
    images = (found.test.images[test].float() / 255 - mean) / std
    return images, [classes.index(found.classes[label]) for label in found.test.labels[test]]
