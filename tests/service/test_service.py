"""The REST API in this process: what it answers, to whom, and what it refuses."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import shutil
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless
from starlette.testclient import TestClient

import radzero.service.engine
from dicom_factory import chest_like, dicom_bytes, lut_item, scan_bomb
from film_files import FILM_FILES
from radzero.models.tensors import weights_hash
from radzero.phantom.dicom import to_dataset
from radzero.phantom.film import make_film
from radzero.prediction.model import RadZero, load
from radzero.service.app import create_app
from radzero.service.engine import BoundedCache
from radzero.service.gate import COOKIE, Gate
from radzero.service.metrics import Metrics
from radzero.service.server import _gate
from radzero.service.settings import ServiceSettings
from radzero.viewer import add_viewer

SENTENCES = ["There is right pleural effusion", "There is nodule"]
TOKEN = "correct-horse-battery"


def png(index: int = 0, size: int = 96) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((make_film(31, index, size=size).pixels * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def dicom(index: int = 0) -> bytes:
    buffer = io.BytesIO()
    to_dataset(make_film(31, index, size=96)).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def reader(tiny_checkpoint: Path) -> RadZero:
    """A model of the service's own: a service shares it with nobody."""
    return load(tiny_checkpoint, device="cpu")


def client_of(reader: RadZero, **options: Any) -> TestClient:
    app = create_app(reader, ServiceSettings(**options))
    add_viewer(app, app.state.service)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(reader: RadZero) -> Iterator[TestClient]:
    with client_of(reader, max_upload_bytes=2_000_000, max_sentences=20, max_files=4) as client:
        yield client


def ask(client: TestClient, content: bytes, sentences: list[str] = SENTENCES, **more: Any) -> Any:
    return client.post("/v1/predict", files={"file": ("film.png", content)}, data={"sentence": sentences}, **more)


# -- answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", FILM_FILES)
def test_predict_says_what_the_library_says(client: TestClient, tiny_model: RadZero, format_name: str):
    content = FILM_FILES[format_name]((make_film(31, 0, size=96).pixels * 255).astype(np.uint8))
    answer = ask(client, content, params={"maps": True})
    assert answer.status_code == 200
    said = answer.json()
    (reading,) = tiny_model.predict(content, SENTENCES)
    assert [part["sentence"] for part in said["sentences"]] == SENTENCES
    assert [part["logit"] for part in said["sentences"]] == pytest.approx(reading.logits, abs=1e-4)
    assert [part["probability"] for part in said["sentences"]] == pytest.approx(reading.probabilities, abs=1e-5)
    assert [part["peak"] for part in said["sentences"]] == reading.peaks.tolist()
    assert said["film"] == "film.png"
    assert said["size"] == list(reading.film.shape)
    assert reading.notice in said["warnings"]
    maps = said["maps"]
    values = np.frombuffer(base64.b64decode(maps["values"]), dtype="<f4").reshape(2, *maps["grid"])
    assert np.allclose(values, reading.similarity, atol=1e-4)
    assert maps["placement"]["patch"] == reading.grid.patch[0]
    assert maps["placement"]["original"] == said["size"]


def test_named_sets_and_duplicates(client: TestClient):
    answer = client.post(
        "/v1/predict",
        files={"file": ("a.png", png())},
        data={"sentence": ["There is Edema", " There is nodule "], "findings": "chexpert"},
    )
    assert [part["sentence"] for part in answer.json()["sentences"]] == [
        "There is Edema",
        "There is nodule",
        *("There is Atelectasis", "There is Cardiomegaly", "There is Consolidation", "There is Pleural Effusion"),
    ]
    assert client.get("/v1/findings").json()["siim"] == ["Pneumothorax"]


def test_a_batch_goes_on_after_a_film_that_cannot_be_read(client: TestClient, tiny_model: RadZero):
    files = [("files", ("a.png", png(0))), ("files", ("b.txt", b"no film")), ("files", ("c.dcm", dicom(1)))]
    films = client.post("/v1/batch", files=files, data={"sentence": SENTENCES}).json()["films"]
    assert [film["film"] for film in films] == ["a.png", "b.txt", "c.dcm"]
    assert films[1]["reading"] is None
    assert films[1]["error"]["code"] == "not_an_image"
    for film, content in ((films[0], png(0)), (films[2], dicom(1))):
        (reading,) = tiny_model.predict(content, SENTENCES)
        assert [part["logit"] for part in film["reading"]["sentences"]] == pytest.approx(reading.logits, abs=1e-4)


