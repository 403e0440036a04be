"""The rules engine on sentences as radiologists dictate them."""

import pytest

from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.sentences import Polarity


@pytest.fixture(scope="module")
def engine() -> RulesEngine:
    return RulesEngine()


def said(engine: RulesEngine, text: str) -> list[str]:
    return [s.text.removeprefix("There ") for s in engine.extract(Report.from_text("r", text)).sentences]


SLIDES = (
    "Cardiomegaly is accompanied by improving pulmonary vascular congestion and decreasing pulmonary edema. Left "
    "retrocardiac opacity has substantially improved, likely a combination of atelectasis and effusion. A more "
    "confluent opacity at the right lung base persists, and could be due to asymmetrically resolving edema, but "
    "pneumonia should be considered in the appropriate clinical setting. Small right pleural effusion is likely "
    "unchanged, with pigtail pleural catheter remaining in place and no visible pneumothorax."
)


def test_the_example_of_the_paper(engine: RulesEngine):
    assert said(engine, SLIDES) == [
        "is cardiomegaly",
        "is pulmonary vascular congestion",
        "is pulmonary edema",
        "is opacity in the left retrocardiac region",
        "may be atelectasis",
        "may be pleural effusion",
        "is confluent opacity at the right lung base",
        "may be pneumonia at the right lung base",
        "is small right pleural effusion",
        "is chest tube",
        "is no pneumothorax",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # coordination
        (
            "No focal consolidation, effusion or pneumothorax.",
            ["is no focal consolidation", "is no pleural effusion", "is no pneumothorax"],
        ),
        ("Bilateral effusions and cardiomegaly.", ["is bilateral pleural effusion", "is cardiomegaly"]),
        (
            "Atelectasis and scarring at the left base.",
            ["is atelectasis at the left lung base", "is scarring at the left lung base"],
        ),
        ("Healed right 5th and left 7th rib fractures.", ["is bilateral fracture"]),
        # "no new X" is no denial of the X that is there
        ("There is a small nodule in the left upper lobe. No new nodule.", ["is small nodule in the left upper lobe"]),
        ("Right pneumothorax is unchanged. No new pneumothorax is seen.", ["is right pneumothorax"]),
        ("Healed right rib fracture. No new fracture.", ["is healed right fracture"]),
        ("Left opacity. No additional opacities are seen.", ["is left opacity"]),
        ("No new consolidation.", ["is no consolidation"]),
        # places that are shared, inherited, or the subject's
        ("Right effusion and infiltrate.", ["is right pleural effusion", "is right infiltrate"]),
        ("Left effusion and cardiomegaly.", ["is left pleural effusion", "is cardiomegaly"]),
        (
            "Bibasilar and right midlung opacities, XXXX atelectatic changes.",
            [
                "is opacity at the bilateral lung base",
                "is opacity in the right mid lung zone",
                "is atelectasis at the bilateral lung base",
                "is atelectasis in the right mid lung zone",
            ],
        ),
        ("Left base irregularity compatible with scarring.", ["is scarring at the left lung base"]),
        ("Left chest XXXX with catheter tip in the superior vena cava.", ["is left catheter"]),
        (
            "No effusion (blunting of both costophrenic angles may represent scarring).",
            ["is no pleural effusion", "is bilateral costophrenic angle blunting", "may be bilateral scarring"],
        ),
        ("Bihilar prominence.", ["is bilateral hilar enlargement"]),
        ("Calcified left lower lobe granuloma.", ["is calcified granuloma in the left lower lobe"]),
        # answers to headings, abbreviations
        ("Pneumothorax: none.", ["is no pneumothorax"]),
        ("Pleural effusion: No.", ["is no pleural effusion"]),
        ("Effusion - absent.", ["is no pleural effusion"]),
        ("Effusion (-)", ["is no pleural effusion"]),
        ("Pneumothorax: present.", ["is pneumothorax"]),
        ("Neg for PTX.", ["is no pneumothorax"]),
        ("r/o pneumonia.", []),
        ("Nodule in the RUL.", ["is nodule in the right upper lobe"]),
        ("Small R effusion, no L effusion.", ["is small right pleural effusion", "is no left pleural effusion"]),
        ("L spine degenerative change", ["is degenerative change in the lumbar spine"]),
        ("L1 compression fracture.", ["is vertebral compression"]),
        # negation and its end
        (
            "There is no pneumothorax, but there is a small left effusion.",
            ["is no pneumothorax", "is small left pleural effusion"],
        ),
        ("No pneumothorax, mild cardiomegaly.", ["is no pneumothorax", "is mild cardiomegaly"]),
        ("No opacity to suggest pneumonia.", ["is no opacity", "is no pneumonia"]),
        ("Cardiomegaly without pulmonary edema.", ["is cardiomegaly", "is no pulmonary edema"]),
        (
            "A pleural line without lung markings beyond it is consistent with pneumothorax.",
            ["is pleural line", "is pneumothorax"],
        ),
        ("Pneumothorax is not seen.", ["is no pneumothorax"]),
        ("The previously seen right effusion has resolved.", ["is no right pleural effusion"]),
        ("Interval removal of the endotracheal tube.", ["is no endotracheal tube"]),
        ("Opacity is not significantly changed.", ["is opacity"]),
        ("No change in the right effusion.", ["is right pleural effusion"]),
        # doubt
        (
            "Left basilar opacity, likely atelectasis.",
            ["is opacity at the left lung base", "may be atelectasis at the left lung base"],
        ),
        ("Opacity, atelectasis versus pneumonia.", ["is opacity", "may be atelectasis", "may be pneumonia"]),
        (
            "Scarring or atelectasis at the left base.",
            ["may be scarring at the left lung base", "may be atelectasis at the left lung base"],
        ),
        ("Pneumonia cannot be excluded.", ["may be pneumonia"]),
        ("Pneumonia is likely.", ["may be pneumonia"]),
        ("Effusion is likely unchanged.", ["is pleural effusion"]),
        ("Borderline heart size.", ["may be cardiomegaly"]),
        # normal statements
        ("The lungs are clear. Heart size is normal.", ["is no opacity", "is no cardiomegaly"]),
        ("Heart size and mediastinal contours are normal.", ["is no cardiomegaly", "is no mediastinal widening"]),
        ("Clear lungs and normal heart.", ["is no opacity", "is no cardiomegaly"]),
        ("The cardiomediastinal silhouette is unremarkable.", ["is no cardiomegaly", "is no mediastinal widening"]),
        ("The costophrenic angles are sharp.", ["is no pleural effusion"]),
        ("The bones show no acute abnormality.", ["is no osseous abnormality"]),
        ("No acute cardiopulmonary process.", ["is no acute cardiopulmonary abnormality"]),
        ("LUNGS: Clear.\nHEART: Normal.", ["is no opacity", "is no cardiomegaly"]),
        ("Normal chest radiograph.", ["is no cardiopulmonary abnormality"]),
        ("Heart size is within normal limits. XXXX are normal.", ["is no cardiomegaly"]),
        ("Left lower lobe consolidation. The lungs are otherwise clear.", ["is consolidation in the left lower lobe"]),
        # structures that are changed
        ("The heart is mildly enlarged.", ["is mild cardiomegaly"]),
        ("Low lung volumes accentuate the heart, which is enlarged.", ["is low lung volume", "is cardiomegaly"]),
        ("The aorta is tortuous and calcified.", ["is tortuous aorta", "is aortic calcification"]),
        ("Elevation of the right hemidiaphragm.", ["is right elevated hemidiaphragm"]),
        ("The heart is not enlarged.", ["is no cardiomegaly"]),
        ("Costophrenic XXXX blunted on the right.", ["is right costophrenic angle blunting"]),
        ("The right lung is hyperexpanded.", ["is right hyperinflation"]),
        ("Both lungs are free of infiltrate.", ["is no infiltrate in the bilateral lung"]),
        # places that are shared, far away or badly written
        (
            "Bilateral interstitial and alveolar opacities.",
            ["is bilateral interstitial opacity", "is bilateral airspace disease"],
        ),
        (
            "Right middle and lower lobe opacities.",
            ["is opacity in the right middle lobe", "is opacity in the right lower lobe"],
        ),
        (
            "Granuloma in the right upper lobe and in the left lung base.",
            ["is granuloma in the right upper lobe", "is granuloma at the left lung base"],
        ),
        ("Effusions, left larger than right.", ["is bilateral pleural effusion"]),
        (
            "Opacity in the left base. Increased since the previous study. May represent atelectasis.",
            ["is opacity at the left lung base", "may be atelectasis at the left lung base"],
        ),
        (
            "Degenerative disc disease of the spine as well as left-sided rib fractures.",
            ["is degenerative change in the thoracic spine", "is left fracture"],
        ),
        (
            "Bronchial wall thickening, best seen in the left upper lobe.",
            ["is bronchial wall thickening in the left upper lobe"],
        ),
        ("Clips are seen the right upper quadrant.", ["is surgical clip in the right upper quadrant"]),
        (
            "Left-sided ICD and surgical changes consistent with CABG.",
            ["is left pacemaker", "is surgical change"],
        ),
        # devices
        ("Right PICC tip in the mid SVC.", ["is right PICC"]),
        ("NG tube in the stomach.", ["is enteric tube in the stomach"]),
        # not about this film
        ("History of pneumonia.", []),
        ("Recommend CT to exclude malignancy.", []),
        (
            "Nodule in the right apex. Follow-up CT is recommended to exclude malignancy.",
            ["is nodule at the right lung apex"],
        ),
        ("Compared to the prior film with a mass, no change.", []),
        ("The patient is rotated. Two views of the chest.", []),
        ("", []),
    ],
)
def test_sentences(engine: RulesEngine, text: str, expected: list[str]):
    assert said(engine, text) == expected


