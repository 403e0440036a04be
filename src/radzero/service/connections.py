"""Limit a client's connections, in number and in time; uvicorn's own connection class has no such limits.

This subclass of a class that uvicorn does not document is kept in a file of its own. ``tests/service/test_process.py``
checks that every attribute that it builds on is still there.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST_CONNECTIONS = 1024
_HEADER_S = 15
"""Seconds within which the header of a request must arrive."""


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


def connection_class(patience_s: float) -> "type[H11Protocol]":
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
