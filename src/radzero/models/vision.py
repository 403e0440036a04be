"""Vision encoders behind one interface: pixels (B, C, H, W) -> ``last_hidden_state`` (B, 1 + R + L, D).

CLS comes first, then any register tokens (R of them), then the patches row by row. ``config.patch_size`` says how many
pixels a token stands for: token (i, j) of the H // p x W // p grid is centred on pixel coordinate (i + 1/2) p of the
input.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings, Dinov2Encoder

from radzero.models.configuration import VISION_NAMES, ConvStemConfig


def interpolate_positions(positions: Tensor, grid: tuple[int, int], rule: str, square: bool = True) -> Tensor:
    """Resample position embeddings bicubically from the trained square grid to another grid.

    Args:
        positions: trained embeddings (1, 1 + n0 * n0, D), CLS first.
        grid: target rows and columns.
        rule: "size", or "offset" (scale factor (n + 0.1) / n0 per side, as the published weights were trained).
        square: whether the input has as many rows of pixels as columns; where it has not, "offset" resamples even to
            the trained grid, as transformers did when those weights were trained.

    Returns:
        Embeddings (1, 1 + rows * columns, D) of the same dtype; ``positions`` itself where nothing is resampled.
    """
    side = math.isqrt(positions.shape[1] - 1)
    if grid == (side, side) and (square or rule == "size"):
        return positions
    patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = patches if patches.dtype == torch.float64 else patches.float()
    if rule == "size":
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    else:
        factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic", align_corners=False)
    patches = patches.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(positions.dtype)
    return torch.cat((positions[:, :1], patches), dim=1)


class PositionedDinov2Embeddings(Dinov2Embeddings):
    """DINOv2 embeddings whose position interpolation follows a stated rule."""

    def __init__(self, config: Dinov2Config, rule: str) -> None:
        super().__init__(config)
        self.rule = rule

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Return the position embeddings for an input of ``height`` x ``width`` pixels."""
        patch_height, patch_width = self.patch_embeddings.patch_size
        return interpolate_positions(
            self.position_embeddings, (height // patch_height, width // patch_width), self.rule, height == width
        )


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel's channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvStemModel(PreTrainedModel):
    """A convolutional stem, a CLS token and learned positions; the blocks, or align layers after it, mix the tokens.

    The input's channels are averaged, because radiographs are grey. Blocks of 4 x 4 pixels become channels, two
    convolutions work on that grid, a convolution with an even kernel and stride 2 halves it, and two more give one
    feature per 8 x 8 pixels, centred on them; at ``token_stride`` 16 they are averaged 2 x 2. Both strides therefore
    share every weight, and a model trained at 16 can be trained further at 8.
    """

    config_class = ConvStemConfig
    config: ConvStemConfig
    base_model_prefix = "conv_stem"
    main_input_name = "pixel_values"

    def __init__(self, config: ConvStemConfig) -> None:
        super().__init__(config)
        quarter, eighth, width = config.widths
        self.stages = nn.Sequential(
            nn.PixelUnshuffle(4),
            *self._convolution(16, quarter, kernel=3, stride=1),
            *self._convolution(quarter, quarter, kernel=3, stride=1),
            *self._convolution(quarter, eighth, kernel=4, stride=2),
            *self._convolution(eighth, eighth, kernel=3, stride=1),
            *self._convolution(eighth, width, kernel=3, stride=1),
        )
        grid = config.image_size // 16
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + grid * grid, config.hidden_size))
        self.blocks = Dinov2Encoder(
            Dinov2Config(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
            )
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _convolution(self, channels: int, width: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
        convolution = nn.Conv2d(channels, width, kernel, stride, padding=1, bias=False)
        return convolution, LayerNorm2d(width, eps=self.config.layer_norm_eps), nn.ReLU()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, ConvStemModel):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Return tokens (B, 1 + L, D) of images (B, C, H, W), both sides at least ``token_stride`` pixels."""
        pixel_values = pixel_values.to(self.cls_token.dtype).mean(dim=1, keepdim=True)
        if pixel_values.device.type == "cpu":
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        stride = self.config.token_stride
        height, width = (n // stride * stride for n in pixel_values.shape[-2:])
        features = self.stages(pixel_values[..., :height, :width])
        if stride == 16:
            features = F.avg_pool2d(features, 2)
        grid = (features.shape[2], features.shape[3])
        tokens = torch.cat((self.cls_token.expand(len(features), -1, -1), features.flatten(2).mT), dim=1)
        tokens = tokens + interpolate_positions(self.position_embeddings, grid, "size")
        return BaseModelOutput(last_hidden_state=self.layernorm(self.blocks(tokens).last_hidden_state))


AutoModel.register(ConvStemConfig, ConvStemModel)


def build_vision_encoder(config: PreTrainedConfig, position_rule: str) -> PreTrainedModel:
    """Build a vision encoder with random weights.

    DINOv2 interpolates its positions by ``position_rule``. DINOv2 with registers interpolates them as transformers
    does, with antialiasing, as it was trained. DINOv3 has rotary positions, which need no interpolation.

    Raises:
        ValueError: for a configuration that is not of :data:`~radzero.models.configuration.VISION_CONFIGS`.
    """
    if isinstance(config, ViTConfig):
        return ViTModel(config, add_pooling_layer=False)
    if isinstance(config, ConvStemConfig):
        return ConvStemModel(config)
    if isinstance(config, Dinov2WithRegistersConfig):
        return Dinov2WithRegistersModel(config)
    if isinstance(config, DINOv3ViTConfig):
        return DINOv3ViTModel(config)
    if isinstance(config, Dinov2Config):
        model = Dinov2Model(config)
        model.embeddings = PositionedDinov2Embeddings(config, position_rule)
        model.embeddings.apply(model._init_weights)
        return model
    raise ValueError(f"the vision encoders here are {VISION_NAMES}, not {config.model_type}")


def patch_shape(config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the input pixels per patch along each axis, (rows, columns)."""
    return (int(config.patch_size),) * 2


def token_grid(config: PreTrainedConfig, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the rows and columns of the token grid of an input of ``shape`` pixels."""
    return tuple(length // patch for length, patch in zip(shape, patch_shape(config), strict=True))
