"""Readings: the answers of a model about a radiograph, with maps.

Nothing here needs the model or torch, so that other processes may draw the maps.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from radzero._numbers import sigmoid
from radzero.images import DicomFacts
from radzero.images.geometry import Geometry
from radzero.pictures import render_overlay
from radzero.prediction.maps import MapGrid

PNG_LEVEL = 3
"""Compression level of overlays for zlib: it is twice as fast as Pillow's 6, and the files are a tenth larger."""
_MAX_MAP_BYTES = 4 * 2**30
_SENTENCES_SHOWN = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """The answers of a model about one input of any kind: sentences with their logits.

    Attributes:
        source: path of the input, or another name of where it was read from.
        model: name of the model: a hub id, a folder, or "packaged".
        sentences: the N sentences that were asked.
        logits: (N,) float32, l of the method, already divided by tau.
        warnings: warnings about the input and about the sentences.
        notice: text that must be shown wherever these answers are shown, or None.
        sha256: SHA-256 of the model's weights, in hexadecimal; "" for a model that was not loaded from files.
    """

    source: str
    model: str
    sentences: tuple[str, ...]
    logits: npt.NDArray[np.float32]
    warnings: tuple[str, ...] = ()
    notice: str | None = None
    sha256: str = ""

    def __repr__(self) -> str:
        pairs = zip(self.sentences[:_SENTENCES_SHOWN], self.probabilities, strict=False)
        shown = [f"{text!r}: {p:.3f}" for text, p in pairs]
        if (more := len(self.sentences) - len(shown)) > 0:
            shown.append(f"... {more} more")
        kind = type(self).__name__
        return f"{kind}({self.source!r}, model={self.model!r}, probabilities={{{', '.join(shown)}}})"

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Sigmoid of the logits, (N,) in 0..1."""
        return sigmoid(self.logits)

    def index(self, sentence: int | str) -> int:
        """Return the index of a sentence; an index is returned as it is, and may count from the end.

        Raises:
            ValueError: for a sentence that was not asked.
        """
        if isinstance(sentence, str):
            if sentence not in self.sentences:
                raise ValueError(f"{sentence!r} was not asked of {self.source}; asked were {list(self.sentences)}")
            return self.sentences.index(sentence)
        if not -len(self.sentences) <= sentence < len(self.sentences):
            raise ValueError(f"there is no sentence {sentence}; {len(self.sentences)} were asked of {self.source}")
        return sentence

    def warnings_of(self, sentence: int | str) -> tuple[str, ...]:
        """Return the warnings about one sentence, without its name, and then those about the input.

        Raises:
            ValueError: for a sentence that was not asked.
        """
        return (*self.sentence_warnings(sentence), *self.film_warnings)

    def sentence_warnings(self, sentence: int | str) -> tuple[str, ...]:
        """Return the warnings about one sentence alone, without its name.

        Raises:
            ValueError: for a sentence that was not asked.
        """
        own = warning_prefix(self.sentences[self.index(sentence)])
        return tuple(text.removeprefix(own) for text in self.warnings if text.startswith(own))

    @property
    def film_warnings(self) -> tuple[str, ...]:
        """Warnings about the input alone."""
        named = tuple(map(warning_prefix, self.sentences))
        return tuple(text for text in self.warnings if not text.startswith(named))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a line of ``predictions.jsonl``: plain numbers and strings."""
        facts = (self._facts(index) for index in range(len(self.sentences)))
        return {
            "image": self.source,
            "model": self.model,
            "sentences": [
                {"sentence": text, "logit": float(logit), "probability": float(p), **more}
                for text, logit, p, more in zip(self.sentences, self.logits, self.probabilities, facts, strict=True)
            ],
            "warnings": [*([self.notice] if self.notice else []), *self.warnings],
        }

    def _facts(self, index: int) -> dict[str, Any]:
        """Return further entries for a sentence, beside its logit and probability."""
        return {}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Reading(Answers):
    """The answers of a model about one radiograph, with a map per sentence.

    Its ``repr`` shows the source, the model, and the sentences with their probabilities.

    Attributes:
        film: (H, W) uint8, the radiograph as it is displayed and as the model gets it.
        geometry: place of the radiograph in the model's input.
        grid: the maps on the token grid; None for a method without maps.
        dicom: facts from the header of a DICOM file; None for any other file.
    """

    film: npt.NDArray[np.uint8]
    geometry: Geometry
    grid: MapGrid | None = None
    dicom: DicomFacts | None = None

    @property
    def similarity(self) -> npt.NDArray[np.float32] | None:
        """Values (N, h, w) on the token grid, before the sigmoid (:attr:`MapGrid.values`); None without maps."""
        return None if self.grid is None else self.grid.values

    @property
    def attention(self) -> bool:
        """Whether the maps show attention weights instead of similarities."""
        return self.grid is not None and self.grid.attention

    @property
    def _grid(self) -> MapGrid:
        if self.grid is None:
            raise ValueError(f"{self.model}: is of a method without maps (LiT, CLIP); it gives probabilities alone")
        return self.grid

    def map(self, index: int) -> npt.NDArray[np.float32]:
        """Return the similarity map (H, W) in 0..1 of one sentence at the radiograph's size; see :meth:`MapGrid.map`.

        Raises:
            ValueError: for a method without maps.
        """
        return self._grid.map(index)

    @cached_property
    def maps(self) -> npt.NDArray[np.float32]:
        """Maps (N, H, W) of all sentences, by :meth:`map`; they are made at the first access and kept.

        Raises:
            MemoryError: when they would take more than 4 GiB; use :meth:`map` for one sentence at a time.
        """
        needed = len(self.sentences) * self.film.size * 4
        if needed > _MAX_MAP_BYTES:
            raise MemoryError(
                f"{len(self.sentences)} maps of {self.film.shape[0]} x {self.film.shape[1]} pixels take "
                f"{needed / 2**30:.1f} GiB; call reading.map(i) for one at a time"
            )
        out = np.empty((len(self.sentences), *self.film.shape), dtype=np.float32)
        for index in range(len(self.sentences)):
            out[index] = self.map(index)
        return out

    @property
    def peaks(self) -> npt.NDArray[np.int64]:
        """Pixels (N, 2), x first, at which the upsampled maps are greatest.

        Raises:
            ValueError: for a method without maps.
        """
        return self._grid.peaks

    def at(self, sentence: int | str, points: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the map of a sentence at points (..., 2) of the image in pixels, x first; see :meth:`MapGrid.at`.

        Raises:
            ValueError: for a sentence that was not asked, or a method without maps.
        """
        return self._grid.at(self.index(sentence), points)

    def region(self, index: int, threshold: float = 0.5) -> npt.NDArray[np.bool_]:
        """Return a mask (H, W), true where the map of a sentence is at least ``threshold``, which is in 0..1.

        Raises:
            ValueError: for a threshold outside 0..1, or a method without maps.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"a threshold is between 0 and 1, not {threshold}")
        return self.map(index) >= threshold

    def overlay(self, sentence: int | str = 0, *, threshold: float = 0.5) -> Image.Image:
        """Draw a sentence's map over the radiograph, with legend, contour, peak and probability.

        The notice and the warnings about the sentence and the radiograph are written below it, because such pictures
        are passed on without their context.

        Args:
            sentence: the sentence, or its index.
            threshold: value of the map at the contour, 0..1.

        Raises:
            ValueError: for a sentence that was not asked, or a method without maps.
        """
        return SentenceMap(self, self.index(sentence), threshold).picture

    def sentence_maps(self, threshold: float = 0.5) -> "Iterator[SentenceMap]":
        """Yield each sentence's map, one at a time, as a :class:`SentenceMap`."""
        return (SentenceMap(self, index, threshold) for index in range(len(self.sentences)))

    def save(self, folder: str | Path, *, threshold: float = 0.5) -> list[Path]:
        """Write ``reading.json`` and, for a method with maps, one overlay PNG per sentence; return the paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "reading.json"]
        written[0].write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for shown in self.sentence_maps(threshold) if self.grid is not None else ():
            path = folder / f"{shown.index:02d}.png"
            shown.picture.save(path, compress_level=PNG_LEVEL)
            written.append(path)
        return written

    def _facts(self, index: int) -> dict[str, Any]:
        return {} if self.grid is None else {"peak": [int(v) for v in self.grid.peaks[index]]}


class SentenceMap:
    """The map of one sentence of a reading, which is upsampled once however many outputs use it.

    Attributes:
        reading: reading that the map belongs to.
        index: index of the sentence.
        threshold: threshold of contours and regions, 0..1.
    """

    def __init__(self, reading: Reading, index: int, threshold: float) -> None:
        self.reading, self.index, self.threshold = reading, index, threshold

    @cached_property
    def values(self) -> npt.NDArray[np.float32]:
        """Map (H, W) in 0..1, by :meth:`Reading.map`."""
        return self.reading.map(self.index)

    @cached_property
    def picture(self) -> Image.Image:
        """Picture of the map over the radiograph, as :meth:`Reading.overlay` returns it."""
        reading, index = self.reading, self.index
        x, y = reading.peaks[index]
        return render_overlay(
            reading.film,
            self.values,
            sentence=reading.sentences[index],
            probability=float(reading.probabilities[index]),
            threshold=self.threshold,
            peak=(int(x), int(y)),
            notice=reading.notice,
            warnings=reading.warnings_of(index),
            covered=_box(reading.geometry.covered),
        )


def _box(covered: tuple[float, ...]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = covered
    return x0, y0, x1, y1


@dataclass(frozen=True, eq=False)
class EmbeddedFilm:
    """The facts of a radiograph that its reading repeats, kept beside its features so that more can be asked.

    Attributes:
        source: path of the radiograph, or another name of where it was read from.
        film: (H, W) uint8, the radiograph as it is displayed.
        geometry: place of the radiograph in the model's input.
        warnings: warnings about the radiograph.
        dicom: facts from the header of a DICOM file; None for any other file.
    """

    source: str
    film: npt.NDArray[np.uint8] = field(repr=False)
    geometry: Geometry
    warnings: tuple[str, ...] = ()
    dicom: DicomFacts | None = field(default=None, repr=False)


def warning_prefix(sentence: str) -> str:
    """Return the beginning of every warning about a sentence."""
    return f"{sentence!r}: "
