"""Tell which words of a clause are affirmed, uncertain, negated, or not about this film."""

from itertools import pairwise

from radzero.reports.scanning import Clause, Mention
from radzero.reports.sentences import Polarity

NOT_THIS_FILM = None
"""Mode of words about the patient's history, the clinical question, or another film."""

Mode = Polarity | None

_ON_ITS_WAY = ("suggestive", "suggesting", "suggest", "suspicious", "concerning")


def modes_of(clause: Clause) -> list[Mode]:
    """Return one mode per word of the clause.

    A cue that stands before its words reaches to the clause's end or to the next cue. A cue that stands after them ("is
    not seen", "cannot be excluded") reaches back. Alternatives ("scarring or atelectasis") are both uncertain.
    """
    words, start = clause.words, clause.start
    modes: list[Mode] = []
    current: Mode = Polarity.AFFIRMED
    position = start
    while position < clause.end:
        mention = clause.by_first.get(position)
        if mention is None:
            if words[position] == "," and current is NOT_THIS_FILM:
                current = Polarity.AFFIRMED
            modes.append(current)
            position += 1
            continue
        current = _next_mode(clause, mention, current)
        modes += [current] * (mention.last - mention.first)
        position = mention.last
    for mention in clause.mentions:
        earlier = _changeable(clause, mention.first)
        if mention.is_a("negation_after") or (
            mention.is_a("normal") and "within" in words[mention.first : mention.last]
        ):
            _set(modes, start, earlier, Polarity.NEGATED)
        ends = mention.is_a("uncertainty") and mention.last >= clause.end and mention.first > clause.start
        if mention.is_a("uncertainty_after") or ends:  # "pneumonia is likely"
            _set(modes, start, _last_group(words, earlier), Polarity.UNCERTAIN)
    _doubt_alternatives(clause, modes)
    return modes


def _next_mode(clause: Clause, mention: Mention, current: Mode) -> Mode:
    words, position = clause.words, mention.first
    if mention.is_a("pseudo"):
        return current
    if mention.is_a("negation") and not (mention.is_a("negation_after") and _changeable(clause, position)):
        return current if mention.is_a("normal") and not mention.is_a("finding") else Polarity.NEGATED
    if mention.is_a("history", "other_film"):
        return NOT_THIS_FILM
    if mention.is_a("certainty"):
        # the verb sets "a line without markings is consistent with pneumothorax" apart from "no opacity consistent with
        # pneumonia"
        return Polarity.AFFIRMED if current is Polarity.NEGATED and _verb_since_negation(clause, position) else current
    if mention.is_a("uncertainty") and not (mention.is_a("uncertainty_after") and mention.last >= clause.end):
        on_its_way = words[position - 1] in ("to", "that", "would") if position else False
        if current in (Polarity.NEGATED, NOT_THIS_FILM) and (on_its_way or words[position] in _ON_ITS_WAY):
            return current  # "no opacity to suggest pneumonia"
        return Polarity.UNCERTAIN
    return current


def _verb_since_negation(clause: Clause, position: int) -> bool:
    negation = max((m.last for m in clause.before(position) if m.is_a("negation")), default=position)
    return any(word in ("is", "are", "was", "were") for word in clause.words[negation:position])


def _changeable(clause: Clause, end: int) -> list[Mention]:
    return [m for m in clause.before(end) if m.is_a("finding", "property")]


def _last_group(words: list[str], findings: list[Mention]) -> list[Mention]:
    """Return the last finding and those that "and" or "or" join to it."""
    group = findings[-1:]
    for mention in reversed(findings[:-1]):
        between = words[mention.last : group[0].first]
        if len(between) > 3 or not {"and", "or", "/"} & set(between):
            break
        group.insert(0, mention)
    return group


def _set(modes: list[Mode], start: int, mentions: list[Mention], mode: Mode) -> None:
    for mention in mentions:
        for k in range(mention.first - start, mention.last - start):
            if modes[k] is not NOT_THIS_FILM:
                modes[k] = mode


def _doubt_alternatives(clause: Clause, modes: list[Mode]) -> None:
    findings = [m for m in clause.mentions if m.is_a("finding")]
    for left, right in pairwise(findings):
        between = clause.words[left.last : right.first]
        if len(between) <= 6 and {"or", "versus", "vs", "v", "/"} & set(between):
            affirmed = [m for m in (left, right) if modes[m.first - clause.start] is Polarity.AFFIRMED]
            _set(modes, clause.start, affirmed, Polarity.UNCERTAIN)
