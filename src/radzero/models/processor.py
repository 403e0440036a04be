"""Make a model's inputs from radiographs and sentences, with the checkpoint's own image processor and tokenizer."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin, TensorType
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import SizeDict

from radzero.images.geometry import Geometry
from radzero.images.radiograph import Radiograph
from radzero.images.reader import read_radiograph


@runtime_checkable
class StatesGeometry(Protocol):
    """An image processor that states its own geometry; that of transformers' processors follows from their settings."""

    def geometry(self, shape: Sequence[int]) -> Geometry:
        """Return where an image of this shape, (H, W), lies in the input."""
        ...


class RadZeroProcessor(ProcessorMixin):
    """An image processor and a tokenizer, saved and loaded together.

    It is called like any transformers processor: ``processor(images=..., text=...)``. :meth:`films` also returns where
    each radiograph lies in its input.

    Attributes:
        positions: largest number of tokens for which the text encoder has positions; None where it is unknown.
    """

    positions: int | None = None

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load the processor of a checkpoint, a folder or a hub id, in our format or the published one.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            **options: ``revision``, ``cache_dir``, ``token``, ``local_files_only`` for hub ids; other options, which
                transformers passes to every processor, have no effect.

        Raises:
            CheckpointError: when a file is missing or damaged.
        """
        from radzero.models.checkpoints import read_processor  # here, because it imports this module

        hub = {key: options[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in options}
        return cast(Self, read_processor(pretrained_model_name_or_path, **hub))

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Return pixel values (B, 3, H, W) of images, and token ids and attention mask (N, S) of sentences.

        Args:
            images: one image or a list of them; each is a path, an array, a PIL image or a
                :class:`~radzero.images.radiograph.Radiograph`.
            text: one sentence or several.
            **kwargs: ``return_tensors`` (only "pt", the default); ``padding``, ``truncation`` and ``max_length`` for
                sentences.

        Raises:
            ValueError: when neither images nor text are given, or for another kind of tensors.
            TypeError: for an option that is not known.
        """
        if images is None and text is None:
            raise ValueError("give images, text or both")
        if (tensors := kwargs.pop("return_tensors", "pt")) not in ("pt", TensorType.PYTORCH):
            raise ValueError(f'return_tensors={tensors!r}: only PyTorch tensors ("pt") are made')
        options = {key: kwargs.pop(key) for key in ("padding", "truncation", "max_length") if key in kwargs}
        if kwargs:
            raise TypeError(f"unknown options: {', '.join(kwargs)}")
        data: dict[str, Any] = {}
        if images is not None:
            many = images if isinstance(images, list | tuple) else [images]
            data["pixel_values"] = self.films([read_radiograph(image) for image in many])[0]
        if text is not None:
            data.update(self.sentences([text] if isinstance(text, str) else list(text), **options))
        return BatchFeature(data)

    def sentences(self, sentences: Sequence[str], **options: Any) -> dict[str, Tensor]:
        """Tokenise sentences, padded to the longest and cut at :attr:`max_tokens`.

        The result holds ``input_ids`` and ``attention_mask`` (N, S). ``options`` are the tokenizer's ``padding``,
        ``truncation`` and ``max_length``.
        """
        chosen = {"padding": True, "truncation": True, "max_length": self.max_tokens, **options}
        encoded = self.tokenizer(list(sentences), return_tensors="pt", **chosen)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens per sentence: the least of the tokenizer's limit, the positions and 512."""
        return min(int(self.tokenizer.model_max_length), self.positions or 512, 512)

    def unknown_words(self, sentence: str) -> list[str]:
        """Return the words for which the tokenizer has no token, in order and without repeats.

        The model cannot have learned them. Punctuation around a word is not part of it.
        """
        unknown = self.tokenizer.unk_token_id
        words = list(dict.fromkeys(_without_punctuation(word) for word in sentence.split()))
        if unknown is None or not words:
            return []
        tokens = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        return [word for word, ids in zip(words, tokens, strict=True) if unknown in ids]

    def token_count(self, sentence: str) -> int:
        """Return a sentence's number of tokens before it is cut, special tokens included, or an upper bound.

        A sentence that must fit :attr:`max_tokens` is not tokenised: its number of bytes + 2 is returned.
        """
        if (most := len(sentence.encode()) + 2) <= self.max_tokens:  # each token has at least one byte
            return most
        return len(self.tokenizer(sentence, verbose=False)["input_ids"])

    def films(self, films: Sequence[Radiograph]) -> tuple[Tensor, list[Geometry]]:
        """Return the pixel values (B, 3, H, W), float32, of radiographs, and where each radiograph lies in them.

        Raises:
            ValueError: when the geometry cannot be derived from the image processor's settings.
        """
        pixels, geometries = [], []
        for film in films:
            values = self._pixels(film)
            geometry = self.geometry((film.height, film.width))
            if geometry.input != tuple(values.shape[-2:]):
                raise ValueError(
                    f"the image processor gave {tuple(values.shape[-2:])} pixels where {geometry.input} were expected; "
                    f"its settings are not understood: {self.image_processor.to_dict()}"
                )
            pixels.append(values)
            geometries.append(geometry)
        return torch.stack(pixels).float(), geometries

    def _pixels(self, film: Radiograph) -> Tensor:
        """Return the pixel values (3, H, W) of a radiograph; where possible, resize only one of its equal channels."""
        processor = self.image_processor
        if not _is_separable(processor):
            return processor(film.to_rgb(), return_tensors="pt")["pixel_values"][0]
        picture = Image.fromarray(film.to_uint8())
        grey = processor(picture, do_convert_rgb=False, do_normalize=False, do_pad=False, return_tensors="np")
        values = np.repeat(grey["pixel_values"][0], 3, axis=0)
        if processor.do_normalize:
            values = processor.normalize(values, processor.image_mean, processor.image_std)
        if getattr(processor, "do_pad", None):
            height, width = (int(processor.pad_size[side]) for side in ("height", "width"))
            (values,) = processor.pad([values], pad_size=SizeDict(height=height, width=width))
        return torch.from_numpy(values)

    def geometry(self, shape: Sequence[int]) -> Geometry:
        """Return how the image processor places an image of this shape, (H, W): it resizes, centre-crops, then pads."""
        processor = self.image_processor
        if isinstance(processor, StatesGeometry):
            return processor.geometry(shape)
        height, width = shape
        original = resized = (height, width)
        if processor.do_resize:
            resized = _resized(original, processor.size)
        placed, size = (0, 0), resized
        if getattr(processor, "do_center_crop", None):
            crop = (int(processor.crop_size["height"]), int(processor.crop_size["width"]))
            placed = (_crop_offset(resized[0], crop[0]), _crop_offset(resized[1], crop[1]))
            size = crop
        if getattr(processor, "do_pad", None) and getattr(processor, "pad_size", None):
            size = (int(processor.pad_size["height"]), int(processor.pad_size["width"]))
        return Geometry.of(original, resized, placed, size)


