"""CARZero's preprocessing, without OpenCV."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature, TensorType
from transformers.image_processing_utils import BaseImageProcessor

from radzero.images.geometry import FloatArray, Geometry
from radzero.models.carzero.configuration import CarZeroConfig


class CarZeroImageProcessor(BaseImageProcessor):
    """CARZero's preprocessing: scale the longer side to 256 pixels, pad to a square, keep the central 224 x 224.

    The aspect ratio is kept, and the shorter side is rounded down to whole pixels. Every new pixel is the mean of the
    area that it covers, rounded to a whole grey level, as with OpenCV's INTER_AREA, also when enlarging. The padding is
    black and the image central. Grey levels are divided by 255 and normalised for each of three channels.

    Attributes:
        size: ``longest_edge``, the side of the square in pixels.
        crop_size: ``height`` and ``width`` in pixels of the centre that is kept.
        image_mean, image_std: mean and standard deviation per channel, of grey levels in 0..1.
    """

    def __init__(
        self,
        size: dict[str, int] | None = None,
        crop_size: dict[str, int] | None = None,
        image_mean: Sequence[float] = (0.4978, 0.4978, 0.4978),
        image_std: Sequence[float] = (0.2449, 0.2449, 0.2449),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        size, crop_size = size or {"longest_edge": 256}, crop_size or {"height": 224, "width": 224}
        self.size = {"longest_edge": int(size["longest_edge"])}
        self.crop_size = {key: int(crop_size[key]) for key in ("height", "width")}
        self.image_mean, self.image_std = [float(v) for v in image_mean], [float(v) for v in image_std]
        if not 1 <= min(self.crop_size.values()) <= max(self.crop_size.values()) <= self.size["longest_edge"]:
            raise ValueError(f"a centre of {self.crop_size} cannot be cut from a square of {self.size}")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or not min(self.image_std) > 0:
            raise ValueError(f"mean {self.image_mean} and deviation {self.image_std} are not those of three channels")

    def __call__(self, images: Any, return_tensors: str = "pt") -> BatchFeature:
        """Return ``pixel_values`` (B, 3, h, w), float32.

        Args:
            images: one 8-bit image or a list of them, grey or RGB: Pillow images, or arrays (H, W) or (H, W, 3).
            return_tensors: "pt", the only kind that is made.

        Raises:
            ValueError: for images of another mode, or another kind of tensors.
        """
        if return_tensors not in ("pt", TensorType.PYTORCH):
            raise ValueError(f'return_tensors={return_tensors!r}: only PyTorch tensors ("pt") are made')
        many = images if isinstance(images, list | tuple) else [images]
        mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (self.image_mean, self.image_std))
        values = [(self._centre(image) / np.float32(255) - mean) / std for image in many]
        return BatchFeature({"pixel_values": torch.from_numpy(np.stack(values))})

    def geometry(self, shape: Sequence[int]) -> Geometry:
        """Return where an image of this shape, (H, W), lies in the input."""
        height, width = shape
        edge, crop = self.size["longest_edge"], (self.crop_size["height"], self.crop_size["width"])
        longest = max(height, width)
        resized = (max(1, height * edge // longest), max(1, width * edge // longest))
        top, left = ((edge - length) // 2 - (edge - kept) // 2 for length, kept in zip(resized, crop, strict=True))
        return Geometry.of(shape, resized, (top, left), crop)

    def _centre(self, image: Any) -> FloatArray:
        """Return the grey levels of the input, (h, w), 0..255."""
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        if picture.mode not in ("L", "RGB"):
            raise ValueError(f"images are 8-bit, grey or RGB, not of mode {picture.mode}")
        grey = np.asarray(picture.convert("L"), dtype=np.float32)
        geometry, edge = self.geometry(grey.shape), self.size["longest_edge"]
        rows, columns = (_coverage(*lengths) for lengths in zip(geometry.original, geometry.resized, strict=True))
        small = np.rint(rows @ grey @ columns.T)
        free = [edge - length for length in small.shape]
        square = np.pad(small, [(n // 2, n - n // 2) for n in free])
        top, left = ((edge - kept) // 2 for kept in geometry.input)
        return square[top : top + geometry.input[0], left : left + geometry.input[1]]


def _coverage(before: int, after: int) -> FloatArray:
    """Return the shares (after, before) of the old pixels in each new pixel, along one axis."""
    edges = np.arange(after + 1) * (before / after)
    pixels = np.arange(before)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(min=0) * (after / before)).astype(np.float32)


AutoImageProcessor.register(CarZeroConfig, image_processor_classes={"pil": CarZeroImageProcessor})
