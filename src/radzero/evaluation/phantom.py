"""The phantom benchmark: what a model sees on phantoms that training never saw, per finding and per grade.

Every film is asked ``There is {finding}`` and ``There is no {finding}`` for the twelve findings, and right and left for
pleural effusion and pneumothorax. Films come in all grades, mixed evenly.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from rich.table import Table

from radzero.evaluation.metrics import THRESHOLDS, auc, dice_sweep, pointing_hit
from radzero.images import Radiograph
from radzero.phantom.film import Evidence, Film, make_film
from radzero.phantom.findings import FINDINGS, Grade
from radzero.reading import RadZero, Reading

SIDED = ("pleural effusion", "pneumothorax")
_BATCH = 16


@dataclass(frozen=True)
class FindingResult:
    """Figures of one finding.

    Attributes:
        positives: films with it.
        auc: of its affirmative sentence over all films.
        auc_by_grade: films with it in one grade against films without it.
        pointing: share of films with it whose peak lies in one of its boxes.
        pointing_by_grade: the same per grade.
        dice: mean Dice over films with it, at the best threshold.
        dice_threshold: that threshold.
        denied_when_absent: share of films without it with p("There is no X") > p("There is X").
        affirmed_when_present: share of films with it with p("There is X") > p("There is no X").
        quiet_on_normal: share of normal films whose map stays below 0.5 everywhere.
    """

    positives: int
    auc: float
    auc_by_grade: dict[str, float]
    pointing: float
    pointing_by_grade: dict[str, float]
    dice: float
    dice_threshold: float
    denied_when_absent: float
    affirmed_when_present: float
    quiet_on_normal: float


@dataclass(frozen=True)
class PhantomResult:
    """Figures of a model on phantoms.

    Attributes:
        model: its name.
        seed, films, size: of the phantoms; ``normal_films`` of them show no finding.
        findings: per finding.
        macro_auc, mean_pointing, mean_dice: means over findings.
        side_auc: finding -> AUC of logit("right") - logit("left") on films where it is on one side only.
        denied_when_absent, affirmed_when_present: over all (film, finding) pairs.
        quiet_maps: share of (normal film, finding) maps below 0.5 everywhere.
        quiet_films: share of normal films with all their maps below 0.5 everywhere.
    """

    model: str
    seed: int
    films: int
    size: int
    normal_films: int
    findings: dict[str, FindingResult]
    macro_auc: float
    mean_pointing: float
    mean_dice: float
    side_auc: dict[str, float]
    denied_when_absent: float
    affirmed_when_present: float
    quiet_maps: float
    quiet_films: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; null for figures that these films do not give."""
        return cast(dict[str, Any], _known(asdict(self)))


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class _Seen:
    """What is kept of one film."""

    logits: npt.NDArray[np.float32]
    quiet: npt.NDArray[np.bool_]
    grades: dict[str, Grade]
    sides: dict[str, str | None]
    hits: dict[str, bool]
    dice: dict[str, npt.NDArray[np.float64]]


