"""CLIP, and LiT where the vision encoder is locked: one vector per image, one per sentence, their cosine."""

from torch import Tensor, nn
from transformers import AutoModel

from radzero.models.base import cosine_logits
from radzero.models.configuration import ClipConfig
from radzero.models.similarity import SimilarityOutput
from radzero.models.vectors import VectorModel


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
        return SimilarityOutput(cosine_logits(self.vectors(tokens), sentences, *self.shared()[0]), None)


AutoModel.register(ClipConfig, ClipModel)
