"""Cut reports into sections, and tell those that describe the film from the others, which must not be mixed in."""

import re
from dataclasses import dataclass

FILM_SECTIONS = ("findings", "impression", "addendum")
"""Sections that describe the film."""

_HEADINGS: dict[str, str] = {
    "findings": (
        r"findings?|report|observations?|description|radiographic findings|discussion|results?|body of report|"
        r"chest findings"
    ),
    "impression": (
        r"impressions?|conclusions?|opinion|summary|interpretation|assessment|imp|final impression|diagnosis|"
        r"radiologic(?:al)? diagnosis|findings? ?(?:/|and|&) ?impressions?|impression ?(?:/|and|&) ?findings?"
    ),
    "addendum": r"addendum",
    "indication": (
        r"indications?|clinical indications?|"
        r"reason(?: for (?:the )?(?:exam(?:ination)?|study|test|procedure))?|"
        r"(?:clinical |medical |patient |relevant |brief )?history|(?:clinical )?information|"
        r"clinical (?:data|details|question|statement|background)|"
        r"symptoms?|presenting complaint|chief complaint|history and indication|admitting diagnosis|"
        r"signs? ?/? ?symptoms?|indications? for (?:the )?(?:exam|study)"
    ),
    "comparison": (
        r"comparisons?(?: (?:study|studies|films?|exams?|examinations?|radiographs?))?|"
        r"prior (?:stud(?:y|ies)|exams?)|compared? (?:to|with)"
    ),
    "technique": (
        r"techniques?|procedures?(?: comments?)?|exam(?:ination)?s?|stud(?:y|ies)|views?|protocol|"
        r"type of exam|exam type|number of views|"
        r"image quality|quality|contrast|radiation dose|dose|positioning|limitations?"
    ),
    "recommendation": r"recommendations?|advice|plan|follow[- ]?up|notifications?|communications?|critical results?",
    "wet read": r"wet read|preliminary (?:report|read)|prelim(?:inary)?",
    "administrative": (
        r"(?:date|time)s?(?: of (?:exam(?:ination)?|study|service))?|accession(?: (?:no|number))?|mrn|"
        r"patient(?: name| id)?|name|age|sex|gender|dob|"
        r"(?:attending|referring|ordering|requesting)(?: physician| clinician)?|physician|radiologist|"
        r"dictated(?: by)?|transcribed(?: by)?|signed(?: by)?|electronically signed(?: by)?|"
        r"final report|location|department|institution|order|page|cc|"
        r"approved by|read by|reported by|verified by|reviewed by"
    ),
}
_KNOWN = re.compile(
    "|".join(f"(?P<{name.replace(' ', '_')}>{pattern})" for name, pattern in _HEADINGS.items()), re.IGNORECASE
)
_BODY_PART = re.compile(
    r"\b(?:lungs?|heart|cardi\w+|pleura\w*|bones?|osseous|skelet\w+|mediastin\w+|hil(?:a|um|ar)|airways?|trachea|"
    r"diaphragms?|lines?|tubes?|devices?|support|hardware|catheters?|abdomen|soft tissues?|vascul\w+|thorax|ribs?|"
    r"spine|other|musculoskeletal|aorta|great vessels|chest wall|neck)\b",
    re.IGNORECASE,
)
_VIEW = re.compile(
    r"\b(?:chest|views?|portable|ap|pa|lateral|radiographs?|frontal|x-?rays?|upright|supine|cxr|films?)\b",
    re.IGNORECASE,
)
# A heading stands at the beginning of a line, alone on it or with a colon, or after a sentence, with a colon.
_LINE_HEADING = re.compile(
    r"(?m)^[ \t]*(?:[*#_]+[ \t]*)?(?P<name>[A-Za-z][A-Za-z0-9 ,/&()'-]{0,70}?)[*_]*[ \t]*(?::[*_]*|$)(?![0-9])"
)
_INLINE_HEADING = re.compile(r"(?:(?<=[.:;?!]\s)|(?<=[.:;]\s\s))(?P<name>[A-Z][A-Za-z ]{2,40}?)[ \t]*:(?![0-9])")


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: name in lower case: "findings", "impression", "indication", ...
        text: text under the heading.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Report:
    """A radiology report.

    Attributes:
        name: name of the report in its source.
        sections: sections in their order.
        source: the file, and the member or line of it, that it was read from.
    """

    name: str
    sections: tuple[Section, ...]
    source: str = ""

    @property
    def film_sections(self) -> tuple[Section, ...]:
        """Sections that describe the film and hold text."""
        return tuple(section for section in self.sections if section.name in FILM_SECTIONS and section.text.strip())

    @classmethod
    def from_text(cls, name: str, text: str, source: str = "") -> "Report":
        """Make a report from its full text, cut at its headings; one without headings is all findings."""
        return cls(name, tuple(cut_sections(text)), source)


