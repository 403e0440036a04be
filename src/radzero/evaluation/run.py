"""Run a model on a benchmark; its answers are saved in parts, so that an interrupted run can be resumed.

A run's folder has ``run.json`` (model, data, versions, command), ``parts/`` while it runs, and at its end
``scores.parquet`` (every image x sentence), ``regions.parquet`` (measurements of each region) and ``pixels.npz``
(histograms of map values). Metrics are computed from these files alone: see :mod:`radzero.evaluation.scoring`.
"""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import transformers

import radzero
from radzero._files import claim, replacing, write_whole
from radzero._numbers import sigmoid
from radzero.evaluation.benchmark import Benchmark, BenchmarkError, BenchmarkImage, Region
from radzero.evaluation.metrics import PixelHistogram, contrast_to_noise, dice_sweep, mean_iou, pointing_hit
from radzero.evaluation.models import Logits, ZeroShotModel
from radzero.images import Radiograph, RadiographError

_T = TypeVar("_T")
_PART, _BATCH = 32, 8
"""Number of images per part, and per pass through a model."""


@dataclass(frozen=True)
class Unreadable:
    """An image of the benchmark that cannot be read."""

    name: str
    reason: str


def check(benchmark: Benchmark, *, progress: Callable[[int], None] = lambda done: None) -> list[Unreadable]:
    """Read every image, and compare its size with the frame that boxes and masks are drawn on."""
    frames = {region.image: region.frame for region in benchmark.regions if region.frame}
    problems = []
    for k, image in enumerate(benchmark.images):
        film = _film(image)
        if isinstance(film, Unreadable):
            problems.append(film)
        elif (frame := frames.get(k)) and frame != (film.height, film.width):
            problems.append(_other_size(image.name, film, frame))
        progress(k + 1)
    return problems


def batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield lists of at most ``size`` items (``itertools.batched`` needs Python 3.12)."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _film(image: BenchmarkImage) -> Radiograph | Unreadable:
    try:
        return image.film()
    except (RadiographError, BenchmarkError, OSError) as error:
        return Unreadable(image.name, str(error))


def _other_size(name: str, film: Radiograph, frame: tuple[int, int]) -> Unreadable:
    return Unreadable(
        name,
        f"{name}: is {film.height} x {film.width}, and its boxes or mask are drawn on {frame[0]} x {frame[1]}; take "
        "the original image",
    )


