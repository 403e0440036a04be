"""Manifests: what is written is what is read, what cannot be used is named, and no patient is in two splits."""

import json
import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radzero.training.manifest import (
    PARQUET_HINT,
    Manifest,
    ManifestError,
    ManifestRow,
    PackedStrings,
    read_rows,
    write_manifest,
)

ROW = ManifestRow("a.png", ("There is edema",), "p1")
VALUES: dict[str, Any] = {"image": "a.png", "sentences": ["There is edema"], "patient": "p1"}
ROWS = (
    ManifestRow(
        "films/größe 1.png", ("There is edema", "There is no effusion"), "p1", "s1", "PA", "train", {"age": 61}
    ),
    ManifestRow("/data/胸部.dcm", (), "p1", "s2", "", "train", {"age": 62}),
    ManifestRow("b.jpg", ("There may be a “mass” at T5\u2028T6",), "患者 2", "", "AP", "test", {"age": None}),
    ManifestRow("c.jpg", ("There is pneumothorax 🫁",), "Ä-3", "7", "LATERAL", "validate", {"age": -1}),
)


@pytest.fixture(params=[".jsonl", ".parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a manifest is to be, in a folder of its own."""
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / "manifests" / f"größe{request.param}"


def put(path: Path, *values: Any) -> Path:
    """A file of these rows, right or wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(values)), path)
    else:
        path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


def refused(path: Path) -> str:
    """What reading the manifest is refused with."""
    with pytest.raises(ManifestError) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*"))


# -- round trips -------------------------------------------------------------------------------------------


def test_what_is_written_is_read(path: Path):
    assert write_manifest(path, iter(ROWS)) == len(ROWS)
    assert tuple(read_rows(path)) == ROWS
    assert [type(row.sentences) for row in read_rows(path)] == [tuple] * len(ROWS)
    assert names(path.parent) == [path.name]


def test_further_columns_of_any_kind_are_kept(path: Path):
    extra = {"age": 61, "weight": 70.5, "emergency": True, "größe": "klein", "boxes": [[1, 2], [3, 4]], "name": None}
    write_manifest(path, [replace(ROW, extra=extra)])
    (row,) = read_rows(path)
    assert row.extra == extra


def test_a_further_column_that_the_first_row_lacks_is_kept(path: Path):
    write_manifest(path, [ROW, replace(ROW, image="b.png", extra={"age": "61"})])
    assert [row.extra.get("age") for row in read_rows(path)] == [None, "61"]


@pytest.mark.parametrize(
    "change",
    [
        *[[{"extra": {"age": kind}} for kind in kinds] for kinds in [(1, "one"), ("one", 1), ([1], "one")]],
        [{}, {"image": "gr\udcf6\udcdfe.png"}],
        [{"extra": {"age": 1}}, {"extra": {"age": 2**70}}],
    ],
    ids=["number and text", "text and number", "list and text", "no UTF-8", "number of more than 64 bits"],
)
def test_what_parquet_cannot_hold_is_refused_and_the_manifest_named(change: list[dict[str, Any]], tmp_path: Path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "m.parquet"
    with pytest.raises(ManifestError) as caught:
        write_manifest(path, [replace(ROW, **changes) for changes in change])
    assert str(caught.value).startswith(f"{path}: cannot be Parquet, ")
    assert names(tmp_path) == []


@pytest.mark.parametrize("column", ["image", "sentences", "patient", "study", "view", "split"])
def test_a_further_column_that_is_named_like_one_of_the_row_s_own_is_refused(column: str):
    with pytest.raises(ValueError, match=f"^a further column cannot be named {column}: that is the manifest's own$"):
        replace(ROW, extra={"age": 61, column: "test"})


def test_all_further_columns_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="cannot be named image, split: "):
        replace(ROW, extra={"split": "test", "age": 61, "image": "b.png"})


def test_a_manifest_without_rows_is_not_written(path: Path):
    with pytest.raises(ManifestError) as caught:
        write_manifest(path, [])
    assert str(caught.value) == f"{path}: there is not one row to write"
    assert names(path.parent) == []
    write_manifest(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(ManifestError, match="there is not one row to write"):
        write_manifest(path, iter(()))
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


def test_a_manifest_that_someone_else_wrote_without_rows_has_none(path: Path):
    assert list(read_rows(put(path))) == []


def test_json_lines_are_text_that_people_can_read(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, ROWS)
    first, *others = path.read_text(encoding="utf-8").split("\n")
    assert first == (
        '{"image": "films/größe 1.png", "sentences": ["There is edema", "There is no effusion"], "patient": "p1", '
        '"study": "s1", "view": "PA", "split": "train", "age": 61}'
    )
    assert len(others) == len(ROWS)


TEXT = st.text(min_size=1, max_size=20)
SENTENCES = st.lists(TEXT.filter(str.strip), max_size=4).map(tuple)
LABELS = st.text(max_size=8)


@given(rows=st.lists(st.tuples(TEXT, SENTENCES, LABELS, LABELS, LABELS), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_written_and_read(rows: list[tuple[str, tuple[str, ...], str, str, str]], path: Path):
    written = [
        ManifestRow(image, sentences, f"p{k}", study, view, extra={"note": note})
        for k, (image, sentences, study, view, note) in enumerate(rows)
    ]
    assert write_manifest(path, written) == len(written)
    assert list(read_rows(path)) == written


@pytest.mark.parametrize("absent", [{}, {"study": None, "view": None, "split": None}, {"split": ""}])
def test_study_view_and_split_have_defaults(absent: dict[str, Any], tmp_path: Path):
    (row,) = read_rows(put(tmp_path / "m.jsonl", VALUES | absent))
    assert row == ROW


def test_a_study_that_is_a_number_is_read_as_text(path: Path):
    (row,) = read_rows(put(path, VALUES | {"study": 50414267}))
    assert row.study == "50414267"


def test_empty_lines_are_no_rows(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text(f"\n{json.dumps(VALUES)}\n  \n{json.dumps(VALUES | {'image': 'b.png'})}", encoding="utf-8")
    assert [row.image for row in read_rows(path)] == ["a.png", "b.png"]


def test_another_run_replaces_the_manifest(path: Path):
    write_manifest(path, ROWS)
    write_manifest(path, [ROW])
    assert [row.image for row in read_rows(path)] == ["a.png"]


# -- refusals ----------------------------------------------------------------------------------------------

WRONG = [
    ({"image": None}, "image must be a text that is not empty, not None"),
    ({"image": ""}, "image must be a text that is not empty, not ''"),
    ({"image": 3}, "image must be a text that is not empty, not 3"),
    ({"patient": None}, "patient must be a text that is not empty, not None"),
    ({"patient": ""}, "patient must be a text that is not empty, not ''"),
    ({"patient": 10000032}, "patient must be a text that is not empty, not 10000032"),
    ({"sentences": None}, "sentences must be a list of texts, not None"),
    ({"sentences": "There is edema"}, "sentences must be a list of texts, not 'There is edema'"),
    ({"sentences": ["There is edema", " \t"]}, "sentences must be texts that are not empty"),
    ({"sentences": [1]}, "sentences must be texts that are not empty"),
    ({"split": "dev"}, "split must be one of train, validate, test, not 'dev'"),
    ({"split": "Train"}, "split must be one of train, validate, test, not 'Train'"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_wrong_row_is_named(change: dict[str, Any], said: str, path: Path):
    assert refused(put(path, VALUES | change)) == f", row 1: {said}"


@pytest.mark.parametrize("column", ["image", "patient", "sentences"])
def test_a_missing_column_is_named(column: str, path: Path):
    kept = {name: value for name, value in VALUES.items() if name != column}
    assert f", row 1: {column} must be " in refused(put(path, kept))


def test_the_row_that_is_wrong_is_counted_from_one(path: Path):
    rows = [VALUES | {"split": "train"} for _ in range(5000)]  # more than Parquet gives at once
    rows[4999] = VALUES | {"split": "dev"}
    assert refused(put(path, *rows)).startswith(", row 5000: split must be")


@pytest.mark.parametrize("line", ['{"image": "b.png', "image,sentences,patient", "'", '{"a": 1} {"b": 2}', "\ufeff{}"])
def test_a_line_that_is_no_json_is_named(line: str, tmp_path: Path):
    path = put(tmp_path / "m.jsonl", VALUES)
    path.write_text(path.read_text() + "\n" + line + "\n", encoding="utf-8")
    assert refused(path).startswith(", line 3: not JSON in UTF-8: ")


@pytest.mark.parametrize("value", [[1, 2], "a.png", 3, None])
def test_a_line_that_is_no_mapping_is_named(value: Any, tmp_path: Path):
    path = put(tmp_path / "m.jsonl", VALUES, value)
    assert refused(path) == f", line 2: a row must be a mapping, not {value!r}"


def test_a_line_that_is_no_utf8_is_named(tmp_path: Path):
    path = put(tmp_path / "m.jsonl", VALUES)
    line = json.dumps(VALUES | {"image": "größe.png"}, ensure_ascii=False).encode("latin-1")
    path.write_bytes(path.read_bytes() + b"\n" + line)
    assert refused(path).startswith(", line 3: not JSON in UTF-8: ")


@pytest.mark.parametrize("content", [b"", b"PAR1", b'{"image": "a.png"}\n', bytes(range(256))])
def test_what_is_no_parquet_is_named(content: bytes, tmp_path: Path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    assert refused(path).startswith(": not whole Parquet: ")


def test_parquet_that_is_cut_off_is_named(tmp_path: Path):
    path = put(tmp_path / "m.parquet", *[VALUES] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(path).startswith(": not whole Parquet: ")


def test_parquet_that_is_damaged_inside_is_named(tmp_path: Path):
    path = put(tmp_path / "m.parquet", *[VALUES | {"image": f"{k}.png"} for k in range(500)])
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(byte ^ 255 for byte in content[200:300])
    path.write_bytes(content)
    assert refused(path).startswith(": not whole Parquet: ")


def test_parquet_whose_text_is_no_utf8_is_named(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "m.parquet"
    table = pyarrow.Table.from_pylist([VALUES | {"image": f"{k}.png"} for k in range(9)])
    parquet.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    content = path.read_bytes()
    assert content.count(b"7.png") == 1
    path.write_bytes(content.replace(b"7.png", b"\xff.png"))
    refused(path)


def test_a_missing_manifest_is_named(path: Path):
    with pytest.raises(FileNotFoundError, match=path.stem):
        list(read_rows(path))


def test_without_pyarrow_parquet_is_refused_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = put(tmp_path / "m.parquet", VALUES)
    before = path.read_bytes()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for attempt in (lambda: list(read_rows(path)), lambda: write_manifest(path, [ROW])):
        with pytest.raises(ManifestError) as caught:
            attempt()
        assert str(caught.value) == PARQUET_HINT
    assert "pip install 'radzero[data]'" in PARQUET_HINT
    assert names(tmp_path) == ["m.parquet"]
    assert path.read_bytes() == before
    assert write_manifest(tmp_path / "m.jsonl", [ROW]) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "dev"}, "b.png: split must be one of train, validate, test, not 'dev'"),
        ({"patient": ""}, "b.png: patient must be a text that is not empty, not ''"),
        ({"image": ""}, "a row: image must be a text that is not empty, not ''"),
        ({"sentences": ("",)}, "b.png: sentences must be texts that are not empty"),
    ],
)
def test_a_row_that_cannot_be_read_is_not_written(change: dict[str, Any], said: str, path: Path):
    rows = [ROW, replace(ROW, **({"image": "b.png", "patient": "p2"} | change))]
    with pytest.raises(ManifestError) as caught:
        write_manifest(path, rows)
    assert str(caught.value) == f"{path}: {said}"
    assert names(path.parent) == []


# -- splits ------------------------------------------------------------------------------------------------


def torn(count: int) -> list[ManifestRow]:
    """Rows of that many patients in two splits, and of two whole ones."""
    rows = [replace(ROW, patient=f"t{k}", split=split) for split in ("train", "test") for k in range(count)]
    return [ROW, *rows, replace(ROW, patient="p9", split="validate"), ROW]


WORTHLESS = "training on a patient of the test split makes its figures worthless"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "1 patients are in two splits (t0)"),
        (5, "5 patients are in two splits (t0, t1, t2, t3, t4)"),
        (6, "6 patients are in two splits (t0, t1, t2, t3, t4, ...)"),
    ],
)
def test_patients_in_two_splits_are_counted_and_named(count: int, said: str, path: Path):
    assert refused(put(path, *(row.to_dict() for row in torn(count)))) == f": {said}; {WORTHLESS}"
    for split in ("train", "validate", "test"):
        with pytest.raises(ManifestError, match=WORTHLESS):
            Manifest(path, split)
    path.unlink()
    with pytest.raises(ManifestError) as caught:
        write_manifest(path, torn(count))
    assert str(caught.value) == f"{path}: {said}; {WORTHLESS}"
    assert not path.exists()


def test_a_refused_manifest_leaves_the_one_that_was_there(path: Path):
    write_manifest(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(ManifestError, match=WORTHLESS):
        write_manifest(path, torn(2))
    assert path.read_bytes() == before


def ending(error: BaseException) -> Iterator[ManifestRow]:
    yield ROW
    raise error


@pytest.mark.parametrize("what", ["torn", "failing", "interrupted"])
def test_a_manifest_that_is_not_written_leaves_nothing_behind(what: str, path: Path):
    error = KeyboardInterrupt() if what == "interrupted" else ManifestError("it ends here")
    with pytest.raises(type(error)):
        write_manifest(path, torn(1) if what == "torn" else ending(error))
    assert names(path.parent) == []


# -- strings in two arrays ---------------------------------------------------------------------------------


@given(strings=st.lists(st.text(max_size=30), max_size=12), data=st.data())
@settings(deadline=None)
def test_packed_strings_are_the_list_they_were_made_from(strings: list[str], data: st.DataObject):
    packed = PackedStrings(iter(strings))
    count = len(strings)
    assert len(packed) == count
    assert list(packed) == strings
    assert list(reversed(packed)) == strings[::-1]
    assert [packed[k] for k in range(-count, count)] == strings * 2
    for outside in (count, -count - 1, count + 7):
        with pytest.raises(IndexError):
            packed[outside]
    chosen = data.draw(st.slices(count + 2))
    assert packed[chosen] == strings[chosen]
    assert all(text in packed for text in strings)
    assert list(pickle.loads(pickle.dumps(packed))) == strings  # as a data worker gets them


def test_packed_strings_keep_names_that_are_no_utf8():
    strings = ["größe.png", b"gr\xf6\xdfe.png".decode(errors="surrogateescape"), "b.png"]
    assert list(PackedStrings(strings)) == strings


# -- one split ---------------------------------------------------------------------------------------------


def test_a_manifest_has_the_images_of_its_split_that_state_something(path: Path):
    write_manifest(path, ROWS)
    train, validate, test = (Manifest(path, split) for split in ("train", "validate", "test"))
    assert (len(train), len(validate), len(test)) == (1, 1, 1)
    assert (train.skipped, validate.skipped, test.skipped) == (1, 0, 0)
    assert (train.path, train.split) == (path, "train")
    assert train.sentences(0) == ["There is edema", "There is no effusion"]
    assert validate.sentences(0) == ["There is pneumothorax 🫁"]


def test_images_are_found_beside_the_manifest_unless_absolute(path: Path):
    elsewhere = str(path.parent.parent / "b.png")
    write_manifest(path, [ROW, replace(ROW, image=elsewhere), replace(ROW, image="../größe/c.png")])
    manifest = Manifest(path, "train")
    assert [manifest.image(k) for k in range(3)] == [
        path.parent / "a.png",
        Path(elsewhere),
        path.parent / "../größe/c.png",
    ]


def test_an_image_whose_name_is_no_utf8_is_found(tmp_path: Path):
    image = b"gr\xf6\xdfe.png".decode(errors="surrogateescape")
    path = tmp_path / "m.jsonl"
    write_manifest(path, [ROWS[0], replace(ROW, image=image)])
    assert [row.image for row in read_rows(path)] == [ROWS[0].image, image]
    assert Manifest(path, "train").image(1) == tmp_path / image
    assert path.read_bytes().decode().startswith('{"image": "films/größe 1.png"'), "the others stay readable"


@pytest.mark.parametrize("column", ["image", "sentences"])
def test_a_text_with_half_a_character_is_named(column: str, tmp_path: Path):
    half = "There is edema \ud83e"  # as other software cuts an emoji
    path = put(tmp_path / "m.jsonl", VALUES | {column: half if column == "image" else [half]})
    with pytest.raises(ManifestError, match=r"m\.jsonl"):
        Manifest(path, "train")


def test_a_sentence_on_two_lines_stays_one(path: Path):
    write_manifest(path, [replace(ROW, sentences=("There is\n  edema", " There is \u2028no\r\neffusion\t"))])
    assert Manifest(path, "train").sentences(0) == ["There is edema", "There is no effusion"]


def test_a_split_that_is_none_is_refused(path: Path):
    write_manifest(path, ROWS)
    with pytest.raises(ManifestError, match="split must be one of train, validate, test, not 'dev'"):
        Manifest(path, "dev")


def test_a_split_that_states_nothing_is_refused_with_what_is_there(path: Path):
    write_manifest(path, [ROW, ROW, replace(ROW, patient="p2", split="test", sentences=())])
    for split in ("validate", "test"):
        with pytest.raises(ManifestError) as caught:
            Manifest(path, split)
        assert str(caught.value) == (
            f"{path}: no image of the split '{split}' states anything; its rows: 2 of train, 1 of test"
        )


def test_a_manifest_without_rows_is_refused(path: Path):
    put(path)
    with pytest.raises(ManifestError) as caught:
        Manifest(path, "train")
    assert str(caught.value) == f"{path}: no image of the split 'train' states anything; its rows: none at all"


def test_a_manifest_takes_hardly_more_memory_than_its_text(tmp_path: Path):
    path, count = tmp_path / "m.jsonl", 3000
    sentences = tuple(f"There is no large left pleural effusion in zone {k} of this film" for k in range(6))
    image = "/data/mimic-cxr-jpg/files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-{:08x}.jpg"
    write_manifest(path, (replace(ROW, image=image.format(k), sentences=sentences) for k in range(count)))
    text = len(image) + sum(map(len, sentences))
    tracemalloc.start()
    manifest = Manifest(path, "train")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest) == count
    assert held < count * (text + 50)
