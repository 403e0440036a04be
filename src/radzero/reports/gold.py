"""Measure an engine against the sentences that reports state according to people or to the phantom writer."""

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
    """Finding that a report states.

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
    """Reports with the findings that they state.

    Attributes:
        name: name of the set.
        reports: the reports.
        stated: findings that each report states, in the same order.
    """

    name: str
    reports: tuple[Report, ...]
    stated: tuple[tuple[Gold, ...], ...]

    @classmethod
    def open_i(cls, inputs: Sequence[Path], half: str) -> "GoldSet":
        """Return the hand-made gold set, with the reports' text from the user's own copy of Open-I.

        The licence of Open-I keeps the text out of this repository.

        Raises:
            ValueError: for an unknown half, or when reports of the half are not among the inputs.
            FileNotFoundError: when an input does not exist.
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
    """Return reports of phantoms ``0 .. films - 1`` of a seed, with their gold sentences and described signs."""
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
    """Comparison of an engine's sentences with a gold set.

    Shares are 0..1, or NaN where there is nothing to take the share of.

    Attributes:
        name: name of the gold set.
        reports: number of its reports.
        found, extra, missed: number of (report, finding, polarity) triples that both have, that only the engine has,
            and that only the gold set has.
        polarity: of the findings that both have in a report, the share with the same polarities.
        laterality: of the triples that both have, the share with the same sides, or with no side in both.
        sided_laterality: the same share, of those triples where either names a side.
        matched, sided: number of findings that ``polarity``, and of triples that ``sided_laterality`` is the share of.
        errors: every difference, in words.
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
        """Share of the engine's triples that the gold set has."""
        return self.found / (self.found + self.extra) if self.found + self.extra else float("nan")

    @property
    def recall(self) -> float:
        """Share of the gold set's triples that the engine has."""
        return self.found / (self.found + self.missed) if self.found + self.missed else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where no triple is found."""
        return 2 * self.found / (2 * self.found + self.extra + self.missed) if self.found else 0.0

    def table(self) -> Table:
        """Return the figures as a table for a terminal."""
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
    """Run an engine over a gold set and compare its sentences.

    Findings are compared under the vocabulary's names; each counts once per report and polarity. Descriptors and sites
    are not compared. "Left" and "right" together equal "bilateral"; the lingula counts as left, the middle lobe as
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
    """Return the sides of every (finding, polarity) pair, under the vocabulary's names."""
    sides: dict[tuple[str, Polarity], frozenset[str]] = {}
    for sentence in sentences:
        words, side = sentence.finding.removeprefix("acute ").split(), sentence.side
        if words[0] in SIDES and len(words) > 1 and vocabulary.canonical(" ".join(words)) == " ".join(words):
            side, words = words[0], words[1:]  # the side is in the name: "left atrial enlargement"
        key = vocabulary.canonical(" ".join(words)), sentence.polarity
        both = {"bilateral": ("left", "right"), "": ()}.get(side, (side,))
        both = (*both, *(own for part, own in _SIDE_OF_SITE.items() if part in sentence.site))
        sides[key] = sides.get(key, frozenset()) | frozenset(both)
    return sides
