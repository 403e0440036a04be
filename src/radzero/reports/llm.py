"""Extract findings with a language model behind any OpenAI-compatible endpoint.

Every answer is checked, and cached so that it is paid for once.
"""

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

from radzero.errors import RadZeroError
from radzero.reports.engine import Extraction, SetAside
from radzero.reports.repair import repaired
from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, InvalidSentenceError, Provenance

PROMPT = Path(__file__).parent / "data" / "prompt.txt"
KEY_VARIABLE = "RADZERO_LLM_API_KEY"
"""Environment variable of the endpoint's key, if it needs one; where it is not set, ``OPENAI_API_KEY`` is read."""

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
_OF_THIS_REPORT = re.compile(
    r"context.(?:length|size|window)|too long|content.?filter|content management", re.IGNORECASE
)
"""Words of a refusal that concerns one report: it is longer than the model can read, or a filter stops it."""


class EndpointError(RadZeroError, RuntimeError):
    """The endpoint cannot be used: it stays unreachable, or it refuses. Nothing is lost; run again to resume."""


class RefusedReportError(RadZeroError, RuntimeError):
    """The endpoint refuses one report; the message is the reason."""


@dataclass(frozen=True)
class Endpoint:
    """Address of a language model, and how to request its answers.

    Attributes:
        url: base URL of an OpenAI-compatible API, with or without ``/v1`` ("http://localhost:8000/v1").
        model: name of the model at the endpoint.
        temperature: sampling temperature; 0 for the likeliest answer.
        max_tokens: largest number of tokens of an answer.
        tries: largest number of answers requested until one is valid JSON, and of tries of a failing request.
        concurrency: largest number of requests under way at once.
        timeout: seconds to wait for one answer.
        backoff: seconds before the first repetition; doubled each time up to 60, and varied at random by up to a
            quarter. A Retry-After of the endpoint, up to 300 seconds, takes its place.
        price_in, price_out: prices of a million tokens read and written, for the summary.

    Raises:
        ValueError: on construction, when the URL is not an http or https URL, or holds a user name or password.
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
        parts = urlsplit(self.url)  # raises ValueError itself where brackets or the like are wrong
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
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
    """Requests and tokens that the answers cost.

    Attributes:
        requests: number of requests sent, repetitions included.
        cached: number of answers taken from the cache.
        tokens_in, tokens_out: numbers of tokens read and written, as the endpoint counts them.
    """

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def cost(self, endpoint: Endpoint) -> float:
        """Return the cost in the currency of the endpoint's prices."""
        return (self.tokens_in * endpoint.price_in + self.tokens_out * endpoint.price_out) / 1e6


@dataclass(frozen=True)
class _Answer:
    content: str
    time: str


