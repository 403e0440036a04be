"""Build a page that shows reports beside their finding-sentences and marks the words that state them."""

from collections.abc import Sequence
from typing import Any

from radzero._pages import render_page
from radzero.reports.sections import FILM_SECTIONS, Report, Section


def audit_page(title: str, pairs: Sequence[tuple[Report, dict[str, Any]]]) -> str:
    """Build a self-contained HTML page of reports and the output lines that an engine made of them.

    Args:
        title: title of the page.
        pairs: reports, each with its line of the output file.
    """
    reports = [_shown(report, record) for report, record in pairs]
    return render_page("radzero.reports", "audit.html.j2", title=title, reports=reports)


def _shown(report: Report, record: dict[str, Any]) -> dict[str, Any]:
    sentences, asides = record.get("sentences", []), record.get("set_aside", [])
    sections = []
    for section in report.sections:
        if section.text.strip():
            read = section.name in FILM_SECTIONS
            pieces = (
                _pieces(section, sentences, asides) if read else [{"text": section.text, "kind": "", "numbers": []}]
            )
            sections.append({"name": section.name, "read": read, "pieces": pieces})
    return {
        "name": report.name,
        "source": report.source,
        "sections": sections,
        "reason": record["reason"] if "error" in record else "",
        "sentences": sentences,
        "asides": asides,
        "merged": record.get("merged"),
    }


def _pieces(
    section: Section, sentences: Sequence[dict[str, Any]], asides: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Cut the section's text into pieces with one mark each, and the numbers of the sentences that end there.

    A character that several spans hold has the mark of the shortest.
    """
    text = section.text
    owner: list[str] = [""] * len(text)
    ends: dict[int, list[int]] = {}
    spans = [
        (s["start"], s["end"], s["polarity"], k) for k, s in enumerate(sentences, 1) if s["section"] == section.name
    ]
    spans += [(a["start"], a["end"], "aside", 0) for a in asides if a["section"] == section.name]
    spans.sort(key=lambda span: span[1] - span[0])  # short spans win over long ones around them
    for start, end, kind, number in spans:
        for k in range(start, min(end, len(text))):
            owner[k] = owner[k] or kind
        if number and end > start:
            ends.setdefault(end, []).append(number)
    pieces = []
    k = 0
    while k < len(text):
        stop = k + 1
        while stop < len(text) and owner[stop] == owner[k] and stop not in ends:
            stop += 1
        pieces.append({"text": text[k:stop], "kind": owner[k], "numbers": sorted(ends.get(stop, []))})
        k = stop
    return pieces
