"""Every degree policy keeps its promise of edges."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expanders import degrees, graphs
from expanders.degrees import LayerShape, NetworkShape
from expanders.errors import SettingError

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


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), "three", None, True])
def test_impossible_degrees_are_named(value):
    network = NetworkShape((LayerShape("a", 10, 7),))
    with pytest.raises(SettingError, match=r"degree\.value=.*at least 1"):
        degrees.constant(network, graphs.rreg, value=value)


def test_unknown_budget_is_named():
    network = NetworkShape((LayerShape("a", 10, 7),))
    with pytest.raises(SettingError, match=r"degree\.budget=fair"):
        degrees.constant(network, graphs.rreg, budget="fair")
