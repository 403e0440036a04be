"""Find where a clause puts a finding: in the words beside it, after a preposition, or in the structure showing it."""

import re
from dataclasses import dataclass, replace

from radzero.reports.scanning import Clause, Mention
from radzero.reports.vocabulary import Vocabulary

_BREAKS = frozenset((
    ",", ";", ":", ".", "(", ")", "/", "and", "or", "with", "of", "in", "at", "is", "are", "no", "to", "for", "the",
    "from", "on", "by", "as", "than",
))  # fmt: skip

# Words after a comma that narrow a place, as in "opacity, predominantly at the base".
_NARROWING = frozenset((
    "including", "particularly", "especially", "predominantly", "mainly", "mostly", "greatest", "worst",
))  # fmt: skip
# Words before "of" that leave the place to what follows, as in "bibasilar areas of atelectasis".
_AMOUNTS = frozenset(("area", "region", "focus", "band", "patch", "component", "degree", "amount"))
# Parts of a structure, as in "fracture, proximal left humerus".
_PARTS = frozenset((
    "mid", "proximal", "distal", "lateral", "medial", "anterior", "posterior", "upper", "lower", "peripheral",
    "periphery",
))  # fmt: skip
_ORDINAL = re.compile(r"\d+|st|nd|rd|th")


@dataclass(frozen=True)
class Place:
    """Side and site of a finding; false when neither is known.

    Attributes:
        side: "left", "right", "bilateral" or "".
        site: the site as a finding-sentence writes it, or "".
        anatomy: the vocabulary's name of the structure, or "".
        first, last: indices of the words that state the place, ``last`` excluded; -1 when it is taken from elsewhere.
    """

    side: str = ""
    site: str = ""
    anatomy: str = ""
    first: int = -1
    last: int = -1

    def __bool__(self) -> bool:
        return bool(self.side or self.site)


def adjacent(words: list[str], end: int, start: int) -> bool:
    """Return whether ``words[end:start]`` are at most three words, all of which a noun phrase may hold."""
    return start - end <= 3 and _BREAKS.isdisjoint(words[end:start])


