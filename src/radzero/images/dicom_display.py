"""Turn stored DICOM values into display values: modality LUT, VOI LUT, presentation (PS3.3 C.11 and C.7.6.3.1.2).

Stored values have at most 16 bits, so the whole greyscale pipeline is one table with at most 65,536 entries,
computed in float64 and applied once::

    stored -> modality LUT or rescale -> VOI LUT sequence, window or default -> inversion for MONOCHROME1

*Presentation LUT Shape* restates the photometric interpretation (PS3.3 C.8.11.3: INVERSE goes with
MONOCHROME1, IDENTITY with MONOCHROME2). It therefore never causes a second inversion: the photometric
interpretation decides, and a contradicting shape gives a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dicom_header import Header
from .grey import row_blocks
from .radiograph import PaddingRange, StoredFilm, VoiLut, Window

_MOST_DIGITS = 12
"""A rescale with a slope outside 10^-12..10^12 or an intercept beyond 10^12 is ignored.

Without a limit, windowing the rescaled values could overflow float64.
"""
DEFAULT_WINDOW_PERCENT = (0.5, 99.5)


@dataclass(frozen=True)
class StoredPixels:
    """Decoded single-sample pixels.

    Attributes:
        words: unsigned integers (rows, columns) below 2**bits, in two's complement when ``signed``.
        bits: number of significant bits, 1..16.
        signed: whether ``words`` are two's complement.
    """

    words: NDArray[np.unsignedinteger]
    bits: int
    signed: bool

    def domain(self) -> NDArray[np.float64]:
        """Return the stored value of each word 0..2**bits - 1."""
        values: NDArray[np.float64] = np.arange(1 << self.bits, dtype=np.float64)
        if self.signed:
            values[1 << (self.bits - 1) :] -= 1 << self.bits
        return values

    def histogram(self) -> NDArray[np.int64]:
        """Return the number of pixels of each word 0..2**bits - 1."""
        counts = np.zeros(1 << self.bits, dtype=np.int64)
        for rows in row_blocks(*self.words.shape):
            counts += np.bincount(self.words[rows].ravel(), minlength=1 << self.bits)
        return counts


@dataclass(frozen=True)
class LookupTable:
    """A DICOM LUT: input ``first + i`` gives ``entries[i]``, and inputs outside the table are clamped to its ends."""

    entries: NDArray[np.float64]
    first: int
    bits: int
    name: str

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Round values to integers and map them."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        mapped: NDArray[np.float64] = self.entries[index.astype(np.int64)]
        return mapped


def render(stored: StoredPixels, header: Header, choices: list[str]) -> StoredFilm:
    """Return the stored values with the table that maps them to display values in 0..1.

    Args:
        stored: decoded pixels.
        header: the data set, with the photometric interpretation MONOCHROME1 or MONOCHROME2; warnings are appended to
            ``header.warnings``.
        choices: list to which the decisions are appended, in order.
    """
    counts = stored.histogram()
    padding = _exclude_padding(stored, counts, header, choices)
    values, modality_applied = _modality(stored.domain(), header, choices)
    chosen = _voi(values, counts, header, choices)
    if chosen is None:
        chosen = _default_window(values, counts, stored, modality_applied, choices)
    table, shown = chosen
    shown_by_window, lut = (None, shown) if isinstance(shown, VoiLut) else (shown, None)
    inverted = header.code("PhotometricInterpretation") == "MONOCHROME1"
    if inverted:
        table = 1.0 - table
        choices.append("MONOCHROME1: inverted")
    if padding is not None:
        padded = _is_padding(stored, padding)
        table = np.where(padded, 0.0, table)  # padding is black, at whichever end of the scale its value lies
        values = np.where(padded, np.nan, values)
    _check_presentation_shape(header)
    return StoredFilm(stored.words, values, table.astype(np.float32), shown_by_window, inverted, lut, padding)


def _exclude_padding(
    stored: StoredPixels, counts: NDArray[np.int64], header: Header, choices: list[str]
) -> PaddingRange | None:
    """Take padding out of the histogram, unless nothing would be left; return its range, or ``None`` without any."""
    padding = header.words("PixelPaddingValue")
    if not padding:
        return None
    limit = header.words("PixelPaddingRangeLimit") or padding
    low, high = sorted(_signed(word) if stored.signed else word for word in (padding[0], limit[0]))
    found = PaddingRange(low, high, stored.signed)
    padded = _is_padding(stored, found)
    number = int(counts[padded].sum())
    if not 0 < number < counts.sum():
        return None
    counts[padded] = 0
    choices.append(f"pixel padding {low}..{high}: {number} pixels left out of the window statistics and shown black")
    return found


def _is_padding(stored: StoredPixels, padding: PaddingRange) -> NDArray[np.bool_]:
    domain = stored.domain()
    return (domain >= padding.low) & (domain <= padding.high)


def _signed(word: int) -> int:
    return word - 0x10000 if word >= 0x8000 else word


def _modality(values: NDArray[np.float64], header: Header, choices: list[str]) -> tuple[NDArray[np.float64], bool]:
    """Apply the modality LUT or the rescale. Return the values and whether either was applied."""
    for item in header.items("ModalityLUTSequence")[:1]:
        lut = read_lut(item, values, "modality LUT", header)
        if lut is not None:
            choices.append(f"modality: LUT sequence, {len(lut.entries)} entries of {lut.bits} bits")
            return lut(values), True
    slope, intercept = read_rescale(header)
    if (slope, intercept) == (1.0, 0.0):
        return values, False
    choices.append(f"modality: rescale slope {slope:g} intercept {intercept:g}")
    return values * slope + intercept, True


def read_rescale(header: Header) -> tuple[float, float]:
    """Return the rescale slope and intercept; 1 and 0 where they are absent or (with a warning) out of range."""
    slope = next(iter(header.numbers("RescaleSlope")), 1.0)
    intercept = next(iter(header.numbers("RescaleIntercept")), 0.0)
    if slope == 0.0:
        header.warnings.append("Rescale Slope 0 is invalid and was taken as 1")
        slope = 1.0
    if abs(math.log10(abs(slope))) > _MOST_DIGITS or abs(intercept) > 10.0**_MOST_DIGITS:
        header.warnings.append(f"the rescale (slope {slope:g}, intercept {intercept:g}) is absurd and was ignored")
        return 1.0, 0.0
    return slope, intercept


def read_lut(item: Header, inputs: NDArray[np.float64], what: str, header: Header) -> LookupTable | None:
    """Read a LUT item; return ``None``, with a warning, when it is damaged.

    The descriptor's ambiguous value representation (US or SS) is resolved by the inputs: signed when these
    can be negative. Entries of up to 8 bits may be packed one per byte.
    """
    descriptor = item.words("LUTDescriptor")
    if len(descriptor) != 3:
        header.warnings.append(f"the {what} has no valid descriptor and was ignored")
        return None
    count = descriptor[0] or 1 << 16
    first = _signed(descriptor[1]) if inputs.min() < 0 else descriptor[1]
    bits = descriptor[2]
    packed = item.raw_bytes("LUTData")
    if packed is not None and bits <= 8 and count <= len(packed) < 2 * count:
        entries = np.frombuffer(packed, dtype=np.uint8).astype(np.float64)
    else:
        entries = np.array(item.words("LUTData"), dtype=np.float64)
    if not 1 <= bits <= 16 or len(entries) < count:
        header.warnings.append(
            f"the {what} is damaged and was ignored ({len(entries)} entries of {bits} bits, not {count})"
        )
        return None
    entries = entries[:count]
    largest = int(entries.max())
    if largest >= 1 << bits:
        actual = largest.bit_length()
        header.warnings.append(f"the {what} claims {bits} bits but its entries need {actual}")
        bits = actual
    return LookupTable(entries, first, bits, item.text("LUTExplanation"))


def _voi(
    values: NDArray[np.float64], counts: NDArray[np.int64], header: Header, choices: list[str]
) -> tuple[NDArray[np.float64], Window | VoiLut] | None:
    """Return the table of the file's first VOI LUT or window that shows anything, with that LUT or window; or None."""
    shown = counts > 0
    for item in header.items("VOILUTSequence"):
        lut = read_lut(item, values, "VOI LUT", header)
        if lut is None:
            continue
        mapped = lut(values)
        if np.ptp(mapped[shown]) == 0 and not _is_single(values[shown]):
            header.warnings.append("the VOI LUT maps the whole image to one value and was ignored")
            continue
        bits = lut.bits
        if lut.entries.max() * 2 < (1 << bits) - 1:
            bits = max(1, int(lut.entries.max()).bit_length())
            header.warnings.append(f"the VOI LUT claims {lut.bits} bits but uses {bits}, and was scaled to those")
        named = f" '{lut.name}'" if lut.name else ""
        choices.append(f"VOI: LUT sequence{named}, {len(lut.entries)} entries of {lut.bits} bits")
        white = float((1 << bits) - 1)
        return mapped / white, VoiLut(lut.first, np.rint(lut.entries * (65535 / white)).astype(np.uint16))
    centres, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    function = header.code("VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        header.warnings.append("VOI LUT Function is unknown and was taken as LINEAR")
        function = "LINEAR"
    for number, (centre, width) in enumerate(zip(centres, widths, strict=False), 1):
        if width < 1 if function == "LINEAR" else width <= 0:
            header.warnings.append(f"Window Width {width:g} is invalid for {function}; the window was ignored")
            continue
        table = window(values, centre, width, function)
        if np.ptp(table[shown]) == 0 and not _is_single(values[shown]):
            header.warnings.append(
                f"the window ({centre:g}, {width:g}) maps the whole image to one value and was ignored"
            )
            continue
        several = f", number {number} of {len(centres)}" if len(centres) > 1 else ""
        choices.append(f"VOI: window center {centre:g} width {width:g} ({function}){several}")
        return table, Window(centre, width, function)
    return None


def _is_single(values: NDArray[np.float64]) -> bool:
    return bool(values.min() == values.max())


def window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Apply a window center and width, and return values in 0..1 (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    LINEAR: 0 up to c - 0.5 - (w - 1) / 2, 1 above c - 0.5 + (w - 1) / 2, and
    (x - (c - 0.5)) / (w - 1) + 0.5 between; LINEAR_EXACT: the same without the 0.5 and the 1;
    SIGMOID: 1 / (1 + exp(-4 (x - c) / w)).

    Args:
        values: values of any shape, after the modality LUT.
        centre: window center.
        width: window width, at least 1 for LINEAR and above 0 otherwise.
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    if width == 0.0:
        return np.where(values <= centre, 0.0, 1.0)
    return np.clip((values - centre) / width + 0.5, 0.0, 1.0)


def _default_window(
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    stored: StoredPixels,
    modality_applied: bool,
    choices: list[str],
) -> tuple[NDArray[np.float64], Window]:
    """Return the table and the window for a file without VOI.

    Values of up to 8 unsigned bits without a modality LUT or rescale are shown at full range. All others are shown in a
    percentile window, or from minimum to maximum where both percentiles are the same.
    """
    if stored.bits <= 8 and not stored.signed and not modality_applied:
        full = (1 << stored.bits) - 1
        choices.append(f"no VOI in file: {stored.bits}-bit values divided by {full}")
        return values / full, Window(full / 2, full, "LINEAR_EXACT")
    low, high = (percentile(values, counts, percent) for percent in DEFAULT_WINDOW_PERCENT)
    name = "{:g}-{:g} percentile".format(*DEFAULT_WINDOW_PERCENT)
    if low == high:
        present = values[counts > 0]
        low, high, name = float(present.min()), float(present.max()), "minimum-maximum"
    choices.append(f"no VOI in file: {name} default window {low:g}..{high:g}")
    if low == high:
        return np.zeros_like(values), Window(low, 1.0, "LINEAR_EXACT")
    window = Window((low + high) / 2, high - low, "LINEAR_EXACT")
    return np.clip((values - low) / (high - low), 0.0, 1.0), window


def percentile(values: NDArray[np.float64], counts: NDArray[np.int64], percent: float) -> float:
    """Return the smallest value that at least ``percent`` % of the pixels do not exceed.

    Args:
        values: (N,) value of each histogram bin, in any order.
        counts: (N,) number of pixels in each bin; at least one bin has pixels.
        percent: share of the pixels in percent, 0..100.
    """
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    rank = max(1, int(np.ceil(percent / 100.0 * cumulative[-1])))
    return float(values[order][np.searchsorted(cumulative, rank)])


def _check_presentation_shape(header: Header) -> None:
    shape = header.code("PresentationLUTShape")
    photometric = header.code("PhotometricInterpretation")
    expected = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
    if shape in ("INVERSE", "IDENTITY") and expected.get(photometric, shape) != shape:
        header.warnings.append(f"Presentation LUT Shape {shape} contradicts {photometric}, which was followed")
