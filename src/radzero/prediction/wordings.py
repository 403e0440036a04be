"""Compare sentences by their vectors: paraphrases, denials and sides, as a matrix of cosines and as a picture.

A model turns a sentence into a vector, by the text encoder and the layers after it. The cosine of two vectors is 1
where the model takes the sentences for the same. High cosines of paraphrases show that the vocabulary is open; high
cosines of a finding and its denial, or of left and right, show what the model cannot tell apart.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from radzero.pictures import caption_font, drawable_text
from radzero.prediction.model import RadZero

Cosines = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Wording:
    """A sentence of the standard set.

    Attributes:
        sentence: text of the sentence.
        finding: finding that the sentence is about; those that affirm one finding without a side are paraphrases.
        kind: "affirmed", "denied", "left" or "right".
    """

    sentence: str
    finding: str
    kind: str = "affirmed"


_PARAPHRASES = {
    "cardiomegaly": ("There is cardiomegaly", "There is an enlarged heart", "The cardiac silhouette is enlarged"),
    "pleural effusion": ("There is pleural effusion", "There is pleural fluid", "There is fluid in the pleural space"),
    "pneumothorax": ("There is pneumothorax", "There is a collapsed lung", "There is air in the pleural space"),
    "consolidation": ("There is consolidation", "There is airspace opacity", "There is an infiltrate in the lung"),
    "pulmonary edema": ("There is pulmonary edema", "There is edema of the lungs", "There is vascular congestion"),
}
_DENIED = ("There is no {}", "There is no evidence of {}")
_SIDED = ("pleural effusion", "pneumothorax")

WORDINGS: tuple[Wording, ...] = tuple(
    wording
    for finding, sentences in _PARAPHRASES.items()
    for wording in (
        *(Wording(sentence, finding) for sentence in sentences),
        *(Wording(text.format(finding), finding, "denied") for text in _DENIED),
        *(Wording(f"There is {side} {finding}", finding, side) for side in ("left", "right") if finding in _SIDED),
    )
)
"""The standard set: five findings, each affirmed in 3 wordings and denied in 2; two also on the left and right."""


@torch.inference_mode()
def sentence_cosines(model: RadZero, sentences: Sequence[str]) -> Cosines:
    """Return the cosines (N, N) of the vectors with which the model compares sentences with images.

    CARZero makes several vectors of a sentence; the one of the whole sentence is taken.

    Raises:
        ValueError: for fewer than two sentences.
    """
    if len(sentences) < 2:
        raise ValueError("give two sentences at least, to be compared with each other")
    features = model.embed_sentences(sentences).float()
    vectors = F.normalize(features if features.ndim == 2 else features[:, 0], dim=-1)
    return (vectors @ vectors.mT).cpu().numpy().astype(np.float32)


@dataclass(frozen=True)
class WordingFigures:
    """Figures that summarise the matrix of a set of wordings.

    Attributes:
        paraphrases: mean cosine of two wordings of one finding.
        other_findings: mean cosine of two sentences that affirm different findings.
        denials: mean cosine of a finding with its denial.
        sides: mean cosine of left and right for the same finding.
        nearest_is_paraphrase: share (0..1) of affirming sentences whose nearest affirming one is of the same finding.
        paraphrase_before_denial: share (0..1) of (sentence, paraphrase, denial) in which the paraphrase is nearer.
    """

    paraphrases: float
    other_findings: float
    denials: float
    sides: float
    nearest_is_paraphrase: float
    paraphrase_before_denial: float


def wording_figures(cosines: Cosines, wordings: Sequence[Wording] = WORDINGS) -> WordingFigures:
    """Return the figures of a matrix (N, N) of cosines of N wordings."""

    def of(wanted: Callable[[Wording, Wording], bool]) -> list[float]:
        pairs = ((i, j) for i in range(len(wordings)) for j in range(i + 1, len(wordings)))
        return [float(cosines[i, j]) for i, j in pairs if wanted(wordings[i], wordings[j])]

    def both(kinds: set[str], same: bool) -> Callable[[Wording, Wording], bool]:
        return lambda a, b: {a.kind, b.kind} == kinds and (a.finding == b.finding) == same

    affirmed = [k for k, wording in enumerate(wordings) if wording.kind == "affirmed"]
    nearest = [max((j for j in affirmed if j != i), key=lambda j: cosines[i, j]) for i in affirmed]
    triples = [
        cosines[i, j] > cosines[i, k]
        for i in affirmed
        for j in affirmed
        for k, denial in enumerate(wordings)
        if i != j and wordings[i].finding == wordings[j].finding == denial.finding and denial.kind == "denied"
    ]
    return WordingFigures(
        paraphrases=_mean(of(both({"affirmed"}, same=True))),
        other_findings=_mean(of(both({"affirmed"}, same=False))),
        denials=_mean(of(both({"affirmed", "denied"}, same=True))),
        sides=_mean(of(both({"left", "right"}, same=True))),
        nearest_is_paraphrase=_mean(
            [float(wordings[i].finding == wordings[j].finding) for i, j in zip(affirmed, nearest, strict=True)]
        ),
        paraphrase_before_denial=_mean([float(nearer) for nearer in triples]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def cosines_as_csv(cosines: Cosines, sentences: Sequence[str]) -> str:
    """Return the matrix as CSV, with a column and a row per sentence."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sentence", *sentences])
    for sentence, row in zip(sentences, cosines, strict=True):
        writer.writerow([sentence, *(f"{value:.4f}" for value in row)])
    return text.getvalue()


