"""DICOM: every transfer syntax, and the greyscale pipeline against hand-worked numbers (PS3.3 C.11)."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from dicom_factory import (
    LOSSLESS_SYNTAXES,
    chest_like,
    dataset,
    dicom_bytes,
    encode,
    jpeg_lossless,
    lut_item,
    scan_bomb,
    shared,
    to_bytes,
)
from radzero.images import Radiograph, RadiographError, ReadLimits, Reason, read_radiograph

WINDOW_4096 = {"WindowCenter": "2048", "WindowWidth": "4096"}  # LINEAR: stored / 4095, exactly


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


def read(file: Path, data: bytes, limits: ReadLimits | None = None) -> Radiograph:
    file.write_bytes(data)
    return read_radiograph(file, limits=limits)


def refused(file: Path, data: bytes, limits: ReadLimits | None = None) -> RadiographError:
    with pytest.raises(RadiographError) as caught:
        read(file, data, limits)
    assert caught.value.source == str(file)
    return caught.value


def row(values: list[int], dtype: Any = np.uint16) -> np.ndarray:
    """A (32, 32) image whose first row starts with ``values``; the rest repeats them."""
    return np.resize(np.array(values), (32, 32)).astype(dtype)


def shown(file: Path, values: list[int], dtype: Any = np.uint16, bits: int = 12, **attributes: Any) -> list[float]:
    """Display values of ``values``."""
    image = row(values, dtype)
    return read(file, dicom_bytes(image, bits=bits, **attributes)).pixels.ravel()[: len(values)].tolist()


# --- transfer syntaxes -----------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS_SYNTAXES.values(), ids=LOSSLESS_SYNTAXES)
@pytest.mark.parametrize("kind", ["u12", "i12", "u8-odd", "u16", "i16"])
def test_lossless_syntaxes(file: Path, syntax: str, kind: str) -> None:
    stored, bits, attributes, expected = {
        "u12": lambda image: (image, 12, WINDOW_4096, image / 4095),
        "i12": lambda image: (
            image.astype(np.int16) - 2048,
            12,
            {"WindowCenter": "0", "WindowWidth": "4096"},
            image / 4095,
        ),
        "u8-odd": lambda image: (
            (image[:37, :33] >> 4).astype(np.uint8),
            8,
            {},
            (image[:37, :33] >> 4) / 255,
        ),
        "u16": lambda image: (
            image * 16,
            16,
            {"WindowCenter": "32768", "WindowWidth": "65536"},
            image * 16 / 65535,
        ),
        "i16": lambda image: (
            (image.astype(np.int32) * 16 - 32768).astype(np.int16),
            16,
            {"WindowCenter": "0", "WindowWidth": "65536"},
            image * 16 / 65535,
        ),
    }[kind](chest_like())
    radiograph = read(file, dicom_bytes(stored, syntax, bits, **attributes))
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.warnings == ()
    assert radiograph.dicom is not None
    assert radiograph.dicom.transfer_syntax == syntax


def test_jpeg_baseline(file: Path) -> None:
    image = (chest_like() >> 4).astype(np.uint8)
    radiograph = read(file, dicom_bytes(image, JPEGBaseline8Bit))
    assert np.abs(radiograph.to_uint8().astype(int) - image).mean() < 2


def test_jpeg_baseline_in_16_bits_allocated(file: Path) -> None:
    image = (chest_like() >> 4).astype(np.uint8)
    data = dicom_bytes(image, JPEGBaseline8Bit, BitsAllocated=16)
    assert np.abs(read(file, data).to_uint8().astype(int) - image).mean() < 2


CT = "CTImage.dcm_{}.dcm"


@pytest.mark.parametrize(
    ("name", "lossless"),
    [
        ("DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99", True),
        ("JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90", True),
        ("JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80", True),
        ("JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70", True),
        ("RLELosslessTransferSyntax_1.2.840.10008.1.2.5", True),
        ("JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51", False),
    ],
)
def test_one_slice_in_every_encoding(file: Path, name: str, lossless: bool) -> None:
    """The CT of the data pack, relabelled as CR: every encoding shows what the uncompressed file shows."""

    def relabelled(which: str) -> Radiograph:
        ds = pydicom.dcmread(shared(f"dicom/format_coverage/{CT.format(which)}"))
        ds.Modality, ds.SOPClassUID = "CR", "1.2.840.10008.5.1.4.1.1.1"
        ds.save_as(file)
        return read_radiograph(file)

    plain = relabelled("LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2")
    # stored + (-1024), window 40 / 400 by the standard's formula
    hounsfield = (
        pydicom.dcmread(
            shared(f"dicom/format_coverage/{CT.format('LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2')}")
        ).pixel_array.astype(float)
        - 1024
    )
    np.testing.assert_allclose(plain.pixels, np.clip((hounsfield - 39.5) / 399 + 0.5, 0, 1), atol=1e-6)
    other = relabelled(name)
    if lossless:
        assert np.array_equal(other.pixels, plain.pixels)
    else:
        assert np.abs(other.pixels - plain.pixels).mean() < 0.01


@pytest.mark.parametrize("name", ["explicit", "implicit", "big"])
def test_without_preamble_and_meta(file: Path, name: str) -> None:
    data = to_bytes(dataset(chest_like(), LOSSLESS_SYNTAXES[name], 12, **WINDOW_4096), with_meta=False)
    assert data[128:132] != b"DICM"
    radiograph = read(file, data)
    np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)


def test_without_preamble_but_with_meta(file: Path) -> None:
    radiograph = read(file, dicom_bytes(chest_like(), RLELossless, 12, **WINDOW_4096)[132:])
    np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)


def test_unknown_transfer_syntax(file: Path) -> None:
    data = dicom_bytes(chest_like()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    error = refused(file, data)
    assert error.reason is Reason.UNSUPPORTED
    assert "1.2.840.10008.9.9.9" in str(error)


# --- stored values ---------------------------------------------------------------------------------


def test_overlay_in_the_high_bits_is_masked(file: Path) -> None:
    image = chest_like()
    dirty = image | np.uint16(0xA000)
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        np.testing.assert_allclose(
            read(file, dicom_bytes(dirty, syntax, 12, **WINDOW_4096)).pixels, image / 4095, atol=1e-6
        )
    # 12-bit two's complement with rubbish instead of sign extension
    signed = (((image.astype(np.int32) - 2048) & 0x0FFF) | 0x5000).astype(np.int16)
    radiograph = read(file, dicom_bytes(signed, bits=12, WindowCenter="0", WindowWidth="4096"))
    np.testing.assert_allclose(radiograph.pixels, image / 4095, atol=1e-6)


def test_jpeg_lossless_with_16_bit_codestream_around_12_bits(file: Path) -> None:
    image = chest_like()
    ds = dataset(image, JPEGLosslessSV1, 12, **WINDOW_4096)
    ds.PixelData = encapsulate([jpeg_lossless(image | np.uint16(0x3000), 16)])
    np.testing.assert_allclose(read(file, to_bytes(ds)).pixels, image / 4095, atol=1e-6)


def test_high_bit_above_bits_stored(file: Path) -> None:
    image = chest_like()
    data = dicom_bytes(image << 4, bits=12, HighBit=15, **WINDOW_4096)
    np.testing.assert_allclose(read(file, data).pixels, image / 4095, atol=1e-6)


def test_contradicting_high_bit_is_ignored_with_a_warning(file: Path) -> None:
    radiograph = read(file, dicom_bytes(chest_like(), bits=12, HighBit=3, **WINDOW_4096))
    assert "High Bit 3" in radiograph.warnings[0]
    np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)


def test_jpeg_2000_knows_its_own_precision(file: Path) -> None:
    ds = dataset(chest_like(), JPEG2000Lossless, 12, **WINDOW_4096)
    ds.BitsStored, ds.HighBit = 10, 9
    radiograph = read(file, to_bytes(ds))
    assert "precision 12" in radiograph.warnings[0]
    np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)


def test_unsigned_jpeg_2000_codestream_of_signed_pixels(file: Path) -> None:
    signed = chest_like().astype(np.int16) - 2048
    words = (signed & 0x0FFF).astype(np.uint16)
    ds = dataset(signed, ExplicitVRLittleEndian, 12, WindowCenter="0", WindowWidth="4096")
    ds.PixelData, ds.file_meta.TransferSyntaxUID = encode(words, JPEG2000Lossless, 12), JPEG2000Lossless
    ds["PixelData"].VR = "OB"
    np.testing.assert_allclose(read(file, to_bytes(ds)).pixels, chest_like() / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", [{"BitsAllocated": 12}, {"BitsAllocated": 64}, {"BitsStored": 17}, {"BitsStored": 0}]
)
def test_bit_depths_that_are_refused(file: Path, attributes: dict[str, int]) -> None:
    assert refused(file, dicom_bytes(chest_like(), bits=12, **attributes)).reason is Reason.UNSUPPORTED


# --- modality, VOI, presentation -------------------------------------------------------------------


def test_rescale_comes_before_the_window(file: Path) -> None:
    # stored 0, 100, 200 -> 2 x - 100 = -100, 100, 300; window 100 / 401: black -100, white 300
    values = shown(
        file,
        [0, 100, 200],
        RescaleSlope="2",
        RescaleIntercept="-100",
        WindowCenter="100.5",
        WindowWidth="401",
    )
    assert values == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)


def test_linear_window_by_hand(file: Path) -> None:
    # c = 100, w = 11: 0 up to 99.5 - 5 = 94.5, 1 above 104.5, (x - 99.5) / 10 + 0.5 between
    values = shown(file, [94, 95, 99, 100, 104, 105], WindowCenter="100", WindowWidth="11")
    assert values == pytest.approx([0.0, 0.05, 0.45, 0.55, 0.95, 1.0], abs=1e-6)


def test_linear_window_of_width_one_is_a_step(file: Path) -> None:
    # c = 100, w = 1: 0 up to 99.5, 1 above
    assert shown(file, [0, 99, 100, 4000], WindowCenter="100", WindowWidth="1") == [0.0, 0.0, 1.0, 1.0]


def test_linear_exact_window_by_hand(file: Path) -> None:
    # c = 100, w = 10: (x - 100) / 10 + 0.5
    values = shown(file, [95, 96, 100, 104, 105], WindowCenter="100", WindowWidth="10", VOILUTFunction="LINEAR_EXACT")
    assert values == pytest.approx([0.0, 0.1, 0.5, 0.9, 1.0], abs=1e-6)
    thin = shown(file, [99, 100, 101], WindowCenter="100", WindowWidth="0.5", VOILUTFunction="LINEAR_EXACT")
    assert thin == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)


def test_sigmoid_window_by_hand(file: Path) -> None:
    values = shown(file, [0, 50, 100, 4000], WindowCenter="50", WindowWidth="40", VOILUTFunction="SIGMOID")
    expected = [1 / (1 + math.exp(5)), 0.5, 1 / (1 + math.exp(-5)), 1.0]
    assert values == pytest.approx(expected, abs=1e-6)


def test_first_of_several_windows(file: Path) -> None:
    image = chest_like()
    data = dicom_bytes(image, bits=12, WindowCenter=["2048", "10"], WindowWidth=["4096", "5"])
    radiograph = read(file, data)
    np.testing.assert_allclose(radiograph.pixels, image / 4095, atol=1e-6)
    assert "VOI: window center 2048 width 4096 (LINEAR), number 1 of 2" in radiograph.choices


def test_a_window_that_shows_nothing_gives_way_to_the_next(file: Path) -> None:
    image = chest_like()
    windows = {"WindowCenter": ["99999", "7", "2048"], "WindowWidth": ["10", "0", "4096"]}
    radiograph = read(file, dicom_bytes(image, bits=12, **windows))
    np.testing.assert_allclose(radiograph.pixels, image / 4095, atol=1e-6)
    assert "VOI: window center 2048 width 4096 (LINEAR), number 3 of 3" in radiograph.choices
    assert ["one value" in w or "invalid" in w for w in radiograph.warnings] == [True, True]


def slow_lut(value: int, entries: list[int], first: int) -> int:
    """PS3.3 C.11.1.1 in words: below the first value the first entry, above the last the last."""
    if value < first:
        return entries[0]
    if value - first >= len(entries):
        return entries[-1]
    return entries[value - first]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_voi_lut_is_preferred_over_the_window(file: Path, syntax: str) -> None:
    entries = [10, 200, 700, 1023]
    image = row([0, 99, 100, 101, 102, 103, 104, 4095])
    ds = dataset(image, syntax, 12, VOILUTSequence=[lut_item(entries, 100, 10, explanation="NORMAL")], **WINDOW_4096)
    radiograph = read(file, to_bytes(ds))
    expected = [slow_lut(value, entries, 100) / 1023 for value in image.ravel().tolist()]
    np.testing.assert_allclose(radiograph.pixels.ravel(), expected, atol=1e-6)
    assert "VOI: LUT sequence 'NORMAL', 4 entries of 10 bits" in radiograph.choices


@pytest.mark.parametrize("signed_vr", [False, True])
def test_voi_lut_of_signed_pixels(file: Path, signed_vr: bool) -> None:
    # first mapped value -2: stored as 65534 in a US descriptor, as -2 in an SS descriptor
    entries = [0, 100, 200, 255]
    item = lut_item(entries, -2 if signed_vr else 65534, 8, signed=signed_vr)
    values = shown(file, [-2048, -2, -1, 0, 1, 2, 2047], np.int16, VOILUTSequence=[item])
    assert values == pytest.approx([0, 0, 100 / 255, 200 / 255, 1, 1, 1], abs=1e-6)


def test_packed_8_bit_lut_and_65536_entries(file: Path) -> None:
    item = lut_item([0] * 4, 10, 8)
    item.LUTData = bytes([0, 51, 102, 255])
    assert shown(file, [10, 11, 12, 13], VOILUTSequence=[item]) == pytest.approx([0, 0.2, 0.4, 1], abs=1e-6)
    full = lut_item([65535 - i for i in range(65536)], 0, 16)
    assert full.LUTDescriptor[0] == 0
    assert shown(file, [0, 65535], bits=16, VOILUTSequence=[full]) == [1.0, 0.0]


def test_modality_lut_then_voi_lut(file: Path) -> None:
    modality, voi = [0, 1, 4, 9, 16], [0, 10, 20, 30, 40, 50, 60, 70, 80, 255]
    values = list(range(8))
    pixels = shown(
        file,
        values,
        ModalityLUTSequence=[lut_item(modality, 1, 16)],
        VOILUTSequence=[lut_item(voi, 2, 8)],
    )
    expected = [slow_lut(slow_lut(value, modality, 1), voi, 2) / 255 for value in values]
    assert pixels == pytest.approx(expected, abs=1e-6)


def test_damaged_lut_falls_back_to_the_window(file: Path) -> None:
    short = lut_item([1, 2, 3], 0, 12)
    short.LUTDescriptor = [4000, 0, 12]
    no_descriptor = lut_item([1, 2, 3], 0, 12)
    del no_descriptor.LUTDescriptor
    for item in (short, no_descriptor):
        radiograph = read(file, dicom_bytes(chest_like(), bits=12, VOILUTSequence=[item], **WINDOW_4096))
        np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)
        assert "ignored" in radiograph.warnings[0]


def test_lut_with_too_few_bits_in_its_descriptor(file: Path) -> None:
    radiograph = read(file, dicom_bytes(row([0, 1]), bits=12, VOILUTSequence=[lut_item([0, 4095], 0, 8)]))
    assert radiograph.pixels[0, :2].tolist() == [0.0, 1.0]
    assert "its entries need 12" in radiograph.warnings[0]


def test_lut_that_uses_few_of_the_bits_in_its_descriptor(file: Path) -> None:
    """12-bit entries under a 16-bit descriptor would show the film at a sixteenth of its brightness."""
    radiograph = read(file, dicom_bytes(row([0, 1]), bits=12, VOILUTSequence=[lut_item([0, 4095], 0, 16)]))
    assert radiograph.pixels[0, :2].tolist() == [0.0, 1.0]
    assert "claims 16 bits but uses 12" in radiograph.warnings[0]


def test_padding_is_black_in_monochrome1_too(file: Path) -> None:
    image = np.zeros((32, 32), np.uint16)  # a border of 0, which MONOCHROME1 would show white
    image[4:-4, 4:-4] = np.arange(24 * 24).reshape(24, 24) + 1000
    options = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    for voi in ({}, WINDOW_4096):
        radiograph = read(file, dicom_bytes(image, bits=12, **options, **voi))
        assert radiograph.pixels[0].max() == 0.0
        assert radiograph.pixels[4, 4] > radiograph.pixels[-5, -5]


def test_no_voi_and_8_bits_is_the_full_range(file: Path) -> None:
    assert shown(file, [0, 51, 255], np.uint8, bits=8) == pytest.approx([0, 0.2, 1], abs=1e-6)
    radiograph = read(file, dicom_bytes((chest_like() >> 4).astype(np.uint8)))
    assert np.array_equal(radiograph.to_uint8(), chest_like() >> 4)


def test_no_voi_is_a_percentile_window_without_padding(file: Path) -> None:
    # 1000 pixels 1..1000 and 24 of padding: 0.5 % of 1000 is the 5th value, 99.5 % the 995th
    values = [*range(1, 1001), *[4000] * 24]
    image = np.array(values, np.uint16).reshape(32, 32)
    radiograph = read(file, dicom_bytes(image, bits=12, PixelPaddingValue=4000))
    expected = [0.0 if value == 4000 else min(max((value - 5) / 990, 0.0), 1.0) for value in values]
    np.testing.assert_allclose(radiograph.pixels.ravel(), expected, atol=1e-6)
    assert "no VOI in file: 0.5-99.5 percentile default window 5..995" in radiograph.choices
    assert "pixel padding 4000..4000: 24 pixels left out of the window statistics and shown black" in radiograph.choices
    with_range = read(file, dicom_bytes(image, bits=12, PixelPaddingValue=4000, PixelPaddingRangeLimit=995))
    assert "percentile default window 5..990" in " ".join(with_range.choices)


@pytest.mark.parametrize(("padding", "bits"), [(-2000, 12), (-32768, 16), (-32767, 16)])
def test_negative_padding_of_signed_pixels(file: Path, padding: int, bits: int) -> None:
    image = np.full((32, 32), padding, np.int16)
    image[4:] = np.arange(28 * 32).reshape(28, 32)
    radiograph = read(file, dicom_bytes(image, bits=bits, PixelPaddingValue=padding))
    assert "percentile default window 4..891" in " ".join(radiograph.choices)
    assert radiograph.pixels[0, 0] == 0.0


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"WindowCenter": "2048", "WindowWidth": "0"}, "Window Width 0 is invalid"),
        ({"WindowCenter": "2048", "WindowWidth": "-5"}, "invalid"),
        ({"WindowCenter": "60000", "WindowWidth": "10"}, "maps the whole image to one value"),
        ({"WindowCenter": "2048", "WindowWidth": "0", "VOILUTFunction": "SIGMOID"}, "invalid"),
        ({"VOILUTSequence": [lut_item([7, 7, 7], 0, 8)]}, "maps the whole image to one value"),
    ],
)
def test_a_voi_that_shows_nothing_gives_way_to_the_default(file: Path, attributes: dict[str, Any], says: str) -> None:
    radiograph = read(file, dicom_bytes(chest_like(), bits=12, **attributes))
    assert says in radiograph.warnings[0]
    assert "default window" in " ".join(radiograph.choices)
    assert np.ptp(radiograph.pixels) == 1.0


def test_malformed_numbers_are_ignored_with_a_warning(file: Path) -> None:
    data = dicom_bytes(chest_like(), bits=12, WindowCenter="1234", WindowWidth="5678")
    radiograph = read(file, data.replace(b"1234", b"12x4"))
    assert any("WindowCenter" in warning for warning in radiograph.warnings)
    assert "default window" in " ".join(radiograph.choices)


def test_monochrome1_is_inverted_last_and_once(file: Path) -> None:
    image = 4095 - chest_like()
    for shape in (None, "INVERSE", "IDENTITY"):
        attributes = {"PresentationLUTShape": shape} if shape else {}
        data = dicom_bytes(image, bits=12, PhotometricInterpretation="MONOCHROME1", **attributes, **WINDOW_4096)
        radiograph = read(file, data)
        np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)
        assert radiograph.choices.count("MONOCHROME1: inverted") == 1
        assert bool(radiograph.warnings) == (shape == "IDENTITY")
    contradiction = read(file, dicom_bytes(chest_like(), bits=12, PresentationLUTShape="INVERSE", **WINDOW_4096))
    np.testing.assert_allclose(contradiction.pixels, chest_like() / 4095, atol=1e-6)
    assert "contradicts MONOCHROME2" in contradiction.warnings[0]
    # after a VOI LUT, not before: 1 - LUT(x)
    luts = [lut_item([0, 255], 2000, 8)]
    values = shown(file, [2000, 2001], PhotometricInterpretation="MONOCHROME1", VOILUTSequence=luts)
    assert values == [1.0, 0.0]


def test_constant_image(file: Path) -> None:
    assert refused(file, dicom_bytes(np.full((40, 40), 9, np.uint16), bits=12)).reason is Reason.CONSTANT


# --- colour ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["explicit", "big", "rle", "deflated"])
def test_grey_content_in_rgb(file: Path, name: str) -> None:
    grey = (chest_like() >> 4).astype(np.uint8)
    data = dicom_bytes(np.stack([grey] * 3, axis=-1), LOSSLESS_SYNTAXES[name])
    assert np.array_equal(read(file, data).to_uint8(), grey)


def test_planar_configuration_and_ybr(file: Path) -> None:
    grey = (chest_like() >> 4).astype(np.uint8)
    ds = dataset(np.stack([grey] * 3, axis=-1), ExplicitVRLittleEndian, PlanarConfiguration=1)
    ds.PixelData = np.stack([grey] * 3).tobytes()
    assert np.array_equal(read(file, to_bytes(ds)).to_uint8(), grey)
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=-1)
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        data = dicom_bytes(ybr, syntax, PhotometricInterpretation="YBR_FULL")
        assert np.array_equal(read(file, data).to_uint8(), grey)


def test_palette_colour_with_grey_entries(file: Path) -> None:
    indices = (chest_like() >> 4).astype(np.uint8)
    palette = np.arange(256, dtype="<u2") * 257
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"{colour}PaletteColorLookupTableData"] = palette.tobytes()
    assert np.array_equal(read(file, dicom_bytes(indices, **attributes)).to_uint8(), indices)
    attributes["RedPaletteColorLookupTableData"] = palette[::-1].tobytes()
    assert refused(file, dicom_bytes(indices, **attributes)).reason is Reason.COLOUR
    attributes["RedPaletteColorLookupTableData"] = b"\0\0"
    assert refused(file, dicom_bytes(indices, **attributes)).reason is Reason.BAD_HEADER


def test_grey_content_in_colour_jpeg_and_jpeg_2000(file: Path) -> None:
    grey = (chest_like() >> 4).astype(np.uint8)
    rgb = np.stack([grey] * 3, axis=-1)
    for photometric in ("YBR_FULL_422", "YBR_FULL"):
        radiograph = read(file, dicom_bytes(rgb, JPEGBaseline8Bit, PhotometricInterpretation=photometric))
        assert np.abs(radiograph.to_uint8().astype(int) - grey).mean() < 2
    assert np.array_equal(read(file, dicom_bytes(rgb, JPEG2000Lossless)).to_uint8(), grey)


def test_structural_warnings_of_pydicom_are_kept(file: Path) -> None:
    """A file that says explicit VR and is implicit."""
    data = dicom_bytes(chest_like(), ImplicitVRLittleEndian, 12, **WINDOW_4096)
    wrong = data.replace(b"UI\x12\x001.2.840.10008.1.2\0", b"UI\x14\x001.2.840.10008.1.2.1\0")
    radiograph = read(file, wrong)
    np.testing.assert_allclose(radiograph.pixels, chest_like() / 4095, atol=1e-6)
    assert "using implicit VR" in radiograph.warnings[0]


def test_true_colour_is_refused(file: Path) -> None:
    y, x = np.mgrid[0:64, 0:48]
    rgb = np.stack([x * 5, y * 4, 255 - x * 5], axis=-1).astype(np.uint8)
    assert refused(file, dicom_bytes(rgb)).reason is Reason.COLOUR
    assert refused(file, shared("dicom/format_coverage/SC_rgb_jpeg_dcmtk.dcm").read_bytes()).reason is Reason.COLOUR


# --- what is no chest radiograph -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"NumberOfFrames": "2"}, Reason.MULTI_FRAME),
        ({"Modality": "CT"}, Reason.NOT_A_RADIOGRAPH),
        ({"Modality": "MR"}, Reason.NOT_A_RADIOGRAPH),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, Reason.NOT_A_RADIOGRAPH),
        ({"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, Reason.STRUCTURED_REPORT),
        ({"PixelData": None}, Reason.NO_PIXEL_DATA),
        ({"Rows": None}, Reason.BAD_HEADER),
        ({"Rows": 16}, Reason.TOO_SMALL),
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_LARGE),
        ({"Rows": 65}, Reason.TRUNCATED),
        ({"PhotometricInterpretation": "HSV"}, Reason.UNSUPPORTED),
        ({"PhotometricInterpretation": "RGB"}, Reason.BAD_HEADER),
    ],
)
def test_refusals(file: Path, attributes: dict[str, Any], reason: Reason) -> None:
    error = refused(file, dicom_bytes(chest_like(), bits=12, **attributes))
    assert error.reason is reason
    assert "Nobody" not in str(error)


def test_a_film_that_is_cut_before_its_pixels_is_said_to_be(file: Path) -> None:
    whole = dicom_bytes(chest_like(), bits=12)
    error = refused(file, whole[: whole.index(b"\xe0\x7f\x10\x00")])  # (7FE0,0010) Pixel Data
    assert error.reason is Reason.NO_PIXEL_DATA
    assert "holds no pixel data: it is cut short, or is no image (a plan, a presentation state)" in str(error)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"Modality": "OT"}, "modality OT is not radiography"),
        ({"Modality": "XA"}, "modality XA is not radiography"),
        ({"Modality": None}, "modality unknown is not radiography"),
        ({"BodyPartExamined": "HAND"}, "body part is HAND"),
        ({"ViewPosition": "LL"}, "the view is lateral"),
        ({"ViewPosition": "RLD"}, "the view is decubitus"),
        ({"ViewPosition": "LORDOTIC"}, "the view is LORDOTIC"),
        ({"ViewPosition": None, "SeriesDescription": "CHEST LAT"}, "probably lateral"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "the view is lateral"),
        ({"PatientOrientation": ["R", "F"]}, "mirrored"),
        ({"PatientOrientation": ["L", "H"]}, "upside down"),
        ({"PatientSpeciesDescription": "Felis catus"}, "not human (Felis catus)"),
        ({"ProtocolName": "CANINE THORAX"}, "probably not human"),
        ({"PixelSpacing": [0.1, 0.2]}, "not square"),
        ({"PixelAspectRatio": ["1", "2"]}, "not square"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
    ],
)
def test_warnings(file: Path, attributes: dict[str, Any], says: str) -> None:
    radiograph = read(file, dicom_bytes(chest_like(), bits=12, **attributes, **WINDOW_4096))
    assert len(radiograph.warnings) == 1
    assert says in radiograph.warnings[0]


@pytest.mark.parametrize(
    "attributes",
    [
        {"NumberOfFrames": "1"},
        {"Modality": "DX", "ViewPosition": "AP"},
        {"BodyPartExamined": "THORAX"},
        {"BodyPartExamined": None},
        {"PatientSpeciesDescription": "Homo sapiens"},
        {"BurnedInAnnotation": "YES"},
        {"ViewPosition": None, "StudyDescription": "CHEST PA AND LATERAL"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"PatientOrientation": ["L", "F"], "PixelAspectRatio": ["1", "1"]},
        {"PixelSpacing": [1.2, 1.201]},
    ],
)
def test_ordinary_headers_have_no_warning(file: Path, attributes: dict[str, Any]) -> None:
    assert read(file, dicom_bytes(chest_like(), bits=12, **attributes, **WINDOW_4096)).warnings == ()


def test_view_code_sequence(file: Path) -> None:
    for code, meaning, view in (
        ("272479007", "postero-anterior", "PA"),
        ("R-10236", "left lateral", "LATERAL"),
        ("999", "Left anterior oblique", "OBLIQUE"),
    ):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", meaning
        data = dicom_bytes(chest_like(), bits=12, ViewPosition=None, ViewCodeSequence=[item], **WINDOW_4096)
        assert read(file, data).view == view


def test_facts_and_spacing(file: Path) -> None:
    data = dicom_bytes(
        chest_like(),
        bits=12,
        PixelSpacing=[0.14, 0.14],
        ImagerPixelSpacing=[0.2, 0.2],
        ImageLaterality="U",
        PatientOrientation=["L", "F"],
        **WINDOW_4096,
    )
    radiograph = read(file, data)
    assert radiograph.spacing == (0.14, 0.14)
    assert "spacing: PixelSpacing 0.14 x 0.14 mm" in radiograph.choices
    assert (radiograph.laterality, radiograph.view) == ("U", "PA")
    facts = radiograph.dicom
    assert facts is not None
    assert facts.study_instance_uid == "1.2.3"
    assert (facts.modality, facts.photometric_interpretation) == ("CR", "MONOCHROME2")
    assert (facts.body_part, facts.patient_orientation) == ("CHEST", "L\\F")
    assert "Nobody" not in repr(radiograph)
    detector = read(file, dicom_bytes(chest_like(), bits=12, ImagerPixelSpacing=[0.2, 0.2], **WINDOW_4096))
    assert "spacing: ImagerPixelSpacing 0.2 x 0.2 mm" in detector.choices
    invalid = read(file, dicom_bytes(chest_like(), bits=12, PixelSpacing=[0, 0], **WINDOW_4096))
    assert invalid.spacing is None
    assert "PixelSpacing is invalid" in invalid.warnings[0]


# --- damage and bombs ------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", LOSSLESS_SYNTAXES.values(), ids=LOSSLESS_SYNTAXES)
@pytest.mark.parametrize("kept", [0.99, 0.6])
def test_truncated_pixel_data(file: Path, syntax: str, kept: float) -> None:
    data = dicom_bytes(chest_like(), syntax, 12)
    assert refused(file, data[: int(len(data) * kept)]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("name", ["rle", "jpeg2000", "jpeg-lossless"])
def test_truncated_frame_in_an_intact_file(file: Path, name: str) -> None:
    syntax = LOSSLESS_SYNTAXES[name]
    ds = dataset(chest_like(), syntax, 12)
    frame = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
    for kept in (0.9, 0.5, 0.1):
        ds.PixelData = encapsulate([frame[: int(len(frame) * kept)]])
        assert refused(file, to_bytes(ds)).reason is Reason.TRUNCATED


def test_frame_of_another_size_than_the_header(file: Path) -> None:
    """A codec believes the frame: 60000 x 60000 must not reach it."""
    for syntax, marker, offset in ((JPEGLosslessSV1, b"\xff\xc3", 5), (JPEGBaseline8Bit, b"\xff\xc0", 5)):
        image = (chest_like() >> 4).astype(np.uint8)
        data = bytearray(dicom_bytes(image, syntax))
        at = data.index(marker) + offset
        data[at : at + 4] = struct.pack(">HH", 60000, 60000)
        error = refused(file, bytes(data))
        assert error.reason is Reason.BAD_HEADER
        assert "60000 x 60000" in str(error)
    data = bytearray(dicom_bytes(chest_like(), JPEG2000Lossless, 12))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 8] = struct.pack(">II", 60000, 60000)
    assert refused(file, bytes(data)).reason in (Reason.BAD_HEADER, Reason.BAD_PIXELS)


def test_deflate_bomb(file: Path) -> None:
    honest = dicom_bytes(chest_like(), LOSSLESS_SYNTAXES["deflated"], 12)
    meta_end = 132 + 12 + struct.unpack("<I", honest[140:144])[0]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    bomb = b"".join(compressor.compress(zeros) for _ in range(64)) + compressor.flush()
    limits = ReadLimits(max_inflated_bytes=16 << 20)
    assert refused(file, honest[:meta_end] + bomb, limits).reason is Reason.TOO_LARGE
    assert read(file, honest, limits).height == 64


def test_a_jpeg_frame_of_very_many_scans(file: Path) -> None:
    ds = dataset(chest_like(64, 64, 255).astype(np.uint8), JPEGBaseline8Bit)
    ds.PixelData = encapsulate([scan_bomb(20)])
    assert read(file, to_bytes(ds)).height == 64
    ds.PixelData = encapsulate([scan_bomb(200)])
    error = refused(file, to_bytes(ds))
    assert (error.reason, "scans, 100 at most" in str(error)) == (Reason.TOO_LARGE, True)


def test_rle_that_unpacks_without_end_is_bounded() -> None:
    from radzero.images.codestream import CodestreamError, decode_rle

    run = b"\x81\x07" * 100_000  # 12.8 MB of sevens for a 32 x 32 image
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + run
    assert np.array_equal(decode_rle(frame, 32, 32, 1, 8), np.full((1, 32, 32), 7))
    with pytest.raises(CodestreamError, match="segment table"):
        decode_rle(struct.pack("<16L", 2, 64, 5, *[0] * 13) + run, 32, 32, 1, 16)


def test_huge_element_length_and_deep_nesting(file: Path) -> None:
    data = dicom_bytes(chest_like(), bits=12, ImageComments="remark")
    at = data.index(b"\x20\x00\x00\x40LT")
    assert isinstance(refused(file, data[:at] + b"\x20\x00\x00\x40UT\0\0\xf0\xff\xff\x7f" + data[at + 8 :]), ValueError)
    item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    head = data[: data.index(b"\x08\x00\x16\x00UI", 132)]
    assert refused(file, head + item * 5000).reason in (Reason.BAD_HEADER, Reason.NO_PIXEL_DATA)


# --- the files of the data pack --------------------------------------------------------------------


def test_shared_chest_files() -> None:
    positive = read_radiograph(shared("dicom/chest/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"))
    assert (positive.spacing, positive.view, positive.warnings) == ((0.168, 0.168), "PA", ())
    fake = read_radiograph(shared("dicom/chest/Fake_MONOHR1.dcm"))
    assert np.array_equal(fake.to_uint8(), 255 - positive.to_uint8())
    assert "inverted" in fake.warnings[0]
    genuine = read_radiograph(shared("dicom/chest/gdcm-CR-MONO1-10-chest.dcm"))
    assert genuine.warnings == ()
    stored = pydicom.dcmread(genuine.source).pixel_array.astype(float)
    np.testing.assert_allclose(genuine.pixels, 1 - np.clip((stored - 549.5) / 1023 + 0.5, 0, 1), atol=1e-6)


def test_shared_other_radiographs() -> None:
    leg = read_radiograph(shared("dicom/other_radiographs/RG3_J2KI.dcm"))
    assert leg.laterality == "R"
    assert "EXTREMITY" in leg.warnings[0]
    dog = read_radiograph(shared("dicom/other_radiographs/dx_image_dog_thorax.dcm"))
    assert dog.choices.count("MONOCHROME1: inverted") == 1
    assert "CANINE" in dog.warnings[0]
    assert "lateral" in dog.warnings[1]
    stored = pydicom.dcmread(dog.source).pixel_array
    assert np.array_equal(dog.to_uint8(), 255 - stored)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", Reason.COLOUR),
        ("SC_rgb_rle_2frame.dcm", Reason.MULTI_FRAME),
        ("chrJapMulti.dcm", Reason.NO_PIXEL_DATA),
        ("rtplan.dcm", Reason.NO_PIXEL_DATA),
        ("MR_truncated.dcm", Reason.NOT_A_RADIOGRAPH),
        ("no_meta.dcm", Reason.NOT_AN_IMAGE),  # starts one byte off, besides
        (CT.format("RLELosslessTransferSyntax_1.2.840.10008.1.2.5"), Reason.NOT_A_RADIOGRAPH),
    ],
)
def test_shared_files_that_are_refused(file: Path, name: str, reason: Reason) -> None:
    assert refused(file, shared(f"dicom/format_coverage/{name}").read_bytes()).reason is reason


def test_truncated_shared_file_once_it_is_a_radiograph(file: Path) -> None:
    data = shared("dicom/format_coverage/MR_truncated.dcm").read_bytes()
    data = data.replace(b"CS\x02\x00MR", b"CS\x02\x00CR").replace(b"1.4.1.1.4\0", b"1.4.1.1.1\0")
    assert refused(file, data).reason is Reason.TRUNCATED


def test_png_and_dicom_of_the_same_pixels_agree(tmp_path: Path) -> None:
    grey = (chest_like() >> 4).astype(np.uint8)
    png, dicom = tmp_path / "a.png", tmp_path / "a.dcm"
    Image.fromarray(grey).save(png)
    dicom.write_bytes(dicom_bytes(255 - grey, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(read_radiograph(png).pixels, read_radiograph(dicom).pixels, atol=1e-7)


def with_elements(count: int, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A film whose header has so many empty private elements."""
    plain = dicom_bytes(chest_like(96, 80), bits=12)
    start = plain.index(b"\xe0\x7f\x10\x00")
    elements = (struct.pack("<HH2sH", 0x31 + 2 * (k >> 16), k & 0xFFFF, b"LO", 0) for k in range(count))
    content = plain[:start] + b"".join(elements) + plain[start:]
    if syntax == ExplicitVRLittleEndian:
        return content
    deflated = dicom_bytes(chest_like(96, 80), syntax, bits=12)
    meta = deflated[: 132 + 12 + int.from_bytes(deflated[140:144], "little")]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return meta + packer.compress(content[content.index(b"\x08\x00\x16\x00") :]) + packer.flush()


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_headers_of_too_many_elements_are_refused(syntax: str):
    assert read_radiograph(with_elements(2000, syntax)).height == 96
    usual = syntax == ExplicitVRLittleEndian  # reading half a million elements takes seconds: once is enough
    limits = ReadLimits() if usual else ReadLimits(max_header_reads=50_000)
    with pytest.raises(RadiographError, match="too many data elements") as refused:
        read_radiograph(with_elements(600_000 if usual else 60_000, syntax), limits=limits)
    assert refused.value.reason is Reason.TOO_LARGE
    read_radiograph(with_elements(2000, syntax), limits=ReadLimits(max_header_reads=10_000))
    with pytest.raises(RadiographError, match="more than 1,000"):
        read_radiograph(with_elements(2000, syntax), limits=ReadLimits(max_header_reads=1000))


@pytest.mark.parametrize("keyword", ["WindowCenter", "PatientOrientation", "VOILUTSequence"])
def test_values_beyond_reason_are_not_made_into_objects(keyword: str):
    content = dicom_bytes(chest_like(96, 80), ImplicitVRLittleEndian, bits=12)
    tag = {"WindowCenter": 0x00281050, "PatientOrientation": 0x00200020, "VOILUTSequence": 0x00283010}[keyword]
    value = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 400_000 if keyword == "VOILUTSequence" else b"1\\" * 400_000
    before = content.index(b"\xe0\x7f\x10\x00")
    element = struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    film = read_radiograph(content[:before] + element + content[before:])
    assert any(keyword in text and "was ignored" in text for text in film.warnings)
    assert film.pixels.shape == (96, 80)
