"""Run a service on a socket by uvicorn, which logs only its own warnings and finishes the requests that it accepted."""

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from PIL import _imaging

from radzero.service.gate import ForeignFormatter, Gate, JsonFormatter
from radzero.service.settings import ServiceSettings

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI
    from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("radzero.service")
_BACKLOG = 256
_MOST_CONNECTIONS = 1024
_HEADER_S = 15
"""Seconds within which the header of a request must arrive."""


def open_socket(settings: ServiceSettings) -> socket.socket:
    """Open the socket that a service listens on; call this first, so that a port in use is reported at once.

    Raises:
        OSError: when the address cannot be bound.
    """
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets of this protocol number; without it small answers wait for 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, settings.port))
        listener.listen(_BACKLOG)  # with SO_REUSEADDR a second service could bind, too, until one listens
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{host}:{settings.port}: cannot be listened on ({error.strerror})") from error
    return listener


def run_server(app: "FastAPI", listener: socket.socket, settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT; then accept no more requests, finish those that were accepted, and return."""
    import uvicorn

    _log_lines()
    config = uvicorn.Config(
        app,
        http=_connection_class(settings.time_limit_s),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.time_limit_s) + 5,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
        backlog=_BACKLOG,
    )
    address = listener.getsockname()
    model = app.state.service.model
    said = {"host": address[0], "port": address[1], "model": model.name, "notice": model.notice}

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: "FrameType | None") -> None:
            app.state.service.stopping = True  # /v1/ready then answers 503 on open connections
            super().handle_exit(sig, frame)

    server = Server(config)

    def stop(number: int, frame: "FrameType | None") -> None:
        server.should_exit = True  # called before uvicorn installs its own handler, or after it has stopped

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    log.info("listening", extra={"fields": said})
    server.run(sockets=[listener])
    gate = _gate(app)
    log.info("stopped", extra={"fields": {"accepted": gate.accepted, "answered": gate.answered} if gate else {}})
    if app.state.service.engine.works_on:  # on an image whose request was answered long ago; threads cannot be ended
        logging.shutdown()
        os._exit(0)


def _log_lines() -> None:
    """Log lines of JSON; libraries except uvicorn log place and level only, because their words may hold image data."""
    own, foreign = logging.StreamHandler(), logging.StreamHandler()
    own.setFormatter(JsonFormatter())
    foreign.setFormatter(ForeignFormatter())
    for name in ("radzero.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [own], False
        logger.setLevel(logging.INFO if name == "radzero.service" else logging.WARNING)
    logging.getLogger().handlers = [foreign]
    logging.captureWarnings(True)
    _quiet_libtiff()


def _quiet_libtiff() -> None:
    """Keep libtiff from writing messages about a damaged file itself; the refusal of the file is reported anyway."""
    library = ctypes.CDLL(_imaging.__file__)  # Pillow's library, and through it those that it is linked to
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if (setter := getattr(library, name, None)) is not None:
            setter.argtypes, setter.restype = (ctypes.c_void_p,), ctypes.c_void_p
            setter(None)


class _Patience:
    """Timer that cuts a connection when the client does not act in time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport) -> None:
        """Start the timer, unless it runs already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def end(self) -> None:
        """Stop the timer: the client has acted in time, or the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _connection_class(patience_s: float) -> "type[H11Protocol]":
    """Return uvicorn's connection class with limits: on the time for headers and answers, and on the connections."""
    from h11 import IDLE, Data, EndOfMessage, Response
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._header, self._answer = _Patience(_HEADER_S), _Patience(patience_s)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > _MOST_CONNECTIONS:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._header.end()
            self._answer.end()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer.begin(self.transport)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._answer.end()
            self._see_closed()  # the client has yet to take the rest

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._see_closed()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._see_closed()

        def send_400_response(self, msg: str) -> None:
            """Answer what is not HTTP in the form of every refusal."""
            body = json.dumps({"error": {"code": "bad_request", "message": msg}}).encode()
            size = (b"content-length", str(len(body)).encode())
            headers = [(b"content-type", b"application/json"), size, (b"connection", b"close")]
            for event in (Response(status_code=400, headers=headers), Data(data=body), EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
            self._see_closed()

        def _see_closed(self) -> None:
            """Start the timer of a connection that is closing while the client has not taken everything."""
            if self.transport.is_closing() and self.transport.get_write_buffer_size():
                self._answer.begin(self.transport)

        def _watch(self) -> None:
            """Start the header's timer while a request's header is awaited, and stop it once the header is whole."""
            if self.conn.their_state is IDLE:
                self._header.begin(self.transport)
            else:
                self._header.end()

    return Connection


def _gate(app: "FastAPI") -> Gate | None:
    """Return the gate within the middleware that the application has built."""
    layer = app.middleware_stack
    while layer is not None and not isinstance(layer, Gate):
        layer = getattr(layer, "app", None)
    return layer
