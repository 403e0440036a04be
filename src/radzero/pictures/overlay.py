"""Draw a similarity map on its radiograph, and the radiograph alone in the same frame."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from radzero.pictures.colours import (
    BACKGROUND,
    FILM_EDGE,
    MUTED,
    NOTICE_BAND,
    NOTICE_TEXT,
    PEAK,
    TEXT,
    blend,
)
from radzero.pictures.layout import (
    Layout,
    check_notice,
    frame_box,
    lay_out,
)
from radzero.pictures.marks import draw_contour, draw_frame, draw_key, draw_legend, draw_peak, draw_ring
from radzero.pictures.text import (
    ROUNDING,
    caption_font,
    fit,
    line_height,
    probability_text,
    threshold_text,
    to_drawable,
)


def _compose(film: Image.Image, layout: Layout, text: str, probability: float | None) -> Image.Image:
    """Put a drawn film, its heading, the notice and the warnings on a canvas."""
    canvas = Image.new("RGB", layout.size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    x0, y0, x1, y1 = layout.film
    draw.rectangle((x0 - 1, y0 - 1, x1, y1), outline=FILM_EDGE)
    canvas.paste(film, (x0, y0))
    drawable = to_drawable(text)
    size, lines = fit(drawable.text, layout.body, layout.text_width)
    for index, line in enumerate(lines):
        place = (layout.pad, layout.probability_y - (len(lines) - index) * line_height(size))
        draw.text(place, line, font=caption_font(size), fill=TEXT, anchor="la")
    x: float = layout.pad
    if probability is not None:
        font = caption_font(round(layout.body * 1.3))
        said = probability_text(probability)
        draw.text((x, layout.probability_y), said, font=font, fill=TEXT, anchor="la")
        x += font.getlength(said) + 2 * layout.body
    if drawable.note:
        y = layout.probability_y + round(layout.body * 0.8)
        draw.text((x, y), drawable.note, font=caption_font(layout.small), fill=MUTED, anchor="lm")
    if layout.band_lines:
        draw.rectangle((0, layout.band_y, *layout.size), fill=NOTICE_BAND)
        for index, line in enumerate(layout.band_lines):
            place = (layout.pad, layout.band_y + layout.pad // 2 + index * line_height(layout.body))
            draw.text(place, line, font=caption_font(layout.body), fill=NOTICE_TEXT, anchor="la")
    return canvas


def _check_film(film: NDArray[np.uint8]) -> tuple[int, int]:
    if film.ndim != 2 or film.size == 0:
        raise ValueError(f"film must have the shape (H, W) with at least one pixel, got {film.shape}")
    if film.dtype != np.uint8:
        raise ValueError(f"film must be uint8 display pixels, got {film.dtype}")
    height, width = film.shape
    return height, width


def _check_map(similarity_map: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float32]:
    if similarity_map.shape != shape:
        raise ValueError(
            f"similarity_map must have the film's shape: the film has {shape}, the map {similarity_map.shape}"
        )
    if not np.issubdtype(similarity_map.dtype, np.floating):
        raise ValueError(f"similarity_map must be floating, in 0..1, got {similarity_map.dtype}")
    low, high = float(similarity_map.min()), float(similarity_map.max())
    if math.isnan(low) or math.isnan(high):
        raise ValueError("similarity_map contains NaN")
    if low < -ROUNDING or high > 1.0 + ROUNDING:
        raise ValueError(f"similarity_map must lie in 0..1, got values from {low:g} to {high:g}")
    return np.ascontiguousarray(similarity_map, dtype=np.float32)


def _check_fraction(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:  # NaN fails too
        raise ValueError(f"{name} must lie in 0..1, got {value}")


def _check_peak(peak: tuple[int, int], shape: tuple[int, int]) -> None:
    x, y = peak
    if not (0 <= x < shape[1] and 0 <= y < shape[0]):
        raise ValueError(f"peak must be (x, y) on the film of width {shape[1]} and height {shape[0]}, got {peak}")


def _scaled_film(film: NDArray[np.uint8], layout: Layout) -> Image.Image:
    x0, y0, x1, y1 = layout.film
    size = (x1 - x0, y1 - y0)
    return Image.fromarray(np.ascontiguousarray(film)).resize(size, Image.Resampling.BICUBIC)


def render_overlay(
    film: NDArray[np.uint8],
    similarity_map: NDArray[np.floating],
    *,
    sentence: str,
    probability: float,
    threshold: float = 0.5,
    peak: tuple[int, int] | None = None,
    notice: str | None = None,
    warnings: Sequence[str] = (),
    opacity: float = 0.45,
    covered: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Draw a similarity map on its film, with legend, sentence, probability and key in the margins.

    The film keeps its aspect ratio. It is enlarged or reduced according to `MIN_SHORT_SIDE` and
    `MAX_LONG_SIDE`, and the map with it (bilinear). The colours are chosen after that, on the fixed scale
    0..1. The contour follows the pixels at or above `threshold`; where they run off the film it stays open.
    Regions smaller than an output pixel may vanish when a large film is reduced.

    A long sentence is written smaller, and ends in an ellipsis when even that is not enough. The notice is
    never shortened; warnings are shortened after a few lines. A box stands for a letter that the font lacks
    in the sentence, and a note beside the probability says so.

    Args:
        film: (H, W) uint8, display pixels, 0 black.
        similarity_map: (H, W) floating, similarities in 0..1 of the film's own pixels.
        sentence: the sentence that the map belongs to.
        probability: 0..1, the probability of the sentence for the whole film. It is shown with two digits, but
            as "p > 0.99" or "p < 0.01" where they would wrongly read 1.00 or 0.00.
        threshold: 0..1, the similarity at which the contour runs.
        peak: (x, y) in film pixels where the marker goes, x first; None for no marker. It is a cross, or a faint,
            dashed ring where the map is below the threshold there. From an argmax:
            ``y, x = numpy.unravel_index(similarity_map.argmax(), similarity_map.shape)``.
        notice: text that must be read with the picture, written in full on a band at the foot.
        warnings: warnings about the film and the sentence, written on the same band below the notice. Only a few lines
            are written, so the gravest warnings should come first.
        opacity: 0..1, how much the colour of similarity 1 covers the film; see `similarity_alpha`.
        covered: x0, y0, x1, y1 in film pixels, the part of the film that the model saw, framed with dashes.
            It may reach past the film. None, or the whole film, draws no frame.

    Returns:
        An RGB image, of the size that `render_film` gives for the same film shape, notice and warnings. The film
        lies at `film_rectangle`.

    Raises:
        ValueError: if film or map has the wrong type or shape, the map holds NaN or values out of 0..1,
            probability, threshold or opacity is out of 0..1, the peak is off the film, the covered part is
            empty or off the film, or the notice is blank or longer than `MAX_NOTICE_CHARACTERS`.
    """
    shape = _check_film(film)
    values = _check_map(similarity_map, shape)
    _check_fraction(probability, "probability")
    _check_fraction(threshold, "threshold")
    _check_fraction(opacity, "opacity")
    check_notice(notice)
    if peak is not None:
        _check_peak(peak, shape)
    frame = None if covered is None else frame_box(covered, shape)
    layout = lay_out(shape, notice, warnings)

    grey = np.asarray(_scaled_film(film, layout), dtype=np.float32)
    size = (grey.shape[1], grey.shape[0])
    scaled = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
    scaled = np.clip(scaled, 0.0, 1.0)
    pixels = blend(grey, scaled, opacity)
    limit = np.float32(threshold)  # the map has this precision too, so that 0.7 reaches 0.7
    mask = scaled >= limit
    reached = peak is not None and bool(values[peak[1], peak[0]] >= limit)
    draw_contour(pixels, mask, layout.line)
    picture = Image.fromarray(pixels)
    if frame is not None:
        draw_frame(picture, frame, layout.line)
    if peak is not None:
        x = math.floor((peak[0] + 0.5) * size[0] / shape[1])
        y = math.floor((peak[1] + 0.5) * size[1] / shape[0])
        if reached:
            draw_peak(picture, x, y, layout.line, round(1.1 * layout.body))
        else:
            draw_ring(picture, x, y, radius=0.65 * layout.body, line=0.75 * layout.line, colour=PEAK)

    said = threshold_text(threshold)
    if not (mask.any() or reached):
        items = [("", f"no part of the film reaches {said}")]
    elif mask.all():
        items = [("", f"all of the film reaches {said}")]
    else:
        items = [("contour", f"similarity {said}")]
    if peak is not None:
        items.append(("peak" if reached else "ring", f"peak {values[peak[1], peak[0]]:.2f}"))
    if frame is not None:
        items.append(("frame", "dashed: part seen by the model"))
    canvas = _compose(picture, layout, sentence, probability)
    draw_legend(canvas, layout, opacity, threshold)
    draw_key(canvas, layout, items)
    return canvas


def render_film(
    film: NDArray[np.uint8], *, title: str, notice: str | None = None, warnings: Sequence[str] = ()
) -> Image.Image:
    """Draw the film alone in the frame of an overlay, to stand beside it.

    Args:
        film: (H, W) uint8, display pixels, 0 black.
        title: heading, written in the place of an overlay's sentence.
        notice: as for `render_overlay`.
        warnings: as for `render_overlay`.

    Returns:
        An RGB image that has the same size as that of `render_overlay`, and the film in the same place, for the same
        shape, notice and warnings; the places of probability, legend and key are empty, except for a note when the font
        lacks letters of the title.

    Raises:
        ValueError: if the film has the wrong type or shape, or the notice is blank or too long.
    """
    shape = _check_film(film)
    check_notice(notice)
    layout = lay_out(shape, notice, warnings)
    return _compose(_scaled_film(film, layout).convert("RGB"), layout, title, None)
