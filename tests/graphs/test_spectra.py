"""Measures against graphs computed by hand, dense linear algebra and networkx."""

import json
import subprocess
import sys
from itertools import combinations, product

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from expanders import graphs, spectra
from expanders.errors import SettingError
from expanders.graphs import expansion, singular
from expanders.graphs.edges import sort_edges


def from_pairs(pairs, num_left):
    left, right = np.array(list(pairs)).T
    return sort_edges(left, right, num_left)


def incidence(lines, num_points):
    return from_pairs([(p, j) for j, line in enumerate(lines) for p in line], num_points)


def cycle(half):
    return from_pairs([(i, j % half) for i in range(half) for j in (i, i + 1)], half)


FANO = [(i, (i + 1) % 7, (i + 3) % 7) for i in range(7)]
HEXAGONS = from_pairs(
    [(3 * b + i, 3 * b + j % 3) for b in range(2) for i in range(3) for j in (i, i + 1)], 6
)
ROOT2, ROOT8 = 2**0.5, 8**0.5
BY_HAND = {
    # the incidence graph of the Fano plane is the Heawood graph: girth 6, sigma2 = sqrt(2)
    "heawood": (incidence(FANO, 7), 7, 7, 3, ROOT2, 1 - ROOT2 / 3, ROOT8, 1, 0, 6, 1),
    "K33": (from_pairs(product(range(3), range(3)), 3), 3, 3, 3, 0, 1, ROOT8, 1, 9, 4, 1),
    "K25": (
        from_pairs(product(range(2), range(5)), 2), 2, 5, 10**0.5, 0, 1, 3, 1, 10, 4, 1
    ),
    "hexagon": (cycle(3), 3, 3, 2, 1, 0.5, 2, 1, 0, 6, 1),
    "square": (cycle(4), 4, 4, 2, ROOT2, 1 - ROOT2 / 2, 2, 1, 0, 8, 1),
    "two hexagons": (HEXAGONS, 6, 6, 2, 2, 0, 2, 2, 0, 6, 1),
    "path": (from_pairs([(0, 0), (1, 0)], 2), 2, 1, ROOT2, 0, 1, 1, 1, 0, None, 1),
    "matching": (from_pairs([(0, 0), (1, 1)], 2), 2, 2, 1, 1, 0, 0, 2, 0, None, 0),
}  # fmt: skip
NAMES = [
    "sigma1",
    "sigma2",
    "normalised_gap",
    "ramanujan_bound",
    "components",
    "four_cycles",
    "girth",
    "ramanujan",
]


@pytest.mark.parametrize("name", BY_HAND)
def test_measures_known_by_hand(name):
    edges, num_left, num_right, *expected = BY_HAND[name]
    values = spectra.measure(edges, num_left, num_right)
    for key, value in zip(NAMES, expected, strict=True):
        assert values[key] == pytest.approx(value, abs=1e-9), key
    assert values["delta_r"] == pytest.approx(values["ramanujan_bound"] - values["sigma2"])
    json.dumps(values, allow_nan=False)


