"""Metrics against slow, independent counts."""

import math
import pickle
import statistics
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    jaccard_score,
    matthews_corrcoef,
    roc_auc_score,
    roc_curve,
)

from radzero.evaluation.metrics import (
    IOU_THRESHOLDS,
    THRESHOLDS,
    Interval,
    PixelHistogram,
    auc,
    average_precision,
    bootstrap,
    calibration,
    contrast_to_noise,
    dice_sweep,
    figures_at,
    figures_at_best_f1,
    frequency_group,
    mean_iou,
    pointing_hit,
    roc_points,
)

LABELLED = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=25)
"""Truth and score of a few samples, with many ties."""


def labelled(seed: int, decimals: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores that know something of it; few decimals make many ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.3
    return truth, np.round(rng.normal(size=count) + 0.7 * truth, decimals)


def share_in_order(positive: Sequence[float], negative: Sequence[float]) -> float:
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


# -- what every function of truth and scores refuses -----------------------------------------------------

OF_SCORES = [auc, average_precision, figures_at_best_f1, partial(figures_at, threshold=0.5), roc_points, calibration]
OF_SCORES_NAMES = ["auc", "average_precision", "figures_at_best_f1", "figures_at", "roc_points", "calibration"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", OF_SCORES, ids=OF_SCORES_NAMES)
def test_scores_that_are_not_finite_are_refused_and_counted(function: Callable[..., object], bad: float):
    with pytest.raises(ValueError, match=r"^2 scores are not finite"):
        function([True, False, True, False], [0.1, bad, 0.2, bad])


@pytest.mark.parametrize(
    ("truth", "scores"), [([True, False], [0.5]), ([], [0.5]), ([[True], [False]], [[0.1], [0.2]]), (True, 0.5)]
)
@pytest.mark.parametrize("function", OF_SCORES, ids=OF_SCORES_NAMES)
def test_lists_of_other_shapes_are_refused(function: Callable[..., object], truth: object, scores: object):
    with pytest.raises(ValueError, match="one length"):
        function(truth, scores)


@pytest.mark.parametrize("function", OF_SCORES, ids=OF_SCORES_NAMES)
def test_truth_and_scores_are_left_as_they_were(function: Callable[..., object]):
    truth, scores = np.array([True, False, True, False]), np.array([0.3, 0.9, 0.3, 0.1])
    kept = truth.copy(), scores.copy()
    function(truth, scores)
    assert np.array_equal(truth, kept[0])
    assert np.array_equal(scores, kept[1])


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


@pytest.mark.parametrize("positive", [True, False])
def test_auc_of_one_sample_is_nan(positive: bool):
    assert math.isnan(auc([positive], [0.5]))


# -- average precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_average_precision_is_that_of_scikit_learn(seed: int, decimals: int):
    truth, scores = labelled(seed, decimals)
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def slow_average_precision(pairs: Sequence[tuple[bool, float]]) -> float:
    """Every positive gains 1 / positives of recall at the precision of {score >= its own}."""
    own = [score for truth, score in pairs if truth]
    precisions = [
        sum(truth for truth, score in pairs if score >= s) / sum(score >= s for _, score in pairs) for s in own
    ]
    return statistics.fmean(precisions)


@settings(max_examples=80, deadline=None)
@given(LABELLED)
def test_average_precision_is_the_mean_precision_at_the_positives(pairs: list[tuple[bool, int]]):
    found = average_precision([truth for truth, _ in pairs], [score for _, score in pairs])
    if not any(truth for truth, _ in pairs):
        assert math.isnan(found)
        return
    assert found == pytest.approx(slow_average_precision(pairs), abs=1e-12)


def test_average_precision_by_hand():
    assert average_precision([True, False, True], [3, 2, 1]) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert average_precision([False, True], [2, 1]) == 0.5
    assert average_precision([False, False, True, True], [1, 2, 3, 4]) == 1
    assert average_precision([True, False, False, False, True], [7] * 5) == pytest.approx(0.4), "all tied: prevalence"
    assert average_precision([True, True], [1, 2]) == 1, "no negative"
    assert average_precision([True], [-5]) == 1


@pytest.mark.parametrize("truth", [[False], [False, False], []])
def test_average_precision_without_a_positive_is_nan(truth: list[bool]):
    assert math.isnan(average_precision(truth, [0.5] * len(truth)))


def test_scores_at_the_ends_of_float64_are_ranked():
    truth, scores = [True, False, True, False], [1.7e308, -1.5e308, -1.6e308, -1.7e308]
    ranks = [4, 3, 2, 1]
    assert auc(truth, scores) == auc(truth, ranks) == 0.75
    assert average_precision(truth, scores) == average_precision(truth, ranks)
    assert figures_at_best_f1(truth, scores).f1 == figures_at_best_f1(truth, ranks).f1
    assert np.array_equal(roc_points(truth, scores), roc_points(truth, ranks))


# -- figures at a threshold ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_figures_at_a_threshold_are_those_of_scikit_learn(seed: int, decimals: int):
    truth, scores = labelled(seed, decimals)
    for threshold in [-0.5, 0.0, 0.7, 1.0, float(scores[0]), float(scores.min()), float(scores.max())]:
        said = scores >= threshold
        found = figures_at(truth, scores, threshold)
        assert found.threshold == threshold
        assert found.f1 == pytest.approx(f1_score(truth, said), abs=1e-12)
        assert found.mcc == pytest.approx(matthews_corrcoef(truth, said), abs=1e-12)
        assert found.accuracy == pytest.approx(accuracy_score(truth, said), abs=1e-12)


def test_mcc_of_many_samples_does_not_overflow():
    truth, scores = labelled(0, 2, count=200_000)
    assert figures_at(truth, scores, 0.5).mcc == pytest.approx(matthews_corrcoef(truth, scores >= 0.5), abs=1e-9)


def test_figures_at_a_threshold_by_hand():
    found = figures_at([True, True, False, False, False], [0.9, 0.4, 0.5, 0.1, 0.2], 0.5)  # tp fp fn tn = 1 1 1 2
    assert (found.f1, found.accuracy) == (0.5, 0.6)
    assert found.mcc == pytest.approx((1 * 2 - 1 * 1) / math.sqrt(2 * 2 * 3 * 3))


def test_figures_where_the_confusion_matrix_is_degenerate():
    all_said = figures_at([True, False], [1, 2], 0)
    assert (all_said.f1, all_said.mcc, all_said.accuracy) == (pytest.approx(2 / 3), 0, 0.5)
    none_said = figures_at([True, False], [1, 2], 3)
    assert (none_said.f1, none_said.mcc, none_said.accuracy) == (0, 0, 0.5)
    no_positive = figures_at([False, False], [1, 2], 2)
    assert (no_positive.f1, no_positive.mcc, no_positive.accuracy) == (0, 0, 0.5)
    neither = figures_at([False, False], [1, 2], 3)
    assert math.isnan(neither.f1)
    assert (neither.mcc, neither.accuracy) == (0, 1)
    nobody = figures_at([], [], 0.5)
    assert math.isnan(nobody.f1)
    assert math.isnan(nobody.accuracy)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_the_best_f1_is_that_of_a_search_with_scikit_learn(seed: int, decimals: int):
    truth, scores = labelled(seed, decimals, count=60)
    found = figures_at_best_f1(truth, scores)
    assert found.f1 == pytest.approx(max(f1_score(truth, scores >= t) for t in np.unique(scores)), abs=1e-12)
    said = scores >= found.threshold
    assert found.f1 == pytest.approx(f1_score(truth, said), abs=1e-12)
    assert found.mcc == pytest.approx(matthews_corrcoef(truth, said), abs=1e-12)
    assert found.accuracy == pytest.approx(accuracy_score(truth, said), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(LABELLED)
def test_of_several_best_thresholds_the_highest_is_taken(pairs: list[tuple[bool, int]]):
    truth, scores = [truth for truth, _ in pairs], [score for _, score in pairs]
    found = figures_at_best_f1(truth, scores)
    if not any(truth):
        assert all(map(math.isnan, (found.threshold, found.f1, found.mcc, found.accuracy)))
        return
    f1 = {
        t: Fraction(2 * sum(p and s >= t for p, s in pairs), sum(s >= t for s in scores) + sum(truth))
        for t in set(scores)
    }
    best = max(f1.values())
    assert found.threshold == max(t for t in f1 if f1[t] == best)
    assert found.f1 == pytest.approx(float(best), abs=1e-12)
    assert found == figures_at(truth, scores, found.threshold)


def test_the_best_f1_by_hand():
    found = figures_at_best_f1([True, False, True, False], [4, 3, 2, 1])  # F1 from the highest: 2/3, 1/2, 4/5, 2/3
    assert (found.threshold, found.f1, found.accuracy) == (2, pytest.approx(0.8), 0.75)
    assert found.mcc == pytest.approx((2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1))
    tied = figures_at_best_f1([True, False, False, True], [4, 3, 2, 1])  # 2/3, 1/2, 2/5, 2/3: the highest of the two
    assert (tied.threshold, tied.accuracy) == (4, 0.75)
    equal = figures_at_best_f1([True, False, False], [7, 7, 7])
    assert (equal.threshold, equal.f1, equal.mcc, equal.accuracy) == (7, 0.5, 0, pytest.approx(1 / 3))
    alone = figures_at_best_f1([True], [0.25])
    assert (alone.threshold, alone.f1, alone.mcc, alone.accuracy) == (0.25, 1, 0, 1)
    single_precision = figures_at_best_f1([True, False], np.array([0.3, 0.1], dtype=np.float32))
    assert (single_precision.f1, single_precision.mcc) == (1, 1), "its threshold is the score as stored"


@pytest.mark.parametrize("truth", [[False], [False, False], []])
def test_the_best_f1_without_a_positive_is_nan(truth: list[bool]):
    found = figures_at_best_f1(truth, [0.5] * len(truth))
    assert all(map(math.isnan, (found.threshold, found.f1, found.mcc, found.accuracy)))


# -- ROC curve -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_the_roc_curve_is_that_of_scikit_learn(seed: int, decimals: int):
    truth, scores = labelled(seed, decimals)
    false, true = roc_points(truth, scores)
    expected_false, expected_true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert false == pytest.approx(expected_false, abs=1e-12)
    assert true == pytest.approx(expected_true, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(LABELLED)
def test_the_roc_curve_rises_from_corner_to_corner_over_the_auc(pairs: list[tuple[bool, int]]):
    truth, scores = [truth for truth, _ in pairs], [score for _, score in pairs]
    false, true = roc_points(truth, scores)
    if len(set(truth)) < 2:
        assert len(false) == len(true) == 0
        return
    assert len(false) == len(true) == len(set(scores)) + 1
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert all(np.diff(false) >= 0)
    assert all(np.diff(true) >= 0)
    area = sum((false[k + 1] - false[k]) * (true[k + 1] + true[k]) / 2 for k in range(len(false) - 1))
    assert area == pytest.approx(auc(truth, scores), abs=1e-12)


def test_the_roc_curve_by_hand():
    false, true = roc_points([True, False, True, False], [4, 3, 3, 1])
    assert (false.tolist(), true.tolist()) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1])
    false, true = roc_points([True, False, False], [7, 7, 7])
    assert (false.tolist(), true.tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize("truth", [[True, True], [False, False], [True], [False], []])
def test_the_roc_curve_without_one_class_is_empty(truth: list[bool]):
    false, true = roc_points(truth, [0.5] * len(truth))
    assert len(false) == len(true) == 0


# -- calibration -----------------------------------------------------------------------------------------


def slow_bins(truth: Sequence[bool], probabilities: Sequence[float], bins: int) -> list[tuple[float, float, int]]:
    """Mean probability, frequency and samples of every bin [k/bins, (k+1)/bins), the last with 1."""
    found = []
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins if k + 1 < bins else 2.0
        inside = [(bool(t), float(p)) for t, p in zip(truth, probabilities, strict=True) if low <= p < high]
        means = (sum(p for _, p in inside) / len(inside), sum(t for t, _ in inside) / len(inside)) if inside else None
        found.append((*(means or (math.nan, math.nan)), len(inside)))
    return found


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
@pytest.mark.parametrize("count", [1, 8, 500])
def test_calibration_is_that_of_a_loop_and_scikit_learn(bins: int, count: int):
    rng = np.random.default_rng(bins * count)
    probabilities = rng.random(count) ** 2
    truth = rng.random(count) < probabilities**0.5
    found = calibration(truth, probabilities, bins)
    predicted, observed, counts = zip(*slow_bins(truth, probabilities, bins), strict=True)
    assert found.counts.tolist() == list(counts)
    assert found.predicted == pytest.approx(predicted, abs=1e-12, nan_ok=True)
    assert found.observed == pytest.approx(observed, abs=1e-12, nan_ok=True)
    gap = sum(n * abs(p - o) for p, o, n in zip(predicted, observed, counts, strict=True) if n) / count
    assert found.ece == pytest.approx(gap, abs=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(truth, probabilities, pos_label=True), abs=1e-12)
    if len(set(truth)) == 2:
        frequency, mean = calibration_curve(truth, probabilities, n_bins=bins)  # no sample lies on an edge
        assert found.observed[found.counts > 0] == pytest.approx(frequency, abs=1e-12)
        assert found.predicted[found.counts > 0] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("bins", [5, 10, 15, 100])
def test_a_bin_begins_at_its_lower_edge_and_ends_before_the_next(bins: int):
    edges = [k / bins for k in range(1, bins)]
    on = calibration([True] * len(edges), edges, bins)
    assert on.counts.tolist() == [0] + [1] * (bins - 1)
    before = calibration([True] * len(edges), [math.nextafter(edge, 0) for edge in edges], bins)
    assert before.counts.tolist() == [1] * (bins - 1) + [0]


def test_the_default_bins_are_fifteen():
    edges = [k / 15 for k in range(16)]
    assert calibration([True] * 16, edges).counts.tolist() == [1] * 14 + [2]


def test_calibration_by_hand():
    found = calibration([False, True, True, True], [0.1, 0.3, 0.3, 1.0], bins=4)
    assert found.brier == pytest.approx((0.01 + 0.49 + 0.49 + 0) / 4)
    assert found.ece == pytest.approx((1 * 0.1 + 2 * 0.7 + 1 * 0) / 4)
    assert found.counts.tolist() == [1, 2, 0, 1]
    assert found.predicted == pytest.approx([0.1, 0.3, math.nan, 1], nan_ok=True)
    assert found.observed == pytest.approx([0, 1, math.nan, 1], nan_ok=True)


def test_calibration_extremes():
    perfect = calibration([True, False], [1, 0])
    assert (perfect.brier, perfect.ece) == (0, 0)
    assert (perfect.counts[0], perfect.counts[-1], perfect.counts.sum()) == (1, 1, 2)
    wrong = calibration([False, True], [1, 0])
    assert (wrong.brier, wrong.ece) == (1, 1)
    base_rate = calibration([True, False, False, False], [0.25] * 4)
    assert (base_rate.brier, base_rate.ece) == (pytest.approx(0.1875), pytest.approx(0))
    alone = calibration([True], [0.75])
    assert (alone.brier, alone.ece) == (0.0625, 0.25)
    negatives = calibration([False, False], [0.25, 0.75])
    assert (negatives.brier, negatives.ece) == (pytest.approx(0.3125), pytest.approx(0.5))


def test_calibration_of_nothing_is_nan():
    found = calibration([], [], bins=3)
    assert math.isnan(found.brier)
    assert math.isnan(found.ece)
    assert np.isnan(found.predicted).tolist() == np.isnan(found.observed).tolist() == [True] * 3
    assert found.counts.tolist() == [0] * 3


@pytest.mark.parametrize("bad", [-1e-9, 1 + 1e-9, -3.0, 40.0])
def test_calibration_refuses_what_is_no_probability(bad: float):
    with pytest.raises(ValueError, match=r"0\.\.1|not finite"):
        calibration([True, False, True], [0.1, bad, 0.2])


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


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(-1, 6), st.integers(-1, 6)),
    st.lists(st.tuples(*[st.integers(0, 5)] * 4), max_size=3),
)
def test_a_hit_is_a_pixel_that_some_box_holds(peak: tuple[int, int], corners: list[tuple[int, int, int, int]]):
    boxes = [(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in corners]
    held = {(x, y) for x0, y0, x1, y1 in boxes for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)}
    assert pointing_hit(peak, boxes) is (peak in held)


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
    with pytest.raises(ValueError, match=r"0\.\.1|not finite"):
        dice_sweep(probabilities, np.ones((2, 2), dtype=bool))


def test_dice_refuses_another_shape():
    with pytest.raises(ValueError, match="one shape"):
        dice_sweep(np.zeros((2, 3)), np.zeros((3, 2), dtype=bool))


def test_dice_is_the_f1_of_pixels():
    rng = np.random.default_rng(0)
    probabilities, mask = np.round(rng.random((8, 9)), 2), rng.random((8, 9)) < 0.4
    expected = [f1_score(mask.ravel(), probabilities.ravel() >= t, zero_division=1.0) for t in THRESHOLDS]
    assert dice_sweep(probabilities, mask) == pytest.approx(expected, abs=1e-12)


# -- contrast to noise -----------------------------------------------------------------------------------


def slow_contrast(values: np.ndarray, mask: np.ndarray) -> float:
    inside = [float(v) for v, m in zip(values.ravel(), mask.ravel(), strict=True) if m]
    outside = [float(v) for v, m in zip(values.ravel(), mask.ravel(), strict=True) if not m]
    noise = statistics.pvariance(inside) + statistics.pvariance(outside)
    return abs(statistics.fmean(inside) - statistics.fmean(outside)) / math.sqrt(noise)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("seed", "offset", "decimals"), [(0, 0, 9), (1, -300, 9), (2, 0, 0), (3, 1e4, 2)])
