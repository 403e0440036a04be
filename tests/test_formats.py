"""What is written is as docs/reference/files.md says: programs read it by the schemas that stand there."""

import csv
import json
from pathlib import Path

import jsonschema_rs
import pytest
from PIL import Image

from command_line import call
from conftest import REPOSITORY
from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import Film
from radzero.prediction.writers import WRITERS, WriterOptions, file_keys, make_writers
from radzero.prediction.writers.table import COLUMNS
from radzero.results import RESULT_KINDS

pytestmark = pytest.mark.slow

EVERY_OUTPUT = [option for name in WRITERS for option in ("--write", name)]
SCHEMAS = REPOSITORY / "docs" / "reference" / "schemas"


def check(name: str, content: object) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema).validate(content)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def predicted(tiny_checkpoint: Path, phantoms: list[Film], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a picture, a DICOM file, a refused file, and a name that a spreadsheet would run as a formula."""
    folder = tmp_path_factory.mktemp("predict")
    films = folder / "films"
    films.mkdir()
    Image.fromarray(phantoms[0].to_uint8()).save(films / "a, b.png")
    write_dicom(phantoms[1], films / "b.dcm")
    (films / "c.png").write_bytes(b"no image")
    asked = ("-s", "There is pneumothorax", "-s", "=1+1")
    options = ("-m", tiny_checkpoint, "--dicom", "sr,seg", *EVERY_OUTPUT)
    result = call("predict", films, *asked, *options, "-o", folder / "out", code=1)
    assert "predictions.csv" in result.stdout
    return folder / "out"


def test_lines_of_predictions(predicted: Path):
    records = lines(predicted / "predictions.jsonl")
    for record in records:
        check("predictions", record)
    picture, dicom, refused = records
    assert ("results_refused" in picture, "results" in dicom, refused["reason"]) == (True, True, "not_an_image")
    for key in file_keys(make_writers(WRITERS, WriterOptions())):
        assert all((predicted / file).is_file() for file in dicom[key])
    check("predict-run", json.loads((predicted / "run.json").read_text(encoding="utf-8")))


def test_the_table_for_spreadsheets(predicted: Path):
    content = (predicted / "predictions.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf"), "spreadsheets take a table without this mark for another encoding"
    rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 2 + 1
    records = lines(predicted / "predictions.jsonl")
    for k, row in enumerate(rows[:4]):
        answer = records[k // 2]["sentences"][k % 2]
        assert row["image"] == records[k // 2]["image"]
        assert float(row["probability"]) == answer["probability"]
        assert float(row["logit"]) == answer["logit"]
        assert [int(row["peak_x"]), int(row["peak_y"])] == answer["peak"]
        assert (predicted / row["overlay"]).is_file()
        assert row["error"] == ""
    assert [row["sentence"] for row in rows[:2]] == ["There is pneumothorax", "'=1+1"], "no formula"
    assert rows[4]["sentence"] == ""
    assert "neither DICOM nor PNG" in rows[4]["error"]


def test_the_table_is_made_of_an_earlier_run_too(predicted: Path, tmp_path: Path, tiny_checkpoint: Path):
    """It belongs to no run's identity, so that it can be asked for afterwards."""
    (predicted / "predictions.csv").rename(tmp_path / "before.csv")
    films = predicted.parent / "films"
    asked = ("-s", "There is pneumothorax", "-s", "=1+1")
    options = ("-m", tiny_checkpoint, "--dicom", "sr,seg", *EVERY_OUTPUT)
    call("predict", films, *asked, *options, "-o", predicted, code=1)
    assert (predicted / "predictions.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()
    assert (
        f"is no output; there are {', '.join(WRITERS)}"
        in call("predict", films, *asked, "--write", "xls", "-o", tmp_path, code=2).output
    )


def test_an_output_by_its_name_is_that_of_its_own_option(predicted: Path, tmp_path: Path, tiny_checkpoint: Path):
    """``--write dicom`` means ``--dicom all``."""
    asked = (predicted.parent / "films" / "b.dcm", "-s", "There is pneumothorax", "-m", tiny_checkpoint)
    call("predict", *asked, "--no-overlays", "--write", "dicom", "-o", tmp_path / "named")
    call("predict", *asked, "--no-overlays", "--dicom", "all", "-o", tmp_path / "option")
    (named,), (option,) = (lines(tmp_path / name / "predictions.jsonl") for name in ("named", "option"))
    assert named == option
    assert len(named["results"]) >= len(RESULT_KINDS) - 1


def test_phantoms_manifests_and_training(tmp_path: Path):
    films, manifest, run = tmp_path / "films", tmp_path / "m.jsonl", tmp_path / "run"
    call("phantom", films, "-n", 12, "--size", 96, "--seed", 3, "--workers", 1)
    for record in lines(films / "phantoms.jsonl"):
        check("phantoms", record)
        assert all((films / record[key]).is_file() for key in ("image", "dicom", "report"))
    call("prepare", "phantom", films, "-o", manifest, "--shares", 0.2, 0.1)
    for row in lines(manifest):
        check("manifest", row)
    recipe = REPOSITORY / "recipes" / "debug.yaml"
    call("train", recipe, f"data.manifest={manifest}", "loop.epochs=1", "-o", run)
    for record in lines(run / "metrics.jsonl"):
        check("training-metrics", record)


def test_extraction(tmp_path: Path):
    (tmp_path / "a.txt").write_text("FINDINGS: There is a small left pleural effusion. No pneumothorax.")
    (tmp_path / "b.txt").write_text("")
    call("extract", tmp_path, "-o", tmp_path / "out.jsonl", code=1)
    read, unread = lines(tmp_path / "out.jsonl")
    assert (len(read["sentences"]), unread["error"]) == (2, "unread")
    for record in (read, unread):
        check("extraction", record)


def test_an_evaluation(tiny_checkpoint: Path, tmp_path: Path):
    call("evaluate", "phantom", "--films", 20, "--size", 72, "-m", tiny_checkpoint, "-o", tmp_path, "--workers", 1)
    check("evaluation-run", json.loads((tmp_path / "run.json").read_text(encoding="utf-8")))
