"""Many files: one line each whatever happens, and a run that goes on where it stopped."""

import json
import os
import re
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

import radzero
from radzero.images import Radiograph
from radzero.phantom.film import Film
from radzero.prediction.inputs import Inputs, Item, find_inputs
from radzero.prediction.model import RadZero
from radzero.prediction.output_folder import OutputFolder, run_identity
from radzero.prediction.run import Outcome, predict_items
from radzero.prediction.writers import Writer, WriterOptions, make_writers

SENTENCES = ("There is pleural effusion", "There is no nodule")


@pytest.fixture
def folder(tmp_path: Path, phantoms: list[Film]) -> Path:
    """Six films: a.png .. f.png."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name, film in zip("abcdef", phantoms, strict=True):
        Image.fromarray(film.to_uint8()).save(folder / f"{name}.png")
    return folder


def writers_of(overlays: bool, results: Sequence[str] = (), threshold: float = 0.5) -> tuple[Writer, ...]:
    names = [*(["overlays"] if overlays else []), *(["dicom"] if results else [])]
    return make_writers(names, WriterOptions(threshold, tuple(results)))


def identity(model: RadZero, **changes: object) -> dict[str, object]:
    settings = {"sentences": SENTENCES, "threshold": 0.5, "overlays": False, "results": (), "precision": "highest"}
    settings |= changes
    writers = writers_of(settings.pop("overlays"), settings.pop("results"), settings["threshold"])  # type: ignore[arg-type]
    return run_identity(model, settings.pop("sentences"), writers=writers, **settings)  # type: ignore[arg-type]


def run(
    model: RadZero, files: Sequence[Path], output: Path, sentences: Sequence[str] = SENTENCES, **options: object
) -> Outcome:
    items = [Item.of(path) for path in files]
    target = OutputFolder(output, identity(model, sentences=sentences), items)
    writers = writers_of(bool(options.pop("overlays", False)))
    return predict_items(model, items, sentences, target, writers=writers, **options)  # type: ignore[arg-type]


def paths(found: Inputs) -> list[Path]:
    return [path for item in found.items for path in item.paths]


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


# -- what is read ------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_are_searched_to_any_depth_in_order(tmp_path: Path):
    touch(tmp_path, "b.png", "a/z.dcm", "a/deep/er/x", "notes.txt", "a/labels.CSV", ".hidden.png", ".git/y.png")
    found = find_inputs([tmp_path])
    assert [p.relative_to(tmp_path).as_posix() for p in paths(found)] == ["a/deep/er/x", "a/z.dcm", "b.png"]
    assert {p.name for p in found.left_out} == {"notes.txt", "labels.CSV"}


def test_files_are_named_once_in_the_order_given(tmp_path: Path):
    touch(tmp_path, "a.png", "b.png", "notes.txt")
    given = [tmp_path / "b.png", tmp_path / "notes.txt", tmp_path, str(tmp_path / "*.png")]
    found = find_inputs(given)
    assert [p.name for p in paths(found)] == ["b.png", "notes.txt", "a.png"], "a file named outright is tried"
    assert find_inputs([]) == Inputs([], [])


def test_patterns_match_files_and_folders(tmp_path: Path):
    touch(tmp_path, "one/a.png", "two/b.png", "two/c.txt", "x1.png", "x2.png", "y.png")
    assert [p.name for p in paths(find_inputs([f"{tmp_path}/x?.png"]))] == ["x1.png", "x2.png"]
    assert [p.name for p in paths(find_inputs([f"{tmp_path}/**/*.png"]))] == [
        "a.png",
        "b.png",
        "x1.png",
        "x2.png",
        "y.png",
    ]
    found = find_inputs([f"{tmp_path}/t*"])
    assert ([p.name for p in paths(found)], [p.name for p in found.left_out]) == (["b.png"], ["c.txt"])


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path):
    touch(tmp_path, "[x].png", "x.png", "what?.png")
    assert [p.name for p in paths(find_inputs([tmp_path / "[x].png"]))] == ["[x].png"]
    assert [p.name for p in paths(find_inputs([f"{tmp_path}/[xy].png"]))] == ["x.png"]
    assert [p.name for p in paths(find_inputs([tmp_path / "what?.png"]))] == ["what?.png"]


def test_every_input_that_is_nothing_is_named(tmp_path: Path):
    touch(tmp_path, "a.png")
    with pytest.raises(ValueError, match=r"no such file, folder or match: .*gone\.png, .*no\*\.png$"):
        find_inputs([tmp_path / "gone.png", f"{tmp_path}/no*.png"])
    found = find_inputs([tmp_path / "gone.png", tmp_path / "a.png", f"{tmp_path}/no*.png"])
    assert [p.name for p in paths(found)] == ["a.png", "gone.png", "no*.png"], "to be refused by name"


def test_a_file_is_taken_once_however_many_links_lead_to_it(tmp_path: Path):
    touch(tmp_path, "one/a.png")
    (tmp_path / "one" / "loop").symlink_to(tmp_path / "one")
    (tmp_path / "one" / "b.png").symlink_to(tmp_path / "one" / "a.png")
    (tmp_path / "one" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for given in ([tmp_path], [f"{tmp_path}/**/*.png"]):
        found = find_inputs(given)
        assert [p.name for p in paths(found)] == ["a.png", "gone.png"], "a link to nothing is refused by name"


def test_linked_folders_are_searched(tmp_path: Path):
    touch(tmp_path, "disk/a.png", "inputs/b.png")
    (tmp_path / "inputs" / "linked").symlink_to(tmp_path / "disk")
    assert [p.name for p in paths(find_inputs([tmp_path / "inputs"]))] == ["b.png", "a.png"]


def test_folders_that_an_earlier_run_wrote_are_left_out(tmp_path: Path):
    touch(tmp_path, "a.png", "out/run.json", "out/predictions.jsonl", "out/overlays/a/00-nodule.png", "json/run.json")
    found = find_inputs([tmp_path])
    assert [p.name for p in paths(found)] == ["a.png"]
    assert sorted(p.name for p in found.left_out) == ["predictions.jsonl", "run.json", "run.json"]


def test_folders_that_cannot_be_looked_into_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a.png", "shut/b.png")
    scan = os.scandir

    def refuse(path: str):  # tests may run as root, whom no mode stops
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_inputs([tmp_path])
    assert [p.name for p in paths(found)] == ["a.png"]
    assert found.unsearched == {tmp_path / "shut": "Permission denied"}


# -- what is written ---------------------------------------------------------------------------------


def test_one_line_per_film_with_what_the_model_says(tiny_model: RadZero, folder: Path, tmp_path: Path):
    files = paths(find_inputs([folder]))
    outcome = run(tiny_model, files, tmp_path / "out")
    assert (outcome.read, outcome.resumed, outcome.refused) == (6, 0, {})
    for line, path in zip(lines(tmp_path / "out"), files, strict=True):
        assert set(line) == {"image", "model", "sentences", "warnings"}
        assert (line["image"], line["model"]) == (str(path), tiny_model.name)
        (reading,) = tiny_model.predict(path, SENTENCES)
        assert line["warnings"] == [tiny_model.notice]
        for k, entry in enumerate(line["sentences"]):
            assert set(entry) == {"sentence", "logit", "probability", "peak"}
            assert entry["sentence"] == SENTENCES[k]
            assert entry["logit"] == pytest.approx(reading.logits[k], abs=1e-4)
            assert entry["probability"] == pytest.approx(reading.probabilities[k], abs=1e-4)
            assert entry["peak"] == reading.peaks[k].tolist()
            assert all(type(v) is int for v in entry["peak"])
    note = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert sorted(note.pop("files")) == [str(path) for path in sorted(folder.iterdir())]
    assert note == {
        "model": tiny_model.name,
        "sha256": tiny_model.sha256,
        "dtype": "float32",
        "precision": "highest",
        "sentences": list(SENTENCES),
        "threshold": 0.5,
        "overlays": False,
        "version": radzero.__version__,
    }


def test_overlays_are_named_in_the_line_and_exist(tiny_model: RadZero, folder: Path, tmp_path: Path):
    output = tmp_path / "out"
    run(tiny_model, [folder / "a.png"], output, overlays=True)
    (line,) = lines(output)
    assert len(line["overlays"]) == len(SENTENCES)
    for k, name in enumerate(line["overlays"]):
        assert Path(name).name.startswith(f"{k:02d}-there-is-")
        with Image.open(output / name) as overlay:
            assert overlay.mode == "RGB"
            assert min(overlay.size) > 96


def test_a_name_that_is_no_utf8(tiny_model: RadZero, folder: Path, tmp_path: Path):
    path = Path(os.fsdecode(os.fsencode(folder) + b"/r\xf6ntgen.png"))
    try:
        path.write_bytes((folder / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    output = tmp_path / "out"
    run(tiny_model, [path, folder / "b.png"], output, SENTENCES[:1], overlays=True)
    first, second = lines(output)
    assert os.fsencode(first["image"]) == os.fsencode(path)
    assert second["image"] == str(folder / "b.png")
    assert (output / first["overlays"][0]).is_file()
    assert run(tiny_model, [path, folder / "b.png"], output, SENTENCES[:1]).resumed == 2


def test_a_bad_file_is_a_line_with_its_reason_and_stops_nothing(tiny_model: RadZero, folder: Path, tmp_path: Path):
    (folder / "b.png").write_bytes(b"this is no film")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:300])
    files = [*paths(find_inputs([folder])), folder / "gone.png"]
    called: list[tuple[str, bool, str | None]] = []
    output = tmp_path / "out"
    outcome = run(
        tiny_model,
        files,
        output,
        batch_size=2,
        on_item=lambda source, reading, error: called.append((Path(source).name, reading is not None, error)),
    )
    written = lines(output)
    assert [line["image"] for line in written] == [str(p) for p in files], "in the order of the files"
    errors = {Path(line["image"]).name: line for line in written if "error" in line}
    assert set(errors) == {"b.png", "d.png", "gone.png"}
    assert {name: line["reason"] for name, line in errors.items()} == {
        "b.png": "not_an_image",
        "d.png": "truncated",
        "gone.png": "not_found",
    }
    for name, line in errors.items():
        assert set(line) == {"image", "model", "error", "reason"}
        assert name in line["error"]
    assert outcome.read == 4
    assert {Path(k).name: v for k, v in outcome.refused.items()} == {n: line["error"] for n, line in errors.items()}
    assert sorted(called) == sorted(
        (p.name, p.name not in errors, errors[p.name]["error"] if p.name in errors else None) for p in files
    )


def test_five_hundred_sentences(tiny_model: RadZero, folder: Path, tmp_path: Path):
    sentences = [f"There is nodule in the left {zone} lung zone {k}" for k in range(250) for zone in ("upper", "lower")]
    run(tiny_model, [folder / "a.png", folder / "b.png"], tmp_path / "out", sentences)
    for line in lines(tmp_path / "out"):
        assert [entry["sentence"] for entry in line["sentences"]] == sentences
        assert len({entry["logit"] for entry in line["sentences"]}) > 1


# -- going on ----------------------------------------------------------------------------------------


@pytest.fixture
def whole(tiny_model: RadZero, folder: Path, tmp_path: Path) -> Callable[..., bytes]:
    """The bytes of an uninterrupted run."""

    def read(**options: object) -> bytes:
        run(tiny_model, paths(find_inputs([folder])), tmp_path / "whole", **options)
        return (tmp_path / "whole" / "predictions.jsonl").read_bytes()

    return read


@pytest.mark.parametrize("kept", [0, 1, 3, 6])
@pytest.mark.parametrize("torn", [0, 1, 40])
def test_a_run_goes_on_after_its_last_whole_line(
    kept: int, torn: int, tiny_model: RadZero, folder: Path, tmp_path: Path, whole: Callable[..., bytes]
):
    expected = whole(batch_size=1)
    output = tmp_path / "whole"
    parts = expected.splitlines(keepends=True)
    (output / "predictions.jsonl").write_bytes(b"".join(parts[:kept]) + b"".join(parts[kept:])[:torn])
    outcome = run(tiny_model, paths(find_inputs([folder])), output, batch_size=1)
    assert (outcome.read, outcome.resumed) == (6, kept)
    assert (output / "predictions.jsonl").read_bytes() == expected


class InterruptionError(Exception):
    """Stands for a crash between two films."""


@pytest.mark.parametrize("after", [1, 2, 5])
def test_an_exception_loses_nothing(
    after: int, tiny_model: RadZero, folder: Path, tmp_path: Path, whole: Callable[..., bytes]
):
    expected, output, done = whole(batch_size=1), tmp_path / "out", []

    def on_file(source: str, reading: object, error: str | None) -> None:
        done.append(source)
        if len(done) == after:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        run(tiny_model, paths(find_inputs([folder])), output, batch_size=1, on_item=on_file)
    assert len(lines(output)) == after
    assert run(tiny_model, paths(find_inputs([folder])), output, batch_size=1).resumed == after
    assert (output / "predictions.jsonl").read_bytes() == expected


def test_batches_of_a_continued_run_give_the_same_bytes(
    tiny_model: RadZero,
    folder: Path,
    tmp_path: Path,
    whole: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
):
    """A film's last digits depend on its batch, so a continued run must make the batches of the first."""
    expected = whole(batch_size=5)  # five films, then one
    output, encode, seen = tmp_path / "whole", tiny_model.embed_films, []
    monkeypatch.setattr(tiny_model, "embed_films", lambda films: seen.append(len(films)) or encode(films))
    for kept in range(6):
        (output / "predictions.jsonl").write_bytes(b"".join(expected.splitlines(keepends=True)[:kept]))
        seen.clear()
        run(tiny_model, paths(find_inputs([folder])), output, batch_size=5)
        assert seen == ([5, 1] if kept < 5 else [1])
        assert (output / "predictions.jsonl").read_bytes() == expected


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_a_remedy_and_it_can_be_gone_on_with(
    tiny_model: RadZero, folder: Path, tmp_path: Path
):
    files = sorted(folder.iterdir())

    def kill(*_: object) -> None:
        for worker in active_children():
            worker.kill()

    with pytest.raises(ChildProcessError, match="fewer --workers"):
        run(tiny_model, files, tmp_path / "out", batch_size=1, workers=2, on_item=kill)
    assert 0 < len(lines(tmp_path / "out")) < len(files)
    run(tiny_model, files, tmp_path / "out", batch_size=1)
    run(tiny_model, files, tmp_path / "other", batch_size=1)
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == (tmp_path / "other/predictions.jsonl").read_bytes()


