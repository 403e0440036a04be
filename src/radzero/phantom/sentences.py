"""Make finding-sentences of a phantom, which state what is true of an image in RadZero's three templates.

Nothing here, not even a template, comes from :mod:`radzero.reports`, because its extraction engines are tested against
phantoms.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from radzero.phantom.findings import DEVICES, EITHER_OR_BOTH, FINDINGS, ONE_SIDED, Finding, Grade


class Polarity(StrEnum):
    """Polarity of a finding-sentence: what it states about its finding."""

    AFFIRMED = "affirmed"
    UNCERTAIN = "uncertain"
    NEGATED = "negated"


_OPENING = {
    Polarity.AFFIRMED: "There is",
    Polarity.UNCERTAIN: "There may be",
    Polarity.NEGATED: "There is no",
}


@dataclass(frozen=True)
class FindingSentence:
    """One minimal finding: ``There is {finding} [in {location}]``.

    Attributes:
        polarity: affirmed, uncertain or negated.
        finding: the finding's name.
        side: "right", "left", "bilateral" or None.
        zone: "upper", "mid", "lower" or None; only together with a side.
    """

    polarity: Polarity
    finding: str
    side: str | None = None
    zone: str | None = None

    @property
    def text(self) -> str:
        """The sentence, without a full stop."""
        if self.zone:
            return f"{_OPENING[self.polarity]} {self.finding} in the {self.side} {self.zone} lung zone"
        return " ".join(part for part in (_OPENING[self.polarity], self.side, self.finding) if part)


SYNONYMS: dict[str, tuple[str, ...]] = {
    "calcification": ("tissue calcification", "calcified granuloma", "granuloma"),
    "cardiomegaly": ("enlarged heart",),
    "consolidation": ("pulmonary consolidation", "airspace consolidation"),
    "pulmonary edema": ("edema",),
    "emphysema": ("pulmonary emphysema",),
    "fibrosis": ("pulmonary fibrosis",),
    "mass": ("pulmonary mass", "lung mass"),
    "nodule": ("lung nodule", "pulmonary nodule"),
    "pleural effusion": ("effusion",),
    "rib fracture": ("fracture", "bone fracture"),
}
"""Other names of a finding in training sentences; the benchmarks' names are among them."""


def finding_sentence(finding: Finding, polarity: Polarity = Polarity.AFFIRMED) -> FindingSentence:
    """Return the full sentence of a finding, with side and zone."""
    return FindingSentence(polarity, finding.name, finding.side, finding.zone)


@lru_cache(maxsize=1)
def every_sentence() -> dict[str, FindingSentence]:
    """Return every sentence that can be stated of a phantom, by its text."""
    names = [*FINDINGS, *DEVICES, *(name for synonyms in SYNONYMS.values() for name in synonyms)]
    sides = ("right", "left", "bilateral")
    places: list[tuple[str | None, str | None]] = [(None, None), *((side, None) for side in sides)]
    places += [(side, zone) for side in sides for zone in ("upper", "mid", "lower")]
    sentences = (FindingSentence(p, name, *place) for p in Polarity for name in names for place in places)
    return {sentence.text: sentence for sentence in sentences}


_NAME_OF = {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms}


def holds(sentence: FindingSentence, findings: tuple[Finding, ...]) -> bool:
    """Tell whether a sentence is true of an image with these findings and devices, whether or not its report says so.

    "There is right pleural effusion" is true of a bilateral effusion. An uncertain sentence is true where the finding
    is present.
    """
    name = _NAME_OF.get(sentence.finding, sentence.finding)
    there = any(
        finding.name == name
        and (sentence.side is None or finding.side in (sentence.side, "bilateral"))
        and sentence.zone in (None, finding.zone)
        for finding in findings
    )
    return there != (sentence.polarity is Polarity.NEGATED)


def training_sentences(
    findings: tuple[Finding, ...], rng: np.random.Generator, negations: tuple[int, int] = (0, 2)
) -> list[FindingSentence]:
    """Sample finding-sentences of an image, as varied as reports state them, each once.

    Every finding and device is stated with its side and, in 60 % of the cases, its zone. One that has a side is stated
    again without a location in 60 % of the cases. Names are sometimes synonyms, and subtle findings are sometimes
    uncertain. Negations are of findings and devices that the image lacks, or lacks on the named side.

    Args:
        findings: findings and devices of the image.
        rng: random generator that chooses the sentences and their words.
        negations: least and greatest number of negated sentences.
    """
    sentences: dict[FindingSentence, None] = {}

    def say(polarity: Polarity, name: str, side: str | None = None, zone: str | None = None) -> None:
        names = SYNONYMS.get(name, ())
        if names and rng.random() < 0.3:
            name = str(rng.choice(names))
        sentences[FindingSentence(polarity, name, side, zone)] = None

    for finding in findings:
        uncertain = finding.grade is Grade.SUBTLE and rng.random() < 0.15
        polarity = Polarity.UNCERTAIN if uncertain else Polarity.AFFIRMED
        zone = finding.zone if rng.random() < 0.6 else None
        say(polarity, finding.name, finding.side, zone)
        if finding.side and rng.random() < 0.6:
            say(polarity, finding.name)
    present = {f.name: f for f in findings}
    absent: list[tuple[str, str | None]] = [(n, None) for n in (*FINDINGS, *DEVICES) if n not in present]
    for name, finding in present.items():
        if name in ONE_SIDED + EITHER_OR_BOTH and finding.side in ("right", "left"):
            absent += [(name, "left" if finding.side == "right" else "right")] * 2
    count = int(rng.integers(negations[0], negations[1] + 1))
    for k in rng.permutation(len(absent))[:count]:
        say(Polarity.NEGATED, *absent[int(k)])
    return list(sentences)
