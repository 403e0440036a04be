"""Preparation: every image is in the manifest or left out with its reason, and every patient in one split."""

import csv
import gzip
import json
import os
import re
import shutil
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import call
from radzero.phantom.film import make_film
from radzero.phantom.reports import write_report
from radzero.phantom.writing import FilmFormat, write_phantoms
from radzero.reports.rules import RulesEngine
from radzero.reports.sections import Report, cut_sections
from radzero.training.manifest import Manifest, ManifestError, ManifestRow, read_rows
from radzero.training.preparation import (
    LeftOut,
    TableColumns,
    extraction_sentences,
    openi,
    phantoms,
    prepare,
    split_of,
    table,
)

NOTHING_STATED = "its report states no finding"
NOT_EXTRACTED = "its report is not in the extraction's output"
NO_FILE = "there is no such file"
UNNAMED = "the table does not name it"
SEVERAL = "several files have this name; give paths below the folder"
NORMAL = "There is no cardiopulmonary abnormality"


def made(folder: Path, *paths: str) -> Path:
    """A folder with these files, empty: no preparation looks into an image."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def save(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def extraction(path: Path, stated: dict[str, Sequence[str]]) -> Path:
    """An output of `radzero extract`, as far as a preparation reads it."""
    records = [{"report": name, "sentences": [{"text": text} for text in texts]} for name, texts in stated.items()]
    return save(path, "".join(json.dumps(record) + "\n" for record in records))


def left_out(manifest: Path) -> list[tuple[str, str]]:
    """What the report beside the manifest says, in its order."""
    lines = manifest.with_name(f"{manifest.stem}.left_out.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert all(set(record) == {"item", "reason"} for record in records)
    return [(record["item"], record["reason"]) for record in records]


def figures(*arguments: object) -> dict[str, str]:
    """What `radzero prepare` prints, of its table."""
    output = call("prepare", *arguments).stdout
    return dict(re.findall(r"│ +(\S.*?) +│ +(\S+) +│", output))


def refused(*arguments: object) -> str:
    """What a failing `radzero prepare` says, on one line."""
    result = call("prepare", *arguments, code=2)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# -- writing -----------------------------------------------------------------------------------------------

KEPT = ManifestRow("a.png", ("There is edema", "There is no mass"), "p1", split="test")
OUT = LeftOut("größe.png", "too small")


def test_a_preparation_counts_what_it_writes(tmp_path: Path):
    output = tmp_path / "new" / "m.jsonl"
    result = prepare(iter([OUT, KEPT, ManifestRow("b.png", ("There is edema",), "p2"), KEPT, OUT]), output)
    assert result.rows == Counter(test=2, train=1)
    assert result.sentences == 5
    assert result.left_out == Counter({"too small": 2})
    assert result.report == tmp_path / "new" / "m.left_out.jsonl"
    assert left_out(output) == [(OUT.item, OUT.reason)] * 2
    assert [row.image for row in read_rows(output)] == ["a.png", "b.png", "a.png"]
    assert names(output.parent) == ["m.jsonl", "m.left_out.jsonl"]


def test_where_nothing_is_left_out_there_is_no_report_of_it(tmp_path: Path):
    output = tmp_path / "m.jsonl"
    prepare([KEPT, OUT], output)
    assert prepare([KEPT], output).report is None
    assert names(tmp_path) == ["m.jsonl"]


def test_where_nothing_is_left_the_reasons_are_said(tmp_path: Path):
    output = tmp_path / "m.jsonl"
    items = [LeftOut(f"{k}{n}", f"reason {k}") for k in range(1, 5) for n in range(k)]
    with pytest.raises(ManifestError) as caught:
        prepare(items, output)
    named = f"{tmp_path / 'm.left_out.jsonl'} names them"
    said = f"not one image is left (4 x reason 4; 3 x reason 3; 2 x reason 2; {named})"
    assert str(caught.value) == f"{output}: {said}"
    assert not output.exists()


def test_where_nothing_is_left_every_image_is_reported_all_the_same(tmp_path: Path):
    output = tmp_path / "m.jsonl"
    with pytest.raises(ManifestError, match="not one image is left"):
        prepare([LeftOut(f"{k}{n}", f"reason {k}") for k in range(1, 5) for n in range(k)], output)
    assert names(tmp_path) == ["m.left_out.jsonl"]
    assert len(left_out(output)) == 10


def test_a_source_that_names_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"m\.jsonl: not one image is left \(the source names none\)"):
        prepare([], tmp_path / "m.jsonl")
    assert names(tmp_path) == []


def test_where_nothing_is_left_an_earlier_manifest_stays(tmp_path: Path):
    output = tmp_path / "m.jsonl"
    prepare([KEPT], output)
    before = output.read_bytes()
    with pytest.raises(ManifestError, match="not one image is left"):
        prepare([OUT], output)
    assert output.read_bytes() == before


def ending(error: BaseException) -> Iterator[ManifestRow | LeftOut]:
    yield from (OUT, KEPT)
    raise error


TORN = [OUT, KEPT, ManifestRow("b.png", ("There is edema",), "p1", split="train")]


def test_a_patient_in_two_splits_is_refused_and_an_earlier_manifest_stays(tmp_path: Path):
    output = tmp_path / "m.jsonl"
    prepare([KEPT, LeftOut("x", "y")], output)
    before = output.read_bytes()
    with pytest.raises(ManifestError, match=r"m\.jsonl: 1 patients are in two splits \(p1\)"):
        prepare(TORN, output)
    assert output.read_bytes() == before
    assert left_out(output) == [("x", "y")]


@pytest.mark.parametrize("ending_of", ["torn", "failing", "interrupted"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_preparation_that_fails_leaves_nothing_behind(ending_of: str, suffix: str, tmp_path: Path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    error = KeyboardInterrupt() if ending_of == "interrupted" else ManifestError("it ends here")
    with pytest.raises(type(error)):
        prepare(TORN if ending_of == "torn" else ending(error), tmp_path / f"m{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["m.csv", "m", "m.json", "m.JSONL"])
def test_a_manifest_of_another_ending_is_refused(name: str, tmp_path: Path):
    folder = made(tmp_path / "films", "a.png")
    rows = save(tmp_path / "t.csv", "image,patient,labels\na.png,1,edema\n")
    said = refused("table", folder, rows, "--labels", "labels", "-o", tmp_path / "out" / name)
    assert said == f"error: {tmp_path / 'out' / name}: a manifest's name ends in .jsonl or .parquet"
    assert not (tmp_path / "out").exists()


def test_a_manifest_can_be_parquet(tmp_path: Path):
    pytest.importorskip("pyarrow")
    folder = made(tmp_path / "films", "größe.png", "b.png", "c.png")
    rows = save(tmp_path / "t.csv", "image,patient,labels,âge\ngröße.png,1,edema,61\nb.png,2,mass|edema,\n")
    written = []
    for name in ("a.jsonl", "b.parquet"):
        output = tmp_path / name
        assert figures("table", folder, rows, "--labels", "labels", "-o", output)["images"] == "2"
        assert left_out(output) == [(str(folder / "c.png"), UNNAMED)]
        written.append(list(read_rows(output)))
    assert written[0] == written[1]
    assert written[1][0].extra == {"âge": "61"}


# -- splits ------------------------------------------------------------------------------------------------


def test_a_patient_s_split_never_changes():
    """These are in manifests that people have trained on: if they change, test patients are trained on."""
    patients = ("p10000032", "CXR54", "p1", "Ä-3", "493", "p11")
    assert [split_of(p) for p in patients] == ["test", "train", "test", "train", "train", "validate"]
    assert [split_of(p, seed=1) for p in patients] == ["train", "train", "test", "train", "train", "train"]
    assert [split_of(p, (0.4, 0.4)) for p in patients] == ["validate", "test", "validate", "test", "train", "validate"]


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.02, 0.3), (0.0, 0.2), (0.2, 0.0), (0.5, 0.4)])
@pytest.mark.parametrize("pattern", ["p{}", "CXR{}", "phantom-990-{:06d}"])
def test_ten_thousand_patients_are_split_nearly_by_the_shares(shares: tuple[float, float], pattern: str):
    counts = Counter(split_of(pattern.format(k), shares) for k in range(10_000))
    for split, share in zip(("validate", "test", "train"), (*shares, 1 - sum(shares)), strict=True):
        four_deviations = 4 * (10_000 * share * (1 - share)) ** 0.5
        assert counts[split] == pytest.approx(10_000 * share, abs=four_deviations)


@given(st.text(), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_larger_test_share_takes_from_training_alone(patient: str, validate: int, first: int, second: int):
    less, more = sorted((first, second))
    before, after = (split_of(patient, (validate / 300, share / 300)) for share in (less, more))
    assert before == after or (before, after) == ("train", "test")


def many_rows(tmp_path: Path) -> tuple[Path, list[str], dict[str, str]]:
    """A folder of 300 images of 60 patients, the lines of their table, and whose each image is."""
    owner = {f"{k:03d}.png": f"p{k % 60}" for k in range(300)}
    lines = [f"{image},{patient},There is edema" for image, patient in owner.items()]
    return made(tmp_path / "films", *owner), lines, owner


@pytest.mark.parametrize("order", [1, -1, 7])
def test_rows_of_one_patient_are_in_one_split_whatever_their_order(order: int, tmp_path: Path):
    folder, lines, owner = many_rows(tmp_path)
    lines = lines[::order] if abs(order) == 1 else [lines[k * order % len(lines)] for k in range(len(lines))]
    rows = save(tmp_path / "t.csv", "\n".join(["image,patient,s", *lines]))
    output = tmp_path / "m.jsonl"
    counts = figures("table", folder, rows, "--sentences", "s", "--shares", "0.3", "0.3", "-o", output)
    splits = defaultdict(set)
    for row in read_rows(output):
        assert row.patient == owner[Path(row.image).name]
        splits[row.patient].add(row.split)
    assert len(splits) == 60
    assert splits == {patient: {split_of(patient, (0.3, 0.3))} for patient in owner.values()}
    found = Counter(next(iter(one)) for one in splits.values())
    assert set(found) == {"train", "validate", "test"}
    assert {split: int(counts[split]) for split in found} == {split: 5 * count for split, count in found.items()}


def test_patients_that_are_added_move_nobody(tmp_path: Path):
    folder, lines, _ = many_rows(tmp_path)
    splits = []
    for count in (50, 300):
        rows = save(tmp_path / "t.csv", "\n".join(["image,patient,s", *lines[:count]]))
        call("prepare", "table", folder, rows, "--sentences", "s", "-o", tmp_path / "m.jsonl")
        splits.append({row.patient: row.split for row in read_rows(tmp_path / "m.jsonl")})
    assert len(splits[0]) == 50
    assert splits[0].items() <= splits[1].items()


@pytest.mark.parametrize(
    "shares", [(0.8, 0.5), (0.5, 0.5), (1.0, 0.0), (-0.1, 0.1), (0.1, -0.2), (float("nan"), 0.1), (0.1, float("nan"))]
)
def test_shares_that_are_none_are_refused(shares: tuple[float, float], tmp_path: Path):
    expected = f"the shares that validate and test must be 0 or more and below 1 together, not {shares}"
    with pytest.raises(ManifestError) as caught:
        split_of("p1", shares)
    assert str(caught.value) == expected
    folder, lines, _ = many_rows(tmp_path)
    rows = save(tmp_path / "t.csv", "\n".join(["image,patient,s", *lines]))
    output = tmp_path / "out" / "m.jsonl"
    assert refused("table", folder, rows, "--sentences", "s", "-o", output, "--shares", *shares) == f"error: {expected}"
    assert names(output.parent) == []


# -- what `radzero extract` wrote --------------------------------------------------------------------------

NO_JSON, NO_MAPPING = "not JSON in UTF-8: ", "a row must be a mapping, not "
NO_EXTRACTION = "not a line of `radzero extract`: "


def test_an_extraction_is_read_as_extract_writes_it(tmp_path: Path):
    reports = tmp_path / "reports"
    save(reports / "s1.txt", "FINDINGS: Small left pleural effusion. No pneumothorax.\nIMPRESSION: Cardiomegaly.")
    save(reports / "s2.txt", "FINDINGS: As above.")
    save(reports / "s3.txt", "")
    output = tmp_path / "out.jsonl"
    call("extract", reports, "-o", output, code=1)
    stated = extraction_sentences(output)
    assert list(stated) == ["s1", "s2"], "an unread report is in the output, and states nothing"
    assert stated["s2"] == ()
    report = Report.from_text("s1", (reports / "s1.txt").read_text())
    assert stated["s1"] == tuple(s.text for s in RulesEngine().extract(report).sentences)
    assert "There is no pneumothorax" in stated["s1"]
    assert len(stated["s1"]) == 3


def test_reports_that_failed_are_not_extracted(tmp_path: Path):
    lines = [
        {"report": None, "source": "x.txt", "error": "unread", "reason": "the file is empty"},
        {"report": "s1", "source": "y.txt", "error": "failed", "reason": "no answer"},
        {"report": "s2", "source": "z.txt", "sentences": []},
    ]
    path = save(tmp_path / "out.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert extraction_sentences(path) == {"s2": ()}


def test_a_report_that_is_there_twice_must_say_the_same(tmp_path: Path):
    one, same, other = (
        {"report": "s1", "sentences": [{"text": t}]} for t in ("There is edema",) * 2 + ("There is mass",)
    )
    path = save(tmp_path / "out.jsonl", f"{json.dumps(one)}\n{json.dumps(same)}\n")
    assert extraction_sentences(path) == {"s1": ("There is edema",)}
    save(path, f"{json.dumps(one)}\n{json.dumps(same)}\n{json.dumps(other)}\n")
    with pytest.raises(ManifestError) as caught:
        extraction_sentences(path)
    assert str(caught.value) == f"{path}, line 3: s1 is there twice and differs; extract each report once"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"report": "s2", "sentences": [{"te', NO_JSON),
        ('{"report": "größe", "sentences": []}'.encode("latin-1"), NO_JSON),
        (b"[1]", NO_MAPPING),
        (b"3", NO_MAPPING),
        (b"null", NO_MAPPING),
        (b'{"name": "s2", "sentences": []}', NO_EXTRACTION),
        (b'{"report": "s2", "sentences": ["There is edema"]}', NO_EXTRACTION),
        (b'{"report": "s2", "sentences": [{"finding": "edema"}]}', NO_EXTRACTION),
        (b'{"report": "s2", "sentences": "There is edema"}', NO_EXTRACTION),
        (b'{"report": "s2", "sentences": 3}', NO_EXTRACTION),
        (b'{"report": ["s2"], "sentences": []}', NO_EXTRACTION),
    ],
)
def test_a_line_that_extract_did_not_write_is_named(line: bytes, said: str, tmp_path: Path):
    path = extraction(tmp_path / "out.jsonl", {"s1": ["There is edema"]})
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ManifestError) as caught:
        extraction_sentences(path)
    assert str(caught.value).startswith(f"{path}, line 2: {said}")


def test_empty_lines_of_an_extraction_are_passed_over(tmp_path: Path):
    path = extraction(tmp_path / "out.jsonl", {"s1": ["There is edema"], "s2": []})
    path.write_text("\n" + path.read_text().replace("\n", "\n \n\n"))
    assert extraction_sentences(path) == {"s1": ("There is edema",), "s2": ()}


@pytest.mark.parametrize(
    "line", ['{"name": "s2", "sentences": []}', '{"report": "s1", "sentences": []}'], ids=["no report", "differs"]
)
def test_after_empty_lines_an_extraction_s_wrong_line_is_still_the_file_s(line: str, tmp_path: Path):
    path = extraction(tmp_path / "out.jsonl", {"s1": ["There is edema"]})
    path.write_text(f"{path.read_text()}\n\n{line}\n")
    with pytest.raises(ManifestError, match=r"out\.jsonl, line 4: "):
        extraction_sentences(path)


@pytest.mark.parametrize("verb", ["mimic-cxr", "openi"])
def test_a_missing_extraction_is_named(verb: str, tmp_path: Path):
    gone = tmp_path / "gone.jsonl"
    assert str(gone) in refused(verb, tmp_path, "-s", gone, "-o", tmp_path / "m.jsonl")


# -- MIMIC-CXR ---------------------------------------------------------------------------------------------

FILMS = {
    # dicom_id: subject, study, view, split, ending of the file
    "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014": ("10000032", "50414267", "PA", "train", ".jpg"),
    "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962": ("10000032", "50414267", "LATERAL", "train", ".jpg"),
    "2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab": ("10000032", "53189527", "PA", "train", ""),
    "e084de3b-be89b11e-20fe3f9f-9c8d8dfe-4cfd202c": ("10000032", "53911762", "AP", "train", ".jpg"),
    "68b5c4b1-227d0485-9cc38c3f-7b84ab51-4b472714": ("10000764", "57375967", "AP", "validate", ".jpg"),
    "096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4": ("10000764", "57375968", "", "validate", ".dcm"),
    "8959e402-2175d68d-edba5a6c-baab51c3-9359f700": ("11000566", "57523099", "PA", "test", ".jpg"),
    "3d0cbf44-b7d4c4ac-4c2c0bd0-3a6f5b58-7a3f8f5e": ("11000566", "57523099", "LL", "test", ".jpg"),
    "1b0b0385-a72d064c-2ac8f7c3-8b2e9d9b-1f4b40f5": ("11000566", "58509443", "PA", "test", ".jpg"),
}
FRONTAL, LATERAL, MISSING, SILENT, PORTABLE, DICOM, EXCLUDED, LEFT, UNREPORTED = FILMS
REPORTS = {
    "p10/p10000032/s50414267.txt": "There is no focal consolidation, pleural effusion or pneumothorax.",
    "p10/p10000032/s53189527.txt": "Mild pulmonary edema.",
    "p10/p10000032/s53911762.txt": "As above.",
    "p10/p10000764/s57375967.txt": "Small left pleural effusion.",
    "p10/p10000764/s57375968.txt": "Cardiomegaly.",
    "p11/p11000566/s57523099.txt": "Right pneumothorax.",
}
MS_CXR = "MS_CXR_Local_Alignment_v1.0.0.csv"


def place(dicom_id: str) -> str:
    subject, study, _, _, ending = FILMS[dicom_id]
    return f"files/p{subject[:2]}/p{subject}/s{study}/{dicom_id}{ending}"


def save_tables(folder: Path, suffix: str = ".csv") -> None:
    """The split and the metadata of MIMIC-CXR-JPG, with PhysioNet's columns."""
    split = ["dicom_id,study_id,subject_id,split"]
    metadata = [
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    ]
    for name, (subject, study, view, part, _) in FILMS.items():
        split.append(f"{name},{study},{subject},{part}")
        description = '"CHEST (PA, LAT)"'
        metadata.append(
            f"{name},{subject},{study},{description},{view},3056,2544,21800506,213014.531,{description},,Erect"
        )
    save(folder / f"mimic-cxr-2.0.0-split{suffix}", "\n".join(split) + "\n")
    save(folder / f"mimic-cxr-2.0.0-metadata{suffix}", "\n".join(metadata) + "\n")


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `radzero extract` makes of the archive of reports."""
    folder = tmp_path_factory.mktemp("reports")
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w") as archive:
        for name, findings in REPORTS.items():
            text = f"{'':33}FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n FINDINGS: \n \n {findings}\n"
            archive.writestr(f"files/{name}", text)
    call("extract", folder / "mimic-cxr-reports.zip", "-o", folder / "sentences.jsonl")
    return folder / "sentences.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MIMIC-CXR-JPG in small; its tables are not in it yet."""
    root = made(tmp_path / "mimic-cxr-jpg" / "2.0.0", *(place(name) for name in FILMS if FILMS[name][4]))
    lines = [
        "category_name,label_text,path,x,y,w,h,dicom_id,image_width,image_height",
        *[f'Pneumothorax,"right, apical",{place(EXCLUDED)},{x},9,9,9,{EXCLUDED},2544,3056' for x in (1, 2)],
    ]
    save(tmp_path / MS_CXR, "\n".join(lines))
    return root


