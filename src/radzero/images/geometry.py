"""Map an image's pixels to the model's input, and exactly back, for any number of axes.

Coordinates are continuous, in pixels, with 0 at the EDGE of the first pixel: pixel k covers k..k+1 and is centred on
k + 1/2. Shapes are in array order, as (H, W) or (D, H, W). Points are in the opposite order, as x, y or x, y, z: x to
the right, y downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class AxisGeometry:
    """One axis of a :class:`Geometry`: a resize, then padding or cropping.

    Attributes:
        original: length of the image, in its own pixels.
        resized: length after resizing, before padding or cropping, in input pixels.
        placed: where the resized image begins in the input, in input pixels; negative where it is cropped.
        input: length of the model's input, in input pixels.
    """

    original: int
    resized: int
    placed: int
    input: int

    def __post_init__(self) -> None:
        if min(self.original, self.resized, self.input) < 1:
            raise ValueError(f"sizes must be positive: {self}")
        if self.covered[0] >= self.covered[1]:
            raise ValueError(f"nothing of the image is in the model's input: {self}")

    @property
    def scale(self) -> float:
        """Input pixels per image pixel."""
        return self.resized / self.original

    @property
    def covered(self) -> tuple[float, float]:
        """First and last coordinate of the part of the image that the model sees, in image pixels."""
        low, high = (0 - self.placed) / self.scale, (self.input - self.placed) / self.scale
        return max(low, 0.0), min(high, float(self.original))


@dataclass(frozen=True)
class Geometry:
    """A resize, followed by a placement (padding where positive, cropping where negative) in the model's input.

    Attributes:
        axes: one record per axis, in array order: rows and columns for a radiograph; slices come first for a volume.
    """

    axes: tuple[AxisGeometry, ...]

    @classmethod
    def of(
        cls, original: Sequence[int], resized: Sequence[int], placed: Sequence[int], size: Sequence[int]
    ) -> "Geometry":
        """Make a geometry of lengths and offsets, each given with one entry per axis (see :class:`AxisGeometry`)."""
        return cls(tuple(AxisGeometry(*lengths) for lengths in zip(original, resized, placed, size, strict=True)))

    @classmethod
    def squash(cls, original: Sequence[int], size: Sequence[int]) -> "Geometry":
        """Resize straight to ``size``, without keeping the aspect ratio."""
        return cls.of(original, size, (0,) * len(size), size)

    @classmethod
    def pad(cls, original: Sequence[int], size: Sequence[int], *, centred: bool = True) -> "Geometry":
        """Resize the image, with its aspect ratio kept, until it just fits in ``size``; pad the rest.

        The padding lies on both sides where ``centred``, else after the image.
        """
        scale = min(most / length for most, length in zip(size, original, strict=True))
        resized = [min(most, max(1, round(n * scale))) for most, n in zip(size, original, strict=True)]
        free = [most - length for most, length in zip(size, resized, strict=True)]
        return cls.of(original, resized, [n // 2 if centred else 0 for n in free], size)

    @classmethod
    def center_crop(cls, original: Sequence[int], resized: Sequence[int], size: Sequence[int]) -> "Geometry":
        """Resize to ``resized``, then keep the central ``size``."""
        return cls.of(original, resized, [-((n - most) // 2) for n, most in zip(resized, size, strict=True)], size)

    @property
    def original(self) -> tuple[int, ...]:
        """Shape of the image, (H, W) of a radiograph."""
        return tuple(axis.original for axis in self.axes)

    @property
    def resized(self) -> tuple[int, ...]:
        """Shape after resizing, before padding or cropping."""
        return tuple(axis.resized for axis in self.axes)

    @property
    def placed(self) -> tuple[int, ...]:
        """Where the resized image begins in the input, (y, x) of a radiograph; negative where it is cropped."""
        return tuple(axis.placed for axis in self.axes)

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of the model's input."""
        return tuple(axis.input for axis in self.axes)

    @property
    def scale(self) -> tuple[float, ...]:
        """Input pixels per image pixel, (y, x) of a radiograph."""
        return tuple(axis.scale for axis in self.axes)

    @property
    def covered(self) -> tuple[float, ...]:
        """The part of the image that the model sees, as a box in image pixels: x0, y0, x1, y1 of a radiograph."""
        ends = [axis.covered for axis in reversed(self.axes)]
        return (*(low for low, _ in ends), *(high for _, high in ends))

    def to_input(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert image coordinates to input coordinates, both in pixels.

        Args:
            points: points (..., n) as x, y or boxes (..., 2n) as x0, y0, x1, y1, for n axes.
        """
        values = np.asarray(points, dtype=np.float64)
        scale, placed = self._of_points(values.shape[-1])
        return values * scale + placed

    def to_original(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert input coordinates to image coordinates: the inverse of :meth:`to_input`."""
        values = np.asarray(points, dtype=np.float64)
        scale, placed = self._of_points(values.shape[-1])
        return (values - placed) / scale

    def _of_points(self, length: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return scale and placement in the order of points (x first), repeated for boxes."""
        count = len(self.axes)
        if length not in (count, 2 * count):
            raise ValueError(f"points have {count} coordinates and boxes {2 * count}; the last axis is {length} long")
        repeat = length // count
        return np.tile(self.scale[::-1], repeat), np.tile(np.array(self.placed[::-1], dtype=np.float64), repeat)


@dataclass(frozen=True)
class _Interpolation:
    """Linear interpolation along one axis: image pixels ``at`` read grid cells ``first`` and ``second``."""

    at: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float32]  # weight of ``second``, 0..1


class MapGeometry:
    """Interpolation of a token grid on the image: linear between patch centres (``align_corners=False``), in one step.

    For a squashed image this is the plain bilinear resize of the grid to the image. Padding is left out, and what lies
    outside a crop gets no value.

    Args:
        geometry: geometry of the preprocessing.
        grid: number of patches along each axis, (h, w) for a radiograph.
        patch: input pixels per patch along each axis; h * patch may fall short of the input's height where the patch
            does not divide it.
    """

    def __init__(self, geometry: Geometry, grid: Sequence[int], patch: Sequence[int]) -> None:
        for axis, patches, length in zip(geometry.axes, grid, patch, strict=True):
            if patches * length > axis.input:
                raise ValueError(f"{tuple(grid)} patches of {tuple(patch)} do not fit an input of {geometry.input}")
        self.geometry, self.grid, self.patch = geometry, tuple(grid), tuple(patch)
        self._axes = [self._interpolation(k) for k in range(len(geometry.axes))]

    def _interpolation(self, k: int) -> _Interpolation:
        axis = self.geometry.axes[k]
        centres = np.arange(axis.original, dtype=np.float64) + 0.5
        position = centres * axis.scale + axis.placed
        at = np.flatnonzero((position >= 0) & (position <= axis.input))
        if not len(at):
            raise ValueError(f"no pixel's centre is in the model's input: {self.geometry}")
        return self._cells(k, at, position[at])

    def _cells(self, k: int, at: npt.NDArray[np.intp], position: npt.NDArray[np.float64]) -> _Interpolation:
        """Return which cells to read at input coordinates along axis k; beyond the outermost centres, the nearest."""
        last = self.grid[k] - 1
        cell = np.clip(position / self.patch[k] - 0.5, 0.0, last)
        first = np.minimum(np.floor(cell).astype(np.intp), last)
        return _Interpolation(at, first, np.minimum(first + 1, last), (cell - first).astype(np.float32))

    def upsample(self, values: npt.ArrayLike, fill: float) -> npt.NDArray[np.float32]:
        """Return grid values (..., h, w) at every image pixel (..., H, W), and ``fill`` outside the model's input.

        Raises:
            ValueError: when ``values`` do not end in the grid's shape.
        """
        grid = self._checked(values)
        seen = tuple(slice(int(axis.at[0]), int(axis.at[-1]) + 1) for axis in self._axes)  # ``at`` has no gaps
        out = np.full((*grid.shape[: -len(seen)], *self.geometry.original), fill, dtype=np.float32)
        place: tuple[Any, ...] = (..., *seen)
        out[place] = _interpolate(grid, self._axes)
        return out

    def sample(self, values: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return grid values (h, w) at image coordinates (..., 2), x first, and NaN outside the model's input.

        At pixel centres, x + 1/2 and y + 1/2, these are the values of :meth:`upsample`.
        """
        grid, where = self._checked(values), self.geometry.to_input(points)
        position = [where[..., -1 - k] for k in range(len(self._axes))]
        unused = np.zeros(1, dtype=np.intp)
        cells = [self._cells(k, unused, position[k]) for k in range(len(self._axes))]
        total = np.zeros(where.shape[:-1], dtype=np.float32)
        for corner in np.ndindex(*(2,) * len(cells)):
            chosen = [cell.second if far else cell.first for cell, far in zip(cells, corner, strict=True)]
            share = np.ones(where.shape[:-1], dtype=np.float32)
            for cell, far in zip(cells, corner, strict=True):
                share = share * (cell.weight if far else np.float32(1) - cell.weight)
            total = total + share * grid[tuple(chosen)]
        inside = np.ones(where.shape[:-1], dtype=bool)
        for k, axis in enumerate(self.geometry.axes):
            inside &= (position[k] >= 0) & (position[k] <= axis.input)
        return np.where(inside, total, np.float32(np.nan))

    def peak(self, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the pixel (..., 2), x first, where the upsampled grid (..., h, w) is greatest.

        If several pixels are greatest, it is the first in reading order. Between four cell centres, a bilinear surface
        is greatest at a corner of the block of pixels there. So only those corners are computed, and the result equals
        the arg-max over every pixel.
        """
        grid = self._checked(values)
        corners = [_corners(axis) for axis in self._axes]
        surface = _interpolate(grid, corners)
        shape = surface.shape[-len(corners) :]
        best = surface.reshape(*surface.shape[: -len(corners)], int(np.prod(shape))).argmax(axis=-1)
        places = [axis.at[index] for axis, index in zip(corners, np.unravel_index(best, shape), strict=True)]
        return np.stack(places[::-1], axis=-1).astype(np.int64)

    def _checked(self, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
        grid = np.asarray(values, dtype=np.float32)
        if grid.shape[-len(self.grid) :] != self.grid:
            raise ValueError(f"values must end in {self.grid}, not {grid.shape}")
        return grid


def _interpolate(grid: npt.NDArray[np.float32], axes: Sequence[_Interpolation]) -> npt.NDArray[np.float32]:
    """Return grid values (..., h, w) at the pixels of each axis, interpolated along one axis after the other."""
    for k, axis in enumerate(axes, start=-len(axes)):
        weight = axis.weight.reshape(-1, *(1,) * (-1 - k))
        first, second = grid.take(axis.first, axis=k), grid.take(axis.second, axis=k)
        grid = np.asarray(first * (np.float32(1.0) - weight) + second * weight, dtype=np.float32)
    return grid


def _corners(axis: _Interpolation) -> _Interpolation:
    """Keep the first and last pixel of every run of pixels that reads the same pair of cells."""
    # pixels clamped at a border have weight 0 and so read one cell: their run is constant, and its ends serve as well
    change = np.flatnonzero(np.diff(axis.first) != 0)
    edge = np.flatnonzero(np.diff((axis.weight == 0).astype(np.int8)) != 0)
    keep = np.unique(np.concatenate(([0], change, change + 1, edge, edge + 1, [len(axis.at) - 1])))
    return _Interpolation(axis.at[keep], axis.first[keep], axis.second[keep], axis.weight[keep])