MOST_SENTENCES = 150
_MOST_LETTERS = 70
_LEGEND = "cosine of two sentences: 1 where the model takes them for the same"
_CELL, _MARGIN, _FONT = 44, 16, 15
_BLUE, _WHITE, _RED = np.array([33, 102, 172]), np.array([247, 247, 247]), np.array([178, 24, 43])


def draw_cosines(
    cosines: Cosines, sentences: Sequence[str], title: str, groups: Sequence[str] | None = None
) -> Image.Image:
    """Draw the matrix: a row and a column per sentence, values in the cells, and a legend.

    The colours are fixed (-1 blue, 0 white, 1 red), so that the pictures of two models can be compared.

    Args:
        cosines: (N, N) matrix.
        sentences: N sentences.
        title: text above the matrix.
        groups: N names of groups; a line separates neighbours of different groups.

    Raises:
        ValueError: for more than 150 sentences, too many for a picture.
    """
    if len(sentences) > MOST_SENTENCES:
        raise ValueError(f"{len(sentences)} sentences are too many for a picture; compare {MOST_SENTENCES} at most")
    count, font, small = len(sentences), caption_font(_FONT), caption_font(13)
    texts = [f"{k + 1}  {_cut(drawable_text(sentence))}" for k, sentence in enumerate(sentences)]
    left = 2 * _MARGIN + max(int(font.getlength(text)) for text in texts)
    top = 2 * _MARGIN + 48
    legend = 40
    size = (left + count * _CELL + _MARGIN, top + count * _CELL + legend + 2 * _MARGIN)
    needed = left + 220 + int(small.getlength(_LEGEND)) + _MARGIN
    picture = Image.new("RGB", (max(size[0], needed), size[1]), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN), drawable_text(title), fill=(0, 0, 0), font=caption_font(18))
    for i in range(count):
        y = top + i * _CELL
        draw.text((left - _MARGIN, y + _CELL / 2), texts[i], fill=(0, 0, 0), font=font, anchor="rm")
        draw.text((left + i * _CELL + _CELL / 2, top - 6), str(i + 1), fill=(0, 0, 0), font=font, anchor="mb")
        for j in range(count):
            value, x = float(cosines[i, j]), left + j * _CELL
            colour = cosine_colour(value)
            draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=colour)
            ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
            draw.text(
                (x + _CELL / 2 - 1, y + _CELL / 2 - 1),
                f"{value + 0.0:.2f}".replace("-0.00", "0.00"),
                fill=ink,
                font=small,
                anchor="mm",
            )
    for k in range(1, count):
        if groups and groups[k] != groups[k - 1]:
            at = k * _CELL - 1
            draw.line((left, top + at, left + count * _CELL, top + at), fill=(0, 0, 0), width=2)
            draw.line((left + at, top, left + at, top + count * _CELL), fill=(0, 0, 0), width=2)
    _draw_legend(draw, left, top + count * _CELL + _MARGIN)
    return picture


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."


def cosine_colour(value: float) -> tuple[int, int, int]:
    """Return the colour (red, green, blue in 0..255) of a cosine in -1..1."""
    end = _RED if value >= 0 else _BLUE
    share = min(1.0, abs(value))
    red, green, blue = np.rint(_WHITE + share * (end - _WHITE)).astype(int).tolist()
    return red, green, blue


def _draw_legend(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    for k in range(201):
        draw.line((left + k, top, left + k, top + 12), fill=cosine_colour(k / 100 - 1))
    for value in (-1, 0, 1):
        x = left + 100 * (value + 1)
        draw.text((x, top + 16), str(value), fill=(0, 0, 0), font=caption_font(13), anchor="ma")
    draw.text((left + 220, top), _LEGEND, fill=(0, 0, 0), font=caption_font(13))