def films(manifest: Path) -> dict[str, ManifestRow]:
    rows = list(read_rows(manifest))
    by_name = {Path(row.image).stem: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_mimic_cxr_is_prepared_and_every_film_accounted_for(root: Path, stated: Path, suffix: str, tmp_path: Path):
    save_tables(root, suffix)
    output = tmp_path / "m.jsonl"
    result = figures("mimic-cxr", root, "-s", stated, "-o", output, "--exclude", tmp_path / MS_CXR)
    assert left_out(output) == [
        (MISSING, NO_FILE),
        (SILENT, NOTHING_STATED),
        (EXCLUDED, f"{MS_CXR} excludes it"),
        (UNREPORTED, NOT_EXTRACTED),
    ]
    rows = films(output)
    assert list(rows) == [FRONTAL, LATERAL, PORTABLE, DICOM, LEFT]
    sentences = extraction_sentences(stated)
    for name, row in rows.items():
        subject, study, view, split, _ = FILMS[name]
        expected = (f"p{subject}", f"s{study}", view, split, sentences[f"s{study}"], {})
        assert (row.patient, row.study, row.view, row.split, row.sentences, row.extra) == expected
        assert row.image == str(root.resolve() / place(name))
    assert "There is no pneumothorax" in rows[FRONTAL].sentences
    count = sum(len(row.sentences) for row in rows.values())
    assert result == {
        "images": "5",
        "train": "2",
        "validate": "2",
        "test": "1",
        "sentences per image": f"{count / 5:.2f}",
        "left out": "4",
        NO_FILE: "1",
        NOTHING_STATED: "1",
        NOT_EXTRACTED: "1",
        f"{MS_CXR} excludes it": "1",
    }
    assert [Manifest(output, split).image(0).exists() for split in ("train", "validate", "test")] == [True] * 3


def test_without_an_exclusion_list_no_film_of_mimic_cxr_is_excluded(root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    output = tmp_path / "m.jsonl"
    assert figures("mimic-cxr", root, "-s", stated, "-o", output)["images"] == "6"
    assert EXCLUDED in films(output)
    assert EXCLUDED not in dict(left_out(output))


def test_views_of_mimic_cxr_are_filtered(root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    output = tmp_path / "m.jsonl"
    call("prepare", "mimic-cxr", root, "-s", stated, "-o", output, "--view", "PA", "--view", "AP")
    assert {name: row.view for name, row in films(output).items()} == {FRONTAL: "PA", PORTABLE: "AP", EXCLUDED: "PA"}
    assert left_out(output) == [
        (LATERAL, "its view is LATERAL"),
        (MISSING, NO_FILE),
        (SILENT, NOTHING_STATED),
        (DICOM, "its view is not stated"),
        (LEFT, "its view is LL"),
        (UNREPORTED, NOT_EXTRACTED),
    ]


def test_an_excluded_film_is_left_out_for_that_reason_first(root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    (root / place(EXCLUDED)).unlink()
    output = tmp_path / "m.jsonl"
    options = ("-s", stated, "-o", output, "--exclude", tmp_path / MS_CXR, "--view", "LL")
    assert figures("mimic-cxr", root, *options)["images"] == "1"
    assert dict(left_out(output))[EXCLUDED] == f"{MS_CXR} excludes it"


def test_the_tables_of_mimic_cxr_may_lie_elsewhere(root: Path, stated: Path, tmp_path: Path):
    save_tables(tmp_path / "tables", ".csv.gz")
    output = tmp_path / "m.jsonl"
    options = ("-s", stated, "-o", output)
    assert figures("mimic-cxr", root, *options, "--tables", tmp_path / "tables")["images"] == "6"
    said = "has no mimic-cxr-2.0.0-metadata.csv or mimic-cxr-2.0.0-metadata.csv.gz; it comes with MIMIC-CXR-JPG"
    assert refused("mimic-cxr", root, *options) == f"error: {root}: {said}"


def test_the_jpg_is_taken_where_the_dicom_file_is_there_too(root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    made(root, place(FRONTAL).replace(".jpg", ".dcm"))
    call("prepare", "mimic-cxr", root, "-s", stated, "-o", tmp_path / "m.jsonl")
    rows = films(tmp_path / "m.jsonl")
    assert Path(rows[FRONTAL].image).suffix == ".jpg"
    assert Path(rows[DICOM].image).suffix == ".dcm"


@pytest.mark.parametrize("name", ["metadata", "split"])
def test_a_missing_table_of_mimic_cxr_is_named(name: str, root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    (root / f"mimic-cxr-2.0.0-{name}.csv").unlink()
    said = refused("mimic-cxr", root, "-s", stated, "-o", tmp_path / "m.jsonl")
    assert said.startswith(f"error: {root}: has no mimic-cxr-2.0.0-{name}.csv or mimic-cxr-2.0.0-{name}.csv.gz;")
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize(
    ("table_name", "column"),
    [
        ("mimic-cxr-2.0.0-split.csv", "dicom_id"),
        ("mimic-cxr-2.0.0-split.csv", "study_id"),
        ("mimic-cxr-2.0.0-split.csv", "subject_id"),
        ("mimic-cxr-2.0.0-split.csv", "split"),
        ("mimic-cxr-2.0.0-metadata.csv", "dicom_id"),
        ("mimic-cxr-2.0.0-metadata.csv", "ViewPosition"),
        (f"../../{MS_CXR}", "dicom_id"),
    ],
)
def test_a_missing_column_of_mimic_cxr_is_named(table_name: str, column: str, root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    path = (root / table_name).resolve()
    content = path.read_text()
    path.write_text(content.replace(column, "other", 1))
    said = refused("mimic-cxr", root, "-s", stated, "-o", tmp_path / "m.jsonl", "--exclude", tmp_path / MS_CXR)
    header = path.read_text().split("\n")[0].replace(",", ", ")
    assert said == f"error: {path}: has no column {column}; its columns: {header}"


@pytest.mark.parametrize(
    "content",
    [
        b"dicom_id,study_id,subject_id,split\n",
        gzip.compress(b"dicom_id,study_id,subject_id,split\n" * 99)[:-20],
        gzip.compress(b"dicom_id,study_id,subject_id,split\n")[:-8] + bytes(8),
        gzip.compress("dicom_id,study_id,subject_id,split,größe\n".encode("latin-1")),
        gzip.compress(b"")[:10] + b"\xff" * 40,
    ],
    ids=["not packed", "cut off", "wrong checksum", "no UTF-8", "damaged"],
)
def test_a_damaged_table_is_named(content: bytes, root: Path, stated: Path, tmp_path: Path):
    save_tables(root, ".csv.gz")
    path = root / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(content)
    said = refused("mimic-cxr", root, "-s", stated, "-o", tmp_path / "m.jsonl")
    assert said.startswith(f"error: {path}: cannot be read as a table: ")


def test_an_extraction_of_other_reports_is_refused_with_the_reason(root: Path, tmp_path: Path):
    save_tables(root)
    other = extraction(tmp_path / "other.jsonl", {"CXR54": ["There is edema"]})
    said = refused("mimic-cxr", root, "-s", other, "-o", tmp_path / "m.jsonl")
    reasons = f"8 x {NOT_EXTRACTED}; 1 x {NO_FILE}; {tmp_path / 'm.left_out.jsonl'} names them"
    assert said == f"error: {tmp_path / 'm.jsonl'}: not one image is left ({reasons})"


def test_a_patient_in_two_official_splits_is_refused(root: Path, stated: Path, tmp_path: Path):
    save_tables(root)
    path = root / "mimic-cxr-2.0.0-split.csv"
    path.write_text(path.read_text().replace(f"{LATERAL},50414267,10000032,train", f"{LATERAL},50414267,10000032,test"))
    said = refused("mimic-cxr", root, "-s", stated, "-o", tmp_path / "m.jsonl")
    assert "m.jsonl: 1 patients are in two splits (p10000032);" in said
    assert not (tmp_path / "m.jsonl").exists()


# -- Open-I ------------------------------------------------------------------------------------------------

OPENI = {
    # report: findings
    "CXR54": "Small right pleural effusion.",
    "CXR1": "The lungs are clear.",
    "CXR2084": "Cardiomegaly.",
    "CXR303": "No pneumothorax.",
    "CXR7": "As above.",
}
NIH_NAMES = (
    "CXR54_IM-2145-1001.png",
    "CXR54_IM-2145-1002.png",
    "CXR1_1_IM-0001-4001.png",
    "CXR2084_IM-0715-1001-0002.png",
    "CXR303_IM-1404-1001.png",
    "CXR7_IM-2263-1001.png",
    "CXR8_IM-2333-1001.png",
)
KAGGLE_NAMES = tuple(re.sub(r"CXR(\d+)_(?:1_)?(.*)\.png", r"\1_\2.dcm.png", name) for name in NIH_NAMES)
PROJECTIONS = ("Frontal", "Lateral", "Frontal", "Lateral", "Frontal", "Frontal", "Frontal")


@pytest.fixture(scope="module")
def openi_sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openi")
    for name, findings in OPENI.items():
        xml = (
            f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="{name}"/><MedlineCitation><Article><Abstract>'
            f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
            "</Abstract></Article></MedlineCitation></eCitation>"
        )
        save(folder / "ecgen-radiology" / f"{name[3:]}.xml", xml)
    call("extract", folder / "ecgen-radiology", "-o", folder / "sentences.jsonl")
    return folder / "sentences.jsonl"


def projections(path: Path, files: Iterable[str]) -> Path:
    rows = [f"{re.search(r'[0-9]+', name)[0]},{name},{view}" for name, view in zip(files, PROJECTIONS, strict=True)]
    return save(path, "\n".join(["uid,filename,projection", *rows]))


@pytest.mark.parametrize("table_names", [NIH_NAMES, KAGGLE_NAMES], ids=["NIH table", "Kaggle table"])
@pytest.mark.parametrize("image_names", [NIH_NAMES, KAGGLE_NAMES], ids=["NIH images", "Kaggle images"])
def test_open_i_is_prepared_of_either_naming(
    image_names: tuple[str, ...], table_names: tuple[str, ...], openi_sentences: Path, tmp_path: Path
):
    folder = made(tmp_path / "films", *(f"{k % 2}/{name}" for k, name in enumerate(image_names)), "logo.png", "a.txt")
    views = projections(tmp_path / "indiana_projections.csv", table_names)
    output = tmp_path / "m.jsonl"
    result = figures("openi", folder, "-s", openi_sentences, "-o", output, "--projections", views)
    assert sorted(left_out(output)) == [
        (str(folder / "0" / image_names[6]), NOT_EXTRACTED),
        (str(folder / "1" / image_names[5]), NOTHING_STATED),
        (str(folder / "logo.png"), "its name is not one of Open-I's"),
    ]
    stated = extraction_sentences(openi_sentences)
    rows = {Path(row.image).name: row for row in read_rows(output)}
    assert set(rows) == set(image_names[:5])
    for k, report in enumerate(("CXR54", "CXR54", "CXR1", "CXR2084", "CXR303")):
        row = rows[image_names[k]]
        assert row.image == str(folder.resolve() / str(k % 2) / image_names[k])
        assert (row.patient, row.study, row.split) == (report, report, split_of(report))
        assert (row.view, row.sentences, row.extra) == (PROJECTIONS[k].lower(), stated[report], {})
    assert (result["images"], result["left out"]) == ("5", "3")


def test_without_projections_the_views_of_open_i_are_not_known(openi_sentences: Path, tmp_path: Path):
    folder = made(tmp_path / "films", *NIH_NAMES)
    call("prepare", "openi", folder, "-s", openi_sentences, "-o", tmp_path / "m.jsonl")
    assert [row.view for row in read_rows(tmp_path / "m.jsonl")] == [""] * 5


def test_both_images_of_an_open_i_report_are_in_one_split(tmp_path: Path):
    reports = {f"CXR{k}": ["There is edema"] for k in range(50)}
    folder = made(tmp_path / "films", *(f"{r}_IM-{k:04d}-{v}001.png" for k, r in enumerate(reports) for v in (1, 2)))
    sentences = extraction(tmp_path / "s.jsonl", reports)
    options = ("-s", sentences, "-o", tmp_path / "m.jsonl", "--shares", "0.4", "0.3")
    call("prepare", "openi", folder, *options)
    rows = list(read_rows(tmp_path / "m.jsonl"))
    assert Counter((row.patient, row.split) for row in rows) == {(r, split_of(r, (0.4, 0.3))): 2 for r in reports}
    assert {row.split for row in rows} == {"train", "validate", "test"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("uid,filename\n54,x\n", "has no column projection; its columns: uid, filename"),
        ("uid,projection\n54,x\n", "has no column filename; its columns: uid, projection"),
        ("", "has no column filename, projection; its columns: none"),
    ],
)
def test_a_missing_column_of_the_projections_is_named(content: str, said: str, openi_sentences: Path, tmp_path: Path):
    folder = made(tmp_path / "films", *NIH_NAMES)
    path = save(tmp_path / "p.csv", content)
    options = ("-s", openi_sentences, "-o", tmp_path / "m.jsonl", "--projections", path)
    assert refused("openi", folder, *options) == f"error: {path}: {said}"


def test_a_missing_folder_of_images_is_named(openi_sentences: Path, tmp_path: Path):
    gone = tmp_path / "gone"
    said = f"error: {gone}: no such folder"
    assert refused("openi", gone, "-s", openi_sentences, "-o", tmp_path / "m.jsonl") == said
    rows = save(tmp_path / "t.csv", "image,patient,labels\na.png,1,edema\n")
    assert refused("table", gone, rows, "--labels", "labels", "-o", tmp_path / "m.jsonl") == said


def test_the_kaggle_images_go_with_the_kaggle_reports(tmp_path: Path):
    folder = made(tmp_path / "films", *KAGGLE_NAMES[:2])
    columns = "uid,MeSH,Problems,image,indication,comparison,findings,impression"
    reports = save(tmp_path / "indiana_reports.csv", f"{columns}\n54,,,PA,,,Small pleural effusion.,Effusion.\n")
    call("extract", reports, "-o", tmp_path / "s.jsonl")
    assert list(extraction_sentences(tmp_path / "s.jsonl")) == ["54"]
    assert figures("openi", folder, "-s", tmp_path / "s.jsonl", "-o", tmp_path / "m.jsonl")["images"] == "2"
    rows = list(read_rows(tmp_path / "m.jsonl"))
    assert [(row.patient, row.study, row.split) for row in rows] == [("CXR54", "CXR54", split_of("CXR54"))] * 2


# -- phantoms ----------------------------------------------------------------------------------------------

SEED, COUNT = 5, 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, count=COUNT, seed=SEED, size=72)
    return folder


@pytest.fixture
def series(drawn: Path, tmp_path: Path) -> Path:
    """Four phantoms as PNG and DICOM, to be changed at will."""
    return Path(shutil.copytree(drawn, tmp_path / "series"))


def test_phantoms_are_prepared_with_what_their_reports_state(series: Path, tmp_path: Path):
    output = tmp_path / "m.jsonl"
    result = figures("phantom", series, "-o", output, "--shares", "0.4", "0.4")
    expected = []
    for index in range(COUNT):
        film, name = make_film(SEED, index, size=72), f"phantom-{SEED}-{index:06d}"
        image, stated = series.resolve() / "images" / f"{name}.png", tuple(s.text for s in write_report(film).gold)
        assert image.exists()
        split = split_of(name, (0.4, 0.4))
        own = [s.text for s in cut_sections(write_report(film).text) if s.name in ("findings", "impression")]
        report = [p.strip(" .") for text in own for p in text.split(". ")]
        extra = {"report_sentences": list(dict.fromkeys(report))}
        expected.append(ManifestRow(str(image), stated, name, name, film.body.projection, split, extra))
    assert list(read_rows(output)) == expected
    assert names(tmp_path) == ["m.jsonl", "series"], "nothing is left out"
    assert (result["images"], result["left out"]) == (str(COUNT), "0")
    assert result["sentences per image"] == f"{sum(len(row.sentences) for row in expected) / COUNT:.2f}"


def test_phantoms_without_png_are_prepared_as_dicom(tmp_path: Path):
    write_phantoms(tmp_path / "series", count=1, seed=SEED, size=72, film_format=FilmFormat.DICOM)
    call("prepare", "phantom", tmp_path / "series", "-o", tmp_path / "m.jsonl")
    (row,) = read_rows(tmp_path / "m.jsonl")
    assert row.image == str((tmp_path / "series" / "dicom" / f"phantom-{SEED}-000000.dcm").resolve())


def test_phantoms_that_are_gone_or_state_nothing_are_left_out(series: Path, tmp_path: Path):
    records = [json.loads(line) for line in (series / "phantoms.jsonl").read_text().splitlines()]
    records[1]["sentences"] = []
    save(series / "phantoms.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    for key in ("image", "dicom"):
        (series / records[2][key]).unlink()
    output = tmp_path / "m.jsonl"
    call("prepare", "phantom", series, "-o", output)
    assert left_out(output) == [
        (str(series / records[1]["image"]), NOTHING_STATED),
        (str(series / records[2]["image"]), NO_FILE),
    ]
    assert [row.patient for row in read_rows(output)] == [records[0]["id"], records[3]["id"]]


def test_the_dicom_file_is_taken_where_the_png_is_gone(series: Path, tmp_path: Path):
    shutil.rmtree(series / "images")
    call("prepare", "phantom", series, "-o", tmp_path / "m.jsonl")
    assert [Path(row.image).suffix for row in read_rows(tmp_path / "m.jsonl")] == [".dcm"] * COUNT


def test_a_folder_without_phantoms_is_refused_with_what_helps(tmp_path: Path):
    said = refused("phantom", tmp_path, "-o", tmp_path / "m.jsonl")
    assert said == f"error: {tmp_path}: has no phantoms.jsonl; `radzero phantom {tmp_path}` writes one"


NO_PHANTOM = "not a line of `radzero phantom`: "


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "phantom-5-0', NO_JSON),
        ("[]", NO_MAPPING),
        ('{"id": "phantom-5-000009"}', NO_PHANTOM),
        ('{"id": "phantom-5-000009", "view": "PA", "sentences": ["There is edema"]}', NO_PHANTOM),
        ('{"id": "phantom-5-000009", "view": "PA", "sentences": [], "image": 3}', NO_PHANTOM),
    ],
)
def test_a_damaged_index_of_phantoms_is_named(line: str, said: str, series: Path):
    index = series / "phantoms.jsonl"
    index.write_text(f"{index.read_text()}{line}\n")
    with pytest.raises(ManifestError) as caught:
        list(phantoms(series))
    assert str(caught.value).startswith(f"{index}, line {COUNT + 1}: {said}")


def test_after_empty_lines_a_phantom_s_wrong_line_is_still_the_file_s(series: Path):
    index = series / "phantoms.jsonl"
    index.write_text(f"{index.read_text()}\n\n{{}}\n")
    with pytest.raises(ManifestError, match=rf"phantoms\.jsonl, line {COUNT + 3}: "):
        list(phantoms(series))


# -- a folder and a table ----------------------------------------------------------------------------------


def tabled(
    tmp_path: Path, files: Sequence[str], content: str | bytes, columns: TableColumns, name: str = "t.csv"
) -> tuple[list[ManifestRow], list[tuple[str, str]]]:
    """Rows and what is left out, files by their paths below the folder."""
    folder = made(tmp_path / "films", *files)
    items = list(table(folder, save(tmp_path / name, content), columns))
    rows = [item for item in items if isinstance(item, ManifestRow)]
    assert all(Path(row.image).is_absolute() and Path(row.image).exists() for row in rows)
    out = [(item.item.removeprefix(f"{folder}/"), item.reason) for item in items if isinstance(item, LeftOut)]
    assert len(rows) + len(out) == len(items)
    return rows, out


def below(tmp_path: Path, rows: Iterable[ManifestRow]) -> list[str]:
    return [Path(row.image).relative_to((tmp_path / "films").resolve()).as_posix() for row in rows]


LABELS, SENTENCES = TableColumns(labels="labels"), TableColumns(sentences="sentences")


def test_reports_of_a_table_are_extracted_by_the_rules_engine(tmp_path: Path):
    text = "INDICATION: Pneumothorax?\n\nFINDINGS: Small left pleural effusion, unchanged.\nThe heart is enlarged."
    content = (
        f'image,patient,text\na.png,1,"{text}"\nb.png,2,No pneumothorax.\nc.png,3,\nd.png,4,"FINDINGS: As above."\n'
    )
    rows, out = tabled(tmp_path, ["a.png", "b.png", "c.png", "d.png"], content, TableColumns(report="text"))
    engine = RulesEngine()
    assert [row.sentences for row in rows] == [
        tuple(s.text for s in engine.extract(Report.from_text("", report)).sentences)
        for report in (text, "No pneumothorax.")
    ]
    assert rows[0].sentences == ("There is small left pleural effusion", "There is cardiomegaly")
    assert out == [("c.png", NOTHING_STATED), ("d.png", NOTHING_STATED)]


def test_sentences_of_a_table_are_cut_at_semicolons_and_bars(tmp_path: Path):
    content = (
        "image,patient,sentences\n"
        "a.png,1,There is edema; There is no mass|There is edema ;\n"
        'b.png,2,"There is a mass, left"\n'
        "c.png,3, ; | \n"
    )
    rows, out = tabled(tmp_path, ["a.png", "b.png", "c.png"], content, SENTENCES)
    assert [row.sentences for row in rows] == [("There is edema", "There is no mass"), ("There is a mass, left",)]
    assert out == [("c.png", NOTHING_STATED)]


@pytest.mark.parametrize(
    ("labels", "sentences"),
    [
        ("Edema", ("There is edema",)),
        ("Pleural_Thickening|Effusion", ("There is pleural thickening", "There is effusion")),
        ("Mass; Nodule ;Mass", ("There is mass", "There is nodule")),
        ("No Finding", (NORMAL,)),
        ("no_finding", (NORMAL,)),
        ("Normal", (NORMAL,)),
    ],
)
def test_labels_of_a_table_become_sentences(labels: str, sentences: tuple[str, ...], tmp_path: Path):
    rows, out = tabled(tmp_path, ["a.png"], f"image,patient,labels\na.png,1,{labels}\n", LABELS)
    assert [row.sentences for row in rows] == [sentences]
    assert out == []


def test_images_are_found_by_path_by_name_and_by_stem(tmp_path: Path):
    files = ["a.png", "sub/b.PNG", "sub/deep/c.JPeG", "d.dcm", "e.tiff", "größe.jpg"]
    given_names = ["a.png", "sub/b.PNG", "c.JPeG", "d", "e", "größe"]
    content = "\n".join(["image,patient,labels", *(f"{name},{k},edema" for k, name in enumerate(given_names))])
    rows, out = tabled(tmp_path, [*files, "notes.txt", "a.png.md5", "a folder.png/notes.txt"], content, LABELS)
    assert below(tmp_path, rows) == files
    assert out == []


def test_a_name_that_several_files_have_is_left_out_and_their_paths_are_taken(tmp_path: Path):
    files = ["one/a.png", "two/a.png", "one/b.png", "two/b.jpg", "one/c.png", "two/c.png"]
    content = "image,patient,labels\na.png,1,edema\nb.jpg,2,edema\nb,3,edema\none/c.png,4,edema\ntwo/c.png,5,edema\n"
    rows, out = tabled(tmp_path, files, content, LABELS)
    assert below(tmp_path, rows) == ["two/b.jpg", "one/c.png", "two/c.png"]
    assert out == [("a.png", SEVERAL), ("b", SEVERAL)], "the files of such a name are not said to be unnamed"


@pytest.mark.parametrize("clear", ["one/a.png", "a.jpg"])
def test_a_row_whose_name_is_in_doubt_takes_no_file_from_a_later_row(clear: str, tmp_path: Path):
    content = f"image,patient,labels\na,1,edema\n{clear},2,mass\n"
    rows, out = tabled(tmp_path, ["one/a.png", "two/a.jpg"], content, LABELS)
    assert [(row.patient, row.sentences) for row in rows] == [("2", ("There is mass",))]
    assert out[0] == ("a", SEVERAL)


@pytest.mark.parametrize("other", ["sub/a.png", "a.png.jpg"])
def test_a_path_below_the_folder_is_never_in_doubt(other: str, tmp_path: Path):
    content = f"image,patient,labels\na.png,1,edema\n{other},2,mass\n"
    rows, out = tabled(tmp_path, ["a.png", other], content, LABELS)
    assert out == []
    assert below(tmp_path, rows) == ["a.png", other]


def test_rows_without_a_file_and_files_without_a_row_are_left_out(tmp_path: Path):
    content = "image,patient,labels\nz.png,1,edema\nb.png,2,edema\n,3,edema\n"
    rows, out = tabled(tmp_path, ["c.png", "b.png", "sub/a.png"], content, LABELS)
    assert below(tmp_path, rows) == ["b.png"]
    assert out == [("z.png", NO_FILE), ("", NO_FILE), ("c.png", UNNAMED), ("sub/a.png", UNNAMED)]


@pytest.mark.parametrize("again", ["a.png", "a", "sub/a.png"])
def test_an_image_that_is_named_twice_is_taken_once(again: str, tmp_path: Path):
    content = f"image,patient,labels\na.png,1,edema\n{again},2,mass\nb.png,3,mass\n"
    rows, out = tabled(tmp_path, ["sub/a.png", "b.png"], content, LABELS)
    assert [(row.patient, row.sentences) for row in rows] == [("1", ("There is edema",)), ("3", ("There is mass",))]
    assert out == [(again, "the table names it twice")]


def test_a_row_without_a_patient_is_left_out(tmp_path: Path):
    content = "image,patient,labels\na.png,,edema\nb.png, \t,edema\nc.png, 7 ,edema\nd.png,7,edema\ne.png,,\n"
    rows, out = tabled(tmp_path, ["a.png", "b.png", "c.png", "d.png", "e.png"], content, LABELS)
    nobody = "its patient is not named"
    assert out == [("a.png", nobody), ("b.png", nobody), ("e.png", nobody)]
    assert [row.patient for row in rows] == ["7", "7"]


def test_study_view_split_and_further_columns_are_kept(tmp_path: Path):
    content = "file,who,what,when,how,part,age,größe\na.png,1,edema,s1,PA, test ,61,groß\nb.png,2,mass,,,,,\n"
    columns = TableColumns("file", "who", labels="what", study="when", view="how", split="part")
    rows, out = tabled(tmp_path, ["a.png", "b.png"], content, columns)
    first, second = (str((tmp_path / "films" / name).resolve()) for name in ("a.png", "b.png"))
    assert rows == [
        ManifestRow(first, ("There is edema",), "1", "s1", "PA", "test", {"age": "61", "größe": "groß"}),
        ManifestRow(second, ("There is mass",), "2", "", "", split_of("2"), {"age": "", "größe": ""}),
    ]
    assert out == []


def test_the_table_command_takes_every_column_by_its_option(tmp_path: Path):
    folder = made(tmp_path / "films", "a.png")
    rows = save(tmp_path / "t.csv", "file,who,what,when,how,part\na.png,1,Edema,s1,PA,test\n")
    given_options = {"image": "file", "patient": "who", "study": "when", "view": "how", "split": "part"}
    options = [part for name, column in given_options.items() for part in (f"--{name}", column)]
    for kind, sentence in (
        ("sentences", "Edema"),
        ("report", "There is pulmonary edema"),
        ("labels", "There is edema"),
    ):
        output = tmp_path / f"{kind}.jsonl"
        assert figures("table", folder, rows, *options, f"--{kind}", "what", "-o", output)["test"] == "1"
        image = str((folder / "a.png").resolve())
        extra = {"report_sentences": ["Edema"]} if kind == "report" else {}
        assert list(read_rows(output)) == [ManifestRow(image, (sentence,), "1", "s1", "PA", "test", extra)]


@pytest.mark.parametrize("column", ["image", "sentences", "patient", "study", "view", "split"])
def test_a_further_column_never_replaces_one_of_the_manifest_s(column: str, tmp_path: Path):
    folder = made(tmp_path / "films", "a.png", "b.png")
    rows = save(tmp_path / "t.csv", f"file,who,what,{column},age\na.png,1,edema,test,61\nb.png,1,mass,train,62\n")
    output = tmp_path / "m.jsonl"
    call("prepare", "table", folder, rows, "--image", "file", "--patient", "who", "--labels", "what", "-o", output)
    assert [(Path(r.image).name, r.sentences, r.patient, r.study, r.view, r.split) for r in read_rows(output)] == [
        ("a.png", ("There is edema",), "1", "", "", split_of("1")),
        ("b.png", ("There is mass",), "1", "", "", split_of("1")),
    ]
    kept = f"table.{column}"
    assert [row.extra for row in read_rows(output)] == [{kept: "test", "age": "61"}, {kept: "train", "age": "62"}]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", ["train", "training", "Train", "TRAINING", " train\t"]),
        ("validate", ["validate", "val", "valid", "validation", "Val", "VALID", "Validation", " val "]),
        ("test", ["test", "testing", "Test", "TESTING", "tEsT "]),
    ],
)
def test_splits_are_known_by_their_usual_names_in_any_case(split: str, words: list[str], tmp_path: Path):
    patients = [name for name in map(str, range(50)) if split_of(name) != split][: len(words)]
    lines = [f"{k}.png,{patients[k]},edema,{word}" for k, word in enumerate(words)]
    content = "\n".join(["image,patient,labels,part", *lines])
    files = [f"{k}.png" for k in range(len(words))]
    rows, out = tabled(tmp_path, files, content, TableColumns(labels="labels", split="part"))
    assert [row.split for row in rows] == [split] * len(words)
    assert out == []


@pytest.mark.parametrize("word", ["dev", "tests", "trains", "train/val", "eval", "held out", "0", "-"])
def test_a_split_that_is_none_is_refused(word: str, tmp_path: Path):
    folder = made(tmp_path / "films", "a.png", "b.png")
    rows = save(tmp_path / "t.csv", f"image,patient,labels,part\na.png,1,edema,train\nb.png,2,edema, {word} \n")
    output = tmp_path / "out" / "m.jsonl"
    said = refused("table", folder, rows, "--labels", "labels", "--split", "part", "-o", output)
    assert said == f"error: {rows}: b.png: its split {word!r} is none of train, validate, test"
    assert names(output.parent) == []


def test_a_patient_whom_the_table_puts_into_two_splits_is_refused(tmp_path: Path):
    folder = made(tmp_path / "films", "a.png", "b.png")
    rows = save(tmp_path / "t.csv", "image,patient,labels,part\na.png,1,edema,train\nb.png,1 ,mass,test\n")
    said = refused("table", folder, rows, "--labels", "labels", "--split", "part", "-o", tmp_path / "m.jsonl")
    assert "m.jsonl: 1 patients are in two splits (1);" in said
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "\ufeffimage,patient,labels\na.png,1,Ödem\n"),
        ("t.csv", "image,patient,labels\r\na.png,1,Ödem\r\n"),
        ("t.csv", '"image","patient","labels"\n"a.png","1","Ödem"'),
        ("t.tsv", "image\tpatient\tlabels\na.png\t1\tÖdem\n"),
        ("t.tsv.gz", "\ufeffimage\tpatient\tlabels\r\na.png\t1\tÖdem\r\n"),
        ("t.csv.gz", "image,patient,labels\na.png,1,Ödem\n"),
    ],
    ids=["BOM", "CRLF", "quoted", "TSV", "all at once", "gz"],
)
def test_tables_are_read_as_people_save_them(name: str, content: str, tmp_path: Path):
    rows, out = tabled(tmp_path, ["a.png"], content, LABELS, name)
    assert [(row.patient, row.sentences, row.extra) for row in rows] == [("1", ("There is ödem",), {})]
    assert out == []


