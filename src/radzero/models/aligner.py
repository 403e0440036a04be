"""The layers that a method puts on the vision encoder's tokens: DINOv2 blocks, a linear layer, an MLP, or none."""

from itertools import pairwise

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.dinov2.modeling_dinov2 import Dinov2Encoder

from radzero.models.base import VisionLanguageModel
from radzero.models.configuration import AlignedConfig


def add_aligner(model: VisionLanguageModel, config: AlignedConfig) -> None:
    """Give a model the aligner of its configuration: ``align_transformer``, ``align_linear`` and ``align_mlp``.

    All three exist whatever the kind of aligner, so that tensor names do not depend on it; at most one is not the
    identity.
    """
    size = config.vision_config.hidden_size
    model.align_transformer = Dinov2Encoder(config.align_config)
    model.align_linear = nn.Linear(size, size) if config.align_linear else nn.Identity()
    model.align_mlp = nn.Sequential()
    if config.align_mlp is not None:
        for k, (before, after) in enumerate(pairwise([size, *config.align_mlp, size])):
            if k:
                model.align_mlp.append(ACT2FN[config.align_activation])
            model.align_mlp.append(nn.Linear(before, after))


def run_aligner(model: VisionLanguageModel, tokens: Tensor) -> Tensor:
    """Return the tokens (B, T, D) after the model's aligner, before any LayerNorm."""
    return model.align_transformer(model.align_mlp(model.align_linear(tokens))).last_hidden_state
