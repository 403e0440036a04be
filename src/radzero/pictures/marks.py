"""Draw what lies on a radiograph and beside it: contour, frame, peak, legend and key."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from radzero.pictures.colours import FILM_EDGE, FRAME, HALO, LINE, MUTED, PEAK, TEXT, Colour, blend, similarity_colours
from radzero.pictures.layout import LEGEND_NOTES, Box, Layout, flow
from radzero.pictures.text import caption_font, line_height

_RING_STRENGTH = 190


def mark_peak(picture: Image.Image, x: float, y: float) -> None:
    """Draw a white cross with a black rim at (x, y), in pixels of the picture."""
    draw = ImageDraw.Draw(picture)
    for dx, dy in ((6, 0), (0, 6)):
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=(0, 0, 0), width=4)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=(255, 255, 255), width=2)


def _dilate(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Thicken `mask` (h, w) by a disc of `radius` pixels."""
    height, width = mask.shape
    padded = np.pad(mask, radius)
    out = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        reach = math.isqrt(radius * radius - dy * dy)
        for dx in range(-reach, reach + 1):
            out |= padded[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
    return out


def _inner_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give the pixels of `mask` (h, w) with a neighbour outside it. The border of the film is no edge."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: NDArray[np.bool_] = mask & ~inside
    return edge


def draw_contour(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], line: int) -> None:
    """Draw, in place on `pixels` (h, w, 3), the edge of `mask` (h, w): a light line on a dark halo."""
    edge = _inner_edge(mask)
    rows, columns = np.flatnonzero(edge.any(axis=1)), np.flatnonzero(edge.any(axis=0))
    if not rows.size:
        return
    radius = line // 2
    halo = radius + max(2, line // 2)
    reach = halo + 2
    y0, y1 = max(0, int(rows[0]) - reach), int(rows[-1]) + reach + 1
    x0, x1 = max(0, int(columns[0]) - reach), int(columns[-1]) + reach + 1
    part = pixels[y0:y1, x0:x1]
    edge = edge[y0:y1, x0:x1]
    picture = Image.fromarray(part)
    for colour, thick, strength in ((HALO, halo, 0.85), (LINE, radius, 1.0)):
        stencil = Image.fromarray(_dilate(edge, thick).astype(np.uint8) * round(255 * strength))
        picture.paste(colour, (0, 0), stencil.filter(ImageFilter.GaussianBlur(0.6)))
    part[...] = np.asarray(picture)


def draw_dashes(draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], line: int) -> None:
    """Draw a horizontal or vertical dashed line, light on dark, whose upper or left edge runs from start to end."""
    across = (line - 1, 0) if start[0] == end[0] else (0, line - 1)
    draw.rectangle((*start, end[0] + across[0], end[1] + across[1]), fill=HALO)
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    vertical = start[0] == end[0]
    for at in range(0, length + 1, 10 * line):
        stop = min(at + 6 * line - 1, length)
        first = (start[0], start[1] + at) if vertical else (start[0] + at, start[1])
        last = (start[0], start[1] + stop) if vertical else (start[0] + stop, start[1])
        draw.rectangle((*first, last[0] + across[0], last[1] + across[1]), fill=FRAME)


def draw_frame(picture: Image.Image, box: Box, line: int) -> None:
    """Draw a dashed frame just inside `box` of a film picture."""
    thin = max(1, line - 1)
    x0, y0, x1, y1 = box
    right, bottom = max(x0, x1 - thin), max(y0, y1 - thin)
    draw = ImageDraw.Draw(picture)
    for start, end in (
        ((x0, y0), (right, y0)),
        ((x0, bottom), (right, bottom)),
        ((x0, y0), (x0, bottom)),
        ((right, y0), (right, bottom)),
    ):
        draw_dashes(draw, start, end, thin)


