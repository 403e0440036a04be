"""Losses over several processes against one process with the whole batch: gloo, spawned here."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from radzero.models.similarity import pair_logits, similarity_logits
from radzero.training.losses import binary_pair_loss, multi_positive_loss, quiet_map_loss
from radzero.training.sharding import (
    Shards,
    gather_owners,
    gather_rows,
    sharded_binary_pair_loss,
    sharded_multi_positive_loss,
    sharded_quiet_map_loss,
)
from ranks import run_ranks

pytestmark = pytest.mark.slow

LENGTH, WIDTH, FEATURES = 7, 6, 5
# Images and sentences per image of every rank; the last ranks run out of sentences, and of images.
BATCHES: dict[int, list[list[int]]] = {
    1: [[3, 0, 2, 5]],
    2: [[4, 1, 2], [0, 6]],
    4: [[2, 3], [1], [0, 0], []],
}


class Towers(nn.Module):
    """Two linear encoders and the temperatures, enough to have gradients everywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(FEATURES, WIDTH), nn.Linear(FEATURES, WIDTH)
        self.log_temperature = nn.Parameter(torch.tensor(-1.0))
        self.log_attention_temperature = nn.Parameter(torch.tensor(-0.5))

    def temperatures(self) -> tuple[Tensor, Tensor]:
        return self.log_temperature.exp(), self.log_attention_temperature.exp()


