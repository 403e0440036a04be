"""DICOM objects of readings: valid by dciodvfy, of the right film, on the right pixels."""

import io
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

import radzero
from command_line import call
from dicom_factory import chest_like, dataset, dicom_bytes, lut_item, to_bytes
from radzero.images import RadiographError
from radzero.phantom.dicom import to_dataset
from radzero.phantom.film import make_film
from radzero.prediction.model import RadZero
from radzero.prediction.reading import Reading
from radzero.results import RESULT_KINDS, ResultError, make_possible_results, make_results, read_header, result_kinds
from radzero.results.regions import Region

pytestmark = pytest.mark.slow

SENTENCES = ("There is right pleural effusion", "There is no nodule")
MADE = datetime(2026, 3, 4, 5, 6, 7)
DX = {
    "SOPClassUID": DigitalXRayImageStorageForPresentation,
    "Modality": "DX",
    "PatientOrientation": ["L", "F"],
    "ImagerPixelSpacing": [0.2, 0.2],
    "ImageLaterality": "U",
}
FILMS = {
    "CR": lambda: dicom_bytes(chest_like(120, 96), bits=12),
    "CR of a square pixel, patient described": lambda: dicom_bytes(
        chest_like(120, 96),
        bits=12,
        PatientID="7",
        PatientBirthDate="19700203",
        PatientSex="F",
        StudyDate="20260101",
        StudyTime="101112",
        AccessionNumber="A1",
        PixelSpacing=[0.3, 0.3],
        Laterality="",
    ),
    "DX": lambda: dicom_bytes(chest_like(120, 96), bits=12, WindowCenter=2000, WindowWidth=3000, **DX),
    "MONOCHROME1": lambda: dicom_bytes(
        4095 - chest_like(120, 96), bits=12, PhotometricInterpretation="MONOCHROME1", **DX
    ),
    "JPEG": lambda: dicom_bytes(
        (chest_like(120, 96) >> 4).astype(np.uint8), JPEGBaseline8Bit, LossyImageCompression="01", **DX
    ),
    "JPEG 2000": lambda: dicom_bytes(chest_like(120, 96), JPEG2000Lossless, bits=12, **DX),
    "RLE": lambda: dicom_bytes(chest_like(120, 96), RLELossless, bits=16, **DX),
    "a VOI LUT": lambda: dicom_bytes(
        chest_like(120, 96), bits=12, VOILUTSequence=[lut_item(list(range(4096)), 0, 12)], **DX
    ),
    "rescaled": lambda: dicom_bytes(
        chest_like(120, 96), bits=12, RescaleSlope=2, RescaleIntercept=-100, RescaleType="US", **DX
    ),
    "phantom": lambda: to_bytes(to_dataset(make_film(5, 1, size=96))),
}


@pytest.fixture(scope="module", params=FILMS)
def film(request: pytest.FixtureRequest) -> bytes:
    return FILMS[request.param]()


def read(model: RadZero, content: bytes, sentences: tuple[str, ...] = SENTENCES) -> Reading:
    return model.predict(content, sentences)[0]


def problems(result: Dataset, folder: Path) -> list[str]:
    """What dciodvfy calls an error."""
    path = folder / f"{result.SOPInstanceUID}.dcm"
    result.save_as(path, enforce_file_format=True)
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert any(not line.startswith(("Warning", "Error")) for line in said), said  # it names the IOD that it checked
    return [line for line in said if line.startswith(("Error", "Abort"))]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_every_kind_of_every_film_is_valid(tiny_model: RadZero, film: bytes, tmp_path: Path):
    results = make_results(read(tiny_model, film), read_header(film), made=MADE)
    assert [result.Modality for result in results] == ["SEG", "SEG", "SR", "PR", "PR", "OT", "OT"]
    for result in results:
        assert problems(result, tmp_path) == []


def test_results_are_of_their_film(tiny_model: RadZero):
    content = FILMS["CR of a square pixel, patient described"]()
    source = pydicom.dcmread(io.BytesIO(content))
    results = make_results(read(tiny_model, content), read_header(content), made=MADE)
    for result in results:
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
            assert str(result[keyword].value) == str(source[keyword].value)
        assert result.SeriesInstanceUID != source.SeriesInstanceUID
        assert result.Manufacturer == "RadZero"
        assert result.SoftwareVersions == radzero.__version__
        assert result.SeriesDescription.endswith("(not for diagnosis)")  # the tiny model has a notice
        assert str(source.SOPInstanceUID) in str(result)
    assert len({result.SOPInstanceUID for result in results}) == 7
    assert len({result.SeriesInstanceUID for result in results}) == 5


