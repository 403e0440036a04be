"""Lay several pictures out on one sheet, and draw small pictures of radiographs for it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from radzero.pictures.colours import BACKGROUND, LINE, similarity_alpha, similarity_colours
from radzero.pictures.marks import draw_ring, mark_peak
from radzero.pictures.text import caption_font, drawable_text, line_height, wrap

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


def write_probability(picture: Image.Image, probability: float) -> None:
    """Write "p = 0.97" into the top left corner of a small picture, white with a black edge."""
    text, font = f"p = {probability:.2f}", caption_font(18)
    ImageDraw.Draw(picture).text((8, 6), text, fill=(255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0))


def render_table(cells: Sequence[Sequence[Image.Image]], columns: Sequence[str], rows: Sequence[str]) -> Image.Image:
    """Lay pictures out as a table, with a title above every column and a title above every row.

    Titles that are wider than their place are broken into lines.

    Args:
        cells: the pictures, row by row; every row has a picture per column.
        columns: titles of the columns.
        rows: titles of the rows.

    Returns:
        An RGB image on white.
    """
    margin, font = 12, caption_font(17)
    line = line_height(17)
    width = max(cell.width for row in cells for cell in row)
    whole = len(columns) * (width + margin) + margin
    heads = [wrap(drawable_text(title), font, width) for title in columns]
    titles = [wrap(drawable_text(title), font, whole - 2 * margin) for title in rows]
    top = margin + max(map(len, heads)) * line
    heights = [
        margin + len(title) * line + margin // 2 + max(cell.height for cell in row)
        for title, row in zip(titles, cells, strict=True)
    ]
    table = Image.new("RGB", (whole, top + sum(heights) + margin), (255, 255, 255))
    draw = ImageDraw.Draw(table)

    def write(lines: Sequence[str], x: int, y: int, colour: tuple[int, int, int]) -> int:
        for k, text in enumerate(lines):
            draw.text((x, y + k * line), text, fill=colour, font=font)
        return y + len(lines) * line

    for k, head in enumerate(heads):
        write(head, margin + k * (width + margin), margin, (0, 0, 0))
    y = top
    for title, row, height in zip(titles, cells, heights, strict=True):
        below = write(title, margin, y + margin, (70, 70, 70)) + margin // 2
        for k, cell in enumerate(row):
            table.paste(cell, (margin + k * (width + margin), below))
        y += height
    return table


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
