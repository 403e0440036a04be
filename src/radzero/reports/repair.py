"""Bring a language model's sentences into the grammar where a rule can, and refuse them where none can."""

import re

from radzero.reports.sentences import (
    DESCRIPTORS,
    OPENING,
    SIDES,
    TEMPORAL,
    FindingSentence,
    InvalidSentenceError,
    Polarity,
)

_OPENINGS = tuple(
    (re.compile(pattern, re.IGNORECASE), polarity)
    for pattern, polarity in (
        (
            r"^there (?:is|are|was|were) (?:currently )?(?:no longer|no|not)\b\s*(?:any )?"
            r"(?:(?:evidence|signs?) of |definite )?",
            Polarity.NEGATED,
        ),
        (r"^(?:no|not|without|absence of)\b\s*(?:any )?(?:(?:evidence|signs?) of )?", Polarity.NEGATED),
        (r"^there (?:may|might|could|can) be\b\s*", Polarity.UNCERTAIN),
        (
            r"^there (?:is|are) (?:possibly|probably|likely|possible|probable|suspected|questionable)\b\s*",
            Polarity.UNCERTAIN,
        ),
        (r"^(?:possibl[ey]|probabl[ey]|likely|perhaps|suspected|questionable)\b\s*", Polarity.UNCERTAIN),
        (r"^there (?:is|are|was|were|appears to be|remains?|has been)\b\s*", Polarity.AFFIRMED),
    )
)
_RESOLVED = re.compile(
    r"\b(?:resolved|has cleared|have cleared|no longer (?:seen|present|visible)|resolution of)\b", re.I
)
_SPLIT = re.compile(
    r"\s*(;|,\s*(?:(?:and|or|but|with|without)\b)?|\band/or\b|/|"
    r"\b(?:and|or|nor|versus|vs\.?|with|without|but|however|although)\b)\s*",
    re.I,
)
_ALTERNATIVE = frozenset(("or", "and/or", "/", "versus", "vs", "vs."))
_TURN = frozenset(("but", "however", "although"))
_COMPARISON = re.compile(
    r"\s*\b(?:since|(?:when |as )?compared|than|(?:from|to) (?:the |a |an )?(?:prior|previous|earlier|last))\b.*", re.I
)
_RELATIVE = re.compile(r"\b(?:which|that) (?:is|are|was|were|has|have|had|may)\b.*", re.I)
_IN_SIZE = re.compile(r"\bin (?:size|extent|volume|severity|appearance)\b", re.I)
_SEEN = re.compile(r"\s+(?:(?:is|are) )?(?:seen|noted|identified|present|visible|visuali[sz]ed|evident)$", re.I)
_ABOUT_CHANGE = frozenset((
    "slightly", "mildly", "minimally", "markedly", "significantly", "somewhat", "much", "overall", "is", "are", "has",
    "have", "been",
))  # fmt: skip
"""Words that remain of "slightly increased in size" when words of time are taken out."""
_ARTICLE = re.compile(r"^(?:(?:a|an|the|some|any|evidence of|signs? of|(?:presence|placement|insertion) of)\s+)+", re.I)
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
    """Return the valid sentences that ``text`` states, without provenance.

    Words of time are dropped. A list becomes one sentence per finding, and all get the place that they share. "There
    are", articles, other prepositions and stray stops are brought into the template. "Resolved" becomes a denial.

    Raises:
        InvalidSentenceError: when no rule makes it valid; the message is the reason.
    """
    try:
        return [FindingSentence.parse(text)]
    except InvalidSentenceError:
        pass
    plain = re.sub(r"\s+", " ", text).strip().rstrip(".;, ")
    polarity, rest = _opened(plain)
    resolved = _RESOLVED.search(rest)
    if resolved:
        polarity, rest = Polarity.NEGATED, _RESOLVED.sub(" ", rest)
    rest = _OTHER_PLACES.sub(" in the ", TEMPORAL.sub(" ", _COMPARISON.sub("", rest)))
    rest = re.sub(r"\s+", " ", _IN_SIZE.sub("", _RELATIVE.sub("", rest))).strip(" ,.;")
    if not rest:
        raise InvalidSentenceError("nothing is left when words of time are taken out")
    head, *places = _PLACED.split(_ARTICLE.sub("", rest), maxsplit=1)
    stated = _stated(head, polarity)
    if not stated:
        raise InvalidSentenceError("no finding")
    if len(stated) > 1 and (resolved or (places and len({polarity for polarity, _ in stated}) > 1)):
        # the words do not tell which of them has resolved, or is at the place
        raise InvalidSentenceError(f"more than one finding: {rest!r}")
    sites = [f" in the {place}" for place in _places(places[0])] if places else [""]
    return [
        FindingSentence.parse(f"{OPENING[polarity]} {_lower(finding)}{site}")
        for polarity, finding in stated
        for site in sites
    ]


def _stated(head: str, polarity: Polarity) -> list[tuple[Polarity, str]]:
    """Return the findings of a list, each with its polarity."""
    words = _SPLIT.split(_BOTH.sub("bilateral", head))
    joints = ["", *(joint.strip(" ,;").lower() for joint in words[1::2])]
    stated: list[tuple[Polarity, str]] = []
    for joint, part in zip(joints, words[::2], strict=True):
        if _ABOUT_CHANGE.issuperset(part.lower().split()):
            continue
        if stated:
            if polarity is Polarity.NEGATED and (
                joint in ("with", "without") or (set(joints) == {""} and part.split()[0].lower() in DESCRIPTORS)
            ):  # "no effusion, mild cardiomegaly"
                raise InvalidSentenceError(f"more than one finding: {head!r}")
            if joint == "without":
                polarity = Polarity.NEGATED
            elif joint in _TURN:
                polarity = Polarity.AFFIRMED
            elif joint in _ALTERNATIVE and polarity is Polarity.AFFIRMED:
                polarity = Polarity.UNCERTAIN
                stated = [(polarity if said is Polarity.AFFIRMED else said, finding) for said, finding in stated]
        own, part = _opened(part, polarity)
        if own is not polarity and not stated and polarity is not Polarity.AFFIRMED:
            raise InvalidSentenceError(f"a doubt and a denial of the same: {head!r}")
        polarity = own
        if finding := _SEEN.sub("", _ARTICLE.sub("", part).strip()):
            stated.append((polarity, finding))
    return stated


def _opened(text: str, otherwise: Polarity | None = None) -> tuple[Polarity, str]:
    """Return the polarity that the beginning states, or else ``otherwise``, and the rest of the text."""
    for pattern, polarity in _OPENINGS:
        if match := pattern.match(text):
            return polarity, text[match.end() :]
    if otherwise:
        return otherwise, text
    raise InvalidSentenceError("does not begin with 'There is', 'There may be' or 'There is no'")


def _places(text: str) -> list[str]:
    """Return the places that a text names.

    Examples: "left and right upper lobes", "right upper and left lower lobe", "base of the left lung".
    """
    parts = [_ARTICLE.sub("", part).strip() for part in _SPLIT.split(_BOTH.sub("bilateral", text))[::2]]
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
    """Return the text with its first letter in lower case, except that of an abbreviation."""
    return part if part[:2].isupper() else part[:1].lower() + part[1:]