class AnswerCache:
    """Keep answers on disk by report, prompt, model and settings; they survive a kill at any moment.

    Args:
        path: path of the SQLite file.

    Raises:
        OSError: on construction, in ``get`` and in ``put``, when the file cannot be used as an SQLite database.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, content TEXT, time TEXT)")
        except OSError:
            self.close()
            raise

    def get(self, key: str) -> _Answer | None:
        """Return the answer under ``key``, or None."""
        rows = self._execute("SELECT content, time FROM answers WHERE key = ?", key)
        return _Answer(*rows[0]) if rows else None

    def put(self, key: str, answer: _Answer) -> None:
        """Keep an answer under ``key``."""
        self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, answer.content, answer.time)

    def _execute(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> OSError:
        return OSError(f"{self._path}: cannot be used as the cache of answers: {error}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


class LLMEngine:
    """Extract findings with a language model behind an OpenAI-compatible endpoint.

    Every answer must be JSON of the prompt's form. Each sentence must quote words that stand in the report and follow
    the grammar; a rule repairs it where one applies. A sentence that fails is set aside with its reason.

    Args:
        endpoint: address of the model, and how to request its answers.
        cache: path of the SQLite file of answers.
        prompt: file of the system prompt; None for the package's.
        sleep: function that waits a number of seconds; replaced in tests.
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
        self._key = _key()
        self._cache = AnswerCache(cache)
        self._sleep = sleep
        self._format = 0
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._client = httpx.Client(
            timeout=endpoint.timeout,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_connections=endpoint.concurrency),
            # a request that stays on this machine uses no proxy that the environment names
            mounts={"http://": None, "https://": None} if endpoint.is_local else None,
        )

    @property
    def identity(self) -> dict[str, str]:
        """Names of the engine and the model, and hash of the prompt."""
        return {"engine": self.name, "model": self.endpoint.model, "prompt": self._prompt_hash}

    def close(self) -> None:
        """Close the connections and the cache."""
        self._client.close()
        self._cache.close()

    def extract_all(self, reports: Iterable[Report]) -> Iterator[Extraction]:
        """Yield one extraction per report, in the order of the reports, while several are under way.

        Raises:
            EndpointError: when the endpoint stays unreachable or refuses; the extractions before it have been yielded.
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
        """Return the finding-sentences of one report."""
        sections = report.film_sections
        if not sections:
            return Extraction(report.name, (), 0, ())
        text = "\n\n".join(f"{section.name.upper()}:\n{section.text}" for section in sections)
        problem = ""
        for attempt in range(self.endpoint.tries):
            try:
                answer = self._ask(text, attempt)
            except RefusedReportError as error:
                return Extraction(report.name, (), 0, (), error=str(error))
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
        with asking:  # reports of the same words need one request
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
            try:
                response = self._post(text, attempt)
            except httpx.HTTPError as error:
                failure = self._without_key(f"{type(error).__name__}: {error}")
                continue
            if response.status_code in _RETRIED:
                failure = f"HTTP {response.status_code}; retry-after {response.headers.get('retry-after', '')}"
                continue
            if response.status_code != 200:
                said = f"HTTP {response.status_code}: {self._without_key(response.text)[:300]}"
                if response.status_code == 413 or (
                    response.status_code in (400, 422) and _OF_THIS_REPORT.search(response.text)
                ):
                    raise RefusedReportError(f"refused by the endpoint: {said}")
                raise EndpointError(f"{self.endpoint.completions}: {said}")
            try:
                return self._answer(response.json())
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                failure = f"not a chat completion: {error}"
        raise EndpointError(
            f"{self.endpoint.completions}: gave up after {self.endpoint.tries} tries ({failure}). "
            "What was extracted is kept; run the same command again when the endpoint answers"
        )

    def _post(self, text: str, attempt: int) -> httpx.Response:
        """Return the endpoint's response; where it does not know a response format, request a plainer one at once."""
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": "system", "content": self._prompt}, {"role": "user", "content": text}],
            "temperature": self.endpoint.temperature if attempt == 0 else max(self.endpoint.temperature, 0.2 * attempt),
            "max_tokens": self.endpoint.max_tokens,
            "seed": attempt,
        }
        for plainness, response_format in enumerate(_FORMATS):
            if plainness < self._format:
                continue
            with self._lock:
                self.usage.requests += 1
            response = self._client.post(
                self.endpoint.completions,
                json={**body, "response_format": response_format} if response_format else body,
            )
            if response.status_code not in (400, 422) or "format" not in response.text.lower():
                break
        if response.status_code == 200:
            with self._lock:
                self._format = max(self._format, plainness)
        return response

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _delay(self, repetition: int, failure: str) -> float:
        if match := re.search(r"retry-after (\d+(?:\.\d+)?)$", failure):
            return min(float(match[1]), 300.0)
        return min(self.endpoint.backoff * 2 ** (repetition - 1), 60.0) * (0.75 + 0.5 * random.random())

    def _answer(self, completion: dict[str, Any]) -> _Answer:
        content = completion["choices"][0]["message"]["content"] or ""
        usage = completion.get("usage") or {}
        with self._lock:
            self.usage.tokens_in += int(usage.get("prompt_tokens") or 0)
            self.usage.tokens_out += int(usage.get("completion_tokens") or 0)
        created = completion.get("created")
        if not isinstance(created, int | float) or not 0 < created < 1e11:
            created = time.time()  # some endpoints state no time, or milliseconds
        moment = datetime.fromtimestamp(int(created), UTC)
        return _Answer(_characters(str(content)), moment.isoformat(timespec="seconds"))

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


def _key() -> str:
    """Return the endpoint's key, or "" where none is set.

    Raises:
        ValueError: when it holds a space or a character that no key has; the message does not show it.
    """
    for variable in (KEY_VARIABLE, "OPENAI_API_KEY"):
        if key := os.environ.get(variable, "").strip():
            if not re.fullmatch(r"[!-~]+", key):
                raise ValueError(f"{variable}: holds a space or a character that no key has")
            return key
    return ""


def _characters(text: str) -> str:
    """Return the text with "?" for every half of a surrogate pair, which JSON escapes can hold and no file can."""
    return text.encode("utf-8", "replace").decode()


def _items(content: str) -> list[tuple[str, str]]:
    """Return the sentences and quotes of an answer.

    Raises:
        ValueError: when the answer is not JSON of the requested form.
    """
    content = re.sub(r"^\s*<think>.*?</think>", "", content, flags=re.DOTALL).strip()
    try:
        answer = json.loads(content)
    except json.JSONDecodeError as error:
        answer = _object_in(content)
        if answer is None:
            raise ValueError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    sentences = answer.get("sentences") if isinstance(answer, dict) else None
    if not isinstance(sentences, list):
        raise ValueError('no list under "sentences"')
    items = []
    for entry in sentences:
        if not (isinstance(entry, dict) and isinstance(entry.get("text"), str) and isinstance(entry.get("quote"), str)):
            raise ValueError('a sentence without "text" and "quote"')
        items.append((_characters(entry["text"]), entry["quote"]))
    return items


def _object_in(content: str) -> Any:
    """Return the JSON object with sentences that stands among other words or in a code fence; None without one."""
    decoder, found = json.JSONDecoder(), None
    for match in re.finditer(r'\{\s*"sentences"', content):
        try:
            found = decoder.raw_decode(content, match.start())[0]  # the last one counts, as models reason before it
        except (json.JSONDecodeError, RecursionError):
            continue
    return found


def _locate(report: Report, quote: str) -> tuple[str, int, int] | None:
    """Return the section and the span, in characters, of a quote, or None; only the words count, in any case."""
    words = re.findall(r"\w+", quote)
    if not words:
        return None
    pattern = re.compile(r"\W+".join(map(re.escape, words)), re.IGNORECASE)
    for section in report.film_sections:
        if match := pattern.search(section.text):
            return section.name, match.start(), match.end()
    return None
