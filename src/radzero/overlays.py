"""Pictures of a similarity map on its film, for people to look at.

Three functions draw: `render_overlay` puts a map on a film, `render_film` puts the film alone in the same
frame (so that the two can stand side by side), and `render_comparison` lays several such pictures out on
one sheet. They need numpy and Pillow only, use no font or file from outside, and the same input gives the
same pixels.

What a reader can rely on:

* The colour scale is FIXED from 0 to 1. A map that never rises above 0.3 is shown with the colours of
  0 to 0.3 and is never stretched, so two overlays can be compared by eye.
* The colour of a value is `similarity_colours(value)` and its opacity is `similarity_alpha(value, opacity)`:
  both depend on the value alone. What is seen on the film is ``(1 - a) * grey + a * colour``.
* The legend shows both. Its left strip is the bare colour, without transparency. Its right strip is what
  that colour becomes on film, from a black film at its left edge to a white film at its right edge.
* The peak of a map that reaches the threshold there has a cross, and of any other a faint, dashed ring: it is where
  the film fits the sentence best, and not a finding.
* No text lies on the film. Only the map, the contour, the peak marker and the frame of the part that the
  model saw are drawn on it.

Coordinates are in film pixels, x (to the right) before y (downwards), with the origin at the top left
corner of the top left pixel.
"""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = [
    "MAX_LONG_SIDE",
    "MAX_NOTICE_CHARACTERS",
    "MAX_SHEET_PIXELS",
    "MIN_SHORT_SIDE",
    "film_rectangle",
    "render_comparison",
    "render_film",
    "render_overlay",
    "similarity_alpha",
    "similarity_colours",
]

MIN_SHORT_SIDE = 512
"""Smaller films are enlarged until their short side has this many pixels, if `MAX_LONG_SIDE` lets them."""

MAX_LONG_SIDE = 1600
"""Larger films are reduced until their long side has this many pixels. It wins over `MIN_SHORT_SIDE`."""

MAX_NOTICE_CHARACTERS = 1000
"""A notice is never shortened, so a longer one is refused."""

MAX_SHEET_PIXELS = 64_000_000
"""A contact sheet larger than this is reduced as a whole (viewers take larger ones for an attack)."""

_BODY_PER_REFERENCE = 0.026
"""Text size over the reference length of the drawn film: its short side, or half its long side if larger."""
_MIN_BODY, _MAX_BODY = 16, 40
"""Smallest and largest text size, in output pixels. Margins and line widths are fractions of it."""
_MIN_WIDTH_IN_BODIES = 28
"""Least canvas width in text sizes, so that a narrow film still has room for its sentence."""
_MIN_LEGEND_IN_BODIES, _MAX_LEGEND_IN_BODIES = 11, 24
"""Least and greatest height of the legend in text sizes."""
_SENTENCE_FITS = ((1.0, 2), (0.85, 2), (0.7, 3))
"""Sizes at which a sentence is tried, largest first: (text size over body, lines). Past these: ellipsis."""
_MAX_SENTENCE_CHARACTERS = 2000
"""No more of a sentence or a warning is measured; no canvas has room for as much."""
_MAX_LINES_OF_A_WARNING, _MAX_WARNING_LINES = 3, 6
"""Most lines of one warning, and of all of them together. Past these: ellipsis."""

_SCALE_STEPS = 1000
_ANCHORS = np.array(
    [
        (13, 8, 135),
        (70, 3, 159),
        (114, 1, 168),
        (156, 23, 158),
        (189, 55, 134),
        (216, 87, 107),
        (237, 121, 83),
        (251, 159, 58),
        (253, 202, 38),
        (240, 249, 33),
    ],
    dtype=np.float64,
)
"""Ten equally spaced anchors of "plasma" (CC0): lightness rises all the way, and so it reads in grey and with
any kind of colour blindness."""

