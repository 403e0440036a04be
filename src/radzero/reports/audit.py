"""Build a page that shows reports beside their finding-sentences and marks the words that state them."""

import html
from collections.abc import Sequence
from typing import Any

from radzero.reports.sections import FILM_SECTIONS, Report, Section

_STYLE = """
:root {
  --affirmed: #c8502a; --uncertain: #a77b00; --negated: #2f6f9f;
  --ink: #1d2328; --faint: #69747d; --line: #d9dee2;
}
* { box-sizing: border-box; }
body {
  font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  margin: 0 auto; max-width: 1180px; padding: 24px; background: #fff;
}
h1 { font-size: 22px; margin: 0 0 4px; }
h2 { font-size: 16px; margin: 0; }
p.lead { color: var(--faint); margin: 0 0 20px; }
article {
  border-top: 1px solid var(--line); padding: 18px 0;
  display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 8px 32px;
}
article h2 { grid-column: 1 / -1; }
.source {
  color: var(--faint); font-weight: normal; font-size: 13px;
  margin-left: 8px; overflow-wrap: anywhere;
}
h3 {
  font-size: 12px; letter-spacing: .06em; text-transform: uppercase;
  color: var(--faint); margin: 10px 0 2px;
}
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.other { color: var(--faint); }
mark { background: none; color: inherit; border-bottom: 2px solid var(--line); padding-bottom: 1px; }
mark.affirmed { border-color: var(--affirmed); background: #fbece6; }
mark.uncertain { border-color: var(--uncertain); background: #fbf4dd; }
mark.negated { border-color: var(--negated); background: #e8f1f8; }
mark.aside { border-color: #666; background: #eee; }
sup { font-size: 10px; color: var(--faint); margin-left: 1px; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 26px 84px 1fr; padding: 2px 0; }
li .n { color: var(--faint); font-size: 12px; padding-top: 2px; }
li .p { font-size: 12px; padding-top: 2px; font-weight: 600; }
.p.affirmed { color: var(--affirmed); }
.p.uncertain { color: var(--uncertain); }
.p.negated { color: var(--negated); }
.aside-list { color: var(--faint); font-size: 13px; margin-top: 8px; }
@media (max-width: 760px) { article { grid-template-columns: 1fr; } }
"""


def audit_page(title: str, pairs: Sequence[tuple[Report, dict[str, Any]]]) -> str:
    """Build a self-contained HTML page of reports and the output lines that an engine made of them.

    Args:
        title: title of the page.
        pairs: reports, each with its line of the output file.
    """
    body = "\n".join(_article(report, record) for report, record in pairs)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>\n'
        f"<h1>{html.escape(title)}</h1>\n"
        '<p class="lead">Every report beside its finding-sentences. '
        "The marked words state the sentence of the same number: "
        '<mark class="affirmed">affirmed</mark>, <mark class="uncertain">uncertain</mark>, '
        '<mark class="negated">negated</mark>, <mark class="aside">set aside</mark>. '
        "Grey text does not describe the film and is not read.</p>\n"
        f"{body}\n</body></html>\n"
    )


def _article(report: Report, record: dict[str, Any]) -> str:
    sentences = record.get("sentences", [])
    asides = record.get("set_aside", [])
    parts = [f'<h2>{html.escape(report.name)}<span class="source">{html.escape(report.source)}</span></h2>', "<div>"]
    for section in report.sections:
        if not section.text.strip():
            continue
        parts.append(f"<h3>{html.escape(section.name)}</h3>")
        if section.name in FILM_SECTIONS:
            parts.append(f'<div class="text">{_marked(section, sentences, asides)}</div>')
        else:
            parts.append(f'<div class="text other">{html.escape(section.text)}</div>')
    parts.append("</div><div>")
    if "error" in record:
        parts.append(f"<p>{html.escape(record['reason'])}</p>")
    parts.append("<h3>Finding-sentences</h3>")
    parts.append(
        "<ol>" + "".join(_item(k, s) for k, s in enumerate(sentences, 1)) + "</ol>" if sentences else "<p>none</p>"
    )
    if asides:
        listed = "".join(f"<div>“{html.escape(a['text'])}”: {html.escape(a['reason'])}</div>" for a in asides)
        parts.append(f'<div class="aside-list"><h3>Set aside</h3>{listed}</div>')
    if merged := record.get("merged"):
        parts.append(f'<div class="aside-list">{merged} further mentions say the same</div>')
    return f"<article>{''.join(parts)}</div></article>"


def _item(number: int, sentence: dict[str, Any]) -> str:
    polarity = sentence["polarity"]
    return (
        f'<li><span class="n">{number}</span><span class="p {polarity}">{polarity}</span>'
        f"<span>{html.escape(sentence['text'])}</span></li>"
    )


def _marked(section: Section, sentences: Sequence[dict[str, Any]], asides: Sequence[dict[str, Any]]) -> str:
    """Return the section's text as HTML, with the words of sentences marked and followed by the sentences' numbers.

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
    out: list[str] = []
    k = 0
    while k < len(text):
        stop = k + 1
        while stop < len(text) and owner[stop] == owner[k] and stop not in ends:
            stop += 1
        piece = html.escape(text[k:stop])
        out.append(f'<mark class="{owner[k]}">{piece}</mark>' if owner[k] else piece)
        if stop in ends:
            out.append(f"<sup>{','.join(map(str, sorted(ends[stop])))}</sup>")
        k = stop
    return "".join(out)
