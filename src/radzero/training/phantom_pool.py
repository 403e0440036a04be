"""Keep a pool of phantoms on disk for training: files of pixels, with files of findings beside them."""

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from token import COMMENT
from typing import Any

import numpy as np
import numpy.typing as npt

import radzero.phantom
from radzero._files import claim, replacing, write_whole
from radzero._processes import process_pool
from radzero.phantom.film import make_film
from radzero.phantom.findings import Finding, Grade

_DRAWING = ("anatomy", "detector", "fields", "film", "findings")
_SAME_CODE = {"f612af305fe73ba3": "47a73ac76b475f32"}
"""Hash of code -> hash that 0.1.0 wrote of the same code; it counted comments."""
_BLOCK = 250  # phantoms per file, per unit of work and per unit that a resumed build keeps


class PhantomPool:
    """Phantoms in a folder, memory-mapped by every process that reads them, and the findings of each.

    Args:
        folder: folder that :func:`build_pool` filled.
        films: number of phantoms to use.
    """

    def __init__(self, folder: Path, films: int) -> None:
        self.folder, self.films = folder, films
        blocks = (json.loads(_block(folder, first, ".json").read_text()) for first in range(0, films, _BLOCK))
        findings = [
            tuple(Finding(f["name"], Grade(f["grade"]), f["side"], f["zone"]) for f in film)
            for block in blocks
            for film in block
        ]
        self.findings: list[tuple[Finding, ...]] = findings[:films]
        self._blocks: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return self.films

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_blocks": {}}  # a worker maps the files again

    def pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the pixels (H, W) of a phantom, as 8-bit grey values."""
        number, row = divmod(index, _BLOCK)
        if number not in self._blocks:
            self._blocks[number] = np.load(_block(self.folder, number * _BLOCK, ".npy"), mmap_mode="r")
        return self._blocks[number][row]


def _block(folder: Path, first: int, suffix: str) -> Path:
    return folder / f"films-{first:06d}{suffix}"


def _make_block(first: int, count: int, seed: int, size: int, folder: Path) -> int:
    pixels = np.empty((count, size, size), dtype=np.uint8)
    findings = []
    for k in range(count):
        film = make_film(seed, first + k, shape=(size, size))
        pixels[k] = film.to_uint8()
        findings.append([asdict(f) for f in film.findings])
    write_whole(_block(folder, first, ".json"), json.dumps(findings).encode())
    # this file is written last: its presence shows that the block is whole
    with replacing(_block(folder, first, ".npy")) as temporary, temporary.open("wb") as file:
        np.save(file, pixels)
    return count


def _code_of_phantoms() -> str:
    """Return a hash of the code that draws, so that phantoms of another version are not taken for this one's."""
    folder = Path(radzero.phantom.__file__).parent
    code = "".join(_without_words((folder / f"{module}.py").read_text(encoding="utf-8")) for module in _DRAWING)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _without_words(source: str) -> str:
    """Return source code without comments, docstrings and white space, which change nothing that is drawn."""
    spans = [(t.start, t.end) for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == COMMENT]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            spans.append(((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)))
    lines = source.splitlines(keepends=True)
    for (first, start), (last, end) in sorted(spans, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]]
    return "".join("".join(lines).split())


def build_pool(
    folder: Path,
    *,
    films: int,
    seed: int,
    size: int,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> PhantomPool:
    """Make, finish or reuse a pool of phantoms.

    Args:
        folder: folder of the pool; blocks that are there already are kept.
        films: number of phantoms; whole blocks of 250 are drawn.
        seed: seed of the series.
        size: side in pixels; phantoms are squashed to a square.
        workers: number of processes that draw.
        progress: called with the number of phantoms drawn.

    Raises:
        ValueError: when the folder holds a pool of another seed or size, or of other phantom code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = _code_of_phantoms()
    identity = {"seed": seed, "size": size, "code": code}
    note = folder / "pool.json"
    older = _SAME_CODE.get(code)
    if older and note.exists() and older in note.read_text(encoding="utf-8"):
        identity["code"] = older
    remedy = "delete it (the films are drawn again), or name another folder"
    claim(note, identity, holds="other films", remedy=remedy)
    write_whole(note, json.dumps(identity).encode())
    starts = list(range(0, films, _BLOCK))
    missing = [s for s in starts if not _block(folder, s, ".npy").exists()]
    done = (len(starts) - len(missing)) * _BLOCK
    progress(done)
    if missing:
        make = partial(_make_block, count=_BLOCK, seed=seed, size=size, folder=folder)
        with process_pool(workers) as pool:
            for made in pool.map(make, missing):
                done += made
                progress(done)
    return PhantomPool(folder, films)
