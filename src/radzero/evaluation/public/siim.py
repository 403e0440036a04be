"""SIIM-ACR pneumothorax: classification, Dice and pixel AUC with run-length masks on DICOM files."""

from pathlib import Path

import numpy as np

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    ImageFolder,
    Region,
    rows_of,
    the_file,
    there_is,
)
from radzero.evaluation.masks import RunLengthMask

NAME = "siim"
SOURCE = "SIIM and ACR, https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation; test split: MGCA's"
LAYOUT = "*test*.csv or train-rle*.csv with ImageId and EncodedPixels; <ImageId>.dcm below, 1024 x 1024"
PUBLISHED = {"images": 1_704, "positive images": 458}

FINDINGS = CLASSES = ("Pneumothorax",)
FRAME = (1024, 1024)


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path, folder = the_file(data, "*test*.csv", "*rle*.csv", "*.csv", what="table of run lengths"), ImageFolder(data)
    encoded: dict[str, list[list[int]]] = {}
    for row in rows_of(path, "ImageId", "EncodedPixels"):
        runs = encoded.setdefault(row["ImageId"], [])
        if row["EncodedPixels"] not in ("-1", ""):
            try:
                values = [int(value) for value in row["EncodedPixels"].split()]
            except ValueError as error:
                raise BenchmarkError(f"{path}: {row['ImageId']}: its run lengths are no whole numbers") from error
            if len(values) % 2 or min(values) < 0:
                raise BenchmarkError(f"{path}: {row['ImageId']}: its run lengths are no pairs of start and length")
            runs.append(values)
    relative = _are_relative(path, encoded)
    images, regions = [], []
    for k, (name, rows) in enumerate(encoded.items()):
        images.append(BenchmarkImage(name, name, folder.find(name)))
        if rows:
            masks = tuple(_mask(values, relative) for values in rows)
            regions.append(Region(k, 0, "Pneumothorax", mask=_Union(masks), frame=FRAME))
    truth = np.array([[bool(rows)] for rows in encoded.values()], dtype=np.int8).reshape(len(images), 1)
    return Benchmark(
        NAME,
        tuple(images),
        there_is(FINDINGS),
        CLASSES,
        (0,),
        truth,
        tuple(regions),
        ("classification", "segmentation"),
    )


def _mask(values: list[int], relative: bool) -> RunLengthMask:
    starts = values[0::2] if relative else [value - 1 for value in values[0::2]]  # absolute starts count from 1
    return RunLengthMask(tuple(zip(starts, values[1::2], strict=True)), relative)


def _are_relative(path: Path, encoded: dict[str, list[list[int]]]) -> bool:
    """Return whether starts count from the end of the last run (as published), and not from the image's first pixel.

    Absolute starts rise from run to run in every row; relative starts are gaps, which do not.
    """
    several = [(name, values) for name, rows in encoded.items() for values in rows if len(values) > 2]
    rising = [all(b >= a + length for a, length, b in zip(v[0::2], v[1::2], v[2::2], strict=False)) for _, v in several]
    if several and all(rising):
        return False
    for name, rows in encoded.items():
        for values in rows:
            if sum(values) > FRAME[0] * FRAME[1]:
                raise BenchmarkError(f"{path}: {name}: its runs are neither relative nor absolute ones of 1024 x 1024")
    return True


class _Union:
    """Union of the masks of several rows of one image."""

    def __init__(self, masks: tuple[RunLengthMask, ...]) -> None:
        self.masks = masks

    def load(self, height: int, width: int) -> np.ndarray:
        """See :class:`~radzero.evaluation.masks.MaskSource`."""
        return np.logical_or.reduce([mask.load(height, width) for mask in self.masks])
