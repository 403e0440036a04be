"""Share among the routes: the engine, the images that are kept, and the checks of sentences."""

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from fastapi import HTTPException

from radzero.findings import finding_sentences
from radzero.images import RadiographError
from radzero.prediction.model import RadZero
from radzero.service import metrics as prometheus
from radzero.service.engine import BoundedCache, EncodedFilm, Engine
from radzero.service.messages import MOST_NAMES, FilmMessage
from radzero.service.settings import ServiceSettings


@dataclass(frozen=True, eq=False)
class KeptFilm:
    """An image that is kept to be asked about more than once; ``sha256`` is the hash of its file's bytes."""

    name: str
    sha256: str
    film: EncodedFilm

    @property
    def bytes(self) -> int:
        """Memory that the image holds, in bytes."""
        return self.film.bytes + 20_000


class Service:
    """State that the routes share: the engine, the images that are kept, and the counters."""

    def __init__(self, model: RadZero, settings: ServiceSettings) -> None:
        self.model, self.settings = model, settings
        self.metrics = prometheus.Metrics()
        self.engine = Engine(
            model,
            max_batch=settings.max_batch,
            batch_wait_s=settings.batch_wait_s,
            decoders=settings.decoders,
            patience_s=settings.time_limit_s,
            limits=settings.read_limits,
            cache_bytes=settings.cache_bytes // 2,
            on_batch=self.metrics.batch.observe,
        )
        self.films: BoundedCache[KeptFilm] = BoundedCache(settings.cache_bytes // 2)
        self.stopping = False
        self.sha256 = model.sha256  # read now, because the files may change or vanish later

    def sentences(self, sentences: Sequence[str], findings: Sequence[str]) -> list[str]:
        """Return the sentences to ask, those of finding sets included, each once.

        Raises:
            HTTPException: with status 422 when they are not valid, and 413 when they are too many or too long.
        """
        if len(sentences) > MOST_NAMES or len(findings) > MOST_NAMES:
            raise refusal(413, "too_many_sentences", f"at most {MOST_NAMES} in a request, equal ones included")
        try:
            asked = [*sentences, *(text for name in dict.fromkeys(findings) for text in finding_sentences(name))]
        except ValueError as error:
            raise refusal(422, "unknown_findings", str(error)) from error
        asked = list(dict.fromkeys(text.strip() for text in asked))
        if not asked or not all(asked):
            raise refusal(422, "no_sentence", "ask at least one sentence, and none that is empty")
        if any("\x00" in text or not _encodes(text) for text in asked):
            raise refusal(422, "bad_sentence", "a sentence holds characters that are no text")
        limits = self.settings
        if len(asked) > limits.max_sentences:
            raise refusal(413, "too_many_sentences", f"at most {limits.max_sentences} sentences at once")
        if max(map(len, asked)) > limits.max_sentence_characters:
            raise refusal(413, "long_sentence", f"a sentence has at most {limits.max_sentence_characters} characters")
        return asked

    async def encode(self, content: bytes, name: str, *, keep_stored: bool = False) -> EncodedFilm:
        """Encode the image of an upload; an image that is refused is counted."""
        try:
            return await self.engine.encode(content, name, keep_stored=keep_stored)
        except RadiographError as error:
            self.metrics.refused.labels(error.reason.value).inc()
            raise

    async def keep(self, content: bytes, name: str) -> tuple[str, KeptFilm]:
        """Encode an image and keep it under an identity that nobody can guess; return both.

        Raises:
            HTTPException: with status 413 when the image is larger than the cache.
        """
        film = await self.encode(content, name, keep_stored=True)
        sha256 = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        kept = KeptFilm(name, sha256, film)
        identity = secrets.token_urlsafe(18)
        if not self.films.put(identity, kept):
            raise refusal(413, "too_large", "the film takes more memory than this service keeps for films")
        return identity, kept

    def kept(self, identity: str) -> KeptFilm:
        """Return an image that is kept.

        Raises:
            HTTPException: with status 404 when it is not kept, or not any more.
        """
        kept = self.films.take(identity)
        if kept is None:
            raise refusal(404, "no_such_film", "this film is not kept (any more); send it again")
        return kept


def film_message(identity: str, kept: KeptFilm) -> FilmMessage:
    """Make the message about an image that is kept."""
    seen, stored = kept.film.seen, kept.film.stored
    facts = None
    if seen.dicom:
        said = asdict(replace(seen.dicom, window=None, lut=None, padding_range=None))
        facts = {key: value for key, value in said.items() if value is not None}
    window = stored.window if stored else None
    return FilmMessage(
        id=identity,
        film=kept.name,
        sha256=kept.sha256,
        size=list(seen.film.shape),
        warnings=list(seen.warnings),
        dicom=facts,
        window=asdict(window) if window else None,
        inverted=stored.inverted if stored else False,
        spacing=list(kept.film.spacing) if kept.film.spacing else None,
    )


def refusal(status: int, code: str, message: str) -> HTTPException:
    """Make an error that is answered with this status, code and message."""
    return HTTPException(status, {"code": code, "message": message})


def safe_name(filename: str | None) -> str:
    """Return a name for messages: the last part of the name that was sent, printable, and of at most 120 characters.

    No file of this name is ever opened.
    """
    last = os.path.basename((filename or "").replace("\\", "/"))
    return re.sub(r"[^\w .()+,=@-]", "_", last)[:120].strip() or "film"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
