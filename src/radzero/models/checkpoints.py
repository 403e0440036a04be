"""Read checkpoints in our format and the published one (``CxrAlignModel``): safetensors only, no remote code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.image_processing_base import ImageProcessingMixin

from radzero._transformers import PUBLISHED_ARCHITECTURE, is_published
from radzero.images.reader import read_radiograph
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.errors import CheckpointError, short
from radzero.models.hub import fetch
from radzero.models.processor import RadZeroProcessor, StatesGeometry
from radzero.models.published.configuration import translate_config
from radzero.models.published.tensors import fit_tensors, published_name, rename_tensors
from radzero.models.registry import method_of_type, model_types
from radzero.models.tensors import INDEX, WEIGHTS, Weights, aligned, weights_hash

__all__ = ["Checkpoint", "CheckpointError", "load_processor", "open_checkpoint", "read_processor", "weights_hash"]

_OFFSET_POSITIONS = ("mpnet", "roberta", "xlm-roberta", "camembert", "longformer")
"""Text encoders whose first position is 2, so that two of their position embeddings serve no token."""


_MOST_LAYERS = 1000
"""Largest number of layers that a config may state; no transformer loaded here has as many."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        folder: folder of its files.
        source: hub id or folder, as the user gave it.
        config: the method's configuration, translated where the checkpoint is in the published format.
        published: whether the checkpoint is in the published format.
        weights: its tensors; names and shapes are read on opening, values on demand.
    """

    folder: Path
    source: str
    config: VisionLanguageConfig
    published: bool
    weights: Weights

    def meta(self) -> dict[str, Tensor]:
        """Return the tensors under the names of the method's model, without values."""
        return self._named(self.weights.meta())

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return the tensors under the names of the method's model, in one floating type (float32 when None)."""
        return {name: aligned(tensor) for name, tensor in self._named(self.weights.load(dtype)).items()}

    def name_in_file(self, name: str) -> str:
        """Return the name that one of our tensors has in the checkpoint's files, as far as our name determines it."""
        return published_name(name) if self.published else name

    def _named(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            renamed = rename_tensors(tensors)
            return fit_tensors(renamed, self.config) if self.published else renamed
        except ValueError as error:
            raise CheckpointError(f"{self.source}: {error}") from error


def open_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find a checkpoint's folder (fetching a hub id that is not cached), read its configuration and open its weights.

    Args:
        source: a folder or a hub id; "owner/name@revision" also names the revision.
        revision: branch, tag or commit of a hub id.
        cache_dir: folder for fetched files; the hub's usual folder when None.
        token: token for the hub; the one of the user's login when None.
        local_files_only: use the cache alone, without contacting the hub.

    Raises:
        CheckpointError: when there is no such folder or hub id, its ``config.json`` is not one of ours or contradicts
            the tensors, or a file is missing or damaged.
    """
    folder = Path(source)
    if not _is_folder(folder):
        folder = fetch(str(source), revision, cache_dir, token, local_files_only)
    path = folder / "config.json"
    content = _read_config(path, folder, str(source))
    if not (published := is_published(content)):
        config = open_config(content, path)
    weights = Weights(folder)
    if published:
        with _named(path):
            config = translate_config(content, weights.meta())
    return Checkpoint(folder, str(source), config, published, weights)


def open_config(content: Mapping[str, Any], path: Path) -> VisionLanguageConfig:
    """Return the configuration in the content of a ``config.json`` of our format.

    Raises:
        CheckpointError: when the content is of another model, or describes none.
    """
    method = method_of_type(str(content.get("model_type")))
    if method is None:
        raise CheckpointError(
            f"{path}: is of a {short(content.get('model_type') or content.get('architectures'))} model; RadZero reads "
            f"{', '.join(model_types())} and the published {PUBLISHED_ARCHITECTURE}"
        )
    for name, part in content.items():
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        if isinstance(layers, int) and layers > _MOST_LAYERS:  # some configuration classes build a list of that length
            raise CheckpointError(f"{path}: {name}.num_hidden_layers is {layers}; no encoder has so many")
    with _named(path):
        return method.config_class.from_dict(dict(content))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn errors from interpreting a file's content into a :class:`CheckpointError` that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # configuration classes raise errors of any type
        reason = " ".join(str(error).split())[:1000] or type(error).__name__
        raise CheckpointError(f"{path}: {reason}") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # such as a name that is too long, or a folder without permission
        raise CheckpointError(f"{short(str(path))}: cannot be looked for ({error.strerror or error})") from error


def _read_config(path: Path, folder: Path, source: str) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is no file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{source}: has no config.json, so it is not a checkpoint ({folder})") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content


def read_processor(source: str | Path, **hub: Any) -> RadZeroProcessor:
    """Load the processor of a checkpoint (a folder or a hub id); the weights are not fetched for it.

    Args:
        source: see :func:`open_checkpoint`.
        **hub: ``revision``, ``cache_dir``, ``token``, ``local_files_only``.

    Raises:
        CheckpointError: see :func:`load_processor`; or when ``config.json`` cannot be read.
    """
    folder = Path(source)
    if not _is_folder(folder):
        folder = fetch(str(source), **hub, weights=False)
    content = _read_config(folder / "config.json", folder, str(source))
    if not is_published(content):
        return load_processor(folder, open_config(content, folder / "config.json"))
    there = any((folder / name).exists() for name in (WEIGHTS, INDEX))
    return load_processor(folder, open_checkpoint(folder).config if there else None)


_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""Files that may hold a tokenizer's vocabulary; where all are missing, transformers makes an empty vocabulary."""


def load_processor(folder: Path, config: VisionLanguageConfig | None = None) -> RadZeroProcessor:
    """Load the image processor and the tokenizer from a checkpoint's own files.

    With ``config``, transformers need not read the model type in ``config.json``: it does not know a published
    checkpoint's.

    Raises:
        CheckpointError: when either is missing, damaged, or does not fit the model.
    """
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise CheckpointError(f"{folder}: has no tokenizer of its own (none of {', '.join(_TOKENIZER_FILES)})")
    if not any((folder / name).exists() for name in _IMAGE_FILES):
        raise CheckpointError(
            f"{folder}: has no {_IMAGE_FILES[0]}, which says how films become inputs (size, mean, deviation); copy the "
            "one that belongs to this checkpoint"
        )
    parts = []
    for what, loader, options in (
        (
            "image processor (preprocessor_config.json)",
            AutoImageProcessor,
            # with the file's name, transformers does not read config.json to see whether the model is timm's
            {"backend": "pil", "image_processor_filename": "preprocessor_config.json"},
        ),
        (
            "tokenizer (tokenizer.json, tokenizer_config.json)",
            AutoTokenizer,
            {"config": config.text_config} if config else {},
        ),
    ):
        try:
            parts.append(loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options))
        except MemoryError:
            raise
        except Exception as error:  # the tokenizers library raises plain Exception
            raise CheckpointError(f"{folder}: its {what} cannot be read ({_cut(error)})") from error
    if not parts[1].vocab_size:
        raise CheckpointError(f"{folder}: its tokenizer has no vocabulary (no tokenizer.json or vocab.txt)")
    processor = RadZeroProcessor(*parts)
    if config and (positions := getattr(config.text_config, "max_position_embeddings", None)):
        processor.positions = int(positions) - (2 if config.text_config.model_type in _OFFSET_POSITIONS else 0)
    if config and (positions := getattr(config, "text_positions", None)):  # CARZero's limit
        processor.positions = min(processor.positions or positions, int(positions))
    _try_images(processor, folder, config)
    _try_sentences(processor, folder, config)
    return processor


