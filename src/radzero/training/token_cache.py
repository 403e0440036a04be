"""Keep a frozen vision encoder's tokens on disk, so that twenty epochs do not compute them twenty times.

A folder holds ``cache.json``, which names the encoder, preprocessing and images of the tokens, and shards of 256
images. A shard has the tokens as raw bfloat16 in ``tokens-*.bin``, and a CRC-32 of each image's tokens in
``tokens-*.json``, which is written last, so that its presence shows that the shard is whole. The tokens of an image are
checked against their CRC-32 when they are read.
"""

import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from radzero._files import claim, replacing, write_whole
from radzero.errors import RadZeroError
from radzero.models.base import VisionLanguageModel
from radzero.training.batches import Item, Key, ManifestDataset, Unreadable, loader

_SHARD = 256


class TokenCacheError(RadZeroError, RuntimeError):
    """The cache cannot be made or read; the message says what to do."""


class TokenCache:
    """Tokens (T, D) of the images of a split, in a folder.

    Args:
        folder: folder of the cache.
        films: the images.
        model: model whose vision encoder makes the tokens.

    Raises:
        TokenCacheError: when the folder holds the tokens of another encoder, preprocessing or list of images.
    """

    def __init__(self, folder: Path, films: ManifestDataset, model: VisionLanguageModel) -> None:
        self.folder, self.images = folder, len(films)
        grid = model.token_grid(films.processor.geometry((1024, 1024)).input)
        self.shape = (model.prefix_tokens + math.prod(grid), model.config.vision_config.hidden_size)
        identity = {
            "encoder": _hash_of(model),
            "preprocessing": json.loads(films.processor.image_processor.to_json_string()),
            "images": _names(films),
            "shape": list(self.shape),
            "dtype": "bfloat16",
        }
        note = folder / "cache.json"
        remedy = "name another folder in data.token_cache, or delete this one"
        claim(note, identity, holds="tokens of another run", remedy=remedy, error=TokenCacheError)
        self._note, self._identity = note, identity
        self._sums: dict[int, list[int | str]] = {}

    @property
    def needed(self) -> int:
        """Size of the missing shards, in bytes."""
        missing = sum(min(_SHARD, self.images - k * _SHARD) for k in self._missing())
        return missing * self._bytes

    @property
    def _bytes(self) -> int:
        """Size of one image's tokens, in bytes."""
        return 2 * self.shape[0] * self.shape[1]

    def _shards(self) -> range:
        return range(-(-self.images // _SHARD))

    def _missing(self) -> list[int]:
        return [k for k in self._shards() if not self._path(k, "json").exists()]

    def _path(self, shard: int, suffix: str) -> Path:
        return self.folder / f"tokens-{shard:06d}.{suffix}"

    def fill(
        self,
        films: ManifestDataset,
        model: VisionLanguageModel,
        *,
        images_per_pass: int = 64,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        precision: str = "bf16",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Compute the missing shards; after an interrupt, call again to resume after the last whole shard.

        Args:
            films, model: as on construction; the model is on the device that computes.
            images_per_pass: number of images that are encoded at a time.
            workers: number of processes that decode.
            rank, world: rank of this process and number of ranks; every rank computes each ``world``-th missing shard.
            precision: "bf16" (autocast) or "fp32"; tokens are stored as bfloat16 in any case.
            progress: called with the number of this rank's images that are done, and of all that it computes.

        Raises:
            TokenCacheError: when the disk is too small, with the size that is needed, or a shard cannot be written.
        """
        missing = self._missing()
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if self.needed > 0.98 * free:
            raise TokenCacheError(
                f"{self.folder}: the tokens of {self.images:,} images take {self.needed / 1e9:,.1f} GB more, and "
                f"{free / 1e9:,.1f} GB are free. Name a folder on a larger disk (data.token_cache), or train without it"
            )
        write_whole(self._note, json.dumps(self._identity, indent=1).encode())
        own = missing[rank::world]
        total = sum(min(_SHARD, self.images - k * _SHARD) for k in own)
        done, training = 0, model.training
        model.eval()
        for shard in own:
            first = shard * _SHARD
            indices = range(first, min(first + _SHARD, self.images))
            self._write(shard, _encode(films, model, indices, images_per_pass, workers, precision))
            done += len(indices)
            progress(done, total)
        model.train(training)

    def _write(self, shard: int, tokens: "list[Tensor | str]") -> None:
        sums: list[int | str] = []
        try:
            with replacing(self._path(shard, "bin")) as temporary, temporary.open("wb") as file:
                for one in tokens:
                    if isinstance(one, str):
                        sums.append(one)
                        file.write(bytes(self._bytes))
                        continue
                    content = one.view(torch.int16).numpy().tobytes()
                    sums.append(zlib.crc32(content))
                    file.write(content)
            write_whole(self._path(shard, "json"), json.dumps(sums).encode())
        except OSError as error:
            raise TokenCacheError(
                f"{self.folder}: a shard cannot be written ({error}). Make room and run the same command again"
            ) from error

    def read(self, index: int) -> Tensor | str:
        """Return the tokens (T, D) of an image in bfloat16, or the reason why the image cannot be read.

        Raises:
            TokenCacheError: when the tokens are damaged.
        """
        shard, row = divmod(index, _SHARD)
        if shard not in self._sums:
            self._sums[shard] = json.loads(self._path(shard, "json").read_text(encoding="utf-8"))
        expected = self._sums[shard][row]
        if isinstance(expected, str):
            return expected
        path = self._path(shard, "bin")
        with path.open("rb") as file:
            file.seek(row * self._bytes)
            content = file.read(self._bytes)
        if zlib.crc32(content) != expected:
            raise TokenCacheError(
                f"{path}: is damaged (image {index}). Delete it and {path.with_suffix('.json').name}, and run the same "
                "command again: the shard is computed anew"
            )
        values = np.frombuffer(bytearray(content), dtype=np.int16)
        return torch.from_numpy(values).view(torch.bfloat16).reshape(self.shape)


def _hash_of(model: VisionLanguageModel) -> str:
    """Return a hash of the vision encoder: its weights, its configuration, and how it interpolates positions."""
    digest = hashlib.sha256(model.config.vision_config.to_json_string().encode())
    digest.update(str(model.config.position_rule).encode())
    for name, tensor in sorted(model.vision_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _names(films: ManifestDataset) -> str:
    """Return a hash of the paths of the images, in their order."""
    digest = hashlib.sha256()
    for index in range(len(films)):
        digest.update(str(films.manifest.image(index)).encode() + b"\n")
    return digest.hexdigest()


@torch.no_grad()
def _encode(
    films: ManifestDataset,
    model: VisionLanguageModel,
    indices: range,
    images_per_pass: int,
    workers: int,
    precision: str,
) -> "list[Tensor | str]":
    """Return the tokens of these images on the CPU; for an image that cannot be read, the reason."""
    device = next(model.parameters()).device
    batches = [
        [(0, index) for index in indices[k : k + images_per_pass]] for k in range(0, len(indices), images_per_pass)
    ]
    encoded: dict[int, Tensor | str] = {}
    for wanted, batch in zip(batches, loader(films, batches, workers=workers), strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = model.vision_tokens(batch.pixel_values.to(device)) if batch.films else ()
        encoded.update(zip(batch.films, (t.to(torch.bfloat16).cpu() for t in tokens), strict=True))
        reasons = iter(batch.unreadable)
        encoded.update({index: next(reasons).reason for _, index in wanted if index not in encoded})
    return [encoded[index] for index in indices]


class CachedDataset(Dataset[Item | Unreadable]):
    """The images of a manifest as vision tokens, (T, D) in place of (C, H, W).

    Args:
        films: the images, for their sentences.
        cache: cache that has been filled.
    """

    def __init__(self, films: ManifestDataset, cache: TokenCache) -> None:
        self.films, self.cache, self.processor = films, cache, films.processor

    def __len__(self) -> int:
        return len(self.films)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (T, D) of an image's tokens."""
        return self.cache.shape

    def __getitem__(self, key: Key) -> Item | Unreadable:
        tokens = self.cache.read(key[1])
        if isinstance(tokens, str):
            return Unreadable(str(self.films.manifest.image(key[1])), tokens)
        return Item(key[1], tokens, self.films.sentences(key))