@pytest.mark.parametrize("line", ["b.png,2", "b.png,2,edema,more", "b.png"])
def test_a_row_of_more_or_fewer_values_is_named(line: str, tmp_path: Path):
    folder = made(tmp_path / "films", "a.png", "b.png")
    rows = save(tmp_path / "t.csv", f"image,patient,labels\na.png,1,edema\n{line}\n")
    said = refused("table", folder, rows, "--labels", "labels", "-o", tmp_path / "m.jsonl")
    assert said == f"error: {rows}, line 3: more or fewer values than columns"
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("row", ['a.png,1,"FINDINGS:\nEdema.\nMass."\n', "a.png,1,Edema.\n\n\n"])
def test_the_line_that_is_named_is_the_file_s(row: str, tmp_path: Path):
    content = f"image,patient,text\n{row}b.png,2\n"
    assert content.split("\n")[4] == "b.png,2"
    with pytest.raises(ManifestError, match=r"t\.csv, line 5: more or fewer values than columns"):
        tabled(tmp_path, ["a.png", "b.png"], content, TableColumns(report="text"))


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (TableColumns(labels="Labels"), "Labels"),
        (TableColumns("file", labels="labels"), "file"),
        (TableColumns("file", "who", labels="labels"), "file, who"),
        (TableColumns(labels="labels", study="s", view="v", split="part"), "s, v, part"),
    ],
)
def test_missing_columns_are_named(columns: TableColumns, missing: str, tmp_path: Path):
    with pytest.raises(ManifestError) as caught:
        tabled(tmp_path, ["a.png"], "image,patient,labels\na.png,1,edema\n", columns)
    assert str(caught.value) == f"{tmp_path / 't.csv'}: has no column {missing}; its columns: image, patient, labels"


