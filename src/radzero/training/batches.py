"""Make a rank's batches from a manifest; worker processes decode the images.

The content of a batch depends on the seed, the epoch and the step alone, so that a run can resume at any step and with
another number of workers. Every epoch gives each image to exactly one rank.
"""

import json
import math
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from radzero._files import write_whole
from radzero._processes import end_with_parent
from radzero.errors import RadZeroError
from radzero.images import Radiograph, RadiographError, read_radiograph
from radzero.models.processor import RadZeroProcessor
from radzero.training.manifest import Manifest

Key = tuple[int, int]
"""Epoch, and index of an image among the films."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of an image; none by default, as published. Images are not mirrored, since sentences name sides.

    Attributes:
        shift: largest shift, as a share of the side.
        scale: largest relative change of size; 0.1 for 0.9 to 1.1.
        rotate: largest rotation in degrees.
        gamma: largest change of the natural logarithm of gamma.
        contrast: largest relative change of the distance of grey values from mid-grey.
        brightness: largest change of grey values, as a share of their range.
    """

    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    gamma: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < (180 if name == "rotate" else 1):
                raise ValueError(
                    f"augmentation.{name} must be between 0 and {180 if name == 'rotate' else 1}, not {value}"
                )

    def film(self, film: Radiograph, rng: np.random.Generator) -> Radiograph:
        """Return the radiograph with its grey values changed."""
        if not (self.gamma or self.contrast or self.brightness):
            return film
        gamma = math.exp(rng.uniform(-self.gamma, self.gamma))
        contrast = 1 + rng.uniform(-self.contrast, self.contrast)
        brightness = rng.uniform(-self.brightness, self.brightness)
        pixels = np.clip((film.pixels**gamma - 0.5) * contrast + 0.5 + brightness, 0.0, 1.0)
        return replace(film, pixels=pixels.astype(np.float32))

    def placed(self, values_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        """Return an input shifted, rotated and scaled; the border is repeated where the image does not reach."""
        if not (self.shift or self.scale or self.rotate):
            return values_CHW
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        size = 1 + rng.uniform(-self.scale, self.scale)
        dy, dx = rng.uniform(-2 * self.shift, 2 * self.shift, 2)
        height, width = values_CHW.shape[-2:]
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        theta = torch.tensor(
            [[cos, -sin * height / width, dx], [sin * width / height, cos, dy]], dtype=values_CHW.dtype
        )
        grid = F.affine_grid(theta[None], [1, *values_CHW.shape], align_corners=False)
        return F.grid_sample(values_CHW[None], grid, padding_mode="border", align_corners=False)[0]


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and the reason."""

    image: str
    reason: str


@dataclass(frozen=True)
class Item:
    """An image (C, H, W), its number among the films, and its sentences."""

    film: int
    pixel_values: Tensor
    sentences: tuple[str, ...]


class TrainingDataset(Protocol):
    """Interface of images as a model's inputs.

    Attributes:
        processor: processor of the model.
        shape: shape of an item's pixel values.
    """

    processor: RadZeroProcessor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an item's pixel values."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key) -> Item | Unreadable: ...


class ManifestDataset(Dataset[Item | Unreadable]):
    """The images of a manifest as a model's inputs.

    Args:
        manifest: manifest of the images.
        processor: processor of the model.
        augmentation: random changes of the images; None for none.
        one_sentence: whether an item has one random sentence of its image instead of all of them.
        seed: seed of the random changes and of the choice of a sentence.
    """

    def __init__(
        self,
        manifest: Manifest,
        processor: RadZeroProcessor,
        augmentation: Augmentation | None = None,
        *,
        one_sentence: bool = False,
        seed: int = 0,
    ) -> None:
        self.manifest, self.processor, self.augmentation = manifest, processor, augmentation or Augmentation()
        self.one_sentence, self.seed = one_sentence, seed

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (3, H, W) of the model's inputs; H and W are in pixels."""
        return (3, *self.processor.geometry((1024, 1024)).input)

    def __getitem__(self, key: Key) -> Item | Unreadable:
        _, index = key
        rng = self._chance(key)
        path = self.manifest.image(index)
        try:
            film = self.augmentation.film(read_radiograph(path), rng)
        except (RadiographError, OSError) as error:
            return Unreadable(str(path), str(error))
        values = self.augmentation.placed(self.processor.films([film])[0][0], rng)
        return Item(index, values, self.sentences(key))

    def _chance(self, key: Key, kind: int = 3) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind, *key])

    def sentences(self, key: Key) -> tuple[str, ...]:
        """Return an image's sentences in an epoch: all of them, or one at random."""
        sentences = self.manifest.sentences(key[1])
        if self.one_sentence:
            sentences = [sentences[int(self._chance(key, 4).integers(len(sentences)))]]
        return tuple(sentences)


