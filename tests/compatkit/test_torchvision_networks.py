"""torchvision's networks in blocks: the same outputs, the same parameters, halves that fit."""

import pytest
import torch
from torch import nn

from compatkit import models, recombination
from reproduction.images import torchvision_

SIZE = {"googlenet": 64}
OPTIONS = {"googlenet": {"aux_logits": False, "init_weights": False, "transform_input": False}, "vit_b_16": {}}
NETWORKS = {
    "resnet18": ("conv1", "layer2", "flatten"),
    "mobilenet_v2": ("features0", "features7"),
    "mobilenet_v3_small": ("features3",),
    "densenet121": ("denseblock1", "transition1", "relu"),
    "efficientnet_b0": ("features2",),
    "squeezenet1_1": ("features3", "features5"),
    "shufflenet_v2_x0_5": ("stage2", "mean"),
    "googlenet": ("inception3a", "inception4d"),
}


def network(name, **options):
    torch.manual_seed(0)
    return getattr(torchvision_().models, name)(weights=None, **OPTIONS.get(name, {}) | options).eval()


def vit():
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    net = torchvision_().models.VisionTransformer(**shape, num_classes=10).eval()
    nn.init.normal_(net.heads.head.weight)  # which starts at 0
    return net


@pytest.mark.parametrize("name", [*NETWORKS, "vit"])
def test_halves_are_the_whole_and_fit_each_other(name):
    net = vit() if name == "vit" else network(name)
    images = torch.randn(2, 3, SIZE.get(name, 32), SIZE.get(name, 32))
    with torch.no_grad():
        expected = net(images)
    assert expected.abs().max() > 0
    for at in ("tokens", "encoder_layer_1", "ln") if name == "vit" else NETWORKS[name]:
        assert at in models.split_points(net)
        extractor, head = models.split(net, at)
        with torch.no_grad():
            assert torch.allclose(recombination.recombine(extractor, head)(images), expected, atol=1e-5), at
        own = {id(p) for p in net.parameters()}
        assert {id(p) for part in (extractor, head) for p in part.parameters()} == own


def test_the_channels_of_a_concatenation_are_known():
    extractor, _ = models.split(network("squeezenet1_1"), "features3")
    assert models.fit_channels(extractor, 128) is extractor


def test_what_cannot_be_split_is_said():
    with pytest.raises(ValueError, match=r"aux_logits=False"):
        models.split(network("googlenet", aux_logits=True), "inception3a")
    with pytest.raises(ValueError, match="net: a Linear cannot be split, only an nn.Sequential .*ResNet.*VisionTrans"):
        models.split_points(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="at: no boundary after 'layer9'; there are conv1, bn1"):
        models.split(network("resnet18"), "layer9")
