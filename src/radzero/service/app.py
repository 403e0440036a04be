"""The REST API: what is asked over HTTP, checked and handed to the engine."""

import asyncio
import hashlib
import io
import math
import os
import re
import secrets
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from starlette.exceptions import HTTPException as StarletteHTTPException

from radzero import __version__
from radzero.findings import FINDING_SETS, finding_sentences
from radzero.images import RadiographError, Reason
from radzero.prediction.model import RadZero
from radzero.prediction.reading import PNG_LEVEL
from radzero.results import ResultError, make_possible_results, read_header, result_kinds
from radzero.service import metrics as prometheus
from radzero.service.engine import BoundedCache, EncodedFilm, Engine
from radzero.service.gate import Gate
from radzero.service.messages import (
    MOST_NAMES,
    BatchItem,
    BatchMessage,
    FilmMessage,
    ModelMessage,
    PictureQuestion,
    Problem,
    Question,
    ReadingMessage,
    Refusal,
    ResultQuestion,
)
from radzero.service.pixels import pack_pixels
from radzero.service.settings import ServiceSettings

_CODES = {400: "bad_request", 401: "no_token", 404: "not_found", 405: "not_allowed", 413: "too_large", 429: "busy"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal, "description": text}
    for code, text in (
        (400, "The request is malformed."),
        (401, "A token is needed."),
        (403, "A page of another site asked."),
        (405, "The path takes another method."),
        (413, "The request, the film or the number of sentences is too large."),
        (421, "The Host header names another host."),
        (422, "The film cannot be read, or a value is not valid; nothing was done."),
        (429, "Too many requests are waiting; try again after Retry-After seconds."),
        (503, "The service is stopping."),
        (504, "The request took longer than the time limit."),
    )
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "The film is not kept (any more)."}
}

_ZIP = {
    "content": {"application/zip": {}},
    "headers": {
        "radzero-left-out": {
            "description": "Kinds that the film cannot have; left-out.txt says why.",
            "schema": {"type": "string"},
        }
    },
}


@dataclass(frozen=True, eq=False)
class KeptFilm:
    """A film that was sent to be asked more than once; ``sha256`` is of the file's bytes."""

    name: str
    sha256: str
    film: EncodedFilm
    header: Dataset | None
    spacing: tuple[float, float] | None

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        luts = self.header.get("ModalityLUTSequence", ()) if self.header else ()
        return self.film.bytes + 20_000 + sum(len(item.LUTData) for item in luts)


