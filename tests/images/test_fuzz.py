"""Two thousand damaged files: each is read or refused with RadiographError, quickly and in little memory."""

from __future__ import annotations

import io
import random
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from dicom_factory import LOSSLESS_SYNTAXES, chest_like, dicom_bytes, lut_item, shared
from film_files import FILM_FILES
from radzero.images import Radiograph, RadiographError, read_radiograph

pytestmark = pytest.mark.slow

FILES = 2000
SECONDS_PER_FILE = 10.0
PEAK_BYTES = 2 << 30

_TAGS = {
    "Rows": b"\x28\x00\x10\x00",
    "Columns": b"\x28\x00\x11\x00",
    "BitsAllocated": b"\x28\x00\x00\x01",
    "BitsStored": b"\x28\x00\x01\x01",
    "HighBit": b"\x28\x00\x02\x01",
    "PixelRepresentation": b"\x28\x00\x03\x01",
    "SamplesPerPixel": b"\x28\x00\x02\x00",
    "PhotometricInterpretation": b"\x28\x00\x04\x00",
    "WindowWidth": b"\x28\x00\x51\x10",
    "RescaleSlope": b"\x28\x00\x53\x10",
    "LUTDescriptor": b"\x28\x00\x02\x30",
    "PixelData": b"\xe0\x7f\x10\x00",
    "TransferSyntaxUID": b"\x02\x00\x10\x00",
}
_MARKERS = (b"\xff\xc0", b"\xff\xc3", b"\xff\x51", b"\xff\x52", b"\xff\xda", b"IHDR", b"PLTE", b"IDAT")


def _dicom_seeds() -> list[bytes]:
    image = chest_like(64, 48)
    luts = {
        "VOILUTSequence": [lut_item(list(range(0, 4096, 16)), 0, 12)],
        "ModalityLUTSequence": [lut_item(list(range(256)), 0, 8)],
    }
    eight = (image >> 4).astype(np.uint8)
    seeds = [
        dicom_bytes(image, syntax, 12, WindowCenter="2048", WindowWidth="4096") for syntax in LOSSLESS_SYNTAXES.values()
    ]
    seeds += [dicom_bytes(image, LOSSLESS_SYNTAXES[name], 12, **luts) for name in ("explicit", "implicit", "big")]
    seeds += [dicom_bytes(eight, JPEGBaseline8Bit), dicom_bytes(np.stack([eight] * 3, -1), RLELossless)]
    seeds += [dicom_bytes(image.astype(np.int16) - 2048, ExplicitVRLittleEndian, 12, PixelPaddingValue=-2048)]
    return seeds


def _raster_seeds() -> list[bytes]:
    image = chest_like(64, 48)
    eight = Image.fromarray((image >> 4).astype(np.uint8))
    seeds = []
    for picture, image_format in (
        *((eight, f) for f in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")),
        *((eight.convert(mode), "PNG") for mode in ("RGB", "RGBA", "P", "1", "LA")),
        (Image.fromarray(image), "PNG"),
        (Image.fromarray(image), "TIFF"),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, image_format)
        seeds.append(buffer.getvalue())
    return seeds + [write((image >> 4).astype(np.uint8)) for write in FILM_FILES.values()]


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 20))):
        data[rng.randrange(len(data))] = rng.randrange(256)


def _flip_early(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 8))):
        data[rng.randrange(min(len(data), 900))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    block = rng.randbytes(rng.randrange(1, 64)) if rng.random() < 0.5 else bytes(data[at : at + 40])
    data[at:at] = block


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 64)]


def _edit_field(data: bytearray, rng: random.Random) -> None:
    """Overwrite the length or the value behind a tag or marker with an extreme number."""
    target = rng.choice((*_TAGS.values(), *_MARKERS))
    at = data.find(target)
    if at < 0:
        return _flip_early(data, rng)
    number = rng.choice((0, 1, 7, 13, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
    packed = struct.pack(rng.choice(("<I", ">I")), number)[: rng.choice((2, 4))]
    start = at + len(target) + rng.choice((0, 2, 4, 6, 8))
    data[start : start + len(packed)] = packed
    return None


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _flip_early,
    _cut,
    _insert,
    _remove,
    _edit_field,
    _edit_field,
)


def _fix_png(data: bytearray) -> None:
    """Correct the chunk checksums, or most damage would stop at them."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            return
        data[at + 8 + length : at + 12 + length] = struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + length]))
        at += 12 + length


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _outcome(path: Path) -> str:
    start = time.perf_counter()
    try:
        radiograph = read_radiograph(path)
    except RadiographError as error:
        outcome = str(error.reason)
    else:
        outcome = "read"
        assert isinstance(radiograph, Radiograph)
        assert 0.0 <= radiograph.pixels.min() <= radiograph.pixels.max() <= 1.0
    assert time.perf_counter() - start < SECONDS_PER_FILE
    return outcome


def test_two_thousand_damaged_files(tmp_path: Path) -> None:
    rng = random.Random(20261122)
    dicom, raster = _dicom_seeds(), _raster_seeds()
    path = tmp_path / "damaged"
    outcomes: Counter[str] = Counter()
    before, peak_before = psutil.Process().memory_info().rss, _peak_bytes()
    for number in range(FILES):
        data = bytearray(rng.choice(raster if number % 3 == 0 else dicom))
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(MUTATIONS)(data, rng)
            if not data:
                data += b"\0"
        if data[:4] == b"\x89PNG" and rng.random() < 0.7:
            _fix_png(data)
        path.write_bytes(data)
        outcomes[_outcome(path)] += 1
    assert outcomes.total() == FILES
    # the mutations reach deep: some files still read, and refusals come from every stage
    assert outcomes["read"] > 100
    assert {"truncated", "bad_header", "bad_pixels", "too_large", "unsupported"} <= set(outcomes)
    assert psutil.Process().memory_info().rss - before < 512 << 20
    # the peak is that of the whole test run so far
    assert _peak_bytes() <= max(peak_before, before + PEAK_BYTES)


def test_damaged_jpeg_ls_and_extended_jpeg(tmp_path: Path) -> None:
    rng = random.Random(7)
    for name in (
        "CTImage.dcm_JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm",
        "CTImage.dcm_JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm",
    ):
        original = shared(f"dicom/format_coverage/{name}").read_bytes()
        original = original.replace(b"CS\x02\x00CT", b"CS\x02\x00CR").replace(
            b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.1\0"
        )
        for _ in range(40):
            data = bytearray(original)
            pixel_data = data.find(b"\xff\xd8\xff")
            for _ in range(3):
                data[rng.randrange(pixel_data, min(len(data), pixel_data + rng.choice((200, 150_000))))] = (
                    rng.randrange(256)
                )
            path = tmp_path / "damaged.dcm"
            path.write_bytes(data)
            _outcome(path)


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_behind_a_signature(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    heads = (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"BM",
        b"RIFF\0\0\0\0WEBP",
        b"\0" * 128 + b"DICM",
        b"",
    )
    for head in heads:
        path = tmp_path / "noise"
        path.write_bytes(head + rng.randbytes(3000))
        assert _outcome(path) != "read"
