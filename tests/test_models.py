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
    with pytest.raises(SettingError, match="model.stem=cifra: choose imagenet or cifar"):
        models.resnet18(stem="cifra")


def test_wide_resnets_have_the_published_sizes():
    """Zagoruyko & Komodakis (2016), table 4: WRN-40-4 8.9M, WRN-16-8 11.0M, WRN-28-10 36.5M."""
    published = {(40, 4): 8.9, (16, 8): 11.0, (28, 10): 36.5}
    for (depth, widening), millions in published.items():
        model = models.wideresnet(10, depth, widening)
        assert size(model) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (56, 0.85)])
def test_resnets_of_cifar_have_the_published_sizes(depth, millions):
    """He et al. (2016), table 6."""
    assert size(getattr(models, f"resnet{depth}")()) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name", [*DENSE, "resnet20", "wideresnet"])
def test_width_scales_every_channel(name):
    build = getattr(models, name)
    whole, half = (dict(build(width=width).named_modules()) for width in (1, 0.5))
    assert whole.keys() == half.keys()
    for layer, module in whole.items():
        if isinstance(module, torch.nn.Conv2d):
            assert half[layer].out_channels == module.out_channels // 2
    assert build(width=0.3).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(SettingError, match="model.width=0: must be above 0"):
        build(width=0)


def test_torchvisions_models_by_name():
    model = models.torchvision("mobilenet_v2", num_classes=7)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    small = models.torchvision("vit_b_16", 10, image_size=32)
    assert small.image_size == 32
    with pytest.raises(SettingError, match="model.name=mobilenet_v4: .*near ones: mobilenet_v2"):
        models.torchvision("mobilenet_v4")
    with pytest.raises(SettingError, match="no such classification model; near ones: resnet50"):
        models.torchvision("fcn_resnet50")
    for name in ("googlenet", "inception_v3"):
        with pytest.raises(SettingError, match=f"{name}: returns more than logits"):
            models.torchvision(name)
    with pytest.raises(SettingError, match="torchvision refuses the options: .*colour"):
        models.torchvision("resnet18", colour=3)
    with pytest.raises(SettingError, match="refuses the options: .*indivisible by patch size"):
        models.torchvision("vit_b_16", image_size=33)


def test_wide_resnets_refuse_other_depths():
    with pytest.raises(SettingError, match="model.depth=20: must be 6 n"):
        models.wideresnet(depth=20)
    with pytest.raises(SettingError, match="model.widening=0: must be 1 or more"):
        models.wideresnet(widening=0)
