"""Serve the viewer, a page to ask sentences about images, beside the API; the page loads nothing from other sites."""

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from radzero.images import RadiographError, Reason
from radzero.images.formats import SUFFIXES
from radzero.pictures import similarity_colours
from radzero.service.messages import FilmMessage
from radzero.service.service import Service, film_message, refusal, safe_name


def add_viewer(app: FastAPI, service: Service, library: Sequence[Path] = ()) -> None:
    """Serve the page at ``/``.

    Args:
        app: application of :func:`radzero.service.app.create_app`.
        service: service of the application.
        library: files of the images that the page offers, by number; a page can name no other files of this machine.
    """
    colours = similarity_colours(np.linspace(0, 1, 1001)).tolist()
    labels = film_labels(library)

    @app.get("/colours.json", include_in_schema=False)
    async def map_colours() -> list[list[int]]:
        return colours

    @app.get("/suffixes.json", include_in_schema=False)
    async def suffixes() -> list[str]:
        return sorted(SUFFIXES, key=len, reverse=True)

    @app.get("/v1/library", include_in_schema=False)
    async def names() -> list[str]:
        return labels

    @app.post("/v1/library/{index}", include_in_schema=False)
    async def open_film(index: int) -> FilmMessage:
        if not 0 <= index < len(library):
            raise refusal(404, "no_such_film", "there is no film of this number")
        path = library[index]
        try:
            content = await service.engine.run(_read, path, service.settings.max_upload_bytes)
        except OSError as error:
            reason = f"the file can not be opened ({error.strerror})"
            raise RadiographError(path.name, Reason.UNREADABLE, reason, "Check that it is still there") from error
        identity, kept = await service.keep(content, labels[index])
        return film_message(identity, kept)

    app.mount("/", _Page(app, directory=str(files("radzero.viewer") / "static"), html=True), name="viewer")


def film_labels(paths: Sequence[Path]) -> list[str]:
    """Return names that tell the files apart: a file's own name, with as many of its folders as equal names need."""
    places = [path.absolute().parts[1:] for path in paths]
    depths = [1] * len(places)
    while True:
        labels = ["/".join(map(safe_name, place[-depth:])) for place, depth in zip(places, depths, strict=True)]
        count = Counter(labels)
        deeper = [
            depth + (count[label] > 1 and depth < len(place))
            for label, depth, place in zip(labels, depths, places, strict=True)
        ]
        if deeper == depths:
            return labels
        depths = deeper


class _Page(StaticFiles):
    """The page's files; a route of the API that is requested with another method does not count as one of them."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        super().__init__(**options)
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file, or answer 405 where the path is a route of another method."""
        found = [route for route in self._app.routes if route.matches(scope)[0] is Match.PARTIAL]
        if found:
            allowed = sorted({method for route in found for method in getattr(route, "methods", None) or ()})
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        await super().__call__(scope, receive, send)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise RadiographError(
            path.name, Reason.TOO_LARGE, f"the file has more than {limit:,} bytes", "Raise --max-upload-mib"
        )
    return content