class Service:
    """What the routes share."""

    def __init__(self, reader: RadZero, settings: ServiceSettings) -> None:
        self.reader, self.settings = reader, settings
        self.metrics = prometheus.Metrics()
        self.engine = Engine(
            reader,
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
        self.sha256 = reader.sha256  # now: the files may be others, or gone, when somebody asks

    def sentences(self, sentences: Sequence[str], findings: Sequence[str]) -> list[str]:
        """What is asked, checked.

        Raises:
            HTTPException: 422 or 413.
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
        """A film from an upload, counted when it is refused."""
        try:
            return await self.engine.encode(content, name, keep_stored=keep_stored)
        except RadiographError as error:
            self.metrics.refused.labels(error.reason.value).inc()
            raise

    async def keep(self, content: bytes, name: str) -> tuple[str, KeptFilm]:
        """Read a film and keep it under a name that nobody can guess."""
        film = await self.encode(content, name, keep_stored=True)
        try:
            header = await self.engine.run(_header, content, film)
        except (RadiographError, ResultError):
            header = None  # no results in DICOM can be made of it, which `results` says
        sha256 = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        kept = KeptFilm(name, sha256, film, header, _spacing(header))
        identity = secrets.token_urlsafe(18)
        if not self.films.put(identity, kept):
            raise refusal(413, "too_large", "the film takes more memory than this service keeps for films")
        return identity, kept

    def kept(self, identity: str) -> KeptFilm:
        """A film that was kept.

        Raises:
            HTTPException: 404.
        """
        kept = self.films.take(identity)
        if kept is None:
            raise refusal(404, "no_such_film", "this film is not kept (any more); send it again")
        return kept


def create_app(reader: RadZero, settings: ServiceSettings | None = None) -> FastAPI:
    """The application; ``app.state.service`` is its :class:`Service`.

    Args:
        reader: the model, which from now on only the service may use.
        settings: limits and access.
    """
    settings = settings or ServiceSettings()
    service = Service(reader, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        await asyncio.to_thread(service.engine.close)

    app = FastAPI(
        title="RadZero",
        version=__version__,
        description="Ask a chest radiograph any sentence; get a probability and a similarity map.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=_REFUSALS,
    )
    app.state.service = service
    app.include_router(_routes(service))
    _answer_errors(app)
    app.add_middleware(Gate, settings=settings, metrics=service.metrics)
    return app


def _routes(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    Film = Annotated[UploadFile, File(description="DICOM, PNG, JPEG, TIFF, BMP or WebP.")]
    Sentences = Annotated[list[str], Form(description="May be repeated.", default_factory=list)]
    Findings = Annotated[list[str], Form(description="Named sets; see /v1/findings.", default_factory=list)]
    WithMaps = Annotated[bool, Query(description="Whether to send the maps' values.")]

    @routes.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/ready", tags=["operation"], responses={503: {"model": Refusal}})
    async def ready() -> dict[str, str]:
        """Whether requests are served now."""
        if service.stopping:
            raise refusal(503, "not_ready", "the service is stopping")
        if not service.engine.alive:
            raise refusal(503, "not_ready", "every decoder has been busy with one film for longer than the time limit")
        return {"status": "ready"}

    @routes.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses={200: {"content": {prometheus.CONTENT_TYPE: {}}}},
    )
    async def metrics() -> Response:
        """Counters in Prometheus' format."""
        known = service.metrics
        known.cached.labels("content").set(service.engine.cached_bytes)
        known.cached.labels("kept").set(service.films.held)
        known.hits.set(service.engine.counts.hits)
        return Response(known.text(), media_type=prometheus.CONTENT_TYPE)

    @routes.get("/model", tags=["model"])
    async def model() -> ModelMessage:
        """The model that answers."""
        reader = service.reader
        return ModelMessage(
            name=reader.name,
            method=reader.model.config.method,
            sha256=service.sha256,
            notice=reader.notice,
            has_maps=reader.model.has_maps,
            version=__version__,
        )

    @routes.get("/findings", tags=["model"])
    async def findings() -> dict[str, list[str]]:
        """Named sets of findings, each asked as "There is {finding}"."""
        return {name: list(members) for name, members in FINDING_SETS.items()}

    @routes.post("/predict", tags=["predict"])
    async def predict(file: Film, sentence: Sentences, findings: Findings, maps: WithMaps = False) -> ReadingMessage:
        """Ask one film."""
        asked = service.sentences(sentence, findings)
        name = safe_name(file.filename)
        film = await service.encode(await file.read(), name)
        return ReadingMessage.of(await service.engine.ask(film, asked, name), maps=maps)

    @routes.post("/batch", tags=["predict"])
    async def batch(
        files: Annotated[list[UploadFile], File(description="Films.")],
        sentence: Sentences,
        findings: Findings,
        maps: WithMaps = False,
    ) -> BatchMessage:
        """Ask several films the same; one that cannot be read does not stop the others."""
        asked = service.sentences(sentence, findings)
        if len(files) > service.settings.max_files:
            raise refusal(413, "too_many_films", f"a batch has at most {service.settings.max_files} films")

        async def one(file: UploadFile) -> BatchItem:
            name = safe_name(file.filename)
            try:
                film = await service.encode(await file.read(), name)
                reading = await service.engine.ask(film, asked, name)
                return BatchItem(film=name, reading=ReadingMessage.of(reading, maps=maps))
            except RadiographError as error:
                return BatchItem(film=name, error=Problem(code=error.reason.value, message=str(error)))

        return BatchMessage(films=list(await asyncio.gather(*map(one, files))))

    @routes.post("/films", status_code=201, tags=["films"])
    async def keep(file: Film) -> FilmMessage:
        """Send a film once, to ask it many times; it is kept in memory until others need the room."""
        identity, kept = await service.keep(await file.read(), safe_name(file.filename))
        return film_message(identity, kept)

    @routes.get("/films/{identity}", tags=["films"], responses=_NOT_FOUND)
    async def film(identity: str) -> FilmMessage:
        """What is known of a film that is kept."""
        return film_message(identity, service.kept(identity))

    @routes.delete("/films/{identity}", status_code=204, tags=["films"], responses=_NOT_FOUND)
    async def forget(identity: str) -> None:
        """Forget a film."""
        if not service.films.drop(identity):
            raise refusal(404, "no_such_film", "this film is not kept (any more)")

    @routes.get(
        "/films/{identity}/pixels",
        tags=["films"],
        response_class=Response,
        responses={**_NOT_FOUND, 200: {"content": {"application/octet-stream": {}}}},
    )
    async def pixels(identity: str) -> Response:
        """The film's values before the window; the format is in docs/service.md."""
        kept = service.kept(identity)
        content = await service.engine.run(pack_pixels, kept.film)
        return Response(content, media_type="application/octet-stream", headers={"cache-control": "no-store"})

    @routes.post("/films/{identity}/ask", tags=["films"], responses=_NOT_FOUND)
    async def ask(identity: str, question: Question) -> ReadingMessage:
        """Ask a film that is kept; it is not read again."""
        asked = service.sentences(question.sentences, question.findings)
        kept = service.kept(identity)
        return ReadingMessage.of(await service.engine.ask(kept.film, asked, kept.name), maps=question.maps)

    @routes.post(
        "/films/{identity}/overlay",
        tags=["films"],
        response_class=Response,
        responses={**_NOT_FOUND, 200: {"content": {"image/png": {}}}},
    )
    async def overlay(identity: str, question: PictureQuestion) -> Response:
        """The film with a sentence's map on it, as PNG."""
        asked = service.sentences([question.sentence], [])
        kept = service.kept(identity)
        reading = await service.engine.ask(kept.film, asked, kept.name)
        if reading.similarity is None:
            raise refusal(422, "no_maps", f"{reading.model} is of a method without maps")
        picture = await service.engine.run(_png, reading, question.threshold)
        return Response(picture, media_type="image/png")

    @routes.post(
        "/films/{identity}/results",
        tags=["films"],
        response_class=Response,
        responses={**_NOT_FOUND, 200: _ZIP, 501: {"model": Refusal, "description": "highdicom is not installed."}},
    )
    async def results(identity: str, question: ResultQuestion) -> Response:
        """DICOM objects of a DICOM film that is kept, as a ZIP file.

        Kinds that the film cannot have are named by the header ``radzero-left-out``; the file left-out.txt says why.
        """
        asked = service.sentences(question.sentences, [])
        kept = service.kept(identity)
        if kept.header is None:
            raise refusal(422, "no_dicom", f"{kept.name}: is no DICOM film of a study; it can have no DICOM result")
        try:
            kinds = result_kinds(question.kinds)
            if len(asked) * kept.film.seen.film.size > service.settings.max_result_values:
                most = service.settings.max_result_values // kept.film.seen.film.size
                raise refusal(413, "too_many_sentences", f"results of at most {most} sentences at once for this film")
            reading = await service.engine.ask(kept.film, asked, kept.name)
            packed, left_out = await service.engine.run(_zip, reading, kept.header, kinds, question.threshold)
        except ImportError as error:
            raise refusal(501, "not_installed", str(error)) from error
        except ValueError as error:
            raise refusal(422, "no_result", str(error)) from error
        headers = {"radzero-left-out": ",".join(left_out)} if left_out else None
        return Response(packed, media_type="application/zip", headers=headers)

    return routes


def _answer_errors(app: FastAPI) -> None:
    """Every refusal in one form, without what the request held."""

    @app.exception_handler(RadiographError)
    async def refused(request: Request, error: RadiographError) -> JSONResponse:
        status = 413 if error.reason is Reason.TOO_LARGE else 422
        return _problem(status, error.reason.value, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        return _problem(422, "invalid", said[:1000])

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> JSONResponse:
        said: Any = error.detail
        if isinstance(said, dict):
            return _problem(error.status_code, said["code"], said["message"])
        return _problem(error.status_code, _CODES.get(error.status_code, "refused"), str(error.detail), error.headers)


def _problem(status: int, code: str, message: str, headers: Any = None) -> JSONResponse:
    text = message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"code": code, "message": text}}, status_code=status, headers=headers)


