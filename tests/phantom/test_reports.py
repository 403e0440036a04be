"""Reports of phantoms: every gold sentence is true of its film, the text says no more, and the English holds."""

import dataclasses
import re
from functools import lru_cache

import numpy as np
import pytest

from radzero.phantom.film import Evidence, Film, make_film
from radzero.phantom.findings import DEVICES, FINDINGS, Finding, Grade, sample_findings
from radzero.phantom.reports import Report, write_report
from radzero.phantom.sentences import (
    SYNONYMS,
    FindingSentence,
    Polarity,
    finding_sentence,
    holds,
    training_sentences,
)

COUNT = 400
LUNG_FINDINGS = {
    *("atelectasis", "calcification", "consolidation", "pulmonary edema", "fibrosis", "mass", "nodule", "emphysema")
}
IMPLIED = {"pulmonary congestion": {"pulmonary edema"}, "lung opacity": LUNG_FINDINGS}
"""Names that only negations use, and the findings whose presence would make the negation untrue."""
CHANGES = re.compile(
    r"unchanged|stable since the prior study|slightly increased|new since the prior examination|improved|again seen"
)
NEGATION = re.compile(r"^(?:There is no evidence of|There is no|No evidence of|Negative for|No) (.+)\.$")
TEMPLATE = re.compile(
    r"There (?:is no|may be|is) (?:(?:right|left|bilateral) )?[a-z ]+?"
    r"(?: in the (?:right|left) (?:upper|mid|lower) lung zone)?"
)
REPORTED_NAMES = {"focal consolidation": "consolidation", "pulmonary mass": "mass", "pulmonary nodule": "nodule"}


@lru_cache(maxsize=1)
def canvas() -> Film:
    return make_film(31, 0, size=72, findings=())


def film_of(index: int, findings: tuple[Finding, ...] | None = None) -> Film:
    """A film by its plan alone: reports look at no pixel, so none is drawn."""
    planned = sample_findings(np.random.default_rng([31, index])) if findings is None else findings
    blank = np.zeros((72, 72), dtype=bool)
    return dataclasses.replace(
        canvas(), seed=31, index=index, evidence=tuple(Evidence(finding, blank, ()) for finding in planned)
    )


@lru_cache(maxsize=1)
def dictated() -> list[tuple[Film, Report]]:
    return [(film, write_report(film)) for film in map(film_of, range(COUNT))]


def statements(section: str) -> list[str]:
    return re.split(r"(?<=\.) (?=[A-Z0-9])", section)


# -- truth -----------------------------------------------------------------------------------------


def test_gold_sentences_are_true_and_complete():
    for film, report in dictated():
        present = {finding.name: finding for finding in film.findings}
        stated = [s for s in report.gold if s.polarity is not Polarity.NEGATED]
        assert {(s.finding, s.side, s.zone) for s in stated} == {(f.name, f.side, f.zone) for f in film.findings}
        for sentence in stated:
            if sentence.polarity is Polarity.UNCERTAIN:
                assert present[sentence.finding].grade is not Grade.PLAIN
                assert sentence.finding in FINDINGS
        for sentence in report.gold:
            if sentence.polarity is Polarity.NEGATED:
                untrue = IMPLIED.get(sentence.finding, {sentence.finding})
                assert not untrue & set(present), (film.index, sentence)
                assert sentence.finding in {*FINDINGS, *IMPLIED}
        assert len(set(report.gold)) == len(report.gold)
        assert len({s.text for s in report.gold}) == len(report.gold)
        assert len({s.finding for s in report.gold}) == len(report.gold), "one finding, two polarities"


def test_what_the_text_negates_is_what_the_gold_negates():
    checked = 0
    for film, report in dictated():
        negated = {s.finding for s in report.gold if s.polarity is Polarity.NEGATED}
        for statement in statements(report.findings):
            if match := NEGATION.match(statement):
                names = {REPORTED_NAMES.get(n, n) for n in re.split(r", | or ", match[1])}
                assert names <= negated, (film.index, statement)
                assert names <= set(FINDINGS)
                checked += 1
    assert checked > COUNT / 2


def test_the_text_says_where_things_are():
    for film, report in dictated():
        said = report.findings.lower()
        for finding in film.findings:
            if finding.zone:
                assert f"{finding.side} {finding.zone} lung zone" in said
            elif finding.side == "bilateral":
                assert "bilateral" in said or "both" in said
            elif finding.side:
                assert re.search(rf"\b{finding.side}\b", said)
        sides = {f.side for f in film.findings}
        for side in ("right", "left"):
            # the ventricle of the pacemaker's lead is no side
            if side not in sides and not any(f.name == "pacemaker" for f in film.findings):
                assert not re.search(rf"\b{side}\b", said), (film.index, side, report.findings)


