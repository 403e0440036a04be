"""Write text in pictures: the font, letters that it lacks, line breaks, and how numbers are written."""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files

from PIL import ImageFont

_SENTENCE_FITS = ((1.0, 2), (0.85, 2), (0.7, 3))
"""Sizes at which a sentence is tried, largest first: (text size divided by the body's, most lines).

A sentence that is too long for all of them ends in an ellipsis.
"""
_MAX_SENTENCE_CHARACTERS = 2000
"""Most characters of a sentence or a warning that are measured; no canvas has room for as many."""
_MAX_LINES_OF_A_WARNING, _MAX_WARNING_LINES = 3, 6
"""Most lines of one warning, and of all warnings together; more lines are replaced with an ellipsis."""
ROUNDING = 1e-6
_MISSING = "\uffff"


@lru_cache(maxsize=64)
def caption_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, DejaVu Sans, in a size in pixels. It is shipped, so that pictures are alike."""
    with as_file(files("radzero.pictures") / "fonts" / "DejaVuSans.ttf") as path:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    def pixels(text: str) -> tuple[tuple[int, int], bytes]:
        mask = caption_font(20).getmask(text)
        return mask.size, bytes(mask)

    return character == " " or (character < "\ud800" and pixels(character) != pixels(_MISSING))


@dataclass(frozen=True)
class Drawable:
    """A text in the letters that the font has.

    Attributes:
        text: the text as it is drawn.
        missing: whether a box stands for a letter in it.
    """

    text: str
    missing: bool

    @property
    def note(self) -> str:
        """Note for the reader on the missing letters, or "" where none is missing."""
        return f"{_MISSING} = letter that this picture's font lacks" if self.missing else ""


def to_drawable(text: str) -> Drawable:
    """Rewrite a text in the letters that the font has: Latin, Greek, Cyrillic, Armenian, Georgian and many signs.

    White space becomes single spaces, and control characters are left out. A letter that the font lacks loses its
    accent where that helps; otherwise, and for scripts that are written from right to left, a box stands for it.
    """
    out: list[str] = []
    missing = False
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        if unicodedata.category(character) in ("Cc", "Cf"):
            continue
        leftwards = unicodedata.bidirectional(character) in ("R", "AL")
        plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        if _has_glyph(character) and not leftwards:
            out.append(character)
        elif plain and not leftwards and all(map(_has_glyph, plain)):
            out.append(plain)
        else:
            out.append(_MISSING)
            missing = True
    return Drawable("".join(out), missing)


def drawable_text(text: str) -> str:
    """Return a text as pictures show it, with boxes for letters that the font lacks."""
    return to_drawable(text).text


def _split_word(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    pieces: list[str] = []
    while word:
        lengths = range(1, len(word) + 1)
        fitting = bisect_right(lengths, width, key=lambda count: math.ceil(font.getlength(word[:count])))
        pieces.append(word[: max(1, fitting)])
        word = word[len(pieces[-1]) :]
    return pieces


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels, inside a word only where the word is wider."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines += _split_word(word, font, width) if font.getlength(word) > width else [word]
    return lines


def _first_lines(lines: list[str], most: int, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return at most `most` of `lines`, the last one with an ellipsis if there are more."""
    return lines if len(lines) <= most else [*lines[: most - 1], _shorten(lines[most - 1], font, width)]


def wrap_warnings(warnings: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break warnings into lines of at most ``width`` pixels; an ellipsis replaces what goes beyond a few lines."""
    lines: list[str] = []
    for text in warnings:
        drawable = to_drawable(f"Warning: {text[:_MAX_SENTENCE_CHARACTERS]}").text
        lines += _first_lines(wrap(drawable, font, width), _MAX_LINES_OF_A_WARNING, font, width)
    return _first_lines(lines, _MAX_WARNING_LINES, font, width)


def _shorten(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip(' ,;.')}…"


def fit(text: str, body: int, width: int) -> tuple[int, list[str]]:
    """Choose the largest size at which `text` fits the header, or shorten it at the smallest.

    Returns:
        The text size in pixels, and the lines.
    """
    cut = len(text) > _MAX_SENTENCE_CHARACTERS
    text = text[:_MAX_SENTENCE_CHARACTERS]
    size, lines, most = body, [""], 1
    for factor, most in _SENTENCE_FITS:
        size = max(11, round(body * factor))
        lines = wrap(text, caption_font(size), width)
        if len(lines) <= most and not cut:
            return size, lines
    lines = lines[:most]
    return size, [*lines[:-1], _shorten(lines[-1], caption_font(size), width)]


def probability_text(probability: float) -> str:
    """Write a probability in 0..1 with two digits, and never as 1.00 or 0.00 where it is neither."""
    text = f"{probability:.2f}"
    if text == "1.00" and probability < 1.0:
        return "p > 0.99"
    if text == "0.00" and probability > 0.0:
        return "p < 0.01"
    return f"p = {text}"


def threshold_text(threshold: float) -> str:
    """Write a threshold in 0..1 with two digits, or with three where two would round it."""
    return f"{threshold:.2f}" if abs(round(threshold, 2) - threshold) < ROUNDING else f"{threshold:.3f}"


def line_height(size: int) -> int:
    """Return the height of a line in pixels, for text of ``size`` pixels."""
    return round(size * 1.35)