def draw_peak(picture: Image.Image, x: int, y: int, line: int, arm: int) -> None:
    """Draw a cross with an open centre at (x, y), so that what it points to stays visible."""
    draw = ImageDraw.Draw(picture)
    gap = round(arm * 0.45)
    low, high = (line - 1) // 2, line // 2
    halo = max(1, line // 2)
    for colour, grow in ((HALO, halo), (PEAK, 0)):
        a, b = low + grow, high + grow
        draw.rectangle((x - arm - grow, y - a, x - gap + grow, y + b), fill=colour)
        draw.rectangle((x + gap - grow, y - a, x + arm + grow, y + b), fill=colour)
        draw.rectangle((x - a, y - arm - grow, x + b, y - gap + grow), fill=colour)
        draw.rectangle((x - a, y + gap - grow, x + b, y + arm + grow), fill=colour)


def draw_ring(picture: Image.Image, x: float, y: float, *, radius: float, line: float, colour: Colour) -> None:
    """Draw a faint, dashed ring around (x, y), with a dash in each of eight directions."""
    fine = 4  # each side is drawn with 4 times as many pixels, for smooth edges
    left, top = math.floor(x - radius - line), math.floor(y - radius - line)
    side = math.ceil(2 * (radius + line)) + 2
    stencil = Image.new("L", (fine * side, fine * side))
    draw = ImageDraw.Draw(stencil)
    middle = ((x - left + 0.5) * fine, (y - top + 0.5) * fine)
    reach = (radius + line / 2) * fine
    box = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
    for angle in range(0, 360, 45):
        draw.arc(box, angle - 13, angle + 13, fill=_RING_STRENGTH, width=max(1, round(line * fine)))
    picture.paste(colour, (left, top), stencil.resize((side, side), Image.Resampling.BOX))


def draw_legend(canvas: Image.Image, layout: Layout, opacity: float, threshold: float) -> None:
    """Draw the colour scale with its two strips, its ticks and a line at the threshold."""
    draw = ImageDraw.Draw(canvas)
    font = caption_font(layout.small)
    x0, y0, _, y1 = layout.legend
    draw.text((x0, y0), "similarity", font=font, fill=TEXT, anchor="la")
    notes_y = y1 - len(LEGEND_NOTES) * line_height(layout.small)
    for index, note in enumerate(LEGEND_NOTES):
        place = (x0, notes_y + index * line_height(layout.small))
        draw.text(place, note, font=font, fill=MUTED, anchor="la")
    top, bottom = y0 + round(1.9 * layout.small), notes_y - round(0.7 * layout.small)
    strip = round(1.2 * layout.body)
    height = max(2, bottom - top)
    values = np.linspace(1.0, 0.0, height, dtype=np.float32)
    bare = np.repeat(similarity_colours(values)[:, None, :], strip, axis=1)
    greys = np.linspace(0.0, 255.0, strip, dtype=np.float32)
    on_film = blend(np.repeat(greys[None, :], height, axis=0), np.repeat(values[:, None], strip, axis=1), opacity)
    canvas.paste(Image.fromarray(np.concatenate([bare, on_film], axis=1)), (x0, top))
    right = x0 + 2 * strip
    draw.rectangle((x0 - 1, top - 1, right, top + height), outline=FILM_EDGE)
    tick = max(3, layout.body // 3)
    for value, label in ((0.0, "0"), (0.5, "0.5"), (1.0, "1")):
        y = top + round((1.0 - value) * (height - 1))
        draw.line((right, y, right + tick, y), fill=TEXT, width=max(1, layout.line // 2))
        draw.text((right + tick + tick // 2, y), label, font=font, fill=TEXT, anchor="lm")
    y = top + round((1.0 - threshold) * (height - 1))
    half = layout.line // 2
    draw.rectangle((x0, y - half - 1, right - 1, y + half + 1), fill=HALO)
    draw.rectangle((x0, y - half, right - 1, y - half + layout.line - 1), fill=LINE)


def draw_key(canvas: Image.Image, layout: Layout, items: Sequence[tuple[str, str]]) -> None:
    """Write the key under the film; `items` are (symbol, text) with "contour", "peak", "ring", "frame" or ""."""
    draw = ImageDraw.Draw(canvas)
    small, line = layout.small, layout.line
    font = caption_font(small)
    wide = {"": 0.0, "peak": 1.4, "ring": 1.4}
    signs = [round(small * wide.get(symbol, 3.0)) for symbol, _ in items]
    widths = [sign + math.ceil(font.getlength(text)) for sign, (_, text) in zip(signs, items, strict=True)]
    places = flow(widths, 2 * small, layout.text_width)
    for sign, (symbol, text), (x, row) in zip(signs, items, places, strict=True):
        left = layout.pad + x
        middle = layout.key_y + row * line_height(small) + line_height(small) // 2
        end = left + sign - small // 2
        if symbol == "contour":
            draw.rectangle((left, middle - line, end, middle + line), fill=HALO)
            draw.rectangle((left, middle - line // 2, end, middle - line // 2 + line - 1), fill=LINE)
        elif symbol == "frame":
            draw_dashes(draw, (left, middle), (end, middle), max(1, line - 1))
        elif symbol == "peak":
            draw_peak(canvas, left + small // 2, middle, line, small // 2)
        elif symbol == "ring":
            draw_ring(canvas, left + small // 2, middle, radius=0.4 * small, line=0.6 * line, colour=PEAK)
        draw.text((left + sign, middle), text, font=font, fill=MUTED, anchor="lm")