def test_refused_films_are_tried_again(tiny_model: RadZero, folder: Path, tmp_path: Path, whole: Callable[..., bytes]):
    expected = whole(batch_size=1)
    good = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(b"half copied")
    output = tmp_path / "out"
    assert len(run(tiny_model, paths(find_inputs([folder])), output, batch_size=1).refused) == 1
    (folder / "b.png").write_bytes(good)
    again = run(tiny_model, paths(find_inputs([folder])), output, batch_size=1)
    assert (again.read, again.resumed, again.refused) == (6, 5, {})
    assert sorted(lines(output), key=lambda line: line["image"]) == [json.loads(line) for line in expected.splitlines()]


def test_a_continued_run_with_refused_films_ends_like_an_uninterrupted_one(
    tiny_model: RadZero, folder: Path, tmp_path: Path, whole: Callable[..., bytes]
):
    (folder / "b.png").write_bytes(b"no film")
    expected = whole(batch_size=1)
    (tmp_path / "whole" / "predictions.jsonl").write_bytes(b"".join(expected.splitlines(keepends=True)[:4]))
    run(tiny_model, paths(find_inputs([folder])), tmp_path / "whole", batch_size=1)
    assert (tmp_path / "whole" / "predictions.jsonl").read_bytes() == expected


def test_a_finished_run_is_not_read_again(tiny_model: RadZero, folder: Path, tmp_path: Path):
    run(tiny_model, paths(find_inputs([folder])), tmp_path / "out")
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    outcome = run(tiny_model, paths(find_inputs([folder])), tmp_path / "out")
    assert (outcome.read, outcome.resumed) == (6, 6)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("Thorax-Übersicht.png", "Thorax-Übersicht-"),
        ("Thorax-U\u0308bersicht.png", "Thorax-Übersicht-"),
        ("снимок груди.png", "снимок-груди-"),
        ("胸部X線.png", "胸部X線-"),
        ("a..b (1)*.png", "a..b-1--"),
        ("胸" * 80 + ".png", "胸" * 80 + "-"),
        ("\U00020000" * 62 + ".png", "\U00020000" * 60 + "-"),
    ],
)
def test_overlays_keep_the_letters_of_any_script(
    name: str, begins: str, tiny_model: RadZero, folder: Path, tmp_path: Path
):
    (folder / name).write_bytes((folder / "a.png").read_bytes())
    run(tiny_model, [folder / name], tmp_path / "out", ("Größe des Плевральный выпот?", "胸" * 99), overlays=True)
    drawn = sorted((tmp_path / "out" / "overlays").rglob("*.png"))
    (place,) = {path.parent.name for path in drawn}
    assert place[:-8] == begins
    assert [path.name for path in drawn] == ["00-größe-des-плевральный-выпот.png", f"01-{'胸' * 60}.png"]
    assert [line["overlays"] for line in lines(tmp_path / "out")] == [[f"overlays/{place}/{p.name}" for p in drawn]]


