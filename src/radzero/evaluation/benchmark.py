"""Define a benchmark (images, sentences, and which image shows what and where), and find and read its files."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from radzero.errors import RadZeroError
from radzero.evaluation.masks import MaskSource
from radzero.images import Radiograph, read_radiograph
from radzero.images.formats import image_files

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the original image."""


class BenchmarkError(RadZeroError, ValueError):
    """The files are not what the benchmark needs; the message names them and says what to do."""


@dataclass(frozen=True)
class BenchmarkImage:
    """An image of a benchmark.

    Attributes:
        name: name of the image in the benchmark's table.
        patient: patient whose image it is, for resampling; the image's own name where the patient is not known.
        path: file of the image; None where it is missing, or where ``make`` is given.
        make: function that returns an image that is not stored in a file.
    """

    name: str
    patient: str
    path: Path | None
    make: Callable[[], Radiograph] | None = None

    def film(self) -> Radiograph:
        """Read the radiograph.

        Raises:
            RadiographError: see :func:`radzero.read_radiograph`.
            BenchmarkError: when there is no file.
        """
        if self.make is not None:
            return self.make()
        if self.path is None:
            raise BenchmarkError(f"{self.name}: there is no such image")
        return read_radiograph(self.path)


@dataclass(frozen=True)
class Region:
    """Part of an image of which a sentence is true.

    Attributes:
        image, sentence: indices of the image and of the sentence in the benchmark.
        label: class or phrase that the region counts for.
        boxes: boxes for the pointing game, in pixels of the original image.
        mask: mask for Dice and pixel AUC; None where there are boxes only.
        frame: height and width, in pixels, of the image that boxes and mask are drawn on; None where it is not stated.
    """

    image: int
    sentence: int
    label: str
    boxes: tuple[Box, ...] = ()
    mask: MaskSource | None = None
    frame: tuple[int, int] | None = None


@dataclass(frozen=True)
class Contrast:
    """Other sentences about a class; their scores are compared with its prompt's and with each other.

    Attributes:
        denied: index of "There is no X".
        right, left: indices of "There is right X" and "There is left X"; None where no image shows X on one side only.
    """

    denied: int
    right: int | None = None
    left: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """A zero-shot benchmark, read and ready to be run.

    Attributes:
        name: name of the protocol.
        images: the M images, in the order of the benchmark's table.
        sentences: the frozen prompts.
        classes: names of the K classes, as in the tables.
        prompts: (K,) index of the sentence that asks for each class.
        truth: (M, K) 1 for present, 0 for absent, -1 for unknown (left out of scoring).
        regions: regions for the tasks "pointing" and "segmentation".
        tasks: some of "classification", "pointing", "segmentation".
        averaged: whether the pointing game is a mean over classes ("classes") or over pairs ("pairs").
        sides: (M, K) "right" or "left" where a finding is known to be on one side only, else "".
        strata: (M, K) name of a group of positives that is also scored on its own ("subtle"), else "".
        contrasts: contrary sentences by class, see :func:`radzero.evaluation.contrasts.with_contrasts`.
    """

    name: str
    images: tuple[BenchmarkImage, ...]
    sentences: tuple[str, ...]
    classes: tuple[str, ...] = ()
    prompts: tuple[int, ...] = ()
    truth: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty((0, 0), dtype=np.int8))
    regions: tuple[Region, ...] = ()
    tasks: tuple[str, ...] = ("classification",)
    averaged: str = "classes"
    sides: npt.NDArray[np.str_] | None = None
    strata: npt.NDArray[np.str_] | None = None
    contrasts: dict[str, Contrast] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.classes and self.truth.shape != (len(self.images), len(self.classes)):
            raise ValueError(f"truth must be ({len(self.images)}, {len(self.classes)}), not {self.truth.shape}")
        if names := [name for name, count in Counter(i.name for i in self.images).items() if count > 1]:
            raise BenchmarkError(f"{self.name}: {len(names)} images are listed twice, {names[0]} for one")

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the images whose file does not exist."""
        return tuple(image.name for image in self.images if image.path is None and image.make is None)

    def counts(self) -> dict[str, int]:
        """Count what is compared with the published numbers: images, classes, and any positive images and regions."""
        counted = {"images": len(self.images), "classes": len(self.classes)}
        if self.classes:
            counted["positive images"] = int((self.truth == 1).any(axis=1).sum())
        if self.regions:
            counted["regions"] = len(self.regions)
        return counted

    def without(self, names: Iterable[str]) -> "Benchmark":
        """Return the benchmark without the images of these names."""
        left_out = set(names)
        kept = [k for k, image in enumerate(self.images) if image.name not in left_out]
        place = {old: new for new, old in enumerate(kept)}
        return replace(
            self,
            images=tuple(self.images[k] for k in kept),
            truth=self.truth[kept] if self.classes else self.truth,
            sides=None if self.sides is None else self.sides[kept],
            strata=None if self.strata is None else self.strata[kept],
            regions=tuple(replace(r, image=place[r.image]) for r in self.regions if r.image in place),
        )


class BenchmarkModule(Protocol):
    """A module of :mod:`radzero.evaluation.public`."""

    NAME: str
    """Name of the benchmark, as in the registry."""
    SOURCE: str
    """Publisher and address of the files."""
    LAYOUT: str
    """Layout of the files in the folder."""
    PUBLISHED: dict[str, int]
    """Counts of the published files, as :meth:`Benchmark.counts` returns them."""
    FINDINGS: tuple[str, ...]
    """Finding set of ``radzero predict --findings NAME``; empty where the benchmark's files name the findings."""

    def read(self, data: Path) -> Benchmark:
        """Read the benchmark's files."""
        ...