def test_a_film_that_is_kept_is_asked_again_without_being_read_again(client: TestClient, tiny_model: RadZero):
    sent = client.post("/v1/films", files={"file": ("x.dcm", dicom(2))})
    assert sent.status_code == 201
    film = sent.json()
    assert film["dicom"]["modality"] == "DX"
    assert film["window"] == {"centre": 2048.0, "width": 4096.0, "function": "LINEAR"}
    assert "PHANTOM" not in sent.text  # nothing of the patient
    assert client.get(f"/v1/films/{film['id']}").json() == film
    counts = client.app.state.service.engine.counts
    before = counts.films
    for text in SENTENCES:
        (part,) = client.post(f"/v1/films/{film['id']}/ask", json={"sentences": [text]}).json()["sentences"]
        assert part["logit"] == pytest.approx(float(tiny_model.predict(dicom(2), text)[0].logits[0]), abs=1e-4)
    assert counts.films == before
    assert client.delete(f"/v1/films/{film['id']}").status_code == 204
    gone = client.post(f"/v1/films/{film['id']}/ask", json={"sentences": SENTENCES})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "no_such_film")


def test_a_film_is_known_by_the_sha256_of_its_file(reader: RadZero, tmp_path: Path):
    app = create_app(reader, ServiceSettings())
    add_viewer(app, app.state.service, [tmp_path / "film.png"])
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for content in (png(), png(1)):
            (tmp_path / "film.png").write_bytes(content)
            sent = client.post("/v1/films", files={"file": ("x.png", content)}).json()
            assert sent["sha256"] == hashlib.sha256(content).hexdigest()
            assert client.get(f"/v1/films/{sent['id']}").json()["sha256"] == sent["sha256"]
            assert client.post("/v1/library/0").json()["sha256"] == sent["sha256"]


def test_the_same_bytes_are_read_once(client: TestClient):
    counts = client.app.state.service.engine.counts
    ask(client, png(5))
    before = (counts.films, counts.hits)
    ask(client, png(5), ["There is mass"])
    assert (counts.films, counts.hits) == (before[0], before[1] + 1)


