"""Methods that make one vector of an image and one of a sentence, and compare the two by their cosine."""

import torch
from torch import Tensor, nn

from radzero.models.base import Features, VisionLanguageModel, cosine_logits
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.similarity import TrainingScores


class VectorModel(VisionLanguageModel):
    """One vector per image (:meth:`vectors`), one per sentence, and their cosine over tau as logit.

    A sentence's vector is its pooled states after a linear layer, as wide as an image's.
    """

    def __init__(self, config: VisionLanguageConfig, vector_size: int) -> None:
        super().__init__(config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, vector_size)

    def vectors(self, tokens: Tensor) -> Tensor:
        """Image vectors (B, V), not normalised, from features (B, T, D)."""
        raise NotImplementedError

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors (N, V)."""
        return self.text_projection(self.pooled_states(input_ids, attention_mask))

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """(V,)."""
        return (self.text_projection.out_features,)

    def score_parameters(self) -> tuple[Tensor, ...]:
        """Tau and the bias, (2,)."""
        tau = self.temperature
        return (torch.stack((tau, self.bias().to(tau.dtype))),)

    def training_scores(self, features: Features) -> TrainingScores:
        """Logits (B, N)."""
        return TrainingScores(
            cosine_logits(self.vectors(features.images), features.sentences, *features.score_parameters[0]), None
        )
