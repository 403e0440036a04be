"""Metrics against slow, independent counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import roc_auc_score

from radzero.evaluation.metrics import THRESHOLDS, auc, dice_sweep, pointing_hit

# -- auc -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_auc_is_that_of_scikit_learn(seed: int, decimals: int):
    rng = np.random.default_rng(seed)
    truth = rng.random(200) < 0.3
    scores = np.round(rng.normal(size=200) + 0.7 * truth, decimals)  # few decimals: many ties
    assert auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, int]]):
    positive = [score for truth, score in pairs if truth]
    negative = [score for truth, score in pairs if not truth]
    found = auc([truth for truth, _ in pairs], [score for _, score in pairs])
    if not positive or not negative:
        assert math.isnan(found)
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert found == pytest.approx(wins / (len(positive) * len(negative)))


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float64, 12, elements=st.floats(-1e300, 1e300)),
    arrays.arrays(np.bool_, 12),
)
def test_auc_of_any_finite_scores(scores: np.ndarray, truth: np.ndarray):
    truth[:2] = True, False
    assert auc(truth, scores) == pytest.approx(1 - auc(~truth, scores))
    assert auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))


def test_auc_extremes():
    assert auc([False, False, True], [1, 2, 3]) == 1
    assert auc([True, False], [1, 2]) == 0
    assert auc([True, False, True], [5, 5, 5]) == 0.5
    assert auc([True, False], np.array([2, 1], dtype=np.float32)) == 1


@pytest.mark.parametrize("truth", [[True, True], [False, False], []])
def test_auc_without_one_class_is_nan(truth: list[bool]):
    assert math.isnan(auc(truth, [0.5] * len(truth)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_auc_refuses_scores_that_are_not_finite(bad: float):
    with pytest.raises(ValueError, match="1 scores are not finite"):
        auc([True, False, True], [0.1, bad, 0.2])


def test_auc_refuses_other_shapes():
    with pytest.raises(ValueError, match="one length"):
        auc([True, False], [1.0])
    with pytest.raises(ValueError, match="one length"):
        auc([[True], [False]], [[1.0], [2.0]])


# -- pointing game -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peak", "hit"),
    [
        ((10, 20), True),
        ((30, 40), True),
        ((10, 40), True),
        ((20, 30), True),
        ((9, 30), False),
        ((31, 30), False),
        ((20, 19), False),
        ((20, 41), False),
        ((30, 20), True),
        ((40, 30), False),
    ],
)
def test_a_peak_hits_a_box_borders_included(peak: tuple[int, int], hit: bool):
    assert pointing_hit(peak, [(10.0, 20.0, 30.0, 40.0)]) is hit


def test_any_box_will_do_and_none_is_a_miss():
    boxes = [(0, 0, 1, 1), (50, 50, 60, 60)]
    assert pointing_hit((55, 55), boxes)
    assert not pointing_hit((30, 30), boxes)
    assert not pointing_hit((55, 55), [])
    assert pointing_hit((50.5, 59.5), iter(boxes))


# -- dice ------------------------------------------------------------------------------------------------


def slow_dice(probabilities: np.ndarray, mask: np.ndarray) -> list[float]:
    values = []
    for k in range(101):
        predicted = probabilities.astype(np.float64) >= k / 100
        both, total = int((predicted & mask).sum()), int(predicted.sum()) + int(mask.sum())
        values.append(2 * both / total if total else 1.0)
    return values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_dice_is_that_of_a_loop(seed: int, dtype: type):
    rng = np.random.default_rng(seed)
    probabilities = rng.random((23, 31)).astype(dtype)
    probabilities[:4] = np.round(probabilities[:4], 2)  # on the thresholds themselves
    probabilities[4, :2] = 0, 1
    mask = rng.random((23, 31)) < 0.3
    found = dice_sweep(probabilities, mask)
    assert found.shape == THRESHOLDS.shape == (101,)
    assert found == pytest.approx(slow_dice(probabilities, mask), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float64, (4, 5), elements=st.sampled_from([*(k / 100 for k in range(101)), 0.005, 0.995, 1e-12])),
    arrays.arrays(np.bool_, (4, 5)),
)
def test_dice_at_thresholds(probabilities: np.ndarray, mask: np.ndarray):
    assert dice_sweep(probabilities, mask) == pytest.approx(slow_dice(probabilities, mask), abs=1e-12)


def test_dice_of_degenerate_maps():
    ones, zeros = np.ones((3, 4)), np.zeros((3, 4))
    full, empty = np.ones((3, 4), dtype=bool), np.zeros((3, 4), dtype=bool)
    assert dice_sweep(ones, full).tolist() == [1.0] * 101
    assert dice_sweep(ones, empty).tolist() == [0.0] * 101
    assert dice_sweep(zeros, full).tolist() == [1.0] + [0.0] * 100
    assert dice_sweep(zeros, empty).tolist() == [0.0] + [1.0] * 100, "both empty agree"
    assert dice_sweep(np.zeros((0, 4)), np.zeros((0, 4), dtype=bool)).tolist() == [1.0] * 101


@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan, math.inf])
def test_dice_refuses_what_is_no_probability(bad: float):
    probabilities = np.full((2, 2), 0.5)
    probabilities[1, 1] = bad
    with pytest.raises(ValueError, match=r"0\.\.1"):
        dice_sweep(probabilities, np.ones((2, 2), dtype=bool))


def test_dice_refuses_another_shape():
    with pytest.raises(ValueError, match="one shape"):
        dice_sweep(np.zeros((2, 3)), np.zeros((3, 2), dtype=bool))
