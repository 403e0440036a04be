"""Every output of the registry has whole files, some for each item, and is the same however a run is interrupted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from radzero import _files
from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import Film
from radzero.prediction.inputs import Item
from radzero.prediction.model import RadZero
from radzero.prediction.output_folder import OutputFolder, run_identity
from radzero.prediction.run import Outcome, predict_items
from radzero.prediction.writers import WRITERS, WriterOptions, file_keys, make_writers

pytestmark = pytest.mark.slow

SENTENCES = ("There is pleural effusion", "Größe des 胸水?", "There is no nodule")
EVERY = pytest.mark.parametrize("name", WRITERS)


class InterruptionError(Exception):
    """Stands for a crash while a file is written."""


@pytest.fixture
def files(tmp_path: Path, phantoms: list[Film]) -> list[Path]:
    """Two DICOM files, a picture that is higher than wide, and a file that is refused."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name, film in zip("ab", phantoms, strict=False):
        write_dicom(film, folder / f"{name}.dcm")
    Image.fromarray(phantoms[2].to_uint8()[:, :70]).save(folder / "c.png")
    (folder / "d.png").write_bytes(b"no image")
    return sorted(folder.iterdir())


def run(
    model: RadZero,
    files: Sequence[Path],
    output: Path,
    names: Sequence[str],
    *,
    workers: int = 0,
    sentences: Sequence[str] = SENTENCES,
) -> Outcome:
    items, writers = [Item.of(path) for path in files], make_writers(names, WriterOptions(results=("sr", "sc")))
    identity = run_identity(model, sentences, threshold=0.5, precision="highest", writers=writers)
    target = OutputFolder(output, identity, items, file_keys=file_keys(writers))
    return predict_items(model, items, sentences, target, writers=writers, workers=workers, batch_size=1)


def written(output: Path) -> dict[str, bytes]:
    """Return the content of each file but ``run.json``, which holds times; of DICOM results, which do too, nothing."""
    found = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    del found["run.json"]
    return {name: b"" if path.suffix == ".dcm" else path.read_bytes() for name, path in found.items()}