def evaluate_phantoms(
    model: RadZero,
    *,
    films: int,
    seed: int,
    size: int,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> PhantomResult:
    """Measure a model on phantoms 0 .. films - 1 of a seed; see :class:`PhantomResult`."""
    affirmed = [f"There is {name}" for name in FINDINGS]
    denied = [f"There is no {name}" for name in FINDINGS]
    sided = [f"There is {side} {name}" for name in SIDED for side in ("right", "left")]
    seen: list[_Seen] = []
    for film, reading in _read_films(model, [*affirmed, *denied, *sided], films, seed, size, workers):
        seen.append(_keep(film, reading))
        progress(len(seen))
    return _summarise(model.name, seed, size, seen)


def _read_films(
    model: RadZero, sentences: list[str], films: int, seed: int, size: int, workers: int
) -> Iterator[tuple[Film, Reading]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        indices = iter(range(films))
        # a bounded number of films ahead of the model, so that memory does not grow with their number
        waiting = [pool.submit(partial(make_film, seed, k, size=size)) for k in islice(indices, 2 * _BATCH)]
        while waiting:
            batch = [future.result() for future in waiting[:_BATCH]]
            del waiting[:_BATCH]
            waiting += [pool.submit(partial(make_film, seed, k, size=size)) for k in islice(indices, _BATCH)]
            radiographs = [Radiograph(pixels=f.pixels, source=f"phantom {f.seed}/{f.index}") for f in batch]
            yield from zip(batch, model.stream(radiographs, sentences, batch_size=_BATCH), strict=True)


def _keep(film: Film, reading: Reading) -> _Seen:
    evidence: dict[str, Evidence] = {e.finding.name: e for e in film.evidence if e.finding.name in FINDINGS}
    hits, dice = {}, {}
    for name, e in evidence.items():
        index = FINDINGS.index(name)
        if e.boxes:
            hits[name] = pointing_hit(reading.peaks[index].tolist(), e.boxes)
        if e.mask.any():
            dice[name] = dice_sweep(reading.map(index), e.mask)
    return _Seen(
        logits=reading.logits,
        quiet=reading.similarity[: len(FINDINGS)].max(axis=(1, 2)) < 0,  # no patch reaches 0.5, so no pixel does
        grades={name: e.finding.grade for name, e in evidence.items()},
        sides={name: e.finding.side for name, e in evidence.items()},
        hits=hits,
        dice=dice,
    )


def _mean(values: npt.ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")


def _summarise(model: str, seed: int, size: int, seen: list[_Seen]) -> PhantomResult:
    count = len(FINDINGS)
    logits = np.stack([s.logits for s in seen])
    present = np.array([[name in s.grades for name in FINDINGS] for s in seen])
    affirmed, denied = logits[:, :count], logits[:, count : 2 * count]
    affirms, denies = affirmed > denied, denied > affirmed
    normal = ~present.any(axis=1)
    quiet = np.stack([s.quiet for s in seen])[normal]
    results: dict[str, FindingResult] = {}
    for k, name in enumerate(FINDINGS):
        has = present[:, k]
        by_grade = {g: np.array([s.grades.get(name) is g for s in seen]) for g in Grade}
        sweeps = [s.dice[name] for s in seen if name in s.dice]
        mean_dice = np.mean(sweeps, axis=0) if sweeps else np.full(len(THRESHOLDS), np.nan)
        best = int(np.argmax(mean_dice))
        results[name] = FindingResult(
            positives=int(has.sum()),
            auc=auc(has, logits[:, k]),
            auc_by_grade={g.value: auc(m[m | ~has], logits[m | ~has, k]) for g, m in by_grade.items()},
            pointing=_mean([float(s.hits[name]) for s in seen if name in s.hits]),
            pointing_by_grade={
                g.value: _mean([float(s.hits[name]) for s in seen if name in s.hits and s.grades[name] is g])
                for g in Grade
            },
            dice=float(mean_dice[best]),
            dice_threshold=float(THRESHOLDS[best]),
            denied_when_absent=_mean(denies[~has, k]),
            affirmed_when_present=_mean(affirms[has, k]),
            quiet_on_normal=_mean(quiet[:, k]),
        )
    side_auc = {}
    for k, name in enumerate(SIDED):
        one_sided = [i for i, s in enumerate(seen) if s.sides.get(name) in ("right", "left")]
        difference = logits[one_sided, 2 * count + 2 * k] - logits[one_sided, 2 * count + 2 * k + 1]
        side_auc[name] = auc([seen[i].sides[name] == "right" for i in one_sided], difference)
    return PhantomResult(
        model=model,
        seed=seed,
        films=len(seen),
        size=size,
        normal_films=int(normal.sum()),
        findings=results,
        macro_auc=_mean([r.auc for r in results.values()]),
        mean_pointing=_mean([r.pointing for r in results.values()]),
        mean_dice=_mean([r.dice for r in results.values()]),
        side_auc=side_auc,
        denied_when_absent=_mean(denies[~present]),
        affirmed_when_present=_mean(affirms[present]),
        quiet_maps=_mean(quiet),
        quiet_films=_mean(quiet.all(axis=1)),
    )


def result_tables(result: PhantomResult) -> list[Table]:
    """The figures as tables for a terminal."""
    grades = [g.value for g in Grade]
    title = f"{result.model} on {result.films} phantoms of seed {result.seed}, {result.size} px"
    detection = _finding_table(
        f"{title}: detection",
        ("films", "AUC", *grades, "denied", "affirmed"),
        {
            name: [
                r.positives,
                r.auc,
                *(r.auc_by_grade[g] for g in grades),
                r.denied_when_absent,
                r.affirmed_when_present,
            ]
            for name, r in result.findings.items()
        },
    )
    detection.caption = (
        "denied: films without it where its negation is likelier; affirmed: the reverse on films with it"
    )
    localisation = _finding_table(
        f"{title}: localisation",
        ("pointing", *grades, "Dice", "at", "quiet"),
        {
            name: [
                r.pointing,
                *(r.pointing_by_grade[g] for g in grades),
                r.dice,
                r.dice_threshold,
                r.quiet_on_normal,
            ]
            for name, r in result.findings.items()
        },
    )
    localisation.caption = "quiet: normal films whose map stays below 0.5 everywhere"
    summary = Table("figure", "value", title="all findings")
    for label, value in (
        ("macro AUC", result.macro_auc),
        ("pointing game, mean over findings", result.mean_pointing),
        ("Dice at each finding's best threshold, mean", result.mean_dice),
        *((f"right against left, {name}, AUC", v) for name, v in result.side_auc.items()),
        ('p("There is no X") > p("There is X") on films without X', result.denied_when_absent),
        ('p("There is X") > p("There is no X") on films with X', result.affirmed_when_present),
        (f"maps below 0.5 everywhere, on {result.normal_films} normal films", result.quiet_maps),
        ("normal films with all maps below 0.5 everywhere", result.quiet_films),
    ):
        summary.add_row(label, f"{value:.3f}")
    return [detection, localisation, summary]


def _finding_table(title: str, headings: tuple[str, ...], rows: dict[str, list[float]]) -> Table:
    table = Table("finding", title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(str(v) if isinstance(v, int) else f"{v:.3f}" for v in values))
    return table
