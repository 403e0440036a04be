"""Extract findings with their polarity and place from reports by rules, without a model or a network.

A sentence is read in four steps: its words are looked up in the vocabulary (the longest term wins), it is cut into
clauses, every word of a clause gets a mode (affirmed, uncertain, negated, or not about this film), and the findings,
normal statements and changed structures of the clause become finding-sentences with the place that stands beside them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from radzero.reports.engine import Extraction, SetAside
from radzero.reports.places import Place, PlaceFinder, adjacent
from radzero.reports.polarity import NOT_THIS_FILM, Mode, modes_of
from radzero.reports.scanning import Clause, Mention, Token, clauses_of, mentions_in, tokens_of
from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, InvalidSentenceError, Polarity, Provenance
from radzero.reports.splitting import sentence_spans
from radzero.reports.vocabulary import Vocabulary

_WHOLE_CHEST = "cardiopulmonary abnormality"
_VOLUME = frozenset(("low lung volume", "hyperinflation"))
_LEFT_BY_SURGERY = frozenset(("sternotomy", "surgical change", "surgical clip", "mastectomy"))
"""Findings that a history ("status post sternotomy") states too."""
_BACK = frozenset(("this", "these", "it", "they", "which", "finding", "appearance", "differential", "distribution"))
"""Words that begin a sentence that refers back to the one before."""
_WHITE = frozenset(("airspace disease", "consolidation", "infiltrate", "mass", "pneumonia"))
"""Findings beside which "the lungs are clear" does not mean that there is no opacity."""


@dataclass
class _Stated:
    """Statement of the words ``first`` to ``last`` (excluded) of a sentence.

    Attributes:
        weak: whether an explicit statement outweighs this one.
        inherited: whether its place is that of the finding that it explains.
    """

    finding: str
    polarity: Polarity
    first: int
    last: int
    descriptors: tuple[str, ...] = ()
    place: Place = field(default_factory=Place)
    weak: bool = False
    inherited: bool = False


class RulesEngine:
    """Extract finding-sentences by rules; the same report gives the same sentences everywhere.

    Args:
        vocabulary: words to look up; None for the package's.
    """

    name = "rules"

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary or Vocabulary()
        self._finder = PlaceFinder(self.vocabulary)

    @property
    def identity(self) -> dict[str, str]:
        """Name of the engine and hash of its words."""
        return {"engine": self.name, "model": self.vocabulary.hash}

    def extract_all(self, reports: Iterable[Report]) -> Iterator[Extraction]:
        """Yield one extraction per report, in the order of the reports."""
        return map(self.extract, reports)

    def extract(self, report: Report) -> Extraction:
        """Return the finding-sentences of the sections that describe the film; an error if they are not English."""
        if _foreign(" ".join(section.text for section in report.film_sections)):
            return Extraction(report.name, (), 0, (), error="not English: the rules read English reports only")
        stated: list[tuple[FindingSentence, _Stated]] = []
        set_aside: list[SetAside] = []
        for section in report.film_sections:
            places: list[Place] = []
            heading = Place()
            for start, end in sentence_spans(section.text):
                tokens = tokens_of(section.text, start, end)
                items, places = self._sentence(tokens, places)
                if heading:
                    items = [i if i.place else replace(i, place=self._fitting(i.finding, heading)) for i in items]
                heading = self._heading(tokens)
                for item in items:
                    first, last = tokens[item.first].start, tokens[item.last - 1].end
                    provenance = Provenance(report.name, section.name, first, last, self.name, self.vocabulary.hash)
                    try:
                        sentence = FindingSentence(
                            item.polarity,
                            item.finding,
                            item.descriptors,
                            item.place.side,
                            item.place.site,
                            provenance,
                        )
                    except InvalidSentenceError as error:
                        set_aside.append(SetAside(section.text[first:last], str(error), provenance))
                    else:
                        stated.append((sentence, item))
        sentences = _settled(stated)
        return Extraction(report.name, tuple(sentences), len(stated) - len(sentences), tuple(set_aside))

    def _heading(self, tokens: list[Token]) -> Place:
        """Return the place that a heading such as "Left ribs." gives the next sentence, or an empty place."""
        if len(tokens) > 6:
            return Place()
        words = [token.word for token in tokens if token.word.isalpha()]
        mentions = mentions_in(words, self.vocabulary)
        named = sum(m.last - m.first for m in mentions if m.is_a("side") or m.is_structure)
        if not any(m.is_a("side") for m in mentions) or named + words.count("and") < len(words):
            return Place()
        places = self._finder.gathered(words, mentions)
        return replace(places[0], first=-1, last=-1) if len(places) == 1 else Place()

    def _sentence(self, tokens: list[Token], previous: list[Place]) -> tuple[list[_Stated], list[Place]]:
        """Return the statements of a sentence, and the places that the next sentence may refer back to."""
        words = [token.word for token in tokens]
        mentions = mentions_in(words, self.vocabulary)
        if _open_headings(words, mentions):
            mentions = mentions_in(words, self.vocabulary)
        advice = next((m.first for m in mentions if m.is_a("recommendation")), len(words))
        mentions = [m for m in mentions if m.first < advice]
        opening = words[1:2] if words[:1] in (["the"], ["an"], ["a"]) else words[:1]
        refers_back = not _BACK.isdisjoint(opening) or (
            mentions and mentions[0].first == 0 and mentions[0].is_a("uncertainty")
        )
        silent = not any(  # "Increased since the previous study."
            m.is_a("finding", "normal", "negation") or m.value("anatomy") not in ("", "examination") for m in mentions
        )
        places = previous if refers_back or silent else []
        placed = ""  # the finding at these places
        found: list[_Stated] = []
        inherited: list[Place] = []
        for clause in clauses_of(words, mentions):
            for item in self._clause(clause):
                explains = (
                    item.polarity is Polarity.UNCERTAIN
                    or any(m.is_a("certainty") for m in clause.before(item.first))
                    or _masked_doubt(words[found[-1].last if found else 0 : item.first])
                    or (inherited and words[found[-1].last : item.first] in (["and"], ["or"], [","], [",", "and"]))
                )
                inherited = []
                if item.place or item.polarity is Polarity.NEGATED:
                    device = item.finding in self.vocabulary.devices
                    if item.place and not device and item.polarity is not Polarity.NEGATED:
                        places = [*places, item.place] if placed == item.finding else [item.place]
                        placed = item.finding
                elif explains and item.finding in self.vocabulary.explanations:
                    # what explains an opacity is where the opacity is
                    inherited = [self._fitting(item.finding, p) for p in places if p.anatomy != "retrocardiac region"]
                found += [replace(item, place=replace(p, first=-1, last=-1), inherited=True) for p in inherited] or [
                    item
                ]
        return found, places

    def _clause(self, clause: Clause) -> list[_Stated]:
        modes = modes_of(clause)
        placed: set[int] = set()  # words that name the place of a finding, and so state nothing themselves
        found: list[_Stated] = []
        for mention in clause.mentions:
            if mention.is_a("finding"):
                found += self._finding(clause, modes[mention.first - clause.start], mention, placed)
        found += self._changed_structures(clause, modes, placed)
        found += self._normal_structures(clause, modes, placed)
        found += self._no_abnormality(clause, modes, placed)
        return sorted(found, key=lambda item: (item.first, item.last))

    # -- findings ----------------------------------------------------------------------------------------

    def _finding(self, clause: Clause, mode: Mode, mention: Mention, placed: set[int]) -> Iterator[_Stated]:
        finding, property_name = mention.value("finding"), mention.value("property")
        if mode is NOT_THIS_FILM:
            if finding not in _LEFT_BY_SURGERY:
                return
            mode = Polarity.AFFIRMED
        if property_name and self._changed(clause, mention, property_name):
            return
        if mention.first and clause.words[mention.first - 1] in ("this", "these", "those", "such"):
            return  # an earlier sentence has stated it
        if finding == "calcification" and _describes_another(clause, mention):
            return  # "calcified left lower lobe granuloma"
        assert mode is not None
        weak = mode is Polarity.NEGATED and _only_new_ones(clause, mention)
        places = self._finder.places(clause, mention)
        if finding in self.vocabulary.devices:  # "over the left chest with leads in the atrium and the ventricle"
            places = [place for place in places if place.side] or places[:1]
        for place in places:
            name = self.vocabulary.narrower.get(finding, {}).get(place.anatomy, finding)
            yield self._stated(clause, mention, name, mode, place, weak)
            placed.update(range(place.first, place.last))

    def _stated(
        self, clause: Clause, mention: Mention, finding: str, polarity: Polarity, place: Place, weak: bool = False
    ) -> _Stated:
        """Return the statement of a finding, with the descriptors before it and the place that is stated beside it."""
        first, last = mention.first, mention.last
        descriptors: list[str] = []
        for other in reversed(clause.before(mention.first)):
            if not adjacent(clause.words, other.last, first):
                break
            if (word := other.value("descriptor")) and word not in descriptors:
                descriptors.insert(0, word)
            elif not other.is_a("side", "anatomy", "property"):
                break
            first = other.first
        if place.first >= 0:
            first, last = min(first, place.first), max(last, place.last)
        if finding == "calcification":
            descriptors = [d for d in descriptors if d != "calcified"]
        return _Stated(finding, polarity, first, last, tuple(descriptors), self._fitting(finding, place), weak)

    def _fitting(self, finding: str, place: Place) -> Place:
        """Return what is stated of a place beside a finding, which may imply the site or take no place."""
        if finding in self.vocabulary.unlocated:
            whole = place.anatomy in ("", "lung")
            return Place(place.side) if finding in _VOLUME and (place.side == "bilateral" or whole) else Place()
        return replace(place, site="") if place.anatomy in self.vocabulary.silent.get(finding, ()) else place

    # -- structures --------------------------------------------------------------------------------------

    def _changed_structures(self, clause: Clause, modes: list[Mode], placed: set[int]) -> Iterator[_Stated]:
        """Yield the findings that changed structures state.

        Examples: "The heart is enlarged", "prominence of the hila", "elevated right hemidiaphragm".
        """
        seen = set()
        for mention in clause.mentions:
            name, mode = mention.value("property"), modes[mention.first - clause.start]
            if not name or mode is NOT_THIS_FILM:
                continue
            structure = self._changed(clause, mention, name)
            if structure is None or (structure.first in placed and name in ("low", "enlarged", "prominent")):
                continue
            assert mode is not None
            entry = self.vocabulary.anatomy[structure.value("anatomy")]
            finding = entry.becomes[name]
            side = self._side_of(clause, structure) or self._side_of(clause, mention) or entry.side
            if not side and clause.words[mention.last : mention.last + 1] == ["on"]:
                side = next((m.value("side") for m in clause.after(mention.last)[:2] if m.is_a("side")), "")
            item = self._stated(clause, mention, finding, Polarity.UNCERTAIN if name == "borderline" else mode, Place())
            item.place = Place() if finding in self.vocabulary.unlocated else Place(side, "", entry.name)
            item.first, item.last = min(item.first, structure.first), max(item.last, structure.last)
            if (finding, side) not in seen:
                yield item
            seen.add((finding, side))

    def _changed(self, clause: Clause, mention: Mention, name: str) -> Mention | None:
        """Return the structure that a property belongs to, or None."""
        before = [
            m
            for m in reversed(clause.before(mention.first))
            if m.is_structure and not self._parted(clause, m.last, mention.first, by=("finding",))
        ]
        after = [
            m for m in clause.after(mention.last) if m.is_structure and not self._parted(clause, mention.last, m.first)
        ]
        ordered = [*after[:3], *before] if _leads(clause, mention, after) else [*before, *after[:1]]
        return next((m for m in ordered if name in self.vocabulary.anatomy[m.value("anatomy")].becomes), None)

    def _normal_structures(self, clause: Clause, modes: list[Mode], placed: set[int]) -> Iterator[_Stated]:
        """Yield the denials that normal structures state.

        Examples: "Heart size and mediastinal contours are normal", "clear lungs", "Normal.".
        """
        words = clause.words
        structures = [
            m for m in clause.mentions
            if m.is_structure and m.first not in placed and words[m.first : m.last] != ["pulmonary"]
        ]  # fmt: skip
        for cue in clause.mentions:
            if not cue.is_a("normal") or modes[cue.first - clause.start] is NOT_THIS_FILM or _refused(clause, cue):
                continue
            beside = self._subjects(clause, cue, structures)
            alone = (
                len(words) <= 3
                and "xxxx" not in words
                and not any(m.is_a("anatomy", "finding") for m in clause.mentions)
            )
            if not beside and alone:
                yield _Stated(_WHOLE_CHEST, Polarity.NEGATED, cue.first, cue.last, weak=True)
            for structure in beside:
                entry = self.vocabulary.anatomy[structure.value("anatomy")]
                side = self._side_of(clause, structure) or entry.side
                for name in _denied(entry.normal, words[cue.first : cue.last]):
                    place = Place() if name in self.vocabulary.unlocated - _VOLUME else Place(side)
                    first, last = min(structure.first, cue.first), max(structure.last, cue.last)
                    yield _Stated(name, Polarity.NEGATED, first, last, place=place, weak=True)

    def _subjects(self, clause: Clause, cue: Mention, structures: list[Mention]) -> list[Mention]:
        """Return the structures that a normal cue describes: those before it, or else those after it."""
        # a finding may stand between: "heart size and vascular engorgement are within normal limits"
        limits = "within" in clause.words[cue.first : cue.last]
        parting = ("negation", "normal") if limits else ("finding", "negation", "normal")
        beside = [m for m in structures if m.last <= cue.first and not self._parted(clause, m.last, cue.first, parting)]
        if not beside or any(m.is_a("show") for m in clause.between(beside[-1].last, cue.first)):
            after = [m for m in structures if m.first >= cue.last and not self._parted(clause, cue.last, m.first)]
            beside = after or beside
        if len(beside) > 1:
            beside = [m for m in beside if m.value("anatomy") != "examination"]
        return [m for m in beside if self.vocabulary.anatomy[m.value("anatomy")].normal]

    def _no_abnormality(self, clause: Clause, modes: list[Mode], placed: set[int]) -> Iterator[_Stated]:
        """Yield the denials of any abnormality: "the bones show no acute abnormality", "no acute disease"."""
        for mention in clause.mentions:
            if not mention.is_a("generic") or mention.is_a("finding"):
                continue
            if modes[mention.first - clause.start] is not Polarity.NEGATED:
                continue
            if any(m.is_a("finding") and m.first - mention.last <= 3 for m in clause.after(mention.last)):
                continue  # "no findings of pulmonary edema"
            structures = [
                m for m in clause.mentions
                if m.is_structure and m.first not in placed and abs(m.first - mention.first) < 14
            ]  # fmt: skip
            if len(structures) > 1:
                structures = [m for m in structures if m.value("anatomy") != "examination"]
            names = dict.fromkeys(self.vocabulary.anatomy[m.value("anatomy")].abnormality for m in structures)
            first = min(m.first for m in (mention, *structures))
            last = max(m.last for m in (mention, *structures))
            for name in filter(None, names) if structures else (_WHOLE_CHEST,):
                yield _Stated(name, Polarity.NEGATED, first, last)

    @staticmethod
    def _parted(clause: Clause, start: int, end: int, by: tuple[str, ...] = ("finding", "negation", "normal")) -> bool:
        """Return whether another statement stands between two words; "expanded and clear" are one statement."""
        for m in clause.between(start, end):
            if m.is_a("normal"):
                if not all(word in ("and", ",") for word in clause.words[m.last : end]):
                    return True
            elif m.is_a(*by):
                return True
        return False

    @staticmethod
    def _side_of(clause: Clause, structure: Mention) -> str:
        for other in clause.mentions:
            side = other.value("side")
            if side and (
                0 <= structure.first - other.last <= 1 or (side == "bilateral" and other.first >= structure.last)
            ):
                return side
        return ""


_NONE = frozenset(("no", "none", "nil", "absent", "negative", "neg", "not", "-"))
_SOME = frozenset(("yes", "present", "positive", "seen", "+"))


def _open_headings(words: list[str], mentions: list[Mention]) -> bool:
    """Rewrite headings in ``words`` as statements.

    "Lungs: clear" states that the lungs are clear, "Pneumothorax: none" and "Effusion (-)" that there is none.

    Returns:
        Whether words were changed so that they must be looked up again.
    """
    for position, word in enumerate(words):
        heading = [m for m in mentions if m.last <= position]
        if word not in (":", "-", "(") or not heading or position > 6:
            continue
        value = words[position + 1 : position + 2]
        if all(m.is_a("anatomy", "side") and not m.is_a("finding") for m in heading):
            if word == ":":
                words[position] = "is"
            return False
        if not all(m.is_a("finding", "anatomy", "side", "descriptor") for m in heading) or not value:
            return False
        alone = {".", ",", ";", ")", "seen", "present", "identified"}.issuperset(words[position + 2 : position + 3])
        if value[0] in _NONE and alone:
            words[position : position + 2] = "is", "absent"
            return True
        if value[0] in _SOME and alone:
            words[position] = "is"
        return False
    return False


def _masked_doubt(words: list[str]) -> bool:
    """Return whether a masked word stands where a doubt would: "XXXX a combination of", "XXXX relates to"."""
    for k, word in reversed(list(enumerate(words[-8:]))):
        if word in ("and", "with", ";"):
            return "xxxx" in words[-8:][k:]
    return "xxxx" in words[-8:]


_ENGLISH = frozenset((
    "the", "is", "are", "no", "of", "with", "and", "there", "in", "without", "normal", "clear", "seen", "or", "to",
    "on", "has", "not", "a", "an", "for", "at", "within", "unchanged",
))  # fmt: skip
_FOREIGN = frozenset((
    "kein", "keine", "keinen", "keiner", "und", "der", "das", "nicht", "mit", "ohne", "beidseits", "links", "rechts",
    "sin", "los", "las", "del", "con", "por", "derrame", "izquierdo", "derecho", "sans", "les", "des", "pas", "une",
    "avec", "gauche", "droite", "não", "sem", "com", "dos", "uma", "geen", "niet", "het", "een", "zonder", "senza",
    "della", "nessun", "ingen", "utan", "och", "brak", "bez", "nie",
))  # fmt: skip


def _foreign(text: str) -> bool:
    """Return whether a text has more common words of other languages than of English."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    foreign = sum(word in _FOREIGN for word in words)
    return foreign > sum(word in _ENGLISH for word in words)


