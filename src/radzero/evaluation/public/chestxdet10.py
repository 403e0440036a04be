"""ChestX-Det10: classification and pointing game over ten classes."""

from pathlib import Path

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    Box,
    ImageFolder,
    Region,
    json_of,
    one_hot,
    the_file,
    there_is,
)
from radzero.evaluation.masks import BoxMask

NAME = "chestxdet10"
SOURCE = "Deepwise AI Lab, https://github.com/Deepwise-AILab/ChestX-Det10-Dataset; images are NIH's"
LAYOUT = "test*.json (or train*.json); images below, by name, 1024 x 1024"
PUBLISHED = {"images": 542, "classes": 10}

PROMPT_OF = {
    "Atelectasis": "Atelectasis", "Calcification": "Tissue Calcification", "Consolidation": "Pulmonary Consolidation",
    "Effusion": "Pleural Effusion", "Emphysema": "Pulmonary Emphysema", "Fibrosis": "Fibrosis",
    "Fracture": "Bone Fracture", "Mass": "Pulmonary Mass", "Nodule": "Lung Nodule", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
CLASSES = tuple(PROMPT_OF)
FINDINGS = tuple(PROMPT_OF.values())
_OTHER = frozenset(("Cardiomegaly", "Diffuse Nodule", "Pleural Thickening"))
"""Classes of ChestX-Det, the larger data set in the same format, that this benchmark does not ask for."""


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path = the_file(data, "test*.json", "*train*.json", what="list of images, classes and boxes")
    entries, folder = json_of(path), ImageFolder(data)
    if not isinstance(entries, list):
        raise BenchmarkError(f"{path}: expected a list")
    images, labels, regions = [], [], []
    for k, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"file_name", "syms", "boxes"} <= entry.keys():
            raise BenchmarkError(f"{path}: entry {k}: expected file_name, syms and boxes")
        name, found = str(entry["file_name"]), entry["syms"]
        if len(found) != len(entry["boxes"]):
            raise BenchmarkError(f"{path}: {name}: {len(found)} classes and {len(entry['boxes'])} boxes")
        boxes: dict[str, list[Box]] = {}
        for label, box in zip(found, entry["boxes"], strict=True):
            if label not in PROMPT_OF and label not in _OTHER:
                raise BenchmarkError(f"{path}: {name}: unknown class {label!r}")
            if len(box) != 4 or not box[0] <= box[2] or not box[1] <= box[3]:
                raise BenchmarkError(f"{path}: {name}: {box} is no box x0, y0, x1, y1")
            if label in PROMPT_OF:
                x0, y0, x1, y1 = (float(value) for value in box)
                boxes.setdefault(label, []).append((x0, y0, x1, y1))
        images.append(BenchmarkImage(name, name, folder.find(name)))
        labels.append(list(boxes))
        regions += [
            Region(k, CLASSES.index(label), label, tuple(found), BoxMask(tuple(found)), (1024, 1024))
            for label, found in boxes.items()
        ]
    return Benchmark(
        NAME,
        tuple(images),
        there_is(FINDINGS),
        CLASSES,
        tuple(range(len(CLASSES))),
        one_hot(labels, CLASSES),
        tuple(regions),
        ("classification", "pointing"),
    )
