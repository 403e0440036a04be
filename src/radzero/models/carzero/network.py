"""CARZero: image and text attend to each other in one fusion module, whose output becomes the logit.

Shape suffixes: M memories, Q queries per memory, K memory tokens, D hidden size, P text positions ([sentence ; words]).
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from transformers import initialization as init

from radzero.models.base import Features, VisionLanguageModel, at_least_float32, chunked, empty_scores, register_method
from radzero.models.carzero.configuration import CarZeroConfig
from radzero.models.similarity import SimilarityOutput, TrainingScores


class FusionOutput(NamedTuple):
    """Similarity representations (M, Q, D), and attention weights (M, Q, K) averaged over heads and layers, or None."""

    found: Tensor
    attention: Tensor | None


class FusionLayer(nn.Module):
    """A pre-norm decoder layer without self-attention; each query attends only to the memory."""

    def __init__(self, size: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm2, self.norm3 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.multihead_attn = nn.MultiheadAttention(size, heads, dropout=dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(size, width), nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries_MQD: Tensor, memory_MKD: Tensor, *, weights: bool = False) -> FusionOutput:
        """Return the queries after the layer, and with ``weights`` the mean of the heads' attention weights."""
        attended, attention = self._attend(self.norm2(queries_MQD), memory_MKD, weights)
        queries_MQD = queries_MQD + self.dropout(attended)
        widened = self.dropout(F.relu(self.linear1(self.norm3(queries_MQD))))
        return FusionOutput(queries_MQD + self.dropout(self.linear2(widened)), attention)

    def _attend(self, queries_MQD: Tensor, memory_MKD: Tensor, weights: bool) -> FusionOutput:
        """Compute multi-head attention with the parameters of ``multihead_attn``, without calling it.

        The module itself copies keys and values, and fills arrays of their size with zeros in the backward pass, which
        took longer than the attention.
        """
        module, given = self.multihead_attn, (queries_MQD, memory_MKD, memory_MKD)
        projections = zip(given, module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
        split = (module.num_heads, module.head_dim)
        queries, keys, values = (
            F.linear(x, weight, bias).reshape(*x.shape[:2], *split).transpose(1, 2) for x, weight, bias in projections
        )
        dropout = module.dropout if self.training else 0.0
        if weights:
            shares = (queries @ keys.mT / math.sqrt(module.head_dim)).softmax(dim=-1)
            attended = F.dropout(shares, dropout) @ values
        else:
            shares, attended = None, F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        joined = module.out_proj(attended.transpose(1, 2).flatten(2))
        return FusionOutput(joined, None if shares is None else shares.mean(dim=1))


class Fusion(nn.Module):
    """CARZero's fusion module, which both directions share.

    A LayerNorm on queries and memory, the decoder's layers, its final LayerNorm and dropout give a query's similarity
    representation (SimR); an MLP or a linear layer turns it into a logit.
    """

    def __init__(self, config: CarZeroConfig) -> None:
        super().__init__()
        size = config.vision_config.hidden_size
        self.decoder_norm = nn.LayerNorm(size)
        self.layers = nn.ModuleList(
            FusionLayer(size, config.fusion_heads, config.fusion_mlp, config.fusion_dropout)
            for _ in range(config.fusion_layers)
        )
        self.final_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.fusion_dropout)
        widths = [size, *config.simr_widths, 1]
        self.head: nn.Module = nn.Identity()
        if config.simr == "linear":
            self.head = nn.Linear(size, 1)
        elif config.simr == "mlp":
            self.head = nn.Sequential()
            for k, (before, after) in enumerate(pairwise(widths)):
                if k:
                    self.head.extend((nn.ReLU(), nn.Dropout(config.fusion_dropout)))
                self.head.append(nn.Linear(before, after))

    def forward(self, queries_MQD: Tensor, memory_MKD: Tensor, *, weights: bool = False) -> FusionOutput:
        """Return the queries' similarity representations, and with ``weights`` the attention weights."""
        queries, memory = self.decoder_norm(queries_MQD), self.decoder_norm(memory_MKD)
        total = None
        for layer in self.layers:
            queries, attention = layer(queries, memory, weights=weights)
            if attention is not None:
                total = attention if total is None else total + attention
        found = self.dropout(self.final_norm(queries))
        return FusionOutput(found, None if total is None else total / len(self.layers))

    def logits(self, found_MQD: Tensor) -> Tensor:
        """Return the logits (M, Q) of similarity representations."""
        return self.head(found_MQD).squeeze(-1)


