"""A service on a socket: uvicorn, told to log nothing of its own and to finish what it accepted."""

import logging
import signal
import socket
from typing import TYPE_CHECKING

from radzero.service.gate import Gate, JsonFormatter
from radzero.service.settings import ServiceSettings

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

log = logging.getLogger("radzero.service")
_BACKLOG = 256


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

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name in ("radzero.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "radzero.service" else logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.time_limit_s) + 5,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
        backlog=_BACKLOG,
    )
    address = listener.getsockname()
    reader = app.state.service.reader
    said = {"host": address[0], "port": address[1], "model": reader.name, "notice": reader.notice}

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


def _gate(app: "FastAPI") -> Gate | None:
    """The gate within the middleware that the application has built."""
    layer = app.middleware_stack
    while layer is not None and not isinstance(layer, Gate):
        layer = getattr(layer, "app", None)
    return layer
