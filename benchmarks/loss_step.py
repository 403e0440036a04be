"""One rank's loss step (forward and backward), ours against the gathered formulation of published code.

Ours: sentence embeddings travel, a rank computes its own images' logits with all sentences in recomputed chunks, and
one number per rank and sentence travels for the loss (``radzero.training.sharding``). Gathered: image tokens and
sentences travel, and every rank computes the whole logit matrix and the whole loss.

    python benchmarks/loss_step.py time      # 1, 2, 4, 8 processes' worth of work on one, and the bytes that move
    python benchmarks/loss_step.py memory    # peak memory of 64 images x 4,130 sentences x 1,370 tokens x 768

``time`` takes small sizes, since ratios are what counts: the other ranks' sentences (ours) or tokens and sentences
(gathered) are constants, so that one process does exactly what one rank of many does, and bytes are those that a rank
receives, forward and backward, in real gloo processes. Prints a table and a line of JSON.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from radzero.models.similarity import pair_logits, similarity_logits
from radzero.training.losses import multi_positive_loss
from radzero.training.sharding import Shards, gather_owners, gather_rows, sharded_multi_positive_loss

WORLDS = (1, 2, 4, 8)
IMAGES, SENTENCES, LENGTH, WIDTH = 8, 52, 197, 192
"""Per rank, for the seconds; 6.45 sentences per image are MIMIC-CXR's."""
BYTES_LENGTH, BYTES_WIDTH = 1370, 32
"""Tokens of the published recipe, for the bytes; their ratio does not depend on the width."""
TEMPERATURE = 0.07


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def owners(images: int, sentences: int) -> Tensor:
    return torch.arange(sentences) * images // sentences


