"""Read the attributes of a DICOM header that results repeat: patient, study, image. Invalid values count as absent."""

import math
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import XRayAngiographicImageStorage, XRayRadiofluoroscopicImageStorage
from pydicom.valuerep import DSfloat

from radzero._warnings import quiet
from radzero.errors import RadZeroError
from radzero.images import RadiographError, ReadLimits, Reason
from radzero.images.dicom_display import read_lut, read_rescale
from radzero.images.dicom_header import Header, TransferSyntax, bytes_beyond_reason, open_dicom, sniff_dicom
from radzero.images.radiograph import DicomHeader, refusing

IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Attributes that a result needs in order to refer to an image."""
OF_PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize"),
    *("PatientWeight", "PatientComments", "EthnicGroup", "PatientSpeciesDescription", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "TimezoneOffsetFromUTC"),
)
"""Attributes that every result repeats where the image has them."""
_CARRIED = (
    *IDENTITY,
    *OF_PATIENT_AND_STUDY,
    *("Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality"),
    *("PatientOrientation", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing"),
    *("ImagerPixelSpacing", "RescaleSlope", "RescaleIntercept", "RescaleType", "InstanceNumber", "SeriesNumber"),
    *("Manufacturer", "BurnedInAnnotation", "PixelAspectRatio", "NominalScannedPixelSpacing", "NumberOfFrames"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
_EMPTY_WHEN_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
_LOSSY = dict.fromkeys((TransferSyntax.JPEG_BASELINE, TransferSyntax.JPEG_EXTENDED), "ISO_10918_1")
"""Lossy Image Compression Method of each transfer syntax that is always lossy."""
_WAYS = re.compile(r"[APRLHF]{1,3}|(LE|RT|D|V|CR|CD|R|M|L|DI|PR|PA|PL){1,3}")
"""Valid values of Patient Orientation, biped or quadruped (PS3.3 C.7.6.1.1.1)."""
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
_MAY_HAVE_FRAMES = (XRayAngiographicImageStorage, XRayRadiofluoroscopicImageStorage)
"""SOP classes of many frames whose Number of Frames may be absent; only images of one frame are read."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONG_TEXTS = frozenset(("LT", "ST", "UT"))


class ResultError(RadZeroError, ValueError):
    """A reading cannot become a DICOM object; the message names the image and the cause."""


def read_header(source: str | os.PathLike[str] | bytes, *, limits: ReadLimits | None = None) -> Dataset:
    """Return the attributes of a DICOM image that results repeat or refer to, in UTF-8.

    A value that breaks DICOM's own rules (a birth date that is no date) counts as absent. Pixels are not decoded.

    Raises:
        RadiographError: when the file or its header cannot be read.
        ResultError: when it is no DICOM file, or has no identity that a result could refer to.
    """
    name = f"{len(source):,} bytes" if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise RadiographError(name, Reason.UNREADABLE, f"the file can not be opened ({error})", "Check it") from error
    if not sniff_dicom(content[:1024], len(content)):
        return result_header(None, name)
    with quiet():  # pydicom warns about irregular values, some of them names of patients
        opened = open_dicom(BytesIO(content), name, limits or ReadLimits())
    return result_header(DicomHeader(opened.header, opened.syntax, len(content)), name)


def result_header(full: DicomHeader | None, name: str) -> Dataset:
    """Do what :func:`read_header` does, with the header of an image that has been read; it is not parsed again.

    Args:
        full: :attr:`radzero.Radiograph.header`; None for an image that is no DICOM file.
        name: name of the image, for error messages.

    Raises:
        RadiographError: see :func:`read_header`.
        ResultError: see :func:`read_header`.
    """
    if full is None:
        raise ResultError(f"{name}: is no DICOM file, so there is no study that a DICOM result could belong to")
    with quiet(), refusing(name, Reason.BAD_HEADER, "its header cannot be repeated in a result", "Check the file"):
        header = _carried(full.dataset, name)
        _note_losses(header, full.syntax, full.size)
    missing = [keyword for keyword in IDENTITY if not header.get(keyword)]
    if missing:
        raise ResultError(f"{name}: the header has no valid {', '.join(missing)}, which a DICOM result must refer to")
    return header


