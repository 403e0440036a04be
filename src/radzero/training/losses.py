"""Compute contrastive losses as pure functions of logits and ownership, in float32 or better.

These are the losses of one process; their mathematics is that of :mod:`radzero.training.sharding`, with one shard.
"""

import torch
from torch import Tensor

from radzero.training.sharding import (
    Shards,
    sharded_binary_pair_loss,
    sharded_multi_positive_loss,
    sharded_quiet_map_loss,
    sharded_siglip_loss,
)


def multi_positive_loss(
    logits_BN: Tensor,
    owner_N: Tensor,
    *,
    ignore_BN: Tensor | None = None,
    row_sum: bool = False,
    col_sum: bool = False,
) -> Tensor:
    """Compute RadZero's multi-positive contrastive loss over a batch of images and their sentences.

    With l[n, j] the logit of sentence n with image j and g(n) the image that owns sentence n::

        L_T  = -1/N sum_n log  exp l[n,g(n)] / sum_j exp l[n,j]
        L_I  = -1/N sum_n log  exp l[n,g(n)] / (exp l[n,g(n)] + sum_{m: g(m) != g(n)} exp l[m,g(n)])
        loss = (L_T + L_I) / 2

    so that a sentence never competes with its own image's other sentences (MP-NCE). Both are computed by
    log-sum-exp, so that the loss is finite at any temperature.

    Args:
        logits_BN: (B, N) logits; images may own no sentence.
        owner_N: (N,) integer index of each sentence's image.
        ignore_BN: optional (B, N) booleans: pairs that are neither positive nor negative (the same sentence in another
            image's report, say) and leave every denominator. Own pairs are never ignored.
        row_sum: pool the positives before the logarithm (MIL-NCE) along sentences' rows, that is in L_T. A sentence
            has one image, so this changes nothing; it is here because published configurations name it.
        col_sum: pool the positives along images' columns, that is in L_I, which becomes the mean over images that
            own sentences of -log(sum of positives / (sum of positives + sum of negatives)).

    Returns:
        Scalar; 0 (with a zero gradient) when there is no sentence.

    Raises:
        ValueError: for wrong shapes or owners outside 0..B-1.
    """
    shards = _one_shard(logits_BN, owner_N)
    return sharded_multi_positive_loss(
        logits_BN, owner_N.long(), shards, ignore_bN=ignore_BN, row_sum=row_sum, col_sum=col_sum
    )


def clip_loss(logits_BB: Tensor, *, ignore_BB: Tensor | None = None) -> Tensor:
    """Compute CLIP's loss (Radford et al. 2021), in which sentence i belongs to image i.

    It is the mean of the rows' and the columns' cross-entropies, that is :func:`multi_positive_loss` of one sentence
    per image.

    Args:
        logits_BB: (B, B), already divided by the temperature.
        ignore_BB: (B, B) booleans: pairs that are not negatives.

    Returns:
        Scalar; 0 for an empty batch.

    Raises:
        ValueError: for logits that are not square.
    """
    if logits_BB.ndim != 2 or logits_BB.shape[0] != logits_BB.shape[1]:
        raise ValueError(f"logits must be (B, B), one sentence per image, not {tuple(logits_BB.shape)}")
    return multi_positive_loss(logits_BB, torch.arange(len(logits_BB), device=logits_BB.device), ignore_BN=ignore_BB)


def siglip_loss(logits_BN: Tensor, owner_N: Tensor, *, ignore_BN: Tensor | None = None) -> Tensor:
    """Compute SigLIP's loss (Zhai et al. 2023), which takes every pair alone as positive or negative.

    It is -1/B times the sum over pairs of log sigmoid(z l), with z = 1 for an image's own sentences and z = -1 for
    others'. The logits need a learned scale and a learned bias, which a model owns (``logit_bias``, initially -10). The
    arguments are those of :func:`multi_positive_loss`.
    """
    return sharded_siglip_loss(logits_BN, owner_N.long(), _one_shard(logits_BN, owner_N), ignore_bN=ignore_BN)


def binary_pair_loss(
    logits_BN: Tensor, owner_N: Tensor, *, ignore_BN: Tensor | None = None, negative_weight: float = 1.0
) -> Tensor:
    """Compute a sigmoid loss on the same pairs, which fixes where the logits are zero.

    Contrastive losses hardly change when all logits move together. This term puts sigmoid(l) = 1/2 between own pairs
    and other pairs. It is the mean of -log sigmoid(l) over own pairs plus ``negative_weight`` times the mean of -log
    sigmoid(-l) over all other pairs, divided by 1 + ``negative_weight``. It is not part of the published recipe. The
    other arguments are those of :func:`multi_positive_loss`.
    """
    shards = _one_shard(logits_BN, owner_N)
    return sharded_binary_pair_loss(
        logits_BN, owner_N.long(), shards, ignore_bN=ignore_BN, negative_weight=negative_weight
    )


def quiet_map_loss(
    similarity_BNL: Tensor, owner_N: Tensor, *, ignore_BN: Tensor | None = None, margin: float = 0.5
) -> Tensor:
    """Keep the maps of sentences that an image does not state below one half everywhere.

    The loss is the mean of max(0, margin + max_k s_k) over all pairs of an image with another image's sentence. The
    logit of such a pair may be low while a single patch is still high, which the other losses hardly notice. Maps that
    are low already are left alone, so that those of present findings keep their extent. This loss is not part of the
    published recipe.

    Args:
        similarity_BNL: (B, N, L) patch similarities before the sigmoid.
        owner_N, ignore_BN: as in :func:`multi_positive_loss`.
        margin: distance below 0 at which the highest similarity no longer adds to the loss.

    Returns:
        Scalar; 0 when there is no such pair.
    """
    peaks_BN = similarity_BNL.amax(dim=-1)
    shards = _one_shard(peaks_BN, owner_N)
    return sharded_quiet_map_loss(peaks_BN, owner_N.long(), shards, ignore_bN=ignore_BN, margin=margin)


def _one_shard(logits_BN: Tensor, owner_N: Tensor) -> Shards:
    """Return the whole batch as the only shard, after a check of its shapes and owners."""
    if logits_BN.ndim != 2 or owner_N.shape != logits_BN.shape[1:]:
        raise ValueError(
            f"logits must be (B, N) and owners (N,), not {tuple(logits_BN.shape)} and {tuple(owner_N.shape)}"
        )
    images, sentences = logits_BN.shape
    if sentences and (int(owner_N.min()) < 0 or int(owner_N.max()) >= images):
        raise ValueError(f"owners must be images 0..{images - 1}: {owner_N.tolist()}")
    return Shards(0, (images,), (sentences,))