def test_contrast_is_that_of_a_loop(seed: int, offset: float, decimals: int, dtype: type):
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 17)) < 0.2
    values = (np.round(rng.normal(size=(13, 17)) + mask * rng.normal(), decimals) + offset).astype(dtype)
    assert contrast_to_noise(values, mask) == pytest.approx(slow_contrast(values, mask), rel=1e-9)


def test_contrast_by_hand():
    values, mask = np.array([[3.0, 5.0], [0.0, 2.0]]), np.array([[True, True], [False, False]])
    assert contrast_to_noise(values, mask) == pytest.approx(3 / math.sqrt(1 + 1))
    assert contrast_to_noise(values, ~mask) == contrast_to_noise(-values, mask) == contrast_to_noise(values, mask)
    assert contrast_to_noise(7 * values - 100, mask) == pytest.approx(contrast_to_noise(values, mask))
    one_pixel = np.array([[True, False], [False, False]])
    assert contrast_to_noise(np.array([[6.0, 0.0], [3.0, 3.0]]), one_pixel) == pytest.approx(4 / math.sqrt(0 + 2))
    assert contrast_to_noise(np.array([[1.0, 3.0], [1.0, 3.0]]), mask) == 0


def test_contrast_with_nothing_inside_or_outside_is_nan():
    values = np.arange(6.0).reshape(2, 3)
    assert math.isnan(contrast_to_noise(values, np.zeros((2, 3), dtype=bool)))
    assert math.isnan(contrast_to_noise(values, np.ones((2, 3), dtype=bool)))
    assert math.isnan(contrast_to_noise(np.zeros((0, 3)), np.zeros((0, 3), dtype=bool)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("inside", "outside"), [(0, 0), (2, 1), (0.1, 0.1), (0.7, -0.3)])
def test_contrast_without_noise_is_nan(inside: float, outside: float, dtype: type):
    mask = np.zeros((7, 7), dtype=bool)
    mask[:3, :4] = True
    assert math.isnan(contrast_to_noise(np.where(mask, inside, outside).astype(dtype), mask))


# -- intersection over union -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [12, 1])
@pytest.mark.parametrize("seed", range(3))
def test_mean_iou_is_that_of_scikit_learn(seed: int, decimals: int, dtype: type):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.random((11, 14)) * 0.8, decimals).astype(dtype)  # one decimal: on the thresholds
    mask = rng.random((11, 14)) < 0.3
    expected = [jaccard_score(mask.ravel(), probabilities.ravel() >= dtype(t)) for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert IOU_THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert mean_iou(probabilities, mask) == pytest.approx(statistics.fmean(expected), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    arrays.arrays(np.float64, (3, 4), elements=st.sampled_from([0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 1])),
    arrays.arrays(np.bool_, (3, 4)),
)
def test_mean_iou_is_that_of_sets_of_pixels(probabilities: np.ndarray, mask: np.ndarray):
    found = mean_iou(probabilities, mask)
    true = {index for index in np.ndindex(3, 4) if mask[index]}
    if not true:
        assert math.isnan(found)
        return
    said = [{index for index in np.ndindex(3, 4) if probabilities[index] >= t} for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert found == pytest.approx(sum(len(s & true) / len(s | true) for s in said) / 5, abs=1e-12)


def test_mean_iou_by_hand():
    mask = np.array([[True, True, False, False]])
    assert mean_iou(np.array([[0.5, 0.25, 0.25, 0.0]]), mask) == pytest.approx((2 * 2 / 3 + 3 * 1 / 2) / 5)
    assert mean_iou(mask.astype(float), mask) == 1
    assert mean_iou(1.0 - mask, mask) == 0
    assert mean_iou(np.zeros((1, 4)), mask) == 0
    assert mean_iou(np.ones((1, 4)), mask) == 0.5
    assert mean_iou(np.full((1, 4), 0.3), mask) == pytest.approx(3 / 5 * 1 / 2)
    assert mean_iou(np.ones((2, 2)), np.ones((2, 2), dtype=bool)) == 1


def test_mean_iou_of_an_empty_mask_is_nan():
    assert math.isnan(mean_iou(np.ones((2, 2)), np.zeros((2, 2), dtype=bool)))
    assert math.isnan(mean_iou(np.zeros((0, 2)), np.zeros((0, 2), dtype=bool)))


# -- pixels without keeping them -------------------------------------------------------------------------

TINY = 1e-12
"""Rounding of float64 sums, which the bound does not hold."""


@pytest.mark.parametrize("bins", [1, 7, 256, 2**16])
@pytest.mark.parametrize(("scale", "decimals"), [(3, 12), (3, 0), (100, 12), (100, -1), (0.001, 12)], ids=str)
def test_the_auc_of_pixels_is_within_the_bound_of_the_exact_one(scale: float, decimals: int, bins: int):
    rng = np.random.default_rng(bins)
    histogram = PixelHistogram(-10, 10, bins)
    maps, masks = [], []
    for shape in [(20, 30), (5, 40), (33, 3)]:
        masks.append(rng.random(shape) < 0.2)
        maps.append(np.round(scale * (rng.normal(size=shape) + 0.8 * masks[-1]), decimals))
        histogram.add(maps[-1], masks[-1])
    exact = roc_auc_score(np.concatenate([m.ravel() for m in masks]), np.concatenate([v.ravel() for v in maps]))
    assert abs(histogram.auc - exact) <= histogram.bound + TINY
    assert 0 <= histogram.bound <= 0.5


@settings(max_examples=80, deadline=None)
@given(
    arrays.arrays(np.float64, (3, 5), elements=st.floats(-3, 3)),
    arrays.arrays(np.bool_, (3, 5)),
    st.integers(1, 9),
)
def test_the_bound_is_half_the_share_of_pairs_in_one_bin(values: np.ndarray, mask: np.ndarray, bins: int):
    histogram = PixelHistogram(-2, 2, bins)
    histogram.add(values, mask)
    if mask.all() or not mask.any():
        assert math.isnan(histogram.auc)
        assert math.isnan(histogram.bound)
        return
    binned = [min(max(math.floor((v + 2) * (bins / 4)), 0), bins - 1) for v in values.ravel()]
    positive = [b for b, m in zip(binned, mask.ravel(), strict=True) if m]
    negative = [b for b, m in zip(binned, mask.ravel(), strict=True) if not m]
    assert histogram.auc == pytest.approx(share_in_order(positive, negative), abs=TINY)
    together = sum(p == n for p in positive for n in negative)
    assert histogram.bound == pytest.approx(together / (2 * len(positive) * len(negative)), abs=TINY)
    exact = share_in_order(values[mask].tolist(), values[~mask].tolist())
    assert abs(histogram.auc - exact) <= histogram.bound + TINY


def test_the_histogram_by_hand():
    histogram = PixelHistogram(0, 4, 4)
    histogram.add(np.array([[0.1, 1.2, 1.8, 3.9]]), np.array([[False, False, True, True]]))
    assert histogram.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    assert (histogram.auc, histogram.bound) == (3.5 / 4, 0.5 / 4)
    one_bin = PixelHistogram(0, 4, 1)
    one_bin.add(np.array([[1.0, 2.0]]), np.array([[False, True]]))
    assert (one_bin.auc, one_bin.bound) == (0.5, 0.5), "the exact 1 is at the very bound"


def test_values_beyond_the_range_go_to_the_outermost_bins():
    histogram = PixelHistogram(0, 4, 4)
    values = np.array([[-1e30, -0.001, 0.0, 4.0, 4.001, 1e30]])
    histogram.add(values, np.zeros((1, 6), dtype=bool))
    histogram.add(values, np.ones((1, 6), dtype=bool))
    assert histogram.counts.tolist() == [[3, 0, 0, 3]] * 2


def test_values_at_the_ends_of_float64_go_to_the_outermost_bins():
    histogram = PixelHistogram()
    histogram.add(np.array([[-1.7e308, 1.7e308]]), np.array([[False, True]]))
    assert (histogram.counts[0, 0], histogram.counts[1, -1], histogram.counts.sum()) == (1, 1, 2)


def test_the_default_bins_are_fine_enough_for_logits():
    rng = np.random.default_rng(0)
    mask = rng.random((200, 200)) < 0.1
    values = (rng.normal(size=(200, 200)) * 3 + 2 * mask).astype(np.float32)
    histogram = PixelHistogram()
    histogram.add(values, mask)
    assert histogram.bound < 1e-4
    assert histogram.auc == pytest.approx(roc_auc_score(mask.ravel(), values.ravel()), abs=histogram.bound + TINY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_auc_of_values_one_to_a_bin_is_exact(dtype: type):
    rng = np.random.default_rng(1)
    mask = rng.random((30, 30)) < 0.4
    values = (rng.integers(-8, 8, (30, 30)) + 2 * mask).astype(dtype)
    histogram = PixelHistogram(-8, 10, 18)
    histogram.add(values, mask)
    assert histogram.auc == pytest.approx(roc_auc_score(mask.ravel(), values.ravel()), abs=TINY)


def test_images_add_up_in_any_order_and_split():
    rng = np.random.default_rng(2)
    maps, masks = rng.normal(size=(6, 8, 9)), rng.random((6, 8, 9)) < 0.3
    masks[0], masks[1] = False, True  # images of one class count too
    together, forward, backward = (PixelHistogram(-3, 3, 50) for _ in range(3))
    together.add(maps, masks)
    for k in range(6):
        forward.add(maps[k], masks[k])
        backward.add(maps[5 - k], masks[5 - k])
    assert np.array_equal(together.counts, forward.counts)
    assert np.array_equal(together.counts, backward.counts)
    assert (together.auc, together.bound) == (forward.auc, forward.bound) == (backward.auc, backward.bound)
    separate = [PixelHistogram(-3, 3, 50) for _ in range(6)]
    for histogram, values, mask in zip(separate, maps, masks, strict=True):
        histogram.add(values, mask)
    assert np.array_equal(sum(histogram.counts for histogram in separate), together.counts)
    assert together.counts.sum() == maps.size
    assert together.counts[1].sum() == masks.sum()


def test_the_histogram_does_not_grow_with_images():
    rng = np.random.default_rng(3)
    histogram = PixelHistogram(bins=1000)
    empty = len(pickle.dumps(histogram))
    for _ in range(50):
        histogram.add(rng.normal(size=(40, 40)), rng.random((40, 40)) < 0.5)
    assert histogram.counts.sum() == 50 * 40 * 40
    assert len(pickle.dumps(histogram)) == empty


@pytest.mark.parametrize("positive", [True, False])
def test_the_histogram_without_one_class_is_nan(positive: bool):
    histogram = PixelHistogram(bins=8)
    assert math.isnan(histogram.auc)
    assert math.isnan(histogram.bound)
    histogram.add(np.zeros((0, 3)), np.zeros((0, 3), dtype=bool))
    histogram.add(np.zeros((2, 2)), np.full((2, 2), positive))
    assert math.isnan(histogram.auc)
    assert math.isnan(histogram.bound)
    histogram.add(np.zeros((1, 1)), np.array([[not positive]]))
    assert (histogram.auc, histogram.bound) == (0.5, 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_not_finite_is_refused_counted_and_left_out(bad: float):
    histogram = PixelHistogram(bins=8)
    with pytest.raises(ValueError, match=r"^2 pixels of the map are not finite"):
        histogram.add(np.array([[0.0, bad], [bad, 1.0]]), np.array([[True, False], [True, False]]))
    assert histogram.counts.sum() == 0


@pytest.mark.parametrize(
    "function",
    [dice_sweep, contrast_to_noise, mean_iou, PixelHistogram(bins=4).add],
    ids=["dice_sweep", "contrast_to_noise", "mean_iou", "PixelHistogram.add"],
)
@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 1), (1, 3), (2, 3, 1)])
def test_maps_of_another_shape_are_refused(function: Callable[..., object], shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="one shape"):
        function(np.full((2, 3), 0.5), np.ones(shape, dtype=bool))


# -- intervals -------------------------------------------------------------------------------------------


def test_a_resample_is_of_whole_patients_as_many_as_there_are():
    groups = ["a", "b", "a", "c", "b", "a", "d"]
    samples = {name: [k for k, group in enumerate(groups) if group == name] for name in "abcd"}
    calls: list[list[int]] = []

    def statistic(indices: np.ndarray) -> float:
        calls.append(indices.tolist())
        return float(len(indices))

    bootstrap(statistic, groups, resamples=300, seed=1)
    assert calls[0] == [*range(7)], "the value is of all samples"
    assert len(calls) == 301
    for drawn in calls[1:]:
        times = {name: {drawn.count(k) for k in indices} for name, indices in samples.items()}
        assert all(len(counts) == 1 for counts in times.values()), "no patient is broken"
        assert sum(max(counts) for counts in times.values()) == 4
    assert len({tuple(sorted(drawn)) for drawn in calls[1:]}) > 20


def test_patients_are_drawn_alike_and_with_repeats():
    times = np.zeros(5)
    without_first = 0

    def statistic(indices: np.ndarray) -> float:
        nonlocal times, without_first
        times += np.bincount(indices, minlength=5)
        without_first += 0 not in indices
        return 0.0

    bootstrap(statistic, range(5), resamples=2000)
    assert times.sum() == 2001 * 5
    assert times == pytest.approx(np.full(5, 2001), abs=200)  # five standard deviations
    assert without_first / 2000 == pytest.approx((4 / 5) ** 5, abs=0.05)


def test_the_interval_is_that_of_the_percentiles_of_the_resamples():
    rng = np.random.default_rng(0)
    values, patients = rng.normal(size=30), rng.integers(12, size=30).tolist()
    figures: list[float] = []

    def statistic(indices: np.ndarray) -> float:
        figures.append(float(values[indices].mean()))
        return figures[-1]

    found = bootstrap(statistic, patients, resamples=500, seed=3)
    cuts = statistics.quantiles(figures[1:], n=40, method="inclusive")
    assert found.value == figures[0] == values.mean()
    assert (found.low, found.high) == (pytest.approx(cuts[0], abs=1e-12), pytest.approx(cuts[-1], abs=1e-12))


def test_the_bootstrap_of_two_patients_by_hand():
    values = np.array([0.0, 1.0])
    found = bootstrap(lambda indices: float(values[indices].mean()), ["a", "b"])  # 0, 1/2, 1 at 1/4, 1/2, 1/4
    assert found == Interval(0.5, 0.0, 1.0)


def test_the_bootstrap_is_fixed_by_its_seed():
    values = np.random.default_rng(0).normal(size=20)
    patients = [k // 2 for k in range(20)]

    def interval(seed: int) -> Interval:
        return bootstrap(lambda indices: float(values[indices].mean()), patients, resamples=100, seed=seed)

    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    assert interval(0) == interval(0) == bootstrap(lambda k: float(values[k].mean()), patients, resamples=100)
    assert interval(7) == interval(7) != interval(8)
    assert np.random.get_state()[1].tolist() == state, "the global generator is left alone"  # type: ignore[union-attr]


def test_the_interval_holds_the_true_mean_in_about_95_of_100_repeats():
    rng = np.random.default_rng(0)
    held = 0
    for repeat in range(200):
        values = rng.normal(3, 2, size=40)
        found = bootstrap(lambda k, values=values: float(values[k].mean()), range(40), resamples=250, seed=repeat)
        held += found.low <= 3 <= found.high
    assert 0.88 <= held / 200 <= 0.99  # 0.933 of 3000 repeats with so few patients; three standard deviations of 200


def test_the_interval_knows_that_a_patients_samples_are_alike():
    rng = np.random.default_rng(0)
    patients, each = 60, 8
    means = rng.normal(size=patients)
    values = np.repeat(means, each)
    who = np.repeat(np.arange(patients), each).tolist()
    found = bootstrap(lambda indices: float(values[indices].mean()), who, resamples=800)
    width = 2 * 1.96 * means.std() / math.sqrt(patients)  # of as many independent numbers as patients
    assert found.high - found.low == pytest.approx(width, rel=0.12)
    apart = bootstrap(lambda indices: float(values[indices].mean()), range(len(who)), resamples=800)
    assert apart.high - apart.low == pytest.approx(width / math.sqrt(each), rel=0.12)


@pytest.mark.parametrize(("with_figure", "bounded"), [(10, True), (6, True), (5, True), (4, False), (0, False)])
def test_the_bounds_are_nan_when_most_resamples_have_no_figure(with_figure: int, bounded: bool):
    calls = 0

    def statistic(indices: np.ndarray) -> float:
        nonlocal calls
        calls += 1
        return 2.0 if calls <= 1 + with_figure else math.nan

    found = bootstrap(statistic, "abcdef", resamples=10)
    assert calls == 11
    assert found.value == 2
    assert (found.low, found.high) == ((2, 2) if bounded else pytest.approx((math.nan, math.nan), nan_ok=True))


def test_the_bootstrap_of_an_auc_leaves_out_resamples_of_one_class():
    truth, scores = np.array([True, False, False, False]), np.array([3.0, 2.0, 1.0, 4.0])
    found = bootstrap(lambda k: auc(truth[k], scores[k]), range(4))  # the positive is missing in (3/4)^4 = 32 %
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), 0, 1)
    one_patient_has_it = bootstrap(lambda k: auc(truth[k], scores[k]), [0, 1, 1, 1])
    assert (one_patient_has_it.low, one_patient_has_it.high) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_the_bootstrap_of_one_patient_and_of_none():
    values = np.array([1.0, 2.0, 6.0])
    assert bootstrap(lambda k: float(values[k].mean()), ["a"] * 3, resamples=20) == Interval(3, 3, 3)
    nobody = bootstrap(lambda k: auc(np.zeros(3)[k], values[k]), [])
    assert all(map(math.isnan, (nobody.value, nobody.low, nobody.high)))


