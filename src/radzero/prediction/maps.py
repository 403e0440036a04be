"""Place the similarity maps of one image: values on the model's token grid, and where that grid lies on the image."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from radzero._numbers import sigmoid
from radzero.images.geometry import Geometry, MapGeometry


@dataclass(frozen=True, eq=False)
class MapGrid:
    """The maps of N sentences on one image: a radiograph, or any other image that has a token grid.

    Attributes:
        values: (N, h, w) float32, s_1..s_L of each sentence before the sigmoid; attention weights divided by their
            mean, where the maps show attention.
        geometry: place of the image in the model's input.
        patch: input pixels per patch along each axis.
        attention: whether the maps show attention weights instead of similarities.
    """

    values: npt.NDArray[np.float32]
    geometry: Geometry
    patch: tuple[int, ...]
    attention: bool = False

    @cached_property
    def _placed(self) -> MapGeometry:
        return MapGeometry(self.geometry, self.values.shape[1:], self.patch)

    def map(self, index: int) -> npt.NDArray[np.float32]:
        """Return the map (H, W) in 0..1 of one sentence at the image's size.

        The patch values are upsampled linearly, then passed through a sigmoid; the map is 0 where a crop hid the image
        from the model. An attention weight divided by the mean, a, becomes a / (1 + a), which is 0.5 for a patch whose
        weight is the mean.
        """
        return self._in_unit_range(self._placed.upsample(self.values[index], fill=0.0 if self.attention else -np.inf))

    def raw(self, index: int) -> npt.NDArray[np.float32]:
        """Return the values (H, W) whose sigmoid is the map; they are NaN where a crop hid the image from the model."""
        values = self._placed.upsample(self.values[index], fill=np.nan)
        return np.log(np.maximum(values, 1e-30)) if self.attention else values

    def at(self, index: int, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the map of one sentence, 0..1, at points (..., 2) of the image in pixels, x first.

        It is NaN where a crop hid the image from the model.

        Coordinates are continuous; the centre of pixel (x, y) is at x + 1/2, y + 1/2.
        """
        return self._in_unit_range(self._placed.sample(self.values[index], points))

    @cached_property
    def peaks(self) -> npt.NDArray[np.int64]:
        """Pixels (N, 2), x first, at which the upsampled maps are greatest."""
        return self._placed.peak(self.values).reshape(-1, self.values.ndim - 1)

    def _in_unit_range(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return values / (1 + values) if self.attention else sigmoid(values)
