"""What an engine gives back for a report."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from radzero.reports.sections import Report
from radzero.reports.sentences import FindingSentence, Provenance


@dataclass(frozen=True)
class SetAside:
    """What an engine said that is no valid finding-sentence.

    Attributes:
        text: what it said.
        reason: why not.
        provenance: where.
    """

    text: str
    reason: str
    provenance: Provenance


@dataclass(frozen=True)
class Extraction:
    """What an engine made of a report.

    Attributes:
        report: its name.
        sentences: valid finding-sentences, no two alike, in the order of their first mention.
        merged: how many further mentions said the same as one of them.
        set_aside: what did not become a sentence, and why.
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
    """What makes finding-sentences of reports."""

    @property
    def identity(self) -> dict[str, str]:
        """What the sentences depend on: engine, model, prompt; written in every line."""

    def extract_all(self, reports: Iterable[Report]) -> Iterator[Extraction]:
        """One extraction per report, in their order."""
