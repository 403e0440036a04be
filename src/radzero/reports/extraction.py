"""Run an engine over many reports, in order and in several processes; a killed run resumes without loss."""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from radzero._processes import process_pool
from radzero.reports.engine import Engine, Extraction, SetAside
from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, Polarity, Provenance
from radzero.reports.sources import Unread
from radzero.reports.vocabulary import Vocabulary


@dataclass
class Summary:
    """Counts of a run, the lines of earlier runs included.

    Attributes:
        reports: number of reports that were read; those that the engine gave up on are included.
        unread: number of sources that could not be read.
        empty: number of reports without a finding-sentence, such as those without a section that describes the film.
        sentences: number of finding-sentences of all reports.
        polarities: polarity -> number of sentences.
        merged: number of further mentions, as in :class:`~radzero.reports.engine.Extraction`.
        set_aside: reason -> number of statements that were set aside.
        failed: reason -> number of reports that the engine gave up on.
        resumed: number of lines that an earlier run wrote.
        problems: the first five sources that could not be read or failed, each with the reason.
    """

    reports: int = 0
    unread: int = 0
    empty: int = 0
    sentences: int = 0
    polarities: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Count a line of the output."""
        if "error" in record and len(self.problems) < 5:
            self.problems.append(f"{record['source']}: {record['reason']}")
        if record.get("error") == "unread":
            self.unread += 1
            return
        self.reports += 1
        if "error" in record:
            self.failed[record["reason"].split(":")[0]] += 1
            return
        self.empty += not record["sentences"]
        self.sentences += len(record["sentences"])
        self.polarities.update(s["polarity"] for s in record["sentences"])
        self.merged += record["merged"]
        self.set_aside.update(s["reason"].split(":")[0] for s in record["set_aside"])


_LINE_START = b'{"report": '
"""Beginning of every output line; a cut-off line that begins otherwise is of another file, which is left as it is."""


def record_of(report: Report | Unread, extraction: Extraction | None, identity: dict[str, str]) -> dict[str, Any]:
    """Return the output line of a report as a mapping."""
    if isinstance(report, Unread):
        return {"report": None, "source": report.source, "error": "unread", "reason": report.reason}
    assert extraction is not None  # every report has an extraction
    line: dict[str, Any] = {"report": report.name, "source": report.source, **identity}
    if extraction.error:
        return {**line, "error": "failed", "reason": extraction.error}
    if extraction.time:
        line["time"] = extraction.time
    return {
        **line,
        "sentences": [_sentence(s) for s in extraction.sentences],
        "merged": extraction.merged,
        "set_aside": [_aside(a) for a in extraction.set_aside],
    }


def _sentence(sentence: FindingSentence) -> dict[str, Any]:
    provenance = sentence.provenance
    assert provenance is not None  # every engine states it
    return {
        "text": sentence.text,
        "polarity": sentence.polarity.value,
        "finding": sentence.finding,
        "descriptors": list(sentence.descriptors),
        "side": sentence.side,
        "site": sentence.site,
        "section": provenance.section,
        "start": provenance.start,
        "end": provenance.end,
    }


def _aside(aside: SetAside) -> dict[str, Any]:
    return {
        "text": aside.text,
        "reason": aside.reason,
        "section": aside.provenance.section,
        "start": aside.provenance.start,
        "end": aside.provenance.end,
    }


def sentences_of(record: dict[str, Any]) -> list[FindingSentence]:
    """Return the finding-sentences of an output line, with their provenance."""
    return [
        FindingSentence(
            Polarity(s["polarity"]),
            s["finding"],
            tuple(s["descriptors"]),
            s["side"],
            s["site"],
            Provenance(
                record["report"],
                s["section"],
                s["start"],
                s["end"],
                record["engine"],
                record.get("model", ""),
                record.get("prompt", ""),
                record.get("time", ""),
            ),
        )
        for s in record.get("sentences", [])
    ]


def read_lines(output: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of an output file as mappings."""
    with output.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def extract_reports(
    reports: Iterable[Report | Unread],
    output: Path,
    engine: Engine,
    *,
    on_report: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Extract ``reports`` into ``output``, one line of JSON each, in order; resume where an earlier run stopped.

    Reports whose lines are there are not extracted again. A line that a kill left incomplete is removed, and written
    again.

    Raises:
        ValueError: when ``output`` was made by another engine, vocabulary, prompt or model, or from other reports.
    """
    summary = Summary()
    done = _lines_done(output, engine.identity, summary)
    summary.resumed = len(done)
    position = 0

    def remaining() -> Iterator[Report | Unread]:
        nonlocal position
        for report in reports:
            if position < len(done):
                if done[position] != report.source:
                    raise ValueError(
                        f"{output}: line {position + 1} is of {done[position]}, but the input's report {position + 1} "
                        f"is {report.source}: it was made from other reports; give another output"
                    )
                position += 1
                on_report(position)
                continue
            yield report

    # backslashreplace writes the bytes of a file name that is not UTF-8 as JSON escapes, so that none is lost
    with output.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        count = len(done)
        for report, extraction in _paired(remaining(), engine):
            record = record_of(report, extraction, engine.identity)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
            if count % 64 == 0 or engine.identity["engine"] != "rules":
                file.flush()
            summary.add(record)
            on_report(count)
        file.flush()
        os.fsync(file.fileno())
    if position < len(done):
        raise ValueError(f"{output}: has more reports than the input; give another output")
    return summary


def _paired(items: Iterable[Report | Unread], engine: Engine) -> Iterator[tuple[Report | Unread, Extraction | None]]:
    """Yield items with their extractions (None for an unread one), in order, while the engine works ahead."""
    waiting: deque[Report | Unread] = deque()

    def readable() -> Iterator[Report]:
        for item in items:
            waiting.append(item)
            if isinstance(item, Report):
                yield item

    for extraction in engine.extract_all(readable()):
        while isinstance(waiting[0], Unread):
            yield waiting.popleft(), None
        yield waiting.popleft(), extraction
    for item in waiting:
        yield item, None


def _lines_done(output: Path, identity: dict[str, str], summary: Summary) -> list[str]:
    """Return the sources of an earlier run's lines, count the lines, and cut off one that a kill left incomplete."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        return []
    sources: list[str] = []
    with output.open("rb+") as file:
        end = 0
        for line in file:
            foreign = f"{output}: line {len(sources) + 1} is not of an extraction; give another output"
            if not line.endswith(b"\n"):
                if line[: len(_LINE_START)] != _LINE_START[: len(line)]:
                    raise ValueError(foreign)
                break
            try:
                record = json.loads(line)
                source = record["source"]
                found = {key: record[key] for key in identity if key in record}
                summary.add(record)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(foreign) from error
            if record.get("error") != "unread" and found != identity:
                raise ValueError(f"{output}: was made by {found}, not by {identity}; give another output")
            sources.append(source)
            end += len(line)
        file.truncate(end)
    return sources


# -- rules in several processes ---------------------------------------------------------------------------

_worker: RulesEngine | None = None


def _start_worker(vocabulary: Path | None, cues: Path | None) -> None:
    global _worker
    _worker = RulesEngine(Vocabulary(vocabulary, cues))


def _work(report: Report) -> Extraction:
    assert _worker is not None  # _start_worker has set it
    return _worker.extract(report)


class RulesPool:
    """Run the rules engine in several processes.

    Args:
        vocabulary, cues: YAML files of its words; None for the package's.
        processes: number of processes; 1 runs the engine in this process.
    """

    def __init__(self, vocabulary: Path | None = None, cues: Path | None = None, processes: int = 1) -> None:
        self._files = (vocabulary, cues)
        self._engine = RulesEngine(Vocabulary(vocabulary, cues))
        self._processes = processes

    @property
    def identity(self) -> dict[str, str]:
        """Name of the engine and hash of its words."""
        return self._engine.identity

    def extract_all(self, reports: Iterable[Report]) -> Iterator[Extraction]:
        """Yield one extraction per report, in the order of the reports.

        Raises:
            ChildProcessError: when a process was killed.
        """
        if self._processes == 1:
            yield from self._engine.extract_all(reports)
            return
        source = iter(reports)
        try:
            with process_pool(self._processes, _start_worker, *self._files) as pool:
                # batches bound the memory, since an archive may hold 200,000 reports
                while batch := list(islice(source, 512 * self._processes)):
                    yield from pool.map(_work, batch, chunksize=32)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process of the rules engine was killed (for memory?); what was extracted is kept, run again to go on"
            ) from error
