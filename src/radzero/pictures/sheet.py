"""Lay several pictures out on one sheet, and draw small pictures of radiographs for it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radzero.pictures.colours import BACKGROUND, LINE, similarity_alpha, similarity_colours
from radzero.pictures.marks import draw_ring, mark_peak

MAX_SHEET_PIXELS = 64_000_000
"""Most pixels of a contact sheet. A larger one is reduced as a whole, because viewers take it for an attack."""


def thumbnail(
    film: NDArray[np.uint8],
    values: NDArray[np.floating] | None,
    width: int,
    peak: tuple[int, int] | None,
    threshold: float = 0.5,
) -> Image.Image:
    """Draw a small picture of a film, with the map on it and a white mark at the peak where they are given.

    The mark is a cross, or a faint, dashed ring where the map is below the threshold at the peak.

    Args:
        film: (H, W) display pixels in 0..255.
        values: (H, W) map in 0..1; None for no map.
        width: width of the picture in pixels.
        peak: x, y in the film's pixels; None for no mark.
        threshold: 0..1, the similarity that a peak with a cross reaches.
    """
    picture = np.repeat(film[..., None], 3, axis=2).astype(np.float32)
    if values is not None:
        alpha = similarity_alpha(values, 0.55)[..., None]
        picture = picture * (1 - alpha) + similarity_colours(values) * alpha
    scale = width / film.shape[1]
    size = (width, max(1, round(film.shape[0] * scale)))
    small = Image.fromarray(picture.round().astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    if peak is not None:
        x, y = peak[0] * scale, peak[1] * scale
        if values is None or values[peak[1], peak[0]] >= np.float32(threshold):
            mark_peak(small, x, y)
        else:
            draw_ring(small, x, y, radius=6, line=1.5, colour=LINE)
    return small


def render_sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Lay pictures out on one sheet, row by row, in cells of equal size.

    Each cell is as wide as the widest picture and as high as the highest; smaller pictures are centred in
    their cells and not enlarged. A sheet above `MAX_SHEET_PIXELS` is reduced as a whole.

    Args:
        pictures: the pictures, at least one.
        columns: pictures in a row, at least 1; None puts up to three in one row and otherwise makes a sheet
            about as many cells wide as high. More columns than pictures are not drawn.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there is no picture or columns is below 1.
    """
    count = len(pictures)
    if count == 0:
        raise ValueError("pictures must hold at least one picture")
    if columns is None:
        columns = count if count <= 3 else math.ceil(math.sqrt(count))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width, height = max(one.width for one in pictures), max(one.height for one in pictures)
    gap = max(4, min(width, height) // 80)
    whole = (columns * (width + gap) + gap) * (rows * (height + gap) + gap)
    scale = min(1.0, math.sqrt(MAX_SHEET_PIXELS / whole))
    width, height = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    gap = math.floor(gap * scale)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), BACKGROUND)
    for index, given in enumerate(pictures):
        picture = given.convert("RGB")
        if scale < 1.0:
            size = (max(1, math.floor(picture.width * scale)), max(1, math.floor(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        x = gap + index % columns * (width + gap) + (width - picture.width) // 2
        y = gap + index // columns * (height + gap) + (height - picture.height) // 2
        sheet.paste(picture, (x, y))
    return sheet
