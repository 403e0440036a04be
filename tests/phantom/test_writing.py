"""What ``radzero phantom`` writes: files, their index, and DICOM that others can read."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from radzero import read_radiograph
from radzero.phantom.dicom import phantom_uid, to_dataset, write_dicom
from radzero.phantom.film import Film, make_film
from radzero.phantom.findings import FINDINGS
from radzero.phantom.reports import write_report
from radzero.phantom.writing import FilmFormat, write_phantoms

SEED, FIRST, COUNT, SIZE = 4, 2, 6, 96


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "deep" / "folder"
    progress: list[int] = []
    index = write_phantoms(folder, count=COUNT, seed=SEED, first=FIRST, size=SIZE, progress=progress.append)
    assert index == folder / "phantoms.jsonl"
    assert progress == [*range(1, COUNT + 1)]
    return folder


@pytest.fixture(scope="module")
def records(series: Path) -> list[dict]:
    lines = (series / "phantoms.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def films() -> list[Film]:
    return [make_film(SEED, FIRST + k, size=SIZE) for k in range(COUNT)]


def test_the_index_says_what_is_on_every_film(series: Path, records: list[dict], films: list[Film]):
    assert len(records) == COUNT
    assert any(record["findings"] for record in records)
    for record, film in zip(records, films, strict=True):
        assert set(record) == {
            *("id", "seed", "index", "image", "dicom", "report", "sentences", "findings", "anatomy"),
            *("view", "sex", "height", "width", "pixel_mm"),
        }
        assert (record["seed"], record["index"]) == (film.seed, film.index)
        assert (record["height"], record["width"]) == film.pixels.shape
        assert (record["view"], record["sex"]) == (film.body.projection, film.body.sex)
        assert record["pixel_mm"] == pytest.approx(film.pixel_mm, abs=1e-5)
        report = write_report(film)
        assert (series / record["report"]).read_text(encoding="utf-8") == report.text
        assert [s["sentence"] for s in record["sentences"]] == [s.text for s in report.gold]
        assert {s["polarity"] for s in record["sentences"]} <= {"affirmed", "uncertain", "negated"}
        for entry, evidence in zip(record["findings"], film.evidence, strict=True):
            assert set(entry) == {"name", "grade", "side", "zone", "boxes", "mask"}
            assert entry["name"] == evidence.finding.name
            assert entry["grade"] == evidence.finding.grade.value
            assert (entry["side"], entry["zone"]) == (evidence.finding.side, evidence.finding.zone)
            assert np.allclose(entry["boxes"], evidence.boxes, atol=0.006)


def test_films_and_masks_are_there_and_of_one_size(series: Path, records: list[dict], films: list[Film]):
    for record, film in zip(records, films, strict=True):
        with Image.open(series / record["image"]) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), film.to_uint8())
        for entry, evidence in zip(record["findings"], film.evidence, strict=True):
            mask = np.asarray(Image.open(series / entry["mask"]))
            assert set(np.unique(mask)) <= {0, 255}
            assert np.array_equal(mask > 0, evidence.mask)
        assert set(record["anatomy"]) == set(film.anatomy)
        for region, name in record["anatomy"].items():
            assert np.array_equal(np.asarray(Image.open(series / name)) > 0, film.anatomy[region])
    written = {p.relative_to(series).as_posix() for p in series.rglob("*") if p.is_file()}
    named = {r[key] for r in records for key in ("image", "dicom", "report")}
    named |= {f["mask"] for r in records for f in r["findings"]} | {m for r in records for m in r["anatomy"].values()}
    assert written == named | {"phantoms.jsonl"}


def test_dicom_reads_back_as_the_png(series: Path, records: list[dict]):
    for record in records:
        png, dicom = read_radiograph(series / record["image"]), read_radiograph(series / record["dicom"])
        assert dicom.pixels.shape == png.pixels.shape
        assert np.abs(dicom.pixels - png.pixels).max() <= 1 / 255
        assert dicom.view == record["view"]
        assert dicom.spacing == pytest.approx(record["pixel_mm"], rel=1e-4)
        assert dicom.warnings == png.warnings == ()


def test_the_dicom_header_is_that_of_a_chest(series: Path, records: list[dict]):
    uids = []
    for record in records:
        ds = pydicom.dcmread(series / record["dicom"])
        assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert list(ds.PatientOrientation) == ["L", "F"], "columns run to the patient's left: nothing is mirrored"
        assert (ds.ViewPosition, ds.PatientSex, ds.BodyPartExamined) == (record["view"], record["sex"], "CHEST")
        assert "not a patient" in ds.SeriesDescription
        uids += [ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID]
    assert len(set(uids)) == len(uids)
    assert all(re.fullmatch(r"2\.25\.(0|[1-9]\d*)", uid) and len(uid) <= 64 for uid in uids)


def test_dicom_is_deterministic_and_another_size_is_another_instance(tmp_path: Path):
    for name in ("a.dcm", "b.dcm"):
        write_dicom(make_film(SEED, 1, size=72), tmp_path / name)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    small, large = (to_dataset(make_film(SEED, 1, size=size)) for size in (72, 80))
    assert small.SOPInstanceUID != large.SOPInstanceUID
    assert small.StudyInstanceUID == large.StudyInstanceUID
    assert phantom_uid(1, 2) == phantom_uid(1, 2) != phantom_uid(12)


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: apt-get install dicom3tools)"
)
@pytest.mark.parametrize("projection", ["PA", "AP"])
def test_dciodvfy_finds_no_error(projection: str, tmp_path: Path):
    film = next(
        f for f in (make_film(SEED, k, size=72, findings=()) for k in range(30)) if f.body.projection == projection
    )
    write_dicom(film, tmp_path / "film.dcm")
    run = subprocess.run(["dciodvfy", str(tmp_path / "film.dcm")], capture_output=True, text=True, check=False)
    said = (run.stdout + run.stderr).splitlines()
    assert any("DXImageForPresentation" in line.replace(" ", "") for line in said), said
    assert [line for line in said if line.startswith("Error")] == []


@pytest.mark.parametrize(
    ("kind", "absent", "key"), [(FilmFormat.PNG, "dicom", "dicom"), (FilmFormat.DICOM, "images", "image")]
)
def test_one_format_leaves_the_other_out(kind: FilmFormat, absent: str, key: str, tmp_path: Path):
    index = write_phantoms(tmp_path, count=1, seed=0, size=72, film_format=kind)
    (record,) = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    assert key not in record
    assert not (tmp_path / absent).exists()
    assert (
        len([p for p in tmp_path.rglob("*") if p.suffix in (".png", ".dcm") and p.parent.name in ("images", "dicom")])
        == 1
    )


def test_a_part_of_a_series_is_that_part(series: Path, records: list[dict], tmp_path: Path):
    index = write_phantoms(tmp_path, count=1, seed=SEED, first=FIRST + 3, size=SIZE)
    (record,) = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    assert record == records[3]
    assert (tmp_path / record["dicom"]).read_bytes() == (series / record["dicom"]).read_bytes()
    assert {f["name"] for r in records for f in r["findings"]} & set(FINDINGS)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count: int, tmp_path: Path):
    with pytest.raises(ValueError, match="count"):
        write_phantoms(tmp_path, count=count, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("projection", ["AP", "PA"])
def test_the_view_code_says_the_projection_too(projection: str, films: list[Film], tmp_path: Path):
    """SNOMED CT: 272479007 postero-anterior, 399348003 antero-posterior; readers may go by the code alone."""
    film = next(film for film in films if film.body.projection == projection)
    dataset = to_dataset(film)
    (code,) = dataset.ViewCodeSequence
    assert code.CodeValue == {"PA": "272479007", "AP": "399348003"}[projection]
    del dataset.ViewPosition
    dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    assert read_radiograph(tmp_path / "film.dcm").view == projection
