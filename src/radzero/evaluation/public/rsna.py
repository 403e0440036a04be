"""RSNA pneumonia: classification, pointing, and Dice and pixel AUC, where the union of the boxes is the mask.

Two styles of table are read: MedKLIP's ``img_path`` with ``boxes`` (``x;y;w;h`` joined by ``|``), and the challenge's
``patientId,x,y,width,height,Target`` with a row per box. Boxes are in pixels.
"""

from pathlib import Path

import numpy as np

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    Box,
    ImageFolder,
    Region,
    number,
    rows_of,
    the_file,
    there_is,
)
from radzero.evaluation.masks import BoxMask

NAME = "rsna"
SOURCE = "RSNA and NIH, https://www.kaggle.com/c/rsna-pneumonia-detection-challenge; test split: MedKLIP's"
LAYOUT = "*test*.csv (MedKLIP) or stage_2_train_labels*.csv; <patientId>.dcm below, 1024 x 1024"
PUBLISHED = {"images": 5_337, "positive images": 1_218}

FINDINGS = CLASSES = ("Pneumonia",)
FRAME = (1024, 1024)


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path = the_file(data, "*test*.csv", "*stage_2_train_labels*.csv", "*.csv", what="table of boxes")
    folder, boxes = ImageFolder(data), _boxes(path)
    images = tuple(BenchmarkImage(name, Path(name).stem, folder.find(name)) for name in boxes)
    regions = tuple(
        Region(k, 0, "Pneumonia", tuple(found), BoxMask(tuple(found)), FRAME)
        for k, found in enumerate(boxes.values())
        if found
    )
    truth = np.array([[bool(found)] for found in boxes.values()], dtype=np.int8).reshape(len(images), 1)
    return Benchmark(
        NAME,
        images,
        there_is(FINDINGS),
        CLASSES,
        (0,),
        truth,
        regions,
        ("classification", "segmentation", "pointing"),
    )


def _boxes(path: Path) -> dict[str, list[Box]]:
    """Return the boxes of every image, none for a negative one."""
    rows = list(rows_of(path))
    columns = rows[0].keys() if rows else set()
    boxes: dict[str, list[Box]] = {}
    if {"img_path", "boxes"} <= columns:
        for row in rows:
            found = boxes.setdefault(row["img_path"], [])
            for text in filter(None, row["boxes"].split("|")):
                values = text.split(";")
                if len(values) != 4:
                    raise BenchmarkError(f"{path}: {row['img_path']}: {text!r} is no box x;y;w;h")
                found.append(_box(path, row["img_path"], values))
        return boxes
    if {"patientId", "x", "y", "width", "height", "Target"} <= columns:
        for row in rows:
            found = boxes.setdefault(row["patientId"], [])
            if row["Target"] not in ("0", "1"):
                raise BenchmarkError(f"{path}: {row['patientId']}: Target is {row['Target']!r}, not 0 or 1")
            if row["Target"] == "1":
                found.append(_box(path, row["patientId"], [row[key] for key in ("x", "y", "width", "height")]))
        return boxes
    raise BenchmarkError(
        f"{path}: has neither MedKLIP's columns (img_path, boxes) nor the challenge's (patientId, x, y, width, height, "
        f"Target), but {', '.join(columns) or 'nothing'}"
    )


def _box(path: Path, image: str, values: list[str]) -> Box:
    x, y, w, h = (number(path, image, value) for value in values)
    if w <= 0 or h <= 0:
        raise BenchmarkError(f"{path}: {image}: a box of {w} x {h}")
    return x, y, x + w, y + h
