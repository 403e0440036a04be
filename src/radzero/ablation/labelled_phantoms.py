"""Draw the images of a comparison's encoder with their labels. Nothing here needs torch, so processes start quickly."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from radzero._files import replacing
from radzero._processes import process_pool
from radzero.phantom.film import make_film
from radzero.phantom.findings import FINDINGS, Finding

if TYPE_CHECKING:
    from radzero.ablation.recipe import FilmsChoice

_CELL = 8
_BLOCK = 250


class LabelledPhantoms(NamedTuple):
    """Training and held-out images of the encoder with their labels, in memory.

    Attributes:
        pixels: (M, H, W) uint8 images.
        labels: (M, 36) labels from :func:`labels_of`.
        cells: (M, 1 + R, H / 8, W / 8) uint8: 255 times the share of each cell of 8 x 8 pixels that is abnormal, and
            that each of R regions of the anatomy covers.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.float32]
    cells: npt.NDArray[np.uint8]


def labels_of(findings: tuple[Finding, ...]) -> npt.NDArray[np.float32]:
    """Return (36,) zeros and ones: presence of the twelve findings, then of each on the right, then on the left."""
    labels = np.zeros((3, len(FINDINGS)), dtype=np.float32)
    for finding in findings:
        if finding.name in FINDINGS:
            column = FINDINGS.index(finding.name)
            labels[0, column] = 1
            labels[1, column] = finding.side in ("right", "bilateral")
            labels[2, column] = finding.side in ("left", "bilateral")
    return labels.ravel()


def _draw_block(first: int, count: int, seed: int, size: int, folder: Path) -> int:
    drawn = []
    for index in range(first, first + count):
        film = make_film(seed, index, shape=(size, size))
        abnormal = np.zeros((size, size), dtype=bool)
        for evidence in film.evidence:
            abnormal |= evidence.mask
        masks = np.stack([abnormal, *film.anatomy.values()]).astype(np.float32)
        side = size // _CELL
        cells = masks.reshape(len(masks), side, _CELL, side, _CELL).mean(axis=(2, 4))
        drawn.append((film.to_uint8(), labels_of(film.findings), (cells * 255).round().astype(np.uint8)))
    pixels, labels, cells = (np.stack(column) for column in zip(*drawn, strict=True))
    with replacing(folder / f"lessons-{first:06d}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, pixels=pixels, labels=labels, cells=cells)
    return count


def draw_labelled_phantoms(
    folder: Path, films: "FilmsChoice", *, workers: int = 2, progress: Callable[[int], None] = lambda done: None
) -> LabelledPhantoms:
    """Draw the encoder's images, or read them; an interrupted drawing is resumed after its last whole block.

    Args:
        folder: folder of the images.
        films: number, seed and size (in pixels, a multiple of 8) of the images.
        workers: number of processes that draw.
        progress: called with the number of images drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, films.encoder, _BLOCK)
    missing = [first for first in starts if not (folder / f"lessons-{first:06d}.npz").exists()]
    counts = [min(_BLOCK, films.encoder - first) for first in missing]
    draw = partial(_draw_block, seed=films.encoder_seed, size=films.size, folder=folder)
    done = films.encoder - sum(counts)
    progress(done)
    if missing:
        with process_pool(workers) as pool:
            for count in pool.map(draw, missing, counts):
                done += count
                progress(done)
    blocks = []
    for first in starts:
        with np.load(folder / f"lessons-{first:06d}.npz") as block:
            blocks.append((block["pixels"], block["labels"], block["cells"]))
    return LabelledPhantoms(*(np.concatenate(column) for column in zip(*blocks, strict=True)))
