"""The base of methods that compare one vector per image with one per sentence, by their cosine."""

import torch
from torch import Tensor, nn

from radzero.models.base import Features, VisionLanguageModel, cosine_logits
from radzero.models.configuration import VisionLanguageConfig
from radzero.models.similarity import TrainingScores


class VectorModel(VisionLanguageModel):
    """One vector per image (:meth:`vectors`), one per sentence, and their cosine over tau as logit.

    A sentence's vector is its pooled states after a linear layer, which makes it as wide as an image's vector.
    """

    def __init__(self, config: VisionLanguageConfig, vector_size: int) -> None:
        super().__init__(config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, vector_size)

    def vectors(self, tokens: Tensor) -> Tensor:
        """Return image vectors (B, V), not normalised, from features (B, T, D)."""
        raise NotImplementedError

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the sentences' vectors (N, V), not normalised."""
        return self.text_projection(self.pooled_states(input_ids, attention_mask))

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """Shape of one sentence's vector, (V,)."""
        return (self.text_projection.out_features,)

    def score_parameters(self) -> tuple[Tensor, ...]:
        """Return tau and the bias in one tensor, (2,)."""
        tau = self.temperature
        return (torch.stack((tau, self.bias().to(tau.dtype))),)

    def training_scores(self, features: Features) -> TrainingScores:
        """Return the logits (B, N) of all pairs."""
        return TrainingScores(
            cosine_logits(self.vectors(features.images), features.sentences, *features.score_parameters[0]), None
        )