@pytest.mark.parametrize(
    "options", [[], ["--labels", "labels", "--report", "labels"], ["--labels", "labels", "--sentences", "x"]]
)
def test_one_column_must_say_what_is_on_the_images(options: list[str], tmp_path: Path):
    folder = made(tmp_path / "films", "a.png")
    rows = save(tmp_path / "t.csv", "image,patient,labels\na.png,1,edema\n")
    said = refused("table", folder, rows, *options, "-o", tmp_path / "m.jsonl")
    assert said == "error: name one column of reports, of sentences or of labels"


@pytest.mark.parametrize(
    "content",
    [
        "image,patient,labels\na.png,1,Ödem\n".encode("latin-1"),
        "image,patient,labels\na.png,1,edema\n".encode("utf-16"),
    ],
    ids=["Latin-1", "UTF-16"],
)
def test_a_table_that_is_no_utf8_is_named(content: bytes, tmp_path: Path):
    with pytest.raises(ManifestError) as caught:
        tabled(tmp_path, ["a.png"], content, LABELS)
    assert str(caught.value).startswith(f"{tmp_path / 't.csv'}: cannot be read as a table: ")


def test_a_missing_table_is_named(tmp_path: Path):
    folder = made(tmp_path / "films", "a.png")
    said = refused("table", folder, tmp_path / "gone.csv", "--labels", "labels", "-o", tmp_path / "m.jsonl")
    assert said.startswith(f"error: {tmp_path / 'gone.csv'}: cannot be read as a table: ")


