"""Load masks from boxes, run lengths, files or arrays; nothing is decoded before it is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Mask = npt.NDArray[np.bool_]


class MaskSource(Protocol):
    """A source that gives the mask of an image of a known size."""

    def load(self, height: int, width: int) -> Mask:
        """Return the mask as (height, width) booleans, the size in pixels.

        Raises:
            ValueError: when the mask is of another size.
        """
        ...


@dataclass(frozen=True)
class BoxMask:
    """The union of boxes x0, y0, x1, y1 in pixels; a pixel is inside when its centre is."""

    boxes: tuple[tuple[float, float, float, float], ...]

    def load(self, height: int, width: int) -> Mask:
        """See :class:`MaskSource`."""
        mask = np.zeros((height, width), dtype=bool)
        for x0, y0, x1, y1 in self.boxes:
            rows, columns = (slice(max(0, round(a)), max(0, round(b))) for a, b in ((y0, y1), (x0, x1)))
            mask[rows, columns] = True
        return mask


@dataclass(frozen=True)
class RunLengthMask:
    """SIIM's run lengths, which count down the columns.

    Attributes:
        runs: pairs of numbers of pixels. Relative: distance from the end of the last run, and length. Absolute: start,
            counted from 0, and length.
        relative: whether the runs are relative.
    """

    runs: tuple[tuple[int, int], ...]
    relative: bool

    def load(self, height: int, width: int) -> Mask:
        """See :class:`MaskSource`."""
        flat = np.zeros(height * width, dtype=bool)
        position = 0
        for start, length in self.runs:
            first = position + start if self.relative else start
            position = first + length
            if position > flat.size:
                raise ValueError(f"the run at {first} goes beyond an image of {height} x {width}")
            flat[first:position] = True
        return flat.reshape(width, height).T

    @property
    def last(self) -> int:
        """Index of the pixel after the last run."""
        if self.relative:
            return sum(start + length for start, length in self.runs)
        return max((start + length for start, length in self.runs), default=0)


@dataclass(frozen=True)
class FileMask:
    """A picture whose pixels of grey value 128 or more (of 0..255) are the mask."""

    path: Path

    def load(self, height: int, width: int) -> Mask:
        """See :class:`MaskSource`."""
        with Image.open(self.path) as image:
            mask = np.asarray(image.convert("L")) >= 128
        if mask.shape != (height, width):
            raise ValueError(f"{self.path}: is {mask.shape[0]} x {mask.shape[1]}, its image {height} x {width}")
        return mask


@dataclass(frozen=True)
class ArrayMask:
    """A mask in memory."""

    mask: Mask

    def load(self, height: int, width: int) -> Mask:
        """See :class:`MaskSource`."""
        if self.mask.shape != (height, width):
            raise ValueError(f"the mask is {self.mask.shape}, its image {height} x {width}")
        return self.mask
