"""The language-model engine against a real HTTP server that answers well, slowly, wrongly, or not at all."""

import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from command_line import call
from radzero.reports.extraction import Summary, extract_reports, read_lines, sentences_of
from radzero.reports.llm import Endpoint, EndpointError, LLMEngine, Usage
from radzero.reports.repair import repaired
from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, InvalidSentenceError
from radzero.reports.sources import Unread

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("radzero")
SAYINGS = {
    "The heart is enlarged": "There is cardiomegaly",
    "a small left pleural effusion": "There is small left pleural effusion",
    "no pneumothorax": "There is no pneumothorax",
    "possible pneumonia at the right base": "There may be pneumonia at the right lung base",
    "an unchanged calcified granuloma": "There is unchanged calcified granuloma",  # to be repaired
    "without edema or consolidation": "There is no edema or consolidation",  # to become two
    "some hardware": "The patient has hardware",  # to be set aside
}
KEY = "sk-never-to-be-seen-7319"


# -- a server ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """A request: its number, what was asked how often before, and with which headers."""

    number: int
    times: int
    text: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """How to answer; without ``body`` a completion of ``content``, which is right where None."""

    status: int = 200
    content: str | None = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    missing: int = 0  # bytes that are announced and never sent
    hang_up: bool = False
    extra: dict[str, Any] = field(default_factory=dict)  # of the completion


GOOD = Reply()


def right_answer(text: str) -> str:
    """What a good model says of a report: computed from its words, the same at any time."""
    found = sorted((text.index(words), words) for words in SAYINGS if words in text)
    return json.dumps({"sentences": [{"text": SAYINGS[words], "quote": words} for _, words in found]})


def completion(text: str, reply: Reply) -> bytes:
    content = right_answer(text) if reply.content is None else reply.content
    return json.dumps(
        {
            "choices": [{"message": {"role": "assistant", "content": content}}],
            "created": 1_700_000_000 + zlib.crc32(text.encode()) % 10_000_000,
            "usage": {"prompt_tokens": len(text.split()), "completion_tokens": len(content.split())},
            **reply.extra,
        }
    ).encode()


