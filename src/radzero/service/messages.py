"""Define the API's requests and answers, as OpenAPI shows them."""

import base64
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from radzero.prediction.maps import MapGrid
from radzero.prediction.reading import Reading
from radzero.results.kinds import KIND_NAMES


class Problem(BaseModel):
    """Reason why a request was not served."""

    code: Annotated[str, Field(description="A stable code for programs.", examples=["too_large"])]
    message: str


class Refusal(BaseModel):
    """Answer to every request that was not served."""

    error: Problem


class Answer(BaseModel):
    """The model's answer to one sentence."""

    sentence: str
    logit: float
    probability: Annotated[float, Field(ge=0, le=1)]
    peak: Annotated[
        list[int] | None, Field(description="x, y of the film pixel that fits best; none for methods without maps.")
    ] = None
    warnings: Annotated[list[str], Field(description="Warnings about this sentence alone.")]


class Placement(BaseModel):
    """Position of the film in the model's input: it is resized, then placed (y, x; negative where it is cropped)."""

    original: Annotated[list[int], Field(description="H, W of the film.")]
    resized: list[int]
    placed: list[int]
    input: list[int]
    patch: Annotated[int, Field(description="Input pixels per patch.")]


class Maps(BaseModel):
    """The sentences' values on the patch grid, before the sigmoid."""

    grid: Annotated[list[int], Field(description="h, w.")]
    values: Annotated[str, Field(description="Base64 of little-endian float32 (N, h, w).")]
    attention: Annotated[bool, Field(description="Whether they are attention over its mean, not similarities.")]
    placement: Placement


class ReadingMessage(BaseModel):
    """A model's answers about one film."""

    film: Annotated[str, Field(description="The name that it was sent under.")]
    model: str
    size: Annotated[list[int], Field(description="H, W in pixels.")]
    sentences: list[Answer]
    warnings: Annotated[list[str], Field(description="About the film and about all sentences, each with its sentence.")]
    maps: Maps | None = None

    @classmethod
    def of(cls, reading: Reading, *, maps: bool) -> "ReadingMessage":
        """Make a message of a reading."""
        said = reading.to_dict()
        grid = None if reading.grid is None or not maps else _maps(reading.grid)
        return cls(
            film=reading.source,
            model=reading.model,
            size=list(reading.film.shape),
            sentences=[
                Answer(**answer, warnings=list(reading.sentence_warnings(k)))
                for k, answer in enumerate(said["sentences"])
            ],
            warnings=said["warnings"],
            maps=grid,
        )


def _maps(grid: MapGrid) -> Maps:
    values = np.ascontiguousarray(grid.values, dtype="<f4")
    geometry = grid.geometry
    return Maps(
        grid=list(values.shape[1:]),
        values=base64.b64encode(values.tobytes()).decode("ascii"),
        attention=grid.attention,
        placement=Placement(
            original=list(geometry.original),
            resized=list(geometry.resized),
            placed=list(geometry.placed),
            input=list(geometry.input),
            patch=grid.patch[0],  # patches of radiographs are square
        ),
    )


class BatchItem(BaseModel):
    """One film of a batch: its reading, or the reason why there is none."""

    film: str
    reading: ReadingMessage | None = None
    error: Problem | None = None


class BatchMessage(BaseModel):
    """The films of a batch, in the order in which they were sent."""

    films: list[BatchItem]


class FilmMessage(BaseModel):
    """A film that the service keeps for a while, so that more sentences can be asked about it."""

    id: str
    film: str
    sha256: Annotated[
        str,
        Field(description="SHA-256 of the file's bytes, in hexadecimal."),
    ]
    size: list[int]
    warnings: list[str]
    dicom: Annotated[dict[str, Any] | None, Field(description="Header facts, none of them the patient's.")] = None
    window: Annotated[
        dict[str, Any] | None, Field(description="Centre, width and function that it is first shown with.")
    ] = None
    inverted: Annotated[bool, Field(description="Whether low values are bright (MONOCHROME1).")] = False
    spacing: Annotated[list[float] | None, Field(description="Millimetres between rows, columns.")] = None


MOST_NAMES = 1000
"""Largest number of sentences, and of finding sets, in one request, equal ones included."""
Sentence = Annotated[str, Field(min_length=1, examples=["There is left pleural effusion"])]


class Question(BaseModel):
    """Sentences to ask about a film that is kept."""

    model_config = ConfigDict(extra="forbid")  # a misspelt setting must not become the default

    sentences: Annotated[list[Sentence], Field(default_factory=list, max_length=MOST_NAMES)]
    findings: Annotated[
        list[str], Field(default_factory=list, max_length=MOST_NAMES, description="Named sets; see /v1/findings.")
    ]
    maps: bool = True


class ResultQuestion(BaseModel):
    """Sentences whose answers become DICOM objects, and kinds of these objects."""

    model_config = ConfigDict(extra="forbid")

    sentences: Annotated[list[Sentence], Field(min_length=1, max_length=MOST_NAMES)]
    kinds: Annotated[str, Field(description=f"all, or some of {KIND_NAMES}", examples=["seg,sr"])] = "all"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class PictureQuestion(BaseModel):
    """Sentence and threshold of an overlay to draw."""

    model_config = ConfigDict(extra="forbid")

    sentence: Sentence
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class ModelMessage(BaseModel):
    """The model that answers."""

    name: str
    method: str
    sha256: str
    notice: Annotated[str | None, Field(description="What must be said wherever its answers are shown.")]
    has_maps: bool
    version: Annotated[str, Field(description="Version of RadZero.")]