def listed(output: Path, names: Sequence[str]) -> set[str]:
    """Return the files that the lines list."""
    keys = file_keys(make_writers(names, WriterOptions()))
    records = map(json.loads, (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
    return {file for record in records for key in keys for file in record.get(key, ())}


@EVERY
def test_the_row_and_the_class_have_one_name(name: str):
    (writer,) = make_writers([name], WriterOptions())
    assert (writer.name, WRITERS[name].name) == (name, name)
    assert WRITERS[name].help


def test_no_two_outputs_share_an_entry_of_the_line():
    keys = file_keys(make_writers(WRITERS, WriterOptions()))
    assert len(set(keys)) == len(keys)


@EVERY
def test_every_file_is_listed_and_beside_the_others_the_same(
    name: str, tiny_model: RadZero, files: list[Path], tmp_path: Path
):
    outcome = run(tiny_model, files, tmp_path / "alone", [name])
    assert (outcome.read, len(outcome.refused)) == (3, 1)
    run(tiny_model, files, tmp_path / "all", list(WRITERS))
    alone, together = written(tmp_path / "alone"), written(tmp_path / "all")
    of_run = {path.relative_to(tmp_path / "alone").as_posix() for path in outcome.written}
    assert alone.keys() == listed(tmp_path / "alone", [name]) | of_run | {"predictions.jsonl"}
    assert len(alone) > 1
    for file in alone.keys() - of_run - {"predictions.jsonl"}:
        assert alone[file] == together[file], file


@pytest.mark.slow
def test_workers_change_nothing(tiny_model: RadZero, files: list[Path], tmp_path: Path):
    for workers in (0, 2):
        outcome = run(tiny_model, files, tmp_path / str(workers), list(WRITERS), workers=workers)
        assert (outcome.read, list(outcome.refused)) == (3, [str(files[3])])
        assert list(outcome.without_results) == [str(files[2])]
    assert written(tmp_path / "0") == written(tmp_path / "2")


@EVERY
def test_an_interrupted_run_leaves_whole_files_and_ends_with_the_same_bytes(
    name: str, tiny_model: RadZero, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(tiny_model, files, tmp_path / "whole", [name])
    expected, flush = written(tmp_path / "whole"), _files.flush
    for nth in sorted({1, len(expected) - 1}):
        output, left = tmp_path / str(nth), [nth]

        def write_half(file: BinaryIO, left: list[int] = left) -> None:
            if "predictions.jsonl" not in file.name and "run.json" not in file.name:
                left[0] -= 1
                if left[0] == 0:
                    file.truncate(Path(file.name).stat().st_size // 2)
                    raise InterruptionError
            flush(file)

        with monkeypatch.context() as patch:
            patch.setattr(_files, "flush", write_half)
            with pytest.raises(InterruptionError):
                run(tiny_model, files, output, [name])
        left_over = written(output)
        del left_over["predictions.jsonl"]
        assert left_over.items() <= expected.items(), "every file is whole or absent"
        run(tiny_model, files, output, [name])
        assert written(output) == expected


@EVERY
def test_what_a_killed_process_had_begun_is_written_over(
    name: str, tiny_model: RadZero, files: list[Path], tmp_path: Path
):
    """A killed process removes nothing: its temporary files stay, and its last line may be cut."""
    run(tiny_model, files[:2], tmp_path / "out", [name])
    expected = written(tmp_path / "out")
    last = next((file for file in sorted(expected, reverse=True) if file != "predictions.jsonl"), "")
    (tmp_path / "out" / last).write_bytes(b"half")
    (tmp_path / "out" / f"{last}.partial").write_bytes(b"half")
    lines = (tmp_path / "out" / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "predictions.jsonl").write_bytes(lines[0] + lines[1][:20])
    assert run(tiny_model, files[:2], tmp_path / "out", [name]).resumed == 1
    assert written(tmp_path / "out") == expected


@EVERY
def test_a_file_that_is_gone_is_made_again(name: str, tiny_model: RadZero, files: list[Path], tmp_path: Path):
    run(tiny_model, files, tmp_path / "out", [name])
    expected = written(tmp_path / "out")
    for file in sorted(expected.keys() - {"predictions.jsonl"})[::4]:
        (tmp_path / "out" / file).unlink()
        again = run(tiny_model, files, tmp_path / "out", [name])
        assert again.resumed == (2 if file in listed(tmp_path / "out", [name]) else 3)
        assert written(tmp_path / "out") == expected


@EVERY
def test_a_folder_holds_readings_with_the_output_or_without_it(
    name: str, tiny_model: RadZero, files: list[Path], tmp_path: Path
):
    """An output whose files belong to readings cannot be added to readings that were made without it."""
    run(tiny_model, files[:1], tmp_path / "with", [name])
    run(tiny_model, files[:1], tmp_path / "without", [])
    if not file_keys(make_writers([name], WriterOptions())):
        run(tiny_model, files[:1], tmp_path / "without", [name])
        return
    for folder, names, said in (("with", [], ", now"), ("without", [name], ", now")):
        before = written(tmp_path / folder)
        with pytest.raises(ValueError, match=rf"{folder}: was run with.*{said}.*; name another output folder"):
            run(tiny_model, files[:1], tmp_path / folder, names)
        assert written(tmp_path / folder) == before


STEMS = ("[x]", "two words", "Müller 胸片", "-s", "a'b\"c", "x" * 200, "胸" * 80, "\U00020000" * 60)


@EVERY
def test_files_of_any_name_have_files_of_their_own(name: str, tiny_model: RadZero, files: list[Path], tmp_path: Path):
    twins = [tmp_path / folder / f"{stem}.dcm" for folder in ("one", "two") for stem in STEMS]
    for twin in twins:
        twin.parent.mkdir(exist_ok=True)
        twin.write_bytes(files[0].read_bytes())
    output = tmp_path / "out"
    assert run(tiny_model, twins, output, [name], sentences=["\U00020000" * 99]).refused == {}
    records = [json.loads(line) for line in (output / "predictions.jsonl").read_bytes().splitlines()]
    assert [record["image"] for record in records] == list(map(str, twins))
    for key in file_keys(make_writers([name], WriterOptions())):
        files_of = [file for record in records for file in record[key]]
        assert len(set(files_of)) == len(files_of) >= len(twins)
        for file in files_of:
            assert (output / file).resolve().is_relative_to(output.resolve())
            assert (output / file).stat().st_size > 0
    assert run(tiny_model, twins, output, [name], sentences=["\U00020000" * 99]).resumed == len(twins)
