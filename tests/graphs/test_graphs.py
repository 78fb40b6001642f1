"""The contract of every graph model, and what each promises of its degrees."""

import inspect
import itertools
from collections import Counter
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from expanders import graphs, spectra
from expanders.errors import SettingError
from expanders.graphs import lifts, literature
from expanders.graphs.edges import check_edges, ring, sort_edges, trade

MODELS = {
    "random": graphs.random,
    "xnet-input": partial(graphs.xnet, side="input"),
    "xnet-smaller": partial(graphs.xnet, side="smaller"),
    "xnet-output": partial(graphs.xnet, side="output"),
    "rreg": graphs.rreg,
    "rreg-none": partial(graphs.rreg, select="none"),
    "rreg-best": partial(graphs.rreg, select="best_of_k", draws=3),
    "rreg-expansion": partial(graphs.rreg, select="expansion", draws=2),
    "blocks": graphs.blocks,
    "blocks-shuffled": partial(graphs.blocks, shuffle=True),
    "circulant": graphs.circulant,
    "circulant-shuffled": partial(graphs.circulant, shuffle=True),
    "rewired": partial(graphs.rewired, p=0.3),
    "rewired-shuffled": partial(graphs.rewired, p=0.7, shuffle=True),
    "rewired-circulant": partial(graphs.rewired, p=0.3, base="circulant"),
    "lift": graphs.lift,
    "diagonal": graphs.diagonal,
    "regular scale-free": partial(graphs.scale_free, exponent=0),
    "scale-free": graphs.scale_free,
    "heavy-tailed scale-free": partial(graphs.scale_free, exponent=1),
}
IRREGULAR = {
    *("random", "xnet-input", "xnet-smaller", "xnet-output"),
    *("diagonal", "scale-free", "heavy-tailed scale-free"),
}

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
@settings(max_examples=40, deadline=None)
@given(budget=budgets(), seed=st.integers(0, 2**32))
def test_every_model_keeps_the_contract(name, budget, seed):
    model = MODELS[name]
    edges = model(*budget, np.random.default_rng(seed))
    assert_contract(edges, *budget)
    np.testing.assert_array_equal(edges, model(*budget, np.random.default_rng(seed)))
    if name not in IRREGULAR:
        assert all(np.ptp(side) <= 1 for side in degrees(edges, *budget[:2]))


@pytest.mark.parametrize(
    "budget",
    [(64, 64, 3840), (3, 64, 192), (3, 64, 191), (3, 64, 130), (2048, 512, 6144), (64, 64, 4095)],
)
@pytest.mark.parametrize("name", ["rreg", "blocks", "circulant", "rewired"])
def test_biregular_models_at_the_shapes_of_networks(name, budget):
    edges = MODELS[name](*budget, np.random.default_rng(0))
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
    draws = 10 * len(support)
    counts = Counter(
        tuple(zip(*graphs.rreg(*budget, rng, select="none").tolist(), strict=True))
        for _ in range(draws)
    )
    assert set(counts) <= support
    statistic = sum((counts[graph] - 10) ** 2 / 10 for graph in support)
    assert chi2.sf(statistic, len(support) - 1) > 1e-3


def ratio(edges, num_left, num_right):
    return spectra.measure(edges, num_left, num_right)["ramanujan_ratio"]


def test_rreg_meets_the_ramanujan_bound():
    budget = (128, 128, 384)
    plain, selected = [], []
    for seed in range(28, 34):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        plain.append(ratio(graphs.rreg(*budget, rngs[0], select="none"), *budget[:2]))
        selected.append(ratio(graphs.rreg(*budget, rngs[1]), *budget[:2]))
    assert max(plain) > 1  # one of these draws is bad, so it is selection that meets the bound
    assert max(selected) <= 1


def test_rreg_ramanujan_falls_back_to_the_best_seen():
    stars = graphs.rreg(10, 30, 30, np.random.default_rng(0), draws=3)  # sigma2 above the bound
    assert ratio(stars, 10, 30) > 1


