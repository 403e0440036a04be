"""Cut a report's sentence into words, find the vocabulary's terms in it, and cut it into clauses."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from radzero.reports.vocabulary import Meaning, Vocabulary, singular

_TOKEN = re.compile(r"[CTLctl]\d{1,2}\b|[A-Za-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?|[^\w\s]|_+")
_ABBREVIATION = re.compile(r"(?<![A-Za-z])[A-Za-z]/[A-Za-z](?![A-Za-z])")  # r/o, h/o, w/o, c/w
# First words of a clause that ends a list of denials, as in "no pneumothorax, mild cardiomegaly".
_PLAIN_STARTS = frozenset((
    "there", "stable", "unchanged", "mild", "persistent", "again", "moderate", "minimal", "some", "a", "an",
    "low", "slight",
))  # fmt: skip
_LISTED_ADJECTIVES = frozenset(("focal", "acute", "displaced", "diffuse"))


@dataclass(frozen=True)
class Token:
    """A word in lower case and singular, or a punctuation mark, with its span in characters of the text."""

    word: str
    start: int
    end: int


@dataclass(frozen=True)
class Mention:
    """A term at words ``first`` to ``last`` (excluded) of a sentence."""

    first: int
    last: int
    meanings: tuple[Meaning, ...]

    def value(self, kind: str) -> str:
        """Return what the term means as one of that kind; "" when it is not of that kind."""
        return next((m.value for m in self.meanings if m.kind == kind), "")

    def is_a(self, *kinds: str) -> bool:
        """Return whether the term is of one of these kinds."""
        return any(m.kind in kinds for m in self.meanings)

    @property
    def is_structure(self) -> bool:
        """Whether the term names anatomy and no finding."""
        return self.is_a("anatomy") and not self.is_a("finding")


def tokens_of(text: str, start: int, end: int) -> list[Token]:
    """Return words and punctuation of ``text[start:end]``, without hyphens in words and slashes in abbreviations."""
    tokens = []
    strokes = {match.start() + 1 for match in _ABBREVIATION.finditer(text, start, end)}
    for match in _TOKEN.finditer(text, start, end):
        if (match[0] == "-" and _joins(text, match.start())) or match.start() in strokes:
            continue
        tokens.append(Token(singular(match[0].lower()), match.start(), match.end()))
    return tokens


def _joins(text: str, position: int) -> bool:
    return 0 < position < len(text) - 1 and text[position - 1].isalnum() and text[position + 1].isalnum()


def mentions_in(words: list[str], vocabulary: Vocabulary) -> list[Mention]:
    """Return the vocabulary's terms in ``words``, without overlaps; the longest term wins."""
    mentions, position = [], 0
    while position < len(words):
        end, meanings = vocabulary.longest(words, position)
        if end - position <= 1 and (shared := _sharing_a_noun(words, position, vocabulary)):
            end, meanings = position + 1, shared
        if meanings:
            mentions.append(Mention(position, end, meanings))
        position = max(end, position + 1)
    return mentions


def _sharing_a_noun(words: list[str], position: int, vocabulary: Vocabulary) -> tuple[Meaning, ...]:
    """Return what an adjective means that shares the noun of the next, or nothing when the two together are no term.

    Examples: "interstitial and alveolar opacities", "right middle and lower lobe".
    """
    if words[position + 1 : position + 2] not in (["and"], ["or"], ["/"]):
        return ()
    end, meanings = vocabulary.longest(words, position + 2)
    if end - position - 2 < 2 or not any(m.kind in ("finding", "anatomy") for m in meanings):
        return ()
    phrase = [words[position], *words[position + 3 : end]]
    shared, own = vocabulary.longest(phrase, 0)
    if shared < len(phrase) or phrase[-1] in ("disease", "abnormality"):  # "no cardiac, pulmonary or pleural disease"
        return ()
    return own


