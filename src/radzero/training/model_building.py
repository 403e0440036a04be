"""Build the model that a run starts from: a checkpoint, two pretrained encoders, or random weights."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, Dinov2Config, PreTrainedModel, ViTConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.utils import logging as transformers_logging

from radzero.models.auto import PublishedConfig
from radzero.models.base import VisionLanguageModel
from radzero.models.carzero import CarZeroModel
from radzero.models.checkpoints import load_processor, open_checkpoint
from radzero.models.configuration import (
    VISION_CONFIGS,
    VISION_NAMES,
    AlignedConfig,
    ConvStemConfig,
    VisionLanguageConfig,
    registers,
)
from radzero.models.hub import folder_of
from radzero.models.known_encoders import KNOWN_ENCODERS
from radzero.models.loading import build_model, load_model
from radzero.models.processor import RadZeroProcessor
from radzero.models.registry import METHODS, model_types
from radzero.training.config import ModelChoice, ModelSizes
from radzero.training.lora import add_adapters
from radzero.training.vocabulary import word_tokenizer


def build_start(
    choice: ModelChoice, words: Callable[[], Iterable[str]]
) -> tuple[VisionLanguageModel, RadZeroProcessor]:
    """Return the model, in float32 and ready to be trained, and its processor.

    Args:
        choice: choice of the model.
        words: function that gives the words of a small model's vocabulary.

    Raises:
        ValueError: for a checkpoint that cannot be read; the message names it.
    """
    if choice.start:
        checkpoint = open_checkpoint(choice.start, local_files_only=choice.local_files_only)
        if not isinstance(checkpoint.config, METHODS[choice.method].config_class):
            raise ValueError(
                f"model.start: {choice.start} is a {checkpoint.config.method} checkpoint, and model.method is "
                f"{choice.method}"
            )
        model = load_model(checkpoint)
        processor = load_processor(checkpoint.folder, checkpoint.config)
    else:
        model, processor = _of_parts(choice, words)
    choose_trained(model, choice)
    return model.train(), processor


def choose_trained(model: VisionLanguageModel, choice: ModelChoice) -> None:
    """Freeze what is not trained, and have activations recomputed where ``choice.recompute`` says so."""
    model.requires_grad_(True)
    if choice.train_vision == "frozen":
        model.vision_model.requires_grad_(False)
    elif choice.train_vision == "lora":
        add_adapters(model, choice.lora_rank)
    for name, parameter in model.named_parameters():
        if name.endswith("mask_token"):  # for masked image modelling, which nothing here does
            parameter.requires_grad_(False)
    if choice.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def start_config(choice: ModelChoice, words: Callable[[], Iterable[str]]) -> VisionLanguageConfig:
    """Return the architecture that a run starts with, without its weights.

    Args:
        choice, words: as in :func:`build_start`.

    Raises:
        ValueError: for a checkpoint or encoder whose configuration cannot be read; the message names it.
    """
    if choice.start:
        return open_checkpoint(choice.start, local_files_only=choice.local_files_only).config
    vision = _encoder_config(choice.vision, choice) if choice.vision else _small_vision(choice)
    if choice.text:
        return method_config(choice, vision, _encoder_config(choice.text, choice))
    assert choice.small is not None
    return method_config(
        choice, vision, _small_text(choice.small, len(word_tokenizer(words(), choice.small.max_words)))
    )


def _encoder_config(name: str, choice: ModelChoice) -> PreTrainedConfig:
    """Return the configuration of the encoder of a folder or hub id; a known encoder needs none of its files."""
    if name in KNOWN_ENCODERS and not Path(name).is_dir():
        return AutoConfig.for_model(**KNOWN_ENCODERS[name])
    folder = folder_of(name, local_files_only=choice.local_files_only)
    try:
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its config.json cannot be read: {error}") from error


def _load_encoder(name: str, folder: Path) -> PreTrainedModel:
    """Load a pretrained encoder strictly, since transformers itself leaves a missing tensor at random values.

    Raises:
        ValueError: when weights are missing or have no place in the architecture, or it is no encoder; the message says
            which.
    """
    before = transformers_logging.get_verbosity()
    # transformers' own report of missing tensors is hidden; those that matter are refused below
    transformers_logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type in (*model_types(), PublishedConfig.model_type):
            raise ValueError("is a whole RadZero and no encoder; name it as model.start")
        encoder, report = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise errors of any kind
        raise ValueError(f"{name}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
    finally:
        transformers_logging.set_verbosity(before)
    missing = sorted(key for key in report["missing_keys"] if not _NOT_NEEDED.search(key))
    if missing or report["mismatched_keys"]:
        wrong = [*missing, *sorted(str(key) for key in report["mismatched_keys"])]
        raise ValueError(f"{name}: its weights lack, or have in another shape: {_few(wrong)}")
    roots = tuple({f"{key.split('.')[0]}." for key in encoder.state_dict()})
    dropped = sorted(key for key in report["unexpected_keys"] if key.startswith(roots) and not _NOT_NEEDED.search(key))
    if dropped:
        raise ValueError(f"{name}: its config.json has no place for these of its weights: {_few(dropped)}")
    return cast(PreTrainedModel, encoder)


_NOT_NEEDED = re.compile(r"(^|\.)(pooler|mask_token|position_ids)(\.|$)")
"""Tensors of encoders that nothing here uses."""


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _image_statistics(name: str, folder: Path) -> tuple[list[float], list[float]]:
    """Return the mean and deviation of the three channels from an encoder's own preprocessor_config.json.

    The file is read as it is, since some processors (DINOv3's) exist for torchvision alone.

    Raises:
        ValueError: when the file does not state them.
    """
    content, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
    both = [content.get(key) for key in ("image_mean", "image_std")]
    if not all(isinstance(values, list) and len(values) == 3 for values in both):
        raise ValueError(f"{name}: its preprocessor_config.json states no image_mean and image_std of three channels")
    return both[0], both[1]


def _of_parts(choice: ModelChoice, words: Callable[[], Iterable[str]]) -> tuple[VisionLanguageModel, RadZeroProcessor]:
    """Build a model of pretrained encoders, or of small ones with random weights in place of either or both."""
    vision = text = None
    mean, std = [0.5] * 3, [0.25] * 3
    try:
        if choice.vision:
            folder = folder_of(choice.vision, local_files_only=choice.local_files_only)
            vision = _load_encoder(choice.vision, folder)
            mean, std = _image_statistics(choice.vision, folder)
        if choice.text:
            folder = folder_of(choice.text, local_files_only=choice.local_files_only)
            text = _load_encoder(choice.text, folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"an encoder cannot be loaded: {error}") from error
    if text is None:
        assert choice.small is not None
        tokenizer = word_tokenizer(words(), choice.small.max_words)
        text_config: PreTrainedConfig = _small_text(choice.small, len(tokenizer))
    else:
        text_config = text.config
    model = build_model(method_config(choice, vision.config if vision else _small_vision(choice), text_config))
    for own, given in ((model.vision_model, vision), (model.text_model, text)):
        if given is not None:  # poolers are not used, so they are left out
            wanted = own.state_dict()
            own.load_state_dict({name: t for name, t in given.state_dict().items() if name in wanted})
    processor = RadZeroProcessor(_squash(choice.image_size, mean, std), tokenizer)
    if isinstance(model, CarZeroModel):
        model.set_vocabulary(tokenizer.get_vocab())
        processor.positions = model.config.text_positions
    return model, processor


def _small_vision(choice: ModelChoice) -> ConvStemConfig:
    assert choice.small is not None
    return ConvStemConfig(
        widths=choice.small.widths,
        token_stride=choice.small.token_stride,
        image_size=choice.image_size,
        num_hidden_layers=choice.small.vision_layers,
        num_attention_heads=choice.small.heads,
    )


def _small_text(sizes: ModelSizes, words: int) -> BertConfig:
    """Return the configuration of a text encoder without dropout, with a vocabulary of ``words`` tokens."""
    width = sizes.widths[-1]
    return BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.heads,
        intermediate_size=2 * width,
        max_position_embeddings=sizes.max_words,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def method_config(choice: ModelChoice, vision: PreTrainedConfig, text: PreTrainedConfig) -> VisionLanguageConfig:
    """Return the configuration of the chosen method over two encoders.

    Raises:
        ValueError: for an encoder that is not known here, or an option that the method does not have.
    """
    if not isinstance(vision, VISION_CONFIGS):
        raise ValueError(f"{choice.vision}: is a {vision.model_type}; the vision encoders here are {VISION_NAMES}")
    if choice.token_stride is not None:
        if not isinstance(vision, ConvStemConfig) or not choice.vision:
            raise ValueError("model.token_stride: is of a conv-stem checkpoint in model.vision")
        vision = ConvStemConfig(**(vision.to_dict() | {"token_stride": choice.token_stride}))
    spec = METHODS[choice.method]
    if isinstance(vision, ConvStemConfig) and not vision.num_hidden_layers and not spec.mixes_tokens:
        raise ValueError(
            f"model.method: {choice.method} compares CLS, which knows nothing of the film behind a conv stem without "
            "blocks: give model.small.vision_layers"
        )
    if isinstance(vision, ViTConfig) and choice.vision and vision.image_size != choice.image_size:
        raise ValueError(
            f"model.image_size: is {choice.image_size}, and a ViT runs at the size that it was trained at, "
            f"{vision.image_size}"
        )
    patch = vision.patch_size
    if not isinstance(vision, ConvStemConfig) and isinstance(patch, int) and choice.image_size % patch:
        near = choice.image_size // patch * patch
        raise ValueError(
            f"model.image_size: {choice.image_size} is no multiple of the encoder's patches of {patch} pixels, as "
            f"{near} and {near + patch} are"
        )
    if choice.registers_in_attention and not registers(vision):
        raise ValueError(f"model.registers_in_attention: {choice.vision or 'this encoder'} has no register tokens")
    shared = {
        "vision_config": vision,
        "text_config": text,
        "text_pooling": choice.text_pooling,
        "registers_in_attention": choice.registers_in_attention,
        "image_size": choice.image_size,
        "temperature": choice.temperature,
        "logit_bias": choice.logit_bias,
    }
    method = spec.config_class
    own = {name for name in method.__dataclass_fields__ if name not in VisionLanguageConfig.__dataclass_fields__}
    if unknown := sorted(choice.options.keys() - own):
        there = ", ".join(sorted(own)) or "none"
        raise ValueError(f"model.options.{unknown[0]}: {choice.method} has no such setting; it has {there}")
    heads, ratio = (choice.small.heads, choice.small.align_mlp_ratio) if choice.small else (0, 4)
    blocks = Dinov2Config(
        hidden_size=vision.hidden_size,
        num_hidden_layers=choice.align_layers,
        num_attention_heads=heads or vision.num_attention_heads,
        mlp_ratio=ratio,
        layerscale_value=choice.align_layer_scale,
    )
    shared |= {name: getattr(choice, name) for name in spec.settings}
    if issubclass(method, AlignedConfig):
        shared["align_config"] = blocks
    return method(**(shared | choice.options))


def _squash(side: int, mean: list[float], std: list[float]) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=mean, image_std=std)
