"""A small valid file of every format of the registry, for the tests that must hold for all of them."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from dicom_factory import dataset, dicom_bytes, to_bytes


def _pillow(name: str) -> Callable[[NDArray[np.uint8]], bytes]:
    def write(grey: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, name, **({"lossless": True} if name == "WEBP" else {}))
        return buffer.getvalue()

    return write


FILM_FILES: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    "DICOM": dicom_bytes,
    "PNG": _pillow("PNG"),
    "JPEG": _pillow("JPEG"),
    "TIFF": _pillow("TIFF"),
    "BMP": _pillow("BMP"),
    "WebP": _pillow("WEBP"),
    "DICOM without preamble": lambda grey: to_bytes(dataset(grey, ExplicitVRLittleEndian), with_meta=False),
}
"""Name of a format -> function that writes grey pixels (H, W) in it."""
