"""Read DICOM files into :class:`Radiograph`.

| case | what is done |
| --- | --- |
| CR, DX, digitised film (RG) | read |
| OT, SC, XA, RF, MG, dental, unknown modality, one grey frame | read, warning |
| CT, MR, US, PET, microscopy, photographs, ... | ``not_a_radiograph`` |
| structured report | ``structured_report`` |
| RT plan, presentation state, header only | ``no_pixel_data`` |
| more than one frame | ``multi_frame`` |
| MONOCHROME1 | inverted, as the last step |
| Presentation LUT Shape | no second inversion; a contradiction gives a warning |
| RGB, YBR, PALETTE COLOR | grey content is read; a colour picture is refused, ``colour`` |
| modality LUT sequence, rescale | applied |
| VOI LUT sequence | first item that shows anything, preferred over a window |
| window center and width | first pair that shows anything, by its VOI LUT function |
| a VOI that is invalid or shows nothing | default window, warning |
| no VOI, up to 8 unsigned bits, no modality LUT or rescale | full range |
| no VOI otherwise | 0.5-99.5 percentile window, computed without pixel padding |
| overlay or other bits above Bits Stored | masked |
| Bits Stored above 16, float pixel data | ``unsupported`` |
| truncated pixel data, codestream without end | ``truncated`` |
| compressed frame with another size than the header | ``bad_header`` |
| body part is not the chest, species is not human | read, warning |
| lateral, oblique or decubitus view | read, warning: the model expects a frontal view |
| patient orientation mirrored or upside down | read as stored, warning |
| looks like a negative | read as the header says, warning |
| for-processing image | read, warning |
| non-square pixels | read, warning |
| display shutter, burned-in annotation, overlay planes | ignored |
| no preamble or file meta information | read when the first elements are valid; they tell the encoding |
| deflated | inflated up to a limit, beyond it ``too_large`` |
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, convert_color_space, get_decoder

from radzero._warnings import quiet, recorded

from .codestream import (
    MOST_SCANS,
    CodestreamError,
    FrameHeader,
    TruncatedCodestreamError,
    count_jpeg_scans,
    decode_rle,
    jpeg2000_header,
    jpeg_header,
)
from .dicom_content import facts, judge_content, read_spacing, read_view
from .dicom_display import StoredPixels, render
from .dicom_header import DicomFile, Header, TransferSyntax, open_dicom
from .grey import grey_from_colour
from .radiograph import (
    DicomHeader,
    Radiograph,
    RadiographError,
    ReadLimits,
    ReadOptions,
    Reason,
    StoredFilm,
    check_not_constant,
    check_size,
    refusing,
)

NOT_RADIOGRAPHY = frozenset(
    (
        *(
            "AR",
            "ASMT",
            "AU",
            "BDUS",
            "BI",
            "BMD",
            "CD",
            "CFM",
            "CP",
            "CS",
            "CT",
            "DD",
            "DG",
            "DM",
            "DMS",
            "ECG",
        ),
        *(
            "EPS",
            "ES",
            "FA",
            "FS",
            "GM",
            "HD",
            "IVOCT",
            "IVUS",
            "KER",
            "LE",
            "LEN",
            "LP",
            "LS",
            "MA",
            "MR",
            "MS",
        ),
        *(
            "NM",
            "OAM",
            "OCT",
            "OP",
            "OPM",
            "OPR",
            "OPT",
            "OPTBSV",
            "OPTENF",
            "OPV",
            "OSS",
            "PT",
            "RESP",
            "RTDOSE",
        ),
        *("RTIMAGE", "SEG", "SM", "SRF", "ST", "TG", "US", "VA", "VF", "XC"),
    )
)
"""Modalities whose images are no projection radiographs (PS3.3 C.7.3.1.1.1)."""
NOT_RADIOGRAPHY_SOP = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
}
STRUCTURED_REPORT_SOP = "1.2.840.10008.5.1.4.1.1.88."

COLOUR_PHOTOMETRICS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})

_DAMAGED = "Ask the archive (PACS) for the file again"


def read_dicom(file: BinaryIO, source: str, options: ReadOptions) -> Radiograph:
    """Read an open DICOM file.

    Args:
        file: open binary file that :func:`~radzero.images.dicom_header.sniff_dicom` takes for DICOM.
        source: name of the file in errors.
        options: the limits, checked against the header before decoding, and what the radiograph keeps.

    Raises:
        RadiographError: when the file is refused; see the table of this module.
    """
    warnings: list[str] = []
    # pydicom warns about every irregular value, and some values are names: only warnings about structure and decoding
    # are kept, by _recorded
    with quiet():
        with _recorded(warnings):
            opened = open_dicom(file, source, options.limits)
        header = Header(opened.header, warnings, source)
        _refuse_other_objects(opened, header)
        _check_image_header(header, options.limits)
        with _recorded(warnings):
            rest = opened.read_rest()
        size = file.seek(0, os.SEEK_END)
        kept = DicomHeader(opened.header, opened.syntax, size) if options.keep_header else None
        return _render(opened, header, rest, options.keep_stored, kept)


@contextmanager
def _recorded(warnings: list[str]) -> Iterator[None]:
    """Collect pydicom's warnings about structure and pixels. The block must not convert values that may be names."""
    with recorded() as caught:
        yield
    warnings += [f"pydicom: {' '.join(text.split())[:200]}" for text in caught]


