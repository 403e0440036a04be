"""Train the vision encoder that every row of a comparison starts from, by objectives that no row has.

The CLS token learns which findings a phantom shows and on which side, just as the locked image towers of LiT had been
trained to classify (Zhai et al. 2022). The patch tokens learn which anatomy is there and whether anything is abnormal,
without names of findings, which makes them local as a dense self-supervised objective would. No row is trained with
either objective, and all get tokens of the same frozen encoder.
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

from radzero._files import replacing, write_whole
from radzero.ablation.labelled_phantoms import LabelledPhantoms, draw_labelled_phantoms
from radzero.ablation.recipe import EncoderChoice, FilmsChoice
from radzero.evaluation.metrics import auc
from radzero.models.configuration import ConvStemConfig
from radzero.models.vision import ConvStemModel
from radzero.phantom.findings import FINDINGS

_MEAN, _STD = 0.5, 0.25
_HELD_OUT = 0.05
_SHIFT, _GAMMA = 0.03, 0.2


class Classifier(nn.Module):
    """A vision encoder with two linear layers, one on the CLS token and one on every patch token."""

    def __init__(self, encoder: ConvStemModel, regions: int) -> None:
        super().__init__()
        size = encoder.config.hidden_size
        self.encoder = encoder
        self.whole, self.patches = nn.Linear(size, 3 * len(FINDINGS)), nn.Linear(size, regions)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, 36) of the labels of images (B, 1, H, W), and logits (B, R, h, w) of each patch's cells."""
        tokens = self.encoder(pixel_values).last_hidden_state
        rows, columns = (side // self.encoder.config.token_stride for side in pixel_values.shape[-2:])
        return self.whole(tokens[:, 0]), self.patches(tokens[:, 1:]).mT.unflatten(2, (rows, columns))


def train_encoder(
    folder: Path,
    choice: EncoderChoice,
    films: FilmsChoice,
    *,
    workers: int = 2,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Path:
    """Train the encoder, unless the folder holds it already, and return the folder.

    An interrupted training is resumed from the start of the stage that it was in.

    Args:
        folder: folder of the checkpoint, which transformers' ``AutoModel`` reads, and of ``encoder.json`` with the
            encoder's own figures.
        choice: architecture and training of the encoder.
        films: number, seed and size of the images.
        workers: number of processes that draw images.
        device: device that trains.
        progress: called with the phase, the number done and the total.
    """
    if (folder / "config.json").exists():
        return folder
    phantoms = draw_labelled_phantoms(
        folder / "films",
        films,
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
    model = Classifier(encoder, phantoms.cells.shape[1]).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=choice.learning_rate, weight_decay=0.05)
    trained = len(phantoms.pixels) - round(_HELD_OUT * len(phantoms.pixels))
    total, step, first = sum(stage.steps for stage in choice.stages), 0, 0
    state, losses = folder / "state.pt", folder / "losses.txt"
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, step = saved["stage"], saved["step"]
    for number, stage in list(enumerate(choice.stages))[first:]:
        encoder.config.token_stride = stage.token_stride
        rng = np.random.default_rng([choice.seed, number])
        for _ in range(stage.steps):
            rate = choice.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total)) * min(1, (step + 1) / 50)
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixels, labels, cells = _batch(phantoms, rng.integers(trained, size=stage.images), rng)
            said, seen = model(pixels.to(device))
            cells = F.adaptive_avg_pool2d(cells, seen.shape[-2:]).to(device)
            whole = F.binary_cross_entropy_with_logits(said, labels.to(device))
            dense = F.binary_cross_entropy_with_logits(seen, cells)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(whole + dense)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                with losses.open("a", encoding="utf-8") as file:
                    file.write(f"{step} {float(whole.detach()):.4f} {float(dense.detach()):.4f}\n")
            progress("training the encoder", step, total)
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "stage": number + 1, "step": step}
        with replacing(state) as temporary:
            torch.save(content, temporary)
    _write(folder, model, phantoms, trained, choice)
    return folder


def _batch(
    phantoms: LabelledPhantoms, chosen: npt.NDArray[np.int64], rng: np.random.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised images (B, 1, H, W), labels and cells; with a generator, shift them and vary the gamma."""
    films = torch.from_numpy(phantoms.pixels[chosen][:, None]).float() / 255
    cells = torch.from_numpy(phantoms.cells[chosen]).float() / 255
    if rng is not None:
        gamma = torch.from_numpy(np.exp(rng.uniform(-_GAMMA, _GAMMA, len(films)))).float()
        films = films ** gamma[:, None, None, None]
        theta = torch.eye(2, 3).repeat(len(films), 1, 1)
        theta[:, :, 2] = torch.from_numpy(rng.uniform(-2 * _SHIFT, 2 * _SHIFT, (len(films), 2))).float()

        def shifted(values: Tensor) -> Tensor:
            grid = F.affine_grid(theta, list(values.shape), align_corners=False)
            return F.grid_sample(values, grid, padding_mode="border", align_corners=False)

        films, cells = shifted(films), shifted(cells)
    return (films - _MEAN) / _STD, torch.from_numpy(phantoms.labels[chosen]), cells


@torch.no_grad()
def _write(folder: Path, model: Classifier, phantoms: LabelledPhantoms, trained: int, choice: EncoderChoice) -> None:
    """Write the encoder's checkpoint, and its figures on images that it was not trained on."""
    model.eval()
    device = next(model.parameters()).device
    figures = {}
    held_out = np.arange(trained, len(phantoms.pixels))
    for stride in sorted({stage.token_stride for stage in choice.stages}):
        model.encoder.config.token_stride = stride
        said, abnormal, truth = [], [], []
        for part in np.array_split(held_out, math.ceil(len(held_out) / 64)):
            pixels, _, cells = _batch(phantoms, part, None)
            whole, seen = (values.cpu() for values in model(pixels.to(device)))
            said.append(whole.numpy())
            abnormal.append(seen[:, 0].numpy().ravel())
            truth.append(F.adaptive_avg_pool2d(cells[:, :1], seen.shape[-2:]).numpy().ravel() > 0.5)
        present = phantoms.labels[trained:] > 0.5
        values = [auc(present[:, k], np.concatenate(said)[:, k]) for k in range(len(FINDINGS))]
        figures[f"macro AUC of findings from CLS, {stride} pixels per token"] = float(np.nanmean(values))
        cells_auc = auc(np.concatenate(truth), np.concatenate(abnormal))
        figures[f"AUC of abnormal cells from patches, {stride} pixels per token"] = cells_auc
    model.encoder.config.token_stride = choice.stages[0].token_stride
    write_whole(folder / "encoder.json", json.dumps(figures, indent=1).encode())
    side = phantoms.pixels.shape[1]
    processor = BlipImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[_MEAN] * 3, image_std=[_STD] * 3
    )
    processor.save_pretrained(folder)
    model.encoder.cpu().save_pretrained(folder)  # last: config.json marks the encoder as whole
