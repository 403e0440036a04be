"""Write reports of phantoms as a radiologist dictates them, with the gold finding-sentences that they state.

A report states every finding of the image, negates some absent ones, hedges some that are not plain, compares with
radiographs that do not exist, and mentions devices. Its gold sentences are what an extraction should return: the
finding, its polarity and its place, without the temporal words.
"""

import re
from dataclasses import dataclass

import numpy as np

from radzero.phantom.film import Film
from radzero.phantom.findings import FINDINGS, Finding, Grade
from radzero.phantom.sentences import FindingSentence, Polarity


@dataclass(frozen=True)
class Report:
    """A dictated report.

    Attributes:
        indication, comparison, technique: sections that state no finding.
        findings, impression: sections that state findings.
        gold: finding-sentences that these two sections state, negations included, each once, in the order of their
            first mention.
        signs: further finding-sentences that the same words state: signs by which a finding is described, and that
            there is no cardiopulmonary abnormality where the impression is normal.
    """

    indication: str
    comparison: str
    technique: str
    findings: str
    impression: str
    gold: tuple[FindingSentence, ...]
    signs: tuple[FindingSentence, ...] = ()

    @property
    def text(self) -> str:
        """The whole report under its headings."""
        sections = (
            ("INDICATION", self.indication),
            ("TECHNIQUE", self.technique),
            ("COMPARISON", self.comparison),
            ("FINDINGS", self.findings),
            ("IMPRESSION", self.impression),
        )
        return "\n\n".join(f"{heading}: {body}" for heading, body in sections if body) + "\n"


_INDICATIONS = (
    "Shortness of breath.",
    "Cough and fever, evaluate for pneumonia.",
    "Chest pain.",
    "Status post fall, rule out rib fracture.",
    "Preoperative evaluation.",
    "Hypoxia. Question of pneumothorax.",
    "Follow-up.",
)
_COMPARISONS = (
    "None.",
    "Chest radiograph from two days earlier.",
    "Prior study of last month.",
    "No prior films.",
)
_CHANGES = ("unchanged", "stable since the prior study", "slightly increased", "new since the prior examination",
            "improved", "again seen")  # fmt: skip
_SIZES = {
    Grade.PLAIN: ("large", "extensive", ""),
    Grade.MODERATE: ("moderate", ""),
    Grade.SUBTLE: ("small", "subtle", ""),
}

