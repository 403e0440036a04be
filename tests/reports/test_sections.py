"""Sections and sentences of reports in every shape that people have."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radzero.reports.sections import Report, cut_sections
from radzero.reports.splitting import sentence_spans


def film_text(text: str) -> str:
    return " | ".join(section.text for section in Report.from_text("r", text).film_sections)


MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with ?pleural effusion  // eval for pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 Cardiac size is normal.  The lungs are
 clear.  There is no pneumothorax.

 IMPRESSION:

 No acute cardiopulmonary process.
"""


def test_a_mimic_report():
    sections = {s.name: s.text for s in cut_sections(MIMIC)}
    assert sections["findings"] == "Cardiac size is normal.  The lungs are\n clear.  There is no pneumothorax."
    assert sections["impression"] == "No acute cardiopulmonary process."
    assert "pneumonia" in sections["indication"]
    assert "pneumonia" not in film_text(MIMIC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lungs are clear. No effusion.", "Lungs are clear. No effusion."),
        ("HISTORY: Cough, pneumonia? FINDINGS: Lungs are clear. IMPRESSION: Normal.", "Lungs are clear. | Normal."),
        ("Indication: fever. Findings: Clear. Conclusion: Normal chest.", "Clear. | Normal chest."),
        ("FINDINGS/IMPRESSION: Clear lungs.", "Clear lungs."),
        ("IMPRESSION\nNo pneumothorax.", "No pneumothorax."),
        ("**FINDINGS:** Clear.\n**IMPRESSION:** Normal.", "Clear. | Normal."),
        ("PA AND LATERAL CHEST:\nLungs are clear.\nRECOMMENDATION: CT for the nodule.", "Lungs are clear."),
        ("REASON FOR EXAM: rule out pneumonia\n\nPORTABLE AP CHEST: Small effusion.", "Small effusion."),
        (
            "FINDINGS:\nLUNGS: Clear.\nHEART: Normal size.\nIMPRESSION: Normal.",
            "LUNGS: Clear.\nHEART: Normal size. | Normal.",
        ),
        (
            "CLINICAL HISTORY: Cancer.\n\nThe lungs are clear. There is no effusion.",
            "The lungs are clear. There is no effusion.",
        ),
        ("WET READ: ?pneumothorax\nFINDINGS: No pneumothorax.", "No pneumothorax."),
        ("COMPARISON: CT with nodule.\nFINDINGS: Clear at 10:30 AM.", "Clear at 10:30 AM."),
        ("TECHNIQUE: AP. FINDINGS: There is one problem: a nodule.", "There is one problem: a nodule."),
        ("INDICATION: pneumothorax?", ""),
        ("", ""),
    ],
)
def test_headings(text: str, expected: str):
    assert film_text(text) == expected


def test_nothing_leaks_in_from_around():
    text = (
        "INDICATION: effusion\n"
        "TECHNIQUE: two views, pneumothorax protocol\n"
        "COMPARISON: film with mass\n"
        "IMPRESSION: Normal."
    )
    assert film_text(text) == "Normal."


def sentences(text: str) -> list[str]:
    return [text[a:b] for a, b in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Heart is normal. Lungs are clear.", ["Heart is normal", "Lungs are clear"]),
        ("1. Cardiomegaly. 2. Small effusion.", ["Cardiomegaly", "Small effusion"]),
        ("1) Cardiomegaly 2) Effusion", ["Cardiomegaly 2) Effusion"]),
        ("- Cardiomegaly\n- Effusion", ["Cardiomegaly", "Effusion"]),
        ("A 1.5 cm nodule. Clear.", ["A 1.5 cm nodule", "Clear"]),
        ("Dr. Smith was notified. Clear.", ["Dr. Smith was notified", "Clear"]),
        ("Atelectasis vs. pneumonia at the base.", ["Atelectasis vs. pneumonia at the base"]),
        ("The lungs are\nclear. No\n effusion.", ["The lungs are\nclear", "No\n effusion"]),
        ("Clear lungs\n\nNo effusion", ["Clear lungs", "No effusion"]),
        ("Heart is normal.Lungs are clear.", ["Heart is normal", "Lungs are clear"]),
        ("No effusion at 7 p.m. on the film. Clear.", ["No effusion at 7 p.m. on the film", "Clear"]),
        ("XXXX. Clear.", ["XXXX", "Clear"]),
        (". . .", []),
    ],
)
def test_splitting(text: str, expected: list[str]):
    assert [s.rstrip(".") for s in sentences(text)] == expected


@given(st.text(alphabet="ab .,;:\n-1)X(AB.", max_size=120))
def test_spans_are_ordered_and_lose_no_word(text: str):
    spans = list(sentence_spans(text))
    assert all(a < b for a, b in spans)
    assert all(x[1] <= y[0] for x, y in pairwise(spans))
    kept = "".join(text[a:b] for a, b in spans)
    assert sorted(c for c in kept if c.isalpha()) == sorted(c for c in text if c.isalpha())
