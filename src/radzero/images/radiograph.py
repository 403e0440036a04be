"""Define :class:`Radiograph`, into which a file is read, and the error that says why a file could not be read.

``Radiograph.pixels`` are *display* values, 0 (black) to 1 (white) with bones bright, so that a PNG, a JPEG
and a DICOM file of the same exposure look the same to the code that uses them. Every decision on the way
there is kept in ``Radiograph.choices``, and everything that the user should know in ``Radiograph.warnings``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radzero.errors import RadZeroError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from .dicom_header import TransferSyntax

MIN_SIDE = 32
"""Least side of an image in pixels; an image with a shorter side shows no finding that could be read."""
INVERTED_MARGIN = 0.05
"""Lungs minus mediastinum, in display values 0..1, above which an image is suspected to be a negative.

Of 145 real frontal views, normal and white-out, none comes above -0.07.
"""


class Reason(StrEnum):
    """Reason why an image was refused, as a stable code for programs."""

    NOT_FOUND = "not_found"
    """There is no file of this name."""
    UNREADABLE = "unreadable"
    """The file cannot be opened or read: it is a folder or a device, or may not be read."""
    EMPTY = "empty"
    """The file has 0 bytes."""
    NOT_AN_IMAGE = "not_an_image"
    """The content has none of the known formats."""
    UNSUPPORTED = "unsupported"
    """The file is valid, and of a kind that is not read here, such as an unknown transfer syntax."""
    TRUNCATED = "truncated"
    """The file ends before its image does."""
    NO_PIXEL_DATA = "no_pixel_data"
    """The DICOM file has no pixel data, as a presentation state has none."""
    STRUCTURED_REPORT = "structured_report"
    """The DICOM file is a structured report."""
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    """The DICOM file's modality is no projection radiography, such as CT."""
    MULTI_FRAME = "multi_frame"
    """The file holds several pages or frames."""
    COLOUR = "colour"
    """The picture is in colour, beyond one tint of grey."""
    TOO_LARGE = "too_large"
    """The file or image exceeds a limit of :class:`ReadLimits`, or memory ran out."""
    TOO_SMALL = "too_small"
    """A side is shorter than a radiograph's can be, as in a thumbnail."""
    CONSTANT = "constant"
    """Every pixel has the same value."""
    BAD_HEADER = "bad_header"
    """The header is damaged, or its values contradict each other or the content."""
    BAD_PIXELS = "bad_pixels"
    """The pixel values are damaged, or are no grey values: a mask, NaN, another type."""
    BAD_SHAPE = "bad_shape"
    """The array's shape is not that of one image."""


class RadiographError(RadZeroError, ValueError):
    """An image can not be read as one radiograph.

    The message is ``"<source>: <cause>. <remedy>."``.

    Attributes:
        source: the file path, or a description of the object ("numpy array (3, 4)").
        reason: a machine code, stable between releases.
        cause: what is wrong.
        remedy: what to do about it.
    """

    def __init__(self, source: str, reason: Reason, cause: str, remedy: str) -> None:
        self.source = source
        self.reason = reason
        self.cause = cause.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.source}: {self.cause}. {self.remedy}.")

    def __reduce__(self) -> tuple[type[RadiographError], tuple[str, Reason, str, str]]:
        """Pickle the constructor's arguments, so that the error can come from a data loader's worker process."""
        return type(self), (self.source, self.reason, self.cause, self.remedy)


@contextmanager
def refusing(source: str, reason: Reason, cause: str, remedy: str) -> Iterator[None]:
    """Turn whatever a third-party parser or codec raises on a malformed file into :class:`RadiographError`.

    Pillow, pydicom and the JPEG codecs raise nearly every exception type there is when a file is damaged, so
    every ``Exception`` is caught. Only calls into those libraries belong inside.

    Raises:
        RadiographError: from the original exception, whose text is appended to ``cause``. The reason is ``too_large``
            instead of ``reason`` where memory runs out.
    """
    try:
        yield
    except RadiographError:
        raise
    except MemoryError as exc:
        raise RadiographError(
            source, Reason.TOO_LARGE, f"{cause}: not enough memory", "Read it on a machine with more memory"
        ) from exc
    except Exception as exc:
        detail = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise RadiographError(source, reason, f"{cause}: {detail}", remedy) from exc


