"""Which edges a budget keeps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from expanders.wiring.selection import best, best_edge, best_over, cover, shrunk


def test_equal_scores_are_taken_in_order_and_exactly_as_many_as_asked():
    scores = np.array([2.0, 1.0, 2.0, 2.0, 3.0])
    assert best(scores, np.ones(5, dtype=np.int64), 3).tolist() == [True, False, True, False, True]


def test_edges_rank_by_score_per_weight_and_the_rest_of_a_budget_goes_to_what_fits():
    scores, sizes = np.array([18.0, 9.0, 8.0, 0.5, 0.4]), np.array([9, 9, 9, 1, 1])
    assert best(scores, sizes, 19).tolist() == [True, True, False, True, False]
    assert best(scores, sizes, 8).tolist() == [False, False, False, True, True]


def test_what_was_removed_stays_so():
    scores = np.array([-np.inf, 1.0, -np.inf, -5.0])
    assert best(scores, np.ones(4, dtype=np.int64), 4).tolist() == [False, True, False, True]
    assert best(scores, np.array([1, 9, 1, 9]), 30).tolist() == [False, True, False, True]


def in_turn(scores, sizes, budget):
    """The same by definition: one edge after the other, if it still fits."""
    taken = np.zeros(scores.size, dtype=bool)
    for edge in sorted(range(scores.size), key=lambda edge: -scores[edge] / sizes[edge]):
        taken[edge] = scores[edge] > -np.inf and sizes[edge] <= budget
        budget -= sizes[edge] * taken[edge]
    return taken


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), budget=st.integers(0, 400), kinds=st.integers(1, 3))
def test_the_best_are_those_that_taking_them_in_turn_would_find(seed, budget, kinds):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([9, 1, 25][:kinds], 40)
    scores = rng.choice([-np.inf, -9, -1, 0, 1, 9, 25], 40)  # with many ties
    assert (best(scores, sizes, budget) == in_turn(scores, sizes, budget)).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), budget=st.integers(0, 400))
def test_a_budget_is_never_exceeded_nor_missed_by_an_edge_that_fits(seed, budget):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 9, 25], 40)
    scores = rng.integers(-3, 4, 40).astype(float)
    taken = best(scores, sizes, budget)
    left = budget - sizes[taken].sum()
    assert left >= 0
    assert taken.all() or left < sizes[~taken].min()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), left=st.integers(1, 12), right=st.integers(1, 12))
def test_a_cover_touches_every_channel_with_as_few_edges_as_can_be(seed, left, right):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (right, left, 4)).astype(float)  # with many ties
    chosen = cover(scores)
    assert chosen.any(axis=(1, 2)).all()
    assert chosen.any(axis=(0, 2)).all()
    assert chosen.sum() == max(left, right)
    assert chosen.flat[scores.argmax()] or scores.max() == scores[chosen].max()


def test_a_cover_prefers_the_best():
    scores = np.array([[5.0, 4.0], [3.0, 1.0]])[:, :, None]
    assert cover(scores)[:, :, 0].tolist() == [[True, False], [False, True]]
    scores[1, 1] = -np.inf  # removed: channels 1 are then covered on their own
    assert cover(scores)[:, :, 0].tolist() == [[True, True], [True, False]]


def test_reserved_edges_are_kept_within_the_budget():
    scores = {"a": np.array([[[9.0], [8.0]]]), "b": np.array([[[1.0], [0.5]]])}
    reserved = {name: best_edge(values) for name, values in scores.items()}
    kept = best_over(scores, {"a": 1, "b": 9}, 11, reserved)
    assert [kept[name].ravel().tolist() for name in "ab"] == [[True, True], [True, False]]
    kept = best_over(scores, {"a": 1, "b": 9}, 10, reserved)
    assert [kept[name].ravel().tolist() for name in "ab"] == [[True, False], [True, False]]


def test_rounds_approach_the_target_exponentially_and_from_above():
    assert [shrunk(1000, 10, t / 2) for t in range(3)] == [1000, 100, 10]
    assert [shrunk(1000, 100, t / 3) for t in range(4)] == [1000, 465, 216, 100]  # 464.2, 215.4
    assert shrunk(10, 10, 0.3) == 10
    assert all(shrunk(total, target, 1) == target for total, target in ((7, 3), (49, 37)))
