"""The vision encoder that every row of a comparison is built on: trained by an objective that no row has.

It is a classifier of phantoms: it says which findings a film shows, and on which side, once from CLS and once from
the patches (the log-sum-exp of what a linear layer says of each). No row is trained with that objective, none sees its
labels, and all get the same frozen tokens. Locked image towers trained as classifiers are what LiT began with (Zhai et
al. 2022).
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from radzero.ablation.recipe import EncoderChoice, FilmsChoice
from radzero.evaluation.metrics import auc
from radzero.files import write_whole
from radzero.models.configuration import ConvStemConfig
from radzero.models.vision import ConvStemModel
from radzero.phantom.findings import FINDINGS, Finding
from radzero.training.phantom_pool import PhantomPool, build_pool

_MEAN, _STD = 0.5, 0.25
_HELD_OUT = 0.05
_SHIFT, _GAMMA = 0.03, 0.2


def labels_of(findings: tuple[Finding, ...]) -> npt.NDArray[np.float32]:
    """(36,): presence of the twelve findings, then each on the right, then each on the left."""
    labels = np.zeros((3, len(FINDINGS)), dtype=np.float32)
    for finding in findings:
        if finding.name in FINDINGS:
            column = FINDINGS.index(finding.name)
            labels[0, column] = 1
            labels[1, column] = finding.side in ("right", "bilateral")
            labels[2, column] = finding.side in ("left", "bilateral")
    return labels.ravel()


class Classifier(nn.Module):
    """A vision encoder with two linear layers, one on CLS and one on every patch."""

    def __init__(self, encoder: ConvStemModel) -> None:
        super().__init__()
        size, labels = encoder.config.hidden_size, 3 * len(FINDINGS)
        self.encoder, self.whole, self.patches = encoder, nn.Linear(size, labels), nn.Linear(size, labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(2, B, 36) logits of images (B, 1, H, W): from CLS, and the log-sum-exp over patches, less log L."""
        tokens = self.encoder(pixel_values).last_hidden_state
        local = self.patches(tokens[:, 1:])
        return torch.stack((self.whole(tokens[:, 0]), local.logsumexp(dim=1) - math.log(local.shape[1])))


def train_encoder(
    folder: Path,
    choice: EncoderChoice,
    films: FilmsChoice,
    *,
    workers: int = 2,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Path:
    """Train the encoder, once; an interrupted training begins again at the last of its stages.

    Args:
        folder: its checkpoint, which transformers' ``AutoModel`` reads, and ``encoder.json`` with its own figures.
        choice, films: how, and on what.
        workers: processes that draw.
        device: that trains.
        progress: called with phase, done and total.
    """
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pool = build_pool(
        folder / "films",
        films=films.encoder,
        seed=films.encoder_seed,
        size=films.size,
        workers=workers,
        progress=lambda done: progress("drawing the encoder's films", done, films.encoder),
    )
    torch.manual_seed(choice.seed)
    encoder = ConvStemModel(
        ConvStemConfig(
            widths=choice.widths,
            token_stride=choice.stages[0].token_stride,
            image_size=films.size,
            num_hidden_layers=choice.blocks,
            num_attention_heads=choice.heads,
        )
    )
    model = Classifier(encoder).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=choice.learning_rate, weight_decay=0.05)
    labels = torch.from_numpy(np.stack([labels_of(f) for f in pool.findings]))
    trained = len(pool) - round(_HELD_OUT * len(pool))
    total, step = sum(stage.steps for stage in choice.stages), 0
    state = folder / "state.pt"
    first = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, step = saved["stage"], saved["step"]
    for number, stage in list(enumerate(choice.stages))[first:]:
        encoder.config.token_stride = stage.token_stride
        chance = np.random.default_rng([choice.seed, number])
        torch.manual_seed(choice.seed + number)
        for _ in range(stage.steps):
            rate = choice.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total)) * min(1, (step + 1) / 50)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = chance.integers(trained, size=stage.images)
            pixels, truth = _pixels(pool, chosen, chance).to(device), labels[chosen].to(device)
            loss = 2 * F.binary_cross_entropy_with_logits(model(pixels), truth.expand(2, -1, -1))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                with (folder / "losses.txt").open("a", encoding="utf-8") as file:
                    file.write(f"{step} {float(loss.detach()):.4f}\n")
            progress("training the encoder", step, total)
        temporary = state.with_name("state.partial")
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "stage": number + 1, "step": step}
        torch.save(content, temporary)
        temporary.replace(state)
    _write(folder, model, pool, labels, trained, choice)
    return folder


def _pixels(pool: PhantomPool, chosen: npt.NDArray[np.int64], chance: np.random.Generator | None) -> Tensor:
    """(B, 1, H, W) normalised films; shifted and with another gamma where there is chance."""
    films = torch.from_numpy(np.stack([pool.pixels(int(k)) for k in chosen])[:, None]).float() / 255
    if chance is not None:
        gamma = torch.from_numpy(np.exp(chance.uniform(-_GAMMA, _GAMMA, len(films)))).float()
        films = films ** gamma[:, None, None, None]
        theta = torch.eye(2, 3).repeat(len(films), 1, 1)
        theta[:, :, 2] = torch.from_numpy(chance.uniform(-2 * _SHIFT, 2 * _SHIFT, (len(films), 2))).float()
        grid = F.affine_grid(theta, list(films.shape), align_corners=False)
        films = F.grid_sample(films, grid, padding_mode="border", align_corners=False)
    return (films - _MEAN) / _STD


@torch.no_grad()
def _write(
    folder: Path, model: Classifier, pool: PhantomPool, labels: Tensor, trained: int, choice: EncoderChoice
) -> None:
    """Its checkpoint, and how well it says which findings films show that it was not trained on."""
    model.eval()
    pool_size = int(pool.pixels(0).shape[0])
    device = next(model.parameters()).device
    figures = {}
    held_out = np.arange(trained, len(pool))
    for stride in sorted({stage.token_stride for stage in choice.stages}):
        model.encoder.config.token_stride = stride
        parts = [part for part in np.array_split(held_out, math.ceil(len(held_out) / 64)) if len(part)]
        logits = torch.cat([model(_pixels(pool, part, None).to(device)).cpu() for part in parts], dim=1)
        truth = labels[trained:].numpy() > 0.5
        for name, own in (("CLS", logits[0]), ("patches", logits[1])):
            values = [auc(truth[:, k], own[:, k].numpy()) for k in range(len(FINDINGS))]
            figures[f"macro AUC from {name} at {stride} pixels per token"] = float(np.nanmean(values))
    model.encoder.config.token_stride = choice.stages[0].token_stride
    write_whole(folder / "encoder.json", json.dumps(figures, indent=1).encode())
    processor = BlipImageProcessorPil(
        size={"height": pool_size, "width": pool_size}, image_mean=[_MEAN] * 3, image_std=[_STD] * 3
    )
    processor.save_pretrained(folder)
    model.encoder.cpu().save_pretrained(folder)  # last: its config.json says that the encoder is whole