class Server:
    """An OpenAI-compatible endpoint on this machine that behaves as it is told, dies, and comes back at its port."""

    def __init__(self) -> None:
        self.behave: Callable[[Ask], Reply] = lambda ask: GOOD
        self.asks: list[Ask] = []
        self.answered: Counter[str] = Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def open(self) -> None:
        with self._opening:
            if self._http is not None:
                return
            server = self

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"
                wbufsize = -1  # headers and body leave together, else each answer waits 40 ms for an acknowledgement

                def do_POST(self) -> None:
                    server.handle(self)

                def log_message(self, *args: object) -> None:
                    pass

            class Http(ThreadingHTTPServer):
                request_queue_size = 64

                def handle_error(self, request: object, client_address: object) -> None:
                    pass  # the client hung up, or was killed

            self._http = Http(("127.0.0.1", self.port), Handler)
            self.port = self._http.server_port
            self._thread = threading.Thread(target=self._http.serve_forever, args=(0.005,))
            self._thread.start()

    def close(self) -> None:
        """The listening socket is gone; connections that are open get no answer any more."""
        with self._opening:
            http, self._http = self._http, None
            if http is not None:
                http.shutdown()
                self._thread.join()
                http.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        assert handler.path == "/v1/chat/completions"
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = body["messages"][1]["content"]
        with self._lock:
            times = sum(ask.text == text for ask in self.asks)
            ask = Ask(len(self.asks), times, text, body, dict(handler.headers.items()))
            self.asks.append(ask)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.behave(ask)
            time.sleep(reply.delay)
        finally:
            with self._lock:
                self._at_once -= 1
        if reply.hang_up or self._http is None:
            handler.close_connection = True
            return
        content = completion(text, reply) if reply.body is None else reply.body
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content) + reply.missing))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        handler.close_connection = handler.close_connection or reply.missing > 0
        if reply.status == 200 and reply.body is None and not reply.missing:
            with self._lock:
                self.answered[text] += 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("RADZERO_LLM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


# -- reports and runs -------------------------------------------------------------------------------------


def make_reports(count: int = 24, seed: int = 4) -> list[Report]:
    chance = random.Random(seed)
    reports = []
    for k in range(count):
        said = ". ".join(chance.sample(sorted(SAYINGS), chance.randint(1, 4)))
        impression = chance.choice(sorted(SAYINGS))
        text = f"INDICATION: cough.\nFINDINGS: Film {k} of the series. {said}.\nIMPRESSION: {impression}."
        reports.append(Report.from_text(f"r{k}", text, f"in/r{k}.txt"))
    return reports


REPORTS = make_reports()


@dataclass
class Run:
    content: bytes
    summary: Summary
    usage: Usage
    sleeps: list[float]


def run(server: Server, folder: Path, reports: list[Report] = REPORTS, **settings: Any) -> Run:
    """A run in ``folder`` that does not really wait between its tries."""
    sleeps: list[float] = []
    woken: Callable[[], None] = settings.pop("on_sleep", lambda: None)

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        woken()

    prompt, output = settings.pop("prompt", None), folder / settings.pop("output", "out.jsonl")
    cache = folder / settings.pop("cache", "answers.cache")
    settings = {"model": "test-model", "timeout": 20.0} | settings
    engine = LLMEngine(Endpoint(server.url, **settings), cache, prompt, sleep)
    try:
        summary = extract_reports(reports, output, engine)
    finally:
        engine.close()
    return Run(output.read_bytes(), summary, engine.usage, sleeps)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of an untroubled run, one request at a time."""
    server = Server()
    try:
        return run(server, tmp_path_factory.mktemp("untroubled"), concurrency=1).content
    finally:
        server.close()


def records(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def test_an_untroubled_run(server: Server, tmp_path: Path, expected: bytes):
    result = run(server, tmp_path)
    assert result.content == expected
    assert len(server.asks) == len(REPORTS) == result.usage.requests
    assert result.sleeps == []
    for ask in server.asks:
        assert ask.body["temperature"] == 0.0
        assert ask.body["model"] == "test-model"
        assert ask.body["response_format"]["type"] == "json_schema"
        assert "cough" not in ask.text, "indications do not leave"
        assert "Authorization" not in ask.headers
    written = records(expected)
    assert [line["report"] for line in written] == [report.name for report in REPORTS]
    for line, report in zip(written, REPORTS, strict=True):
        texts = {section.name: section.text for section in report.film_sections}
        assert line["engine"] == "llm"
        assert datetime.fromisoformat(line["time"]).year in (2023, 2024)
        for sentence, entry in zip(sentences_of(line), line["sentences"], strict=True):
            assert FindingSentence.parse(entry["text"]) == sentence
            assert sentence.provenance is not None
            assert (sentence.provenance.model, sentence.provenance.prompt) == ("test-model", line["prompt"])
            assert sentence.provenance.time == line["time"]
            assert texts[entry["section"]][entry["start"] : entry["end"]] in SAYINGS
        assert len({entry["text"] for entry in line["sentences"]}) == len(line["sentences"]), "no sentence twice"
    said = {entry["text"] for line in written for entry in line["sentences"]}
    assert {"There is calcified granuloma", "There is no edema", "There is no consolidation"} <= said, "repaired"
    aside = {(a["text"], a["reason"].split("'")[0]) for line in written for a in line["set_aside"]}
    assert aside == {("The patient has hardware", "does not begin with ")}
    assert result.summary.sentences == sum(len(line["sentences"]) for line in written)
    assert result.summary.merged == sum(line["merged"] for line in written)


# -- trouble, after which all is as if there had been none ------------------------------------------------


def first(reply: Reply, every: int = 3) -> Callable[[Ask], Reply]:
    """The first answer to every third report is ``reply``."""
    return lambda ask: reply if ask.times == 0 and zlib.crc32(ask.text.encode()) % every == 0 else GOOD


def without_format(*refused: str) -> Callable[[Ask], Reply]:
    """A server that knows fewer ways to ask for JSON."""

    def behave(ask: Ask) -> Reply:
        kind = ask.body.get("response_format", {}).get("type")
        message = f'{{"error": {{"message": "\'response_format\' of type {kind} is not supported"}}}}'
        return Reply(400, body=message.encode()) if kind in refused else GOOD

    return behave


def in_prose(ask: Ask) -> Reply:
    answer = right_answer(ask.text)
    shapes = (
        f"```json\n{answer}\n```",
        f"```\n{answer}\n```",
        f"Certainly! Here is what the report says:\n\n{answer}\n\nLet me know {{if}} you need more.",
        f"Here you are:\n```json\n{answer}\n```\nThat is all.",
        f"<think>No effusion? {{hm}}</think>\n{answer}",
        f'Maybe {{"sentences": []}}? No.</think>{answer}',
        json.dumps(json.loads(answer), indent=4),
    )
    return Reply(content=shapes[ask.number % len(shapes)])


def completion_without(**changes: object) -> Reply:
    whole = {"choices": [{"message": {"content": "{}"}}]} | changes
    return Reply(body=json.dumps(whole).encode())


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(lambda ask: Reply(delay=0.002 * (7 * ask.number % 11)), id="slowly and out of order"),
        pytest.param(first(Reply(429, body=b"{}", headers={"Retry-After": "2"})), id="429 with Retry-After"),
        pytest.param(first(Reply(429, body=b"slow down")), id="429"),
        pytest.param(first(Reply(500, body=b"<html>oops</html>")), id="500"),
        pytest.param(first(Reply(503, body=b"")), id="503"),
        pytest.param(first(Reply(408, body=b"")), id="408"),
        pytest.param(first(Reply(missing=10)), id="a body that breaks off"),
        pytest.param(first(Reply(body=b'{"choices": [{"message": {"cont')), id="truncated JSON"),
        pytest.param(first(Reply(body=b"<html>proxy</html>")), id="a page instead of JSON"),
        pytest.param(first(Reply(body=b"\xff\xfe\x00")), id="bytes instead of JSON"),
        pytest.param(first(Reply(body=b"")), id="nothing"),
        pytest.param(first(Reply(body=b"[1, 2]")), id="a list instead of a completion"),
        pytest.param(first(completion_without(choices=[])), id="no choice"),
        pytest.param(first(completion_without(choices=[{"message": None}])), id="no message"),
        pytest.param(first(completion_without(usage="free")), id="usage that is none"),
        pytest.param(first(Reply(hang_up=True)), id="a connection that is cut"),
    ],
)
def test_after_a_failing_request_the_output_is_the_same(
    server: Server, tmp_path: Path, expected: bytes, behave: Callable[[Ask], Reply]
):
    server.behave = behave
    result = run(server, tmp_path)
    assert result.content == expected
    assert result.usage.requests == len(server.asks)
    assert len(result.sleeps) == len(server.asks) - len(REPORTS)
    assert set(server.answered.values()) == {1}, "no answer is paid for twice"
    again = run(server, tmp_path, output="again.jsonl")
    assert again.content == expected
    assert again.usage == Usage(cached=len(REPORTS))


@pytest.mark.parametrize(
    "content",
    [
        "I cannot help with that.",
        "",
        "null",
        "[]",
        '{"findings": []}',
        '{"sentences": "none"}',
        '{"sentences": ["There is cardiomegaly"]}',
        '{"sentences": [{"text": "There is cardiomegaly"}]}',
        '{"sentences": [{"text": 1, "quote": "heart"}]}',
        '{"sentences": [{"text": "There is cardio',
        pytest.param("[" * 60_000, id="nested too deeply"),
        pytest.param('{"sentences": ' + "[" * 60_000, id="nested too deeply, as an object"),
    ],
)
def test_after_wrong_json_the_second_try_gives_the_same_output(
    server: Server, tmp_path: Path, expected: bytes, content: str
):
    server.behave = first(Reply(content=content))
    result = run(server, tmp_path)
    assert result.content == expected
    assert result.sleeps == [], "an answer that came needs no pause"
    second = [ask for ask in server.asks if ask.times == 1]
    assert second
    assert all(ask.body["temperature"] > 0 and ask.body["seed"] == 1 for ask in second), "not the same wrong answer"
    assert len(server.asks) == len(REPORTS) + len(second)
    asked = len(server.asks)
    assert run(server, tmp_path, output="again.jsonl").content == expected
    assert len(server.asks) == asked, "wrong answers are kept too"


def test_prose_and_fences_around_the_json_are_no_trouble(server: Server, tmp_path: Path, expected: bytes):
    server.behave = in_prose
    assert run(server, tmp_path).content == expected
    assert len(server.asks) == len(REPORTS)


@pytest.mark.parametrize("refused", [("json_schema",), ("json_schema", "json_object")])
@pytest.mark.parametrize("tries", [1, 3])
def test_a_server_that_knows_no_json_schema_is_asked_more_plainly(
    server: Server, tmp_path: Path, expected: bytes, refused: tuple[str, ...], tries: int
):
    server.behave = without_format(*refused)
    result = run(server, tmp_path, concurrency=1, tries=tries)
    assert result.content == expected
    assert len(server.asks) == len(REPORTS) + len(refused), "found out once"
    assert result.sleeps == []
    kinds = [ask.body.get("response_format", {}).get("type") for ask in server.asks]
    assert kinds[len(refused) :] == ["json_object" if len(refused) == 1 else None] * len(REPORTS)


def test_many_at_once_find_out_together_which_json_the_server_knows(server: Server, tmp_path: Path, expected: bytes):
    server.behave = without_format("json_schema", "json_object")
    assert run(server, tmp_path, concurrency=8, tries=1).content == expected
    assert len(server.asks) <= len(REPORTS) + 2 * 8


def test_a_server_that_is_too_slow_is_asked_again(server: Server, tmp_path: Path):
    server.behave = lambda ask: Reply(delay=1.0) if ask.number == 0 else GOOD
    result = run(server, tmp_path, REPORTS[:1], timeout=0.4)
    assert len(records(result.content)) == 1
    assert len(result.sleeps) == len(server.asks) - 1 > 0


# -- pauses ------------------------------------------------------------------------------------------------


def test_pauses_grow_and_are_as_long_as_the_server_asks_for(server: Server, tmp_path: Path):
    a_date = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    replies = [
        Reply(500), Reply(503), Reply(429, headers={"Retry-After": "7"}), Reply(hang_up=True), Reply(502), GOOD,
        Reply(429, headers={"Retry-After": "86400"}), Reply(429, headers=a_date), GOOD,
    ]  # fmt: skip
    server.behave = lambda ask: replies[ask.number]
    result = run(server, tmp_path, REPORTS[:2], concurrency=1, tries=6, backoff=0.5)
    assert len(result.sleeps) == 7
    for slept, wanted in zip(result.sleeps, (0.5, 1.0, 7.0, 4.0, 8.0, 300.0, 1.0), strict=True):
        assert 0.75 * wanted <= slept <= 1.25 * wanted
    assert (result.sleeps[2], result.sleeps[5]) == (7.0, 300.0)


def test_pauses_are_at_most_a_minute(server: Server, tmp_path: Path):
    server.behave = lambda ask: Reply(500) if ask.number < 9 else GOOD
    assert max(run(server, tmp_path, REPORTS[:1], tries=10, backoff=1.0).sleeps) <= 75.0


# -- death -------------------------------------------------------------------------------------------------


def dies_after(server: Server, count: int) -> Callable[[Ask], Reply]:
    def behave(ask: Ask) -> Reply:
        if ask.number < count:
            return GOOD
        threading.Thread(target=server.close).start()
        return Reply(hang_up=True)

    return behave


@pytest.mark.parametrize("count", [0, 1, 9, 20])
def test_a_server_that_dies_halfway_and_comes_back_later(server: Server, tmp_path: Path, expected: bytes, count: int):
    server.behave = dies_after(server, count)
    with pytest.raises(EndpointError, match=r"gave up after 3 tries \(.*run the same command again"):
        run(server, tmp_path, tries=3, concurrency=4)
    kept = (tmp_path / "out.jsonl").read_bytes()
    assert expected.startswith(kept)
    assert not kept or kept.endswith(b"\n")
    assert sum(server.answered.values()) <= count
    server.close()
    server.behave = lambda ask: GOOD
    server.open()
    result = run(server, tmp_path, concurrency=4)
    assert result.content == expected
    assert result.summary.resumed == kept.count(b"\n")
    assert set(server.answered.values()) == {1}, "no answer is paid for twice"
    assert len(server.answered) == len(REPORTS)


def test_a_server_that_refuses_after_some_requests(server: Server, tmp_path: Path, expected: bytes):
    server.behave = lambda ask: GOOD if ask.number < 10 else Reply(503)
    with pytest.raises(EndpointError, match="HTTP 503"):
        run(server, tmp_path, tries=2)
    server.behave = lambda ask: GOOD
    assert run(server, tmp_path).content == expected
    assert set(server.answered.values()) == {1}


def test_a_server_that_comes_back_while_it_is_waited_for(server: Server, tmp_path: Path, expected: bytes):
    server.behave = dies_after(server, 7)

    def reopen() -> None:
        server.close()
        server.behave = lambda ask: GOOD
        server.open()

    assert run(server, tmp_path, on_sleep=reopen, concurrency=1).content == expected
    assert set(server.answered.values()) == {1}


@pytest.mark.slow
def test_a_run_killed_at_random_moments_is_gone_on_with(server: Server, tmp_path: Path):
    reports = make_reports(160)
    source = tmp_path / "reports.jsonl"
    source.write_text(
        "".join(json.dumps({"id": report.name, "text": full_text(report)}) + "\n" for report in reports),
        encoding="utf-8",
    )
    arguments = ["extract", source, "--engine", "llm", "--url", server.url, "-m", "test-model", "--concurrency", "3"]
    untroubled, output = tmp_path / "untroubled.jsonl", tmp_path / "out.jsonl"
    call(*arguments, "-o", untroubled)
    assert len(list(read_lines(untroubled))) == len(reports)
    server.answered.clear()
    server.asks.clear()
    server.behave = lambda ask: Reply(delay=0.05)
    chance = random.Random(8)
    for _ in range(6):
        wanted = len(server.asks) + chance.randint(1, 12)
        with subprocess.Popen(
            [COMMAND, *map(str, arguments), "-o", output], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and len(server.asks) < wanted:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.04))
            assert process.poll() is None, "it was killed before its end"
            process.send_signal(signal.SIGKILL)
        assert untroubled.read_bytes().startswith(output.read_bytes())
    server.behave = lambda ask: GOOD
    call(*arguments, "-o", output)
    assert output.read_bytes() == untroubled.read_bytes()
    assert len(server.answered) == len(reports)
    assert sum(server.answered.values()) <= len(reports) + 6 * 3, "only what was under way is asked again"


# -- what is given up on -----------------------------------------------------------------------------------


def test_a_report_that_is_never_answered_right_is_recorded_and_the_run_goes_on(
    server: Server, tmp_path: Path, expected: bytes
):
    server.behave = lambda ask: Reply(content="Sorry!") if "Film 5 " in ask.text else GOOD
    result = run(server, tmp_path, tries=4)
    written, wanted = records(result.content), records(expected)
    failed = written.pop(5)
    wanted.pop(5)
    assert written == wanted
    assert (failed["report"], failed["source"], failed["error"]) == ("r5", "in/r5.txt", "failed")
    assert failed["reason"].startswith("no valid answer in 4 tries: not JSON")
    assert "sentences" not in failed
    assert len(server.asks) == len(REPORTS) + 3
    assert result.summary.failed == {"no valid answer in 4 tries": 1}
    assert result.summary.reports == len(REPORTS)
    asked = len(server.asks)
    assert run(server, tmp_path, tries=4).content == result.content, "it is not made again"
    assert run(server, tmp_path, tries=4, output="again.jsonl").content == result.content
    assert len(server.asks) == asked


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            400,
            '{"error": {"message": "This model\'s maximum context length is 4096 tokens", "type": "invalid_request"}}',
        ),
        (400, '{"error": {"code": "content_filter", "message": "The response was filtered"}}'),
        (422, "the prompt is too long; information: none"),
        (413, "entity too large"),
    ],
)
def test_a_report_that_the_server_refuses_is_recorded_and_the_run_goes_on(
    server: Server, tmp_path: Path, expected: bytes, status: int, message: str
):
    server.behave = lambda ask: Reply(status, body=message.encode()) if "Film 5 " in ask.text else GOOD
    result = run(server, tmp_path)
    written, wanted = records(result.content), records(expected)
    failed = written.pop(5)
    wanted.pop(5)
    assert written == wanted
    assert failed["reason"].startswith(f"refused by the endpoint: HTTP {status}: {message[:20]}")
    assert result.summary.failed == {"refused by the endpoint": 1}
    kinds = [ask.body.get("response_format", {}).get("type") for ask in server.asks if "Film 5 " not in ask.text]
    assert kinds == ["json_schema"] * (len(REPORTS) - 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 307])
def test_a_server_that_refuses_everything_stops_the_run_at_once(server: Server, tmp_path: Path, status: int):
    server.behave = lambda ask: Reply(status, body=b"no such model", headers={"Location": "http://192.0.2.1/"})
    with pytest.raises(EndpointError, match=f"HTTP {status}: no such model"):
        run(server, tmp_path, concurrency=1)
    assert len(server.asks) <= 2
    assert (tmp_path / "out.jsonl").read_bytes() == b""


# -- what stands in the output -----------------------------------------------------------------------------


def says(*items: tuple[str, str]) -> Callable[[Ask], Reply]:
    content = json.dumps({"sentences": [{"text": text, "quote": quote} for text, quote in items]})
    return lambda ask: Reply(content=content)


def extracted(server: Server, folder: Path, text: str) -> dict[str, Any]:
    (line,) = records(run(server, folder, [Report.from_text("r", text, "r.txt")]).content)
    return line


def test_quotes_lead_to_the_words_in_their_section(server: Server, tmp_path: Path):
    server.behave = says(
        ("There is no pleural effusion", "There is NO pleural\neffusion."),
        ("There is cardiomegaly", "heart: enlarged"),
        ("There is nodule", "nodule on the film of 2001"),
        ("There is pneumonia", "cough and pneumonia"),
        ("There is mass", ""),
        ("There is opacity", "..."),
    )
    text = "INDICATION: cough and pneumonia.\nFINDINGS: There is  no\npleural effusion\nIMPRESSION: 1. Heart enlarged."
    line = extracted(server, tmp_path, text)
    assert [(s["text"], s["section"]) for s in line["sentences"]] == [
        ("There is no pleural effusion", "findings"),
        ("There is cardiomegaly", "impression"),
    ]
    spans = {s.name: s.text for s in Report.from_text("r", text).film_sections}
    quoted = [spans[s["section"]][s["start"] : s["end"]] for s in line["sentences"]]
    assert quoted == ["There is  no\npleural effusion", "Heart enlarged"]
    reasons = {a["text"]: a["reason"] for a in line["set_aside"]}
    assert reasons == dict.fromkeys(
        ("There is nodule", "There is pneumonia", "There is mass", "There is opacity"), "its quote is not in the report"
    )


def test_sentences_are_repaired_or_set_aside_with_the_reason(server: Server, tmp_path: Path):
    quote = "a report"
    server.behave = says(
        ("There is new left effusion, slightly increased in size since the prior film", quote),
        ("There is atelectasis which has improved", quote),
        ("There are no nodules or masses", quote),
        ("There is no mass", quote),
        ("There is no masses", quote),
        ("There is opacity in the right upper and left lower lobe", quote),
        ("There is opacity in the left lower lobe and small effusion", quote),
        ("Recommend CT", quote),
        ("There is ___ opacity", quote),
        ("There is " + "very " * 30 + "large opacity", quote),
    )
    line = extracted(server, tmp_path, "FINDINGS: a report")
    assert [s["text"] for s in line["sentences"]] == [
        "There is left effusion",
        "There is atelectasis",
        "There is no nodules",
        "There is no masses",
        "There is no mass",
        "There is opacity in the right upper lobe",
        "There is opacity in the left lower lobe",
    ]
    assert line["merged"] == 1
    aside = [(a["text"][:24], re.split(r"[:,]| \d", a["reason"])[0]) for a in line["set_aside"]]
    assert aside == [
        ("There is opacity in the ", "more than one finding"),
        ("Recommend CT", "does not begin with 'There is'"),
        ("There is ___ opacity", "not a word"),
        ("There is very very very ", "longer than"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is cardiomegaly without pulmonary edema", ["is cardiomegaly", "is no pulmonary edema"]),
        ("There is effusion but no pneumothorax or edema", ["is effusion", "is no pneumothorax", "is no edema"]),
        ("There is effusion with no pneumothorax", ["is effusion", "is no pneumothorax"]),
        ("There is no pneumothorax, but a small effusion", ["is no pneumothorax", "is small effusion"]),
        ("There is no effusion and there is cardiomegaly", ["is no effusion", "is cardiomegaly"]),
        ("There is no effusion, pneumothorax", ["is no effusion", "is no pneumothorax"]),
        ("There is atelectasis versus pneumonia", ["may be atelectasis", "may be pneumonia"]),
        ("There is opacity, possibly pneumonia", ["is opacity", "may be pneumonia"]),
        ("There is atelectasis/scarring in the left base", ["may be atelectasis at the left base",
            "may be scarring at the left base"]),
        ("There is likely effusion", ["may be effusion"]),
        ("There is not pneumothorax", ["is no pneumothorax"]),
        ("There is no longer effusion", ["is no effusion"]),
        ("There is no evidence of pneumothorax", ["is no pneumothorax"]),
        ("There are no signs of edema", ["is no edema"]),
        ("There is improved but persistent effusion", ["is effusion"]),
        ("There is effusion, slightly larger than before", ["is effusion"]),
        ("There are degenerative changes in the spine, unchanged", ["is degenerative changes in the spine"]),
        ("There is placement of a chest tube", ["is chest tube"]),
        ("There is left and right pleural effusion", ["is bilateral pleural effusion"]),
        ("There is opacity in both lower lobes", ["is opacity in the bilateral lower lobes"]),
        ("There is opacity in the left and right lower lobes", ["is opacity in the bilateral lower lobes"]),
        ("There is opacity in the left upper and lower lobes", ["is opacity in the left upper lobes",
            "is opacity in the left lower lobes"]),
        ("There is opacity in the lower lobe of the left lung", ["is opacity in the left lower lobe"]),
    ],
)  # fmt: skip
def test_what_is_repaired_keeps_the_polarity_and_place_of_each_finding(text: str, expected: list[str]):
    assert [sentence.text for sentence in repaired(text)] == [f"There {rest}" for rest in expected]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("There is no effusion, mild cardiomegaly", "more than one finding"),
        ("There is no effusion with atelectasis", "more than one finding"),
        ("There is decreased effusion and resolved pneumothorax", "more than one finding"),
        ("There is effusion and no pneumothorax at the left base", "more than one finding"),
        ("There is opacity in the left base without effusion", "more than one finding"),
        ("There is opacity representing pneumonia", "says more than a finding"),
        ("There may be no effusion", "a doubt and a denial"),
        ("There is no change in heart size", "another time"),
        ("There is interval removal of the endotracheal tube", "a place inside"),
        ("There is opacity in the upper lobe on the left", "a side inside the place"),
    ],
)
def test_what_could_be_repaired_into_something_else_is_refused(text: str, reason: str):
    with pytest.raises(InvalidSentenceError, match=reason):
        repaired(text)


def test_half_a_character_in_an_answer_is_written_as_a_question_mark(server: Server, tmp_path: Path):
    # a model that breaks off inside an emoji's escape; and one whose server does
    server.behave = lambda ask: Reply(content=r'{"sentences": [{"text": "There is \ud83d", "quote": "Clear"}]}')
    line = extracted(server, tmp_path, "FINDINGS: Clear.")
    assert line["set_aside"][0]["text"] == "There is ?"
    server.behave = lambda ask: Reply(content='{"sentences": []} \ud83d')
    (tmp_path / "out.jsonl").unlink()
    assert extracted(server, tmp_path, "FINDINGS: Clear indeed.")["sentences"] == []


@pytest.mark.parametrize("created", [None, "now", -5, 1_700_000_000_123, True, 1.7e9])
def test_any_time_of_the_server_will_do(server: Server, tmp_path: Path, created: object):
    server.behave = lambda ask: Reply(extra={"created": created})
    line = extracted(server, tmp_path, "FINDINGS: no pneumothorax")
    moment = datetime.fromisoformat(line["time"])
    assert moment.tzinfo is not None
    assert moment <= datetime.now(UTC)


def test_reports_without_a_film_and_unreadable_ones_keep_their_place_and_cost_nothing(server: Server, tmp_path: Path):
    empty = Report.from_text("empty", "INDICATION: cough.", "e.txt")
    unread = Unread("u.txt", "broken")
    items: list[Any] = [unread, REPORTS[0], empty, unread, REPORTS[1], unread]
    content = run(server, tmp_path, items).content
    assert [line["report"] for line in records(content)] == [None, "r0", "empty", None, "r1", None]
    assert records(content)[2]["sentences"] == []
    assert len(server.asks) == 2


# -- asking no more than needed ----------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_are_under_way_than_allowed(server: Server, tmp_path: Path, expected: bytes, concurrency: int):
    server.behave = lambda ask: Reply(delay=0.02 * concurrency)
    assert run(server, tmp_path, concurrency=concurrency).content == expected
    assert server.most_at_once == concurrency


def test_the_slowest_report_first_keeps_the_order(server: Server, tmp_path: Path, expected: bytes):
    server.behave = lambda ask: Reply(delay=0.2 if "Film 0 " in ask.text else 0.0)
    assert run(server, tmp_path).content == expected
    assert server.asks[0].number == 0


def test_reports_of_the_same_words_are_asked_once(server: Server, tmp_path: Path):
    server.behave = lambda ask: Reply(delay=0.02)
    twins = [Report.from_text(f"t{k}", "FINDINGS: no pneumothorax", f"t{k}.txt") for k in range(10)]
    result = run(server, tmp_path, twins)
    assert len(server.asks) == 1
    assert (result.usage.requests, result.usage.cached) == (1, 9)
    assert [line["report"] for line in records(result.content)] == [twin.name for twin in twins]
    assert len({json.dumps(line["sentences"]) for line in records(result.content)}) == 1


def test_another_model_prompt_or_setting_is_asked_anew(server: Server, tmp_path: Path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Say it otherwise.", encoding="utf-8")
    few = REPORTS[:2]
    for k, settings in enumerate(({}, {"model": "other"}, {"temperature": 0.5}, {"max_tokens": 9}, {"prompt": prompt})):
        assert len(server.asks) == 2 * k
        for name in ("one", "two"):
            run(server, tmp_path, few, output=f"{k}-{name}.jsonl", **settings)
    assert len(server.asks) == 10
    assert server.asks[-1].body["messages"][0]["content"] == "Say it otherwise."


def test_an_output_of_another_model_or_prompt_is_refused_by_name(server: Server, tmp_path: Path):
    run(server, tmp_path, REPORTS[:2])
    before = (tmp_path / "out.jsonl").read_bytes()
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Say it otherwise.", encoding="utf-8")
    for settings in ({"model": "other"}, {"prompt": prompt}):
        with pytest.raises(ValueError, match=r"out\.jsonl: was made by .*'test-model'.* not by .*give another output"):
            run(server, tmp_path, REPORTS[:3], **settings)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_tokens_and_cost_are_counted_as_the_server_does(server: Server, tmp_path: Path):
    server.behave = first(Reply(content="wrong words here"))
    result = run(server, tmp_path)
    tokens_in = sum(len(ask.text.split()) for ask in server.asks)
    wrong = len(server.asks) - len(REPORTS)
    tokens_out = 3 * wrong + sum(len(right_answer(text).split()) for text in {ask.text for ask in server.asks})
    assert (result.usage.tokens_in, result.usage.tokens_out) == (tokens_in, tokens_out)
    endpoint = Endpoint(server.url, "m", price_in=2.0, price_out=10.0)
    assert result.usage.cost(endpoint) == pytest.approx((2 * tokens_in + 10 * tokens_out) / 1e6)


# -- the command: keys, warnings, costs ---------------------------------------------------------------------


def full_text(report: Report) -> str:
    return "\n".join(f"{section.name.upper()}: {section.text}" for section in report.sections)


@pytest.fixture
def command(server: Server, tmp_path: Path) -> list[object]:
    """Arguments of a run over two reports, one try each."""
    for report in REPORTS[:2]:
        path = tmp_path / "in" / f"{report.name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(full_text(report), encoding="utf-8")
    arguments = ["extract", tmp_path / "in", "-o", tmp_path / "out.jsonl", "--engine", "llm", "-m", "test-model"]
    return [*arguments, "--url", server.url, "--tries", 1]


def everything_written(folder: Path, result: Result) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file()) + result.output.encode()


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({"RADZERO_LLM_API_KEY": KEY}, f"Bearer {KEY}"),
        ({"OPENAI_API_KEY": KEY}, f"Bearer {KEY}"),
        ({"RADZERO_LLM_API_KEY": KEY, "OPENAI_API_KEY": "sk-other"}, f"Bearer {KEY}"),
        ({"RADZERO_LLM_API_KEY": f" {KEY}\r\n"}, f"Bearer {KEY}"),
        ({"RADZERO_LLM_API_KEY": "", "OPENAI_API_KEY": ""}, None),
    ],
)
def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    command: list[object], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict, sent: str
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = call(*command, "--audit", 2)
    assert [ask.headers.get("Authorization") for ask in server.asks] == [sent] * 2
    assert KEY.encode() not in everything_written(tmp_path, result)
    assert (tmp_path / "out.jsonl.cache").exists()


@pytest.mark.parametrize("status", [401, 413, 500])
def test_an_error_that_repeats_the_key_is_shown_without_it(
    command: list[object], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
):
    monkeypatch.setenv("RADZERO_LLM_API_KEY", KEY)
    server.behave = lambda ask: Reply(status, body=f"Incorrect API key: {ask.headers['Authorization']}".encode())
    result = call(*command, code=1 if status == 413 else 2)
    assert KEY.encode() not in everything_written(tmp_path, result)
    if status == 401:
        assert "Incorrect API key: Bearer ***" in result.stderr


@pytest.mark.parametrize("key", [f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}é", f"{KEY}\x01"])
def test_a_key_that_can_be_none_is_refused_without_showing_it(
    command: list[object], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
):
    monkeypatch.setenv("RADZERO_LLM_API_KEY", key)
    result = call(*command, code=2)
    assert "RADZERO_LLM_API_KEY" in result.stderr
    assert KEY.encode() not in everything_written(tmp_path, result)
    assert not server.asks


def test_a_host_that_is_not_this_machine_is_warned_of_before_anything_is_sent(
    command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    result = call(*command, "--url", "http://192.0.2.1:9/v1", "--timeout", 1, code=2)
    assert "the reports' text leaves this machine for http://192.0.2.1:9/v1" in result.stderr
    assert result.stderr.index("leaves this machine") < result.stderr.index("gave up after 1 tries")
    assert "Traceback" not in result.output
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_not_warned_of(command: list[object], server: Server, host: str):
    result = call(*command, "--url", f"http://{host}:{server.port}")
    assert "leaves this machine" not in result.output
    assert len(server.asks) == 2


def test_what_stays_on_this_machine_goes_through_no_proxy(
    command: list[object], server: Server, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
        monkeypatch.setenv(name.upper(), "http://192.0.2.1:9")
    call(*command)
    assert len(server.asks) == 2


@pytest.mark.parametrize(
    ("url", "local", "completions"),
    [
        ("http://localhost:8000/v1", True, "http://localhost:8000/v1/chat/completions"),
        ("http://localhost:11434/", True, "http://localhost:11434/v1/chat/completions"),
        ("http://127.0.0.1:1/v1/", True, "http://127.0.0.1:1/v1/chat/completions"),
        ("http://127.8.8.8/v1", True, "http://127.8.8.8/v1/chat/completions"),
        ("http://[::1]:8000", True, "http://[::1]:8000/v1/chat/completions"),
        ("http://model.localhost/v1", True, "http://model.localhost/v1/chat/completions"),
        ("https://host/api/v1beta", False, "https://host/api/v1beta/chat/completions"),
        ("http://0.0.0.0:8000", False, "http://0.0.0.0:8000/v1/chat/completions"),
        ("http://10.0.0.1/v1", False, "http://10.0.0.1/v1/chat/completions"),
        ("https://localhost.example.org/v1", False, "https://localhost.example.org/v1/chat/completions"),
        ("http://127.0.0.1.example.org/v1", False, "http://127.0.0.1.example.org/v1/chat/completions"),
    ],
)
def test_where_an_endpoint_is(url: str, local: bool, completions: str):
    endpoint = Endpoint(url, "m")
    assert endpoint.is_local is local
    assert endpoint.completions == completions


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1", "ftp://localhost/v1", "http://", "", "http://[::1/v1", "http://localhost:99999/v1",
        f"https://user:{KEY}@host/v1",
    ],
)  # fmt: skip
def test_a_url_that_is_none_or_holds_a_password_is_refused_at_once(command: list[object], server: Server, url: str):
    result = call(*command, "--url", url, code=2)
    assert "--url" in result.stderr
    assert KEY not in result.output
    assert not server.asks


def test_the_command_says_what_it_cost(command: list[object], server: Server):
    tokens_in = sum(len(f"FINDINGS:\n{x}\n\nIMPRESSION:\n{y}".split()) for x, y in map(film_texts, REPORTS[:2]))
    result = call(*command, "--price-in", 1_000_000, "--price-out", 0)
    shown = dict(re.findall(r"^│ *(.+?) *│ *(.+?) *│$", result.stdout, re.MULTILINE))
    assert shown["requests to the endpoint"] == "2"
    assert shown["tokens read, written"].split(",")[0] == str(tokens_in)
    assert shown["cost"] == f"{tokens_in:.4f}"
    assert shown["reports"] == "2"
    again = call(*command)
    shown = dict(re.findall(r"^│ *(.+?) *│ *(.+?) *│$", again.stdout, re.MULTILINE))
    assert shown["extracted by an earlier run".join(("of them ", ""))] == "2"
    assert len(server.asks) == 2


def film_texts(report: Report) -> tuple[str, str]:
    one, other = report.film_sections
    return one.text, other.text


def test_the_command_exits_with_one_when_a_report_failed_and_with_two_when_the_server_did(
    command: list[object], server: Server, tmp_path: Path
):
    server.behave = lambda ask: Reply(503)
    assert "run the same command again" in " ".join(call(*command, code=2).stderr.split())
    server.behave = lambda ask: Reply(content="no") if "Film 1 " in ask.text else GOOD
    assert "no valid answer in 1 tries" in call(*command, "--audit", 5, code=1).stdout
    assert "no valid answer in 1 tries" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_the_command_needs_a_model(tmp_path: Path):
    assert "--model" in call("extract", tmp_path, "-o", tmp_path / "o.jsonl", "--engine", "llm", code=2).stderr


def test_a_file_that_is_no_cache_is_named_and_left_alone(command: list[object], tmp_path: Path):
    mine = tmp_path / "mine.txt"
    mine.write_text("my notes, which are long enough to be no empty database " * 40, encoding="utf-8")
    before = mine.read_bytes()
    assert str(mine) in call(*command, "--cache", mine, code=2).stderr
    assert mine.read_bytes() == before


def test_a_cache_that_cannot_be_opened_is_named(command: list[object], tmp_path: Path):
    (tmp_path / "folder").mkdir()
    said = call(*command, "--cache", tmp_path / "folder", code=2).stderr
    assert f"{tmp_path / 'folder'}: cannot be used as the cache of answers" in said


def test_the_cache_may_lie_elsewhere_and_serves_another_output(command: list[object], server: Server, tmp_path: Path):
    cache = tmp_path / "deep" / "answers.db"
    call(*command, "--cache", cache)
    call(*command, "--cache", cache, "-o", tmp_path / "other.jsonl")
    assert (tmp_path / "other.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert len(server.asks) == 2
    database = sqlite3.connect(cache)
    try:
        assert database.execute("SELECT count(*) FROM answers").fetchone() == (2,)
    finally:
        database.close()