def test_the_impression_repeats_what_the_findings_state():
    for film, report in dictated():
        main = [s for s in report.gold if s.polarity is not Polarity.NEGATED and s.finding in FINDINGS]
        if not film.findings:
            assert report.impression == "Normal chest radiograph."
        elif film.is_normal:
            assert report.impression == "Satisfactory position of support devices."
        else:
            lines = re.split(r"\d\. ", report.impression)[1:] if len(main) > 1 else [report.impression]
            assert len(lines) == min(3, len(main))
            for sentence, line in zip(main, lines, strict=False):
                assert sentence.finding in line.lower()
                assert (sentence.polarity is Polarity.UNCERTAIN) == line.startswith("Possible")
                assert not sentence.zone or f"{sentence.side} {sentence.zone} lung zone" in line
                assert not sentence.side or sentence.side in line.lower()


def test_gold_is_in_the_order_of_first_mention():
    mixed = 0
    for film, report in dictated():
        order = []
        for sentence in report.gold:
            if sentence.polarity is Polarity.NEGATED and sentence.finding in FINDINGS:
                names = [sentence.finding, *(r for r, n in REPORTED_NAMES.items() if n == sentence.finding)]
                places = [
                    report.findings.find(statement)
                    for statement in statements(report.findings)
                    for match in [NEGATION.match(statement)]
                    if match and set(re.split(r", | or ", match[1])) & set(names)
                ]
                order += places[:1]  # "The ribs are intact." names no finding
        assert order == sorted(order), (film.index, report.findings, report.gold)
        mixed += len(set(order)) > 1
    assert mixed > 5


def test_a_plan_is_reported_with_its_place():
    film = film_of(0, (Finding("nodule", Grade.PLAIN, "left", "upper"), Finding("pacemaker", side="right")))
    report = write_report(film)
    assert FindingSentence(Polarity.AFFIRMED, "nodule", "left", "upper") in report.gold
    assert FindingSentence(Polarity.AFFIRMED, "pacemaker", "right") in report.gold
    assert not any(s.finding == "nodule" and s.polarity is Polarity.NEGATED for s in report.gold)


# -- form ------------------------------------------------------------------------------------------


def test_sentences_follow_the_three_templates():
    opening = {Polarity.AFFIRMED: "There is ", Polarity.UNCERTAIN: "There may be ", Polarity.NEGATED: "There is no "}
    for _, report in dictated():
        for sentence in report.gold:
            assert TEMPLATE.fullmatch(sentence.text), sentence.text
            assert sentence.text.startswith(opening[sentence.polarity] + (sentence.side or "") * (not sentence.zone))
            if sentence.polarity is Polarity.AFFIRMED:
                assert not sentence.text.startswith("There is no ")


@pytest.mark.parametrize(
    ("finding", "polarity", "text"),
    [
        (Finding("cardiomegaly"), Polarity.AFFIRMED, "There is cardiomegaly"),
        (Finding("cardiomegaly"), Polarity.NEGATED, "There is no cardiomegaly"),
        (Finding("pleural effusion", side="bilateral"), Polarity.AFFIRMED, "There is bilateral pleural effusion"),
        (Finding("pneumothorax", side="left"), Polarity.UNCERTAIN, "There may be left pneumothorax"),
        (
            Finding("nodule", side="right", zone="mid"),
            Polarity.AFFIRMED,
            "There is nodule in the right mid lung zone",
        ),
    ],
)
def test_text_of_a_sentence(finding: Finding, polarity: Polarity, text: str):
    assert finding_sentence(finding, polarity).text == text


def test_sections_have_headings_and_bodies():
    for film, report in dictated():
        headings = re.findall(r"^([A-Z]+): (.*)$", report.text, flags=re.MULTILINE)
        names = [name for name, _ in headings]
        assert names == ["INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"]
        assert all(body.strip() and body.endswith(".") for _, body in headings)
        assert report.text.endswith(".\n")
        assert film.body.projection in report.technique
        bare = dataclasses.replace(report, indication="", comparison="")
        assert "INDICATION" not in bare.text
        assert "COMPARISON" not in bare.text


def test_comparisons_occur_and_only_with_something_to_compare_with():
    compared = [report for _, report in dictated() if CHANGES.search(report.findings)]
    assert len(compared) > COUNT / 20
    assert {m for r in compared for m in CHANGES.findall(r.findings)} == set(CHANGES.pattern.split("|"))
    assert not any(report.comparison in ("None.", "No prior films.") for report in compared)
    assert {"None.", "No prior films."} <= {report.comparison for _, report in dictated()}
    assert not any(CHANGES.search(s.text) for _, report in dictated() for s in report.gold)


def test_reports_are_the_same_for_the_same_film():
    for index in (0, 7, 19):
        film = film_of(index)
        assert write_report(film) == write_report(film)
        others = {write_report(film, np.random.default_rng(k)).text for k in range(8)}
        assert len(others) > 1, "another rng dictates otherwise"
    assert len({report.text for _, report in dictated()}) > 0.9 * COUNT