class EpochPlan(Sampler[list[Key]]):
    """Plan which images a rank takes at each step; a plan can begin at any step and spans epochs.

    An epoch is one order of all images, cut into batches of ``images_per_rank`` times ``world`` images. The last batch
    has the images that are left, spread evenly over the ranks, so that a rank may get fewer images, or none.

    Args:
        images: number of images.
        images_per_rank: number of images that a rank takes at a step.
        rank: rank of this process.
        world: number of ranks.
        seed: seed of the order.
        first, last: steps of the plan, counted over all epochs, ``last`` excluded.
        first_epoch: number of the epoch of step 0.
        shuffle: whether each epoch has a random order; False for validation.
    """

    def __init__(
        self,
        images: int,
        images_per_rank: int,
        *,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        first: int = 0,
        last: int,
        first_epoch: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.images, self.batch = images, images_per_rank * world
        self.rank, self.world, self.seed, self.shuffle = rank, world, seed, shuffle
        self.first, self.last, self.first_epoch = first, last, first_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self.images / self.batch)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        known, order = -1, np.arange(self.images)
        for step in range(self.first, self.last):
            epoch, number = divmod(step + self.first_epoch * self.steps_per_epoch, self.steps_per_epoch)
            if self.shuffle and epoch != known:
                known, order = epoch, np.random.default_rng([self.seed, 1, epoch]).permutation(self.images)
            batch = order[number * self.batch : (number + 1) * self.batch]
            yield [(epoch, int(index)) for index in np.array_split(batch, self.world)[self.rank]]


@dataclass(frozen=True)
class FilmBatch:
    """A rank's share of a batch.

    Attributes:
        pixel_values: (b, C, H, W) images.
        texts: the U distinct sentences.
        input_ids, attention_mask: (U, S) tokens of ``texts``.
        text_n: (n,) index of each sentence in ``texts``.
        owner_n: (n,) index of the image that states each sentence, counted over this rank's images.
        films: numbers of the images among the films.
        unreadable: images that could not be read, and so are not in the batch.
    """

    pixel_values: Tensor
    texts: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    text_n: Tensor
    owner_n: Tensor
    films: list[int]
    unreadable: list[Unreadable]


@dataclass(frozen=True)
class Collate:
    """Put items together as a batch; the sentences are tokenised in the worker process."""

    processor: RadZeroProcessor
    shape: tuple[int, ...]

    def __call__(self, items: Sequence[Item | Unreadable]) -> FilmBatch:
        """Put the readable items of a batch together."""
        read = [item for item in items if isinstance(item, Item)]
        texts: dict[str, int] = {}
        text_n = [texts.setdefault(text, len(texts)) for item in read for text in item.sentences]
        owner_n = [row for row, item in enumerate(read) for _ in item.sentences]
        if texts:
            encoded = self.processor.sentences(list(texts))
            ids, mask = encoded["input_ids"], encoded["attention_mask"]
        else:
            ids = mask = torch.empty(0, 1, dtype=torch.long)
        return FilmBatch(
            torch.stack([item.pixel_values for item in read]) if read else torch.empty(0, *self.shape),
            list(texts),
            ids,
            mask,
            torch.tensor(text_n, dtype=torch.long),
            torch.tensor(owner_n, dtype=torch.long),
            [item.film for item in read],
            [item for item in items if isinstance(item, Unreadable)],
        )


def loader(films: TrainingDataset, plan: Iterable[list[Key]], *, workers: int) -> "DataLoader[Any]":
    """Return a loader of the batches of a plan, in the plan's order.

    Args:
        films: the images.
        plan: keys of the images of each batch.
        workers: number of processes that decode; 0 decodes in this process. At most two batches per worker are held.
    """
    return DataLoader(
        films,  # type: ignore[arg-type]
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=Collate(films.processor, films.shape),
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_end_with_parent,
        prefetch_factor=2 if workers else None,
    )


def _worker_context() -> BaseContext:
    """Return the multiprocessing context of the loader's processes.

    A loader starts its processes anew for every stage of a run and every shard of a token cache, and each import of
    torch and transformers takes four seconds of a core. On Linux they are therefore forked from a server process that
    has imported this module once; it is a fresh Python without threads or GPU. Elsewhere each is a fresh Python:
    Windows cannot fork, and libraries of macOS may crash after a fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    multiprocessing.set_forkserver_preload([__name__])
    return multiprocessing.get_context("forkserver")


def _end_with_parent(worker: int) -> None:
    end_with_parent()  # PyTorch watches the process that forked a worker, which is a server and not its parent


class TooManyUnreadableError(RadZeroError, RuntimeError):
    """More images than the stated share cannot be read."""


@dataclass
class Quarantine:
    """Name the images that could not be read in a file, count them, and end the run if they are too many.

    Attributes:
        path: JSON Lines file, with one line per unreadable image and its reason.
        share: share (0..1) of the images seen that may be unreadable; three unreadable images never end the run.
        seen: number of images seen so far.
        names: path -> reason of each unreadable image.
    """

    path: Path
    share: float = 0.01
    seen: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():  # the run resumes; the image of a torn line is met again
            lines = [
                line for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1:] == "\n"
            ]
            write_whole(self.path, "".join(lines).encode())
            self.names |= {item["image"]: item["reason"] for item in map(json.loads, lines)}

    def take(self, batch: FilmBatch) -> None:
        """Count the images of a batch, and name the unreadable ones in the file.

        Raises:
            TooManyUnreadableError: when too many are unreadable; the message names the file and the first reasons.
        """
        self.seen += len(batch.pixel_values) + len(batch.unreadable)
        for item in batch.unreadable:
            if item.image in self.names:
                continue
            self.names[item.image] = item.reason
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"image": item.image, "reason": item.reason}) + "\n")
        if len(self.names) > max(3, self.share * self.seen):  # a few at the beginning are not yet a share
            reasons = "\n".join(f"  {reason}" for reason in list(self.names.values())[:3])
            raise TooManyUnreadableError(
                f"{len(self.names)} of {self.seen} images cannot be read, more than {self.share:.1%}; they are named "
                f"in {self.path}. Mend or remove them, or allow a larger share. The first:\n{reasons}"
            )