@pytest.mark.parametrize("groups", [[1, "1", (1,), None], np.array(["p", "q", "r", "s"])], ids=["mixed", "numpy"])
def test_patients_may_be_named_by_anything(groups: Sequence[object]):
    found = bootstrap(lambda indices: float(len(indices)), groups, resamples=20)
    assert found == Interval(4, 4, 4), "four patients of one sample each"


# -- classes by frequency --------------------------------------------------------------------------------


def test_frequency_groups_by_hand():
    frequencies = [k / 1000 for k in range(0, 105, 5)]  # 21 classes: the 65th percentile is the 14th, 0.065
    groups = [frequency_group(5 * k, 1000, frequencies) for k in range(21)]
    assert groups == ["tail"] * 3 + ["medium"] * 11 + ["head"] * 7
    between = [0.1, 0.2, 0.3]  # 0.3 of the way from 0.2 to 0.3: 0.23
    assert [frequency_group(n, 1000, between) for n in (229, 231)] == ["medium", "head"]


@pytest.mark.parametrize(("positives", "group"), [(0, "tail"), (1, "tail"), (10, "tail"), (11, "head"), (50, "head")])
def test_a_class_that_is_head_and_tail_is_tail(positives: int, group: str):
    assert frequency_group(positives, 100, [0.0, 0.0, 0.0]) == group


def test_classes_alike_are_medium():
    assert frequency_group(30, 90, [30 / 90] * 7) == "medium"
    assert frequency_group(30, 90, [30 / 90]) == "medium"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=45))
def test_the_head_is_above_an_exact_percentile(positives: list[int]):
    images = 97
    place = Fraction(65, 100) * (len(positives) - 1)
    low = sorted(positives)[math.floor(place)]
    high = sorted(positives)[math.ceil(place)]
    percentile = low + (high - low) * (place - math.floor(place))
    for count in positives:
        expected = "tail" if count <= 10 else "head" if count > percentile else "medium"
        assert frequency_group(count, images, [n / images for n in positives]) == expected
