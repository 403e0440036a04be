"""The language-model engine: any OpenAI-compatible endpoint, answers checked, cached, and paid for once."""

import hashlib
import ipaddress
import json
import os
import random
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from radzero.reports.engine import Extraction, SetAside
from radzero.reports.repair import repaired
from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, InvalidSentenceError, Provenance

PROMPT = Path(__file__).parent / "data" / "prompt.txt"
KEY_VARIABLE = "RADZERO_LLM_API_KEY"
"""Environment variable that holds the endpoint's key, if it wants one; ``OPENAI_API_KEY`` where it is not set."""

_SCHEMA = {
    "type": "object",
    "properties": {
        "sentences": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"text": {"type": "string"}, "quote": {"type": "string"}},
                "required": ["text", "quote"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["sentences"],
    "additionalProperties": False,
}
_FORMATS: tuple[dict[str, Any] | None, ...] = (
    {"type": "json_schema", "json_schema": {"name": "finding_sentences", "strict": True, "schema": _SCHEMA}},
    {"type": "json_object"},
    None,
)
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)


class EndpointError(RuntimeError):
    """The endpoint cannot be used: unreachable for too long, or it refuses; nothing is lost, run again to go on."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        url: base URL of an OpenAI-compatible API, with or without ``/v1`` ("http://localhost:8000/v1").
        model: name of the model there.
        temperature: 0 for the likeliest answer.
        max_tokens: of an answer.
        tries: how often an answer that is no valid JSON is asked for, and a failing request repeated.
        concurrency: requests under way at once.
        timeout: seconds for one answer.
        backoff: seconds before the first repetition; doubled each time, at most 60.
        price_in, price_out: money per million tokens, for the summary.

    Raises:
        ValueError: on construction, when the URL is none, or holds a password.
    """

    url: str
    model: str
    temperature: float = 0.0
    max_tokens: int = 2048
    tries: int = 5
    concurrency: int = 8
    timeout: float = 120.0
    backoff: float = 1.0
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)  # a ValueError of its own where brackets or the like are wrong
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url}: not an http:// or https:// URL")
        if parts.username or parts.password:
            raise ValueError(f"the URL of {parts.hostname} holds a name or password; put the key in {KEY_VARIABLE}")

    @property
    def is_local(self) -> bool:
        """Whether the text stays on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @property
    def completions(self) -> str:
        """URL of the chat completions."""
        base = self.url.rstrip("/")
        return f"{base}/chat/completions" if re.search(r"/v\d+[a-z]*$", base) else f"{base}/v1/chat/completions"


@dataclass
class Usage:
    """What the answers cost.

    Attributes:
        requests: sent, repetitions too.
        cached: answers that were there already.
        tokens_in, tokens_out: as the endpoint counts them.
    """

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def cost(self, endpoint: Endpoint) -> float:
        """In the money of the endpoint's prices."""
        return (self.tokens_in * endpoint.price_in + self.tokens_out * endpoint.price_out) / 1e6


@dataclass(frozen=True)
class _Answer:
    content: str
    time: str