# {where} is "in the right upper lung zone", {side} is "right", and {size} is an adjective or empty.
_AFFIRMED: dict[str, tuple[str, ...]] = {
    "atelectasis": (
        "There is {size} plate-like atelectasis at the {side} lung base",
        "Linear opacities at the {side} base are consistent with atelectasis",
        "{Side} basilar atelectasis is present",
    ),
    "calcification": (
        "A calcified granuloma projects over the {side} {zone} lung zone",
        "Dense calcification is present {where}",
        "There is a small calcification {where}",
    ),
    "cardiomegaly": (
        "The heart is enlarged",
        "There is {size} cardiomegaly",
        "The cardiac silhouette is enlarged",
    ),
    "consolidation": (
        "There is consolidation {where}",
        "Airspace consolidation is seen {where}",
        "{Size} consolidation with air bronchograms {where}",
    ),
    "pulmonary edema": (
        "There is {size} pulmonary edema",
        "Perihilar haze and septal lines are consistent with pulmonary edema",
        "Bilateral perihilar opacities indicate pulmonary edema",
    ),
    "emphysema": (
        "The lungs are hyperinflated with flattened diaphragms, consistent with emphysema",
        "There are emphysematous changes of both lungs",
        "{Size} emphysema is present",
    ),
    "fibrosis": (
        "Reticular opacities at the {side} base are consistent with fibrosis",
        "There is {size} {side} basilar fibrosis",
        "{Side} lower lung fibrosis is present",
    ),
    "mass": (
        "There is a {size} mass {where}",
        "A lobulated mass projects over the {side} {zone} lung zone",
        "{Size} pulmonary mass {where}",
    ),
    "nodule": (
        "There is a {size} nodule {where}",
        "A rounded nodule projects over the {side} {zone} lung zone",
        "A pulmonary nodule is seen {where}",
    ),
    "pleural effusion": (
        "There is a {size} {side} pleural effusion",
        "{Size} {side} pleural effusion is present",
        "Blunting of the {side} costophrenic angle with a meniscus is consistent with pleural effusion",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax",
        "A {side} pleural line without peripheral markings is consistent with pneumothorax",
        "{Size} {side} apicolateral pneumothorax is present",
    ),
    "rib fracture": (
        "There is a displaced {side} rib fracture",
        "A fracture of a {side} posterior rib is present",
        "{Side} rib fracture with step-off",
    ),
    "central venous catheter": (
        "A {side} central venous catheter terminates in the superior vena cava",
        "{Side} central venous catheter tip projects over the cavoatrial junction",
    ),
    "endotracheal tube": ("The endotracheal tube terminates 4 cm above the carina", "Endotracheal tube in place"),
    "nasogastric tube": (
        "A nasogastric tube courses below the diaphragm",
        "Nasogastric tube tip projects over the stomach",
    ),
    "pacemaker": (
        "A {side} chest wall pacemaker is in place with its lead over the right ventricle",
        "{Side} pacemaker is present",
    ),
}
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # an entry is the words of a dictated sentence, and the signs that they state besides the finding
    ("Linear opacities", ("linear opacity",)),
    ("calcified granuloma", ("granuloma",)),
    ("Perihilar haze and septal lines", ("haze", "septal lines")),
    ("Bilateral perihilar opacities", ("opacity",)),
    ("flattened diaphragms", ("hyperinflation", "flattened diaphragm")),
    ("Reticular opacities", ("reticular opacity",)),
    ("Blunting of", ("costophrenic angle blunting",)),
    ("pleural line", ("pleural line",)),
)
_UNCERTAIN = (
    "Possible {phrase}",
    "There may be {a} {phrase}",
    "Findings may represent {phrase}",
    "Subtle abnormality, suggestive of {phrase}",
    "{Phrase} cannot be excluded",
)
_NORMAL: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # an entry is a statement, the findings that it denies, and the findings whose presence would make it untrue
    ("The heart size is normal.", ("cardiomegaly",), ("cardiomegaly",)),
    ("The cardiac silhouette is within normal limits.", ("cardiomegaly",), ("cardiomegaly",)),
    ("The costophrenic angles are sharp.", ("pleural effusion",), ("pleural effusion",)),
    ("The ribs are intact.", ("rib fracture",), ("rib fracture",)),
    ("The pulmonary vasculature is not congested.", ("pulmonary congestion",), ("pulmonary edema",)),
    ("The lungs are clear.", ("lung opacity",), ("atelectasis", "calcification", "consolidation", "pulmonary edema",
                                                 "fibrosis", "mass", "nodule", "emphysema")),
)  # fmt: skip
_NEGATION_OPENINGS = ("There is no", "No", "No evidence of", "There is no evidence of", "Negative for")
_NEGATED_NAMES = {
    "consolidation": ("focal consolidation", "consolidation"),
    "pulmonary edema": ("pulmonary edema",),
    "mass": ("pulmonary mass", "mass"),
    "nodule": ("pulmonary nodule", "nodule"),
}


def write_report(film: Film, rng: np.random.Generator | None = None) -> Report:
    """Write the report of a phantom.

    Args:
        film: the phantom.
        rng: random generator of the report; None makes one of the phantom's own seed and index, so that its report is
            always the same.
    """
    if rng is None:
        rng = np.random.default_rng([film.seed, film.index, 17])
    followed = rng.random() < 0.45
    body: list[tuple[str, tuple[FindingSentence, ...]]] = []  # dictated sentences, and what they state
    signs: dict[FindingSentence, None] = {}
    for finding in film.findings:
        text, sentence = _state(finding, rng, followed)
        body.append((text, (sentence,)))
        for words, names in _SIGNS:
            if words in text:
                side = "bilateral" if words.startswith("Bilateral") else finding.side
                signs.update(dict.fromkeys(FindingSentence(Polarity.AFFIRMED, n, side) for n in names))
    present = {f.name for f in film.findings}
    for statement, denied, untrue in _NORMAL:
        if not present & set(untrue) and rng.random() < 0.35:
            said = {s for _, sentences in body for s in sentences}
            if new := tuple(s for n in denied if (s := FindingSentence(Polarity.NEGATED, n)) not in said):
                body.append((statement, new))
    denied_now = {s.finding for _, sentences in body for s in sentences if s.polarity is Polarity.NEGATED}
    absent = [n for n in FINDINGS if n not in present and n not in denied_now]
    count = int(rng.integers(1, 5))
    negated = [absent[int(k)] for k in rng.permutation(len(absent))[:count]]
    while negated:
        size = int(rng.integers(1, 4))
        group, negated = negated[:size], negated[size:]
        text = f"{rng.choice(_NEGATION_OPENINGS)} {_list([_negated_name(n, rng) for n in group])}."
        body.append((text, tuple(FindingSentence(Polarity.NEGATED, n) for n in group)))
    order = [int(k) for k in rng.permutation(len(body))] if rng.random() < 0.5 else range(len(body))
    gold = dict.fromkeys(s for k in order for s in body[k][1])
    impression = _impression(film, gold, rng)
    if impression.startswith("Normal"):
        signs[FindingSentence(Polarity.NEGATED, "cardiopulmonary abnormality")] = None
    return Report(
        indication=str(rng.choice(_INDICATIONS)),
        comparison="Chest radiograph from two days earlier." if followed else str(rng.choice(_COMPARISONS)),
        technique=f"Single {film.body.projection} view of the chest.",
        findings=" ".join(body[k][0] for k in order),
        impression=impression,
        gold=tuple(gold),
        signs=tuple(signs),
    )


