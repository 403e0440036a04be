"""Metrics as pure functions of scores and truth."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

THRESHOLDS: npt.NDArray[np.float64] = np.arange(101) / 100
"""The Dice sweep's thresholds, 0 to 1 in steps of 0.01."""


def auc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counted as half.

    Args:
        truth: (M,) booleans.
        scores: (M,) finite numbers.

    Returns:
        0..1, or NaN when a class is absent.

    Raises:
        ValueError: for different lengths or scores that are not finite.
    """
    positive, values = np.asarray(truth, dtype=bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != values.shape or positive.ndim != 1:
        raise ValueError(f"truth and scores must be two lists of one length, not {positive.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are not finite")
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]  # 1-based, ties share their mean
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def pointing_hit(peak: Sequence[float], boxes: Iterable[Sequence[float]]) -> bool:
    """Whether the peak pixel x, y lies in any box x0, y0, x1, y1, borders included."""
    x, y = peak
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


def dice_sweep(probabilities: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Dice of {probability >= t} with a mask, for every t of :data:`THRESHOLDS`.

    Args:
        probabilities: (H, W) in 0..1.
        mask: (H, W).

    Returns:
        (101,) values in 0..1; 1 where both are empty.

    Raises:
        ValueError: for different shapes or probabilities outside 0..1.
    """
    if probabilities.shape != mask.shape:
        raise ValueError(f"map and mask must have one shape, not {probabilities.shape} and {mask.shape}")
    # the bin of a value is the last threshold that it reaches
    bins = np.searchsorted(THRESHOLDS, probabilities.ravel().astype(np.float64), side="right") - 1
    if bins.size and (bins.min() < 0 or probabilities.max() > 1 or np.isnan(probabilities).any()):
        raise ValueError("probabilities must be in 0..1")
    predicted = np.bincount(bins, minlength=101)[::-1].cumsum()[::-1]
    correct = np.bincount(bins[mask.ravel()], minlength=101)[::-1].cumsum()[::-1]
    total = predicted + int(mask.sum())
    return np.where(total > 0, 2 * correct / np.maximum(total, 1), 1.0)
