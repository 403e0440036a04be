"""DICOMweb and C-STORE: against Orthanc where it is installed, and against servers of our own that misbehave."""

import contextlib
import io
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom import AE, evt

from command_line import call
from dicom_factory import chest_like, dicom_bytes
from forked import Forked
from radzero.pacs.dicomweb import DicomWeb, FilmAddress, open_servers
from radzero.pacs.ledger import Ledger, Task
from radzero.pacs.listen import DimseDestination, Listener, Peer
from radzero.pacs.process import FolderDestination, NotTakenError, Processor, UnreachableError
from radzero.phantom.dicom import to_dataset
from radzero.phantom.film import make_film
from radzero.prediction.model import RadZero
from radzero.results import make_results, read_header

pytestmark = pytest.mark.slow

SENTENCE = "There is right pleural effusion"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def film(index: int, **attributes: object) -> bytes:
    """A small CR or DX film of a study of its own."""
    own = {
        "StudyInstanceUID": f"1.2.3.{index}",
        "SeriesInstanceUID": f"1.2.3.{index}.1",
        "SOPInstanceUID": f"1.2.3.{index}.1.1",
        "PatientID": f"P{index}",
        "PatientOrientation": ["L", "F"],
        "StudyID": str(index),
        "StudyDate": "20260101",
    }
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(chest_like(96, 72), bits=12, **{**own, **attributes})))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# -- Orthanc ----------------------------------------------------------------------------------------------