def test_the_same_folder_and_table_make_the_same_bytes(tmp_path: Path):
    folder, lines, _ = many_rows(tmp_path)
    rows = save(tmp_path / "t.csv", "\n".join(["image,patient,s", *lines[:40]]))
    written = []
    for name in ("a", "b"):
        call("prepare", "table", folder, rows, "--sentences", "s", "-o", tmp_path / f"{name}.jsonl")
        written.append([(tmp_path / f"{name}{end}").read_bytes() for end in (".jsonl", ".left_out.jsonl")])
    assert written[0] == written[1]
    assert len(left_out(tmp_path / "a.jsonl")) == 260


@pytest.mark.skipif(sys.platform == "darwin", reason="there, names of files are UTF-8")
@pytest.mark.parametrize("bad", ["folder", "unnamed file"])
def test_names_that_are_no_utf8_are_prepared(bad: str, tmp_path: Path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + (b"/gr\xf6\xdfe" if bad == "folder" else b"/films")))
    made(folder, "a.png", *([] if bad == "folder" else [os.fsdecode(b"\xf6.png")]))
    rows = save(tmp_path / "t.csv", "image,patient,labels\na.png,1,edema\n")
    output = tmp_path / "m.jsonl"
    assert figures("table", folder, rows, "--labels", "labels", "-o", output)["images"] == "1"
    (row,) = read_rows(output)
    assert Path(row.image).exists()
    if bad != "folder":
        assert left_out(output) == [(str(folder / os.fsdecode(b"\xf6.png")), UNNAMED)]