def _state(finding: Finding, rng: np.random.Generator, followed: bool) -> tuple[str, FindingSentence]:
    """Return a dictated sentence of one finding, and the finding-sentence that it states."""
    uncertain = {Grade.SUBTLE: 0.45, Grade.MODERATE: 0.1, Grade.PLAIN: 0.0}[finding.grade]
    if finding.name in FINDINGS and rng.random() < uncertain:
        phrase = _noun_phrase(finding)
        text = str(rng.choice(_UNCERTAIN)).format(phrase=phrase, Phrase=_capital(phrase), a=_article(finding, phrase))
        return " ".join(text.split()) + ".", _gold(Polarity.UNCERTAIN, finding)
    template = str(rng.choice(_AFFIRMED[finding.name]))
    size = str(rng.choice(_SIZES[finding.grade]))
    text = template.format(
        size=size,
        Size=_capital(size),
        side=finding.side,
        Side=_capital(finding.side or ""),
        zone=finding.zone,
        where=f"in the {finding.side} {finding.zone} lung zone",
    )
    text = _grammar(_capital(" ".join(text.split())))
    if followed and finding.name in FINDINGS and rng.random() < 0.5:
        text += f", {rng.choice(_CHANGES)}"
    return text + ".", _gold(Polarity.AFFIRMED, finding)


def _grammar(text: str) -> str:
    """Correct the articles, and singular and plural, of a template whose blanks are filled."""
    for wrong, right in (
        (r"\b([Aa]) (extensive|bilateral)", r"\1n \2"),
        (r"There is an? ((?:\w+ )?bilateral (?:\w+ )*)pleural effusion", r"There are \1pleural effusions"),
        (r"([Bb])ilateral pleural effusion is", r"\1ilateral pleural effusions are"),
        (r"the bilateral (lung base|base|costophrenic angle)\b", r"both \1s"),
    ):
        text = re.sub(wrong, right, text)
    return text.replace("an bilateral", "bilateral")


def _gold(polarity: Polarity, finding: Finding) -> FindingSentence:
    return FindingSentence(polarity, finding.name, finding.side, finding.zone)


def _noun_phrase(finding: Finding) -> str:
    if finding.zone:
        return f"{finding.name} in the {finding.side} {finding.zone} lung zone"
    return f"{finding.side} {finding.name}" if finding.side else finding.name


def _article(finding: Finding, phrase: str) -> str:
    counted = ("nodule", "mass", "pneumothorax", "pleural effusion", "rib fracture", "calcification")
    return "a" if finding.name in counted and finding.side != "bilateral" else ""


def _negated_name(name: str, rng: np.random.Generator) -> str:
    return str(rng.choice(_NEGATED_NAMES.get(name, (name,))))


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _impression(film: Film, gold: dict[FindingSentence, None], rng: np.random.Generator) -> str:
    """Repeat up to three findings, numbered when there are several; none is added to those of the findings section."""
    stated = [s for s in gold if s.polarity is not Polarity.NEGATED and s.finding in FINDINGS]
    if not stated:
        return "Satisfactory position of support devices." if film.findings else "Normal chest radiograph."
    lines = []
    for sentence in stated[:3]:
        phrase = _noun_phrase(Finding(sentence.finding, side=sentence.side, zone=sentence.zone))
        hedge = "Possible " if sentence.polarity is Polarity.UNCERTAIN else ""
        lines.append(_capital(f"{hedge}{phrase}."))
    return lines[0] if len(lines) == 1 else " ".join(f"{k}. {line}" for k, line in enumerate(lines, start=1))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