def test_all_that_is_known_of_patient_and_study_is_repeated(tiny_model: RadZero, tmp_path: Path):
    """An archive that takes from several hospitals files by the issuer of a number, too."""
    known = {
        **{
            "PatientID": "7",
            "PatientName": "A^B",
            "IssuerOfPatientID": "HERE",
            "PatientAge": "056Y",
            "PatientSize": 1.7,
        },
        **{
            "PatientWeight": 70.5,
            "PatientComments": "seen\r\ntwice",
            "EthnicGroup": "X",
            "PatientIdentityRemoved": "YES",
        },
        **{"DeidentificationMethod": "by hand", "StudyID": "S", "StudyDate": "20260101", "StudyTime": "101112"},
        **{"StudyDescription": "Thorax", "AccessionNumber": "A1", "ReferringPhysicianName": "C^D"},
        "TimezoneOffsetFromUTC": "+0530",
    }
    content = dicom_bytes(chest_like(120, 96), bits=12, **{**DX, **known})
    made = make_possible_results(read(tiny_model, content), read_header(content), list(RESULT_KINDS))
    assert made.left_out == {}
    there = datetime.now(timezone(timedelta(hours=5, minutes=30))).replace(tzinfo=None)
    for result in made.results:
        assert {keyword: str(result[keyword].value) for keyword in known} == {k: str(v) for k, v in known.items()}
        begun = datetime.strptime(result.SeriesDate + result.SeriesTime, "%Y%m%d%H%M%S")
        assert timedelta(0) <= there - begun < timedelta(minutes=5)
        assert shutil.which("dciodvfy") is None or problems(result, tmp_path) == []


def test_highdicom_reads_its_segmentations(tiny_model: RadZero, tmp_path: Path):
    """Also of a film with Pixel Spacing, of which it once made measures that it did not read."""
    content = dicom_bytes(chest_like(120, 96), bits=12, PixelSpacing=[0.3, 0.3], **DX)
    for kind in ("seg", "seg-map"):
        (made,) = make_results(read(tiny_model, content), read_header(content), [kind])
        made.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
        assert hd.seg.segread(tmp_path / "seg.dcm").number_of_segments == 2