class _Scores(nn.Module):
    """The scores of all pairs as a module, so that ``torch.func.functional_call`` can supply its parameters."""

    def __init__(self, config: CarZeroConfig, fusion: Fusion, prefix: int) -> None:
        super().__init__()
        self.config, self.fusion, self.prefix = config, fusion, prefix

    def memory(self, tokens: Tensor, prefix: int) -> Tensor:
        """Return the tokens that are attended to; ``prefix`` tokens stand before the patches, or before the words."""
        kind = self.config.memory
        return tokens if kind == "both" else tokens[:, prefix:] if kind == "local" else tokens[:, :1]

    def forward(self, images_BTD: Tensor, texts_NPD: Tensor, temperature: Tensor) -> Tensor:
        """Return the logits of both directions, (2, B, N), or for "cos" the one cosine over tau, (1, B, N)."""
        count, texts = len(images_BTD), len(texts_NPD)
        image_B1D, text_N1D = images_BTD[:, 0], texts_NPD[:, 0]
        patches, words = self.memory(images_BTD, self.prefix), self.memory(texts_NPD, 1)
        of_text = self.fusion(text_N1D.expand(count, -1, -1), patches).found  # (B, N, D), i2t
        of_image = self.fusion(image_B1D.expand(texts, -1, -1), words).found  # (N, B, D), t2i
        if self.config.simr in ("mlp", "linear"):
            return at_least_float32(torch.stack((self.fusion.logits(of_text), self.fusion.logits(of_image).mT)))
        of_image = of_image.transpose(0, 1)
        if self.config.simr == "cos":
            return _cosine(of_text, of_image)[None] / temperature
        both = (_cosine(of_text, image_B1D[:, None]), _cosine(of_image, text_N1D[None]))
        return torch.stack(both) / temperature


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(at_least_float32(one), at_least_float32(other), dim=-1)


