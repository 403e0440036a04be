"""Train baselines with a share of the labels: a linear probe and a linear segmentation head on the frozen encoder.

Published tables have such rows as "fine-tuned on 1 %, 10 %, 100 %". Both heads get the tokens of the encoder that every
row of a comparison uses, and run in the same benchmark; the encoder itself is not tuned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModel

from radzero.evaluation.models import Logits
from radzero.images import Radiograph
from radzero.images.geometry import Geometry, MapGeometry
from radzero.models.processor import RadZeroProcessor
from radzero.models.vision import patch_shape, token_grid
from radzero.phantom.findings import FINDINGS
from radzero.phantom.writing import read_index
from radzero.training.token_cache import CachedDataset

_DECAY = 1e-3
_STEPS, _BATCH = 400, 64


@dataclass(frozen=True)
class Labels:
    """Labels of phantoms: (M, 12) presence, and (M, 12, h, w) share of every token's cell that a finding covers."""

    present: Tensor
    cells: Tensor


def read_labels(films: Path, stems: Sequence[str], grid: tuple[int, int]) -> Labels:
    """Read the labels and masks of phantoms in a folder of ``radzero phantom``; masks are squashed to the token grid.

    Args:
        films: folder of the phantoms.
        stems: names of the images.
        grid: rows and columns of tokens.
    """
    records = {record["id"]: record for record in read_index(films / "phantoms.jsonl")}
    present = torch.zeros(len(stems), len(FINDINGS))
    cells = torch.zeros(len(stems), len(FINDINGS), *grid)
    for row, stem in enumerate(stems):
        for finding in records[stem]["findings"]:
            if finding["name"] in FINDINGS:
                column = FINDINGS.index(finding["name"])
                present[row, column] = 1
                mask = Image.open(films / finding["mask"]).convert("L").resize(grid[::-1], Image.Resampling.BOX)
                cells[row, column] = torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)
    return Labels(present, cells)


def chosen_films(count: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Return indices of a random share of images, at least one; a smaller share of a seed is part of a larger one."""
    order = np.random.default_rng([seed, 7]).permutation(count)
    return np.sort(order[: max(1, round(share * count))])


class Probe:
    """Two linear layers on a frozen encoder, as a :class:`~radzero.evaluation.models.ZeroShotModel`.

    The standardised CLS token gives the twelve logits; every patch token gives twelve map values.

    Args:
        encoder: folder of the vision encoder.
        processor: processor of the images.
        name: name of the probe, for tables.
    """

    sha256 = ""

    def __init__(self, encoder: Path, processor: RadZeroProcessor, name: str) -> None:
        self.encoder = AutoModel.from_pretrained(encoder).eval()
        self.processor, self.name = processor, name
        size = self.encoder.config.hidden_size
        self.classes, self.cells = nn.Linear(size, len(FINDINGS)), nn.Linear(size, len(FINDINGS))
        self.mean, self.scale = torch.zeros(size), torch.ones(size)

    def fit(self, films: CachedDataset, chosen: npt.NDArray[np.int64], labels: Labels, seed: int = 0) -> None:
        """Train both layers on the tokens of some images.

        The classifier is a logistic regression (L-BFGS, L2); the segmentation head minimises the binary cross-entropy
        with the share of each cell that is covered (AdamW).

        Args:
            films: cached tokens of the training images.
            chosen: indices of the images to train on.
            labels: labels of these images, in the same order.
            seed: seed of the batches.

        Raises:
            ValueError: when an image has no tokens because it could not be read.
        """
        tokens = [films.cache.read(int(k)) for k in chosen]
        if unread := [t for t in tokens if isinstance(t, str)]:
            raise ValueError(unread[0])
        read = [t for t in tokens if isinstance(t, Tensor)]
        vectors = torch.stack([t[0].float() for t in read])
        self.mean, self.scale = vectors.mean(dim=0), vectors.std(dim=0, unbiased=False).clamp(min=1e-6)
        inputs = (vectors - self.mean) / self.scale
        nn.init.zeros_(self.classes.weight)
        nn.init.zeros_(self.classes.bias)
        optimizer = torch.optim.LBFGS(self.classes.parameters(), max_iter=300, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(self.classes(inputs), labels.present)
            loss = loss + _DECAY * self.classes.weight.square().sum()
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        rng = np.random.default_rng([seed, 8])
        self.cells = nn.Linear(inputs.shape[1], len(FINDINGS))
        share = labels.cells.mean(dim=(0, 2, 3)).clamp(1e-4, 0.5)
        nn.init.zeros_(self.cells.weight)
        with torch.no_grad():
            self.cells.bias.copy_(torch.logit(share))
        adam = torch.optim.AdamW(self.cells.parameters(), lr=1e-2, weight_decay=1e-2)
        for step in range(_STEPS):
            for group in adam.param_groups:
                group["lr"] = 1e-2 * (1 - step / _STEPS)
            picked = rng.integers(len(read), size=min(_BATCH, len(read)))
            patches = torch.stack([read[k][1:].float() for k in picked])
            logits = self.cells(patches).mT.reshape(len(picked), len(FINDINGS), *labels.cells.shape[2:])
            loss = F.binary_cross_entropy_with_logits(logits, labels.cells[picked])
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()

    def embed_sentences(self, sentences: Sequence[str]) -> list[int]:
        """Return the index of the finding that each prompt asks for; a probe knows no other sentence."""
        return [FINDINGS.index(sentence.removeprefix("There is ")) for sentence in sentences]

    @torch.inference_mode()
    def embed_images(self, films: Sequence[Radiograph]) -> tuple[Tensor, list[Geometry]]:
        """Return the images' tokens, and where each image lies in the encoder's input."""
        pixels, geometries = self.processor.films(films)
        return self.encoder(pixels).last_hidden_state, geometries

    @torch.inference_mode()
    def logits(self, images: Any, sentences: list[int]) -> Logits:
        """Return the (B, N) logits of the classifier."""
        logits = self.classes((images[0][:, 0] - self.mean) / self.scale)
        return np.asarray(logits[:, sentences].numpy())

    @torch.inference_mode()
    def raw_map(self, images: Any, sentences: list[int], film: int, sentence: int) -> Logits:
        """Return the upsampled values of the segmentation head."""
        tokens, geometries = images
        grid = token_grid(self.encoder.config, geometries[film].input)
        values = self.cells(tokens[film, 1:])[:, sentences[sentence]].reshape(grid).numpy()
        return MapGeometry(geometries[film], grid, patch_shape(self.encoder.config)).upsample(values, fill=np.nan)
