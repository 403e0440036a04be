"""CLIP, and LiT where the vision encoder is locked: one vector per image, one per sentence, their cosine."""

from typing import ClassVar

from torch import Tensor, nn

from radzero.models.base import cosine_logits, register_method
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.similarity import SimilarityOutput
from radzero.models.vectors import VectorModel


class ClipConfig(VisionLanguageConfig):
    """CLIP (Radford et al. 2021): the cosine of one vector per image and one per sentence.

    With the vision encoder locked it is LiT (Zhai et al. 2022).
    """

    model_type: ClassVar[str] = "radzero_clip"
    method: ClassVar[str] = "CLIP"


class ClipModel(VectorModel):
    """A linear layer on CLS, the mean of a sentence's states with a linear layer, and the cosine over tau.

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
        """The image vector (B, 1, D)."""
        return self.vision_projection(vision_tokens[:, :1])

    def vectors(self, tokens: Tensor) -> Tensor:
        """The image vector (B, D), all that :meth:`align` leaves."""
        return tokens[:, 0]

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Logits (B, N), and no map."""
        return SimilarityOutput(cosine_logits(self.vectors(tokens), sentences, *self.score_parameters()[0]), None)


register_method(ClipConfig, ClipModel)
