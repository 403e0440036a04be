"""What a model says of a film. Nothing here needs the model, or torch, so other processes may draw it."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from radzero.images import DicomFacts
from radzero.images.geometry import Geometry, MapGeometry
from radzero.overlays import render_overlay

PNG_LEVEL = 3
"""zlib's, of overlays: twice as fast as Pillow's 6, and a tenth larger."""
_MAX_MAP_BYTES = 4 * 2**30
_SENTENCES_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model says of one film.

    Attributes:
        source: the film's path, or what it was read from.
        model: the model's name: a hub id, a folder, or "packaged".
        sentences: the N sentences asked.
        logits: (N,) float32, l of the method, already divided by tau.
        similarity: (N, h, w) float32, s_1..s_L on the patch grid, before the sigmoid; for maps of attention, weights
            over their mean; None for a method without maps.
        film: (H, W) uint8, the film as displayed and as the model saw it.
        geometry: where the film lay in the model's input.
        patch: input pixels per patch.
        warnings: of the film and of the sentences, in words.
        notice: what must be said wherever this reading is shown, or None.
        attention: whether the maps are of attention weights, and not of similarities.
        dicom: facts of a DICOM film's header.
        sha256: hash of the model's weights; "" for one that comes from no files.

    Printed, it is its film, its model, and the sentences with their probabilities.
    """

    source: str
    model: str
    sentences: tuple[str, ...]
    logits: npt.NDArray[np.float32]
    similarity: npt.NDArray[np.float32] | None
    film: npt.NDArray[np.uint8]
    geometry: Geometry
    patch: int
    warnings: tuple[str, ...] = ()
    notice: str | None = None
    attention: bool = False
    dicom: DicomFacts | None = None
    sha256: str = ""

    def __repr__(self) -> str:
        pairs = zip(self.sentences[:_SENTENCES_SHOWN], self.probabilities, strict=False)
        shown = [f"{text!r}: {p:.3f}" for text, p in pairs]
        if (more := len(self.sentences) - len(shown)) > 0:
            shown.append(f"... {more} more")
        return f"Reading({self.source!r}, model={self.model!r}, probabilities={{{', '.join(shown)}}})"

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """(N,) sigmoid of the logits, in 0..1."""
        return _sigmoid(self.logits)

    @cached_property
    def _maps(self) -> MapGeometry:
        return MapGeometry(self.geometry, (self._values.shape[1], self._values.shape[2]), self.patch)

    @property
    def _values(self) -> npt.NDArray[np.float32]:
        if self.similarity is None:
            raise ValueError(f"{self.model}: is of a method without maps (LiT, CLIP); it gives probabilities alone")
        return self.similarity

    def map(self, index: int) -> npt.NDArray[np.float32]:
        """Similarity map (H, W) in 0..1 of one sentence at the film's size.

        The patch similarities are upsampled bilinearly, then passed through a sigmoid; 0 where a crop hid the film
        from the model. Attention, over its mean a, becomes a / (1 + a): 0.5 where a patch gets its even share.

        Raises:
            ValueError: for a method without maps.
        """
        values = self._maps.upsample(self._values[index], fill=0.0 if self.attention else -np.inf)
        return values / (1 + values) if self.attention else _sigmoid(values)

    @cached_property
    def maps(self) -> npt.NDArray[np.float32]:
        """(N, H, W) :meth:`map` of every sentence; made when first asked for, then kept.

        Raises:
            MemoryError: when they would take more than 4 GiB; use :meth:`map`, one sentence at a time.
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

    @cached_property
    def peaks(self) -> npt.NDArray[np.int64]:
        """(N, 2) x, y of the film pixel where the upsampled similarity is greatest."""
        return self._maps.peak(self._values).reshape(-1, 2)

    def region(self, index: int, threshold: float = 0.5) -> npt.NDArray[np.bool_]:
        """(H, W) where the map of a sentence is at least ``threshold``, a probability in 0..1.

        Raises:
            ValueError: for another threshold.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"a threshold is between 0 and 1, not {threshold}")
        return self.map(index) >= threshold

    def overlay(self, sentence: int | str = 0, *, threshold: float = 0.5) -> Image.Image:
        """The film with a sentence's map on it, as a picture with legend, contour, peak and probability.

        The notice, the sentence's own warnings and the film's are written below it: such pictures travel alone.

        Args:
            sentence: its index, or the sentence itself.
            threshold: of the contour, 0..1.

        Raises:
            ValueError: for a sentence that was not asked.
        """
        index = self._index(sentence)
        x, y = self.peaks[index]
        return render_overlay(
            self.film,
            self.map(index),
            sentence=self.sentences[index],
            probability=float(self.probabilities[index]),
            threshold=threshold,
            peak=(int(x), int(y)),
            notice=self.notice,
            warnings=self.warnings_of(index),
            covered=self.geometry.covered,
        )

    def warnings_of(self, sentence: int | str) -> tuple[str, ...]:
        """Warnings of one sentence, without its name, and then those of the film; not those of other sentences.

        Raises:
            ValueError: for a sentence that was not asked.
        """
        return (*self.sentence_warnings(sentence), *self.film_warnings)

    def sentence_warnings(self, sentence: int | str) -> tuple[str, ...]:
        """Warnings of one sentence alone, without its name.

        Raises:
            ValueError: for a sentence that was not asked.
        """
        own = warning_prefix(self.sentences[self._index(sentence)])
        return tuple(text.removeprefix(own) for text in self.warnings if text.startswith(own))

    @property
    def film_warnings(self) -> tuple[str, ...]:
        """Warnings of the film, without those of sentences."""
        named = tuple(map(warning_prefix, self.sentences))
        return tuple(text for text in self.warnings if not text.startswith(named))

    def save(self, folder: str | Path, *, threshold: float = 0.5) -> list[Path]:
        """Write ``reading.json`` and one overlay PNG per sentence; returns what was written."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "reading.json"]
        written[0].write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for index in range(len(self.sentences) if self.similarity is not None else 0):
            path = folder / f"{index:02d}.png"
            self.overlay(index, threshold=threshold).save(path, compress_level=PNG_LEVEL)
            written.append(path)
        return written

    def to_dict(self) -> dict[str, Any]:
        """What ``predictions.jsonl`` holds: plain numbers and strings; no peak for a method without maps."""
        peaks: list[dict[str, list[int]]] = [{}] * len(self.sentences)
        if self.similarity is not None:
            peaks = [{"peak": [int(x), int(y)]} for x, y in self.peaks]
        return {
            "image": self.source,
            "model": self.model,
            "sentences": [
                {"sentence": text, "logit": float(logit), "probability": float(p), **peak}
                for text, logit, p, peak in zip(self.sentences, self.logits, self.probabilities, peaks, strict=True)
            ],
            "warnings": [*([self.notice] if self.notice else []), *self.warnings],
        }

    def _index(self, sentence: int | str) -> int:
        if isinstance(sentence, str):
            if sentence not in self.sentences:
                raise ValueError(f"{sentence!r} was not asked of {self.source}; asked were {list(self.sentences)}")
            return self.sentences.index(sentence)
        if not -len(self.sentences) <= sentence < len(self.sentences):
            raise ValueError(f"there is no sentence {sentence}; {len(self.sentences)} were asked of {self.source}")
        return sentence


@dataclass(frozen=True, eq=False)
class SeenFilm:
    """What a reading says of its film besides the model's answers.

    Attributes:
        source: as in :class:`Reading`.
        film: (H, W) uint8, as displayed.
        geometry: where it lay in the model's input.
        warnings: of the film.
        dicom: facts of its header.
    """

    source: str
    film: npt.NDArray[np.uint8] = field(repr=False)
    geometry: Geometry
    warnings: tuple[str, ...] = ()
    dicom: DicomFacts | None = field(default=None, repr=False)


def warning_prefix(sentence: str) -> str:
    """How a warning of a sentence begins."""
    return f"{sentence!r}: "


def _sigmoid(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float32)