# -- real films --------------------------------------------------------------------------------------------

NIH_OPTIONS = (
    "--image",
    "Image Index",
    "--patient",
    "Patient ID",
    "--labels",
    "Finding Labels",
    "--view",
    "View Position",
)


def test_the_nih_s_films_and_table_are_prepared(shared_data: Path, tmp_path: Path):
    folder = shared_data / "images" / "nih_chestxray14"
    source = folder / "Data_Entry_2017_v2020.included.csv"
    output = tmp_path / "m.jsonl"
    result = figures("table", folder, source, *NIH_OPTIONS, "-o", output)
    with source.open(newline="") as file:
        entries = {entry["Image Index"]: entry for entry in csv.DictReader(file)}
    rows = {Path(row.image).name: row for row in read_rows(output)}
    assert set(rows) == set(entries) == {file.name for file in folder.glob("*.png")}
    assert len(rows) == 62
    assert names(tmp_path) == ["m.jsonl"], "nothing is left out"
    for name, row in rows.items():
        entry = entries[name]
        labels = entry["Finding Labels"].split("|")
        assert len(row.sentences) == len(labels)
        for label, sentence in zip(labels, row.sentences, strict=True):
            said = NORMAL if label == "No Finding" else f"There is {label.lower().replace('_', ' ')}"
            assert sentence == said
        assert (row.patient, row.view, row.study) == (entry["Patient ID"], entry["View Position"], "")
        assert row.split == split_of(entry["Patient ID"])
        assert (row.extra["Patient Age"], row.extra["Follow-up #"]) == (entry["Patient Age"], entry["Follow-up #"])
    counts = Counter(row.split for row in rows.values())
    assert {split: int(result[split]) for split in counts} == counts
    assert Manifest(output, "train").image(0).is_file()