@dataclass(frozen=True)
class Clause:
    """A stretch of a sentence that states one thing, or a list of the same kind.

    Attributes:
        words: words of the whole sentence.
        start, end: span of the clause in ``words``, ``end`` excluded.
        mentions: the terms inside the clause.
    """

    words: list[str]
    start: int
    end: int
    mentions: list[Mention]

    def before(self, position: int) -> list[Mention]:
        """Return the terms that end before ``position``."""
        return [m for m in self.mentions if m.last <= position]

    def after(self, position: int) -> list[Mention]:
        """Return the terms that begin at or after ``position``."""
        return [m for m in self.mentions if m.first >= position]

    def between(self, start: int, end: int) -> list[Mention]:
        """Return the terms that stand in ``start`` to ``end``."""
        return [m for m in self.mentions if m.first >= start and m.last <= end]

    @cached_property
    def by_first(self) -> dict[int, Mention]:
        """Terms by the index of their first word."""
        return {m.first: m for m in self.mentions}


def clauses_of(words: list[str], mentions: list[Mention]) -> list[Clause]:
    """Cut a sentence into clauses where a new statement begins.

    It begins at "but" and its like, at semicolons, and where a comma, "and" or "with" is followed by a statement of its
    own.
    """
    starts = {0, *(m.first for m in mentions if m.is_a("cut"))}
    by_first = {m.first: m for m in mentions}
    begun = 0
    for position, word in enumerate(words):
        if word in (";", ".") or (word in (":", "-") and position > 0) or _aside(words, by_first, position):
            starts.add(position + 1)
            begun = position + 1
        elif position in starts:
            begun = position
        elif word == "the" and _sentence_without_a_stop(words, by_first, begun, position):
            starts.add(position)
            begun = position
        elif word in (",", "and", "with") and _begins_a_statement(words, by_first, begun, position):
            starts.add(position + 1)
            begun = position + 1
    edges = [*sorted(start for start in starts if start < len(words)), len(words)]
    return [Clause(words, a, b, [m for m in mentions if a <= m.first and m.last <= b]) for a, b in pairwise(edges)]


def _sentence_without_a_stop(words: list[str], by_first: dict[int, Mention], begun: int, position: int) -> bool:
    """Return whether "the" begins a new statement: "there is no pneumothorax the lungs are hyperinflated"."""
    structure = by_first.get(position + 1)
    if (
        structure is None
        or not structure.is_structure
        or words[structure.last : structure.last + 1] not in (["is"], ["are"])
    ):
        return False
    last = max((m for k, m in by_first.items() if begun <= k < position), key=lambda m: m.last, default=None)
    return last is not None and last.last == position and last.is_a("finding", "normal")


def _aside(words: list[str], by_first: dict[int, Mention], position: int) -> bool:
    """Return whether a bracket opens a new statement: "no effusion (blunting of the angles may represent scarring)"."""
    if words[position] != "(":
        return False
    end = words.index(")", position) if ")" in words[position:] else len(words)
    inside = [by_first[k] for k in range(position, end) if k in by_first]
    finding = next((m.first for m in inside if m.is_a("finding")), end)
    return any(m.is_a("verb", "uncertainty") and m.first > finding for m in inside)


def _begins_a_statement(words: list[str], by_first: dict[int, Mention], begun: int, position: int) -> bool:
    start = position + 1
    if start < len(words) and words[start] == "and":
        start += 1
    if start >= len(words):
        return False
    if words[start] in ("there", "no", "it"):
        return True
    end = start
    while end < len(words) and words[end] not in (",", ";", ".", "and", "or"):
        end += 1
    segment = [by_first[k] for k in range(start, end) if k in by_first]
    before = [by_first[k] for k in range(begun, position) if k in by_first]
    if not segment or not any(m.is_a("verb", "normal", "negation", "finding") for m in before):
        return False
    structure = next((m for m in segment if m.is_structure), None)
    finding = next((m for m in segment if m.is_a("finding")), None)
    has_verb = any(m.is_a("verb") for m in segment)
    if structure is not None and (finding is None or structure.first < finding.first):
        if not any(m.is_a("verb", "normal") for m in before):
            return False
        if has_verb:
            return True
        has_predicate = any(m.is_a("normal", "property") for m in segment)
        return has_predicate and not before[0].is_a("normal") and words[position] == ","
    if finding is not None and any(m.is_a("negation") for m in before):
        listed = words[position] == "and" or "or" in words[begun:position] or {"or", "nor"} & set(words[end : end + 12])
        described = (
            segment[0].is_a("descriptor") and segment[0].first == start and words[start] not in _LISTED_ADJECTIVES
        )
        sided = start in by_first and by_first[start].is_a("side")
        return (words[start] in _PLAIN_STARTS or described or sided) and not listed
    return False
