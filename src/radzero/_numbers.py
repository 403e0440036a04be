"""Arithmetic that several parts need, in one place so that their figures agree."""

from typing import Any

import numpy as np
import numpy.typing as npt


def sigmoid(values: npt.NDArray[np.floating]) -> npt.NDArray[Any]:
    """Return 1 / (1 + exp(-x)) in the type of the values, for -inf and inf too; NaN stays NaN."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-values)), dtype=values.dtype)
