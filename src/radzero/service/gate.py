"""Check every request before it is served (access, limits, time), and record it afterwards (log, metrics).

Nothing of a request but its method, route, size, duration and outcome is logged: no name, no sentence, no header.
"""

import asyncio
import hmac
import json
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from radzero.service.metrics import Metrics
from radzero.service.settings import ServiceSettings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "radzero_token"
"""Name of a page's cookie; the service's port is appended, because browsers send a host's cookies to all its ports."""
OPEN_ROUTES = frozenset(("/v1/health", "/v1/ready"))
"""Routes that are answered without a token and that no limit counts, because what watches a service has no token."""
UNCOUNTED_ROUTES = OPEN_ROUTES | {"/v1/metrics"}
"""Routes that are answered even when too many requests wait."""
_PLAIN_BYTES = 4 * 2**20
"""Largest body, in bytes, of a request that is not a multipart form and so brings no image."""
_PIECE = 2**18
"""Bytes of an answer that are sent at once; the next piece follows when the client has taken most of this one."""
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)

log = logging.getLogger("radzero.service")


class Gate:
    """ASGI middleware around the whole application, which checks, counts and logs its requests."""

    def __init__(self, app: App, settings: ServiceSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.accepted = self.answered = 0
        self._pending = 0
        self._pending_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Passage(self, scope, receive, send).serve()

    def enter(self, size: int) -> None:
        """Count a request, and the bytes of its body, among those that wait or are worked on."""
        self._pending += 1
        self._pending_bytes += size
        self.metrics.pending.set(self._pending)

    def leave(self, size: int) -> None:
        """Stop counting a request and the bytes of its body."""
        self._pending -= 1
        self._pending_bytes -= size
        self.metrics.pending.set(self._pending)

    def take(self, size: int) -> None:
        """Count the bytes of an answer that is being sent."""
        self._pending_bytes += size

    def give_back(self, size: int) -> None:
        """Stop counting the bytes of an answer."""
        self._pending_bytes -= size

    @property
    def full(self) -> bool:
        """Whether no more requests may wait."""
        return self._pending >= self.settings.max_pending

    def holds(self, size: int) -> bool:
        """Return whether there is room for a body or an answer of this size in bytes; a single one always has room."""
        return self._pending_bytes + size <= self.settings.max_pending_bytes or self._pending_bytes == 0


class _RefusedError(Exception):
    """The request is not served."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class _Passage:
    """One request, from its headers to the end of its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self._receive, self._send = gate, receive, send
        self.headers = {key.lower(): value for key, value in scope["headers"]}
        self.method = scope["method"]
        # ranges of answers are not served; the server itself leaves out the body in answer to HEAD
        headers = [(key, value) for key, value in scope["headers"] if key.lower() != b"range"]
        self.scope = {**scope, "headers": headers, "method": "GET" if self.method == "HEAD" else self.method}
        self.id = uuid.uuid4().hex
        self.read = self.held = 0
        self.status = 0
        self.ended = self.gone = False
        self.whole = self.headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in self.headers
        self.refusal: _RefusedError | None = None

    async def serve(self) -> None:
        started, gate = time.perf_counter(), self.gate
        gate.accepted += 1
        try:
            await self._admit()
        except _RefusedError as refusal:
            await self._refuse(refusal)
        except Exception as error:  # a defect; its words may repeat an image's data: neither send nor log them
            at = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-6:]]
            log.error("failed", extra={"fields": {"id": self.id, "error": type(error).__name__, "at": at}})
            await self._refuse(_RefusedError(500, "internal", f"the service failed at this; its log has {self.id}"))
        except asyncio.CancelledError:  # after a second Ctrl-C, or when stopping took too long
            await self._refuse(_RefusedError(503, "stopping", "the service was stopped before this was done"))
        finally:
            gate.give_back(self.held)
            gate.answered += self.ended
            self._note(time.perf_counter() - started)

    async def _admit(self) -> None:
        self._check_access()
        if self.scope["path"] in UNCOUNTED_ROUTES:
            await self.gate.app(self.scope, self._limited, self._answer)
            return
        size = self._announced()
        if self.gate.full or not self.gate.holds(size):
            raise _RefusedError(429, "busy", "too many requests are waiting; try again in a second", retry_after="1")
        self.gate.enter(size)
        try:
            async with asyncio.timeout(self.gate.settings.time_limit_s):
                await self.gate.app(self.scope, self._limited, self._answer)
        except TimeoutError:
            if not self.status:
                limit = f"{self.gate.settings.time_limit_s:g} seconds"
                raise _RefusedError(504, "time_limit", f"this took longer than the limit of {limit}") from None
        finally:
            self.gate.leave(size)

    # -- access ----------------------------------------------------------------------------------------

    def _check_access(self) -> None:
        if sum(name.lower() == b"content-type" for name, _ in self.scope["headers"]) > 1:
            raise _RefusedError(400, "bad_request", "more than one Content-Type")  # parsers disagree on which counts
        host = self.headers.get(b"host", b"").decode("latin-1")
        settings = self.gate.settings
        if is_loopback(settings.host) and not _is_local(host):
            raise _RefusedError(421, "wrong_host", "this service answers on the loopback address alone")
        origin = self.headers.get(b"origin", b"").decode("latin-1")
        if self.method not in ("GET", "HEAD", "OPTIONS") and origin and _place(origin) != host:
            raise _RefusedError(403, "foreign_origin", "pages of other sites may not use this service")
        if settings.tokens and self.scope["path"] not in OPEN_ROUTES and not self._has_token(settings.tokens):
            if self.scope["path"] == "/" and (token := self._token_of_link(settings.tokens)):
                # Lax: a browser that follows a link from another page, such as the file that opens this one, sends the
                # cookie; with other requests of another page it does not
                cookie = f"{self._cookie_name}={token}; Path=/; HttpOnly; SameSite=Lax"
                raise _RefusedError(303, "see_other", "to the page", location="/", set_cookie=cookie)
            given = b"authorization" in self.headers or self._cookie()
            code, said = ("wrong_token", "this token is not known") if given else ("no_token", "no token was given")
            raise _RefusedError(
                401, code, f"{said}; send Authorization: Bearer TOKEN", www_authenticate='Bearer realm="radzero"'
            )

    def _has_token(self, tokens: frozenset[str]) -> bool:
        given = self.headers.get(b"authorization", b"")
        return _is_among(given[7:].strip() if given[:7].lower() == b"bearer " else self._cookie(), tokens)

    def _token_of_link(self, tokens: frozenset[str]) -> str:
        """Return the token in the link that ``radzero view`` prints, which becomes a cookie of the page, or ""."""
        token = dict(parse_qsl(self.scope["query_string"].decode("latin-1"))).get("token", "")
        token = token.replace(" ", "+")  # a + in a query means a space, which no token has
        return token if _is_among(token.encode(), tokens) else ""

    @property
    def _cookie_name(self) -> str:
        server = self.scope.get("server")
        return f"{COOKIE}_{server[1]}" if server else COOKIE

    def _cookie(self) -> bytes:
        for part in self.headers.get(b"cookie", b"").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == self._cookie_name.encode():
                return value
        return b""

    # -- limits ----------------------------------------------------------------------------------------

    def _announced(self) -> int:
        """Return the body's size, in bytes, that the headers announce; a chunked body counts as the largest allowed.

        Raises:
            _RefusedError: when the headers contradict each other, or announce too many bytes.
        """
        value = self.headers.get(b"content-length")
        if b"transfer-encoding" in self.headers:
            if value is not None:  # RFC 9112, 6.1
                raise _RefusedError(400, "bad_request", "Content-Length and Transfer-Encoding exclude each other")
            return self._most_bytes
        if value is None:
            return 0
        if not value.isdigit() or len(value) > 18:
            raise _RefusedError(400, "bad_request", "Content-Length is no number")
        if int(value) > self._most_bytes:
            raise self._too_large()
        return int(value)

    @property
    def _most_bytes(self) -> int:
        most = self.gate.settings.max_upload_bytes
        is_form = self.headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        return most if is_form else min(most, _PLAIN_BYTES)

    def _too_large(self) -> _RefusedError:
        return _RefusedError(413, "too_large", f"a request of this kind has at most {self._most_bytes:,} bytes")

    async def _limited(self) -> Message:
        message = await self._receive()
        self.read += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            self.gone = not self.whole
        else:
            self.whole = not message.get("more_body")
        if self.read > self._most_bytes and self.refusal is None:
            self.refusal = self._too_large()
            raise self.refusal  # the framework may answer this as its own error: see _answer
        return message

    # -- answers ---------------------------------------------------------------------------------------

    async def _answer(self, message: Message) -> None:
        if self.refusal is not None and not self.status:
            refusal, self.refusal = self.refusal, None
            await self._refuse(refusal)
        if self.ended:
            return  # this is the framework's answer to a request that was refused
        if message["type"] == "http.response.start":
            size = next((int(v) for k, v in message.get("headers", ()) if k.lower() == b"content-length"), 0)
            if size > _PIECE and not self.gate.holds(size):
                await self._refuse(_RefusedError(429, "busy", "too many answers are being sent", retry_after="1"))
                return
            if size > _PIECE:
                self.gate.take(size)
                self.held += size
            self.status = message["status"]
            own = {key for key, _ in message.get("headers", ())}
            extra = [(key, value) for key, value in _HEADERS if key not in own]
            if not self.whole:
                extra.append((b"connection", b"close"))  # the rest of the body must not be read as a request
            message = {**message, "headers": [*message.get("headers", ()), *extra, (b"x-request-id", self.id.encode())]}
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            starts = range(0, len(body) - _PIECE, _PIECE)
            for start in starts:
                await self._send({**message, "body": body[start : start + _PIECE], "more_body": True})
            message = {**message, "body": body[len(starts) * _PIECE :]}
            self.ended = not message.get("more_body")
        await self._send(message)

    async def _refuse(self, refusal: _RefusedError) -> None:
        if self.status:
            return
        body = json.dumps({"error": {"code": refusal.code, "message": refusal.message}}).encode()
        extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in refusal.headers.items()]
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *extra]
        self.refusal = None
        await self._answer({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self._answer({"type": "http.response.body", "body": body})

    def _note(self, seconds: float) -> None:
        found = self.scope.get("route")
        route = getattr(found, "path", None) or "(none)"
        status = 499 if self.gone or not self.status else self.status  # 499: the client went away
        method = self.method if self.method in _METHODS else "other"
        self.gate.metrics.requests.labels(method, route, str(status)).inc()
        self.gate.metrics.seconds.labels(route).observe(seconds)
        log.info(
            "request",
            extra={
                "fields": {
                    "id": self.id,
                    "method": method,
                    "route": route,
                    "status": status,
                    "seconds": round(seconds, 4),
                    "bytes": self.read,
                }
            },
        )


def _is_among(token: bytes, tokens: frozenset[str]) -> bool:
    """Return whether a token is one of these; the time it takes does not reveal which one, or how near a guess is."""
    found = [hmac.compare_digest(token, known.encode()) for known in tokens]
    return any(found)


def _is_local(host: str) -> bool:
    """Return whether a Host header names the loopback address; a name that another site bound to it does not count."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _place(origin: str) -> str:
    """Return host and port of an Origin header, or "" where it is not a URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


class JsonFormatter(logging.Formatter):
    """Format each record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class ForeignFormatter(logging.Formatter):
    """Format each record of a library as a line of JSON, without the record's message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        where = f"{record.module}:{record.lineno}"
        line = {"time": when, "level": record.levelname.lower(), "event": "library", "name": record.name, "at": where}
        return json.dumps(line)