@st.composite
def random_graphs(draw, largest=14):
    num_left, num_right = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    num_edges = draw(st.integers(1, num_left * num_right))
    model = draw(st.sampled_from([graphs.random, graphs.xnet, graphs.rreg]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return model(num_left, num_right, num_edges, rng), num_left, num_right


def as_networkx(edges):
    return nx.Graph((("left", i), ("right", j)) for i, j in edges.T.tolist())


@pytest.mark.parametrize("dense_size", [128, 1])  # all eigenvalues, iterations
@settings(max_examples=60, deadline=None)
@given(graph=random_graphs())
@example(graph=(np.array([[0, 1, 0, 1], [1, 1, 3, 3]]), 2, 4))  # sigma2 is exactly zero
@example(graph=(np.array([[1, 0, 2, 0, 2], [0, 1, 2, 3, 4]]), 3, 5))  # sigma1 is double
def test_measures_agree_with_dense_svd_and_networkx(graph, dense_size):
    edges, num_left, num_right = graph
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(singular, "DENSE_SIZE", dense_size)
        values = spectra.measure(edges, num_left, num_right)
    dense = np.zeros((num_left, num_right))
    dense[edges[0], edges[1]] = 1
    sigma = np.append(np.linalg.svd(dense, compute_uv=False), 0)
    assert values["sigma1"] == pytest.approx(sigma[0], abs=1e-6)
    assert values["sigma2"] == pytest.approx(sigma[1], abs=1e-6)
    scale = [np.where(d > 0, d, 1.0) ** -0.5 for d in (dense.sum(1), dense.sum(0))]
    sigma = np.linalg.svd(scale[0][:, None] * dense * scale[1], compute_uv=False)
    assert values["normalised_gap"] == pytest.approx(1 - np.append(sigma, 0)[1], abs=1e-6)
    graph = as_networkx(edges)
    assert values["components"] == nx.number_connected_components(graph)
    girth = nx.girth(graph)
    assert values["girth"] == (None if girth == np.inf else girth)
    common = (dense @ dense.T)[np.triu_indices(num_left, 1)]
    assert values["four_cycles"] == np.sum(common * (common - 1)) / 2
    assert values["unused_inputs"] == np.sum(dense.sum(1) == 0)
    assert values["dead_outputs"] == np.sum(dense.sum(0) == 0)


@pytest.mark.parametrize(("shape", "num_edges"), [((200, 300), 900), ((300, 180), 5000)])
@pytest.mark.parametrize("name", ["rreg", "random", "blocks", "circulant"])
def test_iterations_on_large_graphs_agree_with_dense_svd(name, shape, num_edges):
    edges = getattr(graphs, name)(*shape, num_edges, np.random.default_rng(0))
    dense = spectra.biadjacency(edges, *shape).toarray()
    values = spectra.measure(edges, *shape)
    expected = np.linalg.svd(dense, compute_uv=False)[:2]
    np.testing.assert_allclose([values["sigma1"], values["sigma2"]], expected, rtol=1e-12)
    assert spectra.measure(edges, *shape) == values


def test_a_large_complete_graph_beside_isolated_vertices_has_no_second_singular_value():
    edges = graphs.dense(150, 200, 1, np.random.default_rng(0))
    values = spectra.measure(edges, 160, 200)
    assert values["sigma1"] == pytest.approx(30000**0.5, rel=1e-12)
    assert (values["sigma2"], values["normalised_gap"]) == (0, 1)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_iterations_on_nearly_complete_graphs(missing):
    # the matrix then has a rank of 1 to 3: iterations end where nothing is left over
    for size in range(129, 150):
        edges = graphs.random(size, 150, 150 * size - missing, np.random.default_rng(size))
        values = spectra.spectrum(spectra.biadjacency(edges, size, 150))
        dense = spectra.biadjacency(edges, size, 150).toarray()
        expected = np.linalg.svd(dense, compute_uv=False)[:2]
        np.testing.assert_allclose(values[:2], expected, rtol=1e-11, atol=1e-9)


def expansion_by_exhaustion(edges, num_left):
    neighbours = [frozenset(edges[1][edges[0] == i].tolist()) for i in range(num_left)]
    return min(
        len(frozenset().union(*(neighbours[i] for i in chosen))) / size
        for size in range(1, max(num_left // 2, 1) + 1)
        for chosen in combinations(range(num_left), size)
    )


@settings(max_examples=80, deadline=None)
@given(graph=random_graphs(largest=10))
def test_expansion_interval_holds_the_true_minimum(graph):
    edges, num_left, _ = graph
    values = spectra.measure(*graph, measures="full")
    truth = expansion_by_exhaustion(edges, num_left)
    assert values["expansion_lower"] <= truth + 1e-12
    assert values["expansion_upper"] >= truth - 1e-12


def test_tanners_bound_as_published():
    edges = incidence(FANO, 7)
    values = spectra.measure(edges, 7, 7, measures="full")
    size = 3
    tanner = 9 * size / (2 + (9 - 2) * size / 7)  # of |N(S)|, for the sets of three points
    assert values["expansion_lower"] == pytest.approx(np.ceil(tanner) / size)
    assert expansion_by_exhaustion(edges, 7) == pytest.approx(2)  # a line's three points meet six


def test_greedy_search_finds_a_component():
    edges = HEXAGONS
    assert spectra.measure(edges, 6, 6, measures="full")["expansion_upper"] == 1
    assert spectra.measure(edges, 6, 6)["expansion_lower"] == 1


def test_legacy_score_is_a_mean_over_sets():
    edges = from_pairs([(0, j) for j in range(6)] + [(1, 0)], 2)
    matrix = spectra.biadjacency(edges, 2, 6)
    score = expansion.sampled_score(matrix, np.random.default_rng(0), samples=2000)
    assert score == pytest.approx(3.5, abs=0.25)  # sets {0} with 6 and {1} with 1 neighbour


def test_imdb_is_the_mean_over_left_degrees():
    heawood, matching = incidence(FANO, 7), np.array([[7, 8, 9], [7, 8, 9]])
    both = sort_edges(*np.concatenate([heawood, matching], axis=1), 10)
    values = spectra.measure(both, 10, 10)
    assert values["imdb"] == pytest.approx(((8**0.5 - 2**0.5) + (0 - 1)) / 2)
    assert spectra.measure(np.array([[0, 1], [0, 1]]), 2, 2)["imdb"] == -1  # left-regular: delta_r
    assert spectra.measure(np.array([[0, 0, 1], [0, 1, 1]]), 2, 2)["imdb"] is None


def test_isolated_vertices_are_counted_apart():
    heawood = incidence(FANO, 7)
    values = spectra.measure(heawood, 9, 8)
    assert (values["unused_inputs"], values["dead_outputs"]) == (2, 1)
    assert values["sigma2"] == pytest.approx(2**0.5)
    assert values["components"] == 1
    assert values["expansion_lower"] == 0


def test_a_graph_without_edges_has_counts_only():
    values = spectra.measure(np.zeros((2, 0), dtype=np.int64), 3, 4, measures="full")
    assert (values["unused_inputs"], values["dead_outputs"], values["edges"]) == (3, 4, 0)
    assert "sigma2" not in values


def test_summary_of_a_network():
    heawood = spectra.measure(incidence(FANO, 7), 7, 7)
    empty = spectra.measure(np.zeros((2, 0), dtype=np.int64), 3, 4)
    values = spectra.summary([heawood, spectra.measure(HEXAGONS, 6, 6), empty])
    assert values == {
        "normalised_gap_mean": pytest.approx((1 - 2**0.5 / 3) / 2),
        "normalised_gap_min": pytest.approx(0),
        "ramanujan_ratio_mean": pytest.approx((0.5 + 1) / 2),
        "ramanujan_ratio_max": pytest.approx(1),
        "ramanujan_share": 1,
        "disconnected_layers": 1,
    }
    assert spectra.summary([])["normalised_gap_mean"] is None


def test_unsorted_edges_are_refused_instead_of_measured_wrongly():
    fano = incidence(FANO, 7)
    with pytest.raises(SettingError, match=r"a 7x7 graph has distinct edges, sorted by"):
        spectra.measure(fano[:, ::-1], 7, 7)


def test_an_unknown_choice_of_measures_is_named():
    with pytest.raises(SettingError, match="measures=all: choose default or full"):
        spectra.measure(incidence(FANO, 7), 7, 7, measures="all")


def test_measures_are_equal_in_every_process():
    program = (
        "import sys; import numpy as np; from expanders import degrees, graphs, spectra;"
        "assert 'torch' not in sys.modules;"
        "e = graphs.rreg(300, 200, 1500, np.random.default_rng(5));"
        "print(e.sum(), spectra.measure(e, 300, 200, 'full'))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert "expansion_upper" in runs[0].stdout
