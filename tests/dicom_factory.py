"""DICOM files for the tests, written with pydicom and with a JPEG lossless encoder of our own."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels import get_encoder
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

LOSSLESS_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
    "jpeg-lossless": JPEGLosslessSV1,
}


def shared(relative: str) -> Path:
    """A path in the data pack beside the repository; the test is skipped without it."""
    path = SHARED_DATA / relative
    if not path.exists():
        pytest.skip(f"development data {path} is not on this machine")
    return path


def chest_like(height: int = 64, width: int = 48, maximum: int = 4095) -> NDArray[np.uint16]:
    """Bright middle, dark lungs, 0..maximum: enough of a chest not to look inverted."""
    y, x = np.mgrid[0:height, 0:width]
    across = np.abs(x / (width - 1) - 0.5) * 2
    lungs = np.exp(-(((across - 0.55) / 0.25) ** 2) - ((y / height - 0.4) / 0.3) ** 2)
    image = 0.85 - 0.7 * lungs + 0.05 * np.sin(y * 1.7) * np.cos(x * 0.9)
    image = (image - image.min()) / np.ptp(image)
    return np.rint(image * maximum).astype(np.uint16)


def jpeg_lossless(image: NDArray[np.integer], precision: int) -> bytes:
    """ITU-T T.81 annex H, predictor 1, one component, every Huffman code five bits long."""
    height, width = image.shape
    values = image.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[0, 0] = 1 << (precision - 1)
    predicted[0, 1:] = values[0, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[1:, 1:] = values[1:, :-1]
    bits: list[str] = []
    for difference in ((values - predicted + 32768) % 65536 - 32768).ravel().tolist():
        category = abs(difference).bit_length()
        bits.append(format(category, "05b"))
        if 0 < category < 16:
            extra = difference if difference > 0 else difference + (1 << category) - 1
            bits.append(format(extra, f"0{category}b"))
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    scan = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    counts = bytes([0, 0, 0, 0, 17, *[0] * 11])
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB3B", 11, precision, height, width, 1, 1, 0x11, 0),
            b"\xff\xc4" + struct.pack(">HB", 2 + 1 + 16 + 17, 0) + counts + bytes(range(17)),
            b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0),
            scan,
            b"\xff\xd9",
        ]
    )


def encode(stored: NDArray[np.integer], syntax: str, bits: int) -> bytes:
    """Pixel Data of one frame."""
    if syntax == ExplicitVRBigEndian:
        return stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    if syntax == JPEG2000Lossless:
        # the range matters to the encoder: bits above Bits Stored must be sign extension
        return encapsulate([bytes(encode_array(np.ascontiguousarray(stored), bits_stored=bits))])
    if syntax == JPEGLosslessSV1:
        words = stored.view(f"u{stored.dtype.itemsize}") & ((1 << bits) - 1)
        return encapsulate([jpeg_lossless(words, bits)])
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG", quality=95)
        return encapsulate([buffer.getvalue()])
    if syntax == RLELossless:
        planes = stored.shape[2] if stored.ndim == 3 else 1
        frame = get_encoder(RLELossless).encode(
            stored.tobytes(),
            rows=stored.shape[0],
            columns=stored.shape[1],
            samples_per_pixel=planes,
            bits_allocated=8 * stored.dtype.itemsize,
            bits_stored=8 * stored.dtype.itemsize,
            pixel_representation=0,
            number_of_frames=1,
            photometric_interpretation="RGB" if planes == 3 else "MONOCHROME2",
            planar_configuration=0,
        )
        return encapsulate([frame])
    data = stored.tobytes()
    return data + b"\0" * (len(data) % 2)


def dataset(stored: NDArray[np.integer], syntax: str, bits: int | None = None, **attributes: Any) -> Dataset:
    """A CR data set around ``stored`` (rows, columns[, 3]); attributes given as ``None`` are removed."""
    allocated = 8 * stored.dtype.itemsize
    bits = bits or allocated
    ds = Dataset()
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = "1.2.3.4"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.1"
    ds.Modality = "CR"
    ds.PatientName = "Nobody^Known"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.Rows, ds.Columns = stored.shape[:2]
    ds.SamplesPerPixel = 1 if stored.ndim == 2 else stored.shape[2]
    ds.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = encode(stored, syntax, bits)
    ds["PixelData"].VR = "OB" if allocated == 8 and syntax != ImplicitVRLittleEndian else "OW"
    for name, value in attributes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2")
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def to_bytes(ds: Dataset, *, with_meta: bool = True) -> bytes:
    """The file of a data set."""
    buffer = io.BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    if not with_meta:
        meta = ds.file_meta
        del ds.file_meta
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        ds.file_meta = meta
    else:
        dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def dicom_bytes(
    stored: NDArray[np.integer],
    syntax: str = ExplicitVRLittleEndian,
    bits: int | None = None,
    **attributes: Any,
) -> bytes:
    """:func:`dataset` and :func:`to_bytes` in one."""
    return to_bytes(dataset(stored, syntax, bits, **attributes))


def scan_bomb(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG with scans that change nothing: each a run of empty blocks."""
    buffer = io.BytesIO()
    ramp = np.linspace(0, 255, side).astype(np.uint8)[None].repeat(side, 0)
    Image.fromarray(ramp).save(buffer, "JPEG", progressive=True)
    symbols = b"\x13" + bytes([0, 2, *[0] * 14, 0xE0, 0x00])  # AC table 3: end of band, 2^14 blocks long or one
    table = b"\xff\xc4" + struct.pack(">H", 2 + len(symbols)) + symbols
    bits = "01" * (side // 8) ** 2
    packed = int(bits + "1" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda" + struct.pack(">H", 8) + bytes([1, 1, 0x03, 63, 63, 0]) + packed
    return buffer.getvalue()[:-2] + table + scan * scans + b"\xff\xd9"


def lut_item(entries: list[int], first: int, bits: int, *, explanation: str = "", signed: bool = False) -> Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 65536, first, bits])
    item.LUTExplanation = explanation
    item.add_new("LUTData", "OW", np.array(entries, dtype="<u2").tobytes())
    return item
