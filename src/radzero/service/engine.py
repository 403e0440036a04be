"""Run the model in one thread of its own; a pool decodes images, and images of many requests share a pass.

    bytes -> decode, preprocess (threads) -> [queue] -> encode in batches, compare (the model's thread) -> Reading

A request waits for a fuller batch only while other images are being decoded, and no longer than ``batch_wait_s``, so
that a single request is answered as fast as without batching.
"""

import asyncio
import hashlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from pydicom.dataset import Dataset
from torch import Tensor

from radzero.images import Radiograph, RadiographError, ReadLimits, Reason, read_radiograph
from radzero.images.radiograph import StoredFilm
from radzero.prediction.model import RadZero
from radzero.prediction.reading import EmbeddedFilm, Reading
from radzero.results.header import ResultError, result_header

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class EncodedFilm:
    """An image that the vision encoder has seen, with all that further sentences need.

    Attributes:
        tokens: (T, D) image features, on the model's device.
        seen: facts of the image that readings repeat.
        stored: values before the window, when they were asked for.
        header: part of the header that DICOM results repeat; None for an image that can have no DICOM results.
        spacing: millimetres between rows and between columns, or None.
    """

    tokens: Tensor
    seen: EmbeddedFilm
    stored: StoredFilm | None
    header: Dataset | None = None
    spacing: tuple[float, float] | None = None

    @property
    def bytes(self) -> int:
        """Memory that the image holds, in bytes."""
        stored = self.stored.words.nbytes + self.stored.values.nbytes + self.stored.table.nbytes if self.stored else 0
        lut = self.seen.dicom.lut.entries.nbytes if self.seen.dicom and self.seen.dicom.lut else 0
        said = sum(map(len, self.seen.warnings))
        luts = self.header.get("ModalityLUTSequence", ()) if self.header else ()
        said += sum(len(item.LUTData) for item in luts)
        return self.tokens.numel() * self.tokens.element_size() + self.seen.film.nbytes + stored + lut + said


class Sized(Protocol):
    """An object that knows how much memory it holds."""

    @property
    def bytes(self) -> int:
        """Memory that the object holds, in bytes."""
        ...


S = TypeVar("S", bound=Sized)


class BoundedCache(OrderedDict[str, S]):
    """Keep the most recently used objects by a key, up to a limit in bytes.

    Only one thread, that of the event loop, may use it.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.held = limit, 0

    def put(self, key: str, film: S) -> bool:
        """Keep an object, and drop those that were used longest ago; return False when it alone exceeds the limit."""
        self.drop(key)
        if film.bytes > self.limit:
            return False
        self[key] = film
        self.held += film.bytes
        while self.held > self.limit:
            self.held -= self.popitem(last=False)[1].bytes
        return True

    def take(self, key: str) -> S | None:
        """Return the object of a key, which becomes the most recently used one, or None."""
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def drop(self, key: str) -> bool:
        """Drop an object, and return whether it was there."""
        film = self.pop(key, None)
        self.held -= film.bytes if film else 0
        return film is not None


@dataclass(eq=False)
class _Job:
    """Work for the model's thread: an image to encode, or one to ask about."""

    sentences: tuple[str, ...]
    pixels: Tensor | None = None
    film: EncodedFilm | None = None
    answer: "Future[Any]" = field(default_factory=Future)


@dataclass(eq=False)
class EngineCounts:
    """Number of passes, of images in them, and of hits and misses of the cache, since an engine began."""

    batches: int = 0
    films: int = 0
    hits: int = 0
    misses: int = 0