_BACKGROUND = (16, 16, 19)
_TEXT = (240, 240, 242)
_MUTED = (176, 176, 184)
_FILM_EDGE = (70, 70, 78)
_NOTICE_TEXT = (255, 222, 140)
_NOTICE_BAND = (70, 48, 8)
_LINE = (255, 255, 255)
_HALO = (0, 0, 0)
_PEAK = (90, 235, 255)
_RING_STRENGTH = 190
_FRAME = (215, 215, 220)

_ROUNDING = 1e-6
_SIGNS = {
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "×": "x", "≥": ">=", "≤": "<=", "≈": "~", "µ": "u", "μ": "u",
    "¿": "?", "¡": "!", "„": "”",
}  # fmt: skip
"""How signs that the font lacks are written. Both kinds of mu, as "um" of micrometres: "mm" would be another length."""


def _letters(letters: str, spelt: str) -> dict[str, str]:
    """Small letters and their spellings, and the capitals with theirs."""
    pairs = dict(zip(letters.split(), spelt.split(), strict=True))
    return {letter.upper(): text.capitalize() for letter, text in pairs.items() if len(letter.upper()) == 1} | pairs


_SPELLINGS = {
    **_letters("ä ö ü ß å ø æ œ þ ð đ ł ı ŋ ħ ŧ", "ae oe ue ss aa oe ae oe th d d l i n h t"),
    **_letters("α β γ δ ε ζ η θ ι κ λ ν ξ ο π ρ σ ς τ υ φ χ ψ ω", "a v g d e z i th i k l n x o p r s s t y f ch ps o"),
    **_letters("а б в г д е ё ж з и й к л м н о п р с т у", "a b v g d e e zh z i i k l m n o p r s t u"),
    **_letters("ф х ц ч ш щ ъ ы ь э ю я", "f kh ts ch sh shch ie y ' e iu ia"),
    **_letters("і ї є ґ ў ј љ њ ћ ђ џ", "i i ie g u j lj nj c d dz"),
    "ẞ": "SS",
}
"""How letters that the font lacks are spelt: as in passports (ICAO 9303), the soft sign apart; Greek by ISO 843."""
_MISSING = "\uffff"
_LEGEND_NOTES = ("left: colour", "right: on film")

_Colour = tuple[int, int, int]
_Box = tuple[int, int, int, int]


