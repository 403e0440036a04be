"""Training of a small RadZero on phantoms: one process, resumable at any moment, every choice in the recipe."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from radzero.models.radzero import RadZeroModel
from radzero.phantom.sentences import FindingSentence, holds, training_sentences
from radzero.training.losses import binary_pair_loss, multi_positive_loss, quiet_map_loss
from radzero.training.model_building import small_config
from radzero.training.phantom_pool import PhantomPool
from radzero.training.recipe import PhantomRecipe, Stage
from radzero.training.vocabulary import phantom_words, word_tokenizer

IMAGE_MEAN, IMAGE_STD = 0.5, 0.25
"""Normalisation of phantom-trained models, the same for the three equal channels."""


@dataclass(frozen=True)
class Batch:
    """Films and their sentences.

    Attributes:
        pixel_values: (B, 3, H, W) normalised.
        texts: U different sentences.
        text_N: (N,) index of each sentence in ``texts``.
        owner_N: (N,) index of each sentence's film.
        ignore_BN: (B, N) pairs of a film with another film's sentence that are no negatives: the recipe's ``ignore``.
    """

    pixel_values: Tensor
    texts: list[str]
    text_N: Tensor
    owner_N: Tensor
    ignore_BN: Tensor


def build_model(recipe: PhantomRecipe) -> tuple[RadZeroModel, PreTrainedTokenizerFast]:
    """The recipe's model with random weights of the recipe's seed, and its tokenizer."""
    sizes = recipe.model
    tokenizer = word_tokenizer(phantom_words(), sizes.max_words)
    config = small_config(
        sizes, len(tokenizer), token_stride=recipe.stages[0].token_stride, image_size=recipe.image_size
    )
    torch.manual_seed(recipe.seed)
    return RadZeroModel(config), tokenizer


def stage_at(recipe: PhantomRecipe, step: int) -> tuple[Stage, int]:
    """The stage that optimiser step ``step`` (from 0) belongs to, and the step within it."""
    for stage in recipe.stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise ValueError("step beyond the recipe's end")


def film_order(recipe: PhantomRecipe) -> Iterator[int]:
    """Endless film indices: every film once per epoch, a fresh order each time."""
    epoch = 0
    while True:
        yield from np.random.default_rng([recipe.seed, 1, epoch]).permutation(recipe.films).tolist()
        epoch += 1


def make_batch(pool: PhantomPool, films: list[int], recipe: PhantomRecipe, stage: Stage, step: int) -> Batch:
    """The batch of a step; depends on the recipe's seed and the step alone, so that a run can be continued."""
    rng = np.random.default_rng([recipe.seed, 2, step])
    pixels = np.stack([_augment(pool.pixels[k], recipe, rng) for k in films])
    values = (torch.from_numpy(pixels) - IMAGE_MEAN) / IMAGE_STD
    texts: dict[FindingSentence, int] = {}
    text_N, owner_N = [], []
    for row, film in enumerate(films):
        for text in training_sentences(pool.findings[film], rng, stage.negations):
            text_N.append(texts.setdefault(text, len(texts)))
            owner_N.append(row)
    fits_BU = torch.zeros(len(films), len(texts), dtype=torch.bool)
    if recipe.ignore == "stated":
        fits_BU[owner_N, text_N] = True
    elif recipe.ignore == "true":
        fits_BU = torch.tensor([[holds(text, pool.findings[film]) for text in texts] for film in films])
    return Batch(
        values[:, None].expand(-1, 3, -1, -1),
        [text.text for text in texts],
        torch.tensor(text_N, dtype=torch.long),
        torch.tensor(owner_N, dtype=torch.long),
        fits_BU[:, text_N],  # the losses never ignore a sentence's own film
    )


