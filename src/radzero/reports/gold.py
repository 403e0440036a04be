"""Measuring an engine against sentences that people, or the phantom writer, say are in the reports."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report
from radzero.reports.sentences import SIDES, FindingSentence, Polarity
from radzero.reports.sources import read_reports, report_files
from radzero.reports.vocabulary import FOLDER, Vocabulary

HALVES = ("development", "test")
_SIDE_OF_SITE = {"lingula": "left", "middle lobe": "right"}


@dataclass(frozen=True)
class Gold:
    """What a report states.

    Attributes:
        polarity, finding, side, site: as in :class:`~radzero.reports.sentences.FindingSentence`; the finding's name may
            be any that the vocabulary knows.
    """

    polarity: Polarity
    finding: str
    side: str
    site: str


@dataclass(frozen=True)
class GoldSet:
    """Reports with what they state.

    Attributes:
        name: of the set.
        reports: the reports.
        stated: of each, in the same order.
    """

    name: str
    reports: tuple[Report, ...]
    stated: tuple[tuple[Gold, ...], ...]

    @classmethod
    def open_i(cls, inputs: Sequence[Path], half: str) -> "GoldSet":
        """The hand-made gold set, with the reports' text from the user's own copy of Open-I (its licence keeps the
        text out of this repository).

        Raises:
            ValueError: for an unknown half, or when reports of the half are not among the inputs.
            FileNotFoundError: for inputs that are not there.
        """
        if half not in HALVES:
            raise ValueError(f"--half is {' or '.join(HALVES)}, not {half!r}")
        lines = (FOLDER / "gold_openi.jsonl").read_text(encoding="utf-8").splitlines()
        wanted = {r["report"]: r["sentences"] for r in map(json.loads, lines) if r["half"] == half}
        found: dict[str, Report] = {}
        for report in read_reports(report_files(inputs)):
            if isinstance(report, Report) and report.name in wanted:
                found.setdefault(report.name, report)
        if missing := sorted(wanted.keys() - found.keys()):
            raise ValueError(
                f"{len(missing)} of {len(wanted)} gold reports are not in the inputs, {missing[0]} for one"
            )
        stated = tuple(tuple(Gold(Polarity(p), f, side, site) for p, f, side, site in rows) for rows in wanted.values())
        return cls(f"Open-I gold set, {half} half", tuple(found[name] for name in wanted), stated)


def phantom_gold(films: int, seed: int) -> GoldSet:
    """Reports of phantoms ``0 .. films - 1`` of a seed, with their gold sentences and the signs that they describe."""
    from radzero.phantom.film import make_film
    from radzero.phantom.reports import write_report

    reports, stated = [], []
    for index in range(films):
        dictated = write_report(make_film(seed, index, size=72))
        reports.append(Report.from_text(f"phantom-{seed}-{index}", dictated.text))
        sentences = [FindingSentence.parse(s.text) for s in (*dictated.gold, *dictated.signs)]
        stated.append(tuple(Gold(s.polarity, s.finding, s.side, s.site) for s in sentences))
    return GoldSet(f"{films} phantom reports, seed {seed}", tuple(reports), tuple(stated))


@dataclass(frozen=True)
class Score:
    """How an engine's sentences compare with a gold set.

    Attributes:
        name: of the set.
        reports: how many.
        found, extra, missed: (report, finding, polarity) triples in both, only the engine's, only the gold's.
        polarity: of findings that both have in a report, the share with the same polarities.
        laterality: of triples in both, the share with the same sides, or none in both.
        sided_laterality: the same, of those triples where either names a side.
        matched, sided: how many findings ``polarity`` and triples ``sided_laterality`` are of.
        errors: every difference in words.
    """

    name: str
    reports: int
    found: int
    extra: int
    missed: int
    polarity: float
    laterality: float
    sided_laterality: float
    matched: int
    sided: int
    errors: tuple[str, ...]

    @property
    def precision(self) -> float:
        """Share of the engine's triples that the gold has."""
        return self.found / (self.found + self.extra) if self.found + self.extra else float("nan")

    @property
    def recall(self) -> float:
        """Share of the gold's triples that the engine has."""
        return self.found / (self.found + self.missed) if self.found + self.missed else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.found / (2 * self.found + self.extra + self.missed) if self.found else 0.0

    def table(self) -> Table:
        """The figures for a terminal."""
        table = Table("figure", "value", title=self.name)
        for label, value in (
            ("reports", str(self.reports)),
            ("precision of finding with polarity", f"{self.precision:.3f}"),
            ("recall", f"{self.recall:.3f}"),
            ("F1", f"{self.f1:.3f}"),
            (f"polarity right, of {self.matched} findings in both", f"{self.polarity:.3f}"),
            (f"laterality right, of {self.found} found with their polarity", f"{self.laterality:.3f}"),
            (f"  of the {self.sided} of them where either names a side", f"{self.sided_laterality:.3f}"),
        ):
            table.add_row(label, value)
        return table


