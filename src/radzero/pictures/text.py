"""Text in pictures: the font, letters that it lacks, line breaks, and how numbers are written."""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageFont

_SENTENCE_FITS = ((1.0, 2), (0.85, 2), (0.7, 3))
"""Sizes at which a sentence is tried, largest first: (text size over body, lines). Past these: ellipsis."""
_MAX_SENTENCE_CHARACTERS = 2000
"""No more of a sentence or a warning is measured; no canvas has room for as much."""
_MAX_LINES_OF_A_WARNING, _MAX_WARNING_LINES = 3, 6
"""Most lines of one warning, and of all of them together. Past these: ellipsis."""
ROUNDING = 1e-6
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
class Drawable:
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


def to_drawable(text: str) -> Drawable:
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
    return Drawable("".join(out), missing, spelt)


def drawable_text(text: str) -> str:
    """A text as pictures have to write it, for want of letters in the font that comes with Pillow."""
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
    """At most so many of `lines`, the last one with an ellipsis if there are more."""
    return lines if len(lines) <= most else [*lines[: most - 1], _shorten(lines[most - 1], font, width)]


def wrap_warnings(warnings: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break warnings into lines of at most ``width`` pixels; past a few lines, an ellipsis ends them."""
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
    """Height of a line in pixels, for text of ``size`` pixels."""
    return round(size * 1.35)
