"""Hold a finding-sentence as data: one minimal finding in one of three templates, which cannot be made invalid.

    There is {descriptors} {side} {finding}                      There is small right pleural effusion
    There is {descriptors} {finding} in the {side} {site}        There is opacity in the left lower lobe
    There may be ...                                             uncertain
    There is no ...                                              negated

Sentences speak of the current film alone, so no word of time or comparison is allowed in them, and each names one
finding.
"""

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from radzero.errors import RadZeroError

MAX_WORDS = 20
"""Longest sentence, in words."""


class Polarity(StrEnum):
    """How a finding-sentence states its finding."""

    AFFIRMED = "affirmed"
    UNCERTAIN = "uncertain"
    NEGATED = "negated"


class InvalidSentenceError(RadZeroError, ValueError):
    """A sentence that the grammar does not allow; the message is the reason."""


SIDES = ("left", "right", "bilateral")
DESCRIPTORS = (
    "tiny", "minimal", "trace", "small", "mild", "moderate", "large", "marked", "severe", "massive", "extensive",
    "subtle", "focal", "multifocal", "diffuse", "patchy", "scattered", "multiple", "linear", "streaky", "plate-like",
    "discoid", "subsegmental", "round", "rounded", "nodular", "hazy", "dense", "confluent", "ill-defined", "acute",
    "chronic", "old", "healed", "displaced", "nondisplaced", "calcified", "cavitary", "loculated", "layering",
)  # fmt: skip
"""Words before a finding that state its degree or appearance, but not what it is or where."""

TEMPORAL = re.compile(
    r"\b(?:new(?:ly)?|unchanged|stable|stability|persist\w*|interval|again|re-?demonstrat\w*|re-?accumulat\w*|"
    r"improv\w*|worse\w*|increas\w*|decreas\w*|progress(?:ed|ing|ive|ion)?|regress\w*|resol(?:v\w*|ution)|"
    r"remov\w+|previous\w*|prior|earlier|compar\w*|since|develop(?:ed|ing)|evolving|evolution|enlarging|"
    r"growing|remain\w*|continu(?:ed?|es|ing|ous\w*)|no longer|now|currently|today|recent(?:ly)?|redistribut\w*|"
    r"clear(?:ed|ing)|(?:un)?altered|similar|change[ds]?(?= (?:since|from))|long-?standing|still|"
    r"change[ds]?(?= in (?:the )?(?:interval|size|extent|appearance|position|number|severity|volume))|"
    r"^(?:(?:significant|definite|appreciable|substantial|relevant|other) )?changes?$|"
    r"more|less|larger|smaller|greater|accumulating)\b",
    re.IGNORECASE,
)
"""Words that refer to another time or film."""

OPENING = {
    Polarity.AFFIRMED: "There is",
    Polarity.UNCERTAIN: "There may be",
    Polarity.NEGATED: "There is no",
}
"""First words of a sentence of each polarity."""
_TEMPLATE = re.compile(r"There (is no|may be|is) (\S.*)", re.IGNORECASE)
_OPENED = {"is no": Polarity.NEGATED, "may be": Polarity.UNCERTAIN, "is": Polarity.AFFIRMED}
_PLACE = re.compile(r" (?:of|in|at)(?: the)? ")
_PREPOSITION = re.compile(
    r"\b(?:of|in|at|on|over|overlying|within|involving|along|near|throughout|from|to|by|than)\b", re.IGNORECASE
)
_SEVERAL = re.compile(r",|;|/|\b(?:and|or|with|without|versus|vs)\b", re.IGNORECASE)
_SAYS_MORE = re.compile(
    r"\b(?:no|not|but|however|although|there|is|are|was|were|be|been|may|might|could|can|likely|possibl[ey]|probabl[ey]|"
    r"perhaps|suspected|questionable|evidence|signs?|presence|placement|insertion|which|that|represent\w*|suggest\w*|"
    r"consistent|compatible|due)\b",
    re.IGNORECASE,
)
_SIDE = re.compile(rf"\b(?:{'|'.join(SIDES)}|both)\b", re.IGNORECASE)
_FORBIDDEN = re.compile(r"X{3,}|_{2,}|[^\w \-'()+%]", re.IGNORECASE)
_AT = ("base", "apex", "bases", "apices", "angle", "hilum", "junction")


@dataclass(frozen=True)
class Provenance:
    """Origin of a sentence.

    Attributes:
        report: name of the report.
        section: "findings", "impression", ...
        start, end: span of the characters in the section's text that state it, ``end`` excluded.
        engine: "rules" or "llm".
        model: hash of the vocabulary, or name of the language model.
        prompt: hash of the prompt; empty for the rules.
        time: when a language model answered, ISO 8601; empty for the rules, whose answer is the same at all times.
    """

    report: str
    section: str
    start: int
    end: int
    engine: str
    model: str = ""
    prompt: str = ""
    time: str = ""