def heading_name(heading: str) -> str | None:
    """Return the section that a heading begins; None when the heading is not known."""
    heading = " ".join(heading.split())
    match = _KNOWN.fullmatch(heading)
    if match and match.lastgroup:
        return match.lastgroup.replace("_", " ")
    return None


def cut_sections(text: str) -> list[Section]:
    """Cut a report at its headings.

    Known headings count with a colon wherever a line or sentence begins, in capitals or not. Alone on their line, they
    count in capitals; findings, impression, indication, comparison and technique count there in any case. A heading in
    capitals that names views ("PA AND LATERAL CHEST:") begins findings, unless a section that describes the film came
    before; one that names a part of the body ("LUNGS:") stays in the section that it is in; any other begins a section
    of its own that does not describe the film. Where no section describes the film, the findings are the paragraphs
    after the first of each section, and the text before the first heading if it has more than 8 words.
    """
    marks: list[tuple[int, int, str]] = []  # start of heading, start of body, section
    for match in sorted([*_LINE_HEADING.finditer(text), *_INLINE_HEADING.finditer(text)], key=lambda m: m.start()):
        raw = match["name"].strip()
        with_colon = ":" in match[0]
        known = heading_name(raw)
        capitals = raw.upper() == raw and any(c.isalpha() for c in raw)
        if known is not None:
            if (
                not with_colon
                and not capitals
                and raw.lower() not in ("findings", "impression", "indication", "comparison", "technique")
            ):
                continue
            name = known
        elif with_colon and capitals and len(raw) > 2:
            if _BODY_PART.search(raw) and not _VIEW.search(raw):
                continue
            name = "findings" if _VIEW.search(raw) else raw.lower()
            if name == "findings" and any(mark[2] in FILM_SECTIONS for mark in marks):
                continue
        else:
            continue
        if marks and match.start() < marks[-1][1]:
            continue
        marks.append((match.start(), match.end(), name))
    if not marks:
        return [Section("findings", text.strip())] if text.strip() else []
    sections = [Section("preamble", text[: marks[0][0]].strip())] if text[: marks[0][0]].strip() else []
    for (_, body, name), following in zip(marks, [*marks[1:], (len(text), 0, "")], strict=True):
        sections.append(Section(name, text[body : following[0]].strip()))
    if not any(section.name in FILM_SECTIONS and section.text for section in sections):
        sections = [part for section in sections for part in _unheaded(section)]
    return sections


def _unheaded(section: Section) -> list[Section]:
    """Return a section with its first paragraph alone, and its other paragraphs as findings."""
    paragraphs = re.split(r"\n[ \t]*\n", section.text, maxsplit=1)
    if section.name == "preamble":
        return [Section("findings", section.text)] if len(section.text.split()) > 8 else [section]
    if len(paragraphs) == 1:
        return [section]
    return [Section(section.name, paragraphs[0]), Section("findings", paragraphs[1].strip())]
