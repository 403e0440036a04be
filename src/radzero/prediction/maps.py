"""Similarity maps of one image: values on the model's patch grid, and where that grid lies on the image."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from radzero._numbers import sigmoid
from radzero.images.geometry import Geometry, MapGeometry


@dataclass(frozen=True, eq=False)
class MapGrid:
    """The maps of N sentences on one image, a radiograph or whatever else has a grid of patches.

    Attributes:
        values: (N, h, w) float32, s_1..s_L of each sentence before the sigmoid; for maps of attention, weights over
            their mean.
        geometry: where the image lay in the model's input.
        patch: input pixels per patch along each axis.
        attention: whether the maps are of attention weights, and not of similarities.
    """

    values: npt.NDArray[np.float32]
    geometry: Geometry
    patch: tuple[int, ...]
    attention: bool = False

    @cached_property
    def _placed(self) -> MapGeometry:
        return MapGeometry(self.geometry, self.values.shape[1:], self.patch)

    def map(self, index: int) -> npt.NDArray[np.float32]:
        """Map (H, W) in 0..1 of one sentence at the image's size.

        The patch values are upsampled linearly, then passed through a sigmoid; 0 where a crop hid the image from the
        model. Attention, over its mean a, becomes a / (1 + a): 0.5 where a patch gets its even share.
        """
        return self._in_unit_range(self._placed.upsample(self.values[index], fill=0.0 if self.attention else -np.inf))

    def raw(self, index: int) -> npt.NDArray[np.float32]:
        """Values (H, W) whose sigmoid is the map; NaN where a crop hid the image from the model."""
        values = self._placed.upsample(self.values[index], fill=np.nan)
        return np.log(np.maximum(values, 1e-30)) if self.attention else values

    def at(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The map of one sentence, 0..1, at points (..., 2) of the image, x first; NaN where the model did not look.

        Coordinates are continuous: the centre of pixel (x, y) is at x + 1/2, y + 1/2.
        """
        return self._in_unit_range(self._placed.sample(self.values[index], points))

    @cached_property
    def peaks(self) -> npt.NDArray[np.int64]:
        """(N, 2) the pixel, x first, where each upsampled map is greatest."""
        return self._placed.peak(self.values).reshape(-1, self.values.ndim - 1)

    def _in_unit_range(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return values / (1 + values) if self.attention else sigmoid(values)
