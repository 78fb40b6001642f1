"""One network of each of torchvision's families goes all the way, from its name to a file."""

import pytest
import torch
from torch import nn
from torchvision import models as zoo

import expanders
from expanders import models, sparsify
from expanders.export import network, writing
from expanders.runs.checkpoint import Blueprint

FAMILIES = {  # the narrowest of each, with the side of an image, as small as it takes them
    "alexnet": ("alexnet", 64),
    "convnext": ("convnext_tiny", 32),
    "densenet": ("densenet121", 32),
    "efficientnet": ("efficientnet_b0", 32),
    "maxvit": ("maxvit_t", 224),
    "mnasnet": ("mnasnet0_5", 32),
    "mobilenetv2": ("mobilenet_v2", 32),
    "mobilenetv3": ("mobilenet_v3_small", 32),
    "regnet": ("regnet_y_400mf", 32),
    "resnet": ("resnet18", 32),
    "shufflenetv2": ("shufflenet_v2_x0_5", 32),
    "squeezenet": ("squeezenet1_1", 32),
    "swin_transformer": ("swin_t", 32),
    "vgg": ("vgg11", 32),
    "vision_transformer": ("vit_b_16", 32),
}
TRACED = {"squeezenet": "onnx", "mobilenetv2": "torch"}  # the others as quicker: dense-torch
REFUSED = {"googlenet", "inception"}  # return more than logits in training


def test_every_family_is_here():
    names = zoo.list_models(module=zoo)
    assert {zoo.get_model_builder(name).__module__.rpartition(".")[2] for name in names} == {
        *FAMILIES,
        *REFUSED,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_from_its_name_to_a_file_with_the_same_outputs(family, tmp_path):
    name, side = FAMILIES[family]
    arguments = {"name": name, "num_classes": 4}
    if family == "vision_transformer":
        arguments["image_size"] = side
    torch.manual_seed(0)
    model = models.torchvision(**arguments)
    report = sparsify(model, degree=2)
    assert report.live < report.dense
    images, labels = torch.randn(4, 3, side, side), torch.arange(4)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert any(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
    path = tmp_path / "best.pt"
    expanders.save(path, model, Blueprint("expanders.models.torchvision", arguments))
    with torch.no_grad():
        expected = model.eval()(images)
        assert torch.equal(expanders.load(path)(images), expected)
    trained = network.read(path, side)
    written = writing.write(trained, TRACED.get(family, "dense-torch"), tmp_path / "network")
    assert 0 <= written.difference <= 1e-4 * written.largest