def _augment(film: npt.NDArray[np.uint8], recipe: PhantomRecipe, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    gamma = np.exp(rng.uniform(-recipe.gamma, recipe.gamma))
    table = (np.linspace(0.0, 1.0, 256) ** gamma).astype(np.float32)
    dy, dx = rng.integers(-recipe.shift, recipe.shift + 1, size=2)
    padded = np.pad(film, recipe.shift, mode="edge")
    top, left = recipe.shift + dy, recipe.shift + dx
    return table[padded[top : top + film.shape[0], left : left + film.shape[1]]]


def batch_loss(
    model: RadZeroModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: Batch,
    recipe: PhantomRecipe,
    stage: Stage,
) -> tuple[Tensor, dict[str, float]]:
    """The training loss of a batch, and its parts as numbers."""
    encoded = tokenizer(batch.texts, padding=True, truncation=True, return_tensors="pt")
    sentences = model.encode_sentences(encoded["input_ids"], encoded["attention_mask"])
    tokens = model.encode_images(batch.pixel_values)
    logits, similarity = model.similarity(tokens, sentences)
    logits = logits[:, batch.text_N]
    ignore = batch.ignore_BN
    contrastive = multi_positive_loss(logits, batch.owner_N, ignore_BN=ignore)
    binary = binary_pair_loss(logits, batch.owner_N, ignore_BN=ignore, negative_weight=recipe.binary_negative_weight)
    loss = contrastive + stage.binary_weight * binary
    parts = {"contrastive": contrastive.item(), "binary": binary.item(), "tau": model.temperature.item()}
    if stage.quiet_weight:
        quiet = quiet_map_loss(similarity[:, batch.text_N], batch.owner_N, ignore_BN=ignore)
        loss = loss + stage.quiet_weight * quiet
        parts["quiet"] = quiet.item()
    return loss, parts


def learning_rate(recipe: PhantomRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to a hundredth, over all stages that have no learning rate of their own."""
    stage, step_of_stage = stage_at(recipe, step)
    if stage.learning_rate:
        return stage.learning_rate * _cosine(step_of_stage / stage.steps)
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    shared = sum(s.steps for s in recipe.stages if not s.learning_rate)
    return recipe.learning_rate * _cosine((step - recipe.warmup_steps) / max(1, shared - recipe.warmup_steps))


def _cosine(share: float) -> float:
    """From 1 to a hundredth."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))


def train(
    recipe: PhantomRecipe,
    pool: PhantomPool,
    run: Path,
    *,
    save_every: int = 200,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, parts: None,
) -> tuple[RadZeroModel, PreTrainedTokenizerFast]:
    """Train, or go on where ``run`` stopped.

    Args:
        recipe: what to do.
        pool: at least ``recipe.films`` films.
        run: folder of ``state.pt`` and ``metrics.jsonl``.
        save_every: steps between saved states; the end of every stage is saved too.
        on_step: called after every step with its number and the parts of its loss.

    Raises:
        ValueError: when ``run`` was begun with another recipe.
        FloatingPointError: when the loss is not finite; the last saved state is intact.
    """
    run.mkdir(parents=True, exist_ok=True)
    model, tokenizer = build_model(recipe)
    model.train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    first, seconds = 0, 0.0
    state_path = run / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        if state["recipe"] != repr(recipe):
            raise ValueError(f"{run}: was begun with another recipe; give the changed one another folder")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    _trim_metrics(run / "metrics.jsonl", first)
    order = film_order(recipe)
    started = time.monotonic()
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        for step in range(recipe.steps):
            stage, step_of_stage = stage_at(recipe, step)
            films = [next(order) for _ in range(stage.batch)]
            if step < first:
                continue
            model.vision_model.config.token_stride = stage.token_stride
            batch = make_batch(pool, films, recipe, stage, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            optimizer.zero_grad(set_to_none=True)
            loss, parts = batch_loss(model, tokenizer, batch, recipe, stage)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of step {step} is {loss.item()}; lower the learning rate")
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            elapsed = seconds + time.monotonic() - started
            record: dict[str, Any] = {
                "step": step,
                "loss": loss.item(),
                **parts,
                "seconds": round(elapsed, 1),
            }
            metrics.write(json.dumps(record) + "\n")
            on_step(step, record)
            if (step + 1) % save_every == 0 or step_of_stage + 1 == stage.steps:
                metrics.flush()
                _save_state(state_path, model, optimizer, recipe, step + 1, elapsed)
    model.vision_model.config.token_stride = recipe.stages[-1].token_stride
    return model.eval(), tokenizer


def _save_state(
    path: Path,
    model: RadZeroModel,
    optimizer: torch.optim.Optimizer,
    recipe: PhantomRecipe,
    step: int,
    seconds: float,
) -> None:
    temporary = path.with_name(path.name + ".partial")
    torch.save(
        {
            "recipe": repr(recipe),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds,
        },
        temporary,
    )
    os.replace(temporary, path)


def _trim_metrics(path: Path, first: int) -> None:
    """Drop the lines of steps that will be run again."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        path.write_text("".join(line for line in lines if json.loads(line)["step"] < first), encoding="utf-8")
