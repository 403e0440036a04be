"""Compute where everything lies in an overlay, in output pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from radzero.pictures.text import caption_font, line_height, to_drawable, wrap, wrap_warnings

MIN_SHORT_SIDE = 512
"""Smaller films are enlarged until their short side has this many pixels, if `MAX_LONG_SIDE` lets them."""
MAX_LONG_SIDE = 1600
"""Larger films are reduced until their long side has this many pixels. It wins over `MIN_SHORT_SIDE`."""
MAX_NOTICE_CHARACTERS = 1000
"""Most characters of a notice. A notice is never shortened, so a longer one is refused."""
_BODY_PER_REFERENCE = 0.026
"""Text size divided by the reference length of the drawn film: its short side, or half its long side if larger."""
_MIN_BODY, _MAX_BODY = 16, 40
"""Smallest and largest text size, in output pixels. Margins and line widths are fractions of it."""
_MIN_WIDTH_IN_BODIES = 28
"""Least canvas width in text sizes, so that a narrow film still has room for its sentence."""
_MIN_LEGEND_IN_BODIES, _MAX_LEGEND_IN_BODIES = 11, 24
"""Least and greatest height of the legend in text sizes."""
LEGEND_NOTES = ("left: colour", "right: on film")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layout:
    """Places of everything, in output pixels. They depend on the film's shape, the notice and the warnings alone.

    The band at the foot, which holds the notice and the warnings, moves nothing above it."""

    size: tuple[int, int]
    film: Box
    body: int
    small: int
    pad: int
    line: int
    """Width of the contour, the frame and the marker."""
    text_width: int
    probability_y: int
    legend: Box
    key_y: int
    key_lines: int
    band_y: int
    band_lines: tuple[str, ...]
    """Lines of the notice, then of the warnings."""


def output_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Give (width, height) in output pixels of a film of `shape` (H, W)."""
    height, width = shape
    scale = max(1.0, MIN_SHORT_SIDE / min(height, width))
    scale = min(scale, MAX_LONG_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _key_widest(small: int) -> list[int]:
    texts = ("all of the film reaches 0.000", "peak 0.00", "dashed: part seen by the model")
    return [math.ceil(caption_font(small).getlength(text) * 1.05) + 3 * small for text in texts]


def flow(widths: Sequence[int], gap: int, width: int) -> list[tuple[int, int]]:
    """Place items of `widths` in rows of `width` pixels, `gap` pixels apart, like words; return (x, row) of each."""
    places: list[tuple[int, int]] = []
    x, row = 0, 0
    for item in widths:
        if x and x + item > width:
            x, row = 0, row + 1
        places.append((x, row))
        x += item + gap
    return places


def lay_out(shape: tuple[int, int], notice: str | None, warnings: Sequence[str] = ()) -> Layout:
    """Lay out the picture of a radiograph of ``shape`` (H, W), with the band of its notice and warnings."""
    film_w, film_h = output_size(shape)
    reference = max(min(film_w, film_h), max(film_w, film_h) / 2)
    body = min(_MAX_BODY, max(_MIN_BODY, round(reference * _BODY_PER_REFERENCE)))
    small = max(13, round(body * 0.8))
    pad = round(body * 0.7)
    panel = math.ceil(max(caption_font(small).getlength(text) for text in ("similarity", *LEGEND_NOTES))) + 2 * pad
    width = max(pad + film_w + panel, _MIN_WIDTH_IN_BODIES * body)
    text_width = width - 2 * pad

    probability_y = pad + 2 * line_height(body) + body // 4
    top = probability_y + line_height(round(body * 1.3)) + pad // 2
    middle = max(film_h, _MIN_LEGEND_IN_BODIES * body)
    film_y = top + (middle - film_h) // 2
    film = (pad, film_y, pad + film_w, film_y + film_h)
    legend_h = min(middle, _MAX_LEGEND_IN_BODIES * body)
    legend = (pad + film_w + pad, top, pad + film_w + panel, top + legend_h)

    key_y = top + middle + pad // 2
    key_lines = 1 + flow(_key_widest(small), 2 * small, text_width)[-1][1]
    band_y = key_y + key_lines * line_height(small) + pad // 2
    band_lines = [] if notice is None else wrap(to_drawable(notice).text, caption_font(body), text_width)
    band_lines += wrap_warnings(warnings, caption_font(body), text_width)
    height = band_y + (len(band_lines) * line_height(body) + pad if band_lines else 0)
    return Layout(
        size=(width, height),
        film=film,
        body=body,
        small=small,
        pad=pad,
        line=max(2, round(body / 10)),
        text_width=text_width,
        probability_y=probability_y,
        legend=legend,
        key_y=key_y,
        key_lines=key_lines,
        band_y=band_y,
        band_lines=tuple(band_lines),
    )


def film_rectangle(shape: tuple[int, int], notice: str | None = None) -> tuple[int, int, int, int]:
    """Give the place of the film in the picture that `render_overlay` or `render_film` makes of it.

    Args:
        shape: (H, W) of the film in pixels.
        notice: the notice that the picture is made with.

    Returns:
        x0, y0, x1, y1 in output pixels, x1 and y1 just outside. Pixel (x, y) of the film has its centre at
        ``x0 + (x + 0.5) * (x1 - x0) / W`` and ``y0 + (y + 0.5) * (y1 - y0) / H``.

    Raises:
        ValueError: if a side is below 1 or the notice is unusable.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"the film's shape must be (H, W) with sides of at least 1, got {shape}")
    check_notice(notice)
    return lay_out(shape, notice).film


def check_notice(notice: str | None) -> None:
    """Raise a ValueError for a notice that is blank or longer than `MAX_NOTICE_CHARACTERS`."""
    if notice is None:
        return
    if not notice.strip():
        raise ValueError("notice must not be blank; leave it out instead")
    if len(notice) > MAX_NOTICE_CHARACTERS:
        raise ValueError(f"notice must have at most {MAX_NOTICE_CHARACTERS} characters, got {len(notice)}")


def frame_box(covered: tuple[float, float, float, float], shape: tuple[int, int]) -> Box | None:
    """Give the covered part in output pixels of the film, or None if it is the whole film."""
    height, width = shape
    x0, y0, x1, y1 = covered
    if not all(math.isfinite(edge) for edge in covered) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"covered must be finite x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {covered}")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"covered must meet the film of width {width} and height {height}, got {covered}")
    if x0 <= 0.5 and y0 <= 0.5 and x1 >= width - 0.5 and y1 >= height - 0.5:
        return None
    out_w, out_h = output_size(shape)
    return (
        min(out_w - 1, round(max(0.0, x0) * out_w / width)),
        min(out_h - 1, round(max(0.0, y0) * out_h / height)),
        max(1, round(min(width, x1) * out_w / width)),
        max(1, round(min(height, y1) * out_h / height)),
    )
