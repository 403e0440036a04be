"""Split a report section into sentences, as spans of characters."""

import re
from collections.abc import Iterator

from radzero.reports.sections import Report

_NEVER_LAST = frozenset(("dr", "mr", "mrs", "ms", "vs", "approx", "ca", "cf", "e.g", "i.e", "eg", "ie", "fig"))
_ABBREVIATIONS = _NEVER_LAST | frozenset((
    "st", "no", "v", "etc", "resp", "est", "temp", "vol", "inf", "sup", "ant", "post", "lat", "med", "a.m", "p.m", "a",
    "p", "min", "max",
))  # fmt: skip
_BREAK = re.compile(
    r"""
      (?P<stop>[.!?]+(?=["')\]]*(?:\s|$)))           # a stop before a space or the end
    | (?P<tight>(?<=[a-z)X])\.(?=[A-Z][a-z]))         # a stop that lost its space: "normal.The"
    | (?P<blank>\n[ \t]*\n\s*)                        # a blank line
    | (?P<item>(?:^|\n|(?<=[.:;])\s)\s*(?:\(?\d{1,2}[.)](?!\d)|[-*\u2022])\s+)   # a list marker
    """,
    re.VERBOSE,
)
_WORD_BEFORE = re.compile(r"([A-Za-z][A-Za-z.]*)$")


def sentence_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end, in characters, of every sentence, without its stop, list marker or surrounding spaces.

    Stops inside numbers and after abbreviations do not end a sentence, nor does a single line break. Blank lines and
    list markers ("1.", "2)", "-") do.
    """
    start = 0
    for match in _BREAK.finditer(text):
        if match["stop"] and not _ends(text, start, match.start(), match.end()):
            continue
        yield from _trimmed(text, start, match.start())
        start = match.end()
    yield from _trimmed(text, start, len(text))


def report_sentences(report: Report) -> tuple[str, ...]:
    """Return a report's own sentences about the film, each once, in their order."""
    found = (s.text[a:b] for s in report.film_sections for a, b in sentence_spans(s.text))
    return tuple(dict.fromkeys(" ".join(text.split()) for text in found))


def _ends(text: str, start: int, stop: int, after: int) -> bool:
    word = _WORD_BEFORE.search(text, max(start, stop - 12), stop)
    following = re.compile(r"\s*(\S)").match(text, after)
    if word is None or following is None:
        return True
    last = word[1].lower()
    if last in _NEVER_LAST:
        return False
    starts_new = following[1].isupper() or following[1].isdigit() or following[1] in "\"'(-_"
    return starts_new or last not in _ABBREVIATIONS


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and (text[start].isspace() or text[start] in ".;,"):
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start and any(c.isalpha() for c in text[start:end]):
        yield start, end