def test_best_of_k_is_the_best_of_the_same_draws():
    rng = np.random.default_rng(0)
    sigmas = [
        spectra.measure(graphs.rreg(20, 20, 60, rng, select="none"), 20, 20)["sigma2"]
        for _ in range(5)
    ]
    rng = np.random.default_rng(0)
    best = graphs.rreg(20, 20, 60, rng, select="best_of_k", draws=5)
    assert spectra.measure(best, 20, 20)["sigma2"] == min(sigmas) < max(sigmas)


def test_lift_has_less_sigma2_than_the_best_random_graphs():
    for num_left, num_right, degree in [(64, 64, 3), (64, 128, 3), (128, 64, 15), (32, 32, 25)]:
        budget = num_left, num_right, degree * max(num_left, num_right)
        for seed in range(3):
            lifted = graphs.lift(*budget, np.random.default_rng(seed))
            assert_contract(lifted, *budget)
            random = graphs.rreg(*budget, np.random.default_rng(seed), select="best_of_k")
            assert ratio(lifted, *budget[:2]) < ratio(random, *budget[:2]) < 1


def test_two_lift_adds_the_singular_values_of_the_signed_matrix():
    rng = np.random.default_rng(0)
    base = graphs.rreg(6, 9, 20, rng)
    signs = rng.choice([-1.0, 1.0], size=20)
    matrix, signed = np.zeros((6, 9)), np.zeros((6, 9))
    matrix[base[0], base[1]], signed[base[0], base[1]] = 1, signs
    lifted = spectra.biadjacency(lifts._two_lift(base, 6, 9, signs), 12, 18).toarray()
    expected = np.concatenate([np.linalg.svd(m, compute_uv=False) for m in (matrix, signed)])
    np.testing.assert_allclose(
        np.linalg.svd(lifted, compute_uv=False), np.sort(expected)[::-1], atol=1e-9
    )


@pytest.mark.parametrize(
    ("budget", "count"),
    [((64, 64, 192), 21), ((64, 128, 384), 21), ((12, 8, 24), 4), ((3, 64, 64), 1)],
)
def test_blocks_are_as_many_components_as_the_degrees_allow(budget, count):
    values = spectra.measure(graphs.blocks(*budget, np.random.default_rng(0)), *budget[:2])
    assert values["components"] >= count
    assert count == 1 or values["sigma2"] == pytest.approx(values["sigma1"])


def test_blocks_are_a_grouped_convolution():
    edges = graphs.blocks(12, 12, 36, np.random.default_rng(0))
    pairs = {(3 * g + i, 3 * g + j) for g in range(4) for i in range(3) for j in range(3)}
    assert set(zip(*edges.tolist(), strict=True)) == pairs


def test_circulant_neighbours_are_consecutive_on_a_ring():
    edges = graphs.circulant(5, 5, 15, np.random.default_rng(0))
    assert set(zip(*edges.tolist(), strict=True)) == {
        ((j + step) % 5, j) for j in range(5) for step in range(3)
    }


def test_rewired_is_a_dial_of_expansion():
    gaps = []
    for p in (0, 0.2, 0.5, 1):
        rngs = [np.random.default_rng(seed) for seed in range(5)]
        drawn = [graphs.rewired(64, 64, 640, rng, p=p) for rng in rngs]
        gaps.append(np.mean([spectra.measure(e, 64, 64)["normalised_gap"] for e in drawn]))
    assert gaps[0] == pytest.approx(0)
    assert all(after > before + 0.05 for before, after in itertools.pairwise(gaps))
    bound = np.sqrt(9) * 2 / 10
    assert gaps[-1] > 1 - bound  # at p=1 a random graph, Ramanujan as most of them