def _describes_another(clause: Clause, mention: Mention) -> bool:
    """Return whether "calcified" belongs to the finding after it."""
    if clause.words[mention.last - 1] != "calcified":
        return False
    last = mention.last
    for other in clause.after(mention.last):
        if not adjacent(clause.words, last, other.first):
            return False
        if other.is_a("finding"):
            return True
        if not (other.is_a("side", "descriptor") or other.is_structure):
            return False
        last = other.last
    return False


def _only_new_ones(clause: Clause, mention: Mention) -> bool:
    """Return whether only new findings are denied: "no new opacity", or "no XXXX opacity" with a masked word."""
    return any(
        not {"new", "additional", "xxxx"}.isdisjoint(clause.words[cue.first : min(cue.last + 1, mention.first)])
        for cue in clause.before(mention.first)
        if cue.is_a("negation")
    )


def _denied(normal: tuple[str, ...], cue: list[str]) -> tuple[str, ...]:
    """Return what a normal statement denies; expanded lungs have volume, and may have any other finding."""
    if "opacity" in normal and {"expanded", "inflated", "aerated"} & set(cue):
        return ("low lung volume", "hyperinflation") if "normally" in cue else ("low lung volume",)
    return normal


def _refused(clause: Clause, cue: Mention) -> bool:
    """Return whether a normal cue is denied or limited: "not clear", "otherwise clear"."""
    nearby = clause.words[max(clause.start, cue.first - 2) : cue.first]
    return "not" in nearby or "nor" in nearby or "otherwise" in clause.words[max(0, cue.first - 8) : cue.first]


