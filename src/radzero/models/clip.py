"""CLIP, and LiT where the vision encoder is locked: one vector per image, one per sentence, their cosine."""

import torch
from torch import Tensor, nn
from transformers import AutoModel

from radzero.models.base import Features, VisionLanguageModel, cosine_logits
from radzero.models.configuration import ClipConfig
from radzero.models.similarity import PairOutput, SimilarityOutput


class ClipModel(VisionLanguageModel):
    """A linear layer on CLS, the mean of a sentence's states with a linear layer, and the cosine over tau.

    CLIP (Radford et al. 2021); with the vision encoder locked, LiT (Zhai et al. 2022). It has no maps.
    """

    config_class = ClipConfig
    config: ClipConfig
    base_model_prefix = "radzero_clip"
    has_maps = False

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        size = config.vision_config.hidden_size
        self.vision_projection = nn.Linear(size, size)
        self.text_projection = nn.Linear(config.text_config.hidden_size, size)
        self.post_init()

    def align(self, vision_tokens: Tensor) -> Tensor:
        """The image vector (B, 1, D)."""
        return self.vision_projection(vision_tokens[:, :1])

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors (N, D)."""
        return self.text_projection(self.mean_states(input_ids, attention_mask))

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self.config.vision_config.hidden_size,)

    def shared(self) -> tuple[Tensor, ...]:
        """Tau and the bias, (2,)."""
        tau = self.temperature
        return (torch.stack((tau, self.bias().to(tau.dtype))),)

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Logits (B, N), and no map."""
        return SimilarityOutput(cosine_logits(tokens[:, 0], sentences, *self.shared()[0]), None)

    def pairs(self, features: Features) -> PairOutput:
        """Logits (B, N)."""
        return PairOutput(cosine_logits(features.images[:, 0], features.sentences, *features.shared[0]), None)


AutoModel.register(ClipConfig, ClipModel)
