"""Put any model into the benchmarks: the protocol that it must follow, RadZero itself, and scores made elsewhere."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from radzero.images import Radiograph
from radzero.images.geometry import Geometry
from radzero.prediction.maps import MapGrid
from radzero.prediction.model import RadZero

Logits = npt.NDArray[np.float32]


class ZeroShotModel(Protocol):
    """The methods that a benchmark needs of a model.

    Sentences are embedded once per run and images once each; ``logits`` and ``raw_map`` then only compare. A model
    without scores returns None from ``logits``, and one without maps None from ``raw_map``; the tasks that need them
    are left out.

    Attributes:
        name: name of the model, for tables.
        sha256: SHA-256 of its weights, or "".
    """

    name: str
    sha256: str

    def embed_sentences(self, sentences: Sequence[str]) -> Any:
        """Embed sentences, in any form that the model's other methods take."""
        ...

    def embed_images(self, films: Sequence[Radiograph]) -> Any:
        """Embed a batch of images, in any form that the model's other methods take."""
        ...

    def logits(self, images: Any, sentences: Any) -> Logits | None:
        """Return (B, N) scores, higher for present; their sigmoid is the probability."""
        ...

    def raw_map(self, images: Any, sentences: Any, film: int, sentence: int) -> Logits | None:
        """Return (H, W) values at the image's own size, whose sigmoid is the map in 0..1.

        Values are NaN where the model did not see the image.
        """
        ...


@dataclass
class _Seen:
    films: Sequence[Radiograph]
    tokens: Any
    geometries: list[Geometry]
    similarity: npt.NDArray[np.float32] | None = field(default=None)


class RadZeroInBenchmark:
    """A model of :func:`radzero.load`, of any method, as :class:`ZeroShotModel`.

    Args:
        model: from :func:`radzero.load`.
    """

    def __init__(self, model: RadZero) -> None:
        self.model, self.name, self.sha256 = model, model.name, model.sha256

    def embed_sentences(self, sentences: Sequence[str]) -> Any:
        """Return the sentences' (N, D) embeddings."""
        return self.model.embed_sentences(sentences)

    def embed_images(self, films: Sequence[Radiograph]) -> _Seen:
        """Return the images' patch tokens, and where each image lies in the model's input."""
        tokens, geometries = self.model.embed_films(films)
        return _Seen(films, tokens, geometries)

    def logits(self, images: _Seen, sentences: Any) -> Logits:
        """Return the (B, N) logits, already divided by the temperature."""
        logits, images.similarity = self.model.compare(images.tokens, sentences)
        return logits

    def raw_map(self, images: _Seen, sentences: Any, film: int, sentence: int) -> Logits | None:
        """Return the upsampled patch similarities, or None for a model without maps.

        For a model whose maps are attention, return the logarithm of the upsampled attention over its mean.
        """
        if not self.model.model.has_maps:
            return None
        if images.similarity is None:
            self.logits(images, sentences)
        assert images.similarity is not None
        network, geometry = self.model.model, images.geometries[film]
        values = images.similarity[film, sentence].reshape(1, *network.token_grid(geometry.input))
        return MapGrid(values, geometry, network.patch, self.model.maps_are_attention).raw(0)


class ScoresFromFile:
    """Scores of a model that ran elsewhere: a CSV or Parquet table with columns image, sentence, score.

    Args:
        path: file of the table.
        name: name of the model; the file's stem when empty.

    Raises:
        ValueError: when a column is missing, a score is not a finite number, or a pair is given twice.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.name, self.sha256 = name or path.stem, hashlib.sha256(path.read_bytes()).hexdigest()
        self.path = path
        self.scores: dict[tuple[str, str], float] = {}
        for line, (image, sentence, score) in enumerate(_rows(path), start=2):
            try:
                value = float(score)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: row {line}: {score!r} is no number") from error
            if not np.isfinite(value):
                raise ValueError(f"{path}: row {line}: the score of {image} is {value}")
            if (image, sentence) in self.scores:
                raise ValueError(f"{path}: row {line}: {image} and {sentence!r} have a score already")
            self.scores[image, sentence] = value

    def embed_sentences(self, sentences: Sequence[str]) -> list[str]:
        """Return the sentences themselves."""
        return list(sentences)

    def embed_images(self, films: Sequence[Radiograph]) -> list[str]:
        """Return the names of the images' files."""
        return [film.source for film in films]

    def logits(self, images: list[str], sentences: list[str]) -> Logits:
        """Return the (B, N) scores of the table.

        Raises:
            ValueError: when a pair has no score; the message names the first one.
        """
        out = np.empty((len(images), len(sentences)), dtype=np.float32)
        for row, image in enumerate(images):
            for column, sentence in enumerate(sentences):
                keys = ((image, sentence), (Path(image).name, sentence), (Path(image).stem, sentence))
                found = next((self.scores[key] for key in keys if key in self.scores), None)
                if found is None:
                    raise ValueError(f"{self.path}: has no score of {Path(image).name} with {sentence!r}")
                out[row, column] = found
        return out

    def raw_map(self, images: list[str], sentences: list[str], film: int, sentence: int) -> None:
        """Return None: a table has no maps."""


def _rows(path: Path) -> list[tuple[str, str, Any]]:
    needed = ("image", "sentence", "score")
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError(f"{path}: Parquet needs pyarrow: pip install 'radzero[data]'") from error
        table = parquet.read_table(path)
        if missing := [name for name in needed if name not in table.column_names]:
            raise ValueError(f"{path}: there is no column {missing[0]!r}")
        return list(zip(*(table[name].to_pylist() for name in needed), strict=True))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: there is no column {missing[0]!r}")
        return [(row["image"], row["sentence"], row["score"]) for row in reader]


PLUGINS = "radzero.zero_shot"
"""Entry-point group in which a package offers models to ``radzero evaluate --plugin``."""


def plugin(name: str) -> ZeroShotModel:
    """Return a model that an installed package offers: its entry point, called without arguments, returns the model.

    Raises:
        ValueError: when no installed package offers a model of this name.
    """
    offered = {entry.name: entry for entry in entry_points(group=PLUGINS)}
    if name not in offered:
        known = ", ".join(sorted(offered)) or "none"
        raise ValueError(f"no installed package offers a model {name!r} (entry points {PLUGINS}); there are: {known}")
    model: ZeroShotModel = offered[name].load()()
    return model