@dataclass
class Orthanc:
    url: str
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def web(self) -> str:
        return f"{self.url}/dicom-web"

    def send(self, content: bytes) -> None:
        requests.post(f"{self.url}/instances", data=content, timeout=30).raise_for_status()

    def instances(self) -> list[Dataset]:
        """Everything that it holds, as stored."""
        found = requests.get(f"{self.url}/instances", timeout=30).json()
        files = [requests.get(f"{self.url}/instances/{name}/file", timeout=30).content for name in found]
        return [pydicom.dcmread(io.BytesIO(content)) for content in files]

    def results(self) -> list[Dataset]:
        return [ds for ds in self.instances() if ds.get("SeriesDescription", "").startswith("RadZero: ")]

    def stored_times(self) -> int:
        """How often anything was stored, twice the same included: Orthanc numbers its changes."""
        changes = requests.get(f"{self.url}/changes?limit=100000", timeout=30).json()["Changes"]
        return sum(change["ChangeType"] == "NewInstance" for change in changes)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        pytest.skip("Orthanc with its DICOMweb plug-in (Debian: orthanc, orthanc-dicomweb) is not installed")
    port, dicom_port = free_port(), free_port()
    (tmp_path / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "test",
                "StorageDirectory": str(tmp_path / "orthanc"),
                "IndexDirectory": str(tmp_path / "orthanc"),
                "Plugins": [str(PLUGIN)],
                "HttpPort": port,
                "DicomPort": dicom_port,
                "RemoteAccessAllowed": False,
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        server = Orthanc(f"http://127.0.0.1:{port}", dicom_port, process)
        for _ in range(200):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{server.url}/system", timeout=5).raise_for_status()
                break
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def marked(index: int, **attributes: object) -> bytes:
    """A film with a bright marker in its upper left part."""
    pixels = chest_like(96, 72)
    pixels[8:20, 6:18] = 4095
    ds = pydicom.dcmread(io.BytesIO(film(index, **attributes)))
    ds.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_store_find_ask_store_fetch(orthanc: Orthanc, tiny_checkpoint: Path, tiny_model: RadZero, tmp_path: Path):
    dx = {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX", "ImageLaterality": "U"}
    films = [
        marked(1),
        film(2, **dx, ImagerPixelSpacing=[0.2, 0.2]),
        film(3, PhotometricInterpretation="MONOCHROME1"),
        dicom_bytes(
            chest_like(96, 72), JPEG2000Lossless, bits=12, StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1",
            SOPInstanceUID="1.2.9.1.1", PatientID="P9", PatientOrientation=["L", "F"],
        ),
        film(5, Modality="CT"),
    ]  # fmt: skip
    for content in films:
        orthanc.send(content)
    command = ["dicomweb", orthanc.web, "--state", tmp_path / "state", "-m", tiny_checkpoint, "-s", SENTENCE]
    assert "4 films with 20 results stored" in call(*command, "--results", "all").output
    assert "0 films with 0 results stored, 4 done earlier" in call(*command, "--results", "all").output
    assert orthanc.stored_times() == 5 + 20
    results = orthanc.results()
    assert sorted(ds.Modality for ds in results) == sorted(["SEG", "SEG", "SR", "PR", "OT"] * 4)
    for ds in results:
        if shutil.which("dciodvfy"):
            path = tmp_path / "fetched.dcm"
            ds.save_as(path, enforce_file_format=True)
            done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
            assert "Error" not in done.stdout + done.stderr
    # what comes back lies on the pixels of the map
    (seg,) = [
        ds for ds in results
        if ds.Modality == "SEG" and ds.SegmentationType == "FRACTIONAL" and ds.StudyInstanceUID == "1.2.3.1"
    ]  # fmt: skip
    reading = tiny_model.predict(marked(1), SENTENCE)[0]
    assert np.abs(seg.pixel_array / 255 - reading.map(0)).max() < 0.003
    assert np.abs(seg.pixel_array[:, ::-1] / 255 - reading.map(0)).max() > 0.003


def test_every_run_names_the_films_that_can_have_no_result(orthanc: Orthanc, tiny_checkpoint: Path, tmp_path: Path):
    header = pydicom.dcmread(io.BytesIO(film(1)))
    del header.PixelData
    with io.BytesIO() as buffer:
        header.save_as(buffer)
        orthanc.send(buffer.getvalue())
    orthanc.send(film(2))
    command = ["dicomweb", orthanc.web, "--state", tmp_path / "state", "-m", tiny_checkpoint, "-s", SENTENCE]
    for tally in (
        "1 film with 2 results stored, 1 refused",
        "0 films with 0 results stored, 1 done earlier, 1 refused",
    ):
        said = call(*command, code=1).output
        assert tally in said
        assert "refused 1.2.3.1.1.1" in said
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0, "films of patients lie there"


@pytest.mark.parametrize("kill_after", [0.3, 0.8, 1.5])
def test_kill_and_restart_store_each_result_once(
    orthanc: Orthanc, tiny_checkpoint: Path, tmp_path: Path, kill_after: float
):
    for index in range(12):
        orthanc.send(film(index))
    command = [
        *("dicomweb", orthanc.web, "--state", tmp_path / "state"),
        *("-m", tiny_checkpoint, "-s", SENTENCE, "--results", "seg,sr"),
    ]
    process = Forked(command, tmp_path)
    until = time.monotonic() + 60
    while orthanc.stored_times() < 13 and time.monotonic() < until:  # the first result has arrived
        time.sleep(0.01)
    time.sleep(kill_after / 3)
    process.kill()
    process.wait()
    assert 12 < orthanc.stored_times() <= 36
    call(*command)
    assert orthanc.stored_times() == 36
    assert len({ds.SOPInstanceUID for ds in orthanc.results()}) == 24
    assert list((tmp_path / "state" / "outbox").iterdir()) == []


def test_a_server_that_goes_away(
    orthanc: Orthanc, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("radzero.pacs.dicomweb._PAUSES", (0.01,))
    orthanc.send(film(1))
    command = ["dicomweb", orthanc.web, "--state", tmp_path / "state", "-m", tiny_checkpoint, "-s", SENTENCE]
    orthanc.process.send_signal(signal.SIGSTOP)
    orthanc.process.send_signal(signal.SIGCONT)
    orthanc.process.kill()
    orthanc.process.wait()
    result = call(*command, code=2)
    assert "does not answer" in result.output
    assert "give the command again" in result.output


def test_receiver(orthanc: Orthanc, tiny_checkpoint: Path, tmp_path: Path):
    """Orthanc sends films to `radzero listen`, which sends its results back by STOW."""
    port = free_port()
    command = [
        *("listen", "--state", tmp_path / "state", "--port", port),
        *("-m", tiny_checkpoint, "-s", SENTENCE, "--store-url", orthanc.web),
    ]
    process = Forked(command, tmp_path)
    log = process.output
    try:
        wait_for(lambda: "listens on" in log.read_text(), log)
        send(port, [film(1), film(2)])
        wait_for(lambda: len(orthanc.results()) == 4, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "2 films with 4 results stored" in log.read_text()
        assert list((tmp_path / "state" / "inbox").iterdir()) == []
    finally:
        process.kill()
        process.wait()


def send(port: int, films: list[bytes], title: str = "SENDER") -> list[int]:
    """By C-STORE; the statuses."""
    datasets = [pydicom.dcmread(io.BytesIO(content)) for content in films]
    entity = AE(ae_title=title)
    for ds in datasets:
        entity.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    try:
        return [association.send_c_store(ds).Status for ds in datasets]
    finally:
        association.release()


def wait_for(condition: object, log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


# -- without a server -------------------------------------------------------------------------------------


class Flaky:
    """A destination that fails when told to, and knows what it has."""

    name = "flaky"

    def __init__(self) -> None:
        self.have: list[str] = []
        self.fail_before: set[int] = set()
        self.fail_after: set[int] = set()
        self.calls = 0

    def holds(self, result: Dataset) -> bool:
        return result.SOPInstanceUID in self.have

    def store(self, result: Dataset) -> None:
        self.calls += 1
        if self.calls in self.fail_before:
            raise UnreachableError("not sent")
        self.have.append(result.SOPInstanceUID)
        if self.calls in self.fail_after:
            raise UnreachableError("sent, and the answer was lost")


class Shelf(Flaky):
    """A server of one film, which its query finds or not."""

    encrypted, films_of_query = True, ("1.2.3.1.1.1",)

    def films(self, *_: Any) -> list[FilmAddress]:
        return [FilmAddress("1", "1", uid) for uid in self.films_of_query]

    def fetch(self, address: FilmAddress) -> bytes:
        return film(1)


def processor(model: RadZero, folder: Path, destination: object, kinds: tuple[str, ...] = ("seg", "sr")) -> Processor:
    task = Task((SENTENCE,), kinds, 0.5)
    return Processor(model, task, destination, Ledger(folder, task.identity(model, destination.name)))  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call_number", [1, 2])
def test_a_result_arrives_once_whatever_fails(tiny_model: RadZero, tmp_path: Path, when: str, call_number: int):
    destination = Flaky()
    getattr(destination, f"fail_{when}").add(call_number)
    work = processor(tiny_model, tmp_path, destination)
    fetched = []

    def fetch() -> bytes:
        fetched.append(1)
        return film(1)

    with pytest.raises(UnreachableError):
        work.process("1.2.3.1.1.1", fetch)
    work.ledger.close()
    again = processor(tiny_model, tmp_path, destination)
    assert again.ledger.films_waiting() == ["1.2.3.1.1.1"]
    again.process("1.2.3.1.1.1", fetch)
    assert sorted(destination.have) == sorted(set(destination.have))
    assert len(destination.have) == 2
    assert len(fetched) == 1
    assert again.ledger.state("1.2.3.1.1.1") == "done"
    again.ledger.close()


def test_films_that_can_have_no_result_are_refused_by_name(tiny_model: RadZero, tmp_path: Path):
    work = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    work.process("1.9", lambda: film(9, Modality="CT"))
    work.process("1.8", lambda: b"rubbish")
    assert set(work.tally.refused) == {"1.9", "1.8"}
    assert work.ledger.counts() == {"refused": 2}
    work.ledger.close()
    again = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))

    def fetch() -> bytes:
        raise AssertionError("a film that was refused is not fetched again")

    again.process("1.8", fetch)
    assert "neither DICOM" in again.tally.refused["1.8"] or "no DICOM file" in again.tally.refused["1.8"]
    again.ledger.close()


def test_a_film_that_the_model_or_the_writer_fails_on_stops_no_other(
    tiny_model: RadZero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr(tiny_model, "predict", lambda *_: (_ for _ in ()).throw(RuntimeError("no such size")))
        work.process("1.7", lambda: film(7))
    with monkeypatch.context() as patch:
        patch.setattr("radzero.results.report._report", lambda _: (_ for _ in ()).throw(AttributeError("StudyID")))
        work.process("1.6", lambda: film(6))
    work.process("1.5", lambda: film(5))
    assert "the model failed on it: no such size" in work.tally.refused["1.7"]
    assert "its header allows no DICOM result (StudyID)" in work.tally.left_out["1.6"]
    assert work.ledger.state("1.6") == "done"  # with what it could have
    assert work.ledger.state("1.5") == "done"
    work.ledger.close()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), KeyError("a defect")]
)
def test_a_film_that_may_do_better_another_time_is_not_refused(
    tiny_model: RadZero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    work = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr(tiny_model, "predict", lambda *_: (_ for _ in ()).throw(error))
        work.attempt("1.7", lambda: work.process("1.7", lambda: film(7)))
    assert "a defect" not in work.tally.failed["1.7"]  # what an unexpected error says may be a film's
    assert ("not enough memory" in work.tally.failed["1.7"]) == (not isinstance(error, KeyError))
    assert work.ledger.state("1.7") is None
    work.process("1.7", lambda: film(7))
    assert work.ledger.state("1.7") == "done"
    work.ledger.close()


def test_a_result_that_is_not_taken_keeps_back_no_other(tiny_model: RadZero, tmp_path: Path):
    class NoSegmentations(FolderDestination):
        def store(self, result: Dataset) -> None:
            if result.Modality == "SEG":
                raise NotTakenError("takes no SEG")
            super().store(result)

    work = processor(tiny_model, tmp_path, NoSegmentations(tmp_path / "out"))
    for _ in range(2):
        work.attempt("1.5", lambda: work.process("1.5", lambda: film(5)))
        assert work.tally.failed == {"1.5": "takes no SEG"}
        assert work.tally.stored == 1
    work.destination = FolderDestination(tmp_path / "out")
    work.process("1.5", lambda: film(5))
    assert (work.tally.stored, work.ledger.state("1.5")) == (2, "done")
    work.ledger.close()


@pytest.mark.parametrize("kind", ["gone", "empty", "cut", "another's"])
@pytest.mark.parametrize("sent", [0, 1])
def test_a_result_that_the_outbox_lost_is_made_again(tiny_model: RadZero, tmp_path: Path, kind: str, sent: int):
    """As when the power failed; what had been stored by then is not stored again."""
    uid = "1.2.3.1.1.1"
    destination = Flaky()
    destination.fail_before.add(1 + sent)
    work = processor(tiny_model, tmp_path, destination)
    with pytest.raises(UnreachableError):
        work.process(uid, lambda: film(1))
    work.ledger.close()
    paths = sorted((tmp_path / "outbox").iterdir())
    for path in paths:
        if kind == "gone":
            path.unlink()
        elif kind == "another's":
            path.write_bytes(film(2))
        else:
            path.write_bytes(path.read_bytes()[: 0 if kind == "empty" else 700])
    again = processor(tiny_model, tmp_path, destination)
    again.attempt(uid, lambda: again.send(uid))  # where there is no film at hand
    assert "is to be made again" in again.tally.failed[uid]
    assert again.ledger.films_waiting() == []
    again.attempt(uid, lambda: again.process(uid, lambda: film(1)))
    assert again.tally.failed == {}
    assert again.ledger.state(uid) == "done"
    assert sorted(destination.have) == sorted(set(destination.have))
    assert len(destination.have) == 2
    again.ledger.close()


def test_what_is_still_not_taken_is_named_again_and_tried_once(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class NoReports(Shelf):
        refuses = True

        def __init__(self) -> None:
            super().__init__()
            self.tries: Counter[str] = Counter()

        def store(self, result: Dataset) -> None:
            self.tries[result.SOPInstanceUID] += 1
            if self.refuses and result.Modality == "SR":
                raise NotTakenError("takes no SR")
            super().store(result)

    shelf = NoReports()
    monkeypatch.setattr("radzero.pacs.dicomweb.open_servers", lambda *_: (shelf, shelf))
    command = ["dicomweb", "http://localhost/x", "--state", tmp_path, "-s", SENTENCE, "-m", tiny_checkpoint]
    for number in (1, 2):
        said = call(*command, code=1).output
        assert said.count("failed takes no SR") == 1
        assert max(shelf.tries.values()) == number
    shelf.refuses = False
    said = call(*command).output
    assert "1 film with 1 result stored" in said
    assert "earlier" not in said


def test_a_film_whose_result_is_lost_goes_on_at_once(tiny_model: RadZero, tmp_path: Path):
    destination = Flaky()
    destination.fail_before.add(1)
    work = processor(tiny_model, tmp_path, destination)
    with pytest.raises(UnreachableError):
        work.process("1.5", lambda: film(5))
    for path in (tmp_path / "outbox").iterdir():
        path.write_bytes(b"")
    work.process("1.5", lambda: film(5))
    assert work.ledger.state("1.5") == "done"
    assert len(destination.have) == 2
    work.ledger.close()


def test_a_lost_result_is_named_until_it_is_made_again(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also by a run whose query does not find its film."""
    shelf = Shelf()
    shelf.fail_before.add(1)
    monkeypatch.setattr("radzero.pacs.dicomweb.open_servers", lambda *_: (shelf, shelf))
    command = ["dicomweb", "http://localhost/x", "--state", tmp_path, "-s", SENTENCE, "-m", tiny_checkpoint]
    call(*command, code=2)
    for path in (tmp_path / "outbox").iterdir():
        path.unlink()
    shelf.films_of_query = ()
    for _ in range(2):
        assert "to be made again" in call(*command, code=1).output
    shelf.films_of_query = ("1.2.3.1.1.1",)
    assert "1 film with 2 results stored" in call(*command).output
    assert list((tmp_path / "outbox").iterdir()) == []


def test_nothing_stays_in_the_outbox_for_good(tiny_model: RadZero, tmp_path: Path):
    one, two = results_of(tiny_model), results_of(tiny_model)
    two[0].SOPInstanceUID += ".1"
    ledger = Ledger(tmp_path, "task")
    ledger.ready("1.5", [*one, *two])
    ledger.forget("1.5")
    ledger.ready("1.5", one)  # as another version may make them
    assert len(list(ledger.outbox.iterdir())) == len(ledger.waiting("1.5")) == 1
    ledger.forget("1.5")
    ledger.refuse("1.5", "no film")
    assert list(ledger.outbox.iterdir()) == ledger.waiting("1.5") == []
    ledger.close()


def test_a_state_folder_of_an_earlier_day(tiny_model: RadZero, tmp_path: Path):
    """Which knew no hashes: what waits in it is made again."""
    destination = Flaky()
    destination.fail_before.add(1)
    work = processor(tiny_model, tmp_path, destination)
    with pytest.raises(UnreachableError):
        work.process("1.5", lambda: film(5))
    work.ledger.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database:
        database.execute("ALTER TABLE results DROP COLUMN sha256")
        database.commit()
    again = processor(tiny_model, tmp_path, destination)
    again.process("1.5", lambda: film(5))
    assert again.ledger.state("1.5") == "done"
    assert len(destination.have) == 2
    again.ledger.close()


def test_the_order_of_kinds_makes_no_other_task(tiny_model: RadZero):
    tasks = [Task((SENTENCE,), kinds, 0.5).identity(tiny_model, "here") for kinds in (("sr", "seg"), ("seg", "sr"))]
    assert tasks[0] == tasks[1]


def test_what_is_to_be_known_of_a_film_is_said(tiny_model: RadZero, tmp_path: Path):
    work = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    work.process("1.5", lambda: film(5, ViewPosition="LL"))
    assert "lateral" in work.problems("1.5")["warning"]
    assert SENTENCE not in work.problems("1.5")["warning"]
    work.ledger.close()


def test_own_captures_are_no_films(tiny_model: RadZero, tmp_path: Path):
    destination = FolderDestination(tmp_path / "out")
    work = processor(tiny_model, tmp_path, destination, ("sc",))
    work.process("1.2.3.1.1.1", lambda: film(1))
    (capture,) = (tmp_path / "out").rglob("*.dcm")
    work.process("again", capture.read_bytes)
    assert "is itself a result of RadZero" in work.tally.refused["again"]
    phantom = io.BytesIO()
    to_dataset(make_film(1, 1, size=96)).save_as(phantom, enforce_file_format=True)
    work.process("phantom", phantom.getvalue)  # by the same maker, and a film
    assert work.ledger.state("phantom") == "done"
    work.ledger.close()


def test_another_question_is_another_task(tiny_model: RadZero, tmp_path: Path):
    destination = FolderDestination(tmp_path / "out")
    first = Task(("a",), ("sr",), 0.5)
    for other in (Task(("b",), ("sr",), 0.5), Task(("a",), ("seg",), 0.5), Task(("a",), ("sr",), 0.6)):
        assert other.identity(tiny_model, "x") != first.identity(tiny_model, "x")
    assert first.identity(tiny_model, "y") != first.identity(tiny_model, "x")
    del destination


def test_one_run_at_a_time(tmp_path: Path):
    import sqlite3

    first = Ledger(tmp_path, "t")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        Ledger(tmp_path, "t")
    first.close()
    Ledger(tmp_path, "t").close()


def test_a_film_is_safe_before_it_is_acknowledged(tiny_checkpoint: Path, tmp_path: Path):
    """SIGKILL right after the acknowledgement; the next run finishes what the inbox holds."""
    port = free_port()
    command = [
        *("listen", "--state", tmp_path / "state", "--port", port),
        *("-m", tiny_checkpoint, "-s", SENTENCE, "-o", tmp_path / "out"),
    ]
    first = Forked(command, tmp_path)
    wait_for(lambda: "listens on" in first.output.read_text(), first.output)
    assert send(port, [film(index) for index in range(6)]) == [0] * 6
    first.kill()
    first.wait()
    process = Forked(command, tmp_path)
    log = process.output
    try:
        wait_for(lambda: len(list((tmp_path / "out").rglob("*.dcm"))) == 12, log)
        wait_for(lambda: not list((tmp_path / "state" / "inbox").iterdir()), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_who_may_send(tiny_checkpoint: Path, tmp_path: Path):
    assert (
        "name who may send"
        in call("listen", "--state", tmp_path / "s", "--host", "0.0.0.0", "-s", "x", "-o", tmp_path, code=2).output
    )
    assert "by one of --store-url" in call("listen", "--state", tmp_path / "s", "-s", "x", code=2).output
    for text in ("host:104", "PACS@host", "PACS@host:0", "PACS@host:65536", "PACS@host:-1", "PACS@:104"):
        with pytest.raises(ValueError, match="AET@HOST:PORT"):
            Peer.parse(text)
    for title in ("PÄCS", "A\\B", "   ", "", "X" * 17, "A\n"):
        with pytest.raises(ValueError, match="the title has"):
            Peer.parse(f"{title}@host:104")
    assert Peer.parse("PACS@[::1]:104") == Peer("PACS", "::1", 104)


def test_urls_without_passwords_and_queries_with_values(tmp_path: Path):
    base = ["dicomweb", "--state", tmp_path / "s", "-s", "x"]
    shown = call(*base, "http://user:secret@localhost/x", code=2).output
    assert "without a password" in shown
    assert "secret" not in shown
    assert "KEY=VALUE" in call(*base, "http://localhost:1/x", "--query", "StudyDate", code=2).output
    # a server ignores a key that it does not know, and gives everything
    assert "no DICOM attribute" in call(*base, "http://localhost:1/x", "--query", "StudyDat=2026", code=2).output


# -- servers that behave oddly ------------------------------------------------------------------------------


def results_of(model: RadZero) -> list[Dataset]:
    content = film(3)
    return make_results(model.predict(content, SENTENCE)[0], read_header(content), ["sr"])


def listening(model: RadZero, folder: Path, destination: object, **options: Any) -> tuple[Listener, threading.Thread]:
    """A receiver at work in a thread of this process; its ledger is opened there."""
    ready: list[Listener] = []

    def run() -> None:
        work = processor(model, folder, destination)
        ready.append(Listener(work, folder / "inbox", title="A", host="127.0.0.1", port=0, **options))
        ready[0].run()
        work.ledger.close()

    thread = threading.Thread(target=run)
    thread.start()
    until = time.monotonic() + 30
    while not ready:
        assert time.monotonic() < until
        time.sleep(0.02)
    return ready[0], thread


def test_a_receiver_stops_while_somebody_is_connected(tiny_model: RadZero, tmp_path: Path):
    listener, thread = listening(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(DigitalXRayImageStorageForPresentation)
    association = entity.associate("127.0.0.1", listener.port)
    assert association.is_established
    listener.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert not association.is_established or association.is_aborted


def test_a_receiver_outlasts_a_folder_that_is_away(tiny_model: RadZero, tmp_path: Path):
    place = tmp_path / "share"
    place.write_text("not mounted")
    said: list[tuple[str, str | None]] = []
    listener, thread = listening(
        tiny_model,
        tmp_path,
        FolderDestination(place / "out"),
        on_film=lambda *what: said.append(what),
        retry_s=0.2,
    )
    try:
        assert send(listener.port, [film(5)]) == [0]
        wait_for(lambda: len(said) >= 2, place)
        assert "cannot be written" in str(said[0][1])
        assert "tried again in 0.2 seconds" in str(said[0][1])
        assert "tried again in 0.4 seconds" in str(said[1][1])
        place.unlink()
        wait_for(lambda: said[-1] == ("1.2.3.5.1.1", None), tmp_path / "nothing")
        assert len(list((place / "out").rglob("*.dcm"))) == 2
    finally:
        listener.stop()
        thread.join(20)


def test_a_film_that_is_sent_twice(tiny_model: RadZero, tmp_path: Path):
    work = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    said: list[tuple[str, str | None]] = []
    listener = Listener(
        work, tmp_path / "inbox", title="A", host="127.0.0.1", port=0, on_film=lambda *what: said.append(what)
    )
    path = tmp_path / "inbox" / "1.2.3.5.1.1.dcm"
    path.write_bytes(film(5))
    for _ in range(2):
        listener._films.put(path)
    listener._films.put(None)
    listener.run()
    assert said == [("1.2.3.5.1.1", None)]
    assert not path.exists()
    listener.stop()
    listener.stop()  # as a second signal does
    work.ledger.close()


def test_another_film_under_the_same_uid_is_asked_too(tiny_model: RadZero, tmp_path: Path):
    """Two acknowledged files of one UID: both are asked, in their order; the same pixels, or patient, once."""
    out = tmp_path / "out"
    work = processor(tiny_model, tmp_path, FolderDestination(out))
    said: list[str] = []
    listener = Listener(
        work, tmp_path / "inbox", title="A", host="127.0.0.1", port=0, on_film=lambda name, problem: said.append(name)
    )
    first = pydicom.dcmread(io.BytesIO(film(5)))
    inverted, renamed, packed = deepcopy(first), deepcopy(first), deepcopy(first)
    inverted.PhotometricInterpretation = "MONOCHROME1"
    renamed.PatientName = "Corrected^Name"
    packed.compress(RLELossless, generate_instance_uid=False)
    entity = AE("B")
    entity.add_requested_context(first.SOPClassUID, ExplicitVRLittleEndian)
    entity.add_requested_context(first.SOPClassUID, RLELossless)
    association = entity.associate("127.0.0.1", listener.port)
    try:
        sent = [first, inverted, first, renamed, packed, inverted]
        assert [association.send_c_store(each).Status for each in sent] == [0] * 6
    finally:
        association.release()
    listener._films.put(None)
    listener.run()
    listener.stop()
    uid = "1.2.3.5.1.1"
    assert said[0] == uid
    assert len(said) == len(set(said)) == 4
    assert all(name.startswith(f"{uid}-") for name in said[1:])
    results = [pydicom.dcmread(path) for path in out.rglob("*.dcm")]
    assert len(results) == work.tally.stored == 3 * len(work.task.kinds)
    assert len({result.SOPInstanceUID for result in results}) == len(results)
    reports = [result for result in results if result.Modality == "SR"]
    assert [str(report.PatientName) for report in reports].count("Corrected^Name") == 1
    certainties = {item.MeasuredValueSequence[0].NumericValue for report in reports for item in numbers(report)}
    assert len(certainties) >= 2, "the inverted film has an answer of its own"
    assert "another file came under this UID before" in work.tally.warned[said[1]]
    assert uid not in work.tally.warned or "another file" not in work.tally.warned[uid]
    assert list((tmp_path / "inbox").iterdir()) == []
    work.ledger.close()


def numbers(item: Dataset) -> list[Dataset]:
    """Numeric content items, however deep."""
    own = [item] if item.get("ValueType") == "NUM" else []
    return own + [found for each in item.get("ContentSequence", ()) for found in numbers(each)]


class OddClient:
    """In place of dicomweb-client: answers of a server, given as functions."""

    def __init__(self, **answers: Any) -> None:
        self.__dict__.update(answers)


def odd_server(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> DicomWeb:
    monkeypatch.setattr("radzero.pacs.dicomweb._PAUSES", (0.0, 0.0))
    server = DicomWeb("http://localhost:1/dicom-web")
    server._client = OddClient(**answers)
    return server


def test_a_store_whose_answer_was_lost_is_looked_for_before_it_is_sent_again(
    tiny_model: RadZero, monkeypatch: pytest.MonkeyPatch
):
    (result,) = results_of(tiny_model)
    arrived: list[str] = []

    def store(results: list[Any], study: str) -> Any:
        arrived.extend(str(r.SOPInstanceUID) for r in results)
        raise requests.ConnectionError("the answer is lost")

    def search(study: str, search_filters: dict[str, str]) -> Any:
        return [{"00080018": {"Value": [uid]}} for uid in arrived if uid == search_filters["SOPInstanceUID"]]

    odd_server(monkeypatch, store_instances=store, search_for_instances=search).store(result)
    assert arrived == [result.SOPInstanceUID]


@contextlib.contextmanager
def recording_server() -> Iterator[tuple[str, list[str | None]]]:
    """A DICOMweb server that finds nothing; its URL, and the Authorization of every request."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("netrc", [False, True])
def test_each_server_gets_its_own_credentials_and_never_the_others(
    tiny_model: RadZero, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, netrc: bool
):
    (result,) = results_of(tiny_model)
    if netrc:  # which requests would prefer
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("RADZERO_DICOMWEB_TOKEN", "of-the-films\n")
    with recording_server() as (films_url, at_films), recording_server() as (results_url, at_results):
        films, results = open_servers(films_url, results_url)
        assert list(films.films(("CR",), {})) == []
        assert not results.holds(result)
        assert at_films == ["Bearer of-the-films"]
        assert at_results == [None]

        monkeypatch.setenv("RADZERO_DICOMWEB_STORE_USER", "me")
        monkeypatch.setenv("RADZERO_DICOMWEB_STORE_PASSWORD", "secret")
        _, results = open_servers(films_url, results_url)
        results.holds(result)
        assert at_results[-1] == "Basic bWU6c2VjcmV0"
        assert "secret" not in repr(results.credentials)
        assert "of-the" not in repr(films.credentials)

        _, beside = open_servers(films_url, films_url.replace("dicom-web", "results"))
        beside.holds(result)
        assert at_films[-1] == "Bearer of-the-films"


@contextlib.contextmanager
def answering(**methods: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[DicomWeb]:
    """A server of these methods (``GET``, ``POST``), and our side of it."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    for method, answer in methods.items():
        setattr(Handler, f"do_{method}", answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield DicomWeb(f"http://127.0.0.1:{server.server_address[1]}/dicom-web")
    finally:
        server.shutdown()
        server.server_close()


def reply(request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes = b"", **headers: str) -> None:
    request.rfile.read(int(request.headers.get("content-length") or 0))
    request.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


FAILED = json.dumps({"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "body", "headers"),
    [
        (200, "text/html", b"<p>Log in</p>", {}),
        (301, "text/html", b"", {"Location": "/dicom-web/studies"}),
        (202, "application/dicom+json; charset=utf-8", FAILED, {}),
        (202, "application/dicom+json", FAILED, {}),
        (202, "application/dicom+json", b"", {}),
    ],
)
def test_a_result_is_stored_when_the_server_says_so_or_has_it(
    tiny_model: RadZero, status: int, kind: str, body: bytes, headers: dict[str, str]
):
    (result,) = results_of(tiny_model)
    has_it = [False]

    def find(request: BaseHTTPRequestHandler) -> None:
        found = [{"00080018": {"vr": "UI", "Value": [str(result.SOPInstanceUID)]}}] if has_it[0] else []
        reply(request, 200, "application/dicom+json", json.dumps(found).encode())

    with answering(GET=find, POST=lambda request: reply(request, status, kind, body, **headers)) as server:
        with pytest.raises(NotTakenError, match=r"did not s|cannot be read"):
            server.store(result)
        has_it[0] = True
        server.store(result)


def multipart(part: bytes, *, end: bool = True) -> bytes:
    head = b"--cut\r\nContent-Type: application/dicom\r\n\r\n"
    return head + (part + b"\r\n--cut--\r\n" if end else part[:-20_000])


def test_a_film_that_was_cut_on_its_way_is_fetched_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("radzero.pacs.dicomweb._PAUSES", (0.0, 0.0))
    content = marked(1)
    tries: list[int] = []

    def give(request: BaseHTTPRequestHandler) -> None:
        tries.append(1)
        request.send_response(200)
        request.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=cut')
        request.end_headers()  # without a length: the end of the connection is the end of the answer
        request.wfile.write(multipart(content, end=len(tries) > 1))

    with answering(GET=give) as server:
        fetched = server.fetch(FilmAddress("1.2", "1.3", "1.4"))
    assert len(tries) == 2
    assert pydicom.dcmread(io.BytesIO(fetched)) == pydicom.dcmread(io.BytesIO(content))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ('multipart/related; type="application/dicom"; boundary=cut', multipart(b"sorry, nearline storage")),
        ('multipart/related; type="application/dicom"; boundary=cut', multipart(b"")),
        ("application/json", b"{}"),
        ('multipart/related; type="application/dicom"; boundary=cut', b""),
    ],
)
def test_an_answer_that_is_no_film_is_said_of_this_film_alone(kind: str, body: bytes):
    with (
        answering(GET=lambda request: reply(request, 200, kind, body)) as server,
        pytest.raises(NotTakenError, match=r"1\.4"),
    ):
        server.fetch(FilmAddress("1.2", "1.3", "1.4"))


def test_a_series_that_cannot_be_looked_into_stops_no_other(monkeypatch: pytest.MonkeyPatch):
    series = [{"0020000E": {"Value": ["1.3.1"]}}, {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": ["1.3.2"]}}]

    def inside(study: str, number: str, limit: int, offset: int) -> Any:
        if not study:
            raise ValueError("Study UID is required")
        return [{"00080018": {"Value": [number + ".1"]}}][offset:]

    server = odd_server(monkeypatch, search_for_series=lambda offset, **_: series[offset:], search_for_instances=inside)
    said: list[tuple[str, str]] = []
    assert [film.instance for film in server.films(("DX",), {}, lambda *what: said.append(what))] == ["1.3.2.1"]
    assert said[0][0] == "1.3.1"
    assert "cannot be read" in said[0][1]


def test_short_pages_do_not_end_a_search(monkeypatch: pytest.MonkeyPatch):
    series = [{"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [f"1.3.{k}"]}} for k in range(120)]

    def find(search_filters: Any, limit: int, offset: int) -> Any:
        return series[offset : offset + 50]

    def inside(study: str, number: str, limit: int, offset: int) -> Any:
        return [{"00080018": {"Value": [number + ".1"]}}][offset:]

    server = odd_server(monkeypatch, search_for_series=find, search_for_instances=inside)
    assert len(list(server.films(("DX",), {}))) == 120


@pytest.mark.parametrize("status", [404, 409, 500])
def test_one_film_that_the_server_does_not_give_stops_no_other(
    tiny_model: RadZero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
):
    def gone(*_: Any) -> Any:
        answer = requests.Response()
        answer.status_code = status
        raise requests.HTTPError(response=answer)

    server = odd_server(monkeypatch, retrieve_instance=gone)
    work = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "out"))
    address = FilmAddress("1", "1", "1.7")
    work.attempt("1.7", lambda: work.process("1.7", lambda: server.fetch(address)))
    work.attempt("1.5", lambda: work.process("1.5", lambda: film(5)))
    assert f"answered {status}" in work.tally.failed["1.7"]
    assert (work.ledger.state("1.7"), work.ledger.state("1.5")) == (None, "done")
    work.ledger.close()


def test_two_tasks_in_one_folder_do_not_take_each_other_s_results(tiny_model: RadZero, tmp_path: Path):
    class Away(FolderDestination):
        def store(self, result: Any) -> None:
            raise UnreachableError("away")

    first = processor(tiny_model, tmp_path, Away(tmp_path / "a"))
    with pytest.raises(UnreachableError):
        first.process("1.5", lambda: film(5))
    first.ledger.close()
    second = processor(tiny_model, tmp_path, FolderDestination(tmp_path / "b"))
    second.process("1.5", lambda: film(5))
    second.ledger.close()
    again = processor(tiny_model, tmp_path, Away(tmp_path / "a"))
    again.destination = FolderDestination(tmp_path / "a")
    again.process("1.5", lambda: film(5))
    again.ledger.close()
    assert len(list((tmp_path / "a").rglob("*.dcm"))) == len(list((tmp_path / "b").rglob("*.dcm"))) > 0


def test_a_server_that_is_away_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    def away(*_: Any, **__: Any) -> Any:
        answer = requests.Response()
        answer.status_code = 503
        raise requests.HTTPError(response=answer)

    with pytest.raises(UnreachableError) as found:
        odd_server(monkeypatch, retrieve_instance=away).fetch(FilmAddress("1", "1", "1.7"))
    assert not isinstance(found.value, NotTakenError)


@pytest.mark.parametrize(
    ("status", "refused"),
    [(0x0000, ""), (0x0111, ""), (0xB000, ""), (0xB006, ""), (0xA700, "A700"), (0xC000, "C000"), (0x0122, "0122")],
    ids=["success", "duplicate", "coerced", "dropped", "full", "not understood", "not supported"],
)
def test_a_peer_has_a_result_when_its_status_says_so(tiny_model: RadZero, status: int, refused: str):
    """PS3.4 B.2.3: warnings (B000, B006, B007) and a duplicate (0111) are stored; A7xx, Cxxx and 0122 are not."""
    (result,) = results_of(tiny_model)
    entity = AE(ae_title="PEER")
    entity.add_supported_context(result.SOPClassUID, result.file_meta.TransferSyntaxUID)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: status)])
    destination = DimseDestination(Peer("PEER", "127.0.0.1", server.server_address[1]), "RADZERO")
    try:
        if refused:
            with pytest.raises(NotTakenError, match=f"answered status {refused} to {result.SOPInstanceUID}"):
                destination.store(result)
        else:
            destination.store(result)
    finally:
        server.shutdown()


def test_a_peer_of_the_default_transfer_syntax_alone(tiny_model: RadZero):
    (result,) = results_of(tiny_model)
    arrived: list[Dataset] = []

    def keep(event: Any) -> int:
        arrived.append(event.dataset)
        return 0

    entity = AE(ae_title="PEER")
    entity.add_supported_context(result.SOPClassUID, ImplicitVRLittleEndian)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    destination = DimseDestination(Peer("PEER", "127.0.0.1", server.server_address[1]), "RADZERO")
    try:
        destination.store(result)
        assert arrived[0].SOPInstanceUID == result.SOPInstanceUID
        assert SENTENCE in arrived[0].to_json()
        result.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        with pytest.raises(NotTakenError, match="takes no Segmentation Storage"):
            destination.store(result)
    finally:
        server.shutdown()
