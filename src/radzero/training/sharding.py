"""Compute the losses of a batch that is spread over processes, and their gradients, as one process would.

Every rank holds its own images and sentences. Sentence embeddings are exchanged (:func:`gather_rows`), each rank
computes the logits of its own images with all sentences, and the losses exchange one number per rank and sentence.
Image tokens never leave their rank. Each function gives a rank's share of the loss; the shares add up to the loss of
the whole batch, and their backward passes, which are collective too, to its gradient.

In shape suffixes, b is the number of this rank's images, N of all ranks' sentences, and W of ranks.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

# This module is imported before init_process_group, since its functions' default arguments are the default group at the
# time of the import. They would keep a group's threads alive beyond destroy_process_group, and a gloo thread that still
# runs when the interpreter ends aborts the process ("terminate called without an active exception").
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shards:
    """Numbers of images and sentences of a batch on each rank.

    Attributes:
        rank: rank of this process.
        images, sentences: numbers on each rank, in the ranks' order.
    """

    rank: int
    images: tuple[int, ...]
    sentences: tuple[int, ...]

    @classmethod
    def of(cls, images: int, sentences: int, device: torch.device) -> "Shards":
        """Gather the numbers of all ranks from those of this rank; collective. One process gives one shard."""
        if not _distributed():
            return cls(0, (images,), (sentences,))
        counts = [torch.empty(2, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, torch.tensor([images, sentences], device=device))
        pairs = torch.stack(counts).tolist()
        return cls(dist.get_rank(), tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))

    @property
    def first_image(self) -> int:
        """Index in the whole batch of this rank's first image."""
        return sum(self.images[: self.rank])

    @property
    def world(self) -> int:
        """Number of ranks."""
        return len(self.images)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.counts, ctx.rank, shape = counts, rank, rows.shape[1:]
        rows = rows.flatten(1)
        padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded.contiguous())
        every = torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
        return every.reshape(-1, *shape)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        counts, rank = ctx.counts, ctx.rank
        if dist.get_backend() == "nccl":
            size, flat = max(counts), gradient.flatten(1)
            parts = [F.pad(part, (0, 0, 0, size - len(part))) for part in torch.split(flat, list(counts))]
            own = torch.empty_like(parts[rank])
            dist.reduce_scatter_tensor(own, torch.cat(parts))
            return own[: counts[rank]].reshape(-1, *gradient.shape[1:]), None, None
        total = gradient.contiguous().clone()
        dist.all_reduce(total)  # gloo has no reduce-scatter
        return torch.split(total, list(counts))[rank], None, None


