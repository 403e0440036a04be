"""Define the routes of the REST API, which check requests and pass them to the engine."""

import asyncio
import io
import zipfile
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from pydicom.dataset import Dataset

from radzero import __version__
from radzero.findings import FINDING_SETS
from radzero.images import RadiographError
from radzero.images.formats import format_names
from radzero.prediction.reading import PNG_LEVEL
from radzero.results import make_possible_results, result_kinds
from radzero.service import metrics as prometheus
from radzero.service.messages import (
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
from radzero.service.service import Service, film_message, refusal, safe_name

ROUTES = APIRouter(prefix="/v1")

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


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]
Film = Annotated[UploadFile, File(description=f"{format_names()}.")]
Sentences = Annotated[list[str], Form(description="May be repeated.", default_factory=list)]
Findings = Annotated[list[str], Form(description="Named sets; see /v1/findings.", default_factory=list)]
WithMaps = Annotated[bool, Query(description="Whether to send the maps' values.")]


@ROUTES.get("/health", tags=["operation"])
async def health() -> dict[str, str]:
    """Report that the process answers."""
    return {"status": "ok"}


@ROUTES.get("/ready", tags=["operation"], responses={503: {"model": Refusal}})
async def ready(service: Here) -> dict[str, str]:
    """Report whether requests are served now."""
    if service.stopping:
        raise refusal(503, "not_ready", "the service is stopping")
    if not service.engine.alive:
        raise refusal(503, "not_ready", "every decoder has been busy with one film for longer than the time limit")
    return {"status": "ready"}


@ROUTES.get(
    "/metrics",
    tags=["operation"],
    response_class=Response,
    responses={200: {"content": {prometheus.CONTENT_TYPE: {}}}},
)
async def metrics(service: Here) -> Response:
    """Return the counters in Prometheus' format."""
    known = service.metrics
    known.cached.labels("content").set(service.engine.cached_bytes)
    known.cached.labels("kept").set(service.films.held)
    known.hits.set(service.engine.counts.hits)
    return Response(known.text(), media_type=prometheus.CONTENT_TYPE)


@ROUTES.get("/model", tags=["model"])
async def model(service: Here) -> ModelMessage:
    """Describe the model that answers."""
    return ModelMessage(
        name=service.model.name,
        method=service.model.model.config.method,
        sha256=service.sha256,
        notice=service.model.notice,
        has_maps=service.model.model.has_maps,
        version=__version__,
    )


@ROUTES.get("/findings", tags=["model"])
async def findings(service: Here) -> dict[str, list[str]]:
    """Return the named sets of findings; each finding is asked as "There is {finding}"."""
    return {name: list(members) for name, members in FINDING_SETS.items()}


@ROUTES.post("/predict", tags=["predict"])
async def predict(
    service: Here, file: Film, sentence: Sentences, findings: Findings, maps: WithMaps = False
) -> ReadingMessage:
    """Ask sentences about one film."""
    asked = service.sentences(sentence, findings)
    name = safe_name(file.filename)
    film = await service.encode(await file.read(), name)
    return ReadingMessage.of(await service.engine.ask(film, asked, name), maps=maps)


@ROUTES.post("/batch", tags=["predict"])
async def batch(
    service: Here,
    files: Annotated[list[UploadFile], File(description="Films.")],
    sentence: Sentences,
    findings: Findings,
    maps: WithMaps = False,
) -> BatchMessage:
    """Ask the same sentences about several films; a film that cannot be read does not stop the others."""
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


@ROUTES.post("/films", status_code=201, tags=["films"])
async def keep(service: Here, file: Film) -> FilmMessage:
    """Send a film once, to ask about it many times; it is kept in memory until other films need the room."""
    identity, kept = await service.keep(await file.read(), safe_name(file.filename))
    return film_message(identity, kept)


@ROUTES.get("/films/{identity}", tags=["films"], responses=_NOT_FOUND)
async def film(service: Here, identity: str) -> FilmMessage:
    """Describe a film that is kept."""
    return film_message(identity, service.kept(identity))


@ROUTES.delete("/films/{identity}", status_code=204, tags=["films"], responses=_NOT_FOUND)
async def forget(service: Here, identity: str) -> None:
    """Forget a film."""
    if not service.films.drop(identity):
        raise refusal(404, "no_such_film", "this film is not kept (any more)")


@ROUTES.get(
    "/films/{identity}/pixels",
    tags=["films"],
    response_class=Response,
    responses={**_NOT_FOUND, 200: {"content": {"application/octet-stream": {}}}},
)
async def pixels(service: Here, identity: str) -> Response:
    """Return the film's values before the window; docs/service.md describes the format."""
    kept = service.kept(identity)
    content = await service.engine.run(pack_pixels, kept.film)
    return Response(content, media_type="application/octet-stream", headers={"cache-control": "no-store"})


@ROUTES.post("/films/{identity}/ask", tags=["films"], responses=_NOT_FOUND)
async def ask(service: Here, identity: str, question: Question) -> ReadingMessage:
    """Ask sentences about a film that is kept; it is not read again."""
    asked = service.sentences(question.sentences, question.findings)
    kept = service.kept(identity)
    return ReadingMessage.of(await service.engine.ask(kept.film, asked, kept.name), maps=question.maps)


@ROUTES.post(
    "/films/{identity}/overlay",
    tags=["films"],
    response_class=Response,
    responses={**_NOT_FOUND, 200: {"content": {"image/png": {}}}},
)
async def overlay(service: Here, identity: str, question: PictureQuestion) -> Response:
    """Return the film with a sentence's map on it, as PNG."""
    asked = service.sentences([question.sentence], [])
    kept = service.kept(identity)
    reading = await service.engine.ask(kept.film, asked, kept.name)
    if reading.grid is None:
        raise refusal(422, "no_maps", f"{reading.model} is of a method without maps")
    picture = await service.engine.run(_png, reading, question.threshold)
    return Response(picture, media_type="image/png")


@ROUTES.post(
    "/films/{identity}/results",
    tags=["films"],
    response_class=Response,
    responses={**_NOT_FOUND, 200: _ZIP, 501: {"model": Refusal, "description": "highdicom is not installed."}},
)
async def results(service: Here, identity: str, question: ResultQuestion) -> Response:
    """Return DICOM objects of a DICOM film that is kept, as a ZIP file.

    The header ``radzero-left-out`` names the kinds that the film cannot have; the file left-out.txt says why.
    """
    asked = service.sentences(question.sentences, [])
    kept = service.kept(identity)
    if kept.film.header is None:
        raise refusal(422, "no_dicom", f"{kept.name}: is no DICOM film of a study; it can have no DICOM result")
    try:
        kinds = result_kinds(question.kinds)
        if len(asked) * kept.film.seen.film.size > service.settings.max_result_values:
            most = service.settings.max_result_values // kept.film.seen.film.size
            raise refusal(413, "too_many_sentences", f"results of at most {most} sentences at once for this film")
        reading = await service.engine.ask(kept.film, asked, kept.name)
        packed, left_out = await service.engine.run(_zip, reading, kept.film.header, kinds, question.threshold)
    except ImportError as error:
        raise refusal(501, "not_installed", str(error)) from error
    except ValueError as error:
        raise refusal(422, "no_result", str(error)) from error
    headers = {"radzero-left-out": ",".join(left_out)} if left_out else None
    return Response(packed, media_type="application/zip", headers=headers)


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