def _is_separable(processor: BaseImageProcessor) -> bool:
    """Return whether a processor treats each channel alone until it normalises: every step is the backend's own."""
    own = ("_preprocess", "process_image", "resize", "center_crop", "rescale", "normalize", "pad")
    return isinstance(processor, PilBackend) and all(
        getattr(type(processor), name) is getattr(PilBackend, name) for name in own
    )


def _without_punctuation(word: str) -> str:
    """Return a word without the punctuation around it; a word of punctuation alone is unchanged."""
    inside = [k for k, character in enumerate(word) if not unicodedata.category(character).startswith("P")]
    return word[inside[0] : inside[-1] + 1] if inside else word


def _crop_offset(length: int, crop: int) -> int:
    """Return where a side of ``length`` pixels starts in a centre crop of ``crop`` pixels; negative where it is cut.

    It is cut or, where it is too short, padded as transformers does.
    """
    return -((length - crop) // 2) if length >= crop else (crop - length + 1) // 2


def _resized(original: tuple[int, int], size: Any) -> tuple[int, int]:
    keys = {key for key in ("height", "width", "shortest_edge", "longest_edge") if size.get(key)}
    if keys == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if keys == {"shortest_edge"}:
        blank = np.broadcast_to(np.uint8(0), (1, *original))
        new = get_resize_output_image_size(
            blank,
            size=int(size["shortest_edge"]),
            default_to_square=False,
            input_data_format="channels_first",
        )
        return int(new[0]), int(new[1])
    raise ValueError(f"image sizes of this form are not supported: {size}; use height and width, or shortest_edge")