def _refuse_other_objects(opened: DicomFile, header: Header) -> None:
    """Refuse reports, plans, header-only files, other modalities and multi-frame images."""
    source, sop, modality = header.source, header.text("SOPClassUID"), header.code("Modality")
    if sop.startswith(STRUCTURED_REPORT_SOP) or modality in ("SR", "KO"):
        raise RadiographError(
            source,
            Reason.STRUCTURED_REPORT,
            "this is a DICOM structured report, it holds text and no image",
            "Pass the image of the same study",
        )
    if not opened.has_pixel_data:
        what = modality or "unknown modality"
        raise RadiographError(
            source,
            Reason.NO_PIXEL_DATA,
            f"the DICOM file ({what}) holds no pixel data: "
            "it is cut short, or is no image (a plan, a presentation state)",
            "Pass the file of the image itself",
        )
    other = modality if modality in NOT_RADIOGRAPHY else NOT_RADIOGRAPHY_SOP.get(sop)
    if other is not None:
        raise RadiographError(
            source,
            Reason.NOT_A_RADIOGRAPH,
            f"modality {other} is not a projection radiograph",
            "Pass a CR or DX chest radiograph",
        )
    frames = header.integer("NumberOfFrames")
    if frames is not None and frames > 1:
        raise RadiographError(
            source,
            Reason.MULTI_FRAME,
            f"the DICOM file holds {frames} frames",
            "Save the frame you mean as a file of its own",
        )


def _required(header: Header, keyword: str) -> int:
    value = header.integer(keyword)
    if value is None or value < 0:
        raise RadiographError(
            header.source, Reason.BAD_HEADER, f"the DICOM attribute {keyword} is missing or invalid", _DAMAGED
        )
    return value


def _check_image_header(header: Header, limits: ReadLimits) -> None:
    """Refuse an image by its size, bit depth or photometric interpretation, before any pixel is read."""
    source = header.source
    samples = header.integer("SamplesPerPixel")
    samples = 1 if samples is None else samples
    check_size(source, _required(header, "Rows"), _required(header, "Columns"), max(samples, 1), limits)
    photometric = header.code("PhotometricInterpretation")
    expected = {
        "MONOCHROME1": 1,
        "MONOCHROME2": 1,
        "PALETTE COLOR": 1,
        **dict.fromkeys(COLOUR_PHOTOMETRICS, 3),
    }
    if expected.get(photometric) != samples:
        raise RadiographError(
            source,
            Reason.UNSUPPORTED if photometric not in expected else Reason.BAD_HEADER,
            f"photometric interpretation '{photometric[:20]}' with {samples} sample(s) is not supported",
            "Convert the image to MONOCHROME2",
        )
    allocated, stored = _required(header, "BitsAllocated"), _required(header, "BitsStored")
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= min(allocated, 16):
        raise RadiographError(
            source,
            Reason.UNSUPPORTED,
            f"{stored} bits stored in {allocated} bits allocated are not supported",
            "Convert the image to at most 16 bits stored in 8 or 16 bits allocated",
        )


def _render(
    opened: DicomFile, header: Header, rest: Dataset, keep_stored: bool, kept: DicomHeader | None
) -> Radiograph:
    source, choices = header.source, [f"transfer syntax: {opened.syntax.label}"]
    samples = header.integer("SamplesPerPixel") or 1
    photometric = header.code("PhotometricInterpretation")
    pixel_data = _pixel_data(rest, source)
    film: StoredFilm | None = None
    if samples == 1 and photometric != "PALETTE COLOR":
        stored = _decode_grey(opened, header, rest, pixel_data)
        if stored.bits == 1:
            header.warnings.append("the image has only two grey levels (1 bit)")
        film = render(stored, header, choices)
        pixels = film.display()
    else:
        colour, scale = _decode_colour(opened, header, rest, pixel_data)
        grey = grey_from_colour(colour, scale, source)
        pixels = grey.pixels
        choices += [f"{photometric}: converted to RGB", *grey.choices]
        header.warnings += grey.warnings
    check_not_constant(source, pixels)
    spacing = read_spacing(header, choices)
    view = read_view(header, choices)
    judge_content(header, view, pixels)
    laterality = header.code("ImageLaterality") or header.code("Laterality")
    return Radiograph(
        pixels=pixels,
        source=source,
        spacing=spacing,
        laterality=laterality if laterality in ("L", "R", "B", "U") else None,
        view=view,
        warnings=tuple(dict.fromkeys(header.warnings)),
        choices=tuple(choices),
        dicom=facts(header, opened.syntax, film),
        stored=film if keep_stored else None,
        header=kept,
    )


