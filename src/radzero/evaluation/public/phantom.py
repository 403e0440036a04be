"""Phantoms of a seed that training never saw: every task on twelve findings, in three grades, with their sides."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from radzero._files import claim, write_whole
from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    Region,
    one_hot,
    the_file,
    there_is,
)
from radzero.evaluation.masks import FileMask
from radzero.phantom.findings import FINDINGS
from radzero.phantom.writing import FilmFormat, read_index, write_phantoms

NAME = "phantom"
SOURCE = "drawn by the command itself, or by radzero phantom: synthetic films"
LAYOUT = "none needed; or --data with phantoms.jsonl, images (or dicom) and masks, as `radzero phantom` writes them"
PUBLISHED: dict[str, int] = {}


def draw(
    folder: Path,
    films: int,
    seed: int,
    size: int,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """Draw phantoms 0 .. films - 1 of a seed, unless the folder holds them already, and return the folder.

    Raises:
        BenchmarkError: when the folder holds other phantoms.
    """
    note = folder / "drawn.json"
    wanted = {"films": films, "seed": seed, "size": size}
    if claim(note, wanted, holds="other phantoms", error=BenchmarkError):
        return folder
    write_phantoms(
        folder, count=films, seed=seed, size=size, film_format=FilmFormat.PNG, workers=workers, progress=progress
    )
    write_whole(note, json.dumps(wanted).encode())
    return folder


def phantom_records(index: Path) -> list[dict[str, Any]]:
    """Return the records of a ``phantoms.jsonl``.

    Raises:
        BenchmarkError: when the file is damaged.
    """
    try:
        return read_index(index)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path = the_file(data, "phantoms.jsonl", what="index of phantoms")
    records = phantom_records(path)
    seeds = sorted({record["seed"] for record in records})
    if len(seeds) > 1:
        raise BenchmarkError(f"{path}: has phantoms of {len(seeds)} seeds, {seeds[0]} and {seeds[1]}; draw one series")
    images, labels, regions = [], [], []
    sides, grades = (np.full((len(records), len(FINDINGS)), "", dtype="<U8") for _ in range(2))
    for k, record in enumerate(records):
        film = path.parent / record.get("image", record.get("dicom", ""))
        images.append(BenchmarkImage(record["id"], record["id"], film if film.is_file() else None))
        own = [finding for finding in record["findings"] if finding["name"] in FINDINGS]
        labels.append([finding["name"] for finding in own])
        for finding in own:
            column = FINDINGS.index(finding["name"])
            grades[k, column] = finding["grade"]
            if finding["side"] in ("right", "left"):
                sides[k, column] = finding["side"]
            boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in finding["boxes"])
            mask, frame = path.parent / finding["mask"], (record["height"], record["width"])
            if boxes:
                regions.append(Region(k, column, finding["name"], boxes, FileMask(mask), frame))
    return Benchmark(
        NAME,
        tuple(images),
        there_is(FINDINGS),
        tuple(FINDINGS),
        tuple(range(len(FINDINGS))),
        one_hot(labels, FINDINGS),
        tuple(regions),
        ("classification", "pointing", "segmentation"),
        sides=sides,
        strata=grades,
    )
