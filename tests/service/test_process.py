"""A service in a process of its own: under load, when it is told to stop, and its command."""

import asyncio
import ctypes
import io
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import uvicorn
from PIL import Image, _imaging, features
from uvicorn.protocols.http.h11_impl import H11Protocol

import forked
from command_line import call
from radzero.phantom.film import make_film
from radzero.prediction.model import load
from radzero.service.connections import connection_class
from radzero.service.server import open_socket
from radzero.service.settings import ServiceSettings
from service.running import Running, running

pytestmark = pytest.mark.slow

SENTENCE = "There is right pleural effusion"


@pytest.fixture(scope="module")
def films() -> list[bytes]:
    """Distinct films: none is answered from the cache before it was read once."""
    contents = []
    for index in range(24):
        buffer = io.BytesIO()
        Image.fromarray((make_film(41, index, size=128).pixels * 255).astype(np.uint8)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


def ask(url: str, content: bytes, session: requests.Session | None = None) -> requests.Response:
    return (session or requests).post(
        f"{url}/v1/predict", files={"file": ("f.png", content)}, data={"sentence": SENTENCE}, timeout=90
    )


class Load:
    """Clients that ask one film after the other until they are told to stop."""

    def __init__(self, url: str, films: list[bytes], clients: int) -> None:
        self.url, self.films = url, films
        self.statuses: Counter[object] = Counter()
        self.logits: dict[int, set[float]] = {}
        self.going = threading.Event()
        self.going.set()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._client, args=(k,)) for k in range(clients)]

    def _client(self, number: int) -> None:
        session = requests.Session()
        k = number
        while self.going.is_set():
            index = k % len(self.films)
            # a byte after the picture's end makes it another file, so that no cache answers for the model
            content = self.films[index] + b"%d" % k if number >= 0 else b""
            k += 64
            try:
                answer = ask(self.url, content, session)
            except requests.RequestException as error:
                with self._lock:
                    self.statuses[type(error).__name__] += 1
                return
            with self._lock:
                self.statuses[answer.status_code] += 1
                if answer.ok:
                    self.logits.setdefault(index, set()).add(answer.json()["sentences"][0]["logit"])
            if answer.status_code == 429:
                time.sleep(float(answer.headers["retry-after"]))

    def run(self, seconds: float) -> float:
        """Load for so long; answers per second."""
        for thread in self.threads:
            thread.start()
        started = time.monotonic()
        time.sleep(seconds)
        self.going.clear()
        for thread in self.threads:
            thread.join(90)
        return self.statuses[200] / (time.monotonic() - started)


def test_64_clients(tiny_checkpoint: Path, films: list[bytes], tmp_path: Path):
    """The full minute is benchmarks/service_load.py's; this is the same in seconds."""
    with running(tmp_path, "serve", "--port", 0, "-m", tiny_checkpoint) as service:
        process = psutil.Process(service.process.pid)
        ask(service.url, films[0])
        before = process.memory_info().rss
        load_ = Load(service.url, films, 64)
        rate = load_.run(5)
        grown = process.memory_info().rss - before
        assert service.stop() == 0
    assert set(load_.statuses) <= {200, 429}, load_.statuses
    assert rate > 10
    assert grown < 500 * 2**20
    model = load(tiny_checkpoint, device="cpu")
    for index, logits in load_.logits.items():
        expected = float(model.predict(films[index], SENTENCE)[0].logits[0])
        assert all(value == pytest.approx(expected, abs=1e-4) for value in logits)


def test_sigterm_loses_nothing_that_was_accepted(tiny_checkpoint: Path, films: list[bytes], tmp_path: Path):
    with running(tmp_path, "serve", "--port", 0, "-m", tiny_checkpoint) as service:
        load_ = Load(service.url, films, 32)
        for thread in load_.threads:
            thread.start()
        time.sleep(2)
        assert service.stop(signal.SIGTERM) == 0
        for thread in load_.threads:
            thread.join(90)
        (last,) = [json.loads(line) for line in service.log.read_text().splitlines() if '"stopped"' in line]
    assert last["accepted"] == last["answered"] > 32
    # clients see whole answers, or a connection that was closed before a request on it was taken
    assert set(load_.statuses) <= {200, 429, "ConnectionError"}, load_.statuses