def test_spans_are_the_words_that_state_it(engine: RulesEngine):
    report = Report.from_text("r", "FINDINGS: Heart is big. There is a small left pleural effusion today.")
    (sentence,) = [s for s in engine.extract(report).sentences if s.finding == "pleural effusion"]
    provenance = sentence.provenance
    assert provenance is not None
    (section,) = report.film_sections
    assert section.text[provenance.start : provenance.end] == "small left pleural effusion"
    assert (provenance.report, provenance.section, provenance.engine) == ("r", "findings", "rules")


def test_nothing_is_said_twice(engine: RulesEngine):
    extraction = engine.extract(Report.from_text("r", "FINDINGS: No effusion. IMPRESSION: No pleural effusion."))
    assert [s.text for s in extraction.sentences] == ["There is no pleural effusion"]
    assert extraction.merged == 1


def test_clear_lungs_do_not_deny_a_stated_opacity(engine: RulesEngine):
    extraction = engine.extract(Report.from_text("r", "Opacity at the left base. Clear lungs."))
    assert [s.polarity for s in extraction.sentences] == [Polarity.AFFIRMED]


@pytest.mark.parametrize(
    "text", ["Kein Pneumothorax.", "Sin derrame pleural.", "Pas de pneumothorax. Opacité de la base gauche."]
)
def test_other_languages_are_refused(engine: RulesEngine, text: str):
    extraction = engine.extract(Report.from_text("r", text))
    assert extraction.sentences == ()
    assert extraction.error.startswith("not English")
