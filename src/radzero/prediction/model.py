"""Load a model once, ask it any sentences about radiographs, and get readings."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from radzero.images import Radiograph, ReadLimits, read_radiograph
from radzero.images.geometry import Geometry
from radzero.models.base import VisionLanguageModel
from radzero.models.checkpoints import load_processor, open_checkpoint
from radzero.models.configuration import VisionLanguageConfig, registers
from radzero.models.errors import CheckpointError
from radzero.models.loading import load_model
from radzero.models.processor import RadZeroProcessor
from radzero.models.tensors import weights_hash
from radzero.prediction.maps import MapGrid
from radzero.prediction.reading import EmbeddedFilm, Reading, warning_prefix
from radzero.prediction.sentence_cache import SentenceCache

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[Any] | Image.Image | Radiograph

PACKAGED = "packaged"
"""Name of the model that comes with the package, in readings and as an argument."""

_SENTENCE_CACHE = 50_000
_SENTENCE_CACHE_BYTES = 2**28


class RadZero:
    """A loaded model: a network, its processor, and a cache of sentence embeddings.

    Make it with :func:`load`. Use one per thread, because the cache is not locked.

    Attributes:
        model, processor: the network, in evaluation mode, and its processor.
        name: name of the model in readings.
        folder: folder of the checkpoint's files, or None for a model that was not loaded from files.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        processor: RadZeroProcessor,
        *,
        name: str,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
    ) -> None:
        self.model = model.eval().to(device)
        self.processor = processor
        self.name = name
        self.folder = folder
        self._embeddings = SentenceCache(_SENTENCE_CACHE, _SENTENCE_CACHE_BYTES)
        self._facts = lru_cache(_SENTENCE_CACHE)(self._look_up)

    @property
    def notice(self) -> str | None:
        """Text that must be shown with every reading of this model, or None."""
        return (self.model.config.card or {}).get("notice")

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        return self.model.dtype

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the checkpoint's weights, in hexadecimal; "" for a model that was not loaded from files."""
        return weights_hash(self.folder) if self.folder else ""

    @property
    def film_seed(self) -> int | None:
        """Seed of the phantoms that the model was trained on, or None."""
        return (self.model.config.card or {}).get("film_seed")

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        sentences: str | Sequence[str],
        *,
        batch_size: int = 8,
        limits: ReadLimits | None = None,
    ) -> list[Reading]:
        """Ask every sentence of every image.

        Args:
            images: one image or many; each is a path, the content of a file as bytes, an (H, W) or (H, W, 3) array, a
                PIL image or a :class:`Radiograph`. A path names one file; give a 3-D stack of images as a list.
            sentences: one sentence or many.
            batch_size: images per pass through the network.
            limits: limits of file and image sizes; the defaults of :class:`ReadLimits` when None.

        Returns:
            One reading per image, in the order given.

        Raises:
            RadiographError: for an image that cannot be read; the message names it and the reason.
            ValueError: for an empty sentence or a batch size below 1.
            TypeError: for images of another type.
        """
        return list(self.stream(images, sentences, batch_size=batch_size, limits=limits))

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        sentences: str | Sequence[str],
        *,
        batch_size: int = 8,
        limits: ReadLimits | None = None,
    ) -> Iterator[Reading]:
        """Yield the readings of :meth:`predict` one at a time: memory does not grow with the number of images."""
        asked = _sentences(sentences)
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size}")
        embeddings = self.embed_sentences(asked)
        unread = self._sentence_warnings(asked)
        many = _is_many(images)
        batch: list[Radiograph] = []
        for image in images if many else (images,):  # type: ignore[union-attr]
            batch.append(read_radiograph(image, limits=limits))  # type: ignore[arg-type]
            if len(batch) == batch_size:
                yield from self._read(batch, asked, embeddings, unread)
                batch = []
        if batch:
            yield from self._read(batch, asked, embeddings, unread)

    @torch.inference_mode()
    def embed_sentences(self, sentences: Sequence[str], *, chunk: int = 256) -> Tensor:
        """Return the sentences' features (N, ...), for RadZero (N, D), encoding ``chunk`` sentences at a time.

        The features of the 50,000 sentences used last, or of as many as fit into 256 MiB, are cached.
        """
        if not sentences:
            return torch.empty(0, *self.model.sentence_shape, device=self.device)
        distinct = dict.fromkeys(sentences)
        known = [text for text in distinct if text in self._embeddings]
        missing = [text for text in distinct if text not in self._embeddings]
        missing.sort(key=len)  # sentences of similar length in one chunk need less padding
        parts = [self._embeddings.get(known)] if known else []
        for start in range(0, len(missing), chunk):
            tokens = self.processor.sentences(missing[start : start + chunk])
            parts.append(self.model.encode_sentences(**{key: value.to(self.device) for key, value in tokens.items()}))
        features = torch.cat(parts)
        rows = {text: row for row, text in enumerate([*known, *missing])}
        self._embeddings.keep(list(rows), features)
        return features[[rows[text] for text in sentences]]

    @torch.inference_mode()
    def embed_films(self, films: Sequence[Radiograph]) -> tuple[Tensor, list[Geometry]]:
        """Return image features (B, T, D), for RadZero tokens with CLS first, and each image's place in the input."""
        pixels, geometries = self.processor.films(films)
        return self.embed_pixels(pixels), geometries

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Return the features (B, T, D) of pixel values (B, 3, H, W) that the processor made."""
        return self.model.encode_images(pixels.to(self.device, self.dtype))

    @torch.inference_mode()
    def compare(
        self, tokens: Tensor, embeddings: Tensor, *, chunk: int = 256
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Return the logits (B, N) and the similarity (B, N, L) of image features with sentence features.

        The similarity is None for a method without maps. ``chunk`` sentences are compared at a time.
        """
        images, count, patches = len(tokens), len(embeddings), tokens.shape[1] - self.model.prefix_tokens
        logits = np.empty((images, count), dtype=np.float32)
        similarity = np.empty((images, count, patches), dtype=np.float32) if self.model.has_maps else None
        for start in range(0, count, chunk):
            part = self.model.similarity(tokens, embeddings[start : start + chunk])
            logits[:, start : start + chunk] = part.logits.float().cpu().numpy()
            if similarity is not None and part.similarity is not None:
                similarity[:, start : start + chunk] = part.similarity.float().cpu().numpy()
        return logits, similarity

    @property
    def maps_are_attention(self) -> bool:
        """Whether the model's maps show attention weights instead of similarities."""
        return getattr(self.model.config, "map_kind", "") == "attention"

    def _read(
        self, films: list[Radiograph], asked: tuple[str, ...], embeddings: Tensor, unread: tuple[str, ...]
    ) -> Iterator[Reading]:
        inputs = [self.processor.geometry((film.height, film.width)).input for film in films]
        for _, group in groupby(range(len(films)), key=inputs.__getitem__):  # all inputs of a pass have one size
            yield from self._read_alike([films[k] for k in group], asked, embeddings, unread)

    def _read_alike(
        self, films: list[Radiograph], asked: tuple[str, ...], embeddings: Tensor, unread: tuple[str, ...]
    ) -> Iterator[Reading]:
        tokens, geometries = self.embed_films(films)
        logits, similarity = self.compare(tokens, embeddings)
        for k, film in enumerate(films):
            seen = EmbeddedFilm(film.source, film.to_uint8(), geometries[k], (*film.warnings, *unread), film.dicom)
            yield self._reading(seen, asked, logits[k], None if similarity is None else similarity[k])

    def answer(self, tokens: Tensor, films: Sequence[EmbeddedFilm], sentences: Sequence[str]) -> list[Reading]:
        """Return the readings of images whose features (B, T, D) are computed already.

        Raises:
            ValueError: for an empty sentence.
        """
        asked = _sentences(sentences)
        unread = self._sentence_warnings(asked)
        logits, similarity = self.compare(tokens, self.embed_sentences(asked))
        return [
            self._reading(
                replace(film, warnings=(*film.warnings, *unread)),
                asked,
                logits[k],
                None if similarity is None else similarity[k],
            )
            for k, film in enumerate(films)
        ]

    def _reading(
        self,
        film: EmbeddedFilm,
        asked: tuple[str, ...],
        logits: npt.NDArray[np.float32],
        similarity: npt.NDArray[np.float32] | None,
    ) -> Reading:
        grid = None
        if similarity is not None:
            shape = (len(asked), *self.model.token_grid(film.geometry.input))
            grid = MapGrid(similarity.reshape(shape), film.geometry, self.model.patch, self.maps_are_attention)
        return Reading(
            source=film.source,
            model=self.name,
            sentences=asked,
            logits=logits,
            film=film.film,
            geometry=film.geometry,
            grid=grid,
            warnings=film.warnings,
            notice=self.notice,
            dicom=film.dicom,
            sha256=self.sha256,
        )

    def unknown_words(self, sentence: str) -> tuple[str, ...]:
        """Return the words of a sentence that the model cannot know, in order and without repeats.

        The answers for the 50,000 sentences used last are cached.
        """
        return self._facts(sentence).unknown_words

    def _look_up(self, sentence: str) -> "_SentenceFacts":
        return _SentenceFacts(tuple(self.processor.unknown_words(sentence)), self.processor.token_count(sentence))

    def _sentence_warnings(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Return a warning for each sentence with words that the model cannot know, and for each that it must cut."""
        warnings, limit = [], self.processor.max_tokens
        for text in asked:
            words, length = self._facts(text)
            if words:
                named = f"the word{'s' if len(words) > 1 else ''} {', '.join(words)}"
                warnings.append(f"{warning_prefix(text)}this model has never seen {named}; do not trust its answer")
            if length > limit:
                warnings.append(
                    f"{warning_prefix(text)}has {length} tokens, and this model reads the first {limit} only"
                )
        return tuple(warnings)


class _SentenceFacts(NamedTuple):
    """Facts of a sentence from the tokenizer: the words that it does not know, and the number of tokens."""

    unknown_words: tuple[str, ...]
    tokens: int


def _sentences(sentences: str | Sequence[str]) -> tuple[str, ...]:
    asked = (sentences,) if isinstance(sentences, str) else tuple(sentences)
    for k, text in enumerate(asked):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"sentence {k} is empty or not text: {text!r}")
    return asked


def _is_many(images: Any) -> bool:
    if isinstance(images, str | os.PathLike | bytes | Radiograph | Image.Image | np.ndarray):
        return False
    if isinstance(images, Iterable):
        return True
    raise TypeError(f"images must be paths, bytes, arrays, PIL images or Radiographs, not {type(images).__name__}")


def load(
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
) -> RadZero:
    """Load a model once, to ask it any number of sentences.

    Args:
        model: None or "packaged" for the packaged model (trained on synthetic phantoms, not for real radiographs),
            else a folder or a hub id, in our format or the published one. A folder that is called "packaged" comes
            before the packaged model.
        device: "cpu", "cuda", ...; None takes a GPU if there is one.
        dtype: type of the weights, such as "bfloat16"; float32 when None. Similarities are float32 in any case.
        revision: branch, tag or commit of a hub id; "owner/name@revision" is another way to give it.
        local_files_only: whether to use local files only and never ask the hub.

    Raises:
        CheckpointError: when the checkpoint cannot be loaded; the message says why and what to do.
        ValueError: for a device or dtype that cannot be used.
    """
    source = model_source(model)
    checkpoint = open_checkpoint(source, revision=revision, local_files_only=local_files_only)
    network = load_model(checkpoint, dtype=dtype)
    processor = load_processor(checkpoint.folder, checkpoint.config)
    if checkpoint.published:
        _note_input_size(network.config, processor)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = PACKAGED if model is None else str(model)
    if revision and not Path(source).is_dir():
        name = f"{name}@{revision}"
    try:
        return RadZero(network, processor, name=name, device=device, folder=checkpoint.folder)
    except (RuntimeError, AssertionError) as error:  # torch raises either of them when the device is missing
        raise ValueError(f'the device {str(device)!r} cannot be used ({error}); "cpu" always can') from error


def _note_input_size(config: VisionLanguageConfig, processor: RadZeroProcessor) -> None:
    """Set a notice, shown with every reading, where a published checkpoint's files disagree on the input size."""
    shape = processor.geometry((config.image_size,) * 2).input
    if config.image_size not in shape:
        config.card = (config.card or {}) | {
            "notice": f"This model's preprocessor_config.json makes inputs of {shape[0]} x {shape[1]} pixels, and its "
            f"config.json says that its encoder is run at {config.image_size}: its answers are other ones."
        }


def model_source(model: str | Path | None) -> str | Path:
    """Return the folder or hub id of a model; for None and "packaged" the packaged model's folder.

    A file or folder that is called "packaged" comes before the packaged model.

    Raises:
        CheckpointError: when the packaged model's files are missing.
    """
    if model is not None and (str(model) != PACKAGED or Path(model).exists()):
        return model
    folder = packaged_folder()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: the packaged model's files are not there; install radzero again")
    return folder


def packaged_folder() -> Path:
    """Return the folder of the packaged model's files."""
    return Path(str(files("radzero") / "packaged"))


def describe(
    model: str | Path | None = None, *, revision: str | None = None, local_files_only: bool = False
) -> dict[str, Any]:
    """Return what ``radzero info`` prints: architecture, sizes, training data, licence and the weights' SHA-256.

    Args:
        model: see :func:`load`.
        revision: see :func:`load`.
        local_files_only: see :func:`load`.

    Raises:
        CheckpointError: see :func:`load`.
    """
    source = model_source(model)
    checkpoint = open_checkpoint(source, revision=revision, local_files_only=local_files_only)
    network = load_model(checkpoint)
    config, card = checkpoint.config, checkpoint.config.card or {}
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (
            ("vision", network.vision_model),
            ("align", getattr(network, "align_transformer", None)),
            ("fusion", getattr(network, "fusion_module", None)),
            ("text", network.text_model),
        )
        if part is not None
    }
    attention = getattr(network, "attention_temperature", None)
    blocks = getattr(config, "align_config", None)
    grid = network.token_grid((config.image_size,) * 2)
    return {
        "model": PACKAGED if model is None else str(model),
        "format": "published (CxrAlignModel)" if checkpoint.published else "radzero",
        "architecture": config.method,
        "vision_encoder": config.vision_config.model_type,
        "text_encoder": config.text_config.model_type,
        "registers": registers(config.vision_config),
        "registers_in_attention": config.registers_in_attention,
        "align_layers": blocks.num_hidden_layers if blocks else 0,
        "hidden_size": config.vision_config.hidden_size,
        "image_size": config.image_size,
        "patch_grid": list(grid),
        "similarity": getattr(config, "similarity", None),
        "temperature": float(network.temperature.detach()),
        "attention_temperature": None if attention is None else float(attention.detach()),
        "position_rule": config.position_rule,
        "parameters": {**counts, "total": sum(p.numel() for p in network.parameters())},
        "training_data": card.get("data"),
        "licence": card.get("licence"),
        "notice": card.get("notice"),
        "assumed": card.get("assumed"),
        "sha256": weights_hash(checkpoint.folder),
    }
