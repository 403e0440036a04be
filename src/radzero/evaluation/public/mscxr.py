"""MS-CXR: the pointing game over pairs of an image and a phrase with its boxes."""

from pathlib import Path

from radzero.evaluation.benchmark import (
    Benchmark,
    BenchmarkError,
    BenchmarkImage,
    Box,
    ImageFolder,
    Region,
    json_of,
    the_file,
)

NAME = "mscxr"
SOURCE = "Microsoft, PhysioNet credentialed, https://physionet.org/content/ms-cxr; test split: MedRPG's"
LAYOUT = "*test*.json: a list of {image, phrase, box} or [image, phrase, box]; images below, by name"
PUBLISHED = {"images": 167}
FINDINGS: tuple[str, ...] = ()


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    path, folder = the_file(data, "*test*.json", "*.json", what="list of images, phrases and boxes"), ImageFolder(data)
    pairs: dict[tuple[str, str], list[Box]] = {}
    entries = json_of(path)
    for k, entry in enumerate(entries if isinstance(entries, list) else []):
        image, phrase, box = _parts(path, k, entry)
        pairs.setdefault((image, phrase), []).append(box)
    if not pairs:
        raise BenchmarkError(f"{path}: expected a list of images, phrases and boxes")
    names = tuple(dict.fromkeys(image for image, _ in pairs))
    phrases = tuple(dict.fromkeys(phrase for _, phrase in pairs))
    images = tuple(BenchmarkImage(name, _patient(name), folder.find(name)) for name in names)
    regions = tuple(
        Region(names.index(image), phrases.index(phrase), phrase, tuple(boxes))
        for (image, phrase), boxes in pairs.items()
    )
    return Benchmark(NAME, images, phrases, regions=regions, tasks=("pointing",), averaged="pairs")


def _parts(path: Path, k: int, entry: object) -> tuple[str, str, Box]:
    if isinstance(entry, dict):
        box = next((entry[key] for key in ("box", "bbox", "boxes") if key in entry), None)
        image = next((entry[key] for key in ("image", "file_name", "path") if key in entry), None)
        entry = [image, entry.get("phrase", entry.get("text")), box]
    if isinstance(entry, list) and len(entry) >= 3:
        image, phrase, box = entry[0], entry[1], entry[2]
        if isinstance(image, str) and isinstance(phrase, str) and isinstance(box, list):
            box = box[0] if len(box) == 1 and isinstance(box[0], list) else box
            if len(box) == 4 and all(isinstance(v, int | float) for v in box) and box[0] <= box[2] and box[1] <= box[3]:
                return image, phrase.strip(), (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    raise BenchmarkError(f"{path}: entry {k}: expected an image, a phrase and a box x0, y0, x1, y1")


def _patient(image: str) -> str:
    """Return the patient that a path like files/p10/p10000032/s.../....jpg names, or else the image's own name."""
    return next((part for part in Path(image).parts if part.startswith("p") and len(part) > 4), image)
