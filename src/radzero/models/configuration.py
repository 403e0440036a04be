"""Configurations: RadZero, and the small convolutional vision encoder."""

from typing import Any, ClassVar

from transformers import AutoConfig, Dinov2Config
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

POSITION_RULES = ("size", "offset")


class ConvStemConfig(PreTrainedConfig):
    """A small convolutional vision encoder, for training from scratch.

    Attributes:
        widths: channels at a quarter of the input's resolution, at an eighth, and of the tokens (the hidden size).
        token_stride: pixels per token, 8 or 16.
        image_size: size in pixels that the learned positions are made for.
    """

    model_type: ClassVar[str] = "radzero_conv_stem"

    widths: list[int] | tuple[int, ...] = (32, 64, 128)
    token_stride: int = 16
    image_size: int = 224
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
        """Pixels per token, the name that every vision encoder here has for it."""
        return self.token_stride


class RadZeroConfig(PreTrainedConfig):
    """RadZero: vision encoder, align layers, text encoder and the similarity between them.

    Attributes:
        vision_config: a DINOv2 or :class:`ConvStemConfig` configuration.
        text_config: the configuration of a BERT-like text encoder.
        align_config: DINOv2 blocks that run on the vision tokens, ``num_hidden_layers`` of them.
        image_size: height and width in pixels at which the vision encoder is run.
        similarity: "cos" or "dot" (:func:`radzero.similarity_logits`).
        temperature: initial tau.
        attention_temperature: initial separate attention temperature, None for tau.
        text_l2_norm: whether sentence embeddings are L2-normalised between pooling and the shared LayerNorm.
        mpnce_row_sum, mpnce_col_sum: loss options, see :func:`radzero.multi_positive_loss`.
        position_rule: how DINOv2 position embeddings are interpolated: "size" (to the target size, as
            ``transformers`` does now) or "offset" (scale (n + 0.1) / n0, as it did when the published weights were
            trained).
        card: what is known of the training: keys ``data``, ``licence``, ``notice`` and the like.
    """

    model_type: ClassVar[str] = "radzero"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="mpnet"),
        "align_config": SubConfigSpec(config_class=Dinov2Config, init_kwargs={"num_hidden_layers": 2}),
    }

    vision_config: Any = None
    text_config: Any = None
    align_config: Any = None
    image_size: int = 518
    similarity: str = "cos"
    temperature: float = 0.07
    attention_temperature: float | None = None
    text_l2_norm: bool = False
    mpnce_row_sum: bool = False
    mpnce_col_sum: bool = False
    position_rule: str = "size"
    card: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.similarity not in ("cos", "dot"):
            raise ValueError(f'similarity must be "cos" or "dot", not {self.similarity!r}')
        if self.position_rule not in POSITION_RULES:
            raise ValueError(f"position_rule must be one of {POSITION_RULES}, not {self.position_rule!r}")
        for name in ("temperature", "attention_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if not isinstance(self.vision_config, Dinov2Config | ConvStemConfig):
            raise ValueError(
                f"RadZero's vision encoders are dinov2 and {ConvStemConfig.model_type}, "
                f"not {self.vision_config.model_type}"
            )
        if self.align_config.hidden_size != self.vision_config.hidden_size:
            raise ValueError(
                f"align layers of size {self.align_config.hidden_size} cannot run on vision tokens of size "
                f"{self.vision_config.hidden_size}"
            )


AutoConfig.register(ConvStemConfig.model_type, ConvStemConfig)
AutoConfig.register(RadZeroConfig.model_type, RadZeroConfig)