def _pixel_data(rest: Dataset, source: str) -> bytes:
    value: Any = None
    with refusing(source, Reason.TRUNCATED, "the pixel data can not be read", _DAMAGED):
        if "FloatPixelData" in rest or "DoubleFloatPixelData" in rest:
            raise RadiographError(
                source,
                Reason.UNSUPPORTED,
                "float pixel data is not supported",
                "Pass the original radiograph",
            )
        value = rest["PixelData"].value if "PixelData" in rest else None
    if value is None or (isinstance(value, bytes) and not value):
        raise RadiographError(source, Reason.TRUNCATED, "the file ends inside its pixel data", _DAMAGED)
    if not isinstance(value, bytes):
        raise RadiographError(source, Reason.BAD_HEADER, "the pixel data is stored as something else", _DAMAGED)
    return value


def _decode_grey(opened: DicomFile, header: Header, rest: Dataset, pixel_data: bytes) -> StoredPixels:
    """Decode single-sample pixels and extract the stored bits from the allocated ones (PS3.5 8.1.1)."""
    syntax = opened.syntax
    allocated, bits = _required(header, "BitsAllocated"), _required(header, "BitsStored")
    signed = header.integer("PixelRepresentation") == 1
    array, frame = _decode(opened, header, rest, pixel_data, samples=1)
    words = array.view(array.dtype.str.replace("i", "u"))
    if frame is not None and (syntax.is_jpeg_2000 or syntax.is_jpeg_ls):
        # these codestreams state their own precision, and openjpeg extends the sign beyond it
        if frame.precision != bits:
            header.warnings.append(f"Bits Stored {bits} contradicts the codestream's precision {frame.precision}")
        shift, bits = 0, frame.precision
    else:
        high = header.integer("HighBit")
        shift = 0 if high is None else high + 1 - bits
        if not 0 <= shift <= allocated - bits:
            header.warnings.append(f"High Bit {high} contradicts Bits Stored {bits} and was ignored")
            shift = 0
    words = np.ascontiguousarray(words).astype(words.dtype.newbyteorder("="), copy=False)
    if shift:
        words = words >> words.dtype.type(shift)
    if 8 * words.dtype.itemsize > bits:
        words = words & words.dtype.type((1 << bits) - 1)
    return StoredPixels(words.astype(np.uint16 if bits > 8 else np.uint8, copy=False), bits, signed)


def _decode_colour(
    opened: DicomFile, header: Header, rest: Dataset, pixel_data: bytes
) -> tuple[NDArray[np.integer], int]:
    """Decode to RGB. Return the samples (rows, columns, 3) and their full scale."""
    source, bits = header.source, _required(header, "BitsStored")
    if header.code("PhotometricInterpretation") == "PALETTE COLOR":
        stored = _decode_grey(opened, header, rest, pixel_data)
        with refusing(source, Reason.BAD_HEADER, "the colour palette can not be applied", _DAMAGED):
            rgb = apply_color_lut(stored.words, header.dataset)
        return rgb[..., :3], 255 if rgb.dtype == np.uint8 else 65535
    array, _ = _decode(opened, header, rest, pixel_data, samples=3)
    scale = (1 << bits) - 1
    return np.minimum(array, scale), scale


