"""The model that a run starts from: a checkpoint, two pretrained encoders, or random weights."""

from collections.abc import Callable, Iterable
from typing import cast

from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, Dinov2Config, MPNetConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from radzero.models.base import VisionLanguageModel
from radzero.models.carzero import CarZeroModel
from radzero.models.checkpoints import load_processor, open_checkpoint
from radzero.models.configuration import (
    VISION_CONFIGS,
    CarZeroConfig,
    ClipConfig,
    ConvStemConfig,
    DinoTxtConfig,
    RadZeroConfig,
    VisionLanguageConfig,
)
from radzero.models.methods import build_model, load_model
from radzero.models.processor import RadZeroProcessor
from radzero.training.config import ModelChoice, ModelSizes
from radzero.training.lora import add_adapters
from radzero.training.vocabulary import word_tokenizer


def build_start(
    choice: ModelChoice, words: Callable[[], Iterable[str]]
) -> tuple[VisionLanguageModel, RadZeroProcessor]:
    """The model and its processor, float32 and ready to be trained.

    Args:
        choice: which.
        words: gives those of a small model's vocabulary.

    Raises:
        ValueError: for a checkpoint that cannot be read, naming it.
    """
    if choice.start:
        checkpoint = open_checkpoint(choice.start)
        if not isinstance(checkpoint.config, _CONFIGS[choice.method]):
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
    """Freeze what is not trained, and have activations recomputed where that is wanted."""
    model.requires_grad_(True)
    if choice.train_vision == "frozen":
        model.vision_model.requires_grad_(False)
    elif choice.train_vision == "lora":
        add_adapters(model, choice.lora_rank)
    for name, parameter in model.named_parameters():
        if name.endswith("mask_token"):  # of masked image modelling; nothing here uses it
            parameter.requires_grad_(False)
    if choice.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})


PUBLISHED_ENCODERS: dict[str, PreTrainedConfig] = {
    "StanfordAIMI/dinov2-base-xray-224": Dinov2Config(),
    "sentence-transformers/all-mpnet-base-v2": MPNetConfig(),
}
"""Architectures of the published recipe's encoders, so that a dry run needs none of their files."""


def start_config(choice: ModelChoice, words: Callable[[], Iterable[str]]) -> VisionLanguageConfig:
    """The architecture that a run starts with, without its weights.

    Args:
        choice, words: as in :func:`build_start`.

    Raises:
        ValueError: for a checkpoint or encoder whose configuration cannot be read, naming it.
    """
    if choice.start:
        return open_checkpoint(choice.start).config
    vision = _encoder_config(choice.vision) if choice.vision else _small_vision(choice)
    if choice.text:
        return method_config(choice, vision, _encoder_config(choice.text))
    assert choice.small is not None
    return method_config(
        choice, vision, _small_text(choice.small, len(word_tokenizer(words(), choice.small.max_words)))
    )


def _encoder_config(name: str) -> PreTrainedConfig:
    if name in PUBLISHED_ENCODERS:
        return PUBLISHED_ENCODERS[name]
    try:
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(name))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its config.json cannot be read: {error}") from error


def _of_parts(choice: ModelChoice, words: Callable[[], Iterable[str]]) -> tuple[VisionLanguageModel, RadZeroProcessor]:
    """A model of pretrained encoders, or of small ones with random weights in place of either or both."""
    vision = text = None
    mean, std = [0.5] * 3, [0.25] * 3
    try:
        if choice.vision:
            vision = AutoModel.from_pretrained(choice.vision)
            images = AutoImageProcessor.from_pretrained(choice.vision, backend="pil")
            mean, std = images.image_mean, images.image_std
        if choice.text:
            text = AutoModel.from_pretrained(choice.text)
            tokenizer = AutoTokenizer.from_pretrained(choice.text)
    except (OSError, ValueError) as error:
        named = " and ".join(name for name in (choice.vision, choice.text) if name)
        raise ValueError(f"the encoders {named} cannot be loaded: {error}") from error
    if text is None:
        assert choice.small is not None
        tokenizer = word_tokenizer(words(), choice.small.max_words)
        text_config: PreTrainedConfig = _small_text(choice.small, len(tokenizer))
    else:
        text_config = text.config
    model = build_model(method_config(choice, vision.config if vision else _small_vision(choice), text_config))
    for own, given in ((model.vision_model, vision), (model.text_model, text)):
        if given is not None:  # poolers, which are not used, stay behind
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
    """A text encoder without dropout, with a vocabulary of ``words``."""
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
    """The configuration of the chosen method over two encoders.

    Raises:
        ValueError: for an encoder that is not known here, or an option that the method does not have.
    """
    if not isinstance(vision, VISION_CONFIGS):
        raise ValueError(
            f"{choice.vision}: is a {vision.model_type}; the vision encoders here are DINOv2, ViT and our own"
        )
    if choice.token_stride is not None:
        if not isinstance(vision, ConvStemConfig) or not choice.vision:
            raise ValueError("model.token_stride: is of a conv-stem checkpoint in model.vision")
        vision = ConvStemConfig(**(vision.to_dict() | {"token_stride": choice.token_stride}))
    mixes = choice.method in ("radzero", "dinotxt")
    if isinstance(vision, ConvStemConfig) and not vision.num_hidden_layers and not mixes:
        raise ValueError(
            f"model.method: {choice.method} compares CLS, which knows nothing of the film behind a conv stem without "
            "blocks: give model.small.vision_layers"
        )
    shared = {
        "vision_config": vision,
        "text_config": text,
        "image_size": choice.image_size,
        "temperature": choice.temperature,
        "logit_bias": choice.logit_bias,
    }
    method = _CONFIGS[choice.method]
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
    if method is RadZeroConfig:
        shared |= {
            "align_config": blocks,
            "align_linear": choice.align_linear,
            "similarity": choice.similarity,
            "attention_temperature": choice.attention_temperature,
        }
    elif method is DinoTxtConfig:
        shared["align_config"] = blocks
    return method(**(shared | choice.options))


_CONFIGS: dict[str, type[VisionLanguageConfig]] = {
    "radzero": RadZeroConfig,
    "carzero": CarZeroConfig,
    "dinotxt": DinoTxtConfig,
    "lit": ClipConfig,
    "clip": ClipConfig,
}


def _squash(side: int, mean: list[float], std: list[float]) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=mean, image_std=std)