@dataclass(frozen=True)
class FindingSentence:
    """One minimal finding of one film.

    Attributes:
        polarity: affirmed, uncertain or negated.
        finding: noun phrase without place or descriptors, in lower case except for abbreviations: "pleural effusion".
        descriptors: words of :data:`DESCRIPTORS`, in the order of the text.
        side: "left", "right", "bilateral" or "".
        site: the place without its side: "lower lobe"; or "".
        provenance: where it is stated; ignored in comparisons.

    Raises:
        InvalidSentenceError: on construction, when the grammar does not allow the sentence.
    """

    polarity: Polarity
    finding: str
    descriptors: tuple[str, ...] = ()
    side: str = ""
    site: str = ""
    provenance: Provenance | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not re.search(r"[a-z]", self.finding, re.IGNORECASE):
            raise InvalidSentenceError("no finding")
        if self.side and self.side not in SIDES:
            raise InvalidSentenceError(f"the side is {self.side!r}, not one of {', '.join(SIDES)}")
        if _SEVERAL.search(self.finding):
            raise InvalidSentenceError(f"more than one finding: {self.finding!r}")
        for part in (self.finding, self.site, *self.descriptors):
            _check_words(part)
        text = self.text
        if temporal := TEMPORAL.search(text):  # two parts together may form one: "no longer"
            raise InvalidSentenceError(f"speaks of another time or film: {temporal[0]!r}")
        if says_more := _SAYS_MORE.search(self.finding):
            raise InvalidSentenceError(f"says more than a finding: {says_more[0]!r}")
        if _PREPOSITION.search(self.finding):
            raise InvalidSentenceError(f"a place inside the finding: {self.finding!r}")
        first = self.finding.split()[0].lower()
        if (
            first in SIDES
            or (first in DESCRIPTORS and len(self.finding.split()) > 1)
            or first in ("no", "a", "an", "the")
        ):
            raise InvalidSentenceError(f"the finding begins with {first!r}: {self.finding!r}")
        if unknown := [d for d in self.descriptors if d not in DESCRIPTORS]:
            raise InvalidSentenceError(f"not a descriptor: {unknown[0]!r}")
        if self.site.lower().startswith(("the ", "a ", "an ", *(f"{s} " for s in SIDES))) or self.site in SIDES:
            raise InvalidSentenceError(f"the site begins with an article or a side: {self.site!r}")
        if _SEVERAL.search(self.site):
            raise InvalidSentenceError(f"more than one place: {self.site!r}")
        if _SIDE.search(self.site):
            raise InvalidSentenceError(f"a side inside the place: {self.site!r}")
        if len(text.split()) > MAX_WORDS:
            raise InvalidSentenceError(f"longer than {MAX_WORDS} words")

    @property
    def text(self) -> str:
        """Text of the sentence, without a full stop."""
        head = (OPENING[self.polarity], *self.descriptors)
        if self.site:
            preposition = "at" if self.site.split()[-1] in _AT else "in"
            place = " ".join(part for part in (self.side, self.site) if part)
            return " ".join((*head, self.finding, preposition, "the", place))
        return " ".join((*head, *filter(None, (self.side,)), self.finding))

    @classmethod
    def parse(cls, text: str, provenance: Provenance | None = None) -> "FindingSentence":
        """Return the sentence that ``text`` states; ``parse(s.text) == s``.

        Raises:
            InvalidSentenceError: when ``text`` follows none of the templates.
        """
        text = re.sub(r"\s+", " ", text).strip().rstrip(".")
        match = _TEMPLATE.fullmatch(text)
        if not match:
            raise InvalidSentenceError("does not begin with 'There is', 'There may be' or 'There is no'")
        polarity = _OPENED[match[1].lower()]
        head, *places = _PLACE.split(match[2], maxsplit=1)
        words = head.split()
        descriptors, sides = [], []
        while len(words) > 1 and (word := words[0].lower()) in (*SIDES, *DESCRIPTORS, "a", "an", "the"):
            if word in SIDES:
                sides.append(word)
            elif word in DESCRIPTORS:
                descriptors.append(word)
            words.pop(0)
        site = places[0] if places else ""
        if match_side := re.match(rf"({'|'.join(SIDES)})\b ?", site, re.IGNORECASE):
            sides.append(match_side[1].lower())
            site = site[match_side.end() :]
        if len(set(sides)) > 1:
            raise InvalidSentenceError(f"more than one side: {' and '.join(sides)}")
        side = sides[0] if sides else ""
        return cls(polarity, " ".join(words), tuple(descriptors), side, site, provenance)

    def at(self, provenance: Provenance) -> "FindingSentence":
        """Return the same sentence with this provenance."""
        return replace(self, provenance=provenance)


def _check_words(part: str) -> None:
    if part != " ".join(part.split()):
        raise InvalidSentenceError(f"spaces out of place: {part!r}")
    if temporal := TEMPORAL.search(part):
        raise InvalidSentenceError(f"speaks of another time or film: {temporal[0]!r}")
    if forbidden := _FORBIDDEN.search(part):
        raise InvalidSentenceError(f"not a word: {forbidden[0]!r}")