def test_rewired_from_a_ring_is_a_small_world():
    budget = (64, 64, 640)
    rewired = partial(graphs.rewired, *budget, base="circulant")
    np.testing.assert_array_equal(
        rewired(np.random.default_rng(0), p=0), graphs.circulant(*budget, np.random.default_rng(0))
    )
    values = [
        spectra.measure(rewired(np.random.default_rng(0), p=p), *budget[:2]) for p in (0, 0.1, 1)
    ]
    gaps = [value["normalised_gap"] for value in values]
    cycles = [value["four_cycles"] for value in values]
    assert gaps[0] < 0.05 < gaps[1] < gaps[2]
    assert cycles[1] > 0.5 * cycles[0] > 2 * cycles[2]  # most of the neighbourhoods are still there


@settings(max_examples=60, deadline=None)
@given(budget=budgets(), seed=st.integers(0, 2**32))
def test_diagonals_have_even_degrees(budget, seed):
    edges = graphs.diagonal(*budget, np.random.default_rng(seed))
    shorter, longer = sorted(degrees(edges, *budget[:2]), key=len)
    if len(shorter) == len(longer) or longer.size % shorter.size == 0:
        assert np.ptp(shorter) <= 1
    assert np.ptp(longer) <= 1


@pytest.mark.parametrize(("num_left", "num_right"), [(24, 24), (8, 24), (24, 8)])
def test_diagonals_are_cyclic_and_their_spectrum_is_a_fourier_sum(num_left, num_right):
    shorter, longer = min(num_left, num_right), max(num_left, num_right)
    edges = graphs.diagonal(num_left, num_right, 3 * longer, np.random.default_rng(0))
    moved = sort_edges((edges[0] + 1) % num_left, (edges[1] + 1) % num_right, num_left)
    np.testing.assert_array_equal(edges, moved)
    row = edges[0, edges[1] == 0] if num_right == longer else edges[1, edges[0] == 0]
    frequency = np.arange(shorter)[:, None]
    expected = np.abs(np.exp(2j * np.pi * frequency * row / shorter).sum(axis=1))
    expected *= (longer / shorter) ** 0.5
    dense = spectra.biadjacency(edges, num_left, num_right).toarray()
    found = np.linalg.svd(dense, compute_uv=False)
    np.testing.assert_allclose(found, np.sort(expected)[::-1], atol=1e-9)


def test_offsets_of_diagonals_are_random():
    drawn = {
        tuple(graphs.diagonal(6, 6, 12, np.random.default_rng(seed)).ravel()) for seed in range(300)
    }
    assert len(drawn) == 15  # pairs of six offsets


@settings(max_examples=150, deadline=None)
@given(budget=budgets(), exponent=st.floats(0, 1), seed=st.integers(0, 2**32))
@example(budget=(5, 14, 70), exponent=0.2, seed=0)  # complete
def test_scale_free_has_its_degrees(budget, exponent, seed):
    num_left, num_right, num_edges = budget
    edges = graphs.scale_free(*budget, np.random.default_rng(seed), exponent=exponent)
    sides = degrees(edges, num_left, num_right)
    prescribed = [
        literature._degrees_by_rank(num_left, num_right, num_edges, exponent),
        literature._degrees_by_rank(num_right, num_left, num_edges, exponent),
    ]
    for found, expected in zip(sides, prescribed, strict=True):
        np.testing.assert_array_equal(np.sort(found)[::-1], expected)
        assert found.min() >= 1 or num_edges < found.size


def test_scale_free_is_a_dial_from_regular_to_heavy_tailed_degrees():
    drawn = [
        graphs.scale_free(200, 200, 1000, np.random.default_rng(0), exponent=exponent)
        for exponent in (0, 0.25, 0.5, 0.75, 1)
    ]
    spreads = [np.var(np.bincount(edges[0])) for edges in drawn]
    assert spreads[0] == 0
    assert all(after > 1.5 * before for before, after in itertools.pairwise(spreads))
    found = np.sort(np.bincount(drawn[2][1]))[::-1]
    tail = np.arange(1, 201) ** -0.5
    np.testing.assert_allclose(found, 1 + 800 * tail / tail.sum(), atol=1)