def test_overlays_and_dicom_results(client: TestClient, tiny_model: RadZero):
    identity = client.post("/v1/films", files={"file": ("x.dcm", dicom(3))}).json()["id"]
    picture = client.post(f"/v1/films/{identity}/overlay", json={"sentence": SENTENCES[0], "threshold": 0.4})
    assert picture.headers["content-type"] == "image/png"
    expected = tiny_model.predict(dicom(3), SENTENCES[0])[0].overlay(0, threshold=0.4)
    shown = np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(expected.convert("RGB"))).mean() < 0.1
    packed = client.post(f"/v1/films/{identity}/results", json={"sentences": SENTENCES, "kinds": "seg,sr"})
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        objects = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    assert [result.Modality for result in objects] == ["SEG", "SR"]
    assert objects[0].StudyInstanceUID == pydicom.dcmread(io.BytesIO(dicom(3))).StudyInstanceUID
    other = client.post("/v1/films", files={"file": ("x.png", png())}).json()["id"]
    refused = client.post(f"/v1/films/{other}/results", json={"sentences": SENTENCES})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_dicom")
    bad = client.post(f"/v1/films/{identity}/results", json={"sentences": SENTENCES, "kinds": "pdf"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "no_result")


def unpacked(content: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What docs/service.md says of the format."""
    (count,) = struct.unpack("<I", content[:4])
    values = np.frombuffer(content, "<f4", count, 4)
    grey = np.frombuffer(content, np.uint8, count, 4 + 4 * count)
    pixels = np.frombuffer(content, "<u2", shape[0] * shape[1], 4 + 4 * count + (count + 3) // 4 * 4)
    return values, grey, pixels.reshape(shape)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_for_a_viewer(client: TestClient, tiny_model: RadZero, signed: bool, photometric: str):
    stored = chest_like(60, 48)
    if signed:
        stored = stored.astype(np.int16) - 1000
    content = dicom_bytes(
        stored, bits=13 if signed else 12, PhotometricInterpretation=photometric, RescaleSlope=2, RescaleIntercept=-7,
        WindowCenter=1500, WindowWidth=2500,
    )  # fmt: skip
    film = client.post("/v1/films", files={"file": ("x.dcm", content)}).json()
    values, grey, pixels = unpacked(client.get(f"/v1/films/{film['id']}/pixels").content, (60, 48))
    assert np.all(np.diff(values) >= 0)
    assert np.array_equal(values[pixels], stored.astype(float) * 2 - 7)
    assert np.array_equal(grey[pixels], tiny_model.predict(content, SENTENCES)[0].film)
    assert film["inverted"] is (photometric == "MONOCHROME1")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4000])
def test_padding_has_no_value_and_lies_at_the_dark_end(
    client: TestClient, tiny_model: RadZero, photometric: str, padding: int
):
    stored = 1000 + chest_like(60, 48) // 2
    stored[:, :6] = padding
    content = dicom_bytes(
        stored, bits=12, PhotometricInterpretation=photometric, PixelPaddingValue=padding,
        WindowCenter=2000, WindowWidth=2500,
    )  # fmt: skip
    film = client.post("/v1/films", files={"file": ("x.dcm", content)}).json()
    values, grey, pixels = unpacked(client.get(f"/v1/films/{film['id']}/pixels").content, (60, 48))
    assert np.isnan(values[pixels[:, :6]]).all()
    assert np.array_equal(values[pixels[:, 6:]], stored[:, 6:])
    assert np.array_equal(grey[pixels], tiny_model.predict(content, SENTENCES)[0].film)
    assert np.isnan(values[-1 if photometric == "MONOCHROME1" else 0])
    assert np.all(np.diff(values[~np.isnan(values)]) > 0)
    assert np.isnan(values).sum() == 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("slope", "intercept"), [("1e308", "0"), ("1e305", "-1.5e308"), ("1e-300", "0"), ("1", "1e300")]
)
def test_an_absurd_rescale_is_ignored(client: TestClient, slope: str, intercept: str):
    content = dicom_bytes(chest_like(60, 48), bits=12, RescaleSlope=slope, RescaleIntercept=intercept)
    plain = dicom_bytes(chest_like(60, 48), bits=12)
    files = [("files", ("a.dcm", plain)), ("files", ("b.dcm", content))]
    first, second = client.post("/v1/batch", files=files, data={"sentence": SENTENCES}).json()["films"]
    assert "absurd" in str(second["reading"]["warnings"])
    for got, wanted in zip(second["reading"]["sentences"], first["reading"]["sentences"], strict=True):
        assert got["logit"] == pytest.approx(wanted["logit"], abs=1e-4)  # rows of a batch may differ by rounding
        assert got["peak"] == wanted["peak"]


def test_header_values_of_no_use(client: TestClient):
    """An empty spacing; texts that are longer than any may be, which would be kept and sent."""
    long = {"BodyPartExamined": "C" * 60_000, "Modality": "M" * 60_000, "StudyInstanceUID": "1." * 3000 + "1"}
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(chest_like(60, 48), bits=12)))
    for keyword, text in long.items():
        ds.add_new(keyword, "UT", text)
    ds.add_new("PixelSpacing", "DS", "")
    buffer = io.BytesIO()
    ds.save_as(buffer)
    content = buffer.getvalue().replace(b"\x28\x00\x30\x00DS\x00\x00", b"\x28\x00\x30\x00DS\x04\x00\\0.1")
    answer = client.post("/v1/films", files={"file": ("x.dcm", content)})
    assert answer.status_code == 201
    film = answer.json()
    assert film["spacing"] is None
    assert len(answer.content) < 2000
    assert film["dicom"]["body_part"] == "C" * 16
    assert "study_instance_uid" not in film["dicom"]
    client.delete(f"/v1/films/{film['id']}")


def test_one_content_type(client: TestClient):
    """Two parts of a service that take another of several for the true one do not check the same thing."""
    headers = [("content-type", "application/json"), ("content-type", "multipart/form-data; boundary=x")]
    answer = client.post("/v1/films/x/ask", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_no_path_is_another(client: TestClient):
    answer = client.post("/v1/predict/", files={"file": ("a", b"")}, follow_redirects=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "not_allowed")  # the viewer's page has it
    assert client.get("/v1/model/").status_code == 404


def test_the_hash_is_of_the_weights_that_answer(tiny_checkpoint: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    with client_of(load(folder, device="cpu")) as client:
        expected = load(folder).sha256
        shutil.rmtree(folder)
        assert client.get("/v1/model").json()["sha256"] == expected
    with pytest.raises(FileNotFoundError, match="not there any more"):
        weights_hash(folder)


def test_whatever_goes_wrong_with_the_model_it_answers_again(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    reader = load(tiny_checkpoint, device="cpu")
    with client_of(reader) as client:
        with monkeypatch.context() as patched:
            patched.setattr(reader, "embed_sentences", lambda asked: {}["nothing"])
            assert ask(client, png()).status_code == 500
        assert ask(client, png()).status_code == 200


def test_pixels_of_pictures_and_of_a_voi_lut(client: TestClient, tiny_model: RadZero):
    film = client.post("/v1/films", files={"file": ("x.png", png())}).json()
    values, grey, pixels = unpacked(client.get(f"/v1/films/{film['id']}/pixels").content, tuple(film["size"]))
    assert np.array_equal(grey[pixels], np.asarray(Image.open(io.BytesIO(png()))))
    assert np.array_equal(values[pixels], grey[pixels])
    curve = [int(4095 * (k / 4095) ** 2) for k in range(4096)]
    content = dicom_bytes(chest_like(60, 48), bits=12, VOILUTSequence=[lut_item(curve, 0, 12)])
    film = client.post("/v1/films", files={"file": ("x.dcm", content)}).json()
    assert film["window"] is None
    values, grey, pixels = unpacked(client.get(f"/v1/films/{film['id']}/pixels").content, (60, 48))
    assert np.array_equal(grey[pixels], tiny_model.predict(content, SENTENCES)[0].film)


def test_operation(client: TestClient):
    assert client.get("/v1/health").json() == {"status": "ok"}
    assert client.get("/v1/ready").json() == {"status": "ready"}
    model = client.get("/v1/model").json()
    assert (model["method"], model["has_maps"]) == ("RadZero", True)
    assert model["notice"].startswith("Tiny")
    ask(client, b"no film")
    counted = client.get("/v1/metrics").text
    assert 'radzero_requests_total{method="POST",route="/v1/predict",status="422"}' in counted
    assert 'radzero_films_refused_total{reason="not_an_image"}' in counted
    assert "radzero_batch_films_bucket" in counted


# -- refusals ---------------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """A PNG whose header asks for side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"no film", 422, "not_an_image"),
        (bomb(100_000), 413, "too_large"),
        (png()[:2000], 422, "truncated"),
        (dicom()[:4000], 422, "truncated"),
        (dicom_bytes(chest_like(60, 48), bits=12, Modality="CT"), 422, "not_a_radiograph"),
        (dicom_bytes(chest_like(60, 48), bits=12, Rows=60_000, Columns=60_000), 413, "too_large"),
    ],
)
def test_films_that_are_refused(client: TestClient, content: bytes, status: int, code: str):
    answer = ask(client, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert client.get("/v1/ready").is_success


def large_headers() -> dict[str, bytes]:
    """Small files that ask for 100,000 x 100,000 pixels, or as many as their formats can say."""
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 65_500, 65_500, 1) + b"\x01\x11\x00" + bytes(500)
    tags = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 100_000), (279, 4, 1, 1000)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    tiff = b"II*\0" + struct.pack("<I", 1008) + bytes(1000) + struct.pack("<H", len(tags)) + entries + bytes(4)
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 1078, 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, 100_000, 100_000, 1, 8, *[0] * 6)
    )
    siz = struct.pack(">HHIIIIIIIIHBBB", 41, 0, 100_000, 100_000, 0, 0, 100_000, 100_000, 0, 0, 1, 11, 1, 1)
    codestream = b"\xff\x4f\xff\x51" + siz + bytes(500)
    compressed = Dataset()
    compressed.update(pydicom.dcmread(io.BytesIO(dicom())))
    compressed.file_meta = FileMetaDataset()
    compressed.file_meta.TransferSyntaxUID = JPEG2000Lossless
    compressed.Rows = compressed.Columns = 65_535
    compressed.PixelData = encapsulate([codestream])
    compressed["PixelData"].VR = "OB"
    jpeg_2000 = io.BytesIO()
    compressed.save_as(jpeg_2000, enforce_file_format=True)
    return {"jpeg": jpeg, "tiff": tiff, "bmp": bmp + bytes(1024), "jpeg 2000": jpeg_2000.getvalue()}


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "bmp", "jpeg 2000"])
def test_headers_that_ask_for_too_many_pixels(client: TestClient, kind: str):
    started, before = time.monotonic(), psutil.Process().memory_info().rss
    answer = ask(client, large_headers()[kind])
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert time.monotonic() - started < 5
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
    assert ask(client, png()).is_success


