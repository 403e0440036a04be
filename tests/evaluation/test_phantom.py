"""The phantom benchmark on models whose figures are known: an oracle, its inverse, and one that knows nothing."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pytest
from rich.console import Console

from radzero.evaluation.phantom import SIDED, PhantomResult, evaluate_phantoms, result_tables
from radzero.images import Radiograph
from radzero.images.geometry import Geometry
from radzero.phantom.film import Film, make_film
from radzero.phantom.findings import FINDINGS, Grade
from radzero.reading import Reading

FILMS, SEED, SIZE = 36, 65, 72  # a seed with every finding, both sides and normal films


@cache
def film(index: int) -> Film:
    return make_film(SEED, index, size=SIZE)


class KnownModel:
    """Looks the truth up by the film's source, and answers ``gain`` times it."""

    def __init__(self, gain: float) -> None:
        self.name, self.gain = f"gain {gain:g}", gain
        self.batches: list[int] = []

    def stream(
        self, radiographs: Sequence[Radiograph], sentences: Sequence[str], *, batch_size: int
    ) -> Iterator[Reading]:
        self.batches.append(len(radiographs))
        for radiograph in radiographs:
            seed, index = map(int, radiograph.source.removeprefix("phantom ").split("/"))
            assert seed == SEED
            assert np.array_equal(radiograph.pixels, film(index).pixels), "the model sees the film that is scored"
            maps = [self._map(film(index), text) for text in sentences]
            shape = radiograph.pixels.shape
            yield Reading(
                source=radiograph.source,
                model=self.name,
                sentences=tuple(sentences),
                logits=np.array([truth for truth, _ in maps], dtype=np.float32) * self.gain,
                similarity=np.stack([similarity for _, similarity in maps]).astype(np.float32) * self.gain,
                film=radiograph.to_uint8(),
                geometry=Geometry.squash(shape, shape),
                patch=1,
            )

    @staticmethod
    def _map(film: Film, text: str) -> tuple[float, np.ndarray]:
        words = text.removeprefix("There is ")
        denied, words = words.startswith("no "), words.removeprefix("no ")
        side = next((s for s in ("right", "left") if words.startswith(s)), None)
        name = words.removeprefix(side or "").strip()
        assert name in FINDINGS
        evidence = next((e for e in film.evidence if e.finding.name == name), None)
        true = evidence is not None and (side is None or evidence.finding.side in (side, "bilateral"))
        mask = evidence.mask if evidence is not None and true else np.zeros(film.pixels.shape, dtype=bool)
        return (5.0 if true != denied else -5.0), np.where(mask, 5.0, -5.0)


@cache
def result(gain: float) -> PhantomResult:
    progress: list[int] = []
    measured = evaluate_phantoms(
        KnownModel(gain),  # type: ignore[arg-type]
        films=FILMS,
        seed=SEED,
        size=SIZE,
        workers=1,
        progress=progress.append,
    )
    assert progress == [*range(1, FILMS + 1)]
    return measured


def test_the_films_are_counted():
    counted = result(1)
    assert (counted.films, counted.seed, counted.size, counted.model) == (FILMS, SEED, SIZE, "gain 1")
    assert counted.normal_films == sum(film(k).is_normal for k in range(FILMS)) > 3
    for name in FINDINGS:
        positives = sum(any(f.name == name for f in film(k).findings) for k in range(FILMS))
        assert counted.findings[name].positives == positives > 1


def test_an_oracle_is_perfect():
    perfect = result(1)
    assert perfect.macro_auc == 1
    assert perfect.mean_pointing == 1
    assert perfect.mean_dice == pytest.approx(1)
    assert perfect.side_auc == dict.fromkeys(SIDED, 1.0)
    assert perfect.denied_when_absent == perfect.affirmed_when_present == 1
    assert perfect.quiet_maps == perfect.quiet_films == 1
    for name, figures in perfect.findings.items():
        assert (figures.auc, figures.pointing, figures.dice) == (1, 1, pytest.approx(1)), name
        assert figures.denied_when_absent == figures.affirmed_when_present == figures.quiet_on_normal == 1


def test_the_inverse_of_an_oracle_is_always_wrong():
    wrong = result(-1)
    assert wrong.macro_auc == 0
    assert wrong.side_auc == dict.fromkeys(SIDED, 0.0)
    assert wrong.denied_when_absent == wrong.affirmed_when_present == 0
    assert wrong.quiet_maps == wrong.quiet_films == 0
    assert wrong.mean_pointing < 0.1  # its peak is the film's corner
    assert wrong.mean_dice < 0.5
    assert all(figures.auc == 0 for figures in wrong.findings.values())


def test_a_model_that_knows_nothing_gets_no_credit_for_ties():
    blank = result(0)
    assert blank.macro_auc == 0.5
    assert blank.side_auc == dict.fromkeys(SIDED, 0.5)
    assert blank.denied_when_absent == blank.affirmed_when_present == 0
    assert blank.quiet_maps == 0, "0.5 everywhere is not below 0.5"


def test_figures_by_grade_are_of_the_films_in_that_grade():
    perfect = result(1)
    for name in FINDINGS:
        grades = {f.grade for k in range(FILMS) for f in film(k).findings if f.name == name}
        for grade in Grade:
            for figures in (perfect.findings[name].auc_by_grade, perfect.findings[name].pointing_by_grade):
                assert figures[grade.value] == 1 if grade in grades else math.isnan(figures[grade.value])


def test_films_go_to_the_model_in_batches():
    model = KnownModel(1)
    evaluate_phantoms(model, films=20, seed=SEED, size=SIZE, workers=1)  # type: ignore[arg-type]
    assert sum(model.batches) == 20
    assert max(model.batches) <= 16


def test_the_result_is_plain_numbers_and_tables():
    perfect = result(1)
    again = json.loads(json.dumps(perfect.to_dict()))
    assert again["macro_auc"] == 1
    assert set(again["findings"]) == set(FINDINGS)
    console = Console(width=240, record=True, file=io.StringIO())
    for table in result_tables(perfect):
        console.print(table)
    text = console.export_text()
    assert all(name in text for name in FINDINGS)
    assert "macro AUC" in text
    assert f"on {perfect.normal_films} normal films" in text