def test_a_table_of_other_nih_films_leaves_every_row_and_film_out(shared_data: Path, tmp_path: Path):
    folder = shared_data / "images" / "nih_chestxray14"
    source = shared_data / "annotations" / "nih_chestxray14" / "Data_Entry_2017_v2020.sample2000.csv"
    with source.open(newline="") as file:
        entries = [entry["Image Index"] for entry in csv.DictReader(file)]
    here = {file.name for file in folder.glob("*.png")}
    items = list(table(folder, source, TableColumns("Image Index", "Patient ID", labels="Finding Labels")))
    reasons = {(item.item, item.reason) for item in items if isinstance(item, LeftOut)}
    both = here & set(entries)
    assert len(entries) == 2000
    assert reasons == {(name, NO_FILE) for name in entries if name not in here} | {
        (str(folder / name), UNNAMED) for name in here - both
    }
    assert {Path(item.image).name for item in items if isinstance(item, ManifestRow)} == both


def test_open_i_s_own_reports_films_and_projections_are_prepared(shared_data: Path, tmp_path: Path):
    reports = shared_data / "reports" / "openi"
    folder = shared_data / "images" / "openi"
    call("extract", *(reports / "ecgen-radiology" / f"{k}.xml" for k in (54, 303)), "-o", tmp_path / "s.jsonl")
    views = reports / "indiana_projections.shared.csv"
    output = tmp_path / "m.jsonl"
    result = figures("openi", folder, "-s", tmp_path / "s.jsonl", "-o", output, "--projections", views)
    stated = extraction_sentences(tmp_path / "s.jsonl")
    assert [(Path(r.image).name, r.patient, r.sentences) for r in read_rows(output)] == [
        ("CXR303_IM-1404-1001.png", "CXR303", stated["CXR303"]),
        ("CXR54_IM-2145-1001.png", "CXR54", stated["CXR54"]),
        ("CXR54_IM-2145-1002.png", "CXR54", stated["CXR54"]),
    ]
    assert (result["images"], result["left out"]) == ("3", "0")


