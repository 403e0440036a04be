"""Read any path, file content, Pillow image or array into a :class:`Radiograph`."""

from __future__ import annotations

import os
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .formats import SNIFF_BYTES, format_names, format_of
from .radiograph import Radiograph, RadiographError, ReadLimits, ReadOptions, Reason
from .raster import read_array, read_pil


def read_radiograph(
    source: str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Radiograph,
    *,
    limits: ReadLimits | None = None,
    name: str | None = None,
    keep_stored: bool = False,
    keep_header: bool = False,
) -> Radiograph:
    """Read one radiograph.

    Args:
        source: the path of a DICOM, PNG, JPEG, TIFF, BMP or WebP file (recognised by content, not by name), the
            content of one as bytes, a Pillow image, a numpy array of display values (see
            :func:`~radzero.images.raster.read_array`), or a :class:`Radiograph`, which is returned as it is.
        limits: limits beyond which a file is refused; ``None`` for the defaults of :class:`ReadLimits`.
        name: name of bytes, in the radiograph's ``source`` and in errors.
        keep_stored: keep a DICOM file's values before the window, for a viewer.
        keep_header: keep a DICOM file's whole header, for code that makes DICOM objects of a result. It names the
            patient.

    Returns:
        float32 display values in 0..1 with bones bright, and every decision that led to them.

    Raises:
        RadiographError: with a :class:`Reason`, when the source is not one readable radiograph.
        TypeError: when ``source`` is of another type.
    """
    options = ReadOptions(limits or ReadLimits(), keep_stored, keep_header)
    if isinstance(source, Radiograph):
        return source
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or f"Pillow image ({source.mode} {source.width}x{source.height})")
        return read_pil(source, name, options.limits)
    if isinstance(source, np.ndarray):
        return read_array(source, f"numpy array {source.shape} {source.dtype}", options.limits)
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(source), options)
    if isinstance(source, bytes):
        name = name or f"{len(source):,} bytes"
        _check_bytes(len(source), name, options.limits)
        return _read_file(BytesIO(source), len(source), name, options)
    raise TypeError(
        f"a radiograph is a path, bytes, a Pillow image, a numpy array or a Radiograph, not {type(source).__name__}"
    )


def _read_path(path: Path, options: ReadOptions) -> Radiograph:
    name = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise RadiographError(name, Reason.UNREADABLE, f"this is {what}", "Pass the path of one image file")
        _check_bytes(status.st_size, name, options.limits)
        with path.open("rb") as file:
            return _read_file(file, status.st_size, name, options)
    except FileNotFoundError as exc:
        raise RadiographError(name, Reason.NOT_FOUND, "no such file", "Check the path") from exc
    except (OSError, ValueError) as exc:
        if isinstance(exc, RadiographError):
            raise
        # the cause may be a missing permission, a name that is too long or has a null byte, or a lost network drive
        raise RadiographError(
            name, Reason.UNREADABLE, f"the file can not be opened ({exc})", "Check its name and permissions"
        ) from exc


def _check_bytes(size: int, name: str, limits: ReadLimits) -> None:
    if size > limits.max_file_bytes:
        raise RadiographError(
            name,
            Reason.TOO_LARGE,
            f"the file has {size:,} bytes, more than the limit of {limits.max_file_bytes:,}",
            f"If it is genuine, pass limits=ReadLimits(max_file_bytes={size})",
        )


def _read_file(file: BinaryIO, size: int, name: str, options: ReadOptions) -> Radiograph:
    head = file.read(SNIFF_BYTES)
    if not head:
        raise RadiographError(name, Reason.EMPTY, "the file is empty", "Copy or download it again")
    image_format = format_of(head, size)
    if image_format is None:
        known = format_names().replace("DICOM, ", "DICOM nor ", 1)
        raise RadiographError(
            name,
            Reason.NOT_AN_IMAGE,
            f"the content is neither {known}",
            "Pass a radiograph in one of these formats",
        )
    file.seek(0)
    return image_format.read(file, name, options)
