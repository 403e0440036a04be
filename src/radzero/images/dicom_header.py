"""Recognise DICOM files, parse them within bounds, and give typed access to header values.

pydicom's ``dcmread`` inflates a deflated data set without a bound and reads everything before the first
check, so the file is read here in three steps with pydicom's own ``read_dataset``: the file meta
information, the header up to the pixel data, and (after the header was checked) the rest.
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from .radiograph import RadiographError, ReadLimits, Reason, refusing

_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_VRS = _LONG_VRS | {
    *(
        b"AE",
        b"AS",
        b"AT",
        b"CS",
        b"DA",
        b"DS",
        b"DT",
        b"FL",
        b"FD",
        b"IS",
        b"LO",
        b"LT",
        b"PN",
        b"SH",
        b"SL",
    ),
    *(b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
}
_DAMAGED = "Ask the archive (PACS) for the file again"


class TransferSyntax(StrEnum):
    """The transfer syntaxes that are read."""

    IMPLICIT_LITTLE = "1.2.840.10008.1.2"
    EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
    DEFLATED = "1.2.840.10008.1.2.1.99"
    EXPLICIT_BIG = "1.2.840.10008.1.2.2"
    JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
    JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
    JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
    JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
    JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
    JPEG_LS = "1.2.840.10008.1.2.4.81"
    JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
    JPEG_2000 = "1.2.840.10008.1.2.4.91"
    HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
    HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
    HTJ2K = "1.2.840.10008.1.2.4.203"
    RLE = "1.2.840.10008.1.2.5"

    @property
    def is_native(self) -> bool:
        """Whether the pixel data is uncompressed (the deflated syntax compresses the data set, not the pixels)."""
        return self in (self.IMPLICIT_LITTLE, self.EXPLICIT_LITTLE, self.DEFLATED, self.EXPLICIT_BIG)

    @property
    def is_jpeg_2000(self) -> bool:
        """Whether this is JPEG 2000 or high-throughput JPEG 2000."""
        return self in (
            *(self.JPEG_2000_LOSSLESS, self.JPEG_2000),
            *(self.HTJ2K_LOSSLESS, self.HTJ2K_LOSSLESS_RPCL, self.HTJ2K),
        )

    @property
    def is_jpeg_ls(self) -> bool:
        """Whether this is JPEG-LS, lossless or near-lossless."""
        return self in (self.JPEG_LS_LOSSLESS, self.JPEG_LS)

    @property
    def label(self) -> str:
        """The name in the standard, such as "JPEG Baseline (Process 1)"."""
        return str(UID(self.value).name)


def sniff_dicom(head: bytes, size: int) -> bool:
    """Tell whether a file is DICOM: it has "DICM" at byte 128, or starts with valid data elements.

    A file without preamble counts as DICOM when it starts with group 0002 or 0008 and its first elements (at
    least three) have ascending tags, known value representations (or implicit ones), and even lengths within
    the file.

    Args:
        head: the first 1024 bytes.
        size: the file's size in bytes.
    """
    return head[128:132] == b"DICM" or bare_encoding(head, size) is not None


def bare_encoding(head: bytes, size: int) -> TransferSyntax | None:
    """Return the native encoding of data elements that start at byte 0 of ``head``, or ``None``."""
    for syntax in (
        TransferSyntax.EXPLICIT_LITTLE,
        TransferSyntax.EXPLICIT_BIG,
        TransferSyntax.IMPLICIT_LITTLE,
    ):
        if _walks(head, size, syntax):
            return syntax
    return None


def _walks(head: bytes, size: int, syntax: TransferSyntax) -> bool:
    order: Any = "big" if syntax is TransferSyntax.EXPLICIT_BIG else "little"
    position, last_tag, steps = 0, -1, 0
    while position + 12 <= len(head) and steps < 4:
        group = int.from_bytes(head[position : position + 2], order)
        tag = group << 16 | int.from_bytes(head[position + 2 : position + 4], order)
        if (steps == 0 and group not in (0x0002, 0x0008)) or tag <= last_tag:
            return False
        vr = head[position + 4 : position + 6]
        if syntax is TransferSyntax.IMPLICIT_LITTLE:
            start, length = position + 8, int.from_bytes(head[position + 4 : position + 8], order)
        elif vr not in _VRS:
            return False
        elif vr in _LONG_VRS:
            start, length = position + 12, int.from_bytes(head[position + 8 : position + 12], order)
        else:
            start, length = position + 8, int.from_bytes(head[position + 6 : position + 8], order)
        if length == 0xFFFFFFFF and steps >= 2:
            return True
        if length % 2 or start + length > size:
            return False
        position, last_tag, steps = start + length, tag, steps + 1
    return steps >= 3


class _BoundedFile:
    """A file that limits the size and the number of reads.

    A read asks for no more bytes than are left, so that a damaged length does not allocate gigabytes. The number of
    reads is limited, so that a million empty elements do not become as many objects.
    """

    def __init__(self, file: BinaryIO, source: str, limits: ReadLimits) -> None:
        self._file, self._source, self._most = file, source, limits.max_header_reads
        self._reads = 0
        self._size = file.seek(0, os.SEEK_END)
        self.seek = file.seek
        self.tell = file.tell
        self.name = ""
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        self._reads += 1
        if self._reads > self._most:
            raise RadiographError(
                self._source,
                Reason.TOO_LARGE,
                f"the header holds too many data elements (more than {self._most:,} pieces)",
                "If the file is genuine, raise ReadLimits.max_header_reads",
            )
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if count < 0 else min(count, left))


@dataclass
class DicomFile:
    """A DICOM file, parsed up to its pixel data.

    Attributes:
        header: the data elements before the pixel data.
        syntax: the transfer syntax, in which the file is encoded.
        has_pixel_data: whether the header is followed by pixel data.
    """

    header: Dataset
    syntax: TransferSyntax
    has_pixel_data: bool
    stream: Any
    source: str

    def read_rest(self) -> Dataset:
        """Read the pixel data and what follows it.

        Raises:
            RadiographError: ``truncated`` when it is damaged, ``too_large`` when it needs too many reads or too much
                memory.
        """
        with refusing(self.source, Reason.TRUNCATED, "the pixel data can not be read", _DAMAGED):
            return read_dataset(self.stream, *_encoding(self.syntax))


def _encoding(syntax: TransferSyntax) -> tuple[bool, bool]:
    """Return (implicit VR, little endian)."""
    return syntax is TransferSyntax.IMPLICIT_LITTLE, syntax is not TransferSyntax.EXPLICIT_BIG


def open_dicom(file: BinaryIO, source: str, limits: ReadLimits) -> DicomFile:
    """Parse the header of a DICOM file, and stop in front of the pixel data.

    Args:
        file: open binary file that :func:`sniff_dicom` takes for DICOM; it must stay open until the pixels are
            read.
        source: name of the file in errors.
        limits: ``max_inflated_bytes`` bounds deflated files, ``max_header_reads`` the number of reads.

    Raises:
        RadiographError: ``bad_header``, ``unsupported`` (transfer syntax), ``too_large``, ``truncated``.
    """
    stream: Any = _BoundedFile(file, source, limits)
    with refusing(source, Reason.BAD_HEADER, "the DICOM file meta information is damaged", _DAMAGED):
        has_preamble = stream.read(132)[128:] == b"DICM"
        stream.seek(132 if has_preamble else 0)
        meta = Dataset()
        if stream.read(2) == b"\x02\x00":
            stream.seek(-2, os.SEEK_CUR)
            meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        else:
            stream.seek(-2, os.SEEK_CUR)
        named = Header(meta, [], "").text("TransferSyntaxUID")
    syntax = _transfer_syntax(named, stream, source)
    if syntax is TransferSyntax.DEFLATED:
        stream = _BoundedFile(BytesIO(_inflate(stream.read(), source, limits)), source, limits)

    reached: list[int] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag in _PIXEL_TAGS:
            reached.append(tag)
        return bool(reached)

    with refusing(source, Reason.BAD_HEADER, "the DICOM header is damaged", _DAMAGED):
        header = read_dataset(stream, *_encoding(syntax), stop_when=at_pixels)
    return DicomFile(header, syntax, bool(reached), stream, source)


def _transfer_syntax(named: str, stream: Any, source: str) -> TransferSyntax:
    if named:
        try:
            return TransferSyntax(named)
        except ValueError as exc:
            raise RadiographError(
                source,
                Reason.UNSUPPORTED,
                f"the transfer syntax {UID(named).name} ({named[:64]}) is not supported",
                "Convert the file to Explicit VR Little Endian, for example with dcmdjpeg or gdcmconv --raw",
            ) from exc
    start = stream.tell()
    head = stream.read(1024)
    stream.seek(0, os.SEEK_END)
    guess = bare_encoding(head, stream.tell() - start)
    stream.seek(start)
    if guess is None:
        raise RadiographError(
            source,
            Reason.BAD_HEADER,
            "the file names no transfer syntax and its encoding can not be told from its first elements",
            "Add the file meta information, for example with dcmconv",
        )
    return guess


def _inflate(data: bytes, source: str, limits: ReadLimits) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with refusing(source, Reason.TRUNCATED, "the deflated data set is damaged", _DAMAGED):
        inflated = inflater.decompress(data, limits.max_inflated_bytes)
    if inflater.unconsumed_tail:
        raise RadiographError(
            source,
            Reason.TOO_LARGE,
            f"the deflated data set grows beyond the limit of {limits.max_inflated_bytes:,} bytes",
            "If the file is genuine, raise ReadLimits.max_inflated_bytes",
        )
    if not inflater.eof:
        raise RadiographError(source, Reason.TRUNCATED, "the deflated data set is cut short", _DAMAGED)
    return inflated


_MOST_SEQUENCE_BYTES, _MOST_VALUE_BYTES = 2**21, 2**18
"""Most bytes of a sequence, and of any other attribute, that are converted to values.

