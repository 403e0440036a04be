"""PadChest: classification of every label of the images that physicians labelled, except "normal"."""

from pathlib import Path

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    ImageFolder,
    json_of,
    one_hot,
    the_file,
    there_is,
)

NAME = "padchest"
SOURCE = "BIMCV, research use agreement, https://bimcv.cipf.es/bimcv-projects/padchest; labels: CARZero's JSON"
LAYOUT = "one JSON file, image -> list of labels; images below, by name"
PUBLISHED = {"images": 39_053, "classes": 192}
FINDINGS: tuple[str, ...] = ()


def labels_of(data: Path) -> dict[str, list[str]]:
    """Return the labels of each image, in lower case."""
    path = the_file(data, "*padchest*.json", "*.json", what="JSON file of labels")
    content = json_of(path)
    if not isinstance(content, dict):
        raise BenchmarkError(f"{path}: expected image -> list of labels")
    for image, labels in content.items():
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BenchmarkError(f"{path}: {image}: expected a list of labels")
    return {image: [label.strip().lower() for label in labels] for image, labels in content.items()}


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    return of_classes(NAME, data, lambda positives: True)


def of_classes(name: str, data: Path, keep) -> Benchmark:  # type: ignore[no-untyped-def]
    """Return the benchmark of the classes, in alphabetical order, for whose number of positives ``keep`` is true."""
    labels, folder = labels_of(data), ImageFolder(data)
    counts: dict[str, int] = {}
    for found in labels.values():
        for label in dict.fromkeys(found):
            counts[label] = counts.get(label, 0) + 1
    classes = tuple(sorted(label for label, count in counts.items() if label not in ("normal", "") and keep(count)))
    chosen = set(classes)
    images = tuple(BenchmarkImage(image, _patient(image), folder.find(image)) for image in labels)
    truth = one_hot([[label for label in found if label in chosen] for found in labels.values()], classes)
    return Benchmark(name, images, there_is(classes), classes, tuple(range(len(classes))), truth)


def _patient(image: str) -> str:
    """Return the study of an image, whose name is study_..._...png; it stands for the patient."""
    return Path(image).stem.partition("_")[0]
