"""Read raster and DICOM files into :class:`Radiograph`, and describe the geometry of preprocessing."""

from .radiograph import DicomFacts, Radiograph, RadiographError, ReadLimits, Reason
from .reader import read_radiograph

__all__ = ["DicomFacts", "Radiograph", "RadiographError", "ReadLimits", "Reason", "read_radiograph"]