@dataclass(frozen=True)
class ReadLimits:
    """Limits beyond which a file is refused before it is decoded (decompression bombs, wrong files).

    Attributes:
        max_pixels: most rows x columns x samples per pixel; checked against the header, before decoding.
        max_file_bytes: greatest size of the file, in bytes.
        max_inflated_bytes: greatest size of a deflated DICOM data set after inflation, in bytes.
        max_header_reads: greatest number of pieces in which a DICOM file may be read, two or three per data element. A
            data element takes some hundred bytes of memory, however few bytes it has in the file.
    """

    max_pixels: int = 100_000_000
    max_file_bytes: int = 1 << 30
    max_inflated_bytes: int = 1 << 29
    max_header_reads: int = 500_000

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_file_bytes", "max_inflated_bytes", "max_header_reads"):
            if getattr(self, name) < 1:
                raise ValueError(f"ReadLimits.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class ReadOptions:
    """Limits of a reader, and what it keeps besides the pixels.

    Attributes:
        limits: limits beyond which a file is refused.
        keep_stored: keep a DICOM file's values before the window (:attr:`Radiograph.stored`).
        keep_header: keep a DICOM file's whole header (:attr:`Radiograph.header`), which names the patient.
    """

    limits: ReadLimits = field(default_factory=ReadLimits)
    keep_stored: bool = False
    keep_header: bool = False


@dataclass(frozen=True)
class Window:
    """A window of modality values (PS3.3 C.11.2.1.2): centre, width, and LINEAR, LINEAR_EXACT or SIGMOID."""

    centre: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True, eq=False)
class VoiLut:
    """A VOI LUT as it was applied: modality value ``first + i`` is shown as ``entries[i]``, uint16 in 0..65535."""

    first: int
    entries: NDArray[np.uint16]


@dataclass(frozen=True)
class PaddingRange:
    """Stored values that are padding, from ``low`` to ``high``; ``signed`` tells whether stored values are signed."""

    low: int
    high: int
    signed: bool


@dataclass(frozen=True, eq=False)
class StoredFilm:
    """Grey values before the window, for a viewer that lets its user choose another window.

    Attributes:
        words: (H, W) unsigned integers, indices into ``values`` and ``table``.
        values: (K,) modality value of each word, such as the rescaled stored value; NaN where the word is padding.
        table: (K,) float32 display value of each word, in 0..1, from which :attr:`Radiograph.pixels` was made.
        window: window of modality values that made the table; None where a VOI LUT made it.
        inverted: whether low values are bright (MONOCHROME1).
        lut: VOI LUT that made the table; None where a window made it.
        padding_range: stored values that are padding; None where none are.
    """

    words: NDArray[np.unsignedinteger]
    values: NDArray[np.float64]
    table: NDArray[np.float32]
    window: Window | None
    inverted: bool
    lut: VoiLut | None = None
    padding_range: PaddingRange | None = None

    @property
    def padding(self) -> NDArray[np.bool_]:
        """Whether each word is padding, (K,). Padding is background without a value and is shown black."""
        return np.isnan(self.values)

    def display(self) -> NDArray[np.float32]:
        """Return display values (H, W) in 0..1, by looking up every word in the table."""
        pixels = np.empty(self.words.shape, dtype=np.float32)
        for start in range(0, len(pixels), 256):  # an index array of the whole image would take 8 bytes per pixel
            pixels[start : start + 256] = self.table[self.words[start : start + 256]]
        return pixels