_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
_LARGEST_INPUT = 8192


def _cut(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _try_images(processor: RadZeroProcessor, folder: Path, config: VisionLanguageConfig | None) -> None:
    """Preprocess a small image, so that settings that cannot be used are reported when a model is loaded."""
    images = processor.image_processor
    where = f"{folder}: its image processor (preprocessor_config.json)"
    if getattr(images, "do_normalize", True) and not isinstance(images, StatesGeometry):
        stated, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
        if missing := [key for key in ("image_mean", "image_std") if stated.get(key) is None]:
            raise CheckpointError(f"{where} states no {' and no '.join(missing)}; each encoder has its own")
    film = read_radiograph(np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) * 30)
    least = config.vision_config.patch_size if config else 1
    try:
        shape = processor.geometry((film.height, film.width)).input
        if not least <= min(shape) <= max(shape) <= _LARGEST_INPUT:
            raise ValueError(f"it makes inputs of {shape[0]} x {shape[1]} pixels")
        with np.errstate(all="ignore"):
            pixels, _ = processor.films([film])
        if not bool(torch.isfinite(pixels).all()):
            raise ValueError("it makes values that are not finite, such as by a deviation of 0")
    except MemoryError:
        raise
    except Exception as error:  # unusable settings raise errors of any type
        raise CheckpointError(f"{where} cannot be used ({_cut(error)})") from error


def _try_sentences(processor: RadZeroProcessor, folder: Path, config: VisionLanguageConfig | None) -> None:
    """Tokenise a sentence, and compare the tokenizer's ids with the text encoder's word embeddings."""
    where = f"{folder}: its tokenizer (tokenizer.json, tokenizer_config.json)"
    try:
        if processor.max_tokens < 3:
            raise ValueError(f"sentences would have {processor.max_tokens} tokens at most")
        processor.sentences(["There is no pleural effusion."])
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(f"{where} cannot be used ({_cut(error)})") from error
    largest = max(processor.tokenizer.get_vocab().values())
    if config and largest >= (words := config.text_config.vocab_size):
        raise CheckpointError(
            f"{where} has ids up to {largest}, and the text encoder has {words} word embeddings: they do not belong "
            "together"
        )