def data(world: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, sentences, owners and pairs to ignore of the whole batch."""
    counts = [n for rank in BATCHES[world] for n in rank]
    chance = torch.Generator().manual_seed(world)
    images = torch.randn(len(counts), LENGTH, FEATURES, generator=chance, dtype=torch.float64).to(dtype)
    sentences = torch.randn(sum(counts), FEATURES, generator=chance, dtype=torch.float64).to(dtype)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ignore = torch.rand(len(counts), sum(counts), generator=chance) < 0.2
    return images, sentences, owner, ignore


LOSSES: dict[str, dict[str, bool]] = {"plain": {}, "ignoring": {"masked": True}, "pooled": {"col_sum": True}}


def whole(world: int, dtype: torch.dtype, masked: bool = False, col_sum: bool = False) -> tuple[Tensor, Towers]:
    images, sentences, owner, ignore = data(world, dtype)
    towers = Towers().to(dtype)
    tau, attention = towers.temperatures()
    logits, similarity = similarity_logits(towers.image(images), towers.text(sentences), tau, "cos", attention)
    mask = ignore if masked else None
    loss = multi_positive_loss(logits, owner, ignore_BN=mask, col_sum=col_sum)
    loss = loss + 0.7 * binary_pair_loss(logits, owner, ignore_BN=mask, negative_weight=2.0)
    loss = loss + 0.3 * quiet_map_loss(similarity, owner, ignore_BN=mask)
    loss.backward()
    return loss.detach(), towers


def share(
    rank: int, world: int, dtype: torch.dtype, masked: bool = False, col_sum: bool = False
) -> tuple[Tensor, Towers]:
    """What a rank computes of the same loss, and its gradients."""
    images, sentences, _, ignore = data(world, dtype)
    counts = BATCHES[world]
    first_image = sum(len(c) for c in counts[:rank])
    first_sentence = sum(sum(c) for c in counts[:rank])
    mine = images[first_image : first_image + len(counts[rank])]
    stated = sentences[first_sentence : first_sentence + sum(counts[rank])]
    owner = torch.repeat_interleave(torch.arange(len(mine)), torch.tensor(counts[rank], dtype=torch.long))

    towers = Towers().to(dtype)
    shards = Shards.of(len(mine), len(stated), mine.device)
    embedded = gather_rows(towers.text(stated), shards.sentences, shards.rank)
    owners = gather_owners(owner, shards)
    tau, attention = towers.temperatures()
    pairs = pair_logits(towers.image(mine), embedded, tau, "cos", attention, chunk_bytes=4 * LENGTH * 3)
    logits, peaks = pairs.logits, pairs.peaks
    mask = ignore[first_image : first_image + len(mine)] if masked else None
    loss = sharded_multi_positive_loss(logits, owners, shards, ignore_bN=mask, col_sum=col_sum)
    loss = loss + 0.7 * sharded_binary_pair_loss(logits, owners, shards, ignore_bN=mask, negative_weight=2.0)
    loss = loss + 0.3 * sharded_quiet_map_loss(peaks, owners, shards, ignore_bN=mask)
    loss.backward()
    return loss.detach(), towers


def every_share(rank: int, world: int) -> dict[tuple[str, str], tuple[Tensor, list[Tensor]]]:
    """Value and gradients of this rank's share of every loss."""
    results = {}
    for dtype in (torch.float64, torch.float32):
        for name, options in LOSSES.items():
            loss, towers = share(rank, world, dtype, **options)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in towers.parameters()]
            results[name, str(dtype)] = (loss, gradients)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict]]:
    """Results of every rank of a world, which is run once."""

    @cache
    def results(world: int) -> list[dict]:
        if world == 1:
            return [every_share(0, 1)]
        return run_ranks(every_share, world, tmp_path_factory.mktemp(f"world{world}"))

    return results


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("world", BATCHES)
def test_value_and_gradient_equal_one_process(
    ranks: Callable[[int], list[dict]], world: int, name: str, dtype: torch.dtype
):
    loss, towers = whole(world, dtype, **LOSSES[name])
    shares = [rank[name, str(dtype)] for rank in ranks(world)]
    tolerance = 1e-10 if dtype is torch.float64 else 1e-5
    assert sum(value for value, _ in shares).item() == pytest.approx(loss.item(), abs=tolerance)
    for k, parameter in enumerate(towers.parameters()):
        torch.testing.assert_close(sum(g[k] for _, g in shares), parameter.grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("similarity", ["cos", "dot"])
@pytest.mark.parametrize("chunk_bytes", [1, 4 * LENGTH * 3, 4 * LENGTH * 11, 2**28])
@pytest.mark.parametrize("separate", [False, True])
def test_chunks_change_nothing(similarity: str, chunk_bytes: int, separate: bool):
    """Any chunking: the same logits, peaks and gradients as without."""
    chance = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(4, LENGTH, WIDTH, generator=chance, dtype=torch.float64).requires_grad_(),
        torch.randn(5, WIDTH, generator=chance, dtype=torch.float64).requires_grad_(),
        torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.8, dtype=torch.float64, requires_grad=True) if separate else None,
    ]
    weights = torch.randn(2, 4, 5, generator=chance, dtype=torch.float64)
    leaves = [leaf for leaf in inputs if leaf is not None]
    tokens, sentences, tau, attention = inputs

    plain = similarity_logits(tokens, sentences, tau, similarity, attention)
    wanted = torch.autograd.grad((plain.logits * weights[0] + plain.similarity.amax(-1) * weights[1]).sum(), leaves)
    chunked = pair_logits(tokens, sentences, tau, similarity, attention, chunk_bytes=chunk_bytes)
    given = torch.autograd.grad((chunked.logits * weights[0] + chunked.peaks * weights[1]).sum(), leaves)
    torch.testing.assert_close(chunked.logits, plain.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(chunked.peaks, plain.similarity.amax(-1), atol=1e-12, rtol=0)
    for a, b in zip(given, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize(("images", "sentences"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_on_one_side_still_has_a_gradient(images: int, sentences: int):
    tokens = torch.randn(images, LENGTH, WIDTH, requires_grad=True)
    stated = torch.randn(sentences, WIDTH, requires_grad=True)
    output = pair_logits(tokens, stated, 0.1)
    assert output.logits.shape == output.peaks.shape == (images, sentences)
    gradients = torch.autograd.grad(output.logits.sum() + output.peaks.sum(), [tokens, stated])
    assert all(not g.any() for g in gradients)


def test_bfloat16_within_its_precision():
    chance = torch.Generator().manual_seed(2)
    tokens, sentences = torch.randn(3, LENGTH, WIDTH, generator=chance), torch.randn(4, WIDTH, generator=chance)
    owner = torch.tensor([0, 0, 1, 2])
    exact = multi_positive_loss(similarity_logits(tokens, sentences, 0.1).logits, owner)
    shards = Shards(0, (3,), (4,))
    coarse = sharded_multi_positive_loss(
        pair_logits(tokens.bfloat16(), sentences.bfloat16(), 0.1).logits, gather_owners(owner, shards), shards
    )
    assert coarse.dtype is torch.float32
    assert coarse.item() == pytest.approx(exact.item(), rel=0.02)
