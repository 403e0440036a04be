"""VL-CABS, vision-language cross-attention based on similarity, as pure functions (RadZero, NeurIPS 2025, section 3.2).

Shape suffixes: B images, N sentences, D hidden size, T tokens: first the P of the prefix (CLS, then registers, if
any), then L patches.
"""

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Similarity: TypeAlias = Literal["cos", "dot"]


class SimilarityOutput(NamedTuple):
    """Logits (B, N) and patch similarities (B, N, L; None for a method without maps), both before any sigmoid."""

    logits: Tensor
    similarity: Tensor | None


def similarity_logits(
    tokens_BTD: Tensor,
    sentences_ND: Tensor,
    temperature: float | Tensor,
    similarity: Similarity = "cos",
    attention_temperature: float | Tensor | None = None,
    *,
    prefix: int = 1,
) -> SimilarityOutput:
    """Return logits and patch similarities of sentences with images.

    With v_k the L2-normalised tokens of an image (k = 0 is CLS), t the L2-normalised sentence and tau the
    temperature (for "cos")::

        s_k = <v_k, t> / tau          a = softmax(s) over all T tokens
        u   = sum_k a_k v_k           l = <u / |u|, t> / tau

    For "dot", s_k = <v_k, t> / sqrt(D) and u sums the tokens, neither L2-normalised; l is the same cosine over tau.
    An attention temperature takes tau's place in s_k ("cos") or divides s_k ("dot"); tau then scales only l.

    Arithmetic is float32 (float64 for float64 input) whatever the input's dtype and also under autocast.

    Args:
        tokens_BTD: (B, T, D) vision tokens after the shared LayerNorm: CLS first, registers, then patches; T > P.
        sentences_ND: (N, D) sentence embeddings after the shared LayerNorm; N may be 0.
        temperature: tau, positive.
        similarity: "cos" or "dot".
        attention_temperature: positive; None to use tau for "cos" and no division for "dot".
        prefix: P, the number of tokens before the patches: 1 for CLS alone.

    Returns:
        logits (B, N), already divided by tau, and similarity (B, N, L) of the patches: the prefix takes part in the
        attention and is left out of the map.

    Raises:
        ValueError: for wrong shapes, an unknown similarity or a temperature that is not positive (the
            value of a tensor is not checked).
    """
    if prefix < 1 or tokens_BTD.ndim != 3 or tokens_BTD.shape[1] <= prefix:
        raise ValueError(f"tokens must be (B, T > {prefix}, D) with CLS first, not {tuple(tokens_BTD.shape)}")
    if sentences_ND.ndim != 2 or sentences_ND.shape[1] != tokens_BTD.shape[2]:
        raise ValueError(f"sentences must be (N, {tokens_BTD.shape[2]}), not {tuple(sentences_ND.shape)}")
    if similarity not in ("cos", "dot"):
        raise ValueError(f'similarity must be "cos" or "dot", not {similarity!r}')
    for name, value in (("temperature", temperature), ("attention_temperature", attention_temperature)):
        if value is not None and not isinstance(value, Tensor) and not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")

    with torch.autocast(tokens_BTD.device.type, enabled=False):
        dtype = torch.float64 if tokens_BTD.dtype == torch.float64 else torch.float32
        values_BTD, sentences_ND = tokens_BTD.to(dtype), sentences_ND.to(dtype)
        unit_ND = F.normalize(sentences_ND, dim=-1)
        if similarity == "cos":
            values_BTD = F.normalize(values_BTD, dim=-1)
            scale = temperature if attention_temperature is None else attention_temperature
            scores_BNT = unit_ND @ values_BTD.mT / scale
        else:
            scores_BNT = sentences_ND @ values_BTD.mT / math.sqrt(tokens_BTD.shape[2])
            if attention_temperature is not None:
                scores_BNT = scores_BNT / attention_temperature
        pooled_BND = scores_BNT.softmax(dim=-1) @ values_BTD
        logits_BN = (F.normalize(pooled_BND, dim=-1) * unit_ND).sum(dim=-1) / temperature
    return SimilarityOutput(logits_BN, scores_BNT[..., prefix:])


class TrainingScores(NamedTuple):
    """The scores of all pairs that a loss needs, before any sigmoid.

    Attributes:
        logits: logits of all pairs, (B, N).
        peaks: highest patch similarity of every pair, (B, N); None for a method that does not give it.
        directions: K matrices of logits, (K, B, N), each given to a contrastive loss; None for ``logits`` alone.
    """

    logits: Tensor
    peaks: Tensor | None
    directions: Tensor | None = None


def pair_logits(
    tokens_BTD: Tensor,
    sentences_ND: Tensor,
    temperature: float | Tensor,
    similarity: Similarity = "cos",
    attention_temperature: float | Tensor | None = None,
    *,
    prefix: int = 1,
    chunk_bytes: int = 2**26,
) -> TrainingScores:
    """Compute :func:`similarity_logits` for training: the same logits and gradients in bounded memory.

    Autograd would keep arrays of B x N x T and B x N x D for the backward pass. Here images and sentences are taken in
    chunks whose attention scores fit ``chunk_bytes``, and every chunk is computed again in the backward pass, so that
    only inputs, outputs and one chunk are held.

    Args:
        tokens_BTD, sentences_ND, temperature, similarity, attention_temperature, prefix: as in
            :func:`similarity_logits`; B may be 0.
        chunk_bytes: size in bytes of a chunk's scores (images, sentences, T); a few arrays of that size exist at once.

    Returns:
        logits (B, N) and the maximum of the patch similarities (B, N).
    """
    images, length, _ = tokens_BTD.shape
    sentences = len(sentences_ND)
    if images == 0 or sentences == 0:
        dtype = torch.float64 if tokens_BTD.dtype == torch.float64 else torch.float32
        empty = tokens_BTD.new_zeros(images, sentences, dtype=dtype)
        nothing = tokens_BTD.sum() * 0.0 + sentences_ND.sum() * 0.0  # so that both get a gradient, of zero
        return TrainingScores(empty + nothing, empty + nothing)

    def chunk(
        tokens: Tensor, sentences: Tensor, tau: float | Tensor, attention: float | Tensor | None
    ) -> TrainingScores:
        output = similarity_logits(tokens, sentences, tau, similarity, attention, prefix=prefix)
        assert output.similarity is not None
        return TrainingScores(output.logits, output.similarity.amax(dim=-1))

    pairs = max(1, chunk_bytes // (4 * length))
    columns = min(sentences, pairs)
    rows = max(1, pairs // columns)
    logits, peaks = [], []
    parts = torch.split(sentences_ND, columns)  # slices would each fill an array with zeros in the backward pass
    for tokens in torch.split(tokens_BTD, rows):
        outputs = [
            checkpoint(
                chunk,
                tokens,
                part,
                temperature,
                attention_temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for part in parts
        ]
        logits.append(torch.cat([output.logits for output in outputs], dim=1))
        peaks.append(torch.cat([output.peaks for output in outputs], dim=1))
    return TrainingScores(torch.cat(logits), torch.cat(peaks))
