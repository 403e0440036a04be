"""Write a phantom as a DICOM file (Digital X-Ray Image Storage, for presentation)."""

import datetime
import hashlib
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from radzero.phantom.film import Film

_DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
_IMPLEMENTATION = "2.25.262118934371022331850441396046613716341"
_BITS = 12


def phantom_uid(*parts: object) -> str:
    """Return a UID under 2.25 that is always the same for the same parts."""
    digest = hashlib.sha256("/".join(map(str, ("radzero phantom", *parts))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def to_dataset(film: Film) -> Dataset:
    """Return the phantom as a DX object with 12-bit MONOCHROME2 pixels; it is deterministic, even in UIDs and dates."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = _DX_FOR_PRESENTATION
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _IMPLEMENTATION
    ds.SOPClassUID = _DX_FOR_PRESENTATION
    # the UID depends on the size, because the same phantom at another resolution is another image
    ds.SOPInstanceUID = phantom_uid(film.seed, film.index, film.pixels.shape, "instance")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID = phantom_uid(film.seed, film.index, "study")
    ds.SeriesInstanceUID = phantom_uid(film.seed, film.index, "series")
    taken = datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=film.index)
    for name in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, name, taken.strftime("%Y%m%d"))
    for name in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, name, taken.strftime("%H%M%S"))
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.PatientName = f"Phantom^{film.seed}-{film.index}"
    ds.PatientID = f"PHANTOM-{film.seed}-{film.index}"
    ds.PatientBirthDate = ""
    ds.PatientSex = film.body.sex
    ds.StudyID = str(film.index)
    ds.SeriesNumber = 1
    ds.InstanceNumber = 1
    ds.Modality = "DX"
    ds.Manufacturer = "RadZero"
    ds.ManufacturerModelName = "Phantom"
    ds.SoftwareVersions = "1"
    ds.DeviceSerialNumber = "0"
    ds.SeriesDescription = "Synthetic chest phantom, not a patient"
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = film.body.projection
    ds.ImageLaterality = "U"
    ds.PatientOrientation = ["L", "F"]
    ds.AnatomicRegionSequence = Sequence([_code("816094009", "SCT", "Chest")])
    view = ("272479007", "Postero-anterior") if film.body.projection == "PA" else ("399348003", "Antero-posterior")
    ds.ViewCodeSequence = Sequence([_code(view[0], "SCT", view[1])])
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([])
    ds.AcquisitionContextSequence = Sequence([])
    ds.PositionerType = ""
    ds.DetectorType = "DIRECT"
    ds.ImagerPixelSpacing = [f"{film.pixel_mm[0]:.6g}", f"{film.pixel_mm[1]:.6g}"]
    ds.PixelSpacing = list(ds.ImagerPixelSpacing)
    ds.PixelSpacingCalibrationType = "GEOMETRY"
    ds.PixelSpacingCalibrationDescription = "Sizes in the patient, known because the phantom is drawn"
    ds.BurnedInAnnotation = "YES"
    ds.LossyImageCompression = "00"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PresentationLUTShape = "IDENTITY"
    ds.Rows, ds.Columns = film.pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, _BITS, _BITS - 1, 0
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    full = 2**_BITS
    ds.WindowCenter, ds.WindowWidth = full // 2, full
    pixels = np.round(film.pixels * (full - 1)).astype("<u2")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def write_dicom(film: Film, path: Path) -> None:
    """Write the phantom as a DICOM file."""
    to_dataset(film).save_as(path, enforce_file_format=True)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
