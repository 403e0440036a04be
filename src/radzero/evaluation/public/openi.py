"""Open-I: classification of 18 findings, by substrings of the automatic labels of torchxrayvision's table."""

from pathlib import Path

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    ImageFolder,
    one_hot,
    rows_of,
    the_file,
    there_is,
)

NAME = "openi"
SOURCE = "Indiana University, https://openi.nlm.nih.gov, CC BY-NC-ND; table: torchxrayvision's, as CSV"
LAYOUT = "custom.csv with labels_automatic and an image's id; images below, by name (NLMCXR_png)"
PUBLISHED = {"images": 7_470, "classes": 18}

CLASSES = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax", "Edema",
    "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "Fracture", "Opacity", "Lesion", "Calcified Granuloma",
    "Granuloma",
)  # fmt: skip
FINDINGS = tuple(name.replace("_", " ") for name in CLASSES)
_ALSO = {"Infiltration": "infiltrate", "Atelectasis": "atelectases", "Pleural_Thickening": "pleural thickening"}
_IMAGE = ("imageid", "image_id", "filename", "file_name", "image", "path", "Path")
_PATIENT = ("uid", "patientid", "pmc_id")


def labels_of(automatic: str) -> list[str]:
    """Return the classes whose name, or other name, is in the automatic labels."""
    text = automatic.lower()
    return [name for name in CLASSES if name.lower() in text or (name in _ALSO and _ALSO[name] in text)]


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path, folder = the_file(data, "custom*.csv", what="table of automatic labels"), ImageFolder(data)
    rows = list(rows_of(path, "labels_automatic"))
    key = next((column for column in _IMAGE if rows and column in rows[0]), None)
    if key is None:
        raise BenchmarkError(f"{path}: no column names an image; one of {', '.join(_IMAGE)} is looked for")
    patient = next((column for column in _PATIENT if column in rows[0]), key)
    images = tuple(BenchmarkImage(row[key], row[patient], folder.find(row[key])) for row in rows)
    truth = one_hot([labels_of(row["labels_automatic"]) for row in rows], CLASSES)
    return Benchmark(NAME, images, there_is(FINDINGS), CLASSES, tuple(range(len(CLASSES))), truth)