def test_grammar():
    """Smoke: the mistakes that templates make."""
    wrong = re.compile(
        r"  |\bNone\b|\b[Aa]n? (?:bilateral pleural effusions|both)|\b[Aa] [aeio]|\b[Aa]n [^aeio]"
        r"|(?<![.] )(?<!^)\b(?:Bilateral|Right|Left|Large|Small|Extensive|Subtle|Moderate)\b"
        r"|\bbilateral (?:lung )?base\b|effusions is|effusion are|[{}]| [,.]|\.\.|, ,"
    )
    for _, report in dictated():
        for statement in statements(report.findings):
            assert statement.endswith("."), statement
            assert statement[0].isupper(), statement
            assert not wrong.search(statement), statement
        for line in (report.impression, report.indication, report.technique):
            assert line.endswith(".")
            assert line[0].isupper() or line[0].isdigit()
            assert "  " not in line


@pytest.mark.parametrize("grade", list(Grade))
@pytest.mark.parametrize("side", ["right", "left", "bilateral"])
def test_grammar_of_every_effusion(side: str, grade: Grade):
    """The finding with the most templates to agree in number."""
    film = film_of(1, (Finding("pleural effusion", grade, side),))
    for k in range(60):
        for statement in statements(write_report(film, np.random.default_rng(k)).findings):
            assert not re.search(r"[a-z] Bilateral|effusions is|effusion are|an? bilateral.*effusions", statement)


# -- training sentences ------------------------------------------------------------------------------


def test_training_sentences_are_true():
    canonical = {name: name for name in (*FINDINGS, *DEVICES)}
    canonical |= {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms}
    names = "|".join(sorted(map(re.escape, canonical), key=len, reverse=True))
    form = re.compile(
        rf"(There is no|There may be|There is) (?:(right|left|bilateral) )?({names})"
        rf"(?: in the (right|left) (upper|mid|lower) lung zone)?"
    )
    polarities = set()
    for index in range(COUNT):
        findings = film_of(index).findings
        present = {f.name: f for f in findings}
        sentences = [s.text for s in training_sentences(findings, np.random.default_rng(index), (2, 6))]
        assert len(set(sentences)) == len(sentences)
        named = set()
        for text in sentences:
            match = form.fullmatch(text)
            assert match, text
            opening, side, name, zone_side, zone = match.groups()
            finding, side = present.get(canonical[name]), side or zone_side
            polarities.add(opening)
            if opening == "There is no":
                assert finding is None or (side and finding.side != side and finding.side != "bilateral"), text
            else:
                assert finding is not None, text
                assert side in (None, finding.side), text
                assert zone in (None, finding.zone), text
                named.add(canonical[name])
                if opening == "There may be":
                    assert finding.grade is Grade.SUBTLE
        assert named == set(present), "every finding is stated"
        assert 1 <= sum(text.startswith("There is no ") for text in sentences) <= 6
    assert polarities == {"There is", "There may be", "There is no"}


def test_no_negation_can_be_asked_for():
    for index in range(30):
        sentences = [s.text for s in training_sentences(film_of(index).findings, np.random.default_rng(index), (0, 0))]
        assert not any(text.startswith("There is no ") for text in sentences)


def test_what_a_film_states_holds_of_it():
    for index in range(60):
        findings = film_of(index).findings
        for sentence in training_sentences(findings, np.random.default_rng(index), (2, 6)):
            assert holds(sentence, findings), sentence.text


@pytest.mark.parametrize(
    ("sentence", "truth"),
    [
        (FindingSentence(Polarity.AFFIRMED, "effusion"), True),
        (FindingSentence(Polarity.AFFIRMED, "pleural effusion", "right"), True),
        (FindingSentence(Polarity.AFFIRMED, "pleural effusion", "bilateral"), True),
        (FindingSentence(Polarity.NEGATED, "pleural effusion", "left"), False),
        (FindingSentence(Polarity.UNCERTAIN, "nodule", "left", "upper"), True),
        (FindingSentence(Polarity.AFFIRMED, "lung nodule", "left", "lower"), False),
        (FindingSentence(Polarity.AFFIRMED, "nodule", "bilateral"), False),
        (FindingSentence(Polarity.NEGATED, "nodule", "right"), True),
        (FindingSentence(Polarity.NEGATED, "mass"), True),
        (FindingSentence(Polarity.AFFIRMED, "mass"), False),
    ],
)
def test_truth_of_a_sentence(sentence: FindingSentence, truth: bool):
    findings = (Finding("pleural effusion", side="bilateral"), Finding("nodule", side="left", zone="upper"))
    assert holds(sentence, findings) is truth