class CarZeroModel(VisionLanguageModel):
    """CARZero (Lai et al., CVPR 2024): see :class:`CarZeroConfig` for its parts.

    An image's tokens are [global ; local]. A text's tokens are [sentence ; words]: the last layers of the text encoder
    are summed, word pieces are summed into words, a sentence is the mean of its words (including the tokenizer's first
    and last special tokens), and zeros pad the text to a fixed number of positions. In one direction (i2t) the
    sentences are queries on the image's tokens, in the other (t2i) the images' global tokens are queries on the text's
    tokens; the score is the mean of both logits.

    The map is the attention of i2t to the patches, averaged over heads and layers and times the number of memory
    tokens; or, with ``map_kind`` "logits", the logit of each patch as the only memory token.
    """

    config_class = CarZeroConfig
    config: CarZeroConfig
    base_model_prefix = "radzero_carzero"

    def __init__(self, config: CarZeroConfig) -> None:
        super().__init__(config)
        size, text_size = config.vision_config.hidden_size, config.text_config.hidden_size
        self.text_projection = nn.Identity() if text_size == size else nn.Linear(text_size, size)
        self.fusion_module = Fusion(config)
        # one entry per token of the vocabulary: 1 where it begins a word, 0 where it continues one
        self.register_buffer("word_start", torch.ones(config.text_config.vocab_size))
        self.word_start: Tensor
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the fusion module as torch does: a small fixed deviation stalls one that is not 768 wide."""
        super()._init_weights(module)
        if not isinstance(module, CarZeroModel):
            return
        for part in module.fusion_module.modules():
            if isinstance(part, nn.Linear):
                init.kaiming_uniform_(part.weight, a=math.sqrt(5))
                bound = 1 / math.sqrt(part.in_features)
                init.uniform_(part.bias, -bound, bound)
        for layer in module.fusion_module.layers:
            assert isinstance(layer, FusionLayer)
            attention = layer.multihead_attn
            init.xavier_uniform_(attention.in_proj_weight)
            init.zeros_(attention.in_proj_bias)
            init.zeros_(attention.out_proj.bias)

    def set_vocabulary(self, tokens: dict[str, int]) -> None:
        """Read from a tokenizer's vocabulary which tokens continue a word ("##...").

        Raises:
            ValueError: for a tokenizer that marks the beginnings of words instead (byte-level BPE, SentencePiece).
        """
        if any(token.startswith(("\u0120", "\u2581")) for token in tokens):
            raise ValueError(
                "carzero sums word pieces into words by BERT's mark, ##; this text encoder's tokenizer has no such mark"
            )
        for token, index in tokens.items():
            self.word_start[index] = 0.0 if token.startswith("##") else 1.0

    def align(self, vision_tokens: Tensor) -> Tensor:
        """Return the encoder's tokens [global ; local] (B, T, D) as they are."""
        return vision_tokens

    def encode_sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the texts' tokens [sentence ; words] (N, P, D); words beyond P - 1 are left out."""
        config, positions = self.config, self.config.text_positions
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        layers = min(config.text_layers, len(output.hidden_states) - 1)  # the first states are the embeddings
        states = torch.stack(output.hidden_states[-layers:]).sum(dim=0)
        mask = attention_mask.to(states.dtype)
        word = (self.word_start[input_ids] * attention_mask).cumsum(dim=1).long() - 1  # (N, S)
        word = word.clamp(min=0)
        kept = mask * (word < positions - 1)
        words = states.new_zeros(len(states), positions - 1, states.shape[-1])
        index = word.clamp(max=positions - 2)[..., None].expand_as(states)
        words = words.scatter_add(1, index, states * kept[..., None])
        counts = torch.where(kept > 0, word + 1, 0).amax(dim=1)[:, None]
        words = self.text_projection(words)
        there = (torch.arange(positions - 1, device=word.device) < counts)[..., None]
        words = torch.where(there, words, torch.zeros((), dtype=words.dtype, device=words.device))
        sentence = words.sum(dim=1, keepdim=True) / counts.clamp(min=1)[..., None].to(words.dtype)
        return torch.cat((sentence, words), dim=1)

    @property
    def sentence_shape(self) -> tuple[int, ...]:
        """Shape of one text's tokens, (P, D)."""
        return (self.config.text_positions, self.config.vision_config.hidden_size)

    def score_parameters(self) -> tuple[Tensor, ...]:
        """Return tau and the bias in one tensor, (2,), then every parameter of the fusion module."""
        tau = self.temperature
        return (torch.stack((tau, self.bias().to(tau.dtype))), *(p.view_as(p) for p in self.fusion_module.parameters()))

    def training_scores(self, features: Features) -> TrainingScores:
        """Return the logits (B, N) of all pairs, and those of each direction."""
        directions = 1 if self.config.simr == "cos" else 2
        if not len(features.images) or not len(features.sentences):
            return empty_scores(features, directions)
        scalars, *weights = features.score_parameters
        scores = _Scores(self.config, self.fusion_module, self.prefix_tokens)
        names = [f"fusion.{name}" for name, _ in self.fusion_module.named_parameters()]
        given = dict(zip(names, weights, strict=True))

        def score(images: Tensor, sentences: Tensor) -> Tensor:
            return functional_call(scores, given, (images, sentences, scalars[0]))

        per_pair = 4 * (
            self.config.fusion_layers * (3 * self.config.fusion_mlp + 8 * features.images.shape[-1])
            + self.config.fusion_heads * (features.images.shape[1] + features.sentences.shape[1])
        )
        both = chunked(score, features.images, features.sentences, per_pair) + scalars[1]
        return TrainingScores(both.mean(dim=0), None, both)

    def similarity(self, tokens: Tensor, sentences: Tensor) -> SimilarityOutput:
        """Return the logits (B, N) and the patches' values (B, N, L): attention times memory tokens, or logits."""
        scores = _Scores(self.config, self.fusion_module, self.prefix_tokens)
        tau, bias = self.score_parameters()[0]
        logits = scores(tokens, sentences, tau).mean(dim=0) + bias
        queries = sentences[:, 0].expand(len(tokens), -1, -1)
        if self.config.map_kind == "logits":
            return SimilarityOutput(logits, self._patch_logits(tokens, queries) + bias)
        memory = scores.memory(tokens, self.prefix_tokens)
        attention = self.fusion_module(queries, memory, weights=True).attention
        patches = attention[..., memory.shape[1] - (tokens.shape[1] - self.prefix_tokens) :]
        return SimilarityOutput(logits, at_least_float32(patches * memory.shape[1]))

    def _patch_logits(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Return the logits (B, N, L) of every patch as the only memory token."""
        found = [
            self.fusion_module.logits(self.fusion_module(queries, tokens[:, k : k + 1]).found)
            for k in range(self.prefix_tokens, tokens.shape[1])
        ]
        return at_least_float32(torch.stack(found, dim=-1))


register_method(CarZeroConfig, CarZeroModel)
