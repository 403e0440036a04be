"""Estimate the parameters, steps and memory that a run would take, without its weights and, if need be, its images."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from radzero.models.base import VisionLanguageModel
from radzero.models.loading import build_model
from radzero.training.config import TrainConfig
from radzero.training.gradient_cache import Towers
from radzero.training.manifest import Manifest
from radzero.training.model_building import choose_trained, start_config
from radzero.training.vocabulary import phantom_words, words_of

_WORDS = 16
"""Assumed length of a tokenised batch of finding-sentences, in tokens; the longest sentence decides it."""
_SENTENCES_PER_IMAGE = 6.45
"""Mean of MIMIC-CXR, assumed where there is no manifest to count in."""
_CHUNK = 2**26
"""Size of a chunk of :func:`radzero.models.similarity.pair_logits`, in bytes."""


@dataclass(frozen=True)
class DryRun:
    """Estimate of what a run would take.

    Attributes:
        parts: name, number of parameters and number of trained parameters of each part of the model.
        images, sentences_per_image: number of images of the train split, and mean number of sentences of an image.
        processes: number of processes of the run.
        images_per_step: number of images of all processes at a step of the last stage.
        steps: number of optimiser steps of the run.
        memory: purpose -> estimated bytes per process.
        notes: assumptions of the estimate.
    """

    parts: tuple[tuple[str, int, int], ...]
    images: int
    sentences_per_image: float
    processes: int
    images_per_step: int
    steps: int
    memory: dict[str, int]
    notes: tuple[str, ...]

    def tables(self) -> Group:
        """Return the estimate as tables for a terminal."""
        parts = Table("part", "parameters", "trained", title="model")
        for name, parameters, trained in (*self.parts, _sum(self.parts)):
            parts.add_row(name, f"{parameters:,}", f"{trained:,}" if trained else "frozen")
        run = Table("figure", "value", title="run")
        run.add_row("training images", f"{self.images:,}")
        run.add_row("sentences per image", f"{self.sentences_per_image:.2f}")
        run.add_row("images per step", f"{self.images_per_step:,} on {self.processes} processes")
        run.add_row("optimiser steps", f"{self.steps:,}")
        memory = Table("memory of a process", "GiB", title="estimate")
        for name, size in (*self.memory.items(), ("together", sum(self.memory.values()))):
            memory.add_row(name, f"{size / 2**30:.2f}")
        return Group(parts, run, memory, *self.notes)


def _sum(parts: tuple[tuple[str, int, int], ...]) -> tuple[str, int, int]:
    return "together", sum(p[1] for p in parts), sum(p[2] for p in parts)


def dry_run(config: TrainConfig, processes: int = 1) -> DryRun:
    """Estimate what a run would take on a number of processes.

    To count the activations that autograd would keep, the model runs on tensors without content, in the run's
    precision, and the tensors that it saves for the backward pass are added up.

    Raises:
        ValueError: for a recipe that cannot be run.
    """
    notes = []
    data, last = config.data, config.stage_configs[-1]
    per_image = _SENTENCES_PER_IMAGE
    manifest = None
    if data.phantoms is not None:
        images = data.phantoms.films
    elif Path(data.manifest).exists():
        manifest = Manifest(Path(data.manifest), "train", data.texts, data.views)
        images = len(manifest)
        per_image = sum(len(manifest.sentences(k)) for k in range(images)) / images
    elif data.expected_images:
        images = data.expected_images
        notes.append(f"{data.manifest} is not here: {images:,} images as expected, sentences as in MIMIC-CXR")
    else:
        raise ValueError(f"{data.manifest}: there is no such manifest, and the recipe has no data.expected_images")
    if data.sentences == "one":
        per_image = 1.0

    def words() -> list[str]:
        if manifest is None:
            return phantom_words()
        return words_of(text for k in range(images) for text in manifest.sentences(k))

    model_config = start_config(config.model, words)
    with torch.device("meta"):
        model = build_model(model_config)
    choose_trained(model, config.model)
    parts = tuple(
        (name.replace("_", " "), sum(p.numel() for p in part), sum(p.numel() for p in part if p.requires_grad))
        for name, part in (
            *((name, list(module.parameters())) for name, module in model.named_children()),
            ("temperature", list(model.parameters(recurse=False))),
        )
        if part
    )
    if config.stages:
        steps = sum(stage.steps for stage in config.stages)
    else:
        steps = config.loop.epochs * math.ceil(images / (config.loop.images_per_rank * processes))
    memory = _memory(model, last, per_image, processes)
    at_once = math.ceil(last.loop.images_per_rank / last.loop.micro_batches)
    notes.append(
        f"activations of {at_once} images at a time, sentences of {_WORDS} tokens; the allocator's reserve and the "
        "data workers come on top"
    )
    return DryRun(
        parts, images, per_image, processes, last.loop.images_per_rank * processes, steps, memory, tuple(notes)
    )


def _memory(model: VisionLanguageModel, last: TrainConfig, per_image: float, processes: int) -> dict[str, int]:
    """Estimate the bytes per process; the model leaves the meta device for tensors with a device but no content."""
    loop = last.loop
    images = math.ceil(loop.images_per_rank / loop.micro_batches)
    sentences = math.ceil(images * per_image)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        if last.model.small is not None and not last.model.vision:
            model.vision_model.config.token_stride = last.model.small.token_stride
        towers = Towers(model.train())
        weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in model.parameters()}
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        side = last.model.image_size
        pixels = torch.empty(images, 3, side, side)
        ids = torch.zeros(sentences, _WORDS, dtype=torch.long)
        mask = torch.ones(sentences, _WORDS, dtype=torch.long)
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=loop.precision == "bf16"),
        ):
            tokens = towers(pixels, ids, mask).images
        token_bytes = loop.images_per_rank * math.prod(tokens.shape[1:]) * 4
    pairs = loop.images_per_rank * math.ceil(loop.images_per_rank * per_image) * processes
    return {
        "weights": sum(weights.values()),
        "gradients": 4 * trained,
        "AdamW": 8 * trained,
        "activations": sum(kept.values()),
        "loss (tokens with gradient, logits, one chunk)": 2 * token_bytes + 32 * pairs + 6 * _CHUNK,
    }
