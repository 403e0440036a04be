"""Find the regions of a map, with outlines as polygons in image coordinates (pixels)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

_LONG_SIDE = 1024
"""A map is sampled at every (longer side // 1024)-th pixel: it is bilinear between patches of many pixels."""
_BELOW = 1e-9
"""Contours are drawn this much below the threshold, so that values that equal the threshold are inside."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a map.

    Attributes:
        outline: (K, 2) x, y in pixels of a closed polygon, which repeats its first point at its end. Coordinates are
            as in DICOM (PS3.3 C.10.5.1.2): 0, 0 is the corner of the top left pixel, whose centre is at 0.5, 0.5.
        holes: closed polygons of the holes in the region.
        area: area in pixels, without the holes.
    """

    outline: npt.NDArray[np.float64]
    holes: tuple[npt.NDArray[np.float64], ...]
    area: float

    @property
    def polygons(self) -> tuple[npt.NDArray[np.float64], ...]:
        """The outline, then the holes."""
        return (self.outline, *self.holes)


def find_regions(
    values: npt.NDArray[np.floating], threshold: float, *, min_area: float = 16.0, tolerance: float = 0.35
) -> list[Region]:
    """Find the regions where a map is at least a threshold, the largest first.

    Args:
        values: (H, W) map.
        threshold: level of the outlines, which are interpolated between the values.
        min_area: smallest area in pixels; smaller regions and holes are left out.
        tolerance: largest distance of a simplified outline from the full one, in pixels.
    """
    from contourpy import FillType, LineType, contour_generator

    height, width = values.shape
    step = max(1, max(height, width) // _LONG_SIDE)
    rows, columns = _every(height, step), _every(width, step)
    # a rim just below the threshold closes outlines at the image's edge, half a pixel beyond the outermost centres
    grid = np.pad(values[np.ix_(rows, columns)].astype(np.float64), 1, constant_values=threshold - 1.0001 * _BELOW)
    y = np.concatenate(([0.0], rows + 0.5, [float(height)]))
    x = np.concatenate(([0.0], columns + 0.5, [float(width)]))
    generator = contour_generator(x=x, y=y, z=grid, fill_type=FillType.OuterOffset, line_type=LineType.Separate)
    points, offsets = generator.filled(threshold - _BELOW, np.inf)
    regions = []
    for polygon, offset in zip(points, offsets, strict=True):
        np.clip(polygon, 0.0, (width, height), out=polygon)  # rounding may put interpolated points past the edge
        rings = [polygon[a:b] for a, b in pairwise(offset)]
        holes = tuple(_simplify(ring, tolerance) for ring in rings[1:] if _area(ring) >= min_area)
        outline = _simplify(rings[0], tolerance)
        area = _area(outline) - sum(_area(hole) for hole in holes)
        if area >= min_area:
            regions.append(Region(outline, holes, area))
    return sorted(regions, key=lambda region: -region.area)


def _every(length: int, step: int) -> npt.NDArray[np.intp]:
    """Return the indices 0, step, 2 step, ... and the last index."""
    return np.unique(np.append(np.arange(0, length, step), length - 1))


def _area(ring: npt.NDArray[np.float64]) -> float:
    """Return the area of a closed polygon in pixels, by the shoelace formula."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _simplify(ring: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.float64]:
    """Remove points of a closed polygon that are within ``tolerance`` pixels of the rest (Douglas, Peucker 1973)."""
    far = int(np.argmax(np.sum((ring - ring[0]) ** 2, axis=1)))
    keep = np.zeros(len(ring), dtype=bool)
    keep[[0, far, len(ring) - 1]] = True
    pending = [(0, far), (far, len(ring) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        start, chord = ring[first], ring[last] - ring[first]
        between = ring[first + 1 : last] - start
        along = np.clip(between @ chord / max(float(chord @ chord), 1e-12), 0.0, 1.0)
        distance = np.hypot(*(between - along[:, None] * chord).T)
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance:
            keep[first + 1 + worst] = True
            pending += [(first, first + 1 + worst), (first + 1 + worst, last)]
    return ring[keep]
