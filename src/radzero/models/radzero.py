"""RadZero as a transformers model: images become tokens, sentences embeddings, and similarity compares them."""

import math
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from radzero.models.aligner import add_aligner, run_aligner
from radzero.models.base import Features, VisionLanguageModel, VisionLanguageOutput, at_least_float32, register_method
from radzero.models.configuration import AlignedConfig
from radzero.models.similarity import Similarity, SimilarityOutput, TrainingScores, pair_logits, similarity_logits

RadZeroOutput = VisionLanguageOutput


class RadZeroConfig(AlignedConfig):
    """RadZero: vision encoder, align layers, text encoder and the similarity between them.

    Attributes:
        text_projection: whether a linear layer follows the sentence pooling; there always is one where the text
            encoder's width differs from the vision encoder's.
        similarity: "cos" or "dot" (:func:`radzero.similarity_logits`).
        attention_temperature: initial value of a separate attention temperature; None to use tau.
        text_l2_norm: whether sentence embeddings are L2-normalised between pooling and the shared LayerNorm.
        mpnce_row_sum, mpnce_col_sum: options of the loss; see :func:`radzero.multi_positive_loss`.
    """

    model_type: ClassVar[str] = "radzero"
    method: ClassVar[str] = "RadZero"

    text_projection: bool = False
    similarity: str = "cos"
    attention_temperature: float | None = None
    text_l2_norm: bool = False
    mpnce_row_sum: bool = False
    mpnce_col_sum: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.similarity not in ("cos", "dot"):
            raise ValueError(f'similarity must be "cos" or "dot", not {self.similarity!r}')


class RadZeroModel(VisionLanguageModel):
    """RadZero (NeurIPS 2025): see :class:`RadZeroConfig` for its parts."""

    config_class = RadZeroConfig
    config: RadZeroConfig
    base_model_prefix = "radzero"

    def __init__(self, config: RadZeroConfig) -> None:
        super().__init__(config)
        size, text_size = config.vision_config.hidden_size, config.text_config.hidden_size
        add_aligner(self, config)
        eps = config.align_config.layer_norm_eps
        self.align_norm = nn.LayerNorm(size, eps=eps) if config.align_norm else nn.Identity()
        projected = config.text_projection or text_size != size
        self.text_projection = nn.Linear(text_size, size) if projected else nn.Identity()
        self.layer_norm = nn.LayerNorm(size)
        self.log_attention_temperature = (
            None
            if config.attention_temperature is None
            else nn.Parameter(torch.tensor(math.log(config.attention_temperature)))
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RadZeroModel) and module.log_attention_temperature is not None:
            assert self.config.attention_temperature is not None
            init.constant_(module.log_attention_temperature, math.log(self.config.attention_temperature))

    @property
    def attention_temperature(self) -> Tensor | None:
        """The separate attention temperature, or None where tau is used."""
        logarithm = self.log_attention_temperature
        return None if logarithm is None else at_least_float32(logarithm).exp()

    def align(self, vision_tokens: Tensor) -> Tensor:
        """Return the tokens (B, T, D), CLS first, after the shared LayerNorm."""
        return self.layer_norm(self.align_norm(run_aligner(self, vision_tokens)))

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings (N, D), after the shared LayerNorm, of tokenised sentences, both inputs (N, S).

        Token states are averaged over the attention mask, or the first token's are taken (``text_pooling``).
        """
        pooled = self.text_projection(self.pooled_states(input_ids, attention_mask))
        if self.config.text_l2_norm:
            pooled = F.normalize(pooled, dim=-1)
        return self.layer_norm(pooled)

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """Shape of one sentence's embedding, (D,)."""
        return (self.config.vision_config.hidden_size,)

    def score_parameters(self) -> tuple[Tensor, ...]:
        """Return tau, the attention temperature (or tau again) and the bias in one tensor, (3,)."""
        tau, attention = self.temperature, self.attention_temperature
        return (torch.stack((tau, tau if attention is None else attention, self.bias().to(tau.dtype))),)

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Compute :func:`radzero.similarity_logits` of tokens (B, T, D) and sentences (N, D), and add the bias."""
        output = similarity_logits(
            tokens,
            sentences,
            self.temperature,
            cast(Similarity, self.config.similarity),
            self.attention_temperature,
            prefix=self.prefix_tokens,
        )
        return output if self.logit_bias is None else output._replace(logits=output.logits + self.logit_bias)

    def training_scores(self, features: Features) -> TrainingScores:
        """Compute :func:`radzero.models.similarity.pair_logits`, and add the bias."""
        tau, attention, bias = features.score_parameters[0]
        kind = cast(Similarity, self.config.similarity)
        separate = None if self.config.attention_temperature is None else attention
        output = pair_logits(features.images, features.sentences, tau, kind, separate, prefix=self.prefix_tokens)
        return output if self.config.logit_bias is None else output._replace(logits=output.logits + bias)


register_method(RadZeroConfig, RadZeroModel)