def test_sigterm_before_the_first_request_is_heard(tiny_checkpoint: Path, tmp_path: Path):
    """Between our handler and uvicorn's: a signal there was once lost."""
    code = """
import os, signal, sys, uvicorn
run = uvicorn.Server.run
def signalled(self, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    run(self, **options)
uvicorn.Server.run = signalled
from radzero.cli import main
main()
"""
    done = forked.run(["-c", code, "serve", "--port", "0", "-m", tiny_checkpoint], tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"stopped"' in done.stderr


def test_commands_refuse_what_is_unsafe(tmp_path: Path):
    assert "can be reached from other machines" in call("serve", "--host", "0.0.0.0", code=2).output
    (tmp_path / "tokens").write_text("# none\n\n")
    assert "holds no token" in call("serve", "--token-file", tmp_path / "tokens", code=2).output
    assert "at least 16" in call("serve", "--token-file", _write(tmp_path, "short"), code=2).output
    assert "is not there" in call("serve", "--token-file", tmp_path / "absent", code=2).output


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server with our connections, whose headers have half a second, and of which there are four."""
    monkeypatch.setattr("radzero.service.connections._HEADER_S", 0.5)
    monkeypatch.setattr("radzero.service.connections._MOST_CONNECTIONS", 4)

    async def app(scope: object, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(1)  # longer than a header may take
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, http=connection_class(60), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    with open_socket(ServiceSettings(port=0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(20)


def test_a_header_has_its_time_and_connections_are_bounded(connections: int):
    url = f"http://127.0.0.1:{connections}/"
    with requests.Session() as session:
        for _ in range(2):  # on one connection, and longer than a header's time each
            assert session.get(url, timeout=10).text == "ok"
        half = [socket.create_connection(("127.0.0.1", connections), 10) for _ in range(2)]
        for one in half:
            one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-a: ")
        assert session.get(url, timeout=10).text == "ok"
        for one in half:
            with one:
                assert one.recv(10) == b""  # closed
    many = [socket.create_connection(("127.0.0.1", connections), 10) for _ in range(8)]
    time.sleep(0.3)
    closed = 0
    for one in many:
        one.settimeout(0.01)
        try:
            closed += one.recv(1) == b""
        except ConnectionResetError:
            closed += 1
        except TimeoutError:
            pass
        one.close()
    assert closed >= 4
    assert requests.get(url, timeout=10).text == "ok"


@pytest.fixture(scope="module")
def hasty(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that gives every request two seconds."""
    folder = tmp_path_factory.mktemp("hasty")
    with running(folder, "serve", "--port", 0, "-m", tiny_checkpoint, "--time-limit", 2) as service:
        yield service


def connected(service: Running) -> socket.socket:
    port = int(service.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), 20)


def rest(connection: socket.socket) -> bytes:
    """All that still comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("line", ["POST /v1/health", "POST /v1/nothing", "GET /v1/health", "POST /v1/predict"])
def test_a_body_that_never_comes_holds_no_connection(hasty: Running, line: str):
    """Also when a byte of it comes after the answer, which ends the server's own patience."""
    with connected(hasty) as one:
        one.sendall(f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode())
        answer = one.recv(65536)
        assert b"connection: close" in answer.lower()
        try:
            one.sendall(b"x")
        except ConnectionError:
            return
        rest(one)


def test_answers_that_are_not_taken_hold_no_connection(hasty: Running):
    with connected(hasty) as one:
        one.setblocking(False)
        request, sent = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100, time.monotonic()
        while time.monotonic() < sent + 1:  # until there is no more room for answers, nor so for requests
            try:
                one.send(request)
                sent = time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
        until = time.monotonic() + 15
        while one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            assert time.monotonic() < until
            try:
                one.send(b"G")
            except BlockingIOError:
                time.sleep(0.1)
            except ConnectionError:
                break
    assert requests.get(f"{hasty.url}/v1/health", timeout=10).ok


def test_the_rest_of_an_answer_has_its_time_too():
    """A connection that is closed and has less to give than makes the other side be waited for."""

    async def app(scope: object, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-length", b"400000"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(400_000)})

    server = uvicorn.Server(uvicorn.Config(app, http=connection_class(1), log_config=None, lifespan="off"))
    with open_socket(ServiceSettings(port=0)) as listener, socket.socket() as one:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(10)
        one.connect(listener.getsockname())
        one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        taken = 0
        while taken < 385_000:  # and no more
            taken += len(one.recv(1000))
        until = time.monotonic() + 10
        while server.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        held = len(server.server_state.connections)
        server.should_exit = server.force_exit = True
        thread.join(20)
    assert held == 0


def test_every_refusal_has_one_form(hasty: Running):
    with connected(hasty) as one:
        one.sendall(b"what is this\r\n\r\n")
        head, body = rest(one).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_who_goes_away_while_sending_is_noted_so(hasty: Running):
    with connected(hasty) as one:
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        one.sendall(f"{head}Content-Length: 100000\r\n\r\n--x\r\n".encode())
        time.sleep(0.3)
    until = time.monotonic() + 10
    while '"status": 499' not in hasty.log.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_log_is_json_whatever_a_film_is(hasty: Running):
    """libtiff would write what it thinks of a damaged file to standard error itself."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(
        buffer, "TIFF", compression="tiff_lzw"
    )
    content = bytearray(buffer.getvalue())
    content[200:260] = b"\xff" * 60
    assert ask(hasty.url, bytes(content)).status_code in (200, 422)
    lines = hasty.log.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_two_services_never_share_a_port():
    with open_socket(ServiceSettings(port=0)) as first, pytest.raises(OSError, match="cannot be listened on"):
        open_socket(ServiceSettings(port=first.getsockname()[1]))


def test_a_taken_port_is_said_at_once(tiny_checkpoint: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        result = call("serve", "--port", other.getsockname()[1], "-m", tiny_checkpoint, code=2)
    assert "cannot be listened on" in result.output


def _write(folder: Path, text: str) -> Path:
    path = folder / "token"
    path.write_text(text)
    return path


def test_what_is_private_elsewhere_is_still_there():
    """Say which private part of another library has changed, before a connection fails because of it."""
    connection = connection_class(1.0)
    methods = {name for name in vars(connection) if not name.startswith("_")}
    assert methods
    assert all(callable(getattr(H11Protocol, name, None)) for name in methods), methods
    config = uvicorn.Config(lambda *_: None, lifespan="off")
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.new_event_loop()
    made = H11Protocol(config, state, {}, loop)
    loop.close()
    assert all(hasattr(made, name) for name in ("conn", "connections", "transport"))
    assert hasattr(uvicorn.Server, "handle_exit")
    assert isinstance(uvicorn.Server(config).should_exit, bool)
    if features.check("libtiff"):
        assert hasattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler"), "libtiff's messages cannot be silenced"
