"""Phantoms of ``radzero phantom`` in a folder: classification, pointing game, Dice, pixel AUC over twelve findings."""

import json
from pathlib import Path

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

NAME = "phantoms"
TITLE = "Phantoms"
SOURCE = "radzero phantom DIR -n 500 --seed 990: synthetic films of a seed that training never saw"
LAYOUT = "phantoms.jsonl, images (or dicom) and masks, as `radzero phantom` writes them"
PUBLISHED: dict[str, int] = {}


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path = the_file(data, "phantoms.jsonl", what="index of phantoms")
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{path}: is damaged: {error}") from error
    seeds = sorted({record["seed"] for record in records})
    if len(seeds) > 1:
        raise BenchmarkError(f"{path}: has phantoms of {len(seeds)} seeds, {seeds[0]} and {seeds[1]}; draw one series")
    images, labels, regions = [], [], []
    for k, record in enumerate(records):
        film = path.parent / record.get("image", record.get("dicom", ""))
        images.append(BenchmarkImage(record["id"], record["id"], film if film.is_file() else None))
        own = [finding for finding in record["findings"] if finding["name"] in FINDINGS]
        labels.append([finding["name"] for finding in own])
        for finding in own:
            boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in finding["boxes"])
            column, mask = FINDINGS.index(finding["name"]), path.parent / finding["mask"]
            frame = (record["height"], record["width"])
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
    )