def _leads(clause: Clause, mention: Mention, after: list[Mention]) -> bool:
    """Return whether a property stands before its structure: "enlarged heart", "prominence of the hila"."""
    if not after:
        return False
    between = clause.words[mention.last : after[0].first]
    return len(between) <= 4 and {",", "and", "or", ";", "is", "are", "with"}.isdisjoint(between)


def _settled(stated: list[tuple[FindingSentence, _Stated]]) -> list[FindingSentence]:
    """Return each sentence once.

    A doubt about what is affirmed at the same place is dropped, and so is a weak denial of what is there.
    """
    places = {(s.finding, s.side, s.site) for s, _ in stated if s.polarity is Polarity.AFFIRMED}
    present = {s.finding for s, _ in stated if s.polarity is not Polarity.NEGATED}
    kept: dict[FindingSentence, None] = {}
    for sentence, item in stated:
        elsewhere = {(sentence.finding, sentence.side, sentence.site)}
        if item.inherited:
            elsewhere.add((sentence.finding, "", ""))
        if sentence.polarity is Polarity.UNCERTAIN and not elsewhere.isdisjoint(places):
            continue
        if item.weak and (
            sentence.finding in present or (sentence.finding == "opacity" and not present.isdisjoint(_WHITE))
        ):
            continue
        kept.setdefault(sentence)
    return list(kept)