class AnswerCache:
    """Answers on disk, by report, prompt, model and settings; survives a kill at any moment.

    Args:
        path: of the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, content TEXT, time TEXT)")

    def get(self, key: str) -> _Answer | None:
        """The answer under ``key``, if there is one."""
        with self._lock:
            row = self._database.execute("SELECT content, time FROM answers WHERE key = ?", (key,)).fetchone()
        return _Answer(*row) if row else None

    def put(self, key: str, answer: _Answer) -> None:
        """Keep an answer."""
        with self._lock:
            self._database.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, answer.content, answer.time)
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


class LLMEngine:
    """Extraction by a language model behind an OpenAI-compatible endpoint.

    Every answer must be JSON of the prompt's form; each sentence goes through the grammar, is repaired by rule where
    one applies, and must quote words that stand in the report. What does not pass is set aside with its reason.

    Args:
        endpoint: where and how.
        cache: SQLite file of answers.
        prompt: file of the system prompt; None for the package's.
        sleep: waits; replaced in tests.
    """

    name = "llm"

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path,
        prompt: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.usage = Usage()
        self._prompt = (prompt or PROMPT).read_text(encoding="utf-8")
        self._prompt_hash = hashlib.sha256(self._prompt.encode()).hexdigest()[:12]
        self._cache = AnswerCache(cache)
        self._sleep = sleep
        self._format = 0
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        key = os.environ.get(KEY_VARIABLE) or os.environ.get("OPENAI_API_KEY")
        self._client = httpx.Client(
            timeout=endpoint.timeout,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=endpoint.concurrency),
        )

    @property
    def identity(self) -> dict[str, str]:
        """Engine, model and hash of the prompt."""
        return {"engine": self.name, "model": self.endpoint.model, "prompt": self._prompt_hash}

    def close(self) -> None:
        """Close the connections and the cache."""
        self._client.close()
        self._cache.close()

    def extract_all(self, reports: Iterable[Report]) -> Iterator[Extraction]:
        """One extraction per report, in their order, several under way at once.

        Raises:
            EndpointError: when the endpoint stays unreachable or refuses; extractions before it have been given out.
        """
        window: deque[Future[Extraction]] = deque()
        with ThreadPoolExecutor(self.endpoint.concurrency) as workers:
            try:
                for report in reports:
                    window.append(workers.submit(self.extract, report))
                    if len(window) >= 2 * self.endpoint.concurrency:
                        yield window.popleft().result()
                while window:
                    yield window.popleft().result()
            finally:
                for future in window:
                    future.cancel()

    def extract(self, report: Report) -> Extraction:
        """The finding-sentences of one report."""
        sections = report.film_sections
        if not sections:
            return Extraction(report.name, (), 0, ())
        text = "\n\n".join(f"{section.name.upper()}:\n{section.text}" for section in sections)
        problem = ""
        for attempt in range(self.endpoint.tries):
            answer = self._ask(text, attempt)
            try:
                items = _items(answer.content)
            except ValueError as error:
                problem = str(error)
                continue
            return self._checked(report, items, answer.time)
        return Extraction(report.name, (), 0, (), error=f"no valid answer in {self.endpoint.tries} tries: {problem}")

    # -- asking ------------------------------------------------------------------------------------------

    def _ask(self, text: str, attempt: int) -> _Answer:
        settings = [
            self.endpoint.model,
            self.endpoint.temperature,
            self.endpoint.max_tokens,
            self._prompt,
            text,
            attempt,
        ]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:  # two reports of the same words are asked once
            if cached := self._cache.get(key):
                with self._lock:
                    self.usage.cached += 1
                return cached
            answer = self._request(text, attempt)
            self._cache.put(key, answer)
        with self._lock:
            self._asking.pop(key, None)
        return answer

    def _request(self, text: str, attempt: int) -> _Answer:
        failure = ""
        for repetition in range(self.endpoint.tries):
            if repetition:
                self._sleep(self._delay(repetition, failure))
            response_format = _FORMATS[self._format]
            body: dict[str, Any] = {
                "model": self.endpoint.model,
                "messages": [{"role": "system", "content": self._prompt}, {"role": "user", "content": text}],
                "temperature": self.endpoint.temperature
                if attempt == 0
                else max(self.endpoint.temperature, 0.2 * attempt),
                "max_tokens": self.endpoint.max_tokens,
                "seed": attempt,
            }
            if response_format is not None:
                body["response_format"] = response_format
            with self._lock:
                self.usage.requests += 1
            try:
                response = self._client.post(self.endpoint.completions, json=body)
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in _RETRIED:
                failure = f"HTTP {response.status_code}; retry-after {response.headers.get('retry-after', '')}"
                continue
            if response.status_code in (400, 422) and response_format is not None and "format" in response.text.lower():
                with self._lock:  # the server does not know this way of asking for JSON
                    self._format = min(_FORMATS.index(response_format) + 1, len(_FORMATS) - 1)
                failure = "response_format is not supported"
                continue
            if response.status_code != 200:
                raise EndpointError(f"{self.endpoint.completions}: HTTP {response.status_code}: {response.text[:300]}")
            try:
                return self._answer(response.json())
            except (ValueError, KeyError, IndexError, TypeError) as error:
                failure = f"not a chat completion: {error}"
        raise EndpointError(
            f"{self.endpoint.completions}: gave up after {self.endpoint.tries} tries ({failure}). "
            "What was extracted is kept; run the same command again when the endpoint answers"
        )

    def _delay(self, repetition: int, failure: str) -> float:
        if match := re.search(r"retry-after (\d+(?:\.\d+)?)$", failure):
            return min(float(match[1]), 300.0)
        if failure.startswith("response_format"):
            return 0.0
        return min(self.endpoint.backoff * 2 ** (repetition - 1), 60.0) * (0.75 + 0.5 * random.random())

    def _answer(self, completion: dict[str, Any]) -> _Answer:
        content = completion["choices"][0]["message"]["content"] or ""
        usage = completion.get("usage") or {}
        with self._lock:
            self.usage.tokens_in += int(usage.get("prompt_tokens") or 0)
            self.usage.tokens_out += int(usage.get("completion_tokens") or 0)
        created = completion.get("created")
        moment = datetime.fromtimestamp(created, UTC) if isinstance(created, int) else datetime.now(UTC)
        return _Answer(str(content), moment.isoformat(timespec="seconds"))

    # -- checking ----------------------------------------------------------------------------------------

    def _checked(self, report: Report, items: list[tuple[str, str]], moment: str) -> Extraction:
        kept: list[FindingSentence] = []
        aside: list[SetAside] = []
        merged = 0
        for text, quote in items:
            place = _locate(report, quote)
            section, start, end = place or (report.film_sections[0].name, 0, 0)
            provenance = Provenance(
                report.name, section, start, end, self.name, self.endpoint.model, self._prompt_hash, moment
            )
            if place is None:
                aside.append(SetAside(text, "its quote is not in the report", provenance))
                continue
            try:
                sentences = repaired(text)
            except InvalidSentenceError as error:
                aside.append(SetAside(text, str(error), provenance))
                continue
            for sentence in sentences:
                if sentence in kept:
                    merged += 1
                else:
                    kept.append(sentence.at(provenance))
        return Extraction(report.name, tuple(kept), merged, tuple(aside), moment)


def _items(content: str) -> list[tuple[str, str]]:
    """Sentences and quotes of an answer.

    Raises:
        ValueError: when it is not JSON of the form asked for.
    """
    content = re.sub(r"^\s*<think>.*?</think>", "", content, flags=re.DOTALL).strip()
    content = re.sub(r"^```(?:json)?\s*|\s*```$", "", content)
    try:
        answer = json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    sentences = answer.get("sentences") if isinstance(answer, dict) else None
    if not isinstance(sentences, list):
        raise ValueError('no list under "sentences"')
    items = []
    for entry in sentences:
        if not (isinstance(entry, dict) and isinstance(entry.get("text"), str) and isinstance(entry.get("quote"), str)):
            raise ValueError('a sentence without "text" and "quote"')
        items.append((entry["text"], entry["quote"]))
    return items


def _locate(report: Report, quote: str) -> tuple[str, int, int] | None:
    """Section and span of a quote; case, spaces and punctuation at its ends do not count."""
    words = re.findall(r"\w+", quote)
    if not words:
        return None
    pattern = re.compile(r"\W+".join(map(re.escape, words)), re.IGNORECASE)
    for section in report.film_sections:
        if match := pattern.search(section.text):
            return section.name, match.start(), match.end()
    return None
