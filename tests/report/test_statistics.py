"""The report's statistics against scipy and against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from expanders.report.run_records import Streams
from expanders.report.statistics import (
    Sample,
    describe,
    graph_and_start,
    holm,
    paired,
    two_way,
)


def by_seed(*values: float) -> dict[Streams, float]:
    return {Streams(seed, seed, seed): value for seed, value in enumerate(values)}


def crossed(table) -> dict[Streams, float]:
    """A run per graph seed (row) and seed of the initialization (column)."""
    return {
        Streams(graph, init, 0): float(value)
        for graph, row in enumerate(table)
        for init, value in enumerate(row)
    }


def test_a_sample_by_hand():
    assert describe([0.5]) == Sample(0.5, None, 1)
    sample = describe([1.0, 2.0, 4.0, 5.0])
    assert sample == Sample(3.0, pytest.approx((10 / 3) ** 0.5), 4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_paired_differences_are_those_of_scipy(pairs):
    first, second = np.array(pairs).T
    if np.std(first - second) < 1e-6:
        return
    difference = paired(by_seed(*first), by_seed(*second))
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert difference.mean == pytest.approx(np.mean(first - second), abs=1e-12)
    assert difference.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (difference.low, difference.high) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-9)
    assert difference.n == len(pairs)
    assert difference.pinned == ()


def test_only_runs_with_the_same_seeds_are_paired():
    first = by_seed(0.9, 0.8, 0.7)
    second = {Streams(0, 0, 0): 0.5, Streams(1, 1, 2): 0.1, Streams(2, 2, 2): 0.5}
    difference = paired(first, second)
    assert difference.n == 2
    assert difference.mean == pytest.approx(0.3)


def test_pairs_too_few_or_without_spread_have_no_interval():
    nothing = paired(by_seed(0.9), {Streams(5, 5, 5): 0.8})
    assert (nothing.n, nothing.mean, nothing.low, nothing.p) == (0, None, None, None)
    one = paired(by_seed(0.9), by_seed(0.8))
    assert (one.n, one.mean, one.low, one.p) == (1, pytest.approx(0.1), None, None)
    equal = paired(by_seed(0.9, 0.8), by_seed(0.8, 0.7))  # equal but for rounding
    assert (equal.n, equal.mean, equal.low, equal.p) == (2, pytest.approx(0.1), None, None)


def test_pairs_that_share_a_seed_are_averaged():
    """Two initializations with two and three graphs: two independent pairs, not five."""
    first = crossed([[0.5, 0.9], [0.6, 0.9], [0.7, 0.9]])
    second = crossed([[0.4, 0.5], [0.4, 0.5], [0.4, 0.5]])
    del first[Streams(1, 0, 0)]
    difference = paired(first, second)
    expected = stats.ttest_1samp([0.2, 0.4], 0)
    assert difference.n == 2
    assert difference.mean == pytest.approx(0.3)
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.pinned == ("data",)


def test_a_single_graph_is_named_and_does_not_count_as_one_pair():
    first, second = crossed([[0.5, 0.6, 0.8]]), crossed([[0.4, 0.4, 0.4]])
    difference = paired(first, second)
    assert difference.n == 3
    assert difference.pinned == ("graph", "data")


def test_the_dense_network_is_shared_by_all_graphs_of_a_start():
    sparse = crossed([[0.5, 0.9], [0.7, 0.9]])
    dense = {Streams(None, 0, 0): 0.9, Streams(None, 1, 0): 1.0}
    difference = paired(sparse, dense)
    assert difference.n == 2
    assert difference.mean == pytest.approx((-0.3 - 0.1) / 2)


@pytest.mark.parametrize("with_dense", [False, True])
@pytest.mark.parametrize(("graph_sd", "start_sd"), [(1, 0), (0, 1), (0.5, 0.5)])
def test_crossed_seeds_find_no_difference_where_there_is_none(graph_sd, start_sd, with_dense):
    """At most about 5 % of tests of equal models say otherwise, whichever stream matters."""
    rng = np.random.default_rng(0)

    def model():
        graphs, starts = graph_sd * rng.standard_normal((3, 1)), rng.standard_normal((1, 3))
        return crossed(graphs + start_sd * starts + 0.1 * rng.standard_normal((3, 3)))

    def dense():
        row = start_sd * rng.standard_normal(3) + 0.1 * rng.standard_normal(3)
        return {Streams(None, start, 0): value for start, value in enumerate(row)}

    tests = [paired(model(), dense() if with_dense else model()).p for _ in range(400)]
    assert sum(p is not None and p <= 0.05 for p in tests) <= 0.085 * 400


def test_many_crossed_seeds_find_no_difference_where_graph_and_start_matter_alike():
    """The variance from graphs and that from starts both count: one alone rejects 8 to 9 %."""
    rng = np.random.default_rng(1)
    nothing = crossed(np.zeros((8, 8)))

    def differences():
        graphs, starts = rng.standard_normal((8, 1)), rng.standard_normal((1, 8))
        return crossed(graphs + starts + 0.7 * rng.standard_normal((8, 8)))

    tests = [paired(differences(), nothing).p for _ in range(400)]
    assert sum(p <= 0.05 for p in tests) <= 0.065 * 400


def test_the_interval_of_a_complete_table_has_the_variance_of_both_factors():
    """Rows and columns rise by 1 each, with variance 6; the rest is ±0.5."""
    steps = np.arange(8.0)
    table = steps[:, None] + steps + 0.5 * np.outer([1, -1] * 4, [1, -1] * 4)
    nothing = np.zeros((8, 8))
    found = paired(crossed(table), crossed(nothing))
    ms_rows = ms_columns = 8 * 6.0
    ms_rest = 64 * 0.25 / 49
    total = ms_rows + ms_columns - ms_rest
    freedom = total**2 / (ms_rows**2 / 7 + ms_columns**2 / 7 + ms_rest**2 / 49)
    expected = stats.t(freedom, loc=7, scale=(total / 64) ** 0.5)
    assert (found.low, found.high) == pytest.approx(expected.interval(0.95))
    assert found.p == pytest.approx(2 * expected.cdf(0))
    assert (found.mean, found.n) == (pytest.approx(7), 8)
    # With a run missing, and with a factor that does not matter, one of the averages has it all.
    runs = crossed(table)
    del runs[Streams(0, 0, 0)]
    averages = [np.mean([v for s, v in runs.items() if s.graph == graph]) for graph in range(8)]
    one_way = stats.ttest_1samp(averages, 0).confidence_interval(0.95)
    found = paired(runs, crossed(nothing))
    assert (found.low, found.high) == pytest.approx(tuple(one_way))
    found = paired(crossed(nothing + steps), crossed(nothing))
    one_way = stats.ttest_1samp(steps, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(one_way))


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.04 of four: 0.04, 0.06, 0.06, and no less than before: 0.06."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_way_by_hand():
    """Row means 2 and 5, column means 2, 3, 5.5; the rest is what these leave."""
    values = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 8.0]])
    found = two_way(values)
    # MS rows = 3 (1.5² + 1.5²) / 1, MS columns = 2 (1.5² + 0.5² + 2²) / 2, residuals ±.5 ±.5 ±1
    ms_rows, ms_columns, ms_rest = 13.5, 6.5, 3.0 / 2
    assert found.rest == pytest.approx(ms_rest)
    assert found.first == pytest.approx((ms_rows - ms_rest) / 3)
    assert found.second == pytest.approx((ms_columns - ms_rest) / 2)
    assert found.p_first == pytest.approx(stats.f.sf(ms_rows / ms_rest, 1, 2))
    assert found.p_second == pytest.approx(stats.f.sf(ms_columns / ms_rest, 2, 2))
    assert (found.rows, found.columns) == (2, 3)


def test_two_way_finds_the_variances_that_it_was_given():
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(400):
        graphs, starts = 0.3 * rng.standard_normal((6, 1)), 0.5 * rng.standard_normal((1, 6))
        found = two_way(graphs + starts + 0.2 * rng.standard_normal((6, 6)))
        estimates.append((found.first, found.second, found.rest))
    assert np.mean(estimates, axis=0) == pytest.approx([0.09, 0.25, 0.04], rel=0.15)


def test_no_effect_is_zero_not_negative_and_no_rest_has_no_test():
    assert two_way(np.array([[1.0, 2.0], [2.0, 1.0]])).first == 0
    exact = two_way(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert exact.p_first is None
    assert exact.first == pytest.approx(2.0)


def test_a_split_takes_the_complete_part_of_a_table():
    table = np.random.default_rng(1).random((3, 4))
    runs = crossed(table)
    assert graph_and_start(runs) == two_way(table)
    del runs[Streams(2, 0, 0)], runs[Streams(2, 3, 0)]  # the third graph is the emptiest
    assert graph_and_start(runs) == two_way(table[:2])


def test_seeds_that_move_together_cannot_be_split():
    assert graph_and_start(by_seed(0.1, 0.2, 0.3)) is None
    assert graph_and_start(crossed([[0.1, 0.2, 0.3]])) is None
    assert graph_and_start({}) is None