def seconds(*steps, repeats: int = 15) -> list[float]:
    """Each step's least time: the steps take turns, so that what else the machine does falls on all of them."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, own in zip(steps, times, strict=True):
            started = time.perf_counter()
            step()
            own.append(time.perf_counter() - started)
    return [min(own[1:]) for own in times]


def ours_alone(world: int):
    """A step of rank 0 of ``world``; what the others send is constant."""
    tokens, own = random(IMAGES, LENGTH, WIDTH), random(SENTENCES, WIDTH)
    others = torch.randn((world - 1) * SENTENCES, WIDTH)
    owner = owners(world * IMAGES, world * SENTENCES)
    shards = Shards(0, (IMAGES,), (world * SENTENCES,))

    def step() -> None:
        logits = pair_logits(tokens, torch.cat([own, others]), TEMPERATURE).logits
        sharded_multi_positive_loss(logits, owner, shards).backward()

    return step


def gathered_alone(world: int):
    tokens, own = random(IMAGES, LENGTH, WIDTH), random(SENTENCES, WIDTH)
    other_tokens = torch.randn((world - 1) * IMAGES, LENGTH, WIDTH)
    others = torch.randn((world - 1) * SENTENCES, WIDTH)
    owner = owners(world * IMAGES, world * SENTENCES)

    def step() -> None:
        logits = similarity_logits(torch.cat([tokens, other_tokens]), torch.cat([own, others]), TEMPERATURE).logits
        multi_positive_loss(logits, owner).backward()

    return step


# -- bytes -------------------------------------------------------------------------------------------------


class Counter:
    """Counts what collectives bring to this rank: all-gather, the other ranks' parts; all-reduce, a ring's traffic."""

    def __init__(self) -> None:
        self.bytes = 0
        self._gather, self._reduce = dist.all_gather, dist.all_reduce
        dist.all_gather, dist.all_reduce = self.gather, self.reduce

    def gather(self, parts: list[Tensor], own: Tensor) -> None:
        self.bytes += sum(p.nbytes for p in parts) - own.nbytes
        self._gather(parts, own)

    def reduce(self, tensor: Tensor) -> None:
        world = dist.get_world_size()
        self.bytes += 2 * tensor.nbytes * (world - 1) // world
        self._reduce(tensor)


def count(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    counter = Counter()

    tokens, own = random(IMAGES, BYTES_LENGTH, BYTES_WIDTH), random(SENTENCES, BYTES_WIDTH)
    shards = Shards.of(IMAGES, SENTENCES, tokens.device)
    sentences = gather_rows(own, shards.sentences, rank)
    owner = gather_owners(owners(IMAGES, SENTENCES), shards)
    logits = pair_logits(tokens, sentences, TEMPERATURE).logits
    sharded_multi_positive_loss(logits, owner, shards).backward()
    ours, counter.bytes = counter.bytes, 0

    flat = gather_rows(tokens.flatten(1), shards.images, rank)
    sentences = gather_rows(own, shards.sentences, rank)
    logits = similarity_logits(flat.unflatten(1, (BYTES_LENGTH, BYTES_WIDTH)), sentences, TEMPERATURE).logits
    (multi_positive_loss(logits, owner) / world).backward()
    if rank == 0:
        with open(f"{folder}/bytes.json", "w", encoding="utf-8") as file:
            json.dump([ours, counter.bytes], file)
    dist.barrier()  # a rank that leaves while another still talks aborts it
    dist.destroy_process_group()


def bytes_moved(world: int) -> tuple[int, int]:
    if world == 1:
        return 0, 0
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(count, args=(world, folder), nprocs=world)
        with open(f"{folder}/bytes.json", encoding="utf-8") as file:
            ours, gathered = json.load(file)
    return ours, gathered


def measure_time() -> None:
    print(f"per rank {IMAGES} images and {SENTENCES} sentences; {torch.get_num_threads()} threads")
    print(f"seconds: {LENGTH} tokens of {WIDTH}; bytes: {BYTES_LENGTH} tokens of {BYTES_WIDTH}")
    print("ranks   ours s   gathered s   ratio     ours bytes   gathered bytes   ratio")
    rows = []
    for world in WORLDS:
        ours, gathered = seconds(ours_alone(world), gathered_alone(world))
        ours_bytes, gathered_bytes = bytes_moved(world)
        rows.append(
            {"ranks": world, "ours_s": ours, "gathered_s": gathered, "ours_B": ours_bytes, "gathered_B": gathered_bytes}
        )
        ratio = gathered_bytes / ours_bytes if ours_bytes else float("nan")
        print(
            f"{world:5} {ours:8.4f} {gathered:12.4f} {gathered / ours:7.1f} "
            f"{ours_bytes:14,} {gathered_bytes:16,} {ratio:7.1f}"
        )
    print(json.dumps(rows))


# -- memory ------------------------------------------------------------------------------------------------


def peak(kind: str, images: int, sentences: int, length: int, width: int, queue) -> None:
    tokens, own = random(images, length, width), random(sentences, width)
    owner = owners(images, sentences)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if kind == "ours":
        logits = pair_logits(tokens, own, TEMPERATURE).logits
        sharded_multi_positive_loss(logits, owner, Shards(0, (images,), (sentences,))).backward()
    else:
        multi_positive_loss(similarity_logits(tokens, own, TEMPERATURE).logits, owner).backward()
    queue.put(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, time.perf_counter() - started))


def measure_memory(sizes: tuple[int, int, int, int]) -> None:
    context = multiprocessing.get_context("spawn")
    result = {}
    for kind in ("ours", "gathered"):
        queue = context.Queue()
        process = context.Process(target=peak, args=(kind, *sizes, queue))
        process.start()
        result[kind], took = queue.get()
        process.join()
        print(f"{kind}: peak {result[kind] / 2**30:.2f} GiB above the inputs, {took:.1f} s")
    print(f"ours / gathered: {result['ours'] / result['gathered']:.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument(
        "--sizes", type=int, nargs=4, default=(64, 4130, 1370, 768), help="of memory: images sentences tokens width"
    )
    arguments = parser.parse_args()
    measure_time() if arguments.what == "time" else measure_memory(tuple(arguments.sizes))