def _build_table() -> NDArray[np.uint8]:
    positions = np.linspace(0.0, 1.0, len(_ANCHORS))
    values = np.arange(_SCALE_STEPS + 1) / _SCALE_STEPS
    channels = [np.interp(values, positions, _ANCHORS[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


_TABLE = _build_table()


def similarity_colours(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Give the opaque colour of each similarity: the left strip of the legend.

    Args:
        values: any shape (...), similarities in 0..1.

    Returns:
        (..., 3) uint8 RGB, from deep blue at 0 through magenta to yellow at 1, in steps of 0.001.
    """
    colours: NDArray[np.uint8] = _TABLE[np.round(np.asarray(values) * _SCALE_STEPS).astype(np.intp)]
    return colours


def similarity_alpha(values: NDArray[np.floating], opacity: float) -> NDArray[np.float32]:
    """Give the opacity with which each similarity is laid on the film.

    It is ``opacity * (3 v^2 - 2 v^3)``: none at 0, half of `opacity` at 0.5, all of it at 1, always rising.
    Low similarity thus leaves the anatomy clear.

    Args:
        values: any shape (...), similarities in 0..1.
        opacity: the opacity at similarity 1, in 0..1.

    Returns:
        (...) float32 in 0..opacity.
    """
    v = np.asarray(values, dtype=np.float32)
    alpha: NDArray[np.float32] = np.float32(opacity) * v * v * (np.float32(3.0) - np.float32(2.0) * v)
    return alpha


# --- text ---


def thumbnail(
    film: NDArray[np.uint8],
    values: NDArray[np.floating] | None,
    width: int,
    peak: tuple[int, int] | None,
    threshold: float = 0.5,
) -> Image.Image:
    """A small picture of a film, with a map on it and a white mark at its peak where there are any.

    The mark is a cross, or a faint, dashed ring where the map is below the threshold even there.

    Args:
        film: (H, W).
        values: (H, W) map in 0..1.
        width: of the picture in pixels.
        peak: x, y in the film's pixels.
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
            _draw_ring(small, x, y, radius=6, line=1.5, colour=_LINE)
    return small


def mark_peak(picture: Image.Image, x: float, y: float) -> None:
    """Draw a white cross with a black rim."""
    draw = ImageDraw.Draw(picture)
    for dx, dy in ((6, 0), (0, 6)):
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=(0, 0, 0), width=4)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=(255, 255, 255), width=2)


@lru_cache(maxsize=64)
def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow, in a size in pixels."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("overlays need a Pillow with FreeType (the ordinary wheels have it)")
    return font


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    def pixels(text: str) -> tuple[tuple[int, int], bytes]:
        mask = caption_font(20).getmask(text)
        return mask.size, bytes(mask)

    return character == " " or (character < "\ud800" and pixels(character) != pixels(_MISSING))


@dataclass(frozen=True)
class _Drawable:
    """A text in the signs that the embedded font has.

    Attributes:
        text: as it is drawn.
        missing: whether the font's box stands for a letter in it.
        spelt: whether a letter of it is written by others.
    """

    text: str
    missing: bool
    spelt: bool

    @property
    def note(self) -> str:
        """What a reader must know of it, or ""."""
        if self.missing:
            return f"{_MISSING} = letter that this picture's font lacks"
        return "spelt in the letters of this picture's font" if self.spelt else ""


def _drawable(text: str) -> _Drawable:
    """Rewrite `text` in the signs that the embedded font has: those of ASCII and few more, as of Pillow 13.

    White space becomes single spaces, control characters go. Letters that the font lacks are spelt as in passports
    ("ö" -> "oe", "ж" -> "zh") or lose their accent ("é" -> "e"), some signs are spelt out ("≥" -> ">="), and whatever
    is left becomes the font's box.
    """
    out: list[str] = []
    missing = spelt = False
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cf", "Mn", "Me"):
            continue
        if _has_glyph(character):
            out.append(character)
            continue
        plain = _SIGNS.get(character) or _SPELLINGS.get(character)
        if plain is None:
            base = unicodedata.normalize("NFKD", character)
            plain = "".join(part for part in base if not unicodedata.combining(part))
            plain = "".join(_SIGNS.get(part) or _SPELLINGS.get(part, part) for part in plain)
        if plain and all(_has_glyph(part) for part in plain):
            out.append(plain)
            spelt |= kind.startswith("L") and character not in _SIGNS
        else:
            out.append(_MISSING)
            missing = True
    return _Drawable("".join(out), missing, spelt)


def drawable_text(text: str) -> str:
    """A text as pictures have to write it, for want of letters in the font that comes with Pillow."""
    return _drawable(text).text


def _split_word(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    pieces: list[str] = []
    while word:
        lengths = range(1, len(word) + 1)
        fitting = bisect_right(lengths, width, key=lambda count: math.ceil(font.getlength(word[:count])))
        pieces.append(word[: max(1, fitting)])
        word = word[len(pieces[-1]) :]
    return pieces


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels, inside a word only where the word is wider."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines += _split_word(word, font, width) if font.getlength(word) > width else [word]
    return lines


def _first_lines(lines: list[str], most: int, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most so many of `lines`, the last one with an ellipsis if there are more."""
    return lines if len(lines) <= most else [*lines[: most - 1], _shorten(lines[most - 1], font, width)]


def _wrap_warnings(warnings: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for text in warnings:
        drawable = _drawable(f"Warning: {text[:_MAX_SENTENCE_CHARACTERS]}").text
        lines += _first_lines(_wrap(drawable, font, width), _MAX_LINES_OF_A_WARNING, font, width)
    return _first_lines(lines, _MAX_WARNING_LINES, font, width)


def _shorten(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip(' ,;.')}…"


def _fit(text: str, body: int, width: int) -> tuple[int, list[str]]:
    """Choose the largest size at which `text` fits the header, or shorten it at the smallest.

    Returns:
        The text size in pixels, and the lines.
    """
    cut = len(text) > _MAX_SENTENCE_CHARACTERS
    text = text[:_MAX_SENTENCE_CHARACTERS]
    size, lines, most = body, [""], 1
    for factor, most in _SENTENCE_FITS:
        size = max(11, round(body * factor))
        lines = _wrap(text, caption_font(size), width)
        if len(lines) <= most and not cut:
            return size, lines
    lines = lines[:most]
    return size, [*lines[:-1], _shorten(lines[-1], caption_font(size), width)]


def _probability_text(probability: float) -> str:
    text = f"{probability:.2f}"
    if text == "1.00" and probability < 1.0:
        return "p > 0.99"
    if text == "0.00" and probability > 0.0:
        return "p < 0.01"
    return f"p = {text}"


def _threshold_text(threshold: float) -> str:
    return f"{threshold:.2f}" if abs(round(threshold, 2) - threshold) < _ROUNDING else f"{threshold:.3f}"


# --- layout ---


@dataclass(frozen=True)
class _Layout:
    """Where everything goes, in output pixels. It depends on the film's shape, the notice and the warnings alone.

    The band at the foot, of the notice and the warnings, moves nothing above it."""

    size: tuple[int, int]
    film: _Box
    body: int
    small: int
    pad: int
    line: int
    """Width of the contour, the frame and the marker."""
    text_width: int
    probability_y: int
    legend: _Box
    key_y: int
    key_lines: int
    band_y: int
    band_lines: tuple[str, ...]
    """Of the notice, then of the warnings."""


def _line_height(size: int) -> int:
    return round(size * 1.35)


def _output_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Give (width, height) in output pixels of a film of `shape` (H, W)."""
    height, width = shape
    scale = max(1.0, MIN_SHORT_SIDE / min(height, width))
    scale = min(scale, MAX_LONG_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _key_widest(small: int) -> list[int]:
    texts = ("all of the film reaches 0.000", "peak 0.00", "dashed: part seen by the model")
    return [math.ceil(caption_font(small).getlength(text) * 1.05) + 3 * small for text in texts]


def _flow(widths: Sequence[int], gap: int, width: int) -> list[tuple[int, int]]:
    """Place items of `widths` in rows, as words in a line: (x, row) of each."""
    places: list[tuple[int, int]] = []
    x, row = 0, 0
    for item in widths:
        if x and x + item > width:
            x, row = 0, row + 1
        places.append((x, row))
        x += item + gap
    return places


def _lay_out(shape: tuple[int, int], notice: str | None, warnings: Sequence[str] = ()) -> _Layout:
    film_w, film_h = _output_size(shape)
    reference = max(min(film_w, film_h), max(film_w, film_h) / 2)
    body = min(_MAX_BODY, max(_MIN_BODY, round(reference * _BODY_PER_REFERENCE)))
    small = max(13, round(body * 0.8))
    pad = round(body * 0.7)
    panel = math.ceil(max(caption_font(small).getlength(text) for text in ("similarity", *_LEGEND_NOTES))) + 2 * pad
    width = max(pad + film_w + panel, _MIN_WIDTH_IN_BODIES * body)
    text_width = width - 2 * pad

    probability_y = pad + 2 * _line_height(body) + body // 4
    top = probability_y + _line_height(round(body * 1.3)) + pad // 2
    middle = max(film_h, _MIN_LEGEND_IN_BODIES * body)
    film_y = top + (middle - film_h) // 2
    film = (pad, film_y, pad + film_w, film_y + film_h)
    legend_h = min(middle, _MAX_LEGEND_IN_BODIES * body)
    legend = (pad + film_w + pad, top, pad + film_w + panel, top + legend_h)

    key_y = top + middle + pad // 2
    key_lines = 1 + _flow(_key_widest(small), 2 * small, text_width)[-1][1]
    band_y = key_y + key_lines * _line_height(small) + pad // 2
    band_lines = [] if notice is None else _wrap(_drawable(notice).text, caption_font(body), text_width)
    band_lines += _wrap_warnings(warnings, caption_font(body), text_width)
    height = band_y + (len(band_lines) * _line_height(body) + pad if band_lines else 0)
    return _Layout(
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
    """Say where the film lies in the picture that `render_overlay` or `render_film` makes of it.

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
    _check_notice(notice)
    return _lay_out(shape, notice).film


# --- drawing ---


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


def _draw_contour(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], line: int) -> None:
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
    for colour, thick, strength in ((_HALO, halo, 0.85), (_LINE, radius, 1.0)):
        stencil = Image.fromarray(_dilate(edge, thick).astype(np.uint8) * round(255 * strength))
        picture.paste(colour, (0, 0), stencil.filter(ImageFilter.GaussianBlur(0.6)))
    part[...] = np.asarray(picture)


def _blend(grey: NDArray[np.float32], values: NDArray[np.float32], opacity: float) -> NDArray[np.uint8]:
    """Lay similarities (h, w) on grey (h, w), both as wide: (h, w, 3) uint8."""
    alpha = similarity_alpha(values, opacity)[..., None]
    base = grey[..., None]
    out: NDArray[np.uint8] = np.rint(base + alpha * (similarity_colours(values) - base)).astype(np.uint8)
    return out


def _draw_dashes(draw: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int], line: int) -> None:
    """Draw a horizontal or vertical dashed line, light on dark, its upper left edge from start to end."""
    across = (line - 1, 0) if start[0] == end[0] else (0, line - 1)
    draw.rectangle((*start, end[0] + across[0], end[1] + across[1]), fill=_HALO)
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    vertical = start[0] == end[0]
    for at in range(0, length + 1, 10 * line):
        stop = min(at + 6 * line - 1, length)
        first = (start[0], start[1] + at) if vertical else (start[0] + at, start[1])
        last = (start[0], start[1] + stop) if vertical else (start[0] + stop, start[1])
        draw.rectangle((*first, last[0] + across[0], last[1] + across[1]), fill=_FRAME)


def _draw_frame(picture: Image.Image, box: _Box, line: int) -> None:
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
        _draw_dashes(draw, start, end, thin)


def _draw_peak(picture: Image.Image, x: int, y: int, line: int, arm: int) -> None:
    """Draw a cross with an open centre at (x, y), so that what it points to stays visible."""
    draw = ImageDraw.Draw(picture)
    gap = round(arm * 0.45)
    low, high = (line - 1) // 2, line // 2
    halo = max(1, line // 2)
    for colour, grow in ((_HALO, halo), (_PEAK, 0)):
        a, b = low + grow, high + grow
        draw.rectangle((x - arm - grow, y - a, x - gap + grow, y + b), fill=colour)
        draw.rectangle((x + gap - grow, y - a, x + arm + grow, y + b), fill=colour)
        draw.rectangle((x - a, y - arm - grow, x + b, y - gap + grow), fill=colour)
        draw.rectangle((x - a, y + gap - grow, x + b, y + arm + grow), fill=colour)


def _draw_ring(picture: Image.Image, x: float, y: float, *, radius: float, line: float, colour: _Colour) -> None:
    """Draw a faint, dashed ring around (x, y), with a dash in each of eight directions."""
    fine = 4  # times as many pixels, for smooth edges
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


def _draw_legend(canvas: Image.Image, layout: _Layout, opacity: float, threshold: float) -> None:
    draw = ImageDraw.Draw(canvas)
    font = caption_font(layout.small)
    x0, y0, _, y1 = layout.legend
    draw.text((x0, y0), "similarity", font=font, fill=_TEXT, anchor="la")
    notes_y = y1 - len(_LEGEND_NOTES) * _line_height(layout.small)
    for index, note in enumerate(_LEGEND_NOTES):
        place = (x0, notes_y + index * _line_height(layout.small))
        draw.text(place, note, font=font, fill=_MUTED, anchor="la")
    top, bottom = y0 + round(1.9 * layout.small), notes_y - round(0.7 * layout.small)
    strip = round(1.2 * layout.body)
    height = max(2, bottom - top)
    values = np.linspace(1.0, 0.0, height, dtype=np.float32)
    bare = np.repeat(similarity_colours(values)[:, None, :], strip, axis=1)
    greys = np.linspace(0.0, 255.0, strip, dtype=np.float32)
    on_film = _blend(np.repeat(greys[None, :], height, axis=0), np.repeat(values[:, None], strip, axis=1), opacity)
    canvas.paste(Image.fromarray(np.concatenate([bare, on_film], axis=1)), (x0, top))
    right = x0 + 2 * strip
    draw.rectangle((x0 - 1, top - 1, right, top + height), outline=_FILM_EDGE)
    tick = max(3, layout.body // 3)
    for value, label in ((0.0, "0"), (0.5, "0.5"), (1.0, "1")):
        y = top + round((1.0 - value) * (height - 1))
        draw.line((right, y, right + tick, y), fill=_TEXT, width=max(1, layout.line // 2))
        draw.text((right + tick + tick // 2, y), label, font=font, fill=_TEXT, anchor="lm")
    y = top + round((1.0 - threshold) * (height - 1))
    half = layout.line // 2
    draw.rectangle((x0, y - half - 1, right - 1, y + half + 1), fill=_HALO)
    draw.rectangle((x0, y - half, right - 1, y - half + layout.line - 1), fill=_LINE)


def _draw_key(canvas: Image.Image, layout: _Layout, items: Sequence[tuple[str, str]]) -> None:
    """Write the key under the film. `items` are (symbol, text); symbols: "contour", "peak", "ring", "frame", ""."""
    draw = ImageDraw.Draw(canvas)
    small, line = layout.small, layout.line
    font = caption_font(small)
    wide = {"": 0.0, "peak": 1.4, "ring": 1.4}
    signs = [round(small * wide.get(symbol, 3.0)) for symbol, _ in items]
    widths = [sign + math.ceil(font.getlength(text)) for sign, (_, text) in zip(signs, items, strict=True)]
    places = _flow(widths, 2 * small, layout.text_width)
    for sign, (symbol, text), (x, row) in zip(signs, items, places, strict=True):
        left = layout.pad + x
        middle = layout.key_y + row * _line_height(small) + _line_height(small) // 2
        end = left + sign - small // 2
        if symbol == "contour":
            draw.rectangle((left, middle - line, end, middle + line), fill=_HALO)
            draw.rectangle((left, middle - line // 2, end, middle - line // 2 + line - 1), fill=_LINE)
        elif symbol == "frame":
            _draw_dashes(draw, (left, middle), (end, middle), max(1, line - 1))
        elif symbol == "peak":
            _draw_peak(canvas, left + small // 2, middle, line, small // 2)
        elif symbol == "ring":
            _draw_ring(canvas, left + small // 2, middle, radius=0.4 * small, line=0.6 * line, colour=_PEAK)
        draw.text((left + sign, middle), text, font=font, fill=_MUTED, anchor="lm")


def _compose(film: Image.Image, layout: _Layout, text: str, probability: float | None) -> Image.Image:
    """Put a drawn film, its heading, the notice and the warnings on a canvas."""
    canvas = Image.new("RGB", layout.size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    x0, y0, x1, y1 = layout.film
    draw.rectangle((x0 - 1, y0 - 1, x1, y1), outline=_FILM_EDGE)
    canvas.paste(film, (x0, y0))
    drawable = _drawable(text)
    size, lines = _fit(drawable.text, layout.body, layout.text_width)
    for index, line in enumerate(lines):
        place = (layout.pad, layout.probability_y - (len(lines) - index) * _line_height(size))
        draw.text(place, line, font=caption_font(size), fill=_TEXT, anchor="la")
    x: float = layout.pad
    if probability is not None:
        font = caption_font(round(layout.body * 1.3))
        said = _probability_text(probability)
        draw.text((x, layout.probability_y), said, font=font, fill=_TEXT, anchor="la")
        x += font.getlength(said) + 2 * layout.body
    if drawable.note:
        y = layout.probability_y + round(layout.body * 0.8)
        draw.text((x, y), drawable.note, font=caption_font(layout.small), fill=_MUTED, anchor="lm")
    if layout.band_lines:
        draw.rectangle((0, layout.band_y, *layout.size), fill=_NOTICE_BAND)
        for index, line in enumerate(layout.band_lines):
            place = (layout.pad, layout.band_y + layout.pad // 2 + index * _line_height(layout.body))
            draw.text(place, line, font=caption_font(layout.body), fill=_NOTICE_TEXT, anchor="la")
    return canvas


# --- checks ---


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
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise ValueError(f"similarity_map must lie in 0..1, got values from {low:g} to {high:g}")
    return np.ascontiguousarray(similarity_map, dtype=np.float32)


def _check_fraction(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:  # NaN fails too
        raise ValueError(f"{name} must lie in 0..1, got {value}")


def _check_notice(notice: str | None) -> None:
    if notice is None:
        return
    if not notice.strip():
        raise ValueError("notice must not be blank; leave it out instead")
    if len(notice) > MAX_NOTICE_CHARACTERS:
        raise ValueError(f"notice must have at most {MAX_NOTICE_CHARACTERS} characters, got {len(notice)}")


def _check_peak(peak: tuple[int, int], shape: tuple[int, int]) -> None:
    x, y = peak
    if not (0 <= x < shape[1] and 0 <= y < shape[0]):
        raise ValueError(f"peak must be (x, y) on the film of width {shape[1]} and height {shape[0]}, got {peak}")


def _frame_box(covered: tuple[float, float, float, float], shape: tuple[int, int]) -> _Box | None:
    """Give the covered part in output pixels of the film, or None if it is the whole film."""
    height, width = shape
    x0, y0, x1, y1 = covered
    if not all(math.isfinite(edge) for edge in covered) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"covered must be finite x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {covered}")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"covered must meet the film of width {width} and height {height}, got {covered}")
    if x0 <= 0.5 and y0 <= 0.5 and x1 >= width - 0.5 and y1 >= height - 0.5:
        return None
    out_w, out_h = _output_size(shape)
    return (
        min(out_w - 1, round(max(0.0, x0) * out_w / width)),
        min(out_h - 1, round(max(0.0, y0) * out_h / height)),
        max(1, round(min(width, x1) * out_w / width)),
        max(1, round(min(height, y1) * out_h / height)),
    )


# --- public ---


def _scaled_film(film: NDArray[np.uint8], layout: _Layout) -> Image.Image:
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

    The film keeps its aspect ratio. It is enlarged or reduced by `MIN_SHORT_SIDE` and `MAX_LONG_SIDE`, the
    map with it (bilinear), and the colours are chosen after that, on the fixed scale 0..1. The contour
    follows the pixels at or above `threshold`; where they run off the film it stays open. Regions smaller
    than an output pixel may vanish when a large film is reduced.

    The sentence is set smaller when it is long and ends in an ellipsis when even that is not enough; the
    notice is never shortened; warnings are, after a few lines. Letters that Pillow's embedded font lacks
    are spelt in others ("Größe" as "Groesse"), lose their accent or become a box; a note beside the
    probability says so where the sentence has any.

    Args:
        film: (H, W) uint8, display pixels, 0 black.
        similarity_map: (H, W) floating, similarities in 0..1 of the film's own pixels.
        sentence: what was asked.
        probability: 0..1, its answer for the whole film. Shown with two digits, but as "p > 0.99" or
            "p < 0.01" where these would read 1.00 or 0.00.
        threshold: 0..1, the similarity at which the contour runs.
        peak: (x, y) in film pixels where the marker goes, x first; None for no marker. It is a cross, or a faint,
            dashed ring where the map is below the threshold there. From an argmax:
            ``y, x = numpy.unravel_index(similarity_map.argmax(), similarity_map.shape)``.
        notice: text that must be read with the picture, written in full on a band at the foot.
        warnings: of the film and of the sentence, on the same band below the notice; as many as its few lines hold,
            so the gravest go first.
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
    _check_notice(notice)
    if peak is not None:
        _check_peak(peak, shape)
    frame = None if covered is None else _frame_box(covered, shape)
    layout = _lay_out(shape, notice, warnings)

    grey = np.asarray(_scaled_film(film, layout), dtype=np.float32)
    size = (grey.shape[1], grey.shape[0])
    scaled = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
    scaled = np.clip(scaled, 0.0, 1.0)
    pixels = _blend(grey, scaled, opacity)
    limit = np.float32(threshold)  # in the map's own precision: 0.7 reaches 0.7
    mask = scaled >= limit
    reached = peak is not None and bool(values[peak[1], peak[0]] >= limit)
    _draw_contour(pixels, mask, layout.line)
    picture = Image.fromarray(pixels)
    if frame is not None:
        _draw_frame(picture, frame, layout.line)
    if peak is not None:
        x = math.floor((peak[0] + 0.5) * size[0] / shape[1])
        y = math.floor((peak[1] + 0.5) * size[1] / shape[0])
        if reached:
            _draw_peak(picture, x, y, layout.line, round(1.1 * layout.body))
        else:
            _draw_ring(picture, x, y, radius=0.65 * layout.body, line=0.75 * layout.line, colour=_PEAK)

    said = _threshold_text(threshold)
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
    _draw_legend(canvas, layout, opacity, threshold)
    _draw_key(canvas, layout, items)
    return canvas


def render_film(
    film: NDArray[np.uint8], *, title: str, notice: str | None = None, warnings: Sequence[str] = ()
) -> Image.Image:
    """Draw the film alone in the frame of an overlay, to stand beside it.

    Args:
        film: (H, W) uint8, display pixels, 0 black.
        title: heading, in the place of an overlay's sentence.
        notice: as for `render_overlay`.
        warnings: as for `render_overlay`.

    Returns:
        An RGB image with the size and the film's place of `render_overlay` for the same shape, notice and warnings;
        the places of probability, legend and key are empty.

    Raises:
        ValueError: if the film has the wrong type or shape, or the notice is blank or too long.
    """
    shape = _check_film(film)
    _check_notice(notice)
    layout = _lay_out(shape, notice, warnings)
    return _compose(_scaled_film(film, layout).convert("RGB"), layout, title, None)


def render_comparison(overlays: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Lay pictures out on one sheet, row by row, in cells of equal size.

    Each cell is as wide as the widest picture and as high as the highest; smaller ones are centred in it and
    not enlarged. A sheet above `MAX_SHEET_PIXELS` is reduced as a whole.

    Args:
        overlays: the pictures, at least one.
        columns: pictures in a row, at least 1; None puts up to three in one row and otherwise makes a sheet
            about as many cells wide as high. More columns than pictures are not drawn.

    Returns:
        An RGB image.

    Raises:
        ValueError: if there is no picture or columns is below 1.
    """
    count = len(overlays)
    if count == 0:
        raise ValueError("overlays must hold at least one picture")
    if columns is None:
        columns = count if count <= 3 else math.ceil(math.sqrt(count))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width, height = max(one.width for one in overlays), max(one.height for one in overlays)
    gap = max(4, min(width, height) // 80)
    whole = (columns * (width + gap) + gap) * (rows * (height + gap) + gap)
    scale = min(1.0, math.sqrt(MAX_SHEET_PIXELS / whole))
    width, height = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    gap = math.floor(gap * scale)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), _BACKGROUND)
    for index, overlay in enumerate(overlays):
        picture = overlay.convert("RGB")
        if scale < 1.0:
            size = (max(1, math.floor(picture.width * scale)), max(1, math.floor(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        x = gap + index % columns * (width + gap) + (width - picture.width) // 2
        y = gap + index // columns * (height + gap) + (height - picture.height) // 2
        sheet.paste(picture, (x, y))
    return sheet
