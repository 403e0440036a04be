"""Define the fixed colour scale of similarity maps, how it is laid on a radiograph, and the colours around it."""

import numpy as np
from numpy.typing import NDArray

_SCALE_STEPS = 1000
_ANCHORS = np.array(
    [
        (13, 8, 135),
        (70, 3, 159),
        (114, 1, 168),
        (156, 23, 158),
        (189, 55, 134),
        (216, 87, 107),
        (237, 121, 83),
        (251, 159, 58),
        (253, 202, 38),
        (240, 249, 33),
    ],
    dtype=np.float64,
)
"""Ten equally spaced anchors (RGB, 0..255) of the colour map "plasma" (CC0).

Its lightness always rises, so it can be read in grey and with any kind of colour blindness.
"""
BACKGROUND = (16, 16, 19)
TEXT = (240, 240, 242)
MUTED = (176, 176, 184)
FILM_EDGE = (70, 70, 78)
NOTICE_TEXT = (255, 222, 140)
NOTICE_BAND = (70, 48, 8)
LINE = (255, 255, 255)
HALO = (0, 0, 0)
PEAK = (90, 235, 255)
FRAME = (215, 215, 220)
Colour = tuple[int, int, int]


def _build_table() -> NDArray[np.uint8]:
    positions = np.linspace(0.0, 1.0, len(_ANCHORS))
    values = np.arange(_SCALE_STEPS + 1) / _SCALE_STEPS
    channels = [np.interp(values, positions, _ANCHORS[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


_TABLE = _build_table()


def similarity_colours(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Give the opaque colour of each similarity, as in the left strip of the legend.

    Args:
        values: any shape (...), similarities in 0..1.

    Returns:
        (..., 3) uint8 RGB, from deep blue at 0 through magenta to yellow at 1, in steps of 0.001.
    """
    colours: NDArray[np.uint8] = _TABLE[np.round(np.asarray(values) * _SCALE_STEPS).astype(np.intp)]
    return colours


def similarity_alpha(values: NDArray[np.floating], opacity: float) -> NDArray[np.float32]:
    """Give the opacity with which each similarity is laid on the film.

    It is ``opacity * (3 v^2 - 2 v^3)``, which always rises: 0 at similarity 0, half of `opacity` at 0.5, and `opacity`
    at 1. Low similarity thus leaves the anatomy clear.

    Args:
        values: any shape (...), similarities in 0..1.
        opacity: the opacity at similarity 1, in 0..1.

    Returns:
        (...) float32 in 0..opacity.
    """
    v = np.asarray(values, dtype=np.float32)
    alpha: NDArray[np.float32] = np.float32(opacity) * v * v * (np.float32(3.0) - np.float32(2.0) * v)
    return alpha


def blend(grey: NDArray[np.float32], values: NDArray[np.float32], opacity: float) -> NDArray[np.uint8]:
    """Lay similarities (h, w) in 0..1 on grey (h, w) in 0..255; return RGB (h, w, 3) uint8."""
    alpha = similarity_alpha(values, opacity)[..., None]
    base = grey[..., None]
    out: NDArray[np.uint8] = np.rint(base + alpha * (similarity_colours(values) - base)).astype(np.uint8)
    return out
