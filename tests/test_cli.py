"""The command line: exit codes, messages that name the cause, and files that are there."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import radzero
from command_line import call
from forked import Forked
from radzero import RadZero
from radzero.evaluation.registry import BENCHMARKS
from radzero.findings import FINDING_SETS, finding_sentences
from radzero.phantom.film import Film

NODULE, EFFUSION = "There is nodule", "There is no pleural effusion"
COMMAND = Path(sys.executable).with_name("radzero")


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    """Commands set the precision of matrix products for their whole process."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def fails(*arguments: object) -> str:
    """Exit code 2, and what was said, on one line."""
    result = call(*arguments, code=2)
    assert result.stdout == "" or "Usage" in result.output
    assert "Traceback" not in result.output
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split())


@pytest.fixture
def films(tmp_path: Path, phantoms: list[Film]) -> Path:
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    for name, film in zip(("a.png", "b.png", "more/a.png", "more/c.png"), phantoms, strict=False):
        Image.fromarray(film.to_uint8()).save(folder / name)
    return folder


@pytest.fixture
def predict(tiny_checkpoint: Path, films: Path, tmp_path: Path) -> list[object]:
    """Arguments that need only a sentence."""
    return ["predict", films, "-o", tmp_path / "out", "-m", tiny_checkpoint]


def test_a_sentence_that_is_no_text_is_refused(predict: list[object], tmp_path: Path):
    assert "can't encode" in fails(*predict, "-s", "There is \udcff nodule")
    assert not (tmp_path / "out").exists()


def test_warnings_of_films_are_said_on_the_console(tiny_checkpoint: Path, phantoms: list[Film], tmp_path: Path):
    negative = Image.fromarray(255 - phantoms[0].to_uint8())
    negative.save(tmp_path / "negative.png")
    result = call("predict", tmp_path / "negative.png", "-m", tiny_checkpoint, "-s", NODULE, "-o", tmp_path / "out")
    assert "negative.png: the image may be inverted" in result.stderr.replace("\n", "")