def test_scale_free_is_uniform_over_the_graphs_with_its_degrees():
    budget = (3, 4, 7)
    expected = [sorted(literature._degrees_by_rank(*s, 7, 1)) for s in ((3, 4), (4, 3))]
    pairs = [(i, j) for j in range(4) for i in range(3)]
    support = {
        chosen
        for chosen in combinations(pairs, 7)
        if [sorted(side) for side in degrees(np.array(chosen).T, 3, 4)] == expected
    }
    rng = np.random.default_rng(0)
    counts = Counter(
        tuple(zip(*graphs.scale_free(*budget, rng, exponent=1).tolist(), strict=True))
        for _ in range(10 * len(support))
    )
    assert len(support) > 10
    assert set(counts) <= support
    statistic = sum((counts[graph] - 10) ** 2 / 10 for graph in support)
    assert chi2.sf(statistic, len(support) - 1) > 1e-3


def test_a_graph_that_is_none_is_refused():
    good = graphs.random(3, 4, 6, np.random.default_rng(0))
    check_edges(good, 3, 4)
    check_edges(good[:, :0], 3, 4)
    for bad, problem in (
        (good[:, ::-1], "unsorted, as"),
        (good[:, [0, 1, 1]], rf"repeated, as \[{good[0, 1]}, {good[1, 1]}\]"),
        (good + 3, "outside, as"),
        (good - 2, "outside, as"),
        (good.astype(float), "ndarray: give an int64 array"),
        (good[:1], "ndarray: give an int64 array"),
    ):
        with pytest.raises(SettingError, match=f"edges={problem}"):
            check_edges(bad, 3, 4)


def test_wrong_options_are_named():
    rng = np.random.default_rng(0)
    for call, message in [
        (lambda: graphs.rreg(4, 4, 8, rng, select="best"), "select=best: choose none"),
        (lambda: graphs.rreg(4, 4, 8, rng, draws=0), "draws=0"),
        (lambda: graphs.rreg(4, 4, 8, rng, draws=True), "draws=True"),
        (lambda: graphs.rreg(4, 4, 8.5, rng), r"num_edges=8\.5: give a whole number"),
        (lambda: graphs.xnet(4, "4", 8, rng), "num_right=4: give a whole number"),
        (lambda: graphs.rreg(4, 4, 8, rng, draws="many"), "draws=many: give a whole number"),
        (lambda: graphs.rewired(4, 4, 8, rng, p=1.5), r"p=1\.5: give a number between 0 and 1"),
        (lambda: graphs.rewired(4, 4, 8, rng, p="half"), "p=half: give a number"),
        (lambda: graphs.rewired(4, 4, 8, rng, p=True), "p=True: give a number"),
        (lambda: graphs.rewired(4, 4, 8, rng, p=np.nan), "p=nan: give a number"),
        (lambda: graphs.rewired(4, 4, 8, rng, base="ring"), "base=ring: choose blocks or circ"),
        (lambda: graphs.scale_free(4, 4, 8, rng, exponent=2), "exponent=2: give a number"),
        (lambda: graphs.random(4, 4, 8, rng, binomial="no"), "binomial=no: choose true or false"),
        (lambda: graphs.blocks(4, 4, 8, rng, shuffle="no"), "shuffle=no: choose true or false"),
        (lambda: graphs.circulant(4, 4, 8, rng, shuffle=2), "shuffle=2: choose true or false"),
        (lambda: graphs.xnet(4, 4, 8, rng, side="left"), "side=left: choose input"),
    ]:
        with pytest.raises(SettingError, match=message):
            call()


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


def test_all_models_have_the_contract_signature():
    for name in graphs.__all__:
        parameters = list(inspect.signature(getattr(graphs, name)).parameters)
        assert parameters[:4] == ["num_left", "num_right", "num_edges", "rng"]
