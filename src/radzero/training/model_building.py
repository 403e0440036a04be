"""The model that a run starts from: a checkpoint, two pretrained encoders, or random weights."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, Dinov2Config, MPNetConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from radzero.models.checkpoints import load_processor, open_checkpoint
from radzero.models.configuration import ConvStemConfig, RadZeroConfig
from radzero.models.processor import RadZeroProcessor
from radzero.models.radzero import RadZeroModel
from radzero.training.config import ModelChoice, ModelSizes
from radzero.training.lora import add_adapters
from radzero.training.vocabulary import word_tokenizer


def build_start(choice: ModelChoice, words: Callable[[], Iterable[str]]) -> tuple[RadZeroModel, RadZeroProcessor]:
    """The model and its processor, float32 and ready to be trained.

    Args:
        choice: which.
        words: gives those of a small model's vocabulary.

    Raises:
        ValueError: for a checkpoint that cannot be read, naming it.
    """
    if choice.start:
        checkpoint = open_checkpoint(choice.start)
        model = RadZeroModel.from_pretrained(checkpoint.folder)
        processor = load_processor(checkpoint.folder, checkpoint.config)
    elif choice.small is not None:
        model, processor = _small(choice, choice.small, words())
    else:
        model, processor = _pretrained(choice)
    choose_trained(model, choice)
    return model.train(), processor


def choose_trained(model: RadZeroModel, choice: ModelChoice) -> None:
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


def start_config(choice: ModelChoice, words: Callable[[], Iterable[str]]) -> RadZeroConfig:
    """The architecture that a run starts with, without its weights.

    Args:
        choice, words: as in :func:`build_start`.

    Raises:
        ValueError: for a checkpoint or encoder whose configuration cannot be read, naming it.
    """
    if choice.start:
        return open_checkpoint(choice.start).config
    if choice.small is not None:
        return _small_config(choice.small, len(word_tokenizer(words(), choice.small.max_words)), **_shared(choice))
    return _of_encoders(choice, _encoder_config(choice.vision), _encoder_config(choice.text))


def _encoder_config(name: str) -> PreTrainedConfig:
    if name in PUBLISHED_ENCODERS:
        return PUBLISHED_ENCODERS[name]
    try:
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(name))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its config.json cannot be read: {error}") from error


def _small(choice: ModelChoice, sizes: ModelSizes, words: Iterable[str]) -> tuple[RadZeroModel, RadZeroProcessor]:
    tokenizer = word_tokenizer(words, sizes.max_words)
    config = _small_config(sizes, len(tokenizer), **_shared(choice))
    processor = RadZeroProcessor(_squash(choice.image_size, [0.5] * 3, [0.25] * 3), tokenizer)
    return RadZeroModel(config), processor


def _small_config(sizes: ModelSizes, words: int, *, image_size: int, **options: Any) -> RadZeroConfig:
    """The configuration of a small model without dropout, with a vocabulary of ``words``."""
    width = sizes.widths[-1]
    return RadZeroConfig(
        vision_config=ConvStemConfig(widths=sizes.widths, token_stride=sizes.token_stride, image_size=image_size),
        text_config=BertConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.heads,
            intermediate_size=2 * width,
            max_position_embeddings=sizes.max_words,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        align_config=_align(width, sizes.heads, sizes.align_layers, sizes.align_mlp_ratio),
        image_size=image_size,
        **options,
    )


def _pretrained(choice: ModelChoice) -> tuple[RadZeroModel, RadZeroProcessor]:
    try:
        vision, text = AutoModel.from_pretrained(choice.vision), AutoModel.from_pretrained(choice.text)
        images = AutoImageProcessor.from_pretrained(choice.vision, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(choice.text)
    except (OSError, ValueError) as error:
        raise ValueError(f"the encoders {choice.vision} and {choice.text} cannot be loaded: {error}") from error
    model = RadZeroModel(_of_encoders(choice, vision.config, text.config))
    model.vision_model.load_state_dict(vision.state_dict())
    own = model.text_model.state_dict()
    model.text_model.load_state_dict({name: t for name, t in text.state_dict().items() if name in own})
    processor = RadZeroProcessor(_squash(choice.image_size, images.image_mean, images.image_std), tokenizer)
    return model, processor


def _of_encoders(choice: ModelChoice, vision: PreTrainedConfig, text: PreTrainedConfig) -> RadZeroConfig:
    if not isinstance(vision, Dinov2Config):
        raise ValueError(f"{choice.vision}: is a {vision.model_type}; RadZero's vision encoder is a DINOv2")
    align = _align(vision.hidden_size, vision.num_attention_heads, choice.align_layers, 4)
    return RadZeroConfig(vision_config=vision, text_config=text, align_config=align, **_shared(choice))


def _align(width: int, heads: int, layers: int, ratio: int) -> Dinov2Config:
    return Dinov2Config(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, mlp_ratio=ratio)


def _shared(choice: ModelChoice) -> dict[str, Any]:
    return {
        "image_size": choice.image_size,
        "similarity": choice.similarity,
        "temperature": choice.temperature,
        "attention_temperature": choice.attention_temperature,
    }


def _squash(side: int, mean: list[float], std: list[float]) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=mean, image_std=std)
