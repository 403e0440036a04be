"""Open what a run trains on: the images of a manifest, or phantoms with freshly worded sentences."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from radzero.images import Radiograph
from radzero.models.processor import RadZeroProcessor
from radzero.phantom.sentences import every_sentence, holds, training_sentences
from radzero.training.batches import Item, Key, ManifestDataset
from radzero.training.config import DataChoice, PhantomChoice
from radzero.training.manifest import EmptySplitError, Manifest
from radzero.training.phantom_pool import PhantomPool, build_pool
from radzero.training.vocabulary import phantom_words, words_of

NOTICE = "Trained on synthetic phantoms only: for demonstration, not for real radiographs."


class Source(Protocol):
    """Interface of the source of a run's images.

    Attributes:
        card: entries of a checkpoint's model card about its training data.
    """

    card: dict[str, Any]

    def words(self) -> Iterable[str]:
        """Return every word that the source's sentences may have."""
        ...

    def films(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> "ManifestDataset | PhantomDataset":
        """Return the images to train on."""
        ...

    def validation(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> ManifestDataset | None:
        """Return the images to validate on, or None; each has one sentence, or all, as in training."""
        ...


class ManifestSource:
    """The train and validate splits of a manifest.

    Args:
        path: path of the manifest.
        expected: number of images that its train split must have; 0 for any number.
        texts, views: see :class:`~radzero.training.config.DataChoice`.

    Raises:
        ValueError: when the train split has another number of images.
    """

    def __init__(self, path: Path, expected: int = 0, texts: str = "findings", views: str = "all") -> None:
        self.manifest, self.texts, self.views = Manifest(path, "train", texts, views), texts, views
        if expected and len(self.manifest) != expected:
            raise ValueError(
                f"{path}: its train split has {len(self.manifest):,} images, and the recipe expects {expected:,} "
                "(data.expected_images); give data.expected_images=0 to train on what is there"
            )
        self.card = {"data": f"{len(self.manifest)} images of {path.name}"}

    def words(self) -> Iterable[str]:
        """Return the words of the train split's sentences."""
        return words_of(text for k in range(len(self.manifest)) for text in self.manifest.sentences(k))

    def films(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> ManifestDataset:
        """Return the train split."""
        one = choice.sentences == "one"
        return ManifestDataset(self.manifest, processor, choice.augmentation, one_sentence=one, seed=seed)

    def validation(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> ManifestDataset | None:
        """Return the validate split, or None if it is empty; where images have one sentence, it is always the same."""
        one = choice.sentences == "one"
        try:
            split = Manifest(self.manifest.path, "validate", self.texts, self.views)
            return ManifestDataset(split, processor, one_sentence=one, seed=seed)
        except EmptySplitError:
            return None


class PhantomSource:
    """Phantoms, drawn into a folder.

    Args:
        choice: choice of the phantoms.
        size: side in pixels.
        folder: folder that they are drawn into.
        workers: number of processes that draw.
        progress: called with the number of phantoms drawn.
    """

    def __init__(
        self,
        choice: PhantomChoice,
        size: int,
        folder: Path,
        *,
        workers: int = 2,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.pool = build_pool(
            folder, films=choice.films, seed=choice.seed, size=size, workers=workers, progress=progress
        )
        self.card = {
            "data": f"{choice.films} synthetic phantoms, radzero phantom seed {choice.seed}",
            "licence": "Apache-2.0",
            "film_seed": choice.seed,
            "notice": NOTICE,
        }

    def words(self) -> Iterable[str]:
        """Return the words of every sentence about phantoms."""
        return phantom_words()

    def films(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> "PhantomDataset":
        """Return all phantoms."""
        return PhantomDataset(self.pool, processor, choice, seed)

    def validation(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> None:
        """Return None, since ``radzero evaluate phantom`` measures on phantoms of another seed."""


class PhantomDataset(Dataset[Item]):
    """Phantoms as a model's inputs, with other sentences each epoch.

    Args:
        pool: pool of the phantoms.
        processor: processor of the model.
        choice: choice of the augmentation and of the sentences.
        seed: seed of both.
    """

    def __init__(self, pool: PhantomPool, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> None:
        assert choice.phantoms is not None
        self.pool, self.processor, self.augmentation, self.seed = pool, processor, choice.augmentation, seed
        self.negations, self.one_sentence = choice.phantoms.negations, choice.sentences == "one"

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (3, H, W) of the model's inputs; H and W are in pixels."""
        return (3, *self.processor.geometry((1024, 1024)).input)

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        rng = np.random.default_rng([self.seed, 3, epoch, index])
        pixels = self.pool.pixels(index).astype(np.float32) / np.float32(255)
        film = Radiograph(pixels, source=f"phantom {index}")
        values = self.augmentation.placed(self.processor.films([self.augmentation.film(film, rng)])[0][0], rng)
        said = [s.text for s in training_sentences(self.pool.findings[index], rng, self.negations)]
        if self.one_sentence and said:
            said = [said[int(rng.integers(len(said)))]]
        return Item(index, values, tuple(said))

    def is_true(self, index: int, text: str) -> bool:
        """Return whether a sentence is true of a phantom, whether or not its sentences state it."""
        return holds(every_sentence()[text], self.pool.findings[index])


def open_source(
    choice: DataChoice,
    size: int,
    run: Path,
    *,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Source:
    """Open what a run trains on.

    Args:
        choice: choice of the training data.
        size: side of the model's inputs in pixels.
        run: folder of the run; phantoms are drawn into its folder ``films``.
        workers, progress: as in :class:`PhantomSource`.

    Raises:
        ValueError: when the manifest cannot be read, or the folder holds phantoms of another seed.
    """
    if choice.phantoms is None:
        return ManifestSource(Path(choice.manifest), choice.expected_images, choice.texts, choice.views)
    return PhantomSource(choice.phantoms, size, run / "films", workers=workers, progress=progress)
