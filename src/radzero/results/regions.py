"""Outlines of the regions of a map, as polygons in film coordinates."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

_LONG_SIDE = 1024
"""Maps are bilinear between patches of many pixels, so every few pixels tell as much as all of them."""
_BELOW = 1e-9
"""Contours run this much below the threshold, so that values that equal it are inside."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region.

    Attributes:
        outline: (K, 2) x, y of a closed polygon, its first point again at its end. Coordinates as in DICOM (PS3.3
            C.10.5.1.2): 0, 0 is the corner of the top left pixel, whose centre is at 0.5, 0.5.
        holes: polygons within it.
        area: pixels, those of the holes left out.
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
    """Where a map is at least a threshold, the largest region first.

    Args:
        values: (H, W) map.
        threshold: of the outline, between the values.
        min_area: pixels; smaller regions and holes are left out.
        tolerance: pixels by which a simplified outline may stray.
    """
    from contourpy import FillType, LineType, contour_generator

    height, width = values.shape
    step = max(1, max(height, width) // _LONG_SIDE)
    rows, columns = _every(height, step), _every(width, step)
    # a rim just below the threshold closes outlines at the film's edge, half a pixel beyond the outermost centres
    grid = np.pad(values[np.ix_(rows, columns)].astype(np.float64), 1, constant_values=threshold - 1.0001 * _BELOW)
    y = np.concatenate(([0.0], rows + 0.5, [float(height)]))
    x = np.concatenate(([0.0], columns + 0.5, [float(width)]))
    generator = contour_generator(x=x, y=y, z=grid, fill_type=FillType.OuterOffset, line_type=LineType.Separate)
    points, offsets = generator.filled(threshold - _BELOW, np.inf)
    regions = []
    for polygon, offset in zip(points, offsets, strict=True):
        np.clip(polygon, 0.0, (width, height), out=polygon)  # what is interpolated may be rounded past the film's edge
        rings = [polygon[a:b] for a, b in pairwise(offset)]
        holes = tuple(_simplify(ring, tolerance) for ring in rings[1:] if _area(ring) >= min_area)
        outline = _simplify(rings[0], tolerance)
        area = _area(outline) - sum(_area(hole) for hole in holes)
        if area >= min_area:
            regions.append(Region(outline, holes, area))
    return sorted(regions, key=lambda region: -region.area)


def _every(length: int, step: int) -> npt.NDArray[np.intp]:
    """Indices 0, step, 2 step, ... and the last."""
    return np.unique(np.append(np.arange(0, length, step), length - 1))


def _area(ring: npt.NDArray[np.float64]) -> float:
    """Of a closed polygon, by the shoelace formula."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _simplify(ring: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.float64]:
    """A closed polygon with as few points as stay within ``tolerance`` of all of its points (Douglas, Peucker 1973)."""
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
