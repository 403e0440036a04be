"""CLIP, and LiT where the vision encoder is locked: the cosine of one vector per image and one per sentence."""

from typing import ClassVar

from torch import Tensor, nn

from radzero.models.base import cosine_logits, register_method
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.similarity import SimilarityOutput
from radzero.models.vectors import VectorModel


class ClipConfig(VisionLanguageConfig):
    """CLIP (Radford et al. 2021): the cosine of one vector per image and one per sentence.

    With the vision encoder locked, it is LiT (Zhai et al. 2022).
    """

    model_type: ClassVar[str] = "radzero_clip"
    method: ClassVar[str] = "CLIP"


class ClipModel(VectorModel):
    """The cosine over tau of a linear layer on CLS and a linear layer on a sentence's pooled states.

    CLIP (Radford et al. 2021); with the vision encoder locked, LiT (Zhai et al. 2022). It has no maps.
    """

    config_class = ClipConfig
    config: ClipConfig
    base_model_prefix = "radzero_clip"
    has_maps = False

    def __init__(self, config: ClipConfig) -> None:
        size = config.vision_config.hidden_size
        super().__init__(config, size)
        self.vision_projection = nn.Linear(size, size)
        self.post_init()

    def align(self, vision_tokens: Tensor) -> Tensor:
        """Return the image vectors (B, 1, D)."""
        return self.vision_projection(vision_tokens[:, :1])

    def vectors(self, tokens: Tensor) -> Tensor:
        """Return the image vectors (B, D), the only token that :meth:`align` returns."""
        return tokens[:, 0]

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Return the logits (B, N), and no map."""
        return SimilarityOutput(cosine_logits(self.vectors(tokens), sentences, *self.score_parameters()[0]), None)


register_method(ClipConfig, ClipModel)
