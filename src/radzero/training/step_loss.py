"""Compute a process's share of the loss of a batch from the features of its own images and sentences."""

import hashlib

import torch
import torch.distributed as dist
from torch import Tensor

from radzero.models.base import Features, VisionLanguageModel
from radzero.training.batches import FilmBatch, TrainingDataset
from radzero.training.config import LossChoice
from radzero.training.sharding import (
    Shards,
    gather_rows,
    sharded_binary_pair_loss,
    sharded_multi_positive_loss,
    sharded_quiet_map_loss,
    sharded_siglip_loss,
)
from radzero.training.sources import PhantomDataset


def batch_loss(
    model: VisionLanguageModel, encoded: Features, batch: FilmBatch, choice: LossChoice, films: TrainingDataset
) -> Tensor:
    """Compute this process's share of the loss of a batch.

    The sum over all processes is the loss. The call is collective.

    Args:
        model: model that made the features.
        encoded: features of this process's images and of its distinct sentences.
        batch: this process's share of the batch, with which image states which sentence.
        choice: terms of the loss and their weights.
        films: images that the batch is from, needed for ``choice.ignore``.
    """
    device = encoded.images.device
    shards = Shards.of(len(encoded.images), len(encoded.sentences), device)
    texts = gather_rows(encoded.sentences, shards.sentences, shards.rank)
    pairs = model.training_scores(encoded._replace(sentences=texts))

    # sentences are encoded once however many images state them; the loss counts every statement
    said = Shards.of(len(encoded.images), len(batch.text_n), device)
    first_text = sum(shards.sentences[: shards.rank])
    rows = torch.stack((batch.owner_n + said.first_image, batch.text_n + first_text), dim=1).to(device)
    with torch.no_grad():
        owner_N, text_N = gather_rows(rows, said.sentences, said.rank).unbind(dim=1)
    ignore = None
    if choice.ignore == "stated":
        ignore = _stated(batch, shards, device)[:, text_N]
    elif choice.ignore == "true":
        ignore = _true(batch, films, device)[:, text_N]
    directions = pairs.logits[None] if pairs.directions is None else pairs.directions
    loss = sum(
        (_contrast(logits[:, text_N], owner_N, said, ignore, choice) for logits in directions),
        torch.zeros((), device=device),
    )
    logits = pairs.logits[:, text_N]
    if choice.binary_weight:
        loss = loss + choice.binary_weight * sharded_binary_pair_loss(
            logits, owner_N, said, ignore_bN=ignore, negative_weight=choice.binary_negative_weight
        )
    if choice.quiet_weight:
        assert pairs.peaks is not None, "the configuration sees to it"
        loss = loss + choice.quiet_weight * sharded_quiet_map_loss(
            pairs.peaks[:, text_N], owner_N, said, ignore_bN=ignore
        )
    return loss


def _contrast(logits_bN: Tensor, owner_N: Tensor, shards: Shards, ignore: Tensor | None, choice: LossChoice) -> Tensor:
    if choice.kind == "siglip":
        return sharded_siglip_loss(logits_bN, owner_N, shards, ignore_bN=ignore)
    return sharded_multi_positive_loss(
        logits_bN, owner_N, shards, ignore_bN=ignore, row_sum=choice.row_sum, col_sum=choice.col_sum
    )


def _stated(batch: FilmBatch, shards: Shards, device: torch.device) -> Tensor:
    """Return booleans (b, all ranks' texts): whether an image of this rank states a text in the same words."""
    names = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big", signed=True) for t in batch.texts]
    own = torch.tensor(names, dtype=torch.long, device=device)
    with torch.no_grad():
        every = gather_rows(own[:, None], shards.sentences, shards.rank)[:, 0]
    states = torch.zeros(len(batch.pixel_values), len(own), dtype=torch.bool, device=device)
    states[batch.owner_n.to(device), batch.text_n.to(device)] = True
    return (states.float() @ (own[:, None] == every).float()) > 0


def _true(batch: FilmBatch, films: TrainingDataset, device: torch.device) -> Tensor:
    """Return booleans (b, all ranks' texts): whether a text is true of an image of this rank."""
    assert isinstance(films, PhantomDataset), "the configuration sees to it"
    texts = [batch.texts]
    if dist.is_available() and dist.is_initialized():
        texts = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(texts, batch.texts)
    every = [text for part in texts for text in part]
    rows = [[films.is_true(film, text) for text in every] for film in batch.films]
    return torch.tensor(rows, dtype=torch.bool, device=device).reshape(len(rows), len(every))
