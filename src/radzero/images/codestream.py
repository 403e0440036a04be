"""Parse the headers of compressed DICOM frames, so that they are checked before a native codec reads the frames.

A JPEG, JPEG-LS or JPEG 2000 frame carries its own size. Codecs trust it, so a 2 kB file may make them allocate
gigabytes, whatever Rows and Columns are. Here the frame header is parsed (ITU-T T.81 B.2, T.87 C.2, T.800
A.5), and RLE (PS3.5 annex G) is decoded with a bound on its output.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC are no frame headers
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_LATER_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7\xde]")
_MAX_J2K_LAYERS = 1024
_TRAILER_BYTES = 16


class CodestreamError(ValueError):
    """A compressed frame is damaged or unsupported, or contradicts the DICOM header."""


class TruncatedCodestreamError(CodestreamError):
    """A compressed frame ends too early."""


@dataclass(frozen=True)
class FrameHeader:
    """Size of a compressed frame, as the frame's own header gives it.

    Attributes:
        rows: number of rows; 0 where a JPEG frame leaves it to a DNL segment.
        columns: number of columns.
        components: samples per pixel.
        precision: bits per sample.
    """

    rows: int
    columns: int
    components: int
    precision: int


def jpeg_header(frame: bytes) -> FrameHeader:
    """Parse the frame header (SOF) of a JPEG or JPEG-LS frame.

    Raises:
        TruncatedCodestreamError: when the frame ends inside its header or has no end-of-image marker.
        CodestreamError: when the frame is not JPEG, is damaged or hierarchical, has no frame header or several, or has
            its size in an LSE segment.
    """
    if frame[:2] != b"\xff\xd8":
        raise CodestreamError("the frame does not start with a JPEG marker")
    header: FrameHeader | None = None
    position = 2
    while True:
        marker, payload, position = _next_segment(frame, position)
        if marker == 0xDE:
            raise CodestreamError("hierarchical JPEG is not supported")
        if marker == 0xF8 and payload[:1] == b"\x04":
            raise CodestreamError("JPEG-LS with a size outside its frame header is not supported")
        if marker in _SOF:
            if header is not None:
                raise CodestreamError("the JPEG frame has two frame headers")
            if len(payload) < 6:
                raise TruncatedCodestreamError("the JPEG frame header is cut short")
            precision, rows, columns, components = struct.unpack(">BHHB", payload[:6])
            header = FrameHeader(rows, columns, components, precision)
        if marker == 0xDA:
            break
    if header is None:
        raise CodestreamError("the JPEG frame has no frame header")
    if _LATER_FRAME.search(frame, position):
        raise CodestreamError("the JPEG frame has two frame headers")
    if not _ends_image(frame):
        raise TruncatedCodestreamError("the JPEG frame has no end-of-image marker")
    return header


MOST_SCANS = 100
"""Most scans of a JPEG image that is read; progressive images have about ten.