def _single_threads(max_batch: int) -> ThreadPoolExecutor | None:
    """Return a pool of as many threads as torch uses, in each of which torch uses one thread only.

    Return None where torch uses one thread, or a batch holds at most one image.
    """
    count = torch.get_num_threads()
    if min(count, max_batch) == 1:
        return None

    def begin() -> None:
        torch.get_num_threads()  # at its first use a thread takes the process's number, so its own is set after that
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(count, thread_name_prefix="encode", initializer=begin)
    started = threading.Barrier(count)
    list(pool.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(count)  # for this thread, and for later ones
    return pool


def _header(film: Radiograph) -> Dataset | None:
    """Return the part of an image's header that DICOM results repeat, or None where it can have no results.

    A request for results then says why.
    """
    try:
        return result_header(film.header, film.source) if film.header else None
    except (RadiographError, ResultError):
        return None


class Engine:
    """A model behind a queue. Its coroutines must be called from one event loop.

    Args:
        model: model that answers; nothing else may use it meanwhile.
        max_batch: largest number of images per pass.
        batch_wait_s: seconds that a pass waits for images that are being decoded.
        decoders: number of threads that decode.
        patience_s: seconds after which a decoder that is busy with one image counts as stuck; the engine is not alive
            when all decoders are stuck.
        limits: limits on the files that are read.
        cache_bytes: size in bytes of the cache of images, which are found by their content.
        on_batch: called with the number of images of every pass.
    """

    def __init__(
        self,
        model: RadZero,
        *,
        max_batch: int = 16,
        batch_wait_s: float = 0.005,
        decoders: int = 2,
        patience_s: float = 60.0,
        limits: ReadLimits | None = None,
        cache_bytes: int = 2**29,
        on_batch: Callable[[int], None] = lambda films: None,
    ) -> None:
        self.model = model
        self.counts = EngineCounts()
        self._max_batch, self._wait, self._limits, self._on_batch = max_batch, batch_wait_s, limits, on_batch
        self._cache: BoundedCache[EncodedFilm] = BoundedCache(cache_bytes)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._decoding = 0
        self._begun: dict[int, float] = {}  # thread -> time (monotonic, seconds) when it began with an image
        self._decoders, self._patience = decoders, patience_s
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._drawing = ThreadPoolExecutor(decoders, thread_name_prefix="draw")
        self._in_flight = asyncio.Semaphore(4 * max_batch)
        self._encoders = _single_threads(max_batch) if model.device.type == "cpu" else None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def encode(self, content: bytes, name: str, *, keep_stored: bool = False) -> EncodedFilm:
        """Return the encoded image of a file's bytes, from the cache when the same bytes were read before.

        Raises:
            RadiographError: when the bytes are not a readable radiograph.
        """
        key = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        known = self._cache.take(key)
        if known is not None and (known.stored is not None or not keep_stored):
            self.counts.hits += 1
            return known
        self.counts.misses += 1
        async with self._in_flight:  # images that are decoded and wait take memory
            self._decoding += 1
            try:
                decode = asyncio.get_running_loop().run_in_executor
                pixels, unencoded = await decode(self._pool, self._decode, content, name, keep_stored)
            finally:
                self._decoding -= 1
            encoded = replace(unencoded, tokens=await self._submit(_Job((), pixels=pixels)))
        self._cache.put(key, encoded)
        return encoded

    async def ask(self, film: EncodedFilm, sentences: Sequence[str], name: str) -> Reading:
        """Ask sentences about an image, and return the reading."""
        reading: Reading = await self._submit(_Job(tuple(sentences), film=film))
        return replace(reading, source=name)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run other slow work (drawing, DICOM) in its own pool, so that it never delays decoding."""
        return await asyncio.get_running_loop().run_in_executor(self._drawing, work, *arguments)

    def close(self) -> None:
        """End the threads after the work that they have begun, but do not wait while an image is being decoded."""
        self._jobs.put(None)
        self._thread.join(self._patience)
        for pool in (self._pool, self._drawing):
            pool.shutdown(wait=not self.works_on, cancel_futures=True)
        if self._encoders is not None:
            self._encoders.shutdown(wait=not self._thread.is_alive())

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs, and a decoder is free or busy with its image for ``patience_s`` at most."""
        now = time.monotonic()
        stuck = sum(now - begun > self._patience for begun in list(self._begun.values()))
        return self._thread.is_alive() and stuck < self._decoders

    @property
    def works_on(self) -> bool:
        """Whether any decoder is busy."""
        return bool(self._begun)

    @property
    def cached_bytes(self) -> int:
        """Memory that the cache of images holds, in bytes."""
        return self._cache.held

    # -- decoding threads ------------------------------------------------------------------------------

    def _decode(self, content: bytes, name: str, keep_stored: bool) -> tuple[Tensor, EncodedFilm]:
        """Return the model's input (3, H, W), and the image without tokens."""
        self._begun[threading.get_ident()] = time.monotonic()
        try:
            film = read_radiograph(content, limits=self._limits, name=name, keep_stored=keep_stored, keep_header=True)
            pixels, geometries = self.model.processor.films([film])
        except MemoryError as error:
            raise RadiographError(name, Reason.TOO_LARGE, "not enough memory for it", "Send a smaller film") from error
        finally:
            del self._begun[threading.get_ident()]
        seen = EmbeddedFilm(name, film.to_uint8(), geometries[0], film.warnings, film.dicom)
        return pixels[0], EncodedFilm(torch.empty(0), seen, film.stored, _header(film), film.spacing)

    # -- the model's thread ----------------------------------------------------------------------------

    async def _submit(self, job: _Job) -> Any:
        self._jobs.put(job)
        return await asyncio.wrap_future(job.answer)

    def _work(self) -> None:
        going_on = True
        while going_on:
            first = self._jobs.get()
            if first is None:
                return
            batch, going_on = self._collect(first)
            batch = [job for job in batch if job.answer.set_running_or_notify_cancel()]
            self._encode([job for job in batch if job.pixels is not None])
            self._ask([job for job in batch if job.film is not None])

    def _collect(self, first: _Job) -> tuple[list[_Job], bool]:
        """Return the jobs of one pass, and whether another pass follows."""
        batch, until = [first], time.monotonic() + self._wait
        while len(batch) < self._max_batch:
            try:
                waiting = until - time.monotonic() if self._decoding else 0.0
                job = self._jobs.get(timeout=waiting) if waiting > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, False
            batch.append(job)
        return batch, True

    def _encode(self, jobs: Sequence[_Job]) -> None:
        shapes: dict[tuple[int, ...], list[_Job]] = {}
        for job in jobs:
            assert job.pixels is not None
            shapes.setdefault(tuple(job.pixels.shape), []).append(job)
        for alike in shapes.values():
            self._answer(alike, self._encode_alike)

    def _encode_alike(self, jobs: Sequence[_Job]) -> list[Tensor]:
        tokens = self._tokens(torch.stack([job.pixels for job in jobs if job.pixels is not None]))
        self.counts.batches += 1
        self.counts.films += len(jobs)
        self._on_batch(len(jobs))
        return [part.clone() for part in tokens]  # in the cache, a view of a batch would keep the whole batch in memory

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Return the tokens of a batch; on a CPU each thread encodes a share of its own."""
        if self._encoders is None or len(pixels) == 1:
            return self.model.embed_pixels(pixels)
        shares = torch.tensor_split(pixels, min(torch.get_num_threads(), len(pixels)))
        return torch.cat(list(self._encoders.map(self.model.embed_pixels, shares)))

    def _ask(self, jobs: Sequence[_Job]) -> None:
        asked: dict[tuple[Any, ...], list[_Job]] = {}
        for job in jobs:
            assert job.film is not None
            asked.setdefault((job.sentences, job.film.tokens.shape), []).append(job)
        for alike in asked.values():
            self._answer(alike, self._ask_alike)

    def _ask_alike(self, jobs: Sequence[_Job]) -> list[Reading]:
        films = [job.film for job in jobs if job.film is not None]
        tokens = torch.stack([film.tokens for film in films])
        return self.model.answer(tokens, [film.seen for film in films], jobs[0].sentences)

    @staticmethod
    def _answer(jobs: Sequence[_Job], work: Callable[[Sequence[_Job]], list[Any]]) -> None:
        """Do jobs together; when that fails, do each alone, so that no job fails because of another."""
        try:
            for job, answer in zip(jobs, work(jobs), strict=True):
                job.answer.set_result(answer)
        except Exception as error:  # any error is the answer to its own request, and the thread goes on
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                Engine._answer([job], work)