def _decode(
    opened: DicomFile, header: Header, rest: Dataset, pixel_data: bytes, *, samples: int
) -> tuple[NDArray[Any], FrameHeader | None]:
    """Decode the single frame to unsigned integers (rows, columns), or RGB (rows, columns, 3).

    Return the array and, for a compressed frame other than RLE, the frame's own header.
    """
    source, syntax = header.source, opened.syntax
    rows, columns = _required(header, "Rows"), _required(header, "Columns")
    allocated = _required(header, "BitsAllocated")
    photometric = header.code("PhotometricInterpretation")
    frame: FrameHeader | None = None
    if not syntax.is_native:
        with refusing(source, Reason.TRUNCATED, "the compressed frame can not be found", _DAMAGED):
            encoded = get_frame(pixel_data, 0, number_of_frames=1)
        if syntax is TransferSyntax.RLE:
            return _decode_rle(encoded, header, rows, columns, samples, allocated), None
        frame = _frame_header(encoded, header, syntax, rows, columns, samples)
        allocated = 8 if frame.precision <= 8 else 16
    else:
        _refuse_short(pixel_data, header, rows, columns, samples, allocated)

    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "bits_allocated": allocated,
        "bits_stored": min(_required(header, "BitsStored"), allocated),
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2" if samples == 1 else photometric,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
        "pixel_vr": str(rest["PixelData"].VR),
    }
    if samples == 3:
        options["planar_configuration"] = header.integer("PlanarConfiguration") or 0
    # the caller handles the sign and the unused bits, in one place for every syntax
    if syntax.is_jpeg_2000:
        options["apply_j2k_sign_correction"] = False
    elif syntax.is_jpeg_ls:
        options["apply_jls_sign_correction"] = False
    else:
        options["correct_unused_bits"] = False
    if syntax.is_native and samples == 1:
        options["view_only"] = True  # this saves a copy, since the array is never written to
    plugin = "" if syntax.is_native else "pylibjpeg"
    with (
        refusing(source, Reason.BAD_PIXELS, f"the {syntax.label} pixel data can not be decoded", _DAMAGED),
        _recorded(header.warnings),
    ):
        decoder = get_decoder(syntax.value)
        array: NDArray[Any] = decoder.as_array(pixel_data, index=0, decoding_plugin=plugin, **options)[0]
    return array, frame


def _refuse_short(pixel_data: bytes, header: Header, rows: int, columns: int, samples: int, allocated: int) -> None:
    bits = rows * columns * samples * allocated
    if header.code("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits // 3 * 2
    expected = -(-bits // 8)
    if len(pixel_data) < expected:
        raise RadiographError(
            header.source,
            Reason.TRUNCATED,
            f"{len(pixel_data):,} bytes of pixel data instead of {expected:,}",
            _DAMAGED,
        )


def _decode_rle(encoded: bytes, header: Header, rows: int, columns: int, samples: int, allocated: int) -> NDArray[Any]:
    if allocated == 1:
        raise RadiographError(header.source, Reason.UNSUPPORTED, "1-bit RLE is not supported", "Convert it to 8 bits")
    try:
        planes = decode_rle(encoded, rows, columns, samples, allocated)
    except TruncatedCodestreamError as exc:
        raise RadiographError(header.source, Reason.TRUNCATED, str(exc), _DAMAGED) from exc
    except CodestreamError as exc:
        raise RadiographError(header.source, Reason.BAD_PIXELS, str(exc), _DAMAGED) from exc
    if samples == 1:
        return planes.reshape(rows, columns)
    array: NDArray[Any] = np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    if header.code("PhotometricInterpretation").startswith("YBR_FULL"):
        with refusing(header.source, Reason.BAD_PIXELS, "the colour space can not be converted", _DAMAGED):
            rgb: NDArray[Any] = convert_color_space(array, "YBR_FULL", "RGB")
        return rgb
    return array


def _frame_header(
    encoded: bytes, header: Header, syntax: TransferSyntax, rows: int, columns: int, samples: int
) -> FrameHeader:
    """Read a compressed frame's own header; refuse a frame that is damaged, unsupported or unlike the DICOM header."""
    try:
        frame = jpeg2000_header(encoded) if syntax.is_jpeg_2000 else jpeg_header(encoded)
    except TruncatedCodestreamError as exc:
        raise RadiographError(header.source, Reason.TRUNCATED, str(exc), _DAMAGED) from exc
    except CodestreamError as exc:
        raise RadiographError(header.source, Reason.BAD_PIXELS, str(exc), _DAMAGED) from exc
    if (frame.rows, frame.columns, frame.components) != (rows, columns, samples):
        raise RadiographError(
            header.source,
            Reason.BAD_HEADER,
            f"the compressed frame is {frame.rows} x {frame.columns} x {frame.components}, "
            f"the header says {rows} x {columns} x {samples}",
            _DAMAGED,
        )
    if not syntax.is_jpeg_2000 and (scans := count_jpeg_scans(encoded)) > MOST_SCANS:
        raise RadiographError(
            header.source,
            Reason.TOO_LARGE,
            f"the JPEG frame has {scans:,} scans, {MOST_SCANS} at most are read",
            _DAMAGED,
        )
    if not 1 <= frame.precision <= 16:
        raise RadiographError(
            header.source,
            Reason.UNSUPPORTED,
            f"{frame.precision} bits per sample are not supported",
            "Convert the image to at most 16 bits",
        )
    return frame