A decoder passes over the whole image in every scan, however few bytes the scan has.
"""
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)


def count_jpeg_scans(content: bytes) -> int:
    """Count the scans (SOS) up to the end of the first image. Damaged bytes are skipped, as decoders skip them."""
    scans, position = 0, 2
    while found := _MARKER.search(content, position):
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            break
        if marker in _STANDALONE or marker == 0xD8:
            continue
        scans += marker == 0xDA
        position += max(2, int.from_bytes(content[position : position + 2], "big"))
    return scans


def _next_segment(frame: bytes, position: int) -> tuple[int, bytes, int]:
    """Return (marker, payload, byte position behind the segment) of the first marker segment from ``position`` on."""
    while True:
        if position + 4 > len(frame):
            raise TruncatedCodestreamError("the JPEG frame ends inside its header")
        if frame[position] != 0xFF:
            raise CodestreamError("the JPEG header is damaged")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            position += 1
        elif marker in _STANDALONE:
            position += 2
        else:
            break
    length = int.from_bytes(frame[position + 2 : position + 4], "big")
    end = position + 2 + length
    if length < 2 or end > len(frame):
        raise TruncatedCodestreamError("the JPEG frame ends inside its header")
    return marker, frame[position + 4 : end], end


def _ends_image(frame: bytes) -> bool:
    """Tell whether the end marker (EOI, EOC) is among the last 16 bytes before zero padding."""
    return b"\xff\xd9" in frame.rstrip(b"\0")[-_TRAILER_BYTES:]


def jpeg2000_header(frame: bytes) -> FrameHeader:
    """Parse the SIZ and COD segments of a JPEG 2000 or HTJ2K codestream, with or without a JP2 wrapper.

    Raises:
        TruncatedCodestreamError: when the header is cut short or there is no end-of-codestream marker.
        CodestreamError: when this is no codestream, components are subsampled, the image and tile sizes or offsets
            contradict each other, or the number of tiles or layers is out of range.
    """
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or (start > 0 and frame[4:8] != b"jP  "):
        raise CodestreamError("the frame is no JPEG 2000 codestream")
    siz = frame[start + 4 :]
    if len(siz) < 38:
        raise TruncatedCodestreamError("the JPEG 2000 header is cut short")
    x1, y1, x0, y0, tile_w, tile_h, tile_x0, tile_y0, components = struct.unpack(">8IH", siz[4:38])
    if len(siz) < 38 + 3 * components or components == 0:
        raise TruncatedCodestreamError("the JPEG 2000 header is cut short")
    if x1 <= x0 or y1 <= y0 or not tile_w or not tile_h or tile_x0 > x0 or tile_y0 > y0:
        raise CodestreamError("the JPEG 2000 image and tile sizes contradict each other")
    tiles = -(-(x1 - tile_x0) // tile_w) * -(-(y1 - tile_y0) // tile_h)
    if tiles > 65535:
        raise CodestreamError(f"the JPEG 2000 codestream claims {tiles} tiles")
    sizes = siz[38 : 38 + 3 * components]
    if any(step != 1 for step in sizes[1::3] + sizes[2::3]):
        raise CodestreamError("JPEG 2000 with subsampled components is not supported")
    _check_layers(frame, start + 4 + int.from_bytes(siz[:2], "big"))
    if not _ends_image(frame):
        raise TruncatedCodestreamError("the JPEG 2000 codestream has no end marker")
    return FrameHeader(y1 - y0, x1 - x0, components, (sizes[0] & 0x7F) + 1)


def _check_layers(frame: bytes, position: int) -> None:
    """Refuse a layer count (COD) outside 1..1024: a decoder would allocate memory for every layer without need."""
    while position + 4 <= len(frame) and frame[position] == 0xFF and frame[position + 1] not in (0x90, 0x93):
        if frame[position + 1] == 0x52 and position + 8 <= len(frame):
            layers = int.from_bytes(frame[position + 6 : position + 8], "big")
            if not 1 <= layers <= _MAX_J2K_LAYERS:
                raise CodestreamError(f"the JPEG 2000 codestream claims {layers} quality layers")
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")


def decode_rle(frame: bytes, rows: int, columns: int, samples: int, bits_allocated: int) -> NDArray[np.unsignedinteger]:
    """Decode one RLE frame (PS3.5 annex G) to unsigned integers (samples, rows, columns).

    Args:
        frame: the encoded frame.
        rows: expected number of rows.
        columns: expected number of columns.
        samples: samples per pixel.
        bits_allocated: 8, 16 or 32.

    Raises:
        TruncatedCodestreamError: when the frame ends before its last segment, or a segment decodes to fewer bytes than
            rows x columns.
        CodestreamError: when the segment table is damaged or has another number of segments than expected.
    """
    per_sample = bits_allocated // 8
    if len(frame) < 64:
        raise TruncatedCodestreamError("the RLE header is cut short")
    count, *offsets = struct.unpack("<16L", frame[:64])
    if count != samples * per_sample:
        raise CodestreamError(f"{count} RLE segments instead of {samples * per_sample}")
    ends = [*offsets[1:count], len(frame)]
    pixels = rows * columns
    planes = np.empty((samples, pixels, per_sample), dtype=np.uint8)
    for segment in range(count):
        start, end = offsets[segment], ends[segment]
        if max(start, end) > len(frame):
            raise TruncatedCodestreamError("the RLE frame ends before its last segment")
        if not 64 <= start <= end:
            raise CodestreamError("the RLE segment table is damaged")
        data = _unpack_bits(frame[start:end], pixels)
        if len(data) < pixels:
            raise TruncatedCodestreamError(f"an RLE segment holds {len(data)} bytes instead of {pixels}")
        # segments run from the most to the least significant byte; the array is little endian
        sample, byte = divmod(segment, per_sample)
        planes[sample, :, per_sample - 1 - byte] = np.frombuffer(data, dtype=np.uint8, count=pixels)
    return planes.view(f"<u{per_sample}").reshape(samples, rows, columns)


def _unpack_bits(segment: bytes, size: int) -> bytearray:
    """Decode PackBits until there are ``size`` bytes; the last run may add up to 127 bytes more."""
    out = bytearray()
    position, end = 0, len(segment)
    while position < end and len(out) < size:
        control = segment[position]
        if control < 128:
            out += segment[position + 1 : position + 2 + control]
            position += 2 + control
        elif control > 128:
            out += segment[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    return out