@pytest.mark.slow
def test_bombs_that_unpack(client: TestClient):
    """600 MiB of zeros in a deflated DICOM file, in a PNG's text, in a gzipped request and in a ZIP file."""
    honest = dicom_bytes(chest_like(60, 48), DeflatedExplicitVRLittleEndian, 12)
    meta_end = 132 + 12 + struct.unpack("<I", honest[140:144])[0]
    squeeze = zlib.compressobj(wbits=-15)
    deflated = b"".join(squeeze.compress(bytes(2**20)) for _ in range(600)) + squeeze.flush()
    dicom_bomb = honest[:meta_end] + deflated
    text = zlib.compress(bytes(2**26))
    chunk = b"zTXtComment\0\0" + text
    picture = png()
    text_bomb = (
        picture[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + picture[33:]
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film.dcm", bytes(2**26))
    before = psutil.Process().memory_info().rss
    for content, status in ((dicom_bomb, 413), (text_bomb, 413), (packed.getvalue(), 422)):
        answer = ask(client, content)
        assert answer.status_code == status, answer.text
    zipped = gzip.compress(bytes(2**26))
    answer = client.post(
        "/v1/films/x/ask", content=zipped, headers={"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert answer.status_code in (400, 422)  # requests are never unpacked
    assert psutil.Process().memory_info().rss - before < 600 * 2**20
    assert ask(client, picture).is_success


def test_many_parts_and_fields(client: TestClient):
    many = b"".join(b'--X\r\nContent-Disposition: form-data; name="sentence"\r\n\r\nx\r\n' for _ in range(20_000))
    answer = client.post(
        "/v1/predict", content=many + b"--X--\r\n", headers={"content-type": "multipart/form-data; boundary=X"}
    )
    assert answer.status_code in (400, 413, 422)
    nested = b"[" * 100_000 + b"]" * 100_000
    answer = client.post("/v1/films/x/ask", content=nested, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert client.get("/v1/ready").is_success


def test_no_field_makes_the_service_ask_another_address(client: TestClient):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/film.dcm"
        described = to_dataset(make_film(31, 0, size=96))
        described.RetrieveURL = url
        content = io.BytesIO()
        described.save_as(content, enforce_file_format=True)
        for name, sent in (
            ("film.png", png()),
            (url, png()),
            ("film.dcm", content.getvalue()),
            ("a.txt", url.encode()),
        ):
            client.post(f"/v1/predict?url={url}", files={"file": (name, sent)}, data={"sentence": url, "findings": url})
        identity = client.post("/v1/films", files={"file": (url, png())}).json()["id"]
        for body in ({"sentences": [url]}, {"sentences": ["x"], "findings": [url]}, {"url": url}):
            client.post(f"/v1/films/{identity}/ask", json=body)
        client.get(f"/v1/films/{url}", headers={"referer": url, "x-forwarded-host": url, "forwarded": f"host={url}"})
        client.post("/v1/library/0", params={"path": url})
        with pytest.raises(TimeoutError):
            listener.accept()


def test_sentences_that_are_refused(client: TestClient):
    for sentences, status, code in (
        ([], 422, "no_sentence"),
        (["  "], 422, "no_sentence"),
        (["a\x00b"], 422, "bad_sentence"),
        ([f"There is {k}" for k in range(21)], 413, "too_many_sentences"),
        (["x" * 2001], 413, "long_sentence"),
    ):
        answer = ask(client, png(), sentences)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    unknown = client.post("/v1/predict", files={"file": ("a.png", png())}, data={"findings": "nothing"})
    assert unknown.json()["error"]["code"] == "unknown_findings"
    surrogate = client.post(
        "/v1/films/x/ask", content=b'{"sentences": ["\\ud800"]}', headers={"content-type": "application/json"}
    )
    assert surrogate.status_code == 422
    misspelt = client.post("/v1/films/x/ask", json={"sentences": ["There is nodule"], "map": False})
    assert misspelt.status_code == 422
    assert "body.map" in misspelt.json()["error"]["message"]


def test_requests_that_are_too_large_or_malformed(client: TestClient):
    big = client.post("/v1/predict", files={"file": ("a.png", bytes(2_100_000))}, data={"sentence": "x"})
    assert (big.status_code, big.json()["error"]["code"]) == (413, "too_large")

    def parts() -> Iterator[bytes]:
        yield b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(100_000)

    streamed = client.post("/v1/predict", content=parts(), headers={"content-type": "multipart/form-data; boundary=X"})
    assert (streamed.status_code, streamed.json()["error"]["code"]) == (413, "too_large")
    for body, kind in (
        (b"--X\r\nrubbish", "multipart/form-data; boundary=X"),
        (b"rubbish", "multipart/form-data"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"", ""),
    ):
        answer = client.post("/v1/predict", content=body, headers={"content-type": kind})
        assert answer.status_code in (400, 422), answer.text
        assert set(answer.json()) == {"error"}
    five = [("files", (f"{k}.png", png())) for k in range(5)]
    assert client.post("/v1/batch", files=five, data={"sentence": "x"}).json()["error"]["code"] == "too_many_films"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\windows\\system.ini",
        "/etc/shadow",
        "<script>alert(1)</script>.png",
        "a\nb",
        "\u202egnp.exe",
        "x" * 500,
    ],
)
def test_names_are_names_and_nothing_else(client: TestClient, name: str):
    answer = client.post("/v1/predict", files={"file": (name, png())}, data={"sentence": SENTENCES})
    assert answer.status_code == 200
    said = answer.json()["film"]
    assert not set(said) & set('/\\<>"\n\u202e')
    assert len(said) <= 120


def test_paths_lead_nowhere_else(client: TestClient):
    for path in (
        "/../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/static/../app.py",
    ):
        assert client.get(path).status_code in (400, 404), path
    assert client.get("/").status_code == 200
    assert "RadZero viewer" in client.get("/").text


def test_pages_carry_their_rules(client: TestClient):
    headers = client.get("/").headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


def test_other_hosts_and_other_sites(client: TestClient):
    for host in ("evil.example", "127.0.0.1.evil.example", "[", "", "192.168.0.4:8000"):
        assert client.get("/v1/model", headers={"host": host}).status_code == 421, host
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        assert client.get("/v1/model", headers={"host": host}).status_code == 200, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        answer = ask(client, png(), headers={"origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    assert ask(client, png(), headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


def test_tokens(reader: RadZero):
    with client_of(reader, tokens=frozenset((TOKEN, "another-token-of-sixteen"))) as client:
        assert client.get("/v1/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong-horse-battery"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": "Bearer"},
            {"cookie": f"{COOKIE}_8000=x"},
            {"cookie": f"{COOKIE}_9000={TOKEN}"},
        ):
            answer = client.get("/v1/model", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                401,
                "wrong_token" if any("9000" not in value for value in headers.values()) else "no_token",
            )
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert client.get("/", headers=headers).status_code == 401
        for headers in ({"authorization": f"Bearer {TOKEN}"}, {"cookie": f"a=b; {COOKIE}_8000={TOKEN}"}):
            assert client.get("/v1/model", headers=headers).status_code == 200
        assert client.get(f"/v1/model?token={TOKEN}").status_code == 401  # a link is for the page alone
        link = client.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (link.status_code, link.headers["location"]) == (303, "/")
        assert "HttpOnly" in link.headers["set-cookie"]
        assert "SameSite=Lax" in link.headers["set-cookie"]
        client.cookies.clear()
        assert client.get("/?token=wrong-horse-battery", follow_redirects=False).status_code == 401
    base64 = "a+b/c+d/e+f/g+h/i+j/=="
    with client_of(reader, tokens=frozenset((base64,))) as client:
        for written in (base64, quote(base64, safe="")):
            assert client.get(f"/?token={written}").status_code == 200  # by the cookie, at /
            client.cookies.clear()


def test_a_malformed_origin_is_a_foreign_one(client: TestClient):
    answer = ask(client, png(), headers={"origin": "http://["})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")


def test_a_defect_is_said_counted_and_logged_without_its_words(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: Any) -> Any:
        raise KeyError("DOE^JANE")

    monkeypatch.setattr(client.app.state.service.engine, "ask", fail)
    answer = ask(client, png(9))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'status="500"' in client.get("/v1/metrics").text
    assert "DOE" not in caplog.text + answer.text
    assert any(getattr(record, "fields", {}).get("error") == "KeyError" for record in caplog.records)


def test_odd_headers_of_films(client: TestClient):
    for odd in ({"PixelSpacing": "0.2"}, {"PixelSpacing": ["0.2", "-1"]}, {"ImagerPixelSpacing": ["0.1", "0.2"]}):
        ds = to_dataset(make_film(31, 0, size=96))
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            if keyword in ds:
                del ds[keyword]
        for keyword, value in odd.items():
            setattr(ds, keyword, value)
        content = io.BytesIO()
        ds.save_as(content, enforce_file_format=True)
        answer = client.post("/v1/films", files={"file": ("a.dcm", content.getvalue())})
        assert answer.status_code == 201, answer.text
        assert answer.json()["spacing"] == ([0.1, 0.2] if "ImagerPixelSpacing" in odd else None)
    whole = dicom()
    at = whole.index(b"\x20\x00\x10\x00SH")  # Study ID, of a value representation that there is not
    answer = client.post("/v1/films", files={"file": ("a.dcm", whole[: at + 4] + b"QQ" + whole[at + 6 :])})
    assert answer.status_code in (201, 422), answer.text


def test_results_that_a_film_cannot_have_are_named(client: TestClient):
    colour = dicom_bytes(
        np.stack([chest_like(96, 72, 255).astype(np.uint8)] * 3, axis=-1), PatientOrientation=["L", "F"]
    )
    identity = client.post("/v1/films", files={"file": ("a.dcm", colour)}).json()["id"]
    answer = client.post(f"/v1/films/{identity}/results", json={"sentences": SENTENCES})
    assert answer.status_code == 200, answer.text
    assert answer.headers["radzero-left-out"] == "gsps"
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert "leave gsps out" in packed.read("left-out.txt").decode()
    assert {name[-6:-4] for name in packed.namelist()} == {"EG", "SR", "OT", "ut"}


def test_a_body_without_a_film_is_small(client: TestClient):
    """Names of sets stand for many sentences: a million of them once took gigabytes."""
    before, started = psutil.Process().memory_info().rss, time.monotonic()
    for count, status in ((200_000, 422), (1_000_000, 413)):
        asked = {"findings": ["openi"] * count}
        for path in ("/v1/films/none/ask", "/v1/films/none/results"):
            assert client.post(path, json=asked).status_code == status
    form = client.post("/v1/predict", files={"file": ("a.png", png())}, data={"findings": ["chexpert"] * 900})
    assert len(form.json()["sentences"]) == 5
    encoded = client.post("/v1/predict", data={"sentence": ["x" * 1000] * 5000})
    assert encoded.status_code == 413
    assert time.monotonic() - started < 20
    assert psutil.Process().memory_info().rss - before < 300 * 2**20


def test_a_length_beside_chunks_is_refused(client: TestClient):
    headers = {"content-length": "1", "transfer-encoding": "chunked", "content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/predict", content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_head_is_get_without_its_body_and_no_answer_is_cut(client: TestClient):
    for path in ("/v1/health", "/v1/model", "/app.js"):
        assert client.head(path).status_code == 200
        assert client.head(path).content == b""
    assert client.head("/v1/predict").status_code == 405
    assert client.get("/app.js", headers={"range": "bytes=abc"}).status_code == 200


def test_metrics_are_answered_when_too_many_wait(reader: RadZero):
    with client_of(reader, max_pending=1) as client:
        client.get("/v1/health")
        gate = _gate(client.app)
        gate.enter(5)
        assert client.get("/v1/model").status_code == 429
        assert "radzero_requests_total" in client.get("/v1/metrics").text
        gate.leave(5)
        assert client.get("/v1/model").status_code == 200


def test_a_scan_bomb_is_too_large(client: TestClient):
    answer = ask(client, scan_bomb(3000))
    assert (answer.status_code, "scans" in answer.json()["error"]["message"]) == (413, True)


def test_stuck_decoders_are_said_and_not_waited_for(reader: RadZero, monkeypatch: pytest.MonkeyPatch):
    leave, started = threading.Event(), threading.Barrier(3)
    read = radzero.service.engine.read_radiograph

    def stuck(content: bytes, **options: Any) -> Any:
        if b"stuck" in content:
            started.wait(10)
            leave.wait(60)
        return read(content, **options)

    monkeypatch.setattr("radzero.service.engine.read_radiograph", stuck)
    try:
        with client_of(reader, time_limit_s=0.5) as client:
            answers = [threading.Thread(target=ask, args=(client, png(k) + b"stuck")) for k in range(2)]
            for thread in answers:
                thread.start()
            started.wait(10)
            assert client.get("/v1/ready").status_code == 200
            for thread in answers:
                thread.join(10)
            time.sleep(0.2)
            assert "every decoder" in client.get("/v1/ready").json()["error"]["message"]
            before = time.monotonic()
        assert time.monotonic() - before < 10  # the service ends
    finally:
        leave.set()


class Wire:
    """A client of the gate that takes what it is sent when it likes."""

    def __init__(self, gate: Gate, size: int) -> None:
        self.sent: list[dict[str, Any]] = []
        self.taking = asyncio.Event()
        scope = {"type": "http", "method": "GET", "path": "/big", "query_string": b"", "headers": [(b"host", b"[::1]")]}
        self.task = asyncio.create_task(gate({**scope, "size": size}, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        await self.taking.wait()


async def big(scope: Any, receive: Any, send: Any) -> None:
    size = scope["size"]
    headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(range(256)) * (size // 256)})


def test_answers_that_are_not_taken_are_counted_and_handed_over_in_parts():
    async def run() -> None:
        gate = Gate(big, ServiceSettings(max_pending_bytes=3 * 2**20), Metrics())
        slow = Wire(gate, 2 * 2**20)
        await asyncio.sleep(0.05)
        refused = Wire(gate, 2 * 2**20)
        refused.taking.set()
        await refused.task
        assert [message.get("status") for message in refused.sent] == [429, None]
        slow.taking.set()
        await slow.task
        parts = [message["body"] for message in slow.sent[1:]]
        assert b"".join(parts) == bytes(range(256)) * 2**13
        assert max(map(len, parts)) <= 2**18
        assert [message["more_body"] for message in slow.sent[1:-1]] == [True] * (len(parts) - 1)
        assert not slow.sent[-1].get("more_body")
        assert gate.holds(3 * 2**20)

    asyncio.run(run())


def test_a_request_that_is_given_up_is_answered():
    async def forever(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def run() -> None:
        gate = Gate(forever, ServiceSettings(), Metrics())
        request = Wire(gate, 0)
        request.taking.set()
        await asyncio.sleep(0.05)
        request.task.cancel()
        await request.task
        assert request.sent[0]["status"] == 503
        assert json.loads(request.sent[1]["body"])["error"]["code"] == "stopping"
        assert gate.answered == 1

    asyncio.run(run())


def test_results_are_bounded(reader: RadZero):
    with client_of(reader, max_result_values=2 * 96 * 96 + 5000) as client:
        identity = client.post("/v1/films", files={"file": ("a.dcm", dicom())}).json()["id"]
        for count, status in ((1, 200), (9, 413)):
            body = {"sentences": [f"There is nodule {k}" for k in range(count)], "kinds": "seg"}
            assert client.post(f"/v1/films/{identity}/results", json=body).status_code == status


def test_drawing_keeps_no_film_from_being_read(reader: RadZero):
    with client_of(reader, decoders=1) as client:
        engine, leave = client.app.state.service.engine, threading.Event()
        for _ in range(4):
            engine._drawing.submit(leave.wait, 30)
        assert ask(client, png(4)).is_success
        leave.set()


def test_names_of_a_library_that_are_no_text(reader: RadZero, tmp_path: Path):
    app = create_app(reader, ServiceSettings())
    add_viewer(app, app.state.service, [Path("a\udcff.png"), Path("b.png")])
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/v1/library").json() == ["a_.png", "b.png"]


def test_settings_refuse_what_would_be_open_to_all():
    with pytest.raises(ValueError, match="can be reached from other machines"):
        ServiceSettings(host="0.0.0.0")
    with pytest.raises(ValueError, match="at least 16"):
        ServiceSettings(tokens=frozenset(("short",)))
    for odd in ("sixteen;characters", "sixteen characters", "=sixteen-characters", "sixteen-chäracters"):
        with pytest.raises(ValueError, match="letters, digits"):
            ServiceSettings(tokens=frozenset((odd,)))
    assert ServiceSettings(host="0.0.0.0", tokens=frozenset((TOKEN,))).host == "0.0.0.0"
    for host in ("localhost", "::1", "127.8.9.1"):
        ServiceSettings(host=host)
    for name in ("max_pending", "time_limit_s", "max_upload_bytes", "decoders"):
        with pytest.raises(ValueError, match=name):
            ServiceSettings(**{name: 0})


def test_a_full_service_says_so(reader: RadZero):
    with client_of(reader, max_pending=2) as client:
        engine = client.app.state.service.engine
        entered, leave = threading.Semaphore(0), threading.Event()
        decode = engine._decode

        def slow(*arguments: Any) -> Any:
            entered.release()
            assert leave.wait(30)
            return decode(*arguments)

        engine._decode = slow
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda k=k: answers.append(ask(client, png(k)))) for k in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert entered.acquire(timeout=30)
        refused = ask(client, png(3))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/v1/health").status_code == 200  # what watches it is answered
        leave.set()
        for thread in threads:
            thread.join(30)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert ask(client, png(3)).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(reader: RadZero):
    with client_of(reader, time_limit_s=0.3) as client:
        engine = client.app.state.service.engine
        decode, leave = engine._decode, threading.Event()
        engine._decode = lambda *arguments: (leave.wait(10), decode(*arguments))[1]
        late = ask(client, png(1))
        assert (late.status_code, late.json()["error"]["code"]) == (504, "time_limit")
        leave.set()
        engine._decode = decode
        assert ask(client, png(2)).status_code == 200


def test_a_film_that_breaks_the_model_breaks_no_other(reader: RadZero, monkeypatch: pytest.MonkeyPatch):
    with client_of(reader) as client:
        embed = reader.embed_pixels

        def fragile(pixels: Any) -> Any:
            if len(pixels) > 1:
                raise RuntimeError("together they are too much")
            return embed(pixels)

        monkeypatch.setattr(reader, "embed_pixels", fragile)
        files = [("files", (f"{k}.png", png(k))) for k in range(4)]
        films = client.post("/v1/batch", files=files, data={"sentence": SENTENCES}).json()["films"]
        assert all(film["reading"] for film in films)


def test_nothing_of_a_film_is_logged(client: TestClient, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", logger="radzero.service"):
        client.post(
            "/v1/predict", files={"file": ("DOE^JANE.dcm", dicom())}, data={"sentence": "Jane Doe has a nodule"}
        )
    (record,) = [record for record in caplog.records if record.getMessage() == "request"]
    assert record.fields["route"] == "/v1/predict"  # type: ignore[attr-defined]
    assert record.fields["status"] == 200  # type: ignore[attr-defined]
    assert "DOE" not in json.dumps(record.fields).upper()  # type: ignore[attr-defined]


# -- the cache --------------------------------------------------------------------------------------------


class Thing:
    def __init__(self, size: int) -> None:
        self.bytes = size


def test_the_cache_keeps_what_was_used_last_within_its_bound():
    cache: BoundedCache[Thing] = BoundedCache(10)
    assert cache.put("a", Thing(4))
    assert cache.put("b", Thing(4))
    assert cache.take("a")
    assert cache.put("c", Thing(4))
    assert set(cache) == {"a", "c"}
    assert cache.held == 8
    assert not cache.put("d", Thing(11))
    assert cache.put("a", Thing(6))
    assert cache.held == 10
    assert cache.drop("a")
    assert not cache.drop("a")
    assert cache.held == 4


# -- any request at all -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_request_of_the_schema_or_beside_it_breaks_the_service(client: TestClient):
    import schemathesis

    schema = schemathesis.openapi.from_dict(client.get("/v1/openapi.json").json())
    schema.app = client.app
    film = dicom()
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/predict", "/v1/films/{identity}/ask"}
    names = st.sampled_from(("Origin", "Authorization", "Cookie", "Accept", "Range", "If-Modified-Since", "X-A"))
    values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
    for operation in operations:

        @given(operation.as_strategy(), st.dictionaries(names, values, max_size=3), st.booleans())
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        def run(case: Any, headers: dict[str, str], kept: bool) -> None:
            if kept and "identity" in (case.path_parameters or {}):  # else every such request is answered 404
                sent = client.post("/v1/films", files={"file": ("a.dcm", film)})
                case.path_parameters["identity"] = sent.json()["id"]
            odd = {name: value.strip() for name, value in headers.items()}
            response = case.call(base_url="http://127.0.0.1:8000", headers=odd)
            assert response.status_code < 500, response.text

        run()


@given(st.text(max_size=30), st.sampled_from(("GET", "POST", "PUT", "DELETE", "PROPFIND")))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_path_breaks_the_service(client: TestClient, path: str, method: str):
    for prefix in ("/", "/v1/", "/v1/library/", "/v1/films/"):
        answer = client.request(method, prefix + quote(path, safe="/."))
        assert answer.status_code < 500, answer.text
