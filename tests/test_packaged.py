"""The model that comes with the package: small, honest about itself, and as good as its card says."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import radzero
from command_line import call
from radzero.evaluation.contrasts import with_contrasts
from radzero.evaluation.models import RadZeroInBenchmark
from radzero.evaluation.public import phantom
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import score
from radzero.phantom.film import make_film
from radzero.phantom.findings import FINDINGS, Finding, Grade
from radzero.prediction.model import PACKAGED, RadZero, packaged_folder

pytestmark = pytest.mark.slow

SEED = 4711  # neither the training's nor the model card's


@pytest.fixture(scope="module")
def model() -> RadZero:
    return radzero.load()


def test_fits_in_the_package():
    assert sum(p.stat().st_size for p in packaged_folder().iterdir()) <= 12 * 2**20


def test_says_what_it_was_trained_on(model):
    assert "phantom" in model.notice
    assert "not for real radiographs" in model.notice
    facts = radzero.describe()
    assert facts["licence"] == "Apache-2.0"
    assert "phantom" in facts["training_data"]


def test_it_can_be_named(model, tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_film(SEED, 0, size=128).to_uint8()).save("film.png")
    named = radzero.load(PACKAGED, device="cpu")
    assert (named.name, named.sha256) == (PACKAGED, model.sha256)
    assert radzero.describe(PACKAGED) == radzero.describe()
    said = call("predict", "film.png", "-m", "packaged", "-s", "There is nodule", "-o", "out").stdout
    assert "1 read" in said
    assert json.loads(Path("out/predictions.jsonl").read_text(encoding="utf-8"))["model"] == PACKAGED
    pictures = [Path("named.png"), Path("none.png")]
    for path, models in zip(pictures, (["-m", "packaged"], []), strict=True):
        call("compare", "film.png", *models, "-s", "There is nodule", "-o", path)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    call(
        "compare", "film.png", "-m", f"tiny={tiny_checkpoint}", "-m", "packaged", "-s", "There is nodule", "-o", "2.png"
    )


def test_a_folder_of_its_name_comes_first(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_checkpoint, tmp_path / PACKAGED)
    assert radzero.load(PACKAGED, device="cpu").sha256 == radzero.load(tiny_checkpoint, device="cpu").sha256
    assert radzero.describe(PACKAGED)["sha256"] == radzero.describe(tiny_checkpoint)["sha256"]


def test_knows_every_word_of_the_phantom_findings(model):
    for name in FINDINGS:
        assert model.processor.unknown_words(f"There is no right {name}") == []


def test_every_reading_carries_the_notice(model):
    (reading,) = model.predict(make_film(SEED, 0, size=256).to_uint8(), "There is pleural effusion")
    assert model.notice in reading.to_dict()["warnings"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_tells_right_from_left(model, side):
    other = {"right": "left", "left": "right"}[side]
    film = make_film(SEED, 1, size=384, findings=(Finding("pleural effusion", Grade.PLAIN, side),))
    (reading,) = model.predict(film.to_uint8(), [f"There is {s} pleural effusion" for s in (side, other)])
    assert reading.probabilities[0] > 0.5 > reading.probabilities[1]
    x0, y0, x1, y1 = film.evidence[0].boxes[0]
    x, y = reading.peaks[0]
    assert x0 <= x <= x1
    assert y0 <= y <= y1


@pytest.mark.slow
def test_measures_what_the_card_says(model, tmp_path):
    """Half-width allowances for 200 films beside the 1,000 of the model card."""
    benchmark = with_contrasts(phantom.read(phantom.draw(tmp_path / "films", 200, SEED, 320, workers=2)))
    metrics = score(run_benchmark(benchmark, RadZeroInBenchmark(model), tmp_path), resamples=0)
    contrary = metrics["faithfulness"]
    assert metrics["classification"]["macro AUC"][0] >= 0.93
    assert metrics["pointing"]["over classes"][0] >= 0.78
    assert metrics["segmentation"]["Dice"][0] >= 0.44
    assert contrary["right against left"][0] >= 0.90
    assert contrary["denied when absent"][0] >= 0.87
    assert contrary["affirmed when present"][0] >= 0.80
    assert contrary["maps that reach 0.5 where nothing is"][0] <= 0.12