def _carried(full: Dataset, name: str) -> Dataset:
    header = Dataset()
    for keyword in _CARRIED:
        if (element := _valid(full, keyword)) is not None:
            header.add(element)
    reader = Header(full, [], name)
    if "SamplesPerPixel" not in header:  # as the reader assumes
        header.SamplesPerPixel = 1
    if not all(_WAYS.fullmatch(way) for way in pair(header, "PatientOrientation") or ("",)):
        header.pop("PatientOrientation", None)
    if header.get("SOPClassUID") in _MAY_HAVE_FRAMES:
        header.NumberOfFrames = 1
    if "NumberOfFrames" in header:  # highdicom reads this for every class of many frames
        header.SharedFunctionalGroupsSequence = [Dataset()]
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = pair(header, keyword)
        if not spacing or not all(math.isfinite(value) and value > 0 for value in map(float, spacing)):
            header.pop(keyword, None)
    if not _OFFSET.fullmatch(str(header.get("TimezoneOffsetFromUTC", ""))):
        header.pop("TimezoneOffsetFromUTC", None)
    _note_modality(header, reader)
    for keyword in _EMPTY_WHEN_ABSENT:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in ("M", "F", "O", ""):
        header.PatientSex = ""
    header.SpecificCharacterSet = "ISO_IR 192"
    return header


def pair(header: Dataset, keyword: str) -> MultiValue[Any] | None:
    """Return an attribute's value if it consists of two values, else None."""
    value = header.get(keyword)
    return value if isinstance(value, MultiValue) and len(value) == 2 else None


def _note_modality(header: Dataset, reader: Header) -> None:
    """Write the one transformation to modality values that the reader applies, a LUT or a complete rescale, or none."""
    slopes, intercepts = reader.numbers("RescaleSlope"), reader.numbers("RescaleIntercept")
    kind = header.get("RescaleType") or "US"  # "US" means unspecified
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        header.pop(keyword, None)
    if lut := _modality_lut(reader):
        header.ModalityLUTSequence = [lut]
    elif slopes or intercepts:
        slope, intercept = read_rescale(reader)
        header.RescaleSlope = DSfloat(slope, auto_format=True)
        header.RescaleIntercept = DSfloat(intercept, auto_format=True)
        header.RescaleType = kind


def _note_losses(header: Dataset, syntax: TransferSyntax, size: int) -> None:
    """Note whether the image was ever compressed with loss, as everything derived from it must (PS3.3 C.7.6.1.1.5)."""
    if header.get("LossyImageCompression") != "01" and syntax not in _LOSSY:
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            header.pop(keyword, None)
        return
    header.LossyImageCompression = "01"
    if not header.get("LossyImageCompressionRatio"):
        pixels = header.get("Rows", 0) * header.get("Columns", 0) * header.SamplesPerPixel
        header.LossyImageCompressionRatio = round(max(1.0, pixels / size), 2)  # a lower bound: 1 byte a sample
    if not header.get("LossyImageCompressionMethod") and syntax in _LOSSY:
        header.LossyImageCompressionMethod = _LOSSY[syntax]


def lut_item(first: int, entries: npt.NDArray[np.uint16]) -> Dataset:
    """Return an item of a LUT sequence with 16-bit entries. A first value below 0 makes it signed (PS3.3 C.11.1.1)."""
    count = len(entries) % 2**16
    descriptor = [count - 2**16 if first < 0 and count >= 2**15 else count, first, 16]
    item = Dataset()
    item.add(DataElement("LUTDescriptor", "SS" if first < 0 else "US", descriptor))
    item.add(DataElement("LUTData", "OW", entries.astype("<u2").tobytes()))
    return item


def _modality_lut(full: Header) -> Dataset | None:
    """Return the image's modality LUT in the form that a presentation state requires; None without a valid one."""
    for item in full.items("ModalityLUTSequence")[:1]:
        signed = 1 in full.words("PixelRepresentation")
        if lut := read_lut(item, np.array([-1.0 if signed else 0.0]), "modality LUT", full):
            written = lut_item(lut.first, lut.entries.astype(np.uint16))
            written.ModalityLUTType = item.text("ModalityLUTType")[:64] or "US"  # "US" means unspecified
            return written
    return None


def _valid(full: Dataset, keyword: str) -> DataElement | None:
    """Rebuild an element; return None if it is absent, too large, or against the rules of its value representation."""
    if bytes_beyond_reason(full, keyword):
        return None
    try:
        value = full[keyword].value if keyword in full else None
        kind = dictionary_VR(keyword)
        if value is None or (dictionary_VM(keyword) == "1" and isinstance(value, MultiValue)):
            return None
        if kind == "PN":
            value = _sound_name(str(value))
        elif isinstance(value, str) and kind not in _LONG_TEXTS and _CONTROL.search(value):
            return None
        return DataElement(full[keyword].tag, kind, value, validation_mode=RAISE)
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError, LookupError):
        return None


def _sound_name(name: str) -> str:
    """Return a person's name without invalid groups (alphabetic, ideographic, phonetic; PS3.5 6.2, PN)."""

    def is_sound(group: str) -> bool:
        return len(group) <= 64 and group.count("^") <= 4 and not _CONTROL.search(group)

    return "=".join(group if is_sound(group) else "" for group in name.split("=")[:3]).rstrip("=")
