"""What results take from a film's DICOM header: who, which study, which image; read forgivingly, never the pixels."""

import os
import warnings
from io import BytesIO
from pathlib import Path

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from radzero.images import RadiographError, ReadLimits, Reason
from radzero.images.dicom_header import Header, open_dicom, sniff_dicom

IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Without these nothing can refer to a film."""
_CARRIED = (
    *IDENTITY,
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize"),
    *("PatientWeight", "PatientComments", "EthnicGroup", "PatientSpeciesDescription", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality"),
    *("PatientOrientation", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing"),
    *("ImagerPixelSpacing", "RescaleSlope", "RescaleIntercept", "RescaleType", "InstanceNumber", "SeriesNumber"),
    "Manufacturer",
)
_CARRIED_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
_EMPTY_WHEN_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)


class ResultError(ValueError):
    """A reading that cannot become a DICOM object; names the film, the cause and the remedy."""


def read_header(source: str | os.PathLike[str] | bytes, *, limits: ReadLimits | None = None) -> Dataset:
    """The attributes of a DICOM film that results repeat or refer to, in UTF-8.

    What is not valid by DICOM's own rules (a birth date that is no date) is left out, as if it were absent.

    Raises:
        RadiographError: when the file cannot be read.
        ResultError: when it is no DICOM file, or has no identity that a result could refer to.
    """
    name = f"{len(source):,} bytes" if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise RadiographError(name, Reason.UNREADABLE, f"the file can not be opened ({error})", "Check it") from error
    if not sniff_dicom(content[:1024], len(content)):
        raise ResultError(f"{name}: is no DICOM file, so there is no study that a DICOM result could belong to")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # irregular values, some of them names
        full = open_dicom(BytesIO(content), name, limits or ReadLimits()).header
        return _carried(full, name)


def _carried(full: Dataset, name: str) -> Dataset:
    full.decode()
    header = Dataset()
    for keyword in _CARRIED:
        if (element := _valid(full, keyword)) is not None:
            header.add(element)
    for keyword in _CARRIED_SEQUENCES:
        if items := Header(full, [], name).items(keyword):
            setattr(header, keyword, [item.dataset for item in items])
    for keyword in _EMPTY_WHEN_ABSENT:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in ("M", "F", "O", ""):
        header.PatientSex = ""
    missing = [keyword for keyword in IDENTITY if not header.get(keyword)]
    if missing:
        raise ResultError(f"{name}: the header has no valid {', '.join(missing)}, which a DICOM result must refer to")
    header.SpecificCharacterSet = "ISO_IR 192"
    return header


def _valid(full: Dataset, keyword: str) -> DataElement | None:
    """The element anew, or None when it is absent or breaks the rules of its value representation."""
    try:
        value = full[keyword].value if keyword in full else None
        return (
            None
            if value is None
            else DataElement(full[keyword].tag, dictionary_VR(keyword), value, validation_mode=RAISE)
        )
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError, LookupError):
        return None
