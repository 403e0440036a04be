"""The phantom benchmark on models whose figures are known: sides, negation, grades, quiet maps."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import call
from radzero.evaluation.benchmark import Benchmark, BenchmarkError
from radzero.evaluation.contrasts import with_contrasts
from radzero.evaluation.public import phantom
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import score
from radzero.images import Radiograph
from radzero.phantom.film import Film, make_film
from radzero.phantom.findings import FINDINGS, Grade
from radzero.phantom.writing import FilmFormat, write_phantoms

pytestmark = pytest.mark.slow

FILMS, SEED, SIZE = 36, 65, 72  # a seed with every finding, both sides and normal films


@cache
def film(index: int) -> Film:
    return make_film(SEED, index, size=SIZE)


class KnownModel:
    """Looks the truth up by the film's file, and answers ``gain`` times it."""

    sha256 = ""

    def __init__(self, gain: float) -> None:
        self.name, self.gain = f"gain {gain:g}", gain

    def embed_sentences(self, sentences):
        return list(sentences)

    def embed_images(self, films: list[Radiograph]):
        return [film(int(Path(f.source).stem.split("-")[-1])) for f in films]

    def logits(self, images, sentences):
        return np.array([[self._answer(f, s)[0] for s in sentences] for f in images], dtype=np.float32) * self.gain

    def raw_map(self, images, sentences, index, sentence):
        return self._answer(images[index], sentences[sentence])[1].astype(np.float32) * self.gain

    @staticmethod
    def _answer(film: Film, text: str) -> tuple[float, np.ndarray]:
        words = text.removeprefix("There is ")
        denied, words = words.startswith("no "), words.removeprefix("no ")
        side = next((s for s in ("right", "left") if words.startswith(s)), None)
        name = words.removeprefix(side or "").strip()
        assert name in FINDINGS
        evidence = next((e for e in film.evidence if e.finding.name == name), None)
        true = evidence is not None and (side is None or evidence.finding.side in (side, "bilateral"))
        mask = evidence.mask if evidence is not None and true else np.zeros(film.pixels.shape, dtype=bool)
        return (5.0 if true != denied else -5.0), np.where(mask, 5.0, -5.0)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder = phantom.draw(tmp_path_factory.mktemp("phantoms") / "films", FILMS, SEED, SIZE, workers=2)
    return with_contrasts(phantom.read(folder))


@pytest.fixture(scope="module")
def measured(benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        gain: score(run_benchmark(benchmark, KnownModel(gain), folder / str(gain)), resamples=30) for gain in (1, -1, 0)
    }


def figures(metrics: dict[str, Any], task: str) -> dict[str, float]:
    """Without intervals."""
    return {k: v[0] if isinstance(v, list) else v for k, v in metrics[task].items() if not isinstance(v, dict)}


def test_an_oracle_is_perfect(measured):
    assert figures(measured[1], "classification")["macro AUC"] == 1
    assert figures(measured[1], "pointing")["over classes"] == 1
    assert figures(measured[1], "segmentation")["Dice"] == pytest.approx(1)
    assert figures(measured[1], "faithfulness") == {
        "affirmed when present": 1,
        "denied when absent": 1,
        "right against left": 1,
        "maps that reach 0.5 where nothing is": 0,
        "images without findings whose maps all stay below 0.5": 1,
    }


def test_the_inverse_of_an_oracle_is_always_wrong(measured):
    assert figures(measured[-1], "classification")["macro AUC"] == 0
    assert figures(measured[-1], "pointing")["over classes"] < 0.1  # its peak is the film's corner
    assert figures(measured[-1], "faithfulness") == {
        "affirmed when present": 0,
        "denied when absent": 0,
        "right against left": 0,
        "maps that reach 0.5 where nothing is": 1,
        "images without findings whose maps all stay below 0.5": 0,
    }


def test_a_model_that_knows_nothing_gets_no_credit_for_ties(measured):
    assert figures(measured[0], "classification")["macro AUC"] == 0.5
    for kind in ("affirmed when present", "denied when absent", "right against left"):
        assert figures(measured[0], "faithfulness")[kind] == 0
    assert figures(measured[0], "faithfulness")["maps that reach 0.5 where nothing is"] == 1, "0.5 is not below 0.5"


def test_figures_by_grade_are_of_the_films_in_that_grade(measured):
    for name in FINDINGS:
        grades = {f.grade for k in range(FILMS) for f in film(k).findings if f.name == name}
        for task, key in (("classification", "AUC"), ("pointing", "hits")):
            own = measured[1][task]["classes"][name]
            assert {g: own[f"{key}, {g.value}"] for g in Grade} == {g: 1 if g in grades else None for g in Grade}


def test_classes_are_listed_in_the_benchmark_s_order(measured):
    for task in ("classification", "pointing", "segmentation", "faithfulness"):
        assert list(measured[1][task]["classes"]) == list(FINDINGS)


def test_sides_are_asked_of_findings_that_have_one(benchmark: Benchmark):
    asked = {label for label, c in benchmark.contrasts.items() if c.right is not None}
    expected = {
        f.name for k in range(FILMS) for f in film(k).findings if f.side in ("right", "left") and f.name in FINDINGS
    }
    assert asked == expected
    assert benchmark.sentences[benchmark.contrasts["mass"].denied] == "There is no mass"


def test_films_are_the_same_however_many_processes_draw(benchmark: Benchmark, tmp_path: Path):
    drawn = benchmark.images[0].path.parent.parent
    write_phantoms(tmp_path, count=6, seed=SEED, size=SIZE, film_format=FilmFormat.PNG)
    alone = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".jsonl")
    assert len(alone) > 20
    assert all((tmp_path / path).read_bytes() == (drawn / path).read_bytes() for path in alone)
    lines = (drawn / "phantoms.jsonl").read_text().splitlines()
    assert lines[:6] == (tmp_path / "phantoms.jsonl").read_text().splitlines()


def test_films_are_drawn_once(tmp_path: Path):
    drawn: list[int] = []
    for _ in range(2):
        phantom.draw(tmp_path / "films", 20, SEED, SIZE, progress=drawn.append)
    assert drawn == [*range(1, 21)]
    with pytest.raises(BenchmarkError, match=r"other phantoms \(films 20, not 21\); name another folder"):
        phantom.draw(tmp_path / "films", 21, SEED, SIZE)


def test_the_command_draws_asks_and_reports(tiny_checkpoint: Path, tmp_path: Path):
    options = ["-m", tiny_checkpoint, "--films", 20, "--seed", SEED, "--size", SIZE, "--workers", 1]
    said = call("evaluate", "phantom", *options, "-o", tmp_path / "run").stdout
    assert "macro AUC" in said
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["images"], metrics["model"]) == (20, str(tiny_checkpoint))
    assert metrics["faithfulness"]["cases"] == len(
        json.loads((tmp_path / "run/faithfulness.json").read_text())["cases"]
    )
    page = (tmp_path / "run/report.html").read_text()
    for part in ("Deletion and insertion", "Reliability", "ROC", "data:image/png", "right against left"):
        assert part in page
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.p*") if p.parent.name != "gallery"}
    assert said == call("evaluate", "phantom", *options, "-o", tmp_path / "run").stdout, "again, from what is saved"
    assert {p: p.stat().st_mtime_ns for p in before} == before
