"""The contract of every graph model, and what each promises of its degrees."""

import inspect
from collections import Counter
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from expanders import graphs
from expanders.errors import SettingError
from expanders.graphs.edges import ring, trade

MODELS = {
    "random": graphs.random,
    "xnet-input": partial(graphs.xnet, side="input"),
    "xnet-smaller": partial(graphs.xnet, side="smaller"),
    "xnet-output": partial(graphs.xnet, side="output"),
    "rreg": graphs.rreg,
}
BIREGULAR = {"rreg"}

sizes = st.integers(1, 40)


@st.composite
def budgets(draw):
    num_left, num_right = draw(sizes), draw(sizes)
    return num_left, num_right, draw(st.integers(1, num_left * num_right))


def degrees(edges, num_left, num_right):
    return np.bincount(edges[0], minlength=num_left), np.bincount(edges[1], minlength=num_right)


def assert_contract(edges, num_left, num_right, num_edges):
    assert edges.dtype == np.int64
    assert edges.shape == (2, num_edges)
    assert edges.min() >= 0
    assert edges[0].max() < num_left
    assert edges[1].max() < num_right
    assert np.all(np.diff(edges[1] * num_left + edges[0]) > 0)  # distinct and sorted


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60, deadline=None)
@given(budget=budgets(), seed=st.integers(0, 2**32))
def test_every_model_keeps_the_contract(name, budget, seed):
    model = MODELS[name]
    edges = model(*budget, np.random.default_rng(seed))
    assert_contract(edges, *budget)
    np.testing.assert_array_equal(edges, model(*budget, np.random.default_rng(seed)))
    if name in BIREGULAR:
        assert all(np.ptp(side) <= 1 for side in degrees(edges, *budget[:2]))


@pytest.mark.parametrize(
    "budget",
    [(64, 64, 3840), (3, 64, 192), (3, 64, 191), (3, 64, 130), (2048, 512, 6144), (64, 64, 4095)],
)
def test_rreg_at_the_shapes_of_networks(budget):
    edges = graphs.rreg(*budget, np.random.default_rng(0))
    assert_contract(edges, *budget)
    assert all(np.ptp(side) <= 1 for side in degrees(edges, *budget[:2]))


@settings(max_examples=100, deadline=None)
@given(budget=budgets())
def test_ring_is_simple_and_balanced(budget):
    edges = ring(*budget)
    assert_contract(edges, *budget)
    assert all(np.ptp(side) <= 1 for side in degrees(edges, *budget[:2]))


@settings(max_examples=60, deadline=None)
@given(budget=budgets(), seed=st.integers(0, 2**32), data=st.data())
def test_trading_keeps_degrees_and_held_edges(budget, seed, data):
    rng = np.random.default_rng(seed)
    start = graphs.random(*budget, rng)
    free = rng.random(budget[2]) < data.draw(st.floats(0, 1))
    edges = trade(start, *budget[:2], rng, free=free)
    assert_contract(edges, *budget)
    for before, after in zip(degrees(start, *budget[:2]), degrees(edges, *budget[:2]), strict=True):
        np.testing.assert_array_equal(before, after)
    assert set(zip(*start[:, ~free].tolist(), strict=True)) <= set(
        zip(*edges.tolist(), strict=True)
    )


def all_biregular(num_left, num_right, num_edges):
    """Every simple graph whose degrees differ by at most one on each side."""
    pairs = [(i, j) for j in range(num_right) for i in range(num_left)]
    for chosen in combinations(pairs, num_edges):
        sides = degrees(np.array(chosen).T, num_left, num_right)
        if all(np.ptp(side) <= 1 for side in sides):
            yield chosen


@pytest.mark.parametrize("budget", [(3, 3, 6), (4, 4, 8), (3, 4, 5), (4, 3, 5), (3, 4, 8)])
def test_rreg_is_uniform_over_all_biregular_graphs(budget):
    support = set(all_biregular(*budget))
    rng = np.random.default_rng(0)
    draws = 20 * len(support)
    counts = Counter(
        tuple(zip(*graphs.rreg(*budget, rng).tolist(), strict=True)) for _ in range(draws)
    )
    assert set(counts) <= support
    statistic = sum((counts[graph] - 20) ** 2 / 20 for graph in support)
    assert chi2.sf(statistic, len(support) - 1) > 1e-3


@pytest.mark.parametrize(("side", "regular"), [("input", 0), ("smaller", 1), ("output", 1)])
def test_xnet_is_regular_on_the_side_that_draws(side, regular):
    edges = graphs.xnet(20, 10, 60, np.random.default_rng(0), side=side)
    sides = degrees(edges, 20, 10)
    assert np.ptp(sides[regular]) == 0
    assert np.ptp(sides[1 - regular]) > 1


def test_xnet_neighbour_sets_are_uniform():
    rng = np.random.default_rng(0)
    counts = Counter(tuple(graphs.xnet(1, 5, 3, rng)[1].tolist()) for _ in range(2000))
    statistic = sum((counts[chosen] - 200) ** 2 / 200 for chosen in combinations(range(5), 3))
    assert sum(counts.values()) == 2000
    assert chi2.sf(statistic, 9) > 1e-3


def test_binomial_random_has_the_budget_on_average():
    rng = np.random.default_rng(0)
    sizes = [graphs.random(30, 20, 90, rng, binomial=True).shape[1] for _ in range(400)]
    deviation = np.sqrt(600 * 0.15 * 0.85)
    assert abs(np.mean(sizes) - 90) < 4 * deviation / 20
    assert 0.8 * deviation < np.std(sizes) < 1.2 * deviation


def test_dense_is_complete_whatever_the_budget():
    edges = graphs.dense(5, 7, 1, np.random.default_rng(0))
    assert_contract(edges, 5, 7, 35)


@pytest.mark.parametrize("name", MODELS)
def test_impossible_budgets_name_shape_and_budget(name):
    rng = np.random.default_rng(0)
    for num_edges in (0, 13):
        with pytest.raises(SettingError, match=f"num_edges={num_edges}: a 3x4 graph .*12 edges"):
            MODELS[name](3, 4, num_edges, rng)
    with pytest.raises(SettingError, match="num_right=0"):
        MODELS[name](3, 0, 1, rng)


def test_unknown_side_is_named():
    with pytest.raises(SettingError, match="side=left: choose input, smaller or output"):
        graphs.xnet(3, 4, 6, np.random.default_rng(0), side="left")


def test_all_models_have_the_contract_signature():
    for name in graphs.__all__:
        parameters = list(inspect.signature(getattr(graphs, name)).parameters)
        assert parameters[:4] == ["num_left", "num_right", "num_edges", "rng"]