@pytest.mark.parametrize("ending", ["CXR{}.png", "{}.dcm.png"], ids=["NIH", "Kaggle"])
def test_every_image_that_open_i_s_reports_name_finds_its_report_and_projection(
    ending: str, shared_data: Path, tmp_path: Path
):
    reports = shared_data / "reports" / "openi"
    owner: dict[str, str] = {}
    for file in (reports / "ecgen-radiology").glob("*.xml"):
        text = file.read_text(encoding="utf-8")
        for image in re.findall(r'<parentImage id="CXR([^"]+)"', text):
            owner[ending.format(image)] = re.search(r'<uId id="([^"]+)"', text)[1]
    assert len(owner) > 200
    with (reports / "indiana_projections.shared.csv").open(newline="") as table_file:
        view_of = {row["filename"].removesuffix(".dcm.png"): row["projection"] for row in csv.DictReader(table_file)}
    folder = made(tmp_path / "films", *owner)
    sentences = extraction(tmp_path / "s.jsonl", {name: ["There is edema"] for name in owner.values()})
    items = list(openi(folder, sentences, projections=reports / "indiana_projections.shared.csv"))
    assert len(items) == len(owner)
    known = 0
    for row in items:
        assert isinstance(row, ManifestRow), row
        name = Path(row.image).name
        assert row.patient == owner[name]
        view = view_of.get(name.removeprefix("CXR").removesuffix(".png").removesuffix(".dcm"), "")
        assert row.view == view.lower()
        known += bool(view)
    assert known > 200


def test_covid_films_on_two_rows_with_notes_on_several_lines_are_prepared(shared_data: Path, tmp_path: Path):
    folder = shared_data / "images" / "covid_chestxray"
    source = folder / "metadata.included.csv"
    options = ("--image", "filename", "--patient", "patientid", "--report", "clinical_notes", "--view", "view")
    output = tmp_path / "m.jsonl"
    result = figures("table", folder / "images", source, *options, "-o", output)
    with source.open(newline="", encoding="utf-8") as file:
        entries = list(csv.DictReader(file))
    rows, out = list(read_rows(output)), left_out(output)
    assert int(result["images"]) == len(rows) > 10
    assert len(rows) + len(out) == len(entries), "every row is a film or left out; every film has a row"
    twice = sum(count - 1 for count in Counter(entry["filename"] for entry in entries).values())
    assert [reason for _, reason in out].count("the table names it twice") == twice > 0
    assert {reason for _, reason in out} == {"the table names it twice", NOTHING_STATED}
