"""Define what an engine returns for a report."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, Provenance


@dataclass(frozen=True)
class SetAside:
    """Statement of an engine that is no valid finding-sentence.

    Attributes:
        text: the language model's sentence, or the report's words that the rules engine read.
        reason: why it is no valid sentence.
        provenance: where the report states it.
    """

    text: str
    reason: str
    provenance: Provenance


@dataclass(frozen=True)
class Extraction:
    """Finding-sentences that an engine extracted from a report.

    Attributes:
        report: name of the report.
        sentences: valid finding-sentences, no two alike, in the order of their first mention.
        merged: number of further mentions that state the same as one of them or, for the rules, are outweighed by one.
        set_aside: statements that did not become a sentence, each with the reason.
        time: when a language model answered, ISO 8601; "" for the rules.
        error: why the engine gave up on the report; "" when it did not.
    """

    report: str
    sentences: tuple[FindingSentence, ...]
    merged: int
    set_aside: tuple[SetAside, ...]
    time: str = ""
    error: str = ""


class Engine(Protocol):
    """Interface of an engine, which extracts finding-sentences from reports."""

    @property
    def identity(self) -> dict[str, str]:
        """What the sentences depend on (engine, model, prompt); it is written in the output line of every report."""

    def extract_all(self, reports: Iterable[Report]) -> Iterator[Extraction]:
        """Yield one extraction per report, in the order of the reports."""