The data of a LUT has at most 128 KiB, and few other attributes have a thousandth of it.
"""


def bytes_beyond_reason(dataset: Dataset, keyword: str) -> int:
    """Return the size in bytes of an attribute that is too large to convert (each value is an object); else 0."""
    raw = dataset.get_item(keyword) if keyword in dataset else None
    if not isinstance(raw, RawDataElement) or raw.value is None:
        return 0
    most = _MOST_SEQUENCE_BYTES if dictionary_VR(keyword) == "SQ" else _MOST_VALUE_BYTES
    return len(raw.value) if len(raw.value) > most else 0


class Header:
    """Typed access to a pydicom data set, which tolerates malformed values.

    A malformed optional value counts as absent and is named in ``warnings``; the caller decides what absence
    means.
    """

    def __init__(self, dataset: Dataset, warnings: list[str], source: str) -> None:
        self.dataset = dataset
        self.warnings = warnings
        self.source = source

    def _value(self, keyword: str) -> Any:
        if size := bytes_beyond_reason(self.dataset, keyword):
            self._warn(f"the DICOM attribute {keyword} has {size:,} bytes and was ignored")
            return None
        try:
            return self.dataset[keyword].value if keyword in self.dataset else None
        except Exception as exc:
            # pydicom's conversion of a value can raise any exception: name the attribute, and go on without the value
            detail = " ".join(str(exc).split())[:120] or type(exc).__name__
            self._warn(f"the DICOM attribute {keyword} is malformed and was ignored ({detail})")
            return None

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _values(self, keyword: str) -> list[Any]:
        value = self._value(keyword)
        if value is None or isinstance(value, bytes | str):
            return [] if value in (None, "", b"") else [value]
        try:
            return list(value)
        except TypeError:
            return [value]

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values as text without blanks and zero bytes at the ends; bytes that are not ASCII are dropped."""
        values = self._values(keyword)
        texts = [v.decode("ascii", "ignore") if isinstance(v, bytes) else str(v) for v in values if v is not None]
        return tuple(text.strip(" \0") for text in texts)

    def text(self, keyword: str) -> str:
        """Return the first value as text (see :meth:`texts`), or "" when it is absent."""
        return next(iter(self.texts(keyword)), "")

    def code(self, keyword: str) -> str:
        """Return the first value of a coded string in upper case with single blanks, or "" when it is absent."""
        return " ".join(self.text(keyword).upper().split())

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the values as finite numbers; none at all (with a warning) when any value is not a finite number."""
        values = self._values(keyword)
        try:
            numbers = tuple(float(v) for v in values)
        except (TypeError, ValueError, OverflowError):
            numbers = (math.nan,)
        if all(math.isfinite(number) for number in numbers):
            return numbers
        self._warn(f"the DICOM attribute {keyword} holds no numbers and was ignored")
        return ()

    def integer(self, keyword: str) -> int | None:
        """Return the first value as an integer, or ``None`` when it is absent or not a whole number."""
        number = next(iter(self.numbers(keyword)), None)
        return int(number) if number is not None and number == int(number) else None

    def words(self, keyword: str) -> tuple[int, ...]:
        """Return the values as 16-bit words without sign, whatever the value representation is (US, SS, OW, UN)."""
        value = self._value(keyword)
        if isinstance(value, bytes):
            big = self.dataset.original_encoding[1] is False
            usable = value[: len(value) // 2 * 2]
            return tuple(int(word) for word in np.frombuffer(usable, dtype=">u2" if big else "<u2"))
        return tuple(int(number) & 0xFFFF for number in self.numbers(keyword))

    def raw_bytes(self, keyword: str) -> bytes | None:
        """Return the value if it is stored as bytes (OB, OW, UN), else ``None``."""
        value = self._value(keyword)
        return value if isinstance(value, bytes) else None

    def items(self, keyword: str) -> tuple[Header, ...]:
        """Return the items of a sequence."""
        values = self._values(keyword)
        return tuple(Header(v, self.warnings, self.source) for v in values if isinstance(v, Dataset))
