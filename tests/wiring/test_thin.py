from functools import partial

import pytest

from expanders import models, sparsify
from expanders.errors import SettingError
from expanders.wiring.draw import live_parameters
from expanders.wiring.thin import width_of


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("degree", [3, 30])
@pytest.mark.parametrize("name", ["vgg16bn", "resnet18", "resnet50", "wideresnet"])
def test_thin_networks_have_the_parameters_of_sparse_ones(name, degree):
    build = getattr(models, name)
    model = build()
    expected = live_parameters(model, degree=degree)
    thin = build(width=width_of(lambda width: build(width=width), expected))
    assert size(thin) == pytest.approx(expected, rel=0.02)
    if name == "vgg16bn":
        assert expected == sparsify(model, degree=degree).live


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_small_residual_networks_have_a_thin_one_at_every_low_degree(name):
    build = getattr(models, name)
    model = build()
    for degree in range(2, 9):
        expected = live_parameters(model, degree=degree)
        width = width_of(lambda width: build(width=width), expected)
        assert size(build(width=width)) == pytest.approx(expected, rel=0.02)


def test_a_number_of_parameters_that_no_width_gives():
    remedy = "no width gives 10 parameters: the nearest, .* choose another degree or model"
    with pytest.raises(SettingError, match=remedy):
        width_of(partial(models.resnet20, 10), 10)
