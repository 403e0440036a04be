"""Write a series of phantoms to disk: images, masks, reports, and one JSON line for each phantom."""

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radzero._files import write_whole
from radzero._processes import process_pool
from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import Film, make_film
from radzero.phantom.reports import write_report


class FilmFormat(StrEnum):
    """File formats in which a phantom is written."""

    PNG = "png"
    DICOM = "dicom"
    BOTH = "both"


def write_phantoms(
    folder: Path,
    *,
    count: int,
    seed: int,
    first: int = 0,
    size: int = 512,
    film_format: FilmFormat = FilmFormat.BOTH,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """Write phantoms ``first`` .. ``first + count - 1`` of a seed; those of earlier calls stay in the index.

    A folder holds the phantoms of one seed only, because two series in one folder would be taken for one.

    ``images/`` and ``dicom/`` hold the images, ``reports/`` the reports, ``masks/`` one PNG per finding (0 or 255) and
    ``anatomy/`` one PNG per region. ``phantoms.jsonl`` has a line for each phantom: image, dicom, report, gold
    sentences, findings with grade, side, zone, boxes (x0, y0, x1, y1 in pixels, at pixel edges) and mask, anatomy,
    view, sex, size in pixels and pixel spacing in mm.

    Args:
        folder: folder to write to; it is made if needed.
        count: number of phantoms, at least 1.
        seed: seed of the series.
        first: index of the first phantom.
        size: height in pixels, see :func:`radzero.phantom.film.make_film`.
        film_format: PNG, DICOM or both.
        workers: number of processes that draw; the files are the same for any number.
        progress: called with the number of phantoms written so far.

    Returns:
        The path of ``phantoms.jsonl``.

    Raises:
        ValueError: when the count is below 1, or the folder holds phantoms of another seed or a damaged index.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    others = sorted({record["seed"] for record in read_index(folder / "phantoms.jsonl")} - {seed})
    if others:
        raise ValueError(f"{folder}: holds phantoms of seed {others[0]}; name another folder for those of seed {seed}")
    unwanted = {FilmFormat.PNG: "dicom", FilmFormat.DICOM: "images", FilmFormat.BOTH: ""}[film_format]
    for name in ("images", "dicom", "reports", "masks", "anatomy"):
        if name != unwanted:
            (folder / name).mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    draw = partial(_draw, seed=seed, size=size, folder=folder, film_format=film_format)
    indices = range(first, first + count)
    try:
        with process_pool(workers) if workers > 1 else nullcontext() as pool:
            drawn: Iterable[dict[str, Any]] = pool.map(draw, indices, chunksize=4) if pool else map(draw, indices)
            for record in drawn:
                records.append(record)
                progress(len(records))
    finally:  # phantoms of an interrupted run are in the index too
        path = _write_index(folder / "phantoms.jsonl", records)
    return path


def _draw(index: int, *, seed: int, size: int, folder: Path, film_format: FilmFormat) -> dict[str, Any]:
    return _write(make_film(seed, index, size=size), folder, film_format)


def read_index(path: Path) -> list[dict[str, Any]]:
    """Return the records of ``phantoms.jsonl``; none where there is no such file yet.

    Raises:
        ValueError: when the file is damaged or is no index of phantoms.
    """
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if all("seed" in record and "id" in record for record in records):
            return records
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); name another folder") from error
    raise ValueError(f"{path}: is no index of phantoms; name another folder")


def _write_index(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write the records, and those of other phantoms that the index holds already, in order of seed and index."""
    known = {record["id"]: record for record in read_index(path)}
    known |= {record["id"]: record for record in records}
    ordered = sorted(known.values(), key=lambda record: (record["seed"], record["index"]))
    write_whole(path, "".join(json.dumps(record) + "\n" for record in ordered).encode())
    return path


def _write(film: Film, folder: Path, film_format: FilmFormat) -> dict[str, Any]:
    stem = f"phantom-{film.seed}-{film.index:06d}"
    record: dict[str, Any] = {"id": stem, "seed": film.seed, "index": film.index}
    if film_format is not FilmFormat.DICOM:
        record["image"] = f"images/{stem}.png"
        Image.fromarray(film.to_uint8()).save(folder / record["image"])
    if film_format is not FilmFormat.PNG:
        record["dicom"] = f"dicom/{stem}.dcm"
        write_dicom(film, folder / record["dicom"])
    report = write_report(film)
    record["report"] = f"reports/{stem}.txt"
    (folder / record["report"]).write_text(report.text, encoding="utf-8")
    record["sentences"] = [
        {"sentence": s.text, "polarity": s.polarity, "finding": s.finding, "side": s.side, "zone": s.zone}
        for s in report.gold
    ]
    record["findings"] = []
    for number, evidence in enumerate(film.evidence):
        name = f"masks/{stem}-{number}-{evidence.finding.name.replace(' ', '-')}.png"
        Image.fromarray(evidence.mask.astype(np.uint8) * 255).save(folder / name)
        finding = evidence.finding
        record["findings"].append(
            {
                "name": finding.name,
                "grade": finding.grade,
                "side": finding.side,
                "zone": finding.zone,
                "boxes": [[round(v, 2) for v in box] for box in evidence.boxes],
                "mask": name,
            }
        )
    record["anatomy"] = {}
    for region, mask in film.anatomy.items():
        name = f"anatomy/{stem}-{region.replace(' ', '-')}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
        record["anatomy"][region] = name
    record |= {
        "view": film.body.projection,
        "sex": film.body.sex,
        "height": film.pixels.shape[0],
        "width": film.pixels.shape[1],
        "pixel_mm": [round(v, 5) for v in film.pixel_mm],
    }
    return record