def refusal(status: int, code: str, message: str) -> HTTPException:
    """An error that is answered with this status, code and message."""
    return HTTPException(status, {"code": code, "message": message})


def safe_name(filename: str | None) -> str:
    """A name for messages: the last part of what was sent, printable and short; it is never opened."""
    last = os.path.basename((filename or "").replace("\\", "/"))
    return re.sub(r"[^\w .()+,=@-]", "_", last)[:120].strip() or "film"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(content: bytes, film: EncodedFilm) -> Dataset | None:
    return read_header(content) if film.seen.dicom else None


def _spacing(header: Dataset | None) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = header.get(keyword) if header else None
        if not isinstance(value, MultiValue) or len(value) != 2:
            continue
        try:
            rows, columns = map(float, value)
        except (TypeError, ValueError):  # an empty one
            continue
        if math.isfinite(rows + columns) and min(rows, columns) > 0:
            return rows, columns
    return None


def film_message(identity: str, kept: KeptFilm) -> FilmMessage:
    """What is said of a film that is kept."""
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
        spacing=list(kept.spacing) if kept.spacing else None,
    )


def _png(reading: Any, threshold: float) -> bytes:
    buffer = io.BytesIO()
    reading.overlay(0, threshold=threshold).save(buffer, format="PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _zip(reading: Any, header: Dataset, kinds: Any, threshold: float) -> tuple[bytes, list[str]]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        made = make_possible_results(reading, header, kinds, threshold=threshold)
        if made.left_out:
            archive.writestr("left-out.txt", "\n".join(made.left_out.values()))
        for result in made.results:
            part = io.BytesIO()
            result.save_as(part, enforce_file_format=True)
            archive.writestr(
                f"{result.SeriesNumber}-{result.InstanceNumber:03d}-{result.Modality}.dcm", part.getvalue()
            )
    return buffer.getvalue(), list(made.left_out)
