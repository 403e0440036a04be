"""Gradient caching and data parallelism against one pass of one process over the whole batch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from conftest import tiny_start
from radzero.models.base import Features
from radzero.models.radzero import RadZeroModel
from radzero.models.similarity import pair_logits
from radzero.training.gradient_cache import Towers, backward, joined, split_batch
from radzero.training.losses import multi_positive_loss
from radzero.training.sharding import Shards, gather_owners, gather_rows, sharded_multi_positive_loss
from ranks import run_ranks

pytestmark = pytest.mark.slow

COUNTS = [2, 0, 3, 1, 4]  # sentences of each image
PRECISIONS = ("float64", "float32", "bf16")


def tiny(dropout: float = 0.0, precision: str = "float64") -> RadZeroModel:
    model, _ = tiny_start()
    for module in model.text_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return (model.double() if precision == "float64" else model.float()).train()


def data(precision: str = "float64") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, token ids, mask and owners of the whole batch."""
    chance = torch.Generator().manual_seed(4)
    images = torch.randn(len(COUNTS), 3, 64, 64, generator=chance, dtype=torch.float64)
    images = images if precision == "float64" else images.float()
    ids = torch.randint(5, 30, (sum(COUNTS), 8), generator=chance)
    mask = (torch.arange(8)[None] < torch.randint(2, 9, (sum(COUNTS), 1), generator=chance)).long()
    return images, ids, mask, torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))


def loss_of(encoded: Features, owner: Tensor) -> Tensor:
    tau, attention, _ = encoded.score_parameters[0]
    logits = pair_logits(encoded.images, encoded.sentences, tau, "cos", attention).logits
    return multi_positive_loss(logits, owner)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def whole_batch(precision: str = "float64") -> tuple[Tensor, dict[str, Tensor]]:
    images, ids, mask, owner = data(precision)
    model = tiny(precision=precision)
    with autocast(precision):
        loss = loss_of(Towers(model)(images, ids, mask), owner)
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 11])
def test_micro_batches_give_the_gradient_of_the_whole(parts: int):
    """As many passes as wanted, more than there are images too."""
    images, ids, mask, owner = data()
    model = tiny()
    loss = backward(Towers(model), split_batch(images, ids, mask, parts), lambda encoded: loss_of(encoded, owner))
    wanted_loss, wanted = whole_batch()
    assert loss.item() == pytest.approx(wanted_loss.item(), abs=1e-12)
    assert gradients(model).keys() == wanted.keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-12, rtol=1e-9)


def test_plain_accumulation_does_not():
    images, ids, mask, owner = data()
    model = tiny()
    for first, last in ((0, 3), (3, 5)):
        rows = (owner >= first) & (owner < last)
        encoded = Towers(model)(images[first:last], ids[rows], mask[rows])
        (loss_of(encoded, owner[rows] - first) * rows.double().mean()).backward()
    _, wanted = whole_batch()
    name = "layer_norm.weight"
    assert not torch.allclose(gradients(model)[name], wanted[name], rtol=0.05)


def test_both_passes_drop_the_same():
    """The surrogate of the second pass has the first's dropout: shown by encoding the same micro-batches by hand."""
    images, ids, mask, owner = data()
    model = tiny(dropout=0.3)
    batch = split_batch(images, ids, mask, 3)
    torch.manual_seed(7)
    loss = backward(Towers(model), batch, lambda encoded: loss_of(encoded, owner))
    next_number = torch.rand(())
    other = tiny(dropout=0.3)
    torch.manual_seed(7)
    parts = [micro.encode(Towers(other)) for micro in batch]
    wanted = loss_of(joined(parts), owner)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, gradients(other)[name], atol=1e-12, rtol=1e-9)
    assert next_number == torch.rand(()), "and the stream goes on where one pass would have left it"


def every_share(rank: int, world: int) -> dict[tuple[str, int], tuple[Tensor, dict[str, Tensor]]]:
    """Loss and gradients of a rank, in every precision and number of passes."""
    results = {}
    for precision in PRECISIONS:
        images, ids, mask, owner = data(precision)
        edges = [0, 3, 5, 5, 5] if world == 4 else [0, 4, 5]  # of four ranks, two have nothing
        first, last = edges[rank], edges[rank + 1]
        rows = (owner >= first) & (owner < last)
        for parts in (1, 3):
            model = tiny(precision=precision)
            towers = DistributedDataParallel(Towers(model))
            shards = Shards.of(last - first, int(rows.sum()), images.device)
            owners = gather_owners(owner[rows] - first, shards)

            def loss_here(encoded: Features, shards: Shards = shards, owners: Tensor = owners) -> Tensor:
                sentences = gather_rows(encoded.sentences, shards.sentences, shards.rank)
                tau, attention, _ = encoded.score_parameters[0]
                logits = pair_logits(encoded.images, sentences, tau, "cos", attention).logits
                return sharded_multi_positive_loss(logits, owners, shards) * shards.world  # the wrapper averages

            batch = split_batch(images[first:last], ids[rows], mask[rows], parts)
            with autocast(precision):
                loss = backward(towers, batch, loss_here, no_sync=towers.no_sync)
            results[precision, parts] = (loss / world, gradients(model))
    return results


@pytest.mark.parametrize("world", [2, 4])
def test_data_parallel_ranks_end_with_the_gradient_of_one_process(world: int, tmp_path: Path):
    """Every parameter, in one pass or by gradient caching: to the last digits; in bfloat16, as near to the truth as one
    process comes."""
    results = run_ranks(every_share, world, tmp_path)
    _, truth = whole_batch()
    for precision in PRECISIONS:
        wanted_loss, wanted = whole_batch(precision)
        close = {"float64": 1e-10, "float32": 1e-5, "bf16": 0.02}[precision]
        for parts in (1, 3):
            loss = sum(result[precision, parts][0] for result in results).item()
            assert loss == pytest.approx(wanted_loss.item(), abs=close)
            for result in results:
                own = result[precision, parts][1]
                assert own.keys() == wanted.keys()
                for name, gradient in own.items():
                    if precision == "bf16":
                        error, alone = ((g - truth[name]).norm() for g in (gradient, wanted[name]))
                        assert error <= 2 * alone + 0.02 * truth[name].norm() + 1e-4, name
                    else:
                        torch.testing.assert_close(gradient, wanted[name], atol=close, rtol=100 * close)