def test_a_film_has_one_line_whatever_path_it_is_given_by(
    tiny_model: RadZero, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(tiny_model, paths(find_inputs([folder])), tmp_path / "out")
    count = len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
    monkeypatch.chdir(folder.parent)
    run(tiny_model, paths(find_inputs([folder.name])), tmp_path / "out")
    written = [json.loads(line)["image"] for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(written) == count
    assert all(name.startswith(folder.name) for name in written)


def test_a_film_that_has_changed_on_disk_is_read_again(tiny_model: RadZero, folder: Path, tmp_path: Path):
    run(tiny_model, paths(find_inputs([folder])), tmp_path / "out")
    before = lines(tmp_path / "out")
    (folder / "b.png").write_bytes((folder / "c.png").read_bytes())
    outcome = run(tiny_model, paths(find_inputs([folder])), tmp_path / "out")
    assert (outcome.read, outcome.resumed) == (6, 5)
    after = lines(tmp_path / "out")
    assert [line["image"] for line in after] == [line["image"] for line in before]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True, True, True]
    assert after[1]["sentences"] == after[2]["sentences"]


def test_other_films_of_the_same_relative_name_are_not_taken_for_done(
    tiny_model: RadZero, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, film in (("one", "a.png"), ("two", "b.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes((folder / film).read_bytes())
    outcomes = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        outcomes.append(run(tiny_model, [Path("1.png")], tmp_path / "out"))
    assert [(o.read, o.resumed) for o in outcomes] == [(1, 0), (1, 0)]


def test_refusals_of_films_that_are_not_asked_now_stay(tiny_model: RadZero, folder: Path, tmp_path: Path):
    (folder / "bad.png").write_bytes(b"not a picture")
    run(tiny_model, [folder / "bad.png", folder / "a.png"], tmp_path / "out")
    run(tiny_model, [folder / "b.png"], tmp_path / "out")
    assert [("error" in line, Path(line["image"]).name) for line in lines(tmp_path / "out")] == [
        (True, "bad.png"),
        (False, "a.png"),
        (False, "b.png"),
    ]


def test_a_film_that_the_model_fails_on_does_not_stop_the_rest(
    tiny_model: RadZero, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encode = tiny_model.embed_films

    def fail(films: Sequence[Radiograph]) -> object:
        if any(film.source.endswith("c.png") for film in films):
            raise RuntimeError("out of memory")
        return encode(films)

    monkeypatch.setattr(tiny_model, "embed_films", fail)
    outcome = run(tiny_model, paths(find_inputs([folder])), tmp_path / "out", batch_size=4)
    assert outcome.read == 5
    (line,) = [line for line in lines(tmp_path / "out") if "error" in line]
    assert line["reason"] == "model"
    assert "c.png" in line["error"]
    assert "out of memory" in line["error"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", "{"), ("run.json", "[]"), ("predictions.jsonl", "{}\n"), ("predictions.jsonl", "torn}\n")],
)
def test_a_damaged_output_folder_is_refused_by_name(
    name: str, content: str, tiny_model: RadZero, folder: Path, tmp_path: Path
):
    run(tiny_model, [folder / "a.png"], tmp_path / "out")
    (tmp_path / "out" / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name}.*damaged.*another output folder"):
        run(tiny_model, [folder / "a.png"], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sentences": (*SENTENCES, "There is mass")}, "with other sentences ('There is mass' not asked then)"),
        (
            {"sentences": (SENTENCES[0], "There is mass", "There is gas")},
            f"with other sentences ('There is mass' and 1 more not asked then, {SENTENCES[1]!r} not asked now)",
        ),
        ({"sentences": SENTENCES[::-1]}, "with its sentences in another order"),
        ({"overlays": True}, "without overlays, now with"),
        ({"results": ("seg", "sr")}, "with DICOM results none, now seg,sr"),
        ({"threshold": 0.4}, "with threshold 0.5, now 0.4"),
        (
            {"precision": "medium", "threshold": 0.4},
            "with precision highest, now medium, and with threshold 0.5, now 0.4",
        ),
    ],
)
def test_another_run_may_not_go_on_there(
    change: dict[str, object], named: str, tiny_model: RadZero, folder: Path, tmp_path: Path
):
    run(tiny_model, [folder / "a.png"], tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match=re.escape(f"out: was run {named}; name another output folder")):
        OutputFolder(tmp_path / "out", identity(tiny_model, **change))
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_other_weights_and_other_models_are_told_apart(tiny_model: RadZero, folder: Path, tmp_path: Path):
    run(tiny_model, [folder / "a.png"], tmp_path / "out")
    mine = identity(tiny_model)
    with pytest.raises(ValueError, match="was run with other weights of this model; name"):
        OutputFolder(tmp_path / "out", mine | {"sha256": "f" * 64})
    with pytest.raises(ValueError, match=r"was run with model .*, now other; name"):
        OutputFolder(tmp_path / "out", mine | {"sha256": "f" * 64, "model": "other"})


@pytest.mark.parametrize("torn", [None, b"", b'{"image": "a.pn'])
def test_a_run_that_wrote_no_line_binds_nobody(torn: bytes | None, tiny_model: RadZero, folder: Path, tmp_path: Path):
    files = paths(find_inputs([folder]))
    output = tmp_path / "out"
    OutputFolder(
        output, identity(tiny_model, overlays=True, threshold=0.3), [Item.of(path) for path in files]
    )  # and then Ctrl-C
    if torn is not None:
        (output / "predictions.jsonl").write_bytes(torn)
    assert run(tiny_model, files, output).read == len(files)
    note = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert (note["overlays"], note["threshold"]) == (False, 0.5)
    with pytest.raises(ValueError, match="was run without overlays, now with"):
        OutputFolder(output, identity(tiny_model, overlays=True), [Item.of(path) for path in files])


def test_predictions_of_unknown_origin_are_left_alone(tiny_model: RadZero, folder: Path, tmp_path: Path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "predictions.jsonl").write_text("mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match="unknown run"):
        run(tiny_model, [folder / "a.png"], output)
    assert (output / "predictions.jsonl").read_text(encoding="utf-8") == "mine\n"


def test_a_newer_version_may_go_on(tiny_model: RadZero, folder: Path, tmp_path: Path):
    run(tiny_model, [folder / "a.png"], tmp_path / "out")
    note = tmp_path / "out" / "run.json"
    note.write_text(note.read_text(encoding="utf-8").replace(radzero.__version__, "0.0.1"), encoding="utf-8")
    assert run(tiny_model, [folder / "a.png"], tmp_path / "out").resumed == 1


def test_a_crash_while_the_run_is_noted_leaves_no_half_note(
    tiny_model: RadZero, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(tiny_model, [folder / "a.png"], tmp_path / "out")

    def write_half(file: BinaryIO) -> None:
        file.truncate(file.tell() // 2)
        raise InterruptionError

    monkeypatch.setattr("radzero._files.flush", write_half)
    with pytest.raises(InterruptionError):
        run(tiny_model, [folder / "a.png"], tmp_path / "out")
    monkeypatch.undo()
    assert run(tiny_model, [folder / "a.png"], tmp_path / "out").resumed == 1


def test_readings_do_not_depend_on_the_size_of_batches(tiny_model: RadZero, folder: Path, tmp_path: Path):
    files = paths(find_inputs([folder]))
    for size in (1, 4, 100):
        run(tiny_model, files, tmp_path / str(size), batch_size=size)
    one, four, hundred = (
        np.array([[entry["logit"] for entry in line["sentences"]] for line in lines(tmp_path / name)])
        for name in ("1", "4", "100")
    )
    assert one == pytest.approx(four, abs=1e-4)
    assert one == pytest.approx(hundred, abs=1e-4)
    assert one.std() > 0.01