@dataclass(frozen=True)
class DicomFacts:
    """Header values of a DICOM file, without anything that names the patient. Absent values are ``None``.

    The image was displayed with ``window`` or ``lut``, except for values in ``padding_range``, which are black. All
    three are ``None`` for a colour image.
    """

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    modality: str | None
    photometric_interpretation: str
    transfer_syntax: str
    body_part: str | None
    patient_orientation: str | None
    window: Window | None = None
    lut: VoiLut | None = field(default=None, compare=False, repr=False)
    padding_range: PaddingRange | None = None


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """A DICOM file's header as it was parsed, for code that makes DICOM objects of a result. It names the patient.

    Attributes:
        dataset: every element up to the pixel data.
        syntax: the transfer syntax.
        size: size of the file, in bytes.
    """

    dataset: Dataset
    syntax: TransferSyntax
    size: int


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One radiograph as a radiologist sees it.

    Attributes:
        pixels: float32 (height, width), C-contiguous, 0 (black) to 1 (white), bones bright.
        spacing: millimetres (between rows, between columns), or ``None`` when the file does not say.
        laterality: "L", "R", "B" (both) or "U" (unpaired) from the DICOM header.
        view: "PA", "AP", "LATERAL", "OBLIQUE", ..., or ``None`` when the file does not say.
        source: the file path, or a description of the object that was read.
        warnings: what a user should know before trusting a result.
        choices: every decision made between the stored and the displayed values, in order.
        dicom: header facts when the source is a DICOM file.
        stored: values before the window, when ``keep_stored`` was set and the source is a grey DICOM file.
        header: the whole header of a DICOM file, when ``keep_header`` was set.
    """

    pixels: NDArray[np.float32]
    source: str
    spacing: tuple[float, float] | None = None
    laterality: str | None = None
    view: str | None = None
    warnings: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    dicom: DicomFacts | None = None
    stored: StoredFilm | None = field(default=None, repr=False)
    header: DicomHeader | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.float32 or pixels.ndim != 2 or not pixels.flags.c_contiguous:
            raise ValueError(
                f"Radiograph.pixels must be C-contiguous float32 (H, W), not {pixels.dtype} {pixels.shape}"
            )
        # min and max propagate NaN, so one comparison refuses NaN, infinities and values out of range
        if pixels.size == 0 or not (pixels.min() >= 0.0 and pixels.max() <= 1.0):
            raise ValueError("Radiograph.pixels must be non-empty, finite and within 0..1")

    def __repr__(self) -> str:
        said = f"Radiograph({self.source!r}, {self.height} x {self.width}, view={self.view!r}"
        return f"{said}, warnings={self.warnings!r})"

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    def to_uint8(self) -> NDArray[np.uint8]:
        """Return round(pixels * 255) as uint8 (H, W). An 8-bit grey source comes back exactly."""
        levels: NDArray[np.uint8] = np.rint(self.pixels * np.float32(255)).astype(np.uint8)
        return levels

    def to_rgb(self) -> Image.Image:
        """Return an RGB Pillow image (W x H) with three equal 8-bit channels."""
        return Image.fromarray(self.to_uint8()).convert("RGB")


def check_size(source: str, height: int, width: int, samples: int, limits: ReadLimits) -> None:
    """Refuse an image by its header, before anything is decoded.

    Args:
        source: name of the image in errors.
        height: number of rows.
        width: number of columns.
        samples: samples per pixel (1 grey, 3 RGB, 4 RGBA).
        limits: limits beyond which the image is refused.

    Raises:
        RadiographError: ``too_large`` or ``too_small``.
    """
    total = height * width * samples
    if total > limits.max_pixels:
        raise RadiographError(
            source,
            Reason.TOO_LARGE,
            f"the header asks for {height} x {width} pixels, {samples} sample(s): "
            f"{total:,}, more than the limit of {limits.max_pixels:,}",
            f"If the file is genuine, raise the limit: --max-pixels {total}, or limits=ReadLimits(max_pixels={total})",
        )
    if min(height, width) < MIN_SIDE:
        raise RadiographError(
            source,
            Reason.TOO_SMALL,
            f"the image is {height} x {width} pixels (rows x columns); a side shorter than {MIN_SIDE} is no radiograph",
            "Pass the full-size image, not a thumbnail or an icon",
        )


def check_not_mask(source: str, pixels: NDArray[np.float32]) -> None:
    """Refuse an image that is only black and white, as a mask is, even after JPEG has blurred its edges.

    Raises:
        RadiographError: ``bad_pixels``.
    """
    dark, bright = float((pixels < 0.06).mean()), float((pixels > 0.94).mean())
    if dark + bright > 0.985 and min(dark, bright) > 0.0005:
        raise RadiographError(
            source,
            Reason.BAD_PIXELS,
            f"{dark + bright:.1%} of its pixels are black or white: this is a mask or a drawing, not a radiograph",
            "Pass the film that it belongs to",
        )


def check_not_constant(source: str, pixels: NDArray[np.float32]) -> None:
    """Refuse an image whose pixels are all equal.

    Raises:
        RadiographError: ``constant``.
    """
    if pixels.min() == pixels.max():
        raise RadiographError(
            source,
            Reason.CONSTANT,
            f"every pixel has the same value ({float(pixels.min()):.4g} of 0..1), there is nothing to read",
            "Check the export that made this file",
        )


def polarity_warnings(pixels: NDArray[np.float32]) -> tuple[str, ...]:
    """Return a warning when the image looks like a negative: the lung fields are brighter than the mediastinum.

    Public data sets contain files with the wrong photometric interpretation, and PNG exports of MONOCHROME1 that nobody
    inverted. The pixels are never changed on this suspicion, because it assumes a frontal chest.

    Args:
        pixels: float32 (H, W) in 0..1.
    """
    height, width = pixels.shape

    def median(rows: tuple[float, float], columns: tuple[float, float]) -> float:
        top, bottom = (int(share * height) for share in rows)
        left, right = (int(share * width) for share in columns)
        return float(np.median(pixels[top : bottom + 1 : 4, left : right + 1 : 4]))

    mediastinum = median((0.35, 0.75), (0.45, 0.55))
    lungs = (median((0.25, 0.55), (0.20, 0.35)) + median((0.25, 0.55), (0.65, 0.80))) / 2
    if lungs - mediastinum <= INVERTED_MARGIN:
        return ()
    return ("the image may be inverted (lungs brighter than the mediastinum): check that bones are bright",)
