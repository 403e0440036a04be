"""What a run trains on: the films of a manifest, or phantoms with freshly worded sentences."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from radzero.images import Radiograph
from radzero.models.processor import RadZeroProcessor
from radzero.phantom.sentences import every_sentence, holds, training_sentences
from radzero.training.batches import Item, Key, ManifestFilms
from radzero.training.config import DataChoice, PhantomChoice
from radzero.training.manifest import EmptySplitError, Manifest
from radzero.training.phantom_pool import PhantomPool, build_pool
from radzero.training.vocabulary import phantom_words, words_of

NOTICE = "Trained on synthetic phantoms only: for demonstration, not for real radiographs."


class Source(Protocol):
    """Where a run's films come from.

    Attributes:
        card: what a checkpoint says of its training data.
    """

    card: dict[str, Any]

    def words(self) -> Iterable[str]:
        """Every word that its sentences may have."""
        ...

    def films(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> "ManifestFilms | PhantomFilms":
        """Those to train on."""
        ...

    def validation(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> ManifestFilms | None:
        """Those to validate on, if any; with as many sentences as those to train on have."""
        ...


class ManifestSource:
    """The train and validate splits of a manifest.

    Args:
        path: of the manifest.
        expected: how many images its train split must have; 0 for any.
        texts, views: see :class:`~radzero.training.config.DataChoice`.

    Raises:
        ValueError: for another number of images.
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
        """Those of the train split's sentences."""
        return words_of(text for k in range(len(self.manifest)) for text in self.manifest.sentences(k))

    def films(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> ManifestFilms:
        """The train split."""
        one = choice.sentences == "one"
        return ManifestFilms(self.manifest, processor, choice.augmentation, one_sentence=one, seed=seed)

    def validation(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> ManifestFilms | None:
        """The validate split, if it has images; with one sentence each, where that is trained, and always the same."""
        one = choice.sentences == "one"
        try:
            split = Manifest(self.manifest.path, "validate", self.texts, self.views)
            return ManifestFilms(split, processor, one_sentence=one, seed=seed)
        except EmptySplitError:
            return None


class PhantomSource:
    """Phantoms, drawn into a folder.

    Args:
        choice: which.
        size: side in pixels.
        folder: where they are drawn.
        workers: processes that draw.
        progress: called with the number of films drawn.
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
        """Those of every sentence about phantoms."""
        return phantom_words()

    def films(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> "PhantomFilms":
        """All of them."""
        return PhantomFilms(self.pool, processor, choice, seed)

    def validation(self, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> None:
        """None: ``radzero evaluate phantom`` measures on phantoms of another seed."""


class PhantomFilms(Dataset[Item]):
    """Phantoms as a model's inputs, with other sentences each epoch.

    Args:
        pool: the films.
        processor: the model's.
        choice: augmentation, and how many negations.
        seed: of both.
    """

    def __init__(self, pool: PhantomPool, processor: RadZeroProcessor, choice: DataChoice, seed: int) -> None:
        assert choice.phantoms is not None
        self.pool, self.processor, self.augmentation, self.seed = pool, processor, choice.augmentation, seed
        self.negations, self.one_sentence = choice.phantoms.negations, choice.sentences == "one"

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W) of a model's inputs."""
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
        """Whether a sentence is true of a film, whether or not it is said."""
        return holds(every_sentence()[text], self.pool.findings[index])


def open_source(
    choice: DataChoice,
    size: int,
    run: Path,
    *,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Source:
    """What a run trains on.

    Args:
        choice: which.
        size: side of the model's inputs in pixels.
        run: phantoms are drawn into its folder ``films``.
        workers, progress: of drawing phantoms.

    Raises:
        ValueError: for a manifest that cannot be read, or films of another seed in the folder.
    """
    if choice.phantoms is None:
        return ManifestSource(Path(choice.manifest), choice.expected_images, choice.texts, choice.views)
    return PhantomSource(choice.phantoms, size, run / "films", workers=workers, progress=progress)
