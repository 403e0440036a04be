"""Turn integer and colour samples into display grey: find the bit depth, and decide whether this is a colour picture.

A radiograph saved as RGB has equal channels, give or take JPEG noise, coloured arrows and letters, or a
uniform tint (blue film, sepia scan). A colour picture has many saturated pixels whose hue is not one tint.
The decision is made on at most about a million pixels:

* *spread* of a pixel = max(R, G, B) - min(R, G, B), on a 0..255 scale;
* at most 10 % of pixels with a spread above 32: grey (a warning when above 0.1 %: coloured marks);
* otherwise, when one hue whose strength depends only on brightness explains the colour of 95 % of pixels to
  within 12 of 255: a tinted radiograph, accepted with a warning;
* otherwise: a colour picture, refused.

Grey is the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .radiograph import RadiographError, Reason

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float64)
BIT_DEPTHS = (8, 10, 12, 14, 15, 16)

COLOURED_SPREAD = 32.0
MARKS_SHARE = 0.001
COLOUR_SHARE = 0.10
TINT_RESIDUAL = 12.0
TINT_SHARE = 0.05

_BLOCK_PIXELS = 1 << 20


@dataclass(frozen=True)
class Grey:
    """Display grey with the decisions that led to it.

    Attributes:
        pixels: float32 (H, W), C-contiguous, 0..1.
        choices: decisions that were made.
        warnings: what the user should know.
    """

    pixels: NDArray[np.float32]
    choices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def row_blocks(height: int, width: int) -> list[slice]:
    """Cut (height, width) into slices of rows with about a million pixels each, to bound temporary memory."""
    rows = max(1, _BLOCK_PIXELS // max(1, width))
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def full_scale(maximum: int, source: str) -> int:
    """Return 2**b - 1 for the smallest usual bit depth b (8, 10, 12, 14, 15, 16) that holds ``maximum``.

    Raises:
        RadiographError: ``bad_pixels`` when more than 16 bits are needed.
    """
    for bits in BIT_DEPTHS:
        if maximum < 1 << bits:
            return (1 << bits) - 1
    raise RadiographError(
        source,
        Reason.BAD_PIXELS,
        f"the largest pixel value is {maximum}, more than 16 bits hold",
        "Scale the image to 0..1 as float, or to 16 bits",
    )


def refuse_negative(values: NDArray[np.integer], source: str) -> None:
    """Refuse integers below zero: they are no display values.

    Raises:
        RadiographError: ``bad_pixels``.
    """
    smallest = int(values.min())
    if smallest < 0:
        raise RadiographError(
            source,
            Reason.BAD_PIXELS,
            f"the image has negative pixel values (smallest {smallest})",
            "Shift and scale it to 0..1 as float, with bones bright",
        )


def grey_from_integers(values: NDArray[np.integer], source: str, what: str) -> Grey:
    """Scale (H, W) integers to 0..1: 8-bit by 255, wider ones by the smallest fitting bit depth.

    Raises:
        RadiographError: ``bad_pixels`` for negative values or more than 16 bits.
    """
    if values.dtype == np.uint8:
        scale, choice = 255, f"{what}: divided by 255"
    else:
        refuse_negative(values, source)
        scale = full_scale(int(values.max()), source)
        choice = f"{what}: divided by {scale}, the smallest bit depth that holds its maximum {int(values.max())}"
    pixels = np.empty(values.shape, dtype=np.float32)
    np.divide(values, np.float32(scale), out=pixels, dtype=np.float32, casting="unsafe")
    return Grey(pixels, (choice,))


def grey_from_colour(samples: NDArray[np.integer], scale: int, source: str) -> Grey:
    """Reduce (H, W, 3) RGB samples with values 0..scale to grey, or refuse a colour picture.

    Raises:
        RadiographError: ``colour``.
    """
    height, width = samples.shape[:2]
    blocks = row_blocks(height, width)
    pixels = np.empty((height, width), dtype=np.float32)
    if all(_channels_equal(samples[rows]) for rows in blocks):
        np.divide(samples[..., 0], np.float32(scale), out=pixels, dtype=np.float32, casting="unsafe")
        return Grey(pixels, (f"RGB with equal channels: one channel divided by {scale}",))

    warnings = _judge_colour(samples, scale, source)
    for rows in blocks:
        pixels[rows] = np.clip(samples[rows].astype(np.float64) @ LUMA / scale, 0.0, 1.0)
    return Grey(pixels, (f"RGB to luma 0.299 R + 0.587 G + 0.114 B, divided by {scale}",), warnings)


def _channels_equal(samples: NDArray[np.integer]) -> bool:
    first = samples[..., 0]
    return bool((first == samples[..., 1]).all() and (first == samples[..., 2]).all())


def _judge_colour(samples: NDArray[np.integer], scale: int, source: str) -> tuple[str, ...]:
    """Return the warnings of an acceptable picture; raise for a colour picture (see the module)."""
    height, width = samples.shape[:2]
    step = max(1, int(np.ceil(np.sqrt(height * width / _BLOCK_PIXELS))))
    rgb = samples[::step, ::step].reshape(-1, 3).astype(np.float32) * np.float32(255.0 / scale)
    coloured = float(np.mean(rgb.max(axis=1) - rgb.min(axis=1) > COLOURED_SPREAD))
    if coloured <= COLOUR_SHARE:
        if coloured > MARKS_SHARE:
            return (f"coloured marks on {100 * coloured:.1f} % of the image were turned grey",)
        return ()
    unexplained = _share_not_tint(rgb)
    if unexplained <= TINT_SHARE:
        return ("the image has a uniform tint; its luma was used",)
    raise RadiographError(
        source,
        Reason.COLOUR,
        f"this is a colour picture ({100 * coloured:.0f} % of its pixels are coloured, and not by one tint)",
        "Pass a greyscale radiograph; crop away coloured overlays, heat maps and screen frames",
    )


def _share_not_tint(rgb: NDArray[np.float32]) -> float:
    """Return the share of (N, 3) pixels whose colour is not one hue with a strength that only depends on brightness."""
    luma = rgb @ LUMA.astype(np.float32)
    chroma = np.stack([rgb[:, 2] - luma, rgb[:, 0] - luma], axis=1)  # the columns are B - Y and R - Y
    mean = chroma.mean(axis=0)
    length = float(np.hypot(mean[0], mean[1]))
    if length < 1.0:
        return 1.0
    hue = mean / length
    bins = np.clip(luma.astype(np.int64), 0, 255)
    along = np.bincount(bins, weights=chroma @ hue, minlength=256)
    strength = np.clip(along / np.maximum(np.bincount(bins, minlength=256), 1), 0.0, None)
    residual = chroma - strength[bins][:, None] * hue
    return float(np.mean(np.hypot(residual[:, 0], residual[:, 1]) > TINT_RESIDUAL))
