"""Define the field functions that the phantom's modules share; all arrays are float32 on one grid."""

from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Field: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]


def smoothstep(lower: float | Field, upper: float | Field, x: Field) -> Field:
    """Return a cubic step: 0 below ``lower``, 1 above ``upper``, smooth between; it falls if ``lower`` is greater."""
    t = np.clip((x - lower) / (upper - lower), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)


def rounded_edge(depth: Field, radius: float) -> Field:
    """Return the share (0..1) of the full thickness ``depth`` cm inside a border rounded with ``radius`` cm."""
    t = 1.0 - np.clip(depth / radius, 0.0, 1.0)
    return np.sqrt(np.maximum(1.0 - t * t, 0.0)).astype(np.float32)


def sphere_chord(distance: Field, radius: float | Field) -> Field:
    """Return the length in cm of a ray inside a sphere of ``radius`` cm, at ``distance`` cm from its centre."""
    return (2.0 * np.sqrt(np.maximum(radius * radius - distance * distance, 0.0))).astype(np.float32)


class NoiseTable:
    """A periodic table of standard normal numbers, interpolated smoothly: value noise at any coordinates."""

    def __init__(self, rng: np.random.Generator, size: int = 64) -> None:
        if size & (size - 1):
            raise ValueError(f"the table's size must be a power of two: {size}")
        self._size = size
        self._table: Field = rng.standard_normal((size, size), dtype=np.float32)

    def __call__(self, a: Field, b: Field) -> Field:
        """Return noise at table coordinates (a, b), one cell per unit, in the shape of ``a``.

        Its variance is about 1 at whole coordinates, and about 0.55 over all.
        """
        floor_a, floor_b = np.floor(a), np.floor(b)
        fa, fb = (a - floor_a).astype(np.float32), (b - floor_b).astype(np.float32)
        fa *= fa * (3 - 2 * fa)
        fb *= fb * (3 - 2 * fb)
        wrap, n = self._size - 1, self._size
        ia, ib = floor_a.astype(np.int32) & wrap, floor_b.astype(np.int32) & wrap
        ja, jb = ((ia + 1) & wrap) * n, (ib + 1) & wrap
        ia *= n
        flat = self._table.ravel()
        top = flat.take(ia + ib)
        top += (flat.take(ia + jb) - top) * fb
        bottom = flat.take(ja + ib)
        bottom += (flat.take(ja + jb) - bottom) * fb
        bottom -= top
        bottom *= fa
        top += bottom
        return top


def distance_to_polyline(x: Field, y: Field, points: list[tuple[float, float]]) -> Field:
    """Return the distance in cm from every pixel to a polyline of (x, y) points in cm."""
    best = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, dtype=np.float32)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        length2 = max(dx * dx + dy * dy, 1e-9)
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / length2, 0.0, 1.0)
        best = np.minimum(best, (x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2)
    return np.sqrt(best).astype(np.float32)


def blur(image: Field, sigma: float) -> Field:
    """Blur with a separable Gaussian of ``sigma`` pixels (0 returns the image itself) and repeated edges."""
    if sigma <= 0.05:
        return image
    radius = max(1, int(np.ceil(2.5 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        out = np.zeros_like(image)
        for k, tap in enumerate(taps):
            out += tap * (padded[k : k + length] if axis == 0 else padded[:, k : k + length])
        image = out
    return image
