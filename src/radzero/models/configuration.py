"""What the configurations of all methods share, and the configuration of the small convolutional vision encoder."""

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig, ViTConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

POSITION_RULES = ("size", "offset")


class ConvStemConfig(PreTrainedConfig):
    """A small convolutional vision encoder, for training from scratch.

    Attributes:
        widths: channels at a quarter of the input's resolution, at an eighth, and of the tokens (the hidden size).
        token_stride: pixels per token, 8 or 16.
        image_size: side in pixels of the square input for which the learned positions are made.
        num_hidden_layers: transformer blocks (DINOv2's) after the stem; 0 by default, because the align layers mix the
            tokens.
        num_attention_heads: attention heads per block.
    """

    model_type: ClassVar[str] = "radzero_conv_stem"

    widths: list[int] | tuple[int, ...] = (32, 64, 128)
    token_stride: int = 16
    image_size: int = 224
    num_hidden_layers: int = 0
    num_attention_heads: int = 2
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.widths = list(self.widths)
        if len(self.widths) != 3:
            raise ValueError(f"a conv stem has three widths, not {self.widths}")
        if self.token_stride not in (8, 16):
            raise ValueError(f"token_stride must be 8 or 16, not {self.token_stride}")
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """D, the width of a token."""
        return int(self.widths[-1])

    @property
    def patch_size(self) -> int:
        """Pixels per token along each axis, under the name that every vision encoder here uses."""
        return self.token_stride


VISION_CONFIGS = (Dinov2Config, Dinov2WithRegistersConfig, DINOv3ViTConfig, ViTConfig, ConvStemConfig)
VISION_NAMES = ", ".join(config.model_type for config in VISION_CONFIGS)


def square(size: Sequence[int], name: str) -> int:
    """Return the side of a square that a configuration gives as height and width.

    Raises:
        ValueError: when the two differ.
    """
    if len(set(size)) != 1:
        raise ValueError(f"{name} must be square, not {size}")
    return int(size[0])


def registers(config: PreTrainedConfig) -> int:
    """Return the number of register tokens that a vision encoder has between CLS and the patches."""
    return int(getattr(config, "num_register_tokens", 0))


class VisionLanguageConfig(PreTrainedConfig):
    """The settings that every method has: a vision encoder, a text encoder, an input size and the logits' scale.

    Attributes:
        vision_config: a configuration of :data:`VISION_CONFIGS`.
        text_config: the configuration of a BERT-like text encoder.
        text_pooling: how a sentence's states are pooled: "mean" over the attention mask, or the first token's ("cls").
        registers_in_attention: whether the vision encoder's register tokens pass on to the align layers and take part
            in the attention as CLS does; otherwise they are dropped after the encoder. They are never in the map.
        image_size: height and width in pixels of the vision encoder's input.
        temperature: initial tau, learned as its logarithm.
        logit_bias: initial value of the logits' learned bias, which SigLIP's loss needs; None for no bias.
        position_rule: how DINOv2 position embeddings are interpolated: "size" (to the target size, as
            ``transformers`` does now) or "offset" (by the scale (n + 0.1) / n0, as it did when the published weights
            were trained).
        card: facts about the training, under keys such as ``data``, ``licence`` and ``notice``.
    """

    model_type: ClassVar[str] = "radzero_vision_language"
    method: ClassVar[str] = ""
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="mpnet"),
    }

    vision_config: Any = None
    text_config: Any = None
    text_pooling: str = "mean"
    registers_in_attention: bool = False
    image_size: int = 518
    temperature: float = 0.07
    logit_bias: float | None = None
    position_rule: str = "size"
    card: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.position_rule not in POSITION_RULES:
            raise ValueError(f"position_rule must be one of {POSITION_RULES}, not {self.position_rule!r}")
        for name in ("temperature", "attention_temperature"):
            value = getattr(self, name, None)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.text_pooling not in ("mean", "cls"):
            raise ValueError(f'text_pooling must be "mean" or "cls", not {self.text_pooling!r}')
        if not isinstance(self.vision_config, VISION_CONFIGS):
            raise ValueError(f"the vision encoders here are {VISION_NAMES}, not {self.vision_config.model_type}")
        if isinstance(self.vision_config.patch_size, list | tuple):
            self.vision_config.patch_size = square(self.vision_config.patch_size, "vision_config.patch_size")
        align = getattr(self, "align_config", None)
        if align is not None and align.hidden_size != self.vision_config.hidden_size:
            raise ValueError(
                f"align layers of size {align.hidden_size} cannot run on vision tokens of size "
                f"{self.vision_config.hidden_size}"
            )


class AlignedConfig(VisionLanguageConfig):
    """The settings of a method with its own layers on the vision tokens: blocks, a linear layer, an MLP, or none.

    Attributes:
        align_config: DINOv2 blocks that run on the vision tokens, ``num_hidden_layers`` of them.
        align_linear: whether a linear layer replaces the blocks (a published ablation).
        align_mlp: hidden widths of an MLP that replaces the blocks (a published ablation); None for no MLP.
        align_activation: activation between the MLP's linear layers.
        align_norm: whether a LayerNorm follows.
    """

    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        **VisionLanguageConfig.sub_configs_defaults,
        "align_config": SubConfigSpec(config_class=Dinov2Config, init_kwargs={"num_hidden_layers": 2}),
    }

    align_config: Any = None
    align_linear: bool = False
    align_mlp: list[int] | tuple[int, ...] | None = None
    align_activation: str = "gelu"
    align_norm: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.align_mlp is not None:
            self.align_mlp = [int(width) for width in self.align_mlp]
        chosen = [bool(self.align_config.num_hidden_layers), self.align_linear, self.align_mlp is not None]
        if sum(chosen) > 1:
            raise ValueError(
                "align_linear and align_mlp are in place of blocks and of each other: align_config.num_hidden_layers "
                "must be 0"
            )
        if self.align_activation not in ACT2FN:
            raise ValueError(f"align_activation {self.align_activation!r} is no activation of transformers")


AutoConfig.register(ConvStemConfig.model_type, ConvStemConfig)
