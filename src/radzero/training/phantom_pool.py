"""A pool of phantom films on disk for training: pixels in one array, findings beside them."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

import radzero.phantom
from radzero.phantom.film import make_film
from radzero.phantom.findings import Finding, Grade
from radzero.training.files import write_whole

_BLOCK = 250  # films per unit of work, and per resumable piece


@dataclass(frozen=True)
class PhantomPool:
    """Films (M, H, W) uint8, memory-mapped, and the findings of each."""

    pixels: npt.NDArray[np.uint8]
    findings: list[tuple[Finding, ...]]


def _make_block(first: int, count: int, seed: int, size: int, folder: Path) -> int:
    pixels = np.empty((count, size, size), dtype=np.uint8)
    findings = []
    for k in range(count):
        film = make_film(seed, first + k, shape=(size, size))
        pixels[k] = film.to_uint8()
        findings.append([asdict(f) for f in film.findings])
    stem = folder / f"films-{first:06d}"
    write_whole(stem.with_suffix(".json"), json.dumps(findings).encode())
    temporary = stem.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.save(file, pixels)
    os.replace(temporary, stem.with_suffix(".npy"))  # last: its presence says that the block is whole
    return count


def _code_of_phantoms() -> str:
    """A hash of the code that draws, so that films of another version are not taken for this one's."""
    digest = hashlib.sha256()
    for file in sorted(Path(radzero.phantom.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def build_pool(
    folder: Path,
    *,
    films: int,
    seed: int,
    size: int,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> PhantomPool:
    """Make (or finish, or reuse) a pool of phantoms.

    Args:
        folder: where the pool lives; blocks that are there already are kept.
        films: how many; rounded up to a whole block of 250.
        seed: of the series.
        size: side in pixels; films are squashed to a square.
        workers: processes.
        progress: called with the number of films done.

    Raises:
        ValueError: when the folder holds a pool of another seed or size, or of other phantom code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"seed": seed, "size": size, "code": _code_of_phantoms()}
    note = folder / "pool.json"
    if note.exists() and json.loads(note.read_text()) != identity:
        raise ValueError(
            f"{folder}: holds films of {note.read_text()}, not of {json.dumps(identity)}; "
            "delete it (the films are drawn again), or name another folder"
        )
    write_whole(note, json.dumps(identity).encode())
    starts = list(range(0, films, _BLOCK))
    missing = [s for s in starts if not (folder / f"films-{s:06d}.npy").exists()]
    done = (len(starts) - len(missing)) * _BLOCK
    progress(done)
    if missing:
        make = partial(_make_block, count=_BLOCK, seed=seed, size=size, folder=folder)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for made in pool.map(make, missing):
                done += made
                progress(done)
    blocks = [np.load(folder / f"films-{s:06d}.npy") for s in starts]
    findings = [
        tuple(Finding(f["name"], Grade(f["grade"]), f["side"], f["zone"]) for f in film)
        for s in starts
        for film in json.loads((folder / f"films-{s:06d}.json").read_text())
    ]
    return PhantomPool(np.concatenate(blocks)[:films], findings[:films])
