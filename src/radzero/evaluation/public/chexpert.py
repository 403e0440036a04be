"""CheXpert's test set: five findings of 500 studies; a study is scored by its first frontal view."""

from pathlib import Path

import numpy as np

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    number,
    rows_of,
    the_file,
    there_is,
)

NAME = "chexpert"
SOURCE = "Stanford AIMI, research use agreement; labels: https://github.com/rajpurkarlab/cheXpert-test-set-labels"
LAYOUT = "groundtruth*.csv (or test_labels.csv); test/patient*/study*/view*_frontal.jpg below"
PUBLISHED = {"images": 500, "classes": 5}

CLASSES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
FINDINGS = CLASSES


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path = the_file(data, "groundtruth*.csv", "test_labels*.csv", what="table of labels")
    rows = list(rows_of(path, *CLASSES))
    key = next((column for column in ("Study", "Path") if rows and column in rows[0]), None)
    if key is None:
        raise BenchmarkError(f"{path}: there is no column Study or Path")
    images, truth = [], np.zeros((len(rows), len(CLASSES)), dtype=np.int8)
    for k, row in enumerate(rows):
        parts = Path(row[key]).parts
        patient = next((part for part in parts if part.startswith("patient")), row[key])
        images.append(BenchmarkImage(row[key], patient, _frontal(data, row[key])))
        for column, name in enumerate(CLASSES):
            value = number(path, row[key], row[name])
            if value not in (0, 1):
                raise BenchmarkError(f"{path}: {row[key]}: {name} is {row[name]}, not 0 or 1")
            truth[k, column] = int(value)
    return Benchmark(NAME, tuple(images), there_is(FINDINGS), CLASSES, tuple(range(5)), truth)


def _frontal(data: Path, study: str) -> Path | None:
    """Return a study's first frontal view, or the named image itself, or None.

    Leading parts of the path are dropped until the rest lies below the folder.
    """
    parts = Path(study).parts
    for first in range(len(parts)):
        place = data.joinpath(*parts[first:])
        if place.is_file():
            return place
        if place.is_dir() and (views := sorted(place.glob("view*_frontal.*"))):
            return views[0]
    return None
