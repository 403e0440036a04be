"""Anatomy: compare maps of sentences that name a region ("right lung", "heart") with masks of phantoms or human lungs.

There are two layouts. One is a folder of ``radzero phantom`` (regions of ``phantoms.jsonl``). The other is images and
folders of lung masks whose names contain "masks"; a mask is a picture with the image's name, or with its stem and
``_mask``, and its sentence is "lungs".
"""

from pathlib import Path

from radzero.evaluation.benchmark import Benchmark, BenchmarkError, BenchmarkImage, ImageFolder, Region
from radzero.evaluation.masks import FileMask
from radzero.evaluation.public.phantom import phantom_records

NAME = "anatomy"
SOURCE = "radzero phantom DIR, or any films with lung masks (V7 COVID-19 X-ray dataset, CC BY 4.0, for one)"
LAYOUT = "phantoms.jsonl with its anatomy/ folder; or images beside a folder *masks*"
PUBLISHED: dict[str, int] = {}
FINDINGS: tuple[str, ...] = ()


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    if not data.is_dir():
        raise BenchmarkError(f"{data}: there is no such folder")
    index = data / "phantoms.jsonl"
    masks = _of_phantoms(index) if index.is_file() else _of_lungs(data)
    if not masks:
        raise BenchmarkError(f"{data}: there is no phantoms.jsonl and no image with a mask in a folder *masks*")
    names = tuple(dict.fromkeys(region for found in masks.values() for region in found))
    images = tuple(BenchmarkImage(path.name, path.name, path if path.is_file() else None) for path in masks)
    regions = tuple(
        Region(k, names.index(region), region, mask=FileMask(mask))
        for k, found in enumerate(masks.values())
        for region, mask in found.items()
    )
    return Benchmark(NAME, images, names, regions=regions, tasks=("segmentation",))


def _of_phantoms(index: Path) -> dict[Path, dict[str, Path]]:
    return {
        index.parent / record.get("image", record.get("dicom", "")): {
            region: index.parent / mask for region, mask in record["anatomy"].items()
        }
        for record in phantom_records(index)
    }


def _of_lungs(data: Path) -> dict[Path, dict[str, Path]]:
    """Return every image below a folder that has a mask; the first folder of masks that has one, by name, counts."""
    found: dict[Path, dict[str, Path]] = {}
    for folder in sorted(path for path in data.rglob("*masks*") if path.is_dir()):
        masks = ImageFolder(folder)
        for path in sorted(data.rglob("*")):
            if path.is_file() and not any("masks" in parent.name for parent in path.parents if parent != data):
                exact = folder / path.name
                mask = exact if exact.is_file() else masks.find(f"{path.stem}_mask.png")
                if mask is not None:
                    found.setdefault(path, {"lungs": mask})
    return found
