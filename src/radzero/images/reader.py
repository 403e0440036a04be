"""The front door: any path, Pillow image or array to a :class:`Radiograph`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .dicom import read_dicom
from .dicom_header import sniff_dicom
from .radiograph import Radiograph, RadiographError, ReadLimits, Reason
from .raster import read_array, read_pil, read_raster, sniff_raster

_SNIFF_BYTES = 1024


def read_radiograph(
    source: str | os.PathLike[str] | Image.Image | NDArray[Any] | Radiograph,
    *,
    limits: ReadLimits | None = None,
) -> Radiograph:
    """Read one radiograph.

    Args:
        source: the path of a DICOM, PNG, JPEG, TIFF, BMP or WebP file (recognised by content, not by name), a
            Pillow image, a numpy array of display values (see :func:`~radzero.images.raster.read_array`), or
            a :class:`Radiograph`, which is returned as it is.
        limits: what a file may ask for; ``None`` for the defaults of :class:`ReadLimits`.

    Returns:
        float32 display values in 0..1 with bones bright, and every decision that led to them.

    Raises:
        RadiographError: with a :class:`Reason`, when the source is not one readable radiograph.
        TypeError: when ``source`` is of another type.
    """
    limits = limits or ReadLimits()
    if isinstance(source, Radiograph):
        return source
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or f"Pillow image ({source.mode} {source.width}x{source.height})")
        return read_pil(source, name, limits)
    if isinstance(source, np.ndarray):
        return read_array(source, f"numpy array {source.shape} {source.dtype}", limits)
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(source), limits)
    raise TypeError(
        f"a radiograph is a path, a Pillow image, a numpy array or a Radiograph, not {type(source).__name__}"
    )


def _read_path(path: Path, limits: ReadLimits) -> Radiograph:
    name = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise RadiographError(name, Reason.UNREADABLE, f"this is {what}", "Pass the path of one image file")
        if status.st_size > limits.max_file_bytes:
            raise RadiographError(
                name,
                Reason.TOO_LARGE,
                f"the file has {status.st_size:,} bytes, more than the limit of {limits.max_file_bytes:,}",
                f"If it is genuine, pass limits=ReadLimits(max_file_bytes={status.st_size})",
            )
        with path.open("rb") as file:
            return _read_file(file, status.st_size, name, limits)
    except FileNotFoundError as exc:
        raise RadiographError(name, Reason.NOT_FOUND, "no such file", "Check the path") from exc
    except (OSError, ValueError) as exc:
        if isinstance(exc, RadiographError):
            raise
        # permission denied, a name too long, a null byte in the name, a vanished network drive
        raise RadiographError(
            name, Reason.UNREADABLE, f"the file can not be opened ({exc})", "Check its name and permissions"
        ) from exc


def _read_file(file: BinaryIO, size: int, name: str, limits: ReadLimits) -> Radiograph:
    head = file.read(_SNIFF_BYTES)
    if not head:
        raise RadiographError(name, Reason.EMPTY, "the file is empty", "Copy or download it again")
    # DICOM first: its preamble may hold the signature of another format
    if head[128:132] == b"DICM":
        return read_dicom(file, name, limits)
    image_format = sniff_raster(head[:16])
    if image_format is not None:
        return read_raster(file, image_format, name, limits)
    if sniff_dicom(head, size):
        return read_dicom(file, name, limits)
    raise RadiographError(
        name,
        Reason.NOT_AN_IMAGE,
        "the content is neither DICOM nor PNG, JPEG, TIFF, BMP or WebP",
        "Pass a radiograph in one of these formats",
    )
