"""Run a service on a socket by uvicorn, which logs only its own warnings and finishes the requests that it accepted."""

import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

from radzero.service.connections import connection_class
from radzero.service.gate import ForeignFormatter, Gate, JsonFormatter
from radzero.service.libtiff import quiet_libtiff
from radzero.service.settings import ServiceSettings

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

log = logging.getLogger("radzero.service")
_BACKLOG = 256


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
        http=connection_class(settings.time_limit_s),
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
    quiet_libtiff()


def _gate(app: "FastAPI") -> Gate | None:
    """Return the gate within the middleware that the application has built."""
    layer = app.middleware_stack
    while layer is not None and not isinstance(layer, Gate):
        layer = getattr(layer, "app", None)
    return layer
