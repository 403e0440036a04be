"""A service on a socket: uvicorn, told to log nothing of its own and to finish what it accepted."""

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
"""Seconds in which the header of a request must have come."""


def open_socket(settings: ServiceSettings) -> socket.socket:
    """The socket that a service listens on; opened first, so that a port that is taken is said at once.

    Raises:
        OSError: when it cannot be bound.
    """
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY on sockets of this protocol number alone; without it small answers wait for 40 ms
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
    """Serve until SIGTERM or SIGINT; then take no more, finish what was accepted, and return."""
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
            app.state.service.stopping = True  # which /v1/ready says on connections that are still open
            super().handle_exit(sig, frame)

    server = Server(config)

    def stop(number: int, frame: "FrameType | None") -> None:
        server.should_exit = True  # before uvicorn has put its own handler in place of this, or after it has stopped

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    log.info("listening", extra={"fields": said})
    server.run(sockets=[listener])
    gate = _gate(app)
    log.info("stopped", extra={"fields": {"accepted": gate.accepted, "answered": gate.answered} if gate else {}})
    if app.state.service.engine.works_on:  # on a film whose request was answered long ago; a thread cannot be ended
        logging.shutdown()
        os._exit(0)


def _log_lines() -> None:
    """All that is logged becomes lines of JSON; of libraries only who and how badly, their words may be a film's."""
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
    """libtiff would write what it thinks of a damaged file itself; that the file is refused is said anyway."""
    library = ctypes.CDLL(_imaging.__file__)  # Pillow's, and through it what it is linked to
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if (setter := getattr(library, name, None)) is not None:
            setter.argtypes, setter.restype = (ctypes.c_void_p,), ctypes.c_void_p
            setter(None)


class _Patience:
    """For how long the other side is waited for, before its connection is cut."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport) -> None:
        """From now on, unless it has begun."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def end(self) -> None:
        """It has done what it was waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _connection_class(patience_s: float) -> "type[H11Protocol]":
    """uvicorn's connections, which may neither send their headers nor take their answers for ever, nor be too many."""
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
            self._see_closed()  # the rest is still to be taken

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._see_closed()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._see_closed()

        def send_400_response(self, msg: str) -> None:
            """Of what is no HTTP: in the form of every refusal."""
            body = json.dumps({"error": {"code": "bad_request", "message": msg}}).encode()
            size = (b"content-length", str(len(body)).encode())
            headers = [(b"content-type", b"application/json"), size, (b"connection", b"close")]
            for event in (Response(status_code=400, headers=headers), Data(data=body), EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
            self._see_closed()

        def _see_closed(self) -> None:
            """A connection is closed when the other side has taken everything, or has not for long enough."""
            if self.transport.is_closing() and self.transport.get_write_buffer_size():
                self._answer.begin(self.transport)

        def _watch(self) -> None:
            """Wait for the rest of a header, once it has begun."""
            if self.conn.their_state is IDLE:
                self._header.begin(self.transport)
            else:
                self._header.end()

    return Connection


def _gate(app: "FastAPI") -> Gate | None:
    """The gate within the middleware that the application has built."""
    layer = app.middleware_stack
    while layer is not None and not isinstance(layer, Gate):
        layer = getattr(layer, "app", None)
    return layer
