import pytest
import torch

from expanders import degrees, graphs, models, sparsify
from expanders.errors import SettingError

DENSE = {
    "vgg16bn": 14_990_922,
    "resnet18": 11_181_642,
    "resnet34": 21_289_802,
    "resnet50": 23_528_522,
    "resnet101": 42_520_650,
    "resnet152": 58_164_298,
    "resnet32": 464_154,
}
XNET = {
    ("vgg16bn", 3): 115_931,
    ("vgg16bn", 15): 523_295,
    ("vgg16bn", 30): 1_032_500,
    ("vgg16bn", 60): 2_050_910,
    ("resnet18", 3): 117_066,
    ("resnet34", 3): 224_714,
    ("resnet50", 3): 241_226,
    ("resnet101", 3): 476_234,
    ("resnet152", 3): 683_594,
}


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "expected"), DENSE.items())
def test_dense_networks_have_the_papers_size(name, expected):
    build = getattr(models, name)
    assert size(build(num_classes=10)) == expected
    head = 512 if name in ("vgg16bn", "resnet18", "resnet34") else 2048
    if name != "resnet32":
        assert size(build(num_classes=200)) == expected + 190 * (head + 1)


@pytest.mark.parametrize(("cell", "expected"), XNET.items())
def test_xnet_networks_have_the_papers_size(cell, expected):
    name, degree = cell
    model = getattr(models, name)(num_classes=10)

    def policy(network, graph):
        return degrees.constant(network, graph, value=degree, budget="paper")

    report = sparsify(model, graphs.xnet, policy)
    assert size(model) == report.live == expected
    assert report.dense == DENSE[name]


@pytest.mark.parametrize("name", DENSE)
def test_maps_images_to_logits(name):
    model = getattr(models, name)(num_classes=7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_cifar_stem_keeps_the_resolution():
    model = models.resnet18(stem="cifar")
    assert model.conv1(torch.zeros(1, 3, 32, 32)).shape[-1] == 32
    with pytest.raises(SettingError, match="model.stem=cifra: must be imagenet or cifar"):
        models.resnet18(stem="cifra")
