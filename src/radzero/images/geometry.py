"""Where a film's pixels land in the model's input, and the exact way back.

Coordinates are continuous, in pixels, x to the right and y downwards, with 0 at the EDGE of the first pixel: pixel k
covers k..k+1 and is centred on k + 1/2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Geometry:
    """A resize, followed by a placement (padding where positive, cropping where negative) in the model's input.

    Attributes:
        original: (H, W) of the film.
        resized: (H, W) after resizing, before padding or cropping.
        placed: (y, x) in input pixels of the resized film's top-left corner; negative where it is cropped.
        input: (H, W) of the model's input.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    placed: tuple[int, int]
    input: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.original, *self.resized, *self.input) < 1:
            raise ValueError(f"sizes must be positive: {self}")
        if self.covered[0] >= self.covered[2] or self.covered[1] >= self.covered[3]:
            raise ValueError(f"nothing of the film is in the model's input: {self}")

    @classmethod
    def squash(cls, original: tuple[int, int], size: tuple[int, int]) -> "Geometry":
        """Resize straight to ``size``, aspect ratio not kept."""
        return cls(original, size, (0, 0), size)

    @classmethod
    def pad(cls, original: tuple[int, int], size: tuple[int, int], *, centred: bool = True) -> "Geometry":
        """Resize, aspect ratio kept, until the film just fits in ``size``; pad the rest."""
        scale = min(size[0] / original[0], size[1] / original[1])
        resized = (
            min(size[0], max(1, round(original[0] * scale))),
            min(size[1], max(1, round(original[1] * scale))),
        )
        free = (size[0] - resized[0], size[1] - resized[1])
        return cls(original, resized, (free[0] // 2, free[1] // 2) if centred else (0, 0), size)

    @classmethod
    def center_crop(cls, original: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]) -> "Geometry":
        """Resize to ``resized``, then keep the central ``size``."""
        top, left = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
        return cls(original, resized, (-top, -left), size)

    @property
    def scale(self) -> tuple[float, float]:
        """(y, x) input pixels per film pixel."""
        return self.resized[0] / self.original[0], self.resized[1] / self.original[1]

    @property
    def covered(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of the part of the film that the model sees, in film pixels."""
        x0, y0 = self.to_original(np.zeros(2))
        x1, y1 = self.to_original(np.array([self.input[1], self.input[0]], dtype=float))
        height, width = self.original
        return (
            max(float(x0), 0.0),
            max(float(y0), 0.0),
            min(float(x1), float(width)),
            min(float(y1), float(height)),
        )

    def to_input(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Film coordinates -> input coordinates: points (..., 2) as x, y or boxes (..., 4) as x0, y0, x1, y1."""
        xy = np.asarray(points, dtype=np.float64)
        scale, placed = self._xy(xy.shape[-1])
        return xy * scale + placed

    def to_original(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The inverse of :meth:`to_input`."""
        xy = np.asarray(points, dtype=np.float64)
        scale, placed = self._xy(xy.shape[-1])
        return (xy - placed) / scale

    def _xy(self, length: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if length not in (2, 4):
            raise ValueError(f"points are x, y and boxes x0, y0, x1, y1; the last axis is {length} long")
        repeat = length // 2
        return np.tile(self.scale[::-1], repeat), np.tile(np.array(self.placed[::-1], dtype=np.float64), repeat)


@dataclass(frozen=True)
class _Axis:
    """Linear interpolation along one axis: film pixels ``at`` read grid cells ``first`` and ``second``."""

    at: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float32]  # of ``second``


class MapGeometry:
    """Patch grids laid on the film: bilinear (``align_corners=False``), in one step from grid to film pixels.

    For a squashed film this is the plain bilinear resize of the grid to the film; padding is left out and what lies
    outside a crop is not covered.

    Args:
        geometry: of the preprocessing.
        grid: (h, w) rows and columns of patches.
        patch: input pixels per patch; h * patch may fall short of the input's height where it does not divide it.
    """

    def __init__(self, geometry: Geometry, grid: tuple[int, int], patch: int) -> None:
        if grid[0] * patch > geometry.input[0] or grid[1] * patch > geometry.input[1]:
            raise ValueError(f"{grid} patches of {patch} pixels do not fit an input of {geometry.input}")
        self.geometry, self.grid, self.patch = geometry, grid, patch
        self._rows, self._columns = (self._axis(k) for k in (0, 1))

    def _axis(self, axis: int) -> _Axis:
        g = self.geometry
        centres = np.arange(g.original[axis], dtype=np.float64) + 0.5
        position = centres * g.scale[axis] + g.placed[axis]
        at = np.flatnonzero((position >= 0) & (position <= g.input[axis]))
        cell = np.clip(position[at] / self.patch - 0.5, 0.0, self.grid[axis] - 1)
        if not len(at):
            raise ValueError(f"no film pixel's centre is in the model's input: {g}")
        first = np.minimum(np.floor(cell).astype(np.intp), self.grid[axis] - 1)
        return _Axis(at, first, np.minimum(first + 1, self.grid[axis] - 1), (cell - first).astype(np.float32))

    def upsample(self, values: npt.ArrayLike, fill: float) -> npt.NDArray[np.float32]:
        """Grid values (..., h, w) at every film pixel (..., H, W); ``fill`` where the model did not look.

        Raises:
            ValueError: when ``values`` do not end in (h, w).
        """
        grid = np.asarray(values, dtype=np.float32)
        if grid.shape[-2:] != self.grid:
            raise ValueError(f"values must end in {self.grid}, not {grid.shape}")
        out = np.full((*grid.shape[:-2], *self.geometry.original), fill, dtype=np.float32)
        out[..., self._rows.at[:, None], self._columns.at] = _interpolate(grid, self._rows, self._columns)
        return out

    def peak(self, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """x, y of the film pixel (..., 2) where the upsampled grid (..., h, w) is greatest, the first in reading order.

        A bilinear surface is greatest, between four cell centres, on a corner of the pixels there; so only those
        pixels are computed and the answer is that of an arg-max over every pixel.
        """
        grid = np.asarray(values, dtype=np.float32)
        if grid.shape[-2:] != self.grid:
            raise ValueError(f"values must end in {self.grid}, not {grid.shape}")
        rows, columns = _corners(self._rows), _corners(self._columns)
        surface = _interpolate(grid, rows, columns)
        best = surface.reshape(*surface.shape[:-2], len(rows.at) * len(columns.at)).argmax(axis=-1)
        y, x = np.divmod(best, len(columns.at))
        return np.stack((columns.at[x], rows.at[y]), axis=-1).astype(np.int64)


def _interpolate(grid: npt.NDArray[np.float32], rows: _Axis, columns: _Axis) -> npt.NDArray[np.float32]:
    first, second = grid[..., rows.first, :], grid[..., rows.second, :]
    lines = _blend(first, second, rows.weight[:, None])
    return _blend(lines[..., columns.first], lines[..., columns.second], columns.weight)


def _blend(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    one = np.float32(1.0)
    return np.asarray(first * (one - weight) + second * weight, dtype=np.float32)


def _corners(axis: _Axis) -> _Axis:
    """The first and last pixel of every run that reads the same pair of cells."""
    # cells clamped at a border interpolate between a cell and itself: constant, so its ends serve as well
    change = np.flatnonzero(np.diff(axis.first) != 0)
    edge = np.flatnonzero(np.diff((axis.weight == 0).astype(np.int8)) != 0)
    keep = np.unique(np.concatenate(([0], change, change + 1, edge, edge + 1, [len(axis.at) - 1])))
    return _Axis(axis.at[keep], axis.first[keep], axis.second[keep], axis.weight[keep])
