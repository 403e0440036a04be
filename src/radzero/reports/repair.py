"""Sentences that a language model wrote, brought into the grammar where a rule can, and refused where none can."""

import re

from radzero.reports.sentences import SIDES, TEMPORAL, FindingSentence, InvalidSentenceError, Polarity

_OPENINGS = tuple(
    (re.compile(pattern, re.IGNORECASE), polarity)
    for pattern, polarity in (
        (
            r"^there (?:is|are|was|were) (?:currently )?(?:no|not any|no evidence of|no sign of)\b\s*"
            r"(?:evidence of |sign of |definite )?",
            Polarity.NEGATED,
        ),
        (r"^(?:no|without|no evidence of|absence of)\b\s*(?:evidence of )?", Polarity.NEGATED),
        (r"^there (?:may|might|could|can) be\b\s*", Polarity.UNCERTAIN),
        (
            r"^there (?:is|are) (?:possibly|probably|likely|possible|probable|suspected|questionable)\b\s*",
            Polarity.UNCERTAIN,
        ),
        (r"^(?:possible|probable|likely|suspected|questionable)\b\s*", Polarity.UNCERTAIN),
        (r"^there (?:is|are|was|were|appears to be|remains?|has been)\b\s*", Polarity.AFFIRMED),
    )
)
_RESOLVED = re.compile(
    r"\b(?:resolved|has cleared|have cleared|no longer (?:seen|present|visible)|resolution of)\b", re.I
)
_SPLIT = re.compile(r"\s*(?:;|,\s*(?:and|or)?\b|\band/or\b|/|\b(?:and|or|versus|vs\.?|with|without)\b)\s*", re.I)
_ARTICLE = re.compile(r"^(?:a|an|the|some|any|evidence of|signs? of)\s+", re.I)
_PLACED = re.compile(r"\s+(?:of|in|at)(?:\s+the)?\s+", re.I)
_BOTH = re.compile(r"\b(?:left and (?:the )?right|right and (?:the )?left|both)\b", re.I)
_OF_LUNG = re.compile(r"^(.+?) of (?:the )?(left|right) (?:lungs?|hemithorax|chest)$", re.I)
_LEADING_SIDE = re.compile(rf"^(?:{'|'.join(SIDES)}) ", re.I)
_PLACE_NOUN = re.compile(
    r"\b(?:lobes?|lungs?|bases?|ap(?:ex|ices)|zones?|fields?|hil(?:um|a)|lingula|regions?|angles?|hemithora(?:x|ces)|"
    r"mediastinum|fissures?|hemidiaphragms?|ribs?|clavicles?|spine|shoulders?)$",
    re.I,
)
_PLACE_PART = re.compile(rf"{_PLACE_NOUN.pattern}|\b(?:{'|'.join(SIDES)}|upper|mid|middle|lower)$", re.I)
_OTHER_PLACES = re.compile(r"\s+(?:within|over|overlying|involving|along|near|throughout|on)(?:\s+the)?\s+", re.I)


def repaired(text: str) -> list[FindingSentence]:
    """The valid sentences that ``text`` says, without provenance.

    Words of time are dropped, lists become one sentence each (a shared place goes to all of them), "There are",
    articles, other prepositions and stray stops are brought into the template, "resolved" becomes a denial.

    Raises:
        InvalidSentenceError: when no rule makes it valid; the message is the reason.
    """
    try:
        return [FindingSentence.parse(text)]
    except InvalidSentenceError:
        pass
    plain = re.sub(r"\s+", " ", text).strip().rstrip(".;, ")
    polarity, rest = _opened(plain)
    if _RESOLVED.search(rest):
        polarity, rest = Polarity.NEGATED, _RESOLVED.sub(" ", rest)
    rest = _OTHER_PLACES.sub(" in the ", TEMPORAL.sub(" ", rest))
    rest = re.sub(r"\s+", " ", re.sub(r"\b(?:which|that) (?:is|are)\b.*", "", rest)).strip(" ,.;")
    if not rest:
        raise InvalidSentenceError("nothing is left when words of time are taken out")
    head, *places = _PLACED.split(rest, maxsplit=1)
    parts = [_ARTICLE.sub("", part).strip() for part in _SPLIT.split(head)]
    parts = [part for part in parts if part]
    opening = {Polarity.AFFIRMED: "There is", Polarity.UNCERTAIN: "There may be", Polarity.NEGATED: "There is no"}[
        polarity
    ]
    sites = [f" in the {place}" for place in _places(places[0])] if places else [""]
    if not parts:
        raise InvalidSentenceError("no finding")
    return [FindingSentence.parse(f"{opening} {_lower(part)}{site}") for part in parts for site in sites]


def _opened(text: str) -> tuple[Polarity, str]:
    for pattern, polarity in _OPENINGS:
        if match := pattern.match(text):
            return polarity, text[match.end() :]
    raise InvalidSentenceError("does not begin with 'There is', 'There may be' or 'There is no'")


def _places(text: str) -> list[str]:
    """The places that "left and right upper lobes", "right upper and left lower lobe", "base of the left lung" name."""
    parts = [_ARTICLE.sub("", part).strip() for part in _SPLIT.split(_BOTH.sub("bilateral", text))]
    parts = [_OF_LUNG.sub(r"\2 \1", part) for part in parts if part]
    if not parts:
        raise InvalidSentenceError("no place")
    if len(parts) > 1 and not (_PLACE_NOUN.search(parts[-1]) and all(map(_PLACE_PART.search, parts))):
        raise InvalidSentenceError(f"more than one finding: {text!r}")
    noun, side = parts[-1].split()[-1], ""
    for k, part in enumerate(parts[:-1]):
        if part in SIDES:
            parts[k] = f"{part} {re.sub(_LEADING_SIDE, '', parts[-1])}"
        elif not _PLACE_NOUN.search(part):
            parts[k] = f"{part} {noun}"
            side = side or next((s for s in SIDES if part.startswith(f"{s} ")), "")
    if side:  # "left upper and lower lobes"
        parts = [part if _LEADING_SIDE.match(part) else f"{side} {part}" for part in parts]
    return parts


def _lower(part: str) -> str:
    """Lower case at the beginning, abbreviations kept."""
    return part if part[:2].isupper() else part[:1].lower() + part[1:]