def score_engine(engine: RulesEngine, gold: GoldSet) -> Score:
    """Run an engine over a gold set.

    Findings are compared under the vocabulary's names, each with its polarity once per report; descriptors and sites
    are not compared. "Left" and "right" together are the same as "bilateral"; the lingula is left, the middle lobe
    right.
    """
    found = extra = missed = matched = same_polarity = sided = same_side = 0
    errors: list[str] = []
    for report, stated in zip(gold.reports, gold.stated, strict=True):
        wanted = by_finding(stated, engine.vocabulary)
        given = by_finding(engine.extract(report).sentences, engine.vocabulary)
        found += len(wanted.keys() & given.keys())
        extra += len(given.keys() - wanted.keys())
        missed += len(wanted.keys() - given.keys())
        errors += [
            f"{report.name}: extra: {finding}, {polarity}" for finding, polarity in sorted(given.keys() - wanted.keys())
        ]
        errors += [
            f"{report.name}: missed: {finding}, {polarity}"
            for finding, polarity in sorted(wanted.keys() - given.keys())
        ]
        for finding in sorted({f for f, _ in wanted} & {f for f, _ in given}):
            matched += 1
            same_polarity += {p for f, p in wanted if f == finding} == {p for f, p in given if f == finding}
        for key in sorted(wanted.keys() & given.keys()):
            if wanted[key] or given[key]:
                sided += 1
                same_side += wanted[key] == given[key]
                if wanted[key] != given[key]:
                    said, right = ("/".join(sorted(sides[key])) or "none" for sides in (given, wanted))
                    errors.append(f"{report.name}: side: {key[0]}: {said}, not {right}")
    return Score(
        gold.name,
        len(gold.reports),
        found,
        extra,
        missed,
        same_polarity / matched if matched else float("nan"),
        (found - sided + same_side) / found if found else float("nan"),
        same_side / sided if sided else float("nan"),
        matched,
        sided,
        tuple(errors),
    )


def by_finding(
    sentences: Iterable[Gold | FindingSentence], vocabulary: Vocabulary
) -> dict[tuple[str, Polarity], frozenset[str]]:
    """Sides of every finding with its polarity."""
    sides: dict[tuple[str, Polarity], frozenset[str]] = {}
    for sentence in sentences:
        words, side = sentence.finding.removeprefix("acute ").split(), sentence.side
        if words[0] in SIDES and len(words) > 1 and vocabulary.canonical(" ".join(words)) == " ".join(words):
            side, words = words[0], words[1:]  # "left atrial enlargement"
        key = vocabulary.canonical(" ".join(words)), sentence.polarity
        both = {"bilateral": ("left", "right"), "": ()}.get(side, (side,))
        both = (*both, *(own for part, own in _SIDE_OF_SITE.items() if part in sentence.site))
        sides[key] = sides.get(key, frozenset()) | frozenset(both)
    return sides