class PlaceFinder:
    """Find the places of findings with a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def places(self, clause: Clause, mention: Mention) -> list[Place]:
        """Return the places of a finding: several for "right upper and left lower lobe", one empty place for none."""
        before = self.gathered(clause.words, self._before(clause, mention))
        after = self.gathered(clause.words, self._after(clause, mention))
        device = mention.value("finding") in self.vocabulary.devices
        if before and (before[0].side if device else before[0].site and len(after) > 1):
            return before  # "left chest AICD with leads in the right atrium and ventricle"
        if len(before) > 1 or len(after) > 1:
            return before if len(before) > 1 else after
        one, other = (before or [Place()])[0], (after or [Place()])[0]
        if one.site and other:
            return [one if one.side or not other.side else replace(one, side=other.side, last=other.last)]
        if one.side and other.site and self.vocabulary.anatomy[other.anatomy].midline:
            return [one]  # "right PICC in the superior vena cava"
        if one.side and other.site:
            return [replace(other, side=other.side or one.side, first=one.first)]
        if other.site and not other.side and self.vocabulary.anatomy[other.anatomy].midline:
            subject = self._of_subject(clause, mention)  # "Left chest XXXX, catheter in the atrium"
            return [Place(subject.side, first=subject.first, last=subject.last) if subject.side else other]
        return [one or other or self._of_subject(clause, mention) or self._of_neighbour(clause, mention)]

    def _of_neighbour(self, clause: Clause, mention: Mention) -> Place:
        """Return the place that a finding shares with the one listed before it, or an empty place.

        In "right effusion with consolidation and atelectasis", the listed findings of lung and pleura share what stands
        before the first.
        """
        before = [m for m in clause.before(mention.first) if not m.is_a("descriptor")]
        if not before or not {before[-1].value("finding"), mention.value("finding")} <= self.vocabulary.explanations:
            return Place()
        words, joint = clause.words, before[-1].last
        if joint == mention.first:
            joint -= 1  # "left lower lobe atelectasis infiltrate"
        elif words[joint] == "," and ("and" in words[joint : clause.end] or any(m.is_a("show") for m in before)):
            joint += words[joint + 1 : joint + 2] == ["and"]
        elif words[joint] not in ("and", "or", "/", "with"):
            return Place()
        if not adjacent(words, joint + 1, mention.first):
            return Place()
        places = self.gathered(words, self._before(clause, before[-1]))
        if not places:
            return self._of_neighbour(clause, before[-1]) or self._of_subject(clause, before[-1])
        # in "left costophrenic angle blunting and effusion", the angle is the place of the blunting alone
        implied = places[0].anatomy in self.vocabulary.silent.get(before[-1].value("finding"), ())
        return Place(places[0].side) if implied else places[0]

    @staticmethod
    def _said_of_a_lung(before: list[Mention]) -> list[Mention]:
        """Return the side and the lung that are the subject of a statement, or nothing.

        Examples: "The right lung is hyperexpanded", "both lungs are free of infiltrates".
        """
        subject = [m for m in before if not m.is_a("verb", "negation", "descriptor")]
        if (
            len(subject) == 2
            and subject == before[:2]
            and subject[0].is_a("side")
            and subject[1].value("anatomy") == "lung"
            and before[2:]
            and before[2].is_a("verb", "negation")
        ):
            return subject
        return []

    @staticmethod
    def _introduces(clause: Clause, before: list[Mention], mention: Mention) -> bool:
        """Return whether a place and "with" stand before the finding: "the left upper lobe with scarring"."""
        places = [m for m in before if m.is_a("side") or m.is_structure]
        return bool(places) and "with" in clause.words[places[-1].last : mention.first]

    def _is_beside(self, mention: Mention) -> bool:
        """Return whether a term is a structure that lies on one side, or on both."""
        return mention.is_structure and not self.vocabulary.anatomy[mention.value("anatomy")].midline

    def gathered(self, words: list[str], chosen: list[Mention]) -> list[Place]:
        """Return the places of neighbouring side and anatomy terms; "and" or a comma begins another place."""
        groups: list[list[Mention]] = []
        for mention in chosen:
            between = words[groups[-1][-1].last : mention.first] if groups else []
            numbered = any(map(_ORDINAL.fullmatch, between))  # "right 7th and 8th rib"
            joined = groups and not numbered and {"and", "or", ",", "/"} & set(between)
            sided = groups and mention.is_a("side") and any(m.is_a("side") for m in groups[-1])
            if not groups or joined or sided:
                groups.append([])
            groups[-1].append(mention)
        places = [self._place(group) for group in groups]
        for k in range(len(places) - 2, -1, -1):  # "right and left lower lobe": both have the site
            if not places[k].site and places[k + 1].site:
                places[k] = replace(places[k], site=places[k + 1].site, anatomy=places[k + 1].anatomy)
        for k in range(1, len(places)):  # "left upper and lower lobe": both have the side
            last = places[k - 1]
            anatomy = self.vocabulary.anatomy.get(places[k].anatomy)
            if anatomy and not anatomy.midline and not places[k].side and last.site and last.side in ("left", "right"):
                places[k] = replace(places[k], side=last.side)
        distinct: list[Place] = []
        for place in places:
            if not any((place.side, place.site) == (d.side, d.site) for d in distinct):
                distinct.append(place)
        if (
            len(distinct) == 2
            and distinct[0].site == distinct[1].site
            and {d.side for d in distinct} == {"left", "right"}
        ):
            return [replace(distinct[0], side="bilateral", last=distinct[1].last)]
        return distinct

    def _place(self, group: list[Mention]) -> Place:
        side, site, anatomy = "", "", ""
        for mention in group:
            if value := mention.value("side"):
                side = value if not side or side == value else "bilateral"
            if name := mention.value("anatomy"):
                entry = self.vocabulary.anatomy[name]
                if entry.site and site in ("", "lung"):
                    site, anatomy = entry.site, name
                anatomy = anatomy or name
                side = side or entry.side
        return Place(side, site, anatomy, min(m.first for m in group), max(m.last for m in group))

    def _before(self, clause: Clause, mention: Mention) -> list[Mention]:
        """Return the terms before a finding that state its place.

        Examples: "left lower lobe patchy opacity", "mediastinal and left hilar adenopathy".
        """
        chosen: list[Mention] = []
        edge = mention.first
        for other in reversed(clause.before(mention.first)):
            between = clause.words[other.last : edge]
            plain = [word for word in between if not _ORDINAL.fullmatch(word)]  # "right 10th and left 9th rib fracture"
            listed = chosen and plain in (["and"], [","], [",", "and"], ["or"], ["/"]) and not other.is_a("finding")
            numbered = len(plain) < len(between) and {"and", ",", "through", "to"}.issuperset(plain)
            measured = len(between) > 1 and between[-2] in _AMOUNTS and between[-1] == "of"  # "bibasilar areas of"
            apart = between == [","] and other.value("side") == "bilateral"  # "right greater than left, opacities"
            if not (listed or numbered or measured or apart or adjacent(clause.words, other.last, edge)):
                break
            if clause.words[other.first : other.last] == ["to"]:
                if not any(m.last == other.first and m.is_a("descriptor") for m in clause.mentions):
                    break
                edge = other.first  # "moderate to large"
                continue
            if other.is_a("side") or other.is_structure:
                chosen.insert(0, other)
            elif listed or not other.is_a("descriptor", "property"):
                break
            edge = other.first
        return chosen

    def _after(self, clause: Clause, mention: Mention) -> list[Mention]:
        """Return the terms after a finding that state its place.

        Examples: "opacity is seen in the right upper lobe and at the left base", "granuloma, right base".
        """
        chosen: list[Mention] = []
        position, prepositions, joined = mention.last, 0, False
        beside = mention.last  # where a place without a preposition may stand: "opacity right base"
        while position < clause.end:
            other, word = clause.by_first.get(position), clause.words[position]
            if other is None:
                if word in (";", ":", ".") or (word in (",", "(", ")") and chosen):
                    break
                also = chosen and clause.words[position : position + 3] == ["as", "well", "as"]
                if also and not self._place_follows(clause, position + 3):
                    break
                if word == ",":
                    stands_for = self._past_comma(clause, position + 1, prepositions)
                    if stands_for is None:
                        break
                    prepositions += stands_for
                beside += word in _PARTS and position == beside
                if word in ("the", "with") and not chosen and self._slip(clause, position):
                    prepositions += 1  # "clips are seen the right upper quadrant", "AICD with the left chest wall"
                if chosen and word in ("and", "or", "/") and not self._place_follows(clause, position + 1):
                    break
                position += 1
                continue
            if other.is_a("place"):
                prepositions += 1
            elif other.is_a("finding"):
                # "atelectasis and scarring in the left base": both have the place
                if prepositions or not (joined or {"and", "or", "/", ","} & set(clause.words[mention.last : position])):
                    break
                beside = other.last
            elif not chosen and (other.is_a("certainty") or clause.words[other.first] in ("versus", "vs")):
                joined = True  # "nodules consistent with granulomas bilaterally"
            elif other.is_a("side") and not prepositions and self._of_the_next(clause, other):
                break  # "low volumes, bilateral effusions"
            elif position == beside and self._sided_place(clause, position):
                prepositions += 1
                chosen.append(other)
            elif other.value("side") == "bilateral" or (prepositions and other.is_a("side", "anatomy")):
                chosen.append(other)
            elif not (other.is_a("verb", "descriptor", "property") or self._both_of(clause, mention, other)):
                break
            position = other.last
        return chosen

    def _past_comma(self, clause: Clause, start: int, prepositions: int) -> int | None:
        """Return how many prepositions a comma stands for; None where it ends the statement about the finding."""
        if not _NARROWING.isdisjoint(clause.words[start : start + 1]):
            return 1
        if not prepositions and self._only_a_place(clause, start):
            return 1
        term = clause.by_first.get(start)
        then = clause.by_first.get(term.last) if term and term.is_a("descriptor") else None
        if then and then.is_a("place"):
            return 0  # "atelectasis, platelike in the right upper lobe"
        if "seen" in clause.words[start : start + 2] and not prepositions:
            return 0  # "thickening, best seen in the left upper lobe"
        return 0 if {"and", "or"} & set(clause.words[start : min(clause.end, start + 5)]) else None

    @staticmethod
    def _both_of(clause: Clause, mention: Mention, structure: Mention) -> bool:
        """Return whether a structure and "bilateral" follow the finding: "hyperexpanded lungs bilaterally"."""
        side = clause.by_first.get(structure.last)
        return (
            structure.is_structure
            and structure.first == mention.last
            and side is not None
            and side.value("side") == "bilateral"
        )

    @staticmethod
    def _of_the_next(clause: Clause, side: Mention) -> bool:
        """Return whether a side begins the statement of another finding."""
        then = next(
            (m for m in clause.after(side.last) if not m.is_a("descriptor", "anatomy") or m.is_a("finding")), None
        )
        return then is not None and then.is_a("finding") and adjacent(clause.words, side.last, then.first)

    @staticmethod
    def _place_follows(clause: Clause, position: int) -> bool:
        preposition = clause.by_first.get(position)
        if preposition is not None and preposition.is_a("place"):
            position = preposition.last
        other = clause.by_first.get(position) or clause.by_first.get(position + 1)
        if other is None or other.is_a("finding") or not (other.is_a("side") or other.is_structure):
            return False
        return not PlaceFinder._of_the_next(clause, other)

    @staticmethod
    def _slip(clause: Clause, position: int) -> bool:
        """Return whether "the", a side and a structure end the statement, so that their preposition is missing."""
        position += clause.words[position : position + 2] == ["with", "the"]
        side = clause.by_first.get(position + 1)
        if clause.words[position] != "the" or side is None or not side.is_a("side"):
            return False
        structure = clause.by_first.get(side.last)
        return (
            structure is not None
            and structure.is_structure
            and not any(m.is_a("verb", "show", "normal", "property", "finding") for m in clause.after(structure.last))
        )

    @staticmethod
    def _only_a_place(clause: Clause, position: int) -> bool:
        start = position
        while position < clause.end and clause.words[position] not in (",", ";", ".", "and"):
            other = clause.by_first.get(position)
            if other is None and clause.words[position] in _PARTS:
                position += 1
                continue
            if other is None or other.is_a("finding") or not other.is_a("side", "anatomy"):
                return False
            position = other.last
        return position > start

    @staticmethod
    def _sided_place(clause: Clause, position: int) -> bool:
        """Return whether a place stands here: a side and its structure, about which nothing is stated."""
        terms = [m for m in clause.after(position) if not m.is_a("descriptor")]
        if len(terms) < 2 or not terms[0].is_a("side") or not terms[1].is_structure:
            return terms[:1] != [] and PlaceFinder._only_a_place(clause, position)
        apart = clause.words[terms[1].last : terms[1].last + 1] == ["with"]
        return apart or not (terms[2:] and terms[2].is_a("normal", "verb", "show"))

    def _of_subject(self, clause: Clause, mention: Mention) -> Place:
        """Return the place that the subject or the beginning of the clause states, or an empty place.

        Examples: "The left base shows opacity", "left base irregularity compatible with scarring", "In the right upper
        lobe there is a nodule", "Left chest XXXX with a catheter tip in the atrium".
        """
        before = clause.before(mention.first)
        shows = [m for m in before if m.is_a("show")]
        explains = [m for m in before if m.is_a("certainty", "uncertainty")]
        chosen: list[Mention] = []
        if findings := [m for m in before if m.is_a("finding")]:
            # after another finding, only words behind a comma can have a subject of their own
            if "," not in clause.words[findings[-1].last : mention.first]:
                return Place()
            comma = clause.words.index(",", findings[-1].last)
            before, shows = [m for m in before if m.first > comma], []
            explains = [m for m in explains if m.first > comma]
        if shows:
            chosen = [
                m
                for m in before
                if m.last <= shows[-1].first and (m.is_a("side") or m.is_structure) and not m.is_a("finding")
            ]
        elif explains and mention.value("finding") in self.vocabulary.explanations:
            chosen = [m for m in before if m.last <= explains[0].first and (m.is_a("side") or self._is_beside(m))]
        elif mention.value("finding") in self.vocabulary.explanations and self._introduces(clause, before, mention):
            chosen = [m for m in before if m.is_a("side") or self._is_beside(m)]
        elif before and before[0].is_a("place") and before[0].first == clause.start:
            for other in before[1:]:
                if other.is_a("side", "anatomy"):
                    chosen.append(other)
                elif not other.is_a("place"):
                    break
        elif said := self._said_of_a_lung(before):
            chosen = said
        elif before and all(m.is_a("side", "verb") or m.is_structure for m in before):
            chosen = [m for m in before if m.is_a("side") or m.is_structure]
            if not chosen or "xxxx" not in clause.words[chosen[-1].first : chosen[-1].last + 1]:
                return Place()
        return (self.gathered(clause.words, chosen) or [Place()])[0]
