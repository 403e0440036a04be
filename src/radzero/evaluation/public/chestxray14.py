"""NIH ChestX-ray14: classification of the official test list, and pointing and Dice if the folder has boxes.

Labels come from the published test list (name or path, then fourteen zeros and ones), else from
``Data_Entry_2017*.csv`` (labels joined by ``|``). NIH's own boxes (``BBox_List_2017*.csv``, whose header names four
columns as one) and those of the RSNA challenge on NIH images (``stage_2_train_labels*.csv`` with ``rsna_to_nih*.csv``)
are used if the folder has them; both are drawn on images of 1024 x 1024 pixels.
"""

import csv
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
    one_hot,
    rows_of,
    the_file,
    there_is,
)
from radzero.evaluation.masks import BoxMask

NAME = "chestxray14"
SOURCE = "NIH Clinical Center, public, https://nihcc.app.box.com/v/ChestXray-NIHCC; test list: CheXNet or CARZero"
LAYOUT = "test_list*.txt, or Data_Entry_2017*.csv; images below, by name; BBox_List_2017*.csv if wanted"
PUBLISHED = {"images": 22_433, "classes": 14}

CLASSES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia",
)  # fmt: skip
FINDINGS = CLASSES
_ALSO = {"Infiltrate": "Infiltration", "Pleural_Thickening": "Pleural Thickening"}
FRAME = (1024, 1024)


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    folder, tables = ImageFolder(data), sorted(data.rglob("test_list*.txt")) if data.is_dir() else []
    names, labels, patients = _of_list(tables[0]) if tables else _of_entries(the_file(
        data, "Data_Entry_2017*.csv", what="test list or table of labels"
    ))  # fmt: skip
    images = tuple(
        BenchmarkImage(name, patient, folder.find(name)) for name, patient in zip(names, patients, strict=True)
    )
    sentences = there_is(FINDINGS)
    boxes = _boxes(data)
    place = {Path(name).name: k for k, name in enumerate(names)}
    regions = tuple(
        Region(place[image], CLASSES.index(label), label, tuple(found), BoxMask(tuple(found)), FRAME)
        for (image, label), found in sorted(boxes.items())
        if image in place
    )
    tasks = ("classification", "pointing", "segmentation") if regions else ("classification",)
    return Benchmark(NAME, images, sentences, CLASSES, tuple(range(14)), labels, regions, tasks)


def _of_list(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    names, rows = [], []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, *values = text.split()
        if len(values) != len(CLASSES) or not {*values} <= {"0", "1"}:
            raise BenchmarkError(f"{path}: line {line}: expected a name and fourteen zeros and ones")
        names.append(name)
        rows.append([int(value) for value in values])
    truth = np.array(rows, dtype=np.int8).reshape(len(names), len(CLASSES))
    return names, truth, [Path(name).name.partition("_")[0] for name in names]


def _of_entries(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    rows = list(rows_of(path, "Image Index", "Finding Labels", "Patient ID"))
    labels = []
    for row in rows:
        found = [_ALSO.get(label, label) for label in row["Finding Labels"].split("|") if label != "No Finding"]
        if unknown := [label for label in found if label not in CLASSES]:
            raise BenchmarkError(f"{path}: {row['Image Index']}: unknown label {unknown[0]!r}")
        labels.append(found)
    return [row["Image Index"] for row in rows], one_hot(labels, CLASSES), [row["Patient ID"] for row in rows]


def _boxes(data: Path) -> dict[tuple[str, str], list[Box]]:
    """Return NIH's and RSNA's boxes by (image, class)."""
    boxes: dict[tuple[str, str], list[Box]] = {}
    for path in sorted(data.rglob("BBox_List_2017*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            next(lines, None)  # its header "Image Index,Finding Label,Bbox [x,y,w,h],,," does not match the columns
            for image, label, *values in lines:
                label = _ALSO.get(label, label)
                if label not in CLASSES:
                    raise BenchmarkError(f"{path}: {image}: unknown label {label!r}")
                x, y, w, h = (number(path, image, value) for value in values[:4])
                boxes.setdefault((image, label), []).append((x, y, x + w, y + h))
    for path in sorted(data.rglob("rsna_to_nih*.csv")):
        image_of = {row["patientId"]: row["nih_image"] for row in rows_of(path, "patientId", "nih_image")}
        labels = the_file(data, "stage_2_train_labels*.csv", what="table of RSNA's boxes")
        for row in rows_of(labels, "patientId", "x", "y", "width", "height", "Target"):
            if row["Target"] == "1" and row["patientId"] in image_of:
                x, y, w, h = (number(labels, row["patientId"], row[key]) for key in ("x", "y", "width", "height"))
                boxes.setdefault((image_of[row["patientId"]], "Pneumonia"), []).append((x, y, x + w, y + h))
    return boxes
