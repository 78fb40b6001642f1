"""Every degree policy keeps its promise of edges."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expanders import degrees, graphs
from expanders.errors import SettingError
from expanders.wiring.degrees import LayerShape, NetworkShape

layers = st.builds(
    LayerShape,
    name=st.just("layer"),
    num_left=st.integers(1, 300),
    num_right=st.integers(1, 300),
    kernel_size=st.sampled_from([(1, 1), (3, 3), (7, 7), (1, 3)]),
)
networks = st.builds(
    NetworkShape,
    layers=st.lists(layers, min_size=1, max_size=8).map(tuple),
    other_parameters=st.integers(0, 1000),
)


@settings(max_examples=100, deadline=None)
@given(network=networks, value=st.integers(1, 80))
def test_constant_gives_the_wider_side_its_degree(network, value):
    edges = degrees.constant(network, graphs.rreg, value=value)
    for count, layer in zip(edges, network.layers, strict=True):
        assert count == min(value * max(layer.num_left, layer.num_right), layer.pairs)


def test_paper_budget_counts_as_the_reference_does():
    network = NetworkShape((LayerShape("a", 64, 128), LayerShape("b", 128, 64)))
    paper = partial(degrees.constant, network, value=3, budget="paper")
    assert paper(graphs.rreg) == [384, 384]
    assert paper(graphs.random) == [192, 384]
    assert paper(partial(graphs.random, binomial=True)) == [192, 384]
    assert paper(graphs.xnet) == [192, 384]
    assert paper(partial(graphs.xnet, side="smaller")) == [192, 192]
    assert paper(partial(graphs.xnet, side="output")) == [384, 192]
    assert degrees.constant(network, graphs.xnet, value=3) == [384, 384]


def test_fractional_degree_is_rounded_to_edges():
    network = NetworkShape((LayerShape("a", 10, 7),))
    assert degrees.constant(network, graphs.rreg, value=2.55) == [26]


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, np.int8, np.uint16])
def test_numbers_of_numpy_are_numbers(number):
    network = NetworkShape((LayerShape("a", 3000, 30_000), LayerShape("b", 10, 7)), 50)
    expected = degrees.constant(network, graphs.rreg, value=3)
    counts = degrees.constant(network, graphs.rreg, value=number(3))
    assert counts == expected
    assert {type(count) for count in counts} == {int}
    for policy in (degrees.density, degrees.uniform, degrees.erk):
        expected = policy(network, graphs.rreg, density=1)
        assert policy(network, graphs.rreg, density=number(1)) == expected


@pytest.mark.parametrize("policy", [degrees.density, degrees.uniform, degrees.erk])
def test_densities_of_numpy_are_densities(policy):
    network = NetworkShape((LayerShape("a", 300, 500), LayerShape("b", 10, 70)))
    expected = policy(network, graphs.rreg, density=0.25)
    for number in (np.float16, np.float32, np.float64):
        assert policy(network, graphs.rreg, density=number(0.25)) == expected
    with pytest.raises(SettingError, match=r"^degree.density=1.5: .*above 0 and at most 1"):
        policy(network, graphs.rreg, density=np.float32(1.5))


@pytest.mark.parametrize("number", [np.int16, np.int64, np.uint32])
def test_totals_of_numpy_are_totals(number):
    network = NetworkShape((LayerShape("a", 64, 128, (3, 3)),), 50)
    expected = degrees.total(network, graphs.rreg, 2000)
    assert degrees.total(network, graphs.rreg, number(2000)) == expected
    with pytest.raises(SettingError, match=r"^degree.parameters=58: one edge per layer needs 9 "):
        degrees.total(network, graphs.rreg, number(58))


@pytest.mark.parametrize("value", [True, np.True_, np.float32("nan"), np.float64("inf"), "3", 0.9])
def test_what_is_no_degree_is_named(value):
    network = NetworkShape((LayerShape("a", 10, 7),), 50)
    with pytest.raises(SettingError, match=f"^degree.value={value}: give a number of at least 1"):
        degrees.constant(network, graphs.rreg, value=value)
    with pytest.raises(SettingError, match=f"^degree.parameters={value}: give a whole number"):
        degrees.total(network, graphs.rreg, parameters=value)


@pytest.mark.parametrize("value", [1e9, 1e308, 10**400])
def test_a_huge_degree_means_all_pairs(value):
    network = NetworkShape((LayerShape("a", 10, 7),))
    assert degrees.constant(network, graphs.rreg, value=value) == [70]


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), "three", None, True])
def test_impossible_degrees_are_named(value):
    network = NetworkShape((LayerShape("a", 10, 7),))
    with pytest.raises(SettingError, match=r"degree\.value=.*at least 1"):
        degrees.constant(network, graphs.rreg, value=value)


def test_unknown_budget_is_named():
    network = NetworkShape((LayerShape("a", 10, 7),))
    with pytest.raises(SettingError, match=r"degree\.budget=fair"):
        degrees.constant(network, graphs.rreg, budget="fair")


def weights(network, edges):
    return sum(
        count * layer.weights_per_edge for count, layer in zip(edges, network.layers, strict=True)
    )


def dense_weights(network):
    return weights(network, [layer.pairs for layer in network.layers])


def assert_total(network, edges, target):
    """As many weights as whole edges allow, and every layer within its limits."""
    assert all(1 <= n <= layer.pairs for n, layer in zip(edges, network.layers, strict=True))
    missing = target - weights(network, edges)
    assert missing >= 0
    for count, layer in zip(edges, network.layers, strict=True):
        assert count == layer.pairs or missing < layer.weights_per_edge


@pytest.mark.parametrize("policy", [degrees.density, degrees.erk])
@settings(max_examples=100, deadline=None)
@given(network=networks, density=st.floats(0.001, 1))
def test_a_density_of_the_network_is_kept(policy, network, density):
    target = int(density * dense_weights(network) + 1e-9)
    if target < sum(layer.weights_per_edge for layer in network.layers):
        with pytest.raises(SettingError, match=r"degree\.density=.*one edge per layer needs"):
            policy(network, graphs.rreg, density=density)
    else:
        assert_total(network, policy(network, graphs.rreg, density=density), target)


@settings(max_examples=100, deadline=None)
@given(network=networks, density=st.floats(0.001, 1))
def test_uniform_gives_each_layer_its_density(network, density):
    edges = degrees.uniform(network, graphs.rreg, density=density)
    for count, layer in zip(edges, network.layers, strict=True):
        assert 1 <= count <= layer.pairs
        assert count == 1 or abs(count - density * layer.pairs) <= 0.5 + 1e-9


@pytest.mark.parametrize("spread", ["constant", "uniform", "erk"])
@settings(max_examples=60, deadline=None)
@given(network=networks, share=st.floats(0, 1))
def test_total_counts_every_parameter(spread, network, share):
    least = sum(layer.weights_per_edge for layer in network.layers)
    target = round(least + share * (dense_weights(network) - least))
    parameters = target + network.other_parameters
    edges = degrees.total(network, graphs.rreg, parameters=parameters, spread=spread)
    assert_total(network, edges, target)


def test_density_means_one_degree():
    network = NetworkShape((LayerShape("a", 100, 200, (3, 3)), LayerShape("b", 400, 100)))
    edges = degrees.density(network, graphs.rreg, density=5 * (200 * 9 + 400) / 220_000)
    assert edges == [1000, 2000]


def test_erk_as_published():
    """Densities in the ratio of (fan-in + fan-out + kernel) / size, without clipping."""
    network = NetworkShape((LayerShape("a", 64, 128, (3, 3)), LayerShape("b", 256, 512, (3, 3))))
    first, second = degrees.erk(network, graphs.rreg, density=0.05)
    ratio = (first / (64 * 128)) / (second / (256 * 512))
    published = ((64 + 128 + 6) / (64 * 128 * 9)) / ((256 + 512 + 6) / (256 * 512 * 9))
    assert ratio == pytest.approx(published, rel=1e-3)


def test_erk_fills_small_layers_first():
    network = NetworkShape((LayerShape("a", 3, 64, (3, 3)), LayerShape("b", 512, 512, (3, 3))))
    assert degrees.erk(network, graphs.rreg, density=0.2)[0] == 3 * 64


@pytest.mark.parametrize("density", [0, -0.1, 1.5, float("nan"), "half", None, True])
@pytest.mark.parametrize("policy", [degrees.density, degrees.uniform, degrees.erk])
def test_impossible_densities_are_named(policy, density):
    network = NetworkShape((LayerShape("a", 10, 7),))
    with pytest.raises(SettingError, match=r"degree\.density=.*above 0 and at most 1"):
        policy(network, graphs.rreg, density=density)


def test_impossible_totals_are_named():
    network = NetworkShape((LayerShape("a", 10, 7, (3, 3)),), other_parameters=50)
    for parameters, reason in [
        (58, "one edge per layer needs 9 weights, the graphs are left 8"),
        (681, "the dense network has 680 parameters"),
        (100.5, "whole number"),
    ]:
        with pytest.raises(SettingError, match=f"degree.parameters={parameters}: .*{reason}"):
            degrees.total(network, graphs.rreg, parameters=parameters)
    with pytest.raises(SettingError, match=r"degree\.spread=even"):
        degrees.total(network, graphs.rreg, parameters=100, spread="even")
