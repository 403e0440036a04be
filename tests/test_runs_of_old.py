"""Runs that an earlier version of the program began are gone on with: the folders in tests/fixtures were written by it.

``make.py`` beside them made them, with the code of version 0.1.0 before its redesign: a training, a prediction and an
evaluation that were interrupted, and what they would have ended with.
"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import radzero
from command_line import call
from radzero.evaluation.contrasts import with_contrasts
from radzero.evaluation.models import RadZeroInBenchmark
from radzero.evaluation.public import phantom
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import score
from radzero.prediction.inputs import Item

pytestmark = pytest.mark.slow

OLD = Path(__file__).parent / "fixtures" / "runs_of_0.1.0"
ROUNDING = 1e-3
"""Machines differ in the last digits of float32."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, as the current folder, which their paths are relative to."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_training_is_gone_on_with(old: Path):
    begun, expected = lines(old / "train/metrics.jsonl"), lines(old / "expected/metrics.jsonl")
    assert [record["step"] for record in begun if "loss" in record][-1] == 4, "it was interrupted after step 4"
    call("train", "recipe.yaml", "-o", "train")
    done = lines(old / "train/metrics.jsonl")
    kept = [record for record in begun if record["step"] < 4]
    assert done[: len(kept)] == kept, "what was before the state is as it was"
    assert [record["step"] for record in done] == [record["step"] for record in expected]
    for now, then in zip(done, expected, strict=True):
        assert now.keys() == then.keys()
        for key in ("loss", "validation_loss", "tau", "lr"):
            if key in now:
                assert now[key] == pytest.approx(then[key], rel=ROUNDING), (now["step"], key)
    one, other = (load_file(old / f"{folder}/model.safetensors") for folder in ("train/model", "model"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max() < 5e-3, name


def test_a_prediction_is_gone_on_with(old: Path):
    films = [old / f"films/{name}.png" for name in ("00", "01", "02")]
    note = json.loads((old / "predict/run.json").read_text())
    note["files"] = {name: Item(name, (old / name,)).stamp() for name in note["files"]}  # they lay elsewhere then
    (old / "predict/run.json").write_text(json.dumps(note))
    before = (old / "predict/predictions.jsonl").read_bytes()
    asked = ("-s", "There is pleural effusion", "-s", "There is no nodule", "--no-overlays")
    names = [f"films/{film.name}" for film in films]
    result = call("predict", *names, "-o", "predict", "-m", "model", *asked)
    assert "3 read, 2 of them earlier" in result.stdout
    assert (old / "predict/predictions.jsonl").read_bytes().startswith(before)
    for now, then in zip(
        lines(old / "predict/predictions.jsonl"), lines(old / "expected/predictions.jsonl"), strict=True
    ):
        assert (now["image"], now["model"], now["warnings"]) == (then["image"], then["model"], then["warnings"])
        for answer, known in zip(now["sentences"], then["sentences"], strict=True):
            assert (answer["sentence"], answer["peak"]) == (known["sentence"], known["peak"])
            assert answer["logit"] == pytest.approx(known["logit"], rel=ROUNDING)


def test_an_evaluation_is_gone_on_with(old: Path):
    """Its images are drawn again: they are the same, or the folder would be refused as another benchmark's."""
    data = phantom.draw(old / "drawn", 40, 990, 72)
    model = RadZeroInBenchmark(radzero.load("model", device="cpu"))
    told: list[int] = []
    run_benchmark(with_contrasts(phantom.read(data)), model, old / "evaluate", progress=told.append)
    assert told[0] == 32, "a part of 32 images was there"
    figures, expected = score(old / "evaluate"), json.loads((old / "expected/evaluation.json").read_text())
    for task, key in (("classification", "macro AUC"), ("pointing", "over classes"), ("segmentation", "Dice")):
        assert figures[task][key][0] == pytest.approx(expected[task][key][0], abs=0.01), (task, key)