# -- files -----------------------------------------------------------------------------------------------


class ImageFolder:
    """Index the image files below a folder by file name and by stem.

    Args:
        data: the folder.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in image_files(data):
            self._by_name.setdefault(path.name, []).append(path)
            self._by_stem.setdefault(path.stem, []).append(path)

    def find(self, name: str) -> Path | None:
        """Return the file of an image that a table names, or None.

        The name is tried as a path below the folder, then as a file name, then as one with another suffix.

        Raises:
            BenchmarkError: when several files match.
        """
        exact = self.data / name
        if exact.is_file():
            return exact
        last = Path(name.replace("\\", "/"))
        for found in (self._by_name.get(last.name), self._by_stem.get(last.stem), self._by_stem.get(last.name)):
            if found:
                if len(found) > 1:
                    raise BenchmarkError(
                        f"{name}: there are {len(found)} such files, {found[0]} and {found[1]}; keep one"
                    )
                return found[0]
        return None


def the_file(data: Path, *patterns: str, what: str) -> Path:
    """Return the one file below a folder that matches the first pattern with any match.

    Raises:
        BenchmarkError: when the folder does not exist, no file matches, or several match that pattern.
    """
    if not data.is_dir():
        raise BenchmarkError(f"{data}: there is no such folder")
    for pattern in patterns:
        found = sorted(path for path in data.rglob(pattern) if path.is_file())
        if len(found) > 1:
            raise BenchmarkError(
                f"{data}: has {len(found)} files {pattern}, {found[0].name} and {found[1].name}; keep one"
            )
        if found:
            return found[0]
    raise BenchmarkError(f"{data}: there is no {what} ({' or '.join(patterns)})")


def rows_of(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file with a header, without the spaces around headers and values.

    Raises:
        BenchmarkError: when a needed column is missing, a row is not valid CSV, or a row is cut before a needed column.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in needed if name not in header]:
            raise BenchmarkError(f"{path}: there is no column {missing[0]!r}; it has {', '.join(header)}")
        try:
            for row in reader:
                if not row:
                    continue
                values = dict(zip(header, (value.strip() for value in row), strict=False))
                if missing := [name for name in needed if name not in values]:
                    raise BenchmarkError(
                        f"{path}: line {reader.line_num} ends before column {missing[0]!r}; fetch the file anew"
                    )
                yield values
        except csv.Error as error:
            raise BenchmarkError(f"{path}: line {reader.line_num}: {error}") from error


def json_of(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        BenchmarkError: when the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path}: is no JSON: {error}") from error


def number(path: Path, where: str, text: str) -> float:
    """Return a table's text as a finite number.

    Raises:
        BenchmarkError: when it is not a finite number; the message names the file and ``where`` (the row).
    """
    try:
        value = float(text)
    except ValueError as error:
        raise BenchmarkError(f"{path}: {where}: {text!r} is no number; take the published table") from error
    if not np.isfinite(value):
        raise BenchmarkError(f"{path}: {where}: {text!r} is no finite number; take the published table")
    return value


def one_hot(rows: Sequence[Iterable[str]], classes: Sequence[str]) -> npt.NDArray[np.int8]:
    """Return an (M, K) array with 1 for the classes that each row names, and 0 for the others."""
    place = {name: k for k, name in enumerate(classes)}
    truth = np.zeros((len(rows), len(classes)), dtype=np.int8)
    for k, names in enumerate(rows):
        for name in names:
            truth[k, place[name]] = 1
    return truth


def there_is(findings: Sequence[str]) -> tuple[str, ...]:
    """Return the prompts that CARZero's files use: ``There is {finding}``."""
    return tuple(f"There is {finding}" for finding in findings)
