"""A training step of the published recipe on one GPU: images per second, peak memory, GPU-hours of the whole recipe.

    python benchmarks/train_step.py                       # ViT-B/14, MPNet, random weights, 64 images of 518 px, bf16
    python benchmarks/train_step.py --cached --compile    # vision tokens from a cache, encoders compiled
    python benchmarks/train_step.py --world 4             # with the sentences of three further ranks in the logits
    python benchmarks/train_step.py --device cpu --size 56 --images 2 --steps 2     # does it run at all

A step is that of ``radzero train``: encode images and sentences, loss, backward, clip, AdamW. Decoding is not in it.
The projection is 20 epochs of 352,875 images at that speed. Prints one line of JSON:

    {"device": ..., "images": 64, "size": 518, "cached": false, "compile": false, "micro_batches": 1, "world": 1,
     "images_per_second": ..., "seconds_per_step": ..., "peak_gib": ..., "gpu_hours": ..., "estimate_gib": ...}

``estimate_gib`` is what ``radzero train recipes/radzero.yaml --dry-run`` says. Published: 52 GPU-hours, 73.4 GB a card.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from radzero.models.base import Features
from radzero.models.radzero import RadZeroModel
from radzero.models.similarity import pair_logits
from radzero.training.config import load_config
from radzero.training.dry_run import dry_run
from radzero.training.gradient_cache import Towers, backward, split_batch
from radzero.training.losses import multi_positive_loss
from radzero.training.model_building import choose_trained, start_config
from radzero.training.vocabulary import phantom_words

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "radzero.yaml"
IMAGES, EPOCHS, PER_IMAGE, WORDS = 352_875, 20, 6.45, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")

    recipe = load_config(RECIPE)
    choice = dataclasses.replace(recipe.model, image_size=options.size, recompute=options.recompute)
    loop = dataclasses.replace(
        recipe.loop, images_per_rank=options.images, micro_batches=options.micro_batches, compile=options.compile
    )
    recipe = dataclasses.replace(recipe, model=choice, loop=loop)
    torch.manual_seed(0)
    model = RadZeroModel(start_config(choice, phantom_words)).to(device).train()
    choose_trained(model, choice)
    model.vision_model.eval()
    if options.compile:
        for encoder in (model.vision_model, model.align_transformer, model.text_model):
            encoder.compile()
    towers = Towers(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=device.type == "cuda")

    sentences = round(options.images * PER_IMAGE)
    rows, columns = model.token_grid((options.size,) * 2)
    width = model.config.vision_config.hidden_size
    shape = (1 + rows * columns, width) if options.cached else (3, options.size, options.size)
    pixels = torch.randn(options.images, *shape, dtype=torch.bfloat16 if options.cached else None).to(device)
    ids = torch.randint(5, 30_000, (sentences, WORDS), device=device)
    batch = split_batch(pixels, ids, torch.ones_like(ids), options.micro_batches)
    # the other ranks' sentences are constants; each belongs to an image that is not here
    others = torch.randn(sentences * (options.world - 1), width, device=device)
    owner = torch.arange(sentences, device=device) * options.images // sentences

    def loss_of(encoded: Features) -> Tensor:
        tau, attention, _ = encoded.score_parameters[0]
        every = torch.cat([encoded.sentences, others.to(encoded.sentences.dtype)])
        logits = pair_logits(encoded.images, every, tau, "cos", attention).logits
        foreign = torch.logsumexp(logits[:, sentences:], dim=1).mean() if len(others) else 0.0
        return multi_positive_loss(logits[:, :sentences], owner) + 0.0 * foreign

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            backward(towers, batch, loss_of)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3 if device.type == "cuda" else 1):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(options.steps):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    speed = options.images / seconds
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "images": options.images,
                "size": options.size,
                "cached": options.cached,
                "compile": options.compile,
                "micro_batches": options.micro_batches,
                "world": options.world,
                "images_per_second": round(speed, 2),
                "seconds_per_step": round(seconds, 4),
                "peak_gib": None if peak is None else round(peak, 2),
                "gpu_hours": round(EPOCHS * IMAGES / speed / 3600, 2),
                "estimate_gib": round(sum(dry_run(recipe, options.world).memory.values()) / 2**30, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