def test_the_same_reading_gives_the_same_bytes_and_another_gives_other_uids(tiny_model: RadZero):
    content = FILMS["DX"]()
    header = read_header(content)

    def made(reading: Reading, **options: object) -> list[Dataset]:
        return make_results(reading, header, made=MADE, **options)  # type: ignore[arg-type]

    def uids(results: list[Dataset]) -> set[str]:
        return {result.SOPInstanceUID for result in results}

    first, again = (made(read(tiny_model, content)) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert written(one) == written(two)
    assert not uids(first) & uids(made(read(tiny_model, content), threshold=0.6))
    assert not uids(first) & uids(made(read(tiny_model, content, SENTENCES[:1])))
    other = dicom_bytes(chest_like(120, 96), bits=12, SOPInstanceUID="1.2.3.9", **DX)
    assert not uids(first) & uids(make_results(read(tiny_model, other), read_header(other), made=MADE))


# -- where things lie -----------------------------------------------------------------------------------


def marked(model: RadZero) -> tuple[Reading, Dataset]:
    """A film with a marker in its upper left part, and a map that is high there alone."""
    pixels = chest_like(128, 96)
    pixels[16:32, 8:24] = 4095
    content = dicom_bytes(pixels, bits=12, **DX)
    reading = read(model, content)
    values = np.full_like(reading.similarity, -4.0)
    rows, columns = values.shape[1:]
    values[:, rows // 8 : rows // 4, columns // 8 : columns // 4] = 4.0
    reading = replace(reading, grid=replace(reading.grid, values=values))
    return reading, read_header(content)


def test_the_segmentation_lies_on_the_maps_pixels(tiny_model: RadZero):
    reading, header = marked(tiny_model)
    binary, fractional = make_results(reading, header, ["seg", "seg-map"])
    expected = np.stack([reading.map(k) for k in range(2)])
    assert np.array_equal(binary.pixel_array.astype(bool), expected >= 0.5)
    assert np.abs(fractional.pixel_array / 255 - expected).max() <= 0.5 / 255 + 1e-6
    assert binary.pixel_array.shape == (2, 128, 96)
    # the region is where the film's own marker is, and nowhere near its mirror images
    inside = binary.pixel_array[0].astype(bool)
    assert inside[20:28, 14:22].all()
    assert not inside[64:].any()
    assert not inside[:, 48:].any()
    for result in (binary, fractional):
        parsed = hd.seg.Segmentation.from_dataset(result)
        assert [segment.SegmentLabel for segment in parsed.SegmentSequence] == list(SENTENCES)
        assert all(segment.SegmentAlgorithmType == "AUTOMATIC" for segment in parsed.SegmentSequence)
        frames = result.PerFrameFunctionalGroupsSequence
        assert [frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in frames] == [1, 2]
        refers = result.ReferencedSeriesSequence[0]
        assert refers.SeriesInstanceUID == header.SeriesInstanceUID
        assert refers.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert result.PatientOrientation == ["L", "F"]


def test_a_map_below_the_threshold_has_an_empty_frame(tiny_model: RadZero):
    reading, header = marked(tiny_model)
    (binary,) = make_results(reading, header, ["seg"], threshold=1.0)
    assert binary.pixel_array.shape == (2, 128, 96)
    assert not binary.pixel_array.any()


def test_the_report_says_sentence_probability_and_region(tiny_model: RadZero):
    reading, header = marked(tiny_model)
    (result,) = make_results(reading, header, ["sr"])
    report = hd.sr.srread(io.BytesIO(written(result)))
    assert result.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(SENTENCES)
    for k, group in enumerate(groups):
        (measurement,) = group.get_measurements()
        assert measurement.name.value == "111012"  # certainty of finding
        assert measurement.value == pytest.approx(100 * reading.probabilities[k], abs=0.005)
        assert measurement.unit.value == "%"
        points = group.roi.value
        assert points.min(axis=0) == pytest.approx([12, 16], abs=7)
        assert points.max(axis=0) == pytest.approx([24, 32], abs=7)
        assert np.array_equal(points[0], points[-1])
        assert group.finding_type.scheme_designator == "99RADZERO"
        assert group.finding_type.meaning == SENTENCES[k]
    assert report.VerificationFlag == "UNVERIFIED"


def test_a_sentence_without_region_keeps_its_probability(tiny_model: RadZero):
    reading, header = marked(tiny_model)
    (result,) = make_results(reading, header, ["sr"], threshold=1.0)
    report = hd.sr.srread(io.BytesIO(written(result)))
    assert report.content.get_planar_roi_measurement_groups() == []
    groups = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(SENTENCES)
    assert groups[0].get_measurements()[0].value == pytest.approx(100 * reading.probabilities[0], abs=0.005)


def test_the_presentation_state_outlines_on_the_film(tiny_model: RadZero):
    reading, header = marked(tiny_model)
    first, second = make_results(reading, header, ["gsps"])
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    annotation = first.GraphicAnnotationSequence[0]
    line, point = annotation.GraphicObjectSequence
    assert (line.GraphicType, point.GraphicType) == ("POLYLINE", "POINT")
    assert line.GraphicAnnotationUnits == "PIXEL"
    x, y = np.array(line.GraphicData).reshape(-1, 2).T
    assert (x.min(), y.min()) == pytest.approx((12, 16), abs=7)
    assert (x.max(), y.max()) == pytest.approx((24, 32), abs=7)
    assert [float(v) for v in point.GraphicData] == [v + 0.5 for v in reading.peaks[0]]
    text = annotation.TextObjectSequence[0].UnformattedTextValue
    assert text.startswith(f"{SENTENCES[0]}: {100 * reading.probabilities[0]:.2f}".rstrip("0")[:40])
    assert reading.notice in text
    assert first.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner == [96, 128]


def test_the_presentation_state_shows_the_film_as_the_model_saw_it(tiny_model: RadZero):
    for name, shape in (("DX", "IDENTITY"), ("MONOCHROME1", "INVERSE"), ("CR", "IDENTITY")):
        content = FILMS[name]()
        reading = read(tiny_model, content)
        state = make_results(reading, read_header(content), ["gsps"])[0]
        assert state.PresentationLUTShape == shape
        voi = state.SoftcopyVOILUTSequence[0]
        window = reading.dicom.window
        assert (voi.WindowCenter, voi.WindowWidth) == pytest.approx((window.centre, window.width))
        assert voi.get("VOILUTFunction", "LINEAR") == window.function
    content = FILMS["a VOI LUT"]()
    state = make_results(read(tiny_model, content), read_header(content), ["gsps"])[0]
    assert state.SoftcopyVOILUTSequence[0].VOILUTSequence[0].LUTDescriptor[0] == 4096


def voi_lut(kind: str) -> tuple[bytes, list[Dataset]]:
    """A film's transfer syntax, and VOI LUTs of a steep curve over 12 bits, written in one of the ways that occur."""
    curve = np.rint(255 * (np.arange(4096) / 4095) ** 0.4)
    item, syntax = lut_item([int(v) for v in curve], 0, 8), ExplicitVRLittleEndian
    if kind == "a list of US":
        item["LUTData"] = DataElement("LUTData", "US", [int(v) for v in curve])
    elif kind == "packed bytes":
        item["LUTData"] = DataElement("LUTData", "OW", curve.astype(np.uint8).tobytes())
    elif kind == "4 bits":
        item = lut_item([int(v) for v in curve // 17], 0, 4)
    elif kind == "16 bits":
        item = lut_item([int(v) for v in curve * 257], 0, 16)
    elif kind == "big endian":
        syntax = ExplicitVRBigEndian
        item["LUTData"] = DataElement("LUTData", "OW", curve.astype(">u2").tobytes())
    constant = lut_item([7] * 4096, 0, 8)
    return syntax, [constant, item] if kind == "after one that shows nothing" else [item]


@pytest.mark.parametrize(
    "kind",
    ["plain", "a list of US", "packed bytes", "4 bits", "16 bits", "big endian", "after one that shows nothing"],
)
def test_the_presentation_state_has_the_lut_that_the_reader_used(tiny_model: RadZero, kind: str, tmp_path: Path):
    stored = chest_like(120, 96)
    syntax, luts = voi_lut(kind)
    content = dicom_bytes(stored, syntax, bits=12, VOILUTSequence=luts, **DX)
    reading = read(tiny_model, content)
    state = make_results(reading, read_header(content), ["gsps"])[0]
    (lut,) = state.SoftcopyVOILUTSequence[0].VOILUTSequence
    count, first, bits = lut.LUTDescriptor
    assert bits == 16
    entries = np.frombuffer(lut.LUTData, "<u2")
    assert len(entries) == (count or 65536)
    shown = entries[np.clip(stored.astype(int) - first, 0, len(entries) - 1)] / 65535
    assert np.abs(shown * 255 - reading.film).max() <= 1
    if shutil.which("dciodvfy"):
        assert problems(state, tmp_path) == []


def shown(state: Dataset, stored: np.ndarray) -> np.ndarray:
    """The film as a presentation state has it, 0..255: modality, VOI and presentation LUT, by the book."""
    values = stored.astype(float)
    if "RescaleSlope" in state:
        values = values * float(state.RescaleSlope) + float(state.RescaleIntercept)
    item = state.SoftcopyVOILUTSequence[0]
    if luts := item.get("VOILUTSequence"):
        entries = np.frombuffer(luts[0].LUTData, "<u2") / 65535 * 255
        return entries[np.clip(values.astype(int) - luts[0].LUTDescriptor[1], 0, len(entries) - 1)]
    centre, width = float(item.WindowCenter), float(item.WindowWidth)
    if item.get("VOILUTFunction", "LINEAR") == "LINEAR_EXACT":
        grey = (values - centre) / width + 0.5
    else:
        grey = (values - (centre - 0.5)) / (width - 1) + 0.5
    grey = np.clip(grey, 0, 1) * 255
    return 255 - grey if state.PresentationLUTShape == "INVERSE" else grey


@pytest.mark.parametrize(
    "changes",
    [
        {"RescaleSlope": "0.24420024420024420", "RescaleIntercept": "-1024.000000000000001"},
        {"RescaleSlope": "0.5"},
        {"RescaleIntercept": "-1000"},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"ModalityLUTSequence": [lut_item([4095 - k for k in range(4096)], 0, 16)]},
        {"ModalityLUTSequence": [lut_item([k // 2 for k in range(4096)], 0, 16)], "RescaleSlope": "3"},
    ],
    ids=["long numbers", "slope alone", "intercept alone", "slope 0", "LUT", "LUT beside a slope"],
)
def test_the_presentation_state_has_the_modality_values_of_the_reader(
    tiny_model: RadZero, changes: dict[str, object], tmp_path: Path
):
    stored = chest_like(120, 96)
    ds = dataset(stored, ExplicitVRLittleEndian, 12, **DX)
    for keyword, value in changes.items():
        if isinstance(value, str):  # as files have it, valid or not
            ds.add(DataElement(keyword, "DS", value, validation_mode=pydicom.config.IGNORE))
        else:
            for item in value:
                item.ModalityLUTType = "US"
            setattr(ds, keyword, value)
    content = to_bytes(ds)
    reading = read(tiny_model, content)
    state = make_results(reading, read_header(content), ["gsps"])[0]
    assert np.abs(shown(state, stored) - reading.film).max() <= 1
    if shutil.which("dciodvfy"):
        assert problems(state, tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "keyword", "value"),
    [
        ({"PixelSpacing": [0.2, 0.4]}, "PresentationPixelSpacing", [0.2, 0.4]),
        ({"ImagerPixelSpacing": [0.2, 0.4]}, "PresentationPixelSpacing", [0.2, 0.4]),
        ({"PixelAspectRatio": [2, 1], "ImagerPixelSpacing": None}, "PresentationPixelAspectRatio", [2, 1]),
        ({"ImagerPixelSpacing": None}, "PresentationPixelAspectRatio", [1, 1]),
    ],
)
def test_pixels_that_are_not_square(
    tiny_model: RadZero, changes: dict[str, object], keyword: str, value: list[float], tmp_path: Path
):
    wanted = {name: what for name, what in {**DX, **changes}.items() if what is not None}
    content = dicom_bytes(chest_like(120, 96), bits=12, **wanted)
    state = make_results(read(tiny_model, content), read_header(content), ["gsps"])[0]
    area = state.DisplayedAreaSelectionSequence[0]
    assert [float(part) for part in area[keyword].value] == value
    assert len({"PresentationPixelSpacing", "PresentationPixelAspectRatio"} & {e.keyword for e in area}) == 1
    if shutil.which("dciodvfy"):
        assert problems(state, tmp_path) == []


def test_a_loss_is_repeated(tiny_model: RadZero, tmp_path: Path):
    grey = (chest_like(120, 96) >> 4).astype(np.uint8)
    unsaid = dicom_bytes(grey, JPEGBaseline8Bit, **DX)  # baseline JPEG cannot be but lossy
    said = dicom_bytes(
        *(chest_like(120, 96), JPEG2000Lossless, 12),
        **{**DX, "LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5},
        LossyImageCompressionMethod="ISO_15444_1",
    )
    for content, method in ((unsaid, "ISO_10918_1"), (said, "ISO_15444_1")):
        results = make_results(read(tiny_model, content), read_header(content), ["seg", "seg-map", "sc"])
        for result in results:
            assert (result.LossyImageCompression, result.LossyImageCompressionMethod) == ("01", method)
            if shutil.which("dciodvfy"):
                assert problems(result, tmp_path) == []
    assert results[0].LossyImageCompressionRatio == 12.5


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize(
    "changes",
    [
        {"PatientOrientation": ["X", "Y"]},
        {"PatientOrientation": ["LEFT", "FOOT"]},
        {"PatientOrientation": "L"},
        {"PatientOrientation": ["L", "F", "H"]},
        {"PatientOrientation": ["L", ""]},
        {"PatientName": "A" * 65 + "^B"},
        {"PatientName": "A\nB"},
        {"PatientName": "A\\B"},
        {"PatientID": ["1", "2"]},
        {"Modality": None},
        {"ImagerPixelSpacing": "0.2"},
        {"SamplesPerPixel": None},
    ],
    ids=lambda changes: f"{changes}"[:60],
)
def test_values_that_break_the_rules_are_left_out(tiny_model: RadZero, changes: dict[str, object], tmp_path: Path):
    ds = dataset(chest_like(120, 96), ExplicitVRLittleEndian, 12, **DX)
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            kind = pydicom.datadict.dictionary_VR(keyword)
            ds[keyword] = DataElement(keyword, kind, value, validation_mode=pydicom.config.IGNORE)
    content = to_bytes(ds)
    made = make_possible_results(read(tiny_model, content), read_header(content), list(RESULT_KINDS))
    assert made.left_out == {}
    for result in made.results:
        assert problems(result, tmp_path) == []


def test_names_without_what_is_no_text():
    ds = dataset(chest_like(120, 96), ExplicitVRLittleEndian, 12, **DX)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = "Zhang^XiaoDong=\x1b$)A张^\x1b$)A小东=Yomi"
    assert str(read_header(to_bytes(ds)).PatientName) == "Zhang^XiaoDong==Yomi"
    ds.PatientName = "A^B^C^D^E^F=Wang^B^C^D^E"
    assert str(read_header(to_bytes(ds)).PatientName) == "=Wang^B^C^D^E"


@pytest.mark.parametrize("spacing", ["-1\\1", "0\\0", "0.2", "0.2\\0.2\\0.2"])
def test_a_spacing_that_is_none_is_left_out(tiny_model: RadZero, spacing: str):
    ds = dataset(chest_like(120, 96), ExplicitVRLittleEndian, 12, **DX)
    ds.add(DataElement("PixelSpacing", "DS", spacing, validation_mode=pydicom.config.IGNORE))
    content = to_bytes(ds)
    header = read_header(content)
    assert "PixelSpacing" not in header
    assert "ImagerPixelSpacing" in header
    assert make_possible_results(read(tiny_model, content), header, list(RESULT_KINDS)).left_out == {}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "more", [{}, {"RescaleSlope": 2, "RescaleIntercept": -100}, {"WindowCenter": 1500, "WindowWidth": 2000}]
)
def test_the_presentation_state_has_padding_black(
    tiny_model: RadZero, signed: bool, photometric: str, more: dict[str, float], tmp_path: Path
):
    stored = chest_like(120, 96).astype(np.int16 if signed else np.uint16)
    stored -= 2048 if signed else 0
    padding = -2048 if signed else 4095 if photometric == "MONOCHROME2" else 0
    stored[stored == padding] = padding + 1 if padding < 4095 else padding - 1
    stored[:, :9] = stored[-7:] = padding
    ds = dataset(stored, ExplicitVRLittleEndian, 12, **DX, **more)
    ds.PhotometricInterpretation = photometric
    ds.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    content = to_bytes(ds)
    reading = read(tiny_model, content)
    assert reading.film[:, :9].max() == 0
    state = make_results(reading, read_header(content), ["gsps"])[0]
    grey = shown(state, stored)
    if state.PresentationLUTShape == "INVERSE":
        grey = 255 - grey
    assert np.abs(grey - reading.film).max() <= 1
    assert shutil.which("dciodvfy") is None or problems(state, tmp_path) == []


def test_outlines_of_very_many_points_can_be_read(tiny_model: RadZero, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A value of more than 65,534 bytes has no explicit value representation that keeps its floats."""
    angles = np.linspace(0, 2 * np.pi, 10_001)
    circle = np.stack([48 + 30 * np.cos(angles), 60 + 30 * np.sin(angles)], axis=1)
    circle[-1] = circle[0]
    monkeypatch.setattr("radzero.results.context.find_regions", lambda *_: [Region(circle, (), 2800.0)])
    content = FILMS["DX"]()
    for result in make_results(read(tiny_model, content), read_header(content), ["sr", "gsps"]):
        result.save_as(tmp_path / "r.dcm", enforce_file_format=True)
        found = [element for element in pydicom.dcmread(tmp_path / "r.dcm").iterall() if element.tag == 0x00700022]
        long = [element for element in found if len(element.value) > 2]
        assert [element.VR for element in long] == ["FL"] * len(long) != []
        points = np.array(long[0].value).reshape(-1, 2)
        assert np.abs(np.hypot(*(points - [48, 60]).T) - 30).max() < 1e-3
        assert tuple(points[0]) == tuple(points[-1])


def test_a_palette_has_no_greyscale_state(tiny_model: RadZero):
    content = FILMS["DX"]()
    header = read_header(content)
    header.PhotometricInterpretation = "PALETTE COLOR"
    with pytest.raises(ResultError, match="leave gsps out"):
        make_results(read(tiny_model, content), header, ["gsps"])


@pytest.mark.parametrize(
    ("sop_class", "modality", "frames"),
    [
        ("1.2.840.10008.5.1.4.1.1.12.1", "XA", 1),
        ("1.2.840.10008.5.1.4.1.1.12.1", "XA", None),
        ("1.2.840.10008.5.1.4.1.1.12.2", "RF", None),
        ("1.2.840.10008.5.1.4.1.1.7.2", "OT", 1),
    ],
)
def test_a_frame_of_a_class_of_many(
    tiny_model: RadZero, sop_class: str, modality: str, frames: int | None, tmp_path: Path
):
    ds = dataset(chest_like(120, 96), ExplicitVRLittleEndian, 12, **DX)
    ds.SOPClassUID, ds.Modality = sop_class, modality
    if frames:
        ds.NumberOfFrames = frames
    content = to_bytes(ds)
    made = make_possible_results(read(tiny_model, content), read_header(content), list(RESULT_KINDS))
    assert made.left_out == {}
    for result in made.results:
        assert shutil.which("dciodvfy") is None or problems(result, tmp_path) == []
        references = [
            (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
            for element in result.iterall()
            if element.VR == "SQ"
            for item in element.value
            if "ReferencedSOPInstanceUID" in item
        ]
        assert set(references) == {(sop_class, ds.SOPInstanceUID)}


def test_what_is_to_be_known_of_a_film_stands_in_its_results(tiny_model: RadZero, tmp_path: Path):
    content = dicom_bytes(chest_like(120, 96), bits=12, **{**DX, "ViewPosition": "LL"})
    asked = ("There is right pleural effusion", "There is pneumoqwertz")
    reading = read(tiny_model, content, asked)
    lateral = next(text for text in reading.warnings if "lateral" in text)
    unknown = next(text for text in reading.warnings if "pneumoqwertz" in text)
    seg, _, report, first, second, *pictures = make_results(reading, read_header(content))
    for result in (seg, report, first, *pictures):
        assert lateral in result.to_json()
        assert reading.notice in result.to_json()
    assert unknown in report.to_json()
    assert unknown in second.to_json()
    assert unknown not in first.to_json()
    parsed = hd.sr.srread(io.BytesIO(written(report)))
    assert len(parsed.content.get_planar_roi_measurement_groups()) + len(
        parsed.content.get_image_measurement_groups()
    ) == sum(name.ValueType == "CONTAINER" for name in report.ContentSequence[-2].ContentSequence)
    if shutil.which("dciodvfy"):
        for result in (seg, report, first, second, *pictures):
            assert problems(result, tmp_path) == []


def test_other_questions_have_other_uids(tiny_model: RadZero):
    content = FILMS["DX"]()
    header = read_header(content)
    uids = [
        make_results(read(tiny_model, content, asked), header, ["sr"], threshold=threshold)[0].SOPInstanceUID
        for asked, threshold in ((("a\nb",), 0.5), (("a", "b"), 0.5), (("a", "b"), 0.5000001))
    ]
    assert len(set(uids)) == 3


def test_a_kind_that_a_film_cannot_have_costs_it_no_other(tiny_model: RadZero):
    content = dicom_bytes(chest_like(120, 96), bits=12, RescaleSlope="2", **DX)  # and no intercept
    reading, header = read(tiny_model, content), read_header(content)
    made = make_possible_results(reading, header, tuple(RESULT_KINDS))
    assert {result.Modality for result in made.results} >= {"SEG", "SR"}
    assert set(made.left_out) <= {"gsps"}


def test_a_capture_says_of_the_film_what_the_film_says(tiny_model: RadZero):
    for attributes, orientation, burned in (
        ({}, None, None),
        ({"PatientOrientation": ["R", "F"], "BurnedInAnnotation": "YES"}, ["R", "F"], "YES"),
    ):
        own = {key: value for key, value in DX.items() if key not in ("PatientOrientation", "BurnedInAnnotation")}
        content = dicom_bytes(chest_like(120, 96), bits=12, **(own | attributes))
        capture = make_results(read(tiny_model, content), read_header(content), ["sc"])[0]
        assert (capture.PatientOrientation or None) == orientation
        assert capture.get("BurnedInAnnotation") == burned


def test_the_capture_is_the_overlay(tiny_model: RadZero):
    reading, header = marked(tiny_model)
    first, _ = make_results(reading, header, ["sc"])
    assert np.array_equal(first.pixel_array, np.asarray(reading.overlay(0).convert("RGB")))


# -- odd films and odd requests ---------------------------------------------------------------------------


def written(result: Dataset) -> bytes:
    buffer = io.BytesIO()
    result.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_header_with_invalid_values_is_cleaned(tiny_model: RadZero, tmp_path: Path):
    ds = dataset(chest_like(120, 96), ExplicitVRLittleEndian, 12, **DX)
    with pydicom.config.disable_value_validation():
        ds.PatientBirthDate = "around 1950"
        ds.PatientSex = "unclear"
        ds.StudyTime = "noon"
        ds.StudyID = "x" * 40
        content = to_bytes(ds)
    results = make_results(read(tiny_model, content), read_header(content))
    assert all(result.PatientBirthDate in ("", None) and result.PatientSex in ("", None) for result in results)
    if shutil.which("dciodvfy"):
        assert [problem for result in results for problem in problems(result, tmp_path)] == []


def test_names_and_sentences_of_any_alphabet(tiny_model: RadZero):
    ds = dataset(chest_like(120, 96), ExplicitVRLittleEndian, 12, **DX)
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    ds.PatientName = "Yamada^Tarou=山田^太郎"
    content = to_bytes(ds)
    sentences = ("Es besteht ein Pleuraerguß rechts\\links", "右胸水", "x" * 1500)
    reading = read(tiny_model, content, sentences)
    for result in make_results(reading, read_header(content)):
        again = pydicom.dcmread(io.BytesIO(written(result)))
        assert str(again.PatientName) == "Yamada^Tarou=山田^太郎"
        assert again.SpecificCharacterSet == "ISO_IR 192"
    seg = make_results(reading, read_header(content), ["seg"])[0]
    labels = [segment.SegmentLabel for segment in seg.SegmentSequence]
    assert labels == ["Es besteht ein Pleuraerguß rechts/links", "右胸水", "x" * 61 + "..."]
    assert seg.SegmentSequence[2].TrackingID == "x" * 1500


def test_no_name_of_a_patient_is_said(tiny_model: RadZero, capfd: pytest.CaptureFixture[str]):
    content = dicom_bytes(
        chest_like(120, 96),
        bits=12,
        PatientName="Onlyfamilyname",
        **{key: value for key, value in DX.items() if key != "PatientName"},
    )
    make_results(read(tiny_model, content), read_header(content))
    captured = capfd.readouterr()
    assert "Onlyfamilyname" not in captured.out + captured.err


def test_refusals(tiny_model: RadZero, tmp_path: Path):
    content = FILMS["DX"]()
    reading, header = read(tiny_model, content), read_header(content)
    with pytest.raises(ResultError, match="is of another film"):
        make_results(reading, read_header(dicom_bytes(chest_like(120, 96), bits=12, SOPInstanceUID="1.2.9")))
    with pytest.raises(ResultError, match="is of another film"):
        make_results(read(tiny_model, make_film(1, 1, size=96).pixels), header)
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_results(reading, header, threshold=1.5)
    with pytest.raises(ValueError, match="nonsense"):
        make_results(reading, header, ["nonsense"])
    with pytest.raises(ResultError, match="no sentence"):
        make_results(read(tiny_model, content, ()), header)
    reading = replace(reading, grid=None)
    with pytest.raises(ResultError, match="has no maps, which seg shows; ask for sr"):
        make_results(reading, header, ["seg", "sr"])
    assert [result.Modality for result in make_results(reading, header, ["sr"])] == ["SR"]
    with pytest.raises(ResultError, match=r"no valid SOPInstanceUID, StudyInstanceUID"):
        read_header(dicom_bytes(chest_like(120, 96), bits=12, SOPInstanceUID="", StudyInstanceUID=None))
    (tmp_path / "film.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    with pytest.raises(ResultError, match="is no DICOM file"):
        read_header(tmp_path / "film.png")
    with pytest.raises(RadiographError, match="can not be opened"):
        read_header(tmp_path / "absent.dcm")


def test_colour_has_no_greyscale_state(tiny_model: RadZero):
    grey = (chest_like(120, 96) >> 4).astype(np.uint8)
    content = dicom_bytes(np.stack([grey] * 3, axis=-1))
    reading, header = read(tiny_model, content), read_header(content)
    with pytest.raises(ResultError, match="leave gsps out"):
        make_results(reading, header)
    kinds = [kind for kind in RESULT_KINDS if kind != "gsps"]
    assert len(make_results(reading, header, kinds)) == 5


def test_names_of_kinds():
    assert result_kinds("all") == tuple(RESULT_KINDS)
    assert result_kinds(" SR, seg,sr") == ("sr", "seg")
    with pytest.raises(ValueError, match="all, or some of seg, seg-map, sr, gsps, sc"):
        result_kinds("seg,pdf")


def test_predict_writes_them(tiny_checkpoint: Path, tmp_path: Path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.dcm").write_bytes(FILMS["DX"]())
    make_film(1, 1, size=96)
    from PIL import Image

    Image.fromarray((chest_like(120, 96) >> 4).astype(np.uint8)).save(tmp_path / "films" / "b.png")
    command = ["predict", tmp_path / "films", "-m", tiny_checkpoint, "-s", SENTENCES[0], "-o", tmp_path / "out"]
    result = call(*command, "--dicom", "seg,sr")
    assert "1 without DICOM results" in result.output
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert '"results": ["dicom/a-' in lines[0]
    assert "no DICOM file" in lines[1]
    files = sorted((tmp_path / "out" / "dicom").rglob("*.dcm"))
    assert [pydicom.dcmread(path).Modality for path in files] == ["SEG", "SR"]
    before = [path.stat().st_mtime_ns for path in files]
    assert "2 of them earlier" in call(*command, "--dicom", "seg,sr").output
    assert [path.stat().st_mtime_ns for path in files] == before
    assert "now sr" in call(*command, "--dicom", "sr", code=2).output
