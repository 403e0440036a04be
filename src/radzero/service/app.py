"""Create the application: the routes behind the gate, with every refusal in one form."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from radzero import __version__
from radzero.images import RadiographError, Reason
from radzero.prediction.model import RadZero
from radzero.service.gate import Gate
from radzero.service.messages import Refusal
from radzero.service.routes import ROUTES
from radzero.service.service import Service
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


def create_app(model: RadZero, settings: ServiceSettings | None = None) -> FastAPI:
    """Create the application; ``app.state.service`` is its :class:`Service`.

    Args:
        model: model that answers; from now on only the service may use it.
        settings: limits and access of the service.
    """
    settings = settings or ServiceSettings()
    service = Service(model, settings)

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
        docs_url=None,  # FastAPI's pages load their scripts from other sites
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=_REFUSALS,
    )
    app.state.service = service
    app.include_router(ROUTES)
    _answer_errors(app)
    app.add_middleware(Gate, settings=settings, metrics=service.metrics)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Answer every refusal in one form, without the content of the request."""

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
