"""Compute metrics as pure functions of scores and truth."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

THRESHOLDS: npt.NDArray[np.float64] = np.arange(101) / 100
"""Thresholds of the Dice sweep, 0 to 1 in steps of 0.01."""


def auc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that a positive scores above a negative; a tie counts as half.

    Args:
        truth: (M,) booleans.
        scores: (M,) finite numbers.

    Returns:
        The area, 0..1, or NaN when all samples are of one class.

    Raises:
        ValueError: when the lengths differ, or a score is not finite.
    """
    positive, values = _checked(truth, scores)
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]  # ranks count from 1; ties share their mean rank
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def average_precision(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the precision-recall curve by steps: sum over thresholds of (recall gained) x precision.

    Args:
        truth, scores: as for :func:`auc`.

    Returns:
        The area, 0..1, or NaN without a positive.
    """
    positive, values = _checked(truth, scores)
    count = int(positive.sum())
    if count == 0:
        return float("nan")
    hits, said, _ = _by_threshold(positive, values)
    gained = np.diff(hits, prepend=0)
    return float((gained / count * hits / said).sum())


@dataclass(frozen=True)
class ThresholdFigures:
    """Figures at the threshold that maximises F1 on the very images that are scored.

    The rows of CARZero's tables are made in this way: the threshold is chosen per class on the test set, so the figures
    are optimistic for every method alike. A score at or above the threshold is positive; of several best thresholds the
    highest is taken.

    Attributes:
        threshold: the threshold, on the scale of the scores.
        f1, mcc, accuracy: figures at the threshold.
    """

    threshold: float
    f1: float
    mcc: float
    accuracy: float


def figures_at_best_f1(truth: npt.ArrayLike, scores: npt.ArrayLike) -> ThresholdFigures:
    """Return F1, Matthews' correlation and accuracy at the threshold of the best F1; all are NaN without a positive.

    MCC is 0 where a row or column of the confusion matrix is empty, as in scikit-learn.
    """
    positive, values = _checked(truth, scores)
    count = int(positive.sum())
    if count == 0:
        return ThresholdFigures(*[float("nan")] * 4)
    hits, said, thresholds = _by_threshold(positive, values)
    f1 = 2 * hits / (said + count)
    best = int(np.argmax(f1))
    return figures_at(positive, values, float(thresholds[best]))


def figures_at(truth: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> ThresholdFigures:
    """Return F1, Matthews' correlation and accuracy when {score >= threshold} is positive."""
    positive, values = _checked(truth, scores)
    said = values >= threshold
    tp, fp = float((said & positive).sum()), float((said & ~positive).sum())
    fn, tn = float((~said & positive).sum()), float((~said & ~positive).sum())
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return ThresholdFigures(
        threshold,
        2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan"),
        (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0,
        (tp + tn) / len(values) if len(values) else float("nan"),
    )


def roc_points(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the ROC curve as false and true positive rates, from (0, 0) to (1, 1).

    Both are empty when all samples are of one class.
    """
    positive, values = _checked(truth, scores)
    count = int(positive.sum())
    if count in (0, len(positive)):
        return np.empty(0), np.empty(0)
    hits, said, _ = _by_threshold(positive, values)
    return (
        np.concatenate([[0.0], (said - hits) / (len(positive) - count)]),
        np.concatenate([[0.0], hits / count]),
    )


def _by_threshold(
    positive: npt.NDArray[np.bool_], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return true and predicted positives (counts) at every distinct score, from the highest, and these scores."""
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    hits = np.cumsum(positive[order])[last].astype(np.float64)
    said = (last + 1).astype(np.float64)
    return hits, said, ranked[last]


def _checked(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    labels, values = np.asarray(truth), np.asarray(scores, dtype=np.float64)
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise ValueError("truth must be 0 or 1; leave out what is not known")
    positive = labels.astype(bool)
    if positive.shape != values.shape or positive.ndim != 1:
        raise ValueError(f"truth and scores must be two lists of one length, not {positive.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are not finite")
    return positive, values


# -- calibration -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Comparison of probabilities with frequencies.

    Attributes:
        brier: mean squared difference of probability and truth.
        ece: expected calibration error: mean over samples of |mean probability - frequency| of their bin.
        predicted, observed, counts: mean probability, frequency of positives and number of samples per bin of equal
            width; the first two are NaN in empty bins.
    """

    brier: float
    ece: float
    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


def calibration(truth: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15) -> Calibration:
    """Return the Brier score, the expected calibration error and the reliability curve.

    Args:
        truth: (M,) booleans.
        probabilities: (M,) in 0..1; the k-th bin is [k/bins, (k+1)/bins), and the last includes 1.
        bins: number of bins.

    Raises:
        ValueError: when a probability is outside 0..1.
    """
    positive, values = _checked(truth, probabilities)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError("probabilities must be in 0..1")
    if not values.size:
        nothing = np.full(bins, np.nan)
        return Calibration(float("nan"), float("nan"), nothing, nothing, np.zeros(bins, dtype=np.int64))
    which = np.searchsorted(np.arange(1, bins) / bins, values, side="right")
    counts = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(which, weights=values, minlength=bins) / counts
        observed = np.bincount(which, weights=positive, minlength=bins) / counts
    gaps = np.abs(predicted - observed)[counts > 0]
    return Calibration(
        float(((values - positive) ** 2).mean()),
        float((counts[counts > 0] * gaps).sum() / len(values)),
        predicted,
        observed,
        counts,
    )


# -- places ----------------------------------------------------------------------------------------------


def pointing_hit(peak: Sequence[float], boxes: Iterable[Sequence[float]]) -> bool:
    """Return whether the peak pixel x, y lies in any box x0, y0, x1, y1 (pixels, borders included)."""
    x, y = peak
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


def dice_sweep(probabilities: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the Dice score of {probability >= t} with a mask, for every t of :data:`THRESHOLDS`.

    Args:
        probabilities: (H, W) in 0..1.
        mask: (H, W) booleans.

    Returns:
        (101,) values in 0..1; 1 where both are empty.

    Raises:
        ValueError: when the shapes differ, or a probability is outside 0..1.
    """
    _check_map(probabilities, mask)
    # the bin of a value is the index of the last threshold that it reaches
    bins = np.searchsorted(THRESHOLDS, probabilities.ravel().astype(np.float64), side="right") - 1
    if bins.size and (bins.min() < 0 or probabilities.max() > 1 or np.isnan(probabilities).any()):
        raise ValueError("probabilities must be in 0..1")
    predicted = np.bincount(bins, minlength=101)[::-1].cumsum()[::-1]
    correct = np.bincount(bins[mask.ravel()], minlength=101)[::-1].cumsum()[::-1]
    total = predicted + int(mask.sum())
    return np.where(total > 0, 2 * correct / np.maximum(total, 1), 1.0)


def _check_map(values: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> None:
    if values.shape != mask.shape:
        raise ValueError(f"map and mask must have one shape, not {values.shape} and {mask.shape}")
    if mask.dtype != bool:
        raise ValueError(f"a mask is of booleans, not {mask.dtype}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} pixels of the map are not finite")


def contrast_to_noise(values: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> float:
    """Return CNR = |mean inside - mean outside| / sqrt(var inside + var outside) of a raw map and a mask.

    Returns:
        The ratio, 0 or more; NaN when the mask is empty or full, or when both variances are 0.
    """
    _check_map(values, mask)
    inside, outside = values[mask].astype(np.float64), values[~mask].astype(np.float64)
    if not inside.size or not outside.size:
        return float("nan")
    # a constant part has no variance, but rounding could give it one
    noise = sum(float(part.var()) for part in (inside, outside) if part.min() < part.max())
    return float(abs(inside.mean() - outside.mean()) / math.sqrt(noise)) if noise > 0 else float("nan")


IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def mean_iou(probabilities: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> float:
    """Return the mean intersection over union of {probability >= t} with a mask over t of :data:`IOU_THRESHOLDS`.

    It is NaN for an empty mask.
    """
    _check_map(probabilities, mask)
    if not mask.any():
        return float("nan")
    total = 0.0
    for threshold in IOU_THRESHOLDS:
        said = probabilities >= threshold
        total += (said & mask).sum() / (said | mask).sum()
    return float(total / len(IOU_THRESHOLDS))


class PixelHistogram:
    """Compute the ROC AUC of pixels without keeping them, from counts of positive and negative pixels in fine bins.

    Pixels of one bin count as ties. The true AUC differs from :attr:`auc` by at most :attr:`bound`, half the share of
    (positive, negative) pairs that fall into one bin, which is known exactly.

    Args:
        low, high: range of the raw map's values; values beyond it are counted in the outermost bins.
        bins: number of bins.
    """

    def __init__(self, low: float = -40.0, high: float = 40.0, bins: int = 2**16) -> None:
        self.low, self.high = low, high
        self.counts = np.zeros((2, bins), dtype=np.int64)

    def add(self, values: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> None:
        """Count an image's pixels.

        Raises:
            ValueError: when the shapes differ, or a value is not finite.
        """
        _check_map(values, mask)
        bins = self.counts.shape[1]
        inside = np.clip(values.astype(np.float64), self.low, self.high)
        which = np.minimum((inside - self.low) * (bins / (self.high - self.low)), bins - 1).astype(np.int64)
        self.counts[1] += np.bincount(which[mask], minlength=bins)
        self.counts[0] += np.bincount(which[~mask], minlength=bins)

    @property
    def auc(self) -> float:
        """ROC AUC of the pixels, 0..1; NaN when all pixels are of one class."""
        negative, positive = self.counts.astype(np.float64)
        pairs = negative.sum() * positive.sum()
        if not pairs:
            return float("nan")
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / pairs)

    @property
    def bound(self) -> float:
        """Largest possible difference between the true AUC and :attr:`auc`; NaN when all pixels are of one class."""
        negative, positive = self.counts.astype(np.float64)
        pairs = negative.sum() * positive.sum()
        return float((positive * negative).sum() / (2 * pairs)) if pairs else float("nan")


# -- intervals -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval; the bounds are NaN where too few resamples have the figure."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[npt.NDArray[np.int64]], float],
    groups: Sequence[object],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Compute a percentile bootstrap that draws whole patients.

    Args:
        statistic: function of the indices of the samples drawn, repeats included.
        groups: (M,) patient of each sample; all samples of a patient are drawn together.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        The statistic of all samples, and its 2.5 and 97.5 percentiles over the resamples that do not give NaN.
    """
    rows: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        rows.setdefault(group, []).append(index)
    members = [np.array(indices) for indices in rows.values()]
    value = statistic(np.arange(len(groups)))
    if not members:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        picked = rng.integers(len(members), size=len(members))
        figure = statistic(np.concatenate([members[k] for k in picked]))
        if not math.isnan(figure):
            drawn.append(figure)
    if len(drawn) < resamples / 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def frequency_group(positives: int, images: int, frequencies: Sequence[float]) -> str:
    """Return "tail", "head" or "medium" for a class, by CARZero's definition.

    A class with at most 10 positives is "tail"; any other whose frequency is above the 65th percentile of the classes'
    frequencies is "head".
    """
    if positives <= 10:
        return "tail"
    return "head" if positives / images > float(np.percentile(frequencies, 65)) else "medium"