def test_a_model_without_a_tokenizer_is_refused(tiny_checkpoint: Path, films: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    said = fails("predict", films, "-m", folder, "-s", NODULE, "-o", tmp_path / "out")
    assert "has no tokenizer of its own" in said


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


# -- predict ---------------------------------------------------------------------------------------------


def test_predict_a_folder(predict: list[object], films: Path, tmp_path: Path, tiny_model: RadZero):
    result = call(*predict, "-s", NODULE, "-s", EFFUSION, "-s", NODULE)
    output = tmp_path / "out"
    assert f"4 read; {output / 'predictions.jsonl'}" in result.stdout
    assert tiny_model.notice in result.stderr
    written = lines(output)
    assert [line["image"] for line in written] == [
        str(films / n) for n in ("a.png", "b.png", "more/a.png", "more/c.png")
    ]
    for line in written:
        assert set(line) == {"image", "model", "sentences", "warnings", "overlays"}
        assert [entry["sentence"] for entry in line["sentences"]] == [NODULE, EFFUSION], "each once"
        assert set(line["sentences"][0]) == {"sentence", "logit", "probability", "peak"}
        assert line["model"] == str(predict[-1])
        for name in line["overlays"]:
            with Image.open(output / name) as overlay:
                assert overlay.format == "PNG"
    (reading,) = tiny_model.predict(films / "a.png", [NODULE, EFFUSION])
    assert [e["probability"] for e in written[0]["sentences"]] == pytest.approx(
        reading.probabilities.tolist(), abs=1e-4
    )


def table_of(output: str) -> list[list[str]]:
    """Rows of a table that was printed, their cells without the spaces around them."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]


def test_a_few_films_have_their_probabilities_printed(
    predict: list[object], films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(films)
    monkeypatch.setattr("radzero.cli.console.console.width", 120)
    (films / "bad.png").write_bytes(b"junk")
    asked = ["-s", NODULE, "-s", "There is [red] zebra"]
    arguments = ["predict", "more/a.png", "bad.png", "a.png", *predict[2:], *asked, "--no-overlays"]
    first = call(*arguments, code=1)
    p = {
        line["image"]: [f"{s['probability']:.3f}" for s in line.get("sentences", ())]
        for line in lines(tmp_path / "out")
    }
    assert table_of(first.stdout) == [
        ["more/a.png", NODULE, p["more/a.png"][0]],
        ["", "There is [red] zebra", p["more/a.png"][1]],
        ["bad.png", "", "refused"],
        ["a.png", NODULE, p["a.png"][0]],
        ["", "There is [red] zebra", p["a.png"][1]],
    ]
    assert table_of(call(*arguments, code=1).stdout) == table_of(first.stdout), "read earlier or now"


def test_many_answers_are_not_printed(predict: list[object], tmp_path: Path):
    many = [part for k in range(8) for part in ("-s", f"There is nodule {k}")]  # of four films
    assert table_of(call(*predict, *many, "--no-overlays").stdout) == []
    assert "probability" in (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8")


def test_predict_files_patterns_and_no_overlays(tiny_checkpoint: Path, films: Path, tmp_path: Path):
    (films / "[x] y.png").write_bytes((films / "a.png").read_bytes())
    (films / "notes.txt").write_text("no film", encoding="utf-8")
    inputs = [films / "[x] y.png", f"{films}/more/*.png", films]
    result = call("predict", *inputs, "-o", tmp_path / "out", "-m", tiny_checkpoint, "-s", NODULE, "--no-overlays")
    names = [Path(line["image"]).relative_to(films).as_posix() for line in lines(tmp_path / "out")]
    assert names == ["[x] y.png", "more/a.png", "more/c.png", "a.png", "b.png"]
    assert ", 1 file in folders left out as not films (.txt)" in result.stdout
    assert not (tmp_path / "out" / "overlays").exists()


def test_predict_named_sets(predict: list[object], tmp_path: Path):
    call(*predict, "--findings", "siim", "--findings", "chexpert", "-s", NODULE, "--no-overlays")
    asked = [entry["sentence"] for entry in lines(tmp_path / "out")[0]["sentences"]]
    assert asked == [NODULE, *finding_sentences("siim"), *finding_sentences("chexpert")]


def test_five_hundred_sentences(predict: list[object], tmp_path: Path):
    sentences = [f"There is nodule {k}" for k in range(500)]
    call(*predict, "--no-overlays", *(part for text in sentences for part in ("-s", text)))
    assert [entry["sentence"] for entry in lines(tmp_path / "out")[3]["sentences"]] == sentences


def test_a_bad_file_gives_exit_code_1(predict: list[object], films: Path, tmp_path: Path):
    (films / "[b].png").write_bytes(b"junk")
    result = call(*predict, "-s", NODULE, "--no-overlays", code=1)
    assert "4 read, 1 refused" in result.stdout
    assert f"refused {films}/[b].png: the content is neither DICOM nor PNG" in result.stderr
    bad = [line for line in lines(tmp_path / "out") if "error" in line]
    assert [set(line) for line in bad] == [{"image", "model", "error", "reason"}]
    # mended, it is read on the next run, and the others are not read again
    (films / "[b].png").write_bytes((films / "a.png").read_bytes())
    result = call(*predict, "-s", NODULE, "--no-overlays")
    assert "5 read, 4 of them earlier;" in result.stdout
    assert not [line for line in lines(tmp_path / "out") if "error" in line]


@pytest.mark.parametrize("text", ["There is zebra", "There is [/b] zebra", "There is [red] [1]", r"There is \[x]"])
def test_unknown_words_are_named_whatever_they_are(text: str, predict: list[object], tmp_path: Path):
    result = call(*predict, "-s", text, "--no-overlays")
    word = re.sub(r"\W", "", text.split()[2])
    assert f"{text}: words this model has never seen: {word}" in " ".join(result.stderr.split())
    assert text in lines(tmp_path / "out")[0]["warnings"][1].replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("count", "more"), [(3, ""), (4, "and 1 more sentence with"), (9, "and 6 more sentences with")]
)
def test_unknown_words_of_many_sentences_are_said_in_short(
    count: int, more: str, predict: list[object], tmp_path: Path
):
    asked = [f"There is nodule links, zebra{'x' * k}" for k in range(count)]
    result = call(*predict, "--no-overlays", *(part for text in asked for part in ("-s", text)))
    named = [line for line in result.stderr.splitlines() if "never seen" in line]
    assert named[:3] == [f"{text}: words this model has never seen: links, {text.split()[-1]}" for text in asked[:3]]
    assert [line.split(" words")[0] for line in named[3:]] == ([more] if more else [])
    assert len(lines(tmp_path / "out")[0]["warnings"]) == count + 1, "predictions.jsonl names all"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ask something"),
        (["-s", ""], "a sentence is empty"),
        (["-s", NODULE, "-s", "  "], "a sentence is empty"),
        (["--findings", "nope"], "no finding set is called 'nope'; there are chestxdet10, chestxray14"),
        (["-s", NODULE, "--dtype", "int8"], "'int8' is no type that models run in"),
        (["-s", NODULE, "--device", "nowhere"], "nowhere"),
        (["-s", NODULE, "--threshold", "1.5"], "--threshold"),
        (["-s", NODULE, "--batch-size", "0"], "batch-size"),
        (["-s", NODULE, "--precision", "low"], "'low'"),
        (["-s", NODULE, "--nonsense"], "--nonsense"),
    ],
)
def test_usage_problems(arguments: list[str], message: str, predict: list[object], tmp_path: Path):
    assert message in fails(*predict, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_a_usage_problem(predict: list[object]):
    assert "cuda" in fails(*predict, "-s", NODULE, "--device", "cuda").lower()


def test_inputs_that_are_nothing_are_named(tiny_checkpoint: Path, films: Path, tmp_path: Path):
    common = ["-o", tmp_path / "out", "-m", tiny_checkpoint, "-s", NODULE]
    assert "gone.png" in fails("predict", films / "gone.png", *common)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    said = fails("predict", tmp_path / "empty", *common)
    assert "no film in" in said
    assert "(1 file of other kinds)" in said
    (tmp_path / "empty" / "more.txt").touch()
    assert "(2 files of other kinds)" in fails("predict", tmp_path / "empty", *common)
    assert "Missing argument" in fails("predict", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = call("predict", films, films / "gone.png", *common, code=1)
    assert "gone.png: no such file" in result.stderr.replace("\n", ""), "the rest is read"
    assert "4 read, 1 refused" in result.stdout


@pytest.mark.parametrize("kind", ["gone", "empty", "json", "other", "weights", "cut"])
def test_models_that_cannot_be_loaded(kind: str, tiny_checkpoint: Path, films: Path, tmp_path: Path):
    folder = broken_checkpoint(kind, tiny_checkpoint, tmp_path)
    for arguments in (
        ["predict", films, "-o", tmp_path / "out", "-s", NODULE, "-m", folder],
        ["info", folder],
        ["convert", folder, tmp_path / "converted"],
        ["evaluate", "phantom", "-m", folder],
    ):
        said = fails(*arguments)
        assert str(folder) in said
        assert BROKEN[kind] in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "converted").exists()


BROKEN = {
    "gone": "no such folder",
    "empty": "has no config.json",
    "json": "cannot be read as JSON",
    "other": "'bert' model",
    "weights": "has no model.safetensors",
    "cut": "damaged or truncated",
}


def broken_checkpoint(kind: str, good: Path, folder: Path) -> Path:
    broken = folder / "a" / "broken"
    if kind == "gone":
        return broken
    broken.mkdir(parents=True)
    if kind in ("weights", "cut"):
        for path in good.glob("*.json"):
            (broken / path.name).write_bytes(path.read_bytes())
    if kind == "cut":
        weights = (good / "model.safetensors").read_bytes()
        (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    if kind in ("json", "other"):
        text = '{"model_type": "bert"}' if kind == "other" else '{"model_type": '
        (broken / "config.json").write_text(text, encoding="utf-8")
    return broken


def test_an_output_that_cannot_be_made(
    tiny_checkpoint: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    common = ["predict", films, "-m", tiny_checkpoint, "-s", NODULE, "-o"]
    assert str(tmp_path / "file") in fails(*common, tmp_path / "file")
    assert str(tmp_path / "file") in fails(*common, tmp_path / "file" / "inside")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    make = Path.mkdir

    def refuse(path: Path, *arguments: int, **options: bool) -> None:  # tests may run as root, whom no mode stops
        if path.is_relative_to(tmp_path / "read-only"):
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = fails(*common, tmp_path / "read-only" / "out")
    assert "may not be read or written by this user" in said
    assert "read-only" in said


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "may not be read or written by this user"),
        (OSError(30, "Read-only file system"), "cannot be written (Read-only file system)"),
    ],
)
def test_a_folder_that_cannot_be_written_is_said_alike_by_all(
    error: OSError, reason: str, predict: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make, output = Path.mkdir, tmp_path / "read-only"

    def refuse(path: Path, *arguments: int, **options: bool) -> None:
        if path.is_relative_to(output):
            raise type(error)(error.errno, error.strerror, str(output))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    for command in (
        ["predict", predict[1], "-m", predict[-1], "-s", NODULE, "-o", output],
        ["phantom", output, "-n", 1],
        ["demo", "-o", output],
    ):
        assert call(*command, code=2).stderr.splitlines()[-1] == f"error: {output}: {reason}"


@pytest.mark.parametrize("command", ["serve", "view"])
def test_a_port_that_is_taken_is_said_without_the_error_s_number(command: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails(command, "--port", port)
    assert said == f"error: 127.0.0.1:{port}: cannot be listened on (Address already in use)"


def test_a_full_disk_ends_the_run_and_the_next_goes_on(
    predict: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from radzero.prediction.writers.overlays import OverlayWriter

    begin, begun = OverlayWriter.begin, []

    def full(*arguments: object) -> object:
        if len(begun) == 2:
            raise OSError(28, "No space left on device")
        begun.append(1)
        return begin(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlayWriter, "begin", full)
    said = fails(*predict, "-s", NODULE)
    assert "No space left on device" in said
    assert "run again to go on" in said
    assert len(lines(tmp_path / "out")) == 2
    monkeypatch.undo()
    assert "4 read, 2 of them earlier" in call(*predict, "-s", NODULE).stdout


def test_another_question_needs_another_folder(predict: list[object], tmp_path: Path):
    call(*predict, "-s", NODULE, "--no-overlays")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    said = fails(*predict, "-s", EFFUSION, "--no-overlays")
    assert f"was run with other sentences ('{EFFUSION}' not asked then, '{NODULE}' not asked now); name another" in said
    said = fails(*predict, "-s", NODULE, "--threshold", "0.3", "--no-overlays")
    assert "with threshold 0.5, now 0.3; name another output folder" in said
    assert "was run without overlays, now with; name another output folder" in fails(*predict, "-s", NODULE)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
    assert "4 of them earlier" in call(*predict, "-s", NODULE, "--no-overlays").stdout


def test_the_output_may_lie_inside_the_input(tiny_checkpoint: Path, films: Path):
    arguments = ["predict", films, "-o", films / "out", "-m", tiny_checkpoint, "-s", NODULE]
    call(*arguments)
    assert "4 read, 4 of them earlier;" in call(*arguments).stdout, "its own overlays are no films"
    assert len(lines(films / "out")) == 4


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path, phantoms: list[Film]):
    folder = tmp_path / "films"
    folder.mkdir()
    for k in range(16):
        Image.fromarray(phantoms[k % 6].to_uint8()).save(folder / f"{k:02d}.png")

    def arguments(output: Path) -> list[str]:
        # batches of one: then the last digits do not depend on where the run was killed
        model = ("-m", str(tiny_checkpoint), "--batch-size", "1")
        return ["predict", str(folder), "-o", str(output), *model, "-s", NODULE, "-s", EFFUSION]

    call(*arguments(tmp_path / "whole"))
    whole, output = (tmp_path / "whole" / "predictions.jsonl").read_bytes(), tmp_path / "out"
    process = Forked(arguments(output), tmp_path)
    try:
        while not (output / "predictions.jsonl").exists() or len(lines_so_far(output)) < 3:
            assert process.poll() is None, process.errors.read_text()
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    kept = lines_so_far(output)
    assert 3 <= len(kept) < 16, "it was killed in the middle"
    assert "16 read" in call(*arguments(output)).stdout
    assert (output / "predictions.jsonl").read_bytes() == whole
    assert len([*output.rglob("*.png")]) == 32


def lines_so_far(output: Path) -> list[bytes]:
    return (output / "predictions.jsonl").read_bytes().split(b"\n")[:-1]


# -- what there is ---------------------------------------------------------------------------------------


def test_version():
    assert call("--version").stdout == f"{radzero.__version__}\n"
    run = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"{radzero.__version__}\n"


@pytest.mark.parametrize(
    "command", [(), *((c,) for c in ("predict", "info", "convert", "phantom", "train", "evaluate"))]
)
def test_help(command: tuple[str, ...]):
    said = call(*command, "--help").stdout
    assert "Usage" in said
    assert not command or "Arguments" in said or "Options" in said


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("view",), "radzero[serve]"),
        (("serve",), "radzero[serve]"),
        (("dicomweb",), "radzero[dicom]"),
        (("listen",), "radzero[dicom]"),
        (("predict",), "radzero[dicom]"),
        (("prepare", "phantom"), "radzero[data]"),
        ((), "radzero[serve]"),
    ],
)
def test_help_names_the_extras_in_full(command: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = call(*command, "--help").stdout
    assert named in said
    assert "\\[" not in said
    assert "'radzero'" not in said


def test_no_command_is_a_usage_problem_with_help():
    run = subprocess.run([COMMAND], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "predict" in run.stdout + run.stderr


def test_findings():
    said = " ".join(re.sub(r"[│┃]", " ", call("findings").stdout).split())
    for name in FINDING_SETS:
        assert name in said
    assert "Pneumothorax" in said
    assert [len(FINDING_SETS[n]) for n in ("phantom", "chestxray14", "chexpert", "chestxdet10")] == [12, 14, 5, 10]
    assert finding_sentences("rsna") == ["There is Pneumonia"]


def test_info(tiny_checkpoint: Path):
    facts = json.loads(call("info", tiny_checkpoint, "--json").stdout)
    assert facts == radzero.describe(tiny_checkpoint)
    said = call("info", tiny_checkpoint).stdout
    assert "[8, 8]" in said, "brackets are no markup"
    assert "radzero_conv_stem" in said


# -- phantoms, training, evaluation, conversion ------------------------------------------------------------


def test_phantom(tmp_path: Path):
    result = call("phantom", tmp_path / "series", "-n", 2, "--seed", 5, "--first", 3, "--size", 72)
    index = tmp_path / "series" / "phantoms.jsonl"
    assert f"2 phantoms drawn; {index} has 2\n" in result.stdout
    records = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    assert [(r["seed"], r["index"], r["height"]) for r in records] == [(5, 3, 72), (5, 4, 72)]
    for record in records:
        assert (tmp_path / "series" / record["image"]).is_file()
        assert (tmp_path / "series" / record["dicom"]).is_file()


def test_phantoms_of_two_seeds_are_not_mixed(tmp_path: Path):
    series = tmp_path / "series"
    small = ["--size", 72, "--format", "png", "--workers", 1]
    call("phantom", series, "-n", 2, "--seed", 5, *small)
    before = {path: path.read_bytes() for path in series.rglob("*") if path.is_file()}
    said = fails("phantom", series, "-n", 1, "--seed", 6, *small)
    assert f"{series}: holds phantoms of seed 5; name another folder for those of seed 6" in said
    assert {path: path.read_bytes() for path in series.rglob("*") if path.is_file()} == before
    index = series / "phantoms.jsonl"
    said = call("phantom", series, "-n", 1, "--seed", 5, "--first", 7, *small).stdout
    assert f"1 phantom drawn; {index} has 3\n" in said
    for content in ("{", '{"seed": 5}\n', "3\n"):
        index.write_text(content, encoding="utf-8")
        assert str(index) in fails("phantom", series, "-n", 1, "--seed", 5, *small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "gif"], "--format is png, dicom or both, not gif"),
        (["-n", "0"], "--count"),
        (["--size", "71"], "--size"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_phantom_usage_problems(arguments: list[str], message: str, tmp_path: Path):
    assert message in fails("phantom", tmp_path / "series", *arguments)
    assert not (tmp_path / "series").exists()


def test_phantom_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in fails("phantom", tmp_path / "file", "-n", 1)


def test_convert(tiny_checkpoint: Path, tmp_path: Path, films: Path):
    output = tmp_path / "converted"
    assert str(output) in call("convert", tiny_checkpoint, output).stdout
    before, after = (
        radzero.load(folder, device="cpu").predict(films / "a.png", NODULE)[0] for folder in (tiny_checkpoint, output)
    )
    assert (before.similarity == after.similarity).all()
    said = fails("convert", tiny_checkpoint, output)
    assert "holds a checkpoint already" in said


def test_train_names_what_is_wrong_with_a_recipe(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 0\nlearning_rat: 1", encoding="utf-8")
    said = fails("train", path, "-o", tmp_path / "run")
    assert "learning_rat" in said
    assert "gone.yaml" in fails("train", tmp_path / "gone.yaml", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_of_other_commands_are_said_to_be_so(tmp_path: Path):
    recipes = Path(__file__).parents[1] / "recipes"
    said = fails("train", recipes / "ablation-phantom.yaml", "-o", tmp_path / "run")
    assert "ablation-phantom.yaml: is a recipe for `radzero ablate`, which compares methods, and not for" in said
    for name in ("phantom", "radzero", "debug"):
        said = fails("ablate", recipes / f"{name}.yaml", "-o", tmp_path / "run")
        assert f"{name}.yaml: is a recipe for `radzero train`, and not for `radzero ablate`" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"stages": []},
        {"films": 0},
        {"model": {"widths": [8, 16, 33], "heads": 2}},
    ],
)
def test_train_refuses_a_recipe_that_cannot_be_run(change: dict[str, object], tmp_path: Path):
    recipe = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "phantom.yaml").read_text(encoding="utf-8"))
    small = {"films": 250, "image_size": 64, "model": {"widths": [8, 16, 32], "heads": 2}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | small | change), encoding="utf-8")
    fails("train", path, "-o", tmp_path / "run")


def test_evaluate_usage_problems(tiny_checkpoint: Path, tmp_path: Path):
    assert "No such command 'mimic'" in fails("evaluate", "mimic", "-m", tiny_checkpoint)
    assert "--films" in fails("evaluate", "phantom", "-m", tiny_checkpoint, "--films", 19)


@pytest.mark.parametrize("package", ["matplotlib", "pyarrow"])
@pytest.mark.parametrize("command", ["ablate", *(f"evaluate {name}" for name in BENCHMARKS)])
def test_missing_packages_are_said_before_any_work(
    command: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    recipe = Path(__file__).parents[1] / "recipes" / "ablation-phantom.yaml"
    data = {"ablate": [recipe], "evaluate phantom": ["--films", 20]}.get(command, ["--data", tmp_path])
    said = fails(*command.split(), *data, "-o", tmp_path / "run")
    assert f"benchmarks need {package}: pip install 'radzero[evaluate]'" in said
    assert not (tmp_path / "run").exists()


def test_evaluate_says_before_the_work_that_its_output_cannot_be_written(tiny_checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    options = ["-m", tiny_checkpoint, "--films", 20, "--size", 72, "--workers", 1]
    assert str(tmp_path / "file") in fails("evaluate", "phantom", *options, "-o", tmp_path / "file" / "run")