def run_benchmark(
    benchmark: Benchmark,
    model: ZeroShotModel,
    folder: Path,
    *,
    command: Sequence[str] = (),
    skip_unreadable: bool = False,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """Ask a model every sentence about every image, and measure its maps.

    Args:
        benchmark: benchmark to run.
        model: model to ask.
        folder: folder of the run; a run of the same model and benchmark there is resumed.
        command: command line that started the run, for the record.
        skip_unreadable: leave out, and record, images that are missing or cannot be read; otherwise they are an error.
        workers: number of threads that read images ahead.
        progress: called with the number of images done.

    Returns:
        The folder.

    Raises:
        BenchmarkError: when an image is missing, cannot be read or is of another size than its boxes or mask, or the
            folder holds another run; the message names it.
        ValueError: when a score is not finite.
    """
    if benchmark.missing and not skip_unreadable:
        names = benchmark.missing
        raise BenchmarkError(
            f"{benchmark.name}: {len(names)} of {len(benchmark.images)} images are missing, {names[0]} for one; "
            "--skip-unreadable scores without them"
        )
    asked = benchmark.without(benchmark.missing)
    identity = {
        "benchmark": benchmark.name,
        "images": len(benchmark.images),
        "data": fingerprint(benchmark),
        "model": model.name,
        "sha256": model.sha256,
    }
    note = folder / "run.json"
    if claim(note, identity, error=BenchmarkError) and (folder / "scores.parquet").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        **identity,
        "classes": dict(zip(benchmark.classes, (benchmark.sentences[k] for k in benchmark.prompts), strict=True)),
        "tasks": list(benchmark.tasks),
        "averaged": benchmark.averaged,
        "contrasts": {
            label: {
                name: benchmark.sentences[k]
                for name, k in (("denied", c.denied), ("right", c.right), ("left", c.left))
                if k is not None
            }
            for label, c in benchmark.contrasts.items()
        },
        "missing": list(benchmark.missing),
        "versions": {
            "radzero": radzero.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "command": list(command),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_whole(note, json.dumps(record, indent=1).encode())
    _answer(asked, model, folder / "parts", skip_unreadable, workers, progress)
    _merge(asked, folder)
    return folder


def unanswered(folder: Path) -> list[str]:
    """Return the names of the images that a finished run left out because they were missing or unreadable."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return [*record["missing"], *(name for name, _ in record["unreadable"])]


def fingerprint(benchmark: Benchmark) -> str:
    """Return a hash of the images' names and patients, and of sentences, truth, regions, sides and strata."""
    digest = hashlib.sha256()
    for image in benchmark.images:
        digest.update(f"{image.name}\t{image.patient}\n".encode())
    digest.update("\n".join(benchmark.sentences).encode())
    digest.update(benchmark.truth.tobytes())
    for region in benchmark.regions:
        digest.update(repr((region.image, region.sentence, region.label, region.boxes)).encode())
    for known in (benchmark.sides, benchmark.strata):
        digest.update(b"" if known is None else "\t".join(known.ravel().tolist()).encode())
    return digest.hexdigest()


def _answer(
    benchmark: Benchmark,
    model: ZeroShotModel,
    parts: Path,
    skip_unreadable: bool,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    parts.mkdir(exist_ok=True)
    count = len(benchmark.images)
    starts = [first for first in range(0, count, _PART) if not (parts / f"{first:07d}.npz").exists()]
    done = count - sum(min(_PART, count - first) for first in starts)
    progress(done)
    embedded = model.embed_sentences(benchmark.sentences) if starts else None
    by_image: dict[int, list[Region]] = {}
    for region in benchmark.regions:
        by_image.setdefault(region.image, []).append(region)
    with ThreadPoolExecutor(workers) as readers:

        def ahead(first: int) -> list[Any]:
            return [readers.submit(_film, image) for image in benchmark.images[first : first + _PART]]

        waiting = [ahead(first) for first in starts[:1]]
        for position, first in enumerate(starts):
            films = [future.result() for future in waiting.pop(0)]
            if position + 1 < len(starts):
                waiting.append(ahead(starts[position + 1]))
            part = _Part(benchmark, model, embedded, by_image)
            read: list[tuple[int, Radiograph]] = []
            for index, film in enumerate(films, start=first):
                if isinstance(film, Unreadable):
                    if not skip_unreadable:
                        raise BenchmarkError(f"{film.reason} --skip-unreadable scores without it")
                    part.unreadable.append(film)
                else:
                    read.append((index, film))
            for _, alike in groupby(read, key=lambda pair: (pair[1].height, pair[1].width)):
                for batch in batched(alike, _BATCH):
                    part.take([index for index, _ in batch], [film for _, film in batch])
            part.write(parts / f"{first:07d}.npz")
            done += len(films)
            progress(done)


class _Part:
    """Answers and measurements of some images, which become one file of ``parts/``."""

    def __init__(
        self,
        benchmark: Benchmark,
        model: ZeroShotModel,
        embedded: Any,
        by_image: dict[int, list[Region]],
    ) -> None:
        self.benchmark, self.model, self.embedded, self.by_image = benchmark, model, embedded, by_image
        self.unreadable: list[Unreadable] = []
        self.images: list[int] = []
        self.logits: list[npt.NDArray[np.float32]] = []
        self.regions: list[dict[str, Any]] = []
        self.sweeps: list[npt.NDArray[np.float64]] = []
        self.empty: list[tuple[int, int, float]] = []  # image, sentence, highest map value where a sentence is not true
        self.pixels: dict[int, PixelHistogram] = {}

    def take(self, indices: list[int], films: list[Radiograph]) -> None:
        """Ask the model about images of one size."""
        seen = self.model.embed_images(films)
        logits = self.model.logits(seen, self.embedded)
        for row, (index, film) in enumerate(zip(indices, films, strict=True)):
            self._take(index, film, seen, row, None if logits is None else logits[row])

    def _take(self, index: int, film: Radiograph, seen: Any, place: int, row: Logits | None) -> None:
        benchmark, model = self.benchmark, self.model
        self.images.append(index)
        if row is None:
            row = np.full(len(benchmark.sentences), np.nan, dtype=np.float32)
        elif not np.isfinite(row).all():
            bad = benchmark.sentences[int(np.flatnonzero(~np.isfinite(row))[0])]
            raise ValueError(f"{benchmark.images[index].name}: {model.name} gives {bad!r} a score that is not finite")
        self.logits.append(row)
        if not {"pointing", "segmentation"} & set(benchmark.tasks):
            return
        regions = self.by_image.get(index, [])
        for region in regions:
            if region.frame and region.frame != (film.height, film.width):
                raise BenchmarkError(_other_size(benchmark.images[index].name, film, region.frame).reason)
        wanted = {region.sentence for region in regions}
        if "segmentation" in benchmark.tasks:
            wanted |= {benchmark.prompts[k] for k in range(len(benchmark.classes)) if benchmark.truth[index, k] == 0}
        for sentence in sorted(wanted):
            values = model.raw_map(seen, self.embedded, place, sentence)
            if values is None:
                continue
            if values.shape != (film.height, film.width):
                raise ValueError(f"{model.name}: a map of {values.shape} for a film of {(film.height, film.width)}")
            self._measure(index, sentence, values, [r for r in regions if r.sentence == sentence])

    def _measure(self, index: int, sentence: int, values: npt.NDArray[np.float32], regions: list[Region]) -> None:
        looked = np.isfinite(values)
        lowest = np.where(looked, values, -np.float32(1e4))
        y, x = np.unravel_index(int(np.argmax(lowest)), values.shape)
        map_ = sigmoid(lowest)
        loaded = [None if r.mask is None else r.mask.load(*values.shape) for r in regions]
        masks = [mask for mask in loaded if mask is not None]
        for region, mask in zip(regions, loaded, strict=True):
            self.regions.append(
                {
                    "image": index,
                    "sentence": sentence,
                    "label": region.label,
                    "x": int(x),
                    "y": int(y),
                    "hit": pointing_hit((int(x), int(y)), region.boxes) if region.boxes else None,
                    "cnr": None if mask is None else contrast_to_noise(values[looked], mask[looked]),
                    "iou": None if mask is None else mean_iou(map_, mask),
                }
            )
            self.sweeps.append(np.full(101, np.nan) if mask is None else dice_sweep(map_, mask))
        if "segmentation" in self.benchmark.tasks:
            whole = np.logical_or.reduce(masks) if masks else np.zeros(values.shape, dtype=bool)
            if masks or not regions:
                self.pixels.setdefault(sentence, PixelHistogram()).add(lowest, whole)
            if not regions:
                self.empty.append((index, sentence, float(map_.max())))

    def write(self, path: Path) -> None:
        """Write the part, whole or not at all."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                images=np.array(self.images, dtype=np.int64),
                logits=np.array(self.logits, dtype=np.float32).reshape(len(self.images), -1),
                sweeps=np.array(self.sweeps).reshape(len(self.sweeps), 101),
                regions=np.array(json.dumps(self.regions)),
                empty=np.array(self.empty, dtype=np.float64).reshape(-1, 3),
                histogram_of=np.array(sorted(self.pixels), dtype=np.int64),
                histograms=np.array([self.pixels[k].counts for k in sorted(self.pixels)]),
                unreadable=np.array(json.dumps([[u.name, u.reason] for u in self.unreadable])),
            )


def _merge(benchmark: Benchmark, folder: Path) -> None:
    """Merge the parts into the run's tables, and delete them."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("scores are kept as Parquet: pip install 'radzero[evaluate]'") from error
    regions: list[dict[str, Any]] = []
    extra = {"side": benchmark.sides, "stratum": benchmark.strata}
    known = {name: values for name, values in extra.items() if values is not None and (values != "").any()}
    sweeps, empty, unreadable = [], [], []
    histograms: dict[int, npt.NDArray[np.int64]] = {}
    schema = pa.schema(
        [
            ("image", pa.string()),
            ("patient", pa.string()),
            ("sentence", pa.string()),
            ("truth", pa.int8()),
            *((name, pa.string()) for name in known),
            ("logit", pa.float32()),
        ]
    )
    with replacing(folder / "scores.parquet") as temporary:  # its presence means that the run is whole
        with parquet.ParquetWriter(temporary, schema) as writer:
            for path in sorted((folder / "parts").glob("*.npz")):
                with np.load(path) as part:
                    images = [benchmark.images[k] for k in part["images"]]
                    truth = np.full((len(images), len(benchmark.sentences)), -1, dtype=np.int8)
                    if benchmark.classes:
                        truth[:, list(benchmark.prompts)] = benchmark.truth[part["images"]]
                    names = {}
                    for name, values in known.items():
                        names[name] = np.full(truth.shape, "", dtype=object)
                        names[name][:, list(benchmark.prompts)] = values[part["images"]]
                    logits = part["logits"]
                    count = len(benchmark.sentences)
                    writer.write_table(
                        pa.table(
                            {
                                "image": [image.name for image in images for _ in range(count)],
                                "patient": [image.patient for image in images for _ in range(count)],
                                "sentence": list(benchmark.sentences) * len(images),
                                "truth": truth.reshape(-1),
                                **{name: values.reshape(-1) for name, values in names.items()},
                                "logit": logits.reshape(-1),
                            },
                            schema=schema,
                        )
                    )
                    regions += json.loads(str(part["regions"]))
                    sweeps.append(part["sweeps"])
                    empty.append(part["empty"])
                    unreadable += json.loads(str(part["unreadable"]))
                    for sentence, counts in zip(part["histogram_of"].tolist(), part["histograms"], strict=True):
                        histograms[sentence] = histograms.get(sentence, 0) + counts
        dice = np.concatenate(sweeps) if sweeps else np.empty((0, 101))
        table = {
            "image": [benchmark.images[r["image"]].name for r in regions],
            "patient": [benchmark.images[r["image"]].patient for r in regions],
            "sentence": [benchmark.sentences[r["sentence"]] for r in regions],
            **{key: [r[key] for r in regions] for key in ("label", "x", "y", "hit", "cnr", "iou")},
            "dice": [row.tolist() for row in dice],
        }
        parquet.write_table(pa.table(table), folder / "regions.parquet")
        nothing = np.concatenate(empty) if empty else np.empty((0, 3))
        with (folder / "pixels.npz").open("wb") as file:
            np.savez_compressed(
                file,
                sentences=np.array([benchmark.sentences[k] for k in sorted(histograms)], dtype=np.str_),
                counts=np.array([histograms[k] for k in sorted(histograms)]),
                empty_image=np.array([benchmark.images[int(k)].name for k in nothing[:, 0]], dtype=np.str_),
                empty_sentence=np.array([benchmark.sentences[int(k)] for k in nothing[:, 1]], dtype=np.str_),
                empty_highest=nothing[:, 2],
            )
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record["unreadable"] = unreadable
        write_whole(folder / "run.json", json.dumps(record, indent=1).encode())
    shutil.rmtree(folder / "parts")