def gather_rows(rows_n: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:
    """Return the rows of all ranks, in their order; the gradient of a rank's rows is the sum of all ranks' gradients.

    Args:
        rows_n: (n, D) or (n, ...) of this rank; n may be 0.
        counts: n of every rank.
        rank: rank of this process.

    Returns:
        (sum of counts, ...), the same on every rank; ``rows_n`` itself where there is one rank.
    """
    if len(counts) == 1:
        return rows_n
    return _GatherRows.apply(rows_n, counts, rank)  # type: ignore[no-untyped-call]


def gather_owners(owner_n: Tensor, shards: Shards) -> Tensor:
    """Return the index, over the whole batch, of the image that owns each sentence of all ranks.

    Args:
        owner_n: (n,) index of each of this rank's sentences' images, over its own images.
        shards: numbers of images and sentences on each rank.

    Returns:
        (N,) integers.
    """
    whole = (owner_n.long() + shards.first_image)[:, None]
    if shards.world == 1:
        return whole[:, 0]
    with torch.no_grad():
        return gather_rows(whole, shards.sentences, shards.rank)[:, 0]


def sharded_multi_positive_loss(
    logits_bN: Tensor,
    owner_N: Tensor,
    shards: Shards,
    *,
    ignore_bN: Tensor | None = None,
    row_sum: bool = False,
    col_sum: bool = False,
) -> Tensor:
    """Compute this rank's share of :func:`radzero.multi_positive_loss` over all ranks' images and sentences.

    L_I needs the logits of an image with all sentences, which its rank has. L_T needs the logits of a sentence with all
    images, and takes from each rank the log-sum-exp over the rank's own images.

    Args:
        logits_bN: (b, N) logits of this rank's images with all sentences.
        owner_N: (N,) from :func:`gather_owners`.
        shards: numbers of images and sentences on each rank.
        ignore_bN: (b, N), as ``ignore_BN`` of :func:`radzero.multi_positive_loss`.
        row_sum, col_sum: as in :func:`radzero.multi_positive_loss`.

    Returns:
        Scalar; the sum over the ranks is the loss. Where gradients are averaged over ranks, as data-parallel wrappers
        do, multiply it by the number of ranks.
    """
    images, sentences = logits_bN.shape
    logits = logits_bN if logits_bN.dtype == torch.float64 else logits_bN.float()
    if sentences == 0:
        return logits.sum() * 0.0
    lowest = torch.finfo(logits.dtype).min / 4
    own, _ = _pairs(owner_N, images, shards, None)
    mine = own.any(dim=0)  # (N,), true for this rank's sentences
    competing = logits if ignore_bN is None else logits.masked_fill(ignore_bN & ~own, lowest)

    if images:
        over_own_images = torch.logsumexp(competing, dim=0)
    else:
        over_own_images = logits.new_full((sentences,), lowest) + logits.sum() * 0.0
    over_images = torch.logsumexp(gather_rows(over_own_images[None], (1,) * shards.world, shards.rank), dim=0)
    if images == 0:
        return over_images.sum() * 0.0 + logits.sum() * 0.0

    owner_n = owner_N[mine] - shards.first_image
    positive = logits[owner_n, mine.nonzero()[:, 0]]
    text_loss = (over_images[mine] - positive).sum() / sentences
    negatives = torch.logsumexp(competing.masked_fill(own, lowest), dim=1)  # (b,)
    if col_sum:
        owning = own.any(dim=1)
        pooled = torch.logsumexp(logits.masked_fill(~own, lowest), dim=1)
        image_loss = -F.logsigmoid(pooled - negatives)[owning].sum() / len(set(owner_N.tolist()))
    else:
        image_loss = -F.logsigmoid(positive - negatives[owner_n]).sum() / sentences
    return (text_loss + image_loss) / 2


def sharded_binary_pair_loss(
    logits_bN: Tensor,
    owner_N: Tensor,
    shards: Shards,
    *,
    ignore_bN: Tensor | None = None,
    negative_weight: float = 1.0,
) -> Tensor:
    """Compute this rank's share of :func:`radzero.training.losses.binary_pair_loss`.

    Arguments and result are as in :func:`sharded_multi_positive_loss`.
    """
    logits = logits_bN if logits_bN.dtype == torch.float64 else logits_bN.float()
    images, sentences = logits.shape
    if sentences == 0:
        return logits.sum() * 0.0
    own, other = _pairs(owner_N, images, shards, ignore_bN)
    positives = -F.logsigmoid(logits[own]).sum() / sentences
    negatives = -F.logsigmoid(-logits[other]).sum() / _count(other, shards)
    return (positives + negative_weight * negatives) / (1.0 + negative_weight)


def sharded_siglip_loss(
    logits_bN: Tensor, owner_N: Tensor, shards: Shards, *, ignore_bN: Tensor | None = None
) -> Tensor:
    """Compute this rank's share of :func:`radzero.siglip_loss`.

    Arguments and result are as in :func:`sharded_multi_positive_loss`.
    """
    logits = logits_bN if logits_bN.dtype == torch.float64 else logits_bN.float()
    if not sum(shards.images):
        return logits.sum() * 0.0
    own, other = _pairs(owner_N, len(logits), shards, ignore_bN)
    wrong = F.logsigmoid(logits[own]).sum() + F.logsigmoid(-logits[other]).sum()
    return -wrong / sum(shards.images)


def sharded_quiet_map_loss(
    peaks_bN: Tensor, owner_N: Tensor, shards: Shards, *, ignore_bN: Tensor | None = None, margin: float = 0.5
) -> Tensor:
    """Compute this rank's share of :func:`radzero.training.losses.quiet_map_loss` from the highest similarities."""
    _, other = _pairs(owner_N, len(peaks_bN), shards, ignore_bN)
    return F.relu(margin + peaks_bN[other]).sum() / _count(other, shards)


def _pairs(owner_N: Tensor, images: int, shards: Shards, ignore_bN: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return own pairs, and pairs with another image's sentence that are not ignored, as booleans (b, N)."""
    own = owner_N[None] == torch.arange(shards.first_image, shards.first_image + images, device=owner_N.device)[:, None]
    return own, ~own if ignore_bN is None else ~own & ~ignore_bN


def _count(pairs: Tensor, shards: Shards) -> Tensor:
    """Return the number of pairs of all ranks, or 1 if there is none; collective."""
    count = pairs.sum()
    if shards.world > 1:
        dist.all_reduce(count)
    return count.clamp(min=1)
